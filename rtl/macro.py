"""The macro: a bank of crossbar pairs with its A/D lanes, shift-and-add lanes and scheduler."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory

from rtl import layouts
from rtl.address_generator import AddressGenerator
from rtl.block import Block, In, Out, Stream
from rtl.decode_shift_add import DecodeShiftAdd
from rtl.event_counters import EventCounters
from rtl.interfaces import ConversionPort
from rtl.ou_scheduler import OuScheduler
from rtl.trq_sar import TrqSar
from rtl.trq_settings import TrqSettings


class Macro(Block):
    """Computes the partial sums of one window: every OU activation of every segment (system.md §5).

    Timing: from `window_start` to `window_done`
    W + Σ_r max(C_r, W, 0 in place of W after the last segment) + `window_overhead` clocks, with
    W = settings.block_cols and C_r the sum over the OU activations of segment r of
    max(1, sample_interval, most A/D operations of any started lane), as long as the crossbar is always
    ready and every segment is there when the macro asks for it.

    Members
    -------
    settings : descriptor of the running layer. Stable from two clocks before `window_start` until
        `window_done`.
    layer : index of the running layer, forwarded to the crossbar.
    window_start : strobe, accepted while no window is running. Ignored if `configuration_error` is 1.
    segments : stream of `layouts.segment`, `settings.segments` beats a window in ascending order. A beat
        is consumed when the macro switches to the segment, at most one a clock; a late beat stalls.
    window_done : strobe; from this clock on the partial sums are readable and the counters are up to
        date. `window_start` may be given in this clock at the earliest.
    sums_address, sums_column, sum : a block column, a column in it, and in the next clock its partial sum. Right from
        addresses in the clock of `window_done` on until the next `window_start`; block columns at and above W are not.
    width_write : write port of the width table; may be used while no window is running.
    crossbar : the analog macro, or a model of it.
    counters : event counters, all but `cycles`. counters_clear : strobe, clears `counters`, `overflow` and
        the sticky part of `configuration_error`; may come with `window_start` but not during a window.
    overflow : sticky, a partial sum did not fit `accumulator_bits` and was saturated.
    configuration_error : 1 from the clock after illegal A/D registers (system.md §4.1) are on `settings`
        for as long as they are there; sticky if a window was started with them.
    table_error : strobe, a width has lost its parity.
    placement_error : the planes of the window's layer reach beyond the last crossbar pair. None of those is sampled
        and `window_done` never comes; the macro must be reset.
    trace : one strobe per OU activation, in order, in the clock after its last A/D operation.
    """

    settings: In(layouts.layer_settings)
    layer: In(layouts.layer_index)
    window_start: In(1)
    segments: In(Stream(layouts.segment))
    window_done: Out(1)
    sums_address: In(layouts.block_column)
    sums_column: In(layouts.column)
    sum: Out(layouts.accumulator)
    width_write: In(layouts.width_write)
    crossbar: Out(ConversionPort)
    counters: Out(layouts.counters)
    counters_clear: In(1)
    overflow: Out(1)
    configuration_error: Out(1)
    placement_error: Out(1)
    table_error: Out(1)
    trace: Out(layouts.trace)

    #: Clocks of a window beside expansion and conversion: reading the first width, then decoding, adding
    #: and writing the last OU's sums. Part of c_window.
    window_overhead = 4

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        m.submodules.trq_settings = trq = TrqSettings(config)
        m.submodules.addresses = addresses = AddressGenerator(config)
        m.submodules.scheduler = scheduler = OuScheduler(config)
        m.submodules.events = events = EventCounters(config)
        settings = self.settings
        start = Signal()

        m.d.comb += [
            # A/D registers
            trq.registers.mode.eq(settings.adc_mode),
            trq.registers.n_r1.eq(settings.n_r1),
            trq.registers.n_r2.eq(settings.n_r2),
            trq.registers.m.eq(settings.m),
            trq.registers.bias.eq(settings.adc_bias),
            trq.check.eq(self.window_start),
            trq.clear.eq(self.counters_clear),
            self.configuration_error.eq(trq.error),
            start.eq(self.window_start & ~trq.error),
            # OUs
            addresses.settings.eq(settings),
            addresses.width_write.eq(self.width_write),
            addresses.start.eq(start),
            self.placement_error.eq(addresses.out_of_range),
            self.table_error.eq(addresses.table_error),
            scheduler.settings.eq(settings),
            scheduler.start.eq(start),
            # crossbar
            self.crossbar.layer.eq(self.layer),
        ]
        wiring.connect(m, addresses.lists, scheduler.lists)
        wiring.connect(m, scheduler.sample, wiring.flipped(self.crossbar.sample))
        wiring.connect(m, scheduler.segments, wiring.flipped(self.segments))

        codes, range_flags = self._lanes(m, trq, scheduler)
        self._accumulate(m, trq, scheduler, start, codes, range_flags)

        completed = Signal()
        m.d.sync += completed.eq(scheduler.completed)
        m.d.comb += [
            events.clear.eq(self.counters_clear),
            events.block_cols.eq(settings.block_cols),
            events.segment.eq(scheduler.segment_events),
            events.activation.eq(scheduler.activation),
            events.operations.eq(scheduler.lane_busy),
            events.completed.eq(scheduler.completed),
            events.started.eq(scheduler.completed_ou.started),
            events.range_flags.eq(range_flags),
            self.counters.eq(events.counters),
            self.trace.valid.eq(completed),
            *(self.trace[name].eq(scheduler.completed_ou[name]) for name in layouts.scheduled_ou(config).members),
            self.trace.range_flags.eq(range_flags),
            self.trace.codes.eq(codes),
        ]
        return m

    def _lanes(self, m: Module, trq: TrqSettings, scheduler: OuScheduler) -> tuple[Value, Value]:
        """All A/D lanes in lock step; returns their codes and range flags."""
        lanes = [TrqSar(self.config) for _ in range(self.config.lanes)]
        for i, lane in enumerate(lanes):
            m.submodules[f"lane{i}"] = lane
            m.d.comb += [
                lane.search.eq(trq.search),
                lane.start.eq(scheduler.lane_start[i]),
                lane.comparator.eq(self.crossbar.comparators[i]),
                self.crossbar.thresholds[i].eq(lane.threshold),
                self.crossbar.compare[i].eq(lane.busy),
            ]
            if self.config.comparator_valid:
                m.d.comb += lane.decided.eq(self.crossbar.decided[i])
        m.d.comb += [
            scheduler.lane_busy.eq(Cat(lane.busy for lane in lanes)),
            scheduler.lane_last.eq(Cat(lane.last for lane in lanes)),
        ]
        return Cat(lane.code for lane in lanes), Cat(lane.range_flag for lane in lanes)

    def _accumulate(self, m: Module, trq, scheduler: OuScheduler, start: Signal, codes, range_flags) -> None:
        """Clock 1 after `completed`: decode and shift, read the partial sums. Clock 2: add and write them."""
        config = self.config
        decode = Signal()
        ou = scheduler.completed_ou
        shift = ou.input_bit + ou.plane
        add = Signal()
        block_col = Signal(layouts.block_column(config))
        m.d.sync += [decode.eq(scheduler.completed), add.eq(decode), block_col.eq(ou.block_col)]

        # Words are cleared one by one while the first segment's width row is expanded.
        clearing = Signal()
        clear_col = Signal(layouts.block_column(config))
        with m.If(clearing):
            m.d.sync += clear_col.eq(clear_col + 1)
            with m.If(clear_col + 1 == self.settings.block_cols):
                m.d.sync += clearing.eq(0)
        with m.If(start):
            m.d.sync += [clearing.eq(1), clear_col.eq(0)]

        memory = Memory(shape=layouts.partial_sums(config), depth=config.max_block_cols, init=[])
        m.submodules.partial_sums = memory
        write = memory.write_port()
        read = memory.read_port(transparent_for=(write,))
        column_read = Signal.like(self.sums_column)
        m.d.sync += column_read.eq(self.sums_column)
        m.d.comb += [
            read.addr.eq(Mux(decode, ou.block_col, self.sums_address)),
            self.sum.eq(Array(read.data[j] for j in range(config.ou_cols))[column_read]),
            write.en.eq(add | clearing),
            write.addr.eq(Mux(clearing, clear_col, block_col)),
        ]
        overflows = []
        for j in range(config.ou_cols):
            m.submodules[f"column{j}"] = column = DecodeShiftAdd(config)
            negative = config.ou_cols + j
            m.d.comb += [
                column.m.eq(trq.search.m),
                column.window_low.eq(trq.search.window_low),
                column.positive.code.eq(codes.word_select(j, config.adc_bits)),
                column.positive.range_flag.eq(range_flags[j]),
                column.negative.code.eq(codes.word_select(negative, config.adc_bits)),
                column.negative.range_flag.eq(range_flags[negative]),
                column.started.eq(ou.started[j]),
                column.shift.eq(shift),
                column.enable.eq(decode),
                column.partial.eq(read.data[j]),
                write.data[j].eq(Mux(clearing, 0, column.total)),
            ]
            overflows.append(column.overflow)

        with m.If(self.counters_clear):
            m.d.sync += self.overflow.eq(0)
        with m.If(add & Cat(*overflows).any()):
            m.d.sync += self.overflow.eq(1)

        finished = Signal(2)
        m.d.sync += Cat(finished, self.window_done).eq(Cat(scheduler.done, finished))
