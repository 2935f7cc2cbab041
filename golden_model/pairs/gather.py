"""Gathered operation units of aligned packs: exact sums, events and clocks; the definition (*ours*).

A *half* of the machine has `ou_cols` converters (for searches of both counts: twice as many), a latch for one input
bit of a pack, and an OU former. For every window it walks (packs.py)

    for bit from the highest: for pack: latch the slice; for mask: for OU of slice & mask: for group of the mask

and skips what is not there: bits that dynamic precision does not stream, packs in which the half has no mask. The OUs
of a mask are the first `ou_rows` 1s of `slice & mask`, the next `ou_rows`, and so on; no OU is formed without a 1. k,
the 1s of an OU, comes with its prefix count and is known to every search. Each activation of an OU on one group
converts all columns that have not stopped; the value is added as value << (bit + plane), so that sums equal W . x with
a lossless search.

Clocks, by `MODES`, of the conversions of one window:

* An activation takes as many clocks in a lane as its conversion has decisions. A pack of which nothing is formed for a
  bit takes its half one clock: it has been latched. Forming an OU takes none: the next one is formed meanwhile.
* "lock step": both halves begin their next activation together, when the slowest lane of either is done, after at least
  max(1, sample_interval) clocks. A half that has none left waits.
* "halves": each half has its own pace, that of its own slowest lane.
* "lanes 2", "lanes 4": every lane has so many sample-and-hold places, one of which converts. An activation starts when
  all lanes that it uses have a free place, and max(1, sample_interval) clocks after the one before; each lane converts
  what it holds in order. (Lock step with two places is what double-buffered sampling has anyway.)
* "decoupled": each half has its own pace, and its lanes wait for each other only at the end of an input bit of a pack,
  with ideal queues: that takes as long as the lane with the most decisions, and at least max(1, sample_interval) clocks
  for every activation.
* With early stop a half decides after every input bit that has a check, if an output of its own was left: it waits
  until its conversions have ended, and `CHECK` clocks more (a step of its own in lock step). A block column is checked
  as soon as its last conversion has ended, so only the last check is seen. Halves decide alone: all groups of a block
  column must be in one half ("one" or "columns" of packs.py).
* Halves wait for each other at the end of a window only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from golden_model.optional import numba_installed
from golden_model.pairs.early_stop import Stops, checked_after
from golden_model.pairs.packs import Group, Packing
from golden_model.pairs.search import Search

#: Ways to keep time; the lanes of "lanes" have as many sample-and-hold places as `SLOTS`, powers of two, say.
MODES = ("lock step", "halves", "lanes 2", "lanes 4", "decoupled")
SLOTS = (2, 4)
#: What the hardware counts of a window, but its clocks.
COUNTED = (
    "ou_activations",
    "conversions_r2",
    "ad_operations",
    "input_bits_streamed",
    "prefix_counts",
    "prefix_rows",
    "mask_bits_read",
    "stop_checks",
)
#: Clocks from the last conversion of an input bit to the decision of early stop.
CHECK = 2

_CHUNK_BYTES = 32 << 20


# ---- what happens, in order ---------------------------------------------------------------------
class Latched(NamedTuple):
    """A half latches an input bit of a pack; masks : those that it looks at."""

    bit: int
    pack: int
    masks: tuple[int, ...]


class Formed(NamedTuple):
    """The next OU of a mask: rows : bool (lines of the pack,), k of them are on."""

    mask: int
    rows: np.ndarray
    k: int


class Activated(NamedTuple):
    """An OU on one group. live : bool (c,), columns that convert. positive, negative : their counts, int64 (c,)."""

    group: Group
    k: int
    live: np.ndarray
    positive: np.ndarray
    negative: np.ndarray


class Decided(NamedTuple):
    """A half decides which of its outputs stop. left : it has any that had not stopped."""

    left: bool


def walk(
    packing: Packing,
    x: np.ndarray,
    streamed: np.ndarray,
    last_bit: np.ndarray,
    half: int,
    bit: int,
    *,
    decides: bool = False,
) -> Iterator[Latched | Formed | Activated | Decided]:
    """What a half does for one input bit of one window, in order.

    x : (segments, ou_rows) unsigned, what is streamed. streamed : bool (segments,), whether this bit is.
    last_bit : (N,), lowest bit for which an output is converted. decides : outputs are checked after this bit.
    """
    left = False
    for index, pack in enumerate(packing.packs):
        inside = slice(pack.first, pack.first + pack.segments)
        found = [[group for group in mask.groups if group.half == half] for mask in pack.masks]
        left |= any((last_bit[group.columns] <= bit).any() for groups in found for group in groups)
        if not streamed[inside].any():
            continue
        masks = tuple(i for i, groups in enumerate(found) if groups)
        if not masks:
            continue
        yield Latched(bit, index, masks)
        latch = (x[inside] >> bit) & 1 == 1
        for i in masks:
            on = np.flatnonzero(latch & pack.masks[i].segments[:, None])
            for begin in range(0, len(on), packing.hardware.ou_rows):
                rows = np.zeros(latch.size, dtype=bool)
                rows[on[begin : begin + packing.hardware.ou_rows]] = True
                k = int(rows.sum())
                yield Formed(i, rows, k)
                for group in found[i]:
                    live = last_bit[group.columns] <= bit
                    counts = ((cells & rows).sum(axis=1) for cells in (group.positive, group.negative))
                    yield Activated(group, k, live, *counts)
    if decides:
        yield Decided(left)


class _Lanes:
    """Lanes of one half that hold samples: when activations start and conversions end, in clocks."""

    def __init__(self, lanes: int, slots: int, shortest: int) -> None:
        self.ends = np.zeros((lanes, slots), dtype=np.int64)  # of the last conversions, the latest in column 0
        self.shortest, self.next = shortest, 0

    def activate(self, used: np.ndarray, operations: np.ndarray) -> None:
        """used : lanes that sample. operations : decisions of their conversions."""
        start = max(self.next, int(self.ends[used, -1].max(initial=0)))
        ends = np.maximum(self.ends[used, 0], start) + operations
        self.ends[used, 1:], self.ends[used, 0] = self.ends[used, :-1], ends
        self.next = start + self.shortest

    def wait(self) -> None:
        self.next += 1

    def decide(self) -> None:
        self.next = self.elapsed + CHECK

    @property
    def elapsed(self) -> int:
        return max(self.next, int(self.ends.max(initial=0)))


class _Clocks:
    """Clocks of one window under one setting."""

    def __init__(self, halves: int, lanes: int, shortest: int) -> None:
        self.shortest = shortest
        self.paces: list[list[int]] = [[] for _ in range(halves)]
        self.lanes = [[_Lanes(lanes, slots, shortest) for slots in SLOTS] for _ in range(halves)]
        self.decoupled = [0] * halves
        self.started = [0] * halves  # activations of the pack that is latched, and decisions of every lane on it
        self.decisions = np.zeros((halves, lanes), dtype=np.int64)

    def activate(self, half: int, used: np.ndarray, operations: np.ndarray) -> None:
        self.paces[half].append(max(self.shortest, int(operations.max(initial=0))))
        for lanes in self.lanes[half]:
            lanes.activate(used, operations)
        self.started[half] += 1
        self.decisions[half, used] += operations

    def leave(self, half: int) -> None:
        """The end of an input bit of a pack."""
        if not self.started[half]:
            self.paces[half].append(1)
            for lanes in self.lanes[half]:
                lanes.wait()
        self.decoupled[half] += max(1, self.started[half] * self.shortest, int(self.decisions[half].max()))
        self.started[half], self.decisions[half] = 0, 0

    def decide(self, half: int) -> None:
        self.paces[half].append(CHECK)
        for lanes in self.lanes[half]:
            lanes.decide()
        self.decoupled[half] += CHECK

    @property
    def elapsed(self) -> list[int]:
        """By `MODES`."""
        longest = max(map(len, self.paces))
        steps = np.zeros((len(self.paces), longest), dtype=np.int64)
        for half, paces in enumerate(self.paces):
            steps[half, : len(paces)] = paces
        queued = [max(half[i].elapsed for half in self.lanes) for i in range(len(SLOTS))]
        return [int(steps.max(axis=0).sum()), int(steps.sum(axis=1).max()), *queued, max(self.decoupled)]


# ---- windows ------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Spent:
    """What windows spend. All int64.

    ou_activations : OUs switched on, one for every group. pairs_converted : column pairs sampled. stopped : those of
    the same OUs that had stopped. prefix_counts, prefix_rows : OUs that formers form, and rows of the packs that the
    counts go through. latched_lines : word lines whose bit is latched. mask_bits : of masks looked at. (P,) each.
    operations : A/D operations, (settings, P). clocks : of conversions, (settings, modes, P).
    counts : column pairs by rows that are on and both counts, (ou_rows + 1,) * 3, entry [k, c+, c-].
    """

    ou_activations: np.ndarray
    pairs_converted: np.ndarray
    stopped: np.ndarray
    prefix_counts: np.ndarray
    prefix_rows: np.ndarray
    latched_lines: np.ndarray
    mask_bits: np.ndarray
    operations: np.ndarray
    clocks: np.ndarray
    counts: np.ndarray

    @classmethod
    def zeros(cls, windows: int, settings: int, ou_rows: int) -> Spent:
        shapes = [(windows,)] * 7 + [(settings, windows), (settings, len(MODES), windows), (ou_rows + 1,) * 3]
        return cls(*(np.zeros(shape, dtype=np.int64) for shape in shapes))

    def counters(self, ou_rows: int, checks: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """`COUNTED` of every window under the first setting: (P,) by counter. checks : of early stop, (P,)."""
        return dict(
            zip(
                COUNTED,
                (
                    *(self.ou_activations, self.pairs_converted, self.operations[0], self.latched_lines // ou_rows),
                    *(self.prefix_counts, self.prefix_rows, self.mask_bits),
                    np.zeros_like(self.mask_bits) if checks is None else checks,
                ),
                strict=True,
            )
        )

    def put(self, part: slice, other: Spent) -> None:
        """Take the windows of `part`, and add their counts."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name == "counts":
                mine += theirs
            else:
                mine[..., part] = theirs


