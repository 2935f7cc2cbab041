"""Machines side by side on one network: events, energy, clocks, area, and ratios to the baseline (system.md §11).

`compare` makes a `Row` of each `Machine` (work.py); the first machine is the baseline.

    machines = geometry_machines(graph, images)                    # baselines and block widths
    machines.append(counted("everything", graph, images))          # the graph with its own settings
    for row in compare(machines, "isaac-32nm"):
        print(row.machine.name, row.energy.total_pj, row.speed, row.saving)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from golden_model.cost import baselines
from golden_model.cost.chip import AreaReport, Chip, ChipShape, chip
from golden_model.cost.components import ComponentTable, load_table
from golden_model.cost.energy import EnergyReport, energy
from golden_model.cost.work import (
    Machine,
    StagePlacement,
    Widths,
    dynamic_precision_events,
    per_image,
    stages,
    window_register_events,
)
from golden_model.engines.pair_switches import Measured, Switches, measure
from golden_model.engines.run_network import GraphRunner, Progress
from golden_model.events import Events
from golden_model.graph.network import Graph
from golden_model.graph.settings import on_machine
from golden_model.pairs.packs import By
from golden_model.pairs.plumbing import fixed_cycles
from golden_model.pairs.search import Search, counts_search
from golden_model.registers import COUNTER_NAMES
from golden_model.searches import choose as searches
from golden_model.trq import AdcRegisters


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
                for i, name in enumerate(self.energy.parts[: len(machine.events)])
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
        "mm2_by_group": None if area is None else area.mm2_by_group,
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
        report, placed = energy(machine, rows_table), chip(machine, shape)
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
    return _uniform(
        network,
        f"ISAAC-like, {count} planes",
        "every OU of every plane, polarity and input bit, uniform conversion, nothing skipped",
        count,
    )


def _uniform(
    network: Graph, name: str, note: str, widths: Widths | None, operations: int | None = None, own_bits: bool = False
) -> Machine:
    """A machine that skips nothing it stores; `baselines.uniform_events`."""
    events = baselines.uniform_events(network, widths, operations, own_input_bits=own_bits).counts
    return Machine(network, events, name, note, widths=widths, width_table=widths is None, own_input_bits=own_bits)


def idealised(network: Graph) -> Machine:
    """The baseline's planes on a machine with 128 rows on at once and 8-bit converters; for reference only."""
    moved = on_machine(network, baselines.idealised(network.hardware))
    rows, bits = moved.hardware.ou_rows, moved.hardware.adc_bits
    note = f"real arrays cannot: {rows} rows on at once, {bits} operations per conversion"
    return _uniform(moved, f"idealised, {rows} rows at once", note, baselines.baseline_planes(moved.hardware), bits)


def sparse(network: Graph, images: np.ndarray, *, threads: int | None = 1, progress: Progress | None = None) -> Machine:
    """The SRE-like machine on these images: single rows are gathered, conversion is that of the baseline."""
    exact = on_machine(network, replace(network.hardware, adc_bits=network.hardware.ideal_bits))
    uniform = searches.uniform([node.name for node in exact.crossbars], exact.hardware)
    notes = {"SRE-like": "rows of zero weights dropped, zero inputs skipped"}
    return gathered(exact, images, {"SRE-like": uniform}, by="rows", notes=notes, threads=threads, progress=progress)[0]


def layer_wise(network: Graph, *, own_input_bits: bool = False) -> Machine:
    """One width per layer; for networks trained layer by layer."""
    widths = baselines.layer_wise_widths(network)
    note = "every block as wide as the widest of its layer"
    return _uniform(network, "width per layer", note, widths, own_bits=own_input_bits)


def block_widths(network: Graph, *, own_input_bits: bool = False) -> Machine:
    """A width per block, otherwise as the baseline: BWQ alone. own_input_bits : as for `Machine`."""
    return _uniform(network, "width per block (BWQ)", "missing planes are skipped", None, own_bits=own_input_bits)


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
    return Machine(network, mean, name, note, extra=more, metadata_bits=metadata_bits, held_bound_bits=registers)


