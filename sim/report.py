"""One self-contained HTML report of a deployment image: `python -m sim.report IMAGE_DIR`.

The report links to nothing: style, pictures and figures are inside the file. Every number in it is also
available as JSON (`--json`), and every energy as events x table row (`--trace`).

Exit status: 0 written, 1 written but the hardware run that it shows disagreed with the golden model,
2 bad usage or bad input.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jinja2
import numpy as np
import typer
from rich.console import Console

from golden_model import timing, trq
from golden_model.cost import energy as cost
from golden_model.crossbar.layer import Layer
from golden_model.image import image as deployment
from golden_model.registers import COUNTER_NAMES
from sim.reporting import figures, measure

_INDEX = {name: i for i, name in enumerate(COUNTER_NAMES)}
_TEMPLATES = Path(__file__).parent / "reporting" / "templates"


# ---- collecting ---------------------------------------------------------------------------------
def collect(
    image: Any, run: dict[str, Any] | None = None, *, table: str = cost.DEFAULT_TABLE, images: int = 10
) -> dict:
    """Everything the report says, as JSON-able numbers and texts.

    Parameters
    ----------
    image : golden_model.image.Image.
    run : content of the file that `python -m sim.run --json` wrote, or None.
    table : energy table, name or file.
    images : test vectors to average over, at most as many as the image holds.

    Raises ValueError for an image without test vectors, a run of another image, and a table that cannot be
    read.
    """
    network, hardware, vectors = image.network, image.network.hardware, image.vectors
    energy_table, shown_run = cost.load_table(table), _run(run, image)
    if not len(vectors.images):
        raise ValueError(f"network {network.name}: the image holds no test vectors to report on")
    count = min(images, len(vectors.images))
    pictures = vectors.images[:count]
    measured = measure.measure(network, pictures[:2])
    steps = measure.steps(network, pictures, vectors.events[:count])
    baseline, ours = steps[0], steps[-1]

    layers = []
    for i, (layer, m) in enumerate(zip(network.layers, measured, strict=True)):
        family = network.info.get("families", {}).get(layer.name, "")
        layers.append(_layer(layer, m, image, ours.events[i]) | {"family": str(family)})
    reports = {name: _energy(step, network, energy_table) for name, step in (("baseline", baseline), ("ours", ours))}
    return {
        "name": network.name,
        "classes": list(network.classes),
        "images": count,
        "accuracy": _accuracy(network.info),
        "info": {k: v for k, v in network.info.items() if k not in _SHOWN_ELSEWHERE},
        "layers": layers,
        "layer_names": [layer.name for layer in network.layers],
        "histogram_images": min(2, count),
        "baseline_planes": min(cost.BASELINE_PLANES, hardware.weight_bits),
        "steps": [_step(step, network, energy_table) for step in steps],
        "baseline_8_planes": _step(
            measure.Step(
                f"ISAAC-like baseline, {hardware.weight_bits} planes",
                cost.baseline_events(network, hardware.weight_bits).counts.astype(float),
                width_table=False,
                own_input_bits=False,
            ),
            network,
            energy_table,
        ),
        "energy": {
            "table": energy_table.name,
            "title": energy_table.title,
            "note": energy_table.note,
            "rows": [
                {
                    **{f: getattr(c, f) for f in ("name", "group", "quantity", "energy_pj", "source", "why")},
                    "events": float(reports["ours"].counts[:, j].sum()),
                    "picojoules": float(reports["ours"].picojoules[:, j].sum()),
                }
                for j, c in enumerate(energy_table.components)
            ],
            "trace": reports["ours"].trace_rows(),
            "baseline_trace": reports["baseline"].trace_rows(),
            "tables": [_table(name, baseline, ours, network) for name in cost.table_names()],
        },
        "rtl": shown_run,
        "digits": _digits(vectors, count, run),
        "hardware": {
            **hardware.as_dict(),
            "hash": hardware.hash,
            "lanes": hardware.lanes,
            "ideal_bits": hardware.ideal_bits,
            "segments_per_group": hardware.segments_per_group,
        },
        "tool_versions": image.manifest.get("tool_versions", {}),
    }


def _layer(layer: Layer, measured: measure.LayerMeasurement, image: Any, events: np.ndarray) -> dict[str, Any]:
    hardware = image.network.hardware
    registers, table = layer.registers, measure.operations_of(layer, hardware)
    conversions = float(events[_INDEX["conversions_r1"]] + events[_INDEX["conversions_r2"]])
    by_range = {
        flag: [int(n) for n in np.unique(np.asarray(table.operations)[np.asarray(table.range_flag) == flag])]
        for flag in (0, 1)
    }
    storage = _storage(layer, hardware)
    return {
        "name": layer.name,
        "kind": layer.kind,
        "shape": _shape(layer),
        "windows": layer.windows,
        "k": layer.k,
        "outputs": layer.outputs,
        "widths": layer.block_widths.tolist(),
        **storage,
        "histogram": measured.histogram.tolist(),
        "range_flag": np.asarray(table.range_flag).tolist(),
        "operations": np.asarray(table.operations).tolist(),
        "adc": {
            "mode": registers.mode,
            "n_r1": registers.n_r1,
            "n_r2": registers.n_r2,
            "m": registers.m,
            "bias": registers.bias,
            "counts_per_lsb": layer.counts_per_lsb,
            "lossless": trq.lossless(registers, hardware, layer.min_count),
            "operations_r1": by_range[0],
            "operations_r2": by_range[1],
            "share_r1": float(events[_INDEX["conversions_r1"]]) / conversions if conversions else 0.0,
            "mean_operations": float(events[_INDEX["ad_operations"]]) / conversions if conversions else 0.0,
        },
        "dynamic": None
        if layer.dynamic is None
        else {
            "l_max": layer.dynamic.l_max,
            "tau_sq": layer.dynamic.tau_sq,
            "streamed_bits": measured.streamed_bits,
            "lossless_bits": measured.lossless_bits,
            "lossy_bits": measured.lossy_bits,
        },
        "skip_zero_slices": layer.skip_zero_slices,
        "input_bits": layer.input_bits,
    }


def _shape(layer: Layer) -> str:
    if layer.kind == "linear":
        return f"{layer.k} → {layer.outputs}"
    pooled = f", pool {layer.pool}" if layer.pool > 1 else ""
    return (
        f"{layer.channels}×{layer.height}×{layer.width} → {layer.outputs}, "
        f"kernel {layer.kernel_height}×{layer.kernel_width}{pooled}"
    )


def _storage(layer: Layer, hardware: Any) -> dict[str, Any]:
    """Bits that a layer stores; padding of edge blocks is left out (system.md §3, §8)."""
    segments, columns = layer.block_widths.shape
    rows = np.full(segments, hardware.ou_rows)
    rows[-1] = layer.k - (segments - 1) * hardware.ou_rows
    cols = np.full(columns, hardware.ou_cols)
    cols[-1] = layer.outputs - (columns - 1) * hardware.ou_cols
    weights = np.outer(rows, cols)
    plane_bits = int((weights * layer.block_widths).sum())
    sign_bits = int(weights[layer.block_widths > 0].sum())
    return {
        "weights": int(weights.sum()),
        "plane_bits": plane_bits,
        "sign_bits": sign_bits,
        "table_bits": cost.WIDTH_ENTRY_BITS * layer.block_widths.size,
        "blocks": int(layer.block_widths.size),
        "pruned": int((layer.block_widths == 0).sum()),
        "ous": int(layer.block_widths.sum()),
    }


#: Keys of info["accuracy"] in the order of the ladder, and what the report calls them.
ACCURACY_STAGES = {
    "float": "float",
    "eight_bit": "8-bit",
    "bwq": "BWQ",
    "trq": "with TRQ",
    "redy": "with ReDy",
}
#: Entries of `info` that the report shows elsewhere, or measures itself.
_SHOWN_ELSEWHERE = ("accuracy", "histograms", "families", "operations_per_conversion", "isaac_like", "mean_bits")


def _accuracy(info: dict[str, Any]) -> list[dict[str, Any]]:
    """The ladder in order, rows {"stage", "accuracy" 0..1, "images" or None}; empty if the image has none.

    info["accuracy"] maps the keys of `ACCURACY_STAGES` (those that exist; others follow under their own
    name) to a share of info["test_images"]; a list of finished rows is taken as it is.
    """
    found = info.get("accuracy", {})
    if isinstance(found, list):
        return [row for row in found if isinstance(row, dict) and {"stage", "accuracy"} <= set(row)]
    if not isinstance(found, dict):
        return []
    order = [*(k for k in ACCURACY_STAGES if k in found), *(k for k in found if k not in ACCURACY_STAGES)]
    images = info.get("test_images")
    return [{"stage": ACCURACY_STAGES.get(k, k), "accuracy": float(found[k]), "images": images} for k in order]


def _digits(vectors: Any, count: int, run: dict[str, Any] | None) -> dict[str, Any]:
    """Labels and predicted classes; the hardware's where it ran (`simulated` counts them), else the golden model's."""
    predicted = np.asarray(vectors.logits[:count]).argmax(axis=1).tolist()
    simulated = [row for row in (run or {}).get("images", []) if 0 <= row["index"] < count]
    for row in simulated:
        predicted[row["index"]] = row["predicted"]
    labels = np.asarray(vectors.labels[:count]).tolist()
    return {"labels": labels, "predicted": predicted, "simulated": len(simulated)}


def _energy(step: measure.Step, network: Any, table: cost.ComponentTable) -> cost.EnergyReport:
    return cost.energy(
        step.events,
        network,
        table,
        width_table=step.width_table,
        own_input_bits=step.own_input_bits,
        extra=step.extra,
    )


def _step(step: measure.Step, network: Any, table: cost.ComponentTable) -> dict[str, Any]:
    report = _energy(step, network, table)
    named = {name: step.events[:, i].tolist() for name, i in _INDEX.items()}
    return {
        "name": step.name,
        "layers": named | {"energy_pj": report.by_layer.tolist()},
        "totals": {name: sum(values) for name, values in named.items()}
        | {
            "energy_pj": report.total_pj,
            "conversions": sum(named["conversions_r1"]) + sum(named["conversions_r2"]),
            "cycles": sum(named["cycles"]) + timing.c_start(network.hardware),
        },
        "energy_groups": report.by_group,
    }


def _table(name: str, baseline: measure.Step, ours: measure.Step, network: Any) -> dict[str, Any]:
    table = cost.load_table(name)
    b = _energy(baseline, network, table)
    o = _energy(ours, network, table)
    return {
        "name": name,
        "title": table.title,
        "baseline_pj": b.total_pj,
        "ours_pj": o.total_pj,
        "baseline_adc_share": b.share("ADC"),
        "ours_adc_share": o.share("ADC"),
    }


#: What `python -m sim.run --json` writes, as far as the report reads it.
RUN_SCHEMA, RUN_VERSION = "ohmloom-run", 1
_RUN_FIELDS = (
    "image_sha256",
    "backend",
    "crossbar",
    "judged",
    "agrees",
    "first_difference",
    "images",
    "cycles_per_image",
    "clocks_per_second",
    "seconds",
    "build_seconds",
)


def _run(run: dict[str, Any] | None, image: Any) -> dict[str, Any] | None:
    """The fields of a run that the report shows; ValueError for a run of another image or another form."""
    if run is None:
        return None
    if (run.get("schema"), run.get("version")) != (RUN_SCHEMA, RUN_VERSION):
        raise ValueError(
            f"run file: schema and version must be {RUN_SCHEMA!r} and {RUN_VERSION}, "
            f"got {run.get('schema')!r} and {run.get('version')!r}"
        )
    missing = [name for name in _RUN_FIELDS if name not in run]
    if missing:
        raise ValueError(f"run file: {missing[0]} is missing")
    needed = {"index", "label", "predicted", "golden_predicted"}
    rows = run["images"]
    if not isinstance(rows, list) or any(not isinstance(row, dict) or not needed <= set(row) for row in rows):
        raise ValueError(f"run file: images must be a list of objects with {', '.join(sorted(needed))}")
    if not isinstance(run["crossbar"], dict):
        raise ValueError(f"run file: crossbar must be an object, got {run['crossbar']!r}")
    if run["image_sha256"] != image.manifest["manifest_sha256"]:
        raise ValueError("run file: it belongs to another image, run python -m sim.run on this one")
    return {name: run[name] for name in _RUN_FIELDS}


# ---- showing ------------------------------------------------------------------------------------
def _number(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}"


def _count(value: float) -> str:
    """Thousands separated; one decimal for a mean that is not whole."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.1f}"


