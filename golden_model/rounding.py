"""The only rounding of the integer path (system.md §3)."""

from __future__ import annotations

from typing import Any

import numpy as np


def round_half_up_shift(x: Any, n: int) -> Any:
    """Divide by 2**n and round halves up: (x + (1 << n >> 1)) >> n, an arithmetic shift, also for negative x.

    Parameters
    ----------
    x : integer, integer array or tensor of any shape; |x| + 2**(n - 1) must fit its type (int64 for a plain integer).
    n : shift in 0..63.

    Returns an array (or scalar) of x's shape.

    Raises
    ------
    TypeError if x is not integer, ValueError if n is out of range.
    """
    if not 0 <= int(n) <= 63:
        raise ValueError(f"round_half_up_shift: n must be in 0..63, got {n}")
    n = int(n)
    half = (1 << n) >> 1
    if isinstance(x, int) or type(x).__module__ == "torch":
        return (x + half) >> n
    x = np.asarray(x)
    if x.dtype.kind not in "iu":
        raise TypeError(f"round_half_up_shift: x must be an integer array, got dtype {x.dtype}")
    if x.dtype == np.uint64 or x.dtype.itemsize < 8:
        x = x.astype(np.int64)
    return (x + half) >> n
