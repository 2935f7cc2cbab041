"""Search of dynamic precision: scores against the golden model, choices against trying everything."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_model import layer as crossbar
from golden_model.config import ISAAC, PAPER, HardwareConfig
from golden_model.cost.components import load_table
from golden_model.cost.energy import energy
from golden_model.cost.work import Machine
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from golden_model.trq import AdcRegisters
from quant.search import redy as redy_search
from quant.search.price import PRICES
from quant.search.redy import LOSSLESS, Check, Chosen, Sample, Scores, choose
from tests.golden_model.oracles import baseline_events
from tests.strategies import dynamic_precisions, make_images, make_layer, make_network

SMALL = HardwareConfig(rows=12, cols=8, ou_rows=5, ou_cols=3, adc_bits=3, weight_bits=7, group_segments=2)
TABLE = load_table()


def small_graph(seed: int, hardware: HardwareConfig = SMALL) -> tuple[Graph, np.ndarray]:
    """A network with lossless uniform converters and no dynamic precision, and images."""
    made = make_network(seed, hardware)
    names = [node.name for node in made.crossbars]
    uniform = dict.fromkeys(names, AdcRegisters(mode="uniform", n_r2=hardware.adc_bits))
    made = with_settings(made, registers=uniform, dynamic=dict.fromkeys(names), skip_zero_slices=False)
    return made, make_images(seed, made, 6)


def random_scores(seed: int, layers: int = 3, count: int = 9) -> dict[str, Scores]:
    """Scores whose first candidate is lossless and whose energies fall while errors grow, each with its noise."""
    rng = np.random.default_rng(seed)
    made = {}
    for index in range(layers):
        settings = (LOSSLESS, *(DynamicPrecision(l_max=1, tau_sq=t) for t in range(1, count)))
        error = np.concatenate([[0.0], np.sort(rng.random(count - 1))]) ** 3
        drop = np.concatenate([[0.0], np.sort(rng.random(count - 1))])
        made[f"layer{index}"] = Scores(
            settings=settings,
            streamed=8 - 6 * drop,
            energy=100.0 * (1 - drop),
            static=110.0,
            output_error=error,
            corrected_error=error / 2,
            shift=rng.normal(size=(count, 4)),
        )
    return made


# ---- scores -------------------------------------------------------------------------------------
@given(
    seed=st.integers(0, 9999),
    rows=st.sampled_from([3, 5, 9]),
    group=st.integers(1, 4),
    setting=dynamic_precisions(),
    skip=st.booleans(),
    saturated=st.booleans(),
)
def test_scores_of_a_setting_are_what_the_golden_model_does(seed, rows, group, setting, skip, saturated):
    hardware = HardwareConfig(ou_rows=rows, ou_cols=3, adc_bits=4, group_segments=group)
    rng = np.random.default_rng(seed)
    layer = make_layer(
        rng, hardware, channels=4, height=3, width=3, kernel_height=3, kernel_width=3, outputs=7,
        registers=AdcRegisters(mode="uniform", n_r2=4),
    )  # fmt: skip
    x = rng.integers(0, 256, (20, layer.k)) * (rng.random((20, layer.k)) < 0.5)
    x = np.full((20, layer.k), 255) if saturated else (x >> rng.integers(0, 8, (20, 1))).astype(np.int64)
    node = SimpleNamespace(layers=(layer,))
    sample = Sample((x.astype(np.uint8),))
    found = redy_search.score_node(node, sample, hardware, TABLE, settings=(setting,), skip_zero_slices=skip)  # type: ignore[arg-type]
    how = {"redy": setting, "skip_zero_slices": skip, "block_widths": layer.block_widths}
    sums, events = crossbar.matmul(x, layer.weights, hardware, layer.registers, **how)
    exact = x @ layer.weights
    error = sums - exact
    segments = layer.segments(hardware)
    assert found.streamed[0] == pytest.approx(events.input_bits_streamed / (20 * segments))
    assert found.shift[0] == pytest.approx(error.mean(axis=0))
    assert found.output_error[0] * (exact**2).sum() == pytest.approx((error**2).sum(), rel=1e-5)
    spread = ((error - error.mean(axis=0)) ** 2).sum()
    assert found.corrected_error[0] * (exact**2).sum() == pytest.approx(spread, rel=1e-5, abs=1e-3)
    per_event = {
        c.quantity: sum(d.energy_pj for d in TABLE.components if d.quantity == c.quantity) for c in TABLE.components
    }
    wanted = (
        events.ou_activations * hardware.ou_cells * per_event.get("cells", 0)
        + events.ou_activations * 2 * hardware.ou_rows * per_event.get("word_lines", 0)
        + events.ou_activations * per_event.get("ou_activations", 0)
        + events.conversions * per_event["conversions"]
        + events.ad_operations * per_event["ad_operations"]
        + events.input_bits_streamed * hardware.ou_rows * per_event["input_register_bits"]
    )
    assert found.energy[0] == pytest.approx(wanted / 20 * layer.windows)


@pytest.mark.parametrize("skip", [False, True])
def test_energy_of_lossless_skipping_is_that_of_the_cost_model(skip):
    graph, images = small_graph(3)
    samples = redy_search.collect(graph, images, windows_per_image=10**6)
    scores = redy_search.score_layers(graph, samples, table=TABLE, skip_zero_slices=skip)
    _, static = GraphRunner(graph).run(images)
    lossless = with_settings(graph, dynamic={n.name: LOSSLESS for n in graph.crossbars}, skip_zero_slices=skip)
    _, events = GraphRunner(lossless).run(images)
    saved = energy(Machine(graph, static), TABLE).total_pj - energy(Machine(lossless, events), TABLE).total_pj
    assert saved > 0
    assert sum(s.static - s.energy[0] for s in scores.values()) == pytest.approx(saved)


def test_first_candidate_is_lossless_and_no_candidate_comes_twice():
    graph, images = small_graph(1)
    for one in redy_search.score_layers(graph, redy_search.collect(graph, images)).values():
        assert one.settings[0] == LOSSLESS
        assert one.output_error[0] == 0
        assert not one.shift[0].any()
        assert len(set(one.settings)) == len(one.settings) > 5


def test_samples_are_windows_of_the_lossless_network_and_repeatable():
    graph, images = small_graph(2)
    dynamic = {node.name: DynamicPrecision(l_max=6, tau_sq=65535) for node in graph.crossbars}
    first = redy_search.collect(graph, images, windows_per_image=3)
    again = redy_search.collect(with_settings(graph, dynamic=dynamic), images, windows_per_image=3)
    for name, sample in first.items():
        layer = graph.node(name).layers[0]  # type: ignore[attr-defined]
        assert sample.rows[0].shape == (len(images) * min(3, layer.windows), layer.k)
        assert (sample.rows[0] == again[name].rows[0]).all()


# ---- machines -----------------------------------------------------------------------------------
@pytest.mark.parametrize("group", [1, 2, 14])
def test_dense_machine_counts_the_baselines_events(group):
    graph, images = small_graph(5, replace(PAPER, group_segments=group))
    dense = redy_search.with_planes(graph, 8)
    _, events = GraphRunner(dense).run(images)
    for one in events:
        assert one == baseline_events(dense, 8)


def test_too_few_planes_are_refused():
    graph, _ = small_graph(5)
    with pytest.raises(ValueError, match=r"layer .*: its weights need \d planes, not 1"):
        redy_search.with_planes(graph, 1)


@pytest.mark.parametrize(
    "dynamic", [LOSSLESS, DynamicPrecision(l_max=3, tau_sq=65535), DynamicPrecision(l_max=6, tau_sq=900)]
)
def test_arithmetic_twin_has_the_same_groups_and_logits(dynamic):
    hardware = replace(ISAAC, ou_rows=24, rows=48, adc_bits=5, group_segments=2)
    graph, images = small_graph(7, hardware)
    twin = redy_search.arithmetic_twin(hardware)
    assert twin.ou_rows < 13
    assert redy_search.group_rows(twin) == redy_search.group_rows(hardware) == 48
    names = [node.name for node in graph.crossbars]
    logits = [
        GraphRunner(with_settings(graph, hardware=h, dynamic=dict.fromkeys(names, dynamic))).run(images)[0]
        for h in (hardware, twin)
    ]
    assert (logits[0] == logits[1]).all()


def test_machines_of_few_rows_are_their_own_twins():
    assert redy_search.arithmetic_twin(PAPER) == PAPER
    assert redy_search.arithmetic_twin(replace(PAPER, group_segments=1)) == replace(PAPER, group_segments=1)
    assert redy_search.arithmetic_twin(ISAAC).ou_rows == 8


# ---- choices ------------------------------------------------------------------------------------
@given(seed=st.integers(0, 9999), price=st.sampled_from(PRICES))
def test_no_other_choice_has_less_error_and_less_energy(seed, price):
    scores = random_scores(seed, layers=2, count=6)
    weight = {name: 0.1 + index for index, name in enumerate(scores)}
    chosen = choose(scores, price, weight)
    error = sum(weight[n] * c.output_error for n, c in chosen.items())
    spent = sum(c.energy for c in chosen.values())
    first, second = scores.values()
    for i in range(6):
        for j in range(6):
            other = weight["layer0"] * first.output_error[i] + weight["layer1"] * second.output_error[j]
            less = first.energy[i] + second.energy[j]
            assert not (other < error - 1e-12 and less < spent - 1e-9)


def test_energy_falls_with_the_price_and_a_low_price_drops_nothing():
    scores = random_scores(0)
    spent = [sum(c.energy for c in choose(scores, price).values()) for price in PRICES]
    assert spent == sorted(spent, reverse=True)
    assert spent[-1] < spent[0]
    assert all(c.setting == LOSSLESS for c in choose(scores, 0).values())


def test_restricted_scores_keep_lossless_skipping():
    scores = random_scores(0)
    few = redy_search.restrict(scores, lambda s: s.tau_sq == 3)
    for name, one in few.items():
        assert [s.tau_sq for s in one.settings] == [0, 3]
        assert (one.energy == scores[name].energy[[0, 3]]).all()
        assert one.shift.shape == (2, 4)


def test_choice_survives_being_written_down():
    for one in choose(random_scores(4), 0.1).values():
        assert Chosen.from_dict(one.as_dict()) == one


def test_applied_biases_take_up_the_mean_error_of_rounding():
    graph, images = small_graph(11)
    samples = redy_search.collect(graph, images, windows_per_image=10**6)
    scores = redy_search.score_layers(graph, samples)
    settings = redy_search.lossless(scores)
    name = graph.output.name
    last = max(range(len(scores[name].settings)), key=lambda i: np.abs(scores[name].shift[i]).max())
    settings[name] = scores[name].take(last)
    exact, _ = GraphRunner(graph).run(images)
    errors = {
        correct: GraphRunner(redy_search.apply(graph, settings, correct=correct)).run(images)[0] - exact
        for correct in (True, False)
    }
    assert np.abs(errors[False].mean(axis=0)).max() > 1
    assert np.abs(errors[True].mean(axis=0)).max() <= 0.5
    assert errors[False].mean(axis=0) == pytest.approx(settings[name].shift, abs=1e-6)


# ---- check and search ---------------------------------------------------------------------------
class Fake:
    """A check whose error is the sum of the layers' errors, and accuracy falls with it."""

    def __init__(self, accuracy_at: float = np.inf) -> None:
        self.calls, self.accuracy_at = 0, accuracy_at

    def measure(self, settings, images=None):
        self.calls += 1
        error = sum(c.output_error for c in settings.values())
        return {"logit_error": error, "accuracy": 0.5 if error > self.accuracy_at else 1.0, "exact_accuracy": 1.0}


