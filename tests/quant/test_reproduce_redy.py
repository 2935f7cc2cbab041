"""The command that reproduces the saving of dynamic precision: what it measures, resumes and refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from golden_model.config import PAPER
from golden_model.cost.components import load_table
from golden_model.cost.energy import energy
from golden_model.cost.work import Machine, dynamic_precision_events
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.run_network import GraphRunner
from golden_model.image import archive as graph_file
from quant import stages
from quant.capture.capture import from_torch
from quant.data import sets as datasets
from quant.networks import zoo as networks
from quant.networks.weights import load_weights
from quant.networks.zoo import LeNet5
from quant.reproduce import redy as reproduce_redy
from quant.reproduce import redy_measure, redy_report
from quant.reproduce import study as shared
from quant.search import redy as redy_search
from tests.golden_model.oracles import baseline_events
from tests.quant.studies import assert_refused, grey, invoke, network, write_files

CHOSEN = "lossy 0.05"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of a random LeNet-5 and images with empty borders and grey levels of all sizes, like digits."""
    directory = tmp_path_factory.mktemp("files")
    write_files(directory, grey, 600, 20)
    return directory


def call(files, *more, work="work", source=None):
    return invoke(
        reproduce_redy.app, *(network(files) if source is None else source), "--work", files / work, "--images", 12,
        "--event-images", 4, "--machines", "paper", "--groups", "14,1", "--check-images", 8, "--tolerance", 1,
        "--budgets", "0.05,0.2", "--no-rivals", "--threads", 1, *more,
    )  # fmt: skip


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
    load_weights(model, files / "lenet.pt")
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
    dense = redy_measure.variant(redy_measure.on_machine(graph, PAPER), "dense")
    wanted = energy(Machine(dense, baseline_events(dense), width_table=False), load_table()).total_pj
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
    exact, _ = GraphRunner(redy_measure.on_machine(graph, PAPER)).run(test_images)
    assert measured["agreement"] == (logits.argmax(axis=1) == exact.argmax(axis=1)).mean()
    few = events[:4].sum(axis=0)
    layers = measured["stored planes"]["layers"]
    assert [one["ou_activations"] * 4 for one in layers.values()] == few.ou_activations.tolist()
    assert measured["stored planes"]["cycles"] * 4 == few.sum().cycles
    whole = energy(Machine(saved, events[:4], extra=dynamic_precision_events(saved)), load_table())
    assert measured["stored planes"]["energy_pj"] == pytest.approx(whole.total_pj, rel=1e-6)
    parts = zip(whole.table.components, whole.picojoules.sum(axis=0), strict=True)
    unit = sum(spent for component, spent in parts if component.name in redy_measure.UNIT)
    assert measured["stored planes"]["unit_pj"] == pytest.approx(unit)
    for node in saved.crossbars:
        registers = result["machines"]["paper"]["groups"]["14"]["settings"][CHOSEN][node.name]
        dynamic = node.layers[0].dynamic
        assert dynamic is not None
        assert (dynamic.l_max, dynamic.tau_sq) == (registers["l_max"], registers["tau_sq"])


@pytest.mark.parametrize("kind", ["lossless", *redy_search.KINDS])
def test_only_the_rival_that_is_corrected_changes_biases(graph, kind):
    node = graph.crossbars[1]
    shift = (3.0,) * node.layers[0].outputs
    chosen = redy_search.Chosen(DynamicPrecision(l_max=2, tau_sq=65535), 6.0, 1.0, 1.0, 0.1, shift)
    plan = redy_measure.Plan() if kind == "lossless" else redy_measure.Plan(kind, 0.002)
    changed = redy_measure.applied(graph, plan, {node.name: chosen.as_dict()}).crossbars[1]
    assert changed.layers[0].dynamic == chosen.setting
    assert np.array_equal(changed.bias, node.bias) == (kind != "corrected")


