"""The notebooks of docs/notebooks run from beginning to end, and are kept without output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
#: The fastest; the others are slow tests.
FAST = {"first-chip", "noise"}


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text("utf-8"))["cells"]


def code(notebook: Path) -> str:
    return "\n\n".join("".join(cell["source"]) for cell in cells(notebook) if cell["cell_type"] == "code")


@pytest.mark.parametrize(
    "notebook", [pytest.param(n, id=n.stem, marks=[] if n.stem in FAST else [pytest.mark.slow]) for n in NOTEBOOKS]
)
def test_a_notebook_runs(notebook, tmp_path):
    env = {**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code(notebook)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_a_notebook_is_kept_without_output(notebook):
    for cell in cells(notebook):
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


def test_every_notebook_is_in_the_overview():
    overview = (ROOT / "docs" / "notebooks" / "README.md").read_text("utf-8")
    for notebook in NOTEBOOKS:
        assert f"`{notebook.name}`" in overview
