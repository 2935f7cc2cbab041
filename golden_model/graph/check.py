"""Whether the golden model can run a layer or a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar import redy as dynamic_precision
from golden_model.crossbar.layer import Layer
from golden_model.graph.host import Host
from golden_model.graph.nodes import Add, AveragePool, Crossbar, Image, Node, Shape
from golden_model.graph.numbers import MULTIPLIER_TOP, RESIDUAL_MULTIPLIER_TOP, SHIFT_TOP
from golden_model.pairs.early_stop import starts
from golden_model.pairs.search import search_of
from golden_model.trq import check_min_count, check_search


def accumulator_bits_needed(layer: Layer, hardware: HardwareConfig) -> int:
    """Width of a signed partial sum that cannot overflow (system.md §3): all conversions give the largest value."""
    value = search_of(layer.registers, hardware).largest if hardware.pairs else (1 << hardware.adc_bits) - 1
    largest = layer.segments(hardware) * value * ((1 << layer.input_bits) - 1) * ((1 << hardware.weight_bits) - 1)
    return (largest + int(np.abs(layer.bias).max(initial=0))).bit_length() + 1


def _integers(where: str, name: str, values: Any, low: int, high: int) -> None:
    values = np.asarray(values)
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ValueError(f"{where}: {name} holds NaN")
    if values.dtype.kind not in "iu":
        raise TypeError(f"{where}: {name} must be integers, got dtype {values.dtype}")
    if values.size and (values.min() < low or values.max() > high):
        raise ValueError(f"{where}: {name} must be in {low}..{high}, got {int(values.min())}..{int(values.max())}")


def check_sizes(layer: Layer, hardware: HardwareConfig) -> None:
    """Raise ValueError or TypeError, one sentence naming the layer, unless sizes and shapes of arrays are legal."""
    where = f"layer {layer.name}"
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
        "outputs": (1, 65535),
        "shift": (0, SHIFT_TOP),
        "input_bits": (1, hardware.input_bits),
        "output_bits": (1, hardware.input_bits),
        "output_ones": (0, 8),
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
    if layer.out_height < 1 or layer.out_width < 1:
        raise ValueError(
            f"{where}: pool must be at most the {layer.conv_height} x {layer.conv_width} map it pools, got {layer.pool}"
        )
    if layer.last and (layer.windows, layer.pool) != (1, 1):
        raise ValueError(f"{where}: the last layer must have one window and no pooling, got {layer.windows} windows")
    shapes = {
        "weights": (layer.k, layer.outputs),
        "bias": (layer.outputs,),
        "multipliers": (layer.outputs,),
        "block_widths": (layer.segments(hardware), layer.block_cols(hardware)),
        "min_count": ((1 << hardware.adc_bits) - 1,),
        "pad_values": (layer.channels,),
        "table": (1 << layer.output_bits,),
    }
    for name, shape in shapes.items():
        values = getattr(layer, name)
        if values is not None and np.shape(values) != shape:
            raise ValueError(f"{where}: {name} must have shape {shape}, got {np.shape(values)}")


def check_layer(layer: Layer, hardware: HardwareConfig) -> None:
    """Raise ValueError or TypeError, one sentence naming the layer, unless it is legal; image/placing.py finds out
    whether one tile can hold it."""
    check_sizes(layer, hardware)
    where, top = f"layer {layer.name}", (1 << hardware.weight_bits) - 1
    _integers(where, "weights", layer.weights, -top, top)
    _integers(where, "bias", layer.bias, -(1 << 31), (1 << 31) - 1)
    _integers(where, "multipliers", layer.multipliers, 0, MULTIPLIER_TOP)
    if layer.pad_values is not None:
        _integers(where, "pad_values", layer.pad_values, 0, (1 << layer.input_bits) - 1)
    if layer.table is not None:
        _integers(where, "table", layer.table, 0, (1 << hardware.input_bits) - 1)
        if layer.last:
            raise ValueError(f"{where}: a last layer makes sums and looks nothing up")
    if layer.stop_bits is not None:
        _check_stop(layer, hardware)
    try:
        mapping.check_widths(layer.block_widths, layer.weights, hardware)
        layer.registers.check_on(hardware)
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


def _check_stop(layer: Layer, hardware: HardwareConfig) -> None:
    where, top = f"layer {layer.name}", (1 << layer.input_bits) - 2
    if not hardware.early_stop:
        raise ValueError(f"{where}: early stop (stop_bits) needs a machine with early_stop = 1")
    if isinstance(layer.stop_bits, bool) or not isinstance(layer.stop_bits, int):
        raise TypeError(f"{where}: stop_bits must be an integer, got {layer.stop_bits!r}")
    if not 0 < layer.stop_bits <= top or layer.stop_bits & 1:
        raise ValueError(f"{where}: stop_bits must be even and in 2..{top}, got {layer.stop_bits}")
    if layer.last:
        raise ValueError(f"{where}: a last layer makes sums, none of which stops early")
    if not search_of(layer.registers, hardware).lossless:
        raise ValueError(f"{where}: early stop (stop_bits) needs a lossless search")
    _integers(where, "words of early stop", starts(layer), -(1 << 31), (1 << 31) - 1)


def check_structure(name: str, nodes: Sequence[Node]) -> None:
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
        if isinstance(node, Add) and len(node.inputs) > 2:
            raise ValueError(f"{where}: an addition has at most two inputs, got {len(node.inputs)}")
        if isinstance(node, Host) and len(node.inputs) > 1:
            raise ValueError(f"{where}: work of the host has one input, got {len(node.inputs)}")
        if isinstance(node, AveragePool) and node.sums and not last:
            raise ValueError(f"{where}: only the output can give sums")
        try:
            shape = node.expected_shape([shapes[input_name] for input_name in node.inputs])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if shape != node.shape or min(shape) < 1:
            raise ValueError(f"{where}: its output has shape {shape}, it states {node.shape}")
        shapes[node.name] = shape


def check_nodes(name: str, hardware: HardwareConfig, nodes: Sequence[Node], classes: Sequence[str]) -> None:
    """Raise ValueError or TypeError, one sentence naming the node, unless a graph of these parts can be run."""
    check_structure(name, nodes)
    widths: dict[str, int] = {}
    for node in nodes:
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
                check_layer(layer, hardware)
                if layer.stop_bits and node.inputs[1:]:
                    raise ValueError(f"{where}: outputs with a residual do not stop early (stop_bits)")
                if layer.input_bits != widths[node.inputs[0]]:
                    raise ValueError(
                        f"{where}: input_bits must be {widths[node.inputs[0]]}, the width of node {node.inputs[0]}, "
                        f"got {layer.input_bits}"
                    )
        widths[node.name] = node.encoding.bits
    if classes and len(classes) != np.prod(nodes[-1].shape):
        raise ValueError(f"graph {name}: {len(classes)} class names for {int(np.prod(nodes[-1].shape))} outputs")
