"""What the tests of quant.reproduce share: a random LeNet-5 with images, a call of a command, and its refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from typer.testing import CliRunner

from quant.networks.zoo import LeNet5


def write_files(
    folder: Path, images: Callable[[np.random.Generator, int], np.ndarray], train: int, test: int
) -> LeNet5:
    """lenet.pt, and digits.npz with so many training and test images (N, 28, 28) and random labels; the network."""
    torch.manual_seed(0)
    model = LeNet5()
    torch.save(model.state_dict(), folder / "lenet.pt")
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", train), ("test", test)):
        arrays[f"{part}_images"] = images(rng, count).astype(np.uint8)
        arrays[f"{part}_labels"] = rng.integers(0, 10, count)
    np.savez(folder / "digits.npz", **arrays)  # type: ignore[arg-type]


def noise(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 256, (count, 28, 28))


def strokes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Mostly black."""
    return rng.integers(0, 256, (count, 28, 28)) * (rng.random((count, 28, 28)) < 0.2)


def grey(rng: np.random.Generator, count: int) -> np.ndarray:
    """Empty borders, and grey levels of all sizes, like digits."""
    made = np.zeros((count, 28, 28))
    made[:, 6:22, 6:22] = rng.integers(0, 256, (count, 16, 16)) >> rng.integers(0, 8, (count, 16, 16))
    return made


def invoke(app: typer.Typer, *arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def network(folder: Path) -> list[Any]:
    """Options that name what `write_files` wrote."""
    return ["--network", "lenet5", "--weights", folder / "lenet.pt", "--data", folder / "digits.npz"]


def assert_refused(result: Any, message: str) -> None:
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
