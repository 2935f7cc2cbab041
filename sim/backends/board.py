"""A board behind a serial port in place of a simulator; the driver and the judging are the same."""

from __future__ import annotations

from contextlib import closing

from rtl.fpga.serial_layouts import BAUD
from sim.backends.choice import Report, Request
from sim.host.bus import run_now
from sim.host.serial_bus import PortLine, SerialBus
from sim.host.session import run_job

#: Clocks of the tile a second, for time limits: fewer than any board has, the array's own clocks taken off.
_CLOCK_RATE = 10e6


def run(request: Request, port: str, baud: int = BAUD) -> Report:
    """Run a job on the board at a serial port. Its clocks are those that the tile counts while it runs networks."""
    with closing(PortLine(port, _CLOCK_RATE, baud)) as line:
        outcome = run_now(run_job(SerialBus(line), request.image, request.job, request.progress))
    outcome.clocks, outcome.load_clocks = sum(result.cycles for result in outcome.results), 0
    return Report(outcome, 0.0)
