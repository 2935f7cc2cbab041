"""Compiled loop of machine.py, which needs numba: sums, events and clocks of windows in one pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from golden_model.compiled import njit as _njit
from golden_model.pairs.early_stop import STOP, Stops
from golden_model.pairs.gather import COUNTED
from golden_model.pairs.gather_compiled import Flat, difference, flatten, latch, take_ones
from golden_model.pairs.packs import Packing
from golden_model.pairs.search import Search
from golden_model.timing import CONVERT, Beats


class Ran(NamedTuple):
    """What windows do, int64.

    sums : (P, N). counted : (P, counters), in the order of `gather.COUNTED`. clocks, converting, deciding : as in
    `machine.Clocks`.
    """

    sums: np.ndarray
    counted: np.ndarray
    clocks: np.ndarray
    converting: np.ndarray
    deciding: np.ndarray


@_njit
def _run(
    x, last_bit, checked, stop, positions, bits, ou_rows, columns, places, shortest, segments, first_segment,
    bits_of_mask, first_mask, mask_words, first_group, group_half, plane, first_column, output, positive, negative,
    operations, value, rounds, load, convert, drain, ready, after, sums, counted, clocks, converting,
    deciding,
):  # fmt: skip
    packs, size, outputs = len(segments), mask_words.shape[1], last_bit.shape[1]
    macros, halves = rounds.shape[1], converting.shape[1]
    windows = len(x) // len(clocks)
    block_cols = (outputs + columns - 1) // columns
    owner = np.full(block_cols, -1, dtype=np.int64)  # half of a block column, -1 if it stores nothing
    for g in range(len(group_half)):
        owner[output[first_column[g]] // columns] = group_half[g]
    decided = np.zeros(block_cols, dtype=np.int64)
    words = np.zeros((packs, 8, size), dtype=np.uint64)
    left = np.zeros(size, dtype=np.uint64)
    taken_rows = np.zeros(size, dtype=np.uint64)
    streamed = np.zeros(packs, dtype=np.int64)
    # Of every half of every macro, from window to window: names as in machine.py.
    takens = np.zeros((macros, halves, columns), dtype=np.int64)
    all_slots = np.zeros((macros, halves, columns, 2), dtype=np.int64)
    rings = np.zeros((macros, halves, places), dtype=np.int64)
    kept = np.zeros((macros, halves, 5), dtype=np.int64)  # rested, sampled_before, sampled, place, converted
    for image in range(len(clocks)):
        takens[:], all_slots[..., 0], all_slots[..., 1], rings[:] = -1, 0, 1, -1
        kept[:], kept[..., 4] = 0, -1
        following, over_before, over = max(load, ready), 0, 0  # following : begin of the next beat
        for r in range(len(rounds)):
            begin = following
            following = begin + (load if r + 1 < len(rounds) else 0)
            walked, over_before = begin, over
            over = max(begin, over_before + 1 if r else 0)
            for macro in range(macros):
                if rounds[r, macro] < 0:
                    continue
                w = image * windows + rounds[r, macro]
                anywhere = latch(x[w], positions[w], first_segment, segments, ou_rows, words, streamed)
                for half in range(halves):
                    taken, slots, done, keep = (
                        takens[macro, half], all_slots[macro, half], rings[macro, half], kept[macro, half],
                    )  # fmt: skip
                    walker, moved, free, formed, ended = begin + 1, begin, begin, begin, begin
                    rested, sampled_before, sampled, place, converted = keep[0], keep[1], keep[2], keep[3], keep[4]
                    decided[:] = 0
                    for i in range(bits - 1, -1, -1):
                        if not (anywhere >> i) & 1:
                            continue
                        for p in range(packs):
                            walker += 1
                            if not (streamed[p] >> i) & 1:
                                continue
                            looked = 0
                            for mask in range(first_mask[p], first_mask[p + 1]):
                                mine = False
                                for g in range(first_group[mask], first_group[mask + 1]):
                                    mine |= group_half[g] == half
                                if not mine:
                                    continue
                                looked += 1
                                walker = max(walker, moved) + 1
                                moved = max(walker, free)
                                formed = moved
                                free = moved + 1
                                for k in range(size):
                                    left[k] = words[p, i, k] & mask_words[mask, k]
                                while True:
                                    on = take_ones(left, ou_rows, taken_rows)
                                    if not on:
                                        break
                                    counted[w, 4] += 1
                                    counted[w, 5] += segments[p] * ou_rows
                                    formed = max(formed + 1, sampled_before + 1)
                                    free = formed
                                    start = formed + 1
                                    for g in range(first_group[mask], first_group[mask + 1]):
                                        if group_half[g] != half:
                                            continue
                                        b = output[first_column[g]] // columns
                                        start = max(start, rested, done[place] + 1, decided[b])
                                        rested = start + shortest
                                        end = start
                                        counted[w, 0] += 1
                                        for lane in range(columns):
                                            clock = max(start, taken[lane]) + 1
                                            c = first_column[g] + lane
                                            if c < first_column[g + 1] and last_bit[w, output[c]] <= i:
                                                counted[w, 1] += 1
                                                found = ou_rows + difference(taken_rows, positive[c], negative[c])
                                                counted[w, 2] += operations[on, found]
                                                deciding[image, half, lane] += operations[on, found]
                                                sums[w, output[c]] += value[on, found] << (i + plane[g])
                                                even, odd = max(clock, slots[lane, 0]), max(clock, slots[lane, 1])
                                                clock = min(even + (even & 1), odd + 1 - (odd & 1))
                                                slots[lane, clock & 1] = clock + 2 * operations[on, found]
                                                end = max(end, slots[lane, clock & 1])
                                            taken[lane] = clock
                                            end = max(end, clock)
                                        done[place] = end
                                        place = (place + 1) % places
                                        converting[image, half] += max(0, end - max(start, converted))
                                        converted, ended = max(converted, end), max(ended, end)
                                    sampled_before, sampled = sampled, start
                            if looked:
                                counted[w, 3] += segments[p]
                                counted[w, 6] += bits_of_mask[p] * looked
                        if not ((checked & anywhere) >> i & 1 and anywhere & ((1 << i) - 1)):
                            continue
                        start = max(walker, moved + 1, formed + 1, sampled_before + 1)
                        marked = False
                        for b in range(block_cols):
                            if owner[b] != half:
                                continue
                            if not marked:
                                formed, walker, marked = start, start + 1, True
                                start += 1
                            start = max(start, rested, done[place] + 1, decided[b])
                            rested = start + shortest
                            end = start
                            for lane in range(columns):
                                taken[lane] = max(start, taken[lane], slots[lane, 0], slots[lane, 1]) + 1
                                end = max(end, taken[lane])
                            for n in range(b * columns, min((b + 1) * columns, outputs)):
                                counted[w, 7] += last_bit[w, n] <= i
                            done[place] = end
                            place = (place + 1) % places
                            converting[image, half] += max(0, end - max(start, converted))
                            converted = max(converted, end)
                            decided[b] = end + stop
                            ended = max(ended, end, decided[b] - 1)
                        if marked:
                            sampled_before, sampled = sampled, start
                    half_walked = max(walker, moved + 1, formed + 1) + after
                    walked, over = max(walked, half_walked), max(over, half_walked, ended + 1 + after)
                    keep[0], keep[1], keep[2], keep[3], keep[4] = rested, sampled_before, sampled, place, converted
            following = max(following, walked + convert)
            if r:
                following = max(following, max(begin, over_before) + drain)
        clocks[image] = max(following, over) + drain


def run(
    packing: Packing,
    x: np.ndarray,
    streamed: np.ndarray,
    search: Search,
    rounds: np.ndarray,
    beats: Beats,
    stops: Stops | None = None,
) -> Ran:
    """Windows on aligned packs with a search of differences: sums and events of `gather.matmul`, clocks of machine.py.

    x : uint8 (B * windows, segments, ou_rows), streamed : bool (B * windows, segments, bits), as from
    `packing.streams`. rounds, beats, stops : as for `machine.step_clocks`.
    """
    hardware, bits = packing.hardware, packing.prepared.bits
    flat: Flat = flatten(packing)
    images = len(x) // (int(rounds.max()) + 1)
    last_bit = np.zeros((len(x), packing.prepared.outputs), dtype=np.int64) if stops is None else stops.last_bit
    made = Ran(
        np.zeros((len(x), packing.prepared.outputs), dtype=np.int64),
        np.zeros((len(x), len(COUNTED)), dtype=np.int64),
        np.zeros(images, dtype=np.int64),
        np.zeros((images, packing.halves), dtype=np.int64),
        np.zeros((images, packing.halves, hardware.ou_cols), dtype=np.int64),
    )
    _run(
        np.ascontiguousarray(x.reshape(len(x), -1)), np.ascontiguousarray(last_bit),
        0 if stops is None else sum(1 << bit for bit in stops.after), STOP,
        streamed.astype(np.int64) @ (1 << np.arange(bits)), bits,
        hardware.ou_rows, hardware.ou_cols, hardware.sample_places, max(1, hardware.sample_interval), flat.segments,
        flat.first_segment, flat.bits_of_mask, flat.first_mask, flat.mask_words, flat.first_group, flat.half,
        flat.plane, flat.first_column, flat.output, flat.positive, flat.negative, search.operations, search.value,
        np.ascontiguousarray(rounds, dtype=np.int64), *beats, CONVERT, *made,
    )  # fmt: skip
    return made
