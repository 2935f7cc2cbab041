"""Dynamic activation precision on trained networks: `python -m quant.reproduce.redy` (ReDy; system.md §6, §11, §12).

    python -m quant.reproduce.redy --network resnet20 --weights FILE --data FILE
    python -m quant.reproduce.redy --graph FILE --data FILE

On each machine and for each group size, the same network three times: `static` streams all bits, `lossless` skips
empty high bits of every group, `lossy` also drops low bits, with registers searched per layer (redy_search.py). Events
are counted by the golden model, energy follows from the component table (golden_model.cost). Four machines: dense is
ISAAC-like (7 planes of every block, uniform lossless conversion, nothing skipped), stored has the network's own block
widths; both also with zero-slice skipping.

The search sees training images only, other ones than those of calibration. Choices and every measurement are kept in
the working directory; the same command again goes on where it was interrupted. `--trace NAME` prints every product of
events and energy per event behind figures. redy_measure.py searches and measures, redy_report.py shows. Exit status 1
if the lossless part changes any logit.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.progress import Progress as Bar
from torch import nn

from golden_model.command import console, reports_errors, results_console
from golden_model.config import PAPER
from golden_model.cost.components import load_table
from golden_model.files import file_hash, write_json
from golden_model.graph.network import Graph
from golden_model.image import archive as graph_file
from quant import stages
from quant.capture.capture import from_torch
from quant.data import sets as datasets
from quant.networks import zoo as networks
from quant.networks.pixels import float_logits
from quant.networks.source import load_ready
from quant.reference import accuracy
from quant.reproduce import redy_measure, redy_report
from quant.reproduce.redy_measure import MACHINES, Options, Study, Tell
from quant.search import registers as redy_registers

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


# ---- options and files --------------------------------------------------------------------------
def _names(option: str, text: str, allowed: Sequence[str]) -> list[str]:
    parts = [p.strip() for p in text.split(",")]
    for part in parts:
        if part not in allowed:
            raise ValueError(f"{option} must be among {', '.join(allowed)}, got {part!r}")
    return [x for x in allowed if x in parts]


def _numbers(option: str, text: str, kind: type, low: float, high: float) -> list[Any]:
    made = []
    for part in text.split(","):
        try:
            value = kind(part)
        except ValueError:
            raise ValueError(f"{option} must be numbers between commas, got {part.strip()!r}") from None
        if not low <= value <= high:
            raise ValueError(f"{option} must be in {low:g}..{high:g}, got {part.strip()}")
        if value not in made:
            made.append(value)
    return made


@dataclass(frozen=True, eq=False)
class Loaded:
    """What the options name. file : weights or graph. model, known : of a float network, else None."""

    name: str
    file: Path
    dataset: datasets.ImageSet
    graph: Graph
    known: networks.Ready | None = None
    model: nn.Module | None = None

    def float_accuracy(self, study: Study) -> float | None:
        """Of the float network on the study's images; None if there is none."""
        if self.model is None or self.known is None:
            return None
        model, normalisation = self.model, self.known.normalisation

        def measured() -> float:
            made = float_logits(model, study.x, normalisation, lambda d, total: study.tell("float network", d, total))
            return accuracy(made, study.y)

        return study.kept(f"float-{len(study.x)}", measured, images=len(study.x))


def load(data: Path, network: str | None, weights: Path | None, graph: Path | None) -> Loaded:
    """A network and its data; ValueError where they do not fit."""
    if (graph is None) == (weights is None):
        raise ValueError("give either --graph FILE, or --network NAME and --weights FILE")
    if graph is not None:
        loaded = graph_file.load(graph)
        shape, name = loaded.image.shape, network or loaded.name
        dataset = datasets.load(data, size=shape[1], channels=shape[0])
        if dataset.shape != tuple(shape):
            raise ValueError(f"{data}: images are {dataset.shape}, {name} takes {tuple(shape)}")
        return Loaded(name, graph, dataset, loaded)
    if network is None or weights is None:
        raise ValueError("--network is needed with --weights")
    known, model, dataset = load_ready(network, weights, data)
    made = from_torch(
        model, dataset.shape, PAPER, dataset.calibration(), normalisation=known.normalisation, name=network
    )
    return Loaded(network, weights, dataset, made, known, model)


# ---- what is shown ------------------------------------------------------------------------------
def show(study: Study, result: Mapping[str, Any], work: Path, json_file: Path | None, trace: str | None) -> None:
    """Tables, products, and the files of the working directory."""
    printed = results_console()
    for one in redy_report.tables(result):
        printed.print(one)
        printed.print()
    if trace is not None:
        redy_report.print_trace(result, study.table, trace)
    for machine, part in result["machines"].items():
        for group in part["groups"]:
            graph_file.save(
                redy_measure.chosen_graph(study, result, machine, group), work / f"graph-{machine}-{group}.npz"
            )
    write_json(work / "result.json", result)
    redy_report.picture(result, work / "result.png")
    printed.print(f"results: {work / 'result.json'}   picture: {work / 'result.png'}")
    if json_file is not None:
        write_json(json_file, result)


