import pytest
import torch

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
