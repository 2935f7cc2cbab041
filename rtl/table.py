"""A table of the host's, with parity."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Shape, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from rtl.interfaces import ReadPort


class Table(wiring.Component):
    """A memory that the host writes and a run reads; every entry has a parity bit more than its data.

    An entry with an odd number of wrong bits is told in the clock in which it is on `read.data`. Whether it matters
    there, only the block around it knows.

    Latency: the entry follows one clock after its read. Throughput: a read and a write a clock. Reset: the contents
    stay.

    Parameters
    ----------
    write : layout of the write port, of `layouts.table_write`. depth : entries.

    Members
    -------
    write : an entry. read : see `ReadPort`.
    wrong : the entry on `read.data` is not what was written.
    """

    def __init__(self, write: data.StructLayout, depth: int):
        address, entry = (write.members[name] for name in ("address", "data"))
        self.memory = memory.Memory(shape=Shape.cast(entry).width + 1, depth=depth, init=[])
        super().__init__({"write": In(write), "read": In(ReadPort(address, entry)), "wrong": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.memory = self.memory
        write, read = self.memory.write_port(), self.memory.read_port()
        entry = Value.cast(self.write.data)
        m.d.comb += [
            write.en.eq(self.write.enable),
            write.addr.eq(self.write.address),
            write.data.eq(Cat(entry, entry.xor())),
            read.en.eq(self.read.enable),
            read.addr.eq(self.read.address),
            self.read.data.eq(read.data),
            self.wrong.eq(read.data.xor()),
        ]
        return m
