"""Requantisation of one value: bias, multiplier, residual, shift, clamp (system.md §3)."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned

from golden_model.config import HardwareConfig
from golden_model.registers import OFFSET_BITS
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.block import Block, In, Out
from rtl.few_ones import FewOnes


class Requantisation(Block):
    """y = clamp(round_half_up_shift(v·M + r·residual_multiplier + offset, S), 0, 2**out_bits - 1).

    v = `value` + `bias`; M is `multiplier`, r is `residual`. On the pair machine the clamp is followed by rounding to
    the nearest level with `out_ones` 1s (rtl/few_ones.py), in a clock of its own. A product is made of two halves of M,
    which are added together with the rest.

    Throughput: a value a clock. Latency: `latency` clocks from `value` to `made`, one from `value` to `logit`.

    Members
    -------
    settings : the step's descriptor, stable while the step runs.
    steps : bit i set = a value is in step i; bit 0 with `value`. The steps that it leaves out hold what they have.
    value, bias, multiplier, residual : of one channel, in the same clock.
    logit : v, saturated to 32 bits. saturated : it was.
    made : y.
    """

    settings: In(layouts.layer_settings)
    steps: In(4)
    value: In(tile.raw_value)
    bias: In(signed(tile.WORD))
    multiplier: In(tile.MULTIPLIER_BITS)
    residual: In(tile.BYTE)
    logit: Out(signed(tile.WORD))
    saturated: Out(1)
    made: Out(lambda config: unsigned(config.input_bits))

    @staticmethod
    def latency(config: HardwareConfig) -> int:
        """Clocks from `value` to `made`."""
        return 4 + config.pairs

    def elaborate(self, platform):
        m = Module()
        config, settings = self.config, self.settings

        # ---- step 0: add the bias
        biased = Signal(signed(max(len(self.value), tile.WORD) + 1))
        multiplier, residual = Signal.like(self.multiplier), Signal.like(self.residual)
        with m.If(self.steps[0]):
            m.d.sync += [
                biased.eq(self.value + self.bias),
                multiplier.eq(self.multiplier),
                residual.eq(self.residual),
            ]

        # ---- step 1: times M, residual times its multiplier; logits are done here
        half = tile.MULTIPLIER_BITS // 2
        low, high = (Signal(signed(len(biased) + half), name=name) for name in ("low", "high"))
        offset, addend = Signal(signed(OFFSET_BITS)), Signal(signed(OFFSET_BITS + 1))
        above = biased[tile.WORD - 1 :]
        fits = ~above.any() | above.all()
        most = (1 << tile.WORD - 1) - 1
        m.d.comb += [
            offset.eq(Cat(settings.offset_low, settings.offset_high)),
            self.logit.eq(Mux(fits, biased[: tile.WORD].as_signed(), Mux(biased < 0, -most - 1, most))),
            self.saturated.eq(~fits),
        ]
        with m.If(self.steps[1]):
            m.d.sync += [
                low.eq(biased * multiplier[:half]),
                high.eq(biased * multiplier[half:]),
                addend.eq(residual * settings.residual_multiplier + offset),
            ]

        # ---- step 2: the whole sum
        total = Signal(signed(max(len(biased) + tile.MULTIPLIER_BITS, len(addend)) + 1))
        with m.If(self.steps[2]):
            m.d.sync += total.eq(low + (high << half) + addend)

        # ---- step 3: shift; one bit more than S drops, for the rounding of step 4
        shifted = Signal(signed(len(total) + 1))
        with m.If(self.steps[3]):
            m.d.sync += shifted.eq(Cat(0, total).as_signed() >> settings.shift)

        # ---- step 4: round, clamp; what is above the clamp's range needs no rounding
        bits = config.input_bits
        rounded, limit, clamped = Signal(bits + 1), Signal(bits), Signal(bits)
        m.d.comb += [
            rounded.eq((shifted[: bits + 1] + 1) >> 1),
            limit.eq(Cat(settings.out_bits > i for i in range(bits))),
        ]
        with m.If(shifted < 0):
            m.d.comb += clamped.eq(0)
        with m.Elif(shifted[bits + 1 :].any() | (rounded > limit)):
            m.d.comb += clamped.eq(limit)
        with m.Else():
            m.d.comb += clamped.eq(rounded)
        if config.pairs:
            self._few_ones(m, clamped, limit)
        else:
            m.d.comb += self.made.eq(clamped)
        return m

    def _few_ones(self, m: Module, clamped: Signal, limit: Signal) -> None:
        """In the next clock, the nearest level of an activation."""
        m.submodules.few_ones = unit = FewOnes(self.config)
        ones = self.settings.out_ones
        m.d.sync += unit.value.eq(clamped)
        m.d.comb += [
            unit.limit.eq(limit),
            unit.ones.eq(Mux(ones == 0, self.config.input_bits, ones)),
            self.made.eq(unit.level),
        ]
