"""The program of a network: which steps compute it, where everything lies, the contents of the tile's memories.

`lower` says what happens, in the order of the network, and needs no capacity; `plan` also says where. A step is a
crossbar layer (one per group) or an element step: pooling, addition, a rescaled copy, a border. Residuals are read by
the step that adds them; concatenation, reshaping and option-A shortcuts are only addresses.

A tensor lies whole, C, H, W order, in a buffer of the one activation memory: its own, or that of the concatenation it
becomes a part of. Buffers are placed by liveness: two that are needed at the same time never overlap, except that a
sum may overwrite the residual it has just read, place by place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from golden_model import timing
from golden_model.config import _LIMITS, PAPER, HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.events import Events
from golden_model.graph.check import accumulator_bits_needed
from golden_model.graph.network import Graph
from golden_model.graph.nodes import (
    Add,
    AveragePool,
    Border,
    Concat,
    Crossbar,
    Image,
    MaxPool,
    Node,
    Reshape,
    Shape,
)
from golden_model.graph.numbers import Rescale
from golden_model.graph.settings import with_settings
from golden_model.registers import (
    DESCRIPTOR_STRIDE,
    OFFSET_BITS,
    StepKind,
    descriptor_fields,
    pack_descriptor,
)
from golden_model.trq import levels

#: Buffers begin at whole words of the activation memory.
_ALIGN = 4
#: Fields that follow from placing; everything else follows from lowering.
_PLACED = ("source", "target", "residual_base", "crossbar_base", "width_base", "channel_base", "pad_base")
#: Capacities of `HardwareConfig` that a network needs.
CAPACITIES = (
    "activation_bytes",
    "crossbar_pairs",
    "max_k",
    "max_n",
    "max_layers",
    "width_entries",
    "channel_entries",
    "pad_entries",
    "accumulator_bits",
)


@dataclass(frozen=True)
class Place:
    """Bytes of a tensor from `offset` on; `tensor` is the name of the node that makes it."""

    tensor: str
    offset: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation:
    """A step before it has addresses.

    name : unique. node : node of the network whose tensor it makes. layer : of a crossbar step.
    fields : descriptor values but those of `_PLACED`; signed or too large ones as they are.
    source, residual : what it reads; target : what it writes, None for logits. pads : border value per channel, empty
    if all are `pad_value`. shape : (C, H, W) of what it writes.
    """

    name: str
    node: str
    kind: StepKind
    layer: Layer | None
    fields: dict[str, int]
    source: Place
    target: Place | None
    residual: Place | None
    pads: tuple[int, ...]
    shape: Shape

    @property
    def windows(self) -> int:
        """Windows that the hardware walks."""
        return self.shape[1] * self.shape[2] * self.fields["pool"] ** 2

    def cycles(self, hardware: HardwareConfig) -> int | None:
        """Clocks of an element step; None for a crossbar step, whose clocks depend on its activations."""
        if self.layer is not None:
            return None
        area = self.fields["kernel_height"] * self.fields["kernel_width"]
        window = timing.element_cycles(hardware, area, self.shape[0], residual=bool(self.fields["residual"]))
        return timing.c_layer(hardware) + self.windows * window


@dataclass(frozen=True, eq=False)
class Lowering:
    """What a program does, without addresses.

    homes : by tensor that has no buffer of its own, where it lies. sizes : bytes of every tensor.
    """

    network: Graph
    operations: tuple[Operation, ...]
    homes: dict[str, Place]
    sizes: dict[str, int]

    def buffer(self, place: Place) -> Place:
        """Where a place lies in the buffer that holds it; `tensor` then names the buffer."""
        return _buffer(self.homes, place)


def _buffer(homes: Mapping[str, Place], place: Place) -> Place:
    while place.tensor in homes:
        home = homes[place.tensor]
        place = Place(home.tensor, home.offset + place.offset)
    return place


# ---- lowering -----------------------------------------------------------------------------------
def lower(network: Graph) -> Lowering:
    """The steps of a network, in its order.

    Raises ValueError, one sentence naming the node, for a network that no program can compute.
    """
    return _Lowering(network).run()


class _Lowering:
    def __init__(self, network: Graph) -> None:
        self.network = network
        self.nodes = {node.name: node for node in network.nodes}
        self.sizes = {node.name: int(np.prod(node.shape)) for node in network.nodes}
        self.last_use = {name: index for index, node in enumerate(network.nodes) for name in node.inputs}
        self.bits: dict[str, int] = {}
        self.names = set(self.nodes)
        self.operations: list[Operation] = []
        self.residuals: dict[str, int] = {}  # which input of a node is its residual
        for index, node in enumerate(network.nodes):
            if len(node.inputs) > 1 and isinstance(node, Crossbar | Add):
                self.residuals[node.name] = self._residual_input(node, index)
        self.folded = self._folded_borders()
        self.homes = self._homes()

    def run(self) -> Lowering:
        lowering: dict[type[Node], Callable[[Any], None]] = {
            Crossbar: self._crossbar,
            MaxPool: self._max_pool,
            AveragePool: self._average_pool,
            Concat: self._concat,
            Add: self._add,
            Border: self._border,
        }
        for node in self.network.nodes:
            self.bits[node.name] = self._bits(node)
            if node.name not in self.folded and (step := lowering.get(type(node))):
                try:
                    step(node)
                except ValueError as error:
                    text = str(error)
                    raise ValueError(text if text.startswith("node ") else f"node {node.name}: {text}") from None
        self._logits(self.network.output)
        return Lowering(self.network, tuple(self.operations), self.homes, self.sizes)

    # ---- what needs no step ---------------------------------------------------------------------
    def _residual_input(self, node: Node, index: int) -> int:
        """An addition reads as its residual what can be a view, or else what nothing reads afterwards."""
        if isinstance(node, Crossbar):
            return 1
        first, second = node.inputs[:2]
        if self._is_view(first) != self._is_view(second):
            return int(self._is_view(second))
        return int(not (self.last_use[first] == index < self.last_use[second]))

    def _is_view(self, name: str) -> bool:
        """Whether a node only subsamples and adds channels of one value, as the option-A shortcut does."""
        node = self.nodes[name]
        if not isinstance(node, Border) or any(node.border):
            return False
        added = _added(node)
        return len(added) == 0 or bool((added == added[0]).all())

    def _folded_borders(self) -> dict[str, int | None]:
        """Borders that only residuals read, at once or through other such borders: the residual view does what they
        do. By name, the value of the channels that they or those after them add; None if they add none.
        """
        users: dict[str, list[tuple[Node, int]]] = {}
        for node in self.network.nodes:
            for index, name in enumerate(node.inputs):
                users.setdefault(name, []).append((node, index))
        folded: dict[str, int | None] = {}
        for node in reversed(self.network.nodes[:-1]):
            if not self._is_view(node.name):
                continue
            assert isinstance(node, Border)
            values = {int(value) for value in _added(node)[:1]}
            after = [(user, index) for user, index in users[node.name] if self.residuals.get(user.name) != index]
            if all(user.name in folded for user, _ in after):
                values |= {value for user, _ in after if (value := folded[user.name]) is not None}
                if len(values) <= 1:
                    folded[node.name] = next(iter(values), None)
        return folded

    def _homes(self) -> dict[str, Place]:
        """Where the tensors lie that have no buffer of their own: reshaped, or part of one concatenation."""
        homes: dict[str, Place] = {}
        for node in self.network.nodes:
            if isinstance(node, Reshape):
                homes[node.name] = Place(node.inputs[0])
            if not isinstance(node, Concat):
                continue
            offset = 0
            for name, rescale in zip(node.inputs, node.rescales, strict=True):
                held = _buffer(homes, Place(name))
                movable = not isinstance(self.nodes[held.tensor], Image) and held.tensor != node.name
                if rescale is None and movable and self.sizes[held.tensor] == self.sizes[name]:
                    homes[held.tensor] = Place(node.name, offset)
                offset += self.sizes[name]
        return homes

    def _bits(self, node: Node) -> int:
        """Bits that hold every value of a node's tensor."""
        inputs = [self.bits[name] for name in node.inputs]
        if isinstance(node, Crossbar):
            return max(layer.output_bits for layer in node.layers)
        if isinstance(node, Add) or (isinstance(node, AveragePool) and not node.sums):
            return _top_bits(node.rescale)
        if isinstance(node, Concat):
            return max(b if r is None else _top_bits(r) for b, r in zip(inputs, node.rescales, strict=True))
        if isinstance(node, Border):
            return max(inputs[0], int(max(node.values, default=0)).bit_length())
        return inputs[0] if inputs else node.encoding.bits

    # ---- steps ----------------------------------------------------------------------------------
    def _crossbar(self, node: Crossbar) -> None:
        hardware, first, source = self.network.hardware, 0, node.inputs[0]
        for group, layer in enumerate(node.layers):
            plane = layer.out_height * layer.out_width
            segments, block_cols = layer.segments(hardware), layer.block_cols(hardware)
            dynamic, registers = layer.dynamic or DynamicPrecision(), layer.registers
            border = np.zeros(1) if layer.pad_values is None or layer.pad == 0 else np.asarray(layer.pad_values)
            values = _fields(
                step=StepKind.CROSSBAR,
                last=layer.last,
                skip_zero_slices=layer.skip_zero_slices,
                dynamic=layer.dynamic is not None,
                in_plane=layer.height * layer.width,
                stream_bits=layer.input_bits,
                out_bits=layer.output_bits,
                out_plane=plane,
                stride_y=layer.stride,
                stride_x=layer.stride,
                pad_top=layer.pad,
                pad_left=layer.pad,
                channels=layer.channels,
                height=layer.height,
                width=layer.width,
                kernel_height=layer.kernel_height,
                kernel_width=layer.kernel_width,
                out_height=layer.out_height,
                out_width=layer.out_width,
                outputs=layer.outputs,
                segments=segments,
                last_rows=layer.k - (segments - 1) * hardware.ou_rows,
                block_cols=block_cols,
                last_cols=layer.outputs - (block_cols - 1) * hardware.ou_cols,
                tau_sq=dynamic.tau_sq,
                l_max=dynamic.l_max,
                pool=layer.pool,
                shift=layer.shift,
                adc_mode=registers.mode == "twin",
                n_r1=registers.n_r1,
                n_r2=registers.n_r2,
                m=registers.m,
                adc_bias=registers.bias,
            )
            residual = None
            if len(node.inputs) > 1:
                residual, view = self._view(node.inputs[1], first, layer.outputs)
                values |= {**view, "residual_multiplier": node.residual_multiplier}
            self._append(
                node.name,
                "" if len(node.layers) == 1 else str(group),
                StepKind.CROSSBAR,
                layer,
                values,
                source=Place(source, group * layer.channels * layer.height * layer.width),
                target=None if layer.last else Place(node.name, first * plane),
                residual=residual,
                border=border,
                shape=(layer.outputs, layer.out_height, layer.out_width),
            )
            first += layer.outputs

    def _max_pool(self, node: MaxPool) -> None:
        self._element(node, StepKind.MAXIMUM, node.inputs[0], node.shape, window=_window(node), out_bits=0)

    def _average_pool(self, node: AveragePool) -> None:
        scaling: dict[str, Any] = (
            {"last": 1, "offset": -node.area * node.input_zero} if node.sums else _scaling(node.rescale, 1)
        )
        self._element(
            node,
            StepKind.SUM,
            node.inputs[0],
            node.shape,
            window=_window(node),
            border=[node.input_zero],
            suffix="",
            **scaling,
        )

    def _concat(self, node: Concat) -> None:
        offset = 0
        for index, (name, rescale) in enumerate(zip(node.inputs, node.rescales, strict=True)):
            place = Place(node.name, offset)
            if _buffer(self.homes, Place(name)) != _buffer(self.homes, place) or rescale is not None:
                scaling: dict[str, Any] = {"out_bits": 0} if rescale is None else _scaling(rescale, 1)
                shape = self.nodes[name].shape
                self._element(node, StepKind.SUM, name, shape, target=place, suffix=f"copy{index}", **scaling)
            offset += self.sizes[name]

    def _add(self, node: Add) -> None:
        scaling = _scaling(node.rescale, len(node.inputs))
        if len(node.inputs) == 1:
            return self._element(node, StepKind.SUM, node.inputs[0], node.shape, **scaling)
        second = self.residuals[node.name]
        residual, view = self._view(node.inputs[second], 0, node.shape[0])
        scaling |= view
        scaling["multiplier"] = node.rescale.multipliers[1 - second]
        scaling["residual_multiplier"] = node.rescale.multipliers[second]
        self._element(node, StepKind.SUM, node.inputs[1 - second], node.shape, second=residual, **scaling)

    def _border(self, node: Border) -> None:
        (above, _, left, _), (stride_y, stride_x) = node.border, node.stride
        if any(node.border):
            values = node.values
        else:
            values = _added(node)
            if len(values) and (values != values[0]).any():
                values = node.values
        self._element(
            node,
            StepKind.SUM,
            node.inputs[0],
            node.shape,
            window={
                "stride_y": stride_y,
                "stride_x": stride_x,
                "pad_top": above * stride_y,
                "pad_left": left * stride_x,
            },
            border=values,
            first_channel=node.channels[0],
            out_bits=self.bits[node.name],
        )

    def _logits(self, node: Node) -> None:
        """A last step that makes logits, unless the network's output does already."""
        if not ((isinstance(node, Crossbar) and node.last) or (isinstance(node, AveragePool) and node.sums)):
            offset = -node.encoding.zero
            self._element(node, StepKind.SUM, node.name, node.shape, suffix="logits", last=1, offset=offset)

    def _view(self, name: str, first: int, outputs: int) -> tuple[Place, dict[str, int]]:
        """The residual of output channels first..first + outputs - 1 of a tensor: where it begins, and its fields."""
        row, column, before, value = 1, 1, 0, None
        while name in self.folded:
            value = self.folded[name] if value is None else value
            border = self.nodes[name]
            assert isinstance(border, Border)
            row, column, before = row * border.stride[0], column * border.stride[1], before + border.channels[0]
            name = border.inputs[0]
        node = self.nodes[name]
        channels = node.shape[0]
        plane, width = node.shape[1] * node.shape[2], node.shape[2]
        skipped = max(0, first - before)
        begin = min(outputs, max(0, before - first))  # output channels without a residual, before it
        count = min(channels - skipped, outputs - begin)
        if count < 1:  # none of these outputs has one
            skipped, begin, count = 0, outputs, 1
        view = {
            "residual": 1,
            "residual_plane": plane,
            "residual_row": row * width,
            "residual_column": column,
            "residual_channels": count,
            "residual_first": begin,
            "residual_value": value or 0,
        }
        return Place(name, skipped * plane), view

    def _element(
        self,
        node: Node,
        kind: StepKind,
        source: str,
        shape: Shape,
        *,
        target: Place | None = None,
        suffix: str = "",
        second: Place | None = None,
        window: Mapping[str, int] | None = None,
        border: Any = (0,),
        **values: int,
    ) -> None:
        """An element step on a whole tensor, by default a copy of it.

        second : where its residual lies. values : descriptor fields; out_bits = 0 takes those of the source.
        """
        channels, height, width = self.nodes[source].shape
        last = values.get("last", 0)
        made = _fields(
            step=kind,
            in_plane=height * width,
            stream_bits=self.bits[source],
            out_plane=shape[1] * shape[2],
            channels=channels,
            height=height,
            width=width,
            out_height=shape[1],
            out_width=shape[2],
            outputs=shape[0],
            pool=1,
            **{
                "stride_y": 1,
                "stride_x": 1,
                "kernel_height": 1,
                "kernel_width": 1,
                "multiplier": 0 if last else 1,
                **(window or {}),
                **values,
            },
        )
        made["out_bits"] = made["out_bits"] or self.bits[source]
        self._append(
            node.name,
            suffix,
            kind,
            None,
            made,
            source=Place(source),
            target=None if last else target or Place(node.name),
            residual=second,
            border=border,
            shape=shape,
        )

    def _append(
        self,
        node: str,
        suffix: str,
        kind: StepKind,
        layer: Layer | None,
        values: dict[str, int],
        *,
        source: Place,
        target: Place | None,
        residual: Place | None,
        border: Any,
        shape: Shape,
    ) -> None:
        name = f"{node}.{suffix}" if suffix else node
        while suffix and name in self.names:
            name += "'"
        self.names.add(name)
        pads = tuple(int(value) for value in border)
        if len(set(pads)) <= 1:
            values["pad_value"] = pads[0] if pads else 0
            pads = ()
        values["pad_enable"] = int(bool(pads))
        self.operations.append(
            Operation(
                name=name, node=node, kind=kind, layer=layer, fields=values, source=source, target=target,
                residual=residual, pads=pads, shape=shape,
            )
        )  # fmt: skip


