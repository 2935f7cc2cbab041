"""`python -m tests.mutation`, see docs/mutants.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from golden_model.command import command, progress_bar
from tests.mutation import report, results
from tests.mutation.campaign import Campaign, chosen

#: What makes a run faster and can be lost.
_FOLDER = Path("build/mutants")


@command
def app(
    blocks: Annotated[
        list[str] | None, typer.Argument(metavar="BLOCK...", help="files of rtl/ without their end; none means all")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="mutants of all blocks together")] = 500,
    seed: Annotated[int, typer.Option(help="which ones")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    again: Annotated[bool, typer.Option("--again", help="first forget the results of survivors")] = False,
    only_report: Annotated[bool, typer.Option("--report", help="try nothing, show what there is")] = False,
    table: Annotated[Path | None, typer.Option(metavar="FILE", help="page to write the table into")] = None,
) -> None:
    """Changes the hardware in small ways, one at a time, and sees whether a test or a proof notices.

    Exit status: 0 success, 1 a survivor is not in the list or too few are killed, 2 a bad call.
    """
    order, quotas = chosen(count, seed, blocks or [])
    if not only_report:
        _FOLDER.mkdir(parents=True, exist_ok=True)
        survivors = {key for key, record in results.read(results.KEPT).items() if record["outcome"] == results.SURVIVED}
        with progress_bar() as show:
            Campaign(order, quotas, results.KEPT, _FOLDER, workers, frozenset(survivors if again else ()), show).run()
    records = results.tidy(results.KEPT)
    if table is not None:
        report.write(table, records)
    wanted = set(blocks or [])
    records = {key: one for key, one in records.items() if not wanted or results.block_of(key).split("/")[-1] in wanted}
    for row in [report.COLUMNS, *report.table(records)]:
        typer.echo("  ".join(cell.rjust(8) if i else cell.ljust(24) for i, cell in enumerate(row)))
    typer.echo(report.summary(records))
    if sentences := report.complaints(records, whole=not blocks):
        for sentence in sentences:
            typer.echo(f"error: {sentence}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
