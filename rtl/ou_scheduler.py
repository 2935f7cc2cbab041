"""OU scheduler: decides in every clock which OU activation is sampled next."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal

from golden_model.config import bits_for
from rtl import layouts
from rtl.bit_count import bit_count
from rtl.block import Block, In, Out, Stream
from rtl.interfaces import OuLists


class OuScheduler(Block):
    """Walks segments, streamed input bits and OUs of a window (system.md §5).

    Order: segments ascending; within one, streamed bit positions ascending; within one, block columns
    and planes ascending. Pruned blocks and missing planes are not in the address generator's list;
    positions outside the segment's mask, and with `skip_zero_slices` all-zero slices, cost no time.

    A slot is the time of one OU activation: from the clock after its sample was transferred to the
    clock in which all started lanes have finished and `sample_interval` clocks have passed. In the last
    clock of a slot, or with no slot running, the next OU is offered to the crossbar: of the current
    segment, else of the next segment if its list is complete and its input is there; the scheduler
    switches to that segment in the same clock, also if it has nothing to activate. So segment r lasts
    max(C_r, W) clocks, the last one C_r (system.md §5); `start` to the first switch is W + 1 clocks.

    Handshakes: `sample` holds valid and payload until ready. `segments` is taken in the clock of a
    switch, at most one a clock. Nothing else stalls.
    Reset: idle.

    Members
    -------
    settings : layer descriptor, stable while a window runs.
    start : strobe, begins a window together with the address generator's.
    segments : input of the segments, ascending.
    lists : the address generator's.
    sample : to the crossbar.
    lane_start : strobe per lane with the transfer of a sample; lane_busy, lane_last : from the lanes.
    activation : strobe, a sample was transferred.
    completed : strobe, all lanes have finished an OU. completed_ou : which one, from the clock after
        `completed` until the next one completes.
    segment_events : strobe and figures of the segment that begins in this clock.
    done : strobe, in the clock in which the last conversion of the window ends, or the switch to the
        last segment if that has nothing to activate.
    """

    settings: In(layouts.layer_settings)
    start: In(1)
    segments: In(Stream(layouts.segment))
    lists: In(OuLists)
    sample: Out(Stream(layouts.sample))
    lane_start: Out(layouts.lanes)
    lane_busy: In(layouts.lanes)
    lane_last: In(layouts.lanes)
    activation: Out(1)
    completed: Out(1)
    completed_ou: Out(layouts.scheduled_ou)
    segment_events: Out(layouts.segment_events)
    done: Out(1)

    def elaborate(self, platform) -> Module:
        m = Module()
        config, lists = self.config, self.lists
        slot_over = self._slot(m)

        # What is left of the current segment: positions still to stream, the present one included.
        pending = Signal()  # the current segment has another OU
        left = Signal(config.input_bits)
        slices = Signal(layouts.segment(config)["slices"].shape)

        # The next segment's input.
        beat = self.segments.payload
        non_zero = Signal(config.input_bits)
        next_left = Signal(config.input_bits)
        next_has_ou = Signal()
        m.d.comb += [
            non_zero.eq(Cat(beat.slices[i].any() for i in range(config.input_bits))),
            next_left.eq(Mux(self.settings.skip_zero_slices, beat.mask & non_zero, beat.mask)),
            next_has_ou.eq(~lists.next_empty & next_left.any()),
        ]

        # The OU on offer, and what is left behind it.
        shown_left, behind = Signal(config.input_bits), Signal(config.input_bits)
        input_bit = Signal(layouts.scheduled_ou(config)["input_bit"].shape)
        m.d.comb += [
            lists.from_next.eq(~pending),
            shown_left.eq(Mux(pending, left, next_left)),
            behind.eq(Mux(lists.ou_last, shown_left & (shown_left - 1), shown_left)),
            self.segments.ready.eq(slot_over & ~pending & lists.next_ready),
            lists.switch.eq(self.segments.ready & self.segments.valid),
            self.sample.valid.eq((slot_over & pending) | (lists.switch & next_has_ou)),
            self.activation.eq(self.sample.valid & self.sample.ready),
            lists.step.eq(self.activation),
            self.sample.payload.pair.eq(lists.ou.pair),
            self.sample.payload.ou_row.eq(lists.ou.ou_row),
            self.sample.payload.ou_col.eq(lists.ou.ou_col),
        ]
        for i in reversed(range(config.input_bits)):  # the lowest position wins
            with m.If(shown_left[i]):
                m.d.comb += [
                    input_bit.eq(i),
                    self.sample.payload.slice.eq(Mux(pending, slices[i], beat.slices[i])),
                ]

        with m.If(lists.switch):
            m.d.sync += [slices.eq(beat.slices), pending.eq(next_has_ou), left.eq(next_left)]
        with m.If(self.activation):
            m.d.sync += [pending.eq(behind.any()), left.eq(behind)]

        self._lanes_and_record(m, input_bit)
        self._window(m, slot_over, pending, next_has_ou)
        self._events(m, beat.mask, non_zero)
        return m

    def _slot(self, m: Module) -> Signal:
        """The slot of the OU that is converting; returns "a new one may begin in this clock"."""
        interval = self.config.sample_interval
        slot = Signal()
        slot_over = Signal()
        lanes_done = ~(self.lane_busy & ~self.lane_last).any()
        waited = 1
        if interval > 1:
            wait = Signal(range(interval))
            waited = wait == 0
            with m.If(self.activation):
                m.d.sync += wait.eq(interval - 1)
            with m.Elif(wait != 0):
                m.d.sync += wait.eq(wait - 1)
        m.d.comb += [
            self.completed.eq(slot & lanes_done & waited),
            slot_over.eq(~slot | self.completed),
        ]
        with m.If(slot_over):
            m.d.sync += slot.eq(self.activation)
        return slot_over

    def _lanes_and_record(self, m: Module, input_bit: Signal) -> None:
        """Start the lanes of valid columns; carry the record of the OU along with its conversion."""
        config = self.config
        segment = Signal(layouts.scheduled_ou(config)["segment"].shape)  # of the next switch
        columns = Signal(config.ou_cols)
        with m.If(self.lists.ou.block_col + 1 == self.settings.block_cols):
            m.d.comb += columns.eq(Cat(self.settings.last_cols > j for j in range(config.ou_cols)))
        with m.Else():
            m.d.comb += columns.eq(~0)
        started = Cat(columns, columns)
        m.d.comb += self.lane_start.eq(Mux(self.activation, started, 0))

        converting = Signal(layouts.scheduled_ou(config))
        with m.If(self.activation):
            m.d.sync += [
                converting.input_bit.eq(input_bit),
                converting.started.eq(started),
                *(converting[name].eq(self.lists.ou[name]) for name in layouts.listed_ou(config).members),
            ]
        with m.If(self.lists.switch):
            # No OU is converting behind this clock but the first one of this segment.
            m.d.sync += [converting.segment.eq(segment), segment.eq(segment + 1)]
        with m.If(self.start):
            m.d.sync += segment.eq(0)
        with m.If(self.completed):
            m.d.sync += self.completed_ou.eq(converting)

    def _window(self, m: Module, slot_over: Signal, pending: Signal, next_has_ou: Signal) -> None:
        """Count segments and find the end of the window."""
        running = Signal()
        to_switch = Signal(bits_for(self.config.max_segments))
        last_switch = self.lists.switch & (to_switch == 1)
        m.d.comb += self.done.eq((running & (to_switch == 0) & slot_over & ~pending) | (last_switch & ~next_has_ou))
        with m.If(self.lists.switch):
            m.d.sync += to_switch.eq(to_switch - 1)
        with m.If(self.done):
            m.d.sync += running.eq(0)
        with m.If(self.start):
            m.d.sync += [running.eq(1), to_switch.eq(self.settings.segments)]

    def _events(self, m: Module, mask, non_zero: Signal) -> None:
        events = self.segment_events
        zeros = Mux(self.settings.skip_zero_slices, mask & ~non_zero, 0)
        m.d.comb += [
            events.valid.eq(self.lists.switch),
            events.planes.eq(self.lists.next_planes),
            events.streamed.eq(bit_count(mask)),
            events.zero_slices.eq(bit_count(zeros)),
        ]
