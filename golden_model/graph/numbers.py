"""How integers stand for real numbers: encodings, fixed-point factors, pooling windows (system.md §3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, frexp
from typing import Any

import numpy as np

from golden_model.few_ones import nearest_level
from golden_model.optional import array_library
from golden_model.rounding import round_half_up_shift

#: Largest output multiplier M (system.md §3), and largest residual multiplier M_r. M and M_r share the shift S, and
#: a sum's factor is smaller than a residual's by the size of a dot product, so M_r needs more bits (*ours*).
MULTIPLIER_TOP = (1 << 16) - 1
RESIDUAL_MULTIPLIER_TOP = (1 << 32) - 1
#: Largest shift S.
SHIFT_TOP = 63


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How unsigned integers of `bits` bits stand for real numbers: real = scale * (q - zero).

    low, high : real range that is covered, low <= 0 < high; low = 0 gives zero = 0.
    ones : most ones of an integer (golden_model/few_ones.py), 0 for any; needs low = 0.
    zeros : real zero per channel instead, for an image whose mean is subtracted per channel (system.md §3).
    """

    high: float
    low: float = 0.0
    bits: int = 8
    ones: int = 0
    zeros: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low <= 0 < self.high):
            raise ValueError(f"an activation's range must be finite with low <= 0 < high, got {self.low}..{self.high}")
        if not 1 <= self.bits <= 8:
            raise ValueError(f"an activation must have 1..8 bits, got {self.bits}")
        if not 0 <= self.ones <= 8:
            raise ValueError(f"an activation must have at most 1..8 ones, or 0 for any, got {self.ones}")
        if self.ones and (self.low or self.zeros):
            raise ValueError(f"an activation with few ones must have a range from 0, got {self.low}..{self.high}")

    @property
    def top(self) -> int:
        return (1 << self.bits) - 1

    @property
    def scale(self) -> float:
        """Real step between neighbouring integers."""
        return (self.high - self.low) / self.top

    @property
    def zero(self) -> int:
        """The integer that stands for 0; ValueError if it differs from channel to channel."""
        if self.zeros:
            raise ValueError("an image with a mean per channel can only be the input of convolutions and linear layers")
        return min(self.top, _round(-self.low / self.scale))

    def channel_zeros(self, channels: int) -> np.ndarray:
        """Real zero of every channel, float64 (channels,)."""
        return np.array(self.zeros) if self.zeros else np.full(channels, float(self.zero))

    def border(self, channels: int) -> np.ndarray | None:
        """Bytes that stand for a border of zeros, int64 (channels,); None if they are all 0."""
        values = np.clip(np.floor(self.channel_zeros(channels) + 0.5).astype(np.int64), 0, self.top)
        return values if values.any() else None


def _round(x: float) -> int:
    """floor(x + 1/2)."""
    return floor(x + 0.5)


def fixed_point(factors: Any, *, residual: float = 0.0) -> tuple[np.ndarray, int, int]:
    """(M, S, M_r) with M / 2**S nearest to `factors` and M_r / 2**S to `residual`, S as large as fits.

    factors : real numbers >= 0, not all 0. M : int64, 0..65535, at least 1 where the factor is not 0.

    Raises ValueError for factors that are negative, not finite or too large.
    """
    factors = np.asarray(factors, dtype=np.float64)
    largest = float(factors.max())
    if not (np.isfinite(factors).all() and factors.min() >= 0 and largest > 0):
        raise ValueError(f"requantisation factors must be finite and positive, got {factors.min()}..{factors.max()}")
    shift = min(SHIFT_TOP, 17 - frexp(largest)[1])
    while shift >= 0 and (
        _round(largest * 2.0**shift) > MULTIPLIER_TOP or _round(residual * 2.0**shift) > RESIDUAL_MULTIPLIER_TOP
    ):
        shift -= 1
    if shift < 0:
        raise ValueError(f"requantisation factor {max(largest, residual):g} does not fit its multiplier")
    multipliers = np.floor(factors * 2.0**shift + 0.5).astype(np.int64)
    return np.where(factors > 0, np.maximum(multipliers, 1), 0), shift, _round(residual * 2.0**shift)


