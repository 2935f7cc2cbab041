"""Tables and pictures of `python -m quant.reproduce.redy`, from its result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from golden_model.command import results_console
from golden_model.cost.components import ComponentTable
from golden_model.cost.energy import EnergyReport
from golden_model.files import write_atomically
from quant.reproduce.redy_measure import DENSE, VARIANTS, words
from quant.search.redy import KINDS, LOSSY
from quant.search.registers import Registers

#: system.md §12: the paper's saving on average over its networks, and the loss that it calls negligible is ours to set.
PAPER_SAVING = 13.0


# ---- what people see ----------------------------------------------------------------------------
def _saved(one: Mapping[str, Any], static: Mapping[str, Any]) -> float:
    """Energy saved, in percent of the static machine's."""
    return 100 * (1 - one["energy_pj"] / static["energy_pj"])


def _top(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _where(result: Mapping[str, Any], machine: str) -> str:
    hardware = result["machines"][machine]["hardware"]
    return f"{result['network']}, {machine} ({hardware['ou_rows']} rows)"


def _words(one: Mapping[str, Any]) -> str:
    return "lossless: empty high bits" if one["budget"] is None else f"lossy, logit error <= {one['budget']:g}"


def _rivals(group: Mapping[str, Any]) -> bool:
    return any(one["kind"] in KINDS and one["kind"] != LOSSY for one in group["measured"].values())


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Tables (a) to (e)."""
    made = []
    for machine, part in result["machines"].items():
        made += [_machine_table(result, machine), _variant_table(result, machine)]
        made += [_layer_table(result, machine, group) for group in part["groups"]]
        made.append(_budget_table(result, machine))
        if part["static_bits"] or any(_rivals(group) for group in part["groups"].values()):
            made.append(_rival_table(result, machine))
    return made


def _machine_table(result: Mapping[str, Any], machine: str) -> Table:
    part = result["machines"][machine]
    static = part["static"][DENSE]
    a = Table(
        "rows per group", "activations", "bits", "OU activations", "A/D operations", "cycles", "energy uJ", "saved",
        "unit", "top-1 %",
        title=f"(a) ISAAC-like, 7 planes, nothing skipped: {_where(result, machine)}",
        caption=f"Events and energy: mean of {result['event_images']} images; top-1: {result['images']} images,"
        f" lossless by equal logits on {result['lossless_images']}"
        f" (float {_top(result['float_accuracy'])}). Unit: energy of deciding, part of the energy."
        f" The paper: {PAPER_SAVING:.0f} % saved on average over its networks, accuracy loss called negligible.",
    )  # fmt: skip

    def row(rows: str, words: str, one: Mapping[str, Any], top: float) -> None:
        a.add_row(
            rows, words, f"{one['streamed']:.2f}", f"{one['ou_activations'] / 1e6:.2f} M",
            f"{one['ad_operations'] / 1e6:.1f} M", f"{one['cycles'] / 1e6:.2f} M", f"{one['energy_pj'] / 1e6:.2f}",
            f"{_saved(one, static):.1f} %", f"{100 * one['unit_pj'] / one['energy_pj']:.2f} %", _top(top),
        )  # fmt: skip

    row("-", "static", static, result["static_accuracy"])
    for group in part["groups"].values():
        for name in ("lossless", group["chosen"]):
            one = group["measured"][name]
            # Lossless skipping is compared on fewer images, with logits that must be equal.
            top = result["static_accuracy"] if name == "lossless" and one["equal"] else one["accuracy"]
            row(str(group["rows"]), _words(one), one[DENSE], top)
    return a


def _variant_table(result: Mapping[str, Any], machine: str) -> Table:
    part = result["machines"][machine]
    groups = part["groups"].values()
    heads = [f"{g['rows']} rows, {w}" for g in groups for w in ("lossless", "lossy")]
    b = Table(
        "machine", "static uJ", *heads,
        title=f"(b) energy saved on machines that already skip something: {_where(result, machine)}",
        caption="Each saving is against the static activations of the same line.",
    )  # fmt: skip
    for name in VARIANTS:
        static = part["static"][name]
        shares = [
            f"{_saved(group['measured'][kind][name], static):.1f} %"
            for group in groups
            for kind in ("lossless", group["chosen"])
        ]
        b.add_row(name, f"{static['energy_pj'] / 1e6:.2f}", *shares)
    return b


def _layer_table(result: Mapping[str, Any], machine: str, group: str) -> Table:
    part = result["machines"][machine]
    one, static = part["groups"][group], part["static"][DENSE]["layers"]
    lossless, lossy = (one["measured"][k][DENSE]["layers"] for k in ("lossless", one["chosen"]))
    c = Table(
        "layer", "share of energy", "static", "lossless", "lossy", "saved", "of it lossless", "l_max", "tau_sq",
        title=f"(c) streamed bits of every layer, groups of {one['rows']} rows: {_where(result, machine)}",
    )  # fmt: skip
    whole = sum(x["energy_pj"] for x in static.values())
    for name, x in static.items():
        registers = one["settings"][one["chosen"]][name]
        c.add_row(
            name, f"{100 * x['energy_pj'] / whole:.1f} %",
            *(f"{y['streamed']:.2f}" for y in (x, lossless[name], lossy[name])),
            f"{_saved(lossy[name], x):.1f} %", f"{_saved(lossless[name], x):.1f} %",
            str(registers["l_max"]), str(registers["tau_sq"]),
        )  # fmt: skip
    return c


def _budget_table(result: Mapping[str, Any], machine: str) -> Table:
    part = result["machines"][machine]
    d = Table(
        "rows per group", "allowed logit error", "found on training images", "on test images", "bits", "energy saved",
        "top-1 %", "change", title=f"(d) accuracy against energy: {_where(result, machine)}",
    )  # fmt: skip
    for group in part["groups"].values():
        found = {n: one for n, one in group["measured"].items() if one["kind"] == LOSSY}
        for name, one in sorted(found.items(), key=lambda item: item[1]["budget"]):
            check = group["prices"][name]["check"]
            d.add_row(
                str(group["rows"]), f"{one['budget']:g}", "-" if check is None else f"{check['logit_error']:.4f}",
                f"{one['logit_error']:.4f}", f"{one[DENSE]['streamed']:.2f}",
                f"{_saved(one[DENSE], part['static'][DENSE]):.1f} %", _top(one["accuracy"]),
                f"{100 * (one['accuracy'] - result['static_accuracy']):+.2f}",
            )  # fmt: skip
    return d


def _rival_table(result: Mapping[str, Any], machine: str) -> Table:
    part = result["machines"][machine]
    static = part["static"][DENSE]
    e = Table(
        "activations", "bits", "energy saved", "top-1 %",
        title=f"(e) what decides which low bits are dropped (ours): {_where(result, machine)}",
    )  # fmt: skip
    for bits, one in (part["static_bits"] or {}).items():
        saved = f"{_saved(one[DENSE], static):.1f} %"
        e.add_row(f"static, {bits} bits in every layer", f"{one[DENSE]['streamed']:.2f}", saved, _top(one["accuracy"]))
    for group in part["groups"].values():
        for name, one in group["measured"].items():
            if name == group["chosen"] or (one["kind"] in KINDS and one["kind"] != LOSSY):
                e.add_row(
                    f"groups of {group['rows']} rows: {KINDS[one['kind']].words}", f"{one[DENSE]['streamed']:.2f}",
                    f"{_saved(one[DENSE], static):.1f} %", _top(one["accuracy"]),
                )  # fmt: skip
    return e


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
    printed = results_console()
    table = Table(
        "rows per group", "energy uJ", "saved", "logit error", "top-1 % of check images",
        title=f"{about['network']}: machine that skips slices of zeros, {about['without_picojoules'] / 1e6:.2f} uJ an"
        f" image; {about['check_images']} training images check",
    )  # fmt: skip
    for group, one in about["groups"].items():
        check = one["check"]
        found = ("-", "-") if check is None else (f"{check['logit_error']:.4f}", _change(check))
        mark = " (taken)" if group == str(registers.group_segments) else ""
        table.add_row(f"{one['rows']}{mark}", f"{one['picojoules'] / 1e6:.2f}", f"{100 * one['saved']:.1f} %", *found)
    printed.print(table)
    chosen = ", ".join(f"{name} {one.l_max}/{one.tau_sq}" for name, one in registers.layers.items())
    printed.print(f"l_max/tau_sq, other layers have no unit: {chosen}")
    printed.print(
        f"{confirmed['images']} other training images confirm: {_change(confirmed)}, logit error"
        f" {confirmed['logit_error']:.4f}, {100 * confirmed['agreement']:.2f} % of predictions stay"
    )


def _change(check: Mapping[str, float]) -> str:
    accuracy, exact = check["accuracy"], check["exact_accuracy"]
    return f"{_top(accuracy)} ({100 * (accuracy - exact):+.2f})"


def picture(result: Mapping[str, Any], path: Path) -> None:
    """One row of pictures per machine: bits per layer, accuracy against energy, machines that skip."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    machines = result["machines"]
    figure, axes = pyplot.subplots(len(machines), 3, figsize=(17, 4.8 * len(machines)), squeeze=False)
    for row, (machine, part) in zip(axes, machines.items(), strict=True):
        a, b, c = row
        static = part["static"][DENSE]
        names = list(static["layers"])
        place = np.arange(len(names))
        a.step(place, [static["layers"][n]["streamed"] for n in names], where="mid", color="0.6", label="static")
        low = 100.0
        for index, group in enumerate(part["groups"].values()):
            for kind, style in (("lossless", ":"), (group["chosen"], "-")):
                layers = group["measured"][kind][DENSE]["layers"]
                a.plot(
                    place, [layers[n]["streamed"] for n in names], style, color=f"C{index}", marker=".",
                    label=f"{group['rows']} rows, {'lossless' if kind == 'lossless' else 'lossy'}",
                )  # fmt: skip
            points = [
                (_saved(one[DENSE], static), 100 * (result["static_accuracy"] if one["equal"] else one["accuracy"]))
                for one in group["measured"].values()
                if one["kind"] in ("lossless", LOSSY)
            ]
            points.sort()
            low = min(low, *(y for _, y in points))
            b.plot(*zip(*points, strict=True), "o-", color=f"C{index}", label=f"groups of {group['rows']} rows")
        a.set_xticks(place, names, rotation=90, fontsize=6)
        a.set(ylabel="mean streamed bits", title=f"(a) {_where(result, machine)}", ylim=(0, 8.4))
        a.legend(fontsize=7)
        b.axhline(100 * result["static_accuracy"], color="0.6", linewidth=1)
        b.axvline(PAPER_SAVING, color="0.4", linestyle="--", linewidth=1, label="the paper: 13 %")
        b.set(
            xlabel="energy saved, %",
            ylabel="top-1, %",
            title="(b) lossless, then looser budgets",
            ylim=(low - 0.6, None),
        )
        b.legend(fontsize=7)
        width = 0.8 / (2 * len(part["groups"]))
        for index, group in enumerate(part["groups"].values()):
            for step, kind in enumerate(("lossless", group["chosen"])):
                heights = [_saved(group["measured"][kind][v], part["static"][v]) for v in VARIANTS]
                c.bar(
                    np.arange(len(VARIANTS)) + (2 * index + step) * width, heights, width, color=f"C{index}",
                    alpha=1.0 if step else 0.45, label=f"{group['rows']} rows, {'lossy' if step else 'lossless'}",
                )  # fmt: skip
        c.set_xticks(np.arange(len(VARIANTS)) + 0.3, [v.replace(", ", ",\n") for v in VARIANTS], fontsize=7)
        c.set(ylabel="energy saved, %", title="(c) on machines that already skip")
        c.legend(fontsize=7)
    figure.suptitle(f"{result['network']}: dynamic activation precision, {result['images']} test images")
    figure.tight_layout()
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
    pyplot.close(figure)
