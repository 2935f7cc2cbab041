"""The compiled engine for whole columns: OUs of many rows, bit for bit and event for event as `crossbar/reference.py`.

Bit i of one row's activation over `bit_slices.WINDOWS` windows is one slice. The count of an A/D conversion is the
sum of the slices of the rows whose cell is 1, made by a tree of full adders; its value is that count through a
small program of multiplexers (programs.py), made from the conversion table by the plain NumPy model's own numbers, so
any characteristic works. Values of both polarities are subtracted, shifted and accumulated as slices, and become
integers once per column. R1 conversions and slow OUs are counted the same way, so every event is exact for every
window.

A block of WINDOWS windows may span images: give batches that fill it, 1000 windows or more. The kernels release the
interpreter lock and only read the tables, so threads may share those, each with its own batch.

    prepared = prepare_layer(layer, hardware)
    tables = layer_tables(prepared)  # None: use the plain model
    sums, counters = run_layer(layer, prepared, tables, images)

Memory per thread: sums (4 bytes per window and output), 4 KiB per output, 1 KiB per row of a dynamic-precision group
and a segment's slices, 1 KiB per OU row. The tables take 2 bytes per cell that is 1 and 10 per column and plane.

Limits, where `layer_tables` returns None: sums must fit 32 bits, and a setting must spend the same A/D operations
on all conversions of a range, which early detection does not. Searches of ours (system.md §13) do not either: their
sums and other events come from here, their operations and clocks from population counts (crossbar/lanes.py), which
is slower.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np

from golden_model import timing
from golden_model.compiled import njit
from golden_model.crossbar.counters import Tally, counters_of
from golden_model.crossbar.lanes import spend
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import Prepared
from golden_model.crossbar.windows import in_window_order, windows, with_border
from golden_model.engines import bit_slices, simd
from golden_model.engines import programs as program_code
from golden_model.engines.bit_slices import (
    BYTES,
    SIZES,
    WINDOWS,
    WORDS,
    add_difference,
    add_slices,
    call_program,
    copy_bytes,
    copy_slice,
    count_rows,
    fill,
    note_flags,
    pack_bytes,
    padded_size,
    to_integers,
)
from golden_model.engines.programs import COUNT, ONE, ZERO, Compiled, compile_programs
from golden_model.registers import COUNTER_NAMES

_njit = numba.njit(nogil=True, error_model="numpy")

_DIGITS = 8  # of a count of up to 128 rows, and of a value
_FLAG = _DIGITS + 2  # outputs of a program: value digits, two zeros above them, R1 flag
_PENDING = SIZES[-1]  # flag slices that are counted together
_TILE_BYTES = 512 << 10  # accumulators that stay in the cache while the input bits pass by

_PADDED = np.array([0] + [padded_size(rows) for rows in range(1, 129)], dtype=np.int64)
_IN_ORDER = (np.arange(_PENDING) * BYTES).astype(np.uint16)


class Cells(NamedTuple):
    """Which rows of every column hold a 1; independent of the A/D settings.

    offsets : uint16, row lists, entries are byte offsets of slices, padded with the offset of a slice of zeros.
    first, size, ones : (segments, N, planes, 2), where a column's list starts, its padded length, and the bit
    length of its number of ones. widths : (segments, block_cols). ou_cols : columns per block.
    """

    offsets: np.ndarray
    first: np.ndarray
    size: np.ndarray
    ones: np.ndarray
    widths: np.ndarray
    ou_cols: int


class Programs(NamedTuple):
    """Conversion programs of an A/D setting.

    program : (9,), program for counts of so many digits. code : (programs,) their addresses. outputs : uint16
    (programs, 11) byte offsets of the slots of value digits and flag. flagged, clocked : whether R1 must be counted,
    and slow OUs. flip : -1 if R2 is the slow range, else 0. digits : of the largest value. area : slots of one
    conversion.
    """

    program: np.ndarray
    code: np.ndarray
    outputs: np.ndarray
    flagged: bool
    clocked: bool
    flip: int
    digits: int
    area: int


class Costs(NamedTuple):
    """What slices cost whatever the counts are, and the weight of the counted ones.

    known, silent : (segments, 8, 3) R1 conversions, A/D operations, clocks of one switched-on slice of input bit i:
    `known` without what the flags tell, `silent` all of it for a slice without ones.
    operations, clocks : what an R1 flag and a slow OU add to that.
    planes, lanes : (segments,) OU activations and conversions of a switched-on slice.
    """

    known: np.ndarray
    silent: np.ndarray
    operations: int
    clocks: int
    planes: np.ndarray
    lanes: np.ndarray


class Sizes(NamedTuple):
    """Digits of sums, of R1 conversions of a window and of slow OUs of a segment; two's complement."""

    sums: int
    r1: int
    slow: int


