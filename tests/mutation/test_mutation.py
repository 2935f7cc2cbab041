"""The list of survivors fits the source; changes are what they say; a hanging or wrong mutant is told."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from golden_model import pages
from tests.mutation import designs, equivalence, report, results
from tests.mutation.children import in_child
from tests.mutation.designs import Design
from tests.mutation.operators import ROOT, Mutant, mutants

KNOWN = report.known_survivors()
EXAMPLE = b'''"""A module."""
LIMIT = 3


def gate(a, b) -> int:
    """Add 1."""
    if LIMIT > 2:
        raise ValueError(f"{LIMIT + 1}")
    return a & ~b


class Block:
    ports: 8

    def elaborate(self, platform):
        with m.If(a == 1):
            m.d.sync += [x.eq(Mux(c, p, q)), y.eq(z.any())]
            m.next = "WORK"
'''


def changes(source=EXAMPLE):
    return {(one.was, one.becomes) for one in mutants("example.py", source)}


def of(was, becomes, file="rtl/trq_sar.py") -> Mutant:
    return next(one for one in mutants(file, (ROOT / file).read_bytes()) if (one.was, one.becomes) == (was, becomes))


@pytest.mark.parametrize("entry", KNOWN, ids=[f"{one['file']}:{one['was'][:20]}" for one in KNOWN])
def test_survivor_of_the_list_is_a_change_that_the_source_still_has(entry):
    assert report.mutant_of(entry) is not None, "the source has changed: run `make mutate` for this block"
    assert entry["reason"].strip()


def test_no_survivor_is_listed_twice():
    assert len({report.identity(entry) for entry in KNOWN}) == len(KNOWN)


def test_page_lists_the_survivors():
    page = (ROOT / "docs" / "mutants.md").read_text()
    assert "\n".join(["<!-- survivors -->", *report.survivor_lines(), "<!-- end of survivors -->"]) in page


def test_page_has_the_table_of_the_results():
    """All but its last column, which is of the source at the time."""
    stored = results.read(results.KEPT)
    page = pages.rows_of(ROOT / "docs" / "mutants.md", "mutants")
    assert [tuple(row.values())[:-1] for row in page] == [row[:-1] for row in report.table(stored)]
    assert report.summary(stored) in (ROOT / "docs" / "mutants.md").read_text()
    if stale := [f"{row[0]} ({row[-1]})" for row in report.table(stored)[:-1] if row[-1]]:
        warnings.warn(f"mutants of an older source, `make mutate` tries new ones: {', '.join(stale)}", stacklevel=1)


def test_no_result_is_left_without_an_explanation():
    stored = results.read(results.KEPT)
    assert [*results.tidied(stored)] == [*stored], "`make mutate MUTATE=--report` tidies the file"
    assert report.complaints(stored, whole=True) == []


def test_stale_results_go_when_their_block_has_others():
    fresh = [key for key in results.current() if results.block_of(key) == "trq_sar"][1::-1]
    old = ["0000 rtl/trq_sar.py 1-2 x", "0000 rtl/no_block.py 1-2 x"]
    tidied = results.tidied({key: {"mutant": key} for key in [*fresh, *old]})
    assert [*tidied] == [old[1], *reversed(fresh)]


def test_survivor_without_a_reason_is_named_and_a_stale_one_is_not():
    key, mutant = next(iter(results.current().items()))
    stored = {one: {"mutant": one, "outcome": "survived"} for one in (key, f"0000 {mutant.file} 1-2 x")}
    (sentence,) = report.complaints(stored, whole=False)
    assert sentence.startswith(f"{mutant.file}:")
    assert sentence.endswith("survived and is not in survivors.json")


def test_every_kind_of_change_is_made_where_it_belongs():
    assert changes() == {
        ("&", "|"),
        ("a & ~b", "a"),
        ("a & ~b", "~b"),
        ("~b", "b"),
        ("==", "!="),
        ("1", "2"),
        ("1", "0"),
        ("a == 1", "1"),
        ("a == 1", "0"),
        ("x.eq(Mux(c, p, q))", "*[]"),
        ("y.eq(z.any())", "*[]"),
        ("Mux(c, p, q)", "Mux(c, q, p)"),
        ("any", "all"),
        ('m.next = "WORK"', "pass"),
    }


def test_entry_tells_equal_changes_of_a_function_apart_and_outlives_edits_above_it():
    source = b"def f(a):\n    return (a == 1) | (a == 1)\n"
    entries = [one.entry(source) for one in mutants("x.py", source)]
    assert len({report.identity(entry) for entry in entries}) == len(entries)
    longer = b"# a comment\n\n" + source
    assert [one.entry(longer) for one in mutants("x.py", longer)] == entries


def test_installed_mutant_changes_the_block_in_the_child_only():
    def job(send):
        designs.install(of("~search.twin", "search.twin"))
        send({"text": designs.text_of("trq_sar", "tiny")}, 10)

    before = designs.text_of("trq_sar", "tiny")
    assert [record["text"] == before for record in in_child(job, 60)] == [False]
    assert designs.text_of("trq_sar", "tiny") == before


def test_child_that_computes_for_too_long_is_ended():
    def busy(send):
        while True:
            pass

    begin = time.monotonic()
    assert [*in_child(busy, 0.2)] == [{"timeout": True}]
    assert time.monotonic() - begin < 60


def test_child_that_fails_says_why():
    def fails(send):
        raise ZeroDivisionError

    (record,) = in_child(fails, 60)
    assert "ZeroDivisionError" in record["crash"]


class Count(wiring.Component):
    """1 in the clock after the counter has reached `last`."""

    def __init__(self, last: int, bits: int):
        self.last, self.bits = last, bits
        super().__init__({"end": Out(1)})

    def elaborate(self, platform):
        m = Module()
        count = Signal(self.bits)
        m.d.sync += [count.eq(Mux(count == self.last, 0, count + 1)), self.end.eq(count == self.last)]
        return m


@pytest.mark.parametrize(
    ("last", "bits", "verdict"),
    [(5, 4, equivalence.EQUIVALENT), (6, 3, equivalence.DIFFERENT)],
    ids=["a register is wider", "a difference after seven clocks"],
)
def test_verdict_of_the_comparison(last, bits, verdict, tmp_path: Path):
    texts = [rtlil.convert(block, name="block") for block in (Count(5, 3), Count(last, bits))]
    assert equivalence.compare(*texts, tmp_path, 60) == verdict


def test_smallest_design_with_the_line_is_looked_at_in_each_configuration():
    mutant = of("~search.twin", "search.twin")
    lines = {mutant.file: {mutant.lines[0]}}
    among = [
        Design("other", "tiny", "", {}),
        Design("small", "tiny", "1", lines),
        Design("large", "tiny", "22", lines),
        Design("odd", "odd", "333", lines),
    ]
    assert [design.name for design in designs.smallest(mutant, among)] == ["small", "odd"]
