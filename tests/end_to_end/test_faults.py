"""One thing in the loaded hardware is wrong: the run fails and names the first place where it shows."""

from dataclasses import replace

import numpy as np
import pytest

from golden_model import trq
from golden_model.crossbar.trace import window_trace
from golden_model.crossbar.windows import windows
from golden_model.engines.chain import Runner
from golden_model.image import image
from golden_model.registers import (
    DESCRIPTOR_STRIDE,
    REGION,
    REGISTER,
    descriptor_layout,
    pack_descriptor,
    reference_entry,
)
from sim.backends.choice import BACKENDS, Request
from sim.host.session import Job
from tests.end_to_end.networks import SMALL, random_images, random_network

pytestmark = pytest.mark.rtl

#: Every count shows in the code, and every input bit is streamed: faults can be predicted by hand.
PLAIN = trq.AdcRegisters(mode="uniform", n_r2=SMALL.adc_bits)


@pytest.fixture
def written(tmp_path):
    network = random_network(21)
    layers = tuple(
        replace(
            layer,
            registers=PLAIN,
            dynamic=None,
            skip_zero_slices=False,
            counts_per_lsb=1.0,
            min_count=trq.min_count(SMALL.adc_bits),
        )
        for layer in network.layers
    )
    network = replace(network, layers=layers)
    return image.write(tmp_path / "image", network, random_images(21, network, 1))


def run(tmp_path, written, pokes, backend="compiled"):
    job = Job((0,), pokes=tuple(pokes))
    outcome = BACKENDS[backend](Request(directory=tmp_path / "image", image=written, job=job)).outcome
    assert outcome.difference is not None, "the fault was not found"
    return outcome


def layer_records(written, number):
    """(window, record) of one layer of vector 0, in the hardware's order."""
    network, layer = written.network, written.network.layers[number]
    inputs = written.vectors.images[0]
    if number:
        inputs = Runner(network).run_layers(inputs[None])[0][number - 1][0]
    shaped = inputs.reshape(1, layer.channels, layer.height, layer.width)
    for window, row in enumerate(windows(layer, shaped)[0]):
        for record in window_trace(layer, network.hardware, written.placement.layers[number], row):
            yield window, row, record


