"""A whole integer network: windows, layers, requantisation, pooling (system.md §3, §5a, §10)."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from golden_model import layer as crossbar
from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar import redy as dynamic_precision
from golden_model.events import Events
from golden_model.graph.layers import Layer, Network
from golden_model.registers import COUNTER_NAMES
from golden_model.rounding import round_half_up_shift
from golden_model.trq import check_min_count, check_search

#: Called after every part of the batch: (images finished, images).
Progress = Callable[[int, int], None]
#: Turns the sums of one image (its index in the batch; integers (windows, columns), columns >= N) into its output.
Finish = Callable[[int, np.ndarray], np.ndarray]

#: What the descriptor reserves or the papers do, and this version does not: name -> words for people.
UNSUPPORTED = {
    "residual": "residual addition",
    "average_pool": "average pooling",
    "signed_activations": "signed activations",
    "overlapping_pool": "overlapping pooling",
    "groups": "grouped convolution",
    "dilation": "dilated convolution",
}

_CHUNK_BYTES = 64 << 20
_IMAGES_PER_PART = 16  # images that a thread takes at a time


# ---- checks -------------------------------------------------------------------------------------
def refuse_unsupported(where: str, features: dict[str, Any]) -> None:
    """ValueError naming the first feature of `UNSUPPORTED` that is switched on in `features`."""
    for key, words in UNSUPPORTED.items():
        if features.get(key):
            raise ValueError(f"{where}: this version does not support {words}")


def accumulator_bits_needed(layer: Layer, hardware: HardwareConfig) -> int:
    """Width of a signed partial sum that cannot overflow (system.md §3, from the code range)."""
    largest = (
        layer.segments(hardware)
        * ((1 << hardware.adc_bits) - 1)
        * ((1 << layer.input_bits) - 1)
        * ((1 << hardware.weight_bits) - 1)
    )
    return (largest + int(np.abs(layer.bias).max(initial=0))).bit_length() + 1


def _integers(where: str, name: str, values: Any, shape: tuple[int, ...], low: int, high: int) -> None:
    values = np.asarray(values)
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ValueError(f"{where}: {name} holds NaN")
    if values.dtype.kind not in "iu":
        raise TypeError(f"{where}: {name} must be integers, got dtype {values.dtype}")
    if values.shape != shape:
        raise ValueError(f"{where}: {name} must have shape {shape}, got {values.shape}")
    if values.size and (values.min() < low or values.max() > high):
        raise ValueError(f"{where}: {name} must be in {low}..{high}, got {int(values.min())}..{int(values.max())}")


def check_layer(layer: Layer, hardware: HardwareConfig, *, capacity: bool = True) -> None:
    """Raise ValueError or TypeError, one sentence naming the layer, unless the hardware can run it.

    capacity : False leaves out what one tile can hold (max_k, max_n, activation_bytes).
    """
    where = f"layer {layer.name}"
    if layer.kind in UNSUPPORTED:
        raise ValueError(f"{where}: this version does not support {UNSUPPORTED[layer.kind]}")
    if layer.kind not in ("conv", "linear"):
        raise ValueError(f"{where}: kind must be 'conv' or 'linear', got {layer.kind!r}")
    limits = {
        "channels": (1, 65535),
        "height": (1, 65535),
        "width": (1, 65535),
        "kernel_height": (1, 65535),
        "kernel_width": (1, 65535),
        "stride": (1, 255),
        "pad": (0, 255),
        "pool": (1, 255),
        "outputs": (1, hardware.max_n if capacity else 65535),
        "shift": (0, 63),
        "input_bits": (1, hardware.input_bits),
        "output_bits": (1, hardware.input_bits),
    }
    for name, (low, high) in limits.items():
        value = getattr(layer, name)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{where}: {name} must be an integer, got {value!r}")
        if not low <= value <= high:
            raise ValueError(f"{where}: {name} must be in {low}..{high}, got {value}")
    for kernel, size in (("kernel_height", "height"), ("kernel_width", "width")):
        room = getattr(layer, size) + 2 * layer.pad
        if getattr(layer, kernel) > room:
            raise ValueError(f"{where}: {kernel} must be at most {size} + 2 pad = {room}, got {getattr(layer, kernel)}")
    if layer.kind == "linear" and (
        (layer.kernel_height, layer.kernel_width) != (layer.height, layer.width)
        or (layer.stride, layer.pad, layer.pool) != (1, 0, 1)
    ):
        raise ValueError(f"{where}: a linear layer has kernel = height x width, stride 1, pad 0, pool 1")
    if capacity and layer.k > hardware.max_k:
        raise ValueError(f"{where}: K = channels * kernel must be at most max_k = {hardware.max_k}, got {layer.k}")
    if layer.out_height < 1 or layer.out_width < 1:
        raise ValueError(
            f"{where}: pool must be at most the {layer.conv_height} x {layer.conv_width} map it pools, got {layer.pool}"
        )
    if layer.last and (layer.windows, layer.pool) != (1, 1):
        raise ValueError(f"{where}: the last layer must have one window and no pooling, got {layer.windows} windows")
    sizes = {"input": layer.channels * layer.height * layer.width}
    if not layer.last:
        sizes["output"] = layer.outputs * layer.out_height * layer.out_width
    for name, size in sizes.items():
        if capacity and size > hardware.activation_bytes:
            raise ValueError(
                f"{where}: its {name} must be at most activation_bytes = {hardware.activation_bytes}, got {size}"
            )
    top = (1 << hardware.weight_bits) - 1
    _integers(where, "weights", layer.weights, (layer.k, layer.outputs), -top, top)
    _integers(where, "bias", layer.bias, (layer.outputs,), -(1 << 31), (1 << 31) - 1)
    _integers(where, "multipliers", layer.multipliers, (layer.outputs,), 0, 65535)
    if layer.pad_values is not None:
        _integers(where, "pad_values", layer.pad_values, (layer.channels,), 0, (1 << layer.input_bits) - 1)
    try:
        mapping.check_widths(layer.block_widths, layer.weights, hardware)
        layer.registers.check(hardware.adc_bits)
        check_min_count(hardware.adc_bits, layer.min_count)
        check_search(layer.registers, hardware, layer.min_count)
        if layer.dynamic is not None:
            dynamic_precision.check(layer.dynamic)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{where}: {error}") from None
    needed = accumulator_bits_needed(layer, hardware)
    if needed > hardware.accumulator_bits:
        raise ValueError(
            f"{where}: its partial sums need {needed} bits, the hardware has "
            f"accumulator_bits = {hardware.accumulator_bits}"
        )


def check_network(network: Network) -> mapping.Placement:
    """Check every layer and how they fit together; returns the placement.

    Raises ValueError or TypeError with one sentence that names the layer or the capacity.
    """
    hardware, layers = network.hardware, network.layers
    if not layers:
        raise ValueError(f"network {network.name}: it has no layers")
    if len(layers) > hardware.max_layers:
        raise ValueError(
            f"network {network.name}: it needs max_layers = {len(layers)}, the hardware has {hardware.max_layers}"
        )
    names = [layer.name for layer in layers]
    if len(set(names)) != len(names):
        raise ValueError(f"network {network.name}: layer names must differ, got {', '.join(names)}")
    for index, layer in enumerate(layers):
        if layer.last != (index == len(layers) - 1):
            raise ValueError(f"layer {layer.name}: `last` must be set on the last layer and on no other")
        check_layer(layer, hardware)
    for before, after in pairwise(layers):
        made = (before.outputs, before.out_height, before.out_width)
        taken = (after.channels, after.height, after.width)
        # Activations lie in C, H, W order, so a fully connected layer may read them under any shape.
        same = np.prod(made) == np.prod(taken) if after.kind == "linear" else made == taken
        if not same:
            raise ValueError(f"layer {after.name}: its input is {taken}, layer {before.name} makes {made}")
        if before.output_bits != after.input_bits:
            raise ValueError(
                f"layer {after.name}: input_bits must be layer {before.name}'s output_bits = {before.output_bits}, "
                f"got {after.input_bits}"
            )
    if network.classes and len(network.classes) != layers[-1].outputs:
        raise ValueError(f"network {network.name}: {len(network.classes)} class names for {layers[-1].outputs} outputs")
    return mapping.place(
        [layer.block_widths for layer in layers],
        [layer.outputs for layer in layers],
        [0 if layer.pad_values is None else layer.channels for layer in layers],
        hardware,
    )


# ---- arithmetic of a layer ----------------------------------------------------------------------
def windows(layer: Layer, activations: np.ndarray) -> np.ndarray:
    """Windows of a layer in hardware order: pooled raster order, raster inside a pooling window (§5a).

    activations : (B, C, H, W). Returns (B, windows, K) of the same dtype; K = (c * kh + ky) * kw + kx.
    """
    batch = len(activations)
    border = layer.pad
    padded = np.zeros(
        (batch, layer.channels, layer.height + 2 * border, layer.width + 2 * border), dtype=activations.dtype
    )
    if layer.pad_values is not None:
        padded[...] = np.asarray(layer.pad_values)[:, None, None]
    padded[:, :, border : border + layer.height, border : border + layer.width] = activations
    views = np.lib.stride_tricks.sliding_window_view(padded, (layer.kernel_height, layer.kernel_width), axis=(2, 3))
    views = views[:, :, :: layer.stride, :: layer.stride]
    oh, ow, pool = layer.out_height, layer.out_width, layer.pool
    views = views[:, :, : oh * pool, : ow * pool]
    split = views.reshape(batch, layer.channels, oh, pool, ow, pool, layer.kernel_height, layer.kernel_width)
    return split.transpose(0, 2, 4, 3, 5, 1, 6, 7).reshape(batch, layer.windows, layer.k)


def requantise(layer: Layer, sums: np.ndarray) -> np.ndarray:
    """clamp(round_half_up_shift((acc + bias) * M, S), 0, 2**a - 1) (system.md §3); (..., N) int64."""
    y = round_half_up_shift((sums + layer.bias) * np.asarray(layer.multipliers, dtype=np.int64), layer.shift)
    return np.clip(y, 0, (1 << layer.output_bits) - 1)


def finish_layer(layer: Layer, sums: np.ndarray) -> np.ndarray:
    """Partial sums (B, windows, N) -> logits (B, N) int64 of the last layer, else uint8 (B, N, H', W')."""
    if layer.last:
        return sums[:, 0] + layer.bias
    batch, pool = len(sums), layer.pool
    y = requantise(layer, sums).reshape(batch, layer.out_height, layer.out_width, pool * pool, layer.outputs)
    return y.max(axis=3).transpose(0, 3, 1, 2).astype(np.uint8)


def prepare_layer(layer: Layer, hardware: HardwareConfig) -> crossbar.Prepared:
    """Unpack a layer's weights and tables once, for many calls of `run_layer`."""
    return crossbar.prepare(
        layer.weights,
        hardware,
        layer.registers,
        block_widths=layer.block_widths,
        redy=layer.dynamic,
        skip_zero_slices=layer.skip_zero_slices,
        min_count=layer.min_count,
        activation_bits=layer.input_bits,
    )


