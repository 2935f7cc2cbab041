"""docs/operators.md is what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from quant.capture.capture import from_torch
from quant.capture.errors import UnsupportedOperator
from quant.capture.operators.tables import CALLS, MACHINE, MODULES
from quant.capture.operators.translator import Translator
from quant.capture.table import MEANT, page, sentences
from quant.networks.onnx_operators.reader import OPERATORS, QUANTISERS
from tests.quant.test_import_network import HARDWARE, SHAPE, conv, pictures, seeded, sequential

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_the_one_that_the_code_writes():
    written = (ROOT / "docs/operators.md").read_text("utf-8")
    assert written == page(), "run python -m quant.capture.table --output docs/operators.md"


def test_every_operator_of_the_code_is_on_the_page():
    assert set(MACHINE) == {*CALLS, *(method for method, _ in MODULES.values())}
    assert set(MEANT) == {*OPERATORS.values(), *QUANTISERS.values()}
    assert set(MEANT.values()) <= set(MACHINE)
    assert all(f"{name}" in page() for name in (*OPERATORS, *QUANTISERS))


def test_sentences_are_those_of_the_code():
    assert "stride must be equal in both directions, got …" in sentences(Translator.conv2d)
    assert list(sentences(None)) == []


@pytest.mark.parametrize("module", [nn.GLU(1), nn.GroupNorm(2, 6), nn.Upsample(scale_factor=2)])
def test_a_module_that_the_machine_does_not_have_is_refused_with_the_pages_sentence(module):
    with pytest.raises(UnsupportedOperator) as error:
        from_torch(seeded(sequential(conv(3, 6), module, nn.Flatten())), SHAPE, HARDWARE, pictures(4))
    _, _, sentence = str(error.value).partition(" is not supported: ")
    assert f"{type(module).__name__}" in str(error.value)
    assert sentence
    assert sentence in page()
