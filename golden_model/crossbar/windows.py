"""The windows of a layer, in the order of the hardware (system.md §5a)."""

from __future__ import annotations

import numpy as np

from golden_model.crossbar.layer import Layer


def with_border(layer: Layer, activations: np.ndarray) -> np.ndarray:
    """Maps (B, C, H, W) with the layer's border around them, of the same dtype; a copy where there is one."""
    border = layer.pad
    if not border:
        return np.ascontiguousarray(activations)
    shape = (len(activations), layer.channels, layer.height + 2 * border, layer.width + 2 * border)
    padded = np.zeros(shape, dtype=activations.dtype)
    if layer.pad_values is not None:
        padded[...] = np.asarray(layer.pad_values)[:, None, None]
    padded[:, :, border : border + layer.height, border : border + layer.width] = activations
    return padded


def windows(layer: Layer, activations: np.ndarray) -> np.ndarray:
    """Windows of a layer in hardware order: pooled raster order, raster inside a pooling window (§5a).

    activations : (B, C, H, W). Returns (B, windows, K) of the same dtype; K = (c * kh + ky) * kw + kx.
    """
    batch, padded = len(activations), with_border(layer, activations)
    views = np.lib.stride_tricks.sliding_window_view(padded, (layer.kernel_height, layer.kernel_width), axis=(2, 3))
    views = views[:, :, :: layer.stride, :: layer.stride]
    oh, ow, pool = layer.out_height, layer.out_width, layer.pool
    views = views[:, :, : oh * pool, : ow * pool]
    split = views.reshape(batch, layer.channels, oh, pool, ow, pool, layer.kernel_height, layer.kernel_width)
    return split.transpose(0, 2, 4, 3, 5, 1, 6, 7).reshape(batch, layer.windows, layer.k)


def in_window_order(layer: Layer, sums: np.ndarray) -> np.ndarray:
    """Sums (N, rows, columns) of one image in raster order -> (windows, N) in hardware order (system.md §5a)."""
    pool = layer.pool
    split = sums.reshape(layer.outputs, layer.out_height, pool, layer.out_width, pool)
    return np.ascontiguousarray(split.transpose(1, 3, 2, 4, 0)).reshape(layer.windows, layer.outputs)
