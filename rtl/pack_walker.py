"""The pack walker of a half: which OUs are formed, in which order (golden_model/pairs/gather.py, `walk`)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.memory import Memory

from rtl import layouts, pair_layouts
from rtl import pack_layouts as packs
from rtl.block import Block, In, Out, Stream, Where
from rtl.ou_former import OuFormer


class PackWalker(Block):
    """Walks input bits (highest first), packs and masks of a window, and has OUs formed of each.

    Bits that no segment of the window streams are left out. A pack's slice of a bit is latched, unless no segment of
    the pack streams it or the half has no mask there. Mask by mask the latch goes to the OU former.

    With early stop, a mark follows the OUs of an input bit after which outputs are checked, unless it is the last one.

    Throughput: one clock a pack and bit, latched or skipped; then, as the former takes them, one clock a mask.
    Latency: the first pack in the clock after `start`; `OuFormer.latency` clocks from a mask to its first OU.
    Handshake: `ous` holds valid and payload until ready; nothing else stalls. Reset: finished.

    Members
    -------
    start : strobe, begins a window; not while one is walked. bits : positions that it streams, in the clock of `start`.
    bank : of the window's sums, from the clock after `start` on.
    checks : with early stop, input bits after which outputs are checked, stable while walking.
    last_pack, last_size : from the pack builder, stable while walking.
    writes : to the half's tables; packs and masks are kept here.
    address, row : read of the window register: the row of the pack follows by one clock.
    ous : OUs in order. finished : no window is walked, and no OU will come any more.
    events : of this clock.
    """

    start: In(1)
    bits: In(lambda config: config.input_bits)
    bank: In(1)
    checks: Where(layouts.early_stop, In(lambda config: config.input_bits))
    last_pack: In(packs.pack_index)
    last_size: In(packs.pack_size)
    writes: In(packs.table_writes)
    address: Out(packs.pack_index)
    row: In(packs.window_row)
    ous: Out(Stream(packs.gathered_ou))
    finished: Out(1)
    events: Out(packs.walk_events)

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        m.submodules.former = former = OuFormer(config)
        pack_read, mask_read = self._tables(m)
        entry, mask = pack_read.data, mask_read.data

        # ---- position: the pack whose row is there, and the bits that are left, its own included
        latching, masking = Signal(), Signal()
        pack, left = Signal(packs.pack_index(config)), Signal(config.input_bits)
        highest, last, size = Signal(config.input_bits), Signal(), Signal(packs.pack_size(config))
        for bit in range(config.input_bits):  # the highest position wins
            with m.If(left[bit]):
                m.d.comb += highest.eq(1 << bit)
        m.d.comb += [
            last.eq(pack == self.last_pack),
            size.eq(Mux(last, self.last_size, config.grid_rows)),
            self.address.eq(pack),
            pack_read.addr.eq(self.address),
        ]
        with m.If(latching):
            m.d.comb += self.address.eq(Mux(last, 0, pack + 1))
            m.d.sync += left.eq(Mux(last, left & ~highest, left))
        with m.If(self.start):
            m.d.comb += self.address.eq(0)
            m.d.sync += [latching.eq(self.bits.any()), left.eq(self.bits)]
        m.d.sync += pack.eq(self.address)

        # ---- latch a slice, or go on to the next one
        latch, latched = Signal(pair_layouts.pack_lines(config)), Signal()
        input_bit = Signal(packs.slice_context(config)["input_bit"].shape)
        segments = Signal.like(size)
        streamed = Cat((segment.mask & highest).any() for segment in self.row).any()
        mask_index, last_mask = Signal.like(entry.first_mask), Signal.like(entry.last_mask)
        m.d.comb += [latched.eq(latching & streamed & entry.used), mask_read.addr.eq(mask_index)]
        with m.If(latching):
            m.d.comb += mask_read.addr.eq(entry.first_mask)
            m.d.sync += [
                latching.eq(~latched & ~(last & (left == highest))),
                masking.eq(latched),
                last_mask.eq(entry.last_mask),
                segments.eq(size),
            ]
            for bit in range(config.input_bits):
                with m.If(highest[bit]):
                    m.d.sync += input_bit.eq(bit)
                    m.d.sync += (latch[s].eq(segment.slices[bit]) for s, segment in enumerate(self.row))

        # ---- offer its masks; the former holds two slices, so that a tag of one bit tells their contexts apart
        context = Signal(packs.slice_context(config))
        contexts = Signal(data.ArrayLayout(context.shape(), 2))
        tag, taken = Signal(), Signal()
        m.d.comb += [
            former.slices.valid.eq(masking),
            former.slices.payload.lines.eq(latch),
            former.slices.payload.segments.eq(mask.segments),
            former.slices.payload.tag.eq(tag),
            taken.eq(former.slices.valid & former.slices.ready),
            context.input_bit.eq(input_bit),
            context.segments.eq(segments),
            context.first_group.eq(mask.first_group),
            context.last_group.eq(mask.last_group),
            context.bank.eq(self.bank),
        ]
        marks = Signal()  # a mark follows the OUs
        with m.If(taken):
            m.d.comb += mask_read.addr.eq(mask_index + 1)
            m.d.sync += [contexts[tag].eq(context), tag.eq(~tag)]
            with m.If(mask_index == last_mask):
                m.d.sync += [masking.eq(0), latching.eq(left.any() & ~marks)]
        m.d.sync += mask_index.eq(mask_read.addr)

        # ---- OUs
        formed, of_slice = former.ous.payload, contexts[former.ous.payload.tag[0]]
        settled = Signal(init=1)  # no slice has been taken that the former still counts
        m.d.sync += settled.eq(former.slices.ready & ~former.slices.valid)
        m.d.comb += [
            self.ous.valid.eq(former.ous.valid),
            former.ous.ready.eq(self.ous.ready),
            self.ous.payload.lines.eq(formed.lines),
            self.ous.payload.ones.eq(formed.ones),
            *(self.ous.payload[name].eq(of_slice[name]) for name in packs.slice_context(config).members),
            self.finished.eq(~latching & ~masking & settled & ~former.ous.valid & ~marks),
            self.events.latched.eq(Mux(latched, size, 0)),
            self.events.looked.eq(Mux(taken, segments, 0)),
            self.events.formed.eq(Mux(former.ous.valid & self.ous.ready, of_slice.segments, 0)),
        ]
        if config.early_stop:
            marked, offered = Signal.like(input_bit), Signal()  # marked : the bit
            wanted = last & (self.checks & highest).any() & (left != highest)
            with m.If(latching & wanted):
                m.d.sync += [marks.eq(1), latching.eq(0)]
                for bit in range(config.input_bits):
                    with m.If(highest[bit]):
                        m.d.sync += marked.eq(bit)
            m.d.comb += offered.eq(marks & ~masking & settled & ~former.ous.valid)
            with m.If(offered):
                m.d.comb += [
                    self.ous.valid.eq(1),
                    self.ous.payload.check.eq(1),
                    self.ous.payload.input_bit.eq(marked),
                    self.ous.payload.bank.eq(self.bank),
                ]
                with m.If(self.ous.ready):
                    m.d.sync += [marks.eq(0), latching.eq(1)]
        return m

    def _tables(self, m: Module) -> tuple:
        """Read ports of the pack table and of the mask table."""
        config = self.config
        m.submodules.packs = table = Memory(shape=packs.pack_entry(config), depth=packs.max_packs(config), init=[])
        m.submodules.masks = masks = Memory(shape=packs.mask_entry(config), depth=packs.max_groups(config), init=[])
        for memory, write in ((table, self.writes.packs), (masks, self.writes.masks)):
            port = memory.write_port()
            m.d.comb += [port.en.eq(write.enable), port.addr.eq(write.address), port.data.eq(write.data)]
        return table.read_port(), masks.read_port()
