"""The pages of collect.py's and compare.py's numbers: what figures, sentences and sums need; templates do the rest.

The template (templates/report.html.j2) reads the numbers themselves as `data` and formats them with the filters below.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from golden_model.graph.host import COUNTS, with_total
from golden_model.registers import COUNTER_NAMES
from sim.reporting import figures, glossary

_TEMPLATES = Path(__file__).parent / "templates"
_INDEX = {name: i for i, name in enumerate(COUNTER_NAMES)}


def render(data: dict[str, Any], pictures: np.ndarray) -> str:
    """The report as one HTML page; every text is escaped, figures are inline.

    data : from `collect.collect`. pictures : uint8 (B, C, H, W), the test pictures to show.
    """
    return _template("report.html.j2").render(data=data, **view(data, pictures))


def render_comparison(found: dict[str, Any]) -> str:
    """The page of `compare.compare`."""
    return _template("compare.html.j2").render(data=found, **_comparison_view(found))


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= FILTERS
    return environment.get_template(name)


def view(data: dict[str, Any], pictures: np.ndarray) -> dict[str, Any]:
    """What the template places beside the numbers; see `render`."""
    return {
        "dynamic": [layer for layer in data["layers"] if layer["dynamic"]],
        "rtl": _rtl_view(data["run"]),
        "pictures": _pictures_view(data, pictures),
        "network": _network_view(data),
        "accuracy": _accuracy_view(data["accuracy"]),
        "parameters": [
            (words(name), value)
            for name, value in data["hardware"].items()
            if name not in ("hash", "preset", "group_segments", "ideal_bits", "pairs")
        ],
        "work": _work_view(data),
        "skipped": _skipped_view(data),
        "energy": _energy_view(data),
        "widths": _widths_view(data),
        "histograms": _histograms_view(data["layers"]),
        "memory": _memory_view(data),
        "host": _host_view(data["host"]),
        "summary": _summary_view(data),
        "crossbars": _crossbars_view(data),
        "shares": _shares_view(data["layers"]),
        "trade": _trade_view(data["machines"]),
        "confused": _confusion_view(data),
        "rivals": _rivals_view(data),
        "origin": _origin(data),
        "tables": _tables(data["info"]),
        "contents": [(a, label) for a, label in _CONTENTS if _is_there(a, data)],
        "glossary": glossary.WORDS,
    }


_CONTENTS = (
    ("origin", "Where it comes from"), ("rtl", "Simulated hardware"), ("pictures", "Pictures"), ("network", "Dataflow"),
    ("crossbars", "Floor plan"), ("widths", "Block widths"), ("histograms", "A/D conversion"),
    ("dynamic", "Dynamic precision"), ("energy", "Energy"), ("ladder", "Which saving earns what"),
    ("work", "Work and time"), ("accuracy", "Accuracy"), ("confusion", "Confusion"), ("rivals", "Other machines"),
    ("memory", "Memory"), ("hardware", "Configuration"), ("glossary", "Words"),
)  # fmt: skip


def _is_there(anchor: str, data: dict[str, Any]) -> bool:
    if anchor == "dynamic":
        return any(layer["dynamic"] for layer in data["layers"])
    return anchor != "confusion" or data["confusion"] is not None


# ---- texts --------------------------------------------------------------------------------------
def number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def count(value: float) -> str:
    """Thousands separated; one decimal for a mean that is not whole."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.1f}"


def factor(reference: float, value: float) -> str:
    """How many times less `value` is."""
    if reference == value:
        return "1×"
    return f"{reference / value:.3g}×" if value else "–"


def percent(part: float, whole: float = 1.0, digits: int = 1) -> str:
    return f"{100 * part / whole:.{digits}f} %" if whole else "–"


def nanojoules(picojoules: float) -> str:
    return f"{picojoules / 1000:,.4g}" if picojoules < 1e6 else f"{picojoules / 1000:,.0f}"


