"""The compiled engine: whole layers on whole images, bit for bit and event for event as `crossbar/reference.py`.

For OUs of few rows every input slice is one of 2**ou_rows patterns. A table per input segment holds, for
each pattern, the contribution to every output: the sum over weight planes and polarities of
+-(value << b), converted once by the plain NumPy model. One row addition then stands for all A/D
conversions of a slice. A second table holds what the slice costs (A/D operations, R1 conversions,
clocks), so that every event is counted exactly.

Memory per thread: one image's patterns (16 bytes per window and segment) and sums (4 bytes per window and
output); tables take 2 or 4 bytes * 2**ou_rows per segment and output, shared by all threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np

from golden_model.compiled import njit as _njit
from golden_model.crossbar.counters import Tally, counters_of
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import Prepared
from golden_model.crossbar.reference import slice_table
from golden_model.crossbar.windows import with_border
from golden_model.engines import simd

_COLUMNS = simd.COLUMNS
_CHUNK_BYTES = 512 << 10  # packed patterns that the tables are walked for at a time
_BLOCK_BYTES = 256 << 10  # tables that are walked together; about half of a level-2 cache
_FIELD_BITS = 21  # three event counts of one slice share a 64-bit word
_FIELD = (1 << _FIELD_BITS) - 1


def _spread() -> np.ndarray:
    """(256, 2) uint64: bit i of a byte to bit 16 * (i % 4) of word i // 4."""
    byte = np.arange(256, dtype=np.uint64)[:, None]
    words = np.zeros((256, 2), dtype=np.uint64)
    for i in range(8):
        words[:, i // 4] |= ((byte[:, 0] >> np.uint64(i)) & np.uint64(1)) << np.uint64(16 * (i % 4))
    return words


_SPREAD = _spread()


@dataclass(frozen=True, eq=False)
class Tables:
    """Pattern tables of one prepared layer.

    rows : (column groups, segments, 2**ou_rows, COLUMNS) int16 or int32 contributions. kind : which `add_rows` fits.
    costs : (segments, 2**ou_rows) uint64, A/D operations | R1 conversions | clocks, 21 bits each.
    planes, lanes : (segments,) int64 OU activations and conversions per switched-on slice.
    """

    rows: np.ndarray
    costs: np.ndarray
    kind: int
    planes: np.ndarray
    lanes: np.ndarray


def layer_tables(prepared: Prepared) -> Tables | None:
    """Tables from the plain model's results, or None where their numbers do not fit the compact form."""
    segments, patterns = len(prepared.segments), 1 << prepared.hardware.ou_rows
    groups = -(-prepared.outputs // _COLUMNS)
    rows = np.zeros((groups, segments, patterns, _COLUMNS), dtype=np.int32)
    costs = np.zeros((segments, patterns), dtype=np.uint64)
    for segment in range(segments):
        made = slice_table(prepared, segment)
        padded = np.zeros((patterns, groups * _COLUMNS), dtype=np.int32)
        padded[:, : prepared.outputs] = made.sums
        rows[:, segment] = padded.reshape(patterns, groups, _COLUMNS).transpose(1, 0, 2)
        parts = [np.asarray(x, dtype=np.uint64) for x in (made.operations, made.in_r1, made.clocks)]
        if max(int(x.max()) for x in parts) * 8 > _FIELD:
            return None
        costs[segment] = parts[0] | parts[1] << np.uint64(_FIELD_BITS) | parts[2] << np.uint64(2 * _FIELD_BITS)
    largest = int(np.abs(rows).max(initial=0))
    if segments * largest * 255 >= 1 << 31:
        return None
    kind = 0 if 3 * largest < 1 << 15 else 1 if largest < 1 << 15 else 2
    return Tables(
        rows=rows if kind == 2 else rows.astype(np.int16),
        costs=costs,
        kind=kind,
        planes=prepared.widths.sum(axis=1).astype(np.int64),
        lanes=prepared.lanes_per_slice,
    )


@_njit
def _choose_precision(q, start, stop, l_max, tau_sq):
    """(lo, hi) of one group of activations q[start:stop]; hi = -1 when all are 0 (system.md §6)."""
    n = np.int64(stop - start)
    largest = total = squares = np.int64(0)
    for k in range(start, stop):
        x = np.int64(q[k])
        largest = max(largest, x)
        total += x
        squares += x * x
    hi = -1
    while largest >> (hi + 1):
        hi += 1
    lo = 0
    spread = tau_sq * (n * squares - total * total)
    for low in range(1, min(l_max, hi) + 1):
        if (n * n) << (2 * low + 12) <= spread:
            lo = low
    return lo, hi


@_njit
def _origin(window, walk):
    """Offset of a window in the bordered map, one value a pixel; windows in hardware order (system.md §5a)."""
    stride, pool, out_width, map_width = walk
    inside, pooled = window % (pool * pool), window // (pool * pool)
    top = (pooled // out_width * pool + inside // pool) * stride
    left = (pooled % out_width * pool + inside % pool) * stride
    return top * map_width + left


@_njit
def _pack_dynamic(pixels, first, offsets, walk, ou_rows, group_rows, l_max, tau_sq, spread, words, streamed):
    """Patterns of the windows first.. of one bordered image, with dynamic precision.

    pixels : uint8, flat. offsets : (K,) distance of each row of a window from the window's origin. words : uint64
    (windows, segments, 2), out. streamed : uint8 (windows, segments), out: how many bit positions are streamed.
    """
    windows, segments = words.shape[:2]
    k_rows = len(offsets)
    q = np.zeros(segments * ou_rows, dtype=np.uint8)
    for w in range(windows):
        origin = _origin(first + w, walk)
        for k in range(k_rows):
            q[k] = pixels[origin + offsets[k]]
        for start in range(0, k_rows, group_rows):
            stop = min(start + group_rows, k_rows)
            lo, hi = _choose_precision(q, start, stop, l_max, tau_sq)
            if lo:
                half, top = np.int64(1) << lo >> 1, (np.int64(1) << (hi - lo + 1)) - 1
                for k in range(start, stop):
                    q[k] = min((np.int64(q[k]) + half) >> lo, top) << lo
            for s in range(start // ou_rows, -(-stop // ou_rows)):
                streamed[w, s] = hi - lo + 1
        for s in range(segments):
            low = high = np.uint64(0)
            for r in range(ou_rows):
                byte = q[s * ou_rows + r]
                low |= spread[byte, 0] << np.uint64(r)
                high |= spread[byte, 1] << np.uint64(r)
            words[w, s, 0] = low
            words[w, s, 1] = high


@_njit
def _spread_runs(pixels, run, spread, spreads):
    """Spread words of every run of `run` pixels: uint64 (pixels, 2), out; pixel j of a run is shifted to row j.

    Runs that do not lie in one row of a map belong to no window.
    """
    for x in range(len(pixels)):
        spreads[x, 0] = spread[pixels[x], 0]
        spreads[x, 1] = spread[pixels[x], 1]
    # From the first on: the pixels behind x are still single when x takes them up.
    for x in range(len(pixels) - run + 1):
        for j in range(1, run):
            spreads[x, 0] |= spreads[x + j, 0] << np.uint64(j)
            spreads[x, 1] |= spreads[x + j, 1] << np.uint64(j)


@_njit
def _pack(spreads, first, offsets, walk, run, ou_rows, words):
    """Patterns of the windows first.. of one image, all bits streamed.

    spreads : uint64 (pixels, 2) of `_spread_runs`. offsets : (K / run,) distance of each run of a window from
    the window's origin.
    """
    windows, segments = words.shape[:2]
    runs, per_segment = len(offsets), ou_rows // run
    for w in range(windows):
        origin = _origin(first + w, walk)
        for s in range(segments):
            low = high = np.uint64(0)
            shift = np.uint64(0)
            for k in range(s * per_segment, min(s * per_segment + per_segment, runs)):
                at = origin + offsets[k]
                low |= spreads[at, 0] << shift
                high |= spreads[at, 1] << shift
                shift += np.uint64(run)
            words[w, s, 0] = low
            words[w, s, 1] = high


@_njit
def _nonzero_lanes(word):
    """How many of the four 16-bit lanes (each below 2**15) of a word are not 0."""
    carry = ((word + np.uint64(0x7FFF7FFF7FFF7FFF)) & np.uint64(0x8000800080008000)) >> np.uint64(15)
    return np.int64((carry * np.uint64(0x0001000100010001)) >> np.uint64(48))


@_njit
def _cost(words, s, streamed, cost, skip_zero, block_cols):
    """(switched-on slices, cost fields, sum of max(C_r, W)) of segment s over all windows.

    Every slice that is not switched on is a slice of zeros: all eight are charged, the idle ones taken back.
    """
    a, b, c = np.uint64(16), np.uint64(32), np.uint64(48)
    mask, field = np.uint64(0xFFFF), np.uint64(_FIELD)
    slices = operations = in_r1 = clocks = np.int64(0)
    for w in range(len(words)):
        low, high = words[w, s, 0], words[w, s, 1]
        # Written out, because a loop becomes vector gathers, which are slower here.
        total = cost[low & mask] + cost[(low >> a) & mask] + cost[(low >> b) & mask] + cost[low >> c]
        total += cost[high & mask] + cost[(high >> a) & mask] + cost[(high >> b) & mask] + cost[high >> c]
        active = _nonzero_lanes(low) + _nonzero_lanes(high) if skip_zero else np.int64(streamed[w, s])
        total -= cost[0] * np.uint64(8 - active)
        slices += active
        operations += np.int64(total & field)
        in_r1 += np.int64((total >> np.uint64(_FIELD_BITS)) & field)
        clocks += max(np.int64(total >> np.uint64(2 * _FIELD_BITS)), block_cols)
    return slices, operations, in_r1, clocks


@_njit
def _count(words, streamed, costs, planes, lanes, skip_zero, block_cols, tally):
    """Add what packed windows did to `tally` (int64, order of `Tally`)."""
    windows, segments = words.shape[:2]
    for s in range(segments):
        least = block_cols if s < segments - 1 else 0
        slices, operations, in_r1, clocks = _cost(words, s, streamed, costs[s], skip_zero, least)
        sent = np.int64(0)
        for w in range(windows):
            sent += streamed[w, s]
        tally[0] += sent
        tally[1] += sent * planes[s]
        tally[2] += slices * planes[s]
        tally[3] += slices * lanes[s]
        tally[4] += in_r1
        tally[5] += operations
        tally[6] += clocks


def _make_accumulate(add_rows: Any) -> Any:
    @numba.njit(nogil=True, error_model="numpy")
    def accumulate(words, rows, block, sums):
        """sums (windows, column groups, COLUMNS) int32 += all slices of all windows."""
        windows, segments = words.shape[:2]
        groups, patterns = rows.shape[0], rows.shape[2]
        for first in range(0, segments, block):
            count = min(block, segments - first)
            for group in range(groups):
                for w in range(windows):
                    add_rows(sums[w, group], rows[group, first], words[w, first], count, patterns)

    return accumulate


_ACCUMULATE = tuple(_make_accumulate(f) for f in (simd.add_rows_16_pairs, simd.add_rows_16, simd.add_rows_32))


def run_layer(layer: Layer, prepared: Prepared, tables: Tables, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images through one layer.

    images : uint8 (B, C, H, W). Returns (sums, counters): sums int32 (B, windows, columns >= N) in hardware order,
    those beyond N are 0; counters int64 (B, COUNTER_NAMES), `cycles` the sum of the windows without c_layer.
    """
    hardware, redy = prepared.hardware, prepared.redy
    segments, block_cols = prepared.widths.shape
    windows = layer.windows
    sums = np.zeros((len(images), windows, tables.rows.shape[0], _COLUMNS), dtype=np.int32)
    tallies = np.zeros((len(images), len(Tally._fields)), dtype=np.int64)
    block = max(1, _BLOCK_BYTES // tables.rows.strides[1])
    # Tables are walked once for a chunk: several images, or a part of the windows of a large one.
    chunk = max(1, _CHUNK_BYTES // (16 * segments))
    step, together = min(windows, chunk), max(1, min(len(images), chunk // windows))
    words = np.empty((together, step, segments, 2), dtype=np.uint64)
    streamed = np.full((step, segments), prepared.bits, dtype=np.uint8)
    maps = with_border(layer, images)
    height, width = maps.shape[2:]
    maps = maps.reshape(len(images), -1)
    run = layer.kernel_width if redy is None and hardware.ou_rows % layer.kernel_width == 0 else 1
    c, y, x = np.indices((layer.channels, layer.kernel_height, layer.kernel_width))[..., ::run]
    offsets = ((c * height + y) * width + x).ravel()
    walk = (layer.stride, layer.pool, layer.out_width, width)
    spreads = np.empty((maps.shape[1] if redy is None else 0, 2), dtype=np.uint64)
    for start in range(0, len(images), together):
        part = maps[start : start + together]
        for first in range(0, windows, step):
            count = min(step, windows - first)
            for index, pixels in enumerate(part):
                packed = words[index, :count], streamed[:count]
                if redy is None:
                    if first == 0 or together > 1:
                        _spread_runs(pixels, run, _SPREAD, spreads)
                    _pack(spreads, first, offsets, walk, run, hardware.ou_rows, packed[0])
                else:
                    group_rows = hardware.ou_rows * hardware.segments_per_group
                    _pack_dynamic(
                        pixels, first, offsets, walk, hardware.ou_rows, group_rows, redy.l_max, redy.tau_sq, _SPREAD,
                        *packed,
                    )  # fmt: skip
                _count(
                    *packed, tables.costs, tables.planes, tables.lanes, prepared.skip_zero_slices, block_cols,
                    tallies[start + index],
                )  # fmt: skip
            _ACCUMULATE[tables.kind](
                words[: len(part), :count].reshape(-1, segments, 2),
                tables.rows,
                block,
                sums[start : start + len(part), first : first + count].reshape(-1, *sums.shape[2:]),
            )
    return sums.reshape(len(images), windows, -1), counters_of(prepared, windows, Tally(*tallies.T))


def run_matrix(prepared: Prepared, tables: Tables, activations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows (P, K) that already lie side by side: sums (P, N) int64 and the counters of all windows.

    They are walked as the pixels of one map of K channels and one row.
    """
    windows = len(activations)
    walk: Any = SimpleNamespace(
        channels=prepared.k, height=1, width=windows, kernel_height=1, kernel_width=1, stride=1, pad=0, pool=1,
        out_width=windows, windows=windows, pad_values=None,
    )  # fmt: skip
    image = np.ascontiguousarray(activations.T, dtype=np.uint8).reshape(1, prepared.k, 1, windows)
    sums, counters = run_layer(walk, prepared, tables, image)
    return sums[0, :, : prepared.outputs].astype(np.int64), counters[0]
