import dataclasses

import pytest
import torch

from quant.networks.layers import BitPlaneWeight, FloatWeight
from quant.training import loop
from quant.training.penalties import AlphaController, BlockPenalty, width_statistics
from quant.training.phases import Augmentation, Settings, bit_plane_network, check_settings
from quant.training.prepare import QuantisedNetwork
from tests.quant.conftest import SMALL, random_network

QUICK = Settings(
    float_epochs=4,
    quantise_epochs=4,
    finetune_epochs=3,
    batch=20,
    start_bits=4,
    weight_bits=4,
    target_bits=0.8,
    lower_activations=0,
    shift=0,
)


def _set_integers(network: QuantisedNetwork, value: float) -> None:
    for source in network.sources():
        assert isinstance(source, FloatWeight)
        source.limits.fill_(15)
        source.log_step.data.fill_(0)
        source.weight.data.fill_(value)


def test_mean_bits_counts_pruned_blocks_as_zero_and_leaves_padding_out():
    network, _ = random_network(0)
    _set_integers(network, 3.0)
    assert width_statistics(network)["mean_bits"] == 2
    head = network.sources()[-1]
    assert isinstance(head, FloatWeight)
    head.weight.data.fill_(0)
    weights = [4 * 18, 5 * 16, 7 * 20]
    assert width_statistics(network)["mean_bits"] == pytest.approx(2 * (weights[0] + weights[1]) / sum(weights))


def test_compression_counts_signs_and_width_table():
    network, _ = random_network(0)
    _set_integers(network, 3.0)
    head = network.sources()[-1]
    assert isinstance(head, FloatWeight)
    head.weight.data.fill_(0)
    statistics = width_statistics(network)
    weights, kept = 72 + 80 + 140, 72 + 80
    blocks = 4 * 2 + 4 * 2 + 4 * 3
    assert statistics["weights"] == weights
    assert statistics["compression"]["magnitude"] == pytest.approx(32 * weights / (2 * kept))
    assert statistics["compression"]["with_sign"] == pytest.approx(32 * weights / (3 * kept))
    assert statistics["compression"]["with_sign_and_table"] == pytest.approx(32 * weights / (3 * kept + 4 * blocks))


def test_penalty_is_the_norm_of_the_excess_over_the_width_below():
    """One block: p = 2, threshold 2**1 - 1/2, divided by 2**1, weighed by its share."""
    network, _ = random_network(0)
    _set_integers(network, 0.0)
    source = network.sources()[0]
    assert isinstance(source, FloatWeight)
    source.weight.data[0, 0], source.weight.data[1, 1], source.weight.data[2, 2] = 3.0, -2.0, 1.0
    loss, bits = BlockPenalty(network)()
    share = 15 / (72 + 80 + 140)
    assert loss.item() == pytest.approx(share * (1.5**2 + 0.5**2) ** 0.5 / 2, rel=1e-4)
    assert bits == pytest.approx(2 * share)


def test_penalty_on_bit_planes_weighs_a_block_by_its_share_and_its_planes():
    """Two blocks' worth of weights: 3 planes with norms 2, 1, sqrt(2), and 1 plane with norm 1 (system.md §8)."""
    network, _ = random_network(0)
    _set_integers(network, 0.0)
    first, second = network.sources()[:2]
    assert isinstance(first, FloatWeight)
    assert isinstance(second, FloatWeight)
    values = first.weight.data
    values[0, 0], values[0, 1], values[0, 2], values[1, 0] = 5.0, -5.0, 3.0, 1.0  # planes: 4 ones, 1, 2
    second.weight.data[0, 0] = -1.0
    bit_plane_network(network)
    loss, _ = BlockPenalty(network)()
    share = 15 / (72 + 80 + 140)
    assert loss.item() == pytest.approx(share * (3 * (2 + 1 + 2**0.5) + 1 * 1), rel=1e-3)


def test_penalty_gradient_is_finite_for_empty_blocks():
    network, _ = random_network(0)
    _set_integers(network, 0.0)
    BlockPenalty(network)()[0].backward()
    for source in network.sources():
        assert isinstance(source, FloatWeight)
        assert torch.isfinite(source.weight.grad).all()  # type: ignore[arg-type]


def test_weighting_by_activations_favours_layers_with_many_windows():
    network, _ = random_network(0)
    by_memory, by_activations = (
        [charge(source.block_widths())[0] for charge, source in zip(penalty.charges, network.sources(), strict=True)]
        for penalty in (BlockPenalty(network, w) for w in ("memory", "activations"))
    )
    ratios = [float((a / m).max()) for a, m in zip(by_activations, by_memory, strict=True)]
    windows = [layer.geometry.windows for layer in network]
    assert ratios[0] / ratios[2] == pytest.approx(windows[0] / windows[2])
    assert sum(float(w.sum()) for w in by_activations) == pytest.approx(1)


