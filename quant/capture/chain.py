"""Float networks, and how their structure is captured (torch.fx at module level).

A network is a chain of stages: one convolution or fully connected layer, its ReLU, its maximum
pooling. Anything else is refused with the name of the layer (system.md §10, last sentence).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from quant.capture.errors import UnsupportedOperator


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One hardware layer of a network (fields as golden_model.graph.layers.Layer).

    `name` is the module's name; (channels, height, width) its input; a fully connected layer is a
    convolution whose kernel is the whole input (system.md §5a). `relu` is False for the last layer.
    """

    name: str
    kind: str  # "conv" or "linear"
    channels: int
    height: int
    width: int
    kernel_height: int
    kernel_width: int
    stride: int
    pad: int
    pool: int
    outputs: int
    relu: bool

    @property
    def k(self) -> int:
        return self.channels * self.kernel_height * self.kernel_width

    @property
    def conv_height(self) -> int:
        return (self.height + 2 * self.pad - self.kernel_height) // self.stride + 1

    @property
    def conv_width(self) -> int:
        return (self.width + 2 * self.pad - self.kernel_width) // self.stride + 1

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """(C, H, W) after pooling."""
        return self.outputs, self.conv_height // self.pool, self.conv_width // self.pool

    @property
    def windows(self) -> int:
        """Windows per image that end in a pooled output."""
        _, height, width = self.out_shape
        return height * width * self.pool * self.pool

    @property
    def products(self) -> int:
        """Multiplications of an activation with a weight per image."""
        return self.windows * self.k * self.outputs


class LeNet5(nn.Module):
    """LeNet-5: conv 6@5x5 (pad 2), pool 2, conv 16@5x5, pool 2, 120, 84, classes; ReLU between.

    Parameters
    ----------
    channels, height, width : shape of an input image; at least 12 x 12 pixels.
    classes : number of outputs, at least 2.
    """

    def __init__(self, channels: int = 1, height: int = 28, width: int = 28, classes: int = 10) -> None:
        super().__init__()
        if min(height, width) < 12:
            raise ValueError(f"LeNet-5 needs images of at least 12 x 12 pixels, got {height} x {width}")
        if classes < 2:
            raise ValueError(f"LeNet-5 needs at least 2 classes, got {classes}")
        features = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=2)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(features, 120)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(120, 84)
        self.relu4 = nn.ReLU()
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.flatten(x)
        return self.fc3(self.relu4(self.fc2(self.relu3(self.fc1(x)))))


#: Networks that `python -m quant.train --model` knows: name -> constructor(channels, height, width, classes).
MODELS: dict[str, Callable[[int, int, int, int], nn.Module]] = {"lenet5": LeNet5}


def build(name: str, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
    """A freshly initialised float network for images of `shape` (C, H, W)."""
    if name not in MODELS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(sorted(MODELS))}")
    with torch.random.fork_rng(devices=[]):  # the constructors' own draws are thrown away
        model = MODELS[name](*shape, classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5, generator=generator)
            if module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    return model


