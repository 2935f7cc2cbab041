"""A chain of layers, which today's hardware runs, and the same chain as a graph."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.graph.network import Graph, check_graph
from golden_model.graph.nodes import Crossbar, Image, Node
from golden_model.graph.numbers import Encoding

__all__ = ["DynamicPrecision", "Layer", "Network", "from_network"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A whole integer network: layer i's output is layer i + 1's input.

    name : what the network is. classes : names of the outputs, may be empty.
    layers : at least one; only the last has `last` set.
    info : anything worth keeping (accuracies, how it was trained), JSON-able.
    """

    name: str
    hardware: HardwareConfig
    layers: tuple[Layer, ...]
    classes: tuple[str, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)


def from_network(network: Network) -> Graph:
    """A chain as a graph, its integers unchanged.

    Real numbers are not known here: one step of every activation counts as 1, which is all that `with_settings`
    needs.
    """
    first = network.layers[0]

    def encoding(bits: int) -> Encoding:
        return Encoding(high=float((1 << bits) - 1), bits=bits)

    zeros = () if first.pad_values is None else tuple(map(float, first.pad_values))
    before = Image(
        name="image",
        shape=(first.channels, first.height, first.width),
        encoding=replace(encoding(first.input_bits), zeros=zeros),
    )
    nodes: list[Node] = [before]
    for index, layer in enumerate(network.layers):
        if index and layer.pad_values is not None and np.any(layer.pad_values):
            raise ValueError(f"layer {layer.name}: only the first layer may have border values")
        node = Crossbar(
            name=layer.name,
            inputs=(nodes[-1].name,),
            shape=(layer.outputs, layer.out_height, layer.out_width),
            encoding=encoding(layer.output_bits),
            layers=(layer,),
            step=np.ones(layer.outputs),
            bias=np.zeros(layer.outputs),
        )
        unit = node.counts_per_unit(network.hardware)
        step = np.ones(layer.outputs) if layer.last else layer.multipliers / (2.0**layer.shift * unit)
        correction = np.zeros(layer.outputs)
        if index == 0 and zeros:
            correction = np.repeat(zeros, layer.kernel_height * layer.kernel_width) @ layer.weights
        nodes.append(replace(node, step=step, bias=(layer.bias * unit + correction) * step))
    graph = Graph(
        name=network.name,
        hardware=network.hardware,
        nodes=tuple(nodes),
        classes=network.classes,
        info=dict(network.info),
    )
    check_graph(graph)
    return graph
