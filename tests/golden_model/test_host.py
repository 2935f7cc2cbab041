"""Nodes of the host beside PyTorch, within one step of their encoding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from golden_model.graph.host import COUNTS, AddConstant, Attention, Host, LayerNorm, total_work, work_of
from golden_model.graph.network import Graph, build
from golden_model.graph.nodes import Image, Node
from golden_model.graph.numbers import Encoding
from golden_model.image import archive
from tests.golden_model import test_graph as graphs

TAKEN = Encoding(low=-3.0, high=5.0)


def given(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, *shape), dtype=np.uint8)


def real(encoding: Encoding, q: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(encoding.scale * (q.astype(np.float64) - encoding.zero))


def close(node: Host, q: np.ndarray, wanted: torch.Tensor) -> None:
    derived = node.derived([TAKEN], graphs.SMALL)
    exact = wanted.numpy() / node.encoding.scale + node.encoding.zero
    inside = np.clip(exact, 0, node.encoding.top)
    assert np.abs(derived.compute(q) - inside).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(derived.compute(torch.from_numpy(q)).numpy(), derived.compute(q))


@pytest.mark.parametrize("eps", [1e-5, 1.0])
def test_layer_norm_is_over_the_channels_of_a_pixel(eps):
    rng, q = np.random.default_rng(1), given(1, 12, 5, 2)
    gain, bias = rng.normal(1, 0.3, 12), rng.normal(0, 0.3, 12)
    node = LayerNorm(
        name="n", inputs=("x",), shape=(12, 5, 2), encoding=Encoding(low=-3.0, high=3.0), gain=gain, bias=bias, eps=eps
    )
    x = real(TAKEN, q).permute(0, 2, 3, 1)
    wanted = F.layer_norm(x, (12,), torch.from_numpy(gain), torch.from_numpy(bias), eps)
    close(node, q, wanted.permute(0, 3, 1, 2))


def test_a_pixel_of_equal_channels_is_normalised_to_the_bias():
    node = LayerNorm(
        name="n",
        inputs=("x",),
        shape=(4, 1, 1),
        encoding=Encoding(high=2.0),
        gain=np.ones(4),
        bias=np.ones(4),
        eps=1e-6,
    )
    close(node, np.full((3, 4, 1, 1), 7, dtype=np.uint8), torch.ones(3, 4, 1, 1))


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_is_that_of_every_head(heads):
    q = given(2, 18, 7, 1)
    node = Attention(name="a", inputs=("x",), shape=(6, 7, 1), encoding=Encoding(low=-3.0, high=5.0), heads=heads)
    parts = real(TAKEN, q).reshape(3, 3, heads, 6 // heads, 7).transpose(3, 4)
    wanted = F.scaled_dot_product_attention(parts[:, 0], parts[:, 1], parts[:, 2])
    close(node, q, wanted.transpose(2, 3).reshape(3, 6, 7, 1))


def test_a_constant_is_added_per_token():
    values = np.random.default_rng(3).normal(0, 1, (4, 5, 1))
    node = AddConstant(name="c", inputs=("x",), shape=(4, 5, 1), encoding=Encoding(low=-4.0, high=6.0), values=values)
    q = given(3, 4, 5, 1)
    close(node, q, real(TAKEN, q) + torch.from_numpy(values))


def test_an_image_with_a_mean_per_channel_cannot_go_to_the_host():
    node = AddConstant(name="c", inputs=("x",), shape=(1, 1, 1), encoding=Encoding(high=1.0), values=np.ones((1, 1, 1)))
    with pytest.raises(ValueError, match="an image with a mean per channel can only be the input of convolutions"):
        node.derived([Encoding(high=1.0, zeros=(3.0,))], graphs.SMALL)


def small() -> Graph:
    rng = np.random.default_rng(4)
    nodes: list[Node] = [
        Image(name="image", shape=(2, 6, 6), encoding=Encoding(high=1.0)),
        graphs.convolution(rng, "qkv", ("image",), (2, 6, 6), 12, low=-9.0),
        Attention(name="a", inputs=("qkv",), shape=(4, 6, 6), encoding=Encoding(low=-9.0, high=9.0), heads=2),
        graphs.head(rng, "fc", "a", (4, 6, 6)),
    ]
    return build("attends", graphs.SMALL, nodes)


def test_a_norm_and_a_constant_are_the_same_after_writing(tmp_path):
    """Arrays of real numbers come back to the last bit."""
    rng = np.random.default_rng(6)
    encoding = Encoding(low=-3.0, high=5.0)
    nodes: list[Node] = [
        Image(name="image", shape=(2, 6, 6), encoding=Encoding(high=1.0)),
        graphs.convolution(rng, "c", ("image",), (2, 6, 6), 12, low=-9.0),
        AddConstant(
            name="a", inputs=("c",), shape=(12, 6, 6), encoding=encoding, values=rng.normal(0, 1 / 3, (12, 6, 6))
        ),
        LayerNorm(
            name="n",
            inputs=("a",),
            shape=(12, 6, 6),
            encoding=encoding,
            gain=rng.normal(1, 1 / 3, 12),
            bias=rng.normal(0, 1 / 3, 12),
            eps=1e-5,
        ),
        graphs.head(rng, "fc", "n", (12, 6, 6)),
    ]
    network = build("normalised", graphs.SMALL, nodes)
    archive.save(network, tmp_path / "n.graph")
    read = archive.load(tmp_path / "n.graph")
    again, constant = read.node("n"), read.node("a")
    assert isinstance(again, LayerNorm)
    assert isinstance(constant, AddConstant)
    wanted = network.node("n"), network.node("a")
    assert (again.eps, again.taken, again.encoding) == (1e-5, encoding, encoding)
    assert (constant.taken, constant.encoding) == (network.node("c").encoding, encoding)
    assert again.gain.tobytes() + again.bias.tobytes() == wanted[0].gain.tobytes() + wanted[0].bias.tobytes()
    assert constant.values.tobytes() == wanted[1].values.tobytes()
    q = given(7, 12, 6, 6)
    for one, other in zip((again, constant), wanted, strict=True):
        np.testing.assert_array_equal(one.compute(q), other.compute(q))
    assert archive.to_bytes(read) == archive.to_bytes(network)


def test_activations_of_the_host_may_have_few_ones():
    encoding = Encoding(high=5.0, ones=2)
    node = AddConstant(name="c", inputs=("x",), shape=(12, 6, 6), encoding=encoding, values=np.zeros((12, 6, 6)))
    made = node.derived([TAKEN], graphs.SMALL).compute(given(8, 12, 6, 6))
    assert {int(value).bit_count() for value in np.unique(made)} == {0, 1, 2}


def test_work_of_the_host_has_one_input():
    network = small()
    nodes = [replace(node, inputs=("qkv", "qkv")) if node.name == "a" else node for node in network.nodes]
    with pytest.raises(ValueError, match="node a: work of the host has one input, got 2"):
        build("attends", graphs.SMALL, nodes)


@pytest.mark.parametrize("shape", [(11,), (12, 1), ()], ids=str)
def test_a_gain_of_another_shape_is_refused(shape):
    node = LayerNorm(
        name="n",
        inputs=("x",),
        shape=(12, 5, 1),
        encoding=TAKEN,
        gain=np.ones(shape),
        bias=np.zeros(12),
        eps=1e-5,
    )
    with pytest.raises(ValueError, match="gain and bias must have 12 values, eps must be above 0"):
        node.expected_shape([(12, 5, 1)])


def test_a_graph_with_host_nodes_is_the_same_after_writing(tmp_path):
    network = small()
    archive.save(network, tmp_path / "n.graph")
    again = archive.load(tmp_path / "n.graph").node("a")
    assert isinstance(again, Attention)
    assert (again.heads, again.taken, again.encoding) == (2, network.node("qkv").encoding, network.node("a").encoding)
    q = given(5, 12, 6, 6)
    np.testing.assert_array_equal(again.compute(q), network.node("a").compute(q))


def test_operations_are_counted_by_name():
    node = small().node("a")
    assert isinstance(node, Attention)
    t, c, h = 36, 4, 2
    assert node.operations == {
        "multiply": 2 * c * t * t + h * t * t + c * t,
        "add": 2 * c * t * t + h * t * t - c * t - h * t,
        "divide": c * t,
        "exp": h * t * t,
        "bytes_in": 3 * c * t,
        "bytes_out": c * t,
    }


def test_work_is_listed_by_node_with_every_count_and_summed():
    (row,) = work_of(small().nodes)
    assert row == {"node": "a", **dict.fromkeys(COUNTS, 0), **small().node("a").operations}
    assert total_work([row, row]) == {name: 2 * row[name] for name in COUNTS}


def test_channels_that_are_no_heads_are_refused():
    node = Attention(name="a", inputs=("x",), shape=(4, 5, 1), encoding=Encoding(high=1.0), heads=3)
    with pytest.raises(ValueError, match="its 12 channels must be q, k and v of 3 heads"):
        node.expected_shape([(12, 5, 1)])
