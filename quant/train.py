"""Train a network with BWQ-A: `python -m quant.train` (system.md §8).

    python -m quant.train                                                         the demo: LeNet-5 on 5,000 digits
    python -m quant.train --model resnet20 --weights FILE --data DIR --work DIR   a trained network
    python -m quant.train --recipe WORK/recipe.toml --seed 1 --work DIR           the same with another seed

A float network, given or trained first, is quantised; its block widths are driven down (msq or bitplane); then it is
trained on with frozen widths. Writes into WORK

    network.graph   the integer network (golden_model.image.archive)
    train.json      settings, accuracies, widths, and a record of every epoch
    recipe.toml     every option, as `--recipe` takes it
    train.pt        checkpoint; training that was interrupted goes on from its last epoch

Every twelfth training image is held out: widths and clips are chosen on those. Everything runs on a GPU if there is
one. What is not said on the command line or in the recipe has the defaults of `defaults`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from golden_model.command import command, console
from golden_model.files import file_hash, write_atomically, write_json
from golden_model.graph.network import Graph
from golden_model.image import archive
from quant import options, stages
from quant.capture.trace import compare_with_file, network_hash
from quant.data import sets
from quant.networks.layers import Block
from quant.networks.pixels import Normalisation
from quant.networks.source import (
    CHANNELS,
    DATA,
    SIZE,
    WEIGHTS,
    check_outputs,
    dataset_for,
    files_of,
    float_network,
    is_own,
    name_of,
    reader_of,
)
from quant.settings import check, setting
from quant.training.loop import SCHEMA, VERSION, Training, Watcher
from quant.training.phases import Settings, check_settings

#: Default group-Lasso factor of `bitplane`.
BITPLANE_ALPHA = 0.3
#: Defaults for images in colour, after CIFAR-10; other images have those of `Settings`.
COLOUR: dict[str, Any] = {
    "quantise_epochs": 10,
    "finetune_epochs": 10,
    "lr": 1e-3,
    "step_lr": 2e-3,
    "target_bits": 1.2,
    "lower_activations": 0,
    "shift": 4,
    "flip": True,
    "distil": 0.7,
    "half": True,
}
PATHS = ("weights", "data", "start_from")


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    """Everything that decides a training; `defaults` exchanges some defaults. Paths are text, as in a recipe."""

    model: str = setting(Settings.model, f"{options.MODEL} Default lenet5.")
    weights: str = setting(None, WEIGHTS)
    data: str = setting(None, DATA)
    size: int = setting(None, SIZE, 1, 4096)
    channels: int = setting(None, CHANNELS, among=(1, 3))
    start_from: str = setting(
        None, "Go on from a finished training of the same network: the folder it was written to, or its network.graph."
    )
    hardware: str = setting("paper", options.HARDWARE)
    block: str = setting("ou", "Weights that share a width: ou, layer or ROWSxCOLS.")
    threads: int = setting(2, f"{options.THREADS} Default 2.", 1, 1024)
    device: str = setting("auto", "auto, cpu or cuda.", among=("auto", "cpu", "cuda"))


_DEFAULTS = {one.name: one.default for one in fields(Options) if one.metadata["help"]}


# ---- recipes ------------------------------------------------------------------------------------
def read_recipe(path: Path) -> dict[str, Any]:
    """The options of a recipe: a TOML file with one line for each, named as on the command line with _ for -.

    `note` is for people. ValueError in one sentence for a file that is missing or broken, or an unknown option.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: it must hold a recipe")
    try:
        values = tomllib.loads(path.read_text())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} is not readable TOML: {error}") from error
    values.pop("note", None)
    types = get_type_hints(Options)
    for name, value in values.items():
        if name not in _DEFAULTS:
            raise ValueError(f"{path}: training has no option {name!r}")
        wanted = types[name]
        if wanted is float and type(value) is int:
            values[name] = float(value)
        elif type(value) is not wanted:
            raise ValueError(f"{path}: {name} must be of type {wanted.__name__}, got {value!r}")
    return values


def write_recipe(path: Path, values: Mapping[str, Any], note: str = "") -> None:
    """A recipe of these options; those that are None are left out."""
    lines = [f"note = {_toml(note)}"] if note else []
    lines += [f"{name} = {_toml(values[name])}" for name in _DEFAULTS if values.get(name) is not None]
    write_atomically(path, lambda temporary: temporary.write_text("\n".join(lines) + "\n"))


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # strings, numbers and truth look the same


