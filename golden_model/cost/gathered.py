"""Gathering of active word lines below block widths, with lossless searches on top (*ours*; system.md §5, §11, §13).

Dynamic formation of operation units (OUs) is that of Yang et al., "Sparse ReRAM Engine" (SRE), ISCA 2019: for every
input bit, only word lines whose bit is 1 are switched on, as many at a time as an OU has rows. *Ours* is what it is
built on and what is put on top: groups follow from the block widths (no index is stored, where SRE drops single rows
and stores which), and the number of rows that are on, which forming an OU yields anyway, bounds a lossless search
instead of a uniform conversion. Exactly:

* A column group is one block column w and one plane b: ou_cols bit lines in both arrays of a pair. It stores the rows
  of all blocks of w that are wider than b, segment above segment in order, cut into packs of at most grid_rows
  segments, which is what one crossbar has.
* For each window and input bit i, a pack switches on only its rows whose bit i is 1, ou_rows at a time in order:
  ceil(ones / ou_rows) OU activations, none without a 1. Every count is converted with a search that knows how many
  rows u of the OU are on, 1..ou_rows, and added as +-count << (i + b): sums equal W . x exactly. With dynamic
  precision x is what its unit streams (system.md §6).
* Every segment's slice is read into a latch once per window and streamed input bit, as in all our machines
  (`input_bits_streamed`). A prefix count over the rows of a pack, from the latch, picks the rows of the next OU: once
  for every pack and streamed bit, and once more for every OU that is formed (`gathered_rows`, rows of the pack each
  time, those of its whole segments). OUs, cells, word lines and conversions are charged in full, as everywhere.
* Clocks, lock step: an OU lasts max(1, sample_interval, most operations of any lane). The next OU is formed meanwhile,
  but a pack is looked at for at least one clock: an input bit of a pack takes at least that, also without a 1. A
  window has its fixed clocks beside (timing.py). Decoupled: the lanes wait for each other only at the end of an input
  bit of a pack, with ideal queues as in lanes.py.

`by="rows"` is the SRE-like machine of baselines.py with our searches: groups keep single rows that are not zero, store
which; its indices cost what they cost there.

    counts = seen(graph, training_images)                          # by layer: rows on, counts
    settings = {"trees": searches.trees(counts, graph.hardware, column_bound_bits=0)}
    found = measure(graph, images, settings)["trees"]              # events, clocks, metadata
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from golden_model import timing, trq
from golden_model.config import HardwareConfig
from golden_model.cost.baselines import index_bits
from golden_model.cost.work import StagePlacement, stages
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import Prepared, check_activations, prepare_layer, streams
from golden_model.crossbar.windows import windows
from golden_model.engines.run_network import GraphRunner, Progress
from golden_model.graph.network import Graph
from golden_model.optional import numba_installed
from golden_model.registers import COUNTER_NAMES
from golden_model.searches import choose as searches
from golden_model.searches.joint import JointCounts
from golden_model.trq import AdcRegisters

#: What a column group stores: rows of blocks that are wide enough (ours), or single rows that are not zero (SRE).
By = Literal["blocks", "rows"]

_CHUNK_BYTES = 32 << 20


# ---- packs --------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Pack:
    """What one column group has in one crossbar.

    rows : int64 (n,), rows of a window, 0..K-1, in the order in which they are switched on. segments : int64, those of
    `rows`. lines : word lines of the crossbar that it takes, at least n. plane : b. columns : int64 (c,), outputs.
    cells : float32 (2 * c, n) of 0 and 1, positive polarity first.
    """

    rows: np.ndarray
    segments: np.ndarray
    lines: int
    plane: int
    columns: np.ndarray
    cells: np.ndarray


@dataclass(frozen=True, eq=False)
class Flat:
    """Packs one after the other, for gathered_compiled.py; pack p has first_x[p]..first_x[p + 1] of everything.

    cells : uint64 (lanes of all packs, W), row r of a pack is bit r % 64 of word r // 64.
    """

    rows: np.ndarray
    first_row: np.ndarray
    segments: np.ndarray
    first_segment: np.ndarray
    lines: np.ndarray
    cells: np.ndarray
    first_lane: np.ndarray


@dataclass(frozen=True, eq=False)
class Gathering:
    """A layer ready to be gathered; make it with `prepare`. index_bits : stored to know the rows, 0 for blocks."""

    prepared: Prepared
    by: By
    packs: tuple[Pack, ...]
    index_bits: int = 0
    tables: dict[str, Flat] = field(default_factory=dict, repr=False)

    @property
    def hardware(self) -> HardwareConfig:
        return self.prepared.hardware


def prepare(layer: Layer, hardware: HardwareConfig, by: By = "blocks") -> Gathering:
    """Column groups of a layer, cut into packs. A plane without a 1 takes nothing."""
    if by not in ("blocks", "rows"):
        raise ValueError(f"by must be 'blocks' or 'rows', got {by!r}")
    prepared = prepare_layer(layer, hardware)
    stored = mapping.planes(layer.weights, hardware)
    row = np.arange(layer.k)
    magnitude = np.abs(layer.weights)
    packs: list[Pack] = []
    kept_rows: list[int] = []
    for w, first in enumerate(range(0, layer.outputs, hardware.ou_cols)):
        columns = np.arange(first, min(first + hardware.ou_cols, layer.outputs))
        for b in range(hardware.weight_bits):
            if by == "blocks":
                segments = np.flatnonzero(prepared.widths[:, w] > b)
                parts = [segments[i : i + hardware.grid_rows] for i in range(0, len(segments), hardware.grid_rows)]
                for part in parts:
                    rows = row[np.isin(row // hardware.ou_rows, part)]
                    packs.append(_pack(stored, hardware, rows, b, columns, len(part) * hardware.ou_rows))
            else:
                kept = np.flatnonzero(((magnitude[:, columns] >> b) & 1).any(axis=1))
                kept_rows.append(len(kept))
                most = hardware.grid_rows * hardware.ou_rows
                for i in range(0, len(kept), most):
                    rows = kept[i : i + most]
                    packs.append(_pack(stored, hardware, rows, b, columns, len(rows)))
    return Gathering(prepared, by, tuple(packs), int(index_bits(layer.k, np.array(kept_rows, dtype=np.int64)).sum()))


def _pack(
    stored: np.ndarray, hardware: HardwareConfig, rows: np.ndarray, plane: int, columns: np.ndarray, lines: int
) -> Pack:
    segment = rows // hardware.ou_rows
    cells = stored[segment, plane, :, rows % hardware.ou_rows][:, :, columns]  # (n, 2, c)
    both = cells.transpose(1, 2, 0).reshape(-1, len(rows)).astype(np.float32)
    return Pack(rows, np.unique(segment), lines, plane, columns, both)


def _flat(gathering: Gathering) -> Flat:
    packs = gathering.packs
    size = max((-(-len(pack.rows) // 64) for pack in packs), default=1)
    cells = np.zeros((sum(len(pack.cells) for pack in packs), size), dtype=np.uint64)
    at = 0
    for pack in packs:
        for r in range(len(pack.rows)):
            cells[at : at + len(pack.cells), r // 64] |= pack.cells[:, r].astype(np.uint64) << np.uint64(r % 64)
        at += len(pack.cells)

    def joined(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts]), np.cumsum([0, *map(len, parts)])

    rows, first_row = joined([pack.rows for pack in packs])
    segments, first_segment = joined([pack.segments for pack in packs])
    first_lane = np.cumsum([0, *(len(pack.cells) for pack in packs)])
    lines = np.array([pack.lines for pack in packs], dtype=np.int64)
    return Flat(rows, first_row, segments, first_segment, lines, cells, first_lane)


# ---- searches -----------------------------------------------------------------------------------
def search_tables(registers: AdcRegisters, hardware: HardwareConfig, where: str = "registers") -> np.ndarray:
    """Value and A/D operations of every count below every number of rows on: int64 (2, ou_rows + 1, ou_rows + 1).

    Entry [., u, count]; counts above u do not occur. Raises ValueError for registers that bound columns, whose cells
    are not those of an OU here, or that do not convert every count exactly.
    """
    if registers.column_bound_bits not in (None, 0):
        raise ValueError(f"{where}: column_bound_bits must be None or 0, got {registers.column_bound_bits!r}")
    if registers.mode not in ("uniform", "bounded", "tree"):
        raise ValueError(f"{where}: mode must be 'uniform', 'bounded' or 'tree', got {registers.mode!r}")
    trq.check_search(registers, hardware)
    if not trq.lossless(registers, hardware):
        raise ValueError(f"{where}: counts 0..{hardware.ou_rows} must convert to themselves, got {registers}")
    u, count = np.indices((hardware.ou_rows + 1, hardware.ou_rows + 1))
    found = trq.convert(count, hardware.adc_bits, registers, bound=u if registers.bounded else None)
    return np.stack([found.value, found.operations])


# ---- windows ------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Spent:
    """What windows spend.

    ou_activations, input_bits, scans, gathered_rows : int64 (P,): OUs; input bits read, one row each; packs and
    streamed input bits looked at; rows that prefix counts go through.
    lock_step, decoupled : conversion clocks under every setting, int64 (settings, P).
    counts : conversions by rows on and count, int64 (ou_rows + 1, ou_rows + 1).
    """

    ou_activations: np.ndarray
    input_bits: np.ndarray
    scans: np.ndarray
    gathered_rows: np.ndarray
    lock_step: np.ndarray
    decoupled: np.ndarray
    counts: np.ndarray

    @classmethod
    def zeros(cls, windows: int, settings: int, ou_rows: int) -> Spent:
        shapes = [(windows,)] * 4 + [(settings, windows)] * 2 + [(ou_rows + 1, ou_rows + 1)]
        return cls(*(np.zeros(shape, dtype=np.int64) for shape in shapes))


def _streams(gathering: Gathering, activations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """q'' uint8 (P, segments * ou_rows) and the streamed bit positions bool (P, segments, bits) of windows (P, K)."""
    streamed, mask = streams(gathering.prepared, activations)
    return streamed.reshape(len(activations), -1), mask


def _input_bits(gathering: Gathering, mask: np.ndarray) -> np.ndarray:
    """Input bits that windows read into the latch, of whole segments."""
    return mask.sum(axis=(1, 2)) * gathering.hardware.ou_rows


def _gather_plain(
    gathering: Gathering, x: np.ndarray, mask: np.ndarray, tables: Sequence[np.ndarray], made: Spent, sums: np.ndarray
) -> None:
    """Form every OU, convert every lane, add up; the definition, in NumPy.

    tables : of `search_tables`, one for each setting. sums : int64 (settings, P, N), zeros to add to.
    """
    hardware = gathering.hardware
    shortest = max(1, hardware.sample_interval)
    windows = len(x)
    for pack in gathering.packs:
        columns = len(pack.columns)
        for i in range(gathering.prepared.bits):
            streamed = mask[:, pack.segments, i].any(axis=1)
            bits = (x[:, pack.rows] >> i).astype(np.int64) & 1
            ou = (np.cumsum(bits, axis=1) - 1) // hardware.ou_rows  # which OU a row that is on belongs to
            formed = (bits.sum(axis=1) + hardware.ou_rows - 1) // hardware.ou_rows
            lanes = np.zeros((len(tables), windows, 2 * columns), dtype=np.int64)
            clocks = np.zeros((len(tables), windows), dtype=np.int64)
            for j in range(int(formed.max(initial=0))):
                on = np.flatnonzero(formed > j)
                rows = bits[on] * (ou[on] == j)
                u = rows.sum(axis=1)[:, None]
                counts = (rows.astype(np.float32) @ pack.cells.T).astype(np.int64)
                np.add.at(made.counts, (u, counts), 1)
                for s, table in enumerate(tables):
                    value, operations = table[:, u, counts]
                    difference = value[:, :columns] - value[:, columns:]
                    sums[s][on[:, None], pack.columns] += difference << (i + pack.plane)
                    lanes[s, on] += operations
                    clocks[s, on] += np.maximum(operations.max(axis=1), shortest)
            made.ou_activations[:] += formed
            made.scans[:] += streamed
            made.gathered_rows[:] += pack.lines * (formed + streamed)
            made.lock_step[:] += np.maximum(clocks, streamed)
            made.decoupled[:] += np.maximum(np.maximum(lanes.max(axis=2), formed * shortest), streamed)


def matmul(
    gathering: Gathering, activations: np.ndarray, registers: AdcRegisters | Sequence[AdcRegisters]
) -> tuple[np.ndarray, Spent]:
    """Matrix product as gathered OUs compute it, and what it spends; plain NumPy.

    activations : (P, K) unsigned integers below 2**bits of the layer. registers : one setting, or several.

    Returns (sums, spent), sums int64 (settings, P, N): `streamed activations @ weights`.
    """
    settings = [registers] if isinstance(registers, AdcRegisters) else list(registers)
    tables = [search_tables(one, gathering.hardware) for one in settings]
    activations = check_activations(gathering.prepared, activations)
    x, mask = _streams(gathering, activations)
    made = Spent.zeros(len(x), len(tables), gathering.hardware.ou_rows)
    made.input_bits[:] = _input_bits(gathering, mask)
    sums = np.zeros((len(tables), len(x), gathering.prepared.outputs), dtype=np.int64)
    _gather_plain(gathering, x, mask, tables, made, sums)
    return sums, made


def spend(
    gathering: Gathering, activations: np.ndarray, registers: Sequence[AdcRegisters] = (), *, plain: bool = False
) -> Spent:
    """What windows (P, K) spend under each setting; exactly what `matmul` counts, faster where numba is installed.

    registers : may be none, for counts alone. plain : plain NumPy even where numba is installed.
    """
    hardware, prepared = gathering.hardware, gathering.prepared
    tables = [search_tables(one, hardware) for one in registers]
    compiled = not plain and numba_installed()
    if compiled and "flat" not in gathering.tables:
        gathering.tables["flat"] = _flat(gathering)
    made = Spent.zeros(len(activations), len(tables), hardware.ou_rows)
    segments = len(prepared.widths)
    step = max(1, _CHUNK_BYTES // (segments * (hardware.ou_rows * (1 if compiled else 40) + 2 * prepared.bits + 8)))
    for begin in range(0, len(activations), step):
        part = slice(begin, begin + step)
        x, mask = _streams(gathering, activations[part])
        one = Spent.zeros(len(x), len(tables), hardware.ou_rows)
        one.input_bits[:] = _input_bits(gathering, mask)
        if compiled:
            from golden_model.cost import gathered_compiled

            positions = mask.astype(np.int64) @ (1 << np.arange(prepared.bits))
            spent = np.zeros((len(tables), *made.counts.shape), dtype=np.int64)
            for s, table in enumerate(tables):
                spent[s] = table[1]
            gathered_compiled.spend(
                gathering.tables["flat"], x, positions, hardware.ou_rows, max(1, hardware.sample_interval), spent, one
            )
        else:
            sums = np.zeros((len(tables), len(x), prepared.outputs), dtype=np.int64)
            _gather_plain(gathering, x, mask, tables, one, sums)
        for name in ("ou_activations", "input_bits", "scans", "gathered_rows"):
            getattr(made, name)[part] = getattr(one, name)
        made.lock_step[:, part], made.decoupled[:, part] = one.lock_step, one.decoupled
        made.counts[:] += one.counts
    return made


# ---- graphs -------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Gathered:
    """A graph on the machine under one setting of every layer.

    events : mean of one image, float64 (stages, counters), lanes in lock step. decoupled_cycles : (stages,).
    extra : events of golden_model.cost.work.EXTRA_NAMES, mean of one image, (stages,). metadata_bits : stored for
    indices and trees, (stages,). placements : of every stage.
    """

    events: np.ndarray
    decoupled_cycles: np.ndarray
    extra: dict[str, np.ndarray]
    metadata_bits: np.ndarray
    placements: tuple[StagePlacement, ...]


def seen(graph: Graph, images: np.ndarray, *, by: By = "blocks", threads: int | None = 1) -> dict[str, JointCounts]:
    """Conversions of gathered OUs by rows on and count, over uint8 images (B, C, H, W), by crossbar node.

    For `searches.trees(..., column_bound_bits=0)` and the like: nothing is known of columns, as if all their cells
    were 1. The network runs with the converters that it has, which must be lossless.
    """
    made = {id(layer): prepare(layer, graph.hardware, by) for layer in graph.layers}
    size = graph.hardware.ou_rows + 1
    found = {node.name: np.zeros((size, size, size), dtype=np.int64) for node in graph.crossbars}
    lock = threading.Lock()

    def observe(name: str, layer: Layer, activations: np.ndarray) -> None:
        spent = spend(made[id(layer)], windows(layer, activations).reshape(-1, layer.k))
        with lock:
            found[name][:, -1] += spent.counts

    GraphRunner(graph, threads=threads).run(images, observe=observe)
    return {name: JointCounts(counts) for name, counts in found.items()}


def measure(
    graph: Graph,
    images: np.ndarray,
    settings: Mapping[str, Mapping[str, AdcRegisters]],
    *,
    by: By = "blocks",
    threads: int | None = 1,
    progress: Progress | None = None,
) -> dict[str, Gathered]:
    """What an image of uint8 (B, C, H, W) costs on average under several settings, in one pass.

    settings : by any name, registers by name of the crossbar node. The graph itself runs with the converters that it
    has, which must be lossless; its dynamic precision applies, zero slices are skipped by definition.
    """
    hardware, rows = graph.hardware, stages(graph)
    if not len(images):
        raise ValueError("measure: at least one image is needed")
    made = {id(layer): prepare(layer, hardware, by) for layer in graph.layers}
    place = {stage.name: i for i, stage in enumerate(rows)}
    operations = [
        {s.name: search_tables(registers[s.name], hardware, f"{name}, layer {s.name}")[1] for s in rows}
        for name, registers in settings.items()
    ]
    totals = np.zeros((len(settings), len(rows), len(COUNTER_NAMES)))
    decoupled = np.zeros((len(settings), len(rows)))
    gathered_rows = np.zeros(len(rows))
    lock = threading.Lock()

    def observe(node: str, layer: Layer, activations: np.ndarray) -> None:
        rows = windows(layer, activations).reshape(-1, layer.k)
        mine = [registers[node] for registers in settings.values()]
        spent = spend(made[id(layer)], rows, mine)
        entries = layer.segments(hardware) * layer.block_cols(hardware)
        clocks = [
            timing.window_cycles(
                hardware, layer.k, layer.outputs, np.maximum(busy, entries if by == "blocks" else 0)[..., None]
            ).sum(axis=-1)
            + timing.c_layer(hardware) * len(activations)
            for busy in (spent.lock_step, spent.decoupled)
        ]
        with lock:
            gathered_rows[place[node]] += spent.gathered_rows.sum()
            decoupled[:, place[node]] += clocks[1]
            for s, spent_on in enumerate(operations):
                named = {
                    "ou_activations": spent.ou_activations.sum(),
                    "conversions_r2": spent.counts.sum(),
                    "ad_operations": (spent.counts * spent_on[node]).sum(),
                    "input_bits_streamed": spent.input_bits.sum() / hardware.ou_rows,
                    "cycles": clocks[0][s],
                }
                totals[s, place[node]] += [named.get(name, 0) for name in COUNTER_NAMES]

    GraphRunner(graph, threads=threads).run(images, observe=observe, progress=progress)
    count = len(images)
    index = np.array([sum(made[id(layer)].index_bits for layer in stage.layers) for stage in rows], dtype=np.float64)
    index_read = np.array([sum(made[id(x)].index_bits * x.windows for x in stage.layers) for stage in rows])
    placements = tuple(_place([made[id(layer)] for layer in stage.layers], hardware) for stage in rows)
    found = {}
    for s, (name, registers) in enumerate(settings.items()):
        mine = [registers[stage.name] for stage in rows]
        trees = np.array([searches.reads_trees(one) for one in mine])
        extra = {
            "gathered_rows": gathered_rows / count,
            "tree_bits_read": totals[s, :, COUNTER_NAMES.index("ad_operations")] / count * (trees * hardware.adc_bits),
            "index_bits_read": index_read.astype(np.float64),
        }
        found[name] = Gathered(
            totals[s] / count,
            decoupled[s] / count,
            {name: values for name, values in extra.items() if values.any()},
            index + [searches.tree_bits(one, hardware) for one in mine],
            placements,
        )
    return found


def _place(parts: Sequence[Gathering], hardware: HardwareConfig) -> StagePlacement:
    """A pack takes an OU column of a pair; grid_cols packs share one. Every group of a node starts a fresh pair."""
    pair_ous: list[int] = []
    cells = blocks = 0
    for one in parts:
        ous = [-(-pack.lines // hardware.ou_rows) for pack in one.packs]
        pair_ous += [sum(ous[j : j + hardware.grid_cols]) for j in range(0, len(ous), hardware.grid_cols)]
        cells += sum(pack.cells.size for pack in one.packs)
        blocks += one.prepared.widths.size if one.by == "blocks" else 0
    return StagePlacement(hardware, np.array(pair_ous, dtype=np.int64), cells, blocks)
