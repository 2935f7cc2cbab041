"""One A/D setting per bit class of a layer (*ours*).

A class (i, b) is all conversions of input bit i and weight plane b. An error of a class weighs 2**(i + b), so low
classes can do with coarse converters. All classes of a layer share lambda and n_r2 + m, because their values add up in
one unit, Delta_R1 (system.md §4.2). Golden model only: the hardware has one setting per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from golden_model import trq
from golden_model.config import HardwareConfig
from golden_model.trq import AdcRegisters


@dataclass(frozen=True)
class ClassRegisters(Mapping[tuple[int, int], AdcRegisters]):
    """Registers by class (i, b), for every input bit and weight plane of the machine.

    table : [input bit][weight plane].

    Raises TypeError or ValueError for a table that is empty or ragged, holds anything else, or whose settings do not
    share n_r2 + m.
    """

    table: tuple[tuple[AdcRegisters, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", tuple(map(tuple, self.table)))
        if not self.table or not self.table[0] or len({len(row) for row in self.table}) > 1:
            raise ValueError("ClassRegisters.table must have a row per input bit and an entry per weight plane")
        for (i, b), one in self.items():
            if not isinstance(one, AdcRegisters):
                raise TypeError(f"ClassRegisters.table[{i}][{b}] must be AdcRegisters, got {one!r}")
        widths = sorted({range_bits(one) for one in self.settings})
        if len(widths) > 1:
            raise ValueError(f"ClassRegisters: all classes of a layer must share n_r2 + m, got {widths}")

    @classmethod
    def of(cls, setting: Callable[[int, int], AdcRegisters], hardware: HardwareConfig) -> ClassRegisters:
        """From a function of (i, b)."""
        return cls(tuple(tuple(setting(i, b) for b in range(hardware.weight_bits)) for i in range(hardware.input_bits)))

    def __getitem__(self, key: tuple[int, int]) -> AdcRegisters:
        i, b = key
        if not (0 <= i < len(self.table) and 0 <= b < len(self.table[0])):
            raise KeyError(key)
        return self.table[i][b]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((i, b) for i in range(len(self.table)) for b in range(len(self.table[0])))

    def __len__(self) -> int:
        return len(self.table) * len(self.table[0])

    @property
    def settings(self) -> tuple[AdcRegisters, ...]:
        """The different settings, in order of their first class."""
        return tuple(dict.fromkeys(self.values()))

    def check(self, adc_bits: int) -> None:
        """As `AdcRegisters.check`, for every class."""
        for (i, b), one in self.items():
            try:
                one.check(adc_bits)
            except (ValueError, TypeError) as error:
                raise type(error)(f"class (input bit {i}, weight plane {b}): {error}") from None

    def check_for(self, registers: AdcRegisters, hardware: HardwareConfig) -> None:
        """ValueError unless legal, for exactly the classes of the machine and in the unit of `registers`."""
        size, wanted = (len(self.table), len(self.table[0])), (hardware.input_bits, hardware.weight_bits)
        if size != wanted:
            raise ValueError(
                f"ClassRegisters must have input_bits x weight_bits = {wanted[0]} x {wanted[1]} classes, "
                f"got {size[0]} x {size[1]}"
            )
        self.check(hardware.adc_bits)
        if range_bits(self) != range_bits(registers):
            raise ValueError(
                f"ClassRegisters must have the n_r2 + m = {range_bits(registers)} of the layer's registers, "
                f"got {range_bits(self)}"
            )


#: What the conversions of a layer may use.
LayerRegisters = AdcRegisters | ClassRegisters


def settings_of(registers: LayerRegisters) -> tuple[AdcRegisters, ...]:
    """The different settings that a layer uses."""
    return registers.settings if isinstance(registers, ClassRegisters) else (registers,)


def range_bits(registers: LayerRegisters) -> int:
    """n_r2 + m: the grid of Delta_R1 has 2**(n_r2 + m) steps."""
    one = settings_of(registers)[0]
    return one.n_r2 + one.m


def lossless(registers: LayerRegisters, hardware: HardwareConfig, min_count: Any = None) -> bool:
    """As `trq.lossless`, for every class."""
    return all(trq.lossless(one, hardware, min_count) for one in settings_of(registers))
