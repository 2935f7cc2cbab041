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
    """Clamp to 0..clip and round to `levels` equal steps; PACT gradient for the clip.

    d/dx = 1 inside (0, clip), else 0; d/dclip = 1 where x >= clip.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(x, clip)
        step = clip / levels
        if x.dtype != torch.float32:  # too few digits for exact halves; one pass less
            return (x * (1 / step)).clamp_(0, levels).round_().mul_(step)
        return (x / step).add_(0.5).floor_().clamp_(0, levels).mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        x, clip = ctx.saved_tensors
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            gradient = gradient.contiguous(memory_format=torch.channels_last)  # mixed layouts are several times slower
        for_x = torch.ops.aten.hardtanh_backward(gradient, x, 0.0, float(clip))
        for_clip = (gradient * (x >= clip)).sum().reshape(clip.shape) if ctx.needs_input_grad[1] else None
        return for_x, for_clip, None


def round_ste(x: Tensor) -> Tensor:
    """Nearest integer (ties away from zero) with gradient 1."""
    return _RoundStraightThrough.apply(x)  # type: ignore[return-value]


def fake_quantise_activation(x: Tensor, clip: Tensor, levels: int) -> Tensor:
    """`levels` + 1 equally spaced values 0..clip, ties up; clip is learned if it requires a gradient."""
    return _FakeQuantiseActivation.apply(x, clip, levels)  # type: ignore[return-value]
