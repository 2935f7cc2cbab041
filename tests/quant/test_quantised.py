"""Networks of any kind made ready for quantised training, and back to integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from golden_model import few_ones
from golden_model.config import PAPER
from golden_model.engines.run_network import GraphRunner
from quant.capture.errors import UnsupportedOperator
from quant.networks.layers import Block, QuantActivation, QuantMatrix
from quant.networks.pixels import Normalisation
from quant.reference import exact_logits
from quant.training.loop import bit_plane_network, width_statistics
from quant.training.prepare import QuantisedNetwork, prepare

NORMALISATION = Normalisation(mean=(0.4857, 0.31, 0.62), std=(0.2, 0.31, 0.25))


class Residual(nn.Module):
    """Everything that ResNet-20 has, in miniature; batch norms turn signs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0.0, 0.4)
        for norm in (self.bn1, self.bn2, self.bn3):
            nn.init.uniform_(norm.running_mean, -0.3, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(x)))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
        y = F.relu(self.bn3(self.conv3(y)) + short)
        return self.head(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))


def images(count: int = 12) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 3, 10, 10)).astype(np.uint8)


def made(model: nn.Module | None = None, **options) -> QuantisedNetwork:
    torch.manual_seed(1)
    model = Residual() if model is None else model
    return prepare(model, (3, 10, 10), PAPER, calibration=images(), normalisation=NORMALISATION, **options).eval()


@torch.no_grad()
def logits(network: QuantisedNetwork) -> np.ndarray:
    return network(torch.from_numpy(images()).float()).numpy()


def test_a_prepared_network_gives_nearly_the_float_networks_outputs():
    torch.manual_seed(1)
    model = Residual().eval()
    with torch.no_grad():
        wanted = model(NORMALISATION.apply(torch.from_numpy(images()).float())).numpy()
    assert np.abs(logits(made(model)) - wanted).max() < 0.03 * np.abs(wanted).max()


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_integer_graph_gives_the_trained_networks_outputs(bits):
    network = made(activation_bits=bits)
    graph = network.to_graph(images(2), "residual")
    found = exact_logits(graph, images()) * graph.output.logit_scale
    wanted = logits(network)
    # a bias is a whole number in the graph, so that single activations may fall on the other side of a half
    assert np.abs(found - wanted).mean() < 0.02 * np.abs(wanted).mean() * 2 ** (8 - bits) ** 0.5


def test_integers_of_the_graph_are_the_trained_ones_up_to_the_sign_of_the_batch_norm():
    network = made()
    graph = network.to_graph(images(2), "residual")
    signs = []
    for layer, node in zip(network, graph.crossbars, strict=True):
        trained = layer.source.integers().detach().numpy().T
        stored = node.layers[0].weights
        ratio = np.sign((trained * stored).sum(0))
        assert np.array_equal(trained * ratio, stored)
        signs.append(ratio)
    assert (np.concatenate(signs) < 0).any()
    assert (np.concatenate(signs) > 0).any()


def test_activations_of_the_graph_have_the_trained_widths_and_clips():
    network = made(activation_bits=4)
    first = network.activations()[0]
    first.set_bits(3)
    graph = network.to_graph(images(2), "residual")
    node = graph.crossbars[0]
    assert (node.encoding.bits, node.encoding.high) == (3, first.clip.item())
    assert [node.encoding.bits for node in graph.crossbars][1:3] == [4, 4]
    assert next(node.encoding.bits for node in graph.nodes if type(node).__name__ == "AveragePool") == 8


@pytest.mark.parametrize(("bits", "ones"), [(8, 2), (4, 2), (4, 1)])
def test_the_integer_graph_has_the_levels_that_were_trained(bits, ones):
    network = made(activation_bits=bits, activation_ones=ones)
    graph = network.to_graph(images(2), "residual")
    assert [node.encoding.ones for node in graph.crossbars] == [ones] * 3 + [0]
    assert next(node.encoding.ones for node in graph.nodes if type(node).__name__ == "AveragePool") == 0
    found = exact_logits(graph, images()) * graph.output.logit_scale
    wanted = logits(network)
    # as above; beside that, a step to the next level is up to a quarter (two ones) or half of the value
    assert np.abs(found - wanted).mean() < 0.05 * np.abs(wanted).mean() * 2 ** (8 - bits) ** 0.5
    plain = made(activation_bits=bits)
    assert np.abs(logits(plain) - wanted).mean() > 2 * np.abs(found - wanted).mean()


