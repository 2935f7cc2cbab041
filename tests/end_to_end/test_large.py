"""A network of the size of ImageNet's through the hardware: SqueezeNet 1.1 on a picture of 224 x 224, about 20 minutes.

    OHMLOOM_SQUEEZENET=FILE OHMLOOM_PICTURES=FILE python -m pytest tests/end_to_end/test_large.py

runs it with trained weights and pictures of yours, for example those of docs/own-network.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from quant.networks import zoo

pytestmark = [pytest.mark.rtl, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def weights(tmp_path) -> Path:
    """Trained weights if there are any here, else random ones."""
    if given := os.environ.get("OHMLOOM_SQUEEZENET"):
        return Path(given)
    torch.manual_seed(0)
    torch.save(zoo.ready("squeezenet").make(1000).state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Pictures if there are any here, else random ones."""
    if given := os.environ.get("OHMLOOM_PICTURES"):
        return Path(given)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 3, 224, 224), dtype=np.uint8), rng.integers(0, 1000, 40)
    file = tmp_path / "pictures.npz"
    np.savez(file, train_images=images[:36], train_labels=labels[:36], test_images=images[36:], test_labels=labels[36:])
    return file


def test_squeezenet_runs_on_the_hardware_as_in_the_golden_model(weights, pictures, tmp_path):
    result = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "quant.compile", "squeezenet", "--weights", str(weights), "--data", str(pictures),
         "--work", str(tmp_path / "work"), "--images", "1", "--json", str(result)],
        cwd=ROOT, capture_output=True, text=True, timeout=7200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert (found["simulated"], found["equal"]) == (1, 1)
    assert found["clocks"][0] > 100_000_000
