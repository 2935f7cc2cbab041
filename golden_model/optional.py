"""Libraries that not everything needs: which of them are installed, and which extra brings them. Loads none of them."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

#: Packages without which some commands do not start, and the extra of OhmLoom that brings each.
EXTRAS = {"torch": "quant", "matplotlib": "reproduce"}


def numba_installed() -> bool:
    """Whether there are compiled loops."""
    return importlib.util.find_spec("numba") is not None


def torch_installed() -> bool:
    """Whether there are training and the engine for GPUs."""
    return importlib.util.find_spec("torch") is not None


def how_to_install(package: str) -> str:
    """What a command says that needs a package of EXTRAS."""
    return f"this command needs {package}, which is not installed: pip install 'ohmloom[{EXTRAS[package]}]'"


def commands_need(package: str) -> None:
    """For the `__init__` of a package of commands: ends one that `python -m` is about to run without what it needs."""
    if sys.argv[:1] == ["-m"] and importlib.util.find_spec(package) is None:
        print(f"error: {how_to_install(package)}", file=sys.stderr)
        raise SystemExit(2)


def array_library(array: Any) -> Any:
    """numpy or torch, whose functions take this array; graph nodes compute with those that both name alike."""
    return sys.modules[type(array).__module__.partition(".")[0]]
