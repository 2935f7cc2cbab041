"""Replay a deployment image's test vectors through the golden model: `python -m golden_model.run IMAGE_DIR`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from golden_model.engines.chain import Runner
from golden_model.events import Events
from golden_model.image.image import Image, read
from golden_model.registers import COUNTER_NAMES
from golden_model.trq import lossless

console = Console(width=None if sys.stdout.isatty() else 140)


def _write_json(path: Path, result: dict[str, Any]) -> None:
    """Write to a temporary name, then rename."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(result, indent=1) + "\n")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from None


def describe(image: Image) -> dict[str, Any]:
    """What an image holds, JSON-able."""
    hardware, network = image.network.hardware, image.network
    layers = []
    for layer, placed in zip(network.layers, image.placement.layers, strict=True):
        registers = layer.registers
        layers.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "input": [layer.channels, layer.height, layer.width],
                "output": [layer.outputs, layer.out_height, layer.out_width],
                "kernel": [layer.kernel_height, layer.kernel_width],
                "stride": layer.stride,
                "pad": layer.pad,
                "pool": layer.pool,
                "k": layer.k,
                "windows": layer.windows,
                "input_bits": layer.input_bits,
                "mean_width_bits": _mean_width(layer, hardware),
                "ous": placed.ous,
                "pairs": placed.pairs,
                "registers": {
                    "mode": registers.mode,
                    "n_r2": registers.n_r2,
                    "n_r1": registers.n_r1,
                    "m": registers.m,
                    "bias": registers.bias,
                },
                "counts_per_lsb": layer.counts_per_lsb,
                "lossless": lossless(registers, hardware, layer.min_count),
                "dynamic": None
                if layer.dynamic is None
                else {"l_max": layer.dynamic.l_max, "tau_sq": layer.dynamic.tau_sq},
                "skip_zero_slices": layer.skip_zero_slices,
            }
        )
    return {
        "name": network.name,
        "classes": list(network.classes),
        "info": network.info,
        "hardware": hardware.as_dict(),
        "hardware_hash": hardware.hash,
        "crossbar_pairs_used": image.placement.pairs,
        "vectors": len(image.vectors.images),
        "layers": layers,
    }


def _mean_width(layer: Any, hardware: Any) -> float:
    """Magnitude bits per weight; padding of edge blocks left out."""
    rows = np.minimum(hardware.ou_rows, layer.k - np.arange(layer.segments(hardware)) * hardware.ou_rows)
    cols = np.minimum(hardware.ou_cols, layer.outputs - np.arange(layer.block_cols(hardware)) * hardware.ou_cols)
    return float(rows @ layer.block_widths @ cols) / (layer.k * layer.outputs)


def _print_description(what: dict[str, Any]) -> None:
    hardware = what["hardware"]
    console.print(
        f"[bold]{what['name']}[/bold]: {len(what['layers'])} layers, {what['vectors']} test vectors, "
        f"{len(what['classes'])} class names"
    )
    console.print(
        f"hardware {what['hardware_hash'][:8]}: {hardware['rows']} x {hardware['cols']} crossbars, "
        f"{hardware['ou_rows']} x {hardware['ou_cols']} OUs, {hardware['adc_bits']}-bit ADCs, "
        f"{what['crossbar_pairs_used']} of {hardware['crossbar_pairs']} crossbar pairs used"
    )
    table = Table("layer", "input", "kernel", "output", "windows", "bits/weight", "OUs", "pairs", "A/D", "precision")
    for layer in what["layers"]:
        adc = layer["registers"]
        text = f"{adc['mode']} n_r2={adc['n_r2']}"
        if adc["mode"] == "twin":
            text += f" n_r1={adc['n_r1']} m={adc['m']} b={adc['bias']}"
        if layer["counts_per_lsb"] != 1:
            text += f" lambda={layer['counts_per_lsb']:g}"
        dynamic = layer["dynamic"]
        precision = f"{layer['input_bits']} bits" if dynamic is None else f"l_max={dynamic['l_max']}"
        if dynamic is not None:
            precision += f" tau_sq={dynamic['tau_sq']}"
        table.add_row(
            layer["name"],
            "x".join(map(str, layer["input"])),
            "x".join(map(str, layer["kernel"])),
            "x".join(map(str, layer["output"])),
            str(layer["windows"]),
            f"{layer['mean_width_bits']:.2f}",
            str(layer["ous"]),
            str(layer["pairs"]),
            text + (" lossless" if layer["lossless"] else ""),
            precision + (", skips zero slices" if layer["skip_zero_slices"] else ""),
        )
    console.print(table)
    for key, value in what["info"].items():
        console.print(f"{key}: {value}", highlight=False, markup=False)


