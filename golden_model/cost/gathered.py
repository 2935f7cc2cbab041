"""Gathering of active word lines, with lossless searches on top (*ours*; system.md §5, §11, §13).

Dynamic formation of operation units (OUs) is that of Yang et al., "Sparse ReRAM Engine" (SRE), ISCA 2019: for every
input bit, only word lines whose bit is 1 are switched on, as many at a time as an OU has rows. *Ours* is what it is
built on and what is put on top: groups follow from the block widths (no index is stored, where SRE drops single rows
and stores which), and the number of rows that are on, which forming an OU yields anyway, bounds a lossless search
instead of a uniform conversion. Exactly:

* A column group is one block column w and one plane b: ou_cols bit lines in both arrays of a pair. With `by="blocks"`
  it stores the rows of all blocks of w that are wider than b, segment above segment in order; with `by="rows"`, the
  SRE-like machine, single rows that are not zero in both arrays. It is cut into packs of as many rows as a crossbar has
  OU rows for.
* For each window and input bit i, a pack switches on only its rows whose bit i is 1, ou_rows at a time in order:
  ceil(ones / ou_rows) OU activations, none without a 1. Every count is converted with a search that knows how many
  rows u of the OU are on, 1..ou_rows, and added as +-count << (i + b): sums equal W . x exactly. With dynamic
  precision x is what its unit streams (system.md §6).
* Every segment's slice is read into a latch once per window and streamed input bit, as in all our machines
  (`input_bits_streamed`). A prefix count over the rows of a pack, from the latch, picks the rows of the next OU: once
  for every pack and streamed bit, and once more for every OU that is formed (`gathered_rows`, rows of the pack each
  time, of blocks those of its whole segments). OUs, cells, word lines and conversions are charged in full.
* Clocks, lock step: an OU lasts max(1, sample_interval, most operations of any lane). The next OU is formed meanwhile,
  but a pack is looked at for at least one clock: an input bit of a pack takes at least that, also without a 1. A
  window has its fixed clocks beside (timing.py). Decoupled: the lanes wait for each other only at the end of an input
  bit of a pack, with ideal queues as in searches/lanes.py.
* Indices of `by="rows"`: each group stores which rows it keeps, as one bit per row or as ceil(log2 K) bits per kept
  row, whatever is less, and reads that once per window, to gather its inputs.

Deviation of `by="rows"`: the paper has 2-bit cells, OUs of 16 x 16, offset weights in one array, coded indices, and the
bits of a weight on adjacent bit lines; here cells, OUs and pairs are those of every other machine in the comparison,
and a group holds one plane of ou_cols weights, which finds more empty rows.

    counts = seen(graph, training_images)                          # by layer: rows on, counts
    settings = {"trees": searches.trees(counts, graph.hardware, column_bound_bits=0)}
    found = measure(graph, images, settings)["trees"]              # events, clocks, metadata
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from golden_model import timing, trq
from golden_model.config import HardwareConfig
from golden_model.cost.work import StagePlacement, stages
from golden_model.crossbar import mapping
from golden_model.crossbar.lanes import pack_words
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import Prepared, check_activations, prepare_layer, streams
from golden_model.crossbar.windows import windows
from golden_model.engines.run_network import Progress
from golden_model.events import Events
from golden_model.graph.network import Graph
from golden_model.optional import numba_installed
from golden_model.registers import COUNTER_NAMES
from golden_model.searches import choose as searches
from golden_model.searches.joint import JointCounts
from golden_model.searches.observe import sum_over_layers
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
    magnitude = np.abs(layer.weights)
    most = hardware.grid_rows * hardware.ou_rows
    packs: list[Pack] = []
    index_bits = 0
    for w, first in enumerate(range(0, layer.outputs, hardware.ou_cols)):
        columns = np.arange(first, min(first + hardware.ou_cols, layer.outputs))
        for b in range(hardware.weight_bits):
            if by == "blocks":
                rows = np.flatnonzero(np.repeat(prepared.widths[:, w] > b, hardware.ou_rows)[: layer.k])
            else:
                rows = np.flatnonzero(((magnitude[:, columns] >> b) & 1).any(axis=1))
                index_bits += min(layer.k, len(rows) * max(1, (layer.k - 1).bit_length()))
            for i in range(0, len(rows), most):
                part = rows[i : i + most]
                lines = len(part) if by == "rows" else -(-len(part) // hardware.ou_rows) * hardware.ou_rows
                packs.append(_pack(stored, hardware, part, b, columns, lines))
    return Gathering(prepared, by, tuple(packs), index_bits)


def _pack(
    stored: np.ndarray, hardware: HardwareConfig, rows: np.ndarray, plane: int, columns: np.ndarray, lines: int
) -> Pack:
    segment = rows // hardware.ou_rows
    cells = stored[segment, plane, :, rows % hardware.ou_rows][:, :, columns]  # (n, 2, c)
    both = cells.transpose(1, 2, 0).reshape(-1, len(rows)).astype(np.float32)
    return Pack(rows, np.unique(segment), lines, plane, columns, both)


def _flat(packs: Sequence[Pack]) -> Flat:
    size = max((-(-len(pack.rows) // 64) for pack in packs), default=1)
    cells = [np.zeros((0, size), dtype=np.uint64)]
    for pack in packs:
        words = pack_words(pack.cells)
        cells.append(np.pad(words, ((0, 0), (0, size - words.shape[1]))))

    def joined(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts]), np.cumsum([0, *map(len, parts)])

    rows, first_row = joined([pack.rows for pack in packs])
    segments, first_segment = joined([pack.segments for pack in packs])
    first_lane = np.cumsum([0, *(len(pack.cells) for pack in packs)])
    lines = np.array([pack.lines for pack in packs], dtype=np.int64)
    return Flat(rows, first_row, segments, first_segment, lines, np.concatenate(cells), first_lane)


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

    def windows(self, part: slice) -> Spent:
        """Views of some windows; they share `counts`."""
        names = ("ou_activations", "input_bits", "scans", "gathered_rows", "lock_step", "decoupled")
        return replace(self, **{name: getattr(self, name)[..., part] for name in names})


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


def _gather_compiled(
    gathering: Gathering, x: np.ndarray, mask: np.ndarray, tables: Sequence[np.ndarray], made: Spent
) -> None:
    from golden_model.cost import gathered_compiled

    hardware = gathering.hardware
    if "flat" not in gathering.tables:
        gathering.tables["flat"] = _flat(gathering.packs)
    positions = mask.astype(np.int64) @ (1 << np.arange(gathering.prepared.bits))
    operations = np.stack([np.zeros_like(made.counts), *(table[1] for table in tables)])[1:]
    shortest = max(1, hardware.sample_interval)
    gathered_compiled.spend(gathering.tables["flat"], x, positions, hardware.ou_rows, shortest, operations, made)


def matmul(gathering: Gathering, activations: np.ndarray, tables: Sequence[np.ndarray]) -> tuple[np.ndarray, Spent]:
    """Matrix product as gathered OUs compute it, and what it spends; plain NumPy.

    activations : (P, K) unsigned integers below 2**bits of the layer. tables : of `search_tables`, one per setting.

    Returns (sums, spent), sums int64 (settings, P, N): `streamed activations @ weights`.
    """
    activations = check_activations(gathering.prepared, activations)
    sums = np.zeros((len(tables), len(activations), gathering.prepared.outputs), dtype=np.int64)
    return sums, _spend(gathering, activations, tables, sums)


def spend(gathering: Gathering, activations: np.ndarray, tables: Sequence[np.ndarray] = ()) -> Spent:
    """Exactly what `matmul` spends, faster where numba is installed. tables : may be none, for counts alone."""
    sums = None
    if not numba_installed():
        sums = np.zeros((len(tables), len(activations), gathering.prepared.outputs), dtype=np.int64)
    return _spend(gathering, activations, tables, sums)


def _spend(
    gathering: Gathering, activations: np.ndarray, tables: Sequence[np.ndarray], sums: np.ndarray | None
) -> Spent:
    """sums : to add to in plain NumPy; None for the compiled loop."""
    hardware, prepared = gathering.hardware, gathering.prepared
    made = Spent.zeros(len(activations), len(tables), hardware.ou_rows)
    per_window = len(prepared.widths) * (hardware.ou_rows * (1 if sums is None else 40) + 2 * prepared.bits + 8)
    step = max(1, _CHUNK_BYTES // per_window)
    for begin in range(0, len(activations), step):
        part = slice(begin, begin + step)
        streamed, mask = streams(prepared, activations[part])
        x = streamed.reshape(len(streamed), -1)
        one = made.windows(part)
        one.input_bits[:] = mask.sum(axis=(1, 2)) * hardware.ou_rows
        if sums is None:
            _gather_compiled(gathering, x, mask, tables, one)
        else:
            _gather_plain(gathering, x, mask, tables, one, sums[:, part])
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

    def count(name: str, layer: Layer, activations: np.ndarray) -> JointCounts:
        counts = spend(made[id(layer)], windows(layer, activations).reshape(-1, layer.k)).counts
        return JointCounts(np.pad(counts[:, None], ((0, 0), (graph.hardware.ou_rows, 0), (0, 0))))

    return sum_over_layers(graph, images, count, threads=threads)


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
    tables = {
        s.name: [search_tables(one[s.name], hardware, f"{name}, layer {s.name}") for name, one in settings.items()]
        for s in rows
    }

    def count(node: str, layer: Layer, activations: np.ndarray) -> np.ndarray:
        """int64 (settings, counters + 2): events, clocks of decoupled lanes, rows of prefix counts."""
        spent = spend(made[id(layer)], windows(layer, activations).reshape(-1, layer.k), tables[node])
        entries = layer.segments(hardware) * layer.block_cols(hardware) if by == "blocks" else 0

        def clocks(busy: np.ndarray) -> np.ndarray:
            each = timing.window_cycles(hardware, layer.k, layer.outputs, np.maximum(busy, entries)[..., None])
            return each.sum(axis=-1) + timing.c_layer(hardware) * len(activations)

        events = Events.of(
            ou_activations=spent.ou_activations.sum(),
            conversions_r2=spent.counts.sum(),
            ad_operations=[int((spent.counts * table[1]).sum()) for table in tables[node]],
            input_bits_streamed=spent.input_bits.sum() // hardware.ou_rows,
            cycles=clocks(spent.lock_step),
        )
        more = np.stack([clocks(spent.decoupled), np.full(len(settings), spent.gathered_rows.sum())], axis=-1)
        return np.concatenate([events.counts, more], axis=-1)

    found = sum_over_layers(graph, images, count, threads=threads, progress=progress)
    totals = np.stack([found[stage.name] for stage in rows], axis=1) / len(images)
    index = np.array([sum(made[id(layer)].index_bits for layer in stage.layers) for stage in rows], dtype=np.float64)
    index_read = np.array([sum(made[id(x)].index_bits * x.windows for x in stage.layers) for stage in rows])
    placements = tuple(_place([made[id(layer)] for layer in stage.layers], hardware) for stage in rows)
    results = {}
    for (name, registers), total in zip(settings.items(), totals, strict=True):
        mine = [registers[stage.name] for stage in rows]
        events, decoupled, gathered_rows = total[:, :-2], total[:, -2], total[:, -1]
        threshold_bits = np.array([searches.reads_trees(one) for one in mine]) * hardware.adc_bits
        extra = {
            "gathered_rows": gathered_rows,
            "tree_bits_read": events[:, COUNTER_NAMES.index("ad_operations")] * threshold_bits,
            "index_bits_read": index_read.astype(np.float64),
        }
        extra = {name: values for name, values in extra.items() if values.any()}
        stored = index + [searches.tree_bits(one, hardware) for one in mine]
        results[name] = Gathered(events, decoupled, extra, stored, placements)
    return results


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
