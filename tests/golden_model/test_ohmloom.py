"""All commands under one name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from golden_model import __version__
from golden_model.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
#: Commands for those who change OhmLoom: they write a page of docs, or measure tests.
WITHOUT_NAME = {"golden_model.__main__", "quant.capture.table", "sim.backends.coverage", "sim.reporting.browser"}


def ohmloom(*words: str, code: str = "") -> subprocess.CompletedProcess:
    """`ohmloom` with these arguments. code : run before it."""
    run = f"import sys; {code}\nfrom golden_model.__main__ import app; sys.argv = {['ohmloom', *words]}; app()"
    return subprocess.run([sys.executable, "-c", run], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_every_command_has_a_name():
    found = set()
    for package in ("golden_model", "rtl", "quant", "sim"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name == "__main__.py" or '__name__ == "__main__"' in path.read_text("utf-8"):
                found.add(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert found - WITHOUT_NAME == {module for _, module, _ in COMMANDS}


def test_the_page_of_commands_has_both_forms_in_one_line():
    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    rows = [f"| `{name}` | `python -m {module.removesuffix('.__main__')}" for name, module, _ in COMMANDS]
    assert [row for row in rows if row not in page] == []


def test_the_overview_loads_no_command_and_cuts_no_text():
    code = "import atexit; atexit.register(lambda: print(sorted({'torch', 'numpy', 'amaranth'} & set(sys.modules))))"
    done = ohmloom("--help", code=code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
    assert all(f"  {name} " in done.stdout and what in done.stdout for name, _, what in COMMANDS)


def test_a_command_has_the_options_of_its_module():
    call = [sys.executable, "-m", "golden_model.image.describe", "--help"]
    alone = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=120).stdout
    named = ohmloom("describe", "--help").stdout
    assert named.splitlines()[0] == "Usage: ohmloom describe [OPTIONS] {file}"
    assert named.splitlines()[1:] == alone.splitlines()[1:]


def test_the_version_is_printed():
    done = ohmloom("--version")
    assert (done.returncode, done.stdout) == (0, f"ohmloom {__version__}\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["simulat"], "Error: No such command 'simulat'. Did you mean 'simulate'?"),
        (["simulate", "/no-such"], "error: /no-such: there is no such directory"),
    ],
)
def test_a_bad_call_is_one_sentence_and_status_2(words, told):
    done = ohmloom(*words)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, told)


@pytest.mark.parametrize(
    ("package", "name", "extra"), [("torch", "train", "quant"), ("matplotlib", "reproduce-trq", "reproduce")]
)
def test_a_command_names_the_extra_that_brings_what_is_missing(package, name, extra):
    done = ohmloom(name, "--help", code=f"sys.modules[{package!r}] = None")
    sentence = f"error: this command needs {package}, which is not installed: pip install 'ohmloom[{extra}]'\n"
    assert (done.returncode, done.stderr) == (2, sentence)


def test_a_module_that_is_missing_otherwise_is_no_bad_input():
    done = ohmloom("cost", "--help", code="sys.modules['golden_model.cost.tables'] = None")
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("word", ["--help", "--version"])
def test_what_cannot_be_written_is_one_sentence_and_status_2(word):
    call = [sys.executable, "-m", "golden_model", word]
    with open("/dev/full", "w") as full:
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device\n")
