"""Registers of lossy dynamic precision beside a trained network: the choice, the file, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from golden_model.config import PAPER
from golden_model.cost.components import load_table
from golden_model.cost.energy import energy
from golden_model.cost.work import Machine
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.settings import on_machine, with_settings
from golden_model.image import archive as graph_file
from golden_model.trq import AdcRegisters
from quant.capture.capture import from_torch
from quant.networks.zoo import LeNet5
from quant.reproduce import redy as reproduce_redy
from quant.search import redy as redy_search
from quant.search import registers as redy_registers
from quant.search.registers import Registers

TABLE = load_table()
BOUNDED = AdcRegisters(mode="bounded", n_r2=4, column_bound_bits=0)
DROP = {"conv2": DynamicPrecision(l_max=3, tau_sq=65535), "fc1": DynamicPrecision(l_max=2, tau_sq=900)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A random LeNet-5 as a graph file, and images like digits."""
    folder = tmp_path_factory.mktemp("registers")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images = np.zeros((600, 28, 28), dtype=np.uint8)
    images[:, 6:22, 6:22] = rng.integers(0, 256, (600, 16, 16)) >> rng.integers(0, 8, (600, 16, 16))
    np.savez(folder / "digits.npz", train_images=images, train_labels=rng.integers(0, 10, 600),
             test_images=images[:4], test_labels=rng.integers(0, 10, 4))  # fmt: skip
    made = from_torch(LeNet5(), (1, 28, 28), PAPER, images[:32, None], name="lenet5")
    graph_file.save(made, folder / "network.graph")
    return folder


@pytest.fixture(scope="module")
def graph(files):
    return graph_file.load(files / "network.graph")


@pytest.fixture(scope="module")
def pixels(files):
    with np.load(files / "digits.npz") as arrays:
        return arrays["train_images"][:, None]


