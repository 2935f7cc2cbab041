"""What all operators use to make `Op`s of torch.fx nodes."""

from __future__ import annotations

from typing import Any, cast

from torch import fx

from quant.capture.errors import UnsupportedOperator
from quant.capture.op import Op, Ref, Shape
from quant.capture.operators.tables import SUPPORTED
from quant.capture.trace import Seen, node_name
from quant.networks.refused import because


def pair(value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    return (pair[0], pair[0]) if len(pair) == 1 else cast(tuple[int, int], pair)


class Translation:
    """A translation on its way: the node that is translated now, and the `Op`s of those before it."""

    def __init__(self, module: fx.GraphModule, seen: dict[fx.Node, Seen]) -> None:
        self.module, self.seen = module, seen
        self.ops: dict[str, Op] = {}
        self.refs: dict[fx.Node, Ref] = {}
        self.parts: dict[fx.Node, Ref] = {}  # of split and chunk, whose parts are taken by getitem
        self.node: fx.Node = next(iter(module.graph.nodes))
        self.label = ""

    def _refused(self, what: str) -> UnsupportedOperator:
        why = because(what) or f" (supported: {SUPPORTED})"
        return UnsupportedOperator(f"layer {node_name(self.node)!r}: {what} is not supported{why}")

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            raise UnsupportedOperator(f"layer {node_name(self.node)!r}: {self.label}: {what}")

    def _add(self, kind: str, *inputs: Ref, **attributes: Any) -> Ref:
        """A new op with the shape and range that was seen for the present node."""
        seen = self.seen[self.node]
        shape: tuple[int, ...] = seen.shape or ()
        self._require(
            len(shape) in (2, 3, 4),
            f"its output has {len(shape)} dimensions; maps (B, C, H, W), tokens (B, T, C), vectors (B, F) are possible",
        )
        for ref in inputs:
            self._require(isinstance(ref, Ref), "an operand is not made from the network's input")
            flat = ref.flat and kind != "reshape"
            self._require(not flat, "a map (B, C, H * W) must become tokens first, by transpose(1, 2)")
        c, h, w = (shape[2], shape[1], 1) if len(shape) == 3 else (*shape, 1, 1)[1:4]
        name = self._unused(node_name(self.node))
        attributes["value_of"] = self.node
        self.ops[name] = Op(name, kind, [r.op for r in inputs], (c, h, w), seen.low, seen.high, **attributes)
        return Ref(name, len(shape))

    def _unused(self, wanted: str) -> str:
        """A name for an op, which has a number if a module is called again."""
        name, count = wanted, 1
        while name in self.ops:
            count += 1
            name = f"{wanted}#{count}"
        return name

    def _shape(self, x: Ref) -> Shape:
        return self.ops[x.op].shape

    def _is_map(self, x: Ref) -> None:
        self._require(isinstance(x, Ref) and x.rank == 4, "it needs a map (B, C, H, W)")

    def _are_constant(self, *values: Any) -> None:
        self._require(
            not any(isinstance(v, Ref) for v in values), "its weights must be parameters, not made from the image"
        )
