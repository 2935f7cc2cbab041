"""Proof: a code means the grid point that it was searched for, and sums take up its shifted value."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from golden_model.config import TINY, HardwareConfig
from rtl import layouts
from rtl.decode_shift_add import DecodeShiftAdd, coded, needed_bits
from rtl.trq_settings import TrqSettings
from tests.formal.mutants import mutant
from tests.formal.prove import bound, held, induction

pytestmark = [pytest.mark.rtl, pytest.mark.slow]

#: The register of the block, for the induction.
PROBES = {"shifted": "decode.shifted"}


class DecodeSpec(wiring.Component):
    """Any legal registers, any two codes that a conversion can give, any partial sum.

    test_trq_sar proves that code c of a range is right if the level lies around origin + c * step; here that point is
    value * Delta_R1. Both together: decoding what was encoded is the quantiser.
    """

    def __init__(self, config: HardwareConfig, decode: type = DecodeShiftAdd):
        self.config, self.decode = config, decode(config)
        super().__init__(
            {
                "registers": In(layouts.adc_registers(config)),
                "positive": In(coded(config)),
                "negative": In(coded(config)),
                "started": In(1),
                "shift": In(layouts.bit_position(config)),
                "enable": In(1),
                "partial": In(layouts.accumulator(config)),
                "shifted": In(signed(config.adc_bits + config.input_bits + config.weight_bits - 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, registers = self.config, self.registers
        bits, most = config.adc_bits, config.input_bits + config.weight_bits - 2
        m.submodules.settings = settings = TrqSettings(config)
        m.submodules.decode = decode = self.decode
        held(m, registers)
        decoded = Signal(2)
        m.d.sync += decoded.eq(decoded << 1 | 1)
        m.d.comb += [
            settings.registers.eq(registers),
            decode.m.eq(settings.search.m),
            decode.window_low.eq(settings.search.window_low),
            decode.positive.eq(self.positive),
            decode.negative.eq(self.negative),
            decode.started.eq(self.started),
            decode.shift.eq(self.shift),
            decode.enable.eq(self.enable),
            decode.partial.eq(self.partial),
            Assume(~decoded[0] | ~settings.illegal),
            Assume(self.shift <= most),
            Assume(~self.enable | decoded.all()),
        ]
        values = [
            self._value(m, word, name) for word, name in ((self.positive, "positive"), (self.negative, "negative"))
        ]
        added = Signal(signed(bits + 2 + most))
        with m.If(self.enable):
            m.d.sync += added.eq(Mux(self.started, values[0] - values[1], 0) << self.shift)
        m.d.comb += Assert(self.shifted == added)

        total = Signal(signed(max(config.accumulator_bits, len(added)) + 2))
        largest = (1 << (config.accumulator_bits - 1)) - 1
        narrow = config.accumulator_bits < needed_bits(config)
        fits = (total <= largest) & (total >= ~largest)
        m.d.comb += total.eq(self.partial + added)
        with m.If(fits):
            m.d.comb += [Assert(decode.total == total), Assert(~decode.overflow)]
        with m.Elif(narrow):
            m.d.comb += [Assert(decode.total == Mux(total > 0, largest, ~largest)), Assert(decode.overflow)]
        return m

    def _value(self, m: Module, word, name: str):
        """The value of a code in Delta_R1 by system.md §4.3, and that it stands for its grid point."""
        config, registers = self.config, self.registers
        bits = config.adc_bits
        value, n = Signal(bits + 1, name=f"{name}_value"), Signal(range(bits + 1), name=f"{name}_n")
        point, s1, s2 = (Signal(2 * bits + 2, name=f"{name}_{what}") for what in ("point", "s1", "s2"))
        m.d.comb += [
            n.eq(Mux(word.range_flag, registers.n_r2, registers.n_r1)),
            s2.eq(bits - registers.n_r2),
            s1.eq(bits - registers.n_r2 - registers.m),
            Assume(~self.enable | (word.code < 1 << n)),
            Assume(~self.enable | registers.mode | word.range_flag),
            value.eq(
                Mux(
                    word.range_flag,
                    word.code << registers.m,
                    (registers.bias << registers.n_r1)[: 2 * bits] + word.code,
                )
            ),
            point.eq(
                Mux(
                    word.range_flag,
                    word.code << s2[:4],
                    ((registers.bias << registers.n_r1) << s1[:4]) + (word.code << s1[:4]),
                )
            ),
        ]
        with m.If(self.enable):
            m.d.comb += [Assert((value << s1[:4]) == point), Assert(point < 1 << bits)]
        return value


@pytest.mark.parametrize("adc_bits", [4, 8])
def test_decoded_and_shifted_difference_is_added(adc_bits, proof):
    config = replace(TINY, adc_bits=adc_bits)
    proof(
        DecodeSpec(config),
        "decode_shift_add",
        f"R = {adc_bits}, all legal registers and codes",
        induction(3),
        probes=PROBES,
    )


def test_narrow_sum_saturates_and_says_so(proof):
    config = replace(TINY, adc_bits=4, accumulator_bits=9)
    proof(DecodeSpec(config), "decode_shift_add", "R = 4, sums of 9 bits", induction(3), probes=PROBES)


@pytest.mark.parametrize(
    ("correct", "wrong"),
    [
        ("self.window_low | word.code", "word.code"),
        ("difference = Signal(signed(config.adc_bits + 1))", "difference = Signal(signed(config.adc_bits))"),
        ("self.total.eq(~largest)", "self.total.eq(largest)"),
    ],
)
def test_wrong_decoder_is_refuted(correct, wrong, refutation):
    config = replace(TINY, adc_bits=4, accumulator_bits=9)
    spec = DecodeSpec(config, mutant(DecodeShiftAdd, correct, wrong))
    refutation(spec, "decode_shift_add", f"`{wrong}`", bound(6), probes=PROBES)
