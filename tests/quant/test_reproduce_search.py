"""The command that shows lossless searches beside the entropy floor: its figures, its check, what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from golden_model.cost import components, machines
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.settings import with_settings
from golden_model.image import archive as graph_file
from golden_model.registers import COUNTER_NAMES
from golden_model.searches import choose as searches
from golden_model.searches import lanes
from golden_model.searches.joint import graph_joint_counts
from quant.capture.capture import from_torch
from quant.networks import zoo as networks
from quant.networks.weights import load_weights
from quant.networks.zoo import LeNet5
from quant.reproduce import search as reproduce_search
from quant.reproduce.search import SEARCHES, SKIPPING
from tests.quant.studies import assert_refused, invoke, strokes, write_files

EVERY, SKIPPED = SKIPPING.values()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A random LeNet-5 with its weights, 40 training and 9 test images of strokes."""
    directory = tmp_path_factory.mktemp("files")
    write_files(directory, strokes, 40, 9)
    return directory


def call(files, *more):
    arguments = ["--data", files / "digits.npz", "--calibration", 3, "--images", 3, "--threads", 1, *more]
    return invoke(reproduce_search.app, *arguments)


@pytest.fixture(scope="module")
def done(files):
    made = call(
        files, "--network", "lenet5", "--weights", files / "lenet.pt", "--rows", 9, "--json", files / "result.json",
        "--picture", files / "result.png",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    return made


@pytest.fixture
def result(files, done):
    return json.loads((files / "result.json").read_text())


def check_order(part, uniform):
    for where in (EVERY, SKIPPED):
        spent = {key: part["searches"][key][where]["operations_per_conversion"] for key in SEARCHES}
        assert spent["uniform"] == uniform
        assert spent["uniform"] > spent["twin shared"] >= spent["twin"] > spent["tree"]
        assert spent["uniform"] > spent["low first"] >= spent["trees k"]
        assert spent["bounded k"] > spent["trees k"] > spent["trees 1"] > spent["trees full"]
        assert all(one[where]["over_floor"] >= 1 for one in part["searches"].values())
        floors = [one[where]["operations_per_conversion"] for one in part["floors"].values()]
        assert floors == sorted(floors, reverse=True)


def graph_of(files, rows):
    model = LeNet5()
    load_weights(model, files / "lenet.pt")
    with np.load(files / "digits.npz") as arrays:
        train, test = (arrays[f"{part}_images"][:, None] for part in ("train", "test"))
    machine = reproduce_search.MACHINES[rows]
    normalisation = networks.ready("lenet5").normalisation
    return from_torch(model, (1, 28, 28), machine, train[:32], normalisation=normalisation), train[:3], test[:3]


def test_searches_keep_their_order_and_the_floor(result):
    check_order(result["machines"]["9"], uniform=4)


@pytest.mark.slow
def test_searches_keep_their_order_on_whole_columns(files):
    wide = files / "wide.json"
    made = call(files, "--network", "lenet5", "--weights", files / "lenet.pt", "--rows", 128, "--json", wide)
    assert made.exit_code == 0, made.output
    check_order(json.loads(wide.read_text())["machines"]["128"], uniform=8)


def test_skipping_changes_the_denominator_but_not_what_bounded_searches_spend(result):
    part = result["machines"]["9"]
    n = part["conversions_per_image"]
    assert n[SKIPPED] < n[EVERY]
    for key in ("bounded k", "trees full", "bounded 1"):
        both = [part["searches"][key][where] for where in (EVERY, SKIPPED)]
        assert both[0]["operations_per_image"] == both[1]["operations_per_image"]
        assert both[0]["operations_per_conversion"] * n[EVERY] == pytest.approx(both[0]["operations_per_image"])
        assert both[1]["operations_per_conversion"] * n[SKIPPED] == pytest.approx(both[1]["operations_per_image"])


@pytest.mark.parametrize(("key", "skip"), [("trees 1", True), ("twin k", False), ("tree", True)])
def test_figures_are_those_of_the_golden_model(files, result, key, skip):
    graph, train, test = graph_of(files, 9)
    registers = SEARCHES[key].make(graph_joint_counts(graph, train), graph.hardware, skip)
    changed = with_settings(graph, registers=registers, skip_zero_slices=skip)
    _, events = GraphRunner(changed).run(test)
    found = result["machines"]["9"]["searches"][key][SKIPPING[skip]]
    assert found["operations_per_image"] * 3 == pytest.approx(events.sum().ad_operations)
    assert found["clocks_lock_step"] == events[0].sum().cycles
    assert found["clocks_decoupled"] == lanes.graph_decoupled_cycles(changed, test[:1]).sum()
    stored = searches.stored_bits(changed)
    assert found["column_bound_bits"] == stored["column_bounds"].sum()
    assert found["tree_bits"] == stored["trees"].sum()


def test_energy_is_events_times_table_rows(result):
    found = {key: one[SKIPPED] for key, one in result["machines"]["9"]["searches"].items()}
    assert found["uniform"]["metadata_uj"] == found["twin"]["metadata_uj"] == 0
    assert (
        0 < found["bounded k"]["metadata_uj"] < found["bounded 1"]["metadata_uj"] < found["bounded full"]["metadata_uj"]
    )
    assert found["bounded full"]["metadata_held_uj"] < found["bounded full"]["metadata_uj"]
    ratio = found["tree"]["converter_uj"] / found["uniform"]["converter_uj"]
    assert 0 < ratio < 1


def test_population_counts_are_charged_for_every_row(files, result):
    graph, train, test = graph_of(files, 9)
    registers = SEARCHES["bounded k"].make(graph_joint_counts(graph, train), graph.hardware, True)
    changed = with_settings(graph, registers=registers, skip_zero_slices=True)
    _, events = GraphRunner(changed).run(test[:1])
    row = components.load_table().component("population_count")
    counted = float(events.input_bits_streamed.sum()) * 9
    found = result["machines"]["9"]["searches"]["bounded k"][SKIPPED]
    assert found["metadata_uj"] == pytest.approx(counted * row.energy_pj / 1e6)


def test_gathered_machines_have_their_own_floor(files, result):
    graph, train, test = graph_of(files, 9)
    found = result["machines"]["9"]["gathered"]
    spent = {key: one["over_floor"] for key, one in found["searches"].items()}
    assert spent["uniform"] > spent["bounded"] > spent["trees"] >= 1
    assert spent["low first"] >= spent["trees"]
    settings = {"low first": searches.low_first(graph_joint_counts(graph, train), graph.hardware)}
    total = machines.gathered(graph, test, settings)[0].events.sum(axis=0)
    assert found["searches"]["low first"]["operations_per_image"] == pytest.approx(
        total[COUNTER_NAMES.index("ad_operations")]
    )
    assert found["conversions_per_image"] == pytest.approx(total[COUNTER_NAMES.index("conversions_r2")])


def test_every_product_behind_a_search_can_be_printed(files):
    made = call(files, "--network", "lenet5", "--weights", files / "lenet.pt", "--rows", 9, "--trace", "BOUNDED BY MIN",
                "--json", files / "trace.json")  # fmt: skip
    assert made.exit_code == 0, made.output
    part = json.loads((files / "trace.json").read_text())["machines"]["9"]
    lines = part["trace"]["bounded by min(k, u), zero slices skipped, u held"]
    found = part["searches"]["bounded full"][SKIPPED]
    total = float(lines[-1].split("=")[1].split()[0].replace(",", ""))
    assert total == pytest.approx((found["converter_uj"] + found["metadata_held_uj"]) * 1e6, rel=1e-4)
    products = [float(line.split("=")[1].split()[0].replace(",", "")) for line in lines[:-1]]
    assert sum(products) == pytest.approx(total, rel=1e-4)
    for line in ("# 9 rows: bounded by min(k, u), zero slices skipped, u held", *lines):
        assert line in made.stdout


@pytest.mark.slow
def test_a_graph_file_gives_the_same_figures(files, result):
    graph, _, _ = graph_of(files, 9)
    graph_file.save(graph, files / "graph.npz")
    made = call(files, "--graph", files / "graph.npz", "--rows", 9, "--json", files / "graph.json")
    assert made.exit_code == 0, made.output
    other = json.loads((files / "graph.json").read_text())
    assert list(other["machines"]) == ["9"]
    assert other["machines"]["9"]["searches"] == result["machines"]["9"]["searches"]
    moved = reproduce_search.on_machine(graph, 128)
    assert (moved.hardware.ou_rows, moved.hardware.adc_bits) == (128, 8)


def test_tables_and_picture_are_made(files, done):
    for text in ("entropy floor, min(k, u) known", "optimal tree, one for all layers", "logits and events equal"):
        assert text in done.stdout
    assert (files / "result.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_wrong_event_is_found_by_the_check(files, monkeypatch: pytest.MonkeyPatch):
    real = lanes.graph_spent

    def wrong(*arguments, **more):
        found = real(*arguments, **more)
        for one in found.values():
            one.lock_step[0] += 1
        return found

    monkeypatch.setattr(reproduce_search.lanes, "graph_spent", wrong)
    made = call(files, "--network", "lenet5", "--weights", files / "lenet.pt", "--rows", 9)
    assert made.exit_code == 1
    assert "NOT EQUAL" in made.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--network", "lenet5"), "give either --graph FILE, or --network NAME and --weights FILE"),
        ((), "give either --graph FILE, or --network NAME and --weights FILE"),
        (("--network", "lenet5", "--weights", "x", "--graph", "y"), "give either --graph FILE, or --network NAME"),
        (("--network", "lenet5", "--weights", "x", "--rows", "64"), "--rows must be among 9, 128, got '64'"),
        (("--network", "lenet5", "--weights", "x", "--trace", "nothing"), "--trace nothing: there are uniform; twin"),
        (("--network", "alexnet", "--weights", "x"), "unknown network 'alexnet'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(files, arguments, message):
    assert_refused(call(files, *arguments), message)
