"""Machines on one network, as a table: `python -m golden_model.cost NETWORK` (machines.py, system.md §11).

NETWORK is a deployment image (a directory) or the file of a graph (golden_model.image.archive). Exit status: 0 printed,
2 bad usage or bad input.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from golden_model.command import Json, command_app, console, reports_errors, results_console
from golden_model.cost.chip import ChipShape
from golden_model.cost.components import DEFAULT_TABLE, ComponentTable, load_table
from golden_model.cost.machines import Machine, Row, compare, counted, geometry_machines
from golden_model.files import write_json
from golden_model.graph.network import Graph
from golden_model.image import archive as graph_file
from golden_model.image import image as deployment

#: Names under which an archive of arrays may hold images, the first that is there is taken.
IMAGE_KEYS = ("test_images", "images", "x_test")


def load_network(path: Path) -> tuple[Graph, np.ndarray | None]:
    """The network and, of a deployment image, its test pictures; ValueError if it is neither kind."""
    if path.is_dir():
        image = deployment.read(path)
        return image.network, image.vectors.images
    return graph_file.load(path), None


def load_images(path: Path, count: int) -> np.ndarray:
    """The first `count` pictures of an .npz file, uint8 (B, C, H, W); ValueError with one sentence otherwise."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = [name for name in IMAGE_KEYS if name in archive]
            if not names:
                raise ValueError(f"--images {path}: it has no array called {' or '.join(IMAGE_KEYS)}")
            images = archive[names[0]][:count]
    except (OSError, EOFError, AttributeError) as error:
        raise ValueError(f"--images {path}: not an .npz file of arrays ({error})") from None
    if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"--images {path}: must be uint8 (B, C, H, W), got {images.dtype} {images.shape}")
    return images


def machines_of(network: Graph, images: np.ndarray | None, progress: Any = None) -> list[Machine]:
    """The machines that the command lists: those of `geometry_machines`, and the network with its own settings."""
    found = geometry_machines(network, images, progress=progress)
    if images is not None and len(images):
        found.append(
            counted("as it is set", network, images, note="converters, precision and skipping of the network itself")
        )
    return found


def _count(value: float) -> str:
    return f"{value:,.0f}"


def print_rows(console: Console, rows: list[Row]) -> None:
    """Two tables: work and energy of one image; crossbars, area and pipeline."""
    table = Table("machine", title=f"one image, {rows[0].energy.table.title}")
    for name in ("OU activations", "A/D operations", "per conversion", "clocks", "speed", "energy, nJ", "saving"):
        table.add_column(name, justify="right")
    for row in rows:
        machine = row.machine
        operations = machine.total("ad_operations")
        table.add_row(
            machine.name,
            _count(machine.total("ou_activations")),
            _count(operations),
            f"{operations / machine.conversions:.2f}" if machine.conversions else "-",
            _count(machine.clocks),
            f"{row.speed:.2f}x",
            f"{row.energy.total_pj / 1000:,.1f}",
            f"{row.saving:.2f}x",
        )
    console.print(table)
    groups = list(rows[0].energy.by_group)
    table = Table("machine", title="energy by group, nJ")
    for group in groups:
        table.add_column(group, justify="right")
    for row in rows:
        table.add_row(row.machine.name, *(f"{row.energy.by_group[group] / 1000:,.1f}" for group in groups))
    console.print(table)
    table = Table("machine", title="on a chip, every layer on its own macros")
    for name in ("pairs", "OUs used", "cells used", "tiles", "mm2", "latency", "interval", "busy"):
        table.add_column(name, justify="right")
    for row in rows:
        for name, chip in ((row.machine.name, row.chip), ("  balanced", row.pipeline)):
            if chip is not None:
                table.add_row(
                    name,
                    str(chip.pairs),
                    f"{chip.ou_utilisation:.0%}",
                    f"{chip.cell_utilisation:.0%}",
                    str(chip.tiles),
                    "-" if row.area is None else f"{chip.area(row.area.table).total_mm2:.3f}",
                    _count(chip.latency_clocks),
                    _count(chip.interval_clocks),
                    f"{chip.utilisation:.0%}",
                )
    console.print(table)
    console.print("Clocks: one decision of every converter takes one. Ratios are to the first row.")


def trace_lines(row: Row) -> list[str]:
    """Every product behind the energy and area of a machine, under a line with its name."""
    area = [] if row.area is None else row.area.trace()
    return [f"# {row.machine.name}: {row.machine.note}", *row.energy.trace(), *area]


def source_lines(table: ComponentTable) -> list[str]:
    """Where the figures of a component table are from."""
    parts = [f"{part.name}: {part.derivation}; {part.source}" for part in (*table.components, *table.areas)]
    return [f"# sources of {table.name}", *parts]


def print_trace(rows: list[Row], name: str) -> None:
    """Every product behind the energy and area of the machines whose name contains `name`; ValueError if none."""
    chosen = [row for row in rows if name.lower() in row.machine.name.lower()]
    if not chosen:
        raise ValueError(f"--trace {name}: there are {', '.join(row.machine.name for row in rows)}")
    for row in chosen:
        print("\n".join(trace_lines(row)))
    print("\n".join(source_lines(chosen[0].energy.table)))


app = command_app()


@app.command()
@reports_errors
def main(
    network: Annotated[Path, typer.Argument(help="Deployment image (a directory) or file of a graph.")],
    images: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Pictures as .npz; a deployment image has its own. Without any, only geometry counts."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures to average over.")] = 8,
    table: Annotated[str, typer.Option(help="Component table: a name that comes with the package, or a TOML file.")] = (
        DEFAULT_TABLE
    ),
    pairs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Budget of crossbar pairs: slow layers are copied until it is used up."),
    ] = None,
    pairs_per_macro: Annotated[int, typer.Option(min=1, help="Crossbar pairs that share a macro's converters.")] = 4,
    macros_per_tile: Annotated[int, typer.Option(min=1, help="Macros around one activation buffer.")] = 12,
    trace: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Also print events x row for every machine whose name contains this text."),
    ] = None,
    json_file: Json = None,
) -> None:
    """Energy, clocks, crossbars and area of one network on the baseline and on other machines."""
    components = load_table(table)
    loaded, pictures = load_network(network)
    if images is not None:
        pictures = load_images(images, count)
    pictures = None if pictures is None else pictures[:count]
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("golden model", total=None)
        found = machines_of(loaded, pictures, lambda done, total: bar.update(task, completed=done, total=total))
    shape = ChipShape(pairs_per_macro=pairs_per_macro, macros_per_tile=macros_per_tile)
    rows = compare(found, components, shape=shape, budget=pairs)
    if json_file is not None:
        shown = 0 if pictures is None else len(pictures)
        write_json(
            json_file,
            {
                "network": loaded.name,
                "images": shown,
                "table": components.name,
                "machines": [row.as_dict(layers=True) for row in rows],
            },
        )
    print_rows(results_console(160), rows)
    if trace is not None:
        print_trace(rows, trace)


if __name__ == "__main__":
    app()
