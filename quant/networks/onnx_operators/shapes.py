"""Arithmetic, concatenation, other shapes of the same numbers, borders, and what does nothing."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from quant.networks.onnx_operators.base import Reading


class Shapes(Reading):
    def _arithmetic(self, function: Callable[..., Tensor], a: Any, b: Any) -> fx.Node:
        if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
            return self._call(function, a, b)
        self._require(
            function in (torch.add, torch.mul), "only with a constant per channel, not of two tensors of the network"
        )
        self._require(self._size(a) == self._size(b), f"shapes differ: {self._size(a)} and {self._size(b)}")
        return self._call(function, a, b)

    def add(self, a: Any, b: Any) -> fx.Node:
        return self._arithmetic(torch.add, a, b)

    def sub(self, a: Any, b: Any) -> fx.Node:
        return self._arithmetic(torch.sub, a, b)

    def mul(self, a: Any, b: Any) -> fx.Node:
        return self._arithmetic(torch.mul, a, b)

    def div(self, a: Any, b: Any) -> fx.Node:
        self._require(isinstance(a, fx.Node), "only a division by a constant is supported")
        return self._arithmetic(torch.div, a, b)

    def total(self, *values: Any) -> fx.Node:
        total = values[0]
        for value in values[1:]:
            total = self._arithmetic(torch.add, total, value)
        return total

    def concat(self, *values: Any, axis: int) -> Any:
        self._require(all(isinstance(v, fx.Node) for v in values), "its inputs must all be made from the picture")
        return self._call(torch.cat, list(values), axis)

    # ---- shapes -----------------------------------------------------------------------------------
    def _shaped(self, x: fx.Node, shape: Sequence[int]) -> fx.Node:
        """The same numbers in the same order; shape : of one picture, (1, ...)."""
        while x.target is torch.reshape:
            x = cast(fx.Node, x.args[0])
        shape = tuple(self.example[x].reshape(tuple(shape)).shape)
        self._require(len(shape) > 1 and shape[0] == 1, f"it must keep pictures apart, got the shape {shape}")
        return x if shape == self._size(x) else self._call(torch.reshape, x, (-1, *shape[1:]))

    def flatten(self, x: fx.Node, *, axis: int = 1) -> fx.Node:
        self._require(axis % len(self._size(x)) == 1, f"axis must be 1, got {axis}")
        return self._shaped(x, (1, -1))

    def reshape(self, x: fx.Node, shape: Any, *, allowzero: int = 0) -> fx.Node:
        wanted, size = self._array(shape, "shape").tolist(), self._size(x)
        return self._shaped(x, [size[i] if s == 0 and not allowzero else s for i, s in enumerate(wanted)])

    def squeeze(self, x: fx.Node, axes_input: Any = None, *, axes: Any = None) -> fx.Node:
        axes, size = self._array(axes_input, "axes").tolist() if axes_input is not None else axes, self._size(x)
        gone = {axis % len(size) for axis in axes} if axes else {i for i, s in enumerate(size) if i and s == 1}
        return self._shaped(x, [s for i, s in enumerate(size) if i not in gone])

    def unsqueeze(self, x: fx.Node, axes_input: Any = None, *, axes: Any = None) -> fx.Node:
        axes, size = self._array(axes_input, "axes").tolist() if axes_input is not None else axes, list(self._size(x))
        for axis in sorted(axis % (len(size) + len(axes)) for axis in axes):
            size.insert(axis, 1)
        return self._shaped(x, size)

    def transpose(self, x: fx.Node, *, perm: Any = None) -> fx.Node:
        size = self._size(x)
        perm = list(perm or reversed(range(len(size))))
        if perm == [0, 2, 1, 3, 4]:  # a shuffle of channels
            return self._call(torch.permute, x, perm)
        moved = [axis for axis in perm if size[axis] > 1]
        self._require(moved == sorted(moved) and perm[0] == 0, f"it moves values, axes {perm} of {size}; only a change"
                      " of axes of length 1 is supported")  # fmt: skip
        return self._shaped(x, [size[axis] for axis in perm])

    def slice(
        self, x: fx.Node, starts_input: Any = None, ends_input: Any = None, axes_input: Any = None, steps: Any = None,
        *, starts: Any = None, ends: Any = None, axes: Any = None,
    ) -> fx.Node:  # fmt: skip
        given = ((starts_input, starts), (ends_input, ends), (axes_input, axes), (steps, None))
        first, last, along, step = (a if b is None else self._array(b, "range").tolist() for b, a in given)
        assert first is not None
        assert last is not None
        size, index = self._size(x), [slice(None)] * len(self._size(x))
        for place, axis in enumerate(range(len(first)) if along is None else along):
            cut = slice(first[place], last[place], None if step is None else step[place])
            self._require(axis % len(size) > 0 and (cut.step or 1) > 0, "only channels, rows or columns, forwards")
            start, stop, by = cut.indices(size[axis])
            index[axis] = slice(start or None, None if stop == size[axis] else stop, None if by == 1 else by)
        return self._call(operator.getitem, x, tuple(index))

    def split(
        self, x: fx.Node, split_input: Any = None, *, axis: int = 0, split: Any = None, num_outputs: int | None = None
    ) -> tuple[fx.Node, ...]:
        count, length = len(self.node.output), self._size(x)[axis]
        parts = split if split_input is None else self._array(split_input, "parts").tolist()
        ends = np.cumsum(parts or [-(-length // count)] * count).clip(max=length).tolist()
        return tuple(
            self.slice(x, starts=[start], ends=[end], axes=[axis])
            for start, end in zip([0, *ends[:-1]], ends, strict=True)
        )

    def shape(self, x: fx.Node, *, start: int = 0, end: int | None = None) -> np.ndarray:
        return np.array(self._size(x)[start:end], dtype=np.int64)

    def pad(
        self, x: fx.Node, pads_input: Any = None, value_input: Any = None, axes: Any = None, *, mode: str = "constant",
        pads: Any = None, value: float = 0.0,
    ) -> fx.Node:  # fmt: skip
        self._map(x)
        value = float(self._array(value_input, "value")) if value_input is not None else value
        self._require(mode == "constant" and value == 0, "only a border of zeros is supported")
        given = self._array(pads_input, "pads").tolist() if pads_input is not None else list(pads)
        listed = [int(a) % 4 for a in self._array(axes, "axes")] if axes is not None else list(range(4))
        before, after = [0] * 4, [0] * 4
        for place, axis in enumerate(listed):
            before[axis], after[axis] = given[place], given[place + len(listed)]
        self._require(
            before[0] == after[0] == 0 and min(before + after) >= 0, f"not of pictures or below 0, got {given}"
        )
        border = [before[3], after[3], before[2], after[2]]
        return self._call(F.pad, x, border if before[1] == after[1] == 0 else [*border, before[1], after[1]])

    def same(self, x: fx.Node, *unused: Any, **options: Any) -> fx.Node:
        return x

    def dropout(self, x: fx.Node, ratio: Any = None, training: Any = None, **options: Any) -> fx.Node:
        self._require(training is None or not bool(self._array(training, "training_mode")), "only in evaluation mode")
        return x

    def cast(self, x: fx.Node, *, to: int, **options: Any) -> fx.Node:
        self._require(to == self.onnx.TensorProto.FLOAT, "only to float")
        return x

    def softmax(self, x: fx.Node, *, axis: int | None = None) -> fx.Node:
        axis = (1 if self.opset < 13 else -1) if axis is None else axis
        kind = nn.LogSoftmax if self.node.op_type == "LogSoftmax" else nn.Softmax
        return self._layer(kind(dim=axis), x)
