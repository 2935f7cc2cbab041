"""Clocks of the pair machine: the definition, and the compiled loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import TINY
from golden_model.optional import numba_installed
from golden_model.pairs.early_stop import Stops
from golden_model.pairs.machine import build_clocks, step_clocks
from golden_model.pairs.packs import pack_layer
from golden_model.pairs.search import bounded, counts_search, outward
from golden_model.timing import CONVERT, NOTHING, Beats
from golden_model.trq import AdcRegisters
from tests.golden_model.test_pairs import ALONE, cases, early_stops, stops_of
from tests.strategies import make_layer

#: A single window, and nothing around its conversions.
ONE_WINDOW = np.zeros((1, 1), dtype=np.int64), NOTHING


def window_clocks(packing, activations, search, stops=None, *, plain=False) -> np.ndarray:
    """Clocks from the begin of each of the windows (P, K), on a machine of its own, to `window_done`; int64 (P,)."""
    return step_clocks(packing, activations, search, *ONE_WINDOW, stops, plain=plain).step


@pytest.mark.skipif(not numba_installed(), reason="needs numba")
@given(cases(), early_stops | st.none(), st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_the_compiled_loop_keeps_the_same_time(case, stop, seed):
    packing, layer, windows = case
    stops = stops_of(packing, layer, windows, stop) if stop and packing.split in ALONE else None
    for search in (outward(packing.hardware), bounded(packing.hardware)):
        for rounds, beats in (ONE_WINDOW, steps(seed, len(windows))):
            plain = step_clocks(packing, windows, search, rounds, beats, stops, plain=True)
            for found, wanted in zip(step_clocks(packing, windows, search, rounds, beats, stops), plain, strict=True):
                np.testing.assert_array_equal(found, wanted)


def steps(seed: int, windows: int) -> tuple[np.ndarray, Beats]:
    """Rounds of all windows on any number of macros, and any clocks around their conversions."""
    rng = np.random.default_rng(seed)
    macros = int(rng.integers(1, 4))
    padded = np.pad(np.arange(windows), (0, -windows % macros), constant_values=-1)
    return padded.reshape(-1, macros), Beats(*(int(value) for value in rng.integers(0, 60, 4)))


@given(cases())
@settings(max_examples=60, deadline=None)
def test_a_window_lasts_at_least_as_long_as_the_activations_of_its_slower_half(case):
    packing, _, windows = case
    search = outward(packing.hardware)
    clocks = step_clocks(packing, windows, search, *ONE_WINDOW)
    assert (clocks.step >= clocks.converting.max(axis=1) + CONVERT).all()


@given(cases(), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_windows_that_follow_each_other_take_no_longer_than_one_by_one(case, seed):
    packing, _, windows = case
    search, rounds = outward(packing.hardware), np.arange(len(windows))[:, None]
    together = step_clocks(packing, windows, search, rounds, NOTHING).step[0]
    assert together <= window_clocks(packing, windows, search).sum() + len(windows)
    assert together >= window_clocks(packing, windows, search).max()


def _case(weights, windows, **fields):
    """A fully connected layer on TINY, changed by `fields`, and its windows."""
    hardware = replace(TINY, **fields)
    weights = np.asarray(weights)
    layer = make_layer(
        np.random.default_rng(0), hardware, kind="linear", channels=weights.shape[0], height=1, width=1,
        outputs=weights.shape[1], weights=weights,
    )  # fmt: skip
    return pack_layer(layer, hardware), np.array(windows, dtype=np.uint8)


def _clocks(packing, windows, stops=None) -> int:
    """Of one window with outward search, by the definition and by the compiled loop."""
    search = outward(packing.hardware)
    plain, fast = (window_clocks(packing, windows, search, stops, plain=plain) for plain in (True, False))
    assert plain == fast
    return int(plain[0])


def test_clocks_of_one_unit_are_those_of_its_way_through_the_machine():
    # One row, one group. Bits 3, 2 and 1 are streamed and empty: a pack and a mask each, clocks 1 to 6. Bit 0: pack in
    # clock 7, mask taken in 8, on to step 2 in 9, OU formed in 10, sampled in 11, taken by the lane in 12; d = 1 = k
    # takes one decision of two clocks.
    packing, windows = _case([[1]], [[1]])
    assert _clocks(packing, windows) == 12 + 2 + 1 + CONVERT


def test_a_window_of_zeros_takes_two_clocks_a_bit():
    # Last pack in clock 7, its mask taken in 8, on to step 2 in 9, where it is seen to be empty.
    packing, windows = _case([[1]], [[0]])
    clocks = step_clocks(packing, windows, outward(packing.hardware), *ONE_WINDOW)
    assert clocks.step[0] == 10 + CONVERT
    assert clocks.converting.sum() == 0


def test_a_lane_converts_two_samples_side_by_side():
    # Planes 0 and 1 of two columns, taken in clocks 12 and 13. d = -4 takes 5 decisions, d = 0 takes 2.
    packing, windows = _case([[-1, -2]] * 4, [[1] * 4])
    assert _clocks(packing, windows) == 13 + 5 * 2 + 1 + CONVERT


def test_a_third_sample_waits_for_a_free_slot():
    # Planes 0, 1 and 2, sampled in clocks 11 to 13. The second lane is done with plane 0 in clock 16, and takes plane
    # 2, of 5 decisions, in that clock.
    packing, windows = _case([[-1, -4]] * 4, [[1] * 4])
    assert _clocks(packing, windows) == 16 + 5 * 2 + 1 + CONVERT


def test_a_sample_waits_for_a_place_that_all_lanes_are_done_with():
    # With two places plane 2 needs that of plane 0, with which the first lane is done in clock 22: sampled in 23, taken
    # in 24.
    packing, windows = _case([[-1, -4]] * 4, [[1] * 4], machine="pairs", sample_places=2)
    assert _clocks(packing, windows) == 24 + 5 * 2 + 1 + CONVERT


def test_a_lane_passes_over_a_sample_that_it_has_no_part_in():
    # Five outputs: block columns 0 and 2 are in half 0, taken in clocks 12 and 13; the latter has one column. The
    # second lane takes 5 decisions for block column 0.
    weights = np.stack([[0, -1, 1, 1, 1], [0, -1, 1, 1, -1]] * 2)
    packing, windows = _case(weights, [[1] * 4])
    assert _clocks(packing, windows) == 12 + 5 * 2 + 1 + CONVERT


def test_a_check_waits_for_the_lanes_and_the_next_sample_of_its_column_for_the_check():
    # Bit 3: pack 1, mask 2, step 2 in 3, OU 4, sampled in 5, taken in 6, done with 1 decision in 8. The mark follows
    # the OU in 5, the check is handed out in 6, and taken a clock after the lane is done, in 9: decided in 12. Bit 2:
    # pack in 6, its OU waits meanwhile, and is sampled in 12, taken in 13, done in 15.
    packing, windows = _case([[1]], [[12]])
    stops = Stops(*np.zeros((3, 1, 1), dtype=np.int64), after=(3,), checked=np.ones((1, 1), dtype=bool))
    assert _clocks(packing, windows, stops) == 15 + 1 + CONVERT


def test_samples_keep_their_interval():
    packing, windows = _case([[1]], [[15]], sample_interval=7)
    assert _clocks(packing, windows) == 5 + 3 * 7 + 1 + 2 + 1 + CONVERT


def test_tables_of_one_block_take_what_the_docstring_says():
    packing, _ = _case([[1]], [[1]])
    assert build_clocks(packing) == 1 + (1 + 1) + (1 + 1) + (1 + 1) + 1


def test_a_search_of_both_counts_is_refused():
    packing, windows = _case([[1]], [[1]])
    search = counts_search("two", AdcRegisters(mode="bounded", n_r2=TINY.adc_bits), TINY)
    with pytest.raises(ValueError, match="two: this machine converts the difference of a pair, not its two counts"):
        window_clocks(packing, windows, search)
