"""A network of an ONNX file as a torch.fx module of ordinary PyTorch layers, and what onnxruntime says of it.

What comes out is traced, captured and trained as any network of PyTorch is: there is one table of operators for the
machine (quant/capture/operators/), and quant/networks/onnx_operators/ is only a second spelling of it. Constants are
folded by onnxruntime. Shapes are those of one picture, which is run as the module is made.

Quantisers give integers and scales of weights, widths and ranges of activations: `Quant` of QONNX (Brevitas), and
QuantizeLinear followed by DequantizeLinear.

Needs the extra `onnx`, and `qonnx` for `Quant`. ValueError says in one sentence what a file has that is not supported,
and what is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from quant.networks import onnx_runtime
from quant.networks.onnx_operators.reader import Reader

#: Opsets of the ONNX standard whose operators are read as they are meant.
OPSETS = range(7, 26)
SUFFIX = ".onnx"


def is_file(model: str) -> bool:
    """Whether MODEL of a command names an ONNX file."""
    return model.endswith(SUFFIX)


def content(network: nn.Module) -> bytes | None:
    """The file that a network was read from, None for any other network."""
    return getattr(network, "meta", {}).get(onnx_runtime.META)


def value_of(node: fx.Node) -> str:
    """Name of the file's value that a node gives, "" for none."""
    return node.meta.get(onnx_runtime.META, "")


def load(path: Path | str) -> Any:
    """The file's onnx.ModelProto, checked, its batch set to 1."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"--model: {path} is not a file")
    onnx = onnx_runtime.packages()
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


def input_shape(path: Path | str) -> onnx_runtime.Shape:
    """(C, H, W) of the pictures that a file's network takes."""
    return onnx_runtime.picture_shape(load(path))


def read(path: Path | str) -> fx.GraphModule:
    """The network of a file, in evaluation mode; its layers are called as the file's nodes are."""
    proto = load(path)
    if onnx_runtime.opset(proto) not in OPSETS:
        raise ValueError(
            f"{path} is of opset {onnx_runtime.opset(proto)}; {OPSETS[0]} to {OPSETS[-1]} are supported"
            f" (onnx.version_converter.convert_version makes another)"
        )
    reader = Reader(proto)
    with torch.no_grad():
        return reader.read()


def node_values(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What onnxruntime gives, by name, for the values of the file that a network was read from, picture by picture.

    images : float (B, C, H, W), what the network expects.
    """
    onnx, found = onnx_runtime.packages(), content(network)
    assert isinstance(network, fx.GraphModule)
    assert found is not None
    proto = onnx.load_from_string(found)
    wanted = list(dict.fromkeys(name for node in network.graph.nodes if (name := value_of(node))))
    quantised = any(node.domain in onnx_runtime.QONNX for node in proto.graph.node)
    try:
        run = onnx_runtime.of_qonnx(proto) if quantised else onnx_runtime.of_onnxruntime(proto, wanted)
        runs = [run(image[None].numpy()) for image in images]
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"the file's network cannot be run: {' '.join(str(error).split())[:300]}") from error
    return {name: torch.from_numpy(np.concatenate([values[name] for values in runs])) for name in wanted}
