"""Quantised files: their integers, widths and scales are the machine's, and nothing else is guessed for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="reading ONNX files needs the extra onnx")
pytest.importorskip("onnxruntime", reason="reading ONNX files needs the extra onnx")

from golden_model.config import HardwareConfig
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph
from quant.capture.capture import from_torch
from quant.networks import onnx_file
from quant.networks.pixels import Normalisation
from quant.reference import exact_logits
from tests.quant.test_import_network import HARDWARE, SHAPE, pictures
from tests.quant.test_onnx import captured, refused, weights, written

QONNX = "qonnx.custom_op.general"
WEIGHT, OUTPUT = np.float32(0.0713), np.float32(0.0197)  # scales of the second layer's weight and activation
FIRST, HEAD = np.float32(0.2), np.float32(0.003)


def quant(x: str, scale: str, bits: str, out: str, **attributes: Any) -> tuple[Any, ...]:
    words = {"signed": 0, "narrow": 0, "rounding_mode": "ROUND", **attributes}
    return "Quant", [x, scale, "zero", bits], [out], {"domain": QONNX, **words}


SIGNED = {"signed": 1, "narrow": 1}
NODES = [
    quant("x", "pixel", "b8", "xq"), quant("w1", "s1", "b4", "w1q", **SIGNED),
    ("Conv", ["xq", "w1q"], ["c1"], {"pads": [1] * 4}), ("Relu", ["c1"], ["r1"], {}), quant("r1", "sa", "b4", "a1"),
    ("MaxPool", ["a1"], ["p1"], {"kernel_shape": [2, 2], "strides": [2, 2]}), quant("w2", "s2", "b3", "w2q", **SIGNED),
    ("Conv", ["p1", "w2q", "bias"], ["c2"], {"pads": [1] * 4}), ("Relu", ["c2"], ["r2"], {}),
    ("MaxPool", ["r2"], ["p2"], {"kernel_shape": [2, 2], "strides": [2, 2]}), quant("p2", "sb", "b8", "a2"),
    ("Flatten", ["a2"], ["f"], {}), quant("w3", "s3", "b8", "w3q", **SIGNED), ("Transpose", ["w3q"], ["w3t"], {}),
    ("MatMul", ["f", "w3t"], ["y"], {}),
]  # fmt: skip
CONSTANTS = {
    "zero": np.float32(0), "b8": np.float32(8), "b4": np.float32(4), "b3": np.float32(3), "pixel": np.float32(1 / 255),
    "s1": np.random.default_rng(1).uniform(0.03, 0.08, (6, 1, 1, 1)).astype(np.float32), "s2": WEIGHT, "s3": HEAD,
    "sa": FIRST, "sb": OUTPUT, "w1": weights(6, 3, 3, 3), "w2": weights(8, 6, 3, 3), "w3": weights(5, 72),
    "bias": np.arange(-4, 4).astype(np.float32) * 9 * WEIGHT * FIRST,  # whole numbers of what a partial sum counts
}  # fmt: skip


def scores(path: Path) -> np.ndarray:
    """Of the file's executor, as whole numbers of products of the last two scales."""
    network = onnx_file.read(path)
    made = onnx_file.node_values(network, torch.tensor(pictures() / 255, dtype=torch.float32))["y"].double().numpy()
    units = made / (np.float64(HEAD) * np.float64(OUTPUT))
    assert np.abs(units - np.round(units)).max() < 0.05
    return np.round(units).astype(np.int64)


def equal(path: Path) -> Graph:
    made = captured(path)
    assert (exact_logits(made, pictures()) == scores(path)).all()
    assert (GraphRunner(made, engine="direct").run(pictures()[:2])[0] == scores(path)[:2]).all()
    return made


# ---- QONNX ----------------------------------------------------------------------------------------
@pytest.fixture
def _executor() -> None:
    pytest.importorskip("qonnx", reason="running Quant nodes needs the extra qonnx")


@pytest.mark.usefixtures("_executor")
def test_scores_are_those_of_the_qonnx_executor(tmp_path):
    made = equal(written(tmp_path, NODES, CONSTANTS))
    assert [type(node).__name__ for node in made.nodes] == ["Image", "Crossbar", "Crossbar", "Crossbar"]
    assert [node.encoding.bits for node in made.nodes[1:3]] == [4, 8]
    assert [float(node.encoding.scale) for node in made.nodes[1:3]] == pytest.approx([FIRST, OUTPUT])
    assert [int(np.abs(layer.weights).max()) for layer in made.layers] == [7, 3, 127]


