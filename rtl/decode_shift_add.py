"""Decoding shift-and-add unit: two codes of a column -> one accumulated partial sum."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data

from golden_model.config import HardwareConfig, bits_for
from rtl import layouts
from rtl.block import Block, In, Out


def needed_bits(config: HardwareConfig) -> int:
    """Width of a signed partial sum that no layer of this configuration can overflow (system.md §3).

    Derived from the code range, not from the count; the bias is added later, in post-processing.
    """
    largest = (
        config.max_segments
        * ((1 << config.adc_bits) - 1)
        * ((1 << config.input_bits) - 1)
        * ((1 << config.weight_bits) - 1)
    )
    return bits_for(largest) + 1


def coded(config: HardwareConfig) -> data.StructLayout:
    """Output word of a conversion: range flag and code (system.md §4.3)."""
    return data.StructLayout({"range_flag": unsigned(1), "code": unsigned(config.adc_bits)})


class DecodeShiftAdd(Block):
    """acc += (value(positive) - value(negative)) << (i + b) for one column (system.md §3, §4.3).

    value = code << m in R2, lo | code in R1 (the bias is concatenated to the left of the code): neither
    multiplier nor table. The accumulator itself is outside, a word of the partial-sum memory.

    Latency: 1 clock from codes to `total`. With `enable` the decoded, shifted difference is registered;
    in the next clock `total` = `partial` + difference, combinational from `partial`.
    Throughput: one OU per clock. Reset: difference 0.
    If `accumulator_bits` is narrower than `needed_bits`, `total` saturates and `overflow` tells it;
    otherwise that logic is left out.

    Members
    -------
    m, window_low : from `layouts.search`.
    positive, negative : codes of the two polarities of the column. started : 0 makes the difference 0.
    shift : i + b, 0..input_bits + weight_bits - 2.
    enable : take the codes in this clock.
    partial : accumulator read in the clock after `enable`. total : what to write back.
    overflow : `total` was saturated.
    """

    m: In(layouts.code_shift)
    window_low: In(layouts.code)
    positive: In(coded)
    negative: In(coded)
    started: In(1)
    shift: In(layouts.bit_position)
    enable: In(1)
    partial: In(layouts.accumulator)
    total: Out(layouts.accumulator)
    overflow: Out(1)

    def _value(self, word):
        """Code -> value in Delta_R1, R bits."""
        shifted = (word.code << self.m)[: self.config.adc_bits]
        return Mux(word.range_flag, shifted, self.window_low | word.code)

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        most = config.input_bits + config.weight_bits - 2
        difference = Signal(signed(config.adc_bits + 1))
        shifted = Signal(signed(config.adc_bits + 1 + most))
        m.d.comb += difference.eq(Mux(self.started, self._value(self.positive) - self._value(self.negative), 0))
        with m.If(self.enable):
            m.d.sync += shifted.eq(difference << self.shift)

        accumulator = Signal(signed(max(config.accumulator_bits, len(shifted)) + 1))
        m.d.comb += accumulator.eq(self.partial + shifted)
        if config.accumulator_bits >= needed_bits(config):
            m.d.comb += self.total.eq(accumulator)
        else:
            largest = Const((1 << (config.accumulator_bits - 1)) - 1, signed(config.accumulator_bits))
            with m.If(accumulator > largest):
                m.d.comb += [self.total.eq(largest), self.overflow.eq(1)]
            with m.Elif(accumulator < ~largest):
                m.d.comb += [self.total.eq(~largest), self.overflow.eq(1)]
            with m.Else():
                m.d.comb += self.total.eq(accumulator)
        return m
