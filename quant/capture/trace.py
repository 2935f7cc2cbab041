"""A float network as a torch.fx graph, and what its nodes give on calibration images."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from quant.capture.errors import UnsupportedOperator
from quant.training.layers import Normalisation, QuantActivation, QuantMatrix

_CALIBRATION_BYTES = 32 << 20  # pixels of the images that are observed at a time, as floats


class _Tracer(fx.Tracer):
    """Keeps quantised layers whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, QuantMatrix | QuantActivation) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """A copy of the model, in evaluation mode, as a torch.fx graph."""
    model = copy.deepcopy(model).cpu().float().eval()
    try:
        return fx.GraphModule(model, _Tracer().trace(model), type(model).__name__)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UnsupportedOperator(f"the network cannot be captured by torch.fx: {reason}") from error


@dataclass
class Seen:
    """What a torch.fx node gave on the calibration images.

    shape : of a tensor with the batch in front, None otherwise. low, high : its real range. value : anything else.
    """

    shape: tuple[int, ...] | None = None
    low: float = float("inf")
    high: float = float("-inf")
    value: Any = None


class _Watcher(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[fx.Node, Seen] = {}

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except Exception as error:
            raise UnsupportedOperator(f"layer {node_name(n)!r}: it cannot be computed: {error}") from error
        seen = self.seen.setdefault(n, Seen())
        if isinstance(result, Tensor):
            if not bool(torch.isfinite(result).all()):
                raise ValueError(f"layer {node_name(n)!r}: it gives a value that is not a finite number")
            seen.shape = tuple(result.shape)
            seen.low, seen.high = min(seen.low, float(result.min())), max(seen.high, float(result.max()))
        if not isinstance(result, Tensor) or n.op == "get_attr":
            seen.value = result
        return result


def observe(module: fx.GraphModule, images: np.ndarray, normalisation: Normalisation) -> dict[fx.Node, Seen]:
    """Run calibration images uint8 (N, C, H, W) through the float network and note shapes and ranges."""
    if len(placeholders := [n for n in module.graph.nodes if n.op == "placeholder"]) != 1:
        raise UnsupportedOperator(f"the network must have one input, it has {len(placeholders)}")
    watcher = _Watcher(module)
    step = max(1, _CALIBRATION_BYTES // (4 * 16 * int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), step):
        watcher.run(normalisation.apply(torch.tensor(images[start : start + step], dtype=torch.float32)))
    return watcher.seen


def node_name(node: fx.Node) -> str:
    """Name of a layer for people: the module's path, or the enclosing module's path and the operator."""
    if node.op in ("call_module", "get_attr"):
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    owner = list(stack.values())[-1][0] if stack else ""
    return f"{owner}.{node.name}" if owner else node.name