def gathered(
    network: Graph,
    images: np.ndarray,
    settings: Mapping[str, Mapping[str, AdcRegisters]],
    *,
    by: By = "segments",
    decoupled: Collection[str] = (),
    notes: Mapping[str, str] | None = None,
    threads: int | None = 1,
    progress: Progress | None = None,
) -> list[Machine]:
    """Active word lines gathered below block widths, one machine for each of several searches (*ours*; system.md §5).

    Dynamic formation of operation units (OUs) is that of Yang et al., "Sparse ReRAM Engine" (SRE), ISCA 2019. *Ours* is
    what it is built on and what is put on top: groups follow from the block widths, no index is stored; and the number
    of rows that are on bounds a lossless search of both bit lines. It is one half of golden_model.pairs without
    anything around its conversions: windows are read in full and one after the other, for each the width table or the
    index. A prefix count over the rows of a pack picks the rows of the next OU: for every OU that is formed, and once
    more for every pack and streamed bit (`gathered_rows`).

    settings : name of the machine -> lossless registers by layer. by : "rows" is the SRE-like machine with these
    searches. decoupled : names of machines that are followed by the same with decoupled lanes. notes : by name.

    Raises ValueError as `golden_model.engines.pair_switches`, and for registers that bound columns or are not lossless.
    """
    plain: dict[str, Any] = {"keeps": "nothing", "words": False, "layer_masks": False, "double_buffered": False}
    wanted = {
        name: Switches(search=_searches(name, registers, network), by=by, split="one", **plain)
        for name, registers in settings.items()
    }
    unit = dynamic_precision_events(network)
    made = []
    for name, found in measure(network, images, wanted, threads=threads, progress=progress).items():
        streamed = found.events[:, COUNTER_NAMES.index("input_bits_streamed")] * network.hardware.ou_rows
        extra = {
            "gathered_rows": found.event("prefix_rows") + found.event("latched_bits") - streamed,
            "tree_bits_read": found.event("tree_bits_read"),
            "index_bits_read": found.event("mask_bits_written") * (by == "rows"),
            **unit,
        }
        made.append(
            Machine(
                network,
                found.events,
                name,
                (notes or {}).get(name, ""),
                width_table=by != "rows",
                extra={event: values for event, values in extra.items() if values.any()},
                metadata_bits=found.stored("trees") + found.stored("masks") * (by == "rows"),
                placements=placements(network, found),
            )
        )
        if name in decoupled:
            free = made[-1].with_cycles(found.clocks["decoupled"])
            note = "lanes meet at the end of an input bit of a pack"
            made.append(replace(free, name=f"{name}, lanes decoupled", note=note))
    return made


def _searches(machine: str, registers: Mapping[str, AdcRegisters], network: Graph) -> dict[str, Search]:
    """The search of both bit lines of every layer; ValueError if one is not lossless."""
    found = {}
    for node in network.crossbars:
        where, mine = f"{machine}, layer {node.name}", registers[node.name]
        found[node.name] = counts_search(where, mine, network.hardware)
        if not found[node.name].lossless:
            raise ValueError(f"{where}: counts 0..{network.hardware.ou_rows} must convert to themselves, got {mine}")
    return found


def placements(network: Graph, found: Measured) -> list[StagePlacement]:
    """What one copy of every stage of a measured machine occupies."""
    by_rows, hardware = found.switches.by == "rows", network.hardware
    blocks = [sum(x.segments(hardware) * x.block_cols(hardware) for x in stage.layers) for stage in stages(network)]
    return [
        StagePlacement(hardware, taken, int(cells), 0 if by_rows else count)
        for taken, cells, count in zip(found.pair_segments, found.weight_cells, blocks, strict=True)
    ]


def with_window_reuse(machine: Machine) -> Machine:
    """The same machine with a window register that keeps what the next window needs again (pairs/plumbing.py).

    Fewer values are read from the activation buffer, loading a window takes fewer clocks, and bits move inside the
    register. ValueError if it has window reuse already.
    """
    if machine.window_reuse:
        raise ValueError(f"{machine.name}: it has window reuse already")
    hardware = machine.network.hardware
    change = [
        sum(fixed_cycles(layer, hardware, "window") - fixed_cycles(layer, hardware) for layer in stage.layers)
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
