"""Aligned packs: which rows, masks and column groups of a layer lie where (*ours*; docs/pair-machine.md).

The word lines of a crossbar are shared by all of its columns, so a *pack* holds the same consecutive segments, at most
`grid_rows` of them, for all columns. A *column group* is one block column and one weight plane: `ou_cols` columns of a
pair. It is in a pack if any of its blocks there is wider than the plane; the rows of its other blocks hold zeros and
are masked. Groups of a pack whose masks are equal share operation units (OUs): the machine walks

    input bit (highest first), pack, mask (in order of first appearance), OU, group (block column, then plane)

and every half of the machine walks its own groups in this order. The groups of a half fill one crossbar pair after the
other, in the order (pack, block column, plane): packs may share a pair, whose word lines then carry one pack at a time.

Other machines move what a column group keeps together, so that its rows are its own: every pack holds one group, which
is latched and whose OUs are formed for it alone.

* `by="segments"`: the segments whose block is wider than the plane, one after the other; the width table says which.
* `by="rows"`, SRE-like ("Sparse ReRAM Engine", Yang et al., ISCA 2019): the rows of a window that are not 0 in both
  arrays of the plane, one after the other, and an index of them in place of a mask.

Deviation of `by="rows"`: the paper has 2-bit cells, OUs of 16 x 16, offset weights in one array, coded indices, and the
bits of a weight on adjacent bit lines; here cells, OUs and pairs are those of every other machine, and a group holds
one plane of ou_cols weights, which finds more empty rows.
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
#: What a column group stores: aligned blocks; or only, moved together, segments whose block is wide enough, or single
#: rows that are not zero (SRE-like).
By = Literal["blocks", "segments", "rows"]
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

    lines : word lines that it takes; by rows, the last segment may have fewer than `ou_rows`. mask_bits : bits of each
    mask, one per segment; by rows, those of the index; by segments, none.
    """

    first: int
    segments: int
    lines: int
    masks: tuple[Mask, ...]
    mask_bits: int

    @property
    def groups(self) -> int:
        return sum(len(mask.groups) for mask in self.masks)


@dataclass(frozen=True, eq=False)
class Packing:
    """A layer in packs; make it with `pack_layer`.

    split, by : as for `pack_layer`. pair_segments : int64 (pairs,), OU places that groups take in every crossbar pair,
    those of masked rows included. rows : int64, the row of a window at every line of all segments of the packs;
    `segments * ou_rows` of the layer where there is none.
    """

    prepared: Prepared
    packs: tuple[Pack, ...]
    split: Split
    by: By
    pair_segments: np.ndarray
    rows: np.ndarray
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
    def segments(self) -> int:
        """Segments of all packs."""
        return sum(pack.segments for pack in self.packs)

    def streams(self, activations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What windows (P, K) stream: (P, segments, ou_rows) of the packs, and which bits, bool (P, segments, bits)."""
        x, streamed = streams(self.prepared, check_activations(self.prepared, activations))
        if self.by == "blocks":
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
        rows = (self.rows < self.prepared.k).reshape(-1, self.hardware.ou_rows).sum(axis=1)
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
    `pack_segments`. by : "segments" and "rows" have packs of one group, with split "one" or "columns" and full packs.
    """
    if split not in ("one", "packs", "columns", "groups"):
        raise ValueError(f"split must be 'one', 'packs', 'columns' or 'groups', got {split!r}")
    if by not in ("blocks", "segments", "rows"):
        raise ValueError(f"by must be 'blocks', 'segments' or 'rows', got {by!r}")
    if by != "blocks" and (split not in ("one", "columns") or even):
        raise ValueError(f"by {by!r} needs split 'one' or 'columns' and full packs, got {split!r}, even {even}")
    return pack(prepare_layer(layer, hardware), split, even=even, by=by)


def pack(prepared: Prepared, split: Split = "columns", *, even: bool = False, by: By = "blocks") -> Packing:
    """As `pack_layer`, of a layer that has been prepared."""
    hardware = prepared.hardware
    if by == "blocks":
        outlines = _aligned(prepared.widths, pack_segments(len(prepared.widths), hardware, even=even), hardware, split)
    else:
        outlines = _moved(prepared, split, by)
    places, pair_segments = _places(outlines, hardware)
    stored = mapping.planes(prepared.weights, hardware)  # (segments, planes, 2, ou_rows, N)
    of_rows = stored.transpose(0, 3, 1, 2, 4).reshape(-1, *stored.shape[1:3], prepared.outputs)
    of_rows = np.pad(of_rows, ((0, 1), (0, 0), (0, 0), (0, 0)))

    def group(pack: int, key: Key) -> Group:
        (c, b), one = key, outlines[pack]
        columns = np.arange(c * hardware.ou_cols, min((c + 1) * hardware.ou_cols, prepared.outputs))
        positive, negative = of_rows[one.rows, b][..., columns].transpose(1, 2, 0) == 1
        return Group(c, b, one.halves[key], *places[pack, key], columns, positive, negative)

    packs = tuple(
        Pack(
            one.first,
            one.segments,
            one.lines,
            tuple(
                Mask(np.frombuffer(mask, dtype=bool), tuple(group(p, key) for key in members))
                for mask, members in one.masks.items()
            ),
            one.mask_bits,
        )
        for p, one in enumerate(outlines)
    )
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *(one.rows for one in outlines)])
    return Packing(prepared, packs, split, by, pair_segments, rows)