@dataclass(frozen=True)
class Rescale:
    """clamp(round_half_up_shift(sum_i q_i * multipliers[i] + offset, shift), 0, top); zero points make the offset.

    ones : most ones of the result (golden_model/few_ones.py), 0 for any.
    """

    multipliers: tuple[int, ...]
    offset: int
    shift: int
    top: int
    ones: int = 0

    @classmethod
    def between(cls, sources: Sequence[Encoding], target: Encoding, share: float = 1.0) -> Rescale:
        """The sum of real activations times `share`, from their encodings to `target`."""
        factors = [source.scale * share / target.scale for source in sources]
        multipliers, shift, _ = fixed_point(factors)
        zeros = sum(source.zero / share * int(m) for source, m in zip(sources, multipliers, strict=True))
        return cls(tuple(map(int, multipliers)), _round((target.zero << shift) - zeros), shift, target.top, target.ones)

    def __call__(self, *activations: Any) -> Any:
        xp = array_library(activations[0])
        total = xp.full(activations[0].shape, self.offset, dtype=xp.int64)
        for q, multiplier in zip(activations, self.multipliers, strict=True):
            total += xp.asarray(q, dtype=xp.int64) * multiplier
        y = xp.asarray(xp.clip(round_half_up_shift(total, self.shift), 0, self.top), dtype=xp.uint8)
        return nearest_level(y, self.top.bit_length(), self.ones)


NO_RESCALE = Rescale((0,), 0, 0, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookup:
    """Any function of one real number as a table: a sum is requantised to `code`, which saturates at its ends, and the
    table holds the activation of every code.

    values : the function of the real number that each code stands for, float64 (2**code.bits,); `of` makes them.
    """

    code: Encoding
    values: np.ndarray

    def __post_init__(self) -> None:
        if self.code.ones or self.code.zeros:
            raise ValueError("the codes of a table must be any integers with one zero")
        if np.shape(self.values) != (self.code.top + 1,):
            raise ValueError(f"a table of {self.code.bits} bits must have {self.code.top + 1} values")

    @classmethod
    def of(cls, code: Encoding, function: Callable[[np.ndarray], np.ndarray]) -> Lookup:
        """The table of a function of real numbers, float64 arrays to float64 arrays."""
        return cls(code=code, values=function(code.scale * (np.arange(code.top + 1) - code.zero)))

    def table(self, encoding: Encoding) -> np.ndarray:
        """The nearest activation of `encoding` for every code, halves up, saturated: int64 (2**code.bits,)."""
        nearest = np.floor(np.clip(self.values / encoding.scale, -256, 256) + 0.5).astype(np.int64) + encoding.zero
        return nearest_level(np.clip(nearest, 0, encoding.top), encoding.bits, encoding.ones)


@dataclass(frozen=True, kw_only=True)
class Window:
    """A pooling window, (height, width) each. ceil_mode : windows may reach over the lower and right edge."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int] = (0, 0)
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        for name, low in (("kernel", 1), ("stride", 1), ("pad", 0)):
            if min(getattr(self, name)) < low:
                raise ValueError(f"pooling {name} must be at least {low}, got {getattr(self, name)}")
        if any(2 * p > k for p, k in zip(self.pad, self.kernel, strict=True)):
            raise ValueError(f"pooling pad must be at most half the kernel {self.kernel}, got {self.pad}")

    def out(self, size: int, axis: int) -> int:
        """Output size along an axis; a window must start inside the map or its leading border."""
        kernel, stride, pad = self.kernel[axis], self.stride[axis], self.pad[axis]
        span = size + 2 * pad - kernel
        places = (-(-span // stride) if self.ceil_mode else span // stride) + 1
        return places - 1 if self.ceil_mode and (places - 1) * stride >= size + pad else places

    def room(self, size: int, axis: int) -> int:
        """What the windows need along an axis: the leading border, the map, and as far as the last one reaches."""
        reach = (self.out(size, axis) - 1) * self.stride[axis] + self.kernel[axis]
        return max(reach, self.pad[axis] + size)

    def shifted(self, q: Any, border: int):
        """The map under each kernel position: yields arrays (B, C, H', W'), `border` outside the map."""
        height, width = q.shape[2:]
        out = [self.out(size, axis) for axis, size in enumerate((height, width))]
        room = self.room(height, 0), self.room(width, 1)
        if room != (height, width):
            top, left = self.pad
            padded = array_library(q).full((*q.shape[:2], *room), border, dtype=q.dtype)
            padded[:, :, top : top + height, left : left + width] = q
            q = padded
        (stride_y, stride_x), (oh, ow) = self.stride, out
        for y in range(self.kernel[0]):
            for x in range(self.kernel[1]):
                yield q[:, :, y : y + (oh - 1) * stride_y + 1 : stride_y, x : x + (ow - 1) * stride_x + 1 : stride_x]
