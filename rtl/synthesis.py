"""Cells, area, flip-flops, memories, delay and netlists of blocks: `python -m rtl.synthesis BLOCK...`."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Annotated, Any

import typer
from amaranth.back import rtlil
from rich.table import Table

from golden_model.command import Json, Preset, command, progress_bar, results_console
from golden_model.config import HardwareConfig, read_hardware
from golden_model.files import write_json, write_text
from rtl.generate import COMPONENTS, OF_PAIRS, component, without_initial_zeros
from rtl.static_timing import least_period, nets


@dataclass(frozen=True)
class Library:
    """Standard cells to map to, or none.

    liberty : Liberty file, may be gzipped. driving_cell : drives every input of the block. load : of every output, in
    femtofarads. dont_use : patterns of cells to leave alone.
    """

    liberty: Path
    driving_cell: str | None = None
    load: float = 10.0
    dont_use: tuple[str, ...] = ()

    def text(self) -> str:
        """The file's contents; ValueError if it is none."""
        try:
            data = self.liberty.read_bytes()
            text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.liberty}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
        if not _CELL.search(text):
            raise ValueError(f"{self.liberty}: is no Liberty file, it holds no cell")
        return text


@dataclass(frozen=True)
class Memory:
    """A memory that is left as one; it is in neither cells nor area."""

    words: int
    bits: int
    read_ports: int
    write_ports: int


@dataclass(frozen=True)
class Result:
    """What a block takes.

    cells, flip_flops : their numbers. area : in the Liberty file's unit (sky130: um2), without it in NAND2 gates, four
    transistors each. depth : most cells in a row between registers, ports and memories. delay : of the slowest such
    path in ns, without wires, clock-to-output and setup times of flip-flops; None without a Liberty file.
    effort : what it was mapped for, "area" or "speed". period : least clock period in ns, flip-flops included, by
    OpenSTA (rtl/static_timing.py); None where that is not installed, and without a Liberty file.
    """

    block: str
    cells: int
    area: float
    flip_flops: int
    depth: int
    delay: float | None
    memories: tuple[Memory, ...]
    effort: str
    period: float | None = None


#: Gates that are mapped to without a Liberty file, in NAND2 gates. A flip-flop is the textbook's of six NAND2 gates.
GENERIC_GATES = {
    "$_NOT_": 0.5,
    "$_NAND_": 1.0,
    "$_NOR_": 1.0,
    "$_AOI3_": 1.5,
    "$_OAI3_": 1.5,
    "$_AOI4_": 2.0,
    "$_OAI4_": 2.0,
    "$_DFF_P_": 6.0,
}

_CELL = re.compile(r"^\s*cell\s*\(\s*\"?([\w$]+)\"?\s*\)", re.MULTILINE)


def _sequential(liberty: str) -> set[str]:
    """Names of the cells with a flip-flop."""
    starts = [*_CELL.finditer(liberty)]
    ends = [match.start() for match in starts[1:]] + [len(liberty)]
    return {
        match[1] for match, end in zip(starts, ends, strict=True) if re.search(r"\bff\s*\(", liberty[match.end() : end])
    }


def resolve(name: str, config: HardwareConfig) -> Any:
    """A new component: a block of `rtl.generate`, or `module:name` of something that makes one of a configuration."""
    module, colon, attribute = name.partition(":")
    if not colon:
        return component(name, config)
    try:
        make = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no block {name!r} ({error})") from None
    return make(config)


#: How the mapping is done. For speed carries are prefix networks of least depth, and ABC does not compress the logic
#: for area before it maps it, which undoes them.
_ADDERS = {"area": "", "speed": " -map +/choices/kogge-stone.v"}
_MAPPING = {
    "area": "",
    "speed": " -script +strash;dch,-f;map,-B,0.9,{D};topo;buffer,-c;topo;upsize,{D};dnsize,{D};stime,-p",
}


#: Mapping to `GENERIC_GATES`.
_GENERIC = ["dfflegalize -cell $_DFF_P_ x", "abc -g cmos4", "opt_clean -purge"]


