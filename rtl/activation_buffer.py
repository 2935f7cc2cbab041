"""Two ping-pong activation buffers of one byte per activation (system.md §5a)."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from rtl import tile_layouts as layouts


class ActivationBuffer(wiring.Component):
    """Holds a layer's input in one buffer while its output fills the other.

    Both are memories of 32-bit words with byte strobes, so that the host moves four activations an
    access. A byte is read and another written in every clock, each with a latency of one clock.

    Parameters
    ----------
    config : sizes.

    Members
    -------
    layer_parity : the buffer that `read` uses; `store` writes the other one.
    read, read_data : the byte at `read.address` follows in the next clock and holds until the next read.
    store : one byte to write.
    bus, bus_data : the host's access, which takes precedence; only while no layer runs. A word that is
        read follows in the next clock.

    There is nothing to reset; the contents are undefined until written.
    """

    def __init__(self, config: HardwareConfig):
        self.config = config
        super().__init__(
            {
                "layer_parity": In(1),
                "read": In(layouts.activation_read(config)),
                "read_data": Out(layouts.BYTE),
                "store": In(layouts.activation_write(config)),
                "bus": In(layouts.activation_bus(config)),
                "bus_data": Out(layouts.WORD),
            }
        )

    def elaborate(self, platform):
        m = Module()
        words = layouts.activation_words(self.config)
        address = self.read.address
        lane = Signal(2)
        buffer = Signal()
        with m.If(self.read.enable):
            m.d.sync += [lane.eq(address), buffer.eq(self.layer_parity)]
        with m.If(self.bus.read):
            m.d.sync += buffer.eq(self.bus.buffer)

        read_words = []
        for index in range(2):
            m.submodules[f"buffer{index}"] = cells = memory.Memory(shape=unsigned(layouts.WORD), depth=words, init=[])
            read_port = cells.read_port()
            write_port = cells.write_port(granularity=layouts.BYTE)
            loads = self.read.enable & (self.layer_parity == index)
            on_bus = self.bus.buffer == index
            m.d.comb += [
                read_port.en.eq(loads | self.bus.read & on_bus),
                read_port.addr.eq(self.bus.word),
                write_port.addr.eq(self.store.address >> 2),
                write_port.data.eq(self.store.data.replicate(4)),
            ]
            with m.If(loads):
                m.d.comb += read_port.addr.eq(address >> 2)
            with m.If(self.bus.write.any()):
                m.d.comb += [
                    write_port.addr.eq(self.bus.word),
                    write_port.data.eq(self.bus.data),
                    write_port.en.eq(self.bus.write & on_bus.replicate(4)),
                ]
            with m.Elif(self.store.enable & (self.layer_parity != index)):
                m.d.comb += write_port.en.eq(1 << self.store.address[:2])
            read_words.append(read_port.data)

        word = Signal(layouts.WORD)
        with m.If(buffer):
            m.d.comb += word.eq(read_words[1])
        with m.Else():
            m.d.comb += word.eq(read_words[0])
        m.d.comb += [self.bus_data.eq(word), self.read_data.eq(word.word_select(lane, layouts.BYTE))]
        return m
