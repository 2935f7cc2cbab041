"""What comes of every slice of a set meeting every column of another: how often each count, and sums linear in counts.

OUs of few rows go by histograms of patterns, others by population counts (numba) or matrix products (plain NumPy).
"""

from __future__ import annotations

import numpy as np

from golden_model.crossbar.prepared import PATTERN_ROWS
from golden_model.optional import numba_installed


def add_counts(
    slices: np.ndarray,
    slice_class: np.ndarray,
    cells: np.ndarray,
    cell_class: np.ndarray,
    rows: int,
    counts: np.ndarray,
) -> None:
    """Add how often each count occurs to `counts`, int64 [class of the slice, class of the column, count].

    slices : uint64 (n, W), bit r % 64 of word r // 64 is row r. cells : uint64 (columns, W), the same. slice_class,
    cell_class : integers (n,), (columns,). rows : of an OU. The last axis of `counts` must hold every count.
    """
    if not len(slices) or not len(cells):
        return
    if rows <= PATTERN_ROWS:
        _by_patterns(slices[:, 0], slice_class, cells[:, 0], cell_class, rows, counts)
    elif numba_installed():
        from golden_model.searches import counting_compiled

        counting_compiled.add_counts(slices, slice_class, cells, cell_class, counts)
    else:
        _plain(slices, slice_class, cells, cell_class, rows, counts)


def _by_patterns(
    slices: np.ndarray,
    slice_class: np.ndarray,
    cells: np.ndarray,
    cell_class: np.ndarray,
    rows: int,
    counts: np.ndarray,
) -> None:
    """Pattern histogram of the slices times, for each pattern, the counts that it gives.

    The second factor comes from a histogram of cell patterns in `rows` steps: a row whose input is 1 moves the cells
    that are 1 in it up by one count.
    """
    slice_classes, _, size = counts.shape
    cell_classes = int(cell_class.max()) + 1
    often = np.bincount((slice_class << rows) + slices.astype(np.int64), minlength=slice_classes << rows)
    given = np.zeros((cell_classes, 1 << rows, size), dtype=np.int64)
    found = np.bincount((cell_class << rows) + cells.astype(np.int64), minlength=cell_classes << rows)
    given[..., 0] = found.reshape(cell_classes, -1)
    for row in range(rows):
        split = given.reshape(cell_classes, -1, 2, 1 << row, size)
        low, high = split[:, :, 0].copy(), split[:, :, 1].copy()
        split[:, :, 0] = low + high
        low[..., 1:] += high[..., :-1]
        split[:, :, 1] = low
    table = given.transpose(1, 0, 2).reshape(1 << rows, -1).astype(np.float64)
    product = often.reshape(slice_classes, -1).astype(np.float64) @ table  # exact below 2**53
    counts[:, :cell_classes] += product.astype(np.int64).reshape(slice_classes, cell_classes, size)


def _unpack(words: np.ndarray, rows: int) -> np.ndarray:
    """uint64 (n, W) -> float32 (n, rows) of 0 and 1."""
    packed = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
    return np.unpackbits(packed, axis=1, count=rows, bitorder="little").astype(np.float32)


def _plain(
    slices: np.ndarray,
    slice_class: np.ndarray,
    cells: np.ndarray,
    cell_class: np.ndarray,
    rows: int,
    counts: np.ndarray,
) -> None:
    columns = _unpack(cells, rows)
    _, cell_classes, size = counts.shape
    for start in range(0, len(slices), 4096):
        part = slice(start, start + 4096)
        found = (_unpack(slices[part], rows) @ columns.T).astype(np.int64)
        place = (slice_class[part, None] * cell_classes + cell_class) * size + found
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
