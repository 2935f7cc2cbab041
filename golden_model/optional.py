"""Libraries that not everything needs: which of them are installed. Loads none of them."""

from __future__ import annotations

import importlib.util


def numba_installed() -> bool:
    """Whether there are compiled loops."""
    return importlib.util.find_spec("numba") is not None


def torch_installed() -> bool:
    """Whether there are training and the engine for GPUs."""
    return importlib.util.find_spec("torch") is not None
