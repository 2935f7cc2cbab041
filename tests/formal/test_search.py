"""Proof: a search lane returns what the definition of its mode asks for, by the comparisons that it asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal, Value, signed
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
REGISTERS = ("left", "activity", "flag")
PROBES = {name: f"lane.{name}" for name in REGISTERS}
ANSWERED = ("threshold", *REGISTERS)
CAPTURED_PROBES = (
    PROBES
    | {f"answered_{name}": f"lane.answered_{name}" for name in ANSWERED}
    | {
        "answer": "lane.answer",
        "answer_decided": "lane.answer_decided",
    }
)


BLOCKS = "search_lane, search_begin, search_settings"

#: Rows of an OU for a resolution.
ROWS = {3: 7, 4: 9, 8: 128}


@dataclass(frozen=True)
class Conversion:
    """What the lane holds of the sample that is looked at."""

    #: Its conversion begins behind this clock; it is being converted; an answer is used in this clock; the last one.
    starts: Value
    busy: Value
    decides: Value
    finished: Value
    threshold: Value
    left: Value
    activity: Value
    flag: Value
    #: Decisions before this clock.
    clocks: Value


class SearchSpec(wiring.Component):
    """Any legal registers, any k and any sample, converted again and again with any pauses.

    Results are checked against definitions, not against another search. With captured answers the lane holds two
    samples in turns: one is looked at; about the other the comparator answers anything, and about the first, too, where
    it has not decided. What was started is converted until it is finished.
    """

    def __init__(self, adc_bits: int, modes: list[SearchMode], lane: type = SearchLane, *, captured: bool = False):
        self.config = replace(TINY, adc_bits=adc_bits, rows=128, ou_rows=ROWS[adc_bits], comparator_valid=int(captured))
        self.modes, self.lane, self.captured = modes, lane, captured
        left, threshold = layouts.search_left(self.config, True), layouts.search_threshold(self.config, True)
        probes = {"left": In(left), "activity": In(Activity), "flag": In(1)}
        if captured:
            probes |= {f"answered_{name}": port for name, port in probes.items()}
            probes |= {"answered_threshold": In(threshold), "answer": In(1), "answer_decided": In(1)}
        super().__init__(
            {
                "registers": In(layouts.search_registers(self.config, True)),
                "sample": In(signed(adc_bits + 1)),
                "ones": In(layouts.ones_in_ou(self.config)),
                "start": In(1),
                "noise": In(1),
                "decided": In(1),
                **probes,
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.settings = settings = SearchSettings(self.config)
        m.submodules.begin = begin = SearchBegin(self.config)
        m.submodules.lane = lane = self.lane(self.config, captured=self.captured)
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
            Assume((ones != 0) & (ones <= self.config.ou_rows)),
            Assume(Cat(registers.mode == mode for mode in self.modes).any()),
            Assume(~self.start | (allowed.all() & lane.free)),
            Assume(~self.start | legal),
            Assert(~allowed[0] | (settings.illegal == ~legal)),
        ]
        conversion = self._captured(m, lane) if self.captured else self._plain(m, lane)
        running = Signal()
        m.d.comb += Assert(conversion.busy == running)
        with m.If(running):
            m.d.comb += [Assert(allowed.all()), Assert(legal)]
        with m.If(conversion.finished):
            m.d.sync += running.eq(0)
        with m.If(conversion.starts):
            m.d.sync += running.eq(1)
        with m.If(registers.mode == SearchMode.BOUNDED):
            self._bounded(m, lane, conversion)
        with m.Elif(registers.mode == SearchMode.OUTWARD):
            self._outward(m, lane, conversion)
        with m.Else():
            self._grid(m, lane, conversion)
        return m

    def _plain(self, m: Module, lane) -> Conversion:
        """Every clock in which the lane is busy is a decision."""
        clocks = Signal(range((2 << self.config.adc_bits) + 2))
        m.d.comb += [
            lane.comparator.eq(self.sample >= lane.threshold),
            Assert(lane.free == (~lane.busy | lane.last)),
        ]
        with m.If(lane.busy):
            m.d.sync += clocks.eq(clocks + 1)
        with m.If(self.start):
            m.d.sync += clocks.eq(0)
        return Conversion(
            self.start, lane.busy, lane.busy, lane.last, lane.threshold, self.left, self.activity, self.flag, clocks
        )

    def _captured(self, m: Module, lane) -> Conversion:
        """The sample that is asked about in every other clock, in between its answer is looked at."""
        clocks = Signal(range((2 << self.config.adc_bits) + 2))
        asked = Signal()
        m.d.sync += asked.eq(~asked)
        busy, threshold, left, activity, flag = (
            Mux(asked, now, behind)
            for now, behind in (
                (lane.busy, lane.answered),
                (lane.threshold, self.answered_threshold),
                *((getattr(self, name), getattr(self, f"answered_{name}")) for name in REGISTERS),
            )
        )
        starts, decides = Signal(), Signal()
        m.d.comb += [
            starts.eq(self.start & ~asked),
            lane.comparator.eq(Mux(asked & self.decided, self.sample >= lane.threshold, self.noise)),
            lane.decided.eq(self.decided),
            decides.eq(~asked & lane.answered & self.answer_decided),
            Assert(~decides | (self.answer == (self.sample >= self.answered_threshold))),
        ]
        with m.If(decides):
            m.d.sync += clocks.eq(clocks + 1)
        with m.If(starts):
            m.d.sync += clocks.eq(0)
        return Conversion(starts, busy, decides, ~asked & lane.last, threshold, left, activity, flag, clocks)

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

    def _bounded(self, m: Module, lane, now: Conversion) -> None:
        """Every threshold is the middle of what is left."""
        shape = signed(len(self.sample) + 1)
        lowest, low, high = (Signal(shape, name=n) for n in ("lowest", "low", "high"))
        middle = (low + high + 1) >> 1
        m.d.comb += [
            lowest.eq(Mux(self.registers.signed, -self.ones, 0)),
            Assume((self.sample >= lowest) & (self.sample <= self.ones)),
        ]
        with m.If(now.busy):
            m.d.comb += [
                Assert(low < high),
                Assert(now.threshold == middle),
                # invariant: the lane remembers how many values are left beside the lowest
                Assert((low >= lowest) & (high <= self.ones)),
                Assert((low <= self.sample) & (self.sample <= high)),
                Assert(now.left == (high - low).as_unsigned()),
            ]
        with m.If(now.decides & (self.sample >= middle)):
            m.d.sync += low.eq(middle)
        with m.If(now.decides & (self.sample < middle)):
            m.d.sync += high.eq(middle - 1)
        with m.If(now.starts):
            m.d.sync += [low.eq(lowest), high.eq(self.ones)]
        with m.If(now.finished):
            m.d.comb += Assert(lane.value == self.sample)

    def _outward(self, m: Module, lane, now: Conversion) -> None:
        sample, ones, clocks = self.sample, self.ones, now.clocks
        up, down = sample + 1, 2 - sample
        expected = Mux(sample >= 1, Mux(up < ones, up, ones), Mux(down <= ones, down, ones + 1))
        m.d.comb += Assume((sample >= -ones) & (sample <= ones))
        # Invariant: thresholds went up from 1, or down after the first answer, one by one.
        first = now.activity == Activity.FIRST
        with m.If(now.busy):
            m.d.comb += [
                Assert(now.threshold <= ones),
                Assert(now.threshold > -ones),
                Assert(first | (now.activity == Activity.SEARCH)),
                Assert(first == (clocks == 0)),
            ]
            with m.If(now.flag):
                m.d.comb += [
                    Assert(now.threshold == clocks + 1),
                    Assert(first | (sample >= clocks)),
                    Assert(now.left == ones - clocks),
                ]
            with m.Else():
                m.d.comb += [
                    Assert(now.threshold == 1 - clocks),
                    Assert(~first & (sample <= 1 - clocks)),
                    Assert(now.left == ones + 1 - clocks),
                ]
        with m.If(now.finished):
            m.d.comb += [Assert(lane.value == sample), Assert(clocks + 1 == expected)]

    def _grid(self, m: Module, lane, now: Conversion) -> None:
        """The value is the largest point of its grid whose threshold the sample reaches (system.md §4.3)."""
        registers, bits, clocks = self.registers, self.config.adc_bits + 1, now.clocks
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
        with m.If(now.finished):
            m.d.comb += [
                Assert(lane.flag == ~in_r1),
                Assert(clocks + 1 == detections + steps),
                Assert((found & (unit - 1)) == 0),
                Assert((found >= begin) & (found < end)),
                Assert((found == begin) | (level + (unit >> 1) >= found)),
                Assert((found + unit == end) | (level + (unit >> 1) < found + unit)),
            ]

        # Invariant: the grid points that are left, from `point` on, are those between the answers so far.
        decided, point, origin_left = Signal(len(clocks)), Signal(wide), Signal(wide)
        m.d.comb += [
            decided.eq(clocks - detections),
            origin_left.eq(now.left + 1),
            point.eq(now.threshold + origin + (unit >> 1) - (origin_left >> 1)),
        ]
        with m.If(now.busy & (registers.mode == SearchMode.TWIN) & (now.activity != Activity.SEARCH)):
            m.d.comb += [
                Assert(now.left == top - 1),
                Assert(clocks == (now.activity == Activity.LOW)),
                Assert((now.activity == Activity.FIRST) | (now.activity == Activity.LOW)),
            ]
            with m.If(now.activity == Activity.FIRST):
                m.d.comb += [Assert(now.flag), Assert(now.threshold + origin == high - (unit1 >> 1))]
            with m.Else():
                m.d.comb += [
                    Assert(two),
                    Assert(now.flag == (level >= high - (unit1 >> 1))),
                    Assert(now.threshold + origin == low - (unit1 >> 1)),
                ]
        with m.Elif(now.busy):
            m.d.comb += [
                Assert(now.flag == ~in_r1),
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
    proof(SearchSpec(adc_bits, [mode]), BLOCKS, what, induction(2), probes=PROBES)


@pytest.mark.parametrize("adc_bits", [4, 8])
def test_result_and_operations_are_those_of_the_definition_for_every_grid(adc_bits, proof):
    what = f"R = {adc_bits}, pairs, UNIFORM and TWIN, all legal registers"
    proof(SearchSpec(adc_bits, [SearchMode.UNIFORM, SearchMode.TWIN]), BLOCKS, what, induction(2), probes=PROBES)


@pytest.mark.parametrize("adc_bits", [4, 8])
def test_captured_answers_lead_to_the_same_beside_another_sample(adc_bits, proof):
    spec = SearchSpec(adc_bits, list(SearchMode), captured=True)
    what = f"R = {adc_bits}, ou_rows = {ROWS[adc_bits]}, all modes, legal registers and k, any answer undecided"
    proof(spec, BLOCKS, what, induction(3), probes=CAPTURED_PROBES)


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


@pytest.mark.parametrize(
    ("correct", "wrong"),
    [
        ("decided.eq(self.decided)", "decided.eq(1)"),
        ("yes.eq(self.comparator)", "yes.eq(yes)"),
        ("zip(asked, answered, strict=True)]\n\n", "zip(asked[1:], answered[1:], strict=True)]\n\n"),
    ],
)
def test_wrong_lane_with_captured_answers_is_refuted(correct, wrong, refutation):
    spec = SearchSpec(3, [SearchMode.OUTWARD], lane=mutant(SearchLane, correct, wrong), captured=True)
    refutation(spec, "search_lane", f"captured: `{wrong.strip()}`", bound(16), probes=CAPTURED_PROBES)
