"""The machine as a whole, for the report: what it computes a second and a joule, its floor plan, area and rivals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from golden_model.cost.chip import chip
from golden_model.cost.components import ComponentTable
from golden_model.cost.energy import EnergyReport, energy
from golden_model.cost.machines import geometry_machines
from golden_model.cost.work import Machine
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from golden_model.image.program import Program
from golden_model.registers import StepKind


def macs(network: Graph) -> int:
    """Multiplications with a weight for one picture: K x N of every window, whatever a machine skips of them."""
    return sum(layer.windows * layer.k * layer.outputs for layer in network.layers)


def speed(network: Graph, cycles: float, picojoules: float, clock_mhz: float) -> dict[str, float]:
    """Time and efficiency of one picture at a clock; an operation is a multiplication or an addition, two a MAC.

    tops_per_watt : operations a picojoule, which is the same as 10^12 operations a second for every watt.
    """
    operations = 2 * macs(network)
    pictures = clock_mhz * 1e6 / cycles
    return {
        "macs": operations // 2,
        "milliseconds": cycles / clock_mhz / 1000,
        "pictures_per_second": pictures,
        "tops": operations * pictures / 1e12,
        "tops_per_watt": operations / picojoules if picojoules else 0.0,
    }


def area(machine: Machine, table: ComponentTable) -> dict[str, Any] | None:
    """Square millimetres of a chip that holds the network, in all and by group; None for a table without areas."""
    if not table.areas:
        return None
    placed = chip(machine)
    found = placed.area(table)
    return {
        "mm2": found.total_mm2,
        "mm2_by_group": found.mm2_by_group,
        "macros": placed.macros,
        "tiles": placed.tiles,
        "pairs": placed.pairs,
    }


def floor(program: Program) -> dict[str, Any]:
    """What every place for an operation unit (OU) holds.

    {"nodes": names, "pairs": [{"places": (OU rows, OU columns) indices of nodes, -1 for an empty place, "ous"}]}
    """
    hardware = program.hardware
    steps = [step for step in program.steps if step.kind == StepKind.CROSSBAR]
    nodes = list(dict.fromkeys(step.node for step in steps))
    places = np.full((program.placement.pairs, hardware.grid_rows, hardware.grid_cols), -1, dtype=np.int64)
    for step, placed in zip(steps, program.placement.layers, strict=True):
        places[placed.pair, placed.ou_row, placed.ou_col] = nodes.index(step.node)
    return {
        "nodes": nodes,
        "pairs": [{"places": one.tolist(), "ous": int((one >= 0).sum())} for one in places],
        "places_of_a_pair": hardware.ous_per_crossbar,
    }


def rivals(
    network: Graph, images: np.ndarray, ladder: Sequence[Machine], table: ComponentTable, elsewhere: float
) -> list[dict[str, Any]]:
    """The baseline, other machines on the same network and pictures, and this one.

    ladder : from `collect.machines`; this machine is the last. elsewhere : clocks of steps without
    crossbars, the same for every machine.
    """
    plain = network
    if network.hardware.pairs:  # the others convert every bit line
        plain = with_settings(network, hardware=network.hardware.of_planes)
    ours = replace(ladder[-1], name="this machine", note="; ".join(one.name.lstrip("+ ") for one in ladder[1:]))
    return [rival(one, energy(one, table), table, elsewhere) for one in [*geometry_machines(plain, images), ours]]


def rival(machine: Machine, report: EnergyReport, table: ComponentTable, elsewhere: float) -> dict[str, Any]:
    """One machine as a row."""
    found = area(machine, table)
    return {
        "name": machine.name,
        "note": machine.note,
        "ou_activations": machine.total("ou_activations"),
        "ad_operations": machine.total("ad_operations"),
        "cycles": machine.clocks + elsewhere,
        "energy_pj": report.total_pj,
        "mm2": None if found is None else found["mm2"],
    }


#: For every rung of `collect.machines`, the stages of accuracy that belong to it, the first that is known counts.
_MEASURED_WITH = (
    ("ISAAC-like baseline", ("eight_bit", "quantised")),
    ("stored planes only", ("integer", "quantised")),
    ("+ twin-range converter", ("trq",)),
    ("+ own converter", ("trq",)),
    ("+ dynamic precision, lossy part", ("redy",)),
    ("pair machine", ("redy", "trq")),
)


def accuracy_of_machines(names: Sequence[str], found: dict[str, float], *, exact: bool) -> list[float | None]:
    """Accuracy with which each machine works, None if that is unknown.

    A rung that loses nothing keeps that of the one before. exact : whether that is so of all beyond the stored planes.
    """
    made: list[float | None] = []
    for index, name in enumerate(names):
        keys = next((keys for start, keys in _MEASURED_WITH if name.startswith(start)), ())
        known = [found[key] for key in keys if key in found]
        keeps = index > 1 and (exact or not keys)
        made.append(known[0] if known else made[-1] if keeps else None)
    return made
