"""Conversion tables as machine code on slices of counts (bit_slices.py): decision diagrams of multiplexers.

A program reads the binary digits of a count and stores functions of it, 0 or 1 per window. Constants and functions
that are a digit of the count need no code: they are read where they lie. Slots of a conversion, one slice each: the
constants ZERO and ONE, the digits from COUNT on, then from NODES on what the program stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba.core import config

from golden_model.engines.bit_slices import BYTES, VECTORS, three_input_logic

ZERO, ONE, COUNT, NODES = 0, 1, 2, 10

#: 0 or 1 for every count 0, 1, ...; None or no entry where the count does not occur.
Function = tuple[int | None, ...]

_LOW, _HIGH = "zeroinitializer", "splat (i64 -1)"
_TERNARY = "@llvm.x86.avx512.pternlog.q.512"


class _Diagram:
    """LLVM text that computes functions of a count of `digits` digits, in one vector of the slices."""

    def __init__(self, lines: list[str], digits: int, vector: int) -> None:
        self.lines = lines
        self.digits = digits
        self.vector = vector
        self._known: dict[Function, str] = {}
        self._loaded: dict[str, int] = {}

    def store(self, function: Function, free: int) -> int:
        """Slot that holds the function; `free` if it has to be stored there."""
        value = self._value(function + (None,) * ((1 << self.digits) - len(function)))
        if value in (_LOW, _HIGH):
            return ONE if value == _HIGH else ZERO
        if value in self._loaded:
            return self._loaded[value]
        self.lines.append(f"store <8 x i64> {value}, ptr {self._address(free)}, align 64")
        return free

    def _value(self, table: Function) -> str:
        """What holds a function of the lowest digits, 2**digits entries."""
        given = {x for x in table if x is not None}
        if len(given) <= 1:
            return _HIGH if given == {1} else _LOW
        if table not in self._known:
            half = len(table) // 2
            pairs = list(zip(table[:half], table[half:], strict=True))
            if all(None in pair or pair[0] == pair[1] for pair in pairs):  # the highest digit does not matter
                made = self._value(tuple(low if high is None else high for low, high in pairs))
            else:
                made = self._select(self._digit(half.bit_length() - 1), *map(self._value, (table[half:], table[:half])))
            self._known[table] = made
        return self._known[table]

    def _digit(self, digit: int) -> str:
        slot = COUNT + digit
        if slot not in self._loaded.values():
            self._loaded[self._emit(f"load <8 x i64>, ptr {self._address(slot)}, align 64")] = slot
        return next(value for value, held in self._loaded.items() if held == slot)

    def _address(self, slot: int) -> str:
        return self._emit(f"getelementptr i8, ptr %base, i64 {slot * BYTES + 64 * self.vector}")

    def _emit(self, text: str) -> str:
        name = f"%x{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name

    def _both(self, operation: str, a: str, b: str) -> str:
        return self._emit(f"{operation} <8 x i64> {a}, {b}")

    def _select(self, choose: str, yes: str, no: str) -> str:
        if yes == no or (yes, no) == (_HIGH, _LOW):
            return yes if yes == no else choose
        if no == _LOW:
            return self._both("and", choose, yes)
        if yes == _HIGH:
            return self._both("or", choose, no)
        if yes == _LOW or no == _HIGH:
            inverse = self._both("xor", choose, _HIGH)
            if (yes, no) == (_LOW, _HIGH):
                return inverse
            return self._both("and", inverse, no) if yes == _LOW else self._both("or", inverse, yes)
        if three_input_logic():
            operands = ", ".join(f"<8 x i64> {x}" for x in (choose, yes, no))
            return self._emit(f"call <8 x i64> {_TERNARY}({operands}, i32 202)")
        return self._both("xor", no, self._both("and", choose, self._both("xor", yes, no)))


@dataclass(frozen=True, eq=False)
class Compiled:
    """Programs as machine code, which lives as long as this.

    addresses : int64 (programs,), for `bit_slices.call_program`. slots : int64 (programs, functions), where a program
    leaves its functions. area : slots of one conversion.
    """

    addresses: np.ndarray
    slots: np.ndarray
    area: int
    engine: Any


@lru_cache(maxsize=1024)  # layers often share settings
def compile_programs(programs: Sequence[tuple[int, tuple[Function, ...]]]) -> Compiled:
    """Programs, each from the digits of its count and as many functions as the others; takes milliseconds each."""
    lines, slots, area = [], [], NODES
    if three_input_logic():
        lines.append(f"declare <8 x i64> {_TERNARY}(<8 x i64>, <8 x i64>, <8 x i64>, i32)")
    for index, (digits, functions) in enumerate(programs):
        lines.append(f"define void @program_{index}(ptr %base) {{")
        for vector in range(VECTORS):
            diagram, placed, free = _Diagram(lines, digits, vector), [], NODES
            for function in functions:
                placed.append(diagram.store(function, free))
                free += placed[-1] == free
        lines += ["ret void", "}"]
        slots.append(placed)
        area = max(area, free)
    settings: Any = config
    features = llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=settings.CPU_NAME or llvm.get_host_cpu_name(),
        features=features if settings.CPU_FEATURES is None else settings.CPU_FEATURES,
        opt=1,
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly("\n".join(lines)), machine)
    engine.finalize_object()
    addresses = [engine.get_function_address(f"program_{index}") for index in range(len(programs))]
    return Compiled(np.array(addresses, dtype=np.int64), np.array(slots, dtype=np.int64), area, engine)
