"""The compiled engine for whole columns: OUs of many rows, bit for bit and event for event as `crossbar/reference.py`.

Bit i of one row's activation over `bit_slices.WINDOWS` windows is one slice. The count of an A/D conversion is the
sum of the slices of the rows whose cell is 1, made by a tree of full adders; its value is that count through a
small program of multiplexers, made from the conversion table by the plain NumPy model's own numbers, so any
characteristic works, and changing it needs no compilation. Values of both polarities are subtracted, shifted and
accumulated as slices, and become integers once per column. R1 conversions and slow OUs are counted the same way,
so every event is exact for every window.

A block of WINDOWS windows may span images: give batches that fill it, 1000 windows or more. The kernels release the
interpreter lock and only read the tables, so threads may share those, each with its own batch.

    prepared = prepare_layer(layer, hardware)
    tables = make_tables(prepared)  # None: use the plain model
    tables = compile_programs(tables)  # about 10 ms per setting, wins back from about 10**9 conversions on
    sums, counters = run_batch(layer, prepared, tables, images)

Memory per thread: sums (4 bytes per window and output), 4 KiB per output, 1 KiB per row of a dynamic-precision group
and a segment's slices, 1 KiB per OU row. The tables take 2 bytes per cell that is 1 and 10 per column and plane.

Limits, where `make_tables` returns None: sums must fit 32 bits, and a setting must spend the same A/D operations
on all conversions of a range, which early detection does not. Searches of ours (system.md §13) do not either: their
sums and other events come from here, their operations and clocks from population counts (crossbar/lanes.py), which
is slower.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np

from golden_model import timing
from golden_model.compiled import njit
from golden_model.crossbar.lanes import spend
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.windows import in_window_order, windows
from golden_model.engines import bit_slices
from golden_model.engines.bit_slices import (
    BYTES,
    SIZES,
    WINDOWS,
    WORDS,
    CompiledPrograms,
    add_difference,
    add_slices,
    aligned_words,
    call_program,
    copy_bytes,
    copy_slice,
    count_rows,
    fill,
    note_flags,
    pack_bytes,
    padded_size,
    run_program,
    to_integers,
    transpose_bytes,
)
from golden_model.registers import COUNTER_NAMES

_njit = numba.njit(nogil=True, error_model="numpy")

# Slots of a conversion: constants, digits of the count, then the nodes of its program.
_ZERO, _ONE, _COUNT, _NODES = 0, 1, 2, 10
_DIGITS = 8  # of a count of up to 128 rows, and of a value
_FLAG = _DIGITS + 2  # outputs of a program: value digits, two zeros above them, R1 flag
_LEVELS = 4  # two digits of the count choose at every level of a program
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

    program : (9,), program for counts of so many digits. nodes : uint16 (n, 4) and steps : (n, 4) as
    `bit_slices.run_program` reads them; program p's steps are start[p]..start[p + 1] - 1. code : (programs,) addresses
    of compiled programs, or 0. outputs : uint16 (programs, 11) byte offsets of the slots of value digits and flag.
    flagged, clocked : whether R1 must be counted, and slow OUs. flip : -1 if R2 is the slow range, else 0. digits : of
    the largest value. area : slots of one conversion.
    """

    program: np.ndarray
    nodes: np.ndarray
    steps: np.ndarray
    start: np.ndarray
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


@dataclass(frozen=True, eq=False)
class Tables:
    """A prepared layer as the engine reads it. width, r1_width, slow_width : digits of the sums and counters.

    searches : operations and clocks come from crossbar/lanes.py.
    """

    cells: Cells
    programs: Programs
    costs: Costs
    width: int
    r1_width: int
    slow_width: int
    compiled: CompiledPrograms | None = None
    searches: bool = False


# ---- tables -------------------------------------------------------------------------------------
def make_cells(prepared: Any) -> Cells:
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


