"""One self-contained HTML report of a deployment image: `python -m sim.report IMAGE_DIR`.

The report links to nothing: style, pictures and figures are inside the file. Every number in it is also
available as JSON (`--json`), and every energy as events x table row (`--trace`).

Exit status: 0 written, 1 written but the hardware run that it shows disagreed with the golden model,
2 bad usage or bad input.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from golden_model.command import Json, command, console
from golden_model.cost import components
from golden_model.files import printable, read_json, write_json, write_text
from golden_model.image import image as deployment
from sim.reporting.collect import CLOCK_MHZ, collect
from sim.reporting.view import render


@command
def app(
    image_dir: Annotated[Path, typer.Argument(help="Deployment image, a directory.")],
    run: Annotated[Path | None, typer.Option(help="Result of `python -m sim.run IMAGE_DIR --json FILE`.")] = None,
    output: Annotated[Path | None, typer.Option(help="HTML file to write. [default: IMAGE_DIR-report.html]")] = None,
    json_file: Json = None,
    table: Annotated[str, typer.Option(help="Energy table: a name that comes with the package, or a TOML file.")] = (
        components.DEFAULT_TABLE
    ),
    images: Annotated[int, typer.Option(min=1, help="Test vectors to average over.")] = 10,
    clock_mhz: Annotated[
        float, typer.Option(help="Clock at which clocks are given as milliseconds, an assumption.")
    ] = CLOCK_MHZ,
    trace: Annotated[bool, typer.Option(help="Print every energy as events x table row.")] = False,
) -> None:
    """Write one self-contained HTML report of a deployment image."""
    result = None if run is None else read_json(run, f"python -m sim.run {image_dir} --json {run} writes it")
    image = deployment.read(image_dir)
    data = collect(image, result, table=table, images=images, clock_mhz=clock_mhz)
    target = output or image_dir.resolve().with_name(image_dir.resolve().name + "-report.html")
    write_text(target, render(data, image.vectors.images[: data["images"]]))
    if json_file is not None:
        write_json(json_file, data)
    if trace:
        for row in data["energy"]["trace"]:
            print(
                f"{row['layer']:<12} {row['component']:<18} {row['events']:>16,.1f} x {row['energy_pj']:<9.6g} pJ = "
                f"{row['picojoules']:>16,.1f} pJ   [{row['formula']}; {row['source']}]"
            )
    print(printable(f"report: {target}"))
    simulated = data["run"]
    if simulated is not None and simulated["judged"] and not simulated["agrees"]:
        console.print("error: the hardware run in this report differs from the golden model")
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