def _factor(reference: float, value: float) -> str:
    if reference == value:
        return "1×"
    return f"{reference / value:.3g}×" if value else "–"


def _percent(part: float, whole: float = 1.0, digits: int = 1) -> str:
    return f"{100 * part / whole:.{digits}f} %" if whole else "–"


def _nanojoules(picojoules: float) -> str:
    return f"{picojoules / 1000:,.4g}" if picojoules < 1e6 else f"{picojoules / 1000:,.0f}"


def view(data: dict[str, Any], pictures: np.ndarray) -> dict[str, Any]:
    """The collected data as the texts and figures that the template places.

    pictures : uint8 (B, C, H, W), the test pictures to show.
    """
    hardware, steps = data["hardware"], data["steps"]
    first, last = steps[0], steps[-1]
    base, ours = first["totals"], last["totals"]
    layers = [
        layer
        | {
            "mean_width": f"{np.mean(layer['widths']):.2f}",
            "pruned": f"{layer['pruned']} of {layer['blocks']}",
            "width_figure": figures.width_map(np.array(layer["widths"]), hardware["weight_bits"]),
            "histogram_figure": figures.count_histogram(
                np.array(layer["histogram"]), np.array(layer["range_flag"]), np.array(layer["operations"])
            ),
            "adc_text": _adc_text(layer["adc"]) + (f", family {layer['family']}" if layer["family"] else ""),
            "adc": _adc_view(layer["adc"]),
        }
        for layer in data["layers"]
    ]
    names = data["layer_names"]
    return {
        "name": data["name"],
        "headline": _headline(data),
        "cards": _cards(data),
        "contents": [
            ("rtl", "Simulated hardware"),
            ("digits", "Pictures"),
            ("accuracy", "Accuracy"),
            ("widths", "Block widths"),
            ("histograms", "A/D conversion"),
            *([("dynamic", "Dynamic precision")] if any(x["dynamic"] for x in data["layers"]) else []),
            ("cost", "Work and time"),
            ("energy", "Energy"),
            ("hardware", "Hardware"),
        ],
        "rtl": _rtl_view(data["rtl"]),
        "digits": _digits_view(data, pictures),
        "accuracy": _accuracy_view(data["accuracy"]),
        "hardware": _hardware_view(hardware),
        "baseline_planes": data["baseline_planes"],
        "width_legend": figures.width_legend(hardware["weight_bits"]),
        "layers": layers,
        "storage": _storage_view(data["layers"]),
        "histogram_images": _plural(data["histogram_images"], "picture"),
        "dynamic": _dynamic_view(data["layers"]),
        "cost": {
            "denominator": "mean of " + _plural(data["images"], "test picture"),
            "steps_note": "Each row adds one saving to the row above. Factors are against the first row. "
            f"With {hardware['weight_bits']} planes the baseline would take "
            f"{_count(data['baseline_8_planes']['totals']['ad_operations'])} A/D operations, "
            f"{_count(data['baseline_8_planes']['totals']['cycles'])} clocks and "
            f"{_nanojoules(data['baseline_8_planes']['totals']['energy_pj'])} nJ.",
            "steps": [_step_view(step["name"], step["totals"], base) for step in steps],
            "figures": [
                figures.layer_bars(
                    names,
                    [(s["name"], s["layers"][key]) for s in _three(steps)],
                    label,
                )
                for key, label in (
                    ("ad_operations", "A/D operations per picture"),
                    ("cycles", "clocks per picture"),
                    ("energy_pj", "energy per picture, pJ"),
                )
            ],
            "layers": _layers_view(names, first, last),
            "skipped": _skipped_view(names, last),
        },
        "energy": _energy_view(data, base, ours),
        "provenance": [(_words(k), _text(v)) for k, v in data["info"].items()],
        "tools": ", ".join(f"{k} {v}" for k, v in data["tool_versions"].items()),
    }