@dataclass(frozen=True, eq=False)
class Tables:
    """A prepared layer as the engine reads it. searches : operations and clocks come from crossbar/lanes.py."""

    cells: Cells
    programs: Programs
    costs: Costs
    sizes: Sizes
    compiled: Compiled
    searches: bool


# ---- tables -------------------------------------------------------------------------------------
def _make_cells(prepared: Prepared) -> Cells:
    """Row lists of a prepared layer."""
    hardware, segments = prepared.hardware, len(prepared.segments)
    shape = (segments, prepared.outputs, hardware.weight_bits, 2)
    count = np.zeros(shape, dtype=np.int64)

    def lists(plane: Any) -> tuple[Any, int, np.ndarray]:
        """Where the plane's lists lie in (N, planes, 2), in the order of its cells: polarity, column."""
        return np.arange(prepared.outputs)[plane.columns], plane.bit, np.arange(2)[:, None]

    for segment, planes in enumerate(prepared.segments):
        for plane in planes:
            count[segment][lists(plane)] = plane.cells.sum(axis=1).reshape(2, -1)
    size = _PADDED[count]
    first = (np.cumsum(size) - size.ravel()).reshape(shape)
    offsets = np.full(max(1, int(size.sum())), hardware.ou_rows * BYTES, dtype=np.uint16)
    for segment, planes in enumerate(prepared.segments):
        for plane in planes:
            which, row = np.nonzero(plane.cells)
            begin = np.searchsorted(which, np.arange(len(plane.cells)))
            offsets[first[segment][lists(plane)].ravel()[which] + np.arange(len(which)) - begin[which]] = row * BYTES
    digits = np.array([n.bit_length() for n in range(129)], dtype=np.uint8)
    return Cells(
        offsets=offsets,
        first=first,
        size=size.astype(np.uint8),
        ones=digits[count],
        widths=prepared.widths,
        ou_cols=hardware.ou_cols,
    )


