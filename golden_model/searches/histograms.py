"""Counts of a layer, once and for all converters: histograms and the linear form of its sums (system.md §7).

An A/D setting is a function f of the count. What a layer does under any setting follows from two tables:

* `counts`: how often each count occurs, per input bit i and weight plane b. A/D operations and squared error of
  single conversions follow from it.
* `gram`: a sum is y = sum_c f(c) * w_c, where w_c is the sum of +-2**(i + b) over the conversions of y whose count is
  c. With `gram` = sum over sums of w w^T, the squared error of all sums under f is e^T gram e, e(c) = f(c) - c, with
  every correlation between conversions, and the cancellation between both arrays of a pair, in it (*ours*).

So nothing is simulated again, whatever the number of settings.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields, replace

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.lanes import pack_words, slice_words
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import Prepared, prepare_layer, streams
from golden_model.crossbar.windows import windows
from golden_model.engines.run_network import Progress
from golden_model.graph.network import Graph
from golden_model.searches.counting import Classed, add_counts, add_sums
from golden_model.searches.observe import sum_over_layers

#: Windows of a layer, per batch of the runner, whose sums go into `gram`.
GRAM_WINDOWS = 256
_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class LayerCounts:
    """Counts of one crossbar node, all its groups, on a machine without dynamic precision.

    counts : int64 (input_bits, weight_bits, ou_rows + 1). zero_slices : int64 (input_bits, weight_bits), those of
    `counts[..., 0]` that belong to input slices of zeros and do not happen with zero-slice skipping.
    gram : float64 (ou_rows + 1, ou_rows + 1). power : sum of the squares of the same sums, as they should be.
    """

    counts: np.ndarray
    zero_slices: np.ndarray
    gram: np.ndarray
    power: float

    def __add__(self, other: LayerCounts) -> LayerCounts:
        return LayerCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

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


def _cells(prepared: Prepared, polarities: int) -> list[_Cells]:
    """Of every segment, with one array of a pair or both."""
    made = []
    for planes in prepared.segments:
        words = [np.zeros((0, -(-prepared.hardware.ou_rows // 64)), dtype=np.uint64)]
        places = [np.zeros((3, 0), dtype=np.int64)]
        for one in planes:
            outputs = np.arange(prepared.outputs)[one.columns]
            for polarity, cells in enumerate(np.split(one.cells, 2)[:polarities]):
                words.append(pack_words(cells))
                places.append(np.stack(np.broadcast_arrays(one.bit, outputs, 1 - 2 * polarity)))
        made.append(_Cells(np.concatenate(words), *np.concatenate(places, axis=1)))
    return made


def offset_of(layer: Layer, hardware: HardwareConfig) -> int:
    """2**p, p the bit length of the layer's largest magnitude; ValueError without a spare weight plane."""
    added = 1 << int(np.abs(layer.weights).max(initial=1)).bit_length()
    if added > 1 << (hardware.weight_bits - 1):
        raise ValueError(
            f"layer {layer.name}: offset encoding needs magnitudes below {1 << (hardware.weight_bits - 1)}"
        )
    return added


def offset_layer(layer: Layer, hardware: HardwareConfig) -> Layer:
    """The layer with `offset_of` added to every weight, as one array instead of a pair stores it."""
    weights = layer.weights + offset_of(layer, hardware)
    return replace(layer, weights=weights, block_widths=mapping.block_widths(weights, hardware))


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
    prepared = prepare_layer(replace(offset_layer(layer, hardware) if offset else layer, dynamic=None), hardware)
    cells = _cells(prepared, 1 if offset else 2)
    counts = np.zeros((hardware.input_bits, hardware.weight_bits, hardware.ou_rows + 1), dtype=np.int64)
    zero_slices = np.zeros(counts.shape[:2], dtype=np.int64)
    step = max(1, _CHUNK_BYTES // (16 * len(cells) * (1 + hardware.ou_rows // 65) * prepared.bits))
    for start in range(0, len(rows), step):
        slices = slice_words(streams(prepared, rows[start : start + step])[0], prepared.bits)
        input_bit = np.repeat(np.arange(prepared.bits), slices.shape[2])
        for mine, columns in zip(slices, cells, strict=True):
            stored = np.bincount(columns.plane, minlength=hardware.weight_bits)
            empty = (mine == 0).all(axis=-1).sum(axis=-1)
            zero_slices[: prepared.bits] += empty[:, None] * stored
            flat = Classed(mine.reshape(len(input_bit), -1), input_bit)
            add_counts(flat, Classed(columns.words, columns.plane), hardware.ou_rows, counts)
    return LayerCounts(counts, zero_slices, *_gram(layer, prepared, rows, cells, gram_windows))


def _gram(
    layer: Layer, prepared: Prepared, rows: np.ndarray, cells: list[_Cells], gram_windows: int
) -> tuple[np.ndarray, float]:
    """`gram` and `power` of `LayerCounts`."""
    size = prepared.hardware.ou_rows + 1
    if len(rows) > gram_windows:
        random = np.random.default_rng(zlib.crc32(layer.name.encode()))
        rows = rows[np.sort(random.choice(len(rows), gram_windows, replace=False))]
    gram = np.zeros((size, size))
    step = max(1, 2 * _CHUNK_BYTES // (8 * layer.outputs * size))
    for start in range(0, len(rows), step):
        slices = slice_words(streams(prepared, rows[start : start + step])[0], prepared.bits)
        sums = np.zeros((slices.shape[2], layer.outputs, size))
        for mine, columns in zip(slices, cells, strict=True):
            add_sums(mine, columns.words, columns.plane, columns.output, columns.sign, size - 1, sums)
        flat = sums.reshape(-1, size)
        gram += flat.T @ flat
    exact = rows.astype(np.float64) @ layer.weights
    return gram, float((exact**2).sum())


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

    def count(name: str, layer: Layer, activations: np.ndarray) -> LayerCounts:
        return layer_counts(layer, graph.hardware, activations, gram_windows=gram_windows, offset=offset)

    return sum_over_layers(graph, images, count, threads=threads, progress=progress)
