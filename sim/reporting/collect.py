"""Every number of a report, measured with the golden model or counted from the program (docs/report.md).

`collect` gives them as JSON-able data; view.py turns that into texts and figures.

A network's work is shown in one row per node, in the order of computation: its events are the sums over the steps of
the program that compute it, so that a depthwise convolution of 64 channels is one row with 64 steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from golden_model import trq
from golden_model.config import HardwareConfig
from golden_model.cost import baselines, chip, components, pair_machine, work
from golden_model.cost import machines as rivals
from golden_model.cost.energy import EnergyReport, energy
from golden_model.cost.work import Machine
from golden_model.crossbar import redy
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.crossbar.windows import windows
from golden_model.engines.pair_switches import Switches
from golden_model.engines.pair_switches import measure as switched
from golden_model.engines.run_network import GraphRunner
from golden_model.events import Events
from golden_model.graph.host import AddConstant, Attention, LayerNorm, work_of
from golden_model.graph.network import Graph
from golden_model.graph.nodes import Add, AveragePool, Border, Concat, Crossbar, Image, MaxPool, Node, Reshape
from golden_model.graph.settings import with_settings
from golden_model.image import image as deployment
from golden_model.image.lowering import HostStep
from golden_model.image.program import Program
from golden_model.pairs.early_stop import EarlyStop
from golden_model.pairs.gather import spend
from golden_model.pairs.packs import pack_layer
from golden_model.pairs.search import differences, search_of
from golden_model.registers import COUNTER_NAMES, WIDTH_BITS, StepKind
from golden_model.searches.histograms import layer_counts
from golden_model.trq import AdcRegisters
from sim.reporting import origin, overall

_INDEX = {name: i for i, name in enumerate(COUNTER_NAMES)}
#: What `python -m sim.report --json` writes.
SCHEMA, VERSION = "ohmloom-report", 1
#: Pictures whose bit lines are looked at; each has thousands to millions of conversions.
HISTOGRAM_IMAGES = 2
#: Assumption about the clock of a chip, for milliseconds.
CLOCK_MHZ = 100.0


def collect(
    image: deployment.Image,
    run: dict[str, Any] | None = None,
    *,
    table: str = components.DEFAULT_TABLE,
    images: int = 10,
    clock_mhz: float = CLOCK_MHZ,
    made: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything the report says, as JSON-able numbers and texts.

    Parameters
    ----------
    image : of any network.
    run : content of the file that `python -m sim.run --json` wrote, or None.
    table : energy table, name or file.
    images : test vectors to average over, at most as many as the image holds.
    clock_mhz : clock at which clocks are also given as milliseconds.
    made : from `origin.of_program`. training : content of the train.json of the network's training.

    Raises ValueError for an image without test vectors, a run of another image, a clock that is not above 0, and a
    table that cannot be read.
    """
    network, hardware, vectors, program = image.network, image.network.hardware, image.vectors, image.program
    energy_table, shown_run = components.load_table(table), check_run(run, image)
    if not 0 < clock_mhz < float("inf"):
        raise ValueError(f"--clock-mhz must be a number above 0, got {clock_mhz}")
    if not len(vectors.images):
        raise ValueError(f"network {network.name}: the image holds no test vectors to report on")
    count = min(images, len(vectors.images))
    trained = {} if training is None else origin.of_training(training)
    shares = {**trained.pop("accuracy", {}), **_object(network.info, "accuracy")}
    info = {**trained, **network.info, "accuracy": shares}
    steps = step_rows(network, program)
    by_step = np.asarray(vectors.events.counts[:count])
    recorded, elsewhere = by_node(network, program, by_step)
    ladder = machines(network, vectors.images[:count], recorded)
    baseline, ours = ladder[0], ladder[-1]
    priced = [energy(one, energy_table) for one in ladder]
    measured = measure(network, vectors.images[: min(count, HISTOGRAM_IMAGES)])
    layers = [_layer(node, measured[node.name], hardware, ours.events[i]) for i, node in enumerate(network.crossbars)]
    rows = _rows(network, program, steps, elsewhere, (baseline, priced[0]), (ours, priced[-1]))
    between = sum(elsewhere.values())
    exact = all(one["adc"]["lossless"] and not one["lossy"] for one in layers)
    reached = overall.accuracy_of_machines([one.name for one in ladder], shares, exact=exact)
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "name": network.name,
        "classes": list(network.classes),
        "images": count,
        "histogram_images": min(count, HISTOGRAM_IMAGES),
        "clock_mhz": float(clock_mhz),
        "accuracy": accuracy_rows(info),
        "confusion": confusion(network, vectors),
        "made": made or {},
        "info": {k: v for k, v in info.items() if k not in ("accuracy", "test_images", "confusion")},
        "pictures_sha256": hashlib.sha256(vectors.images[:count].tobytes()).hexdigest(),
        "speed": overall.speed(network, ours.clocks + between, priced[-1].total_pj, clock_mhz),
        "area": overall.area(ours, energy_table),
        "nodes": _nodes(network, steps),
        "steps": steps,
        "rows": rows,
        "layers": layers,
        "planes": {"baseline": baselines.baseline_planes(hardware), "dense": hardware.weight_bits},
        "machines": [
            _machine(one, report, elsewhere) | {"accuracy": share}
            for one, report, share in zip(ladder, priced, reached, strict=True)
        ],
        "rivals": overall.rivals(network, vectors.images[:count], ladder, energy_table, between),
        "floor": overall.floor(program),
        "crossbars": _crossbars(network, program, rows),
        "memory": memory_map(program),
        "host": work_of(network.nodes),
        "energy": {
            "table": energy_table.name,
            "title": energy_table.title,
            "note": energy_table.note,
            "rows": [
                {
                    **{f: getattr(c, f) for f in ("name", "group", "quantity", "energy_pj", "source", "why")},
                    **{
                        f"{who}_{what}": float(numbers[:, j].sum())
                        for who, report in (("baseline", priced[0]), ("ours", priced[-1]))
                        for what, numbers in (("events", report.counts), ("pj", report.picojoules))
                    },
                }
                for j, c in enumerate(energy_table.components)
            ],
            "trace": [row for row in priced[-1].trace_rows() if row["events"]],
            "tables": [_table(name, baseline, ours) for name in components.table_names()],
        },
        "run": shown_run,
        "pictures": _pictures(vectors, count, run),
        "hardware": {
            **asdict(hardware),
            "hash": hardware.hash,
            "preset": origin.preset(hardware),
            "pairs": hardware.pairs,
            "lanes": hardware.lanes,
            "ideal_bits": hardware.ideal_bits,
            "segments_per_group": hardware.segments_per_group,
        },
        "tool_versions": image.manifest.get("tool_versions", {}),
    }