def layer_tables(prepared: Prepared) -> Tables | None:
    """Tables of a prepared layer, or None outside the limits named above."""
    hardware, bits, adc = prepared.hardware, prepared.bits, prepared.converter
    rows, segments = hardware.ou_rows, len(prepared.segments)
    value, operations, in_r1 = (
        np.frombuffer(x, dtype=np.uint8)[: rows + 1].astype(np.int64) for x in (adc.value, adc.operations, adc.in_r1)
    )
    if adc.searches is not None:
        operations = np.ones_like(operations)  # the true ones come from crossbar/lanes.py
    by_range = [np.unique(operations[in_r1 == flag]).tolist() for flag in (1, 0)]  # of R1, of R2
    if max(map(len, by_range)) > 1:
        return None
    spent = [(mine or other)[0] for mine, other in (by_range, by_range[::-1])]
    clocks = [max(1, hardware.sample_interval, x) for x in spent]

    cells, planes, lanes = _make_cells(prepared), prepared.widths.sum(axis=1).astype(np.int64), prepared.lanes_per_slice
    digits = np.unique(cells.ones).tolist()
    flagged = 0 < in_r1.sum() < len(in_r1)
    clocked = flagged and clocks[0] != clocks[1]
    functions = np.concatenate([value >> np.arange(_DIGITS)[:, None] & 1, in_r1[None]])
    compiled = compile_programs(tuple((d, tuple(map(tuple, functions[:, : 1 << d].tolist()))) for d in digits))
    slots = np.insert(compiled.slots, _DIGITS, [[ZERO], [ZERO]], axis=1)
    program = np.zeros(_DIGITS + 1, dtype=np.int64)
    program[digits] = np.arange(len(digits))
    programs = Programs(
        program=program,
        code=compiled.addresses,
        outputs=(slots * BYTES).astype(np.uint16),
        flagged=flagged,
        clocked=clocked,
        flip=-1 if clocks[1] > clocks[0] else 0,
        digits=int(value[: 1 << digits[-1]].max() | 1).bit_length(),
        area=compiled.area,
    )

    stored = np.repeat(prepared.widths, hardware.ou_cols, axis=1)[:, : prepared.outputs, None]
    stored = stored > np.arange(hardware.weight_bits)
    surely_r1 = (slots[program[cells.ones], _FLAG] == ONE) & stored[..., None]  # conversions
    always = surely_r1.sum(axis=(1, 2, 3))  # (segments,)
    known, silent = np.zeros((2, segments, 8, 3), dtype=np.int64)
    silent_clocks = clocks[1 - int(in_r1[0])]
    known[:, :bits] = np.stack(
        [
            always,
            lanes * spent[1] + always * (spent[0] - spent[1]),
            planes * (min(clocks) if clocked else silent_clocks),
        ],
        axis=1,
    )[:, None]
    silent[:, :bits] = np.stack([lanes * in_r1[0], lanes * operations[0], planes * silent_clocks], axis=1)[:, None]
    largest = segments * int(value.max()) * ((1 << bits) - 1) * ((1 << hardware.weight_bits) - 1)
    width = max(largest.bit_length() + 1, programs.digits + 2 + bits + hardware.weight_bits)
    counted = int(lanes.sum()) * bits
    if width > 32 or counted >= 1 << 31:
        return None
    return Tables(
        cells=cells,
        programs=programs,
        costs=Costs(
            known=known,
            silent=silent,
            operations=spent[0] - spent[1],
            clocks=abs(clocks[0] - clocks[1]),
            planes=planes,
            lanes=lanes,
        ),
        sizes=Sizes(width, counted.bit_length() + 1, (int(planes.max(initial=0)) * bits).bit_length() + 1),
        compiled=compiled,
        searches=adc.searches is not None,
    )


# ---- conversion of one segment ------------------------------------------------------------------
class Work(NamedTuple):
    """Work space of a thread in slices, uint64 from a multiple of 64 bytes on.

    rows : of all bits, and a slice of zeros each. active : of all bits, which windows switch them on. slots : of two
    conversions. total : a column's sum. flags, slow_flags : that wait to be counted. slow : of a block's planes.
    digits : of a count. sums, r1, slow_count : of all columns, of the events that are counted.
    """

    rows: np.ndarray
    active: np.ndarray
    slots: np.ndarray
    total: np.ndarray
    flags: np.ndarray
    slow_flags: np.ndarray
    slow: np.ndarray
    digits: np.ndarray
    sums: np.ndarray
    r1: np.ndarray
    slow_count: np.ndarray


