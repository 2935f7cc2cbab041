"""The pair macro: gathered operation units, pairs of bit lines converted by their difference, two halves."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux
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
    """Computes the partial sums of windows on aligned packs (golden_model/pairs/gather.py).

    Block columns are shared out to two halves. Each has a walker, which forms OUs, and `ou_cols` converters, and adds
    up its own partial sums. A window can begin when both halves have *walked* the one before, handed its last OU to the
    converters: these go on from one window to the next without a gap, and keep the sums of both apart, in two *banks*
    that windows take in turn. Meanwhile the segments of the window after it are taken. Clocks, as long as the crossbar
    is always ready: golden_model/pairs/machine.py.

    Members
    -------
    settings : descriptor of the running layer; constants : of its search, from `SearchSettings`.
    tables : of the layer, from `PackBuilder`.
    segments : `settings.segments` beats a window in ascending order, `layouts.segment`.
    filled : all segments of the next window have been taken.
    begin : strobe, the next window begins; only if it is `filled`, the one before has been walked, and the sums of the
        one before that have been taken. bank : of the window that begins, and until the next one does.
    walked : no window is walked.
    oldest : bank of the oldest window that is not done. quiet : it is done, once it has been walked: in the next clock
        its sums are complete.
    read_bank : whose sums are read.
    sums_address, sums_column, sum : an output's block column, its column in it, and in the next clock its partial sum.
        sums_taken : strobe, no other column of the block column will be read. All block columns of a window must be.
    stop_write : with early stop, words of the outputs, between layers.
    half0, half1 : to the analog macro.
    walks, conversions : events of the halves.
    overflow : strobe, a partial sum did not fit `accumulator_bits` and was saturated.
    """

    settings: In(layouts.layer_settings)
    constants: In(lambda config: pair_layouts.search_constants(config, True))
    tables: In(packs.layer_tables)
    segments: In(Stream(layouts.segment))
    filled: Out(1)
    begin: In(1)
    bank: In(1)
    walked: Out(1)
    oldest: In(1)
    quiet: Out(1)
    read_bank: In(1)
    sums_address: In(layouts.block_column)
    sums_column: In(layouts.column)
    sums_taken: In(1)
    sum: Out(layouts.accumulator)
    stop_write: Where(layouts.early_stop, In(packs.stop_write))
    half0: Out(HalfConversionPort)
    half1: Out(HalfConversionPort)
    walks: Out(packs.halves_of(packs.walk_events))
    conversions: Out(packs.halves_of(packs.conversion_events))
    overflow: Out(1)

    def __init__(self, config: HardwareConfig):
        self.converters = [PairConverter(config) for _ in range(packs.HALVES)]
        super().__init__(config)

    def elaborate(self, platform) -> Module:
        m = Module()
        config, settings, tables, converters = self.config, self.settings, self.tables, self.converters
        m.submodules.window = window = WindowRegister(config)
        walkers = [PackWalker(config) for _ in range(packs.HALVES)]
        m.d.comb += [
            self.filled.eq(window.filled),
            self.walked.eq(Cat(walker.finished for walker in walkers).all()),
            self.quiet.eq(Cat(converter.quiet for converter in converters).all()),
            window.settings.eq(settings),
            window.swap.eq(self.begin),
        ]
        wiring.connect(m, window.segments, wiring.flipped(self.segments))
        ports = (self.half0, self.half1)
        for half, (walker, converter, port) in enumerate(zip(walkers, converters, ports, strict=True)):
            m.submodules[f"walker{half}"] = walker
            m.submodules[f"converter{half}"] = converter
            m.d.comb += [
                walker.start.eq(self.begin),
                walker.bank.eq(self.bank),
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
                converter.oldest.eq(self.oldest),
                converter.read_bank.eq(self.read_bank),
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
                    converter.begin.eq(self.begin),
                    converter.bank.eq(self.bank),
                ]
            wiring.connect(m, walker.ous, converter.ous)
            wiring.connect(m, converter.port, wiring.flipped(port))

        # A block column is in one half; in the other one its sums stay 0.
        m.d.sync += self.sum.eq(converters[0].sum | converters[1].sum)
        m.d.comb += self.overflow.eq(converters[0].overflow | converters[1].overflow)
        return m
