import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.chain import Runner
from golden_model.graph.layers import Network
from golden_model.rounding import round_half_up_shift
from golden_model.trq import AdcRegisters
from quant import integer
from quant.integer import AdcSetting, exact_logits, multiplier_and_shift, to_layers
from quant.training.layers import PIXEL_LEVELS, FloatWeight, Normalisation
from tests.quant.conftest import SMALL, random_network

TWIN = AdcSetting(registers=AdcRegisters(mode="twin", n_r2=3, n_r1=1))
NORMALISED = Normalisation(mean=(0.4, 0.2), std=(0.5, 0.3))


@given(
    seed=st.integers(0, 1000),
    twin=st.booleans(),
    activation_bits=st.integers(1, 8),
    normalised=st.booleans(),
    skip=st.booleans(),
    dynamic=st.one_of(st.none(), st.builds(DynamicPrecision, l_max=st.integers(0, 7), tau_sq=st.integers(0, 65535))),
)
def test_exact_path_equals_the_golden_model(seed, twin, activation_bits, normalised, skip, dynamic):
    network, images = random_network(
        seed, activation_bits=activation_bits, normalisation=NORMALISED if normalised else None
    )
    layers = to_layers(network, [TWIN] * 3 if twin else None, [dynamic] * 3, skip_zero_slices=skip)
    logits, _ = Runner(Network(name="test", hardware=SMALL, layers=layers)).run(images)
    assert (exact_logits(layers, SMALL, images, chunk=4) == logits).all()


def test_exact_path_equals_the_golden_model_on_saturated_data():
    network, _ = random_network(0)
    for source in network.sources():
        assert isinstance(source, FloatWeight)
        source.limits.fill_(15)
        source.weight.data.fill_(1e3)
    images = np.full((2, 2, 9, 8), 255, dtype=np.uint8)
    layers = to_layers(network)
    logits, _ = Runner(Network(name="test", hardware=SMALL, layers=layers)).run(images)
    assert (exact_logits(layers, SMALL, images) == logits).all()


@given(seed=st.integers(0, 1000), activation_bits=st.integers(2, 8))
def test_fake_quantised_forward_gives_the_integers_where_all_scales_are_exact(seed: int, activation_bits: int):
    """Scales of powers of two and biases that are integers (moved off the tie by a hair): every
    activation of the fake-quantised forward, over its step, is the hardware's integer."""
    network, images = random_network(seed, activation_bits=activation_bits)
    network.double()
    scale = 1.0 / PIXEL_LEVELS
    for layer, exponent in zip(network, (6, 5, 0), strict=True):
        source = layer.source
        assert isinstance(source, FloatWeight)
        integers = source.integers().detach()
        source.log_step.data.fill_(0)
        source.weight.data.copy_(integers)
        unit = scale  # step 1
        layer.bias.data.copy_((torch.round(layer.bias.data / unit * 0.1) + 1e-3) * unit)
        scale = unit * 2**exponent
        layer.clip.data.fill_(scale * (2**layer.bits - 1))
    layers = to_layers(network)
    _, outputs = None, Runner(Network(name="test", hardware=SMALL, layers=layers)).run_layers(images)[0]
    x = torch.from_numpy(images).double() / PIXEL_LEVELS
    for layer, made, expected in zip(network, layers, outputs, strict=True):
        x = layer(x)
        found = x.detach().numpy() / made.scales["output"]
        expected = expected.reshape(found.shape)
        assert np.abs(found - expected).max() < 1e-2  # the hair
        assert (np.floor(found + 0.5) == expected).all()


def test_bias_is_rounded_half_up_in_units_of_the_sum():
    network, _ = random_network(0)
    layer = next(iter(network))
    unit = float(layer.source.step().detach()) / PIXEL_LEVELS
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([7.4, 7.6, -7.4, -7.6]) * unit)
    assert to_layers(network)[0].bias.tolist() == [7, 8, -7, -8]


def test_predictions_follow_the_fake_quantised_network():
    agreed = total = 0
    for seed in range(12):
        network, images = random_network(seed)
        with torch.no_grad():
            expected = network(torch.from_numpy(images).float()).argmax(1).numpy()
        agreed += int((exact_logits(to_layers(network), SMALL, images).argmax(1) == expected).sum())
        total += len(images)
    assert agreed >= total - 2


def test_weights_widths_and_pads_are_those_of_the_trained_network():
    network, _ = random_network(3, normalisation=NORMALISED)
    layers = to_layers(network)
    for layer, made in zip(network, layers, strict=True):
        assert (layer.source.integers().detach().numpy() == made.weights.T).all()
        assert (made.block_widths == layer.source.block_widths().numpy()).all()
    assert layers[0].pad_values is not None
    assert layers[0].pad_values.tolist() == [102, 51]
    assert layers[1].pad_values is None


