"""What a network does for one image, as named quantities that a component table can be multiplied with (system.md §11).

A network is a list of `Stage`s, one for every row of its events, followed by the nodes between them that move data. A
`Machine` is a network with its events and the machine's own parts; `works` gives each stage and node a `Work`: its
event counters and its traffic; `QUANTITIES` says which numbers follow from one, with the formula as text.

A window is read from the buffer in full, as the hardware does, unless a machine has window reuse
(golden_model/pairs/plumbing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import Layer
from golden_model.events import Events
from golden_model.graph.network import Graph
from golden_model.graph.nodes import Add, AveragePool, Border, Concat, Crossbar, MaxPool, Node
from golden_model.pairs.plumbing import Keeps, values_read
from golden_model.registers import COUNTER_NAMES, WIDTH_BITS

#: Event counts beside the counters, of parts that a machine may or may not have; a machine without the part has none.
EXTRA_NAMES = (
    "column_bound_bits_read",
    "held_bound_bits",
    "population_counts",
    "tree_bits_read",
    "index_bits_read",
    "leading_one_inputs",
    "dynamic_precision_inputs",
    "dynamic_precision_groups",
    "gathered_rows",
    "window_register_bits",
    "subtractions",
    "latched_bits",
    "mask_bits",
    "stop_word_bits",
    "stop_additions",
    "stop_requantisations",
    "line_bits",
)

Extra = Mapping[str, np.ndarray]
#: Planes of every block, one (segments, block columns) array per layer, or one number for all.
Widths = Sequence[np.ndarray] | int


@dataclass(frozen=True, eq=False)
class Stage:
    """One row of a network's events: a crossbar node with all its groups.

    residual_bits : width of the residual activations that its post-processing reads, 0 if it has none.
    looks_up : whether its activations come from a table.
    """

    name: str
    layers: tuple[Layer, ...]
    residual_bits: int = 0
    looks_up: bool = False

    @property
    def outputs(self) -> int:
        """Output values, after pooling."""
        return sum(layer.outputs * layer.out_height * layer.out_width for layer in self.layers)


def stages(network: Graph) -> tuple[Stage, ...]:
    """The rows of a network's events, in order."""
    bits = {node.name: node.encoding.bits for node in network.nodes}
    return tuple(
        Stage(node.name, node.layers, bits[node.inputs[1]] if len(node.inputs) > 1 else 0, node.lookup is not None)
        for node in network.crossbars
    )


@dataclass(frozen=True, eq=False)
class StagePlacement:
    """What one copy of a stage occupies.

    pair_ous : occupied OUs of each of its crossbar pairs, int64 (pairs,). weight_cells : cells, of both arrays, that
    belong to a weight, not to the padding of an edge block. blocks : entries of its width table.
    """

    hardware: HardwareConfig
    pair_ous: np.ndarray
    weight_cells: int
    blocks: int

    @property
    def pairs(self) -> int:
        return len(self.pair_ous)

    @property
    def ous(self) -> int:
        """OUs that hold a plane."""
        return int(self.pair_ous.sum())

    @property
    def places(self) -> int:
        """All OUs of its pairs."""
        return self.pairs * self.hardware.ous_per_crossbar

    @property
    def ou_cells(self) -> int:
        """All cells of its occupied OUs."""
        return self.ous * self.hardware.ou_cells

    @property
    def ou_utilisation(self) -> float:
        """Occupied OUs of all OUs of its pairs, 0..1."""
        return self.ous / self.places if self.places else 0.0

    @property
    def cell_utilisation(self) -> float:
        """Cells of weights of all cells of occupied OUs, 0..1."""
        return self.weight_cells / self.ou_cells if self.ou_cells else 0.0

    def share(self, pairs_per_macro: int) -> float:
        """Largest share of its OUs in one macro, 0..1; 0 without any OU."""
        if not self.ous:
            return 0.0
        starts = np.arange(0, self.pairs, pairs_per_macro)
        return int(np.add.reduceat(self.pair_ous, starts).max()) / self.ous


# ---- a machine on a network ---------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Reads:
    """What a machine reads around its windows, if it does not follow from the geometry; means of one image, (stages,).

    activation_bits : from the activation buffer, without residuals. width_entries : of the width table.
    window_streams : input bits are streamed from the window register; there is no input register beside it.
    """

    activation_bits: np.ndarray
    width_entries: np.ndarray
    window_streams: bool = False


