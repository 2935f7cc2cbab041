"""Images through a graph, layer by layer, with the options of the pair machine that touch what is computed (*ours*).

runner = PairRunner(graph)
for step in runner.steps(images): ...               # what every crossbar layer takes, in order
PairRunner(graph, stop=EarlyStop()).run(images)     # from sums that lack what was stopped: logits of the graph
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from golden_model.crossbar.layer import Layer
from golden_model.crossbar.post_processing import finish
from golden_model.crossbar.prepared import Prepared, prepare_layer
from golden_model.crossbar.windows import windows
from golden_model.engines.run_layer import run_layer
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph
from golden_model.graph.nodes import Crossbar
from golden_model.pairs.early_stop import EarlyStop, Stopping, Stops, find_stops, stop_of


@dataclass(frozen=True, eq=False)
class Step:
    """A crossbar layer and what it takes.

    node : name of the crossbar node; index : which of its groups. windows : uint8 (images * windows, K).
    residual : (images * windows, N) in the same order, or None, of residual_bits; residual_multiplier : M_r.
    """

    node: str
    index: int
    layer: Layer
    prepared: Prepared
    windows: np.ndarray
    residual: np.ndarray | None
    residual_bits: int
    residual_multiplier: int

    def stops(self, stop: EarlyStop | None) -> Stops | None:
        """When outputs stop; None for a layer that has no check, as a last one."""
        if stop is None or not stop.bits(self.layer):
            return None
        return find_stops(self.layer, self.prepared, self.windows, stop, self.residual, self.residual_multiplier)


class PairRunner:
    """A graph that runs batch by batch, whose steps can be looked at.

    stop : compute from the sums of outputs that stop early; converters must be lossless.
    """

    def __init__(self, graph: Graph, *, stop: Stopping = None) -> None:
        self.graph, self.stop = graph, stop
        self.prepared = {
            node.name: [prepare_layer(layer, graph.hardware) for layer in node.layers] for node in graph.crossbars
        }
        self._check_images = GraphRunner(graph).check_images
        self._last_use = {name: node.name for node in graph.nodes for name in node.inputs}
        self._bits = {node.name: node.encoding.bits for node in graph.nodes}

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits of uint8 images (B, C, H, W), int64 (B, N)."""
        walk = self.steps(images)
        while True:
            try:
                next(walk)
            except StopIteration as end:
                return end.value

    def steps(self, images: np.ndarray) -> Generator[Step, None, np.ndarray]:
        """The steps of a batch in order; returns its logits. Raises as `GraphRunner.run` for images of another kind."""
        images = self._check_images(images)
        values = {self.graph.image.name: images}
        for node in self.graph.nodes[1:]:
            inputs = [values[name] for name in node.inputs]
            if isinstance(node, Crossbar):
                outputs = []
                for index, layer in enumerate(node.layers):
                    x = inputs[0].reshape(len(images), len(node.layers), layer.channels, layer.height, layer.width)
                    activations = np.ascontiguousarray(x[:, index])
                    inside = slice(index * layer.outputs, (index + 1) * layer.outputs)
                    residual = inputs[1][:, inside] if len(inputs) > 1 else None
                    step = self._step(node, index, activations, residual)
                    yield step
                    outputs.append(self._finish(step, activations, residual))
                values[node.name] = np.concatenate(outputs, axis=1)
            else:
                values[node.name] = node.compute(*inputs)
            for name in set(node.inputs):
                if self._last_use[name] == node.name:
                    del values[name]
        return self.graph.output.logits(values[self.graph.output.name])

    def _step(self, node: Crossbar, index: int, activations: np.ndarray, residual: np.ndarray | None) -> Step:
        layer = node.layers[index]
        rows = None
        if residual is not None:
            rows = residual.reshape(len(residual), layer.outputs, -1).transpose(0, 2, 1).reshape(-1, layer.outputs)
        return Step(
            node=node.name,
            index=index,
            layer=layer,
            prepared=self.prepared[node.name][index],
            windows=windows(layer, activations).reshape(-1, layer.k),
            residual=rows,
            residual_bits=0 if rows is None else self._bits[node.inputs[1]],
            residual_multiplier=node.residual_multiplier,
        )

    def _finish(self, step: Step, activations: np.ndarray, residual: np.ndarray | None) -> np.ndarray:
        """Output of a step, uint8 (B, N, H', W'), or int64 (B, N) of a last layer."""
        layer, factor = step.layer, step.residual_multiplier
        stops = step.stops(stop_of(self.stop, step.node))
        if stops is None:
            made, _ = run_layer(
                layer,
                self.graph.hardware,
                activations,
                prepared=step.prepared,
                residuals=residual,
                residual_multiplier=factor,
            )
            return made
        sums = stops.sums.reshape(len(activations), layer.windows, layer.outputs)
        added = [None] * len(sums) if residual is None else list(residual)
        return np.stack([finish(layer, one, r, factor) for one, r in zip(sums, added, strict=True)])