def _fields(**values: Any) -> dict[str, int]:
    """All descriptor fields but the placed ones, 0 where nothing is given; `offset` stands for its two halves."""
    names = [f.name for f in descriptor_fields(PAPER) if f.name not in (*_PLACED, "offset_low", "offset_high")]
    made = dict.fromkeys([*names, "offset"], 0)
    unknown = set(values) - set(made)
    assert not unknown, unknown
    return made | {name: int(value) for name, value in values.items()}


def _added(node: Border) -> np.ndarray:
    """Values of the channels that a border node adds, before and after those of its input."""
    before, after = node.channels
    if np.shape(node.values) != (node.shape[0],):
        raise ValueError(f"node {node.name}: it needs {node.shape[0]} border values, got {np.size(node.values)}")
    return np.concatenate([node.values[:before], node.values[node.shape[0] - after :]])


def _window(node: MaxPool | AveragePool) -> dict[str, int]:
    names = ("kernel_height", "kernel_width", "stride_y", "stride_x", "pad_top", "pad_left")
    window = node.window
    return dict(zip(names, (*window.kernel, *window.stride, *window.pad), strict=True))


def _top_bits(rescale: Rescale) -> int:
    return max(1, int(rescale.top).bit_length())


def _scaling(rescale: Rescale, inputs: int) -> dict[str, Any]:
    """Post-processing of a step from the rescaling of a node, for its first input."""
    bits = _top_bits(rescale)
    if len(rescale.multipliers) != inputs or rescale.top != (1 << bits) - 1:
        raise ValueError(
            f"its rescaling must have {inputs} multipliers and end at a power of two minus 1, "
            f"got {len(rescale.multipliers)} and {rescale.top}"
        )
    return {
        "multiplier": rescale.multipliers[0],
        "offset": rescale.offset,
        "shift": rescale.shift,
        "out_bits": bits,
    }


