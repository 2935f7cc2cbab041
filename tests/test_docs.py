"""README and docs name only files, commands, options, make targets, links and modules that exist."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: Sheets of blocks are made from the code, and looked at by tests/rtl/test_sheets.py.
PAGES = [
    ROOT / "README.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "blocks"),
]
IDS = [str(p.relative_to(ROOT)) for p in PAGES]
#: Written by a make target or command, not kept in the repository.
GENERATED = ("build/",)


def spans(text: str) -> list[str]:
    """Texts in backquotes, and lines of code blocks."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    indented = re.findall(r"^    (\S.*)$", text, flags=re.MULTILINE)
    return [*inline, *(line for block in blocks for line in block.splitlines()), *indented]


def commands(text: str) -> list[str]:
    return [m.group(0) for s in spans(text) for m in re.finditer(r"python -m [^#|`]*", s)]


@functools.cache
def help_of(module: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "240", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=PAGES, ids=IDS)
def page(request) -> Path:
    return request.param


def test_files_exist(page):
    named = set(
        re.findall(r"(?<![\w/.-])((?:golden_model|rtl|quant|sim|docs|tests)/[\w./-]*\w)", page.read_text("utf-8"))
    )
    missing = [n for n in sorted(named) if not (ROOT / n).exists() and not n.startswith(GENERATED)]
    written = {"rtl/REGISTERS.md"} if "make regs" in page.read_text("utf-8") else set()
    assert set(missing) <= written


def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{target}: {sorted(slugs)}"


def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for span in spans(page.read_text("utf-8")):
        for target in re.findall(r"\bmake ([a-z][a-z-]*)", span):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"make {target}"


def check_command(where: str, module: str, options: list[str]) -> None:
    assert importlib.util.find_spec(module) is not None, f"{where}: python -m {module}"
    known = help_of(module)
    for option in options:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", known), f"{where}: {module} has no {option}"


def test_commands_exist_with_their_options():
    """One test for all pages, so that each command is asked for its options once."""
    for path in PAGES:
        for command in commands(path.read_text("utf-8")):
            module = command.split()[2].rstrip(",.")
            check_command(path.name, module, re.findall(r"(?<=\s)(--[a-z][a-z-]*)", command))


def test_commands_of_the_makefile_exist_with_their_options():
    for line in (ROOT / "Makefile").read_text("utf-8").splitlines():
        found = re.match(r"\t\$\(RUN\) -m ((?:golden_model|rtl|quant|sim)(?:\.\w+)+)(.*)", line)
        if found:
            check_command("Makefile", found[1], re.findall(r"(?<=[\s,])(--[a-z][a-z-]*)", found[2]))


def test_python_names_exist(page):
    for span in spans(page.read_text("utf-8")):
        for name in re.findall(r"^((?:golden_model|rtl|quant|sim)(?:\.\w+)+)", span):
            module, _, attribute = name.rpartition(".")
            if importlib.util.find_spec(module) is not None and hasattr(importlib.import_module(module), "__path__"):
                assert importlib.util.find_spec(name) is not None, name
            else:
                assert hasattr(importlib.import_module(module), attribute), name


def test_python_examples_import(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL):
        compile(block, str(page), "exec")
        imports = "\n".join(line for line in block.splitlines() if line.startswith(("from ", "import ")))
        exec(imports, {})


def test_every_page_is_in_the_overview():
    for folder, overview in ((".", "README.md"), ("tutorials", "tutorials/README.md"), ("results", "results.md")):
        text = (ROOT / "docs" / overview).read_text("utf-8")
        for path in (ROOT / "docs" / folder).glob("*.md"):
            assert path.name == "README.md" or f"({path.relative_to((ROOT / 'docs' / overview).parent)})" in text, path


@pytest.mark.parametrize("results", sorted((ROOT / "docs" / "results").glob("*.md")), ids=lambda p: p.name)
def test_a_page_of_results_has_at_most_120_lines(results):
    assert len(results.read_text("utf-8").splitlines()) <= 120


def test_tables_of_results_are_those_of_the_kept_json():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "site" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for name, page in tables.PAGES.items():
        assert (ROOT / "docs" / name).read_text("utf-8") == page(), "run python docs/site/tables.py"


def test_every_public_block_of_the_hardware_is_in_the_table_of_blocks_or_the_architecture():
    text = "".join((ROOT / "docs" / name).read_text("utf-8") for name in ("where.md", "architecture.md"))
    helpers = {"__init__", "layouts", "tile_layouts", "bit_count", "block", "generate", "register_map", "c_header"}
    missing = [
        p.name for p in sorted((ROOT / "rtl").glob("*.py")) if p.stem not in helpers and f"rtl/{p.name}" not in text
    ]
    assert missing == []


def test_every_documented_section_of_the_specification_has_a_page():
    cited = set()
    for package in ("golden_model", "rtl", "quant", "sim"):
        for path in (ROOT / package).rglob("*.py"):
            for group in re.findall(r"system\.md ((?:§\d+a?[\d.]*[,\-–]? ?)+)", path.read_text("utf-8")):
                cited |= {f"§{n}" for n in re.findall(r"§(\d+a?)", group)}
    overview = (ROOT / "docs" / "README.md").read_text("utf-8")
    known = set(re.findall(r"§\d+a?", overview))
    assert {"§4", "§5"} <= cited <= known