# ---- the program --------------------------------------------------------------------------------
def step_rows(network: Graph, program: Program) -> list[dict[str, Any]]:
    """The steps of a program, in order; ValueError for a step of a node that the network does not have."""
    names = {node.name for node in network.nodes}
    rows = []
    for index, step in enumerate(program.steps):
        if step.node not in names:
            raise ValueError(f"program: step {step.name} computes node {step.node}, which {network.name} does not have")
        kind, fields = StepKind(step.kind), step.fields
        rows.append(
            {
                "index": index,
                "name": step.name,
                "node": step.node,
                "kind": kind.name.lower(),
                "shape": [int(n) for n in step.shape],
                "windows": int(step.windows),
                "k": int(fields["channels"] * fields["kernel_height"] * fields["kernel_width"])
                if kind is StepKind.CROSSBAR
                else int(fields["kernel_height"] * fields["kernel_width"]),
                "n": int(fields["outputs"]),
                "residual": bool(fields["residual"]),
            }
        )
    return rows


def by_node(network: Graph, program: Program, events: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Events of crossbar nodes (images, nodes, counters), and the mean clocks of all other steps by their node.

    events : (images, steps, counters), one row per step of the program.
    """
    place = {node.name: i for i, node in enumerate(network.crossbars)}
    made = np.zeros((len(events), len(place), events.shape[2]), dtype=events.dtype)
    clocks: dict[str, float] = {}
    for index, step in enumerate(program.steps):
        if step.kind == StepKind.CROSSBAR:
            made[:, place[step.node]] += events[:, index]
        else:
            spent = float(events[:, index, _INDEX["cycles"]].mean())
            clocks[step.node] = clocks.get(step.node, 0.0) + spent
    return made, clocks


def memory_map(program: Program) -> dict[str, Any]:
    """What lies where in the activation memory, and when.

    {"bytes": size of the memory, "used": bytes up to the highest address that is used, "buffers": [{"tensors": names of
    nodes, "base", "size", "first", "last"}], "order": [{"node", "step"}]}: the bytes hold the tensors during places
    first..last of the order; first is -1 for the picture, which the host writes. step : of the program, None for the
    host's own work.
    """
    buffers = [
        {"tensors": list(b.tensors), **{name: int(getattr(b, name)) for name in ("base", "size", "first", "last")}}
        for b in program.buffers
    ]
    number = {step: index for index, step in enumerate(program.steps)}
    return {
        "bytes": program.hardware.activation_bytes,
        "used": max(b["base"] + b["size"] for b in buffers),
        "buffers": buffers,
        "order": [
            {"node": x.name, "step": None} if isinstance(x, HostStep) else {"node": x.node, "step": number[x]}
            for x in program.order
        ],
    }


def _crossbars(network: Graph, program: Program, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    hardware = network.hardware
    used = [row for row in rows if row["pairs"]]
    pairs = int(program.placement.pairs)
    return {
        "pairs": pairs,
        "pairs_there": hardware.crossbar_pairs,
        "ous": sum(row["ous"] for row in used),
        "weight_cells": sum(row["weight_cells"] for row in used),
        "ou_cells": sum(row["ous"] for row in used) * hardware.ou_cells,
        "cells": pairs * 2 * hardware.rows * hardware.cols,
    }


# ---- nodes --------------------------------------------------------------------------------------
def kind_of(node: Node) -> str:
    """What a node is, in words."""
    if isinstance(node, Crossbar):
        if node.layers[0].kind == "linear":
            return "linear"
        if len(node.layers) == 1:
            return "convolution"
        return "depthwise convolution" if node.layers[0].channels == 1 else "grouped convolution"
    if isinstance(node, Add):
        return "addition" if len(node.inputs) > 1 else "rescaling"
    words = {
        Image: "image", MaxPool: "maximum pooling", AveragePool: "average pooling", Concat: "concatenation",
        Border: "border", Reshape: "reshape",
        LayerNorm: "layer norm, on the host", Attention: "attention, on the host",
        AddConstant: "added constant, on the host",
    }  # fmt: skip
    return words[type(node)]


def _nodes(network: Graph, steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    mine = _steps_of(steps)
    return [
        {
            "name": node.name,
            "kind": kind_of(node),
            "inputs": list(node.inputs),
            "shape": [int(n) for n in node.shape],
            "bits": node.encoding.bits,
            "groups": len(node.layers) if isinstance(node, Crossbar) else 1,
            "steps": mine.get(node.name, []),
        }
        for node in network.nodes
    ]


def _steps_of(steps: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for step in steps:
        found.setdefault(step["node"], []).append(step["index"])
    return found


def _rows(
    network: Graph,
    program: Program,
    steps: Sequence[dict[str, Any]],
    elsewhere: dict[str, float],
    baseline: tuple[Machine, EnergyReport],
    ours: tuple[Machine, EnergyReport],
) -> list[dict[str, Any]]:
    """One row per node that does anything: what it takes, here and in the baseline."""
    mine, pairs, hardware = _steps_of(steps), _pairs(program), network.hardware
    stage_of = {stage.name: stage for stage in work.stages(network)}
    place = {name: i for i, name in enumerate(stage_of)}
    priced = [dict(zip(report.parts, report.by_layer.tolist(), strict=True)) for _, report in (baseline, ours)]
    rows = []
    for node in network.nodes:
        numbers = mine.get(node.name, [])
        energies = [p.get(node.name, 0.0) for p in priced]
        if not numbers and not any(energies):
            continue
        first = steps[numbers[0]] if numbers else None
        row: dict[str, Any] = {
            "node": node.name,
            "kind": kind_of(node),
            "steps": numbers,
            "k": first["k"] if first else None,
            "n": sum(steps[i]["n"] for i in numbers) if numbers else None,
            "windows": sum(steps[i]["windows"] for i in numbers),
            "weight_cells": 0,
            "ous": 0,
            "pairs": 0,
            "energy_pj": energies[1],
            "baseline_energy_pj": energies[0],
        }
        index = place.get(node.name)
        for prefix, machine in (("baseline_", baseline[0]), ("", ours[0])):
            for name in ("ou_activations", "ad_operations", "cycles"):
                row[prefix + name] = 0.0 if index is None else float(machine.events[index, _INDEX[name]])
            row[prefix + "cycles"] += elsewhere.get(node.name, 0.0)
            macros = 1 if prefix else hardware.macros
            decisions = row[prefix + "cycles"] * hardware.lanes * macros
            row[prefix + "busy"] = row[prefix + "ad_operations"] / decisions if decisions else 0.0
        if index is not None:
            stage = stage_of[node.name]
            placed = chip.place_stage(stage, hardware, [layer.block_widths for layer in stage.layers])
            row |= {"weight_cells": placed.weight_cells, "ous": placed.ous, "pairs": pairs[node.name]}
        rows.append(row)
    return rows


def _pairs(program: Program) -> dict[str, int]:
    """Crossbar pairs by node; those that its steps share are counted once."""
    used: dict[str, set[int]] = {}
    steps = [step for step in program.steps if step.kind == StepKind.CROSSBAR]
    for step, placed in zip(steps, program.placement.layers, strict=True):
        used.setdefault(step.node, set()).update(np.unique(placed.pair).tolist())
    return {name: len(pairs) for name, pairs in used.items()}


# ---- one layer ----------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Measurement:
    """What one crossbar node does over some pictures, all its groups.

    histogram : int64 (ou_rows + 1,), conversions by the count that was on the bit line; of the pair machine
        (ou_rows + 1, 2 * ou_rows + 1), by [word lines that were on, ou_rows + difference of the two counts].
    streamed, lossless, lossy : bit positions of input segments, sums; they add up to input_bits * `segments`. Lossless
        are leading zeros of a group, lossy the low bits rounded away. segments : windows times segments.
    """

    histogram: np.ndarray
    streamed: int
    lossless: int
    lossy: int
    segments: int

    def __add__(self, other: Measurement) -> Measurement:
        pairs = ((getattr(self, one.name), getattr(other, one.name)) for one in fields(self))
        return Measurement(*(mine + more for mine, more in pairs))


def measure_layer(layer: Layer, hardware: HardwareConfig, activations: np.ndarray) -> Measurement:
    """Counts on the bit lines, and bits streamed, for input activations uint8 (B, C, H, W).

    The sum of the histogram equals the golden model's number of conversions for the same activations.
    """
    rows = windows(layer, activations).reshape(-1, layer.k)
    segments = layer.segments(hardware)
    if layer.dynamic is None:
        streamed, low = rows, np.zeros((len(rows), segments), dtype=np.int64)
        high = np.full_like(low, layer.input_bits - 1)
    else:
        choice = redy.precision(rows, hardware, layer.dynamic)
        group = np.arange(segments) // hardware.segments_per_group
        streamed, high = choice.streamed, choice.hi[:, group]
        low = np.where(high < 0, 0, choice.lo[:, group])
    bits, top = high - low + 1, hardware.input_bits - 1  # (windows, segments)
    if hardware.pairs:
        histogram = differences(spend(pack_layer(layer, hardware), rows).counts)
    else:
        # Windows as pictures of one place: what is streamed may differ from window to window.
        flat = replace(
            layer, channels=layer.k, height=1, width=1, kernel_height=1, kernel_width=1, stride=1, pad=0, pool=1,
            pad_values=None,
        )  # fmt: skip
        found = layer_counts(flat, hardware, streamed.astype(np.uint8)[:, :, None, None], gram_windows=0)
        histogram = found.used(layer.skip_zero_slices).sum(axis=(0, 1))
        if not layer.skip_zero_slices:  # bits that are not streamed were counted as slices of zeros
            lines = 2 * layer.block_widths @ layer.block_columns(hardware)
            histogram[0] -= int(((layer.input_bits - bits) @ lines).sum())
    return Measurement(histogram, int(bits.sum()), int((top - high).sum()), int(low.sum()), bits.size)


def measure(network: Graph, images: np.ndarray) -> dict[str, Measurement]:
    """`measure_layer` of every crossbar node by name, for uint8 images (B, C, H, W)."""
    found: dict[str, list[Measurement]] = {node.name: [] for node in network.crossbars}

    def observe(name: str, layer: Layer, activations: np.ndarray) -> None:
        found[name].append(measure_layer(layer, network.hardware, activations))

    GraphRunner(network).run(images, observe=observe)
    return {name: reduce(add, parts) for name, parts in found.items()}


def conversion_of(layer: Layer, hardware: HardwareConfig, histogram: np.ndarray) -> dict[str, Any]:
    """What the registers of a layer make of everything that is converted; histogram as in `Measurement`.

    first : the first of the values below, a count or a difference. histogram : conversions of each. range_flag : 0 for
    R1, 1 for R2 or the only range. operations : A/D operations that each takes, a mean over the lines that are on.
    operations_r1, operations_r2 : numbers of operations that occur in the two ranges.
    """
    if hardware.pairs:
        spent, each = search_of(layer.registers, hardware).operations, histogram.sum(axis=0)
        mean = np.divide((spent * histogram).sum(axis=0), each, out=spent[-1].astype(np.float64), where=each > 0)
        in_r1, in_r2, flags = np.zeros(0, dtype=np.int64), spent[histogram > 0], np.ones_like(each)
    else:
        table = trq.convert_counts(hardware.adc_bits, hardware.ou_rows, layer.registers, layer.min_count)
        each, mean, flags = histogram, table.operations, table.range_flag
        in_r1, in_r2 = (table.operations[flags == flag] for flag in (0, 1))
    return {
        "first": -hardware.ou_rows if hardware.pairs else 0,
        "histogram": each.tolist(),
        "range_flag": flags.tolist(),
        "operations": mean.tolist(),
        "operations_r1": np.unique(in_r1).tolist(),
        "operations_r2": np.unique(in_r2).tolist(),
    }


def _layer(node: Crossbar, measured: Measurement, hardware: HardwareConfig, events: np.ndarray) -> dict[str, Any]:
    layer = node.layers[0]
    registers, conversion = layer.registers, conversion_of(layer, hardware, measured.histogram)
    in_r1, in_r2 = (float(events[_INDEX[name]]) for name in ("conversions_r1", "conversions_r2"))
    conversions, mean_bits = in_r1 + in_r2, 1 / max(1, measured.segments)
    return {
        "name": node.name,
        "kind": kind_of(node),
        "groups": len(node.layers),
        "k": layer.k,
        "outputs": sum(one.outputs for one in node.layers),
        "windows": sum(one.windows for one in node.layers),
        "widths": [one.block_widths.tolist() for one in node.layers],
        **_storage(node, hardware),
        **{name: conversion[name] for name in ("first", "histogram", "range_flag", "operations")},
        "adc": {
            **{name: getattr(registers, name) for name in ("mode", "n_r1", "n_r2", "m", "bias")},
            "counts_per_lsb": layer.counts_per_lsb,
            "lossless": trq.lossless(registers, hardware, layer.min_count),
            **{name: conversion[name] for name in ("operations_r1", "operations_r2")},
            "share_r1": in_r1 / conversions if conversions else 0.0,
            "mean_operations": float(events[_INDEX["ad_operations"]]) / conversions if conversions else 0.0,
        },
        "dynamic": None
        if layer.dynamic is None
        else {
            **asdict(layer.dynamic),
            **{f"{name}_bits": getattr(measured, name) * mean_bits for name in ("streamed", "lossless", "lossy")},
        },
        "lossy": layer.dynamic is not None and bool(layer.dynamic.tau_sq and layer.dynamic.l_max),
        "skip_zero_slices": layer.skip_zero_slices,
        "input_bits": layer.input_bits,
    }


def _storage(node: Crossbar, hardware: HardwareConfig) -> dict[str, int]:
    """Bits that a node stores; padding of edge blocks is left out (system.md §3, §8)."""
    total: dict[str, int] = {}
    for layer in node.layers:
        weights = np.outer(layer.segment_rows(hardware), layer.block_columns(hardware))
        for name, value in (
            ("weights", weights.sum()),
            ("plane_bits", (weights * layer.block_widths).sum()),
            ("sign_bits", weights[layer.block_widths > 0].sum()),
            ("table_bits", WIDTH_BITS * layer.block_widths.size),
            ("blocks", layer.block_widths.size),
            ("pruned", (layer.block_widths == 0).sum()),
        ):
            total[name] = total.get(name, 0) + int(value)
    return total


# ---- one saving after another -------------------------------------------------------------------
def machines(network: Graph, images: np.ndarray, final: np.ndarray) -> list[Machine]:
    """The baseline, then the savings of `network` switched on one after another, then the network as it is.

    Savings that the network does not use are left out. images : the pictures to run; final : the recorded events of
    the same pictures, (images, crossbar nodes, counters).
    """
    hardware, layers = network.hardware, network.layers
    if hardware.pairs:
        return _pair_machines(network, images, final)
    made = [
        replace(rivals.baseline(network), name="ISAAC-like baseline"),
        replace(rivals.block_widths(network), name="stored planes only: a width per block"),
    ]
    uniform = AdcRegisters(mode="uniform", n_r2=min(hardware.ideal_bits, hardware.adc_bits))
    plain = all(layer.registers == uniform for layer in layers)
    converter = "twin-range" if any(layer.registers.mode == "twin" for layer in layers) else "own"
    narrow = any(layer.input_bits < hardware.input_bits for layer in layers)
    dynamic = any(layer.dynamic is not None for layer in layers)
    lossy = any(layer.dynamic is not None and layer.dynamic.tau_sq and layer.dynamic.l_max for layer in layers)
    skipping = any(layer.skip_zero_slices for layer in layers)

    units = [node.name for node in network.crossbars if node.layers[0].dynamic is not None]
    off, lossless = dict.fromkeys(units), dict.fromkeys(units, DynamicPrecision())
    rungs = [
        (f"+ {converter} converter" if not plain else "+ activation widths", not plain or narrow, off),
        ("+ dynamic precision, lossless part", dynamic, lossless),
        ("+ dynamic precision, lossy part", lossy, {}),
        ("+ skipping of zero slices", skipping, {}),
    ]
    used = [(name, units) for name, needed, units in rungs if needed]
    for name, units in used[:-1]:
        now = with_settings(network, dynamic=units, skip_zero_slices=False)
        made.append(_counted(name, now, GraphRunner(now).run(images)[1]))
    made.append(_counted(used[-1][0] if used else "this image", network, final))
    return made


def _pair_machines(network: Graph, images: np.ndarray, final: np.ndarray) -> list[Machine]:
    """The same of a network of the pair machine, whose energy comes from `golden_model.cost.pair_machine`."""
    plain = with_settings(network, hardware=network.hardware.of_planes)
    switches = Switches(
        search={node.name: search_of(node.registers, network.hardware) for node in network.crossbars},
        stop={node.name: stop for node in network.crossbars if (stop := EarlyStop.in_tile(node.layers[0]))},
        clocks="lanes 2",
        keeps="nothing",
        words=False,
    )
    found = switched(plain, images, {"pairs": switches})["pairs"]
    made = pair_machine.machine(plain, found, "pair machine: gathered OUs, column pairs", window_streams=False)
    return [
        replace(rivals.baseline(plain), name="ISAAC-like baseline"),
        replace(rivals.block_widths(plain), name="stored planes only: a width per block"),
        made.with_cycles(final[..., _INDEX["cycles"]].mean(axis=0)),
    ]


def _counted(name: str, network: Graph, events: Events | np.ndarray) -> Machine:
    """A machine from events (images, crossbar nodes, counters), and what its dynamic-precision units decide."""
    extra = {name: counts for name, counts in work.dynamic_precision_events(network).items() if counts.any()}
    return Machine(network, events, name, extra=extra)


def _machine(machine: Machine, report: EnergyReport, elsewhere: dict[str, float]) -> dict[str, Any]:
    """Totals of one picture; steps without crossbars take the same clocks in every machine."""
    return {
        "name": machine.name,
        **{name: machine.total(name) for name in COUNTER_NAMES},
        "cycles": machine.clocks + sum(elsewhere.values()),
        "conversions": machine.conversions,
        "energy_pj": report.total_pj,
        "energy_groups": report.by_group,
        "nodes": dict(zip(report.parts, machine.events.tolist(), strict=False)),
    }


def _table(name: str, baseline: Machine, ours: Machine) -> dict[str, Any]:
    table = components.load_table(name)
    b, o = energy(baseline, table), energy(ours, table)
    return {
        "name": name,
        "title": table.title,
        "baseline_pj": b.total_pj,
        "ours_pj": o.total_pj,
        "baseline_adc_share": b.share("ADC"),
        "ours_adc_share": o.share("ADC"),
    }


# ---- what is known beside the network -----------------------------------------------------------
#: Keys of info["accuracy"] in the order of the ladder, and what the report calls them.
ACCURACY_STAGES = {
    "float": "float",
    "quantised": "integers",
    "eight_bit": "8-bit integers",
    "integer": "integers with a width per block (BWQ)",
    "trq": "with twin-range conversion (TRQ)",
    "redy": "with dynamic precision (ReDy)",
}


def accuracy_rows(info: dict[str, Any]) -> list[dict[str, Any]]:
    """The ladder in order, rows {"key", "stage", "accuracy" 0..1, "images" or None}; empty if the image has none.

    info["accuracy"] maps the keys of `ACCURACY_STAGES` (those that exist; others follow under their own name) to a
    share of info["test_images"].

    Raises ValueError for anything else.
    """
    found = _object(info, "accuracy")
    if any(isinstance(v, bool) or not isinstance(v, int | float) or not 0 <= v <= 1 for v in found.values()):
        raise ValueError(f"info: accuracy must map stages to numbers in 0..1, got {found!r}")
    order = [*(k for k in ACCURACY_STAGES if k in found), *(k for k in found if k not in ACCURACY_STAGES)]
    images = info.get("test_images")
    return [
        {"key": k, "stage": ACCURACY_STAGES.get(k, k), "accuracy": float(found[k]), "images": images} for k in order
    ]


def _object(info: dict[str, Any], key: str) -> dict[str, Any]:
    found = info.get(key, {})
    if not isinstance(found, dict):
        raise ValueError(f"info: {key} must map stages to numbers in 0..1, got {found!r}")
    return found


def confusion(network: Graph, vectors: deployment.Vectors) -> dict[str, Any] | None:
    """Pictures by [true class][class chosen], of the whole test set if the network knows it, else of its test vectors.

    {"counts", "pictures", "of": "test set" or "test pictures in the image"}; None with fewer labels than classes.

    Raises ValueError for a table of another form.
    """
    classes, found = network.output.shape[0], network.info.get("confusion")
    if found is not None:
        counts = np.asarray(found)
        if counts.shape != (classes, classes) or counts.dtype.kind not in "iu" or (counts < 0).any():
            raise ValueError(f"info: confusion must be {classes} x {classes} numbers of pictures")
        return {"counts": counts.tolist(), "pictures": int(counts.sum()), "of": "test set"}
    labels, chosen = np.asarray(vectors.labels), np.asarray(vectors.logits).argmax(axis=1)
    known = (labels >= 0) & (labels < classes)
    if known.sum() < classes:
        return None
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels[known], chosen[known]), 1)
    return {"counts": counts.tolist(), "pictures": int(known.sum()), "of": "test pictures in the image"}


def _pictures(vectors: deployment.Vectors, count: int, run: dict[str, Any] | None) -> dict[str, Any]:
    """Labels and predicted classes; the hardware's where it ran (`simulated` counts them), else the golden model's."""
    predicted = np.asarray(vectors.logits[:count]).argmax(axis=1).tolist()
    simulated = [row for row in (run or {}).get("images", []) if 0 <= row["index"] < count]
    for row in simulated:
        predicted[row["index"]] = row["predicted"]
    labels = np.asarray(vectors.labels[:count]).tolist()
    return {"labels": labels, "predicted": predicted, "simulated": len(simulated)}


#: What `python -m sim.run --json` writes, as far as the report reads it.
RUN_SCHEMA, RUN_VERSION = "ohmloom-run", 2
_RUN_FIELDS = (
    "image_sha256",
    "backend",
    "crossbar",
    "judged",
    "agrees",
    "first_difference",
    "notes",
    "simulated",
    "equal",
    "images",
    "clocks",
    "clocks_per_second",
    "seconds",
    "build_seconds",
)


def check_run(run: dict[str, Any] | None, image: deployment.Image) -> dict[str, Any] | None:
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
