"""A trained PyTorch network as an integer graph: capture, folding, quantisation after training (system.md §3, §8).

`torch.fx` captures the network at module level. Operators are translated one by one; then batch norms are
folded into the layer before them, ReLUs and residual additions into a layer's post-processing, and
maximum pooling into the layer where the hardware can do it. What is left becomes nodes of
`golden_model.graph`. An operator that is not supported is refused with the name of its layer.

Nothing is believed: the captured operators are computed in floating point on calibration images beside the network
itself, and the first layer that differs by more than a thousandth of its range is refused by name.

Weights: symmetric, one step per layer from the largest magnitude. Activations: unsigned, from 0 (or the
smallest value, if there is no ReLU) to the largest value that the calibration images produce in the float
network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import fx, nn

from golden_model.config import HardwareConfig
from golden_model.graph.network import Graph
from quant.capture.emit import Emitter, quantise_weights
from quant.capture.errors import UnsupportedOperator
from quant.capture.op import Op, Shape
from quant.capture.operators.translator import Translator
from quant.capture.passes import Simplifier, compare_with_network
from quant.capture.trace import Seen, compare_with_eager, compare_with_file, observe, run_eager, trace
from quant.networks.pixels import Normalisation

__all__ = ["Op", "Shape", "UnsupportedOperator", "captured", "from_torch", "quantise_weights"]


@torch.no_grad()
def captured(
    model: nn.Module, images: np.ndarray, normalisation: Normalisation
) -> tuple[fx.GraphModule, dict[fx.Node, Seen], dict[str, Op], str]:
    """(torch.fx graph of a copy of the network, what its nodes gave on uint8 images (N, C, H, W), the operators by name
    in order of computation, the name of the last one).

    This is the one way into capture and into training: every module must give in the graph what it gives in the
    network itself, in evaluation mode, within a thousandth of the range of its values.

    Raises UnsupportedOperator naming the layer that differs, or the operator that is not supported.
    """
    module = trace(model)
    eager = run_eager(model, module, images, normalisation)
    seen = observe(module, images, normalisation)
    ops, output = Translator(module, seen).translate()
    compare_with_eager(eager, module, seen)
    return module, seen, ops, output


@torch.no_grad()
def from_torch(
    model: nn.Module,
    shape: Shape,
    hardware: HardwareConfig,
    calibration_images: np.ndarray,
    *,
    normalisation: Normalisation | None = None,
    weight_bits: int = 7,
    activation_bits: int = 8,
    name: str | None = None,
    classes: Sequence[str] = (),
) -> Graph:
    """The integer graph of a trained float network, quantised after training.

    Parameters
    ----------
    model : any `nn.Module` that torch.fx can trace; it is copied, not changed. What comes from an ONNX file must give
        what onnxruntime gives.
    shape : (C, H, W) of an image.
    hardware : the machine; converters are lossless uniform ones (`graph.settings.with_settings` changes them).
    calibration_images : uint8 (N, C, H, W), usually 32 training images.
    normalisation : what the float network expects of its input; None for pixel / 255. Folded into the first
        layers, so that the graph takes pixels (system.md §3).
    weight_bits : magnitude bits of a weight, beside its sign. activation_bits : width of every activation.

    Returns a `golden_model.graph.network.Graph` with lossless converters.

    Raises
    ------
    UnsupportedOperator naming operator and layer; ValueError for numbers that do not fit.
    """
    channels = shape[0]
    normalisation = Normalisation.none(channels) if normalisation is None else normalisation
    _check_arguments(shape, hardware, calibration_images, normalisation, weight_bits, activation_bits)
    compare_with_file(model, calibration_images, normalisation)
    float_graph, seen, ops, output = captured(model, calibration_images, normalisation)
    ops = Simplifier(ops, output).simplify()
    compare_with_network(ops, float_graph, seen)
    return Emitter(ops, hardware, normalisation, weight_bits, activation_bits).emit(
        type(model).__name__ if name is None else name, classes
    )


def _check_arguments(
    shape: Shape,
    hardware: HardwareConfig,
    images: np.ndarray,
    normalisation: Normalisation,
    weight_bits: int,
    activation_bits: int,
) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != tuple(shape) or len(images) == 0:
        raise ValueError(
            f"calibration images must be uint8 (N, {', '.join(map(str, shape))}), got {images.dtype} {images.shape}"
        )
    if len(normalisation.mean) != shape[0] or len(normalisation.std) != shape[0]:
        raise ValueError(f"normalisation must have {shape[0]} channels, got {normalisation}")
    if not (all(0 <= m <= 1 for m in normalisation.mean) and all(s > 0 for s in normalisation.std)):
        raise ValueError(f"normalisation: means must be in 0..1 and deviations above 0, got {normalisation}")
    if not 1 <= weight_bits <= hardware.weight_bits:
        raise ValueError(
            f"weight_bits must be in 1..{hardware.weight_bits}, got {weight_bits}: that is what the hardware has"
            f" (--hardware auto makes a machine that fits)"
        )
    if not 1 <= activation_bits <= hardware.input_bits:
        raise ValueError(f"activation_bits must be in 1..{hardware.input_bits}, got {activation_bits}")
    if hardware.input_bits < 8:
        raise ValueError(f"images have 8 bits, but the hardware streams input_bits = {hardware.input_bits}")
