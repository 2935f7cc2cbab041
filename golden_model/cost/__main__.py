"""Machines on one network, as a table: `python -m golden_model.cost NETWORK` (machines.py, system.md §11).

NETWORK is a deployment image (a directory) or the file of a graph (golden_model.image.archive). Exit status: 0 printed,
2 bad usage or bad input.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from golden_model.command import Json, command, progress_bar, results_console
from golden_model.cost import pair_machine, tables
from golden_model.cost.chip import ChipShape
from golden_model.cost.components import DEFAULT_TABLE, load_table, table_names
from golden_model.cost.machines import Machine, Row, compare, counted, geometry_machines
from golden_model.files import write_json
from golden_model.graph.host import work_of
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from golden_model.image.inputs import load_images, load_network


def machines_of(network: Graph, images: np.ndarray | None, progress: Any = None) -> list[Machine]:
    """The machines that the command lists: those of `geometry_machines`, and the network with its own settings."""
    found = geometry_machines(network, images, progress=progress)
    if images is not None and len(images):
        found.append(
            counted("as it is set", network, images, note="converters, precision and skipping of the network itself")
        )
    return found


def pair_ladder(
    network: Graph, pictures: np.ndarray | None, calibration: int, tell: Callable[[str, int, int], None]
) -> list[Machine]:
    """The machines of `pair_machine.ladder`; the first `calibration` pictures choose, the others are measured."""
    given = 0 if pictures is None else len(pictures)
    if pictures is None or given <= calibration:
        raise ValueError(f"--pair-machine: more than {calibration} pictures are needed, got {given}")
    return pair_machine.ladder(network, pictures[:calibration], pictures[calibration:], tell=tell)


def print_trace(rows: list[Row], name: str) -> None:
    """Every product behind the energy and area of the machines whose name contains `name`; ValueError if none."""
    chosen = [row for row in rows if name.lower() in row.machine.name.lower()]
    if not chosen:
        raise ValueError(f"--trace {name}: there are {', '.join(row.machine.name for row in rows)}")
    for row in chosen:
        print("\n".join(tables.trace_lines(row)))
    print("\n".join(tables.source_lines(chosen[0].energy.table)))


@command
def app(
    network: Annotated[Path, typer.Argument(help="Deployment image (a directory) or file of a graph.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Pictures as .npz; a deployment image has its own. Without any, only geometry counts."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures to average over.")] = 8,
    table: Annotated[str, typer.Option(help="Component table: a name that comes with the package, or a TOML file.")] = (
        DEFAULT_TABLE
    ),
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Budget of crossbar pairs: slow layers are copied until it is used up.")
    ] = None,
    pairs_per_macro: Annotated[int, typer.Option(min=1, help="Crossbar pairs that share a macro's converters.")] = 4,
    macros_per_tile: Annotated[int, typer.Option(min=1, help="Macros around one activation buffer.")] = 12,
    pairs_ladder: Annotated[
        bool, typer.Option("--pair-machine", help="List the steps of the pair machine and its rivals instead.")
    ] = False,
    calibration: Annotated[
        int,
        typer.Option(min=1, help="Pictures in front of those, to choose trees and checks of the pair machine with."),
    ] = 4,
    trace: Annotated[
        str | None, typer.Option(help="Also print events x row for every machine whose name contains this text.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Energy, clocks, crossbars and area of one network on the baseline and on other machines."""
    components = load_table(table)
    loaded, pictures = load_network(network)
    if loaded.hardware.pairs:  # all machines of the tables are made from one that converts every bit line
        loaded = with_settings(loaded, hardware=loaded.hardware.of_planes)
    most = count + calibration if pairs_ladder else count
    if images is not None:
        pictures = load_images(images, most)
    pictures = None if pictures is None else pictures[:most]
    with progress_bar() as tell:
        if pairs_ladder:
            found = pair_ladder(loaded, pictures, calibration, tell)
        else:
            found = machines_of(loaded, pictures, partial(tell, "golden model"))
    shape = ChipShape(pairs_per_macro=pairs_per_macro, macros_per_tile=macros_per_tile)
    rows = compare(found, components, shape=shape, budget=pairs)
    savings, of_host = {}, work_of(loaded.nodes)
    if pairs_ladder:
        savings = {name: [row.saving for row in compare(found, load_table(name))] for name in table_names()}
    if json_file is not None:
        content = {
            "network": loaded.name,
            "images": 0 if pictures is None else len(pictures) - pairs_ladder * calibration,
            "table": components.name,
            "machines": [row.as_dict(layers=True) for row in rows],
            "host": of_host,
        }
        if pairs_ladder:
            content["energy_savings"] = savings
        write_json(json_file, content)
    printed, shown = results_console(160), [row.as_dict() for row in rows]
    printed.print(tables.work_table(shown, f"one image, {components.title}"))
    printed.print(tables.group_table(shown))
    printed.print(tables.chip_table(shown, pairs))
    if pairs_ladder:
        printed.print(tables.savings_table([row.machine.name for row in rows], savings))
    if of_host:
        printed.print(tables.host_table(of_host))
    printed.print("Clocks: one decision of every converter takes one. Ratios are to the first row.")
    if trace is not None:
        print_trace(rows, trace)


if __name__ == "__main__":
    app()
