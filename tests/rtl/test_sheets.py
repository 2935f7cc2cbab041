"""Sheets of the blocks: they are those of the code, and their ports those of the Verilog."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from amaranth.hdl import Shape
from amaranth.lib import data
from hypothesis import given
from hypothesis import strategies as st

from golden_model.config import PRESETS
from rtl import generate, sheets
from rtl.generate import COMPONENTS, OF_PAIRS

pytestmark = [pytest.mark.rtl, pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")]

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "blocks"


def test_the_sheets_are_those_of_the_code():
    assert sheets.stale(FOLDER, COMPONENTS, OF_PAIRS) == [], "run `make sheets`"


@pytest.mark.parametrize("name", ["trq_sar", "pair_lane", "axi_lite", "window_register"])
def test_ports_of_a_sheet_are_those_of_the_verilog(name):
    hardware = PRESETS["tiny-pairs" if name in OF_PAIRS else "tiny"]
    text = generate.verilog(name, hardware)
    found = re.findall(r"^  (input|output)(?: reg)?(?: signed)? (?:\[(\d+):0\] )?\\?(\w+) ?;", _top(text, name), re.M)
    verilog = {port: (way[:-3], int(high or 0) + 1) for way, high, port in found}
    assert verilog.pop("clk") == verilog.pop("rst") == ("in", 1)
    assert verilog == {port: (way, width) for port, way, width, _ in sheets.ports(COMPONENTS[name](hardware))}


def _top(text, name):
    return next(module for module in text.split("endmodule") if re.search(rf"^module {name}\b", module, re.M))


@st.composite
def shapes(draw, depth=3):
    kind = draw(st.sampled_from(["number", "struct", "array"] if depth else ["number"]))
    if kind == "struct":
        return data.StructLayout({f"f{i}": draw(shapes(depth - 1)) for i in range(draw(st.integers(1, 3)))})
    if kind == "array":
        return data.ArrayLayout(draw(shapes(depth - 1)), draw(st.integers(1, 3)))
    return draw(st.integers(1, 9))


@given(shapes())
def test_every_bit_of_a_packed_port_is_in_one_part(shape):
    parts = list(sheets.fields(shape))
    bits = [bit for _, low, width, _ in parts for bit in range(low, low + width)]
    assert bits == (list(range(Shape.cast(shape).width)) if isinstance(shape, data.Layout) else [])
    assert len({name for name, *_ in parts}) == len(parts)


def test_a_sheet_that_differs_is_missing_or_of_no_block_is_stale(tmp_path):
    sheets.write(tmp_path, COMPONENTS, OF_PAIRS)
    assert not sheets.stale(tmp_path, COMPONENTS, OF_PAIRS)
    (tmp_path / "tile.md").write_text("other")
    (tmp_path / "macro.md").unlink()
    (tmp_path / "none.md").write_text("")
    assert sheets.stale(tmp_path, COMPONENTS, OF_PAIRS) == ["macro.md", "none.md", "tile.md"]
