"""Activation levels with few ones: their definition, and that every engine and every file keeps to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from golden_model import few_ones
from golden_model.engines.run_network import GraphRunner
from golden_model.few_ones import nearest_level
from golden_model.graph.network import Graph
from golden_model.graph.nodes import Add, AveragePool, Concat, Crossbar
from golden_model.graph.numbers import Encoding
from golden_model.graph.settings import with_settings
from golden_model.image import archive, describe
from golden_model.image.program import plan
from quant.reference import exact_logits
from tests.golden_model.random_graphs import NINE, random_images, random_network
from tests.golden_model.test_graph import everything, pixels
from tests.golden_model.test_pairs_network import lossless


def with_few_ones(graph: Graph, ones: int) -> Graph:
    """Few ones wherever a node rounds to a range from 0."""
    rounding = [node for node in graph.nodes if isinstance(node, Crossbar | Add | Concat | AveragePool)]
    return with_settings(graph, activation_ones={node.name: ones for node in rounding if not node.encoding.low})


# ---- definition ---------------------------------------------------------------------------------
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("ones", range(1, 9))
def test_values_go_to_the_nearest_level_and_ties_to_the_larger(bits, ones):
    allowed = [v for v in range(1 << bits) if f"{v:b}".count("1") <= ones]
    expected = [min(allowed, key=lambda level, v=v: (abs(level - v), -level)) for v in range(1 << bits)]
    assert nearest_level(np.arange(1 << bits, dtype=np.uint8), bits, ones).tolist() == expected
    assert few_ones.levels(bits, ones).tolist() == allowed


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("ones", range(1, 9))
def test_the_hardware_rule_gives_the_same_level(bits, ones):
    """Keep the leading ones, look at one bit, add at the lowest of them, keep what would not fit."""
    for value in range(1 << bits):
        places = [b for b in reversed(range(bits)) if value >> b & 1]
        expected = value
        if len(places) > ones:
            kept, q = sum(1 << b for b in places[:ones]), places[ones - 1]
            up = kept + (1 << q)
            expected = up if value >> (q - 1) & 1 and up < 1 << bits else kept
        assert nearest_level(np.array([value]), bits, ones).item() == expected


def test_no_limit_leaves_values_alone():
    values = np.arange(16)
    assert nearest_level(values, 4, 0) is values


def test_arrays_and_tensors_keep_their_kind():
    array = np.array([[7, 14]], dtype=np.uint8)
    assert (nearest_level(array, 4, 2).dtype, nearest_level(array, 4, 2).tolist()) == (np.uint8, [[8, 12]])
    tensor = nearest_level(torch.from_numpy(array), 4, 2)
    assert (tensor.dtype, tensor.tolist()) == (torch.uint8, [[8, 12]])


def test_few_ones_must_be_in_range():
    with pytest.raises(ValueError, match=r"few ones: ones must be in 1\.\.8, got 9"):
        nearest_level(np.array([1]), 4, 9)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ones": 9}, r"at most 1\.\.8 ones, or 0 for any, got 9"),
        ({"ones": 2, "low": -1.0}, r"with few ones must have a range from 0, got -1\.0\.\.1\.0"),
    ],
)
def test_an_encoding_that_cannot_have_few_ones_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        Encoding(high=1.0, **values)


# ---- networks -----------------------------------------------------------------------------------
@given(st.integers(0, 300), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_all_engines_and_plain_operators_agree_on_any_network(seed, ones):
    graph = lossless(random_network(seed, NINE))
    graph = with_few_ones(with_settings(graph, dynamic=dict.fromkeys(node.name for node in graph.crossbars)), ones)
    images = random_images(seed, graph, 3)
    expected = GraphRunner(graph, engine="direct").run(images)[0]
    for engine in ("compiled", "torch:cpu"):
        np.testing.assert_array_equal(GraphRunner(graph, engine=engine).run(images)[0], expected)
    np.testing.assert_array_equal(exact_logits(graph, images), expected)


@pytest.mark.parametrize("ones", [1, 2])
def test_every_node_rounds_what_it_would_have_given(ones):
    """Node by node, from the same inputs."""
    plain = everything(2)
    few = with_few_ones(plain, ones)
    outputs = GraphRunner(few, engine="direct").outputs(pixels(3, plain, 4))
    for node, other in zip(few.nodes, plain.nodes, strict=True):
        if isinstance(node, Add | Concat | AveragePool):
            given = other.compute(*(outputs[name] for name in node.inputs))
            wanted = nearest_level(given, node.encoding.bits, ones)
            np.testing.assert_array_equal(outputs[node.name], wanted, err_msg=node.name)
            assert (wanted != given).any()
        elif isinstance(node, Crossbar) and node.encoding.ones and not node.last:
            assert set(np.unique(outputs[node.name])) <= set(few_ones.levels(node.encoding.bits, ones))


def test_layers_take_the_ones_of_their_nodes_output():
    graph = with_few_ones(everything(0), 2)
    assert {layer.name: layer.output_ones for layer in graph.layers}["stem.0"] == 2
    assert {layer.name: layer.output_ones for layer in graph.layers}["sum.0"] == 0  # a range from -2


def test_a_node_with_a_signed_range_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^node sum: an activation with few ones must have a range from 0"):
        with_settings(everything(0), activation_ones={"sum": 2})


def test_a_node_that_does_not_round_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^activation_ones: the graph has no node 'max' that requantises$"):
        with_settings(everything(0), activation_ones={"max": 2})


def test_few_ones_come_back_from_a_file(tmp_path):
    graph = with_few_ones(everything(1), 2)
    archive.save(graph, tmp_path / "net.graph")
    back = archive.load(tmp_path / "net.graph")
    assert [node.encoding.ones for node in back.nodes] == [node.encoding.ones for node in graph.nodes]
    assert [layer.output_ones for layer in back.layers] == [layer.output_ones for layer in graph.layers]
    assert any(layer.output_ones for layer in back.layers)


def test_a_description_says_how_many_ones_there_are(tmp_path):
    archive.save(with_few_ones(everything(1), 2), tmp_path / "net.graph")
    done = CliRunner().invoke(describe.app, [str(tmp_path / "net.graph")])
    assert "8, 2 ones" in done.output


def test_a_file_whose_layers_say_something_else_than_their_node_is_not_written(tmp_path):
    graph = everything(1)
    node = graph.crossbars[0]
    wrong = replace(node, layers=tuple(replace(layer, output_ones=2) for layer in node.layers))
    nodes = tuple(wrong if one is node else one for one in graph.nodes)
    with pytest.raises(ValueError, match="stem"):
        archive.save(replace(graph, nodes=nodes), tmp_path / "net.graph")


def test_a_program_refuses_few_ones_by_name():
    graph = lossless(random_network(5, NINE, ("convolution",)))
    node = next(node for node in graph.crossbars if not node.last and not node.encoding.low)
    few = with_settings(graph, activation_ones={node.name: 2})
    with pytest.raises(ValueError, match=rf"node {node.name}: a program cannot make activations with at most 2 ones"):
        plan(few)
