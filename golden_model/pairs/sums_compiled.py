"""Sums of gathered operation units whose conversion loses something, as a compiled loop, which needs numba."""

from __future__ import annotations

import numpy as np

from golden_model.compiled import njit as _njit
from golden_model.pairs.gather_compiled import difference, flatten, latch, take_ones
from golden_model.pairs.packs import Packing
from golden_model.pairs.search import Search


@_njit
def _converted(
    x, positions, bits, ou_rows, segments, first_segment, first_mask, mask_words, first_group, plane, first_column,
    output, positive, negative, value, sums,
):  # fmt: skip
    packs, size = len(segments), mask_words.shape[1]
    words = np.zeros((packs, 8, size), dtype=np.uint64)
    left = np.zeros(size, dtype=np.uint64)
    taken = np.zeros(size, dtype=np.uint64)
    streamed = np.zeros(packs, dtype=np.int64)
    for w in range(len(x)):
        latch(x[w], positions[w], first_segment, segments, ou_rows, words, streamed)
        for p in range(packs):
            for i in range(bits):
                if not (streamed[p] >> i) & 1:
                    continue
                for mask in range(first_mask[p], first_mask[p + 1]):
                    for k in range(size):
                        left[k] = words[p, i, k] & mask_words[mask, k]
                    while True:
                        on = take_ones(left, ou_rows, taken)
                        if not on:
                            break
                        for g in range(first_group[mask], first_group[mask + 1]):
                            for c in range(first_column[g], first_column[g + 1]):
                                found = ou_rows + difference(taken, positive[c], negative[c])
                                sums[w, output[c]] += value[on, found] << (i + plane[g])


def converted(packing: Packing, activations: np.ndarray, search: Search) -> np.ndarray:
    """Sums int64 (P, N) of windows (P, K): exactly those of `gather.matmul` with one search of differences."""
    x, mask = packing.streams(activations)
    bits, flat = packing.prepared.bits, flatten(packing)
    positions = mask.astype(np.int64) @ (1 << np.arange(bits))
    plane = [group.plane for pack in packing.packs for mask in pack.masks for group in mask.groups]
    sums = np.zeros((len(x), packing.prepared.outputs), dtype=np.int64)
    _converted(
        np.ascontiguousarray(x.reshape(len(x), -1)), positions, bits, packing.hardware.ou_rows, flat.segments,
        flat.first_segment, flat.first_mask, flat.mask_words, flat.first_group, np.array(plane, dtype=np.int64),
        flat.first_column, flat.output, flat.positive, flat.negative, search.value, sums,
    )  # fmt: skip
    return sums
