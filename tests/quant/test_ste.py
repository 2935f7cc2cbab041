import numpy as np
import pytest
import torch

from golden_model.few_ones import nearest_level
from quant.networks.ste import fake_quantise_activation, round_magnitude, round_ste


def test_rounding_takes_ties_away_from_zero():
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49, -0.49])
    assert round_magnitude(x).tolist() == [-3, -2, -1, 1, 2, 3, 0, 0]


def test_rounding_passes_the_gradient_unchanged():
    x = torch.tensor([0.2, -3.7, 1.5], requires_grad=True)
    (round_ste(x) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 2, 3]


def test_activation_is_clamped_and_rounded_half_up():
    clip = torch.tensor(3.0)
    x = torch.tensor([-1.0, 0.0, 0.49, 0.5, 1.5, 2.5, 2.9, 7.0])
    assert fake_quantise_activation(x, clip, 3).tolist() == [0, 0, 0, 1, 2, 3, 3, 3]


def test_activation_gradient_passes_inside_the_clip_only():
    x = torch.tensor([-1.0, 0.5, 2.9, 3.5], requires_grad=True)
    fake_quantise_activation(x, torch.tensor(3.0), 15).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("learned", [True, False])
def test_clip_gets_the_gradient_of_clamped_values_if_it_is_learned(learned: bool):
    x = torch.tensor([0.5, 3.0, 3.5, 9.0], requires_grad=True)
    clip = torch.tensor(3.0, requires_grad=learned)
    fake_quantise_activation(x, clip, 7).sum().backward()
    assert (clip.grad is not None) == learned
    if learned:
        assert clip.grad.item() == 3


def test_clip_learned_with_rounding_follows_the_error_that_its_steps_make():
    x = torch.tensor([[-1.0, 0.4, 1.7, 5.0]])
    clip = torch.tensor(3.0, requires_grad=True)
    y = fake_quantise_activation(x, clip, 3, True)
    (y * torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
    # Steps of 1: 0.4 -> 0 loses 0.4, 1.7 -> 2 gains 0.3, each over the clip; 5 is clipped, -1 has no part.
    assert clip.grad.item() == pytest.approx((-0.4 * 2 + 0.3 * 3) / 3 + 4)


def test_clip_learned_with_rounding_looks_at_every_fourth_sample_for_all():
    x = torch.rand(8, 2, 3, 3) * 4

    def gradient(images: torch.Tensor) -> float:
        clip = torch.tensor(3.0, requires_grad=True)
        fake_quantise_activation(images, clip, 7, True).sum().backward()
        return clip.grad.item()

    assert gradient(x) == pytest.approx(4 * (gradient(x[:1]) + gradient(x[4:5])), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("ones", range(9))
def test_activation_with_few_ones_goes_to_the_golden_models_level(bits: int, ones: int, dtype: torch.dtype):
    integers = np.arange(1 << bits)
    x = torch.from_numpy(integers).to(dtype)
    y = fake_quantise_activation(x, torch.tensor(float(integers[-1])), int(integers[-1]), ones=ones)
    assert y.dtype == dtype
    assert y.tolist() == nearest_level(integers, bits, ones).tolist()


def test_levels_with_few_ones_do_not_depend_on_how_an_image_lies_in_memory():
    x = torch.rand(2, 3, 4, 5) * 9
    wanted = torch.tensor([fake_quantise_activation(v, torch.tensor(7.0), 7, ones=1).item() for v in x.flatten()])
    for one in (x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert torch.equal(fake_quantise_activation(one, torch.tensor(7.0), 7, ones=1).flatten(), wanted)


def test_gradient_with_few_ones_passes_up_to_the_largest_level():
    """Of 0..15 with two ones the largest is 12; what lies above it is clipped."""
    x = torch.tensor([-1.0, 0.5, 7.0, 11.9, 12.1, 14.0, 20.0], requires_grad=True)
    clip = torch.tensor(15.0, requires_grad=True)
    fake_quantise_activation(x, clip, 15, ones=2).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0, 0, 0]
    assert clip.grad is not None
    assert clip.grad.item() == pytest.approx(3 * 12 / 15)


def test_clip_learned_with_few_ones_follows_the_error_of_the_levels():
    x = torch.tensor([[7.0, 11.0, 14.0]])
    clip = torch.tensor(15.0, requires_grad=True)
    y = fake_quantise_activation(x, clip, 15, True, 2)
    assert y.tolist() == [[8, 12, 12]]
    (y * torch.tensor([[1.0, 2.0, 3.0]])).sum().backward()
    assert clip.grad is not None
    assert clip.grad.item() == pytest.approx((1 + 2) / 15 + 3 * 12 / 15)
