"""Straight-through functions: every torch.autograd.Function of the project is here (system.md §8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
    """Clamp to 0..clip and round to `levels` equal steps; gradient of PACT or LSQ for the clip.

    d/dx = 1 inside (0, clip), else 0. d/dclip = 1 where x >= clip, and inside (0, clip), with `rounding`, what
    rounding adds to x, over the clip (Esser et al., "Learned step size quantization", ICLR 2020; its scale is
    left out, Adam does not see it), else 0 (PACT).
    With `rounding` every fourth sample stands for all, which is enough for one number.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: Tensor, levels: int, rounding: bool) -> Tensor:
        step = clip / levels
        if x.dtype != torch.float32:  # too few digits for exact halves; one pass less
            y = (x * (1 / step)).clamp_(0, levels).round_().mul_(step)
        else:
            y = (x / step).add_(0.5).floor_().clamp_(0, levels).mul_(step)
        ctx.rounding = rounding
        ctx.save_for_backward(x, clip, *([y] if rounding else []))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        x, clip, *rounded = ctx.saved_tensors
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            gradient = gradient.contiguous(memory_format=torch.channels_last)  # mixed layouts are several times slower
        for_x = torch.ops.aten.hardtanh_backward(gradient, x, 0.0, float(clip))
        for_clip = None
        if ctx.needs_input_grad[1] and ctx.rounding:
            some, given = x[::4].float(), gradient[::4].float()
            slope = torch.where(some >= clip, 1.0, (rounded[0][::4].float() - some.clamp_min(0)) / clip)
            for_clip = (given * slope).sum().mul_(len(x) / len(some)).reshape(clip.shape)
        elif ctx.needs_input_grad[1]:
            for_clip = (gradient * (x >= clip)).sum().reshape(clip.shape)
        return for_x, for_clip, None, None


def round_ste(x: Tensor) -> Tensor:
    """Nearest integer (ties away from zero) with gradient 1."""
    return _RoundStraightThrough.apply(x)  # type: ignore[return-value]


def fake_quantise_activation(x: Tensor, clip: Tensor, levels: int, rounding: bool = False) -> Tensor:
    """`levels` + 1 equally spaced values 0..clip, ties up; clip is learned if it requires a gradient.

    rounding : its gradient sees what rounding does (LSQ), not only what clipping does (PACT).
    """
    return _FakeQuantiseActivation.apply(x, clip, levels, rounding)  # type: ignore[return-value]
