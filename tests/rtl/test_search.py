"""Search lanes and what they begin with against the definition of every mode (system.md §4.3, §13.1)."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest
from amaranth.hdl import Cat, Module, Shape
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import PAPER, TINY, HardwareConfig
from golden_model.trees import bounded_tree, depths
from golden_model.trq import AdcRegisters, convert
from rtl import pair_layouts as layouts
from rtl.pair_layouts import SearchMode
from rtl.search_begin import SearchBegin
from rtl.search_lane import SearchLane
from rtl.search_settings import SearchSettings
from sim.bench import simulate
from tests.bench import fetch, put
from tests.rtl import search_oracle as oracle
from tests.rtl.macro_bench import random_registers
from tests.rtl.search_oracle import SearchRegisters

pytestmark = [pytest.mark.rtl, pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")]

#: Clocks from new registers to a start: one for the decoded constants, one to be safe.
SETTLE = 2


def _config(adc_bits: int) -> HardwareConfig:
    return replace(TINY, adc_bits=adc_bits, rows=1024, ou_rows=min(128, (1 << adc_bits) - 1))


class Lanes(wiring.Component):
    """Settings, control and a lane for each of `samples`, with exact comparators."""

    def __init__(self, config: HardwareConfig, pairs: bool, samples: int, modes: Collection[SearchMode]):
        self.config, self.pairs, self.modes = config, pairs, modes
        value = layouts.search_threshold(config, pairs)
        super().__init__(
            {
                "registers": In(layouts.search_registers(config, pairs)),
                "ones": In(layouts.ones_in_ou(config)),
                "start": In(1),
                "samples": In(data.ArrayLayout(value, samples)),
                "busy": Out(samples),
                "last": Out(samples),
                "values": Out(data.ArrayLayout(value, samples)),
                "thresholds": Out(data.ArrayLayout(value, samples)),
                "flags": Out(samples),
                "illegal": Out(1),
                "scale": Out(layouts.search_constants(config, pairs)["scale"].shape),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.settings = settings = SearchSettings(self.config, self.pairs, self.modes)
        m.submodules.begin = begin = SearchBegin(self.config, self.pairs, self.modes)
        lanes = [SearchLane(self.config, self.pairs, self.modes) for _ in range(len(self.busy))]
        m.d.comb += [
            settings.registers.eq(self.registers),
            begin.constants.eq(settings.constants),
            begin.ones.eq(self.ones),
            self.busy.eq(Cat(lane.busy for lane in lanes)),
            self.last.eq(Cat(lane.last for lane in lanes)),
            self.flags.eq(Cat(lane.flag for lane in lanes)),
            self.illegal.eq(settings.illegal),
            self.scale.eq(settings.constants.scale),
        ]
        for i, lane in enumerate(lanes):
            m.submodules[f"lane{i}"] = lane
            m.d.comb += [
                lane.constants.eq(settings.constants),
                lane.begin.eq(begin.begin),
                lane.start.eq(self.start),
                lane.comparator.eq(self.samples[i] >= lane.threshold),
                self.values[i].eq(lane.value),
                self.thresholds[i].eq(lane.threshold),
            ]
        return m


def _convert_all(
    adc_bits: int, pairs: bool, jobs: Sequence[tuple[SearchRegisters, int]], modes: Collection[SearchMode]
) -> list[list[tuple[int, int, int]]]:
    """(value, range flag, operations) of every sample of every job (registers, k), from hardware."""
    lanes = max(len(oracle.samples(adc_bits, registers, ones)) for registers, ones in jobs)
    dut = Lanes(_config(adc_bits), pairs, lanes, modes)
    results = []

    async def bench(ctx):
        before = None
        for registers, ones in jobs:
            samples = list(oracle.samples(adc_bits, registers, ones))
            put(ctx, dut.samples, samples + [0] * (lanes - len(samples)))
            put(ctx, dut.registers, registers.fields(pairs))
            put(ctx, dut.ones, ones)
            if registers != before:
                await ctx.tick().repeat(SETTLE)
                assert not ctx.get(dut.illegal)
            before = registers
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            operations = [0] * lanes
            while busy := ctx.get(dut.busy):
                operations = [n + (busy >> i & 1) for i, n in enumerate(operations)]
                await ctx.tick()
            values, flags, scale = fetch(ctx, dut.values), ctx.get(dut.flags), ctx.get(dut.scale)
            twin = registers.mode == SearchMode.TWIN
            assert not any(value % (1 << scale) for value in values[: len(samples)])
            results.append(
                [(values[i] >> scale, flags >> i & 1 if twin else 1, operations[i]) for i in range(len(samples))]
            )

    simulate(dut, bench, limit=len(jobs) * (2 * (1 << adc_bits) + 10))
    return results


def _check(adc_bits: int, pairs: bool, jobs: Sequence[tuple[SearchRegisters, int]], modes=tuple(SearchMode)) -> None:
    modes = [mode for mode in modes if pairs or mode != SearchMode.OUTWARD]
    for (registers, ones), actual in zip(jobs, _convert_all(adc_bits, pairs, jobs, modes), strict=True):
        samples = oracle.samples(adc_bits, registers, ones)
        assert actual == [oracle.search(registers, adc_bits, ones, v) for v in samples], (registers, ones)


def _bounds(adc_bits: int, registers: SearchRegisters) -> list[int]:
    """Values of k that a mode cares about."""
    return [1] if registers.mode in (SearchMode.UNIFORM, SearchMode.TWIN) else list(range(1, 1 << adc_bits))


@pytest.mark.parametrize("pairs", [True, False], ids=["pairs", "bit lines"])
@pytest.mark.parametrize("adc_bits", [1, 2, 3, 4])
def test_every_sample_converts_as_defined_under_every_legal_setting(adc_bits, pairs):
    jobs = [(r, ones) for r in oracle.every_search(adc_bits, pairs) for ones in _bounds(adc_bits, r)]
    if len(jobs) > 600:
        rare = [job for job in jobs if job[0].mode in (SearchMode.BOUNDED, SearchMode.OUTWARD)]
        jobs = rare + random.Random(adc_bits).sample([job for job in jobs if job not in rare], 300)
    _check(adc_bits, pairs, jobs)


@pytest.mark.parametrize("adc_bits", [5, 6, 7])
def test_random_settings_of_a_larger_converter_convert_as_defined(adc_bits):
    rng = random.Random(adc_bits)
    jobs = []
    for _ in range(25):
        signed = rng.random() < 0.5
        grid = random_registers(rng, adc_bits + signed)
        grid = replace(grid, bias=0) if signed else grid
        jobs.append((SearchRegisters(SearchMode[grid.mode.upper()], signed, grid), 1))
    for mode in (SearchMode.BOUNDED, SearchMode.OUTWARD):
        whole = AdcRegisters(mode="uniform", n_r2=adc_bits + 1)
        jobs += [(SearchRegisters(mode, True, whole), rng.randrange(1, 1 << adc_bits)) for _ in range(3)]
    _check(adc_bits, True, jobs)


@pytest.mark.parametrize("mode", list(SearchMode))
def test_a_machine_with_one_mode_only_has_it_whole(mode):
    jobs = [(r, ones) for r in oracle.every_search(3, True) if r.mode == mode for ones in _bounds(3, r)]
    _check(3, True, random.Random(0).sample(jobs, min(40, len(jobs))), modes=[mode])


# ---- the definition itself ----------------------------------------------------------------------
def test_search_of_counts_is_the_golden_conversion():
    for registers in oracle.every_search(3, False):
        if registers.mode in (SearchMode.UNIFORM, SearchMode.TWIN):
            golden = convert(range(8), 3, registers.grid)
            found = [oracle.search(registers, 3, 0, v) for v in range(8)]
            assert found == [
                tuple(map(int, x)) for x in zip(golden.value, golden.range_flag, golden.operations, strict=True)
            ]


@pytest.mark.parametrize("ones", range(10))
def test_bounded_search_is_the_golden_tree(ones):
    for signed in (False, True):
        registers = SearchRegisters(SearchMode.BOUNDED, signed, AdcRegisters(mode="uniform", n_r2=4 + signed))
        low = -ones if signed else 0
        found = [oracle.search(registers, 4, ones, v) for v in range(low, ones + 1)]
        assert found == [(low + i, 1, int(n)) for i, n in enumerate(depths(bounded_tree(ones - low)))]


def test_outward_search_takes_the_stated_numbers_of_operations():
    registers = SearchRegisters(SearchMode.OUTWARD, True, AdcRegisters(mode="uniform", n_r2=5))
    operations = {v: oracle.search(registers, 4, 3, v)[2] for v in range(-3, 4)}
    assert operations == {3: 3, 2: 3, 1: 2, 0: 2, -1: 3, -2: 4, -3: 4}


# ---- time, reset, faults ------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_conversions_follow_each_other_without_a_bubble(seed):
    rng = random.Random(seed)
    registers = rng.choice(list(oracle.every_search(4, True)))
    jobs = [(ones := rng.randint(1, 15), rng.choice(oracle.samples(4, registers, ones))) for _ in range(40)]
    dut = Lanes(_config(4), True, 1, tuple(SearchMode))
    seen, clocks = [], 0

    async def bench(ctx):
        nonlocal clocks
        put(ctx, dut.registers, registers.fields(True))
        await ctx.tick().repeat(SETTLE)
        for ones, sample in jobs:
            put(ctx, dut.ones, ones)
            ctx.set(dut.start, 1)
            await ctx.tick()
            put(ctx, dut.samples, [sample])
            ctx.set(dut.start, 0)
            while not ctx.get(dut.last):
                assert ctx.get(dut.busy)
                clocks += 1
                await ctx.tick()
            clocks += 1
            seen.append(fetch(ctx, dut.values)[0] >> ctx.get(dut.scale))

    simulate(dut, bench, limit=2000)
    expected = [oracle.search(registers, 4, ones, sample) for ones, sample in jobs]
    assert seen == [value for value, _, _ in expected]
    assert clocks == sum(operations for *_, operations in expected)


def test_value_holds_while_other_lanes_still_convert():
    registers = SearchRegisters(SearchMode.OUTWARD, True, AdcRegisters(mode="uniform", n_r2=5))
    dut = Lanes(_config(4), True, 2, [SearchMode.OUTWARD])
    seen = []

    async def bench(ctx):
        put(ctx, dut.registers, registers.fields(True))
        put(ctx, dut.ones, 9)
        put(ctx, dut.samples, [0, -9])
        await ctx.tick().repeat(SETTLE)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        while ctx.get(dut.busy):
            if not ctx.get(dut.busy) & 1:
                seen.append(fetch(ctx, dut.values)[0])
            await ctx.tick()
        assert fetch(ctx, dut.values) == [0, -9]

    simulate(dut, bench, limit=50)
    assert seen == [0] * 8


def test_lane_is_idle_after_reset():
    lane = SearchLane(PAPER)

    async def bench(ctx):
        for _ in range(5):
            await ctx.tick()
            assert (fetch(ctx, lane.busy), fetch(ctx, lane.last)) == (0, 0)

    simulate(lane, bench, limit=20)


@pytest.mark.parametrize(
    ("pairs", "modes", "message"),
    [
        (True, [], "modes must hold at least one of UNIFORM, TWIN, BOUNDED, OUTWARD, got []"),
        (True, [3], "modes must hold at least one of UNIFORM, TWIN, BOUNDED, OUTWARD, got [3]"),
        (False, [SearchMode.OUTWARD], "mode OUTWARD needs lanes that convert pairs"),
    ],
)
@pytest.mark.parametrize("block", [SearchBegin, SearchLane, SearchSettings])
def test_modes_that_cannot_be_are_refused(block, pairs, modes, message):
    with pytest.raises(ValueError) as error:
        block(PAPER, pairs, modes)
    assert str(error.value) == message


# ---- registers ----------------------------------------------------------------------------------
@pytest.mark.parametrize("pairs", [True, False], ids=["pairs", "bit lines"])
def test_exactly_the_legal_registers_are_legal(pairs):
    adc_bits = 2
    config = _config(adc_bits)
    modes = [mode for mode in SearchMode if pairs or mode != SearchMode.OUTWARD]
    dut = SearchSettings(config, pairs, modes)
    legal = {tuple(r.fields(pairs).values()) for r in oracle.every_search(adc_bits, pairs)}
    layout = layouts.search_registers(config, pairs)
    widths = [Shape.cast(shape).width for shape in layout.members.values()]
    wrong = []

    async def bench(ctx):
        for word in range(1 << layout.size):
            values, rest = [], word
            for width in widths:
                values.append(rest & ((1 << width) - 1))
                rest >>= width
            ctx.set(dut.registers.as_value(), word)
            await ctx.tick()
            if ctx.get(dut.illegal) != (tuple(values) not in legal):
                wrong.append(values)

    simulate(dut, bench, limit=(1 << layout.size) + 10)
    assert wrong == []


def test_error_is_latched_at_a_check_of_illegal_registers_only_and_cleared():
    dut = SearchSettings(_config(3), True)
    legal = SearchRegisters(SearchMode.UNIFORM, True, AdcRegisters(mode="uniform", n_r2=4)).fields(True)

    async def bench(ctx):
        async def latched(registers, check):
            """`error` behind a clock with these registers, which may be checked."""
            put(ctx, dut.registers, registers)
            await ctx.tick()
            ctx.set(dut.check, check)
            put(ctx, dut.registers, legal)
            await ctx.tick()
            ctx.set(dut.check, 0)
            assert not ctx.get(dut.illegal)
            return ctx.get(dut.error)

        assert not await latched(legal, check=1)
        assert not await latched(legal | {"n_r2": 0}, check=0)
        assert await latched(legal | {"n_r2": 0}, check=1)
        ctx.set(dut.clear, 1)
        await ctx.tick()
        assert not ctx.get(dut.error)

    simulate(dut, bench, limit=20)
