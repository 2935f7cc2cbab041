"""Ready-made networks and weights from files."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from golden_model.config import PAPER
from golden_model.engines.run_network import GraphRunner
from quant import stages
from quant.capture.__main__ import captured
from quant.capture.capture import from_torch
from quant.networks import zoo as networks
from quant.networks.source import Inputs, Source
from quant.networks.weights import load_weights
from quant.options import Automatic
from quant.reference import exact_logits


@pytest.mark.parametrize(
    ("name", "parameters", "logits"),
    [
        ("lenet5", 61_706, 10),
        ("resnet20", 269_722, 10),
        ("resnet32", 464_154, 10),
        ("squeezenet", 1_235_496, 1000),
        ("resnet18", 11_689_512, 1000),
    ],
)
def test_networks_have_the_published_numbers_of_parameters(name, parameters, logits):
    ready = networks.ready(name)
    model = ready.make(ready.classes).eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.zeros(1, *ready.shape)).shape == (1, logits)


def test_parameters_have_the_names_of_pretrained_files():
    names = {name: set(networks.ready(name).make(10).state_dict()) for name in ("resnet20", "squeezenet", "resnet18")}
    assert {"layer2.0.conv1.weight", "layer3.2.bn2.running_var", "linear.bias"} <= names["resnet20"]
    assert {"features.3.expand3x3.weight", "features.12.squeeze.bias", "classifier.1.weight"} <= names["squeezenet"]
    assert {"layer2.0.downsample.1.running_mean", "layer4.1.conv2.weight", "fc.weight"} <= names["resnet18"]


@pytest.mark.parametrize(
    "name", ["resnet20", "vgg", *(pytest.param(name, marks=pytest.mark.slow) for name in ("squeezenet", "resnet18"))]
)
def test_ready_networks_run_exactly_on_the_crossbars(name):
    torch.manual_seed(0)
    ready = networks.ready(name)
    model = ready.make(10)
    images = np.random.default_rng(0).integers(0, 256, (4, *ready.shape)).astype(np.uint8)
    made = from_torch(model, ready.shape, PAPER, images, normalisation=ready.normalisation)
    assert (GraphRunner(made, engine="compiled").run(images[:1])[0] == exact_logits(made, images[:1])).all()


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="unknown network 'alexnet'; there are lenet5, resnet20"):
        networks.ready("alexnet")


# ---- weights ------------------------------------------------------------------------------------
def test_a_prefix_that_belongs_to_the_network_stays(tmp_path):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = small()

    model = Holder()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    load_weights(Holder(), tmp_path / "w.pt")
    torch.save({f"module.{k}": v for k, v in model.state_dict().items()}, tmp_path / "w.pt")
    load_weights(Holder(), tmp_path / "w.pt")


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return small().state_dict()


def save_npz(path, tensors):
    np.savez(path, **{name: t.numpy() for name, t in tensors.items() if "num_batches" not in name})


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("w.pt", lambda path, t: torch.save(t, path)),
        ("w.th", lambda path, t: torch.save({"state_dict": t, "epoch": 3}, path)),
        ("w.pth", lambda path, t: torch.save({"model": t}, path)),
        ("w.pt", lambda path, t: torch.save({"net": t, "acc": 0.5}, path)),
        ("w.pt", lambda path, t: torch.save({"model_state_dict": t, "optimizer": {}}, path)),
        ("w.npz", save_npz),
        ("w.safetensors", lambda path, t: save_file(t, path)),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.model."])
def test_weights_come_from_every_kind_of_file(tmp_path, name, save, prefix):
    save(tmp_path / name, {prefix + key: tensor for key, tensor in state().items()})
    model = small()
    load_weights(model, tmp_path / name)
    assert all(torch.equal(value, state()[key]) for key, value in model.state_dict().items())


def refuse(path, match):
    with pytest.raises(ValueError, match=match) as error:
        load_weights(small(), path)
    assert "\n" not in str(error.value)


def test_files_that_do_not_fit_are_refused_in_one_sentence(tmp_path):
    path = tmp_path / "w.pt"
    refuse(path, "there is no such file")
    path.write_bytes(b"not weights")
    refuse(path, "w.pt cannot be read as weights")
    torch.save([1, 2], path)
    refuse(path, "does not hold a state dict, .* it holds a list")
    torch.save({"epoch": 3, "weights": state()}, path)
    refuse(path, "under state_dict, model_state_dict, model, net: it holds the keys epoch, weights$")
    torch.save(small(), path)
    refuse(path, "it holds a whole network or other Python objects, whose code is not run; save model.state_dict")
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:-40])
    refuse(path, "it is no PyTorch file, or it is damaged")
    (tmp_path / "net.onnx").write_bytes(b"x")
    refuse(tmp_path / "net.onnx", "is an ONNX network")
    torch.save({k: v for k, v in state().items() if k != "0.bias"}, path)
    refuse(path, "it has no 0.bias$")
    torch.save({**state(), "2.weight": torch.zeros(1)}, path)
    refuse(path, "Sequential has no 2.weight$")
    torch.save({f"x{i}": torch.zeros(1) for i in range(9)}, path)
    refuse(path, r"it has no 0.weight, 0.bias, 1.weight and 3 more; Sequential has no x0, x1, x2 and 6 more")
    torch.save({**state(), "0.weight": torch.zeros(2, 1, 5, 5)}, path)
    refuse(path, r"0.weight must have shape \(2, 1, 3, 3\), it has \(2, 1, 5, 5\)")
    torch.save({**state(), "0.bias": torch.tensor([1.0, float("inf")])}, path)
    refuse(path, "0.bias holds a value that is not a finite number")
    torch.save({**state(), "0.weight": state()["0.weight"].to_sparse()}, path)
    refuse(path, "0.weight is sparse, quantised or without values")
    torch.save({**state(), "0.bias": torch.zeros(2, device="meta")}, path)
    refuse(path, "0.bias is sparse, quantised or without values")
    torch.save({**state(), "0.bias": torch.zeros(2, dtype=torch.int8)}, path)
    refuse(path, "0.bias must hold real numbers, it holds torch.int8")
    torch.jit.save(torch.jit.script(small()), path)
    refuse(path, "it holds a whole network or other Python objects, whose code is not run; save model.state_dict")
    for name in ("w.npz", "w.safetensors"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        refuse(tmp_path / name, f"{name} cannot be read as weights")


def test_code_in_a_weights_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"0.weight": Evil()}, tmp_path / "w.pt")
    refuse(tmp_path / "w.pt", "cannot be read as weights")


def test_a_network_of_the_users_is_made_by_its_file_and_what_that_imports_of_its_folder(tmp_path):
    (tmp_path / "net.py").write_text("import helper\nimport numpy\nfrom parts import head\n")
    (tmp_path / "helper.py").write_text("def f():\n    import late\n")
    (tmp_path / "late.py").write_text("")
    (tmp_path / "stranger.py").write_text("")
    (tmp_path / "parts").mkdir()
    for name, text in (
        ("__init__", ""),
        ("head", "from .tail import x\nfrom . import side"),
        ("tail", ""),
        ("side", ""),
    ):
        (tmp_path / "parts" / f"{name}.py").write_text(text)
    found = [file.relative_to(tmp_path).as_posix() for file in stages.sources_of_file(tmp_path / "net.py")]
    wanted = ["helper.py", "late.py", "net.py"] + [f"parts/{name}.py" for name in ("__init__", "head", "side", "tail")]
    assert found == wanted


def test_a_network_whose_forward_was_edited_is_captured_again(tmp_path, capsys):
    np.savez(tmp_path / "d.npz", images=np.arange(40 * 64, dtype=np.uint8).reshape(40, 8, 8), labels=np.arange(40) % 3)
    text = """
import torch
from torch import nn
from torch.nn import functional as F
from neighbour import scale

class N(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.c, self.f = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.f(F.relu(self.c(x)).mean((2, 3)) * scale)
"""
    (tmp_path / "neighbour.py").write_text("scale = 1.5")
    file, said = tmp_path / "own_net.py", []

    def capture() -> None:
        for name in ("own_net", "neighbour"):
            sys.modules.pop(name, None)
        source = Source.open(f"{file}:N", Inputs(data=tmp_path / "d.npz"))
        captured(source, tmp_path / "work", Automatic.AUTO, log=said.append)

    def again() -> bool:
        said.clear()
        capture()
        return "up to date" not in said[0]

    file.write_text(text)
    assert again()
    assert not again()
    file.write_text(text.replace("F.relu(self.c(x))", "F.max_pool2d(F.relu(self.c(x)), 2)"))
    assert again()
    (tmp_path / "neighbour.py").write_text("scale = 2.75  # as long")
    assert again()
    file.write_text(file.read_text() + "# such as a hook, which a traced graph does not show")
    assert again()
