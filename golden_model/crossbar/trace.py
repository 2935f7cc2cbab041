"""What every operation unit does in one window, in the hardware's order (system.md §5, §10).

Made for finding the first difference between RTL and golden model: slow, one window at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar import redy as dynamic_precision
from golden_model.crossbar.layer import Layer
from golden_model.trq import column_bounds, convert, levels


@dataclass(frozen=True, eq=False)
class OuRecord:
    """One OU activation.

    index : position in the window. segment, input_bit, block_col, plane : which work it is.
    pair, ou_row, ou_col : which cells.
    started, range_flags, codes, values, operations : (lanes,) arrays, lane = polarity * ou_cols + column;
    lanes that never started hold 0.
    """

    index: int
    segment: int
    input_bit: int
    block_col: int
    plane: int
    pair: int
    ou_row: int
    ou_col: int
    started: np.ndarray
    range_flags: np.ndarray
    codes: np.ndarray
    values: np.ndarray
    operations: np.ndarray

    @property
    def cycles(self) -> int:
        """Clocks of the slowest started lane."""
        return int(self.operations.max())


def window_trace(
    layer: Layer,
    hardware: HardwareConfig,
    placed: mapping.LayerPlacement,
    window: np.ndarray,
) -> Iterator[OuRecord]:
    """OU activations of one window: segments ascending, then input bits, then (block column, plane).

    window : (K,) unsigned integers, one row of `windows.windows`.
    """
    q = np.asarray(window, dtype=np.int64)
    if q.shape != (layer.k,):
        raise ValueError(f"window must have shape ({layer.k},), got {q.shape}")
    segments, block_cols = np.shape(layer.block_widths)
    lo = np.zeros(segments, dtype=np.int64)
    hi = np.full(segments, layer.input_bits - 1)
    if layer.dynamic is not None:
        choice = dynamic_precision.precision(q[None], hardware, layer.dynamic)
        group = np.arange(segments) // hardware.segments_per_group
        q, lo, hi = choice.streamed[0], choice.lo[0, group], choice.hi[0, group]
    padded = np.zeros(segments * hardware.ou_rows, dtype=np.int64)
    padded[: layer.k] = q
    rows = padded.reshape(segments, hardware.ou_rows)
    weights = np.zeros((segments * hardware.ou_rows, block_cols * hardware.ou_cols), dtype=np.int64)
    weights[: layer.k, : layer.outputs] = layer.weights
    registers, level = layer.registers, levels(hardware.adc_bits, hardware.ou_rows, layer.min_count)
    index = 0
    for segment in range(segments):
        for bit in range(int(lo[segment]), int(hi[segment]) + 1):
            inputs = (rows[segment] >> bit) & 1
            if layer.skip_zero_slices and not inputs.any():
                continue
            for ou in range(int(placed.first[segment]), int(placed.first[segment + 1])):
                column, plane = int(placed.block_col[ou]), int(placed.plane[ou])
                block = weights[
                    segment * hardware.ou_rows : (segment + 1) * hardware.ou_rows,
                    column * hardware.ou_cols : (column + 1) * hardware.ou_cols,
                ]
                stored = np.concatenate([np.maximum(block, 0), np.maximum(-block, 0)], axis=1) >> plane & 1
                bound = None
                if registers.column_bound_bits is not None:
                    ones = stored.sum(axis=0)
                    u = column_bounds(ones, ones.max(), hardware.ou_rows, registers.column_bound_bits)
                    bound = np.minimum(inputs.sum(), u)
                made = convert(level[inputs @ stored], hardware.adc_bits, registers, bound=bound)
                valid = np.arange(hardware.ou_cols) < layer.outputs - column * hardware.ou_cols
                started = np.concatenate([valid, valid])
                yield OuRecord(
                    index=index,
                    segment=segment,
                    input_bit=bit,
                    block_col=column,
                    plane=plane,
                    pair=int(placed.pair[ou]),
                    ou_row=int(placed.ou_row[ou]),
                    ou_col=int(placed.ou_col[ou]),
                    started=started,
                    range_flags=np.where(started, made.range_flag, 0),
                    codes=np.where(started, made.code, 0),
                    values=np.where(started, made.value, 0),
                    operations=np.where(started, made.operations, 0),
                )
                index += 1
