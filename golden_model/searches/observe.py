"""Sums of what is counted at the inputs of every layer while a network runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from golden_model.crossbar.layer import Layer
from golden_model.engines.run_network import GraphRunner, Progress
from golden_model.graph.network import Graph

Counts = TypeVar("Counts", bound=Any)


def sum_over_layers(
    graph: Graph,
    images: np.ndarray,
    count: Callable[[str, Layer, np.ndarray], Counts],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Counts]:
    """Sum over uint8 images (B, C, H, W) of what `count` says, by crossbar node, groups of a convolution together.

    count : name of the node, layer, its input activations uint8 (b, C, H, W) -> anything that can be added. The network
    runs with the converters that it has: give it lossless ones to see exact activations.
    """
    found: dict[str, Counts] = {}
    lock = threading.Lock()

    def observe(name: str, layer: Layer, activations: np.ndarray) -> None:
        mine = count(name, layer, activations)
        with lock:
            found[name] = found[name] + mine if name in found else mine

    GraphRunner(graph, threads=threads).run(images, observe=observe, progress=progress)
    return {node.name: found[node.name] for node in graph.crossbars}
