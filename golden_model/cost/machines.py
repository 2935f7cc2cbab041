"""Machines side by side on one network: events, energy, clocks, area, and ratios to the baseline (system.md §11).

A `Machine` is a name, a network (for its geometry and hardware), counted events of one image and what the machine has
beside: width table, metadata, extra events. `compare` makes a `Row` of each; the first machine is the baseline.

    machines = geometry_machines(graph, images)                    # baselines and block widths
    machines.append(counted("everything", graph, images))          # the graph with its own settings
    for row in compare(machines, "isaac-32nm"):
        print(row.machine.name, row.energy.total_pj, row.speed, row.saving)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from golden_model import timing
from golden_model.cost import baselines
from golden_model.cost import gathered as gathering
from golden_model.cost.baselines import Widths
from golden_model.cost.chip import AreaReport, Chip, ChipShape, chip
from golden_model.cost.components import ComponentTable, load_table
from golden_model.cost.energy import EnergyReport, energy
from golden_model.cost.window_reuse import fixed_cycles
from golden_model.cost.work import StagePlacement, dynamic_precision_events, per_image, stages, window_register_events
from golden_model.engines.run_network import GraphRunner, Progress
from golden_model.events import Events
from golden_model.graph.network import Graph
from golden_model.graph.settings import on_machine
from golden_model.registers import COUNTER_NAMES
from golden_model.searches import choose as searches
from golden_model.trq import AdcRegisters


@dataclass(frozen=True, eq=False)
class Machine:
    """One machine on one network.

    network : for geometry and hardware. events : mean of one image, (stages, counters) float64.
    widths : planes that it stores, as for `baselines.uniform_events`; None takes those of the layers.
    width_table : whether it reads a width per block. extra : event name -> (stages,), as for `cost.energy`.
    metadata_bits : bits that it stores for that, (stages,) or None. held_bound_bits : of registers that hold column
    bounds, (stages,) or None. placements : of every stage, if they do not
    follow from the widths. window_reuse : whether it reads only the new values of a window, see `with_window_reuse`.
    own_input_bits : False if it streams and stores `hardware.input_bits` of every activation, as the baseline does.
    note : one line that says what it is.
    """

    name: str
    network: Graph
    events: np.ndarray
    widths: Widths | None = None
    width_table: bool = True
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    metadata_bits: np.ndarray | None = None
    held_bound_bits: np.ndarray | None = None
    placements: Sequence[StagePlacement] | None = None
    window_reuse: bool = False
    own_input_bits: bool = True
    note: str = ""

    def total(self, counter: str) -> float:
        """A counter summed over the network."""
        return float(self.events[:, COUNTER_NAMES.index(counter)].sum())

    def with_cycles(self, cycles: np.ndarray) -> Machine:
        """The same machine with other clocks, (stages,)."""
        events = self.events.copy()
        events[:, COUNTER_NAMES.index("cycles")] = cycles
        return replace(self, events=events)

    @property
    def conversions(self) -> float:
        return self.total("conversions_r1") + self.total("conversions_r2")

    @property
    def clocks(self) -> float:
        """Clocks of one image on one macro, lanes in lock step (system.md §5)."""
        return self.total("cycles") + timing.c_start(self.network.hardware)


@dataclass(frozen=True, eq=False)
class Row:
    """A machine with its figures; speed, saving and fewer_ous are ratios to the baseline, above 1 is better."""

    machine: Machine
    energy: EnergyReport
    chip: Chip
    area: AreaReport | None
    speed: float
    saving: float
    fewer_ous: float
    pipeline: Chip | None = None

    def as_dict(self, *, layers: bool = False) -> dict[str, Any]:
        """Everything JSON-able; `layers` adds the events and picojoules of every layer."""
        machine = self.machine
        made: dict[str, Any] = {
            "machine": machine.name,
            "note": machine.note,
            "ou_activations": machine.total("ou_activations"),
            "conversions": machine.conversions,
            "ad_operations": machine.total("ad_operations"),
            "clocks": machine.clocks,
            "picojoules": self.energy.total_pj,
            "picojoules_by_group": self.energy.by_group,
            "speed": self.speed,
            "energy_saving": self.saving,
            "fewer_ou_activations": self.fewer_ous,
            "extra": {name: float(np.sum(values)) for name, values in machine.extra.items()},
            "chip": chip_dict(self.chip, self.area),
        }
        if self.pipeline is not None:
            area = None if self.area is None else self.pipeline.area(self.area.table)
            made["pipeline"] = chip_dict(self.pipeline, area)
        if layers:
            made["layers"] = [
                {
                    "layer": name,
                    "picojoules": float(self.energy.by_layer[i]),
                    **dict(zip(COUNTER_NAMES, machine.events[i].tolist(), strict=True)),
                    "extra": {extra: float(values[i]) for extra, values in machine.extra.items()},
                }
                for i, name in enumerate(self.energy.layers[: len(machine.events)])
            ]
        return made


def chip_dict(placed: Chip, area: AreaReport | None) -> dict[str, Any]:
    """A chip, JSON-able."""
    return {
        "pairs": placed.pairs,
        "macros": placed.macros,
        "tiles": placed.tiles,
        "ou_utilisation": placed.ou_utilisation,
        "cell_utilisation": placed.cell_utilisation,
        "latency_clocks": placed.latency_clocks,
        "interval_clocks": placed.interval_clocks,
        "busy": placed.utilisation,
        "mm2": None if area is None else area.total_mm2,
        "mm2_by_group": None if area is None else area.by_group,
        "copies": {stage.name: stage.copies for stage in placed.stages},
        "pairs_by_layer": {stage.name: stage.placement.pairs for stage in placed.stages},
    }


def compare(
    machines: Sequence[Machine],
    table: ComponentTable | str | Path | None = None,
    *,
    shape: ChipShape | None = None,
    budget: int | None = None,
) -> list[Row]:
    """Rows of all machines under one component table; ratios are to the first.

    budget : crossbar pairs for copies of slow layers (`Chip.balanced`); a machine that does not fit gets no pipeline.

    Raises ValueError for no machine, and as `cost.energy`.
    """
    if not machines:
        raise ValueError("compare: there is no machine")
    rows_table = load_table(table)
    rows: list[Row] = []
    for machine in machines:
        report = energy(
            machine.events,
            machine.network,
            rows_table,
            width_table=machine.width_table,
            window_reuse=machine.window_reuse,
            own_input_bits=machine.own_input_bits,
            extra=machine.extra,
        )
        placed = chip(
            machine.events,
            machine.network,
            widths=machine.widths,
            shape=shape,
            width_table=machine.width_table,
            metadata_bits=machine.metadata_bits,
            held_bound_bits=machine.held_bound_bits,
            placements=machine.placements,
            window_reuse=machine.window_reuse,
        )
        first = rows[0] if rows else None
        base, base_pj = (machine, report.total_pj) if first is None else (first.machine, first.energy.total_pj)
        rows.append(
            Row(
                machine,
                report,
                placed,
                placed.area(rows_table) if rows_table.areas else None,
                _ratio(base.clocks, machine.clocks),
                _ratio(base_pj, report.total_pj),
                _ratio(base.total("ou_activations"), machine.total("ou_activations")),
                _balanced(placed, budget),
            )
        )
    return rows


def _balanced(placed: Chip, budget: int | None) -> Chip | None:
    if budget is None or budget < placed.macros * placed.shape.pairs_per_macro:
        return None
    return placed.balanced(budget)


def _ratio(reference: float, value: float) -> float:
    return reference / value if value else float("inf")


# ---- the machines -------------------------------------------------------------------------------
def baseline(network: Graph, planes: int | None = None) -> Machine:
    """The one baseline: ISAAC-like under the OU limit, 7 magnitude planes unless said otherwise."""
    count = baselines.baseline_planes(network.hardware) if planes is None else planes
    return Machine(
        f"ISAAC-like, {count} planes",
        network,
        baselines.baseline_events(network, count).counts.astype(np.float64),
        widths=count,
        width_table=False,
        own_input_bits=False,
        note="every OU of every plane, polarity and input bit, uniform conversion, nothing skipped",
    )


def idealised(network: Graph) -> Machine:
    """The baseline's planes on a machine with 128 rows on at once and 8-bit converters; for reference only."""
    moved = on_machine(network, baselines.idealised(network.hardware))
    count = baselines.baseline_planes(moved.hardware)
    rows, bits = moved.hardware.ou_rows, moved.hardware.adc_bits
    return Machine(
        f"idealised, {rows} rows at once",
        moved,
        baselines.uniform_events(moved, count, bits).counts.astype(np.float64),
        widths=count,
        width_table=False,
        own_input_bits=False,
        note=f"real arrays cannot: {rows} rows on at once, {bits} operations per conversion",
    )


