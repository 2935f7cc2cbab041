"""From partial sums to activations: bias, requantisation, pooling (system.md §3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from golden_model.crossbar.layer import Layer
from golden_model.rounding import round_half_up_shift

#: Turns the sums of one image (its index in the batch; integers (windows, columns), columns >= N) into its output.
Finish = Callable[[int, np.ndarray], np.ndarray]


def requantise(layer: Layer, sums: np.ndarray) -> np.ndarray:
    """clamp(round_half_up_shift((acc + bias) * M, S), 0, 2**a - 1) (system.md §3); (..., N) int64."""
    y = round_half_up_shift((sums + layer.bias) * np.asarray(layer.multipliers, dtype=np.int64), layer.shift)
    return np.clip(y, 0, (1 << layer.output_bits) - 1)


def finish_layer(layer: Layer, sums: np.ndarray) -> np.ndarray:
    """Partial sums (B, windows, N) -> logits (B, N) int64 of the last layer, else uint8 (B, N, H', W')."""
    if layer.last:
        return sums[:, 0] + layer.bias
    batch, pool = len(sums), layer.pool
    y = requantise(layer, sums).reshape(batch, layer.out_height, layer.out_width, pool * pool, layer.outputs)
    return y.max(axis=3).transpose(0, 3, 1, 2).astype(np.uint8)
