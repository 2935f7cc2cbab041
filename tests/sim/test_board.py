"""The host at a serial port of the computer: a pseudo-terminal with a simulated device at its other end."""

from __future__ import annotations

import os
import pty
import threading
import tty
from contextlib import closing

import pytest
from typer.testing import CliRunner

from sim import run
from sim.backends.pysim_line import PysimLine
from sim.bench import simulate
from sim.host.bus import BusError, run_now
from sim.host.serial_bus import PortLine, SerialBus
from tests.sim.stand_in import behind_a_link

pytest.importorskip("serial")
pytestmark = pytest.mark.rtl

DIVISOR = 4


def _serve(device, pins, terminal: int, over: threading.Event) -> None:
    """Simulate `device`, its line joined to a terminal, until `over`."""
    line = PysimLine(pins, DIVISOR)

    async def bench(ctx):
        line.attach(ctx)
        while not over.is_set():
            try:
                content = os.read(terminal, 4096)
            except BlockingIOError:
                content = b""
            await line.send(content)
            os.write(terminal, await line.receive(100e-6))

    simulate(device, bench, background=[line.listen], limit=10**9)


@pytest.fixture
def port():
    """Name of a serial port with eight words behind it."""
    m, link, _ = behind_a_link(DIVISOR)
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    os.set_blocking(ours, False)
    over = threading.Event()
    thread = threading.Thread(target=_serve, args=(m, link, ours, over))
    thread.start()
    yield os.ttyname(theirs)
    over.set()
    thread.join()
    os.close(ours)
    os.close(theirs)


def test_words_travel_through_a_serial_port(port):
    with closing(PortLine(port, clock_rate=1e6)) as line:
        bus = SerialBus(line, patience=20)
        run_now(bus.write_many(range(0, 16, 4), [1, 0xC0, 0xDB, 0xFFFFFFFF]))
        assert run_now(bus.read_many(range(0, 16, 4))) == [1, 0xC0, 0xDB, 0xFFFFFFFF]
        with pytest.raises(BusError, match="answered a read at address 0x0000100 with SLVERR"):
            run_now(bus.read(0x100))


def test_a_port_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="/dev/no-such-port: cannot be opened as a serial port"):
        PortLine("/dev/no-such-port", clock_rate=1e6)


@pytest.mark.parametrize("options", [["--backend", "pysim"], ["--waves", "x.vcd"], ["--crossbar", "noise"]])
def test_what_a_board_cannot_do_is_refused(options):
    done = CliRunner().invoke(run.app, ["image", "--serial", "/dev/ttyUSB0", *options])
    assert done.exit_code == 2
    assert done.stderr == ("error: --serial runs on a board, so --backend, --waves and --crossbar cannot go with it\n")
