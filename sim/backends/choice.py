"""The simulators that can run a job on the generated hardware, behind one function each.

pysim     Amaranth's simulator on the Python description; slow, needs no other tool.
verilator the exported tile in cocotb on Verilator, with a behavioural crossbar in Python and a bus model
          that this project did not write.
compiled  exported Verilog, compiled by Verilator and clocked in C++: whole networks.

The crossbar is `None` for the digital stand-in inside `rtl.system` (pysim and compiled only), or
`CrossbarSettings` for a behavioural model behind the analog port of `rtl.tile`. One seed gives the same
device and the same noise in every backend, because all of them sample in the same order.
"""

from __future__ import annotations

import json
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from golden_model.image.image import Image
from rtl.system import System
from rtl.tile import Tile
from sim import bench
from sim.array.crossbars import CrossbarSettings, make_crossbar
from sim.backends import toolchain
from sim.host.bus import run_now
from sim.host.records import Recorder, TraceLayout
from sim.host.session import Job, Outcome, Progress, run_job


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything a backend needs.

    directory : the deployment image on disk; image : the same, read. crossbar : see the module.
    waves : waveform file to write, or None. progress : called with (stage, done, all).
    jobs : vectors that `compiled` may run side by side, with the emulated crossbar and no waveform; the results are
        those of one after the other.
    """

    directory: Path
    image: Image
    job: Job
    crossbar: CrossbarSettings | None = None
    waves: Path | None = None
    progress: Progress | None = None
    jobs: int = 1


@dataclass(frozen=True)
class Report:
    """A session's outcome and how long the backend's own preparation took, in seconds."""

    outcome: Outcome
    build_seconds: float


if TYPE_CHECKING:
    from sim.backends.compiled import Library

Backend = Callable[[Request], Report]


def device(request: Request) -> System | Tile:
    """The hardware to simulate: with the stand-in inside, or with the analog port open."""
    hardware = request.image.program.hardware
    return System(hardware) if request.crossbar is None else Tile(hardware)


# ---- pysim --------------------------------------------------------------------------------------
def pysim(request: Request) -> Report:
    """Amaranth's simulator."""
    from sim.backends.pysim import PysimBus, crossbar_processes, monitor

    began = time.perf_counter()
    dut = device(request)
    processes = []
    if request.crossbar is not None:
        processes = crossbar_processes(dut.crossbar, make_crossbar(request.image.program, request.crossbar))
    layout = TraceLayout.of(dut)
    recorder = None if layout is None else Recorder(layout)
    outcomes: list[Outcome] = []
    spent: list[float] = []

    async def testbench(ctx: Any) -> None:
        spent.append(time.perf_counter() - began)
        outcomes.append(await run_job(PysimBus(ctx, dut, recorder), request.image, request.job, request.progress))

    background = [] if recorder is None else [monitor(dut, recorder)]
    bench.simulate(dut, testbench, background=background, processes=processes, limit=10**12, waves=request.waves)
    return Report(outcomes[0], spent[0])


# ---- compiled -----------------------------------------------------------------------------------
def compiled(request: Request) -> Report:
    """Verilator's C++ as a shared library."""
    from sim.backends.compiled import CompiledBus, build

    began = time.perf_counter()
    if request.progress:
        request.progress("compiling", 0, 1)
    library = build(device(request), waves=request.waves is not None)
    build_seconds = time.perf_counter() - began
    jobs = min(request.jobs, len(request.job.indices))
    if jobs > 1 and request.crossbar is None and request.waves is None:
        return Report(_side_by_side(library, request, jobs), build_seconds)
    crossbar = None if request.crossbar is None else make_crossbar(request.image.program, request.crossbar)
    with CompiledBus(library, waves=request.waves, crossbar=crossbar) as bus:
        outcome = run_now(run_job(bus, request.image, request.job, request.progress))
    return Report(outcome, build_seconds)


