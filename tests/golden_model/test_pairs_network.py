"""The pair machine on networks: early stop without effect, levels with few ones, words and clocks around windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import few_ones, timing
from golden_model.config import PAPER, TINY
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.engines.pair_runner import PairRunner
from golden_model.engines.pair_switches import Switches, measure
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph
from golden_model.graph.settings import lossless_registers, with_settings
from golden_model.pairs import plumbing
from golden_model.pairs.early_stop import EarlyStop, find_stops, limits, requantised, starts
from golden_model.pairs.gather import MODES, matmul
from golden_model.pairs.packs import pack_layer
from golden_model.pairs.search import bounded, outward, signed_twin
from tests.golden_model.random_graphs import NINE, random_images, random_network
from tests.golden_model.test_graph import everything, pixels
from tests.golden_model.test_pairs import cases, early_stops
from tests.golden_model.test_window_reuse import shapes
from tests.strategies import make_layer, make_network


def lossless(graph: Graph) -> Graph:
    """With lossless converters and no lossy dynamic precision."""
    registers = dict.fromkeys((node.name for node in graph.crossbars), lossless_registers(graph.hardware))
    return with_settings(graph, registers=registers)


# ---- early stop ---------------------------------------------------------------------------------
@given(st.integers(0, 300), early_stops)
@settings(max_examples=60, deadline=None)
def test_logits_with_early_stop_are_those_of_the_network(seed, stop):
    """Residuals, zero points, pooling inside layers and behind them, dynamic precision: whatever a random graph has."""
    graph = lossless(random_network(seed, NINE))
    images = random_images(seed, graph, 3)
    np.testing.assert_array_equal(PairRunner(graph, stop=stop).run(images), GraphRunner(graph).run(images)[0])


def all_stops(graph: Graph, images: np.ndarray, stop: EarlyStop):
    """Every layer's step and stops."""
    return [(step, step.stops(stop)) for step in PairRunner(graph).steps(images)]


@given(st.integers(0, 100), early_stops)
@settings(max_examples=40, deadline=None)
def test_a_stopped_output_has_its_value_whatever_the_bits_below_are(seed, stop):
    """Against other windows with the same high bits (and, for "segments", the same ones in every slice)."""
    graph = lossless(random_network(seed, NINE))
    for step, stops in all_stops(graph, random_images(seed, graph, 2), stop):
        layer = step.layer
        if stops is None or layer.dynamic is not None or stop.bounds == "segments":
            continue
        for bit in range(1, layer.input_bits):
            for low in (0, (1 << bit) - 1):
                for side in (layer.weights > 0, layer.weights < 0):
                    high = step.windows.astype(np.int64) >> bit << bit
                    sums = high @ layer.weights + low * (layer.weights * side).sum(axis=0)
                    value = requantised(layer, sums, step.residual, step.residual_multiplier)
                    own = requantised(layer, stops.sums, step.residual, step.residual_multiplier)
                    stopped = stops.last_bit == bit
                    np.testing.assert_array_equal(value[stopped], own[stopped])


def test_an_output_that_is_clamped_to_0_stops_after_the_highest_bit():
    layer = make_layer(
        np.random.default_rng(0), PAPER, kind="linear", channels=9, height=1, width=1, outputs=2,
        weights=np.array([[1, 1]] * 9), bias=np.array([-(9 * 255) - 1, 0]), multipliers=np.array([1, 1]), shift=0,
    )  # fmt: skip
    graph = pack_layer(layer, PAPER)
    windows = np.full((1, 9), 255, dtype=np.uint8)
    stops = find_stops(layer, graph.prepared, windows, EarlyStop())
    assert stops.last_bit.tolist() == [[7, 0]]
    assert stops.checks.tolist() == [2 + 6]  # both after bit 7, the second one after bits 6..1
    spent = matmul(graph, windows, outward(PAPER), stops)[1]
    assert (spent.pairs_converted.item(), spent.stopped.item()) == (1 + 8, 7)


