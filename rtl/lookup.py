"""Activation functions as tables: what a code stands for (docs/numbers.md)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal

from golden_model.registers import region_entries
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In, Out
from rtl.table import Table


class Lookup(Block):
    """made[i] = table[settings.lookup - 1][codes[i]] of every macro i; codes[i] itself where settings.lookup is 0.

    Every macro has a memory with all tables, 2**input_bits entries each.

    Throughput: a code of every macro a clock. Latency: `latency` clock. Reset: none is needed, the memory keeps what it
    holds.

    Members
    -------
    settings : the step's descriptor, stable while the step runs.
    enable : there are codes. codes : of every macro, in the same clock.
    made : activations, in the next clock. table_error : strobe, with it, an entry has lost its parity.
    write : write port of the tables; between runs.
    """

    settings: In(layouts.layer_settings)
    enable: In(1)
    codes: In(tile.of_macros(tile.activation))
    made: Out(tile.of_macros(tile.activation))
    table_error: Out(1)
    write: In(tile.lookup_write)
    #: Clocks from `codes` to `made`.
    latency = 1

    def elaborate(self, platform):
        m = Module()
        config = self.config
        index, none, arrives = Signal.like(self.settings.lookup), Signal(), Signal()
        self.tables = tables = [Table(self.write.shape(), region_entries(config)["LOOKUPS"]) for _ in self.codes]
        m.d.comb += [
            index.eq(self.settings.lookup - 1),
            none.eq(self.settings.lookup == 0),
            self.table_error.eq(arrives & Cat(table.wrong for table in tables).any()),
        ]
        m.d.sync += arrives.eq(self.enable & ~none)
        for macro, (code, table) in enumerate(zip(self.codes, tables, strict=True)):
            m.submodules[f"tables{macro}"] = table
            held = Signal(config.input_bits, name=f"held{macro}")
            m.d.comb += [
                table.write.eq(self.write),
                table.read.enable.eq(self.enable),
                table.read.address.eq(Cat(code, index)),
                self.made[macro].eq(Mux(none, held, table.read.data)),
            ]
            with m.If(self.enable):
                m.d.sync += held.eq(code)
        return m
