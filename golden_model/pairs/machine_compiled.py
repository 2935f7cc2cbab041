"""Compiled loop of machine.py, which needs numba."""

from __future__ import annotations

import numpy as np

from golden_model.compiled import njit as _njit
from golden_model.pairs.gather_compiled import Flat, difference, flatten, latch, take_ones
from golden_model.pairs.packs import Packing
from golden_model.pairs.search import Search


@_njit
def _half_clocks(
    x, positions, bits, ou_rows, columns, shortest, segments, first_segment, first_mask, mask_words, first_group,
    group_half, first_column, positive, negative, operations, over, converting,
):  # fmt: skip
    packs, size = len(segments), mask_words.shape[1]
    words = np.zeros((packs, 8, size), dtype=np.uint64)
    left = np.zeros(size, dtype=np.uint64)
    taken_rows = np.zeros(size, dtype=np.uint64)
    lanes = np.zeros(columns, dtype=np.int64)
    streamed = np.zeros(packs, dtype=np.int64)
    for w in range(len(x)):
        anywhere = latch(x[w], positions[w], first_segment, segments, ou_rows, words, streamed)
        for half in range(over.shape[1]):
            walker, moved, free, formed, rested = 1, 0, 0, 0, 0
            sampled_before, sampled, complete_before, complete = 0, 0, 0, 0
            lanes[:] = 0
            for i in range(bits - 1, -1, -1):
                if not (anywhere >> i) & 1:
                    continue
                for p in range(packs):
                    walker += 1
                    if not (streamed[p] >> i) & 1:
                        continue
                    for mask in range(first_mask[p], first_mask[p + 1]):
                        mine = False
                        for g in range(first_group[mask], first_group[mask + 1]):
                            mine |= group_half[g] == half
                        if not mine:
                            continue
                        taken = max(walker, moved)
                        walker = taken + 1
                        moved = max(taken + 1, free)
                        formed = moved
                        free = moved + 1
                        for k in range(size):
                            left[k] = words[p, i, k] & mask_words[mask, k]
                        while True:
                            on = take_ones(left, ou_rows, taken_rows)
                            if not on:
                                break
                            formed = max(formed + 1, sampled_before + 1)
                            free = formed
                            start = formed + 1
                            for g in range(first_group[mask], first_group[mask + 1]):
                                if group_half[g] != half:
                                    continue
                                start = max(start, rested, complete_before)
                                rested = start + shortest
                                end = complete + 1
                                for c in range(first_column[g], first_column[g + 1]):
                                    found = ou_rows + difference(taken_rows, positive[c], negative[c])
                                    lane = c - first_column[g]
                                    lanes[lane] = max(lanes[lane], start) + operations[on, found]
                                    end = max(end, lanes[lane])
                                converting[w, half] += end - max(start, complete)
                                complete_before, complete = complete, end
                            sampled_before, sampled = sampled, start
            over[w, half] = max(walker, moved + 1, rested, complete)


def half_clocks(
    packing: Packing, x: np.ndarray, positions: np.ndarray, search: Search, over: np.ndarray, converting: np.ndarray
) -> None:
    """Fill over and converting, (P, halves) zeros, as `machine._half_clocks` returns them.

    x : uint8 (P, segments * ou_rows). positions : int64 (P, segments), bit i says whether input bit i is streamed.
    """
    hardware = packing.hardware
    flat: Flat = flatten(packing)
    _half_clocks(
        np.ascontiguousarray(x), positions, packing.prepared.bits, hardware.ou_rows, hardware.ou_cols,
        max(1, hardware.sample_interval), flat.segments, flat.first_segment, flat.first_mask, flat.mask_words,
        flat.first_group, flat.half, flat.first_column, flat.positive, flat.negative, search.operations,
        over, converting,
    )  # fmt: skip
