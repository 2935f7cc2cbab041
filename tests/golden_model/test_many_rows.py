import ast
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import layer, timing, trq
from golden_model.config import ISAAC, HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.crossbar.post_processing import finish
from golden_model.crossbar.prepared import prepare, prepare_layer
from golden_model.engines import bit_slices, many_rows
from golden_model.engines.run_layer import run_layer
from golden_model.registers import COUNTER_NAMES
from golden_model.trq import AdcRegisters
from tests.strategies import adc_registers, dynamic_precisions, hardware_configs, make_layer, make_weights

#: 128-row machine with sign + 7-bit weights.
WIDE = HardwareConfig(ou_rows=128, adc_bits=8, weight_bits=7)


def same_as_direct(weights, q, hardware, registers, **options):
    """Assert that the engines agree on sums and on every counter of every window."""
    prepared = prepare(weights, hardware, registers, **options)
    tables = many_rows.layer_tables(prepared)
    assert tables is not None
    expected_sums, expected = layer.run(prepared, q, engine="direct")
    sums, counters = many_rows.run_windows(prepared, tables, q.astype(np.uint8))
    assert (expected_sums == sums.T).all()
    for index, name in enumerate(COUNTER_NAMES):
        assert (counters[:, index] == expected.counts[:, index]).all(), name


def random_min_count(rng, adc_bits, largest):
    """Any legal table: it starts at 1 or more and never falls."""
    return np.sort(rng.integers(1, largest + 1, (1 << adc_bits) - 1))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 128), st.integers(0, 2**32 - 1))
def test_every_layer_equals_the_direct_engine(data, ou_rows, seed):
    rng = np.random.default_rng(seed)
    hardware = data.draw(hardware_configs(ou_rows=ou_rows, max_k=1024))
    k, n = data.draw(st.integers(1, 3 * ou_rows)), data.draw(st.integers(1, 9))
    registers = data.draw(adc_registers(hardware.adc_bits))
    bits = data.draw(st.integers(1, hardware.input_bits))
    weights = make_weights(rng, k, n, hardware, sparse=data.draw(st.booleans()))
    q = rng.integers(0, rng.integers(1, (1 << bits) + 1, (40, 1)), (40, k))
    q[0], q[1] = (1 << bits) - 1, 0
    q[:, rng.random(k) < data.draw(st.sampled_from([0, 0.5, 1]))] = 0
    widths = np.minimum(mapping.block_widths(weights, hardware) + rng.integers(0, 2), hardware.weight_bits)
    min_count = data.draw(st.sampled_from([None, trq.min_count(hardware.adc_bits, 0.37), "random"]))
    same_as_direct(
        weights,
        q,
        hardware,
        registers,
        block_widths=widths,
        redy=data.draw(st.one_of(st.none(), dynamic_precisions())),
        skip_zero_slices=data.draw(st.booleans()),
        min_count=random_min_count(rng, hardware.adc_bits, ou_rows) if isinstance(min_count, str) else min_count,
        activation_bits=bits,
    )


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_any_characteristic_of_128_rows_equals_the_direct_engine(data, seed):
    rng = np.random.default_rng(seed)
    registers = data.draw(adc_registers(8))
    weights = rng.integers(-127, 128, (150, 5))
    weights[:, 0], weights[:, 1] = 127, -127
    q = rng.integers(0, 256, (30, 150))
    q[0], q[1] = 255, 0
    same_as_direct(
        weights,
        q,
        WIDE,
        registers,
        min_count=random_min_count(rng, 8, data.draw(st.sampled_from([10, 40, 128, 300]))),
    )


def test_saturated_columns_keep_a_count_of_128():
    weights, q = np.array([[127, -127]] * 128), np.full((3, 128), 255)
    same_as_direct(weights, q, WIDE, AdcRegisters(mode="uniform", n_r2=8))
    prepared = prepare(weights, WIDE, AdcRegisters(mode="uniform", n_r2=8))
    tables = many_rows.layer_tables(prepared)
    sums, _ = many_rows.run_windows(prepared, tables, q.astype(np.uint8))
    assert sums.T.tolist() == [[128 * 127 * 255, -128 * 127 * 255]] * 3


