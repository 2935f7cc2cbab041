"""Self-attention as a layer, and a small vision transformer made of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """softmax(q k^T / sqrt(d)) v of every head, (B, T, 3 C) -> (B, T, C); it has no weights.

    The input holds the channels of all q, then all k, then all v, as one linear layer makes them; head h is the h-th
    part of each.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, channels = x.shape
        q, k, v = x.reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, channels // 3)

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class Encoder(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); tokens (B, T, width)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.attention, self.out = nn.Linear(width, 3 * width), SelfAttention(heads), nn.Linear(width, width)
        self.fc1, self.gelu, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(self.attention(self.qkv(self.norm1(x))))
        return x + self.fc2(self.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """A vision transformer without a class token: the mean of all tokens is classified (Beyer et al., 2022).

    shape : (C, H, W) of a picture, cut into patches of `patch` pixels a side.
    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, *, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        tokens = (shape[1] // patch) * (shape[2] // patch)
        self.patches = nn.Conv2d(shape[0], width, patch, stride=patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*(Encoder(width, heads, 2 * width) for _ in range(depth)))
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.fc(self.norm(self.blocks(x)).mean(1))
