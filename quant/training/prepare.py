"""Any trained PyTorch network made ready for block-wise quantised training (BWQ-A; system.md §3, §8).

`prepare` captures the network with torch.fx and exchanges modules, nothing else: a convolution or linear layer
becomes a `QuantMatrix`, a ReLU (and an average) a `QuantActivation`. Batch norms stay as they are while the
network is trained; `QuantisedNetwork.to_graph` hands it to quant.capture.capture, which folds them into the
output multipliers, so that integers of the weights are those that were trained.

A layer has one step for all its blocks; a block is block_rows x block_cols of the transposed (K, N) matrix:
an operation unit for BWQ, the whole matrix for layer-wise widths (BSQ).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import Geometry
from golden_model.few_ones import nearest_level
from golden_model.graph.network import Graph
from quant.capture.capture import captured, from_torch
from quant.capture.errors import UnsupportedOperator
from quant.capture.op import TRANSPARENT, Op, Shape, from_image
from quant.networks.layers import BitPlaneWeight, Block, FloatWeight, QuantActivation, QuantMatrix, WeightSource
from quant.networks.pixels import PIXEL_LEVELS, Normalisation

#: Clips that `calibrate_clips` tries, as shares of the largest value.
_CLIP_SHARES = np.linspace(0.1, 1.0, 46)


class QuantisedNetwork(nn.Module):
    """Pixels 0..255 (B, C, H, W) -> logits (B, classes), through quantised layers.

    body : torch.fx module whose layers were exchanged. normalisation : mean of the image; deviations are in the
    weights. Iterates over its `QuantMatrix`.
    """

    def __init__(self, body: fx.GraphModule, shape: Shape, normalisation: Normalisation, hardware: HardwareConfig):
        super().__init__()
        self.body, self.shape, self.normalisation, self.hardware = body, shape, normalisation, hardware
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(normalisation.mean).reshape(1, -1, 1, 1), persistent=False)

    def __iter__(self) -> Iterator[QuantMatrix]:
        return (m for m in self.body.modules() if isinstance(m, QuantMatrix))

    @property
    def weight_bits(self) -> int:
        """Largest width of a block."""
        return self.hardware.weight_bits

    def activations(self) -> list[QuantActivation]:
        return [m for m in self.body.modules() if isinstance(m, QuantActivation)]

    def sources(self) -> list[WeightSource]:
        return [layer.source for layer in self]

    def inputs(self) -> list[tuple[QuantActivation, QuantMatrix]]:
        """Every layer with every activation that it reads, through poolings and concatenations; not the image."""
        modules = dict(self.body.named_modules())
        found = []
        for node in self.body.graph.nodes:
            layer = modules.get(str(node.target)) if node.op == "call_module" else None
            sources = list(node.all_input_nodes) if isinstance(layer, QuantMatrix) else []
            while sources:
                source = sources.pop()
                activation = modules.get(str(source.target)) if source.op == "call_module" else None
                if isinstance(activation, QuantActivation):
                    found.append((activation, layer))
                else:
                    sources += source.all_input_nodes
        return found

    def forward(self, pixels: Tensor) -> Tensor:
        return self.body(pixels / PIXEL_LEVELS - self.mean).flatten(1)

    @torch.no_grad()
    def to_graph(self, images: np.ndarray, name: str, classes: Sequence[str] = ()) -> Graph:
        """The integer network: lossless converters, the trained integers, batch norms in the multipliers.

        images : a few uint8 images (N, C, H, W), for shapes only; every range is a trained clip.
        """
        body = copy.deepcopy(self.body).cpu().float().eval()
        return from_torch(
            body, self.shape, self.hardware, images, normalisation=self.normalisation, name=name, classes=classes,
            weight_bits=min(7, self.weight_bits), activation_bits=self.hardware.input_bits,
        )  # fmt: skip

    def load_state(self, state: dict[str, Tensor]) -> None:
        """A state_dict, whichever sources (float or bit planes) its weights had; shapes must fit otherwise."""
        for name, layer in self.body.named_modules():
            planes = state.get(f"body.{name}.source.positive")
            if isinstance(layer, QuantMatrix) and planes is not None:
                block, zeros = layer.source.block, torch.zeros_like(planes[0])
                layer.source = BitPlaneWeight(zeros, 1.0, block, self.weight_bits, least_planes=len(planes))
        self.load_state_dict(state)

    @torch.no_grad()
    def float_weights(self) -> QuantisedNetwork:
        """The same network with a `FloatWeight` at the present integers in every layer (for finetuning)."""
        network = copy.deepcopy(self)
        for layer in network:
            source = layer.source
            if not isinstance(source, FloatWeight):
                weight = source.integers() * source.step()
                layer.source = FloatWeight(weight, float(source.step()), source.block, self.weight_bits)
        return network


# ---- making one ---------------------------------------------------------------------------------
def prepare(
    model: nn.Module,
    shape: Shape,
    hardware: HardwareConfig,
    *,
    calibration: np.ndarray,
    normalisation: Normalisation,
    start_bits: int = 7,
    activation_bits: int = 8,
    activation_ones: int = 0,
    block: str = "ou",
    learn_clips: bool = False,
) -> QuantisedNetwork:
    """A quantised network with the weights of `model`, which is copied.

    calibration : uint8 images (N, C, H, W), which set the clips and which the capture is checked on
    (`quant.capture.capture.captured`). activation_ones : most ones of a hidden activation, 0 for any. block : weights
    that share a width, as `Block.named` takes it. learn_clips : train clips of any width (LSQ).
    Step of a layer = largest magnitude / (2**start_bits - 1).
    Averages that feed a layer keep hardware.input_bits bits, with any ones: they are few (*ours*).

    Raises UnsupportedOperator naming the layer that the capture refuses, whose input can be negative, or that has
    groups.
    """
    module, _, ops, _ = captured(model, calibration, normalisation)
    scaled = Normalisation(mean=normalisation.mean, std=(1.0,) * len(normalisation.std))
    surgeon = _Surgeon(module, ops, hardware, normalisation, start_bits, Block.named(block, hardware))
    surgeon.operate(activation_bits, activation_ones)
    network = QuantisedNetwork(module, shape, scaled, hardware)
    calibrate_clips(network, torch.from_numpy(calibration).float())
    for activation in network.activations():
        activation.learned = learn_clips
        activation.set_bits(activation.bits)
    return network


class _Surgeon:
    """Exchanges the modules of a captured network. ops : its operators by name, in order of computation."""

    def __init__(
        self,
        module: fx.GraphModule,
        ops: dict[str, Op],
        hardware: HardwareConfig,
        normalisation: Normalisation,
        start_bits: int,
        block: Block | None,
    ) -> None:
        self.module, self.ops, self.hardware, self.normalisation = module, ops, hardware, normalisation
        self.start_bits, self.block = start_bits, block

    def operate(self, activation_bits: int, activation_ones: int) -> None:
        unsigned: set[str] = set()
        for op in self.ops.values():
            passes = all(name in unsigned for name in op.inputs)
            if op.kind == "function":
                raise UnsupportedOperator(
                    f"layer {op.name!r}: networks whose activation function is not a ReLU cannot be trained here, only"
                    f" quantised after training (python -m quant.capture, or quant.compile without training)"
                )
            if op.kind == "relu" and op.floor < 0:
                raise UnsupportedOperator(
                    f"layer {op.name!r}: networks with a clamp below 0 cannot be trained here, only quantised after"
                    f" training"
                )
            if op.kind == "matrix":
                self._matrix(op, unsigned)
            elif op.kind == "relu" or (op.kind == "cat" and passes):
                self._activation(op, activation_bits, activation_ones)
                unsigned.add(op.name)
            elif op.kind == "mean" and passes:
                self._activation(op, self.hardware.input_bits, 0)
                unsigned.add(op.name)
            elif op.kind in TRANSPARENT and passes:
                unsigned.add(op.name)
        self.module.graph.lint()
        self.module.recompile()

    def _matrix(self, op: Op, unsigned: set[str]) -> None:
        node, source = op.value_of, self.ops[op.inputs[0]]
        if node is None or node.op != "call_module":
            raise UnsupportedOperator(f"layer {op.name!r}: only convolution and linear modules can be trained")
        name = str(node.target)
        from_pixels = from_image(self.ops, source.name)
        if not (from_pixels or source.name in unsigned):
            raise UnsupportedOperator(f"layer {name!r}: its input can be negative; put a ReLU before it")
        if op.groups > 1 or (source.kind == "border" and source.value_of is None):
            raise UnsupportedOperator(f"layer {name!r}: groups and unequal borders cannot be trained")
        weight, offset = op.weight.float(), None
        outputs, (kernel_height, kernel_width) = len(weight), weight.shape[2:]
        channels, height, width = source.shape
        geometry = Geometry(
            name=name, kind="linear" if op.linear else "conv", channels=channels, height=height, width=width,
            kernel_height=kernel_height, kernel_width=kernel_width, stride=op.stride, pad=op.pad, pool=1,
            outputs=outputs,
        )  # fmt: skip
        if from_pixels:
            weight, offset = self._fold_image(weight, op)
        matrix = weight.reshape(outputs, -1)
        largest = float(matrix.abs().max())
        quantised = FloatWeight(
            matrix, (largest or 1.0) / (2**self.start_bits - 1),
            Block(geometry.k, outputs) if self.block is None else self.block, self.hardware.weight_bits,
        )  # fmt: skip
        parent, _, last = name.rpartition(".")
        setattr(self.module.get_submodule(parent), last, QuantMatrix(geometry, quantised, op.bias.float(), offset))

    def _fold_image(self, weight: Tensor, op: Op) -> tuple[Tensor, Tensor | None]:
        """Deviations into the weight; what a border byte is off the mean."""
        if op.linear:
            if len(set(self.normalisation.std)) > 1:
                raise UnsupportedOperator(f"layer {op.name!r}: a linear layer on an image normalised per channel")
            return weight / self.normalisation.std[0], None
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (self.normalisation.mean, self.normalisation.std))
        border = torch.floor(PIXEL_LEVELS * mean + 0.5).clamp(0, PIXEL_LEVELS)
        offset = (border / PIXEL_LEVELS - mean).float()
        return weight / std.float().reshape(1, -1, 1, 1), offset if bool(offset.any()) else None

    def _activation(self, op: Op, bits: int, ones: int) -> None:
        """Quantise what an operator gives; a ReLU is part of that."""
        node = op.value_of
        assert node is not None
        name = f"{node.name}_quantised"
        self.module.add_submodule(name, QuantActivation(bits, op.cap, ones))
        with self.module.graph.inserting_after(node):
            made = self.module.graph.call_module(name, (node.args[0] if op.kind == "relu" else node,))
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
        if op.kind == "relu":
            self.module.graph.erase_node(node)


@torch.no_grad()
def calibrate_clips(network: QuantisedNetwork, pixels: Tensor) -> None:
    """Set every clip to the value with the least squared error at its bits and ones, or a ReLU6's cap if that is less.

    pixels : 0..255 (B, C, H, W) float; activations before are not quantised while they are watched.
    """
    training = network.training
    network.eval()
    for activation in network.activations():
        activation.watching = []
    for start in range(0, len(pixels), 64):
        network(pixels[start : start + 64])
    for activation in network.activations():
        values = torch.cat(activation.watching or []).double()
        activation.watching = None
        largest = float(values.max())
        shares = torch.from_numpy(_CLIP_SHARES) * max(largest, 1e-6)
        top = 2**activation.bits - 1
        rounded = [
            nearest_level((values / s).round().clamp_max(top), activation.bits, activation.ones) * s
            for s in shares / top
        ]
        errors = torch.stack([(r - values).square().mean() for r in rounded])
        activation.clip.copy_(shares[int(errors.argmin())].float())
    network.train(training)
