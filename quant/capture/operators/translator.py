"""A torch.fx graph as `Op`s, one operator after the other; what is not supported is refused by name."""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch import Tensor, fx

from quant.capture.errors import UnsupportedOperator
from quant.capture.op import Op, Ref
from quant.capture.operators.functions import Functions
from quant.capture.operators.layers import Layers
from quant.capture.operators.shapes import Shapes
from quant.capture.operators.tables import PARTS, method_of
from quant.capture.operators.windows import Windows
from quant.capture.trace import node_name
from quant.networks.refused import because


class Translator(Layers, Functions, Windows, Shapes):
    """Turns torch.fx nodes into `Op`s, one operator after the other.

    Methods named after an operator take its tensors as `Ref` and its other arguments as torch does.
    """

    def translate(self) -> tuple[dict[str, Op], str]:
        """All ops by name in order of computation, and the name of the output's."""
        output = None
        for node in self.module.graph.nodes:  # what cannot be had in any form is told before what leads to it
            self.node = node
            if node.op == "call_module" and because(type(self.module.get_submodule(str(node.target))).__name__):
                raise self._refused(node_label(node, self.module))
        for node in self.module.graph.nodes:
            self.node = node
            seen = self.seen.get(node)
            if node.op == "output":
                if not isinstance(node.args[0], fx.Node) or node.args[0] not in self.refs:
                    raise UnsupportedOperator("the network must return exactly one tensor, made from its input")
                ref = self.refs[node.args[0]]
                if ref.rank == 3:
                    raise UnsupportedOperator("the network must not return tokens (B, T, C); take their mean")
                output = ref.op
            elif node.op == "placeholder":
                self.label = "input"
                self.refs[node] = self._add("image")
            elif seen is None or seen.constant:
                continue  # computed once, here
            elif seen.shape is not None:
                self.refs[node] = self._operator(node)
            elif node.target in PARTS and isinstance(node.args[0], fx.Node) and node.args[0] in self.refs:
                self.parts[node] = self.refs[node.args[0]]
            elif not _is_plain(seen.value):
                raise self._refused(node_label(node, self.module))
        assert output is not None
        return self.ops, output

    def _operator(self, node: fx.Node) -> Ref:
        self.label = node_label(node, self.module)
        if node.target is operator.getitem and node.args[0] in self.parts:
            return self._part(cast(fx.Node, node.args[0]), cast(int, node.args[1]))
        arguments = [self._argument(a) for a in node.args]
        options = {key: self._argument(a) for key, a in node.kwargs.items()}
        if "input" in options:  # torch's name of the first argument
            arguments.insert(0, options.pop("input"))
        try:
            method, of_module = method_of(node, self.module)
            if method is None:
                raise self._refused(self.label)
            alone = len(arguments) == 1 and not options
            self._require(node.op != "call_module" or alone, "it must be called with one tensor")
            result = getattr(self, method)(*arguments, *of_module, **options)
        except UnsupportedOperator:
            raise
        except Exception as error:
            raise self._refused(f"{self.label} with these arguments") from error
        self._overwrite(result)
        self._take_integers(node, result)
        return result

    def _take_integers(self, node: fx.Node, result: Ref) -> None:
        """The integers of a layer's weight and their scale per output, where its ONNX file gives them."""
        module = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        integers, scale = getattr(module, "integers", None), getattr(module, "scale", None)
        if isinstance(integers, Tensor) and isinstance(scale, Tensor):
            op = self.ops[result.op]
            op.integers, op.scale = integers.detach().double().reshape(op.weight.shape), scale.detach().double()

    def _overwrite(self, result: Ref) -> None:
        """Later users of the tensors that the present node wrote into see what was written."""
        order = {n: i for i, n in enumerate(self.module.graph.nodes)}
        target = self.node.args[0] if self.node.args else self.node.kwargs.get("input")
        for other in self.seen[self.node].overwritten:
            self._require(not self.seen[other].constant, "it changes a parameter while the network runs")
            if all(order[user] <= order[self.node] for user in other.users):
                continue
            same = isinstance(target, fx.Node) and other in self.refs and self.refs[other].op == self.refs[target].op
            self._require(
                same,
                f"it writes in place into a part or another view of the tensor of {node_name(other)!r}, which is used"
                f" later; write to a new tensor",
            )
            self.refs[other] = Ref(result.op, self.refs[other].rank, result.softmax)

    def _argument(self, value: Any) -> Any:
        """Tensors of the network as `Ref`, parameters and computed numbers as they are."""
        if isinstance(value, fx.Node):
            if value in self.refs:
                ref = self.refs[value]
                if ref.softmax:
                    raise UnsupportedOperator(f"layer {ref.softmax!r}: softmax is supported only at the network's end")
                return ref
            return self.seen[value].value
        if isinstance(value, tuple | list):
            return type(value)(self._argument(v) for v in value)
        if isinstance(value, slice):
            return slice(*(self._argument(v) for v in (value.start, value.stop, value.step)))
        return value


def _is_plain(value: Any) -> bool:
    """Whether a value is made of numbers, sizes and the like, and no tensors."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | bool | str | torch.dtype | torch.device)


def node_label(node: fx.Node, module: fx.GraphModule) -> str:
    if "operator" in node.meta:  # of an ONNX file
        return node.meta["operator"]
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
