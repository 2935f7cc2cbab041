"""`python -m tests.mutation`, see docs/mutants.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from golden_model.command import command, progress_bar
from tests.mutation.campaign import SURVIVED, Campaign, chosen, read_results


@command
def app(
    blocks: Annotated[
        list[str] | None, typer.Argument(metavar="BLOCK...", help="files of rtl/; none means all")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="mutants, over all blocks")] = 500,
    seed: Annotated[int, typer.Option(help="which ones")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    folder: Annotated[Path, typer.Option(help="results, so that a run goes on where it was stopped")] = Path(
        "build/mutants"
    ),
    again: Annotated[bool, typer.Option("--again", help="try once more those that survived")] = False,
) -> None:
    """Changes the hardware in small ways and sees whether a test or a proof notices."""
    order, quotas = chosen(count, seed, blocks or [])
    folder.mkdir(parents=True, exist_ok=True)
    results = read_results(folder / "results.jsonl")
    survivors = frozenset(key for key, record in results.items() if record["outcome"] == SURVIVED)
    with progress_bar() as show:
        Campaign(order, quotas, folder, workers, survivors if again else frozenset(), show).run()


if __name__ == "__main__":
    app()
