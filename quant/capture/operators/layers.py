"""Convolutions, matrices, normalisation, clamps, what trained layers are, and work of the host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from quant.capture.op import Op, Ref
from quant.capture.operators.base import Translation, pair
from quant.capture.trace import node_name
from quant.networks.layers import QuantMatrix


class Layers(Translation):
    def conv2d(
        self, x: Ref, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1, padding_mode: str = "zeros",
    ) -> Ref:  # fmt: skip
        self._is_map(x)
        self._are_constant(weight, bias)
        self._require(padding_mode == "zeros", f"padding mode must be 'zeros', got {padding_mode!r}")
        self._require(pair(dilation) == (1, 1), f"dilation is not supported, got {dilation}")
        step = pair(stride)
        self._require(step[0] == step[1], f"stride must be equal in both directions, got {step}")
        kernel = tuple(weight.shape[2:])
        if isinstance(padding, str):
            total = [0, 0] if padding == "valid" else [k - 1 for k in kernel]
            border = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
        else:
            vertical, horizontal = pair(padding)
            border = (vertical, vertical, horizontal, horizontal)
        pad = border[0]
        if len(set(border)) > 1:
            _, height, width = self._shape(x)
            before = self.ops[x.op]
            shape = (before.shape[0], height + border[0] + border[1], width + border[2] + border[3])
            name = self._unused(f"{node_name(self.node)}.border")
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
