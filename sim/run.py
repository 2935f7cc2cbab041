"""Run a deployment image on the generated hardware: `python -m sim.run IMAGE_DIR --backend compiled`.

Logits, every event counter and the cycles of each test vector must equal the golden model's exactly. On a
difference the first step, window, OU and lane that differ are named. With a non-ideal crossbar
differences are expected: they are reported and are no failure.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from golden_model.command import Json, command, results_console, table_of
from golden_model.events import Events
from golden_model.files import write_json
from golden_model.image.describe import events_table
from golden_model.image.image import Image, read
from rtl.fpga.serial_layouts import BAUD
from sim.array.crossbars import CrossbarSettings
from sim.backends import board
from sim.backends.choice import BACKENDS, Report, Request
from sim.host.bus import BusError, BusTimeout
from sim.host.driver import DeviceError, poke_words
from sim.host.session import Job, compare

console = results_console(140)


class BackendName(StrEnum):
    """Simulators (see `sim.backends`)."""

    pysim = "pysim"
    verilator = "verilator"
    compiled = "compiled"


class CrossbarKind(StrEnum):
    """Where the analog answers come from."""

    emulated = "emulated"  # digital stand-in inside the hardware
    ideal = "ideal"
    variation = "variation"
    drift = "drift"
    leakage = "leakage"
    stuck = "stuck"
    noise = "noise"
    custom = "custom"


#: Parameters of the kinds with one imperfection, unless given on the command line.
_DEFAULTS: dict[CrossbarKind, dict[str, float]] = {
    CrossbarKind.variation: {"variation": 0.1},
    CrossbarKind.drift: {"age": 1e6, "drift": 0.005, "drift_spread": 0.005},
    CrossbarKind.leakage: {"on_off_ratio": 20.0},
    CrossbarKind.stuck: {"stuck_on": 0.001, "stuck_off": 0.001},
    CrossbarKind.noise: {"read_noise": 0.2},
    CrossbarKind.custom: {},
}


def choose_crossbar(
    backend: BackendName, kind: CrossbarKind | None, given: dict[str, Any]
) -> tuple[CrossbarKind, CrossbarSettings | None]:
    """The crossbar of a run; None means the emulated one. ValueError for choices that do not go together."""
    if kind is None:
        kind = CrossbarKind.custom if given else CrossbarKind.emulated
        if backend is BackendName.verilator and not given:
            kind = CrossbarKind.ideal
    if kind is CrossbarKind.emulated and backend is BackendName.verilator:
        raise ValueError("--crossbar emulated is not possible with --backend verilator, which simulates the bare tile")
    if kind in (CrossbarKind.emulated, CrossbarKind.ideal):
        if given:
            option = "--" + sorted(given)[0].replace("_", "-")
            raise ValueError(f"{option} needs a non-ideal --crossbar, got --crossbar {kind.value}")
        return kind, None if kind is CrossbarKind.emulated else CrossbarSettings()
    return kind, CrossbarSettings(**{**_DEFAULTS[kind], **given})


def parse_poke(text: str) -> tuple[int, int]:
    """ADDRESS=WORD -> integers; any base that Python's 0x, 0b, 0o notation allows."""
    address, equals, word = text.partition("=")
    try:
        if not equals:
            raise ValueError
        poke = int(address, 0), int(word, 0)
    except ValueError:
        raise ValueError(f"--poke must be ADDRESS=WORD, for example 0x7000000=0x1F, got {text!r}") from None
    poke_words([poke])
    return poke


