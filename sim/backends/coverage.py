"""What simulations exercise of a design, block by block: `python -m sim.backends.coverage DIRECTORY`.

With OHMLOOM_COVERAGE=DIRECTORY in the environment compiled simulations (`python -m sim.run`, tests) count, of the
exported Verilog: *lines*, bodies of always blocks and cases that were entered; *branches*, both ways of a condition;
*toggles*, each bit of every signal of up to 64 bits, in both directions. The directory gathers them over all processes
and designs. A block that a design has several times counts as exercised where any of its copies was.

Bits of counters and of addresses beyond what a small network reaches are never exercised: toggles tell more about the
data than about the tests.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from amaranth.hdl._ir import Fragment

from golden_model import pages
from golden_model.command import Json, command, results_console, table_of
from golden_model.files import write_json
from rtl.block import Block
from sim.backends import functional

KINDS = ("line", "branch", "toggle")
#: A point of Verilator's file: its kind and module, its line, what it is, and how often it was met.
_POINT = re.compile(rb"\x01l\x02(\d+).*?\x01page\x02v_(\w+)/([^\x01']*)\x01o\x02([^\x01']*).*' (\d+)$")
_simulations = count()


def folder() -> Path | None:
    """Where simulations leave what they exercised, if they are to."""
    given = os.environ.get("OHMLOOM_COVERAGE")
    return Path(given).absolute() if given else None


def keep_blocks(library: Path, component: Any) -> None:
    """Write into a library's folder which block each module of its Verilog is."""
    from rtl.generate import RegisteredReset

    found: dict[str, str] = {}

    def walk(fragment: Any, path: str) -> None:
        for origin in fragment.origins or ():
            if isinstance(origin, Block):
                found[path] = next(
                    one.__module__[4:] for one in type(origin).__mro__ if one.__module__.startswith("rtl.")
                )
        for inner, name, _ in fragment.subfragments:
            walk(inner, f"{path}.{name}")

    walk(Fragment.get(RegisteredReset(component), None), "dut")
    (library / "blocks.json").write_text(json.dumps(found))


@dataclass(frozen=True)
class Covered:
    """What one simulation exercises. raw : the file that it writes at its end. gathered : what all add up to."""

    library: Path
    raw: Path
    gathered: Path

    @classmethod
    def of(cls, library: Path) -> Covered | None:
        """For a simulation of a library; None without a directory to gather in."""
        where = folder()
        if where is None:
            return None
        where.mkdir(parents=True, exist_ok=True)
        return cls(library, where / f"{os.getpid()}-{next(_simulations)}.raw", where / f"{library.name}.json")

    def fold(self) -> None:
        """Add the simulation's file to what was gathered, and remove it."""
        blocks = json.loads((self.library / "blocks.json").read_text())
        met = points(self.raw.read_bytes(), blocks)
        self.raw.unlink()
        with self.gathered.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.gathered.exists():
                met = united(met, read(self.gathered))
            write_json(
                self.gathered,
                {block: {kind: _text(hit) for kind, hit in kinds.items()} for block, kinds in met.items()},
            )


#: By block and kind: which points were met, bool (points,).
Met = dict[str, dict[str, np.ndarray]]


def points(raw: bytes, blocks: dict[str, str]) -> Met:
    """What a file of Verilator says. blocks : by module; what belongs to none belongs to the module around it."""
    modules: dict[tuple[bytes, bytes], dict[tuple[int, bytes], bool]] = defaultdict(dict)
    for line in raw.splitlines():
        if point := _POINT.search(line):
            number, kind, module, what, times = point.groups()
            modules[module, kind][int(number), what] = times != b"0"
    copies: dict[tuple[str, str, int], np.ndarray] = {}
    for (module, kind), found in modules.items():
        hit = np.array(list(found.values()))
        key = _block(module.decode(), blocks), kind.decode(), len(hit)
        if not key[0]:
            continue
        copies[key] = copies[key] | hit if key in copies else hit
    met: Met = defaultdict(dict)
    for (block, kind, _), hit in copies.items():
        met[block][kind] = np.concatenate([met[block].get(kind, hit[:0]), hit])
    return met


def _block(module: str, blocks: dict[str, str]) -> str:
    """The block of a module, or of the one around it; "" above all blocks."""
    path = re.sub(r"\$\d+", "", module)
    while path and path not in blocks:
        path = path.rpartition(".")[0]
    return blocks.get(path, "")


def united(one: Met, other: Met) -> Met:
    """What either has met, of the same design."""
    return {block: {kind: hit | other[block][kind] for kind, hit in kinds.items()} for block, kinds in one.items()}


def _text(hit: np.ndarray) -> str:
    return "".join("01"[int(bit)] for bit in hit)


def read(gathered: Path) -> Met:
    """What was gathered of a design."""
    found = json.loads(gathered.read_text())
    return {
        block: {kind: np.array([bit == "1" for bit in text]) for kind, text in kinds.items()}
        for block, kinds in found.items()
    }


def summary(where: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """By block and kind, of all designs: (points met, points)."""
    totals: dict[str, dict[str, tuple[int, int]]] = {}
    for gathered in sorted(where.glob("*.json")):
        for block, kinds in read(gathered).items():
            for kind, hit in kinds.items():
                met, every = totals.setdefault(block, {}).get(kind, (0, 0))
                totals[block][kind] = met + int(hit.sum()), every + len(hit)
    return dict(sorted(totals.items()))


def _share(kinds: dict[str, tuple[int, int]], kind: str) -> str:
    met, every = kinds.get(kind, (0, 0))
    return f"{met / every:.1%} of {every:,}" if every else "-"


@command
def app(
    directory: Annotated[Path, typer.Argument(help="What OHMLOOM_COVERAGE named.")],
    json_file: Json = None,
    page: Annotated[Path | None, typer.Option("--table", help="write both tables into this Markdown file")] = None,
) -> None:
    """Lines, branches and bits that simulations exercised, by block; and which uses of the hardware were found equal to
    the golden model, in steps, by machine."""
    found = summary(directory)
    if not found:
        raise ValueError(f"{directory}: nothing is there; set OHMLOOM_COVERAGE={directory} and run simulations")
    total = {}
    for kind in KINDS:
        pairs = [kinds[kind] for kinds in found.values() if kind in kinds]
        total[kind] = sum(met for met, _ in pairs), sum(every for _, every in pairs)
    uses = functional.summary(directory)
    if json_file is not None:
        write_json(json_file, found | {"all": total, "uses": uses})
    exercised = [(block, *(_share(kinds, kind) for kind in KINDS)) for block, kinds in (found | {"all": total}).items()]
    machines = sorted({machine for counts in uses.values() for machine in counts})
    equal = [(use, *(str(counts.get(machine, "-")) for machine in machines)) for use, counts in uses.items()]
    tables = {
        "blocks": (("block", "lines", "branches", "toggles"), exercised),
        "uses": (("steps that ask for", *machines), equal),
    }
    for head, rows in tables.values():
        columns: list[tuple[str, Any]] = [(name, lambda row, i=i: row[i]) for i, name in enumerate(head)]
        results_console().print(table_of(None, columns, rows, right=True))
    if page is not None:
        pages.put(page, **{name: pages.lines_of([head, *rows], right=True) for name, (head, rows) in tables.items()})


if __name__ == "__main__":
    app()
