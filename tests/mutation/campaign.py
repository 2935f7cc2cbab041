"""Puts mutants into the running program, one after the other, and looks which test notices."""

from __future__ import annotations

import ast
import gc
import inspect
import multiprocessing
import os
import random
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from tests.formal.prove import cpu_seconds
from tests.mutation import designs, equivalence, results
from tests.mutation.children import Report, in_child
from tests.mutation.designs import FILES, Design
from tests.mutation.operators import ROOT, Mutant, mutants
from tests.mutation.results import BROKEN, EQUIVALENT, KILLED, REAL, SAME, SURVIVED, key_of

#: Tests of what is written from all blocks, not of what one does.
NO_JUDGES = {"test_generate.py", "test_synthesis.py", "test_sheets.py", "test_block.py", "test_build.py"}
#: Of a proof that a bug is found, the bug is the answer.
REFUTED = ("refuted", "can_have_a_beat", "it_is_not")
#: Of a failure that only says that a limit on the clock was too short: of a prover, of a tool, of pytest-timeout.
NO_ANSWER = ("the prover did not end within", "TimeoutExpired", "Failed: Timeout")
#: Seconds of a processor after which a mutant is looked at by the next means: a block's first tests and, if the mutant
#: is not equivalent, the rest of them; further tests; proofs.
FIRST_TESTS, OWN_TESTS, MORE_TESTS, PROOFS = 12.0, 12.0, 120.0, 60.0
#: Least of each block.
LEAST = 4


