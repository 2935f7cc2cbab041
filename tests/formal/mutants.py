"""Blocks with a bug put into them on purpose, to see a proof fail."""

from __future__ import annotations

import inspect
import sys
import types
from typing import Any


def mutant(block: type, correct: str, wrong: str) -> Any:
    """The class `block` from a copy of its file in which `correct`, which stands there once, is `wrong`."""
    module = sys.modules[block.__module__]
    source = inspect.getsource(module)
    if source.count(correct) != 1:
        raise ValueError(f"{correct!r} must be once in {module.__name__}, it is there {source.count(correct)} times")
    copy = types.ModuleType(f"{module.__name__}_with_a_bug")
    copy.__file__ = module.__file__
    # Annotations of ports are read through the module of their class.
    sys.modules[copy.__name__] = copy
    exec(compile(source.replace(correct, wrong), copy.__name__, "exec"), copy.__dict__)
    return getattr(copy, block.__name__)
