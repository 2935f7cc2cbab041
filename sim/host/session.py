"""What a simulation run does with the device, the same in every backend, and how it is judged.

A session identifies the device, loads the image, runs inputs and compares logits, event counters and
cycles with the golden model's. On the first difference it looks for the cause in the same session: step by step
against the interpreter of the program, and inside a crossbar step OU by OU along the trace port, if there is one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from golden_model.crossbar.layer import Layer
from golden_model.crossbar.mapping import LayerPlacement
from golden_model.crossbar.trace import OuRecord, window_trace
from golden_model.crossbar.windows import windows
from golden_model.image.image import Image
from golden_model.image.interpreter import Interpreter
from golden_model.registers import COUNTER_NAMES
from sim.backends import coverage, functional
from sim.host.bus import Bus, BusTimeout
from sim.host.driver import ChecksumError, DeviceError, Driver, poke_words
from sim.host.pair_trace import first_difference

#: Called with (stage, done, all); clocks while a network runs.
Progress = Callable[[str, int, int], None]


_CYCLES = COUNTER_NAMES.index("cycles")


@dataclass(frozen=True)
class Job:
    """What to run.

    indices : which vectors of the image. pokes : (address, word) bus writes after loading, to inject faults.
    judge : compare with the golden model and look for the cause of the first difference.
    waits : the array takes its time, so clocks are not compared.
    lenient : a wrong cell checksum is reported and does not end the run (non-ideal crossbars).
    """

    indices: tuple[int, ...]
    pokes: tuple[tuple[int, int], ...] = ()
    judge: bool = True
    lenient: bool = False
    waits: bool = False

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        values = json.loads(text)
        values["indices"] = tuple(values["indices"])
        values["pokes"] = tuple((int(a), int(w)) for a, w in values["pokes"])
        return cls(**values)


@dataclass
class ImageResult:
    """What the hardware answered to one vector: logits (N,), events (steps, counters), cycles; all plain integers."""

    index: int
    logits: list[int]
    events: list[list[int]]
    cycles: int
    seconds: float


@dataclass
class Outcome:
    """Results of a session.

    difference : sentence that names the first difference, None if there is none (or `judge` was off).
    where : its place as data (vector, step, node, window, ou, lane, ... as far as known).
    clocks, seconds : of the runs alone; load_clocks, load_seconds : of identifying and loading.
    notes : findings that do not end the run.
    """

    results: list[ImageResult] = field(default_factory=list)
    difference: str | None = None
    where: dict[str, Any] = field(default_factory=dict)
    clocks: int = 0
    seconds: float = 0.0
    load_clocks: int = 0
    load_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        values = json.loads(text)
        values["results"] = [ImageResult(**result) for result in values["results"]]
        return cls(**values)


async def run_job(
    bus: Bus, image: Image, job: Job, progress: Progress | None = None, positions: Iterable[int] | None = None
) -> Outcome:
    """Run a job on the device behind `bus`; DeviceError, BusError or BusTimeout when the device misbehaves.

    positions : which of the job's vectors, in order; None runs all. Of a difference, the last position taken.
    """
    program, outcome = image.program, Outcome()
    driver = Driver(bus, program.hardware)
    began, clocks = time.perf_counter(), bus.clocks
    await driver.identify()
    if progress:
        progress("loading", 0, 1)
    try:
        await driver.load(program.tables)
    except ChecksumError as error:
        if not job.lenient:
            raise
        outcome.notes.append(str(error))
    await bus.write_many(*poke_words(job.pokes))
    outcome.load_seconds, outcome.load_clocks = time.perf_counter() - began, bus.clocks - clocks
    total, ended = int(image.vectors.cycles[list(job.indices)].sum()), 0
    for position in range(len(job.indices)) if positions is None else positions:
        index = job.indices[position]
        expected = int(image.vectors.cycles[index])

        def running(passed: int, ended: int = ended) -> None:
            if progress:
                progress("running", ended + passed, total)

        running(0)
        began, clocks = time.perf_counter(), bus.clocks
        try:
            run = await driver.run(
                program, image.vectors.images[index], expected_cycles=expected, progress=progress and running
            )
        except (DeviceError, BusTimeout) as error:
            if not job.judge:
                raise
            sentence, where = await locate(driver, image, index)
            outcome.difference = f"vector {index}: {error}. {sentence}"
            outcome.where = {"vector": index, **where}
            break
        ended += expected
        seconds = time.perf_counter() - began
        outcome.clocks += bus.clocks - clocks
        outcome.seconds += seconds
        assert run.logits is not None
        outcome.results.append(
            ImageResult(index, run.logits.tolist(), run.events.counts.tolist(), run.cycles, round(seconds, 6))
        )
        if job.judge:
            found = compare(image, outcome.results[-1], clocks=not job.waits)
            if found is not None:
                sentence, where = await locate(driver, image, index)
                outcome.difference = f"vector {index}: {found}. {sentence}"
                outcome.where = {"vector": index, **where}
                break
    if progress:
        progress("running", ended, total)
    if (gathered := coverage.folder()) is not None and job.judge and outcome.difference is None and outcome.results:
        functional.note(program, gathered, waits=job.waits, pauses=bus.pauses > 0)
    return outcome


def compare(image: Image, result: ImageResult, clocks: bool = True) -> str | None:
    """The first difference from the golden model: logits, then events in step order, then cycles; None if equal."""
    events, cycles = np.array(result.events), result.cycles
    if not clocks:
        events[:, _CYCLES] = image.vectors.events.counts[result.index][:, _CYCLES]
        cycles = int(image.vectors.cycles[result.index])
    return image.difference(result.index, result.logits, events, cycles)


# ---- looking for the cause ----------------------------------------------------------------------
async def locate(driver: Driver, image: Image, index: int) -> tuple[str, dict[str, Any]]:
    """Name the first place where hardware and golden model differ on one vector.

    Runs ever more steps of the program until one's output or counters differ from the interpreter's, then compares
    the trace of that step OU by OU if it uses crossbars and the device has a trace port. Returns a sentence and the
    place as data.
    """
    program, pixels = image.program, image.vectors.images[index]
    golden = Interpreter.of(program).trace(pixels[None])
    cycles = golden.events.cycles[0].cumsum()
    for number, step in enumerate(program.steps):
        expected, counts = golden.outputs[number][0], golden.events.counts[0, number]
        where: dict[str, Any] = {"step": step.name, "node": step.node, "step_index": number}
        begin = f"First difference in {step.title}"

        async def again(number: int = number) -> Any:
            return await driver.run(program, pixels, steps=number + 1, expected_cycles=int(cycles[number]))

        try:
            run = await again()
        except (DeviceError, BusTimeout) as error:
            made, failure = None, f"; {error}"
            found = None
        else:
            made, failure = await driver.activations(step), ""
            found = run.events.counts[number]
            if (made == expected).all() and (found == counts).all():
                continue
        if step.layer is None:
            known = "it uses no crossbar"
        elif driver.bus.traces:
            driver.bus.trace(True, step=number)
            with suppress(DeviceError, BusTimeout):
                await again()
            records = driver.bus.records()
            driver.bus.trace(False)
            place = first_record(image, number, pixels, records)
            if place is not None:
                return f"{begin}, {place[0]}{failure}", {**where, **place[1]}
            known = "every A/D conversion agrees"
        else:
            known = "this machine has no trace port, which would name the operation unit"
        if made is not None and (made != expected).any():
            spot = [int(i) for i in np.argwhere(made != expected)[0]]
            names = ("channel", "row", "column") if made.ndim == 3 else ("output",)
            text = ", ".join(f"{name} {i}" for name, i in zip(names, spot, strict=True))
            differs = f"{text} is {made[tuple(spot)]} instead of {expected[tuple(spot)]}"
            if step.layer is None or driver.bus.traces:
                differs += " (what it reads, post-processing or where it writes)"
            return f"{begin}: {differs}; {known}", {**where, **dict(zip(names, spot, strict=True))}
        if found is not None:
            wrong = ", ".join(
                f"{COUNTER_NAMES[i]} {found[i]} instead of {counts[i]}" for i in np.flatnonzero(found != counts)
            )
            return f"{begin}: every output agrees, but the counters do not: {wrong}; {known}", where
        return f"{begin}: it does not finish{failure}; {known}", where
    return "Running the steps again, ever more of them, shows no difference: it is not repeatable, or not in a step", {}


def first_record(
    image: Image, number: int, pixels: np.ndarray, records: dict[str, np.ndarray]
) -> tuple[str, dict[str, Any]] | None:
    """First OU activation of a crossbar step whose trace is not the golden one; None if all agree.

    pixels : the image, uint8 (C, H, W). records : the step's trace, by field (see `sim.host.records`).
    """
    at, available, hardware = 0, len(records["valid"]), image.program.hardware
    if hardware.pairs:
        _, placed, rows = _step_windows(image, number, pixels)
        return first_difference(image.program.steps[number], hardware, placed.crossbar_base, rows, records)
    for window, golden in step_trace(image, number, pixels):
        place = {"window": window, "ou": golden.index}
        if at >= available:
            return f"window {window}, OU {golden.index}: the hardware did not activate it", place
        difference = _record_difference(golden, records, at)
        if difference is not None:
            sentence, more = difference
            return f"window {window}, OU {golden.index}: {sentence}", {**place, **more}
        at += 1
    if at < available:
        return f"after the last window: the hardware activated {available - at} OUs too many", {}
    return None


def step_trace(image: Image, number: int, pixels: np.ndarray) -> Iterator[tuple[int, OuRecord]]:
    """(window, OU activation) of a crossbar step of a machine of planes in the hardware's order, on one image."""
    layer, placed, rows = _step_windows(image, number, pixels)
    for window, row in enumerate(rows):
        for golden in window_trace(layer, image.program.hardware, placed, row):
            yield window, golden


