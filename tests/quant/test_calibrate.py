import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.crossbar.windows import windows
from golden_model.engines.chain import Runner
from golden_model.engines.run_layer import run_layer
from golden_model.graph.layers import Network
from golden_model.trq import AdcRegisters, convert, levels, lossless, min_count
from quant import calibrate
from quant.calibrate import (
    FAMILIES,
    Scored,
    TrqOptions,
    best_lossless,
    best_lossy,
    calibrate_adc,
    calibrate_dynamic,
    candidates,
    histograms,
    score,
)
from quant.integer import AdcSetting, to_layers
from tests.quant.conftest import SMALL, random_network
from tests.strategies import legal_registers


def _counts(seed: int = 0, hardware: HardwareConfig = SMALL, top: int = 1000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (hardware.input_bits, hardware.weight_bits, hardware.ou_rows + 1)
    return rng.integers(0, top, shape) // (1 + np.arange(hardware.ou_rows + 1) ** 3)


# ---- histograms -----------------------------------------------------------------------------------
def test_histogram_equals_counting_one_conversion_after_another():
    """A slow scalar version over all windows, segments, input bits, planes, polarities, columns."""
    network, images = random_network(1)
    layer = to_layers(network)[0]
    found = histograms([layer], SMALL, images[:1])[0]
    rows = windows(layer, images[:1])[0]
    counts, zeros = np.zeros_like(found.counts), np.zeros_like(found.zero_slices)
    for window in rows:
        for segment in range(layer.segments(SMALL)):
            lines = slice(segment * SMALL.ou_rows, (segment + 1) * SMALL.ou_rows)
            q, w = window[lines].astype(int), layer.weights[lines]
            for i in range(8):
                bits = q >> i & 1
                for n in range(layer.outputs):
                    for b in range(layer.block_widths[segment, n // SMALL.ou_cols]):
                        for sign in (1, -1):
                            cells = np.where(sign * w[:, n] > 0, abs(w[:, n]) >> b & 1, 0)
                            counts[i, b, (bits * cells).sum()] += 1
                            zeros[i, b] += not bits.any()
    assert (found.counts == counts).all()
    assert (found.zero_slices == zeros).all()


@pytest.mark.parametrize("skip", [False, True])
def test_histograms_predict_the_golden_models_events_exactly(skip: bool):
    setting = AdcSetting(registers=AdcRegisters(mode="twin", n_r2=3, n_r1=1, bias=1))
    network, images = random_network(2, activation_bits=5)
    layers = to_layers(network, [setting] * 3, skip_zero_slices=skip)
    _, events = Runner(Network(name="test", hardware=SMALL, layers=layers)).run(images)
    for index, found in enumerate(histograms(layers, SMALL, images)):
        used = found.used(skip)
        operations, _ = score(setting, used, SMALL)
        total = events[:, index].sum()
        assert used.sum() == total.conversions
        assert round(operations * used.sum()) == total.ad_operations


def test_many_rows_are_counted_slice_by_slice_with_the_same_result(monkeypatch: pytest.MonkeyPatch):
    network, images = random_network(3)
    layers = to_layers(network)
    by_pattern = histograms(layers, SMALL, images)
    monkeypatch.setattr(calibrate, "_PATTERN_ROWS", 0)
    monkeypatch.setattr(calibrate, "_CHUNK", 37)
    for a, b in zip(by_pattern, histograms(layers, SMALL, images), strict=True):
        assert (a.counts == b.counts).all()
        assert (a.zero_slices == b.zero_slices).all()


# ---- scores and candidates --------------------------------------------------------------------------
@given(
    seed=st.integers(0, 99), scale=st.sampled_from([0.25, 0.5, 1.0, 1.3, 2.0]), data=st.data(), weighted=st.booleans()
)
def test_score_equals_converting_every_count(seed: int, scale: float, data, weighted: bool):
    registers = data.draw(st.sampled_from(list(legal_registers(SMALL.adc_bits))))
    setting = AdcSetting(registers=registers, counts_per_lsb=scale)
    counts = _counts(seed)
    level = levels(SMALL.adc_bits, SMALL.ou_rows, min_count(SMALL.adc_bits, scale))
    operations = error = weights = 0.0
    for (i, b, c), often in np.ndenumerate(counts):
        result = convert(level[c], SMALL.adc_bits, registers)
        value = int(result.value) * scale * 2 ** (SMALL.adc_bits - registers.n_r2 - registers.m)
        weight = 4.0 ** (i + b) if weighted else 1.0
        operations += often * int(result.operations)
        error += weight * often * (value - c) ** 2
        weights += weight * often
    found = score(setting, counts, SMALL, weighted)
    assert found == pytest.approx((operations / counts.sum(), error / weights))


@pytest.mark.parametrize("grid", ["aligned", "continuous"])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_every_candidate_is_legal_and_keeps_the_limit(limit: int, grid):
    found = list(candidates(SMALL, limit, 5, grid))
    assert {family for family, _ in found} <= set(FAMILIES)
    for family, setting in found:
        r = setting.registers
        r.check(SMALL.adc_bits)
        assert max(r.n_r1, r.n_r2) <= limit
        assert (family == "uniform") == (r.mode == "uniform")
        if family in ("ideal", "normal"):
            assert setting.counts_per_unit(SMALL.adc_bits) == 1
            assert (r.bias > 0) == (family == "normal")
        if family == "general":
            assert r.n_r1 == r.n_r2


def test_aligned_grids_are_powers_of_two_and_continuous_ones_are_not():
    aligned = {s.counts_per_lsb for _, s in candidates(SMALL, 3, 5, "aligned")}
    continuous = {s.counts_per_lsb for f, s in candidates(SMALL, 3, 5, "continuous") if f == "uniform"}
    assert all(np.log2(scale) % 1 == 0 for scale in aligned)
    assert len(continuous) == 50
    assert min(continuous) == pytest.approx(0.1 * 5 / 8)
    assert max(continuous) == pytest.approx(1.2 * 5 / 8)


@pytest.mark.parametrize("adc_bits", [3, 4])
def test_best_lossless_is_the_best_of_all_legal_lossless_registers(adc_bits: int):
    hardware = dataclasses.replace(SMALL, adc_bits=adc_bits)
    for seed in range(5):
        counts = _counts(seed, hardware)
        best = best_lossless(counts, hardware)
        assert best.setting.lossless(hardware)
        assert best.error == 0
        for registers in legal_registers(adc_bits):
            for scale in (0.25, 0.5, 1.0, 2.0):
                if lossless(registers, hardware, min_count(adc_bits, scale)):
                    setting = AdcSetting(registers=registers, counts_per_lsb=scale)
                    assert score(setting, counts, hardware)[0] >= best.operations


def test_mostly_zero_counts_get_the_one_operation_window():
    counts = np.zeros((8, 4, 6), dtype=np.int64)
    counts[..., 0], counts[..., 1] = 90, 10
    best = best_lossless(counts, SMALL)
    assert best.setting.registers == AdcRegisters(mode="twin", n_r2=3, n_r1=0)
    assert best.operations == pytest.approx(1 + 0.1 * 3)


def test_evenly_spread_counts_keep_the_uniform_converter():
    best = best_lossless(np.full((8, 4, 6), 7), SMALL)
    assert best.setting.registers.mode == "uniform"


def test_converter_without_a_lossless_setting_is_refused():
    with pytest.raises(ValueError, match="no lossless setting exists: 5 rows need adc_bits = 3, got 2"):
        best_lossless(_counts(), dataclasses.replace(SMALL, adc_bits=2))


@given(seed=st.integers(0, 50), limit=st.integers(1, 3), bound=st.sampled_from([0.0, 0.01, 0.1, 0.5]))
def test_best_lossy_is_the_cheapest_candidate_within_the_bound(seed: int, limit: int, bound: float):
    counts = _counts(seed)
    best = best_lossy(counts, SMALL, limit, bound=bound, grid="aligned")
    signal = float((counts.sum((0, 1)) * np.arange(6) ** 2).sum() / counts.sum())
    scored = [score(s, counts, SMALL) for _, s in candidates(SMALL, limit, 5, "aligned")]
    allowed = [(o, e) for o, e in scored if e <= bound * signal]
    assert (best is None) == (not allowed)
    if best is not None:
        assert (best.operations, best.error) == min(allowed)


# ---- Algorithm 1 ------------------------------------------------------------------------------------
def _calibrate(monkeypatch: pytest.MonkeyPatch, accuracy) -> tuple[list[Scored], list[Scored]]:
    """(lossless start, result) with a faked end-to-end accuracy: a function of the layers' registers."""
    network, images = random_network(5)
    monkeypatch.setattr(calibrate, "measure", lambda layers, *rest: accuracy([layer.registers for layer in layers]))
    found = histograms(to_layers(network), SMALL, images)
    labels = np.zeros(len(images), dtype=np.int64)
    start = calibrate_adc(network, found, TrqOptions(lossless=True), images, labels)
    options = TrqOptions(lossless=False, bound=0.5, tolerance=0.01)
    return start, calibrate_adc(network, found, options, images, labels)


def test_descent_takes_cheaper_converters_while_accuracy_holds(monkeypatch: pytest.MonkeyPatch):
    start, result = _calibrate(monkeypatch, lambda registers: 1.0)
    assert all(new.operations <= old.operations for old, new in zip(start, result, strict=True))
    assert any(new.operations < old.operations for old, new in zip(start, result, strict=True))


def test_failed_descent_restores_the_last_accepted_setting(monkeypatch: pytest.MonkeyPatch):
    """The printed algorithm would keep the failing one."""
    start, result = _calibrate(monkeypatch, lambda registers: 1.0 if all(r.n_r2 == 3 for r in registers) else 0.5)
    assert [s.setting for s in result] == [s.setting for s in start]


def test_only_the_layers_that_keep_accuracy_descend(monkeypatch: pytest.MonkeyPatch):
    start, result = _calibrate(monkeypatch, lambda registers: 1.0 if registers[0].n_r2 == 3 else 0.5)
    assert result[0].setting == start[0].setting
    assert any(s.setting.registers.n_r2 < 3 for s in result[1:])


def test_lossy_settings_are_measured_in_the_golden_model():
    network, images = random_network(6)
    setting = AdcSetting(registers=AdcRegisters(mode="twin", n_r2=1, n_r1=1, m=1))
    layers = to_layers(network, [setting] * 3)
    expected, _ = Runner(Network(name="test", hardware=SMALL, layers=layers)).run(images)
    assert (calibrate.logits_of(layers, SMALL, images) == expected).all()


# ---- dynamic precision --------------------------------------------------------------------------------
def _tau(layer) -> float:
    return (layer.dynamic.tau_sq / 4096) ** 0.5


def test_tau_is_the_largest_candidate_that_loses_no_more_images_than_tolerated(monkeypatch: pytest.MonkeyPatch):
    network, images = random_network(7)
    limit = {"first": 0.5, "second": 0.0, "head": 9.0}

    def right(layers, *rest):
        return np.arange(6) < (6 if all(_tau(layer) <= limit[layer.name] + 1e-3 for layer in layers) else 4)

    monkeypatch.setattr(calibrate, "right_images", right)
    found = calibrate_dynamic(to_layers(network), SMALL, images, np.zeros(6), tolerance=0.2, l_max=3)
    assert found[0] == DynamicPrecision(l_max=3, tau_sq=1024)
    assert found[1] == DynamicPrecision()
    assert found[2].tau_sq == round(max(calibrate.TAU_CANDIDATES) ** 2 * 4096)


def test_images_that_turn_right_do_not_pay_for_lost_ones(monkeypatch: pytest.MonkeyPatch):
    network, images = random_network(7)

    def right(layers, *rest):
        return np.arange(6) < 3 if all(_tau(layer) == 0 for layer in layers) else np.arange(6) > 1

    monkeypatch.setattr(calibrate, "right_images", right)
    found = calibrate_dynamic(to_layers(network), SMALL, images, np.zeros(6), tolerance=0.2, l_max=3)
    assert found == [DynamicPrecision()] * 3


def test_without_lossy_dropping_nothing_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibrate, "right_images", lambda *a: pytest.fail("measured"))
    network, images = random_network(7)
    found = calibrate_dynamic(to_layers(network), SMALL, images, np.zeros(6), tolerance=0.0, l_max=0)
    assert found == [DynamicPrecision()] * 3


def test_layer_runs_the_same_in_both_engines():
    network, images = random_network(8)
    layer = to_layers(network, None, [DynamicPrecision(l_max=4, tau_sq=4096)] * 3)[0]
    assert (calibrate._run(layer, SMALL, images, chunk=4) == run_layer(layer, SMALL, images)[0]).all()
