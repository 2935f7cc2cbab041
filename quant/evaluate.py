"""Accuracy of a trained network, in floating point and as 8-bit integers on the crossbars.

    python -m quant.evaluate --model resnet20 --weights FILE --data DIR

prints the float accuracy (torch), the accuracy after quantisation with a lossless converter ("8/f": all test
images through quant.reference), and what the golden model counts per image. The golden model runs a few of the
images and must give the same logits; exit status 1 if it does not.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import torch
import typer
from rich.progress import Progress as Bar
from torch import nn

from golden_model.command import console, reports_errors
from golden_model.config import read_hardware
from golden_model.engines import torch_engine
from golden_model.engines.run_network import GraphRunner
from golden_model.files import write_json
from golden_model.graph.network import Graph
from quant import options
from quant.capture.capture import from_torch
from quant.data import sets as datasets
from quant.networks import user
from quant.networks import zoo as networks
from quant.networks.user import make as own_model
from quant.networks.weights import load_weights
from quant.reference import Progress, accuracy, exact_logits
from quant.training.layers import Normalisation

#: Of the golden model; "torch" is the one for GPUs.
ENGINES = ("auto", "compiled", "torch", "patterns", "direct")

_FLOAT_BYTES = 64 << 20


@torch.no_grad()
def float_logits(
    model: nn.Module, images: np.ndarray, normalisation: Normalisation, progress: Progress | None = None
) -> np.ndarray:
    """Logits (B, N) float of uint8 images (B, C, H, W) in the float network, in evaluation mode.

    ValueError if the network fails, or does not give one tensor with a row per image.
    """
    model.eval()
    step = max(1, _FLOAT_BYTES // (64 * int(np.prod(images.shape[1:]))))
    parts = []
    for start in range(0, len(images), step):
        batch = normalisation.apply(torch.tensor(images[start : start + step], dtype=torch.float32))
        parts.append(user.call(model, batch).flatten(1).float().numpy())
        if progress is not None:
            progress(min(start + step, len(images)), len(images))
    return np.concatenate(parts)


def per_image(graph: Graph, events: Any, images: int) -> dict[str, Any]:
    """Event counts per image, of the whole network and of every crossbar layer, JSON-able."""
    total = {k: v / images for k, v in events.sum().as_dict(derived=True).items()}
    layers = {}
    for index, node in enumerate(graph.crossbars):
        counted = events[:, index].sum()
        layers[node.name] = {k: v / images for k, v in counted.as_dict(derived=True).items()}
    return {"network": total, "layers": layers}


def load_ready(name: str, weights: Path, data: Path) -> tuple[networks.Ready, nn.Module, datasets.ImageSet]:
    """A ready-made network, with its weights, and a data set of its shape; ValueError where they do not fit."""
    known = networks.ready(name)
    dataset = datasets.load(data, size=known.shape[1], channels=known.shape[0])
    if dataset.shape != known.shape:
        raise ValueError(f"{data}: images are {dataset.shape}, {name} takes {known.shape}")
    model = known.make(known.classes)
    load_weights(model, weights)
    datasets.check_labels(dataset, known.classes)
    return known, model, dataset


def _engine(name: str, device: str | None) -> str:
    """The engine's name in the golden model, from --engine and --device."""
    if name not in ENGINES:
        raise ValueError(f"--engine must be one of {', '.join(ENGINES)}, got {name!r}")
    if device is not None and (name != "torch" or device not in ("cuda", "cpu")):
        raise ValueError(f"--device is cuda or cpu, and goes with --engine torch; got {device!r} and --engine {name}")
    if name == "torch" and device != "cpu" and not torch_engine.gpu_present():
        raise ValueError(
            "--engine torch needs a GPU that torch can use, and it sees none; --device cpu runs the same code on "
            "the processor, slowly"
        )
    return name if device is None else f"{name}:{device}"


def _device_words(engine: str) -> str:
    """What the golden model ran on, for people."""
    if engine.partition(":")[0] != "torch":
        return "processor"
    return torch_engine.device_name(torch_engine.find_device(engine))


