"""Window reuse: a window register keeps what the next window needs again (*ours*; system.md §5a, §11).

Neighbouring windows overlap. A machine with window reuse reads only those values of a window from the activation
buffer that the window before it does not have; the others move inside the window register, one of K x input bits in
front of the input registers. Which ones follows from the geometry and the walk of windows alone: pooled raster order,
raster inside a pooling window. Border values count as values everywhere, here too.

    values_read(layer)                 # (windows,): K for the first window, then K less the overlap
    machines.with_window_reuse(found)  # any machine of the comparison

The hardware of rtl/ does not do this: it loads every window in full, one value a clock.
"""

from __future__ import annotations

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import Layer


def places(layer: Layer) -> np.ndarray:
    """Window positions before pooling in the order of the walk, int64 (windows, 2): row and column."""
    pooled_y, pooled_x, y, x = np.indices((layer.out_height, layer.out_width, layer.pool, layer.pool)).reshape(4, -1)
    return np.stack([pooled_y * layer.pool + y, pooled_x * layer.pool + x], axis=1)


def values_read(layer: Layer) -> np.ndarray:
    """Values that each window reads from the activation buffer, int64 (windows,), in the order of the walk.

    K less the overlap with the window before: C x max(0, kh - |dy| stride) x max(0, kw - |dx| stride) for a step of
    (dy, dx) window positions. The first window of an image reads K.
    """
    kernel = np.array([layer.kernel_height, layer.kernel_width])
    step = np.abs(np.diff(places(layer), axis=0))
    overlap = layer.channels * np.maximum(0, kernel - step * layer.stride).prod(axis=1)
    return layer.k - np.concatenate([np.zeros(min(1, layer.windows), dtype=np.int64), overlap])


def fixed_cycles(layer: Layer, hardware: HardwareConfig, window_reuse: bool = False) -> int:
    """Clocks of all windows of an image outside conversions, without c_layer (system.md §5).

    A layer with dynamic precision saves no clocks: all K values of a window pass its unit, one a clock, kept or not.
    """
    loaded = layer.k
    if window_reuse and layer.dynamic is None:
        loaded = values_read(layer)
    return int(np.broadcast_to(timing.fixed_cycles(hardware, layer.k, layer.outputs, loaded), layer.windows).sum())
