"""The command that shows what block-wise widths earn."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from golden_model.config import PAPER
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.settings import with_settings
from golden_model.image import archive as graph_file
from quant.networks.pixels import Normalisation
from quant.networks.zoo import LeNet5
from quant.reproduce import bwq as reproduce_bwq
from quant.reproduce import ladder as bwq_ladder
from quant.reproduce import study
from quant.search import registers as redy_registers
from quant.training.loop import Settings, width_statistics
from quant.training.prepare import prepare


def _train(folder, model, images, *, seed=0, layer_wise=False):
    """What quant.train would write, with widths as they come out of rounding."""
    network = prepare(
        model, (1, 28, 28), PAPER, calibration=images, normalisation=Normalisation.none(1),
        start_bits=3, block="layer" if layer_wise else "ou",
    )  # fmt: skip
    folder.mkdir(parents=True)
    graph_file.save(network.to_graph(images[:2], "lenet5"), folder / "network.graph")
    settings = {**Settings(model="lenet5", seed=seed).__dict__}
    options = {"settings": settings, "block": "layer" if layer_wise else "ou"}
    report = {"options": options, "widths": width_statistics(network), "command": "python -m quant.train"}
    (folder / "train.json").write_text(json.dumps(report))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bwq")
    torch.manual_seed(0)
    model = LeNet5()
    torch.save(model.state_dict(), folder / "lenet.pt")
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 256, (36, 1, 28, 28)) * (rng.random((36, 1, 28, 28)) < 0.3)).astype(np.uint8)
    np.savez(folder / "data.npz", train_images=images, train_labels=rng.integers(0, 10, 36),
             test_images=images[:8], test_labels=rng.integers(0, 10, 8))  # fmt: skip
    _train(folder / "trained/blocks-0", model, images)
    _train(folder / "trained/blocks-1", model, images, seed=1)
    _train(folder / "trained/layers-0", model, images, layer_wise=True)
    network = folder / "trained/blocks-0/network.graph"
    registers = redy_registers.Registers(
        3, {"conv2": DynamicPrecision(l_max=3, tau_sq=65535)}, {"command": "chosen so"}
    )
    redy_registers.write(folder / "trained/blocks-0/redy.json", registers, network)
    return folder


def call(files, *more):
    arguments = ["--network", "lenet5", "--weights", files / "lenet.pt", "--data", files / "data.npz", "--trained",
                 files / "trained", "--work", files / "work", "--images", 2, "--threads", 1, *more]  # fmt: skip
    return CliRunner().invoke(reproduce_bwq.app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def result(files):
    done = call(files, "--pairs", 40)
    assert done.exit_code == 0, done.output
    return json.loads((files / "work/result.json").read_text()), done.output


def test_seeds_of_one_recipe_share_a_line_and_the_first_gets_a_ladder(result):
    found, text = result
    assert set(found["ladders"]) == {reproduce_bwq.POST_TRAINING, "blocks-0"}
    assert set(found["trained"]) == {"blocks-0", "blocks-1", "layers-0"}
    assert "0, 1" in text


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"weighting": "both", "target_bits": 0.9}, "penalty by both, target 0.9"),
        ({"method": "bitplane", "weighting": "both", "alpha": 0.3}, "penalty by both, factor 0.3"),
        ({"quantise_epochs": 0, "activation_bits": 4}, "4-bit activations, widths not trained further"),
    ],
)
def test_a_recipe_names_only_what_had_an_effect(changes, end):
    settings = {**Settings(model="lenet5").__dict__, **changes}
    report = {"options": {"settings": settings, "block": "ou"}}
    assert reproduce_bwq.Trained("one", report, graph=None).recipe.endswith(end)  # type: ignore[arg-type]


def test_every_step_of_the_ladder_does_less_work_than_the_one_before(result):
    found, _ = result
    rows = {row["machine"]: row for row in found["ladders"]["blocks-0"]["isaac-32nm"]}
    order = ["ISAAC-like, 7 planes", "width per block (BWQ)", "BWQ + TRQ", "BWQ + TRQ + zero slices"]
    for before, after in pairwise(order):
        assert rows[after]["ad_operations"] < rows[before]["ad_operations"]
        assert rows[after]["speed"] > rows[before]["speed"]
    twin = rows["BWQ + TRQ + zero slices"]
    plain, units, empty = (rows[f"ours: {what}"] for what in ("bounded by rows", "and by OUs", "and by empty columns"))
    trees, columns = (rows[f"ours: trees, by {what}"] for what in ("rows", "rows and columns"))
    assert plain["ad_operations"] < twin["ad_operations"]
    assert plain["ou_activations"] == twin["ou_activations"]
    assert max(units["ad_operations"], empty["ad_operations"]) < plain["ad_operations"]
    assert columns["ad_operations"] < trees["ad_operations"]
    assert rows["ours: trees, by rows and columns, lanes decoupled"]["clocks"] < columns["clocks"]


def test_what_a_search_knows_is_charged(result):
    found, _ = result
    rows = {row["machine"]: row["extra"] for row in found["ladders"]["blocks-0"]["isaac-32nm"]}
    plain, units, empty = (rows[f"ours: {what}"] for what in ("bounded by rows", "and by OUs", "and by empty columns"))
    assert "column_bound_bits_read" not in plain
    assert units["column_bound_bits_read"] * PAPER.lanes == empty["column_bound_bits_read"] * PAPER.adc_bits > 0
    assert plain["population_counts"] == empty["population_counts"] > 0
    assert rows["ours: trees, by rows"]["tree_bits_read"] > 0


def test_gathering_forms_fewer_units_than_skipping_slices_and_its_searches_differ_in_operations_only(result):
    found, _ = result
    rows = {row["machine"]: row for row in found["ladders"]["blocks-0"]["isaac-32nm"]}
    names = ("uniform", "bounded", "trees", "low counts first", "low counts first, lanes decoupled")
    uniform, bounded, trees, low, decoupled = (rows[f"ours: gathered, {name}"] for name in names)
    assert uniform["ou_activations"] < rows["ours: bounded by rows"]["ou_activations"]
    assert uniform["conversions"] == bounded["conversions"] == trees["conversions"] == low["conversions"]
    assert trees["ad_operations"] < bounded["ad_operations"] < uniform["ad_operations"] == 4 * uniform["conversions"]
    assert low["clocks"] < uniform["clocks"]
    assert decoupled["clocks"] <= low["clocks"]
    assert set(low["extra"]) == {"gathered_rows"}
    assert rows["SRE-like, low counts first"]["ou_activations"] == rows["SRE-like"]["ou_activations"]
    assert rows["SRE-like, low counts first"]["ad_operations"] < rows["SRE-like"]["ad_operations"]


def test_window_reuse_is_a_step_for_the_rival_and_for_ours(result):
    found, _ = result
    rows = {row["machine"]: row for row in found["ladders"]["blocks-0"]["isaac-32nm"]}
    best = "ours: gathered, low counts first"
    theirs = f"{bwq_ladder.SPARSE}, low counts first"
    names = [bwq_ladder.SPARSE, theirs, f"{theirs}, lanes decoupled", best, f"{best}, lanes decoupled"]
    saved = []
    for before, after in ((rows[name], rows[f"{name}, window reuse"]) for name in names):
        assert after["ad_operations"] == before["ad_operations"]
        assert after["picojoules"] < before["picojoules"]
        saved.append((before["clocks"] - after["clocks"], after["extra"]["window_register_bits"]))
    assert len(set(saved)) == 1
    assert min(saved[0]) > 0
    lossy = f"{bwq_ladder.LOSSY}gathered, low counts first"
    before, after = rows[lossy], rows[f"{lossy}, window reuse"]
    assert after["picojoules"] < before["picojoules"]
    assert 0 < before["clocks"] - after["clocks"] < saved[0][0]  # not in the layer that drops bits


def test_the_layer_wise_machine_runs_the_network_that_was_trained_layer_by_layer(result, files):
    found, _ = result
    row = next(r for r in found["ladders"]["blocks-0"]["isaac-32nm"] if r["machine"] == "width per layer")
    assert row["ou_activations"] == found["trained"]["layers-0"]["ou_activations"]
    assert row["ou_activations"] >= found["trained"]["blocks-0"]["ou_activations"]


def test_events_are_those_of_the_golden_model(result, files):
    found, _ = result
    graph = graph_file.load(files / "trained/blocks-0/network.graph")
    with np.load(files / "data.npz") as data:
        events = GraphRunner(graph).run(data["test_images"][:2])[1]
    row = next(r for r in found["ladders"]["blocks-0"]["isaac-32nm"] if r["machine"] == "width per block (BWQ)")
    assert row["ou_activations"] == events.ou_activations.sum() / 2
    assert row["ad_operations"] == events.ad_operations.sum() / 2


def test_lossy_redy_is_a_step_of_networks_that_have_its_registers(result, files):
    found, text = result
    rows = {row["machine"]: row for row in found["ladders"]["blocks-0"]["isaac-32nm"]}
    assert not any(row["machine"].startswith(bwq_ladder.LOSSY) for row in post(found))
    graph = graph_file.load(files / "trained/blocks-0/network.graph")
    dropping = redy_registers.load(
        files / "trained/blocks-0/redy.json", files / "trained/blocks-0/network.graph", graph
    ).apply(graph)
    with np.load(files / "data.npz") as data:
        images, labels = data["test_images"], data["test_labels"]
    logits = GraphRunner(dropping).run(images)[0]
    lossy = found["lossy_redy"]["blocks-0"]
    assert lossy == {"accuracy": (logits.argmax(axis=1) == labels).mean(), "command": "chosen so"}
    assert "with lossy ReDy: " in text
    events = GraphRunner(with_settings(dropping, skip_zero_slices=True)).run(images[:2])[1]
    for name in ("bounded by rows", "and by empty columns"):
        before, after = rows[f"ours: {name}"], rows[f"ours: lossy ReDy, {name}"]
        assert after["ou_activations"] == events.ou_activations.sum() / 2 < before["ou_activations"]
        assert after["ad_operations"] < before["ad_operations"]
        layer = graph.node("conv2").layers[0]
        assert after["extra"]["dynamic_precision_inputs"] == layer.windows * layer.k
        assert after["extra"]["dynamic_precision_groups"] == layer.windows * -(-layer.k // 27)
        assert "dynamic_precision_inputs" not in before["extra"]
    before, after = rows["ours: gathered, bounded"], rows[f"{bwq_ladder.LOSSY}gathered, bounded"]
    assert after["ou_activations"] < before["ou_activations"]
    assert after["extra"]["dynamic_precision_groups"] == layer.windows * -(-layer.k // 27)


def test_the_rival_gets_lossy_redy_and_decoupled_lanes_as_ours_does(result):
    found, _ = result
    rows = {row["machine"]: row for row in found["ladders"]["blocks-0"]["isaac-32nm"]}
    before, after = (rows[f"{name}, low counts first"] for name in (bwq_ladder.SPARSE, bwq_ladder.LOSSY_GATHERED[1]))
    assert after["ou_activations"] < before["ou_activations"]
    assert after["extra"]["dynamic_precision_groups"] > 0 == before["extra"].get("dynamic_precision_groups", 0)
    for row in (before, after):
        decoupled = rows[f"{row['machine']}, lanes decoupled"]
        assert decoupled["clocks"] <= row["clocks"]
        assert decoupled["picojoules"] == row["picojoules"]


@pytest.mark.parametrize("name", ["blocks-0", reproduce_bwq.POST_TRAINING])
def test_every_machine_has_a_name_of_its_own_that_is_known_before_counting(result, files, name):
    found, _ = result
    rows = [row["machine"] for row in found["ladders"][name]["isaac-32nm"]]
    graph = graph_file.load(files / "trained/blocks-0/network.graph")
    assert len(rows) == len(set(rows))
    assert set(bwq_ladder.names(graph, lossy=name == "blocks-0")) == set(rows)


def post(found):
    return found["ladders"][reproduce_bwq.POST_TRAINING]["isaac-32nm"]


def test_what_the_paper_reports_is_a_row_of_every_table_and_of_the_results(result):
    found, text = result
    assert found["paper"] == {"machine": "BWQ's paper, over its own baseline", "speed": 6.08, "energy_saving": 17.47}
    lines = [line for line in text.splitlines() if "BWQ's paper, over its own baseline" in line]
    assert len(lines) == sum(map(len, found["ladders"].values()))
    assert all("6.08x" in line and "17.47x" in line for line in lines)


def test_a_budget_of_crossbar_pairs_copies_slow_layers_where_it_is_enough(result, files):
    found, text = result
    rows = found["ladders"]["blocks-0"]["isaac-32nm"]
    fits = [row for row in rows if "pipeline" in row]
    assert 0 < len(fits) <= len(rows)
    assert all(row["pipeline"]["interval_clocks"] < row["chip"]["interval_clocks"] for row in fits)
    assert all(row["pipeline"]["pairs"] <= found["pairs"] == 40 for row in fits)
    shown = [line for line in text.splitlines() if "balanced " in line and "│" in line]
    assert len(shown) == sum(
        "pipeline" in r for by_table in found["ladders"].values() for t in by_table.values() for r in t
    )
    mm2 = f"{fits[0]['pipeline']['mm2']:.3f}"
    assert any(f" {fits[0]['pipeline']['pairs']} " in line and mm2 in line for line in shown)


def no_work(*arguments, **options):
    raise AssertionError("this was measured already")


def test_only_ladders_that_have_the_machine_are_traced(result, files):
    done = call(files, "--pairs", 40, "--trace", "Lossy ReDy, bounded", "--json", files / "traced.json")
    assert done.exit_code == 0, done.output
    assert "# blocks-0, isaac-32nm\n# ours: lossy ReDy, bounded by rows: " in done.output
    assert f"# {reproduce_bwq.POST_TRAINING}, " not in done.output
    row = next(
        r for r in result[0]["ladders"]["blocks-0"]["isaac-32nm"] if r["machine"].endswith("ReDy, bounded by rows")
    )
    assert f"{row['picojoules']:,.1f} pJ" in done.output
    assert json.loads((files / "traced.json").read_text()) == result[0]


def test_a_name_that_no_machine_has_is_refused_before_anything_is_counted(files, tmp_path):
    done = call(files, "--trace", "nobody", "--work", tmp_path / "work", "--ladders", "blocks-1")
    assert done.exit_code == 2
    assert "no machine is called so, there are ISAAC-like, 7 planes; " in done.output
    assert not (tmp_path / "work").exists()
    assert call(files, "--trace", "lossy", "--work", tmp_path / "work", "--ladders", "blocks-1").exit_code == 2


def test_finished_parts_are_not_measured_again(result, files, monkeypatch):
    for name in ("ladder", "exact_logits", "lossy_accuracy"):
        monkeypatch.setattr(reproduce_bwq, name, no_work)
    monkeypatch.setattr(study, "float_logits", no_work)
    (files / "work/result.json").unlink()
    done = call(files, "--pairs", 40)
    assert done.exit_code == 0, done.output
    assert json.loads((files / "work/result.json").read_text()) == result[0]
    assert done.output == result[1]


@pytest.mark.parametrize(
    ("change", "part"), [("--images", "ladder"), ("--count-images", "ladder"), ("--pairs", "ladder"),
                         ("--accuracy-images", "exact_logits")]
)  # fmt: skip
def test_another_option_is_not_answered_with_an_old_part(result, files, monkeypatch, change, part):
    monkeypatch.setattr(reproduce_bwq, part, no_work)
    assert isinstance(call(files, "--pairs", 40, change, 3).exception, AssertionError)


def test_another_network_is_not_answered_with_an_old_part(result, files, tmp_path, monkeypatch):
    shutil.copytree(files / "work/parts", tmp_path / "parts")
    shutil.copytree(files / "trained/blocks-0", tmp_path / "trained/blocks-0")
    (tmp_path / "trained/blocks-0/redy.json").unlink()
    graph = with_settings(graph_file.load(files / "trained/blocks-0/network.graph"), skip_zero_slices=True)
    graph_file.save(graph, tmp_path / "trained/blocks-0/network.graph")
    monkeypatch.setattr(reproduce_bwq, "exact_logits", no_work)
    done = call(files, "--pairs", 40, "--trained", tmp_path / "trained", "--work", tmp_path)
    assert isinstance(done.exception, AssertionError)


def test_an_interrupted_command_goes_on_with_the_ladder_that_is_missing(result, files, tmp_path, monkeypatch):
    shutil.copytree(files / "work/parts", tmp_path / "parts")
    (tmp_path / "parts/ladder-of-blocks-0.json").unlink()
    real, calls = reproduce_bwq.ladder, []

    def interrupted(graph, *arguments, **options):
        calls.append(graph.name)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(graph, *arguments, **options)

    monkeypatch.setattr(reproduce_bwq, "ladder", interrupted)
    codes = [call(files, "--pairs", 40, "--work", tmp_path).exit_code for _ in range(2)]
    assert (codes, len(calls)) == ([130, 0], 2)
    assert json.loads((tmp_path / "result.json").read_text()) == result[0]


def test_registers_of_another_network_are_refused(files, tmp_path):
    shutil.copytree(files / "trained/blocks-0", tmp_path / "blocks-0")
    registers = json.loads((tmp_path / "blocks-0/redy.json").read_text())
    (tmp_path / "blocks-0/redy.json").write_text(json.dumps(registers | {"graph_sha256": "0" * 64}))
    done = call(files, "--trained", tmp_path)
    assert done.exit_code == 2
    assert "was chosen for another network than" in done.output


def test_searches_count_as_many_training_images_as_asked_for(files, monkeypatch: pytest.MonkeyPatch):
    def ladder(graph, calibration, images, **more):
        raise ValueError(f"{len(calibration)} counted, {len(images)} measured")

    monkeypatch.setattr(reproduce_bwq, "ladder", ladder)
    done = call(files, "--count-images", 3, "--accuracy-images", 2, "--ladders", "none")
    assert "3 counted, 2 measured" in done.output


def test_an_unknown_network_of_the_ladder_is_named(files):
    done = call(files, "--ladders", "nothing")
    assert done.exit_code == 2
    assert "no trained network 'nothing'; there are blocks-0, blocks-1, layers-0" in done.output


def test_a_report_of_something_else_is_refused(files, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/train.json").write_text("{}")
    done = call(files, "--trained", tmp_path)
    assert done.exit_code == 2
    assert "not a report of quant.train" in done.output
