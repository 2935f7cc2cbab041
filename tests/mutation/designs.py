"""The blocks that mutants are looked at in, and a mutant put into the running program."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pickle
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from amaranth.back import rtlil
from amaranth.hdl import Signal, Value

from golden_model.config import TINY, HardwareConfig
from golden_model.files import write_bytes
from rtl.fpga.frame_receiver import FrameReceiver
from rtl.fpga.frame_transmitter import FrameTransmitter
from rtl.fpga.serial_link import SerialLink
from rtl.fpga.serial_master import SerialMaster
from rtl.fpga.serial_system import SerialSystem
from rtl.fpga.uart_receiver import UartReceiver
from rtl.fpga.uart_transmitter import UartTransmitter
from rtl.generate import COMPONENTS
from rtl.system import System
from tests.mutation.operators import ROOT, Mutant

#: Python beside the hardware: what writes, measures and builds it, and the pins of one board.
NO_HARDWARE = {
    *("block", "c_header", "generate", "register_map", "sheets", "synthesis"),
    *("__init__", "__main__", "ecp5_pll", "ulx3s"),
}
FILES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "rtl").rglob("*.py") if p.stem not in NO_HARDWARE)

#: Sizes that are no powers of two, OUs of three rows, sums that overflow, an array that is slow.
ODD = replace(
    TINY,
    **{"rows": 9, "cols": 12, "ou_rows": 3, "ou_cols": 3, "adc_bits": 2, "input_bits": 5, "weight_bits": 4},
    **{"crossbar_pairs": 5, "max_k": 20, "max_n": 7, "max_layers": 3, "activation_bytes": 192, "width_entries": 48},
    **{"channel_entries": 24, "pad_entries": 6, "sample_interval": 2, "accumulator_bits": 8},
)
#: What two versions of a block are compared in.
CONFIGS = {
    "tiny": TINY,
    "tiny-pairs": replace(TINY, machine="pairs"),
    "odd": ODD,
    "odd-pairs": replace(ODD, machine="pairs", macros=2),
}

_DIVISOR = 4
_FPGA: dict[str, Callable[[HardwareConfig], Any]] = {
    "uart_receiver": lambda config: UartReceiver(_DIVISOR),
    "uart_transmitter": lambda config: UartTransmitter(_DIVISOR),
    "frame_receiver": lambda config: FrameReceiver(),
    "frame_transmitter": lambda config: FrameTransmitter(),
    "serial_master": lambda config: SerialMaster(),
    "serial_link": lambda config: SerialLink(_DIVISOR),
    "serial_system": lambda config: SerialSystem(config, _DIVISOR),
    "registered_system": partial(System, registered=True),
}
DESIGNS = COMPONENTS | _FPGA
#: Large ones that are looked at in the smaller configurations only.
WHOLE = {"system", "tile", "serial_system", "registered_system"}
#: Characters of RTLIL of a large one.
LARGE = 350_000

#: File -> lines of it that were executed.
Lines = dict[str, set[int]]


class Design(NamedTuple):
    """A block in one configuration: its RTLIL, and the lines that make it."""

    name: str
    config: str
    text: str
    lines: Lines


@contextmanager
def executed() -> Iterator[Lines]:
    """Collects the lines of rtl/ that are executed inside."""
    prefix = f"{ROOT}/"
    lines: Lines = {}
    tracers: dict[str, Any] = {}

    def tracer(path: str) -> Callable[..., Any] | None:
        if not path.startswith(f"{prefix}rtl/"):
            return None
        seen = lines.setdefault(path.removeprefix(prefix), set())

        def local(frame: FrameType, event: str, _: Any) -> Any:
            seen.add(frame.f_lineno)
            return local

        return local

    def called(frame: FrameType, event: str, _: Any) -> Any:
        path = frame.f_code.co_filename
        if path not in tracers:
            tracers[path] = tracer(path)
        return tracers[path]

    before = sys.gettrace()
    sys.settrace(called)
    try:
        yield lines
    finally:
        sys.settrace(before)


def covers(lines: Lines, mutant: Mutant) -> bool:
    """Whether the statement of a mutant was executed."""
    first, last = mutant.lines
    return any(first <= line <= last for line in lines.get(mutant.file, ()))


def text_of(name: str, config: str) -> str:
    """RTLIL of a block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        design = DESIGNS[name](CONFIGS[config])
        values = [Value.cast(value) for _, _, value in design.signature.flatten(design)]
        ports = [value for value in values if isinstance(value, Signal)]  # what is always ready is a constant
        return rtlil.convert(design, ports=ports, name="block", emit_src=False)


def designs(keep: Path) -> list[Design]:
    """Every block in every configuration that it can have, smallest first; kept in a file, they take minutes."""
    files = [*FILES, "rtl/block.py", "golden_model/config.py", "golden_model/registers.py"]
    key = f"{source_hash(*files)} {sorted(DESIGNS)} {CONFIGS}"
    if keep.is_file():
        kept, found = pickle.loads(keep.read_bytes())
        if kept == key:
            return found
    found = []
    for config in CONFIGS:
        for name in DESIGNS:
            if name in WHOLE and config.startswith("odd"):
                continue
            with executed() as lines:
                try:
                    text = text_of(name, config)
                except ValueError:  # a block of the other machine
                    continue
            found.append(Design(name, config, text, lines))
    found.sort(key=lambda design: len(design.text))
    write_bytes(keep, pickle.dumps((key, found)))
    return found


def smallest(mutant: Mutant, among: list[Design]) -> list[Design]:
    """For every configuration the smallest design that the mutant's statement makes; large ones in one only."""
    found: dict[str, Design] = {}
    for design in among:
        if design.config not in found and covers(design.lines, mutant):
            found[design.config] = design
    return [one for i, one in enumerate(found.values()) if not i or len(one.text) < LARGE]


def relative(path: Path) -> str:
    """A file's name from the root."""
    return path.resolve().relative_to(ROOT).as_posix()


def source_hash(*files: str) -> str:
    """Of the contents of files, named from the root."""
    digest = hashlib.sha256()
    for file in files:
        digest.update((ROOT / file).read_bytes())
    return digest.hexdigest()[:16]


# ---- a mutant in the running program ------------------------------------------------------------
def install(mutant: Mutant) -> None:
    """Give the mutant's function the code of the changed source, for all who have imported it.

    SyntaxError, or what compiling says, if the change cannot be compiled.
    """
    path = ROOT / mutant.file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code: types.CodeType = compile(mutant.apply(path.read_bytes()), str(path), "exec")
    for name in mutant.function.split("."):
        code = next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == name)
    _function(mutant).__code__ = code


def _function(mutant: Mutant) -> types.FunctionType:
    found: Any = importlib.import_module(mutant.file.removesuffix(".py").replace("/", "."))
    for name in mutant.function.split("."):
        found = vars(found)[name]
    if isinstance(found, property):
        found = found.fget
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    return inspect.unwrap(found)