@dataclass(frozen=True, eq=False)
class Machine:
    """One machine on one network: what it does for an image and what it has for that.

    network : for geometry and hardware. events : of one image, (stages, counters), or of several, (images, stages,
        counters), of which the mean is kept, float64; `Events` or its array of counters.
    name, note : what it is called, and one line that says what it is.
    widths : planes that it stores, as for `baselines.uniform_events`; None takes those of the layers.
    width_table : whether it keeps and reads a width per block; the baseline has none.
    extra : events of parts that only some machines have, by name of `EXTRA_NAMES`: (stages,), mean of one image.
    metadata_bits : bits that it stores for those, (stages,). held_bound_bits : of registers that hold column bounds
        (`searches.held_register_bits`), (stages,). None is 0 for both.
    placements : of every stage, if they do not follow from the widths.
    window_reuse : whether it reads only the new values of a window, see `machines.with_window_reuse`.
    reads : what it reads, if that does not follow from windows and blocks.
    own_units : units of `components.AREA_QUANTITIES` that one macro of each stage has, or one copy where those of a
        chip are counted by copies, (stages,), instead of what follows from the geometry.
    overlapped : whether windows load, convert and drain side by side, so that all clocks count as conversions.
    own_input_bits : False if it streams and stores `hardware.input_bits` of every activation, whatever a layer's have,
        as the baseline does.

    Raises ValueError for events and extras of another shape, not finite or below 0, and for unknown extras.
    """

    network: Graph
    events: Any
    name: str = ""
    note: str = ""
    widths: Widths | None = None
    width_table: bool = True
    extra: Extra = field(default_factory=dict)
    metadata_bits: np.ndarray | None = None
    held_bound_bits: np.ndarray | None = None
    placements: Sequence[StagePlacement] | None = None
    window_reuse: bool = False
    reads: Reads | None = None
    own_units: Mapping[str, np.ndarray] = field(default_factory=dict)
    overlapped: bool = False
    own_input_bits: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", per_image(self.events, self.network))
        object.__setattr__(self, "extra", _checked_extra(self.extra, len(self.events)))

    def total(self, counter: str) -> float:
        """A counter summed over the network."""
        return float(self.events[:, COUNTER_NAMES.index(counter)].sum())

    def with_cycles(self, cycles: np.ndarray) -> Machine:
        """The same machine with other clocks, (stages,)."""
        events = self.events.copy()
        events[:, COUNTER_NAMES.index("cycles")] = cycles
        return replace(self, events=events)

    @property
    def keeps(self) -> Keeps:
        """What it keeps of the windows before."""
        return "window" if self.window_reuse else "nothing"

    @property
    def conversions(self) -> float:
        return self.total("conversions_r1") + self.total("conversions_r2")

    @property
    def clocks(self) -> float:
        """Clocks of one image on one macro, lanes in lock step (system.md §5)."""
        return self.total("cycles") + timing.c_start(self.network.hardware)


def per_image(events: Events | np.ndarray, network: Graph) -> np.ndarray:
    """(images, stages, counters) or (stages, counters) -> mean events of one image, (stages, counters) float64.

    Raises ValueError for another shape, or counts that are not finite or below 0.
    """
    array = np.asarray(events.counts if isinstance(events, Events) else events, dtype=np.float64)
    shape = (len(stages(network)), len(COUNTER_NAMES))
    received = array.shape
    if array.ndim == 3 and len(array):
        array = array.mean(axis=0)
    if array.shape != shape:
        raise ValueError(f"events must have shape {shape} or (images, {shape[0]}, {shape[1]}), got {received}")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError("events must be at least 0")
    return array


def _checked_extra(extra: Extra, count: int) -> dict[str, np.ndarray]:
    checked = {}
    for name, values in extra.items():
        if name not in EXTRA_NAMES:
            raise ValueError(f"extra: no event is called {name!r}, there are {', '.join(EXTRA_NAMES)}")
        array = np.asarray(values, dtype=np.float64)
        if array.shape != (count,) or not np.isfinite(array).all() or (array < 0).any():
            raise ValueError(f"extra: {name} must be {count} numbers of at least 0, one per layer, got {array.shape}")
        checked[name] = array
    return checked


# ---- quantities ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Work:
    """What a stage, or a node between stages, does for one image.

    events : counter name -> number. extra : name -> number, of `EXTRA_NAMES`.
    buffer_bits : bits that it reads from and writes to the activation buffer. width_table_bits : read.
    outputs : values that are scaled, rounded and clamped. looked_up : of those that come from a table.
    pooled : values that pass a pooling unit.
    window_streams : whether input bits come from the window register, not from an input register.
    """

    name: str
    events: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)
    buffer_bits: float = 0.0
    width_table_bits: float = 0.0
    outputs: float = 0.0
    looked_up: float = 0.0
    pooled: float = 0.0
    window_streams: bool = False

    def event(self, name: str) -> float:
        return self.events.get(name, 0.0)


