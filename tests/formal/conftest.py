"""What every proof uses, and the table of what was proved.

`pytest tests/formal` ends with the table; `--table FILE` also writes it into a Markdown file, between two comments.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from golden_model import pages
from tests.formal.prove import Method, ProofError, cpu_seconds, prove

_HEAD = ("property", "block", "configuration", "method", "seconds")


def pytest_addoption(parser):
    parser.addoption("--table", metavar="FILE", help="write the table of proofs into this Markdown file")


@pytest.fixture
def proof(request, tmp_path) -> Callable[..., None]:
    """Proves a specification and enters it into the table; the name of the test is the property."""

    def lead(spec, block: str, configuration: str, method: Method, **options) -> None:
        begin = cpu_seconds()
        prove(spec, tmp_path, method, **options)
        _enter(request, block, configuration, method.name, begin)

    return lead


@pytest.fixture
def refutation(request, tmp_path) -> Callable[..., None]:
    """Sees that a specification does not hold, that a trace shows why, and enters it into the table."""

    def lead(spec, block: str, bug: str, method: Method, **options) -> None:
        begin = cpu_seconds()
        with pytest.raises(ProofError, match=r"Assert failed|assertion failed|Status: FAILED|status: FAIL"):
            prove(spec, tmp_path, method, **options)
        assert list(tmp_path.rglob("trace*.vcd")), "there is no trace"
        _enter(request, block, bug, f"refuted, {method.name}", begin)

    return lead


@pytest.fixture
def entry(request) -> Callable[..., None]:
    """Enters what was proved in another way into the table."""
    begin = cpu_seconds()
    return lambda block, configuration, method: _enter(request, block, configuration, method, begin)


def _enter(request, block: str, configuration: str, method: str, begin: float) -> None:
    name = request.node.originalname.removeprefix("test_").replace("_", " ")
    row = (name, block, configuration, method, f"{cpu_seconds() - begin:.1f}")
    request.node.user_properties.append(("proof", row))


def pytest_terminal_summary(terminalreporter, config) -> None:
    reports = terminalreporter.stats.get("passed", [])
    rows = sorted({tuple(row) for report in reports for name, row in report.user_properties if name == "proof"})
    if not rows:
        return
    widths = [max(len(row[i]) for row in [_HEAD, *rows]) for i in range(len(_HEAD))]
    terminalreporter.section("proofs")
    for row in [_HEAD, *rows]:
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    if path := config.getoption("--table"):
        pages.put(Path(path), proofs=pages.lines_of([_HEAD, *_short(rows)]))


def _short(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Bugs that refute one property in one row, and paths that a netlist does not have."""
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for row in rows:
        name, *_, method, _ = row
        together = method == "netlist" or method.startswith("refuted")
        groups.setdefault((name, method) if together else row, []).append(row)

    def joined(group: list[tuple[str, ...]]) -> tuple[str, ...]:
        name, _, _, method, _ = group[0]
        blocks, what = (dict.fromkeys(row[i] for row in group) for i in (1, 2))
        seconds = sum(float(row[-1]) for row in group)
        return name, ", ".join(blocks), "; ".join(what), method, f"{seconds:.1f}"

    return [joined(group) for group in groups.values()]
