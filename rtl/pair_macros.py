"""The pair macros: several of them on neighbouring windows, and what they share."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring

from golden_model.config import HardwareConfig
from rtl import layouts, pair_layouts
from rtl import pack_layouts as packs
from rtl import tile_layouts as tile
from rtl.block import Block, In, Out, Stream, Where
from rtl.pack_builder import PackBuilder
from rtl.pair_counters import PairCounters
from rtl.pair_interfaces import PairConversionPort, halves_of
from rtl.pair_macro import PairMacro
from rtl.search_settings import SearchSettings
from rtl.stop_table import StopTable


class PairMacros(Block):
    """Computes the partial sums of a round: of one window in every macro (golden_model/timing.py).

    The macros hold the same weights, and share the layer's tables, the constants of its search and the event counters.
    They begin a round together. It has been walked when all its windows have, and is done when all of them are; the
    next round may begin in between.

    Members
    -------
    settings : descriptor of the running layer; search : its A/D registers. Both stable from `layer_start`, and from two
        clocks before `window_start`, until the layer's last `window_done`.
    layer : index of the running layer, forwarded to the crossbar.
    layer_start : strobe, builds the layer's masks and groups; not while a window is running. layer_ready : they are
        built, `ready_clocks` of golden_model/pairs/machine.py later.
    active : which macros have a window in the round that starts. filling : which ones in the round that is loaded.
    window_start : strobe, a round is to begin, at the earliest in the clock of `window_walked` of the one before, and
        if the sums of the one before that have been read. Ignored if `configuration_error` is 1. It begins in this
        clock, or as soon as the layer is ready and the last one of its segments has been taken.
    segments0, segments1, ... : of every macro, `settings.segments` beats a window in ascending order.
    window_walked : strobe, the next round may begin.
    window_done : strobe, in order of the rounds; from this clock on the partial sums can be taken.
    window_filled : all segments of the next round have been taken.
    sums_take : strobe, once for every round that is done: its sums are read from the next clock on.
    sums_address, sums_column, sums, sums_taken : of all macros, see `PairMacro`.
    width_write : write port of the width table; not while a layer is being built. bound_write, start_write : with early
        stop, those of its tables.
    crossbar : the analog macros, or a model of them.
    counters : event counters, up to date as soon as all rounds are done. counters_clear : strobe, clears `counters`,
        `overflow` and the sticky part of `configuration_error`; may come with `window_start` but not during a window.
    overflow : sticky, a partial sum did not fit `accumulator_bits` and was saturated.
    configuration_error : 1 from the clock after illegal A/D registers for as long as they are there; sticky if a window
        was started with them.
    table_error : strobe, a width or a word of early stop has lost its parity.
    placement_error : the layer needs more crossbar pairs than a macro has. `layer_ready` never comes.
    """

    settings: In(layouts.layer_settings)
    search: In(lambda config: pair_layouts.search_registers(config, True))
    layer: In(layouts.layer_index)
    layer_start: In(1)
    layer_ready: Out(1)
    active: In(lambda config: config.macros)
    filling: In(lambda config: config.macros)
    window_start: In(1)
    window_walked: Out(1)
    window_done: Out(1)
    window_filled: Out(1)
    sums_take: In(1)
    sums_address: In(layouts.block_column)
    sums_column: In(layouts.column)
    sums_taken: In(1)
    sums: Out(tile.of_macros(layouts.accumulator))
    width_write: In(layouts.width_write)
    bound_write: Where(layouts.early_stop, In(layouts.bound_write))
    start_write: Where(layouts.early_stop, In(layouts.start_write))
    crossbar: Out(PairConversionPort)
    counters: Out(packs.pair_counters)
    counters_clear: In(1)
    overflow: Out(1)
    configuration_error: Out(1)
    placement_error: Out(1)
    table_error: Out(1)

    def __init__(self, config: HardwareConfig):
        self.macros = [PairMacro(config) for _ in range(config.macros)]
        segments = In(Stream(layouts.segment))
        super().__init__(config, **{f"segments{macro}": segments(config) for macro in range(config.macros)})

    def elaborate(self, platform) -> Module:
        m = Module()
        config, macros = self.config, self.macros
        m.submodules.search_settings = search = SearchSettings(config)
        m.submodules.builder = builder = PackBuilder(config)
        m.submodules.events = events = PairCounters(config)
        ports = halves_of(self.crossbar, config)

        filled, walked, quiet, overflow = (Signal(config.macros) for _ in range(4))
        tables = Signal(packs.layer_tables(config))
        begin, bank, read_bank, oldest = self._rounds(m, filled, tables.built, walked, quiet, search.error)
        m.d.comb += [
            search.registers.eq(self.search),
            search.check.eq(self.window_start),
            search.clear.eq(self.counters_clear),
            self.configuration_error.eq(search.error),
            builder.settings.eq(self.settings),
            builder.width_write.eq(self.width_write),
            builder.start.eq(self.layer_start),
            *(tables[name].eq(getattr(builder, name)) for name in tables.shape().members),
            self.layer_ready.eq(tables.built),
            self.placement_error.eq(builder.out_of_range),
            self.window_filled.eq((filled | ~self.filling).all()),
            self.crossbar.layer.eq(self.layer),
            events.clear.eq(self.counters_clear),
            self.counters.eq(events.counters),
        ]
        if config.early_stop:
            m.submodules.stops = stops = StopTable(config)
            m.d.comb += [
                stops.settings.eq(self.settings),
                stops.bound_write.eq(self.bound_write),
                stops.start_write.eq(self.start_write),
                stops.start.eq(self.layer_start),
                tables.built.eq(builder.built & stops.ready),
                self.table_error.eq(builder.table_error | stops.table_error),
                *(macro.stop_write.eq(stops.write) for macro in macros),
            ]
        else:
            m.d.comb += self.table_error.eq(builder.table_error)
        for i, macro in enumerate(macros):
            m.submodules[f"macro{i}"] = macro
            m.d.comb += [
                macro.settings.eq(self.settings),
                macro.constants.eq(search.constants),
                macro.tables.eq(tables),
                macro.begin.eq(begin[i]),
                macro.bank.eq(bank),
                macro.oldest.eq(oldest),
                macro.read_bank.eq(read_bank),
                macro.sums_address.eq(self.sums_address),
                macro.sums_column.eq(self.sums_column),
                macro.sums_taken.eq(self.sums_taken),
                self.sums[i].eq(macro.sum),
                filled[i].eq(macro.filled),
                walked[i].eq(macro.walked),
                quiet[i].eq(macro.quiet),
                overflow[i].eq(macro.overflow),
            ]
            wiring.connect(m, macro.segments, wiring.flipped(getattr(self, f"segments{i}")))
            for half, port in enumerate((macro.half0, macro.half1)):
                index = packs.HALVES * i + half
                m.d.comb += [
                    events.walks[index].eq(macro.walks[half]),
                    events.conversions[index].eq(macro.conversions[half]),
                ]
                wiring.connect(m, port, wiring.flipped(ports[index]))
        m.d.sync += self.overflow.eq((self.overflow & ~self.counters_clear) | overflow.any())
        return m

    def _rounds(
        self, m: Module, filled: Value, built: Value, walked: Value, quiet: Value, refused: Value
    ) -> tuple[Value, Value, Value, Value]:
        """Begin and end of rounds: (windows that begin, bank of the round that begins or began last, bank that is read,
        bank of the oldest round that is not done)."""
        waiting, begins, walking, ends, over = Signal(), Signal(), Signal(), Signal(), Signal()
        kept, active = Signal(self.config.macros), Signal(self.config.macros)  # macros with a window
        last, oldest = Signal(init=1), Signal()  # banks of the round that began last, and of the oldest one
        read_bank = Signal(init=1)
        begun = Signal(packs.BANKS)  # by bank, a round that is not done
        start, bank = self.window_start & ~refused, last ^ begins
        m.d.comb += [
            active.eq(Mux(start, self.active, kept)),
            begins.eq((start | waiting) & built & (filled | ~active).all()),
            ends.eq(walking & walked.all()),
            over.eq(begun.bit_select(oldest, 1) & ~(walking & ~ends & (last == oldest)) & quiet.all()),
        ]
        m.d.sync += [
            kept.eq(active),
            waiting.eq((start | waiting) & ~begins),
            walking.eq(begins | (walking & ~ends)),
            self.window_walked.eq(ends),
            # In the clock after the last conversion its value is added.
            self.window_done.eq(over),
            last.eq(bank),
            oldest.eq(oldest ^ over),
            read_bank.eq(read_bank ^ self.sums_take),
        ]
        for index in range(packs.BANKS):
            with m.If(begins & (bank == index)):
                m.d.sync += begun[index].eq(1)
            with m.Elif(over & (oldest == index)):
                m.d.sync += begun[index].eq(0)
        return Mux(begins, active, 0), bank, read_bank, oldest
