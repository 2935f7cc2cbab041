from dataclasses import replace

import numpy as np
import pytest

from golden_model import timing
from golden_model.config import PAPER, PRESETS, TINY

PAIRS = PRESETS["tiny-pairs"]


@pytest.fixture
def constants(monkeypatch):
    values = {"c_start": 1000, "c_layer": 100, "c_group": 10, "c_window": 5, "c_load": 7, "c_convert": 1, "c_drain": 4}
    for name, value in values.items():
        monkeypatch.setattr(timing, name, lambda hardware, value=value: value)


@pytest.mark.usefixtures("constants")
def test_a_segment_lasts_at_least_as_long_as_the_next_ones_expansion():
    # K = 9 (3 segments of 4 rows, 2 groups), N = 7 (4 block columns of 2).
    cycles = timing.window_cycles(TINY, 9, 7, [[0, 0, 0], [3, 4, 3], [9, 5, 0]])
    fixed = 9 + 10 * 2 + 4 + 7 + 5
    assert cycles.tolist() == [fixed + 8, fixed + 11, fixed + 14]


@pytest.mark.usefixtures("constants")
def test_a_run_adds_the_start_to_its_layers():
    assert timing.network_cycles(TINY, [[1, 2, 3], [4, 5, 6]]).tolist() == [1006, 1015]


@pytest.mark.usefixtures("constants")
def test_clocks_of_a_beat_are_those_of_its_parts():
    # 5 fetches and 3 segments: 15 clocks to load; N = 7: 11 to drain.
    assert timing.beats(PAIRS, (1, 3, 3), 7, 30) == timing.Beats(load=15, convert=1, drain=11, ready=30)


def test_rounds_are_neighbours_of_a_row_at_the_same_place_of_their_pooling_windows():
    assert timing.rounds(2, 3, 1, 2).tolist() == [[0, 1], [2, -1], [3, 4], [5, -1]]
    assert timing.rounds(1, 3, 2, 2).tolist() == [[0, 4], [1, 5], [2, 6], [3, 7], [8, -1], [9, -1], [10, -1], [11, -1]]
    assert timing.rounds(2, 2, 1, 1).tolist() == [[0], [1], [2], [3]]


@pytest.mark.parametrize(
    ("columns", "residual_columns", "last", "abreast"),
    [(4, 1, False, 8), (5, 1, False, 1), (1, 4, False, 8), (1, 5, False, 1), (1, 1, True, 1)],
)
def test_windows_that_lie_too_far_apart_or_make_logits_run_one_at_a_time(columns, residual_columns, last, abreast):
    hardware = replace(PAIRS, macros=8)
    assert timing.abreast(hardware, columns, residual_columns=residual_columns, last=last) == abreast
    assert timing.abreast(TINY, columns, residual_columns=residual_columns, last=last) == 1


@pytest.mark.parametrize(
    ("kernel", "fetched"),
    [
        ((1, 3, 3), [3, 1, 2, 2, 1]),  # rows of the kernel, cut where a segment of 4 rows ends
        ((5, 1, 1), [1, 1, 1, 1, 1]),  # channels are no neighbours
        ((1, 1, 11), [4, 4, 3]),
        ((2, 1, 4), [4, 4]),
    ],
)
def test_a_fetch_stays_in_a_row_of_the_kernel_and_in_a_segment(kernel, fetched):
    assert sum(fetched) == np.prod(kernel)
    assert timing.fetches(PAIRS, *kernel) == len(fetched)
    assert timing.fetches(TINY, *kernel) == np.prod(kernel)


def test_groups_hold_whole_segments():
    assert [timing.groups(PAPER, k) for k in (1, 126, 127, 252, 253)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("hardware", [TINY, PAPER])
def test_constants_are_whole_clocks(hardware):
    for constant in (timing.c_start, timing.c_layer, timing.c_group, timing.c_window):
        assert isinstance(constant(hardware), int)
        assert constant(hardware) >= 0


def test_the_given_segment_times_are_not_changed():
    busy = np.zeros((1, 2), dtype=np.int64)
    timing.window_cycles(TINY, 8, 4, busy)
    assert (busy == 0).all()
