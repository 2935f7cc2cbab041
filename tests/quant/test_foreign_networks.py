"""Public networks that nobody wrote for this project: they agree with the float network, or are refused by name.

Weights are random, as the packages make them; batch norms get the statistics of the pictures, so that every layer has
a useful range.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from golden_model.config import PAPER
from quant.capture.capture import captured, from_torch
from quant.capture.emit import Emitter
from quant.capture.passes import Simplifier, compare_with_network
from quant.capture.trace import compare_with_file
from quant.networks import onnx_file
from quant.networks.pixels import Normalisation
from quant.reference import _compute

pytestmark = pytest.mark.slow
NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PRODUCT, GROW = "not a second tensor of the network", "a map cannot grow"
STATISTICS, AXES = "statistics of the picture itself", "axes can only be exchanged to shuffle channels"
BORDER, SIZE = "count_include_pad", "must divide its input's"

#: Package and name -> "" where it is imported, or words of its refusal.
TORCHVISION = {
    "alexnet": "", "vgg11": SIZE, "vgg11_bn": SIZE, "resnet18": "", "resnet34": "", "resnet50": "",
    "wide_resnet50_2": "", "resnext50_32x4d": "", "squeezenet1_0": "", "squeezenet1_1": "", "densenet121": "",
    "googlenet": "", "inception_v3": "", "mobilenet_v2": "", "mnasnet0_5": "", "mnasnet1_0": "",
    "shufflenet_v2_x0_5": "", "shufflenet_v2_x1_0": "", "regnet_x_400mf": "", "regnet_x_800mf": "",
    "mobilenet_v3_small": PRODUCT, "regnet_y_400mf": PRODUCT, "efficientnet_b0": PRODUCT,
    "efficientnet_v2_s": "stochastic_depth", "convnext_tiny": AXES, "swin_t": AXES,
}  # fmt: skip
TIMM = {
    "resnet10t": "", "resnet14t": "", "resnet18d": "", "resnet26": "", "resnet26d": "", "dla34": "", "dla46_c": "",
    "dla60x_c": "", "repvgg_a0": "", "vovnet39a": "", "selecsls42b": "", "xception41": "", "mobilenetv2_050": "",
    "mobilenetv2_100": "", "spnasnet_100": "", "fbnetc_100": "", "efficientnet_lite0": "", "regnetx_002": "",
    "regnetx_004": "", "gernet_s": "", "res2net50_14w_8s": "", "nf_resnet26": "", "resnetv2_50": "", "test_resnet": "",
    "seresnet18": PRODUCT, "darknet17": "", "cspresnet50": "", "hardcorenas_a": PRODUCT, "mnasnet_small": PRODUCT,
    "tinynet_e": PRODUCT, "ghostnet_050": PRODUCT, "lcnet_050": PRODUCT, "mixnet_s": PRODUCT, "regnety_002": PRODUCT,
    "resnext26ts": "", "dpn48b": "", "fasternet_t0": "", "legacy_seresnet18": PRODUCT, "rexnet_100": PRODUCT,
    "ese_vovnet19b_dw": PRODUCT, "hrnet_w18_small": GROW, "inception_v4": BORDER, "skresnet18": "dilation",
    "resnetblur18": "only a border of zeros",
}  # fmt: skip
#: Light versions of public files, which come with the package onnx: the shapes of the network, constant weights.
FILES = {
    "densenet121": "", "resnet50": "", "squeezenet": "", "bvlc_alexnet": STATISTICS, "inception_v1": STATISTICS,
    "inception_v2": BORDER, "shufflenet": BORDER, "vgg19": "its partial sums need 33 bits", "zfnet512": STATISTICS,
}  # fmt: skip
#: Exported as ONNX files, too.
EXPORTED = ("resnet18", "squeezenet1_1", "mobilenet_v2", "shufflenet_v2_x0_5", "googlenet", "regnet_x_400mf")
SIZES = {"alexnet": 224, "inception_v3": 96, "inception_v4": 96}


def pictures(size: int) -> np.ndarray:
    """Coarse coloured squares, so that pictures differ in more than noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4 if size < 200 else 2, 3, 8, 8)).repeat(size // 8, 2).repeat(size // 8, 3)
    return np.clip(coarse + rng.integers(-20, 21, coarse.shape), 0, 255).astype(np.uint8)


def settled(model: nn.Module, images: np.ndarray) -> nn.Module:
    """The network in evaluation mode, its batch norms with the statistics of the images."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model.train()(NORMALISATION.apply(torch.tensor(images, dtype=torch.float32)))
    return model.eval()


def made(package: str, name: str) -> tuple[nn.Module, np.ndarray]:
    torch.manual_seed(0)
    images = pictures(SIZES.get(name, 64))
    if package == "timm":
        timm = pytest.importorskip("timm", reason="these networks are in the package timm")
        return settled(timm.create_model(name, pretrained=False, num_classes=10), images), images
    models = pytest.importorskip("torchvision", reason="these networks are in the package torchvision").models
    more = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return settled(getattr(models, name)(weights=None, num_classes=10, **more), images), images


@torch.no_grad()
def agrees(model: nn.Module, images: np.ndarray, normalisation: Normalisation) -> None:
    """Operators give in floating point what the network gives, and every layer of integers gives what its operator
    gives in floating point for the same inputs: weights have 7 bits, and a bias is a whole number of steps.
    """
    module, seen, ops, output = captured(model, images, normalisation)
    ops = Simplifier(ops, output).simplify()
    compare_with_network(ops, module, seen)
    network = Emitter(ops, PAPER, normalisation, weight_bits=7, activation_bits=8).emit("foreign", ())
    pixels = torch.tensor(images[:2], dtype=torch.float32)
    integers, real = {network.image.name: pixels}, {network.image.name: normalisation.apply(pixels)}
    worst = usual = 0.0
    for node in network.nodes[1:]:
        integers[node.name] = _compute(node, [integers[name] for name in node.inputs])
        sums = node is network.output and (getattr(node, "sums", False) or getattr(node, "last", False))
        scale, zero = (network.output.logit_scale, 0) if sums else (node.encoding.scale, node.encoding.zero)
        made = (integers[node.name].double() - zero) * scale
        wanted = ops[node.name].compute([real[name] for name in node.inputs])
        real[node.name] = made.float().reshape(wanted.shape)
        span = node.encoding.high - node.encoding.low
        wanted = wanted.clamp(node.encoding.low, node.encoding.high) if not sums else wanted
        off = (real[node.name] - wanted).abs() / span
        worst, usual = max(worst, float(off.max())), max(usual, float(off.mean()))
        assert worst < 0.2, node.name
        assert usual < 0.02, node.name
    print(f"{len(network.nodes)} nodes, layers differ by {worst:.3f} of their range at most, {usual:.3f} on average")


def checked(model: nn.Module, images: np.ndarray, words: str) -> None:
    if not words:
        return agrees(model, images, NORMALISATION)
    with pytest.raises(ValueError, match=words) as error:
        from_torch(model, images.shape[1:], PAPER, images, normalisation=NORMALISATION)
    assert "\n" not in str(error.value)


def test_there_are_more_than_fifty():
    assert len({*TORCHVISION, *TIMM}) + len(FILES) > 50


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_network_of_torchvision(name):
    checked(*made("torchvision", name), TORCHVISION[name])


@pytest.mark.parametrize("name", TIMM)
def test_a_network_of_timm(name):
    checked(*made("timm", name), TIMM[name])


@pytest.mark.parametrize("name", EXPORTED)
def test_a_network_of_torchvision_as_a_file(name, tmp_path):
    pytest.importorskip("onnxruntime", reason="reading ONNX files needs the extra onnx")
    model, images = made("torchvision", name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape = (1, *images.shape[1:])
        torch.onnx.export(model, (torch.zeros(shape),), str(tmp_path / "net.onnx"), opset_version=17, dynamo=False)
    network = onnx_file.read(tmp_path / "net.onnx")
    compare_with_file(network, images, NORMALISATION)
    agrees(network, images, NORMALISATION)


@pytest.mark.parametrize("name", FILES)
def test_a_public_file(name):
    onnx = pytest.importorskip("onnx", reason="reading ONNX files needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="reading ONNX files needs the extra onnx")
    path = Path(onnx.__file__).parent / f"backend/test/data/light/light_{name}.onnx"
    images = pictures(onnx_file.input_shape(path)[1])[:1]

    def network() -> None:
        from_torch(onnx_file.read(path), images.shape[1:], PAPER, images)

    if not FILES[name]:  # weights are all alike, so scores are, too: the layers say it all
        return network()
    with pytest.raises(ValueError, match=FILES[name]):
        network()
