import numpy as np
import pytest

from golden_model.config import TINY
from golden_model.crossbar.mapping import place_layer
from golden_model.crossbar.post_processing import finish
from golden_model.crossbar.trace import OuRecord, window_trace
from golden_model.crossbar.windows import windows
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph
from golden_model.trq import AdcRegisters
from tests.strategies import make_images, make_layer, make_network


@pytest.fixture
def network() -> Graph:
    return make_network(7, TINY)


def traces(network: Graph, image: np.ndarray, index: int, base: int = 0) -> list[list[OuRecord]]:
    """Records of every window of a layer while the network classifies `image`, uint8 (C, H, W)."""
    node = network.crossbars[index]
    layer = node.layers[0]
    made = GraphRunner(network).outputs(image[None])[node.inputs[0]]
    rows = windows(layer, made.reshape(1, layer.channels, layer.height, layer.width))[0]
    placed = place_layer(layer.block_widths, TINY, crossbar_base=base)
    return [list(window_trace(layer, TINY, placed, row)) for row in rows]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_trace_adds_up_to_the_layers_events(network, index):
    image = make_images(1, network, 1)
    _, events = GraphRunner(network).run(image)
    records = [r for window in traces(network, image[0], index) for r in window]
    counted = events[0, index]
    assert counted.ou_activations == len(records) > 0
    assert counted.conversions == sum(r.started.sum() for r in records)
    assert counted.conversions_r2 == sum((r.range_flags & r.started).sum() for r in records)
    assert counted.ad_operations == sum(r.operations.sum() for r in records)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_trace_adds_up_to_the_partial_sums(network, index):
    image = make_images(2, network, 1)
    layer = network.layers[index]
    sums = np.zeros((layer.windows, layer.block_cols(TINY) * TINY.ou_cols), dtype=np.int64)
    for window, records in enumerate(traces(network, image[0], index)):
        for r in records:
            columns = slice(r.block_col * TINY.ou_cols, (r.block_col + 1) * TINY.ou_cols)
            signed = r.values[: TINY.ou_cols] - r.values[TINY.ou_cols :]
            sums[window, columns] += signed << (r.input_bit + r.plane)
    assert (sums[:, layer.outputs :] == 0).all()
    assert (finish(layer, sums) == GraphRunner(network).outputs(image)[layer.name][0]).all()


def test_records_come_in_the_hardwares_order(network):
    records = traces(network, make_images(3, network, 1)[0], 1)[2]
    order = [(r.segment, r.input_bit, r.block_col, r.plane) for r in records]
    assert order == sorted(order)
    assert [r.index for r in records] == list(range(len(records)))


def test_all_input_bits_of_a_segment_use_the_same_cells(network):
    cells = {}
    for r in traces(network, make_images(3, network, 1)[0], 2, base=5)[0]:
        place = (r.pair, r.ou_row, r.ou_col)
        assert cells.setdefault((r.segment, r.block_col, r.plane), place) == place
    assert len(set(cells.values())) == len(cells)
    assert min(pair for pair, _, _ in cells.values()) == 5


def test_lanes_beyond_the_last_column_never_start():
    layer = make_layer(
        np.random.default_rng(0), TINY, kind="linear", channels=1, height=1, width=1, outputs=3,
        weights=np.array([[1, 1, 1]]), registers=AdcRegisters(mode="uniform", n_r2=3), last=True,
    )  # fmt: skip
    records = list(window_trace(layer, TINY, place_layer(layer.block_widths, TINY), np.array([15])))
    assert [r.started.tolist() for r in records[:2]] == [[True] * 4, [True, False, True, False]]
    assert records[1].codes.tolist() == [1, 0, 0, 0]
    assert records[1].cycles == 3


def test_a_window_of_another_length_is_refused(network):
    layer = network.layers[0]
    with pytest.raises(ValueError, match=r"window must have shape \(6,\), got \(5,\)"):
        list(window_trace(layer, TINY, place_layer(layer.block_widths, TINY), np.zeros(5)))
