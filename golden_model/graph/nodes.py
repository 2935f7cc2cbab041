"""The nodes of an integer graph: what each computes, and how its integers follow from real numbers (graph.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import floor, frexp
from typing import Any

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.graph.layers import Layer
from golden_model.rounding import round_half_up_shift
from golden_model.trq import AdcRegisters

Shape = tuple[int, int, int]

#: Largest output multiplier M (system.md §3), and largest residual multiplier M_r. M and M_r share the shift S, and
#: a sum's factor is smaller than a residual's by the size of a dot product, so M_r needs more bits (*ours*).
MULTIPLIER_TOP = (1 << 16) - 1
RESIDUAL_MULTIPLIER_TOP = (1 << 32) - 1
_SHIFT_TOP = 62


# ---- numbers ------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How unsigned integers of `bits` bits stand for real numbers: real = scale * (q - zero).

    low, high : real range that is covered, low <= 0 < high; low = 0 gives zero = 0.
    zeros : real zero per channel instead, for an image whose mean is subtracted per channel (system.md §3).
    """

    high: float
    low: float = 0.0
    bits: int = 8
    zeros: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low <= 0 < self.high):
            raise ValueError(f"an activation's range must be finite with low <= 0 < high, got {self.low}..{self.high}")
        if not 1 <= self.bits <= 8:
            raise ValueError(f"an activation must have 1..8 bits, got {self.bits}")

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
    shift = min(_SHIFT_TOP, 17 - frexp(largest)[1])
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
    """clamp(round_half_up_shift(sum_i q_i * multipliers[i] + offset, shift), 0, top); zero points make the offset."""

    multipliers: tuple[int, ...]
    offset: int
    shift: int
    top: int

    @classmethod
    def between(cls, sources: Sequence[Encoding], target: Encoding, share: float = 1.0) -> Rescale:
        """The sum of real activations times `share`, from their encodings to `target`."""
        factors = [source.scale * share / target.scale for source in sources]
        multipliers, shift, _ = fixed_point(factors)
        zeros = sum(source.zero / share * int(m) for source, m in zip(sources, multipliers, strict=True))
        return cls(tuple(map(int, multipliers)), _round((target.zero << shift) - zeros), shift, target.top)

    def __call__(self, *activations: np.ndarray) -> np.ndarray:
        total = np.full(activations[0].shape, self.offset, dtype=np.int64)
        for q, multiplier in zip(activations, self.multipliers, strict=True):
            total += q.astype(np.int64) * multiplier
        return np.clip(round_half_up_shift(total, self.shift), 0, self.top).astype(np.uint8)


_NO_RESCALE = Rescale((0,), 0, 0, 0)


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

    def shifted(self, q: np.ndarray, border: int):
        """The map under each kernel position: yields arrays (B, C, H', W'), `border` outside the map."""
        height, width = q.shape[2:]
        out = [self.out(size, axis) for axis, size in enumerate((height, width))]
        reach = [(o - 1) * s + k for o, s, k in zip(out, self.stride, self.kernel, strict=True)]
        if any(self.pad) or reach[0] > height or reach[1] > width:
            top, left = self.pad
            room = (max(reach[0], top + height), max(reach[1], left + width))
            padded = np.full((*q.shape[:2], *room), border, dtype=q.dtype)
            padded[:, :, top : top + height, left : left + width] = q
            q = padded
        (stride_y, stride_x), (oh, ow) = self.stride, out
        for y in range(self.kernel[0]):
            for x in range(self.kernel[1]):
                yield q[:, :, y : y + (oh - 1) * stride_y + 1 : stride_y, x : x + (ow - 1) * stride_x + 1 : stride_x]


# ---- nodes --------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One step of a graph. inputs : names of earlier nodes. shape : (C, H, W) and encoding : of its output."""

    name: str
    inputs: tuple[str, ...]
    shape: Shape
    encoding: Encoding

    def derived(self, inputs: Sequence[Encoding], hardware: HardwareConfig) -> Node:
        """The same node with its integers derived for these encodings of its inputs."""
        return replace(self, encoding=inputs[0])

    def expected_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output for these shapes of the inputs; ValueError if they do not fit."""
        return inputs[0]

    def compute(self, *activations: np.ndarray) -> np.ndarray:
        """uint8 (B, C, H, W) of every input -> uint8 (B, *shape)."""
        raise NotImplementedError

    def logits(self, output: np.ndarray) -> np.ndarray:
        """This node's output as logits, int64 (B, C * H * W): integers whose 0 is the real 0."""
        return output.reshape(len(output), int(np.prod(self.shape))).astype(np.int64) - self.encoding.zero

    @property
    def logit_scale(self) -> float:
        """Real value of one step of a logit."""
        return self.encoding.scale