def summarise(image: Image, report: Report, *, directory: Path, backend: str, crossbar: dict[str, Any], judge: bool):
    """Everything about a run as JSON-able data."""
    outcome, vectors, program = report.outcome, image.vectors, image.program
    rows = []
    for result in outcome.results:
        index = result.index
        rows.append(
            {
                "index": index,
                "label": int(vectors.labels[index]),
                "predicted": int(np.argmax(result.logits)),
                "golden_predicted": int(np.argmax(vectors.logits[index])),
                "logits": result.logits,
                "golden_logits": vectors.logits[index].tolist(),
                "cycles": result.cycles,
                "agrees": compare(image, result) is None,
                "seconds": result.seconds,
            }
        )
    totals = Events(shape=(len(program.steps),))
    for result in outcome.results:
        totals = totals + Events(np.array(result.events, dtype=np.int64))
    labelled = [row for row in rows if row["label"] >= 0]
    return {
        "schema": "ohmloom-run",
        "version": 2,
        "image": str(directory),
        "name": image.network.name,
        "image_sha256": image.manifest["manifest_sha256"],
        "hardware_hash": program.hardware.hash,
        "backend": backend,
        "crossbar": crossbar,
        "judged": judge,
        "agrees": outcome.difference is None and all(row["agrees"] for row in rows),
        "first_difference": outcome.difference,
        "where": outcome.where,
        "notes": outcome.notes,
        "host_steps": len(program.host_steps),
        "simulated": len(rows),
        "equal": sum(row["agrees"] for row in rows),
        "images": rows,
        "labelled": len(labelled),
        "correct": sum(row["label"] == row["predicted"] for row in labelled),
        "events": {step.name: totals[i].as_dict(derived=True) for i, step in enumerate(program.steps)},
        "cycles_per_image": float(np.mean([row["cycles"] for row in rows])) if rows else None,
        "clocks": [row["cycles"] for row in rows],
        "seconds": outcome.seconds,
        "seconds_per_image": outcome.seconds / len(rows) if rows else None,
        "clocks_per_second": outcome.clocks / outcome.seconds if outcome.seconds else None,
        "load_clocks": outcome.load_clocks,
        "load_seconds": outcome.load_seconds,
        "build_seconds": report.build_seconds,
    }


def print_summary(result: dict[str, Any]) -> None:
    """Tables for people."""
    differ = "[red]differ[/red]" if result["judged"] else "differ"
    vectors = [
        ("vector", "{index}"),
        ("label", lambda row: "?" if row["label"] < 0 else str(row["label"])),
        ("hardware", "{predicted}"),
        ("golden model", "{golden_predicted}"),
        ("cycles", "{cycles:,}"),
        ("logits, events, cycles", lambda row: "[green]equal[/green]" if row["agrees"] else differ),
        ("seconds", "{seconds:.2f}"),
    ]
    console.print(table_of(None, vectors, result["images"]))
    console.print(events_table(result["events"], len(result["images"])))
    for note in result["notes"]:
        console.print(f"note: {note}", markup=False)
    done = len(result["images"])
    if done:
        console.print(
            f"{done} vectors on {result['backend']} ({result['crossbar']['kind']} crossbar): "
            f"{result['cycles_per_image']:,.0f} clocks an image, {result['clocks_per_second']:,.0f} clocks/s, "
            f"{result['seconds_per_image']:.2f} s an image; build {result['build_seconds']:.1f} s, "
            f"loading {result['load_seconds']:.2f} s",
        )
        if result["host_steps"]:
            console.print(f"{result['host_steps']} steps of every image are work of the host, whose time is not in it")
        if result["labelled"]:
            console.print(f"{result['correct']} of {result['labelled']} labels right")
    if result["first_difference"]:
        console.print("[red]hardware and golden model differ[/red]:", end=" ")
        console.print(result["first_difference"], markup=False, soft_wrap=True)
    elif result["agrees"]:
        console.print("[green]logits, every event counter and cycles equal the golden model's[/green]")
    else:
        changed = sum(row["predicted"] != row["golden_predicted"] for row in result["images"])
        console.print(f"the array is not ideal: {changed} of {done} classifications changed")


