"""cocotb module: the exported tile runs a whole random network; its bus answers errors as the register table says.

OHMLOOM_CONFIG names the hardware configuration, OHMLOOM_IMAGE a deployment image for it.
"""

import os

import cocotb
import pytest
from cocotb.triggers import with_timeout

from golden_model import timing
from golden_model.image import image as deployment
from golden_model.image.interpreter import Interpreter
from golden_model.registers import REGION, REGISTER
from rtl.tile import Tile
from sim.array.crossbars import CrossbarSettings, make_crossbar
from sim.backends import cocotb_bench
from sim.host.bus import BusError
from sim.host.driver import DeviceError, Driver
from sim.host.session import Job, run_job
from tests.cocotb.designs import CONFIGURATIONS

HARDWARE = CONFIGURATIONS[os.environ["OHMLOOM_CONFIG"]]
#: Nanoseconds that a test may take.
WATCHDOG = 500_000 * cocotb_bench.PERIOD


async def make_bus(dut, image):
    monitor = cocotb_bench.TraceMonitor.of(dut, Tile(HARDWARE))
    bus = cocotb_bench.CocotbBus(dut, monitor)
    cocotb.start_soon(cocotb_bench.Analog(dut, make_crossbar(image.program, CrossbarSettings()), monitor).run())
    await cocotb_bench.start(dut)
    return bus


@cocotb.test()
async def whole_network_equals_golden(dut):
    image = deployment.read(os.environ["OHMLOOM_IMAGE"], HARDWARE)
    bus = await make_bus(dut, image)
    job = Job(tuple(range(len(image.vectors.images))))
    outcome = await with_timeout(cocotb.start_soon(run_job(bus, image, job)), WATCHDOG, "ns")
    assert outcome.difference is None, outcome.difference
    assert len(outcome.results) == len(job.indices)


@cocotb.test()
async def what_every_step_wrote_can_be_read(dut):
    image = deployment.read(os.environ["OHMLOOM_IMAGE"], HARDWARE)
    driver = Driver(await make_bus(dut, image), HARDWARE)
    await driver.load(image.program.tables)
    program, pixels = image.program, image.vectors.images[0]
    outputs = Interpreter(program.tables, HARDWARE, image_base=program.image_base).outputs(pixels[None])
    for count, (step, output) in enumerate(zip(program.steps, outputs, strict=True), 1):
        cycles = int(timing.network_cycles(HARDWARE, image.vectors.events.cycles[0, :count]))
        run = await driver.run(program, pixels, steps=count, expected_cycles=cycles)
        assert run.cycles == cycles
        assert (await driver.activations(step) == output[0]).all(), step.name


@cocotb.test()
async def illegal_accesses_answer_an_error_and_change_nothing(dut):
    image = deployment.read(os.environ["OHMLOOM_IMAGE"], HARDWARE)
    bus = await make_bus(dut, image)
    await bus.write(REGISTER["LAYER_COUNT"].offset, 1)
    for address in (0xF000000, REGION["ACTIVATIONS"].address(1 << 17), REGISTER["CELL_CHECKSUM"].offset + 4):
        with pytest.raises(BusError, match="SLVERR"):
            await bus.read(address)
        with pytest.raises(BusError, match="SLVERR"):
            await bus.write(address, 3)
    with pytest.raises(BusError, match="SLVERR"):
        await bus.write(REGISTER["IDENTITY"].offset, 0)
    assert await bus.read(REGISTER["LAYER_COUNT"].offset) == 1


@cocotb.test()
async def tables_cannot_be_written_during_a_run_and_abort_ends_it(dut):
    image = deployment.read(os.environ["OHMLOOM_IMAGE"], HARDWARE)
    bus = await make_bus(dut, image)
    driver = Driver(bus, HARDWARE)
    await driver.load(image.program.tables)
    await driver.write_input(image.vectors.images[0], image.program.image_base)
    await driver.write_register("LAYER_COUNT", layers=len(image.program.steps))
    await driver.write_register("CONTROL", start=1)
    assert (await driver.read_register("STATUS"))["busy"]
    with pytest.raises(BusError, match="SLVERR"):
        await bus.write(REGION["BIAS"].address(0), 99)
    await driver.abort()
    await bus.wait(16)
    status = await driver.read_register("STATUS")
    assert (status["busy"], status["error"]) == (0, 5)
    # The refused write left no trace: the network still computes what golden does.
    run = await driver.run(image.program, image.vectors.images[0], expected_cycles=int(image.vectors.cycles[0]))
    assert (run.logits == image.vectors.logits[0]).all()
    assert run.cycles == image.vectors.cycles[0]


@cocotb.test()
async def a_device_of_another_configuration_is_refused(dut):
    from dataclasses import replace

    image = deployment.read(os.environ["OHMLOOM_IMAGE"], HARDWARE)
    bus = await make_bus(dut, image)
    other = replace(HARDWARE, sample_interval=HARDWARE.sample_interval + 1)
    with pytest.raises(DeviceError, match="the device was made from hardware configuration 0x"):
        await Driver(bus, other).identify()
    await Driver(bus, HARDWARE).identify()
