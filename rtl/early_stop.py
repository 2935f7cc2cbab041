"""Early stop: which outputs are certainly 0 before all input bits have been converted."""

from __future__ import annotations

from amaranth.hdl import Module, Shape, Signal, signed, unsigned
from amaranth.lib import data

from golden_model.config import HardwareConfig, bits_for
from rtl import layouts
from rtl.block import Block, In, Out


def magnitude_sum(config: HardwareConfig) -> Shape:
    """P+: sum of the positive magnitudes of an output's weights."""
    return unsigned(bits_for(config.max_k * ((1 << config.weight_bits) - 1)))


def checked_output(config: HardwareConfig) -> data.StructLayout:
    """An output to be checked.

    partial : its sum so far, which started at -(limit + P+ + 1). positive : P+. bits_left : input bits to come.
    """
    return data.StructLayout(
        {
            "output": layouts.logit_index(config),
            "partial": signed(config.accumulator_bits),
            "positive": magnitude_sum(config),
            "bits_left": unsigned(bits_for(config.input_bits)),
        }
    )


class EarlyStop(Block):
    """Finds outputs whose activation is certainly 0 (*ours*; docs/pair-machine.md).

    Input bits run from the highest to the lowest. With j of them to come, the sum acc of an output ends at most at
    acc + (2**j - 1) P+. Its activation, requantised, never falls while the sum rises, and without a residual is 0 up to
    a limit that is known beforehand. So the output is final if acc + (2**j - 1) P+ <= limit. The sum starts at
    -(limit + P+ + 1) in place of 0, a stored word that post-processing takes back with its bias; then

        final = partial + P+ * 2**j < 0

    is one shift, one addition and a sign. What has been summed has the activation 0, too: nothing but the stop is
    stored. An output with a residual other than 0 is not given, nor is a step whose results are sums.

    Throughput: one output a clock; it cannot stall. Latency: 1 clock. Reset: no decision.

    Members
    -------
    check : strobe, `given` is to be checked.
    decision : strobe, `output` has been checked. final : it is certainly 0.
    """

    check: In(1)
    given: In(checked_output)
    decision: Out(1)
    output: Out(layouts.logit_index)
    final: Out(1)

    #: Clocks from a check to its decision.
    latency = 1

    def elaborate(self, platform):
        m = Module()
        config, given = self.config, self.given
        width = max(config.accumulator_bits, len(given.positive) + config.input_bits + 1) + 1
        largest = Signal(signed(width))  # less limit + 1
        m.d.comb += largest.eq(given.partial + (given.positive << given.bits_left))
        m.d.sync += self.decision.eq(self.check)
        with m.If(self.check):
            m.d.sync += [self.output.eq(given.output), self.final.eq(largest < 0)]
        return m