def sparse(network: Graph, images: np.ndarray, *, threads: int | None = 1, progress: Progress | None = None) -> Machine:
    """The SRE-like machine on these images: gathered.py by single rows, conversion as in the baseline."""
    exact = on_machine(network, replace(network.hardware, adc_bits=network.hardware.ideal_bits))
    uniform = searches.uniform([node.name for node in exact.crossbars], exact.hardware)
    notes = {"SRE-like": "rows of zero weights dropped, zero inputs skipped"}
    return gathered(exact, images, {"SRE-like": uniform}, by="rows", notes=notes, threads=threads, progress=progress)[0]


def layer_wise(network: Graph, *, own_input_bits: bool = False) -> Machine:
    """One width per layer; for networks trained layer by layer."""
    return Machine(
        "width per layer",
        network,
        baselines.layer_wise_events(network, own_input_bits=own_input_bits).counts.astype(np.float64),
        widths=baselines.layer_wise_widths(network),
        width_table=False,
        own_input_bits=own_input_bits,
        note="every block as wide as the widest of its layer",
    )


def block_widths(network: Graph, *, own_input_bits: bool = False) -> Machine:
    """A width per block, otherwise as the baseline: BWQ alone."""
    return Machine(
        "width per block (BWQ)",
        network,
        baselines.block_width_events(network, own_input_bits=own_input_bits).counts.astype(np.float64),
        own_input_bits=own_input_bits,
        note="missing planes are skipped",
    )


