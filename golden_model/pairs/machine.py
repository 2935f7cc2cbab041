"""Clocks of the pair machine as the hardware keeps them, exact (*ours*; rtl/pair_macro.py).

Tables (rtl/pack_builder.py), once per layer: `build_clocks`.

A window, both halves side by side, in clocks from its begin. The walker of a half takes packs and masks, its former
makes OUs of masks, its converters sample them:

* Walker. For every input bit that any segment of the window streams, highest first, and every pack: one clock, in
  which the slice is latched or the pack is skipped. Then one clock for every mask, in which the former takes it.
* Former, in two steps. Step 1 takes a mask as soon as the mask before has gone on to step 2, in the same clock at the
  earliest. A mask goes on to step 2 a clock after it was taken at the earliest, in the clock in which the last OU of
  the mask before is formed, or a clock after that mask has come if no row of it is on. From the next clock on its OUs
  are formed, one a clock; an OU waits until the second last one before it was sampled for its last group, in an
  earlier clock.
* Converters. An OU can be sampled in the clock after it was formed, for one group after the other, max(1,
  sample_interval) clocks after the sample before, and at the earliest in the clock after that in which the last lane is
  done with the `sample_places`-th sample before. A lane takes samples in order, one a clock, the first clock after the
  sample at the earliest; it is done with a sample that it has no part in. The others are converted in two slots, which
  belong to even and to odd clocks: a sample is taken in a clock of a free slot. A decision takes two clocks. A lane is
  done with a sample, and its slot is free, two clocks for every decision after it was taken.

* Early stop (early_stop.py). After an input bit with a check the walker sends a mark as it sends an OU, as soon as it
  has had all OUs of the bit taken, and goes on in the clock behind. For every block column of the half that stores
  anything, ascending, the converters hand out a check as they hand out a sample; a lane takes it a clock after both of
  its slots are free at the earliest, and is done with it. Nothing of the block column is sampled or checked again
  before the clock `STOP` clocks after that in which the last lane took its check.

The window ends `CONVERT` clocks after both halves have nothing left to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar.prepared import check_activations, streams
from golden_model.optional import numba_installed
from golden_model.pairs.early_stop import STOP, Stops, checked_after
from golden_model.pairs.gather import Activated, Formed, Latched, walk
from golden_model.pairs.packs import Packing
from golden_model.pairs.search import Search

#: Clocks from the clock in which both halves of a window have nothing left to do to `window_done`.
CONVERT = 1


# ---- tables -------------------------------------------------------------------------------------
def build_clocks(packing: Packing) -> int:
    """Clocks from `layer_start` until masks and groups are built.

    1; for every block column, segments + 1. For every pack: for every block column, its segments + 1; for every group,
    the place of its mask among the masks of the pack, counted from 1, + 1; and 1.
    """
    segments, block_cols = packing.prepared.widths.shape
    clocks = 1 + block_cols * (segments + 1)
    for pack in packing.packs:
        searched = sum((place + 1) * len(mask.groups) for place, mask in enumerate(pack.masks, 1))
        clocks += block_cols * (pack.segments + 1) + searched + 1
    return clocks


def ready_clocks(packing: Packing, checks: bool = False) -> int:
    """Clocks from `layer_start` to `layer_ready`: the tables; where the step checks its outputs, beside them its words
    of early stop, a clock for each output and 2."""
    return max(build_clocks(packing), packing.prepared.outputs + 2 if checks else 0)


# ---- windows ------------------------------------------------------------------------------------
@dataclass
class _Half:
    """Where a half is, in clocks.

    walker : when it can go on. moved : when the last mask went on to step 2. free : earliest clock in which the next
    one can. formed : the last OU. sampled : the last two OUs for their last groups. rested : earliest next sample by
    `sample_interval`. done : the last samples, when all lanes were done with them, as many as there are places; before
    the first one, long ago. taken : the last sample, by lane. slots : when they are free, by lane and parity of clocks.
    converted : all samples so far, by all lanes. converting : clocks in which a sample is held.
    decided : when the last check of a block column was decided.
    """

    hardware: HardwareConfig

    walker: int = 1
    moved: int = 0
    free: int = 0
    formed: int = 0
    sampled: list[int] = field(default_factory=lambda: [0, 0])
    rested: int = 0
    done: deque[int] = field(default_factory=deque)
    taken: list[int] = field(default_factory=list)
    slots: list[list[int]] = field(default_factory=list)
    converted: int = -1
    converting: int = 0
    decided: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.done.extend([-1] * self.hardware.sample_places)
        self.taken = [-1] * self.hardware.ou_cols
        self.slots = [[0, 1] for _ in self.taken]

    def pack(self) -> None:
        self.walker += 1

    def mask(self) -> None:
        taken = max(self.walker, self.moved)
        self.walker = taken + 1
        self.moved = max(taken + 1, self.free)
        self.formed = self.moved
        self.free = self.moved + 1

    def ou(self, activations: Sequence[tuple[int, Decisions]]) -> None:
        """activations : block column, and decisions of every lane that takes part in it; at least one activation."""
        self.formed = self.free = max(self.formed + 1, self.sampled[0] + 1)
        self._samples(activations)

    def check(self, columns: Sequence[int]) -> None:
        """columns : block columns of the half, at least one."""
        self.formed = max(self.walker, self.moved + 1, self.formed + 1, self.sampled[0] + 1)
        self.walker = self.formed + 1
        self._samples([(column, _CHECK) for column in columns])

    def _samples(self, activations: Sequence[tuple[int, Decisions]]) -> None:
        start = self.formed + 1
        for column, decisions in activations:
            start = max(start, self.rested, self.done.popleft() + 1, self.decided.get(column, 0))
            self.rested = start + max(1, self.hardware.sample_interval)
            self._convert(start, decisions)
            if decisions is _CHECK:
                self.decided[column] = self.done[-1] + STOP
                self.converted = max(self.converted, self.decided[column] - 1)
        self.sampled = [self.sampled[1], start]

    def _convert(self, start: int, decisions: Decisions) -> None:
        done = start
        for lane, slots in enumerate(self.slots):
            earliest = max(start, self.taken[lane]) + 1
            if decisions is _CHECK:
                earliest = max(earliest, max(slots) + 1)
            elif lane in decisions:
                # The earliest clock of each slot's parity in which it is free.
                clocks = [
                    clock + ((clock ^ parity) & 1) for parity, clock in enumerate(max(s, earliest) for s in slots)
                ]
                earliest = min(clocks)
                slots[earliest & 1] = earliest + 2 * decisions[lane]
                done = max(done, slots[earliest & 1])
            self.taken[lane] = earliest
            done = max(done, earliest)
        self.done.append(done)
        self.converting += max(0, done - max(start, self.converted))
        self.converted = max(self.converted, done)

    @property
    def over(self) -> int:
        return max(self.walker, self.moved + 1, self.rested, self.converted + 1)


#: Decisions by lane.
Decisions = Mapping[int, int]
#: Those of a check.
_CHECK: Decisions = {}


class Clocks(NamedTuple):
    """Clocks of windows, int64.

    window : from the begin to `window_done`, (P,). converting : in which a half holds a sample, (P, halves).
    """

    window: np.ndarray
    converting: np.ndarray


def window_clocks(
    packing: Packing, activations: np.ndarray, search: Search, stops: Stops | None = None, *, plain: bool = False
) -> Clocks:
    """Clocks of windows (P, K) with a search of differences.

    stops : of these windows, None without early stop. plain : plain Python even where numba is installed.
    """
    if not search.signed:
        raise ValueError(f"{search.name}: this machine converts the difference of a pair, not its two counts")
    x, streamed = streams(packing.prepared, check_activations(packing.prepared, activations))
    if plain or not numba_installed():
        over, converting = np.zeros((2, len(x), packing.halves), dtype=np.int64)
        nothing = np.zeros(packing.prepared.outputs, dtype=np.int64)
        for w, half in np.ndindex(over.shape):
            last_bit, after = (nothing, ()) if stops is None else (stops.last_bit[w], stops.after)
            over[w, half], converting[w, half] = _half_clocks(packing, x[w], streamed[w], search, half, last_bit, after)
    else:
        from golden_model.pairs import machine_compiled

        *_, over, converting = machine_compiled.run(packing, x, streamed, search, stops)
    return Clocks(over.max(axis=1) + CONVERT, converting)


def block_columns(packing: Packing, half: int) -> list[int]:
    """Block columns of a half that store anything, ascending."""
    groups = [group for pack in packing.packs for mask in pack.masks for group in mask.groups]
    return sorted({group.block_col for group in groups if group.half == half})


def _half_clocks(
    packing: Packing, x: np.ndarray, streamed: np.ndarray, search: Search, half: int, last_bit: np.ndarray,
    after: Sequence[int],
) -> tuple[int, int]:  # fmt: skip
    """Clock in which a half has nothing left to do, and clocks in which it holds a sample.

    last_bit : (N,), lowest bit for which an output is converted. after : bits after which outputs are checked.
    """
    decides, own = checked_after(streamed[None], after)[0], block_columns(packing, half)
    state = _Half(packing.hardware)
    for bit in reversed(range(packing.prepared.bits)):
        if not streamed[:, bit].any():
            continue
        latched: dict[int, list[int]] = {}
        ous: dict[tuple[int, int], list[list[tuple[int, Decisions]]]] = {}
        for what in walk(packing, x, streamed[:, bit], last_bit, half, bit):
            if isinstance(what, Latched):
                pack, latched[what.pack] = what.pack, list(what.masks)
            elif isinstance(what, Formed):
                mask = what.mask
                ous.setdefault((pack, mask), []).append([])
            elif isinstance(what, Activated):
                operations = search.pair(np.full(what.positive.shape, what.k), what.positive, what.negative)[1]
                lanes = {int(lane): int(operations[0, lane]) for lane in np.flatnonzero(what.live)}
                ous[pack, mask][-1].append((what.group.block_col, lanes))
        for index in range(len(packing.packs)):
            state.pack()
            for mask in latched.get(index, []):
                state.mask()
                for activations in ous.get((index, mask), []):
                    state.ou(activations)
        if decides[bit] and own:
            state.check(own)
    return state.over, state.converting
