"""The nodes of an ONNX file as layers, one after the other; what is not supported is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from quant.networks import onnx_runtime
from quant.networks.onnx_operators.layers import FUNCTIONS, Layers
from quant.networks.onnx_operators.quantisers import Integers, Quantisers
from quant.networks.onnx_operators.shapes import Shapes
from quant.networks.onnx_operators.windows import Windows
from quant.networks.refused import because


class Reader(Layers, Quantisers, Windows, Shapes):
    """Turns the nodes of a file into layers, one after the other.

    Methods named after an operator take its inputs, as `fx.Node` or as constant arrays, and its attributes as the
    standard calls them.
    """

    def read(self) -> fx.GraphModule:
        given = self.proto.graph.input[0].name
        image = self.graph.placeholder("image")
        self.nodes[given] = image
        self.example[image] = torch.full((1, *onnx_runtime.picture_shape(self.proto)), 0.5)
        for node in self.proto.graph.node:
            self.node = node
            inputs = [self.nodes.get(name, self.constants.get(name)) for name in node.input]
            if any(isinstance(value, fx.Node | Integers) for value in inputs):
                self._translate(inputs)
            elif node.domain in onnx_runtime.QONNX:
                self._require(node.op_type in QUANTISERS, "it is not supported")
                self._fold_quantiser(*inputs)
            else:
                self._fold()
        output = self.nodes.get(self.proto.graph.output[0].name)
        if output is None:
            raise ValueError("the network's output does not depend on its input")
        self.graph.output(output)
        network = fx.GraphModule(self.root, self.graph, "OnnxNetwork").eval()
        network.graph.eliminate_dead_code()
        network.recompile()
        network.meta[onnx_runtime.META] = self.proto.SerializeToString()
        return network

    def _translate(self, inputs: list[Any]) -> None:
        tables = {**dict.fromkeys(onnx_runtime.STANDARD, OPERATORS), **dict.fromkeys(onnx_runtime.QONNX, QUANTISERS)}
        method = tables.get(self.node.domain, {}).get(self.node.op_type)
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
                    one.meta.setdefault(onnx_runtime.META, name)
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
            return list(map(np.asarray, onnx_runtime.session(model).run(None, {})))
        except Exception as error:
            self._refuse(f"this constant cannot be computed: {' '.join(str(error).split())[:200]}", error)


def _along(value: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """One value, or one per index of an axis, as it is broadcast."""
    return value.reshape([-1 if i == axis % rank else 1 for i in range(rank)]) if value.ndim == 1 else value


#: Quantiser of QONNX -> method of `Reader`.
QUANTISERS: dict[str, Callable[..., Any]] = {
    "Quant": Reader.quant,
    "IntQuant": Reader.quant,
    "BipolarQuant": Reader.bipolar_quant,
}
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
    **dict.fromkeys(FUNCTIONS, Reader.function),
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
