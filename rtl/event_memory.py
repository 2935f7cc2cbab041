"""Event counters of every layer, kept until the next run (system.md §10)."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Signal, unsigned
from amaranth.lib import memory

from golden_model.config import bits_for
from golden_model.registers import COUNTER_BITS, COUNTER_NAMES, COUNTERS_PER_LAYER
from rtl import layouts
from rtl.block import Block, In, Out
from rtl.interfaces import event_read


class EventMemory(Block):
    """Copies the event counters of a finished layer into memory, one counter a clock.

    Throughput: one layer per `latency` clocks. Latency: `done` comes `latency` clocks after `store`, in
    the clock in which the last counter (cycles) is written.

    Members
    -------
    store : strobe; `layer` and `counters` must hold until `done`. done : strobe.
    counters : all counters but `cycles`. cycles : the layer's clocks including the one of `done`, as it
        reads in that clock.
    read : the host's port.
    """

    store: In(1)
    done: Out(1)
    layer: In(layouts.layer_index)
    counters: In(layouts.counters)
    cycles: In(COUNTER_BITS)
    read: In(event_read)

    #: Clocks from `store` to `done`.
    latency = len(COUNTER_NAMES)

    def elaborate(self, platform):
        m = Module()
        m.submodules.stored = events = memory.Memory(
            shape=unsigned(COUNTER_BITS), depth=self.config.max_layers * COUNTERS_PER_LAYER, init=[]
        )
        write, read = events.write_port(), events.read_port()
        index, active = Signal(range(len(COUNTER_NAMES))), Signal()
        values = Array(self.cycles if name == "cycles" else self.counters[name] for name in COUNTER_NAMES)
        low_bits = bits_for(COUNTERS_PER_LAYER - 1)
        padded = Signal(low_bits)
        m.d.comb += [
            padded.eq(index),
            write.en.eq(active),
            write.addr.eq(Cat(padded, self.layer)),
            write.data.eq(values[index]),
            self.done.eq(active & (index == len(COUNTER_NAMES) - 1)),
            read.en.eq(self.read.enable),
            read.addr.eq(self.read.address),
            self.read.data.eq(read.data),
        ]
        with m.If(self.store):
            m.d.sync += [active.eq(1), index.eq(0)]
        with m.Elif(active):
            m.d.sync += index.eq(index + 1)
            with m.If(self.done):
                m.d.sync += active.eq(0)
        return m
