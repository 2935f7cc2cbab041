"""Fake-quantised layers (system.md §3, §8).

Weights are matrices (N, K), K flattened as (c * kernel_height + ky) * kernel_width + kx; a block is
rows x cols of the transposed (K, N) matrix, zero-padded at the edges. A layer's weight is
step * integer with one step for all its blocks. Activations are unsigned: clamp to 0..clip, then
2**bits - 1 equal steps; the network input is pixel / 255.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import Geometry
from quant.networks.ste import fake_quantise_activation, round_magnitude, round_ste

_VALUES_WATCHED = 1 << 18


@dataclass(frozen=True)
class Block:
    """Rows and columns of the transposed weights (K, N) that share a width: an operation unit, or a layer (BSQ)."""

    rows: int
    cols: int

    def __post_init__(self) -> None:
        if min(self.rows, self.cols) < 1:
            raise ValueError(f"a block must have at least 1 row and 1 column, got {self.rows} x {self.cols}")

    @classmethod
    def named(cls, name: str, hardware: HardwareConfig) -> Block | None:
        """Of "ou" (an operation unit), "layer" (None: one width for each layer) or "ROWSxCOLS"."""
        if name == "layer":
            return None
        if name == "ou":
            return cls(hardware.ou_rows, hardware.ou_cols)
        rows, _, cols = name.partition("x")
        if not (rows.isdigit() and cols.isdigit()):
            raise ValueError(f"--block must be ou, layer or ROWSxCOLS such as 9x8, got {name!r}")
        return cls(int(rows), int(cols))

    def split(self, matrix: Tensor) -> Tensor:
        """(N, K) -> (segments, rows, block_cols, cols), zero-padded at the edges."""
        n, k = matrix.shape
        segments, block_cols = -(-k // self.rows), -(-n // self.cols)
        padded = F.pad(matrix.t(), (0, block_cols * self.cols - n, 0, segments * self.rows - k))
        return padded.reshape(segments, self.rows, block_cols, self.cols)

    def spread(self, values: Tensor, shape: torch.Size | tuple[int, int]) -> Tensor:
        """One value per block (segments, block_cols) -> one per weight, (N, K) = `shape`."""
        n, k = shape
        spread = values.repeat_interleave(self.rows, 0)[:k].repeat_interleave(self.cols, 1)[:, :n]
        return spread.t().contiguous()

    def sizes(self, shape: torch.Size | tuple[int, int]) -> Tensor:
        """Weights in each block without padding, int64 (segments, block_cols)."""
        return self.split(torch.ones(shape, dtype=torch.int64)).sum((1, 3))


def bit_length(integers: Tensor) -> Tensor:
    """Bit length of non-negative whole numbers below 2**16, int64."""
    values = integers.to(torch.int64)
    return sum(((values >> bit) > 0).to(torch.int64) for bit in range(16))  # type: ignore[return-value]


class WeightSource(nn.Module):
    """Where a layer's weight comes from. `integers()` are whole numbers, weight = step() * integers()."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def integers(self) -> Tensor:
        """Signed whole numbers (N, K), with a straight-through gradient."""
        raise NotImplementedError

    def step(self) -> Tensor:
        """Real weight per integer, a scalar."""
        raise NotImplementedError

    @torch.no_grad()
    def block_widths(self) -> Tensor:
        """Bit planes per block: the bit length of its largest magnitude, int64 (segments, block_cols)."""
        return bit_length(self.block.split(self.integers().abs()).amax((1, 3)))


