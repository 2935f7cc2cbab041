"""Generators of configurations, registers, layers and networks, shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from golden_model import trq
from golden_model.config import PAPER, HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.graph.network import Graph, build
from golden_model.graph.nodes import Crossbar, Image, Node
from golden_model.graph.numbers import Encoding
from golden_model.trq import AdcRegisters


def legal_registers(adc_bits: int) -> Iterator[AdcRegisters]:
    """Every legal setting for a resolution (system.md §4.1)."""
    for n_r2 in range(1, adc_bits + 1):
        for m in range(adc_bits - n_r2 + 1):
            yield AdcRegisters(mode="uniform", n_r2=n_r2, m=m)
            for n_r1 in range(n_r2 + m):
                for bias in range((1 << (n_r2 + m - n_r1)) - 1):
                    yield AdcRegisters(mode="twin", n_r2=n_r2, n_r1=n_r1, m=m, bias=bias)


@st.composite
def adc_registers(draw: st.DrawFn, adc_bits: int) -> AdcRegisters:
    """A legal setting for a resolution."""
    n_r2 = draw(st.integers(1, adc_bits))
    m = draw(st.integers(0, adc_bits - n_r2))
    if draw(st.booleans()) and draw(st.booleans()):
        return AdcRegisters(mode="uniform", n_r2=n_r2, m=m)
    n_r1 = draw(st.integers(0, n_r2 + m - 1))
    bias = draw(st.integers(0, (1 << (n_r2 + m - n_r1)) - 2))
    return AdcRegisters(mode="twin", n_r2=n_r2, n_r1=n_r1, m=m, bias=bias)


@st.composite
def hardware_configs(draw: st.DrawFn, **fixed: Any) -> HardwareConfig:
    """Small machines of any shape; `fixed` pins fields."""
    values: dict[str, Any] = {
        "ou_rows": draw(st.integers(1, 9)),
        "ou_cols": draw(st.integers(1, 4)),
        "adc_bits": draw(st.integers(1, 8)),
        "input_bits": draw(st.integers(1, 8)),
        "weight_bits": draw(st.integers(1, 8)),
        "sample_interval": draw(st.integers(1, 4)),
        "crossbar_pairs": 256,
        "max_k": 256,
        "max_n": 64,
        "accumulator_bits": 40,
    } | fixed
    values.setdefault("rows", values["ou_rows"] * draw(st.integers(1, 4)) + draw(st.integers(0, 1)))
    values.setdefault("cols", values["ou_cols"] * draw(st.integers(1, 5)) + draw(st.integers(0, 1)))
    values.setdefault("group_segments", draw(st.one_of(st.none(), st.integers(1, 4))))
    return HardwareConfig(**values)


def dynamic_precisions() -> st.SearchStrategy[DynamicPrecision]:
    """Dynamic-precision registers, often without the lossy part."""
    return st.builds(DynamicPrecision, l_max=st.integers(0, 7), tau_sq=st.sampled_from([0, 1, 40, 400, 4096, 65535]))


def make_weights(rng: np.random.Generator, k: int, n: int, hardware: HardwareConfig, *, sparse: bool = True):
    """(K, N) weights whose blocks have very different widths, pruned ones among them."""
    rows, cols = -(-k // hardware.ou_rows), -(-n // hardware.ou_cols)
    width = rng.integers(0 if sparse else hardware.weight_bits, hardware.weight_bits + 1, (rows, cols))
    top = np.kron((1 << width) - 1, np.ones((hardware.ou_rows, hardware.ou_cols), dtype=np.int64))[:k, :n]
    return rng.integers(-top, top + 1)


def make_layer(rng: np.random.Generator, hardware: HardwareConfig, **values: Any) -> Layer:
    """A random layer; whatever is not given has a default that fits (kernel, stride, tables)."""
    given = {"name": "layer", "kind": "conv", "stride": 1, "pad": 0, "pool": 1, "shift": 4, **values}
    if given["kind"] == "linear":
        given |= {"kernel_height": given["height"], "kernel_width": given["width"]}
    k, n = given["channels"] * given["kernel_height"] * given["kernel_width"], given["outputs"]
    given.setdefault("weights", make_weights(rng, k, n, hardware))
    given.setdefault("bias", rng.integers(-20, 21, n))
    given.setdefault("multipliers", rng.integers(1, 16, n))
    given.setdefault("block_widths", mapping.block_widths(given["weights"], hardware))
    given.setdefault("registers", AdcRegisters(mode="uniform", n_r2=hardware.converter_bits))
    given.setdefault("min_count", trq.min_count(hardware.adc_bits, given.get("counts_per_lsb", 1.0)))
    given.setdefault("input_bits", hardware.input_bits)
    given.setdefault("output_bits", hardware.input_bits)
    return Layer(**given)


def graph_of(layers: Sequence[Layer], hardware: HardwareConfig, **options: Any) -> Graph:
    """Layers one after the other, as a network that computes what they compute; `options` go to `build`.

    One step of every activation is the real number 1; steps and biases are those from which the layers' multipliers
    (over 2**shift), biases and, of the first layer, border values follow. Only that layer may have border values.
    """

    def encoding(bits: int, zeros: tuple[float, ...] = ()) -> Encoding:
        return Encoding(high=float((1 << bits) - 1), bits=bits, zeros=zeros)

    first = layers[0]
    zeros = () if first.pad_values is None else tuple(map(float, first.pad_values))
    shape = (first.channels, first.height, first.width)
    nodes: list[Node] = [Image(name="image", shape=shape, encoding=encoding(first.input_bits, zeros))]
    for index, layer in enumerate(layers):
        assert not index or layer.pad_values is None
        unit = layer.counts_per_lsb * 2.0 ** (hardware.converter_bits - layer.registers.n_r2 - layer.registers.m)
        step = np.ones(layer.outputs) if layer.last else layer.multipliers / (2.0**layer.shift * unit)
        correction = np.zeros(layer.outputs)
        if index == 0 and zeros:
            correction = np.repeat(zeros, layer.kernel_height * layer.kernel_width) @ layer.weights
        node = Crossbar(
            name=layer.name,
            inputs=(nodes[-1].name,),
            shape=(layer.outputs, layer.out_height, layer.out_width),
            encoding=encoding(layer.output_bits),
            layers=(layer,),
            step=step,
            bias=(layer.bias * unit + correction) * step,
        )
        nodes.append(node)
    return build(options.pop("name", "n"), hardware, nodes, **options)


def one_layer(weights: Any, hardware: HardwareConfig = PAPER, **values: Any) -> Graph:
    """A network of one linear layer with these weights (K, N)."""
    weights = np.asarray(weights)
    k, n = weights.shape
    layer = make_layer(
        np.random.default_rng(0), hardware, channels=k, height=1, width=1, kind="linear", outputs=n, weights=weights,
        last=True, **values,
    )  # fmt: skip
    return graph_of([layer], hardware)


def make_network(seed: int, hardware: HardwareConfig) -> Graph:
    """A small network with everything in it: border bytes, stride, pooling, twin range, dynamic precision.

    Input 1 x 6 x 6; fits `config.TINY` (and larger machines).
    """
    rng = np.random.default_rng(seed)
    bits = hardware.adc_bits
    twin = AdcRegisters(mode="twin", n_r2=bits, n_r1=1)
    coarse = AdcRegisters(mode="twin", n_r2=bits - 1, n_r1=1, m=1, bias=1)
    shape = {"channels": 1, "height": 6, "width": 6, "kernel_height": 3, "kernel_width": 2}
    layers = (
        make_layer(
            rng,
            hardware,
            name="conv1",
            **shape,
            pad=1,
            pool=2,
            outputs=3,
            pad_values=np.array([5]),
            registers=twin,
            skip_zero_slices=True,
        ),
        make_layer(
            rng,
            hardware,
            name="conv2",
            channels=3,
            height=3,
            width=3,
            kernel_height=2,
            kernel_width=2,
            outputs=3,
            registers=coarse,
            dynamic=DynamicPrecision(l_max=2, tau_sq=400),
        ),
        make_layer(
            rng,
            hardware,
            name="linear",
            kind="linear",
            channels=3,
            height=2,
            width=2,
            outputs=3,
            registers=twin,
            dynamic=DynamicPrecision(),
            last=True,
        ),
    )
    return graph_of(layers, hardware, name="tiny", classes=("a", "b", "c"), info={"seed": seed})


def make_images(seed: int, network: Graph, count: int) -> np.ndarray:
    """Random uint8 images (count, C, H, W) for a network."""
    image = network.image
    return np.random.default_rng(seed).integers(0, image.encoding.top + 1, (count, *image.shape)).astype(np.uint8)


@st.composite
def search_trees(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    """Any search tree over the counts 0..size, thresholds in preorder."""
    tree: list[int] = []
    intervals = [(0, size)]
    while intervals:
        low, high = intervals.pop()
        if low < high:
            tree.append(draw(st.integers(low + 1, high)))
            intervals += [(tree[-1], high), (low, tree[-1] - 1)]
    return tuple(tree)


@st.composite
def lossless_searches(draw: st.DrawFn, ou_rows: int, adc_bits: int) -> AdcRegisters:
    """Registers of any search of system.md §13."""
    given: dict[str, Any] = {"n_r2": adc_bits, "column_bound_bits": draw(st.sampled_from([0, 1, "full", "ou"]))}
    kind = draw(st.sampled_from(["bounded", "twin", "tree", "trees"]))
    if kind == "bounded":
        return AdcRegisters(mode="bounded", **given)
    if kind == "twin":
        return AdcRegisters(mode="twin", n_r1=draw(st.integers(0, adc_bits - 1)), **given)
    if kind == "tree":
        bound = draw(st.none() | st.just(given["column_bound_bits"]))
        return AdcRegisters(mode="tree", trees=(draw(search_trees(ou_rows)),), **given | {"column_bound_bits": bound})
    sizes = sorted(draw(st.sets(st.integers(0, ou_rows - 1), max_size=4))) if ou_rows > 1 else [0]
    return AdcRegisters(mode="tree", trees=tuple(draw(search_trees(n)) for n in (*sizes, ou_rows)), **given)
