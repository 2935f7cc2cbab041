"""One self-contained HTML report of a deployment image: `python -m sim.report IMAGE_DIR`.

The report links to nothing: style, pictures and figures are inside the file. Every number in it is also
available as JSON (`--json`), and every energy as events x table row (`--trace`).

`python -m sim.report A B` puts two side by side: images, or JSON files that `--json` wrote, which know more: the run of
the hardware, and the command.

Exit status: 0 written, 1 written but the hardware run that it shows disagreed with the golden model,
2 bad usage or bad input.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from golden_model.command import Json, command, console
from golden_model.cost import components
from golden_model.files import printable, read_json, write_json, write_text
from golden_model.image import image as deployment
from sim.reporting import compare, origin
from sim.reporting.collect import CLOCK_MHZ, collect
from sim.reporting.view import render, render_comparison


@command
def app(
    image_dir: Annotated[
        Path, typer.Argument(help="Deployment image, a directory; of two also a JSON file that --json wrote.")
    ],
    other: Annotated[Path | None, typer.Argument(help="A second one: the page shows both side by side.")] = None,
    run: Annotated[Path | None, typer.Option(help="Result of `python -m sim.run IMAGE_DIR --json FILE`.")] = None,
    training: Annotated[
        Path | None, typer.Option(help="The train.json of the network: its command, seed and accuracies.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="HTML file to write. [default: IMAGE_DIR-report.html]")] = None,
    json_file: Json = None,
    table: Annotated[str, typer.Option(help="Energy table: a name that comes with the package, or a TOML file.")] = (
        components.DEFAULT_TABLE
    ),
    images: Annotated[int, typer.Option(min=1, help="Test vectors to average over.")] = 10,
    clock_mhz: Annotated[
        float, typer.Option(help="Clock at which clocks are given as milliseconds, an assumption.")
    ] = CLOCK_MHZ,
    made_by: Annotated[
        str | None, typer.Option("--command", help="Command line that the report shows; default: its own.")
    ] = None,
    trace: Annotated[bool, typer.Option(help="Print every energy as events x table row.")] = False,
) -> None:
    """Write one self-contained HTML report of a deployment image, or of two side by side."""
    made = origin.of_program(made_by or shlex.join(["python", *sys.orig_argv[1:]]))
    options: dict[str, Any] = {"table": table, "images": images, "clock_mhz": clock_mhz, "made": made}
    if other is not None:
        if run is not None or training is not None or trace:
            raise ValueError(
                "--run, --training and --trace go with one image: write a JSON file of each, and compare those"
            )
        found = compare.compare(*(_numbers(path, options) for path in (image_dir, other)))
        names = [path.resolve().name.removesuffix(".json") for path in (image_dir, other)]
        target = output or image_dir.resolve().with_name("-and-".join(names) + "-report.html")
        write_text(target, render_comparison(found))
        if json_file is not None:
            write_json(json_file, found)
        print(printable(f"report: {target}"))
        return
    result = None if run is None else read_json(run, f"python -m sim.run {image_dir} --json {run} writes it")
    trained = None if training is None else read_json(training, "training with python -m quant.train writes it")
    image = deployment.read(image_dir)
    data = collect(image, result, training=trained, **options)
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


def _numbers(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What a report says: from the JSON file of one, or measured on an image."""
    if path.is_file():
        return compare.check(read_json(path, ""), str(path))
    return collect(deployment.read(path), **options)


if __name__ == "__main__":
    app()
