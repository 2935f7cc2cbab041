"""The window register: the activations of a window, two windows deep, read a pack at a time."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.memory import Memory

from golden_model.config import bits_for
from rtl import layouts
from rtl import pack_layouts as packs
from rtl.block import Block, In, Out, Stream


class WindowRegister(Block):
    """Collects the segments of the next window while the packs of the present one are read.

    A memory with a row per pack, two windows deep. The first segment of a pack clears the rest of its row, so that
    places behind a layer's last segment hold zeros.

    Latency: a row follows its pack number by one clock. Throughput: a segment a clock in, a row per half a clock out.
    Handshake: `segments.ready` is low from the clock after the last segment of a window until the clock after `swap`.
    Reset: nothing collected.

    Members
    -------
    settings : layer descriptor, stable while a layer's segments come.
    segments : `settings.segments` beats a window in ascending order; slices of positions outside the mask must be 0.
    filled : the next window is complete. bits : positions that any of its segments streams.
    swap : strobe, allowed with `filled`: the next window becomes the present one. `addresses` already mean it.
    addresses, rows : which pack of the present window each half reads, and its segments in the clock after that.
    """

    settings: In(layouts.layer_settings)
    segments: In(Stream(layouts.segment))
    filled: Out(1)
    bits: Out(lambda config: config.input_bits)
    swap: In(1)
    addresses: In(packs.halves_of(packs.pack_index))
    rows: Out(packs.halves_of(packs.window_row))

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        pack = Signal(packs.pack_index(config))
        position = Signal(range(config.grid_rows))
        collected = Signal(bits_for(config.max_segments))
        present = Signal()
        beat = self.segments.payload
        transfer, row_full = Signal(), Signal()

        m.submodules.memory = memory = Memory(shape=packs.window_row(config), depth=2 << len(pack), init=[])
        write = memory.write_port(granularity=1)
        m.d.comb += [
            self.segments.ready.eq(~self.filled),
            transfer.eq(self.segments.valid & self.segments.ready),
            row_full.eq(position == config.grid_rows - 1),
            write.addr.eq(Cat(pack, ~present)),
        ]
        for i in range(config.grid_rows):
            here = position == i
            m.d.comb += [write.en[i].eq(transfer & (here | (position == 0))), write.data[i].eq(Mux(here, beat, 0))]
        with m.If(transfer):
            m.d.sync += [
                position.eq(Mux(row_full, 0, position + 1)),
                pack.eq(pack + row_full),
                collected.eq(collected + 1),
                self.filled.eq(collected + 1 == self.settings.segments),
                self.bits.eq(self.bits | beat.mask),
            ]
        with m.If(self.swap):
            m.d.sync += [x.eq(0) for x in (position, pack, collected, self.filled, self.bits)]
            m.d.sync += present.eq(~present)

        for half in range(packs.HALVES):
            read = memory.read_port()
            m.d.comb += [read.addr.eq(Cat(self.addresses[half], present ^ self.swap)), self.rows[half].eq(read.data)]
        return m
