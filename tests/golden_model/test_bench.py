import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed")

from golden_model import bench, network
from golden_model.config import PAPER


def run(ratio):
    return {"kernels": [{"regime": "9 rows", "setting": "uniform", "ratio": ratio}]}


def test_a_run_much_slower_than_the_last_one_is_named():
    assert bench.compare(run(300), run(100)) == ["9 rows, uniform: 100 x plain NumPy, 300 x the time before"]


def test_noise_and_settings_without_a_past_are_not_reported():
    assert bench.compare(run(300), run(280)) == []
    assert bench.compare({"kernels": []}, run(1)) == []


@pytest.mark.parametrize("regime", bench.REGIMES)
def test_the_layer_that_is_timed_gives_the_same_numbers_on_both_engines(regime):
    hardware = bench.REGIMES[regime]
    for registers in bench.SETTINGS[regime].values():
        layer = bench.make_layer(hardware, (4, 6, 5, 1), registers)
        images = bench.make_images(layer, 2)
        plain, events = network.run_layer(layer, hardware, images, engine="direct")
        fast, counted = network.run_layer(layer, hardware, images, engine="compiled")
        np.testing.assert_array_equal(plain, fast)
        assert events == counted


def test_the_shapes_are_resnet_20s():
    layers = [bench.make_layer(PAPER, shape, bench.SETTINGS["9 rows"]["uniform, lossless"]) for shape in bench.RESNET20]
    assert len(layers) == 19
    # 40.6 M multiply-accumulates with the last fully connected layer of 640.
    assert sum(layer.k * layer.outputs * layer.windows for layer in layers) == 40_550_400
