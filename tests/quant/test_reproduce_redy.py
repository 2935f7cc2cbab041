"""The command that reproduces the saving of dynamic precision: what it measures, resumes and refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from golden_model import graph_file
from golden_model.components import load_table
from golden_model.config import PAPER
from golden_model.cost import baseline_events, energy
from golden_model.graph import GraphRunner
from golden_model.program import DynamicPrecision
from golden_model.work import dynamic_precision_events
from quant import networks, redy_report, redy_search, reproduce_redy
from quant.import_network import from_torch
from quant.models import LeNet5

CHOSEN = "lossy 0.05"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of a random LeNet-5 and images with empty borders and grey levels of all sizes, like digits."""
    directory = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    torch.save(LeNet5().state_dict(), directory / "lenet.pt")
    rng = np.random.default_rng(0)

    def images(count: int) -> np.ndarray:
        made = np.zeros((count, 28, 28), dtype=np.uint8)
        made[:, 6:22, 6:22] = rng.integers(0, 256, (count, 16, 16)) >> rng.integers(0, 8, (count, 16, 16))
        return made

    np.savez(
        directory / "digits.npz",
        train_images=images(600),
        train_labels=rng.integers(0, 10, 600),
        test_images=images(20),
        test_labels=rng.integers(0, 10, 20),
    )
    return directory


