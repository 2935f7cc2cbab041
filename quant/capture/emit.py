"""Integers: the remaining operators as nodes of an integer graph (system.md §3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.mapping import block_widths
from golden_model.graph import host, nodes
from golden_model.graph.network import Graph, build
from golden_model.graph.numbers import Encoding, Lookup
from golden_model.graph.settings import lossless_registers
from golden_model.trq import min_count
from quant.capture.errors import UnsupportedOperator
from quant.capture.op import HOST, Op, from_image
from quant.networks.pixels import PIXEL_LEVELS, Normalisation


def quantise_weights(weight: np.ndarray, bits: int) -> tuple[np.ndarray, float]:
    """(integers, step): symmetric, step = largest magnitude / (2**bits - 1), halves away from 0; step 0 for zeros."""
    step = float(np.abs(weight).max(initial=0.0)) / (2**bits - 1)
    if step == 0:
        return np.zeros(weight.shape, dtype=np.int64), 0.0
    return (np.sign(weight) * np.floor(np.abs(weight) / step + 0.5)).astype(np.int64), step


#: A map whose largest value is less than this share of what it could be was 0 on all images.
_NOTHING = 1e-9


class Emitter:
    """Turns the remaining ops into nodes of an integer graph."""

    def __init__(
        self,
        ops: dict[str, Op],
        hardware: HardwareConfig,
        normalisation: Normalisation,
        weight_bits: int,
        activation_bits: int,
    ) -> None:
        self.ops, self.hardware = ops, hardware
        self.normalisation, self.weight_bits, self.activation_bits = normalisation, weight_bits, activation_bits
        self.encodings: dict[str, Encoding] = {}
        self.output = next(reversed(ops))

    def emit(self, name: str, classes: Iterable[str]) -> Graph:
        made: list[nodes.Node] = []
        emitters = {"image": self._image, "matrix": self._matrix}
        skipped = self._peeled()
        for op in self.ops.values():
            if op.name in skipped:
                continue
            node = emitters.get(op.kind, self._other)(op)
            self.encodings[op.name] = node.encoding
            made.append(node)
        return build(name, self.hardware, made, classes=tuple(classes))

    def _peeled(self) -> set[str]:
        """Reshapes that only feed linear layers, which read a map in any shape."""
        needed = {self.output}
        for op in self.ops.values():
            needed.update(op.inputs[1:] if op.kind == "matrix" and op.linear else op.inputs)
            if op.kind == "matrix" and op.linear:
                needed.add(self._source(op).name)
        return {op.name for op in self.ops.values() if op.kind == "reshape" and op.name not in needed}

    def _source(self, op: Op) -> Op:
        """What a linear layer reads, before it was flattened."""
        source = self.ops[op.inputs[0]]
        while source.kind == "reshape":
            source = self.ops[source.inputs[0]]
        return source

    def _encoding(self, op: Op) -> Encoding:
        low, high = self._ends(op, op.low, op.high)
        return Encoding(low=low, high=high, bits=op.bits or self.activation_bits, ones=op.ones)

    def _lookup(self, op: Op, encoding: Encoding) -> Lookup | None:
        """The table of an op's function, whose activations have this encoding. Its codes have all bits of the machine.

        They cover what was seen, but for an end where the function stays within half a step of the activation
        (Hardswish far below 0): there saturation gives the same, and codes are finer elsewhere.
        """
        if op.function is None:
            return None
        function = op.function
        bits = self.hardware.input_bits

        def sampled(x: np.ndarray) -> np.ndarray:
            return function(torch.from_numpy(x).float()).double().numpy()

        if op.bits is not None:  # the activation's own steps, so that it is rounded once
            high = encoding.low + ((1 << bits) - 1) * float(encoding.scale)
            return Lookup.of(Encoding(low=encoding.low, high=high, bits=bits), sampled)
        low, high = self._ends(op, *op.code)
        places = np.linspace(low, high, 4097)
        values = sampled(places)
        _check_values(op, values, low, high)
        below, above = (np.flatnonzero(np.abs(values - values[end]) > encoding.scale / 2) for end in (0, -1))
        if len(below):
            low, high = min(0.0, float(places[below[0] - 1])), float(places[above[-1] + 1])
        code = Encoding(low=low, high=max(high, (high - low) / 255), bits=bits)
        lookup = Lookup.of(code, sampled)
        _check_values(op, lookup.values, low, high)
        return lookup

    def _ends(self, op: Op, low: float, high: float) -> tuple[float, float]:
        """The range of an encoding that covers low..high, of an op."""
        low, high = min(0.0, low), max(0.0, high)
        if max(high, -low) < _NOTHING * (usual := self._usual(op)):  # 0 on all calibration images
            low, high = 0.0, usual
        return low, high if high > 0 else max(1e-6, -low / 255)

    def _usual(self, op: Op) -> float:
        """A magnitude that an op's output could have, for one that was never seen to be other than 0."""
        inputs = [max(e.high, -e.low) for e in (self.encodings[i] for i in op.inputs if i in self.encodings)]
        usual = max(inputs, default=1.0)
        if op.kind == "matrix":
            usual = max(usual * float(op.weight.abs().max()), float(op.bias.abs().max()))
        return usual or 1.0

    def _least_step(self, op: Op, last: bool, encoding: Encoding, *, zero: bool) -> float:
        """Least real value of a weight's step with which bias and zero points still fit 32 bits.

        zero : no weight is other than 0, so that there is room for a coarser step and a finer multiplier.
        """
        source = self.encodings[self._source(op).name if op.linear else op.inputs[0]]
        top = float(op.bias.abs().max())
        if not last:
            residuals = [self.encodings[i] for i in op.inputs[1:]]
            top = max(top, encoding.scale, *(e.zero * e.scale for e in (encoding, *residuals)))
        return (top or 1.0) / source.scale * 2.0 ** (-16 if zero else -29)

    def _per_channel(self) -> bool:
        return len(set(self.normalisation.std)) > 1 or any(self.normalisation.mean)

    def _base(self, op: Op, *inputs: str) -> dict[str, Any]:
        if op.kind in ("mean", "cat", "add", "reshape", *HOST) or len(inputs) > 1:
            for name in inputs if op.kind != "matrix" else inputs[1:]:
                if self._per_channel() and from_image(self.ops, name):
                    raise UnsupportedOperator(
                        f"layer {op.name!r}: an image that is normalised per channel can only be the input of"
                        f" convolutions, linear layers and maximum pooling"
                    )
        return {"name": op.name, "inputs": inputs, "shape": op.shape, "encoding": self._encoding(op)}

    def _image(self, op: Op) -> nodes.Node:
        """Pixels q with real value (q / 255 - mean) / std; deviations that differ are folded into the weights."""
        std = self.normalisation.std
        high = 1.0 if len(set(std)) > 1 else 1.0 / std[0]
        zeros = tuple(PIXEL_LEVELS * m for m in self.normalisation.mean) if any(self.normalisation.mean) else ()
        return nodes.Image(name=op.name, shape=op.shape, encoding=Encoding(high=high, zeros=zeros))

    def _matrix(self, op: Op) -> nodes.Node:
        source = self._source(op) if op.linear else self.ops[op.inputs[0]]
        channels, height, width = source.shape
        weight = op.weight.numpy()
        if op.linear:
            weight = weight.reshape(len(weight), channels, height, width)
        std = self.normalisation.std
        if from_image(self.ops, source.name) and len(set(std)) > 1:
            if op.integers is not None:
                raise UnsupportedOperator(
                    f"layer {op.name!r}: its weight has integers of its own, so that a deviation per channel of the"
                    f" image cannot go into it; give one --std for all channels"
                )
            inputs = np.array(std).reshape(op.groups, -1)  # channels of each group
            weight = weight / np.repeat(inputs, len(weight) // op.groups, axis=0)[:, :, None, None]
        outputs, kernel = len(weight), weight.shape[2:]
        if not (np.isfinite(weight).all() and bool(torch.isfinite(op.bias).all())):
            raise ValueError(f"layer {op.name!r}: a weight or bias is not a finite number")
        base = self._base(op, source.name, *op.inputs[1:])
        plain = not op.relu and op.function is None
        last = op.name == self.output and plain and (len(op.inputs), op.groups, op.shape[1:]) == (1, 1, (1, 1))
        lookup = self._lookup(op, base["encoding"])
        encoding = base["encoding"] if lookup is None else lookup.code  # of the sums
        integers, steps = self._integers(op, weight.reshape(outputs, -1), last, encoding)
        per_group = outputs // op.groups
        registers = lossless_registers(self.hardware)
        layers = []
        for group in range(op.groups):
            part = np.ascontiguousarray(integers[group * per_group : (group + 1) * per_group].T)
            layers.append(
                Layer(
                    name=op.name if op.groups == 1 else f"{op.name}.{group}",
                    kind="linear" if op.linear else "conv",
                    channels=channels // op.groups,
                    height=height,
                    width=width,
                    kernel_height=kernel[0],
                    kernel_width=kernel[1],
                    stride=op.stride,
                    pad=op.pad,
                    pool=op.pool,
                    outputs=per_group,
                    weights=part,
                    bias=np.zeros(per_group, dtype=np.int64),
                    multipliers=np.zeros(per_group, dtype=np.int64),
                    shift=0,
                    block_widths=block_widths(part, self.hardware),
                    registers=registers,
                    min_count=min_count(self.hardware.adc_bits),
                    last=last,
                )
            )
        bias = op.bias.numpy().astype(np.float64)
        return nodes.Crossbar(**base, layers=tuple(layers), step=steps, bias=bias, lookup=lookup)

    def _integers(self, op: Op, weight: np.ndarray, last: bool, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
        """(integers int64 (N, K), step per output (N,)) of real weights (N, K), or those that were trained."""
        outputs = len(weight)
        if op.integers is None:
            integers, step = quantise_weights(weight, self.weight_bits)
            steps = np.full(outputs, step)
        else:
            sign = np.where(op.scale.numpy() < 0, -1, 1)
            integers = op.integers.numpy().astype(np.int64).reshape(outputs, -1) * sign[:, None]
            steps = np.abs(op.scale.numpy())
            step = float(steps.max())
        low = self._least_step(op, last, encoding, zero=step == 0)
        if op.integers is None and step < low:  # pruned away, or nearly: weights too small beside the bias
            step = low
            integers = np.floor(np.abs(weight) / step + 0.5).astype(np.int64) * np.sign(integers)
            steps = np.full(outputs, step)
        elif op.integers is not None:  # outputs whose scale is 0 have a bias all the same
            step = max(step, low)
            integers = np.where(steps[:, None] > 0, integers, 0)
            steps = np.where(steps > 0, steps, step)
        return integers, steps

    def _other(self, op: Op) -> nodes.Node:
        if op.kind == "border" and self._per_channel() and any(op.channels) and from_image(self.ops, op.name):
            raise UnsupportedOperator(f"layer {op.name!r}: channels cannot be added to an image normalised per channel")
        base = self._base(op, *op.inputs)
        if op.kind == "border":
            return nodes.Border(**base, stride=op.steps, border=op.border, channels=op.channels)
        if op.kind == "layer_norm":
            return host.LayerNorm(**base, gain=op.weight.numpy(), bias=op.bias.numpy(), eps=op.eps)
        if op.kind == "attention":
            return host.Attention(**base, heads=op.heads)
        if op.kind == "add_constant":
            return host.AddConstant(**base, values=op.bias.numpy())
        if op.window is None:
            if op.kind == "add":
                return nodes.Add(**base, lookup=self._lookup(op, base["encoding"]))
            return {"cat": nodes.Concat, "reshape": nodes.Reshape}[op.kind](**base)
        if op.kind == "max":
            return nodes.MaxPool(**base, window=op.window)
        return nodes.AveragePool(**base, window=op.window, sums=op.name == self.output and not op.relu)


def _check_values(op: Op, values: np.ndarray, low: float, high: float) -> None:
    """UnsupportedOperator if values of an op's function, for inputs low..high, are infinite or no numbers."""
    if not np.isfinite(values).all():
        raise UnsupportedOperator(
            f"layer {op.name!r}: its function has no value for some inputs between {low:g} and {high:g}"
        )
