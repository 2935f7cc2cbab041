"""The activation memory of a tile, one byte per activation (system.md §5a)."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import memory

from rtl import tile_layouts as tile
from rtl.block import Block, In, Out


class ActivationMemory(Block):
    """Holds the inputs and outputs of all steps in one flat memory; descriptors say where.

    One read port and one write port of 32-bit words with byte strobes, so that the host moves four
    activations an access. A byte is read and another written in every clock, each with a latency of one
    clock. A byte that is read in the clock in which it is written comes with its old contents.

    Members
    -------
    window_read, residual_read : the byte at `address` follows on `read_data` in the next clock and holds
        until the next read. The two never come in the same clock: the residual is read while a window is
        post-processed, or in clocks that the window walk leaves out for it.
    store : one byte to write.
    bus, bus_data : the host's access, which takes precedence; only while no step runs. A word that is
        read follows in the next clock.

    There is nothing to reset; the contents are undefined until written.
    """

    window_read: In(tile.activation_read)
    residual_read: In(tile.activation_read)
    read_data: Out(tile.BYTE)
    store: In(tile.activation_write)
    bus: In(tile.activation_bus)
    bus_data: Out(tile.WORD)

    def elaborate(self, platform):
        m = Module()
        words = tile.activation_words(self.config)
        m.submodules.cells = cells = memory.Memory(shape=unsigned(tile.WORD), depth=words, init=[])
        read_port = cells.read_port()
        write_port = cells.write_port(granularity=tile.BYTE)

        # ---- read
        read = Signal(tile.activation_read(self.config))
        lane = Signal(2)
        m.d.comb += read.eq(self.window_read)
        with m.If(self.residual_read.enable):
            m.d.comb += read.eq(self.residual_read)
        with m.If(read.enable):
            m.d.sync += lane.eq(read.address)
        m.d.comb += [read_port.en.eq(read.enable | self.bus.read), read_port.addr.eq(read.address >> 2)]
        with m.If(self.bus.read):
            m.d.comb += read_port.addr.eq(self.bus.word)
        m.d.comb += [
            self.bus_data.eq(read_port.data),
            self.read_data.eq(read_port.data.word_select(lane, tile.BYTE)),
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
