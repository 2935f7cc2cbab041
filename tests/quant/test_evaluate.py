"""The command that measures a network: what it prints, and what it refuses."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from golden_model.engines.run_network import GraphRunner
from quant import evaluate
from quant.networks import user
from quant.networks import zoo as networks
from quant.networks.weights import load_weights
from quant.networks.zoo import LeNet5

OWN = """
import torch
from torch import nn

def make():
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = make()
    def forward(self, x):
        return self.body(x), x

class Named(Two):
    def forward(self, x):
        return {"out": self.body(x)}

class Flat(Two):
    def forward(self, x):
        return self.body(x).flatten()

class Map(Two):
    def forward(self, x):
        return x

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))

def half():
    return make().bfloat16()

def colour():
    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(432, 4))

def leaves():
    raise SystemExit(0)

def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(196, 3))

not_a_network = make
broken = int
"""


@pytest.fixture
def files(tmp_path):
    """Weights of a random LeNet-5, 40 images of 28 x 28 and of 14 x 14."""
    torch.manual_seed(0)
    torch.save(LeNet5().state_dict(), tmp_path / "lenet.pt")
    rng = np.random.default_rng(0)
    for size in (28, 14):
        images = rng.integers(0, 256, (40, size, size)).astype(np.uint8)
        np.savez(tmp_path / f"{size}.npz", images=images, labels=rng.integers(0, 4, 40))
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def call(*arguments: str):
    return CliRunner().invoke(evaluate.app, [str(a) for a in arguments])


def lenet(files, *more):
    return call("--model", "lenet5", "--weights", files / "lenet.pt", "--data", files / "28.npz", *more)


def test_a_ready_network_is_measured(files):
    done = lenet(files, "--images", 20, "--golden-images", 2, "--engine", "direct", "--json", files / "out.json")
    assert done.exit_code == 0, done.output
    result = json.loads((files / "out.json").read_text())
    assert result["images"] == 20
    assert result["golden_model"]["logits_equal"]
    conversions = result["golden_model"]["per_image"]["network"]["conversions"]
    layers = result["golden_model"]["per_image"]["layers"]
    assert conversions == sum(layer["conversions"] for layer in layers.values())
    assert list(layers) == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert result["calibration_images_are_test_images"]
    for text in ("float accuracy", "integer accuracy", "logits equal", f"{conversions:,.0f} A/D"):
        assert text in done.stderr.replace("\n", " ")


def test_the_accuracy_is_the_share_of_right_predictions(files):
    model = LeNet5()
    load_weights(model, files / "lenet.pt")
    with np.load(files / "28.npz") as data:
        images, labels = data["images"][:, None], data["labels"]
    logits = evaluate.float_logits(model, images, networks.ready("lenet5").normalisation)
    lenet(files, "--golden-images", 0, "--json", files / "out.json")
    result = json.loads((files / "out.json").read_text())
    assert result["float_accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())
    assert "golden_model" not in result


def test_a_network_is_measured_on_the_pair_machine(files):
    found = {}
    for hardware in ("paper", "paper-pairs"):
        more = ("--images", 4, "--golden-images", 1, "--hardware", hardware, "--json", files / "out.json")
        done = lenet(files, *more)
        assert done.exit_code == 0, done.output
        found[hardware] = json.loads((files / "out.json").read_text())
    planes, pairs = found.values()
    assert pairs["hardware"]["machine"] == "pairs"
    assert pairs["golden_model"]["logits_equal"]
    assert pairs["integer_accuracy"] == planes["integer_accuracy"]
    counted = [one["golden_model"]["per_image"]["network"]["conversions"] for one in (planes, pairs)]
    assert 0 < counted[1] < counted[0]


def test_an_engine_that_the_pair_machine_does_not_have_is_refused(files):
    done = lenet(files, "--images", 4, "--hardware", "paper-pairs", "--engine", "patterns")
    assert done.exit_code == 2
    words = "engine must be 'auto', 'direct' or 'compiled' on the pair machine, got 'patterns'"
    assert words in " ".join(done.stderr.split())


def test_a_network_of_ones_own_is_measured(files):
    done = call(
        "--model", f"{files / 'own.py'}:make", "--data", files / "14.npz", "--mean", "0.5", "--std", "0.25",
        "--golden-images", 3, "--activation-bits", 6, "--weight-bits", 4,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "6-bit activations, sign + 4-bit weights" in done.stderr.replace("\n", " ")


def test_a_network_of_fewer_bits_is_measured_in_32(files):
    done = call("--model", f"{files / 'own.py'}:half", "--data", files / "14.npz", "--golden-images", 0)
    assert done.exit_code == 0, done.output


def test_a_golden_model_that_differs_is_a_failed_check(files, monkeypatch):
    right = GraphRunner.run

    def wrong(self, *arguments, **options):
        logits, events = right(self, *arguments, **options)
        return logits + 1, events

    monkeypatch.setattr(GraphRunner, "run", wrong)
    done = lenet(files, "--images", 4, "--golden-images", 2, "--engine", "direct")
    assert done.exit_code == 1
    assert "NOT EQUAL" in done.stderr


def test_the_engine_for_gpus_counts_the_same_on_the_processor(files):
    found = {}
    for engine in (("compiled",), ("torch", "--device", "cpu")):
        done = lenet(files, "--images", 4, "--golden-images", 2, "--engine", *engine, "--json", files / "out.json")
        assert done.exit_code == 0, done.output
        found[engine[0]] = json.loads((files / "out.json").read_text())["golden_model"]
    assert "on the processor, through torch" in done.stderr.replace("\n", " ")
    assert found["torch"]["logits_equal"]
    assert found["torch"]["per_image"] == found["compiled"]["per_image"]


def test_bad_input_is_told_in_one_sentence(files, monkeypatch):
    monkeypatch.setattr(evaluate.torch_engine, "gpu_present", lambda: False)
    small = ("--data", files / "14.npz")
    data, weights = ("--data", files / "28.npz"), ("--weights", files / "lenet.pt")
    cases = [
        (("--model", "alexnet", *data), "unknown network 'alexnet'"),
        (("--model", "lenet5", *data), "--weights is needed: lenet5 has no weights of its own"),
        (("--model", "lenet5", *weights, "--data", files / "14.npz"), "not fit the network: fc1.weight must"),
        (("--model", "resnet20", *weights, *data), "images are (1, 28, 28), resnet20 takes (3, 32, 32)"),
        (("--model", "lenet5", *weights, *data, "--hardware", "big"), "--hardware must be one of"),
        (("--model", "lenet5", *weights, *data, "--channels", "2"), "--channels must be one of 1, 3, got 2"),
        (("--model", "lenet5", *weights, *data, "--engine", "gpu"), "--engine must be one of auto, compiled, torch"),
        (("--model", "lenet5", *weights, *data, "--engine", "torch"), "--engine torch needs a GPU that torch can use"),
        (("--model", "lenet5", *weights, *data, "--device", "cpu"), "--device is cuda or cpu, and goes with --engine"),
        (("--model", "lenet5", *weights, *data, "--engine", "torch", "--device", "tpu"), "got 'tpu' and --engine"),
        (("--model", "lenet5", *weights, *data, "--mean", "a,b"), "--mean must be numbers between commas"),
        (("--model", "lenet5", *weights, *data, "--std", "1,1"), "--std must be 1 or 1 numbers, got 2"),
        (("--model", f"{files}/none.py:make", *data), "none.py is not a file"),
        (("--model", f"{files}/own.py:broken", *data), "must give a torch.nn.Module, got int"),
        (("--model", f"{files}/own.py:missing", *data), "own.py:missing cannot be made: AttributeError"),
        (("--model", f"{files}/own.py:leaves", *data), "own.py:leaves cannot be made: SystemExit"),
        (("--model", f"{files}/own.py:Two", *small), "the network Two must return one tensor, it returns a tuple"),
        (("--model", f"{files}/own.py:Named", *small), "the network Named must return one tensor, it returns a dict"),
        (("--model", f"{files}/own.py:Flat", *small), "the network Flat must return one row for each of 1 pictures"),
        (("--model", f"{files}/own.py:Map", *small), "Map must return scores of classes, it returns 1x14x14 maps"),
        (("--model", f"{files}/own.py:lazy", *small), "the network's '1.weight' has no shape yet"),
        (("--model", f"{files}/own.py:colour", *small), "cannot be run on pictures of 1x14x14: RuntimeError"),
        (("--model", f"{files}/own.py:make", *data), "Sequential cannot be run on pictures of 1x28x28: RuntimeError"),
        (("--model", f"{files}/own.py:three", *small), "has label 3, but the network has 3 outputs, for labels 0..2"),
        (("--model", "net.onnx", *data), "net.onnx is not a file"),
        (("--model", "lenet5", *weights, "--data", files / "nothing"), "there is no such file or directory"),
    ]
    for arguments, message in cases:
        done = call(*arguments)
        assert done.exit_code == 2, done.output
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_a_network_may_import_its_neighbours(files, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "blocks_of_mine.py").write_text(OWN)
    (folder / "net.py").write_text("from blocks_of_mine import make")
    monkeypatch.chdir(files)
    done = call("--model", f"{folder / 'net.py'}:make", "--data", files / "14.npz", "--golden-images", 0)
    assert done.exit_code == 0, done.output


def test_a_file_may_have_the_name_of_a_module(files):
    (files / "statistics.py").write_text(OWN)
    import statistics

    made = user.make(f"{files / 'statistics.py'}:make")
    assert isinstance(made, torch.nn.Module)
    assert sys.modules["statistics"] is statistics


def test_the_order_of_the_classes_is_printed(files):
    rng = np.random.default_rng(0)
    for name in ("10", "2", "[b]x", "1"):
        (files / "pictures" / name).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (14, 14)).astype(np.uint8)).save(files / "pictures" / name / "1.png")
    done = call("--model", f"{files / 'own.py'}:make", "--data", files / "pictures", "--golden-images", 0)
    assert done.exit_code == 0, done.output
    assert "labels            0 1, 1 10, 2 2, 3 [b]x" in done.stderr
