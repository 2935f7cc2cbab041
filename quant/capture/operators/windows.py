"""Pooling."""

from __future__ import annotations

from typing import Any

from golden_model.graph.numbers import Window
from quant.capture.op import Ref
from quant.capture.operators.base import Translation, pair


class Windows(Translation):
    def max_pool2d(
        self, x: Ref, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> Ref:  # fmt: skip
        self._is_map(x)
        self._require(pair(dilation) == (1, 1), f"dilation is not supported, got {dilation}")
        self._require(not return_indices, "return_indices is not supported")
        kernel = pair(kernel_size)
        step = kernel if stride is None or stride == [] else pair(stride)
        return self._add("max", x, window=Window(kernel=kernel, stride=step, pad=pair(padding), ceil_mode=ceil_mode))

    def avg_pool2d(
        self, x: Ref, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: Any = None,
    ) -> Ref:  # fmt: skip
        self._is_map(x)
        self._require(divisor_override is None, "divisor_override is not supported")
        kernel, pad = pair(kernel_size), pair(padding)
        self._require(count_include_pad or pad == (0, 0), "count_include_pad=False with padding is not supported")
        step = kernel if stride is None or stride == [] else pair(stride)
        window = Window(kernel=kernel, stride=step, pad=pad)
        made = tuple(self.seen[self.node].shape or ())[2:]
        floor = tuple(window.out(size, axis) for axis, size in enumerate(self._shape(x)[1:]))
        self._require(not ceil_mode or made == floor, "ceil_mode is not supported where windows reach over the edge")
        return x if kernel == step == (1, 1) and pad == (0, 0) else self._add("mean", x, window=window)

    def _adaptive(self, x: Ref, output_size: Any) -> Window:
        self._is_map(x)
        size = self._shape(x)[1:]
        wanted = [s if o is None else int(o) for o, s in zip(pair(output_size), size, strict=True)]
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