def _three(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Baseline, widths alone, everything."""
    chosen = [steps[0], steps[1], steps[-1]]
    return [dict(s, name=name) for s, name in zip(chosen, ("baseline", "block widths only", "this image"), strict=True)]


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str | int | bool) or value is None:
        return str(value)
    if isinstance(value, dict) and all(isinstance(v, str | int | float | bool | None) for v in value.values()):
        return ", ".join(f"{_words(str(k))} {_text(v)}" for k, v in value.items())
    text = json.dumps(value)
    return text if len(text) <= 400 else text[:400] + " …"


def _headline(data: dict[str, Any]) -> str:
    hardware = data["hardware"]
    text = (
        f"{_plural(len(data['layers']), 'layer')} with {_number(sum(x['weights'] for x in data['layers']))} weights on "
        f"crossbars of {hardware['rows']} × {hardware['cols']} cells, {hardware['ou_rows']} × {hardware['ou_cols']} of "
        f"them switched on at once, {hardware['lanes']} A/D converters of {hardware['adc_bits']} bits."
    )
    return text


def _cards(data: dict[str, Any]) -> list[dict[str, str]]:
    base, ours = data["steps"][0]["totals"], data["steps"][-1]["totals"]
    cards: list[dict[str, str]] = []
    if data["accuracy"]:
        last = data["accuracy"][-1]
        cards.append({"value": f"{100 * last['accuracy']:.2f} %", "label": f"correct: {last['stage']}"})
    rtl = _rtl_view(data["rtl"])
    if rtl is not None:
        kind = "good" if rtl["agreed"] else "bad"
        cards.append({"value": rtl["value"], "kind": kind, "label": rtl["short"]})
    weights = sum(x["weights"] for x in data["layers"])
    bits = sum(x["plane_bits"] for x in data["layers"])
    cards += [
        {"value": f"{bits / weights:.2f}", "label": "magnitude bits a weight, mean"},
        {
            "value": _factor(base["ad_operations"], ours["ad_operations"]),
            "label": "fewer A/D operations than the baseline",
        },
        {
            "value": _factor(base["cycles"], ours["cycles"]),
            "label": f"faster ({figures.short(ours['cycles'])} clocks a picture)",
        },
        {
            "value": _factor(base["energy_pj"], ours["energy_pj"]),
            "label": f"less energy ({_nanojoules(ours['energy_pj'])} nJ a picture)",
        },
    ]
    return cards


def _adc_text(adc: dict[str, Any]) -> str:
    if adc["mode"] == "uniform":
        return f"uniform, {adc['n_r2']} operations"
    exact = "exact" if adc["lossless"] else "not exact for every count"
    return f"twin range, mean {adc['mean_operations']:.2f} operations, {exact}"


def _adc_view(adc: dict[str, Any]) -> dict[str, Any]:
    def span(values: list[int]) -> str:
        return "–" if not values else str(values[0]) if len(values) == 1 else f"{values[0]}–{values[-1]}"

    return adc | {
        "counts_per_lsb": f"{adc['counts_per_lsb']:g}",
        "operations_r1": span(adc["operations_r1"]),
        "operations_r2": span(adc["operations_r2"]),
        "share_r1": _percent(adc["share_r1"]),
        "mean_operations": f"{adc['mean_operations']:.2f}",
    }


def _digits_view(data: dict[str, Any], pictures: np.ndarray) -> dict[str, Any]:
    classes = data["classes"]

    def name(index: int) -> str:
        return classes[index] if 0 <= index < len(classes) else str(index)

    items = []
    for picture, label, predicted in zip(pictures, data["digits"]["labels"], data["digits"]["predicted"], strict=False):
        pixels = picture[0] if len(picture) != 3 else picture.transpose(1, 2, 0)
        items.append(
            {
                "picture": figures.png(pixels),
                "predicted": name(predicted),
                "label": name(label),
                "right": predicted == label if label >= 0 else None,
            }
        )
    simulated, count = data["digits"]["simulated"], len(items)
    who = "golden model" if not simulated else "simulated hardware"
    if 0 < simulated < count:
        who = f"simulated hardware ({simulated} of {count}) or the golden model (the others)"
    return {"pictures": items, "who": who}


def _accuracy_view(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    shown = []
    for i, row in enumerate(rows):
        change = "" if i == 0 else f"{100 * (row['accuracy'] - rows[i - 1]['accuracy']):+.2f}"
        images = row.get("images")
        shown.append(
            {
                "stage": row["stage"],
                "percent": f"{100 * row['accuracy']:.2f} %",
                "images": "" if images is None else _number(images),
                "change": change,
            }
        )
    figure = figures.accuracy_ladder([r["stage"] for r in rows], [r["accuracy"] for r in rows])
    return {"rows": shown, "figure": figure}


def _storage_view(layers: list[dict[str, Any]]) -> list[dict[str, str]]:
    keys = ("weights", "plane_bits", "sign_bits", "table_bits", "blocks", "pruned", "ous")
    total = {"name": "all"} | {k: sum(x[k] for x in layers) for k in keys}
    rows = []
    for x in [*layers, total]:
        full = x["plane_bits"] + x["sign_bits"] + x["table_bits"]
        rows.append(
            {
                "name": x["name"],
                "weights": _number(x["weights"]),
                "bits": f"{x['plane_bits'] / x['weights']:.2f}",
                "blocks": _number(x["blocks"]),
                "pruned": _percent(x["pruned"], x["blocks"]),
                "ous": _number(x["ous"]),
                "compression": f"{_factor(32 * x['weights'], x['plane_bits'])} ({_factor(32 * x['weights'], full)})",
            }
        )
    return rows


def _dynamic_view(layers: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "name": x["name"],
            "l_max": str(x["dynamic"]["l_max"]),
            "tau_sq": f"{x['dynamic']['tau_sq']} ({x['dynamic']['tau_sq'] / 4096:.3f})",
            "streamed": f"{x['dynamic']['streamed_bits']:.2f}",
            "lossless": f"{x['dynamic']['lossless_bits']:.2f}",
            "lossy": f"{x['dynamic']['lossy_bits']:.2f}",
        }
        for x in layers
        if x["dynamic"]
    ]


def _step_view(name: str, totals: dict[str, float], base: dict[str, float]) -> dict[str, str]:
    def per_conversion(t: dict[str, float]) -> float:
        return t["ad_operations"] / t["conversions"] if t["conversions"] else 0.0

    return {
        "name": name,
        "ou_activations": figures.short(totals["ou_activations"]),
        "conversions": figures.short(totals["conversions"]),
        "ad_operations": figures.short(totals["ad_operations"]),
        "per_conversion": f"{per_conversion(totals):.2f}",
        "relative": _percent(per_conversion(totals), per_conversion(base)),
        "cycles": figures.short(totals["cycles"]),
        "speed": _factor(base["cycles"], totals["cycles"]),
        "energy": _nanojoules(totals["energy_pj"]),
        "energy_factor": _factor(base["energy_pj"], totals["energy_pj"]),
    }


def _layers_view(names: list[str], first: dict[str, Any], last: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for i, name in enumerate([*names, "all"]):

        def pick(step: dict[str, Any], key: str, i: int = i) -> float:
            return step["layers"][key][i] if i < len(names) else sum(step["layers"][key])

        cells = [
            f"{_count(pick(last, k))} / {_count(pick(first, k))}" for k in ("ou_activations", "ad_operations", "cycles")
        ]
        cells.append(f"{_nanojoules(pick(last, 'energy_pj'))} / {_nanojoules(pick(first, 'energy_pj'))}")
        cells += [_factor(pick(first, k), pick(last, k)) for k in ("ad_operations", "cycles", "energy_pj")]
        rows.append({"name": name, "cells": cells})
    return rows


def _skipped_view(names: list[str], last: dict[str, Any]) -> list[dict[str, Any]]:
    keys = ("skipped_planes", "skipped_bits", "skipped_zero_slices", "ou_activations")
    rows = []
    for i, name in enumerate([*names, "all"]):
        values = [last["layers"][k][i] if i < len(names) else sum(last["layers"][k]) for k in keys]
        dense = sum(values)
        rows.append({"name": name, "cells": [_count(dense), *map(_count, values), _percent(values[-1], dense)]})
    return rows


def _energy_view(data: dict[str, Any], base: dict[str, float], ours: dict[str, float]) -> dict[str, Any]:
    energy, steps = data["energy"], data["steps"]
    groups = list(steps[0]["energy_groups"])
    return {
        "title": energy["title"],
        "note": energy["note"],
        "figure": figures.stacked_bars(
            [step["name"] for step in steps],
            [(g, [step["energy_groups"][g] / 1000 for step in steps]) for g in groups],
            "energy per picture, nJ",
        ),
        "rows": [
            {
                **row,
                "name": _words(row["name"]),
                "quantity": _words(row["quantity"]),
                "energy_pj": f"{row['energy_pj']:.4g}",
                "events": _count(row["events"]),
                "nanojoules": _nanojoules(row["picojoules"]),
                "share": _percent(row["picojoules"], ours["energy_pj"]),
            }
            for row in energy["rows"]
        ],
        "total": _nanojoules(ours["energy_pj"]),
        "tables": [
            {
                "title": row["title"],
                "baseline": _nanojoules(row["baseline_pj"]),
                "ours": _nanojoules(row["ours_pj"]),
                "factor": _factor(row["baseline_pj"], row["ours_pj"]),
                "baseline_share": _percent(row["baseline_adc_share"]),
                "our_share": _percent(row["ours_adc_share"]),
            }
            for row in energy["tables"]
        ],
        "trace": [
            {
                **row,
                "component": _words(row["component"]),
                "events": _count(row["events"]),
                "energy_pj": f"{row['energy_pj']:.4g}",
                "picojoules": _count(row["picojoules"]),
                "formula": row["formula"],
            }
            for row in energy["trace"]
        ],
    }


def _hardware_view(hardware: dict[str, Any]) -> dict[str, Any]:
    shown = [(k, str(v)) for k, v in hardware.items() if k not in ("hash", "group_segments", "ideal_bits")]
    rows = [shown[i : i + 3] for i in range(0, len(shown), 3)]
    return hardware | {"parameters": rows}


def _rtl_view(rtl: dict[str, Any] | None) -> dict[str, Any] | None:
    if rtl is None:
        return None
    rows, count = rtl["images"], len(rtl["images"])
    changed = sum(row["predicted"] != row["golden_predicted"] for row in rows)
    labelled = [row for row in rows if row["label"] >= 0]
    right = sum(row["label"] == row["predicted"] for row in labelled)
    kind = rtl["crossbar"].get("kind", "")
    if rtl["agrees"]:
        verdict = (
            f"{_plural(count, 'picture')} through the complete network in hardware: scores, every event counter and "
            "the number of clocks equal the golden model’s."
        )
        value, short = "equal", f"hardware and golden model, {_plural(count, 'picture')}"
    elif rtl["judged"]:
        verdict = "Hardware and golden model differ."
        value, short = "DIFFERENT", "hardware and golden model"
    else:
        verdict = f"The crossbar was not ideal, so differences are expected: {changed} of {count} classes changed."
        value, short = f"{changed} of {count}", "classes changed by the imperfect crossbar"
    settings = ", ".join(
        f"{_words(k)} {_text(v)}" for k, v in rtl["crossbar"].items() if k not in ("kind", "seed") and v not in (0, "")
    )
    table = [
        ("simulator", str(rtl["backend"])),
        ("crossbar", f"{kind} ({settings})" if rtl["crossbar"].keys() - {"kind"} and not rtl["agrees"] else kind),
        ("pictures", _number(count)),
        ("right, of those with a label", f"{right} of {len(labelled)}"),
        ("clocks per picture", _optional(rtl["cycles_per_image"])),
        ("simulated clocks per second", _optional(rtl["clocks_per_second"])),
        ("simulation time", f"{rtl['seconds']:.2f} s, after {rtl['build_seconds']:.1f} s to build the simulation"),
    ]
    return {
        "agreed": rtl["agrees"] or not rtl["judged"],
        "value": value,
        "short": short,
        "verdict": verdict,
        "rows": table,
        "mismatch": rtl["first_difference"] if rtl["judged"] else None,
    }


def _optional(value: float | None) -> str:
    return "–" if value is None else _number(value)


def render(data: dict[str, Any], pictures: np.ndarray) -> str:
    """The report as one HTML page; every text is escaped, figures are inline."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.j2").render(view(data, pictures))