@dataclass(frozen=True, kw_only=True, eq=False)
class Image(Node):
    """The pixels, uint8."""

    inputs: tuple[str, ...] = ()

    def derived(self, inputs: Sequence[Encoding], hardware: HardwareConfig) -> Node:
        return self

    def expected_shape(self, inputs: Sequence[Shape]) -> Shape:
        return self.shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Crossbar(Node):
    """A convolution or fully connected layer, optionally with a residual that is added in its post-processing.

    y = clamp(round_half_up_shift((acc + bias) * M[n] + r * M_r, S), 0, 2**a - 1) (system.md §3). The inputs are
    the activations, and the residual r if there is one. All layers share S.

    layers : one per group; group g takes the g-th part of the input's channels and makes the g-th part of the
        outputs. Integers of bias, multipliers, shift and border come from `derived`.
    step : real value per integer weight, float64 (N,). bias : real bias, float64 (N,).
    residual_multiplier : M_r, 0..2**32 - 1.
    """

    layers: tuple[Layer, ...]
    step: np.ndarray
    bias: np.ndarray
    residual_multiplier: int = 0

    @property
    def last(self) -> bool:
        return self.layers[0].last

    @property
    def registers(self) -> AdcRegisters:
        return self.layers[0].registers

    @property
    def counts_per_lsb(self) -> float:
        return self.layers[0].counts_per_lsb

    def counts_per_unit(self, hardware: HardwareConfig) -> float:
        """Counts per Delta_R1, the unit of a partial sum: lambda * 2**s1, s1 = R - n_r2 - m (system.md §4.4)."""
        return self.counts_per_lsb * 2.0 ** (hardware.adc_bits - self.registers.n_r2 - self.registers.m)

    def derived(self, inputs: Sequence[Encoding], hardware: HardwareConfig) -> Node:
        """Bias, multipliers, shift and border of every layer.

        A real pre-activation is step * s_x * (counts - sum w * z_x) + bias. In units of Delta_R1 the integer bias
        also holds the zero points: -sum w * z_x of the input, +z_y * 2**S / M of the output, -z_r * M_r / M of the
        residual.
        """
        x, residual = inputs[0], inputs[1] if len(inputs) > 1 else None
        channels = self.layers[0].channels * len(self.layers)
        zeros, border = x.channel_zeros(channels), x.border(channels)
        try:
            unit = self.counts_per_unit(hardware)
            count = self.step * x.scale
            correction = np.concatenate(
                [
                    np.repeat(part, layer.kernel_height * layer.kernel_width) @ layer.weights
                    for part, layer in zip(np.split(zeros, len(self.layers)), self.layers, strict=True)
                ]
            )
            # A channel without a factor gives 0 whatever it sums.
            real = np.divide(self.bias, count, out=np.zeros(len(count)), where=count > 0)
            bias = (real - correction) / unit
            multipliers, shift, residual_multiplier = np.zeros(len(bias), dtype=np.int64), 0, 0
            if not self.last:
                scale = self.encoding.scale
                multipliers, shift, residual_multiplier = fixed_point(
                    count * unit / scale, residual=0.0 if residual is None else residual.scale / scale
                )
                zero = self.encoding.zero * 2.0**shift
                if residual is not None:
                    zero -= residual.zero * residual_multiplier
                bias = bias + zero / np.maximum(multipliers, 1)
        except ValueError as error:
            raise ValueError(f"layer {self.name}: {error}") from None
        integer_bias = np.floor(bias + 0.5)
        if not (np.isfinite(bias).all() and np.abs(integer_bias).max() < 1 << 31):
            raise ValueError(
                f"layer {self.name}: its bias does not fit 32 bits, the largest is {np.abs(bias).max():g} steps"
            )
        layers, first = [], 0
        for index, layer in enumerate(self.layers):
            part = slice(first, first + layer.outputs)
            first += layer.outputs
            inside = slice(index * layer.channels, (index + 1) * layer.channels)
            layers.append(
                replace(
                    layer,
                    bias=integer_bias[part].astype(np.int64),
                    multipliers=multipliers[part],
                    shift=shift,
                    pad_values=None if border is None or layer.pad == 0 else border[inside],
                    input_bits=x.bits,
                    output_bits=self.encoding.bits,
                )
            )
        return replace(self, layers=tuple(layers), residual_multiplier=residual_multiplier)

    def expected_shape(self, inputs: Sequence[Shape]) -> Shape:
        first = self.layers[0]
        taken = (first.channels * len(self.layers), first.height, first.width)
        same = np.prod(inputs[0]) == np.prod(taken) if first.kind == "linear" else inputs[0] == taken
        if not same:
            raise ValueError(f"it takes {taken}, node {self.inputs[0]} makes {inputs[0]}")
        made = (sum(layer.outputs for layer in self.layers), first.out_height, first.out_width)
        if len(inputs) > 1 and (inputs[1] != made or first.pool != 1):
            raise ValueError(f"a residual must have the layer's own shape {made} and no pooling, got {inputs[1]}")
        return made

    def finish(self, layer: Layer, sums: np.ndarray, residual: np.ndarray | None) -> np.ndarray:
        """Post-processing of one image and group in plain NumPy.

        sums : integers (windows, columns >= N). residual : uint8 (N, H, W) or None. Returns uint8 (N, H', W'), or
        logits int64 (N,) of a last layer.
        """
        sums = sums[:, : layer.outputs].astype(np.int64) + layer.bias
        if layer.last:
            return sums[0]
        total = sums * layer.multipliers
        if residual is not None:
            total += residual.reshape(layer.outputs, -1).T.astype(np.int64) * self.residual_multiplier
        y = np.clip(round_half_up_shift(total, layer.shift), 0, (1 << layer.output_bits) - 1).astype(np.uint8)
        pooled = y.reshape(layer.out_height * layer.out_width, layer.pool**2, layer.outputs).max(axis=1)
        return np.ascontiguousarray(pooled.T).reshape(layer.outputs, layer.out_height, layer.out_width)

    def logits(self, output: np.ndarray) -> np.ndarray:
        return output if self.last else super().logits(output)

    @property
    def logit_scale(self) -> float:
        """Real value of one step of a logit: of the sums if this is a last layer."""
        return float(self.layers[0].scales["output"]) if self.last else self.encoding.scale


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Node):
    """Maximum of any window; places outside the map count as the smallest value."""

    window: Window

    def expected_shape(self, inputs: Sequence[Shape]) -> Shape:
        c, h, w = inputs[0]
        return c, self.window.out(h, 0), self.window.out(w, 1)

    def compute(self, *activations: np.ndarray) -> np.ndarray:
        best: np.ndarray | None = None
        for part in self.window.shifted(activations[0], 0):
            best = part.copy() if best is None else np.maximum(best, part, out=best)
        assert best is not None
        return best


