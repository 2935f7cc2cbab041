"""Convolutions, matrices, normalisation, clamps, and functions of one number."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import fx, nn

from quant.networks.onnx_operators.base import Reading

_INFINITE = 3e38
#: alpha and gamma of SELU, as the standard gives them and PyTorch has them.
_SELU = (1.6732632423543772, 1.0507009873554805)
FUNCTIONS: dict[str, type[nn.Module]] = {
    "HardSwish": nn.Hardswish,
    "Mish": nn.Mish,
    "Sigmoid": nn.Sigmoid,
    "Softplus": nn.Softplus,
    "Softsign": nn.Softsign,
    "Tanh": nn.Tanh,
}


class Layers(Reading):
    def conv(
        self, x: fx.Node, weight: Any, bias: Any = None, *, auto_pad: str = "NOTSET", dilations: Any = (1, 1),
        group: int = 1, kernel_shape: Any = None, pads: Any = None, strides: Any = (1, 1),
    ) -> fx.Node:  # fmt: skip
        self._map(x)
        w = self._array(weight, "weight")
        kernel = w.shape[2:]
        x, padding = self._bordered(x, self._padding(x, kernel, strides, dilations, auto_pad, pads))
        module = nn.Conv2d(
            w.shape[1] * group, w.shape[0], cast(Any, kernel), tuple(strides), padding, tuple(dilations), group,
            bias=bias is not None,
        )  # fmt: skip
        self._quantised(module)
        return self._layer(module, x, weight=w, bias=None if bias is None else self._array(bias, "bias"))

    def gemm(
        self, x: fx.Node, weight: Any, bias: Any = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
        transB: int = 0,
    ) -> fx.Node:  # fmt: skip
        self._require(isinstance(x, fx.Node) and len(self._size(x)) == 2, "its first input must be a vector (N, F)")
        self._require(not transA, "transA is not supported")
        w = self._array(weight, "weight")
        w = np.ascontiguousarray(w if transB else w.T) * np.float32(alpha)
        module = nn.Linear(w.shape[1], w.shape[0], bias=bias is not None)
        if bias is not None:
            bias = np.broadcast_to(self._array(bias, "bias") * np.float32(beta), (1, len(w)))[0]
        self._quantised(module, transposed=not transB, factor=alpha)
        return self._layer(module, x, weight=w, bias=bias)

    def _quantised(self, module: nn.Module, *, transposed: bool = False, factor: float = 1.0) -> None:
        """Give a layer the integers and the scale per output of its weight, if that is quantised.

        transposed : the file has it as (K, N). factor : on the scale.
        """
        if (found := self.levels.get(self.node.input[1])) is None:
            return
        integers, scale = (np.ascontiguousarray(part.T if transposed else part) for part in found)
        scale = scale.reshape(len(integers), -1) * factor
        self._require(bool((scale == scale[:, :1]).all()), "a weight must have one scale, or one per output")
        module.register_buffer("integers", torch.from_numpy(integers))
        module.register_buffer("scale", torch.from_numpy(scale[:, 0].astype(np.float32)))

    def matmul(self, x: fx.Node, weight: Any) -> fx.Node:
        return self.gemm(x, weight)

    def batch_norm(
        self, x: fx.Node, scale: Any, bias: Any, mean: Any, var: Any, *, epsilon: float = 1e-5, momentum: float = 0.9,
        training_mode: int = 0, spatial: int = 1,
    ) -> fx.Node:  # fmt: skip
        self._require(not training_mode and bool(spatial), "only its evaluation mode, one value per channel")
        kinds = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}
        self._require(len(self._size(x)) in kinds, "it needs a map (N, C, H, W) or a vector (N, F)")
        values = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": var}
        arrays = {name: self._array(value, name) for name, value in values.items()}
        return self._layer(kinds[len(self._size(x))](len(arrays["bias"]), eps=epsilon), x, **arrays)

    def relu(self, x: fx.Node) -> fx.Node:
        return self._layer(nn.ReLU(), x)

    def clip(self, x: fx.Node, low: Any = None, high: Any = None, *, min: Any = None, max: Any = None) -> fx.Node:
        ends = [default if value is None else float(self._array(value, "bound")) for value, default in
                ((low, -np.inf if min is None else min), (high, np.inf if max is None else max))]  # fmt: skip
        if ends[0] == 0 and ends[1] > _INFINITE:
            return self._layer(nn.ReLU(), x)
        self._require(ends[0] <= 0 < ends[1], f"only a clamp to a range that holds 0, got {ends[0]:g}..{ends[1]:g}")
        return self._layer(nn.Hardtanh(ends[0], ends[1]), x)

    # ---- activation functions ---------------------------------------------------------------------
    def leaky_relu(self, x: fx.Node, *, alpha: float = 0.01) -> fx.Node:
        return self._layer(nn.LeakyReLU(alpha), x)

    def prelu(self, x: fx.Node, slope: Any) -> fx.Node:
        weight = self._array(slope, "slope").reshape(-1)
        return self._layer(nn.PReLU(len(weight)), x, weight=weight)

    def thresholded_relu(self, x: fx.Node, *, alpha: float = 1.0) -> fx.Node:
        return self._layer(nn.Threshold(alpha, 0.0), x)

    def hard_sigmoid(self, x: fx.Node, *, alpha: float = 0.2, beta: float = 0.5) -> fx.Node:
        x = self._call(torch.mul, x, alpha, part="_alpha")
        return self._layer(nn.Hardtanh(0.0, 1.0), self._call(torch.add, x, beta, part="_beta"))

    def selu(self, x: fx.Node, *, alpha: float = _SELU[0], gamma: float = _SELU[1]) -> fx.Node:
        self._require(np.allclose((alpha, gamma), _SELU, rtol=1e-6), "only with the standard's alpha and gamma")
        return self._layer(nn.SELU(), x)

    def elu(self, x: fx.Node, *, alpha: float = 1.0) -> fx.Node:
        return self._layer((nn.CELU if self.node.op_type == "Celu" else nn.ELU)(alpha), x)

    def gelu(self, x: fx.Node, *, approximate: str = "none") -> fx.Node:
        return self._layer(nn.GELU(approximate), x)

    def swish(self, x: fx.Node, *, alpha: float = 1.0) -> fx.Node:
        self._require(alpha == 1, f"alpha must be 1, got {alpha:g}")
        return self._layer(nn.SiLU(), x)

    def function(self, x: fx.Node) -> fx.Node:
        return self._layer(FUNCTIONS[self.node.op_type](), x)

    def formula(self, x: fx.Node) -> fx.Node:
        return self._call(getattr(torch, self.node.op_type.lower()), x)

    def power(self, x: fx.Node, exponent: Any) -> fx.Node:
        self._require(isinstance(x, fx.Node), "its first input must be made from the picture")
        exponent = self._array(exponent, "exponent")
        self._require(exponent.size == 1, "its exponent must be one number")
        return self._call(torch.pow, x, float(exponent.item()))
