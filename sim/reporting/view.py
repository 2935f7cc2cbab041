"""The numbers of collect.py as texts, tables and figures, and the page that shows them.

A table is {"head": texts, "rows": rows of cells}; the template sets the first column left and the others right, and
makes the last row bold where `total` is set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from golden_model.registers import COUNTER_NAMES
from sim.reporting import figures

_TEMPLATES = Path(__file__).parent / "templates"
_INDEX = {name: i for i, name in enumerate(COUNTER_NAMES)}


def render(data: dict[str, Any], pictures: np.ndarray) -> str:
    """The report as one HTML page; every text is escaped, figures are inline.

    data : from `collect.collect`. pictures : uint8 (B, C, H, W), the test pictures to show.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.j2").render(view(data, pictures))


def view(data: dict[str, Any], pictures: np.ndarray) -> dict[str, Any]:
    """What the template places; see `render`."""
    dynamic = [layer for layer in data["layers"] if layer["dynamic"]]
    return {
        "name": data["name"],
        "headline": _headline(data),
        "cards": _cards(data),
        "contents": [
            ("rtl", "Simulated hardware"),
            ("pictures", "Pictures"),
            ("network", "Network"),
            ("accuracy", "Accuracy"),
            ("work", "Step by step"),
            ("ladder", "Which saving earns what"),
            ("energy", "Energy"),
            ("widths", "Block widths"),
            ("histograms", "A/D conversion"),
            *([("dynamic", "Dynamic precision")] if dynamic else []),
            ("memory", "Memory"),
            ("hardware", "Hardware and provenance"),
        ],
        "rtl": _rtl_view(data["run"]),
        "pictures": _pictures_view(data, pictures),
        "network": _network_view(data),
        "accuracy": _accuracy_view(data["accuracy"]),
        "hardware": _hardware_view(data["hardware"]),
        "planes": data["planes"],
        "work": _work_view(data),
        "time": {"rows": _time_view(data), "clock": f"{data['clock_mhz']:g} MHz"},
        "ladder": _ladder_view(data),
        "energy": _energy_view(data),
        "widths": _widths_view(data),
        "histograms": _histograms_view(data),
        "dynamic": _dynamic_view(dynamic),
        "memory": _memory_view(data),
        "provenance": _provenance(data),
        "images": _plural(data["images"], "test picture"),
    }


# ---- texts --------------------------------------------------------------------------------------
def _number(value: float) -> str:
    return f"{value:,.0f}"


def _count(value: float) -> str:
    """Thousands separated; one decimal for a mean that is not whole."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.1f}"


def _factor(reference: float, value: float) -> str:
    """How many times less `value` is."""
    if reference == value:
        return "1×"
    return f"{reference / value:.3g}×" if value else "–"


def _percent(part: float, whole: float = 1.0, digits: int = 1) -> str:
    return f"{100 * part / whole:.{digits}f} %" if whole else "–"


def _nanojoules(picojoules: float) -> str:
    return f"{picojoules / 1000:,.4g}" if picojoules < 1e6 else f"{picojoules / 1000:,.0f}"


def _plural(count: int, noun: str) -> str:
    return f"{_number(count)} {noun}" if count == 1 else f"{_number(count)} {noun}s"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _steps(numbers: Sequence[int]) -> str:
    """Numbers of steps as ranges: 3, 5–7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in parts) or "none"


_SCALAR = str | int | float | bool | None


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, _SCALAR):
        return str(value)
    if isinstance(value, dict) and all(isinstance(v, _SCALAR) for v in value.values()):
        return ", ".join(f"{_words(str(k))} {_text(v)}" for k, v in value.items())
    if isinstance(value, list) and all(isinstance(v, _SCALAR) for v in value):
        return ", ".join(map(_text, value))
    text = json.dumps(value)
    return text if len(text) <= 400 else text[:400] + " …"


# ---- the top of the page ------------------------------------------------------------------------
def _headline(data: dict[str, Any]) -> str:
    hardware, weights = data["hardware"], sum(x["weights"] for x in data["layers"])
    return (
        f"{_plural(len(data['layers']), 'crossbar layer')} with {_number(weights)} weights in "
        f"{_plural(len(data['steps']), 'step')}, on crossbars of {hardware['rows']} × {hardware['cols']} cells, "
        f"{hardware['ou_rows']} × {hardware['ou_cols']} of them switched on at once, {hardware['lanes']} A/D "
        f"converters of {hardware['adc_bits']} bits."
    )


