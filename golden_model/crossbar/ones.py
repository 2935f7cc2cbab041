"""Population count of a word inside compiled loops, which need numba."""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.extending import intrinsic


def _ones_of(typingctx: Any, word: Any) -> Any:
    """How many bits of a 64-bit word are 1."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


ones_of: Any = intrinsic(_ones_of)
