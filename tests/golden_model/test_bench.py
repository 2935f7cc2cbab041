import json

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("numba", reason="numba is not installed")

from golden_model import bench
from golden_model.config import PAPER
from golden_model.engines.run_layer import run_layer


def run(ratio):
    return {"kernels": [{"regime": "9 rows", "setting": "uniform", "ratio": ratio}]}


def test_a_run_much_slower_than_the_last_one_is_named():
    assert bench.compare(run(300), run(100)) == ["9 rows, uniform: 100 x plain NumPy, 300 x the time before"]


def test_noise_and_settings_without_a_past_are_not_reported():
    assert bench.compare(run(300), run(280)) == []
    assert bench.compare({"kernels": []}, run(1)) == []


@pytest.mark.parametrize("regime", bench.REGIMES)
def test_the_layer_that_is_timed_gives_the_same_numbers_on_both_engines(regime):
    hardware = bench.REGIMES[regime]
    for registers in bench.SETTINGS[regime].values():
        layer = bench.make_layer(hardware, (4, 6, 5, 1), registers)
        images = bench.make_images(layer, 2)
        plain, events = run_layer(layer, hardware, images, engine="direct")
        fast, counted = run_layer(layer, hardware, images, engine="compiled")
        np.testing.assert_array_equal(plain, fast)
        assert events == counted


def test_the_shapes_are_resnet_20s():
    layers = [bench.make_layer(PAPER, shape, bench.SETTINGS["9 rows"]["uniform, lossless"]) for shape in bench.RESNET20]
    assert len(layers) == 19
    # 40.6 M multiply-accumulates with the last fully connected layer of 640.
    assert sum(layer.k * layer.outputs * layer.windows for layer in layers) == 40_550_400


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(bench, "KERNEL", (3, 4, 5, 1))
    monkeypatch.setattr(bench, "RESNET20", ((3, 4, 5, 1), (5, 4, 6, 2)))
    monkeypatch.setattr(bench, "seconds", lambda work, least=0.5: work() or 1.0)


def test_the_engine_for_gpus_has_rows_of_its_own_with_the_name_of_the_device(tiny, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    file = tmp_path / "out.json"
    done = CliRunner().invoke(
        bench.app, ["--engine", "torch", "--device", "cpu", "--images", "16", "--json", str(file)]
    )
    assert done.exit_code == 0, done.output
    result = json.loads(file.read_text())
    assert result["kernels"] == result["networks"] == result["growth"] == []
    found = result["torch"]
    assert found["device"] == "the processor, through torch"
    assert [(row["regime"], row["setting"]) for row in found["kernels"]] == [
        (regime, name) for regime, settings in bench.SETTINGS.items() for name in settings
    ]
    # Eight images instead of the plain model's one, in the same pretended second.
    assert all(row["torch"] > 1 and row["ratio"] == row["torch"] / row["plain"] for row in found["kernels"])
    assert [(row["regime"], row["images"]) for row in found["networks"]] == [("9 rows", 16), ("128 rows", 16)]
    assert done.output.count("the processor, through torch") == 2
    assert bench.compare(result, result) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "fast"], "--engine must be auto, compiled or torch, got 'fast'"),
        (["--device", "cpu"], "--device is cuda or cpu, and goes with --engine torch; got 'cpu' and --engine auto"),
        (["--engine", "torch"], "engine 'torch' needs a GPU that torch"),
    ],
)
def test_options_that_do_not_fit_are_told_in_one_sentence(monkeypatch, options, message):
    torch_engine = pytest.importorskip("golden_model.engines.torch_engine", reason="torch is not installed")
    monkeypatch.setattr(torch_engine, "gpu_present", lambda: False)
    done = CliRunner().invoke(bench.app, options)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {message}")