@given(seed=st.integers(0, 999), budget=st.floats(0, 2))
def test_search_takes_the_highest_price_within_the_budget(seed, budget):
    scores = random_scores(seed)
    even = dict.fromkeys(scores, 1.0)
    settings, price, made = redy_search.search(Fake().measure, scores, even, budget, 0.01)
    errors = [sum(c.output_error for c in choose(scores, p, even).values()) for p in PRICES]
    holding = [p for p, error in zip(PRICES, errors, strict=True) if error <= budget]
    assert price == (max(holding) if holding else None)
    if made is not None:
        assert made["logit_error"] == pytest.approx(sum(c.output_error for c in settings.values()))


def test_search_keeps_lossless_skipping_when_nothing_passes():
    scores = random_scores(1)
    everything = {n: replace(s, output_error=s.output_error + 1) for n, s in scores.items()}
    settings, price, made = redy_search.search(Fake().measure, everything, dict.fromkeys(scores, 1.0), 0.1, 0.01)  # type: ignore[arg-type]
    assert price is None
    assert made is None
    assert all(c.setting == LOSSLESS for c in settings.values())


def test_search_minds_accuracy_too():
    scores = random_scores(2)
    even = dict.fromkeys(scores, 1.0)
    free, _, _ = redy_search.search(Fake().measure, scores, even, 1.0, 0.01)  # type: ignore[arg-type]
    held, _, made = redy_search.search(Fake(accuracy_at=0.2).measure, scores, even, 1.0, 0.01)  # type: ignore[arg-type]
    assert made is not None
    assert made["accuracy"] == 1.0
    assert sum(c.energy for c in held.values()) > sum(c.energy for c in free.values())


