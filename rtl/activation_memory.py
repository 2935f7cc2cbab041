"""The activation memory of a tile, one byte per activation (system.md §5a)."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, unsigned
from amaranth.lib import memory

from rtl import layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In
from rtl.interfaces import ActivationBus, activation_read


class ActivationMemory(Block):
    """Holds the inputs and outputs of all steps in one flat memory; descriptors say where.

    One read port and one write port of 32-bit words with byte strobes, so that the host moves four
    activations an access. A byte is read and another written in every clock, each with a latency of one
    clock. A byte that is read in the clock in which it is written comes with its old contents. The pair
    machine, which loads a window while it post-processes another, has a second read port for residuals.

    Members
    -------
    window_read, residual_read : reads of a byte. Of BWQ's machine the two never come in the same clock: the residual
        is read while a window is post-processed, or in clocks that the window walk leaves out for it.
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
        enable, address = window.enable, window.address
        if self.config.pairs:
            residual_port = cells.read_port()
            m.d.comb += [residual_port.en.eq(residual.enable), residual_port.addr.eq(residual.address >> 2)]
            m.d.comb += residual.data.eq(self._byte(m, residual.enable, residual.address, residual_port.data))
        else:
            enable, address = enable | residual.enable, Mux(residual.enable, residual.address, address)
            m.d.comb += residual.data.eq(window.data)
        m.d.comb += [
            read_port.en.eq(enable | self.bus.read),
            read_port.addr.eq(Mux(self.bus.read, self.bus.word, address >> 2)),
            window.data.eq(self._byte(m, enable, address, read_port.data)),
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

    @staticmethod
    def _byte(m: Module, enable: Value, address: Value, word: Value) -> Value:
        """The byte of `word`, the answer to a read in the clock before."""
        lane = Signal(2)
        with m.If(enable):
            m.d.sync += lane.eq(address)
        return word.word_select(lane, tile.BYTE)
