"""One layer as the crossbars compute it, in plain NumPy: exact sums and event counters (system.md §3-§6, §10).

Every operation unit (OU) converts, for each streamed input bit i and stored weight plane b, the count
of rows where input bit and cell are both 1; the value is accumulated as +-(value << (i + b)).

Two ways give identical results: `direct` converts every slice that occurs; `patterns` converts all 2**ou_rows slices
of a segment once and looks the results up, which is faster as soon as slices repeat (small OUs, many windows). They
are what every other engine (golden_model/engines) must equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from golden_model import timing
from golden_model.crossbar.counters import Tally, counters_of
from golden_model.crossbar.prepared import PATTERN_ROWS, Prepared, check_activations, streams, switched_on, translate
from golden_model.events import Events
from golden_model.registers import COUNTER_NAMES

_CHUNK_BYTES = 48 << 20


@dataclass(frozen=True, eq=False)
class SliceResult:
    """What X input slices of one segment and input bit give, before the shift by i.

    sums : (X, N) int32, signed sum of value << b. operations, in_r1, clocks : (X,) int32.
    """

    sums: np.ndarray
    operations: np.ndarray
    in_r1: np.ndarray
    clocks: np.ndarray


def convert_slices(prepared: Prepared, segment: int, slices: np.ndarray) -> SliceResult:
    """All conversions that input slices of one segment start.

    slices : float32 (ou_rows, X) of 0 and 1. Plain NumPy, the oracle of every faster way.
    """
    hardware, adc, x = prepared.hardware, prepared.converter, slices.shape[1]
    sums = np.zeros((prepared.outputs, x), dtype=np.int32)
    operations, in_r1, clocks = (np.zeros(x, dtype=np.int32) for _ in range(3))
    shortest = max(1, hardware.sample_interval)
    active_rows = slices.sum(axis=0).astype(np.uint8)
    for plane in prepared.segments[segment]:
        columns = len(plane.cells) // 2
        counts = (plane.cells @ slices).astype(np.uint8)  # (2 * columns, X)
        values = counts if adc.identity else translate(counts, adc.value)
        difference = np.subtract(values[:columns], values[columns:], dtype=np.int16)
        sums[plane.columns] += difference.astype(np.int32) << plane.bit
        if adc.constant_operations is None:
            spent = adc.spent(counts, active_rows, plane)
            operations += spent.sum(axis=0, dtype=np.int32)
            slowest = np.maximum.reduceat(np.maximum(spent[:columns], spent[columns:]), plane.starts, axis=0)
            clocks += np.maximum(slowest, shortest).sum(axis=0, dtype=np.int32)
        else:
            operations += 2 * columns * adc.constant_operations
            clocks += len(plane.starts) * max(shortest, adc.constant_operations)
        if adc.any_r1:
            in_r1 += translate(counts, adc.in_r1).sum(axis=0, dtype=np.int32)
    return SliceResult(np.ascontiguousarray(sums.T), operations, in_r1, clocks)


def _zero_totals(prepared: Prepared, windows: int) -> SliceResult:
    """Of windows: sums (P, N); operations, in_r1 (P,) and segment clocks C_r (P, segments); int64."""
    return SliceResult(
        np.zeros((windows, prepared.outputs), dtype=np.int64),
        np.zeros(windows, dtype=np.int64),
        np.zeros(windows, dtype=np.int64),
        np.zeros((windows, len(prepared.segments)), dtype=np.int64),
    )


def _direct(prepared: Prepared, streamed: np.ndarray, active: np.ndarray) -> SliceResult:
    """Convert every slice that is switched on, one by one.

    streamed : (P, segments, ou_rows) integers q''. active : bool (P, segments, bits), slices that are
    switched on.
    """
    hardware = prepared.hardware
    totals = _zero_totals(prepared, len(streamed))
    widest = max((len(p.cells) for planes in prepared.segments for p in planes), default=1)
    step = max(1, _CHUNK_BYTES // (8 * widest + 8 * prepared.outputs + 8 * hardware.ou_rows))
    for segment, planes in enumerate(prepared.segments):
        if not planes:
            continue
        for i in range(prepared.bits):
            chosen = np.flatnonzero(active[:, segment, i])
            for start in range(0, len(chosen), step):
                part = chosen[start : start + step]
                slices = np.ascontiguousarray(((streamed[part, segment] >> i) & 1).T, dtype=np.float32)
                result = convert_slices(prepared, segment, slices)
                totals.sums[part] += result.sums.astype(np.int64) << i
                totals.operations[part] += result.operations
                totals.in_r1[part] += result.in_r1
                totals.clocks[part, segment] += result.clocks
    return totals


def slice_table(prepared: Prepared, segment: int) -> SliceResult:
    """Results of all 2**ou_rows slices of a segment, made on first use."""
    key = ("slices", segment)
    if key not in prepared.tables:
        rows = prepared.hardware.ou_rows
        patterns = np.arange(1 << rows)
        slices = ((patterns >> np.arange(rows)[:, None]) & 1).astype(np.float32)
        prepared.tables[key] = convert_slices(prepared, segment, slices)
    return prepared.tables[key]


def _patterns(prepared: Prepared, streamed: np.ndarray, active: np.ndarray) -> SliceResult:
    """Look every slice up in a table over all slices of its segment; as `_direct` otherwise."""
    rows = prepared.hardware.ou_rows
    totals = _zero_totals(prepared, len(streamed))
    place = (1 << np.arange(rows)).astype(np.float32)
    for segment, planes in enumerate(prepared.segments):
        if not planes:
            continue
        window_rows, table = streamed[:, segment], slice_table(prepared, segment)
        for i in range(prepared.bits):
            on = active[:, segment, i]
            if not on.any():
                continue
            pattern = (((window_rows >> i) & 1).astype(np.float32) @ place).astype(np.intp)
            totals.sums[...] += table.sums.take(pattern, axis=0).astype(np.int64) << i  # a slice of zeros adds 0
            totals.operations[...] += np.where(on, table.operations[pattern], 0)
            totals.in_r1[...] += np.where(on, table.in_r1[pattern], 0)
            totals.clocks[:, segment] += np.where(on, table.clocks[pattern], 0)
    return totals


def _convert(prepared: Prepared, streamed: np.ndarray, active: np.ndarray, name: str) -> SliceResult:
    """The conversions of a chunk of windows."""
    if name not in ("auto", "direct", "patterns"):
        raise ValueError(f"engine must be 'auto', 'direct', 'patterns', 'compiled' or 'torch', got {name!r}")
    rows = prepared.hardware.ou_rows
    if name == "auto":
        repeats = len(streamed) * prepared.bits >= 1 << rows or bool(prepared.tables)
        name = "patterns" if rows <= PATTERN_ROWS and repeats else "direct"
    if name == "patterns":
        if rows > PATTERN_ROWS:
            raise ValueError(f"engine 'patterns' takes at most {PATTERN_ROWS} OU rows, got {rows}")
        return _patterns(prepared, streamed, active)
    return _direct(prepared, streamed, active)


def run(prepared: Prepared, activations: Any, *, engine: str = "auto") -> tuple[np.ndarray, Events]:
    """Run windows through a prepared layer.

    activations : (P, K) unsigned integers below 2**activation_bits. engine : "direct", "patterns", or "auto", whichever
        is faster.

    Returns (sums, events): sums (P, N) int64 in units of Delta_R1; events with leading shape (P,).
    """
    activations = check_activations(prepared, activations)
    windows = len(activations)
    sums = np.zeros((windows, prepared.outputs), dtype=np.int64)
    counters = np.zeros((windows, len(COUNTER_NAMES)), dtype=np.int64)
    bytes_per_window = 8 * (4 * prepared.k + 3 * prepared.outputs + 4 * len(prepared.segments) * prepared.bits)
    step = max(1, _CHUNK_BYTES // bytes_per_window)
    for start in range(0, windows, step):
        part = slice(start, min(start + step, windows))
        sums[part], counters[part] = _run_chunk(prepared, activations[part], engine)
    return sums, Events(counters)


def _run_chunk(prepared: Prepared, activations: np.ndarray, engine: str) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counters of a chunk of windows."""
    hardware = prepared.hardware
    streamed, mask = streams(prepared, activations)
    streamed_bits = mask.sum(axis=2)
    active = switched_on(prepared, streamed, mask)
    totals = _convert(prepared, streamed, active, engine)

    planes = prepared.widths.sum(axis=1)  # (segments,)
    slices = active.sum(axis=2)  # (P, segments) switched-on slices
    tally = Tally(
        streamed=streamed_bits.sum(axis=1),
        streamed_planes=streamed_bits @ planes,
        activated=slices @ planes,
        conversions=slices @ prepared.lanes_per_slice,
        in_r1=totals.in_r1,
        operations=totals.operations,
        clocks=timing.busy_cycles(hardware, prepared.outputs, totals.clocks),
    )
    return totals.sums, counters_of(prepared, 1, tally)