@pytest.mark.usefixtures("_executor")
def test_a_scale_per_output_is_kept(tmp_path):
    made = captured(written(tmp_path, NODES, CONSTANTS))
    wanted = np.clip(np.round(CONSTANTS["w1"] / CONSTANTS["s1"]), -7, 7).reshape(6, -1).T
    assert (made.layers[0].weights == wanted).all()
    assert made.crossbars[0].step == pytest.approx(CONSTANTS["s1"].flatten())


@pytest.mark.usefixtures("_executor")
@pytest.mark.parametrize("scale", [WEIGHT, np.arange(1, 9).reshape(8, 1, 1, 1).astype(np.float32) * WEIGHT / 8])
def test_weights_of_a_sign_are_minus_1_or_1_and_0_is_1(scale, tmp_path):
    nodes = [
        ("BipolarQuant", ["w2", "s2"], ["w2q"], {"domain": QONNX}) if node[2] == ["w2q"] else node for node in NODES
    ]
    values = CONSTANTS["w2"].copy()
    values[:, 0] = 0
    made = equal(written(tmp_path, nodes, {**CONSTANTS, "w2": values, "s2": scale, "bias": np.zeros(8, np.float32)}))
    assert (made.layers[1].weights == np.where(values >= 0, 1, -1).reshape(8, -1).T).all()


@pytest.mark.usefixtures("_executor")
def test_a_bias_between_whole_numbers_moves_an_activation_by_one_at_most(tmp_path):
    nodes = list(NODES)
    at = next(i for i, node in enumerate(nodes) if node[2] == ["r2"])
    nodes[at : at + 1] = [
        ("BatchNormalization", ["c2", "g", "b", "mean", "var"], ["n"], {}),
        ("Relu", ["n"], ["r2"], {}),
    ]
    rng = np.random.default_rng(2)
    norm = {name: rng.uniform(0.5, 1.5, 8).astype(np.float32) for name in ("g", "b", "mean", "var")}
    path = written(tmp_path, nodes, {**CONSTANTS, **norm})
    made, floats = captured(path), torch.tensor(pictures() / 255, dtype=torch.float32)
    wanted = np.round(onnx_file.node_values(onnx_file.read(path), floats)["a2"].numpy() / OUTPUT).astype(int)
    found = GraphRunner(made, engine="direct").outputs(pictures())["my_c2"].astype(int)
    assert np.abs(found - wanted).max() == 1


@pytest.mark.usefixtures("_executor")
def test_a_quantiser_that_repeats_another_is_no_step_of_its_own(tmp_path):
    nodes = list(NODES)
    at = next(i for i, node in enumerate(nodes) if node[2] == ["p1"])
    nodes[at : at + 1] = [quant("a1", "sa", "b4", "again"), ("MaxPool", ["again"], ["p1"], nodes[at][3])]
    assert len(equal(written(tmp_path, nodes, CONSTANTS)).nodes) == 4


def off_by_one_at_most(path: Path, theirs: str, made: Graph, ours: str, least: int, step: float) -> None:
    """Of an activation, named in the file and in the graph: a zero point goes into a bias, and is rounded there."""
    floats = torch.tensor(pictures() / 255, dtype=torch.float32)
    wanted = onnx_file.node_values(onnx_file.read(path), floats)[theirs].numpy()
    found = GraphRunner(made, engine="direct").outputs(pictures())[ours].astype(int)
    difference = found - (np.round(wanted / step).astype(int) - least)
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.01


@pytest.mark.usefixtures("_executor")
@pytest.mark.parametrize("relu", [False, True])
def test_signed_activations_keep_their_zero_point(relu, tmp_path):
    changed = {"a1": quant("r1" if relu else "c1", "sa", "b5", "a1", signed=1)}
    nodes = [changed.get(node[2][0], node) for node in NODES if relu or node[2] != ["r1"]]
    path = written(tmp_path, nodes, {**CONSTANTS, "b5": np.float32(5)})
    made = captured(path)
    name = "my_a1" if relu else "my_c1"  # a layer has one clamp, so the second one is a step
    assert made.node(name).encoding.zero == 16
    assert made.node(name).encoding.bits == 5
    off_by_one_at_most(path, "a1" if relu else "p1", made, name, -16, FIRST)


