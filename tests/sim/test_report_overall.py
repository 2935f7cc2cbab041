"""The report's figures of the whole machine: they are those of the cost model, the program and the test set."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from golden_model.config import PRESETS
from golden_model.cost import __main__ as cost_command
from golden_model.cost.components import load_table
from sim.reporting import collect, origin, overall, view
from tests.sim.test_report import UNIFORM, data, html, image, image_dir, make_image, make_network, section

__all__ = ["data", "html", "image", "image_dir"]  # fixtures


# ---- speed and area -----------------------------------------------------------------------------
def test_a_multiply_accumulate_is_two_operations_whatever_is_skipped(image, data):
    by_hand = 0
    for node in image.network.crossbars:
        for layer in node.layers:
            by_hand += layer.windows * layer.weights.size
    assert data["speed"]["macs"] == by_hand
    ours = data["machines"][-1]
    assert data["speed"]["tops_per_watt"] == pytest.approx(2 * by_hand / ours["energy_pj"])
    seconds = ours["cycles"] / (data["clock_mhz"] * 1e6)
    assert data["speed"]["tops"] == pytest.approx(2 * by_hand / seconds / 1e12)
    watts = ours["energy_pj"] * 1e-12 / seconds
    assert data["speed"]["tops"] / watts == pytest.approx(data["speed"]["tops_per_watt"])


def test_rivals_have_the_figures_that_the_cost_command_prints(image_dir, data, tmp_path):
    result = CliRunner().invoke(cost_command.app, [str(image_dir), "--json", str(tmp_path / "cost.json")])
    assert result.exit_code == 0, result.output
    printed = json.loads((tmp_path / "cost.json").read_text())["machines"]
    assert [row["name"] for row in data["rivals"][:-1]] == [row["machine"] for row in printed[:-1]]
    between = data["machines"][0]["cycles"] - printed[0]["clocks"]
    assert between > 0
    for mine, theirs in zip(data["rivals"], printed, strict=True):
        assert mine["energy_pj"] == pytest.approx(theirs["picojoules"])
        assert mine["ad_operations"] == pytest.approx(theirs["ad_operations"])
        assert mine["cycles"] == pytest.approx(theirs["clocks"] + between)
        assert mine["mm2"] == pytest.approx(theirs["chip"]["mm2"])
    assert data["area"]["mm2"] == pytest.approx(printed[-1]["chip"]["mm2"])


def test_the_first_rival_is_the_baseline_of_the_ladder(data):
    first, base = data["rivals"][0], data["machines"][0]
    assert (first["energy_pj"], first["cycles"]) == (pytest.approx(base["energy_pj"]), pytest.approx(base["cycles"]))


def test_area_of_parts_adds_up(data):
    assert sum(data["area"]["mm2_by_group"].values()) == pytest.approx(data["area"]["mm2"])


def test_a_table_without_areas_leaves_area_out(image):
    bare = replace(load_table(), areas=())
    machine = collect.machines(image.network, image.vectors.images[:1], image.vectors.events.counts[:1, :5])[0]
    assert overall.area(machine, bare) is None
    assert overall.rivals(image.network, image.vectors.images[:1], [machine], bare, 0.0)[0]["mm2"] is None


def test_a_table_that_prices_nothing_is_no_error(image, tmp_path):
    rows = "".join(
        f'[[component]]\nname = "{one.name}"\ngroup = "{one.group}"\nquantity = "{one.quantity}"\n'
        f'energy_pj = 0.0\nsource = "none"\nderivation = "none"\nwhy = "free"\n'
        for one in load_table().components
    )
    (tmp_path / "free.toml").write_text(f'base = "isaac-32nm"\ntitle = "free"\n{rows}')
    found = collect.collect(image, table=str(tmp_path / "free.toml"))
    assert found["machines"][0]["energy_pj"] == 0
    assert "Energy and time of a picture" not in view.render(found, image.vectors.images)


# ---- floor plan and lanes -----------------------------------------------------------------------
def test_every_plane_has_its_place_on_the_floor_plan(image, data):
    plan = data["floor"]
    for index, node in enumerate(plan["nodes"]):
        planes = sum(int(layer.block_widths.sum()) for layer in image.network.node(node).layers)
        assert sum(np.sum(np.array(pair["places"]) == index) for pair in plan["pairs"]) == planes
    assert len(plan["pairs"]) == image.program.placement.pairs


def test_lanes_are_busy_for_their_operations_and_no_longer(data):
    lanes = data["hardware"]["lanes"]
    for row in data["rows"]:
        assert row["busy"] * lanes * row["cycles"] == pytest.approx(row["ad_operations"])
        assert 0 <= row["busy"] <= 1


def test_hundreds_of_pairs_are_one_figure():
    pairs = [{"places": [[0, -1], [-1, 1]], "ous": 2}] * 200
    assert len(view.figures.floor_plan(pairs, ["#102030", "#405060"])) == 1
    assert len(view.figures.floor_plan(pairs[:3], ["#102030", "#405060"])) == 3


# ---- accuracy -----------------------------------------------------------------------------------
RUNGS = [
    "ISAAC-like baseline",
    "stored planes only: a width per block",
    "+ twin-range converter",
    "+ dynamic precision, lossless part",
    "+ dynamic precision, lossy part",
    "+ skipping of zero slices",
]


def test_what_loses_nothing_keeps_the_accuracy_of_the_rung_before():
    found = {"float": 0.99, "eight_bit": 0.98, "integer": 0.97, "trq": 0.96, "redy": 0.95}
    reached = overall.accuracy_of_machines(RUNGS, found, exact=False)
    assert reached == [0.98, 0.97, 0.96, 0.96, 0.95, 0.95]


def test_an_accuracy_that_nobody_measured_is_unknown():
    assert overall.accuracy_of_machines(RUNGS[:3], {"integer": 0.97}, exact=False) == [None, 0.97, None]
    assert overall.accuracy_of_machines(RUNGS[:3], {"integer": 0.97}, exact=True) == [None, 0.97, 0.97]


def test_confusion_of_the_test_set_is_shown_where_the_network_knows_it(tmp_path):
    counts = [[9, 1, 0, 0], [0, 7, 0, 0], [0, 0, 8, 3], [0, 0, 0, 6]]
    image = make_image(make_network(UNIFORM, None, False, info={"confusion": counts}), tmp_path / "image")
    data = collect.collect(image)
    assert data["confusion"] == {"counts": counts, "pictures": 34, "of": "test set"}
    shown = section(view.render(data, image.vectors.images), "confusion")
    assert "34 pictures: the test set." in shown
    assert "Most often: c taken for &lt;d&gt; (3), a taken for b (1)." in " ".join(shown.split())
    assert "90.0 %" in shown
    assert "confusion" not in data["info"]


@pytest.mark.parametrize("wrong", [[[1, 2], [3, 4]], [[0.5] * 4] * 4, [[-1] * 4] * 4, "none"])
def test_a_confusion_of_another_form_is_refused(tmp_path, wrong):
    image = make_image(make_network(UNIFORM, None, False, info={"confusion": wrong}), tmp_path / "image")
    with pytest.raises(ValueError, match="info: confusion must be 4 x 4 numbers of pictures"):
        collect.collect(image)


def test_confusion_of_the_vectors_needs_as_many_as_classes(image, tmp_path):
    assert collect.confusion(image.network, image.vectors) is None
    more = make_image(make_network(), tmp_path / "image", count=6)
    found = collect.confusion(more.network, more.vectors)
    assert found is not None
    assert found["pictures"] == 4
    assert np.array(found["counts"]).sum(axis=1).tolist() == np.bincount([0, 1, 2, 0], minlength=4).tolist()


def test_many_classes_are_a_picture(image, data):
    many = np.eye(60, dtype=int).tolist()
    many[3][5] = 2
    changed = data | {"classes": [], "confusion": {"counts": many, "pictures": 62, "of": "test set"}}
    shown = section(view.render(changed, image.vectors.images), "confusion")
    assert "<table" not in shown
    assert "3 taken for 5 (2)" in shown


# ---- where it comes from ------------------------------------------------------------------------
def test_a_preset_is_told_by_its_name_and_by_what_differs():
    assert origin.preset(PRESETS["paper"]) == "paper"
    assert origin.preset(replace(PRESETS["paper"], crossbar_pairs=39)) == "paper but for crossbar pairs 39"
    assert origin.preset(PRESETS["cifar-pairs"]) == "cifar-pairs"


def test_training_tells_its_command_seed_and_accuracies(tmp_path):
    image = make_image(make_network(UNIFORM, None, False, info={"accuracy": {"trq": 0.5}}), tmp_path / "image")
    record = {
        "command": "python -m quant.train",
        "options": {"settings": {"seed": 11}},
        "accuracy": {"float": 0.75, "trq": 0.25},
    }
    data = collect.collect(image, made={"command": "make", "date": "today"}, training=record)
    assert {row["key"]: row["accuracy"] for row in data["accuracy"]} == {"float": 0.75, "trq": 0.5}
    shown = section(view.render(data, image.vectors.images), "origin")
    for text in ("make", "today", "python -m quant.train", ">11<"):
        assert text in shown


def test_a_training_record_of_another_form_is_refused():
    with pytest.raises(ValueError, match="--training: accuracy must be an object"):
        origin.of_training({"accuracy": [1]})


def test_the_summary_says_what_it_means(image, data, html):
    head = html[: html.index("</header>")]
    ours = data["machines"][-1]
    assert view.joules(ours["energy_pj"]) in head
    assert f"{data['speed']['tops_per_watt']:.3g} TOPS/W" in head
    assert "two operations a multiply-accumulate" in head
    assert "at 100 MHz (assumed)" in head
    assert "not laid out" in head
    assert "<b>Baseline</b> means the same machine everywhere" in head


@pytest.mark.parametrize("anchor", ["widths", "histograms", "energy", "memory"])
def test_figures_have_their_numbers_in_a_table_for_those_who_cannot_see_them(html, anchor):
    shown = section(html, anchor)
    assert "<table>" in shown[shown.index("<details>") :]


def test_blocks_of_each_width_are_counted(image, html):
    shown = section(html, "widths")
    numbers = shown[shown.index("Blocks of each width") :]
    for node in image.network.crossbars:
        row = re.search(rf'<tr><td class="text">{node.name}</td>(.*?)</tr>', numbers).group(1)
        found = [int(n) for n in re.findall(r"<td>(\d+)</td>", row)]
        assert found == [sum(int((one.block_widths == w).sum()) for one in node.layers) for w in range(len(found))]
        assert len(found) == image.network.hardware.weight_bits + 1


def test_every_word_has_one_sentence(html):
    shown = section(html, "glossary")
    for _, meaning in view.glossary.WORDS:
        assert meaning.endswith(".")
    assert shown.count("<dt>") == len(view.glossary.WORDS)
