"""Behavioural crossbars: the ideal array is exact, every imperfection acts as described and is reproducible."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import TINY, HardwareConfig
from sim.array.crossbars import Crossbar, CrossbarSettings

NINE = HardwareConfig(crossbar_pairs=2)


def cells_word(matrix):
    """(lanes, ou_rows) bits -> the integer of an OU's cells."""
    return sum(int(bit) << i for i, bit in enumerate(np.asarray(matrix).reshape(-1)))


@settings(max_examples=50, deadline=None)
@given(data=st.data(), hardware=st.sampled_from([TINY, NINE]))
def test_ideal_array_answers_count_at_least_min_count(data, hardware):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    scale = data.draw(st.floats(0.25, 4.0))
    levels = np.arange(1, 1 << hardware.adc_bits)
    min_count = np.ceil(scale * (levels - 0.5)).astype(int)
    crossbar = Crossbar(hardware, counts_per_lsb=[scale], min_count=[min_count])
    cells = rng.integers(0, 2, (hardware.lanes, hardware.ou_rows))
    drive = rng.integers(0, 2, hardware.ou_rows)
    crossbar.program(1, 0, 1, cells_word(cells))
    crossbar.sample(1, 0, 1, cells_word(drive))
    counts = cells @ drive
    for t in levels:
        expected = counts >= min_count[t - 1]
        assert (crossbar.compare(np.full(hardware.lanes, t)) == expected).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.25, 4.0))
def test_a_non_ideal_array_without_effect_agrees_with_the_ideal_one(seed, scale):
    rng = np.random.default_rng(seed)
    # A ratio so large that the off current is far below one rounding error of a count.
    nearly = CrossbarSettings(on_off_ratio=1e300)
    ideal = Crossbar(NINE, counts_per_lsb=[scale])
    other = Crossbar(NINE, nearly, counts_per_lsb=[scale])
    cells, drive = int(rng.integers(0, 2**62)), int(rng.integers(0, 512))
    for crossbar in (ideal, other):
        crossbar.program(0, 3, 2, cells)
        crossbar.sample(0, 3, 2, drive)
    for t in range(16):
        codes = np.full(NINE.lanes, t)
        assert (ideal.compare(codes) == other.compare(codes)).all()


def test_sampled_voltages_are_in_lsb_of_the_layer():
    crossbar = Crossbar(NINE, counts_per_lsb=[1.0, 2.0])
    crossbar.program(0, 0, 0, (1 << NINE.ou_cells) - 1)
    assert (crossbar.sample(0, 0, 0, 0b111111) == 6).all()
    assert (crossbar.sample(0, 0, 0, 0b111111, step=1) == 3).all()


def test_saturated_array_reaches_every_threshold_up_to_the_row_count():
    crossbar = Crossbar(NINE)
    crossbar.program(0, 0, 0, (1 << NINE.ou_cells) - 1)
    crossbar.sample(0, 0, 0, 511)
    assert crossbar.compare(np.full(NINE.lanes, 9)).all()
    assert not crossbar.compare(np.full(NINE.lanes, 10)).any()


def test_cells_read_back_as_programmed_and_erased_cells_as_zero():
    crossbar = Crossbar(NINE)
    word = 0x9ABC << 100 | 0x1234
    crossbar.program(1, 13, 15, word)
    assert crossbar.readback(1, 13, 15) == word
    assert crossbar.readback(0, 0, 0) == 0


@pytest.mark.parametrize("distribution", ["lognormal", "normal"])
def test_variation_has_mean_one_and_the_given_spread(distribution):
    crossbar = Crossbar(NINE, CrossbarSettings(variation=0.2, distribution=distribution, seed=3))
    full, on = (1 << NINE.ou_cells) - 1, []
    for row in range(14):
        for col in range(16):
            crossbar.program(0, row, col, full)
            on.append(crossbar.sample(0, row, col, 1))
    on = np.array(on)
    assert abs(on.mean() - 1) < 0.02
    assert abs(on.std() - 0.2) < 0.02
    assert (on >= 0).all()


def test_a_device_is_fixed_by_its_seed_and_not_by_the_order_of_programming():
    full = (1 << NINE.ou_cells) - 1

    def device(seed, places):
        crossbar = Crossbar(NINE, CrossbarSettings(variation=0.3, stuck_off=0.1, seed=seed))
        for place in places:
            crossbar.program(*place, full)
        return np.array([crossbar.sample(*place, 511) for place in sorted(places)])

    places = [(0, 1, 2), (1, 0, 0), (0, 0, 3)]
    assert (device(5, places) == device(5, places[::-1])).all()
    assert not (device(5, places) == device(6, places)).all()


def test_off_cells_leak_by_the_on_off_ratio():
    crossbar = Crossbar(NINE, CrossbarSettings(on_off_ratio=10))
    crossbar.program(0, 0, 0, 0)
    assert np.allclose(crossbar.sample(0, 0, 0, 511), 0.9)
    assert crossbar.compare(np.ones(NINE.lanes, dtype=int)).all()


@pytest.mark.parametrize(("kind", "programmed", "found"), [("stuck_on", 0, 1), ("stuck_off", 1, 0)])
def test_stuck_cells_ignore_programming_and_show_in_the_readback(kind, programmed, found):
    crossbar = Crossbar(NINE, CrossbarSettings(**{kind: 0.25}))
    all_bits = (1 << NINE.ou_cells) - 1
    wrong = 0
    for row in range(14):
        for col in range(16):
            crossbar.program(0, row, col, all_bits * programmed)
            difference = crossbar.readback(0, row, col) ^ (all_bits * programmed)
            wrong += difference.bit_count()
    assert abs(wrong / (14 * 16 * NINE.ou_cells) - 0.25) < 0.02
    healthy = Crossbar(NINE, CrossbarSettings(**{kind: 1.0}))
    healthy.program(0, 0, 0, all_bits * programmed)
    assert (healthy.sample(0, 0, 0, 511) == 9 * found).all()


def test_read_noise_is_held_until_the_next_sample():
    crossbar = Crossbar(NINE, CrossbarSettings(read_noise=0.5, seed=1))
    crossbar.program(0, 0, 0, (1 << NINE.ou_cells) - 1)
    first = crossbar.sample(0, 0, 0, 0b11111)
    codes = np.full(NINE.lanes, 5)
    answers = crossbar.compare(codes)
    assert (crossbar.compare(codes) == answers).all()
    assert (answers == (first >= 4.5)).all()
    assert not (crossbar.sample(0, 0, 0, 0b11111) == first).any()
    samples = np.array([crossbar.sample(0, 0, 0, 0b11111) for _ in range(2000)])
    assert abs(samples.std() - 0.5) < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variation": -0.1}, "CrossbarSettings.variation must be a finite number of at least 0, got -0.1"),
        ({"read_noise": float("nan")}, "CrossbarSettings.read_noise must be a finite number of at least 0, got nan"),
        ({"on_off_ratio": 0.5}, "on_off_ratio must be 0 .infinite. or at least 1, got 0.5"),
        ({"stuck_on": 0.6, "stuck_off": 0.6}, "stuck_on . stuck_off must be at most 1"),
        ({"distribution": "uniform"}, "distribution must be 'lognormal' or 'normal', got 'uniform'"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_illegal_settings_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        CrossbarSettings(**arguments)


def test_places_outside_the_array_are_refused():
    crossbar = Crossbar(TINY)
    with pytest.raises(ValueError, match=r"row must be in 0..1, got 2"):
        crossbar.program(0, 2, 0, 0)
    with pytest.raises(ValueError, match=r"slice must be in"):
        crossbar.sample(0, 0, 0, 16)
