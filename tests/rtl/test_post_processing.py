"""Requantisation, residual, pooling and storing against the scalar model of a step."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from amaranth.hdl import Signal
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import TINY
from golden_model.registers import StepKind
from rtl.post_processing import PostProcessing
from rtl.requantisation import Requantisation
from sim.bench import simulate
from tests.bench import collector, fetch, put
from tests.rtl import step_model
from tests.rtl.tile_tools import strobe, write_table

pytestmark = pytest.mark.rtl

WIDE = replace(TINY, input_bits=8)
PAIRS = replace(WIDE, machine="pairs")
MACROS = replace(PAIRS, macros=4)
#: Tables of activation functions that rise, fall and jump.
TABLES = [random.Random(i).choices(range(256), k=256) for i in range(3)]
#: A machine and the most ones of an activation that it may be asked for.
MACHINES = st.one_of(st.just((WIDE, 0)), st.tuples(st.sampled_from([PAIRS, MACROS]), st.integers(0, 8)))
LOOKUPS = st.none() | st.integers(0, len(TABLES))


def with_tables(hardware, lookup):
    """The machine, and the descriptor field of a table, 0 for no table; None : neither has tables."""
    if lookup is None:
        return hardware, {}
    return replace(hardware, activation_tables=len(TABLES)), {"lookup": lookup}


def ones_field(ones):
    """The descriptor field of levels with few ones, where there is one."""
    return {"out_ones": ones} if ones else {}


LARGEST, SMALLEST = (1 << 31) - 1, -(1 << 31)


def _run(fields, values, residuals, bias=(), multipliers=(), *, hardware=WIDE, stall=0.0):
    """Stores, logits, clocks of every round, the overflow flag.

    values, residuals : per window, per channel: partial sums of a crossbar step, reduced values of an element step.
    Clocks count from `start`, or from the last channel's `reduced`, to `done`.
    """
    dut = PostProcessing(hardware)
    element, outputs = step_model.is_element(fields), fields["outputs"]
    stores, logits, clocks, overflow = [], [], [], []
    round_index, channel_index = Signal(16), Signal(16)
    rng = random.Random(3)
    macros, rounds = range(hardware.macros), step_model.rounds(fields, hardware.macros)
    idle = [{"valid": 0, "value": 77, "residual": 55, "last": 0} for _ in macros]

    def of_round(index, what, unused):
        """What the windows of a round have, and `unused` for macros without a window."""
        windows = rounds[index]
        return [what(windows[i]) if i < len(windows) else unused for i in macros]

    async def macro(ctx):
        """Sums that were taken are not there any more."""
        taken = set()
        async for _, _, address, column, take, index in ctx.tick().sample(
            dut.sums_address, dut.sums_column, dut.sums_taken, round_index
        ):
            channel = hardware.ou_cols * address + column
            there = channel < outputs and (index, address) not in taken
            sums = [window[channel] if there else 99 for window in values]
            ctx.set(dut.sums, of_round(index, sums.__getitem__, 123))
            if take:
                taken.add((index, address))

    async def view(ctx):
        async for _, _, requested, index, channel in ctx.tick().sample(
            dut.residual_request, round_index, channel_index
        ):
            for i, value in enumerate(of_round(index, lambda window: window, None)):
                known = requested and value is not None
                ctx.set(dut.residuals[i], residuals[value][channel] if known else rng.randrange(256))
            ctx.set(channel_index, channel + 1 if requested else 0)

    async def bench(ctx):
        put(ctx, dut.settings, fields)
        await write_table(ctx, dut.bias_write, bias, fields["channel_base"])
        await write_table(ctx, dut.multiplier_write, multipliers, fields["channel_base"])
        if hardware.looks_up:
            await write_table(ctx, dut.lookup_write, [entry for table in TABLES for entry in table])
        await strobe(ctx, dut.clear)
        await strobe(ctx, dut.layer_start)
        inside = fields["pool"] ** 2
        for index, windows in enumerate(rounds):
            ctx.set(round_index, index)
            put(
                ctx,
                dut.place,
                {
                    "pool_first": int(index % inside == 0),
                    "pool_last": int(index % inside == inside - 1),
                    "last": int(index == len(rounds) - 1),
                    "active": (1 << len(windows)) - 1,
                },
            )
            await strobe(ctx, dut.start)
            count = 1
            if element:
                for n in range(outputs):
                    while rng.random() < stall:
                        await ctx.tick()
                    last = int(n == outputs - 1)
                    put(
                        ctx,
                        dut.reduced,
                        of_round(
                            index,
                            lambda w, n=n, last=last: {
                                "valid": 1,
                                "value": values[w][n],
                                "residual": residuals[w][n],
                                "last": last,
                            },
                            idle[0],
                        ),
                    )
                    await ctx.tick()
                    put(ctx, dut.reduced, idle)
                count = 1
            while not ctx.get(dut.done):
                await ctx.tick()
                count += 1
                assert count < 100
            clocks.append(count)
            await ctx.tick()
        overflow.append(ctx.get(dut.overflow))

    async def store(ctx):
        async for _, _, enable, address, data in ctx.tick().sample(dut.store.enable, dut.store.address, dut.store.data):
            stores.extend((address + i, data[i]) for i in macros if enable >> i & 1)

    simulate(
        dut,
        bench,
        processes=[macro, view],
        background=[
            store,
            collector(dut.logits.enable, dut.logits.address, dut.logits.data, into=logits),
        ],
        limit=20_000,
    )
    return sorted(stores), logits, clocks, overflow[0]


def _expected(fields, values, residuals, bias, multipliers):
    """Stores by address, logits in order, and whether a logit was saturated."""
    stores, logits, overflow = [], [], 0
    inside, outputs = fields["pool"] ** 2, fields["outputs"]
    element = step_model.is_element(fields)
    for position in range(len(values) // inside):
        part = slice(position * inside, (position + 1) * inside)
        for n in range(outputs):
            made = []
            for row, beside in zip(values[part], residuals[part], strict=True):
                biased = row[n] if element else row[n] + bias[n]
                multiplier = fields["multiplier"] if element else multipliers[n]
                made.append(step_model.activation(fields, biased, multiplier, beside[n], TABLES))
                if fields["last"]:
                    stored, lost = step_model.logit(biased + (step_model.low_offset(fields) if element else 0))
                    logits.append((n * fields["out_plane"] + position, stored))
                    overflow |= lost
            stores.append((fields["target"] + n * fields["out_plane"] + position, max(made)))
    return ([], logits, overflow) if fields["last"] else (sorted(stores), [], overflow)


def _check(fields, values, residuals=None, bias=(), multipliers=(), *, hardware=WIDE, **options):
    if residuals is None:
        residuals = [[0] * fields["outputs"]] * len(values)
    stores, logits, clocks, overflow = _run(fields, values, residuals, bias, multipliers, hardware=hardware, **options)
    assert (stores, logits, overflow) == _expected(fields, values, residuals, bias, multipliers)
    if step_model.is_element(fields):
        assert set(clocks) == {PostProcessing.latency(hardware) - 2}
    else:
        assert set(clocks) == {fields["outputs"] - 1 + PostProcessing.latency(hardware)}


_offsets = st.one_of(st.integers(-(1 << 47), (1 << 47) - 1), st.integers(-5000, 5000))


@given(
    seed=st.integers(0, 1000),
    shift=st.integers(0, 63),
    bits=st.integers(1, 8),
    pool=st.integers(1, 3),
    outputs=st.integers(1, 8),
    width=st.integers(1, 6),
    size=st.integers(1, 31),
    offset=_offsets,
    machine=MACHINES,
    lookup=LOOKUPS,
)
@settings(max_examples=40)
def test_crossbar_steps_of_random_sums_equal_the_model(
    seed, shift, bits, pool, outputs, width, size, offset, machine, lookup
):
    hardware, ones = machine
    hardware, table = with_tables(hardware, lookup)
    rng = random.Random(seed)
    top = 1 << size
    residual = int(pool == 1 and rng.random() < 0.7)
    fields = step_model.step(
        hardware, outputs=outputs, out_height=2, out_width=width, pool=pool, shift=shift, out_bits=bits,
        residual=residual, residual_multiplier=rng.randrange(1 << rng.randint(1, 32)), channel_base=rng.randrange(24),
        target=rng.randint(0, WIDE.activation_bytes - 2 * width * outputs), **step_model.with_offset(offset),
        **ones_field(ones), **table,
    )  # fmt: skip
    windows = 2 * width * pool * pool
    _check(
        fields,
        [[rng.randrange(-top, top) for _ in range(outputs)] for _ in range(windows)],
        [[rng.randrange(256) if residual else 0 for _ in range(outputs)] for _ in range(windows)],
        [rng.randrange(-top, top) for _ in range(outputs)],
        [rng.randrange(65536) for _ in range(outputs)],
        hardware=hardware,
    )


@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from([StepKind.MAXIMUM, StepKind.SUM]),
    shift=st.integers(0, 63),
    bits=st.integers(1, 8),
    outputs=st.integers(1, 8),
    size=st.integers(1, 24),
    offset=_offsets,
    last=st.booleans(),
    stall=st.sampled_from([0.0, 0.4]),
    machine=MACHINES,
    lookup=LOOKUPS,
)
@settings(max_examples=40)
def test_element_steps_of_random_values_equal_the_model(
    seed, kind, shift, bits, outputs, size, offset, last, stall, machine, lookup
):
    hardware, ones = machine
    hardware, table = with_tables(hardware, lookup)
    rng = random.Random(seed)
    height = rng.randint(1, max(1, WIDE.max_n // outputs)) if last else 2
    width = 1 if last else rng.randint(1, 6)
    fields = step_model.step(
        hardware, step=kind, outputs=outputs, out_height=height, out_width=width, shift=shift, out_bits=bits,
        multiplier=rng.randrange(65536), residual=int(not last), last=int(last),
        residual_multiplier=rng.randrange(1 << rng.randint(1, 32)),
        target=rng.randint(0, WIDE.activation_bytes - height * width * outputs), **step_model.with_offset(offset),
        **ones_field(ones), **table,
    )  # fmt: skip
    _check(
        fields,
        [[rng.randrange(1 << size) for _ in range(outputs)] for _ in range(height * width)],
        [[rng.randrange(256) if not last else 0 for _ in range(outputs)] for _ in range(height * width)],
        stall=stall,
        hardware=hardware,
    )


@pytest.mark.parametrize("shift", [0, 1, 2, 7])
def test_halves_round_up_for_both_signs(shift):
    fields = step_model.step(WIDE, outputs=4, out_height=4, shift=shift)
    sums = [[4 * row + column - 10 for column in range(4)] for row in range(4)]
    _check(fields, sums, bias=[0, 8, 40, 100], multipliers=[1, 1, 3, 5])


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_a_half_above_the_largest_level_is_that_level(bits):
    largest = (1 << bits) - 1
    fields = step_model.step(WIDE, outputs=4, shift=1, out_bits=bits)
    _check(fields, [[2 * largest + i for i in (-1, 0, 1, 2)]], bias=[0] * 4, multipliers=[1] * 4)


@pytest.mark.parametrize("value", [LARGEST, SMALLEST])
@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("shift", [0, 31, 48, 63])
def test_saturated_sums_bias_multipliers_residual_and_offset_equal_the_model(value, sign, shift):
    fields = step_model.step(
        WIDE, outputs=3, shift=shift, residual=1, residual_multiplier=(1 << 32) - 1,
        **step_model.with_offset(-(1 << 47) if sign else (1 << 47) - 1),
    )  # fmt: skip
    _check(fields, [[value] * 3], [[255] * 3], [value] * 3, [65535] * 3)


@pytest.mark.parametrize("kind", [StepKind.MAXIMUM, StepKind.SUM])
@pytest.mark.parametrize("shift", [32, 41, 63])
def test_saturated_element_step_equals_the_model(kind, shift):
    fields = step_model.step(
        WIDE, step=kind, outputs=2, shift=shift, residual=1, multiplier=65535, residual_multiplier=(1 << 32) - 1,
        **step_model.with_offset((1 << 47) - 1),
    )  # fmt: skip
    _check(fields, [[(1 << 24) - 1] * 2], [[255] * 2])


def test_pooling_takes_the_largest_activation_not_that_of_the_largest_code():
    hardware, table = with_tables(WIDE, 1)
    fields = step_model.step(hardware, outputs=1, pool=2, **table)
    made = TABLES[0]
    low, high = next((a, b) for a in range(255) for b in range(a + 1, 256) if b > made[a] > made[b])
    stores = _run(fields, [[low], [high], [high], [high]], [[0]] * 4, [0], [1], hardware=hardware)[0]
    assert stores == [(0, made[low])]


def test_codes_saturate_at_both_ends_of_a_table():
    hardware, table = with_tables(WIDE, 2)
    fields = step_model.step(hardware, outputs=2, out_bits=7, **table)
    stores = _run(fields, [[-5, 200]], [[0] * 2], [0] * 2, [1] * 2, hardware=hardware)[0]
    assert stores == [(0, TABLES[1][0]), (1, TABLES[1][127])]


def test_a_residual_of_one_step_is_not_seen_by_a_channel_beside_it():
    fields = step_model.step(WIDE, outputs=4, residual=1, residual_multiplier=1)
    _check(fields, [[0] * 4], [[1, 0, 255, 0]], [0] * 4, [0] * 4)


def _last(outputs, **values):
    return step_model.step(WIDE, outputs=outputs, last=1, **values)


def test_last_step_stores_signed_logits():
    _check(_last(4), [[-7, 7, (1 << 30) - 1, -(1 << 30)]], bias=[5, -5, 1 << 30, -(1 << 30)], multipliers=[3] * 4)


@pytest.mark.parametrize("value", [LARGEST, SMALLEST])
def test_logit_beyond_32_bits_saturates_and_sets_overflow(value):
    sums = [[1 if value > 0 else -1, 1]]
    _check(_last(2), sums, bias=[value, 0], multipliers=[1, 1])
    assert _run(_last(2), sums, [[0, 0]], [value, 0], [1, 1])[1:] == ([(0, value), (1, 1)], [7], 1)


@pytest.mark.parametrize("offset", [LARGEST, -5, SMALLEST])
def test_logits_of_an_element_step_with_several_positions_get_the_low_offset(offset):
    fields = _last(2, step=StepKind.SUM, out_height=3, target=100, **step_model.with_offset(offset))
    _check(fields, [[0, 1], [200, 3], [4, (1 << 24) - 1]])


def test_clear_forgets_an_overflow():
    dut = PostProcessing(WIDE)

    async def bench(ctx):
        put(ctx, dut.settings, _last(1))
        ctx.set(dut.sums[0], 1)
        await write_table(ctx, dut.bias_write, [LARGEST])
        await strobe(ctx, dut.start)
        await ctx.tick().repeat(8)
        assert fetch(ctx, dut.overflow) == 1
        await strobe(ctx, dut.clear)
        assert fetch(ctx, dut.overflow) == 0

    simulate(dut, bench, limit=100)


@pytest.mark.parametrize("hardware", [WIDE, PAIRS], ids=["planes", "pairs"])
def test_a_step_of_the_requantisation_that_is_left_out_holds_what_it_has(hardware):
    dut = Requantisation(hardware)

    async def give(ctx, value, without=None):
        ctx.set(dut.value, value)
        for step in range(Requantisation.latency(hardware)):
            ctx.set(dut.steps, 1 << step if step != without else 0)
            await ctx.tick()
        return ctx.get(dut.made)

    async def bench(ctx):
        put(ctx, dut.settings, step_model.step(hardware))
        ctx.set(dut.multiplier, 1)
        assert await give(ctx, 5) == 5
        for step in range(len(dut.steps)):
            assert await give(ctx, 10 + step, without=step) == 5
            assert await give(ctx, 5) == 5

    simulate(dut, bench, limit=200)
