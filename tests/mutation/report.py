"""What a campaign has found: the table, and the comparison with the survivors that are known."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from golden_model import pages
from tests.mutation.campaign import BROKEN, EQUIVALENT, KILLED, SAME, SURVIVED
from tests.mutation.operators import ROOT, Mutant, mutants

#: Mutants that no test and no proof notices, each with the reason.
KNOWN = Path(__file__).with_name("survivors.json")
#: Least share of those killed among mutants that are not proved equivalent.
LEAST_KILLED = 0.97
_NAMES = ("file", "function", "line", "was", "becomes", "before")
_COLUMNS = ("block", "mutants", "own tests", "further tests", "proofs", "no end", "equivalent", "survivors")

Found = list[tuple[Mutant, dict[str, Any]]]


def known_survivors() -> list[dict[str, Any]]:
    return json.loads(KNOWN.read_text())


def identity(entry: dict[str, Any]) -> tuple[Any, ...]:
    """What tells an entry of the list from others: that of `Mutant.entry`."""
    return tuple(entry[name] for name in _NAMES)


def mutant_of(entry: dict[str, Any]) -> Mutant | None:
    """The mutant that an entry means, None if the source no longer has it."""
    path = ROOT / entry["file"]
    source = path.read_bytes() if path.is_file() else b""
    candidates = mutants(entry["file"], source)
    return next((one for one in candidates if identity(one.entry(source)) == identity(entry)), None)


def rate(found: Found) -> float:
    """Share of killed ones among all but those proved equivalent."""
    outcomes = Counter(record["outcome"] for _, record in found)
    return outcomes[KILLED] / max(1, outcomes[KILLED] + outcomes[SURVIVED])


def complaints(found: Found, whole: bool) -> list[str]:
    """A sentence for whatever is not as it should be. whole : all mutants of all blocks were tried."""
    known = {identity(entry) for entry in known_survivors()}
    sentences = []
    for mutant, record in found:
        number, line = mutant.place((ROOT / mutant.file).read_bytes())
        where = f"{mutant.file}:{number}: {short(mutant.was)} -> {short(mutant.becomes)} in `{line}`"
        if record["outcome"] == SURVIVED and identity(record) not in known:
            sentences.append(f"{where} survives and is not in {KNOWN.name}")
        if record["outcome"] in (KILLED, EQUIVALENT) and identity(record) in known:
            sentences.append(f"{where} is {record['outcome']}, but {KNOWN.name} says that it survives")
    if whole and rate(found) < LEAST_KILLED:
        sentences.append(f"{100 * rate(found):.1f} % are killed, at least {100 * LEAST_KILLED:.0f} % must be")
    return sentences


def table(found: Found) -> list[tuple[str, ...]]:
    """Rows for `_COLUMNS`, the sum last."""
    rows: dict[str, Counter[str]] = {}
    for mutant, record in found:
        name = mutant.file.removeprefix("rtl/").removesuffix(".py")
        kind = record["stage"] if record["outcome"] == KILLED else record["outcome"]
        for row in (name, "all"):
            rows.setdefault(row, Counter()).update([kind, "mutants"])
    kinds = ("mutants", "own", "more", "formal", "no end", EQUIVALENT, SURVIVED)
    names = [*sorted(set(rows) - {"all"}), *({"all"} & set(rows))]
    return [(name, *(str(rows[name][kind] or "") for kind in kinds)) for name in names]


def summary(found: Found, results: dict[str, Any], wanted: int) -> str:
    """What a campaign of that many mutants has found so far, in a line."""
    outcomes = Counter(record["outcome"] for _, record in found)
    others = Counter(record["outcome"] for record in results.values())
    seconds = sum(record["seconds"] for record in results.values())
    return (
        f"{len(found)} of {wanted} mutants tried: {outcomes[KILLED]} killed, {outcomes[EQUIVALENT]} proved equivalent, "
        f"{outcomes[SURVIVED]} survivors; {100 * rate(found):.1f} % of those that are not equivalent are killed. Not "
        f"counted: {others[SAME]} changes that make the same hardware, {others[BROKEN]} that make none. "
        f"{seconds / max(1, len(results)):.0f} s each."
    )


def write(page: Path, found: Found, sentence: str) -> None:
    """Put table and survivors into a page of the documentation."""
    tried = pages.lines_of([_COLUMNS, *table(found)], right=True)
    pages.put(page, mutants=[sentence, "", *tried], survivors=survivor_lines())


def survivor_lines() -> list[str]:
    """The list of known survivors as a Markdown table, equal reasons together."""
    rows = [("block", "function", "line", "change", "reason")]
    for entry in known_survivors():
        change = f"`{short(entry['was'])}` → `{short(entry['becomes'])}`"
        name = entry["file"].removeprefix("rtl/").removesuffix(".py")
        rows.append((name, f"`{entry['function']}`", f"`{entry['line']}`", change, entry["reason"]))
    return pages.lines_of(rows)


def short(text: str, most: int = 60) -> str:
    """Program text in one line."""
    text = {"[]": "nothing", "*[]": "nothing", "pass": "nothing"}.get(text, " ".join(text.split()))
    return text if len(text) <= most else f"{text[: most - 2]} …"
