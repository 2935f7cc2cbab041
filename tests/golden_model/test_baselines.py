"""Events of the machines to compare with: against the golden model, by hand, and against a slow count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import timing
from golden_model.config import PAPER, TINY, HardwareConfig
from golden_model.cost import baselines
from golden_model.crossbar import mapping
from golden_model.crossbar.windows import windows
from golden_model.engines.run_network import GraphRunner
from golden_model.events import Events
from golden_model.graph.network import Graph
from golden_model.graph.settings import lossless_uniform, with_settings
from golden_model.registers import COUNTER_NAMES
from tests.golden_model.test_graph import SMALL, everything, pixels
from tests.strategies import graph_of, make_images, make_layer, make_network, one_layer


def plain(network: Graph) -> Graph:
    """The network with lossless uniform converters and nothing skipped."""
    names = [node.name for node in network.crossbars]
    uniform = dict.fromkeys(names, lossless_uniform(network.hardware))
    return with_settings(network, registers=uniform, dynamic=dict.fromkeys(names), skip_zero_slices=False)


def counters(events, *names):
    return {name: np.asarray(events[name], dtype=np.float64).tolist() for name in names}


# ---- from the geometry --------------------------------------------------------------------------
def test_block_widths_are_what_the_golden_model_counts_without_skipping():
    made = everything()
    events = GraphRunner(made).run(pixels(0, made, 2))[1]
    assert events[0] == events[1] == baselines.block_width_events(made)


def test_narrow_activations_are_what_the_golden_model_counts_without_skipping():
    made = with_settings(everything(), activation_bits={"stem": 3, "sum": 5, "cat": 6})
    counted = GraphRunner(made).run(pixels(0, made, 1))[1][0]
    assert counted == baselines.block_width_events(made, own_input_bits=True)
    assert counted != baselines.block_width_events(made)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_blocks_never_do_more_than_layers_and_layers_never_more_than_the_baseline(seed):
    made = everything(seed)
    all_planes = baselines.baseline_events(made, SMALL.weight_bits)
    layer, block = baselines.layer_wise_events(made), baselines.block_width_events(made)
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
    moved = baselines.on_hardware(network, baselines.idealised(PAPER))
    events = baselines.uniform_events(moved, 7, 8)
    assert (moved.hardware.ou_rows, moved.hardware.adc_bits, moved.hardware.ou_cols) == (128, 8, 8)
    assert counters(events, "ou_activations", "conversions_r2", "ad_operations") == {
        "ou_activations": [4 * 7 * 8],
        "conversions_r2": [4 * 7 * 8 * 2 * 3],
        "ad_operations": [4 * 7 * 8 * 2 * 3 * 8],
    }


def test_other_hardware_takes_the_widths_anew():
    made = everything()
    wide = replace(SMALL, ou_rows=12, adc_bits=4)
    moved = baselines.on_hardware(made, wide)
    assert [layer.name for layer in moved.layers] == [layer.name for layer in made.layers]
    for layer in moved.layers:
        assert np.array_equal(layer.block_widths, mapping.block_widths(layer.weights, wide))


@pytest.mark.parametrize("count", [5, 7])
def test_widths_must_be_given_for_every_layer(count):
    with pytest.raises(ValueError, match=f"block widths must be given for all 6 layers, got {count}"):
        baselines.uniform_events(everything(), [np.ones((1, 1), dtype=int)] * count)


# ---- in the manner of SRE -----------------------------------------------------------------------
def slow_sparse(layer, hardware: HardwareConfig, activations, planes: int, mixed: bool, skip: bool) -> dict[str, int]:
    """Goes through windows, groups, packs, input bits and rows one by one."""
    columns = [[(n, b)] for n in range(layer.outputs) for b in range(planes)]
    lines = [line[0] for line in columns]
    if not mixed:
        lines = []
        for start in range(0, layer.outputs, hardware.ou_cols):
            for b in range(planes):
                lines += [(n, b) for n in range(start, min(start + hardware.ou_cols, layer.outputs))]
    groups, at = [], 0
    while at < len(lines):
        size = hardware.ou_cols
        if not mixed:  # the last block column may be narrow
            size = min(size, layer.outputs - lines[at][0])
        groups.append(lines[at : at + size])
        at += size
    found = {"ou_activations": 0, "conversions_r2": 0, "index_bits": 0}
    most = hardware.rows // hardware.ou_rows * hardware.ou_rows
    rows = windows(layer, activations).reshape(-1, layer.k)
    for group in groups:
        kept = [k for k in range(layer.k) if any(abs(int(layer.weights[k, n])) >> b & 1 for n, b in group)]
        found["index_bits"] += min(layer.k, len(kept) * max(1, (layer.k - 1).bit_length()))
        for start in range(0, len(kept), most):
            pack = kept[start : start + most]
            for window in rows:
                for i in range(layer.input_bits if skip else hardware.input_bits):
                    on = sum(int(window[k]) >> i & 1 for k in pack) if skip else len(pack)
                    ous = (on + hardware.ou_rows - 1) // hardware.ou_rows
                    found["ou_activations"] += ous
                    found["conversions_r2"] += ous * 2 * len(group)
    return found


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.booleans(), st.booleans())
def test_sparse_events_equal_a_walk_over_every_row(seed, mixed, skip, zeros):
    rng = np.random.default_rng(seed)
    hardware = replace(TINY, rows=int(rng.integers(4, 17)))
    layer = make_layer(
        rng, hardware, channels=int(rng.integers(1, 4)), height=3, width=3, kernel_height=2, kernel_width=2,
        outputs=int(rng.integers(1, 6)), last=True, kind="linear",
    )  # fmt: skip
    network = graph_of([layer], hardware)
    images = make_images(seed, network, 2)
    images[rng.random(images.shape) < 0.5 * zeros] = 0
    found = baselines.sparse_events(network, images, mixed_significance=mixed, skip_inputs=skip)
    expected = slow_sparse(layer, hardware, images, hardware.weight_bits, mixed, skip)
    events = {name: found.events[0, COUNTER_NAMES.index(name)] for name in COUNTER_NAMES}
    assert events["ou_activations"] == expected["ou_activations"] / 2
    assert events["conversions_r2"] == expected["conversions_r2"] / 2
    assert events["ad_operations"] == expected["conversions_r2"] / 2 * hardware.ideal_bits
    bits = layer.input_bits if skip else hardware.input_bits
    assert events["input_bits_streamed"] == layer.segments(hardware) * layer.windows * bits
    assert found.index_bits[0] == expected["index_bits"]
    assert found.index_bits_read[0] == expected["index_bits"] * layer.windows


def test_only_rows_with_weights_and_inputs_are_switched_on():
    """20 rows, of which 11 have the weight 1 in one column; inputs of 1 in all rows: 2 OUs of plane 0, bit 0."""
    weights = np.zeros((20, 3), dtype=np.int64)
    weights[:11, 1] = 1
    network = one_layer(weights)
    images = np.ones((1, 20, 1, 1), dtype=np.uint8)
    found = baselines.sparse_events(network, images)
    events = dict(zip(COUNTER_NAMES, found.events[0].tolist(), strict=True))
    assert events["ou_activations"] == 2
    assert events["conversions_r2"] == 2 * 2 * 3
    assert events["ad_operations"] == 2 * 2 * 3 * 4
    fixed = int(timing.window_cycles(PAPER, 20, 3, np.zeros(1, dtype=np.int64)))
    assert events["cycles"] == timing.c_layer(PAPER) + fixed + 2 * 4
    assert found.rows_kept == 11 / (7 * 20)
    assert found.index_bits.tolist() == [20]  # a bit per row is shorter than 11 indices of 5 bits; 6 groups are empty
    assert found.placements[0].pair_ous.tolist() == [2]
    assert found.placements[0].weight_cells == 2 * 11 * 3


def test_few_rows_are_stored_as_indices():
    weights = np.zeros((20, 3), dtype=np.int64)
    weights[3:5, 1] = 1
    found = baselines.sparse_events(one_layer(weights), np.ones((1, 20, 1, 1), dtype=np.uint8))
    assert found.index_bits.tolist() == [2 * 5]


def test_zero_inputs_cost_nothing_unless_inputs_are_not_skipped():
    network = one_layer(np.full((20, 3), 5))
    images = np.zeros((1, 20, 1, 1), dtype=np.uint8)
    ou = COUNTER_NAMES.index("ou_activations")
    assert baselines.sparse_events(network, images).events[0, ou] == 0
    weights_only = baselines.sparse_events(network, images, skip_inputs=False)
    assert weights_only.events[0, ou] == 2 * 3 * 8  # 5 = 101: 2 planes of 3 OUs each, 8 bits


def test_zero_weights_cost_nothing():
    network = one_layer(np.zeros((20, 3), dtype=np.int64))
    found = baselines.sparse_events(network, np.full((1, 20, 1, 1), 255, dtype=np.uint8))
    assert found.events[0, COUNTER_NAMES.index("ad_operations")] == 0
    assert (found.placements[0].pairs, found.index_bits[0]) == (0, 0)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_sparse_never_does_more_than_the_baseline_and_skipping_inputs_never_costs(seed):
    made = everything(seed)
    images = pixels(seed, made, 2)
    ou = COUNTER_NAMES.index("ou_activations")
    # Whole OUs, so that rows of a group are packed no worse than segments.
    sparse = baselines.sparse_events(made, images, planes=SMALL.weight_bits).events[:, ou]
    weights_only = baselines.sparse_events(made, images, planes=SMALL.weight_bits, skip_inputs=False).events[:, ou]
    dense = baselines.baseline_events(made, SMALL.weight_bits).ou_activations
    assert (sparse <= weights_only).all()
    assert (weights_only <= dense).all()


def test_wide_weights_get_the_planes_that_they_need():
    images = np.full((1, 4, 1, 1), 255, dtype=np.uint8)
    wide, narrow = (baselines.sparse_events(one_layer(np.full((4, 1), w)), images) for w in (200, 100))
    ou = COUNTER_NAMES.index("ou_activations")
    assert wide.events[0, ou] == narrow.events[0, ou] == 3 * 8  # 200 and 100 have three 1s


def test_weights_that_need_more_planes_are_refused():
    with pytest.raises(ValueError, match="layer layer: its weights need more than 2 planes"):
        baselines.sparse_events(one_layer(np.full((4, 1), 4)), np.zeros((1, 4, 1, 1), dtype=np.uint8), planes=2)


def test_at_least_one_image_is_needed():
    with pytest.raises(ValueError, match="at least one image"):
        baselines.sparse_events(one_layer(np.ones((4, 1), dtype=int)), np.zeros((0, 4, 1, 1), dtype=np.uint8))


def test_plain_networks_count_like_the_block_widths():
    made = plain(make_network(2, TINY))
    events = GraphRunner(made).run(make_images(2, made, 1))[1]
    assert events[0] == baselines.block_width_events(made)
    assert isinstance(events, Events)