def run_layer(
    layer: Layer,
    hardware: HardwareConfig,
    activations: np.ndarray,
    *,
    prepared: crossbar.Prepared | None = None,
    engine: crossbar.EngineName = "auto",
    finish: Finish | None = None,
) -> tuple[np.ndarray, Events]:
    """Run one layer.

    activations : uint8 (B, C, H, W) below 2**input_bits. prepared : from `prepare_layer`, to save time.
    engine : one of `layer.matmul`; "auto" takes a GPU or the compiled engine where they exist and pay.
    finish : other post-processing than `finish_layer`, called image by image.

    Returns (output, events): output as `finish_layer` or stacked from `finish`; events (B,), `cycles` with c_layer.
    """
    if prepared is None:
        prepared = prepare_layer(layer, hardware)
    if engine == "auto":
        lanes = int(prepared.lanes_per_slice.sum()) * prepared.bits
        if crossbar.gpu_pays(lanes * len(activations) * layer.windows, hardware):
            engine = "torch"
    if crossbar.on_torch(engine):
        return _run_torch(layer, prepared, activations, engine, finish)
    if engine == "compiled" or (
        engine == "auto" and crossbar.compiling_pays(prepared, len(activations) * layer.windows)
    ):
        tables = crossbar.compiled_tables(prepared)
        if tables is not None:
            return _run_compiled(layer, prepared, tables, activations, finish)
        if engine == "compiled":
            raise ValueError(f"layer {layer.name}: {crossbar.NOT_COMPILED}")
    rows = windows(layer, activations).reshape(-1, layer.k)
    sums, events = crossbar.run(prepared, rows, engine_name=engine)
    per_image = Events(events.counts.reshape(len(activations), layer.windows, -1)).sum(axis=1)
    per_image = per_image + Events.of(cycles=np.full(len(activations), timing.c_layer(hardware)))
    sums = sums.reshape(len(activations), layer.windows, layer.outputs)
    if finish is None:
        return finish_layer(layer, sums), per_image
    return np.stack([finish(index, one) for index, one in enumerate(sums)]), per_image


