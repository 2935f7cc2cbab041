"""Component tables: energy per event and area per unit, one sourced row each, from TOML files (system.md §11).

A table lies in golden_model/cost/data/NAME.toml or is a file of the user:

    base = "isaac-32nm"            # optional: start from another table
    title = "..."
    note = "..."

    [[component]]                  # energy: `energy_pj` for each event of `quantity`
    name = "adc_operation"
    group = "ADC"
    quantity = "ad_operations"
    energy_pj = 0.1953
    derivation = "16e-3 / (8 * 1.28e9) / 8"     # joules
    source = "..."
    why = "..."

An [[area]] row has the same fields, with `area_um2` for each unit of `quantity` in place of `energy_pj` and a
derivation in square millimetres.

`golden_model.cost.work.QUANTITIES` lists the quantities of energies, `AREA_QUANTITIES` those of areas.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from golden_model.cost.work import QUANTITIES

#: Table used when none is named.
DEFAULT_TABLE = "isaac-32nm"

#: Units that an area row may be multiplied with, and how many of them a chip has (golden_model.cost.chip).
AREA_QUANTITIES: dict[str, str] = {
    "adc_lanes": "macros x 2 polarities x ou_cols",
    "bit_lines": "macros x pairs_per_macro x 2 polarities x cols",
    "word_lines": "macros x pairs_per_macro x 2 polarities x rows",
    "cells": "macros x pairs_per_macro x 2 polarities x rows x cols",
    "input_register_bits": "macros x K x input_bits",
    "window_register_bits": "copies x K x input_bits, for machines with window reuse",
    "output_register_bits": "macros x block columns x ou_cols x accumulator_bits",
    "width_table_bits": "copies x blocks x 4",
    "lookup_bits": "macros of layers whose activation is a table, and tiles for additions that have one,"
    " x 2**input_bits x input_bits",
    "metadata_bits": "copies x bits of column bounds, search trees and row indices",
    "held_bound_bits": "copies x 2 x OUs of the largest segment x bits of column bounds, for machines that hold them",
    "macros": "macros",
    "tiles": "tiles",
    "buffer_bits": "tiles x buffer_bytes x 8",
    "latch_bits": "macros x bits of word-line latches, two latches for each half, for machines that gather",
    "prefix_lines": "macros x halves x word lines of a pack, for machines that gather",
    "multiplexer_legs": "macros x legs of multiplexers in front of the latches, for machines that gather",
    "subtractors": "macros x converters, for machines that convert pairs",
    "mask_bits": "copies x bits of masks, or of row indices, that are held for a layer",
    "stop_word_bits": "macros x bits of the bounds, the limits and the held residuals of early stop",
    "stop_adders": "macros x halves x adders of a unit, for machines with early stop",
    "line_bits": "copies x bits of line buffers",
}


@dataclass(frozen=True, kw_only=True)
class _Row:
    """What one event or unit of `quantity` takes; `source` is where the figure is from.

    `derivation` is an expression in SI units with the figure as its value; `why` says what one event or unit stands
    for. `group` gathers rows in reports.
    """

    name: str
    group: str
    quantity: str
    derivation: str
    source: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Component(_Row):
    """One row: `energy_pj` picojoules for each event of `quantity`; `derivation` gives it in joules."""

    energy_pj: float


@dataclass(frozen=True, kw_only=True)
class AreaComponent(_Row):
    """One row: `area_um2` square micrometres for each unit of `quantity`; `derivation` gives it in mm2."""

    area_um2: float


@dataclass(frozen=True)
class ComponentTable:
    """Energy per event and area per unit of every component; `areas` may be empty."""

    name: str
    title: str
    note: str
    components: tuple[Component, ...]
    areas: tuple[AreaComponent, ...] = ()

    def component(self, name: str) -> Component:
        """The energy row called `name`; KeyError if there is none."""
        return {c.name: c for c in self.components}[name]

    def area(self, name: str) -> AreaComponent:
        """The area row called `name`; KeyError if there is none."""
        return {c.name: c for c in self.areas}[name]


@dataclass(frozen=True, eq=False)
class Report:
    """What a table's rows amount to: `counts[part, row]` events or units, times what each of them takes.

    parts : names of the layers and other parts. counts : float64 (parts, rows).
    """

    table: ComponentTable
    parts: tuple[str, ...]
    counts: np.ndarray

    #: What the table calls its rows; names of a part, a count, what each takes, and the product; the unit of those two.
    ROWS: ClassVar[str]
    PART: ClassVar[str]
    COUNT: ClassVar[str]
    EACH: ClassVar[str]
    PRODUCT: ClassVar[str]
    UNIT: ClassVar[str]
    #: How the count of a quantity follows, as text.
    FORMULAS: ClassVar[Mapping[str, str]]

    @property
    def rows(self) -> tuple[Any, ...]:
        """`Component`s or `AreaComponent`s of the table."""
        return getattr(self.table, self.ROWS)

    @property
    def products(self) -> np.ndarray:
        """(parts, rows) float64."""
        return self.counts * np.array([getattr(row, self.EACH) for row in self.rows])

    @property
    def by_group(self) -> dict[str, float]:
        """Sum of each component group, in table order."""
        groups: dict[str, float] = {}
        for row, value in zip(self.rows, self.products.sum(axis=0), strict=True):
            groups[row.group] = groups.get(row.group, 0.0) + float(value)
        return groups

    @property
    def total(self) -> float:
        return float(self.products.sum())

    def trace_rows(self) -> list[dict[str, Any]]:
        """Every product behind the total: part, component, count, formula, what each takes, product, source."""
        products = self.products
        return [
            {
                self.PART: part,
                "component": row.name,
                self.COUNT: float(self.counts[i, j]),
                "formula": self.FORMULAS[row.quantity],
                self.EACH: getattr(row, self.EACH),
                self.PRODUCT: float(products[i, j]),
                "source": row.source,
            }
            for i, part in enumerate(self.parts)
            for j, row in enumerate(self.rows)
        ]

    def trace(self) -> list[str]:
        """`trace_rows` that are not 0 as lines of text, with the total last."""
        unit = self.UNIT
        lines = [
            f"{row[self.PART]:<12} {row['component']:<18} {row[self.COUNT]:>16,.1f} x {row[self.EACH]:<9.6g} {unit} "
            f"= {row[self.PRODUCT]:>16,.1f} {unit}   [{row['formula']}]"
            for row in self.trace_rows()
            if row[self.COUNT]
        ]
        space = " " * (len(unit) + 30)
        return [*lines, f"{'total':<12} {self.table.name:<18} {space}= {self.total:>16,.1f} {unit}"]


def table_names() -> tuple[str, ...]:
    """Names of the tables that come with the package."""
    folder = resources.files("golden_model.cost") / "data"
    return tuple(sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".toml")))


def load_table(table: str | Path | ComponentTable | None = None) -> ComponentTable:
    """Read a component table by name (see `table_names`) or from a TOML file; None is `DEFAULT_TABLE`.

    A table with `base = NAME` starts from that table; its rows replace rows of the same name and add
    new ones. Raises ValueError naming file, row and field for anything that is missing, unknown or not
    a finite number of at least 0.
    """
    if isinstance(table, ComponentTable):
        return table
    table = DEFAULT_TABLE if table is None else table
    if str(table) in table_names():
        name, text = str(table), (resources.files("golden_model.cost") / "data" / f"{table}.toml").read_text("utf-8")
    else:
        path = Path(table)
        if not path.is_file():
            raise ValueError(f"energy table {table}: no such file, and not one of {', '.join(table_names())}")
        name, text = path.stem, path.read_text("utf-8")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"energy table {table}: not TOML: {error}") from None
    unknown = sorted(set(data) - {"base", "title", "note", "component", "area"})
    if unknown:
        raise ValueError(f"energy table {table}: unknown entries {unknown}")

    rows: dict[str, Component] = {}
    areas: dict[str, AreaComponent] = {}
    if "base" in data:
        if data["base"] not in table_names() or data["base"] == name:
            raise ValueError(f"energy table {table}: base must be another of {table_names()}, got {data['base']!r}")
        base = load_table(data["base"])
        rows, areas = {c.name: c for c in base.components}, {c.name: c for c in base.areas}
    rows |= _rows(table, data, "component", "row", Component, "energy_pj", tuple(QUANTITIES))
    areas |= _rows(table, data, "area", "area row", AreaComponent, "area_um2", tuple(AREA_QUANTITIES))
    if not rows:
        raise ValueError(f"energy table {table}: no [[component]] rows")
    return ComponentTable(
        name, str(data.get("title", name)), str(data.get("note", "")), tuple(rows.values()), tuple(areas.values())
    )


def _rows(
    table: str | Path,
    data: dict[str, Any],
    key: str,
    what: str,
    kind: type[Any],
    number: str,
    quantities: tuple[str, ...],
) -> dict[str, Any]:
    listed = data.get(key, [])
    if not isinstance(listed, list) or any(not isinstance(row, dict) for row in listed):
        raise ValueError(f"energy table {table}: {key} must be [[{key}]] rows")
    made: dict[str, Any] = {}
    for index, row in enumerate(listed):
        where = f"energy table {table}, {what} {row.get('name', index)}"
        needed = {field.name for field in fields(kind)}
        missing, unknown = sorted(needed - set(row)), sorted(set(row) - needed)
        if missing or unknown:
            raise ValueError(f"{where}: missing fields {missing}, unknown fields {unknown}")
        value = row[number]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(f"{where}: {number} must be a number of at least 0, got {value!r}")
        for name in sorted(needed - {number}):
            if not isinstance(row[name], str) or not row[name].strip():
                raise ValueError(f"{where}: {name} must be a text, got {row[name]!r}")
        if row["quantity"] not in quantities:
            raise ValueError(f"{where}: quantity must be one of {', '.join(quantities)}, got {row['quantity']!r}")
        if row["name"] in made:
            raise ValueError(f"{where}: there are two rows of this name")
        made[row["name"]] = kind(**row)
    return made
