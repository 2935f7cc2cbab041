"""cocotb module: the exported tile runs a whole random network; its bus answers errors as the register table says.

OHMLOOM_CONFIG names the hardware configuration, OHMLOOM_IMAGE a deployment image for it.
"""

import os
import random

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ClockCycles, FallingEdge, with_timeout

from golden_model import timing
from golden_model.image import image as deployment
from golden_model.image.interpreter import Interpreter
from golden_model.registers import REGION, REGISTER
from rtl.tile import Tile
from sim.array.crossbars import CrossbarSettings, make_crossbar
from sim.backends import cocotb_bench
from sim.host.bus import BusError
from sim.host.driver import DeviceError, Driver
from sim.host.sections import Section, cells_of, picture_of, stream_of, tables_of
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


async def assert_golden(driver, image):
    """The loaded network gives the golden scores, in the golden clocks."""
    run = await driver.run(image.program, image.vectors.images[0], expected_cycles=int(image.vectors.cycles[0]))
    assert (run.logits == image.vectors.logits[0]).all()
    assert run.cycles == image.vectors.cycles[0]


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
    for address in (0xF000000, REGION["ACTIVATIONS"].address(1 << 17), max(r.offset for r in REGISTER.values()) + 4):
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
    await assert_golden(driver, image)


@cocotb.test()
async def a_device_of_another_configuration_is_refused(dut):
    from dataclasses import replace

    image = deployment.read(os.environ["OHMLOOM_IMAGE"], HARDWARE)
    bus = await make_bus(dut, image)
    other = replace(HARDWARE, sample_interval=HARDWARE.sample_interval + 1)
    with pytest.raises(DeviceError, match="the device was made from hardware configuration 0x"):
        await Driver(bus, other).identify()
    await Driver(bus, HARDWARE).identify()


# ---- the load stream, by a sender that is not ours ------------------------------------------------
def paused(seed):
    """Clocks in which the sender pauses."""
    rng = random.Random(seed)
    while True:
        yield rng.random() < 0.5


@cocotb.test()
async def an_image_and_a_start_come_in_one_packet_with_pauses_while_the_bus_is_used(dut):
    image = deployment.read(os.environ["OHMLOOM_IMAGE"], HARDWARE)
    bus = await make_bus(dut, image)
    driver, program = Driver(bus, HARDWARE), image.program
    bus.source.set_pause_generator(paused(1))
    await driver.write_register("LAYER_COUNT", layers=len(program.steps))
    await driver.write_register("IRQ_ENABLE", done=1)
    sections = [
        *tables_of(program.tables, HARDWARE),
        *cells_of(program.tables.cell_words),
        picture_of(image.vectors.images[0], program.image_base, HARDWARE),
        Section(REGISTER["CONTROL"].offset, np.ones(1)),
    ]
    sending = cocotb.start_soon(bus.stream(stream_of(sections)))
    while not sending.done():
        assert (await driver.read_register("LAYER_COUNT"))["layers"] == len(program.steps)
    await bus.interrupt(2 * int(image.vectors.cycles[0]))
    assert (await driver.logits(program.logits) == image.vectors.logits[0]).all()
    assert await driver.cycles() == image.vectors.cycles[0]
    assert await driver.read_register("LOAD_STATUS") == {"error": 0, "busy": 0}


@cocotb.test()
async def illegal_packets_are_dropped_and_the_next_one_is_taken(dut):
    image = deployment.read(os.environ["OHMLOOM_IMAGE"], HARDWARE)
    bus = await make_bus(dut, image)
    driver, rng = Driver(bus, HARDWARE), random.Random(2)
    bus.source.set_pause_generator(paused(3))
    for address in (0xF000000, 0x1F000000, REGION["BIAS"].address(0) + 2, REGION["LOGITS"].address(0), 0x3C):
        words = [address, 3, *(rng.randrange(1 << 32) for _ in range(3)), REGION["ACTIVATIONS"].address(0), 1, 77]
        await bus.write(REGION["ACTIVATIONS"].address(0), 5)
        with pytest.raises(DeviceError, match="refused a word of the load stream"):
            await driver.stream([Section(words[0], np.array(words[2:5])), Section(words[5], np.array(words[7:]))])
        assert await bus.read(REGION["ACTIVATIONS"].address(0)) == 5
    await driver.load(image.program.tables)
    await assert_golden(driver, image)


@cocotb.test()
async def packets_during_a_run_are_refused_and_leave_no_trace(dut):
    image = deployment.read(os.environ["OHMLOOM_IMAGE"], HARDWARE)
    bus = await make_bus(dut, image)
    driver, program = Driver(bus, HARDWARE), image.program
    await driver.load(program.tables)
    await driver.write_input(image.vectors.images[0], program.image_base)
    await driver.write_register("LAYER_COUNT", layers=len(program.steps))
    await driver.write_register("CONTROL", start=1)
    for name in ("PROGRAM", "WIDTHS", "BIAS", "MULTIPLIERS", "PADS", "ACTIVATIONS"):
        with pytest.raises(DeviceError, match="refused a word of the load stream"):
            await driver.stream([Section(REGION[name].address(0), np.zeros(4))])
    with pytest.raises(DeviceError, match="refused a word of the load stream"):
        await driver.stream([Section(REGISTER["CELL_DATA"].offset, np.zeros(4))])
    assert (await driver.read_register("STATUS"))["busy"]
    await driver.abort()
    await assert_golden(driver, image)


@cocotb.test()
async def a_reset_inside_a_packet_and_inside_a_write_leaves_a_tile_that_loads(dut):
    image = deployment.read(os.environ["OHMLOOM_IMAGE"], HARDWARE)
    bus = await make_bus(dut, image)
    driver, rng = Driver(bus, HARDWARE), random.Random(4)
    packet = stream_of(cells_of(image.program.tables.cell_words)).astype("<u4").tobytes()
    for _ in range(5):
        await driver.write_register("LAYER_COUNT", layers=3)
        await bus.source.send(packet)
        cocotb.start_soon(bus.write(REGION["ACTIVATIONS"].address(0), 9))
        await ClockCycles(dut.clk, rng.randrange(2, 40))
        await FallingEdge(dut.clk)
        dut.rst.value = 1
        await ClockCycles(dut.clk, 3)
        await FallingEdge(dut.clk)
        dut.rst.value = 0
        bus.source.clear()
        await ClockCycles(dut.clk, 4)
        assert (await driver.read_register("LAYER_COUNT"))["layers"] == 0
        assert await driver.read_register("LOAD_STATUS") == {"error": 0, "busy": 0}
        assert (await driver.read_register("STATUS"))["cells_busy"] == 0
    await driver.load(image.program.tables)
    await assert_golden(driver, image)
