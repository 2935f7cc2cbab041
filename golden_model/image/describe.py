"""What an integer network holds, for people and as JSON: `python -m golden_model.image.describe FILE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from golden_model.command import Json, command, results_console, table_of
from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import Layer
from golden_model.files import write_json
from golden_model.graph.network import Graph
from golden_model.graph.nodes import Add, Crossbar
from golden_model.image import archive
from golden_model.image.lowering import Step
from golden_model.image.program import Program
from golden_model.registers import WIDTH_BITS, StepKind
from golden_model.trq import lossless


def _widths(layer: Layer, hardware: HardwareConfig) -> tuple[np.ndarray, np.ndarray]:
    """(width, weights) of every block, flat; padding of edge blocks left out."""
    weights = np.outer(layer.segment_rows(hardware), layer.block_columns(hardware))
    return layer.block_widths.ravel(), weights.ravel()


def _summary(layers: Sequence[Layer], hardware: HardwareConfig) -> dict[str, Any]:
    parts = [_widths(layer, hardware) for layer in layers]
    width, weights = (np.concatenate(x) for x in zip(*parts, strict=True))
    histogram = np.bincount(width, minlength=hardware.weight_bits + 1)
    whole = int(weights.sum())
    magnitude = int(width @ weights)
    with_sign = magnitude + int(weights[width > 0].sum())
    bits = {
        "magnitude": magnitude,
        "with_sign": with_sign,
        "with_sign_and_table": with_sign + WIDTH_BITS * len(width),
    }
    return {
        "weights": whole,
        "bits_per_weight": magnitude / whole,
        # 32 * weights / bits; the sign is one bit for every weight of a block that is not empty
        "compression": {name: 32 * whole / value if value else None for name, value in bits.items()},
        "zero_weights": float(np.mean(np.concatenate([x.weights.ravel() for x in layers]) == 0)),
        "blocks": len(width),
        "block_widths": {str(bits): int(count) for bits, count in enumerate(histogram)},
    }


def describe(graph: Graph) -> dict[str, Any]:
    """What a graph holds, JSON-able: layers, histogram of block widths, magnitude bits per weight, scales."""
    nodes = []
    for node in graph.nodes:
        one: dict[str, Any] = {
            "name": node.name,
            "kind": archive.KIND_NAMES[type(node)],
            "inputs": list(node.inputs),
            "shape": list(node.shape),
            "bits": node.encoding.bits,
            "ones": node.encoding.ones,
            "scale": node.encoding.scale,
            "zero": list(node.encoding.zeros) or node.encoding.zero,
        }
        if isinstance(node, Crossbar | Add) and node.lookup is not None:
            one["lookup"] = asdict(node.lookup.code)  # of what indexes the table
        if isinstance(node, Crossbar):
            first = node.layers[0]
            one |= {
                "layer": first.kind,
                "kernel": [first.kernel_height, first.kernel_width],
                "stride": first.stride,
                "pad": first.pad,
                "pool": first.pool,
                "groups": len(node.layers),
                "windows": first.windows,
                "input_bits": first.input_bits,
                **_summary(node.layers, graph.hardware),
                "weight_step": {"least": float(node.step.min()), "most": float(node.step.max())},
                "registers": asdict(first.registers),
                "counts_per_lsb": first.counts_per_lsb,
                "lossless": lossless(first.registers, graph.hardware, first.min_count),
                "dynamic": None if first.dynamic is None else asdict(first.dynamic),
                "skip_zero_slices": first.skip_zero_slices,
            }
        nodes.append(one)
    return {
        "name": graph.name,
        "classes": list(graph.classes),
        "info": graph.info,
        "hardware": graph.hardware.as_dict(),
        "hardware_hash": graph.hardware.hash,
        **_summary(graph.layers, graph.hardware),
        "nodes": nodes,
    }


def describe_program(program: Program) -> dict[str, Any]:
    """What a program does and where everything lies, JSON-able."""
    placed = iter(program.placement.layers)
    steps = []
    for step in program.steps:
        values = step.fields
        one: dict[str, Any] = {
            "name": step.name,
            "node": step.node,
            "kind": step.kind.name.lower(),
            "input": [values[name] for name in ("channels", "height", "width")],
            "kernel": [values["kernel_height"], values["kernel_width"]],
            "stride": [values["stride_y"], values["stride_x"]],
            "pool": values["pool"],
            "output": list(step.shape),
            "windows": step.windows,
            "cycles": step.cycles,
            "source": values["source"],
            "target": None if values["last"] else values["target"],
            "residual": values["residual_base"] if values["residual"] else None,
        }
        if step.layer is not None:
            where = next(placed)
            one |= _layer(step, program.hardware)
            one |= {"ous": where.ous, "first_pair": where.crossbar_base, "pairs": where.pairs}
        steps.append(one)
    return {
        "hardware": program.hardware.as_dict(),
        "hardware_hash": program.hardware.hash,
        "crossbar_pairs_used": program.placement.pairs,
        "activation_bytes_used": max(buffer.base + buffer.size for buffer in program.buffers),
        "image": {"address": program.image_base, "shape": list(program.image_shape)},
        "logits": program.logits,
        "steps": steps,
        "memory": [asdict(buffer) for buffer in program.buffers],
    }


def _layer(step: Step, hardware: HardwareConfig) -> dict[str, Any]:
    layer = step.layer
    assert layer is not None
    width, weights = _widths(layer, hardware)
    return {
        "k": layer.k,
        "input_bits": layer.input_bits,
        "mean_width_bits": float(width @ weights) / int(weights.sum()),
        "registers": {name: getattr(layer.registers, name) for name in ("mode", "n_r2", "n_r1", "m", "bias")},
        "counts_per_lsb": layer.counts_per_lsb,
        "lossless": lossless(layer.registers, hardware, layer.min_count),
        "dynamic": None if layer.dynamic is None else asdict(layer.dynamic),
        "skip_zero_slices": layer.skip_zero_slices,
    }


# ---- what people see ----------------------------------------------------------------------------
console = results_console()


def _adc(layer: dict[str, Any]) -> str:
    """Converters and precision of a crossbar layer in words."""
    shown = {name: len(value) if isinstance(value, tuple) else value for name, value in layer["registers"].items()}
    words = [shown.pop("mode")] + [f"{name}={value}" for name, value in shown.items() if value]
    if layer["counts_per_lsb"] != 1:
        words.append(f"lambda={layer['counts_per_lsb']:g}")
    if layer["dynamic"] is not None:
        words.append(" ".join(f"{name}={value}" for name, value in layer["dynamic"].items()))
    return " ".join(words + ["lossless"] * layer["lossless"] + ["skips zero slices"] * layer["skip_zero_slices"])


def _converters(hardware: dict[str, Any]) -> str:
    """OUs and converters of a machine in words; those of the pair machine have a sign."""
    sign = " and a sign, column pairs" if hardware.get("machine") == "pairs" else ""
    return f"{hardware['ou_rows']} x {hardware['ou_cols']} OUs, {hardware['adc_bits']}-bit ADCs{sign}"


def _by(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))


def print_program(what: dict[str, Any]) -> None:
    """The steps and the memory map of `describe_program`."""
    hardware = what["hardware"]
    console.print(
        f"hardware {what['hardware_hash'][:8]}: {hardware['rows']} x {hardware['cols']} crossbars, "
        f"{_converters(hardware)}, {what['crossbar_pairs_used']} of {hardware['crossbar_pairs']} crossbar pairs and "
        f"{what['activation_bytes_used']:,} of {hardware['activation_bytes']:,} bytes of activations used"
    )
    table = Table(
        "step", "does", "input", "kernel", "output", "reads", "writes", "windows", "K", "bits", "pairs", "A/D"
    )
    for step in what["steps"]:
        kernel = _by(step["kernel"]) + ("" if step["stride"] == [1, 1] else f"/{_by(step['stride'])}")
        reads = str(step["source"]) + ("" if step["residual"] is None else f" + {step['residual']}")
        row = [
            escape(step["name"]), step["kind"], _by(step["input"]), kernel, _by(step["output"]), reads,
            "logits" if step["target"] is None else str(step["target"]), str(step["windows"]),
        ]  # fmt: skip
        if step["kind"] == StepKind.CROSSBAR.name.lower():
            pairs = f"{step['pairs']} from {step['first_pair']}"
            row += [str(step["k"]), f"{step['mean_width_bits']:.2f}", pairs, _adc(step)]
        table.add_row(*row)
    console.print(table)
    table = Table("bytes", "size", "during steps", "hold")
    for buffer in what["memory"]:
        end = buffer["base"] + buffer["size"] - 1
        first = "the image is written" if buffer["first"] < 0 else str(buffer["first"])
        held = ", ".join(map(escape, buffer["tensors"]))
        table.add_row(f"{buffer['base']}..{end}", f"{buffer['size']:,}", f"{first}..{buffer['last']}", held)
    console.print(table)


def events_table(events: dict[str, dict[str, int]], images: int) -> Table:
    """Mean events of one image, step by step. events : sums over `images`, as `Events.as_dict(derived=True)`."""
    records = [
        {
            "step": escape(step),
            **{name: value / max(1, images) for name, value in one.items()},
            "of_dense": one["ou_activations"] / max(1, one["dense"]),
            "in_r1": one["conversions_r1"] / max(1, one["conversions"]),
            "each": one["ad_operations"] / max(1, one["conversions"]),
        }
        for step, one in events.items()
    ]
    # The pair machine skips nothing and has one range; it forms its OUs, at least one of any picture that is not black.
    on_pairs, formed = any(one["prefix_counts"] for one in events.values()), ("OUs formed", "{prefix_counts:,.0f}")
    columns = [
        ("step", "{step}"),
        ("OU activations", "{ou_activations:,.0f}"),
        formed if on_pairs else ("of dense", "{of_dense:.1%}"),
        ("conversions", "{conversions:,.0f}"),
        *([] if on_pairs else [("in R1", "{in_r1:.1%}")]),
        ("A/D operations", "{ad_operations:,.0f}"),
        ("per conv.", "{each:.2f}"),
        ("cycles", "{cycles:,.0f}"),
    ]
    return table_of("per image", columns, records)


def print_network(what: dict[str, Any]) -> None:
    """What `describe` says."""
    hardware = what["hardware"]
    crossbars = [node for node in what["nodes"] if node["kind"] == "crossbar"]
    console.print(
        f"[bold]{escape(what['name'])}[/bold]: {len(what['nodes'])} nodes, {len(crossbars)} of them on crossbars; "
        f"{what['weights']:,} weights, {100 * what['zero_weights']:.1f} % of them 0; {len(what['classes'])} class names"
    )
    console.print(
        f"hardware {what['hardware_hash'][:8]}: {_converters(hardware)}, {hardware['input_bits']} input bits, "
        f"{hardware['weight_bits']} weight planes"
    )
    console.print(
        f"{what['bits_per_weight']:.3f} magnitude bits per weight; blocks by width: "
        + ", ".join(f"{count} of {bits} bits" for bits, count in what["block_widths"].items() if count)
    )
    console.print(
        "compression against 32-bit weights: "
        + ", ".join(f"{value:.1f}x {name.replace('_', ' ')}" for name, value in what["compression"].items() if value)
    )
    table = Table("node", "kind", "from", "output", "bits", "step, zero", "kernel", "weights", "bits/weight", "A/D")
    for node in what["nodes"]:
        words = [escape(node["name"]), node["kind"], escape(", ".join(node["inputs"])), _by(node["shape"])]
        zero = node["zero"]
        zero = ", ".join(f"{z:.4g}" for z in zero) if isinstance(zero, list) else str(zero)
        ones = f", {node['ones']} ones" if node["ones"] else ""
        words += [f"{node['bits']}{ones}", f"{node['scale']:.4g}, {zero}"]
        if node["kind"] == "crossbar":
            words[1] = node["layer"] + (f", {node['groups']} groups" if node["groups"] > 1 else "")
            kernel = "x".join(map(str, node["kernel"])) + (f"/{node['stride']}" if node["stride"] > 1 else "")
            words += [kernel, f"{node['weights']:,}", f"{node['bits_per_weight']:.3f}", _adc(node)]
        table.add_row(*words)
    console.print(table)
    print_info(what["info"])


def print_info(info: dict[str, Any]) -> None:
    """What a network says of itself."""
    for key, value in info.items():
        console.print(f"{key}: {value}", markup=False)


@command
def app(file: Annotated[Path, typer.Argument(help="graph file")], json_file: Json = None) -> None:
    """Check a graph file and say what it holds: layers, block widths, bits per weight, scales, converters.

    Exit status: 0 it can be used, 2 the file or the call is bad.
    """
    what = describe(archive.load(file))
    if json_file is not None:
        write_json(json_file, what)
    print_network(what)


if __name__ == "__main__":
    app()