def _run_compiled(
    layer: Layer, prepared: crossbar.Prepared, tables: Any, activations: np.ndarray, finish: Finish | None
) -> tuple[np.ndarray, Events]:
    constant = np.full(len(activations), timing.c_layer(prepared.hardware))
    if prepared.hardware.ou_rows > crossbar.PATTERN_ROWS:
        from golden_model.engines import columns

        sums, counters = columns.run_batch(layer, prepared, tables, activations)
        if finish is None:
            output = columns.finish_batch(layer, sums)
        else:
            output = np.stack(
                [finish(index, _in_window_order(layer, sums[:, index])) for index in range(len(constant))]
            )
    else:
        from golden_model.engines import compiled

        sums, counters = compiled.run_images(layer, prepared, tables, activations)
        if finish is None:
            output = compiled.finish_images(layer, sums)
        else:
            flat = sums.reshape(len(sums), layer.windows, -1)
            output = np.stack([finish(index, one) for index, one in enumerate(flat)])
    return output, Events(counters) + Events.of(cycles=constant)


def _run_torch(
    layer: Layer, prepared: crossbar.Prepared, activations: np.ndarray, engine: str, finish: Finish | None
) -> tuple[np.ndarray, Events]:
    torch_engine = crossbar.load_torch(engine)
    made, counters = torch_engine.run_layer(layer, prepared, activations, engine, keep_sums=finish is not None)
    if finish is not None:
        made = np.stack([finish(index, sums) for index, sums in enumerate(made)])
    return made, Events(counters)


