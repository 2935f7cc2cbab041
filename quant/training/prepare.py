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
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from golden_model.config import HardwareConfig
from golden_model.graph.network import Graph
from quant.capture import capture as import_network
from quant.capture.capture import Shape
from quant.capture.errors import UnsupportedOperator
from quant.training.layers import (
    PIXEL_LEVELS,
    BitPlaneWeight,
    Block,
    FloatWeight,
    Normalisation,
    QuantActivation,
    QuantMatrix,
    Stage,
    WeightSource,
)

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
        return import_network.from_torch(
            body, self.shape, self.hardware, images, normalisation=self.normalisation, name=name, classes=classes,
            weight_bits=min(7, self.weight_bits), activation_bits=self.hardware.input_bits,
        )  # fmt: skip

    def load_state(self, state: dict[str, Tensor]) -> None:
        """A state_dict, whichever sources (float or bit planes) its weights had; shapes must fit otherwise."""
        for name, layer in self.body.named_modules():
            if isinstance(layer, QuantMatrix) and f"body.{name}.source.positive" in state:
                planes = torch.zeros_like(state[f"body.{name}.source.positive"])
                source = layer.source
                with torch.no_grad():
                    made = BitPlaneWeight(
                        source.integers() * 0, 1.0, Block(source.ou_rows, source.ou_cols), self.weight_bits
                    )
                made.positive, made.negative = nn.Parameter(planes), nn.Parameter(planes.clone())
                made.mask = planes.clone()
                layer.source = made
        self.load_state_dict(state)

    def float_weights(self) -> QuantisedNetwork:
        """The same network with a `FloatWeight` at the present integers in every layer (for finetuning)."""
        network = copy.deepcopy(self)
        with torch.no_grad():
            for layer in network:
                source = layer.source
                if not isinstance(source, FloatWeight):
                    step = source.step()
                    layer.source = FloatWeight(
                        source.integers() * step, float(step), Block(source.ou_rows, source.ou_cols),
                        self.weight_bits,
                    )  # fmt: skip
        return network


# ---- making one ---------------------------------------------------------------------------------
def prepare(
    model: nn.Module,
    shape: Shape,
    hardware: HardwareConfig,
    *,
    calibration: Tensor,
    normalisation: Normalisation,
    start_bits: int = 7,
    activation_bits: int = 8,
    block: Block | None = None,
    layer_wise: bool = False,
    learn_clips: bool = False,
) -> QuantisedNetwork:
    """A quantised network with the weights of `model`, which is copied.

    calibration : pixels 0..255 (B, C, H, W) float, which set the clips. block : default an operation unit.
    layer_wise : one block for each layer instead. learn_clips : train clips of any width (LSQ).
    Step of a layer = largest magnitude / (2**start_bits - 1).
    Averages that feed a layer keep hardware.input_bits bits: they are few (*ours*).

    Raises UnsupportedOperator naming the layer whose input can be negative, or that has groups or dilation.
    """
    block = Block(hardware.ou_rows, hardware.ou_cols) if block is None else block
    module = import_network.trace(model)
    scaled = Normalisation(mean=normalisation.mean, std=(1.0,) * len(normalisation.std))
    example = normalisation.apply(calibration[:1])
    ShapeProp(module).propagate(example)
    _Surgeon(module, hardware, normalisation, start_bits, activation_bits, None if layer_wise else block).operate()
    network = QuantisedNetwork(module, shape, scaled, hardware)
    calibrate_clips(network, calibration)
    for activation in network.activations():
        activation.learned = learn_clips
        activation.set_bits(activation.bits)
    return network


