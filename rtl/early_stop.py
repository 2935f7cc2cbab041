"""Early stop of one column: which of its outputs are certainly 0 before all input bits have been converted."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib.memory import Memory

from rtl import layouts
from rtl import pack_layouts as packs
from rtl.block import Block, In, Out


class EarlyStop(Block):
    """Checks the sums of a column of a half (*ours*; docs/pair-machine.md).

    Input bits run from the highest to the lowest. With j of them to come, the sum acc of an output ends at most at
    acc + (2**j - 1) P+. Its activation, requantised, never falls while the sum rises, and without a residual is 0 up to
    a limit that is known beforehand. With the stored word start = -(limit + P+ + 1) an output is certainly 0 if

        acc + start + P+ * 2**j < 0

    What has been summed has the activation 0, too: nothing but the stop is stored.

    Latency: `latency` clocks from `checked` to `stopped` and `pending`. Throughput: a check a clock. Reset: nothing has
    stopped, no check is pending.

    Members
    -------
    begin : strobe, the window of `bank` begins: none of its outputs has stopped. No check of that bank may be pending.
    write : words of an output of this column; between layers.
    asked : strobe, a check of block column `asked_col` and window `asked_bank` was handed out to the lane.
    checked : it has come to the sums.
    stopped : of every bank, block columns whose output is certainly 0. pending : those with a check that is not
        decided.
    """

    begin: In(1)
    bank: In(1)
    write: In(packs.stop_write)
    asked: In(1)
    asked_bank: In(1)
    asked_col: In(layouts.block_column)
    checked: In(packs.checked_sum)
    stopped: Out(packs.stop_states)
    pending: Out(packs.stop_states)

    #: Clocks from a check to its decision: into a register, added.
    latency = 2

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.words = memory = Memory(shape=packs.stop_words(config), depth=config.max_block_cols, init=[])
        write, read = memory.write_port(), memory.read_port()
        checked = Signal.like(self.checked)
        m.d.comb += [
            write.en.eq(self.write.enable),
            write.addr.eq(self.write.address),
            write.data.eq(self.write.words),
            read.addr.eq(self.checked.block_col),
        ]
        m.d.sync += checked.eq(self.checked)

        bound, start = read.data.bound, read.data.start
        width = 2 + max(config.accumulator_bits, len(start), len(bound) + config.input_bits)
        largest = Signal(signed(width))  # that the sum can become, less limit + 1
        m.d.comb += largest.eq(checked.sum + start + (bound << checked.bits_left))
        of_check, of_asked = Signal(config.max_block_cols), Signal(config.max_block_cols)
        m.d.comb += [
            of_check.eq(Mux(checked.valid, 1 << checked.block_col, 0)),
            of_asked.eq(Mux(self.asked, 1 << self.asked_col, 0)),
        ]
        for bank, (stopped, pending) in enumerate(zip(self.stopped, self.pending, strict=True)):
            over, asked = Mux(checked.bank == bank, of_check, 0), Mux(self.asked_bank == bank, of_asked, 0)
            m.d.sync += pending.eq((pending & ~over) | asked)
            with m.If(self.begin & (self.bank == bank)):
                m.d.sync += stopped.eq(0)
            with m.Elif(largest < 0):
                m.d.sync += stopped.eq(stopped | over)
        return m
