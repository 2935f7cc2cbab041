"""Transformers: linear layers on crossbars, the rest on the host."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from golden_model.engines.run_network import GraphRunner
from golden_model.graph.host import Host
from golden_model.graph.settings import with_settings
from golden_model.image import archive
from golden_model.image.interpreter import Interpreter
from golden_model.image.program import fitting, plan
from quant.capture.capture import from_torch
from quant.capture.errors import UnsupportedOperator
from quant.networks.pixels import Normalisation, float_logits
from quant.networks.tokens import SelfAttention, ViT
from quant.reference import exact_logits
from tests.quant.test_import_network import HARDWARE, SHAPE, Net, pictures, seeded


def tokens(forward, **layers: nn.Module) -> nn.Module:
    """A network whose `forward(self, x)` takes 16 tokens of 8 channels and gives tokens."""

    def whole(self, x):
        return self.fc(forward(self, self.a(x).flatten(2).transpose(1, 2)).mean(1))

    return seeded(Net(whole, a=nn.Conv2d(3, 8, 3, stride=3), fc=nn.Linear(8, 4), **layers))


def vit() -> ViT:
    torch.manual_seed(3)
    model = ViT(SHAPE, 5, patch=4, width=8, depth=1, heads=2).eval()
    for parameter in model.parameters():  # scores of attention that differ
        parameter.data *= 2
    return model


def refused(match: str, model: nn.Module) -> None:
    with pytest.raises(UnsupportedOperator, match=match) as error:
        from_torch(model, SHAPE, HARDWARE, pictures(4))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "model",
    [
        vit(),
        tokens(
            lambda s, x: s.out(s.attention(s.qkv(x))),
            qkv=nn.Linear(8, 24), attention=SelfAttention(4), out=nn.Linear(8, 8),
        ),
        tokens(lambda s, x: s.norm(x) * 2 + 1, norm=nn.LayerNorm(8)),
        tokens(lambda s, x: x + torch.arange(128).reshape(1, -1, 8) / 50),
        tokens(lambda s, x: s.b(x.transpose(1, 2).view(-1, 8, 4, 4)).flatten(2).transpose(1, 2), b=nn.Conv2d(8, 8, 3)),
    ],
    ids=["vit", "attention", "norm", "places", "back to a map"],
)  # fmt: skip
def test_integers_are_near_the_network_and_the_golden_model_agrees(model):
    images = pictures()
    made = from_torch(model, SHAPE, HARDWARE, images)
    exact = exact_logits(made, images)
    np.testing.assert_array_equal(GraphRunner(made, engine="direct").run(images[:2])[0], exact[:2])
    wanted = float_logits(model, images, Normalisation.none(3))
    assert np.abs(exact * made.output.logit_scale - wanted).max() < 0.06 * np.ptp(wanted)


def test_all_linear_layers_of_a_vit_are_on_crossbars():
    made = from_torch(vit(), SHAPE, HARDWARE, pictures(4))
    names = [node.name for node in made.crossbars]
    assert names == ["patches", *(f"blocks.0.{name}" for name in ("qkv", "out", "fc1", "fc2")), "fc"]
    assert [node.name for node in made.nodes if isinstance(node, Host)] == [
        "add", "blocks.0.norm1", "blocks.0.attention", "blocks.0.norm2", "norm",
    ]  # fmt: skip


def test_a_program_of_a_vit_computes_what_its_network_does():
    made = from_torch(vit(), SHAPE, HARDWARE, pictures(4))
    program = plan(with_settings(made, hardware=fitting(made, HARDWARE)))
    assert [(part.first, part.end) for part in program.parts()] == [(0, 1), (1, 2), (2, 3), (3, 5), (5, 7)]
    assert [step.name for step in program.host_steps] == [
        "add", "blocks.0.norm1", "blocks.0.attention", "blocks.0.norm2", "norm",
    ]  # fmt: skip
    images = pictures(4)
    np.testing.assert_array_equal(Interpreter.of(program).run(images)[0], GraphRunner(made).run(images)[0])


@pytest.mark.slow
def test_the_example_trains_a_transformer_and_counts_its_work(tmp_path, capsys):
    source = Path(__file__).resolve().parents[2] / "docs/examples/vit.py"
    runpy.run_path(str(source))["main"](str(tmp_path / "vit.graph"), 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("accuracy on 1000 digits: float ")
    assert "on crossbars: 287,552 multiplications; on the host, not in the energy: {'multiply': 43168" in lines[-1]
    network = archive.load(tmp_path / "vit.graph")
    assert len(plan(with_settings(network, hardware=fitting(network))).host_steps) == 8


@pytest.mark.parametrize(
    ("why", "model"),
    [
        ("only over the channels of tokens", Net(lambda s, x: s.n(x), n=nn.LayerNorm(list(SHAPE)))),
        ("the mean over all of them, dim=1, is supported", tokens(lambda s, x: x.mean(2, keepdim=True) + x)),
        ("tokens cannot be concatenated", tokens(lambda s, x: torch.cat([x, x], 1))),
        ("must become tokens first, by transpose", tokens(lambda s, x: torch.relu(x.transpose(1, 2)).transpose(1, 2))),
        ("differs from token to token can only be added", tokens(lambda s, x: x * torch.arange(128).view(-1, 8))),
        ("tokens stay", Net(lambda s, x: s.a(x).flatten(2).transpose(1, 2).flatten(1), a=nn.Conv2d(3, 8, 3, stride=3))),
    ],
)
def test_what_tokens_cannot_do_is_refused_in_a_sentence(why, model):
    refused(why, model)
