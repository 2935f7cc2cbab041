"""The deployment image: one directory with everything that hardware and simulation need (system.md §9).

`image.archive` holds the network, its program and tables, and test vectors (archive.py); beside it the tables lie as
`$readmemh` text, one file each. A reader refuses an image that is incomplete, changed, of another version or for other
hardware, each with one sentence and before anything is used; what follows from the network is computed again and
compared. Writing is atomic: the directory appears whole or not at all, and an old image stays until the new one is
complete.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.engines.choice import EngineName
from golden_model.engines.run_network import GraphRunner, Progress
from golden_model.events import Events
from golden_model.files import InputError, left_behind
from golden_model.graph.network import Graph
from golden_model.image.archive import (
    NETWORK_PARTS,
    Archive,
    network_parts,
    older_version,
    pack,
    read_file,
    read_network,
    refusing,
)
from golden_model.image.interpreter import Interpreter
from golden_model.image.program import Program, Tables, plan
from golden_model.registers import COUNTER_NAMES, WIDTH_BITS

SCHEMA = "ohmloom-image"
#: Rises with the format, and when events or clocks of a machine change, because they are stored with the vectors.
VERSION = 4
ARCHIVE = "image.archive"
HEX_FILES = ("cells.hex", "widths.hex", "bias.hex", "multipliers.hex", "pads.hex", "reference.hex", "program.hex")
#: Tables that not every image has, by name of `Tables`: file, bits of an entry.
_OPTIONAL = {
    "lookups": ("lookups.hex", 8),
    "stop_bounds": ("stop_bounds.hex", 32),
    "stop_starts": ("stop_starts.hex", 32),
}
FILES = (ARCHIVE, *HEX_FILES)
#: A part that only images with work of a host have.
_HOST_STEPS = "host_steps"
_PARTS = (*NETWORK_PARTS, "counters", "steps", "image_base", "logits", "cell_pairs", "cell_checksum", "vectors")
#: First parts of the names of arrays that are not the network's.
_OTHERS = ("tables", "vectors")
_TABLES = ("program", "widths", "bias", "multipliers", "pads", "levels")


@dataclass(frozen=True, eq=False)
class Vectors:
    """Test vectors and what the golden model expects of them.

    images : uint8 (B, C, H, W). labels : (B,) int64, -1 if unknown. logits : (B, N) int64.
    events : leading shape (B, steps). cycles : (B,) int64, clocks from start to done.
    """

    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    events: Events
    cycles: np.ndarray


@dataclass(frozen=True, eq=False)
class Image:
    """A deployment image that has been read and checked."""

    network: Graph
    program: Program
    vectors: Vectors
    manifest: dict[str, Any]

    def runner(self, engine: EngineName = "auto") -> Runner:
        """The network, ready to run."""
        return Runner(self.network, self.program, engine=engine)

    def difference(self, index: int, logits: Any, events: Any, cycles: int) -> str | None:
        """How results of a test vector first differ from those stored: logits, then events, then cycles; None if equal.

        logits : (N,). events : counts (steps, counters).
        """
        stored = self.vectors
        logits, events = np.asarray(logits), np.asarray(events)
        for lane in np.flatnonzero(logits != stored.logits[index]):
            return f"logit {lane} is {logits[lane]} instead of {stored.logits[index, lane]}"
        expected = stored.events.counts[index]
        for step, counter in np.argwhere(events != expected):
            name = f"event counter {COUNTER_NAMES[counter]} of {self.program.steps[step].title}"
            return f"{name} is {events[step, counter]} instead of {expected[step, counter]}"
        if cycles != stored.cycles[index]:
            return f"the run took {cycles} clocks instead of {stored.cycles[index]}"
        return None


class Runner(GraphRunner):
    """The runner of an image's network; it also knows the clocks of its program.

    Attributes: those of `GraphRunner`, and `program`.
    """

    def __init__(self, network: Graph, program: Program, *, engine: EngineName = "auto") -> None:
        super().__init__(network, engine=engine)
        self.program = program

    def cycles(self, events: Events) -> np.ndarray:
        """Clocks from start to done per image, (B,) int64, from the events of `run`."""
        return self.program.cycles(events)


# ---- tables as text -----------------------------------------------------------------------------
def _hex_lines(values: Any, bits: int) -> bytes:
    digits = -(-bits // 4)
    return "".join(f"{int(v) & ((1 << bits) - 1):0{digits}x}\n" for v in values).encode()


def hex_files(tables: Tables, hardware: HardwareConfig) -> dict[str, bytes]:
    """The tables as $readmemh text, one entry a line: file name -> content.

    cells.hex has one line per OU of a pair, the OU's integer (bit = lane * ou_rows + row).
    """
    data = np.ascontiguousarray(tables.cell_words, dtype="<u4").tobytes()
    size = 4 * hardware.cell_words
    digits = -(-hardware.ou_cells // 4)
    cells = "".join(
        f"{int.from_bytes(data[at : at + size], 'little'):0{digits}x}\n" for at in range(0, len(data), size)
    )
    return {
        "cells.hex": cells.encode(),
        "widths.hex": _hex_lines(tables.widths, WIDTH_BITS),
        "bias.hex": _hex_lines(tables.bias, 32),
        "multipliers.hex": _hex_lines(tables.multipliers, 16),
        "pads.hex": _hex_lines(tables.pads, 8),
        "reference.hex": _hex_lines(tables.levels.ravel(), 8),
        "program.hex": _hex_lines(tables.program.ravel(), 32),
        **{
            file: _hex_lines(getattr(tables, name).ravel(), bits)
            for name, (file, bits) in _OPTIONAL.items()
            if len(getattr(tables, name))
        },
    }


# ---- write --------------------------------------------------------------------------------------
def write(
    directory: str | Path,
    network: Graph,
    images: Any,
    labels: Any = None,
    *,
    progress: Progress | None = None,
) -> Image:
    """Write a deployment image: program, tables and expected vectors through the golden model.

    The vectors are what the interpreter makes of the program; they are compared with the runner of the network, so
    that no image leaves with a program that computes something else.

    Parameters
    ----------
    directory : created, or replaced if it is an image already (the old one stays until the new one is
        complete).
    images : uint8 (B, C, H, W) test vectors, B may be 0. labels : (B,) integers, None if unknown.
    progress : called with (done, all) while the golden model runs.

    Returns the image as read back. Raises ValueError or TypeError for a network that the hardware cannot
    run or for bad vectors, InputError if the directory holds something else; nothing is left behind.
    """
    directory = Path(directory)
    program = plan(network)
    runner = Runner(network, program)
    images = runner.check_images(images)
    labels = np.full(len(images), -1) if labels is None else np.asarray(labels)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be {len(images)} integers, one per image, got shape {labels.shape}, dtype {labels.dtype}"
        )
    _check_labels(labels, program.logits)
    _check_replaceable(directory)
    parts, arrays = network_parts(network)
    expected, counted = runner.run(images, progress=progress)
    logits, events = Interpreter.of(program).run(images)
    if not (np.array_equal(logits, expected) and (runner.cycles(counted) == events.cycles.sum(axis=1)).all()):
        raise ValueError(f"network {network.name}: its program does not compute what the network does")
    arrays |= _table_arrays(program)
    arrays |= {
        "vectors.images": images,
        "vectors.labels": labels.astype(np.int64),
        "vectors.logits": logits,
        "vectors.events": events.counts,
        "vectors.cycles": runner.cycles(counted),
    }
    content = {
        ARCHIVE: pack(SCHEMA, VERSION, {**parts, **_program_parts(program), "vectors": len(images)}, arrays),
        **hex_files(program.tables, network.hardware),
    }
    _replace_directory(directory, content)
    return read(directory, network.hardware)


def _program_parts(program: Program) -> dict[str, Any]:
    """What the manifest says of a program."""
    made = {
        "counters": list(COUNTER_NAMES),
        "steps": [
            {
                "name": step.name,
                "node": step.node,
                "kind": step.kind.name,
                "shape": list(map(int, step.shape)),
                "windows": int(step.windows),
                "fields": {name: int(value) for name, value in step.fields.items()},
            }
            for step in program.steps
        ],
        "image_base": program.image_base,
        "logits": program.logits,
        "cell_pairs": program.placement.pairs,
        "cell_checksum": program.tables.checksum,
    }
    if program.host_steps:
        made[_HOST_STEPS] = [
            {
                "node": step.name,
                "before": step.before,
                "source": step.read_base,
                "target": step.write_base,
                "input": list(map(int, step.taken)),
                "output": list(map(int, step.node.shape)),
            }
            for step in program.host_steps
        ]
    return made


def _table_arrays(program: Program) -> dict[str, np.ndarray]:
    """The tables as arrays of the archive."""
    names = [*_TABLES, *(name for name in _OPTIONAL if len(getattr(program.tables, name)))]
    tables = {f"tables.{name}": getattr(program.tables, name) for name in names}
    return tables | {"tables.cells": np.packbits(program.tables.cells)}


def _check_labels(labels: np.ndarray, outputs: int) -> None:
    if len(labels) and (labels.min() < -1 or labels.max() >= outputs):
        raise ValueError(f"labels must be in -1..{outputs - 1}, got {int(labels.min())}..{int(labels.max())}")


def _check_replaceable(directory: Path) -> None:
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise InputError(f"{directory}: it exists and is not a directory")
    known = (directory / ARCHIVE).is_file() or _is_version_1(directory)
    if directory.is_dir() and any(directory.iterdir()) and not known:
        raise InputError(f"{directory}: it is not empty and not a deployment image, so it is not replaced")


def _is_version_1(directory: Path) -> bool:
    """Whether a directory holds an image of the first version."""
    manifest = directory / "manifest.json"
    if not manifest.is_file():
        return False
    with open(manifest, "rb") as file:
        return f'"{SCHEMA}"'.encode() in file.read(1000)


def _replace_directory(directory: Path, content: dict[str, bytes]) -> None:
    """Write all files to a temporary sibling, then rename it into place."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    _recover(directory)
    made, old = (directory.with_name(f".{directory.name}.{os.getpid()}.{kind}") for kind in ("partial", "old"))
    made.mkdir()
    try:
        for name, data in content.items():
            with open(made / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if directory.exists():
            directory.rename(old)
        made.rename(directory)
    except BaseException:
        if old.exists() and not directory.exists():
            old.rename(directory)
        shutil.rmtree(made, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _recover(directory: Path) -> None:
    """Put back the image that a killed process had set aside, and remove what else it left."""
    for old in left_behind(directory, "old"):
        if directory.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(directory)
    for made in left_behind(directory, "partial"):
        shutil.rmtree(made, ignore_errors=True)


# ---- read ---------------------------------------------------------------------------------------
def read(directory: str | Path, hardware: HardwareConfig | None = None) -> Image:
    """Read and check a deployment image.

    hardware : the configuration it must be for; None accepts any.

    Raises InputError with one sentence for a missing, extra, truncated, oversized or changed file, a wrong
    schema or version, another hardware configuration, or contents that do not fit together.
    """
    directory = Path(directory)
    with refusing(directory):
        return _read(directory, hardware)


def _read(directory: Path, hardware: HardwareConfig | None) -> Image:
    if not directory.exists():
        _recover(directory)
    if not directory.is_dir():
        is_file = "it is a file, a deployment image is a directory (python -m quant.export --work DIR makes one)"
        raise ValueError(is_file if directory.exists() else "there is no such directory")
    if not (directory / ARCHIVE).is_file():
        if _is_version_1(directory):
            raise ValueError(older_version(SCHEMA, 1, VERSION))
        raise ValueError(f"not a deployment image, {ARCHIVE} is missing")
    optional = [file for file, _ in _OPTIONAL.values()]
    for path in sorted(directory.iterdir()):
        if path.name not in (*FILES, *optional):
            raise ValueError(f"{path.name} does not belong to the image")
    try:
        archive = Archive(read_file(directory / ARCHIVE), SCHEMA, VERSION, _PARTS, optional=(_HOST_STEPS,))
        network = _check_hardware(read_network(archive, _OTHERS), hardware)
        program = plan(network)
        _check_program(archive, program)
        vectors = _read_vectors(archive, network, program)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{ARCHIVE}: {error}") from None
    derived = hex_files(program.tables, network.hardware)
    for name in optional:
        if name not in derived and (directory / name).exists():
            raise ValueError(f"{name} does not belong to the image")
    for name, text in derived.items():
        _check_file(directory / name, text)
    return Image(network, program, vectors, archive.manifest)


def _check_hardware(network: Graph, expected: HardwareConfig | None) -> Graph:
    if expected is not None and expected != network.hardware:
        theirs, ours = asdict(network.hardware), asdict(expected)
        different = ", ".join(
            f"{key} = {theirs[key]} instead of {ours[key]}" for key in ours if theirs[key] != ours[key]
        )
        raise ValueError(f"the image is for other hardware, {different}")
    return network


def _check_file(path: Path, expected: bytes) -> None:
    """A derived file must hold just what is expected."""
    if not path.is_file():
        raise ValueError(f"{path.name} is missing")
    size = path.stat().st_size
    if size != len(expected):
        how = "truncated" if size < len(expected) else "oversized"
        raise ValueError(f"{path.name} is {how}, {size} bytes instead of {len(expected)}")
    if path.read_bytes() != expected:
        raise ValueError(f"{path.name} was changed, it does not follow from {ARCHIVE}")


def _check_program(archive: Archive, program: Program) -> None:
    """The stored program and tables must be those that follow from the network."""
    follows = _program_parts(program)
    if (_HOST_STEPS in archive.manifest) != (needed := _HOST_STEPS in follows):
        how = "is missing" if needed else "does not belong to an image without work of a host"
        raise ValueError(f"{_HOST_STEPS} {how}")
    for name, value in follows.items():
        held = archive.manifest[name]
        if held != (value[: len(held)] if name == "counters" and isinstance(held, list) else value):
            raise ValueError(f"{name} does not follow from the network")
    expected, stand_ins = _table_arrays(program), archive.stand_ins()
    for name, values in expected.items():
        if name not in stand_ins:
            raise ValueError(f"{name} is missing")
        if stand_ins[name].shape != values.shape:
            raise ValueError(f"{name} must have shape {values.shape}, got {stand_ins[name].shape}")
    stored = archive.arrays(lambda name: name in expected)
    for name, values in expected.items():
        if stored[name].dtype.kind not in "iu" or not np.array_equal(stored[name], values):
            raise ValueError(f"{name} does not follow from the network")
    known = {*expected, *(f"vectors.{name}" for name in Vectors.__dataclass_fields__)}
    for name in stand_ins:
        if name.startswith(tuple(f"{other}." for other in _OTHERS)) and name not in known:
            raise ValueError(f"{name} does not belong to the image")


def _read_vectors(archive: Archive, network: Graph, program: Program) -> Vectors:
    """The test vectors, as far as they can be checked without running them."""
    batch = archive.manifest["vectors"]
    if type(batch) is not int or batch < 0:
        raise ValueError(f"vectors must be a number of images, got {batch!r}")
    shapes = {
        "images": (batch, *network.image.shape),
        "labels": (batch,),
        "logits": (batch, program.logits),
        "events": (batch, len(program.steps), len(archive.manifest["counters"])),
        "cycles": (batch,),
    }
    stand_ins = archive.stand_ins()
    for name, shape in shapes.items():
        one = stand_ins.get(f"vectors.{name}")
        if one is None:
            raise ValueError(f"vectors.{name} is missing")
        if one.shape != shape or one.dtype.kind not in "iu":
            raise ValueError(f"vectors.{name} must be integers of shape {shape}, got {one.dtype} of shape {one.shape}")
    arrays = {
        name.removeprefix("vectors."): array
        for name, array in archive.arrays(lambda name: name.startswith("vectors.")).items()
    }
    images, top = arrays.pop("images"), network.image.encoding.top
    arrays = {name: array.astype(np.int64) for name, array in arrays.items()}
    _check_labels(arrays["labels"], program.logits)
    if images.size and not 0 <= images.min() <= images.max() <= top:
        raise ValueError(f"vectors.images must be in 0..{top}, got {int(images.min())}..{int(images.max())}")
    later = len(COUNTER_NAMES) - len(archive.manifest["counters"])  # counters that came after the image
    logits, events = arrays["logits"], Events(np.pad(arrays["events"], ((0, 0), (0, 0), (0, later))))
    if logits.size and (logits.min() < -(1 << 31) or logits.max() >= 1 << 31):
        raise ValueError("vectors.logits must fit 32 bits")
    elements = np.array([step.layer is None for step in program.steps])
    steps = program.step_events(Events(np.zeros_like(events.counts[:, ~elements])))
    wrong = events.counts.min(initial=0) < 0 or (events.counts[:, elements] != steps.counts[:, elements]).any()
    if wrong or (events.cycles < 1).any():
        raise ValueError("vectors.events must be at least 0, with clocks in every step, and those of the program")
    if not np.array_equal(arrays["cycles"], program.cycles(events[:, ~elements])):
        raise ValueError("vectors.cycles must be the sum of the steps' cycles")
    return Vectors(images.astype(np.uint8), arrays["labels"], logits, events, arrays["cycles"])
