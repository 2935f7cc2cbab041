"""Results of the last step, kept for the host."""

from __future__ import annotations

from amaranth.hdl import Module, unsigned
from amaranth.lib import memory

from rtl import tile_layouts as tile
from rtl.block import Block, In
from rtl.interfaces import logit_read


class LogitMemory(Block):
    """One signed 32-bit word per output of the last step (system.md §3). Undefined until written.

    Throughput: one write and one read a clock. Latency: a word that is read follows in the next clock.

    Members
    -------
    write : one result to store.
    read : the host's port.
    """

    write: In(tile.logit_write)
    read: In(logit_read)

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = memory.Memory(shape=unsigned(tile.WORD), depth=self.config.max_n, init=[])
        write, read = words.write_port(), words.read_port()
        m.d.comb += [
            write.en.eq(self.write.enable),
            write.addr.eq(self.write.address),
            write.data.eq(self.write.data),
            read.en.eq(self.read.enable),
            read.addr.eq(self.read.address),
            self.read.data.eq(read.data),
        ]
        return m
