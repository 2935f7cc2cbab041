"""Small hardware, networks and data for the tests of quant."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from golden_model.config import HardwareConfig
from quant.data import idx
from quant.data.sets import ImageSet
from quant.networks.layers import FloatWeight
from quant.networks.pixels import Normalisation
from quant.training.prepare import QuantisedNetwork, prepare

SMALL = HardwareConfig(
    rows=12,
    cols=8,
    ou_rows=5,
    ou_cols=3,
    adc_bits=3,
    input_bits=8,
    weight_bits=4,
    crossbar_pairs=200,
    max_k=256,
    max_n=16,
    max_layers=4,
    activation_bytes=1024,
    width_entries=1024,
    channel_entries=64,
    pad_entries=8,
)


class SmallNet(nn.Module):
    """A convolution with a border, one with a stride, a fully connected layer; no size is a multiple of the OU."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(4, 5, 2, stride=2)
        self.head = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.first(x)))
        return self.head(torch.flatten(torch.relu(self.second(x)), 1))


def random_network(
    seed: int, *, activation_bits: int = 8, normalisation: Normalisation | None = None, hardware: HardwareConfig = SMALL
) -> tuple[QuantisedNetwork, np.ndarray]:
    """A quantised SmallNet with blocks of every width, and images (6, 2, 9, 8) it was calibrated on."""
    generator = torch.Generator().manual_seed(seed)
    model = SmallNet()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    images = torch.randint(0, 256, (6, 2, 9, 8), generator=generator).to(torch.uint8)
    images[:, :, :3] = 0
    network = prepare(
        model.eval(),
        (2, 9, 8),
        hardware,
        calibration=images.numpy(),
        normalisation=normalisation or Normalisation.none(2),
        start_bits=hardware.weight_bits,
        activation_bits=activation_bits,
    )
    for layer in network:
        source = layer.source
        assert isinstance(source, FloatWeight)
        shape = source.block_widths().shape
        source.freeze(torch.randint(0, hardware.weight_bits + 1, tuple(shape), generator=generator))
    return network, images.numpy()


def write_idx(path: Path, array: np.ndarray) -> None:
    """An idx file of unsigned bytes."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def toy_dataset(train: int = 240, test: int = 60, size: int = 12, classes: int = 4, seed: int = 0) -> ImageSet:
    """Noise with one bright quadrant, whose place is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, train + test)
    labels[:classes] = np.arange(classes)
    images = rng.integers(0, 60, (train + test, 1, size, size)).astype(np.uint8)
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        y, x = divmod(int(label), 2)
        image[0, y * half : (y + 1) * half, x * half : (x + 1) * half] += 150
    return ImageSet(
        "toy", images[:train], labels[:train].astype(np.int64), images[train:], labels[train:].astype(np.int64), classes
    )


def write_toy(directory: Path, **options: int) -> Path:
    """The toy data set as the four idx files."""
    toy = toy_dataset(**options)
    directory.mkdir(parents=True, exist_ok=True)
    for part, images, labels in (
        ("train", toy.train_images, toy.train_labels),
        ("test", toy.test_images, toy.test_labels),
    ):
        image_name, label_name = idx.IDX_NAMES[part]
        write_idx(directory / image_name, images[:, 0])
        write_idx(directory / label_name, labels)
    return directory


@pytest.fixture(scope="session")
def toy() -> ImageSet:
    return toy_dataset()


@pytest.fixture
def toy_directory(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "data")
