"""Early stop: outputs that are certainly 0 convert no more (*ours*; docs/pair-machine.md).

Input bits run from the highest to the lowest, over all packs and groups. After bit j the sums hold
acc[n] = sum_k (x[k] >> j << j) W[k, n], and what is still to come lies between -low[n] and +high[n]. Post-processing,
q(acc) = clamp(round_half_up_shift((acc + bias) M + r M_r, S), 0, 2**a - 1), never falls while acc rises, because M is
at least 0. So an output is final as soon as

    condition "limit"    acc + high <= limit[n] and r = 0, limit[n] the largest acc with q(acc) = 0 without residual
    condition "zero"     q(acc + high) = 0, r included
    condition "final"    q(acc - low) = q(acc + high)

and q(acc) itself is then its value: nothing but the stop has to be stored. The value of this very window is certain, so
whatever comes after it, maximum or sum pooling or another layer, sees what it would have seen. A last layer, whose
results are sums, never stops.

A window is checked after those of the chosen bits that it streams, if it streams a lower one, too. Outputs without
weights are not checked.

"limit" multiplies nothing and agrees with "zero" wherever r = 0; other outputs are not checked. Sums start at
-(limit[n] + P+[n] + 1) in place of 0, a stored word that post-processing takes back with its bias. With stored bounds a
check is then one addition and a look at a sign:

    sum + (P+[n] << j) < 0

Bounds of what is still to come (low from the negative magnitudes in the same way):

    "stored"    high[n] = (2**j - 1) P+[n],  P+[n] = sum of the positive weights of n: a stored word
    "segments"  high[n] = sum_{i < j} 2**i sum_r min(P+[r, n], ones[r, i] (2**p[r, n] - 1)),
                P+[r, n] that sum in segment r, ones[r, i] the 1s of its slice i, p the width of the block

"segments" costs a stored word per output and segment and as many additions; it, "zero" and "final" are here to show
what could be gained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from golden_model.config import HardwareConfig, bits_for
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.post_processing import requantised
from golden_model.crossbar.prepared import Prepared, streams

Bounds = Literal["stored", "segments"]
Condition = Literal["limit", "zero", "final"]
#: Clocks from a lane's taking a check until it is known whether its output has stopped (rtl/early_stop.py).
STOP = 3


@dataclass(frozen=True, kw_only=True)
class EarlyStop:
    """How it is found out that an output is final.

    after : input bits after which outputs are checked, falling; None for all but the last. at : which checks there are
        units for. "half": one in each half; sums start at their stored word. "column": one in each column, as the tile
        has them, condition "limit"; the stored word is added by the check.
    """

    bounds: Bounds = "stored"
    condition: Condition = "limit"
    after: tuple[int, ...] | None = None
    at: Literal["half", "column"] = "half"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("bounds", ("stored", "segments")),
            ("condition", ("limit", "zero", "final")),
            ("at", ("half", "column")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"EarlyStop.{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}")
        after = list(self.after or ())
        if after != sorted(set(after), reverse=True) or min(after, default=1) < 1:
            raise ValueError(f"EarlyStop.after must be falling bits of at least 1, got {self.after}")

    @classmethod
    def in_tile(cls, layer: Layer) -> EarlyStop | None:
        """Early stop of a layer as its `stop_bits` say, None without."""
        after = chosen_bits(layer.stop_bits or 0, layer.input_bits)
        return cls(after=after, at="column") if after else None

    def bits(self, layer: Layer) -> tuple[int, ...]:
        """Input bits of a layer after which outputs are checked, falling; none of a last layer."""
        if layer.last:
            return ()
        return tuple(j for j in reversed(range(1, layer.input_bits)) if self.after is None or j in self.after)

    def words(self, layer: Layer, hardware: HardwareConfig) -> int:
        """Stored bounds of one output, that a check reads: P+, for "final" P-, too."""
        return (2 if self.condition == "final" else 1) * (layer.segments(hardware) if self.bounds == "segments" else 1)

    @property
    def adders(self) -> int:
        """Adders of a unit: for the sum; another one for the stored word, or for the multiplication by 2**j - 1."""
        return 1 if self.condition == "limit" and self.at == "half" else 2

    def stored_bits(self, layer: Layer, hardware: HardwareConfig) -> int:
        """Bits of the stored words of a layer, bounds and limits as wide as its largest need; 0 if it has no check."""
        if not self.bits(layer):
            return 0
        bound, start = self._widths(layer, hardware)
        return layer.outputs * (self.words(layer, hardware) * bound + start)

    def _widths(self, layer: Layer, hardware: HardwareConfig) -> tuple[int, int]:
        """Bits of a bound, and of the word that a sum starts from, 0 if there is none."""
        bound = bits_for(int(_magnitudes(layer.weights, hardware, self.bounds).max()))
        if self.condition != "limit":
            return bound, 0
        words = starts(layer)
        return bound, bits_for(int(np.maximum(words, ~words).max())) + 1

    def events(self, layer: Layer, hardware: HardwareConfig, stops: Stops, residual_bits: int) -> dict[str, int]:
        """Events of windows; residual_bits : of a residual, 0 if there is none. See docs/pair-machine.md.

        A residual is read before the first check and held until sums drain: written once and read once, and again by
        every check that requantises it.
        """
        checks, outputs = int(stops.checks.sum()), stops.sums.size
        words = checks * self.words(layer, hardware)
        bound, start = self._widths(layer, hardware)
        begun = {"half": outputs, "column": checks}[self.at] if self.condition == "limit" else 0
        requantised = {"limit": 0, "zero": 1, "final": 2}[self.condition] * checks
        return {
            "stop_checks": checks,
            "bound_words_read": words,
            "limit_words_read": begun,
            "stop_additions": words * self.adders,
            "stop_requantisations": requantised,
            "stop_word_bits": words * bound + begun * start + residual_bits * (2 * outputs + requantised),
        }


def chosen_bits(stop_bits: int, bits: int) -> tuple[int, ...]:
    """Input bits after which outputs are checked, falling. stop_bits : bit j set for a check after input bit j."""
    return tuple(bit for bit in reversed(range(1, bits)) if stop_bits >> bit & 1)


#: Early stop of all layers, or by name of the crossbar node; None, or a layer that is not named, has none.
Stopping = EarlyStop | Mapping[str, EarlyStop] | None


def stop_of(stopping: Stopping, node: str) -> EarlyStop | None:
    """Early stop of a crossbar node, or None."""
    return stopping.get(node) if isinstance(stopping, Mapping) else stopping


@dataclass(frozen=True, eq=False)
class Stops:
    """When outputs of windows stop.

    last_bit : int64 (P, N), lowest input bit for which an output is converted; 0 if it never stops.
    sums : int64 (P, N), acc when it stopped, or at the end.
    checks : int64 (P,), outputs that were checked, over all bits.
    after : input bits after which they were checked, falling.
    checked : bool (P, N), outputs that are checked at all.
    """

    last_bit: np.ndarray
    sums: np.ndarray
    checks: np.ndarray
    after: tuple[int, ...]
    checked: np.ndarray


def _magnitudes(weights: np.ndarray, hardware: HardwareConfig, bounds: Bounds) -> np.ndarray:
    """P+ and P-: int64 (2, N), or (2, segments, N) for "segments"."""
    both = np.stack([np.maximum(weights, 0), np.maximum(-weights, 0)]).astype(np.int64)
    if bounds == "stored":
        return both.sum(axis=1)
    return np.add.reduceat(both, np.arange(0, both.shape[1], hardware.ou_rows), axis=1)


def _positive(layer: Layer) -> np.ndarray:
    """P+: int64 (N,)."""
    return np.maximum(layer.weights, 0).sum(axis=0, dtype=np.int64)


def _has_weights(prepared: Prepared) -> np.ndarray:
    """Outputs of block columns with weights, all others are not checked: bool (N,)."""
    return np.repeat(prepared.widths.any(axis=0), prepared.hardware.ou_cols)[: prepared.outputs]


def limits(layer: Layer) -> np.ndarray:
    """The largest sum whose result without residual is 0: int64 (N,), cut to the sums that there can be.

    q(acc) = 0 if (acc + bias) M <= T, the largest number that rounds to at most 0 when it is shifted by S. A limit
    above all sums becomes the largest of them, one below all of them one less than the smallest.
    """
    largest = (1 << layer.shift) - 1 - ((1 << layer.shift) >> 1)
    most = (1 << layer.input_bits) - 1
    top = most * _positive(layer)
    bottom = -most * np.maximum(-layer.weights, 0).astype(np.int64).sum(axis=0) - 1
    multipliers = np.asarray(layer.multipliers, dtype=np.int64)
    found = largest // np.maximum(multipliers, 1) - layer.bias
    return np.clip(np.where(multipliers > 0, found, top), bottom, top)


def starts(layer: Layer) -> np.ndarray:
    """What sums start at in place of 0 with condition "limit", -(limit + P+ + 1): int64 (N,)."""
    return -(limits(layer) + _positive(layer) + 1)


def checked_after(streamed: np.ndarray, after: Collection[int]) -> np.ndarray:
    """Whether windows check their outputs after a bit: bool (P, bits).

    streamed : bool (P, segments, bits), bits that segments stream. after : bits that were chosen.
    """
    bits = np.logical_or.reduce(streamed, axis=1)
    lower = np.cumsum(bits, axis=1) - bits > 0
    return bits & lower & np.isin(np.arange(bits.shape[1]), list(after))


@dataclass(frozen=True, eq=False)
class StopWords:
    """What the hardware keeps of a layer whose outputs may stop, condition "limit".

    after : input bits after which outputs are checked, falling. starts : see `starts`, bounds : P+, int64 (N,).
    """

    after: tuple[int, ...]
    starts: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, layer: Layer) -> StopWords | None:
        """None for a layer without `stop_bits`."""
        if (stop := EarlyStop.in_tile(layer)) is None:
            return None
        return cls(stop.bits(layer), starts(layer), _positive(layer))

    @classmethod
    def nothing(cls, outputs: int) -> StopWords:
        """Of a layer without any."""
        zeros = np.zeros(outputs, dtype=np.int64)
        return cls((), zeros, zeros)

    def find(self, prepared: Prepared, activations: np.ndarray) -> Stops:
        """When the outputs of windows (P, K) stop, as `find_stops` finds it; conversions must be lossless."""
        streamed, positions = streams(prepared, activations)
        x = streamed.reshape(len(activations), -1)[:, : prepared.k].astype(np.float64)
        weights, checking = prepared.weights.astype(np.float64), checked_after(positions, self.after)
        shape = (len(x), prepared.outputs)
        used = _has_weights(prepared)
        last_bit, sums, checks = (np.zeros(size, dtype=np.int64) for size in (shape, shape, len(x)))
        for j in (*self.after, 0):
            acc = (np.floor(x / (1 << j)) @ weights).astype(np.int64) << j
            live = last_bit == 0
            sums[live] = acc[live]
            asked = live & used & checking[:, j, None]
            checks += asked.sum(axis=1)
            last_bit[asked & (acc + self.starts + (self.bounds << j) < 0)] = j
        return Stops(last_bit, sums, checks, self.after, np.broadcast_to(used, shape))


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
    streamed, positions = streams(prepared, activations)
    x = streamed.reshape(len(activations), -1)[:, : prepared.k].astype(np.float64)
    weights = layer.weights.astype(np.float64)  # sums below 2**53 are exact
    magnitudes = _magnitudes(layer.weights, prepared.hardware, stop.bounds)
    shape = (len(x), prepared.outputs)
    live, last_bit = np.ones(shape, dtype=bool), np.zeros(shape, dtype=np.int64)
    sums, checks = np.zeros(shape, dtype=np.int64), np.zeros(len(x), dtype=np.int64)
    acc, limit = np.zeros(shape, dtype=np.int64), limits(layer)
    checked = np.broadcast_to(_has_weights(prepared), shape)
    if stop.condition == "limit" and residual is not None:
        checked = checked & (residual == 0)
    after = stop.bits(layer)
    checking = checked_after(positions, after)
    for j in reversed(range(prepared.bits)):
        slices = np.floor(x / (1 << j)) % 2
        acc = acc + ((slices @ weights).astype(np.int64) << j)
        sums[live] = acc[live]
        if j not in after:
            continue
        asked = live & checked & checking[:, j, None]
        checks += asked.sum(axis=1)
        if stop.bounds == "stored":
            high, low = magnitudes * ((1 << j) - 1)
        else:
            high, low = (_segment_bound(prepared, streamed, side, j) for side in magnitudes)
        if stop.condition == "limit":
            final = acc + high <= limit
        else:
            top = requantised(layer, acc + high, residual, residual_multiplier)
            bottom = 0 if stop.condition == "zero" else requantised(layer, acc - low, residual, residual_multiplier)
            final = top == bottom
        last_bit[asked & final] = j
        live &= ~(asked & final)
    return Stops(last_bit, sums, checks, after, checked)


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
