"""Hand-made programs on tile and emulated crossbar: memory, logits, events and clocks; errors, abort, restart."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Value
from amaranth.lib import wiring

from golden_model import timing
from golden_model.config import ISAAC, PAPER, PRESETS, TINY, HardwareConfig
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.registers import (
    DESCRIPTOR_STRIDE,
    REGION,
    REGISTER,
    ErrorCode,
    StepKind,
    pack_descriptor,
    reference_entry,
)
from golden_model.trq import AdcRegisters
from rtl.block import Block, In
from rtl.emulated_crossbar import EmulatedCrossbar
from rtl.emulated_pair_crossbar import EmulatedPairCrossbar
from rtl.interfaces import parts_of
from rtl.tile import BUS_PREFIX, Tile, bus_members, connect_bus
from sim.host.bus import BusError
from sim.host.driver import DeviceError
from tests.bench import stream_rule
from tests.rtl import step_model
from tests.rtl.hand_made import Program, read_memory, write_memory
from tests.rtl.tile_tools import run_system
from tests.strategies import make_weights

pytestmark = pytest.mark.rtl

#: Enough crossbars for saturated weights.
ROOMY = replace(TINY, crossbar_pairs=32)
#: The same machine with the other main data path, and both.
PAIRS = replace(ROOMY, machine="pairs", crossbar_pairs=64)
BOTH = pytest.mark.parametrize("hardware", [ROOMY, PAIRS], ids=["planes", "pairs"])
#: 9 x 8 OUs and a 4-bit ADC as in the paper, on arrays small enough to simulate.
NINE = HardwareConfig(
    rows=27,
    cols=32,
    crossbar_pairs=8,
    max_k=128,
    max_n=16,
    max_layers=4,
    activation_bytes=512,
    width_entries=128,
    channel_entries=64,
    pad_entries=8,
)


def _memory(hardware=ROOMY, seed=0, top=None):
    rng = random.Random(seed)
    largest = (1 << hardware.input_bits) - 1
    return [largest if top else rng.randint(0, largest) for _ in range(hardware.activation_bytes)]


async def _check_run(program, driver, memory, steps=None, cuts=()):
    """One run on the device, or one up to each of the cuts and to the end: everything it leaves behind equals the
    model."""
    expected = program.run(memory, steps)
    count, cycles = len(expected.events), 0
    await write_memory(driver, memory)
    for first, end in itertools.pairwise((0, *cuts, count)):
        if expected.overflow:
            with pytest.raises(DeviceError, match="overflow"):
                await driver.start(end, first=first, expected_cycles=expected.cycles)
        else:
            await driver.start(end, first=first, expected_cycles=expected.cycles)
        cycles += await driver.cycles()
    assert await read_memory(driver) == expected.memory
    logits = await driver.logits(max(expected.logits, default=-1) + 1)
    assert dict(enumerate(logits.tolist())) == dict(sorted(expected.logits.items()))
    events = await driver.events(count)
    assert [events[i].as_dict() for i in range(count)] == expected.events
    assert cycles == expected.cycles


def _check(program, memories=None, *, limit=200_000):
    async def job(bus, driver, device, ctx):
        await program.load(driver)
        for memory in memories or [_memory(program.hardware)]:
            await _check_run(program, driver, memory)

    run_system(program.hardware, job, limit=limit)


@pytest.mark.parametrize(
    "config",
    [*PRESETS.values(), NINE, *(replace(PRESETS[name], activation_tables=3) for name in ("paper", "paper-pairs"))],
    ids=[*PRESETS, "nine", "tables", "tables of pairs"],
)
def test_constants_of_the_timing_formula_are_those_of_the_blocks(config):
    assert timing.c_start(config) == Tile.start_clocks(config)
    assert timing.c_layer(config) == Tile.layer_clocks(config)
    assert timing.c_group(config) == Tile.group_clocks(config)
    assert timing.c_element(config) == Tile.element_clocks(config)
    if config.pairs:
        assert timing.c_load(config) == Tile.load_clocks(config)
        assert timing.c_convert(config) == Tile.convert_clocks(config)
        assert timing.c_drain(config) == Tile.drain_clocks(config)
    else:
        assert timing.c_window(config) == Tile.window_clocks(config)


# ---- activation functions -----------------------------------------------------------------------
@BOTH
def test_steps_look_up_functions_of_their_own(hardware):
    """Layers with and without pooling and tables, an addition, a step without a table between them."""
    hardware = replace(hardware, activation_tables=3, max_layers=5)
    rng = np.random.default_rng(8)
    program = Program(hardware)
    program.tables = [list(range(15, -1, -1)), [3, 1, 0, 2] * 4, rng.integers(0, 16, 16).tolist()]
    program.crossbar(
        *_matrix(rng, hardware, 4, 3), channels=1, height=6, width=6, kernel_height=2, kernel_width=2, out_height=2,
        out_width=2, pool=2, target=60, shift=5, lookup=3,
    )  # fmt: skip
    program.element(
        StepKind.SUM, source=60, channels=3, height=2, width=2, outputs=3, out_height=2, out_width=2, target=80,
        multiplier=3, shift=2, residual=1, residual_base=60, residual_plane=4, residual_row=2, residual_column=1,
        residual_channels=3, residual_multiplier=1, lookup=1,
    )  # fmt: skip
    program.crossbar(
        *_matrix(rng, hardware, 12, 4), source=80, channels=3, height=2, width=2, kernel_height=2, kernel_width=2,
        target=100, shift=5,
    )  # fmt: skip
    program.element(
        StepKind.MAXIMUM, source=60, channels=3, height=2, width=2, outputs=3, kernel_height=2, kernel_width=2,
        target=104, lookup=2,
    )  # fmt: skip
    program.element(StepKind.SUM, source=100, channels=7, outputs=7, last=1)
    _check(program, [_memory(hardware), _memory(hardware, top=True)])


# ---- element steps ------------------------------------------------------------------------------
def _element(kind, **fields):
    program = Program(ROOMY)
    program.element(kind, **fields)
    return program


def test_maximum_of_overlapping_windows_with_border_and_a_last_window_beyond_the_map():
    _check(
        _element(
            StepKind.MAXIMUM, channels=2, height=6, width=5, outputs=2, source=7, target=101, kernel_height=3,
            kernel_width=3, stride_y=2, stride_x=2, pad_top=1, pad_left=1, out_height=4, out_width=3,
        ),
        [_memory(), _memory(top=True)],
    )  # fmt: skip


def test_average_of_a_map_and_sums_of_windows():
    program = Program(ROOMY)
    program.element(
        StepKind.SUM, channels=3, height=4, width=5, outputs=3, kernel_height=2, kernel_width=2, stride_y=2, stride_x=2,
        out_height=2, out_width=2, target=64, multiplier=1, shift=2,
    )  # fmt: skip
    program.element(
        StepKind.SUM, source=64, channels=3, height=2, width=2, outputs=3, kernel_height=2, kernel_width=2, target=200,
        multiplier=13107, shift=16,
    )  # fmt: skip
    _check(program, [_memory(), _memory(top=True)])


def test_addition_of_two_inputs_with_a_multiplier_each_and_an_offset():
    program = Program(ROOMY)
    for kind, target in ((StepKind.SUM, 190), (StepKind.MAXIMUM, 110)):
        program.element(
            kind, channels=3, height=4, width=3, outputs=3, source=3, target=target, out_height=4, out_width=3,
            multiplier=60_000, residual=1, residual_base=40, residual_plane=12, residual_row=3, residual_column=1,
            residual_channels=3, residual_multiplier=100_000, shift=16, **step_model.with_offset(-900_000),
        )  # fmt: skip
    _check(program)


def test_addition_may_overwrite_its_second_input_in_place():
    program = _element(
        StepKind.SUM, channels=2, height=3, width=4, outputs=2, target=100, out_height=3, out_width=4, residual=1,
        residual_base=100, residual_plane=12, residual_row=4, residual_column=1, residual_channels=2,
        residual_multiplier=1, shift=1,
    )  # fmt: skip
    _check(program)


def test_copy_with_border_into_channels_of_a_larger_buffer():
    program = Program(ROOMY)
    program.element(
        StepKind.SUM, channels=2, first_channel=1, height=3, width=3, outputs=4, target=130, pad_top=1, pad_left=2,
        out_height=5, out_width=6, pads=[1, 2, 3, 4], multiplier=3, shift=1,
    )  # fmt: skip
    program.element(
        StepKind.MAXIMUM, channels=1, first_channel=2, height=3, width=3, outputs=3, target=27, out_height=3,
        out_width=3, pad_value=9,
    )  # fmt: skip
    _check(program)


def test_logits_of_an_element_step_with_several_positions():
    program = _element(
        StepKind.SUM, channels=2, height=4, width=4, outputs=2, kernel_height=4, kernel_width=2, stride_x=2,
        out_width=2, last=1, **step_model.with_offset(-77),
    )  # fmt: skip
    _check(program, [_memory(), _memory(top=True)])


def test_saturated_logit_of_an_element_step_sets_overflow():
    largest = (1 << 31) - 1
    program = _element(StepKind.MAXIMUM, channels=2, outputs=2, last=1, **step_model.with_offset(largest))
    _check(program, [_memory(top=True)])


# ---- crossbar steps -----------------------------------------------------------------------------
def _matrix(rng, hardware, k, outputs, *, saturated=False):
    """Weights, bias and multipliers of one crossbar step."""
    top = (1 << hardware.weight_bits) - 1
    weights = rng.choice([-top, top], size=(k, outputs)) if saturated else make_weights(rng, k, outputs, hardware)
    return weights, rng.integers(-40, 41, outputs), rng.integers(1, 40, outputs)


def _residual_program(hardware=ROOMY, *, seed=2, saturated=False):
    """A strided residual of fewer channels on a crossbar step, after and before element steps, then logits."""
    rng = np.random.default_rng(seed)
    program = Program(hardware)
    program.element(
        StepKind.MAXIMUM, channels=2, height=6, width=6, outputs=2, kernel_height=3, kernel_width=3, pad_top=1,
        pad_left=1, out_height=6, out_width=6, target=80,
    )  # fmt: skip
    program.crossbar(
        *_matrix(rng, hardware, 18, 4, saturated=saturated), source=80, target=160, channels=2, height=6, width=6,
        kernel_height=3, kernel_width=3, stride_y=2, stride_x=2, pad_top=1, pad_left=1, out_height=3, out_width=3,
        pads=[3, 7], residual=1, residual_base=0, residual_plane=36, residual_row=12, residual_column=2,
        residual_channels=2, residual_first=1, residual_value=2, residual_multiplier=70, shift=6,
        registers=AdcRegisters(mode="twin", n_r2=3, n_r1=1), dynamic=DynamicPrecision(l_max=2, tau_sq=1000),
        **step_model.with_offset(-100),
    )  # fmt: skip
    program.element(
        StepKind.SUM, source=160, target=200, channels=4, height=3, width=3, outputs=4, kernel_height=3, kernel_width=3,
        multiplier=7282, shift=16,
    )  # fmt: skip
    program.crossbar(
        *_matrix(rng, hardware, 4, 3, saturated=saturated), source=200, channels=4, last=1, skip_zero_slices=1
    )
    return program


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_crossbar_step_with_strided_residual_among_element_steps(hardware, seed):
    _check(_residual_program(hardware, seed=seed), [_memory(seed=seed)])


@BOTH
@pytest.mark.parametrize("cuts", [(1,), (2, 3), (1, 2, 3)], ids=str)
def test_a_program_in_parts_leaves_what_a_whole_run_leaves(hardware, cuts):
    """Activations, event counters, logits; and a whole run afterwards."""
    program = _residual_program(hardware)

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        await _check_run(program, driver, _memory(), cuts=cuts)
        await _check_run(program, driver, _memory(seed=1))

    run_system(hardware, job)


@BOTH
def test_a_part_runs_on_what_the_host_wrote_before_it(hardware):
    """The second step reads what the host put over the output of the first."""
    program = _residual_program(hardware)
    memory = _memory(hardware)
    given = [value ^ 1 if 80 <= at < 152 else value for at, value in enumerate(program.run(memory, 1).memory)]
    rest = Program(hardware)
    rest.__dict__ |= program.__dict__ | {"steps": program.steps[1:]}
    expected = rest.run(given)

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        await write_memory(driver, memory)
        await driver.start(1, expected_cycles=1000)
        await write_memory(driver, given)
        await driver.start(len(program.steps), first=1, expected_cycles=expected.cycles)
        assert await read_memory(driver) == expected.memory != program.run(memory).memory
        assert await driver.cycles() == expected.cycles

    run_system(hardware, job)


@BOTH
def test_saturated_weights_and_activations(hardware):
    program = _residual_program(hardware, saturated=True)
    _check(program, [_memory(top=True), [0] * ROOMY.activation_bytes])


@BOTH
def test_strides_borders_and_pooling_differ_between_rows_and_columns(hardware):
    rng = np.random.default_rng(8)
    program = Program(hardware)
    program.crossbar(
        *_matrix(rng, hardware, 12, 3), source=9, target=150, channels=2, height=8, width=7, kernel_height=3,
        kernel_width=2, stride_y=2, stride_x=1, pad_top=1, pad_left=2, pool=2, out_height=2, out_width=4, pad_value=6,
        skip_zero_slices=1, dynamic=DynamicPrecision(l_max=3, tau_sq=2000), shift=4,
    )  # fmt: skip
    _check(program)


@BOTH
def test_group_of_one_segment_and_narrow_bits(hardware):
    hardware = replace(hardware, group_segments=1)
    rng = np.random.default_rng(9)
    program = Program(hardware)
    program.crossbar(
        *_matrix(rng, hardware, 9, 4), target=100, channels=1, height=5, width=5, kernel_height=3, kernel_width=3,
        out_height=3, out_width=3, out_bits=2, dynamic=DynamicPrecision(l_max=2, tau_sq=4000), shift=6,
    )  # fmt: skip
    program.crossbar(
        *_matrix(rng, hardware, 16, 3), source=100, channels=4, height=3, width=3, kernel_height=2, kernel_width=2,
        target=200, out_height=2, out_width=2, stream_bits=2, shift=5,
    )  # fmt: skip
    _check(program)


@BOTH
def test_step_without_any_plane_on_a_full_machine(hardware):
    rng = np.random.default_rng(2)
    program = Program(hardware)
    program.crossbar(*_matrix(rng, hardware, 5, 5, saturated=True), channels=5, target=100, shift=4)
    empty = np.zeros((5, 3), dtype=np.int64)
    program.crossbar(empty, [1, -2, 3], [1, 1, 1], source=100, channels=5, last=1)
    hardware = replace(hardware, crossbar_pairs=program.steps[1].fields["crossbar_base"])
    full = Program(hardware)
    full.steps, full.cells, full._pairs = program.steps, program.cells, program._pairs
    _check(full)


@pytest.mark.parametrize("machine", ["planes", "pairs"])
@pytest.mark.parametrize("hardware", [NINE, replace(ROOMY, sample_interval=3)], ids=["nine", "slow array"])
def test_other_machines(hardware, machine):
    hardware = replace(hardware, machine=machine, crossbar_pairs=32)
    rng = np.random.default_rng(5)
    program = Program(hardware)
    registers = AdcRegisters(mode="twin", n_r2=hardware.adc_bits - 1, n_r1=1, m=1, bias=int(machine == "planes"))
    program.crossbar(
        *_matrix(rng, hardware, 18, 7), channels=2, height=4, width=4, kernel_height=3, kernel_width=3, out_height=2,
        out_width=2, target=100, registers=registers, skip_zero_slices=1, shift=6,
    )  # fmt: skip
    _check(program)


@pytest.mark.parametrize(
    "registers",
    [
        *(AdcRegisters(mode=mode, n_r2=PAIRS.converter_bits) for mode in ("uniform", "bounded", "outward")),
        AdcRegisters(mode="twin", n_r2=2, n_r1=2, m=2),
        AdcRegisters(mode="uniform", n_r2=PAIRS.converter_bits - 2),
        AdcRegisters(mode="twin", n_r2=2, n_r1=1, m=1),
    ],
    ids=["uniform", "bounded", "outward", "twin", "coarse uniform", "coarse twin"],
)
def test_every_search_of_the_pair_machine(registers):
    hardware = PAIRS
    program = Program(hardware)
    program.crossbar(
        *_matrix(np.random.default_rng(6), hardware, 20, 5), channels=5, height=2, width=2, kernel_height=2,
        kernel_width=2, last=1, registers=registers,
    )  # fmt: skip
    _check(program, [_memory(), _memory(top=True)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "hardware",
    [
        replace(ISAAC, crossbar_pairs=2, max_k=200, activation_bytes=256),
        replace(PAPER, crossbar_pairs=4),
        replace(PAPER, crossbar_pairs=8, machine="pairs"),
    ],
    ids=["isaac", "paper", "pairs"],
)
def test_large_units(hardware):
    program = Program(hardware)
    matrix = _matrix(np.random.default_rng(4), hardware, 160, 10)
    program.crossbar(
        *matrix, channels=10, height=4, width=4, kernel_height=4, kernel_width=4, last=1, skip_zero_slices=1
    )
    _check(program, limit=600_000)


# ---- control ------------------------------------------------------------------------------------
async def _error_of(driver, steps, expected, first=0):
    """Start; the run must end with the error `expected` and nothing done."""
    with pytest.raises(DeviceError, match=expected.name):
        await driver.start(steps, first=first, expected_cycles=1000)
    status = await driver.read_register("STATUS")
    assert (status["busy"], status["done"], status["error"]) == (0, 0, expected.value)
    return status


def _single(hardware=ROOMY, **fields):
    program = Program(hardware)
    matrix = _matrix(np.random.default_rng(4), hardware, 20, 3)
    program.crossbar(*matrix, channels=5, height=2, width=2, kernel_height=2, kernel_width=2, **({"last": 1} | fields))
    return program


def _broken(program, index=0, **changes):
    """Descriptor words of a step with fields changed."""
    fields = program.steps[index].fields | changes
    return pack_descriptor(program.hardware, {name: int(value) for name, value in fields.items()})


ILLEGAL = [
    (ErrorCode.ADC_CONFIGURATION, {"n_r2": 0}),
    (ErrorCode.ADC_CONFIGURATION, {"adc_mode": 0, "n_r1": 1, "n_r2": 2, "adc_bias": 0, "m": 0}),
    (ErrorCode.LAYER_GEOMETRY, {"outputs": 0}),
    (ErrorCode.LAYER_GEOMETRY, {"width": 3}),
    (ErrorCode.LAYER_GEOMETRY, {"crossbar_base": 200}),
    (ErrorCode.LAYER_GEOMETRY, {"source": ROOMY.activation_bytes - 10}),
    (ErrorCode.LAYER_GEOMETRY, {"residual": 1}),
    (ErrorCode.UNSUPPORTED, {"step": 3}),
]


@BOTH
def test_illegal_descriptors_set_the_error_and_do_not_start_and_a_legal_one_runs_afterwards(hardware):
    program = _single(hardware)

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        for expected, changes in ILLEGAL:
            await driver.write_region("PROGRAM", _broken(program, **changes))
            await _error_of(driver, 1, expected)
            # The step's counters were never stored.
            assert (await driver.read_register("CYCLES_LOW"))["cycles"] < timing.c_layer(hardware)
        for steps, first in ((0, 0), (ROOMY.max_layers + 1, 0), (1, 1), (1, 65535)):
            await _error_of(driver, steps, ErrorCode.LAYER_COUNT, first)
        await driver.write_region("PROGRAM", _broken(program))
        await _check_run(program, driver, _memory())

    run_system(hardware, job)


@BOTH
def test_step_that_reaches_beyond_the_last_pair_ends_the_run_and_a_legal_one_runs_afterwards(hardware):
    program = _single(hardware)
    pairs, samples = hardware.crossbar_pairs, []

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        await driver.write_region("PROGRAM", _broken(program, crossbar_base=pairs))
        await write_memory(driver, _memory())
        status = await _error_of(driver, 1, ErrorCode.LAYER_GEOMETRY)
        assert status["layer"] == 0
        assert not samples
        await driver.write_region("PROGRAM", _broken(program))
        await _check_run(program, driver, _memory())
        assert samples or hardware.pairs

    # The pair machine has no trace.
    run_system(hardware, job, background=lambda device: [] if hardware.pairs else [_trace_of(device, samples)])


def _trace_of(device, into):
    async def bench(ctx):
        trace = device.trace
        async for _, _, valid, step, window in ctx.tick().sample(trace.valid, trace.layer, trace.window):
            if valid:
                into.append((int(step), int(window)))

    return bench


@BOTH
def test_error_in_a_later_step_names_the_step(hardware):
    program = _residual_program(hardware)

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        await driver.write_region("PROGRAM", _broken(program, 2, step=3), first=2 * DESCRIPTOR_STRIDE)
        await write_memory(driver, _memory())
        status = await _error_of(driver, 4, ErrorCode.UNSUPPORTED)
        assert status["layer"] == 2

    run_system(hardware, job)


@BOTH
def test_abort_at_any_time_ends_the_run_and_a_new_start_gives_the_right_result(hardware):
    program = _residual_program(hardware)
    events = program.run(_memory()).events
    first, second = events[0]["cycles"], events[1]["cycles"]
    total = sum(step["cycles"] for step in events)
    fetched = timing.c_layer(hardware) - 10
    times = (0, 60, fetched, fetched + 100, first + 5, first + fetched + 30, first + fetched + 90, first + second + 200)

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        await driver.write_register("LAYER_COUNT", layers=4)
        await write_memory(driver, _memory())
        for clocks in (*times, total - 30):
            await driver.write_register("CONTROL", start=1)
            await bus.wait(clocks)
            await driver.write_register("CONTROL", abort=1)
            status = await driver.read_register("STATUS")
            assert (status["busy"], status["done"], status["error"]) == (0, 0, ErrorCode.ABORTED)
        await _check_run(program, driver, _memory())

    run_system(hardware, job)


class HeldSystem(Block):
    """A system whose array takes no sample of part i in the clocks with bit i of `hold`. tile, parts : to look at the
    samples on offer."""

    hold: In(2)

    def __init__(self, config):
        self.tile = Tile(config)
        self.parts = parts_of(self.tile.crossbar, config)
        super().__init__(config, **bus_members())

    def elaborate(self, platform):
        m = Module()
        m.submodules.tile = tile = self.tile
        m.submodules.array = array = (EmulatedPairCrossbar if self.config.pairs else EmulatedCrossbar)(self.config)
        connect_bus(m, self, tile, BUS_PREFIX)
        for path, member, value in tile.crossbar.signature.flatten(tile.crossbar):
            other = array.port
            for name in path:
                other = getattr(other, name)
            given, taken = (value, other) if member.flow == wiring.Out else (other, value)
            held = path[-2:] in (("sample", "valid"), ("sample", "ready"))
            m.d.comb += taken.eq(given & ~self.hold[path[0] == "half1"] if held else given)
        return m


@pytest.mark.parametrize(
    ("hardware", "held"), [(ROOMY, 1), (PAIRS, 1), (PAIRS, 2), (PAIRS, 3)], ids=["planes", "half 0", "half 1", "halves"]
)
def test_an_abort_withdraws_no_sample_that_the_array_has_not_taken(hardware, held):
    program = _residual_program(hardware)
    waited = []

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        await driver.write_register("LAYER_COUNT", layers=4)
        await write_memory(driver, _memory())
        await driver.write_register("CONTROL", start=1)
        ctx.set(device.hold, held)
        await ctx.tick().until((Cat(part.sample.valid for part in device.parts) & held).any())
        await driver.write_register("CONTROL", abort=1)
        assert (await driver.read_register("STATUS"))["busy"]
        waited.append(ctx.get(Cat(part.sample.valid for part in device.parts)))
        ctx.set(device.hold, 0)
        status = await driver.read_register("STATUS")
        assert (status["busy"], status["error"]) == (0, ErrorCode.ABORTED)
        await _check_run(program, driver, _memory())

    rules = [lambda device, i=i: stream_rule(device.parts[i].sample, "sample") for i in range(1 + hardware.pairs)]
    run_system(hardware, job, background=lambda device: [rule(device) for rule in rules], make=HeldSystem)
    assert waited[0], "a sample was on offer"


@BOTH
def test_an_abort_without_a_sample_on_offer_does_not_wait_for_the_array(hardware):
    """`sample_waits` of the sequencer asks for `part.sample.valid`, too, where `ready` is 0."""
    program = _residual_program(hardware)

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        await driver.write_register("LAYER_COUNT", layers=4)
        ctx.set(device.hold, 3)
        await driver.write_register("CONTROL", start=1)
        await driver.write_register("CONTROL", abort=1)
        assert not ctx.get(Cat(part.sample.valid for part in device.parts))
        assert (await driver.read_register("STATUS"))["busy"] == 0

    run_system(hardware, job, make=HeldSystem)


def test_a_word_of_cells_behind_the_last_pair_is_refused():
    """The programmer is full; the registers know it by `cells_full`."""
    hardware = replace(TINY, crossbar_pairs=2)
    words = hardware.ous_per_crossbar * hardware.cell_words

    async def job(bus, driver, device, ctx):
        data = REGISTER["CELL_DATA"].offset
        await driver.write_register("CELL_PAIR", pair=1)
        for _ in range(words):
            await bus.write(data, 0)
            while (await driver.read_register("STATUS"))["cells_busy"]:
                pass
        with pytest.raises(BusError, match=r"write.*SLVERR"):
            await bus.write(data, 0)
        await driver.write_register("CELL_PAIR", pair=1)
        await bus.write(data, 0)

    run_system(hardware, job)


def test_while_busy_start_is_ignored_and_accesses_to_tables_are_refused():
    program = _residual_program()
    expected = program.run(_memory())

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        await write_memory(driver, _memory())
        await driver.write_register("LAYER_COUNT", layers=4)
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
        await bus.poll(REGISTER["STATUS"].offset, 1, 0, 2 * expected.cycles)
        assert await read_memory(driver) == expected.memory
        assert await driver.cycles() == expected.cycles

    run_system(ROOMY, job)


def test_fewer_steps_than_the_program_has_leave_the_memory_to_read():
    program = _residual_program()

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        for steps in (1, 2, 3):
            await _check_run(program, driver, _memory(), steps)

    run_system(ROOMY, job)


def test_reference_of_a_step_is_its_own():
    program = _single(last=0, target=100, shift=3)
    other = _single(last=0, target=200, shift=3)
    program.steps.append(other.steps[0])

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        # Step 0 sees no current at all.
        await driver.write_region("REFERENCE", [0] * (ROOMY.ou_rows + 1), first=reference_entry(ROOMY, 0))
        memory = _memory()
        await write_memory(driver, memory)
        await driver.start(2, expected_cycles=10_000)
        found = await read_memory(driver)
        made = program.steps[0]
        silent = [step_model.activation(made.fields, b, m, 0) for b, m in zip(made.bias, made.multipliers, strict=True)]
        assert found[100:103] == silent
        assert found[200:203] == program.run(memory).memory[200:203]
        assert found[200:203] != silent

    run_system(ROOMY, job)


def test_trace_names_every_activation_with_its_step_and_window():
    program = _residual_program()
    expected = program.run(_memory())
    places = []

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        await _check_run(program, driver, _memory())

    run_system(ROOMY, job, background=lambda device: [_trace_of(device, places)])
    assert places == sorted(places)
    for index, events in enumerate(expected.events):
        windows = [w for i, w in places if i == index]
        assert len(windows) == events["ou_activations"]
        assert set(windows) <= set(range(program.steps[index].fields["out_plane"]))


def test_trace_of_pairs_has_every_sample_and_every_conversion_with_its_step():
    hardware = replace(ROOMY, machine="pairs", crossbar_pairs=64)
    program = _residual_program(hardware)
    expected = program.run(_memory(hardware))
    records, taken, left = [], set(), set()

    def watch(device):
        trace = device.trace
        values = (trace.valid, trace.layer, *(Value.cast(trace[name]) for name in ("sampled", "converted")))
        places = (trace.place, trace.converted_place)

        async def bench(ctx):
            async for _, _, valid, step, sampled, converted, place, from_place in ctx.tick().sample(*values, *places):
                assert valid == bool(sampled or converted)
                records.append((step, sampled.bit_count(), converted.bit_count()))
                taken.update((half, place[half]) for half in range(2) if sampled >> half & 1)
                lanes = range(2 * hardware.ou_cols)
                left.update((lane // hardware.ou_cols, from_place[lane]) for lane in lanes if converted >> lane & 1)

        return bench

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        await _check_run(program, driver, _memory(hardware))

    run_system(hardware, job, background=lambda device: [watch(device)])
    for index, events in enumerate(expected.events):
        assert sum(sampled for step, sampled, _ in records if step == index) == events["ou_activations"]
        conversions = events["conversions_r1"] + events["conversions_r2"]
        assert sum(converted for step, _, converted in records if step == index) == conversions
    assert left == taken, "every place that was filled, of each half"
