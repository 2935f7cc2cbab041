"""What the golden descriptor check says beyond the rules that are tested against the hardware."""

from __future__ import annotations

import numpy as np
import pytest

from golden_model.config import TINY
from golden_model.image.check import check_descriptor, check_placement
from golden_model.registers import ErrorCode, StepKind, descriptor_fields
from tests.strategies import legal_registers

#: One window of 4 inputs and 2 outputs.
SIZES = (
    *("channels", "height", "width", "in_plane", "kernel_height", "kernel_width", "stride_y", "stride_x"),
    *("out_height", "out_width", "out_plane", "pool", "stream_bits", "out_bits"),
)
STEP = (
    {field.name: 0 for field in descriptor_fields(TINY)}
    | dict.fromkeys(SIZES, 1)
    | {"channels": 4, "outputs": 2, "segments": 1, "block_cols": 1, "last_rows": 4, "last_cols": 2, "n_r2": 1}
)


def test_every_legal_converter_setting_is_accepted():
    for r in legal_registers(TINY.adc_bits):
        values = {"adc_mode": r.mode == "twin", "n_r1": r.n_r1, "n_r2": r.n_r2, "m": r.m, "adc_bias": r.bias}
        assert check_descriptor(TINY, STEP | {name: int(v) for name, v in values.items()}) == ErrorCode.NONE


@pytest.mark.parametrize(
    "registers", [{"n_r2": 0}, {"m": 3}, {"n_r1": 1}, {"adc_bias": 1}, {"adc_mode": 1, "n_r1": 1}], ids=str
)
def test_an_illegal_converter_setting_matters_to_crossbar_steps_only(registers):
    assert check_descriptor(TINY, STEP | registers) == ErrorCode.ADC_CONFIGURATION
    for kind in (StepKind.MAXIMUM, StepKind.SUM):
        assert check_descriptor(TINY, STEP | registers | {"step": kind}) == ErrorCode.NONE


def test_the_kind_comes_before_sizes_and_sizes_before_the_converter():
    wrong = STEP | {"n_r2": 0, "channels": 0}
    assert check_descriptor(TINY, wrong) == ErrorCode.LAYER_GEOMETRY
    assert check_descriptor(TINY, wrong | {"step": 3}) == ErrorCode.UNSUPPORTED


def test_placement_reads_the_entries_of_the_step_and_no_others():
    fields = STEP | {"width_base": 1, "crossbar_base": TINY.crossbar_pairs}
    table = np.array([3, 0, 3])
    assert check_placement(TINY, fields, table) == ErrorCode.NONE
    assert check_placement(TINY, fields | {"width_base": 2}, table) == ErrorCode.LAYER_GEOMETRY
    assert check_placement(TINY, fields | {"width_base": 2, "step": StepKind.SUM}, table) == ErrorCode.NONE
