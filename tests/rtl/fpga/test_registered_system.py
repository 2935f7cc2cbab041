"""The system for FPGAs: the array needs clocks of its own, and nothing that the host sees tells of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtl.system import System
from sim.backends.pysim import PysimBus
from sim.bench import simulate
from sim.host.driver import Driver
from sim.host.session import Job, run_job
from tests.end_to_end.networks import SMALL, loaded
from tests.golden_model.random_graphs import random_images, random_network

pytestmark = pytest.mark.rtl


def _run(machine, job):
    """Run `job(driver, image)` on a registered system that a small network fits."""
    network = random_network(4, replace(SMALL, machine=machine), ("convolution", "max"), 3)
    image = loaded(network, random_images(4, network, 1))
    device = System(image.program.hardware, registered=True)

    async def bench(ctx):
        await job(PysimBus(ctx, device), image)

    simulate(device, bench, limit=100_000)


@pytest.mark.parametrize("machine", ["planes", "pairs"])
def test_results_events_and_cycles_are_those_of_an_array_that_is_always_ready(machine):
    outcomes = []

    async def job(bus, image):
        outcomes.append(await run_job(bus, image, Job((0,))))

    _run(machine, job)
    assert outcomes[0].difference is None


def test_every_access_is_answered_once_while_the_tile_stands_still_now_and_then():
    read = []

    async def job(bus, image):
        program, driver = image.program, Driver(bus, image.program.hardware)
        await driver.load(program.tables)
        await driver.write_input(image.vectors.images[0], program.image_base)
        await driver.write_register("LAYER_COUNT", layers=len(program.steps))
        await driver.write_register("CONTROL", start=1)
        while (await driver.read_register("STATUS"))["busy"]:
            await driver.identify()
            read.append(True)
        assert await driver.cycles() == image.vectors.cycles[0]

    _run("planes", job)
    assert len(read) > 20