@pytest.mark.usefixtures("_executor")
@pytest.mark.parametrize(("bits", "most"), [(2, 1), (4, 7), (8, 127)])
def test_narrow_signed_activations_are_a_table_in_their_layer(bits, most, tmp_path):
    nodes = [quant("c1", "sn", "bn", "a1", **SIGNED) if node[2] == ["a1"] else node for node in NODES]
    more = {"bn": np.float32(bits), "sn": np.float32(1 / most)}
    path = written(tmp_path, [node for node in nodes if node[2] != ["r1"]], {**CONSTANTS, **more})
    made = captured(path)
    assert [type(node).__name__ for node in made.nodes] == ["Image", "Crossbar", "Crossbar", "Crossbar"]
    codes = GraphRunner(made, engine="direct").outputs(pictures())["my_c1"]
    assert (codes.min(), codes.max()) == (0, 2 * most)
    off_by_one_at_most(path, "p1", made, "my_c1", -most, 1 / most)


@pytest.mark.usefixtures("_executor")
def test_a_narrow_activation_behind_a_relu_is_one_table_and_rounded_once(tmp_path):
    nodes = [quant("r1", "sa", "b4", "a1", narrow=1) if node[2] == ["a1"] else node for node in NODES]
    made = equal(written(tmp_path, nodes, {**CONSTANTS, "sa": FIRST / 2}))
    assert [type(node).__name__ for node in made.nodes] == ["Image", "Crossbar", "Crossbar", "Crossbar"]
    assert GraphRunner(made, engine="direct").outputs(pictures())["my_c1"].max() == 14


@pytest.mark.usefixtures("_executor")
def test_a_relu_in_front_of_a_narrow_signed_activation_is_not_lost(tmp_path):
    nodes = [quant("r1", "sa", "b4", "a1", **SIGNED) if node[2] == ["a1"] else node for node in NODES]
    path = written(tmp_path, nodes, CONSTANTS)
    made = captured(path)
    assert made.node("my_a1").encoding.zero == 7
    off_by_one_at_most(path, "a1", made, "my_a1", -7, FIRST)


@pytest.mark.usefixtures("_executor")
def test_a_function_behind_a_narrow_activation_takes_its_integers(tmp_path):
    nodes = [quant("c1", "sa", "b4", "q1", **SIGNED) if node[2] == ["r1"] else node for node in NODES]
    nodes = [("Tanh", ["q1"], ["a1"], {}) if node[2] == ["a1"] else node for node in nodes]
    path = written(tmp_path, nodes, CONSTANTS)
    made = captured(path)
    assert made.node("my_c1").encoding.bits == 4
    off_by_one_at_most(path, "q1", made, "my_c1", -7, FIRST)


@pytest.mark.usefixtures("_executor")
def test_a_narrow_activation_keeps_its_steps_in_a_concatenation(tmp_path):
    nodes = [quant("r1", "sa", "b4", "n1", narrow=1) if node[2] == ["a1"] else node for node in NODES]
    at = next(i for i, node in enumerate(nodes) if node[2] == ["n1"])
    nodes[at + 1 : at + 1] = [quant("r1", "s2x", "b4", "o1"), ("Concat", ["n1", "o1"], ["a1"], {"axis": 1})]
    more = {"s2x": np.float32(0.4), "w2": weights(8, 12, 3, 3)}
    made = captured(written(tmp_path, nodes, {**CONSTANTS, **more}))
    narrow = next(node for node in made.nodes if getattr(node, "lookup", None) is not None)
    assert float(narrow.encoding.scale) == pytest.approx(FIRST)


@pytest.mark.usefixtures("_executor")
def test_a_quantiser_of_the_scores_is_left_out(tmp_path):
    nodes = [*NODES[:-1], ("MatMul", ["f", "w3t"], ["z"], {}), quant("z", "sa", "b8", "y", **SIGNED)]
    made = captured(written(tmp_path, nodes, CONSTANTS))
    plain = captured(written(tmp_path, NODES, CONSTANTS))
    assert (exact_logits(made, pictures()) == exact_logits(plain, pictures())).all()


