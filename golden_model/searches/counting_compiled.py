"""Compiled loops of counting.py, which need numba; population counts of words."""

from __future__ import annotations

from typing import Any

import numpy as np

from golden_model.compiled import njit as _njit
from golden_model.crossbar.ones import ones_of

#: Small tables are kept several times side by side, so that equal counts in a row do not wait for each other.
_COPIES, _SMALL = 4, 1 << 16


@_njit
def _add_counts(slices, slice_class, cells, cell_class, counts):
    last = len(counts) - 1
    for x in range(len(slices)):
        low = slices[x, 0]
        if slices.shape[1] == 1:
            for column in range(len(cells)):
                count = ones_of(low & cells[column, 0])
                counts[column & last, slice_class[x], cell_class[column], count] += 1
        else:
            high = slices[x, 1]
            for column in range(len(cells)):
                count = ones_of(low & cells[column, 0]) + ones_of(high & cells[column, 1])
                counts[column & last, slice_class[x], cell_class[column], count] += 1


def add_counts(slices: Any, cells: Any, counts: np.ndarray) -> None:
    """As `counting.add_counts`, for up to 128 rows."""
    small = counts.size <= _SMALL
    copies = np.zeros((_COPIES, *counts.shape), dtype=np.int64) if small else counts[None]
    arrays = [(np.ascontiguousarray(of.words), of.classes.astype(np.int64)) for of in (slices, cells)]
    _add_counts(*arrays[0], *arrays[1], copies)
    if small:
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
    """As `counting.add_sums`."""
    _add_sums(
        np.ascontiguousarray(slices),
        np.ascontiguousarray(cells),
        plane.astype(np.int64),
        output.astype(np.int64),
        sign.astype(np.int64),
        sums,
    )
