"""What a captured network is made of: `Op`, an operator with its numbers, and `Ref`, the tensor that one gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from golden_model.graph.numbers import Window
from quant.capture.trace import as_map
from quant.networks.tokens import SelfAttention

Shape = tuple[int, int, int]
#: Of any tensor, value by value.
Function = Callable[[Tensor], Tensor]

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
