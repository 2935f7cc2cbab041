"""Partial sums of one column of a half of the pair macro, with the shift-and-add unit in front of them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.lib.memory import Memory

from rtl import layouts
from rtl import pack_layouts as packs
from rtl.block import Block, In, Out, Where
from rtl.decode_shift_add import needed_bits
from rtl.pack_layouts import BANKS
from rtl.pair_layouts import search_constants


class PartialSums(Block):
    """Adds (value >> scale) << shift to the sum of a block column. (system.md §3)

    Sums are kept twice, for windows in turn: those of a window are read while the next one is added up. A sum that was
    read for the last time becomes 0, so that the window after the next one can be added up there. Each bank is a small
    memory with one address for reading and writing.

    Latency: a value is in the sum `latency` clocks after the clock of `converted`. Throughput: a value and a read a
    clock. Reset: sums are not defined before `clear`.

    Members
    -------
    scale : from `SearchSettings`. converted : from the lane.
    read_bank : what is read; nothing is added there meanwhile.
    address, data : sum of a block column, combinational. taken : strobe, it becomes 0.
    clear : strobe, the sums of block column `clear_address` in both banks become 0; not while anything is added.
    overflow : strobe, the sum did not fit `accumulator_bits` and was saturated.
    checked : with early stop, the sum that `converted` says is to be checked, a clock after it.
    """

    scale: In(lambda config: search_constants(config, True)["scale"].shape)
    converted: In(packs.converted)
    read_bank: In(1)
    address: In(layouts.block_column)
    data: Out(layouts.accumulator)
    taken: In(1)
    clear: In(1)
    clear_address: In(layouts.block_column)
    overflow: Out(1)
    checked: Where(layouts.early_stop, Out(packs.checked_sum))

    #: Clocks from the end of a conversion until its sum can be read: shift, add.
    latency = 2

    def elaborate(self, platform) -> Module:
        m = Module()
        config, converted = self.config, self.converted
        shifted = Signal(signed(config.adc_bits + 1 + config.input_bits + config.weight_bits - 2))
        add, bank, add_col = Signal(), Signal(), Signal.like(converted.block_col)
        m.d.sync += [add.eq(converted.valid), bank.eq(converted.bank), add_col.eq(converted.block_col)]
        m.d.sync += shifted.eq((converted.value >> self.scale) << converted.shift)

        before = [Signal.like(self.data, name=f"before{index}") for index in range(BANKS)]
        present = Mux(bank, before[1], before[0])
        total, too_large = self._narrowed(present + shifted)
        m.d.comb += [
            self.data.eq(Mux(self.read_bank, before[1], before[0])),
            self.overflow.eq(add & too_large),
        ]
        for index in range(BANKS):
            m.submodules[f"bank{index}"] = memory = Memory(
                shape=layouts.accumulator(config), depth=config.max_block_cols, init=[]
            )
            write, read = memory.write_port(), memory.read_port(domain="comb")
            added, taken = Signal(name=f"added{index}"), Signal(name=f"taken{index}")
            m.d.comb += [
                added.eq(add & (bank == index)),
                taken.eq(self.taken & (self.read_bank == index)),
                read.addr.eq(Mux(added, add_col, self.address)),
                before[index].eq(read.data),
                write.en.eq(added | taken | self.clear),
                write.addr.eq(Mux(self.clear, self.clear_address, read.addr)),
                write.data.eq(Mux(added, total, 0)),
            ]
        if config.early_stop:
            checked = self.checked
            m.d.comb += [checked.sum.eq(present), checked.bank.eq(bank), checked.block_col.eq(add_col)]
            m.d.sync += [checked.valid.eq(converted.valid & converted.check), checked.bits_left.eq(converted.shift)]
        return m

    def _narrowed(self, total: Value) -> tuple[Any, Any]:
        """(`total` as far as it fits `accumulator_bits`, else the nearest number that does; whether it did not fit).

        Without any logic if no layer can need more bits.
        """
        bits = self.config.accumulator_bits
        # A difference reaches -2**adc_bits, one further than a count of a plain lane.
        if bits > needed_bits(self.config):
            return total, Const(0)
        largest = (1 << bits >> 1) - 1
        above, below = total > largest, total < ~largest
        return Mux(above, largest, Mux(below, ~largest, total)), above | below
