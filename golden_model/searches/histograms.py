"""Counts of a layer, once and for all converters: histograms and the linear form of its sums (system.md §7).

An A/D setting is a function f of the count. What a layer does under any setting follows from two tables:

* `counts`: how often each count occurs, per input bit i and weight plane b. A/D operations and squared error of
  single conversions follow from it.
* `gram`: a sum is y = sum_c f(c) * w_c, where w_c is the sum of +-2**(i + b) over the conversions of y whose count is
  c. With `gram` = sum over sums of w w^T, the squared error of all sums under f is e^T gram e, e(c) = f(c) - c, with
  every correlation between conversions, and the cancellation between both arrays of a pair, in it (*ours*).

So nothing is simulated again, whatever the number of settings. OUs of few rows go by histograms of input patterns,
others by population counts (numba) or matrix products (plain NumPy); all are exact.
"""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.lanes import pack_words as _words
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.windows import windows
from golden_model.engines.run_network import GraphRunner, Progress
from golden_model.graph.network import Graph
from golden_model.optional import numba_installed

#: Up to this many rows, histograms of input patterns are taken.
PATTERN_ROWS = 12
#: Windows of a layer, per batch of the runner, whose sums go into `gram`.
GRAM_WINDOWS = 256
_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class LayerCounts:
    """Counts of one crossbar node, all its groups, on a machine without dynamic precision.

    counts : int64 (input_bits, weight_bits, ou_rows + 1). zero_slices : int64 (input_bits, weight_bits), those of
    `counts[..., 0]` that belong to input slices of zeros and do not happen with zero-slice skipping.
    gram : float64 (ou_rows + 1, ou_rows + 1) of `sums` sums.
    total : float64 (ou_rows + 1,), sum of w over the same sums. power : sum of their squares, as they should be.
    """

    counts: np.ndarray
    zero_slices: np.ndarray
    gram: np.ndarray
    total: np.ndarray
    sums: int
    power: float

    def __add__(self, other: LayerCounts) -> LayerCounts:
        return LayerCounts(
            self.counts + other.counts,
            self.zero_slices + other.zero_slices,
            self.gram + other.gram,
            self.total + other.total,
            self.sums + other.sums,
            self.power + other.power,
        )

    @property
    def conversions(self) -> int:
        return int(self.counts.sum())

    def used(self, skip_zero_slices: bool) -> np.ndarray:
        """`counts`, without conversions of all-zero slices if they are skipped."""
        if not skip_zero_slices:
            return self.counts
        counts = self.counts.copy()
        counts[..., 0] -= self.zero_slices
        return counts


# ---- one layer ----------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Cells:
    """Cells of one segment as columns. words : uint64 (columns, W), bit r = row r. plane, output : (columns,).

    sign : +1 or -1, polarity.
    """

    words: np.ndarray
    plane: np.ndarray
    output: np.ndarray
    sign: np.ndarray


def _cells(layer: Layer, hardware: HardwareConfig, offset: bool) -> list[_Cells]:
    weights, block_widths = layer.weights, layer.block_widths
    if offset:
        added = 1 << int(np.abs(weights).max(initial=1)).bit_length()
        if added > 1 << (hardware.weight_bits - 1):
            raise ValueError(
                f"layer {layer.name}: offset encoding needs magnitudes below {1 << (hardware.weight_bits - 1)}"
            )
        weights = weights + added
        block_widths = mapping.block_widths(weights, hardware)
    stored = mapping.planes(weights, hardware)  # (segments, weight_bits, 2, ou_rows, N)
    widths = np.repeat(block_widths, hardware.ou_cols, axis=1)[:, : layer.outputs]
    made = []
    for segment, planes in enumerate(stored):
        exists = np.broadcast_to(
            (widths[segment] > np.arange(hardware.weight_bits)[:, None])[:, None],
            (hardware.weight_bits, 2, layer.outputs),
        )
        if offset:
            exists = exists & np.array([True, False])[:, None]  # there is one array only
        plane, polarity, output = np.nonzero(exists)
        bits = planes.transpose(0, 1, 3, 2)[plane, polarity, output]
        made.append(_Cells(_words(bits), plane, output, 1 - 2 * polarity))
    return made


