"""Lossless searches (system.md §13): registers, conversions, and layers in every engine against the scalar oracle."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import layer, timing
from golden_model.config import ISAAC, PAPER, TINY, HardwareConfig
from golden_model.crossbar import mapping, trace
from golden_model.crossbar.lanes import spend
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.crossbar.prepared import prepare, prepare_layer, streams
from golden_model.crossbar.windows import windows
from golden_model.engines.run_layer import run_layer
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.check import check_layer
from golden_model.graph.settings import with_settings
from golden_model.image import image
from golden_model.searches import lanes
from golden_model.trq import AdcRegisters, convert, lossless, min_count
from tests.golden_model import oracles
from tests.golden_model.oracles import decoupled_cycles
from tests.strategies import (
    adc_registers,
    dynamic_precisions,
    hardware_configs,
    lossless_searches,
    make_images,
    make_layer,
    make_network,
    make_weights,
    search_trees,
)

LINE = tuple(range(1, 10))
FULL = AdcRegisters(mode="bounded", n_r2=4, column_bound_bits="full")


# ---- conversions --------------------------------------------------------------------------------
@given(st.data(), st.integers(1, 5))
def test_conversions_equal_the_step_by_step_search_for_every_bound(data, adc_bits):
    rows = data.draw(st.integers(1, (1 << adc_bits) - 1))
    registers = data.draw(lossless_searches(rows, adc_bits))
    v, bound = np.meshgrid(np.arange(-2, (1 << adc_bits) + 2), np.arange(rows + 1), indexing="ij")
    got = convert(v, adc_bits, registers, bound=bound if registers.bounded else None)
    for at in np.ndindex(v.shape):
        expected = oracles.bounded_search(lambda t, at=at: v[at] >= t, adc_bits, registers, int(bound[at]))
        assert (got.range_flag[at], got.value[at], got.operations[at]) == expected, (v[at], bound[at])


@given(st.data(), st.integers(1, 8))
def test_every_count_up_to_its_bound_is_found_exactly(data, adc_bits):
    rows = data.draw(st.integers(1, min(128, (1 << adc_bits) - 1)))
    registers = data.draw(lossless_searches(rows, adc_bits))
    bound = np.arange(rows + 1)[:, None]
    count = np.minimum(np.arange(rows + 1), bound)
    got = convert(count, adc_bits, registers, bound=bound if registers.bounded else None)
    uniform = convert(count, adc_bits, AdcRegisters(mode="uniform", n_r2=adc_bits))
    assert (got.value == uniform.value).all()
    if registers.bounded:
        assert (got.operations[0] == 0).all()


def test_operations_of_the_examples_of_the_specification():
    registers = AdcRegisters(mode="bounded", n_r2=4)
    for bound, expected in ((0, [0]), (2, [1, 2, 2]), (4, [2, 2, 2, 3, 3]), (9, [3, 3, 3, 4, 4, 3, 3, 3, 4, 4])):
        assert convert(range(bound + 1), 4, registers, bound=bound).operations.tolist() == expected
    assert (convert(range(10), 4, registers).operations == 4).all()  # no bound: uniform


@given(st.floats(-5, 20), st.integers(0, 9))
def test_noise_never_leaves_the_bound(v, bound):
    assert 0 <= convert(v, 4, AdcRegisters(mode="bounded", n_r2=4), bound=bound).value <= bound


def test_twin_below_its_window_drops_the_detection():
    registers = AdcRegisters(mode="twin", n_r2=4, n_r1=1, column_bound_bits=0)
    count = np.arange(10)
    free = convert(count, 4, replace(registers, column_bound_bits=None))
    for bound in range(2, 10):
        made = convert(count, 4, registers, bound=bound)
        assert (made.operations == free.operations).all()
        assert (made.range_flag == free.range_flag).all()
    assert convert([0, 1], 4, registers, bound=1).operations.tolist() == [1, 1]
    assert convert([0, 1], 4, registers, bound=1).range_flag.tolist() == [0, 0]
    assert convert(0, 4, registers, bound=0).operations == 0


def test_trees_serve_the_bounds_up_to_their_length():
    registers = AdcRegisters(mode="tree", n_r2=4, trees=((1,), (1, 2, 3), LINE))
    assert registers.column_bound_bits == 0
    spent = convert(np.zeros(10, dtype=int) + 1, 4, registers, bound=np.arange(10)).operations
    assert spent.tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 2, 2]
    assert convert(9, 4, registers).operations == 9


# ---- registers ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "bounded", "n_r2": 3}, "n_r2 must be in 4..4, got 3"),
        ({"mode": "bounded", "n_r2": 4, "n_r1": 1}, "n_r1 must be in 0..0, got 1"),
        ({"mode": "bounded", "n_r2": 4, "bias": 1}, "bias must be in 0..0, got 1"),
        ({"mode": "bounded", "n_r2": 4, "m": 1}, "m must be in 0..0, got 1"),
        ({"mode": "bounded", "n_r2": 4, "column_bound_bits": 2}, "column_bound_bits must be None, 0, 1, .* got 2"),
        ({"mode": "bounded", "n_r2": 4, "column_bound_bits": True}, "column_bound_bits must be .* got True"),
        ({"mode": "bounded", "n_r2": 4, "trees": (LINE,)}, "mode 'tree' and no other needs trees, got 1 trees"),
        ({"mode": "uniform", "n_r2": 4, "column_bound_bits": 0}, "must be None in mode 'uniform'"),
        ({"mode": "twin", "n_r2": 3, "m": 1, "column_bound_bits": 0}, "n_r2 must be in 4..4, got 3"),
        ({"mode": "twin", "n_r2": 4, "n_r1": 1, "bias": 1, "column_bound_bits": 0}, "bias must be in 0..0, got 1"),
        ({"mode": "tree", "n_r2": 4}, "needs trees, got 0 trees"),
        ({"mode": "tree", "n_r2": 4, "trees": (LINE, (1,))}, r"the last of 1..15 thresholds, got \[9, 1\]"),
        ({"mode": "tree", "n_r2": 4, "trees": (tuple(range(1, 17)),)}, "thresholds, got .16."),
        ({"mode": "tree", "n_r2": 4, "trees": ((2, 3, 1), LINE)}, r"trees\[0\] is not in preorder"),
        ({"mode": "tree", "n_r2": 3, "trees": (LINE,)}, "n_r2 must be in 4..4, got 3"),
    ],
)
def test_illegal_registers_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        AdcRegisters(**values).check(4)


@pytest.mark.parametrize(
    ("registers", "hardware", "counts_per_lsb", "message"),
    [
        (FULL, PAPER, 2.0, "needs lambda = 1"),
        (AdcRegisters(mode="bounded", n_r2=3), replace(PAPER, adc_bits=3), 1.0, "needs adc_bits of at least 4, got 3"),
        (AdcRegisters(mode="tree", n_r2=4, trees=(LINE[:8],)), PAPER, 1.0, "the last tree must have 9 thresholds"),
    ],
)
def test_a_machine_that_does_not_fit_is_refused(registers, hardware, counts_per_lsb, message):
    table = min_count(hardware.adc_bits, counts_per_lsb)
    with pytest.raises(ValueError, match=message):
        layer.matmul(np.ones((1, 9), dtype=int), np.ones((9, 1), dtype=int), hardware, registers, min_count=table)
    made = make_layer(
        np.random.default_rng(0), hardware, channels=1, height=3, width=3, kernel_height=3, kernel_width=3, outputs=1,
        registers=registers, min_count=table,
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        check_layer(made, hardware)


@given(lossless_searches(9, 4))
def test_registers_survive_json(registers):
    assert AdcRegisters(**json.loads(json.dumps(asdict(registers)))) == registers
    assert lossless(registers, PAPER)


def test_a_bound_without_bounded_registers_is_refused():
    with pytest.raises(ValueError, match="use no bound"):
        convert(1, 4, AdcRegisters(mode="uniform", n_r2=4), bound=3)
    with pytest.raises(ValueError, match=r"bound must hold integers in 0\.\.15"):
        convert(1, 4, FULL, bound=16)


# ---- layers -------------------------------------------------------------------------------------
def bits_for_rows(hardware: HardwareConfig) -> HardwareConfig:
    return replace(hardware, adc_bits=max(hardware.adc_bits, hardware.ideal_bits))


@settings(max_examples=40)
@given(st.data(), hardware_configs(ou_cols=2).map(bits_for_rows), st.integers(1, 3), st.booleans())
def test_a_layer_equals_the_scalar_walk(data, hardware, columns, skip):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    registers = data.draw(lossless_searches(hardware.ou_rows, hardware.adc_bits))
    redy = data.draw(st.none() | dynamic_precisions())
    k = data.draw(st.integers(1, 3 * hardware.ou_rows))
    weights = make_weights(rng, k, columns, hardware)
    widths = mapping.block_widths(weights, hardware)
    activations = rng.integers(0, 1 << hardware.input_bits, (2, k)) * (rng.random((2, k)) < 0.5)
    for engine in ("direct", "patterns"):
        sums, events = layer.matmul(
            activations, weights, hardware, registers, redy=redy, skip_zero_slices=skip, engine=engine, per_window=True
        )
        for window in range(2):
            expected, counted = oracles.window(
                activations[window].tolist(), weights.tolist(), hardware, registers, widths, redy, skip,
                min_count(hardware.adc_bits).tolist(), hardware.input_bits,
            )  # fmt: skip
            assert sums[window].tolist() == expected
            made = events[window].as_dict()
            assert {name: made[name] for name in counted} == counted


@st.composite
def cases(draw, rows):
    """A layer with a search, and images."""
    hardware = HardwareConfig(
        rows=rows, cols=8, ou_rows=rows, ou_cols=draw(st.integers(1, 3)), adc_bits=rows.bit_length(), weight_bits=3,
        sample_interval=draw(st.sampled_from([1, 1, 3])),
    )  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    made = make_layer(
        rng, hardware, channels=draw(st.integers(1, 4)), height=5, width=4, kernel_height=3, kernel_width=3,
        outputs=draw(st.sampled_from([1, 4, 17])), pad=1, registers=draw(lossless_searches(rows, hardware.adc_bits)),
        skip_zero_slices=draw(st.booleans()), dynamic=draw(st.none() | dynamic_precisions()),
        pool=draw(st.integers(1, 2)),
    )  # fmt: skip
    images = rng.integers(0, 256, (2, made.channels, 5, 4)) * (rng.random((2, made.channels, 5, 4)) < 0.6)
    return made, hardware, images.astype(np.uint8)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([9, 16, 70, 128]).flatmap(cases))
def test_compiled_and_plain_engine_agree_on_outputs_and_every_event(case):
    pytest.importorskip("numba")
    made, hardware, images = case
    expected, events = run_layer(made, hardware, images, engine="direct")
    output, counted = run_layer(made, hardware, images, engine="compiled")
    np.testing.assert_array_equal(output, expected)
    assert counted == events
    uniform = replace(made, registers=AdcRegisters(mode="uniform", n_r2=hardware.adc_bits))
    np.testing.assert_array_equal(run_layer(uniform, hardware, images, engine="direct")[0], expected)


@pytest.mark.parametrize("rows", [9, 128])
def test_engines_agree_on_every_search(rows):
    pytest.importorskip("numba")
    hardware = replace(ISAAC if rows == 128 else PAPER, weight_bits=3)
    rng = np.random.default_rng(rows)
    activations, weights = rng.integers(0, 256, (30, 40)), rng.integers(-7, 8, (40, 11))
    bits = hardware.adc_bits
    kinds = (
        AdcRegisters(mode="bounded", n_r2=bits, column_bound_bits="full"),
        AdcRegisters(mode="uniform", n_r2=bits),
        AdcRegisters(mode="twin", n_r2=bits, n_r1=2),
        AdcRegisters(mode="twin", n_r2=bits, n_r1=1, column_bound_bits=1),
        AdcRegisters(mode="tree", n_r2=bits, trees=(tuple(range(1, rows + 1)),)),
        AdcRegisters(mode="bounded", n_r2=bits, column_bound_bits="ou"),
    )
    for registers in kinds:
        both = [layer.matmul(activations, weights, hardware, registers, engine=e) for e in ("direct", "compiled")]
        np.testing.assert_array_equal(both[0][0], activations @ weights)
        np.testing.assert_array_equal(both[0][0], both[1][0])
        assert both[0][1] == both[1][1]


@pytest.mark.parametrize("rows", [9, 128])
@pytest.mark.parametrize("value", [0, 255])
def test_saturated_data_is_searched_exactly(rows, value):
    pytest.importorskip("numba")
    hardware = ISAAC if rows == 128 else PAPER
    weights = np.full((130, 9), 255)
    activations = np.full((3, 130), value)
    registers = AdcRegisters(mode="bounded", n_r2=hardware.adc_bits, column_bound_bits="full")
    for engine in ("direct", "compiled"):
        sums, events = layer.matmul(activations, weights, hardware, registers, engine=engine)
        assert (sums == activations @ weights).all()
        # Positive lanes see B = count = valid rows of their segment, negative ones B = 0.
        spent = {9: 14 * 4 + 3, 128: 8 + 2}[rows]
        assert events.ad_operations == (3 * 8 * 8 * 9 * spent if value else 0)


@pytest.mark.parametrize("engine", ["direct", "patterns", "compiled"])
def test_the_fullest_column_of_either_polarity_bounds_its_whole_unit_and_no_other(engine):
    pytest.importorskip("numba")
    weights = np.zeros((18, 3), dtype=int)
    weights[:5, 0] = 1  # first segment, first OU: 5 cells in column 0,
    weights[:7, 1] = -1  # and 7 of column 1's other polarity
    weights[0, 2] = 1  # second OU: one cell
    weights[9:, 2] = 3  # second segment, both planes: 9 cells
    hardware = replace(PAPER, ou_cols=2, input_bits=1)
    registers = AdcRegisters(mode="bounded", n_r2=4, column_bound_bits="ou")
    sums, events = layer.matmul(np.ones((1, 18), dtype=int), weights, hardware, registers, engine=engine)
    assert sums.tolist() == [[5, -7, 28]]
    # B = 7 takes 3 operations in each of 4 lanes, B = 1 one in each of 2, B = 9 four for 9 cells and three for none.
    assert events.ad_operations == 4 * 3 + 2 * 1 + 2 * (4 + 3)


def test_a_bound_saves_operations_and_never_changes_other_events():
    rng = np.random.default_rng(2)
    activations, weights = rng.integers(0, 60, (40, 30)), rng.integers(-20, 21, (30, 20))
    spent = []
    base = None
    for bits in (0, 1, "full", "ou"):
        registers = AdcRegisters(mode="bounded", n_r2=4, column_bound_bits=bits)
        _, events = layer.matmul(activations, weights, PAPER, registers)
        spent.append(events.ad_operations)
        rest = {k: v for k, v in events.as_dict().items() if k not in ("ad_operations", "cycles")}
        base = base or rest
        assert rest == base
    assert spent[0] > spent[1] > spent[2] > 0
    assert spent[0] > spent[3] > spent[2]


# ---- networks, traces, images --------------------------------------------------------------------
def searching(seed: int):
    """A small graph whose layers search differently, and images."""
    made = make_network(seed, TINY)
    names = [node.name for node in made.crossbars]
    kinds = (
        AdcRegisters(mode="bounded", n_r2=3, column_bound_bits=1),
        AdcRegisters(mode="tree", n_r2=3, trees=((1,), (1, 2, 3, 4))),
        AdcRegisters(mode="tree", n_r2=3, trees=((2, 1, 3, 4),)),
    )
    other = with_settings(made, registers=dict(zip(names, kinds, strict=True)), skip_zero_slices=False)
    return other, make_images(seed, made, 4)


def test_a_graph_takes_searches_and_computes_what_uniform_converters_compute():
    made, images = searching(3)
    uniform = with_settings(made, registers={n.name: AdcRegisters(mode="uniform", n_r2=3) for n in made.crossbars})
    logits, events = GraphRunner(made, engine="direct").run(images)
    expected, dense = GraphRunner(uniform, engine="direct").run(images)
    np.testing.assert_array_equal(logits, expected)
    assert (events.conversions == dense.conversions).all()
    assert (events.ad_operations < dense.ad_operations).all()
    again, counted = GraphRunner(made, engine="patterns").run(images)
    np.testing.assert_array_equal(logits, again)
    assert counted == events


@given(st.data())
@settings(max_examples=20)
def test_a_trace_adds_up_to_the_events(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    made = make_layer(
        rng, TINY, channels=2, height=3, width=3, kernel_height=3, kernel_width=3, outputs=3,
        registers=data.draw(lossless_searches(4, 3)),
    )  # fmt: skip
    window = rng.integers(0, 16, made.k)
    placed = mapping.place_layer(made.block_widths, TINY)
    records = list(trace.window_trace(made, TINY, placed, window))
    sums, events = layer.matmul(window[None], made.weights, TINY, made.registers, block_widths=made.block_widths)
    assert sum(int(r.operations.sum()) for r in records) == events.ad_operations
    assert sum(int((r.started & (r.range_flags == 0)).sum()) for r in records) == events.conversions_r1
    total = np.zeros((2, made.outputs), dtype=np.int64)
    for r in records:
        for lane in np.flatnonzero(r.started):
            polarity, column = divmod(int(lane), TINY.ou_cols)
            total[polarity, r.block_col * TINY.ou_cols + column] += int(r.values[lane]) << (r.input_bit + r.plane)
    assert (total[0] - total[1] == sums[0]).all()


@pytest.mark.parametrize(
    ("registers", "message"),
    [
        (AdcRegisters(mode="bounded", n_r2=3), "conv2: the hardware has no conversion of mode 'bounded' with a bound"),
        (
            AdcRegisters(mode="tree", n_r2=3, trees=((1, 2, 3, 4),)),
            "conv2: the hardware has no conversion of mode 'tree'",
        ),
        (AdcRegisters(mode="bounded", n_r2=3, column_bound_bits="ou"), "no conversion of mode 'bounded' with a bound"),
        (AdcRegisters(mode="twin", n_r2=3, column_bound_bits=0), "no conversion of mode 'twin' with a bound, only"),
    ],
)
def test_deployment_images_refuse_what_the_rtl_does_not_have(tmp_path, registers, message):
    made = with_settings(make_network(1, TINY), registers={"conv2": registers})
    with pytest.raises(ValueError, match=message):
        image.write(tmp_path / "image", made, make_images(1, made, 1))
    assert not list(tmp_path.iterdir())


# ---- lanes --------------------------------------------------------------------------------------
def lane_by_lane(made, hardware, window):
    """(operations, lock step C_r, decoupled C_r) of one window from its trace."""
    placed = mapping.place_layer(made.block_widths, hardware)
    segments = len(made.block_widths)
    total, lock = np.zeros((segments, hardware.lanes), dtype=int), np.zeros(segments, dtype=int)
    ous = np.zeros(segments, dtype=int)
    for record in trace.window_trace(made, hardware, placed, window):
        total[record.segment] += record.operations
        lock[record.segment] += max(1, hardware.sample_interval, record.cycles)
        ous[record.segment] += 1
    return total.sum(), lock, np.maximum(total.max(axis=1), ous * max(1, hardware.sample_interval))


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from([9, 16, 70]))
def test_clocks_of_lanes_add_up_one_by_one(data, rows):
    made, hardware, images = data.draw(cases(rows))
    if data.draw(st.booleans()):
        made = replace(made, registers=data.draw(adc_registers(hardware.adc_bits)))
    rows = windows(made, images).reshape(-1, made.k)[:5]
    prepared = prepare_layer(made, hardware)
    for plain in (True, False):
        spent = spend(prepared, rows, plain=plain)
        for index, window in enumerate(rows):
            operations, lock, free = lane_by_lane(made, hardware, window)
            assert spent.operations[index] == operations
            assert spent.lock_step[index].tolist() == lock.tolist()
            assert spent.decoupled[index].tolist() == free.tolist()


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([9, 70]).flatmap(cases))
def test_lock_step_of_lanes_is_that_of_the_engines_and_queues_never_lose(case):
    made, hardware, images = case
    _, events = run_layer(made, hardware, images, engine="direct")
    prepared = prepare_layer(made, hardware)
    spent = spend(prepared, windows(made, images).reshape(-1, made.k))
    cycles = timing.window_cycles(hardware, made.k, made.outputs, spent.lock_step)
    assert (cycles.reshape(2, -1).sum(axis=1) + timing.c_layer(hardware) == events.cycles).all()
    free = decoupled_cycles(made, hardware, images)
    assert (free <= events.cycles).all()


def test_lanes_of_one_column_gain_nothing_from_queues_and_uneven_ones_do():
    hardware = replace(PAPER, ou_cols=2, weight_bits=1)
    registers = AdcRegisters(mode="tree", n_r2=4, trees=(LINE,))  # c + 1 operations, 9 for 9
    made = make_layer(
        np.random.default_rng(0), hardware, kind="linear", channels=2, height=3, width=3, outputs=2,
        registers=registers, weights=np.array([[1, 0]] * 9 + [[0, 1]] * 9), last=True, input_bits=1,
    )  # fmt: skip
    made = replace(made, weights=np.array([[1, 0]] * 18))
    full = np.ones((1, 2, 3, 3), dtype=np.uint8)
    _, events = run_layer(made, hardware, full, engine="direct")
    assert events.cycles[0] == decoupled_cycles(made, hardware, full)[0]
    # Two planes of one segment: lane 0 is slow in one, lane 1 in the other.
    uneven = replace(
        made, channels=1, weights=np.array([[1, 2]] * 9), block_widths=np.array([[2]]), registers=registers
    )
    hardware = replace(hardware, weight_bits=2)
    _, events = run_layer(uneven, hardware, full[:, :1], engine="direct")
    assert events.cycles[0] - decoupled_cycles(uneven, hardware, full[:, :1])[0] == (9 + 9) - (9 + 1)


def test_clocks_of_a_graph_are_those_of_its_layers():
    made, images = searching(5)
    found = lanes.graph_decoupled_cycles(made, images)
    outputs = GraphRunner(made).outputs(images)
    for index, node in enumerate(made.crossbars):
        one = node.layers[0]
        x = outputs[node.inputs[0]].reshape(len(images), one.channels, one.height, one.width)
        assert found[index] == decoupled_cycles(one, TINY, x).sum() / len(images)
    _, events = GraphRunner(made).run(images)
    assert (found <= events.cycles.mean(axis=0)).all()


@given(search_trees(9), st.none() | st.just(DynamicPrecision(l_max=2, tau_sq=300)))
@settings(max_examples=10)
def test_one_tree_spends_its_depths(tree, redy):
    rng = np.random.default_rng(0)
    activations, weights = rng.integers(0, 256, (3, 9)), rng.integers(-1, 2, (9, 2))
    registers = AdcRegisters(mode="tree", n_r2=4, trees=(tree,))
    _, events = layer.matmul(activations, weights, PAPER, registers, redy=redy)
    prepared = prepare(weights, PAPER, registers, redy=redy)
    q, mask = streams(prepared, activations)
    slices = (q[:, 0, None, :] >> np.arange(8)[:, None]) & 1
    cells = np.concatenate([np.maximum(weights, 0), np.maximum(-weights, 0)], axis=1)
    counts = (slices @ cells)[mask[:, 0]]
    assert events.ad_operations == convert(counts, 4, registers).operations.sum()
