"""Netlists in cells of a library, with models of these cells, against the RTL: every output in every clock, in
Verilator and, where it is installed, in Icarus Verilog.

The library is one of a few invented cells; a real one is tried too where OHMLOOM_LIBERTY names its file.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from typer.testing import CliRunner

from golden_model.config import PRESETS, TINY
from rtl import synthesis
from rtl.macro import Macro
from rtl.pair_lane import PairLane
from rtl.pair_macros import PairMacros
from rtl.synthesis import Library, cell_models, synthesise
from rtl.trq_sar import TrqSar
from tests.rtl import test_macro, test_pair_macro, test_trq_sar
from tests.rtl.netlist_bench import Port, Replay, Session, ports_of, recording
from tests.rtl.pair_bench import check

pytestmark = pytest.mark.rtl

SMALL = Path(__file__).with_name("small.lib")
#: Those that no mapping takes by itself, in sky130; other libraries have none of these names.
NOT_TAKEN = ("*lpflow*", "*probe*")
PAIRS = PRESETS["tiny-pairs"]


def _lane_of_planes() -> None:
    test_trq_sar.test_every_level_converts_as_golden_under_every_legal_setting(TINY.adc_bits)


def _planes() -> None:
    for seed in range(8):
        test_macro.test_random_tiny_layer_equals_the_oracle_clock_by_clock(seed)


def _pairs() -> None:
    for seed in range(4):
        check(test_pair_macro._case(seed, PAIRS))
        check(test_pair_macro._case(seed, PAIRS, sample_stall=0.3), timing=False)


@dataclass(frozen=True)
class Block:
    """A block, what holds it, and what is simulated. undefined : outputs that, while nothing is valid, hold what a
    memory or a register without a reset began with."""

    kind: type
    hardware: str
    tests: Callable[[], None]
    undefined: tuple[str, ...] = ()


BLOCKS = {
    "trq_sar": Block(TrqSar, "tiny", _lane_of_planes, ("threshold", "code", "range_flag")),
    "pair_lane": Block(PairLane, "tiny-pairs", _pairs, ("threshold", "converted")),
    "macro": Block(Macro, "tiny", _planes, ("sum", "trace", "crossbar__thresholds")),
    "pair_macros": Block(
        PairMacros,
        "tiny-pairs",
        _pairs,
        tuple(f"crossbar__half{half}__{name}" for half, name in product((0, 1), ("sample__payload", "thresholds"))),
    ),
}


@cache
def _sessions(name: str) -> list[Session]:
    block = BLOCKS[name]
    with recording(block.kind, PRESETS[block.hardware]) as sessions:
        block.tests()
    assert len(sessions) >= 8
    assert sum(map(len, sessions)) > 500
    return sessions


def _replay(name: str, folder: Path, *, icarus: bool = False) -> Replay:
    block = BLOCKS[name]
    component = block.kind(PRESETS[block.hardware])
    sources = [folder / f"{name}.v", folder / f"{name}_cells.v"]
    return Replay(folder, sources, name, ports_of(component), icarus=icarus)


def _synthesise(name: str, liberty: Path, folder: Path) -> None:
    block = BLOCKS[name]
    synthesise(block.kind(PRESETS[block.hardware]), name, Library(liberty, dont_use=NOT_TAKEN), netlist=folder)


# ---- the netlist -------------------------------------------------------------------------------
LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in BLOCKS if name != "trq_sar"]


@pytest.mark.parametrize("name", ["trq_sar", *LARGE])
def test_netlist_equals_the_rtl_in_every_output_and_clock(name, tmp_path):
    _compare(name, SMALL, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_netlist_in_cells_of_a_real_library_equals_the_rtl_in_every_output_and_clock(name, tmp_path):
    liberty = os.environ.get("OHMLOOM_LIBERTY")
    if not liberty:
        pytest.skip("OHMLOOM_LIBERTY names no Liberty file")
    _compare(name, Path(liberty), tmp_path)


def _compare(name: str, liberty: Path, folder: Path) -> None:
    """From memories and registers of zeros all outputs are equal; from random ones all that are ever defined."""
    _synthesise(name, liberty, folder)
    replay = _replay(name, folder)
    for number, session in enumerate(_sessions(name)):
        assert replay.first_difference(session) is None, f"session {number}"
        assert replay.first_difference(session, begin=number + 1, but=BLOCKS[name].undefined) is None, (
            f"session {number}"
        )


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog (iverilog) is not installed")
@pytest.mark.parametrize("name", ["trq_sar", *LARGE])
def test_netlist_that_begins_undefined_equals_the_rtl_in_icarus(name, tmp_path):
    """Only what a reset or a write has defined reaches an output that is ever defined."""
    _synthesise(name, SMALL, tmp_path)
    replay = _replay(name, tmp_path, icarus=True)
    for number, session in enumerate(_sessions(name)):
        assert replay.first_difference(session, but=BLOCKS[name].undefined) is None, f"session {number}"


def _wrong_function(folder: Path) -> None:
    """NAND2 is NOR2."""
    path = folder / "trq_sar_cells.v"
    text = path.read_text()
    nor = re.search(r"module NOR2.*?endmodule\n", text, re.DOTALL)
    assert nor
    path.write_text(re.sub(r"module NAND2.*?endmodule\n", nor[0].replace("NOR2", "NAND2"), text, flags=re.DOTALL))


def _wrong_cell(folder: Path) -> None:
    """One gate is another one."""
    path = folder / "trq_sar.v"
    path.write_text(re.sub(r"^  NAND2 (?=_)", "  NOR2 ", path.read_text(), count=1, flags=re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize("damage", [_wrong_function, _wrong_cell])
def test_one_wrong_cell_is_a_difference(damage, tmp_path):
    _synthesise("trq_sar", SMALL, tmp_path)
    before = [path.read_text() for path in sorted(tmp_path.glob("*.v"))]
    damage(tmp_path)
    assert [path.read_text() for path in sorted(tmp_path.glob("*.v"))] != before
    replay = _replay("trq_sar", tmp_path)
    found = [replay.first_difference(session) for session in _sessions("trq_sar")]
    assert any(found)
    assert re.fullmatch(r"clock \d+: \w+ is 0x\w+ instead of 0x\w+", next(filter(None, found)))


def test_there_are_models_of_the_cells_that_the_netlist_uses_and_no_others(tmp_path):
    library = Library(SMALL, dont_use=("NAND2", "X*"))
    synthesise(TrqSar(TINY), "trq_sar", library, netlist=tmp_path)
    used = set(re.findall(r"^  (\w+) _\d+_ \(", (tmp_path / "trq_sar.v").read_text(), re.MULTILINE))
    assert used == set(re.findall(r"^module (\w+)", (tmp_path / "trq_sar_cells.v").read_text(), re.MULTILINE))
    assert {"DFF", "NOR2"} <= used <= {"INV", "NOR2", "BUF", "AOI21", "MUX2", "DFF"}


def test_the_command_writes_netlists_and_without_a_library_no_models(tmp_path):
    block = ["tests.rtl.test_synthesis:Chain", "--hardware", "tiny"]
    for folder, arguments in (("cells", ["--liberty", str(SMALL)]), ("generic", [])):
        result = CliRunner().invoke(synthesis.app, [*block, *arguments, "--netlist", str(tmp_path / folder)])
        assert result.exit_code == 0, result.output
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.v")) == [
        "cells/Chain.v",
        "cells/Chain_cells.v",
        "generic/Chain.v",
    ]
    assert "module Chain(" in (tmp_path / "generic" / "Chain.v").read_text()


# ---- models of cells ---------------------------------------------------------------------------
#: Outputs of the gates of `small.lib`.
GATES = {
    "INV": lambda a, b, c, s: not a,
    "NAND2": lambda a, b, c, s: not (a and b),
    "NOR2": lambda a, b, c, s: not (a or b),
    "BUF": lambda a, b, c, s: a,
    "XOR2": lambda a, b, c, s: a != b,
    "AOI21": lambda a, b, c, s: not ((a and b) or c),
    "MUX2": lambda a, b, c, s: b if s else a,
}
PINS = {"INV": "A", "BUF": "A", "AOI21": "ABC", "MUX2": "ABS"}


def test_models_of_cells_do_what_the_library_says(tmp_path):
    """Gates for all inputs; the flip-flop takes D with the clock, the latch while it is open."""
    cells = [*GATES, "DFF", "LATCH"]
    (tmp_path / "cells.v").write_text(cell_models(Library(SMALL), cells))
    gates = "".join(
        f"  {cell} gate{i} ({', '.join(f'.{pin}({pin})' for pin in PINS.get(cell, 'AB'))}, .Y(y[{i}]));\n"
        for i, cell in enumerate(GATES)
    )
    (tmp_path / "all.v").write_text(
        f"module all_cells(input clk, input rst, input A, B, C, S, output [{len(GATES) - 1}:0] y, output q, qn, l);\n"
        f"{gates}  DFF dff (.C(clk), .D(A), .Q(q), .QN(qn));\n  LATCH latch (.G(B), .D(A), .Q(l));\nendmodule\n"
    )
    ports = [*(Port(name, 1, True) for name in "ABCS"), Port("y", len(GATES), False)]
    ports += [Port(name, 1, False) for name in ("q", "qn", "l")]
    rng, session, register, latch = random.Random(0), [], 0, 0
    every = [*product((0, 1), repeat=4)]
    for a, b, c, s in [*every, *rng.choices(every, k=100)]:
        latch = a if b else latch
        bits = [a, b, c, s, *(gate(a, b, c, s) for gate in GATES.values()), register, not register, latch]
        session.append(sum(bool(bit) << i for i, bit in enumerate(bits)))
        register = a
    replay = Replay(tmp_path, [tmp_path / "all.v", tmp_path / "cells.v"], "all_cells", ports)
    assert replay.first_difference(session) is None


def test_a_cell_of_which_the_library_does_not_say_what_it_does_is_named(tmp_path):
    path = tmp_path / "cells.lib"
    path.write_text(
        SMALL.read_text().replace(
            'pin(QN) { direction : output; function : "IQN"; }', "pin(QN) { direction : output; }"
        )
    )
    with pytest.raises(ValueError, match=r"cells.lib: not every output of DFF has a function, as a netlist"):
        synthesise(TrqSar(TINY), "trq_sar", Library(path), netlist=tmp_path)
    assert not [*tmp_path.glob("*.v")]
