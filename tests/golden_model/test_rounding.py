import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_model.rounding import round_half_up_shift


@given(st.integers(-(2**50), 2**50), st.integers(0, 40))
def test_result_is_the_floor_of_the_quotient_plus_one_half(x, n):
    expected = (2 * x + 2**n) // 2 ** (n + 1)
    assert round_half_up_shift(x, n) == expected
    assert round_half_up_shift(np.array([x]), n)[0] == expected


def test_halves_go_up_for_both_signs():
    assert round_half_up_shift(np.array([-6, -2, 2, 6], dtype=np.int64), 2).tolist() == [-1, 0, 1, 2]


def test_small_types_do_not_overflow():
    assert round_half_up_shift(np.array([255], dtype=np.uint8), 1).tolist() == [128]
    assert round_half_up_shift(np.array([127], dtype=np.int8), 7).tolist() == [1]


def test_largest_shift_works():
    assert round_half_up_shift(np.array([2**62 - 1, -(2**62), -(2**62) - 1]), 63).tolist() == [0, 0, -1]


@pytest.mark.parametrize("n", [-1, 64])
def test_shift_out_of_range_is_refused(n):
    with pytest.raises(ValueError, match=rf"n must be in 0\.\.63, got {n}"):
        round_half_up_shift(1, n)


def test_real_numbers_are_refused():
    with pytest.raises(TypeError, match="integer array, got dtype float64"):
        round_half_up_shift(np.array([1.5]), 1)