class _Surgeon:
    """Exchanges the modules of a captured network."""

    def __init__(
        self,
        module: fx.GraphModule,
        hardware: HardwareConfig,
        normalisation: Normalisation,
        start_bits: int,
        activation_bits: int,
        block: Block | None,
    ) -> None:
        self.module, self.hardware, self.normalisation = module, hardware, normalisation
        self.start_bits, self.activation_bits, self.block = start_bits, activation_bits, block

    def operate(self) -> None:
        unsigned: dict[fx.Node, bool] = {}
        pixels: set[fx.Node] = set()
        nodes = list(self.module.graph.nodes)
        for node in nodes:
            inputs = [n for n in node.all_input_nodes if "tensor_meta" in n.meta]
            kind = self._kind(node)
            if node.op == "placeholder":
                pixels.add(node)
            elif kind in ("conv", "linear"):
                self._matrix(node, kind, inputs[0] in pixels, unsigned.get(inputs[0], False))
            elif kind == "relu":
                unsigned[self._activation(node, self.activation_bits, replace=True)] = True
            elif kind in ("mean", "cat") and all(unsigned.get(n, False) for n in inputs):
                bits = self.hardware.input_bits if kind == "mean" else self.activation_bits
                unsigned[self._activation(node, bits, replace=False)] = True
            elif kind == "same":
                unsigned[node] = all(unsigned.get(n, False) for n in inputs)
                if inputs and all(n in pixels for n in inputs):
                    pixels.add(node)
        self.module.graph.lint()
        self.module.recompile()

    def _kind(self, node: fx.Node) -> str:
        """conv, linear, relu, mean, cat, same (values pass) or other, as quant.capture.capture names operators."""
        if node.op == "call_module":
            module = self.module.get_submodule(str(node.target))
            for types, kind in (
                (nn.Conv2d, "conv"), (nn.Linear, "linear"), ((nn.ReLU, nn.Hardtanh), "relu"),
                ((nn.AvgPool2d, nn.AdaptiveAvgPool2d), "mean"),
                ((nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d, nn.Flatten, nn.Dropout, nn.Dropout2d, nn.Identity),
                 "same"),
            ):  # fmt: skip
                if isinstance(module, types):
                    return kind
            return "other"
        return import_network.kind_of_call(node)

    def _matrix(self, node: fx.Node, kind: str, from_image: bool, unsigned: bool) -> None:
        name = str(node.target)
        if node.op != "call_module":
            raise UnsupportedOperator(f"layer {node.name!r}: only convolution and linear modules can be trained")
        module: Any = self.module.get_submodule(name)
        if not (from_image or unsigned):
            raise UnsupportedOperator(f"layer {name!r}: its input can be negative; put a ReLU before it")
        taken, made = (tuple(n.meta["tensor_meta"].shape) for n in (node.all_input_nodes[0], node))
        weight = module.weight.detach()
        if kind == "conv":
            plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
            square = module.stride[0] == module.stride[1] and not isinstance(module.padding, str)
            if not (plain and square and module.padding[0] == module.padding[1]):
                raise UnsupportedOperator(f"layer {name!r}: groups, dilation or unequal strides cannot be trained")
        outputs, kernel = len(weight), tuple(weight.shape[2:]) or (1, 1)
        height, width = (*taken[2:], 1, 1)[:2]
        stage = Stage(
            name=name, kind=kind, channels=taken[1], height=height, width=width, kernel_height=kernel[0],
            kernel_width=kernel[1], stride=int(module.stride[0]) if kind == "conv" else 1,
            pad=int(module.padding[0]) if kind == "conv" else 0, pool=1, outputs=outputs, relu=False,
        )  # fmt: skip
        assert stage.out_shape == (*made[1:], 1, 1)[:3], (stage, made)
        offset = None
        if from_image:
            weight, offset = self._fold_image(weight, kind, name)
        matrix = weight.reshape(outputs, -1)
        largest = float(matrix.abs().max())
        if not np.isfinite(largest):
            raise ValueError(f"layer {name!r}: a weight is not a finite number")
        source = FloatWeight(
            matrix, (largest or 1.0) / (2**self.start_bits - 1),
            Block(stage.k, outputs) if self.block is None else self.block, self.hardware.weight_bits,
        )  # fmt: skip
        bias = torch.zeros(outputs) if module.bias is None else module.bias
        _set(self.module, name, QuantMatrix(stage, source, bias, offset))

    def _fold_image(self, weight: Tensor, kind: str, name: str) -> tuple[Tensor, Tensor | None]:
        """Deviations into the weight; what a border byte is off the mean."""
        if kind == "linear":
            if len(set(self.normalisation.std)) > 1:
                raise UnsupportedOperator(f"layer {name!r}: a linear layer on an image normalised per channel")
            return weight / self.normalisation.std[0], None
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (self.normalisation.mean, self.normalisation.std))
        border = torch.floor(PIXEL_LEVELS * mean + 0.5).clamp(0, PIXEL_LEVELS)
        offset = (border / PIXEL_LEVELS - mean).float()
        return weight / std.float().reshape(1, -1, 1, 1), offset if bool(offset.any()) else None

    def _activation(self, node: fx.Node, bits: int, *, replace: bool) -> fx.Node:
        cap = import_network.relu_cap(node, self.module) if replace else None
        name = f"{node.name}_quantised"
        self.module.add_submodule(name, QuantActivation(bits, cap))
        with self.module.graph.inserting_after(node):
            made = self.module.graph.call_module(name, (node.args[0] if replace else node,))
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
        if replace:
            self.module.graph.erase_node(node)
        return made


def _set(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


@torch.no_grad()
def calibrate_clips(network: QuantisedNetwork, pixels: Tensor) -> None:
    """Set every clip to the value with the least squared error at its bits, or a ReLU6's cap if that is less.

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
        steps = shares / (2**activation.bits - 1)
        rounded = [((values / s).round() * s).clamp_max(c) for s, c in zip(steps, shares, strict=True)]
        errors = torch.stack([(r - values).square().mean() for r in rounded])
        activation.clip.copy_(shares[int(errors.argmin())].float())
    network.train(training)
