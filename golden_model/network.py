"""The network of a deployment image, ready to run."""

from __future__ import annotations

from pathlib import Path

from golden_model.config import HardwareConfig
from golden_model.image.image import Runner, read


def load(directory: str | Path, hardware: HardwareConfig | None = None) -> Runner:
    """The runner of a deployment image's network: `run(images)` gives logits and events per crossbar node,
    `cycles(events)` the clocks from start to done; raises `files.InputError` for a bad image.
    """
    return read(directory, hardware).runner()
