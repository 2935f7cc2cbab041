"""Decoding shift-and-add unit (system.md §3, §4.3)."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from golden_model.config import ISAAC, PAPER, TINY, HardwareConfig
from golden_model.trq import convert
from rtl.decode_shift_add import DecodeShiftAdd, needed_bits
from sim.bench import simulate
from tests.bench import put
from tests.rtl.legal_registers import every_legal_setting
from tests.rtl.macro_bench import random_registers

pytestmark = pytest.mark.rtl


def _accumulate(config: HardwareConfig, m: int, window_low: int, steps: list[dict], first: int = 0):
    """Feed the unit its own total; returns [(total, overflow)] of every step."""
    dut = DecodeShiftAdd(config)
    seen = []

    async def bench(ctx):
        put(ctx, dut.m, m)
        put(ctx, dut.window_low, window_low)
        total = first
        for step in steps:
            for name, value in step.items():
                put(ctx, getattr(dut, name), value)
            ctx.set(dut.enable, 1)
            await ctx.tick()
            ctx.set(dut.enable, 0)
            put(ctx, dut.partial, total)
            total = ctx.get(dut.total)
            seen.append((total, ctx.get(dut.overflow)))

    simulate(dut, bench, limit=len(steps) + 10)
    return seen


def _word(result, index: int) -> dict[str, int]:
    return {"range_flag": int(result.range_flag[index]), "code": int(result.code[index])}


@pytest.mark.parametrize("adc_bits", [1, 2, 3, 4])
def test_every_code_decodes_to_the_golden_value(adc_bits):
    config = replace(TINY, adc_bits=adc_bits)
    rng = random.Random(adc_bits)
    for registers in rng.sample(every_legal_setting(adc_bits), min(25, len(every_legal_setting(adc_bits)))):
        result = convert(range(1 << adc_bits), adc_bits, registers)
        steps, expected, total = [], [], 0
        for level in range(1 << adc_bits):
            other = rng.randrange(1 << adc_bits)
            shift = rng.randint(0, config.input_bits + config.weight_bits - 2)
            steps.append(
                {"positive": _word(result, level), "negative": _word(result, other), "started": 1, "shift": shift}
            )
            total += (int(result.value[level]) - int(result.value[other])) << shift
            expected.append((total, 0))
        assert _accumulate(config, registers.m, registers.bias << registers.n_r1, steps) == expected, registers


@pytest.mark.parametrize("config", [PAPER, ISAAC], ids=["paper", "isaac"])
def test_largest_codes_of_both_polarities_do_not_wrap(config):
    top = {"range_flag": 1, "code": (1 << config.adc_bits) - 1}
    zero = {"range_flag": 1, "code": 0}
    shift = config.input_bits + config.weight_bits - 2
    step = ((1 << config.adc_bits) - 1) << shift
    ups = [{"positive": top, "negative": zero, "started": 1, "shift": shift}] * 3
    downs = [{"positive": zero, "negative": top, "started": 1, "shift": shift}] * 6
    totals = [step, 2 * step, 3 * step, 2 * step, step, 0, -step, -2 * step, -3 * step]
    assert _accumulate(config, 0, 0, ups + downs) == [(total, 0) for total in totals]


def test_column_that_did_not_start_adds_nothing():
    top = {"range_flag": 1, "code": 7}
    steps = [{"positive": top, "negative": {"range_flag": 0, "code": 0}, "started": 0, "shift": 3}]
    assert _accumulate(TINY, 0, 0, steps, first=-5) == [(-5, 0)]


def test_narrow_accumulator_saturates_both_ways_and_tells():
    config = replace(TINY, accumulator_bits=8)
    assert needed_bits(config) > 8
    top, zero = {"range_flag": 1, "code": 7}, {"range_flag": 1, "code": 0}
    up = {"positive": top, "negative": zero, "started": 1, "shift": 3}
    down = {"positive": zero, "negative": top, "started": 1, "shift": 3}
    seen = _accumulate(config, 0, 0, [up, up, up, down, down, down, down, down])
    expected = [(56, 0), (112, 0), (127, 1), (71, 0), (15, 0), (-41, 0), (-97, 0), (-128, 1)]
    assert seen == expected


def test_exact_border_of_a_narrow_accumulator_is_no_overflow():
    config = replace(TINY, accumulator_bits=8)
    one, zero = {"range_flag": 1, "code": 1}, {"range_flag": 1, "code": 0}
    up = {"positive": one, "negative": zero, "started": 1, "shift": 0}
    down = {"positive": zero, "negative": one, "started": 1, "shift": 0}
    assert _accumulate(config, 0, 0, [up, up], first=126) == [(127, 0), (127, 1)]
    assert _accumulate(config, 0, 0, [down, down], first=-127) == [(-128, 0), (-128, 1)]


def test_needed_bits_hold_the_largest_sum_of_any_layer():
    for config in (TINY, PAPER, ISAAC):
        largest = (
            config.max_segments
            * ((1 << config.adc_bits) - 1)
            * ((1 << config.input_bits) - 1)
            * ((1 << config.weight_bits) - 1)
        )
        assert -(1 << (needed_bits(config) - 1)) <= -largest
        assert (1 << (needed_bits(config) - 2)) <= largest < 1 << (needed_bits(config) - 1)


@pytest.mark.parametrize("seed", range(4))
def test_wide_converters_accumulate_random_codes(seed):
    rng = random.Random(seed)
    config = replace(ISAAC, max_k=1152)
    registers = random_registers(rng, 8)
    result = convert(range(256), 8, registers)
    steps, expected, total = [], [], 0
    for _ in range(100):
        a, b, shift = rng.randrange(256), rng.randrange(256), rng.randint(0, 14)
        steps.append({"positive": _word(result, a), "negative": _word(result, b), "started": 1, "shift": shift})
        total += (int(result.value[a]) - int(result.value[b])) << shift
        expected.append((total, 0))
    assert _accumulate(config, registers.m, registers.bias << registers.n_r1, steps) == expected
