"""The command that reproduces the twin-range paper's figure: what it measures, resumes and refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from golden_model.engines.run_network import GraphRunner
from quant.capture.capture import from_torch
from quant.networks import zoo as networks
from quant.networks.weights import load_weights
from quant.networks.zoo import LeNet5
from quant.reproduce import trq as reproduce_trq
from quant.reproduce.trq import FEWEST, MIXED
from tests.quant.studies import assert_refused, invoke, network, noise, write_files

KINDS = ("uniform full", "uniform", "uniform mixed", "twin accurate", "twin fewest")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of a random LeNet-5, 400 training and 30 test images."""
    directory = tmp_path_factory.mktemp("files")
    write_files(directory, noise, 600, 30)
    return directory


def call(files, *more, work="work"):
    return invoke(
        reproduce_trq.app, *network(files), "--work", files / work, "--images", 12, "--rows", 128, "--check-images", 8,
        "--tolerance", 1, "--logit-error", 0.05, *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(files):
    result = call(files)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def result(files, done):
    return json.loads((files / "work" / "result.json").read_text())


def test_every_converter_is_measured_at_every_bound(result):
    found = result["machines"]["128"]["settings"]
    for n in (8, 7, 6, 5, 4, 3):
        for kind in ("uniform full", "uniform column", "uniform", "twin accurate"):
            assert f"{kind} {n}" in found
    assert result["images"] == 12
    assert result["calibration_images"] == 32


def test_uniform_converters_spend_their_bits(result):
    for name, one in result["machines"]["128"]["settings"].items():
        kind, n = name.rsplit(" ", 1)
        if kind in ("uniform full", "uniform column", "uniform"):
            assert one["operations"] == int(n)


def test_lossless_converter_gives_the_lossless_networks_predictions(result):
    part = result["machines"]["128"]
    assert part["settings"]["uniform full 8"]["logit_error"] == 0
    assert part["settings"]["uniform full 8"]["agreement"] == 1
    assert part["settings"]["uniform full 8"]["accuracy"] == part["exact_accuracy"]


def test_bounds_are_kept(result):
    for name, layers in result["machines"]["128"]["choices"].items():
        n = int(name.rsplit(" ", 1)[1])
        assert all(max(s["n_r1"], s["n_r2"]) <= n for s in layers.values())
        assert all((s["mode"] == "uniform") == name.startswith("uniform") for s in layers.values())


def test_fewest_operations_are_not_more_than_the_rivals(result):
    found = result["machines"]["128"]["settings"]
    assert found[f"{FEWEST} 8"]["operations"] < 8
    assert found[f"{FEWEST} 4"]["operations"] <= found["twin accurate 4"]["operations"]
    assert found[f"{MIXED} 8"]["operations"] < 8


def test_figures_are_those_of_the_golden_model(files, result):
    model = LeNet5()
    load_weights(model, files / "lenet.pt")
    with np.load(files / "digits.npz") as arrays:
        train, test = (arrays[f"{part}_images"][:, None] for part in ("train", "test"))
        labels = arrays["test_labels"]
    graph = from_torch(
        model,
        (1, 28, 28),
        reproduce_trq.MACHINES[128],
        train[:32],
        normalisation=networks.ready("lenet5").normalisation,
    )
    layers = result["machines"]["128"]["choices"]["twin accurate 3"]
    chosen = {name: reproduce_trq.Chosen.from_dict(s) for name, s in layers.items()}
    logits, events = GraphRunner(reproduce_trq.adc_search.apply(graph, chosen)).run(test[:12])
    measured = result["machines"]["128"]["settings"]["twin accurate 3"]
    assert measured["accuracy"] == (logits.argmax(axis=1) == labels[:12]).mean()
    assert measured["operations"] == events.sum().ad_operations / events.sum().conversions


def test_offset_encoding_has_denser_counts_and_both_converters_improve_with_operations(result):
    part = result["machines"]["128"]
    assert part["curves"]["offset"]["mean_count"] > part["curves"]["pair"]["mean_count"]
    for encoding in ("pair", "offset"):
        for kind in ("uniform", "twin"):
            errors = [e for e in part["curves"][encoding][kind] if e is not None]
            assert len(errors) >= 5
            assert errors == sorted(errors, reverse=True)


def test_tables_and_picture_are_made_and_the_paper_is_named(files, done):
    for text in (
        "(a) top-1",
        "(b) remaining",
        "(c) every layer",
        "(d) signal to error",
        "The paper: 42 to 62 %",
        "twin, fewest operations",
    ):
        assert text in done.stdout
    assert (files / "work" / "result.png").read_bytes().startswith(b"\x89PNG")


def test_second_run_measures_nothing_again(files, done, result, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments, **more):
        raise AssertionError("measured again")

    monkeypatch.setattr(reproduce_trq, "measure", fail)
    monkeypatch.setattr(reproduce_trq, "graph_counts", fail)
    monkeypatch.setattr(reproduce_trq.Check, "measure", fail)
    again = call(files, "--json", files / "again.json")
    assert again.exit_code == 0, again.output
    assert json.loads((files / "again.json").read_text()) == result


@pytest.mark.slow
def test_interrupted_run_goes_on_where_it_was(files, done, result, monkeypatch: pytest.MonkeyPatch):
    measured = []
    real = reproduce_trq.measure

    def interrupted(*arguments, **more):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(1)
        return real(*arguments, **more)

    monkeypatch.setattr(reproduce_trq, "measure", interrupted)
    stopped = call(files, work="other")
    assert stopped.exit_code == 130
    assert len(list((files / "other" / "parts").glob("128-measured-*.json"))) == 3
    after = []
    monkeypatch.setattr(reproduce_trq, "measure", lambda *a, **k: after.append(1) or real(*a, **k))
    assert call(files, work="other").exit_code == 0
    other = json.loads((files / "other" / "result.json").read_text())["machines"]["128"]["settings"]
    assert len(after) == len(list((files / "other" / "parts").glob("128-measured-*.json"))) - 3
    mine = result["machines"]["128"]["settings"]
    assert {n: s["accuracy"] for n, s in other.items()} == {n: s["accuracy"] for n, s in mine.items()}


def test_only_what_is_asked_for_is_measured(files, done):
    other = files / "few.json"
    assert call(files, "--bounds", "4", "--converters", "uniform,twin accurate", "--json", other).exit_code == 0
    assert list(json.loads(other.read_text())["machines"]["128"]["settings"]) == ["uniform 4", "twin accurate 4"]


def test_images_of_one_set_are_kept_apart(files, tmp_path):
    rng = np.random.default_rng(1)
    np.savez(
        tmp_path / "one.npz", images=rng.integers(0, 256, (80, 28, 28)).astype(np.uint8), labels=rng.integers(0, 10, 80)
    )
    arguments = [
        "--network", "lenet5", "--weights", files / "lenet.pt", "--data", tmp_path / "one.npz", "--work", tmp_path,
        "--rows", 128, "--bounds", 4, "--converters", "uniform", "--tolerance", 1, "--json", tmp_path / "one.json",
    ]  # fmt: skip
    made = invoke(reproduce_trq.app, *arguments)
    assert made.exit_code == 0, made.output
    found = json.loads((tmp_path / "one.json").read_text())
    assert (found["calibration_images"], found["check_images"], found["images"]) == (32, 12, 36)
    assert found["parts_of_one_set"]
    assert "32 of its images calibrated, 12 others checked" in " ".join(made.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rows", "64"), "--rows must be among 128, 9, got '64'"),
        (("--bounds", "9"), "--bounds must be among 8, 7, 6, 5, 4, 3, got '9'"),
        (("--converters", "best"), "--converters must be among"),
        (("--network", "alexnet"), "unknown network 'alexnet'"),
        (("--network", "resnet20"), "images are (1, 28, 28), resnet20 takes (3, 32, 32)"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(files, arguments, message):
    assert_refused(call(files, *arguments), message)
