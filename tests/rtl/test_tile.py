"""Whole networks on tile and emulated crossbar: results, event counters and clocks; errors, abort, restart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from golden_model import timing
from golden_model.config import ISAAC, PAPER, PRESETS, TINY
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.chain import Runner, check_network
from golden_model.graph.layers import Network
from golden_model.image import image
from golden_model.registers import DESCRIPTOR_STRIDE, REGION, REGISTER, ErrorCode, pack_descriptor
from rtl.tile import Tile
from sim.host.bus import BusError
from sim.host.driver import DeviceError
from tests.end_to_end.networks import NINE, layer, random_images, random_network
from tests.rtl.tile_tools import run_system

pytestmark = pytest.mark.rtl

#: Enough crossbars for saturated weights.
ROOMY = replace(TINY, crossbar_pairs=32)


def _check_runs(net: Network, images, *, load_check=None, limit=120_000) -> None:
    """Every image on the hardware: logits, counters, clocks and what every layer left behind equal golden."""
    runner = Runner(net)
    outputs, events = runner.run_layers(images)
    cycles = runner.cycles(events)
    count = len(net.layers)

    async def job(bus, driver, device, ctx):
        for index, pixels in enumerate(images):
            run = await driver.run(pixels, count, net.layers[-1].outputs, expected_cycles=int(cycles[index]))
            assert run.logits.tolist() == outputs[-1][index].tolist()
            assert run.events.as_dict() == events[index].as_dict()
            assert run.cycles == cycles[index]
            if count > 1:
                made = outputs[-2][index]
                assert (await driver.activations(count - 1, made.shape)).tolist() == made.tolist()

    run_system(net, job, limit=limit)


@pytest.mark.parametrize("config", [*PRESETS.values(), NINE], ids=[*PRESETS, "nine"])
def test_constants_of_the_timing_formula_are_those_of_the_blocks(config):
    assert timing.c_start(config) == Tile.start_clocks(config)
    assert timing.c_layer(config) == Tile.layer_clocks(config)
    assert timing.c_group(config) == Tile.group_clocks(config)
    assert timing.c_window(config) == Tile.window_clocks(config)


# ---- networks -----------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_random_network_equals_golden_in_results_counters_and_clocks(seed):
    net = random_network(seed, ROOMY)
    _check_runs(net, random_images(seed, net, 1))


def test_saturated_weights_and_images_of_zeros_and_maxima_equal_golden():
    net = random_network(3, ROOMY, saturated=True)
    _check_runs(net, random_images(3, net, 3)[1:])


def test_nine_by_eight_units_equal_golden():
    net = random_network(5, NINE)
    _check_runs(net, random_images(5, net, 1))


def test_samples_of_a_slow_array_equal_golden():
    net = random_network(6, replace(ROOMY, sample_interval=3))
    _check_runs(net, random_images(6, net, 1))


def test_stride_border_and_pooling_in_one_layer_equal_golden():
    rng = np.random.default_rng(8)
    first = layer(
        rng,
        ROOMY,
        "conv",
        (2, 8, 7),
        outputs=3,
        kernel_height=3,
        kernel_width=2,
        stride=2,
        pad=1,
        pool=2,
        skip_zero_slices=True,
        dynamic=DynamicPrecision(l_max=3, tau_sq=2000),
        pad_values=np.array([3, 9]),
    )
    last = layer(
        rng,
        ROOMY,
        "fc",
        (3, first.out_height, first.out_width),
        kind="linear",
        kernel_height=first.out_height,
        kernel_width=first.out_width,
        outputs=1,
        last=True,
    )
    net = Network(name="strided", hardware=ROOMY, layers=(first, last))
    _check_runs(net, random_images(8, net, 2))


def test_group_of_one_segment_and_narrow_outputs_equal_golden():
    hardware = replace(ROOMY, group_segments=1)
    rng = np.random.default_rng(9)
    first = layer(
        rng,
        hardware,
        "conv",
        (1, 5, 5),
        outputs=4,
        output_bits=2,
        dynamic=DynamicPrecision(l_max=2, tau_sq=4000),
    )
    last = layer(
        rng,
        hardware,
        "fc",
        (4, 3, 3),
        kind="linear",
        kernel_height=3,
        kernel_width=3,
        outputs=3,
        input_bits=2,
        last=True,
    )
    hardware = replace(hardware, max_k=36)
    first, last = (replace(x, registers=x.registers) for x in (first, last))
    net = Network(name="narrow", hardware=hardware, layers=(first, last))
    _check_runs(net, random_images(9, net, 2))


def _single(hardware, **options):
    values = {"kind": "linear", "kernel_height": 2, "kernel_width": 2, "outputs": 3, "last": True} | options
    only = layer(np.random.default_rng(4), hardware, "fc", (5, 2, 2), **values)
    return Network(name="single", hardware=hardware, layers=(only,))


def test_layer_without_any_plane_on_a_full_machine_equals_golden():
    net = _single(ROOMY)
    first = layer(
        np.random.default_rng(2), ROOMY, "first", (5, 2, 2), outputs=5, kernel_height=1, kernel_width=1, saturated=True
    )
    empty = replace(
        net.layers[0], weights=np.zeros((20, 3), dtype=np.int64), block_widths=np.zeros((5, 2), dtype=np.int64)
    )
    layers = (replace(first, name="first"), empty)
    pairs = check_network(Network(name="full", hardware=ROOMY, layers=layers)).pairs
    net = Network(name="full", hardware=replace(ROOMY, crossbar_pairs=pairs), layers=layers)
    _check_runs(net, random_images(4, net, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "hardware",
    [replace(ISAAC, crossbar_pairs=2, max_k=200, activation_bytes=256), replace(PAPER, crossbar_pairs=4)],
    ids=["isaac", "paper"],
)
def test_large_units_equal_golden(hardware):
    only = layer(
        np.random.default_rng(4),
        hardware,
        "fc",
        (10, 4, 4),
        kind="linear",
        kernel_height=4,
        kernel_width=4,
        outputs=10,
        last=True,
        skip_zero_slices=True,
    )
    net = Network(name="large", hardware=hardware, layers=(only,))
    _check_runs(net, random_images(4, net, 1), limit=400_000)


# ---- control ------------------------------------------------------------------------------------
async def _error_of(driver, layers, expected):
    """Start; the run must end with the error `expected` and nothing done."""
    with pytest.raises(DeviceError, match=expected.name):
        await driver.start(layers, expected_cycles=1000)
    status = await driver.read_register("STATUS")
    assert (status["busy"], status["done"], status["error"]) == (0, 0, expected.value)
    return status


def _broken(net, **changes):
    """Descriptor words of the first layer with fields changed."""
    values = image.descriptor(net.layers[0], check_network(net).layers[0], net.hardware)
    return pack_descriptor(net.hardware, {k: int(v) for k, v in (values | changes).items()})


ILLEGAL = [
    (ErrorCode.ADC_CONFIGURATION, {"n_r2": 0}),
    (ErrorCode.ADC_CONFIGURATION, {"adc_mode": 0, "n_r1": 1, "n_r2": 2, "adc_bias": 0, "m": 0}),
    (ErrorCode.LAYER_GEOMETRY, {"outputs": 0}),
    (ErrorCode.LAYER_GEOMETRY, {"width": 3}),
    (ErrorCode.LAYER_GEOMETRY, {"crossbar_base": 200}),
    (ErrorCode.UNSUPPORTED, {"residual": 1}),
    (ErrorCode.UNSUPPORTED, {"average": 1}),
]


def test_illegal_descriptors_set_the_error_and_do_not_start_and_a_legal_one_runs_afterwards():
    net = _single(ROOMY)
    pixels = random_images(1, net, 1)[0]
    logits, events = Runner(net).run(pixels[None])

    async def job(bus, driver, device, ctx):
        await driver.write_input(pixels)
        for expected, changes in ILLEGAL:
            await driver.write_region("PROGRAM", _broken(net, **changes))
            await _error_of(driver, 1, expected)
            # The layer's counters were never stored.
            assert (await driver.read_register("CYCLES_LOW"))["cycles"] < timing.c_layer(ROOMY)
        for layers in (0, ROOMY.max_layers + 1):
            await _error_of(driver, layers, ErrorCode.LAYER_COUNT)
        await driver.write_region("PROGRAM", _broken(net))
        run = await driver.run(pixels, 1, 3, expected_cycles=int(events.cycles[0, 0]))
        assert run.logits.tolist() == logits[0].tolist()
        assert run.events.as_dict() == events[0].as_dict()

    run_system(net, job)


def test_error_in_a_later_layer_names_the_layer():
    net = random_network(1, ROOMY)
    values = image.descriptor(net.layers[1], check_network(net).layers[1], ROOMY)
    words = pack_descriptor(ROOMY, {k: int(v) for k, v in (values | {"residual": 1}).items()})

    async def job(bus, driver, device, ctx):
        await driver.write_region("PROGRAM", words, first=DESCRIPTOR_STRIDE)
        await driver.write_input(random_images(1, net, 1)[0])
        status = await _error_of(driver, 3, ErrorCode.UNSUPPORTED)
        assert status["layer"] == 1

    run_system(net, job)


def test_abort_at_any_time_ends_the_run_and_a_new_start_gives_the_golden_result():
    net = random_network(2, ROOMY)
    images = random_images(2, net, 1)
    runner = Runner(net)
    logits, events = runner.run(images)
    total = int(runner.cycles(events)[0])

    async def job(bus, driver, device, ctx):
        await driver.write_input(images[0])
        await driver.write_register("LAYER_COUNT", layers=3)
        for clocks in (0, 60, 133, 140, 155, 170, 190, 400, total - 30):
            await driver.write_register("CONTROL", start=1)
            await bus.wait(clocks)
            await driver.write_register("CONTROL", abort=1)
            status = await driver.read_register("STATUS")
            assert (status["busy"], status["done"], status["error"]) == (0, 0, ErrorCode.ABORTED)
        run = await driver.run(images[0], 3, 4, expected_cycles=total)
        assert run.logits.tolist() == logits[0].tolist()
        assert run.events.as_dict() == events[0].as_dict()
        assert run.cycles == total

    run_system(net, job)


def test_while_busy_start_is_ignored_and_accesses_to_tables_are_refused():
    net = random_network(4, ROOMY)
    images = random_images(4, net, 1)
    runner = Runner(net)
    logits, events = runner.run(images)
    total = int(runner.cycles(events)[0])

    async def job(bus, driver, device, ctx):
        await driver.write_input(images[0])
        await driver.write_register("LAYER_COUNT", layers=3)
        await driver.write_register("CONTROL", start=1)
        await driver.write_register("CONTROL", start=1)
        for name in ("PROGRAM", "WIDTHS", "BIAS", "MULTIPLIERS", "PADS", "REFERENCE", "ACTIVATIONS"):
            with pytest.raises(BusError, match=r"write.*SLVERR"):
                await bus.write(REGION[name].address(0), 0)
        with pytest.raises(BusError, match=r"read.*SLVERR"):
            await bus.read(REGION["ACTIVATIONS"].address(0))
        for name in ("LAYER_COUNT", "CELL_PAIR", "CELL_DATA", "CELL_PAIRS"):
            with pytest.raises(BusError, match=r"write.*SLVERR"):
                await bus.write(REGISTER[name].offset, 0)
        with pytest.raises(BusError, match=r"write.*SLVERR"):
            await driver.write_register("CONTROL", check_cells=1)
        assert (await driver.read_register("STATUS"))["busy"] == 1
        await bus.poll(REGISTER["STATUS"].offset, 1, 0, 2 * total)
        assert (await driver.logits(4)).tolist() == logits[0].tolist()
        assert await driver.cycles() == total

    run_system(net, job)


def test_fewer_layers_than_the_network_has_leave_the_activations_to_read():
    net = random_network(7, ROOMY)
    images = random_images(7, net, 1)
    outputs, events = Runner(net).run_layers(images)

    async def job(bus, driver, device, ctx):
        for count in (1, 2):
            run = await driver.run(images[0], count, None, expected_cycles=int(events.cycles[0, :count].sum()))
            assert run.events.counts.tolist() == events.counts[0, :count].tolist()
            assert run.cycles == events.cycles[0, :count].sum()
            made = outputs[count - 1][0]
            assert (await driver.activations(count, made.shape)).tolist() == made.tolist()

    run_system(net, job)


def test_trace_names_every_activation_with_its_layer_and_window():
    net = random_network(0, ROOMY)
    images = random_images(0, net, 1)
    _, events = Runner(net).run(images)
    places = []

    async def job(bus, driver, device, ctx):
        await driver.write_input(images[0])
        await driver.write_register("LAYER_COUNT", layers=3)
        await driver.write_register("CONTROL", start=1)
        trace = device.trace
        async for _, _, valid, index, window in ctx.tick().sample(trace.valid, trace.layer, trace.window):
            if valid:
                places.append((int(index), int(window)))
            if len(places) == int(events.ou_activations[0].sum()):
                break

    run_system(net, job)
    assert places == sorted(places)
    for index, done in enumerate(net.layers):
        windows = [w for i, w in places if i == index]
        assert len(windows) == events.ou_activations[0, index]
        assert set(windows) <= set(range(done.windows))
