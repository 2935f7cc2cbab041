"""Energy from counted events (system.md §11); the front door of the cost model.

Energy of a layer = sum over the rows of a `ComponentTable` of (number of events x energy per event).
Nothing is estimated: the number of events comes from the golden model's or the RTL's counters, or,
for baselines, from the geometry of the network or from its real weights and activations.

    network = golden_model.image.image.read(directory).network  # or a golden_model.graph.network.Graph
    ours = energy(events, network)                          # events of one image, per layer
    baseline = energy(baseline_events(network), network, width_table=False, own_input_bits=False)
    print(baseline.total_pj / ours.total_pj)
    print("\\n".join(ours.trace()))                         # every figure: events x row, with its source

work.py counts, components.py reads the tables, baselines.py has the machines to compare with, chip.py places, counts
area and balances pipelines, machines.py lists machines side by side. `python -m golden_model.cost NETWORK` prints that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golden_model.cost.baselines import (
    BASELINE_PLANES,
    baseline_events,
    block_width_events,
    layer_wise_events,
    uniform_events,
)
from golden_model.cost.components import (
    DEFAULT_TABLE,
    AreaComponent,
    Component,
    ComponentTable,
    load_table,
    table_names,
)
from golden_model.cost.work import EXTRA_NAMES, QUANTITIES, WIDTH_ENTRY_BITS, Extra, per_image, works
from golden_model.events import Events
from golden_model.graph.network import Graph

__all__ = [
    "BASELINE_PLANES",
    "DEFAULT_TABLE",
    "EXTRA_NAMES",
    "QUANTITIES",
    "WIDTH_ENTRY_BITS",
    "AreaComponent",
    "Component",
    "ComponentTable",
    "EnergyReport",
    "baseline_events",
    "block_width_events",
    "energy",
    "layer_wise_events",
    "load_table",
    "per_image",
    "table_names",
    "uniform_events",
]


@dataclass(frozen=True, eq=False)
class EnergyReport:
    """Energy of one image in picojoules: `counts[layer, row]` events times `table.components[row].energy_pj`.

    layers : rows of the network's events, then nodes of a graph between them that move data.
    """

    table: ComponentTable
    layers: tuple[str, ...]
    counts: np.ndarray

    @property
    def picojoules(self) -> np.ndarray:
        """(layers, rows) float64."""
        return self.counts * np.array([c.energy_pj for c in self.table.components])

    @property
    def by_layer(self) -> np.ndarray:
        return self.picojoules.sum(axis=1)

    @property
    def by_group(self) -> dict[str, float]:
        """Picojoules of each component group, in table order."""
        groups: dict[str, float] = {}
        for component, value in zip(self.table.components, self.picojoules.sum(axis=0), strict=True):
            groups[component.group] = groups.get(component.group, 0.0) + float(value)
        return groups

    @property
    def total_pj(self) -> float:
        return float(self.picojoules.sum())

    def share(self, group: str) -> float:
        """Part of the total that `group` takes, 0..1; 0 when nothing is spent."""
        return self.by_group[group] / self.total_pj if self.total_pj else 0.0

    def trace_rows(self) -> list[dict[str, object]]:
        """Every product behind the total: layer, row, events, energy per event, energy, formula, source."""
        picojoules = self.picojoules
        return [
            {
                "layer": layer,
                "component": component.name,
                "events": float(self.counts[i, j]),
                "formula": QUANTITIES[component.quantity].formula,
                "energy_pj": component.energy_pj,
                "picojoules": float(picojoules[i, j]),
                "source": component.source,
            }
            for i, layer in enumerate(self.layers)
            for j, component in enumerate(self.table.components)
        ]

    def trace(self) -> list[str]:
        """`trace_rows` as lines of text, with the total last."""
        lines = [
            f"{row['layer']:<12} {row['component']:<18} {row['events']:>16,.1f} x {row['energy_pj']:<9.6g} pJ "
            f"= {row['picojoules']:>16,.1f} pJ   [{row['formula']}]"
            for row in self.trace_rows()
        ]
        return [*lines, f"{'total':<12} {self.table.name:<18} {'':>16}   {'':<9}    = {self.total_pj:>16,.1f} pJ"]


def energy(
    events: Events | np.ndarray,
    network: Graph,
    table: ComponentTable | str | Path | None = None,
    *,
    width_table: bool = True,
    window_reuse: bool = False,
    own_input_bits: bool = True,
    extra: Extra | None = None,
) -> EnergyReport:
    """Energy of one image, per layer and component.

    Parameters
    ----------
    events : events of one image, leading shape (layers,), or of several, (images, layers), of which the
        mean is taken; `Events` or its array of counters. A graph has one row per crossbar node.
    table : a component table, its name or file; `DEFAULT_TABLE` if None.
    width_table : False for a machine that has no block widths to read, such as the baseline.
    window_reuse : True for a machine that reads only the new values of a window; `machines.with_window_reuse` adds
        what else it takes.
    own_input_bits : False for a machine that streams and stores `hardware.input_bits` of every activation, such as the
        baseline; otherwise activations are as wide as the network has them.
    extra : events of parts that only some machines have, by name of `EXTRA_NAMES`: (layers,), mean of one image.

    Raises ValueError for events of another shape or below 0, unknown extras, and extras that the table has no
    row for.
    """
    rows = load_table(table)
    known = {c.quantity for c in rows.components}
    for name, values in (extra or {}).items():
        if name in EXTRA_NAMES and name not in known and np.any(values):
            raise ValueError(f"energy table {rows.name}: it has no row for the quantity {name}")
    done = works(
        events,
        network,
        width_table=width_table,
        window_reuse=window_reuse,
        own_input_bits=own_input_bits,
        extra=extra,
    )
    counts = np.array(
        [[QUANTITIES[c.quantity].count(work, network.hardware) for c in rows.components] for work in done]
    )
    return EnergyReport(rows, tuple(work.name for work in done), counts)
