"""What comes of every slice of a set meeting every column of another: how often each count, and sums linear in counts.

OUs of few rows go by histograms of patterns, others by population counts (numba) or matrix products (plain NumPy).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from golden_model.crossbar.prepared import PATTERN_ROWS
from golden_model.optional import numba_installed


class Classed(NamedTuple):
    """Slices or columns with the class of each.

    words : uint64 (n, W), bit r % 64 of word r // 64 is row r. classes : integers (n,), at least 0.
    """

    words: np.ndarray
    classes: np.ndarray


def add_counts(slices: Classed, cells: Classed, rows: int, counts: np.ndarray) -> None:
    """Add how often each count occurs to `counts`, int64 [class of the slice, class of the column, count].

    rows : of an OU. The axes of `counts` must hold every class and every count.
    """
    if not len(slices.words) or not len(cells.words):
        return
    if rows <= PATTERN_ROWS:
        _by_patterns(slices, cells, rows, counts)
    elif numba_installed():
        from golden_model.searches import counting_compiled

        counting_compiled.add_counts(slices, cells, counts)
    else:
        _plain(slices, cells, rows, counts)


def _by_patterns(slices: Classed, cells: Classed, rows: int, counts: np.ndarray) -> None:
    """Pattern histogram of the slices times, for each pattern, the counts that it gives.

    The second factor comes from a histogram of cell patterns in `rows` steps: a row whose input is 1 moves the cells
    that are 1 in it up by one count.
    """
    slice_classes, _, size = counts.shape
    cell_classes = int(cells.classes.max()) + 1
    often = _patterns(slices, slice_classes, rows)
    given = np.zeros((cell_classes, 1 << rows, size), dtype=np.int64)
    given[..., 0] = _patterns(cells, cell_classes, rows)
    for row in range(rows):
        split = given.reshape(cell_classes, -1, 2, 1 << row, size)
        low, high = split[:, :, 0].copy(), split[:, :, 1].copy()
        split[:, :, 0] = low + high
        low[..., 1:] += high[..., :-1]
        split[:, :, 1] = low
    table = given.transpose(1, 0, 2).reshape(1 << rows, -1).astype(np.float64)
    product = often.astype(np.float64) @ table  # exact below 2**53
    counts[:, :cell_classes] += product.astype(np.int64).reshape(slice_classes, cell_classes, size)


def _patterns(of: Classed, classes: int, rows: int) -> np.ndarray:
    """How often each pattern occurs, int64 (classes, 2**rows)."""
    places = (of.classes << rows) + of.words[:, 0].astype(np.int64)
    return np.bincount(places, minlength=classes << rows).reshape(classes, -1)


def _unpack(words: np.ndarray, rows: int) -> np.ndarray:
    """uint64 (n, W) -> float32 (n, rows) of 0 and 1."""
    packed = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
    return np.unpackbits(packed, axis=1, count=rows, bitorder="little").astype(np.float32)


def _plain(slices: Classed, cells: Classed, rows: int, counts: np.ndarray) -> None:
    columns = _unpack(cells.words, rows)
    _, cell_classes, size = counts.shape
    for start in range(0, len(slices.words), 4096):
        part = slice(start, start + 4096)
        found = (_unpack(slices.words[part], rows) @ columns.T).astype(np.int64)
        place = (slices.classes[part, None] * cell_classes + cells.classes) * size + found
        counts += np.bincount(place.ravel(), minlength=counts.size).reshape(counts.shape)


def add_sums(
    slices: np.ndarray,
    cells: np.ndarray,
    plane: np.ndarray,
    output: np.ndarray,
    sign: np.ndarray,
    rows: int,
    sums: np.ndarray,
) -> None:
    """Add the linear form of one segment to `sums`, float64 (P, N, rows + 1): sign * 2**(i + plane) at each count.

    slices : uint64 (bits, P, W). cells : uint64 (columns, W). plane, output, sign : integers (columns,).
    """
    if numba_installed():
        from golden_model.searches import counting_compiled

        counting_compiled.add_sums(slices, cells, plane, output, sign, sums)
        return
    columns = _unpack(cells, rows)
    windows, outputs, size = sums.shape
    for i, bit in enumerate(slices):
        found = (columns @ _unpack(bit, rows).T).astype(np.int64)  # (columns, P)
        place = (np.arange(windows) * outputs + output[:, None]) * size + found
        weight = np.broadcast_to((sign * 2.0 ** (plane + i))[:, None], found.shape)
        sums += np.bincount(place.ravel(), weights=weight.ravel(), minlength=sums.size).reshape(sums.shape)