def test_rivals_are_measured_as_their_check_saw_them(files, graph, tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Bias correction on in the check and in the measurement of one kind, off in both of all others."""
    checks, measurements = {}, {}
    real_search, real_apply = redy_measure._Group.search, redy_measure.applied
    now = []

    def search(self, plan):
        now[:] = [plan.kind]
        return real_search(self, plan)

    def measure(self, settings, images=None):
        if images is None:
            checks.setdefault(now[0], set()).add(self.correct)
        return {"logit_error": 0.0, "accuracy": 1.0, "exact_accuracy": 1.0}

    def applied(graph, plan, settings):
        changed = real_apply(graph, plan, settings)
        before = {n.name: n.bias for n in graph.crossbars}
        same = all(np.array_equal(n.bias, before[n.name]) for n in changed.crossbars)
        measurements.setdefault(plan.kind, set()).add(not same)
        return changed

    monkeypatch.setattr(redy_measure._Group, "search", search)
    monkeypatch.setattr(redy_measure.Check, "measure", measure)
    monkeypatch.setattr(redy_measure, "applied", applied)
    study = make_study(files, graph, tmp_path)
    redy_measure._Group(study, "paper", 14, ("paper", 14), True).measure()
    assert measurements == {kind: {kind == "corrected"} for kind in ("lossless", *redy_search.KINDS)}
    assert all(checks[kind] == measurements[kind] for kind in checks)  # kinds share checks of the same settings
    assert {"lossy", "corrected"} <= set(checks)


@pytest.mark.parametrize("lossy", [False, True])
def test_leading_ones_cost_energy_for_every_input_and_dropping_low_bits_for_every_group_too(graph, lossy):
    one = redy_measure.on_machine(graph, replace(PAPER, group_segments=1))
    setting = DynamicPrecision(l_max=2, tau_sq=65535) if lossy else redy_search.LOSSLESS
    changed = redy_measure.with_settings(one, dynamic={node.name: setting for node in one.crossbars})
    table = load_table()
    images = np.zeros((1, 1, 28, 28), np.uint8)
    spent = redy_measure.count(changed, images, "stored planes", table, 1)["unit_pj"]
    groups = 28 * 28 * 3 + 10 * 10 * 17 + 45 + 14 + 10  # windows x segments of 9 rows
    inputs = 28 * 28 * 25 + 10 * 10 * 150 + 400 + 120 + 84
    wanted = inputs * table.component("leading_one").energy_pj + lossy * (groups * 10.0 + inputs * 0.4)
    assert spent == pytest.approx(wanted)
    assert redy_measure.count(one, images, "stored planes", table, 1)["unit_pj"] == 0


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
    assert all(words in made.stdout.replace("\n", " ") for words in [redy_search.KINDS["statistic"].words])


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


# ---- every product behind a figure --------------------------------------------------------------
def test_trace_prints_the_products_that_sum_to_the_energy(files, done, result):
    made = call(files, "--trace", f"126 rows, {CHOSEN}, stored planes, slices")
    assert made.exit_code == 0, made.output
    lines = made.stdout.splitlines()
    start = lines.index(f"# paper, groups of 126 rows, {CHOSEN}, stored planes, slices of zeros skipped")
    products = lines[start + 1 : lines.index("# sources")]
    spent = [float(line.split("=")[1].split("pJ")[0].replace(",", "")) for line in products]
    wanted = result["machines"]["paper"]["groups"]["14"]["measured"][CHOSEN]
    assert products[-1].startswith("total ")
    assert spent[-1] == pytest.approx(wanted["stored planes, slices of zeros skipped"]["energy_pj"], abs=0.1)
    assert sum(spent[:-1]) == pytest.approx(spent[-1], rel=1e-4)
    assert any("leading_one" in line for line in products)
    assert all(any(line.startswith(f"{c.name}: ") for line in lines) for c in load_table().components)


def test_names_of_a_trace_are_known_before_anything_is_counted(result):
    options = redy_measure.Options(budgets=(0.05, 0.2), rivals=False)
    planned = list(redy_measure.titles(options, {"paper": (14, 1)}))
    found = [title for title, _ in redy_report.counted(result)]
    assert found == planned
    assert len(set(found)) == len(found)


def test_every_energy_follows_from_its_products(result):
    for title, one in redy_report.counted(result):
        assert redy_report.energy_report(one, load_table()).total_pj == pytest.approx(one["energy_pj"]), title


# ---- running again ------------------------------------------------------------------------------
def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments, **more):
        raise AssertionError("measured again")

    for where, names in (
        (redy_measure, ("count", "GraphRunner", "exact_logits")),
        (redy_measure.redy_search, ("collect",)),
        (redy_measure.Check, ("measure",)),
        (shared, ("float_logits", "exact_logits")),
    ):
        for name in names:
            monkeypatch.setattr(where, name, fail)


def test_second_run_measures_nothing_again(files, done, result, monkeypatch: pytest.MonkeyPatch):
    forbid(monkeypatch)
    again = call(files, "--json", files / "again.json")
    assert again.exit_code == 0, again.output
    assert json.loads((files / "again.json").read_text()) == result


def make_study(files, graph, folder, **changes) -> redy_measure.Study:
    about: dict = {
        "name": "lenet5", "integers": graph, "source": "x",
        "dataset": datasets.load(files / "digits.npz", size=28, channels=1),
        "options": redy_measure.Options(budgets=(0.5,), check_images=4, sensitivity_images=4), "table": load_table(),
        "work": folder, "images": 2, "check_images": 4, "event_images": 1, "threads": 1,
    }  # fmt: skip
    return redy_measure.Study(**about | changes)


@pytest.mark.parametrize("change", ["sources", "source", "options", "table", "key"])
def test_results_are_used_again_only_if_everything_that_decides_them_is_the_same(
    files, graph, tmp_path, change, monkeypatch: pytest.MonkeyPatch
):
    make = iter(range(9)).__next__
    assert [make_study(files, graph, tmp_path).kept("part", make, images=2) for _ in range(2)] == [0, 0]
    (tmp_path / "new.py").write_text("other = 1")
    if change == "sources":
        known = stages.sources_of(redy_measure.Study.MODULE)
        monkeypatch.setattr(stages, "sources_of", lambda module: [*known, tmp_path / "new.py"])
    table = replace(load_table(), components=load_table().components[:-1])
    changes = {
        "source": {"source": "y"},
        "options": {"options": redy_measure.Options(budgets=(0.5,), check_images=5, sensitivity_images=4)},
        "table": {"table": table},
    }
    other = make_study(files, graph, tmp_path, **changes.get(change, {}))
    assert other.kept("part", make, images=3 if change == "key" else 2) == 1


def test_results_of_other_source_code_are_measured_again(files, done, monkeypatch: pytest.MonkeyPatch):
    forbid(monkeypatch)
    known = stages.sources_of(redy_measure.Study.MODULE)
    monkeypatch.setattr(stages, "sources_of", lambda module: known[1:])
    again = call(files)
    assert isinstance(again.exception, AssertionError)
    assert "measured again" in str(again.exception)


@pytest.mark.parametrize(
    "name", ["crossbar/reference", "graph/network", "crossbar/redy", "cost/work", "cost/energy", "cost/components"]
)
def test_golden_modules_that_decide_figures_are_among_the_sources(name):
    assert (stages.PACKAGE.parent / "golden_model" / f"{name}.py") in stages.sources_of(redy_measure.Study.MODULE)


@pytest.mark.parametrize("name", ["reproduce/redy_measure", "search/redy", "reference", "data/sets"])
def test_modules_that_search_and_measure_are_among_the_sources(name):
    sources = stages.sources_of(redy_measure.Study.MODULE)
    assert (stages.PACKAGE / f"{name}.py") in sources
    assert all(path.is_file() for path in sources)


@pytest.mark.slow
def test_interrupted_run_goes_on_where_it_was(files, done, result, monkeypatch: pytest.MonkeyPatch):
    made = []
    real = redy_measure.Check.measure

    def interrupted(*arguments, **more):
        if len(made) == 8:
            raise KeyboardInterrupt
        made.append(1)
        return real(*arguments, **more)

    monkeypatch.setattr(redy_measure.Check, "measure", interrupted)
    stopped = call(files, work="other")
    assert stopped.exit_code == 130
    assert "run the same command again" in stopped.stderr
    monkeypatch.setattr(redy_measure.Check, "measure", lambda *a, **k: made.append(2) or real(*a, **k))
    assert call(files, work="other").exit_code == 0
    other = json.loads((files / "other" / "result.json").read_text())
    assert other == result
    layers, checks = 5, len(list((files / "other" / "parts").glob("check-*.json")))
    assert len(made) == layers + checks > 8


@pytest.mark.slow
def test_integer_network_from_a_file_gives_the_same_figures(files, result, graph):
    graph_file.save(graph, files / "lenet.npz")
    source = ["--graph", files / "lenet.npz", "--data", files / "digits.npz"]
    made = call(files, "--json", files / "graph.json", work="graph", source=source)
    assert made.exit_code == 0, made.output
    found = json.loads((files / "graph.json").read_text())
    assert found["float_accuracy"] is None
    assert found["network"] == "lenet5"
    assert found["machines"] == result["machines"]


def test_changed_logits_of_the_lossless_part_are_a_failed_check(files, done, monkeypatch: pytest.MonkeyPatch):
    real = shared.exact_logits
    monkeypatch.setattr(shared, "exact_logits", lambda *a, **k: real(*a, **k) + 1)
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
        (("--trace", "none"), "--trace none: there are paper, static, dense; paper, static, dense, slices"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(files, arguments, message):
    assert_refused(call(files, *arguments), message)