def evaluate(
    model: nn.Module,
    dataset: datasets.ImageSet,
    *,
    hardware: Any,
    normalisation: Normalisation,
    name: str,
    images: int | None = None,
    golden_images: int = 16,
    engine: Any = "auto",
    threads: int | None = None,
    weight_bits: int = 7,
    activation_bits: int = 8,
    progress: Any = None,
) -> dict[str, Any]:
    """Everything that the command prints, JSON-able.

    progress : called with (what is done, images done, images).
    """
    datasets.check_labels(dataset, float_logits(model, dataset.test_images[:1], normalisation).shape[1])
    test, labels = dataset.test_images[:images], dataset.test_labels[:images]

    def told(what: str) -> Progress | None:
        return None if progress is None else lambda done, total: progress(what, done, total)

    result: dict[str, Any] = {
        "network": name,
        "data": dataset.source,
        "classes": list(dataset.names),
        "images": len(test),
        "calibration_images": len(dataset.calibration()),
        "calibration_images_are_test_images": dataset.one_part,
        "hardware": hardware.as_dict(),
    }
    result["float_accuracy"] = accuracy(float_logits(model, test, normalisation, told("float network")), labels)
    graph = from_torch(
        model,
        dataset.shape,
        hardware,
        dataset.calibration(),
        normalisation=normalisation,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        name=name,
    )
    result["weight_bits"], result["activation_bits"] = weight_bits, activation_bits
    exact = exact_logits(graph, test, progress=told("integer network"))
    result["integer_accuracy"] = accuracy(exact, labels)
    count = min(golden_images, len(test))
    if count:
        runner = GraphRunner(graph, engine=engine, threads=threads)
        start = time.perf_counter()
        logits, events = runner.run(test[:count], progress=told("golden model"))
        result["golden_model"] = {
            "engine": engine,
            "device": _device_words(runner.engine_of(count)),
            "images": count,
            "seconds": time.perf_counter() - start,
            "logits_equal": bool((logits == exact[:count]).all()),
            "per_image": per_image(graph, events, count),
        }
    return result


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@reports_errors
def main(
    model: Annotated[str, typer.Option(help=f"{', '.join(networks.READY)}, or FILE.py:NAME for your own network.")],
    data: Annotated[Path, typer.Option(help="idx files, CIFAR-10 batches, a folder of pictures or an .npz file.")],
    weights: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time
        typer.Option(help="State dict, .npz or .safetensors; needed unless your own network has its weights."),
    ] = None,
    images: Annotated[Optional[int], typer.Option(min=1, help="Test images; default all.")] = None,  # noqa: UP045
    golden_images: Annotated[int, typer.Option(min=0, help="Images that the golden model runs, 0 for none.")] = 16,
    engine: Annotated[str, typer.Option(help=f"Of the golden model: {', '.join(ENGINES)}.")] = "auto",
    device: Annotated[Optional[str], typer.Option(help="Of --engine torch: cuda (default) or cpu.")] = None,  # noqa: UP045
    threads: Annotated[Optional[int], typer.Option(min=1, help="Of the golden model; default all cores.")] = None,  # noqa: UP045
    hardware: options.Hardware = options.DEFAULT_HARDWARE,
    weight_bits: Annotated[int, typer.Option(help="Magnitude bits of a weight, beside its sign.")] = 7,
    activation_bits: Annotated[int, typer.Option(help="Bits of an activation.")] = 8,
    mean: Annotated[str | None, typer.Option(help="Mean of pixel / 255 per channel: 0.5,0.5,0.5.")] = None,
    std: Annotated[Optional[str], typer.Option(help="Standard deviation of pixel / 255 per channel.")] = None,  # noqa: UP045
    size: Annotated[Optional[int], typer.Option(min=1, help="Pictures only: scale and crop to size x size.")] = None,  # noqa: UP045
    channels: Annotated[Optional[int], typer.Option(help="Pictures only: 1 for grey, 3 for colour.")] = None,  # noqa: UP045
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Also write the results here.")] = None,  # noqa: UP045
) -> None:
    """Accuracy of a network in floating point and as integers, and its events per image."""
    machine = read_hardware(hardware or options.DEFAULT_HARDWARE)
    engine = _engine(engine, device)
    own = ":" in model
    if model.endswith(".onnx"):
        raise ValueError(f"--model: {model} is an ONNX network, which is not read; yours is FILE.py:NAME")
    if channels not in (None, 1, 3):
        raise ValueError(f"--channels must be 1 or 3, got {channels}")
    known = None if own else networks.ready(model)
    pictures = known.shape if known else None
    dataset = datasets.load(
        data,
        size=size or (pictures[1] if pictures else None),
        channels=channels or (pictures[0] if pictures else None),
    )
    if known:
        if dataset.shape != known.shape:
            raise ValueError(f"{data}: images are {dataset.shape}, {model} takes {known.shape}")
        if weights is None:
            raise ValueError(f"--weights is needed: {model} has no weights of its own")
        network, normalisation = known.make(known.classes), known.normalisation
    else:
        network, normalisation = own_model(model), Normalisation.none(dataset.shape[0])
    if weights is not None:
        load_weights(network, weights)
    normalisation = Normalisation(
        mean=options.numbers("--mean", mean, dataset.shape[0]) or normalisation.mean,
        std=options.numbers("--std", std, dataset.shape[0]) or normalisation.std,
    )
    with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)
        result = evaluate(
            network,
            dataset,
            hardware=machine,
            normalisation=normalisation,
            name=model.rpartition(":")[2] if own else model,
            images=images,
            golden_images=golden_images,
            engine=engine,
            threads=threads,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    print_result(result)
    if json_file is not None:
        write_json(json_file, result)
    if not result.get("golden_model", {}).get("logits_equal", True):
        raise typer.Exit(1)


def print_result(result: dict[str, Any]) -> None:
    show = console.print
    note = ", which are among them" if result["calibration_images_are_test_images"] else ""
    if names := result["classes"]:
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        show("labels            " + ", ".join(f"{i} {name}" for i, name in enumerate(names[:20])) + more)
    show(f"{result['network']} on {result['images']} images of {result['data']}")
    show(f"float accuracy    {100 * result['float_accuracy']:.2f} %")
    show(
        f"integer accuracy  {100 * result['integer_accuracy']:.2f} %  ({result['activation_bits']}-bit activations,"
        f" sign + {result['weight_bits']}-bit weights, lossless converter, calibrated on"
        f" {result['calibration_images']} images{note})"
    )
    if "golden_model" not in result:
        return
    golden = result["golden_model"]
    events = golden["per_image"]["network"]
    words = "equal" if golden["logits_equal"] else "NOT EQUAL"
    where = "" if golden["device"] == "processor" else f" on {golden['device']}"
    show(f"golden model      {golden['images']} images in {golden['seconds']:.1f} s{where}, logits {words}")
    show(
        f"per image         {events['conversions']:,.0f} A/D conversions,"
        f" {events['ad_operations']:,.0f} A/D operations, {events['ou_activations']:,.0f} OU activations"
    )


if __name__ == "__main__":
    app()
