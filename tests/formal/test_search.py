"""Proof: a search lane returns what the definition of its mode asks for, by the comparisons that it asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from golden_model.config import TINY
from rtl import pair_layouts as layouts
from rtl.pair_layouts import SearchMode
from rtl.search_begin import SearchBegin
from rtl.search_lane import Activity, SearchLane
from rtl.search_settings import SearchSettings
from tests.formal.mutants import mutant
from tests.formal.prove import bound, held, induction

pytestmark = [pytest.mark.rtl, pytest.mark.slow]


#: Registers of the lane that the invariants speak of.
PROBES = {"left": "lane.left", "activity": "lane.activity", "flag": "lane.flag"}


#: Rows of an OU for a resolution.
ROWS = {3: 7, 4: 9, 8: 128}


class SearchSpec(wiring.Component):
    """Any legal registers, any k and any sample, converted again and again with any pauses.

    Results are checked against definitions, not against another search.
    """

    def __init__(self, adc_bits: int, modes: list[SearchMode], lane: type = SearchLane):
        self.config = replace(TINY, adc_bits=adc_bits, rows=128, ou_rows=ROWS[adc_bits])
        self.modes, self.lane = modes, lane
        super().__init__(
            {
                "registers": In(layouts.search_registers(self.config, True)),
                "sample": In(signed(adc_bits + 1)),
                "ones": In(layouts.ones_in_ou(self.config)),
                "start": In(1),
                "left": In(layouts.search_left(self.config, True)),
                "activity": In(Activity),
                "flag": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.settings = settings = SearchSettings(self.config)
        m.submodules.begin = begin = SearchBegin(self.config)
        m.submodules.lane = lane = self.lane(self.config)
        registers, sample, ones = self.registers, self.sample, self.ones
        legal = self._legal(m)
        for port in (registers, sample, ones):
            held(m, port)
        allowed = Signal(2)  # constants are decoded in the first clock
        m.d.sync += allowed.eq((allowed << 1) | 1)
        m.d.comb += [
            settings.registers.eq(registers),
            begin.constants.eq(settings.constants),
            begin.ones.eq(ones),
            lane.constants.eq(settings.constants),
            lane.begin.eq(begin.begin),
            lane.start.eq(self.start),
            lane.comparator.eq(sample >= lane.threshold),
            Assume((ones != 0) & (ones <= self.config.ou_rows)),
            Assume(Cat(registers.mode == mode for mode in self.modes).any()),
            Assume(~self.start | (allowed.all() & (~lane.busy | lane.last))),
            Assume(~self.start | legal),
            Assert(~allowed[0] | (settings.illegal == ~legal)),
        ]
        with m.If(lane.busy):
            m.d.comb += [Assert(allowed.all()), Assert(legal)]

        clocks = Signal(range((2 << self.config.adc_bits) + 2))
        operations = Signal.like(clocks)
        finished = Signal()
        m.d.comb += [operations.eq(clocks + lane.busy), finished.eq(lane.last)]
        with m.If(lane.busy):
            m.d.sync += clocks.eq(operations)
        with m.If(self.start):
            m.d.sync += clocks.eq(0)

        with m.If(registers.mode == SearchMode.BOUNDED):
            self._bounded(m, lane, finished)
        with m.Elif(registers.mode == SearchMode.OUTWARD):
            self._outward(m, lane, finished, clocks, operations)
        with m.Else():
            self._grid(m, lane, finished, clocks, operations)
        return m

    def _legal(self, m: Module) -> Signal:
        """The rules of the docstring of `SearchSettings` and of system.md §4.1, with F bits for R."""
        registers, legal = self.registers, Signal(name="legal")
        full, grid, window_bits = (Signal(6, name=n) for n in ("full", "grid", "window_bits"))
        plain = (registers.n_r1 == 0) & (registers.bias == 0)
        m.d.comb += [
            full.eq(self.config.adc_bits + registers.signed),
            grid.eq(registers.n_r2 + registers.m),
            window_bits.eq(grid - registers.n_r1),
        ]
        with m.Switch(registers.mode):
            with m.Case(SearchMode.UNIFORM):
                m.d.comb += legal.eq((registers.n_r2 >= 1) & (grid <= full) & plain)
            with m.Case(SearchMode.TWIN):
                fits = Mux(registers.signed, registers.bias == 0, registers.bias + 2 <= 1 << window_bits[:4])
                m.d.comb += legal.eq((registers.n_r2 >= 1) & (grid <= full) & (registers.n_r1 < grid) & fits)
            with m.Default():
                whole = (registers.n_r2 == full) & (registers.m == 0) & plain
                m.d.comb += legal.eq(whole & (registers.signed | (registers.mode == SearchMode.BOUNDED)))
        return legal

    def _bounded(self, m: Module, lane, finished: Signal) -> None:
        """Every threshold is the middle of what is left."""
        shape = signed(len(self.sample) + 1)
        lowest, low, high = (Signal(shape, name=n) for n in ("lowest", "low", "high"))
        middle = (low + high + 1) >> 1
        m.d.comb += [
            lowest.eq(Mux(self.registers.signed, -self.ones, 0)),
            Assume((self.sample >= lowest) & (self.sample <= self.ones)),
        ]
        with m.If(lane.busy):
            m.d.comb += [Assert(low < high), Assert(lane.threshold == middle)]
            # Invariant: the lane remembers how many values are left beside the lowest.
            m.d.comb += [
                Assert((low >= lowest) & (high <= self.ones)),
                Assert((low <= self.sample) & (self.sample <= high)),
                Assert(self.left == (high - low).as_unsigned()),
            ]
            with m.If(self.sample >= middle):
                m.d.sync += low.eq(middle)
            with m.Else():
                m.d.sync += high.eq(middle - 1)
        with m.If(self.start):
            m.d.sync += [low.eq(lowest), high.eq(self.ones)]
        with m.If(finished):
            m.d.comb += Assert(lane.value == self.sample)

    def _outward(self, m: Module, lane, finished: Signal, clocks: Signal, operations: Signal) -> None:
        sample, ones = self.sample, self.ones
        up, down = sample + 1, 2 - sample
        expected = Mux(sample >= 1, Mux(up < ones, up, ones), Mux(down <= ones, down, ones + 1))
        m.d.comb += Assume((sample >= -ones) & (sample <= ones))
        # Invariant: thresholds went up from 1, or down after the first answer, one by one.
        first = self.activity == Activity.FIRST
        with m.If(lane.busy):
            m.d.comb += [
                Assert(lane.threshold <= ones),
                Assert(lane.threshold > -ones),
                Assert(first | (self.activity == Activity.SEARCH)),
                Assert(first == (clocks == 0)),
            ]
            with m.If(self.flag):
                m.d.comb += [
                    Assert(lane.threshold == clocks + 1),
                    Assert(first | (sample >= clocks)),
                    Assert(self.left == ones - clocks),
                ]
            with m.Else():
                m.d.comb += [
                    Assert(lane.threshold == 1 - clocks),
                    Assert(~first & (sample <= 1 - clocks)),
                    Assert(self.left == ones + 1 - clocks),
                ]
        with m.If(finished):
            m.d.comb += [Assert(lane.value == sample), Assert(operations == expected)]

    def _grid(self, m: Module, lane, finished: Signal, clocks: Signal, operations: Signal) -> None:
        """The value is the largest point of its grid whose threshold the sample reaches (system.md §4.3)."""
        registers, bits = self.registers, self.config.adc_bits + 1
        full = self.config.adc_bits + registers.signed
        wide = bits + 2
        names = ("level", "found", "low", "high", "top", "unit1", "unit2")
        level, found, low, high, top, unit1, unit2 = (Signal(wide, name=n) for n in names)
        origin = Mux(registers.signed, 1 << self.config.adc_bits, 0)
        s1, s2 = Signal(range(bits + 1), name="s1"), Signal(range(bits + 1), name="s2")
        in_r1, two = Signal(), Signal()
        middle, counted_low = Signal(wide), Signal(wide)
        m.d.comb += [
            Assume(registers.signed | (self.sample >= 0)),
            level.eq(self.sample + origin),
            found.eq(lane.value + origin),
            top.eq(1 << full),
            s2.eq(full - registers.n_r2),
            s1.eq(s2 - registers.m),
            unit1.eq(1 << s1),
            unit2.eq(1 << s2),
            low.eq(Mux(registers.signed, (middle - ((1 << registers.n_r1) >> 1)) << s1, counted_low)),
            middle.eq((1 << (registers.n_r2 + registers.m)) >> 1),
            counted_low.eq((registers.bias << registers.n_r1) << s1),
            two.eq(registers.signed | (registers.bias != 0)),
            high.eq(low + (unit1 << registers.n_r1)),
            in_r1.eq(
                (registers.mode == SearchMode.TWIN)
                & (level < high - (unit1 >> 1))
                & (~two | (level >= low - (unit1 >> 1)))
            ),
        ]
        unit, begin, end = Mux(in_r1, unit1, unit2), Mux(in_r1, low, 0), Mux(in_r1, high, top)
        detections = Mux(registers.mode == SearchMode.TWIN, 1 + two, 0)
        steps = Mux(in_r1, registers.n_r1, registers.n_r2)
        with m.If(finished):
            m.d.comb += [
                Assert(lane.flag == ~in_r1),
                Assert(operations == detections + steps),
                Assert((found & (unit - 1)) == 0),
                Assert((found >= begin) & (found < end)),
                Assert((found == begin) | (level + (unit >> 1) >= found)),
                Assert((found + unit == end) | (level + (unit >> 1) < found + unit)),
            ]

        # Invariant: the grid points that are left, from `point` on, are those between the answers so far.
        decided, point, origin_left = Signal.like(clocks), Signal(wide), Signal(wide)
        m.d.comb += [
            decided.eq(clocks - detections),
            origin_left.eq(self.left + 1),
            point.eq(lane.threshold + origin + (unit >> 1) - (origin_left >> 1)),
        ]
        with m.If(lane.busy & (registers.mode == SearchMode.TWIN) & (self.activity != Activity.SEARCH)):
            m.d.comb += [
                Assert(self.left == top - 1),
                Assert(clocks == (self.activity == Activity.LOW)),
                Assert((self.activity == Activity.FIRST) | (self.activity == Activity.LOW)),
            ]
            with m.If(self.activity == Activity.FIRST):
                m.d.comb += [Assert(self.flag), Assert(lane.threshold + origin == high - (unit1 >> 1))]
            with m.Else():
                m.d.comb += [
                    Assert(two),
                    Assert(self.flag == (level >= high - (unit1 >> 1))),
                    Assert(lane.threshold + origin == low - (unit1 >> 1)),
                ]
        with m.Elif(lane.busy):
            m.d.comb += [
                Assert(self.flag == ~in_r1),
                Assert((decided >= 0) & (decided < steps)),
                Assert(origin_left == (unit << (steps - decided)[:4])),
                Assert((point & (origin_left - 1)) == (begin & (origin_left - 1))),
                Assert((point >= begin) & (point + origin_left <= end)),
                Assert((point == begin) | (level + (unit >> 1) >= point)),
                Assert((point + origin_left == end) | (level + (unit >> 1) < point + origin_left)),
            ]


@pytest.mark.parametrize("adc_bits", [4, 8])
@pytest.mark.parametrize("mode", [SearchMode.BOUNDED, SearchMode.OUTWARD])
def test_result_and_operations_are_right_for_every_bound(mode, adc_bits, proof):
    what = f"R = {adc_bits}, pairs, ou_rows = {ROWS[adc_bits]}, {mode.name}, every k"
    spec = SearchSpec(adc_bits, [mode])
    proof(spec, "search_lane, search_begin, search_settings", what, induction(2), probes=PROBES)


@pytest.mark.parametrize("adc_bits", [4, 8])
def test_result_and_operations_are_those_of_the_definition_for_every_grid(adc_bits, proof):
    spec = SearchSpec(adc_bits, [SearchMode.UNIFORM, SearchMode.TWIN])
    what = f"R = {adc_bits}, pairs, UNIFORM and TWIN, all legal registers"
    proof(spec, "search_lane, search_begin, search_settings", what, induction(2), probes=PROBES)


@pytest.mark.parametrize(
    ("mode", "correct", "wrong"),
    [
        (SearchMode.TWIN, "first & constants.two_detections", "constants.two_detections"),
        (SearchMode.BOUNDED, "step.eq(Mux(outward, 0, rest >> 2))", "step.eq(Mux(outward, 0, rest >> 1))"),
        (SearchMode.OUTWARD, "flag & ~last_yes", "flag"),
    ],
)
def test_wrong_lane_is_refuted(mode, correct, wrong, refutation):
    spec = SearchSpec(3, [mode], lane=mutant(SearchLane, correct, wrong))
    refutation(spec, "search_lane", f"{mode.name}: `{wrong}`", bound(12))
