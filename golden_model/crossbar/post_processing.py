"""From partial sums to activations: bias, residual, requantisation, table, pooling (system.md §3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from golden_model.crossbar.layer import Layer
from golden_model.few_ones import nearest_level
from golden_model.rounding import round_half_up_shift

#: Turns the sums of one image (its index in the batch; integers (windows, columns), columns >= N) into its output.
Finish = Callable[[int, np.ndarray], np.ndarray]


def requantised(
    layer: Layer, sums: np.ndarray, residual: np.ndarray | None = None, residual_multiplier: int = 0
) -> np.ndarray:
    """clamp(round_half_up_shift((acc + bias) * M + r * M_r, S), 0, 2**a - 1), then the nearest level if those of the
    layer have few ones (golden_model/few_ones.py); before any table and pooling.

    sums : integers (windows, N). residual : r, integers (windows, N) or None; residual_multiplier : M_r.
    Returns int64 (windows, N).
    """
    total = (sums.astype(np.int64) + layer.bias) * layer.multipliers
    if residual is not None:
        total += residual.astype(np.int64) * residual_multiplier
    y = np.clip(round_half_up_shift(total, layer.shift), 0, (1 << layer.output_bits) - 1)
    return nearest_level(y, layer.output_bits, layer.output_ones)


def finish(
    layer: Layer, sums: np.ndarray, residual: np.ndarray | None = None, residual_multiplier: int = 0
) -> np.ndarray:
    """`requantised` sums of one image, looked up in the layer's table if it has one, then the maximum of pools.

    sums : integers (windows, columns >= N). residual : r, uint8 (N, H', W') or None; residual_multiplier : M_r.
    Returns uint8 (N, H', W'), or acc + bias int64 (N,) of a last layer.
    """
    sums = sums[:, : layer.outputs]
    if layer.last:
        return sums[0].astype(np.int64) + layer.bias
    rows = None if residual is None else residual.reshape(layer.outputs, -1).T
    y = requantised(layer, sums, rows, residual_multiplier)
    if layer.table is not None:
        y = layer.table[y]
    y = y.astype(np.uint8)
    pooled = y.reshape(layer.out_height * layer.out_width, layer.pool**2, layer.outputs).max(axis=1)
    return np.ascontiguousarray(pooled.T).reshape(layer.outputs, layer.out_height, layer.out_width)