def _step_windows(image: Image, number: int, pixels: np.ndarray) -> tuple[Layer, LayerPlacement, np.ndarray]:
    """Layer of a crossbar step, where it lies, and what its windows (windows, K) read of one image, uint8 (C, H, W)."""
    program, step = image.program, image.program.steps[number]
    layer = step.layer
    if layer is None:
        raise ValueError(f"step {step.name} uses no crossbar")
    placed = program.placement.layers[sum(before.layer is not None for before in program.steps[:number])]
    memory = Interpreter.of(program, steps=number + 1).memory_before(pixels[None], number)[0]
    source, shape = step.fields["source"], (layer.channels, layer.height, layer.width)
    maps = memory[source : source + int(np.prod(shape))].reshape(1, *shape)
    return layer, placed, windows(layer, maps)[0]


def _record_difference(golden: OuRecord, records: dict[str, np.ndarray], at: int) -> tuple[str, dict[str, Any]] | None:
    for name in ("segment", "input_bit", "block_col", "plane", "pair", "ou_row", "ou_col"):
        found, wanted = int(records[name][at]), getattr(golden, name)
        if found != wanted:
            return f"{name} is {found} instead of {wanted}", {"field": name, "found": found, "expected": wanted}
    started = golden.started.astype(bool)
    for name, mask in (("started", None), ("range_flags", started), ("codes", started)):
        found, wanted = records[name][at], np.asarray(getattr(golden, name)).astype(np.int64)
        different = found != wanted if mask is None else (found != wanted) & mask
        if different.any():
            lane = int(np.flatnonzero(different)[0])
            half = len(found) // 2
            return (
                f"lane {lane} (column {lane % half}, {'negative' if lane >= half else 'positive'} array): "
                f"{name} is {found[lane]} instead of {wanted[lane]}",
                {"lane": lane, "field": name, "found": int(found[lane]), "expected": int(wanted[lane])},
            )
    return None
