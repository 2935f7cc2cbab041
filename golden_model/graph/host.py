"""Nodes that no crossbar computes: layer normalisation, attention, a constant per token (docs/transformers.md).

Weights of a crossbar are programmed before the picture comes, so what multiplies or divides two tensors of the picture
is work of the host. It gets activations from the tile and gives activations back: unsigned integers with an encoding.
Between them it computes in whole numbers wherever a sum is taken, so that the order of a sum does not matter, and in
float64 value by value. One implementation, in NumPy, serves all engines.

Its work is counted, in `operations`, and never added to that of the tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.few_ones import nearest_level
from golden_model.graph.nodes import Node, Shape
from golden_model.graph.numbers import Encoding
from golden_model.optional import array_library

#: What is counted of a node's work, in the order in which it is shown.
COUNTS = ("multiply", "add", "divide", "sqrt", "exp", "bytes_in", "bytes_out")
#: An exponential 0 < e <= 1 of a softmax is a whole number of 2**-EXP_BITS.
EXP_BITS = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class Host(Node):
    """One step on the host. taken : encoding of the input, from `derived`."""

    taken: Encoding = field(default_factory=lambda: Encoding(high=1.0))

    def derived(self, inputs: Sequence[Encoding], hardware: HardwareConfig) -> Node:
        if inputs[0].zeros:
            raise ValueError("an image with a mean per channel can only be the input of convolutions and linear layers")
        return replace(self, taken=inputs[0])

    def real(self, x: np.ndarray) -> np.ndarray:
        """int64 (B, C, H, W), inputs less their zero point -> real outputs, float64 (B, *shape)."""
        raise NotImplementedError

    @property
    def operations(self) -> dict[str, int]:
        """Operations of a picture, and bytes that go to the host and back, by name of `COUNTS`; 0 for a missing name.

        Taking off zero points, and the step from a number to its code, are not included."""
        raise NotImplementedError

    def compute(self, *activations: Any) -> Any:
        given, xp = activations[0], array_library(activations[0])
        q = given if xp is np else given.cpu().numpy()
        y = np.floor(self.real(q.astype(np.int64) - self.taken.zero) / self.encoding.scale + 0.5)
        made = np.clip(y + self.encoding.zero, 0, self.encoding.top).astype(np.uint8)
        made = nearest_level(made, self.encoding.bits, self.encoding.ones)
        return made if xp is np else xp.asarray(made)

    def _bytes(self, taken: int) -> dict[str, int]:
        return {"bytes_in": taken, "bytes_out": int(np.prod(self.shape))}


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerNorm(Host):
    """Every pixel's channels, less their mean, by their deviation: y = gain * (x - mean) / sqrt(var + eps) + bias.

    With u = q - zero, n channels and s = scale: gain * (n u - sum u) / sqrt(n sum u^2 - (sum u)^2 + n^2 eps / s^2) +
    bias; the sums are whole numbers. gain, bias : float64 (C,).
    """

    gain: np.ndarray
    bias: np.ndarray
    eps: float

    def expected_shape(self, inputs: Sequence[Shape]) -> Shape:
        if not np.shape(self.gain) == np.shape(self.bias) == inputs[0][:1] or not self.eps > 0:
            raise ValueError(f"gain and bias must have {inputs[0][0]} values, eps must be above 0, got {self.eps}")
        return inputs[0]

    def real(self, x: np.ndarray) -> np.ndarray:
        n, total = x.shape[1], x.sum(1, keepdims=True)
        variance = n * (x * x).sum(1, keepdims=True) - total * total
        deviation = np.sqrt(variance + n * n * (self.eps / self.taken.scale**2))
        return (n * x - total) / deviation * self.gain[:, None, None] + self.bias[:, None, None]

    @property
    def operations(self) -> dict[str, int]:
        values, pixels = int(np.prod(self.shape)), self.shape[1] * self.shape[2]
        return {
            "multiply": 3 * values + 2 * pixels,
            "add": 4 * values,
            "divide": values,
            "sqrt": pixels,
            **self._bytes(values),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention(Host):
    """softmax(q k^T / sqrt(d)) v of every head, d channels each; pixels are tokens (B, C, T, 1).

    The input holds the channels of all q, then all k, then all v; head h is the h-th part of each. Scores are whole
    numbers; the difference to the row's largest goes through exp, which is rounded to 2**-24 (halves up), so that a
    softmax and its mean of v are ratios of whole numbers: y = s * sum(e v) / sum(e), s = scale.
    """

    heads: int

    def expected_shape(self, inputs: Sequence[Shape]) -> Shape:
        channels, height, width = inputs[0]
        if self.heads < 1 or channels % (3 * self.heads):
            raise ValueError(f"its {channels} channels must be q, k and v of {self.heads} heads")
        return channels // 3, height, width

    def real(self, x: np.ndarray) -> np.ndarray:
        tokens = x.shape[2] * x.shape[3]
        q, k, v = x.reshape(len(x), 3, self.heads, -1, tokens).transpose(1, 0, 2, 4, 3)  # each (B, heads, T, d)
        scores = q @ k.swapaxes(-1, -2)
        below = scores - scores.max(-1, keepdims=True)
        factor = self.taken.scale**2 / np.sqrt(float(q.shape[-1]))
        e = np.floor(np.exp(below * factor) * (1 << EXP_BITS) + 0.5).astype(np.int64)
        y = (e @ v) / e.sum(-1, keepdims=True) * self.taken.scale
        return y.swapaxes(-1, -2).reshape(len(x), *self.shape)

    @property
    def operations(self) -> dict[str, int]:
        channels, tokens = self.shape[0], self.shape[1] * self.shape[2]
        scores, made = self.heads * tokens * tokens, channels * tokens
        return {
            "multiply": 2 * channels * tokens * tokens + scores + made,
            "add": 2 * channels * tokens * tokens + scores - made - self.heads * tokens,
            "divide": made,
            "exp": scores,
            **self._bytes(3 * made),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class AddConstant(Host):
    """x + values, float64 (C, H, W): an embedding of positions."""

    values: np.ndarray

    def expected_shape(self, inputs: Sequence[Shape]) -> Shape:
        if self.values.shape != inputs[0]:
            raise ValueError(f"its constant must have shape {inputs[0]}, got {self.values.shape}")
        return inputs[0]

    def real(self, x: np.ndarray) -> np.ndarray:
        return x * self.taken.scale + self.values

    @property
    def operations(self) -> dict[str, int]:
        values = int(np.prod(self.shape))
        return {"multiply": values, "add": values, **self._bytes(values)}


def work_of(nodes: Sequence[Node]) -> list[dict[str, Any]]:
    """What the host does for a picture: a row per node, its name as "node", and all of `COUNTS`."""
    return [{"node": x.name, **dict.fromkeys(COUNTS, 0), **x.operations} for x in nodes if isinstance(x, Host)]


def total_work(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Sums of the rows of `work_of`."""
    return {name: sum(row[name] for row in rows) for name in COUNTS}


def with_total(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `work_of` and one more, "all", of their sums."""
    return [*rows, {"node": "all", **total_work(rows)}]