@dataclass(frozen=True, kw_only=True, eq=False)
class AveragePool(Node):
    """Mean of any window as sum * M_p with shift S_p; places outside the map count as real zeros.

    sums : the node makes the logits: the sum of the window itself, not rounded and not clamped (*ours*, as the
        last layer's acc + bias).
    """

    window: Window
    sums: bool = False
    rescale: Rescale = _NO_RESCALE
    #: Integer zero of the input, the border's value.
    input_zero: int = 0

    @property
    def area(self) -> int:
        return self.window.kernel[0] * self.window.kernel[1]

    def derived(self, inputs: Sequence[Encoding], hardware: HardwareConfig) -> Node:
        if self.sums:
            return replace(self, encoding=inputs[0], input_zero=inputs[0].zero)
        rescale = Rescale.between(inputs, self.encoding, 1 / self.area)
        return replace(self, rescale=rescale, input_zero=inputs[0].zero)

    expected_shape = MaxPool.expected_shape

    def compute(self, *activations: np.ndarray) -> np.ndarray:
        """uint8, or int64 sums minus area * zero if this node makes the logits."""
        total = np.zeros((len(activations[0]), *self.shape), dtype=np.int64)
        for part in self.window.shifted(activations[0], self.input_zero):
            total += part
        if self.sums:
            return total - self.area * self.input_zero
        return self.rescale(total)

    def logits(self, output: np.ndarray) -> np.ndarray:
        return output.reshape(len(output), int(np.prod(self.shape))) if self.sums else super().logits(output)

    @property
    def logit_scale(self) -> float:
        return self.encoding.scale / self.area if self.sums else self.encoding.scale


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(Node):
    """Channels of all inputs one after the other, on one scale. rescales : per input, None where it has it already."""

    rescales: tuple[Rescale | None, ...] = ()

    def derived(self, inputs: Sequence[Encoding], hardware: HardwareConfig) -> Node:
        return replace(
            self, rescales=tuple(None if e == self.encoding else Rescale.between([e], self.encoding) for e in inputs)
        )

    def expected_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len({shape[1:] for shape in inputs}) > 1:
            raise ValueError(f"maps of one height and width can be concatenated, got {list(inputs)}")
        return sum(shape[0] for shape in inputs), *inputs[0][1:]

    def compute(self, *activations: np.ndarray) -> np.ndarray:
        parts = [q if r is None else r(q) for q, r in zip(activations, self.rescales, strict=True)]
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Node):
    """Sum of inputs that no crossbar layer's post-processing can take up; with one input it changes the encoding.

    A range that starts at 0 makes it a ReLU, because the result is clamped to 0..2**a - 1.
    """

    rescale: Rescale = _NO_RESCALE

    def derived(self, inputs: Sequence[Encoding], hardware: HardwareConfig) -> Node:
        return replace(self, rescale=Rescale.between(inputs, self.encoding))

    def expected_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len(set(inputs)) > 1:
            raise ValueError(f"only maps of one shape can be added, got {list(inputs)}")
        return inputs[0]

    def compute(self, *activations: np.ndarray) -> np.ndarray:
        return self.rescale(*activations)


