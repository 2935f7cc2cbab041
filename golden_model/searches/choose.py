"""Choosing and pricing lossless A/D searches: trees from counts, operations, metadata, entropy (*ours*; system.md §13).

    counts = graph_joint_counts(graph, training_images)                       # joint.py
    registers = trees(counts, graph.hardware, column_bound_bits="full")       # by layer name; "ou" needs other counts
    searching = with_settings(graph, registers=registers, skip_zero_slices=True)
    logits, events = GraphRunner(searching).run(images)                       # equal logits, fewer operations
    extra = metadata_events(searching, events)                                # what the knowledge costs, per layer

All searches give the count itself; they differ in operations, clocks, and in what has to be known and stored.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, Literal

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.events import Events
from golden_model.graph.network import Graph
from golden_model.searches.joint import JointCounts
from golden_model.searches.trees import operations, optimal_tree
from golden_model.trees import Tree, entropy, low_first_tree
from golden_model.trq import (
    AdcRegisters,
    ColumnBoundBits,
    column_bound_size,
    convert_counts,
    search_operations,
    tree_bits,
)

#: Tables with a tree for every bound are kept up to this many rows; above, bounds share trees (`default_tops`).
_EVERY_BOUND = 16


def default_tops(ou_rows: int) -> tuple[int, ...]:
    """Largest bounds of the trees of a layer: every bound up to 8, then about four trees per octave."""
    if ou_rows <= _EVERY_BOUND:
        return tuple(range(1, ou_rows + 1))
    tops = [*range(1, 9)]
    while tops[-1] < ou_rows:
        tops.append(min(ou_rows, tops[-1] + (1 << (tops[-1].bit_length() - 3))))
    return tuple(tops)


# ---- registers ----------------------------------------------------------------------------------
def uniform(names: Iterable[str], hardware: HardwareConfig) -> dict[str, AdcRegisters]:
    """Uniform conversion with all adc_bits, in every layer."""
    return dict.fromkeys(names, AdcRegisters(mode="uniform", n_r2=hardware.adc_bits))


def bounded(
    names: Iterable[str], hardware: HardwareConfig, column_bound_bits: ColumnBoundBits = 0
) -> dict[str, AdcRegisters]:
    """Binary search below the bound (system.md §13.1), in every layer."""
    one = AdcRegisters(mode="bounded", n_r2=hardware.adc_bits, column_bound_bits=column_bound_bits)
    return dict.fromkeys(names, one)


def low_first(names: Iterable[str], hardware: HardwareConfig) -> dict[str, AdcRegisters]:
    """Search of the fewest levels below the number of active rows, low counts first, in every layer; nothing stored."""
    trees = tuple(low_first_tree(bound) for bound in range(1, hardware.ou_rows + 1))
    return dict.fromkeys(names, AdcRegisters(mode="tree", n_r2=hardware.adc_bits, column_bound_bits=0, trees=trees))


def lossless_twin(adc_bits: int, ou_rows: int) -> list[AdcRegisters]:
    """Every twin-range setting that converts all counts exactly."""
    found = []
    for n_r1 in range(adc_bits):
        for bias in range((1 << (adc_bits - n_r1)) - 1):
            if bias << n_r1 > ou_rows:
                break
            found.append(AdcRegisters(mode="twin", n_r2=adc_bits, n_r1=n_r1, bias=bias))
    return found


def twin(
    counts: Mapping[str, JointCounts],
    hardware: HardwareConfig,
    *,
    shared: bool = False,
    column_bound_bits: ColumnBoundBits | None = None,
    skip_zero_slices: bool = False,
) -> dict[str, AdcRegisters]:
    """The lossless twin-range setting with the fewest operations, per layer or (`shared`) one for all layers.

    column_bound_bits : combine it with the bound (system.md §13.1); bias is then 0.
    """
    candidates = lossless_twin(hardware.adc_bits, hardware.ou_rows)
    if column_bound_bits is not None:
        candidates = [
            AdcRegisters(mode="twin", n_r2=c.n_r2, n_r1=c.n_r1, column_bound_bits=column_bound_bits)
            for c in candidates
            if c.bias == 0
        ]
    tables = [_operations_table(c, hardware) for c in candidates]

    def best(part: JointCounts) -> AdcRegisters:
        seen = part.by_bound(column_bound_bits, skip_zero_slices)
        return candidates[int(np.argmin([int((seen * table).sum()) for table in tables]))]

    return _per_layer(counts, shared, best)


def trees(
    counts: Mapping[str, JointCounts],
    hardware: HardwareConfig,
    *,
    column_bound_bits: ColumnBoundBits | None = None,
    tops: Sequence[int] | None = None,
    shared: bool = False,
    skip_zero_slices: bool = False,
    max_depth: int | None = None,
) -> dict[str, AdcRegisters]:
    """Optimal search trees for the counts that were seen.

    column_bound_bits : None for one tree without any bound; otherwise a tree for every bound, or for the bounds up
        to each of `tops` (ascending, ou_rows is added; default `default_tops`).
    shared : one set of trees for all layers, from all their counts.
    skip_zero_slices : leave out conversions that zero-slice skipping leaves out.
    max_depth : most operations of a conversion; fewer clocks in lock step for a few more operations. A tree that
        needs more than that at least gets what it needs.
    """
    limits = (hardware.ou_rows,)
    if column_bound_bits is not None:
        limits = tuple(sorted({*(default_tops(hardware.ou_rows) if tops is None else tops), hardware.ou_rows}))
        if min(limits) < 1 or limits[-1] > hardware.ou_rows:
            raise ValueError(f"tops must be in 1..{hardware.ou_rows}, got {min(limits)}..{limits[-1]}")

    def best(part: JointCounts) -> AdcRegisters:
        seen = part.by_bound(column_bound_bits, skip_zero_slices)
        made: list[Tree] = []
        for before, top in zip((0, *limits), limits, strict=False):
            first = 0 if column_bound_bits is None else before + 1
            depth = None if max_depth is None else max(max_depth, top.bit_length())
            made.append(optimal_tree(seen[first : top + 1, : top + 1].sum(axis=0), max_depth=depth))
        return AdcRegisters(mode="tree", n_r2=hardware.adc_bits, column_bound_bits=column_bound_bits, trees=tuple(made))

    return _per_layer(counts, shared, best)


def _per_layer(counts: Mapping[str, JointCounts], shared: bool, best: Any) -> dict[str, AdcRegisters]:
    if shared:
        one: AdcRegisters = best(reduce(operator.add, counts.values()))
        return {name: one for name in counts}  # noqa: C420 - type checkers lose the type of fromkeys
    return {name: best(part) for name, part in counts.items()}


# ---- what they spend ----------------------------------------------------------------------------
def _operations_table(registers: AdcRegisters, hardware: HardwareConfig) -> np.ndarray:
    """int64 (ou_rows + 1, ou_rows + 1), [bound, count]."""
    if registers.searches:
        return search_operations(hardware.adc_bits, hardware.ou_rows, registers)
    spent = convert_counts(hardware.adc_bits, hardware.ou_rows, registers).operations
    return np.broadcast_to(spent, (hardware.ou_rows + 1, hardware.ou_rows + 1))


def expected_operations(
    counts: Mapping[str, JointCounts],
    registers: Mapping[str, AdcRegisters],
    hardware: HardwareConfig,
    *,
    skip_zero_slices: bool = False,
) -> np.ndarray:
    """A/D operations of every layer for the conversions in `counts`, int64 (layers,); exactly those of a run."""
    found = []
    for name, part in counts.items():
        seen = part.by_bound(registers[name].column_bound_bits, skip_zero_slices)
        found.append(int((seen * _operations_table(registers[name], hardware)).sum()))
    return np.array(found, dtype=np.int64)


def _by_known(part: JointCounts, known: ColumnBoundBits | Literal["both"] | None, skip_zero_slices: bool) -> np.ndarray:
    """int64 (..., counts): one row for everything that the controller tells apart."""
    return part.used(skip_zero_slices) if known == "both" else part.by_bound(known, skip_zero_slices)


def entropy_floor(
    counts: Mapping[str, JointCounts],
    known: ColumnBoundBits | Literal["both"] | None,
    *,
    skip_zero_slices: bool = False,
) -> np.ndarray:
    """Fewest A/D operations that any search of single conversions can take, float64 (layers,); Shannon's bound.

    known : what the controller knows of a conversion besides its layer: None nothing, 0 / 1 / "full" / "ou" the bound B
        with so much of u, "both" k and u apart, u as it was counted. For a search by trees alone, B >= 1 and an
        uncertain count cost at least one operation, so the floor may be out of reach.
    """
    return np.array([entropy(_by_known(part, known, skip_zero_slices)) for part in counts.values()])


def best_operations(
    counts: Mapping[str, JointCounts],
    known: ColumnBoundBits | Literal["both"] | None,
    *,
    skip_zero_slices: bool = False,
) -> np.ndarray:
    """Operations of trees that know the very counts they search, int64 (layers,): what training can reach at best."""
    found = []
    for part in counts.values():
        rows = _by_known(part, known, skip_zero_slices)
        found.append(sum(_least(row) for row in rows.reshape(-1, rows.shape[-1]) if row.any()))
    return np.array(found, dtype=np.int64)


def _least(row: np.ndarray) -> int:
    """Operations of the optimal tree for one row of counts; counts that never occur cost nothing."""
    seen = row[row > 0]
    return operations(optimal_tree(seen), seen)


# ---- metadata -----------------------------------------------------------------------------------
def metadata_events(graph: Graph, events: Events | np.ndarray, *, held: bool = False) -> dict[str, np.ndarray]:
    """Events of the searches' knowledge, beside `events`, whose leading shape (..., crossbar nodes) they have.

    column_bound_bits_read : for every OU activation 2 x ou_cols x bits per column, or the one number of the OU (bound
    "ou"; `trq.column_bound_size`). population_counts : one per streamed slice of a segment, in layers with a bound.
    tree_bits_read : one stored threshold of adc_bits per A/D operation, in layers with trees that are stored.

    held : column bounds of a segment's OUs are read once per window into registers beside the scheduler's list of OUs,
        where all input bits find them. `held_bound_bits`: a bit written for every one that is read from memory, and the
        bits read at every OU activation. `events` must have one leading image, or (images, nodes).
    """
    found = events if isinstance(events, Events) else Events(np.asarray(events))
    nodes, hardware = graph.crossbars, graph.hardware
    if not found.shape or found.shape[-1] != len(nodes):
        raise ValueError(f"events must have shape (..., {len(nodes)}), one per crossbar node, got {found.shape}")
    registers = [node.registers for node in nodes]
    bits = np.array([column_bound_size(r.column_bound_bits, hardware) for r in registers])
    is_bounded = np.array([r.bounded for r in registers])
    has_trees = np.array([r.reads_trees for r in registers])
    bound_bits = found.ou_activations * bits
    tree_bits_read = found.ad_operations * (has_trees * hardware.adc_bits)
    registers_used = np.zeros_like(bound_bits)
    if held:
        once = [sum(layer.windows * int(np.sum(layer.block_widths)) for layer in node.layers) for node in nodes]
        written = np.broadcast_to(np.array(once) * bits, found.shape)
        registers_used, bound_bits = written + bound_bits, written
    return {
        "column_bound_bits_read": bound_bits,
        "held_bound_bits": registers_used,
        "population_counts": found.input_bits_streamed * is_bounded,
        "tree_bits_read": tree_bits_read,
    }


def held_register_bits(graph: Graph) -> np.ndarray:
    """Bits of registers that hold column bounds, of one copy of each crossbar node, int64 (nodes,).

    The OUs of the segment with the most, twice: the next segment's bounds are read while one converts (system.md §5).
    """
    hardware = graph.hardware
    most = [
        max(int(layer.block_widths.sum(axis=1).max(initial=0)) for layer in node.layers) for node in graph.crossbars
    ]
    bits = [column_bound_size(node.registers.column_bound_bits, hardware) for node in graph.crossbars]
    return 2 * np.array(most, dtype=np.int64) * np.array(bits, dtype=np.int64)


def stored_bits(graph: Graph) -> dict[str, np.ndarray]:
    """Stored metadata bits per crossbar node, int64 (nodes,): column_bounds, trees (equal sets of several layers each
    counted), and cells, the 1-bit cells of both polarities of all stored OUs, to compare with."""
    hardware = graph.hardware
    ous = np.array([sum(int(layer.block_widths.sum()) for layer in node.layers) for node in graph.crossbars])
    registers = [node.registers for node in graph.crossbars]
    bits = np.array([column_bound_size(r.column_bound_bits, hardware) for r in registers])
    return {
        "column_bounds": ous * bits,
        "trees": np.array([tree_bits(r, hardware) for r in registers], dtype=np.int64),
        "cells": ous * hardware.ou_cells,
    }