def counted(
    name: str,
    network: Graph,
    source: Events | np.ndarray,
    *,
    extra: Mapping[str, np.ndarray] | None = None,
    metadata_bits: np.ndarray | None = None,
    held: bool = False,
    note: str = "",
    threads: int | None = 1,
    progress: Progress | None = None,
) -> Machine:
    """A machine from counted events: converters, dynamic precision and skipping as the network has them set.

    source : uint8 images (B, C, H, W) to run, or events that someone counted ((images,) stages, counters). extra :
    events of parts that the counters do not have, (stages,), mean of one image; those of the dynamic-precision unit
    and of the searches' knowledge (`searches.metadata_events`; not from means, which are not integers) are added here.
    metadata_bits : bits stored for them, (stages,); None takes `searches.stored_bits`. held : column bounds are read
    once per window into registers, as for `searches.metadata_events`.
    """
    array = source.counts if isinstance(source, Events) else np.asarray(source)
    if array.ndim == 4:
        array = GraphRunner(network, threads=threads).run(array, progress=progress)[1].counts
    mean = per_image(array, network)
    known: dict[str, np.ndarray] = {}
    if array.dtype.kind in "iu":
        counts = searches.metadata_events(network, Events(array), held=held)
        known = {name: np.asarray(v).reshape(-1, len(mean)).mean(axis=0) for name, v in counts.items()}
    known |= dynamic_precision_events(network)
    more = {name: values for name, values in known.items() if values.any()} | dict(extra or {})
    if metadata_bits is None:
        stored = searches.stored_bits(network)
        metadata_bits = stored["column_bounds"] + stored["trees"]
    registers = searches.held_register_bits(network) if held else None
    return Machine(name, network, mean, extra=more, metadata_bits=metadata_bits, held_bound_bits=registers, note=note)


