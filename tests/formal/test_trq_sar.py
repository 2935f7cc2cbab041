"""Proof: the SAR lane returns the code that the definition of the grid asks for, in the right time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from golden_model.config import TINY
from rtl import layouts
from rtl.trq_sar import TrqSar
from rtl.trq_settings import TrqSettings
from tests.formal.prove import ProofError, held, prove

pytestmark = [pytest.mark.rtl, pytest.mark.slow]


class SarSpec(wiring.Component):
    """Any legal registers and any sampled level, converted again and again with any pauses.

    The result is checked against the definition of the code, not against a search: code is the largest
    one whose threshold the level reaches. `wrong` breaks one definition, to see the proof fail.
    """

    def __init__(self, adc_bits: int, wrong: str = ""):
        self.config = replace(TINY, adc_bits=adc_bits)
        self.wrong = wrong
        super().__init__({"registers": In(layouts.adc_registers(self.config)), "level": In(adc_bits), "start": In(1)})

    def elaborate(self, platform):
        m = Module()
        bits = self.config.adc_bits
        m.submodules.settings = settings = TrqSettings(self.config)
        m.submodules.lane = lane = TrqSar(self.config)
        registers = self.registers
        for port in (registers, self.level):
            held(m, port)
        allowed = Signal(2)  # constants are decoded in the first clock
        m.d.sync += allowed.eq((allowed << 1) | 1)
        m.d.comb += [
            settings.registers.eq(registers),
            lane.search.eq(settings.search),
            lane.comparator.eq(self.level >= lane.threshold),
            lane.start.eq(self.start),
            Assume(~self.start | (allowed.all() & (~lane.busy | lane.last))),
        ]

        # Legal registers, as system.md §4.1 states it.
        grid = registers.n_r2 + registers.m
        positions = Signal(2 * bits)
        m.d.comb += [
            positions.eq(1 << (grid - registers.n_r1)[:3]),
            Assume((registers.n_r2 >= 1) & (grid <= bits)),
            Assume(
                Mux(
                    registers.mode,
                    (registers.n_r1 < grid) & (registers.bias + 2 <= positions),
                    (registers.n_r1 == 0) & (registers.bias == 0),
                )
            ),
        ]

        def threshold(steps, shift):
            half = Signal(2 * bits)
            exact = Signal(2 * bits)
            m.d.comb += [half.eq((1 << shift) >> 1), exact.eq((steps << shift) - half)]
            return exact

        s1, s2 = Signal(range(bits + 1)), Signal(range(bits + 1))
        low = Signal(bits)
        m.d.comb += [s2.eq(bits - registers.n_r2), s1.eq(bits - grid), low.eq(registers.bias << registers.n_r1)]
        top1, top2 = Signal(bits + 1), Signal(bits + 1)
        m.d.comb += [top1.eq(1 << registers.n_r1), top2.eq(1 << registers.n_r2)]
        in_r1 = Signal()
        m.d.comb += in_r1.eq(
            registers.mode
            & (self.level < threshold(low + top1, s1))
            & ((registers.bias == 0) | (self.level >= threshold(low, s1)))
        )

        code = lane.code
        in_window = Signal()
        origin, shift, top = Signal(bits), Signal(range(bits + 1)), Signal(bits + 1)
        m.d.comb += [
            origin.eq(Mux(in_r1, low, 0)),
            shift.eq(Mux(in_r1, s1, s2)),
            top.eq(Mux(in_r1, top1, top2)),
            in_window.eq(
                (code < top)
                & ((code == 0) | (self.level >= threshold(origin + code, shift)))
                & ((code + 1 == top) | (self.level < threshold(origin + code + 1, shift)))
            ),
        ]

        clocks = Signal(range(bits + 4))
        finished = Signal()
        spent = Signal.like(clocks)
        m.d.sync += finished.eq(lane.last)
        with m.If(lane.start):
            m.d.sync += clocks.eq(0)
        with m.Elif(lane.busy):
            m.d.sync += clocks.eq(clocks + 1)
        with m.If(lane.last):
            m.d.sync += spent.eq(clocks + 1)
        detections = Mux(registers.mode, 1 + (registers.bias != 0), 0)
        operations = detections + Mux(in_r1, registers.n_r1, registers.n_r2) + (self.wrong == "operations")
        with m.If(finished):
            m.d.comb += [
                Assert(lane.range_flag == (in_r1 if self.wrong == "range" else ~in_r1)),
                Assert(in_window),
                Assert(spent == operations),
            ]
        with m.If(lane.busy):
            m.d.comb += Assert(lane.threshold != 0)
        return m


@pytest.mark.parametrize("adc_bits", [3, 4])
def test_result_is_right_for_every_setting_and_level(adc_bits, tmp_path):
    """All runs of one conversion and the begin of the next: settle, R + 2 decisions, result."""
    prove(SarSpec(adc_bits), tmp_path, depth=2 * adc_bits + 6)


@pytest.mark.parametrize("wrong", ["range", "operations"])
def test_wrong_specification_is_refuted(wrong, tmp_path):
    with pytest.raises(ProofError, match="Assert failed"):
        prove(SarSpec(3, wrong), tmp_path, depth=12)
