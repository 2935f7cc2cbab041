"""The command that makes bit streams, and the clock of the board."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from golden_model.config import TINY
from rtl.fpga import __main__ as command
from rtl.fpga.ecp5_pll import Ecp5Pll
from rtl.fpga.ulx3s import Ulx3s

pytestmark = [pytest.mark.rtl, pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")]

#: What nextpnr reports, cut down.
REPORT = {
    "fmax": {"clock": {"achieved": 61.2345, "constraint": 50.0}, "other": {"achieved": 100.0, "constraint": 25.0}},
    "utilization": {cell: {"used": number, "available": 100} for number, cell in enumerate(command.RESOURCES.values())},
    "critical_paths": [
        {
            "from": "posedge clock",
            "to": "posedge clock",
            "path": [
                {"type": "clk-to-q", "delay": 0.5, "from": {"cell": "a"}, "to": {"cell": "a"}},
                {"type": "routing", "delay": 1.25, "from": {"cell": "a"}, "to": {"cell": "b"}},
            ],
        },
        {
            "from": "posedge other",
            "to": "posedge other",
            "path": [{"type": "clk-to-q", "delay": 0.5, "from": {"cell": "c"}, "to": {"cell": "c"}}],
        },
        {
            "from": "<async>",
            "to": "posedge clock",
            "path": [{"type": "source", "delay": 9.0, "from": {"cell": "pin"}, "to": {"cell": "pin"}}],
        },
    ],
}


@pytest.mark.parametrize(
    ("target", "dividers"), [(50_000, (1, 2, 12)), (80_000, (5, 16, 8)), (62_500, (2, 5, 10)), (25_000, (1, 1, 24))]
)
def test_dividers_give_the_clock_and_keep_the_oscillator_in_its_range(target, dividers):
    pll = Ecp5Pll(25_000, target)
    assert (pll.divider, pll.multiplier, pll.output_divider) == dividers
    assert 25_000 * pll.multiplier == target * pll.divider
    assert 400_000 <= target * pll.output_divider <= 800_000


@pytest.mark.parametrize("target", [51_234, 0, -25_000, 500_000])
def test_a_clock_out_of_reach_is_refused(target):
    with pytest.raises(ValueError, match=f"a clock of {target / 1000:g} MHz cannot be made from 25 MHz: it must be"):
        Ecp5Pll(25_000, target)


@pytest.mark.parametrize("baud", [7_000_000, 25_000_000, 200_000_000])
def test_a_bit_rate_that_the_clock_does_not_divide_into_is_refused(baud):
    with pytest.raises(ValueError, match=f"{baud} bits a second cannot be made from 50 MHz: a bit must be a whole"):
        Ulx3s(TINY, 50_000, baud)


def test_pins_and_clock_of_the_board_are_in_the_plan():
    plan = command.BOARDS["ulx3s-25f"]().prepare(Ulx3s(TINY, 50_000, 1_000_000), "top")
    places = {line.split('"')[1]: line.split('"')[3] for line in plan.files["top.lpf"].splitlines() if "LOCATE" in line}
    assert places == {
        "clk25_0__io": "G2",
        "uart_0__rx__io": "M1",
        "uart_0__tx__io": "L4",
        "led_0__io": "B2",
        "esp32_0__gpio0__io": "L2",
    }
    assert "--25k" in plan.files["build_top.sh"]


def test_figures_are_the_resources_the_slowest_clock_and_its_path():
    assert command.figures(REPORT, 50.0) == {
        "resources": {
            name: {"used": number, "available": 100} for number, name in enumerate(["LUT", "FF", "BRAM", "DSP"])
        },
        "clock_mhz": 50.0,
        "reached_mhz": 61.23,
        "slowest_path": [
            {"cell": "a", "kind": "clk-to-q", "delay_ns": 0.5},
            {"cell": "b", "kind": "routing", "delay_ns": 1.25},
        ],
    }


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--board", "nexys"], "error: BOARD must be one of ulx3s-12f, ulx3s-25f, ulx3s-45f, ulx3s-85f, got 'nexys'"),
        (["--hardware", "huge"], "error: --hardware must be one of tiny, "),
        (["--clock", "51.2"], "error: a clock of 51.2 MHz cannot be made from 25 MHz"),
    ],
)
def test_a_bad_choice_is_one_sentence(options, sentence, monkeypatch):
    monkeypatch.setattr(command, "environment", dict)
    done = CliRunner().invoke(command.app, options)
    assert done.exit_code == 2
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_a_missing_tool_is_named(monkeypatch):
    monkeypatch.setenv("NEXTPNR_ECP5", "no-such-nextpnr")
    monkeypatch.setenv("YOSYS", "true")
    with pytest.raises(ValueError, match="no-such-nextpnr is missing, which bit streams need: pip install"):
        command.environment()


def _made(reached):
    return {"hardware": "tiny", "board": "ulx3s-85f"} | command.figures(REPORT, 50.0) | {"reached_mhz": reached}


def test_a_design_that_is_too_slow_leaves_no_bit_stream(tmp_path, monkeypatch):
    def build(board, hardware, clock, baud, seed, directory):
        (directory / "top.bit").touch()
        return _made(48.6)

    monkeypatch.setattr(command, "build", build)
    done = CliRunner().invoke(
        command.app, ["--clock", "50", "--output", str(tmp_path), "--json", str(tmp_path / "made.json")]
    )
    assert done.exit_code == 1
    assert "error: the design reaches 48.6 MHz, less than the 50 wanted" in done.stderr
    assert not (tmp_path / "top.bit").exists()
    assert json.loads((tmp_path / "made.json").read_text())["reached_mhz"] == 48.6


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_tiny_machine_becomes_a_bit_stream(tmp_path):
    try:
        command.environment()
    except ValueError as error:
        pytest.skip(str(error))
    made = command.build("ulx3s-25f", "tiny", 25.0, 1_000_000, 1, tmp_path)
    assert (tmp_path / "top.bit").stat().st_size > 10_000
    assert made["reached_mhz"] > 25
    assert all(0 < used["used"] < used["available"] for used in made["resources"].values())