class FloatWeight(WeightSource):
    """A float weight and a learned log-step: integers = round(weight / step), clamped per block.

    weight : (N, K). log_step : scalar, natural logarithm of the step.
    limits : (N, K) largest magnitude, 2**weight_bits - 1 until `freeze` sets 2**p - 1 per block.
    """

    def __init__(self, weight: Tensor, step: float, block: Block, weight_bits: int) -> None:
        super().__init__(block)
        self.weight = nn.Parameter(weight.detach().clone())
        self.log_step = nn.Parameter(torch.tensor(float(np.log(step)), dtype=weight.dtype))
        self.limits: Tensor
        self.register_buffer("limits", torch.full_like(weight, float(2**weight_bits - 1)))

    def scaled(self) -> Tensor:
        """weight / step, (N, K), not rounded."""
        return self.weight / self.step()

    def integers(self) -> Tensor:
        return torch.clamp(round_ste(self.scaled()), -self.limits, self.limits)

    def step(self) -> Tensor:
        return self.log_step.exp()

    @torch.no_grad()
    def freeze(self, widths: Tensor | None = None) -> None:
        """From now on a block never needs more planes than `widths` (default: than it has)."""
        widths = self.block_widths() if widths is None else widths
        limits = torch.pow(2.0, widths.to(self.weight.dtype)) - 1
        self.limits.copy_(self.block.spread(limits, self.weight.shape))


class BitPlaneWeight(WeightSource):
    """Continuous bit planes in [0, 2] for both signs (BSQ; system.md §8).

    integers = round(sum_b (positive_b - negative_b) * 2**b) over the planes that a block still has.
    positive, negative : (planes, N, K). mask : (planes, N, K), 0 where a block lost the plane.
    scale : the real step. least_planes : of the tensors, whatever the integers need.
    """

    def __init__(self, integers: Tensor, step: float, block: Block, weight_bits: int, *, least_planes: int = 1) -> None:
        super().__init__(block)
        self.weight_bits = weight_bits
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(step, dtype=torch.float32))
        self._set(integers, least_planes)

    def _set(self, integers: Tensor, least_planes: int = 1) -> None:
        """Exact planes of `integers`, and the mask of those that each block keeps."""
        magnitude = integers.abs().to(torch.int64)
        widths = bit_length(self.block.split(magnitude).amax((1, 3)))
        spread = self.block.spread(widths, integers.shape)
        planes = max(least_planes, int(widths.max()))
        index = torch.arange(planes, device=integers.device).reshape(-1, 1, 1)
        bits = (magnitude >> index & 1).to(torch.float32)
        self.positive = nn.Parameter(bits * (integers > 0))
        self.negative = nn.Parameter(bits * (integers < 0))
        self.mask: Tensor
        self.register_buffer("mask", (index < spread).to(torch.float32))

    def integers(self) -> Tensor:
        powers = 2.0 ** torch.arange(len(self.mask), dtype=torch.float32, device=self.mask.device).reshape(-1, 1, 1)
        return round_ste(((self.positive - self.negative) * self.mask * powers).sum(0))

    def step(self) -> Tensor:
        return self.scale

    @torch.no_grad()
    def clamp_planes(self) -> None:
        """Keep the planes in [0, 2]; to be called after every optimiser step."""
        self.positive.clamp_(0, 2)
        self.negative.clamp_(0, 2)

    @torch.no_grad()
    def requantise(self) -> None:
        """Exact planes again; empty high planes are stripped per block.

        Two planes in [0, 2] can add up to twice the range: then the integers are scaled down so that
        |w| <= 2**weight_bits - 1, and the step up.
        """
        integers = self.integers()
        excess = float(integers.abs().max()) / (2**self.weight_bits - 1)
        if excess > 1:
            integers = round_magnitude(integers / excess)
            self.scale.mul_(excess)
        self._set(integers)

    def block_planes(self) -> Tensor:
        """Planes that each block has had since it was last requantised, (segments, block_cols)."""
        return self.block.split(self.mask.sum(0)).amax((1, 3))

    def group_norms(self) -> Tensor:
        """L2 norm of (positive, negative) per plane and block, (planes, segments, block_cols)."""
        squares = (self.positive.square() + self.negative.square()) * self.mask
        blocks = torch.stack([self.block.split(plane) for plane in squares])
        return (blocks.sum((2, 4)) + 1e-12).sqrt()