@pytest.mark.usefixtures("_executor")
def test_a_quantiser_that_changes_the_pixels_is_found_by_the_executor(tmp_path):
    path = written(tmp_path, NODES, {**CONSTANTS, "pixel": np.float32(1 / 128)})
    refused(path, r"layer 'my_xq': the captured network differs from the network itself by .* Quant of opset 13")


def with_activation(folder: Path, **changed: Any) -> Path:
    """The network with another quantiser of its first activation."""
    constants = {**CONSTANTS, "s": changed.pop("scale", FIRST), "z": np.float32(changed.pop("zero", 0)),
                 "b": np.float32(changed.pop("bits", 4))}  # fmt: skip
    nodes = list(NODES)
    at = next(i for i, node in enumerate(nodes) if node[2] == ["a1"])
    name = changed.pop("operator", "Quant")
    words = {"domain": QONNX, "signed": 0, "narrow": 0, "rounding_mode": "ROUND", **changed}
    nodes[at] = (name, ["r1", "s", "z", "b"][: 2 if name == "BipolarQuant" else 4], ["a1"], words)
    return written(folder, nodes, constants)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"bits": 9}, r"node 'my/a1': Quant of opset 13: an activation must be one of at most 256 integers"),
        ({"zero": -3}, "it is one of 16, which stand for 0.6 to 3.6 in steps of 0.2"),
        ({"bits": 9, "narrow": 1}, "it is one of 511, which stand for 0 to 102 in steps of 0.2"),
        ({"rounding_mode": "FLOOR"}, "rounded to the nearest integer, not FLOOR"),
        ({"rounding_mode": "ODD"}, "rounding_mode must be one of ROUND, HALF_EVEN, HALF_UP, FLOOR, CEIL, got ODD"),
        ({"scale": np.full((1, 6, 1, 1), FIRST)}, "must have one scale and one zero point"),
        ({"bits": 2.5}, "its bit width must be a whole number up to 32, got 2.5"),
        (
            {"operator": "BipolarQuant"},
            r"BipolarQuant of opset 13: an activation of -1 or 1 has no 0 .* only weights are supported",
        ),
        ({"operator": "Trunc"}, "Trunc of opset 13: it is not supported"),
    ],
)
def test_a_quantiser_that_the_machine_does_not_have_is_refused(changed, match, tmp_path):
    refused(with_activation(tmp_path, **changed), match)


def test_weights_that_the_machine_does_not_have_are_refused(tmp_path):
    bits = {**CONSTANTS, "b4": np.float32(1)}
    refused(written(tmp_path, NODES, bits), "node 'my/w1q': Quant .* a sign and no more is BipolarQuant")
    scale = np.full((6, 3, 1, 1), 0.05, np.float32)
    scale[0, 0] = 0.04
    refused(written(tmp_path, NODES, {**CONSTANTS, "s1": scale}), "'my/c1': Conv .* one scale, or one per output")


@pytest.mark.usefixtures("_executor")
def test_weights_that_are_too_wide_for_a_machine_are_refused(tmp_path):
    network = onnx_file.read(written(tmp_path, NODES, CONSTANTS))
    small = HardwareConfig(rows=18, cols=8, ou_rows=9, ou_cols=4, weight_bits=5)
    with pytest.raises(ValueError, match=r"weight_bits|widths"):
        from_torch(network, SHAPE, small, pictures(), weight_bits=5)


@pytest.mark.usefixtures("_executor")
def test_deviations_per_channel_cannot_go_into_integers_that_are_given(tmp_path):
    nodes = [(name, [x if x != "xq" else "x" for x in given], *more) for name, given, *more in NODES[1:]]
    network = onnx_file.read(written(tmp_path, nodes, CONSTANTS))
    one, three = (Normalisation(mean=(0.0,) * 3, std=std) for std in ((0.5,) * 3, (0.5, 0.4, 0.5)))
    from_torch(network, SHAPE, HARDWARE, pictures(), normalisation=one)
    with pytest.raises(ValueError, match=r"layer 'my_c1': its weight has integers of its own, .* give one --std"):
        from_torch(network, SHAPE, HARDWARE, pictures(), normalisation=three)