def test_controller_raises_alpha_above_the_schedule_and_lowers_it_below():
    controller = AlphaController(1.0, lead=0)
    controller.update(4.0, 2.0)
    raised = controller.alpha
    assert raised > 1
    for _ in range(50):
        controller.update(1.0, 2.0)
    assert controller.alpha < raised


def test_a_block_is_never_wider_than_its_limit_allows():
    network, _ = random_network(0)
    for source in network.sources():
        source.freeze(torch.ones_like(source.block_widths()))
    assert BlockPenalty(network)()[1] <= 1.0


def test_controller_keeps_alpha_in_its_bounds():
    controller = AlphaController(1.0, bounds=(0.5, 2.0))
    for _ in range(200):
        controller.update(8.0, 0.1)
    assert controller.alpha == 2.0
    for _ in range(400):
        controller.update(0.0, 8.0)
    assert controller.alpha == 0.5


def test_shifted_images_are_the_image_moved_and_filled_with_zero():
    pixels = torch.arange(1, 26, dtype=torch.uint8).reshape(1, 1, 5, 5).repeat(40, 1, 1, 1)
    moved = Augmentation(2, False, torch.Generator().manual_seed(0))(pixels)
    padded = torch.nn.functional.pad(pixels[0, 0], (2, 2, 2, 2))
    allowed = [padded[y : y + 5, x : x + 5] for y in range(5) for x in range(5)]
    assert all(any(torch.equal(image[0], a) for a in allowed) for image in moved)
    assert len({image.numpy().tobytes() for image in moved}) > 10
    assert torch.equal(Augmentation(0, False, torch.Generator())(pixels), pixels)


def test_activation_widths_fall_to_the_minimum_when_any_loss_is_tolerated():
    network, images = random_network(0)
    labels = torch.zeros(6, dtype=torch.int64)
    assert loop.lower_activation_widths(network, torch.from_numpy(images), labels, tolerance=1.0, minimum=3) == [3, 3]


def test_activation_widths_stay_where_accuracy_would_fall(monkeypatch: pytest.MonkeyPatch):
    network, images = random_network(0)
    monkeypatch.setattr(loop, "evaluate", lambda net, p, y: 1.0 if net.activations()[0].bits >= 6 else 0.5)
    widths = loop.lower_activation_widths(network, torch.from_numpy(images), torch.zeros(6), tolerance=0.1, minimum=2)
    assert widths == [6, 2]


def test_the_activation_whose_bit_changes_the_logits_least_for_its_work_falls_first(monkeypatch: pytest.MonkeyPatch):
    for seed in range(4):
        network, images = random_network(seed)
        pixels = torch.from_numpy(images)
        before = loop.logits_of(network, pixels)
        prices = []
        for layer, work in zip(network.activations(), loop.bit_products(network), strict=True):
            layer.set_bits(layer.bits - 1)
            prices.append(float((loop.logits_of(network, pixels) - before).square().mean()) / work)
            layer.set_bits(layer.bits + 1)
        start = [layer.bits for layer in network.activations()]
        monkeypatch.setattr(
            loop,
            "evaluate",
            lambda net, *_, start=start: float(sum(la.bits for la in net.activations()) >= sum(start) - 1),
        )
        widths = loop.lower_activation_widths(network, pixels, torch.zeros(6), tolerance=0.1, minimum=2)
        cheapest = prices.index(min(prices))
        assert widths == [bits - (i == cheapest) for i, bits in enumerate(start)]


def test_an_activation_that_no_block_reads_keeps_its_width():
    network, images = random_network(0)
    source = network.sources()[1]
    assert isinstance(source, FloatWeight)
    source.weight.data.zero_()
    labels = torch.zeros(6, dtype=torch.int64)
    widths = loop.lower_activation_widths(network, torch.from_numpy(images), labels, tolerance=1.0, minimum=3)
    assert widths == [network.activations()[0].bits, 3]
    assert widths[0] > 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch must be in 1..100000, got 0"),
        ({"start_bits": 5}, "start-bits must be in 1..4, got 5"),
        ({"target_bits": 9.0}, "target-bits must be in 0.01..4, got 9.0"),
        ({"method": "magic"}, "method must be one of msq, bitplane, ptq, got 'magic'"),
        ({"lower_activations": 9}, "lower-activations must be in 0..8, got 9"),
        ({"shift": -1}, "shift must be in 0..8, got -1"),
    ],
)
def test_setting_out_of_range_is_named(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        check_settings(dataclasses.replace(QUICK, **changes), SMALL)


def test_bit_plane_network_keeps_the_integers():
    network, _ = random_network(4)
    integers = [s.integers().detach().clone() for s in network.sources()]
    bit_plane_network(network)
    planes = network.sources()
    assert all(isinstance(s, BitPlaneWeight) for s in planes)
    assert all(torch.equal(a, s.integers()) for a, s in zip(integers, planes, strict=True))
