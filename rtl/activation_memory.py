"""The activation memory of a tile, one byte per activation (system.md §5a)."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import memory

from rtl import layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In
from rtl.interfaces import ActivationBus, activation_read


class ActivationMemory(Block):
    """Holds the inputs and outputs of all steps in one flat memory; descriptors say where.

    One read port and one write port of 32-bit words with byte strobes, so that the host moves four
    activations an access. A byte is read and another written in every clock, each with a latency of one
    clock. A byte that is read in the clock in which it is written comes with its old contents.

    Members
    -------
    window_read, residual_read : reads of a byte. The two never come in the same clock: the residual is read
        while a window is post-processed, or in clocks that the window walk leaves out for it.
    store : one byte to write.
    bus : the host's access, which takes precedence.

    There is nothing to reset; the contents are undefined until written.
    """

    window_read: In(activation_read)
    residual_read: In(activation_read)
    store: In(tile.activation_write)
    bus: In(ActivationBus)

    def elaborate(self, platform):
        m = Module()
        words = layouts.activation_words(self.config)
        m.submodules.cells = cells = memory.Memory(shape=unsigned(tile.WORD), depth=words, init=[])
        read_port = cells.read_port()
        write_port = cells.write_port(granularity=tile.BYTE)

        # ---- read
        window, residual = self.window_read, self.residual_read
        enable, lane = window.enable | residual.enable, Signal(2)
        address = Mux(residual.enable, residual.address, window.address)
        with m.If(enable):
            m.d.sync += lane.eq(address)
        byte = read_port.data.word_select(lane, tile.BYTE)
        m.d.comb += [
            read_port.en.eq(enable | self.bus.read),
            read_port.addr.eq(Mux(self.bus.read, self.bus.word, address >> 2)),
            window.data.eq(byte),
            residual.data.eq(byte),
            self.bus.answer.eq(read_port.data),
        ]

        # ---- write
        m.d.comb += [
            write_port.addr.eq(self.store.address >> 2),
            write_port.data.eq(self.store.data.replicate(4)),
        ]
        with m.If(self.bus.write.any()):
            m.d.comb += [
                write_port.addr.eq(self.bus.word),
                write_port.data.eq(self.bus.data),
                write_port.en.eq(self.bus.write),
            ]
        with m.Elif(self.store.enable):
            m.d.comb += write_port.en.eq(1 << self.store.address[:2])
        return m
