"""Few-ones rounding: an activation becomes the nearest level with few ones."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig, bits_for


class FewOnes(wiring.Component):
    """The nearest of all values with at most `ones` 1s, and at most `limit`; of two equally near, the larger one.

    A value with more 1s lies between L, its leading `ones` 1s, and L + 2**q, q the place of the lowest of them. Bit
    q - 1 decides. Where L + 2**q is above the limit, L is the largest level there is.

    Combinational.

    Parameters
    ----------
    config : sizes; a value has config.input_bits bits.

    Members
    -------
    value : at most `limit`. limit : 2**bits - 1 of the encoding, 1 <= bits <= input_bits.
    ones : 1..input_bits; input_bits changes nothing.
    level : the result.
    """

    def __init__(self, config: HardwareConfig):
        self.config = config
        bits = config.input_bits
        super().__init__(
            {
                "value": In(unsigned(bits)),
                "limit": In(unsigned(bits)),
                "ones": In(unsigned(bits_for(bits))),
                "level": Out(unsigned(bits)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        bits = self.config.input_bits
        allowed = Cat(self.ones > i for i in range(bits))  # as many 1s as `ones`, at the low end
        leading, last, up = Signal(bits), Signal(bits), Signal()
        left = allowed
        for i in reversed(range(bits)):
            # `left` has a 1 for every further 1 that may be kept.
            kept = Signal(bits, name=f"left{i}")
            m.d.comb += [
                leading[i].eq(self.value[i] & left[0]),
                last[i].eq(leading[i] & ~left[1:2].any()),
                kept.eq(Mux(self.value[i], left >> 1, left)),
            ]
            left = kept
        rounded = Signal(bits + 1)
        m.d.comb += [
            up.eq((last & (self.value << 1)).any()),
            rounded.eq(leading + Mux(up, last, 0)),
            self.level.eq(Mux(rounded > self.limit, leading, rounded)),
        ]
        return m
