"""What a network's program does: its steps, in the order of the network, before anything has an address.

A step is a crossbar layer (one per group) or an element step: pooling, addition, a rescaled copy, a border. Residuals
are read by the step that adds them; concatenation, reshaping and option-A shortcuts are only places. What no tile
computes is a step of the host, which stands between two steps of the tile and has no descriptor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.graph.host import Host
from golden_model.graph.network import Graph
from golden_model.graph.nodes import Add, AveragePool, Border, Concat, Crossbar, Image, MaxPool, Node, Reshape, Shape
from golden_model.graph.numbers import Rescale
from golden_model.registers import StepKind, descriptor_fields

#: Descriptor fields that follow from placing, as far as a machine has them; everything else follows from lowering.
PLACED = ("source", "target", "residual_base", "crossbar_base", "width_base", "channel_base", "pad_base", "lookup")
#: Fields of a crossbar step that its layer or its registers have under the same name.
_OF_LAYER = (
    *("last", "skip_zero_slices", "channels", "height", "width", "kernel_height", "kernel_width", "pool", "shift"),
    *("l_max", "tau_sq"),
)


@dataclass(frozen=True)
class Place:
    """Bytes of a tensor from `offset` on; `tensor` is the name of the node that makes it."""

    tensor: str
    offset: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """A step of a program.

    name : unique: that of its node, or node.group, node.copy0 (of a concatenation's input), node.logits.
    node : node of the network whose tensor it makes, whole or in part. layer : of a crossbar step, else None.
    fields : all descriptor fields; after lowering those but `PLACED`, with signed or too large values as they are.
    source, residual : what it reads; target : what it writes, None for logits. pads : border value per channel, empty
    if all are `pad_value`. table : what its outputs are looked up in, empty for nothing. shape : (C, H, W) of what it
    writes. cycles : clocks of an element step, None for a crossbar step, whose clocks depend on its activations.
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
    table: tuple[int, ...]
    shape: Shape
    cycles: int | None

    @property
    def places(self) -> tuple[Place, ...]:
        """What it reads and writes."""
        return tuple(place for place in (self.source, self.residual, self.target) if place is not None)

    @property
    def title(self) -> str:
        """For people: its name, and its node's if that differs."""
        return f"step {self.name}" if self.node == self.name else f"step {self.name} (node {self.node})"

    @property
    def windows(self) -> int:
        """Windows that the hardware walks."""
        return self.shape[1] * self.shape[2] * self.fields["pool"] ** 2


@dataclass(frozen=True, kw_only=True, eq=False)
class HostStep:
    """Work of the host between two runs of the tile.

    node : what it computes. before : the step of the program that it stands in front of; work in front of the same
    step keeps its order. source, target : what it reads and writes. taken : (C, H, W) of what it reads.
    read_base, write_base : first bytes of both, once placed.
    """

    node: Host
    before: int
    source: Place
    target: Place
    taken: Shape
    read_base: int = 0
    write_base: int = 0

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def places(self) -> tuple[Place, ...]:
        """What it reads and writes."""
        return self.source, self.target

    @property
    def read_bytes(self) -> int:
        return int(np.prod(self.taken))

    @property
    def write_bytes(self) -> int:
        return int(np.prod(self.node.shape))

    def compute(self, given: np.ndarray) -> np.ndarray:
        """What it writes, uint8 (B, write_bytes), of what it reads, uint8 (B, read_bytes)."""
        return self.node.compute(given.reshape(len(given), *self.taken)).reshape(len(given), self.write_bytes)


@dataclass(frozen=True, eq=False)
class Lowering:
    """What a program does, without addresses.

    steps : of the tile. host_steps : of the host, in order. homes : by tensor that has no buffer of its own, where it
    lies. sizes : bytes of every tensor.
    """

    network: Graph
    steps: tuple[Step, ...]
    host_steps: tuple[HostStep, ...]
    homes: dict[str, Place]
    sizes: dict[str, int]

    def buffer(self, place: Place) -> Place:
        """Where a place lies in the buffer that holds it; `tensor` then names the buffer."""
        return _buffer(self.homes, place)


def in_order(steps: Sequence[Step], host_steps: Sequence[HostStep]) -> tuple[Step | HostStep, ...]:
    """All steps, each of the host in front of the one of the tile that it stands before."""
    made: list[Step | HostStep] = []
    for index, step in enumerate(steps):
        made += [work for work in host_steps if work.before == index]
        made.append(step)
    return tuple(made)


def _buffer(homes: Mapping[str, Place], place: Place) -> Place:
    while place.tensor in homes:
        home = homes[place.tensor]
        place = Place(home.tensor, home.offset + place.offset)
    return place


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
        self.steps: list[Step] = []
        self.host_steps: list[HostStep] = []
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
            Host: self._host,
        }
        for node in self.network.nodes:
            self.bits[node.name] = self._bits(node)
            kind = Host if isinstance(node, Host) else type(node)
            if node.name not in self.folded and (step := lowering.get(kind)):
                try:
                    step(node)
                except ValueError as error:
                    text = str(error)
                    raise ValueError(text if text.startswith("node ") else f"node {node.name}: {text}") from None
        self._logits(self.network.output)
        return Lowering(self.network, tuple(self.steps), tuple(self.host_steps), self.homes, self.sizes)

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

        Of several macros, no residual may keep a step from running in all of them (`timing.abreast`).
        """
        users: dict[str, list[tuple[Node, int]]] = {}
        for node in self.network.nodes:
            for index, name in enumerate(node.inputs):
                users.setdefault(name, []).append((node, index))
        folded: dict[str, int | None] = {}
        columns: dict[str, int] = {}  # from a residual to its neighbour, of the borders of `folded`
        for node in reversed(self.network.nodes[:-1]):
            if not self._is_view(node.name):
                continue
            assert isinstance(node, Border)
            far = node.stride[1] * max((columns.get(user.name, 1) for user, _ in users[node.name]), default=1)
            hardware = self.network.hardware
            if timing.abreast(hardware, 1, residual_columns=far) < hardware.macros:
                continue
            values = {int(value) for value in _added(node)[:1]}
            after = [(user, index) for user, index in users[node.name] if self.residuals.get(user.name) != index]
            if all(user.name in folded for user, _ in after):
                values |= {value for user, _ in after if (value := folded[user.name]) is not None}
                if len(values) <= 1:
                    folded[node.name], columns[node.name] = next(iter(values), None), far
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
        if isinstance(node, Host) or (isinstance(node, Crossbar | Add) and node.lookup is not None):
            return node.encoding.bits
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
        hardware, source, first = self.network.hardware, node.inputs[0], 0
        for group, layer in enumerate(node.layers):
            segments, block_cols = layer.segments(hardware), layer.block_cols(hardware)
            held = vars(layer) | vars(layer.dynamic or DynamicPrecision())
            second, view = None, {}
            if len(node.inputs) > 1:
                second, view = self._view(node.inputs[1], first, layer.outputs)
                view["residual_multiplier"] = node.residual_multiplier
            self._append(
                node,
                StepKind.CROSSBAR,
                (layer.outputs, layer.out_height, layer.out_width),
                suffix="" if len(node.layers) == 1 else str(group),
                layer=layer,
                source=Place(source, group * layer.channels * layer.height * layer.width),
                target=Place(node.name, first * layer.out_height * layer.out_width),
                second=second,
                border=[0] if layer.pad_values is None or layer.pad == 0 else layer.pad_values,
                **{name: held[name] for name in _OF_LAYER},
                dynamic=layer.dynamic is not None,
                stream_bits=layer.input_bits,
                out_bits=layer.output_bits,
                ones=layer.output_ones,
                table=layer.table,
                **({"stop_bits": layer.stop_bits or 0} if hardware.early_stop else {}),
                stride_y=layer.stride,
                stride_x=layer.stride,
                pad_top=layer.pad,
                pad_left=layer.pad,
                segments=segments,
                last_rows=layer.k - (segments - 1) * hardware.ou_rows,
                block_cols=block_cols,
                last_cols=layer.outputs - (block_cols - 1) * hardware.ou_cols,
                **layer.registers.in_descriptor(hardware),
                **view,
            )
            first += layer.outputs

    def _max_pool(self, node: MaxPool) -> None:
        self._element(node, StepKind.MAXIMUM, **_window(node), out_bits=0)

    def _average_pool(self, node: AveragePool) -> None:
        sums: dict[str, Any] = {"last": 1, "offset": -node.area * node.input_zero}
        scaling = sums if node.sums else _scaling(node.rescale, 1)
        self._element(node, StepKind.SUM, border=[node.input_zero], **_window(node), **scaling)

    def _concat(self, node: Concat) -> None:
        offset = 0
        for index, (name, rescale) in enumerate(zip(node.inputs, node.rescales, strict=True)):
            place = Place(node.name, offset)
            if _buffer(self.homes, Place(name)) != _buffer(self.homes, place) or rescale is not None:
                scaling: dict[str, Any] = {"out_bits": 0} if rescale is None else _scaling(rescale, 1)
                shape, suffix = self.nodes[name].shape, f"copy{index}"
                self._element(node, StepKind.SUM, shape, source=name, target=place, suffix=suffix, **scaling)
            offset += self.sizes[name]

    def _add(self, node: Add) -> None:
        scaling, source, second = _scaling(node.rescale, len(node.inputs)), 0, None
        if len(node.inputs) > 1:
            residual = self.residuals[node.name]
            source = 1 - residual
            second, view = self._view(node.inputs[residual], 0, node.shape[0])
            scaling |= view
            scaling["multiplier"] = node.rescale.multipliers[source]
            scaling["residual_multiplier"] = node.rescale.multipliers[residual]
        self._element(node, StepKind.SUM, source=node.inputs[source], second=second, table=node.table, **scaling)

    def _border(self, node: Border) -> None:
        (above, _, left, _), (stride_y, stride_x) = node.border, node.stride
        added = _added(node)
        uniform = not any(node.border) and (len(added) == 0 or (added == added[0]).all())
        self._element(
            node,
            StepKind.SUM,
            border=added if uniform else node.values,
            stride_y=stride_y,
            stride_x=stride_x,
            pad_top=above * stride_y,
            pad_left=left * stride_x,
            first_channel=node.channels[0],
            out_bits=self.bits[node.name],
        )

    def _host(self, node: Host) -> None:
        (name,) = node.inputs
        self.host_steps.append(
            HostStep(
                node=node,
                before=len(self.steps),
                source=Place(name),
                target=Place(node.name),
                taken=self.nodes[name].shape,
            )
        )

    def _logits(self, node: Node) -> None:
        """A last step that makes logits, unless the network's output does already."""
        if not ((isinstance(node, Crossbar) and node.last) or (isinstance(node, AveragePool) and node.sums)):
            self._element(node, StepKind.SUM, source=node.name, suffix="logits", last=1, offset=-node.encoding.zero)

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
            "residual_plane": plane,
            "residual_row": row * width,
            "residual_column": column,
            "residual_channels": count,
            "residual_first": begin,
            "residual_value": value or 0,
        }
        return Place(name, skipped * plane), view

    def _element(
        self, node: Node, kind: StepKind, shape: Shape | None = None, *, source: str | None = None, **options: Any
    ) -> None:
        """An element step on a whole tensor, by default a copy of the node's first input, with the node's shape.

        options : as for `_append`; out_bits = 0 takes those of the source.
        """
        name = source or node.inputs[0]
        channels, height, width = self.nodes[name].shape
        single = dict.fromkeys(("stride_y", "stride_x", "kernel_height", "kernel_width", "pool"), 1)
        single |= {"channels": channels, "height": height, "width": width, "stream_bits": self.bits[name]}
        options = {**single, "multiplier": int(not options.get("last")), "target": Place(node.name)} | options
        options["out_bits"] = options.get("out_bits") or self.bits[name]
        self._append(node, kind, shape or node.shape, source=Place(name), **options)

    def _append(
        self,
        node: Node,
        kind: StepKind,
        shape: Shape,
        *,
        source: Place,
        target: Place,
        suffix: str = "",
        layer: Layer | None = None,
        second: Place | None = None,
        border: Any = (0,),
        ones: int = 0,
        table: np.ndarray | None = None,
        **values: int,
    ) -> None:
        """A step; second : its residual. ones : most ones of what it writes, 0 for any. table : what that is looked up
        in. values : descriptor fields that do not follow from the rest, or 0."""
        name = f"{node.name}.{suffix}" if suffix else node.name
        while suffix and name in self.names:
            name += "'"
        self.names.add(name)
        pads = tuple(int(value) for value in border)
        one_value = len(set(pads)) <= 1
        (outputs, rows, columns), hardware = shape, self.network.hardware
        names = _fields(hardware)
        if ones >= values["out_bits"]:
            ones = 0
        if hardware.pairs:
            values["out_ones"] = ones
        elif ones:
            raise ValueError(
                f"only the pair machine makes activations with at most {ones} ones, that of 'planes' makes any (0)"
            )
        fields = dict.fromkeys(names, 0) | {key: int(value) for key, value in values.items()}
        fields |= {"step": int(kind), "outputs": outputs, "out_height": rows, "out_width": columns}
        fields |= {"in_plane": fields["height"] * fields["width"], "out_plane": rows * columns}
        fields |= {
            "residual": int(second is not None),
            "pad_enable": int(not one_value),
            "pad_value": pads[0] if one_value and pads else 0,
        }
        assert len(fields) == len(names)
        cycles = None
        if layer is None:
            area = fields["kernel_height"] * fields["kernel_width"]
            window = timing.element_cycles(hardware, area, outputs, residual=second is not None)
            residual_columns = fields["residual_column"] if second is not None else 1
            together = timing.abreast(
                hardware, fields["stride_x"], residual_columns=residual_columns, last=bool(fields["last"])
            )
            cycles = timing.c_layer(hardware) + len(timing.rounds(rows, columns, 1, together)) * window
        self.steps.append(
            Step(
                name=name,
                node=node.name,
                kind=kind,
                layer=layer,
                fields=fields,
                source=source,
                target=None if fields["last"] else target,
                residual=second,
                pads=() if one_value else pads,
                table=() if table is None else tuple(table.tolist()),
                shape=shape,
                cycles=cycles,
            )
        )


def _fields(hardware: HardwareConfig) -> list[str]:
    """Descriptor fields but `PLACED`; `offset`, a signed number, stands for its two halves."""
    left_out = (*PLACED, "offset_low", "offset_high")
    return [field.name for field in descriptor_fields(hardware) if field.name not in left_out] + ["offset"]


def _added(node: Border) -> np.ndarray:
    """Values of the channels that a border node adds, before and after those of its input."""
    before, after = node.channels
    if np.shape(node.values) != (node.shape[0],):
        raise ValueError(f"node {node.name}: it needs {node.shape[0]} border values, got {np.size(node.values)}")
    return np.concatenate([node.values[:before], node.values[node.shape[0] - after :]])


def _window(node: MaxPool | AveragePool) -> dict[str, Any]:
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
        "ones": rescale.ones,
    }
