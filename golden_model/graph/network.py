"""Integer networks of any shape: residual additions, concatenations, pooling between crossbar layers (system.md §3).

A `Graph` is a list of nodes in the order of computation; the first is the image, the last makes the logits.
Crossbar nodes hold `program.Layer`s, so that converters, dynamic precision and events mean exactly what
they mean for a chain; everything else is integer post-processing on unsigned activations (graph_nodes.py).

An activation is an unsigned integer q with an `Encoding`: real = scale * (q - zero). `zero` is 0 wherever a
ReLU came before; a tensor that can be negative is stored with a zero point, which the biases of its producer
and of its consumers take up, so that crossbars still see unsigned activations (*ours*; system.md §3 has
unsigned activations only). Graphs do not have to fit one tile: its buffers are not checked.

Nodes keep the real numbers they came from beside the integers; `with_settings` derives the integers again
for other converters, activation widths or hardware. `GraphRunner` runs images on the engines of layer.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from golden_model import layer as crossbar
from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.events import Events
from golden_model.graph.layers import DynamicPrecision, Layer, Network
from golden_model.graph.nodes import (
    MULTIPLIER_TOP,
    RESIDUAL_MULTIPLIER_TOP,
    Add,
    AveragePool,
    Border,
    Concat,
    Crossbar,
    Encoding,
    Image,
    MaxPool,
    Node,
    Rescale,
    Reshape,
    Shape,
    Window,
    fixed_point,
)
from golden_model.network import Progress, check_layer, prepare_layer, run_layer
from golden_model.registers import COUNTER_NAMES
from golden_model.trq import AdcRegisters, min_count

__all__ = [
    "MULTIPLIER_TOP",
    "RESIDUAL_MULTIPLIER_TOP",
    "Add",
    "AveragePool",
    "Border",
    "Concat",
    "Crossbar",
    "Encoding",
    "Graph",
    "GraphRunner",
    "Image",
    "MaxPool",
    "Node",
    "Rescale",
    "Reshape",
    "Window",
    "build",
    "check_graph",
    "fixed_point",
    "from_network",
    "lossless_uniform",
    "with_settings",
]

#: Called with the name of a crossbar node, one of its layers and that layer's activations, uint8 (B, C, H, W).
Observer = Callable[[str, Layer, np.ndarray], None]


# ---- graphs -------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """An integer network; make one with `build`, `from_network` or quant.capture.capture.

    nodes : in order of computation; the first is the `Image`, the last makes the logits.
    classes : names of the outputs, may be empty. info : anything worth keeping, JSON-able.
    """

    name: str
    hardware: HardwareConfig
    nodes: tuple[Node, ...]
    classes: tuple[str, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> Node:
        return self.nodes[0]

    @property
    def output(self) -> Node:
        return self.nodes[-1]

    @cached_property
    def crossbars(self) -> tuple[Crossbar, ...]:
        """The crossbar nodes, in order; events of a run have one row for each."""
        return tuple(node for node in self.nodes if isinstance(node, Crossbar))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All crossbar layers; a grouped convolution has one per group."""
        return tuple(layer for node in self.crossbars for layer in node.layers)

    def node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise ValueError(f"graph {self.name}: it has no node {name!r}")


def build(
    name: str,
    hardware: HardwareConfig,
    nodes: Sequence[Node],
    *,
    classes: Sequence[str] = (),
    info: dict[str, Any] | None = None,
) -> Graph:
    """A checked graph, with all integers derived from the real numbers of `nodes`.

    Raises ValueError, one sentence naming the node, for anything that does not fit.
    """
    _check_structure(name, nodes)
    encodings: dict[str, Encoding] = {}
    made: list[Node] = []
    for node in nodes:
        try:
            derived = node.derived([encodings[i] for i in node.inputs], hardware)
        except ValueError as error:
            text = str(error)
            raise ValueError(text if node.name in text else f"node {node.name}: {text}") from None
        if isinstance(derived, Crossbar):
            derived = _scaled(derived, encodings[node.inputs[0]], hardware)
        made.append(derived)
        encodings[node.name] = derived.encoding
    graph = Graph(
        name=name, hardware=hardware, nodes=tuple(made), classes=tuple(classes), info={} if info is None else info
    )
    check_graph(graph)
    return graph