# ---- command line -------------------------------------------------------------------------------
def write_text(path: Path, text: str) -> None:
    """Write to a temporary sibling, then rename: the file is never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_run(path: Path) -> dict[str, Any]:
    """Content of a run file; ValueError with one sentence if it is not one."""
    try:
        run = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"run file {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"run file {path}: not JSON: {error}") from None
    if not isinstance(run, dict):
        raise ValueError(f"run file {path}: must hold a JSON object, as written by python -m sim.run --json")
    return run


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    image_dir: Annotated[Path, typer.Argument(help="Deployment image, a directory.")],
    run: Annotated[Path | None, typer.Option(help="Result of `python -m sim.run IMAGE_DIR --json FILE`.")] = None,
    output: Annotated[Path | None, typer.Option(help="HTML file to write. [default: IMAGE_DIR-report.html]")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all figures as JSON.")] = None,
    table: Annotated[str, typer.Option(help="Energy table: a name that comes with the package, or a TOML file.")] = (
        cost.DEFAULT_TABLE
    ),
    images: Annotated[int, typer.Option(min=1, help="Test vectors to average over.")] = 10,
    trace: Annotated[bool, typer.Option(help="Print every energy as events x table row.")] = False,
) -> None:
    """Write one self-contained HTML report of a deployment image."""
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        result = None if run is None else read_run(run)
        image = deployment.read(image_dir)
        data = collect(image, result, table=table, images=images)
        target = output or image_dir.resolve().with_name(image_dir.resolve().name + "-report.html")
        write_text(target, render(data, image.vectors.images[: data["images"]]))
        if json_file is not None:
            write_text(json_file, json.dumps(data, indent=1) + "\n")
    except (ValueError, OSError) as error:
        errors.print(f"error: {error}")
        raise typer.Exit(2) from None
    if trace:
        for row in data["energy"]["trace"]:
            print(
                f"{row['layer']:<12} {row['component']:<18} {row['events']:>16,.1f} x {row['energy_pj']:<9.6g} pJ = "
                f"{row['picojoules']:>16,.1f} pJ   [{row['formula']}; {row['source']}]"
            )
    Console(soft_wrap=True, highlight=False, markup=False).print(f"report: {target}")
    rtl = data["rtl"]
    if rtl is not None and rtl["judged"] and not rtl["agrees"]:
        errors.print("error: the hardware run in this report differs from the golden model")
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
