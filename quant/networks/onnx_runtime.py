"""The packages onnx, onnxruntime and qonnx: an ONNX network as it is run by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch

Shape = tuple[int, int, int]

META = "onnx"  # of a module: the bytes of its file, batch 1. Of its nodes: name of the value in the file
STANDARD = ("", "ai.onnx")
#: Where `Quant` is defined.
QONNX = ("qonnx.custom_op.general", "onnx.brevitas")


def packages() -> Any:
    """The package onnx; ValueError if it or onnxruntime is missing."""
    try:
        import onnx  # pyright: ignore[reportMissingImports]
        import onnxruntime  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("ONNX files need the packages onnx and onnxruntime: pip install 'ohmloom[onnx]'") from error
    return onnx


def opset(proto: Any) -> int:
    return next((int(one.version) for one in proto.opset_import if one.domain in STANDARD), 0)


def picture_shape(proto: Any) -> Shape:
    return cast(Shape, tuple(axis.dim_value for axis in proto.graph.input[0].type.tensor_type.shape.dim[1:]))


def of_onnxruntime(proto: Any, wanted: list[str]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    import onnx  # pyright: ignore[reportMissingImports]

    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    ready, given = session(proto), proto.graph.input[0].name
    return lambda image: dict(zip(wanted, cast(Any, ready.run(None, {given: image})), strict=True))


def session(proto: Any) -> Any:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3  # errors, which are raised
    settings.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(proto.SerializeToString(), settings, ["CPUExecutionProvider"])


def of_qonnx(proto: Any) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The executor of QONNX, which hands what it does not know itself to onnxruntime."""
    try:
        from qonnx.core.modelwrapper import ModelWrapper  # pyright: ignore[reportMissingImports]
        from qonnx.core.onnx_exec import execute_onnx  # pyright: ignore[reportMissingImports]
        from qonnx.transformation.infer_shapes import InferShapes  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("files with Quant nodes need the package qonnx: pip install 'ohmloom[qonnx]'") from error
    model, given = ModelWrapper(proto).transform(InferShapes()), proto.graph.input[0].name
    return lambda image: execute_onnx(model, {given: image}, return_full_exec_context=True)