# ---- programs -----------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Tables:
    """Contents of the tile's memories.

    program : (steps, DESCRIPTOR_STRIDE) uint32 descriptor words. widths : (entries,) uint8.
    bias, multipliers : (channels,) int64. pads : (entries,) uint8. levels : (steps, ou_rows + 1) uint8,
    sampled level of every count. cells : bool (pairs, grid_rows, grid_cols, lanes, ou_rows).
    cell_words : (OUs, cell_words) uint32 in programming order. checksum : CRC-32 of the cell words.
    """

    program: np.ndarray
    widths: np.ndarray
    bias: np.ndarray
    multipliers: np.ndarray
    pads: np.ndarray
    levels: np.ndarray
    cells: np.ndarray
    cell_words: np.ndarray
    checksum: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """A step of a program.

    name : unique: that of its node, or node.group, node.copy0 (of a concatenation's input), node.logits.
    node : node of the network whose tensor it makes, whole or in part. layer : of a crossbar step, else None.
    fields : all descriptor fields. windows : that the hardware walks. shape : (C, H, W) of what it writes.
    cycles : clocks of an element step, None for a crossbar step.
    """

    name: str
    node: str
    kind: StepKind
    layer: Layer | None
    fields: dict[str, int]
    windows: int
    shape: Shape
    cycles: int | None


