"""Tables and pictures of `python -m quant.reproduce.redy`, from its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from golden_model.command import results_console, table_of
from golden_model.cost.components import ComponentTable
from golden_model.cost.energy import EnergyReport
from quant.reproduce.redy_measure import DENSE, VARIANTS, words
from quant.reproduce.study import drawing, percent
from quant.search.redy import KINDS, LOSSY
from quant.search.registers import Registers

#: system.md §12: the paper's saving on average over its networks, and the loss that it calls negligible is ours to set.
PAPER_SAVING = 13.0


# ---- what people see ----------------------------------------------------------------------------
def _saved(one: Mapping[str, Any], static: Mapping[str, Any]) -> float:
    """Energy saved, in percent of the static machine's."""
    return 100 * (1 - one["energy_pj"] / static["energy_pj"])


def _where(result: Mapping[str, Any], machine: str) -> str:
    hardware = result["machines"][machine]["hardware"]
    return f"{result['network']}, {machine} ({hardware['ou_rows']} rows)"


def _kinds(group: Mapping[str, Any]) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """What is shown of a group size: lossless skipping, and the search that was chosen."""
    return ("lossless", group["measured"]["lossless"]), ("lossy", group["measured"][group["chosen"]])


def _is_rival(one: Mapping[str, Any]) -> bool:
    return one["kind"] in KINDS and one["kind"] != LOSSY


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Tables (a) to (e)."""
    made = []
    for machine, part in result["machines"].items():
        where, groups = _where(result, machine), part["groups"].values()
        made += [_machine_table(result, part, where), _variant_table(part, where)]
        made += [_layer_table(part, group, where) for group in groups]
        made.append(_budget_table(result, part, where))
        if part["static_bits"] or any(_is_rival(one) for group in groups for one in group["measured"].values()):
            made.append(_rival_table(part, where))
    return made


def _machine_table(result: Mapping[str, Any], part: Mapping[str, Any], where: str) -> Table:
    static, top = part["static"][DENSE], result["static_accuracy"]
    records = [{"rows": "-", "words": "static", "top": top, **static}]
    for group in part["groups"].values():
        for kind, one in _kinds(group):
            lossless = kind == "lossless"
            about = "lossless: empty high bits" if lossless else f"lossy, logit error <= {one['budget']:g}"
            # Lossless skipping is compared on fewer images, with logits that must be equal.
            shown = top if lossless and one["equal"] else one["accuracy"]
            records.append({"rows": group["rows"], "words": about, "top": shown, **one[DENSE]})

    def millions(name: str, digits: int) -> Callable[[Mapping[str, Any]], str]:
        return lambda one: f"{one[name] / 1e6:.{digits}f} M"

    return table_of(
        f"(a) ISAAC-like, 7 planes, nothing skipped: {where}",
        [
            ("rows per group", "{rows}"),
            ("activations", "{words}"),
            ("bits", "{streamed:.2f}"),
            ("OU activations", millions("ou_activations", 2)),
            ("A/D operations", millions("ad_operations", 1)),
            ("cycles", millions("cycles", 2)),
            ("energy uJ", lambda one: f"{one['energy_pj'] / 1e6:.2f}"),
            ("saved", lambda one: f"{_saved(one, static):.1f} %"),
            ("unit", lambda one: f"{100 * one['unit_pj'] / one['energy_pj']:.2f} %"),
            ("top-1 %", lambda one: percent(one["top"])),
        ],
        records,
        caption=f"Events and energy: mean of {result['event_images']} images; top-1: {result['images']} images,"
        f" lossless by equal logits on {result['lossless_images']} (float {percent(result['float_accuracy'])})."
        " Unit: energy of deciding, part of the energy."
        f" The paper: {PAPER_SAVING:.0f} % saved on average over its networks, accuracy loss called negligible.",
    )


def _variant_table(part: Mapping[str, Any], where: str) -> Table:
    columns: list[Any] = [
        ("machine", lambda name: name),
        ("static uJ", lambda name: f"{part['static'][name]['energy_pj'] / 1e6:.2f}"),
    ]
    for group in part["groups"].values():
        for kind, one in _kinds(group):
            saved = lambda name, one=one: f"{_saved(one[name], part['static'][name]):.1f} %"  # noqa: E731
            columns.append((f"{group['rows']} rows, {kind}", saved))
    return table_of(
        f"(b) energy saved on machines that already skip something: {where}", columns, VARIANTS,
        caption="Each saving is against the static activations of the same line.",
    )  # fmt: skip


def _layer_table(part: Mapping[str, Any], group: Mapping[str, Any], where: str) -> Table:
    static, registers = part["static"][DENSE]["layers"], group["settings"][group["chosen"]]
    lossless, lossy = (one[DENSE]["layers"] for _, one in _kinds(group))
    whole = sum(one["energy_pj"] for one in static.values())
    columns = [
        ("layer", lambda name: name),
        ("share of energy", lambda name: f"{100 * static[name]['energy_pj'] / whole:.1f} %"),
        *(
            (kind, lambda name, layers=layers: f"{layers[name]['streamed']:.2f}")
            for kind, layers in (("static", static), ("lossless", lossless), ("lossy", lossy))
        ),
        ("saved", lambda name: f"{_saved(lossy[name], static[name]):.1f} %"),
        ("of it lossless", lambda name: f"{_saved(lossless[name], static[name]):.1f} %"),
        *((key, lambda name, key=key: str(registers[name][key])) for key in ("l_max", "tau_sq")),
    ]
    return table_of(f"(c) streamed bits of every layer, groups of {group['rows']} rows: {where}", columns, static)


def _budget_table(result: Mapping[str, Any], part: Mapping[str, Any], where: str) -> Table:
    records = []
    for group in part["groups"].values():
        found = [(name, one) for name, one in group["measured"].items() if one["kind"] == LOSSY]
        for name, one in sorted(found, key=lambda item: item[1]["budget"]):
            records.append({"rows": group["rows"], "check": group["prices"][name]["check"], **one})
    static, top = part["static"][DENSE], result["static_accuracy"]
    return table_of(
        f"(d) accuracy against energy: {where}",
        [
            ("rows per group", "{rows}"),
            ("allowed logit error", "{budget:g}"),
            ("found on training images", lambda one: _check_error(one["check"])),
            ("on test images", "{logit_error:.4f}"),
            ("bits", lambda one: f"{one[DENSE]['streamed']:.2f}"),
            ("energy saved", lambda one: f"{_saved(one[DENSE], static):.1f} %"),
            ("top-1 %", lambda one: percent(one["accuracy"])),
            ("change", lambda one: f"{100 * (one['accuracy'] - top):+.2f}"),
        ],
        records,
    )


def _check_error(check: Mapping[str, Any] | None) -> str:
    return "-" if check is None else f"{check['logit_error']:.4f}"


def _rival_table(part: Mapping[str, Any], where: str) -> Table:
    records = [
        {"words": f"static, {bits} bits in every layer", **one} for bits, one in (part["static_bits"] or {}).items()
    ]
    for group in part["groups"].values():
        records += [
            {"words": f"groups of {group['rows']} rows: {KINDS[one['kind']].words}", **one}
            for name, one in group["measured"].items()
            if name == group["chosen"] or _is_rival(one)
        ]
    columns = [
        ("activations", "{words}"),
        ("bits", lambda one: f"{one[DENSE]['streamed']:.2f}"),
        ("energy saved", lambda one: f"{_saved(one[DENSE], part['static'][DENSE]):.1f} %"),
        ("top-1 %", lambda one: percent(one["accuracy"])),
    ]
    return table_of(f"(e) what decides which low bits are dropped (ours): {where}", columns, records)


# ---- every product behind a figure --------------------------------------------------------------
def counted(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, what `redy_measure.count` found) of everything whose events were counted."""
    for machine, part in result["machines"].items():
        yield from ((f"{machine}, static, {name}", one) for name, one in part["static"].items())
        yield from (
            (f"{machine}, static {bits} bits, {DENSE}", one[DENSE]) for bits, one in (part["static_bits"] or {}).items()
        )
        for group, measured in part["groups"].items():
            for plan, one in measured["measured"].items():
                yield from (
                    (f"{words(machine, int(group))}, {plan}, {name}", one[name]) for name in VARIANTS if name in one
                )


