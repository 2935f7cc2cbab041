"""Search trees of lossless A/D conversion: how a count is found by comparisons (system.md §13).

A tree over the counts 0..n is a tuple of its n thresholds in preorder: node, then the tree of the answer 0 (count
below the threshold), then the tree of the answer 1. Each of 1..n occurs once. Where a walk stands follows from the
interval low..high that is left: it ends when low = high; after threshold t the next node is 1 place further for the
answer 0 and t - low places further for the answer 1. So a stored node is a threshold and nothing else, and a walk
needs an adder, no pointers.

    depths((1, 2, 3))            # [1, 2, 3, 3] comparisons for c = 0..3
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

#: Thresholds in preorder; over the counts 0..len(tree).
Tree = tuple[int, ...]


def check_tree(tree: Any, where: str = "tree") -> None:
    """ValueError or TypeError unless `tree` holds the thresholds of a search tree in preorder."""
    if not isinstance(tree, tuple) or any(isinstance(t, bool) or not isinstance(t, int) for t in tree):
        raise TypeError(f"{where} must be a tuple of integers, got {tree!r}")
    if sorted(tree) != list(range(1, len(tree) + 1)):
        raise ValueError(f"{where} must hold every threshold 1..{len(tree)} once, got {tree}")
    intervals = [(0, len(tree))]
    for threshold in tree:
        low, high = intervals.pop()
        while low == high:
            low, high = intervals.pop()
        if not low < threshold <= high:
            raise ValueError(
                f"{where} is not in preorder: threshold {threshold} cannot split the counts {low}..{high}, got {tree}"
            )
        intervals += [(threshold, high), (low, threshold - 1)]


@lru_cache(maxsize=65536)
def depths(tree: Tree) -> np.ndarray:
    """Comparisons for every count 0..len(tree): int64 (len(tree) + 1,), read only."""
    found = np.zeros(len(tree) + 1, dtype=np.int64)
    intervals = [(0, len(tree), 0)]
    for threshold in tree:
        low, high, depth = intervals.pop()
        while low == high:
            low, high, depth = intervals.pop()
        found[low : high + 1] = depth + 1
        intervals += [(threshold, high, depth + 1), (low, threshold - 1, depth + 1)]
    found.setflags(write=False)
    return found


@lru_cache(maxsize=256)
def bounded_tree(bound: int) -> Tree:
    """Binary search of 0..bound: t = (low + high + 1) >> 1; answer 0: high = t - 1, answer 1: low = t (§13.1)."""
    return tree_of_rule(bound, lambda low, high: (low + high + 1) >> 1)


@lru_cache(maxsize=256)
def low_first_tree(bound: int) -> Tree:
    """The search of 0..bound of the fewest levels whose longest paths lead to the highest counts.

    High counts are rare, so the slowest of many lanes mostly takes a short path, which plain binary search does not
    see to. Nothing has to be stored: of n counts that are left, in d = ceil(log2 n) levels, the lowest
    max(2**(d - 2), n - 2**(d - 1)) go below the threshold.
    """

    def threshold(low: int, high: int) -> int:
        counts = high - low + 1
        slots = 1 << (counts - 1).bit_length()
        return low + max(slots >> 2, counts - (slots >> 1))

    return tree_of_rule(bound, threshold)


def tree_of_rule(bound: int, rule: Callable[[int, int], int]) -> Tree:
    """The search of 0..bound whose threshold among the counts low..high, low < high, is rule(low, high)."""
    if bound < 0:
        raise ValueError(f"bound must be at least 0, got {bound}")
    tree, intervals = [], [(0, bound)]
    while intervals:
        low, high = intervals.pop()
        if low < high:
            threshold = rule(low, high)
            tree.append(threshold)
            intervals += [(threshold, high), (low, threshold - 1)]
    return tuple(tree)


def entropy(counts: Any) -> float:
    """sum over rows of counts of (total of the row) * (entropy of the row) in bits; a row is the last axis.

    For integers counts (..., outcomes). The fewest comparisons that any search can take for so many conversions, if
    it knows the row of each: Shannon's bound. Divide by counts.sum() for bits per conversion.
    """
    values = np.asarray(counts, dtype=np.float64)
    totals = values.sum(axis=-1, keepdims=True)
    share = np.divide(values, totals, out=np.ones_like(values), where=values > 0)
    return float(-(values * np.log2(share)).sum())
