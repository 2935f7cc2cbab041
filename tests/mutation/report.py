"""What a campaign has found: the table, and the comparison with the survivors that are known."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from golden_model import pages
from tests.mutation import results
from tests.mutation.operators import ROOT, Mutant, mutants
from tests.mutation.results import BROKEN, EQUIVALENT, KILLED, REAL, SAME, SURVIVED, Results

#: Mutants that no test and no proof notices, each with the reason.
KNOWN = Path(__file__).with_name("survivors.json")
#: Least share of those killed among mutants that are not proved equivalent.
LEAST_KILLED = 0.97
_NAMES = ("file", "function", "line", "was", "becomes", "before")
#: The last one follows from the source, all others from the results alone.
COLUMNS = ("block", "mutants", "own tests", "further tests", "proofs", "no end", "equivalent", "survivors", "stale")


def known_survivors() -> list[dict[str, Any]]:
    return json.loads(KNOWN.read_text())


def identity(entry: dict[str, Any]) -> tuple[Any, ...]:
    """What tells an entry of the list from others: that of `Mutant.entry`."""
    return tuple(entry[name] for name in _NAMES)


def mutant_of(entry: dict[str, Any]) -> Mutant | None:
    """The mutant that an entry means, None if the source no longer has it."""
    path = ROOT / entry["file"]
    source = path.read_bytes() if path.is_file() else b""
    candidates = (one for one in mutants(entry["file"], source) if one.was == entry["was"])
    return next((one for one in candidates if identity(one.entry(source)) == identity(entry)), None)


def rate(records: Results) -> float:
    """Share of killed ones among all but those proved equivalent."""
    outcomes = _outcomes(records)
    return outcomes[KILLED] / max(1, outcomes[KILLED] + outcomes[SURVIVED])


def _outcomes(records: Results) -> Counter[str]:
    return Counter(record["outcome"] for record in records.values())


def complaints(records: Results, whole: bool) -> list[str]:
    """A sentence for whatever is not as it should be; nothing is said of stale results. whole : of all blocks."""
    listed = {results.key_of(mutant) for entry in known_survivors() if (mutant := mutant_of(entry)) is not None}
    sentences = []
    for key, record in records.items():
        mutant = results.current().get(key)
        wrong = record["outcome"] == SURVIVED if key not in listed else record["outcome"] in (KILLED, EQUIVALENT)
        if mutant is not None and wrong:
            number, line = mutant.place((ROOT / mutant.file).read_bytes())
            what = f"{short(mutant.was)} -> {short(mutant.becomes)} in `{line}` {record['outcome']}"
            state = "and is" if key in listed else "and is not"
            sentences.append(f"{mutant.file}:{number}: {what} {state} in {KNOWN.name}")
    if whole and rate(records) < LEAST_KILLED:
        sentences.append(f"{100 * rate(records):.1f} % are killed, at least {100 * LEAST_KILLED:.0f} % must be")
    return sentences


def table(records: Results) -> list[tuple[str, ...]]:
    """Rows for `COLUMNS`, the sum last."""
    rows: dict[str, Counter[str]] = {}
    for key, record in records.items():
        if record["outcome"] not in REAL:
            continue
        kind = record["stage"] if record["outcome"] == KILLED else record["outcome"]
        stale = [] if key in results.current() else ["stale"]
        for row in (results.block_of(key), "all"):
            rows.setdefault(row, Counter()).update(["mutants", kind, *stale])
    kinds = ("mutants", "own", "more", "formal", "no end", EQUIVALENT, SURVIVED, "stale")
    names = [*sorted(set(rows) - {"all"}), *({"all"} & set(rows))]
    return [(name, *(str(rows[name][kind] or "") for kind in kinds)) for name in names]


def summary(records: Results) -> str:
    """What was found, in a line."""
    outcomes = _outcomes(records)
    return (
        f"{sum(outcomes[kind] for kind in REAL)} mutants tried: {outcomes[KILLED]} killed, {outcomes[EQUIVALENT]} "
        f"proved equivalent, {outcomes[SURVIVED]} survivors; {100 * rate(records):.1f} % of those that are not "
        f"equivalent are killed. Not counted: {outcomes[SAME]} changes that make the same hardware, "
        f"{outcomes[BROKEN]} that make none."
    )


def write(page: Path, records: Results) -> None:
    """Put table and survivors into a page of the documentation."""
    tried = pages.lines_of([COLUMNS, *table(records)], right=True)
    pages.put(page, mutants=[summary(records), "", *tried], survivors=survivor_lines())


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
