"""Train any PyTorch network with BWQ-A: `python -m quant.train_network` (system.md §8).

    python -m quant.train_network --model resnet20 --weights FILE --data FILE --work DIR

A trained float network is quantised, its block widths are driven down (msq or bitplane), then it is trained
on with frozen widths. DIR gets

    network.graph   the integer network (golden_model.image.archive)
    train.json      settings, accuracies, widths, and a record of every epoch
    train.pt        checkpoint; training that was interrupted goes on from its last epoch

Without --weights the float network is trained first (--float-epochs). The float network is the teacher when
--distil is above 0. Everything runs on a GPU if there is one.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import torch
import typer
from torch import nn

from golden_model.config import PRESETS, HardwareConfig
from golden_model.graph.network import Graph
from golden_model.image import archive as graph_file
from quant import stages as pipeline
from quant.data import sets as datasets
from quant.evaluate import own_model
from quant.integer import accuracy
from quant.networks import zoo as networks
from quant.reference import exact_logits
from quant.train import BITPLANE_ALPHA, Watcher, _screen
from quant.training.layers import Block, Normalisation, PixelNetwork
from quant.training.loop import (
    BitPlanePhase,
    FinetunePhase,
    FloatPhase,
    MsqPhase,
    Objective,
    Phase,
    Settings,
    Weighting,
    bit_plane_network,
    check_settings,
    evaluate,
    hidden_activations,
    lower_activation_widths,
    run_epoch,
    width_statistics,
)
from quant.training.prepare import QuantisedNetwork, prepare

SCHEMA, VERSION = "ohmloom-network-training", 1
CALIBRATION_IMAGES = 256
LOWERING_IMAGES = 1000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What `Settings` leaves open for a network of any kind.

    block : "ou" (an operation unit), "layer" (one width for each layer, as BSQ) or "ROWSxCOLS".
    """

    settings: Settings
    block: str = "ou"
    preset: str = "paper"

    @property
    def hardware(self) -> HardwareConfig:
        return PRESETS[self.preset]

    def shape(self) -> Block | None:
        """The block, None for a layer."""
        if self.block == "layer":
            return None
        if self.block == "ou":
            return Block(self.hardware.ou_rows, self.hardware.ou_cols)
        rows, _, cols = self.block.partition("x")
        if not (rows.isdigit() and cols.isdigit()):
            raise ValueError(f"--block must be ou, layer or ROWSxCOLS such as 9x8, got {self.block!r}")
        return Block(int(rows), int(cols))