def joules(picojoules: float) -> str:
    """Three digits and a unit."""
    for limit, unit in ((1e12, "J"), (1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ")):
        if picojoules >= 0.9995 * limit:
            return f"{picojoules / limit:.3g} {unit}"
    return f"{picojoules:.3g} pJ"


def digits(value: float) -> str:
    """Whole numbers in full, others with four digits."""
    return f"{value:,.0f}" if float(value).is_integer() or value >= 1e4 else f"{value:,.4g}"


def milliseconds(clocks: float, mhz: float) -> str:
    value = clocks / mhz / 1000
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def plural(count: int, noun: str) -> str:
    return f"{number(count)} {noun}" if count == 1 else f"{number(count)} {noun}s"


def words(key: str) -> str:
    return key.replace("_", " ")


def span(values: Sequence[int]) -> str:
    return "–" if not values else str(values[0]) if len(values) == 1 else f"{values[0]}–{values[-1]}"


def steps(numbers: Sequence[int]) -> str:
    """Numbers of steps as ranges: 3, 5–7."""
    parts: list[list[int]] = []
    for one in numbers:
        if parts and parts[-1][1] == one - 1:
            parts[-1][1] = one
        else:
            parts.append([one, one])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in parts) or "none"


_SCALAR = str | int | float | bool | None


def text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, _SCALAR):
        return str(value)
    if isinstance(value, dict) and all(isinstance(v, _SCALAR) for v in value.values()):
        return ", ".join(f"{words(str(k))} {text(v)}" for k, v in value.items())
    if isinstance(value, list) and all(isinstance(v, _SCALAR) for v in value):
        return ", ".join(map(text, value))
    shown = json.dumps(value)
    return shown if len(shown) <= 400 else shown[:400] + " …"


def fixed(value: float, form: str) -> str:
    """A number in one of Python's formats."""
    return format(value, form)


#: What the template writes as `value | name(arguments)`.
FILTERS = {
    one.__name__: one
    for one in (
        number, count, factor, percent, nanojoules, joules, digits, text, milliseconds, plural, words, span,
        steps, fixed, figures.short, figures.colour,
    )
}  # fmt: skip


# ---- what was run -------------------------------------------------------------------------------
def _rtl_view(run: dict[str, Any] | None) -> dict[str, Any] | None:
    """Counts of pictures, and the settings of an imperfect crossbar; None without a run."""
    if run is None:
        return None
    labelled = [row for row in run["images"] if row["label"] >= 0]
    settings = {k: v for k, v in run["crossbar"].items() if k not in ("kind", "seed") and v not in (0, "")}
    return {
        "agreed": run["agrees"] or not run["judged"],
        "count": len(run["images"]),
        "changed": sum(row["predicted"] != row["golden_predicted"] for row in run["images"]),
        "labelled": len(labelled),
        "right": sum(row["label"] == row["predicted"] for row in labelled),
        "settings": text(settings) if settings and not run["agrees"] else None,
    }


def _pictures_view(data: dict[str, Any], pictures: np.ndarray) -> list[dict[str, Any]]:
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
    return items


# ---- the network --------------------------------------------------------------------------------
def _colours(data: dict[str, Any]) -> dict[str, str]:
    """A colour for every crossbar layer, the same in all figures."""
    return {name: figures.colour(i) for i, name in enumerate(data["floor"]["nodes"])}


