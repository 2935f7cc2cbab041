"""Proof: a lane with two sample places gives every activation its own value, however samples and lanes overlap."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amaranth.hdl import Array, Assert, Assume, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from golden_model.config import TINY
from rtl import pair_layouts as layouts
from rtl.pair_lane import PairLane
from rtl.pair_layouts import SearchMode
from rtl.sample_places import SamplePlaces
from rtl.search_begin import SearchBegin
from rtl.search_settings import SearchSettings
from tests.formal.mutants import mutant
from tests.formal.prove import PDR, bound, held

pytestmark = [pytest.mark.rtl, pytest.mark.slow]


class PlacesSpec(wiring.Component):
    """One lane of many: activations with or without it, whenever the places allow; other lanes take any time.

    The array keeps a sample in each place. Signed lossless modes: the value is the sample.
    """

    def __init__(
        self, adc_bits: int, ou_rows: int, mode: SearchMode, lane: type = PairLane, places: type = SamplePlaces
    ):
        self.config = replace(TINY, adc_bits=adc_bits, rows=ou_rows, ou_rows=ou_rows)
        self.mode, self.lane, self.places = mode, lane(self.config), places(self.config)
        super().__init__(
            {
                "registers": In(layouts.search_registers(self.config, True)),
                "sampled": In(1),
                "takes_part": In(1),
                "sample": In(signed(adc_bits + 1)),
                "ones": In(layouts.ones_in_ou(self.config)),
                "others_pending": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.settings = settings = SearchSettings(self.config)
        m.submodules.begin = begin = SearchBegin(self.config)
        m.submodules.lane = lane = self.lane
        m.submodules.places = places = self.places
        held(m, self.registers)
        decoded = Signal(2)
        samples = Array(Signal.like(self.sample, name=f"sample{i}") for i in range(2))
        taken = Array(Signal(name=f"taken{i}") for i in range(2))
        begin_waiting = Signal.like(begin.begin)
        m.d.sync += decoded.eq(decoded << 1 | 1)
        m.d.comb += [
            settings.registers.eq(self.registers),
            Assume((self.registers.mode == self.mode) & self.registers.signed),
            Assume(~decoded.all() | ~settings.illegal),
            Assume(~self.sampled | (decoded.all() & places.free)),
            Assume((self.ones != 0) & (self.ones <= self.config.ou_rows)),
            Assume((self.sample <= self.ones) & (self.sample >= -self.ones)),
            begin.constants.eq(settings.constants),
            begin.ones.eq(self.ones),
            places.sampled.eq(self.sampled),
            places.pending.eq(lane.pending | self.others_pending),
            lane.constants.eq(settings.constants),
            lane.sample.eq(self.sampled & self.takes_part),
            lane.place_next.eq(places.place),
            lane.begin.eq(begin.begin),
            lane.begin_waiting.eq(begin_waiting),
            lane.oldest.eq(places.oldest),
            lane.complete.eq(places.complete),
            lane.comparator.eq(Mux(lane.place, samples[1], samples[0]) >= lane.threshold),
        ]
        # What the places hold, by counting activations.
        count = Signal(range(3))
        oldest = Signal()
        m.d.sync += [count.eq(count + self.sampled - places.complete), oldest.eq(oldest ^ places.complete)]
        with m.If(self.sampled):
            m.d.sync += [
                samples[places.place].eq(self.sample),
                taken[places.place].eq(self.takes_part),
                begin_waiting.eq(begin.begin),
            ]
            m.d.comb += [
                Assert((count != 2) | places.complete),
                Assert(places.place == oldest ^ (count == 1)),
            ]
        with m.If(places.complete):
            m.d.comb += [Assert(count != 0), Assert(places.oldest == oldest)]
            with m.If(taken[oldest]):
                m.d.comb += Assert(lane.value == samples[oldest])
        return m


@pytest.mark.parametrize("mode", [SearchMode.OUTWARD, SearchMode.BOUNDED])
def test_every_activation_is_given_its_own_value(mode, proof):
    proof(
        PlacesSpec(4, 9, mode), "pair_lane, sample_places", f"R = 4, ou_rows = 9, {mode.name}, every k", PDR, limit=300
    )


@pytest.mark.parametrize(
    ("block", "correct", "wrong"),
    [
        (PairLane, "with m.If(on_oldest | self.complete)", "with m.If(on_oldest)"),
        (PairLane, "waits.eq(waits & self.sample)", "waits.eq(0)"),
        (SamplePlaces, "((taken != 2) | self.complete)", "(taken != 3)"),
    ],
)
def test_wrong_block_is_refuted(block, correct, wrong, refutation):
    broken = {"lane" if block is PairLane else "places": mutant(block, correct, wrong)}
    refutation(PlacesSpec(3, 4, SearchMode.OUTWARD, **broken), block.__name__, f"`{wrong}`", bound(14))
