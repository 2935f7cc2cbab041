from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import layer as crossbar
from golden_model import timing
from golden_model.config import PAPER
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.crossbar.post_processing import finish
from golden_model.crossbar.prepared import prepare, prepare_layer
from golden_model.crossbar.windows import windows
from golden_model.engines.run_layer import run_layer
from golden_model.engines.run_network import GraphRunner
from golden_model.registers import COUNTER_NAMES
from golden_model.trq import AdcRegisters
from tests.strategies import adc_registers, dynamic_precisions, hardware_configs, make_images, make_layer, make_network

few_rows = pytest.importorskip("golden_model.engines.few_rows", reason="numba is not installed")


def both(layer, hardware, images, registers=None):
    """Output and counters of the compiled engine, then those of the plain NumPy model."""
    prepared = prepare_layer(layer, hardware)
    if registers is not None:
        prepared = prepare(
            layer.weights,
            hardware,
            registers,
            block_widths=layer.block_widths,
            redy=layer.dynamic,
            skip_zero_slices=layer.skip_zero_slices,
            min_count=layer.min_count,
            activation_bits=layer.input_bits,
        )
    expected, events = run_layer(layer, hardware, images, prepared=prepared, engine="direct")
    tables = few_rows.layer_tables(prepared)
    assert tables is not None
    sums, counters = few_rows.run_layer(layer, prepared, tables, images)
    counters[:, COUNTER_NAMES.index("cycles")] += timing.c_layer(hardware)
    return np.stack([finish(layer, one) for one in sums]), counters, expected, events.counts


def assert_equal(*arguments):
    output, counters, expected, events = both(*arguments)
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(counters, events)


@st.composite
def cases(draw):
    hardware = draw(hardware_configs(max_k=512))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pad, pool = draw(st.integers(0, 1)), draw(st.integers(1, 2))
    shape = {"channels": draw(st.integers(1, 4)), "height": draw(st.integers(4, 7)), "width": draw(st.integers(4, 7))}
    top = 1 << hardware.input_bits
    layer = make_layer(
        rng,
        hardware,
        **shape,
        kernel_height=kernel[0],
        kernel_width=kernel[1],
        stride=draw(st.integers(1, 2)) if pool == 1 else 1,
        pad=pad,
        pool=pool,
        outputs=draw(st.sampled_from([1, 3, 16, 17, 33])),
        pad_values=rng.integers(0, top, shape["channels"]) if draw(st.booleans()) else None,
        registers=draw(adc_registers(hardware.adc_bits)),
        dynamic=draw(st.none() | dynamic_precisions()),
        skip_zero_slices=draw(st.booleans()),
    )
    images = rng.integers(0, top, (2, *shape.values())) * (rng.random((2, *shape.values())) < draw(st.floats(0, 1)))
    return layer, hardware, images.astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_compiled_and_plain_engine_agree_on_outputs_and_every_event(case):
    assert_equal(*case)


def saturated(value, sign):
    weights = np.full((9 * 40, 48), sign * 255)
    layer = make_layer(
        np.random.default_rng(0),
        PAPER,
        channels=40,
        height=5,
        width=5,
        kernel_height=3,
        kernel_width=3,
        pad=1,
        outputs=48,
        weights=weights,
        pad_values=np.full(40, value),
    )
    return layer, PAPER, np.full((1, 40, 5, 5), value, dtype=np.uint8)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("value", [0, 255])
def test_saturated_data_does_not_overflow(value, sign):
    assert_equal(*saturated(value, sign))


def test_values_too_large_for_16_bit_tables_use_32_bits():
    hardware = replace(PAPER, adc_bits=8)
    layer, _, images = saturated(255, 1)
    # Every count is read as the top code, 255.
    layer = replace(layer, registers=AdcRegisters(mode="uniform", n_r2=8), min_count=np.ones(255, dtype=np.int64))
    tables = few_rows.layer_tables(prepare_layer(layer, hardware))
    assert tables.rows.dtype == np.int32
    assert_equal(layer, hardware, images)


def test_numbers_that_do_not_fit_the_compact_form_are_left_to_the_plain_model():
    hardware = replace(PAPER, max_n=4096)
    layer = make_layer(
        np.random.default_rng(0), hardware, kind="linear", channels=1, height=1, width=9, outputs=4096,
        weights=np.full((9, 4096), 255), dynamic=DynamicPrecision(),
        registers=AdcRegisters(mode="uniform", n_r2=4),
    )  # fmt: skip
    assert few_rows.layer_tables(prepare_layer(layer, hardware)) is None