def _window(
    packing: Packing,
    x: np.ndarray,
    streamed: np.ndarray,
    last_bit: np.ndarray,
    searches: Sequence[Search],
    after: Sequence[int],
    made: Spent,
    w: int,
    sums: np.ndarray,
) -> None:
    """One window: fill place w of `made`, add to sums (settings, N)."""
    hardware = packing.hardware
    shortest = max(1, hardware.sample_interval)
    clocks = [_Clocks(packing.halves, search.conversions * hardware.ou_cols, shortest) for search in searches]
    decides = checked_after(streamed[None], after)[0]
    for bit in reversed(range(packing.prepared.bits)):
        for half in range(packing.halves):
            latched, lines = False, 0
            for what in walk(packing, x, streamed[:, bit], last_bit, half, bit, decides=decides[bit]):
                if isinstance(what, Latched | Decided) and latched:
                    for one in clocks:
                        one.leave(half)
                if isinstance(what, Latched):
                    latched, pack = True, packing.packs[what.pack]
                    lines = pack.lines
                    made.latched_lines[w] += lines
                    made.mask_bits[w] += pack.mask_bits * len(what.masks)
                elif isinstance(what, Formed):
                    made.prefix_counts[w] += 1
                    made.prefix_rows[w] += lines
                elif isinstance(what, Decided):
                    latched = False
                    for one in clocks:
                        if what.left:
                            one.decide(half)
                else:
                    group, k, live, positive, negative = what
                    made.ou_activations[w] += 1
                    made.pairs_converted[w] += live.sum()
                    made.stopped[w] += (~live).sum()
                    np.add.at(made.counts[k], (positive[live], negative[live]), 1)
                    columns = np.flatnonzero(live)
                    for s, search in enumerate(searches):
                        value, operations = search.pair(np.full(len(columns), k), positive[live], negative[live])
                        sums[s][group.columns[live]] += value << (bit + group.plane)
                        made.operations[s, w] += operations.sum()
                        used = np.concatenate([columns + i * hardware.ou_cols for i in range(search.conversions)])
                        clocks[s].activate(half, used, operations.ravel())
            if latched:
                for one in clocks:
                    one.leave(half)
    for s, one in enumerate(clocks):
        made.clocks[s, :, w] = one.elapsed