@dataclass(frozen=True)
class Buffer:
    """A part of the activation memory: bytes base..base + size - 1 hold `tensors` during steps first..last.

    first is -1 for the image, which the host writes.
    """

    base: int
    size: int
    first: int
    last: int
    tensors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A placed program; make one with `plan`.

    placement : where the planes of every crossbar step lie, in order. buffers : the memory map.
    image_base, image_shape : where the host writes the image, C, H, W order. logits : how many there are.
    """

    hardware: HardwareConfig
    steps: tuple[Step, ...]
    tables: Tables
    placement: mapping.Placement
    buffers: tuple[Buffer, ...]
    image_base: int
    image_shape: Shape
    logits: int

    def step_events(self, events: Events) -> Events:
        """Events (B, crossbar layers) -> (B, steps): element steps have cycles only."""
        counts = events.counts
        made = np.zeros((*counts.shape[:-2], len(self.steps), counts.shape[-1]), dtype=np.int64)
        made[..., [step.layer is not None for step in self.steps], :] = counts
        return Events(made) + Events.of(cycles=np.array([step.cycles or 0 for step in self.steps]))

    def cycles(self, events: Events) -> np.ndarray:
        """Clocks from start to done, (B,) int64, from events of the crossbar nodes or layers, (B, nodes)."""
        elements = sum(step.cycles or 0 for step in self.steps)
        return timing.network_cycles(self.hardware, events.cycles) + elements


# ---- placing ------------------------------------------------------------------------------------
@dataclass
class _Life:
    """A buffer to place: its size, and the first and last step that need it."""

    size: int
    first: int
    last: int
    tensors: list[str]


def _lives(lowering: Lowering, *, in_place: bool) -> tuple[dict[str, str], dict[str, _Life]]:
    """Buffers and their lives; also the buffer of each tensor that has one, by name.

    in_place : a step may overwrite its residual if nothing reads that buffer afterwards and the view is exactly the
    target.
    """
    image = lowering.network.image.name
    lives = {image: _Life(lowering.sizes[image], -1, -1, [image])}
    for index, operation in enumerate(lowering.operations):
        for place in (operation.source, operation.residual, operation.target):
            if place is not None:
                name = lowering.buffer(place).tensor
                life = lives.setdefault(name, _Life(lowering.sizes[name], index, index, [name]))
                life.last = index
    owner = {name: name for name in lives}
    if not in_place:
        return owner, lives
    by_target: dict[str, list[int]] = {}
    for index, operation in enumerate(lowering.operations):
        if operation.target is not None:
            by_target.setdefault(lowering.buffer(operation.target).tensor, []).append(index)
    for target, indices in by_target.items():
        steps = [lowering.operations[index] for index in indices]
        if not all(_overwrites(lowering, step) for step in steps):
            continue
        residuals = {lowering.buffer(step.residual).tensor for step in steps if step.residual is not None}
        sources = {lowering.buffer(step.source).tensor for step in steps}
        (residual,) = residuals if len(residuals) == 1 else (None,)
        if residual is None or residual in sources or residual == target:
            continue
        merged = owner[residual]
        old, new = lives[merged], lives[target]
        # The last reader of everything in that buffer is this sum, and both fill the whole of it.
        if old.last == indices[-1] and old.size == new.size and new.first == indices[0]:
            lives[merged] = _Life(old.size, old.first, max(old.last, new.last), old.tensors + new.tensors)
            del lives[target]
            owner = {name: merged if held == target else held for name, held in owner.items()}
    return owner, lives


def _overwrites(lowering: Lowering, step: Operation) -> bool:
    """Whether a step's residual view is exactly its target, were both in one buffer."""
    if step.residual is None or step.target is None:
        return False
    values = step.fields
    same = {
        "residual_plane": values["out_plane"],
        "residual_row": values["out_width"],
        "residual_column": 1,
        "residual_first": 0,
        "residual_channels": values["outputs"],
    }
    offsets = lowering.buffer(step.residual).offset, lowering.buffer(step.target).offset
    return offsets[0] == offsets[1] and all(values[name] == value for name, value in same.items())


