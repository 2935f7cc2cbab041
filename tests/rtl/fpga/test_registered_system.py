"""The system for FPGAs: the array needs clocks of its own, and nothing that the host sees tells of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtl.system import System
from sim.backends.pysim import PysimBus
from sim.bench import simulate
from sim.host.session import Job, run_job
from tests.end_to_end.networks import SMALL, loaded
from tests.golden_model.random_graphs import random_images, random_network

pytestmark = pytest.mark.rtl


@pytest.mark.parametrize("machine", ["planes", "pairs"])
def test_results_events_and_cycles_are_those_of_an_array_that_is_always_ready(machine):
    network = random_network(4, replace(SMALL, machine=machine), ("convolution", "max"), 3)
    image = loaded(network, random_images(4, network, 1))
    device, outcomes = System(image.program.hardware, registered=True), []

    async def bench(ctx):
        outcomes.append(await run_job(PysimBus(ctx, device), image, Job((0,))))

    simulate(device, bench, limit=100_000)
    assert outcomes[0].difference is None
