"""Files that a host in C loads a tile from: `python -m sim.host.loading IMAGE_DIR --output DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from golden_model.command import command, results_console
from golden_model.files import write_bytes
from golden_model.image.image import Image, read
from sim.host.sections import image_file, picture_of, stream_of

console = results_console(140)


def write_files(image: Image, folder: Path) -> list[Path]:
    """`image.load`, and a file of every test picture of an image."""
    program = image.program
    files = {"image.load": image_file(program)}
    for number, picture in enumerate(image.vectors.images):
        section = picture_of(picture, program.image_base, program.hardware)
        files[f"picture-{number}.load"] = stream_of([section]).astype("<u4").tobytes()
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_bytes(folder / name, data)
    return [folder / name for name in files]


@command
def app(
    image: Annotated[Path, typer.Argument(help="directory of a deployment image", file_okay=False)],
    output: Annotated[Path, typer.Option(help="directory for the file of the image and one per test picture")],
) -> None:
    """Write what a host in C needs to load and run an image: see sim/host/example.

    Exit status: 0 success, 2 a bad call.
    """
    for path in write_files(read(image), output):
        console.print(f"{path}: {path.stat().st_size} bytes", highlight=False)


if __name__ == "__main__":
    app()
