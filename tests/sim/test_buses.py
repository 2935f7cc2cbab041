"""Each simulator's bus on the same small device: accesses, error answers, time limits, trace, waveforms."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from amaranth.hdl import Module, Signal

from golden_model.config import PAPER, TINY
from rtl import generate
from rtl.system import System
from rtl.tile import Tile
from sim.backends import compiled, toolchain, verilator
from sim.backends.pysim import PysimBus
from sim.bench import simulate
from sim.host.bus import BusError, BusTimeout, run_now
from sim.host.records import TraceLayout
from tests import bench
from tests.sim.stand_in import COUNTER, StandIn

pytestmark = [pytest.mark.rtl, pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")]


async def exercise(bus):
    """What every bus must do; raises AssertionError otherwise."""
    addresses, words = [0, 4, 8, 28], [1, 0xFFFFFFFF, 0x80000000, 12345]
    await bus.write_many(addresses, words)
    assert await bus.read_many(addresses) == words
    await bus.write(4, 7)
    assert await bus.read(4) == 7
    for access, kind in ((bus.read(0x100), "read"), (bus.write(0x104, 1), "write")):
        with pytest.raises(BusError, match=f"answered a {kind} at address 0x000010[04] with SLVERR"):
            await access
    assert await bus.read(0) == 1
    before = bus.clocks
    await bus.wait(100)
    assert bus.clocks == before + 100
    # The counter follows the clock, so a poll must see it move and stop in time.
    await bus.write(COUNTER, 0)
    word = await bus.poll(COUNTER, 0xFFFFFF00, 0x100, limit=1000, interval=4)
    assert 0x100 <= word < 0x200
    assert bus.interrupts
    await bus.write(COUNTER, 0)
    with pytest.raises(BusTimeout, match="there was no interrupt within 100 clocks"):
        await bus.interrupt(100)
    before = bus.clocks
    await bus.interrupt(1000)
    assert 100 < bus.clocks - before < 170
    await bus.interrupt(1)
    with pytest.raises(BusTimeout, match="still reads 0x00000007 after 300 clocks"):
        await bus.poll(4, 0xFFFFFFFF, 8, limit=300)


def test_bus_in_amaranths_simulator():
    dut = StandIn()

    async def testbench(ctx):
        await exercise(PysimBus(ctx, dut))

    simulate(dut, testbench, limit=10_000)


def test_bus_of_the_compiled_simulation():
    with compiled.CompiledBus(compiled.build(StandIn())) as bus:
        run_now(exercise(bus))


def test_a_host_that_pauses_on_every_channel_is_served_the_same_and_takes_longer():
    clocks = []
    for pauses in (0.0, 0.5):
        with compiled.CompiledBus(compiled.build(StandIn()), pauses=pauses) as bus:
            begin = bus.clocks
            run_now(bus.write_many([0, 4] * 100, range(200)))
            assert run_now(bus.read_many([0, 4] * 100)) == [198, 199] * 100
            clocks.append(bus.clocks - begin)
    assert clocks[1] > 1.5 * clocks[0]


def test_bus_in_cocotb(tmp_path):
    assert not verilator.run_tests(
        verilator.build(StandIn()), "tests.sim.stand_in_session", environment={}, workspace=tmp_path
    )


class Clocked(StandIn):
    """Has a clock and never answers."""

    def elaborate(self, platform):
        m = Module()
        m.d.sync += Signal(name="idle").eq(1)
        return m


def test_a_device_that_never_answers_times_out():
    dut, met = Clocked(), []

    async def testbench(ctx):
        for access in (PysimBus(ctx, dut).read(8), PysimBus(ctx, dut).write(8, 1)):
            with pytest.raises(BusTimeout, match=r"did not answer a .* at address 0x0000008"):
                await access
            met.append(True)

    simulate(dut, testbench, limit=30_000)
    assert len(met) == 2


def test_trace_records_arrive_with_every_field_and_only_while_recording():
    with compiled.CompiledBus(compiled.build(StandIn())) as bus:
        run_now(bus.write(0, 5))
        bus.trace(True)
        run_now(bus.write_many([4, 28], [0x7FFF, 0b0110]))
        bus.trace(False)
        run_now(bus.write(8, 9))
        records = bus.records()
    assert records["layer"].tolist() == [1, 7]
    assert records["started"].tolist() == [[1, 1, 1, 1], [0, 1, 1, 0]]
    assert records["codes"].tolist() == [[0x7FFF, 0, 1, 2], [6, 7, 8, 9]]


def test_trace_records_of_other_steps_are_left_out():
    with compiled.CompiledBus(compiled.build(StandIn())) as bus:
        bus.trace(True, step=2)
        run_now(bus.write_many([0, 8, 12, 8], [1, 2, 3, 4]))
        records = bus.records()
    assert records["layer"].tolist() == [2, 2]
    assert records["codes"][:, 0].tolist() == [2, 4]


def test_a_bus_that_is_told_to_stop_ends_what_runs():
    stop = threading.Event()
    with compiled.CompiledBus(compiled.build(StandIn()), stop=stop) as bus:
        threading.Timer(0.1, stop.set).start()
        with pytest.raises(compiled.Stopped):
            run_now(bus.poll(0, 1, 1, limit=100_000_000))


class Unconnected(StandIn):
    """Nothing inside: a bench can drive the outputs."""

    def elaborate(self, platform):
        return Module()


def test_trace_layout_decodes_what_amaranth_packs():
    dut, decoded = Unconnected(), []
    layout = TraceLayout.of(dut)
    assert layout is not None
    value = {"valid": 1, "layer": 21, "started": 0b1010, "codes": [1, 0x7FFF, 0x4000, 3]}

    async def testbench(ctx):
        bench.put(ctx, dut.trace, value)
        assert ctx.get(layout.strobe(dut)) == 1
        decoded.append(layout.decode(layout.to_words([ctx.get(layout.value(dut))] * 2)))

    simulate(dut, testbench)
    assert decoded[0]["codes"].tolist() == [value["codes"]] * 2
    assert decoded[0]["started"].tolist() == [[0, 1, 0, 1]] * 2
    assert decoded[0]["layer"].tolist() == [21, 21]


def test_a_second_build_comes_from_the_cache(monkeypatch):
    compiled.build(StandIn())
    monkeypatch.setattr(toolchain.Tools, "call", lambda *a, **k: pytest.fail("built again"))
    assert not compiled.build(StandIn()).built


@pytest.mark.parametrize("damage", ["halved", "changed", "removed"])
def test_a_damaged_library_is_built_again(damage):
    path = compiled.build(StandIn()).path
    data = path.read_bytes()
    path.unlink()  # what has it open goes on with the old one
    if damage == "halved":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        path.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    library = compiled.build(StandIn())
    assert library.built
    with compiled.CompiledBus(library) as bus:
        run_now(bus.write(4, 7))
        assert run_now(bus.read(4)) == 7


def processes_about(place):
    """Command lines of running programs that mention a path."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if str(place).encode() in line:
                found.append(line.replace(b"\0", b" ").decode())
    return found


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_a_build_that_is_stopped_leaves_no_process_and_the_next_one_removes_its_folder(stop, tmp_path):
    environment = {**os.environ, "OHMLOOM_BUILD": str(tmp_path)}
    code = "from sim.backends.compiled import build; from tests.sim.stand_in import StandIn; build(StandIn())"
    builder = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )
    wait_until(lambda: any("cc1plus" in line for line in processes_about(tmp_path)))
    builder.send_signal(stop)
    assert builder.wait(30) != 0
    wait_until(lambda: not processes_about(tmp_path), 10)
    left = [path for path in (tmp_path / "sim").iterdir() if path.is_dir()]
    assert len(left) == (0 if stop == signal.SIGINT else 1)
    with mock.patch.dict(os.environ, environment), toolchain.build_lock("another"):
        assert not [path for path in (tmp_path / "sim").iterdir() if path.is_dir()]


