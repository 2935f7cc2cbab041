"""Machines of the comparison as tables for people; rows are those of `machines.Row.as_dict`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from golden_model.cost.components import ComponentTable
from golden_model.cost.machines import Row

Rows = Sequence[Mapping[str, Any]]


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Names of machines to the left, figures to the right."""
    table = Table("machine", title=title)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def work_table(rows: Rows, title: str, reported: Mapping[str, Any] | None = None) -> Table:
    """Work, clocks and energy of one image. reported : a paper's machine, of which only the two ratios are known."""
    columns = ("OU activations", "A/D operations", "per conversion", "clocks", "speed", "energy, nJ", "saving")
    shown = []
    if reported is not None:
        shown.append([reported["machine"], *"----", f"{reported['speed']}x", "-", f"{reported['energy_saving']}x"])
    for row in rows:
        per_conversion = f"{row['ad_operations'] / row['conversions']:.2f}" if row["conversions"] else "-"
        shown.append(
            [
                row["machine"], f"{row['ou_activations']:,.0f}", f"{row['ad_operations']:,.0f}", per_conversion,
                f"{row['clocks']:,.0f}", f"{row['speed']:.2f}x", f"{row['picojoules'] / 1000:,.1f}",
                f"{row['energy_saving']:.2f}x",
            ]
        )  # fmt: skip
    return _table(title, columns, shown)


def group_table(rows: Rows) -> Table:
    """Energy of every component group."""
    groups = list(rows[0]["picojoules_by_group"])
    shown = ([r["machine"], *(f"{r['picojoules_by_group'][g] / 1000:,.1f}" for g in groups)] for r in rows)
    return _table("energy by group, nJ", groups, shown)


def chip_table(rows: Rows, pairs: int | None = None) -> Table:
    """Every machine with one copy of each layer; with a budget also with copies of slow layers, where they fit."""
    title = "on a chip, every layer on its own macros"
    title += "" if pairs is None else f"; balanced: slow layers copied, up to {pairs} crossbar pairs"
    columns = ("pairs", "OUs used", "cells used", "tiles", "mm2", "latency", "interval", "busy")
    shown = []
    for row in rows:
        for name, chip in ((row["machine"], row["chip"]), ("  balanced", row.get("pipeline"))):
            if chip is not None:
                shares = (f"{chip[key]:.0%}" for key in ("ou_utilisation", "cell_utilisation"))
                area = "-" if chip["mm2"] is None else f"{chip['mm2']:.3f}"
                clocks = (f"{chip[key]:,.0f}" for key in ("latency_clocks", "interval_clocks"))
                shown.append(
                    [name, str(chip["pairs"]), *shares, str(chip["tiles"]), area, *clocks, f"{chip['busy']:.0%}"]
                )
    return _table(title, columns, shown)


def savings_table(machines: Sequence[str], savings: Mapping[str, Sequence[float]]) -> Table:
    """Energy saving of every machine under several component tables."""
    shown = [[name, *(f"{values[i]:.2f}x" for values in savings.values())] for i, name in enumerate(machines)]
    return _table("energy saving under every component table", list(savings), shown)


def trace_lines(row: Row) -> list[str]:
    """Every product behind the energy and area of a machine, under a line with its name."""
    area = [] if row.area is None else row.area.trace()
    return [f"# {row.machine.name}: {row.machine.note}", *row.energy.trace(), *area]


def source_lines(table: ComponentTable) -> list[str]:
    """Where the figures of a component table are from."""
    parts = [f"{part.name}: {part.derivation}; {part.source}" for part in (*table.components, *table.areas)]
    return [f"# sources of {table.name}", *parts]
