"""Search of A/D settings: scores against the golden model, choices against trying everything."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import layer as crossbar
from golden_model.config import ISAAC, PAPER, HardwareConfig
from golden_model.crossbar.windows import windows
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from golden_model.searches.histograms import LayerCounts, graph_counts
from golden_model.trq import AdcRegisters, convert, levels, min_count
from quant.search import adc as adc_search
from quant.search.adc import (
    AdcSetting,
    Chosen,
    Scores,
    choose,
    mean_operations,
    most_accurate,
    score_layer,
)
from quant.search.price import PRICES
from tests.strategies import legal_registers, make_images, make_network

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
    return LayerCounts(counts, zeros, sums.T @ sums, power)


def scores(seed: int = 0, layers: int = 3, limit: int = 2, **how) -> dict[str, Scores]:
    return {f"layer{i}": score_layer(random_counts(seed + i, SMALL), SMALL, limit, **how) for i in range(layers)}


def small_graph(seed: int) -> tuple[Graph, np.ndarray]:
    """A network with lossless uniform converters and no dynamic precision, and images."""
    made = make_network(seed, SMALL)
    names = [node.name for node in made.crossbars]
    uniform = dict.fromkeys(names, AdcRegisters(mode="uniform", n_r2=3))
    made = with_settings(made, registers=uniform, dynamic=dict.fromkeys(names), skip_zero_slices=False)
    return made, make_images(seed, made, 6)


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
@given(seed=st.integers(0, 99), skip=st.booleans(), pick=st.integers(0, 10**6))
def test_scores_equal_converting_every_count(seed, skip, pick):
    counts = random_counts(seed, SMALL)
    found = score_layer(counts, SMALL, 3, skip_zero_slices=skip)
    candidate = pick % len(found.shape)
    operations, error = slow_score(found.setting(candidate), counts.used(skip))
    assert found.operations[candidate] == pytest.approx(operations, abs=1e-12)
    assert found.error[candidate] == pytest.approx(error, abs=1e-9)


def slow_score(setting, counts: np.ndarray) -> tuple[float, float]:
    """Operations and squared error, one count after another."""
    registers, scale = setting.registers, setting.counts_per_lsb
    level = levels(SMALL.adc_bits, SMALL.ou_rows, min_count(SMALL.adc_bits, scale))
    operations = error = 0.0
    for (_, _, c), often in np.ndenumerate(counts):
        result = convert(level[c], SMALL.adc_bits, registers)
        value = int(result.value) * scale * 2 ** (SMALL.adc_bits - registers.n_r2 - registers.m)
        operations += often * int(result.operations)
        error += often * (value - c) ** 2
    return operations / counts.sum(), error / counts.sum()


@pytest.mark.parametrize("scale", [0.25, 1.0, 1.3])
def test_one_setting_is_scored_as_converting_every_count(scale):
    counts = np.random.default_rng(3).integers(0, 90, (SMALL.input_bits, SMALL.weight_bits, SMALL.ou_rows + 1))
    for registers in list(legal_registers(SMALL.adc_bits))[::7]:
        setting = AdcSetting(registers=registers, counts_per_lsb=scale)
        assert adc_search.score_setting(setting, counts, SMALL) == pytest.approx(slow_score(setting, counts))


def some_counts(seed: int, hardware: HardwareConfig) -> LayerCounts:
    """Counts that fall off, and no sums."""
    size = hardware.ou_rows + 1
    shape = (hardware.input_bits, hardware.weight_bits, size)
    counts = np.random.default_rng(seed).integers(0, 1000, shape) // (1 + np.arange(size) ** 3)
    return LayerCounts(counts, np.zeros(shape[:2], dtype=np.int64), np.zeros((size, size)), 1.0)


@pytest.mark.parametrize("adc_bits", [3, 4])
def test_the_cheapest_lossless_setting_is_the_best_of_all_legal_registers(adc_bits):
    hardware = replace(SMALL, adc_bits=adc_bits)
    for seed in range(3):
        counts = some_counts(seed, hardware)
        scores = {"a": score_layer(counts, hardware, adc_bits, grid="aligned")}
        best = adc_search.cheapest_lossless(scores)["a"]
        assert best.setting.lossless(hardware)
        for registers in legal_registers(adc_bits):
            for scale in (0.25, 0.5, 1.0, 2.0):
                setting = AdcSetting(registers=registers, counts_per_lsb=scale)
                if setting.lossless(hardware):
                    operations, _ = adc_search.score_setting(setting, counts.counts, hardware)
                    assert operations >= best.operations - 1e-12


def test_a_setting_that_is_exact_only_on_the_counts_that_occur_is_not_lossless():
    """All counts 0 or 1: one decision would tell them apart, but another picture may hold a 5."""
    counts = some_counts(0, SMALL)
    counts.counts[..., 2:] = 0
    best = adc_search.cheapest_lossless({"a": score_layer(counts, SMALL, SMALL.adc_bits, grid="aligned")})["a"]
    assert best.setting.lossless(SMALL)
    assert best.setting.registers.n_r2 == 3


def test_evenly_spread_counts_keep_the_uniform_converter():
    counts = some_counts(0, SMALL)
    counts.counts[:] = 7
    best = adc_search.cheapest_lossless({"a": score_layer(counts, SMALL, SMALL.adc_bits, grid="aligned")})["a"]
    assert best.setting.registers.mode == "uniform"


def test_a_converter_without_a_lossless_setting_is_refused():
    narrow = replace(SMALL, adc_bits=1)
    with pytest.raises(ValueError, match=r"no lossless setting exists: \d+ rows need adc_bits = \d, got 1"):
        adc_search.cheapest_lossless({"a": score_layer(some_counts(0, narrow), narrow, 1, grid="aligned")})


@given(seed=st.integers(0, 20), pick=st.integers(0, 10**6))
@settings(max_examples=20)
def test_scores_predict_operations_and_errors_of_the_golden_model(seed, pick):
    made, images = small_graph(seed)
    first = made.crossbars[0]
    counts = graph_counts(made, images, gram_windows=10**6)[first.name]
    found = score_layer(counts, SMALL, 3)
    chosen = found.take(pick % len(found.shape))
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
    counts, zeros = np.zeros((8, 4, size), dtype=np.int64), np.zeros((8, 4), dtype=np.int64)
    empty = LayerCounts(counts, zeros, np.zeros((size, size)), 0.0)
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
        return any(chosen == choose(found, price) for price in PRICES[:least])

    best = adc_search.cheapest(found, holds)
    chosen, price = best.settings, best.price
    assert best.checks == len(tried) <= 7
    if least == 0:
        assert chosen is None
        assert price is None
    else:
        assert price is not None
        assert chosen == choose(found, price)
        assert price >= PRICES[min(least, len(PRICES)) - 1]


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
    start = {"layer0": Chosen("ideal", scores()["layer0"].take(0).setting, 0.5, 0.0, 0.0, 10)}
    accepted, steps = adc_search.descend(lambda limit: scores(layers=1), (2,), lambda chosen: True, start)
    assert steps[0].accepted is not None
    assert accepted == start
