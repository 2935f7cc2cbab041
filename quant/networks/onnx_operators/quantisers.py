"""Quantised weights and activations: `Quant` of QONNX, and QuantizeLinear followed by DequantizeLinear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from torch import fx, nn

from quant.networks.layers import QuantActivation, RangeActivation
from quant.networks.onnx_operators.base import Reading

_ROUNDINGS = ("ROUND", "HALF_EVEN", "HALF_UP")  # they differ at ties only
_ROUND: dict[str, Callable[..., np.ndarray]] = {
    "ROUND": np.round,
    "HALF_EVEN": np.round,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "FLOOR": np.floor,
    "CEIL": np.ceil,
}


@dataclass(frozen=True)
class Integers:
    """What QuantizeLinear gives for a tensor x of the network."""

    x: fx.Node
    scale: np.ndarray
    zero: np.ndarray


class Quantisers(Reading):
    def quant(self, x: fx.Node, scale: Any, zero: Any, bits: Any, **attributes: Any) -> fx.Node:
        rounding = self._rounding()
        self._require(rounding in _ROUNDINGS, f"an activation must be rounded to the nearest integer, not {rounding}")
        return self._activation(x, scale, zero, self._ends(float(self._array(bits, "bit width"))))

    def quantize_linear(self, x: Any, scale: Any, zero: Any = None, **attributes: Any) -> Integers:
        return Integers(x, self._array(scale, "scale"), self._zero(zero))

    def _zero(self, zero: Any) -> np.ndarray:
        return np.array(0, np.uint8) if zero is None else self._array(zero, "zero point")

    def dequantize_linear(self, x: Any, scale: Any, zero: Any = None, **attributes: Any) -> fx.Node:
        self._require(isinstance(x, Integers), "it must follow QuantizeLinear, or have constant integers")
        zero = self._zero(zero)
        same = all(np.array_equal(a, b) for a, b in ((x.scale, self._array(scale, "scale")), (x.zero, zero)))
        self._require(same, "its scale and zero point must be those of QuantizeLinear")
        limits = np.iinfo(zero.dtype)
        return self._activation(x.x, scale, zero, (limits.min, limits.max))

    def _activation(self, x: fx.Node, scale: Any, zero: Any, ends: tuple[int, int]) -> fx.Node:
        """Integers of at most 8 bits; a picture has them, and the scores that end the network stay as they are."""
        if self.node.output[0] == self.proto.graph.output[0].name:
            return x
        scale, zero = (self._array(value, "scale and zero point") for value in (scale, zero))
        self._require(scale.size == zero.size == 1, "an activation must have one scale and one zero point")
        step, low, high = float(scale.item()), ends[0] - int(zero.item()), ends[1] - int(zero.item())
        self._require(
            low <= 0 < high and high - low < 256,
            f"an activation must be one of at most 256 integers, one of which stands for 0; it is one of"
            f" {high - low + 1}, which stand for {low * step:g} to {high * step:g} in steps of {step:g}",
        )
        if x.op == "placeholder":  # the pixels are integers already, or onnxruntime says otherwise
            return self._layer(nn.Identity(), x)
        activation = RangeActivation(high - low, low * step, high * step)
        if low < 0 or high - low + 1 < 1 << activation.bits:
            return self._layer(activation, x)
        module = QuantActivation(activation.bits)
        module.clip.requires_grad_(False)
        return self._layer(module, x, clip=np.float32(high * step))

    def bipolar_quant(self, x: Any, scale: Any, **attributes: Any) -> NoReturn:
        """Only weights; see `_fold_quantiser`."""
        self._refuse(
            "an activation of -1 or 1 has no 0 and turns where a table has an entry; only weights are supported"
        )

    # ---- constants --------------------------------------------------------------------------------
    def _fold_quantiser(self, values: Any, scale: Any, zero: Any = None, bits: Any = None) -> None:
        """A constant that is quantised."""
        if self.node.op_type == "BipolarQuant":
            self._keep(np.where(values >= 0, 1, -1), np.asarray(scale))
            return
        low, high = self._ends(float(bits))
        integers = np.clip(_ROUND[self._rounding()](values / scale + zero), low, high)
        self._keep(np.asarray(integers - zero).astype(np.int64), np.asarray(scale))

    def _keep(self, integers: np.ndarray, scale: np.ndarray) -> None:
        name = self.node.output[0]
        self.levels[name] = integers, np.broadcast_to(scale, integers.shape)
        self.constants[name] = (integers * scale).astype(np.float32)

    def _rounding(self) -> str:
        mode = self._attribute("rounding_mode", b"ROUND").decode().upper()
        self._require(mode in _ROUND, f"rounding_mode must be one of {', '.join(_ROUND)}, got {mode}")
        return mode

    def _ends(self, bits: float) -> tuple[int, int]:
        """Least and largest integer of QONNX's Quant."""
        self._require(bits in range(1, 33), f"its bit width must be a whole number up to 32, got {bits:g}")
        signed, narrow = self._attribute("signed", 1), self._attribute("narrow", 0)
        self._require(not (signed and bits == 1), "a sign and no more is BipolarQuant")
        half = 1 << int(bits) - 1
        return (-half + narrow, half - 1) if signed else (0, 2 * half - 1 - narrow)