def _network_view(data: dict[str, Any]) -> dict[str, Any]:
    kinds = list(dict.fromkeys(node["kind"] for node in data["nodes"]))
    colours = {kind: figures.colour(i) for i, kind in enumerate(kinds)}
    nodes, placed = [], {row["node"]: row for row in data["rows"]}
    of_host = [row["node"] for row in data["host"]]
    for node in data["nodes"]:
        where = {0: "no step of its own", 1: "step"}.get(len(node["steps"]), "steps")
        where = (
            ""
            if node["kind"] == "image" or node["name"] in of_host
            else f", {where}" + (f" {steps(node['steps'])}" if node["steps"] else "")
        )
        held = placed.get(node["name"], {})
        if held.get("pairs"):
            where += f", {plural(held['pairs'], 'pair')}, {plural(held['ous'], 'OU')}"
        nodes.append(
            {
                "name": node["name"],
                "inputs": node["inputs"],
                "kind": node["kind"],
                "first": f"{node['name']} → {' × '.join(map(str, node['shape']))}",
                "second": f"{node['kind']}, {node['bits']} bits{where}",
            }
        )
    return {"figures": figures.graph(nodes, colours), "legend": [(kind, colours[kind]) for kind in kinds]}


def _accuracy_view(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Accuracies in percent; low, high : ends of the scale on which `place` is."""
    if not rows:
        return None
    values = [100 * row["accuracy"] for row in rows]
    margin = max(0.5, 0.2 * (max(values) - min(values)))
    low, high = max(0.0, min(values) - margin), min(100.0, max(values) + margin)
    shown = [
        row | {"percent": value, "change": value - before, "place": 100 * (value - low) / (high - low)}
        for row, value, before in zip(rows, values, [values[0], *values], strict=False)
    ]
    return {"rows": shown, "low": low, "high": high}


# ---- work and time ------------------------------------------------------------------------------
def _work_view(data: dict[str, Any]) -> dict[str, Any]:
    rows, hardware = data["rows"], data["hardware"]
    per_ou, per_pair = 2 * hardware["ou_rows"] * hardware["ou_cols"], 2 * hardware["rows"] * hardware["cols"]
    timed, colours = [row for row in rows if row["cycles"]], _colours(data)
    lanes = hardware["lanes"] * hardware["macros"]
    summed = [prefix + key for key in ("ad_operations", "cycles", "energy_pj") for prefix in ("", "baseline_")]
    return {
        "per_ou": per_ou,
        "per_pair": per_pair,
        "total": {key: sum(row[key] for row in rows) for key in summed},
        "longest": max(row["cycles"] for row in rows),
        "lanes": figures.lanes_over_time(timed, lanes, [colours.get(row["node"], _NO_LAYER) for row in timed]),
        "mean_busy": sum(row["ad_operations"] for row in rows) / (sum(row["cycles"] for row in rows) * lanes),
        "filling": _filling(data),
    }


def _filling(data: dict[str, Any]) -> tuple[dict[str, int] | None, dict[str, int] | None]:
    """What depthwise and grouped convolutions fill of crossbars, and what all other layers do; None without any."""
    used = [row for row in data["rows"] if row["pairs"]]
    grouped = [row for row in used if row["kind"] in ("depthwise convolution", "grouped convolution")]

    def total(rows: list[dict[str, Any]]) -> dict[str, int] | None:
        found = {key: sum(row[key] for row in rows) for key in ("weight_cells", "ous", "pairs")}
        return {"layers": len(rows), "steps": sum(len(row["steps"]) for row in rows), **found} if rows else None

    return total(grouped), total([row for row in used if row not in grouped])


# ---- savings ------------------------------------------------------------------------------------
def _skipped_view(data: dict[str, Any]) -> list[dict[str, Any]]:
    """OU activations of every layer and of all: those that savings left out, that were left, and the baseline's."""
    names = [layer["name"] for layer in data["layers"]]
    base, ours = (
        np.array([machine["nodes"][n] for n in names]) for machine in (data["machines"][0], data["machines"][-1])
    )
    rows = []
    for name, before, after in [*zip(names, base, ours, strict=True), ("all", base.sum(axis=0), ours.sum(axis=0))]:
        keys = ("skipped_planes", "skipped_bits", "skipped_zero_slices", "ou_activations")
        values = {key: float(after[_INDEX[key]]) for key in keys}
        baseline = float(before[_INDEX["ou_activations"]])
        rows.append({"name": name, "dense": sum(values.values()), "baseline": baseline, **values})
    return rows


def _energy_view(data: dict[str, Any]) -> dict[str, Any]:
    """Groups that any machine spends energy in, rows that cost anything, and names of the others."""
    machines, rows = data["machines"], data["energy"]["rows"]
    used = [row for row in rows if row["ours_pj"] or row["baseline_pj"]]
    groups = [g for g in machines[0]["energy_groups"] if any(m["energy_groups"][g] for m in machines)]
    return {
        "groups": groups,
        "top": max(machine["energy_pj"] for machine in machines) or 1.0,
        "rows": used,
        "by_machine": [[nanojoules(m["energy_groups"][g]) for g in groups] for m in machines],
        "unused": [row["name"] for row in rows if row not in used],
    }


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
                f"weight, {percent(layer['pruned'], layer['blocks'])} of the blocks pruned"
                + (f"; a square is {each} × {each} blocks, their mean" if each > 1 else ""),
                "figure": figure,
            }
        )
    every = np.concatenate([np.ravel(w) for layer in layers for w in layer["widths"]])
    histogram = np.bincount(every, minlength=bits + 1)
    legend = figures.width_legend(bits)
    keys = ("weights", "plane_bits", "sign_bits", "table_bits", "blocks", "planes", "pruned", "ous")
    placed = {row["node"]: row for row in data["rows"]}
    storage = [
        layer | {"ous": placed[layer["name"]]["ous"], "planes": sum(int(np.sum(w)) for w in layer["widths"])}
        for layer in layers
    ]
    return {
        "maps": maps,
        "legend": legend,
        "histogram": figures.bars(
            histogram.tolist(), [label for label, _ in legend], [colour for _, colour in legend],
            "planes of a block; above the bars: % of all blocks",
        ),
        "counts": [
            (layer["name"], sum(np.bincount(np.ravel(w), minlength=bits + 1) for w in layer["widths"]).tolist())
            for layer in layers
        ],
        "rows": [*storage, {"name": "all"} | {k: sum(x[k] for x in storage) for k in keys}],
    }  # fmt: skip


