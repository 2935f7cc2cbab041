"""What the options --model, --weights, --data, --mean, --std, --size and --channels name: a network and its data.

Every command opens them here. ValueError says in one sentence what cannot be had, or does not fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from golden_model.graph.network import Graph
from quant import stages
from quant.data import sets
from quant.networks import onnx_file, program_file, user, zoo
from quant.networks.pixels import Normalisation, float_logits
from quant.networks.weights import load_weights, outputs_of
from quant.settings import check, setting

WEIGHTS = "Trained float weights: a state dict, .npz or .safetensors."
DATA = "idx files, CIFAR-10 batches, a folder of pictures or an .npz file; default 5,000 digits."
SIZE = "Pictures only: scale and crop to size x size."
CHANNELS = "Pictures only: 1 for grey, 3 for colour."


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a command is given of a float network and its data, besides the network's name."""

    weights: Path | None = setting(None, WEIGHTS)
    data: Path | None = setting(None, DATA)
    mean: str | None = setting(
        None, "Mean of pixel / 255 that the network expects, one or one per channel: 0.5,0.5,0.5."
    )
    std: str | None = setting(None, "Standard deviation of pixel / 255 that the network expects.")
    size: int | None = setting(None, SIZE, 1, 4096)
    channels: int | None = setting(None, CHANNELS, among=(1, 3))

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A float network with its data.

    normalisation : what it expects of pixel / 255. files : the user's code that makes it, as far as it is known.
    """

    name: str
    model: nn.Module
    dataset: sets.ImageSet
    normalisation: Normalisation
    files: tuple[Path, ...] = ()

    @classmethod
    def open(cls, model: str, given: Inputs) -> Source:
        """A trained network: a ready-made one needs weights, one of the user's may have its own."""
        dataset = dataset_for(model, given.data, size=given.size, channels=given.channels)
        if given.weights is None and not is_own(model):
            raise ValueError(f"--weights is needed: {model} has no weights of its own")
        network, plain = float_network(model, dataset, given.weights)
        normalisation = Normalisation(
            mean=_numbers("--mean", given.mean, dataset.shape[0]) or plain.mean,
            std=_numbers("--std", given.std, dataset.shape[0]) or plain.std,
        )
        return cls(
            name=name_of(model),
            model=network,
            dataset=dataset,
            normalisation=normalisation,
            files=files_of(model),
        )


def is_own(model: str) -> bool:
    """Whether MODEL is the user's, FILE.py:NAME, FILE.onnx or FILE.pt2, and no ready-made network."""
    return ":" in model or reader_of(model) is not None


def reader_of(model: str) -> Any:
    """The module that reads MODEL, a file with layers and weights; None for any other network."""
    return next((reader for reader in (onnx_file, program_file) if reader.is_file(model)), None)


def name_of(model: str) -> str:
    return Path(model).stem if reader_of(model) else model.rpartition(":")[2]


def files_of(model: str) -> tuple[Path, ...]:
    """The user's files that decide what a network of FILE.py:NAME is; none for a ready-made one, or for FILE.onnx
    and FILE.pt2, whose layers are all there is to know."""
    file, _, _ = ("", "", "") if reader_of(model) else model.rpartition(":")
    return tuple(stages.sources_of_file(Path(file))) if file else ()


def dataset_for(
    model: str, data: Path | None, *, size: int | None = None, channels: int | None = None
) -> sets.ImageSet:
    """The data at `data`, None for the default digits; pictures at the size that a ready-made network or a file takes.

    size, channels : of pictures, instead.
    """
    if (reader := reader_of(model)) is not None:
        channels_taken, height, width = reader.input_shape(model)
        if height == width:
            size = size or height
        return sets.load(data, size=size, channels=channels or (channels_taken if channels_taken in (1, 3) else None))
    known = None if ":" in model else zoo.ready(model)
    if known is not None and known.sized is None:
        size, channels = size or known.shape[1], channels or known.shape[0]
    return sets.load(data, size=size, channels=channels)


def dataset_of_graph(network: Graph, data: Path | str | None) -> sets.ImageSet:
    """The data at `data` for an integer network, pictures scaled as those that it was made with.

    A network that does not say how that was takes them at its own size.
    """
    made_with = network.info.get("pictures")
    if isinstance(made_with, dict) and made_with:
        given = Inputs(size=made_with.get("size"), channels=made_with.get("channels"))
    else:
        given = Inputs(size=network.image.shape[1], channels=network.image.shape[0])
    dataset = sets.load(data, size=given.size, channels=given.channels)
    check_fits(network, dataset)
    return dataset


def check_fits(network: Graph, dataset: sets.ImageSet) -> None:
    """ValueError unless images have the shape (C, H, W) that an integer network takes, and labels are its outputs."""
    if dataset.shape != network.image.shape:
        raise ValueError(f"{dataset.source}: images are {dataset.shape}, {network.name} takes {network.image.shape}")
    sets.check_labels(dataset, int(np.prod(network.output.shape)))


def float_network(model: str, dataset: sets.ImageSet, weights: Path | None = None) -> tuple[nn.Module, Normalisation]:
    """A network of the user or a ready-made one for these images, with what it expects of pixel / 255.

    weights : a file; a ready-made network has as many outputs as those. Without weights they are random, and there are
    as many outputs as classes.
    """
    normalisation = Normalisation.none(dataset.shape[0])
    if (reader := reader_of(model)) is not None:
        if weights is not None:
            raise ValueError(f"--weights: {model} has its own weights")
        if (taken := reader.input_shape(model)) != dataset.shape:
            raise ValueError(f"{dataset.source}: images are {dataset.shape}, {model} takes {taken}")
        network = reader.read(model)
    elif ":" in model:
        network = user.make(model).float()
    else:
        known = zoo.ready(model)
        if known.sized is None and dataset.shape != known.shape:
            raise ValueError(f"{dataset.source}: images are {dataset.shape}, {model} takes {known.shape}")
        normalisation = normalisation if known.sized else known.normalisation
        network = known.network(dataset.shape, dataset.classes)
        if weights is not None:
            network = known.network(dataset.shape, outputs_of(weights, network))
    if weights is not None:
        load_weights(network, weights)
    return network, normalisation


def check_outputs(model: nn.Module, dataset: sets.ImageSet, normalisation: Normalisation) -> None:
    """ValueError unless a float network runs on these images, and labels are its outputs (`sets.check_labels`)."""
    sets.check_labels(dataset, float_logits(model, dataset.test_images[:1], normalisation).shape[1])


def load_ready(name: str, weights: Path, data: Path) -> tuple[zoo.Ready, nn.Module, sets.ImageSet]:
    """A ready-made network in its usual shape, with its weights, and a data set of that shape."""
    known = zoo.ready(name)
    dataset = sets.load(data, size=known.shape[1], channels=known.shape[0])
    if dataset.shape != known.shape:
        raise ValueError(f"{data}: images are {dataset.shape}, {name} takes {known.shape}")
    model = known.make(known.classes)
    load_weights(model, weights)
    sets.check_labels(dataset, known.classes)
    return known, model, dataset


def _numbers(option: str, text: str | None, channels: int) -> tuple[float, ...] | None:
    """Numbers between commas, one for all channels or one each; None for no text."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} must be numbers between commas, got {text!r}") from None
    values = values * channels if len(values) == 1 else values
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{option} must be finite numbers, got {text!r}")
    if len(values) != channels:
        raise ValueError(f"{option} must be 1 or {channels} numbers, got {len(values)}")
    return values