def _slices(layer: Layer, hardware: HardwareConfig, rows: np.ndarray) -> np.ndarray:
    """Windows (P, K) -> slices uint64 (segments, input_bits of the layer, P, W)."""
    segments = layer.segments(hardware)
    padded = np.zeros((len(rows), segments * hardware.ou_rows), dtype=np.uint8)
    padded[:, : layer.k] = rows
    values = padded.reshape(len(rows), segments, hardware.ou_rows).transpose(1, 0, 2)
    return np.stack([_words((values >> i) & 1) for i in range(layer.input_bits)], axis=1)


def _by_patterns(slices: np.ndarray, cells: _Cells, hardware: HardwareConfig, counts: np.ndarray) -> None:
    """Add the counts of one segment: pattern histogram times, for each pattern, the counts that it gives.

    The second factor comes from a histogram of cell patterns in ou_rows steps: a row whose input is 1 moves the
    cells that are 1 in it up by one count.
    """
    rows = hardware.ou_rows
    often = np.stack([np.bincount(bit[:, 0].astype(np.int64), minlength=1 << rows) for bit in slices])
    planes = int(cells.plane.max(initial=-1)) + 1
    if planes == 0:
        return
    place = cells.plane * (1 << rows) + cells.words[:, 0].astype(np.int64)
    given = np.zeros((planes, 1 << rows, rows + 1), dtype=np.int64)
    given[..., 0] = np.bincount(place, minlength=planes << rows).reshape(planes, 1 << rows)
    for row in range(rows):
        split = given.reshape(planes, -1, 2, 1 << row, rows + 1)
        low, high = split[:, :, 0].copy(), split[:, :, 1].copy()
        split[:, :, 0] = low + high
        low[..., 1:] += high[..., :-1]
        split[:, :, 1] = low
    product = often.astype(np.float64) @ given.transpose(1, 0, 2).reshape(1 << rows, -1).astype(np.float64)
    counts[: len(slices), :planes] += product.reshape(len(slices), planes, rows + 1).astype(np.int64)


def _unpack(words: np.ndarray, rows: int) -> np.ndarray:
    """uint64 (n, W) -> float32 (n, rows) of 0 and 1."""
    packed = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
    return np.unpackbits(packed, axis=1, count=rows, bitorder="little").astype(np.float32)


def _plain_counts(slices: np.ndarray, cells: _Cells, rows: int, counts: np.ndarray) -> None:
    """Add the counts of one segment by matrix products."""
    columns = _unpack(cells.words, rows)
    for i, bit in enumerate(slices):
        found = (columns @ _unpack(bit, rows).T).astype(np.int64)
        place = found + cells.plane[:, None] * (rows + 1)
        planes = counts.shape[1]
        counts[i] += np.bincount(place.ravel(), minlength=planes * (rows + 1)).reshape(planes, rows + 1)


def _plain_sums(slices: np.ndarray, cells: _Cells, rows: int, sums: np.ndarray) -> None:
    """Add the linear form of one segment: sums (P, N, ou_rows + 1) float64."""
    columns = _unpack(cells.words, rows)
    windows_count, outputs = sums.shape[:2]
    for i, bit in enumerate(slices):
        found = (columns @ _unpack(bit, rows).T).astype(np.int64)  # (columns, P)
        place = (np.arange(windows_count) * outputs + cells.output[:, None]) * (rows + 1) + found
        weight = np.broadcast_to((cells.sign * 2.0 ** (cells.plane + i))[:, None], found.shape)
        sums += np.bincount(place.ravel(), weights=weight.ravel(), minlength=sums.size).reshape(sums.shape)