@pytest.mark.parametrize("largest", [(128, -128), (0, 128)])
def test_every_count_from_0_to_128_converts_as_the_table_says(largest):
    hardware = HardwareConfig(ou_rows=128, adc_bits=8, weight_bits=1, input_bits=1)
    rng = np.random.default_rng(1)
    min_count = random_min_count(rng, 8, 128)
    registers = AdcRegisters(mode="twin", n_r2=4, n_r1=2, m=4, bias=3)
    weights, q = np.ones((128, 1), dtype=np.int64), np.tri(129, 128, -1, dtype=np.int64)
    if largest[0]:
        weights = np.hstack([weights, -weights])
    same_as_direct(weights, q, hardware, registers, min_count=min_count)


def test_windows_beyond_one_block_continue_in_the_next():
    rng = np.random.default_rng(4)
    weights = make_weights(rng, 140, 9, WIDE)
    for windows in (0, 1, bit_slices.WINDOWS - 1, bit_slices.WINDOWS, 2 * bit_slices.WINDOWS + 3):
        q = rng.integers(0, 256, (windows, 140))
        same_as_direct(weights, q, WIDE, AdcRegisters(mode="twin", n_r2=4, n_r1=3, m=2), skip_zero_slices=True)


def test_a_layer_wider_than_a_tile_of_columns_is_cut(monkeypatch):
    rng = np.random.default_rng(5)
    weights, q = make_weights(rng, 140, 50, WIDE), rng.integers(0, 256, (20, 140))
    hardware = HardwareConfig(ou_rows=128, ou_cols=128, adc_bits=8, weight_bits=7)
    for machine in (WIDE, hardware):
        same_as_direct(weights, q, machine, AdcRegisters(mode="twin", n_r2=4, n_r1=3, m=2))
    weights = rng.integers(-1, 2, (3, 3000))
    same_as_direct(weights, q[:, :3], WIDE, AdcRegisters(mode="twin", n_r2=4, n_r1=3, m=2))


def test_slices_of_zeros_are_converted_unless_they_are_skipped():
    weights = np.random.default_rng(6).integers(-127, 128, (128, 8))
    q = np.zeros((5, 128), dtype=np.int64)
    q[0, 0] = 4
    for skip in (False, True):
        for bias in (0, 1):
            registers = AdcRegisters(mode="twin", n_r2=4, n_r1=3, m=2, bias=bias)
            same_as_direct(weights, q, WIDE, registers, skip_zero_slices=skip)


def test_groups_of_several_segments_share_a_precision():
    rng = np.random.default_rng(7)
    hardware = HardwareConfig(ou_rows=32, adc_bits=6, group_segments=3)
    weights = make_weights(rng, 300, 11, hardware)
    q = rng.integers(0, rng.integers(1, 257, (60, 1)), (60, 300))
    for tau in (0, 300, 65535):
        same_as_direct(
            weights,
            q,
            hardware,
            AdcRegisters(mode="twin", n_r2=5, n_r1=2, m=1),
            redy=DynamicPrecision(l_max=4, tau_sq=tau),
        )


def test_early_detection_is_left_to_the_plain_model():
    weights = np.random.default_rng(8).integers(-127, 128, (128, 2))
    registers = AdcRegisters(mode="twin", n_r2=4, n_r1=3, m=2, bias=1)
    assert many_rows.layer_tables(prepare(weights, WIDE, registers, early_detection=True)) is None
    assert many_rows.layer_tables(prepare(weights, WIDE, registers)) is not None