# ---- QuantizeLinear, DequantizeLinear -------------------------------------------------------------
def linear_nodes(kind: type) -> tuple[list[Any], dict[str, Any]]:
    """The same network as integers of onnxruntime. kind : numpy type of the activations."""
    least = np.iinfo(kind).min
    constants: dict[str, Any] = {"az": np.array(least, kind), "pixel": CONSTANTS["pixel"], "sb": OUTPUT,
                                 "sa": np.float32(0.01), "s1": CONSTANTS["s1"].flatten(), "s2": WEIGHT, "s3": HEAD,
                                 "wz1": np.zeros(6, np.int8), "wz": np.int8(0)}  # fmt: skip
    constants["bs"] = WEIGHT * constants["sa"]
    for name, scale in (("w1", CONSTANTS["s1"]), ("w2", WEIGHT), ("w3", HEAD)):
        constants[name] = np.clip(np.round(CONSTANTS[name] / scale), -127, 127).astype(np.int8)
    constants["w3"] = np.ascontiguousarray(constants["w3"].T)
    constants["bias"] = np.arange(-40, 40, 10).astype(np.int32)

    def pair(x: str, scale: str, out: str) -> list[Any]:
        return [
            ("QuantizeLinear", [x, scale, "az"], [f"{out}i"], {}),
            ("DequantizeLinear", [f"{out}i", scale, "az"], [out], {}),
        ]

    nodes = [
        *pair("x", "pixel", "xq"), ("DequantizeLinear", ["w1", "s1", "wz1"], ["w1q"], {"axis": 0}),
        ("Conv", ["xq", "w1q"], ["c1"], {"pads": [1] * 4}), ("Relu", ["c1"], ["r1"], {}), *pair("r1", "sa", "a1"),
        ("MaxPool", ["a1"], ["p1"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("DequantizeLinear", ["w2", "s2", "wz"], ["w2q"], {}), ("DequantizeLinear", ["bias", "bs"], ["b2"], {}),
        ("Conv", ["p1", "w2q", "b2"], ["c2"], {"pads": [1] * 4, "strides": [2, 2]}), ("Relu", ["c2"], ["r2"], {}),
        *pair("r2", "sb", "a2"), ("Flatten", ["a2"], ["f"], {}), ("DequantizeLinear", ["w3", "s3", "wz"], ["w3q"], {}),
        ("Gemm", ["f", "w3q"], ["y"], {}),
    ]  # fmt: skip
    return nodes, constants


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_scores_are_those_of_onnxruntime_for_a_network_of_integers(kind, tmp_path):
    made = equal(written(tmp_path, *linear_nodes(kind)))
    assert [type(node).__name__ for node in made.nodes] == ["Image", "Crossbar", "Crossbar", "Crossbar"]


def test_integers_must_become_numbers_again(tmp_path):
    nodes, constants = linear_nodes(np.uint8)
    at = next(i for i, node in enumerate(nodes) if node[2] == ["a1"])
    nodes[at] = ("MaxPool", ["a1i"], ["a1"], {"kernel_shape": [1, 1]})
    refused(written(tmp_path, nodes, constants), "node 'my/a1': MaxPool .* can only be taken by DequantizeLinear")
    nodes[at] = ("DequantizeLinear", ["a1i", "sb", "az"], ["a1"], {})
    refused(written(tmp_path, nodes, constants), "its scale and zero point must be those of QuantizeLinear")


@pytest.mark.parametrize(("kind", "zero"), [(np.uint8, 77), (np.int8, 0)])
def test_signed_activations_are_those_of_onnxruntime(kind, zero, tmp_path):
    nodes, constants = linear_nodes(np.uint8)
    other = {"r1": "c1", "az": "signed"}
    signed = [
        (name, [other.get(x, x) for x in inputs] if out[0] in ("a1", "a1i") else inputs, out, words)
        for name, inputs, out, words in nodes
        if out != ["r1"]
    ]
    path = written(tmp_path, signed, {**constants, "signed": np.array(zero, kind)})
    made, least = captured(path), int(np.iinfo(kind).min) - zero
    off_by_one_at_most(path, "p1", made, "my_c1", least, 0.01)
    assert made.crossbars[0].encoding.zero == -least
    assert float(made.crossbars[0].encoding.scale) == pytest.approx(0.01)