def _checked(packing: Packing, searches: Search | Sequence[Search], stops: Stops | None) -> list[Search]:
    if stops is not None and packing.split not in ("one", "columns"):
        raise ValueError(f"early stop needs split 'one' or 'columns', got {packing.split!r}")
    found = [searches] if isinstance(searches, Search) else list(searches)
    for search in found:
        if search.ou_rows != packing.hardware.ou_rows:
            raise ValueError(f"{search.name}: it searches {search.ou_rows} rows, OUs have {packing.hardware.ou_rows}")
        if stops is not None and not search.lossless:
            raise ValueError(f"{search.name}: early stop needs a lossless search")
    return found


def matmul(
    packing: Packing, activations: np.ndarray, searches: Search | Sequence[Search], stops: Stops | None = None
) -> tuple[np.ndarray, Spent]:
    """Matrix product as gathered OUs compute it, and what it spends; plain NumPy, window by window.

    activations : (P, K) unsigned integers below 2**bits of the layer. searches : one setting, or several.
    stops : of these windows (early_stop.py), None without early stop.

    Returns (sums, spent), sums int64 (settings, P, N): `streamed activations @ weights` with a lossless search, of
    outputs that stop without the bits below.
    """
    settings = _checked(packing, searches, stops)
    x, mask = packing.streams(activations)
    made = Spent.zeros(len(x), len(settings), packing.hardware.ou_rows)
    sums = np.zeros((len(settings), len(x), packing.prepared.outputs), dtype=np.int64)
    last_bit = np.zeros(sums.shape[1:], dtype=np.int64) if stops is None else stops.last_bit
    after = () if stops is None else stops.after
    for w in range(len(x)):
        _window(packing, x[w], mask[w], last_bit[w], settings, after, made, w, sums[:, w])
    return sums, made