def _side_by_side(library: Library, request: Request, jobs: int) -> Outcome:
    """Run a job on several instances of a library, a thread each: C++ runs without Python's lock.

    Positions are handed out in order, until the first difference, the first failure or Ctrl-C; the last two end what
    runs.
    """
    from sim.backends.compiled import CompiledBus, Stopped

    left, closed, over = iter(range(len(request.job.indices))), threading.Event(), threading.Event()
    taken: list[list[int]] = [[] for _ in range(jobs)]
    passed = [0] * jobs
    stages: queue.SimpleQueue[tuple[str, int, int]] = queue.SimpleQueue()

    def positions(number: int) -> Iterator[int]:
        for position in left:  # gives every number once, whichever thread asks
            if closed.is_set():
                return
            taken[number].append(position)
            yield position

    def run(number: int) -> Outcome:
        def progress(stage: str, done: int, total: int) -> None:
            passed[number] = done if stage == "running" else 0
            stages.put((stage, sum(passed) if stage == "running" else done, total))

        try:
            with CompiledBus(library, stop=over) as bus:
                outcome = run_now(run_job(bus, request.image, request.job, progress, positions(number)))
        except BaseException:
            closed.set()
            over.set()
            raise
        if outcome.difference is not None:
            closed.set()
        return outcome

    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(run, number) for number in range(jobs)]
        try:
            while not all(one.done() for one in running):
                with suppress(queue.Empty):
                    stage = stages.get(timeout=0.2)
                    if request.progress:
                        request.progress(*stage)
        except BaseException:
            closed.set()
            over.set()
            raise
    failures = [failure for one in running if (failure := one.exception()) is not None]
    if failures:
        raise next((failure for failure in failures if not isinstance(failure, Stopped)), failures[0])
    return _merged([one.result() for one in running], taken)


def _merged(outcomes: list[Outcome], taken: list[list[int]]) -> Outcome:
    """One outcome of several threads; `taken` tells which positions each ran. As if one had run them in order."""
    differing = [(places[-1], outcome) for outcome, places in zip(outcomes, taken, strict=True) if outcome.difference]
    end, first = min(differing, key=lambda pair: pair[0], default=(None, None))
    found = sorted(
        (
            (place, result)
            for outcome, places in zip(outcomes, taken, strict=True)
            for place, result in zip(places, outcome.results, strict=False)
            if end is None or place <= end
        ),
        key=lambda pair: pair[0],
    )
    return Outcome(
        results=[result for _, result in found],
        difference=first.difference if first else None,
        where=first.where if first else {},
        clocks=sum(outcome.clocks for outcome in outcomes),
        seconds=max(outcome.seconds for outcome in outcomes),
        load_clocks=outcomes[0].load_clocks,
        load_seconds=max(outcome.load_seconds for outcome in outcomes),
        notes=outcomes[0].notes,
    )


# ---- verilator ----------------------------------------------------------------------------------
def verilator(request: Request) -> Report:
    """cocotb on Verilator; always with a behavioural crossbar (ideal when none is given)."""
    from sim.backends.verilator import build, run_tests

    began = time.perf_counter()
    if request.progress:
        request.progress("compiling", 0, 1)
    directory = build(Tile(request.image.program.hardware), waves=request.waves is not None)
    build_seconds = time.perf_counter() - began
    if request.progress:
        request.progress("running", 0, len(request.job.indices))
    with tempfile.TemporaryDirectory(prefix="ohmloom-") as name:
        workspace = Path(name)
        outcome = workspace / "outcome.json"
        failures = run_tests(
            directory,
            "sim.backends.cocotb_session",
            environment={
                "OHMLOOM_IMAGE": str(request.directory.resolve()),
                "OHMLOOM_JOB": request.job.as_json(),
                "OHMLOOM_CROSSBAR": json.dumps(asdict(request.crossbar or CrossbarSettings())),
                "OHMLOOM_OUTCOME": str(outcome),
            },
            workspace=workspace,
            waves=request.waves is not None,
        )
        if failures or not outcome.exists():
            raise toolchain.ToolError(f"the cocotb run failed: {failures[0] if failures else 'it left no result'}")
        if request.waves is not None:
            shutil.move(workspace / "dump.vcd", request.waves)
        return Report(Outcome.from_json(outcome.read_text()), build_seconds)


BACKENDS: dict[str, Backend] = {"pysim": pysim, "verilator": verilator, "compiled": compiled}