def capture(model: nn.Module, shape: tuple[int, int, int]) -> tuple[Stage, ...]:
    """The stages of `model` for inputs of `shape` (C, H, W).

    Supported: Conv2d (groups 1, dilation 1, square stride and zero padding), Linear, ReLU, MaxPool2d
    (kernel = stride, no padding), Flatten, Dropout, Identity, in one chain. UnsupportedOperator names
    the layer of anything else.
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:
        raise UnsupportedOperator(f"the network cannot be captured by torch.fx: {error}") from error
    modules = dict(model.named_modules())
    builder = _ChainBuilder(shape)
    previous: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "output":
            if node.args[0] is not previous:
                raise UnsupportedOperator("the network must return exactly one tensor, its last layer's output")
            continue
        if node.op == "placeholder":
            if previous is not None:
                raise UnsupportedOperator(f"input {node.name!r}: only one input tensor is supported")
            previous = node
            continue
        name = str(node.target) if node.op == "call_module" else node.name
        inputs = node.all_input_nodes
        if len(inputs) != 1 or inputs[0] is not previous:
            operation = type(modules[name]).__name__ if name in modules else _label(node)
            raise UnsupportedOperator(f"layer {name!r}: {operation} is not supported; layers must form one chain")
        builder.add(name, node, modules)
        previous = node
    return builder.finish()


def _label(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


_RELU = (torch.relu, nn.functional.relu)


class _ChainBuilder:
    """Collects stages while `capture` walks the graph."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.flat = False
        self.stages: list[Stage] = []

    def add(self, name: str, node: fx.Node, modules: dict[str, nn.Module]) -> None:
        module = modules[name] if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d):
            self._conv(name, module)
        elif isinstance(module, nn.Linear):
            self._linear(name, module)
        elif isinstance(module, nn.MaxPool2d):
            self._pool(name, module)
        elif isinstance(module, nn.ReLU) or node.target in _RELU or (node.op, node.target) == ("call_method", "relu"):
            self._last(name, "ReLU", relu=True)
        elif (
            isinstance(module, nn.Flatten)
            or node.target is torch.flatten
            or (node.op, node.target) == ("call_method", "flatten")
        ):
            self._flatten(name, node, module)
        elif isinstance(module, nn.Dropout | nn.Identity):
            pass
        else:
            label = type(module).__name__ if module is not None else _label(node)
            label = {operator.add: "residual add"}.get(node.target, label)  # type: ignore[call-overload]
            raise UnsupportedOperator(
                f"layer {name!r}: {label} is not supported"
                " (supported: Conv2d, Linear, ReLU, MaxPool2d, Flatten, Dropout)"
            )

    def _check(self, name: str, what: str, value: Any, allowed: Any) -> None:
        if value != allowed:
            raise UnsupportedOperator(f"layer {name!r}: {what} must be {allowed}, got {value}")

    def _append(self, stage: Stage) -> None:
        if self.stages and not self.stages[-1].relu:
            raise UnsupportedOperator(
                f"layer {stage.name!r}: its input is signed because no ReLU follows {self.stages[-1].name!r}"
            )
        if min(stage.conv_height, stage.conv_width) < 1:
            raise UnsupportedOperator(f"layer {stage.name!r}: the kernel is larger than its padded input")
        self.stages.append(stage)
        self.shape = stage.out_shape

    def _conv(self, name: str, module: nn.Conv2d) -> None:
        channels, height, width = self.shape
        self._check(name, "groups", module.groups, 1)
        self._check(name, "dilation", tuple(module.dilation), (1, 1))
        self._check(name, "padding mode", module.padding_mode, "zeros")
        self._check(name, "input channels", module.in_channels, channels)
        if self.flat:
            raise UnsupportedOperator(f"layer {name!r}: a convolution after Flatten is not supported")
        if isinstance(module.padding, str) or len(set(module.padding)) != 1 or len(set(module.stride)) != 1:
            raise UnsupportedOperator(
                f"layer {name!r}: stride and padding must be equal in both directions,"
                f" got {module.stride} and {module.padding}"
            )
        kernel_height, kernel_width = module.kernel_size
        self._append(
            Stage(
                name=name,
                kind="conv",
                channels=channels,
                height=height,
                width=width,
                kernel_height=kernel_height,
                kernel_width=kernel_width,
                stride=module.stride[0],
                pad=int(module.padding[0]),
                pool=1,
                outputs=module.out_channels,
                relu=False,
            )
        )

    def _linear(self, name: str, module: nn.Linear) -> None:
        channels, height, width = self.shape
        if not self.flat and (height, width) != (1, 1):
            raise UnsupportedOperator(f"layer {name!r}: a fully connected layer needs Flatten before it")
        self._check(name, "input features", module.in_features, channels * height * width)
        self.flat = True
        self._append(
            Stage(
                name=name,
                kind="linear",
                channels=channels,
                height=height,
                width=width,
                kernel_height=height,
                kernel_width=width,
                stride=1,
                pad=0,
                pool=1,
                outputs=module.out_features,
                relu=False,
            )
        )

    def _last(self, name: str, what: str, **changes: Any) -> None:
        if not self.stages:
            raise UnsupportedOperator(f"layer {name!r}: {what} must follow a convolution or fully connected layer")
        self.stages[-1] = replace(self.stages[-1], **changes)
        self.shape = self.stages[-1].out_shape

    def _pool(self, name: str, module: nn.MaxPool2d) -> None:
        size = module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,) * 2
        step = module.stride if isinstance(module.stride, tuple) else (module.stride,) * 2
        if size != step or size[0] != size[1]:
            raise UnsupportedOperator(
                f"layer {name!r}: overlapping pooling is not supported;"
                f" kernel {size} must be square and equal stride {step}"
            )
        self._check(name, "pooling padding", module.padding, 0)
        self._check(name, "pooling dilation", module.dilation, 1)
        self._check(name, "ceil_mode", module.ceil_mode, False)
        if self.flat:
            raise UnsupportedOperator(f"layer {name!r}: pooling after Flatten is not supported")
        if self.stages and self.stages[-1].pool != 1:
            raise UnsupportedOperator(f"layer {name!r}: two poolings after one layer are not supported")
        self._last(name, "MaxPool2d", pool=int(size[0]))
        if min(self.shape) < 1:
            raise UnsupportedOperator(f"layer {name!r}: nothing is left after pooling")

    def _flatten(self, name: str, node: fx.Node, module: nn.Module | None) -> None:
        start = module.start_dim if isinstance(module, nn.Flatten) else node.kwargs.get("start_dim", (*node.args, 0)[1])
        self._check(name, "flatten start_dim", start, 1)
        self.flat = True

    def finish(self) -> tuple[Stage, ...]:
        if not self.stages:
            raise UnsupportedOperator("the network has no convolution or fully connected layer")
        last = self.stages[-1]
        if last.relu:
            raise UnsupportedOperator(f"layer {last.name!r}: the last layer must give signed logits, without ReLU")
        if last.pool != 1 or last.out_shape[1:] != (1, 1):
            raise UnsupportedOperator(f"layer {last.name!r}: the last layer must give one value per class")
        return tuple(self.stages)