def defaults(dataset: sets.ImageSet, method: str, *, trained: bool) -> dict[str, Any]:
    """Options that nobody gave. trained : whether float weights are given.

    Images in colour: after CIFAR-10, and no float training. Others: after the digits, with more passes over small sets.
    """
    made = dict(_DEFAULTS)
    images = len(dataset.learning()[0])
    made |= {
        f"{phase}_epochs": max(6, round(passes / images))
        for phase, passes in (("float", 120_000), ("quantise", 100_000), ("finetune", 80_000))
    }
    if dataset.shape[0] > 1:
        made |= COLOUR
    if trained or dataset.shape[0] > 1:
        made["float_epochs"] = 0
    if method == "bitplane":
        made["alpha"] = BITPLANE_ALPHA
    if method == "ptq":
        made |= {"quantise_epochs": 0, "finetune_epochs": 0, "lower_activations": 0}
    return made


def complete(given: Mapping[str, Any]) -> tuple[dict[str, Any], sets.ImageSet]:
    """The `given` options with those that are missing; and the data."""
    check(Options(**given))
    pictures = {name: given.get(name) for name in ("size", "channels")}
    dataset = dataset_for(given.get("model", Settings.model), given.get("data"), **pictures)
    trained = given.get("weights") is not None or reader_of(given.get("model", Settings.model)) is not None
    made = {**defaults(dataset, given.get("method", Settings.method), trained=trained), **given}
    if made["method"] == "ptq":
        made |= {"quantise_epochs": 0, "finetune_epochs": 0}
    if "lower_activations" not in given:
        made["lower_activations"] = min(made["lower_activations"], made["activation_bits"])
    return made, dataset


