"""Accuracy of a trained network, in floating point and as 8-bit integers on the crossbars.

    python -m quant.evaluate --model resnet20 --weights FILE --data DIR

prints the float accuracy (torch), the accuracy after quantisation with a lossless converter ("8/f": all test
images through quant.reference), and what the golden model counts per image. The golden model runs a few of the
images and must give the same logits; exit status 1 if it does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import typer

from golden_model.command import command, console, progress_bar
from golden_model.engines import torch_engine
from golden_model.engines.run_network import GraphRunner
from golden_model.files import write_json
from golden_model.graph.network import Graph
from quant import options
from quant.capture.capture import from_torch
from quant.data.image_set import label_words
from quant.networks.pixels import float_logits
from quant.networks.source import Inputs, Source, check_outputs
from quant.reference import accuracy, exact_logits
from quant.settings import check, setting

#: Of the golden model; "torch" is the one for GPUs.
ENGINES = ("auto", "compiled", "torch", "patterns", "direct")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, and how."""

    images: int | None = setting(None, "Test images; default all.", 1, 1 << 31)
    golden_images: int = setting(16, "Images that the golden model runs, 0 for none.", 0, 1 << 31)
    engine: str = setting("auto", f"Of the golden model: {', '.join(ENGINES)}.", among=ENGINES)
    device: str | None = setting(None, "Of --engine torch: cuda (default) or cpu.")
    threads: int | None = setting(None, "Of the golden model; default all cores.", 1, 1024)
    weight_bits: int = setting(7, "Magnitude bits of a weight, beside its sign.")
    activation_bits: int = setting(8, "Bits of an activation.")

    def __post_init__(self) -> None:
        check(self)
        if self.device is not None and (self.engine != "torch" or self.device not in ("cuda", "cpu")):
            raise ValueError(
                f"--device is cuda or cpu, and goes with --engine torch; got {self.device!r} and --engine {self.engine}"
            )
        if self.engine == "torch" and self.device != "cpu" and not torch_engine.gpu_present():
            raise ValueError(
                "--engine torch needs a GPU that torch can use, and it sees none; --device cpu runs the same code on "
                "the processor, slowly"
            )

    @property
    def engine_name(self) -> Any:
        """As the golden model takes it."""
        return self.engine if self.device is None else f"{self.engine}:{self.device}"


def per_image(graph: Graph, events: Any, images: int) -> dict[str, Any]:
    """Event counts per image, of the whole network and of every crossbar layer, JSON-able."""
    total = {k: v / images for k, v in events.sum().as_dict(derived=True).items()}
    layers = {}
    for index, node in enumerate(graph.crossbars):
        counted = events[:, index].sum()
        layers[node.name] = {k: v / images for k, v in counted.as_dict(derived=True).items()}
    return {"network": total, "layers": layers}


def _device_words(engine: str) -> str:
    """What the golden model ran on, for people."""
    if engine.partition(":")[0] != "torch":
        return "processor"
    return torch_engine.device_name(torch_engine.find_device(engine))


def evaluate(
    source: Source, hardware: options.Machine, wanted: Options, progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Everything that the command prints, JSON-able.

    progress : called with (what is done, images done, images).
    """
    dataset = source.dataset
    check_outputs(source.model, dataset, source.normalisation)
    test, labels = dataset.test_images[: wanted.images], dataset.test_labels[: wanted.images]
    exact_float = float_logits(source.model, test, source.normalisation, partial(progress, "float network"))
    graph = from_torch(
        source.model,
        dataset.shape,
        options.preset(hardware),
        dataset.calibration(),
        normalisation=source.normalisation,
        weight_bits=wanted.weight_bits,
        activation_bits=wanted.activation_bits,
        name=source.name,
    )
    if isinstance(hardware, options.Automatic):
        graph = options.fitted(graph, hardware)
    exact = exact_logits(graph, test, progress=partial(progress, "integer network"))
    result: dict[str, Any] = {
        "network": source.name,
        "data": dataset.source,
        "classes": list(dataset.names),
        "images": len(test),
        "calibration_images": len(dataset.calibration()),
        "calibration_images_are_test_images": dataset.one_part,
        "hardware": graph.hardware.as_dict(),
        "float_accuracy": accuracy(exact_float, labels),
        "weight_bits": wanted.weight_bits,
        "activation_bits": wanted.activation_bits,
        "integer_accuracy": accuracy(exact, labels),
    }
    if count := min(wanted.golden_images, len(test)):
        runner = GraphRunner(graph, engine=wanted.engine_name, threads=wanted.threads)
        start = time.perf_counter()
        logits, events = runner.run(test[:count], progress=partial(progress, "golden model"))
        result["golden_model"] = {
            "engine": wanted.engine_name,
            "device": _device_words(runner.engine_of(count)),
            "images": count,
            "seconds": time.perf_counter() - start,
            "logits_equal": bool((logits == exact[:count]).all()),
            "per_image": per_image(graph, events, count),
        }
    return result


@command
@options.takes("inputs", Inputs)
@options.takes("wanted", Options)
def app(
    model: options.ModelNeeded,
    inputs: Inputs,
    wanted: Options,
    hardware: options.HardwareNeeded = "paper",
    json_file: options.Json = None,
) -> None:
    """Accuracy of a network in floating point and as integers, and its events per image."""
    machine, source = options.machine(hardware), Source.open(model, inputs)
    with progress_bar() as tell:
        result = evaluate(source, machine, wanted, tell)
    print_result(result)
    if json_file is not None:
        write_json(json_file, result)
    if not result.get("golden_model", {}).get("logits_equal", True):
        raise typer.Exit(1)


def print_result(result: dict[str, Any]) -> None:
    show = console.print
    note = ", which are among them" if result["calibration_images_are_test_images"] else ""
    if names := result["classes"]:
        show(f"labels            {label_words(names)}")
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
