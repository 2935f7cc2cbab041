"""Proof: lanes and scheduler of a machine of planes stay together, whenever each comparator decides."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from golden_model.config import TINY
from rtl import layouts
from rtl.interfaces import OuLists
from rtl.ou_scheduler import OuScheduler
from rtl.trq_sar import TrqSar
from rtl.trq_settings import TrqSettings
from tests.formal.mutants import mutant
from tests.formal.prove import PDR, bound, held

pytestmark = [pytest.mark.rtl, pytest.mark.slow]


class LanesSpec(wiring.Component):
    """The scheduler and its lanes; lists of OUs, segments and back-pressure are any, and so is what a sample holds.

    The array holds one sample, which the next one overwrites. Registers are lossless: a code's value is the sample.
    """

    def __init__(self, *, interval: int = 1, lane: type = TrqSar, scheduler: type = OuScheduler):
        self.config = replace(TINY, adc_bits=2, ou_rows=2, ou_cols=1, sample_interval=interval, comparator_valid=1)
        self.lanes, self.scheduler = [lane(self.config) for _ in range(2)], scheduler(self.config)
        levels = data.ArrayLayout(self.config.adc_bits, self.config.lanes)
        super().__init__(
            {
                "registers": In(layouts.adc_registers(self.config)),
                "lists": In(OuLists(self.config)),
                "segment": In(layouts.segment(self.config)),
                "segment_valid": In(1),
                "settings": In(layouts.layer_settings(self.config)),
                "start": In(1),
                "sample_ready": In(1),
                "sample": In(levels),
                "noise": In(layouts.lanes(self.config)),
                "decided": In(layouts.lanes(self.config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, registers = self.config, self.registers
        m.submodules.settings = settings = TrqSettings(config)
        m.submodules.scheduler = scheduler = self.scheduler
        held(m, registers)
        held(m, self.settings)
        decoded = Signal(2)
        m.d.sync += decoded.eq(decoded << 1 | 1)
        wiring.connect(m, scheduler.lists, wiring.flipped(self.lists))
        m.d.comb += [
            settings.registers.eq(registers),
            Assume(~decoded.all() | ~settings.illegal),
            Assume((registers.n_r2 == config.adc_bits) & (registers.m == 0)),
            scheduler.settings.eq(self.settings),
            scheduler.start.eq(self.start),
            scheduler.segments.valid.eq(self.segment_valid & decoded.all()),
            scheduler.segments.payload.eq(self.segment),
            scheduler.sample.ready.eq(self.sample_ready),
        ]

        transfer = scheduler.sample.valid & scheduler.sample.ready
        sampled, converting = Signal.like(self.sample), Signal()
        completed, completed_sample = Signal(), Signal.like(self.sample)
        m.d.sync += completed.eq(scheduler.completed)
        m.d.comb += [Assert(~transfer | ~converting | scheduler.completed), Assert(~scheduler.completed | converting)]
        with m.If(scheduler.completed):
            m.d.sync += [converting.eq(0), completed_sample.eq(sampled)]
        with m.If(transfer):
            m.d.sync += [converting.eq(1), sampled.eq(self.sample)]
        low = registers.bias << registers.n_r1
        for i, lane in enumerate(self.lanes):
            m.submodules[f"lane{i}"] = lane
            m.d.comb += [
                lane.search.eq(settings.search),
                lane.start.eq(scheduler.lane_start[i]),
                lane.comparator.eq(Mux(self.decided[i], sampled[i] >= lane.threshold, self.noise[i])),
                lane.decided.eq(self.decided[i]),
                scheduler.lane_busy[i].eq(lane.busy),
                scheduler.lane_last[i].eq(lane.last),
                Assert(~lane.busy | converting),
            ]
            with m.If(completed & scheduler.completed_ou.started[i]):
                m.d.comb += Assert(lane.code + Mux(lane.range_flag, 0, low) == completed_sample[i])
        return m


NAME = "trq_sar, ou_scheduler"


@pytest.mark.parametrize("interval", [1, 3])
def test_every_sample_is_given_its_own_value_once_by_comparators_that_need_not_decide(interval, proof):
    what = f"R = 2, 2 lanes, interval {interval}, lossless registers, any comparator undecided in any clock"
    proof(LanesSpec(interval=interval), NAME, what, PDR, limit=400)


@pytest.mark.parametrize(
    ("block", "correct", "wrong"),
    [
        (TrqSar, "self.last.eq(decides & (", "self.last.eq(("),
        (TrqSar, "with m.If(decides):", "with m.If(1):"),
        (OuScheduler, "(self.lane_busy & ~self.lane_last).any()", "(self.lane_busy & ~self.lane_last).all()"),
        (OuScheduler, "slot & lanes_done & waited", "slot & self.lane_last.any() & waited"),
    ],
)
def test_wrong_block_is_refuted(block, correct, wrong, refutation):
    broken = {"lane" if block is TrqSar else "scheduler": mutant(block, correct, wrong)}
    refutation(LanesSpec(**broken), block.__name__, f"`{wrong}`", bound(12))