def _logic(top: str, effort: str) -> list[str]:
    """Yosys commands from a design to logic, registers and memories. Registers lose their initial values, which
    libraries do not have; the reset sets them."""
    return [
        *(f"hierarchy -top {top}", "proc", "attrmap -remove init", "flatten"),
        # What `synth` does, but for its step that turns memories into flip-flops.
        *("synth -run coarse:fine", "opt -fast -full", "opt -undriven -fine"),
        *(f"techmap -map +/techmap.v{_ADDERS[effort]}", "opt -fast", "opt_clean"),
    ]


def gate_level(verilog: str, top: str) -> str:
    """Verilog of the same module and ports in `GENERIC_GATES`, flattened, memories left as they are."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "rtl.v").write_text(verilog)
        commands = ["read_verilog rtl.v", *_logic(top, "speed"), *_GENERIC, "write_verilog -noattr gates.v"]
        (directory / "block.ys").write_text("\n".join([*commands, ""]))
        _yosys(directory, top)
        return (directory / "gates.v").read_text()


def _script(directory: Path, library: Library | None, clock: float, effort: str, module: str) -> str:
    """Yosys commands. module : what the netlist is called."""
    commands = ["read_rtlil block.il", *_logic("block", effort)]
    if library is None:
        commands += _GENERIC
    else:
        drive = [f"set_driving_cell {library.driving_cell}"] if library.driving_cell else []
        (directory / "block.constr").write_text("\n".join([*drive, f"set_load {library.load}", ""]))
        cells = "-liberty cells.lib" + "".join(f" -dont_use {pattern}" for pattern in library.dont_use)
        commands = ["read_liberty -lib -ignore_miss_func cells.lib", *commands]
        commands += [
            f"dfflibmap {cells}",
            f"tee -o abc.log abc {cells} -D {round(1000 * clock)} -constr block.constr{_MAPPING[effort]}",
            "opt_clean -purge",
            "tee -o stat.json stat -liberty cells.lib -json",
        ]
    commands += ["write_json netlist.json", f"rename block {module}", "write_verilog -noattr netlist.v"]
    return "\n".join([*commands, ""])


def cell_models(library: Library, used: Iterable[str]) -> str:
    """Verilog of what the cells `used` do, by `function`, `ff` and `latch` of the Liberty file.

    Raises ValueError if it does not say that of an output."""
    chosen = ["select -none", *(f"select -add {cell}" for cell in sorted(used))]
    commands = ["read_liberty -ignore_miss_func cells.lib", *chosen, "opt_clean -purge"]
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "cells.lib").write_text(library.text())
        (directory / "block.ys").write_text("\n".join([*commands, "write_verilog -noattr -selected cells.v", ""]))
        _yosys(directory, str(library.liberty))
        text = (directory / "cells.v").read_text()
    if left_out := set(used) - set(re.findall(r"^module (\w+)", text, re.MULTILINE)):
        raise ValueError(
            f"{library.liberty}: not every output of {', '.join(sorted(left_out))} has a function, as a netlist "
            "needs it; --dont-use leaves a cell alone"
        )
    return text


def synthesise(
    elaboratable: Any, name: str, library: Library | None = None, clock: float = 5.0, netlist: Path | None = None
) -> Result:
    """Map one component, flattened, with its memories left as they are: for area, and if it then misses the clock, for
    speed.

    clock : period in ns that the mapping aims for. netlist : folder for the mapped Verilog, NAME.v, and with a library
    for the models of the cells that it uses, NAME_cells.v; NAME without what stands before a colon. Its ports are those
    of `rtl.generate`; registers have no initial values, a clock of reset sets them. Raises ValueError if a tool is
    missing or fails.
    """
    module = name.rpartition(":")[2]
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        sequential, text = set(), ""
        if library is not None:
            text = library.text()
            sequential = _sequential(text)
            (directory / "cells.lib").write_text(text)
        with without_initial_zeros():
            (directory / "block.il").write_text(rtlil.convert(elaboratable, name="block", emit_src=False))
        result, verilog, used, best = None, "", set[str](), {}
        for effort in ("area", "speed"):
            (directory / "block.ys").write_text(_script(directory, library, clock, effort, module))
            _yosys(directory, name)
            mapped = json.loads((directory / "netlist.json").read_text())["modules"]["block"]
            cells = [*mapped["cells"].values()]
            found = _result(directory, name, cells, sequential, effort)
            if result is None or (found.delay or 0) < (result.delay or 0):
                result, verilog = found, (directory / "netlist.v").read_text()
                used = {cell["type"] for cell in cells if not cell["type"].startswith("$")}
                best = mapped
            if result.delay is None or result.delay <= clock:
                break
        if library is not None:
            result = replace(result, period=least_period(best, text, library.driving_cell, library.load))
        if netlist is not None:
            if library is not None:
                write_text(netlist / f"{module}_cells.v", cell_models(library, used))
            write_text(netlist / f"{module}.v", verilog)
        return result


def _yosys(directory: Path, name: str) -> None:
    """Run the script `block.ys`; an error ends the process that does."""
    if importlib.util.find_spec("pyosys") is None:
        raise ValueError("synthesis needs pyosys, which is not installed: pip install 'ohmloom[test]'")
    run = "from pyosys import libyosys; libyosys.Design().run_pass('script block.ys')"
    done = subprocess.run([sys.executable, "-c", run], cwd=directory, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise ValueError(f"{name}: synthesis failed ({next((x for x in lines if 'ERROR' in x), lines[-1])})")


def _result(directory: Path, name: str, netlist: list[Any], sequential: set[str], effort: str) -> Result:
    memories = tuple(
        Memory(
            *(int(str(cell["parameters"][key]), 2) for key in ("SIZE", "WIDTH", "RD_PORTS", "WR_PORTS")),
        )
        for cell in netlist
        if cell["type"] == "$mem_v2"
    )
    flip_flops = [c for c in netlist if c["type"] in sequential or c["type"] == "$_DFF_P_"]
    gates = [c for c in netlist if c["type"] != "$mem_v2" and c not in flip_flops]
    log = directory / "abc.log"
    delays = re.findall(r"Delay\s*=\s*([\d.]+)\s*ps", log.read_text()) if log.exists() else []
    stat = directory / "stat.json"
    if stat.exists():
        area = json.loads(stat.read_text())["modules"]["\\block"].get("area", 0.0)
    else:
        area = sum(GENERIC_GATES[gate["type"]] for gate in [*gates, *flip_flops])
    return Result(
        block=name,
        cells=len(netlist) - len(memories),
        area=round(area, 1),
        flip_flops=len(flip_flops),
        depth=_depth(gates),
        delay=float(delays[-1]) / 1000 if delays else None,
        memories=memories,
        effort=effort,
    )


def _depth(gates: list[dict[str, Any]]) -> int:
    """Most gates in a row."""
    driver = {net: i for i, gate in enumerate(gates) for net in nets(gate, "output")}
    sources = {i: {driver[net] for net in nets(gate, "input") if net in driver} for i, gate in enumerate(gates)}
    depths: dict[int, int] = {}
    for gate in TopologicalSorter(sources).static_order():
        depths[gate] = 1 + max((depths[source] for source in sources[gate]), default=0)
    return max(depths.values(), default=0)


def _show(results: list[Result], library: Library | None, clock: float) -> None:
    table = Table("block", *(["area"] if library else ["NAND2 gates"]), "cells", "flip-flops", "depth", "delay ns")
    table.add_column(f"slack at {clock:g} ns")
    table.add_column("period, OpenSTA")
    table.add_column("mapped for")
    table.add_column("memories: words x bits (read, write ports)")
    for column in table.columns[1:8]:
        column.justify = "right"
    for r in results:
        timing = ["", ""] if r.delay is None else [f"{r.delay:.2f}", f"{clock - r.delay:.2f}"]
        timing += ["" if r.period is None else f"{r.period:.2f}", r.effort]
        memories = ", ".join(
            f"{f'{count} of ' if count > 1 else ''}{x.words} x {x.bits} ({x.read_ports}, {x.write_ports})"
            for x, count in Counter(r.memories).items()
        )
        counts = [str(r.cells), str(r.flip_flops), str(r.depth)]
        table.add_row(r.block, f"{r.area:,.0f}", *counts, *timing, memories)
    results_console(140).print(table)


#: What must not grow, and by how much it may: mapping is not the same after every small change.
COMPARED = ("area", "flip_flops", "depth", "delay")
TOLERANCE = 1.02


def grown(results: list[Result], baseline: Path, conditions: dict[str, Any]) -> list[str]:
    """A sentence for every figure of a block that is more than 2 % above an earlier report's, or not in it.

    baseline : a report of `--json`. conditions : of these results, which must be those of the report. Raises ValueError
    if they are not, or if the file is no report.
    """
    try:
        report = json.loads(baseline.read_text())
        before = {block["block"]: block for block in report["blocks"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{baseline}: is no report of rtl.synthesis ({error})") from None
    if different := [name for name, value in conditions.items() if report.get(name) != value]:
        raise ValueError(f"{baseline}: was made with another {', another '.join(different)}")
    found = [f"{r.block}: is not in {baseline}" for r in results if r.block not in before]
    for r in results:
        for name in COMPARED:
            was, value = before.get(r.block, {}).get(name), getattr(r, name)
            if was is not None and value is not None and value > TOLERANCE * was:
                found.append(f"{r.block}: {name} is {value:,}, more than 2 % above {was:,} in {baseline}")
    return found


@command
def app(
    blocks: Annotated[
        list[str] | None,
        typer.Argument(metavar="BLOCK...", help="blocks of rtl.generate, or module:name; none means every block"),
    ] = None,
    hardware: Preset = "paper",
    liberty: Annotated[Path | None, typer.Option(help="cells, .lib or .lib.gz; without: generic gates")] = None,
    driving_cell: Annotated[str | None, typer.Option(help="cell of the Liberty file that drives every input")] = None,
    load: Annotated[float, typer.Option(help="load of every output, in femtofarads")] = 10.0,
    dont_use: Annotated[list[str] | None, typer.Option(help="pattern of cells to leave alone; may be repeated")] = None,
    clock: Annotated[float, typer.Option(min=0.01, help="clock period in ns that the mapping aims for")] = 5.0,
    netlist: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="also write mapped Verilog, NAME.v, and models of its cells, NAME_cells.v"),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="report of --json; fails where a figure is more than 2 % above it"),
    ] = None,
    json_file: Json = None,
) -> None:
    """Cells, area, flip-flops, memories, depth, delay and netlists of blocks, by Yosys and ABC.

    Exit status: 0 success, 1 a figure has grown, 2 a bad call.
    """
    config = read_hardware(hardware)
    library = None if liberty is None else Library(liberty, driving_cell, load, tuple(dont_use or ()))
    if library is None and (driving_cell or dont_use):
        raise ValueError("--driving-cell and --dont-use need --liberty FILE")
    names, results = blocks or [name for name in COMPONENTS if config.pairs or name not in OF_PAIRS], []
    with progress_bar() as show:
        for done, name in enumerate(names):
            show(name, done, len(names))
            results.append(synthesise(resolve(name, config), name, library, clock, netlist))
    _show(results, library, clock)
    conditions = {
        "hardware": config.as_dict(),
        "liberty": None if liberty is None else liberty.name,
        "clock": clock,
    }
    if json_file is not None:
        write_json(json_file, conditions | {"blocks": [asdict(result) for result in results]})
    if check is not None and (sentences := grown(results, check, conditions)):
        for sentence in sentences:
            typer.echo(f"error: {sentence}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
