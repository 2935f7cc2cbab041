"""Bits of words inside compiled loops, which need numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from golden_model.compiled import njit


def _ones_of(typingctx: Any, word: Any) -> Any:
    """How many bits of a 64-bit word are 1."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


ones_of: Any = intrinsic(_ones_of)


@njit
def put_bits(value, place, words):
    """Set bit `place` of the words words[i] (W,) for every bit i of an integer `value` that is 1."""
    bit, word = np.uint64(1) << np.uint64(place & 63), place >> 6
    i = 0
    while value:
        if value & 1:
            words[i, word] |= bit
        value >>= 1
        i += 1
