"""Operators of PyTorch as `Op`s: what each one means, and what is refused by name."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from golden_model.graph.numbers import Window
from quant.capture.errors import UnsupportedOperator
from quant.capture.trace import Seen, as_map, node_name
from quant.networks.layers import QuantActivation, QuantMatrix, RangeActivation
from quant.networks.refused import because
from quant.networks.tokens import SelfAttention

Shape = tuple[int, int, int]
#: Of any tensor, value by value.
Function = Callable[[Tensor], Tensor]

SUPPORTED = (
    "Conv2d, Linear, BatchNorm, ReLU, ReLU6, Hardswish, SiLU, GELU, LeakyReLU, Sigmoid, Tanh and other functions of one"
    " number, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, addition, cat, flatten,"
    " view, reshape, mean over height and width, split, chunk and shuffles of channels, Dropout, Identity"
)
#: Kinds whose output holds values of their input (and zeros), so that scale and sign pass through.
TRANSPARENT = ("max", "border", "reshape")
#: Kinds that are work of the host (golden_model/graph/host.py).
HOST = ("layer_norm", "attention", "add_constant")


@dataclass(eq=False)
class Op:
    """One operator of the float network.

    kind : image, matrix, norm, relu, function, max, mean, cat, add, border or reshape, or one of `HOST`.
    inputs : names of ops; the second input of a matrix is a residual.
    shape : (C, H, W) of the output; low, high : its real range.
    relu : clamped after it, at floor, 0 of a ReLU, and at cap (ReLU6), None for none.
    function : of every value, after that and before any pooling; None for none. code : real range of what goes into it.
    integers, scale : a trained integer weight, shaped as `weight`, and its real step per output (N,), negative where
    a batch norm turns the sign; None and empty for a weight that is still to be quantised.
    bits : of a trained activation, whose range is exactly floor..cap, or of a function's, low..high; None otherwise.
    ones : most ones of one of its integers (golden_model/few_ones.py), 0 for any.
    border_value : (C,) what a trained layer takes for a border, None for zeros.
    weight, bias : of a layer norm (C,), its gain and bias; of an added constant, bias (C, H, W).
    eps : of a layer norm. heads : of attention.
    picked : (N,) of a layer that only passes on channels of its input: which.
    value_of : the torch.fx node that gives the same values; None where there is none.
    """

    name: str
    kind: str
    inputs: list[str]
    shape: Shape
    low: float
    high: float
    relu: bool = False
    floor: float = 0.0
    cap: float | None = None
    function: Function | None = None
    code: tuple[float, float] = (0.0, 0.0)
    weight: Tensor = field(default_factory=lambda: torch.zeros(0))  # (N, C / groups, kh, kw)
    bias: Tensor = field(default_factory=lambda: torch.zeros(0))
    linear: bool = False
    stride: int = 1
    pad: int = 0
    groups: int = 1
    pool: int = 1
    window: Window | None = None
    border: tuple[int, int, int, int] = (0, 0, 0, 0)
    steps: tuple[int, int] = (1, 1)
    channels: tuple[int, int] = (0, 0)
    integers: Tensor | None = None
    scale: Tensor = field(default_factory=lambda: torch.zeros(0))
    bits: int | None = None
    ones: int = 0
    border_value: Tensor | None = None
    picked: Tensor | None = None
    heads: int = 0
    eps: float = 0.0
    value_of: fx.Node | None = None

    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        """What the op gives in floating point, (B, C, H, W); a trained activation is clamped and not rounded."""
        x = inputs[0]
        if self.kind == "matrix":
            weight, bias = self.weight.float(), self.bias.float()
            if self.border_value is not None:
                bias = bias + weight.sum((2, 3)) @ self.border_value
                x = x - self.border_value.reshape(1, -1, 1, 1)
            if self.linear:
                x = F.linear(x.flatten(1), weight.flatten(1), bias)[:, :, None, None]
            else:
                x = F.conv2d(x, weight, bias, self.stride, self.pad, groups=self.groups)
            x = sum(inputs[1:], x)
        elif self.kind == "add":
            x = sum(inputs[1:], x)
        elif self.kind == "cat":
            x = torch.cat(list(inputs), 1)
        elif self.kind == "layer_norm":
            x = F.layer_norm(x.movedim(1, 3), self.weight.shape, self.weight.float(), self.bias.float(), self.eps)
            x = x.movedim(3, 1)
        elif self.kind == "attention":
            x = as_map(SelfAttention(self.heads)(x[..., 0].transpose(1, 2)))
        elif self.kind == "add_constant":
            x = x + self.bias.float()
        elif self.kind == "border":
            above, below, left, right = self.border
            x = F.pad(x[:, :, :: self.steps[0], :: self.steps[1]], (left, right, above, below, *self.channels))
        elif self.window is not None:
            w = self.window
            pooled = F.max_pool2d if self.kind == "max" else F.avg_pool2d
            x = pooled(x, w.kernel, w.stride, w.pad, ceil_mode=w.ceil_mode)
        x = x.clamp(self.floor, self.cap) if self.relu else x
        x = x if self.function is None else self.function(x)
        return (F.max_pool2d(x, self.pool) if self.pool > 1 else x).reshape(len(x), *self.shape)

    @property
    def elementwise(self) -> Function | None:
        """What the op does to every value of its only input, whichever channel it is of; None if that is not so."""
        if self.bits is not None:  # rounded, to integers of its own
            return None
        if self.kind == "function":
            return self.function
        if self.kind == "relu":
            return partial(torch.clamp, min=self.floor, max=self.cap)
        if self.kind == "norm" and all(bool((x == x[0]).all()) for x in (self.weight, self.bias)):
            scale, shift = float(self.weight[0]), float(self.bias[0])
            return lambda x: x * scale + shift
        return None

    def clamp(self, relu: Op) -> None:
        """Take over what a ReLU, or another clamp, does."""
        self.relu, self.floor, self.cap, self.bits, self.ones = True, relu.floor, relu.cap, relu.bits, relu.ones
        if relu.bits is not None:
            self.low, self.high = relu.low, relu.high
            return
        self.low, self.high = max(relu.floor, min(0.0, self.low)), max(0.0, self.high)
        if relu.cap is not None:
            self.high = min(self.high, relu.cap)


def _same(x: Tensor) -> Tensor:
    return x


def after(second: Function, first: Function) -> Function:
    """One function after the other."""
    return lambda x: second(first(x))


def from_image(ops: dict[str, Op], name: str) -> bool:
    """Whether a tensor holds pixels, passed on by pooling or a border."""
    op = ops[name]
    return op.kind == "image" or (op.kind in TRANSPARENT and from_image(ops, op.inputs[0]))


@dataclass(frozen=True)
class Ref:
    """The tensor that an operator gives.

    rank : 4 of a map (B, C, H, W), 2 of a vector (B, C), 3 of tokens (B, T, C), which are a map (B, C, T, 1).
    flat : it is (B, C, H * W), a map on its way to tokens or back.
    softmax : name of a softmax before it, which may only end the network. grouped : channels of `op` in rows and
    columns, where the tensor (B, rows, columns, H, W) is on its way through a shuffle of channels.
    """

    op: str
    rank: int
    softmax: str = ""
    flat: bool = False
    grouped: Tensor | None = field(default=None, compare=False)


def _pair(value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    return (pair[0], pair[0]) if len(pair) == 1 else cast(tuple[int, int], pair)


class Translator:
    """Turns torch.fx nodes into `Op`s, one operator after the other.

    Methods named after an operator take its tensors as `Ref` and its other arguments as torch does.
    """

    def __init__(self, module: fx.GraphModule, seen: dict[fx.Node, Seen]) -> None:
        self.module, self.seen = module, seen
        self.ops: dict[str, Op] = {}
        self.refs: dict[fx.Node, Ref] = {}
        self.parts: dict[fx.Node, Ref] = {}  # of split and chunk, whose parts are taken by getitem
        self.node: fx.Node = next(iter(module.graph.nodes))
        self.label = ""

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
            elif node.target in _PARTS and isinstance(node.args[0], fx.Node) and node.args[0] in self.refs:
                self.parts[node] = self.refs[node.args[0]]
            elif not _is_plain(seen.value):
                raise self._refused(node_label(node, self.module))
        assert output is not None
        return self.ops, output

    # ---- plumbing ---------------------------------------------------------------------------------
    def _operator(self, node: fx.Node) -> Ref:
        self.label = node_label(node, self.module)
        if node.target is operator.getitem and node.args[0] in self.parts:
            return self._part(cast(fx.Node, node.args[0]), cast(int, node.args[1]))
        arguments = [self._argument(a) for a in node.args]
        options = {key: self._argument(a) for key, a in node.kwargs.items()}
        if "input" in options:  # torch's name of the first argument
            arguments.insert(0, options.pop("input"))
        try:
            method, of_module = _method(node, self.module)
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
        name, count = node_name(self.node), 1
        while name in self.ops:  # a module that is called again
            count += 1
            name = f"{node_name(self.node)}#{count}"
        attributes["value_of"] = self.node
        self.ops[name] = Op(name, kind, [r.op for r in inputs], (c, h, w), seen.low, seen.high, **attributes)
        return Ref(name, len(shape))

    def _shape(self, x: Ref) -> Shape:
        return self.ops[x.op].shape

    def _is_map(self, x: Ref) -> None:
        self._require(isinstance(x, Ref) and x.rank == 4, "it needs a map (B, C, H, W)")

    def _are_constant(self, *values: Any) -> None:
        self._require(
            not any(isinstance(v, Ref) for v in values), "its weights must be parameters, not made from the image"
        )

    # ---- layers -----------------------------------------------------------------------------------
    def conv2d(
        self, x: Ref, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1, padding_mode: str = "zeros",
    ) -> Ref:  # fmt: skip
        self._is_map(x)
        self._are_constant(weight, bias)
        self._require(padding_mode == "zeros", f"padding mode must be 'zeros', got {padding_mode!r}")
        self._require(_pair(dilation) == (1, 1), f"dilation is not supported, got {dilation}")
        step = _pair(stride)
        self._require(step[0] == step[1], f"stride must be equal in both directions, got {step}")
        kernel = tuple(weight.shape[2:])
        if isinstance(padding, str):
            total = [0, 0] if padding == "valid" else [k - 1 for k in kernel]
            border = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
        else:
            vertical, horizontal = _pair(padding)
            border = (vertical, vertical, horizontal, horizontal)
        pad = border[0]
        if len(set(border)) > 1:
            _, height, width = self._shape(x)
            before = self.ops[x.op]
            shape = (before.shape[0], height + border[0] + border[1], width + border[2] + border[3])
            name = f"{node_name(self.node)}.border"
            self.ops[name] = Op(name, "border", [x.op], shape, before.low, before.high, border=border)
            x, pad = Ref(name, 4), 0
        weight = weight.detach().double()
        bias = torch.zeros(len(weight)) if bias is None else bias.detach()
        return self._add("matrix", x, weight=weight, bias=bias.double(), stride=step[0], pad=pad, groups=int(groups))

    def linear(self, x: Ref, weight: Tensor, bias: Any = None) -> Ref:
        self._require(isinstance(x, Ref) and x.rank in (2, 3), "it needs a vector (B, F); flatten the map before it")
        self._are_constant(weight, bias)
        bias = torch.zeros(len(weight)) if bias is None else bias.detach()
        weight = weight.detach().double()[:, :, None, None]
        return self._add("matrix", x, weight=weight, bias=bias.double(), linear=x.rank == 2)

    # ---- work of the host -------------------------------------------------------------------------
    def layer_norm(
        self, x: Ref, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Ref:
        self._are_constant(weight, bias)
        channels, shape = self._shape(x)[0], tuple(normalized_shape)
        self._require(
            x.rank in (2, 3) and shape == (channels,),
            f"only over the channels of tokens (B, T, C) or of a vector, got normalized_shape {shape}",
        )
        gain = torch.ones(channels) if weight is None else weight.detach()
        shift = torch.zeros(channels) if bias is None else bias.detach()
        return self._add("layer_norm", x, weight=gain.double(), bias=shift.double(), eps=eps)

    def attention(self, x: Ref, heads: int) -> Ref:
        return self._add("attention", x, heads=heads)

    def batch_norm(
        self, x: Ref, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
        training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
    ) -> Ref:  # fmt: skip
        self._require(not training, "training=True normalises with the statistics of the batch; use running ones")
        self._require(running_mean is not None and running_var is not None, "it needs running statistics")
        self._are_constant(running_mean, running_var, weight, bias)
        assert running_mean is not None
        assert running_var is not None
        scale = 1 / torch.sqrt(running_var.double() + eps)
        scale = scale if weight is None else scale * weight.detach().double()
        shift = -running_mean.double() * scale
        shift = shift if bias is None else shift + bias.detach().double()
        return self._add("norm", x, weight=scale, bias=shift)

    def relu(self, x: Ref, inplace: bool = False) -> Ref:
        return self._add("relu", x)

    def quantised_matrix(self, x: Ref) -> Ref:
        m = cast(QuantMatrix, self.module.get_submodule(str(self.node.target)))
        weight = m.weight().detach()
        if m.geometry.kind == "linear":
            ref = self.linear(x, weight, m.bias)
        else:
            ref = self.conv2d(x, weight, m.bias, m.geometry.stride, m.geometry.pad)
        op = self.ops[ref.op]
        op.border_value = None if m.offset is None else m.offset.detach()
        op.integers = m.source.integers().detach().double().reshape(op.weight.shape)
        op.scale = m.source.step().detach().double().repeat(len(op.weight))
        return ref

    def quantised_activation(self, x: Ref, clip: Tensor, bits: int, ones: int) -> Ref:
        return self._clamp_to_range(x, 0.0, float(clip), bits, ones)

    def range_activation(self, x: Ref, steps: int, low: float, high: float) -> Ref:
        """A narrow one is a table, because the clamp of the post-processing ends at the largest integer."""
        bits = steps.bit_length()
        unused = (1 << bits) - 1 - steps
        if not unused:
            return self._clamp_to_range(x, low, high, bits)
        ref = self._add("function", x, function=partial(torch.clamp, min=low, max=high), bits=bits)
        op = self.ops[ref.op]
        op.low, op.high = low, high + unused * (high - low) / steps
        return ref

    def _clamp_to_range(self, x: Ref, low: float, high: float, bits: int, ones: int = 0) -> Ref:
        """Its range is given, whatever was seen."""
        ref = self._add("relu", x, floor=low, cap=high, bits=bits, ones=ones)
        op = self.ops[ref.op]
        op.low, op.high = low, high
        return ref

    def relu6(self, x: Ref, inplace: bool = False) -> Ref:
        return self._add("relu", x, cap=6.0)

    def clamp(self, x: Ref, min: Any = None, max: Any = None) -> Ref:
        low, high = -math.inf if min is None else min, math.inf if max is None else max
        numbers = isinstance(low, int | float) and isinstance(high, int | float)
        self._require(numbers and low <= 0 < high, f"only a clamp to a range of numbers that holds 0, got {min}..{max}")
        return self._add("relu", x, floor=float(low), cap=None if high == math.inf else float(high))

    def hardtanh(self, x: Ref, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Ref:
        return self.clamp(x, min_val, max_val)

    # ---- activation functions ---------------------------------------------------------------------
    def function(self, x: Ref, *arguments: Any, **options: Any) -> Ref:
        """Any function of one number."""
        node = self.node
        self._require(isinstance(x, Ref), "its first operand must be made from the network's input")
        others = (*arguments, *options.values())
        self._require(not any(isinstance(value, Ref) for value in others), "only of one tensor of the network")
        if node.op == "call_module":
            called: Any = self.module.get_submodule(str(node.target))
        else:
            called = getattr(Tensor, node.target) if isinstance(node.target, str) else node.target
        slopes = (*others, getattr(called, "weight", None))
        self._require(
            all(not isinstance(value, Tensor) or value.numel() == 1 for value in slopes),
            "a slope per channel is no function of one number; one slope for all channels is supported",
        )
        return self._add("function", x, function=lambda v: called(v.clone(), *arguments, **options).detach())

    def _common(self, a: Any, b: Any) -> tuple[Ref, Function, Function, bool] | None:
        """(x, f, g, whether one is more than a clamp or a constant) where a = f(x) and b = g(x), of the nearest x."""
        if not (isinstance(a, Ref) and isinstance(b, Ref)) or a.rank != b.rank:
            return None
        ways = self._ways(a.op)
        for name, (g, more) in self._ways(b.op).items():
            if name in ways:
                f, also = ways[name]
                return Ref(name, a.rank), f, g, more or also
        return None

    def _ways(self, name: str) -> dict[str, tuple[Function, bool]]:
        """Ops whose values make those of an op, one by one, itself first: by name how, and whether that is more than
        clamps and constants."""
        whole: Function = _same
        found: dict[str, tuple[Function, bool]] = {name: (whole, False)}
        more = False
        while (one := self.ops[name].elementwise) is not None:
            more |= self.ops[name].kind == "function"
            whole, name = after(whole, one), self.ops[name].inputs[0]
            found[name] = whole, more
        return found

    # ---- pooling ----------------------------------------------------------------------------------
    def max_pool2d(
        self, x: Ref, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> Ref:  # fmt: skip
        self._is_map(x)
        self._require(_pair(dilation) == (1, 1), f"dilation is not supported, got {dilation}")
        self._require(not return_indices, "return_indices is not supported")
        kernel = _pair(kernel_size)
        step = kernel if stride is None or stride == [] else _pair(stride)
        return self._add("max", x, window=Window(kernel=kernel, stride=step, pad=_pair(padding), ceil_mode=ceil_mode))

    def avg_pool2d(
        self, x: Ref, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: Any = None,
    ) -> Ref:  # fmt: skip
        self._is_map(x)
        self._require(divisor_override is None, "divisor_override is not supported")
        kernel, pad = _pair(kernel_size), _pair(padding)
        self._require(count_include_pad or pad == (0, 0), "count_include_pad=False with padding is not supported")
        step = kernel if stride is None or stride == [] else _pair(stride)
        window = Window(kernel=kernel, stride=step, pad=pad)
        made = tuple(self.seen[self.node].shape or ())[2:]
        floor = tuple(window.out(size, axis) for axis, size in enumerate(self._shape(x)[1:]))
        self._require(not ceil_mode or made == floor, "ceil_mode is not supported where windows reach over the edge")
        return x if kernel == step == (1, 1) and pad == (0, 0) else self._add("mean", x, window=window)

    def _adaptive(self, x: Ref, output_size: Any) -> Window:
        self._is_map(x)
        size = self._shape(x)[1:]
        wanted = [s if o is None else int(o) for o, s in zip(_pair(output_size), size, strict=True)]
        self._require(
            all(s % o == 0 for s, o in zip(size, wanted, strict=True)),
            f"its output size {tuple(wanted)} must divide its input's {size}",
        )
        kernel = (size[0] // wanted[0], size[1] // wanted[1])
        return Window(kernel=kernel, stride=kernel)

    def adaptive_avg_pool2d(self, x: Ref, output_size: Any) -> Ref:
        window = self._adaptive(x, output_size)
        return x if window.kernel == (1, 1) else self._add("mean", x, window=window)

    def adaptive_max_pool2d(self, x: Ref, output_size: Any, return_indices: bool = False) -> Ref:
        self._require(not return_indices, "return_indices is not supported")
        window = self._adaptive(x, output_size)
        return x if window.kernel == (1, 1) else self._add("max", x, window=window)

    def mean(self, x: Ref, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Ref:
        if x.rank == 3:
            mean = dim in (1, -2, (1,), [1]) and not keepdim
            self._require(mean, f"of tokens only the mean over all of them, dim=1, is supported, got dim={dim}")
            tokens = (self._shape(x)[1], 1)
            return self._add("mean", x, window=Window(kernel=tokens, stride=tokens))
        self._is_map(x)
        dims = sorted(d % 4 for d in ((dim,) if isinstance(dim, int) else tuple(dim or ())))
        self._require(dims == [2, 3], f"only the mean over height and width is supported, got dim={dim}")
        kernel = self._shape(x)[1:]
        return self._add("mean", x, window=Window(kernel=kernel, stride=kernel))

    # ---- joins and shapes -------------------------------------------------------------------------
    def add(self, a: Any, other: Any, alpha: Any = 1) -> Ref:
        self._require(alpha == 1, f"alpha must be 1, got {alpha}")
        if not (isinstance(a, Ref) and isinstance(other, Ref)):
            return self._channelwise(a, other, lambda x, c: (x, c))
        if (common := self._common(a, other)) is not None and common[3]:
            x, f, g, _ = common
            return self._add("function", x, function=lambda v: f(v) + g(v))
        shapes = self._shape(a), self._shape(other)
        self._require(shapes[0] == shapes[1], f"shapes differ: {shapes[0]} and {shapes[1]}")
        self._require(a.rank == other.rank, "a map (B, C, 1, 1) and a vector (B, C) do not add up one by one; flatten")
        return self._add("add", a, other)

    def sub(self, a: Any, other: Any, alpha: Any = 1) -> Ref:
        self._require(alpha == 1, f"alpha must be 1, got {alpha}")
        if isinstance(a, Ref):
            return self._channelwise(a, other, lambda one, c: (one, -c))
        return self._channelwise(a, other, lambda one, c: (-one, c))

    def mul(self, a: Any, other: Any) -> Ref:
        if (common := self._common(a, other)) is not None:
            x, f, g, _ = common
            return self._add("function", x, function=lambda v: f(v) * g(v))
        return self._channelwise(a, other, lambda one, c: (one * c, 0 * c))

    def div(self, a: Ref, other: Any, rounding_mode: Any = None) -> Ref:
        self._require(isinstance(a, Ref) and rounding_mode is None, "only a division by a constant is supported")
        return self._channelwise(a, other, lambda one, c: (one / c, 0 * c))

    def _channelwise(self, a: Any, b: Any, line: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Ref:
        """x * scale + shift, (scale, shift) = line(1, c), of a tensor x of the network and a constant c per channel."""
        x, constant = (a, b) if isinstance(a, Ref) else (b, a)
        self._require(
            isinstance(x, Ref) and not isinstance(constant, Ref),
            "only a constant, not a second tensor of the network that is no function of the first",
        )
        if x.rank == 3:
            return self._tokenwise(x, constant, line)
        shape = (1, *self._shape(x)) if x.rank == 4 else (1, int(np.prod(self._shape(x))))
        constant = torch.as_tensor(constant).detach().double()
        per_channel = constant.ndim <= len(shape) and all(
            size in (1, shape[axis]) and (axis == 1 or size == 1)
            for axis, size in zip(range(-constant.ndim, 0), constant.shape, strict=True)
            for axis in (axis % len(shape),)
        )
        self._require(per_channel, f"a constant must hold one value per channel, got shape {tuple(constant.shape)}")
        one = torch.ones(shape[1], dtype=torch.float64)
        scale, shift = line(one, constant.flatten().expand(shape[1]) if constant.numel() == 1 else constant.flatten())
        return self._add("norm", x, weight=scale, bias=shift)

    def _tokenwise(self, x: Ref, constant: Any, line: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Ref:
        """What `_channelwise` does to tokens (B, T, C); a constant that differs from token to token can be added."""
        channels, tokens, _ = self._shape(x)
        constant = torch.as_tensor(constant).detach().double()
        self._require(
            constant.numel() == 1 or tuple(constant.shape) in ((channels,), (tokens, channels), (1, tokens, channels)),
            f"a constant must hold one value per channel, or per token and channel, got shape {tuple(constant.shape)}",
        )
        constant = constant.reshape(-1, constant.shape[-1] if constant.ndim else 1).expand(tokens, channels)
        scale, shift = line(torch.ones(tokens, channels, dtype=torch.float64), constant)
        if bool((constant == constant[0]).all()):
            return self._add("norm", x, weight=scale[0].clone(), bias=shift[0].clone())
        self._require(bool((scale == 1).all()), "a constant that differs from token to token can only be added")
        return self._add("add_constant", x, bias=shift.t()[..., None].contiguous())

    def cat(self, tensors: Sequence[Ref], dim: int = 0) -> Ref:
        rank = tensors[0].rank
        self._require(rank != 3, "tokens cannot be concatenated")
        self._require(dim % rank == 1, f"only channels (dim=1) can be concatenated, got dim={dim}")
        return self._add("cat", *tensors)

    def reshape(self, x: Ref, *arguments: Any, **options: Any) -> Ref:
        """flatten, view, reshape, squeeze: the same numbers in the same order."""
        before, after = self._shape(x), self.seen[self.node].shape or ()
        if x.rank == 4 and len(after) == 3 and after[1] == before[0]:
            return Ref(x.op, 3, flat=True)
        self._require(x.rank != 3 or x.flat, "tokens stay (B, T, C); transpose(1, 2) makes a map of them")
        if x.grouped is not None:
            self._require(after[1:] == before, "only a shuffle of channels may go through 5 dimensions")
            return self._pick(x, x.grouped.flatten())
        if len(after) == 5 and after[3:] == before[1:]:
            return Ref(x.op, 5, grouped=torch.arange(before[0]).reshape(after[1:3]))
        self._require(len(after) in (2, 4), f"its output has {len(after)} dimensions; 2 or 4 are supported")
        self._require(int(np.prod(after[1:])) == int(np.prod(before)), "it must keep every image's values together")
        ref = self._add("reshape", x)
        if self.ops[ref.op].shape == before:  # only the rank changes
            del self.ops[ref.op]
            return Ref(x.op, ref.rank)
        return ref

    def same(self, x: Ref, *arguments: Any, **options: Any) -> Ref:
        return x

    def dropout(self, x: Ref, p: float = 0.5, training: bool = True, inplace: bool = False) -> Ref:
        self._require(
            not training or p == 0, "it drops values in evaluation too; write F.dropout(x, training=self.training)"
        )
        return x

    def softmax(self, x: Ref, *arguments: Any, **options: Any) -> Ref:
        """A softmax over the classes, at the end, does not change predictions; it is left out."""
        before, made = self.ops[x.op].value_of, self.seen[self.node].values
        given = None if before is None else self.seen[before].values
        assert given is not None
        assert made is not None
        over_classes = [f(given.reshape(made.shape).float(), 1) for f in (torch.softmax, torch.log_softmax)]
        self._require(
            any(torch.allclose(made.float(), one, rtol=1e-3, atol=1e-4) for one in over_classes),
            "it must be over the classes, dim=1",
        )
        return Ref(x.op, x.rank, softmax=node_name(self.node))

    def getitem(self, x: Ref, index: Any) -> Ref:
        """x[:, :, ::s, ::s]"""
        everything = slice(None)
        whole = isinstance(index, tuple) and len(index) == 4 and index[:2] == (everything, everything)
        axes: list[Any] = list(index) if x.rank == 4 and isinstance(index, tuple) else []
        if len(axes) > 1 and isinstance(channels := axes[1], slice) and channels != everything:
            others = axes[:1] + axes[2:]
            self._require(all(i == everything for i in others), "channels are picked alone, x[:, a:b]")
            return self._pick(x, torch.arange(self._shape(x)[0])[channels])
        self._require(
            x.rank == 4
            and whole
            and all(isinstance(i, slice) and i.start in (None, 0) and i.stop is None for i in index[2:]),
            "only x[:, :, ::s, ::s] and channels x[:, a:b] are supported",
        )
        return self._add("border", x, steps=tuple(int(i.step or 1) for i in index[2:]))

    def _part(self, node: fx.Node, number: int) -> Ref:
        """A part of split or chunk."""
        x, parts = self.parts[node], cast(tuple[Tensor, ...], self.seen[node].value)
        others = {tuple(part.shape[2:]) for part in parts}
        self._require(others == {self._shape(x)[1:]} and x.rank == 4, "only channels (dim=1) can be split")
        ends = np.cumsum([part.shape[1] for part in parts]).tolist()
        self._require(ends[-1] == self._shape(x)[0], "only channels (dim=1) can be split")
        return self._pick(x, torch.arange(ends[-1]).split([part.shape[1] for part in parts])[number])

    def _pick(self, x: Ref, picked: Tensor) -> Ref:
        """Channels of x, in any order: a layer of one pixel whose weights are 0 or 1. Picks of picks are one."""
        source = self.ops[x.op]
        if source.picked is not None:
            picked, x = source.picked[picked], Ref(source.inputs[0], 4)
        channels = self._shape(x)[0]
        if torch.equal(picked, torch.arange(channels)):
            return Ref(x.op, 4)
        weight = F.one_hot(picked, channels).double()[:, :, None, None]
        scale = torch.ones(len(picked), dtype=torch.float64)
        zeros = torch.zeros(len(picked), dtype=torch.float64)
        return self._add("matrix", x, weight=weight, bias=zeros, integers=weight, scale=scale, picked=picked)

    def transpose(self, x: Ref, dim0: int, dim1: int) -> Ref:
        order = list(range(x.rank))
        order[dim0], order[dim1] = order[dim1], order[dim0]
        return self.permute(x, *order)

    def permute(self, x: Ref, *dims: Any) -> Ref:
        order = [d % x.rank for d in (dims[0] if isinstance(dims[0], tuple | list) else dims)]
        if x.rank == 3 and order == [0, 2, 1]:
            return self._add("reshape", x) if x.flat else Ref(x.op, 3, flat=True)
        self._require(
            x.grouped is not None and order == [0, 2, 1, 3, 4],
            "axes can only be exchanged to shuffle channels: (B, g, C / g, H, W) to (B, C / g, g, H, W)",
        )
        assert x.grouped is not None
        return Ref(x.op, 5, grouped=x.grouped.t())

    def channel_shuffle(self, x: Ref, groups: int) -> Ref:
        self._is_map(x)
        return self._pick(x, torch.arange(self._shape(x)[0]).reshape(groups, -1).t().flatten())

    def pad(self, x: Ref, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Ref:
        self._is_map(x)
        self._require(mode == "constant" and not value, "only a border of zeros is supported")
        left, right, above, below, before, after = (*pad, *[0] * 6)[:6]
        self._require(len(pad) <= 6 and min(pad) >= 0, f"only borders of height, width and channels, got {pad}")
        return self._add("border", x, border=(above, below, left, right), channels=(before, after))


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


#: Modules that are a function of one number.
FUNCTIONS: tuple[type[nn.Module], ...] = (
    nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid,
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink,
    nn.Threshold,
)  # fmt: skip
_NORM = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
#: Module -> method of `Translator`, and the module's attributes that it takes behind the tensor, in its order.
MODULES: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
    nn.Conv2d: ("conv2d", ("weight", "bias", "stride", "padding", "dilation", "groups", "padding_mode")),
    nn.Linear: ("linear", ("weight", "bias")),
    nn.BatchNorm2d: ("batch_norm", _NORM),
    nn.BatchNorm1d: ("batch_norm", _NORM),
    nn.ReLU: ("relu", ()),
    nn.Hardtanh: ("hardtanh", ("min_val", "max_val")),  # ReLU6 is one
    **dict.fromkeys(FUNCTIONS, ("function", ())),
    nn.MaxPool2d: ("max_pool2d", ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")),
    nn.AvgPool2d: (
        "avg_pool2d",
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    nn.AdaptiveAvgPool2d: ("adaptive_avg_pool2d", ("output_size",)),
    nn.AdaptiveMaxPool2d: ("adaptive_max_pool2d", ("output_size", "return_indices")),
    nn.LayerNorm: ("layer_norm", ("normalized_shape", "weight", "bias", "eps")),
    SelfAttention: ("attention", ("heads",)),
    nn.ZeroPad2d: ("pad", ("padding",)),
    nn.Flatten: ("reshape", ()),
    nn.ChannelShuffle: ("channel_shuffle", ("groups",)),
    nn.Dropout: ("dropout", ("p", "training")),
    nn.Dropout2d: ("dropout", ("p", "training")),
    nn.Identity: ("same", ()),
    nn.Softmax: ("softmax", ()),
    nn.LogSoftmax: ("softmax", ()),
    QuantMatrix: ("quantised_matrix", ()),  # asks the module itself
    QuantActivation: ("quantised_activation", ("clip", "bits", "ones")),
    RangeActivation: ("range_activation", ("steps", "low", "high")),
}
#: Method of `Translator` -> the functions, and the names of tensor methods, that it translates.
CALLS: dict[str, tuple[Any, ...]] = {
    "conv2d": (F.conv2d, torch.conv2d),
    "linear": (F.linear,),
    "batch_norm": (F.batch_norm,),
    "layer_norm": (F.layer_norm, torch.layer_norm),
    "relu": (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"),
    "relu6": (F.relu6,),
    "hardtanh": (F.hardtanh,),
    "clamp": (torch.clamp, "clamp", "clamp_"),
    "function": (
        F.leaky_relu,
        F.leaky_relu_,
        F.prelu,
        torch.prelu,
        F.rrelu,
        F.elu,
        F.elu_,
        F.selu,
        torch.selu,
        F.celu,
        F.gelu,
        F.silu,
        F.mish,
        F.hardswish,
        F.hardsigmoid,
        F.sigmoid,
        torch.sigmoid,
        torch.sigmoid_,
        F.tanh,
        torch.tanh,
        torch.tanh_,
        F.softplus,
        F.softsign,
        F.logsigmoid,
        F.hardshrink,
        F.softshrink,
        F.tanhshrink,
        F.threshold,
        torch.erf,
        torch.exp,
        torch.abs,
        torch.square,
        torch.sign,
        torch.pow,
        operator.pow,
        "sigmoid",
        "sigmoid_",
        "tanh",
        "tanh_",
        "erf",
        "exp",
        "abs",
        "square",
        "sign",
        "pow",
    ),
    "max_pool2d": (F.max_pool2d, torch.max_pool2d),
    "avg_pool2d": (F.avg_pool2d,),
    "adaptive_avg_pool2d": (F.adaptive_avg_pool2d,),
    "adaptive_max_pool2d": (F.adaptive_max_pool2d,),
    "mean": (torch.mean, "mean"),
    "add": (operator.add, operator.iadd, torch.add, "add", "add_", "__add__", "__iadd__"),
    "sub": (operator.sub, operator.isub, torch.sub, "sub", "sub_"),
    "mul": (operator.mul, operator.imul, torch.mul, "mul", "mul_"),
    "div": (operator.truediv, operator.itruediv, torch.div, "div", "div_"),
    "cat": (torch.cat, torch.concat, torch.concatenate),
    "reshape": (torch.flatten, torch.reshape, torch.squeeze, "flatten", "view", "reshape", "squeeze"),
    "same": ("contiguous",),
    "transpose": (torch.transpose, "transpose"),
    "permute": (torch.permute, "permute"),
    "channel_shuffle": (F.channel_shuffle, torch.channel_shuffle),
    "dropout": (F.dropout, F.dropout2d),
    "softmax": (F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, "softmax", "log_softmax"),
    "getitem": (operator.getitem,),
    "pad": (F.pad,),
}
#: Give several tensors, which getitem takes.
_PARTS = (torch.split, torch.chunk, "split", "chunk")
#: Method of `Translator` -> what it becomes on the machine (docs/operators.md).
MACHINE: dict[str, str] = {
    "conv2d": "crossbar layers, one per group; unequal borders are a step before",
    "linear": "a crossbar layer whose kernel is the whole map, or one pixel for tokens (B, T, C)",
    "batch_norm": "folded into the layer before; elsewhere a depthwise layer of one pixel",
    "layer_norm": "work of the host, for tokens (B, T, C)",
    "attention": "work of the host; of one tensor that holds q, k and v (quant/networks/tokens.py)",
    "relu": "the clamp of the post-processing",
    "relu6": "the clamp of the post-processing, with an upper end",
    "hardtanh": "the clamp of the post-processing, to a range that holds 0",
    "clamp": "the clamp of the post-processing, to a range that holds 0",
    "function": "a table, in the post-processing of the layer or addition before, otherwise a step; functions of one"
    " tensor that are multiplied or added (x * sigmoid(x)) become one",
    "quantised_matrix": "a crossbar layer with the integers that were trained",
    "range_activation": "the clamp of the post-processing, its width and range as given; a narrow one is a table",
    "quantised_activation": "the clamp of the post-processing, its width and range as given",
    "max_pool2d": "in the layer's walk where kernel and stride are equal, otherwise a step",
    "adaptive_max_pool2d": "as maximum pooling, for sizes that divide",
    "avg_pool2d": "a step: sum, multiplication, shift",
    "adaptive_avg_pool2d": "as average pooling, for sizes that divide",
    "mean": "as average pooling, over height and width",
    "add": "a residual in the post-processing of the larger convolution; a constant goes into the layer before",
    "sub": "a constant per channel: into the layer before",
    "mul": "a constant per channel: into the layer before; functions of one tensor: a table",
    "div": "a constant per channel: into the layer before",
    "cat": "a concatenation of channels, brought to one scale",
    "getitem": "a step that picks rows and columns; channels (also of split, chunk) go into the convolution behind",
    "transpose": "a shuffle of channels between two views: into the convolution behind, or a layer of ones",
    "permute": "a shuffle of channels between two views: into the convolution behind, or a layer of ones",
    "channel_shuffle": "into the convolution behind, or a layer of ones",
    "pad": "a step that adds zeros; an equal border goes into the convolution",
    "reshape": "nothing, the same numbers in the same order",
    "same": "nothing",
    "dropout": "nothing",
    "softmax": "left out at the very end; predictions stay the same",
}
_METHOD_OF = {call: method for method, calls in CALLS.items() for call in calls}


def _method(node: fx.Node, module: fx.GraphModule) -> tuple[str | None, tuple[Any, ...]]:
    """The method of `Translator` for a node, None for none, and what it takes of a module besides the tensor."""
    if node.op != "call_module":
        return _METHOD_OF.get(node.target), ()
    called = module.get_submodule(str(node.target))
    method, names = next((entry for kind, entry in MODULES.items() if isinstance(called, kind)), (None, ()))
    return method, tuple(getattr(called, name) for name in names)
