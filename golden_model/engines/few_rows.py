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

from golden_model import timing
from golden_model.compiled import njit as _njit
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import Prepared
from golden_model.crossbar.reference import slice_table
from golden_model.engines import simd
from golden_model.registers import COUNTER_NAMES

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
def _load_window(image, window, shape, border, q):
    """Gather one window's K activations into q (C outermost); windows in hardware order (system.md §5a)."""
    kernel_height, kernel_width, stride, pad, pool, out_width = shape
    channels, height, width = image.shape
    inside = window % (pool * pool)
    pooled = window // (pool * pool)
    top = (pooled // out_width * pool + inside // pool) * stride - pad
    left = (pooled % out_width * pool + inside % pool) * stride - pad
    k = 0
    if top >= 0 and left >= 0 and top + kernel_height <= height and left + kernel_width <= width:
        for c in range(channels):
            for y in range(kernel_height):
                for x in range(kernel_width):
                    q[k] = image[c, top + y, left + x]
                    k += 1
    else:
        for c in range(channels):
            for y in range(kernel_height):
                for x in range(kernel_width):
                    row, column = top + y, left + x
                    if 0 <= row < height and 0 <= column < width:
                        q[k] = image[c, row, column]
                    else:
                        q[k] = border[c]
                    k += 1


@_njit
def _pack_dynamic(image, first, shape, border, ou_rows, group_rows, k_rows, l_max, tau_sq, spread, words, streamed):
    """Patterns of the windows first.. of one image, with dynamic precision.

    words : uint64 (windows, segments, 2), out. streamed : uint8 (windows, segments), out: how many bit positions are
    streamed.
    """
    windows, segments = words.shape[:2]
    q = np.zeros(segments * ou_rows, dtype=np.uint8)
    for w in range(windows):
        _load_window(image, first + w, shape, border, q)
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
def _spread_map(image, border, pad, run, spread, spreads):
    """Spread words of every run of `run` pixels of the bordered map: uint64 (C, H + 2 pad, W + 2 pad, 2), out.

    Pixel j of a run is shifted to row j; the last run - 1 pixels of a row have no complete run.
    """
    channels, height, width = image.shape
    for c in range(channels):
        for y in range(height + 2 * pad):
            for x in range(width + 2 * pad):
                row, column = y - pad, x - pad
                byte = image[c, row, column] if 0 <= row < height and 0 <= column < width else border[c]
                spreads[c, y, x, 0] = spread[byte, 0]
                spreads[c, y, x, 1] = spread[byte, 1]
            # Left to right: pixel x + 1.. are still single when x takes them up.
            for x in range(width + 2 * pad - run + 1):
                for j in range(1, run):
                    spreads[c, y, x, 0] |= spreads[c, y, x + j, 0] << np.uint64(j)
                    spreads[c, y, x, 1] |= spreads[c, y, x + j, 1] << np.uint64(j)


@_njit
def _pack(spreads, first, offsets, shape, run, ou_rows, words):
    """Patterns of the windows first.. of one image, all bits streamed.

    spreads : uint64 (pixels, 2) of `_spread_map`. offsets : (K / run,) distance of each run of a window from
    the window's origin.
    """
    stride, pool, out_width, map_width = shape
    windows, segments = words.shape[:2]
    area, runs, per_segment = pool * pool, len(offsets), ou_rows // run
    for w in range(windows):
        inside, pooled = (first + w) % area, (first + w) // area
        top = (pooled // out_width * pool + inside // pool) * stride
        left = (pooled % out_width * pool + inside % pool) * stride
        origin = top * map_width + left
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
def _count(words, streamed, costs, planes, lanes, skip_zero, input_bits, block_cols, counters):
    """Add the events of packed windows to `counters` (int64, order of COUNTER_NAMES; cycles: sum of max(C_r, W))."""
    windows, segments = words.shape[:2]
    for s in range(segments):
        least = block_cols if s < segments - 1 else 0
        slices, operations, in_r1, clocks = _cost(words, s, streamed, costs[s], skip_zero, least)
        sent = np.int64(0)
        for w in range(windows):
            sent += streamed[w, s]
        counters[0] += slices * planes[s]
        counters[2] += (windows * input_bits - sent) * planes[s]
        counters[3] += (sent - slices) * planes[s]
        counters[4] += in_r1
        counters[5] += slices * lanes[s] - in_r1
        counters[6] += operations
        counters[7] += sent
        counters[8] += clocks


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


def run_images(
    layer: Layer | SimpleNamespace, prepared: Prepared, tables: Tables, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Images through one layer.

    images : uint8 (B, C, H, W). Returns (sums, counters): sums int32 (B, windows, column groups, COLUMNS),
    columns >= N are 0; counters int64 (B, COUNTER_NAMES), `cycles` the sum of the windows without c_layer.
    """
    hardware, redy = prepared.hardware, prepared.redy
    segments, block_cols = prepared.widths.shape
    windows = layer.windows
    border = np.zeros(layer.channels, dtype=np.uint8)
    if layer.pad_values is not None:
        border[:] = layer.pad_values
    sums = np.zeros((len(images), windows, tables.rows.shape[0], _COLUMNS), dtype=np.int32)
    counters = np.zeros((len(images), len(COUNTER_NAMES)), dtype=np.int64)
    block = max(1, _BLOCK_BYTES // tables.rows.strides[1])
    # Tables are walked once for a chunk: several images, or a part of the windows of a large one.
    chunk = max(1, _CHUNK_BYTES // (16 * segments))
    step, together = min(windows, chunk), max(1, min(len(images), chunk // windows))
    words = np.empty((together, step, segments, 2), dtype=np.uint64)
    streamed = np.full((step, segments), prepared.bits, dtype=np.uint8)
    if redy is None:
        map_height, map_width = layer.height + 2 * layer.pad, layer.width + 2 * layer.pad
        spreads = np.empty((layer.channels, map_height, map_width, 2), dtype=np.uint64)
        pixels = spreads.reshape(-1, 2)
        run = layer.kernel_width if hardware.ou_rows % layer.kernel_width == 0 else 1
        c, y, x = np.indices((layer.channels, layer.kernel_height, layer.kernel_width))[..., ::run]
        offsets = ((c * map_height + y) * map_width + x).ravel()
        shape = (layer.stride, layer.pool, layer.out_width, map_width)
    else:
        shape = (layer.kernel_height, layer.kernel_width, layer.stride, layer.pad, layer.pool, layer.out_width)
        group_rows = hardware.ou_rows * hardware.segments_per_group
    for start in range(0, len(images), together):
        part = images[start : start + together]
        for first in range(0, windows, step):
            count = min(step, windows - first)
            for index, image in enumerate(part):
                packed = words[index, :count], streamed[:count]
                if redy is None:
                    if first == 0 or together > 1:
                        _spread_map(image, border, layer.pad, run, _SPREAD, spreads)
                    _pack(pixels, first, offsets, shape, run, hardware.ou_rows, packed[0])
                else:
                    _pack_dynamic(
                        image, first, shape, border, hardware.ou_rows, group_rows, prepared.k, redy.l_max, redy.tau_sq,
                        _SPREAD, *packed,
                    )  # fmt: skip
                _count(
                    *packed, tables.costs, tables.planes, tables.lanes, prepared.skip_zero_slices,
                    hardware.input_bits, block_cols, counters[start + index],
                )  # fmt: skip
            _ACCUMULATE[tables.kind](
                words[: len(part), :count].reshape(-1, segments, 2),
                tables.rows,
                block,
                sums[start : start + len(part), first : first + count].reshape(-1, *sums.shape[2:]),
            )
    missing = hardware.weight_bits * segments * block_cols - int(tables.planes.sum())
    counters[:, 1] += windows * missing * hardware.input_bits
    # `_count` summed max(C_r, W); the formula's other terms are those of a window without any conversion.
    empty = int(timing.window_cycles(hardware, prepared.k, prepared.outputs, np.zeros(segments, dtype=np.int64)))
    counters[:, 8] += windows * (empty - (segments - 1) * block_cols)
    return sums, counters


def run_matrix(prepared: Prepared, tables: Tables, activations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows (P, K) that already lie side by side: sums (P, N) int64 and the counters of all windows.

    They are walked as the pixels of one map of K channels and one row.
    """
    windows = len(activations)
    walk = SimpleNamespace(
        channels=prepared.k, height=1, width=windows, kernel_height=1, kernel_width=1, stride=1, pad=0, pool=1,
        out_width=windows, windows=windows, pad_values=None,
    )  # fmt: skip
    image = np.ascontiguousarray(activations.T, dtype=np.uint8).reshape(1, prepared.k, 1, windows)
    sums, counters = run_images(walk, prepared, tables, image)
    return sums.reshape(windows, -1)[:, : prepared.outputs].astype(np.int64), counters[0]


def run_layer(
    layer: Layer, prepared: Prepared, tables: Tables, activations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums (B, windows, columns >= N) in hardware order; counters (B, COUNTER_NAMES), `cycles` without c_layer."""
    sums, counters = run_images(layer, prepared, tables, activations)
    return sums.reshape(len(sums), layer.windows, -1), counters
