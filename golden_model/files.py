"""Files that appear whole or not at all, and the one error of bad input."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """What a user gave cannot be used; the message is one sentence that names what, where and what is allowed."""


def printable(text: str) -> str:
    """Text that came with a file, for a terminal: what is not printable (escape codes, line ends) is spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def file_hash(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary sibling of `path`, then rename it: a reader never sees half a file.

    Folders are made as needed. A link keeps pointing where it does, its target is replaced; a device or pipe is
    written through. What killed commands left beside `path` is removed. InputError if the file cannot be written.
    """
    try:
        _write(path.resolve() if path.is_symlink() else path, write)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def _write(path: Path, write: Callable[[Path], object]) -> None:
    if path.exists() and not path.is_file() and not path.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / path.name
            write(made)
            with made.open("rb") as source, path.open("wb", buffering=0) as sink:
                shutil.copyfileobj(source, sink)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in left_behind(path, "partial"):
        left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def left_behind(path: Path, kind: str) -> list[Path]:
    """Siblings .NAME.PROCESS.kind of `path`, made by processes that are gone."""
    found = path.parent.glob(f".{glob.escape(path.name)}.*.{kind}")
    return [one for one in found if not _alive(one.name.split(".")[-2])]


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object; InputError if the file is missing (`what` says how to get it) or broken."""
    if not path.is_file():
        raise InputError(f"{path} is missing: {what}")
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
