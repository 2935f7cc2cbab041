"""`python -m golden_model.pairs.macros`: clocks on several macros, as the programs of such machines take them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from golden_model.engines.run_network import GraphRunner
from golden_model.graph.settings import with_settings
from golden_model.image import archive as graph_file
from golden_model.image.lowering import lower
from golden_model.pairs.macros import __main__ as macros
from tests.golden_model.random_graphs import SMALL_PAIRS, random_images, random_network


def run(*arguments):
    return CliRunner().invoke(macros.app, [str(a) for a in arguments])


@pytest.mark.parametrize("seed", range(4))
def test_clocks_of_rounds_are_those_of_a_run_on_that_many_macros(seed):
    network = random_network(seed, SMALL_PAIRS)
    images = random_images(seed, network, 3)
    found = macros.macro_clocks(network, images)
    registers = {node.name: node.layers[0].registers for node in network.crossbars}
    for count, one in found.items():
        several = with_settings(network, hardware=replace(SMALL_PAIRS, macros=count), registers=registers)
        _, events = GraphRunner(several).run(images)
        elements = sum(step.cycles or 0 for step in lower(several).steps)
        assert one.rounds == pytest.approx(events.cycles.sum(axis=1).mean() + elements, abs=1e-6)


def test_no_macro_is_slower_than_one_and_the_bounds_are_below_what_the_hardware_takes():
    network = random_network(7, SMALL_PAIRS)
    found = macros.macro_clocks(network, random_images(7, network, 2))
    clocks = [one.rounds for one in found.values()]
    assert clocks == sorted(clocks, reverse=True)
    assert clocks[0] > clocks[-1]
    assert all(one.converting <= one.rounds for one in found.values())


@pytest.fixture
def files(tmp_path):
    network = random_network(3, SMALL_PAIRS)
    graph_file.save(network, tmp_path / "net.graph")
    np.savez(tmp_path / "pictures.npz", test_images=random_images(3, network, 2))
    return tmp_path


def test_every_number_of_macros_is_printed_and_written(files):
    target = files / "out.json"
    arguments = (files / "net.graph", "--images", files / "pictures.npz", "--json", target)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert list(json.loads(target.read_text())) == [str(count) for count in macros.COUNTS]


def test_a_machine_of_planes_is_refused_in_one_sentence(files):
    result = run(files / "net.graph", "--images", files / "pictures.npz", "--hardware", "paper")
    assert result.exit_code == 2
    assert "must be a pair machine of one macro" in result.stderr
