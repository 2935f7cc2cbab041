"""What every A/D lane spends: operations, clocks in lock step and with lanes decoupled by queues (system.md §5, §13).

Lock step (the machine that is built): an OU takes max(1, sample_interval, most operations of any started lane) clocks;
C_r of segment r is the sum over its OU activations.

Decoupled (the option that system.md §5 leaves for later, here with ideal queues): samples of a segment wait in a queue
of their lane, of any depth, and lanes wait for each other only at the end of the segment. The array delivers a sample
of all lanes every max(1, sample_interval) clocks at most; a lane works without a gap on its own samples, one operation
per clock, and skips samples that need none. So
    C_r = max(OU activations * max(1, sample_interval), max over lanes of the lane's own operations),
a lower bound of any machine with queues: it leaves out that the last sample is delivered only at the end. All other
terms of a window's clocks stay as they are (timing.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from golden_model.crossbar.prepared import PATTERN_ROWS, Prepared, streams, switched_on
from golden_model.optional import numba_installed
from golden_model.trq import column_bounds

_CHUNK_BYTES = 32 << 20


def pack_words(bits: np.ndarray) -> np.ndarray:
    """0/1 (..., rows) -> uint64 (..., W), row r is bit r % 64 of word r // 64."""
    packed = np.packbits(bits.astype(np.uint8), axis=-1, bitorder="little")
    size = -(-packed.shape[-1] // 8) * 8
    padded = np.zeros((*packed.shape[:-1], size), dtype=np.uint8)
    padded[..., : packed.shape[-1]] = packed
    return padded.view("<u8").astype(np.uint64)


@dataclass(frozen=True, eq=False)
class Spent:
    """What windows spend.

    operations, ou_activations, input_bits_streamed : int64 (P,). lock_step, decoupled : C_r in clocks, int64
    (P, segments).
    """

    operations: np.ndarray
    ou_activations: np.ndarray
    input_bits_streamed: np.ndarray
    lock_step: np.ndarray
    decoupled: np.ndarray


def _zeros(prepared: Prepared, windows: int) -> Spent:
    shape = (windows, len(prepared.segments))
    return Spent(*(np.zeros(s, dtype=np.int64) for s in (windows, windows, windows, shape, shape)))


def lane_operations(prepared: Prepared, segment: int, slices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Operations of every lane, and clocks in lock step, for input slices of one segment.

    slices : float32 (ou_rows, X) of 0 and 1.

    Returns (operations int64 (X, lanes), clocks int64 (X,)); lane = polarity * ou_cols + column.
    """
    hardware = prepared.hardware
    x = slices.shape[1]
    lanes, clocks = np.zeros((hardware.lanes, x)), np.zeros(x, dtype=np.int64)
    active_rows = slices.sum(axis=0).astype(np.uint8)
    for plane in prepared.segments[segment]:
        counts = (plane.cells @ slices).astype(np.uint8)
        spent = prepared.converter.spent(counts, active_rows, plane)
        columns = len(plane.cells) // 2
        column = np.arange(prepared.outputs)[plane.columns] % hardware.ou_cols
        lane = np.concatenate([column, column + hardware.ou_cols])
        lanes += (np.arange(hardware.lanes)[:, None] == lane).astype(np.float32) @ spent.astype(np.float32)
        slowest = np.maximum.reduceat(np.maximum(spent[:columns], spent[columns:]), plane.starts, axis=0)
        clocks += np.maximum(slowest, max(1, hardware.sample_interval)).sum(axis=0, dtype=np.int64)
    return lanes.T.astype(np.int64), clocks


def _spend_plain(prepared: Prepared, streamed: np.ndarray, active: np.ndarray) -> Spent:
    """NumPy, with tables of all slices where OUs have few rows."""
    hardware = prepared.hardware
    made = _zeros(prepared, len(streamed))
    few_rows = hardware.ou_rows <= PATTERN_ROWS
    place = 1 << np.arange(hardware.ou_rows)
    shortest = max(1, hardware.sample_interval)
    for segment, planes in enumerate(prepared.segments):
        if not planes:
            continue
        lanes = np.zeros((len(streamed), hardware.lanes), dtype=np.int64)
        for i in range(prepared.bits):
            on = np.flatnonzero(active[:, segment, i])
            bits = (streamed[on, segment] >> i) & 1
            if few_rows:
                spent, clocks = _pattern_tables(prepared, segment)
                pattern = bits @ place
                spent, clocks = spent[pattern], clocks[pattern]
            else:
                slices = np.ascontiguousarray(bits.T, dtype=np.float32)
                spent, clocks = lane_operations(prepared, segment, slices)
            lanes[on] += spent
            made.lock_step[on, segment] += clocks
        ous = sum(len(plane.starts) for plane in planes) * active[:, segment].sum(axis=1)
        made.operations[:] += lanes.sum(axis=1)
        made.decoupled[:, segment] = np.maximum(lanes.max(axis=1), ous * shortest)
    return made


def _pattern_tables(prepared: Prepared, segment: int) -> tuple[np.ndarray, np.ndarray]:
    """`lane_operations` of all 2**ou_rows slices, made on first use and kept with the layer."""
    key = ("lanes", segment)
    if key not in prepared.tables:
        rows = prepared.hardware.ou_rows
        slices = ((np.arange(1 << rows) >> np.arange(rows)[:, None]) & 1).astype(np.float32)
        spent, clocks = lane_operations(prepared, segment, slices)
        prepared.tables[key] = spent.astype(np.int32), clocks.astype(np.int32)
    return prepared.tables[key]


@dataclass(frozen=True, eq=False)
class Cells:
    """Columns of all OUs of a layer, OU by OU, segments ascending.

    words : uint64 (columns, W). lane : int64 (columns,), polarity * ou_cols + column. bounds : uint8
    (columns,), u. first : int64 (OUs + 1,), where an OU's columns start. start : int64 (segments + 1,), where a
    segment's OUs start. operations : uint8 (ou_rows + 1, ou_rows + 1), [bound, count].
    """

    words: np.ndarray
    lane: np.ndarray
    bounds: np.ndarray
    first: np.ndarray
    start: np.ndarray
    operations: np.ndarray


def make_cells(prepared: Prepared) -> Cells:
    """`Cells` of a prepared layer."""
    hardware = prepared.hardware
    size = hardware.ou_rows + 1
    words, lane, ones, most, first, start = [], [], [], [], [0], [0]
    for planes in prepared.segments:
        for plane in planes:
            columns = len(plane.cells) // 2
            column = np.arange(prepared.outputs)[plane.columns] % hardware.ou_cols
            for begin, end in zip(plane.starts, [*plane.starts[1:], columns], strict=True):
                both = np.concatenate([np.arange(begin, end), np.arange(begin, end) + columns])
                words.append(pack_words(plane.cells[both]))
                ones.append(plane.ones[both])
                most.append(plane.most[both])
                lane.append(np.concatenate([column[begin:end], column[begin:end] + hardware.ou_cols]))
                first.append(first[-1] + len(both))
        start.append(len(first) - 1)
    no_words = np.zeros((0, pack_words(np.zeros(hardware.ou_rows)).size), dtype=np.uint64)
    all_ones, all_most = (np.concatenate([np.zeros(0, dtype=np.uint8), *parts]) for parts in (ones, most))
    converter, bits = prepared.converter, prepared.converter.registers.column_bound_bits
    if converter.searches is not None and bits is not None:
        operations = converter.searches
        bounds = column_bounds(all_ones, all_most, hardware.ou_rows, bits)
    else:
        operations = np.tile(np.frombuffer(converter.operations, dtype=np.uint8)[:size], (size, 1))
        bounds = np.full(len(all_ones), hardware.ou_rows, dtype=np.uint8)
    return Cells(
        words=np.concatenate([no_words, *words]),
        lane=np.concatenate([np.zeros(0, dtype=np.int64), *lane]).astype(np.int64),
        bounds=bounds,
        first=np.array(first, dtype=np.int64),
        start=np.array(start, dtype=np.int64),
        operations=operations,
    )


def slice_words(streamed: np.ndarray, bits: int) -> np.ndarray:
    """q'' (P, segments, ou_rows) -> slices uint64 (segments, bits, P, W)."""
    rows = streamed.transpose(1, 0, 2)
    return np.stack([pack_words((rows >> i) & 1) for i in range(bits)], axis=1)


def spend(
    prepared: Prepared, activations: np.ndarray, *, skip_zero_slices: bool | None = None, plain: bool = False
) -> Spent:
    """Operations and clocks of windows (P, K), unsigned integers below 2**activation_bits; exact.

    skip_zero_slices : instead of the layer's own setting. plain : plain NumPy even where numba is installed.
    """
    hardware = prepared.hardware
    windows, segments = len(activations), len(prepared.segments)
    few_rows = hardware.ou_rows <= PATTERN_ROWS
    compiled = not plain and not few_rows and numba_installed()
    if compiled and "lanes" not in prepared.tables:
        prepared.tables["lanes"] = make_cells(prepared)
    skipping = prepared.skip_zero_slices if skip_zero_slices is None else skip_zero_slices
    made = _zeros(prepared, windows)
    per_window = segments * (prepared.bits * (8 + hardware.ou_rows // 4) + 8 * hardware.ou_rows)
    per_window += 0 if few_rows or compiled else 16 * int(prepared.lanes_per_slice.max(initial=1))
    step = max(1, _CHUNK_BYTES // per_window)
    for begin in range(0, windows, step):
        part = slice(begin, min(begin + step, windows))
        streamed, mask = streams(prepared, activations[part])
        active = switched_on(replace(prepared, skip_zero_slices=skipping), streamed, mask)
        if compiled:
            from golden_model.crossbar import lanes_compiled

            one = _zeros(prepared, len(streamed))
            lanes_compiled.spend(
                prepared.tables["lanes"], slice_words(streamed, prepared.bits), active, hardware.lanes,
                max(1, hardware.sample_interval), one,
            )  # fmt: skip
        else:
            one = _spend_plain(prepared, streamed, active)
        made.operations[part], made.lock_step[part] = one.operations, one.lock_step
        made.decoupled[part] = one.decoupled
        made.ou_activations[part] = active.sum(axis=2) @ prepared.widths.sum(axis=1)
        made.input_bits_streamed[part] = mask.sum(axis=(1, 2))
    return made
