"""Aligned packs: which rows, masks and column groups of a layer lie where (*ours*; docs/pair-machine.md).

The word lines of a crossbar are shared by all of its columns, so a *pack* holds the same consecutive segments, at most
`grid_rows` of them, for all columns. A *column group* is one block column and one weight plane: `ou_cols` columns of a
pair. It is in a pack if any of its blocks there is wider than the plane; the rows of its other blocks hold zeros and
are masked. Groups of a pack whose masks are equal share operation units (OUs): the machine walks

    input bit (highest first), pack, mask (in order of first appearance), OU, group (block column, then plane)

and every half of the machine walks its own groups in this order. The groups of a half fill one crossbar pair after the
other, in the order (pack, block column, plane): packs may share a pair, whose word lines then carry one pack at a time.

The rival, `by="rows"`, is SRE-like ("Sparse ReRAM Engine", Yang et al., ISCA 2019): a column group stores only the
rows of a window that are not 0 in both arrays of its plane, one after the other, and an index of them in place of a
mask. Its rows are its own, so every pack holds one group, which is latched and whose OUs are formed for it alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import Prepared, check_activations, prepare_layer, streams

#: How groups are shared out to halves: one half does all; whole packs in turn; whole block columns; or the groups of
#: every pack.
Split = Literal["one", "packs", "columns", "groups"]
#: What a column group stores: rows of blocks that are wide enough, or single rows that are not zero (SRE-like).
By = Literal["blocks", "rows"]
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
    """Segments first .. first + segments - 1 of a packing, and the distinct masks over them in order.

    mask_bits : bits of each mask, one per segment; by rows, those of the index.
    """

    first: int
    segments: int
    masks: tuple[Mask, ...]
    mask_bits: int

    @property
    def groups(self) -> int:
        return sum(len(mask.groups) for mask in self.masks)


@dataclass(frozen=True, eq=False)
class Packing:
    """A layer in packs; make it with `pack_layer`.

    split : as for `pack_layer`. pair_segments : int64 (pairs,), OU places that groups take in every crossbar pair,
    those of masked rows included. rows : by rows, the row of a window at every line of the packs, `segments * ou_rows`
    of the layer where there is none; None where packs hold the segments of the layer as they are.
    """

    prepared: Prepared
    packs: tuple[Pack, ...]
    split: Split
    pair_segments: np.ndarray
    rows: np.ndarray | None = None
    tables: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def hardware(self) -> HardwareConfig:
        return self.prepared.hardware

    @property
    def halves(self) -> int:
        return 1 if self.split == "one" else 2

    @property
    def by(self) -> By:
        return "blocks" if self.rows is None else "rows"

    @property
    def pairs(self) -> int:
        return len(self.pair_segments)

    @property
    def segments(self) -> int:
        """Segments of all packs."""
        return sum(pack.segments for pack in self.packs)

    def streams(self, activations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What windows (P, K) stream: (P, segments, ou_rows) of the packs, and which bits, bool (P, segments, bits)."""
        x, streamed = streams(self.prepared, check_activations(self.prepared, activations))
        if self.rows is None:
            return x, streamed
        ou_rows = self.hardware.ou_rows
        lines = np.pad(x.reshape(len(x), -1), ((0, 0), (0, 1)))[:, self.rows]
        of_lines = np.pad(streamed, ((0, 0), (0, 1), (0, 0)))[:, self.rows // ou_rows]
        bits = streamed.shape[2]
        return (
            lines.reshape(len(x), self.segments, ou_rows),
            np.logical_or.reduce(of_lines.reshape(len(x), self.segments, ou_rows, bits), axis=2),
        )

    @property
    def weight_cells(self) -> int:
        """Cells, of both arrays, that belong to a weight and are not masked."""
        at_lines = np.arange(self.segments * self.hardware.ou_rows) if self.rows is None else self.rows
        rows = (at_lines < self.prepared.k).reshape(-1, self.hardware.ou_rows).sum(axis=1)
        return 2 * sum(
            int(rows[pack.first : pack.first + pack.segments][mask.segments].sum()) * len(group.columns)
            for pack in self.packs
            for mask in pack.masks
            for group in mask.groups
        )

    @property
    def mask_bits(self) -> int:
        """Bits of all distinct masks, or of all indices."""
        return sum(pack.mask_bits * len(pack.masks) for pack in self.packs)


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


def pack_layer(
    layer: Layer, hardware: HardwareConfig, split: Split = "columns", *, even: bool = False, by: By = "blocks"
) -> Packing:
    """Packs, masks and groups of a layer, and where they lie.

    split : "one" gives all groups to one half. "packs" gives packs in turn to two halves. "columns" gives every block
    column, in order, to the half whose columns have fewer unmasked segments so far, over all planes and packs, to half
    0 if both have as many; "groups" does so with the groups of every pack, in the order of the walk. even : as for
    `pack_segments`. by : "rows" packs single rows, with split "one" or "columns" and full packs.
    """
    if split not in ("one", "packs", "columns", "groups"):
        raise ValueError(f"split must be 'one', 'packs', 'columns' or 'groups', got {split!r}")
    if by not in ("blocks", "rows"):
        raise ValueError(f"by must be 'blocks' or 'rows', got {by!r}")
    if by == "rows":
        return _pack_rows(layer, hardware, split, even)
    return pack(prepare_layer(layer, hardware), split, even=even)


def pack(prepared: Prepared, split: Split = "columns", *, even: bool = False) -> Packing:
    """As `pack_layer`, of a layer that has been prepared."""
    hardware = prepared.hardware
    outlines = _outlines(prepared.widths, pack_segments(len(prepared.widths), hardware, even=even), split)
    places, pair_segments = _places(outlines, hardware)
    stored = mapping.planes(prepared.weights, hardware)

    def group(pack: int, key: Key) -> Group:
        (c, b), one = key, outlines[pack]
        columns = np.arange(c * hardware.ou_cols, min((c + 1) * hardware.ou_cols, prepared.outputs))
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
            one.segments,
        )
        for p, one in enumerate(outlines)
    )
    return Packing(prepared, packs, split, pair_segments)


