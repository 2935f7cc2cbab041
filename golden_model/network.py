"""The network of a deployment image, ready to run."""

from __future__ import annotations

from pathlib import Path

from golden_model.config import HardwareConfig
from golden_model.engines.chain import Runner
from golden_model.image import image


def load(directory: str | Path, hardware: HardwareConfig | None = None) -> Runner:
    """The network of a deployment image, ready to run; raises `image.ImageError` for a bad image."""
    return Runner(image.read(directory, hardware).network)
