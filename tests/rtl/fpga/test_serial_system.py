"""A whole machine behind a serial line."""

from __future__ import annotations

import pytest

from golden_model.config import TINY
from rtl.fpga.serial_system import SerialSystem
from sim.host.driver import Driver
from sim.host.serial_bus import SerialBus
from sim.host.session import Job, run_job
from tests.end_to_end.networks import SMALL, loaded
from tests.golden_model.random_graphs import random_images, random_network
from tests.rtl.fpga.test_serial_link import DIVISOR, run_line

pytestmark = pytest.mark.rtl


def test_a_register_is_written_and_read_over_the_line_while_busy_tells_of_it():
    device, busy = SerialSystem(TINY, DIVISOR), []

    async def watch(ctx):
        async for _, _, now in ctx.tick().sample(device.busy):
            busy.append(now)

    async def job(line):
        driver = Driver(SerialBus(line, patience=0.02), TINY)
        await driver.identify()
        await driver.write_register("LAYER_COUNT", layers=1)
        assert await driver.read_register("LAYER_COUNT") == {"layers": 1}

    run_line(device, device, job, background=[watch], limit=20_000)
    assert 0 in busy
    assert 1 in busy


@pytest.mark.slow
def test_a_network_over_the_serial_line_gives_the_golden_logits_events_and_cycles():
    network = random_network(4, SMALL, ("convolution", "max"), 3)
    image = loaded(network, random_images(4, network, 1))
    device, outcomes = SerialSystem(image.program.hardware, DIVISOR), []

    async def job(line):
        outcomes.append(await run_job(SerialBus(line), image, Job((0,))))

    run_line(device, device, job, limit=500_000)
    assert outcomes[0].difference is None
    assert outcomes[0].results[0].logits == image.vectors.logits[0].tolist()