def gathered(
    network: Graph,
    images: np.ndarray,
    settings: Mapping[str, Mapping[str, AdcRegisters]],
    *,
    by: gathering.By = "blocks",
    decoupled: Collection[str] = (),
    notes: Mapping[str, str] | None = None,
    threads: int | None = 1,
    progress: Progress | None = None,
) -> list[Machine]:
    """Active word lines gathered below block widths, one machine for each of several searches; see gathered.py.

    settings : name of the machine -> lossless registers by layer. by : "rows" is the SRE-like machine with these
    searches. decoupled : names of machines that are followed by the same with decoupled lanes. notes : by name.
    """
    found = gathering.measure(network, images, settings, by=by, threads=threads, progress=progress)
    unit = {name: values for name, values in dynamic_precision_events(network).items() if values.any()}
    made = []
    for name, one in found.items():
        made.append(
            Machine(
                name,
                network,
                one.events,
                width_table=by == "blocks",
                extra=one.extra | unit,
                metadata_bits=one.metadata_bits,
                placements=one.placements,
                note=(notes or {}).get(name, ""),
            )
        )
        if name in decoupled:
            free = made[-1].with_cycles(one.decoupled_cycles)
            note = "lanes meet at the end of an input bit of a pack"
            made.append(replace(free, name=f"{name}, lanes decoupled", note=note))
    return made


def with_window_reuse(machine: Machine) -> Machine:
    """The same machine with a window register that keeps what the next window needs again (window_reuse.py).

    Fewer values are read from the activation buffer, loading a window takes fewer clocks, and bits move inside the
    register. ValueError if it has window reuse already.
    """
    if machine.window_reuse:
        raise ValueError(f"{machine.name}: it has window reuse already")
    hardware = machine.network.hardware
    change = [
        sum(fixed_cycles(layer, hardware, True) - fixed_cycles(layer, hardware) for layer in stage.layers)
        for stage in stages(machine.network)
    ]
    return replace(
        machine.with_cycles(machine.events[:, COUNTER_NAMES.index("cycles")] + change),
        name=f"{machine.name}, window reuse",
        extra={**machine.extra, **window_register_events(machine.network, own_input_bits=machine.own_input_bits)},
        window_reuse=True,
        note=(f"{machine.note}; " if machine.note else "") + "windows keep what they share with the one before",
    )


def geometry_machines(
    network: Graph,
    images: np.ndarray | None = None,
    *,
    layer_network: Graph | None = None,
    threads: int | None = 1,
    progress: Progress | None = None,
) -> list[Machine]:
    """The baseline first, then all machines that need only geometry, weights and activations.

    images : for the SRE-like machine, which is left out without them; uint8 (B, C, H, W).
    layer_network : the network trained layer by layer, for the machine with one width per layer; the same network
        otherwise.
    """
    hardware = network.hardware
    made = [baseline(network)]
    if hardware.weight_bits > baselines.baseline_planes(hardware):
        made.append(baseline(network, hardware.weight_bits))
    if hardware.rows > hardware.ou_rows:
        made.append(idealised(network))
    narrow = any(layer.input_bits < hardware.input_bits for layer in network.layers)
    if images is not None and len(images):
        made.append(sparse(network, images, threads=threads, progress=progress))
    made.append(layer_wise(network if layer_network is None else layer_network))
    made.append(block_widths(network))
    if narrow:
        made.append(replace(block_widths(network, own_input_bits=True), name="+ activation widths"))
    return made
