"""Aligned packs: which rows, masks and column groups of a layer lie where (*ours*; docs/pair-machine.md).

The word lines of a crossbar are shared by all of its columns, so a *pack* holds the same consecutive segments, at most
`grid_rows` of them, for all columns. A *column group* is one block column and one weight plane: `ou_cols` columns of a
pair. It is in a pack if any of its blocks there is wider than the plane; the rows of its other blocks hold zeros and
are masked. Groups of a pack whose masks are equal share operation units (OUs): the machine walks

    input bit (highest first), pack, mask (in order of first appearance), OU, group (block column, then plane)

and every half of the machine walks its own groups in this order. Within a pack the groups of a half fill one crossbar
pair after the other, in the order (block column, plane).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import Prepared, prepare_layer

#: How groups are shared out to halves: one half does all; whole packs in turn; or the groups of every pack.
Split = Literal["one", "packs", "groups"]


@dataclass(frozen=True, eq=False)
class Group:
    """A block column and plane in one pack.

    half : which half of the machine converts it. pair, ou_col : where it lies, pairs counted from the layer's first.
    columns : int64 (c,), outputs. positive, negative : bool (c, lines), cells of both arrays of the pair; rows that the
    mask leaves out are False.
    """

    block_col: int
    plane: int
    half: int
    pair: int
    ou_col: int
    columns: np.ndarray
    positive: np.ndarray
    negative: np.ndarray


@dataclass(frozen=True, eq=False)
class Mask:
    """Segments of a pack that some groups store. segments : bool (segments of the pack,). groups : in order."""

    segments: np.ndarray
    groups: tuple[Group, ...]


@dataclass(frozen=True, eq=False)
class Pack:
    """Segments first .. first + segments - 1 of a layer, and the distinct masks over them in order."""

    first: int
    segments: int
    masks: tuple[Mask, ...]

    @property
    def groups(self) -> int:
        return sum(len(mask.groups) for mask in self.masks)


@dataclass(frozen=True, eq=False)
class Packing:
    """A layer in packs; make it with `pack_layer`.

    halves : 1 or 2. pair_segments : int64 (pairs,), OU places of every crossbar pair that groups take, masked ones
    included.
    """

    prepared: Prepared
    packs: tuple[Pack, ...]
    halves: int
    pair_segments: np.ndarray
    tables: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def hardware(self) -> HardwareConfig:
        return self.prepared.hardware

    @property
    def pairs(self) -> int:
        return len(self.pair_segments)

    @property
    def weight_cells(self) -> int:
        """Cells, of both arrays, that belong to a weight and are not masked."""
        ou_rows = self.hardware.ou_rows
        rows = np.minimum(self.prepared.k - np.arange(0, self.prepared.k, ou_rows), ou_rows)
        return 2 * sum(
            int(rows[pack.first : pack.first + pack.segments][mask.segments].sum()) * len(group.columns)
            for pack in self.packs
            for mask in pack.masks
            for group in mask.groups
        )

    @property
    def mask_bits(self) -> int:
        """Bits of all distinct masks, one per segment of their pack."""
        return sum(pack.segments * len(pack.masks) for pack in self.packs)


def pack_segments(segments: int, hardware: HardwareConfig, *, even: bool = False) -> list[int]:
    """Sizes of the packs of so many segments, in order.

    Every pack but the last is full. even : instead an even number of packs (if there is more than one segment), as few
    as possible, whose sizes differ by at most 1, larger ones first.
    """
    if not even:
        full, rest = divmod(segments, hardware.grid_rows)
        return [hardware.grid_rows] * full + [rest] * (rest > 0)
    count = -(-segments // hardware.grid_rows)
    count += count % 2 if segments > count else 0
    return [segments // count + (s < segments % count) for s in range(count)]


def pack_layer(layer: Layer, hardware: HardwareConfig, split: Split = "groups", *, even: bool = False) -> Packing:
    """Packs, masks and groups of a layer, and where they lie.

    split : "one" gives all groups to one half. "packs" gives packs in turn to two halves. "groups" shares out the
    groups of every pack: in the order of the walk, each goes to the half whose groups of this pack have fewer unmasked
    segments so far, to half 0 if both have as many. even : as for `pack_segments`.
    """
    if split not in ("one", "packs", "groups"):
        raise ValueError(f"split must be 'one', 'packs' or 'groups', got {split!r}")
    prepared = prepare_layer(layer, hardware)
    stored = mapping.planes(layer.weights, hardware)
    packs: list[Pack] = []
    taken: list[int] = []  # OU places of every pair
    first = 0
    for index, size in enumerate(pack_segments(len(prepared.widths), hardware, even=even)):
        widths = prepared.widths[first : first + size]
        keys = [(c, b) for c in range(widths.shape[1]) for b in range(int(widths[:, c].max()))]
        masks: dict[bytes, list[tuple[int, int]]] = {}
        for c, b in keys:
            masks.setdefault((widths[:, c] > b).tobytes(), []).append((c, b))
        halves = _halves(masks, index, split)
        places: dict[tuple[int, int], tuple[int, int]] = {}
        for half in range(2):
            mine = [key for key in keys if halves[key] == half]
            for place, key in enumerate(mine):
                places[key] = len(taken) + place // hardware.grid_cols, place % hardware.grid_cols
            taken += [
                size * min(hardware.grid_cols, len(mine) - begin) for begin in range(0, len(mine), hardware.grid_cols)
            ]
        made = []
        for name, members in masks.items():
            groups = []
            for c, b in members:
                columns = np.arange(c * hardware.ou_cols, min((c + 1) * hardware.ou_cols, layer.outputs))
                cells = stored[first : first + size, b][:, :, :, columns]  # (size, 2, rows, c)
                positive, negative = cells.transpose(1, 3, 0, 2).reshape(2, len(columns), -1)
                groups.append(Group(c, b, halves[c, b], *places[c, b], columns, positive, negative))
            made.append(Mask(np.frombuffer(name, dtype=bool), tuple(groups)))
        packs.append(Pack(first, size, tuple(made)))
        first += size
    return Packing(prepared, tuple(packs), 1 if split == "one" else 2, np.array(taken, dtype=np.int64))


def _halves(masks: dict[bytes, list[tuple[int, int]]], pack: int, split: Split) -> dict[tuple[int, int], int]:
    """The half of every group (block column, plane) of a pack."""
    halves: dict[tuple[int, int], int] = {}
    load = [0, 0]
    for name, members in masks.items():
        for key in members:
            half = {"one": 0, "packs": pack % 2, "groups": int(load[1] < load[0])}[split]
            halves[key] = half
            load[half] += sum(name)
    return halves
