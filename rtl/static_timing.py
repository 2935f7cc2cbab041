"""Least clock period of a mapped netlist by OpenSTA, where that is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

#: What OpenSTA is called.
PROGRAM = "sta"

_CLOCK = "clk"
#: ns; any that is not shorter than hold times will do.
_PERIOD = 10.0


def least_period(netlist: dict[str, Any], liberty: str, driving_cell: str | None, load: float) -> float | None:
    """What the slowest path takes, in ns: from clock to output of a flip-flop, through gates, to the setup time of the
    next one. Wires take no time.

    netlist : a module as Yosys writes it in JSON, of cells of `liberty`. Its memories are cut out: their outputs are
    driven like inputs of the module, their inputs loaded like its outputs, in the whole period.
    liberty : the file's contents. load : fF. None where there is no OpenSTA, or no path. Raises ValueError if it fails.
    """
    if shutil.which(PROGRAM) is None:
        return None
    verilog, inputs, outputs = _flat(netlist)
    commands = [
        *("read_liberty cells.lib", "read_verilog block.v", "link_design block"),
        "set_cmd_units -time ns -capacitance fF",
        f"create_clock -name {_CLOCK} -period {_PERIOD} {_ports([_CLOCK])}",
    ]
    if inputs:
        commands.append(f"set_input_delay 0 -clock {_CLOCK} {_ports(inputs)}")
        if driving_cell:
            commands.append(f"set_driving_cell -lib_cell {driving_cell} {_ports(inputs)}")
    if outputs:
        commands.append(f"set_output_delay 0 -clock {_CLOCK} {_ports(outputs)}")
        commands.append(f"set_load -pin_load {load} {_ports(outputs)}")
    commands.append("report_checks -path_delay max -digits 4")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        for name, text in (("cells.lib", liberty), ("block.v", verilog), ("block.tcl", "\n".join([*commands, ""]))):
            (directory / name).write_text(text)
        done = subprocess.run([PROGRAM, "-exit", "block.tcl"], cwd=directory, capture_output=True, text=True)
    said = (done.stdout + done.stderr).splitlines()
    errors = [line for line in said if line.startswith("Error")]
    if done.returncode or errors:
        raise ValueError(f"OpenSTA failed ({(errors or said[-1:] or ['no message'])[0]})")
    found = re.search(r"(-?\d+\.\d+)\s+slack", done.stdout)
    return round(_PERIOD - float(found[1]), 4) if found else None


def _ports(names: list[str]) -> str:
    return f"[get_ports {{{' '.join(names)}}}]"


def _flat(netlist: dict[str, Any]) -> tuple[str, list[str], list[str]]:
    """Verilog with a wire per net and a port per net that leaves or enters, inputs but the clock, outputs."""
    cells = [*netlist["cells"].values()]
    gates, memories = ([cell for cell in cells if cell["type"].startswith("$") == cut] for cut in (False, True))
    entering, leaving = (
        {bit for port in netlist["ports"].values() if port["direction"] == way for bit in port["bits"]}
        for way in ("input", "output")
    )
    entering.update(net for memory in memories for net in nets(memory, "output"))
    leaving.update(net for memory in memories for net in nets(memory, "input"))
    used, driven = ({net for gate in gates for net in nets(gate, way)} for way in ("input", "output"))
    clock = set(netlist["ports"].get(_CLOCK, {"bits": []})["bits"])
    inputs, outputs = sorted((entering & used) - clock), sorted(leaving & driven)

    def name_of(bit: int | str) -> str:
        if bit in clock:
            return _CLOCK
        return f"n{bit}" if isinstance(bit, int) else f"1'b{bit}"

    ports = [_CLOCK, *(f"n{net}" for net in [*inputs, *outputs])]
    lines = [f"module block({', '.join(ports)});", f"input {_CLOCK};"]
    lines += [f"input n{net};" for net in inputs] + [f"output n{net};" for net in outputs]
    lines += [f"wire n{net};" for net in sorted((used | driven) - clock - set(inputs) - set(outputs))]
    for i, gate in enumerate(gates):
        pins = ", ".join(f".{pin}({name_of(bits[0])})" for pin, bits in gate["connections"].items() if bits)
        lines.append(f"{gate['type']} g{i} ({pins});")
    return "\n".join([*lines, "endmodule", ""]), [f"n{net}" for net in inputs], [f"n{net}" for net in outputs]


def nets(cell: dict[str, Any], direction: str) -> list[int]:
    """At the ports of a cell, "input" or "output"; without constants."""
    ports = [port for port, way in cell["port_directions"].items() if way == direction]
    return [bit for port in ports for bit in cell["connections"].get(port, []) if isinstance(bit, int)]
