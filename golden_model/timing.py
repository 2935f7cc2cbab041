"""Clock cycles of a run, exact (system.md §5).

A window takes
    K + c_group * groups + W + sum_r max(C_r, W unless r is the last segment) + N + c_window
clocks, a step without crossbars N * (kh * kw + residual) + c_element a window, a step c_layer plus its windows, a
network c_start plus its steps; residual is 1 if a second input is added, else 0. C_r is the time of the
OU activations of segment r; an OU takes max(1, sample_interval, most A/D operations of any started
lane). The constants belong to the tile; they depend on the hardware configuration only.

The pair machine computes the windows of up to `macros` outputs at once, neighbours in a row: a *round*. Where pooling
makes an output of several windows, each of them is a round of its own. A crossbar step of W rounds has beats 0..W + 1;
in beat b round b is loaded, the OUs of b - 1 are formed and sampled (walked), b - 2 is drained, as far as they exist.
The next beat begins when all of these are over:

    load      fetches + segments + c_load clocks after the begin of the beat; in beat 0 also the tables, `ready_clocks`
    walk      c_convert clocks after `window_walked` of the round (golden_model/pairs/machine.py)
    drain     N + c_drain clocks after the begin of the beat, or after `window_done` of the round, if that is later

and the step c_layer plus its beats. A fetch brings every window of the round up to `values_together` activations of one
row of the kernel and of one segment. A window of an element step, too, is a round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from golden_model.config import REACH, HardwareConfig, bits_for
from golden_model.registers import counters_of, descriptor_words


def c_start(hardware: HardwareConfig) -> int:
    """Clocks of a run outside all steps (clocks are those in which STATUS.busy is 1)."""
    return 0


def c_layer(hardware: HardwareConfig) -> int:
    """Clocks of a step outside all windows.

    The descriptor is read word by word and checked by twelve serial products; the A/D reference settles
    meanwhile, in ou_rows + 4 clocks. At the end the event counters are stored, one a clock.
    """
    size_bits = bits_for(max(hardware.activation_bytes, (1 << 16) - 1))
    read, check = descriptor_words(hardware) + 2, 12 * (size_bits + 2) + 1
    return max(read + check + 1, hardware.ou_rows + 3) + 1 + len(counters_of(hardware))


def c_group(hardware: HardwareConfig) -> int:
    """Clocks that a dynamic-precision group adds to the loading of a window: its statistics are a pipeline."""
    return 0


def c_post(hardware: HardwareConfig) -> int:
    """Clocks of post-processing from the sum of a channel to its store: 6, one more on the pair machine, which can
    round to levels with few ones, and one more to look up an activation function."""
    return 6 + hardware.pairs + hardware.looks_up


def c_window(hardware: HardwareConfig) -> int:
    """Clocks of a window of BWQ's machine outside loading, conversion and post-processing: the latencies of the blocks.

    Window generator 2, dynamic precision 9, macro 4, post-processing, of which one falls on the last channel.
    """
    return 2 + 9 + 4 + c_post(hardware) - 1


def c_element(hardware: HardwareConfig) -> int:
    """Clocks of a window of an element step outside its walk: the latencies of the blocks.

    Window generator 2, reduction 1, post-processing, of which two fall on the last channel.
    """
    return 2 + 1 + c_post(hardware) - 2


def element_cycles(hardware: HardwareConfig, kernel_area: int, outputs: int, *, residual: bool) -> int:
    """Clocks of a window of an element step: a clock a value of every channel's window, one more for a residual."""
    return outputs * (kernel_area + residual) + c_element(hardware)


