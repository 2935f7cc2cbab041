"""Write the deployment image: `python -m quant.export` (system.md §9).

Puts the trained network, its calibration and test digits together; golden_model.image.write maps it to
crossbars and adds the expected logits and event counts. `info` of the image holds what a report needs
and what the layers do not say: the accuracy ladder, widths, compression, histograms of counts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import typer
from rich.progress import Progress

from golden_model.engines.run_network import Progress as ImageProgress
from golden_model.graph.layers import Network
from golden_model.image import image
from quant import checkpoint
from quant import stages as pipeline
from quant.calibrate import dataset_of, settings_of
from quant.data import digits as data
from quant.integer import to_layers
from quant.training.layers import QuantNetwork

app = typer.Typer(add_completion=False)


def ladder(trained: dict[str, Any], calibration: dict[str, Any]) -> dict[str, float]:
    """Accuracy on the test images step by step: float, eight_bit, bwq, trq, redy (those that exist)."""
    return {**trained["accuracy"], **calibration["accuracy"]}


def build(
    name: str, network: QuantNetwork, trained: dict[str, Any], calibration: dict[str, Any], data_source: str
) -> Network:
    """The integer network with everything that the image records about it."""
    if calibration.get("hardware_hash") != network.hardware.hash:
        raise ValueError(
            "the calibration was made for another hardware configuration: run python -m quant.calibrate again"
        )
    adc, dynamic = settings_of(calibration)
    if len(adc) != len(network.layers):
        raise ValueError(
            f"the calibration has {len(adc)} layers, the network {len(network.layers)}:"
            " run python -m quant.calibrate again"
        )
    layers = to_layers(network, adc, dynamic, skip_zero_slices=bool(calibration["skip_zero_slices"]))
    widths = trained["widths"]
    events = calibration["events"]
    info = {
        "accuracy": ladder(trained, calibration),
        "test_images": trained["test_images"],
        "train_images": trained["train_images"],
        "data": data_source,
        "mean_bits": widths["mean_bits"],
        "compression": widths["compression"],
        "lossless": calibration["lossless"],
        "operations_per_conversion": events["per_image"]["trq"]["operations_per_conversion"],
        "isaac_like": events["isaac_like"],
        "histograms": {layer["name"]: layer["histogram"] for layer in calibration["layers"]},
        "families": {layer["name"]: layer["family"] for layer in calibration["layers"]},
    }
    return Network(
        name=name,
        hardware=network.hardware,
        layers=layers,
        classes=tuple(str(c) for c in range(layers[-1].outputs)),
        info=info,
    )


def vectors(dataset: data.Dataset, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` test images and labels."""
    if not 0 <= count <= len(dataset.test_images):
        raise ValueError(f"vectors must be in 0..{len(dataset.test_images)}, got {count}")
    return dataset.test_images[:count], dataset.test_labels[:count]


@app.command()
@pipeline.reports_errors
def main(
    work: Annotated[Path, typer.Option(help="Working directory of the pipeline.")] = Path("build/lenet5"),
    out: Annotated[Optional[Path], typer.Option(help="Deployment image; default WORK/image.")] = None,  # noqa: UP045
    data_dir: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time
        typer.Option("--data", help="Directory with the four idx files; default: the data of training."),
    ] = None,
    count: Annotated[int, typer.Option("--vectors", help="Test images kept in the image.")] = 16,
    force: Annotated[bool, typer.Option(help="Write even if the image is up to date.")] = False,
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Also write a summary here.")] = None,  # noqa: UP045
) -> None:
    """Write WORK/train.pt and WORK/calibration.json as a deployment image."""
    out = work / "image" if out is None else out
    source, calibrated = work / "train.pt", work / "calibration.json"
    content = checkpoint.load(source)
    network = checkpoint.network_of(content, source)
    calibration = pipeline.read_json(calibrated, "run python -m quant.calibrate first")
    dataset = dataset_of(content, data_dir)
    images, labels = vectors(dataset, count)
    mark = pipeline.fingerprint(
        "export",
        {"vectors": count, "out": str(out.resolve())},
        pipeline.sources_of("quant.export"),
        train=content["fingerprint"],
        calibration=pipeline.file_hash(calibrated),
        data=dataset.sha256,
    )
    record = work / "export.json"
    if not force and pipeline.finished(record, mark) is not None and _readable(out):
        pipeline.console.print(f"{out} is up to date")
    else:
        built = build(content["model"]["name"], network, content["results"], calibration, dataset.source)
        with Progress(console=pipeline.console, disable=not pipeline.console.is_terminal, transient=True) as progress:
            task = progress.add_task("expected results of the test vectors", total=None)

            def tell(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            _write(out, built, images, labels, tell)
        pipeline.write_json(record, {"fingerprint": mark, "image": str(out), **built.info})
    if json_file is not None:
        shutil.copyfile(record, json_file)
    summary = pipeline.read_json(record, "")
    shown = "  ".join(f"{key} {100 * value:.2f} %" for key, value in summary["accuracy"].items())
    pipeline.console.print(f"{out}: {count} test vectors; accuracy {shown}")


def _write(out: Path, network: Network, images: np.ndarray, labels: np.ndarray, tell: ImageProgress) -> None:
    image.write(out, network, images, labels, progress=tell)


def _readable(out: Path) -> bool:
    try:
        image.read(out)
    except image.ImageError:
        return False
    return True


if __name__ == "__main__":
    app()
