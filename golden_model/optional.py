"""Libraries that not everything needs: which of them are installed. Loads none of them."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any


def numba_installed() -> bool:
    """Whether there are compiled loops."""
    return importlib.util.find_spec("numba") is not None


def torch_installed() -> bool:
    """Whether there are training and the engine for GPUs."""
    return importlib.util.find_spec("torch") is not None


def array_library(array: Any) -> Any:
    """numpy or torch, whose functions take this array; graph nodes compute with those that both name alike."""
    return sys.modules[type(array).__module__.partition(".")[0]]
