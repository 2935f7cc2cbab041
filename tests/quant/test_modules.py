import numpy as np
import torch
from torch.nn import functional as F

from golden_model.crossbar import mapping
from quant.networks.layers import BitPlaneWeight, Block, FloatWeight, QuantActivation, bit_length
from quant.networks.pixels import Normalisation
from quant.training.prepare import prepare
from tests.quant.conftest import SMALL, SmallNet, random_network

BLOCK = Block(SMALL.ou_rows, SMALL.ou_cols)


def test_blocks_are_cut_from_the_transposed_matrix_and_padded_with_zeros():
    matrix = torch.arange(1, 7 * 11 + 1).reshape(7, 11)  # N = 7, K = 11
    blocks = BLOCK.split(matrix)
    assert blocks.shape == (3, 5, 3, 3)
    assert blocks[1, 2, 2, 0] == matrix[6, 7]
    assert blocks[2, 1:].sum() == 0  # rows beyond K
    assert blocks[:, :, 2, 1:].sum() == 0  # columns beyond N


def test_block_sizes_leave_padding_out():
    assert BLOCK.sizes((7, 11)).tolist() == [[15, 15, 5], [15, 15, 5], [3, 3, 1]]


def test_spread_gives_every_weight_the_value_of_its_block():
    values = torch.arange(9).reshape(3, 3)
    spread = BLOCK.spread(values, (7, 11))
    assert (BLOCK.split(spread + 1).amax((1, 3)) == values + 1).all()
    assert spread.shape == (7, 11)


def test_bit_length_is_that_of_python():
    values = list(range(300))
    assert bit_length(torch.tensor(values)).tolist() == [v.bit_length() for v in values]


def test_block_widths_agree_with_the_golden_mapping():
    for seed in range(5):
        network, _ = random_network(seed)
        for layer in network:
            integers = layer.source.integers().detach().numpy().astype(np.int64)
            assert (layer.source.block_widths().numpy() == mapping.block_widths(integers.T, SMALL)).all()


def test_frozen_weights_never_leave_their_width():
    source = FloatWeight(torch.randn(7, 11) * 50, 1.0, BLOCK, 4)
    widths = torch.arange(9).reshape(3, 3) % 5
    source.freeze(widths)
    assert (source.block_widths() <= widths).all()
    with torch.no_grad():
        source.weight.mul_(1000)
    assert (source.block_widths() == widths).all()


def test_step_of_the_start_maps_the_largest_weight_to_the_largest_integer():
    torch.manual_seed(0)
    network = prepare(
        SmallNet(), (2, 9, 8), SMALL, calibration=(torch.rand(8, 2, 9, 8) * 255).byte().numpy(),
        normalisation=Normalisation.none(2), start_bits=4,
    )  # fmt: skip
    for layer in network:
        assert layer.source.integers().abs().max() == 15


def test_pact_learns_the_clip_up_to_three_bits_only():
    activation = QuantActivation(8)
    for bits in (8, 4, 3, 1):
        activation.set_bits(bits)
        assert activation.clip.requires_grad == (bits <= 3)


def test_gradients_reach_weight_step_and_bias():
    network, images = random_network(1)
    F.cross_entropy(network(torch.from_numpy(images).float()), torch.zeros(6, dtype=torch.int64)).backward()
    source = next(iter(network)).source
    assert isinstance(source, FloatWeight)
    assert source.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    assert source.log_step.grad.abs() > 0  # type: ignore[union-attr, operator]


# ---- bit planes ---------------------------------------------------------------------------------
def _planes(integers: torch.Tensor, weight_bits: int = 4) -> BitPlaneWeight:
    return BitPlaneWeight(integers.float(), 0.5, BLOCK, weight_bits)


def test_bit_planes_hold_the_integers_exactly():
    integers = torch.randint(-15, 16, (7, 11), generator=torch.Generator().manual_seed(0))
    assert torch.equal(_planes(integers).integers(), integers.float())


def test_requantising_strips_empty_high_planes_of_a_block_only():
    integers = torch.full((3, 10), 15)
    integers[:, 5:] = 1
    source = _planes(integers)
    assert source.block_widths().tolist() == [[4], [1]]
    assert source.mask[:, 0, 0].tolist() == [1, 1, 1, 1]
    assert source.mask[:, 0, 9].tolist() == [1, 0, 0, 0]
    with torch.no_grad():
        source.positive[:, :, :5] *= 0.4  # 15 * 0.4 = 6: three planes
    source.requantise()
    assert source.block_widths().tolist() == [[3], [1]]
    assert torch.equal(source.integers()[:, :5], torch.full((3, 5), 6.0))
    assert float(source.step()) == 0.5


def test_requantising_rescales_planes_that_add_up_beyond_the_range():
    source = _planes(torch.full((3, 5), 15))
    with torch.no_grad():
        source.positive.fill_(2.0)  # 30 = twice the range
    before = source.integers() * source.step()
    source.requantise()
    assert source.integers().abs().max() == 15
    assert torch.allclose(source.integers() * source.step(), before)


def test_a_block_can_lose_all_planes():
    source = _planes(torch.full((3, 5), 1))
    with torch.no_grad():
        source.positive.fill_(0.3)
    source.requantise()
    assert source.block_widths().tolist() == [[0]]
    assert source.integers().abs().sum() == 0


def test_group_norm_covers_both_signs_of_a_plane():
    integers = torch.tensor([[1, -1, 1, -1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    assert torch.allclose(_planes(integers).group_norms(), torch.tensor([[[2.0]]]))


def test_finetuning_starts_from_the_integers_of_the_planes():
    network, images = random_network(3)
    for layer in network:
        layer.source = BitPlaneWeight(layer.source.integers().detach(), float(layer.source.step()), BLOCK, 4)
    floats = network.float_weights()
    for a, b in zip(network.sources(), floats.sources(), strict=True):
        assert torch.equal(a.integers(), b.integers())
    pixels = torch.from_numpy(images).float()
    assert torch.allclose(network(pixels), floats(pixels), atol=1e-5)
