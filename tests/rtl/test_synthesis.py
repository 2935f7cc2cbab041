"""The synthesis command, on a library of a few invented cells."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from typer.testing import CliRunner

from golden_model.config import TINY
from rtl import synthesis
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
