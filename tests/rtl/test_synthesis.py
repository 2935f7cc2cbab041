"""The synthesis command, on a library of a few invented cells."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from typer.testing import CliRunner

from golden_model.config import TINY
from rtl import static_timing, synthesis
from rtl.generate import component
from rtl.synthesis import Library, synthesise

pytestmark = pytest.mark.rtl
runner = CliRunner()

#: A few invented cells, and what they take.
SMALL = Path(__file__).with_name("small.lib")
AREA = {"NAND2": 2, "BUF": 4, "DFF": 20}


class Chain(wiring.Component):
    """a and b in a NAND, then a register, then nothing."""

    def __init__(self, config=None):
        super().__init__({"a": In(1), "b": In(1), "y": Out(1)})

    def elaborate(self, platform):
        m = Module()
        register = Signal(reset_less=True)
        m.d.sync += register.eq(~(self.a & self.b))
        m.d.comb += self.y.eq(register)
        return m


class Table(wiring.Component):
    """A memory of 16 words of 5 bits."""

    def __init__(self):
        super().__init__({"address": In(4), "data": In(5), "enable": In(1), "read": Out(5)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = memory.Memory(shape=5, depth=16, init=[])
        write, read = table.write_port(), table.read_port()
        m.d.comb += [write.addr.eq(self.address), write.data.eq(self.data), write.en.eq(self.enable)]
        m.d.comb += [read.addr.eq(self.address), self.read.eq(read.data)]
        return m


def test_area_is_the_sum_of_the_librarys_cells():
    found = synthesise(Chain(), "chain", Library(SMALL))
    assert (found.area, found.cells, found.flip_flops, found.depth) == (
        AREA["NAND2"] + AREA["BUF"] + AREA["DFF"],
        3,
        1,
        2,
    )  # ABC buffers an input
    assert found.delay is not None
    assert found.delay > 0


def test_gzipped_library_is_the_same(tmp_path):
    path = tmp_path / "cells.lib.gz"
    path.write_bytes(gzip.compress(SMALL.read_bytes()))
    assert synthesise(Chain(), "chain", Library(path)) == synthesise(Chain(), "chain", Library(SMALL))


def test_cell_that_is_not_to_be_used_is_not_used():
    found = synthesise(Chain(), "chain", Library(SMALL, dont_use=("NAND2",)))
    assert found.area > synthesise(Chain(), "chain", Library(SMALL)).area


@pytest.fixture
def opensta(monkeypatch, tmp_path):
    """A program that answers as OpenSTA does, and keeps what it was given in the folder that it returns."""
    kept, program = tmp_path / "kept", tmp_path / "bin" / static_timing.PROGRAM
    kept.mkdir()
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncp * {kept}\ncat {kept}/answer\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return kept


def test_least_period_is_ten_ns_less_opensta_s_slack_at_ten(opensta):
    opensta.joinpath("answer").write_text("   -10.0\n    8.1250   slack (MET)\n")
    assert synthesise(Chain(), "chain", Library(SMALL)).period == 1.875
    verilog, script = (opensta / name for name in ("block.v", "block.tcl"))
    assert re.findall(r"^(NAND2|DFF|BUF) g", verilog.read_text(), re.MULTILINE) in (
        [["NAND2", "BUF", "DFF"], ["NAND2", "DFF", "BUF"], ["BUF", "NAND2", "DFF"]]
    )
    assert "create_clock -name clk -period 10.0 [get_ports {clk}]" in script.read_text()


def test_pins_of_a_memory_are_ports_for_opensta(opensta):
    """Logic behind its outputs begins there; here it has none, and its inputs come from a register."""

    class Behind(wiring.Component):
        def __init__(self):
            super().__init__({"address": In(4), "data": In(5), "enable": In(1), "y": Out(1)})

        def elaborate(self, platform):
            m = Module()
            m.submodules.table = table = Table()
            address = Signal(4, reset_less=True)
            m.d.sync += address.eq(self.address)
            m.d.comb += [table.address.eq(address), table.data.eq(self.data), table.enable.eq(self.enable)]
            m.d.comb += self.y.eq(table.read[0] & table.read[1])
            return m

    opensta.joinpath("answer").write_text("8.0 slack (MET)\n")
    synthesise(Behind(), "behind", Library(SMALL))
    script = (opensta / "block.tcl").read_text()
    counts = [len(re.findall(r"n\d+", line)) for line in script.splitlines() if "put_delay" in line]
    assert counts == [4 + 2, 4 + 1]  # in: address, two bits that are read; out: address to the memory, y


def test_error_of_opensta_is_named(opensta):
    opensta.joinpath("answer").write_text("Error: cells.lib, line 1 syntax error\n")
    with pytest.raises(ValueError, match=r"OpenSTA failed .*cells\.lib, line 1 syntax error"):
        synthesise(Chain(), "chain", Library(SMALL))


@pytest.mark.skipif(shutil.which(static_timing.PROGRAM) is None, reason="OpenSTA (sta) is not installed")
def test_opensta_adds_the_flip_flops_to_what_abc_finds():
    """Of `small.lib` a flip-flop takes 0.3 ns or more."""
    found = synthesise(component("search_lane", TINY), "search_lane", Library(SMALL))
    assert found.period is not None
    assert found.delay is not None
    assert max(0.3, found.delay) < found.period < found.delay + 1


def test_without_a_library_gates_are_counted_in_nand2():
    found = synthesise(Chain(), "chain")
    assert (found.area, found.flip_flops, found.depth, found.delay) == (7.0, 1, 1, None)


def test_memory_stays_one_with_its_size_and_ports():
    found = synthesise(Table(), "table", Library(SMALL))
    assert found.memories == (synthesis.Memory(words=16, bits=5, read_ports=1, write_ports=1),)


def test_command_prints_and_writes_what_it_found(tmp_path):
    arguments = ["search_lane", f"{__name__}:Chain", "--hardware", "tiny", "--liberty", str(SMALL)]
    result = runner.invoke(synthesis.app, [*arguments, "--clock", "4", "--json", str(tmp_path / "found.json")])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "found.json").read_text())
    assert (report["clock"], report["liberty"], report["hardware"]) == (4.0, "small.lib", TINY.as_dict())
    assert [block["block"] for block in report["blocks"]] == arguments[:2]
    assert report["blocks"][1]["flip_flops"] == 1


def test_a_block_that_has_grown_by_more_than_2_percent_is_named(tmp_path):
    """Area 26, of which 2 % are 0.52; depth 2, of which they are none."""
    arguments = [f"{__name__}:Chain", "--hardware", "tiny", "--liberty", str(SMALL)]
    baseline = tmp_path / "before.json"
    assert runner.invoke(synthesis.app, [*arguments, "--json", str(baseline)]).exit_code == 0
    report = json.loads(baseline.read_text())
    block = report["blocks"][0]

    def check(**changes) -> tuple[int, str]:
        baseline.write_text(json.dumps(report | {"blocks": [block | changes]}))
        result = runner.invoke(synthesis.app, [*arguments, "--check", str(baseline)])
        return result.exit_code, result.stderr

    assert check() == (0, "")
    assert check(area=block["area"] / 1.019) == (0, "")
    code, text = check(area=block["area"] / 1.021, depth=1)
    assert (code, text.count("error: ")) == (1, 2)
    assert f"Chain: area is {block['area']}, more than 2 % above" in text
    assert "is not in" in check(block="another")[1]


def test_a_report_under_other_conditions_is_refused(tmp_path):
    baseline = tmp_path / "before.json"
    arguments = [f"{__name__}:Chain", "--hardware", "tiny"]
    assert runner.invoke(synthesis.app, [*arguments, "--json", str(baseline)]).exit_code == 0
    result = runner.invoke(synthesis.app, [*arguments, "--clock", "4", "--check", str(baseline)])
    assert result.exit_code == 2
    assert "was made with another clock" in result.stderr
    baseline.write_text("{}")
    assert (
        "is no report of rtl.synthesis" in runner.invoke(synthesis.app, [*arguments, "--check", str(baseline)]).stderr
    )


@pytest.mark.slow
@pytest.mark.parametrize("hardware", ["tiny", "tiny-pairs"])
def test_no_block_is_larger_than_in_the_committed_report(hardware):
    """A change that is meant to make blocks larger writes it anew: `make synth` with SYNTH="--json FILE"."""
    baseline = Path(synthesis.__file__).with_name("baseline") / f"{hardware}.json"
    result = runner.invoke(synthesis.app, ["--hardware", hardware, "--check", str(baseline)])
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["alu"], "error: there is no block 'alu'; there are system, tile, macro"),
        (["rtl.nothing:Lane"], "error: there is no block 'rtl.nothing:Lane' (No module named 'rtl.nothing')"),
        (["search_lane", "--liberty", "none.lib"], "error: none.lib: cannot be read (No such file or directory)"),
        (["search_lane", "--liberty", "text.lib"], "error: text.lib: is no Liberty file, it holds no cell"),
        (["search_lane", "--driving-cell", "BUF"], "error: --driving-cell and --dont-use need --liberty FILE"),
        (["search_lane", "--hardware", "huge"], "error: --hardware must be one of tiny"),
    ],
)
def test_bad_call_is_one_sentence_and_status_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.lib").write_text("no cells")
    result = runner.invoke(synthesis.app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


def test_failure_of_the_tool_is_told(tmp_path):
    path = tmp_path / "broken.lib"
    path.write_text("library(broken) {\ncell(INV) { area : ")
    with pytest.raises(ValueError, match=r"^chain: synthesis failed \(ERROR: .*\)$"):
        synthesise(Chain(), "chain", Library(path))