class _Builder:
    """Turns functions of a count of `digits` digits into nodes shared by all of them."""

    def __init__(self, digits: int) -> None:
        self.digits = digits
        self.nodes: list[list[tuple[int, ...]]] = [[] for _ in range(_LEVELS)]
        self._known: dict[tuple[int | None, ...], tuple[int, int]] = {}

    def place(self, table: tuple[int | None, ...], level: int) -> tuple[int, int]:
        """(level, slot or node number) that holds the function; level -1 is a slot. None entries are free.

        table : 4**(level + 1) entries.
        """
        given = {x for x in table if x is not None}
        if len(given) <= 1:
            return -1, _ONE if given == {1} else _ZERO
        if table in self._known:
            return self._known[table]
        quarter = len(table) // 4
        parts = [table[k * quarter : (k + 1) * quarter] for k in range(4)]
        for k in (1, 2, 3, 0):  # take over a sibling wherever free entries allow it
            if None in parts[k]:
                for other in parts:
                    if other is not parts[k] and all(
                        x is None or y is None or x == y for x, y in zip(parts[k], other, strict=True)
                    ):
                        merged = tuple(y if x is None else x for x, y in zip(parts[k], other, strict=True))
                        parts = [merged if part in (parts[k], other) else part for part in parts]
                        break
        children = [self.place(part, level - 1) for part in parts]
        low, high = self.selectors(level)
        zero, one = (-1, _ZERO), (-1, _ONE)
        if all(child == children[0] for child in children):
            found = children[0]
        elif children == [zero, one, zero, one]:
            found = (-1, low)
        elif children == [zero, zero, one, one]:
            found = (-1, high)
        else:
            node = tuple(x for child in children for x in child)
            if node not in self.nodes[level]:
                self.nodes[level].append(node)
            found = (level, self.nodes[level].index(node))
        self._known[table] = found
        return found

    def selectors(self, level: int) -> tuple[int, int]:
        """Slots of the two digits that choose at a level; digits the count does not have are 0."""
        low, high = (_COUNT + d if d < self.digits else _ZERO for d in (2 * level, 2 * level + 1))
        return low, high


