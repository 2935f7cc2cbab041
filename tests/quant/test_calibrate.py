"""Registers of a trained network, and the commands one after another on a toy data set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from golden_model.config import PRESETS
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.settings import lossless_registers, on_machine, with_settings
from golden_model.image import archive
from quant import calibrate, train
from quant.reference import exact_logits
from quant.search import adc, redy
from tests.quant.conftest import random_network, write_toy

TRAIN = ("--float-epochs", 3, "--quantise-epochs", 1, "--finetune-epochs", 1, "--batch", 20, "--threads", 1)
QUICK = ("--event-images", 3)


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
    """A working directory with both stages done; tests that change it copy it."""
    base = tmp_path_factory.mktemp("pipeline")
    write_toy(base / "data")
    succeed(train, "--work", base / "work", "--data", base / "data", *TRAIN)
    succeed(calibrate, "--work", base / "work", *QUICK)
    return base / "work"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "work"))


def record(work: Path) -> dict:
    return json.loads((work / "calibration.json").read_text())


def test_the_default_is_lossless_for_every_count(finished: Path):
    found = record(finished)
    assert found["lossless"]
    assert all(layer["lossless"] and layer["mean_squared_error"] == 0 for layer in found["layers"])
    assert list(found["accuracy"]) == ["float", "eight_bit", "integer", "trq", "redy"]
    assert found["accuracy"]["trq"] == found["accuracy"]["integer"]


def test_the_calibrated_network_holds_the_registers_and_the_same_integers(finished: Path):
    before, after = (archive.load(finished / name) for name in ("network.graph", "calibrated.graph"))
    for old, new, layer in zip(before.layers, after.layers, record(finished)["layers"], strict=True):
        assert (old.weights == new.weights).all()
        assert new.skip_zero_slices
        assert (new.registers.n_r2, new.registers.n_r1) == (layer["registers"]["n_r2"], layer["registers"]["n_r1"])
        assert new.dynamic == DynamicPrecision(**layer["dynamic"])


def test_the_calibrated_network_knows_which_test_pictures_were_taken_for_what(finished: Path):
    graph = archive.load(finished / "calibrated.graph")
    dataset = calibrate.dataset_of(finished, archive.load(finished / "network.graph"), None)
    chosen = calibrate.logits_of(graph, np.array(dataset.test_images)).argmax(axis=1)
    found = np.array(graph.info["confusion"])
    for true, row in enumerate(found):
        for one, count in enumerate(row):
            assert count == np.sum((dataset.test_labels == true) & (chosen == one))
    assert found.trace() / found.sum() == pytest.approx(graph.info["accuracy"]["redy"])


def test_very_many_classes_are_not_counted():
    assert calibrate.confusion(np.zeros((2, calibrate.MOST_CLASSES + 1)), np.array([0, 1])) is None


def test_every_step_saves_work(finished: Path):
    steps = record(finished)["events"]["per_image"]
    assert list(steps) == ["baseline", "uniform", "trq", "redy_lossless", "redy", "all"]
    ous = [step["ou_activations"] for step in steps.values()]
    assert ous == sorted(ous, reverse=True)
    assert steps["trq"]["ad_operations"] < steps["uniform"]["ad_operations"]
    assert steps["uniform"]["operations_per_conversion"] == 4
    assert steps["all"]["picojoules"] < steps["baseline"]["picojoules"]
    assert steps["all"]["clocks"] < steps["baseline"]["clocks"]


def test_the_recorded_events_are_those_of_the_golden_model(finished: Path):
    dataset = calibrate.dataset_of(finished, archive.load(finished / "network.graph"), None)
    graph = archive.load(finished / "calibrated.graph")
    _, events = GraphRunner(graph).run(np.array(dataset.test_images[:3]))
    step = record(finished)["events"]["per_image"]["all"]
    assert step["ad_operations"] == pytest.approx(events.sum().ad_operations / 3)
    assert step["ou_activations"] == pytest.approx(events.sum().ou_activations / 3)


def test_a_second_run_changes_nothing_and_another_option_does(copied: Path):
    before = (copied / "calibration.json").read_bytes()
    assert "is up to date" in succeed(calibrate, "--work", copied, *QUICK)
    assert (copied / "calibration.json").read_bytes() == before
    assert "is up to date" not in succeed(calibrate, "--work", copied, *QUICK, "--no-redy")
    assert all(layer["dynamic"] is None for layer in record(copied)["layers"])


def test_a_damaged_result_is_made_again(copied: Path):
    file = copied / "calibrated.graph"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert "is up to date" not in succeed(calibrate, "--work", copied, *QUICK)
    assert file.read_bytes() == content


def test_a_damaged_network_is_refused(copied: Path):
    file = copied / "network.graph"
    file.write_bytes(file.read_bytes()[:1000])
    assert "network.graph" in refuse(calibrate, "--work", copied, *QUICK)


def test_lossy_converters_save_operations_when_any_loss_is_tolerated(copied: Path):
    succeed(calibrate, "--work", copied, *QUICK, "--tolerance", 1, "--grid", "continuous", "--no-redy")
    found = record(copied)
    assert not found["lossless"]
    assert any(layer["registers"]["n_r2"] < 4 for layer in found["layers"])


def test_a_pair_machine_keeps_its_search_and_gets_dynamic_precision(copied: Path):
    shown = succeed(calibrate, "--work", copied, "--hardware", "cifar-pairs", *QUICK)
    made, found = archive.load(copied / "calibrated.graph"), record(copied)
    assert made.hardware == PRESETS["cifar-pairs"]
    assert {layer.registers for layer in made.layers} == {lossless_registers(made.hardware)}
    assert found["lossless"]
    assert found["accuracy"]["trq"] == found["accuracy"]["integer"]
    assert all(layer["dynamic"] is not None and layer["family"] == "outward" for layer in found["layers"])
    steps = found["events"]["per_image"]
    assert steps["all"]["ad_operations"] < steps["baseline"]["ad_operations"]
    assert [steps[name]["picojoules"] is None for name in ("baseline", "uniform", "all")] == [False, True, True]
    assert "everything" in shown


def test_a_machine_with_early_stop_gets_bits_for_its_checks_and_loses_nothing(copied: Path):
    succeed(calibrate, "--work", copied, "--hardware", "cifar-pairs-stop", *QUICK)
    made, found = archive.load(copied / "calibrated.graph"), record(copied)
    chosen = [layer.stop_bits for layer in made.layers]
    assert any(chosen)
    assert chosen[-1] is None
    assert [layer["stop_bits"] for layer in found["layers"]] == chosen
    images = np.random.default_rng(0).integers(0, 256, (5, *made.image.shape)).astype(np.uint8)
    plain = with_settings(made, stop_bits=dict.fromkeys(node.name for node in made.crossbars))
    (stopping, events), (logits, whole) = (GraphRunner(graph).run(images) for graph in (made, plain))
    np.testing.assert_array_equal(stopping, logits)
    assert events.ad_operations.sum() < whole.ad_operations.sum()


def test_early_stop_goes_with_its_machine(copied: Path):
    succeed(calibrate, "--work", copied, "--hardware", "cifar-pairs-stop", *QUICK)
    made = archive.load(copied / "calibrated.graph")
    assert not any(layer.stop_bits for layer in with_settings(made, hardware=PRESETS["cifar-pairs"]).layers)


def test_dynamic_precision_gives_both_machines_the_same_accuracy(copied: Path):
    network = archive.load(copied / "network.graph")
    lossy = with_settings(
        network, dynamic={node.name: DynamicPrecision(l_max=4, tau_sq=8000) for node in network.crossbars}
    )
    pairs = with_settings(lossy, hardware=PRESETS["cifar-pairs"])
    images = np.random.default_rng(0).integers(0, 256, (20, *network.image.shape)).astype(np.uint8)
    labels = GraphRunner(pairs).run(images)[0].argmax(axis=1)
    assert calibrate.measure(pairs, images, labels) == 1
    assert (exact_logits(network, images).argmax(axis=1) != labels).any()


def test_a_tolerance_on_a_pair_machine_is_refused(copied: Path):
    words = refuse(calibrate, "--work", copied, "--hardware", "cifar-pairs", "--tolerance", 0.01, *QUICK)
    assert words.endswith("tolerance: converters of the pair machine are lossless, there is nothing to choose")


def test_data_that_changed_since_training_is_refused(copied: Path, tmp_path: Path):
    other = write_toy(tmp_path / "other", seed=1)
    text = (copied / "recipe.toml").read_text()
    data = train.read_recipe(copied / "recipe.toml")["data"]
    (copied / "recipe.toml").write_text(text.replace(data, str(other)))
    assert "has changed since the training" in refuse(calibrate, "--work", copied)


def test_data_of_another_shape_is_refused(copied: Path, tmp_path: Path):
    other = write_toy(tmp_path / "other", size=16)
    message = refuse(calibrate, "--work", copied, "--data", other)
    assert "images are (1, 16, 16), lenet5 takes (1, 12, 12)" in message


def test_calibration_without_training_says_what_to_run(tmp_path: Path):
    assert "network.graph is missing: run python -m quant.capture or python -m quant.train first" in refuse(
        calibrate, "--work", tmp_path
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--l-max", 8), "--l-max must be in 0..7, got 8"),
        (("--tolerance", -1), "--tolerance must be in 0..1, got -1.0"),
        (("--grid", "round"), "--grid must be one of aligned, continuous, got 'round'"),
        (("--lossless", "--tolerance", 0.1), "--lossless and --tolerance exclude each other"),
    ],
)
def test_bad_option_is_refused(tmp_path: Path, arguments: tuple, message: str):
    assert message in refuse(calibrate, "--work", tmp_path, *arguments)


def test_choices_are_checked_on_as_many_pictures_as_asked_for(copied: Path):
    printed = succeed(calibrate, "--work", copied, *QUICK, "--checked-images", 3)
    assert "checks on 3\n" in printed
    assert json.loads((copied / "calibration.json").read_text())["checked_images"] == 3


def test_images_that_are_counted_and_checked_are_held_out_and_apart(toy):
    counted, images, labels = calibrate.held_out(toy)
    held = {image.tobytes() for image in toy.validation()[0]}
    parts = [{image.tobytes() for image in part} for part in (counted, images)]
    assert parts[0] | parts[1] == held
    assert not parts[0] & parts[1]
    assert len(images) == len(labels)


@pytest.fixture
def small():
    network, images = random_network(5)
    return network.to_graph(images, "small"), images


def test_the_descent_keeps_lossless_converters_where_nothing_else_holds(small, monkeypatch):
    graph, images = small
    plain = on_machine(graph, graph.hardware)
    counts = calibrate.graph_counts(plain, images)
    labels = exact_logits(plain, images).argmax(axis=1)
    wanted = calibrate.Options(tolerance=0.1)
    exact = calibrate.choose_converters(plain, counts, calibrate.Options(), images, labels)
    monkeypatch.setattr(calibrate, "measure", lambda *a: 0.0)
    assert calibrate.choose_converters(plain, counts, wanted, images, labels) == exact
    monkeypatch.setattr(calibrate, "measure", lambda *a: 1.0)
    cheap = calibrate.choose_converters(plain, counts, wanted, images, labels)
    assert adc.mean_operations(cheap) < adc.mean_operations(exact)


def test_without_low_bits_to_drop_nothing_is_measured(small, monkeypatch):
    graph, images = small
    monkeypatch.setattr(redy, "collect", lambda *a: pytest.fail("measured"))
    found = calibrate.choose_precision(graph, images, calibrate.Options(l_max=0), images, np.zeros(6))
    assert set(found.values()) == {DynamicPrecision()}


def test_no_layer_drops_more_low_bits_than_allowed(small):
    graph, images = small
    plain = on_machine(graph, graph.hardware)
    labels = exact_logits(plain, images).argmax(axis=1)
    wanted = calibrate.Options(l_max=2, logit_error=1.0, redy_tolerance=1.0)
    found = calibrate.choose_precision(plain, images, wanted, images, labels)
    assert max(one.l_max for one in found.values()) in (1, 2)


def test_a_damaged_record_of_training_is_refused(copied: Path, tmp_path: Path):
    (copied / "train.json").write_text('{"accuracy": 3, "data": 3}')
    assert "train.json: data must be an object, got 3" in refuse(calibrate, "--work", copied, *QUICK)
    data = write_toy(tmp_path / "toy")
    told = refuse(calibrate, "--work", copied, "--data", data, "--force", *QUICK)
    assert "train.json: accuracy must be an object, got 3" in told
