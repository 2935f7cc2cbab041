"""`python -m golden_model.pairs.clocks`: what it prints, writes and refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from golden_model.engines.pair_switches import Switches, measure
from golden_model.image import archive as graph_file
from golden_model.pairs.clocks import __main__ as clocks
from golden_model.pairs.search import outward
from tests.golden_model.test_graph import everything, pixels


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A graph's file and pictures for it."""
    folder = tmp_path_factory.mktemp("clocks")
    made = everything()
    graph_file.save(made, folder / "net.graph")
    np.savez(folder / "pictures.npz", test_images=pixels(0, made, 3))
    return folder


def run(*arguments):
    return CliRunner().invoke(clocks.app, [str(a) for a in arguments])


def test_every_layer_is_printed_and_written(files, tmp_path):
    target = tmp_path / "out.json"
    result = run(files / "net.graph", "--images", files / "pictures.npz", "--count", 2, "--json", target)
    assert result.exit_code == 0, result.output
    graph = everything()
    found = json.loads(target.read_text())
    assert list(found) == [node.name for node in graph.crossbars]
    for name, one in found.items():
        assert name in result.stdout
        assert one["deciding"] <= one["converting"] <= one["clocks"]


def test_decisions_are_those_of_measure():
    graph = everything()
    images = pixels(0, graph, 2)
    found = clocks.network_clocks(graph, images)
    other = measure(graph, images, {"outward": Switches(search=outward(graph.hardware), clocks="halves")})["outward"]
    lanes = other.converters
    assert sum(one.deciding for one in found.values()) * lanes == pytest.approx(other.total("ad_operations"))


def test_a_file_that_is_not_there_is_one_sentence_and_status_2(files):
    result = run(files / "none.graph", "--images", files / "pictures.npz")
    assert result.exit_code == 2
    assert result.stdout == ""
