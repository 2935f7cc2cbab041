"""Whole networks on the pair machine: runner, interpreter, program."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import layer as golden_layer
from golden_model import timing
from golden_model.config import PRESETS, TINY
from golden_model.crossbar import mapping
from golden_model.engines.run_layer import run_layer
from golden_model.engines.run_network import GraphRunner
from golden_model.events import Events
from golden_model.graph.check import accumulator_bits_needed
from golden_model.graph.network import Graph
from golden_model.graph.settings import lossless_registers, with_settings
from golden_model.image.describe import events_table
from golden_model.image.interpreter import Interpreter
from golden_model.image.program import fitting, needs, plan
from golden_model.optional import numba_installed
from golden_model.pairs import gather
from golden_model.pairs.machine import build_clocks, step_clocks
from golden_model.pairs.packs import pack_layer, place_layer
from golden_model.pairs.search import search_of
from golden_model.registers import pack_descriptor
from golden_model.trq import AdcRegisters, lossless
from tests.golden_model.random_graphs import (
    NINE_PAIRS,
    SMALL,
    SMALL_PAIRS,
    random_images,
    random_network,
    random_networks,
)
from tests.golden_model.test_program import check
from tests.strategies import make_layer

compiled = pytest.mark.skipif(not numba_installed(), reason="needs numba")


def on_pairs(graph: Graph) -> Graph:
    """The network on the pair machine, lossless."""
    return with_settings(graph, hardware=replace(graph.hardware, machine="pairs"))


def mixed_layer(seed: int, hardware, **fields):
    """A fully connected layer of mixed block widths, some of them 0."""
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(1, 6 * hardware.ou_rows)), int(rng.integers(1, 5 * hardware.ou_cols))
    shape = -(-k // hardware.ou_rows), -(-n // hardware.ou_cols)
    widths = rng.integers(0, hardware.weight_bits + 1, shape)
    limit = np.kron((1 << widths) - 1, np.ones((hardware.ou_rows, hardware.ou_cols), dtype=np.int64))[:k, :n]
    return make_layer(
        rng, hardware, kind="linear", channels=k, height=1, width=1, outputs=n, weights=rng.integers(-limit, limit + 1),
        block_widths=widths, **fields,
    )  # fmt: skip


# ---- places -------------------------------------------------------------------------------------
@given(st.integers(0, 10_000))
def test_weights_come_back_from_the_cells_that_block_widths_point_at(seed):
    hardware = SMALL_PAIRS
    layer = mixed_layer(seed, hardware)
    placed = place_layer(layer.block_widths, hardware, crossbar_base=2)
    cells = mapping.empty_cells(hardware, 2 + placed.pairs)
    mapping.program_layer(cells, placed, layer.weights, hardware)
    packing = pack_layer(layer, hardware)
    assert placed.pairs == packing.pairs
    read = np.zeros_like(cells)
    for pack in packing.packs:
        for group in (group for mask in pack.masks for group in mask.groups):
            columns = len(group.columns)
            for lanes, stored in ((0, group.positive), (hardware.ou_cols, group.negative)):
                rows = stored.reshape(columns, pack.segments, hardware.ou_rows).transpose(1, 0, 2)
                read[2 + group.pair, : pack.segments, group.ou_col, lanes : lanes + columns] = rows
    assert np.array_equal(cells, read)


@given(st.integers(0, 10_000))
def test_every_bit_plane_of_every_block_has_a_place_of_its_own(seed):
    layer = mixed_layer(seed, NINE_PAIRS)
    placed = place_layer(layer.block_widths, NINE_PAIRS)
    whole = mapping.place_layer(layer.block_widths, NINE_PAIRS)
    for name in ("segment", "block_col", "plane", "first"):
        assert np.array_equal(getattr(placed, name), getattr(whole, name)), name
    assert len({*zip(placed.pair.tolist(), placed.ou_row.tolist(), placed.ou_col.tolist(), strict=True)}) == placed.ous
    assert placed.ou_row.max(initial=0) < NINE_PAIRS.grid_rows
    assert placed.ou_col.max(initial=0) < NINE_PAIRS.grid_cols
    assert placed.pair.max(initial=-1) < placed.pairs


def test_the_pairs_of_half_1_follow_those_of_half_0():
    # TINY: 2 x 4 OUs a pair. Block columns 0 and 3 are in half 0, 1 and 2 in half 1.
    placed = place_layer(np.array([[3, 2, 1, 3]]), replace(TINY, machine="pairs"), crossbar_base=5)
    at = {(c, b): (pair, ou_col) for c, b, pair, ou_col in zip(
        placed.block_col.tolist(), placed.plane.tolist(), placed.pair.tolist(), placed.ou_col.tolist(), strict=True
    )}  # fmt: skip
    assert [at[0, b] for b in range(3)] == [(5, 0), (5, 1), (5, 2)]
    assert [at[3, b] for b in range(3)] == [(5, 3), (6, 0), (6, 1)]
    assert [at[1, 0], at[1, 1], at[2, 0]] == [(7, 0), (7, 1), (7, 2)]
    assert placed.pairs == 3


# ---- layers -------------------------------------------------------------------------------------
@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_a_layer_counts_what_its_windows_spend_and_keeps_time_step_by_step(seed):
    hardware = SMALL_PAIRS
    layer = mixed_layer(seed, hardware, input_bits=4)
    images = np.random.default_rng(seed).integers(0, 16, (3, layer.k, 1, 1)).astype(np.uint8)
    _, events = run_layer(layer, hardware, images, engine="direct")
    packing, rows = pack_layer(layer, hardware), images.reshape(3, -1)
    search = search_of(layer.registers, hardware)
    _, spent = gather.matmul(packing, rows, search)
    for name, wanted in (
        ("ou_activations", spent.ou_activations),
        ("conversions_r2", spent.pairs_converted),
        ("ad_operations", spent.operations[0]),
        ("input_bits_streamed", spent.latched_lines // hardware.ou_rows),
        ("prefix_counts", spent.prefix_counts),
        ("prefix_rows", spent.prefix_rows),
        ("mask_bits_read", spent.mask_bits),
    ):
        assert events[name].tolist() == wanted.tolist(), name
    for name in ("skipped_planes", "skipped_bits", "skipped_zero_slices", "conversions_r1"):
        assert not events[name].any()
    beats = timing.beats(hardware, (layer.k, 1, 1), layer.outputs, build_clocks(packing))
    clocks = step_clocks(packing, rows, search, timing.rounds(1, 1, 1, 1), beats, plain=True).step
    cycles = timing.c_layer(hardware) + clocks
    assert events.cycles.tolist() == cycles.tolist()


def any_registers(bits: int) -> st.SearchStrategy[AdcRegisters]:
    whole = [AdcRegisters(mode=mode, n_r2=bits) for mode in ("outward", "bounded", "uniform")]
    coarse = [
        AdcRegisters(mode="uniform", n_r2=bits - 1),
        AdcRegisters(mode="uniform", n_r2=bits - 2, m=1),
        AdcRegisters(mode="twin", n_r2=bits - 1, m=1, n_r1=1),
    ]
    return st.sampled_from(whole + coarse)


@compiled
@given(st.integers(0, 10_000), any_registers(SMALL_PAIRS.converter_bits), st.booleans())
@settings(max_examples=40)
def test_plain_and_compiled_layers_are_equal(seed, registers, dynamic):
    made = random_network(seed, SMALL_PAIRS, ("convolution",), 1).layers[0]
    layer = replace(made, registers=registers, dynamic=made.dynamic if dynamic else None)
    images = np.random.default_rng(seed).integers(
        0, 1 << layer.input_bits, (2, layer.channels, layer.height, layer.width)
    )
    plain, compiled = (
        run_layer(layer, SMALL_PAIRS, images.astype(np.uint8), engine=engine, finish=lambda _, one: one)
        for engine in ("direct", "compiled")
    )
    assert np.array_equal(plain[0], compiled[0])
    assert plain[1] == compiled[1]


def test_a_matrix_product_is_exact_and_counted():
    rng = np.random.default_rng(0)
    x, weights = rng.integers(0, 16, (5, 9)), rng.integers(-7, 8, (9, 5))
    outward = AdcRegisters(mode="outward", n_r2=SMALL_PAIRS.converter_bits)
    sums, events = golden_layer.matmul(x, weights, SMALL_PAIRS, outward)
    assert np.array_equal(sums, x @ weights)
    assert events.prefix_counts > 0
    with pytest.raises(ValueError, match="no window has clocks of its own"):
        golden_layer.matmul(x, weights, SMALL_PAIRS, outward, per_window=True, engine="direct")
    with pytest.raises(ValueError, match="early_detection: the pair machine always makes both decisions"):
        golden_layer.matmul(x, weights, SMALL_PAIRS, outward, early_detection=True)


@pytest.mark.parametrize("engine", ["patterns", "torch"])
def test_engines_of_the_other_machine_are_refused_by_name(engine):
    network = on_pairs(random_network(3, SMALL))
    with pytest.raises(
        ValueError, match=f"engine must be 'auto', 'direct' or 'compiled' on the pair machine, got '{engine}'"
    ):
        GraphRunner(network, engine=engine).run(random_images(0, network, 1))


@given(st.integers(0, 10_000), any_registers(SMALL_PAIRS.converter_bits))
def test_accumulators_hold_the_largest_sum_that_a_layer_can_have(seed, registers):
    layer = mixed_layer(seed, SMALL_PAIRS, input_bits=4, registers=registers)
    layer = replace(layer, bias=np.zeros(layer.outputs, dtype=np.int64))
    worst = np.full((1, layer.k), 15, dtype=np.uint8)
    sums, _ = gather.matmul(pack_layer(layer, SMALL_PAIRS), worst, search_of(registers, SMALL_PAIRS))
    assert int(abs(sums).max()).bit_length() + 1 <= accumulator_bits_needed(layer, SMALL_PAIRS)


# ---- networks -----------------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(random_networks(SMALL_PAIRS), st.integers(0, 99))
def test_interpreter_and_runner_agree_on_any_network(network, seed):
    check(network, random_images(seed, network, 2))


@settings(max_examples=10, deadline=None)
@given(random_networks(NINE_PAIRS, most=3), st.integers(0, 99))
def test_interpreter_and_runner_agree_on_nine_rows(network, seed):
    check(network, random_images(seed, network, 2), engine="auto")


@settings(max_examples=25, deadline=None)
@given(random_networks(SMALL), st.integers(0, 99))
def test_without_loss_both_machines_give_the_same_logits(network, seed):
    names = [node.name for node in network.crossbars]
    planes = with_settings(network, registers=dict.fromkeys(names, lossless_registers(SMALL)))
    pairs = on_pairs(network)
    assert all(lossless(layer.registers, pairs.hardware) for layer in pairs.layers)
    images = random_images(seed, network, 3)
    assert np.array_equal(GraphRunner(planes).run(images)[0], GraphRunner(pairs).run(images)[0])


@compiled
@settings(max_examples=10, deadline=None)
@given(random_networks(SMALL_PAIRS, most=4), st.integers(0, 99))
def test_plain_and_compiled_networks_are_equal(network, seed):
    images = random_images(seed, network, 2)
    (plain, counted), (made, events) = (
        GraphRunner(network, engine=engine).run(images) for engine in ("direct", "compiled")
    )
    assert np.array_equal(plain, made)
    assert counted == events


@settings(max_examples=20, deadline=None)
@given(random_networks(SMALL_PAIRS))
def test_a_fitting_configuration_fits_and_needs_no_fewer_pairs(network):
    hardware = fitting(network, replace(SMALL_PAIRS, crossbar_pairs=1))
    assert hardware.pairs
    plan(replace(network, hardware=hardware))
    needed = needs(network)["crossbar_pairs"]
    if needed > 1:
        with pytest.raises(ValueError, match=f"it needs crossbar_pairs = {needed}"):
            plan(replace(network, hardware=replace(hardware, crossbar_pairs=needed - 1)))


def test_a_network_of_the_other_machine_fits_a_pair_machine():
    hardware = fitting(random_network(3, SMALL), PRESETS["tiny-pairs"])
    assert (hardware.machine, hardware.ou_rows) == ("pairs", 4)


def test_a_placement_beyond_the_last_pair_is_refused():
    network = on_pairs(random_network(3, SMALL))
    program = plan(network)
    at = next(i for i, step in enumerate(program.steps) if step.layer is not None and step.layer.block_widths.any())
    fields = {**program.steps[at].fields, "crossbar_base": network.hardware.crossbar_pairs}
    words = pack_descriptor(network.hardware, fields)
    program.tables.program[at, : len(words)] = words
    with pytest.raises(ValueError, match=f"step {at}: the hardware refuses its placement with LAYER_GEOMETRY"):
        Interpreter(program.tables, network.hardware)


@pytest.mark.slow
@settings(max_examples=1000, derandomize=False, deadline=None)
@given(st.one_of(random_networks(SMALL_PAIRS), random_networks(NINE_PAIRS)), st.integers(0, 99))
def test_interpreter_and_runner_agree_on_a_thousand_networks(network, seed):
    check(network, random_images(seed, network, 3), engine="auto")


def test_the_table_of_events_shows_what_the_pair_machine_counts():
    counted = Events.of(ou_activations=8, prefix_counts=3, conversions_r2=16, ad_operations=40, cycles=9)
    headers = [column.header for column in events_table({"step": counted.as_dict(derived=True)}, 1).columns]
    assert "OUs formed" in headers
    assert not {"of dense", "in R1"} & set(headers)
