"""Compiled post-processing of a graph's crossbar layers; `post_processing.finish` is the plain form."""

from __future__ import annotations

import numpy as np

from golden_model.compiled import njit as _njit
from golden_model.crossbar.layer import Layer
from golden_model.few_ones import nearest_level

_PLACES = 64  # output places whose sums are walked together; keeps them in the level-1 cache


@_njit
def _finish(sums, bias, multipliers, shift, top, residual, residual_multiplier, output):
    """clamp(((acc + bias) * M + r * M_r + half) >> S) of one image (system.md §3).

    sums : (places, columns). residual : uint8 (N, places), or (0, places) for none. output : uint8 (N, places), out.
    """
    half = np.int64(1) << shift >> 1
    outputs, places = output.shape
    added = len(residual) > 0
    for first in range(0, places, _PLACES):
        last = min(first + _PLACES, places)
        for n in range(outputs):
            b, m = bias[n], multipliers[n]
            for place in range(first, last):
                value = (np.int64(sums[place, n]) + b) * m + half
                if added:
                    value += np.int64(residual[n, place]) * residual_multiplier
                output[n, place] = min(max(value >> shift, 0), top)


def finish(layer: Layer, sums: np.ndarray, residual: np.ndarray | None, residual_multiplier: int) -> np.ndarray:
    """One image's sums, integers (windows, columns >= N) -> uint8 (N, H', W'); not for a last layer."""
    places = layer.out_height * layer.out_width
    if layer.pool > 1 and layer.table is None:  # M >= 0: requantisation never changes which of several sums is largest
        sums = sums.reshape(places, layer.pool**2, -1).max(axis=1)
    output = np.empty((layer.outputs, len(sums)), dtype=np.uint8)
    bias, multipliers = (np.asarray(x, dtype=np.int64) for x in (layer.bias, layer.multipliers))
    rows = np.zeros((0, places), dtype=np.uint8) if residual is None else residual.reshape(layer.outputs, places)
    top = (1 << layer.output_bits) - 1
    _finish(
        np.ascontiguousarray(sums), bias, multipliers, layer.shift, top, np.ascontiguousarray(rows),
        residual_multiplier, output,
    )  # fmt: skip
    output = nearest_level(output, layer.output_bits, layer.output_ones)
    if layer.table is not None:  # a table may fall, so pooling comes after it
        output = layer.table.astype(np.uint8)[output].reshape(layer.outputs, places, -1).max(axis=2)
    return output.reshape(layer.outputs, layer.out_height, layer.out_width)
