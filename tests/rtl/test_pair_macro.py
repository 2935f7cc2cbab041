"""The pair macros with behavioural arrays: samples, sums, counters and clocks of windows back to back."""

from __future__ import annotations

import random
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from amaranth.lib.memory import Memory

from golden_model.config import PAPER, TINY, HardwareConfig
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.pairs.packs import Packing, pack_layer
from golden_model.trq import AdcRegisters
from rtl import partial_sums
from rtl.pack_walker import PackWalker
from rtl.pair_layouts import SearchMode
from rtl.pair_macros import PairMacros
from sim.bench import simulate
from tests.bench import put
from tests.rtl.pair_bench import (
    Case,
    check,
    layer_settings,
    random_hardware,
    random_layer,
    random_words,
    run,
    wide_layer,
)
from tests.strategies import make_layer

pytestmark = pytest.mark.rtl

#: TINY with enough crossbars for its largest layer.
ROOMY = replace(TINY, crossbar_pairs=64)
MACROS = replace(ROOMY, machine="pairs", macros=4)
MODES = [SearchMode.OUTWARD, SearchMode.BOUNDED]


def _case(seed: int, hardware, **options) -> Case:
    """A random layer somewhere in the tables and crossbars, under one of the searches."""
    rng = random.Random(seed)
    packing, _, windows = random_layer(seed, hardware, windows=max(4, 2 * hardware.macros + 1))
    return Case(
        packing,
        windows,
        rng.choice(MODES),
        crossbar_base=rng.randint(0, hardware.crossbar_pairs - packing.pairs),
        width_base=rng.randint(0, hardware.width_entries - packing.prepared.widths.size),
        seed=seed,
        **options,
    )


# ---- random layers ------------------------------------------------------------------------------
@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("seed", range(10))
def test_random_tiny_layer_equals_the_golden_model_clock_by_clock(seed, interval):
    rng = random.Random(seed)
    hardware = replace(ROOMY, sample_interval=interval, rows=rng.choice([4, 8, 12]), group_segments=rng.choice([1, 2]))
    check(_case(seed, hardware))


