"""Crossbars, utilisation, pipelines and area, worked out by hand and as properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import timing
from golden_model.config import PAPER, TINY
from golden_model.cost import baselines, work
from golden_model.cost.chip import Chip, ChipShape, ChipStage, chip, place_stage
from golden_model.cost.work import Machine
from tests.golden_model.oracles import baseline_events
from tests.golden_model.test_graph import SMALL, everything
from tests.strategies import graph_of, make_layer, make_network


def one_layer(channels=5, outputs=12, size=4, weights=None):
    """K = 45: 5 segments of 9 rows; 12 outputs: 2 block columns, 8 and 4 wide; 4 windows."""
    k = channels * 9
    layer = make_layer(
        np.random.default_rng(0), PAPER, channels=channels, height=size, width=size, kernel_height=3, kernel_width=3,
        outputs=outputs, weights=np.full((k, outputs), 127) if weights is None else weights,
    )  # fmt: skip
    return graph_of([layer], PAPER)


#: Rows of areas that only machines have that gather word lines or convert pairs.
PAIR_MACHINE = (
    "latch", "prefix_network", "multiplexer", "subtraction", "masks", "stop_words", "stop_adder", "line_buffer",
)  # fmt: skip


# ---- placement ----------------------------------------------------------------------------------
def test_a_layer_that_fills_ou_rows_unevenly():
    """2 block columns x 7 planes = 14 of 16 OUs in each of 5 OU rows of one pair (14 x 16)."""
    network = one_layer()
    placed = chip(Machine(network, baseline_events(network), widths=7)).stages[0].placement
    assert (placed.pairs, placed.ous, placed.places) == (1, 5 * 14, 224)
    assert placed.ou_utilisation == 70 / 224
    assert placed.weight_cells == 2 * 45 * 12 * 7
    assert placed.ou_cells == 70 * 144
    assert placed.cell_utilisation == (45 * 12 * 7) / (5 * 14 * 72)


def test_cells_of_an_edge_segment_are_not_weights():
    """K = 27 + 1: the last segment has one row of 9."""
    layer = make_layer(
        np.random.default_rng(0), PAPER, channels=28, height=1, width=1, kind="linear", outputs=8, last=True,
        weights=np.full((28, 8), 1),
    )  # fmt: skip
    network = graph_of([layer], PAPER)
    placed = chip(Machine(network, baselines.uniform_events(network))).stages[0].placement
    assert (placed.ous, placed.weight_cells) == (4, 2 * 28 * 8)


def test_a_pruned_layer_has_no_pair_and_still_a_macro():
    network = one_layer(weights=np.zeros((45, 12), dtype=np.int64))
    made = chip(Machine(network, baselines.uniform_events(network)))
    assert (made.pairs, made.macros, made.tiles) == (0, 1, 1)
    assert made.ou_utilisation == made.cell_utilisation == 0
    assert made.stages[0].clocks == baselines.uniform_events(network).cycles[0]


def test_the_busiest_macro_sets_the_share():
    placement = work.StagePlacement(PAPER, np.array([224, 224, 224, 100, 50]), 0, 0)
    assert placement.share(4) == (3 * 224 + 100) / (3 * 224 + 150)
    assert placement.share(1) == 224 / (3 * 224 + 150)
    assert work.StagePlacement(PAPER, np.zeros(0, dtype=np.int64), 0, 0).share(4) == 0


def test_every_group_starts_a_fresh_pair():
    made = everything()
    stage = work.stages(made)[3]
    placed = place_stage(stage, SMALL, [layer.block_widths for layer in stage.layers])
    alone = [place_stage(work.Stage("g", (layer,)), SMALL, [layer.block_widths]) for layer in stage.layers]
    assert placed.pairs == sum(p.pairs for p in alone)
    assert placed.ous == sum(p.ous for p in alone) == sum(int(x.block_widths.sum()) for x in stage.layers)
    assert placed.blocks == sum(layer.block_widths.size for layer in stage.layers)


# ---- clocks -------------------------------------------------------------------------------------
def test_a_layer_in_one_macro_takes_its_counted_clocks():
    network = one_layer()
    events = baseline_events(network)
    made = chip(Machine(network, events, widths=7))
    assert made.stages[0].clocks == made.latency_clocks == made.interval_clocks == events.cycles[0]
    assert made.utilisation == 1


def test_macros_share_the_conversions_of_a_layer():
    """64 segments x 8 block columns x 7 planes of a 3 x 3 convolution of 64 channels: 16 pairs, 4 macros."""
    layer = make_layer(
        np.random.default_rng(0), PAPER, channels=64, height=4, width=4, kernel_height=3, kernel_width=3, pad=1,
        outputs=64, weights=np.full((576, 64), 127),
    )  # fmt: skip
    network = graph_of([layer], PAPER)
    events = baseline_events(network)
    stage = chip(Machine(network, events, widths=7)).stages[0]
    # 56 OUs in a segment fill 3.5 OU rows, so 4; 256 OU rows fill 18.3 pairs of 14
    assert (stage.placement.pairs, stage.macros) == (19, 5)
    window = 576 + 8 + 64 + timing.c_window(PAPER)
    conversions = 64 * 8 * 7 * 8 * 4
    assert events.cycles[0] == timing.c_layer(PAPER) + 16 * (window + conversions)
    share = 14 * 56 / (64 * 56)  # 4 pairs hold 14 segments of 4 OU rows
    assert stage.clocks == pytest.approx(timing.c_layer(PAPER) + 16 * window + 16 * conversions * share)


def stage(clocks: float, *, windows=1000, pairs=1, macros=1) -> ChipStage:
    placement = work.StagePlacement(PAPER, np.full(pairs, 224), 224 * pairs * 144, 10)
    return ChipStage("s", placement, macros, 1, windows, 0.0, 0.0, clocks, 100, 100, 0.0)


def pipeline(*stages: ChipStage, shape=None) -> Chip:
    return Chip(PAPER, ChipShape() if shape is None else shape, True, stages)


def test_balancing_copies_the_slowest_layer_first():
    made = pipeline(stage(900.0), stage(300.0), shape=ChipShape(pairs_per_macro=1)).balanced(4)
    assert [s.copies for s in made.stages] == [3, 1]
    assert (made.interval_clocks, made.pairs, made.utilisation) == (300.0, 4, 1.0)


def test_balancing_counts_whole_macros():
    made = pipeline(stage(900.0), stage(300.0)).balanced(11)  # macros of 4 pairs: two fit, not three
    assert [s.copies for s in made.stages] == [1, 1]
    assert [s.copies for s in pipeline(stage(900.0), stage(300.0)).balanced(12).stages] == [2, 1]


def test_a_layer_has_at_most_one_copy_per_window():
    made = pipeline(stage(900.0, windows=2), stage(1.0), shape=ChipShape(pairs_per_macro=1)).balanced(100)
    assert [s.copies for s in made.stages] == [2, 1]


def test_a_budget_below_one_copy_is_refused():
    with pytest.raises(ValueError, match="the network needs macros of 8 crossbar pairs, the budget has 7"):
        pipeline(stage(2.0), stage(1.0)).balanced(7)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=5),
    st.integers(0, 60),
    st.integers(1, 5),
)
def test_more_crossbars_never_slow_a_pipeline_down(layers, extra, size):
    shape = ChipShape(pairs_per_macro=size)
    first = pipeline(*(stage(float(c), pairs=p, macros=-(-p // size), windows=w) for c, p, w in layers), shape=shape)
    budget = first.macros * size + extra
    less, more = first.balanced(budget), first.balanced(budget + size)
    assert more.interval_clocks <= less.interval_clocks <= first.interval_clocks
    assert less.latency_clocks <= first.latency_clocks
    assert less.macros * size <= budget
    assert 0 < less.utilisation <= 1 + 1e-9
    assert less.ou_utilisation == pytest.approx(1.0)


# ---- area ---------------------------------------------------------------------------------------
def test_area_is_units_times_rows():
    network = one_layer()
    machine = Machine(
        network, baselines.uniform_events(network), metadata_bits=np.array([1000.0]),
        held_bound_bits=np.array([50.0]),
    )  # fmt: skip
    made = chip(machine, ChipShape(pairs_per_macro=2, macros_per_tile=3, buffer_bytes=512))
    report = made.area("isaac-32nm")
    units = {
        "adc": 16,
        "sample_and_hold": 4 * 128,
        "crossbar": 4 * 128 * 128,
        "word_line_driver": 4 * 128,
        "shift_and_add": 16,
        "output_register": 2 * 8 * 32,
        "input_register": 45 * 8,
        "width_table": 10 * 4,
        "window_register": 0,
        "activation_table": 0,
        "metadata": 1000,
        "held_bounds": 50,
        "control": 1,
        "activation_buffer": 512 * 8,
        "bus": 1,
        "router": 1,
        "post_processing": 1,
        **dict.fromkeys(PAIR_MACHINE, 0),
    }
    assert {row.name: report.counts[:, j].sum() for j, row in enumerate(report.table.areas)} == units
    expected = sum(row.area_um2 * units[row.name] for row in report.table.areas)
    assert report.total_mm2 == pytest.approx(expected * 1e-6)
    assert sum(report.mm2_by_group.values()) == pytest.approx(report.total_mm2)
    rows = report.trace_rows()
    assert sum(r["units"] * r["area_um2"] for r in rows) == pytest.approx(expected)
    assert all(r["source"] and r["formula"] for r in rows)
    assert len(report.trace()) == sum(r["units"] > 0 for r in rows) + 1


def test_a_machine_without_width_table_has_no_room_for_one():
    network = one_layer()
    events = baseline_events(network)
    report = chip(Machine(network, events, widths=7, width_table=False)).area()
    place = [row.name for row in report.table.areas].index("width_table")
    assert report.counts[:, place].sum() == 0


def test_copies_take_area_and_tiles():
    made = pipeline(stage(900.0), stage(300.0))
    more = made.balanced(16 * 4)
    assert (made.macros, made.tiles, more.macros, more.tiles) == (2, 1, 16, 2)
    assert more.area().total_mm2 > made.area().total_mm2


def test_a_table_without_areas_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[[component]]\nname = "a"\ngroup = "g"\nquantity = "outputs"\nenergy_pj = 1\nderivation = "1e-12"\n'
        'source = "s"\nwhy = "w"\n'
    )
    with pytest.raises(ValueError, match=r"energy table mine: it has no \[\[area\]\] rows"):
        pipeline(stage(1.0)).area(path)


# ---- errors -------------------------------------------------------------------------------------
@pytest.mark.parametrize("field", ["pairs_per_macro", "macros_per_tile", "buffer_bytes"])
@pytest.mark.parametrize("value", [0, 1.5, True])
def test_bad_shapes_are_refused(field, value):
    with pytest.raises(ValueError, match=f"ChipShape.{field} must be an integer of at least 1, got {value!r}"):
        ChipShape(**{field: value})


def test_wrong_metadata_and_placements_are_refused():
    network = make_network(0, TINY)
    events = baseline_events(network)
    with pytest.raises(ValueError, match=r"metadata_bits must be 3 numbers, one per layer, got shape \(2,\)"):
        chip(Machine(network, events, metadata_bits=np.zeros(2)))
    with pytest.raises(ValueError, match="placements must be given for all 3 layers, got 1"):
        chip(Machine(network, events, placements=[work.StagePlacement(TINY, np.array([1]), 0, 0)]))
