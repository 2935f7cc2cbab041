"""A network of an ONNX file as a torch.fx module of ordinary PyTorch layers, and what onnxruntime says of it.

What comes out is traced, captured and trained as any network of PyTorch is: there is one table of operators for the
machine (quant/capture/operators.py), and here only a second spelling of it. Constants are folded by
onnxruntime. Shapes are those of one picture, which is run as the module is made.

Quantisers give integers and scales of weights, widths and ranges of activations: `Quant` of QONNX (Brevitas), and
QuantizeLinear followed by DequantizeLinear.

Needs the extra `onnx`, and `qonnx` for `Quant`. ValueError says in one sentence what a file has that is not supported,
and what is.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg
from torch.nn import functional as F

from quant.networks.layers import QuantActivation, RangeActivation
from quant.networks.refused import because

Shape = tuple[int, int, int]

#: Opsets of the ONNX standard whose operators are read as they are meant.
OPSETS = range(7, 26)
SUFFIX = ".onnx"
_META = "onnx"  # of a module: the bytes of its file, batch 1. Of its nodes: name of the value in the file
_INFINITE = 3e38
_STANDARD = ("", "ai.onnx")
#: Where `Quant` is defined.
_QONNX = ("qonnx.custom_op.general", "onnx.brevitas")
#: alpha and gamma of SELU, as the standard gives them and PyTorch has them.
_SELU = (1.6732632423543772, 1.0507009873554805)
_FUNCTIONS: dict[str, type[nn.Module]] = {
    "HardSwish": nn.Hardswish,
    "Mish": nn.Mish,
    "Sigmoid": nn.Sigmoid,
    "Softplus": nn.Softplus,
    "Softsign": nn.Softsign,
    "Tanh": nn.Tanh,
}
_ROUNDINGS = ("ROUND", "HALF_EVEN", "HALF_UP")  # they differ at ties only


def is_file(model: str) -> bool:
    """Whether MODEL of a command names an ONNX file."""
    return model.endswith(SUFFIX)


def content(network: nn.Module) -> bytes | None:
    """The file that a network was read from, None for any other network."""
    return getattr(network, "meta", {}).get(_META)


def value_of(node: fx.Node) -> str:
    """Name of the file's value that a node gives, "" for none."""
    return node.meta.get(_META, "")


def packages() -> Any:
    """The package onnx; ValueError if it or onnxruntime is missing."""
    try:
        import onnx  # pyright: ignore[reportMissingImports]
        import onnxruntime  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("ONNX files need the packages onnx and onnxruntime: pip install 'ohmloom[onnx]'") from error
    return onnx


# ---- files --------------------------------------------------------------------------------------
def load(path: Path | str) -> Any:
    """The file's onnx.ModelProto, checked, its batch set to 1."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"--model: {path} is not a file")
    onnx = packages()
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except Exception as error:  # a damaged file raises almost anything
        reason = " ".join(str(error).split()).partition(". ")[0][:300] or type(error).__name__
        raise ValueError(f"{path} cannot be read as an ONNX network: {reason}") from error
    known = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in known]
    for what, found in (("input", inputs), ("output", proto.graph.output)):
        if len(found) != 1:
            names = ", ".join(value.name for value in found)
            raise ValueError(f"{path}: the network must have one {what}, it has {len(found)}: {names}")
    tensor = inputs[0].type.tensor_type
    sizes = [axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?" for axis in tensor.shape.dim]
    if tensor.elem_type != onnx.TensorProto.FLOAT or len(sizes) != 4:
        raise ValueError(
            f"{path}: its input {inputs[0].name!r} must be float pictures (N, C, H, W), it has shape"
            f" ({', '.join(map(str, sizes))}) and type {onnx.TensorProto.DataType.Name(tensor.elem_type)}"
        )
    if not all(isinstance(size, int) and size > 0 for size in sizes[1:]):
        raise ValueError(
            f"{path}: its input {inputs[0].name!r} has the shape ({', '.join(map(str, sizes))}); channels, height and"
            f" width must be numbers: python -m onnxruntime.tools.make_dynamic_shape_fixed --input_name"
            f" {inputs[0].name} --input_shape 1,3,224,224 {path.name} fixed.onnx"
        )
    tensor.shape.dim[0].dim_value = 1
    del proto.graph.value_info[:]
    proto.graph.input.sort(key=lambda value: value.name in known)  # old files list their weights, too
    return proto


def opset(proto: Any) -> int:
    return next((int(one.version) for one in proto.opset_import if one.domain in _STANDARD), 0)


def input_shape(path: Path | str) -> Shape:
    """(C, H, W) of the pictures that a file's network takes."""
    return _shape(load(path))