def chosen(count: int, seed: int, blocks: Iterable[str] = ()) -> tuple[list[Mutant], dict[str, int]]:
    """Mutants in the order in which they are tried, and how many real ones are wanted of each file, in proportion to
    what can be changed in it."""
    by_file = {file: mutants(file, (ROOT / file).read_bytes()) for file in FILES}
    known = {Path(file).stem for file in FILES}
    if unknown := set(blocks) - known:
        raise ValueError(f"there is no block {sorted(unknown)[0]!r}; there are {', '.join(sorted(known))}")
    total = sum(len(found) for found in by_file.values())
    quotas = {
        file: min(len(found), max(LEAST, -(-count * len(found) // total)))
        for file, found in by_file.items()
        if found and (not blocks or Path(file).stem in set(blocks))
    }
    ranked = []
    for file, quota in quotas.items():
        found = by_file[file]
        random.Random(f"{seed} {file}").shuffle(found)
        ranked += [((rank + 0.5) / quota, file, mutant) for rank, mutant in enumerate(found)]
    ranked.sort(key=lambda one: one[:2])
    return [mutant for _, _, mutant in ranked], quotas


# ---- which test looks at what -------------------------------------------------------------------
@cache
def _imports(path: Path) -> frozenset[Path]:
    """Files of rtl/ and tests/ that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    files = {ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith(("rtl.", "tests."))}
    return frozenset(file for file in files if file.is_file() and file.stem not in designs.NO_HARDWARE)


@cache
def _distances(path: Path) -> dict[Path, int]:
    """Files that a file imports, directly (1) or by others."""
    found, left, distance = {}, {path}, 0
    while left:
        distance += 1
        left = {file for one in left for file in _imports(one)} - set(found)
        found |= dict.fromkeys(left, distance)
    return found


def _words(text: str) -> frozenset[str]:
    """Those that its names consist of, too."""
    return frozenset(word.lower() for word in re.findall("[A-Z]?[a-z]{2,}|[A-Z]{3,}", text))


@cache
def _words_of(test: Callable[..., Any]) -> frozenset[str]:
    """Of a test's text and its file's name."""
    return _words(f"{test.__module__} {inspect.getsource(inspect.unwrap(test))}")


@dataclass
class Campaign:
    """A run of pytest in which tests are executed in children, on one mutant each.

    order, quotas : see `chosen`. kept : file to which results are added. folder : what makes a run faster and can be
    lost. again : keys of mutants that are tried once more. show : see `golden_model.command.progress_bar`.
    """

    order: list[Mutant]
    quotas: dict[str, int]
    kept: Path
    folder: Path
    workers: int = 1
    again: frozenset[str] = frozenset()
    show: Callable[[str, int, int], None] = lambda what, done, total: None
    items: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    #: Seconds of a processor that a test took, and mutants of a file that it killed.
    spent: dict[str, float] = field(default_factory=dict)
    kills: Counter[Any] = field(default_factory=Counter)
    designs: list[Design] = field(default_factory=list)

    @property
    def times(self) -> Path:
        """Seconds of every mutant and of the tests that it passed."""
        return self.folder / "times.jsonl"

    def run(self) -> None:
        """All mutants that have no result yet."""
        os.environ["HYPOTHESIS_PROFILE"] = "mutants"  # see tests/conftest.py
        options = ["-qq", "-s", "-m", "not slow", "-p", "no:cacheprovider", "--no-header", "--no-summary"]
        options += ["--tb=native", "--assert=plain"]  # nobody reads why a test fails
        pytest.main([*options, str(ROOT / "tests/rtl"), str(ROOT / "tests/formal")], plugins=[self])

    # ---- hooks of pytest
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for item in session.items:
            if item.path.name not in NO_JUDGES and not any(word in item.name for word in REFUTED):
                self.items[designs.relative(item.path)].append(item)
        self.designs = designs.designs(self.folder / "designs.pickle")
        for key, record in results.read(self.kept).items():
            self.kills[results.block_of(key), record.get("by")] += 1
        for record in results.read(self.times).values():
            self.spent |= record["passed"]
        gc.collect()
        gc.freeze()  # children share what is there
        self._work()
        return True

    def _work(self) -> None:
        """The workers take mutants in order, as long as there are not enough of their file."""
        kept = {key: record for key, record in results.read(self.kept).items() if key not in self.again}
        left = [mutant for mutant in self.order if key_of(mutant) not in kept]
        before = Counter(results.current()[key].file for key in results.selected(self.order, self.quotas, kept))
        files = {file: i for i, file in enumerate(self.quotas)}
        context = multiprocessing.get_context("fork")
        place, counts = context.Value("l", 0), context.Array("l", [before[file] for file in files])

        def take() -> Mutant | None:
            with place.get_lock():
                while place.value < len(left):
                    mutant = left[place.value]
                    place.value += 1
                    if counts[files[mutant.file]] < self.quotas[mutant.file]:
                        return mutant
            return None

        def worker() -> None:
            while mutant := take():
                begin = time.monotonic()
                record, passed = self._judge(mutant)
                name = {"mutant": key_of(mutant)}
                with place.get_lock():
                    counts[files[mutant.file]] += record["outcome"] in REAL
                    results.add(self.kept, name | record)
                    results.add(self.times, name | {"seconds": round(time.monotonic() - begin, 1), "passed": passed})
                if record["outcome"] == SURVIVED:
                    number, line = mutant.place((ROOT / mutant.file).read_bytes())
                    change = f"{mutant.was!r} -> {mutant.becomes!r}"
                    print(f"survives: {mutant.file}:{number}: {line[:90]}   {change[:90]}", flush=True)

        processes = [context.Process(target=worker) for _ in range(self.workers)]
        for process in processes:
            process.start()
        while any(process.is_alive() for process in processes):
            self.show("mutants", sum(counts[:]), sum(self.quotas.values()))
            time.sleep(1)
        if any(process.exitcode for process in processes):
            raise RuntimeError("a worker ended early; what it has done is kept")

    # ---- one mutant
    def _judge(self, mutant: Mutant) -> tuple[dict[str, str], dict[str, float]]:
        """What became of a mutant, and the seconds of the tests that passed."""
        own = self._judges(mutant, "own")
        found, passed = self._in_child(mutant, lambda report: self._look(mutant, own, report))
        for stage in ("more", "formal"):
            if found["outcome"] == SURVIVED:
                tests = [test for test in self._judges(mutant, stage) if test.nodeid not in passed]
                further, more = self._in_child(mutant, lambda report: self._use(mutant, tests, stage, report))  # noqa: B023
                found, passed = found | further, passed | more
        if found["outcome"] == KILLED:
            found.pop("miter", None)
            self.kills[results.block_of(key_of(mutant)), found["by"]] += 1
        return found, passed

    def _in_child(self, mutant: Mutant, job: Callable[[Report], None]) -> tuple[dict[str, str], dict[str, float]]:
        last: dict[str, Any] = {}
        passed: dict[str, float] = {}
        for record in in_child(job, 100):
            if record.get("timeout"):
                last = {"outcome": KILLED, "stage": "no end", "by": last.get("at", "")}
                break
            last = record
            if "passed" in record:
                passed[record["passed"]] = record["spent"]
        self.spent |= passed
        if "outcome" not in last:
            raise RuntimeError(f"{mutant}: {last}")
        return last, passed

    def _look(self, mutant: Mutant, own: list[Any], report: Report) -> None:
        """Is it one, do the block's own tests notice, does it make a difference at all."""
        looked_at = designs.smallest(mutant, self.designs)

        def differs(design: Design) -> bool:
            return designs.text_of(design.name, design.config) != design.text

        try:
            designs.install(mutant)
            at = next((i for i, design in enumerate(looked_at) if differs(design)), None)
        except Exception as error:
            return report({"outcome": BROKEN, "by": type(error).__name__}, 10)
        if at is None:
            return report({"outcome": SAME}, 10)
        left = iter(own)
        if by := self._first_failure(left, FIRST_TESTS, report):
            return report({"outcome": KILLED, "stage": "own", "by": by}, 10)
        report({"at": "equivalence"}, 100)
        verdict = self._verdict(looked_at[at:])
        if verdict == equivalence.EQUIVALENT:
            where = ", ".join(f"{design.name} {design.config}" for design in looked_at)
            return report({"outcome": EQUIVALENT, "by": where}, 10)
        if by := self._first_failure(left, OWN_TESTS, report):
            return report({"outcome": KILLED, "stage": "own", "by": by}, 10)
        return report({"outcome": SURVIVED, "miter": verdict}, 10)

    def _verdict(self, looked_at: list[Design]) -> str:
        """Of the installed mutant in every design; of the first one that is not equivalent, with its name."""
        seen = set()
        with tempfile.TemporaryDirectory() as folder:
            for number, design in enumerate(looked_at):
                if len(design.text) > designs.LARGE:
                    return f"{design.name} {design.config} is too large"
                text = designs.text_of(design.name, design.config)
                if (design.text, text) in seen:
                    continue
                seen.add((design.text, text))
                verdict = equivalence.compare(design.text, text, Path(folder) / str(number), 60)
                if verdict != equivalence.EQUIVALENT:
                    return f"{design.name} {design.config} {verdict}"
        return equivalence.EQUIVALENT

    def _use(self, mutant: Mutant, tests: list[Any], stage: str, report: Report) -> None:
        """Do further tests notice, or proofs."""
        designs.install(mutant)
        if by := self._first_failure(iter(tests), MORE_TESTS if stage == "more" else PROOFS, report):
            return report({"outcome": KILLED, "stage": stage, "by": by}, 10)
        report({"outcome": SURVIVED}, 10)

    # ---- tests
    def _judges(self, mutant: Mutant, stage: str) -> list[Any]:
        """Tests that may look at the mutant's file, the best first: those that killed before, are short, and use the
        words of the changed line. The block's own ("own") are those of the same name, or else those that are nearest
        to it; of a test of another block, only if that block executes the statement or the test names the file itself.
        Then all others ("more"), or the proofs ("formal")."""
        path = ROOT / mutant.file
        far = {file: _distances(ROOT / file)[path] for file in self.items if path in _distances(ROOT / file)}
        tests = {file: distance for file, distance in far.items() if "/formal/" not in file}
        named = [file for file in tests if Path(file).name == f"test_{mutant.block}.py"]
        makers = {design.name: False for design in self.designs}
        makers |= {design.name: True for design in self.designs if designs.covers(design.lines, mutant)}
        able = [file for file in tests if tests[file] == 1 or makers.get(Path(file).stem.removeprefix("test_"), True)]
        own = named or [file for file in able if tests[file] == min(tests[one] for one in able)]
        match stage:
            case "own":
                files = own
            case "more":
                files = list(tests)
            case _:
                files = [file for file in far if file not in tests]

        items = [item for file in sorted(files, key=far.__getitem__) for item in self.items[file]]
        functions: Counter[tuple[Path, str]] = Counter()
        said = _words(f"{mutant.block} {mutant.function} {mutant.was} {mutant.place(path.read_bytes())[1]}")
        common = Counter(word for item in items for word in _words_of(item.function) & said)
        ranked = []
        for item in items:
            function = (item.path, item.originalname)
            functions[function] += 1  # one case of every test before further cases of any
            kills = self.kills[results.block_of(key_of(mutant)), item.nodeid]
            fit = len(items) * sum(1 / common[word] for word in _words_of(item.function) & said)
            ranked.append(functions[function] * self.spent.get(item.nodeid, 1.0) / (1 + 4 * kills) / (1 + fit))
        return [item for _, item in sorted(zip(ranked, items, strict=True), key=lambda one: one[0])]

    def _first_failure(self, tests: Iterator[Any], limit: float, report: Report) -> str:
        """The name of the first test that fails, or "" if none does in `limit` seconds of a processor."""
        begin = cpu_seconds()
        while cpu_seconds() - begin < limit and (test := next(tests, None)):
            report({"at": test.nodeid}, 10 + 3 * self.spent.get(test.nodeid, 8))
            before = cpu_seconds()
            reports = runtestprotocol(test, log=False, nextitem=None)
            failures = [str(one.longrepr) for one in reports if one.failed]
            if any(not any(words in failure for words in NO_ANSWER) for failure in failures):
                return test.nodeid
            report({"passed": test.nodeid, "spent": round(cpu_seconds() - before, 2)}, 60)
        return ""
