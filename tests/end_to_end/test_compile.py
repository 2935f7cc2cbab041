"""One command from a PyTorch network to simulated hardware, Verilog and a report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from golden_model.config import PRESETS, HardwareConfig
from tests.end_to_end import small_networks

pytestmark = pytest.mark.rtl
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Random colour pictures of 28 x 28 with labels, as users bring them in one file."""
    rng = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("data") / "pictures.npz"
    images = rng.integers(0, 256, (96, 3, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, small_networks.CLASSES, 96)
    np.savez(file, train_images=images[:64], train_labels=labels[:64], test_images=images[64:], test_labels=labels[64:])
    return file


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quant.compile", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        *("squeeze", "curves"),
        *(pytest.param(n, marks=pytest.mark.slow) for n in small_networks.NAMES if n not in ("squeeze", "curves")),
    ],
)
def test_a_network_of_a_users_file_runs_on_the_hardware_as_in_the_golden_model(name, pictures, tmp_path):
    result = tmp_path / "result.json"
    done = call(
        f"{Path(small_networks.__file__)}:{name}",
        *("--data", pictures, "--work", tmp_path / "work", "--images", 2, "--json", result),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert found["equal"] == 2
    assert found["simulated"] == 2
    assert len(found["clocks"]) == 2
    assert min(found["clocks"]) > 0
    for made in ("network.graph", "image/image.archive", "report.html"):
        assert (tmp_path / "work" / made).is_file(), made
    assert {file.stem for file in (tmp_path / "work/verilog").glob("*.v")} == {"tile", "system", "macro"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hardware"), [("squeeze", "cifar-pairs"), ("curves", "auto-pairs")])
def test_a_network_of_a_users_file_runs_on_the_pair_machine(name, hardware, pictures, tmp_path):
    result = tmp_path / "result.json"
    done = call(
        f"{Path(small_networks.__file__)}:{name}",
        *("--data", pictures, "--work", tmp_path / "work", "--images", 2, "--json", result),
        *("--hardware", hardware),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert found["equal"] == found["simulated"] == 2
    assert (HardwareConfig.from_dict(found["hardware"]) in PRESETS.values()) == (hardware in PRESETS)
    assert "Differences of column pairs" in (tmp_path / "work/report.html").read_text()
    assert {file.stem for file in (tmp_path / "work/verilog").glob("*.v")} == {"tile", "system", "pair_macros"}


def test_a_second_call_makes_nothing_again(pictures, tmp_path):
    arguments = (
        f"{Path(small_networks.__file__)}:squeeze",
        *("--data", pictures, "--work", tmp_path / "work", "--images", 1),
    )
    assert call(*arguments).returncode == 0
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("*") if file.is_file()}
    assert call(*arguments).returncode == 0
    again = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("*") if file.is_file()}
    assert [file.name for file in kept if kept[file] != again[file]] == []


@pytest.mark.parametrize("train", [(), ("--train",)])
def test_limits_of_a_machine_that_is_too_small_are_named_together(pictures, tmp_path, train):
    done = call(
        f"{Path(small_networks.__file__)}:vgg",
        *(*train, "--data", pictures, "--work", tmp_path / "work", "--hardware", "paper"),
    )
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]
    assert said.startswith("error: network vgg: ")
    for limit in ("max_k", "activation_bytes", "(--hardware auto makes a machine that fits)"):
        assert limit in said
    assert not (tmp_path / "work" / "network.graph").exists()


def test_an_option_that_training_does_not_have_is_refused(tmp_path):
    done = call("lenet5", "--train", "--mean", "0.5", "--std", 1, "--work", tmp_path / "work")
    assert (done.returncode, done.stderr) == (2, "error: --mean, --std cannot be used with --train\n")
