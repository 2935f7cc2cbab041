"""Counts of a layer: against counting one conversion after another, and against the golden model's sums and events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import layer
from golden_model.config import ISAAC, HardwareConfig
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.crossbar.windows import windows
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from golden_model.searches import counting
from golden_model.searches.histograms import graph_counts, layer_counts
from golden_model.trq import convert_counts
from tests.strategies import adc_registers, make_images, make_layer, make_network

MANY = HardwareConfig(rows=70, cols=8, ou_rows=70, ou_cols=3, adc_bits=7, weight_bits=4)
FEW = HardwareConfig(rows=12, cols=8, ou_rows=5, ou_cols=3, adc_bits=3, weight_bits=4)
engines = pytest.mark.parametrize("compiled", [False, True])


@pytest.fixture
def engine(compiled: bool, monkeypatch: pytest.MonkeyPatch):
    """Loops of NumPy or of numba."""
    if compiled:
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(counting, "numba_installed", lambda: False)


def one_by_one(found, hardware, activations):
    """(counts, zero_slices, sums w (windows, N, counts)) of a layer, conversion by conversion."""
    rows = windows(found, activations).reshape(-1, found.k)
    counts = np.zeros((hardware.input_bits, hardware.weight_bits, hardware.ou_rows + 1), dtype=np.int64)
    zeros = np.zeros(counts.shape[:2], dtype=np.int64)
    sums = np.zeros((len(rows), found.outputs, hardware.ou_rows + 1))
    for p, q in enumerate(rows.astype(int)):
        for first in range(0, found.k, hardware.ou_rows):
            inside = slice(first, min(first + hardware.ou_rows, found.k))
            for n in range(found.outputs):
                planes = found.block_widths[first // hardware.ou_rows, n // hardware.ou_cols]
                w = found.weights[inside, n].astype(int)
                for i in range(found.input_bits):
                    slice_ = (q[inside] >> i) & 1
                    for b in range(planes):
                        for sign in (1, -1):
                            count = int((slice_ * ((np.maximum(sign * w, 0) >> b) & 1)).sum())
                            counts[i, b, count] += 1
                            zeros[i, b] += not slice_.any()
                            sums[p, n, count] += sign * 2 ** (i + b)
    return counts, zeros, sums


def check(found, hardware, activations):
    made = layer_counts(found, hardware, activations, gram_windows=10**6)
    counts, zeros, sums = one_by_one(found, hardware, activations)
    flat = sums.reshape(-1, sums.shape[-1])
    assert (made.counts == counts).all()
    assert (made.zero_slices == zeros).all()
    assert (made.used(False) == counts).all()
    counts[..., 0] -= zeros
    assert (made.used(True) == counts).all()
    assert (made.gram == flat.T @ flat).all()
    count = np.arange(hardware.ou_rows + 1)
    assert made.power == count @ made.gram @ count


@engines
@pytest.mark.parametrize("hardware", [FEW, MANY], ids=["5 rows", "70 rows"])
def test_counts_equal_counting_one_conversion_after_another(engine, hardware):
    rng = np.random.default_rng(1)
    found = make_layer(rng, hardware, channels=9, height=4, width=3, kernel_height=3, kernel_width=3, outputs=5)
    activations = rng.integers(0, 256, (2, 9, 4, 3)).astype(np.uint8)
    activations[0, :, :3] = 0
    check(found, hardware, activations)


@engines
@pytest.mark.parametrize("rows", [9, 64, 65, 128])
def test_saturated_data_reach_the_largest_count(engine, rows):
    hardware = replace(ISAAC, ou_rows=rows)
    rng = np.random.default_rng(2)
    found = make_layer(rng, hardware, channels=rows + 1, height=1, width=1, kernel_height=1, kernel_width=1, outputs=2)
    found = replace(found, weights=np.full_like(found.weights, 255), block_widths=np.full_like(found.block_widths, 8))
    activations = np.full((1, rows + 1, 1, 1), 255, dtype=np.uint8)
    made = layer_counts(found, hardware, activations)
    assert made.counts[..., rows].sum() == made.counts[..., 1].sum() == 8 * 8 * 2
    assert made.conversions == 2 * 8 * 8 * 2 * 2
    check(found, hardware, activations)


@given(seed=st.integers(0, 99), data=st.data(), skip=st.booleans())
@settings(max_examples=20)
def test_operations_of_any_setting_follow_from_the_counts(seed, data, skip):
    rng = np.random.default_rng(seed)
    found = make_layer(rng, FEW, channels=4, height=4, width=4, kernel_height=3, kernel_width=3, outputs=4)
    activations = rng.integers(0, 4, (2, 4, 4, 4)).astype(np.uint8)
    registers = data.draw(adc_registers(FEW.adc_bits))
    used = layer_counts(found, FEW, activations).used(skip).sum(axis=(0, 1))
    table = convert_counts(FEW.adc_bits, FEW.ou_rows, registers)
    _, events = layer.matmul(
        windows(found, activations).reshape(-1, found.k), found.weights, FEW, registers,
        block_widths=found.block_widths, skip_zero_slices=skip, activation_bits=found.input_bits,
    )  # fmt: skip
    assert used @ table.operations == events.ad_operations
    assert used @ (table.range_flag == 0) == events.conversions_r1


@given(seed=st.integers(0, 99), data=st.data())
@settings(max_examples=20)
def test_squared_error_of_the_sums_under_any_setting_follows_from_the_gram_matrix(seed, data):
    rng = np.random.default_rng(seed)
    found = make_layer(rng, FEW, channels=4, height=4, width=4, kernel_height=3, kernel_width=3, outputs=4)
    activations = rng.integers(0, 256, (2, 4, 4, 4)).astype(np.uint8)
    registers = data.draw(adc_registers(FEW.adc_bits))
    rows = windows(found, activations).reshape(-1, found.k)
    sums, _ = layer.matmul(rows, found.weights, FEW, registers, block_widths=found.block_widths)
    error = convert_counts(FEW.adc_bits, FEW.ou_rows, registers).value - np.arange(FEW.ou_rows + 1)
    gram = layer_counts(found, FEW, activations, gram_windows=10**6).gram
    exact = rows.astype(np.int64) @ found.weights
    assert error @ gram @ error == ((sums - exact) ** 2).sum()


def test_only_some_windows_go_into_the_gram_matrix_but_all_into_the_counts():
    rng = np.random.default_rng(3)
    found = make_layer(rng, FEW, channels=2, height=6, width=6, kernel_height=3, kernel_width=3, outputs=3)
    activations = rng.integers(0, 256, (3, 2, 6, 6)).astype(np.uint8)
    few, all_ = (layer_counts(found, FEW, activations, gram_windows=n) for n in (7, 10**6))
    assert (few.counts == all_.counts).all()
    assert 0 < few.power < all_.power


def static(seed: int) -> tuple[Graph, np.ndarray]:
    """A small network without dynamic precision, and images."""
    made = make_network(seed, FEW)
    return with_settings(made, dynamic={node.name: None for node in made.crossbars}), make_images(seed, made, 5)


def test_counts_of_a_network_predict_its_events():
    made, images = static(4)
    found = graph_counts(made, images)
    _, events = GraphRunner(made).run(images)
    assert list(found) == [node.name for node in made.crossbars]
    for index, node in enumerate(made.crossbars):
        first = node.layers[0]
        table = convert_counts(FEW.adc_bits, FEW.ou_rows, first.registers, first.min_count)
        used = found[node.name].used(first.skip_zero_slices).sum(axis=(0, 1))
        assert used @ table.operations == events[:, index].sum().ad_operations


def test_dynamic_precision_is_refused():
    made, images = static(5)
    other = with_settings(made, dynamic={made.crossbars[1].name: DynamicPrecision()})
    with pytest.raises(ValueError, match="without dynamic precision"):
        graph_counts(other, images)


def test_pattern_histograms_and_population_counts_agree(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(6)
    found = make_layer(rng, FEW, channels=7, height=5, width=5, kernel_height=3, kernel_width=3, outputs=6)
    activations = rng.integers(0, 256, (2, 7, 5, 5)).astype(np.uint8)
    by_patterns = layer_counts(found, FEW, activations)
    monkeypatch.setattr(counting, "PATTERN_ROWS", 0)
    assert (layer_counts(found, FEW, activations).counts == by_patterns.counts).all()


@engines
@pytest.mark.parametrize("hardware", [FEW, MANY], ids=["5 rows", "70 rows"])
def test_offset_encoding_stores_shifted_weights_in_one_array(engine, hardware):
    rng = np.random.default_rng(7)
    found = make_layer(rng, hardware, channels=9, height=3, width=3, kernel_height=2, kernel_width=2, outputs=4)
    found = replace(found, weights=rng.integers(-3, 4, found.weights.shape))
    found.weights[0, 0] = -3
    activations = rng.integers(0, 256, (2, 9, 3, 3)).astype(np.uint8)
    made = layer_counts(found, hardware, activations, gram_windows=10**6, offset=True)
    moved = found.weights + 4
    shifted = replace(found, weights=moved, block_widths=np.full_like(found.block_widths, 3))
    counts, _, sums = one_by_one(shifted, hardware, activations)
    half = counts.sum(axis=2) // 2
    counts[..., 0] -= half  # conversions of the second array
    assert (made.counts == counts).all()
    exact = windows(found, activations).reshape(-1, found.k).astype(int) @ found.weights
    assert made.power == (exact**2).sum()
    flat = sums.reshape(-1, sums.shape[-1])[:, 1:]
    assert (made.gram[1:, 1:] == flat.T @ flat).all()


def test_offset_encoding_needs_a_spare_plane():
    rng = np.random.default_rng(8)
    found = make_layer(rng, FEW, channels=2, height=2, width=2, kernel_height=1, kernel_width=1, outputs=2)
    found = replace(found, weights=np.full_like(found.weights, 9), block_widths=np.full_like(found.block_widths, 4))
    with pytest.raises(ValueError, match="offset encoding needs magnitudes below 8"):
        layer_counts(found, FEW, np.zeros((1, 2, 2, 2), dtype=np.uint8), offset=True)
