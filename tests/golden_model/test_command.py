"""How every command ends, and what its lines may hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from golden_model.command import Json, command, console, results_console, table_of

CALL = [sys.executable, "-m", "golden_model.pairs.clocks"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_help_that_cannot_be_written_is_one_sentence_and_status_2():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*CALL, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device\n")


def test_a_reader_of_the_help_that_goes_away_ends_it_quietly():
    child = subprocess.Popen([*CALL, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.close()
    _, told = child.communicate()
    assert (child.returncode, told) == (141, "")


def test_console_lines_spell_out_control_characters():
    for one in (console, results_console()):
        with one.capture() as captured:
            one.print("a\x1b[31mb\nc\r")
        assert captured.get() == "a\\x1b[31mb\\nc\\r\n"


def test_tables_spell_out_control_characters():
    shown = results_console()
    with shown.capture() as captured:
        shown.print(table_of(None, [("name", lambda name: name)], ["a\x1bb"]))
    assert "a\\x1bb" in captured.get()


def test_bad_input_and_bad_usage_spell_out_control_characters(tmp_path):
    @command
    def app(path: Annotated[Path, typer.Argument()], json_file: Json = None) -> None:
        raise ValueError(f"{path}: no")

    done = CliRunner().invoke(app, ["a\x1bb"])
    assert (done.exit_code, done.stderr) == (2, "error: a\\x1bb: no\n")
    (tmp_path / "c\x1bd").mkdir()
    done = CliRunner().invoke(app, ["a", "--json", str(tmp_path / "c\x1bd")])
    assert done.exit_code == 2
    assert "c\\x1bd" in done.stderr
    assert "\x1b" not in done.stderr
