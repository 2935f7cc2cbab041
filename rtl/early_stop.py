"""Early stop: which outputs are certainly final before all input bits have been converted."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Shape, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig, bits_for
from rtl import layouts


def magnitude_sum(config: HardwareConfig) -> Shape:
    """P+ or P-: sum of the positive, or of the negative, magnitudes of an output's weights."""
    return unsigned(bits_for(config.max_k * ((1 << config.weight_bits) - 1)))


def check(config: HardwareConfig) -> data.StructLayout:
    """An output to be checked.

    partial : its sum so far. positive, negative : P+ and P-. bits_left : input bits to come.
    """
    return data.StructLayout(
        {
            "output": layouts.logit_index(config),
            "partial": signed(config.accumulator_bits),
            "positive": magnitude_sum(config),
            "negative": magnitude_sum(config),
            "bits_left": unsigned(bits_for(config.input_bits)),
        }
    )


def bound(config: HardwareConfig) -> data.StructLayout:
    """The sum that an output ends with at most (upper) or at least, saturated to accumulator_bits."""
    return data.StructLayout(
        {"output": layouts.logit_index(config), "upper": unsigned(1), "sum": signed(config.accumulator_bits)}
    )


class EarlyStop(wiring.Component):
    """Finds outputs whose requantised value can no longer change (*ours*).

    Input bits run from the highest to the lowest. With j of them to come, an output's sum ends between
    partial - (2**j - 1) P- and partial + (2**j - 1) P+. Requantisation
    q(sum) = clamp(round_half_up_shift((sum + bias) M + r M_r + offset, S), 0, 2**a - 1) never falls while the sum
    rises, because M is at least 0. So

    * if q of the upper bound is 0, the value is 0;
    * if q of both bounds is the same, that is the value,

    and q of the partial sum, which lies between them, is the value too: nothing but the stop is stored. What follows,
    pooling or another layer, sees what it would have seen. A step whose results are sums is never checked.

    q is asked of the requantiser that post-processing has anyway and does not use meanwhile; it may take any time, and
    answers in order. `exact` asks for both bounds (two clocks an output), else only for the upper one (one clock).

    Latency: 2 clocks from `checks` to `bounds`, 1 from `value` to `decision`. Handshake: `bounds` holds valid and
    payload until ready; `checks.ready` depends on `bounds.ready`. Reset: nothing asked.

    Parameters
    ----------
    config : sizes.

    Members
    -------
    exact : both conditions, else only the first. Stable from the first check to the last decision.
    checks : stream of `check`. bounds : stream of `bound`, to the requantiser; with `exact` the lower one first.
    value_valid, value : strobe and activation of every bound, in the order of `bounds`. value_bound : its record.
    decision : strobe. output : which one. final : it is final.
    """

    def __init__(self, config: HardwareConfig):
        self.config = config
        super().__init__(
            {
                "exact": In(1),
                "checks": In(stream.Signature(check(config))),
                "bounds": Out(stream.Signature(bound(config))),
                "value_valid": In(1),
                "value": In(unsigned(config.input_bits)),
                "value_bound": In(bound(config)),
                "decision": Out(1),
                "output": Out(layouts.logit_index(config)),
                "final": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config, given, asked = self.config, self.checks.payload, self.bounds.payload
        second, upper, advance = Signal(), Signal(), Signal()
        shape = signed(max(len(given.positive) + config.input_bits, config.accumulator_bits) + 2)
        reached = Signal(data.StructLayout({"valid": unsigned(1), **bound(config).members, "reach": shape}))
        shifted, total = Signal(shape), Signal(shape)
        beyond = Signal(len(total) - config.accumulator_bits + 1)  # sign and what does not fit
        most = (1 << (config.accumulator_bits - 1)) - 1
        magnitude = Mux(upper, given.positive, given.negative)
        m.d.comb += [
            upper.eq(~self.exact | second),
            advance.eq(~self.bounds.valid | self.bounds.ready),
            self.checks.ready.eq(advance & upper),
            shifted.eq(magnitude << given.bits_left),
            total.eq(reached.sum + reached.reach),
            beyond.eq(total[config.accumulator_bits - 1 :]),
        ]
        with m.If(advance):
            m.d.sync += [
                second.eq(self.checks.valid & self.exact & ~second),
                reached.valid.eq(self.checks.valid),
                reached.output.eq(given.output),
                reached.upper.eq(upper),
                reached.sum.eq(given.partial),
                reached.reach.eq(Mux(upper, shifted, magnitude) - Mux(upper, magnitude, shifted)),
                self.bounds.valid.eq(reached.valid),
                asked.output.eq(reached.output),
                asked.upper.eq(reached.upper),
                asked.sum.eq(Mux(beyond.any() & ~beyond.all(), Mux(total < 0, -most - 1, most), total)),
            ]

        lower_value = Signal.like(self.value)
        m.d.sync += self.decision.eq(self.value_valid & self.value_bound.upper)
        with m.If(self.value_valid):
            m.d.sync += [
                lower_value.eq(self.value),
                self.output.eq(self.value_bound.output),
                self.final.eq(self.value == Mux(self.exact, lower_value, 0)),
            ]
        return m
