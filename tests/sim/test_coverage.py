"""What compiled simulations exercise: read, added up, printed."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from golden_model.config import TINY
from rtl.logit_memory import LogitMemory
from rtl.system import System
from sim.backends import coverage
from sim.backends.compiled import CompiledBus, build
from sim.host.bus import run_now
from sim.host.session import Job, run_job
from tests.end_to_end.networks import SMALL, assert_equal, loaded
from tests.golden_model.random_graphs import random_images, random_network

pytestmark = pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")

BLOCKS = {"dut.tile": "tile", "dut.tile.lane0": "lane", "dut.tile.lane1": "lane"}


def point(module, kind, line, what, times):
    keys = {"f": "dut.v", "l": line, "n": 3, "t": kind, "page": f"v_{kind}/{module}", "o": what, "h": f"TOP.{module}"}
    return ("C '" + "".join(f"\x01{key}\x02{value}" for key, value in keys.items()) + f"' {times}").encode()


def read(*points):
    met = coverage.points(b"# SystemC::Coverage-3\n" + b"\n".join(points), BLOCKS)
    return {block: {kind: hit.tolist() for kind, hit in kinds.items()} for block, kinds in met.items()}


def test_points_belong_to_the_block_of_their_module_or_of_the_one_around_it():
    assert read(point("dut.tile", "line", 4, "block", 2), point("dut.tile.reader$92", "branch", 9, "if", 0)) == {
        "tile": {"line": [True], "branch": [False]}
    }


def test_points_above_all_blocks_do_not_count():
    assert read(point("dut", "line", 1, "block", 1)) == {}


def test_copies_of_a_block_are_met_where_one_of_them_is():
    first = [point("dut.tile.lane0", "line", n, "block", hit) for n, hit in ((1, 1), (2, 0), (3, 0))]
    second = [point("dut.tile.lane1", "line", n, "block", hit) for n, hit in ((8, 0), (9, 5), (10, 0))]
    assert read(*first, *second) == {"lane": {"line": [True, True, False]}}


def test_copies_of_other_sizes_are_points_of_their_own():
    first = [point("dut.tile.lane0", "toggle", 1, "a[0]:0->1", 1)]
    second = [point("dut.tile.lane1", "toggle", 8, f"a[{i}]:0->1", 0) for i in range(2)]
    assert read(*first, *second) == {"lane": {"toggle": [True, False, False]}}


def test_simulations_of_a_design_add_up(tmp_path, monkeypatch):
    monkeypatch.setenv("OHMLOOM_COVERAGE", str(tmp_path / "found"))
    (tmp_path / "library").mkdir()
    coverage.keep_blocks(tmp_path / "library", LogitMemory(TINY))
    for hits in ((1, 0, 0), (0, 0, 3)):
        one = coverage.Covered.of(tmp_path / "library")
        assert one is not None
        one.raw.write_bytes(b"\n".join(point("dut.core", "line", n, "block", hit) for n, hit in enumerate(hits)))
        one.fold()
        assert not one.raw.exists()
    assert coverage.summary(tmp_path / "found") == {"logit_memory": {"line": (2, 3)}}


def test_an_empty_directory_is_refused_in_one_sentence(tmp_path):
    result = CliRunner().invoke(coverage.app, [str(tmp_path)])
    assert result.exit_code == 2
    assert "nothing is there; set OHMLOOM_COVERAGE" in result.stderr


@pytest.mark.slow
def test_a_run_of_a_network_exercises_the_blocks_that_it_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("OHMLOOM_COVERAGE", str(tmp_path / "found"))
    network = random_network(3, SMALL)
    image = loaded(network, random_images(3, network, 1))
    with CompiledBus(build(System(SMALL))) as bus:
        assert_equal(image, run_now(run_job(bus, image, Job((0,)))))
    target = tmp_path / "report.json"
    result = CliRunner().invoke(coverage.app, [str(tmp_path / "found"), "--json", str(target)])
    assert result.exit_code == 0, result.output
    found = json.loads(target.read_text())
    met, every = found["macro"]["line"]
    assert 0 < met <= every
    assert found["trq_sar"]["toggle"][0] > 0
