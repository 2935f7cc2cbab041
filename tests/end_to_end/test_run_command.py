"""`python -m sim.run`: exit status, tables, JSON, and one sentence for every bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from golden_model.image import image
from golden_model.registers import REGION
from sim.run import app
from tests.golden_model.random_graphs import SMALL, random_images, random_network

pytestmark = [pytest.mark.rtl, pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")]


@pytest.fixture
def directory(tmp_path):
    network = random_network(3)
    image.write(tmp_path / "image", network, random_images(3, network, 3), [0, 0, 0])
    return tmp_path / "image"


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def assert_refused(result, *words):
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") or result.stderr.startswith("Usage: ")
    for word in words:
        assert word in result.stderr
    if result.stderr.startswith("error: "):
        assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


def test_a_run_that_agrees_exits_with_0_and_writes_its_result(directory, tmp_path):
    result = call(directory, "--images", 2, "--json", tmp_path / "run.json")
    assert result.exit_code == 0, result.output
    assert "logits, every event counter and cycles equal the golden model's" in result.stdout
    written = json.loads((tmp_path / "run.json").read_text())
    vectors = image.read(directory).vectors
    assert written["agrees"] is True
    assert written["judged"] is True
    assert written["first_difference"] is None
    assert [row["logits"] for row in written["images"]] == vectors.logits[:2].tolist()
    assert [row["cycles"] for row in written["images"]] == vectors.cycles[:2].tolist()
    assert (written["simulated"], written["equal"]) == (2, 2)
    assert written["clocks"] == vectors.cycles[:2].tolist()
    assert written["seconds"] > 0
    assert written["cycles_per_image"] == vectors.cycles[:2].mean()
    assert written["hardware_hash"] == SMALL.hash
    expected = vectors.events[:2].sum(axis=0)
    assert {name: events["ad_operations"] for name, events in written["events"].items()} == dict(
        zip((step.name for step in image.read(directory).program.steps), expected.ad_operations.tolist(), strict=True)
    )
    assert not list(tmp_path.glob(".*partial"))


def test_a_difference_exits_with_1_and_names_the_place(directory, tmp_path):
    bias = f"{REGION['BIAS'].address(0):#x}=100"
    result = call(directory, "--poke", bias, "--json", tmp_path / "run.json")
    assert result.exit_code == 1
    assert "First difference in step crossbar1" in result.stdout.replace("\n", " ")
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["agrees"] is False
    assert written["where"]["step"] == "crossbar1"
    assert written["first_difference"].startswith("vector 0: ")


def test_a_non_ideal_array_is_reported_and_is_no_failure(directory, tmp_path):
    result = call(
        directory, "--images", 1, "--crossbar", "variation", "--variation", 0.8, "--json", tmp_path / "r.json"
    )
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["judged"] is False
    assert written["agrees"] is False
    assert written["crossbar"]["kind"] == "variation"
    assert written["crossbar"]["variation"] == 0.8
    assert "the array is not ideal" in result.stdout


def test_pysim_writes_waveforms(directory, tmp_path):
    result = call(directory, "--images", 1, "--backend", "pysim", "--waves", tmp_path / "w.vcd")
    assert result.exit_code == 0, result.output
    assert "s_axil_awaddr" in (tmp_path / "w.vcd").read_text()[:100_000]


def test_ctrl_c_ends_all_jobs_soon_with_one_sentence(tmp_path):
    network = random_network(3)
    image.write(tmp_path / "image", network, random_images(3, network, 6000))
    running = subprocess.Popen(
        [sys.executable, "-m", "sim.run", str(tmp_path / "image"), "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )
    try:
        while "dut.so" not in Path(f"/proc/{running.pid}/maps").read_text():
            time.sleep(0.05)
            assert running.poll() is None
        os.killpg(running.pid, signal.SIGINT)
        pressed = time.monotonic()
        stdout, stderr = running.communicate(timeout=60)
        assert time.monotonic() - pressed < 20  # a second, on a machine with nothing else to do
        assert (running.returncode, stdout) == (130, "")
        assert stderr.startswith("interrupted: ")
        assert stderr.count("\n") == 1
        with pytest.raises(ProcessLookupError):
            os.killpg(running.pid, 0)
    finally:
        running.kill()


# ---- bad input ----------------------------------------------------------------------------------
def test_a_missing_image_is_refused(tmp_path):
    assert_refused(call(tmp_path / "none"), "there is no such directory")


def test_a_network_file_is_refused_with_the_command_that_makes_an_image_of_it(tmp_path):
    path = tmp_path / "network.graph"
    path.write_bytes(b"x")
    assert_refused(call(path), "it is a file, a deployment image is a directory", "python -m quant.export --work")


def test_a_corrupt_image_is_refused(directory):
    data = bytearray((directory / "cells.hex").read_bytes())
    data[5] ^= 1
    (directory / "cells.hex").write_bytes(bytes(data))
    assert_refused(call(directory), "cells.hex")


def test_a_truncated_image_is_refused(directory):
    data = (directory / "image.archive").read_bytes()
    (directory / "image.archive").write_bytes(data[:-7])
    assert_refused(call(directory), "image.archive")


def test_an_image_without_vectors_is_refused(tmp_path):
    network = random_network(3)
    image.write(tmp_path / "image", network, random_images(3, network, 0))
    assert_refused(call(tmp_path / "image"), "the image holds no test vectors")


def test_a_missing_compiler_is_one_sentence(directory, tmp_path, monkeypatch):
    monkeypatch.setenv("OHMLOOM_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("PATH", str(tmp_path))
    for backend in ("compiled", "verilator"):
        assert_refused(call(directory, "--backend", backend), "not found on PATH", "--backend pysim")
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--images", 4), ("--images must be at most 3", "got 4")),
        (("--images", 0), ("Invalid value",)),
        (("--jobs", 0), ("Invalid value",)),
        (("--backend", "spice"), ("spice",)),
        (("--poke", "12"), ("--poke must be ADDRESS=WORD", "'12'")),
        (("--poke", "2=0"), ("multiple of 4",)),
        (("--crossbar", "variation", "--variation", -1), ("CrossbarSettings.variation", "got -1")),
        (("--crossbar", "custom", "--distribution", "flat"), ("'lognormal' or 'normal'", "'flat'")),
        (("--crossbar", "ideal", "--read-noise", 1), ("--read-noise needs a non-ideal --crossbar",)),
        (("--crossbar", "emulated", "--backend", "verilator"), ("not possible with --backend verilator",)),
        (("--waves", "/no/such/place/w.vcd"), ("w.vcd: cannot be written (there is no such directory)",)),
        (("--json", "/no/such/place/run.json"), ("run.json: cannot be written (there is no such directory)",)),
    ],
)
def test_bad_usage_is_refused(directory, arguments, words):
    assert_refused(call(directory, *arguments), *words)