# ---- checkpoints ------------------------------------------------------------------------------
def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of training; ValueError in one sentence if it is missing, damaged or something else."""
    content = stages.load_tensors(path, "run python -m quant.train first")
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a checkpoint of quant.train")
    if content.get("version") != VERSION:
        raise ValueError(f"{path} has checkpoint version {content.get('version')!r}, this program reads {VERSION}")
    for part in ("float", "network"):
        for name, tensor in (content[part] or {}).items():
            if isinstance(tensor, torch.Tensor) and not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{path}: {name} holds NaN or infinity")
    return content


def _unfinished(path: Path, mark: str) -> dict[str, Any] | None:
    """A checkpoint with this fingerprint, else None; says so if it is damaged."""
    if not path.exists():
        return None
    try:
        content = read_checkpoint(path)
    except ValueError as error:
        console.print(f"{error}; training starts anew")
        return None
    return content if content.get("fingerprint") == mark else None


def _started(folder: Path, model: str) -> tuple[dict[str, Any] | Graph, str]:
    """(checkpoint of the finished training in `folder`, or the network if that is its file; what tells it from others);
    ValueError in one sentence if there is something else."""
    if folder.suffix == ".graph":
        return archive.load(folder), file_hash(folder)
    path = folder / "train.pt"
    if not path.is_file():
        raise ValueError(
            f"--start-from: {path}, with the float weights, is missing: run that training first{_command(folder)}, or"
            f" give its network.graph"
        )
    try:
        content = read_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"--start-from: {error}") from error
    if not stages.finished(folder / "train.json", content["fingerprint"]) or content["network"] is None:
        raise ValueError(f"--start-from: the training in {folder} is not finished")
    if content["model"] != model:
        raise ValueError(f"--start-from: {folder} holds {content['model']}, not {model}")
    return content, content["fingerprint"]


def _command(folder: Path) -> str:
    """How the training in `folder` was called, as the end of a sentence; "" if it is not known."""
    if (folder / "recipe.toml").is_file():
        return f", with `python -m quant.train --recipe {folder / 'recipe.toml'}`, and give its --work here"
    return ""


# ---- command line -------------------------------------------------------------------------------
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
        note = "  ".join(f"{key} {value:.4g}" for key, value in record.items() if key != "seconds")
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
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _Screen(progress)


@command
@options.takes("given", Options, optional=True)
def app(
    given: dict[str, Any],
    work: options.Work = options.DEFAULT_WORK,
    recipe: options.Recipe = None,
    force: options.Force = False,
    json_file: options.Json = None,
) -> None:
    """Train a network to block-wise mixed precision, and keep the integer network in WORK/network.graph."""
    asked, dataset = complete(given if recipe is None else {**read_recipe(recipe), **given})
    done = train(asked, dataset, work, force=force)
    if json_file is not None:
        write_json(json_file, done)
    print_results(done)


def train(asked: Mapping[str, Any], dataset: sets.ImageSet, work: Path, *, force: bool = False) -> dict[str, Any]:
    """Do what the options ask, or find it done in `work`; returns the content of train.json.

    asked : every option, see `complete`.
    """
    wanted = options.machine(asked["hardware"])
    machine, fits = options.preset(wanted), isinstance(wanted, options.Automatic)
    check(Options(**asked))
    values = {f.name: asked[f.name] for f in fields(Settings) if f.name in asked}
    values |= {"weight_bits": machine.weight_bits, "start_bits": min(asked["start_bits"], machine.weight_bits)}
    settings = Settings(**values)
    check_settings(settings, machine)
    Block.named(asked["block"], machine)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if asked["device"] == "auto" else asked["device"]
    torch.set_num_threads(asked["threads"])
    torch.manual_seed(settings.seed)
    weights = None if asked["weights"] is None else Path(asked["weights"])
    own = is_own(settings.model)
    if weights is None and not settings.float_epochs and not own:
        raise ValueError("--weights is needed, or --float-epochs to train the float network first")
    network, normalisation = float_network(settings.model, dataset, weights)
    if settings.normalise and normalisation == Normalisation.none(dataset.shape[0]):
        normalisation = Normalisation.of(dataset.learning()[0])
    check_outputs(network, dataset, normalisation)
    compare_with_file(network, dataset.calibration(), normalisation)
    start, started = (None, "") if asked["start_from"] is None else _started(Path(asked["start_from"]), settings.model)
    decides = {"settings": asdict(settings), "block": asked["block"], "hardware": machine.as_dict()}
    mark = stages.fingerprint(
        "train",
        {**decides, "threads": asked["threads"], "device": device, "fitted": fits},
        stages.sources_of("quant.train"),
        data=dataset.sha256,
        weights="" if weights is None else file_hash(weights),
        files=stages.source_hash(files_of(settings.model)),
        network=network_hash(network) if own else "",  # it may have weights of its own
        start=started,
    )
    record, checkpoint, made = work / "train.json", work / "train.pt", work / "network.graph"
    done = None if force else stages.finished(record, mark)
    if done is not None:
        console.print(f"{record} is up to date")
        return done
    training = Training(
        network, dataset, settings, machine, normalisation=normalisation, block=asked["block"], device=device,
        name=name_of(settings.model), start=start,
    )  # fmt: skip
    if not force and (saved := _unfinished(checkpoint, mark)) is not None:
        training.load(saved)
        console.print(f"going on after epoch {training.epochs} of phase {training.phase}")
    where = {name: str(Path(asked[name]).resolve()) for name in PATHS if asked[name] is not None}
    if own:
        file, colon, name = settings.model.rpartition(":") if ":" in settings.model else (settings.model, "", "")
        where["model"] = f"{Path(file).resolve()}{colon}{name}"
    if asked["hardware"].endswith(".json"):
        where["hardware"] = str(Path(asked["hardware"]).resolve())
    write_recipe(work / "recipe.toml", {**asked, **where})

    def keep(content: dict[str, Any]) -> None:
        stages.save_tensors(checkpoint, content | {"fingerprint": mark})

    with _screen() as screen:
        training.run(keep, screen)
    graph = training.graph()
    if fits:
        graph = options.fitted(graph, wanted)
    results = training.results(graph)
    write_atomically(made, lambda temporary: archive.save(graph, temporary))
    about = {
        "command": stages.command_line("quant.train"),
        "data": {"name": Path(dataset.source).name, "sha256": dataset.sha256},
        "options": decides,
    }
    return stages.keep_record(record, mark, [made], about | results)


def print_results(results: Mapping[str, Any]) -> None:
    """Accuracy, widths and compression, in a few lines."""
    found, widths = results["accuracy"], results["widths"]
    compression = ", ".join(f"{k.replace('_', ' ')} {v:.1f}x" for k, v in widths["compression"].items() if v)
    console.print(
        f"accuracy on {results['test_images']} test images: float {100 * found['float']:.2f} %,"
        f" 8 bits {100 * found['eight_bit']:.2f} %, BWQ {100 * found['integer']:.2f} %"
    )
    console.print(f"{widths['mean_bits']:.3f} magnitude bits a weight; compression: {compression}")
    console.print(f"activation bits {results['activation_bits']}")


if __name__ == "__main__":
    app()