def first_difference(image: Image, logits: np.ndarray, events: Events, cycles: np.ndarray) -> str | None:
    """Where a replay first differs from the stored vectors, or None."""
    stored, count = image.vectors, len(logits)
    for index in range(count):
        for layer, name in np.argwhere(events.counts[index] != stored.events.counts[index])[:1]:
            got, expected = events.counts[index, layer, name], stored.events.counts[index, layer, name]
            where = image.network.layers[layer].name
            return f"image {index}, layer {where}, {COUNTER_NAMES[name]}: got {got}, stored {expected}"
        for output in np.flatnonzero(logits[index] != stored.logits[index])[:1]:
            got, expected = logits[index, output], stored.logits[index, output]
            return f"image {index}, logit {output}: got {got}, stored {expected}"
        if cycles[index] != stored.cycles[index]:
            return f"image {index}, cycles: got {cycles[index]}, stored {stored.cycles[index]}"
    return None


def replay(image: Image, count: int) -> dict[str, Any]:
    """Run the first `count` vectors and compare with what is stored; JSON-able result."""
    runner = Runner(image.network)
    start = time.perf_counter()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("golden model", total=None)
        logits, events = runner.run(
            image.vectors.images[:count], progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    seconds = time.perf_counter() - start
    cycles = runner.cycles(events)
    labels = image.vectors.labels[:count]
    known = labels >= 0
    difference = first_difference(image, logits, events, cycles)
    return {
        "images": count,
        "agrees": difference is None,
        "first_difference": difference,
        "labelled": int(known.sum()),
        "correct": int((logits.argmax(axis=1) == labels)[known].sum()),
        "seconds": seconds,
        "cycles": cycles.tolist(),
        "logits": logits.tolist(),
        "events": {
            layer.name: events[:, index].sum().as_dict(derived=True) for index, layer in enumerate(image.network.layers)
        },
    }


def _print_replay(image: Image, result: dict[str, Any]) -> None:
    count = max(1, result["images"])
    table = Table(
        "layer", "OU activations", "of dense", "conversions", "in R1", "A/D operations", "per conv.", "cycles"
    )
    table.title = "per image"
    for name, events in result["events"].items():
        conversions = events["conversions"]
        table.add_row(
            name,
            f"{events['ou_activations'] / count:,.0f}",
            f"{events['ou_activations'] / max(1, events['dense']):.1%}",
            f"{conversions / count:,.0f}",
            f"{events['conversions_r1'] / max(1, conversions):.1%}",
            f"{events['ad_operations'] / count:,.0f}",
            f"{events['ad_operations'] / max(1, conversions):.2f}",
            f"{events['cycles'] / count:,.0f}",
        )
    console.print(table)
    correct = f"{result['correct']} of {result['labelled']} labels right, " if result["labelled"] else ""
    console.print(f"{result['images']} images in {result['seconds']:.2f} s, {correct}", end="")
    if result["agrees"]:
        console.print("[green]logits, events and cycles equal those stored[/green]")
    else:
        console.print(f"[red]differs from what is stored[/red]: {result['first_difference']}")


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    image_dir: Annotated[Path, typer.Argument(help="deployment image, a directory")],
    images: Annotated[int | None, typer.Option(min=1, help="how many test vectors to replay; default all")] = None,
    describe_only: Annotated[bool, typer.Option("--describe", help="print what the image holds, run nothing")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the result to this file")] = None,
) -> None:
    """Replay a deployment image's test vectors and compare logits and events with those stored.

    Exit status: 0 they are equal, 1 they differ, 2 the image or the call is bad.
    """
    try:
        image = read(image_dir)
        if describe_only:
            result = describe(image)
            _print_description(result)
        else:
            held = len(image.vectors.images)
            if images is not None and images > held:
                raise ValueError(f"--images must be at most {held}, the vectors that the image holds, got {images}")
            result = replay(image, held if images is None else images)
            _print_replay(image, result)
        if json_file is not None:
            _write_json(json_file, result)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if not result.get("agrees", True):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