def _scaled(node: Crossbar, x: Encoding, hardware: HardwareConfig) -> Crossbar:
    """The node with the real scales of its layers written down (for people, reports and `logit_scale`)."""
    unit = float(node.step[0]) * x.scale * node.counts_per_unit(hardware)
    scales = {
        "weight": float(node.step[0]),
        "input": x.scale,
        "output": unit if node.last else node.encoding.scale,
    }
    return replace(node, layers=tuple(replace(layer, scales=scales) for layer in node.layers))


def _check_structure(name: str, nodes: Sequence[Node]) -> None:
    """Check what does not depend on the integers: order, names, shapes."""
    if not nodes or not isinstance(nodes[0], Image):
        raise ValueError(f"graph {name}: its first node must be the image")
    if not any(isinstance(node, Crossbar) for node in nodes):
        raise ValueError(f"graph {name}: it has no crossbar layer")
    shapes: dict[str, Shape] = {}
    used = {input_name for node in nodes for input_name in node.inputs}
    for index, node in enumerate(nodes):
        where, last = f"node {node.name}", index == len(nodes) - 1
        if node.name in shapes:
            raise ValueError(f"graph {name}: node names must differ, {node.name} occurs twice")
        if isinstance(node, Image) != (index == 0):
            raise ValueError(f"{where}: exactly the first node is the image")
        if not isinstance(node, Image) and not node.inputs:
            raise ValueError(f"{where}: it has no input")
        if any(input_name not in shapes for input_name in node.inputs):
            raise ValueError(f"{where}: every input must be an earlier node, got {', '.join(node.inputs)}")
        if not last and node.name not in used:
            raise ValueError(f"{where}: nothing uses its output")
        if isinstance(node, Crossbar):
            if len(node.inputs) > 2:
                raise ValueError(f"{where}: a crossbar layer has one input and at most one residual")
            if node.last and (not last or len(node.layers) > 1 or len(node.inputs) > 1):
                raise ValueError(f"{where}: only the output can be a last layer, without groups or residual")
        if isinstance(node, AveragePool) and node.sums and not last:
            raise ValueError(f"{where}: only the output can give sums")
        try:
            shape = node.expected_shape([shapes[input_name] for input_name in node.inputs])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if shape != node.shape or min(shape) < 1:
            raise ValueError(f"{where}: its output has shape {shape}, it states {node.shape}")
        shapes[node.name] = shape


def check_graph(graph: Graph) -> None:
    """Raise ValueError or TypeError, one sentence naming the node, unless the graph can be run."""
    _check_structure(graph.name, graph.nodes)
    widths: dict[str, int] = {}
    for node in graph.nodes:
        where = f"node {node.name}"
        if isinstance(node, Crossbar):
            if not 0 <= node.residual_multiplier <= RESIDUAL_MULTIPLIER_TOP:
                raise ValueError(
                    f"{where}: residual_multiplier must be in 0..{RESIDUAL_MULTIPLIER_TOP}, "
                    f"got {node.residual_multiplier}"
                )
            if len({layer.shift for layer in node.layers}) > 1:
                raise ValueError(f"{where}: all groups must share one shift")
            for layer in node.layers:
                check_layer(layer, graph.hardware, capacity=False)
                if layer.input_bits != widths[node.inputs[0]]:
                    raise ValueError(
                        f"{where}: input_bits must be {widths[node.inputs[0]]}, the width of node {node.inputs[0]}, "
                        f"got {layer.input_bits}"
                    )
        widths[node.name] = node.encoding.bits
    if graph.classes and len(graph.classes) != np.prod(graph.output.shape):
        raise ValueError(
            f"graph {graph.name}: {len(graph.classes)} class names for {int(np.prod(graph.output.shape))} outputs"
        )


