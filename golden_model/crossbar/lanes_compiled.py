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


@_njit
def _spend_patterns(words, lane, bounds, first, begin, end, table, shortest, operations, clocks):
    counts = len(table)
    flat = table.reshape(-1)
    for pattern in range(len(operations)):
        low = np.uint64(pattern)
        rows = np.int64(ones_of(low))
        for ou in range(begin, end):
            most = np.int64(0)
            for column in range(first[ou], first[ou + 1]):
                bound = min(rows, np.int64(bounds[column]))
                count = np.int64(ones_of(low & words[column, 0]))
                spent = np.int64(flat[bound * counts + count])
                operations[pattern, lane[column]] += spent
                most = max(most, spent)
            clocks[pattern] += max(most, shortest)


def spend_patterns(cells: Any, segment: int, rows: int, lanes: int, shortest: int) -> Any:
    """Operations int32 (2**rows, lanes) and lock-step clocks int32 (2**rows,) of all slices of a segment."""
    operations, clocks = np.zeros((1 << rows, lanes), dtype=np.int32), np.zeros(1 << rows, dtype=np.int32)
    _spend_patterns(
        np.ascontiguousarray(cells.words), cells.lane, cells.bounds, cells.first, cells.start[segment],
        cells.start[segment + 1], np.ascontiguousarray(cells.operations), shortest, operations, clocks,
    )  # fmt: skip
    return operations, clocks


@_njit
def _add_joint_counts(slices, cells, u, counts):
    size = slices.shape[1]
    for x in range(len(slices)):
        low = slices[x, 0]
        high = slices[x, size - 1] if size > 1 else np.uint64(0)
        mine = counts[np.int64(ones_of(low) + ones_of(high))]
        for column in range(len(cells)):
            count = ones_of(low & cells[column, 0])
            if size > 1:
                count += ones_of(high & cells[column, 1])
            mine[u[column], count] += 1


def add_joint_counts(slices: np.ndarray, cells: np.ndarray, u: np.ndarray, counts: np.ndarray) -> None:
    """Add conversions of slices uint64 (n, W) by columns uint64 (columns, W) to counts[k, u, count]; W is 1 or 2."""
    _add_joint_counts(np.ascontiguousarray(slices), np.ascontiguousarray(cells), u.astype(np.int64), counts)