# ---- command line -------------------------------------------------------------------------------
@app.command()
@reports_errors
def main(
    data_path: Annotated[Path, typer.Option("--data", help="CIFAR-10 batches, idx files, pictures or an .npz file.")],
    network: Annotated[Optional[str], typer.Option(help=f"One of {', '.join(networks.READY)}.")] = None,  # noqa: UP045
    weights: Annotated[Optional[Path], typer.Option(help="State dict, .npz or .safetensors.")] = None,  # noqa: UP045
    graph: Annotated[Path | None, typer.Option(help="An integer network instead (golden_model.image.archive).")] = None,
    images: Annotated[Optional[int], typer.Option(min=1, help="Test images; default all.")] = None,  # noqa: UP045
    event_images: Annotated[int, typer.Option(min=1, help="Test images that events are counted on.")] = 100,
    lossless_images: Annotated[
        int, typer.Option(min=1, help="Test images on which lossless skipping must change no logit.")
    ] = 1000,
    machines: Annotated[str, typer.Option(help="paper: operation units of 9 rows; isaac: 128 rows.")] = "paper,isaac",
    groups: Annotated[str, typer.Option(help="Segments per group on paper: 14 is a crossbar's word lines.")] = "14,4,1",
    budgets: Annotated[str, typer.Option(help="Errors of the logits that the check allows, the chosen one first.")] = (
        "0.002,0.005"
    ),
    tolerance: Annotated[float, typer.Option(help="Loss of accuracy (a share) that the check allows.")] = 0.01,
    check_images: Annotated[int, typer.Option(min=1, help="Training images for the check.")] = 256,
    rivals: Annotated[bool, typer.Option(help="Also search with parts of the method, and fewer static bits.")] = True,
    table: Annotated[str, typer.Option(help="Component table of the energy: a name or a file.")] = "isaac-32nm",
    threads: Annotated[Optional[int], typer.Option(min=1, help="Default all cores.")] = None,  # noqa: UP045
    trace: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help='Print events x energy behind figures whose name contains this, such as "14 rows, lossy".'),
    ] = None,
    work: Annotated[Optional[Path], typer.Option(help="Default build/redy/NETWORK.")] = None,  # noqa: UP045
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Also write the results here.")] = None,  # noqa: UP045
    registers: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Only search registers of --graph for the machine that skips zeros, and write them here."),
    ] = None,
    confirm_images: Annotated[
        int, typer.Option(min=1, help="Training images that confirm --registers, other ones than those of the check.")
    ] = 2048,
) -> None:
    """Streamed bits, energy and accuracy of dynamic activation precision, beside the paper's figure."""
    if not 0 <= tolerance <= 1:
        raise ValueError(f"--tolerance must be in 0..1, got {tolerance}")
    if registers is not None and (graph is None or "paper" not in machines):
        raise ValueError("--registers needs --graph, and paper among --machines")
    asked = {m: (1,) if m == "isaac" else () for m in _names("--machines", machines, list(MACHINES))}
    if "paper" in asked:
        asked["paper"] = tuple(_numbers("--groups", groups, int, 1, 65536))
    options = Options(
        budgets=tuple(_numbers("--budgets", budgets, float, 0, 1)), tolerance=tolerance, check_images=check_images,
        sensitivity_images=min(64, check_images), rivals=rivals,
    )  # fmt: skip
    components = load_table(table)
    planned = list(redy_measure.titles(options, asked))
    if trace is not None and not redy_report.named(planned, trace):
        raise ValueError(f"--trace {trace}: there are {'; '.join(planned)}")
    loaded = load(data_path, network, weights, graph)
    if registers is not None:
        _registers(
            registers, loaded, groups=asked["paper"], budget=options.budgets[0], tolerance=tolerance,
            check_images=check_images, confirm_images=confirm_images, table=components, threads=threads,
        )  # fmt: skip
        return
    work = work or Path("build/redy") / loaded.name
    with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
        study = Study(
            name=loaded.name, graph=loaded.graph, source=file_hash(loaded.file), dataset=loaded.dataset,
            options=options, table=components, cache=stages.Cache(work / "parts"), images=images,
            event_images=event_images, lossless_images=lossless_images, threads=threads, tell=_teller(bar),
            log=console.print,
        )  # fmt: skip
        result = redy_measure.measure(study, asked, loaded.float_accuracy(study))
    show(study, result, work, json_file, trace)
    if not result["lossless_equal"]:
        print("error: lossless skipping changed a logit", file=sys.stderr)
        raise typer.Exit(1)


def _teller(bar: Bar) -> Tell:
    task = bar.add_task("", total=None)
    return lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None)


def _registers(path: Path, loaded: Loaded, **how: Any) -> None:
    """`--registers`: choose, write, and say what was found."""
    with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
        found = redy_registers.choose(loaded.graph, loaded.dataset, **how, tell=_teller(bar))
    found = replace(found, about={"command": stages.command_line("quant.reproduce.redy"), **found.about})
    redy_registers.write(path, found, loaded.file)
    redy_report.print_registers(found)
    console.print(f"registers: {path}")


if __name__ == "__main__":
    app()