def groups(hardware: HardwareConfig, k: int) -> int:
    """Dynamic-precision groups of a window of `k` rows (system.md §6)."""
    return -(-hardware.segments(k) // hardware.segments_per_group)


def fixed_cycles(hardware: HardwareConfig, k: int, outputs: int, loaded: Any = None) -> Any:
    """Clocks of a window outside conversions: K + c_group * groups + W + N + c_window.

    loaded : values that are loaded, one a clock, instead of all K; a number or an array, which the result is like.
    """
    values, block_cols = k if loaded is None else loaded, hardware.block_cols(outputs)
    return values + c_group(hardware) * groups(hardware, k) + block_cols + outputs + c_window(hardware)


def busy_cycles(hardware: HardwareConfig, outputs: int, segment_cycles: Any) -> np.ndarray:
    """Clocks of conversions: sum over segments of max(C_r, W), of C_r in the last one; C_r (..., segments) -> (...)."""
    busy = np.array(segment_cycles, dtype=np.int64)
    busy[..., :-1] = np.maximum(busy[..., :-1], hardware.block_cols(outputs))
    return busy.sum(axis=-1)


def window_cycles(hardware: HardwareConfig, k: int, outputs: int, segment_cycles: Any) -> np.ndarray:
    """Clocks of windows of a layer with K rows and N outputs; C_r in clocks (..., segments) -> int64 (...)."""
    return busy_cycles(hardware, outputs, segment_cycles) + fixed_cycles(hardware, k, outputs)


# ---- the pair machine ---------------------------------------------------------------------------
def c_load(hardware: HardwareConfig) -> int:
    """Clocks of the loading of a window outside fetches and segments: window generator 2, dynamic precision 9."""
    return 2 + 9


def c_convert(hardware: HardwareConfig) -> int:
    """Clocks from `window_walked` to the begin of the next beat."""
    return 1


def c_drain(hardware: HardwareConfig) -> int:
    """Clocks of the drain of a window outside its N outputs: post-processing."""
    return c_post(hardware)


def abreast(hardware: HardwareConfig, columns: int, *, residual_columns: int = 1, last: bool = False) -> int:
    """Windows in a round of a step: one per macro, or one if they lie too far apart or the step makes logits.

    columns : of the map, between the windows of neighbouring outputs: pool * stride. residual_columns : likewise.
    """
    near = columns <= REACH and residual_columns <= REACH and not last
    return hardware.macros if near else 1


def rounds(rows: int, columns: int, pool: int, abreast: int) -> np.ndarray:
    """Windows of each round of a step, by their place in hardware order, -1 where there is none.

    rows, columns : outputs after pooling. Returns int64 (rounds, abreast).
    """
    chunks = -(-columns // abreast)
    column = np.arange(chunks * abreast).reshape(chunks, 1, abreast)
    window = (np.arange(rows)[:, None, None, None] * columns + column) * pool**2 + np.arange(pool**2)[:, None]
    return np.where(column < columns, window, -1).reshape(-1, abreast)


def step_rounds(hardware: HardwareConfig, fields: Mapping[str, int]) -> np.ndarray:
    """`rounds` of a step by the fields of its descriptor."""
    residual_columns = fields["residual_column"] if fields["residual"] else 1
    columns, last = fields["pool"] * fields["stride_x"], bool(fields["last"])
    together = abreast(hardware, columns, residual_columns=residual_columns, last=last)
    return rounds(fields["out_height"], fields["out_width"], fields["pool"], together)


def fetches(hardware: HardwareConfig, channels: int, kernel_height: int, kernel_width: int) -> int:
    """Clocks in which a window of the pair machine is fetched."""
    together, rows = hardware.values_together, hardware.ou_rows
    found = line = 0
    for _ in range(channels * kernel_height):
        left = kernel_width
        while left:
            size = min(left, together, rows - line % rows)
            found, line, left = found + 1, line + size, left - size
    return found


#: Clocks from the clock in which a round of windows is walked, or done, to `window_walked`, or `window_done`.
CONVERT = 1


class Beats(NamedTuple):
    """Clocks of the parts of a beat; see the head of this file. ready : of the tables."""

    load: int
    convert: int
    drain: int
    ready: int = 0


#: No clocks but those of conversions.
NOTHING = Beats(0, 0, 0)


def beats(hardware: HardwareConfig, kernel: tuple[int, int, int], outputs: int, ready: int) -> Beats:
    """Of a crossbar step of the pair machine. kernel : channels, rows, columns. ready : `ready_clocks` of its packs."""
    segments = -(-int(np.prod(kernel)) // hardware.ou_rows)
    load = fetches(hardware, *kernel) + segments + c_load(hardware)
    return Beats(load, c_convert(hardware), outputs + c_drain(hardware), ready)


# ---- a network ----------------------------------------------------------------------------------
def network_cycles(hardware: HardwareConfig, layer_cycles: Any) -> np.ndarray:
    """Clocks from start to done: c_start plus the steps' cycles, shape (..., steps) -> (...)."""
    return np.asarray(layer_cycles, dtype=np.int64).sum(axis=-1) + c_start(hardware)
