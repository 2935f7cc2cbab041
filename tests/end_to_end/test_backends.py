"""Small networks on the generated hardware in every simulator: equal to golden, and to each other."""

from dataclasses import replace

import numpy as np
import pytest

from golden_model.graph.settings import with_settings
from golden_model.image import image as deployment
from sim.array.crossbars import CrossbarSettings
from sim.backends.choice import BACKENDS, Request
from sim.host.session import Job
from tests.end_to_end.networks import NINE, SMALL, WIDE, assert_equal, loaded, run
from tests.golden_model.random_graphs import SMALL_PAIRS, encoder, random_images, random_network

pytestmark = [pytest.mark.rtl, pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")]

BOTH = pytest.mark.parametrize("hardware", [SMALL, SMALL_PAIRS], ids=["planes", "pairs"])


def run_backend(tmp_path, backend, network, seed, *, count=2, crossbar=None, judge=True, jobs=1):
    images = random_images(seed, network, count)
    directory = tmp_path / "image"
    image = deployment.write(directory, network, images) if backend == "verilator" else loaded(network, images)
    job = Job(tuple(range(count)), judge=judge, lenient=not judge)
    request = Request(directory=directory, image=image, job=job, crossbar=crossbar, jobs=jobs)
    return image, BACKENDS[backend](request).outcome


@BOTH
@pytest.mark.parametrize("seed", range(2))
def test_system_in_amaranths_simulator_equals_golden(seed, hardware, tmp_path):
    assert_equal(*run_backend(tmp_path, "pysim", random_network(seed + 10, hardware, most=3), seed, count=1))


@BOTH
def test_tile_in_amaranths_simulator_with_an_ideal_array_equals_golden(hardware, tmp_path):
    network = random_network(6, hardware, most=3)
    assert_equal(*run_backend(tmp_path, "pysim", network, 6, count=1, crossbar=CrossbarSettings()))


@BOTH
def test_tile_in_cocotb_with_an_ideal_array_equals_golden(hardware, tmp_path):
    assert_equal(*run_backend(tmp_path, "verilator", random_network(6, hardware, most=3), 6))


@pytest.mark.parametrize("backend", ["pysim", "verilator"])
def test_work_of_the_host_between_runs_equals_golden_in_every_simulator(backend, tmp_path):
    network = encoder(SMALL)
    image, outcome = run_backend(tmp_path, backend, network, 2, count=1, crossbar=CrossbarSettings())
    assert len(image.program.parts()) == 5
    assert_equal(image, outcome)


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_compiled_tile_with_an_ideal_array_equals_golden(seed, hardware):
    network = random_network(seed + 5, hardware)
    image = loaded(network, random_images(seed, network, 2))
    assert_equal(image, run(image, crossbar=CrossbarSettings()))


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["planes", "pairs"])
def test_compiled_tile_with_more_lanes_than_a_machine_word_equals_golden(machine):
    network = random_network(1, replace(WIDE, machine=machine))
    image = loaded(network, random_images(1, network, 2))
    assert_equal(image, run(image, crossbar=CrossbarSettings()))


def test_vectors_side_by_side_give_what_they_give_one_after_the_other(tmp_path):
    network = random_network(7)
    outcomes = [run_backend(tmp_path, "compiled", network, 7, count=7, jobs=jobs) for jobs in (1, 3)]
    for image, outcome in outcomes:
        assert_equal(image, outcome)
    one, three = (outcome for _, outcome in outcomes)
    assert [(r.index, r.logits, r.events, r.cycles) for r in one.results] == [
        (r.index, r.logits, r.events, r.cycles) for r in three.results
    ]
    assert one.clocks == three.clocks


def test_of_several_differences_side_by_side_the_first_is_reported(tmp_path):
    network = random_network(7)
    images = random_images(7, network, 8)
    image = loaded(network, images)
    image.vectors.logits[[3, 4, 6]] += 1  # the hardware is right, what it is compared with is wrong
    job = Job(tuple(range(8)))
    outcomes = [
        BACKENDS["compiled"](Request(directory=tmp_path, image=image, job=job, jobs=jobs)).outcome for jobs in (1, 4)
    ]
    for outcome in outcomes:
        assert outcome.where == {"vector": 3}
        assert [r.index for r in outcome.results] == [0, 1, 2, 3]
        assert "not repeatable" in outcome.difference
    assert outcomes[0].difference == outcomes[1].difference


@BOTH
def test_one_noisy_device_answers_alike_in_every_simulator(hardware, tmp_path):
    device = CrossbarSettings(variation=0.2, on_off_ratio=30, stuck_on=0.02, read_noise=0.3, seed=9)
    network = random_network(6, hardware, kinds=("convolution",), most=2)
    found = {}
    for backend in ("compiled", "verilator", "pysim"):
        (tmp_path / backend).mkdir()
        image, outcome = run_backend(tmp_path / backend, backend, network, 6, count=1, crossbar=device, judge=False)
        found[backend] = (outcome.results[0].logits, outcome.results[0].events, outcome.results[0].cycles)
        assert "CRC-32" in outcome.notes[0]  # stuck cells show in the readback
    assert found["compiled"] == found["verilator"] == found["pysim"]
    assert found["compiled"][0] != image.vectors.logits[0].tolist()


def test_the_noise_of_a_device_does_not_depend_on_the_number_of_jobs(tmp_path):
    device = CrossbarSettings(read_noise=0.5, seed=2)
    network = random_network(6, kinds=("convolution",), most=2)
    found = [
        [
            r.logits
            for r in run_backend(tmp_path, "compiled", network, 6, count=3, crossbar=device, judge=False, jobs=j)[
                1
            ].results
        ]
        for j in (1, 3)
    ]
    assert found[0] == found[1]


def test_an_image_on_another_machine_is_built_for_it(tmp_path):
    network = with_settings(random_network(2, kinds=("convolution", "max"), most=2), hardware=NINE)
    image, outcome = run_backend(tmp_path, "pysim", network, 2, count=1)
    assert image.program.hardware == NINE
    assert_equal(image, outcome)


def test_a_network_of_pruned_blocks_only_needs_no_cells():
    from golden_model.graph.network import build
    from golden_model.graph.nodes import Crossbar

    def pruned(node):
        if not isinstance(node, Crossbar):
            return node
        layers = tuple(
            replace(layer, weights=layer.weights * 0, block_widths=layer.block_widths * 0) for layer in node.layers
        )
        return replace(node, layers=layers)

    network = build("pruned", SMALL, [pruned(node) for node in random_network(2).nodes])
    image = loaded(network, random_images(2, network, 2))
    assert image.program.placement.pairs == 0
    assert_equal(image, run(image))
    assert np.size(image.program.tables.cell_words) == 0
