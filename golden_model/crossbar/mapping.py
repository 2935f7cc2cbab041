"""Precision-aware mapping of weight blocks to crossbar OUs (BWQ-H; system.md §5)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar.redy import bit_length


def _blocks(weights: np.ndarray, hardware: HardwareConfig) -> np.ndarray:
    """(K, N) -> (segments, ou_rows, block_cols, ou_cols), zero-padded at the edges."""
    weights = np.asarray(weights)
    if weights.ndim != 2 or 0 in weights.shape:
        raise ValueError(f"weights must be a non-empty K x N array, got shape {weights.shape}")
    if weights.dtype.kind not in "iu":
        raise TypeError(f"weights must be integers, got dtype {weights.dtype}")
    k, n = weights.shape
    segments, block_cols = hardware.segments(k), hardware.block_cols(n)
    padded = np.zeros((segments * hardware.ou_rows, block_cols * hardware.ou_cols), dtype=np.int64)
    padded[:k, :n] = weights
    return padded.reshape(segments, hardware.ou_rows, block_cols, hardware.ou_cols)


def block_widths(weights: np.ndarray, hardware: HardwareConfig) -> np.ndarray:
    """Bit planes of every block: the bit length of its largest magnitude over both polarities.

    weights : (K, N) signed integers. Returns int64 (segments, block_cols), 0..weight_bits.

    Raises ValueError for a magnitude that does not fit weight_bits.
    """
    widths = bit_length(np.abs(_blocks(weights, hardware)).max(axis=(1, 3)))
    if widths.max() > hardware.weight_bits:
        raise ValueError(
            f"weights must lie in -{(1 << hardware.weight_bits) - 1}..{(1 << hardware.weight_bits) - 1} "
            f"for weight_bits = {hardware.weight_bits}, got a magnitude of {int(np.abs(weights).max())}"
        )
    return widths


def check_widths(widths: np.ndarray | None, weights: np.ndarray, hardware: HardwareConfig) -> np.ndarray:
    """Given widths as int64, or the needed ones if None; ValueError if a block does not fit its width."""
    needed = block_widths(weights, hardware)
    if widths is None:
        return needed
    widths = np.asarray(widths)
    if widths.dtype.kind not in "iu" or widths.shape != needed.shape:
        raise ValueError(
            f"block_widths must be integers of shape {needed.shape}, got shape {widths.shape}, dtype {widths.dtype}"
        )
    widths = widths.astype(np.int64)
    if widths.min() < 0 or widths.max() > hardware.weight_bits:
        raise ValueError(
            f"block_widths must be in 0..{hardware.weight_bits}, got {int(widths.min())}..{int(widths.max())}"
        )
    if (widths < needed).any():
        segment, column = np.argwhere(widths < needed)[0]
        raise ValueError(
            f"block_widths[{segment}, {column}] must be at least {needed[segment, column]}, the bit length of the "
            f"block's largest magnitude, got {widths[segment, column]}"
        )
    return widths


def planes(weights: np.ndarray, hardware: HardwareConfig) -> np.ndarray:
    """Bit planes by polarity: bool (segments, weight_bits, 2, ou_rows, N); polarity 0 holds positive weights."""
    blocks = _blocks(weights, hardware)
    n = np.asarray(weights).shape[1]
    flat = blocks.reshape(blocks.shape[0], hardware.ou_rows, -1)[:, :, :n]
    magnitude = np.stack([np.maximum(flat, 0), np.maximum(-flat, 0)], axis=1)
    bits = np.arange(hardware.weight_bits)[:, None, None, None]
    return ((magnitude[:, None] >> bits) & 1).astype(bool)


@dataclass(frozen=True, eq=False)
class LayerPlacement:
    """Where one layer lies.

    crossbar_base : first pair; pairs : how many it uses.
    segment, block_col, plane, pair, ou_row, ou_col : (M,) int64, one entry per OU that holds a bit
    plane, in the order (segment, block column, plane). first : (segments + 1,) int64, OUs of segment r
    are first[r]..first[r + 1] - 1.
    """

    crossbar_base: int
    pairs: int
    segment: np.ndarray
    block_col: np.ndarray
    plane: np.ndarray
    pair: np.ndarray
    ou_row: np.ndarray
    ou_col: np.ndarray
    first: np.ndarray

    @property
    def ous(self) -> int:
        """OUs that hold a bit plane."""
        return len(self.segment)


@dataclass(frozen=True, eq=False)
class Placement:
    """Where every layer of a network lies; pairs : how many are used in all."""

    layers: tuple[LayerPlacement, ...]
    pairs: int


def place_layer(widths: np.ndarray, hardware: HardwareConfig, *, crossbar_base: int = 0) -> LayerPlacement:
    """Lay out one layer from pair `crossbar_base` on (system.md §5).

    It starts a fresh pair; a segment that holds any plane starts a fresh OU row; its OUs follow in the
    order (block column, plane) along OU columns, wrapping to the next OU row and the next pair.

    widths : (segments, block_cols) bit planes.
    """
    widths = np.asarray(widths, dtype=np.int64)
    counts = widths.sum(axis=1)
    ou_rows_used = -(-counts // hardware.grid_cols)
    first_row = np.concatenate([[0], np.cumsum(ou_rows_used)])
    first = np.concatenate([[0], np.cumsum(counts)])
    block = np.repeat(np.arange(widths.size), widths.ravel())
    segment, block_col = block // widths.shape[1], block % widths.shape[1]
    starts = np.cumsum(widths.ravel()) - widths.ravel()
    plane = np.arange(len(block)) - starts[block]
    within = np.arange(len(block)) - first[segment]
    row = first_row[segment] + within // hardware.grid_cols
    return LayerPlacement(
        crossbar_base=crossbar_base,
        pairs=int(-(-first_row[-1] // hardware.grid_rows)),
        segment=segment,
        block_col=block_col,
        plane=plane,
        pair=crossbar_base + row // hardware.grid_rows,
        ou_row=row % hardware.grid_rows,
        ou_col=within % hardware.grid_cols,
        first=first,
    )


def empty_cells(hardware: HardwareConfig, pairs: int) -> np.ndarray:
    """Unprogrammed cells: bool (pairs, grid_rows, grid_cols, lanes, ou_rows), all 0."""
    return np.zeros((pairs, hardware.grid_rows, hardware.grid_cols, hardware.lanes, hardware.ou_rows), dtype=bool)


def program_layer(cells: np.ndarray, placement: LayerPlacement, weights: np.ndarray, hardware: HardwareConfig) -> None:
    """Write one layer's bit planes into `cells`; lane = polarity * ou_cols + column."""
    stored = planes(weights, hardware)
    segments, bits, _, rows, n = stored.shape
    padded = np.zeros((segments, bits, 2, rows, hardware.block_cols(n) * hardware.ou_cols), dtype=bool)
    padded[..., :n] = stored
    tiles = padded.reshape(segments, bits, 2, rows, -1, hardware.ou_cols)
    chosen = tiles[placement.segment, placement.plane, :, :, placement.block_col]  # (M, 2, rows, ou_cols)
    by_lane = chosen.transpose(0, 1, 3, 2).reshape(-1, hardware.lanes, rows)
    cells[placement.pair, placement.ou_row, placement.ou_col] = by_lane


def cell_words(cells: np.ndarray, hardware: HardwareConfig) -> np.ndarray:
    """Cells as bus words: uint32 (OUs, cell_words), OU column fastest, then OU row, then pair.

    Bit lane * ou_rows + row of an OU's integer is the cell; words are least significant first.
    """
    flat = cells.reshape(-1, hardware.ou_cells)
    padded = np.zeros((len(flat), hardware.cell_words * 32), dtype=bool)
    padded[:, : hardware.ou_cells] = flat
    return np.packbits(padded, axis=1, bitorder="little").view("<u4")


def checksum(cells: np.ndarray, hardware: HardwareConfig) -> int:
    """CRC-32 (as zlib) of the little-endian cell words in programming order: register CELL_CHECKSUM."""
    return zlib.crc32(cell_words(cells, hardware).astype("<u4").tobytes())
