"""A float network as a torch.fx graph, and what its nodes give on calibration images.

The graph is run beside the network itself: what eager PyTorch does and torch.fx does not see (a hook of the whole
network, a random number, a second name of a tensor) shows as a difference and is refused.
"""

from __future__ import annotations

import copy
import hashlib
import operator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from quant.capture.errors import UnsupportedOperator
from quant.networks import onnx_file, program_file, user
from quant.networks.layers import QuantActivation, QuantMatrix, RangeActivation
from quant.networks.pixels import Normalisation
from quant.networks.tokens import SelfAttention

#: Largest difference between captured operators and the network, as a share of the range of values.
TOLERANCE = 1e-3
_BESIDE = 8  # images that onnxruntime runs, too
_CALIBRATION_BYTES = 32 << 20  # pixels of the images that are observed at a time, as floats


class _Proxy(fx.Proxy):
    """Keeps `x += y` what it is: it changes x under all its names, which x + y does not."""


def _in_place(function: Any) -> Any:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _operation in (operator.iadd, operator.isub, operator.imul, operator.itruediv):
    setattr(_Proxy, f"__{_operation.__name__}__", _in_place(_operation))


class _Tracer(fx.Tracer):
    """Keeps quantised layers and attention whole."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, QuantMatrix | QuantActivation | RangeActivation | SelfAttention) or super().is_leaf_module(
            m, module_qualified_name
        )


def copied(model: nn.Module) -> nn.Module:
    """A copy on the processor, in float32 and evaluation mode, hooks included."""
    # Weights that a hook computes (pruning, weight norm) belong to a graph, which PyTorch does not copy.
    computed = (t for m in model.modules() for t in vars(m).values() if isinstance(t, Tensor) and not t.is_leaf)
    return copy.deepcopy(model, {id(t): t.detach().clone() for t in computed}).cpu().float().eval()


def trace(model: nn.Module) -> fx.GraphModule:
    """A copy of the model, in evaluation mode, as a torch.fx graph."""
    user.check_numbers(model)
    try:
        model = copied(model)
        # A file's graph has the names of its nodes, which tracing it would lose.
        named = onnx_file.content(model) is not None or program_file.is_program(model)
        of_file = isinstance(model, fx.GraphModule) and named
        graph = cast(fx.Graph, model.graph) if of_file else _Tracer().trace(model)
        return fx.GraphModule(model, graph, type(model).__name__)
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
        raise UnsupportedOperator(f"the network cannot be captured by torch.fx: {reason}") from error


def network_hash(model: nn.Module) -> str:
    """sha256 of what a network computes: its layers, its torch.fx graph, and all its numbers.

    UnsupportedOperator if torch.fx cannot capture it.
    """
    module = trace(model)
    constants = {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
    digest = hashlib.sha256(f"{model!r}\n{module.code}".encode())
    for name, tensor in {**user.numbers(module), **constants}.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass
class Seen:
    """What a torch.fx node gave on the calibration images.

    shape : of a tensor with the batch in front, None otherwise. low, high : its real range.
    value : of what does not depend on the image, or is no tensor. values : of a tensor, on the first images.
    overwritten : earlier nodes whose tensor this node wrote into.
    """

    shape: tuple[int, ...] | None = None
    low: float = float("inf")
    high: float = float("-inf")
    value: Any = None
    constant: bool = False
    values: Tensor | None = None
    overwritten: list[fx.Node] = field(default_factory=list)


class _Watcher(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False  # errors are one sentence
        self.seen: dict[fx.Node, Seen] = {}

    def run_node(self, n: fx.Node) -> Any:
        tensors = {node: value for node, value in self.env.items() if isinstance(value, Tensor)}
        versions = {node: value._version for node, value in tensors.items()}  # shared by all views of a tensor
        try:
            result = super().run_node(n)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UnsupportedOperator(f"layer {node_name(n)!r}: it cannot be computed: {reason}") from error
        first = n not in self.seen
        seen = self.seen.setdefault(n, Seen())
        seen.overwritten = [node for node, version in versions.items() if tensors[node]._version != version]
        seen.constant = n.op != "placeholder" and all(self.seen[i].constant for i in n.all_input_nodes)
        if isinstance(result, Tensor):
            if result.numel() and not bool(torch.isfinite(result).all()):
                raise ValueError(f"layer {node_name(n)!r}: it gives a value that is not a finite number")
            seen.shape = tuple(result.shape)
            if result.numel():
                seen.low, seen.high = min(seen.low, float(result.min())), max(seen.high, float(result.max()))
            if first and not seen.constant:
                seen.values = result.clone()
        if not isinstance(result, Tensor) or seen.constant:
            seen.value = result
        return result


def observe(module: fx.GraphModule, images: np.ndarray, normalisation: Normalisation) -> dict[fx.Node, Seen]:
    """Run calibration images uint8 (N, C, H, W) through the float network; note shapes, ranges and first values."""
    if len(placeholders := [n for n in module.graph.nodes if n.op == "placeholder"]) != 1:
        raise UnsupportedOperator(f"the network must have one input, it has {len(placeholders)}")
    watcher = _Watcher(module)
    for start in range(0, len(images), step := _at_a_time(images)):
        watcher.run(normalisation.apply(torch.tensor(images[start : start + step], dtype=torch.float32)))
    return watcher.seen


def _at_a_time(images: np.ndarray) -> int:
    return max(1, _CALIBRATION_BYTES // (4 * 16 * int(np.prod(images.shape[1:]))))


@dataclass
class Eager:
    """What the network itself gave on the first images.

    modules : outputs of every call of a module, by its name. changed : parameters and buffers it wrote into.
    """

    modules: dict[str, list[Tensor]]
    output: Tensor
    changed: list[str]


def run_eager(model: nn.Module, module: fx.GraphModule, images: np.ndarray, normalisation: Normalisation) -> Eager:
    """Run a copy of the network, with all hooks, on the first images; `module` is its graph.

    ValueError if it fails or gives anything but a tensor.
    """
    network = copied(model)
    made: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Any:
        def hook(m: nn.Module, given: Any, result: Any) -> None:
            if isinstance(result, Tensor):  # what gives more is refused by its operator
                made.setdefault(name, []).append(result.clone())

        return hook

    for name in {str(n.target) for n in module.graph.nodes if n.op == "call_module"}:
        network.get_submodule(name).register_forward_hook(keep(name))
    before = {name: value.clone() for name, value in user.numbers(network).items()}
    pixels = torch.tensor(images[: _at_a_time(images)], dtype=torch.float32)
    output = user.call(network, normalisation.apply(pixels))
    after = user.numbers(network)
    changed = [n for n in before if not torch.allclose(before[n], after[n], rtol=0, atol=0, equal_nan=True)]
    return Eager(made, output, changed)


def compare_with_eager(eager: Eager, module: fx.GraphModule, seen: dict[fx.Node, Seen]) -> None:
    """UnsupportedOperator names the first module whose graph gives something else than the network itself."""
    if eager.changed:
        raise UnsupportedOperator(f"the network changes its {eager.changed[0]!r} while it runs; that is not supported")
    for node in module.graph.nodes:
        if node.op == "call_module" and seen[node].values is not None:
            calls = eager.modules.get(str(node.target), [])
            differs(node_name(node), calls.pop(0) if calls else None, seen[node].values)
        if node.op == "output":
            differs("output", eager.output, seen[node.args[0]].values)


def differs(name: str, wanted: Tensor | None, got: Tensor | None, slack: float = 0.0, why: str = "") -> None:
    """UnsupportedOperator naming a layer whose captured values differ from those of the network.

    slack : difference that is allowed beside `TOLERANCE` of the values' range. why : ends the sentence.
    """
    if wanted is None or got is None or wanted.numel() != got.numel():
        raise UnsupportedOperator(f"layer {name!r}: the captured network does not compute what the network does{why}")
    wanted, got = wanted.flatten(), got.flatten()
    span = max(0.0, float(wanted.max())) - min(0.0, float(wanted.min()))
    difference = float((wanted - got).abs().max())
    if not difference <= TOLERANCE * span + slack + 1e-9:
        raise UnsupportedOperator(
            f"layer {name!r}: the captured network differs from the network itself by {difference:.3g}, values"
            f" span {span:.3g}{why}"
        )


class _Beside(fx.Interpreter):
    """Computes every node from what onnxruntime gave for the file's values before it, and compares."""

    def __init__(self, module: fx.GraphModule, given: dict[str, Tensor]) -> None:
        super().__init__(module)
        self.extra_traceback, self.given = False, given  # errors are one sentence

    def run_node(self, n: fx.Node) -> Any:
        result, wanted = super().run_node(n), self.given.get(onnx_file.value_of(n))
        if wanted is None:
            return result
        called = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        # Ties, and sums that are nearly ties, may be rounded the other way.
        step = called.step if isinstance(called, QuantActivation | RangeActivation) else 0.0
        differs(node_name(n), wanted, result, slack=step, why=f" (onnxruntime, {n.meta['operator']})")
        return wanted


def compare_with_file(model: nn.Module, images: np.ndarray, normalisation: Normalisation) -> None:
    """UnsupportedOperator names the first layer that gives something else than onnxruntime gives for the ONNX file.

    Every layer is given what onnxruntime gave before it, on the first images. Nothing for a network of no file.
    """
    if onnx_file.content(model) is None:
        return
    pixels = normalisation.apply(torch.tensor(images[:_BESIDE], dtype=torch.float32))
    network = trace(model)
    _Beside(network, onnx_file.node_values(model, pixels)).run(pixels)


def as_map(values: Tensor) -> Tensor:
    """Values of a node as a map (B, C, H, W): tokens (B, T, C) are pixels (B, C, T, 1)."""
    return values.transpose(1, 2)[..., None] if values.ndim == 3 else values


def node_name(node: fx.Node) -> str:
    """Name of a layer for people: the module's path, or the enclosing module's path and the operator."""
    if node.op in ("call_module", "get_attr"):
        return str(node.target)
    if layer := program_file.name_of(node):
        return layer
    stack = node.meta.get("nn_module_stack") or {}
    owner = list(stack.values())[-1][0] if stack else ""
    return f"{owner}.{node.name}" if owner else node.name