def named(titles: Iterable[str], text: str) -> list[str]:
    """The titles that contain a text, in any case."""
    return [title for title in titles if text.lower() in title.lower()]


def energy_report(one: Mapping[str, Any], table: ComponentTable) -> EnergyReport:
    """Energy of one image again, from the products that `redy_measure.count` kept."""
    return EnergyReport(table, tuple(one["products"]), np.array(list(one["products"].values())))


def print_trace(result: Mapping[str, Any], table: ComponentTable, text: str) -> None:
    """Every product behind the energies whose name contains `text`, with the sources of the energies per event."""
    found = dict(counted(result))
    for title in named(found, text):
        print(f"# {title}")
        print("\n".join(energy_report(found[title], table).trace()))
    print("# sources")
    for component in table.components:
        print(f"{component.name}: {component.derivation}; {component.source}")


def print_registers(registers: Registers) -> None:
    """What `--registers` found, on standard output."""
    about, confirmed = registers.about, registers.about["confirmed"]
    taken = str(registers.group_segments)
    records = [
        {"mark": " (taken)" if group == taken else "", "saving": 100 * one["saved"], **one}
        for group, one in about["groups"].items()
    ]
    printed = results_console()
    printed.print(
        table_of(
            f"{about['network']}: machine that skips slices of zeros, {about['without_picojoules'] / 1e6:.2f} uJ an"
            f" image; {about['check_images']} training images check",
            [
                ("rows per group", "{rows}{mark}"),
                ("energy uJ", lambda one: f"{one['picojoules'] / 1e6:.2f}"),
                ("saved", "{saving:.1f} %"),
                ("logit error", lambda one: _check_error(one["check"])),
                ("top-1 % of check images", lambda one: "-" if one["check"] is None else _change(one["check"])),
            ],
            records,
        )
    )
    chosen = ", ".join(f"{name} {one.l_max}/{one.tau_sq}" for name, one in registers.layers.items())
    printed.print(f"l_max/tau_sq, other layers have no unit: {chosen}")
    printed.print(
        f"{confirmed['images']} other training images confirm: {_change(confirmed)}, logit error"
        f" {confirmed['logit_error']:.4f}, {percent(confirmed['agreement'])} % of predictions stay"
    )