def cell_pokes(written, pair, ou_row, ou_col, lane, row):
    """Bus writes that flip one cell: the pair is programmed again up to that OU."""
    hardware = written.network.hardware
    number = ou_row * hardware.grid_cols + ou_col
    first = pair * hardware.ous_per_crossbar
    words = written.tables.cell_words[first : first + number + 1].astype(np.int64).copy()
    bit = lane * hardware.ou_rows + row
    words[-1, bit // 32] ^= 1 << (bit % 32)
    yield REGISTER["CELL_PAIR"].offset, pair
    for word in words.ravel():
        yield REGISTER["CELL_DATA"].offset, int(word)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("polarity", [0, 1])
def test_a_flipped_cell_is_found_where_its_row_is_first_driven(number, polarity, tmp_path, written):
    hardware = written.network.hardware
    # An output that is neither always 0 nor saturated, so that the fault reaches the logits.
    outputs = Runner(written.network).run_layers(written.vectors.images)[0][number][0]
    output = int(np.argmax(outputs.std(axis=(1, 2)) * (outputs.max(axis=(1, 2)) < 15)))
    column, lane_column = divmod(output, hardware.ou_cols)
    target = [record for _, _, record in layer_records(written, number) if record.block_col == column][-1]
    place = (target.pair, target.ou_row, target.ou_col)
    lane, row = polarity * hardware.ou_cols + lane_column, 0
    expected = next(
        (window, record.index)
        for window, values, record in layer_records(written, number)
        if (record.pair, record.ou_row, record.ou_col) == place
        and values[record.segment * hardware.ou_rows + row] >> record.input_bit & 1
    )
    outcome = run(tmp_path, written, cell_pokes(written, *place, lane, row))
    layer = written.network.layers[number].name
    found = outcome.where
    assert (found["layer"], found["window"], found["ou"], found["lane"]) == (layer, *expected, lane)
    assert found["field"] == "codes"
    assert abs(found["found"] - found["expected"]) == 1
    assert f"layer {layer}, window {expected[0]}, OU {expected[1]}: lane {lane} " in outcome.difference


def test_a_wrong_threshold_of_the_reference_is_found_at_the_first_such_count(tmp_path, written):
    number, count, wrong = 1, 2, 3
    expected = next(
        (window, record.index, int(np.flatnonzero((record.values == count) & (record.started > 0))[0]))
        for window, _, record in layer_records(written, number)
        if ((record.values == count) & (record.started > 0)).any()
    )
    entry = reference_entry(SMALL, number, count)
    outcome = run(tmp_path, written, [(REGION["REFERENCE"].address(entry), wrong)])
    found = outcome.where
    assert (found["layer"], found["window"], found["ou"], found["lane"]) == ("conv2", *expected)
    assert (found["found"], found["expected"]) == (wrong, count)


def descriptor_pokes(written, number, **changes):
    """Bus writes that change fields of a loaded layer descriptor."""
    hardware = written.network.hardware
    fields = image.descriptor(written.network.layers[number], written.placement.layers[number], hardware) | changes
    for i, word in enumerate(pack_descriptor(hardware, fields)):
        yield REGION["PROGRAM"].address(number * DESCRIPTOR_STRIDE + i), word
    assert len(descriptor_layout(hardware)) <= DESCRIPTOR_STRIDE


def test_a_wrong_ad_register_is_found_in_the_first_conversion(tmp_path, written):
    pokes = descriptor_pokes(written, 0, n_r2=SMALL.adc_bits - 1, m=1)
    found = run(tmp_path, written, pokes).where
    assert (found["layer"], found["field"]) == ("conv1", "codes")


def test_a_wrong_crossbar_address_is_found_in_the_first_activation_of_its_layer(tmp_path, written):
    base = written.placement.layers[1].crossbar_base
    found = run(tmp_path, written, descriptor_pokes(written, 1, crossbar_base=base + 1)).where
    assert (found["layer"], found["window"], found["ou"]) == ("conv2", 0, 0)
    assert (found["field"], found["found"], found["expected"]) == ("pair", base + 1, base)


def test_a_wrong_shift_is_found_after_the_conversions(tmp_path, written):
    shift = written.network.layers[0].shift
    outcome = run(tmp_path, written, descriptor_pokes(written, 0, shift=shift - 1))
    assert outcome.where["layer"] == "conv1"
    assert "every A/D conversion agrees" in outcome.difference


def test_a_wrong_bias_is_found_at_its_output(tmp_path, written):
    base = written.placement.layers[2].channel_base
    bias = int(written.tables.bias[base + 3])
    outcome = run(tmp_path, written, [(REGION["BIAS"].address(base + 3), (bias + 1) & 0xFFFFFFFF)])
    assert (outcome.where["layer"], outcome.where["output"]) == ("fc", 3)


def test_a_wrong_block_width_is_found_where_the_activations_part(tmp_path, written):
    widths = written.network.layers[0].block_widths
    entry = int(np.flatnonzero(widths.ravel() > 0)[-1])
    value = int(widths.ravel()[entry]) - 1
    found = run(tmp_path, written, [(REGION["WIDTHS"].address(entry), value)]).where
    assert found["layer"] == "conv1"
    assert "window" in found


def test_an_unexpected_device_error_is_reported_with_its_layer(tmp_path, written):
    outcome = run(tmp_path, written, descriptor_pokes(written, 1, adc_mode=1, n_r1=3, m=3))
    assert "error ADC_CONFIGURATION" in outcome.difference


def test_amaranths_simulator_names_the_same_place(tmp_path, written):
    _, _, target = next(iter(layer_records(written, 0)))
    pokes = list(cell_pokes(written, target.pair, target.ou_row, target.ou_col, 1, 1))
    places = [run(tmp_path, written, pokes, backend).where for backend in ("compiled", "pysim")]
    assert places[0] == places[1]
    assert places[0]["lane"] == 1


def test_cocotb_names_the_same_place(tmp_path, written):
    _, _, target = next(iter(layer_records(written, 0)))
    pokes = list(cell_pokes(written, target.pair, target.ou_row, target.ou_col, 1, 1))
    places = [run(tmp_path, written, pokes, backend).where for backend in ("compiled", "verilator")]
    assert places[0] == places[1]
