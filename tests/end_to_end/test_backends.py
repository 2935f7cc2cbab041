"""Random networks, written as deployment images, on the generated hardware in every simulator: equal to golden."""

from dataclasses import replace

import numpy as np
import pytest

from golden_model.image import image
from sim.array.crossbars import CrossbarSettings
from sim.backends.choice import BACKENDS, Request
from sim.host.session import Job
from tests.end_to_end.networks import NINE, SMALL, WIDE, random_images, random_network

pytestmark = pytest.mark.rtl


def run(tmp_path, backend, network, seed, *, count=3, crossbar=None, judge=True):
    directory = tmp_path / "image"
    written = image.write(directory, network, random_images(seed, network, count))
    job = Job(tuple(range(count)), judge=judge, lenient=not judge)
    report = BACKENDS[backend](Request(directory=directory, image=written, job=job, crossbar=crossbar))
    assert len(report.outcome.results) == count or report.outcome.difference
    return written, report.outcome


def assert_equal(written, outcome):
    assert outcome.difference is None, outcome.difference
    count = len(outcome.results)
    assert [r.logits for r in outcome.results] == written.vectors.logits[:count].tolist()
    assert [r.events for r in outcome.results] == written.vectors.events.counts[:count].tolist()
    assert [r.cycles for r in outcome.results] == written.vectors.cycles[:count].tolist()


@pytest.mark.parametrize("seed", range(8))
def test_compiled_system_equals_golden(seed, tmp_path):
    assert_equal(*run(tmp_path, "compiled", random_network(seed), seed))


@pytest.mark.parametrize("seed", range(3))
def test_compiled_system_equals_golden_with_saturated_weights(seed, tmp_path):
    assert_equal(*run(tmp_path, "compiled", random_network(seed, saturated=True), seed))


@pytest.mark.parametrize("seed", range(2))
def test_system_in_amaranths_simulator_equals_golden(seed, tmp_path):
    assert_equal(*run(tmp_path, "pysim", random_network(seed), seed, count=1))


def test_tile_in_cocotb_with_an_ideal_array_equals_golden(tmp_path):
    assert_equal(*run(tmp_path, "verilator", random_network(4), 4))


def test_compiled_tile_with_an_ideal_array_equals_golden(tmp_path):
    assert_equal(*run(tmp_path, "compiled", random_network(5), 5, crossbar=CrossbarSettings()))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_compiled_system_with_nine_by_eight_units_equals_golden(seed, tmp_path):
    assert_equal(*run(tmp_path, "compiled", random_network(seed, NINE, saturated=seed == 7), seed))


@pytest.mark.slow
@pytest.mark.parametrize("crossbar", [None, CrossbarSettings()])
def test_compiled_hardware_with_more_lanes_than_a_machine_word_equals_golden(crossbar, tmp_path):
    assert_equal(*run(tmp_path, "compiled", random_network(1, WIDE), 1, crossbar=crossbar))


def test_one_noisy_device_answers_alike_in_every_simulator(tmp_path):
    device = CrossbarSettings(variation=0.2, on_off_ratio=30, stuck_on=0.02, read_noise=0.3, seed=9)
    network = random_network(6)
    found = {}
    for backend in ("compiled", "verilator", "pysim"):
        (tmp_path / backend).mkdir()
        written, outcome = run(tmp_path / backend, backend, network, 6, count=1, crossbar=device, judge=False)
        found[backend] = (outcome.results[0].logits, outcome.results[0].events, outcome.results[0].cycles)
        assert "CRC-32" in outcome.notes[0]  # stuck cells show in the readback
    assert found["compiled"] == found["verilator"] == found["pysim"]
    assert found["compiled"][0] != written.vectors.logits[0].tolist()


def test_runs_in_a_row_do_not_disturb_each_other(tmp_path):
    network = random_network(1)
    directory = tmp_path / "image"
    images = random_images(1, network, 3)[[0, 1, 2, 0]]
    written = image.write(directory, network, images)
    request = Request(directory=directory, image=written, job=Job((0, 1, 2, 3, 2, 0)))
    outcome = BACKENDS["compiled"](request).outcome
    assert outcome.difference is None
    logits = np.array([r.logits for r in outcome.results])
    assert (logits == written.vectors.logits[[0, 1, 2, 3, 2, 0]]).all()
    assert (logits[0] == logits[3]).all()


def test_a_network_of_pruned_blocks_only_needs_no_cells(tmp_path):
    network = random_network(2)
    layers = tuple(
        replace(layer, weights=layer.weights * 0, block_widths=layer.block_widths * 0) for layer in network.layers
    )
    written, outcome = run(tmp_path, "compiled", replace(network, layers=layers), 2, count=2)
    assert written.placement.pairs == 0
    assert_equal(written, outcome)


def test_hardware_of_the_image_is_what_is_built(tmp_path):
    slow = replace(SMALL, sample_interval=5)
    written, outcome = run(tmp_path, "pysim", random_network(0, slow), 0, count=1)
    assert_equal(written, outcome)
