"""Results of the last step, kept for the host."""

from __future__ import annotations

from amaranth.hdl import Module, unsigned
from amaranth.lib import memory

from rtl import layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In, Out


class LogitMemory(Block):
    """One signed 32-bit word per output of the last step (system.md §3). Undefined until written.

    Throughput: one write and one read a clock. Latency: a word that is read follows in the next clock.

    Members
    -------
    write : one result to store.
    read_enable, read_address, read_data : the host's port.
    """

    write: In(tile.logit_write)
    read_enable: In(1)
    read_address: In(layouts.logit_index)
    read_data: Out(tile.WORD)

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = memory.Memory(shape=unsigned(tile.WORD), depth=self.config.max_n, init=[])
        write, read = words.write_port(), words.read_port()
        m.d.comb += [
            write.en.eq(self.write.enable),
            write.addr.eq(self.write.address),
            write.data.eq(self.write.data),
            read.en.eq(self.read_enable),
            read.addr.eq(self.read_address),
            self.read_data.eq(read.data),
        ]
        return m