@dataclass(frozen=True, kw_only=True, eq=False)
class Border(Node):
    """Every `stride`-th pixel, then a border and channels of zeros: the option-A shortcut, or a lopsided border.

    stride : (y, x). border : rows above, rows below, columns left, columns right. channels : channels before, after.
    values : what stands for zero, int64 (C,) of the output.
    """

    stride: tuple[int, int] = (1, 1)
    border: tuple[int, int, int, int] = (0, 0, 0, 0)
    channels: tuple[int, int] = (0, 0)
    values: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def derived(self, inputs: Sequence[Encoding], hardware: HardwareConfig) -> Node:
        if inputs[0].zeros and any(self.channels):
            raise ValueError(f"node {self.name}: {_image_words()}")
        values = inputs[0].border(self.shape[0])
        return replace(
            self, encoding=inputs[0], values=np.zeros(self.shape[0], dtype=np.int64) if values is None else values
        )

    def expected_shape(self, inputs: Sequence[Shape]) -> Shape:
        c, h, w = inputs[0]
        above, below, left, right = self.border
        return (
            c + sum(self.channels),
            -(-h // self.stride[0]) + above + below,
            -(-w // self.stride[1]) + left + right,
        )

    def compute(self, *activations: np.ndarray) -> np.ndarray:
        q = activations[0][:, :, :: self.stride[0], :: self.stride[1]]
        made = np.empty((len(q), *self.shape), dtype=np.uint8)
        made[...] = self.values[:, None, None]
        (above, _, left, _), (before, _) = self.border, self.channels
        made[:, before : before + q.shape[1], above : above + q.shape[2], left : left + q.shape[3]] = q
        return made


@dataclass(frozen=True, kw_only=True, eq=False)
class Reshape(Node):
    """The same values, in C, H, W order, under another shape; free."""

    def derived(self, inputs: Sequence[Encoding], hardware: HardwareConfig) -> Node:
        if inputs[0].zeros:
            raise ValueError(f"node {self.name}: {_image_words()}")
        return replace(self, encoding=inputs[0])

    def expected_shape(self, inputs: Sequence[Shape]) -> Shape:
        if np.prod(inputs[0]) != np.prod(self.shape):
            raise ValueError(f"{inputs[0]} cannot be reshaped to {self.shape}")
        return self.shape

    def compute(self, *activations: np.ndarray) -> np.ndarray:
        return activations[0].reshape(len(activations[0]), *self.shape)


def _image_words() -> str:
    return "an image with a mean per channel can only be the input of convolutions and linear layers"
