"""Narrowing of partial sums to the accumulator."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Mux, Value

from golden_model.config import HardwareConfig
from rtl.decode_shift_add import needed_bits


def saturate(total: Value, config: HardwareConfig) -> tuple[Any, Any]:
    """(`total` as far as it fits `accumulator_bits`, else the nearest number that does; 1 if it did not fit).

    Without any logic if no layer can need more bits.
    """
    bits = config.accumulator_bits
    if bits >= needed_bits(config):
        return total, Const(0)
    largest = (1 << bits >> 1) - 1
    above, below = total > largest, total < ~largest
    return Mux(above, largest, Mux(below, ~largest, total)), above | below
