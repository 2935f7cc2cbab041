"""What every command shares: consoles, errors as one sentence with an exit status, options of one spelling."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional, TypeVar

import typer
from rich.console import Console
from rich.progress import Progress

from golden_model.config import PRESETS
from golden_model.files import printable

Result = TypeVar("Result")

#: Lines are never wrapped, so that paths stay whole in logs; brackets in a path are not markup.
console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

Json = Annotated[Optional[Path], typer.Option("--json", dir_okay=False, help="Also write the results to this file.")]  # noqa: UP045
Preset = Annotated[
    str, typer.Option("--hardware", help=f"{', '.join(PRESETS)}, or a .json file with what differs from one.")
]


def command_app() -> typer.Typer:
    """A command without completion and without typer's own way to print tracebacks."""
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def command(main: Callable[..., Any]) -> typer.Typer:
    """A command of one function, whose errors of bad input are one sentence (`reports_errors`)."""
    app = command_app()
    app.command()(reports_errors(main))
    return app


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, nothing elsewhere; takes (what is done, how many are done, of how many or 0)."""
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None)


def results_console(width: int = 150, *, highlight: bool = False) -> Console:
    """Standard output for tables: as wide as the terminal, or `width` characters where there is none."""
    terminal = Console(highlight=highlight)
    return terminal if terminal.is_terminal else Console(highlight=highlight, width=width)


def fail(message: str) -> NoReturn:
    """One sentence on stderr, exit status 2."""
    with contextlib.suppress(OSError):  # nobody listens
        print("error: " + printable(" ".join(message.split())), file=sys.stderr, flush=True)
    raise typer.Exit(2)


def reports_errors(command: Callable[..., Result]) -> Callable[..., Result]:
    """Turn the errors of bad input into one sentence and exit status 2; Ctrl-C into status 130.

    A reader of standard output that goes away ends the command quietly (status 141).
    """

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Result:
        for name in ("stdout", "stderr"):  # closed ones are None
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - stays open until the end
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()
            return result
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

    return wrapped


def _give_up(stream: Any) -> None:
    """Drop what a stream still holds if it cannot be written, so that the end does not fail, too."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
