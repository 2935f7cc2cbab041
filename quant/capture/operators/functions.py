"""Functions of one number, and arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from quant.capture.op import Function, Op, Ref, after
from quant.capture.operators.base import Translation
from quant.capture.trace import node_name


def _same(x: Tensor) -> Tensor:
    return x


class Functions(Translation):
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
            "a number per channel makes no function of one number; one for all channels is supported",
        )
        return self._add("function", x, function=lambda v: called(v.clone(), *arguments, **options).detach())

    def prelu(self, x: Ref, weight: Any) -> Ref:
        """A slope per channel is two layers of one pixel: x and -x times the slope, clamped at 0, and their sum."""
        self._are_constant(weight)
        slope = weight.detach().double().flatten()
        if bool((slope == slope[0]).all()):
            return self._add("function", x, function=lambda v: F.prelu(v, slope[:1].to(v.dtype)))
        self._require(isinstance(x, Ref) and x.rank != 3, "of tokens (B, T, C) it needs one slope for all")
        seen, before = self.seen[self.node], self.ops[x.op]
        one = torch.eye(len(slope), dtype=torch.float64)[:, :, None, None]
        turned = slope.sign()[:, None, None, None] * one
        scale = torch.cat([torch.ones_like(slope), slope.abs()])
        integers = torch.cat([one, -one])
        name = self._unused(f"{node_name(self.node)}.sides")
        self.ops[name] = Op(
            name, "matrix", [x.op], (len(scale), *before.shape[1:]), 0.0, max(-seen.low, seen.high), relu=True,
            weight=integers * scale[:, None, None, None], bias=torch.zeros_like(scale), integers=integers, scale=scale,
        )  # fmt: skip
        joined, zeros = torch.cat([one, -turned], 1), torch.zeros_like(slope)
        return self._add(
            "matrix", Ref(name, x.rank), weight=joined, bias=zeros, integers=joined, scale=torch.ones_like(slope)
        )

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

    # ---- arithmetic -------------------------------------------------------------------------------
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