def place_layer(
    widths: np.ndarray,
    hardware: HardwareConfig,
    *,
    crossbar_base: int = 0,
    width_base: int = 0,
    channel_base: int = 0,
    pad_base: int = 0,
) -> mapping.LayerPlacement:
    """Where the cells of `pack_layer(layer, hardware)` lie, from block widths (segments, block_cols) alone.

    As `mapping.place_layer`, on the pair machine: pair and OU column are those of the group, the OU row is the segment
    inside its pack. The pairs of half 1 follow those of half 0. Rows that masks leave out have no entry.
    """
    widths = np.asarray(widths, dtype=np.int64)
    outlines = _outlines(widths, pack_segments(len(widths), hardware), "columns")
    places, pair_segments = _places(outlines, hardware)
    found = np.array(
        [
            (one.first + int(row), c, b, crossbar_base + pair, int(row), ou_col)
            for p, one in enumerate(outlines)
            for mask, keys in one.masks.items()
            for c, b in keys
            for pair, ou_col in [places[p, (c, b)]]
            for row in np.flatnonzero(np.frombuffer(mask, dtype=bool))
        ],
        dtype=np.int64,
    ).reshape(-1, 6)
    segment, block_col, plane, pair, ou_row, ou_col = found[np.lexsort(found.T[2::-1])].T
    return mapping.LayerPlacement(
        crossbar_base=crossbar_base,
        pairs=len(pair_segments),
        width_base=width_base,
        channel_base=channel_base,
        pad_base=pad_base,
        segment=segment,
        block_col=block_col,
        plane=plane,
        pair=pair,
        ou_row=ou_row,
        ou_col=ou_col,
        first=np.concatenate([[0], np.cumsum(widths.sum(axis=1))]),
    )


def _pack_rows(layer: Layer, hardware: HardwareConfig, split: Split, even: bool) -> Packing:
    """Single rows that are not 0; an index is a bit per row of the window, or the number of every row, whatever is
    less, and each pack of a group has its share of it."""
    if split not in ("one", "columns") or even:
        raise ValueError(f"by 'rows' needs split 'one' or 'columns' and full packs, got {split!r}, even {even}")
    prepared = prepare_layer(layer, hardware)
    ou_rows, most = hardware.ou_rows, hardware.grid_rows * hardware.ou_rows
    stored = mapping.planes(layer.weights, hardware)
    columns = [
        np.arange(c, min(c + hardware.ou_cols, layer.outputs)) for c in range(0, layer.outputs, hardware.ou_cols)
    ]
    kept = [
        [np.flatnonzero((np.abs(layer.weights[:, mine]) >> b & 1).any(axis=1)) for b in range(hardware.weight_bits)]
        for mine in columns
    ]
    parts = [
        (c, b, rows[i : i + most], rows)
        for c, planes in enumerate(kept)
        for b, rows in enumerate(planes)
        for i in range(0, len(rows), most)
    ]
    halves = [0] * len(columns)
    if split == "columns":
        halves = _shared_out([sum(-(-len(rows) // ou_rows) for rows in planes) for planes in kept])
    outlines, lines, first = [], [], 0
    for c, b, part, _ in parts:
        size = -(-len(part) // ou_rows)
        outlines.append(_Outline(first, size, {bytes([True] * size): [(c, b)]}, {(c, b): halves[c]}))
        lines.append(np.pad(part, (0, size * ou_rows - len(part)), constant_values=len(prepared.widths) * ou_rows))
        first += size
    places, pair_segments = _places(outlines, hardware)
    packs = []
    for p, (one, (c, b, part, rows)) in enumerate(zip(outlines, parts, strict=True)):
        cells = stored[part // ou_rows, b, :, part % ou_rows][:, :, columns[c]]  # (rows, 2, c)
        padded = np.pad(cells.transpose(1, 2, 0) == 1, ((0, 0), (0, 0), (0, one.segments * ou_rows - len(part))))
        group = Group(c, b, halves[c], *places[p, (c, b)], columns[c], *padded)
        index = min(layer.k, len(rows) * max(1, (layer.k - 1).bit_length()))
        before = int(np.searchsorted(rows, part[0]))
        bits = index * (before + len(part)) // len(rows) - index * before // len(rows)
        packs.append(Pack(one.first, one.segments, (Mask(np.ones(one.segments, dtype=bool), (group,)),), bits))
    at_lines = np.concatenate([np.zeros(0, dtype=np.int64), *lines])
    return Packing(prepared, tuple(packs), split, pair_segments, rows=at_lines)


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
