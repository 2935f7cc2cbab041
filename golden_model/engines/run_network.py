"""Images through a whole network, on the engine that suits it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import PATTERN_ROWS, Prepared, prepare_layer
from golden_model.engines.choice import EngineName, compiled_tables, engine_of_network, load_torch, on_torch
from golden_model.engines.run_layer import run_layer
from golden_model.events import Events
from golden_model.graph.network import Graph, check_graph
from golden_model.graph.nodes import Crossbar, Node
from golden_model.optional import array_library

#: Called after every part of the batch: (images finished, images).
Progress = Callable[[int, int], None]

#: Called with the name of a crossbar node, one of its layers and that layer's activations, uint8 (B, C, H, W).
Observer = Callable[[str, Layer, np.ndarray], None]

_CHUNK_BYTES = 64 << 20
_IMAGES_PER_BATCH = 16  # images that a thread takes at a time
_IMAGES_ON_DEVICE = 512  # images in a batch of the engine for GPUs
_WAVE_BYTES = 256 << 20
#: Above this many bytes of unpacked weights and tables, layers are prepared one after the other.
_PREPARED_BYTES = 1 << 30

Batch = dict[str, np.ndarray]


class GraphRunner:
    """A checked graph that is ready to run.

    Attributes: `graph`, `hardware`.

    Parameters
    ----------
    engine : as for `golden_model.engines.run_layer`; with "torch" activations stay on the device from node to node.
    threads : batches side by side in the compiled engine; None takes all cores.

    Memory: activations of a few batches, each freed after its last use, and the weights' tables. If those of all
    layers together would take more than about 1 GB, they are made and dropped layer by layer while a larger part
    of the images waits.
    """

    def __init__(self, graph: Graph, *, engine: EngineName = "auto", threads: int | None = None) -> None:
        check_graph(graph)
        self.graph = graph
        self.hardware = graph.hardware
        self.engine: EngineName = engine
        self.threads = threads or os.cpu_count() or 1
        self._prepared: dict[str, list[Prepared]] = {}
        self._keep = sum(map(self._prepared_bytes, graph.layers)) <= _PREPARED_BYTES
        self._last_use = {name: node.name for node in graph.nodes for name in node.inputs}

    def check_images(self, images: Any) -> np.ndarray:
        """`images` as uint8 (B, C, H, W); ValueError or TypeError for a wrong shape, type or range."""
        image = self.graph.image
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != image.shape:
            raise ValueError(f"images must have shape (B, {', '.join(map(str, image.shape))}), got {images.shape}")
        if images.dtype != np.uint8:
            raise TypeError(f"images must be uint8, got dtype {images.dtype}")
        if images.size and images.max() > image.encoding.top:
            raise ValueError(f"images must be in 0..{image.encoding.top}, got {int(images.max())}")
        return images

    def run(
        self, images: Any, *, progress: Progress | None = None, observe: Observer | None = None
    ) -> tuple[np.ndarray, Events]:
        """Classify images.

        images : uint8 (B, C, H, W). progress : called with (images finished, images). observe : called with the
        input of every crossbar layer, batch by batch, from the threads of the runner.

        Returns (logits, events): logits int64 (B, N), real value `graph.output.logit_scale` per step; events
        (B, crossbar nodes), those of a grouped convolution summed over its groups.
        """
        images = self.check_images(images)
        engine = self.engine_of(len(images))
        size = self._batch_images(engine)
        starts = range(0, max(1, len(images)), size)
        outputs: list[np.ndarray] = []
        counters: list[np.ndarray] = []
        first = self.graph.image.name
        waves = [starts[i : i + 1] for i in range(len(starts))]
        if self._keep:
            for node in self.graph.nodes:
                self._prepare(node, engine)
        else:
            wave = max(1, _WAVE_BYTES // (size * self._live_bytes()))
            waves = [starts[i : i + wave] for i in range(0, len(starts), wave)]
        done = 0

        def run_wave(wave: Any, apply: Callable[..., Any], tell: Callable[[float], None] | None) -> Any:
            batches = [self._load({first: images[start : start + size]}, engine) for start in wave]
            events: list[list[Any]] = [[] for _ in batches]
            for index, node in enumerate(self.graph.nodes[1:], 1):
                self._prepare(node, engine)
                found = list(apply(lambda b, n=node: self._step(n, b, observe, engine), batches))
                for mine, counted in zip(events, found, strict=True):
                    if counted is not None:
                        mine.append(counted)
                if not self._keep:
                    self._prepared.pop(node.name, None)
                if tell is not None:
                    tell(index / (len(self.graph.nodes) - 1))
            made = [self._host(b[self.graph.output.name], engine) for b in batches]
            return made, [np.stack([self._host(x, engine) for x in e], axis=1) for e in events]

        def told(images_done: float) -> None:
            if progress is not None:
                progress(min(int(images_done), len(images)), len(images))

        with ThreadPoolExecutor(self.threads if engine == "compiled" else 1) as pool:
            if self._keep:
                results = pool.map(lambda wave: run_wave(wave, map, None), waves)
            else:
                results = (
                    run_wave(wave, pool.map, lambda share, w=wave: told(w[0] + share * len(w) * size)) for wave in waves
                )
            for wave, (made, counted) in zip(waves, results, strict=True):
                outputs += made
                counters += counted
                done += len(wave) * size
                told(done)
        return self.graph.output.logits(np.concatenate(outputs)), Events(np.concatenate(counters))

    def outputs(self, images: Any) -> dict[str, np.ndarray]:
        """Output of every node by name, uint8 (B, C, H, W), the last as it is before `logits`; keeps all in memory."""
        batch: Batch = {self.graph.image.name: self.check_images(images)}
        engine = self.engine_of(len(batch[self.graph.image.name]))
        batch = self._load(batch, engine)
        for node in self.graph.nodes[1:]:
            self._prepare(node, engine)
            self._step(node, batch, None, engine, keep=True)
            if not self._keep:
                self._prepared.clear()
        return {name: self._host(x, engine) for name, x in batch.items()}

    # ---- one node -------------------------------------------------------------------------------
    def _step(self, node: Node, batch: Batch, observe: Observer | None, engine: str, *, keep: bool = False) -> Any:
        """Compute a node's output into `batch`, drop what nobody needs; counters (B, counters) of a crossbar node."""
        inputs = [batch[name] for name in node.inputs]
        counters = None
        if isinstance(node, Crossbar):
            batch[node.name], counters = self._crossbar(node, inputs, observe, engine)
        elif on_torch(engine):
            batch[node.name] = load_torch(engine).compute(node, *inputs)
        else:
            batch[node.name] = node.compute(*inputs)
        for name in set(node.inputs):
            if not keep and self._last_use[name] == node.name:
                del batch[name]
        return counters

    def _crossbar(self, node: Crossbar, inputs: list[Any], observe: Observer | None, engine: str) -> tuple[Any, Any]:
        """Output and counters (B, COUNTER_NAMES) of a crossbar node, where the engine keeps its activations."""
        residuals = inputs[1] if len(inputs) > 1 else None
        first, outputs, begin, counters = node.layers[0], [], 0, 0
        x = inputs[0].reshape(len(inputs[0]), len(node.layers), first.channels, first.height, first.width)
        for index, (layer, prepared) in enumerate(zip(node.layers, self._prepared[node.name], strict=True)):
            part = x[:, index]
            residual = None if residuals is None else residuals[:, begin : begin + layer.outputs]
            begin += layer.outputs
            if observe is not None and len(x):
                observe(node.name, layer, np.ascontiguousarray(self._host(part, engine)))
            if on_torch(engine):
                made, counted = load_torch(engine).run_on_device(
                    layer, prepared, part, residual, node.residual_multiplier
                )
            else:
                made, events = run_layer(
                    layer,
                    self.hardware,
                    np.ascontiguousarray(part),
                    prepared=prepared,
                    engine=self.engine,
                    residuals=residual,
                    residual_multiplier=node.residual_multiplier,
                )
                counted = events.counts
            outputs.append(made)
            counters = counters + counted
        return outputs[0] if len(outputs) == 1 else array_library(outputs[0]).concatenate(outputs, axis=1), counters

    # ---- where activations are ------------------------------------------------------------------
    def _load(self, batch: Batch, engine: str) -> Batch:
        """A batch's arrays on the engine's device."""
        if not on_torch(engine):
            return batch
        torch_engine = load_torch(engine)
        device = torch_engine.find_device(engine)
        return {name: torch_engine.upload(x, device) for name, x in batch.items()}

    def _host(self, x: Any, engine: str) -> np.ndarray:
        return load_torch(engine).download(x) if on_torch(engine) else x

    # ---- what is kept in memory -----------------------------------------------------------------
    def _prepare(self, node: Node, engine: str) -> None:
        if not isinstance(node, Crossbar) or node.name in self._prepared:
            return
        made = [prepare_layer(layer, self.hardware) for layer in node.layers]
        if engine == "compiled":
            for prepared in made:
                compiled_tables(prepared)  # before threads share them
        self._prepared[node.name] = made

    def engine_of(self, images: int) -> EngineName:
        """The engine of a whole run of so many images."""
        return engine_of_network(self.graph.layers, self.hardware, images, self.engine)

    def _prepared_bytes(self, layer: Layer) -> int:
        """About how much `prepare_layer` and the tables of the compiled engine take."""
        rows = self.hardware.ou_rows
        tables = (8 << rows) // rows if rows <= PATTERN_ROWS else 16
        return layer.k * layer.outputs * (8 * self.hardware.weight_bits + tables)

    def _live_bytes(self) -> int:
        """Most bytes of activations that one image needs at a time."""
        sizes: dict[str, int] = {}
        most = 0
        for node in self.graph.nodes:
            sizes[node.name] = int(np.prod(node.shape))
            most = max(most, sum(sizes.values()))
            for name in set(node.inputs):
                if self._last_use[name] == node.name:
                    del sizes[name]
        return most

    def _batch_images(self, engine: str) -> int:
        """Images in a batch, so that its windows stay within bounds."""
        if engine == "compiled":
            return max(1, min(_IMAGES_PER_BATCH, _CHUNK_BYTES // self._live_bytes()))
        if on_torch(engine):
            return max(1, min(_IMAGES_ON_DEVICE, _CHUNK_BYTES // self._live_bytes()))
        return max(
            1, _CHUNK_BYTES // max(layer.windows * (layer.k + 32 * layer.outputs) for layer in self.graph.layers)
        )