def call(files, *more):
    arguments = ["--graph", files / "network.graph", "--data", files / "digits.npz", "--registers", files / "redy.json",
                 "--groups", "14,1", "--budgets", "0.05", "--tolerance", 1, "--check-images", 6, "--confirm-images", 5,
                 "--threads", 1, *more]  # fmt: skip
    return CliRunner().invoke(reproduce_redy.app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def done(files):
    made = call(files)
    assert made.exit_code == 0, made.output
    return made, redy_registers.load(
        files / "redy.json", files / "network.graph", graph_file.load(files / "network.graph")
    )


# ---- the choice ---------------------------------------------------------------------------------
def test_command_writes_registers_that_save_energy_within_the_logit_error(done):
    made, registers = done
    about = registers.about
    best = about["groups"][str(registers.group_segments)]
    assert best["picojoules"] == min(one["picojoules"] for one in about["groups"].values())
    assert 0 < best["saved"] < 1
    assert 0 < best["check"]["logit_error"] <= 0.05
    assert (about["check_images"], about["confirmed"]["images"]) == (6, 5)
    assert "(taken)" in made.stdout
    assert all(name in made.stdout for name in registers.layers)


def test_confirming_images_are_not_those_of_the_choice(files, graph, pixels, done):
    _, registers = done
    fresh = pixels[11::12][32:][6:11]  # of every twelfth image: 32 for other choices, 6 that check, 5 that confirm
    exact = GraphRunner(on_machine(graph, PAPER)).run(fresh)[0]
    logits = GraphRunner(registers.apply(on_machine(graph, PAPER))).run(fresh)[0]
    same = (logits.argmax(axis=1) == exact.argmax(axis=1)).mean()
    assert registers.about["confirmed"]["agreement"] == same
    centred = [x - x.mean(axis=1, keepdims=True) for x in (logits, exact)]
    error = ((centred[0] - centred[1]) ** 2).sum() / (centred[1] ** 2).sum()
    assert registers.about["confirmed"]["logit_error"] == pytest.approx(error)


def test_energy_is_that_of_the_machine_with_the_unit(graph, pixels):
    registers = Registers(14, DROP)
    images = pixels[:2]
    bounded = dict.fromkeys(
        (n.name for n in graph.crossbars), AdcRegisters(mode="bounded", n_r2=4, column_bound_bits=0)
    )
    dynamic = {n.name: DROP.get(n.name) for n in graph.crossbars}
    machine = with_settings(graph, registers=bounded, dynamic=dynamic, skip_zero_slices=True)
    events = GraphRunner(machine).run(images)[1]
    counts = events.input_bits_streamed.mean(axis=0)
    unit = [0, 0]
    for layer in machine.layers:
        if layer.name in DROP:
            unit[0] += layer.windows * layer.k
            unit[1] += layer.windows * -(-layer.k // 126)
    without = energy(Machine(machine, events, extra={"population_counts": counts}), TABLE).total_pj
    wanted = without + unit[0] * (0.4 + TABLE.component("leading_one").energy_pj) + unit[1] * 10
    assert redy_registers.picojoules(registers.apply(graph), images, TABLE, 1) == pytest.approx(wanted)


def test_candidates_pay_for_their_unit_but_lossless_does_not(graph, pixels):
    samples = redy_search.collect(graph, pixels[:2])
    scores = redy_search.score_layers(graph, samples, skip_zero_slices=True)
    paid = redy_registers.with_unit(graph, scores, TABLE)
    for layer in graph.layers:
        added = paid[layer.name].energy - scores[layer.name].energy
        unit = layer.windows * (layer.k * (0.4 + TABLE.component("leading_one").energy_pj) + -(-layer.k // 126) * 10.0)
        assert added[0] == 0
        assert added[1:] == pytest.approx(unit)


def test_loss_on_the_confirming_images_writes_nothing(files, monkeypatch: pytest.MonkeyPatch):
    real = redy_search.Check.compare

    def compare(self, changed, images=None):
        made = real(self, changed, images)
        lost = len(self.images) == 5  # those that confirm
        return {**made, "exact_accuracy": 1.0, "accuracy": 0.9 if lost else 1.0}

    monkeypatch.setattr(redy_search.Check, "compare", compare)
    out = files / "none.json"
    refused = call(files, "--registers", out, "--tolerance", 0.05, "--groups", 14)
    assert refused.exit_code == 2
    assert "10.00 points of accuracy are lost on 5 training images that the choice did not see" in refused.stderr
    assert not out.exists()


def test_nothing_to_drop_is_said(files):
    refused = call(files, "--registers", files / "none.json", "--budgets", 0, "--groups", 14)
    assert refused.exit_code == 2
    assert "no low bits can be dropped with a logit error up to 0" in refused.stderr
    assert not (files / "none.json").exists()


def test_registers_need_a_graph_on_the_papers_machine(files):
    refused = call(files, "--machines", "isaac")
    assert refused.exit_code == 2
    assert "--registers needs --graph, and paper among --machines" in refused.stderr


# ---- applying -----------------------------------------------------------------------------------
def test_applying_keeps_converters_and_switches_other_layers_off(graph):
    names = [node.name for node in graph.crossbars]
    bounded = AdcRegisters(mode="bounded", n_r2=4, column_bound_bits=0)
    before = with_settings(
        graph,
        registers=dict.fromkeys(names, bounded),
        dynamic=dict.fromkeys(names, DynamicPrecision(l_max=1, tau_sq=9)),
    )
    after = Registers(3, DROP).apply(before)
    assert after.hardware.segments_per_group == 3
    for layer in after.layers:
        assert layer.registers == BOUNDED
        assert layer.dynamic == DROP.get(layer.name)


# ---- the file -----------------------------------------------------------------------------------
def test_file_holds_what_was_written(files, graph, tmp_path):
    registers = Registers(3, DROP, {"command": "x"})
    redy_registers.write(tmp_path / "redy.json", registers, files / "network.graph")
    assert redy_registers.load(tmp_path / "redy.json", files / "network.graph", graph) == registers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other"}, "schema and version must be 'ohmloom-redy', 1, got 'other', 1"),
        ({"version": 2}, "got 'ohmloom-redy', 2"),
        ({"graph_sha256": "0" * 64}, "was chosen for another network than"),
        ({"layers": {"conv9": {"l_max": 1, "tau_sq": 1}}}, "the network has no crossbar layer 'conv9'"),
        ({"layers": []}, "layers and about must be JSON objects"),
        ({"layers": {"conv2": {"l_max": 1}}}, "layer conv2 must have l_max and tau_sq, got {'l_max': 1}"),
        (
            {"layers": {"conv2": {"l_max": 8, "tau_sq": 1}}},
            "layer conv2: DynamicPrecision.l_max must be in 0..7",
        ),
        ({"layers": {"conv2": {"l_max": 1.5, "tau_sq": 1}}}, "layer conv2: DynamicPrecision.l_max must be an integer"),
        ({"group_segments": 0}, "group_segments must be an integer in 1..65536, got 0"),
        ({"group_segments": True}, "group_segments must be an integer in 1..65536, got True"),
        ({"about": None}, "layers and about must be JSON objects"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(files, graph, tmp_path, change, message):
    path = tmp_path / "redy.json"
    redy_registers.write(path, Registers(3, DROP), files / "network.graph")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"redy.json") as caught:
        redy_registers.load(path, files / "network.graph", graph)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files_are_refused(files, graph, tmp_path):
    with pytest.raises(ValueError, match=r"redy.json is missing: .*--registers FILE"):
        redy_registers.load(tmp_path / "redy.json", files / "network.graph", graph)
    (tmp_path / "redy.json").write_text("{")
    with pytest.raises(ValueError, match=r"redy.json is not readable JSON"):
        redy_registers.load(tmp_path / "redy.json", files / "network.graph", graph)