def test_segments_bound_stops_no_later_and_final_stops_no_later_than_zero():
    graph = lossless(everything())
    images = pixels(0, graph, 3)
    found = {
        (bounds, condition): [s for _, s in all_stops(graph, images, EarlyStop(bounds=bounds, condition=condition))]
        for bounds in ("stored", "segments")
        for condition in ("zero", "final")
    }
    fewer = {key: sum(int(s.last_bit.sum()) for s in stops if s is not None) for key, stops in found.items()}
    for one, other in ((("stored", "zero"), ("segments", "zero")), (("stored", "zero"), ("stored", "final"))):
        pairs = [(a, b) for a, b in zip(found[one], found[other], strict=True) if a is not None and b is not None]
        assert all((a.last_bit <= b.last_bit).all() for a, b in pairs)
        assert fewer[one] < fewer[other]


@given(cases())
@settings(max_examples=80, deadline=None)
def test_a_sum_up_to_the_limit_gives_0_and_a_larger_one_does_not(case):
    _, layer, _ = case
    most = (1 << layer.input_bits) - 1
    top = most * np.maximum(layer.weights, 0).sum(axis=0)
    bottom = most * np.minimum(layer.weights, 0).sum(axis=0)
    limit = limits(layer)
    assert ((bottom - 1 <= limit) & (limit <= top)).all()
    sums = np.clip(np.stack([bottom, limit, limit + 1, top]), bottom, top)
    np.testing.assert_array_equal(requantised(layer, sums) == 0, sums <= limit)


@pytest.mark.parametrize("seed", [14, 25, 38])
def test_limits_stop_outputs_with_a_residual_of_0_when_their_bound_requantises_to_0(seed):
    graph = lossless(random_network(seed, NINE))
    images = random_images(seed, graph, 3)
    found = (all_stops(graph, images, EarlyStop(condition=condition)) for condition in ("limit", "zero"))
    stopped = 0
    for (step, limit), (_, zero) in zip(*found, strict=True):
        if limit is None or zero is None:
            continue
        stored = np.repeat(step.prepared.widths.any(axis=0), graph.hardware.ou_cols)[: step.layer.outputs]
        free = np.broadcast_to(stored, limit.checked.shape) & (True if step.residual is None else step.residual == 0)
        np.testing.assert_array_equal(limit.checked, free)
        np.testing.assert_array_equal(limit.last_bit, np.where(free, zero.last_bit, 0))
        stopped += 0 if step.residual is None else int((limit.last_bit > 0).sum())
    assert stopped


@given(st.integers(0, 100), st.sets(st.integers(1, 7)))
@settings(max_examples=30, deadline=None)
def test_an_output_stops_after_the_next_bit_that_has_a_check(seed, bits):
    graph = lossless(random_network(seed, NINE))
    images = random_images(seed, graph, 2)
    some = EarlyStop(after=tuple(sorted(bits, reverse=True)))
    for (step, every), (_, few) in zip(
        all_stops(graph, images, EarlyStop()), all_stops(graph, images, some), strict=True
    ):
        if every is None:
            continue
        places = [bit for bit in bits if bit < step.layer.input_bits]
        expected = [max((bit for bit in places if bit <= last), default=0) for last in every.last_bit.ravel()]
        assert (np.zeros_like(every.last_bit) if few is None else few.last_bit).ravel().tolist() == expected


def test_what_checks_read_and_add_done_by_hand():
    """P+ = 9 and 7 and P- = 0 and 2; limits -2296 and 0: starts 2286 and -8; a residual of 4 bits, 0 of output 0."""
    layer = make_layer(
        np.random.default_rng(0), PAPER, kind="linear", channels=9, height=1, width=1, outputs=2,
        weights=np.array([[1, 1]] * 7 + [[1, -1]] * 2), bias=np.array([2296, 0]), multipliers=np.array([1, 1]), shift=0,
    )  # fmt: skip
    assert limits(layer).tolist() == [-1, 0]  # a sum of output 0 is never below 0
    assert starts(layer).tolist() == [-9, -8]
    prepared, windows = pack_layer(layer, PAPER).prepared, np.full((1, 9), 255, dtype=np.uint8)
    bound, start = 4, 5
    for stop, residual, expected in (
        (EarlyStop(), None, (14, 14, 2, 14, 0, 14 * bound + 2 * start)),
        (EarlyStop(after=(5, 2)), None, (4, 4, 2, 4, 0, 4 * bound + 2 * start)),
        (EarlyStop(), np.array([[0, 3]]), (7, 7, 2, 7, 0, 7 * bound + 2 * start + 4 * 2 * 2)),
        (EarlyStop(condition="zero"), np.array([[0, 3]]), (14, 14, 0, 28, 14, 14 * bound + 4 * (2 * 2 + 14))),
        (EarlyStop(condition="final"), None, (2, 4, 0, 8, 4, 4 * bound)),
    ):
        stops = find_stops(layer, prepared, windows, stop, residual, 1)
        events = stop.events(layer, PAPER, stops, 0 if residual is None else 4)
        names = (
            "stop_checks",
            "bound_words_read",
            "limit_words_read",
            "stop_additions",
            "stop_requantisations",
            "stop_word_bits",
        )
        assert tuple(events[name] for name in names) == expected, stop