@pytest.mark.parametrize("redy", [None, DynamicPrecision(l_max=2, tau_sq=300)])
def test_a_matrix_product_gives_the_same_sums_and_events(redy):
    rng = np.random.default_rng(3)
    activations, weights = rng.integers(0, 256, (57, 40)), rng.integers(-127, 128, (40, 11))
    registers = AdcRegisters(mode="twin", n_r2=3, n_r1=2, m=1)
    run = {
        engine: crossbar.matmul(activations, weights, PAPER, registers, redy=redy, engine=engine)
        for engine in ("direct", "compiled")
    }
    np.testing.assert_array_equal(run["compiled"][0], run["direct"][0])
    assert run["compiled"][1] == run["direct"][1]


def test_a_whole_network_gives_the_same_logits_and_events_on_several_threads():
    made = make_network(4, PAPER)
    images = make_images(5, made, 40)
    expected = GraphRunner(made, engine="direct").run(images)
    logits, events = GraphRunner(made, engine="compiled", threads=2).run(images)
    np.testing.assert_array_equal(logits, expected[0])
    assert events == expected[1]


def test_what_the_compiled_engine_cannot_do_is_refused_by_name():
    with pytest.raises(ValueError, match="engine 'compiled' needs numba, sums that fit 32 bits"):
        crossbar.matmul(
            np.ones((1, 16), dtype=int), np.ones((16, 1), dtype=int), replace(PAPER, ou_rows=16, adc_bits=5),
            AdcRegisters(mode="twin", n_r2=4, m=1, n_r1=1, bias=1), engine="compiled", early_detection=True,
        )  # fmt: skip


@pytest.mark.parametrize("rows", [9, 40, 128])
def test_every_size_of_operation_unit_has_a_compiled_engine(rows):
    hardware = replace(PAPER, rows=128, ou_rows=rows, adc_bits=8)
    rng = np.random.default_rng(rows)
    layer = make_layer(
        rng, hardware, channels=5, height=6, width=6, kernel_height=3, kernel_width=3, pad=1, pool=2, outputs=9,
        registers=AdcRegisters(mode="twin", n_r2=5, n_r1=3, m=2), dynamic=DynamicPrecision(l_max=2, tau_sq=300),
    )  # fmt: skip
    images = rng.integers(0, 256, (3, 5, 6, 6)).astype(np.uint8)
    expected, events = run_layer(layer, hardware, images, engine="direct")
    output, counted = run_layer(layer, hardware, images, engine="compiled")
    np.testing.assert_array_equal(output, expected)
    assert counted == events
    output, _ = run_layer(layer, hardware, images, engine="compiled", finish=lambda _, sums: sums[:, :9].copy())
    direct, _ = run_layer(layer, hardware, images, engine="direct", finish=lambda _, sums: sums)
    np.testing.assert_array_equal(output, direct)
    rows_in = windows(layer, images).reshape(-1, layer.k)
    given = {"redy": layer.dynamic, "min_count": layer.min_count}
    both = [
        crossbar.matmul(rows_in, layer.weights, hardware, layer.registers, engine=engine, **given)
        for engine in ("direct", "compiled")
    ]
    np.testing.assert_array_equal(both[0][0], both[1][0])
    assert both[0][1] == both[1][1]


def test_cutting_images_and_windows_into_chunks_changes_nothing(monkeypatch):
    rng = np.random.default_rng(8)
    layer = make_layer(
        rng, PAPER, channels=3, height=8, width=8, kernel_height=3, kernel_width=3, pad=1, pool=2, outputs=5
    )
    images = rng.integers(0, 256, (5, 3, 8, 8)).astype(np.uint8)
    for size in (16 * 3 * 7, 16 * 3 * 130):  # 7 windows of one image; 2 images together
        monkeypatch.setattr(few_rows, "_CHUNK_BYTES", size)
        assert_equal(layer, PAPER, images)


def test_loops_are_compiled_where_nothing_may_be_kept_on_disk(monkeypatch):
    from numba.core.caching import CacheImpl

    from golden_model.compiled import njit

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    add = njit(lambda a, b: a + b)
    assert add(2, 3) == 5
