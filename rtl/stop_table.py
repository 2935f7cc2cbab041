"""The table of early stop: the words of every output, handed to the columns of all macros once per layer."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal

from golden_model.registers import region_entries
from rtl import layouts
from rtl import pack_layouts as packs
from rtl.block import Block, In, Out
from rtl.table import Table


class StopTable(Block):
    """Reads the words of a layer's outputs, one output a clock, in order, and writes them to the columns.

    Latency: `ready` is 1 `stop_clocks` of golden_model/pairs/machine.py after `start`. Reset: ready.

    Members
    -------
    settings : layer descriptor, stable from `start` on. bound_write, start_write : write ports of the tables; between
        runs.
    start : strobe, begins a layer. If its `stop_bits` are 0, nothing is written. ready : all words have been.
    write : to the columns of all halves. table_error : strobe, a word has lost its parity.
    """

    settings: In(layouts.layer_settings)
    bound_write: In(layouts.bound_write)
    start_write: In(layouts.start_write)
    start: In(1)
    ready: Out(1)
    write: Out(packs.stop_write)
    table_error: Out(1)

    def elaborate(self, platform):
        m = Module()
        config, settings = self.config, self.settings
        self.tables = bounds, starts = [
            Table(write.shape(), region_entries(config)[name])
            for name, write in (("STOP_BOUNDS", self.bound_write), ("STOP_STARTS", self.start_write))
        ]
        m.submodules.bounds, m.submodules.starts = bounds, starts
        reading, arrives = Signal(), Signal()
        left, entry = Signal.like(settings.outputs), Signal.like(bounds.read.address)
        column, block_col = (Signal.like(self.write[name]) for name in ("column", "address"))
        last_column = column == config.ou_cols - 1
        m.d.comb += [
            bounds.write.eq(self.bound_write),
            starts.write.eq(self.start_write),
            *(table.read.enable.eq(1) for table in self.tables),
            *(table.read.address.eq(entry) for table in self.tables),
            self.write.enable.eq(arrives),
            self.write.address.eq(block_col),
            self.write.column.eq(column),
            self.write.words.bound.eq(bounds.read.data),
            self.write.words.start.eq(starts.read.data),
            self.table_error.eq(arrives & (bounds.wrong | starts.wrong)),
            self.ready.eq(~reading & ~arrives),
        ]
        m.d.sync += arrives.eq(reading)
        with m.If(reading):
            m.d.sync += [entry.eq(entry + 1), left.eq(left - 1), reading.eq(left != 1)]
        with m.If(arrives):
            m.d.sync += [column.eq(Mux(last_column, 0, column + 1)), block_col.eq(block_col + last_column)]
        with m.If(self.start):
            m.d.sync += [
                reading.eq(settings.stop_bits.any()),
                arrives.eq(0),
                entry.eq(settings.channel_base),
                left.eq(settings.outputs),
                column.eq(0),
                block_col.eq(0),
            ]
        return m
