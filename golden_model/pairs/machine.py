"""Clocks of the pair machine as the hardware keeps them, exact (*ours*; rtl/pair_macro.py).

Tables (rtl/pack_builder.py), once per layer: `build_clocks`.

Windows of a step, in clocks. A half walks one window after the other, its lanes go on from one to the next without a
gap: the walker takes packs and masks, its former makes OUs of masks, its converters sample them. From the clock in
which a window begins:

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

A window is walked when its half has taken all its packs and masks, and the converters have taken its last OU or mark;
it is done when its samples have been converted, and its checks decided, and the window before it is done. Both halves
of all macros begin a round of windows together; `window_walked` and `window_done` follow `CONVERT` clocks after the
last of them is walked, and done.
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
from golden_model.timing import CONVERT, Beats


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
    decisions : of every lane. ended : all samples and checks of the window. decided : its last check of a block column.
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
    decisions: list[int] = field(default_factory=list)
    ended: int = 0
    decided: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.done.extend([-1] * self.hardware.sample_places)
        self.taken = [-1] * self.hardware.ou_cols
        self.decisions = [0] * self.hardware.ou_cols
        self.slots = [[0, 1] for _ in self.taken]

    def begin(self, clock: int) -> None:
        self.walker, self.moved, self.free, self.formed, self.ended = clock + 1, clock, clock, clock, clock
        self.decided.clear()

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
                self.ended = max(self.ended, self.decided[column] - 1)
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
                self.decisions[lane] += decisions[lane]
                done = max(done, slots[earliest & 1])
            self.taken[lane] = earliest
            done = max(done, earliest)
        self.done.append(done)
        self.converting += max(0, done - max(start, self.converted))
        self.converted, self.ended = max(self.converted, done), max(self.ended, done)

    @property
    def over(self) -> tuple[int, int]:
        """When the window is walked, and done."""
        walked = max(self.walker, self.moved + 1, self.formed + 1)
        return walked, max(walked, self.ended + 1)


#: Decisions by lane.
Decisions = Mapping[int, int]
#: Those of a check.
_CHECK: Decisions = {}


class Machine:
    """Halves of some macros, which run rounds of windows with a search of differences; plain Python.

    packing, x, streamed : a layer, and its windows as from `streams`. stops : of these windows, None without early
    stop.
    """

    def __init__(
        self, packing: Packing, x: np.ndarray, streamed: np.ndarray, search: Search, stops: Stops | None, macros: int
    ) -> None:
        self.packing, self.x, self.streamed, self.search, self.stops = packing, x, streamed, search, stops
        self.macros = [[_Half(packing.hardware) for _ in range(packing.halves)] for _ in range(macros)]
        self.done = -1

    def round(self, begin: int, windows: Sequence[int]) -> tuple[int, int]:
        """Clocks of `window_walked` and `window_done` of a round that begins in clock `begin`.

        windows : index of every macro's, negative where it has none.
        """
        walked, done = begin, max(begin, self.done)
        for halves, window in zip(self.macros, windows, strict=True):
            for index, half in enumerate(halves if window >= 0 else ()):
                half.begin(begin)
                self._walk(half, index, window)
                over = half.over
                walked, done = max(walked, over[0] + CONVERT), max(done, over[1] + CONVERT)
        self.done = done + 1  # earliest `window_done` of the next round
        return walked, done

    def _walk(self, state: _Half, half: int, window: int) -> None:
        """What a half does in a window."""
        packing, x, streamed = self.packing, self.x[window], self.streamed[window]
        none = np.zeros(packing.prepared.outputs, dtype=np.int64)
        last_bit, after = (none, ()) if self.stops is None else (self.stops.last_bit[window], self.stops.after)
        decides, own = checked_after(streamed[None], after)[0], block_columns(packing, half)
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
                    operations = self.search.pair(np.full(what.positive.shape, what.k), what.positive, what.negative)[1]
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


def block_columns(packing: Packing, half: int) -> list[int]:
    """Block columns of a half that store anything, ascending."""
    groups = [group for pack in packing.packs for mask in pack.masks for group in mask.groups]
    return sorted({group.block_col for group in groups if group.half == half})


# ---- steps --------------------------------------------------------------------------------------
class Clocks(NamedTuple):
    """Clocks of a step, int64.

    step : of every image, (B,). converting : in which a half holds a sample, (B, halves), of all macros together.
    deciding : in which a lane decides, (B, halves, ou_cols), likewise.
    """

    step: np.ndarray
    converting: np.ndarray
    deciding: np.ndarray


def step_clocks(
    packing: Packing,
    activations: np.ndarray,
    search: Search,
    rounds: np.ndarray,
    beats: Beats,
    stops: Stops | None = None,
    *,
    plain: bool = False,
) -> Clocks:
    """Clocks of the windows of a step on as many macros as a round has windows.

    activations : (B * windows, K). rounds : (R, macros), as from `timing.rounds`. beats : as from `timing.beats`.
    stops : of these windows, None without early stop. plain : plain Python even where numba is installed.
    """
    if not search.signed:
        raise ValueError(f"{search.name}: this machine converts the difference of a pair, not its two counts")
    x, streamed = streams(packing.prepared, check_activations(packing.prepared, activations))
    if not plain and numba_installed():
        from golden_model.pairs import machine_compiled

        ran = machine_compiled.run(packing, x, streamed, search, rounds, beats, stops)
        return Clocks(ran.clocks, ran.converting, ran.deciding)
    images = len(x) // (int(rounds.max()) + 1)
    shapes = (images,), (images, packing.halves), (images, packing.halves, packing.hardware.ou_cols)
    clocks = Clocks(*(np.zeros(shape, dtype=np.int64) for shape in shapes))
    for image in range(images):
        machine = Machine(packing, x, streamed, search, stops, rounds.shape[1])
        clocks.step[image] = _beats(machine, np.where(rounds < 0, -1, rounds + image * len(x) // images), beats)
        for halves in machine.macros:
            clocks.converting[image] += [half.converting for half in halves]
            clocks.deciding[image] += [half.decisions for half in halves]
    return clocks


def _beats(machine: Machine, rounds: np.ndarray, beats: Beats) -> int:
    """Clocks of all beats of a step (timing.py)."""
    begin, done = 0, []
    for beat in range(len(rounds) + 2):
        ends = [begin]
        if beat < len(rounds):
            ends.append(begin + max(beats.load, 0 if beat else beats.ready))
        if 0 < beat <= len(rounds):
            walked, over = machine.round(begin, rounds[beat - 1].tolist())
            ends.append(walked + beats.convert)
            done.append(over)
        if beat > 1:
            ends.append(max(begin, done[beat - 2]) + beats.drain)
        begin = max(ends)
    return begin
