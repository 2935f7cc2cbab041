"""Dynamic activation precision on trained networks: `python -m quant.reproduce.redy` (ReDy; system.md §6, §11, §12).

    python -m quant.reproduce.redy --network resnet20 --weights FILE --data FILE
    python -m quant.reproduce.redy --graph FILE --data FILE

On each machine and for each group size, the same network three times: `static` streams all bits, `lossless` skips
empty high bits of every group, `lossy` also drops low bits, with registers searched per layer (quant.search.redy).
Events are counted by the golden model, energy follows from the component table (golden_model.cost). Four machines:
dense is ISAAC-like (7 planes of every block, uniform lossless conversion, nothing skipped), stored has the network's
own block widths; both also with zero-slice skipping.

The search sees training images only, other ones than those of calibration. Choices and every measurement are kept
(quant.reproduce.study). `--trace NAME` prints every product of events and energy per event behind figures.
redy_measure.py searches and measures, redy_report.py shows. Exit status 1 if the lossless part changes any logit.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from golden_model.command import Json, command, console, progress_bar
from golden_model.config import PAPER
from golden_model.cost.components import load_table
from golden_model.image import archive as graph_file
from quant import stages
from quant.reproduce import redy_measure, redy_report
from quant.reproduce import study as shared
from quant.reproduce.redy_measure import MACHINES, Options, Study
from quant.search import registers as redy_registers


@command
def app(
    data: shared.Data,
    network: shared.Network = None,
    weights: shared.Weights = None,
    graph: shared.GraphFile = None,
    images: Annotated[int | None, typer.Option(min=1, help="Test images; default all.")] = None,
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
    threads: shared.Threads = None,
    trace: Annotated[
        str | None,
        typer.Option(help='Print events x energy behind figures whose name contains this, such as "126 rows, lossy".'),
    ] = None,
    work: shared.Work = None,
    json_file: Json = None,
    registers: Annotated[
        Path | None,
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
    asked = {m: (1,) if m == "isaac" else () for m in shared.picked("--machines", machines, MACHINES)}
    if "paper" in asked:
        asked["paper"] = tuple(shared.numbers("--groups", groups, int, 1, 65536))
    options = Options(
        budgets=tuple(shared.numbers("--budgets", budgets, float, 0, 1)), tolerance=tolerance,
        check_images=check_images, sensitivity_images=min(64, check_images), rivals=rivals,
    )  # fmt: skip
    planned = list(redy_measure.titles(options, asked))
    if trace is not None and not redy_report.named(planned, trace):
        raise ValueError(f"--trace {trace}: there are {'; '.join(planned)}")
    with progress_bar() as tell:
        study = Study.open(
            data, network, weights, graph, work=work, images=images, check_images=check_images, options=options,
            table=load_table(table), event_images=event_images, lossless_images=lossless_images, threads=threads,
            tell=tell, log=console.print,
        )  # fmt: skip
        found = None if registers is None else _registers(study, asked["paper"], confirm_images)
        result = redy_measure.measure(study, asked) if found is None else {}
    if found is not None:
        assert registers is not None
        assert graph is not None
        redy_registers.write(registers, found, graph)
        redy_report.print_registers(found)
        console.print(f"registers: {registers}")
        return
    shared.show(redy_report.tables(result))
    if trace is not None:
        redy_report.print_trace(result, study.table, trace)
    for machine, part in result["machines"].items():
        for group in part["groups"]:
            chosen = redy_measure.chosen_graph(study, result, machine, group)
            graph_file.save(chosen, study.work / f"graph-{machine}-{group}.npz")
    shared.save(study, result, json_file, redy_report.picture)
    if not result["lossless_equal"]:
        print("error: lossless skipping changed a logit", file=sys.stderr)
        raise typer.Exit(1)


def _registers(study: Study, groups: tuple[int, ...], confirm_images: int) -> redy_registers.Registers:
    """What `--registers` asks for."""
    options = study.options
    found = redy_registers.choose(
        study.graph(PAPER), study.dataset, groups=groups, budget=options.budgets[0], tolerance=options.tolerance,
        check_images=options.check_images, confirm_images=confirm_images, table=study.table, threads=study.threads,
        tell=study.tell,
    )  # fmt: skip
    return replace(found, about={"command": stages.command_line("quant.reproduce.redy"), **found.about})


if __name__ == "__main__":
    app()
