"""Whether two versions of a block are the same machine: the same outputs in all runs, proved by ABC on a miter."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

_SIDE = """
read_rtlil {side}.il
hierarchy -top block
proc
flatten
memory -nomap
memory_map
opt_clean
rename block {side}
design -stash {side}
"""
_MITER = """
design -copy-from gold -as gold gold
design -copy-from gate -as gate gate
miter -equiv -flatten gold gate miter
hierarchy -top miter
flatten
opt -full
techmap
opt -fast
dffunmap
setundef -undriven -init -zero
aigmap
opt_clean
write_aiger -zinit miter.aig
"""
#: What a prover has said of a miter.
EQUIVALENT, DIFFERENT, OPEN = "equivalent", "different", "open"


def compare(one: str, other: str, directory: Path, limit: int) -> str:
    """EQUIVALENT if no run from the initial state tells two designs of the same ports apart, else DIFFERENT, or OPEN
    if that is not known after `limit` seconds. Both are RTLIL texts with the top module `block`."""
    directory.mkdir(parents=True, exist_ok=True)
    for side, text in (("gold", one), ("gate", other)):
        (directory / f"{side}.il").write_text(text)
    sides = "".join(_SIDE.format(side=side) for side in ("gold", "gate"))
    (directory / "miter.ys").write_text(sides + _MITER)
    run = "from pyosys import libyosys; libyosys.Design().run_pass('script miter.ys')"
    done, log = _run([sys.executable, "-c", run], directory, limit)
    if not done:
        return OPEN
    package = importlib.util.find_spec("pyosys")
    assert package is not None
    assert package.submodule_search_locations is not None
    abc = Path(package.submodule_search_locations[0]) / "yosys-abc"
    # Equal registers are found by induction and merged; what is left is searched for an invariant or a difference.
    script = f"read_aiger miter.aig; strash; scorr; print_stats; pdr -T {limit // 4}"
    _, log = _run([str(abc), "-c", script], directory, limit)
    if "was asserted in frame" in log:
        return DIFFERENT
    # Nothing left to search: the output is constant, and it was not 1.
    nothing = re.search(r"lat =\s+0\s+and =\s+0\s", log)
    return EQUIVALENT if nothing or "Property proved" in log else OPEN


def _run(command: list[str], directory: Path, limit: int) -> tuple[bool, str]:
    """Whether it ended well in time, and what it said."""
    with subprocess.Popen(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            log, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return False, ""
    return process.returncode == 0, log