def _in_window_order(layer: Layer, sums: np.ndarray) -> np.ndarray:
    """Sums (N, rows, columns) of one image in raster order -> (windows, N) in hardware order (system.md §5a)."""
    pool = layer.pool
    split = sums.reshape(layer.outputs, layer.out_height, pool, layer.out_width, pool)
    return np.ascontiguousarray(split.transpose(1, 3, 2, 4, 0)).reshape(layer.windows, layer.outputs)


# ---- networks -----------------------------------------------------------------------------------
class Runner:
    """A checked network that is ready to run.

    Attributes: `network`, `hardware`, `placement` (where its planes lie).

    engine : as for `run_layer`. threads : images run side by side in the compiled engine; None takes all cores.
    """

    def __init__(self, network: Network, *, engine: crossbar.EngineName = "auto", threads: int | None = None) -> None:
        self.network = network
        self.hardware = network.hardware
        self.placement = check_network(network)
        self.engine: crossbar.EngineName = engine
        self.threads = threads or os.cpu_count() or 1
        self._prepared = [prepare_layer(layer, network.hardware) for layer in network.layers]

    def check_images(self, images: Any) -> np.ndarray:
        """`images` as uint8 (B, C, H, W); ValueError or TypeError for a wrong shape, type or range."""
        first = self.network.layers[0]
        images = np.asarray(images)
        shape = (first.channels, first.height, first.width)
        if images.ndim != 4 or images.shape[1:] != shape:
            raise ValueError(f"images must have shape (B, {', '.join(map(str, shape))}), got {images.shape}")
        if images.dtype != np.uint8:
            signed = " (this version does not support signed activations)" if images.dtype.kind == "i" else ""
            raise TypeError(f"images must be uint8, got dtype {images.dtype}{signed}")
        top = (1 << first.input_bits) - 1
        if images.size and images.max() > top:
            raise ValueError(f"images must be in 0..{top}, got {int(images.max())}")
        return images

    def run(self, images: Any, *, progress: Progress | None = None) -> tuple[np.ndarray, Events]:
        """Classify images.

        images : uint8 (B, C, H, W). Returns (logits, events): logits int64 (B, N), events (B, layers).
        """
        outputs, events = self._run(images, progress, keep=False)
        return outputs[-1], events

    def run_layers(self, images: Any, *, progress: Progress | None = None) -> tuple[list[np.ndarray], Events]:
        """As `run`, but returns every layer's output: uint8 (B, N, H', W') each, logits (B, N) the last."""
        return self._run(images, progress, keep=True)

    def cycles(self, events: Events) -> np.ndarray:
        """Clocks from start to done per image, (B,) int64; events with leading shape (B, layers)."""
        return timing.network_cycles(self.hardware, events.cycles)

    def _run(self, images: Any, progress: Progress | None, keep: bool) -> tuple[list[np.ndarray], Events]:
        images = self.check_images(images)
        layers = self.network.layers
        compiling = self.engine == "compiled" or (
            self.engine == "auto"
            and any(
                crossbar.compiling_pays(prepared, len(images) * layer.windows)
                for layer, prepared in zip(layers, self._prepared, strict=True)
            )
        )
        if compiling:
            for prepared in self._prepared:
                crossbar.compiled_tables(prepared)  # before threads share them
            step = _IMAGES_PER_PART
        else:
            step = max(1, _CHUNK_BYTES // max(layer.windows * (layer.k + 32 * layer.outputs) for layer in layers))
        starts = range(0, len(images), step)
        parts: list[list[np.ndarray]] = []
        counters = [np.zeros((0, len(layers), len(COUNTER_NAMES)), dtype=np.int64)]
        with ThreadPoolExecutor(self.threads if compiling else 1) as pool:
            for start, (made, counted) in zip(
                starts, pool.map(lambda start: self._run_part(images[start : start + step], keep), starts), strict=True
            ):
                parts.append(made)
                counters.append(counted)
                if progress is not None:
                    progress(min(start + step, len(images)), len(images))
        if not parts:
            empty = [_empty_output(layer) for layer in layers]
            parts = [empty if keep else empty[-1:]]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)], Events(np.concatenate(counters))

    def _run_part(self, x: np.ndarray, keep: bool) -> tuple[list[np.ndarray], np.ndarray]:
        """Outputs to keep, and counters (B, layers, counters) of a few images."""
        made, counters = [], []
        for layer, prepared in zip(self.network.layers, self._prepared, strict=True):
            x = x.reshape(len(x), layer.channels, layer.height, layer.width)
            x, counted = run_layer(layer, self.hardware, x, prepared=prepared, engine=self.engine)
            counters.append(counted.counts)
            if keep or layer.last:
                made.append(x)
        return made, np.stack(counters, axis=1)


def _empty_output(layer: Layer) -> np.ndarray:
    if layer.last:
        return np.zeros((0, layer.outputs), dtype=np.int64)
    return np.zeros((0, layer.outputs, layer.out_height, layer.out_width), dtype=np.uint8)


def load(directory: str | Path, hardware: HardwareConfig | None = None) -> Runner:
    """The network of a deployment image, ready to run; raises `image.ImageError` for a bad image."""
    from golden_model.image import image  # image.write runs networks, so it imports this module

    return Runner(image.read(directory, hardware).network)
