"""Networks on hardware for whole-machine tests: programs with expected vectors, and one compiled design a machine."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph
from golden_model.image.image import Image, Vectors
from golden_model.image.interpreter import Interpreter
from golden_model.image.program import Program, plan
from rtl.system import System
from rtl.tile import Tile
from sim.array.crossbars import CrossbarSettings, make_crossbar
from sim.backends.compiled import CompiledBus, Library, build
from sim.host.bus import run_now
from sim.host.session import Job, Outcome, run_job
from tests.golden_model.random_graphs import NINE, SMALL

#: 80 lanes of 5-bit ADCs: the ports of the analog macro are wider than any machine word.
WIDE = replace(SMALL, rows=20, cols=80, ou_rows=10, ou_cols=40, adc_bits=5, crossbar_pairs=64)
#: The array accepts a sample every fifth clock.
SLOW = replace(SMALL, sample_interval=5)

__all__ = ["NINE", "SLOW", "SMALL", "WIDE"]


def loaded(network: Graph, images: np.ndarray) -> Image:
    """A deployment image that was never written.

    images : uint8 (B, C, H, W). Logits are the network's own; events and clocks come from the interpreter.
    """
    program = plan(network)
    logits, _ = GraphRunner(network).run(images)
    made, events = Interpreter.of(program).run(images)
    assert (made == logits).all(), "runner and interpreter differ"
    labels, cycles = np.full(len(images), -1), events.cycles.sum(axis=1)
    return Image(network, program, Vectors(images, labels, logits, events, cycles), {})


@cache
def library(hardware: HardwareConfig, analog: bool) -> Library:
    """The compiled design of a machine."""
    return build(Tile(hardware) if analog else System(hardware))


def run(
    image: Image,
    job: Job | None = None,
    crossbar: CrossbarSettings | None = None,
    busy: float = 0.0,
    pauses: float = 0.0,
) -> Outcome:
    """Run vectors of an image (all by default) on its compiled machine. busy, pauses : as for `CompiledBus`."""
    program: Program = image.program
    array = None if crossbar is None else make_crossbar(program, crossbar)
    design = library(program.hardware, crossbar is not None)
    with CompiledBus(design, crossbar=array, busy=busy, pauses=pauses) as bus:
        return run_now(run_job(bus, image, job or Job(tuple(range(len(image.vectors.images))))))


def assert_equal(image: Image, outcome: Outcome, indices: tuple[int, ...] | None = None) -> None:
    """Logits, every event counter and clocks of all vectors are the golden model's."""
    assert outcome.difference is None, outcome.difference
    chosen = list(range(len(image.vectors.images)) if indices is None else indices)
    assert [r.index for r in outcome.results] == chosen
    assert [r.logits for r in outcome.results] == image.vectors.logits[chosen].tolist()
    assert [r.events for r in outcome.results] == image.vectors.events.counts[chosen].tolist()
    assert [r.cycles for r in outcome.results] == image.vectors.cycles[chosen].tolist()