def _shape(proto: Any) -> Shape:
    return cast(Shape, tuple(axis.dim_value for axis in proto.graph.input[0].type.tensor_type.shape.dim[1:]))


def read(path: Path | str) -> fx.GraphModule:
    """The network of a file, in evaluation mode; its layers are called as the file's nodes are."""
    proto = load(path)
    if opset(proto) not in OPSETS:
        raise ValueError(
            f"{path} is of opset {opset(proto)}; {OPSETS[0]} to {OPSETS[-1]} are supported"
            f" (onnx.version_converter.convert_version makes another)"
        )
    reader = Reader(proto)
    with torch.no_grad():
        return reader.read()


def node_values(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What onnxruntime gives, by name, for the values of the file that a network was read from, picture by picture.

    images : float (B, C, H, W), what the network expects.
    """
    onnx, found = packages(), content(network)
    assert isinstance(network, fx.GraphModule)
    assert found is not None
    proto = onnx.load_from_string(found)
    wanted = list(dict.fromkeys(name for node in network.graph.nodes if (name := value_of(node))))
    quantised = any(node.domain in _QONNX for node in proto.graph.node)
    try:
        run = _qonnx(proto) if quantised else _onnxruntime(proto, wanted)
        runs = [run(image[None].numpy()) for image in images]
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"the file's network cannot be run: {' '.join(str(error).split())[:300]}") from error
    return {name: torch.from_numpy(np.concatenate([values[name] for values in runs])) for name in wanted}


def _onnxruntime(proto: Any, wanted: list[str]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    import onnx  # pyright: ignore[reportMissingImports]

    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    session, given = _session(proto), proto.graph.input[0].name
    return lambda image: dict(zip(wanted, cast(Any, session.run(None, {given: image})), strict=True))


def _session(proto: Any) -> Any:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3  # errors, which are raised
    settings.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(proto.SerializeToString(), settings, ["CPUExecutionProvider"])


def _qonnx(proto: Any) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The executor of QONNX, which hands what it does not know itself to onnxruntime."""
    try:
        from qonnx.core.modelwrapper import ModelWrapper  # pyright: ignore[reportMissingImports]
        from qonnx.core.onnx_exec import execute_onnx  # pyright: ignore[reportMissingImports]
        from qonnx.transformation.infer_shapes import InferShapes  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("files with Quant nodes need the package qonnx: pip install 'ohmloom[qonnx]'") from error
    model, given = ModelWrapper(proto).transform(InferShapes()), proto.graph.input[0].name
    return lambda image: execute_onnx(model, {given: image}, return_full_exec_context=True)


# ---- operators ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Integers:
    """What QuantizeLinear gives for a tensor x of the network."""

    x: fx.Node
    scale: np.ndarray
    zero: np.ndarray


class Reader:
    """Turns the nodes of a file into layers, one after the other.

    Methods named after an operator take its inputs, as `fx.Node` or as constant arrays, and its attributes as the
    standard calls them.
    """

    def __init__(self, proto: Any) -> None:
        self.proto, self.onnx, self.opset = proto, packages(), opset(proto)
        self.root, self.graph = nn.Module(), fx.Graph()
        self.nodes: dict[str, Any] = {}  # fx.Node or Integers
        self.levels: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # integers and scales of quantised constants
        self.constants = {one.name: self.onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
        self.example: dict[fx.Node, Tensor] = {}
        self.node: Any = None

    def read(self) -> fx.GraphModule:
        given = self.proto.graph.input[0].name
        image = self.graph.placeholder("image")
        self.nodes[given] = image
        self.example[image] = torch.full((1, *_shape(self.proto)), 0.5)
        for node in self.proto.graph.node:
            self.node = node
            inputs = [self.nodes.get(name, self.constants.get(name)) for name in node.input]
            if any(isinstance(value, fx.Node | Integers) for value in inputs):
                self._translate(inputs)
            elif node.domain in _QONNX:
                self._fold_quant(*inputs)
            else:
                self._fold()
        output = self.nodes.get(self.proto.graph.output[0].name)
        if output is None:
            raise ValueError("the network's output does not depend on its input")
        self.graph.output(output)
        network = fx.GraphModule(self.root, self.graph, "OnnxNetwork").eval()
        network.graph.eliminate_dead_code()
        network.recompile()
        network.meta[_META] = self.proto.SerializeToString()
        return network

    # ---- plumbing ---------------------------------------------------------------------------------
    @property
    def label(self) -> str:
        return self.node.name or next(iter(self.node.output))

    def _refuse(self, why: str, cause: Exception | None = None) -> NoReturn:
        raise ValueError(f"node {self.label!r}: {self.node.op_type} of opset {self.opset}: {why}") from cause

    def _require(self, condition: bool, why: str) -> None:
        if not condition:
            self._refuse(why)

    def _translate(self, inputs: list[Any]) -> None:
        known = OPERATORS if self.node.domain in _STANDARD else QUANTISERS if self.node.domain in _QONNX else {}
        method = known.get(self.node.op_type)
        if method is None:
            why = because(self.node.op_type) or f" (supported: {', '.join(sorted(OPERATORS | QUANTISERS))})"
            self._refuse(f"it is not supported{why}")
        whole = self.node.op_type == "DequantizeLinear" or not any(isinstance(value, Integers) for value in inputs)
        self._require(whole, "integers of QuantizeLinear can only be taken by DequantizeLinear")
        get = self.onnx.helper.get_attribute_value
        attributes = {one.name: get(one) for one in self.node.attribute}
        words = {key: value.decode() if isinstance(value, bytes) else value for key, value in attributes.items()}
        try:
            made = method(self, *inputs, **words)
        except ValueError:
            raise
        except Exception as error:
            self._refuse(f"it cannot be read: {' '.join(str(error).split())[:200]}", error)
        for name, one in zip(self.node.output, made if isinstance(made, tuple) else (made,), strict=False):
            if isinstance(one, fx.Node | Integers):
                self.nodes[name] = one
                if isinstance(one, fx.Node):
                    one.meta.setdefault(_META, name)
            else:
                self.constants[name] = np.asarray(one)

    def _fold(self) -> None:
        """A node whose inputs are all constant."""
        node = self.node
        given = {name: self.constants[name] for name in node.input if name}
        if node.op_type == "DequantizeLinear":
            integers, scale, zero = (*given.values(), np.array(0))[:3]
            axis = int(self._attribute("axis", 1))
            scale, zero = (_along(value, axis, integers.ndim) for value in (scale, zero))
            self._keep(integers.astype(np.int64) - zero.astype(np.int64), scale)
            return
        self.constants.update(zip(node.output, self._computed(given), strict=True))
        if node.input and node.input[0] in self.levels:  # a weight on its way, transposed or reshaped
            integers, scale = (
                self._computed({**given, node.input[0]: part.astype(np.float32)})[0]
                for part in self.levels[node.input[0]]
            )
            self.levels[node.output[0]] = integers.astype(np.int64), scale

    def _computed(self, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        """What onnxruntime gives for the present node alone."""
        helper, array = self.onnx.helper, self.onnx.numpy_helper.from_array
        values = [array(np.asarray(value), name) for name, value in given.items()]
        made = [self.onnx.ValueInfoProto(name=name) for name in self.node.output]
        graph = helper.make_graph([self.node], "constant", [], made, values)
        version = max(4, self.proto.ir_version)  # before it, weights are inputs
        model = helper.make_model(graph, opset_imports=self.proto.opset_import, ir_version=version)
        try:
            return list(map(np.asarray, _session(model).run(None, {})))
        except Exception as error:
            self._refuse(f"this constant cannot be computed: {' '.join(str(error).split())[:200]}", error)

    def _fold_quant(self, values: Any, scale: Any, zero: Any, bits: Any) -> None:
        """A constant that is quantised."""
        self._require(self.node.op_type in QUANTISERS, "it is not supported")
        low, high = self._ends(float(bits))
        integers = np.clip(_ROUND[self._rounding()](values / scale + zero), low, high)
        self._keep(np.asarray(integers - zero).astype(np.int64), np.asarray(scale))

    def _keep(self, integers: np.ndarray, scale: np.ndarray) -> None:
        name = self.node.output[0]
        self.levels[name] = integers, np.broadcast_to(scale, integers.shape)
        self.constants[name] = (integers * scale).astype(np.float32)

    def _attribute(self, name: str, default: Any) -> Any:
        found = (self.onnx.helper.get_attribute_value(one) for one in self.node.attribute if one.name == name)
        return next(found, default)

    def _rounding(self) -> str:
        mode = self._attribute("rounding_mode", b"ROUND").decode().upper()
        self._require(mode in _ROUND, f"rounding_mode must be one of {', '.join(_ROUND)}, got {mode}")
        return mode

    def _ends(self, bits: float) -> tuple[int, int]:
        """Least and largest integer of QONNX's Quant."""
        self._require(bits in range(1, 33), f"its bit width must be a whole number up to 32, got {bits:g}")
        signed, narrow = self._attribute("signed", 1), self._attribute("narrow", 0)
        self._require(not (signed and bits == 1), "weights of one bit, -1 or 1, are not supported")
        half = 1 << int(bits) - 1
        return (-half + narrow, half - 1) if signed else (0, 2 * half - 1 - narrow)

    def _name(self) -> str:
        """Name of the present node's layer: letters, digits, underscores, taken once."""
        name = re.sub(r"\W+", "_", self.label).strip("_")
        if not name.isidentifier() or hasattr(fx.GraphModule, name) or name in ("meta", "training"):
            name = f"{self.node.op_type}_{name}"
        base, count = name, 1
        while hasattr(self.root, name):
            count += 1
            name = f"{base}_{count}"
        return name

    def _made(self, node: fx.Node, example: Tensor) -> fx.Node:
        node.meta["operator"] = f"{self.node.op_type} of opset {self.opset}"
        self.example[node] = example
        return node

    def _layer(self, module: nn.Module, x: Any, **values: Any) -> fx.Node:
        """A module on x; values : arrays for its parameters and buffers."""
        self._require(isinstance(x, fx.Node), "its first input must be made from the picture")
        for name, value in values.items():
            if value is not None:
                getattr(module, name).data = _tensor(value)
        name = self._name()
        self.root.add_module(name, module.eval())
        return self._made(self.graph.call_module(name, (x,)), module(self.example[x]))

    def _call(self, function: Callable[..., Any], *arguments: Any, part: str = "") -> fx.Node:
        """A function of nodes, arrays and numbers; part : of what the present node means."""
        arguments = map_aggregate(arguments, self._constant)  # type: ignore[assignment]
        node = self.graph.create_node("call_function", function, arguments, name=self._name() + part)
        return self._made(node, function(*map_arg(arguments, self.example.__getitem__)))

    def _constant(self, value: Any) -> Any:
        """An array as a node of the graph."""
        if not isinstance(value, np.ndarray):
            return value
        name = f"{self._name()}_constant"
        self.root.register_buffer(name, _tensor(value))
        return self._made(self.graph.get_attr(name), _tensor(value))

    def _size(self, x: fx.Node) -> tuple[int, ...]:
        return tuple(self.example[x].shape)

    def _array(self, value: Any, what: str) -> np.ndarray:
        self._require(isinstance(value, np.ndarray), f"its {what} must be a constant")
        return value

    def _padding(
        self, x: fx.Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], auto_pad: str,
        pads: Any,
    ) -> tuple[int, int, int, int]:  # fmt: skip
        """(above, left, below, right)"""
        if auto_pad in ("NOTSET", "VALID"):
            return cast(Any, tuple(pads or (0,) * 4) if auto_pad == "NOTSET" else (0,) * 4)
        total = [
            max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
            for size, k, s, d in zip(self._size(x)[2:], kernel, strides, dilations, strict=True)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        return cast(Any, (*less, *more) if auto_pad == "SAME_UPPER" else (*more, *less))

    def _bordered(self, x: fx.Node, pads: tuple[int, int, int, int]) -> tuple[fx.Node, tuple[int, int]]:
        """(x, padding) with the padding that a layer can do itself; a lopsided border is a step before it."""
        if x.target is F.pad and len(x.args[1]) == 4:  # type: ignore[arg-type]
            left, right, above, below = cast(Any, x.args[1])
            x, pads = cast(fx.Node, x.args[0]), (pads[0] + above, pads[1] + left, pads[2] + below, pads[3] + right)
        above, left, below, right = pads
        if (above, left) == (below, right):
            return x, (above, left)
        return self._call(F.pad, x, [left, right, above, below], part="_border"), (0, 0)

    def _map(self, x: Any) -> None:
        self._require(isinstance(x, fx.Node) and len(self._size(x)) == 4, "it needs a map (N, C, H, W) of the network")

    # ---- layers -----------------------------------------------------------------------------------
    def conv(
        self, x: fx.Node, weight: Any, bias: Any = None, *, auto_pad: str = "NOTSET", dilations: Any = (1, 1),
        group: int = 1, kernel_shape: Any = None, pads: Any = None, strides: Any = (1, 1),
    ) -> fx.Node:  # fmt: skip
        self._map(x)
        w = self._array(weight, "weight")
        kernel = w.shape[2:]
        x, padding = self._bordered(x, self._padding(x, kernel, strides, dilations, auto_pad, pads))
        module = nn.Conv2d(
            w.shape[1] * group, w.shape[0], cast(Any, kernel), tuple(strides), padding, tuple(dilations), group,
            bias=bias is not None,
        )  # fmt: skip
        self._quantised(module)
        return self._layer(module, x, weight=w, bias=None if bias is None else self._array(bias, "bias"))

    def gemm(
        self, x: fx.Node, weight: Any, bias: Any = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
        transB: int = 0,
    ) -> fx.Node:  # fmt: skip
        self._require(isinstance(x, fx.Node) and len(self._size(x)) == 2, "its first input must be a vector (N, F)")
        self._require(not transA, "transA is not supported")
        w = self._array(weight, "weight")
        w = np.ascontiguousarray(w if transB else w.T) * np.float32(alpha)
        module = nn.Linear(w.shape[1], w.shape[0], bias=bias is not None)
        if bias is not None:
            bias = np.broadcast_to(self._array(bias, "bias") * np.float32(beta), (1, len(w)))[0]
        self._quantised(module, transposed=not transB, factor=alpha)
        return self._layer(module, x, weight=w, bias=bias)

    def _quantised(self, module: nn.Module, *, transposed: bool = False, factor: float = 1.0) -> None:
        """Give a layer the integers and the scale per output of its weight, if that is quantised.

        transposed : the file has it as (K, N). factor : on the scale.
        """
        if (found := self.levels.get(self.node.input[1])) is None:
            return
        integers, scale = (np.ascontiguousarray(part.T if transposed else part) for part in found)
        scale = scale.reshape(len(integers), -1) * factor
        self._require(bool((scale == scale[:, :1]).all()), "a weight must have one scale, or one per output")
        module.register_buffer("integers", torch.from_numpy(integers))
        module.register_buffer("scale", torch.from_numpy(scale[:, 0].astype(np.float32)))

    def matmul(self, x: fx.Node, weight: Any) -> fx.Node:
        return self.gemm(x, weight)

    def batch_norm(
        self, x: fx.Node, scale: Any, bias: Any, mean: Any, var: Any, *, epsilon: float = 1e-5, momentum: float = 0.9,
        training_mode: int = 0, spatial: int = 1,
    ) -> fx.Node:  # fmt: skip
        self._require(not training_mode and bool(spatial), "only its evaluation mode, one value per channel")
        kinds = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}
        self._require(len(self._size(x)) in kinds, "it needs a map (N, C, H, W) or a vector (N, F)")
        values = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": var}
        arrays = {name: self._array(value, name) for name, value in values.items()}
        return self._layer(kinds[len(self._size(x))](len(arrays["bias"]), eps=epsilon), x, **arrays)

    def relu(self, x: fx.Node) -> fx.Node:
        return self._layer(nn.ReLU(), x)

    def clip(self, x: fx.Node, low: Any = None, high: Any = None, *, min: Any = None, max: Any = None) -> fx.Node:
        ends = [default if value is None else float(self._array(value, "bound")) for value, default in
                ((low, -np.inf if min is None else min), (high, np.inf if max is None else max))]  # fmt: skip
        if ends[0] == 0 and ends[1] > _INFINITE:
            return self._layer(nn.ReLU(), x)
        self._require(ends[0] <= 0 < ends[1], f"only a clamp to a range that holds 0, got {ends[0]:g}..{ends[1]:g}")
        return self._layer(nn.Hardtanh(ends[0], ends[1]), x)

    # ---- activation functions ---------------------------------------------------------------------
    def leaky_relu(self, x: fx.Node, *, alpha: float = 0.01) -> fx.Node:
        return self._layer(nn.LeakyReLU(alpha), x)

    def prelu(self, x: fx.Node, slope: Any) -> fx.Node:
        weight = self._array(slope, "slope").reshape(-1)
        return self._layer(nn.PReLU(len(weight)), x, weight=weight)

    def thresholded_relu(self, x: fx.Node, *, alpha: float = 1.0) -> fx.Node:
        return self._layer(nn.Threshold(alpha, 0.0), x)

    def hard_sigmoid(self, x: fx.Node, *, alpha: float = 0.2, beta: float = 0.5) -> fx.Node:
        x = self._call(torch.mul, x, alpha, part="_alpha")
        return self._layer(nn.Hardtanh(0.0, 1.0), self._call(torch.add, x, beta, part="_beta"))

    def selu(self, x: fx.Node, *, alpha: float = _SELU[0], gamma: float = _SELU[1]) -> fx.Node:
        self._require(np.allclose((alpha, gamma), _SELU, rtol=1e-6), "only with the standard's alpha and gamma")
        return self._layer(nn.SELU(), x)

    def elu(self, x: fx.Node, *, alpha: float = 1.0) -> fx.Node:
        return self._layer((nn.CELU if self.node.op_type == "Celu" else nn.ELU)(alpha), x)

    def gelu(self, x: fx.Node, *, approximate: str = "none") -> fx.Node:
        return self._layer(nn.GELU(approximate), x)

    def swish(self, x: fx.Node, *, alpha: float = 1.0) -> fx.Node:
        self._require(alpha == 1, f"alpha must be 1, got {alpha:g}")
        return self._layer(nn.SiLU(), x)

    def function(self, x: fx.Node) -> fx.Node:
        return self._layer(_FUNCTIONS[self.node.op_type](), x)

    def formula(self, x: fx.Node) -> fx.Node:
        return self._call(getattr(torch, self.node.op_type.lower()), x)

    def power(self, x: fx.Node, exponent: Any) -> fx.Node:
        self._require(isinstance(x, fx.Node), "its first input must be made from the picture")
        exponent = self._array(exponent, "exponent")
        self._require(exponent.size == 1, "its exponent must be one number")
        return self._call(torch.pow, x, float(exponent.item()))

    # ---- quantisers -------------------------------------------------------------------------------
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

    # ---- pooling ----------------------------------------------------------------------------------
    def max_pool(
        self, x: fx.Node, *, kernel_shape: Any, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Any = (1, 1),
        pads: Any = None, storage_order: int = 0, strides: Any = (1, 1),
    ) -> fx.Node:  # fmt: skip
        """Borders never win, so that only where windows start, and how many there are, counts."""
        self._map(x)
        self._require(len(self.node.output) == 1, "its indices are not supported")
        above, left, below, right = self._padding(x, kernel_shape, strides, dilations, auto_pad, pads)
        _, _, *size = self._size(x)
        wanted = []
        for s, k, step, d, room in zip(
            size, kernel_shape, strides, dilations, (above + below, left + right), strict=True
        ):
            span = s + room - (k - 1) * d - 1
            wanted.append((-(-span // step) if ceil_mode else span // step) + 1)
        for reaching in (False, True):
            module = nn.MaxPool2d(
                tuple(kernel_shape), tuple(strides), (above, left), tuple(dilations), ceil_mode=reaching
            )
            if list(module(self.example[x]).shape[2:]) == wanted:
                return self._layer(module, x)
        self._refuse(f"a border {(above, left, below, right)} like this is not supported")

    def average_pool(
        self, x: fx.Node, *, kernel_shape: Any, auto_pad: str = "NOTSET", ceil_mode: int = 0,
        count_include_pad: int = 0, dilations: Any = (1, 1), pads: Any = None, strides: Any = (1, 1),
    ) -> fx.Node:  # fmt: skip
        self._map(x)
        self._require(tuple(dilations) == (1, 1), f"dilation is not supported, got {tuple(dilations)}")
        around = self._padding(x, kernel_shape, strides, dilations, auto_pad, pads)
        self._require(
            bool(count_include_pad) or not any(around), "count_include_pad = 0 with a border is not supported"
        )
        x, padding = self._bordered(x, around) if any(around) else (x, (0, 0))
        module = nn.AvgPool2d(tuple(kernel_shape), tuple(strides), padding, bool(ceil_mode))
        return self._layer(module, x)

    def global_average_pool(self, x: fx.Node) -> fx.Node:
        return self._layer(nn.AdaptiveAvgPool2d(1), x)

    def global_max_pool(self, x: fx.Node) -> fx.Node:
        return self._layer(nn.AdaptiveMaxPool2d(1), x)

    def reduce_mean(
        self, x: fx.Node, axes_input: Any = None, *, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> fx.Node:  # fmt: skip
        self._map(x)
        axes = self._array(axes_input, "axes").tolist() if axes_input is not None else axes
        dims = sorted(axis % 4 for axis in axes or range(4))
        self._require(dims == [2, 3], f"only the mean over height and width is supported, got axes {dims}")
        return self._call(torch.mean, x, dims, bool(keepdims))

    # ---- joins and arithmetic ---------------------------------------------------------------------
    def _arithmetic(self, function: Callable[..., Tensor], a: Any, b: Any) -> fx.Node:
        if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
            return self._call(function, a, b)
        self._require(
            function in (torch.add, torch.mul), "only with a constant per channel, not of two tensors of the network"
        )
        self._require(self._size(a) == self._size(b), f"shapes differ: {self._size(a)} and {self._size(b)}")
        return self._call(function, a, b)

    def add(self, a: Any, b: Any) -> fx.Node:
        return self._arithmetic(torch.add, a, b)

    def sub(self, a: Any, b: Any) -> fx.Node:
        return self._arithmetic(torch.sub, a, b)

    def mul(self, a: Any, b: Any) -> fx.Node:
        return self._arithmetic(torch.mul, a, b)

    def div(self, a: Any, b: Any) -> fx.Node:
        self._require(isinstance(a, fx.Node), "only a division by a constant is supported")
        return self._arithmetic(torch.div, a, b)

    def total(self, *values: Any) -> fx.Node:
        total = values[0]
        for value in values[1:]:
            total = self._arithmetic(torch.add, total, value)
        return total

    def concat(self, *values: Any, axis: int) -> Any:
        self._require(all(isinstance(v, fx.Node) for v in values), "its inputs must all be made from the picture")
        return self._call(torch.cat, list(values), axis)

    # ---- shapes -----------------------------------------------------------------------------------
    def _shaped(self, x: fx.Node, shape: Sequence[int]) -> fx.Node:
        """The same numbers in the same order; shape : of one picture, (1, ...)."""
        while x.target is torch.reshape:
            x = cast(fx.Node, x.args[0])
        shape = tuple(self.example[x].reshape(tuple(shape)).shape)
        self._require(len(shape) > 1 and shape[0] == 1, f"it must keep pictures apart, got the shape {shape}")
        return x if shape == self._size(x) else self._call(torch.reshape, x, (-1, *shape[1:]))

    def flatten(self, x: fx.Node, *, axis: int = 1) -> fx.Node:
        self._require(axis % len(self._size(x)) == 1, f"axis must be 1, got {axis}")
        return self._shaped(x, (1, -1))

    def reshape(self, x: fx.Node, shape: Any, *, allowzero: int = 0) -> fx.Node:
        wanted, size = self._array(shape, "shape").tolist(), self._size(x)
        return self._shaped(x, [size[i] if s == 0 and not allowzero else s for i, s in enumerate(wanted)])

    def squeeze(self, x: fx.Node, axes_input: Any = None, *, axes: Any = None) -> fx.Node:
        axes, size = self._array(axes_input, "axes").tolist() if axes_input is not None else axes, self._size(x)
        gone = {axis % len(size) for axis in axes} if axes else {i for i, s in enumerate(size) if i and s == 1}
        return self._shaped(x, [s for i, s in enumerate(size) if i not in gone])

    def unsqueeze(self, x: fx.Node, axes_input: Any = None, *, axes: Any = None) -> fx.Node:
        axes, size = self._array(axes_input, "axes").tolist() if axes_input is not None else axes, list(self._size(x))
        for axis in sorted(axis % (len(size) + len(axes)) for axis in axes):
            size.insert(axis, 1)
        return self._shaped(x, size)

    def transpose(self, x: fx.Node, *, perm: Any = None) -> fx.Node:
        size = self._size(x)
        perm = list(perm or reversed(range(len(size))))
        if perm == [0, 2, 1, 3, 4]:  # a shuffle of channels
            return self._call(torch.permute, x, perm)
        moved = [axis for axis in perm if size[axis] > 1]
        self._require(moved == sorted(moved) and perm[0] == 0, f"it moves values, axes {perm} of {size}; only a change"
                      " of axes of length 1 is supported")  # fmt: skip
        return self._shaped(x, [size[axis] for axis in perm])

    def slice(
        self, x: fx.Node, starts_input: Any = None, ends_input: Any = None, axes_input: Any = None, steps: Any = None,
        *, starts: Any = None, ends: Any = None, axes: Any = None,
    ) -> fx.Node:  # fmt: skip
        given = ((starts_input, starts), (ends_input, ends), (axes_input, axes), (steps, None))
        first, last, along, step = (a if b is None else self._array(b, "range").tolist() for b, a in given)
        assert first is not None
        assert last is not None
        size, index = self._size(x), [slice(None)] * len(self._size(x))
        for place, axis in enumerate(range(len(first)) if along is None else along):
            cut = slice(first[place], last[place], None if step is None else step[place])
            self._require(axis % len(size) > 0 and (cut.step or 1) > 0, "only channels, rows or columns, forwards")
            start, stop, by = cut.indices(size[axis])
            index[axis] = slice(start or None, None if stop == size[axis] else stop, None if by == 1 else by)
        return self._call(operator.getitem, x, tuple(index))

    def split(
        self, x: fx.Node, split_input: Any = None, *, axis: int = 0, split: Any = None, num_outputs: int | None = None
    ) -> tuple[fx.Node, ...]:
        count, length = len(self.node.output), self._size(x)[axis]
        parts = split if split_input is None else self._array(split_input, "parts").tolist()
        ends = np.cumsum(parts or [-(-length // count)] * count).clip(max=length).tolist()
        return tuple(
            self.slice(x, starts=[start], ends=[end], axes=[axis])
            for start, end in zip([0, *ends[:-1]], ends, strict=True)
        )

    def shape(self, x: fx.Node, *, start: int = 0, end: int | None = None) -> np.ndarray:
        return np.array(self._size(x)[start:end], dtype=np.int64)

    def pad(
        self, x: fx.Node, pads_input: Any = None, value_input: Any = None, axes: Any = None, *, mode: str = "constant",
        pads: Any = None, value: float = 0.0,
    ) -> fx.Node:  # fmt: skip
        self._map(x)
        value = float(self._array(value_input, "value")) if value_input is not None else value
        self._require(mode == "constant" and value == 0, "only a border of zeros is supported")
        given = self._array(pads_input, "pads").tolist() if pads_input is not None else list(pads)
        listed = [int(a) % 4 for a in self._array(axes, "axes")] if axes is not None else list(range(4))
        before, after = [0] * 4, [0] * 4
        for place, axis in enumerate(listed):
            before[axis], after[axis] = given[place], given[place + len(listed)]
        self._require(
            before[0] == after[0] == 0 and min(before + after) >= 0, f"not of pictures or below 0, got {given}"
        )
        border = [before[3], after[3], before[2], after[2]]
        return self._call(F.pad, x, border if before[1] == after[1] == 0 else [*border, before[1], after[1]])

    def same(self, x: fx.Node, *unused: Any, **options: Any) -> fx.Node:
        return x

    def dropout(self, x: fx.Node, ratio: Any = None, training: Any = None, **options: Any) -> fx.Node:
        self._require(training is None or not bool(self._array(training, "training_mode")), "only in evaluation mode")
        return x

    def cast(self, x: fx.Node, *, to: int, **options: Any) -> fx.Node:
        self._require(to == self.onnx.TensorProto.FLOAT, "only to float")
        return x

    def softmax(self, x: fx.Node, *, axis: int | None = None) -> fx.Node:
        axis = (1 if self.opset < 13 else -1) if axis is None else axis
        kind = nn.LogSoftmax if self.node.op_type == "LogSoftmax" else nn.Softmax
        return self._layer(kind(dim=axis), x)


def _tensor(value: Any) -> Tensor:
    array = np.array(value)
    return torch.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else array)


def _along(value: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """One value, or one per index of an axis, as it is broadcast."""
    return value.reshape([-1 if i == axis % rank else 1 for i in range(rank)]) if value.ndim == 1 else value


_ROUND: dict[str, Callable[..., np.ndarray]] = {
    "ROUND": np.round,
    "HALF_EVEN": np.round,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "FLOOR": np.floor,
    "CEIL": np.ceil,
}
#: Quantiser of QONNX -> method of `Reader`.
QUANTISERS: dict[str, Callable[..., Any]] = {"Quant": Reader.quant, "IntQuant": Reader.quant}
#: Operator of the ONNX standard -> method of `Reader`.
OPERATORS: dict[str, Callable[..., Any]] = {
    "Conv": Reader.conv,
    "Gemm": Reader.gemm,
    "MatMul": Reader.matmul,
    "BatchNormalization": Reader.batch_norm,
    "Relu": Reader.relu,
    "Clip": Reader.clip,
    "LeakyRelu": Reader.leaky_relu,
    "PRelu": Reader.prelu,
    "ThresholdedRelu": Reader.thresholded_relu,
    "HardSigmoid": Reader.hard_sigmoid,
    "Elu": Reader.elu,
    "Celu": Reader.elu,
    "Selu": Reader.selu,
    "Gelu": Reader.gelu,
    "Swish": Reader.swish,
    **dict.fromkeys(_FUNCTIONS, Reader.function),
    **dict.fromkeys(("Abs", "Erf", "Exp", "Sign"), Reader.formula),
    "Pow": Reader.power,
    "QuantizeLinear": Reader.quantize_linear,
    "DequantizeLinear": Reader.dequantize_linear,
    "MaxPool": Reader.max_pool,
    "AveragePool": Reader.average_pool,
    "GlobalAveragePool": Reader.global_average_pool,
    "GlobalMaxPool": Reader.global_max_pool,
    "ReduceMean": Reader.reduce_mean,
    "Add": Reader.add,
    "Sub": Reader.sub,
    "Mul": Reader.mul,
    "Div": Reader.div,
    "Sum": Reader.total,
    "Concat": Reader.concat,
    "Flatten": Reader.flatten,
    "Reshape": Reader.reshape,
    "Squeeze": Reader.squeeze,
    "Unsqueeze": Reader.unsqueeze,
    "Transpose": Reader.transpose,
    "Slice": Reader.slice,
    "Split": Reader.split,
    "Shape": Reader.shape,
    "Pad": Reader.pad,
    "Identity": Reader.same,
    "Dropout": Reader.dropout,
    "Cast": Reader.cast,
    "Softmax": Reader.softmax,
    "LogSoftmax": Reader.softmax,
}