@dataclass(frozen=True)
class Quantity:
    """A number of events per image: `formula` says how it follows from counters and geometry."""

    formula: str
    count: Callable[[Work, HardwareConfig], float]


def _extra(name: str) -> Quantity:
    return Quantity(name, lambda work, hw: work.extra.get(name, 0.0))


#: Quantities that a component table may name. Counters are those of golden_model.registers.
QUANTITIES: dict[str, Quantity] = {
    "ad_operations": Quantity("ad_operations", lambda w, hw: w.event("ad_operations")),
    "conversions": Quantity(
        "conversions_r1 + conversions_r2", lambda w, hw: w.event("conversions_r1") + w.event("conversions_r2")
    ),
    "ou_activations": Quantity("ou_activations", lambda w, hw: w.event("ou_activations")),
    "cells": Quantity(
        "ou_activations x 2 polarities x ou_rows x ou_cols", lambda w, hw: w.event("ou_activations") * hw.ou_cells
    ),
    "word_lines": Quantity(
        "ou_activations x 2 polarities x ou_rows", lambda w, hw: w.event("ou_activations") * 2 * hw.ou_rows
    ),
    "input_register_bits": Quantity(
        "input_bits_streamed x ou_rows, unless streamed from the window register",
        lambda w, hw: 0.0 if w.window_streams else w.event("input_bits_streamed") * hw.ou_rows,
    ),
    "window_register_reads": Quantity(
        "input_bits_streamed x ou_rows, if streamed from the window register",
        lambda w, hw: w.event("input_bits_streamed") * hw.ou_rows if w.window_streams else 0.0,
    ),
    "cycles": Quantity("cycles", lambda w, hw: w.event("cycles")),
    "buffer_bits": Quantity(
        "windows x K (window reuse: values that are new) x input bits, residuals and pooling inputs read + results"
        " written (logits: accumulator bits)",
        lambda w, hw: w.buffer_bits,
    ),
    "width_table_bits": Quantity(
        f"windows x segments x block columns x {WIDTH_BITS}", lambda w, hw: w.width_table_bits
    ),
    "outputs": Quantity("windows x N, and outputs of nodes that rescale", lambda w, hw: w.outputs),
    "lookup_bits": Quantity(
        "outputs of layers and additions whose activation is a table x input_bits",
        lambda w, hw: w.looked_up * hw.input_bits,
    ),
    "pooled": Quantity("inputs of pooling windows", lambda w, hw: w.pooled),
    "population_counts": Quantity(
        "population_counts x ou_rows", lambda w, hw: w.extra.get("population_counts", 0.0) * hw.ou_rows
    ),
    "gathered_rows": Quantity(
        "gathered_rows x R_ideal", lambda w, hw: w.extra.get("gathered_rows", 0.0) * hw.ideal_bits
    ),
    **{name: _extra(name) for name in EXTRA_NAMES if name not in ("population_counts", "gathered_rows")},
}


# ---- events of parts that only some machines have -----------------------------------------------
def dynamic_precision_events(network: Graph) -> dict[str, np.ndarray]:
    """Events of one image in the dynamic-precision units (system.md §6), float64 (stages,), 0 where they are off.

    leading_one_inputs : activations that pass a unit, windows x K; the maximum of a group is found from them.
    dynamic_precision_inputs : those of layers whose unit can drop low bits, which takes the sums, too.
    dynamic_precision_groups : decisions how many low bits to drop, one for every group of every window of such a layer.

    With tau_sq = 0 or l_max = 0 no low bit is ever dropped: the leading one of the maximum is all that such a layer
    needs.
    """
    maxima, inputs, decisions = [], [], []
    for stage in stages(network):
        on = [layer for layer in stage.layers if layer.dynamic is not None]
        lossy = [x for x in on if x.dynamic is not None and x.dynamic.tau_sq > 0 and x.dynamic.l_max > 0]
        maxima.append(sum(layer.windows * layer.k for layer in on))
        inputs.append(sum(layer.windows * layer.k for layer in lossy))
        decisions.append(sum(layer.windows * timing.groups(network.hardware, layer.k) for layer in lossy))
    return {
        "leading_one_inputs": np.array(maxima, dtype=np.float64),
        "dynamic_precision_inputs": np.array(inputs, dtype=np.float64),
        "dynamic_precision_groups": np.array(decisions, dtype=np.float64),
    }


