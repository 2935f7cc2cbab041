"""What a deployment image does, measured with the golden model for reports.

Counts on the bit lines per layer, the lossless and the lossy part of dynamic precision, and the events
of the same network with its savings switched on one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from golden_model import trq
from golden_model.config import HardwareConfig
from golden_model.cost import energy as cost
from golden_model.cost import work
from golden_model.crossbar import mapping, redy
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.crossbar.windows import windows
from golden_model.engines.chain import Runner
from golden_model.events import Events
from golden_model.graph.layers import Network
from golden_model.trq import AdcRegisters


@dataclass(frozen=True, eq=False)
class LayerMeasurement:
    """One layer over some windows.

    histogram : int64 (ou_rows + 1,), conversions by the count that was on the bit line.
    streamed_bits, lossless_bits, lossy_bits : bit positions per (window, segment), means; they add up to
        hardware.input_bits. Lossless are leading zeros of a group, lossy the low bits rounded away.
    """

    histogram: np.ndarray
    streamed_bits: float
    lossless_bits: float
    lossy_bits: float


def measure_layer(layer: Layer, hardware: HardwareConfig, windows: np.ndarray) -> LayerMeasurement:
    """Convert every stored plane of every streamed slice and count what the bit lines carry.

    windows : (P, K) unsigned activations, one window a row. The sum of the histogram equals the golden
    model's number of conversions for the same windows.
    """
    rows, (segments, _) = hardware.ou_rows, layer.block_widths.shape
    positions = np.arange(hardware.input_bits)
    if layer.dynamic is None:
        q = np.asarray(windows, dtype=np.int64)
        low = np.zeros((len(q), segments), dtype=np.int64)
        high = np.full_like(low, layer.input_bits - 1)
    else:
        choice = redy.precision(windows, hardware, layer.dynamic)
        group = np.arange(segments) // hardware.segments_per_group
        q, low, high = choice.streamed, choice.lo[:, group], choice.hi[:, group]
        low = np.where(high < 0, 0, low)
    padded = np.zeros((len(q), segments * rows), dtype=np.int64)
    padded[:, : layer.k] = q
    inputs = padded.reshape(len(q), segments, rows)
    streamed = (positions >= low[..., None]) & (positions <= high[..., None])  # (P, segments, bits)

    stored = mapping.planes(layer.weights, hardware).astype(np.float32)  # (segments, planes, 2, rows, N)
    column_widths = np.repeat(layer.block_widths, hardware.ou_cols, axis=1)[:, : layer.outputs]
    histogram = np.zeros(rows + 1, dtype=np.int64)
    for segment in range(segments):
        for i in positions:
            on = streamed[:, segment, i]
            slices = ((inputs[on, segment] >> i) & 1).astype(np.float32)
            if layer.skip_zero_slices:
                slices = slices[slices.any(axis=1)]
            if not len(slices):
                continue
            for plane in range(int(column_widths[segment].max(initial=0))):
                columns = column_widths[segment] > plane
                cells = stored[segment, plane][:, :, columns]  # (2, rows, columns)
                counts = np.matmul(slices, cells).astype(np.int64)
                histogram += np.bincount(counts.ravel(), minlength=rows + 1)
    return LayerMeasurement(
        histogram=histogram,
        streamed_bits=float(streamed.sum(axis=2).mean()),
        lossless_bits=float((hardware.input_bits - 1 - high).mean()),
        lossy_bits=float(low.mean()),
    )


def measure(network: Network, images: np.ndarray) -> list[LayerMeasurement]:
    """`measure_layer` for every layer on the windows of uint8 images (B, C, H, W)."""
    outputs, _ = Runner(network).run_layers(images)
    result = []
    for layer, activations in zip(network.layers, [images, *outputs[:-1]], strict=True):
        maps = activations.reshape(len(images), layer.channels, layer.height, layer.width)
        result.append(measure_layer(layer, network.hardware, windows(layer, maps).reshape(-1, layer.k)))
    return result


def operations_of(layer: Layer, hardware: HardwareConfig) -> trq.ConversionResult:
    """Conversion of every count 0..ou_rows with the registers of `layer`."""
    return trq.convert_counts(hardware.adc_bits, hardware.ou_rows, layer.registers, layer.min_count)


# ---- one saving after another -------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Step:
    """A machine and its events for one image, leading shape (layers,), mean counts as float64 arrays.

    own_input_bits, extra : as for `cost.energy`.
    """

    name: str
    events: np.ndarray
    width_table: bool = True
    own_input_bits: bool = True
    extra: dict[str, np.ndarray] = field(default_factory=dict)


def _extra(network: Network) -> dict[str, np.ndarray]:
    """What passes the dynamic-precision unit and what it decides, if the network uses it."""
    return {name: counts for name, counts in work.dynamic_precision_events(network).items() if counts.any()}


def steps(network: Network, images: np.ndarray, final: Events) -> list[Step]:
    """The baseline, then the savings of `network` switched on one after another, then the network as it is.

    Steps that change nothing in this network are left out. images : the pictures to run; final : the
    recorded events of the same pictures, leading shape (images, layers).
    """
    hardware = network.hardware
    result = [
        Step(
            "ISAAC-like baseline",
            cost.baseline_events(network).counts.astype(np.float64),
            width_table=False,
            own_input_bits=False,
        ),
        Step(
            "block bit widths (BWQ)", cost.block_width_events(network).counts.astype(np.float64), own_input_bits=False
        ),
    ]
    uniform = AdcRegisters(mode="uniform", n_r2=min(hardware.ideal_bits, hardware.adc_bits))
    twin_range = any(layer.registers != uniform for layer in network.layers)

    plain = [replace(layer, dynamic=None, skip_zero_slices=False) for layer in network.layers]
    changes: list[tuple[str, bool, Callable[[Layer, Layer], Layer]]] = [
        (
            "+ twin-range conversion (TRQ)" if twin_range else "+ activation widths",
            twin_range or any(layer.input_bits < hardware.input_bits for layer in network.layers),
            lambda now, real: now,
        ),
        (
            "+ skipping of zero slices",
            any(layer.skip_zero_slices for layer in network.layers),
            lambda now, real: replace(now, skip_zero_slices=real.skip_zero_slices),
        ),
        (
            "+ dynamic precision, lossless part (ReDy)",
            any(layer.dynamic is not None for layer in network.layers),
            lambda now, real: replace(now, dynamic=None if real.dynamic is None else DynamicPrecision()),
        ),
        (
            "+ dynamic precision, lossy part",
            any(layer.dynamic is not None and layer.dynamic.tau_sq and layer.dynamic.l_max for layer in network.layers),
            lambda now, real: replace(now, dynamic=real.dynamic),
        ),
    ]
    kept = [change for change in changes if change[1]]
    layers = plain
    for name, _, change in kept[:-1]:
        layers = [change(now, real) for now, real in zip(layers, network.layers, strict=True)]
        now = replace(network, layers=tuple(layers))
        result.append(Step(name, cost.per_image(Runner(now).run(images)[1], network), extra=_extra(now)))
    name = kept[-1][0] if kept else "this image"
    result.append(Step(name, cost.per_image(final, network), extra=_extra(network)))
    return result
