"""Machines on one network, as a table: `python -m golden_model.cost NETWORK` (machines.py, system.md §11).

NETWORK is a deployment image (a directory) or the file of a graph (golden_model.image.archive). Exit status: 0 printed,
2 bad usage or bad input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import typer
from rich.progress import Progress
from rich.table import Table

from golden_model.command import Json, command_app, console, reports_errors, results_console, table_of
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


def work_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Work, clocks and energy of one image. rows : as `Row.as_dict`; of what is only reported, some may be missing."""

    def number(name: str, factor: float = 1.0, form: str = ",.0f") -> Callable[[Mapping[str, Any]], str]:
        return lambda row: f"{row[name] * factor:{form}}" if name in row else "-"

    def per_conversion(row: Mapping[str, Any]) -> str:
        return f"{row['ad_operations'] / row['conversions']:.2f}" if row.get("conversions") else "-"

    columns = [
        ("machine", "{machine}"),
        ("OU activations", number("ou_activations")),
        ("A/D operations", number("ad_operations")),
        ("per conversion", per_conversion),
        ("clocks", number("clocks")),
        ("speed", "{speed:.2f}x"),
        ("energy, nJ", number("picojoules", 1e-3, ",.1f")),
        ("saving", "{energy_saving:.2f}x"),
    ]
    return table_of(title, columns, rows, right=True)


def group_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Energy of one image by groups of components."""
    columns: list[Any] = [("machine", "{machine}")]
    for group in rows[0]["picojoules_by_group"]:
        columns.append((group, lambda row, group=group: f"{row['picojoules_by_group'][group] / 1000:,.1f}"))
    return table_of("energy by group, nJ", columns, rows, right=True)


def chip_table(rows: Sequence[Mapping[str, Any]], pairs: int | None) -> Table:
    """Every machine with one copy of each layer; with a budget also with copies of slow layers, where they fit."""
    title = "on a chip, every layer on its own macros"
    title += "" if pairs is None else f"; balanced: slow layers copied, up to {pairs} crossbar pairs"
    placed = ((row["machine"], row["chip"], row.get("pipeline")) for row in rows)
    records = [
        {"machine": words, **chip}
        for machine, alone, balanced in placed
        for words, chip in ((machine, alone), ("  balanced", balanced))
        if chip is not None
    ]
    columns = [
        ("machine", "{machine}"),
        ("pairs", "{pairs}"),
        ("mm2", lambda chip: "-" if chip["mm2"] is None else f"{chip['mm2']:.3f}"),
        ("OUs used", "{ou_utilisation:.0%}"),
        ("cells used", "{cell_utilisation:.0%}"),
        ("tiles", "{tiles}"),
        ("latency", "{latency_clocks:,.0f}"),
        ("interval", "{interval_clocks:,.0f}"),
        ("busy", "{busy:.0%}"),
    ]
    return table_of(title, columns, records, right=True)


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
    printed, records = results_console(160), [row.as_dict() for row in rows]
    printed.print(work_table(records, f"one image, {components.title}"))
    printed.print(group_table(records))
    printed.print(chip_table(records, pairs))
    printed.print("Clocks: one decision of every converter takes one. Ratios are to the first row.")
    if trace is not None:
        print_trace(rows, trace)


if __name__ == "__main__":
    app()