@command
def app(
    image_dir: Annotated[Path, typer.Argument(help="deployment image, a directory")],
    backend: Annotated[BackendName, typer.Option(help="simulator")] = BackendName.compiled,
    images: Annotated[int | None, typer.Option(min=1, help="how many test vectors to run; default all")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="vectors that compiled runs side by side; default: one a processor")
    ] = None,
    serial: Annotated[
        str | None, typer.Option(help="run on the board at this serial port, such as /dev/ttyUSB0, not in a simulator")
    ] = None,
    baud: Annotated[int, typer.Option(min=1, help="bits a second of the serial port")] = BAUD,
    waves: Annotated[Path | None, typer.Option(help="write a VCD waveform (hundreds of MB for a real network)")] = None,
    crossbar: Annotated[
        CrossbarKind | None,
        typer.Option(help="default: emulated (verilator: ideal), or custom when a parameter below is given"),
    ] = None,
    variation: Annotated[float | None, typer.Option(help="relative spread of cell conductances")] = None,
    distribution: Annotated[str | None, typer.Option(help="of the spread: lognormal or normal")] = None,
    age: Annotated[float | None, typer.Option(help="time since verification / time from programming to it")] = None,
    drift: Annotated[float | None, typer.Option(help="mean ν of cells, conductance x (1 + age)^-ν")] = None,
    drift_spread: Annotated[float | None, typer.Option(help="standard deviation of ν")] = None,
    on_off_ratio: Annotated[float | None, typer.Option(help="conductance on / off; 0 = infinite")] = None,
    stuck_on: Annotated[float | None, typer.Option(help="probability that a cell is stuck on")] = None,
    stuck_off: Annotated[float | None, typer.Option(help="probability that a cell is stuck off")] = None,
    read_noise: Annotated[float | None, typer.Option(help="noise of a sample, in counts")] = None,
    seed: Annotated[int | None, typer.Option(help="which device, and which noise")] = None,
    poke: Annotated[
        list[str] | None, typer.Option(help="ADDRESS=WORD, written after loading: injects a fault; may be repeated")
    ] = None,
    json_file: Json = None,
) -> None:
    """Run a deployment image's test vectors on the generated hardware and compare with the golden model.

    Exit status: 0 they agree (or the crossbar is not ideal), 1 they differ, 2 the image, the call or a tool is bad.
    """
    given = {
        "variation": variation,
        "distribution": distribution,
        "age": age,
        "drift": drift,
        "drift_spread": drift_spread,
        "on_off_ratio": on_off_ratio,
        "stuck_on": stuck_on,
        "stuck_off": stuck_off,
        "read_noise": read_noise,
        "seed": seed,
    }
    kind, settings = choose_crossbar(backend, crossbar, {k: v for k, v in given.items() if v is not None})
    if serial is not None and (waves is not None or settings is not None or backend is not BackendName.compiled):
        raise ValueError("--serial runs on a board, so --backend, --waves and --crossbar cannot go with it")
    pokes = tuple(parse_poke(text) for text in poke or ())
    for path in (waves, json_file):
        if path is not None and not path.resolve().parent.is_dir():
            raise ValueError(f"{path}: cannot be written (there is no such directory)")
    image = read(image_dir)
    held = len(image.vectors.images)
    if not held:
        raise ValueError(f"{image_dir}: the image holds no test vectors")
    if images is not None and images > held:
        raise ValueError(f"--images must be at most {held}, the vectors that the image holds, got {images}")
    judge = settings is None or settings.ideal
    job = Job(tuple(range(held if images is None else images)), pokes, judge=judge, lenient=not judge)
    at_once = len(os.sched_getaffinity(0)) if jobs is None else jobs
    request = Request(directory=image_dir, image=image, job=job, crossbar=settings, waves=waves, jobs=at_once)
    try:
        report = _run(backend.value if serial is None else "board", request, serial, baud)
    except (DeviceError, BusError, BusTimeout) as error:
        print(f"error: the hardware failed: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    result = summarise(
        image,
        report,
        directory=image_dir,
        backend=backend.value if serial is None else "board",
        crossbar={"kind": kind.value, **(asdict(settings) if settings is not None else {})},
        judge=judge,
    )
    print_summary(result)
    if json_file is not None:
        write_json(json_file, result)
    if judge and not result["agrees"]:
        raise typer.Exit(1)


def _run(name: str, request: Request, serial: str | None, baud: int) -> Report:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)

        def progress(stage: str, done: int, total: int) -> None:
            if bar.tasks[0].description != stage:  # time is estimated anew for every stage
                bar.reset(task, description=stage)
            bar.update(task, completed=min(done, total), total=total)

        request = replace(request, progress=progress)
        return BACKENDS[name](request) if serial is None else board.run(request, serial, baud)


if __name__ == "__main__":
    app()
