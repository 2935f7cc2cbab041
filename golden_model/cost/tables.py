"""Machines of the comparison as tables for people; rows are those of `machines.Row.as_dict`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from golden_model.command import table_of
from golden_model.cost.components import ComponentTable
from golden_model.cost.machines import Row
from golden_model.graph.host import COUNTS, with_total

Rows = Sequence[Mapping[str, Any]]


def work_table(rows: Rows, title: str) -> Table:
    """Work, clocks and energy of one image; of a machine that a paper reports only ratios may be known."""

    def number(name: str, factor: float = 1.0, form: str = ",.0f") -> Callable[[Mapping[str, Any]], str]:
        return lambda row: f"{row[name] * factor:{form}}" if name in row else "-"

    def per_conversion(row: Mapping[str, Any]) -> str:
        return f"{row['ad_operations'] / row['conversions']:.2f}" if row.get("conversions") else "-"

    columns = [
        ("machine", "{machine}"),
        ("OU activations", number("ou_activations")),
        ("A/D operations", number("ad_operations")),
        ("per conversion", per_conversion),
        ("clocks", number("clocks")),
        ("speed", "{speed:.2f}x"),
        ("energy, nJ", number("picojoules", 1e-3, ",.1f")),
        ("saving", "{energy_saving:.2f}x"),
    ]
    return table_of(title, columns, rows, right=True)


def group_table(rows: Rows) -> Table:
    """Energy of every component group."""
    columns: list[Any] = [("machine", "{machine}")]
    for group in rows[0]["picojoules_by_group"]:
        columns.append((group, lambda row, group=group: f"{row['picojoules_by_group'][group] / 1000:,.1f}"))
    return table_of("energy by group, nJ", columns, rows, right=True)


def chip_table(rows: Rows, pairs: int | None = None) -> Table:
    """Every machine with one copy of each layer; with a budget also with copies of slow layers, where they fit."""
    title = "on a chip, every layer on its own macros"
    title += "" if pairs is None else f"; balanced: slow layers copied, up to {pairs} crossbar pairs"
    placed = [
        {"machine": name, **chip}
        for row in rows
        for name, chip in ((row["machine"], row["chip"]), ("  balanced", row.get("pipeline")))
        if chip is not None
    ]
    columns = [
        ("machine", "{machine}"),
        ("pairs", "{pairs}"),
        ("OUs used", "{ou_utilisation:.0%}"),
        ("cells used", "{cell_utilisation:.0%}"),
        ("tiles", "{tiles}"),
        ("mm2", lambda chip: "-" if chip["mm2"] is None else f"{chip['mm2']:.3f}"),
        ("latency", "{latency_clocks:,.0f}"),
        ("interval", "{interval_clocks:,.0f}"),
        ("busy", "{busy:.0%}"),
    ]
    return table_of(title, columns, placed, right=True)


def savings_table(machines: Sequence[str], savings: Mapping[str, Sequence[float]]) -> Table:
    """Energy saving of every machine under several component tables."""
    shown = [
        {"machine": name} | {table: values[i] for table, values in savings.items()} for i, name in enumerate(machines)
    ]
    columns = [("machine", "{machine}"), *((table, f"{{{table}:.2f}}x") for table in savings)]
    return table_of("energy saving under every component table", columns, shown, right=True)


def host_table(rows: Sequence[dict[str, Any]]) -> Table:
    """What a host does beside the tile for one image, from `host.work_of`; no energy is known of it."""
    columns: list[Any] = [("node", "{node}")]
    for name in COUNTS:
        columns.append((name.replace("_", " "), f"{{{name}:,}}"))
    return table_of("work of the host, one image; not in the energy", columns, with_total(rows), right=True)


def trace_lines(row: Row) -> list[str]:
    """Every product behind the energy and area of a machine, under a line with its name."""
    area = [] if row.area is None else row.area.trace()
    return [f"# {row.machine.name}: {row.machine.note}", *row.energy.trace(), *area]


def source_lines(table: ComponentTable) -> list[str]:
    """Where the figures of a component table are from."""
    parts = [f"{part.name}: {part.derivation}; {part.source}" for part in (*table.components, *table.areas)]
    return [f"# sources of {table.name}", *parts]