def spend(
    packing: Packing,
    activations: np.ndarray,
    searches: Sequence[Search] = (),
    stops: Stops | None = None,
    *,
    plain: bool = False,
) -> Spent:
    """What windows (P, K) spend under each setting; exactly what `matmul` counts, faster where numba is installed.

    searches : may be none, for counts alone. plain : plain NumPy even where numba is installed.
    """
    settings = _checked(packing, searches, stops)
    if plain or not numba_installed():
        return matmul(packing, activations, settings, stops)[1]
    from golden_model.pairs import gather_compiled

    prepared = packing.prepared
    made = Spent.zeros(len(activations), len(settings), packing.hardware.ou_rows)
    after = () if stops is None else stops.after
    step = max(1, _CHUNK_BYTES // ((packing.segments + 1) * (packing.hardware.ou_rows + 2 * prepared.bits + 8)))
    for begin in range(0, len(activations), step):
        part = slice(begin, begin + step)
        x, mask = packing.streams(activations[part])
        one = Spent.zeros(len(x), len(settings), packing.hardware.ou_rows)
        positions = mask.astype(np.int64) @ (1 << np.arange(prepared.bits))
        last_bit = None if stops is None else stops.last_bit[part]
        rows = x.reshape(len(x), -1)
        gather_compiled.spend(packing, rows, positions, last_bit, settings, after, SLOTS, CHECK, one)
        made.put(part, one)
    return made
