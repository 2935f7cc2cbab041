"""A lane of the pair macro: a converter with two sample-and-hold places."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal

from rtl import pair_layouts
from rtl.block import Block, In, Out
from rtl.search_lane import SearchLane


class PairLane(Block):
    """Converts its samples one after the other, in the order in which they were taken, without a gap.

    `SamplePlaces` hands out its places in turn, whether this lane takes part in an activation or not. A lane that has
    finished with the oldest activation may go on with the next one, and may finish that, too: then the older value is
    in a register of its own, the younger one in the threshold register.

    Latency: the first decision in the clock after `sample`, or after the last decision about the sample before.
    Throughput: one A/D operation per clock. Reset: idle.

    Members
    -------
    constants : from `SearchSettings`, stable while converting.
    sample : strobe, a sample is taken for this lane. place_next : into this place; right in every clock.
    begin : of `SearchBegin`, for that sample. begin_waiting : the same for the sample before.
    oldest : place of the oldest activation that is not complete. complete : strobe, it is; allowed if not `pending`.
    threshold, place, comparator : as in `HalfConversionPort`.
    busy : a decision is made in this clock.
    pending : decisions about the oldest activation are left after this clock. Combinational from `comparator`.
    value : of the oldest activation, if it is not pending and the lane took a sample of it.
    """

    constants: In(lambda config: pair_layouts.search_constants(config, True))
    sample: In(1)
    place_next: In(1)
    begin: In(lambda config: pair_layouts.search_begin(config, True))
    begin_waiting: In(lambda config: pair_layouts.search_begin(config, True))
    oldest: In(1)
    complete: In(1)
    threshold: Out(lambda config: pair_layouts.search_threshold(config, True))
    place: Out(1)
    comparator: In(1)
    busy: Out(1)
    pending: Out(1)
    value: Out(lambda config: pair_layouts.search_threshold(config, True))

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.search = search = SearchLane(self.config)
        place, waits = Signal(), Signal()  # the place that is converted; the other one holds a sample, too
        free, on_oldest = Signal(), Signal()
        result = Signal.like(self.value, reset_less=True)
        m.d.comb += [
            free.eq(~search.busy | search.last),
            on_oldest.eq(search.busy & (place == self.oldest)),
            search.constants.eq(self.constants),
            search.start.eq(free & (waits | self.sample)),
            search.begin.eq(Mux(waits, self.begin_waiting.as_value(), self.begin.as_value())),
            search.comparator.eq(self.comparator),
            self.threshold.eq(search.threshold),
            self.place.eq(place),
            self.busy.eq(search.busy),
            self.pending.eq(on_oldest & ~search.last),
            self.value.eq(Mux(on_oldest, search.value, result)),
        ]
        with m.If(free):
            m.d.sync += [place.eq(Mux(waits, ~place, self.place_next)), waits.eq(waits & self.sample)]
        with m.Elif(self.sample):
            m.d.sync += waits.eq(1)
        with m.If(on_oldest | self.complete):
            m.d.sync += result.eq(search.value)
        return m
