"""Activation functions as tables: their definition, and that every engine and every file keeps to it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from golden_model.crossbar.post_processing import finish
from golden_model.engines import finish_compiled, torch_engine
from golden_model.engines.pair_runner import PairRunner
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.check import check_layer
from golden_model.graph.network import build
from golden_model.graph.nodes import Add, Crossbar
from golden_model.graph.numbers import Encoding, Lookup
from golden_model.graph.settings import with_settings
from golden_model.image import archive
from golden_model.image.archive import Archive, to_bytes
from golden_model.pairs.early_stop import EarlyStop
from quant.reference import exact_logits
from tests.golden_model.random_graphs import NINE, SMALL, random_images, random_network
from tests.golden_model.test_graph import convolution, everything
from tests.golden_model.test_pairs_network import lossless
from tests.strategies import make_layer

TABLES = replace(NINE, activation_tables=64)


def lookups(graph):
    """The nodes of a graph that look something up."""
    return [node for node in graph.nodes if isinstance(node, Crossbar | Add) and node.lookup is not None]


def plain(seed):
    """A random network with tables, all bits streamed and every conversion exact."""
    graph = lossless(random_network(seed, TABLES, most=8))
    return with_settings(graph, dynamic=dict.fromkeys(node.name for node in graph.crossbars))


# ---- definition ---------------------------------------------------------------------------------
@given(
    values=st.lists(st.floats(-3, 3), min_size=8, max_size=8),
    low=st.floats(-2, 0),
    high=st.floats(0.1, 2),
    bits=st.integers(1, 8),
)
def test_a_table_holds_the_nearest_activation_of_every_code(values, low, high, bits):
    encoding = Encoding(low=low, high=high, bits=bits)
    table = Lookup(code=Encoding(high=1.0, bits=3), values=np.array(values)).table(encoding)
    for value, entry in zip(values, table.tolist(), strict=True):
        exact = Fraction(value) / Fraction(encoding.scale) + encoding.zero
        if abs(exact % 1 - Fraction(1, 2)) < Fraction(1, 10**9):
            continue  # a tie, or as good as one
        assert entry == min(max(round(exact), 0), encoding.top)


def test_codes_stand_for_real_numbers_below_and_above_0():
    lookup = Lookup.of(Encoding(low=-1.0, high=2.0, bits=2), lambda x: 10 * x)
    assert lookup.values.tolist() == [-10.0, 0.0, 10.0, 20.0]


def test_an_activation_that_cannot_be_negative_is_0_where_the_function_is():
    lookup = Lookup.of(Encoding(low=-1.0, high=2.0, bits=2), lambda x: x)
    assert lookup.table(Encoding(high=2.0, bits=2)).tolist() == [0, 0, 2, 3]


def test_entries_have_few_ones_where_activations_do():
    table = Lookup.of(Encoding(high=255.0), lambda x: x).table(Encoding(high=255.0, ones=1))
    assert {entry.bit_count() for entry in table.tolist()} == {0, 1}


@pytest.mark.parametrize("values", [np.zeros(7), np.zeros((8, 1))])
def test_a_table_of_another_size_is_refused(values):
    with pytest.raises(ValueError, match="a table of 3 bits must have 8 values"):
        Lookup(code=Encoding(high=1.0, bits=3), values=values)


# ---- one layer ----------------------------------------------------------------------------------
@given(seed=st.integers(0, 2**32 - 1), pool=st.integers(1, 3), bits=st.integers(1, 8), with_residual=st.booleans())
def test_post_processing_rounds_looks_up_and_then_pools(seed, pool, bits, with_residual):
    rng = np.random.default_rng(seed)
    node = convolution(rng, "layer", ("image",), (2, 7, 6), 3, pool=pool)
    table = rng.integers(0, 256, 1 << bits)
    bias, multipliers = rng.integers(-500, 500, 3), rng.integers(0, 65536, 3)
    layer = replace(
        node.layers[0], bias=bias, multipliers=multipliers, shift=18 - bits, output_bits=bits, table=table
    )  # fmt: skip
    sums = rng.integers(-300, 300, (layer.windows, 4))
    residual, factor = None, 0
    if with_residual and pool == 1:
        residual, factor = rng.integers(0, 256, (3, layer.out_height, layer.out_width)).astype(np.uint8), 9
    expected = np.zeros((3, layer.out_height * layer.out_width), dtype=int)
    for n in range(3):
        for window in range(layer.windows):
            total = (int(sums[window, n]) + int(bias[n])) * int(multipliers[n])
            total += 0 if residual is None else int(residual.reshape(3, -1)[n, window]) * factor
            code = min(max((total + (1 << layer.shift >> 1)) >> layer.shift, 0), (1 << bits) - 1)
            place = window // pool**2
            expected[n, place] = max(expected[n, place], table[code])
    expected = expected.reshape(3, layer.out_height, layer.out_width)
    np.testing.assert_array_equal(finish(layer, sums, residual, factor), expected)
    np.testing.assert_array_equal(finish_compiled.finish(layer, sums, residual, factor), expected)
    device = torch_engine.find_device("torch:cpu")
    on_device = [None if x is None else torch_engine.upload(x[None], device) for x in (sums[:, :3], residual)]
    assert on_device[0] is not None
    np.testing.assert_array_equal(torch_engine.finish(layer, on_device[0], on_device[1], factor)[0], expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"table": np.zeros(8, dtype=int)}, r"layer layer: table must have shape \(16,\), got \(8,\)"),
        ({"table": np.full(16, 16)}, r"layer layer: table must be in 0\.\.15, got 16\.\.16"),
        ({"table": np.zeros(16, dtype=int), "last": True}, "layer layer: a last layer makes sums and looks nothing up"),
    ],
)
def test_a_table_that_does_not_fit_its_layer_is_refused(change, words):
    shape = {"kind": "linear", "channels": 2, "height": 1, "width": 1, "outputs": 2}
    layer = make_layer(np.random.default_rng(0), SMALL, **shape, **change)
    with pytest.raises(ValueError, match=f"^{words}$"):
        check_layer(layer, SMALL)


# ---- networks -----------------------------------------------------------------------------------
def test_random_networks_look_up_in_layers_with_pooling_groups_and_residuals_and_in_additions():
    found = [node for seed in range(60) for node in lookups(plain(seed))]
    layers = [node for node in found if isinstance(node, Crossbar)]
    assert any(node.layers[0].pool > 1 for node in layers)
    assert any(len(node.layers) > 1 for node in layers)
    assert any(len(node.inputs) > 1 for node in layers)
    assert any(isinstance(node, Add) and len(node.inputs) > 1 for node in found)
    assert any(isinstance(node, Add) and len(node.inputs) == 1 for node in found)


@given(st.integers(0, 300))
@example(81)  # averages of windows that reach over the right edge
@settings(max_examples=40, deadline=None)
def test_all_engines_and_plain_operators_agree_on_any_network(seed):
    graph = plain(seed)
    images = random_images(seed, graph, 3)
    expected = GraphRunner(graph, engine="direct").run(images)[0]
    for engine in ("compiled", "torch:cpu"):
        np.testing.assert_array_equal(GraphRunner(graph, engine=engine).run(images)[0], expected)
    np.testing.assert_array_equal(exact_logits(graph, images), expected)


@given(st.integers(0, 300), st.sampled_from(["limit", "zero", "final"]))
@settings(max_examples=40, deadline=None)
def test_logits_with_early_stop_are_those_of_the_network(seed, condition):
    graph = lossless(random_network(seed, TABLES))
    images = random_images(seed, graph, 3)
    stop = EarlyStop(condition=condition)
    np.testing.assert_array_equal(PairRunner(graph, stop=stop).run(images), GraphRunner(graph).run(images)[0])


@given(st.integers(0, 300))
@settings(max_examples=20, deadline=None)
def test_an_addition_looks_up_what_it_would_have_given(seed):
    graph = plain(seed)
    images = random_images(seed, graph, 3)
    outputs = GraphRunner(graph, engine="direct").outputs(images)
    for node in graph.nodes:
        if not isinstance(node, Add):
            continue
        straight = replace(node, encoding=node.encoding if node.lookup is None else node.lookup.code, lookup=None)
        inputs = [graph.node(name).encoding for name in node.inputs]
        codes = straight.derived(inputs, graph.hardware).compute(*(outputs[name] for name in node.inputs))
        wanted = codes if node.table is None else node.table[codes]
        np.testing.assert_array_equal(outputs[node.name], wanted)


def test_narrower_activations_get_a_coarser_table_of_the_same_function():
    graph = next(g for g in map(plain, range(60)) if any(isinstance(n, Crossbar) for n in lookups(g)))
    node = next(n for n in lookups(graph) if isinstance(n, Crossbar))
    changed = with_settings(graph, activation_bits={node.name: 1}).node(node.name)
    assert isinstance(changed, Crossbar)
    assert changed.layers[0].output_bits == node.layers[0].output_bits
    assert set(np.unique(changed.layers[0].table)) <= {0, 1}


# ---- files --------------------------------------------------------------------------------------
def test_tables_come_back_from_a_file(tmp_path):
    graph = next(g for g in map(plain, range(60)) if {type(n) for n in lookups(g)} == {Add, Crossbar})
    archive.save(graph, tmp_path / "net.graph")
    back = archive.load(tmp_path / "net.graph")
    for node, other in zip(lookups(graph), lookups(back), strict=True):
        assert node.lookup.code == other.lookup.code
        np.testing.assert_array_equal(node.lookup.values, other.lookup.values)
    for layer, other in zip(graph.layers, back.layers, strict=True):
        np.testing.assert_array_equal(layer.table, other.table)


def test_a_file_whose_table_does_not_follow_from_the_function_is_not_written(tmp_path):
    graph = next(g for g in map(plain, range(60)) if any(isinstance(n, Crossbar) for n in lookups(g)))
    node = next(n for n in lookups(graph) if isinstance(n, Crossbar))
    layers = tuple(replace(layer, table=1 - layer.table.clip(0, 1)) for layer in node.layers)
    nodes = tuple(replace(node, layers=layers) if one is node else one for one in graph.nodes)
    with pytest.raises(ValueError, match=rf"{node.name}.layers.0.table does not follow from the real numbers"):
        archive.save(replace(graph, nodes=nodes), tmp_path / "net.graph")


def test_files_of_networks_without_tables_say_nothing_of_them():
    data = to_bytes(everything(0))
    manifest = Archive(data, archive.SCHEMA, archive.VERSION, archive.NETWORK_PARTS).manifest
    assert "lookup" not in str(manifest)
    assert "table" not in str(manifest)


def test_a_graph_that_is_built_again_keeps_its_tables():
    graph = plain(next(seed for seed in range(60) if lookups(plain(seed))))
    again = build(graph.name, graph.hardware, graph.nodes)
    for layer, other in zip(graph.layers, again.layers, strict=True):
        np.testing.assert_array_equal(layer.table, other.table)
