import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import trq
from golden_model.config import ISAAC, PAPER, TINY, HardwareConfig
from golden_model.crossbar import mapping, reference
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.events import Events
from golden_model.layer import matmul
from golden_model.trq import AdcRegisters
from tests.golden_model import oracles
from tests.strategies import adc_registers, dynamic_precisions, hardware_configs, make_weights

UNIFORM = AdcRegisters(mode="uniform", n_r2=4)


def by_oracle(q, weights, hardware, registers_of, widths, redy=None, skip=False, min_count=None, bits=None):
    table = (trq.min_count(hardware.adc_bits) if min_count is None else min_count).tolist()
    bits = hardware.input_bits if bits is None else bits
    results = [
        oracles.window(row, weights.tolist(), hardware, registers_of, widths, redy, skip, table, bits)
        for row in q.tolist()
    ]
    events = Events.of(**{name: [counts[name] for _, counts in results] for name in results[0][1]})
    return np.array([sums for sums, _ in results]), events


def same(got, expected):
    assert (got[0] == expected[0]).all()
    assert got[1].as_dict() == expected[1].as_dict()


@settings(max_examples=120)
@given(st.data(), hardware_configs(), st.integers(1, 20), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_every_engine_equals_the_walk_over_every_ou(data, hardware, k, n, seed):
    rng = np.random.default_rng(seed)
    bits = data.draw(st.integers(1, hardware.input_bits))
    registers = data.draw(adc_registers(hardware.adc_bits))
    redy = data.draw(st.one_of(st.none(), dynamic_precisions()))
    skip = data.draw(st.booleans())
    min_count = trq.min_count(hardware.adc_bits, data.draw(st.sampled_from([1.0, 0.5, 0.37, 2.0, 3.3])))
    weights = make_weights(rng, k, n, hardware)
    widths = np.minimum(mapping.block_widths(weights, hardware) + rng.integers(0, 2), hardware.weight_bits)
    q = rng.integers(0, rng.integers(1, (1 << bits) + 1, (3, 1)), (3, k))
    q[0] = rng.choice([0, (1 << bits) - 1])
    expected = by_oracle(q, weights, hardware, registers, widths, redy, skip, min_count, bits)
    for engine in ("direct", "patterns"):
        got = matmul(
            q,
            weights,
            hardware,
            registers,
            block_widths=widths,
            redy=redy,
            skip_zero_slices=skip,
            min_count=min_count,
            activation_bits=bits,
            engine=engine,
            per_window=True,
        )
        same(got, expected)


SHAPES = [(1, 1), (9, 8), (10, 9), (27, 1), (40, 17)]


@pytest.mark.parametrize("hardware", [TINY, PAPER, ISAAC])
@pytest.mark.parametrize("shape", SHAPES)
def test_lossless_settings_give_the_matrix_product(hardware, shape):
    rng = np.random.default_rng(5)
    k, n = shape
    weights = make_weights(rng, k, n, hardware)
    q = rng.integers(0, 1 << hardware.input_bits, (20, k))
    bits = hardware.adc_bits
    for registers in (AdcRegisters(mode="uniform", n_r2=bits), AdcRegisters(mode="twin", n_r2=bits, n_r1=1, bias=1)):
        assert trq.lossless(registers, hardware)
        sums, _ = matmul(q, weights, hardware, registers, redy=DynamicPrecision(), skip_zero_slices=True)
        assert (sums == q @ weights).all()


@pytest.mark.parametrize("hardware", [TINY, PAPER, ISAAC])
@pytest.mark.parametrize("sign", [1, -1])
def test_saturated_data_gives_the_largest_sums(hardware, sign):
    k, n = 2 * hardware.ou_rows, hardware.ou_cols + 1
    top_q, top_w = (1 << hardware.input_bits) - 1, (1 << hardware.weight_bits) - 1
    weights, q = np.full((k, n), sign * top_w), np.full((3, k), top_q)
    sums, events = matmul(q, weights, hardware, AdcRegisters(mode="uniform", n_r2=hardware.adc_bits))
    assert (sums == sign * k * top_q * top_w).all()
    assert events.ou_activations == events.dense == 3 * 2 * 2 * hardware.weight_bits * hardware.input_bits


@pytest.mark.parametrize("engine", ["direct", "patterns"])
def test_coarse_codes_above_the_count_do_not_overflow(engine):
    # n_r2 = 3, m = 1 turns a count of 9 into 10.
    weights, q = np.full((90, 2), 255), np.full((2, 90), 255)
    sums, _ = matmul(q, weights, PAPER, AdcRegisters(mode="twin", n_r2=3, m=1), engine=engine)
    assert (sums == 10 * 10 * 255 * 255).all()


def test_128_rows_at_8_bits_keep_a_count_of_128():
    weights, q = np.full((128, 1), 255), np.full((1, 128), 255)
    sums, _ = matmul(q, weights, ISAAC, AdcRegisters(mode="uniform", n_r2=8))
    assert sums.tolist() == [[128 * 255 * 255]]


def test_a_layer_of_pruned_blocks_activates_nothing():
    weights, q = np.zeros((10, 3), dtype=np.int64), np.full((2, 10), 7)
    sums, events = matmul(q, weights, TINY, AdcRegisters(mode="uniform", n_r2=3))
    assert (sums == 0).all()
    assert (events.ou_activations, events.conversions, events.ad_operations) == (0, 0, 0)
    assert events.skipped_planes == events.dense == 2 * 3 * 2 * 3 * 4


def test_all_zero_groups_stream_nothing():
    rng = np.random.default_rng(0)
    weights = make_weights(rng, 12, 3, TINY, sparse=False)
    q = np.zeros((5, 12), dtype=np.int64)
    _, events = matmul(q, weights, TINY, AdcRegisters(mode="uniform", n_r2=3), redy=DynamicPrecision())
    assert (events.ou_activations, events.input_bits_streamed) == (0, 0)
    assert events.skipped_bits == events.dense


def test_zero_slices_are_counted_among_the_streamed_bits():
    weights, q = np.ones((4, 1), dtype=np.int64), np.array([[0b1001, 0, 0, 0b1000]])
    _, events = matmul(q, weights, TINY, AdcRegisters(mode="uniform", n_r2=3), skip_zero_slices=True)
    assert (events.ou_activations, events.skipped_zero_slices, events.input_bits_streamed) == (2, 2, 4)


def test_every_skipped_and_done_activation_adds_up_to_dense():
    rng = np.random.default_rng(0)
    weights = make_weights(rng, 30, 7, TINY)
    q = rng.integers(0, 3, (50, 30))
    _, events = matmul(
        q, weights, TINY, AdcRegisters(mode="uniform", n_r2=3), redy=DynamicPrecision(l_max=1), skip_zero_slices=True
    )
    assert events.dense == 50 * 8 * 4 * 3 * 4
    assert min(events.skipped_planes, events.skipped_bits, events.skipped_zero_slices, events.ou_activations) > 0


def test_columns_beyond_n_never_convert():
    _, events = matmul([[1]], [[1]], PAPER, UNIFORM)
    assert events.conversions == 2 * 8


def test_sample_interval_stretches_short_conversions_only():
    def cycles(**fields):
        hardware = HardwareConfig(**fields)
        return matmul([[255] * 9], [[1]] * 9, hardware, UNIFORM)[1].cycles

    assert cycles(sample_interval=4) == cycles()
    assert cycles(sample_interval=7) == cycles() + 8 * 3


def test_no_windows_give_no_events():
    sums, events = matmul(np.zeros((0, 3), dtype=np.uint8), [[1], [2], [3]], TINY, AdcRegisters(mode="uniform", n_r2=3))
    assert sums.shape == (0, 1)
    assert events == Events()


def test_cutting_the_windows_into_chunks_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    weights, q = make_weights(rng, 30, 7, TINY), rng.integers(0, 16, (50, 30))
    registers = AdcRegisters(mode="twin", n_r2=3, n_r1=1)
    expected = matmul(q, weights, TINY, registers, redy=DynamicPrecision(l_max=1, tau_sq=900), per_window=True)
    monkeypatch.setattr(reference, "_CHUNK_BYTES", 10000)
    got = matmul(q, weights, TINY, registers, redy=DynamicPrecision(l_max=1, tau_sq=900), per_window=True)
    same(got, expected)


GOOD = {"activations": [[1, 2]], "weights": [[1], [-1]], "hardware": TINY}
BAD = [
    ({"activations": [[1, 2, 3]]}, ValueError, r"activations must have shape \(P, 2\), got \(1, 3\)"),
    ({"activations": [[1.0, 2.0]]}, TypeError, "activations must be unsigned integers, got dtype float64"),
    ({"activations": [[1, 16]]}, ValueError, r"activations must be in 0\.\.15, got 1\.\.16"),
    ({"activations": [[-1, 2]]}, ValueError, r"activations must be in 0\.\.15, got -1\.\.2"),
    ({"activation_bits": 1}, ValueError, r"activations must be in 0\.\.1, got 1\.\.2"),
    ({"activation_bits": 5}, ValueError, r"activation_bits must be in 1\.\.4, got 5"),
    ({"activation_bits": 2.0}, TypeError, "activation_bits must be an integer"),
    ({"weights": [[1.5], [1]]}, TypeError, "weights must be integers, got dtype float64"),
    ({"weights": [[8], [1]]}, ValueError, "got a magnitude of 8"),
    ({"block_widths": [[0]]}, ValueError, r"block_widths\[0, 0\] must be at least 1"),
    ({"registers": AdcRegisters(mode="uniform", n_r2=4)}, ValueError, r"AdcRegisters\.n_r2 must be in 1\.\.3, got 4"),
    ({"registers": {}}, TypeError, "registers must be AdcRegisters, got {}"),
    ({"redy": DynamicPrecision(l_max=9)}, ValueError, r"l_max must be in 0\.\.7, got 9"),
    ({"min_count": [1, 2]}, ValueError, "min_count must hold 7 integers"),
    (
        {"engine": "quick"},
        ValueError,
        "engine must be 'auto', 'direct', 'patterns', 'compiled' or 'torch', got 'quick'",
    ),
]


@pytest.mark.parametrize(("change", "error", "words"), BAD)
def test_bad_arguments_are_refused_by_name(change, error, words):
    arguments = {**GOOD, "registers": AdcRegisters(mode="uniform", n_r2=3), **change}
    with pytest.raises(error, match=words):
        matmul(**arguments)


def test_the_pattern_engine_refuses_many_rows():
    with pytest.raises(ValueError, match="at most 12 OU rows, got 128"):
        matmul([[1]], [[1]], ISAAC, AdcRegisters(mode="uniform", n_r2=8), engine="patterns")
