"""Events of the machines to compare with: against the golden model and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import PAPER, TINY
from golden_model.cost import baselines
from golden_model.engines.run_network import GraphRunner
from golden_model.events import Events
from golden_model.graph.settings import on_machine, with_settings
from tests.golden_model.oracles import baseline_events
from tests.golden_model.test_graph import SMALL, everything, pixels
from tests.strategies import graph_of, make_images, make_layer, make_network


def counters(events, *names):
    return {name: np.asarray(events[name], dtype=np.float64).tolist() for name in names}


# ---- from the geometry --------------------------------------------------------------------------
def test_block_widths_are_what_the_golden_model_counts_without_skipping():
    made = everything()
    events = GraphRunner(made).run(pixels(0, made, 2))[1]
    assert events[0] == events[1] == baselines.uniform_events(made)


def test_narrow_activations_are_what_the_golden_model_counts_without_skipping():
    made = with_settings(everything(), activation_bits={"stem": 3, "sum": 5, "cat": 6})
    counted = GraphRunner(made).run(pixels(0, made, 1))[1][0]
    assert counted == baselines.uniform_events(made, own_input_bits=True)
    assert counted != baselines.uniform_events(made)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_blocks_never_do_more_than_layers_and_layers_never_more_than_the_baseline(seed):
    made = everything(seed)
    all_planes = baseline_events(made, SMALL.weight_bits)
    layer, block = baselines.uniform_events(made, baselines.layer_wise_widths(made)), baselines.uniform_events(made)
    for name in ("ou_activations", "conversions_r2", "ad_operations", "cycles"):
        assert (block[name] <= layer[name]).all()
        assert (layer[name] <= all_planes[name]).all()
    assert block.dense.tolist() == layer.dense.tolist() == all_planes.dense.tolist()


def test_groups_of_a_node_share_the_width_of_a_layer():
    made = everything()
    widths = baselines.layer_wise_widths(made)
    places = {node.name: i for i, node in enumerate(made.crossbars)}
    assert len(widths) == len(made.layers) == 6
    one, other = widths[places["groups"]], widths[places["groups"] + 1]
    widest = max(int(layer.block_widths.max()) for layer in made.node("groups").layers)
    assert set(one.ravel()) == set(other.ravel()) == {widest}


def test_the_idealised_machine_switches_all_rows_on_at_once():
    """18 inputs, 3 outputs, 4 windows: 1 segment, 1 block column, 7 planes, 8 bits, 8 operations, both polarities."""
    rng = np.random.default_rng(0)
    layer = make_layer(
        rng, PAPER, channels=2, height=4, width=4, kernel_height=3, kernel_width=3, outputs=3,
        weights=rng.integers(-100, 101, (18, 3)),
    )  # fmt: skip
    network = graph_of([layer], PAPER)
    moved = on_machine(network, baselines.idealised(PAPER))
    events = baselines.uniform_events(moved, 7, 8)
    assert (moved.hardware.ou_rows, moved.hardware.adc_bits, moved.hardware.ou_cols) == (128, 8, 8)
    assert counters(events, "ou_activations", "conversions_r2", "ad_operations") == {
        "ou_activations": [4 * 7 * 8],
        "conversions_r2": [4 * 7 * 8 * 2 * 3],
        "ad_operations": [4 * 7 * 8 * 2 * 3 * 8],
    }


@pytest.mark.parametrize("count", [5, 7])
def test_widths_must_be_given_for_every_layer(count):
    with pytest.raises(ValueError, match=f"block widths must be given for all 6 layers, got {count}"):
        baselines.uniform_events(everything(), [np.ones((1, 1), dtype=int)] * count)


def test_plain_networks_count_like_the_block_widths():
    made = on_machine(make_network(2, TINY), TINY)
    events = GraphRunner(made).run(make_images(2, made, 1))[1]
    assert events[0] == baselines.uniform_events(made)
    assert isinstance(events, Events)