def layer_counts(
    layer: Layer,
    hardware: HardwareConfig,
    activations: np.ndarray,
    *,
    gram_windows: int = GRAM_WINDOWS,
    offset: bool = False,
) -> LayerCounts:
    """Counts of one layer for its input activations, uint8 (B, C, H, W).

    gram_windows : so many windows, drawn from a fixed seed, go into `gram`; all windows go into `counts`.
    offset : what the counts would be on one array instead of a pair, whose cells hold weight + 2**p > 0 (the sum of
        the inputs times 2**p is subtracted digitally); p is the bit length of the layer's largest magnitude. Counts
        are larger there. Our machine has pairs.
    """
    rows = windows(layer, activations).reshape(-1, layer.k)
    cells = _cells(layer, hardware, offset)
    size = hardware.ou_rows + 1
    counts = np.zeros((hardware.input_bits, hardware.weight_bits, size), dtype=np.int64)
    zero_slices = np.zeros(counts.shape[:2], dtype=np.int64)
    compiled = numba_installed()
    step = max(1, _CHUNK_BYTES // (16 * layer.segments(hardware) * (1 + hardware.ou_rows // 65) * layer.input_bits))
    for start in range(0, len(rows), step):
        slices = _slices(layer, hardware, rows[start : start + step])
        for segment, columns in enumerate(cells):
            stored = np.bincount(columns.plane, minlength=hardware.weight_bits)
            empty = (slices[segment] == 0).all(axis=-1).sum(axis=-1)
            zero_slices[: layer.input_bits] += empty[:, None] * stored
            if hardware.ou_rows <= PATTERN_ROWS:
                _by_patterns(slices[segment], columns, hardware, counts)
            elif compiled:
                from golden_model.searches import histograms_compiled

                histograms_compiled.add_counts(slices[segment], columns.words, columns.plane, counts)
            else:
                _plain_counts(slices[segment], columns, hardware.ou_rows, counts)
    return LayerCounts(counts, zero_slices, *_gram(layer, hardware, rows, cells, gram_windows, compiled))


def _gram(
    layer: Layer,
    hardware: HardwareConfig,
    rows: np.ndarray,
    cells: list[_Cells],
    gram_windows: int,
    compiled: bool,
) -> tuple[np.ndarray, np.ndarray, int, float]:
    """`gram`, `total`, `sums` and `power` of `LayerCounts`."""
    size = hardware.ou_rows + 1
    if len(rows) > gram_windows:
        random = np.random.default_rng(zlib.crc32(layer.name.encode()))
        rows = rows[np.sort(random.choice(len(rows), gram_windows, replace=False))]
    gram, total = np.zeros((size, size)), np.zeros(size)
    step = max(1, 2 * _CHUNK_BYTES // (8 * layer.outputs * size))
    for start in range(0, len(rows), step):
        slices = _slices(layer, hardware, rows[start : start + step])
        sums = np.zeros((slices.shape[2], layer.outputs, size))
        for segment, columns in enumerate(cells):
            _add_sums(slices[segment], columns, hardware.ou_rows, sums, compiled)
        flat = sums.reshape(-1, size)
        gram += flat.T @ flat
        total += flat.sum(axis=0)
    exact = rows.astype(np.float64) @ layer.weights
    return gram, total, len(rows) * layer.outputs, float((exact**2).sum())


def _add_sums(slices: np.ndarray, cells: _Cells, rows: int, sums: np.ndarray, compiled: bool) -> None:
    """Add the linear form of one segment to `sums` (P, outputs, ou_rows + 1)."""
    if compiled:
        from golden_model.searches import histograms_compiled

        histograms_compiled.add_sums(slices, cells.words, cells.plane, cells.output, cells.sign, sums)
    else:
        _plain_sums(slices, cells, rows, sums)


# ---- a network ----------------------------------------------------------------------------------
def graph_counts(
    graph: Graph,
    images: np.ndarray,
    *,
    gram_windows: int = GRAM_WINDOWS,
    offset: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, LayerCounts]:
    """Counts of every crossbar node in one pass of uint8 images (B, C, H, W), by name.

    gram_windows, offset : as for `layer_counts`. The network runs with the converters that it has: give it
    lossless ones to see exact activations.
    """
    if any(layer.dynamic is not None for layer in graph.layers):
        raise ValueError("histograms are taken without dynamic precision: switch it off with with_settings")
    found: dict[str, LayerCounts] = {}
    lock = threading.Lock()

    def observe(name: str, layer: Layer, activations: np.ndarray) -> None:
        mine = layer_counts(layer, graph.hardware, activations, gram_windows=gram_windows, offset=offset)
        with lock:
            found[name] = found[name] + mine if name in found else mine

    GraphRunner(graph, threads=threads).run(images, observe=observe, progress=progress)
    return {node.name: found[node.name] for node in graph.crossbars}
