"""Compiled loops of histograms.py, which needs numba; population counts of words."""

from __future__ import annotations

import numpy as np

from golden_model.compiled import njit as _njit
from golden_model.crossbar.ones import ones_of

_COPIES = 4  # histograms side by side, so that equal counts in a row do not wait for each other


@_njit
def _add_counts(slices, cells, plane, counts):
    bits, windows, words = slices.shape
    for i in range(bits):
        for w in range(windows):
            if words == 1:
                low = slices[i, w, 0]
                for column in range(len(cells)):
                    counts[column & 3, i, plane[column], ones_of(low & cells[column, 0])] += 1
            else:
                low, high = slices[i, w, 0], slices[i, w, 1]
                for column in range(len(cells)):
                    count = ones_of(low & cells[column, 0]) + ones_of(high & cells[column, 1])
                    counts[column & 3, i, plane[column], count] += 1


def add_counts(slices: np.ndarray, cells: np.ndarray, plane: np.ndarray, counts: np.ndarray) -> None:
    """Add how often each count occurs to `counts` (input_bits, weight_bits, ou_rows + 1).

    slices : uint64 (bits, P, W). cells : uint64 (columns, W). plane : (columns,). W is 1 or 2.
    """
    copies = np.zeros((_COPIES, *counts.shape), dtype=np.int64)
    _add_counts(np.ascontiguousarray(slices), np.ascontiguousarray(cells), plane.astype(np.int64), copies)
    counts += copies.sum(axis=0)


@_njit
def _add_sums(slices, cells, plane, output, sign, sums):
    bits, windows, words = slices.shape
    for w in range(windows):
        for i in range(bits):
            for column in range(len(cells)):
                count = np.uint64(0)
                for k in range(words):
                    count += ones_of(slices[i, w, k] & cells[column, k])
                sums[w, output[column], count] += sign[column] * (1 << (plane[column] + i))


def add_sums(
    slices: np.ndarray, cells: np.ndarray, plane: np.ndarray, output: np.ndarray, sign: np.ndarray, sums: np.ndarray
) -> None:
    """Add the linear form of one segment to `sums` float64 (P, N, ou_rows + 1); see histograms.py."""
    _add_sums(
        np.ascontiguousarray(slices),
        np.ascontiguousarray(cells),
        plane.astype(np.int64),
        output.astype(np.int64),
        sign.astype(np.int64),
        sums,
    )
