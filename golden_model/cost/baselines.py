"""Events of the machines to compare with, on the same network (system.md §11).

All but the last follow from the geometry of the network; `sparse_events` counts from real weights and activations.

* `baseline_events`: ISAAC-like under the OU limit. The one baseline: every OU of every plane and polarity, all input
  bits, uniform conversion with R_ideal decisions, nothing skipped, lanes in lock step.
* `idealised`: the same on a machine that switches 128 rows on at once and converts 8 bits, for reference only; real
  arrays cannot (system.md §5).
* `layer_wise_events`: one width per layer, that of its widest block, as a network trained layer by layer has.
* `block_width_events`: a width per block (BWQ), otherwise as the baseline.
* `sparse_events`: row compression of zero weights and zero inputs, in the manner of SRE.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.cost.work import StagePlacement, stages
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.windows import windows
from golden_model.engines.run_network import GraphRunner, Progress
from golden_model.events import Events
from golden_model.graph.network import Graph
from golden_model.registers import COUNTER_NAMES

#: Magnitude planes of the baseline: 8-bit symmetric weights are a sign and 7 bits.
BASELINE_PLANES = 7
#: Rows switched on at once, and bits of the converter, of the over-idealised machine.
IDEALISED_ROWS, IDEALISED_BITS = 128, 8

Widths = Sequence[np.ndarray] | int


def baseline_planes(hardware: HardwareConfig) -> int:
    """Planes of the baseline: 7, or weight_bits if that is less."""
    return min(BASELINE_PLANES, hardware.weight_bits)


def layer_widths(network: Graph, widths: Widths) -> list[np.ndarray]:
    """`widths` as one int64 array (segments, block columns) per layer, all groups of the nodes in order.

    Raises ValueError for a wrong number of arrays, a wrong shape or planes outside 0..weight_bits.
    """
    hardware, layers = network.hardware, network.layers
    if not isinstance(widths, int) and len(widths) != len(layers):
        raise ValueError(f"block widths must be given for all {len(layers)} layers, got {len(widths)}")
    made = []
    for i, layer in enumerate(layers):
        shape = (layer.segments(hardware), layer.block_cols(hardware))
        planes = np.full(shape, widths, dtype=np.int64) if isinstance(widths, int) else np.asarray(widths[i])
        if planes.shape != shape or (planes < 0).any() or (planes > hardware.weight_bits).any():
            raise ValueError(
                f"layer {layer.name}: block widths must be {shape} integers in 0..{hardware.weight_bits}, "
                f"got shape {planes.shape}"
            )
        made.append(planes.astype(np.int64))
    return made


# ---- from the geometry --------------------------------------------------------------------------
def uniform_events(
    network: Graph, widths: Widths, operations: int | None = None, *, own_input_bits: bool = False
) -> Events:
    """Events of one image on a machine that skips nothing it stores, leading shape (stages,).

    Every stored plane of every block meets every input bit of every window; both polarities of every column < N
    are converted with `operations` comparator decisions (default: uniform conversion with R_ideal bits,
    system.md §4.4); lock step (system.md §5).

    Parameters
    ----------
    widths : planes of every block, one (segments, block columns) array per layer, or one number for all.
    own_input_bits : stream only as many bits as the layer's activations have, not `hardware.input_bits`; the rest
        counts as skipped bits.
    """
    hardware = network.hardware
    decisions = hardware.ideal_bits if operations is None else operations
    table = np.zeros((len(stages(network)), len(COUNTER_NAMES)), dtype=np.int64)
    rows = iter(layer_widths(network, widths))
    for i, stage in enumerate(stages(network)):
        for layer in stage.layers:
            table[i] += _uniform(layer, hardware, next(rows), decisions, own_input_bits)
    return Events(table)


def _uniform(layer: Layer, hardware: HardwareConfig, planes: np.ndarray, decisions: int, own_bits: bool) -> np.ndarray:
    segments, block_cols = planes.shape
    columns = np.full(block_cols, hardware.ou_cols, dtype=np.int64)
    columns[-1] = layer.outputs - (block_cols - 1) * hardware.ou_cols
    bits = layer.input_bits if own_bits else hardware.input_bits
    slices = layer.windows * bits
    conversions = slices * 2 * int((planes * columns).sum())
    clocks = planes.sum(axis=1) * bits * max(1, hardware.sample_interval, decisions)
    named = {
        "ou_activations": slices * int(planes.sum()),
        "skipped_planes": layer.windows * hardware.input_bits * int((hardware.weight_bits - planes).sum()),
        "skipped_bits": layer.windows * (hardware.input_bits - bits) * int(planes.sum()),
        "conversions_r2": conversions,
        "ad_operations": conversions * decisions,
        "input_bits_streamed": slices * segments,
        "cycles": _layer_cycles(layer, hardware, clocks),
    }
    return np.array([named.get(name, 0) for name in COUNTER_NAMES], dtype=np.int64)


def _layer_cycles(layer: Layer, hardware: HardwareConfig, segment_clocks: np.ndarray) -> int:
    """Clocks of a layer whose windows all take `segment_clocks` (one number per segment; system.md §5)."""
    window = timing.window_cycles(hardware, layer.k, layer.outputs, segment_clocks)
    return timing.c_layer(hardware) + layer.windows * int(window)


def baseline_events(network: Graph, planes: int | None = None) -> Events:
    """Events of one image on the ISAAC-like machine under the same OU limit (system.md §11).

    Same network, OUs, windows and lanes; every block has `planes` magnitude planes (default 7, or
    weight_bits if that is less), 8-bit activations (`hardware.input_bits`) are streamed in full, both
    polarities are converted with uniform R_ideal-bit conversion, nothing is skipped, lanes in lock step.

    Returns events of one image, leading shape (stages,).
    """
    return uniform_events(network, baseline_planes(network.hardware) if planes is None else planes)


def block_width_events(network: Graph, *, own_input_bits: bool = False) -> Events:
    """Events of one image with block-wise widths alone: missing planes are skipped, all else as the baseline.

    own_input_bits : as for `uniform_events`; needed where activations are narrower than the hardware's.
    """
    return uniform_events(network, [layer.block_widths for layer in network.layers], own_input_bits=own_input_bits)


def layer_wise_widths(network: Graph) -> list[np.ndarray]:
    """Every block as wide as the widest of its layer; the groups of a node are one layer."""
    made = []
    for stage in stages(network):
        widest = max(int(layer.block_widths.max(initial=0)) for layer in stage.layers)
        made += [np.full(layer.block_widths.shape, widest, dtype=np.int64) for layer in stage.layers]
    return made


def layer_wise_events(network: Graph, *, own_input_bits: bool = False) -> Events:
    """Events of one image with one width per layer, all else as the baseline; for networks trained layer by layer."""
    return uniform_events(network, layer_wise_widths(network), own_input_bits=own_input_bits)


def idealised(hardware: HardwareConfig) -> HardwareConfig:
    """The over-idealised machine: all 128 rows at once (or all there are), an 8-bit converter per column."""
    rows = min(IDEALISED_ROWS, hardware.rows)
    return replace(hardware, ou_rows=rows, adc_bits=IDEALISED_BITS, group_segments=None)


def on_hardware(network: Graph, hardware: HardwareConfig) -> Graph:
    """The same geometry on other hardware, for events that do not depend on converters; widths are taken anew."""

    def moved(layer: Layer) -> Layer:
        return replace(layer, block_widths=mapping.block_widths(layer.weights, hardware))

    crossbars = {node.name: replace(node, layers=tuple(map(moved, node.layers))) for node in network.crossbars}
    return replace(network, hardware=hardware, nodes=tuple(crossbars.get(n.name, n) for n in network.nodes))


# ---- in the manner of SRE -----------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Sparse:
    """What the row-compressing machine does and stores.

    events : mean of one image, float64 (stages, counters). index_bits_read : mean of one image, (stages,).
    index_bits : stored, (stages,). placements : of every stage.
    rows_kept : rows that are left of all rows of all groups, 0..1.
    """

    events: np.ndarray
    index_bits_read: np.ndarray
    index_bits: np.ndarray
    placements: tuple[StagePlacement, ...]
    rows_kept: float


def index_bits(k: int, kept: np.ndarray) -> np.ndarray:
    """Bits that say which `kept` of k rows a group keeps: one per row, or ceil(log2 k) per kept row if that is less."""
    return np.minimum(k, kept * max(1, (k - 1).bit_length()))


@dataclass(frozen=True, eq=False)
class _Groups:
    """Column groups of one layer after row compression.

    masks : float32 (K, packs), the rows of every pack; a pack is what one group has in one crossbar.
    columns : (packs,), bit lines of a group, one polarity. kept : (groups,), rows that each group keeps.
    """

    masks: np.ndarray
    columns: np.ndarray
    kept: np.ndarray

    def index_bits(self, k: int) -> int:
        """Bits that say which of the k rows are kept, the shorter code for every group."""
        return int(index_bits(k, self.kept).sum())


def _groups(layer: Layer, hardware: HardwareConfig, planes: int, mixed: bool) -> _Groups:
    bits, most = np.arange(planes), hardware.grid_rows * hardware.ou_rows
    magnitude = np.abs(layer.weights)
    if magnitude.max(initial=0) >> planes:
        raise ValueError(f"layer {layer.name}: its weights need more than {planes} planes")
    occupied = ((magnitude[:, :, None] >> bits) & 1).astype(bool)  # (K, N, planes), of either polarity
    if mixed:
        lines = occupied.reshape(layer.k, -1)
        parts = [lines[:, i : i + hardware.ou_cols] for i in range(0, lines.shape[1], hardware.ou_cols)]
    else:
        parts = [
            occupied[:, i : i + hardware.ou_cols, b]
            for i in range(0, layer.outputs, hardware.ou_cols)
            for b in range(planes)
        ]
    masks, columns, kept = [], [], []
    for part in parts:
        rows = np.flatnonzero(part.any(axis=1))
        kept.append(len(rows))
        for start in range(0, len(rows), most):
            mask = np.zeros(layer.k, dtype=np.float32)
            mask[rows[start : start + most]] = 1
            masks.append(mask)
            columns.append(part.shape[1])
    stacked = np.stack(masks, axis=1) if masks else np.zeros((layer.k, 0), dtype=np.float32)
    return _Groups(stacked, np.array(columns, dtype=np.int64), np.array(kept, dtype=np.int64))


_SPARSE_BYTES = 64 << 20


def _sparse_layer(
    layer: Layer, hardware: HardwareConfig, groups: _Groups, activations: np.ndarray, skip_inputs: bool
) -> np.ndarray:
    """Counters of all images of `activations`, uint8 (B, C, H, W), summed; without c_layer."""
    rows = windows(layer, activations).reshape(-1, layer.k)
    formed = np.zeros(len(groups.columns), dtype=np.int64)  # OU activations of every pack
    if skip_inputs:
        step = max(1, _SPARSE_BYTES // (4 * (layer.k + len(groups.columns))))
        for start in range(0, len(rows), step):
            for bit in range(layer.input_bits):
                slices = ((rows[start : start + step] >> bit) & 1).astype(np.float32)
                ones = (slices @ groups.masks).astype(np.int64)
                formed += (-(-ones // hardware.ou_rows)).sum(axis=0)
    else:
        stored = groups.masks.sum(axis=0).astype(np.int64)
        formed += -(-stored // hardware.ou_rows) * len(rows) * hardware.input_bits
    activations_count = int(formed.sum())
    slices = len(rows) * (layer.input_bits if skip_inputs else hardware.input_bits) * layer.segments(hardware)
    conversions = 2 * int(formed @ groups.columns)
    fixed = timing.window_cycles(hardware, layer.k, layer.outputs, np.zeros(1, dtype=np.int64))
    clocks = activations_count * max(1, hardware.sample_interval, hardware.ideal_bits)
    named = {
        "ou_activations": activations_count,
        "conversions_r2": conversions,
        "ad_operations": conversions * hardware.ideal_bits,
        "input_bits_streamed": slices,
        "cycles": len(rows) * int(fixed) + clocks,
    }
    return np.array([named.get(name, 0) for name in COUNTER_NAMES], dtype=np.float64)


def sparse_events(
    network: Graph,
    images: np.ndarray,
    *,
    planes: int | None = None,
    mixed_significance: bool = False,
    skip_inputs: bool = True,
    threads: int | None = 1,
    progress: Progress | None = None,
) -> Sparse:
    """The network on a machine that drops rows of zero weights and skips zero inputs, in the manner of SRE.

    After Yang et al., "Sparse ReRAM Engine", ISCA 2019: OU-based row compression and dynamic OU formation. Exactly:

    * A column group is `ou_cols` bit lines. A row leaves a group if all its cells there are 0, in both arrays of
      the pair; the rows that stay move up, and are cut into packs of as many rows as a crossbar has OU rows for.
    * For each window and input bit, each pack switches on only its rows whose input bit is 1, `ou_rows` at a time:
      ceil(ones / ou_rows) OU activations; a pack without a 1 costs nothing.
    * Conversion is the baseline's: uniform, R_ideal decisions, both polarities of every bit line that exists; an OU
      takes as long as in the baseline; the fixed clocks of a window are those of our tile.
    * Indices: each group stores which rows it keeps, as one bit per row or as ceil(log2 K) bits per kept row, whatever
      is less, and reads that once per window, to gather its inputs. Input bits are read into a latch once per window,
      for all groups, as in our machines (`input_bits_streamed`). Forming OUs takes no time and no energy.

    Deviation: the paper has 2-bit cells, OUs of 16 x 16, offset weights in one array and coded indices; here cells,
    OUs and pairs are those of every other machine in the comparison. It puts the bits of a weight on adjacent bit
    lines (`mixed_significance`); by default groups hold one plane of ou_cols weights, which finds more empty rows.

    Parameters
    ----------
    images : uint8 (B, C, H, W); activations are those of the network with the converters it has.
    planes : bit planes of a weight (default: the baseline's, or what the largest weight needs if that is more);
        ValueError if a weight needs more.
    skip_inputs : False leaves out the second step: all packs are switched on for all input bits.
    """
    hardware, count = network.hardware, len(images)
    if not count:
        raise ValueError("sparse_events: at least one image is needed")
    rows = stages(network)
    if planes is None:
        largest = max(int(np.abs(layer.weights).max(initial=0)) for stage in rows for layer in stage.layers)
        planes = max(baseline_planes(hardware), largest.bit_length())
    place = {stage.name: i for i, stage in enumerate(rows)}
    groups = {
        id(layer): _groups(layer, hardware, planes, mixed_significance) for stage in rows for layer in stage.layers
    }
    totals = np.zeros((len(rows), len(COUNTER_NAMES)))
    lock = threading.Lock()

    def observe(name: str, layer: Layer, activations: np.ndarray) -> None:
        mine = _sparse_layer(layer, hardware, groups[id(layer)], activations, skip_inputs)
        with lock:
            totals[place[name]] += mine

    GraphRunner(network, threads=threads).run(images, observe=observe, progress=progress)
    events = totals / count
    cycles = COUNTER_NAMES.index("cycles")
    index_bits, read = np.zeros(len(rows)), np.zeros(len(rows))
    placements = []
    kept = all_rows = 0
    for i, stage in enumerate(rows):
        pair_ous: list[int] = []
        cells = 0
        for layer in stage.layers:
            mine = groups[id(layer)]
            stored = mine.index_bits(layer.k)
            index_bits[i] += stored
            read[i] += stored * layer.windows
            stays = mine.masks.sum(axis=0).astype(np.int64)
            ous = -(-stays // hardware.ou_rows)
            pair_ous += [int(ous[j : j + hardware.grid_cols].sum()) for j in range(0, len(ous), hardware.grid_cols)]
            cells += 2 * int(stays @ mine.columns)
            events[i, cycles] += timing.c_layer(hardware)
            kept += int(mine.kept.sum())
            all_rows += len(mine.kept) * layer.k
        placements.append(StagePlacement(hardware, np.array(pair_ous, dtype=np.int64), cells, 0))
    return Sparse(events, read, index_bits, tuple(placements), kept / all_rows)