class Training:
    """The state of one training: float network, quantised network, phase, history; saved after every epoch."""

    def __init__(
        self,
        model: nn.Module,
        dataset: datasets.ImageSet,
        recipe: Recipe,
        normalisation: Normalisation,
        name: str,
        device: str,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        """start : checkpoint of a finished training to go on from: its weights, widths (which can only fall) and
        activations, if those have the same width now."""
        self.start = start
        self.recipe, self.dataset, self.name, self.device = recipe, dataset, name, torch.device(device)
        settings = recipe.settings
        check_settings(settings, recipe.hardware)
        self.normalisation = normalisation
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.float_network = PixelNetwork(model, normalisation).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images, labels = dataset.train_images, dataset.train_labels
        self.pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        self.labels = torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(self.device)
        self.network: QuantisedNetwork | None = None
        self.history: list[dict[str, Any]] = []
        self.phase, self.epochs, self.phase_state = "float", 0, None

    # ---- checkpoints ------------------------------------------------------------------------------
    def content(self, phase: Phase | None) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "model": self.recipe.settings.model,
            "phase": self.phase,
            "epochs": self.epochs,
            "float": self.float_network.model.state_dict(),
            "network": None if self.network is None else self.network.state_dict(),
            "activation_bits": [] if self.network is None else [a.bits for a in hidden_activations(self.network)],
            "phase_state": None if phase is None else phase.state(),
            "generator": self.generator.get_state(),
            "history": self.history,
        }

    def load(self, content: dict[str, Any]) -> None:
        self.phase, self.epochs, self.history = content["phase"], content["epochs"], list(content["history"])
        self.float_network.model.load_state_dict(content["float"])
        self.phase_state = content["phase_state"]
        if content["network"] is not None:
            self.network = self._quantised()
            self.network.load_state(content["network"])
            for activation, bits in zip(hidden_activations(self.network), content["activation_bits"], strict=True):
                activation.set_bits(bits)
            self.network.to(self.device)
        self.generator.set_state(content["generator"])

    # ---- phases -----------------------------------------------------------------------------------
    def _quantised(self) -> QuantisedNetwork:
        recipe, settings = self.recipe, self.recipe.settings
        block = recipe.shape()
        images = torch.from_numpy(np.array(self.dataset.train_images[:CALIBRATION_IMAGES])).float()
        network = prepare(
            self.float_network.model,
            self.dataset.shape,
            recipe.hardware,
            calibration=images,
            normalisation=self.normalisation,
            start_bits=settings.start_bits,
            activation_bits=settings.activation_bits,
            block=block,
            layer_wise=block is None,
            learn_clips=settings.learn_clips,
        )
        if self.start is not None:
            clips = {name: clip for name, clip in network.state_dict().items() if name.endswith(".clip")}
            same = self.start["activation_bits"] == [a.bits for a in network.activations()]
            network.load_state({**self.start["network"], **({} if same else clips)})
        return network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _make_phase(self) -> Phase:
        settings = self.recipe.settings
        if self.phase == "float":
            return FloatPhase(self.float_network, settings, lambda pixels: pixels)
        if self.network is None:
            self.network = self._quantised()
            if settings.method == "bitplane":
                bit_plane_network(self.network)
        if self.phase == "quantise":
            return (BitPlanePhase if settings.method == "bitplane" else MsqPhase)(self.network, settings)
        if self.epochs == 0 and self.phase_state is None:
            self.network = self.network.float_weights()
            for source in self.network.sources():
                source.freeze()  # type: ignore[operator]
            if settings.lower_activations is not None:
                # Seen in training, but no test image may decide.
                self.network.eval()
                lower_activation_widths(
                    self.network,
                    self.pixels[:LOWERING_IMAGES],
                    self.labels[:LOWERING_IMAGES],
                    tolerance=settings.activation_tolerance,
                    minimum=settings.lower_activations,
                )
        return FinetunePhase(self.network, settings)

    def run(self, keep: Callable[[dict[str, Any]], None], watcher: Watcher) -> None:
        """All phases that are left; `keep` is called with a checkpoint's content after every epoch."""
        phases = ["float", "quantise", "finetune"]
        for name in phases[phases.index(self.phase) :]:
            if name != self.phase:
                self.phase, self.epochs, self.phase_state = name, 0, None
            phase = self._make_phase()
            if self.phase_state is not None:
                phase.load(self.phase_state)
            if name != "float":
                teacher = copy.deepcopy(self.float_network).eval().requires_grad_(False)
                phase.objective = Objective(teacher, self.recipe.settings, self.network, self.generator)
            count = len(self.pixels)
            watcher.phase(name, phase.epochs * count, self.epochs * count)
            phase.module.train()
            while self.epochs < phase.epochs:
                began = time.perf_counter()
                record = run_epoch(
                    phase, self.epochs, self.pixels, self.labels, self.recipe.settings, self.generator, watcher.tick
                )
                self.epochs += 1
                record["seconds"] = time.perf_counter() - began
                self.history.append({"phase": name, "epoch": self.epochs, **record})
                watcher.epoch(name, self.epochs, phase.epochs, record)
                keep(self.content(phase))

    # ---- results ----------------------------------------------------------------------------------
    def float_accuracy(self) -> float:
        self.float_network.eval()
        images, labels = (
            torch.from_numpy(np.array(a)).to(self.device) for a in (self.dataset.test_images, self.dataset.test_labels)
        )
        return evaluate(self.float_network, images, labels)

    def graph(self) -> Graph:
        """The integer network; its widths are those of the hardware's operation units."""
        assert self.network is not None
        return self.network.to_graph(self.dataset.train_images[:2], self.name, self.dataset.names)

    def results(self) -> dict[str, Any]:
        assert self.network is not None
        graph = self.graph()
        logits = exact_logits(graph, self.dataset.test_images)
        return {
            "accuracy": {"float": self.float_accuracy(), "integer": accuracy(logits, self.dataset.test_labels)},
            "widths": width_statistics(self.network),
            "activation_bits": [a.bits for a in hidden_activations(self.network)],
            "test_images": len(logits),
            "train_images": len(self.pixels),
            "history": self.history,
        }


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint; ValueError in one sentence if it is missing or something else."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a readable checkpoint") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or content.get("version") != VERSION:
        raise ValueError(f"{path} is not a checkpoint of quant.train_network")
    return content


def _load(path: Path, mark: str) -> dict[str, Any] | None:
    """A checkpoint with this fingerprint, else None."""
    try:
        content = _read(path)
    except ValueError:
        return None
    return content if content.get("fingerprint") == mark else None


