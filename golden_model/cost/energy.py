"""Energy from counted events (system.md §11); the front door of the cost model.

Energy of a layer = sum over the rows of a `ComponentTable` of (number of events x energy per event).
Nothing is estimated: the number of events comes from the golden model's or the RTL's counters, or,
for baselines, from the geometry of the network or from its real weights and activations.

    network = golden_model.image.image.read(directory).network  # or a golden_model.graph.network.Graph
    ours = energy(Machine(network, events))                 # events of one image, per layer
    print(energy(machines.baseline(network)).total_pj / ours.total_pj)
    print("\\n".join(ours.trace()))                         # every figure: events x row, with its source

work.py says what a machine is and counts what it does, components.py reads the tables, baselines.py has the machines to
compare with, chip.py places, counts area and balances pipelines, machines.py lists machines side by side.
`python -m golden_model.cost NETWORK` prints that.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from golden_model.cost.components import ComponentTable, Report, load_table
from golden_model.cost.work import QUANTITIES, Machine, works


class EnergyReport(Report):
    """Energy of one image in picojoules: `counts[layer, row]` events times `table.components[row].energy_pj`.

    parts : rows of the network's events, then nodes of a graph between them that move data.
    """

    ROWS, PART, COUNT, EACH, PRODUCT, UNIT = "components", "layer", "events", "energy_pj", "picojoules", "pJ"
    FORMULAS: ClassVar = {name: quantity.formula for name, quantity in QUANTITIES.items()}

    @property
    def picojoules(self) -> np.ndarray:
        """(layers, rows) float64."""
        return self.products

    @property
    def by_layer(self) -> np.ndarray:
        return self.products.sum(axis=1)

    @property
    def total_pj(self) -> float:
        return self.total

    def share(self, group: str) -> float:
        """Part of the total that `group` takes, 0..1; 0 when nothing is spent."""
        return self.by_group[group] / self.total if self.total else 0.0


def energy(machine: Machine, table: ComponentTable | str | Path | None = None) -> EnergyReport:
    """Energy of one image on a machine, per layer and component.

    table : a component table, its name or file; `DEFAULT_TABLE` if None. ValueError for extra events that it has no
    row for.
    """
    rows = load_table(table)
    known = {c.quantity for c in rows.components}
    for name, values in machine.extra.items():
        if name not in known and np.any(values):
            raise ValueError(f"energy table {rows.name}: it has no row for the quantity {name}")
    done, hardware = works(machine), machine.network.hardware
    counts = np.array([[QUANTITIES[c.quantity].count(work, hardware) for c in rows.components] for work in done])
    return EnergyReport(rows, tuple(work.name for work in done), counts)
