"""Which search tree of lossless A/D conversion is the cheapest (system.md §13); what a tree is: golden_model/trees.py.

optimal_tree([90, 6, 3, 1])  # (1, 2, 3): ask c >= 1 first
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from golden_model.trees import Tree, depths


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
