"""Integer networks of any shape: residual additions, concatenations, pooling between crossbar layers (system.md §3).

A `Graph` is a list of nodes in the order of computation; the first is the image, the last makes the logits.
Crossbar nodes hold `Layer`s with their converters and dynamic precision; everything else is integer post-processing
on unsigned activations (nodes.py).

An activation is an unsigned integer q with an `Encoding`: real = scale * (q - zero). `zero` is 0 wherever a
ReLU came before; a tensor that can be negative is stored with a zero point, which the biases of its producer
and of its consumers take up, so that crossbars still see unsigned activations (*ours*; system.md §3 has
unsigned activations only). Graphs do not have to fit one tile: image/program.py finds out.

Nodes keep the real numbers they came from beside the integers; `settings.with_settings` derives the integers again
for other converters, activation widths or hardware. `GraphRunner` of golden_model/engines/run_network.py runs images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import Layer
from golden_model.graph.check import check_nodes, check_structure
from golden_model.graph.nodes import Crossbar, Node
from golden_model.graph.numbers import Encoding


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """An integer network; make one with `build` or quant.capture.capture.

    nodes : in order of computation; the first is the `Image`, the last makes the logits.
    classes : names of the outputs, may be empty. info : anything worth keeping, JSON-able.
    """

    name: str
    hardware: HardwareConfig
    nodes: tuple[Node, ...]
    classes: tuple[str, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> Node:
        return self.nodes[0]

    @property
    def output(self) -> Node:
        return self.nodes[-1]

    @cached_property
    def crossbars(self) -> tuple[Crossbar, ...]:
        """The crossbar nodes, in order; events of a run have one row for each."""
        return tuple(node for node in self.nodes if isinstance(node, Crossbar))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All crossbar layers; a grouped convolution has one per group."""
        return tuple(layer for node in self.crossbars for layer in node.layers)

    def node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise ValueError(f"graph {self.name}: it has no node {name!r}")


def build(
    name: str,
    hardware: HardwareConfig,
    nodes: Sequence[Node],
    *,
    classes: Sequence[str] = (),
    info: dict[str, Any] | None = None,
) -> Graph:
    """A checked graph, with all integers derived from the real numbers of `nodes`.

    Raises ValueError, one sentence naming the node, for anything that does not fit.
    """
    check_structure(name, nodes)
    encodings: dict[str, Encoding] = {}
    made: list[Node] = []
    for node in nodes:
        try:
            derived = node.derived([encodings[i] for i in node.inputs], hardware)
        except ValueError as error:
            text = str(error)
            raise ValueError(text if node.name in text else f"node {node.name}: {text}") from None
        if isinstance(derived, Crossbar):
            derived = _scaled(derived, encodings[node.inputs[0]], hardware)
        made.append(derived)
        encodings[node.name] = derived.encoding
    graph = Graph(
        name=name, hardware=hardware, nodes=tuple(made), classes=tuple(classes), info={} if info is None else info
    )
    check_graph(graph)
    return graph


def _scaled(node: Crossbar, x: Encoding, hardware: HardwareConfig) -> Crossbar:
    """The node with the real scales of its layers written down (for people, reports and `logit_scale`)."""
    unit = float(node.step[0]) * x.scale * node.counts_per_unit(hardware)
    scales = {
        "weight": float(node.step[0]),
        "input": x.scale,
        "output": unit if node.last else node.encoding.scale,
    }
    return replace(node, layers=tuple(replace(layer, scales=scales) for layer in node.layers))


def check_graph(graph: Graph) -> None:
    """Raise ValueError or TypeError, one sentence naming the node, unless the graph can be run."""
    check_nodes(graph.name, graph.hardware, graph.nodes, graph.classes)
