"""Compiled loop of gathered.py, which needs numba: every operation unit that is formed, every lane (system.md §13)."""

from __future__ import annotations

from typing import Any

import numpy as np

from golden_model.compiled import njit as _njit
from golden_model.crossbar.ones import ones_of, put_bits


@_njit
def _spend(
    x, positions, rows, first_row, segments, first_segment, lines, cells, first_lane, ou_rows, shortest, tables,
    ou_activations, scans, gathered_rows, lock_step, decoupled, counts,
):  # fmt: skip
    windows, settings, size = len(x), len(tables), cells.shape[1]
    words = np.zeros((8, size), dtype=np.uint64)
    taken = np.zeros(size, dtype=np.uint64)
    lanes_most = np.max(first_lane[1:] - first_lane[:-1]) if len(first_lane) > 1 else 0
    lane_counts = np.zeros(lanes_most, dtype=np.int64)
    lane_spent = np.zeros((settings, lanes_most), dtype=np.int64)
    one = np.uint64(1)
    for w in range(windows):
        for pack in range(len(first_row) - 1):
            streamed = np.int64(0)
            for s in range(first_segment[pack], first_segment[pack + 1]):
                streamed |= positions[w, segments[s]]
            words[:] = 0
            used = np.int64(0)
            begin = first_row[pack]
            for r in range(begin, first_row[pack + 1]):
                value = np.int64(x[w, rows[r]])
                used |= value
                put_bits(value, r - begin, words)
            lanes = first_lane[pack + 1] - first_lane[pack]
            for i in range(8):
                if (streamed >> i) & 1:
                    scans[w] += 1
                    gathered_rows[w] += lines[pack]
                if not (used >> i) & 1:
                    for s in range(settings):
                        lock_step[s, w] += (streamed >> i) & 1
                        decoupled[s, w] += (streamed >> i) & 1
                    continue
                lane_spent[:, :lanes] = 0
                ous = np.int64(0)
                while True:
                    on = np.int64(0)
                    for k in range(size):
                        left, mine = words[i, k], np.uint64(0)
                        while left and on < ou_rows:
                            rest = left & (left - one)
                            mine |= left ^ rest
                            left = rest
                            on += 1
                        words[i, k], taken[k] = left, mine
                    if not on:
                        break
                    ous += 1
                    for lane in range(lanes):
                        count = np.int64(0)
                        for k in range(size):
                            count += np.int64(ones_of(taken[k] & cells[first_lane[pack] + lane, k]))
                        lane_counts[lane] = count
                        counts[on, count] += 1
                    for s in range(settings):
                        most = shortest
                        for lane in range(lanes):
                            spent = np.int64(tables[s, on, lane_counts[lane]])
                            lane_spent[s, lane] += spent
                            most = max(most, spent)
                        lock_step[s, w] += most
                ou_activations[w] += ous
                gathered_rows[w] += ous * lines[pack]
                for s in range(settings):
                    slowest = ous * shortest
                    for lane in range(lanes):
                        slowest = max(slowest, lane_spent[s, lane])
                    decoupled[s, w] += slowest


def spend(flat: Any, x: np.ndarray, positions: np.ndarray, ou_rows: int, shortest: int, tables: Any, made: Any) -> None:
    """Fill `made` (gathered.Spent, zeros) for q'' of windows.

    flat : gathered.Flat. x : uint8 (P, segments * ou_rows). positions : int64 (P, segments), bit i says whether input
    bit i is streamed. tables : int64 (settings, ou_rows + 1, ou_rows + 1), operations by [rows on, count].
    """
    _spend(
        np.ascontiguousarray(x), np.ascontiguousarray(positions), flat.rows, flat.first_row, flat.segments,
        flat.first_segment, flat.lines, flat.cells, flat.first_lane, ou_rows, shortest, np.ascontiguousarray(tables),
        made.ou_activations, made.scans, made.gathered_rows, made.lock_step, made.decoupled, made.counts,
    )  # fmt: skip
