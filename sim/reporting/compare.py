"""Two reports side by side: what differs in the machines, and what that does to accuracy, energy, clocks and layers."""

from __future__ import annotations

from typing import Any

from sim.reporting.collect import SCHEMA, VERSION

#: What both must share, with words for it.
_SAME = (
    ("pictures_sha256", "test pictures that figures are averaged over"),
    ("clock_mhz", "clock"),
)
#: Totals of the last machine: key, words.
_TOTALS = (
    ("energy_pj", "energy, nJ"),
    ("cycles", "clocks"),
    ("ad_operations", "A/D operations"),
    ("conversions", "A/D conversions"),
    ("ou_activations", "OU activations"),
)


def check(data: dict[str, Any], where: str) -> dict[str, Any]:
    """The content of a file that `python -m sim.report --json` wrote; ValueError for anything else."""
    if (data.get("schema"), data.get("version")) != (SCHEMA, VERSION):
        raise ValueError(
            f"{where}: schema and version must be {SCHEMA!r} and {VERSION}, as in what python -m sim.report --json "
            f"writes, got {data.get('schema')!r} and {data.get('version')!r}"
        )
    return data


def compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Everything that the page of a comparison shows; a, b : from `collect.collect`.

    Raises ValueError for networks of another structure, other pictures, another energy table or another clock.
    """
    _refuse(a, b)
    last = [one["machines"][-1] for one in (a, b)]
    totals = [(words, last[0][key], last[1][key]) for key, words in _TOTALS]
    totals[0] = (totals[0][0], *(value / 1000 for value in totals[0][1:]))
    bits = [_bits(one["layers"]) for one in (a, b)]
    more = [
        ("milliseconds", a["speed"]["milliseconds"], b["speed"]["milliseconds"]),
        ("pictures a second", a["speed"]["pictures_per_second"], b["speed"]["pictures_per_second"]),
        ("TOPS/W", a["speed"]["tops_per_watt"], b["speed"]["tops_per_watt"]),
        ("magnitude bits a weight", *bits),
        ("crossbar pairs", a["crossbars"]["pairs"], b["crossbars"]["pairs"]),
    ]
    if a["area"] and b["area"]:
        more.append(("modelled area, mm²", a["area"]["mm2"], b["area"]["mm2"]))
    groups = [one["energy_groups"] for one in last]
    return {
        "sides": [{"name": one["name"], "preset": one["hardware"]["preset"], **one["made"]} for one in (a, b)],
        "images": a["images"],
        "clock_mhz": a["clock_mhz"],
        "table": a["energy"]["title"],
        "hardware": _differences(a["hardware"], b["hardware"]),
        "settings": _settings(a["layers"], b["layers"]),
        "accuracy": _accuracies(a["accuracy"], b["accuracy"]),
        "totals": [_row(*one) for one in [*totals, *more]],
        "energy_groups": [
            _row(name, *(one.get(name, 0.0) / 1000 for one in groups))
            for name in dict.fromkeys([*groups[0], *groups[1]])
            if any(one.get(name) for one in groups)
        ],
        "layers": _layers(a, b),
        "runs": [None if one["run"] is None else one["run"]["agrees"] for one in (a, b)],
    }


def _refuse(a: dict[str, Any], b: dict[str, Any]) -> None:
    nodes = [{node["name"]: (node["kind"], node["inputs"], node["shape"]) for node in one["nodes"]} for one in (a, b)]
    if nodes[0] != nodes[1]:
        name = next(name for name in [*nodes[0], *nodes[1]] if nodes[0].get(name) != nodes[1].get(name))
        raise ValueError(
            f"these are two different networks, {a['name']} and {b['name']}: {name} is not the same operation in both"
        )
    for key, words in _SAME:
        if a[key] != b[key]:
            shown = "" if "sha256" in key else f", {a[key]:g} and {b[key]:g}"
            raise ValueError(f"the two reports must have the same {words}, make both with the same options{shown}")
    tables = [[(row["name"], row["energy_pj"]) for row in one["energy"]["rows"]] for one in (a, b)]
    if tables[0] != tables[1]:
        names = f"{a['energy']['table']} and {b['energy']['table']}"
        raise ValueError(f"the two reports must have the same energy table, got {names}: give both the same --table")


def _row(name: str, a: float, b: float) -> dict[str, Any]:
    """change : of b against a, None where a is 0."""
    return {"name": name, "a": a, "b": b, "change": (b - a) / a if a else None}


def _bits(layers: list[dict[str, Any]]) -> float:
    return sum(one["plane_bits"] for one in layers) / sum(one["weights"] for one in layers)


def _differences(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    keys = [key for key in dict.fromkeys([*a, *b]) if key not in ("hash", "pairs", "preset")]
    return [{"name": key, "a": a.get(key), "b": b.get(key)} for key in keys if a.get(key) != b.get(key)]


def _settings(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Converters, dynamic precision, skipping or activation widths that are set in another way, with their layers."""

    def said(layer: dict[str, Any]) -> str:
        adc, dynamic = layer["adc"], layer["dynamic"]
        parts = [f"{adc['mode']} conversion, n_r1 {adc['n_r1']}, n_r2 {adc['n_r2']}, m {adc['m']}, bias {adc['bias']}"]
        if dynamic is not None:
            parts.append(f"dynamic precision, l_max {dynamic['l_max']}, τ² {dynamic['tau_sq']}")
        parts += ["zero slices skipped"] * layer["skip_zero_slices"] + [f"{layer['input_bits']} input bits"]
        return "; ".join(parts)

    found: dict[tuple[str, str], list[str]] = {}
    for one, other in zip(a, b, strict=True):
        found.setdefault((said(one), said(other)), []).append(one["name"])
    return [{"layers": names, "a": x, "b": y} for (x, y), names in found.items() if x != y]


def _accuracies(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stages of either in order, shares or None, and the points that b has more."""
    sides = [{row["stage"]: row["accuracy"] for row in rows} for rows in (a, b)]
    rows = []
    for stage in dict.fromkeys([*sides[0], *sides[1]]):
        x, y = (side.get(stage) for side in sides)
        rows.append({"name": stage, "a": x, "b": y, "points": None if x is None or y is None else 100 * (y - x)})
    return rows


def _layers(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of either, by operation: clocks, energy and A/D operations, and bits a weight of layers."""
    sides = [{row["node"]: row for row in one["rows"]} for one in (a, b)]
    bits = [{one["name"]: one["plane_bits"] / one["weights"] for one in side["layers"]} for side in (a, b)]
    rows = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        row: dict[str, Any] = {"name": name, "bits": [side.get(name) for side in bits]}
        for key in ("cycles", "energy_pj", "ad_operations"):
            row[key] = _row(key, *(side.get(name, {}).get(key, 0.0) for side in sides))
        rows.append(row)
    return rows
