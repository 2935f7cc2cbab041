"""Replay a deployment image's test vectors through the golden model: `python -m golden_model.run IMAGE_DIR`."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape

from golden_model import timing
from golden_model.command import Json, command, progress_bar, results_console
from golden_model.files import write_json
from golden_model.image.describe import describe_program, events_table, print_info, print_program
from golden_model.image.image import Image, read
from golden_model.image.interpreter import Interpreter

console = results_console(140)


def describe(image: Image) -> dict[str, Any]:
    """What an image holds, JSON-able: the network, its program and the number of test vectors."""
    network = image.network
    return {
        "name": network.name,
        "classes": list(network.classes),
        "info": network.info,
        "vectors": len(image.vectors.images),
        **describe_program(image.program),
    }


def _print_description(what: dict[str, Any]) -> None:
    console.print(
        f"[bold]{escape(what['name'])}[/bold]: {len(what['steps'])} steps, {what['vectors']} test vectors, "
        f"{len(what['classes'])} class names"
    )
    print_program(what)
    print_info(what["info"])


def replay(image: Image, count: int) -> dict[str, Any]:
    """Run the first `count` vectors through network and program and compare with what is stored; JSON-able result."""
    runner, images = image.runner(), image.vectors.images[:count]
    start = time.perf_counter()
    with progress_bar() as tell:
        expected, _ = runner.run(images, progress=partial(tell, "golden model"))
    seconds = time.perf_counter() - start
    logits, events = Interpreter.of(image.program).run(images)
    cycles = timing.network_cycles(image.network.hardware, events.cycles)
    labels = image.vectors.labels[:count]
    known = labels >= 0
    compared = (image.difference(i, logits[i], events.counts[i], cycles[i]) for i in range(count))
    difference = next((f"image {i}: {found}" for i, found in enumerate(compared) if found is not None), None)
    if difference is None and not np.array_equal(expected, logits):
        difference = "the program does not compute what the network does"
    return {
        "images": count,
        "agrees": difference is None,
        "first_difference": difference,
        "labelled": int(known.sum()),
        "correct": int((logits.argmax(axis=1) == labels)[known].sum()),
        "seconds": seconds,
        "cycles": cycles.tolist(),
        "logits": logits.tolist(),
        "events": {
            step.name: events[:, index].sum().as_dict(derived=True) for index, step in enumerate(image.program.steps)
        },
    }


def _print_replay(result: dict[str, Any]) -> None:
    console.print(events_table(result["events"], result["images"]))
    correct = f"{result['correct']} of {result['labelled']} labels right, " if result["labelled"] else ""
    console.print(f"{result['images']} images in {result['seconds']:.2f} s, {correct}", end="")
    if result["agrees"]:
        console.print("[green]logits, events and cycles equal those stored[/green]")
    else:
        console.print(f"[red]differs from what is stored[/red]: {escape(result['first_difference'])}")


@command
def app(
    image_dir: Annotated[Path, typer.Argument(help="deployment image, a directory")],
    images: Annotated[int | None, typer.Option(min=1, help="how many test vectors to replay; default all")] = None,
    describe_only: Annotated[bool, typer.Option("--describe", help="print what the image holds, run nothing")] = False,
    json_file: Json = None,
) -> None:
    """Replay a deployment image's test vectors and compare logits and events with those stored.

    Exit status: 0 they are equal, 1 they differ, 2 the image or the call is bad.
    """
    image = read(image_dir)
    if describe_only:
        result = describe(image)
        _print_description(result)
    else:
        held = len(image.vectors.images)
        if images is not None and images > held:
            raise ValueError(f"--images must be at most {held}, the vectors that the image holds, got {images}")
        result = replay(image, held if images is None else images)
        _print_replay(result)
    if json_file is not None:
        write_json(json_file, result)
    if not result.get("agrees", True):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
