"""The claims about the full MNIST set; OHMLOOM_MNIST names the directory with the four idx files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.quant.test_calibrate import succeed

MNIST = os.environ.get("OHMLOOM_MNIST")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not MNIST, reason="set OHMLOOM_MNIST to the directory of the four MNIST idx files to check the full-set claims"
    ),
    pytest.mark.timeout(3600),
]


def test_full_mnist_reaches_the_claimed_accuracy_width_and_operations(tmp_path: Path):
    from quant import calibrate
    from quant import train as training

    succeed(training, "--work", tmp_path, "--data", MNIST)
    succeed(calibrate, "--work", tmp_path, "--lossless")
    trained = json.loads((tmp_path / "train.json").read_text())
    calibrated = json.loads((tmp_path / "calibration.json").read_text())
    assert trained["test_images"] == 10_000
    assert trained["accuracy"]["float"] >= 0.99
    assert trained["widths"]["mean_bits"] <= 0.5
    assert calibrated["lossless"]
    assert calibrated["accuracy"]["redy"] >= 0.989
    assert calibrated["events"]["share_of_baseline_operations_per_conversion"] <= 0.45
