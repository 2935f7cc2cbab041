"""The macro with an ideal crossbar: sums, trace, counters and clocks of whole windows."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from golden_model import layer as golden_layer
from golden_model import timing
from golden_model.config import ISAAC, PAPER, TINY, HardwareConfig
from golden_model.crossbar import mapping, redy
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.crossbar.prepared import prepare
from golden_model.crossbar.trace import window_trace
from golden_model.events import Events
from golden_model.trq import AdcRegisters, min_count
from rtl.macro import Macro
from sim.bench import simulate
from tests.bench import put
from tests.rtl.macro_bench import (
    Case,
    check,
    first_difference,
    full_masks,
    meaningful,
    random_case,
    random_registers,
    random_weights,
    run,
)

pytestmark = pytest.mark.rtl

#: Fields of a trace record that hold a bit per lane.
_LANE_FLAGS = ("started", "range_flags")

LOSSLESS = AdcRegisters(mode="twin", n_r2=3, n_r1=1)
#: TINY with enough crossbars for its largest layer at full width.
ROOMY = replace(TINY, crossbar_pairs=16)


def _plain_case(hardware: HardwareConfig, weights, activations, registers=LOSSLESS, **options) -> Case:
    """Every bit of every segment streamed, widths as the weights need them."""
    weights, activations = np.asarray(weights), np.asarray(activations)
    widths = options.pop("widths", None)
    widths = mapping.block_widths(weights, hardware) if widths is None else np.asarray(widths)
    return Case(
        hardware=hardware,
        registers=registers,
        weights=weights,
        activations=activations,
        widths=widths,
        masks=options.pop("masks", full_masks(hardware, len(activations), len(widths))),
        **options,
    )


# ---- random layers ------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(25))
def test_random_tiny_layer_equals_the_oracle_clock_by_clock(seed):
    check(random_case(seed, TINY, segments=6, columns=4))


def _random_hardware(rng: random.Random) -> HardwareConfig:
    ou_rows, ou_cols = rng.randint(1, 6), rng.randint(1, 3)
    return HardwareConfig(
        ou_rows=ou_rows,
        ou_cols=ou_cols,
        rows=ou_rows * rng.randint(1, 3) + rng.randint(0, ou_rows - 1),
        cols=ou_cols * rng.randint(1, 5),
        adc_bits=rng.randint(1, 5),
        input_bits=rng.randint(1, 5),
        weight_bits=rng.randint(1, 6),
        crossbar_pairs=130,
        max_k=ou_rows * 5,
        max_n=ou_cols * rng.randint(1, 4),
        width_entries=64,
        sample_interval=rng.choice([1, 2, 3, 7]),
        accumulator_bits=rng.choice([24, 32]),
    )


@pytest.mark.parametrize("seed", range(12))
def test_random_hardware_equals_the_oracle_clock_by_clock(seed):
    check(random_case(seed, _random_hardware(random.Random(seed)), segments=4, columns=4, windows=1))


@pytest.mark.parametrize("seed", range(8))
def test_back_pressure_changes_no_result(seed):
    rng = random.Random(seed)
    case = random_case(seed, replace(TINY, sample_interval=rng.choice([1, 2])), segments=4, columns=4)
    case = replace(case, sample_stall=rng.choice([0.0, 0.5, 0.9]), segment_stall=rng.choice([0.5, 0.9]))
    check(case, timing=False)


@pytest.mark.parametrize("seed", range(8))
def test_comparators_that_have_not_decided_are_asked_again_and_change_no_result(seed):
    hardware = replace(TINY, sample_interval=[1, 2][seed % 2], comparator_valid=1)
    case = random_case(seed, hardware, segments=4, columns=4)
    check(replace(case, undecided=[0.2, 0.7][seed // 2 % 2], sample_stall=[0.0, 0.5][seed // 4]), timing=False)


@pytest.mark.parametrize("seed", range(3))
def test_comparators_that_always_decide_in_time_cost_no_clock(seed):
    check(random_case(seed, replace(TINY, comparator_valid=1), segments=4, columns=4))


@pytest.mark.parametrize("seed", range(3))
def test_random_layer_of_the_paper_machine_equals_the_oracle(seed):
    check(random_case(seed, PAPER, segments=3, columns=3, windows=1))


def test_random_layer_of_whole_columns_equals_the_oracle():
    case = random_case(5, ISAAC, segments=2, columns=2, windows=1)
    check(replace(case, registers=AdcRegisters(mode="twin", n_r2=8, n_r1=4, bias=1)))


# ---- against the golden model -------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(8))
def test_sums_events_and_clocks_equal_golden_matmul(seed):
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    hardware = replace(TINY, group_segments=rng.choice([None, 1, 3]), sample_interval=rng.choice([1, 1, 4]))
    k, n = rng.randint(1, hardware.max_k), rng.randint(1, hardware.max_n)
    shape = (-(-k // hardware.ou_rows), -(-n // hardware.ou_cols))
    widths = numbers.integers(0, hardware.weight_bits + 1, shape)
    weights = random_weights(numbers, hardware, k, n, widths)
    activations = numbers.integers(0, 1 << hardware.input_bits, (3, k)) * (numbers.random((3, k)) < 0.6)
    activations[:, : k // 2] //= rng.choice([1, 4])
    dynamic = rng.choice([None, DynamicPrecision(l_max=3, tau_sq=rng.randint(0, 3000))])
    registers = random_registers(rng, hardware.adc_bits)
    scale = min_count(hardware.adc_bits, rng.choice([1.0, 0.7, 1.5]))
    skip = rng.random() < 0.5
    prepared = prepare(
        weights, hardware, registers, block_widths=widths, redy=dynamic, skip_zero_slices=skip, min_count=scale
    )
    sums, events = golden_layer.run(prepared, activations)
    masks = full_masks(hardware, 3, shape[0])
    if dynamic is not None:
        choice = redy.precision(activations, hardware, dynamic)
        bits = np.arange(hardware.input_bits)
        group = np.arange(shape[0]) // hardware.segments_per_group
        on = (bits >= choice.lo[:, group, None]) & (bits <= choice.hi[:, group, None])
        masks = (on << bits).sum(axis=2)
        activations = choice.streamed
    case = _plain_case(
        hardware, weights, activations, registers, widths=widths, masks=masks, min_count=scale, skip_zero_slices=skip
    )
    actual = run(case)
    assert actual.sums == sums.tolist()
    for window, counters in enumerate(actual.counters):
        golden: Events = events[window]
        assert counters == {name: int(golden[name]) for name in counters}
        # The tile's own clocks (loading, reading out, constants) are not the macro's.
        outside = timing.window_cycles(hardware, k, n, np.zeros((1, shape[0])))[0]
        outside -= (shape[0]) * shape[1]
        assert actual.clocks[window] == int(golden["cycles"]) - int(outside) + Macro.window_overhead


@pytest.mark.parametrize("seed", range(4))
def test_trace_equals_golden_trace_in_order(seed):
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    hardware = replace(TINY, crossbar_pairs=16)
    k, n = rng.randint(1, hardware.max_k), rng.randint(1, hardware.max_n)
    shape = (-(-k // hardware.ou_rows), -(-n // hardware.ou_cols))
    widths = numbers.integers(0, hardware.weight_bits + 1, shape)
    layer = Layer(
        name="fc",
        kind="linear",
        channels=k,
        height=1,
        width=1,
        kernel_height=1,
        kernel_width=1,
        stride=1,
        pad=0,
        pool=1,
        outputs=n,
        weights=random_weights(numbers, hardware, k, n, widths),
        bias=np.zeros(n, dtype=np.int64),
        multipliers=np.ones(n, dtype=np.int64),
        shift=0,
        block_widths=widths,
        registers=random_registers(rng, hardware.adc_bits),
        min_count=min_count(hardware.adc_bits),
        skip_zero_slices=bool(seed % 2),
        input_bits=3,
    )
    activations = numbers.integers(0, 8, (1, k)) * (numbers.random((1, k)) < 0.5)
    case = _plain_case(
        hardware,
        layer.weights,
        activations,
        layer.registers,
        widths=widths,
        masks=full_masks(hardware, 1, shape[0], bits=3),
        skip_zero_slices=layer.skip_zero_slices,
        crossbar_base=1,
    )
    golden = []
    for record in window_trace(layer, hardware, mapping.place_layer(widths, hardware, crossbar_base=1), activations[0]):
        names = ("segment", "input_bit", "block_col", "plane", "pair", "ou_row", "ou_col")
        flags = {name: sum(int(x) << i for i, x in enumerate(getattr(record, name))) for name in _LANE_FLAGS}
        golden.append({name: getattr(record, name) for name in names} | flags | {"codes": record.codes.tolist()})
    actual = [meaningful(record) for record in run(case).records[0]]
    assert first_difference(actual, golden) is None


def test_lossless_setting_gives_the_integer_product():
    numbers = np.random.default_rng(3)
    weights = numbers.integers(-7, 8, (23, 7))
    activations = numbers.integers(0, 16, (3, 23))
    assert run(_plain_case(ROOMY, weights, activations)).sums == (activations @ weights).tolist()


# ---- corners ------------------------------------------------------------------------------------
@pytest.mark.parametrize("sign", [1, -1])
def test_saturated_data_fills_every_width(sign):
    weights = np.full((TINY.max_k, TINY.max_n), sign * 7)
    activations = np.full((2, TINY.max_k), 15)
    for registers in (LOSSLESS, AdcRegisters(mode="uniform", n_r2=3), AdcRegisters(mode="uniform", n_r2=1, m=2)):
        check(_plain_case(ROOMY, weights, activations, registers))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hardware", "k"), [(PAPER, 27), (replace(ISAAC, rows=128), 256)], ids=["nine rows", "128 rows"]
)
def test_saturated_data_fills_every_width_of_large_machines(hardware, k):
    registers = AdcRegisters(mode="twin", n_r2=hardware.adc_bits, n_r1=2)
    weights = np.full((k, 16), 255)
    weights[:, 1::2] = -255
    check(_plain_case(hardware, weights, np.full((1, k), 255), registers))


def test_saturated_samples_give_the_top_code():
    """Counts above the top of a scaled grid (lambda = 1/4) all read as the largest level."""
    weights = np.full((8, 2), 7)
    case = _plain_case(ROOMY, weights, np.full((1, 8), 15), min_count=min_count(3, 0.25))
    assert case.levels == [0, 4, 7, 7, 7]
    check(case)


def test_layer_of_empty_blocks_takes_one_width_row_per_segment():
    weights = np.zeros((24, 8), dtype=int)
    case = _plain_case(ROOMY, weights, np.full((1, 24), 15))
    actual = check(case)
    assert actual.records == [[]]
    assert actual.clocks == [6 * 4 + Macro.window_overhead]


def test_zero_slices_cost_time_only_if_not_skipped():
    weights = np.full((8, 2), 7)
    activations = np.zeros((1, 8), dtype=int)
    kept = check(_plain_case(ROOMY, weights, activations))
    skipped = check(_plain_case(ROOMY, weights, activations, skip_zero_slices=True))
    assert kept.counters[0]["ou_activations"] == 2 * 4 * 3
    assert skipped.counters[0]["ou_activations"] == 0
    assert skipped.counters[0]["skipped_zero_slices"] == 2 * 4 * 3
    assert skipped.clocks[0] < kept.clocks[0]


def test_group_without_bits_costs_no_activation():
    weights = np.full((12, 2), 5)
    masks = np.array([[0b1111, 0, 0b0110]])
    actual = check(_plain_case(ROOMY, weights, np.full((1, 12), 15), masks=masks))
    assert actual.counters[0]["input_bits_streamed"] == 6
    assert {r["segment"] for r in actual.records[0]} == {0, 2}


def test_columns_behind_n_never_start():
    weights = np.full((4, 3), 7)
    actual = check(_plain_case(ROOMY, weights, np.full((1, 4), 15)))
    started = {record["block_col"]: record["started"] for record in actual.records[0]}
    assert started == {0: 0b1111, 1: 0b0101}


def test_one_column_of_one_row():
    check(_plain_case(ROOMY, [[-5]], [[11], [0], [15]]))


def test_later_window_starts_from_cleared_sums():
    case = _plain_case(ROOMY, np.full((8, 4), 3), [[15] * 8, [0] * 8, [1] * 8], skip_zero_slices=True)
    assert check(case).sums[1] == [0, 0, 0, 0]


# ---- time ---------------------------------------------------------------------------------------
ONE_CLOCK = AdcRegisters(mode="uniform", n_r2=1, m=2)


@pytest.mark.parametrize("sample_interval", [1, 2, 5])
@pytest.mark.parametrize("block_cols", [1, 2, 4])
@pytest.mark.parametrize("planes", [0, 1, 3])
def test_clocks_of_a_segment_are_those_of_conversion_or_expansion(sample_interval, block_cols, planes):
    """W + max(C, W) + max(C, W) + C + overhead, C = 4 bits x planes x max(1, interval)."""
    hardware = replace(TINY, sample_interval=sample_interval)
    widths = np.zeros((3, block_cols), dtype=int)
    widths[:, 0] = planes
    weights = np.zeros((12, 2 * block_cols), dtype=int)
    case = _plain_case(hardware, weights, np.full((1, 12), 15), ONE_CLOCK, widths=widths)
    conversion = 4 * planes * sample_interval
    expected = block_cols + 2 * max(conversion, block_cols) + conversion + Macro.window_overhead
    assert check(case).clocks == [expected]


def test_next_sample_is_taken_in_the_last_clock_of_the_present_conversion():
    """Conversions of one operation give one OU activation per clock."""
    weights = np.full((4, 8), 7)
    actual = check(_plain_case(ROOMY, weights, np.full((1, 4), 15), ONE_CLOCK))
    assert actual.counters[0]["ou_activations"] == 48
    assert actual.clocks == [4 + 48 + Macro.window_overhead]


# ---- errors -------------------------------------------------------------------------------------
def test_illegal_registers_are_reported_before_the_start():
    case = _plain_case(ROOMY, [[1]], [[1]])
    bad = replace(case, registers=AdcRegisters(mode="twin", n_r2=3, n_r1=3))
    assert run(bad).configuration_error == 1
    assert run(case).configuration_error == 0


def test_planes_beyond_the_last_pair_are_a_placement_error_and_none_is_sampled():
    case = _plain_case(TINY, np.full((4, 2), 7), [[1] * 4])
    for base, fits in ((TINY.crossbar_pairs - 1, True), (TINY.crossbar_pairs, False)):
        dut = Macro(TINY)

        async def bench(ctx, dut=dut, base=base, fits=fits):
            put(ctx, dut.settings, case.settings() | {"crossbar_base": base})
            for i, width in enumerate(case.widths.ravel()):
                put(ctx, dut.width_write, {"enable": 1, "address": case.width_base + i, "data": int(width)})
                await ctx.tick()
            ctx.set(dut.width_write.enable, 0)
            await ctx.tick().repeat(2)
            put(ctx, dut.segments.payload, {"slices": [1] * TINY.input_bits, "mask": 1})
            ctx.set(dut.segments.valid, 1)
            ctx.set(dut.window_start, 1)
            await ctx.tick()
            ctx.set(dut.window_start, 0)
            seen = set()
            for _ in range(20):
                seen.add((ctx.get(dut.placement_error), ctx.get(dut.crossbar.sample.valid)))
                await ctx.tick()
            assert {(1, 0), (0, 1)} & seen == ({(0, 1)} if fits else {(1, 0)})

        simulate(dut, bench, limit=200)


def test_overflow_is_sticky_and_saturates():
    hardware = replace(TINY, accumulator_bits=10)
    weights = np.full((24, 2), 7)
    case = _plain_case(hardware, weights, [[15] * 24, [1] * 24])
    actual = run(case)
    assert actual.sums == [[511, 511], [168, 168]]
    assert actual.overflow == 1
    assert run(replace(case, activations=np.full((1, 24), 1), masks=case.masks[:1])).overflow == 0


@pytest.mark.parametrize("column", range(TINY.ou_cols))
def test_overflow_of_one_column_alone_is_reported(column):
    hardware = replace(TINY, accumulator_bits=10)
    weights = np.ones((24, TINY.ou_cols), dtype=int)
    weights[:, column] = 7
    actual = run(_plain_case(hardware, weights, np.full((1, 24), 15)))
    assert actual.sums == [[511 if j == column else 360 for j in range(TINY.ou_cols)]]
    assert actual.overflow == 1
