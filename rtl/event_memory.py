"""Event counters of every layer, kept until the next run (system.md §10)."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Signal, unsigned
from amaranth.lib import memory

from golden_model.config import HardwareConfig, bits_for
from golden_model.registers import COUNTER_BITS, COUNTERS_PER_LAYER, counters_of
from rtl import layouts
from rtl.block import Block, In, Out
from rtl.interfaces import connect_read, event_read


class EventMemory(Block):
    """Copies the event counters of a finished layer into memory, one counter of `counters_of` a clock.

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

    @staticmethod
    def latency(config: HardwareConfig) -> int:
        """Clocks from `store` to `done`."""
        return len(counters_of(config))

    def elaborate(self, platform):
        m = Module()
        m.submodules.stored = events = memory.Memory(
            shape=unsigned(COUNTER_BITS), depth=self.config.max_layers * COUNTERS_PER_LAYER, init=[]
        )
        connect_read(m, events, self.read)
        write = events.write_port()
        names = counters_of(self.config)
        index, active = Signal(range(len(names))), Signal()
        order = [*(name for name in names if name != "cycles"), "cycles"]
        values = Array(self.cycles if name == "cycles" else self.counters[name] for name in order)
        places = Array(names.index(name) for name in order)
        low_bits = bits_for(COUNTERS_PER_LAYER - 1)
        padded = Signal(low_bits)
        m.d.comb += [
            padded.eq(places[index]),
            write.en.eq(active),
            write.addr.eq(Cat(padded, self.layer)),
            write.data.eq(values[index]),
            self.done.eq(active & (index == len(names) - 1)),
        ]
        with m.If(self.store):
            m.d.sync += [active.eq(1), index.eq(0)]
        with m.Elif(active):
            m.d.sync += index.eq(index + 1)
            with m.If(self.done):
                m.d.sync += active.eq(0)
        return m
