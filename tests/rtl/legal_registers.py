"""Enumerations of register settings for the tests."""

from __future__ import annotations

from collections.abc import Iterator

from golden_model.config import bits_for
from golden_model.trq import AdcRegisters


def every_setting(adc_bits: int) -> Iterator[AdcRegisters]:
    """Every content of the hardware's register fields, legal or not."""
    field = range(1 << bits_for(adc_bits))
    for mode in ("uniform", "twin"):
        for n_r2 in field:
            for n_r1 in field:
                for m in field:
                    for bias in range(1 << adc_bits):
                        yield AdcRegisters(mode=mode, n_r2=n_r2, n_r1=n_r1, m=m, bias=bias)


def is_legal(registers: AdcRegisters, adc_bits: int) -> bool:
    try:
        registers.check(adc_bits)
    except ValueError:
        return False
    return True


def every_legal_setting(adc_bits: int) -> list[AdcRegisters]:
    """All settings that system.md §4.1 allows."""
    return [r for r in every_setting(adc_bits) if is_legal(r, adc_bits)]


def fields(registers: AdcRegisters) -> dict[str, int]:
    """As the hardware's register record takes them."""
    return {
        "mode": int(registers.mode == "twin"),
        "n_r1": registers.n_r1,
        "n_r2": registers.n_r2,
        "m": registers.m,
        "bias": registers.bias,
    }
