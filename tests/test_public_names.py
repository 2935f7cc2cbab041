"""Names that users script against: stable from the first release (system.md §14)."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from golden_model import config, layer, network, trq
from golden_model.config import HardwareConfig
from golden_model.image import image
from golden_model.registers import COUNTER_NAMES
from tests.golden_model.random_graphs import random_images, random_network

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [
    "quant.train",
    "quant.calibrate",
    "quant.export",
    "golden_model.run",
    "sim.run",
    "sim.report",
    "rtl.generate",
]
KEYWORD, POSITIONAL = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


def parameters(function):
    return {p.name: (p.kind, p.default) for p in inspect.signature(function).parameters.values()}


def test_hardware_config_has_its_fields_and_defaults():
    defaults = HardwareConfig().as_dict()
    wanted = {
        "rows": 128,
        "cols": 128,
        "ou_rows": 9,
        "ou_cols": 8,
        "adc_bits": 4,
        "input_bits": 8,
        "weight_bits": 8,
        "sample_interval": 1,
    }
    assert {name: defaults[name] for name in wanted} == wanted
    assert {"crossbar_pairs", "max_k", "max_n", "max_layers", "activation_bytes", "group_segments"} <= set(defaults)
    assert {kind for kind, _ in parameters(HardwareConfig).values()} == {KEYWORD}


def test_hardware_config_is_frozen_and_derives_its_lanes():
    hardware = HardwareConfig(ou_cols=5)
    assert hardware.lanes == 10
    assert isinstance(inspect.getattr_static(HardwareConfig, "lanes"), property)
    with pytest.raises(dataclasses.FrozenInstanceError):
        hardware.rows = 3


def test_presets_exist():
    assert all(isinstance(p, HardwareConfig) for p in (config.TINY, config.FPGA))
    assert (config.PAPER.ou_rows, config.PAPER.ou_cols, config.PAPER.adc_bits) == (9, 8, 4)
    assert (config.ISAAC.ou_rows, config.ISAAC.adc_bits) == (128, 8)


def test_adc_registers_take_keywords_with_defaults():
    empty = inspect.Parameter.empty
    assert parameters(trq.AdcRegisters) == {
        "mode": (KEYWORD, empty),
        "n_r2": (KEYWORD, empty),
        "n_r1": (KEYWORD, 0),
        "m": (KEYWORD, 0),
        "bias": (KEYWORD, 0),
        "column_bound_bits": (KEYWORD, None),
        "trees": (KEYWORD, ()),
    }


def test_convert_gives_four_arrays_shaped_like_v():
    assert list(parameters(trq.convert))[:3] == ["v", "adc_bits", "registers"]
    result = trq.convert(v=np.zeros((2, 3)), adc_bits=4, registers=trq.AdcRegisters(mode="twin", n_r2=4))
    for name in ("range_flag", "code", "value", "operations"):
        assert getattr(result, name).shape == (2, 3)


def test_matmul_has_its_parameters():
    found = parameters(layer.matmul)
    assert [n for n, (kind, _) in found.items() if kind == POSITIONAL] == [
        "activations",
        "weights",
        "hardware",
        "registers",
    ]
    wanted = {"block_widths": None, "redy": None, "skip_zero_slices": False, "min_count": None}
    assert {name: found[name] for name in wanted} == {name: (KEYWORD, default) for name, default in wanted.items()}


def test_matmul_gives_int64_sums_and_events_with_all_counters():
    sums, events = layer.matmul(
        np.array([[1, 2]], np.uint8), np.array([[3], [-4]]), config.PAPER, trq.AdcRegisters(mode="uniform", n_r2=4)
    )
    assert sums.dtype == np.int64
    assert sums.tolist() == [[-5]]
    assert all(isinstance(getattr(events, name), int) for name in COUNTER_NAMES)


def test_a_loaded_network_runs_uint8_images(tmp_path):
    net = random_network(0)
    images = random_images(0, net, 2)
    image.write(tmp_path / "image", net, images)
    assert next(iter(parameters(network.load))) == "directory"
    logits, events = network.load(tmp_path / "image").run(images)
    assert logits.shape == (2, np.prod(net.output.shape))
    assert events.ad_operations.shape == (2, len(net.crossbars))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TERM": "dumb", "COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_unknown_options_with_status_2(command):
    done = subprocess.run(
        [sys.executable, "-m", command, "--no-such-option"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["golden_model.run", "sim.run", "sim.report"])
def test_commands_on_an_image_refuse_a_bad_one_with_status_2(command, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", command, str(tmp_path / "none")], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