def test_stored_words_are_as_wide_as_the_largest():
    layer = make_layer(
        np.random.default_rng(0), PAPER, kind="linear", channels=9, height=1, width=1, outputs=2,
        weights=np.array([[1, 1]] * 9), bias=np.array([0, -100]), multipliers=np.array([1, 1]), shift=0,
    )  # fmt: skip
    assert starts(layer).tolist() == [-10, -110]
    assert EarlyStop().stored_bits(layer, PAPER) == 2 * (4 + 8)
    assert EarlyStop(condition="final").stored_bits(layer, PAPER) == 2 * 2 * 4
    assert EarlyStop(after=()).stored_bits(layer, PAPER) == 0
    assert EarlyStop().stored_bits(replace(layer, last=True), PAPER) == 0


@pytest.mark.parametrize("after", [(1, 2), (2, 2), (1, 0)])
def test_bits_that_do_not_fall_are_refused(after):
    with pytest.raises(ValueError, match=r"EarlyStop\.after must be falling bits of at least 1, got \("):
        EarlyStop(after=after)


def test_unknown_bounds_are_refused():
    with pytest.raises(ValueError, match=r"EarlyStop\.bounds must be stored or segments, got 'none'"):
        EarlyStop(bounds="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"EarlyStop\.at must be half or column, got 'lane'"):
        EarlyStop(at="lane")  # type: ignore[arg-type]


# ---- few ones -----------------------------------------------------------------------------------
def test_the_activations_of_a_run_with_few_ones_are_levels():
    graph = lossless(make_network(0, PAPER))
    few = with_settings(graph, activation_ones={node.name: 1 for node in graph.crossbars if not node.last})
    steps = list(PairRunner(few).steps(random_images(0, graph, 3)))
    for step in steps[1:]:
        assert set(np.unique(step.windows)) <= {0, *few_ones.levels(step.layer.input_bits, 1).tolist()}
    plain = list(PairRunner(graph).steps(random_images(0, graph, 3)))
    assert any((a.windows != b.windows).any() for a, b in zip(steps[1:], plain[1:], strict=True))


# ---- words --------------------------------------------------------------------------------------
def places_of(layer: Layer) -> list[set[tuple[int, int]]]:
    """Row and column of every place of every window, the border too."""
    found = []
    for pooled_y, pooled_x in np.ndindex(layer.out_height, layer.out_width):
        for y, x in np.ndindex(layer.pool, layer.pool):
            top = (pooled_y * layer.pool + y) * layer.stride - layer.pad
            left = (pooled_x * layer.pool + x) * layer.stride - layer.pad
            kernel = np.ndindex(layer.kernel_height, layer.kernel_width)
            found.append({(top + i, left + j) for i, j in kernel})
    return found


@given(shapes(), st.booleans())
def test_places_are_read_once_a_window_once_a_row_of_windows_or_once(layer, border):
    def read(places: set[tuple[int, int]]) -> int:
        return sum(border or (0 <= y < layer.height and 0 <= x < layer.width) for y, x in places)

    windows = places_of(layer)
    before = [set(), *windows]
    assert plumbing.places_read(layer, "nothing", border=border).tolist() == [read(w) for w in windows]
    assert plumbing.places_read(layer, "window", border=border).tolist() == [
        read(now - old) for now, old in zip(windows, before, strict=False)
    ]
    seen: set[tuple[int, int]] = set()
    expected = []
    for now in windows:
        expected.append(read(now - seen))
        seen |= now
    assert plumbing.places_read(layer, "lines", border=border).tolist() == expected


@pytest.mark.parametrize(
    ("channels", "bits", "words"), [(3, 8, 1), (16, 8, 4), (16, 4, 2), (17, 3, 3), (64, 1, 2), (5, 2, 1)]
)
def test_channels_of_a_place_are_packed_into_words(channels, bits, words):
    layer = make_layer(
        np.random.default_rng(0), PAPER, channels=channels, height=3, width=3, kernel_height=1, kernel_width=1,
        outputs=1, input_bits=bits,
    )  # fmt: skip
    assert plumbing.words_per_place(layer) == words


# ---- clocks of windows --------------------------------------------------------------------------
def row_of(outputs: int, **values) -> Layer:
    """A 1 x 1 convolution of 4 windows."""
    return make_layer(
        np.random.default_rng(0), PAPER, channels=8, height=1, width=4, kernel_height=1, kernel_width=1,
        outputs=outputs, **values,
    )  # fmt: skip


def test_double_buffered_windows_take_the_longest_of_load_convert_and_drain():
    layer = row_of(16)
    load, convert = np.array([2, 30, 2, 2]), np.array([[10, 20, 5, 40]])
    clocks = plumbing.layer_clocks(layer, PAPER, load, convert, layer_masks=True, double_buffered=True)
    table = layer.segments(PAPER) * layer.block_cols(PAPER)
    drain = 16 + plumbing.DRAIN
    steps = [4, max(32, 14), max(24, 4, drain), max(9, 4, drain), max(44, drain), drain]
    assert clocks.tolist() == [timing.c_layer(PAPER) + table + sum(steps) + 6 * plumbing.HANDOVER]


def test_windows_one_after_the_other_take_the_sum_as_the_tile_does():
    layer = row_of(16)
    load, convert = plumbing.load_clocks(layer, "nothing", words=False), np.array([[10, 20, 5, 40]])
    clocks = plumbing.layer_clocks(layer, PAPER, load, convert, layer_masks=False, double_buffered=False)
    expected = timing.window_cycles(PAPER, layer.k, layer.outputs, convert.T).sum() + timing.c_layer(PAPER)
    assert clocks.tolist() == [expected]


@pytest.mark.parametrize("layer_masks", [False, True])
def test_only_a_width_table_takes_clocks_to_read(layer_masks):
    """16 outputs of one segment: two entries, more than a conversion of no clocks takes."""
    layer, load, convert = row_of(16), np.zeros(4, dtype=np.int64), np.zeros((1, 4), dtype=np.int64)
    of_blocks, of_rows = (
        plumbing.layer_clocks(
            layer, PAPER, load, convert, layer_masks=layer_masks, double_buffered=False, width_table=table
        ).item()
        for table in (True, False)
    )
    assert of_blocks - of_rows == (2 if layer_masks else 4 * 2)


def test_a_layer_with_dynamic_precision_loads_every_value():
    layer = row_of(16, dynamic=DynamicPrecision())
    assert plumbing.load_clocks(layer, "lines", words=True).tolist() == [layer.k] * 4


# ---- measure ------------------------------------------------------------------------------------
def test_measured_events_are_means_over_images_of_single_layers():
    graph = lossless(make_network(0, TINY))
    images = random_images(0, graph, 5)
    search, stop = outward(graph.hardware), EarlyStop(condition="final")
    found = measure(graph, images, {"plain": Switches(search=search), "stop": Switches(search=search, stop=stop)})
    plain, stopped = found["plain"], found["stop"]
    names = [node.name for node in graph.crossbars]
    expected = np.zeros((2, len(names)))
    operations = np.zeros(len(names))
    for image in images:
        for step in PairRunner(graph).steps(image[None]):
            packing = pack_layer(step.layer, graph.hardware)
            row = names.index(step.node)
            spent = matmul(packing, step.windows, search)[1]
            operations[row] += spent.operations.sum()
            expected[0, row] += spent.pairs_converted.sum()
            expected[1, row] += matmul(packing, step.windows, search, step.stops(stop))[1].pairs_converted.sum()
    np.testing.assert_allclose(plain.extra["subtractions"], expected[0] / 5)
    np.testing.assert_allclose(stopped.extra["subtractions"], expected[1] / 5)
    assert plain.total("ad_operations") == pytest.approx(operations.sum() / 5)
    assert sum(search.total_operations(counts) for counts in plain.counts) == operations.sum()
    assert stopped.total("conversions_r2") < plain.total("conversions_r2")


def test_batches_side_by_side_count_the_same():
    graph = lossless(make_network(0, TINY))
    images = random_images(0, graph, 13)
    configurations = {"stop": Switches(search=outward(TINY), stop=EarlyStop()), "plain": Switches(search=bounded(TINY))}
    told = []
    one, many = (
        measure(graph, images, configurations, threads=threads, progress=lambda *done: told.append(done))
        for threads in (1, 3)
    )
    assert told == [(4, 13), (8, 13), (12, 13), (13, 13)] * 2
    for name, alone in one.items():
        np.testing.assert_array_equal(alone.events, many[name].events)
        np.testing.assert_array_equal(np.stack(alone.counts), np.stack(many[name].counts))
        for mode in MODES:
            np.testing.assert_array_equal(alone.clocks[mode], many[name].clocks[mode])


def test_busy_is_the_share_of_converters_and_clocks_that_decide():
    graph = lossless(make_network(0, PAPER))
    images = random_images(0, graph, 2)
    two, one = (Switches(search=outward(PAPER), split=split) for split in ("columns", "one"))
    found = measure(graph, images, {"two": two, "one": one})
    for halves, measured in ((2, found["two"]), (1, found["one"])):
        expected = measured.total("ad_operations") / (halves * 8 * measured.clocks["halves"].sum())
        assert measured.busy("halves") == pytest.approx(expected)
        assert 0 < measured.busy() < 1


def test_every_switch_of_plumbing_saves_clocks():
    graph = lossless(make_network(0, PAPER))
    off = Switches(
        search=bounded(PAPER), keeps="nothing", words=False, layer_masks=False, double_buffered=False
    )  # fmt: skip
    ladder = {"off": off}
    for change in ({"keeps": "window"}, {"words": True}, {"layer_masks": True}, {"double_buffered": True}):
        ladder[next(iter(change))] = replace(list(ladder.values())[-1], **change)
    found = measure(graph, random_images(0, graph, 2), ladder)
    clocks = [one.network_clocks() for one in found.values()]
    assert clocks == sorted(clocks, reverse=True)
    assert len(set(clocks)) == len(clocks)
    assert all(one.total("ad_operations") == found["off"].total("ad_operations") for one in found.values())


def test_layers_may_have_searches_of_their_own():
    graph = lossless(make_network(0, PAPER))
    names = [node.name for node in graph.crossbars]
    images = random_images(0, graph, 2)
    searches = [outward(PAPER), bounded(PAPER)]
    mixed = {name: searches[i % 2] for i, name in enumerate(names)}
    configurations = {"mixed": Switches(search=mixed)} | {s.name: Switches(search=s) for s in searches}
    found = measure(graph, images, configurations)
    for row in range(len(names)):
        np.testing.assert_array_equal(found["mixed"].events[row], found[searches[row % 2].name].events[row])
    with pytest.raises(ValueError, match=f"no search is given for layer {names[-1]}"):
        measure(graph, images, {"x": Switches(search=dict.fromkeys(names[:-1], searches[0]))})


def test_early_stop_refuses_lossy_searches():
    graph = lossless(make_network(0, PAPER))
    switches = Switches(search=signed_twin(PAPER, 1, 2), stop=EarlyStop())
    with pytest.raises(ValueError, match="early stop needs a lossless search"):
        measure(graph, random_images(0, graph, 1), {"x": switches})


def test_unknown_ways_to_keep_time_are_refused():
    with pytest.raises(ValueError, match=f"must be one of {MODES[0]}, .*, got 'none'"):
        Switches(search=outward(PAPER), clocks="none")
