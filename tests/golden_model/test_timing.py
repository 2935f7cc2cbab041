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
def test_windows_of_the_pair_machine_are_loaded_converted_and_drained_side_by_side():
    # 5 fetches and 3 segments: 15 clocks to load; N = 7: 11 to drain; the tables take 30.
    cycles = timing.c_layer(PAIRS) + timing.pair_beats(PAIRS, (1, 3, 3), 7, 30, [[5, 5], [50, 5], [5, 40]])
    beats = [
        (30, 15, 11, 11),  # tables; load 1 and convert 0; convert 1 and drain 0; drain 1
        (30, 51, 11, 11),
        (30, 15, 41, 11),
    ]
    assert cycles.tolist() == [100 + sum(each) for each in beats]


@pytest.mark.usefixtures("constants")
def test_tables_that_are_there_before_the_first_window_take_no_time():
    assert timing.pair_beats(PAIRS, (1, 3, 3), 7, 1, [5]) == 15 + 6 + 11


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
