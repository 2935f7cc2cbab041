"""Proof: the SAR lane returns the code that the definition of the grid asks for, in the right time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from golden_model.config import TINY
from rtl import layouts
from rtl.trq_sar import TrqSar
from rtl.trq_settings import TrqSettings
from tests.formal.mutants import mutant
from tests.formal.prove import bound, held, induction

pytestmark = [pytest.mark.rtl, pytest.mark.slow]

#: Registers of the lane that the invariant speaks of.
PROBES = {"steps": "lane.steps", "first": "lane.first", "low": "lane.low"}


class SarSpec(wiring.Component):
    """Any legal registers and any sampled level, converted again and again with any pauses.

    The result is checked against the definition of the code, not against a search: code is the largest
    one whose threshold the level reaches. The invariant says the same of every step of the search.
    comparator_valid : any answer may be missing; the comparator then says anything.
    """

    def __init__(self, adc_bits: int, lane: type = TrqSar, settings: type = TrqSettings, *, comparator_valid: int = 0):
        self.config = replace(TINY, adc_bits=adc_bits, comparator_valid=comparator_valid)
        self.lane, self.settings = lane, settings
        super().__init__(
            {
                "registers": In(layouts.adc_registers(self.config)),
                "level": In(adc_bits),
                "start": In(1),
                "decided": In(1),
                "noise": In(1),
                "steps": In(adc_bits),
                "first": In(1),
                "low": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bits = self.config.adc_bits
        m.submodules.settings = settings = self.settings(self.config)
        m.submodules.lane = lane = self.lane(self.config)
        registers, level = self.registers, self.level
        decides = self.decided | (not self.config.comparator_valid)
        if self.config.comparator_valid:
            m.d.comb += lane.decided.eq(self.decided)
        for port in (registers, level):
            held(m, port)
        allowed = Signal(2)  # constants are decoded in the first clock
        m.d.sync += allowed.eq((allowed << 1) | 1)
        m.d.comb += [
            settings.registers.eq(registers),
            lane.search.eq(settings.search),
            lane.comparator.eq(Mux(decides, level >= lane.threshold, self.noise)),
            lane.start.eq(self.start),
            Assume(~self.start | (allowed.all() & (~lane.busy | lane.last))),
        ]

        # Legal registers, as system.md §4.1 states it; the hardware says the same.
        grid = Signal(range(2 * bits + 2))
        window_bits = Signal(range(2 * bits + 2))
        positions = Signal(4 * bits)
        legal = Signal()
        m.d.comb += [
            grid.eq(registers.n_r2 + registers.m),
            window_bits.eq(Mux(registers.n_r1 < grid, grid - registers.n_r1, 0)),
            positions.eq(1 << window_bits),
            legal.eq(
                (registers.n_r2 >= 1)
                & (grid <= bits)
                & Mux(
                    registers.mode,
                    (registers.n_r1 < grid) & (registers.bias + 2 <= positions),
                    (registers.n_r1 == 0) & (registers.bias == 0),
                )
            ),
        ]
        with m.If(allowed[0]):
            m.d.comb += Assert(settings.illegal == ~legal)
        m.d.comb += Assume(~self.start | legal)

        # The grid in LSB: where the range begins, log2 of its step, half a step, its bits.
        wide = unsigned(2 * bits + 2)
        s1, s2, shift = (Signal(range(bits + 1), name=n) for n in ("s1", "s2", "shift"))
        low, high, half1 = (Signal(wide, name=n) for n in ("low", "high", "half1"))
        above, below, in_r1 = Signal(), Signal(), Signal()
        origin, half, n, detections = Signal(wide), Signal(wide), Signal(range(bits + 1)), Signal(2)
        m.d.comb += [
            s2.eq(bits - registers.n_r2),
            s1.eq(bits - grid),
            half1.eq((1 << s1) >> 1),
            low.eq((registers.bias << registers.n_r1) << s1),
            high.eq(low + ((1 << registers.n_r1) << s1)),
            above.eq(level + half1 >= high),
            below.eq((registers.bias != 0) & (level + half1 < low)),
            in_r1.eq(registers.mode & ~above & ~below),
            shift.eq(Mux(in_r1, s1, s2)),
            half.eq((1 << shift) >> 1),
            origin.eq(Mux(in_r1, low, 0)),
            n.eq(Mux(in_r1, registers.n_r1, registers.n_r2)),
            detections.eq(Mux(registers.mode, 1 + (registers.bias != 0), 0)),
        ]

        # The definition: with d of the n bits decided, `code` is the largest one whose threshold the level reaches.
        # A conversion may begin in the clock of `last`: `spent` keeps the operations of the one before.
        clocks, spent, finished = Signal(range(bits + 4)), Signal(range(bits + 4)), Signal()
        decided, weight = Signal(range(bits + 4)), Signal(range(bits + 1))
        reached, beyond, right = Signal(wide), Signal(wide), Signal()
        m.d.sync += finished.eq(lane.last)
        with m.If(lane.busy & decides):
            m.d.sync += clocks.eq(clocks + 1)
        with m.If(lane.start):
            m.d.sync += clocks.eq(0)
        with m.If(lane.last):
            m.d.sync += spent.eq(clocks + 1)
        m.d.comb += [
            decided.eq(Mux(finished, spent, clocks) - detections),
            weight.eq(shift + n - decided),
            reached.eq(origin + (lane.code << weight)),
            beyond.eq(reached + (1 << weight)),
            right.eq(
                (decided <= n)
                & (lane.range_flag == ~in_r1)
                & (lane.code < (1 << decided))
                & ((lane.code == 0) | (level + half >= reached))
                & ((lane.code + 1 == (1 << decided)) | (level + half < beyond))
            ),
        ]
        with m.If(finished):
            m.d.comb += Assert(right & (decided == n))

        # Invariant.
        with m.If(lane.busy):
            m.d.comb += [Assert(lane.threshold != 0), Assert(legal), Assert(allowed.all())]
        m.d.comb += Assert(lane.busy == self.steps.any())
        with m.If(self.first | self.low):
            m.d.comb += Assert(self.steps == (1 << bits) - (1 << s2))
        with m.If(self.first):
            first = Mux(registers.mode, high - half1, (1 << (bits - 1)) - half)
            m.d.comb += [Assert(~self.low), Assert(clocks == 0), Assert(lane.threshold == first)]
        with m.Elif(self.low):
            m.d.comb += [
                Assert(clocks == 1),
                Assert(registers.mode & (registers.bias != 0)),
                Assert(lane.threshold == low - half1),
                Assert(lane.range_flag == above),
            ]
        with m.Elif(lane.busy):
            middle = origin + (((lane.code << 1) | 1) << weight >> 1)
            m.d.comb += [
                Assert(clocks >= detections),
                Assert(right & (decided < n)),
                Assert(self.steps == (1 << weight) - (1 << shift)),
                Assert(lane.threshold == middle - half),
            ]
        return m


@pytest.mark.parametrize("adc_bits", [4, 8])
def test_code_and_operations_are_those_of_the_definition(adc_bits, proof):
    spec = SarSpec(adc_bits)
    proof(spec, "trq_sar", f"R = {adc_bits}, all legal registers", induction(2), probes=PROBES, limit=500)


def test_code_and_decisions_are_those_of_the_definition_by_a_comparator_that_need_not_decide(proof):
    spec = SarSpec(4, comparator_valid=1)
    proof(spec, "trq_sar", "R = 4, all legal registers", induction(2), probes=PROBES, limit=500)


@pytest.mark.parametrize(
    ("correct", "wrong"),
    [
        ("(threshold ^ (step >> 1))", "(threshold ^ step)"),
        ("range_flag | (low & ~answer)", "low & ~answer"),
        ("inside & search.r1_is_point", "inside & search.two_detections"),
        ("enters = inside & ~start", "enters = inside"),
        ("searches & ~first, code << 1", "searches, code << 1"),
    ],
)
def test_wrong_lane_is_refuted(correct, wrong, refutation):
    spec = SarSpec(4, lane=mutant(TrqSar, correct, wrong))
    refutation(spec, "trq_sar", f"`{wrong}`", bound(12), probes=PROBES)


def test_wrong_decoding_of_registers_is_refuted(refutation):
    wrong = mutant(TrqSettings, "[: len(registers.m)]) - 2, 0)", "[: len(registers.m)]) - 1, 0)")
    refutation(SarSpec(4, settings=wrong), "trq_settings", "one bias too many is legal", bound(12), probes=PROBES)