def _milliseconds(clocks: float, mhz: float) -> str:
    value = clocks / mhz / 1000
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _cards(data: dict[str, Any]) -> list[dict[str, str]]:
    base, ours, mhz = data["machines"][0], data["machines"][-1], data["clock_mhz"]
    cards: list[dict[str, str]] = []
    if data["accuracy"]:
        last = data["accuracy"][-1]
        cards.append({"value": f"{100 * last['accuracy']:.2f} %", "label": f"correct: {last['stage']}"})
    rtl = _rtl_view(data["run"])
    if rtl is not None:
        cards.append({"value": rtl["value"], "kind": "good" if rtl["agreed"] else "bad", "label": rtl["short"]})
    weights, bits = (sum(x[key] for x in data["layers"]) for key in ("weights", "plane_bits"))
    return [
        *cards,
        {"value": f"{bits / weights:.2f}", "label": "magnitude bits a weight, mean"},
        {"value": _factor(base["ad_operations"], ours["ad_operations"]), "label": "fewer A/D operations than baseline"},
        {
            "value": _factor(base["cycles"], ours["cycles"]),
            "label": f"faster: {figures.short(ours['cycles'])} clocks a picture, "
            f"{_milliseconds(ours['cycles'], mhz)} ms at {mhz:g} MHz (assumed)",
        },
        {
            "value": _factor(base["energy_pj"], ours["energy_pj"]),
            "label": f"less energy: {_nanojoules(ours['energy_pj'])} nJ a picture",
        },
    ]


def _rtl_view(run: dict[str, Any] | None) -> dict[str, Any] | None:
    if run is None:
        return None
    rows, count = run["images"], len(run["images"])
    changed = sum(row["predicted"] != row["golden_predicted"] for row in rows)
    labelled = [row for row in rows if row["label"] >= 0]
    right = sum(row["label"] == row["predicted"] for row in labelled)
    kind = run["crossbar"].get("kind", "")
    if run["agrees"]:
        verdict = (
            f"{_plural(count, 'picture')} through the complete network in hardware: scores, every event counter and "
            "the number of clocks equal the golden model’s."
        )
        value, short = "equal", f"hardware and golden model, {_plural(count, 'picture')}"
    elif run["judged"]:
        verdict = "Hardware and golden model differ."
        value, short = "DIFFERENT", "hardware and golden model"
    else:
        verdict = f"The crossbar was not ideal, so differences are expected: {changed} of {count} classes changed."
        value, short = f"{changed} of {count}", "classes changed by the imperfect crossbar"
    settings = ", ".join(
        f"{_words(k)} {_text(v)}" for k, v in run["crossbar"].items() if k not in ("kind", "seed") and v not in (0, "")
    )
    clocks = run["clocks"]
    return {
        "agreed": run["agrees"] or not run["judged"],
        "value": value,
        "short": short,
        "verdict": verdict,
        "rows": [
            ("simulator", str(run["backend"])),
            ("crossbar", f"{kind} ({settings})" if settings and not run["agrees"] else kind),
            ("equal in everything", f"{run['equal']} of {_plural(run['simulated'], 'picture')}"),
            ("right, of those with a label", f"{right} of {len(labelled)}"),
            ("clocks of each picture", ", ".join(map(_number, clocks[:20])) + (" …" if len(clocks) > 20 else "")),
            ("simulated clocks per second", _optional(run["clocks_per_second"])),
            ("simulation time", f"{run['seconds']:.2f} s, after {run['build_seconds']:.1f} s to build the simulation"),
            *(("note", note) for note in run["notes"]),
        ],
        "mismatch": run["first_difference"] if run["judged"] else None,
    }


def _optional(value: float | None) -> str:
    return "–" if value is None else _number(value)