def window_register_events(network: Graph, *, own_input_bits: bool = True) -> dict[str, np.ndarray]:
    """Events of one image in the window registers of a machine with window reuse, float64 (stages,).

    window_register_bits : bits that move inside, the input bits of all values that a window keeps.
    own_input_bits : as for `Machine`.
    """
    hardware = network.hardware
    kept = [
        sum(
            int((layer.k - values_read(layer, "window")).sum())
            * (layer.input_bits if own_input_bits else hardware.input_bits)
            for layer in stage.layers
        )
        for stage in stages(network)
    ]
    return {"window_register_bits": np.array(kept, dtype=np.float64)}


# ---- traffic ------------------------------------------------------------------------------------
def _stage_work(machine: Machine, index: int, stage: Stage) -> Work:
    hardware, reads = machine.network.hardware, machine.reads

    def wide(bits: int) -> int:
        return bits if machine.own_input_bits else hardware.input_bits

    buffer = width = outputs = 0
    residual = wide(stage.residual_bits) if stage.residual_bits else 0
    for layer in stage.layers:
        values = layer.outputs * layer.out_height * layer.out_width
        loaded = int(values_read(layer, machine.keeps).sum()) if reads is None else 0
        read = loaded * wide(layer.input_bits) + values * residual
        buffer += read + values * (hardware.accumulator_bits if layer.last else wide(layer.output_bits))
        width += layer.windows * layer.segments(hardware) * layer.block_cols(hardware) * WIDTH_BITS
        outputs += layer.windows * layer.outputs
    if reads is not None:
        buffer += float(reads.activation_bits[index])
        width = float(reads.width_entries[index]) * WIDTH_BITS
    return Work(
        stage.name,
        dict(zip(COUNTER_NAMES, machine.events[index].tolist(), strict=True)),
        {name: float(values[index]) for name, values in machine.extra.items()},
        buffer_bits=float(buffer),
        width_table_bits=float(width) if machine.width_table else 0.0,
        outputs=float(outputs),
        looked_up=float(outputs) if stage.looks_up else 0.0,
        window_streams=reads is not None and reads.window_streams,
    )


def _node_work(node: Node, inputs: list[Node], hardware: HardwareConfig, own_input_bits: bool) -> Work | None:
    """Work of a node between crossbar nodes; None if it moves nothing (Reshape, the image) or is the host's."""

    def wide(one: Node) -> int:
        return one.encoding.bits if own_input_bits else hardware.input_bits

    values = int(np.prod(node.shape))
    written = values * wide(node)
    if isinstance(node, MaxPool | AveragePool):
        taps = values * node.window.kernel[0] * node.window.kernel[1]
        sums = isinstance(node, AveragePool) and node.sums
        written = values * hardware.accumulator_bits if sums else written
        rescaled = 0 if sums or isinstance(node, MaxPool) else values
        return Work(
            node.name,
            buffer_bits=float(taps * wide(inputs[0]) + written),
            outputs=float(rescaled),
            pooled=float(taps),
        )
    if isinstance(node, Concat):
        # An input that has the scale already is written in place by its producer.
        moved = [x for x, rescale in zip(inputs, node.rescales, strict=True) if rescale is not None]
        sizes = [int(np.prod(x.shape)) for x in moved]
        read = sum(size * wide(x) for size, x in zip(sizes, moved, strict=True))
        return Work(node.name, buffer_bits=float(read + sum(sizes) * wide(node)), outputs=float(sum(sizes)))
    if isinstance(node, Add):
        read = sum(int(np.prod(x.shape)) * wide(x) for x in inputs)
        looked_up = 0.0 if node.lookup is None else float(values)
        return Work(node.name, buffer_bits=float(read + written), outputs=float(values), looked_up=looked_up)
    if isinstance(node, Border):
        above, below, left, right = node.border
        kept = inputs[0].shape[0] * (node.shape[1] - above - below) * (node.shape[2] - left - right)
        return Work(node.name, buffer_bits=float(kept * wide(inputs[0]) + written))
    return None


def works(machine: Machine) -> tuple[Work, ...]:
    """Work of every stage, then of the graph's nodes between them that move data."""
    network = machine.network
    made = [_stage_work(machine, i, stage) for i, stage in enumerate(stages(network))]
    nodes = {node.name: node for node in network.nodes}
    for node in network.nodes:
        if not isinstance(node, Crossbar):
            work = _node_work(node, [nodes[name] for name in node.inputs], network.hardware, machine.own_input_bits)
            made += [] if work is None else [work]
    return tuple(made)
