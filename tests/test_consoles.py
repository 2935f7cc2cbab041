"""What pages show of a terminal happens: their ```console blocks are run, in order, in a copy of the repository.

`$ ` begins a command, `> ` goes on with it; the rest is what it prints. There "…" stands for anything, in a line or
for whole lines, and white space counts as one space. A page begins with nothing in build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^( *)```console\n(.*?)^\1```$", flags=re.DOTALL | re.MULTILINE)
PAGES = sorted(p for p in (ROOT / "docs").rglob("*.md") if BLOCK.search(p.read_text("utf-8")))
SECONDS = 3600


def steps(text: str) -> list[tuple[str, str]]:
    """Commands of a page, each with the output that it shows."""
    found: list[tuple[str, str]] = []
    for _, block in BLOCK.findall(text):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], ""))
            else:
                command, output = found[-1]
                found[-1] = (f"{command}\n{line[2:]}", "") if line.startswith("> ") else (command, f"{output}{line}\n")
    return found


def pattern(shown: str) -> str:
    """What `shown` allows, as a regular expression over text with single spaces."""
    parts = [re.escape(" ".join(part.split())) for part in shown.split("…")]
    return r"\s*" + r".*".join(parts) + r"\s*"


def agrees(shown: str, printed: str) -> bool:
    return re.fullmatch(pattern(shown), " ".join(printed.split()), flags=re.DOTALL) is not None


@pytest.fixture
def copy(tmp_path) -> Path:
    """The files of the repository, and a virtual environment that is ready: the one that runs the tests."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "python3"):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (programs / name).chmod(0o755)
    (tmp_path / ".venv" / ".ready").touch()
    return tmp_path


def run_page(page: Path, folder: Path) -> None:
    env = {
        **os.environ,
        "PATH": f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "120",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(folder),
    }
    for command, shown in steps(page.read_text("utf-8")):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        assert "Traceback" not in done.stdout, f"$ {command}\n{done.stdout}"
        assert agrees(shown, done.stdout), f"$ {command}\nthe page shows\n{shown}\nit printed\n{done.stdout}"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_print_what_the_page_shows(page, copy):
    if page.stem == "onnx":
        pytest.importorskip("onnxruntime", reason="pip install 'ohmloom[onnx]'")
    run_page(page, copy)


def test_a_page_that_shows_something_else_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo one; echo two\none\n…\n```\n```console\n$ echo three\nfour\n```\n")
    with pytest.raises(AssertionError, match="echo three"):
        run_page(page, tmp_path)


def test_dots_stand_for_anything_and_white_space_for_one_space():
    assert agrees("a  b\n…\nc … d\n", "a b\nx\ny\nc 5 d\n")
    assert not agrees("a b\n", "a b\nc\n")


def test_a_command_may_go_on_in_the_next_line():
    assert steps("```console\n$ cat <<'END'\n> x\n> END\nx\n```\n") == [("cat <<'END'\nx\nEND", "x\n")]
