"""The pair macro: gathered operation units, pairs of bit lines converted by their difference, two halves."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring

from golden_model.config import HardwareConfig
from rtl import layouts, pair_layouts
from rtl import pack_layouts as packs
from rtl.block import Block, In, Out, Stream, Where
from rtl.pack_walker import PackWalker
from rtl.pair_converter import PairConverter
from rtl.pair_interfaces import HalfConversionPort
from rtl.window_register import WindowRegister


class PairMacro(Block):
    """Computes the partial sums of one window on aligned packs (golden_model/pairs/gather.py).

    Block columns are shared out to two halves. Each has a walker, which forms OUs, and `ou_cols` converters, and adds
    up its own partial sums. A window takes `window_clocks` of golden_model/pairs/machine.py from its begin to
    `window_done`, as long as the crossbar is always ready. The next window's segments are taken meanwhile, and the
    sums of the window before can be read, also while the next one ends.

    Members
    -------
    settings : descriptor of the running layer; constants : of its search, from `SearchSettings`.
    tables : of the layer, from `PackBuilder`.
    window_start : strobe, accepted while no window is running, at the earliest in the clock of `window_done`. The
        window begins in this clock, or as soon as the tables are built and the last of its segments has been taken.
    segments : `settings.segments` beats a window in ascending order, `layouts.segment`.
    window_done : strobe; from this clock on the partial sums can be taken and the events have been told.
    window_filled : all segments of the next window have been taken.
    sums_take : strobe, from the next clock on the sums of the last window that is done are read; before, those of the
        window at the strobe before. The window after it must not begin before they have been read.
    sums_address, sums_column, sum : an output's block column, its column in it, and in the next clock its partial sum.
        sums_taken : strobe, no other column of the block column will be read. All block columns of a window must be.
    stop_write : with early stop, words of the outputs, between layers.
    half0, half1 : to the analog macro.
    walks, conversions : events of the halves. running : a window is running.
    overflow : strobe, a partial sum did not fit `accumulator_bits` and was saturated.
    """

    settings: In(layouts.layer_settings)
    constants: In(lambda config: pair_layouts.search_constants(config, True))
    tables: In(packs.layer_tables)
    window_start: In(1)
    segments: In(Stream(layouts.segment))
    window_done: Out(1)
    window_filled: Out(1)
    sums_take: In(1)
    sums_address: In(layouts.block_column)
    sums_column: In(layouts.column)
    sums_taken: In(1)
    sum: Out(layouts.accumulator)
    stop_write: Where(layouts.early_stop, In(packs.stop_write))
    half0: Out(HalfConversionPort)
    half1: Out(HalfConversionPort)
    walks: Out(packs.halves_of(packs.walk_events))
    conversions: Out(packs.halves_of(packs.conversion_events))
    running: Out(1)
    overflow: Out(1)

    def __init__(self, config: HardwareConfig):
        self.converters = [PairConverter(config) for _ in range(packs.HALVES)]
        super().__init__(config)

    def elaborate(self, platform) -> Module:
        m = Module()
        config, settings, tables, converters = self.config, self.settings, self.tables, self.converters
        m.submodules.window = window = WindowRegister(config)
        walkers = [PackWalker(config) for _ in range(packs.HALVES)]

        begin, bank, running = self._window(
            m,
            self.window_start,
            window.filled & tables.built,
            Cat(w.finished & c.idle for w, c in zip(walkers, converters, strict=True)).all(),
        )
        read_bank = Signal()
        with m.If(self.sums_take):
            m.d.sync += read_bank.eq(~bank)
        m.d.comb += [
            self.running.eq(running),
            self.window_filled.eq(window.filled),
            window.settings.eq(settings),
            window.swap.eq(begin),
        ]
        wiring.connect(m, window.segments, wiring.flipped(self.segments))
        ports = (self.half0, self.half1)
        for half, (walker, converter, port) in enumerate(zip(walkers, converters, ports, strict=True)):
            m.submodules[f"walker{half}"] = walker
            m.submodules[f"converter{half}"] = converter
            m.d.comb += [
                walker.start.eq(begin),
                walker.bits.eq(window.bits),
                walker.last_pack.eq(tables.last_pack),
                walker.last_size.eq(tables.last_size),
                walker.writes.eq(tables.writes[half]),
                window.addresses[half].eq(walker.address),
                walker.row.eq(window.rows[half]),
                converter.settings.eq(settings),
                converter.constants.eq(self.constants),
                converter.first_pair.eq(tables.first_pairs[half]),
                converter.writes.eq(tables.writes[half]),
                converter.bank.eq(bank),
                converter.read_bank.eq(read_bank),
                converter.sums_address.eq(self.sums_address),
                converter.sums_column.eq(self.sums_column),
                converter.sums_taken.eq(self.sums_taken),
                converter.clear.eq(~tables.built),
                self.walks[half].eq(walker.events),
                self.conversions[half].eq(converter.events),
            ]
            if config.early_stop:
                columns = tables.columns[half]
                m.d.comb += [
                    walker.checks.eq(Mux(columns.any(), settings.stop_bits, 0)),
                    converter.columns.eq(columns),
                    converter.stop_write.eq(self.stop_write),
                    converter.begin.eq(begin),
                ]
            wiring.connect(m, walker.ous, converter.ous)
            wiring.connect(m, converter.port, wiring.flipped(port))

        # A block column is in one half; in the other one its sums stay 0.
        m.d.sync += self.sum.eq(converters[0].sum | converters[1].sum)
        m.d.comb += self.overflow.eq(converters[0].overflow | converters[1].overflow)
        return m

    def _window(self, m: Module, started: Value, prepared: Value, halves_over: Value) -> tuple[Signal, Signal, Value]:
        """Begin and end of a window: (strobe of the begin, partial sums that it adds up, it is running)."""
        begin, bank = Signal(), Signal()
        waiting, working, over = Signal(), Signal(), Signal()
        m.d.comb += [begin.eq((started | waiting) & prepared), over.eq(working & halves_over)]
        m.d.sync += [
            waiting.eq((started | waiting) & ~begin),
            working.eq(begin | (working & ~over)),
            # The converters are idle in the clock after the last answer, when its value is added.
            self.window_done.eq(over),
            bank.eq(bank ^ over),
        ]
        return begin, bank, begin | working
