"""Activation levels with few ones: every 1 of an activation streams a word line (*ours*; docs/pair-machine.md).

An option of the post-processing: after the clamp (and before pooling, which does not matter for a maximum because
rounding never falls) an unsigned value becomes the nearest level with at most `ones` ones. A value half-way between two
levels becomes the larger one. There is no level above the largest one within the width.

In hardware: with L the value's `ones` leading 1s, the lowest of them at place q, a value with more 1s becomes L if its
bit q - 1 is 0, L + 2**q if it is 1, and L where that sum would not fit the width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from golden_model.optional import array_library


def levels(bits: int, ones: int) -> np.ndarray:
    """Unsigned values of `bits` bits with at most `ones` ones, ascending, int64. ValueError unless both are in 1..8."""
    for name, value in (("bits", bits), ("ones", ones)):
        if not 1 <= value <= 8:
            raise ValueError(f"few ones: {name} must be in 1..8, got {value}")
    values = np.arange(1 << bits)
    return values[[value.bit_count() <= ones for value in values.tolist()]]


def nearest_of_all(bits: int, ones: int) -> np.ndarray:
    """The nearest level of every unsigned value of `bits` bits, ties to the larger one, int64 (2**bits,)."""
    allowed = levels(bits, ones)
    middles = (allowed[:-1] + allowed[1:] + 1) >> 1  # the smallest integer that is not nearer to the lower level
    return allowed[np.searchsorted(middles, np.arange(1 << bits), side="right")]


def nearest_level(values: Any, bits: int, ones: int) -> Any:
    """The nearest level of unsigned integers below 2**bits; `values` themselves if `ones` is 0, which allows any.

    values : array, or tensor, of any shape and type. Returns the same kind of array.
    """
    if not ones:
        return values
    xp = array_library(values)
    table = xp.asarray(nearest_of_all(bits, ones), dtype=values.dtype, device=values.device)
    return table[xp.asarray(values, dtype=xp.int64)]
