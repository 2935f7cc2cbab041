from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import trq
from golden_model.config import ISAAC, PAPER
from golden_model.trq import AdcRegisters, convert
from tests.golden_model import oracles
from tests.strategies import adc_registers, legal_registers

FIELDS = ("range_flag", "code", "value", "operations")


def rows(result):
    return list(zip(*(getattr(result, name).tolist() for name in FIELDS), strict=True))


@pytest.mark.parametrize("adc_bits", [1, 2, 3, 4, 5])
def test_every_legal_setting_equals_the_step_by_step_search_on_every_integer(adc_bits):
    v = list(range(-3, (1 << adc_bits) + 4))
    for registers in legal_registers(adc_bits):
        for early in (False, True):
            got = convert(v, adc_bits, registers, early_detection=early)
            assert rows(got) == [oracles.convert(x, adc_bits, registers, early) for x in v], registers


@settings(max_examples=200)
@given(st.data(), st.integers(6, 8))
def test_settings_of_wide_converters_equal_the_step_by_step_search(data, adc_bits):
    registers = data.draw(adc_registers(adc_bits))
    v = list(range(1 << adc_bits))
    assert rows(convert(v, adc_bits, registers)) == [oracles.convert(x, adc_bits, registers) for x in v]


@given(st.data(), st.integers(1, 8), st.lists(st.floats(-5, 260), min_size=1, max_size=20))
def test_real_values_equal_the_step_by_step_search(data, adc_bits, v):
    registers = data.draw(adc_registers(adc_bits))
    assert rows(convert(v, adc_bits, registers)) == [oracles.convert(x, adc_bits, registers) for x in v]


@pytest.mark.parametrize("v", [0.5, np.nextafter(0.5, 0), 2.5, np.nextafter(2.5, 0), 254.5, -1e-300, 1e30, np.inf])
def test_real_values_beside_a_threshold_are_exact(v):
    registers = AdcRegisters(mode="uniform", n_r2=8)
    expected = 255 if v > 255 else oracles.convert(v, 8, registers)[2]
    assert convert(v, 8, registers).value == expected


def test_result_has_the_shape_of_the_input():
    result = convert(np.zeros((2, 3, 4), dtype=np.uint8), 4, AdcRegisters(mode="uniform", n_r2=4))
    assert all(getattr(result, name).shape == (2, 3, 4) for name in FIELDS)


def test_worked_example_of_a_biased_window():
    # R = 4, steps 4 and 2: the window is [2, 4) steps of 2, compares at 7 and 3, then 5.
    registers = AdcRegisters(mode="twin", n_r2=2, n_r1=1, m=1, bias=1)
    assert rows(convert([2, 3, 5, 7], 4, registers)) == [(1, 1, 2, 4), (0, 0, 2, 3), (0, 1, 3, 3), (1, 2, 4, 4)]


def test_coarse_code_is_shifted_by_m():
    registers = AdcRegisters(mode="twin", n_r2=3, n_r1=1, m=1)
    result = convert(9, 4, registers)
    assert (result.range_flag, result.code, result.value) == (1, 5, 10)


def monotonic(adc_bits, registers):
    """Whether the value never falls while v rises."""
    return bool((np.diff(convert(range(1 << adc_bits), adc_bits, registers).value) >= 0).all())


@pytest.mark.parametrize("adc_bits", [3, 4, 5])
def test_settings_with_n_r1_of_at_least_m_are_monotonic(adc_bits):
    for registers in legal_registers(adc_bits):
        if registers.mode == "uniform" or registers.n_r1 >= registers.m:
            assert monotonic(adc_bits, registers), registers


def test_some_setting_with_small_n_r1_is_not_monotonic():
    assert not all(monotonic(4, registers) for registers in legal_registers(4))


def test_early_detection_saves_one_operation_above_a_biased_window():
    registers = AdcRegisters(mode="twin", n_r2=4, n_r1=1, bias=2)
    early = convert(range(16), 4, registers, early_detection=True).operations
    saved = convert(range(16), 4, registers).operations - early
    assert saved.tolist() == [0] * 6 + [1] * 10


