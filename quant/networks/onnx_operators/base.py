"""What all operators use to make layers of the nodes of an ONNX file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg
from torch.nn import functional as F

from quant.networks import onnx_runtime


class Reading:
    """A file on its way: the node that is read now, and the layers, constants and examples of those before it."""

    def __init__(self, proto: Any) -> None:
        self.proto, self.onnx, self.opset = proto, onnx_runtime.packages(), onnx_runtime.opset(proto)
        self.root, self.graph = nn.Module(), fx.Graph()
        self.nodes: dict[str, Any] = {}  # fx.Node, or Integers of QuantizeLinear
        self.levels: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # integers and scales of quantised constants
        self.constants = {one.name: self.onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
        self.example: dict[fx.Node, Tensor] = {}
        self.node: Any = None

    @property
    def label(self) -> str:
        return self.node.name or next(iter(self.node.output))

    def _refuse(self, why: str, cause: Exception | None = None) -> NoReturn:
        raise ValueError(f"node {self.label!r}: {self.node.op_type} of opset {self.opset}: {why}") from cause

    def _require(self, condition: bool, why: str) -> None:
        if not condition:
            self._refuse(why)

    def _attribute(self, name: str, default: Any) -> Any:
        found = (self.onnx.helper.get_attribute_value(one) for one in self.node.attribute if one.name == name)
        return next(found, default)

    def _name(self) -> str:
        """Name of the present node's layer: letters, digits, underscores, taken once."""
        name = re.sub(r"\W+", "_", self.label).strip("_")
        if not name.isidentifier() or hasattr(fx.GraphModule, name) or name in ("meta", "training"):
            name = f"{self.node.op_type}_{name}"
        base, count = name, 1
        while hasattr(self.root, name):
            count += 1
            name = f"{base}_{count}"
        return name

    def _made(self, node: fx.Node, example: Tensor) -> fx.Node:
        node.meta["operator"] = f"{self.node.op_type} of opset {self.opset}"
        self.example[node] = example
        return node

    def _layer(self, module: nn.Module, x: Any, **values: Any) -> fx.Node:
        """A module on x; values : arrays for its parameters and buffers."""
        self._require(isinstance(x, fx.Node), "its first input must be made from the picture")
        for name, value in values.items():
            if value is not None:
                getattr(module, name).data = _tensor(value)
        name = self._name()
        self.root.add_module(name, module.eval())
        return self._made(self.graph.call_module(name, (x,)), module(self.example[x]))

    def _call(self, function: Callable[..., Any], *arguments: Any, part: str = "") -> fx.Node:
        """A function of nodes, arrays and numbers; part : of what the present node means."""
        arguments = map_aggregate(arguments, self._constant)  # type: ignore[assignment]
        node = self.graph.create_node("call_function", function, arguments, name=self._name() + part)
        return self._made(node, function(*map_arg(arguments, self.example.__getitem__)))

    def _constant(self, value: Any) -> Any:
        """An array as a node of the graph."""
        if not isinstance(value, np.ndarray):
            return value
        name = f"{self._name()}_constant"
        self.root.register_buffer(name, _tensor(value))
        return self._made(self.graph.get_attr(name), _tensor(value))

    def _size(self, x: fx.Node) -> tuple[int, ...]:
        return tuple(self.example[x].shape)

    def _array(self, value: Any, what: str) -> np.ndarray:
        self._require(isinstance(value, np.ndarray), f"its {what} must be a constant")
        return value

    def _padding(
        self, x: fx.Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], auto_pad: str,
        pads: Any,
    ) -> tuple[int, int, int, int]:  # fmt: skip
        """(above, left, below, right)"""
        if auto_pad in ("NOTSET", "VALID"):
            return cast(Any, tuple(pads or (0,) * 4) if auto_pad == "NOTSET" else (0,) * 4)
        total = [
            max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
            for size, k, s, d in zip(self._size(x)[2:], kernel, strides, dilations, strict=True)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        return cast(Any, (*less, *more) if auto_pad == "SAME_UPPER" else (*more, *less))

    def _bordered(self, x: fx.Node, pads: tuple[int, int, int, int]) -> tuple[fx.Node, tuple[int, int]]:
        """(x, padding) with the padding that a layer can do itself; a lopsided border is a step before it."""
        if x.target is F.pad and len(x.args[1]) == 4:  # type: ignore[arg-type]
            left, right, above, below = cast(Any, x.args[1])
            x, pads = cast(fx.Node, x.args[0]), (pads[0] + above, pads[1] + left, pads[2] + below, pads[3] + right)
        above, left, below, right = pads
        if (above, left) == (below, right):
            return x, (above, left)
        return self._call(F.pad, x, [left, right, above, below], part="_border"), (0, 0)

    def _map(self, x: Any) -> None:
        self._require(isinstance(x, fx.Node) and len(self._size(x)) == 4, "it needs a map (N, C, H, W) of the network")


def _tensor(value: Any) -> Tensor:
    array = np.array(value)
    return torch.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else array)