def from_network(network: Network) -> Graph:
    """A chain as a graph, its integers unchanged.

    Real numbers are not known here: one step of every activation counts as 1, which is all that `with_settings`
    needs.
    """
    first = network.layers[0]

    def encoding(bits: int) -> Encoding:
        return Encoding(high=float((1 << bits) - 1), bits=bits)

    zeros = () if first.pad_values is None else tuple(map(float, first.pad_values))
    before = Image(
        name="image",
        shape=(first.channels, first.height, first.width),
        encoding=replace(encoding(first.input_bits), zeros=zeros),
    )
    nodes: list[Node] = [before]
    for index, layer in enumerate(network.layers):
        if index and layer.pad_values is not None and np.any(layer.pad_values):
            raise ValueError(f"layer {layer.name}: only the first layer may have border values")
        node = Crossbar(
            name=layer.name,
            inputs=(nodes[-1].name,),
            shape=(layer.outputs, layer.out_height, layer.out_width),
            encoding=encoding(layer.output_bits),
            layers=(layer,),
            step=np.ones(layer.outputs),
            bias=np.zeros(layer.outputs),
        )
        unit = node.counts_per_unit(network.hardware)
        step = np.ones(layer.outputs) if layer.last else layer.multipliers / (2.0**layer.shift * unit)
        correction = np.zeros(layer.outputs)
        if index == 0 and zeros:
            correction = np.repeat(zeros, layer.kernel_height * layer.kernel_width) @ layer.weights
        nodes.append(replace(node, step=step, bias=(layer.bias * unit + correction) * step))
    graph = Graph(
        name=network.name,
        hardware=network.hardware,
        nodes=tuple(nodes),
        classes=network.classes,
        info=dict(network.info),
    )
    check_graph(graph)
    return graph


def with_settings(
    graph: Graph,
    *,
    hardware: HardwareConfig | None = None,
    registers: Mapping[str, AdcRegisters] | None = None,
    counts_per_lsb: Mapping[str, float] | None = None,
    dynamic: Mapping[str, DynamicPrecision | None] | None = None,
    skip_zero_slices: bool | None = None,
    activation_bits: Mapping[str, int] | None = None,
) -> Graph:
    """The same network with other settings; integers are derived again from the real numbers.

    Parameters
    ----------
    hardware : another machine: block widths are taken anew, and converters become lossless uniform ones where
        `registers` says nothing.
    registers, counts_per_lsb (lambda), dynamic : by name of the crossbar node, for all its groups; nodes that are
        not named keep what they have, except that new registers without a lambda get lambda = 1.
    skip_zero_slices : for all layers. activation_bits : width of a node's output, 1..input_bits.

    Raises ValueError for a name that the graph does not have or a setting that is not legal.
    """
    crossbars = {node.name for node in graph.crossbars}
    for what, names in (("registers", registers), ("counts_per_lsb", counts_per_lsb), ("dynamic", dynamic)):
        unknown = [name for name in names or {} if name not in crossbars]
        if unknown:
            raise ValueError(f"{what}: the graph has no crossbar layer {unknown[0]!r}")
    known = {node.name for node in graph.nodes if isinstance(node, Crossbar | Add | Concat | AveragePool)}
    for name, bits in (activation_bits or {}).items():
        if name not in known:
            raise ValueError(f"activation_bits: the graph has no node {name!r} that requantises")
        if isinstance(bits, bool) or not 1 <= bits <= graph.hardware.input_bits:
            raise ValueError(f"activation_bits of {name} must be in 1..{graph.hardware.input_bits}, got {bits}")
    machine = graph.hardware if hardware is None else hardware
    changed_machine = machine != graph.hardware
    nodes: list[Node] = []
    for node in graph.nodes:
        if activation_bits and node.name in activation_bits:
            node = replace(node, encoding=replace(node.encoding, bits=activation_bits[node.name]))
        if isinstance(node, Crossbar):
            changes: dict[str, Any] = {}
            if changed_machine:
                changes |= {"registers": lossless_uniform(machine), "counts_per_lsb": 1.0}
            if registers and node.name in registers:
                changes |= {"registers": registers[node.name], "counts_per_lsb": 1.0}
            if counts_per_lsb and node.name in counts_per_lsb:
                changes["counts_per_lsb"] = counts_per_lsb[node.name]
            if dynamic and node.name in dynamic:
                changes["dynamic"] = dynamic[node.name]
            if skip_zero_slices is not None:
                changes["skip_zero_slices"] = skip_zero_slices
            if "registers" in changes:
                try:
                    changes["registers"].check(machine.adc_bits)
                except ValueError as error:
                    raise ValueError(f"layer {node.name}: {error}") from None
            if "counts_per_lsb" in changes:
                changes["min_count"] = min_count(machine.adc_bits, changes["counts_per_lsb"])
            layers = [replace(layer, **changes) for layer in node.layers]
            if changed_machine:
                layers = [replace(x, block_widths=mapping.block_widths(x.weights, machine)) for x in layers]
            node = replace(node, layers=tuple(layers))
        nodes.append(node)
    return build(graph.name, machine, nodes, classes=graph.classes, info=graph.info)