def _change(check: Mapping[str, float]) -> str:
    return f"{percent(check['accuracy'])} ({100 * (check['accuracy'] - check['exact_accuracy']):+.2f})"


def picture(result: Mapping[str, Any], path: Path) -> None:
    """One row of pictures per machine: bits per layer, accuracy against energy, machines that skip."""
    machines = result["machines"]
    title = f"{result['network']}: dynamic activation precision, {result['images']} test images"
    with drawing(path, title, len(machines), 3, (5.7, 4.8)) as axes:
        for (a, b, c), (machine, part) in zip(axes, machines.items(), strict=True):
            _draw_layers(a, part)
            a.set(ylabel="mean streamed bits", title=f"(a) {_where(result, machine)}", ylim=(0, 8.4))
            _draw_budgets(b, part, result["static_accuracy"])
            _draw_variants(c, part)
            for axis in (a, b, c):
                axis.legend(fontsize=7)


def _draw_layers(axis: Any, part: Mapping[str, Any]) -> None:
    static = part["static"][DENSE]["layers"]
    place = np.arange(len(static))
    axis.step(place, [one["streamed"] for one in static.values()], where="mid", color="0.6", label="static")
    for index, group in enumerate(part["groups"].values()):
        for kind, one in _kinds(group):
            bits = [one[DENSE]["layers"][name]["streamed"] for name in static]
            look = {"color": f"C{index}", "marker": ".", "label": f"{group['rows']} rows, {kind}"}
            axis.plot(place, bits, ":" if kind == "lossless" else "-", **look)
    axis.set_xticks(place, list(static), rotation=90, fontsize=6)


def _draw_budgets(axis: Any, part: Mapping[str, Any], top: float) -> None:
    low = 100.0
    for index, group in enumerate(part["groups"].values()):
        points = sorted(
            (_saved(one[DENSE], part["static"][DENSE]), 100 * (top if one["equal"] else one["accuracy"]))
            for one in group["measured"].values()
            if one["kind"] in ("lossless", LOSSY)
        )
        low = min(low, *(y for _, y in points))
        axis.plot(*zip(*points, strict=True), "o-", color=f"C{index}", label=f"groups of {group['rows']} rows")
    axis.axhline(100 * top, color="0.6", linewidth=1)
    axis.axvline(PAPER_SAVING, color="0.4", linestyle="--", linewidth=1, label="the paper: 13 %")
    axis.set(xlabel="energy saved, %", ylabel="top-1, %", title="(b) lossless, then looser budgets")
    axis.set_ylim(low - 0.6, None)


def _draw_variants(axis: Any, part: Mapping[str, Any]) -> None:
    width = 0.8 / (2 * len(part["groups"]))
    shown = [(i, group["rows"], *kind) for i, group in enumerate(part["groups"].values()) for kind in _kinds(group)]
    for step, (index, rows, kind, one) in enumerate(shown):
        heights = [_saved(one[name], part["static"][name]) for name in VARIANTS]
        axis.bar(
            np.arange(len(VARIANTS)) + step * width, heights, width, color=f"C{index}",
            alpha=0.45 if kind == "lossless" else 1.0, label=f"{rows} rows, {kind}",
        )  # fmt: skip
    axis.set_xticks(np.arange(len(VARIANTS)) + 0.3, [name.replace(", ", ",\n") for name in VARIANTS], fontsize=7)
    axis.set(ylabel="energy saved, %", title="(c) on machines that already skip")
