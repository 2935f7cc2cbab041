"""One A/D lane: a threshold register that ends as the result. What it does is ordered by `SearchControl`."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from rtl import pair_layouts as layouts


class SearchLane(wiring.Component):
    """Converts one sample by comparisons v >= t - 1/2, one a clock, v = c+ - c- (pairs) or a count.

    All lanes of an OU start together, so that everything but one flag and the threshold is the same in all of them at
    any time of a conversion. `SearchControl` therefore gives the same orders to all of them: for each flag and answer
    a word to be added to the threshold (or to replace it), the next flag, and whether this was the last decision.
    After it the threshold register holds the result. The lane has one adder and knows nothing of modes.

    Latency: `value` is right in the clock of `last`, combinational from `comparator`, and holds until the next `start`.
    In the clock of that `start` it is still right. Throughput: one A/D operation per clock; `start` in the clock of
    `last` gives conversions without a bubble. Reset: idle.

    Parameters
    ----------
    config : sizes. pairs : see `pair_layouts`.

    Members
    -------
    orders, begin : of the `SearchControl` that gets the same `start`.
    start : strobe; allowed while idle or in the clock of `last`.
    threshold : DAC code t, registered.
    comparator : v >= t - 1/2, answer of the same clock, captured at its end.
    busy : a decision is made in this clock; the number of these clocks is the number of A/D operations.
    last : this decision is the last one of the conversion. Combinational from `comparator`.
    value : result in LSB of the full grid. flag : with `value`, in mode TWIN only: 0 = R1, 1 = R2.
    """

    def __init__(self, config: HardwareConfig, pairs: bool = True):
        self.config, self.pairs = config, pairs
        super().__init__(
            {
                "orders": In(layouts.search_orders(config, pairs)),
                "begin": In(layouts.search_begin(config, pairs)),
                "start": In(1),
                "threshold": Out(layouts.search_threshold(config, pairs)),
                "comparator": In(1),
                "busy": Out(1),
                "last": Out(1),
                "value": Out(layouts.search_threshold(config, pairs)),
                "flag": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        orders, busy = self.orders, Signal()
        threshold = Signal(layouts.search_threshold(self.config, self.pairs), reset_less=True)
        flag = Signal(reset_less=True)
        case = Cat(self.comparator, flag)
        m.d.comb += [
            self.threshold.eq(threshold),
            self.busy.eq(busy),
            self.last.eq(busy & orders.lasts.bit_select(case, 1)),
            self.value.eq(Mux(busy & ~orders.relative, 0, threshold) + Mux(busy, orders.words[case], 0)),
            self.flag.eq(orders.flags.bit_select(case, 1)),
        ]
        m.d.sync += [threshold.eq(self.value), flag.eq(self.flag), busy.eq(busy & ~self.last)]
        with m.If(self.start):
            m.d.sync += [threshold.eq(self.begin.threshold), flag.eq(self.begin.flag), busy.eq(self.begin.decides)]
        return m