def lossless_uniform(hardware: HardwareConfig) -> AdcRegisters:
    """The uniform converter with all adc_bits bits; ValueError if that is too few for ou_rows rows."""
    if hardware.adc_bits < hardware.ideal_bits:
        raise ValueError(
            f"{hardware.ou_rows} rows need adc_bits = {hardware.ideal_bits} to be lossless, got {hardware.adc_bits}"
        )
    return AdcRegisters(mode="uniform", n_r2=hardware.adc_bits)


# ---- running ------------------------------------------------------------------------------------
_CHUNK_BYTES = 64 << 20
_IMAGES_PER_BATCH = 16  # images that a thread takes at a time
_IMAGES_ON_DEVICE = 512  # images in a batch of the engine for GPUs
_WAVE_BYTES = 256 << 20
#: Above this many bytes of unpacked weights and tables, layers are prepared one after the other.
_PREPARED_BYTES = 1 << 30

#: Input slices times outputs; below, starting the compiled engine would take longer than the plain one.
_COMPILING_PAYS = 20_000_000

Batch = dict[str, np.ndarray]


class GraphRunner:
    """A checked graph that is ready to run.

    Attributes: `graph`, `hardware`.

    Parameters
    ----------
    engine : as for `golden_model.network.run_layer`; with "torch" activations stay on the device from node to node.
        threads : batches side by side in the compiled engine; None takes all cores.

    Memory: activations of a few batches, each freed after its last use, and the weights' tables. If those of all
    layers together would take more than about 1 GB, they are made and dropped layer by layer while a larger part
    of the images waits.
    """

    def __init__(self, graph: Graph, *, engine: crossbar.EngineName = "auto", threads: int | None = None) -> None:
        check_graph(graph)
        self.graph = graph
        self.hardware = graph.hardware
        self.engine: crossbar.EngineName = engine
        self.threads = threads or os.cpu_count() or 1
        self._prepared: dict[str, list[crossbar.Prepared]] = {}
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
        output, events = self._run(images, progress, observe)
        return self.graph.output.logits(output), events

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

    def _run(self, images: Any, progress: Progress | None, observe: Observer | None) -> tuple[np.ndarray, Events]:
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
        return np.concatenate(outputs), Events(np.concatenate(counters))

    # ---- one node -------------------------------------------------------------------------------
    def _step(self, node: Node, batch: Batch, observe: Observer | None, engine: str, *, keep: bool = False) -> Any:
        """Compute a node's output into `batch`, drop what nobody needs; counters (B, counters) of a crossbar node."""
        inputs = [batch[name] for name in node.inputs]
        counters = None
        if isinstance(node, Crossbar):
            run = self._crossbar_on_torch if crossbar.on_torch(engine) else self._crossbar
            batch[node.name], counters = run(node, inputs, observe, engine)
        elif crossbar.on_torch(engine):
            batch[node.name] = crossbar.load_torch(engine).compute(node, *inputs)
        else:
            batch[node.name] = node.compute(*inputs)
        for name in set(node.inputs):
            if not keep and self._last_use[name] == node.name:
                del batch[name]
        return counters

    def _crossbar(
        self, node: Crossbar, inputs: list[np.ndarray], observe: Observer | None, engine: str
    ) -> tuple[np.ndarray, np.ndarray]:
        x, residuals = inputs[0], inputs[1] if len(inputs) > 1 else None
        images = len(x)
        counters = np.zeros((images, len(COUNTER_NAMES)), dtype=np.int64)
        if images == 0:
            empty = (0, node.layers[0].outputs) if node.last else (0, *node.shape)
            return np.zeros(empty, dtype=np.int64 if node.last else np.uint8), counters
        groups, outputs, first = len(node.layers), [], 0
        x = x.reshape(images, groups, -1)
        for index, layer in enumerate(node.layers):
            part = np.ascontiguousarray(x[:, index]).reshape(images, layer.channels, layer.height, layer.width)
            if observe is not None:
                observe(node.name, layer, part)
            inside = slice(first, first + layer.outputs)
            first += layer.outputs

            def finish(image: int, sums: np.ndarray, layer: Layer = layer, inside: slice = inside) -> np.ndarray:
                residual = None if residuals is None else residuals[image, inside]
                if engine == "compiled" and not layer.last:
                    from golden_model.engines import finish_compiled as graph_compiled

                    return graph_compiled.finish(layer, sums, residual, node.residual_multiplier)
                return node.finish(layer, sums, residual)

            made, events = run_layer(
                layer,
                self.hardware,
                part,
                prepared=self._prepared[node.name][index],
                engine=self.engine,
                finish=finish,
            )
            outputs.append(made)
            counters += events.counts
        return outputs[0] if groups == 1 else np.concatenate(outputs, axis=1), counters

    def _crossbar_on_torch(self, node: Crossbar, inputs: list[Any], observe: Observer | None, engine: str) -> Any:
        """As `_crossbar`; activations, output and counters are on the device."""
        torch_engine = crossbar.load_torch(engine)
        x, residuals = inputs[0], inputs[1] if len(inputs) > 1 else None
        if observe is not None and len(x):
            images, first = torch_engine.download(x), node.layers[0]
            shape = (len(images), len(node.layers), first.channels, first.height, first.width)
            for index, layer in enumerate(node.layers):
                observe(node.name, layer, np.ascontiguousarray(images.reshape(shape)[:, index]))
        return torch_engine.run_crossbar(node, self._prepared[node.name], x, residuals)

    # ---- where activations are ------------------------------------------------------------------
    def _load(self, batch: Batch, engine: str) -> Batch:
        """A batch's arrays on the engine's device."""
        if not crossbar.on_torch(engine):
            return batch
        torch_engine = crossbar.load_torch(engine)
        device = torch_engine.find_device(engine)
        return {name: torch_engine.upload(x, device) for name, x in batch.items()}

    def _host(self, x: Any, engine: str) -> np.ndarray:
        return crossbar.load_torch(engine).download(x) if crossbar.on_torch(engine) else x

    # ---- what is kept in memory -----------------------------------------------------------------
    def _prepare(self, node: Node, engine: str) -> None:
        if not isinstance(node, Crossbar) or node.name in self._prepared:
            return
        made = [prepare_layer(layer, self.hardware) for layer in node.layers]
        if engine == "compiled":
            for prepared in made:
                crossbar.compiled_tables(prepared)  # before threads share them
        self._prepared[node.name] = made

    def engine_of(self, images: int) -> str:
        """The engine of a whole run; "auto" becomes "torch" or "compiled" where that pays."""
        if self.engine != "auto":
            return self.engine
        conversions = sum(
            layer.windows * layer.input_bits * 2 * self.hardware.ou_cols * int(np.sum(layer.block_widths))
            for layer in self.graph.layers
        )
        if crossbar.gpu_pays(images * conversions, self.hardware):
            return "torch"
        if not crossbar.numba_installed():
            return self.engine
        slices = sum(
            layer.windows * layer.input_bits * layer.segments(self.hardware) * layer.outputs
            for layer in self.graph.layers
        )
        return "compiled" if images * slices > _COMPILING_PAYS else self.engine

    def _prepared_bytes(self, layer: Layer) -> int:
        """About how much `prepare_layer` and the tables of the compiled engine take."""
        rows = self.hardware.ou_rows
        tables = (8 << rows) // rows if rows <= crossbar.PATTERN_ROWS else 16
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
        if crossbar.on_torch(engine):
            return max(1, min(_IMAGES_ON_DEVICE, _CHUNK_BYTES // self._live_bytes()))
        return max(
            1, _CHUNK_BYTES // max(layer.windows * (layer.k + 32 * layer.outputs) for layer in self.graph.layers)
        )
