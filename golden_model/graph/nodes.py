"""The nodes of an integer graph: what each computes, and how its integers follow from real numbers (network.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import Layer
from golden_model.graph.numbers import NO_RESCALE, Encoding, Lookup, Rescale, Window, fixed_point
from golden_model.optional import array_library
from golden_model.trq import AdcRegisters

Shape = tuple[int, int, int]


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

    def compute(self, *activations: Any) -> Any:
        """uint8 (B, C, H, W) of every input -> uint8 (B, *shape); arrays, or tensors of torch's current device."""
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
    lookup : a function of the sum, residual included, looked up before pooling; y is then a code that indexes its
        table. None for a clamp at the ends of the encoding.
    """

    layers: tuple[Layer, ...]
    step: np.ndarray
    bias: np.ndarray
    residual_multiplier: int = 0
    lookup: Lookup | None = field(default=None, metadata={"optional": True})

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
        return self.counts_per_lsb * 2.0 ** (hardware.converter_bits - self.registers.n_r2 - self.registers.m)

    def derived(self, inputs: Sequence[Encoding], hardware: HardwareConfig) -> Node:
        """Bias, multipliers, shift and border of every layer.

        A real pre-activation is step * s_x * (counts - sum w * z_x) + bias. In units of Delta_R1 the integer bias
        also holds the zero points: -sum w * z_x of the input, +z_y * 2**S / M of the output, or of a table's codes,
        -z_r * M_r / M of the residual.
        """
        x, residual = inputs[0], inputs[1] if len(inputs) > 1 else None
        made, table = self.encoding, None
        if self.lookup is not None:
            made, table = self.lookup.code, self.lookup.table(self.encoding)
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
                scale = made.scale
                multipliers, shift, residual_multiplier = fixed_point(
                    count * unit / scale, residual=0.0 if residual is None else residual.scale / scale
                )
                zero = made.zero * 2.0**shift
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
                    output_bits=made.bits,
                    output_ones=made.ones,
                    table=table,
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

    def compute(self, *activations: Any) -> Any:
        xp, parts = array_library(activations[0]), self.window.shifted(activations[0], 0)
        best = xp.asarray(next(parts), copy=True)
        for part in parts:
            xp.maximum(best, part, out=best)
        return best


@dataclass(frozen=True, kw_only=True, eq=False)
class AveragePool(Node):
    """Mean of any window as sum * M_p with shift S_p; places outside the map count as real zeros.

    sums : the node makes the logits: the sum of the window itself, not rounded and not clamped (*ours*, as the
        last layer's acc + bias).
    """

    window: Window
    sums: bool = False
    rescale: Rescale = NO_RESCALE
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

    def compute(self, *activations: Any) -> Any:
        """uint8, or int64 sums minus area * zero if this node makes the logits."""
        xp = array_library(activations[0])
        total = xp.zeros((len(activations[0]), *self.shape), dtype=xp.int64)
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

    def compute(self, *activations: Any) -> Any:
        parts = [q if r is None else r(q) for q, r in zip(activations, self.rescales, strict=True)]
        return array_library(parts[0]).concatenate(parts, axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Node):
    """Sum of inputs that no crossbar layer's post-processing can take up; with one input it changes the encoding.

    A range that starts at 0 makes it a ReLU, because the result is clamped to 0..2**a - 1. lookup : a function of the
    sum; the rescaling then gives a code that indexes its table.
    """

    rescale: Rescale = NO_RESCALE
    lookup: Lookup | None = field(default=None, metadata={"optional": True})

    @property
    def table(self) -> np.ndarray | None:
        """The activation of every code, int64; None without a function."""
        return None if self.lookup is None else self.lookup.table(self.encoding)

    def derived(self, inputs: Sequence[Encoding], hardware: HardwareConfig) -> Node:
        made = self.encoding if self.lookup is None else self.lookup.code
        return replace(self, rescale=Rescale.between(inputs, made))

    def expected_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len(set(inputs)) > 1:
            raise ValueError(f"only maps of one shape can be added, got {list(inputs)}")
        return inputs[0]

    def compute(self, *activations: Any) -> Any:
        made, table = self.rescale(*activations), self.table
        if table is None:
            return made
        xp = array_library(made)
        return xp.asarray(table, dtype=xp.uint8)[xp.asarray(made, dtype=xp.int64)]


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

    def compute(self, *activations: Any) -> Any:
        q = activations[0][:, :, :: self.stride[0], :: self.stride[1]]
        xp = array_library(q)
        made = xp.empty((len(q), *self.shape), dtype=xp.uint8)
        made[...] = xp.asarray(self.values)[:, None, None]
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

    def compute(self, *activations: Any) -> Any:
        return activations[0].reshape(len(activations[0]), *self.shape)


def _image_words() -> str:
    return "an image with a mean per channel can only be the input of convolutions and linear layers"