@pytest.mark.parametrize("macros", [2, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_rounds_of_several_macros_equal_the_golden_model_clock_by_clock(seed, macros):
    check(_case(seed, replace(MACROS, macros=macros)))


@pytest.mark.parametrize("seed", range(100, 120))
def test_random_hardware_equals_the_golden_model_clock_by_clock(seed):
    check(_case(seed, random_hardware(random.Random(seed))))


@pytest.mark.parametrize("seed", range(200, 230))
def test_early_stop_equals_the_golden_model_clock_by_clock(seed):
    check(
        _stopping(seed, replace(random_hardware(random.Random(seed)), input_bits=5, early_stop=1, channel_entries=64))
    )


@pytest.mark.parametrize("seed", range(3))
def test_early_stop_on_several_macros_equals_the_golden_model_clock_by_clock(seed):
    check(_stopping(seed, replace(MACROS, macros=2, early_stop=1)))


def _stopping(seed: int, hardware, **options) -> Case:
    """A random layer of which outputs may stop early, every third with low bits that dynamic precision leaves out."""
    case = _case(seed, hardware, **options)
    words = random_words(seed, random_layer(seed, hardware)[1])
    if seed % 3 == 0:
        prepared = replace(case.packing.prepared, redy=DynamicPrecision(l_max=3, tau_sq=65535))
        case = replace(case, packing=replace(case.packing, prepared=prepared, tables={}))
    return replace(case, words=words, channel_base=random.Random(seed).randint(0, 10))


@pytest.mark.parametrize(
    "grid",
    [AdcRegisters(mode="uniform", n_r2=3), AdcRegisters(mode="twin", n_r2=2, n_r1=1, m=1)],
    ids=["uniform", "twin"],
)
def test_values_of_a_coarse_grid_are_counted_in_its_steps(grid):
    """Sums of a column are in units of Delta_R1 (system.md §4.2), which `scale` of the constants tells: 2 counts."""
    hardware = replace(ROOMY, machine="pairs")
    case = _case(3, hardware, grid=grid)
    assert case.sums.any()
    check(case)


@pytest.mark.parametrize("places", [2, 4, 8])
def test_samples_wait_for_a_place_that_all_lanes_are_done_with(places):
    """Block columns 0 and 2 are in one half; the latter has one column, the former may have more decisions to make."""
    hardware = replace(ROOMY, machine="pairs", sample_places=places)
    weights = np.array([[0, -1, 1, 1, 1], [0, -1, 1, 1, -1]] * 2)
    layer = make_layer(
        np.random.default_rng(0), hardware, kind="linear", channels=4, height=1, width=1, outputs=5, weights=weights
    )
    check(Case(pack_layer(layer, hardware), np.ones((2, 4), dtype=np.uint8)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("hardware", [ROOMY, MACROS], ids=["one", "macros"])
def test_back_pressure_of_the_array_changes_no_result(seed, hardware):
    check(_case(seed, hardware, sample_stall=[0.3, 0.9][seed % 2]), timing=False)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("hardware", [ROOMY, MACROS], ids=["one", "macros"])
def test_comparators_that_have_not_decided_are_asked_again_and_change_no_result(seed, hardware):
    late = replace(hardware, machine="pairs", comparator_valid=1)
    check(_case(seed, late, undecided=[0.2, 0.7][seed % 2]), timing=False)


@pytest.mark.parametrize("seed", range(3))
def test_comparators_that_always_decide_in_time_cost_no_clock(seed):
    check(_case(seed, replace(ROOMY, machine="pairs", comparator_valid=1)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("hardware", [ROOMY, MACROS], ids=["one", "macros"])
def test_a_window_that_is_started_early_begins_when_tables_and_segments_are_there(seed, hardware):
    check(_case(seed, hardware, segment_stall=[0.0, 0.95][seed % 2]), early=True)


@pytest.mark.parametrize("seed", range(6))
def test_layers_one_after_the_other_leave_nothing_behind(seed):
    first, second = (random_layer(s, ROOMY) for s in (seed, seed + 50))
    room = ROOMY.crossbar_pairs - second[0].pairs
    check(
        Case(first[0], first[2], SearchMode.BOUNDED),
        Case(second[0], second[2], crossbar_base=room, width_base=first[0].prepared.widths.size),
    )


@pytest.mark.parametrize(
    ("most", "segments"), [(ROOMY.max_n, range(1, 100)), (128, [1])], ids=["as they are", "many sums"]
)
def test_sums_begin_at_zero_whatever_their_memories_hold(most, segments):
    """Tables of a small layer are built sooner than all of many sums are cleared, from the first `clear_address` up."""
    hardware = replace(ROOMY, max_n=most)
    layers = (random_layer(seed, hardware, windows=3) for seed in range(1000))
    sizes = ((made, made[0].prepared.widths.shape) for made in layers)
    packing, _, windows = next(made for made, (rows, columns) in sizes if rows in segments and 3 <= columns <= 6)

    def full(*, shape, depth, init):
        return Memory(shape=shape, depth=depth, init=[1] * depth)

    with patch.object(partial_sums, "Memory", full):
        check(Case(packing, windows))


@pytest.mark.slow
def test_a_layer_of_the_paper_machine_equals_the_golden_model():
    hardware = replace(PAPER, max_k=200, max_n=16, crossbar_pairs=16)
    check(_case(2, hardware))


# ---- saturated data -----------------------------------------------------------------------------
def _full(hardware: HardwareConfig, weight: int, *, n: int | None = None) -> tuple[Packing, np.ndarray]:
    """A layer of one weight, all activations at their largest value."""
    layer = random_layer(1, hardware)[1]
    k, n = hardware.max_k, n or hardware.max_n
    weights = np.full((k, n), weight)
    widths = np.full((-(-k // hardware.ou_rows), -(-n // hardware.ou_cols)), hardware.weight_bits)
    layer = replace(
        layer, channels=k, outputs=n, weights=weights, block_widths=widths, dynamic=None,
        input_bits=hardware.input_bits, bias=np.zeros(n, dtype=np.int64), multipliers=np.ones(n, dtype=np.int64),
    )  # fmt: skip
    windows = np.full((2, k), (1 << hardware.input_bits) - 1, dtype=np.uint8)
    return pack_layer(layer, hardware), windows


@pytest.mark.parametrize("sign", [1, -1])
def test_largest_weights_and_activations_are_exact(sign):
    packing, windows = _full(ROOMY, sign * ((1 << ROOMY.weight_bits) - 1))
    check(Case(packing, windows))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_that_does_not_fit_is_saturated_and_told(sign):
    hardware = replace(ROOMY, accumulator_bits=8)
    packing, windows = _full(hardware, sign, n=1)
    result = run(Case(packing, windows))[0]
    assert result.sums[-1] == [127 if sign > 0 else -128]
    assert result.overflow


@pytest.mark.parametrize(("weight", "last", "total"), [(1, 1, 127), (-1, 2, -128)])
def test_sums_that_fit_exactly_are_no_overflow(weight, last, total):
    hardware = replace(ROOMY, accumulator_bits=8, weight_bits=1, input_bits=3)
    packing, _ = _full(hardware, weight, n=1)
    windows = np.zeros((1, hardware.max_k), dtype=np.uint8)
    windows[0, :18] = 7  # 18 * 7 = 126
    windows[0, 18] = last
    result = run(Case(packing, windows))[0]
    assert result.sums == [[total]]
    assert not result.overflow


def test_a_walker_is_finished_from_reset_on():
    dut = PackWalker(ROOMY)

    async def bench(ctx) -> None:
        for _ in range(3):
            assert ctx.get(dut.finished)
            await ctx.tick()

    simulate(dut, bench, limit=10)


# ---- errors -------------------------------------------------------------------------------------
def test_illegal_registers_are_told_and_no_window_begins():
    packing, _, windows = random_layer(1, ROOMY)
    dut = PairMacros(ROOMY)
    case = Case(packing, windows)

    async def bench(ctx) -> None:
        put(ctx, dut.settings, layer_settings(packing))
        put(ctx, dut.search, case.registers() | {"n_r2": ROOMY.adc_bits})
        ctx.set(dut.segments0.valid, 1)  # all that a window needs is there
        ctx.set(dut.segments0.payload.mask, 1)
        ctx.set(dut.layer_start, 1)
        await ctx.tick()
        ctx.set(dut.layer_start, 0)
        await ctx.tick().until(dut.layer_ready)
        await ctx.tick().until(~dut.segments0.ready)
        assert ctx.get(dut.configuration_error)
        ctx.set(dut.active, 1)
        ctx.set(dut.window_start, 1)
        await ctx.tick()
        ctx.set(dut.window_start, 0)
        put(ctx, dut.search, case.registers())
        await ctx.tick().repeat(20)
        assert ctx.get(dut.configuration_error)
        assert ctx.get(dut.counters.input_bits_streamed) == 0
        ctx.set(dut.counters_clear, 1)
        await ctx.tick()
        assert not ctx.get(dut.configuration_error)

    simulate(dut, bench)


def test_the_array_is_told_the_layer():
    dut = PairMacros(ROOMY)

    async def bench(ctx) -> None:
        for layer in range(ROOMY.max_layers):
            ctx.set(dut.layer, layer)
            assert ctx.get(dut.crossbar.layer) == layer

    simulate(dut, bench)


def test_a_layer_that_needs_too_many_pairs_is_a_placement_error():
    packing, _ = wide_layer(ROOMY)
    hardware = replace(ROOMY, crossbar_pairs=packing.pairs - 1)
    dut = PairMacros(hardware)

    async def bench(ctx) -> None:
        put(ctx, dut.settings, layer_settings(packing))
        for i, width in enumerate(packing.prepared.widths.ravel()):
            put(ctx, dut.width_write, {"enable": 1, "address": i, "data": int(width)})
            await ctx.tick()
        ctx.set(dut.layer_start, 1)
        await ctx.tick()
        ctx.set(dut.layer_start, 0)
        await ctx.tick().until(dut.placement_error)
        await ctx.tick().repeat(200)
        assert not ctx.get(dut.layer_ready)

    simulate(dut, bench, limit=5000)