@_njit
def _slices(count):
    """`count` slices of zeros."""
    room = np.zeros(count * WORDS + 8, dtype=np.uint64)
    skip = -(room.ctypes.data // 8) % 8
    return room[skip : skip + count * WORDS]


@_njit
def _make_work(ou_rows, weight_bits, columns, programs, sizes):
    slots = _slices(2 * programs.area)
    for polarity in range(2):
        first = (polarity * programs.area + ONE) * WORDS
        slots[first : first + WORDS] = ~np.uint64(0)
    return Work(
        _slices(8 * (ou_rows + 1)), _slices(8), slots, _slices(weight_bits + programs.digits + 2), _slices(_PENDING),
        _slices(_PENDING), _slices(weight_bits), _slices(_DIGITS), _slices(columns * sizes.sums), _slices(sizes.r1),
        _slices(sizes.slow),
    )  # fmt: skip


@_njit
def _count_flags(flags, pending, digits, counter, width, active, i):
    """counter += how many of the pending flags are 1, in the windows whose slice i is switched on."""
    if pending == 0:
        return
    size = _PADDED[pending]
    fill(flags, pending, size - pending)
    count_rows(digits, 0, flags, 0, _IN_ORDER, 0, size)
    wide = 0
    while size >> wide:
        wide += 1
    add_slices(counter, 0, width, digits, wide, active, i, 0)


@_njit
def _convert_bit(i, segment, blocks, cells, programs, sizes, slice_stride, work):
    """All conversions of input bit i in the block columns `blocks`, first and end, of a segment."""
    words, outputs = programs.outputs.shape[1], programs.outputs.reshape(-1)
    top, area, columns = programs.digits, programs.area, cells.first.shape[1]
    slots, total, flags, slow_flags, slow = work.slots, work.total, work.flags, work.slow_flags, work.slow
    pending = slow_pending = 0
    for block in range(blocks[0], blocks[1]):
        planes = cells.widths[segment, block]
        if planes == 0:
            continue
        fill(slow, 0, planes)
        for n in range(block * cells.ou_cols, min(columns, (block + 1) * cells.ou_cols)):
            fill(total, 0, top + 1)
            for b in range(planes):
                plus = minus = 0
                for polarity in range(2):
                    size = np.int64(cells.size[segment, n, b, polarity])
                    p = programs.program[cells.ones[segment, n, b, polarity]]
                    plus, minus = minus, p
                    if size:
                        base, first = polarity * area, cells.first[segment, n, b, polarity]
                        count_rows(slots, base + COUNT, work.rows, i * slice_stride, cells.offsets, first, size)
                        call_program(programs.code[p], slots, base)
                add_difference(total, b, slots, 0, area, outputs, plus * words, minus * words, top)
                if programs.flagged:
                    plus_flag, minus_flag = (
                        np.int64(outputs[plus * words + _FLAG]),
                        np.int64(outputs[minus * words + _FLAG]),
                    )
                    both = (plus_flag > ONE * BYTES) + (minus_flag > ONE * BYTES)
                    if both or programs.clocked:
                        if pending > _PENDING - 2:
                            _count_flags(flags, pending, work.digits, work.r1, sizes.r1, work.active, i)
                            pending = 0
                        minus_to = pending + (plus_flag > ONE * BYTES)
                        note_flags(
                            flags, pending, minus_to, slow, b, programs.flip, slots, 0, plus_flag, area, minus_flag
                        )
                        pending += both
            add_slices(work.sums, n * sizes.sums + i, sizes.sums - i, total, planes + top + 1, slots, ONE, 1)
        if programs.clocked:
            for b in range(planes):
                if slow_pending == _PENDING:
                    _count_flags(
                        work.slow_flags, slow_pending, work.digits, work.slow_count, sizes.slow, work.active, i
                    )
                    slow_pending = 0
                copy_slice(slow_flags, slow_pending, slow, b)
                slow_pending += 1
    _count_flags(flags, pending, work.digits, work.r1, sizes.r1, work.active, i)
    _count_flags(slow_flags, slow_pending, work.digits, work.slow_count, sizes.slow, work.active, i)


# ---- activations --------------------------------------------------------------------------------
class Pixels(NamedTuple):
    """Images split into stride phases, where neighbouring windows are neighbouring pixels.

    values : uint8, 32 bytes longer than the images. sources : (K,), offset of each row's first pixel. windows : of an
    image. columns : of its raster of windows. image_bytes, row_bytes : of an image, and of a pixel row of a phase.
    """

    values: np.ndarray
    sources: np.ndarray
    windows: int
    columns: int
    image_bytes: int
    row_bytes: int


@_njit
def _find_runs(pixels, first, count, runs):
    """Runs of windows that lie side by side: runs[j] = (source offset, target offset, length); returns how many."""
    found, done = 0, 0
    while done < count:
        place = (first + done) % pixels.windows
        x = place % pixels.columns
        length = min(pixels.columns - x, count - done)
        runs[found, 0] = (
            (first + done) // pixels.windows * pixels.image_bytes + place // pixels.columns * pixels.row_bytes + x
        )
        runs[found, 1] = done
        runs[found, 2] = length
        found += 1
        done += length
    return found


@_njit
def _load_runs(pixels, runs, found, start, stop, data):
    """data[(k - start) * WINDOWS + w] = activation k of window w, k = start..stop - 1."""
    for k in range(start, stop):
        for j in range(found):
            copy_bytes(
                data, (k - start) * WINDOWS + runs[j, 1], pixels.values, pixels.sources[k] + runs[j, 0], runs[j, 2]
            )


@_njit
def _choose_precision(data, rows, count, l_max, tau_sq, total, squares, largest, lowest, mask):
    """Dynamic precision of a group of `rows` rows (system.md §6): data becomes q'', mask[w] its streamed bits."""
    total[:] = 0
    squares[:] = 0
    largest[:] = 0
    for r in range(rows):
        for w in range(WINDOWS):
            q = np.int32(data[r * WINDOWS + w])
            total[w] += q
            squares[w] += q * q
            largest[w] = max(largest[w], q)
    lossy = False
    n = np.int64(rows)
    for w in range(count):
        hi = -1
        while largest[w] >> (hi + 1):
            hi += 1
        spread = tau_sq * (n * np.int64(squares[w]) - np.int64(total[w]) * np.int64(total[w]))
        lo = 0
        for low in range(1, min(l_max, hi) + 1):
            if (n * n) << (2 * low + 12) <= spread:
                lo = low
        lowest[w] = lo
        largest[w] = (2 << hi >> lo) - 1 if hi >= 0 else 0
        mask[w] = ((2 << hi) - 1) & ~((1 << lo) - 1) if hi >= 0 else 0
        lossy |= lo > 0
    mask[count:] = 0
    if lossy:
        lowest[count:] = 0
        for r in range(rows):
            for w in range(WINDOWS):
                lo = lowest[w]
                q = np.int32(data[r * WINDOWS + w])
                data[r * WINDOWS + w] = min((q + (np.int32(1) << lo >> 1)) >> lo, largest[w]) << lo


@_njit
def _sum_bits(seen_cost, seen, other_cost, table):
    """table[byte] = sum of seen_cost[i] over the bits i of byte & seen and of other_cost[i] over the rest."""
    table[0, :] = 0
    for byte in range(1, 256):
        i = 0
        while not byte >> i & 1:
            i += 1
        for k in range(table.shape[1]):
            table[byte, k] = table[byte & (byte - 1), k] + (seen_cost[i, k] if seen >> i & 1 else other_cost[i, k])


class Layout(NamedTuple):
    """Sizes and settings of a layer. group_segments : segments of a dynamic-precision group, whose registers follow."""

    k: int
    ou_rows: int
    weight_bits: int
    group_segments: int
    bits: int
    dynamic: bool
    l_max: int
    tau_sq: int
    skip_zero: bool


@_njit
def _run(pixels, layout, cells, programs, costs, sizes, windows, per_group, sums, tallies):
    """All windows. sums : (N, >= P), out. tallies : (groups of `per_group` windows, `Tally` fields), out."""
    segments, block_cols = cells.widths.shape
    columns, ou_rows, group_segments = cells.first.shape[1], layout.ou_rows, layout.group_segments
    work = _make_work(ou_rows, layout.weight_bits, columns, programs, sizes)
    data = np.zeros(min(layout.k, group_segments * ou_rows) * WINDOWS + 64, dtype=np.uint8)
    tile = max(1, _TILE_BYTES // (sizes.sums * BYTES * cells.ou_cols))
    slice_stride = ou_rows + 1
    totals, squares, largest, lowest, numbers = (
        np.empty(WINDOWS, dtype=np.int32), np.empty(WINDOWS, dtype=np.int32), np.empty(WINDOWS, dtype=np.int32),
        np.empty(WINDOWS, dtype=np.int32), np.empty(WINDOWS, dtype=np.int32),
    )  # fmt: skip
    mask, used, on = np.empty((3, WINDOWS), dtype=np.uint8)
    clocks = np.zeros(WINDOWS, dtype=np.int64)
    events = np.empty((WINDOWS, tallies.shape[1]), dtype=np.int64)
    cost = np.empty((256, 3), dtype=np.int64)
    runs = np.empty((WINDOWS, 3), dtype=np.int64)
    ones_of = np.zeros(256, dtype=np.int64)
    for byte in range(256):
        ones_of[byte] = ones_of[byte >> 1] + (byte & 1)
    for start_window in range(0, windows, WINDOWS):
        count = min(WINDOWS, windows - start_window)
        found = _find_runs(pixels, start_window, count, runs)
        fill(work.sums, 0, columns * sizes.sums)
        fill(work.r1, 0, sizes.r1)
        events[:] = 0
        for group in range(0, segments, group_segments):
            start, stop = group * ou_rows, min(layout.k, (group + group_segments) * ou_rows)
            _load_runs(pixels, runs, found, start, stop, data)
            if layout.dynamic:
                _choose_precision(
                    data, stop - start, count, layout.l_max, layout.tau_sq, totals, squares, largest, lowest, mask
                )
            else:
                mask[:count] = (1 << layout.bits) - 1
                mask[count:] = 0
            for segment in range(group, min(segments, group + group_segments)):
                first_row, last_row = segment * ou_rows, min(layout.k, (segment + 1) * ou_rows)
                used[:] = 0
                for k in range(first_row, last_row):
                    at = (k - start) * WINDOWS
                    for w in range(WINDOWS):
                        used[w] |= data[at + w]
                    pack_bytes(work.rows, k - first_row, slice_stride, data, at)
                seen = 0
                for w in range(WINDOWS):
                    on[w] = mask[w] & used[w] if layout.skip_zero else mask[w]
                    seen |= mask[w] & used[w]
                pack_bytes(work.active, 0, 1, on, 0)
                fill(work.slow_count, 0, sizes.slow)
                if cells.widths[segment].any():
                    for block in range(0, block_cols, tile):
                        blocks = block, min(block_cols, block + tile)
                        for i in range(layout.bits):
                            if seen >> i & 1:
                                _convert_bit(i, segment, blocks, cells, programs, sizes, slice_stride, work)
                # Events of the segment, window by window, in the order of `Tally`.
                _sum_bits(costs.known[segment], seen, costs.silent[segment], cost)
                planes, lanes = costs.planes[segment], costs.lanes[segment]
                if programs.clocked:
                    to_integers(numbers, 0, work.slow_count, 0, sizes.slow)
                    for w in range(count):
                        clocks[w] = numbers[w] * costs.clocks
                least = block_cols if segment < segments - 1 else 0
                for w in range(count):
                    row, cost_row = events[w], cost[on[w]]
                    streamed, switched = ones_of[mask[w]], ones_of[on[w]]
                    row[0] += streamed
                    row[1] += streamed * planes
                    row[2] += switched * planes
                    row[3] += switched * lanes
                    row[4] += cost_row[0]
                    row[5] += cost_row[1]
                    row[6] += max(cost_row[2] + clocks[w], least)
        if programs.flagged:
            to_integers(numbers, 0, work.r1, 0, sizes.r1)
            for w in range(count):
                events[w, 4] += numbers[w]
                events[w, 5] += numbers[w] * costs.operations
        for w in range(count):
            tally = tallies[(start_window + w) // per_group]
            for k in range(len(tally)):
                tally[k] += events[w, k]
        for n in range(columns):
            to_integers(sums[n], start_window, work.sums, n * sizes.sums, sizes.sums)


def _cached(stamp: int) -> Any:
    """`_run`, kept on disk; numba watches this file only, so `stamp` stands for the text of those it uses."""

    @njit
    def run(*arguments):
        if stamp >= 0:
            _run(*arguments)

    return run


#: Modules that the kept machine code is made of, beside this one.
SOURCES = (bit_slices, program_code, simd)
_run_cached = _cached(zlib.crc32("".join(map(inspect.getsource, SOURCES)).encode()))


# ---- for users ----------------------------------------------------------------------------------
def _execute(
    prepared: Prepared, tables: Tables, pixels: Pixels, windows: int, per_group: int
) -> tuple[np.ndarray, np.ndarray]:
    """(sums int32 (N, windows), counters int64 (windows / per_group, counters)), without those of searches."""
    hardware, redy = prepared.hardware, prepared.redy
    layout = Layout(
        k=prepared.k,
        ou_rows=hardware.ou_rows,
        weight_bits=hardware.weight_bits,
        group_segments=1 if redy is None else min(len(prepared.segments), hardware.segments_per_group),
        bits=prepared.bits,
        dynamic=redy is not None,
        l_max=0 if redy is None else redy.l_max,
        tau_sq=0 if redy is None else redy.tau_sq,
        skip_zero=prepared.skip_zero_slices,
    )
    sums = np.empty((prepared.outputs, -(-windows // WINDOWS) * WINDOWS), dtype=np.int32)
    tallies = np.zeros((-(-windows // per_group), len(Tally._fields)), dtype=np.int64)
    _run_cached(
        pixels, layout, tables.cells, tables.programs, tables.costs, tables.sizes, windows, per_group, sums, tallies
    )
    return sums[:, :windows], counters_of(prepared, per_group, Tally(*tallies.T))


def _add_searches(prepared: Prepared, activations: np.ndarray, counters: np.ndarray) -> None:
    """Write A/D operations and clocks of windows (P, K) into counters (P, COUNTER_NAMES) or their sums over groups."""
    spent = spend(prepared, activations)
    cycles = timing.window_cycles(prepared.hardware, prepared.k, prepared.outputs, spent.lock_step)
    counters[:, COUNTER_NAMES.index("ad_operations")] = spent.operations.reshape(len(counters), -1).sum(axis=1)
    counters[:, COUNTER_NAMES.index("cycles")] = cycles.reshape(len(counters), -1).sum(axis=1)


def run_windows(prepared: Prepared, tables: Tables, activations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows as rows of a matrix.

    activations : uint8 (P, K) below 2**bits. Returns (sums, counters): sums int32 (N, P) in units of Delta_R1;
    counters int64 (P, COUNTER_NAMES), `cycles` without c_layer.
    """
    matrix, count = np.asarray(activations, dtype=np.uint8), len(activations)
    values = np.concatenate([matrix.T.ravel(), np.zeros(32, dtype=np.uint8)])
    pixels = Pixels(values, np.arange(prepared.k) * count, max(1, count), max(1, count), 0, 0)
    sums, counters = _execute(prepared, tables, pixels, count, 1)
    if tables.searches:
        _add_searches(prepared, matrix, counters)
    return sums, counters


def split_phases(layer: Layer, images: np.ndarray) -> np.ndarray:
    """Images with their border, one plane per stride phase, so that neighbouring windows are neighbouring pixels.

    images : uint8 (B, C, H, W). Returns uint8 (B, C, stride, stride, rows, columns): pixel (y, x) of the image
    with its border lies in phase (y % stride, x % stride) at (y // stride, x // stride).
    """
    stride, maps = layer.stride, with_border(layer, images)
    if stride == 1:
        return maps[:, :, None, None]
    height, width = maps.shape[2:]
    rows, columns = -(-height // stride), -(-width // stride)
    padded = np.zeros((len(images), layer.channels, rows * stride, columns * stride), dtype=np.uint8)
    padded[:, :, :height, :width] = maps
    split = padded.reshape(len(images), layer.channels, rows, stride, columns, stride)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 5, 2, 4))


def run_layer(
    layer: Layer, prepared: Prepared, tables: Tables, images: np.ndarray
) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """A batch of images through one layer.

    images : uint8 (B, C, H, W) below 2**input_bits. Returns (sums, counters): sums int32 (windows, N) of every image,
    in hardware order; counters int64 (B, COUNTER_NAMES), `cycles` the sum of the windows without c_layer.
    """
    batch = len(images)
    rows, columns = layer.out_height * layer.pool, layer.out_width * layer.pool
    phases = split_phases(layer, images)
    stride = layer.stride
    pixel_rows, pixel_columns = phases.shape[4:]
    c, ky, kx = np.unravel_index(np.arange(layer.k), (layer.channels, layer.kernel_height, layer.kernel_width))
    phase = (c * stride + ky % stride) * stride + kx % stride
    sources = (phase * pixel_rows + ky // stride) * pixel_columns + kx // stride
    pixels = Pixels(
        values=np.concatenate([phases.ravel(), np.zeros(32, dtype=np.uint8)]),
        sources=sources.astype(np.int64),
        windows=layer.windows,
        columns=columns,
        image_bytes=phases[0].size if batch else 0,
        row_bytes=pixel_columns,
    )
    sums, counters = _execute(prepared, tables, pixels, batch * layer.windows, layer.windows)
    if tables.searches:
        for image, counted in zip(images, counters, strict=True):
            _add_searches(prepared, windows(layer, image[None])[0], counted[None])
    maps = sums.reshape(prepared.outputs, batch, rows, columns)
    return (in_window_order(layer, maps[:, index]) for index in range(batch)), counters


def run_matrix(prepared: Prepared, tables: Tables, activations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows (P, K): sums (P, N) int64 and the counters of all windows."""
    sums, counters = run_windows(prepared, tables, activations)
    return np.ascontiguousarray(sums.T, dtype=np.int64), counters.sum(axis=0)
