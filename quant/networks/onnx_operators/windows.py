"""Pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from quant.networks.onnx_operators.base import Reading


class Windows(Reading):
    def max_pool(
        self, x: fx.Node, *, kernel_shape: Any, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Any = (1, 1),
        pads: Any = None, storage_order: int = 0, strides: Any = (1, 1),
    ) -> fx.Node:  # fmt: skip
        """Borders never win, so that only where windows start, and how many there are, counts."""
        self._map(x)
        self._require(len(self.node.output) == 1, "its indices are not supported")
        above, left, below, right = self._padding(x, kernel_shape, strides, dilations, auto_pad, pads)
        _, _, *size = self._size(x)
        wanted = []
        for s, k, step, d, room in zip(
            size, kernel_shape, strides, dilations, (above + below, left + right), strict=True
        ):
            span = s + room - (k - 1) * d - 1
            wanted.append((-(-span // step) if ceil_mode else span // step) + 1)
        for reaching in (False, True):
            module = nn.MaxPool2d(
                tuple(kernel_shape), tuple(strides), (above, left), tuple(dilations), ceil_mode=reaching
            )
            if list(module(self.example[x]).shape[2:]) == wanted:
                return self._layer(module, x)
        self._refuse(f"a border {(above, left, below, right)} like this is not supported")

    def average_pool(
        self, x: fx.Node, *, kernel_shape: Any, auto_pad: str = "NOTSET", ceil_mode: int = 0,
        count_include_pad: int = 0, dilations: Any = (1, 1), pads: Any = None, strides: Any = (1, 1),
    ) -> fx.Node:  # fmt: skip
        self._map(x)
        self._require(tuple(dilations) == (1, 1), f"dilation is not supported, got {tuple(dilations)}")
        around = self._padding(x, kernel_shape, strides, dilations, auto_pad, pads)
        self._require(
            bool(count_include_pad) or not any(around), "count_include_pad = 0 with a border is not supported"
        )
        x, padding = self._bordered(x, around) if any(around) else (x, (0, 0))
        module = nn.AvgPool2d(tuple(kernel_shape), tuple(strides), padding, bool(ceil_mode))
        return self._layer(module, x)

    def global_average_pool(self, x: fx.Node) -> fx.Node:
        return self._layer(nn.AdaptiveAvgPool2d(1), x)

    def global_max_pool(self, x: fx.Node) -> fx.Node:
        return self._layer(nn.AdaptiveMaxPool2d(1), x)

    def reduce_mean(
        self, x: fx.Node, axes_input: Any = None, *, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> fx.Node:  # fmt: skip
        self._map(x)
        axes = self._array(axes_input, "axes").tolist() if axes_input is not None else axes
        dims = sorted(axis % 4 for axis in axes or range(4))
        self._require(dims == [2, 3], f"only the mean over height and width is supported, got axes {dims}")
        return self._call(torch.mean, x, dims, bool(keepdims))
