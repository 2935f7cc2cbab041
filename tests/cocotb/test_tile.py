"""The exported tile in cocotb on Verilator: whole networks and the bus, through a bus model that is not ours."""

import pytest

from golden_model.image import image
from rtl.tile import Tile
from sim.backends import verilator
from tests.cocotb.designs import CONFIGURATIONS
from tests.golden_model.random_graphs import random_images, random_network

pytestmark = pytest.mark.rtl


SLOW = [
    pytest.param(name, gates, marks=pytest.mark.slow)
    for name, gates in [("nine", False), ("nine pairs", False), ("small", True)]
]


@pytest.mark.parametrize(("name", "gates"), [("small", False), ("small pairs", False), *SLOW])
def test_exported_tile_and_its_netlist_equal_golden(name, gates, tmp_path):
    hardware = CONFIGURATIONS[name]
    network = random_network(11, hardware)
    image.write(tmp_path / "image", network, random_images(11, network, 3))
    failures = verilator.run_tests(
        verilator.build(Tile(hardware), gates=gates),
        "tests.cocotb.tile_session",
        environment={"OHMLOOM_CONFIG": name, "OHMLOOM_IMAGE": str(tmp_path / "image")},
        workspace=tmp_path,
    )
    assert not failures
