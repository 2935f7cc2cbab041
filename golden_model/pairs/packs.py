"""Aligned packs: which rows, masks and column groups of a layer lie where (*ours*; docs/pair-machine.md).

The word lines of a crossbar are shared by all of its columns, so a *pack* holds the same consecutive segments, at most
`grid_rows` of them, for all columns. A *column group* is one block column and one weight plane: `ou_cols` columns of a
pair. It is in a pack if any of its blocks there is wider than the plane; the rows of its other blocks hold zeros and
are masked. Groups of a pack whose masks are equal share operation units (OUs): the machine walks

    input bit (highest first), pack, mask (in order of first appearance), OU, group (block column, then plane)

and every half of the machine walks its own groups in this order. The groups of a half fill one crossbar pair after the
other, in the order (pack, block column, plane): packs may share a pair, whose word lines then carry one pack at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import Prepared, prepare_layer

#: How groups are shared out to halves: one half does all; whole packs in turn; whole block columns; or the groups of
#: every pack.
Split = Literal["one", "packs", "columns", "groups"]
#: A column group of a pack: block column and plane.
Key = tuple[int, int]


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

    split : as for `pack_layer`. pair_segments : int64 (pairs,), OU places that groups take in every crossbar pair,
    those of masked rows included.
    """

    prepared: Prepared
    packs: tuple[Pack, ...]
    split: Split
    pair_segments: np.ndarray
    tables: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def hardware(self) -> HardwareConfig:
        return self.prepared.hardware

    @property
    def halves(self) -> int:
        return 1 if self.split == "one" else 2

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


def pack_layer(layer: Layer, hardware: HardwareConfig, split: Split = "columns", *, even: bool = False) -> Packing:
    """Packs, masks and groups of a layer, and where they lie.

    split : "one" gives all groups to one half. "packs" gives packs in turn to two halves. "columns" gives every block
    column, in order, to the half whose columns have fewer unmasked segments so far, over all planes and packs, to half
    0 if both have as many; "groups" does so with the groups of every pack, in the order of the walk. even : as for
    `pack_segments`.
    """
    if split not in ("one", "packs", "columns", "groups"):
        raise ValueError(f"split must be 'one', 'packs', 'columns' or 'groups', got {split!r}")
    prepared = prepare_layer(layer, hardware)
    outlines = _outlines(prepared.widths, pack_segments(len(prepared.widths), hardware, even=even), split)
    places, pair_segments = _places(outlines, hardware)
    stored = mapping.planes(layer.weights, hardware)

    def group(pack: int, key: Key) -> Group:
        (c, b), one = key, outlines[pack]
        columns = np.arange(c * hardware.ou_cols, min((c + 1) * hardware.ou_cols, layer.outputs))
        cells = stored[one.first : one.first + one.segments, b][..., columns]  # (segments, 2, ou_rows, c)
        positive, negative = cells.transpose(1, 3, 0, 2).reshape(2, len(columns), -1)
        return Group(c, b, one.halves[key], *places[pack, key], columns, positive, negative)

    packs = tuple(
        Pack(
            one.first,
            one.segments,
            tuple(
                Mask(np.frombuffer(mask, dtype=bool), tuple(group(p, key) for key in members))
                for mask, members in one.masks.items()
            ),
        )
        for p, one in enumerate(outlines)
    )
    return Packing(prepared, packs, split, pair_segments)


@dataclass(frozen=True)
class _Outline:
    """A pack before its cells: groups by their mask (bool bytes), in order, and the half of each."""

    first: int
    segments: int
    masks: dict[bytes, list[Key]]
    halves: dict[Key, int]


def _outlines(widths: np.ndarray, sizes: list[int], split: Split) -> list[_Outline]:
    columns = _shared_out(widths.sum(axis=0).tolist())
    found, first = [], 0
    for index, size in enumerate(sizes):
        inside = widths[first : first + size]
        masks: dict[bytes, list[Key]] = {}
        for c in range(widths.shape[1]):
            for b in range(int(inside[:, c].max())):
                masks.setdefault((inside[:, c] > b).tobytes(), []).append((c, b))
        walked = [key for members in masks.values() for key in members]
        stored = [sum(mask) for mask, members in masks.items() for _ in members]
        halves = {
            "one": [0] * len(walked),
            "packs": [index % 2] * len(walked),
            "columns": [columns[c] for c, _ in walked],
            "groups": _shared_out(stored),
        }[split]
        found.append(_Outline(first, size, masks, dict(zip(walked, halves, strict=True))))
        first += size
    return found


def _places(
    outlines: list[_Outline], hardware: HardwareConfig
) -> tuple[dict[tuple[int, Key], tuple[int, int]], np.ndarray]:
    """(pair, OU column) of every (pack, group), and the OU places that are taken in every pair."""
    places: dict[tuple[int, Key], tuple[int, int]] = {}
    taken: list[int] = []
    for half in range(2):
        mine = [(p, key) for p, one in enumerate(outlines) for key in sorted(one.halves) if one.halves[key] == half]
        first = len(taken)
        taken += [0] * -(-len(mine) // hardware.grid_cols)
        for index, (p, key) in enumerate(mine):
            pair, column = divmod(index, hardware.grid_cols)
            places[p, key] = first + pair, column
            taken[first + pair] += outlines[p].segments
    return places, np.array(taken, dtype=np.int64)


def _shared_out(sizes: list[int]) -> list[int]:
    """The half of everything: in order, the one that has less so far, half 0 if both have as much."""
    load, halves = [0, 0], []
    for size in sizes:
        half = int(load[1] < load[0])
        load[half] += size
        halves.append(half)
    return halves