IMAGES = [
    {"channels": 16, "height": 9, "width": 7, "kernel_height": 3, "kernel_width": 3, "pad": 1, "outputs": 9},
    {
        "channels": 5,
        "height": 9,
        "width": 8,
        "kernel_height": 3,
        "kernel_width": 2,
        "pad": 2,
        "stride": 2,
        "outputs": 3,
    },
    {"channels": 3, "height": 11, "width": 13, "kernel_height": 5, "kernel_width": 4, "stride": 3, "outputs": 4},
    {"channels": 7, "height": 10, "width": 11, "kernel_height": 1, "kernel_width": 1, "stride": 2, "outputs": 5},
    {
        "channels": 3,
        "height": 12,
        "width": 13,
        "kernel_height": 3,
        "kernel_width": 3,
        "pad": 1,
        "pool": 2,
        "outputs": 6,
    },
    {"channels": 2, "height": 40, "width": 40, "kernel_height": 3, "kernel_width": 3, "pool": 3, "outputs": 2},
    {"kind": "linear", "channels": 20, "height": 3, "width": 3, "outputs": 10},
]


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("dynamic", [None, DynamicPrecision(l_max=3, tau_sq=500)])
def test_batches_of_images_equal_the_plain_network(shape, dynamic):
    rng = np.random.default_rng(10)
    one = make_layer(
        rng,
        WIDE,
        **shape,
        pad_values=rng.integers(0, 256, shape["channels"]),
        registers=AdcRegisters(mode="twin", n_r2=4, n_r1=3, m=2),
        dynamic=dynamic,
        skip_zero_slices=dynamic is not None,
    )
    images = rng.integers(0, 256, (5, one.channels, one.height, one.width)).astype(np.uint8)
    prepared = prepare_layer(one, WIDE)
    tables = many_rows.layer_tables(prepared)
    sums, counters = many_rows.run_layer(one, prepared, tables, images)
    output, events = run_layer(one, WIDE, images, prepared=prepared, engine="direct")
    assert (np.stack([finish(one, part) for part in sums]) == output).all()
    events = events.counts.copy()
    events[:, COUNTER_NAMES.index("cycles")] -= timing.c_layer(WIDE)
    assert (counters == events).all()


def test_threads_may_share_the_tables():
    rng = np.random.default_rng(12)
    weights, q = rng.integers(-127, 128, (200, 30)), rng.integers(0, 256, (4, 700, 200)).astype(np.uint8)
    prepared = prepare(weights, WIDE, AdcRegisters(mode="twin", n_r2=4, n_r1=3, m=2))
    tables = many_rows.layer_tables(prepared)
    alone = [many_rows.run_windows(prepared, tables, part) for part in q]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda part: many_rows.run_windows(prepared, tables, part), q))
    for (sums, counters), (expected_sums, expected) in zip(together, alone, strict=True):
        assert (sums == expected_sums).all()
        assert (counters == expected).all()


def test_an_empty_batch_gives_nothing():
    one = make_layer(np.random.default_rng(13), WIDE, **IMAGES[0])
    prepared = prepare_layer(one, WIDE)
    images = np.zeros((0, one.channels, one.height, one.width), dtype=np.uint8)
    sums, counters = many_rows.run_layer(one, prepared, many_rows.layer_tables(prepared), images)
    assert (list(sums), len(counters)) == ([], 0)


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3"])
def test_processors_without_wide_vectors_compute_the_same(processor, tmp_path):
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("names x86 processors")
    features = "+avx2" if processor == "x86-64-v3" else ""
    options = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    tests = ["any_characteristic", "batches_of_images", "saturated"]
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-k", " or ".join(tests), __file__],
        env=os.environ | options,
        check=True,
    )


def test_the_last_layer_gives_logits():
    rng = np.random.default_rng(11)
    one = make_layer(rng, ISAAC, kind="linear", channels=9, height=2, width=2, outputs=7, last=True)
    images = rng.integers(0, 256, (6, 9, 2, 2)).astype(np.uint8)
    expected, _ = run_layer(one, ISAAC, images, engine="direct")
    assert (run_layer(one, ISAAC, images, engine="compiled")[0] == expected).all()


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 12, 13, 36, 48, 49, 100, 128])
def test_lists_are_padded_to_a_length_that_has_an_adder_tree(rows):
    size = bit_slices.padded_size(rows)
    assert rows <= size < rows + bit_slices.GROUP
    assert size in bit_slices.SIZES or size % bit_slices.GROUP == 0


def test_kept_machine_code_depends_on_every_module_of_the_engines_that_it_is_made_of():
    nodes = ast.walk(ast.parse(Path(many_rows.__file__).read_text()))
    names = {
        n.module for n in nodes if isinstance(n, ast.ImportFrom) and str(n.module).startswith("golden_model.engines.")
    }
    assert names
    assert names <= {module.__name__ for module in many_rows.SOURCES}
