"""Dynamic activation precision per group of word lines (after ReDy; system.md §6).

The statistic that decides how many low bits to drop is *ours*; the paper's public text leaves it open.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import DynamicPrecision


@dataclass(frozen=True, eq=False)
class Precision:
    """Decisions of the dynamic-precision unit for P windows of K rows in G groups.

    hi : (P, G) int64, position of the leading one of the group's largest activation; -1 when all are 0.
    lo : (P, G) int64, number of low bits dropped.
    bits : (P, G) int64, streamed bits s = hi - lo + 1; 0 for an all-zero group.
    streamed : (P, K) int64, q'' = q' << lo; its bits lo..hi are the ones that are streamed.
    """

    hi: np.ndarray
    lo: np.ndarray
    bits: np.ndarray
    streamed: np.ndarray


def check(redy: DynamicPrecision) -> None:
    """Raise ValueError unless l_max is in 0..7 and tau_sq in 0..65535, TypeError unless they are integers."""
    for name, top in (("l_max", 7), ("tau_sq", 65535)):
        value = getattr(redy, name)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"DynamicPrecision.{name} must be an integer, got {value!r}")
        if not 0 <= value <= top:
            raise ValueError(f"DynamicPrecision.{name} must be in 0..{top}, got {value}")


def bit_length(x: np.ndarray) -> np.ndarray:
    """Bit length of non-negative integers below 2**52, exactly; shape and int64 of x."""
    return np.frexp(np.asarray(x, dtype=np.float64))[1].astype(np.int64)


def precision(activations: np.ndarray, hardware: HardwareConfig, redy: DynamicPrecision) -> Precision:
    """Choose every group's precision and round its activations (system.md §6).

    A group is `segments_per_group` consecutive segments of ou_rows rows; n counts its valid rows.
    lo is the largest 1 <= l <= min(l_max, hi) with n**2 << (2 l + 12) <= tau_sq (n sum q**2 - (sum q)**2),
    else 0; q' = min(round_half_up_shift(q, lo), 2**(hi - lo + 1) - 1).

    Parameters
    ----------
    activations : (P, K) unsigned integers below 2**input_bits.
    """
    check(redy)
    q = np.asarray(activations, dtype=np.int64)
    windows, k = q.shape
    rows = hardware.ou_rows * hardware.segments_per_group
    starts = np.arange(0, k, rows)
    n = np.minimum(k - starts, rows)  # valid rows of every group
    if windows == 0:
        empty = np.zeros((0, len(starts)), dtype=np.int64)
        return Precision(empty - 1, empty, empty, q)
    largest = np.maximum.reduceat(q, starts, axis=1)
    total = np.add.reduceat(q, starts, axis=1)
    squares = np.add.reduceat(q * q, starts, axis=1)
    hi = bit_length(largest) - 1
    spread = redy.tau_sq * (n * squares - total * total)
    lo = np.zeros_like(hi)
    for low in range(1, redy.l_max + 1):
        allowed = (n * n << (2 * low + 12)) <= spread
        lo = np.where(allowed & (low <= hi), low, lo)
    lo_rows, hi_rows = np.repeat(lo, n, axis=1), np.repeat(hi, n, axis=1)
    rounded = (q + (np.int64(1) << lo_rows >> 1)) >> lo_rows  # round_half_up_shift, one shift per group
    top = (np.int64(1) << np.maximum(hi_rows - lo_rows + 1, 0)) - 1
    bits = np.where(hi < 0, 0, hi - lo + 1)
    return Precision(hi, lo, bits, np.minimum(rounded, top) << lo_rows)