def _make_program(tables: np.ndarray, digits: int) -> tuple[list[tuple[int, ...]], list[list[int]], list[int]]:
    """Program of several 0/1 functions of a count.

    tables : (functions, counts). Returns (nodes as slot numbers, levels (4, 4), slot of every function).
    """
    builder = _Builder(digits)
    levels = max(1, -(-digits // 2))
    entries = 4**levels
    roots = []
    for table in tables:
        free = [None] * (entries - len(table))
        roots.append(builder.place((*(int(x) for x in table), *free), levels - 1))
    starts = np.cumsum([0] + [len(level) for level in builder.nodes])

    def slot(place: tuple[int, int]) -> int:
        level, index = place
        return index if level < 0 else _NODES + int(starts[level]) + index

    nodes = [tuple(slot((node[2 * k], node[2 * k + 1])) for k in range(4)) for level in builder.nodes for node in level]
    steps = [
        [low * BYTES, high * BYTES, int(starts[level]), int(starts[level + 1])]
        for level, (low, high) in enumerate(map(builder.selectors, range(_LEVELS)))
        if builder.nodes[level]
    ]
    return nodes, steps, [slot(root) for root in roots]


def make_programs(prepared: Any, digits_used: np.ndarray) -> Programs | None:
    """Programs of a layer for counts of the digits that occur; None if a range has several costs."""
    hardware, converter = prepared.hardware, prepared.converter
    rows = hardware.ou_rows
    value, operations, in_r1 = (
        np.frombuffer(x, dtype=np.uint8)[: rows + 1] for x in (converter.value, converter.operations, converter.in_r1)
    )
    cost = _range_costs(hardware, operations, in_r1)
    if cost is None:
        return None
    _, clocks = cost
    flagged = bool(in_r1.any()) and not in_r1.all()
    program = np.zeros(_DIGITS + 1, dtype=np.int64)
    nodes: list[tuple[int, ...]] = []
    all_steps: list[list[int]] = []
    start, outputs = [0], []
    largest, widest = 0, 1
    for digits in np.flatnonzero(digits_used):
        top = min(rows, (1 << int(digits)) - 1)
        functions = (value[: top + 1] >> np.arange(_DIGITS)[:, None]) & 1
        if flagged:
            functions = np.vstack([functions, in_r1[: top + 1]])
        made, steps, slots = _make_program(functions, int(digits))
        widest = max(widest, int(value[: top + 1].max()).bit_length())
        program[digits] = len(outputs)
        all_steps += [[low, high, len(nodes) + first, len(nodes) + end] for low, high, first, end in steps]
        start.append(len(all_steps))
        nodes += made
        largest = max(largest, len(made))
        outputs.append(slots[:_DIGITS] + [_ZERO, _ZERO] + (slots[_DIGITS:] or [_ZERO]))
    return Programs(
        program=program,
        nodes=(np.array(nodes, dtype=np.int64).reshape(-1, 4) * BYTES).astype(np.uint16),
        steps=np.array([*all_steps, [0] * 4], dtype=np.int64),  # a program may have no step, and still read one
        start=np.array(start, dtype=np.int64),
        code=np.zeros(len(outputs), dtype=np.int64),
        outputs=(np.array(outputs) * BYTES).astype(np.uint16),
        flagged=flagged,
        clocked=flagged and clocks[0] != clocks[1],
        flip=-1 if clocks[1] > clocks[0] else 0,
        digits=widest,
        area=_NODES + largest,
    )


def _range_costs(hardware: Any, operations: np.ndarray, in_r1: np.ndarray) -> tuple[list[int], list[int]] | None:
    """([operations in R1, in R2], [clocks in R1, in R2]) or None if a range has several; absent ranges copy."""
    both = [np.unique(operations[in_r1 == flag]).tolist() for flag in (1, 0)]
    if max(len(x) for x in both) > 1:
        return None
    spent = [x[0] if x else (both[0] + both[1])[0] for x in both]
    return spent, [max(1, hardware.sample_interval, x) for x in spent]


def make_tables(prepared: Any, cells: Cells | None = None) -> Tables | None:
    """Tables of a prepared layer, or None outside the limits named above.

    cells : from the tables of the same weights and widths under another A/D setting, to save time.
    """
    hardware, segments, bits = prepared.hardware, len(prepared.segments), prepared.bits
    searches = prepared.converter.searches is not None
    if searches:  # the same values at one operation each
        prepared = replace(prepared, converter=replace(prepared.converter, operations=bytes([1]) * 256))
    if cells is None:
        cells = make_cells(prepared)
    stored = np.zeros((segments, prepared.outputs, hardware.weight_bits), dtype=bool)
    for segment, planes in enumerate(prepared.segments):
        for plane in planes:
            stored[segment, plane.columns, plane.bit] = True
    used = np.bincount(cells.ones.ravel(), minlength=_DIGITS + 1) > 0
    programs = make_programs(prepared, used)
    if programs is None:
        return None
    plane = np.arange(hardware.weight_bits)
    ous = (prepared.widths[:, :, None] > plane).sum(axis=(1, 2))  # (segments,)
    conversions = 2 * stored.sum(axis=(1, 2))  # (segments,)
    by_digits = [((cells.ones == d) & stored[..., None]).sum(axis=(1, 2, 3)) for d in range(_DIGITS + 1)]
    known, silent = np.zeros((2, segments, 8, 3), dtype=np.int64)
    value, operations, in_r1 = (
        np.frombuffer(x, dtype=np.uint8)[: hardware.ou_rows + 1].astype(np.int64)
        for x in (prepared.converter.value, prepared.converter.operations, prepared.converter.in_r1)
    )
    cost = _range_costs(hardware, operations, in_r1)
    assert cost is not None
    spent, clocks = cost
    constant = np.zeros(_DIGITS + 1, dtype=np.int64)  # 1 where every count of so many digits is in R1
    for d in np.flatnonzero(used):
        constant[d] = programs.outputs[programs.program[d], _FLAG] == _ONE * BYTES
    if not programs.flagged:
        constant[:] = in_r1[0]
    always = constant @ by_digits  # (segments,)
    known[:, :bits, 0] = always[:, None]
    known[:, :bits, 1] = (conversions * spent[1] + always * (spent[0] - spent[1]))[:, None]
    known[:, :bits, 2] = (ous * (min(clocks) if programs.clocked else clocks[1 - int(in_r1[0])]))[:, None]
    silent[:, :bits, 0] = (conversions * in_r1[0])[:, None]
    silent[:, :bits, 1] = (conversions * operations[0])[:, None]
    silent[:, :bits, 2] = (ous * clocks[1 - int(in_r1[0])])[:, None]
    top_value = int(value.max())
    largest = segments * top_value * ((1 << bits) - 1) * ((1 << hardware.weight_bits) - 1)
    width = max(largest.bit_length() + 1, programs.digits + 2 + bits + hardware.weight_bits)
    counted = int(conversions.sum()) * bits
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
            planes=prepared.widths.sum(axis=1).astype(np.int64),
            lanes=prepared.lanes_per_slice,
        ),
        width=width,
        r1_width=counted.bit_length() + 1,
        slow_width=(int(ous.max(initial=0)) * bits).bit_length() + 1,
        searches=searches,
    )