def test_an_installed_package_builds_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("OHMLOOM_BUILD", raising=False)
    assert toolchain.build_root() == Path(__file__).resolve().parents[2] / "build" / "sim"
    installed = tmp_path / "site-packages" / "sim" / "backends" / "toolchain.py"
    monkeypatch.setattr(toolchain, "__file__", str(installed))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert toolchain.build_root() == tmp_path / ".cache" / "ohmloom" / "sim"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert toolchain.build_root() == tmp_path / "other" / "ohmloom" / "sim"


def test_a_failed_build_leaves_nothing_and_names_the_log(tmp_path, monkeypatch):
    monkeypatch.setenv("OHMLOOM_BUILD", str(tmp_path))
    monkeypatch.setattr(compiled, "_VERILATOR_OPTIONS", ("--no-such-option",))
    with pytest.raises(toolchain.ToolError, match=r"verilator failed with status .*\(see .*\.log\)"):
        compiled.build(StandIn())
    assert {path.suffix for path in (tmp_path / "sim").iterdir()} == {".lock", ".log"}


def test_missing_compiler_is_one_clear_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("OHMLOOM_BUILD", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(toolchain.ToolError, match=r"g\+\+ and perl not found on PATH: .* or use --backend pysim"):
        compiled.build(StandIn())
    with pytest.raises(toolchain.ToolError, match=r"g\+\+, make and perl not found on PATH"):
        verilator.build(StandIn())


@pytest.mark.slow
def test_waveforms_are_written(tmp_path):
    library = compiled.build(StandIn(), waves=True)
    with compiled.CompiledBus(library, waves=tmp_path / "w.vcd") as bus:
        run_now(bus.write(0, 5))
    text = (tmp_path / "w.vcd").read_text()
    assert "s_axil_awaddr" in text
    assert "$enddefinitions" in text


def test_waveforms_need_a_library_built_for_them(tmp_path):
    with pytest.raises(OSError, match="cannot write waveforms"):
        compiled.CompiledBus(compiled.build(StandIn()), waves=tmp_path / "w.vcd")


def test_words_outside_32_bits_are_refused():
    with compiled.CompiledBus(compiled.build(StandIn())) as bus:
        with pytest.raises(ValueError, match=r"must be in 0\.\.4294967295"):
            run_now(bus.write(0, 1 << 32))
        with pytest.raises(ValueError, match="2 addresses for 1 words"):
            run_now(bus.write_many(np.array([0, 4]), [1]))


def test_signals_called_trace_are_renamed_and_nothing_else():
    text = "  wire trace;\n  wire [3:0] trace_port_index;\n  wire \\trace__valid ;\n"
    assert compiled.for_verilator(text) == text.replace("wire trace;", "wire trace_port;")


def test_the_key_of_this_projects_hardware_needs_no_verilog(monkeypatch):
    monkeypatch.setattr(compiled, "export", lambda *a: pytest.fail("written as Verilog"))
    keys = {compiled.design_key(kind(config)) for kind in (System, Tile) for config in (TINY, PAPER)}
    assert len(keys) == 4
    assert compiled.design_key(System(TINY)) in keys


def test_the_key_of_this_projects_hardware_changes_with_its_sources(tmp_path, monkeypatch):
    root = Path(generate.__file__).resolve().parents[1]
    for folder in ("rtl", "golden_model"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = compiled.design_key(System(TINY))
    monkeypatch.setattr(generate, "__file__", str(tmp_path / "rtl" / "generate.py"))
    assert compiled.design_key(System(TINY)) == before
    for name in ("rtl/trq_sar.py", "golden_model/registers.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "# changed\n")
        assert compiled.design_key(System(TINY)) != before
        before = compiled.design_key(System(TINY))
