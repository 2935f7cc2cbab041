"""Straight-through functions: every torch.autograd.Function of the project is here (system.md §8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from golden_model.few_ones import nearest_of_all


def round_magnitude(x: Tensor) -> Tensor:
    """Nearest integer, ties away from zero: sign(x) * floor(|x| + 1/2).

    Never torch.round, which rounds ties to even (system.md §3).
    """
    return torch.copysign(torch.floor(x.abs() + 0.5), x)


class _RoundStraightThrough(torch.autograd.Function):
    """`round_magnitude` forward, identity backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return round_magnitude(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _FakeQuantiseActivation(torch.autograd.Function):
    """Clamp to 0..clip and round to `levels` equal steps, and then to those whose number has few ones; gradient of
    PACT or LSQ for the clip.

    With c the largest value that is left, clip itself without few ones: d/dx = 1 inside (0, c), else 0. d/dclip = c /
    clip where x >= c, and inside (0, c), with `rounding`, what rounding adds to x, over the clip (Esser et al.,
    "Learned step size quantization", ICLR 2020; its scale is left out, Adam does not see it), else 0 (PACT).
    With `rounding` every fourth sample stands for all, which is enough for one number.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: Tensor, levels: int, rounding: bool, ones: int) -> Tensor:
        step = clip / levels
        if x.dtype != torch.float32:  # too few digits for exact halves; one pass less
            y = (x * (1 / step)).clamp_(0, levels).round_()
        else:
            y = (x / step).add_(0.5).floor_().clamp_(0, levels)
        ctx.share = 1.0  # of the clip
        if ones:
            nearest = nearest_of_all(levels.bit_length(), ones)
            ctx.share = float(nearest[-1]) / levels
            table = torch.as_tensor(nearest, dtype=y.dtype, device=y.device)
            flat = y.as_strided((y.numel(),), (1,))  # y was made here, so it is dense in some order of its axes
            flat.copy_(table.index_select(0, flat.to(torch.int32)))
        y.mul_(step)
        ctx.rounding = rounding
        ctx.save_for_backward(x, clip, *([y] if rounding else []))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (gradient,) = gradients
        x, clip, *rounded = ctx.saved_tensors
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            gradient = gradient.contiguous(memory_format=torch.channels_last)  # mixed layouts are several times slower
        top = float(clip) * ctx.share
        for_x = torch.ops.aten.hardtanh_backward(gradient, x, 0.0, top)
        for_clip = None
        if ctx.needs_input_grad[1] and ctx.rounding:
            some, given = x[::4].float(), gradient[::4].float()
            slope = torch.where(some >= top, ctx.share, (rounded[0][::4].float() - some.clamp_min(0)) / clip)
            for_clip = (given * slope).sum().mul_(len(x) / len(some)).reshape(clip.shape)
        elif ctx.needs_input_grad[1]:
            for_clip = (gradient * (x >= top)).sum().mul_(ctx.share).reshape(clip.shape)
        return for_x, for_clip, None, None, None


def round_ste(x: Tensor) -> Tensor:
    """Nearest integer (ties away from zero) with gradient 1."""
    return _RoundStraightThrough.apply(x)  # type: ignore[return-value]


def fake_quantise_activation(x: Tensor, clip: Tensor, levels: int, rounding: bool = False, ones: int = 0) -> Tensor:
    """`levels` + 1 equally spaced values 0..clip, ties up; clip is learned if it requires a gradient.

    rounding : its gradient sees what rounding does (LSQ), not only what clipping does (PACT). ones : most ones in the
    number of a value (golden_model/few_ones.py), 0 for any; `levels` must then be 2**bits - 1.
    """
    return _FakeQuantiseActivation.apply(x, clip, levels, rounding, ones)  # type: ignore[return-value]