def _first_fit(lives: Mapping[str, _Life], order: Iterable[str]) -> tuple[dict[str, int], int]:
    """Addresses, each the lowest that is free throughout its life, in this order; and the bytes needed."""
    placed: list[tuple[_Life, int]] = []
    bases: dict[str, int] = {}
    for name in order:
        life, base = lives[name], 0
        for other, at in sorted(
            ((o, at) for o, at in placed if o.first <= life.last and life.first <= o.last), key=lambda x: x[1]
        ):
            if base + life.size <= at:
                break
            base = max(base, -(-(at + other.size) // _ALIGN) * _ALIGN)
        bases[name] = base
        placed.append((life, base))
    return bases, max(base + lives[name].size for name, base in bases.items())


def _place_buffers(lowering: Lowering) -> tuple[dict[str, int], tuple[Buffer, ...], int]:
    """Address of every buffer by tensor name, the memory map, and the bytes needed; the best of a few orders."""
    best: tuple[int, dict[str, int], dict[str, str], dict[str, _Life]] | None = None
    for in_place in (True, False):
        owner, lives = _lives(lowering, in_place=in_place)
        for key in (
            lambda life: (-life.size, life.first),
            lambda life: (-life.size * (life.last - life.first + 1), life.first),
            lambda life: (life.first, -life.size),
            lambda life: (life.first - life.last, -life.size),
        ):
            bases, needed = _first_fit(lives, sorted(lives, key=lambda name, key=key, lives=lives: key(lives[name])))
            if best is None or needed < best[0]:
                best = needed, bases, owner, lives
    assert best is not None
    needed, bases, owner, lives = best
    buffers = sorted(
        (Buffer(bases[name], life.size, life.first, life.last, tuple(life.tensors)) for name, life in lives.items()),
        key=lambda buffer: (buffer.first, buffer.base),
    )
    return {name: bases[held] for name, held in owner.items()}, tuple(buffers), needed


@dataclass(frozen=True)
class _Need:
    """What a network needs of a capacity; `step` is where, or needs most."""

    needed: int
    step: str | None = None


@dataclass
class _Layout:
    """A lowered network with addresses, before anything is checked against capacities."""

    lowering: Lowering
    placement: mapping.Placement
    pads: tuple[int, ...]
    fields: list[dict[str, int]]
    buffers: tuple[Buffer, ...]
    image_base: int
    needs: dict[str, _Need] = field(default_factory=dict)


def _layout(network: Graph) -> _Layout:
    """Place a network in unlimited memories."""
    lowering, hardware = lower(network), network.hardware
    operations = lowering.operations
    bases, buffers, activation_bytes = _place_buffers(lowering)

    def address(place: Place | None) -> int:
        if place is None:
            return 0
        held = lowering.buffer(place)
        return bases[held.tensor] + held.offset

    tables = _PadTable()
    placed: list[mapping.LayerPlacement] = []
    made: list[dict[str, int]] = []
    pairs = widths = channels = 0
    for operation in operations:
        values = {
            **operation.fields,
            **dict.fromkeys(_PLACED, 0),
            "source": address(operation.source),
            "target": address(operation.target),
            "residual_base": address(operation.residual),
            "pad_base": tables.entry(operation.pads) if operation.pads else 0,
        }
        if (layer := operation.layer) is not None:
            one = mapping.place_layer(
                layer.block_widths,
                hardware,
                crossbar_base=pairs,
                width_base=widths,
                channel_base=channels,
                pad_base=values["pad_base"],
            )
            placed.append(one)
            values |= {"crossbar_base": pairs, "width_base": widths, "channel_base": channels}
            pairs += one.pairs
            widths += int(np.size(layer.block_widths))
            channels += layer.outputs
        made.append(values)
    placement = mapping.Placement(tuple(placed), pairs, widths, channels, len(tables.values))
    image_base = address(Place(network.image.name))
    layout = _Layout(lowering, placement, tuple(tables.values), made, buffers, image_base)
    crossbars = [operation for operation in operations if operation.layer is not None]

    def most(what: Callable[[Operation], int], among: Sequence[Operation] = operations) -> _Need:
        largest = max(among, key=what)
        return _Need(what(largest), largest.name)

    by_name = {operation.name: one for operation, one in zip(crossbars, placed, strict=True)}
    live = [sum(b.size for b in buffers if b.first <= index <= b.last) for index in range(len(operations))]
    layout.needs = {
        "activation_bytes": _Need(activation_bytes, operations[int(np.argmax(live))].name),
        "crossbar_pairs": _Need(pairs, most(lambda x: by_name[x.name].pairs, crossbars).step),
        "max_k": most(lambda x: x.layer.k if x.layer else 0, crossbars),
        "max_n": most(
            lambda x: x.shape[0] if x.layer else x.shape[0] * x.fields["out_plane"] * x.fields["last"], operations
        ),
        "max_layers": _Need(len(operations)),
        "width_entries": _Need(widths, most(lambda x: x.layer.block_widths.size if x.layer else 0, crossbars).step),
        "channel_entries": _Need(channels, most(lambda x: x.shape[0], crossbars).step),
        "pad_entries": _Need(len(tables.values), most(lambda x: len(x.pads)).step),
        "accumulator_bits": most(lambda x: accumulator_bits_needed(x.layer, hardware) if x.layer else 0, crossbars),
    }
    return layout


class _PadTable:
    """Border values of all steps; equal vectors are stored once."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self._at: dict[tuple[int, ...], int] = {}

    def entry(self, vector: tuple[int, ...]) -> int:
        """First entry of a vector."""
        if vector not in self._at:
            self._at[vector] = len(self.values)
            self.values += vector
        return self._at[vector]


def needs(network: Graph) -> dict[str, int]:
    """What a network needs of every capacity in `CAPACITIES`, by field of `HardwareConfig`."""
    return {name: need.needed for name, need in _layout(network).needs.items()}


def fitting(network: Graph, base: HardwareConfig = PAPER) -> HardwareConfig:
    """A configuration that a network fits: capacities of `base` or the next power of two, all else as in `base`.

    If OUs, converters or bits of `base` are not those of the network, it is taken to `base` first (`with_settings`).

    Raises ValueError if no configuration can hold the network.
    """
    room = {name: _LIMITS[name][1] for name in CAPACITIES}
    machine = replace(base, **room)
    if machine != replace(network.hardware, **room):
        network = with_settings(network, hardware=machine)
    grown = {}
    for name, needed in needs(network).items():
        has = getattr(base, name)
        if needed > room[name]:
            raise ValueError(f"network {network.name}: it needs {name} = {needed}, hardware has at most {room[name]}")
        if needed > has:
            power = needed if name == "accumulator_bits" else 1 << (needed - 1).bit_length()
            grown[name] = min(power, room[name])
    return replace(base, **grown)


def plan(network: Graph) -> Program:
    """Place a network on its hardware.

    Raises ValueError with one sentence that names everything that does not fit: what is needed, what there is, and
    the step that needs most.
    """
    layout, hardware = _layout(network), network.hardware
    problems = _problems(layout, hardware)
    if problems:
        raise ValueError(f"network {network.name}: " + "; ".join(problems))
    steps = tuple(
        Step(
            name=operation.name,
            node=operation.node,
            kind=operation.kind,
            layer=operation.layer,
            fields=_halved(values),
            windows=operation.windows,
            shape=operation.shape,
            cycles=operation.cycles(hardware),
        )
        for operation, values in zip(layout.lowering.operations, layout.fields, strict=True)
    )
    return Program(
        hardware=hardware,
        steps=steps,
        tables=_tables(layout, steps, hardware),
        placement=layout.placement,
        buffers=layout.buffers,
        image_base=layout.image_base,
        image_shape=network.image.shape,
        logits=int(np.prod(network.output.shape)),
    )


def _halved(values: Mapping[str, int]) -> dict[str, int]:
    """Descriptor fields with the signed offset in two halves."""
    offset = values["offset"] & ((1 << OFFSET_BITS) - 1)
    rest = {name: value for name, value in values.items() if name != "offset"}
    return rest | {"offset_low": offset & 0xFFFFFFFF, "offset_high": offset >> 32}


def _problems(layout: _Layout, hardware: HardwareConfig) -> list[str]:
    """What does not fit, a phrase each."""
    problems = []
    for name, need in layout.needs.items():
        has = getattr(hardware, name)
        if need.needed > has:
            where = f", most of all for step {need.step}" if need.step else ""
            problems.append(f"it needs {name} = {need.needed}{where}, the hardware has {has}")
    widths = {f.name: f.bits for f in descriptor_fields(hardware) if f.name not in _PLACED}
    beyond: dict[str, tuple[int, str, int]] = {}
    for operation, values in zip(layout.lowering.operations, layout.fields, strict=True):
        limits = {name: (1 << bits) - 1 for name, bits in widths.items() if not name.startswith("offset_")}
        limits |= {"stream_bits": hardware.input_bits, "out_bits": hardware.input_bits}
        limits |= {"pad_value": (1 << hardware.input_bits) - 1, "residual_value": (1 << hardware.input_bits) - 1}
        values = values | {"kernel_area": values["kernel_height"] * values["kernel_width"]}
        limits["kernel_area"] = limits["kernel_height"] if operation.layer is None else values["kernel_area"]
        for name, limit in limits.items():
            value = values[name]
            if value > limit and (name not in beyond or value > beyond[name][0]):
                beyond[name] = (value, operation.name, limit)
            if value < 0:
                problems.append(f"step {operation.name}: {name} must be at least 0, got {value}")
        bits = 32 if values["last"] else OFFSET_BITS
        if not -(1 << (bits - 1)) <= values["offset"] < 1 << (bits - 1):
            problems.append(f"step {operation.name}: its offset {values['offset']} does not fit {bits} bits")
        problems += _layer_problems(operation, hardware)
    problems += [
        f"step {step}: {name} must be at most {limit}, got {value}" for name, (value, step, limit) in beyond.items()
    ]
    top = max(layout.pads, default=0)
    if top >> hardware.input_bits:
        problems.append(f"a border value must be at most {(1 << hardware.input_bits) - 1}, got {top}")
    return problems


def _layer_problems(operation: Operation, hardware: HardwareConfig) -> list[str]:
    """What the tile cannot do of a crossbar step."""
    layer, problems = operation.layer, []
    if layer is None:
        return []
    if layer.registers.searches:
        bound = "" if layer.registers.column_bound_bits is None else " with a bound"
        problems.append(
            f"step {operation.name}: the hardware has no conversion of mode {layer.registers.mode!r}{bound}, "
            "only 'uniform' and 'twin' without one"
        )
    needed = accumulator_bits_needed(layer, hardware)
    if layer.last and 32 < needed <= hardware.accumulator_bits:
        problems.append(f"step {operation.name}: its logits need {needed} bits, the hardware has 32")
    return problems


def _tables(layout: _Layout, steps: Sequence[Step], hardware: HardwareConfig) -> Tables:
    """Memory contents of the tile."""
    program = np.zeros((len(steps), DESCRIPTOR_STRIDE), dtype=np.uint32)
    reference = np.zeros((len(steps), hardware.ou_rows + 1), dtype=np.uint8)
    cells = mapping.empty_cells(hardware, layout.placement.pairs)
    placed = iter(layout.placement.layers)
    for index, step in enumerate(steps):
        words = pack_descriptor(hardware, step.fields)
        program[index, : len(words)] = words
        if step.layer is not None:
            reference[index] = levels(hardware.adc_bits, hardware.ou_rows, step.layer.min_count)
            mapping.program_layer(cells, next(placed), step.layer.weights, hardware)
    layers = [step.layer for step in steps if step.layer is not None]
    return Tables(
        program=program,
        widths=np.concatenate([np.ravel(layer.block_widths) for layer in layers]).astype(np.uint8),
        bias=np.concatenate([layer.bias for layer in layers]).astype(np.int64),
        multipliers=np.concatenate([layer.multipliers for layer in layers]).astype(np.int64),
        pads=np.array(layout.pads, dtype=np.uint8),
        levels=reference,
        cells=cells,
        cell_words=mapping.cell_words(cells, hardware),
        checksum=mapping.checksum(cells, hardware),
    )