def _started(folder: Path, model: str) -> dict[str, Any]:
    """The checkpoint of the finished training in `folder`; ValueError in one sentence if there is something else."""
    path = folder / "train.pt"
    if not path.is_file():
        raise ValueError(
            f"--start-from: {path}, with the float weights, is missing: run that training first{_command(folder)}"
        )
    try:
        content = _read(path)
    except ValueError as error:
        raise ValueError(f"--start-from: {error}") from error
    if content["phase"] != "finetune" or content["network"] is None:
        raise ValueError(f"--start-from: the training in {folder} is not finished")
    if content["model"] != model:
        raise ValueError(f"--start-from: {folder} holds {content['model']}, not {model}")
    return content


def _command(folder: Path) -> str:
    """How the training in `folder` was called, as the end of a sentence; "" if it is not known."""
    try:
        command = pipeline.read_json(folder / "train.json", "").get("command")
    except ValueError:
        return ""
    return f", with `{command}`, and give its --work here" if command else ""


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@pipeline.reports_errors
def main(
    model: Annotated[str, typer.Option(help=f"{', '.join(networks.READY)}, or FILE.py:NAME for your own network.")],
    data: Annotated[Path, typer.Option(help="idx files, CIFAR-10 batches, a folder of pictures or an .npz file.")],
    work: Annotated[Path, typer.Option(help="Directory of results and checkpoint.")],
    weights: Annotated[Optional[Path], typer.Option(help="Trained float weights to start from.")] = None,  # noqa: UP045
    start_from: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Go on from a finished training of the same network: the folder it was written to."),
    ] = None,
    method: Annotated[str, typer.Option(help="msq, bitplane, or ptq (widths as they are).")] = "msq",
    block: Annotated[str, typer.Option(help="Weights that share a width: ou, layer or ROWSxCOLS.")] = "ou",
    weighting: Annotated[str, typer.Option(help="Penalty by memory, activations or both.")] = "memory",
    target_bits: Annotated[
        float, typer.Option(help="Mean magnitude bits to reach, weighted as the penalty (msq).")
    ] = 1.2,
    activation_bits: Annotated[int, typer.Option(help="Width of hidden activations.")] = 8,
    learn_clips: Annotated[
        bool, typer.Option(help="Train the clips of activations of any width, not just 3 bits.")
    ] = False,
    lower_activations: Annotated[
        int, typer.Option(min=0, help="Lowest width tried per layer before the finetune; 0 leaves the widths.")
    ] = 0,
    activation_tolerance: Annotated[float, typer.Option(help="Accuracy (a share) that lowering may cost.")] = 0.003,
    float_epochs: Annotated[int, typer.Option(help="Of the float network.")] = 0,
    quantise_epochs: Annotated[int, typer.Option(help="While widths fall.")] = 10,
    finetune_epochs: Annotated[int, typer.Option(help="With frozen widths.")] = 10,
    batch: Annotated[int, typer.Option(help="Images per step.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate of quantised training (Adam).")] = 1e-3,
    step_lr: Annotated[float, typer.Option(help="Learning rate of the weight steps.")] = 2e-3,
    plane_lr: Annotated[float, typer.Option(help="Learning rate of bit planes.")] = Settings.plane_lr,
    float_lr: Annotated[float, typer.Option(help="Peak learning rate of float training.")] = Settings.float_lr,
    alpha: Annotated[Optional[float], typer.Option(help="Penalty: first (msq) or constant (bitplane).")] = None,  # noqa: UP045
    interval: Annotated[int, typer.Option(help="Epochs between requantisations (bitplane).")] = 2,
    start_bits: Annotated[int, typer.Option(help="Magnitude bits at the start.")] = 7,
    distil: Annotated[float, typer.Option(help="Weight of the float network's outputs in the loss, 0..1.")] = 0.7,
    temperature: Annotated[float, typer.Option(help="Softening of these outputs.")] = 4.0,
    activity: Annotated[
        float, typer.Option(help="Factor of a penalty on the bits that streamed activations need; 0 for none.")
    ] = 0.0,
    mix: Annotated[
        float, typer.Option(help="Largest share of a second image mixed into a training image, 0..0.5; 0 for none.")
    ] = 0.0,
    shift: Annotated[int, typer.Option(help="Move training images by up to so many pixels.")] = 4,
    flip: Annotated[bool, typer.Option(help="Mirror training images.")] = True,
    half: Annotated[bool, typer.Option(help="Train in bfloat16.")] = True,
    seed: Annotated[int, typer.Option(help="Of every random draw.")] = 0,
    preset: Annotated[str, typer.Option(help=f"Hardware: {', '.join(PRESETS)}.")] = "paper",
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train a network to block-wise mixed precision, and keep the integer network."""
    if preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    torch.set_num_threads(threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    dataset = datasets.load(data)
    torch.manual_seed(seed)
    network, normalisation = _float_network(model, dataset)
    if weights is not None:
        networks.load_weights(network, weights)
    elif not float_epochs:
        raise ValueError("--weights is needed, or --float-epochs to train the float network first")
    settings = Settings(
        method=method,  # type: ignore[arg-type]
        model=model,
        seed=seed,
        float_epochs=float_epochs,
        quantise_epochs=0 if method == "ptq" else quantise_epochs,
        finetune_epochs=0 if method == "ptq" else finetune_epochs,
        batch=batch,
        float_lr=float_lr,
        lr=lr,
        step_lr=step_lr,
        plane_lr=plane_lr,
        target_bits=target_bits,
        start_bits=start_bits,
        weight_bits=PRESETS[preset].weight_bits,
        alpha=(BITPLANE_ALPHA if method == "bitplane" else Settings.alpha) if alpha is None else alpha,
        weighting=_weighting(weighting),
        interval=interval,
        activation_bits=activation_bits,
        learn_clips=learn_clips,
        lower_activations=lower_activations or None,
        activation_tolerance=activation_tolerance,
        shift=shift,
        flip=flip,
        distil=distil,
        temperature=temperature,
        activity=activity,
        mix=mix,
        half=half,
    )
    recipe = Recipe(settings=settings, block=block, preset=preset)
    recipe.shape()
    options = {"settings": asdict(settings), "block": block, "hardware": recipe.hardware.as_dict()}
    sources = pipeline.sources_of("quant.train_network")
    given = "" if weights is None else pipeline.file_hash(weights)
    start = None if start_from is None else _started(start_from, model)
    before = "" if start is None else start["fingerprint"]
    mark = pipeline.fingerprint("train_network", options, sources, data=dataset.sha256, weights=given, start=before)
    done = pipeline.finished(work / "train.json", mark)
    if done is None:
        training = Training(network, dataset, recipe, normalisation, model.rpartition(":")[2], device, start)
        done = _train(training, work, mark, options)
    else:
        pipeline.console.print(f"{work / 'train.json'} is up to date")
    print_results(done)


def _float_network(model: str, dataset: datasets.ImageSet) -> tuple[nn.Module, Normalisation]:
    """A network of the user, or a ready-made one; ValueError if images have another shape than that takes."""
    if ":" in model:
        return own_model(model), Normalisation.none(dataset.shape[0])
    known = networks.ready(model)
    if dataset.shape != known.shape:
        raise ValueError(f"{dataset.source}: images are {dataset.shape}, {model} takes {known.shape}")
    return known.make(known.classes), known.normalisation


def _train(training: Training, work: Path, mark: str, options: dict[str, Any]) -> dict[str, Any]:
    """Train from the checkpoint in `work`, if there is one of this training, and write everything there.

    mark : the training's fingerprint. options : kept with the results, which are returned.
    """
    checkpoint = work / "train.pt"
    if (saved := _load(checkpoint, mark)) is not None:
        training.load(saved)
        pipeline.console.print(f"going on after epoch {training.epochs} of phase {training.phase}")

    def keep(content: dict[str, Any]) -> None:
        content["fingerprint"] = mark
        pipeline.write_atomically(checkpoint, lambda temporary: torch.save(content, temporary))

    with _screen() as screen:
        training.run(keep, screen)
    graph = training.graph()
    results = {
        "fingerprint": mark,
        "command": pipeline.command_line("quant.train_network"),
        "data": {"name": Path(training.dataset.source).name, "sha256": training.dataset.sha256},
        "options": options,
        **training.results(),
    }
    pipeline.write_atomically(work / "network.graph", lambda temporary: graph_file.save(graph, temporary))
    pipeline.write_json(work / "train.json", results)
    return results


def _weighting(text: str) -> Weighting:
    if text not in ("memory", "activations", "both"):
        raise ValueError(f"--weighting must be memory, activations or both, got {text!r}")
    return text  # type: ignore[return-value]


def print_results(results: dict[str, Any]) -> None:
    """Accuracy, widths and compression, in a few lines."""
    found, widths = results["accuracy"], results["widths"]
    compression = ", ".join(f"{k.replace('_', ' ')} {v:.2f}" for k, v in widths["compression"].items() if v)
    pipeline.console.print(
        f"float {100 * found['float']:.2f} %, integers {100 * found['integer']:.2f} % on {results['test_images']} test"
        f" images; {widths['mean_bits']:.3f} magnitude bits a weight; compression: {compression}"
    )


if __name__ == "__main__":
    app()
