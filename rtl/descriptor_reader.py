"""Program memory and the descriptor of the running layer (system.md §5a)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal

from golden_model.config import HardwareConfig
from golden_model.registers import DESCRIPTOR_STRIDE, descriptor_layout, descriptor_words
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In, Out
from rtl.table import Table


class DescriptorReader(Block):
    """Reads a layer's descriptor, word by word, into a register.

    Latency: `done` comes `latency(config)` clocks after `start`; `settings` are those of the new layer
    from then on. Throughput: one descriptor per that many clocks.

    Members
    -------
    start : strobe; `layer` must hold until `done`. done : strobe. table_error : strobe, a word has lost its parity.
    settings : the descriptor read last.
    program_write : write port of program memory; between runs.
    """

    start: In(1)
    done: Out(1)
    table_error: Out(1)
    layer: In(layouts.layer_index)
    settings: Out(layouts.layer_settings)
    program_write: In(tile.program_write)

    @staticmethod
    def latency(config: HardwareConfig) -> int:
        """Clocks from `start` to `done`."""
        return descriptor_words(config) + 2

    def elaborate(self, platform):
        m = Module()
        count = descriptor_words(self.config)
        program = Table(self.program_write.shape(), self.config.max_layers * DESCRIPTOR_STRIDE)
        m.submodules.program = program
        read = program.read
        word, arrived_word = Signal(range(DESCRIPTOR_STRIDE)), Signal(range(DESCRIPTOR_STRIDE))
        reading, arrived = Signal(), Signal()
        m.d.comb += [
            program.write.eq(self.program_write),
            read.enable.eq(reading),
            read.address.eq(Cat(word, self.layer)),
            self.table_error.eq(arrived & program.wrong),
        ]
        with m.If(self.start):
            m.d.sync += [reading.eq(1), word.eq(0)]
        with m.Elif(reading):
            m.d.sync += [word.eq(word + 1), reading.eq(word != count - 1)]
        m.d.sync += [arrived.eq(reading), arrived_word.eq(word), self.done.eq(arrived & ~reading)]
        with m.If(arrived), m.Switch(arrived_word):
            for index, fields in enumerate(descriptor_layout(self.config)):
                with m.Case(index):
                    offset = 0
                    for field in fields:
                        m.d.sync += self.settings[field.name].eq(read.data[offset : offset + field.bits])
                        offset += field.bits
        return m
