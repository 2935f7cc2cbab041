"""How often a count occurs together with what a controller can know of it: k and u (system.md §13.1).

k is the number of word lines of a slice that carry a 1, u the number of cells of a column that are 1; the count is at
most min(k, u). From these tables follow, exactly and without running anything again, the A/D operations of any search
(choose.py), the best trees, and the entropy that no search can pass below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from golden_model.crossbar.lanes import make_cells, slice_words
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import Prepared, prepare_layer, streams
from golden_model.crossbar.windows import windows
from golden_model.engines.pair_switches import Switches, measure
from golden_model.graph.network import Graph
from golden_model.pairs.packs import By
from golden_model.pairs.search import bit_lines, uniform
from golden_model.searches.counting import Classed, add_counts
from golden_model.searches.observe import sum_over_layers
from golden_model.trq import ColumnBoundBits, column_bounds

#: Whose cells u counts: those of the conversion's own column, or those of the fullest column of its OU, of either
#: polarity; the second does not follow from tables of the first.
BoundOf = Literal["column", "ou"]

_CHUNK_BYTES = 32 << 20


@dataclass(frozen=True, eq=False)
class JointCounts:
    """Conversions of streamed slices by what is known and what is found.

    counts : int64 (ou_rows + 1, U, U), [k, u, count], U - 1 the largest u. Slices of zeros (k = 0) are in it: they are
    conversions of a machine without zero-slice skipping; the others are those of a machine with it. u_of : whose u.
    """

    counts: np.ndarray
    u_of: BoundOf = "column"

    @property
    def ou_rows(self) -> int:
        return len(self.counts) - 1

    def __add__(self, other: JointCounts) -> JointCounts:
        """Of several layers or images of one machine; ValueError if their u differ in meaning."""
        if self.u_of != other.u_of:
            raise ValueError(f"joint counts of different u_of cannot be added: {self.u_of}, {other.u_of}")
        size = max(self.counts.shape[1], other.counts.shape[1])
        total = np.zeros((len(self.counts), size, size), dtype=np.int64)
        for part in (self.counts, other.counts):
            total[:, : part.shape[1], : part.shape[2]] += part
        return JointCounts(total, self.u_of)

    def used(self, skip_zero_slices: bool) -> np.ndarray:
        """`counts`, without slices of zeros if they are skipped."""
        if not skip_zero_slices:
            return self.counts
        counts = self.counts.copy()
        counts[0] = 0
        return counts

    def conversions(self, skip_zero_slices: bool = False) -> int:
        return int(self.used(skip_zero_slices).sum())

    def by_bound(self, bits: ColumnBoundBits | None, skip_zero_slices: bool = False) -> np.ndarray:
        """int64 (ou_rows + 1, ou_rows + 1): conversions by bound B = min(k, u) and count.

        bits : what is stored of u, see `trq.AdcRegisters`; None knows no bound: B = ou_rows. ValueError if these
        counts have the u of something else.
        """
        wanted = "ou" if bits == "ou" else "column"
        if bits not in (None, 0) and wanted != self.u_of:
            raise ValueError(
                f"column_bound_bits {bits!r} needs joint counts with u_of={wanted!r}, these have u_of={self.u_of!r}"
            )
        counts = self.used(skip_zero_slices)
        found = np.zeros((self.ou_rows + 1, counts.shape[2]), dtype=np.int64)
        if bits is None:
            found[-1] = counts.sum(axis=(0, 1))
        else:
            u = np.arange(counts.shape[1])
            u = column_bounds(u, u, self.ou_rows, bits)
            np.add.at(found, np.minimum(np.arange(self.ou_rows + 1)[:, None], u), counts)
        return np.pad(found, ((0, 0), (0, self.ou_rows + 1 - found.shape[1])))


def joint_counts(prepared: Prepared, activations: np.ndarray, u_of: BoundOf = "column") -> JointCounts:
    """Counts of a prepared layer for its windows (P, K), unsigned integers; converters do not matter.

    Dynamic precision is taken into account: bits that are not streamed are no conversions. u_of : "ou" for searches
    with `column_bound_bits="ou"`, which have no other use for these counts.
    """
    if u_of not in ("column", "ou"):
        raise ValueError(f"u_of must be 'column' or 'ou', got {u_of!r}")
    hardware = prepared.hardware
    rows = hardware.ou_rows
    cells = make_cells(prepared)
    u = np.bitwise_count(cells.words).sum(axis=1, dtype=np.int64)
    if u_of == "ou" and len(u):
        u = np.repeat(np.maximum.reduceat(u, cells.first[:-1]), np.diff(cells.first))
    size = int(u.max(initial=0)) + 1
    counts = np.zeros((rows + 1, size, size), dtype=np.int64)
    columns = cells.first[cells.start]  # where every segment's columns start
    step = max(1, _CHUNK_BYTES // (len(columns) * (prepared.bits * (8 + rows // 4) + 8 * rows)))
    for begin in range(0, len(activations), step):
        streamed, mask = streams(prepared, activations[begin : begin + step])
        words = slice_words(streamed, prepared.bits)
        for segment in range(len(prepared.segments)):
            mine = slice(columns[segment], columns[segment + 1])
            chosen = words[segment][mask[:, segment].T]  # (slices, W)
            k = np.bitwise_count(chosen).sum(axis=1, dtype=np.int64)
            add_counts(Classed(chosen, k), Classed(cells.words[mine], u[mine]), rows, counts)
    return JointCounts(counts, u_of)


def graph_joint_counts(
    graph: Graph, images: np.ndarray, *, u_of: BoundOf = "column", threads: int | None = None
) -> dict[str, JointCounts]:
    """Joint counts of every crossbar node over uint8 images (B, C, H, W), by name, groups of a convolution together.

    The network runs with the converters that it has: give it lossless ones to see exact activations. u_of : "ou" for
    searches with `column_bound_bits="ou"`.
    """
    prepared = {id(layer): prepare_layer(layer, graph.hardware) for layer in graph.layers}

    def count(name: str, layer: Layer, activations: np.ndarray) -> JointCounts:
        return joint_counts(prepared[id(layer)], windows(layer, activations).reshape(-1, layer.k), u_of)

    return sum_over_layers(graph, images, count, threads=threads)


def gathered_counts(
    graph: Graph, images: np.ndarray, *, by: By = "segments", threads: int | None = 1
) -> dict[str, JointCounts]:
    """Conversions of bit lines of gathered OUs (golden_model.pairs) by rows on and count, by name of the crossbar node.

    Nothing is known of columns, as if all their cells were 1: for `choose.trees(..., column_bound_bits=0)` and the
    like. The network runs with the converters that it has, which must be lossless.
    """
    rows = graph.hardware.ou_rows
    any_search = Switches(search=uniform(graph.hardware), by=by, split="one")
    seen = measure(graph, images, {"seen": any_search}, threads=threads)["seen"]
    return {
        name: JointCounts(np.pad(bit_lines(counts)[:, None], ((0, 0), (rows, 0), (0, 0))))
        for name, counts in zip(seen.stages, seen.counts, strict=True)
    }
