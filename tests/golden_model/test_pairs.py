"""The pair machine on one layer: exact sums, the order of operation units, clocks, and the compiled loop."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import PAPER, TINY
from golden_model.crossbar import redy
from golden_model.crossbar.layer import Layer
from golden_model.optional import numba_installed
from golden_model.pairs import gather
from golden_model.pairs.early_stop import EarlyStop, find_stops
from golden_model.pairs.gather import MODES, Activated, Formed, Latched
from golden_model.pairs.packs import Packing, pack_layer, pack_segments
from golden_model.pairs.search import Search, bounded, counts_search, outward, signed_twin, uniform
from golden_model.trq import AdcRegisters
from tests.strategies import dynamic_precisions, hardware_configs, make_layer, make_weights


def every_search(hardware) -> list[Search]:
    """Lossless searches of differences and of both counts."""
    registers = AdcRegisters(mode="bounded", n_r2=hardware.adc_bits)
    return [
        outward(hardware),
        outward(hardware, 1),
        bounded(hardware),
        uniform(hardware),
        signed_twin(hardware, hardware.ideal_bits - 1),
        counts_search("two conversions", registers, hardware),
    ]


#: Ways to share out groups that early stop allows.
ALONE = ("one", "columns")


@st.composite
def cases(draw, splits=("one", "packs", "columns", "groups"), by="blocks"):
    """A layer on a small machine, its packs and windows."""
    hardware = draw(hardware_configs(ou_cols=draw(st.integers(1, 3))))
    hardware = replace(hardware, adc_bits=max(hardware.adc_bits, hardware.ideal_bits))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    k, n = int(rng.integers(1, 40)), int(rng.integers(1, 9))
    bits = draw(st.integers(1, hardware.input_bits))
    layer = make_layer(
        rng, hardware, kind="linear", channels=k, height=1, width=1, outputs=n, input_bits=bits,
        weights=make_weights(rng, k, n, hardware), dynamic=draw(st.none() | dynamic_precisions()),
        bias=rng.integers(-300, 20, n), multipliers=rng.integers(0, 16, n), shift=draw(st.integers(0, 10)),
    )  # fmt: skip
    if draw(st.booleans()):  # blocks may be wider than their weights need
        wider = layer.block_widths + rng.integers(0, 2, layer.block_widths.shape)
        layer = replace(layer, block_widths=np.minimum(wider, hardware.weight_bits))
    windows = rng.integers(0, 1 << bits, (3, k)) * (rng.random((3, k)) < draw(st.sampled_from([0.0, 0.3, 1.0])))
    if draw(st.booleans()):
        windows[:] = (1 << bits) - 1
    if by == "moved":
        way = draw(st.sampled_from(["segments", "rows"]))
        packing = pack_layer(layer, hardware, draw(st.sampled_from(ALONE)), by=way)
    else:
        packing = pack_layer(layer, hardware, draw(st.sampled_from(splits)), even=draw(st.booleans()))
    return packing, layer, windows.astype(np.uint8)


def streamed(packing: Packing, layer: Layer, windows: np.ndarray) -> np.ndarray:
    if layer.dynamic is None:
        return windows.astype(np.int64)
    return redy.precision(windows, packing.hardware, layer.dynamic).streamed


def stops_of(packing: Packing, layer: Layer, windows: np.ndarray, stop: EarlyStop, residual=None, factor=0):
    return find_stops(layer, packing.prepared, windows, stop, residual, factor)


early_stops = st.builds(
    EarlyStop,
    bounds=st.sampled_from(["stored", "segments"]),
    condition=st.sampled_from(["limit", "zero", "final"]),
    after=st.none() | st.sets(st.integers(1, 7)).map(lambda bits: tuple(sorted(bits, reverse=True))),
)


@given(cases() | cases(by="moved"))
@settings(max_examples=80, deadline=None)
def test_sums_are_the_exact_product(case):
    packing, layer, windows = case
    sums, _ = gather.matmul(packing, windows, every_search(packing.hardware))
    for one in sums:
        np.testing.assert_array_equal(one, streamed(packing, layer, windows) @ layer.weights)


@given(cases(ALONE) | cases(by="moved"), early_stops)
@settings(max_examples=80, deadline=None)
def test_sums_of_stopped_outputs_lack_the_bits_below(case, stop):
    packing, layer, windows = case
    stops = stops_of(packing, layer, windows, stop)
    sums, _ = gather.matmul(packing, windows, every_search(packing.hardware), stops)
    for one in sums:
        np.testing.assert_array_equal(one, stops.sums)


@pytest.mark.skipif(not numba_installed(), reason="needs numba")
@given(cases() | cases(by="moved"), early_stops)
@settings(max_examples=120, deadline=None)
def test_the_compiled_loop_spends_the_same(case, stop):
    packing, layer, windows = case
    searches = every_search(packing.hardware)
    stops = stops_of(packing, layer, windows, stop) if packing.split in ALONE else None
    plain = gather.spend(packing, windows, searches, stops, plain=True)
    compiled = gather.spend(packing, windows, searches, stops)
    for field in fields(plain):
        np.testing.assert_array_equal(getattr(plain, field.name), getattr(compiled, field.name), field.name)


@given(cases())
@settings(max_examples=60, deadline=None)
def test_every_1_of_a_slice_is_in_exactly_one_unit_of_every_group_that_stores_its_row(case):
    packing, layer, windows = case
    rows = packing.hardware.ou_rows
    padded = np.zeros((len(windows), len(packing.prepared.widths) * rows), dtype=np.int64)
    padded[:, : layer.k] = streamed(packing, layer, windows)
    x = padded.reshape(len(windows), -1, rows)
    everything = np.ones(x.shape[1], dtype=bool)
    for window in x:
        for bit in range(packing.prepared.bits):
            times = np.zeros((len(packing.packs), 99, padded.shape[1]), dtype=np.int64)
            for half in range(packing.halves):
                seen = set()
                pack = mask = 0
                for what in gather.walk(packing, window, everything, np.zeros(layer.outputs), half, bit):
                    if isinstance(what, Latched):
                        pack = what.pack
                    elif isinstance(what, Formed):
                        assert what.k == what.rows.sum()
                        assert 1 <= what.k <= rows
                        on, mask = what.rows, what.mask
                        seen = set()
                        times[pack, mask, packing.packs[pack].first * rows :][: len(on)] += on
                    else:
                        assert isinstance(what, Activated)
                        assert what.group in packing.packs[pack].masks[mask].groups
                        assert id(what.group) not in seen
                        seen.add(id(what.group))
            for p, pack_ in enumerate(packing.packs):
                for m, mask_ in enumerate(pack_.masks):
                    stored = np.zeros(padded.shape[1], dtype=bool)
                    begin = pack_.first * rows
                    stored[begin : begin + pack_.segments * rows] = np.repeat(mask_.segments, rows)
                    halves = len({group.half for group in mask_.groups})
                    expected = halves * (stored & ((window.ravel() >> bit) & 1 == 1))
                    np.testing.assert_array_equal(times[p, m], expected)


def by_hand(paces: list[list[list[int]]]) -> tuple[int, int]:
    """(lock step, halves) of activations [half][activation][lane]."""
    slowest = [[max(lanes) for lanes in half] for half in paces]
    longest = max(map(len, slowest))
    padded = [half + [0] * (longest - len(half)) for half in slowest]
    return sum(map(max, zip(*padded, strict=True))), max(map(sum, slowest))


def test_clocks_of_a_layer_done_by_hand():
    """Two segments in two packs, one group each, columns of +1s and -1s: outward search of +-counts."""
    hardware = replace(TINY, rows=4, input_bits=1)
    weights = np.array([[1, -1]] * 4 + [[-1, 0]] * 2)
    layer = make_layer(
        np.random.default_rng(0), hardware, kind="linear", channels=6, height=1, width=1, outputs=2, weights=weights
    )
    packing = pack_layer(layer, hardware, "packs")
    windows = np.array([[1, 1, 1, 0, 1, 1]])
    spent = gather.spend(packing, windows, [outward(hardware)], plain=True)
    # Pack 0, k = 3: d = 3 takes d >= 1, 2, 3, d = -3 takes 1, 0, -1, -2; pack 1, k = 2: d = -2 and 0.
    lock_step, halves = by_hand([[[3, 4]], [[3, 2]]])
    assert spent.operations.tolist() == [[3 + 4 + 3 + 2]]
    assert dict(zip(MODES, spent.clocks[0, :, 0].tolist(), strict=True)) == {
        "lock step": lock_step, "halves": halves, "lanes 2": 4, "lanes 4": 4, "decoupled": 4,
    }  # fmt: skip
    assert (spent.ou_activations.item(), spent.prefix_counts.item(), spent.latched_lines.item()) == (2, 2, 8)


def test_lanes_with_places_go_on_while_another_converts():
    """One half, two activations of lanes (4, 1) and (1, 4): 8 clocks in lock step, 5 or 6 with two places."""
    lanes = gather._Lanes(2, 2, 1)
    lanes.activate(np.array([0, 1]), np.array([4, 1]))
    lanes.activate(np.array([0, 1]), np.array([1, 4]))
    assert lanes.elapsed == 5
    lanes.activate(np.array([0, 1]), np.array([1, 1]))  # lane 0 must have ended its first conversion, at 4
    assert lanes.elapsed == 6


def test_a_pack_without_a_1_takes_a_clock_of_its_half():
    layer = make_layer(
        np.random.default_rng(0), TINY, kind="linear", channels=4, height=1, width=1, outputs=2,
        weights=np.ones((4, 2), dtype=np.int64), input_bits=3,
    )  # fmt: skip
    spent = gather.spend(pack_layer(layer, TINY), np.zeros((1, 4), dtype=np.uint8), [outward(TINY)], plain=True)
    assert spent.clocks[0, :, 0].tolist() == [3] * len(MODES)
    assert not spent.ou_activations.any()


@given(cases())
@settings(max_examples=40, deadline=None)
def test_more_places_and_less_coupling_take_no_more_clocks(case):
    packing, _, windows = case
    lock_step, halves, two, four, decoupled = gather.spend(packing, windows, [outward(packing.hardware)]).clocks[0]
    assert (lock_step >= halves).all()
    assert (halves >= two).all()
    assert (two >= four).all()
    assert (halves >= decoupled).all()


@pytest.mark.parametrize(
    ("segments", "even", "sizes"),
    [(16, False, [14, 2]), (16, True, [8, 8]), (32, True, [8, 8, 8, 8]), (1, True, [1]), (3, True, [2, 1])],
)
def test_segments_are_cut_into_packs(segments, even, sizes):
    assert pack_segments(segments, PAPER, even=even) == sizes


@given(cases())
@settings(max_examples=40, deadline=None)
def test_groups_fill_the_pairs_of_their_half_in_order(case):
    packing = case[0]
    for half in range(2):
        places = [
            (p, group.block_col, group.plane, group.pair * packing.hardware.grid_cols + group.ou_col)
            for p, pack in enumerate(packing.packs)
            for mask in pack.masks
            for group in mask.groups
            if group.half == half
        ]
        taken = [place for *_, place in sorted(places)]
        first = taken[0] if taken else 0
        assert first % packing.hardware.grid_cols == 0
        assert taken == list(range(first, first + len(taken)))


def test_layers_of_a_few_groups_share_pairs_between_packs():
    """Two packs of 2 block columns of 2 planes: 4 OU columns a half, of 16."""
    layer = make_layer(
        np.random.default_rng(0), PAPER, kind="linear", channels=15 * 9, height=1, width=1, outputs=16,
        weights=np.full((15 * 9, 16), 3),
    )  # fmt: skip
    packing = pack_layer(layer, PAPER)
    assert packing.pair_segments.tolist() == [2 * 15, 2 * 15]
    assert packing.weight_cells == 2 * 2 * 15 * 9 * 16


def sparse_layer(rng, k=40, n=11):
    """A layer many of whose rows are 0 in all columns of a group."""
    weights = np.where(rng.random((k, n)) < 0.1, rng.integers(-3, 4, (k, n)), 0)
    return make_layer(rng, PAPER, kind="linear", channels=k, height=1, width=1, outputs=n, weights=weights)


def test_packs_by_rows_hold_only_rows_that_are_not_0_and_store_which():
    layer = sparse_layer(np.random.default_rng(2))
    packing = pack_layer(layer, PAPER, by="rows")
    kept = [
        np.flatnonzero((np.abs(layer.weights[:, first : first + 8]) >> b & 1).any(axis=1))
        for first in (0, 8)
        for b in range(8)
    ]
    assert packing.rows[packing.rows < layer.k].tolist() == np.concatenate(kept).tolist()
    assert packing.mask_bits == sum(min(layer.k, 6 * len(rows)) for rows in kept)
    assert [pack.lines for pack in packing.packs] == [len(rows) for rows in kept if len(rows)]
    for pack in packing.packs:
        (mask,) = pack.masks
        (group,) = mask.groups
        on = (group.positive | group.negative).any(axis=0)
        assert np.array_equal(on, np.arange(on.size) < pack.lines)  # empty lines are last


def test_packs_by_rows_are_full_and_hold_whole_columns():
    layer = sparse_layer(np.random.default_rng(3))
    with pytest.raises(ValueError, match="by 'rows' needs split 'one' or 'columns' and full packs, got 'packs'"):
        pack_layer(layer, PAPER, "packs", by="rows")


def test_lossy_searches_cannot_stop_early():
    layer = make_layer(np.random.default_rng(0), PAPER, kind="linear", channels=9, height=1, width=1, outputs=2)
    packing, windows = pack_layer(layer, PAPER), np.ones((1, 9), dtype=np.uint8)
    stops = stops_of(packing, layer, windows, EarlyStop())
    with pytest.raises(ValueError, match="signed twin, n_r1 2, m 1: early stop needs a lossless search"):
        gather.matmul(packing, windows, signed_twin(PAPER, 2, 1), stops)


def test_early_stop_needs_halves_that_hold_whole_sums():
    layer = make_layer(np.random.default_rng(0), PAPER, kind="linear", channels=9, height=1, width=1, outputs=2)
    packing, windows = pack_layer(layer, PAPER, "groups"), np.ones((1, 9), dtype=np.uint8)
    with pytest.raises(ValueError, match="early stop needs split 'one' or 'columns', got 'groups'"):
        gather.matmul(packing, windows, outward(PAPER), stops_of(packing, layer, windows, EarlyStop()))
