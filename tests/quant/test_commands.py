"""The three commands one after another, on a toy data set, and what they answer to bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from golden_model.engines.chain import Runner
from golden_model.image import image
from quant import calibrate, checkpoint, export
from quant import stages as pipeline
from quant import train as training
from quant.capture.chain import LeNet5
from quant.training.layers import QuantNetwork
from tests.quant.conftest import write_toy

TRAIN = ("--float-epochs", "3", "--quantise-epochs", "3", "--finetune-epochs", "2", "--batch", "20")


def run(command, *arguments: object) -> Result:
    return CliRunner().invoke(command.app, [str(a) for a in arguments])


def succeed(command, *arguments: object) -> str:
    result = run(command, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refuse(command, *arguments: object) -> str:
    """The one sentence of a refused call."""
    result = run(command, *arguments)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with all stages done; tests that change it copy what they need."""
    base = tmp_path_factory.mktemp("pipeline")
    directory = write_toy(base / "data")
    work = base / "work"
    succeed(training, "--work", work, "--data", directory, *TRAIN)
    succeed(calibrate, "--work", work, "--lossless", "--event-images", 5)
    succeed(export, "--work", work, "--vectors", 4)
    return work


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    for name in ("train.pt", "calibration.json"):
        (work / name).write_bytes((finished / name).read_bytes())
    return work


def test_exported_image_replays_in_the_golden_model(finished: Path):
    made = image.read(finished / "image")
    logits, events = Runner(made.network).run(made.vectors.images)
    assert (logits == made.vectors.logits).all()
    assert (events.counts == made.vectors.events.counts).all()
    assert made.vectors.images.shape == (4, 1, 12, 12)


def test_image_tells_the_accuracy_step_by_step(finished: Path):
    info = image.read(finished / "image").network.info
    assert list(info["accuracy"]) == ["float", "eight_bit", "bwq", "trq", "redy"]
    assert all(0 <= value <= 1 for value in info["accuracy"].values())
    assert info["accuracy"]["trq"] == info["accuracy"]["bwq"]  # lossless
    assert info["mean_bits"] == json.loads((finished / "train.json").read_text())["widths"]["mean_bits"]


def test_lossless_calibration_makes_every_layer_lossless(finished: Path):
    result = json.loads((finished / "calibration.json").read_text())
    assert result["lossless"]
    assert all(layer["lossless"] and layer["mean_squared_error"] == 0 for layer in result["layers"])


def test_dynamic_precision_and_skipping_save_work_step_by_step(finished: Path):
    steps = json.loads((finished / "calibration.json").read_text())["events"]["per_image"]
    ous = [steps[name]["ou_activations"] for name in ("uniform", "trq", "redy_lossless", "redy", "all")]
    assert ous[0] == ous[1]
    assert ous[1:] == sorted(ous[1:], reverse=True)
    assert steps["trq"]["ad_operations"] < steps["uniform"]["ad_operations"]
    assert steps["uniform"]["operations_per_conversion"] == 4
    assert len({steps[name]["dense"] for name in steps}) == 1


def test_second_run_reuses_every_stage(finished: Path):
    files = ("train.pt", "calibration.json", "image/manifest.json")
    before = [(finished / name).stat().st_mtime_ns for name in files]
    directory = finished.parent / "data"
    assert "is up to date" in succeed(training, "--work", finished, "--data", directory, *TRAIN)
    assert "is up to date" in succeed(calibrate, "--work", finished, "--lossless", "--event-images", 5)
    assert "is up to date" in succeed(export, "--work", finished, "--vectors", 4)
    assert before == [(finished / name).stat().st_mtime_ns for name in files]


def test_changed_option_runs_the_stage_again(copied: Path):
    again = succeed(calibrate, "--work", copied, "--lossless", "--event-images", 5, "--l-max", 0)
    assert "is up to date" not in again
    assert "is up to date" not in succeed(export, "--work", copied, "--vectors", 2)
    assert "is up to date" not in succeed(export, "--work", copied, "--vectors", 3)


def test_results_go_to_a_json_file_on_request(copied: Path, tmp_path: Path):
    out = tmp_path / "out.json"
    succeed(calibrate, "--work", copied, "--lossless", "--event-images", 5, "--json", out)
    assert json.loads(out.read_text())["layers"][0]["name"] == "conv1"
    succeed(export, "--work", copied, "--vectors", 1, "--json", out)
    assert "accuracy" in json.loads(out.read_text())


