"""Options that several commands share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from golden_model.config import PAPER, TINY
from quant.options import read_hardware


def test_hardware_is_a_preset_or_what_differs_from_one(tmp_path):
    file = tmp_path / "h.json"
    assert read_hardware("tiny") == TINY
    file.write_text('{"rows": 64}')
    assert read_hardware(str(file)) == replace(PAPER, rows=64)
    file.write_text('{"preset": "tiny", "cols": 32}')
    assert read_hardware(str(file)) == replace(TINY, cols=32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"preset": "huge"}', "preset must be one of tiny, "),
        ('{"row": 64}', "unknown fields \\['row'\\]"),
        ('{"rows": 0}', r"HardwareConfig\.rows must be in 1\.\."),
        ("[]", "must hold a JSON object"),
    ],
)
def test_a_wrong_hardware_file_is_refused(tmp_path, text, message):
    (tmp_path / "h.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_hardware(str(tmp_path / "h.json"))


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"--hardware must be one of tiny, .* or a \.json file, got 'huge'"):
        read_hardware("huge")
