"""The penalty by OUs of the pair machine: what is expected of a network, against what the machine counts."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, exp, lgamma, log
from pathlib import Path

import numpy as np
import pytest
import torch

from golden_model.config import PAPER
from golden_model.engines.pair_runner import PairRunner
from golden_model.engines.pair_switches import Switches, measure
from golden_model.image import archive
from golden_model.pairs.search import outward
from golden_model.registers import COUNTER_NAMES
from quant.networks.layers import FloatWeight
from quant.networks.pixels import Normalisation
from quant.networks.source import dataset_for
from quant.networks.zoo import LeNet5
from quant.training.pair_ous import LayerOus, expected_ous, mean_ones, ous_of_another_one
from quant.training.penalties import BlockPenalty
from quant.training.phases import bit_plane_network
from quant.training.prepare import prepare
from quant.training.restart import take_over
from tests.quant.conftest import SMALL, random_network

ROOT = Path(__file__).resolve().parents[2]
ONES = [0.05, 0.7, 3.0, 8.5, 14.0]


def poisson(n: int, mean: float) -> float:
    return exp(n * log(mean) - mean - lgamma(n + 1))


@pytest.mark.parametrize("mean", ONES)
def test_expected_ous_are_the_mean_of_rounded_up_poisson_numbers(mean):
    """A pack of SMALL has two segments of five rows, so that its third OU would need more rows than there are."""
    machine = replace(SMALL, rows=60)  # twelve segments
    wanted = sum(poisson(n, mean) * ceil(n / machine.ou_rows) for n in range(1, 60))
    assert expected_ous(torch.tensor(mean), machine).item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("mean", ONES)
def test_what_another_one_adds_is_the_slope_of_what_is_expected(mean):
    low, high = (expected_ous(torch.tensor(mean + d, dtype=torch.float64), SMALL).item() for d in (-1e-4, 1e-4))
    assert ous_of_another_one(torch.tensor(mean), SMALL).item() == pytest.approx((high - low) / 2e-4, rel=1e-3)


def test_the_first_one_always_forms_an_ou():
    assert ous_of_another_one(torch.tensor(0.0), SMALL).item() == 1
    assert expected_ous(torch.tensor(0.0), SMALL).item() == 0


def test_mean_ones_are_those_of_the_windows():
    network, images = random_network(0)
    found = mean_ones(network, images)
    steps = list(PairRunner(network.to_graph(images[:2], "n")).steps(images))
    for ones, step, layer in zip(found, steps, network, strict=True):
        assert ones.shape == (8, -(-layer.geometry.k // 5))
        for bit, segment in ((0, 0), (7, ones.shape[1] - 1), (3, 1)):
            part = step.windows[:, segment * 5 : segment * 5 + 5]
            assert ones[bit, segment].item() == pytest.approx((part >> bit & 1).sum(axis=1).mean(), rel=1e-5)


def test_a_layer_forms_what_its_packs_groups_and_bits_do():
    """Group by group with scalars, and the share of a block from the plane below its width."""
    network, images = random_network(1)
    for layer, ones in zip(network, mean_ones(network, images), strict=True):
        widths = layer.source.block_widths()
        added, total = LayerOus(layer, ones, SMALL)(widths)
        ous, shares = 0.0, np.zeros(tuple(widths.shape))
        for first in range(0, len(widths), SMALL.grid_rows):
            pack = range(first, min(first + SMALL.grid_rows, len(widths)))
            for column, plane, bit in np.ndindex(widths.shape[1], SMALL.weight_bits, 8):
                inside = [r for r in pack if widths[r, column] > plane]
                mean = sum(ones[bit, r] for r in inside) if inside else torch.tensor(0.0)
                ous += float(expected_ous(torch.as_tensor(mean), SMALL))
                for r in inside:
                    if widths[r, column] == plane + 1:
                        another = ous_of_another_one(torch.as_tensor(mean), SMALL)
                        shares[r, column] += float(ones[bit, r] * another)
        assert float(total) == pytest.approx(ous * layer.geometry.windows, rel=1e-4)
        np.testing.assert_allclose(added.numpy(), shares * layer.geometry.windows, rtol=1e-4, atol=1e-4)


def test_what_is_expected_is_near_what_the_machine_forms():
    """Of a trained LeNet-5, behind its first layer: digits are black in whole windows, which no Poisson number is."""
    graph = archive.load(ROOT / "quant/trained/lenet5-s0/network.graph")
    dataset = dataset_for("lenet5", None)
    digits = np.array(dataset.test_images[:4])
    network = prepare(LeNet5(), (1, 28, 28), PAPER, calibration=digits, normalisation=Normalisation.none(1))
    take_over(network, graph, torch.from_numpy(digits).float())
    found = measure(graph, digits, {"": Switches(search=outward(PAPER))})[""].events[:, 0]
    assert COUNTER_NAMES[0] == "ou_activations"
    for layer, ones, formed in list(zip(network, mean_ones(network, digits), found, strict=True))[1:]:
        expected = float(LayerOus(layer, ones, PAPER)(layer.source.block_widths())[1])
        assert expected == pytest.approx(formed, rel=0.05), layer.geometry.name


def test_a_network_of_one_full_plane_has_a_mean_of_one():
    network, images = random_network(0)
    for source in network.sources():
        assert isinstance(source, FloatWeight)
        source.limits.fill_(15)
        source.log_step.data.fill_(0)
        source.weight.data.fill_(1.0)
    ones = mean_ones(network, images)
    assert BlockPenalty(network, "pair-ous", ones)()[1] == pytest.approx(1, rel=1e-4)
    for source in network.sources():
        source.weight.data.fill_(3.0)  # type: ignore[union-attr]
    assert BlockPenalty(network, "pair-ous", ones)()[1] == pytest.approx(2, rel=1e-4)


def test_the_penalty_is_the_excess_times_what_the_blocks_ones_add():
    network, images = random_network(0)
    ones = mean_ones(network, images)
    for source in network.sources():
        assert isinstance(source, FloatWeight)
        source.limits.fill_(15)
        source.log_step.data.fill_(0)
        source.weight.data.fill_(0.0)
    first = network.sources()[0]
    assert isinstance(first, FloatWeight)
    first.weight.data[0, 0], first.weight.data[1, 1] = 3.0, -2.0
    layers = list(network)
    added = LayerOus(layers[0], ones[0], SMALL)(first.block_widths())[0]
    whole = sum(
        float(LayerOus(layer, own, SMALL)(torch.ones_like(layer.source.block_widths()))[1])
        for layer, own in zip(layers, ones, strict=True)
    )
    loss, _ = BlockPenalty(network, "pair-ous", ones)()
    assert loss.item() == pytest.approx(float(added[0, 0]) / whole * (1.5**2 + 0.5**2) ** 0.5 / 2, rel=1e-3)


def test_bit_planes_are_weighed_by_the_same():
    network, images = random_network(0)
    ones = mean_ones(network, images)
    by_width = BlockPenalty(network, "pair-ous", ones)()[1]
    bit_plane_network(network)
    loss, bits = BlockPenalty(network, "pair-ous", ones)()
    assert bits == pytest.approx(by_width)
    assert loss.item() > 0


def test_blocks_that_are_no_operation_units_are_refused():
    network, images = random_network(0)
    ones = mean_ones(network, images)
    for source in network.sources():
        source.block = replace(source.block, rows=4)
    with pytest.raises(ValueError, match=r"^--weighting pair-ous needs --block ou$"):
        BlockPenalty(network, "pair-ous", ones)
