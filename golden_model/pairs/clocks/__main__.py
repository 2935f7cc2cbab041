"""Clocks of a network on the pair macro, layer by layer: `python -m golden_model.pairs.clocks NETWORK --images FILE`.

NETWORK is a deployment image (a directory) or the file of a graph. Every figure is the mean of one picture on one
macro with outward search: clocks of all windows (machine.py), one behind the other, without loading and draining, and
over those of "lanes 2" of gather.py, which ends every window before it begins the next one; shares of the time in which
activations last, in which lanes decide, and in which they would if the lane that decides most never waited; clocks of
the tables. Exit status: 0 printed, 2 bad usage or bad input.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from golden_model.command import Json, command, results_console, table_of
from golden_model.engines.pair_runner import PairRunner
from golden_model.files import write_json
from golden_model.graph.network import Graph
from golden_model.image.inputs import load_images, load_network
from golden_model.pairs.gather import MODES, spend
from golden_model.pairs.machine import build_clocks, step_clocks
from golden_model.pairs.packs import pack_layer
from golden_model.pairs.search import outward
from golden_model.timing import NOTHING


@dataclass
class LayerClocks:
    """Of one picture.

    windows : how many. clocks : of them. lanes : the same by "lanes 2" of `gather.MODES`. converting : in which
    activations last, mean of the halves. deciding : in which lanes decide, mean of the lanes. busiest : the same of the
    lane that decides most. tables : `build_clocks`.
    """

    windows: float = 0
    clocks: float = 0
    lanes: float = 0
    converting: float = 0
    deciding: float = 0
    busiest: float = 0
    tables: float = 0

    def add(self, other: LayerClocks) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def network_clocks(graph: Graph, images: np.ndarray) -> dict[str, LayerClocks]:
    """By crossbar node, means of uint8 images (B, C, H, W); groups of a layer are added up."""
    search, found = outward(graph.hardware), {}
    for step in PairRunner(graph).steps(images):
        packing = pack_layer(step.layer, graph.hardware)
        windows = len(step.windows) // len(images)
        clocks = step_clocks(packing, step.windows, search, np.arange(windows)[:, None], NOTHING)
        spent = spend(packing, step.windows, [search])
        one = LayerClocks(
            windows=len(step.windows),
            clocks=int(clocks.step.sum()),
            lanes=int(spent.clocks[0, MODES.index("lanes 2")].sum()),
            converting=int(clocks.converting.sum()) / packing.halves,
            deciding=float(clocks.deciding.sum(axis=0).mean()),
            busiest=int(clocks.deciding.sum(axis=0).max()),
            tables=build_clocks(packing) * len(images),
        )
        found.setdefault(step.node, LayerClocks()).add(one)
    return {
        node: LayerClocks(**{name: value / len(images) for name, value in vars(one).items()})
        for node, one in found.items()
    }


def print_table(found: dict[str, LayerClocks]) -> None:
    """A row per layer, and their sum."""
    total = LayerClocks()
    for one in found.values():
        total.add(one)
    columns = [
        ("layer", lambda row: row[0]),
        ("windows", lambda row: f"{row[1].windows:,.0f}"),
        ("clocks", lambda row: f"{row[1].clocks:,.0f}"),
        ("/ lanes 2", lambda row: f"{row[1].clocks / (row[1].lanes or 1):.3f}"),
        ("converting", lambda row: f"{row[1].converting / (row[1].clocks or 1):.1%}"),
        ("deciding", lambda row: f"{row[1].deciding / (row[1].clocks or 1):.1%}"),
        ("at best", lambda row: f"{row[1].deciding / (row[1].busiest or 1):.1%}"),
        ("tables", lambda row: f"{row[1].tables:,.0f}"),
    ]
    results_console().print(table_of(None, columns, (found | {"network": total}).items()))


@command
def app(
    network: Annotated[Path, typer.Argument(help="Deployment image (a directory) or file of a graph.")],
    images: Annotated[Path, typer.Option(help="Pictures as .npz, uint8 (B, C, H, W).")],
    count: Annotated[int, typer.Option(min=1, help="Pictures to average over.")] = 4,
    json_file: Json = None,
) -> None:
    """Exact clocks of one network on the pair macro, layer by layer."""
    graph, _ = load_network(network)
    found = network_clocks(graph, load_images(images, count))
    if json_file is not None:
        write_json(json_file, {name: vars(one) for name, one in found.items()})
    print_table(found)


if __name__ == "__main__":
    app()