def test_lossy_calibration_with_a_continuous_grid_exports(copied: Path):
    succeed(
        calibrate, "--work", copied, "--grid", "continuous", "--mse-bound", 0.3, "--tolerance", 1, "--event-images", 2
    )
    result = json.loads((copied / "calibration.json").read_text())
    assert not result["lossless"]
    assert any(layer["registers"]["n_r2"] < 4 for layer in result["layers"])
    succeed(export, "--work", copied, "--vectors", 2)
    made = image.read(copied / "image")
    assert [layer.counts_per_lsb for layer in made.network.layers] == [x["counts_per_lsb"] for x in result["layers"]]


def test_interrupted_training_resumes_with_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory, work = write_toy(tmp_path / "data"), tmp_path / "work"
    epochs = training.run_epoch
    done = []

    def interrupted(*arguments, **options):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(1)
        return epochs(*arguments, **options)

    monkeypatch.setattr(training, "run_epoch", interrupted)
    first = run(training, "--work", work, "--data", directory, *TRAIN)
    assert first.exit_code == 130
    assert "run the same command again" in first.stderr
    assert not (work / "train.pt").exists()
    monkeypatch.setattr(training, "run_epoch", epochs)
    assert "going on after epoch 1 of phase quantise" in succeed(training, "--work", work, "--data", directory, *TRAIN)
    assert (work / "train.pt").exists()
    assert not (work / "train.partial.pt").exists()


# ---- bad input ------------------------------------------------------------------------------------
def test_calibration_without_training_says_what_to_run(tmp_path: Path):
    assert "train.pt is missing: run python -m quant.train first" in refuse(calibrate, "--work", tmp_path)


def test_export_without_calibration_says_what_to_run(copied: Path):
    (copied / "calibration.json").unlink()
    assert "calibration.json is missing: run python -m quant.calibrate first" in refuse(export, "--work", copied)


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_damaged_checkpoint_is_refused(copied: Path, damage: bytes | None):
    file = copied / "train.pt"
    file.write_bytes(file.read_bytes()[:1000] if damage is None else damage)
    assert "is not a readable checkpoint" in refuse(calibrate, "--work", copied)


def test_checkpoint_of_another_version_is_refused(copied: Path):
    content = torch.load(copied / "train.pt", weights_only=True)
    torch.save(content | {"version": 99}, copied / "train.pt")
    assert "has checkpoint version 99, this program reads 1" in refuse(calibrate, "--work", copied)


def test_checkpoint_with_nan_weights_is_refused(copied: Path):
    content = torch.load(copied / "train.pt", weights_only=True)
    content["state"]["layers.1.source.weight"][0, 0] = float("nan")
    torch.save(content, copied / "train.pt")
    assert "layers.1.source.weight holds NaN or infinity" in refuse(export, "--work", copied)


def test_checkpoint_with_a_wrong_shape_is_refused(copied: Path):
    content = torch.load(copied / "train.pt", weights_only=True)
    content["state"]["layers.1.bias"] = torch.zeros(3)
    torch.save(content, copied / "train.pt")
    assert "size mismatch for layers.1.bias" in refuse(export, "--work", copied)


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"hardware_hash": "0"}'])
def test_damaged_calibration_is_refused(copied: Path, text: str):
    (copied / "calibration.json").write_text(text)
    refuse(export, "--work", copied)
    assert not (copied / "image").exists()


def test_damaged_data_is_refused(toy_directory: Path, tmp_path: Path):
    file = toy_directory / "train-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-5])
    assert "is truncated" in refuse(training, "--work", tmp_path / "work", "--data", toy_directory)
    assert not (tmp_path / "work").exists()


def test_data_of_another_shape_than_the_network_is_refused(copied: Path, tmp_path: Path):
    other = write_toy(tmp_path / "other", size=16)
    message = refuse(calibrate, "--work", copied, "--data", other)
    assert "the network takes images of 1 x 12 x 12, the data set has 1 x 16 x 16" in message


