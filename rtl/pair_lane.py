"""A lane of the pair macro: a converter with several sample-and-hold places."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal

from rtl import layouts as common
from rtl import pack_layouts as packs
from rtl import pair_layouts as layouts
from rtl.block import Block, In, Out, Where
from rtl.search_lane import SearchLane


class PairLane(Block):
    """Takes the samples of its half one after the other, and converts two of them side by side.

    A decision takes two clocks: the comparator answers in the first, in the second what it has answered, by then in a
    flip-flop, leads to the next threshold. The other sample's decisions are in the clocks between, so that the
    comparator works in every clock (rtl/search_lane.py). A sample that the lane has no part in is passed over in a
    clock. Conversions may end in another order than they began.

    With early stop, a check comes in order with the samples: when all of them have been converted, it is passed on as a
    conversion of value 0. A sample whose output has stopped is passed over.

    Latency: a sample is taken in the clock after its transfer at the earliest, and compared for the first time in the
    clock after that. Throughput: one A/D operation per clock. Reset: idle.

    Members
    -------
    constants : from `SearchSettings`, stable while converting.
    first : threshold of the first decision. inside : the lane's column has an output in the layer's last block column.
    turn : of the next sample, from `SamplePlaces`. contexts : of the samples before.
    threshold, place, comparator, decided : as in `HalfConversionPort`.
    busy : the comparator's answer of this clock counts.
    stopped : of the windows of both banks, block columns whose output has stopped.
    occupied : the lane has not converted the sample in the place of `turn`.
    oldest : bank of the oldest window that is not done. unfinished : the lane has not converted all its samples; means
        that window while the lane holds any of it.
    converted : a conversion ends.
    """

    constants: In(lambda config: layouts.search_constants(config, True))
    first: In(lambda config: layouts.search_threshold(config, True))
    inside: In(1)
    turn: In(layouts.turn)
    contexts: In(packs.sample_contexts)
    threshold: Out(lambda config: layouts.search_threshold(config, True))
    place: Out(layouts.sample_place)
    comparator: In(1)
    busy: Out(1)
    occupied: Out(1)
    oldest: In(1)
    unfinished: Out(1)
    decided: Where(lambda config: bool(config.comparator_valid), In(1))
    stopped: Where(common.early_stop, In(packs.stop_states))
    converted: Out(packs.converted)

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        m.submodules.search = search = SearchLane(config, captured=True)
        turn = Signal(layouts.turn(config))  # of the sample that is taken next
        place, decided_place = Signal(layouts.sample_place(config)), Signal(layouts.sample_place(config))
        context, decided = self.contexts[turn.place], self.contexts[decided_place]
        waits, takes_part, start, before = Signal(), Signal(), Signal(), Signal.like(turn)
        m.d.comb += [
            waits.eq(turn.as_value() != self.turn.as_value()),
            start.eq(waits & takes_part & search.free),
            # conversion
            search.constants.eq(self.constants),
            search.start.eq(start),
            search.begin.threshold.eq(self.first),
            search.begin.left.eq(context.left),
            search.comparator.eq(self.comparator),
            self.threshold.eq(search.threshold),
            self.place.eq(place),
            self.busy.eq(search.busy),
            # what is left
            before.place.eq(self.turn.place),
            before.lap.eq(~self.turn.lap),
            self.occupied.eq(
                (turn.as_value() == before.as_value())
                | (search.busy & (place == self.turn.place))
                | (search.answered & (decided_place == self.turn.place))
            ),
            self.unfinished.eq(
                (waits & (context.bank == self.oldest))
                | (search.busy & (self.contexts[place].bank == self.oldest))
                | (search.answered & (decided.bank == self.oldest))
            ),
            # what is done
            self.converted.valid.eq(search.last),
            self.converted.value.eq(search.value),
            self.converted.bank.eq(decided.bank),
            self.converted.block_col.eq(decided.block_col),
            self.converted.shift.eq(decided.shift),
        ]
        inside, passes = context.whole | self.inside, Signal()  # passes : what is next needs no slot
        if config.early_stop:
            check, stopped = Signal(), self.stopped[context.bank].bit_select(context.block_col, 1)
            m.d.comb += [
                takes_part.eq(inside & ~context.check & ~stopped),
                check.eq(waits & context.check & ~search.busy & ~search.answered),
                passes.eq(Mux(context.check, check, ~takes_part)),
                self.converted.check.eq(check),
            ]
            with m.If(check):
                m.d.comb += [
                    self.converted.valid.eq(1),
                    self.converted.value.eq(0),
                    self.converted.bank.eq(context.bank),
                    self.converted.block_col.eq(context.block_col),
                    self.converted.shift.eq(context.shift),
                ]
        else:
            m.d.comb += [takes_part.eq(inside), passes.eq(~takes_part)]
        if config.comparator_valid:
            m.d.comb += search.decided.eq(self.decided)
        m.d.sync += [place.eq(Mux(start, turn.place, decided_place)), decided_place.eq(place)]
        with m.If(waits & (start | passes)):
            m.d.sync += turn.eq(layouts.next_turn(config, turn))
        return m