def _add_searches(prepared: Any, activations: np.ndarray, counters: np.ndarray) -> None:
    """Write A/D operations and clocks of windows (P, K) into counters (P, COUNTER_NAMES) or their sums over groups."""
    spent = spend(prepared, activations)
    cycles = timing.window_cycles(prepared.hardware, prepared.k, prepared.outputs, spent.lock_step)
    counters[:, 6] = spent.operations.reshape(len(counters), -1).sum(axis=1)
    counters[:, 8] = cycles.reshape(len(counters), -1).sum(axis=1)


_compiled = lru_cache(maxsize=1024)(CompiledPrograms)  # layers often share settings


def compile_programs(tables: Tables) -> Tables:
    """The same tables with the conversion programs as machine code; worth its milliseconds in long runs."""
    programs = tables.programs
    described = []
    for p, outputs in enumerate(programs.outputs):
        steps = programs.steps[programs.start[p] : programs.start[p + 1]]
        nodes = [
            (int(low) // BYTES, int(high) // BYTES, *(int(x) // BYTES for x in node))
            for low, high, first, end in steps
            for node in programs.nodes[first:end]
        ]
        described.append((tuple(nodes), _NODES, _NODES, frozenset(int(x) // BYTES for x in outputs)))
    compiled = _compiled(tuple(described))
    return replace(tables, programs=programs._replace(code=compiled.addresses), compiled=compiled)


def layer_tables(prepared: Any) -> Tables | None:
    """`make_tables`, compiled."""
    tables = make_tables(prepared)
    return None if tables is None else compile_programs(tables)


# ---- conversion of one segment ------------------------------------------------------------------
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
    add_slices(counter, 0, width, digits, 0, wide, active, i, 0)


@_njit
def _convert_bit(
    rows, rows_at, i, active, segment, first_block, last_block, cells, programs, slots, total, flags, slow_flags, slow,
    digits, sums, width, r1, r1_width, slow_count, slow_width,
):  # fmt: skip
    """All conversions of input bit i in some block columns of a segment.

    rows : slices of the rows from rows_at on. active : slices, which windows switch on bit i. sums : width slices
    per column. r1, slow_count : slices of the counters.
    """
    words = programs.outputs.shape[1]
    outputs, nodes, steps = programs.outputs.reshape(-1), programs.nodes.reshape(-1), programs.steps.reshape(-1)
    top, area = programs.digits, programs.area
    columns = cells.first.shape[1]
    pending = slow_pending = 0
    for block in range(first_block, last_block):
        planes = cells.widths[segment, block]
        if planes == 0:
            continue
        fill(slow, 0, planes)
        for n in range(block * cells.ou_cols, min(columns, (block + 1) * cells.ou_cols)):
            fill(total, 0, top + 1)
            for b in range(planes):
                plus = minus = 0
                for polarity in range(2):
                    base = polarity * area
                    size = np.int64(cells.size[segment, n, b, polarity])
                    p = programs.program[cells.ones[segment, n, b, polarity]]
                    plus, minus = minus, p
                    if size:
                        first = cells.first[segment, n, b, polarity]
                        count_rows(slots, base + _COUNT, rows, rows_at, cells.offsets, first, size)
                        if programs.code[p]:
                            call_program(programs.code[p], slots, base)
                        else:
                            run_program(slots, base, nodes, steps, programs.start[p], programs.start[p + 1], _NODES)
                add_difference(total, b, slots, 0, area, outputs, plus * words, minus * words, top)
                if programs.flagged:
                    plus_flag, minus_flag = (
                        np.int64(outputs[plus * words + _FLAG]),
                        np.int64(outputs[minus * words + _FLAG]),
                    )
                    both = (plus_flag > _ONE * BYTES) + (minus_flag > _ONE * BYTES)
                    if both or programs.clocked:
                        if pending > _PENDING - 2:
                            _count_flags(flags, pending, digits, r1, r1_width, active, i)
                            pending = 0
                        minus_to = pending + (plus_flag > _ONE * BYTES)
                        note_flags(
                            flags, pending, minus_to, slow, b, programs.flip, slots, 0, plus_flag, area, minus_flag
                        )
                        pending += both
            add_slices(sums, n * width + i, width - i, total, 0, planes + top + 1, slots, _ONE, 1)
        if programs.clocked:
            for b in range(planes):
                if slow_pending == _PENDING:
                    _count_flags(slow_flags, slow_pending, digits, slow_count, slow_width, active, i)
                    slow_pending = 0
                copy_slice(slow_flags, slow_pending, slow, b)
                slow_pending += 1
    _count_flags(flags, pending, digits, r1, r1_width, active, i)
    _count_flags(slow_flags, slow_pending, digits, slow_count, slow_width, active, i)


# ---- activations --------------------------------------------------------------------------------
@_njit
def _load_matrix(matrix, first, count, start, stop, data):
    """data[(k - start) * WINDOWS + w] = matrix[first + w, k] for k = start..stop - 1, w < count."""
    pitch = matrix.shape[1]
    flat = matrix.reshape(-1)
    whole_rows, whole_windows = start + (stop - start) // 16 * 16, count // 16 * 16
    for k in range(start, whole_rows, 16):
        for w in range(0, whole_windows, 16):
            transpose_bytes(data, (k - start) * WINDOWS + w, WINDOWS, flat, (first + w) * pitch + k, pitch)
    for k in range(start, stop):
        for w in range(whole_windows if k < whole_rows else 0, count):
            data[(k - start) * WINDOWS + w] = matrix[first + w, k]


@_njit
def _find_runs(first, count, windows, columns, image_bytes, row_bytes, runs):
    """Runs of windows that lie side by side: runs[j] = (source offset, target offset, length); returns how many."""
    found, done = 0, 0
    while done < count:
        place = (first + done) % windows
        x = place % columns
        length = min(columns - x, count - done)
        runs[found, 0] = (first + done) // windows * image_bytes + place // columns * row_bytes + x
        runs[found, 1] = done
        runs[found, 2] = length
        found += 1
        done += length
    return found


@_njit
def _load_runs(pixels, runs, found, sources, start, stop, data):
    """As `_load_matrix` from images split into stride phases; sources : (K,) offset of each row's first pixel."""
    for k in range(start, stop):
        for j in range(found):
            copy_bytes(data, (k - start) * WINDOWS + runs[j, 1], pixels, sources[k] + runs[j, 0], runs[j, 2])


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


@_njit
def _run(
    matrix, pixels, sources, images, k_rows, ou_rows, group_segments, bits, input_bits, dynamic, l_max, tau_sq,
    skip_zero, cells, programs, costs, width, r1_width, slow_width, windows, per_group, missing_planes, fixed_cycles,
    data, slices, active, slots, total, flags, slow_flags, slow, digits, acc, r1, slow_count, sums, counters,
):  # fmt: skip
    """All windows. matrix (P, K) or, if `images` has entries, pixels and their layout; sums (N, >= P), counters out.

    images : windows, columns of a raster, bytes per image and per pixel row of a phase; empty for a matrix.
    """
    segments, block_cols = cells.widths.shape
    columns = cells.first.shape[1]
    tile = max(1, _TILE_BYTES // (width * BYTES * cells.ou_cols))
    slice_stride = ou_rows + 1
    squares, largest, lowest, numbers = np.empty((4, WINDOWS), dtype=np.int32)
    totals = np.empty(WINDOWS, dtype=np.int32)
    mask, used, on = np.empty((3, WINDOWS), dtype=np.uint8)
    clocks = np.zeros(WINDOWS, dtype=np.int64)
    events = np.empty((WINDOWS, 9), dtype=np.int64)
    cost = np.empty((256, 3), dtype=np.int64)
    runs = np.empty((WINDOWS, 3), dtype=np.int64)
    ones_of = np.zeros(256, dtype=np.int64)
    for byte in range(256):
        ones_of[byte] = ones_of[byte >> 1] + (byte & 1)
    for start_window in range(0, windows, WINDOWS):
        count = min(WINDOWS, windows - start_window)
        found = 0
        if len(images):
            found = _find_runs(start_window, count, images[0], images[1], images[2], images[3], runs)
        fill(acc, 0, columns * width)
        fill(r1, 0, r1_width)
        events[:] = 0
        for group in range(0, segments, group_segments):
            start = group * ou_rows
            stop = min(k_rows, (group + group_segments) * ou_rows)
            if len(images):
                _load_runs(pixels, runs, found, sources, start, stop, data)
            else:
                _load_matrix(matrix, start_window, count, start, stop, data)
            if dynamic:
                _choose_precision(
                    data, stop - start, count, l_max, tau_sq, totals, squares, largest, lowest, mask
                )  # fmt: skip
            else:
                mask[:count] = (1 << bits) - 1
                mask[count:] = 0
            for segment in range(group, min(segments, group + group_segments)):
                first_row, last_row = segment * ou_rows, min(k_rows, (segment + 1) * ou_rows)
                used[:] = 0
                for k in range(first_row, last_row):
                    at = (k - start) * WINDOWS
                    for w in range(WINDOWS):
                        used[w] |= data[at + w]
                    pack_bytes(slices, k - first_row, slice_stride, data, at)
                seen = 0
                for w in range(WINDOWS):
                    on[w] = mask[w] & used[w] if skip_zero else mask[w]
                    seen |= mask[w] & used[w]
                pack_bytes(active, 0, 1, on, 0)
                fill(slow_count, 0, slow_width)
                if cells.widths[segment].any():
                    for block in range(0, block_cols, tile):
                        for i in range(bits):
                            if seen >> i & 1:
                                _convert_bit(
                                    slices, i * slice_stride, i, active, segment, block, min(block_cols, block + tile),
                                    cells, programs, slots, total, flags, slow_flags, slow, digits, acc, width, r1,
                                    r1_width, slow_count, slow_width,
                                )  # fmt: skip
                # Events of the segment, window by window.
                _sum_bits(costs.known[segment], seen, costs.silent[segment], cost)
                planes, lanes = costs.planes[segment], costs.lanes[segment]
                if programs.clocked:
                    to_integers(numbers, 0, slow_count, 0, slow_width)
                    for w in range(count):
                        clocks[w] = numbers[w] * costs.clocks
                least = block_cols if segment < segments - 1 else 0
                for w in range(count):
                    row, cost_row = events[w], cost[on[w]]
                    streamed, switched = ones_of[mask[w]], ones_of[on[w]]
                    row[0] += switched * planes
                    row[2] += (input_bits - streamed) * planes
                    row[3] += (streamed - switched) * planes
                    row[4] += cost_row[0]
                    row[5] += switched * lanes
                    row[6] += cost_row[1]
                    row[7] += streamed
                    row[8] += max(cost_row[2] + clocks[w], least)
        if programs.flagged:
            to_integers(numbers, 0, r1, 0, r1_width)
            for w in range(count):
                events[w, 4] += numbers[w]
                events[w, 6] += numbers[w] * costs.operations
        owner, left = start_window // per_group, per_group - start_window % per_group
        for w in range(count):
            row, event = counters[owner], events[w]
            for k in range(9):
                row[k] += event[k]
            row[1] += missing_planes * input_bits
            row[5] -= event[4]
            row[8] += fixed_cycles
            left -= 1
            if left == 0:
                owner, left = owner + 1, per_group
        for n in range(columns):
            to_integers(sums[n], start_window, acc, n * width, width)


def _cached(stamp: int) -> Any:
    """`_run`, kept on disk; numba watches this file only, so `stamp` stands for the text of bit_slices.py."""

    @njit
    def run(*arguments):
        if stamp >= 0:
            _run(*arguments)

    return run


_run_cached = _cached(zlib.crc32(inspect.getsource(bit_slices).encode()))

_NO_MATRIX = np.zeros((0, 0), dtype=np.uint8)
_NO_NUMBERS = np.zeros(0, dtype=np.int64)
_NO_PIXELS = np.zeros(0, dtype=np.uint8)


def _execute(
    prepared: Any,
    tables: Tables,
    windows: int,
    per_group: int,
    *,
    matrix: np.ndarray = _NO_MATRIX,
    pixels: np.ndarray = _NO_PIXELS,
    sources: np.ndarray = _NO_NUMBERS,
    images: np.ndarray = _NO_NUMBERS,
) -> tuple[np.ndarray, np.ndarray]:
    """(sums int32 (N, windows), counters int64 (windows / per_group, counters)) of windows from either source."""
    hardware, redy = prepared.hardware, prepared.redy
    segments, block_cols = tables.cells.widths.shape
    programs = tables.programs
    group_segments = 1 if redy is None else min(segments, hardware.segments_per_group)
    padded = -(-windows // WINDOWS) * WINDOWS
    sums = np.empty((prepared.outputs, padded), dtype=np.int32)
    counters = np.zeros((-(-windows // per_group), len(COUNTER_NAMES)), dtype=np.int64)

    def slices(count: int) -> np.ndarray:
        return aligned_words(count * WORDS)

    slots = slices(2 * programs.area)
    ones = slots.reshape(2, programs.area, WORDS)[:, _ONE]
    ones[...] = ~np.uint64(0)
    fixed = timing.window_cycles(hardware, prepared.k, prepared.outputs, np.zeros((1, segments), dtype=np.int64))
    _run_cached(
        matrix,
        pixels,
        sources,
        images,
        prepared.k,
        hardware.ou_rows,
        group_segments,
        prepared.bits,
        hardware.input_bits,
        redy is not None,
        0 if redy is None else redy.l_max,
        0 if redy is None else redy.tau_sq,
        prepared.skip_zero_slices,
        tables.cells,
        programs,
        tables.costs,
        tables.width,
        tables.r1_width,
        tables.slow_width,
        windows,
        per_group,
        hardware.weight_bits * segments * block_cols - int(tables.costs.planes.sum()),
        int(fixed[0]) - (segments - 1) * block_cols,
        np.zeros(min(prepared.k, group_segments * hardware.ou_rows) * WINDOWS + 64, dtype=np.uint8),
        slices(8 * (hardware.ou_rows + 1)),
        slices(8),
        slots,
        slices(hardware.weight_bits + programs.digits + 2),
        slices(_PENDING),
        slices(_PENDING),
        slices(hardware.weight_bits),
        slices(_DIGITS),
        slices(prepared.outputs * tables.width),
        slices(tables.r1_width),
        slices(tables.slow_width),
        sums,
        counters,
    )
    return sums[:, :windows], counters


# ---- for users ----------------------------------------------------------------------------------
def run_windows(prepared: Any, tables: Tables, activations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows as rows of a matrix.

    activations : uint8 (P, K) below 2**bits. Returns (sums, counters): sums int32 (N, P) in units of Delta_R1;
    counters int64 (P, COUNTER_NAMES), `cycles` without c_layer.
    """
    matrix = np.ascontiguousarray(activations, dtype=np.uint8)
    sums, counters = _execute(prepared, tables, len(activations), 1, matrix=matrix)
    if tables.searches:
        _add_searches(prepared, matrix, counters)
    return sums, counters


def split_phases(layer: Layer, images: np.ndarray) -> np.ndarray:
    """Images with their border, one plane per stride phase, so that neighbouring windows are neighbouring pixels.

    images : uint8 (B, C, H, W). Returns uint8 (B, C, stride, stride, rows, columns): pixel (y, x) of the image
    with its border lies in phase (y % stride, x % stride) at (y // stride, x // stride).
    """
    stride, pad = layer.stride, layer.pad
    rows, columns = (-(-(size + 2 * pad) // stride) for size in (layer.height, layer.width))
    if stride == 1 and pad == 0:
        return np.ascontiguousarray(images)[:, :, None, None]
    padded = np.zeros((len(images), layer.channels, rows * stride, columns * stride), dtype=np.uint8)
    if layer.pad_values is not None:
        padded[...] = np.asarray(layer.pad_values)[:, None, None]
    padded[:, :, pad : pad + layer.height, pad : pad + layer.width] = images
    split = padded.reshape(len(images), layer.channels, rows, stride, columns, stride)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 5, 2, 4))


def run_batch(layer: Layer, prepared: Any, tables: Tables, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A batch of images through one layer.

    images : uint8 (B, C, H, W) below 2**input_bits. Returns (sums, counters): sums int32 (N, B, rows, columns) of
    the window positions in raster order, rows = out_height * pool, columns = out_width * pool; counters int64
    (B, COUNTER_NAMES), `cycles` the sum of the windows without c_layer.
    """
    batch = len(images)
    rows, columns = layer.out_height * layer.pool, layer.out_width * layer.pool
    phases = split_phases(layer, images)
    stride = layer.stride
    pixel_rows, pixel_columns = phases.shape[4:]
    c, ky, kx = np.unravel_index(np.arange(layer.k), (layer.channels, layer.kernel_height, layer.kernel_width))
    phase = (c * stride + ky % stride) * stride + kx % stride
    sources = (phase * pixel_rows + ky // stride) * pixel_columns + kx // stride
    sums, counters = _execute(
        prepared,
        tables,
        batch * layer.windows,
        layer.windows,
        pixels=np.concatenate([phases.ravel(), np.zeros(32, dtype=np.uint8)]),
        sources=sources.astype(np.int64),
        images=np.array([layer.windows, columns, phases[0].size if batch else 0, pixel_columns], dtype=np.int64),
    )
    if tables.searches:
        for image, counted in zip(images, counters, strict=True):
            _add_searches(prepared, windows(layer, image[None])[0], counted[None])
    return sums.reshape(prepared.outputs, batch, rows, columns), counters


def run_matrix(prepared: Any, tables: Tables, activations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows (P, K): sums (P, N) int64 and the counters of all windows."""
    sums, counters = run_windows(prepared, tables, activations)
    return np.ascontiguousarray(sums.T, dtype=np.int64), counters.sum(axis=0)


def run_layer(
    layer: Layer, prepared: Any, tables: Tables, activations: np.ndarray
) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """Sums (windows, N) of every image in hardware order; counters (B, COUNTER_NAMES), `cycles` without c_layer."""
    sums, counters = run_batch(layer, prepared, tables, activations)
    return (in_window_order(layer, sums[:, index]) for index in range(len(activations))), counters
