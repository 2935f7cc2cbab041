"""Legality check of the A/D registers (system.md §4.1)."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from golden_model.config import TINY, bits_for
from golden_model.trq import AdcRegisters
from rtl.trq_settings import TrqSettings
from sim.bench import simulate
from tests.bench import put
from tests.rtl.legal_registers import every_setting, fields, is_legal

pytestmark = pytest.mark.rtl


def _verdicts(adc_bits: int, settings: list[AdcRegisters]) -> list[int]:
    """`illegal` of each setting, one setting per clock."""
    dut = TrqSettings(replace(TINY, adc_bits=adc_bits))
    seen = []

    async def bench(ctx):
        for registers in settings:
            put(ctx, dut.registers, fields(registers))
            await ctx.tick()
            seen.append(ctx.get(dut.illegal))

    simulate(dut, bench, limit=len(settings) + 10)
    return seen


@pytest.mark.parametrize("adc_bits", [1, 2, 3])
def test_exactly_the_legal_settings_are_accepted(adc_bits):
    settings = list(every_setting(adc_bits))
    assert _verdicts(adc_bits, settings) == [int(not is_legal(r, adc_bits)) for r in settings]


@pytest.mark.parametrize("adc_bits", [4, 5, 6, 7, 8])
def test_random_settings_are_judged_as_the_software_does(adc_bits):
    rng = random.Random(adc_bits)
    field = (1 << bits_for(adc_bits)) - 1
    settings = []
    for _ in range(3000):
        n_r2, m = rng.randint(0, field), rng.randint(0, field)
        if rng.random() < 0.7:  # near the border of what is legal
            n_r2 = rng.randint(1, adc_bits)
            m = rng.randint(0, adc_bits - n_r2)
        n_r1 = min(field, max(0, n_r2 + m - rng.randint(0, 3)))
        largest = (1 << max(1, n_r2 + m - n_r1)) - 2
        bias = min((1 << adc_bits) - 1, max(0, largest + rng.randint(-1, 2)))
        if rng.random() < 0.3:
            n_r1, bias = rng.choice([(0, 0), (n_r1, 0), (0, bias)])
        mode = rng.choice(["twin", "uniform"])
        settings.append(AdcRegisters(mode=mode, n_r2=n_r2, n_r1=n_r1, m=m, bias=bias))
    expected = [int(not is_legal(r, adc_bits)) for r in settings]
    assert 0.1 < sum(expected) / len(expected) < 0.9, "both verdicts must be common"
    assert _verdicts(adc_bits, settings) == expected


def test_error_is_latched_by_check_and_freed_by_clear():
    dut = TrqSettings(TINY)
    legal = AdcRegisters(mode="twin", n_r2=2, n_r1=1)
    illegal = AdcRegisters(mode="twin", n_r2=0)

    async def bench(ctx):
        async def error_after(registers, *, check=0, clear=0):
            put(ctx, dut.registers, fields(registers))
            await ctx.tick()
            ctx.set(dut.check, check)
            ctx.set(dut.clear, clear)
            await ctx.tick()
            ctx.set(dut.check, 0)
            ctx.set(dut.clear, 0)
            put(ctx, dut.registers, fields(legal))
            await ctx.tick().repeat(2)
            return ctx.get(dut.error)

        assert await error_after(illegal) == 0, "without a check nothing is latched"
        assert await error_after(legal, check=1) == 0
        assert await error_after(illegal, check=1) == 1
        assert await error_after(legal) == 1, "the error must stay"
        assert await error_after(legal, clear=1) == 0

    simulate(dut, bench, limit=100)
