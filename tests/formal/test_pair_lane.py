"""Proof: a lane with several sample places gives every sample its own value, however samples and lanes overlap."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amaranth.hdl import Array, Assert, Assume, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from golden_model.config import TINY
from rtl import pack_layouts as packs
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
    """One lane of many: samples with or without it, whenever the places allow; other lanes take any time.

    The array keeps a sample in each place, and has a clock to acquire it. Lossless modes: the value is the sample. A
    window follows another in any clock, but the third only when the lane is done with the first.
    """

    def __init__(
        self,
        mode: SearchMode,
        *,
        adc_bits: int = 4,
        ou_rows: int = 9,
        sample_places: int = 3,
        comparator_valid: int = 0,
        early_stop: int = 0,
        lane: type = PairLane,
        places: type = SamplePlaces,
    ):
        self.config = replace(
            TINY,
            machine="pairs",
            adc_bits=adc_bits,
            rows=ou_rows,
            ou_rows=ou_rows,
            sample_places=sample_places,
            comparator_valid=comparator_valid,
            early_stop=early_stop,
        )
        self.mode, self.lane, self.places = mode, lane(self.config), places(self.config)
        super().__init__(
            {
                "registers": In(layouts.search_registers(self.config, True)),
                "sampled": In(1),
                "whole": In(1),
                "inside": In(1),
                "sample": In(signed(adc_bits + 1)),
                "ones": In(layouts.ones_in_ou(self.config)),
                "others_occupy": In(1),
                "noise": In(1),
                "decided": In(1),
                "follows": In(1),
                "ends": In(1),
                "check": In(1),
                "stopped": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, size = self.config, self.config.sample_places
        m.submodules.settings = settings = SearchSettings(config)
        m.submodules.begin = begin = SearchBegin(config)
        m.submodules.lane = lane = self.lane
        m.submodules.places = places = self.places
        held(m, self.registers)
        held(m, self.inside)
        decides = self.decided | (not config.comparator_valid)
        decoded = Signal(2)
        samples = Array(Signal.like(self.sample, name=f"sample{i}") for i in range(size))
        expected, acquired = Signal(size), Signal(size)  # a place's sample is still to be converted; it can be compared
        contexts = Signal(packs.sample_contexts(config))
        place, converted = places.turn.place, lane.converted
        bank, oldest, banks = Signal(), Signal(), Signal(size)  # of what samples, of the oldest window, of the places
        m.d.sync += [
            bank.eq(bank ^ (self.follows & (bank == oldest))),
            oldest.eq(oldest ^ (self.ends & (bank != oldest) & ~lane.unfinished)),
        ]
        of_oldest = Mux(oldest, banks, ~banks)
        m.d.sync += decoded.eq(decoded << 1 | 1)
        m.d.comb += [
            settings.registers.eq(self.registers),
            Assume((self.registers.mode == self.mode) & self.registers.signed),
            Assume(~decoded.all() | ~settings.illegal),
            Assume(~self.sampled | (decoded.all() & places.free)),
            Assume((self.ones != 0) & (self.ones <= config.ou_rows)),
            Assume((self.sample <= self.ones) & (self.sample >= -self.ones)),
            begin.constants.eq(settings.constants),
            begin.ones.eq(self.ones),
            places.sampled.eq(self.sampled),
            places.occupied.eq(lane.occupied | self.others_occupy),
            lane.constants.eq(settings.constants),
            lane.first.eq(begin.begin.threshold),
            lane.inside.eq(self.inside),
            lane.turn.eq(places.turn),
            lane.contexts.eq(contexts),
            lane.comparator.eq(Mux(decides, samples[lane.place] >= lane.threshold, self.noise)),
            Assert(~lane.busy | acquired.bit_select(lane.place, 1)),
            lane.oldest.eq(oldest),
            Assert(lane.unfinished | (expected & of_oldest == 0)),
            Assert((bank != oldest) | (expected & ~of_oldest == 0)),
        ]
        if config.comparator_valid:
            m.d.comb += lane.decided.eq(self.decided)
        m.d.sync += acquired.eq(~0)
        check, takes_part = Signal(), Signal()
        m.d.comb += [check.eq(self.check & config.early_stop), takes_part.eq((self.whole | self.inside) & ~check)]
        of_check = Const(0)
        if config.early_stop:
            # A check comes when every sample before it has been converted, and has value 0.
            held(m, self.stopped)
            of_check = converted.valid & converted.check
            before = Array(Signal(size, name=f"before{i}") for i in range(size))
            asked = Signal(size)
            done = Mux(converted.valid & ~of_check, 1 << converted.shift, 0)
            m.d.comb += [stopped.eq(self.stopped) for stopped in lane.stopped]
            m.d.sync += [one.eq(one & ~done) for one in before]
            with m.If(of_check):
                m.d.comb += [Assert(asked.bit_select(converted.shift, 1)), Assert(before[converted.shift] == 0)]
                m.d.comb += Assert(converted.value == 0)
                m.d.sync += asked.bit_select(converted.shift, 1).eq(0)
            with m.If(self.sampled):
                m.d.sync += [contexts[place].check.eq(check), before[place].eq(expected & ~done)]
                m.d.sync += asked.bit_select(place, 1).eq(check)
                m.d.comb += Assert(~asked.bit_select(place, 1))
                with m.If(self.stopped):
                    m.d.comb += takes_part.eq(0)
            m.d.comb += Assert(lane.unfinished | (asked & of_oldest == 0))
        with m.If(converted.valid & ~of_check):
            m.d.sync += expected.bit_select(converted.shift, 1).eq(0)
            m.d.comb += [
                Assert(expected.bit_select(converted.shift, 1)),
                Assert(converted.value == samples[converted.shift]),
                Assert(converted.bank == banks.bit_select(converted.shift, 1)),
            ]
        with m.If(self.sampled):
            m.d.sync += [
                samples[place].eq(self.sample),
                expected.bit_select(place, 1).eq(takes_part),
                acquired.bit_select(place, 1).eq(0),
                contexts[place].left.eq(begin.begin.left),
                contexts[place].whole.eq(self.whole),
                contexts[place].bank.eq(bank),
                banks.bit_select(place, 1).eq(bank),
                contexts[place].shift.eq(place),
                contexts[place].block_col.eq(0),
            ]
            m.d.comb += [Assert(~expected.bit_select(place, 1)), Assert(place < size)]
        return m


@pytest.mark.parametrize("mode", [SearchMode.OUTWARD, SearchMode.BOUNDED])
def test_every_sample_is_given_its_own_value_once(mode, proof):
    what = f"R = 4, ou_rows = 9, 3 places, {mode.name}, every k"
    proof(PlacesSpec(mode), "pair_lane, sample_places", what, PDR, limit=300)


def test_every_sample_is_given_its_own_value_once_by_comparators_that_need_not_decide(proof):
    what = "R = 3, ou_rows = 4, 2 places, OUTWARD, every k, any comparator undecided in any clock"
    spec = PlacesSpec(SearchMode.OUTWARD, adc_bits=3, ou_rows=4, sample_places=2, comparator_valid=1)
    proof(spec, "pair_lane, sample_places", what, PDR, limit=300)


def test_every_sample_is_given_its_own_value_once_and_a_check_comes_behind_the_samples_before_it(proof):
    what = "R = 3, ou_rows = 4, 3 places, OUTWARD, every k, any samples and checks"
    spec = PlacesSpec(SearchMode.OUTWARD, adc_bits=3, ou_rows=4, sample_places=3, early_stop=1)
    proof(spec, "pair_lane, sample_places", what, PDR, limit=300)


@pytest.mark.parametrize(
    ("block", "correct", "wrong"),
    [
        (PairLane, "takes_part.eq(inside), ", "takes_part.eq(1), "),
        (PairLane, "& ~search.busy & ~search.answered", "& search.free"),
        (PairLane, "inside & ~context.check & ~stopped", "inside & ~context.check"),
        (PairLane, "(search.answered & (decided_place == self.turn.place))", "0"),
        (PairLane, "decided_place.eq(place)]", "decided_place.eq(turn.place)]"),
        (PairLane, "search.decided.eq(self.decided)", "search.decided.eq(1)"),
        (PairLane, "(search.answered & (decided.bank == self.oldest))", "0"),
        (PairLane, "self.converted.bank.eq(decided.bank)", "self.converted.bank.eq(context.bank)"),
        (SamplePlaces, "rested & ~self.occupied", "rested"),
    ],
)
def test_wrong_block_is_refuted(block, correct, wrong, refutation):
    broken = {"lane" if block is PairLane else "places": mutant(block, correct, wrong)}
    spec = PlacesSpec(
        SearchMode.OUTWARD,
        adc_bits=3,
        ou_rows=4,
        sample_places=2,
        comparator_valid=int("search.decided" in correct),
        early_stop=int("search.answered" in correct or "stopped" in correct),
        **broken,
    )
    refutation(spec, block.__name__, f"`{wrong}`", bound(16))
