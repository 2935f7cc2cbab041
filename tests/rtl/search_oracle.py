"""Definition of every mode of search, scalar, by the comparisons it makes (system.md §4.3, §13.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from golden_model.trq import AdcRegisters
from rtl.pair_layouts import SearchMode
from tests.rtl import oracle
from tests.rtl.legal_registers import every_legal_setting


@dataclass(frozen=True)
class SearchRegisters:
    """Registers of `SearchSettings`. grid : mode, n_r2, n_r1, m, bias for the F bits of the grid."""

    mode: SearchMode
    signed: bool
    grid: AdcRegisters

    def fields(self, pairs: bool) -> dict[str, int]:
        """As the hardware's register record takes them."""
        values = {name: getattr(self.grid, name) for name in ("n_r1", "n_r2", "m", "bias")}
        return {"mode": self.mode.value} | ({"signed": int(self.signed)} if pairs else {}) | values


def full_bits(adc_bits: int, registers: SearchRegisters) -> int:
    """F, bits of the grid."""
    return adc_bits + registers.signed


def scale(adc_bits: int, registers: SearchRegisters) -> int:
    """log2 of Delta_R1 in LSB."""
    return full_bits(adc_bits, registers) - registers.grid.n_r2 - registers.grid.m


def every_search(adc_bits: int, pairs: bool) -> Iterator[SearchRegisters]:
    """All legal registers."""
    for signed in (False, True) if pairs else (False,):
        bits = adc_bits + signed
        for grid in every_legal_setting(bits):
            if signed and grid.bias:
                continue
            yield SearchRegisters(SearchMode[grid.mode.upper()], signed, grid)
        whole = AdcRegisters(mode="uniform", n_r2=bits)
        yield SearchRegisters(SearchMode.BOUNDED, signed, whole)
        if signed:
            yield SearchRegisters(SearchMode.OUTWARD, True, whole)


def samples(adc_bits: int, registers: SearchRegisters, ones: int) -> range:
    """What can lie on the lane's input with `ones` word lines on; the grid modes take every level of the grid."""
    if registers.mode in (SearchMode.UNIFORM, SearchMode.TWIN):
        return range(-(1 << adc_bits) if registers.signed else 0, 1 << adc_bits)
    return range(-ones if registers.signed else 0, ones + 1)


def search(registers: SearchRegisters, adc_bits: int, ones: int, sample: int) -> tuple[int, int, int]:
    """(value in Delta_R1, range flag, operations) of one sample, by doing every comparison."""
    if registers.mode in (SearchMode.UNIFORM, SearchMode.TWIN):
        if registers.signed:
            return _signed_grid(sample, adc_bits, registers)
        flag, _, value, operations = oracle.convert(sample, adc_bits, registers.grid)
        return value, flag, operations
    if registers.mode == SearchMode.BOUNDED:
        value, operations = _bounded(sample, -ones if registers.signed else 0, ones)
    else:
        value, operations = _outward(sample, ones)
    return value, 1, operations


def _signed_grid(sample: int, adc_bits: int, registers: SearchRegisters) -> tuple[int, int, int]:
    """Nearest point of the fine grid in a window around 0, else of the coarse grid, never above its last point."""
    n_r1, n_r2, m = registers.grid.n_r1, registers.grid.n_r2, registers.grid.m
    fine = scale(adc_bits, registers)

    def nearest(step: int) -> int:
        return math.floor(sample / 2**step + 0.5)

    begin = -(2**n_r1 // 2)
    if registers.mode == SearchMode.TWIN and begin <= nearest(fine) < begin + 2**n_r1:
        return nearest(fine), 0, 2 + n_r1
    value = min(nearest(fine + m), 2 ** (n_r2 - 1) - 1) * 2**m
    return value, 1, n_r2 + (2 if registers.mode == SearchMode.TWIN else 0)


def _bounded(sample: int, low: int, high: int) -> tuple[int, int]:
    operations = 0
    while low < high:
        threshold = (low + high + 1) >> 1
        operations += 1
        if sample >= threshold:
            low = threshold
        else:
            high = threshold - 1
    return low, operations


def _outward(sample: int, ones: int) -> tuple[int, int]:
    """Value by the answers alone: the last threshold that was reached, or one less than the last that was not."""
    value = operations = 0
    if ones and sample >= 1:
        operations, value = 1, 1
        while value < ones:
            operations += 1
            if sample < value + 1:
                break
            value += 1
    elif ones:
        operations, value = 1, 0
        while value > -ones:
            operations += 1
            if sample >= value:
                break
            value -= 1
    return value, operations
