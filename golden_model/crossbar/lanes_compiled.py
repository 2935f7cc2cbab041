"""Compiled loop of lanes.py, which needs numba; population counts of words."""

from __future__ import annotations

from typing import Any

import numpy as np

from golden_model.compiled import njit as _njit
from golden_model.crossbar.ones import ones_of


@_njit
def _spend(
    slices, active, words, lane, bounds, first, start, table, lanes, shortest, operations, lock_step, decoupled,
):  # fmt: skip
    segments, bits, windows, size = slices.shape
    counts = len(table)
    flat = table.reshape(-1)
    totals = np.zeros(lanes, dtype=np.int64)
    for s in range(segments):
        if start[s] == start[s + 1]:
            continue
        for w in range(windows):
            totals[:] = 0
            clocks = ous = np.int64(0)
            for i in range(bits):
                if not active[w, s, i]:
                    continue
                low = slices[s, i, w, 0]
                high = slices[s, i, w, size - 1] if size > 1 else np.uint64(0)
                rows = np.int64(ones_of(low) + ones_of(high))
                for ou in range(start[s], start[s + 1]):
                    most = np.int64(0)
                    for column in range(first[ou], first[ou + 1]):
                        count = ones_of(low & words[column, 0])
                        if size > 1:
                            count += ones_of(high & words[column, 1])
                        bound = min(rows, np.int64(bounds[column]))
                        spent = np.int64(flat[bound * counts + np.int64(count)])
                        totals[lane[column]] += spent
                        most = max(most, spent)
                    clocks += max(most, shortest)
                    ous += 1
            lock_step[w, s] = clocks
            slowest = np.int64(0)
            for one in totals:
                operations[w] += one
                slowest = max(slowest, one)
            decoupled[w, s] = max(slowest, ous * shortest)


def spend(cells: Any, slices: np.ndarray, active: np.ndarray, lanes: int, shortest: int, spent: Any) -> None:
    """Fill `spent` (lanes.Spent, zeros) for slices uint64 (segments, bits, P, W) and active bool (P, segments, bits).

    cells : lanes.Cells; W is 1 or 2.
    """
    _spend(
        np.ascontiguousarray(slices), np.ascontiguousarray(active), np.ascontiguousarray(cells.words), cells.lane,
        cells.bounds, cells.first, cells.start, np.ascontiguousarray(cells.operations), lanes, shortest,
        spent.operations, spent.lock_step, spent.decoupled,
    )  # fmt: skip
