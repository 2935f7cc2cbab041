"""TRQ SAR controller against the golden conversion and a scalar step-by-step search (system.md §4.3)."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import TINY
from golden_model.trq import AdcRegisters, convert
from rtl import layouts
from rtl.trq_sar import TrqSar
from rtl.trq_settings import TrqSettings
from sim.bench import simulate
from tests.bench import fetch, put
from tests.rtl import oracle
from tests.rtl.legal_registers import every_legal_setting, fields
from tests.rtl.macro_bench import random_registers

pytestmark = pytest.mark.rtl

#: Clocks from new registers to a start: one for the decoded constants, one to be safe.
SETTLE = 2


class Lanes(wiring.Component):
    """Settings and lanes with comparators: lane i converts level `levels[i]`, answers are exact."""

    def __init__(self, adc_bits: int, levels: list[int]):
        self.config = replace(TINY, adc_bits=adc_bits)
        self.levels = levels
        super().__init__(
            {
                "registers": In(layouts.adc_registers(self.config)),
                "start": In(1),
                "busy": Out(len(levels)),
                "codes": Out(len(levels) * adc_bits),
                "range_flags": Out(len(levels)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.settings = settings = TrqSettings(self.config)
        m.d.comb += settings.registers.eq(self.registers)
        lanes = [TrqSar(self.config) for _ in self.levels]
        for i, (lane, level) in enumerate(zip(lanes, self.levels, strict=True)):
            m.submodules[f"lane{i}"] = lane
            m.d.comb += [
                lane.search.eq(settings.search),
                lane.start.eq(self.start),
                lane.comparator.eq(lane.threshold <= level),
            ]
        m.d.comb += [
            self.busy.eq(Cat(lane.busy for lane in lanes)),
            self.codes.eq(Cat(lane.code for lane in lanes)),
            self.range_flags.eq(Cat(lane.range_flag for lane in lanes)),
        ]
        return m


def _convert_all(adc_bits: int, settings: list[AdcRegisters], levels: list[int]) -> list[list[tuple[int, int, int]]]:
    """(range flag, code, operations) of every level under every setting, from hardware."""
    dut = Lanes(adc_bits, levels)
    results = []

    async def bench(ctx):
        for registers in settings:
            put(ctx, dut.registers, fields(registers))
            await ctx.tick().repeat(SETTLE)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            operations = [0] * len(levels)
            while busy := ctx.get(dut.busy):
                operations = [n + (busy >> i & 1) for i, n in enumerate(operations)]
                await ctx.tick()
            codes, flags = ctx.get(dut.codes), ctx.get(dut.range_flags)
            results.append(
                [(flags >> i & 1, codes >> (i * adc_bits) & ((1 << adc_bits) - 1), n) for i, n in enumerate(operations)]
            )

    simulate(dut, bench, limit=len(settings) * (adc_bits + 10))
    return results


def _check(adc_bits: int, settings: list[AdcRegisters], levels: list[int]) -> None:
    for registers, actual in zip(settings, _convert_all(adc_bits, settings, levels), strict=True):
        golden = convert(levels, adc_bits, registers)
        expected = [tuple(map(int, x)) for x in zip(golden.range_flag, golden.code, golden.operations, strict=True)]
        assert actual == expected, registers
        steps = [oracle.convert(level, adc_bits, registers) for level in levels]
        assert actual == [(flag, code, operations) for flag, code, _, operations in steps], registers


@pytest.mark.parametrize("adc_bits", [1, 2, 3, 4, 5])
def test_every_level_converts_as_golden_under_every_legal_setting(adc_bits):
    _check(adc_bits, every_legal_setting(adc_bits), list(range(1 << adc_bits)))


@pytest.mark.parametrize("adc_bits", [6, 7, 8])
def test_random_settings_of_a_larger_converter_convert_as_golden(adc_bits):
    rng = random.Random(adc_bits)
    top = (1 << adc_bits) - 1
    levels = [0, 1, top - 1, top, *(rng.randint(0, top) for _ in range(12))]
    _check(adc_bits, [random_registers(rng, adc_bits) for _ in range(60)], levels)


class _SingleLane:
    """One lane under a bench that plays the comparator."""

    def __init__(self, adc_bits: int):
        self.config = replace(TINY, adc_bits=adc_bits)
        self.lane = TrqSar(self.config)
        self.settings = TrqSettings(self.config)
        self.module = m = Module()
        m.submodules.lane, m.submodules.settings = self.lane, self.settings
        m.d.comb += self.lane.search.eq(self.settings.search)
        # Inputs need a driver that the bench owns, so that the undriven ports of the lane are settable.
        self.comparator, self.start = Signal(), Signal()
        m.d.comb += [self.lane.comparator.eq(self.comparator), self.lane.start.eq(self.start)]


@pytest.mark.parametrize("seed", range(6))
def test_conversions_follow_each_other_without_a_bubble(seed):
    rng = random.Random(seed)
    adc_bits = rng.randint(1, 8)
    registers = random_registers(rng, adc_bits)
    _check_row(adc_bits, registers, [rng.randint(0, (1 << adc_bits) - 1) for _ in range(40)])


def test_a_point_that_is_found_without_a_search_leaves_nothing_in_the_next_conversion():
    for registers in every_legal_setting(3):
        if registers.mode == "twin" and registers.n_r1 == 0:
            _check_row(3, registers, [one for pair in product(range(8), repeat=2) for one in pair])


def _check_row(adc_bits: int, registers: AdcRegisters, levels: list[int]) -> None:
    """Conversions of these levels, each begun in the last clock of the one before."""
    expected = [oracle.convert(level, adc_bits, registers) for level in levels]
    bench_parts = _SingleLane(adc_bits)
    lane = bench_parts.lane
    seen = []
    clocks = 0

    async def bench(ctx):
        nonlocal clocks
        put(ctx, bench_parts.settings.registers, fields(registers))
        await ctx.tick().repeat(SETTLE)
        ctx.set(bench_parts.start, 1)
        await ctx.tick()
        for index, level in enumerate(levels):
            while True:
                threshold = ctx.get(lane.threshold)
                ctx.set(bench_parts.comparator, int(level >= threshold))
                last = ctx.get(lane.last)
                ctx.set(bench_parts.start, last and index + 1 < len(levels))
                assert ctx.get(lane.busy)
                clocks += 1
                await ctx.tick()
                if last:
                    break
            # The next conversion is running; the result must still be there.
            seen.append((ctx.get(lane.range_flag), ctx.get(lane.code)))
        assert not ctx.get(lane.busy)

    simulate(bench_parts.module, bench, limit=2000)
    assert seen == [(flag, code) for flag, code, _, _ in expected]
    assert clocks == sum(operations for *_, operations in expected)


@pytest.mark.parametrize("seed", range(6))
def test_arbitrary_comparator_answers_stay_in_range_and_in_time(seed):
    """A noisy comparator may contradict itself; code, thresholds and operations must stay legal."""
    rng = random.Random(100 + seed)
    adc_bits = rng.randint(2, 8)
    registers = random_registers(rng, adc_bits)
    bench_parts = _SingleLane(adc_bits)
    lane = bench_parts.lane

    async def bench(ctx):
        put(ctx, bench_parts.settings.registers, fields(registers))
        await ctx.tick().repeat(SETTLE)
        for _ in range(60):
            ctx.set(bench_parts.start, 1)
            await ctx.tick()
            ctx.set(bench_parts.start, 0)
            answers = []
            while ctx.get(lane.busy):
                assert 1 <= ctx.get(lane.threshold) < 1 << adc_bits
                answers.append(rng.randint(0, 1))
                ctx.set(bench_parts.comparator, answers[-1])
                await ctx.tick()
            flag, code = ctx.get(lane.range_flag), ctx.get(lane.code)
            detections = 0 if registers.mode == "uniform" else 1 + (registers.bias != 0)
            outside = 1
            if detections:
                outside = int(answers[0] == 1 or (detections == 2 and answers[1] == 0))
            bits = answers[detections:]
            assert flag == outside
            assert len(bits) == (registers.n_r2 if outside else registers.n_r1)
            assert code == int("0" + "".join(map(str, bits)), 2)

    simulate(bench_parts.module, bench, limit=2000)


def test_lane_is_idle_after_reset():
    lane = TrqSar(TINY)

    async def bench(ctx):
        for _ in range(5):
            await ctx.tick()
            assert (fetch(ctx, lane.busy), fetch(ctx, lane.last)) == (0, 0)

    simulate(lane, bench, limit=20)
