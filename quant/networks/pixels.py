"""What a float network takes and gives: pixels, normalised as it expects, and logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from golden_model.engines.run_network import Progress
from quant.networks import user
from quant.reference import in_steps

#: Largest value of a network input; its scale is 1 / PIXEL_LEVELS.
PIXEL_LEVELS = 255
_FLOAT_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Per-channel mean and standard deviation of pixel / 255 that the float network expects.

    `mean` = 0 and `std` = 1 is no normalisation. It is folded into the first layer, so that the integer network takes
    the pixels as they are (system.md §3).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def none(cls, channels: int) -> Normalisation:
        return cls(mean=(0.0,) * channels, std=(1.0,) * channels)

    @classmethod
    def of(cls, images: np.ndarray) -> Normalisation:
        """Statistics of uint8 images (N, C, H, W)."""
        axes = (0, 2, 3)
        mean = images.mean(axis=axes, dtype=np.float64) / PIXEL_LEVELS
        std = images.std(axis=axes, dtype=np.float64) / PIXEL_LEVELS
        if (std == 0).any():
            raise ValueError("normalisation: a channel of the training images is constant")
        return cls(mean=tuple(map(float, mean)), std=tuple(map(float, std)))

    def apply(self, pixels: Tensor) -> Tensor:
        """Pixels 0..255 (B, C, H, W) -> the float network's input."""
        mean, std = (torch.tensor(v, dtype=pixels.dtype).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
        return (pixels / PIXEL_LEVELS - mean) / std


class PixelNetwork(nn.Module):
    """A float network that takes pixels 0..255 (B, C, H, W), on whatever device it is; gives logits (B, classes)."""

    def __init__(self, model: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.model = model
        self.mean: Tensor
        self.std: Tensor
        for name, values in (("mean", normalisation.mean), ("std", normalisation.std)):
            self.register_buffer(name, torch.tensor(values).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model((pixels / PIXEL_LEVELS - self.mean) / self.std).flatten(1)


@torch.no_grad()
def float_logits(
    model: nn.Module, images: np.ndarray, normalisation: Normalisation, progress: Progress | None = None
) -> np.ndarray:
    """Logits (B, N) float of uint8 images (B, C, H, W) in the float network, in evaluation mode.

    ValueError if the network fails, or does not give one tensor (B, N) or (B, N, 1, 1).
    """
    model.eval()
    step = max(1, _FLOAT_BYTES // (64 * int(np.prod(images.shape[1:]))))

    def logits(some: np.ndarray) -> np.ndarray:
        batch = normalisation.apply(torch.tensor(some, dtype=torch.float32))
        scores = user.call(model, batch)
        if scores[0].numel() != scores.shape[1]:
            shape = "x".join(map(str, scores.shape[1:]))
            raise ValueError(
                f"the network {type(model).__name__} must return scores of classes, it returns {shape} maps"
            )
        return scores.flatten(1).float().numpy()

    return in_steps(logits, images, step, progress)
