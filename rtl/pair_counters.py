"""Event counters of the pair macros."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value

from golden_model.registers import COUNTER_BITS
from rtl import pack_layouts as packs
from rtl.bit_count import bit_count
from rtl.block import Block, In, Out


class PairCounters(Block):
    """Counts what the halves of all macros do; meaning of the counters as in golden_model/engines/pair_switches.py.

    Latency: an event is counted `latency` clocks later. Reset: all 0.

    Members
    -------
    clear : strobe, all counters become 0; events of this clock and of those before that are not counted yet are lost.
    walks, conversions : events of the halves of all macros, every clock.
    counters : `pack_layouts.pair_counters`.
    """

    clear: In(1)
    walks: In(packs.all_halves_of(packs.walk_events))
    conversions: In(packs.all_halves_of(packs.conversion_events))
    counters: Out(packs.pair_counters)

    #: Clocks from an event to its counter: into a register, the sum over all halves, added.
    latency = 3

    def elaborate(self, platform) -> Module:
        m = Module()
        counters = {name: Signal(COUNTER_BITS, name=name) for name in self.counters.shape().members}
        m.d.comb += [self.counters[name].eq(counter) for name, counter in counters.items()]

        # One clock of registers in front of the sums, and one behind them.
        walks, conversions = Signal.like(self.walks), Signal.like(self.conversions)
        m.d.sync += [walks.eq(self.walks), conversions.eq(self.conversions)]
        looked = sum(half.looked for half in walks)
        formed = [half.formed for half in walks]
        amounts = {
            "ou_activations": sum(half.activation for half in conversions),
            "conversions_r2": sum(bit_count(half.started) for half in conversions),
            "ad_operations": sum(bit_count(half.busy) for half in conversions),
            "input_bits_streamed": sum(half.latched for half in walks),
            "prefix_counts": sum(segments != 0 for segments in formed),
            "prefix_rows": sum(formed) * self.config.ou_rows,
            "mask_bits_read": looked,
        }
        if self.config.early_stop:
            amounts["stop_checks"] = sum(bit_count(half.checked) for half in conversions)
        for name, amount in amounts.items():
            amount = Value.cast(amount)
            added = Signal(amount.shape(), name=f"{name}_added")
            m.d.sync += [added.eq(Mux(self.clear, 0, amount)), counters[name].eq(counters[name] + added)]
        with m.If(self.clear):
            m.d.sync += [counter.eq(0) for counter in counters.values()]
        return m