@pytest.mark.parametrize("scale", [0.25, 0.3, 1.0, 1.7, 2.0, 5.3])
def test_comparing_counts_equals_comparing_scaled_values(scale):
    table = trq.min_count(4, scale)
    for t in range(1, 16):
        for count in range(80):
            assert (count >= table[t - 1]) == (2 * count >= scale * (2 * t - 1))


@given(st.data(), st.integers(1, 6), st.floats(0.1, 10))
def test_converting_the_level_equals_searching_with_counts(data, adc_bits, scale):
    registers = data.draw(adc_registers(adc_bits))
    table = trq.min_count(adc_bits, scale)
    got = rows(trq.convert_counts(adc_bits, 20, registers, table))
    assert got == [oracles.search(lambda t, c=c: c >= table[t - 1], adc_bits, registers) for c in range(21)]


def test_full_range_settings_are_lossless_and_coarse_ones_are_not():
    assert trq.lossless(AdcRegisters(mode="uniform", n_r2=4), PAPER)
    assert trq.lossless(AdcRegisters(mode="twin", n_r2=4, n_r1=2, bias=1), PAPER)
    assert not trq.lossless(AdcRegisters(mode="twin", n_r2=3, n_r1=1, m=1), PAPER)
    assert not trq.lossless(AdcRegisters(mode="uniform", n_r2=4), PAPER, trq.min_count(4, 2.0))
    assert trq.lossless(AdcRegisters(mode="uniform", n_r2=8), ISAAC)
    assert not trq.lossless(AdcRegisters(mode="uniform", n_r2=7), replace(ISAAC, adc_bits=7))


def test_clipping_converters_are_lossy():
    assert not trq.lossless(AdcRegisters(mode="uniform", n_r2=3), replace(PAPER, adc_bits=3))


def _illegal(adc_bits):
    legal = set(legal_registers(adc_bits))
    for mode in ("uniform", "twin"):
        for n_r2 in range(-1, adc_bits + 2):
            for n_r1 in range(-1, adc_bits + 2):
                for m in range(-1, adc_bits + 1):
                    for bias in range(-1, 1 << adc_bits):
                        registers = AdcRegisters(mode=mode, n_r2=n_r2, n_r1=n_r1, m=m, bias=bias)
                        if registers not in legal:
                            yield registers


def test_every_other_setting_is_refused():
    for registers in _illegal(3):
        with pytest.raises(ValueError, match=r"AdcRegisters\.(n_r2|n_r1|m|bias) must be in .*, got "):
            convert(0, 3, registers)


def test_settings_of_a_wrong_type_are_refused():
    with pytest.raises(TypeError, match=r"AdcRegisters\.n_r2 must be an integer, got 4\.0"):
        convert(0, 4, AdcRegisters(mode="uniform", n_r2=4.0))
    with pytest.raises(ValueError, match="mode must be one of uniform, twin, bounded, tree, got 'both'"):
        convert(0, 4, AdcRegisters(mode="both", n_r2=4))


@pytest.mark.parametrize(
    ("v", "error", "words"),
    [(np.nan, ValueError, "NaN"), ("1", TypeError, "integer or real"), (1j, TypeError, "integer or real")],
)
def test_values_that_are_no_numbers_are_refused(v, error, words):
    with pytest.raises(error, match=words):
        convert(v, 4, AdcRegisters(mode="uniform", n_r2=4))


@pytest.mark.parametrize("adc_bits", [0, 9])
def test_resolutions_out_of_range_are_refused(adc_bits):
    with pytest.raises(ValueError, match=rf"adc_bits must be in 1\.\.8, got {adc_bits}"):
        convert(0, adc_bits, AdcRegisters(mode="uniform", n_r2=1))


@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), float("nan")])
def test_scales_that_are_not_positive_are_refused(scale):
    with pytest.raises(ValueError, match="counts_per_lsb must be above 0 and at most 2\\*\\*32"):
        trq.min_count(4, scale)


@pytest.mark.parametrize("table", [[0, 1, 2], [1, 3, 2], [1, 2], [1.0, 2.0, 3.0]])
def test_bad_count_tables_are_refused(table):
    with pytest.raises(ValueError, match="min_count must"):
        trq.check_min_count(2, table)
