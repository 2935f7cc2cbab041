"""Proof: a search lane returns what the definition of its mode asks for, by the comparisons that it asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from golden_model.config import TINY, HardwareConfig
from rtl import pair_layouts as layouts
from rtl.pair_layouts import SearchMode
from rtl.search_begin import SearchBegin
from rtl.search_lane import SearchLane
from rtl.search_settings import SearchSettings
from tests.formal.prove import ProofError, held, prove

pytestmark = [pytest.mark.rtl, pytest.mark.slow]


def _config(adc_bits: int) -> HardwareConfig:
    return replace(TINY, adc_bits=adc_bits, rows=32, ou_rows=(1 << adc_bits) - 1)


class SearchSpec(wiring.Component):
    """Any legal registers, any k and any sample, converted again and again with any pauses.

    Results are checked against definitions, not against another search. `wrong` breaks one of them, to see the proof
    fail.
    """

    def __init__(self, adc_bits: int, modes: list[SearchMode], wrong: str = ""):
        self.config, self.modes, self.wrong = _config(adc_bits), modes, wrong
        super().__init__(
            {
                "registers": In(layouts.search_registers(self.config, True)),
                "sample": In(signed(adc_bits + 1)),
                "ones": In(layouts.ones_in_ou(self.config)),
                "start": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.settings = settings = SearchSettings(self.config, True, self.modes)
        m.submodules.begin = begin = SearchBegin(self.config, True, self.modes)
        m.submodules.lane = lane = SearchLane(self.config, True, self.modes)
        registers, sample, ones = self.registers, self.sample, self.ones
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
            Assume(ones != 0),
            Assume(~self.start | (allowed.all() & (~lane.busy | lane.last))),
            Assume(~allowed.all() | ~settings.illegal),
        ]

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
            self._outward(m, lane, finished, operations)
        with m.Else():
            self._grid(m, lane, finished, operations)
        return m

    def _bounded(self, m: Module, lane, finished: Signal) -> None:
        """Every threshold is the middle of what is left."""
        shape = signed(len(self.sample) + 1)
        lowest, low, high = (Signal(shape, name=n) for n in ("lowest", "low", "high"))
        middle = (low + high + 1 + (self.wrong == "middle")) >> 1
        m.d.comb += [
            lowest.eq(Mux(self.registers.signed, -self.ones, 0)),
            Assume((self.sample >= lowest) & (self.sample <= self.ones)),
        ]
        with m.If(lane.busy):
            m.d.comb += [Assert(low < high), Assert(lane.threshold == middle)]
            with m.If(self.sample >= middle):
                m.d.sync += low.eq(middle)
            with m.Else():
                m.d.sync += high.eq(middle - 1)
        with m.If(self.start):
            m.d.sync += [low.eq(lowest), high.eq(self.ones)]
        with m.If(finished):
            m.d.comb += Assert(lane.value == self.sample)

    def _outward(self, m: Module, lane, finished: Signal, operations: Signal) -> None:
        sample, ones = self.sample, self.ones
        up, down = sample + 1, 2 - sample
        expected = Mux(sample >= 1, Mux(up < ones, up, ones), Mux(down <= ones, down, ones + 1))
        m.d.comb += Assume((sample >= -ones) & (sample <= ones))
        with m.If(lane.busy):
            m.d.comb += [Assert(lane.threshold <= ones), Assert(lane.threshold > -ones)]
        with m.If(finished):
            m.d.comb += [Assert(lane.value == sample), Assert(operations == expected + (self.wrong == "outward"))]

    def _grid(self, m: Module, lane, finished: Signal, operations: Signal) -> None:
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
        steps = Mux(in_r1, registers.n_r1, registers.n_r2) + (self.wrong == "operations")
        with m.If(finished):
            m.d.comb += [
                Assert(lane.flag == (in_r1 if self.wrong == "range" else ~in_r1)),
                Assert(operations == detections + steps),
                Assert((found & (unit - 1)) == 0),
                Assert((found >= begin) & (found < end)),
                Assert((found == begin) | (level + (unit >> 1) >= found)),
                Assert((found + unit == end) | (level + (unit >> 1) < found + unit)),
            ]


@pytest.mark.parametrize("mode", [SearchMode.BOUNDED, SearchMode.OUTWARD])
def test_result_is_right_for_every_bound_and_sample(mode, tmp_path):
    """All runs, without a limit, of R = 4."""
    prove(SearchSpec(4, [mode]), tmp_path, mode="prove", engine="abc pdr", limit=500)


def test_result_is_right_for_every_setting_of_a_grid_and_every_sample(tmp_path):
    """All runs of one conversion of R = 4 and the begin of the next: settle, at most 7 decisions."""
    prove(SearchSpec(4, list(SearchMode)), tmp_path, depth=13, limit=500)


@pytest.mark.parametrize(
    ("mode", "wrong"),
    [
        (SearchMode.TWIN, "range"),
        (SearchMode.UNIFORM, "operations"),
        (SearchMode.BOUNDED, "middle"),
        (SearchMode.OUTWARD, "outward"),
    ],
)
def test_wrong_specification_is_refuted(mode, wrong, tmp_path):
    with pytest.raises(ProofError, match="Assert failed"):
        prove(SearchSpec(3, [mode], wrong), tmp_path, depth=12)