def call(files, *more, work="work", network=True):
    source = ["--network", "lenet5", "--weights", files / "lenet.pt"] if network else []
    arguments = [
        *source, "--data", files / "digits.npz", "--work", files / work, "--images", 12, "--event-images", 4,
        "--machines", "paper", "--groups", "14,1", "--check-images", 8, "--tolerance", 1, "--budgets", "0.05,0.2",
        "--no-rivals", "--threads", 1, *more,
    ]  # fmt: skip
    return CliRunner().invoke(reproduce_redy.app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def done(files):
    result = call(files)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def result(files, done):
    return json.loads((files / "work" / "result.json").read_text())


@pytest.fixture(scope="module")
def graph(files):
    model = LeNet5()
    networks.load_weights(model, files / "lenet.pt")
    with np.load(files / "digits.npz") as arrays:
        train = arrays["train_images"][:, None]
    return from_torch(
        model, (1, 28, 28), PAPER, train[:32], normalisation=networks.ready("lenet5").normalisation, name="lenet5"
    )


@pytest.fixture(scope="module")
def test_images(files):
    with np.load(files / "digits.npz") as arrays:
        return arrays["test_images"][:12, None]


# ---- figures ------------------------------------------------------------------------------------
def test_lossless_skipping_changes_no_logit(result):
    assert result["lossless_equal"]
    for group in result["machines"]["paper"]["groups"].values():
        assert group["measured"]["lossless"]["logit_error"] == 0
        assert group["measured"]["lossless"]["accuracy"] == result["static_accuracy"]
        assert not group["measured"][CHOSEN]["equal"]


def test_static_machine_is_the_baseline_of_the_cost_model(result, graph):
    dense = reproduce_redy.variant(reproduce_redy.on_machine(graph, PAPER), "dense")
    wanted = energy(baseline_events(dense), dense, load_table(), width_table=False).total_pj
    static = result["machines"]["paper"]["static"]["dense"]
    assert static["energy_pj"] == pytest.approx(wanted)
    assert static["unit_pj"] == 0
    assert static["streamed"] == 8


def test_lossy_saves_more_than_lossless_and_less_error_saves_less(result):
    part = result["machines"]["paper"]
    for group in part["groups"].values():
        spent = [group["measured"][n]["dense"]["energy_pj"] for n in ("lossless", CHOSEN, "lossy 0.2")]
        assert part["static"]["dense"]["energy_pj"] > spent[0] > spent[1] >= spent[2]


def test_small_groups_stream_fewer_bits_without_loss(result):
    bits = {
        g: one["measured"]["lossless"]["dense"]["streamed"] for g, one in result["machines"]["paper"]["groups"].items()
    }
    assert bits["1"] < bits["14"] < 8


@pytest.mark.parametrize("machine", ["dense", "stored planes"])
def test_lossless_part_saves_no_activation_where_slices_of_zeros_are_skipped(result, machine):
    name = f"{machine}, slices of zeros skipped"
    part = result["machines"]["paper"]
    for group in part["groups"].values():
        one = group["measured"]["lossless"][name]
        assert one["ou_activations"] == part["static"][name]["ou_activations"]
        assert one["ad_operations"] == part["static"][name]["ad_operations"]


def test_figures_are_those_of_the_golden_model(files, result, graph, test_images):
    saved = graph_file.load(files / "work" / "graph-paper-14.npz")
    logits, events = GraphRunner(saved).run(test_images)
    measured = result["machines"]["paper"]["groups"]["14"]["measured"][CHOSEN]
    exact, _ = GraphRunner(reproduce_redy.on_machine(graph, PAPER)).run(test_images)
    assert measured["agreement"] == (logits.argmax(axis=1) == exact.argmax(axis=1)).mean()
    few = events[:4].sum(axis=0)
    layers = measured["stored planes"]["layers"]
    assert [one["ou_activations"] * 4 for one in layers.values()] == few.ou_activations.tolist()
    assert measured["stored planes"]["cycles"] * 4 == few.sum().cycles
    whole = energy(
        events[:4],
        saved,
        load_table(),
        extra=dynamic_precision_events(saved),
    )
    assert measured["stored planes"]["energy_pj"] == pytest.approx(whole.total_pj, rel=1e-6)
    unit = sum(row["picojoules"] for row in whole.trace_rows() if row["component"] in reproduce_redy.UNIT)
    assert measured["stored planes"]["unit_pj"] == pytest.approx(unit)
    for node in saved.crossbars:
        registers = result["machines"]["paper"]["groups"]["14"]["settings"][CHOSEN][node.name]
        dynamic = node.layers[0].dynamic
        assert dynamic is not None
        assert (dynamic.l_max, dynamic.tau_sq) == (registers["l_max"], registers["tau_sq"])


def test_only_the_rival_that_is_corrected_changes_biases(graph):
    name = graph.crossbars[1].name
    shift = (3.0,) * graph.node(name).layers[0].outputs
    settings = {name: redy_search.Chosen(DynamicPrecision(l_max=2, tau_sq=65535), 6.0, 1.0, 1.0, 0.1, shift).as_dict()}
    kinds = ("lossless", "lossy 0.002", "statistic 0.002", "fixed 0.002", "corrected 0.002")
    state = {"settings": dict.fromkeys(kinds, settings)}
    biases = [reproduce_redy.applied(graph, state, kind).node(name).bias for kind in kinds]
    assert [np.array_equal(bias, graph.node(name).bias) for bias in biases] == [True, True, True, True, False]


@pytest.mark.parametrize("lossy", [False, True])
def test_leading_ones_cost_energy_for_every_input_and_dropping_low_bits_for_every_group_too(graph, lossy):
    one = reproduce_redy.on_machine(graph, replace(PAPER, group_segments=1))
    setting = DynamicPrecision(l_max=2, tau_sq=65535) if lossy else redy_search.LOSSLESS
    changed = reproduce_redy.with_settings(one, dynamic={node.name: setting for node in one.crossbars})
    table = load_table()
    images = np.zeros((1, 1, 28, 28), np.uint8)
    spent = reproduce_redy.count(changed, images, "stored planes", table, 1)["unit_pj"]
    groups = 28 * 28 * 3 + 10 * 10 * 17 + 45 + 14 + 10  # windows x segments of 9 rows
    inputs = 28 * 28 * 25 + 10 * 10 * 150 + 400 + 120 + 84
    wanted = inputs * table.component("leading_one").energy_pj + lossy * (groups * 10.0 + inputs * 0.4)
    assert spent == pytest.approx(wanted)
    assert reproduce_redy.count(one, images, "stored planes", table, 1)["unit_pj"] == 0


def test_tables_and_picture_are_made_and_the_paper_is_named(files, done):
    for text in ("(a) ISAAC-like", "(b) energy saved on machines", "(c) streamed bits", "(d) accuracy against", "13 %"):
        assert text in done.stdout
    assert (files / "work" / "result.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_rivals_are_searched_and_shown(files):
    made = call(files, "--groups", "14", "--json", files / "rivals.json", "--rivals", work="rivals")
    assert made.exit_code == 0, made.output
    part = json.loads((files / "rivals.json").read_text())["machines"]["paper"]
    settings = part["groups"]["14"]["settings"]
    assert all(s["tau_sq"] in (0, 65535) for s in settings["fixed 0.05"].values())
    assert all(s["l_max"] in (0, max(redy_search.L_MAX)) for s in settings["statistic 0.05"].values())
    assert list(part["static_bits"]) == ["7", "6", "5", "4"]
    bits = [one["dense"]["streamed"] for one in part["static_bits"].values()]
    assert bits == sorted(bits, reverse=True)
    assert "(e) what decides" in made.stdout
    assert all(words in made.stdout.replace("\n", " ") for words in list(redy_report.RIVALS.values())[:1])


@pytest.mark.slow
def test_machine_of_128_rows_is_measured(files):
    made = call(files, "--machines", "isaac", "--budgets", "0.05", "--json", files / "isaac.json", work="isaac")
    assert made.exit_code == 0, made.output
    found = json.loads((files / "isaac.json").read_text())
    assert found["lossless_equal"]
    part = found["machines"]["isaac"]
    assert part["hardware"]["ou_rows"] == 128
    one = part["groups"]["1"]["measured"][CHOSEN]["dense"]
    assert one["energy_pj"] < part["static"]["dense"]["energy_pj"]
    assert one["ad_operations"] == 8 * one["conversions"]


# ---- running again ------------------------------------------------------------------------------
def test_second_run_measures_nothing_again(files, done, result, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments, **more):
        raise AssertionError("measured again")

    monkeypatch.setattr(reproduce_redy, "count", fail)
    monkeypatch.setattr(reproduce_redy, "GraphRunner", fail)
    monkeypatch.setattr(reproduce_redy.redy_search, "collect", fail)
    monkeypatch.setattr(reproduce_redy.Check, "measure", fail)
    again = call(files, "--json", files / "again.json")
    assert again.exit_code == 0, again.output
    assert json.loads((files / "again.json").read_text()) == result


@pytest.mark.slow
def test_interrupted_run_goes_on_where_it_was(files, done, result, monkeypatch: pytest.MonkeyPatch):
    made = []
    real = reproduce_redy.Check.measure

    def interrupted(*arguments, **more):
        if len(made) == 8:
            raise KeyboardInterrupt
        made.append(1)
        return real(*arguments, **more)

    monkeypatch.setattr(reproduce_redy.Check, "measure", interrupted)
    stopped = call(files, work="other")
    assert stopped.exit_code == 130
    assert "run the same command again" in stopped.stderr
    monkeypatch.setattr(reproduce_redy.Check, "measure", lambda *a, **k: made.append(2) or real(*a, **k))
    assert call(files, work="other").exit_code == 0
    other = json.loads((files / "other" / "result.json").read_text())
    assert other == result
    total = [1] * 8 + [2] * (len(made) - 8)
    assert made == total
    layers, checks = 5, 0
    for group in ("14", "1"):
        checks += len(json.loads((files / "other" / f"search-paper-{group}.json").read_text())["checks"]["both"])
    assert len(made) == layers + checks


@pytest.mark.slow
def test_integer_network_from_a_file_gives_the_same_figures(files, result, graph):
    graph_file.save(graph, files / "lenet.npz")
    made = call(files, "--graph", files / "lenet.npz", "--json", files / "graph.json", work="graph", network=False)
    assert made.exit_code == 0, made.output
    found = json.loads((files / "graph.json").read_text())
    assert found["float_accuracy"] is None
    assert found["network"] == "lenet5"
    assert found["machines"] == result["machines"]


def test_changed_logits_of_the_lossless_part_are_a_failed_check(files, done, monkeypatch: pytest.MonkeyPatch):
    real = reproduce_redy.exact_logits
    monkeypatch.setattr(reproduce_redy, "exact_logits", lambda *a, **k: real(*a, **k) + 1)
    failed = call(files, "--images", "6", "--budgets", "0.05")
    assert failed.exit_code == 1
    assert "changed a logit" in failed.stderr


# ---- bad input ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--machines", "64"), "--machines must be among paper, isaac, got '64'"),
        (("--groups", "0"), "--groups must be in 1..65536, got 0"),
        (("--groups", "x"), "--groups must be numbers between commas, got 'x'"),
        (("--budgets", "2"), "--budgets must be in 0..1, got 2"),
        (("--tolerance", "-1"), "--tolerance must be in 0..1"),
        (("--graph", "none.npz"), "give either --graph FILE, or --network NAME and --weights FILE"),
        (("--network", "alexnet"), "unknown network 'alexnet'"),
        (("--network", "resnet20"), "images are (1, 28, 28), resnet20 takes (3, 32, 32)"),
        (("--table", "none"), "energy table none: no such file"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(files, arguments, message):
    refused = call(files, *arguments)
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
