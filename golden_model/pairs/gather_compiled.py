"""Compiled loop of gather.py, which needs numba: every activation of every half, every column, every setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from golden_model.compiled import njit as _njit
from golden_model.crossbar.lanes import pack_words
from golden_model.crossbar.ones import ones_of, put_bits
from golden_model.pairs.packs import Packing
from golden_model.pairs.search import Search


@dataclass(frozen=True, eq=False)
class Flat:
    """Packs, masks, groups and columns one after the other; first_x[i]..first_x[i + 1] are those of the i-th owner.

    segments, first_segment, lines, bits_of_mask : of every pack.
    mask_words : uint64 (masks, W), positive, negative : (columns, W); row r of a pack is bit r % 64 of word r // 64.
    longest : most steps of a half in one window, of one input bit.
    """

    segments: np.ndarray
    first_segment: np.ndarray
    lines: np.ndarray
    bits_of_mask: np.ndarray
    first_mask: np.ndarray
    mask_words: np.ndarray
    first_group: np.ndarray
    half: np.ndarray
    plane: np.ndarray
    first_column: np.ndarray
    output: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    longest: int


def _words(rows: np.ndarray, size: int) -> np.ndarray:
    """bool (..., rows) -> uint64 (..., size)."""
    words = pack_words(rows)
    return np.pad(words, [(0, 0)] * (rows.ndim - 1) + [(0, size - words.shape[-1])])


def flatten(packing: Packing) -> Flat:
    """The packs of a layer, worked out once."""
    if "flat" not in packing.tables:
        packing.tables["flat"] = _flatten(packing)
    return packing.tables["flat"]


def _flatten(packing: Packing) -> Flat:
    ou_rows = packing.hardware.ou_rows
    masks = [mask for pack in packing.packs for mask in pack.masks]
    groups = [group for mask in masks for group in mask.groups]
    size = max((-(-pack.segments * ou_rows // 64) for pack in packing.packs), default=1)
    columns = sum(len(group.columns) for group in groups)
    positive, negative = np.zeros((2, columns, size), dtype=np.uint64)
    first_column = np.cumsum([0, *(len(group.columns) for group in groups)])
    for group, at in zip(groups, first_column[:-1], strict=True):
        positive[at : at + len(group.columns)] = _words(group.positive, size)
        negative[at : at + len(group.columns)] = _words(group.negative, size)
    longest = 1 + sum(1 + sum(len(m.groups) * int(m.segments.sum()) for m in pack.masks) for pack in packing.packs)
    return Flat(
        np.array([pack.segments for pack in packing.packs], dtype=np.int64),
        np.array([pack.first for pack in packing.packs], dtype=np.int64),
        np.array([pack.lines for pack in packing.packs], dtype=np.int64),
        np.array([pack.mask_bits for pack in packing.packs], dtype=np.int64),
        np.cumsum([0, *(len(pack.masks) for pack in packing.packs)]),
        np.array([_words(np.repeat(mask.segments, ou_rows), size) for mask in masks], dtype=np.uint64).reshape(
            -1, size
        ),
        np.cumsum([0, *(len(mask.groups) for mask in masks)]),
        np.array([group.half for group in groups], dtype=np.int64),
        np.array([group.plane for group in groups], dtype=np.int64),
        first_column,
        np.concatenate([np.zeros(0, dtype=np.int64), *(group.columns for group in groups)]),
        positive,
        negative,
        longest,
    )


@_njit
def latch(x, positions, first_segment, segments, ou_rows, words, streamed):
    """Slices of a window x (K,), by pack, and the bits that each streams; returns the bits that any of them streams.

    positions : streamed bits of every segment. words (packs, 8, W) and streamed (packs,) are filled.
    """
    anywhere = np.int64(0)
    for p in range(len(segments)):
        words[p] = 0
        for r in range(segments[p] * ou_rows):
            put_bits(np.int64(x[first_segment[p] * ou_rows + r]), r, words[p])
        streamed[p] = 0
        for r in range(segments[p]):
            streamed[p] |= positions[first_segment[p] + r]
        anywhere |= streamed[p]
    return anywhere


@_njit
def difference(on, positive, negative):
    """c+ - c-, counts of the word lines `on` whose cell is 1, of a column pair; words of 64 lines."""
    found = np.int64(0)
    for k in range(len(on)):
        found += np.int64(ones_of(on[k] & positive[k]))
        found -= np.int64(ones_of(on[k] & negative[k]))
    return found


@_njit
def take_ones(left, most, taken):
    """Move the first `most` 1s of `left` to `taken`; returns how many there were."""
    on = np.int64(0)
    for k in range(len(left)):
        rest, mine = left[k], np.uint64(0)
        while rest and on < most:
            without = rest & (rest - np.uint64(1))
            mine |= rest ^ without
            rest = without
            on += 1
        left[k], taken[k] = rest, mine
    return on


@_njit
def _activate(lanes, count, spent, turn, ends, slots, shortest, following):
    """An activation in lanes that hold samples, for every number of places: as gather._Lanes.activate.

    lanes, spent : (count,), lanes that sample and their operations. turn : conversions of every lane so far. ends :
    (modes, lanes, most slots), ring buffers of which slots[q], a power of two, are used. following : (modes,).
    """
    for q in range(len(slots)):
        wrap = slots[q] - 1
        start = following[q]
        for j in range(count):
            start = max(start, ends[q, lanes[j], turn[lanes[j]] & wrap])
        for j in range(count):
            lane = lanes[j]
            at = turn[lane]
            ends[q, lane, at & wrap] = max(start, ends[q, lane, (at + wrap) & wrap]) + spent[j]
        following[q] = start + shortest


@_njit
def _spend(
    x, positions, last_bit, checked, bits, ou_rows, ou_cols, halves, shortest,
    segments, first_segment, lines_of_pack, bits_of_mask, first_mask, mask_words, first_group, group_half,
    first_column, output, positive, negative, longest, tables, signed, slots, check,
    ou_activations, pairs_converted, stopped, prefix_counts, prefix_rows, latched_lines, mask_bits, operations,
    clocks, counts,
):  # fmt: skip
    windows, settings, packs, size = len(x), len(tables), len(segments), mask_words.shape[1]
    modes = len(slots)
    words = np.zeros((packs, 8, size), dtype=np.uint64)
    left = np.zeros(size, dtype=np.uint64)
    taken = np.zeros(size, dtype=np.uint64)
    streamed = np.zeros(packs, dtype=np.int64)
    group_last = np.zeros(len(group_half), dtype=np.int64)
    most = np.int64(2)
    for q in range(modes):
        most = max(most, slots[q])
    paces = np.zeros((settings, halves, longest * bits), dtype=np.int64)
    steps = np.zeros(halves, dtype=np.int64)
    own = np.zeros((settings, halves), dtype=np.int64)
    turn = np.zeros((halves, 2 * ou_cols), dtype=np.int64)
    ends = np.zeros((settings, halves, modes, 2 * ou_cols, most), dtype=np.int64)
    following = np.zeros((settings, halves, modes), dtype=np.int64)
    decoupled = np.zeros((settings, halves), dtype=np.int64)
    decisions = np.zeros((settings, 2 * ou_cols), dtype=np.int64)
    lanes = np.zeros(2 * ou_cols, dtype=np.int64)
    spent = np.zeros(2 * ou_cols, dtype=np.int64)
    first_count = np.zeros(ou_cols, dtype=np.int64)
    second_count = np.zeros(ou_cols, dtype=np.int64)
    for w in range(windows):
        anywhere = latch(x[w], positions[w], first_segment, segments, ou_rows, words, streamed)
        for g in range(len(group_half)):
            group_last[g] = bits
            for c in range(first_column[g], first_column[g + 1]):
                group_last[g] = min(group_last[g], last_bit[w, output[c]])
        for i in range(bits - 1, -1, -1):
            for half in range(halves):
                decides = False
                for p in range(packs):
                    for g in range(first_group[first_mask[p]], first_group[first_mask[p + 1]]):
                        decides |= group_half[g] == half and group_last[g] <= i
                    if not (streamed[p] >> i) & 1:
                        continue
                    looked = np.int64(0)
                    started = np.int64(0)
                    decisions[:] = 0
                    for m in range(first_mask[p], first_mask[p + 1]):
                        mine = False
                        for g in range(first_group[m], first_group[m + 1]):
                            mine |= group_half[g] == half
                        if not mine:
                            continue
                        looked += 1
                        for k in range(size):
                            left[k] = words[p, i, k] & mask_words[m, k]
                        while True:
                            on = take_ones(left, ou_rows, taken)
                            if not on:
                                break
                            prefix_counts[w] += 1
                            prefix_rows[w] += lines_of_pack[p]
                            for g in range(first_group[m], first_group[m + 1]):
                                if group_half[g] != half:
                                    continue
                                ou_activations[w] += 1
                                started += 1
                                count = np.int64(0)
                                for c in range(first_column[g], first_column[g + 1]):
                                    if last_bit[w, output[c]] > i:
                                        stopped[w] += 1
                                        continue
                                    plus, minus = np.int64(0), np.int64(0)
                                    for k in range(size):
                                        plus += np.int64(ones_of(taken[k] & positive[c, k]))
                                        minus += np.int64(ones_of(taken[k] & negative[c, k]))
                                    counts[on, plus, minus] += 1
                                    lanes[count] = c - first_column[g]
                                    first_count[count], second_count[count] = plus, minus
                                    count += 1
                                pairs_converted[w] += count
                                for s in range(settings):
                                    slowest = shortest
                                    total = np.int64(0)
                                    used = count
                                    if signed[s]:
                                        for j in range(count):
                                            spent[j] = tables[s, on, ou_rows + first_count[j] - second_count[j]]
                                            total += spent[j]
                                            slowest = max(slowest, spent[j])
                                    else:
                                        used = 2 * count
                                        for j in range(count):
                                            lanes[count + j] = lanes[j] + ou_cols
                                            spent[j] = tables[s, on, ou_rows + first_count[j]]
                                            spent[count + j] = tables[s, on, ou_rows + second_count[j]]
                                            total += spent[j] + spent[count + j]
                                            slowest = max(slowest, spent[j], spent[count + j])
                                    for j in range(used):
                                        decisions[s, lanes[j]] += spent[j]
                                    operations[s, w] += total
                                    paces[s, half, steps[half]] = slowest
                                    own[s, half] += slowest
                                    _activate(
                                        lanes, used, spent, turn[half], ends[s, half], slots, shortest,
                                        following[s, half],
                                    )  # fmt: skip
                                steps[half] += 1
                                for j in range(count):
                                    turn[half, lanes[j]] += 1
                                    turn[half, lanes[j] + ou_cols] += 1
                    if not looked:
                        continue
                    latched_lines[w] += lines_of_pack[p]
                    mask_bits[w] += bits_of_mask[p] * looked
                    for s in range(settings):
                        decoupled[s, half] += max(1, started * shortest, decisions[s].max())
                        if not started:
                            paces[s, half, steps[half]] = 1
                            own[s, half] += 1
                            for q in range(modes):
                                following[s, half, q] += 1
                    if not started:
                        steps[half] += 1
                if decides and (checked & anywhere) >> i & 1 and anywhere & ((1 << i) - 1):
                    for s in range(settings):
                        paces[s, half, steps[half]] = check
                        own[s, half] += check
                        decoupled[s, half] += check
                        for q in range(modes):
                            following[s, half, q] = max(following[s, half, q], ends[s, half, q].max()) + check
                    steps[half] += 1
        longer = np.int64(0)
        for half in range(halves):
            longer = max(longer, steps[half])
        for s in range(settings):
            for j in range(longer):
                pace = np.int64(0)
                for half in range(halves):
                    if j < steps[half]:
                        pace = max(pace, paces[s, half, j])
                clocks[s, 0, w] += pace
            clocks[s, 1, w] = own[s].max()
            clocks[s, 2 + modes, w] = decoupled[s].max()
            for q in range(modes):
                for half in range(halves):
                    elapsed = max(following[s, half, q], ends[s, half, q].max())
                    clocks[s, 2 + q, w] = max(clocks[s, 2 + q, w], elapsed)
        own[:] = 0
        decoupled[:] = 0
        steps[:] = 0
        ends[:] = 0
        following[:] = 0


def spend(
    packing: Packing,
    x: np.ndarray,
    positions: np.ndarray,
    last_bit: np.ndarray | None,
    searches: Sequence[Search],
    after: Sequence[int],
    slots: tuple[int, ...],
    check: int,
    made: Any,
) -> None:
    """Fill `made` (gather.Spent, zeros) for what windows stream.

    x : uint8 (P, segments * ou_rows). positions : int64 (P, segments), bit i says whether input bit i is streamed.
    last_bit : (P, N), or None without early stop. after : bits after which outputs are checked.
    slots, check : gather.SLOTS, gather.CHECK.
    """
    hardware, prepared = packing.hardware, packing.prepared
    flat = flatten(packing)
    shape = (len(searches), hardware.ou_rows + 1, 2 * hardware.ou_rows + 1)
    tables = np.array([search.operations for search in searches], dtype=np.int64).reshape(shape)
    signed = np.array([search.signed for search in searches], dtype=np.bool_)
    last = np.zeros((len(x), prepared.outputs), dtype=np.int64) if last_bit is None else last_bit
    _spend(
        np.ascontiguousarray(x), np.ascontiguousarray(positions), np.ascontiguousarray(last),
        sum(1 << bit for bit in after),
        prepared.bits, hardware.ou_rows, hardware.ou_cols, packing.halves,
        max(1, hardware.sample_interval), flat.segments, flat.first_segment, flat.lines, flat.bits_of_mask,
        flat.first_mask, flat.mask_words, flat.first_group, flat.half, flat.first_column, flat.output, flat.positive,
        flat.negative, flat.longest, tables, signed, np.array(slots, dtype=np.int64), check,
        made.ou_activations, made.pairs_converted, made.stopped, made.prefix_counts, made.prefix_rows,
        made.latched_lines, made.mask_bits, made.operations, made.clocks, made.counts,
    )  # fmt: skip
