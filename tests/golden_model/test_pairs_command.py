"""`python -m golden_model.pairs`: what it prints, writes and refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from golden_model.engines.pair_switches import Switches, measure
from golden_model.image import archive as graph_file
from golden_model.pairs import __main__ as pairs_command
from golden_model.pairs.search import outward
from tests.golden_model.test_graph import everything, pixels


def run(*arguments):
    return CliRunner().invoke(pairs_command.app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A graph's file and pictures for it."""
    folder = tmp_path_factory.mktemp("pairs")
    made = everything()
    graph_file.save(made, folder / "net.graph")
    np.savez(folder / "pictures.npz", test_images=pixels(0, made, 5))
    return folder


def test_every_table_is_printed_and_written(files, tmp_path):
    target = tmp_path / "out.json"
    result = run(
        files / "net.graph", "--images", files / "pictures.npz", "--count", 2, "--calibration", 1, "--json", target
    )
    assert result.exit_code == 0, result.output
    data = json.loads(target.read_text())
    tables = ["search", "halves", "early stop", "around the conversions", "few ones"]
    assert list(data) == ["network", "images", "agree", *tables]
    for title in tables:
        assert title in result.output
    graph = everything()
    found = measure(graph, pixels(0, graph, 5)[1:3], {"outward": Switches(search=outward(graph.hardware))})["outward"]
    written = data["search"]["outward"]
    assert written["column_pairs"] == found.column_pairs
    assert written["ad_operations"] == found.total("ad_operations")
    assert [layer["cycles"] for layer in written["layers"].values()] == found.clocks["lock step"].tolist()


def test_too_few_pictures_are_refused(files):
    result = run(files / "net.graph", "--images", files / "pictures.npz", "--calibration", 5)
    assert result.exit_code == 2
    assert "more than 5 pictures are needed, got 5" in result.output


def test_pictures_of_another_shape_are_refused(files, tmp_path):
    np.savez(tmp_path / "other.npz", test_images=np.zeros((6, 1, 6, 6), dtype=np.uint8))
    result = run(files / "net.graph", "--images", tmp_path / "other.npz")
    assert result.exit_code == 2
    assert "images must have shape (B, 2, 6, 6), got (4, 1, 6, 6)" in result.output


def test_a_network_that_is_not_there_is_refused(files):
    result = run(files / "none.graph", "--images", files / "pictures.npz")
    assert result.exit_code == 2
    assert "error: " in result.output
