"""Event counters of one macro."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value

from golden_model.registers import COUNTER_BITS
from rtl import layouts
from rtl.bit_count import bit_count
from rtl.block import Block, In, Out


class EventCounters(Block):
    """Counts every event of system.md §10 but the cycles.

    Per segment of a window with W block columns, Σp planes, s streamed positions and z zero slices among
    them: skipped_planes += (W * weight_bits - Σp) * input_bits, skipped_bits += Σp * (input_bits - s),
    skipped_zero_slices += Σp * z, input_bits_streamed += s. Together with `ou_activations` the three
    skipped counts add up to the dense count.

    Latency: a strobe is counted `latency` clocks later. Throughput: every strobe may come every clock.
    Reset: all 0.

    Members
    -------
    clear : strobe, all counters become 0; events of this clock and of those before that are not counted yet are lost.
    block_cols : W. segment : figures of a segment, with its strobe.
    activation : strobe. operations : lanes that make an A/D operation in this clock.
    completed : strobe; in the clock after it, `started` and `range_flags` tell the lanes that converted
        and their ranges.
    counters : `layouts.counters`.
    """

    clear: In(1)
    block_cols: In(layouts.block_count)
    segment: In(layouts.segment_events)
    activation: In(1)
    operations: In(layouts.lanes)
    completed: In(1)
    started: In(layouts.lanes)
    range_flags: In(layouts.lanes)
    counters: Out(layouts.counters)

    #: Clocks from a strobe to its counter: into a register, what it adds, added.
    latency = 3

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        # One register per counter; the record is only how they leave.
        counters = {name: Signal(COUNTER_BITS, name=name) for name in layouts.counters(config).members}
        m.d.comb += [self.counters[name].eq(counter) for name, counter in counters.items()]

        def count(name: str, happens, amount) -> None:
            """Add `amount` in the clock after `happens`."""
            amount = Value.cast(amount)
            added = Signal(amount.shape(), name=f"{name}_added")
            m.d.sync += added.eq(Mux(happens & ~self.clear, amount, 0))
            m.d.sync += counters[name].eq(counters[name] + added)

        # One clock of registers in front of products and sums.
        segment = Signal(self.segment.shape())
        activation = Signal()
        completed = Signal()
        operations = Signal(config.lanes)
        m.d.sync += [
            segment.eq(self.segment),
            activation.eq(self.activation),
            completed.eq(self.completed),
            operations.eq(self.operations),
        ]
        dense_planes = self.block_cols * config.weight_bits

        missing = (dense_planes - segment.planes)[: len(self.block_cols) + 4]
        silent = (config.input_bits - segment.streamed)[: len(segment.streamed)]
        count("ou_activations", activation, Const(1))
        count("skipped_planes", segment.valid, missing * config.input_bits)
        count("skipped_bits", segment.valid, segment.planes * silent)
        count("skipped_zero_slices", segment.valid, segment.planes * segment.zero_slices)
        count("input_bits_streamed", segment.valid, segment.streamed)
        count("conversions_r1", completed, bit_count(self.started & ~self.range_flags))
        count("conversions_r2", completed, bit_count(self.started & self.range_flags))
        count("ad_operations", Const(1), bit_count(operations))
        with m.If(self.clear):
            m.d.sync += [counter.eq(0) for counter in counters.values()]
        return m
