"""Activation functions as tables: what a code stands for (docs/numbers.md)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import memory

from golden_model.registers import region_entries
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In, Out
from rtl.interfaces import connect_write


class Lookup(Block):
    """made[i] = table[settings.lookup - 1][codes[i]] of every macro i; codes[i] itself where settings.lookup is 0.

    One memory holds all tables, 2**input_bits entries each, and has a read port a macro.

    Throughput: a code of every macro a clock. Latency: `latency` clock. Reset: none is needed, the memory keeps what it
    holds.

    Members
    -------
    settings : the step's descriptor, stable while the step runs.
    enable : there are codes. codes : of every macro, in the same clock.
    made : activations, in the next clock.
    write : write port of the tables; between runs.
    """

    settings: In(layouts.layer_settings)
    enable: In(1)
    codes: In(tile.of_macros(tile.activation))
    made: Out(tile.of_macros(tile.activation))
    write: In(tile.lookup_write)
    #: Clocks from `codes` to `made`.
    latency = 1

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.tables = tables = memory.Memory(
            shape=unsigned(config.input_bits), depth=region_entries(config)["LOOKUPS"], init=[]
        )
        connect_write(m, tables, self.write)
        table = Signal.like(self.settings.lookup)  # from 0 on
        m.d.comb += table.eq(self.settings.lookup - 1)
        for macro, code in enumerate(self.codes):
            port, held = tables.read_port(), Signal(config.input_bits, name=f"held{macro}")
            m.d.comb += [
                port.en.eq(self.enable),
                port.addr.eq(Cat(code, table)),
                self.made[macro].eq(Mux(self.settings.lookup == 0, held, port.data)),
            ]
            with m.If(self.enable):
                m.d.sync += held.eq(code)
        return m
