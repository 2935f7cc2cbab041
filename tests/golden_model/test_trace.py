import numpy as np
import pytest

from golden_model.config import TINY
from golden_model.crossbar import trace
from golden_model.crossbar.post_processing import finish_layer
from golden_model.engines.chain import Runner
from golden_model.graph.layers import Network
from golden_model.trq import AdcRegisters
from tests.strategies import make_images, make_layer, make_network


@pytest.fixture
def runner():
    return Runner(make_network(7, TINY))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_trace_adds_up_to_the_layers_events(runner, index):
    image = make_images(1, runner.network, 1)
    _, events = runner.run(image)
    layer = runner.network.layers[index]
    records = [r for w in range(layer.windows) for r in trace.network_trace(runner, image[0], index, w)]
    counted = events[0, index]
    assert counted.ou_activations == len(records) > 0
    assert counted.conversions == sum(r.started.sum() for r in records)
    assert counted.conversions_r2 == sum((r.range_flags & r.started).sum() for r in records)
    assert counted.ad_operations == sum(r.operations.sum() for r in records)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_trace_adds_up_to_the_partial_sums(runner, index):
    image = make_images(2, runner.network, 1)
    outputs, _ = runner.run_layers(image)
    layer = runner.network.layers[index]
    sums = np.zeros((1, layer.windows, layer.block_cols(TINY) * TINY.ou_cols), dtype=np.int64)
    for window in range(layer.windows):
        for r in trace.network_trace(runner, image[0], index, window):
            columns = slice(r.block_col * TINY.ou_cols, (r.block_col + 1) * TINY.ou_cols)
            signed = r.values[: TINY.ou_cols] - r.values[TINY.ou_cols :]
            sums[0, window, columns] += signed << (r.input_bit + r.plane)
    assert (sums[..., layer.outputs :] == 0).all()
    assert (finish_layer(layer, sums[..., : layer.outputs]) == outputs[index]).all()


def test_records_come_in_the_hardwares_order(runner):
    image = make_images(3, runner.network, 1)[0]
    records = list(trace.network_trace(runner, image, 1, 2))
    order = [(r.segment, r.input_bit, r.block_col, r.plane) for r in records]
    assert order == sorted(order)
    assert [r.index for r in records] == list(range(len(records)))


def test_all_input_bits_of_a_segment_use_the_same_cells(runner):
    cells = {}
    for r in trace.network_trace(runner, make_images(3, runner.network, 1)[0], 2, 0):
        place = (r.pair, r.ou_row, r.ou_col)
        assert cells.setdefault((r.segment, r.block_col, r.plane), place) == place
    assert len(set(cells.values())) == len(cells)
    assert min(pair for pair, _, _ in cells.values()) == runner.placement.layers[2].crossbar_base


def test_lanes_beyond_the_last_column_never_start():
    layer = make_layer(
        np.random.default_rng(0),
        TINY,
        kind="linear",
        channels=1,
        height=1,
        width=1,
        outputs=3,
        weights=np.array([[1, 1, 1]]),
        registers=AdcRegisters(mode="uniform", n_r2=3),
        last=True,
    )
    runner = Runner(Network(name="n", hardware=TINY, layers=(layer,)))
    records = list(trace.network_trace(runner, np.array([[[15]]], np.uint8), 0, 0))
    assert [r.started.tolist() for r in records[:2]] == [[True] * 4, [True, False, True, False]]
    assert records[1].codes.tolist() == [1, 0, 0, 0]
    assert records[1].cycles == 3


def test_positions_that_do_not_exist_are_refused(runner):
    image = make_images(3, runner.network, 1)[0]
    with pytest.raises(ValueError, match=r"layer_index must be in 0\.\.2, got 3"):
        trace.network_trace(runner, image, 3, 0)
    with pytest.raises(ValueError, match=r"window_index must be in 0\.\.35, got 36"):
        trace.network_trace(runner, image, 0, 36)