def test_activations_of_the_graph_are_those_of_the_trained_network():
    """The first layer's, which no earlier rounding can have changed."""
    network = made(activation_bits=4, activation_ones=2)
    graph = network.to_graph(images(2), "residual")
    kept = {}
    network.activations()[0].register_forward_hook(lambda module, given, result: kept.update(first=result))
    logits(network)
    node = graph.crossbars[0]
    found = GraphRunner(graph).outputs(images())[node.name]
    trained = (kept["first"] / node.encoding.scale).round().numpy()
    assert set(np.unique(found)) <= set(few_ones.levels(4, 2))
    assert (found != trained).mean() < 0.01  # values near a border between two levels


def test_clips_have_the_least_error_with_the_levels_that_there_are():
    clips = {}
    for ones in (0, 1):
        network = made(activation_bits=4, activation_ones=ones)
        first = network.activations()[0]
        first.watching = []
        logits(network)
        values, first.watching = torch.cat(first.watching), None
        clips[ones] = first.clip.clone()
        errors = []
        for share in (0.8, 1.0, 1.25):
            first.clip.copy_(clips[ones] * share)
            errors.append(float((first(values) - values).square().mean()))
        assert errors[1] == min(errors)
    assert clips[1] != clips[0]


def test_relu6_bounds_the_clip():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(256, 3))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 2.0)
    assert float(made(model).activations()[0].clip) <= 6.0


def test_layer_wise_widths_have_one_block_for_each_layer():
    network = made(block="layer")
    assert [tuple(layer.source.block_widths().shape) for layer in network] == [(1, 1)] * 4
    assert all(layer["blocks"] == 1 for layer in width_statistics(network)["layers"])


def test_blocks_may_have_any_shape():
    network = made(block="16x4")
    assert [tuple(layer.source.block_widths().shape) for layer in network][1] == (-(-54 // 16), 2)


def test_bit_planes_do_not_change_the_network_and_survive_a_checkpoint():
    network = made()
    before = logits(network)
    bit_plane_network(network)
    assert np.allclose(logits(network), before, atol=1e-5)
    fresh = made()
    fresh.load_state(network.state_dict())
    assert np.array_equal(logits(fresh), logits(network))
    assert np.allclose(logits(network.float_weights()), before, atol=1e-4)


def test_the_model_is_copied():
    model = Residual()
    made(model)
    assert not any(isinstance(m, QuantMatrix | QuantActivation) for m in model.modules())


class Signed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).mean((2, 3))


def test_a_layer_whose_input_can_be_negative_is_refused_by_name():
    with pytest.raises(UnsupportedOperator, match=r"'second'.*negative"):
        made(Signed())


def test_groups_are_refused_by_name():
    model = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.Flatten(), nn.Linear(384, 3))
    with pytest.raises(UnsupportedOperator, match=r"'0'.*groups"):
        made(model)


def test_a_weight_that_is_not_finite_is_refused_by_name():
    model = Residual()
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"conv2.*finite"):
        made(model)


def test_blocks_need_rows_and_columns():
    with pytest.raises(ValueError, match="at least 1 row"):
        Block(0, 8)


def test_a_network_that_the_graph_does_not_compute_is_refused_before_it_is_trained():
    model = Residual()
    model.register_forward_hook(lambda module, given, result: 2 * result)
    with pytest.raises(UnsupportedOperator, match="layer 'output': the captured network differs"):
        made(model)


def test_an_operator_that_cannot_become_integers_is_refused_before_it_is_trained():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(0.1, 1), nn.Flatten(), nn.Linear(256, 5))
    with pytest.raises(UnsupportedOperator, match="layer '1': Hardtanh: only a clamp to a range of numbers"):
        made(model)


def test_a_clamp_below_0_is_refused_before_it_is_trained():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardtanh(-1, 1), nn.Flatten(), nn.Linear(256, 5))
    with pytest.raises(UnsupportedOperator, match="layer '1': networks with a clamp below 0 cannot be trained here"):
        made(model)