def place_layer(widths: np.ndarray, hardware: HardwareConfig, *, crossbar_base: int = 0) -> mapping.LayerPlacement:
    """Where the cells of `pack_layer(layer, hardware)` lie, from block widths (segments, block_cols) alone.

    As `mapping.place_layer`, on the pair machine: pair and OU column are those of the group, the OU row is the segment
    inside its pack. The pairs of half 1 follow those of half 0. Rows that masks leave out have no entry.
    """
    widths = np.asarray(widths, dtype=np.int64)
    outlines = _aligned(widths, pack_segments(len(widths), hardware), hardware, "columns")
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
        segment=segment,
        block_col=block_col,
        plane=plane,
        pair=pair,
        ou_row=ou_row,
        ou_col=ou_col,
        first=np.concatenate([[0], np.cumsum(widths.sum(axis=1))]),
    )


@dataclass(frozen=True)
class _Outline:
    """A pack before its cells: groups by their mask (bool bytes), in order, and the half of each.

    rows : of the window, at every line of its segments; otherwise as in `Pack`.
    """

    first: int
    segments: int
    lines: int
    rows: np.ndarray
    masks: dict[bytes, list[Key]]
    mask_bits: int
    halves: dict[Key, int]


def _aligned(widths: np.ndarray, sizes: list[int], hardware: HardwareConfig, split: Split) -> list[_Outline]:
    """Packs of so many segments each, for all column groups."""
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
        lines = size * hardware.ou_rows
        rows = first * hardware.ou_rows + np.arange(lines)
        found.append(_Outline(first, size, lines, rows, masks, size, dict(zip(walked, halves, strict=True))))
        first += size
    return found


def _moved(prepared: Prepared, split: Split, by: By) -> list[_Outline]:
    """Packs of one group each: the rows that it keeps, cut where a crossbar is full.

    An index is a bit per row of the window, or the number of every row, whatever is less, and each pack of a group has
    its share of it.
    """
    hardware, widths = prepared.hardware, prepared.widths
    ou_rows, most = hardware.ou_rows, hardware.grid_rows * hardware.ou_rows

    def kept(c: int, b: int) -> np.ndarray:
        if by == "segments":
            return np.flatnonzero(np.repeat(widths[:, c] > b, ou_rows))
        weights = prepared.weights[:, c * hardware.ou_cols : (c + 1) * hardware.ou_cols]
        return np.flatnonzero((np.abs(weights) >> b & 1).any(axis=1))

    block_cols = range(widths.shape[1])
    groups = {(c, b): kept(c, b) for c in block_cols for b in range(hardware.weight_bits)}
    sizes = [sum(-(-len(groups[c, b]) // ou_rows) for b in range(hardware.weight_bits)) for c in block_cols]
    halves = [0] * len(sizes) if split == "one" else _shared_out(sizes)
    found, first = [], 0
    for (c, b), rows in groups.items():
        index = min(prepared.k, len(rows) * max(1, (prepared.k - 1).bit_length())) if by == "rows" else 0
        for begin in range(0, len(rows), most):
            part = rows[begin : begin + most]
            size, end = -(-len(part) // ou_rows), begin + len(part)
            at_lines = np.pad(part, (0, size * ou_rows - len(part)), constant_values=len(widths) * ou_rows)
            bits = index * end // len(rows) - index * begin // len(rows)
            mask = {bytes([True] * size): [(c, b)]}
            found.append(_Outline(first, size, len(part), at_lines, mask, bits, {(c, b): halves[c]}))
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