def _histograms_view(layers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A figure of every layer, and what its converter does."""
    shown = []
    for layer in layers:
        adc, arrays = layer["adc"], (np.array(layer[key]) for key in ("histogram", "range_flag", "operations"))
        said = f"uniform, {span(adc['operations_r2'])} operations"
        if adc["mode"] != "uniform":
            exact = "exact" if adc["lossless"] else f"not exact for every {'difference' if layer['first'] else 'count'}"
            mode = "twin range" if adc["mode"] == "twin" else adc["mode"]
            said = f"{mode}, mean {adc['mean_operations']:.2f} operations, {exact}"
        figure = figures.count_histogram(*arrays, first=layer["first"])
        shown.append({"name": layer["name"], "text": said, "figure": figure})
    return shown


def _shares_view(layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Percents of the histograms, for a table."""
    first, size = layers[0]["first"], len(layers[0]["histogram"])
    rows = [
        (layer["name"], [f"{100 * n / max(1, sum(layer['histogram'])):.2f}" for n in layer["histogram"]])
        for layer in layers
    ]
    return {"heads": [str(first + i) for i in range(size)], "rows": rows}


# ---- the machine as a whole ---------------------------------------------------------------------
#: Colour of what is no crossbar layer.
_NO_LAYER = "#8a94a6"
#: Accuracies beside the last in the summary.
_FIRST = ("float", "quantised", "eight_bit", "integer")
#: Classes up to which a table with a number in every cell can be read.
_MOST_CELLS = 20


def _summary_view(data: dict[str, Any]) -> dict[str, Any]:
    rows, found = data["accuracy"], data["area"]
    said = ", ".join(f"{row['stage']} {percent(row['accuracy'], 1, 2)}" for row in rows[:-1] if row["key"] in _FIRST)
    if rows:
        tested = rows[-1]["images"]
        said = rows[-1]["stage"] + (f"; {said}" if said else "")
        said += f" ({number(tested)} test pictures)" if tested is not None else ""
    areas = [] if found is None else [f"{v:.3g}" for v in [*found["mm2_by_group"].values(), found["mm2"]]]
    return {"accuracy": said, "areas": areas}


def _crossbars_view(data: dict[str, Any]) -> dict[str, Any]:
    plan, colours = data["floor"], _colours(data)
    drawn = figures.floor_plan(plan["pairs"], list(colours.values())) if plan["pairs"] else []
    places = len(plan["pairs"]) * plan["places_of_a_pair"]
    return {"figures": drawn, "legend": list(colours.items()), "places": places}


def _trade_view(machines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Accuracy against energy, of machines whose accuracy is known; None for less than two."""
    rows = [one for one in machines if one["accuracy"] is not None and one["energy_pj"]]
    if len(rows) < 2:
        return None
    points = [(one["energy_pj"] / 1000, 100 * one["accuracy"]) for one in rows]
    figure = figures.scatter(points, "energy of a picture, nJ", "correct, %", "Accuracy against energy")
    return {"figure": figure, "rows": rows}


def _rivals_view(data: dict[str, Any]) -> str | None:
    """Energy against time; None under a table that prices nothing."""
    if not all(row["energy_pj"] for row in data["rivals"]):
        return None
    points = [(row["cycles"] / data["clock_mhz"] / 1000, row["energy_pj"] / 1000) for row in data["rivals"]]
    names = f"time of a picture at {data['clock_mhz']:g} MHz, ms", "energy of a picture, nJ"
    return figures.scatter(points, *names, "Energy against time of machines", log_y=True)


def _confusion_view(data: dict[str, Any]) -> dict[str, Any] | None:
    """Cells with a tint, or a figure of many classes, and the pairs that are confused most often."""
    if data["confusion"] is None:
        return None
    counts = data["confusion"]["counts"]
    names = data["classes"] or [str(i) for i in range(len(counts))]
    wrong = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n]
    worst = [
        {"true": names[i], "chosen": names[j], "count": n} for n, i, j in sorted(wrong, key=lambda one: -one[0])[:5]
    ]
    if len(counts) > _MOST_CELLS:
        return {"figure": figures.confusion(counts), "worst": worst}
    most = max((n for n, _, _ in wrong), default=1)
    rows = []
    for i, row in enumerate(counts):
        cells = [
            {
                "count": n,
                "tint": f"rgb(31 158 137 / {0.15 + 0.5 * n / sum(row):.2f})" if i == j
                else f"rgb(217 130 59 / {0.15 + 0.6 * n / most:.2f})",
            }
            if n
            else {"count": 0, "tint": ""}
            for j, n in enumerate(row)
        ]  # fmt: skip
        rows.append({"name": names[i], "cells": cells, "right": percent(row[i], sum(row))})
    return {"figure": None, "names": names, "rows": rows, "worst": worst}


# ---- host, memory and provenance ----------------------------------------------------------------
def _host_view(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The host's counts as cells, a row per node and their sums; None if it has nothing to do."""
    if not rows:
        return None
    return {
        "head": ["node", *map(words, COUNTS)],
        "rows": [[row["node"], *(count(row[name]) for name in COUNTS)] for row in with_total(rows)],
    }


def _memory_view(data: dict[str, Any]) -> str:
    """The memory map with one place along the time axis for every run of steps of one node."""
    place: list[int] = []
    names: list[str] = []
    labels: list[str] = []  # number of the first step of each run
    for step in data["memory"]["order"]:
        if not names or names[-1] != step["node"]:
            names.append(step["node"])
            labels.append("host" if step["step"] is None else str(step["step"]))
        place.append(len(names) - 1)
    memory, nodes = data["memory"], [node["name"] for node in data["nodes"]]
    buffers = [
        buffer | {when: -1 if buffer[when] < 0 else place[buffer[when]] for when in ("first", "last")}
        for buffer in memory["buffers"]
    ]
    colours = [figures.colour(nodes.index(b["tensors"][0]) % len(figures.COLOURS)) for b in buffers]
    return figures.memory(buffers, labels, memory["used"], colours)


def _origin(data: dict[str, Any]) -> list[tuple[str, str]]:
    """What is known of where the numbers come from, in order."""
    made, info, hardware = data["made"], data["info"], data["hardware"]
    known = made | {k: v for k, v in info.items() if k in _PLAIN} | {
        "hardware preset": f"{hardware['preset']} (configuration {hardware['hash'][:12]})",
        "energy table": f"{data['energy']['table']}: {data['energy']['title']}",
        "clock": f"{data['clock_mhz']:g} MHz, an assumption (--clock-mhz)",
        "pictures averaged over": f"{data['images']}; bit lines looked at in {data['histogram_images']}",
    }  # fmt: skip
    if data["tool_versions"]:
        known["image written with"] = text(data["tool_versions"])
    order = [*(k for k in _PLAIN if k in known), *(k for k in known if k not in _PLAIN)]
    return [(words(k), text(known[k])) for k in order]


#: Of a report or of `info`, in this order; what is not known is not shown.
_PLAIN = ("command", "version", "commit", "date", "seed", "data", "training command")


def _tables(info: dict[str, Any]) -> list[tuple[str, Any]]:
    """Everything else that the network knows of how it was made."""
    return [(words(k), _table_of(v) or text(v)) for k, v in info.items() if k not in _PLAIN]


def _table_of(value: Any) -> dict[str, Any] | None:
    """A list or a mapping of records with the same plain fields as a table; None for anything else."""
    named = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
    records = list(named.values())
    if not records or not all(isinstance(r, dict) and r and r.keys() == records[0].keys() for r in records):
        return None
    if not all(isinstance(v, _SCALAR) for r in records for v in r.values()):
        return None
    head = ["" if isinstance(value, dict) else "#", *map(words, records[0])]
    return {"head": head, "rows": [[words(str(k)), *map(text, r.values())] for k, r in named.items()]}


# ---- two reports --------------------------------------------------------------------------------
def _comparison_view(found: dict[str, Any]) -> dict[str, Any]:
    presets = [side["preset"] for side in found["sides"]]
    labels = presets if presets[0] != presets[1] else ["A", "B"]
    totals, measured = (
        {row["name"]: row for row in found["totals"]},
        [r for r in found["accuracy"] if r["points"] is not None],
    )
    head = []
    if measured:
        row = measured[-1]
        shown = [percent(row[side], 1, 2) for side in "ab"]
        head.append({"a": shown[0], "b": shown[1], "words": f"correct, {row['name']}: {row['points']:+.2f} points"})
    energies = found["totals"][0]
    head.append(_headline(energies, [joules(1000 * energies[side]) for side in "ab"], "energy of a picture"))
    for name in ("milliseconds", "TOPS/W", "modelled area, mm²", "magnitude bits a weight"):
        if name in totals:
            head.append(_headline(totals[name], [f"{totals[name][side]:,.3g}" for side in "ab"], name))
    drawn = []
    for title, key in (("Clocks", "cycles"), ("Energy, pJ", "energy_pj")):
        rows = [row for row in found["layers"] if row[key]["a"] or row[key]["b"]]
        a, b = ([row[key][side] for row in rows] for side in "ab")
        drawn.append((title, figures.pairs_of_bars([row["name"] for row in rows], a, b, title)))
    return {"labels": labels, "headline": head, "figures": drawn}


def _headline(row: dict[str, Any], shown: Sequence[str], name: str) -> dict[str, str]:
    change = "the same" if row["a"] == row["b"] else f"{100 * (row['change'] or 0):+.1f} %"
    return {"a": shown[0], "b": shown[1], "words": f"{name}: {change}"}
