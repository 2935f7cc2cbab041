"""The hardware configuration: fields of several macros, and files and hashes from before them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from golden_model.config import PRESETS, TINY, HardwareConfig

PAIRS = PRESETS["tiny-pairs"]


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (PAIRS, {"macros": 3}, "HardwareConfig.macros must be a power of two, got 3"),
        (PAIRS, {"macros": 0}, "HardwareConfig.macros must be in 1..16, got 0"),
        (PAIRS, {"macros": 32}, "HardwareConfig.macros must be in 1..16, got 32"),
        (TINY, {"macros": 2}, "HardwareConfig.macros must be 1 in a machine of planes, got 2"),
        (
            PAIRS,
            {"macros": 4, "activation_bytes": 16},
            "HardwareConfig.activation_bytes of a pair machine must be more than 16 with macros = 4, got 16",
        ),
    ],
)
def test_a_number_of_macros_that_cannot_be_is_refused(base, changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replace(base, **changes)


@pytest.mark.parametrize("hardware", [TINY, PAIRS, replace(PAIRS, macros=4)])
def test_a_configuration_comes_back_from_its_fields(hardware):
    assert HardwareConfig.from_dict(hardware.as_dict()) == hardware


def test_fields_that_came_later_are_left_out_where_they_have_their_defaults():
    assert not {"machine", "macros"} & set(TINY.as_dict())
    assert "macros" not in PAIRS.as_dict()
    assert replace(PAIRS, macros=2).as_dict()["macros"] == 2


def test_hashes_from_before_macros_stay_what_they_were():
    assert (PRESETS["paper"].hash[:8], PRESETS["paper-pairs"].hash[:8]) == ("805b653e", "a9179bc9")


def test_machines_of_other_numbers_of_macros_have_other_hashes():
    assert len({replace(PAIRS, macros=count).hash for count in (1, 2, 4, 8, 16)}) == 5
