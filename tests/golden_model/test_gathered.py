"""Packs of one group: the exact product, a walk over every row, and machines of them by hand."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import timing
from golden_model.config import ISAAC, PAPER, TINY, HardwareConfig
from golden_model.cost import machines
from golden_model.cost.energy import energy
from golden_model.crossbar import redy
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.engines.run_network import GraphRunner
from golden_model.graph import network as graph
from golden_model.graph.settings import lossless_registers, with_settings
from golden_model.pairs import gather
from golden_model.pairs.gather import MODES
from golden_model.pairs.packs import pack_layer
from golden_model.pairs.search import Search, counts_search
from golden_model.registers import COUNTER_NAMES
from golden_model.searches import choose as searches
from golden_model.searches.joint import gathered_counts
from golden_model.searches.trees import optimal_tree
from golden_model.trees import Tree, bounded_tree, depths
from golden_model.trq import AdcRegisters, tree_bits
from tests.golden_model.oracles import baseline_events
from tests.golden_model.test_graph import SMALL, everything, pixels
from tests.strategies import (
    dynamic_precisions,
    graph_of,
    hardware_configs,
    make_images,
    make_layer,
    make_weights,
    one_layer,
)


def lossless(hardware: HardwareConfig, rng: np.random.Generator) -> list[AdcRegisters]:
    """Every kind of search that gathering has, trees of random shape."""
    bits, rows = hardware.adc_bits, hardware.ou_rows
    trees = tuple(optimal_tree(rng.integers(0, 100, n + 1) ** 2) for n in range(1, rows + 1))
    return [
        AdcRegisters(mode="uniform", n_r2=bits),
        AdcRegisters(mode="bounded", n_r2=bits),
        AdcRegisters(mode="tree", n_r2=bits, trees=trees),
        AdcRegisters(mode="tree", n_r2=bits, trees=trees[-1:]),
        searches.low_first([""], hardware)[""],
    ]


def made_names(made: graph.Graph) -> list[str]:
    return [node.name for node in made.crossbars]


def both(hardware: HardwareConfig, rng: np.random.Generator) -> list[Search]:
    """The searches of both bit lines."""
    return [counts_search("", registers, hardware) for registers in lossless(hardware, rng)]


@st.composite
def cases(draw):
    """A linear layer on a small machine, windows, and whether groups are of segments or rows."""
    hardware = draw(hardware_configs())
    hardware = replace(hardware, adc_bits=max(hardware.adc_bits, hardware.ideal_bits))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    k, n = int(rng.integers(1, 40)), int(rng.integers(1, 10))
    by = draw(st.sampled_from(["segments", "rows"]))
    weights = make_weights(rng, k, n, hardware)
    if by == "rows":
        weights = np.clip(weights, -127, 127)
    bits = draw(st.integers(1, hardware.input_bits))
    layer = make_layer(
        rng, hardware, kind="linear", channels=k, height=1, width=1, outputs=n, weights=weights, input_bits=bits,
        dynamic=draw(st.none() | dynamic_precisions()), last=True,
    )  # fmt: skip
    if draw(st.booleans()):  # blocks may be wider than their weights need
        wider = layer.block_widths + rng.integers(0, 2, layer.block_widths.shape)
        layer = replace(layer, block_widths=np.minimum(wider, hardware.weight_bits))
    windows = rng.integers(0, 1 << bits, (5, k)) * (rng.random((5, k)) < draw(st.sampled_from([0.0, 0.3, 1.0])))
    if draw(st.booleans()):
        windows[:] = (1 << bits) - 1
    return hardware, layer, windows.astype(np.uint8), by, rng


def tree_of(registers: AdcRegisters, u: int) -> Tree | None:
    """The tree of thresholds that a search walks below u rows; None for uniform conversion."""
    if registers.mode == "uniform":
        return None
    if registers.mode == "bounded":
        return bounded_tree(u)
    return next(tree for tree in registers.trees if len(tree) >= u or tree is registers.trees[-1])


def packs_of(layer: Layer, hardware: HardwareConfig, by: str):
    """(plane, outputs, [(row, segment)], word lines), from the definition."""
    grid_rows, found = hardware.rows // hardware.ou_rows, []
    for first in range(0, layer.outputs, hardware.ou_cols):
        outputs = range(first, min(first + hardware.ou_cols, layer.outputs))
        for b in range(hardware.weight_bits):
            if by == "segments":
                stored = [s for s, row in enumerate(layer.block_widths) if row[first // hardware.ou_cols] > b]
                for at in range(0, len(stored), grid_rows):
                    part = stored[at : at + grid_rows]
                    rows = [(k, k // hardware.ou_rows) for k in range(layer.k) if k // hardware.ou_rows in part]
                    found.append((b, outputs, rows, len(part) * hardware.ou_rows))
            else:
                kept = [k for k in range(layer.k) if any(abs(int(layer.weights[k, n])) >> b & 1 for n in outputs)]
                most = grid_rows * hardware.ou_rows
                for at in range(0, len(kept), most):
                    rows = [(k, k // hardware.ou_rows) for k in kept[at : at + most]]
                    found.append((b, outputs, rows, len(rows)))
    return found


def walk(layer: Layer, hardware: HardwareConfig, windows: np.ndarray, by: str, registers: AdcRegisters):
    """Sums and events of every window, row by row, lane by lane."""
    shortest = max(1, hardware.sample_interval)
    segments = -(-layer.k // hardware.ou_rows)
    choice = None if layer.dynamic is None else redy.precision(windows, hardware, layer.dynamic)
    found = []
    for w, window in enumerate(windows.tolist() if choice is None else choice.streamed.tolist()):
        low, high = [0] * segments, [layer.input_bits - 1] * segments
        if choice is not None:
            group = [s // hardware.segments_per_group for s in range(segments)]
            low, high = [int(choice.lo[w, g]) for g in group], [int(choice.hi[w, g]) for g in group]
        one = dict.fromkeys(("ous", "operations", "scans", "rows", "input_bits", "lock_step", "decoupled"), 0)
        sums = [0] * layer.outputs
        one["input_bits"] = sum(high[s] - low[s] + 1 for s in range(segments)) * hardware.ou_rows
        for b, outputs, rows, lines in packs_of(layer, hardware, by):
            for i in range(layer.input_bits):
                streamed = [k for k, s in rows if low[s] <= i <= high[s]]
                if not streamed:
                    continue
                one["scans"] += 1
                one["rows"] += lines
                on = [k for k in streamed if window[k] >> i & 1]
                lanes, clocks, ous = {}, 0, 0
                while on:
                    ou, on = on[: hardware.ou_rows], on[hardware.ou_rows :]
                    tree, slowest = tree_of(registers, len(ou)), shortest
                    for n in outputs:
                        for sign in (1, -1):
                            count = sum(1 for k in ou if sign * int(layer.weights[k, n]) > 0 and
                                        abs(int(layer.weights[k, n])) >> b & 1)  # fmt: skip
                            spent = hardware.adc_bits if tree is None else int(depths(tree)[count])
                            lanes[n, sign] = lanes.get((n, sign), 0) + spent
                            slowest = max(slowest, spent)
                            sums[n] += sign * count << (i + b)
                    clocks += slowest
                    ous += 1
                one["ous"] += ous
                one["rows"] += ous * lines
                one["operations"] += sum(lanes.values())
                one["lock_step"] += max(1, clocks)
                one["decoupled"] += max([1, ous * shortest, *lanes.values()])
        found.append((sums, one))
    return found


# ---- equality -----------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(cases())
def test_sums_and_events_are_those_of_a_walk_over_every_row(case):
    hardware, layer, windows, by, rng = case
    packing = pack_layer(layer, hardware, "one", by=by)
    for registers in lossless(hardware, rng):
        sums, spent = gather.matmul(packing, windows, counts_search("", registers, hardware))
        expected = walk(layer, hardware, windows, by, registers)
        assert sums[0].tolist() == [one for one, _ in expected]
        clocks = dict(zip(MODES, spent.clocks[0], strict=True))
        for name, mine in (
            ("ous", spent.ou_activations), ("rows", spent.latched_lines + spent.prefix_rows),
            ("operations", spent.operations[0]), ("lock_step", clocks["lock step"]),
            ("decoupled", clocks["decoupled"]),
        ):  # fmt: skip
            assert mine.tolist() == [one[name] for _, one in expected], name


@pytest.mark.parametrize("hardware", [PAPER, ISAAC, replace(PAPER, rows=300, ou_rows=100, adc_bits=7)])
@pytest.mark.parametrize("full", [False, True])
def test_packs_of_many_words_agree(hardware, full):
    pytest.importorskip("numba")
    rng = np.random.default_rng(3)
    layer = make_layer(rng, hardware, kind="linear", channels=500, height=1, width=1, outputs=9, last=True,
                       weights=np.full((500, 9), 127) if full else rng.integers(-3, 4, (500, 9)))  # fmt: skip
    windows = np.full((2, 500), 255, dtype=np.uint8) if full else rng.integers(0, 256, (2, 500)).astype(np.uint8)
    packing, searching = pack_layer(layer, hardware, "one", by="segments"), both(hardware, rng)[:2]
    sums, plain = gather.matmul(packing, windows, searching)
    assert np.array_equal(sums[1], windows.astype(np.int64) @ layer.weights)
    spent = gather.spend(packing, windows, searching)
    for field in fields(gather.Spent):
        assert np.array_equal(getattr(spent, field.name), getattr(plain, field.name)), field.name


def test_windows_in_several_chunks_add_up(monkeypatch):
    rng = np.random.default_rng(0)
    layer = make_layer(rng, TINY, kind="linear", channels=20, height=1, width=1, outputs=5, last=True)
    windows = rng.integers(0, 16, (7, 20)).astype(np.uint8)
    packing, searching = pack_layer(layer, TINY, "one", by="segments"), both(TINY, rng)
    whole = gather.spend(packing, windows, searching)
    monkeypatch.setattr(gather, "_CHUNK_BYTES", 1)
    parts = gather.spend(packing, windows, searching)
    for field in fields(gather.Spent):
        assert np.array_equal(getattr(whole, field.name), getattr(parts, field.name)), field.name


# ---- by hand ------------------------------------------------------------------------------------
def measured(made: graph.Graph, images: np.ndarray, **settings: AdcRegisters) -> dict[str, machines.Machine]:
    """By setting, and by setting and " decoupled"."""
    by_layer = {name: dict.fromkeys(made_names(made), one) for name, one in settings.items()}
    found = machines.gathered(made, images, by_layer, decoupled=list(by_layer))
    return {one.name.replace(", lanes", ""): one for one in found}


def test_one_window_by_hand():
    """27 rows of 3 segments, widths 1, 0 and 2; 11 rows carry the value 1, one of them in the pruned segment.

    Plane 0 stores segments 0 and 2 (18 rows, 10 of them on: OUs of 9 rows and of 1), plane 1 segment 2 (9 rows, one
    on). The 9 rows count 9 in the first column, which takes 3 decisions below a bound of 9; a row alone takes 1.
    """
    weights = np.zeros((27, 3), dtype=np.int64)
    weights[:9, 0], weights[18:, 1] = 1, -2
    made = one_layer(weights)
    image = np.zeros((1, 27, 1, 1), dtype=np.uint8)
    image[0, [*range(10), 18]] = 1
    bits = PAPER.adc_bits
    trees = tuple(tuple(range(1, n + 1)) for n in range(1, 10))  # count up: 9 takes 9 decisions
    found = measured(
        made, image, uniform=AdcRegisters(mode="uniform", n_r2=bits), bounded=AdcRegisters(mode="bounded", n_r2=bits),
        tree=AdcRegisters(mode="tree", n_r2=bits, trees=trees),
    )  # fmt: skip
    decoupled = found.pop("tree decoupled")
    found = {name: found[name] for name in ("uniform", "bounded", "tree")}
    events = {name: dict(zip(COUNTER_NAMES, one.events[0].tolist(), strict=True)) for name, one in found.items()}
    fixed = timing.c_layer(PAPER) + int(timing.window_cycles(PAPER, 27, 3, np.zeros(1, dtype=np.int64)))
    empty = 2 * 7  # bits 1 to 7 of both packs are looked at for a clock each
    for one in events.values():
        assert one["ou_activations"] == 3
        assert one["conversions_r2"] == 3 * 6
        assert one["input_bits_streamed"] == 3 * 8
    assert events["uniform"]["ad_operations"] == 3 * 6 * 4
    assert events["uniform"]["cycles"] == fixed + empty + 3 * 4
    nine = depths(bounded_tree(9))
    assert events["bounded"]["ad_operations"] == nine[9] + 5 * nine[0] + 2 * 6
    assert events["bounded"]["cycles"] == fixed + empty + max(nine[9], nine[0]) + 1 + 1
    assert events["tree"]["ad_operations"] == 9 + 5 * 1 + 2 * 6
    assert events["tree"]["cycles"] == fixed + empty + 9 + 1 + 1
    assert decoupled.events[0, COUNTER_NAMES.index("cycles")] == fixed + empty + (9 + 1) + 1
    for name, one in found.items():
        assert one.extra["gathered_rows"].tolist() == [18 * (8 + 2) + 9 * (8 + 1)]
        assert one.extra.get("tree_bits_read", np.zeros(1)).tolist() == [
            events["tree"]["ad_operations"] * 4 * (name == "tree")
        ]
        assert "index_bits_read" not in one.extra
        assert one.metadata_bits is not None
        assert one.metadata_bits.tolist() == [tree_bits(AdcRegisters(mode="tree", n_r2=4, trees=trees), PAPER)
                                              if name == "tree" else 0]  # fmt: skip


def test_a_group_taller_than_a_crossbar_is_cut():
    hardware = replace(PAPER, rows=20)  # two OU rows of 9
    made = one_layer(np.ones((40, 1), dtype=np.int64), hardware)
    packing = pack_layer(made.layers[0], hardware, "one", by="segments")
    assert packing.rows.tolist() == list(range(45))
    assert [pack.lines for pack in packing.packs] == [18, 18, 9]
    image = np.ones((1, 40, 1, 1), dtype=np.uint8)
    one = measured(made, image, u=AdcRegisters(mode="uniform", n_r2=4))["u"]
    assert one.events[0, COUNTER_NAMES.index("ou_activations")] == 2 + 2 + 1
    assert one.placements is not None
    assert one.placements[0].pair_ous.tolist() == [2 + 2 + 1]
    assert one.placements[0].weight_cells == 2 * 40
    assert one.placements[0].blocks == 5


def test_units_do_not_reach_over_packs_planes_or_input_bits():
    """One row on in each of two packs, in two planes and two input bits: eight OUs of one row."""
    hardware = replace(PAPER, rows=9)
    made = one_layer(np.full((18, 1), 3), hardware)
    image = np.zeros((1, 18, 1, 1), dtype=np.uint8)
    image[0, [0, 17]] = 3
    one = measured(made, image, b=AdcRegisters(mode="bounded", n_r2=4))["b"]
    assert one.events[0, COUNTER_NAMES.index("ou_activations")] == 8


def test_a_pack_is_read_only_in_the_bits_that_dynamic_precision_streams():
    hardware = replace(PAPER, group_segments=1)
    made = one_layer(np.ones((18, 1), dtype=np.int64), hardware, dynamic=DynamicPrecision())
    image = np.zeros((1, 18, 1, 1), dtype=np.uint8)
    image[0, 0], image[0, 9] = 3, 4  # segments stream 2 and 3 bits, their pack the union
    one = measured(made, image, b=AdcRegisters(mode="bounded", n_r2=4))["b"]
    events = dict(zip(COUNTER_NAMES, one.events[0].tolist(), strict=True))
    assert (events["ou_activations"], events["input_bits_streamed"]) == (3, 2 + 3)
    assert one.extra["gathered_rows"].tolist() == [18 * (3 + 3)]


# ---- against others -----------------------------------------------------------------------------
def test_the_sre_like_machine_gathers_single_rows_and_converts_uniformly():
    """20 rows, of which 11 have the weight 1 in one column; inputs of 1 in all rows: 2 OUs of plane 0, bit 0."""
    weights = np.zeros((20, 3), dtype=np.int64)
    weights[:11, 1] = 1
    found = machines.sparse(one_layer(weights), np.ones((1, 20, 1, 1), dtype=np.uint8))
    events = dict(zip(COUNTER_NAMES, found.events[0].tolist(), strict=True))
    assert (events["ou_activations"], events["conversions_r2"], events["ad_operations"]) == (2, 12, 48)
    fixed = timing.c_layer(PAPER) + int(timing.window_cycles(PAPER, 20, 3, np.zeros(1, dtype=np.int64)))
    assert events["cycles"] == fixed + 2 * 4 + 7  # bits 1 to 7 of the pack are looked at for a clock each
    assert found.extra["index_bits_read"].tolist() == [20]  # a bit per row is shorter than 11 indices of 5 bits
    assert found.extra["gathered_rows"].tolist() == [11 * (8 + 2)]
    assert found.metadata_bits is not None
    assert found.metadata_bits.tolist() == [20]
    assert found.placements is not None
    assert (found.placements[0].pair_ous.tolist(), found.placements[0].weight_cells) == ([2], 2 * 11 * 3)


def test_few_rows_are_stored_as_indices():
    weights = np.zeros((20, 3), dtype=np.int64)
    weights[3:5, 1] = 1
    assert pack_layer(one_layer(weights).layers[0], PAPER, by="rows").mask_bits == 2 * 5


@pytest.mark.parametrize("adc_bits", [2, 8])
def test_the_sre_like_machine_takes_the_decisions_that_an_exact_count_needs(adc_bits):
    made = with_settings(everything(1), dynamic={"stem": DynamicPrecision()})
    lossy = AdcRegisters(mode="uniform", n_r2=adc_bits)
    other = with_settings(
        replace(made, hardware=replace(SMALL, adc_bits=adc_bits)), registers=dict.fromkeys(made_names(made), lossy)
    )
    found = machines.sparse(other, pixels(1, made, 1))
    assert found.total("ad_operations") == found.conversions * SMALL.ideal_bits > 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_the_sre_like_machine_never_forms_more_units_than_the_baseline(seed):
    made = everything(seed)
    found = machines.sparse(made, pixels(seed, made, 2)).events[:, COUNTER_NAMES.index("ou_activations")]
    assert (found <= baseline_events(made, SMALL.weight_bits).ou_activations).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_gathering_never_forms_more_units_than_block_widths_with_zero_slices_skipped(seed):
    rng = np.random.default_rng(seed)
    layer = make_layer(rng, TINY, channels=6, height=2, width=2, kind="linear", outputs=5, last=True)
    made = graph_of([replace(layer, skip_zero_slices=True)], TINY)
    images = make_images(seed, made, 2)
    dense = GraphRunner(made).run(images)[1].ou_activations.mean()
    found = measured(made, images, u=lossless_registers(TINY))["u"]
    assert found.events[0, COUNTER_NAMES.index("ou_activations")] <= dense


@pytest.mark.parametrize("by", ["segments", "rows"])
def test_trees_of_the_same_images_take_the_operations_that_their_counts_say(by):
    made = everything(1)
    images = pixels(1, made, 2)
    seen = gathered_counts(made, images, by=by)
    settings = {
        "uniform": searches.uniform(seen, SMALL),
        "bounded": searches.bounded(seen, SMALL),
        "trees": searches.trees(seen, SMALL, column_bound_bits=0),
        "low first": searches.low_first(seen, SMALL),
    }
    found = machines.gathered(made, images, settings, by=by)
    operations = {one.name: one.events[:, COUNTER_NAMES.index("ad_operations")] for one in found}
    for name, registers in settings.items():
        expected = searches.expected_operations(seen, registers, SMALL) / 2
        assert operations[name].tolist() == expected.tolist()
    for name in ("bounded", "low first"):
        assert (operations["trees"] <= operations[name]).all()


# ---- machines -----------------------------------------------------------------------------------
def test_the_machine_pays_for_gathering_trees_and_widths():
    made = with_settings(everything(2), dynamic={"stem": DynamicPrecision()})
    images = pixels(2, made, 2)
    seen = gathered_counts(made, images)
    settings = {
        "bounded": searches.bounded(seen, SMALL),
        "trees": searches.trees(seen, SMALL, column_bound_bits=0),
    }
    bounded, trees, decoupled = machines.gathered(made, images, settings, decoupled=["trees"], notes={"trees": "x"})
    assert [m.name for m in (bounded, trees, decoupled)] == ["bounded", "trees", "trees, lanes decoupled"]
    assert set(bounded.extra) == {"gathered_rows", "leading_one_inputs"}
    assert set(trees.extra) == {*bounded.extra, "tree_bits_read"}
    assert trees.note == "x"
    assert decoupled.clocks <= trees.clocks
    rows = machines.compare([machines.baseline(made), bounded, trees, decoupled], "mixed-45nm")
    report = rows[1].energy
    named = dict(zip([c.name for c in report.table.components], report.counts.sum(axis=0).tolist(), strict=True))
    assert named["gather"] == bounded.extra["gathered_rows"].sum() * SMALL.ideal_bits > 0
    assert named["width_table"] > 0
    assert rows[1].chip.pairs == sum(p.pairs for p in bounded.placements or ())
    rival = machines.gathered(made, images, settings, by="rows")[0]
    paid = energy(rival)
    named = dict(zip([c.name for c in paid.table.components], paid.counts.sum(axis=0).tolist(), strict=True))
    assert named["width_table"] == 0
    assert named["row_index"] > 0


# ---- errors -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("registers", "message"),
    [
        (AdcRegisters(mode="bounded", n_r2=4, column_bound_bits=1), "column_bound_bits must be None or 0, got 1"),
        (AdcRegisters(mode="twin", n_r2=2, n_r1=1, m=2), r"counts 0\.\.9 must convert to themselves"),
        (AdcRegisters(mode="uniform", n_r2=3), r"counts 0\.\.9 must convert to themselves"),
    ],
)
def test_searches_that_gathering_cannot_use_are_refused(registers, message):
    made = one_layer(np.ones((4, 1), dtype=int))
    with pytest.raises(ValueError, match=f"mine, layer layer: {message}"):
        measured(made, np.ones((1, 4, 1, 1), dtype=np.uint8), mine=registers)


def test_at_least_one_image_is_needed():
    with pytest.raises(ValueError, match="at least one image"):
        measured(one_layer(np.ones((4, 1), dtype=int)), np.zeros((0, 4, 1, 1), dtype=np.uint8))


def test_packs_are_of_blocks_segments_or_rows():
    made = one_layer(np.ones((4, 1), dtype=int))
    with pytest.raises(ValueError, match="by must be 'blocks', 'segments' or 'rows', got 'columns'"):
        pack_layer(made.layers[0], PAPER, by="columns")  # type: ignore[arg-type]


def test_rows_may_need_more_planes_than_the_baseline_has():
    packing = pack_layer(one_layer(np.full((4, 1), 200)).layers[0], PAPER, by="rows")
    assert [group.plane for pack in packing.packs for mask in pack.masks for group in mask.groups] == [3, 6, 7]


def test_nothing_stored_costs_nothing():
    made = one_layer(np.zeros((20, 3), dtype=np.int64))
    one = measured(made, np.full((1, 20, 1, 1), 255, dtype=np.uint8), b=AdcRegisters(mode="bounded", n_r2=4))["b"]
    assert one.events[0, COUNTER_NAMES.index("conversions_r2")] == 0
    assert one.placements is not None
    assert (one.extra, one.placements[0].pairs) == ({}, 0)
