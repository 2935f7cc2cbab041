"""What surrounds the conversions of the pair machine: words read, windows side by side, clocks (*ours*).

Activations lie in the buffer with their channels innermost (row, column, channel), each in 1, 2, 4 or 8 bits, whatever
holds its width, packed into words of 32 bits; every place of the map starts a word. Window by window the machine reads
the words of the places that it does not have yet, one word a clock; the border is not read.

Windows are double-buffered: while window w converts, w + 1 is loaded and the sums of w - 1 are drained. The three begin
together and the next step begins when the slowest is done, `HANDOVER` clocks later:

    load     words (or values) read + LOAD clocks, with dynamic precision values + LOAD + DYNAMIC
    convert  conversion clocks (gather.py) + CONVERT
    drain    N + DRAIN

Without double buffering they follow each other, as in timing.py.

A machine without words reads values one by one and counts those of the border as values. With *window reuse*, `keeps`
"window", it reads only the values that the window before does not have; the others move inside the window register, one
of K x input bits in front of the input registers. Which ones follows from the geometry and the walk of windows alone:
pooled raster order, raster inside a pooling window. The tile in rtl/ loads every window in full, one value a clock.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import Layer

#: What a machine keeps of the windows before: nothing; the last window; every row that a later window needs.
Keeps = Literal["nothing", "window", "lines"]

WORD_BITS = 32
#: Latencies of a window's steps, in clocks, beside what they do: window generator, dynamic precision, latch to result,
#: post-processing; and the exchange of buffers between two steps.
LOAD, DYNAMIC, CONVERT, DRAIN, HANDOVER = 2, 7, 4, 5, 1


def places(layer: Layer) -> np.ndarray:
    """Top left corners of all windows in the order of the walk, int64 (windows, 2): row, column, border included."""
    pooled_y, pooled_x, y, x = np.indices((layer.out_height, layer.out_width, layer.pool, layer.pool)).reshape(4, -1)
    return np.stack([pooled_y * layer.pool + y, pooled_x * layer.pool + x], axis=1) * layer.stride - layer.pad


def places_read(layer: Layer, keeps: Keeps, *, border: bool = False) -> np.ndarray:
    """Places of the map that every window reads, int64 (windows,). border : places of the border count, too.

    "window" reads what the window before does not have. "lines" reads a place for the first window that needs it.
    """
    if keeps not in ("nothing", "window", "lines"):
        raise ValueError(f"keeps must be 'nothing', 'window' or 'lines', got {keeps!r}")
    rows, columns = np.indices((layer.kernel_height, layer.kernel_width)).reshape(2, -1)
    y, x = (places(layer)[:, :, None] + np.stack([rows, columns])).transpose(1, 0, 2)  # (windows, kernel) each
    counts = np.ones(y.shape, dtype=bool)
    if not border:
        counts = (y >= 0) & (y < layer.height) & (x >= 0) & (x < layer.width)
    if keeps == "window":
        before = places(layer)[:-1, :, None]
        had = (y[1:] >= before[:, 0]) & (y[1:] < before[:, 0] + layer.kernel_height)
        had &= (x[1:] >= before[:, 1]) & (x[1:] < before[:, 1] + layer.kernel_width)
        counts[1:] &= ~had
    elif keeps == "lines":
        place = (y + layer.pad) * (layer.width + 2 * layer.pad) + x + layer.pad
        first = np.zeros(place.size, dtype=bool)
        first[np.unique(place, return_index=True)[1]] = True  # the first time in the order of the walk
        counts &= first.reshape(place.shape)
    return counts.sum(axis=1)


def values_read(layer: Layer, keeps: Keeps) -> np.ndarray:
    """Values that every window reads, int64 (windows,), those of the border included."""
    return places_read(layer, keeps, border=True) * layer.channels


def fixed_cycles(layer: Layer, hardware: HardwareConfig, keeps: Keeps = "nothing") -> int:
    """Clocks of all windows of an image outside conversions, without c_layer, if values are read one by one.

    A layer with dynamic precision saves none, whatever is kept: all K values of a window pass its unit, one a clock.
    """
    load = load_clocks(layer, keeps, words=False)
    return int(timing.fixed_cycles(hardware, layer.k, layer.outputs, load).sum())


def stored_width(bits: int) -> int:
    """Bits that an activation takes in the buffer: the next of 1, 2, 4, 8."""
    return 1 << (bits - 1).bit_length()


def words_per_place(layer: Layer) -> int:
    """Words of 32 bits that hold all channels of one place of the input."""
    return -(-layer.channels * stored_width(layer.input_bits) // WORD_BITS)


def load_clocks(layer: Layer, keeps: Keeps, *, words: bool) -> np.ndarray:
    """Clocks in which every window reads, int64 (windows,).

    words : a word a clock, the border for free; otherwise a value a clock, the border included. With dynamic precision
    all K values pass its unit, one a clock.
    """
    if layer.dynamic is not None:
        return np.full(layer.windows, layer.k)
    if words:
        return places_read(layer, keeps) * words_per_place(layer)
    return values_read(layer, keeps)


def window_events(layer: Layer, keeps: Keeps, *, words: bool) -> dict[str, int]:
    """Events of one image around its windows.

    activation_words_read : words of 32 bits read from the buffer. activation_bits_read : bits, 32 of every word.
    window_bits_written : of values that are new in the window register, the border included; window_bits_moved : of
    those that stay. line_bits : written to and read from line buffers.
    """
    value = layer.channels * layer.input_bits
    kept = "window" if keeps == "lines" else keeps
    new = int(values_read(layer, kept).sum()) * layer.input_bits
    read = int(places_read(layer, keeps).sum())
    found = {
        "window_bits_written": new,
        "window_bits_moved": layer.windows * layer.k * layer.input_bits - new if kept == "window" else 0,
        "activation_bits_read": int(values_read(layer, keeps).sum()) * layer.input_bits,
    }
    if words:
        count = read * words_per_place(layer)
        found |= {"activation_words_read": count, "activation_bits_read": count * WORD_BITS}
    if keeps == "lines":
        found["line_bits"] = read * value + int(places_read(layer, "window").sum()) * value
    return found


def line_bits(layer: Layer) -> int:
    """Bits of the line buffers of a layer: the rows above the lowest row of a window."""
    return (layer.kernel_height - 1) * layer.width * layer.channels * layer.input_bits


def layer_clocks(
    layer: Layer,
    hardware: HardwareConfig,
    load: np.ndarray,
    convert: np.ndarray,
    *,
    layer_masks: bool,
    double_buffered: bool,
    width_table: bool = True,
) -> np.ndarray:
    """Clocks of a layer, int64 (images,).

    load : of every window, (windows,). convert : conversion clocks, (images, windows). layer_masks : the width table is
    read once, one entry a clock, before the first window; otherwise for every window while it converts. width_table :
    whether there is one.
    """
    entries = layer.segments(hardware) * layer.block_cols(hardware) if width_table else 0
    fixed = timing.c_layer(hardware)
    if layer_masks:
        fixed += entries
    else:
        convert = np.maximum(convert, entries)
    if not double_buffered:
        around = timing.fixed_cycles(hardware, layer.k, layer.outputs, load)
        if layer_masks:
            around = around - layer.block_cols(hardware)
        return fixed + (convert + around).sum(axis=1)
    images, windows = convert.shape
    steps = np.zeros((3, images, windows + 2), dtype=np.int64)
    steps[0, :, :windows] = load + LOAD + DYNAMIC * (layer.dynamic is not None)
    steps[1, :, 1 : windows + 1] = convert + CONVERT
    steps[2, :, 2:] = layer.outputs + DRAIN
    return fixed + (steps.max(axis=0) + HANDOVER).sum(axis=1)
