"""torch.export programs: they become the integers that their networks become; what is refused."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from golden_model.graph.network import Graph
from golden_model.graph.nodes import Crossbar
from quant.capture.__main__ import captured as capture
from quant.capture.capture import from_torch
from quant.capture.errors import UnsupportedOperator
from quant.networks import program_file, zoo
from quant.networks.source import Inputs, Source
from quant.options import Automatic
from quant.reference import exact_logits
from quant.training.prepare import prepare
from tests.quant.test_import_network import (
    HARDWARE,
    MODELS,
    NORMALISATION,
    SHAPE,
    conv,
    fc,
    pictures,
    seeded,
    sequential,
)

DYNAMIC = ({0: torch.export.Dim.DYNAMIC},)


def written(model: nn.Module, path: Path, shape=SHAPE, *, batch: int = 2, decomposed: bool = False, **values: Any):
    """The network as a file; batch : of the example. decomposed : into ATen's core operators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (torch.rand(batch, *shape),), **values)
        torch.export.save(program.run_decompositions() if decomposed else program, path)
    return path


def parts(graph: Graph) -> list[tuple[Any, ...]]:
    """What every node of a graph is, with the names of layers; what has no weights may be called otherwise."""
    names = {n.name: n.name if isinstance(n, Crossbar) else str(i) for i, n in enumerate(graph.nodes)}
    made = []
    for node in graph.nodes:
        layers = node.layers if isinstance(node, Crossbar) else ()
        numbers = [(a.weights.tolist(), a.bias.tolist(), a.multipliers.tolist(), a.shift, a.stride, a.pad, a.pool)
                   for a in layers]  # fmt: skip
        inputs = [names[one] for one in node.inputs]
        made.append((type(node), names[node.name], inputs, node.shape, node.encoding, numbers))
    return made


def mobile() -> nn.Module:
    """An inverted residual with its ReLU6, and with Hardswish as in its third version."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = sequential(
                conv(6, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6(inplace=True),
                conv(12, 12, groups=12, bias=False), nn.BatchNorm2d(12), nn.Hardswish(),
                conv(12, 6, 1, bias=False), nn.BatchNorm2d(6),
            )  # fmt: skip

        def forward(self, x):
            return x + self.body(x)

    return sequential(
        conv(3, 6), nn.BatchNorm2d(6), nn.ReLU6(inplace=True), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(), fc(6),
    )  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_program_becomes_the_integers_that_its_network_becomes(name, tmp_path):
    model = seeded(MODELS[name]())
    made = program_file.read(written(model, tmp_path / "net.pt2"))
    graphs = [
        from_torch(network, SHAPE, HARDWARE, pictures(), normalisation=NORMALISATION, name="net")
        for network in (model, made)
    ]
    unnamed = [[(kind, *others) for kind, _, _, *others in parts(graph)] for graph in graphs]
    assert unnamed[1] == unnamed[0]
    wanted, got = (exact_logits(graph, pictures()) for graph in graphs)
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize("values", [{"batch": 1}, {"dynamic_shapes": DYNAMIC}, {"decomposed": True}],
                         ids=["one picture", "any batch", "core operators"])  # fmt: skip
def test_a_program_of_any_form_becomes_the_same_graph_with_the_same_names(values, tmp_path):
    model = seeded(sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), fc(216)))
    made = program_file.read(written(model, tmp_path / "net.pt2", **values))
    graphs = [from_torch(network, SHAPE, HARDWARE, pictures(), name="net") for network in (model, made)]
    assert parts(graphs[1]) == parts(graphs[0])


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "mobile"])
def test_networks_have_the_layers_names_and_integers_of_the_original(name, tmp_path):
    ready = None if name == "mobile" else zoo.ready(name)
    model = seeded(mobile() if ready is None else ready.make(ready.classes))
    shape = SHAPE if ready is None else ready.shape
    made = program_file.read(written(model, tmp_path / "net.pt2", shape))
    images = pictures(4, shape)
    graphs = [from_torch(network, shape, HARDWARE, images, name="net") for network in (model, made)]
    assert parts(graphs[1]) == parts(graphs[0])


def test_a_program_is_a_network_of_the_commands_and_can_be_trained(tmp_path):
    model = seeded(MODELS["chain"]())
    images, labels = pictures(40), np.arange(40) % 5
    np.savez(tmp_path / "data.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    file = written(model, tmp_path / "mine.pt2")
    source = Source.open(str(file), Inputs(data=tmp_path / "data.npz"))
    assert (source.name, source.dataset.shape) == ("mine", SHAPE)
    assert capture(source, tmp_path / "work", Automatic.AUTO, log=lambda _: None).crossbars
    trained = prepare(source.model, SHAPE, HARDWARE, calibration=images, normalisation=NORMALISATION)
    assert len(list(trained)) == 4


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (nn.ConvTranspose2d(6, 6, 3), "conv_transpose2d is not supported: a map cannot grow"),
        (nn.GroupNorm(2, 6), "group_norm is not supported: statistics of the picture"),
    ],
    ids=["transposed", "group norm"],
)  # fmt: skip
def test_an_operator_that_the_machine_does_not_have_is_refused_by_its_layer(module, sentence, tmp_path):
    model = seeded(sequential(conv(3, 6), nn.ReLU(), module, nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc(6)))
    with pytest.raises(UnsupportedOperator, match=f"layer '2': {sentence}"):
        from_torch(program_file.read(written(model, tmp_path / "net.pt2")), SHAPE, HARDWARE, pictures())


def test_batch_norm_in_training_is_refused(tmp_path):
    model = sequential(conv(3, 6), nn.BatchNorm2d(6), nn.Flatten(), fc(864)).train()
    with pytest.raises(
        UnsupportedOperator, match="layer '1': batch_norm: training=True normalises with the statistics"
    ):
        from_torch(program_file.read(written(model, tmp_path / "net.pt2")), SHAPE, HARDWARE, pictures())


def test_what_may_run_code_is_not_read(tmp_path):
    path = written(sequential(nn.Flatten(), fc(432)).eval(), tmp_path / "net.pt2")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/data/aotinductor/model/library.so", b"")
    with pytest.raises(ValueError, match=r"holds 'data/aotinductor/model/library\.so', which may run code"):
        program_file.read(path)


def test_a_pickle_in_place_of_weights_is_not_read(tmp_path):
    path, other = written(sequential(nn.Flatten(), fc(432)).eval(), tmp_path / "net.pt2"), tmp_path / "other.pt2"
    torch.save(_Harmful(), tmp_path / "pickle")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("model_weights_config.json"):
                data = data.replace(b'"use_pickle": false', b'"use_pickle": true')
            if "/weights/weight_" in name:
                data = (tmp_path / "pickle").read_bytes()
            new.writestr(name, data)
    with pytest.raises(ValueError, match=r"cannot be read as a torch\.export program: Weights only load failed"):
        program_file.read(other)
    assert not _Harmful.ran


class _Harmful:
    ran = False

    def __reduce__(self):
        return (_harm, ())


def _harm() -> None:
    _Harmful.ran = True


def test_a_damaged_file_is_one_sentence(tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"not a program")
    with pytest.raises(ValueError, match=r"net\.pt2 cannot be read as a torch.export program: File is not a zip file"):
        program_file.read(tmp_path / "net.pt2")


def test_a_program_of_two_inputs_is_refused(tmp_path):
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    torch.export.save(torch.export.export(Two(), (torch.rand(1, *SHAPE),) * 2), tmp_path / "net.pt2")
    with pytest.raises(ValueError, match="the network must have one input, it has 2"):
        program_file.read(tmp_path / "net.pt2")
