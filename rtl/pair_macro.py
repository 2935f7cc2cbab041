"""The pair macro: gathered operation units, pairs of bit lines converted by their difference, two halves."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring

from rtl import layouts, pair_layouts
from rtl import pack_layouts as packs
from rtl.block import Block, In, Out, Stream
from rtl.pack_builder import PackBuilder
from rtl.pack_walker import PackWalker
from rtl.pair_converter import PairConverter
from rtl.pair_counters import PairCounters
from rtl.pair_interfaces import PairConversionPort, halves_of
from rtl.search_settings import SearchSettings
from rtl.window_register import WindowRegister


class PairMacro(Block):
    """Computes the partial sums of one window on aligned packs (golden_model/pairs/gather.py).

    Block columns are shared out to two halves. Each has a walker, which forms OUs, and `ou_cols` converters, and adds
    up its own partial sums. A window takes `window_clocks` of golden_model/pairs/machine.py from its begin to
    `window_done`, as long as the crossbar is always ready. The next window's segments are taken meanwhile, and the
    sums of the window before can be read, also while the next one ends.

    Members
    -------
    settings : descriptor of the running layer; search : its A/D registers. Both stable from `layer_start`, and from two
        clocks before `window_start`, until the layer's last `window_done`.
    layer : index of the running layer, forwarded to the crossbar.
    layer_start : strobe, builds the layer's masks and groups; not while a window is running. layer_ready : they are
        built, `build_clocks` of golden_model/pairs/machine.py later.
    window_start : strobe, accepted while no window is running, at the earliest in the clock of `window_done`. Ignored
        if `configuration_error` is 1. The window begins in this clock, or as soon as the layer is ready and the last
        one of its segments has been taken.
    segments : `settings.segments` beats a window in ascending order, `layouts.segment`.
    window_done : strobe; from this clock on the partial sums can be taken and the counters are up to date.
    window_filled : all segments of the next window have been taken.
    sums_take : strobe, from the next clock on the sums of the last window that is done are read; before, those of the
        window at the strobe before. The window after it must not begin before they have been read.
    sums_address, sums_data : partial sums of a block column, combinational.
    width_write : write port of the width table; not while a layer is being built.
    crossbar : the analog macro, or a model of it.
    counters : event counters. counters_clear : strobe, clears `counters`, `overflow` and the sticky part of
        `configuration_error`; may come with `window_start` but not during a window.
    overflow : sticky, a partial sum did not fit `accumulator_bits` and was saturated.
    configuration_error : 1 from the clock after illegal A/D registers for as long as they are there; sticky if a window
        was started with them.
    placement_error : the layer needs more crossbar pairs than there are. `layer_ready` never comes.
    """

    settings: In(layouts.layer_settings)
    search: In(lambda config: pair_layouts.search_registers(config, True))
    layer: In(layouts.layer_index)
    layer_start: In(1)
    layer_ready: Out(1)
    window_start: In(1)
    segments: In(Stream(layouts.segment))
    window_done: Out(1)
    window_filled: Out(1)
    sums_take: In(1)
    sums_address: In(layouts.block_column)
    sums_data: Out(layouts.partial_sums)
    width_write: In(layouts.width_write)
    crossbar: Out(PairConversionPort)
    counters: Out(packs.pair_counters)
    counters_clear: In(1)
    overflow: Out(1)
    configuration_error: Out(1)
    placement_error: Out(1)

    def elaborate(self, platform) -> Module:
        m = Module()
        config, settings = self.config, self.settings
        m.submodules.search_settings = search = SearchSettings(config)
        m.submodules.builder = builder = PackBuilder(config)
        m.submodules.window = window = WindowRegister(config)
        m.submodules.events = events = PairCounters(config)
        walkers = [PackWalker(config) for _ in range(packs.HALVES)]
        converters = [PairConverter(config) for _ in range(packs.HALVES)]

        begin, bank, running = self._window(
            m,
            self.window_start & ~search.error,
            window.filled & builder.built,
            Cat(w.finished & c.idle for w, c in zip(walkers, converters, strict=True)).all(),
        )
        read_bank = Signal()
        with m.If(self.sums_take):
            m.d.sync += read_bank.eq(~bank)
        m.d.comb += [
            search.registers.eq(self.search),
            search.check.eq(self.window_start),
            search.clear.eq(self.counters_clear),
            self.configuration_error.eq(search.error),
            builder.settings.eq(settings),
            builder.width_write.eq(self.width_write),
            builder.start.eq(self.layer_start),
            self.layer_ready.eq(builder.built),
            self.placement_error.eq(builder.out_of_range),
            self.window_filled.eq(window.filled),
            window.settings.eq(settings),
            window.swap.eq(begin),
            self.crossbar.layer.eq(self.layer),
            events.clear.eq(self.counters_clear),
            events.running.eq(running),
            self.counters.eq(events.counters),
        ]
        wiring.connect(m, window.segments, wiring.flipped(self.segments))
        for half, (walker, converter) in enumerate(zip(walkers, converters, strict=True)):
            m.submodules[f"walker{half}"] = walker
            m.submodules[f"converter{half}"] = converter
            m.d.comb += [
                walker.start.eq(begin),
                walker.bits.eq(window.bits),
                walker.last_pack.eq(builder.last_pack),
                walker.last_size.eq(builder.last_size),
                walker.writes.eq(builder.writes[half]),
                window.addresses[half].eq(walker.address),
                walker.row.eq(window.rows[half]),
                converter.settings.eq(settings),
                converter.constants.eq(search.constants),
                converter.first_pair.eq(builder.first_pairs[half]),
                converter.writes.eq(builder.writes[half]),
                converter.start.eq(begin),
                converter.bank.eq(bank),
                converter.read_bank.eq(read_bank),
                converter.sums_address.eq(self.sums_address),
                events.walks[half].eq(walker.events),
                events.conversions[half].eq(converter.events),
            ]
            wiring.connect(m, walker.ous, converter.ous)
            wiring.connect(m, converter.port, wiring.flipped(halves_of(self.crossbar)[half]))

        # A block column is in one half; in the other one it was never touched and is 0.
        m.d.comb += self.sums_data.eq(converters[0].sums_data.as_value() | converters[1].sums_data.as_value())
        overflow = converters[0].overflow | converters[1].overflow
        m.d.sync += self.overflow.eq((self.overflow & ~self.counters_clear) | overflow)
        return m

    def _window(self, m: Module, started: Value, prepared: Value, halves_over: Value) -> tuple[Signal, Signal, Value]:
        """Begin and end of a window: (strobe of the begin, partial sums that it adds up, it is running)."""
        begin, bank = Signal(), Signal()
        waiting, working, over = Signal(), Signal(), Signal()
        draining = Signal(PairConverter.latency - 1)
        m.d.comb += [begin.eq((started | waiting) & prepared), over.eq(working & halves_over)]
        m.d.sync += [
            waiting.eq((started | waiting) & ~begin),
            working.eq(begin | (working & ~over)),
            Cat(draining, self.window_done).eq(Cat(over, draining)),
            bank.eq(bank ^ draining[-1]),
        ]
        return begin, bank, begin | working | draining.any()
