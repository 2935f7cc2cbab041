"""Chains of layers: checked, and run. Graphs run in run_network.py."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from golden_model import timing
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import prepare_layer
from golden_model.engines.choice import EngineName, compiled_tables, compiling_pays
from golden_model.engines.run_layer import run_layer
from golden_model.engines.run_network import Progress
from golden_model.events import Events
from golden_model.graph.check import check_layer
from golden_model.graph.layers import Network
from golden_model.registers import COUNTER_NAMES

_CHUNK_BYTES = 64 << 20
_IMAGES_PER_PART = 16  # images that a thread takes at a time


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


class Runner:
    """A checked network that is ready to run.

    Attributes: `network`, `hardware`, `placement` (where its planes lie).

    engine : as for `run_layer`. threads : images run side by side in the compiled engine; None takes all cores.
    """

    def __init__(self, network: Network, *, engine: EngineName = "auto", threads: int | None = None) -> None:
        self.network = network
        self.hardware = network.hardware
        self.placement = check_network(network)
        self.engine: EngineName = engine
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
                compiling_pays(prepared, len(images) * layer.windows)
                for layer, prepared in zip(layers, self._prepared, strict=True)
            )
        )
        if compiling:
            for prepared in self._prepared:
                compiled_tables(prepared)  # before threads share them
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
