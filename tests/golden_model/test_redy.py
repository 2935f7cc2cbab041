import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_model.config import PAPER
from golden_model.crossbar import redy
from golden_model.crossbar.layer import DynamicPrecision
from tests.golden_model import oracles
from tests.strategies import dynamic_precisions, hardware_configs


@given(st.data(), hardware_configs(), dynamic_precisions(), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_every_group_equals_the_scalar_version(data, hardware, registers, k, seed):
    rng = np.random.default_rng(seed)
    top = rng.integers(1, (1 << hardware.input_bits) + 1, (6, k))
    q = rng.integers(0, top)
    q[0], q[1] = 0, (1 << hardware.input_bits) - 1
    result = redy.precision(q, hardware, registers)
    rows = hardware.ou_rows * hardware.segments_per_group
    for window in range(6):
        for group, start in enumerate(range(0, k, rows)):
            hi, lo, streamed = oracles.dynamic_group(q[window, start : start + rows].tolist(), registers)
            assert (result.hi[window, group], result.lo[window, group]) == (hi, lo)
            assert result.streamed[window, start : start + rows].tolist() == streamed
            assert result.bits[window, group] == (0 if hi < 0 else hi - lo + 1)


def test_without_the_lossy_part_activations_are_unchanged():
    q = np.random.default_rng(1).integers(0, 256, (20, 200))
    result = redy.precision(q, PAPER, DynamicPrecision(l_max=7, tau_sq=0))
    assert (result.streamed == q).all()
    assert (result.lo == 0).all()


def test_constant_groups_never_lose_low_bits():
    q = np.full((1, 100), 255)
    assert redy.precision(q, PAPER, DynamicPrecision(l_max=7, tau_sq=65535)).lo.tolist() == [[0]]


def test_spread_groups_lose_bits_up_to_l_max():
    q = np.tile([0, 255], (1, 50))
    for l_max in range(8):
        result = redy.precision(q, PAPER, DynamicPrecision(l_max=l_max, tau_sq=65535))
        assert result.lo.tolist() == [[l_max]]


def test_rounding_up_out_of_the_top_bit_is_clamped():
    q = np.array([[0, 255] * 8])
    result = redy.precision(q, PAPER, DynamicPrecision(l_max=4, tau_sq=65535))
    assert result.streamed.max() == 0b1111 << 4


def test_the_last_group_counts_its_valid_rows_only():
    # 127 rows: one group of 126 and one of 1, whose spread is 0.
    q = np.tile([0, 255], (1, 64))[:, :127]
    result = redy.precision(q, PAPER, DynamicPrecision(l_max=3, tau_sq=65535))
    assert result.lo.tolist() == [[3, 0]]


@pytest.mark.parametrize(("field", "value", "limit"), [("l_max", 8, 7), ("tau_sq", 65536, 65535), ("l_max", -1, 7)])
def test_registers_out_of_range_are_refused(field, value, limit):
    with pytest.raises(ValueError, match=rf"DynamicPrecision\.{field} must be in 0\.\.{limit}, got {value}"):
        redy.check(DynamicPrecision(**{field: value}))


def test_registers_of_a_wrong_type_are_refused():
    with pytest.raises(TypeError, match=r"tau_sq must be an integer, got 0\.5"):
        redy.check(DynamicPrecision(tau_sq=0.5))
