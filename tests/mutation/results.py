"""What became of every mutant, kept in a file of the repository: a short line each.

    {"mutant": KEY, "outcome": "killed", "stage": "own", "by": TEST}

A key names one text of the block's file, so a result is valid as long as that file is what it was, and *stale* after.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from golden_model.files import write_text
from tests.mutation import designs
from tests.mutation.operators import ROOT, Mutant, mutants

KEPT = Path(__file__).with_name("results.jsonl")

KILLED, SURVIVED, EQUIVALENT = "killed", "survived", "equivalent"
#: No mutants: what is generated does not change, or is not generated at all.
SAME, BROKEN = "no hardware", "not buildable"
REAL = (KILLED, SURVIVED, EQUIVALENT)

#: Key -> record, of the last line of every mutant.
Results = dict[str, dict[str, Any]]


def key_of(mutant: Mutant) -> str:
    return f"{_hash(mutant.file)} {mutant.file} {mutant.start}-{mutant.end} {mutant.becomes}"


@cache
def _hash(file: str) -> str:
    return designs.source_hash(file)


def block_of(key: str) -> str:
    """The block's name in tables: its file without the folder rtl/ and the end."""
    return key.split(" ")[1].removeprefix("rtl/").removesuffix(".py")


@cache
def current() -> dict[str, Mutant]:
    """Every change that can be made to the source as it is, by key."""
    return {key_of(one): one for file in designs.FILES for one in mutants(file, (ROOT / file).read_bytes())}


def read(path: Path) -> Results:
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return {record["mutant"]: record for record in map(json.loads, lines)}


def add(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def tidied(results: Results) -> Results:
    """One result of every mutant, in the order of the source; stale ones only of blocks that have no others."""
    order = {key: i for i, key in enumerate(current())}
    fresh = {block_of(key) for key in results if key in order}
    kept = (key for key in results if key in order or block_of(key) not in fresh)
    return {key: results[key] for key in sorted(kept, key=lambda key: (block_of(key), order.get(key, 0), key))}


def tidy(path: Path) -> Results:
    """What `tidied` leaves of a file, in the file too."""
    results = tidied(read(path))
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in results.values()))
    return results


def selected(order: list[Mutant], quotas: dict[str, int], results: Results) -> Results:
    """The first real mutants of every file, as many as are wanted, with their results."""
    taken: Counter[str] = Counter()
    found = {}
    for mutant in order:
        record = results.get(key_of(mutant))
        if record and record["outcome"] in REAL and taken[mutant.file] < quotas[mutant.file]:
            taken[mutant.file] += 1
            found[key_of(mutant)] = record
    return found
