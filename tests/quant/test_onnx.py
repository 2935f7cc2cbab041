"""ONNX files: what they become, against onnxruntime and the network that they were exported from; what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from golden_model.graph.network import Graph
from golden_model.graph.nodes import Border, Crossbar
from quant.capture.__main__ import captured as capture
from quant.capture.capture import from_torch
from quant.capture.errors import UnsupportedOperator
from quant.networks import onnx_file
from quant.networks.onnx_operators import reader
from quant.networks.pixels import Normalisation, float_logits
from quant.networks.source import Inputs, Source
from quant.reference import exact_logits
from quant.training.prepare import prepare
from tests.quant.test_import_network import (
    HARDWARE,
    MODELS,
    NORMALISATION,
    SHAPE,
    pictures,
    seeded,
)

onnx = pytest.importorskip("onnx", reason="reading ONNX files needs the extra onnx")
pytest.importorskip("onnxruntime", reason="reading ONNX files needs the extra onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FLOAT = TensorProto.FLOAT


def exported(model: nn.Module, path: Path, opset: int = 17, **values: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is the old one, which writes old opsets
        torch.onnx.export(model, (torch.zeros(1, *SHAPE),), str(path), opset_version=opset, dynamo=False, **values)
    return path


def captured(path: Path, normalisation: Normalisation | None = None) -> Graph:
    return from_torch(onnx_file.read(path), SHAPE, HARDWARE, pictures(), normalisation=normalisation)


def written(
    folder: Path,
    nodes: list[Any],
    constants: dict[str, Any] | None = None,
    *,
    opset: int = 13,
    shape: tuple[Any, ...] = (1, *SHAPE),
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("y",),
) -> Path:
    """A file from nodes (operator, inputs, outputs, attributes), from x to y."""
    made = [helper.make_node(name, given, out, name=f"my/{out[0]}", **words) for name, given, out, words in nodes]
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(
        made, "g", [helper.make_tensor_value_info(name, FLOAT, shape) for name in inputs],
        [helper.make_empty_tensor_value_info(name) for name in outputs], values,
    )  # fmt: skip
    opsets = [helper.make_opsetid(*one) for one in (("", opset), ("qonnx.custom_op.general", 1), ("com.microsoft", 1))]
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    for output in model.graph.output:
        if not output.type.tensor_type.HasField("shape"):  # behind an operator that is not in the standard
            output.CopyFrom(helper.make_tensor_value_info(output.name, FLOAT, ("N", "F")))
    onnx.save(model, path := folder / "net.onnx")
    return path


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)


def first_layer() -> tuple[list[Any], dict[str, Any]]:
    """Nodes from x to a map m (1, 6, 12, 12) that is not negative."""
    return [("Conv", ["x", "w"], ["c"], {"pads": [1] * 4}), ("Relu", ["c"], ["m"], {})], {"w": weights(6, 3, 3, 3)}


def network(folder: Path, nodes: list[Any], constants: dict[str, Any] | None = None, **values: Any) -> Path:
    """The first layer, the nodes from m to t, and the mean and a linear layer behind them."""
    before, first = first_layer()
    after = [("GlobalAveragePool", ["t"], ["p"], {}), ("Flatten", ["p"], ["f"], {})]
    return written(folder, [*before, *nodes, *after], {**first, **(constants or {})}, outputs=("f",), **values)


# ---- what files become ----------------------------------------------------------------------------
@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("name", MODELS)
def test_a_file_becomes_what_the_network_becomes_that_it_was_exported_from(name, opset, tmp_path):
    model = seeded(MODELS[name]())
    made = captured(exported(model, tmp_path / "net.onnx", opset), NORMALISATION)
    images, wanted = pictures(), from_torch(model, SHAPE, HARDWARE, pictures(), normalisation=NORMALISATION)
    assert {type(node) for node in made.nodes} == {type(node) for node in wanted.nodes}
    exact, expected = exact_logits(made, images), float_logits(model, images, NORMALISATION)
    if name == "chain":  # the softmax is left out
        exact, expected = (v - v.mean(axis=1, keepdims=True) for v in (exact, expected))
    assert np.abs(exact * made.output.logit_scale - expected).max() < 0.04 * np.ptp(expected)


def test_layers_are_called_as_the_files_nodes_are(tmp_path):
    nodes, constants = first_layer()
    made = captured(
        written(tmp_path, [*nodes, ("Conv", ["m", "v"], ["y"], {})], {**constants, "v": weights(5, 6, 12, 12)})
    )
    assert [node.name for node in made.crossbars] == ["my_c", "my_y"]


OPERATORS: dict[str, tuple[list[Any], dict[str, Any], int]] = {
    "auto_pad": (
        [("Conv", ["m", "v"], ["t"], {"auto_pad": "SAME_UPPER", "strides": [2, 2]})],
        {"v": weights(4, 6, 3, 3)},
        13,
    ),
    "auto_pad from below": (
        [("Conv", ["m", "v"], ["t"], {"auto_pad": "SAME_LOWER", "strides": [2, 2]})],
        {"v": weights(4, 6, 3, 3)},
        13,
    ),
    "leaky relu": ([("LeakyRelu", ["c"], ["t"], {"alpha": 0.2})], {}, 13),
    "one slope": ([("PRelu", ["c", "s"], ["t"], {})], {"s": np.full((1, 1, 1), 0.3, np.float32)}, 13),
    "a slope per channel": (
        [("PRelu", ["c", "s"], ["t"], {})],
        {"s": np.linspace(-0.5, 1.2, 6, dtype=np.float32).reshape(6, 1, 1)},
        13,
    ),
    "thresholded relu": ([("ThresholdedRelu", ["c"], ["t"], {"alpha": 0.1})], {}, 13),
    "hard swish": ([("HardSwish", ["c"], ["t"], {})], {}, 14),
    "hard sigmoid": ([("HardSigmoid", ["c"], ["t"], {"alpha": 0.25})], {}, 13),
    "sigmoid": ([("Sigmoid", ["c"], ["t"], {})], {}, 13),
    "tanh": ([("Tanh", ["c"], ["t"], {})], {}, 13),
    "softplus": ([("Softplus", ["c"], ["t"], {})], {}, 13),
    "softsign": ([("Softsign", ["c"], ["t"], {})], {}, 13),
    "elu": ([("Elu", ["c"], ["t"], {"alpha": 0.5})], {}, 13),
    "celu": ([("Celu", ["c"], ["t"], {"alpha": 0.5})], {}, 13),
    "selu": ([("Selu", ["c"], ["t"], {})], {}, 13),
    "gelu": ([("Gelu", ["c"], ["t"], {"approximate": "tanh"})], {}, 20),
    "mish": ([("Mish", ["c"], ["t"], {})], {}, 18),
    "absolute value": ([("Abs", ["c"], ["t"], {})], {}, 13),
    "power": ([("Pow", ["c", "e"], ["t"], {})], {"e": np.float32(2)}, 13),
    "swish of parts": ([("Sigmoid", ["c"], ["s"], {}), ("Mul", ["c", "s"], ["t"], {})], {}, 13),
    "hard swish of parts": (
        [
            ("Add", ["c", "three"], ["u"], {}),
            ("Clip", ["u", "zero", "six"], ["v"], {}),
            ("Mul", ["c", "v"], ["q"], {}),
            ("Div", ["q", "six"], ["t"], {}),
        ],
        {"zero": np.float32(0), "three": np.float32(3), "six": np.float32(6)},
        13,
    ),
    "gelu of parts": (
        [
            ("Div", ["c", "root"], ["d"], {}),
            ("Erf", ["d"], ["e"], {}),
            ("Add", ["e", "one"], ["o"], {}),
            ("Mul", ["c", "o"], ["q"], {}),
            ("Mul", ["q", "half"], ["t"], {}),
        ],
        {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)},
        13,
    ),
    "a pad of a convolution": (
        [("Pad", ["m", "n"], ["q"], {}), ("Conv", ["q", "v"], ["t"], {})],
        {"n": [0, 0, 1, 1, 0, 0, 1, 1], "v": weights(4, 6, 3, 3)},
        13,
    ),
    "a lopsided pad": ([("Pad", ["m", "n", "o"], ["t"], {})], {"n": [0, 0, 0, 2, 0, 0, 1, 0], "o": np.float32(0)}, 13),
    "a pad of channels": ([("Pad", ["m"], ["t"], {"pads": [0, 1, 0, 0, 0, 2, 0, 0]})], {}, 10),
    "a lopsided pool": (
        [("MaxPool", ["m"], ["t"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]})],
        {},
        13,
    ),
    "auto_pad of a pool": (
        [("MaxPool", ["m"], ["t"], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"})],
        {},
        13,
    ),
    "a pool without its last row": (
        [("MaxPool", ["m"], ["t"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 0]})],
        {},
        13,
    ),
    "ceil_mode": ([("MaxPool", ["m"], ["t"], {"kernel_shape": [5, 5], "strides": [3, 3], "ceil_mode": 1})], {}, 13),
    "an average with a border": (
        [("AveragePool", ["m"], ["t"], {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1})],
        {},
        13,
    ),
    "GlobalMaxPool": ([("GlobalMaxPool", ["m"], ["t"], {})], {}, 13),
    "Sum": ([("Conv", ["m", "v"], ["q"], {}), ("Sum", ["q", "m", "m"], ["t"], {})], {"v": weights(6, 6, 1, 1)}, 13),
    "Add": ([("Conv", ["m", "v"], ["q"], {}), ("Add", ["q", "m"], ["t"], {})], {"v": weights(6, 6, 1, 1)}, 13),
    "Concat": (
        [("Conv", ["m", "v"], ["q"], {}), ("Concat", ["q", "m"], ["t"], {"axis": 1})],
        {"v": weights(6, 6, 1, 1)},
        13,
    ),
    "constants per channel": (
        [
            ("Conv", ["m", "v"], ["q"], {}),
            ("Mul", ["q", "s"], ["r"], {}),
            ("Sub", ["r", "s"], ["u"], {}),
            ("Div", ["u", "n"], ["o"], {}),
            ("Sub", ["s", "o"], ["t"], {}),
        ],
        {"v": weights(6, 6, 1, 1), "s": weights(6, 1, 1), "n": np.float32(2)},
        13,
    ),
    "BatchNormalization": (
        [("Conv", ["m", "v"], ["q"], {}), ("BatchNormalization", ["q", "a", "b", "c2", "d"], ["t"], {"epsilon": 0.1})],
        {
            "v": weights(6, 6, 1, 1),
            "a": np.float32([1, 2, 3, 4, 5, 6]),
            "b": weights(6, 1)[:, 0],
            "c2": weights(6, 2)[:, 0],
            "d": np.float32([1, 2, 1, 2, 1, 2]),
        },
        13,
    ),
    "Clip of attributes": (
        [("Conv", ["m", "v"], ["q"], {}), ("Clip", ["q"], ["t"], {"min": 0.0, "max": 0.5})],
        {"v": weights(6, 6, 1, 1)},
        10,
    ),
    "Clip of inputs": (
        [("Conv", ["m", "v"], ["q"], {}), ("Clip", ["q", "a", "b"], ["t"], {})],
        {"v": weights(6, 6, 1, 1), "a": np.float32(0), "b": np.float32(6)},
        13,
    ),
    "Clip without an end": (
        [("Conv", ["m", "v"], ["q"], {}), ("Clip", ["q", "a"], ["t"], {})],
        {"v": weights(6, 6, 1, 1), "a": np.float32(0)},
        13,
    ),
    "ReduceMean": (
        [("ReduceMean", ["m"], ["q"], {"axes": [2, 3], "keepdims": 0}), ("Unsqueeze", ["q", "n"], ["t"], {})],
        {"n": [2, 3]},
        13,
    ),
    "ReduceMean of opset 18": ([("ReduceMean", ["m", "n"], ["t"], {})], {"n": [-1, -2]}, 18),
    "Squeeze, Unsqueeze": (
        [
            ("GlobalAveragePool", ["m"], ["q"], {}),
            ("Squeeze", ["q"], ["r"], {"axes": [2]}),
            ("Squeeze", ["r"], ["u"], {"axes": [-1]}),
            ("Unsqueeze", ["u"], ["t"], {"axes": [2, 3]}),
        ],
        {},
        11,
    ),
    "Transpose that moves nothing": (
        [
            ("GlobalAveragePool", ["m"], ["q"], {}),
            ("Transpose", ["q"], ["r"], {"perm": [0, 2, 3, 1]}),
            ("Reshape", ["r", "n"], ["t"], {}),
        ],
        {"n": [-1, 6, 1, 1]},
        13,
    ),
    "a shape that is computed": (
        [
            ("Shape", ["m"], ["q"], {}),
            ("Gather", ["q", "zero"], ["r"], {}),
            ("Unsqueeze", ["r", "z"], ["u"], {}),
            ("Concat", ["u", "k"], ["o"], {"axis": 0}),
            ("Reshape", ["m", "o"], ["t"], {}),
        ],
        {"zero": np.int64(0), "z": [0], "k": [6, 6, 24]},
        13,
    ),
    "Identity, Dropout, Cast": (
        [("Identity", ["m"], ["q"], {}), ("Dropout", ["q"], ["r"], {}), ("Cast", ["r"], ["t"], {"to": FLOAT})],
        {},
        13,
    ),
    "MatMul, Add": (
        [
            ("GlobalAveragePool", ["m"], ["q"], {}),
            ("Flatten", ["q"], ["r"], {}),
            ("MatMul", ["r", "v"], ["u"], {}),
            ("Add", ["u", "b"], ["o"], {}),
            ("Reshape", ["o", "n"], ["t"], {}),
        ],
        {"v": weights(6, 8), "b": weights(8, 1)[:, 0], "n": [0, 8, 1, 1]},
        13,
    ),
    "Gemm": (
        [
            ("GlobalAveragePool", ["m"], ["q"], {}),
            ("Flatten", ["q"], ["r"], {}),
            ("Gemm", ["r", "v", "b"], ["u"], {"alpha": 0.5, "beta": 2.0}),
            ("Unsqueeze", ["u"], ["t"], {"axes": [2, 3]}),
        ],
        {"v": weights(6, 8), "b": np.float32(0.1)},
        11,
    ),
    "a weight that is computed": (
        [
            ("Constant", [], ["k"], {"value": numpy_helper.from_array(weights(6, 6))}),
            ("Transpose", ["k"], ["l"], {}),
            ("Unsqueeze", ["l", "n"], ["v"], {}),
            ("Conv", ["m", "v"], ["t"], {}),
        ],
        {"n": [2, 3]},
        13,
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_gives_what_onnxruntime_gives(name, tmp_path):
    nodes, constants, opset = OPERATORS[name]
    path = network(tmp_path, nodes, constants, opset=opset)
    read = onnx_file.read(path)
    images = pictures()
    floats = torch.tensor(images / 255, dtype=torch.float32)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"x": one[None].numpy()})[0] for one in floats])
    with torch.no_grad():
        assert np.allclose(read(floats).numpy(), wanted, rtol=1e-4, atol=1e-5)
    made = captured(path)
    assert np.abs(exact_logits(made, images) * made.output.logit_scale - wanted).max() < 0.04 * np.ptp(wanted)


def test_the_border_of_a_pad_becomes_the_convolutions_own(tmp_path):
    nodes, constants, opset = OPERATORS["a pad of a convolution"]
    made = captured(network(tmp_path, nodes, constants, opset=opset))
    assert not [node for node in made.nodes if isinstance(node, Border)]
    assert [node.layers[0].pad for node in made.nodes if isinstance(node, Crossbar)] == [1, 1]


def test_any_number_of_pictures_in_a_file_is_read_as_one(tmp_path):
    nodes, constants = first_layer()
    nodes.append(("Flatten", ["m"], ["y"], {}))
    for batch in ("N", 8, None):
        assert onnx_file.input_shape(written(tmp_path, nodes, constants, shape=(batch, *SHAPE))) == SHAPE
        captured(tmp_path / "net.onnx")


def test_weights_that_an_old_file_lists_as_inputs_are_weights(tmp_path):
    nodes, constants = first_layer()
    path = written(tmp_path, [*nodes, ("Flatten", ["m"], ["y"], {})], constants)
    proto = onnx.load(path)
    proto.ir_version = 3
    image = proto.graph.input.pop()
    proto.graph.input.extend([helper.make_tensor_value_info("w", FLOAT, constants["w"].shape), image])
    onnx.save(proto, path)
    assert onnx_file.input_shape(path) == SHAPE
    captured(path)


# ---- what is refused ------------------------------------------------------------------------------
REFUSED: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "operator": (
        [("Sin", ["m"], ["t"], {})],
        {},
        r"^node 'my/t': Sin of opset 13: it is not supported \(supported: Abs, Add, AveragePool",
    ),
    "function": (
        [("Sqrt", ["m"], ["t"], {})],
        {},
        "^node 'my/t': Sqrt of opset 13: it is not supported: a table covers inputs of both signs, and it has no value",
    ),
    "dilation": (
        [("Conv", ["m", "v"], ["t"], {"dilations": [2, 2]})],
        {"v": weights(4, 6, 3, 3)},
        r"layer 'my_t': Conv of opset 13: dilation is not supported, got \(2, 2\)",
    ),
    "strides": (
        [("Conv", ["m", "v"], ["t"], {"strides": [1, 2]})],
        {"v": weights(4, 6, 3, 3)},
        r"layer 'my_t': Conv of opset 13: stride must be equal in both directions, got \(1, 2\)",
    ),
    "product": (
        [("Conv", ["x", "w"], ["d"], {"pads": [1] * 4}), ("Mul", ["m", "d"], ["t"], {})],
        {},
        "Mul of opset 13: only a constant, not a second tensor of the network that is no function of the first",
    ),
    "clamp": (
        [("Clip", ["m", "a"], ["t"], {})],
        {"a": np.float32(1)},
        "only a clamp to a range that holds 0, got 1..inf",
    ),
    "mean": ([("ReduceMean", ["m"], ["t"], {"axes": [1]})], {}, r"only the mean over height and width .* axes \[1\]"),
    "border": (
        [("Pad", ["m", "n"], ["t"], {"mode": "reflect"})],
        {"n": [0, 0, 1, 1, 0, 0, 1, 1]},
        "only a border of zeros",
    ),
    "average": (
        [("AveragePool", ["m"], ["t"], {"kernel_shape": [3, 3], "pads": [1] * 4})],
        {},
        "count_include_pad = 0",
    ),
    "transpose": ([("Transpose", ["m"], ["t"], {"perm": [0, 2, 3, 1]})], {}, r"it moves values, axes \[0, 2, 3, 1\]"),
    "concat": ([("Concat", ["m", "c"], ["t"], {"axis": 2})], {}, "only channels .* got dim=2"),
    "softmax": (
        [("Softmax", ["m"], ["t"], {"axis": 1})],
        {},
        "layer 'my_t': softmax is supported only at the network's end",
    ),
    "pictures": ([("Reshape", ["m", "n"], ["t"], {})], {"n": [6, 1, 12, 12]}, "it must keep pictures apart"),
    "matmul": (
        [("MatMul", ["m", "v"], ["t"], {})],
        {"v": weights(12, 12)},
        r"its first input must be a vector \(N, F\)",
    ),
    "weight": ([("Conv", ["m", "c"], ["t"], {})], {}, "node 'my/t': Conv of opset 13: its weight must be a constant"),
    "another domain": (
        [("Conv", ["m"], ["t"], {"domain": "com.microsoft"})],
        {},
        "Conv of opset 13: it is not supported",
    ),
}


def refused(path: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match) as error:
        captured(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_machine_does_not_have_is_refused_by_name(name, tmp_path):
    nodes, constants, match = REFUSED[name]
    path = network(tmp_path, nodes, constants)
    refused(path, match)


def test_files_that_are_no_network_for_pictures_are_refused(tmp_path):
    nodes, constants = first_layer()
    nodes.append(("Flatten", ["m"], ["y"], {}))
    refused(tmp_path / "none.onnx", "none.onnx is not a file")
    (tmp_path / "bad.onnx").write_bytes(b"this is no network")
    refused(tmp_path / "bad.onnx", "bad.onnx cannot be read as an ONNX network: ")
    good = written(tmp_path, nodes, constants).read_bytes()
    (tmp_path / "half.onnx").write_bytes(good[: len(good) // 2])
    refused(tmp_path / "half.onnx", "half.onnx cannot be read as an ONNX network: ")
    refused(written(tmp_path, nodes, constants, inputs=("x", "z")), "must have one input, it has 2: x, z")
    refused(written(tmp_path, nodes, constants, outputs=("y", "c")), "must have one output, it has 2: y, c")
    refused(
        written(tmp_path, nodes, constants, shape=(1, 3, "H", "W")), r"\(1, 3, H, W\); channels, height and width must"
    )
    refused(
        written(tmp_path, nodes, constants, shape=(1, 3)),
        r"must be float pictures \(N, C, H, W\), it has shape \(1, 3\)",
    )
    refused(written(tmp_path, nodes, constants, opset=6), "is of opset 6; 7 to 25 are supported")
    path = written(tmp_path, nodes, constants)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    captured(path)
    (tmp_path / "weights.bin").unlink()
    refused(path, "net.onnx cannot be read as an ONNX network: .*weights.bin")


def test_an_operator_that_is_misread_is_found_by_onnxruntime(tmp_path, monkeypatch):
    nodes, constants, _ = OPERATORS["Add"]
    path = network(tmp_path, nodes, constants)
    monkeypatch.setitem(reader.OPERATORS, "Add", lambda self, a, b: self._call(torch.add, a, a))
    with pytest.raises(UnsupportedOperator, match=r"layer 'my_t': .* \(onnxruntime, Add of opset 13\)"):
        captured(path)


def test_without_the_packages_a_file_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path, *first_layer(), outputs=("m",))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(path, r"need the packages onnx and onnxruntime: pip install 'ohmloom\[onnx\]'")


# ---- commands -------------------------------------------------------------------------------------
def data(folder: Path, shape: tuple[int, ...] = SHAPE) -> Path:
    arrays = {"images": pictures(shape=shape), "labels": np.arange(24) % 5}
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def test_a_file_is_a_network_of_the_users_to_every_command(tmp_path):
    path = str(exported(seeded(MODELS["residual"]()), tmp_path / "mine.onnx"))
    source = Source.open(path, Inputs(data=data(tmp_path), mean="0.4,0.5,0.4", std="0.3"))
    assert (source.name, source.normalisation.std) == ("mine", (0.3,) * 3)
    logs: list[str] = []
    first = capture(source, tmp_path, None, log=logs.append)
    assert first.name == "mine"
    capture(source, tmp_path, None, log=logs.append)
    assert "network.graph is up to date" in logs[-1]
    exported(seeded(MODELS["residual"](), seed=1), Path(path))
    capture(Source.open(path, Inputs(data=data(tmp_path))), tmp_path, None, log=logs.append)
    assert logs[-1].startswith("accuracy on 24 test images")


def test_pictures_and_files_must_have_the_same_shape(tmp_path):
    path = str(exported(seeded(MODELS["residual"]()), tmp_path / "mine.onnx"))
    with pytest.raises(ValueError, match=r"images are \(3, 12, 14\), .*mine.onnx takes \(3, 12, 12\)"):
        Source.open(path, Inputs(data=data(tmp_path, (3, 12, 14))))
    with pytest.raises(ValueError, match=r"--weights: .*mine.onnx has its own weights"):
        Source.open(path, Inputs(data=data(tmp_path), weights=tmp_path / "w.pt"))


def test_a_file_is_trained_as_its_network_is(tmp_path):
    path = str(exported(seeded(MODELS["residual"]()), tmp_path / "mine.onnx"))
    network = onnx_file.read(path)
    made = prepare(network, SHAPE, HARDWARE, calibration=pictures(), normalisation=Normalisation.none(3))
    assert [layer.geometry.name for layer in made] == ["a_Conv", "b_Conv", "c_Conv", "fc_Gemm"]
    with torch.no_grad():
        network.get_submodule("a_Conv").weight.mul_(1.5)  # type: ignore[operator]
    # Once it is trained, it is another network than the file's.
    prepare(network, SHAPE, HARDWARE, calibration=pictures(), normalisation=Normalisation.none(3))
    with pytest.raises(UnsupportedOperator, match=r"layer 'a_Conv': .*onnxruntime"):
        from_torch(network, SHAPE, HARDWARE, pictures())
    graph = made.to_graph(pictures(), "mine")
    with torch.no_grad():
        wanted = made(torch.from_numpy(pictures()).float()).numpy()
    assert np.abs(exact_logits(graph, pictures()) * graph.output.logit_scale - wanted).max() < 0.04 * np.ptp(wanted)


@pytest.mark.slow
def test_a_file_is_compiled_to_hardware_that_gives_the_golden_models_scores(tmp_path):
    path = exported(seeded(MODELS["chain"]()), tmp_path / "mine.onnx")
    arguments = (path, "--data", data(tmp_path), "--work", tmp_path / "work", "--json", tmp_path / "result.json")
    done = subprocess.run(
        [sys.executable, "-m", "quant.compile", *map(str, arguments)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "result.json").read_text())
    assert (found["network"], found["equal"], found["simulated"]) == ("mine", 1, 1)
