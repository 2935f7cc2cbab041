"""After which input bits outputs are checked for an early stop, chosen for a network (docs/pair-machine.md)."""

from __future__ import annotations

from golden_model.engines.pair_stop_bits import stop_bits
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from quant.data.image_set import ImageSet

#: Held-out images that it is chosen on. Whatever is chosen, nothing is lost.
IMAGES = 4


def with_early_stop(graph: Graph, dataset: ImageSet) -> Graph:
    """The graph with the bits that cost least, if its machine has early stop; otherwise the graph itself.

    InputError if the data has too few training images to hold one out.
    """
    if not graph.hardware.early_stop:
        return graph
    images, _ = dataset.validation(IMAGES)
    return with_settings(graph, stop_bits=stop_bits(graph, images))