def test_activation_widths_chain_through_the_layers():
    network, _ = random_network(0)
    for layer, bits in zip(network, (5, 3, 8), strict=True):
        layer.set_bits(bits)
    layers = to_layers(network)
    assert [layer.input_bits for layer in layers] == [8, 5, 3]
    assert [layer.output_bits for layer in layers] == [5, 3, 8]
    assert [layer.last for layer in layers] == [False, False, True]


@pytest.mark.parametrize(
    ("registers", "scale"),
    [
        (AdcRegisters(mode="uniform", n_r2=2), 1.0),  # Delta_R1 = 2 counts
        (AdcRegisters(mode="twin", n_r2=1, n_r1=1, m=1), 1.0),  # 2 counts
        (AdcRegisters(mode="uniform", n_r2=3), 0.7),
    ],
)
def test_scale_of_the_converter_is_folded_into_bias_and_multiplier(registers: AdcRegisters, scale: float):
    network, _ = random_network(0)
    setting = AdcSetting(registers=registers, counts_per_lsb=scale)
    unit = setting.counts_per_unit(SMALL.adc_bits)
    plain, scaled = to_layers(network), to_layers(network, [setting] * 3)
    for before, after in zip(plain[:2], scaled[:2], strict=True):
        factor = (after.multipliers / 2.0**after.shift) / (before.multipliers / 2.0**before.shift)
        assert factor == pytest.approx(np.full(len(factor), unit), rel=1e-4)
        assert np.abs(after.bias * unit - before.bias).max() <= (1 + unit) / 2
        assert after.scales["output"] == before.scales["output"]
    assert scaled[2].scales["output"] == pytest.approx(plain[2].scales["output"] * unit)


def test_lossless_converter_on_a_finer_grid_gives_the_same_logits():
    fine = dataclasses.replace(SMALL, adc_bits=4)
    network, images = random_network(1, hardware=fine)
    setting = AdcSetting(registers=AdcRegisters(mode="twin", n_r2=3, n_r1=1), counts_per_lsb=0.5)
    assert setting.lossless(fine)
    layers = to_layers(network, [setting] * 3)
    logits, _ = Runner(Network(name="test", hardware=fine, layers=layers)).run(images)
    assert (logits == exact_logits(to_layers(network), fine, images)).all()


@given(st.lists(st.floats(1e-9, 6e4), min_size=1, max_size=6))
def test_multiplier_is_the_nearest_at_the_largest_shift(factors: list[float]):
    multipliers, shift = multiplier_and_shift(factors)
    assert 0 <= shift <= 63
    assert multipliers.max() <= 65535
    assert multipliers.tolist() == [math.floor(f * 2.0**shift + 0.5) for f in factors]
    assert shift == 63 or math.floor(max(factors) * 2.0 ** (shift + 1) + 0.5) > 65535


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_factor_that_is_not_positive_and_finite_is_refused(factor: float):
    with pytest.raises(ValueError, match="must be positive and finite"):
        multiplier_and_shift([1.0, factor])


def test_factor_beyond_16_bits_is_refused():
    with pytest.raises(ValueError, match="requantisation factor 70000 does not fit an unsigned 16-bit multiplier"):
        multiplier_and_shift([7e4])


def test_rounding_of_the_last_step_is_half_up():
    assert integer.round_half_up(-0.5) == 0
    assert integer.round_half_up(0.5) == 1
    assert round_half_up_shift(-1, 1) == 0


def test_lossy_converter_is_refused_by_the_exact_path():
    network, images = random_network(0)
    layers = to_layers(network, [AdcSetting(registers=AdcRegisters(mode="uniform", n_r2=2))] * 3)
    with pytest.raises(ValueError, match="layer 'first': its converter is lossy, use the golden model"):
        exact_logits(layers, SMALL, images)


def test_layer_that_needs_a_wider_accumulator_is_refused():
    network, _ = random_network(0, hardware=dataclasses.replace(SMALL, accumulator_bits=16))
    with pytest.raises(ValueError, match=r"layer 'first': it needs a \d+-bit accumulator, .* accumulator_bits = 16"):
        to_layers(network)


def test_scale_that_is_not_a_number_is_refused():
    network, _ = random_network(0)
    next(iter(network)).bias.data[0] = float("inf")
    with pytest.raises(ValueError, match="layer 'first': a weight, bias or scale is not a finite number"):
        to_layers(network)


def test_hardware_with_narrow_inputs_is_refused():
    network, _ = random_network(0, activation_bits=4, hardware=dataclasses.replace(SMALL, input_bits=4))
    with pytest.raises(ValueError, match="images have 8 bits, but the hardware streams input_bits = 4"):
        to_layers(network)


def test_converter_too_narrow_for_the_rows_is_refused():
    network, _ = random_network(0, hardware=dataclasses.replace(SMALL, adc_bits=2))
    with pytest.raises(ValueError, match="5 rows need adc_bits = 3 to be lossless, got 2"):
        to_layers(network)
