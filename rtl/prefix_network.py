"""Prefix networks: all prefixes of a row of values in logarithmic depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from amaranth.hdl import Module, Shape, Signal


def prefixes(
    m: Module,
    values: Sequence[Any],
    shape: Shape,
    combine: Callable[[Any, Any], Any],
    *,
    begin: int = 1,
    end: int | None = None,
) -> list[Any]:
    """[v0, v0 o v1, v0 o v1 o v2, ...] for an associative `combine`, by Sklansky's network.

    ceil(log2(n)) levels of at most n / 2 operations. shape : of every value and of every result of `combine`.
    begin, end : powers of 2, to cut the network by a register: `values` are the prefixes within blocks of `begin`, the
    result holds those within blocks of `end` (None: of everything).
    """
    found = list(values)
    half = begin
    while half < (len(found) if end is None else end):
        for i in range(len(found)):
            if i & half:
                prefix = Signal(shape, name=f"prefix{half}_{i}")
                m.d.comb += prefix.eq(combine(found[i // half * half - 1], found[i]))
                found[i] = prefix
        half *= 2
    return found
