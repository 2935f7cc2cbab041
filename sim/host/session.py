"""What a simulation run does with the device, the same in every backend, and how it is judged.

A session identifies the device, loads the image, runs inputs and compares logits, event counters and
cycles with the golden model's. On the first difference it looks for the cause in the same session:
layer by layer, then OU by OU along the trace port.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from golden_model.crossbar.trace import OuRecord, window_trace
from golden_model.crossbar.windows import windows
from golden_model.engines.chain import Runner
from golden_model.image.image import Image
from golden_model.registers import COUNTER_NAMES
from sim.host.bus import Bus, BusTimeout
from sim.host.driver import ChecksumError, DeviceError, Driver, poke_words

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Job:
    """What to run.

    indices : which vectors of the image. pokes : (address, word) bus writes after loading, to inject faults.
    judge : compare with the golden model and look for the cause of the first difference.
    lenient : a wrong cell checksum is reported and does not end the run (non-ideal crossbars).
    """

    indices: tuple[int, ...]
    pokes: tuple[tuple[int, int], ...] = ()
    judge: bool = True
    lenient: bool = False

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
    """What the hardware answered to one vector: logits (N,), events (layers, counters), cycles; all plain integers."""

    index: int
    logits: list[int]
    events: list[list[int]]
    cycles: int
    seconds: float


@dataclass
class Outcome:
    """Results of a session.

    difference : sentence that names the first difference, None if there is none (or `judge` was off).
    where : its place as data (layer, window, ou, lane, ... as far as known).
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


async def run_job(bus: Bus, image: Image, job: Job, progress: Progress | None = None) -> Outcome:
    """Run a job on the device behind `bus`; DeviceError, BusError or BusTimeout when the device misbehaves."""
    driver, network, outcome = Driver(bus, image.network.hardware), image.network, Outcome()
    began, clocks = time.perf_counter(), bus.clocks
    await driver.identify()
    if progress:
        progress("loading", 0, 1)
    try:
        await driver.load(image.tables)
    except ChecksumError as error:
        if not job.lenient:
            raise
        outcome.notes.append(str(error))
    await bus.write_many(*poke_words(job.pokes))
    outcome.load_seconds, outcome.load_clocks = time.perf_counter() - began, bus.clocks - clocks
    outputs = network.layers[-1].outputs
    for done, index in enumerate(job.indices):
        if progress:
            progress("running", done, len(job.indices))
        began, clocks = time.perf_counter(), bus.clocks
        expected = int(image.vectors.cycles[index])
        try:
            run = await driver.run(image.vectors.images[index], len(network.layers), outputs, expected_cycles=expected)
        except (DeviceError, BusTimeout) as error:
            if not job.judge:
                raise
            outcome.difference = f"vector {index}: {error}"
            outcome.where = {"vector": index}
            break
        seconds = time.perf_counter() - began
        outcome.clocks += bus.clocks - clocks
        outcome.seconds += seconds
        assert run.logits is not None
        outcome.results.append(
            ImageResult(index, run.logits.tolist(), run.events.counts.tolist(), run.cycles, round(seconds, 6))
        )
        if job.judge:
            found = compare(image, outcome.results[-1])
            if found is not None:
                sentence, where = await locate(driver, image, index)
                outcome.difference = f"vector {index}: {found}. {sentence}"
                outcome.where = {"vector": index, **where}
                break
    if progress:
        progress("running", len(job.indices), len(job.indices))
    return outcome


def compare(image: Image, result: ImageResult) -> str | None:
    """The first difference from the golden model: logits, then events in layer order, then cycles; None if equal."""
    vectors, index = image.vectors, result.index
    logits = np.array(result.logits)
    if (logits != vectors.logits[index]).any():
        lane = int(np.flatnonzero(logits != vectors.logits[index])[0])
        return f"logit {lane} is {logits[lane]} instead of {vectors.logits[index, lane]}"
    events, expected = np.array(result.events), vectors.events.counts[index]
    if (events != expected).any():
        layer, counter = (int(i) for i in np.argwhere(events != expected)[0])
        return (
            f"event counter {COUNTER_NAMES[counter]} of layer {image.network.layers[layer].name} is "
            f"{events[layer, counter]} instead of {expected[layer, counter]}"
        )
    if result.cycles != vectors.cycles[index]:
        return f"the run took {result.cycles} clocks instead of {vectors.cycles[index]}"
    return None


# ---- looking for the cause ----------------------------------------------------------------------
async def locate(driver: Driver, image: Image, index: int) -> tuple[str, dict[str, Any]]:
    """Name the first place where hardware and golden model differ on one vector.

    Runs ever more layers until one's output or counters differ, then compares its trace OU by OU.
    Returns a sentence and the place as data.
    """
    network = image.network
    pixels = image.vectors.images[index]
    outputs, events = Runner(network).run_layers(pixels[None])
    inputs = pixels
    for number, layer in enumerate(network.layers):
        count = number + 1
        cycles = int(events.cycles[0, :count].sum())
        where: dict[str, Any] = {"layer": layer.name, "layer_index": number}
        expected = outputs[number][0]
        driver.bus.trace(True)
        try:
            run = await driver.run(pixels, count, layer.outputs if layer.last else None, expected_cycles=cycles)
        except (DeviceError, BusTimeout) as error:
            run, failure = None, f"; {error}"
        else:
            failure = ""
        records = driver.bus.records()
        driver.bus.trace(False)
        made = None
        if run is not None:
            made = run.logits if layer.last else await driver.activations(count, expected.shape)
            if (made == expected).all() and (run.events.counts[number] == events.counts[0, number]).all():
                inputs = expected
                continue
        first = int(events.ou_activations[0, :number].sum())
        found = _first_record(image, number, inputs, {name: array[first:] for name, array in records.items()})
        if found is not None:
            sentence, place = found
            return f"First difference in layer {layer.name}, {sentence}{failure}", {**where, **place}
        if made is not None and (made != expected).any():
            spot = [int(i) for i in np.argwhere(made != expected)[0]]
            got, wanted = made[tuple(spot)], expected[tuple(spot)]
            names = ["output", "row", "column"][: len(spot)]
            text = ", ".join(f"{name} {i}" for name, i in zip(names, spot, strict=True))
            return (
                f"First difference in layer {layer.name}: every A/D conversion agrees, but {text} is {got} "
                f"instead of {wanted} (accumulation or post-processing){failure}",
                {**where, **dict(zip(names, spot, strict=True))},
            )
        if run is not None:
            wrong = np.flatnonzero(run.events.counts[number] != events.counts[0, number])
            names = ", ".join(
                f"{COUNTER_NAMES[i]} {run.events.counts[number, i]} instead of {events.counts[0, number, i]}"
                for i in wrong
            )
            return (
                f"First difference in layer {layer.name}: every A/D conversion and every output agree, but the "
                f"counters do not: {names}",
                where,
            )
        return f"Layer {layer.name} does not finish, though its A/D conversions agree{failure}", where
    return "Running the layers again, one by one, shows no difference: the fault is not repeatable", {}


def _first_record(
    image: Image, number: int, inputs: np.ndarray, records: dict[str, np.ndarray]
) -> tuple[str, dict[str, Any]] | None:
    """First OU activation of a layer whose trace record is not the golden one; None if all agree."""
    network, layer = image.network, image.network.layers[number]
    placed = image.placement.layers[number]
    shaped = inputs.reshape(1, layer.channels, layer.height, layer.width)
    at, available = 0, len(records["valid"])
    for window, rows in enumerate(windows(layer, shaped)[0]):
        for golden in window_trace(layer, network.hardware, placed, rows):
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
