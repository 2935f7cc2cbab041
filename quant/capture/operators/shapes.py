"""Concatenation, other shapes of the same numbers, picked channels and pixels, borders, and what does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from quant.capture.op import Ref
from quant.capture.operators.base import Translation
from quant.capture.trace import node_name


class Shapes(Translation):
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
