"""Every network in quant/trained computes what it always has: logits, events and clocks are pinned.

`python -m tests.golden_model.test_kept_networks` writes the file of pinned values anew.
"""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from golden_model import timing
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from golden_model.image import archive
from golden_model.registers import counters_of

KEPT = Path(__file__).resolve().parents[2] / "quant" / "trained"
PINNED = Path(__file__).with_name("kept_networks.json")
NETWORKS = sorted(path.parent.name for path in KEPT.glob("*/network.graph"))
#: Also run with lossless dynamic precision and without slices of zeros.
SKIPPING = ("lenet5-s0", "resnet20-a4-s0")
IMAGES = 2


def load(case: str) -> Graph:
    name, _, skipping = case.partition(" ")
    graph = archive.load(KEPT / name / "network.graph")
    if not skipping:
        return graph
    dynamic = {node.name: DynamicPrecision() for node in graph.crossbars}
    return with_settings(graph, skip_zero_slices=True, dynamic=dynamic)


def measure(graph: Graph) -> dict:
    """sha256 of the logits, and counters in the order of counters_of by crossbar node, summed over the images.

    `cycles` are without the clocks of c_layer and c_window, which belong to the tile and not to the network.
    """
    image = graph.image
    pixels = np.random.default_rng(0).integers(0, image.encoding.top, (IMAGES, *image.shape), np.uint8, endpoint=True)
    logits, events = GraphRunner(graph, threads=1).run(pixels)
    hardware, counters = graph.hardware, {}
    for node, counted in zip(graph.crossbars, events.sum(axis=0), strict=True):
        windows = sum(layer.windows for layer in node.layers)
        tile = len(node.layers) * timing.c_layer(hardware) + windows * timing.c_window(hardware)
        counted = counted.as_dict() | {"cycles": counted.cycles - IMAGES * tile}
        counters[node.name] = [counted[name] for name in counters_of(hardware)]
    return {"logits": hashlib.sha256(logits.astype("<i8").tobytes()).hexdigest(), "events": counters}


CASES = [*NETWORKS, *(f"{name} skipping" for name in SKIPPING)]


@pytest.mark.parametrize("case", CASES)
def test_a_kept_network_computes_what_it_always_has(case):
    assert measure(load(case)) == json.loads(PINNED.read_text())[case]


def test_every_kept_network_is_pinned():
    assert sorted(json.loads(PINNED.read_text())) == sorted(CASES)


if __name__ == "__main__":
    values = {case: measure(load(case)) for case in CASES}
    text = re.sub(r"\[[^]]*\]", lambda row: " ".join(row[0].split()), json.dumps(values, indent=1))  # a line per node
    PINNED.write_text(text + "\n")
