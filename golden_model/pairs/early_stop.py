"""Early stop: outputs that can no longer change convert no more (*ours*; docs/pair-machine.md).

Input bits run from the highest to the lowest, over all packs and groups. After bit j the sums hold
acc[n] = sum_k (x[k] >> j << j) W[k, n], and what is still to come lies between -low[n] and +high[n]. Post-processing,
q(acc) = clamp(round_half_up_shift((acc + bias) M + r M_r, S), 0, 2**a - 1), never falls while acc rises, because M is
at least 0. So an output is final as soon as

    condition "final": q(acc - low) = q(acc + high)            condition "zero": q(acc + high) = 0

and q(acc) itself is then its value: nothing but the stop has to be stored. The value of this very window is certain, so
whatever comes after it, maximum or sum pooling or another layer, sees what it would have seen. A last layer, whose
results are sums, never stops.

Bounds of what is still to come (low from the negative magnitudes in the same way):

    "stored"    high[n] = (2**j - 1) P+[n],  P+[n] = sum of the positive weights of n: a stored word
    "segments"  high[n] = sum_{i < j} 2**i sum_r min(P+[r, n], ones[r, i] (2**p[r, n] - 1)),
                P+[r, n] that sum in segment r, ones[r, i] the 1s of its slice i, p the width of the block

"segments" costs a stored word per output and segment and as many additions; it is here to show what could be gained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from golden_model.config import HardwareConfig, bits_for
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.post_processing import requantised
from golden_model.crossbar.prepared import Prepared, streams

Bounds = Literal["stored", "segments"]
Condition = Literal["final", "zero"]


@dataclass(frozen=True, kw_only=True)
class EarlyStop:
    """How it is found out that an output is final."""

    bounds: Bounds = "stored"
    condition: Condition = "zero"

    def __post_init__(self) -> None:
        for name, allowed in (("bounds", ("stored", "segments")), ("condition", ("final", "zero"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"EarlyStop.{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}")

    def words(self, layer: Layer, hardware: HardwareConfig) -> int:
        """Stored bounds of one output, that a check reads: P+, for "final" P-, too."""
        return (2 if self.condition == "final" else 1) * (layer.segments(hardware) if self.bounds == "segments" else 1)

    def stored_bits(self, layer: Layer, hardware: HardwareConfig) -> int:
        """Bits of the stored bounds of a layer, as wide as its largest needs; 0 of a last layer."""
        if layer.last:
            return 0
        largest = int(_magnitudes(layer.weights, hardware, self.bounds).max())
        return layer.outputs * self.words(layer, hardware) * bits_for(largest)


@dataclass(frozen=True, eq=False)
class Stops:
    """When outputs of windows stop.

    last_bit : int64 (P, N), lowest input bit for which an output is converted; 0 if it never stops.
    sums : int64 (P, N), acc when it stopped, or at the end.
    checks : int64 (P,), outputs that were checked, over all bits.
    """

    last_bit: np.ndarray
    sums: np.ndarray
    checks: np.ndarray


def _magnitudes(weights: np.ndarray, hardware: HardwareConfig, bounds: Bounds) -> np.ndarray:
    """P+ and P-: int64 (2, N), or (2, segments, N) for "segments"."""
    both = np.stack([np.maximum(weights, 0), np.maximum(-weights, 0)]).astype(np.int64)
    if bounds == "stored":
        return both.sum(axis=1)
    return np.add.reduceat(both, np.arange(0, both.shape[1], hardware.ou_rows), axis=1)


def find_stops(
    layer: Layer,
    prepared: Prepared,
    activations: np.ndarray,
    stop: EarlyStop,
    residual: np.ndarray | None = None,
    residual_multiplier: int = 0,
) -> Stops:
    """When the outputs of windows (P, K) stop. residual : (P, N), in the order of the windows, or None.

    Conversions must be lossless. With dynamic precision x is what its unit streams (system.md §6).
    """
    streamed = streams(prepared, activations)[0]
    x = streamed.reshape(len(activations), -1)[:, : prepared.k].astype(np.float64)
    weights = layer.weights.astype(np.float64)  # sums below 2**53 are exact
    magnitudes = _magnitudes(layer.weights, prepared.hardware, stop.bounds)
    shape = (len(x), prepared.outputs)
    live, last_bit = np.ones(shape, dtype=bool), np.zeros(shape, dtype=np.int64)
    sums, checks = np.zeros(shape, dtype=np.int64), np.zeros(len(x), dtype=np.int64)
    acc = np.zeros(shape, dtype=np.int64)
    for j in reversed(range(prepared.bits)):
        slices = np.floor(x / (1 << j)) % 2
        acc = acc + ((slices @ weights).astype(np.int64) << j)
        sums[live] = acc[live]
        if layer.last or not j:
            continue
        checks += live.sum(axis=1)
        if stop.bounds == "stored":
            high, low = magnitudes * ((1 << j) - 1)
        else:
            high, low = (_segment_bound(prepared, streamed, side, j) for side in magnitudes)
        top = requantised(layer, acc + high, residual, residual_multiplier)
        if stop.condition == "zero":
            final = top == 0
        else:
            final = requantised(layer, acc - low, residual, residual_multiplier) == top
        last_bit[live & final] = j
        live &= ~final
    return Stops(last_bit, sums, checks)


def _segment_bound(prepared: Prepared, streamed: np.ndarray, magnitudes: np.ndarray, j: int) -> np.ndarray:
    """sum_{i < j} 2**i sum_r min(P[r, n], ones[r, i] (2**p[r, n] - 1)): int64 (P, N).

    streamed : (P, segments, ou_rows). magnitudes : P, (segments, N).
    """
    largest = (1 << np.repeat(prepared.widths, prepared.hardware.ou_cols, axis=1)[:, : prepared.outputs]) - 1
    count = np.arange(prepared.hardware.ou_rows + 1)
    table = np.minimum(magnitudes[:, None], count[:, None] * largest[:, None])  # (segments, count, N)
    found = np.zeros((len(streamed), prepared.outputs), dtype=np.int64)
    for i in range(j):
        ones = ((streamed >> i) & 1).sum(axis=2, dtype=np.intp)  # (P, segments)
        for r, row in enumerate(table):
            found += row[ones[:, r]] << i
    return found
