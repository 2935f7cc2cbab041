"""Counting ones, as a balanced tree of adders."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Value


def bit_count(value: Any) -> Value:
    """Number of ones of `value` as an unsigned expression."""
    terms: list[Any] = list(Value.cast(value).as_unsigned())
    while len(terms) > 1:
        pairs = [terms[i] + terms[i + 1] for i in range(0, len(terms) - 1, 2)]
        terms = pairs + terms[len(pairs) * 2 :]
    return terms[0]