def _weights(directory: Path, **changes: np.ndarray) -> Path:
    arrays = {name: tensor.numpy() for name, tensor in LeNet5(1, 12, 12, 4).state_dict().items()}
    np.savez(directory / "weights.npz", **(arrays | changes))
    return directory / "weights.npz"


def test_training_starts_from_given_weights_without_float_epochs(toy_directory: Path, tmp_path: Path):
    succeed(
        training,
        *("--work", tmp_path / "work", "--data", toy_directory, "--weights", _weights(tmp_path), "--method", "ptq"),
    )
    content = checkpoint.load(tmp_path / "work" / "train.pt")
    with np.load(tmp_path / "weights.npz") as arrays:
        assert all((content["float"][name].numpy() == arrays[name]).all() for name in arrays.files)
    assert isinstance(checkpoint.network_of(content, tmp_path), QuantNetwork)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc1.weight": np.full((120, 16), np.nan, np.float32)}, "fc1.weight holds NaN or infinity"),
        ({"fc1.weight": np.zeros((120, 400), np.float32)}, "fc1.weight must have shape (120, 16), got (120, 400)"),
        ({"extra": np.zeros(1, np.float32)}, "holds tensors that the network does not have: extra"),
    ],
)
def test_unusable_weights_are_refused(toy_directory: Path, tmp_path: Path, changes: dict, message: str):
    file = _weights(tmp_path, **changes)
    arguments = ("--work", tmp_path / "work", "--data", toy_directory, "--weights", file)
    assert message in refuse(training, *arguments)


def test_missing_weights_are_refused(toy_directory: Path, tmp_path: Path):
    arguments = ("--work", tmp_path / "work", "--data", toy_directory, "--weights", tmp_path / "none.npz")
    assert "none.npz is missing" in refuse(training, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--hardware", "huge"), "hardware must be one of tiny, fpga, paper, isaac or a .json file, got 'huge'"),
        (("--hardware", "none.json"), "none.json is missing"),
        (("--method", "magic"), "method must be one of msq, bitplane, ptq"),
        (("--model", "vgg"), "unknown network 'vgg'"),
        (("--threads", "0"), "threads must be at least 1, got 0"),
        (("--batch", "0"), "batch must be in 1..100000, got 0"),
    ],
)
def test_bad_training_option_is_refused(toy_directory: Path, tmp_path: Path, arguments: tuple, message: str):
    assert message in refuse(training, "--work", tmp_path / "work", "--data", toy_directory, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--l-max", "8"), "l-max must be in 0..7, got 8"),
        (("--tolerance", "-1"), "tolerance must be in 0..1, got -1.0"),
        (("--grid", "round"), "grid must be aligned or continuous, got 'round'"),
    ],
)
def test_bad_calibration_option_is_refused(tmp_path: Path, arguments: tuple, message: str):
    assert message in refuse(calibrate, "--work", tmp_path, *arguments)


def test_more_vectors_than_test_images_are_refused(copied: Path):
    assert "vectors must be in 0..60, got 61" in refuse(export, "--work", copied, "--vectors", 61)


def test_image_never_replaces_a_directory_that_is_something_else(copied: Path):
    other = copied / "precious"
    other.mkdir()
    (other / "file").write_text("keep me")
    assert "not a deployment image" in refuse(export, "--work", copied, "--out", other)
    assert (other / "file").read_text() == "keep me"


# ---- fingerprints -----------------------------------------------------------------------------------
def test_fingerprint_depends_on_options_inputs_and_sources(tmp_path: Path):
    source = tmp_path / "a.py"
    source.write_text("x = 1")
    marks = [pipeline.fingerprint("s", {"a": 1}, [source], data="d")]
    marks.append(pipeline.fingerprint("s", {"a": 2}, [source], data="d"))
    marks.append(pipeline.fingerprint("s", {"a": 1}, [source], data="e"))
    marks.append(pipeline.fingerprint("t", {"a": 1}, [source], data="d"))
    source.write_text("x = 2")
    marks.append(pipeline.fingerprint("s", {"a": 1}, [source], data="d"))
    assert len(set(marks)) == 5
    source.write_text("x = 1")
    assert pipeline.fingerprint("s", {"a": 1}, [source], data="d") == marks[0]


def test_failed_write_leaves_the_old_file(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        pipeline.write_atomically(file, write)
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