class QuantMatrix(nn.Module):
    """A convolution or linear layer with quantised weights.

    geometry : its shape, `pool` being 1. source : its weight (N, K). bias : (N,).
    offset : (C,) what a border pixel stands for, minus 0, in the image's units; None behind the first layers.
        Border pixels of a normalised image are whole bytes, so that they are a little off 0 (system.md §3).
    """

    def __init__(self, geometry: Geometry, source: WeightSource, bias: Tensor, offset: Tensor | None = None) -> None:
        super().__init__()
        self.geometry, self.source = geometry, source
        self.bias = nn.Parameter(bias.detach().clone())
        self.offset: Tensor | None
        self.register_buffer("offset", offset)

    def weight(self) -> Tensor:
        """Quantised weight, (N, C, kh, kw) or (N, K) of a linear layer."""
        geometry = self.geometry
        weight = self.source.integers() * self.source.step()
        if geometry.kind == "linear":
            return weight
        return weight.reshape(geometry.outputs, geometry.channels, geometry.kernel_height, geometry.kernel_width)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight(), self.bias
        if self.geometry.kind == "linear":
            return F.linear(x, weight, bias)
        weight = weight.contiguous(memory_format=torch.channels_last)
        if self.offset is not None:
            bias = bias + weight.sum((2, 3)) @ self.offset
            x = x - self.offset.reshape(1, -1, 1, 1)
        return F.conv2d(x, weight, bias, self.geometry.stride, self.geometry.pad)


class QuantActivation(nn.Module):
    """ReLU and an unsigned activation of `bits` bits: clamp to 0..clip, 2**bits - 1 equal steps, of which those stay
    whose number has at most `ones` ones (golden_model/few_ones.py; 0 for any).

    clip : largest real value; fixed above 3 bits (as ReLU6), learned up to 3 bits (PACT; system.md §8), or learned
    with the gradient of LSQ at any width (`learned`, *ours*).
    cap : upper end of a ReLU6, None for none. watching : list that receives inputs instead of quantising them.
    """

    def __init__(self, bits: int, cap: float | None = None, ones: int = 0) -> None:
        super().__init__()
        self.cap, self.ones, self.learned = cap, ones, False
        self.watching: list[Tensor] | None = None
        self.clip = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.set_bits(bits)

    @property
    def step(self) -> float:
        return float(self.clip) / (2**self.bits - 1)

    def set_bits(self, bits: int) -> None:
        self.bits = bits
        self.clip.requires_grad_(self.learned or bits <= 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.watching is not None:
            y = F.relu(x) if self.cap is None else F.hardtanh(x, 0.0, self.cap)
            self.watching.append(_sample(y.detach().float()))
            return y
        return fake_quantise_activation(x, self.clip, 2**self.bits - 1, self.learned, self.ones)


class RangeActivation(nn.Module):
    """An activation with given ends: `steps` equal steps from low to high, one of which ends at 0. Of a file; it cannot
    be trained.

    bits : of its integers. It is *narrow* where they have more values than it takes, as -7..7 has of 4 bits.
    """

    def __init__(self, steps: int, low: float, high: float) -> None:
        super().__init__()
        self.steps, self.low, self.high = steps, low, high

    @property
    def bits(self) -> int:
        return self.steps.bit_length()

    @property
    def step(self) -> float:
        return (self.high - self.low) / self.steps

    def forward(self, x: Tensor) -> Tensor:
        zero = round(-self.low / self.step)
        return torch.floor(x / self.step + 0.5).clamp(-zero, self.steps - zero) * self.step


def _sample(values: Tensor) -> Tensor:
    flat = values.flatten()
    return torch.cat([flat[:: max(1, flat.numel() // _VALUES_WATCHED)], flat.max().reshape(1)])
