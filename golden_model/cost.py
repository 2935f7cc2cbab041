"""Energy from counted events, beside an ISAAC-like machine under the same OU limit (system.md §11).

Energy of a layer = sum over the rows of an `EnergyTable` of (number of events x energy per event).
Nothing is estimated: the number of events comes from the golden model's or the RTL's counters, or,
for the baseline, from the geometry of the network, where every OU of every plane is converted.

    network = golden_model.image.read(directory).network
    ours = energy(events, network)                          # events of one image, per layer
    baseline = energy(baseline_events(network), network, width_table=False)
    print(baseline.total_pj / ours.total_pj)
    print("\\n".join(ours.trace()))                         # every figure: events x row, with its source
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.events import Events
from golden_model.program import Layer, Network
from golden_model.registers import COUNTER_NAMES

#: Magnitude planes of the baseline: 8-bit symmetric weights are a sign and 7 bits.
BASELINE_PLANES = 7
#: Table used when none is named.
DEFAULT_TABLE = "isaac-32nm"
#: Bits of one width-table entry (system.md §5).
WIDTH_ENTRY_BITS = 4

Counts = dict[str, float]


# ---- quantities: what a row of the table can be multiplied with ---------------------------------
@dataclass(frozen=True)
class Quantity:
    """A number of events per image and layer: `formula` says how it follows from counters and geometry."""

    formula: str
    count: Callable[[Layer, HardwareConfig, Counts], float]


def _buffer_bits(layer: Layer, hardware: HardwareConfig, events: Counts) -> float:
    read = layer.windows * layer.k * layer.input_bits
    written_bits = hardware.accumulator_bits if layer.last else layer.output_bits
    return read + layer.out_height * layer.out_width * layer.outputs * written_bits


#: Quantities that an energy table may name. Counters are those of golden_model.registers.
QUANTITIES: dict[str, Quantity] = {
    "ad_operations": Quantity("ad_operations", lambda layer, hw, e: e["ad_operations"]),
    "conversions": Quantity(
        "conversions_r1 + conversions_r2", lambda layer, hw, e: e["conversions_r1"] + e["conversions_r2"]
    ),
    "ou_activations": Quantity("ou_activations", lambda layer, hw, e: e["ou_activations"]),
    "cells": Quantity(
        "ou_activations x 2 polarities x ou_rows x ou_cols", lambda layer, hw, e: e["ou_activations"] * hw.ou_cells
    ),
    "input_register_bits": Quantity(
        "input_bits_streamed x ou_rows", lambda layer, hw, e: e["input_bits_streamed"] * hw.ou_rows
    ),
    "buffer_bits": Quantity(
        "windows x K x input bits read + results x output bits written (logits: accumulator bits)", _buffer_bits
    ),
    "width_table_bits": Quantity(
        f"windows x segments x block columns x {WIDTH_ENTRY_BITS}",
        lambda layer, hw, e: layer.windows * layer.segments(hw) * layer.block_cols(hw) * WIDTH_ENTRY_BITS,
    ),
    "outputs": Quantity("windows x N", lambda layer, hw, e: layer.windows * layer.outputs),
}


# ---- the component table ------------------------------------------------------------------------
@dataclass(frozen=True)
class Component:
    """One row: `energy_pj` picojoules for each event of `quantity`; `source` is where the figure is from.

    `derivation` is an expression in SI units whose value in joules is `energy_pj`; `why` says what one
    event stands for. `group` gathers rows in reports.
    """

    name: str
    group: str
    quantity: str
    energy_pj: float
    derivation: str
    source: str
    why: str


@dataclass(frozen=True)
class EnergyTable:
    """Energy per event of every component, from golden_model/data/NAME.toml or a file of the same form."""

    name: str
    title: str
    note: str
    components: tuple[Component, ...]

    def component(self, name: str) -> Component:
        """The row called `name`; KeyError if there is none."""
        return {c.name: c for c in self.components}[name]


def table_names() -> tuple[str, ...]:
    """Names of the tables that come with the package."""
    folder = resources.files("golden_model") / "data"
    return tuple(sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".toml")))


def load_table(table: str | Path = DEFAULT_TABLE) -> EnergyTable:
    """Read an energy table by name (see `table_names`) or from a TOML file.

    A table with `base = NAME` starts from that table; its rows replace rows of the same name and add
    new ones. Raises ValueError naming file, row and field for anything that is missing, unknown or not
    a finite energy of at least 0.
    """
    if str(table) in table_names():
        name, text = str(table), (resources.files("golden_model") / "data" / f"{table}.toml").read_text("utf-8")
    else:
        path = Path(table)
        if not path.is_file():
            raise ValueError(f"energy table {table}: no such file, and not one of {', '.join(table_names())}")
        name, text = path.stem, path.read_text("utf-8")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"energy table {table}: not TOML: {error}") from None

    rows: dict[str, Component] = {}
    if "base" in data:
        if data["base"] not in table_names() or data["base"] == name:
            raise ValueError(f"energy table {table}: base must be another of {table_names()}, got {data['base']!r}")
        rows = {c.name: c for c in load_table(data["base"]).components}
    for number, row in enumerate(data.get("component", [])):
        component = _component(f"energy table {table}, row {row.get('name', number)}", row)
        rows[component.name] = component
    if not rows:
        raise ValueError(f"energy table {table}: no [[component]] rows")
    return EnergyTable(name, str(data.get("title", name)), str(data.get("note", "")), tuple(rows.values()))


def _component(where: str, row: dict[str, object]) -> Component:
    needed = set(Component.__dataclass_fields__)
    missing, unknown = sorted(needed - set(row)), sorted(set(row) - needed)
    if missing or unknown:
        raise ValueError(f"{where}: missing fields {missing}, unknown fields {unknown}")
    value = row["energy_pj"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{where}: energy_pj must be a number of at least 0, got {value!r}")
    for field in needed - {"energy_pj"}:
        if not isinstance(row[field], str) or not str(row[field]).strip():
            raise ValueError(f"{where}: {field} must be a text, got {row[field]!r}")
    if row["quantity"] not in QUANTITIES:
        raise ValueError(f"{where}: quantity must be one of {', '.join(QUANTITIES)}, got {row['quantity']!r}")
    return Component(**row)  # pyright: ignore[reportArgumentType]


# ---- energy -------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class EnergyReport:
    """Energy of one image in picojoules: `counts[layer, row]` events times `table.components[row].energy_pj`."""

    table: EnergyTable
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
        return [
            {
                "layer": layer,
                "component": component.name,
                "events": float(self.counts[i, j]),
                "formula": QUANTITIES[component.quantity].formula,
                "energy_pj": component.energy_pj,
                "picojoules": float(self.picojoules[i, j]),
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
    network: Network,
    table: EnergyTable | str | Path | None = None,
    *,
    width_table: bool = True,
) -> EnergyReport:
    """Energy of one image, per layer and component.

    Parameters
    ----------
    events : events of one image, leading shape (layers,), or of several, (images, layers), of which the
        mean is taken; `Events` or its array of counters.
    table : an energy table, its name or file; `DEFAULT_TABLE` if None.
    width_table : False for a machine that has no block widths to read, such as the baseline.

    Raises ValueError for events of another shape or below 0.
    """
    rows = load_table(table or DEFAULT_TABLE) if not isinstance(table, EnergyTable) else table
    counters = per_image(events, network)
    counts = np.zeros((len(network.layers), len(rows.components)))
    for i, layer in enumerate(network.layers):
        named = dict(zip(COUNTER_NAMES, counters[i].tolist(), strict=True))
        for j, component in enumerate(rows.components):
            if component.quantity != "width_table_bits" or width_table:
                counts[i, j] = QUANTITIES[component.quantity].count(layer, network.hardware, named)
    return EnergyReport(rows, tuple(layer.name for layer in network.layers), counts)


def per_image(events: Events | np.ndarray, network: Network) -> np.ndarray:
    """(images, layers, counters) or (layers, counters) -> mean events of one image, (layers, counters) float64."""
    array = np.asarray(events.counts if isinstance(events, Events) else events, dtype=np.float64)
    shape = (len(network.layers), len(COUNTER_NAMES))
    received = array.shape
    if array.ndim == 3 and len(array):
        array = array.mean(axis=0)
    if array.shape != shape:
        raise ValueError(f"events must have shape {shape} or (images, {shape[0]}, {shape[1]}), got {received}")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError("events must be at least 0")
    return array


# ---- machines whose events follow from the geometry ---------------------------------------------
def uniform_events(network: Network, widths: Sequence[np.ndarray] | int, operations: int | None = None) -> Events:
    """Events of one image on a machine that skips nothing it stores, leading shape (layers,).

    Every stored plane of every block meets every one of `hardware.input_bits` input bits of every
    window; both polarities of every column < N are converted with `operations` comparator decisions
    (default: uniform conversion with R_ideal bits, system.md §4.4); lock step (system.md §5).

    widths : planes of every block, one (segments, block columns) array per layer, or one number for all.
    """
    hardware = network.hardware
    decisions = hardware.ideal_bits if operations is None else operations
    table = np.zeros((len(network.layers), len(COUNTER_NAMES)), dtype=np.int64)
    for i, layer in enumerate(network.layers):
        shape = (layer.segments(hardware), layer.block_cols(hardware))
        planes = np.full(shape, widths, dtype=np.int64) if isinstance(widths, int) else np.asarray(widths[i])
        if planes.shape != shape or (planes < 0).any() or (planes > hardware.weight_bits).any():
            raise ValueError(
                f"layer {layer.name}: block widths must be {shape} integers in 0..{hardware.weight_bits}, "
                f"got shape {planes.shape}"
            )
        columns = np.full(shape[1], hardware.ou_cols, dtype=np.int64)
        columns[-1] = layer.outputs - (shape[1] - 1) * hardware.ou_cols
        slices = layer.windows * hardware.input_bits
        activations = slices * int(planes.sum())
        conversions = slices * 2 * int((planes * columns).sum())
        clocks = planes.sum(axis=1) * hardware.input_bits * max(1, hardware.sample_interval, decisions)
        named = {
            "ou_activations": activations,
            "skipped_planes": slices * int((hardware.weight_bits - planes).sum()),
            "conversions_r2": conversions,
            "ad_operations": conversions * decisions,
            "input_bits_streamed": slices * shape[0],
            "cycles": _layer_cycles(layer, hardware, clocks),
        }
        table[i] = [named.get(name, 0) for name in COUNTER_NAMES]
    return Events(table)


def baseline_events(network: Network, planes: int | None = None) -> Events:
    """Events of one image on the ISAAC-like machine under the same OU limit (system.md §11).

    Same network, OUs, windows and lanes; every block has `planes` magnitude planes (default 7, or
    weight_bits if that is less), 8-bit activations (`hardware.input_bits`) are streamed in full, both
    polarities are converted with uniform R_ideal-bit conversion, nothing is skipped, lanes in lock step.

    Returns events of one image, leading shape (layers,).
    """
    hardware = network.hardware
    return uniform_events(network, min(BASELINE_PLANES, hardware.weight_bits) if planes is None else planes)


def block_width_events(network: Network) -> Events:
    """Events of one image with block-wise widths alone: missing planes are skipped, all else as the baseline."""
    return uniform_events(network, [layer.block_widths for layer in network.layers])


def _layer_cycles(layer: Layer, hardware: HardwareConfig, segment_clocks: np.ndarray) -> int:
    """Clocks of a layer whose windows all take `segment_clocks` (one number per segment; system.md §5)."""
    window = timing.window_cycles(hardware, layer.k, layer.outputs, segment_clocks)
    return timing.c_layer(hardware) + layer.windows * int(window)
