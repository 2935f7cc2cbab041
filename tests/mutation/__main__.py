"""`python -m tests.mutation`, see docs/mutants.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from golden_model.command import command, progress_bar
from tests.mutation import report
from tests.mutation.campaign import SURVIVED, Campaign, chosen, read_results, selected

_FOLDER = Path("build/mutants")


@command
def app(
    blocks: Annotated[
        list[str] | None, typer.Argument(metavar="BLOCK...", help="files of rtl/ without their end; none means all")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="mutants of all blocks together")] = 500,
    seed: Annotated[int, typer.Option(help="which ones")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    folder: Annotated[Path, typer.Option(help="results; a run that was stopped goes on from them")] = _FOLDER,
    again: Annotated[bool, typer.Option("--again", help="first forget the results of survivors")] = False,
    only_report: Annotated[bool, typer.Option("--report", help="try nothing, show what there is")] = False,
    table: Annotated[Path | None, typer.Option(metavar="FILE", help="page to write the table into")] = None,
) -> None:
    """Changes the hardware in small ways, one at a time, and sees whether a test or a proof notices.

    Exit status: 0 success, 1 a survivor is not in the list or too few are killed, 2 a bad call.
    """
    order, quotas = chosen(count, seed, blocks or [])
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    if not only_report:
        survivors = {key for key, record in read_results(results).items() if record["outcome"] == SURVIVED}
        with progress_bar() as show:
            Campaign(order, quotas, results, workers, frozenset(survivors) if again else frozenset(), show).run()
    records = read_results(results)
    found = selected(order, quotas, records)
    for row in report.table(found):
        typer.echo("  ".join(cell.rjust(8) if i else cell.ljust(24) for i, cell in enumerate(row)))
    sentence = report.summary(found, records, sum(quotas.values()))
    typer.echo(sentence)
    if table is not None:
        report.write(table, found, sentence)
    if sentences := report.complaints(found, whole=not blocks):
        for sentence in sentences:
            typer.echo(f"error: {sentence}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