@pytest.mark.parametrize("kind", redy_search.KINDS)
def test_kinds_of_search_choose_from_what_they_allow(kind):
    scores = random_scores(5)
    few = redy_search.allowed(redy_search.KINDS[kind], scores)
    for name, one in few.items():
        wanted = [s for s in scores[name].settings if s == LOSSLESS or redy_search.KINDS[kind].allowed(s)]
        assert list(one.settings) == wanted
        errors = scores[name].corrected_error if kind == "corrected" else scores[name].output_error
        kept = [scores[name].settings.index(s) for s in wanted]
        assert (one.output_error == errors[kept]).all()


def test_check_of_lossless_skipping_finds_no_error():
    graph, images = small_graph(4)
    labels = np.zeros(len(images), dtype=np.int64)
    check = Check.of(graph, images, labels, threads=1)
    scores = redy_search.score_layers(graph, redy_search.collect(graph, images))
    none = check.measure(redy_search.lossless(scores))
    assert none["logit_error"] == 0
    assert none["lost"] == 0
    assert none["accuracy"] == none["exact_accuracy"]
    assert check.measure(choose(scores, 10))["logit_error"] > 0
    found = check.sensitivities(redy_search.lossless(scores), scores, 4)
    assert list(found) == list(scores)
    assert all(value > 0 for value in found.values())
