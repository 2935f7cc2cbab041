"""What the stages of the pipeline share: fingerprints, records, resuming.

A stage is skipped when its record (a JSON file) carries the fingerprint of the same options, data, upstream output and
source code, and the files that it names still have the content that was written. Layout of a working directory:

    recipe.toml       everything that was asked of training: `quant.train --recipe recipe.toml` makes it again
    train.pt          checkpoint of training, written after every epoch
    network.graph     the trained integer network (golden_model.image.archive); train.json its record
    calibrated.graph  the same with converter and dynamic-precision registers; calibration.json its record
    image/            the deployment image (golden_model.image)
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from golden_model.files import file_hash, read_json, write_bytes, write_json

PACKAGE = Path(__file__).resolve().parent
#: Where our packages lie, and which of them decide what a stage of `quant` makes.
ROOT = PACKAGE.parent
OWN_PACKAGES = ("golden_model", "quant")

Result = TypeVar("Result")


def source_hash(files: Iterable[Path]) -> str:
    """Hash of the contents of source files, independent of where the packages lie."""
    digest = hashlib.sha256()
    for file in sorted(files):
        name = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name
        digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def sources_of(module: str) -> list[Path]:
    """Files that decide what a module of ours does: itself, what it imports of our packages, and what those import.

    Imports inside functions count. A package that is reached brings its data files (component tables) along.

    Raises ValueError if there is no such module.
    """
    path = _source(module, ROOT)
    if module.partition(".")[0] not in OWN_PACKAGES or path is None:
        raise ValueError(f"{module} is no module of this project")
    found = _imported(path, ROOT, OWN_PACKAGES)
    return sorted({*found, *(table for file in found for table in file.parent.glob("data/*.toml"))})


def sources_of_file(file: Path) -> list[Path]:
    """A Python file of the user's, and what it imports of its folder, directly or not."""
    return sorted(_imported(file.resolve(), file.resolve().parent))


def _imported(path: Path, root: Path, packages: Iterable[str] | None = None) -> set[Path]:
    """`path` and the files below `root` that it imports, and that those import; of these packages only: where ours are
    installed, all others lie beside them."""
    waiting, found = [path], set[Path]()
    while waiting:
        path = waiting.pop()
        found.add(path)
        names: list[str] = []
        try:
            nodes = list(ast.walk(ast.parse(path.read_bytes())))
        except (SyntaxError, ValueError):  # a neighbour for another Python, which nobody imports after all
            nodes = []
        for node in nodes:
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = path.relative_to(root).parts[: -node.level] if node.level else ()
                base = ".".join([*above, *filter(None, [node.module])])
                names += [base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)]
        if packages is not None:
            names = [name for name in names if name.partition(".")[0] in packages]
        waiting += {file for name in names if (file := _source(name, root)) is not None} - found
    return found


def files_of(*packages: str) -> list[Path]:
    """All files of packages of ours, code, templates and tables; not what Python or a compiler keeps for itself."""
    found = [path for package in packages for path in (ROOT / package).rglob("*")]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def _source(module: str, root: Path) -> Path | None:
    """File of a module below `root`, else None."""
    path = root.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def fingerprint(stage: str, options: dict[str, Any], sources: Iterable[Path], **inputs: str) -> str:
    """sha256 over everything that decides a stage's output.

    options : JSON-able. inputs : hashes or fingerprints of what the stage reads. Library versions count.
    """
    everything = {
        "stage": stage,
        "options": options,
        "inputs": inputs,
        "sources": source_hash(sources),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def save_tensors(path: Path, content: Any) -> None:
    """`content` as torch.save writes it; InputError if it cannot be written."""
    buffer = BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())


def unpacked(path: Path) -> Any:
    """What torch.save wrote, tensors and plain values only; any exception for a damaged file, also one whose checksums
    are wrong."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (broken := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {broken} is wrong")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is an error, too
        return torch.load(path, map_location="cpu", weights_only=True)


def load_tensors(path: Path, what: str) -> Any:
    """What `save_tensors` wrote, checked against the checksums of the archive; tensors and plain values only.

    ValueError with one sentence if the file is missing (`what` says how to get it) or damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: {what}")
    try:
        return unpacked(path)
    except MemoryError:
        raise
    except Exception as error:  # many formats, many exceptions
        raise ValueError(f"{path} is damaged or not a checkpoint ({type(error).__name__})") from error


def finished(path: Path, mark: str) -> dict[str, Any] | None:
    """A stage's record if it carries the fingerprint `mark` and its files are as they were written, else None.

    The record may have `files`, from names beside it to their sha256; also None for an unreadable record.
    """
    try:
        value = read_json(path, "")
        files = value.get("files", {})
        intact = all(file_hash(path.parent / name) == wanted for name, wanted in files.items())
    except (ValueError, OSError, AttributeError):
        return None
    return value if intact and value.get("fingerprint") == mark else None


def network_file(work: Path, *names: str) -> Path:
    """The first of these files in a working directory, default network.graph; ValueError if it has none."""
    names = names or ("network.graph",)
    for name in names:
        if (work / name).is_file():
            return work / name
    raise ValueError(f"{work / names[-1]} is missing: run python -m quant.capture or python -m quant.train first")


def keep_record(path: Path, mark: str, files: Iterable[Path], content: dict[str, Any]) -> dict[str, Any]:
    """Write and return a stage's record: `content` with the fingerprint `mark` and the hashes of the stage's `files`,
    which lie beside it or below; `finished` finds it."""
    hashes = {file.relative_to(path.parent).as_posix(): file_hash(file) for file in files}
    record = {"fingerprint": mark, "files": hashes, **content}
    write_json(path, record)
    return record


class Cache:
    """Finished parts of a long command, so that it goes on where it was stopped: JSON files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str, key: str, make: Callable[[], Result]) -> Result:
        """The part `name`, made and kept unless it is there already with the fingerprint `key`.

        name : any text; its file is `path(name)`. key : see `fingerprint`; of everything that decides the part.
        What is returned went through JSON in either case: tuples are lists, keys are text.
        """
        kept = finished(self.path(name), key)
        if kept is None or "value" not in kept:
            write_json(self.path(name), {"fingerprint": key, "value": make()})
            kept = read_json(self.path(name), "")
        return kept["value"]

    def path(self, name: str) -> Path:
        return self.folder / (re.sub(r"[^\w.+-]+", "-", name) + ".json")


def command_line(module: str) -> str:
    """The running command, with only the names of absolute paths, so that it reads the same on every machine.

    module : what to call it where no command of ours is running.
    """
    running = getattr(sys.modules["__main__"].__spec__, "name", "")
    module = running if running.startswith("quant.") else module
    shown = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    return " ".join([f"python -m {module}", *shown])
