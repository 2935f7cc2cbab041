"""A trained PyTorch network as an integer graph: capture, folding, quantisation after training (system.md §3, §8).

`torch.fx` captures the network at module level. Operators are translated one by one; then batch norms are
folded into the layer before them, ReLUs and residual additions into a layer's post-processing, and
maximum pooling into the layer where the hardware can do it. What is left becomes nodes of
`golden_model.graph`. An operator that is not supported is refused with the name of its layer.

Weights: symmetric, one step per layer from the largest magnitude. Activations: unsigned, from 0 (or the
smallest value, if there is no ReLU) to the largest value that the calibration images produce in the float
network.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.mapping import block_widths
from golden_model.graph import network as integer
from golden_model.graph.network import Graph
from golden_model.graph.nodes import Add, AveragePool, Border, Concat, Crossbar, Image, MaxPool, Node, Reshape
from golden_model.graph.numbers import Encoding, Window
from golden_model.graph.settings import lossless_uniform
from golden_model.trq import min_count
from quant.capture.chain import UnsupportedOperator
from quant.training.layers import PIXEL_LEVELS, Normalisation, QuantActivation, QuantMatrix

Shape = tuple[int, int, int]

SUPPORTED = (
    "Conv2d, Linear, BatchNorm, ReLU, ReLU6, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, addition, cat, flatten,"
    " view, reshape, mean over height and width, Dropout, Identity"
)
_CALIBRATION_BYTES = 32 << 20  # pixels of the images that are observed at a time, as floats


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
    model : any `nn.Module` that torch.fx can trace; it is copied, not changed.
    shape : (C, H, W) of an image.
    hardware : the machine; converters are lossless uniform ones (`graph.with_settings` changes them).
    calibration_images : uint8 (N, C, H, W), usually 32 training images.
    normalisation : what the float network expects of its input; None for pixel / 255. Folded into the first
        layers, so that the graph takes pixels (system.md §3).
    weight_bits : magnitude bits of a weight, beside its sign. activation_bits : width of every activation.

    Returns a `golden_model.graph.Graph` with lossless converters.

    Raises
    ------
    UnsupportedOperator naming operator and layer; ValueError for numbers that do not fit.
    """
    channels = shape[0]
    normalisation = Normalisation.none(channels) if normalisation is None else normalisation
    _check_arguments(shape, hardware, calibration_images, normalisation, weight_bits, activation_bits)
    float_graph = trace(model)
    seen = observe(float_graph, calibration_images, normalisation)
    ops, output = _Translator(float_graph, seen, shape).translate()
    ops = _Simplifier(ops, output).simplify()
    return _Emitter(ops, hardware, normalisation, weight_bits, activation_bits).emit(
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
        raise ValueError(f"weight_bits must be in 1..{hardware.weight_bits}, got {weight_bits}")
    if not 1 <= activation_bits <= hardware.input_bits:
        raise ValueError(f"activation_bits must be in 1..{hardware.input_bits}, got {activation_bits}")
    if hardware.input_bits < 8:
        raise ValueError(f"images have 8 bits, but the hardware streams input_bits = {hardware.input_bits}")


# ---- capture ------------------------------------------------------------------------------------
class _Tracer(fx.Tracer):
    """Keeps quantised layers whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, QuantMatrix | QuantActivation) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """A copy of the model, in evaluation mode, as a torch.fx graph."""
    model = copy.deepcopy(model).cpu().float().eval()
    try:
        return fx.GraphModule(model, _Tracer().trace(model), type(model).__name__)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UnsupportedOperator(f"the network cannot be captured by torch.fx: {reason}") from error


@dataclass
class Seen:
    """What a torch.fx node gave on the calibration images.

    shape : of a tensor with the batch in front, None otherwise. low, high : its real range. value : anything else.
    """

    shape: tuple[int, ...] | None = None
    low: float = float("inf")
    high: float = float("-inf")
    value: Any = None


class _Watcher(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[fx.Node, Seen] = {}

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except Exception as error:
            raise UnsupportedOperator(f"layer {_name(n)!r}: it cannot be computed: {error}") from error
        seen = self.seen.setdefault(n, Seen())
        if isinstance(result, Tensor):
            if not bool(torch.isfinite(result).all()):
                raise ValueError(f"layer {_name(n)!r}: it gives a value that is not a finite number")
            seen.shape = tuple(result.shape)
            seen.low, seen.high = min(seen.low, float(result.min())), max(seen.high, float(result.max()))
        if not isinstance(result, Tensor) or n.op == "get_attr":
            seen.value = result
        return result


def observe(module: fx.GraphModule, images: np.ndarray, normalisation: Normalisation) -> dict[fx.Node, Seen]:
    """Run calibration images uint8 (N, C, H, W) through the float network and note shapes and ranges."""
    if len(placeholders := [n for n in module.graph.nodes if n.op == "placeholder"]) != 1:
        raise UnsupportedOperator(f"the network must have one input, it has {len(placeholders)}")
    watcher = _Watcher(module)
    step = max(1, _CALIBRATION_BYTES // (4 * 16 * int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), step):
        watcher.run(normalisation.apply(torch.tensor(images[start : start + step], dtype=torch.float32)))
    return watcher.seen


def _name(node: fx.Node) -> str:
    """Name of a layer for people: the module's path, or the enclosing module's path and the operator."""
    if node.op in ("call_module", "get_attr"):
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    owner = list(stack.values())[-1][0] if stack else ""
    return f"{owner}.{node.name}" if owner else node.name


# ---- operators ----------------------------------------------------------------------------------
@dataclass(eq=False)
class Op:
    """One operator of the float network.

    kind : image, matrix, norm, relu, max, mean, cat, add, border or reshape. inputs : names of ops; the second
    input of a matrix is a residual. shape : (C, H, W) of the output; low, high : its real range.
    relu : clamped at 0 after it. cap : its upper clamp (ReLU6), None for none.
    integers, scale : a trained integer weight, shaped as `weight`, and its real step per output (N,), negative where
    a batch norm turns the sign; None and empty for a weight that is still to be quantised.
    bits : of a trained activation, whose range is exactly 0..cap; None otherwise.
    """

    name: str
    kind: str
    inputs: list[str]
    shape: Shape
    low: float
    high: float
    relu: bool = False
    cap: float | None = None
    weight: Tensor = field(default_factory=lambda: torch.zeros(0))  # (N, C / groups, kh, kw)
    bias: Tensor = field(default_factory=lambda: torch.zeros(0))
    linear: bool = False
    stride: int = 1
    pad: int = 0
    groups: int = 1
    pool: int = 1
    window: Window | None = None
    border: tuple[int, int, int, int] = (0, 0, 0, 0)
    steps: tuple[int, int] = (1, 1)
    channels: tuple[int, int] = (0, 0)
    integers: Tensor | None = None
    scale: Tensor = field(default_factory=lambda: torch.zeros(0))
    bits: int | None = None

    def clamp(self, relu: Op) -> None:
        """Take over what a ReLU does."""
        self.relu, self.cap, self.bits, self.low = True, relu.cap, relu.bits, 0.0
        self.high = max(0.0, self.high)
        if relu.cap is not None:
            self.high = relu.cap if relu.bits is not None else min(self.high, relu.cap)


@dataclass(frozen=True)
class _Ref:
    """The tensor that an operator gives. softmax : name of a softmax before it, which may only end the network."""

    op: str
    rank: int
    softmax: str = ""


def _pair(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    return (pair[0], pair[0]) if len(pair) == 1 else cast(tuple[int, int], pair)


class _Translator:
    """Turns torch.fx nodes into `Op`s, one operator after the other.

    Methods named after an operator take its tensors as `_Ref` and its other arguments as torch does.
    """

    def __init__(self, module: fx.GraphModule, seen: dict[fx.Node, Seen], shape: Shape) -> None:
        self.module, self.seen, self.shape = module, seen, shape
        self.ops: dict[str, Op] = {}
        self.refs: dict[fx.Node, _Ref] = {}
        self.node: fx.Node = next(iter(module.graph.nodes))
        self.label = ""

    def translate(self) -> tuple[dict[str, Op], str]:
        """All ops by name in order of computation, and the name of the output's."""
        output = None
        for node in self.module.graph.nodes:
            self.node = node
            seen = self.seen.get(node)
            if node.op == "output":
                if not isinstance(node.args[0], fx.Node) or node.args[0] not in self.refs:
                    raise UnsupportedOperator("the network must return exactly one tensor, made from its input")
                output = self.refs[node.args[0]].op
            elif node.op == "placeholder":
                self.label = "input"
                self.refs[node] = self._add("image")
            elif node.op != "get_attr" and seen is not None and seen.shape is not None:
                self.refs[node] = self._operator(node)
            elif node.op != "get_attr" and seen is not None and not _is_plain(seen.value):
                raise self._refused(_label(node, self.module))
        assert output is not None
        return self.ops, output

    # ---- plumbing ---------------------------------------------------------------------------------
    def _operator(self, node: fx.Node) -> _Ref:
        self.label = _label(node, self.module)
        if node.op == "call_module":
            module = self.module.get_submodule(str(node.target))
            translate = next((t for kind, t in _MODULES.items() if isinstance(module, kind)), None)
            if translate is None:
                raise self._refused(self.label)
            (x,) = (self._argument(a) for a in node.args)
            result = translate(self, x, module)
            in_place = bool(getattr(module, "inplace", False))
        else:
            table: dict[Any, str] = _FUNCTIONS if node.op == "call_function" else _METHODS
            method = table.get(node.target)
            if method is None:
                raise self._refused(self.label)
            arguments = [self._argument(a) for a in node.args]
            options = {key: self._argument(a) for key, a in node.kwargs.items()}
            in_place = bool(options.pop("inplace", False)) or self.label.endswith("_") or node.target in _IN_PLACE
            try:
                result = getattr(self, method)(*arguments, **options)
            except TypeError as error:
                raise self._refused(f"{self.label} with these arguments") from error
        if in_place and isinstance(node.args[0], fx.Node):
            self.refs[node.args[0]] = result  # later users of the tensor see what was written into it
        return result

    def _argument(self, value: Any) -> Any:
        """Tensors of the network as `_Ref`, parameters and computed numbers as they are."""
        if isinstance(value, fx.Node):
            if value in self.refs:
                ref = self.refs[value]
                if ref.softmax:
                    raise UnsupportedOperator(f"layer {ref.softmax!r}: softmax is supported only at the network's end")
                return ref
            return self.seen[value].value
        if isinstance(value, tuple | list):
            return type(value)(self._argument(v) for v in value)
        if isinstance(value, slice):
            return slice(*(self._argument(v) for v in (value.start, value.stop, value.step)))
        return value

    def _refused(self, what: str) -> UnsupportedOperator:
        return UnsupportedOperator(f"layer {_name(self.node)!r}: {what} is not supported (supported: {SUPPORTED})")

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            raise UnsupportedOperator(f"layer {_name(self.node)!r}: {self.label}: {what}")

    def _add(self, kind: str, *inputs: _Ref, **attributes: Any) -> _Ref:
        """A new op with the shape and range that was seen for the present node."""
        seen = self.seen[self.node]
        shape: tuple[int, ...] = seen.shape or ()
        self._require(
            len(shape) in (2, 4),
            f"its output has {len(shape)} dimensions; maps (B, C, H, W) and vectors (B, F) are supported",
        )
        for ref in inputs:
            self._require(isinstance(ref, _Ref), "an operand is not made from the network's input")
        c, h, w = (*shape, 1, 1)[1:4]
        name, count = _name(self.node), 1
        while name in self.ops:  # a module that is called again
            count += 1
            name = f"{_name(self.node)}#{count}"
        self.ops[name] = Op(name, kind, [r.op for r in inputs], (c, h, w), seen.low, seen.high, **attributes)
        return _Ref(name, len(shape))

    def _shape(self, x: _Ref) -> Shape:
        return self.ops[x.op].shape

    def _is_map(self, x: _Ref) -> None:
        self._require(isinstance(x, _Ref) and x.rank == 4, "it needs a map (B, C, H, W)")

    # ---- layers -----------------------------------------------------------------------------------
    def conv2d(
        self, x: _Ref, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups=1
    ) -> _Ref:
        self._is_map(x)
        self._require(isinstance(weight, Tensor), "its weight must be a parameter")
        self._require(_pair(dilation) == (1, 1), f"dilation is not supported, got {dilation}")
        step = _pair(stride)
        self._require(step[0] == step[1], f"stride must be equal in both directions, got {step}")
        kernel = tuple(weight.shape[2:])
        if isinstance(padding, str):
            total = [0, 0] if padding == "valid" else [k - 1 for k in kernel]
            border = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
        else:
            vertical, horizontal = _pair(padding)
            border = (vertical, vertical, horizontal, horizontal)
        pad = border[0]
        if len(set(border)) > 1:
            _, height, width = self._shape(x)
            before = self.ops[x.op]
            shape = (before.shape[0], height + border[0] + border[1], width + border[2] + border[3])
            name = f"{_name(self.node)}.border"
            self.ops[name] = Op(name, "border", [x.op], shape, before.low, before.high, border=border)
            x, pad = _Ref(name, 4), 0
        weight = weight.detach().double()
        bias = torch.zeros(len(weight)) if bias is None else bias.detach()
        return self._add("matrix", x, weight=weight, bias=bias.double(), stride=step[0], pad=pad, groups=int(groups))

    def linear(self, x: _Ref, weight: Tensor, bias: Any = None) -> _Ref:
        self._require(isinstance(x, _Ref) and x.rank == 2, "it needs a vector (B, F); flatten the map before it")
        self._require(isinstance(weight, Tensor), "its weight must be a parameter")
        bias = torch.zeros(len(weight)) if bias is None else bias.detach()
        weight = weight.detach().double()[:, :, None, None]
        return self._add("matrix", x, weight=weight, bias=bias.double(), linear=True)

    def batch_norm(
        self, x: _Ref, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
        training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
    ) -> _Ref:  # fmt: skip
        self._require(running_mean is not None and running_var is not None, "it needs running statistics")
        assert running_mean is not None
        assert running_var is not None
        scale = 1 / torch.sqrt(running_var.double() + eps)
        scale = scale if weight is None else scale * weight.detach().double()
        shift = -running_mean.double() * scale
        shift = shift if bias is None else shift + bias.detach().double()
        return self._add("norm", x, weight=scale, bias=shift)

    def relu(self, x: _Ref) -> _Ref:
        return self._add("relu", x)

    def quantised_matrix(self, x: _Ref, m: QuantMatrix) -> _Ref:
        weight = m.weight().detach()
        if m.stage.kind == "linear":
            ref = self.linear(x, weight, m.bias)
        else:
            ref = self.conv2d(x, weight, m.bias, m.stage.stride, m.stage.pad)
        op = self.ops[ref.op]
        op.integers = m.source.integers().detach().double().reshape(op.weight.shape)
        op.scale = m.source.step().detach().double().repeat(len(op.weight))
        return ref

    def quantised_activation(self, x: _Ref, m: QuantActivation) -> _Ref:
        return self._add("relu", x, cap=float(m.clip), bits=m.bits)

    def relu6(self, x: _Ref) -> _Ref:
        return self._add("relu", x, cap=6.0)

    def clamp(self, x: _Ref, min: Any = None, max: Any = None) -> _Ref:
        self._require(min == 0 and (max is None or max > 0), f"only a clamp from 0 upwards, got {min}..{max}")
        return self._add("relu", x, cap=None if max is None else float(max))

    def hardtanh(self, x: _Ref, min_val: float = -1.0, max_val: float = 1.0) -> _Ref:
        return self.clamp(x, min_val, max_val)

    # ---- pooling ----------------------------------------------------------------------------------
    def max_pool2d(
        self, x: _Ref, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> _Ref:  # fmt: skip
        self._is_map(x)
        self._require(_pair(dilation) == (1, 1), f"dilation is not supported, got {dilation}")
        self._require(not return_indices, "return_indices is not supported")
        kernel = _pair(kernel_size)
        step = kernel if stride is None or stride == [] else _pair(stride)
        return self._add("max", x, window=Window(kernel=kernel, stride=step, pad=_pair(padding), ceil_mode=ceil_mode))

    def avg_pool2d(
        self, x: _Ref, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: Any = None,
    ) -> _Ref:  # fmt: skip
        self._is_map(x)
        self._require(divisor_override is None, "divisor_override is not supported")
        kernel, pad = _pair(kernel_size), _pair(padding)
        self._require(count_include_pad or pad == (0, 0), "count_include_pad=False with padding is not supported")
        step = kernel if stride is None or stride == [] else _pair(stride)
        window = Window(kernel=kernel, stride=step, pad=pad)
        made = tuple(self.seen[self.node].shape or ())[2:]
        floor = tuple(window.out(size, axis) for axis, size in enumerate(self._shape(x)[1:]))
        self._require(not ceil_mode or made == floor, "ceil_mode is not supported where windows reach over the edge")
        return x if kernel == step == (1, 1) and pad == (0, 0) else self._add("mean", x, window=window)

    def _adaptive(self, x: _Ref, output_size: Any) -> Window:
        self._is_map(x)
        size = self._shape(x)[1:]
        wanted = [s if o is None else int(o) for o, s in zip(_pair_or_none(output_size), size, strict=True)]
        self._require(
            all(s % o == 0 for s, o in zip(size, wanted, strict=True)),
            f"its output size {tuple(wanted)} must divide its input's {size}",
        )
        kernel = (size[0] // wanted[0], size[1] // wanted[1])
        return Window(kernel=kernel, stride=kernel)

    def adaptive_avg_pool2d(self, x: _Ref, output_size: Any) -> _Ref:
        window = self._adaptive(x, output_size)
        return x if window.kernel == (1, 1) else self._add("mean", x, window=window)

    def adaptive_max_pool2d(self, x: _Ref, output_size: Any, return_indices: bool = False) -> _Ref:
        self._require(not return_indices, "return_indices is not supported")
        window = self._adaptive(x, output_size)
        return x if window.kernel == (1, 1) else self._add("max", x, window=window)

    def mean(self, x: _Ref, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> _Ref:
        self._is_map(x)
        dims = sorted(d % 4 for d in ((dim,) if isinstance(dim, int) else tuple(dim or ())))
        self._require(dims == [2, 3], f"only the mean over height and width is supported, got dim={dim}")
        kernel = self._shape(x)[1:]
        return self._add("mean", x, window=Window(kernel=kernel, stride=kernel))

    # ---- joins and shapes -------------------------------------------------------------------------
    def add(self, a: _Ref, b: _Ref, alpha: Any = 1) -> _Ref:
        self._require(isinstance(a, _Ref) and isinstance(b, _Ref), "only two tensors of the network can be added")
        self._require(alpha == 1, f"alpha must be 1, got {alpha}")
        self._require(self._shape(a) == self._shape(b), f"shapes differ: {self._shape(a)} and {self._shape(b)}")
        return self._add("add", a, b)

    def cat(self, tensors: Sequence[_Ref], dim: int = 0) -> _Ref:
        rank = tensors[0].rank
        self._require(dim % rank == 1, f"only channels (dim=1) can be concatenated, got dim={dim}")
        return self._add("cat", *tensors)

    def reshape(self, x: _Ref, *arguments: Any, **options: Any) -> _Ref:
        """flatten, view, reshape, squeeze: the same numbers in the same order."""
        before, after = self._shape(x), self.seen[self.node].shape or ()
        self._require(len(after) in (2, 4), f"its output has {len(after)} dimensions; 2 or 4 are supported")
        self._require(int(np.prod(after[1:])) == int(np.prod(before)), "it must keep every image's values together")
        ref = self._add("reshape", x)
        if self.ops[ref.op].shape == before:  # only the rank changes
            del self.ops[ref.op]
            return _Ref(x.op, ref.rank)
        return ref

    def same(self, x: _Ref, *arguments: Any, **options: Any) -> _Ref:
        return x

    def softmax(self, x: _Ref, *arguments: Any, **options: Any) -> _Ref:
        """A softmax at the end does not change predictions; it is left out."""
        return _Ref(x.op, x.rank, softmax=_name(self.node))

    def getitem(self, x: _Ref, index: Any) -> _Ref:
        """x[:, :, ::s, ::s]"""
        everything = slice(None)
        whole = isinstance(index, tuple) and len(index) == 4 and index[:2] == (everything, everything)
        self._require(
            x.rank == 4
            and whole
            and all(isinstance(i, slice) and i.start in (None, 0) and i.stop is None for i in index[2:]),
            "only x[:, :, ::s, ::s] is supported",
        )
        return self._add("border", x, steps=tuple(int(i.step or 1) for i in index[2:]))

    def pad(self, x: _Ref, pad: Sequence[int], mode: str = "constant", value: Any = None) -> _Ref:
        self._is_map(x)
        self._require(mode == "constant" and not value, "only a border of zeros is supported")
        left, right, above, below, before, after = (*pad, *[0] * 6)[:6]
        self._require(len(pad) <= 6 and min(pad) >= 0, f"only borders of height, width and channels, got {pad}")
        return self._add("border", x, border=(above, below, left, right), channels=(before, after))


def _pair_or_none(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)  # type: ignore[return-value]


def _is_plain(value: Any) -> bool:
    """Whether a value is made of numbers, sizes and the like, and no tensors."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | bool | str | torch.dtype | torch.device)


def _label(node: fx.Node, module: fx.GraphModule) -> str:
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _conv_module(t: _Translator, x: _Ref, m: Any) -> _Ref:
    t._require(m.padding_mode == "zeros", f"padding mode must be 'zeros', got {m.padding_mode!r}")
    return t.conv2d(x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


_MODULES: dict[type[nn.Module], Callable[[_Translator, _Ref, Any], _Ref]] = {
    nn.Conv2d: _conv_module,
    nn.Linear: lambda t, x, m: t.linear(x, m.weight, m.bias),
    nn.BatchNorm2d: lambda t, x, m: t.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, eps=m.eps),
    nn.BatchNorm1d: lambda t, x, m: t.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, eps=m.eps),
    nn.ReLU: lambda t, x, m: t.relu(x),
    nn.Hardtanh: lambda t, x, m: t.hardtanh(x, m.min_val, m.max_val),  # ReLU6 is one
    nn.MaxPool2d: lambda t, x, m: t.max_pool2d(
        x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    ),
    nn.AvgPool2d: lambda t, x, m: t.avg_pool2d(
        x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override
    ),
    nn.AdaptiveAvgPool2d: lambda t, x, m: t.adaptive_avg_pool2d(x, m.output_size),
    nn.AdaptiveMaxPool2d: lambda t, x, m: t.adaptive_max_pool2d(x, m.output_size, m.return_indices),
    nn.ZeroPad2d: lambda t, x, m: t.pad(x, m.padding),
    nn.Flatten: lambda t, x, m: t.reshape(x),
    nn.Dropout: lambda t, x, m: x,
    nn.Dropout2d: lambda t, x, m: x,
    nn.Identity: lambda t, x, m: x,
    QuantMatrix: lambda t, x, m: t.quantised_matrix(x, m),
    QuantActivation: lambda t, x, m: t.quantised_activation(x, m),
    nn.Softmax: lambda t, x, m: t.softmax(x),
    nn.LogSoftmax: lambda t, x, m: t.softmax(x),
}
_FUNCTIONS: dict[Any, str] = {
    F.conv2d: "conv2d",
    torch.conv2d: "conv2d",
    F.linear: "linear",
    F.batch_norm: "batch_norm",
    F.relu: "relu",
    F.relu_: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu6: "relu6",
    F.hardtanh: "hardtanh",
    torch.clamp: "clamp",
    F.max_pool2d: "max_pool2d",
    torch.max_pool2d: "max_pool2d",
    F.avg_pool2d: "avg_pool2d",
    F.adaptive_avg_pool2d: "adaptive_avg_pool2d",
    F.adaptive_max_pool2d: "adaptive_max_pool2d",
    torch.mean: "mean",
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    torch.cat: "cat",
    torch.concat: "cat",
    torch.concatenate: "cat",
    torch.flatten: "reshape",
    torch.reshape: "reshape",
    torch.squeeze: "reshape",
    F.dropout: "same",
    F.dropout2d: "same",
    F.softmax: "softmax",
    F.log_softmax: "softmax",
    torch.softmax: "softmax",
    torch.log_softmax: "softmax",
    operator.getitem: "getitem",
    F.pad: "pad",
}
_METHODS: dict[Any, str] = {
    "relu": "relu",
    "relu_": "relu",
    "clamp": "clamp",
    "clamp_": "clamp",
    "mean": "mean",
    "add": "add",
    "add_": "add",
    "__add__": "add",
    "__iadd__": "add",
    "flatten": "reshape",
    "view": "reshape",
    "reshape": "reshape",
    "squeeze": "reshape",
    "contiguous": "same",
    "softmax": "softmax",
    "log_softmax": "softmax",
}
_IN_PLACE = {operator.iadd, "__iadd__"}


_KINDS = {
    "conv": ("conv2d",),
    "linear": ("linear",),
    "relu": ("relu", "relu6", "clamp", "hardtanh"),
    "mean": ("avg_pool2d", "adaptive_avg_pool2d", "mean"),
    "cat": ("cat",),
    "same": ("max_pool2d", "adaptive_max_pool2d", "reshape", "getitem", "pad", "same"),
}


def kind_of_call(node: fx.Node) -> str:
    """What a function or method call does to values: conv, linear, relu, mean, cat, same (they pass) or other."""
    table: dict[Any, str] = _FUNCTIONS if node.op == "call_function" else _METHODS
    method = table.get(node.target, "")
    return next((kind for kind, methods in _KINDS.items() if method in methods), "other")


def relu_cap(node: fx.Node, module: fx.GraphModule) -> float | None:
    """Upper clamp of a ReLU, None for none."""
    if node.op == "call_module":
        return getattr(module.get_submodule(str(node.target)), "max_val", None)
    table: dict[Any, str] = _FUNCTIONS if node.op == "call_function" else _METHODS
    method = table.get(node.target, "")
    if method == "relu6":
        return 6.0
    names = {"clamp": "max", "hardtanh": "max_val"}
    if method in names:
        cap = node.kwargs.get(names[method], node.args[2] if len(node.args) > 2 else None)
        return None if cap is None else float(cap)  # type: ignore[arg-type]
    return None


# ---- folding ------------------------------------------------------------------------------------
#: Kinds whose output holds values of their input (and zeros), so that scale and sign pass through.
_TRANSPARENT = ("max", "border", "reshape")


class _Simplifier:
    """Folds ops into each other until only those are left that become nodes."""

    def __init__(self, ops: dict[str, Op], output: str) -> None:
        self.ops, self.output = ops, output

    def simplify(self) -> dict[str, Op]:
        """The remaining ops in order of computation, the output last."""
        while self.ops[self.output].kind == "reshape":  # logits are a vector anyway
            self.output = self.ops[self.output].inputs[0]
        for step in (self._drop_unused, self._fold_norms, self._fold_relus, self._fold_additions, self._fold_pooling):
            step()
        self._sort()
        for op in self.ops.values():
            if op.relu or self._unsigned(op.name):
                op.low = 0.0
        self._share_scales()
        return self.ops

    def _users(self, name: str) -> list[Op]:
        """Ops that take `name`, once per use; the network's output counts as a use by itself."""
        users = [op for op in self.ops.values() for i in op.inputs if i == name]
        return [*users, self.ops[name]] if name == self.output else users

    def _replace(self, old: str, new: str) -> None:
        """Everybody who took `old` takes `new`."""
        for op in self.ops.values():
            op.inputs = [new if i == old else i for i in op.inputs]
        if self.output == old:
            self.output = new
        del self.ops[old]

    def _drop_unused(self) -> None:
        for name in reversed(list(self.ops)):
            if not self._users(name) and self.ops[name].kind != "image":
                del self.ops[name]

    def _fold_norms(self) -> None:
        for op in [o for o in self.ops.values() if o.kind == "norm"]:
            before = self.ops[op.inputs[0]]
            if before.kind != "matrix" or len(self._users(before.name)) != 1:
                raise UnsupportedOperator(
                    f"layer {op.name!r}: BatchNorm must directly follow a convolution or linear layer that nothing"
                    f" else uses"
                )
            before.weight = before.weight * op.weight[:, None, None, None]
            before.bias = before.bias * op.weight + op.bias
            before.scale = before.scale * op.weight if before.integers is not None else before.scale
            before.low, before.high = op.low, op.high
            self._replace(op.name, before.name)

    def _fold_relus(self) -> None:
        for op in [o for o in self.ops.values() if o.kind == "relu"]:
            # A maximum commutes with ReLU, so look through what passes values on.
            between: list[Op] = []
            base = self.ops[op.inputs[0]]
            while base.kind in _TRANSPARENT and len(self._users(base.name)) == 1:
                between.append(base)
                base = self.ops[base.inputs[0]]
            alone = len(self._users(base.name)) == 1
            if self._unsigned(op.inputs[0]) and op.cap is None:
                self._replace(op.name, op.inputs[0])
            elif base.kind in ("matrix", "add", "mean") and alone and not base.relu:
                base.clamp(op)
                for changed in between:
                    changed.low, changed.high = 0.0, base.high
                self._replace(op.name, op.inputs[0])
            else:
                op.kind, op.relu = "add", True  # an addition of one input that clamps

    def _fold_additions(self) -> None:
        for op in [o for o in self.ops.values() if o.kind == "add" and len(o.inputs) == 2]:
            candidates = [
                b
                for b in (self.ops[name] for name in op.inputs)
                if b.kind == "matrix" and not b.relu and len(b.inputs) == 1 and len(self._users(b.name)) == 1
            ]
            if not candidates:
                continue
            # The layer that keeps its full sums is the larger one; the other is rounded to an activation first.
            chosen = max(candidates, key=lambda b: b.weight[0].numel())
            other = op.inputs[1] if op.inputs[0] == chosen.name else op.inputs[0]
            chosen.inputs = [chosen.inputs[0], other]
            chosen.relu, chosen.cap, chosen.low, chosen.high, chosen.bits = op.relu, op.cap, op.low, op.high, op.bits
            self._replace(op.name, chosen.name)

    def _fold_pooling(self) -> None:
        """Maximum pooling that the hardware does while it walks the windows (system.md §5a)."""
        for op in [o for o in self.ops.values() if o.kind == "max"]:
            before, window = self.ops[op.inputs[0]], op.window
            assert window is not None
            size = window.kernel[0]
            exact = not window.ceil_mode or all(s % size == 0 for s in before.shape[1:])
            if (
                before.kind == "matrix"
                and not before.linear
                and (len(before.inputs), before.pool, len(self._users(before.name))) == (1, 1, 1)
                and window.kernel == window.stride == (size, size)
                and window.pad == (0, 0)
                and exact
                and size <= 255
            ):
                before.pool, before.shape = size, op.shape
                self._replace(op.name, before.name)

    def _sort(self) -> None:
        """Order of computation again, after residuals have been folded into earlier layers."""
        done: dict[str, Op] = {}
        waiting = [self.output]
        while waiting:
            name = waiting[-1]
            missing = [i for i in self.ops[name].inputs if i not in done]
            if name in done or not missing:
                done.setdefault(name, self.ops[name])
                waiting.pop()
            else:
                waiting += reversed(missing)
        image = next(name for name, op in self.ops.items() if op.kind == "image")
        if image not in done:
            raise UnsupportedOperator("the network's output does not depend on its input")
        self.ops = {image: done.pop(image), **done}

    def _unsigned(self, name: str) -> bool:
        """Whether a tensor cannot be negative, whatever the image."""
        op = self.ops[name]
        if op.kind in (*_TRANSPARENT, "cat", "mean") and not op.relu:
            return all(map(self._unsigned, op.inputs))
        return op.relu

    def _share_scales(self) -> None:
        """Give the inputs of a concatenation its range where nobody else uses them; nothing is requantised then."""
        for op in reversed(list(self.ops.values())):
            if op.kind != "cat":
                continue
            op.low = min(op.low, *(self.ops[i].low for i in op.inputs))
            op.high = max(op.high, *(self.ops[i].high for i in op.inputs))
            for name in op.inputs:
                chain = [self.ops[name]]
                while chain[-1].kind in _TRANSPARENT:
                    chain.append(self.ops[chain[-1].inputs[0]])
                base = chain[-1]
                alone = all(len(self._users(o.name)) == 1 for o in chain)
                # A ReLU is the clamp at the ends of the range.
                fits = (not base.relu or op.low == 0) and (base.cap is None or op.high <= base.cap)
                if alone and fits and base.kind in ("matrix", "add", "mean", "cat"):
                    for member in chain:
                        member.low, member.high = op.low, op.high


# ---- integers -----------------------------------------------------------------------------------
def quantise_weights(weight: np.ndarray, bits: int) -> tuple[np.ndarray, float]:
    """(integers, step): symmetric, step = largest magnitude / (2**bits - 1), halves away from 0; step 0 for zeros."""
    step = float(np.abs(weight).max(initial=0.0)) / (2**bits - 1)
    if step == 0:
        return np.zeros(weight.shape, dtype=np.int64), 0.0
    return (np.sign(weight) * np.floor(np.abs(weight) / step + 0.5)).astype(np.int64), step


class _Emitter:
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
        nodes: list[Node] = []
        emitters = {
            "image": self._image, "matrix": self._matrix, "max": self._max, "mean": self._mean, "cat": self._cat,
            "add": self._sum, "border": self._border, "reshape": self._reshape,
        }  # fmt: skip
        skipped = self._peeled()
        for op in self.ops.values():
            if op.name in skipped:
                continue
            node = emitters[op.kind](op)
            self.encodings[op.name] = node.encoding
            nodes.append(node)
        return integer.build(name, self.hardware, nodes, classes=tuple(classes))

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
        low, high = min(0.0, op.low), max(0.0, op.high)
        return Encoding(low=low, high=high if high > 0 else max(1e-6, -low / 255), bits=op.bits or self.activation_bits)

    def _from_image(self, name: str) -> bool:
        """Whether a tensor holds pixels (passed on by pooling or a border)."""
        op = self.ops[name]
        return op.kind == "image" or (op.kind in _TRANSPARENT and self._from_image(op.inputs[0]))

    def _per_channel(self) -> bool:
        return len(set(self.normalisation.std)) > 1 or any(self.normalisation.mean)

    def _base(self, op: Op, *inputs: str) -> dict[str, Any]:
        if op.kind in ("mean", "cat", "add", "reshape") or len(inputs) > 1:
            for name in inputs if op.kind != "matrix" else inputs[1:]:
                if self._per_channel() and self._from_image(name):
                    raise UnsupportedOperator(
                        f"layer {op.name!r}: an image that is normalised per channel can only be the input of"
                        f" convolutions, linear layers and maximum pooling"
                    )
        return {"name": op.name, "inputs": inputs, "shape": op.shape, "encoding": self._encoding(op)}

    def _image(self, op: Op) -> Node:
        """Pixels q with real value (q / 255 - mean) / std; deviations that differ are folded into the weights."""
        std = self.normalisation.std
        high = 1.0 if len(set(std)) > 1 else 1.0 / std[0]
        zeros = tuple(PIXEL_LEVELS * m for m in self.normalisation.mean) if any(self.normalisation.mean) else ()
        return Image(name=op.name, shape=op.shape, encoding=Encoding(high=high, zeros=zeros))

    def _matrix(self, op: Op) -> Node:
        source = self._source(op) if op.linear else self.ops[op.inputs[0]]
        channels, height, width = source.shape
        weight = op.weight.numpy()
        if op.linear:
            weight = weight.reshape(len(weight), channels, height, width)
        std = self.normalisation.std
        if self._from_image(source.name) and len(set(std)) > 1:
            weight = weight / np.array(std)[:, None, None]
        outputs, kernel = len(weight), weight.shape[2:]
        if not (np.isfinite(weight).all() and bool(torch.isfinite(op.bias).all())):
            raise ValueError(f"layer {op.name!r}: a weight or bias is not a finite number")
        base = self._base(op, source.name, *op.inputs[1:])
        if op.integers is None:
            integers, step = quantise_weights(weight.reshape(outputs, -1), self.weight_bits)
            steps = np.full(outputs, step)
        else:
            sign = np.where(op.scale.numpy() < 0, -1, 1)
            integers = op.integers.numpy().astype(np.int64).reshape(outputs, -1) * sign[:, None]
            steps = np.abs(op.scale.numpy())
            step = float(steps.max())
        if step == 0:  # a layer of zeros: a step that shows the bias well
            step = max(float(op.bias.abs().max()) / self.encodings[source.name].scale, 1e-6) * 2.0**-20
            steps = np.full(outputs, step)
        last = op.name == self.output and not op.relu and (len(op.inputs), op.groups, op.shape[1:]) == (1, 1, (1, 1))
        per_group = outputs // op.groups
        registers = lossless_uniform(self.hardware)
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
        return Crossbar(**base, layers=tuple(layers), step=steps, bias=op.bias.numpy().astype(np.float64))

    def _max(self, op: Op) -> Node:
        assert op.window is not None
        return MaxPool(**self._base(op, *op.inputs), window=op.window)

    def _mean(self, op: Op) -> Node:
        assert op.window is not None
        sums = op.name == self.output and not op.relu
        return AveragePool(**self._base(op, *op.inputs), window=op.window, sums=sums)

    def _cat(self, op: Op) -> Node:
        return Concat(**self._base(op, *op.inputs))

    def _sum(self, op: Op) -> Node:
        return Add(**self._base(op, *op.inputs))

    def _border(self, op: Op) -> Node:
        if self._per_channel() and any(op.channels) and self._from_image(op.name):
            raise UnsupportedOperator(f"layer {op.name!r}: channels cannot be added to an image normalised per channel")
        return Border(**self._base(op, *op.inputs), stride=op.steps, border=op.border, channels=op.channels)

    def _reshape(self, op: Op) -> Node:
        return Reshape(**self._base(op, *op.inputs))
