"""What every command shares: consoles, errors as one sentence with an exit status, options of one spelling."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from golden_model.config import PRESETS
from golden_model.files import printable


class _Console(Console):
    """A console whose texts are lines: what is not printable, as in the name of a file, is spelled out."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


#: Lines are never wrapped, so that paths stay whole in logs; brackets in a path are not markup.
console = _Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

Json = Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Also write the results to this file.")]
Preset = Annotated[
    str, typer.Option("--hardware", help=f"{', '.join(PRESETS)}, or a .json file with what differs from one.")
]


def command(main: Callable[..., None]) -> typer.Typer:
    """A command of one function. Errors of bad input are one sentence and exit status 2, Ctrl-C is status 130.

    A reader of standard output that goes away ends the command quietly (status 141). There is no completion, and
    typer's own way to print tracebacks is off.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(cls=_Command)(main)
    return app


class _Command(TyperCommand):
    """Ends in the ways of `command`, the reading of its arguments (`--help`) included."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with ends():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> None:
        with ends():
            super().invoke(ctx)
            sys.stdout.flush()


@contextmanager
def ends() -> Iterator[None]:
    """Ends a command with one sentence and a status where what is inside fails."""
    for name in ("stdout", "stderr"):  # closed ones are None
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - stays open until the end
    try:
        yield
    except typer.BadParameter as error:
        error.message = printable(error.message)
        raise
    except (ValueError, TypeError) as error:
        fail(str(error))
    except BrokenPipeError:
        _give_up(sys.stdout)
        raise typer.Exit(141) from None
    except OSError as error:
        _give_up(sys.stdout)
        fail(f"{error.filename or 'standard output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        raise typer.Exit(130) from None


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, nothing elsewhere; takes (what is done, how many are done, of how many or 0)."""
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None)


def results_console(width: int = 150) -> Console:
    """Standard output for tables: as wide as the terminal, or `width` characters where there is none."""
    terminal = _Console(highlight=False)
    return terminal if terminal.is_terminal else _Console(highlight=False, width=width)


def table_of(
    title: str | None,
    columns: Sequence[tuple[str, str | Callable[[Any], str]]],
    *sections: Iterable[Any],
    caption: str | None = None,
    right: bool = False,
) -> Table:
    """A table of records of a result.

    columns : heading, and what a cell shows: a format of the record's fields ("{clocks:,.0f}"), or a function of the
    record. sections : records, with a line between sections. right : all columns but the first stand to the right.
    """
    made = Table(title=title, caption=caption)
    for index, (heading, _) in enumerate(columns):
        made.add_column(heading, justify="right" if right and index else "left")
    for index, records in enumerate(sections):
        if index:
            made.add_section()
        for record in records:
            made.add_row(*(cell.format_map(record) if isinstance(cell, str) else cell(record) for _, cell in columns))
    return made


def fail(message: str) -> NoReturn:
    """One sentence on stderr, exit status 2."""
    with contextlib.suppress(OSError):  # nobody listens
        print("error: " + printable(" ".join(message.split())), file=sys.stderr, flush=True)
    raise typer.Exit(2)


def _give_up(stream: Any) -> None:
    """Drop what a stream still holds if it cannot be written, so that the end does not fail, too."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
