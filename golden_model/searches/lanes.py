"""Operations and clocks of networks, in lock step and with decoupled lanes (golden_model/crossbar/lanes.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from golden_model import timing
from golden_model.crossbar.lanes import spend
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import prepare_layer
from golden_model.crossbar.windows import windows
from golden_model.graph.network import Graph
from golden_model.searches.observe import sum_over_layers
from golden_model.trq import AdcRegisters


@dataclass(frozen=True, eq=False)
class GraphSpent:
    """What an image spends on average, float64 (crossbar nodes,); clocks as `events.cycles`."""

    operations: np.ndarray
    ou_activations: np.ndarray
    input_bits_streamed: np.ndarray
    lock_step: np.ndarray
    decoupled: np.ndarray


def graph_spent(
    graph: Graph,
    images: np.ndarray,
    settings: Mapping[str, Mapping[str, AdcRegisters]] | None = None,
    *,
    skip_zero_slices: Sequence[bool | None] = (None,),
    threads: int | None = None,
) -> dict[tuple[str, bool | None], GraphSpent]:
    """Operations and clocks of a graph under several *lossless* settings in one pass of images, uint8 (B, C, H, W).

    graph : itself runs with the converters that it has. settings : by any name, registers by name of the crossbar node;
    None measures the graph's own converters, whatever they are, as "". skip_zero_slices : which ways to measure each,
    None is the graph's own.

    Returns results by (setting, skip_zero_slices). Groups of a convolution follow each other.
    """
    settings = settings or {"": {}}
    hardware = graph.hardware

    def count(node: str, layer: Layer, activations: np.ndarray) -> np.ndarray:
        """int64 (settings and ways of skipping, fields of `GraphSpent`)."""
        rows = windows(layer, activations).reshape(-1, layer.k)
        constant = timing.c_layer(hardware) * len(activations)
        found = []
        for registers in settings.values():
            changed = replace(layer, registers=registers[node]) if registers else layer
            prepared = prepare_layer(changed, hardware)
            for skip in skip_zero_slices:
                spent = spend(prepared, rows, skip_zero_slices=skip)
                cycles = [
                    int(timing.window_cycles(hardware, layer.k, layer.outputs, c).sum()) + constant
                    for c in (spent.lock_step, spent.decoupled)
                ]
                others = (spent.operations, spent.ou_activations, spent.input_bits_streamed)
                found.append([*(int(x.sum()) for x in others), *cycles])
        return np.array(found, dtype=np.int64)

    total = np.stack(list(sum_over_layers(graph, images, count, threads=threads).values()), axis=-1)
    keys = [(name, skip) for name in settings for skip in skip_zero_slices]
    return {key: GraphSpent(*(values / len(images))) for key, values in zip(keys, total, strict=True)}


def graph_decoupled_cycles(graph: Graph, images: np.ndarray, *, threads: int | None = None) -> np.ndarray:
    """Clocks of every crossbar node with decoupled lanes, mean of one image: float64 (crossbar nodes,)."""
    return graph_spent(graph, images, threads=threads)["", None].decoupled