def _pictures_view(data: dict[str, Any], pictures: np.ndarray) -> dict[str, Any]:
    classes, shown = data["classes"], data["pictures"]

    def name(index: int) -> str:
        return classes[index] if 0 <= index < len(classes) else str(index)

    items = []
    for picture, label, predicted in zip(pictures, shown["labels"], shown["predicted"], strict=True):
        pixels = picture[0] if len(picture) != 3 else picture.transpose(1, 2, 0)
        thinner = max(1, max(pixels.shape[:2]) // 112)
        items.append(
            {
                "picture": figures.png(pixels[::thinner, ::thinner]),
                "predicted": name(predicted),
                "label": name(label),
                "right": predicted == label if label >= 0 else None,
            }
        )
    simulated, count = shown["simulated"], len(items)
    who = "golden model" if not simulated else "simulated hardware"
    if 0 < simulated < count:
        who = f"simulated hardware ({simulated} of {count}) or the golden model (the others)"
    return {"items": items, "who": who}


# ---- the network --------------------------------------------------------------------------------
def _network_view(data: dict[str, Any]) -> dict[str, Any]:
    kinds = list(dict.fromkeys(node["kind"] for node in data["nodes"]))
    colours = {kind: figures.colour(i) for i, kind in enumerate(kinds)}
    nodes = []
    for node in data["nodes"]:
        where = {0: "no step of its own", 1: "step"}.get(len(node["steps"]), "steps")
        where = "" if node["kind"] == "image" else f", {where}" + (f" {_steps(node['steps'])}" if node["steps"] else "")
        nodes.append(
            {
                "name": node["name"],
                "inputs": node["inputs"],
                "kind": node["kind"],
                "first": node["name"],
                "second": f"{node['kind']} → {_shape(node['shape'])}{where}",
            }
        )
    return {"figures": figures.graph(nodes, colours), "legend": [(kind, colours[kind]) for kind in kinds]}


def _accuracy_view(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    percent = [100 * row["accuracy"] for row in rows]
    margin = max(0.5, 0.2 * (max(percent) - min(percent)))
    low, high = max(0.0, min(percent) - margin), min(100.0, max(percent) + margin)
    shown = []
    for i, (row, value) in enumerate(zip(rows, percent, strict=True)):
        shown.append(
            {
                "stage": row["stage"],
                "percent": f"{value:.2f} %",
                "images": "" if row["images"] is None else _number(row["images"]),
                "change": "" if i == 0 else f"{value - percent[i - 1]:+.2f}",
                "place": f"{100 * (value - low) / (high - low):.1f}",
            }
        )
    return {"rows": shown, "low": f"{low:.2f} %", "high": f"{high:.2f} %"}


# ---- work and time ------------------------------------------------------------------------------
def _work_view(data: dict[str, Any]) -> dict[str, Any]:
    rows, crossbars, hardware = data["rows"], data["crossbars"], data["hardware"]
    per_ou, per_pair = 2 * hardware["ou_rows"] * hardware["ou_cols"], 2 * hardware["rows"] * hardware["cols"]
    geometry = [
        [
            _steps(row["steps"]), row["node"], row["kind"],
            "–" if row["k"] is None else _number(row["k"]), "–" if row["n"] is None else _number(row["n"]),
            _number(row["windows"]) if row["steps"] else "–",
            *(
                [_number(row["pairs"]), _number(row["ous"]), _percent(row["weight_cells"], row["ous"] * per_ou),
                 _percent(row["weight_cells"], row["pairs"] * per_pair)] if row["pairs"] else ["", "", "", ""]
            ),
        ]
        for row in rows
    ]  # fmt: skip
    geometry.append(
        ["", "all", "", "", "", "", _number(crossbars["pairs"]), _number(crossbars["ous"]),
         _percent(crossbars["weight_cells"], crossbars["ou_cells"]),
         _percent(crossbars["weight_cells"], crossbars["cells"])]
    )  # fmt: skip
    total = {
        key: sum(row[key] for row in rows)
        for key in rows[0]
        if key.removeprefix("baseline_") in ("ad_operations", "cycles", "energy_pj")
    }
    longest = max(row["cycles"] for row in rows)
    costs = []
    for row in [*rows, total | {"node": "all", "steps": None}]:
        costs.append(
            {
                "cells": [
                    "" if row["steps"] is None else _steps(row["steps"]),
                    row["node"],
                    *(cell for key in ("ad_operations", "cycles") for cell in _beside(row, key, _count)),
                    *_beside(row, "energy_pj", _nanojoules),
                ],
                "share": f"{100 * row['cycles'] / total['cycles']:.1f}",
                "bar": f"{70 * row['cycles'] / longest:.0f}",
            }
        )  # fmt: skip
    return {
        "geometry": geometry,
        "costs": costs,
        "grouped": _grouped_view(data, per_ou, per_pair),
        "pairs": f"{_number(crossbars['pairs'])} of {_number(crossbars['pairs_there'])}",
    }


def _beside(row: dict[str, Any], key: str, text: Callable[[float], str]) -> list[str]:
    """A number of this machine, of the baseline, and how many times less it is; empty where both are 0."""
    ours, theirs = row[key], row[f"baseline_{key}"]
    return [text(ours), text(theirs), _factor(theirs, ours)] if ours or theirs else ["", "", ""]


def _grouped_view(data: dict[str, Any], per_ou: int, per_pair: int) -> str:
    """How well depthwise and grouped convolutions fill crossbars, beside all other layers; "" if there are none."""
    used = [row for row in data["rows"] if row["pairs"]]
    grouped = [row for row in used if row["kind"] in ("depthwise convolution", "grouped convolution")]
    if not grouped:
        return ""

    def share(rows: Sequence[dict[str, Any]]) -> str:
        cells = sum(row["weight_cells"] for row in rows)
        return (
            f"{_percent(cells, sum(row['ous'] for row in rows) * per_ou)} of the cells of their OUs and "
            f"{_percent(cells, sum(row['pairs'] for row in rows) * per_pair, digits=2)} of the cells of their crossbars"
        )

    text = (
        f"{_plural(len(grouped), 'layer')} with groups (depthwise convolutions among them) "
        f"take a step for every group, {_number(sum(len(row['steps']) for row in grouped))} of {len(data['steps'])} "
        f"steps. A group uses few rows and columns of an OU: these layers hold weights in {share(grouped)}"
    )
    others = [row for row in used if row not in grouped]
    return f"{text}; the other layers in {share(others)}." if others else f"{text}."


def _time_view(data: dict[str, Any]) -> list[list[str]]:
    mhz = data["clock_mhz"]
    return [
        [machine["name"], _number(machine["cycles"]), _milliseconds(machine["cycles"], mhz),
         f"{mhz * 1e6 / machine['cycles']:,.4g}"]
        for machine in (data["machines"][0], data["machines"][-1] | {"name": "this image"})
    ]  # fmt: skip


# ---- savings ------------------------------------------------------------------------------------
def _ladder_view(data: dict[str, Any]) -> dict[str, Any]:
    machines, names = data["machines"], [layer["name"] for layer in data["layers"]]
    base = machines[0]

    def per_conversion(machine: dict[str, Any]) -> float:
        return machine["ad_operations"] / machine["conversions"] if machine["conversions"] else 0.0

    rows = [
        [machine["name"], *(figures.short(machine[k]) for k in ("ou_activations", "conversions", "ad_operations")),
         f"{per_conversion(machine):.2f}", figures.short(machine["cycles"]), _factor(base["cycles"], machine["cycles"]),
         _nanojoules(machine["energy_pj"]), _factor(base["energy_pj"], machine["energy_pj"])]
        for machine in machines
    ]  # fmt: skip
    keys = ("skipped_planes", "skipped_bits", "skipped_zero_slices", "ou_activations")
    skipped = []
    for name in [*names, "all"]:
        mine = [machine["nodes"][n] for machine in (machines[-1],) for n in (names if name == "all" else [name])]
        theirs = [base["nodes"][n] for n in (names if name == "all" else [name])]
        values = [sum(row[_INDEX[k]] for row in mine) for k in keys]
        before = sum(row[_INDEX["ou_activations"]] for row in theirs)
        skipped.append(
            [name, _count(sum(values)), *map(_count, values), _percent(values[-1], sum(values)), _count(before),
             _percent(values[-1], before)]
        )  # fmt: skip
    return {"rows": rows, "skipped": skipped}


def _energy_view(data: dict[str, Any]) -> dict[str, Any]:
    energy, machines = data["energy"], data["machines"]
    ours, top = machines[-1]["energy_pj"], max(machine["energy_pj"] for machine in machines) or 1.0
    groups = [g for g in machines[0]["energy_groups"] if any(m["energy_groups"][g] for m in machines)]
    used = [row for row in energy["rows"] if row["ours_pj"] or row["baseline_pj"]]
    return {
        "title": energy["title"],
        "note": energy["note"],
        "legend": [(group, figures.colour(i)) for i, group in enumerate(groups)],
        "bars": [
            {
                "name": machine["name"],
                "total": f"{_nanojoules(machine['energy_pj'])} nJ",
                "parts": [
                    {
                        "colour": figures.colour(i),
                        "width": f"{100 * machine['energy_groups'][group] / top:.3f}",
                        "title": f"{group}: {_nanojoules(machine['energy_groups'][group])} nJ",
                    }
                    for i, group in enumerate(groups)
                    if machine["energy_groups"][group]
                ],
            }
            for machine in machines
        ],
        "rows": [
            {
                "name": _words(row["name"]),
                "quantity": _words(row["quantity"]),
                "energy_pj": f"{row['energy_pj']:.4g}",
                "events": _count(row["ours_events"]),
                "nanojoules": _nanojoules(row["ours_pj"]),
                "share": _percent(row["ours_pj"], ours),
                "baseline": _nanojoules(row["baseline_pj"]),
                "source": row["source"],
                "why": row["why"],
            }
            for row in used
        ],
        "unused": ", ".join(_words(row["name"]) for row in energy["rows"] if row not in used),
        "total": _nanojoules(ours),
        "baseline": _nanojoules(machines[0]["energy_pj"]),
        "tables": [
            [row["title"], _nanojoules(row["baseline_pj"]), _nanojoules(row["ours_pj"]),
             _factor(row["baseline_pj"], row["ours_pj"]), _percent(row["baseline_adc_share"]),
             _percent(row["ours_adc_share"])]
            for row in energy["tables"]
        ],
        "trace": [
            [row["layer"], _words(row["component"]), _count(row["events"]), f"{row['energy_pj']:.4g}",
             _count(row["picojoules"]), row["formula"]]
            for row in energy["trace"]
        ],
    }  # fmt: skip


# ---- layers -------------------------------------------------------------------------------------
def _widths_view(data: dict[str, Any]) -> dict[str, Any]:
    layers, bits = data["layers"], data["hardware"]["weight_bits"]
    maps = []
    for layer in layers:
        figure, each = figures.width_map([np.array(w) for w in layer["widths"]], bits)
        segments, columns = np.array(layer["widths"][0]).shape
        groups = f", {layer['groups']} groups" if layer["groups"] > 1 else ""
        maps.append(
            {
                "name": layer["name"],
                "text": f"{segments} × {columns} blocks{groups}: {layer['plane_bits'] / layer['weights']:.2f} bits a "
                f"weight, {_percent(layer['pruned'], layer['blocks'])} of the blocks pruned"
                + (f"; a square is {each} × {each} blocks, their mean" if each > 1 else ""),
                "figure": figure,
            }
        )
    every = np.concatenate([np.ravel(w) for layer in layers for w in layer["widths"]])
    histogram = np.bincount(every, minlength=bits + 1)
    legend = figures.width_legend(bits)
    keys = ("weights", "plane_bits", "sign_bits", "table_bits", "blocks", "pruned", "ous")
    placed = {row["node"]: row for row in data["rows"]}
    storage = [layer | {"ous": placed[layer["name"]]["ous"]} for layer in layers]
    storage.append({"name": "all"} | {k: sum(x[k] for x in storage) for k in keys})
    return {
        "maps": maps,
        "legend": legend,
        "histogram": figures.bars(
            histogram.tolist(), [label for label, _ in legend], [colour for _, colour in legend],
            "planes of a block; % of all blocks above",
        ),
        "rows": [
            [
                x["name"], _number(x["weights"]), f"{x['plane_bits'] / x['weights']:.2f}", _number(x["blocks"]),
                _percent(x["pruned"], x["blocks"]), _number(x["ous"]), _factor(32 * x["weights"], x["plane_bits"]),
                _factor(32 * x["weights"], x["plane_bits"] + x["sign_bits"] + x["table_bits"]),
            ]
            for x in storage
        ],
    }  # fmt: skip


def _histograms_view(data: dict[str, Any]) -> dict[str, Any]:
    def span(values: list[int]) -> str:
        return "–" if not values else str(values[0]) if len(values) == 1 else f"{values[0]}–{values[-1]}"

    shown, rows = [], []
    for layer in data["layers"]:
        adc = layer["adc"]
        if adc["mode"] == "uniform":
            text = f"uniform, {span(adc['operations_r2'])} operations"
        else:
            exact = "exact" if adc["lossless"] else "not exact for every count"
            text = f"twin range, mean {adc['mean_operations']:.2f} operations, {exact}"
        shown.append(
            {
                "name": layer["name"],
                "text": text,
                "figure": figures.count_histogram(
                    np.array(layer["histogram"]), np.array(layer["range_flag"]), np.array(layer["operations"])
                ),
            }
        )
        rows.append(
            [
                layer["name"], adc["mode"], *map(str, (adc["n_r1"], adc["n_r2"], adc["m"], adc["bias"])),
                f"{adc['counts_per_lsb']:g}", "yes" if adc["lossless"] else "no",
                f"{span(adc['operations_r1'])} / {span(adc['operations_r2'])}", _percent(adc["share_r1"]),
                f"{adc['mean_operations']:.2f}",
            ]
        )  # fmt: skip
    return {"layers": shown, "rows": rows, "images": _plural(data["histogram_images"], "picture")}


def _dynamic_view(layers: Sequence[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            x["name"], str(x["dynamic"]["l_max"]), f"{x['dynamic']['tau_sq']} ({x['dynamic']['tau_sq'] / 4096:.3f})",
            *(f"{x['dynamic'][key]:.2f}" for key in ("streamed_bits", "lossless_bits", "lossy_bits")),
        ]
        for x in layers
    ]  # fmt: skip


# ---- memory and provenance ----------------------------------------------------------------------
def _memory_view(data: dict[str, Any]) -> dict[str, Any]:
    """The memory map with one place along the time axis for every run of steps of one node."""
    place: list[int] = []
    names: list[str] = []
    labels: list[str] = []  # number of the first step of each run
    for step in data["steps"]:
        if not names or names[-1] != step["node"]:
            names.append(step["node"])
            labels.append(str(step["index"]))
        place.append(len(names) - 1)
    memory, nodes = data["memory"], [node["name"] for node in data["nodes"]]
    buffers = [
        buffer | {when: -1 if buffer[when] < 0 else place[buffer[when]] for when in ("first", "last")}
        for buffer in memory["buffers"]
    ]
    colours = [figures.colour(nodes.index(b["tensors"][0]) % len(figures.COLOURS)) for b in buffers]
    return {
        "figure": figures.memory(buffers, labels, memory["used"], colours),
        "used": _number(memory["used"]),
        "bytes": _number(memory["bytes"]),
        "rows": [
            [", ".join(b["tensors"]), _number(b["base"]), _number(b["size"]),
             "before the run" if b["first"] < 0 else str(b["first"]), "–" if b["last"] < 0 else str(b["last"])]
            for b in memory["buffers"]
        ],
    }  # fmt: skip


#: Entries of `info` that come first, in this order; what is not known is not shown.
_FIRST = ("command", "version", "commit", "seed", "date")


def _provenance(data: dict[str, Any]) -> list[tuple[str, Any]]:
    info = data["info"]
    order = [*(k for k in _FIRST if k in info), *(k for k in info if k not in _FIRST)]
    rows: list[tuple[str, Any]] = [(_words(k), _table_of(info[k]) or _text(info[k])) for k in order]
    if data["tool_versions"]:
        rows.append(("written with", _text(data["tool_versions"])))
    return rows


def _table_of(value: Any) -> dict[str, Any] | None:
    """A list or a mapping of records with the same plain fields as a table; None for anything else."""
    named = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
    records = list(named.values())
    if not records or not all(isinstance(r, dict) and r and r.keys() == records[0].keys() for r in records):
        return None
    if not all(isinstance(v, _SCALAR) for r in records for v in r.values()):
        return None
    head = ["" if isinstance(value, dict) else "#", *map(_words, records[0])]
    return {"head": head, "rows": [[_words(str(k)), *map(_text, r.values())] for k, r in named.items()]}


def _hardware_view(hardware: dict[str, Any]) -> dict[str, Any]:
    left_out = ("hash", "group_segments", "ideal_bits")
    return hardware | {"parameters": [(_words(k), str(v)) for k, v in hardware.items() if k not in left_out]}
