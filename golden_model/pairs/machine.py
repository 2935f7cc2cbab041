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

The window ends `CONVERT` clocks after both halves have nothing left to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar.prepared import check_activations, streams
from golden_model.optional import numba_installed
from golden_model.pairs.gather import Activated, Formed, Latched, walk
from golden_model.pairs.packs import Packing
from golden_model.pairs.search import Search

#: Clocks from the clock in which both halves of a window have nothing left to do to `window_done`.
CONVERT = 1


# ---- tables -------------------------------------------------------------------------------------
def build_clocks(packing: Packing) -> int:
    """Clocks from `layer_start` to `layer_ready`.

    1; for every block column, segments + 1. For every pack: for every block column, its segments + 1; for every group,
    the place of its mask among the masks of the pack, counted from 1, + 1; and 1.
    """
    segments, block_cols = packing.prepared.widths.shape
    clocks = 1 + block_cols * (segments + 1)
    for pack in packing.packs:
        searched = sum((place + 1) * len(mask.groups) for place, mask in enumerate(pack.masks, 1))
        clocks += block_cols * (pack.segments + 1) + searched + 1
    return clocks


# ---- windows ------------------------------------------------------------------------------------
@dataclass
class _Half:
    """Where a half is, in clocks.

    walker : when it can go on. moved : when the last mask went on to step 2. free : earliest clock in which the next
    one can. formed : the last OU. sampled : the last two OUs for their last groups. rested : earliest next sample by
    `sample_interval`. done : the last samples, when all lanes were done with them, as many as there are places; before
    the first one, long ago. taken : the last sample, by lane. slots : when they are free, by lane and parity of clocks.
    converted : all samples so far, by all lanes. converting : clocks in which a sample is held.
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

    def ou(self, activations: Sequence[Sequence[int]]) -> None:
        """activations : decisions of the lanes that take part in each, the first ones; at least one activation."""
        self.formed = self.free = max(self.formed + 1, self.sampled[0] + 1)
        start = self.formed + 1
        for decisions in activations:
            start = max(start, self.rested, self.done.popleft() + 1)
            self.rested = start + max(1, self.hardware.sample_interval)
            self._convert(start, decisions)
        self.sampled = [self.sampled[1], start]

    def _convert(self, start: int, decisions: Sequence[int]) -> None:
        done = start
        for lane, slots in enumerate(self.slots):
            earliest = max(start, self.taken[lane]) + 1
            if lane < len(decisions):
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


class Clocks(NamedTuple):
    """Clocks of windows, int64.

    window : from the begin to `window_done`, (P,). converting : in which a half holds a sample, (P, halves).
    """

    window: np.ndarray
    converting: np.ndarray


def window_clocks(packing: Packing, activations: np.ndarray, search: Search, *, plain: bool = False) -> Clocks:
    """Clocks of windows (P, K) with a search of differences. plain : plain Python even where numba is installed."""
    if not search.signed:
        raise ValueError(f"{search.name}: this machine converts the difference of a pair, not its two counts")
    x, streamed = streams(packing.prepared, check_activations(packing.prepared, activations))
    if plain or not numba_installed():
        over, converting = np.zeros((2, len(x), packing.halves), dtype=np.int64)
        for w, half in np.ndindex(over.shape):
            over[w, half], converting[w, half] = _half_clocks(packing, x[w], streamed[w], search, half)
    else:
        from golden_model.pairs import machine_compiled

        *_, over, converting = machine_compiled.run(packing, x, streamed, search)
    return Clocks(over.max(axis=1) + CONVERT, converting)


def _half_clocks(packing: Packing, x: np.ndarray, streamed: np.ndarray, search: Search, half: int) -> tuple[int, int]:
    """Clock in which a half has nothing left to do, and clocks in which it holds a sample."""
    everything = np.zeros(packing.prepared.outputs, dtype=np.int64)
    state = _Half(packing.hardware)
    for bit in reversed(range(packing.prepared.bits)):
        if not streamed[:, bit].any():
            continue
        latched: dict[int, list[int]] = {}
        ous: dict[tuple[int, int], list[list[list[int]]]] = {}
        for what in walk(packing, x, streamed[:, bit], everything, half, bit):
            if isinstance(what, Latched):
                pack, latched[what.pack] = what.pack, list(what.masks)
            elif isinstance(what, Formed):
                mask = what.mask
                ous.setdefault((pack, mask), []).append([])
            elif isinstance(what, Activated):
                operations = search.pair(np.full(what.positive.shape, what.k), what.positive, what.negative)[1]
                ous[pack, mask][-1].append(operations[0].tolist())
        for index in range(len(packing.packs)):
            state.pack()
            for mask in latched.get(index, []):
                state.mask()
                for activations in ous.get((index, mask), []):
                    state.ou(activations)
    return state.over, state.converting
