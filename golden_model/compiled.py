"""How loops are compiled, which needs numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def njit(function: Callable[..., Any]) -> Any:
    """A compiled loop that lets other threads run; it is kept on disk wherever numba finds a folder it may write."""
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no such folder
        return numba.njit(nogil=True, error_model="numpy")(function)
