"""Tables of the documentation that commands write and read: Markdown between two comments of a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from golden_model.files import InputError, write_text


def lines_of(rows: Iterable[Sequence[object]], right: bool = False) -> list[str]:
    """Rows as a Markdown table, the first one its head; right : all columns but the first are numbers."""
    head, *others = ([str(cell).replace("|", r"\|") for cell in row] for row in rows)
    rule = ["---", *["--:" if right else "---"] * (len(head) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *others)]


def put(page: Path, **parts: Iterable[str]) -> None:
    """Replace the lines between `<!-- name -->` and `<!-- end of name -->` of a page, for every name.

    InputError if the page has no such comments; then nothing is written.
    """
    text = page.read_text("utf-8")
    for name, lines in parts.items():
        before, _, behind = _cut(page, text, name)
        text = "\n".join([f"{before}{_begin(name)}", *lines, f"{_end(name)}{behind}"])
    write_text(page, text)


def rows_of(page: Path, name: str) -> list[dict[str, str]]:
    """Rows of the table between the two comments, each by the heads of its columns."""
    _, table, _ = _cut(page, page.read_text("utf-8"), name)
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines() if line.startswith("|")]
    head, _, *others = [[cell.strip().replace(r"\|", "|") for cell in row] for row in rows]
    return [dict(zip(head, row, strict=True)) for row in others]


def _begin(name: str) -> str:
    return f"<!-- {name} -->"


def _end(name: str) -> str:
    return f"<!-- end of {name} -->"


def _cut(page: Path, text: str, name: str) -> tuple[str, str, str]:
    """What is before, between and behind the two comments."""
    before, begin, rest = text.partition(_begin(name))
    between, end, behind = rest.partition(_end(name))
    if not (begin and end):
        raise InputError(f"{page}: a table goes between {_begin(name)} and {_end(name)}, which it does not have")
    return before, between, behind
