"""Trained network -> the integers that golden model and hardware compute with (system.md §3, §4.4, §6).

The integer path is the truth; the fake-quantised forward of `quant.training.layers` only approximates it,
because here bias and requantisation are integers too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import floor, frexp

import numpy as np
import torch

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.crossbar.post_processing import finish_layer
from golden_model.crossbar.redy import precision
from golden_model.crossbar.windows import windows
from golden_model.trq import AdcRegisters, lossless, min_count
from quant.training.layers import PIXEL_LEVELS, QuantNetwork

MULTIPLIER_TOP = 2**16 - 1
SHIFT_TOP = 63


@dataclass(frozen=True, kw_only=True)
class AdcSetting:
    """A/D registers of a layer and its grid: counts_per_lsb = lambda (system.md §4.4)."""

    registers: AdcRegisters
    counts_per_lsb: float = 1.0

    def counts_per_unit(self, adc_bits: int) -> float:
        """Counts per Delta_R1, the unit of a partial sum: lambda * 2**s1, s1 = R - n_r2 - m."""
        return self.counts_per_lsb * 2.0 ** (adc_bits - self.registers.n_r2 - self.registers.m)

    def lossless(self, hardware: HardwareConfig) -> bool:
        return lossless(self.registers, hardware, min_count(hardware.adc_bits, self.counts_per_lsb))


def lossless_uniform(hardware: HardwareConfig) -> AdcSetting:
    """The ISAAC-like converter: uniform with all adc_bits bits, Delta_R1 = 1 count."""
    if hardware.adc_bits < hardware.ideal_bits:
        raise ValueError(
            f"{hardware.ou_rows} rows need adc_bits = {hardware.ideal_bits} to be lossless, got {hardware.adc_bits}"
        )
    return AdcSetting(registers=AdcRegisters(mode="uniform", n_r2=hardware.adc_bits))


def round_half_up(x: float) -> int:
    """floor(x + 1/2)."""
    return floor(x + 0.5)


def multiplier_and_shift(factors: Sequence[float]) -> tuple[np.ndarray, int]:
    """(M, S) with M[n] / 2**S nearest to positive real `factors`[n]; M in 0..65535, S in 0..63, S as large as possible.

    ValueError if a factor is not positive and finite, or too large for 16 bits.
    """
    values = np.asarray(factors, dtype=np.float64)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"requantisation factors must be positive and finite, got {values.min()}..{values.max()}")
    largest = float(values.max())
    shift = min(SHIFT_TOP, 17 - frexp(largest)[1])
    while shift >= 0 and round_half_up(largest * 2.0**shift) > MULTIPLIER_TOP:
        shift -= 1
    if shift < 0:
        raise ValueError(f"requantisation factor {largest:g} does not fit an unsigned 16-bit multiplier")
    return np.array([round_half_up(float(f) * 2.0**shift) for f in values], dtype=np.int64), shift


@torch.no_grad()
def to_layers(
    network: QuantNetwork,
    adc: Sequence[AdcSetting] | None = None,
    dynamic: Sequence[DynamicPrecision | None] | None = None,
    *,
    skip_zero_slices: bool = False,
) -> tuple[Layer, ...]:
    """Integer layers of a trained network.

    adc : one setting per layer, None for the lossless uniform converter. dynamic : dynamic precision per
    layer, None to stream all bits.

    A layer's real pre-activation is step * input_scale * (count units) + bias, so in Delta_R1 units
    bias = round_half_up(bias / unit), unit = step * input_scale * lambda * 2**s1; M / 2**S = unit / output_scale.

    Raises ValueError naming the layer for numbers that are not finite, a bias or sum that does not fit
    the accumulator, or a factor that does not fit the multiplier.
    """
    hardware = network.hardware
    count = len(network.layers)
    adc = [lossless_uniform(hardware)] * count if adc is None else adc
    dynamic = [None] * count if dynamic is None else dynamic
    layers: list[Layer] = []
    input_scale, input_bits = 1.0 / PIXEL_LEVELS, 8
    if hardware.input_bits < input_bits:
        raise ValueError(f"images have 8 bits, but the hardware streams input_bits = {hardware.input_bits}")
    for index, (layer, setting, redy) in enumerate(zip(network, adc, dynamic, strict=True)):
        stage, name = layer.stage, layer.stage.name
        step = float(layer.source.step())
        bias = layer.bias.double().numpy()
        clip = float(layer.clip)
        floats = layer.source.integers().numpy()
        if not (np.isfinite(floats).all() and np.isfinite(bias).all() and np.isfinite([step, clip]).all()):
            raise ValueError(f"layer {name!r}: a weight, bias or scale is not a finite number")
        weights = floats.astype(np.int64).T
        unit = step * input_scale * setting.counts_per_unit(hardware.adc_bits)
        integer_bias = np.floor(bias / unit + 0.5)
        last = index == count - 1
        output_bits = hardware.input_bits if last else layer.bits
        output_scale = 1.0 if last else clip / (2**output_bits - 1)
        try:
            multipliers, shift = (
                (np.zeros(stage.outputs, dtype=np.int64), 0)
                if last
                else multiplier_and_shift([unit / output_scale] * stage.outputs)
            )
            _check_accumulator(hardware, stage.k, integer_bias)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from None
        layers.append(
            Layer(
                name=name,
                kind=stage.kind,
                channels=stage.channels,
                height=stage.height,
                width=stage.width,
                kernel_height=stage.kernel_height,
                kernel_width=stage.kernel_width,
                stride=stage.stride,
                pad=stage.pad,
                pool=stage.pool,
                outputs=stage.outputs,
                weights=weights,
                bias=integer_bias.astype(np.int64),
                multipliers=multipliers,
                shift=shift,
                block_widths=layer.source.block_widths().numpy(),
                registers=setting.registers,
                min_count=min_count(hardware.adc_bits, setting.counts_per_lsb),
                counts_per_lsb=setting.counts_per_lsb,
                pad_values=None if layer.pad_levels is None else layer.pad_levels.numpy().copy(),
                dynamic=redy,
                skip_zero_slices=skip_zero_slices,
                input_bits=input_bits,
                output_bits=output_bits,
                last=last,
                scales={"weight": step, "input": input_scale, "output": unit if last else output_scale},
            )
        )
        input_scale, input_bits = output_scale, output_bits
    return tuple(layers)


def _check_accumulator(hardware: HardwareConfig, k: int, bias: np.ndarray) -> None:
    """Reject a bias or layer that can leave the accumulator (system.md §3, accumulator width)."""
    segments = -(-k // hardware.ou_rows)
    largest = segments * (2**hardware.adc_bits - 1) * (2**hardware.input_bits - 1) * (2**hardware.weight_bits - 1)
    bits = (largest + int(np.abs(bias).max())).bit_length() + 1
    if bits > hardware.accumulator_bits:
        raise ValueError(
            f"it needs a {bits}-bit accumulator, the hardware has accumulator_bits = {hardware.accumulator_bits}"
        )


def with_settings(
    layers: Sequence[Layer], dynamic: Sequence[DynamicPrecision | None], *, skip_zero_slices: bool | None = None
) -> tuple[Layer, ...]:
    """The same layers with other dynamic precision (and zero-slice skipping, unless None)."""
    return tuple(
        replace(
            layer, dynamic=d, skip_zero_slices=layer.skip_zero_slices if skip_zero_slices is None else skip_zero_slices
        )
        for layer, d in zip(layers, dynamic, strict=True)
    )


#: Called with (images done, images in all).
Progress = Callable[[int, int], None]


def exact_layer(layer: Layer, hardware: HardwareConfig, activations: np.ndarray) -> np.ndarray:
    """A layer's output with a lossless converter: golden_model.network.run_layer without its events.

    activations : uint8 (B, C, H, W). Returns uint8 (B, N, H', W'), or logits (B, N) int64 of the last layer.
    The sums come from one float64 matrix product, exact because accumulators stay far below 2**53.
    """
    rows = windows(layer, activations).reshape(-1, layer.k)
    if layer.dynamic is not None:
        rows = precision(rows, hardware, layer.dynamic).streamed
    sums = (rows.astype(np.float64) @ layer.weights.astype(np.float64)).astype(np.int64)
    return finish_layer(layer, sums.reshape(len(activations), layer.windows, layer.outputs))


def exact_logits(
    layers: Sequence[Layer],
    hardware: HardwareConfig,
    images: np.ndarray,
    *,
    chunk: int = 200,
    progress: Progress | None = None,
) -> np.ndarray:
    """Logits (B, N) int64 of uint8 images (B, C, H, W), provided that every layer's converter is lossless.

    Far faster than the golden model because no conversion is simulated; a test holds the two equal.
    ValueError names a layer whose converter is lossy.
    """
    for layer in layers:
        if not lossless(layer.registers, hardware, layer.min_count):
            raise ValueError(f"layer {layer.name!r}: its converter is lossy, use the golden model")
    parts = []
    for start in range(0, len(images), chunk):
        x = images[start : start + chunk]
        for layer in layers:
            x = exact_layer(layer, hardware, x.reshape(len(x), layer.channels, layer.height, layer.width))
        parts.append(x)
        if progress is not None:
            progress(min(start + chunk, len(images)), len(images))
    return np.concatenate(parts)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose largest logit is the label's; the first of equal logits counts."""
    return float((logits.argmax(axis=1) == labels).mean())
