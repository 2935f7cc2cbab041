"""Search trees of lossless A/D conversion: how a count is found by comparisons (system.md §13).

A tree over the counts 0..n is a tuple of its n thresholds in preorder: node, then the tree of the answer 0 (count
below the threshold), then the tree of the answer 1. Each of 1..n occurs once. Where a walk stands follows from the
interval low..high that is left: it ends when low = high; after threshold t the next node is 1 place further for the
answer 0 and t - low places further for the answer 1. So a stored node is a threshold and nothing else, and a walk
needs an adder, no pointers.

    optimal_tree([90, 6, 3, 1])  # (1, 2, 3): ask c >= 1 first
    depths((1, 2, 3))            # [1, 2, 3, 3] comparisons for c = 0..3
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    return _tree_of_rule(bound, lambda low, high: (low + high + 1) >> 1)


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

    return _tree_of_rule(bound, threshold)


def _tree_of_rule(bound: int, rule: Callable[[int, int], int]) -> Tree:
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


def tree_of_depths(levels: Sequence[int]) -> Tree:
    """The tree whose count c takes levels[c] comparisons; ValueError if there is none."""
    tree: list[int] = []
    place = 0

    def build(depth: int) -> None:
        nonlocal place
        if place >= len(levels) or levels[place] < depth:
            raise ValueError(f"no search tree has the depths {tuple(levels)}")
        if levels[place] == depth:
            place += 1
            return
        node = len(tree)
        tree.append(0)
        build(depth + 1)
        tree[node] = place
        build(depth + 1)

    build(0)
    if place != len(levels):
        raise ValueError(f"no search tree has the depths {tuple(levels)}")
    return tuple(tree)


def optimal_tree(weights: Any, *, max_depth: int | None = None) -> Tree:
    """The tree with the fewest expected comparisons for counts that occur `weights` often.

    weights : (n + 1,) integers of at least 0. Among the best trees one is taken with the fewest comparisons summed
        over all counts, so that a count that was never seen stays near the top.
    max_depth : most comparisons of any count, at least ceil(log2(n + 1)); None for no limit. A limit trades
        operations for clocks where lanes wait for each other.

    Exact: Garsia and Wachs' algorithm without a limit, dynamic programming with one.
    """
    values = np.asarray(weights)
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "iu":
        raise TypeError(f"weights must be a row of integers, got dtype {values.dtype}, shape {values.shape}")
    if values.min() < 0:
        raise ValueError(f"weights must be at least 0, got {int(values.min())}")
    unit = len(values) ** 2  # above any sum of depths
    scaled = [int(w) * unit + 1 for w in values]
    if max_depth is None:
        return tree_of_depths(_garsia_wachs(scaled))
    if 1 << max(0, max_depth) < len(values):
        raise ValueError(f"max_depth {max_depth} is too small for {len(values)} counts")
    return _limited(scaled, max_depth)


def _garsia_wachs(weights: list[int]) -> list[int]:
    """Depths of the leaves of an optimal alphabetic tree."""
    if len(weights) == 1:
        return [0]
    work: list[tuple[int, Any]] = [(w, leaf) for leaf, w in enumerate(weights)]
    while len(work) > 1:
        last = len(work) - 1
        # The first neighbours a, b whose right neighbour is not lighter than a; beyond the end is infinity.
        at = next(i for i in range(1, last + 1) if i == last or work[i - 1][0] <= work[i + 1][0])
        total = work[at - 1][0] + work[at][0]
        node = (work[at - 1][1], work[at][1])
        del work[at - 1 : at + 1]
        place = at - 1
        while place > 0 and work[place - 1][0] < total:
            place -= 1
        work.insert(place, (total, node))
    levels = [0] * len(weights)
    stack = [(work[0][1], 0)]
    while stack:
        node, depth = stack.pop()
        if isinstance(node, tuple):
            stack += [(node[0], depth + 1), (node[1], depth + 1)]
        else:
            levels[node] = depth
    return levels


def _limited(weights: list[int], max_depth: int) -> Tree:
    """Optimal alphabetic tree of at most max_depth levels; cost[d][i][j] = least for leaves i..j in d levels."""
    n = len(weights)
    infinite = 1 << 200
    total = [0]
    for w in weights:
        total.append(total[-1] + w)
    cost = np.full((n, n), infinite, dtype=object)
    cost[np.arange(n), np.arange(n)] = 0
    splits = []
    for _ in range(max_depth):
        deeper, split = cost.copy(), np.zeros((n, n), dtype=np.int64)
        for first in range(n):
            for end in range(first + 1, n):
                both = cost[first, first:end] + cost[first + 1 : end + 1, end]
                best = int(np.argmin(both))
                if both[best] < infinite:
                    deeper[first, end] = both[best] + total[end + 1] - total[first]
                    split[first, end] = first + 1 + best
        cost = deeper
        splits.append(split)
    tree: list[int] = []
    stack = [(0, n - 1, max_depth)]
    while stack:
        low, high, left = stack.pop()
        if low < high:
            threshold = int(splits[left - 1][low, high])
            tree.append(threshold)
            stack += [(threshold, high, left - 1), (low, threshold - 1, left - 1)]
    return tuple(tree)


def operations(tree: Tree, weights: Any) -> int:
    """Comparisons for counts 0..len(tree) that occur `weights` often; exact."""
    return int(np.asarray(weights, dtype=np.int64) @ depths(tree))


def entropy(counts: Any) -> float:
    """sum over rows of counts of (total of the row) * (entropy of the row) in bits; a row is the last axis.

    For integers counts (..., outcomes). The fewest comparisons that any search can take for so many conversions, if
    it knows the row of each: Shannon's bound. Divide by counts.sum() for bits per conversion.
    """
    values = np.asarray(counts, dtype=np.float64)
    totals = values.sum(axis=-1, keepdims=True)
    share = np.divide(values, totals, out=np.ones_like(values), where=values > 0)
    return float(-(values * np.log2(share)).sum())
