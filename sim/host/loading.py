"""Loading a tile: files for a host in C, and what loading takes over the bus and by the load stream.

`python -m sim.host.loading IMAGE_DIR --output DIR` writes the files, `python -m sim.host.loading IMAGE_DIR` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from golden_model.command import Json, command, results_console, table_of
from golden_model.files import write_bytes, write_json
from golden_model.image.image import Image, read
from sim.host.bus import Bus, run_now
from sim.host.driver import Driver
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


class Counting(Bus):
    """Passes everything on to a bus and counts writes of the bus and words of packets."""

    def __init__(self, bus: Bus):
        super().__init__()
        self._bus = bus
        self.writes = self.packets = self.words = 0

    @property
    def streams(self) -> bool:
        return self._bus.streams

    @property
    def clocks(self) -> int:
        return self._bus.clocks

    async def wait(self, clocks: int) -> None:
        await self._bus.wait(clocks)

    async def read(self, address: int) -> int:
        return await self._bus.read(address)

    async def write(self, address: int, word: int) -> None:
        self.writes += 1
        await self._bus.write(address, word)

    async def write_many(self, addresses: Sequence[int], words: Sequence[int]) -> None:
        self.writes += len(addresses)
        await self._bus.write_many(addresses, words)

    async def stream(self, words: Sequence[int] | np.ndarray) -> None:
        self.packets, self.words = self.packets + 1, self.words + len(words)
        await self._bus.stream(words)


@dataclass(frozen=True)
class Measured:
    """What was loaded, over what: writes of the bus, packets of the stream and their words, clocks."""

    what: str
    over: str
    writes: int
    packets: int
    words: int
    clocks: int


async def measure(bus: Bus, image: Image) -> list[Measured]:
    """Load tables and cells of an image, which are checked, and a picture, over the bus and by the stream."""
    program, rows = image.program, []
    for over, streams in (("AXI4-Lite", False), ("load stream", True)):
        counting = Counting(bus)
        driver = Driver(counting, program.hardware, streams=streams)
        actions = {
            "image, checked": lambda driver=driver: driver.load(program.tables),
            "of it the check of cells": lambda driver=driver: driver.cell_checksum(len(program.tables.cells)),
            "picture": lambda driver=driver: driver.write_input(image.vectors.images[0], program.image_base),
        }
        for what, action in actions.items():
            counting.writes = counting.packets = counting.words = 0
            began = bus.clocks
            await action()
            counts = (counting.writes, counting.packets, counting.words)
            rows.append(Measured(what, over, *counts, bus.clocks - began))
    return rows


@command
def app(
    image: Annotated[Path, typer.Argument(help="directory of a deployment image with a test picture", file_okay=False)],
    output: Annotated[
        Path | None, typer.Option(help="write a file of the image and one per test picture here, and nothing else")
    ] = None,
    json_file: Json = None,
) -> None:
    """Count what loading an image takes on the compiled hardware, or write what a host in C needs to load it.

    Exit status: 0 success, 2 a bad call.
    """
    loaded = read(image)
    if output is not None:
        for path in write_files(loaded, output):
            console.print(f"{path}: {path.stat().st_size} bytes", highlight=False)
        return
    if not len(loaded.vectors.images):
        raise ValueError(f"{image} has no test picture")
    from rtl.system import System
    from sim.backends.compiled import CompiledBus, build

    with CompiledBus(build(System(loaded.program.hardware))) as bus:
        rows = run_now(measure(bus, loaded))
    columns = [
        ("loaded", lambda row: row.what),
        ("over", lambda row: row.over),
        ("bus writes", lambda row: f"{row.writes:,}"),
        ("packets", lambda row: f"{row.packets:,}"),
        ("words of packets", lambda row: f"{row.words:,}"),
        ("clocks", lambda row: f"{row.clocks:,}"),
    ]
    console.print(table_of(None, columns, rows))
    if json_file is not None:
        write_json(json_file, {"image": str(image), "loading": [asdict(row) for row in rows]})


if __name__ == "__main__":
    app()
