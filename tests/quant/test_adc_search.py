"""Search of A/D settings: scores against the golden model, choices against trying everything."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import layer as crossbar
from golden_model.config import ISAAC, PAPER, HardwareConfig
from golden_model.crossbar.windows import windows
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.layers import from_network
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from golden_model.searches.histograms import LayerCounts, graph_counts
from golden_model.trq import AdcRegisters, levels, min_count
from quant import calibrate
from quant.search import adc as adc_search
from quant.search.adc import Chosen, Scores, Step, choose, choose_within, mean_operations, most_accurate, score_layer
from tests.strategies import make_images, make_network

SMALL = HardwareConfig(rows=12, cols=8, ou_rows=5, ou_cols=3, adc_bits=3, weight_bits=4)


def random_counts(seed: int, hardware: HardwareConfig, top: int = 1000) -> LayerCounts:
    """Counts that fall with their size, and the linear form of 40 sums."""
    rng = np.random.default_rng(seed)
    size = hardware.ou_rows + 1
    fall = 0.5 ** np.arange(size)
    counts = (rng.integers(0, top, (hardware.input_bits, hardware.weight_bits, size)) * fall).astype(np.int64)
    sums = rng.normal(0, 50, (40, size)) * fall
    zeros = counts[..., 0] // 2
    power = float(((sums @ np.arange(size)) ** 2).sum())
    return LayerCounts(counts, zeros, sums.T @ sums, sums.sum(axis=0), 40, power)


def scores(seed: int = 0, layers: int = 3, limit: int = 2, **how) -> dict[str, Scores]:
    return {f"layer{i}": score_layer(random_counts(seed + i, SMALL), SMALL, limit, **how) for i in range(layers)}


def small_graph(seed: int) -> tuple[Graph, np.ndarray]:
    """A network with lossless uniform converters and no dynamic precision, and images."""
    network = make_network(seed, SMALL)
    made = from_network(network)
    names = [node.name for node in made.crossbars]
    uniform = dict.fromkeys(names, AdcRegisters(mode="uniform", n_r2=3))
    made = with_settings(made, registers=uniform, dynamic=dict.fromkeys(names), skip_zero_slices=False)
    return made, make_images(seed, network, 6)


# ---- candidates ---------------------------------------------------------------------------------
@given(bits=st.integers(1, 8), rows=st.integers(1, 128), seed=st.integers(0, 999))
def test_level_tables_equal_the_golden_models(bits, rows, seed):
    lambdas = np.random.default_rng(seed).uniform(0.01, 2, 5).astype(np.float32).astype(np.float64)
    lambdas = np.append(lambdas, [0.25, 0.5, 1.0])
    found = adc_search.level_tables(bits, rows + 1, lambdas)
    for row, scale in zip(found, lambdas, strict=True):
        assert (row == levels(bits, rows, min_count(bits, float(scale)))).all()


@pytest.mark.parametrize("hardware", [PAPER, ISAAC], ids=["9 rows", "128 rows"])
@pytest.mark.parametrize("limit", [1, 3, 8])
def test_every_candidate_is_legal_and_keeps_the_limit(hardware, limit):
    found = adc_search.shapes(hardware.adc_bits, limit, adc_search.FAMILIES, 20)
    assert len(set(zip(found.family, found.registers, strict=True))) == len(found.registers)
    for family, registers, searched in zip(found.family, found.registers, found.searched, strict=True):
        registers.check(hardware.adc_bits)
        assert max(registers.n_r1, registers.n_r2) <= limit
        assert (registers.mode == "uniform") == (family == "uniform")
        assert (registers.bias > 0) == (family == "normal")
        assert searched == (family in ("general", "free", "uniform"))
        if family == "general":
            assert registers.n_r1 == registers.n_r2


def test_continuous_grid_is_the_papers_range_in_50_steps_and_exact_in_few_digits():
    found = adc_search.scales(ISAAC, 40, "continuous")[len(adc_search.scales(ISAAC, 40, "aligned")) :]
    assert len(found) == 50
    assert np.allclose(found * 256, 40 * np.linspace(0.1, 1.2, 50))
    assert (found == found.astype(np.float32)).all()


# ---- scores -------------------------------------------------------------------------------------
@given(seed=st.integers(0, 99), weighted=st.booleans(), skip=st.booleans(), pick=st.integers(0, 10**6))
def test_scores_equal_converting_every_count(seed, weighted, skip, pick):
    counts = random_counts(seed, SMALL)
    found = score_layer(counts, SMALL, 3, weighted=weighted, skip_zero_slices=skip)
    candidate = pick % len(found.shape)
    operations, error = calibrate.score(found.setting(candidate), counts.used(skip), SMALL, weighted)
    assert found.operations[candidate] == pytest.approx(operations, abs=1e-12)
    assert found.error[candidate] == pytest.approx(error, abs=1e-9)


@given(seed=st.integers(0, 20), pick=st.integers(0, 10**6))
@settings(max_examples=20)
def test_scores_predict_operations_and_errors_of_the_golden_model(seed, pick):
    made, images = small_graph(seed)
    first = made.crossbars[0]
    counts = graph_counts(made, images, gram_windows=10**6)[first.name]
    found = score_layer(counts, SMALL, 3)
    chosen = adc_search._take(found, pick % len(found.shape))
    changed = adc_search.apply(made, {first.name: chosen})
    _, events = GraphRunner(changed).run(images)
    mine = events[:, 0].sum()
    assert mine.ad_operations == pytest.approx(chosen.operations * mine.conversions)
    layer = changed.crossbars[0].layers[0]
    rows = windows(layer, images).reshape(-1, layer.k)
    sums, _ = crossbar.matmul(rows, layer.weights, SMALL, layer.registers, min_count=layer.min_count)
    exact = rows.astype(np.int64) @ layer.weights
    error = sums * chosen.setting.counts_per_unit(SMALL.adc_bits) - exact
    signal = max((exact.astype(float) ** 2).sum(), 1e-300)
    assert chosen.output_error == pytest.approx((error**2).sum() / signal, abs=1e-12)


def test_layer_without_conversions_scores_nothing():
    size = SMALL.ou_rows + 1
    empty = LayerCounts(
        np.zeros((8, 4, size), dtype=np.int64), np.zeros((8, 4), dtype=np.int64), np.zeros((size,) * 2),
        np.zeros(size), 0, 0.0,
    )  # fmt: skip
    found = score_layer(empty, SMALL, 2)
    assert np.isfinite(found.operations).all()
    assert (found.error == 0).all()
    assert (found.output_error == 0).all()


# ---- choices ------------------------------------------------------------------------------------
def test_most_accurate_has_the_least_error_and_then_the_fewest_operations():
    for one, chosen in zip((found := scores(limit=3)).values(), most_accurate(found).values(), strict=True):
        best = one.output_error.min()
        assert chosen.output_error == best
        assert chosen.operations == one.operations[one.output_error == best].min()


def test_uniform_converter_of_given_bits_searches_its_range():
    found = scores(limit=2, families=("uniform",))
    for one, chosen in zip(found.values(), most_accurate(found, n_r2=2).values(), strict=True):
        assert chosen.setting.registers == AdcRegisters(mode="uniform", n_r2=2)
        two = np.array([r.n_r2 == 2 for r in one.shapes.registers])[one.shape]
        assert chosen.output_error == one.output_error[two].min()


@pytest.mark.parametrize("price", [1e-4, 1e-2, 1.0])
def test_choice_is_the_best_of_all_combinations_at_its_price(price):
    found = scores(layers=2, limit=1, grid="aligned", families=("ideal", "uniform"))
    weights = {"layer0": 0.5, "layer1": 3.0}
    conversions = sum(one.conversions for one in found.values())

    def total(combination):
        return sum(
            weights[name] * one.output_error[c] + price * one.operations[c] * one.conversions / conversions
            for c, (name, one) in zip(combination, found.items(), strict=True)
        )

    least = min(map(total, product(*(range(len(one.shape)) for one in found.values()))))
    chosen = choose(found, price, weights)
    spent = sum(weights[name] * c.output_error for name, c in chosen.items()) + price * mean_operations(chosen)
    assert spent == pytest.approx(least)


def test_higher_prices_never_buy_more_operations():
    found = scores(limit=3)
    spent = [mean_operations(choose(found, price)) for price in (0, 1e-4, 1e-2, 1, 100)]
    assert spent == sorted(spent, reverse=True)
    assert spent[-1] == pytest.approx(
        sum(one.operations.min() * one.conversions for one in found.values())
        / sum(one.conversions for one in found.values())
    )


@given(bound=st.floats(0, 0.5), seed=st.integers(0, 20))
@settings(max_examples=20)
def test_choice_within_a_bound_is_the_cheapest_legal_one(bound, seed):
    found = scores(seed, layers=2)
    for one, chosen in zip(found.values(), choose_within(found, bound).values(), strict=True):
        legal = one.error <= bound * one.signal
        if legal.any():
            assert chosen.operations == one.operations[legal].min()
            assert chosen.error <= bound * one.signal
        else:
            assert chosen.error == one.error.min()


def test_error_falls_with_the_budget_and_is_reached_within_it():
    found = scores(limit=3)
    errors = adc_search.error_for(found, (0.5, 1.5, 2, 3, 9))
    assert errors[0] is None
    rest = [e for e in errors if e is not None]
    assert rest == sorted(rest, reverse=True)
    assert rest[-1] == pytest.approx(np.mean([one.output_error.min() for one in found.values()]), rel=1e-3)


def test_settings_survive_json():
    for chosen in most_accurate(scores()).values():
        assert Chosen.from_dict(chosen.as_dict()) == chosen


# ---- search -------------------------------------------------------------------------------------
@pytest.mark.parametrize("least", [0, 1, 5, 36, 72, 99])
def test_bisection_finds_the_highest_price_that_holds(least):
    found = scores()
    tried = []

    def holds(chosen):
        tried.append(chosen)
        return any(chosen == choose(found, price) for price in adc_search.PRICES[:least])

    chosen, price, checks = adc_search.cheapest(found, holds)
    assert checks == len(tried) <= 7
    if least == 0:
        assert chosen is None
        assert price is None
    else:
        assert price is not None
        assert chosen == choose(found, price)
        assert price >= adc_search.PRICES[min(least, len(adc_search.PRICES)) - 1]


def test_failed_step_leaves_the_last_accepted_settings():
    start = most_accurate(scores(limit=3))
    by_limit = {limit: scores(limit=limit) for limit in (3, 2, 1)}

    def holds(chosen):
        return all(c.setting.registers.n_r2 >= 2 or c.setting.registers.n_r1 >= 2 for c in chosen.values())

    accepted, steps = adc_search.descend(by_limit.__getitem__, (3, 2, 1), holds, start)
    assert [s.limit for s in steps] == [3, 2, 1]
    assert steps[-1].accepted is None
    assert accepted in (steps[0].accepted, steps[1].accepted)
    assert holds(accepted)


def test_step_that_costs_more_is_not_taken():
    start = {"layer0": Chosen("ideal", adc_search._take(scores()["layer0"], 0).setting, 0.5, 0.0, 0.0, 10)}
    accepted, steps = adc_search.descend(lambda limit: scores(layers=1), (2,), lambda chosen: True, start)
    assert steps[0].accepted is not None
    assert accepted == start


def test_finished_steps_are_not_searched_again():
    start = most_accurate(scores(limit=3))
    saved: dict[int, Step] = {}
    first, _ = adc_search.descend(
        lambda limit: scores(limit=limit), (3, 2), lambda chosen: True, start, done=lambda s: saved.update({s.limit: s})
    )
    assert list(saved) == [3, 2]

    def fail(chosen):
        raise AssertionError("checked again")

    again, _ = adc_search.descend(lambda limit: scores(limit=limit), (3, 2), fail, start, known=saved)
    assert again == first
