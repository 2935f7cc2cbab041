"""Behavioural crossbars: the ideal array is exact, every imperfection acts as described and is reproducible."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import TINY, HardwareConfig
from sim.array.crossbars import Crossbar, CrossbarSettings, PairCrossbar

NINE = HardwareConfig(crossbar_pairs=2)
#: The same array behind the converters of the pair machine.
NINE_PAIRS, TINY_PAIRS = (replace(hardware, machine="pairs") for hardware in (NINE, TINY))


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


def conductances(pair=0, **settings):
    """Of the on cells of a crossbar pair, (grid_rows · grid_cols, ou_rows, lanes)."""
    crossbar = Crossbar(NINE, CrossbarSettings(**settings))
    crossbar.load(np.ones((2, NINE.grid_rows, NINE.grid_cols, NINE.lanes, NINE.ou_rows)))
    places = [(row, col) for row in range(NINE.grid_rows) for col in range(NINE.grid_cols)]
    return np.array([[crossbar.sample(pair, *place, 1 << line) for line in range(NINE.ou_rows)] for place in places])


def test_conductance_falls_as_a_power_of_time_with_the_exponent_of_the_cell():
    cells = conductances(age=999.0, drift=0.05, drift_spread=0.01, seed=3)
    exponents = -np.log(cells) / np.log(1000.0)
    assert abs(exponents.mean() - 0.05) < 0.001
    assert abs(exponents.std() - 0.01) < 0.001
    later = conductances(age=99999.0, drift=0.05, drift_spread=0.01, seed=3)
    assert np.allclose(-np.log(later) / np.log(100000.0), exponents)


def test_drift_leaves_spread_and_stuck_cells_of_a_device_as_they_were():
    device = {"variation": 0.3, "stuck_off": 0.1, "seed": 5}
    fresh, aged = conductances(**device), conductances(**device, age=9.0, drift=0.1)
    assert np.allclose(aged, fresh * 10**-0.1)


def test_every_cell_has_an_exponent_of_its_own_whatever_its_spread():
    device = {"variation": 0.3, "seed": 5}
    fresh = np.array([conductances(pair, **device) for pair in (0, 1)])
    aged = np.array([conductances(pair, **device, age=9.0, drift_spread=0.1) for pair in (0, 1)])
    exponents, spread = np.log10(fresh / aged), np.log(fresh)
    drawn = [*exponents.reshape(2, -1), *spread.reshape(2, -1)]
    assert abs(np.corrcoef(drawn) - np.eye(4)).max() < 0.05


def test_off_cells_drift_as_on_cells_do():
    crossbar = Crossbar(NINE, CrossbarSettings(on_off_ratio=10, age=9.0, drift=1.0))
    crossbar.program(0, 0, 0, 0)
    assert np.allclose(crossbar.sample(0, 0, 0, 511), 0.09)


def test_without_an_age_or_an_exponent_nothing_drifts():
    assert CrossbarSettings(drift=0.1, drift_spread=0.1).ideal
    assert CrossbarSettings(age=1e6).ideal
    assert not CrossbarSettings(age=1.0, drift_spread=0.1).ideal


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
        ({"age": -1.0}, "CrossbarSettings.age must be a finite number of at least 0, got -1.0"),
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


# ---- the pair machine ---------------------------------------------------------------------------
def random_pair(rng, hardware, pair=1):
    """Cells of a crossbar pair, loaded behind those of empty ones; (grid_rows, grid_cols, lanes, ou_rows)."""
    shape = (pair + 1, hardware.grid_rows, hardware.grid_cols, hardware.lanes, hardware.ou_rows)
    cells = rng.integers(0, 2, shape)
    cells[:pair] = 0
    return cells


@given(data=st.data(), hardware=st.sampled_from([TINY_PAIRS, NINE_PAIRS]))
def test_ideal_pair_array_answers_difference_at_least_threshold(data, hardware):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    crossbar, cells = PairCrossbar(hardware), random_pair(rng, hardware)
    crossbar.load(cells)
    col, most = int(rng.integers(hardware.grid_cols)), 1 << hardware.adc_bits
    lines = np.zeros((hardware.grid_rows, hardware.ou_rows), dtype=int)
    driven = rng.permutation(lines.size)[: rng.integers(0, hardware.ou_rows + 1)]
    lines.ravel()[driven] = 1
    crossbar.sample(1, 0, 1, col, cells_word(lines))
    counts = np.einsum("rlo,ro->l", cells[1, :, col], lines)
    difference = counts[: hardware.ou_cols] - counts[hardware.ou_cols :]
    for t in range(-most, most):
        answers = crossbar.compare(1, [0] * hardware.ou_cols, [t] * hardware.ou_cols)
        assert (answers == (difference >= t)).all()


def test_every_column_compares_the_sample_in_its_place_of_its_half():
    crossbar = PairCrossbar(NINE_PAIRS)
    crossbar.program(0, 0, 0, (1 << NINE.ou_cells // 2) - 1)  # all positive cells
    for half, place, ones in ((0, 0, 1), (0, 1, 2), (1, 0, 3), (1, 1, 4), (0, 0, 5)):
        crossbar.sample(half, place, 0, 0, (1 << ones) - 1)
    places = [0, 1] * 4
    for half, held in ((0, [5, 2] * 4), (1, [3, 4] * 4)):
        assert crossbar.compare(half, places, held).all()
        assert not crossbar.compare(half, places, np.array(held) + 1).any()


def test_a_cell_is_the_same_device_on_both_machines():
    settings = CrossbarSettings(
        variation=0.3, age=9.0, drift=0.1, drift_spread=0.1, stuck_on=0.1, stuck_off=0.1, seed=7
    )
    planes, pairs = Crossbar(NINE, settings), PairCrossbar(NINE_PAIRS, settings)
    cells = np.ones((2, NINE.grid_rows, NINE.grid_cols, NINE.lanes, NINE.ou_rows))
    planes.load(cells)
    pairs.load(cells)
    for row in range(NINE.grid_rows):
        assert planes.readback(1, row, 5) == pairs.readback(1, row, 5)
        for line in range(NINE.ou_rows):
            bit_lines = planes.sample(1, row, 5, 1 << line)
            differences = pairs.sample(0, 0, 1, 5, 1 << row * NINE.ou_rows + line)
            assert (differences == bit_lines[:8] - bit_lines[8:]).all()


def test_leakage_of_equal_cells_cancels_in_the_difference():
    crossbar = PairCrossbar(NINE_PAIRS, CrossbarSettings(on_off_ratio=2))
    assert (crossbar.sample(0, 0, 0, 0, (1 << 126) - 1) == 0).all()
    crossbar.program(0, 13, 0, 1)
    assert crossbar.sample(0, 0, 0, 0, (1 << 126) - 1).tolist() == [0.5] + [0.0] * 7


def test_a_difference_has_the_noise_of_both_bit_lines():
    crossbar = PairCrossbar(NINE_PAIRS, CrossbarSettings(read_noise=0.5, seed=1))
    crossbar.program(0, 0, 0, (1 << NINE.ou_cells // 2) - 1)
    first = crossbar.sample(0, 1, 0, 0, 0b11111)
    codes, places = np.full(8, 5), np.ones(8, dtype=int)
    answers = crossbar.compare(0, places, codes)
    samples = np.array([crossbar.sample(0, 0, 0, 0, 0b11111) for _ in range(4000)])
    assert abs(samples.std() - 0.5 * 2**0.5) < 0.02
    assert abs(np.corrcoef(samples.T) - np.eye(8)).max() < 0.1  # of every column on its own
    # The sample in the other place is still the same.
    assert (crossbar.compare(0, places, codes) == answers).all()
    assert (answers == (first >= 4.5)).all()


def test_noise_of_a_half_does_not_depend_on_what_the_other_one_samples():
    def samples(halves):
        crossbar = PairCrossbar(NINE_PAIRS, CrossbarSettings(read_noise=0.5, seed=3))
        found = {0: [], 1: []}
        for half in halves:
            found[half].append(crossbar.sample(half, 0, 0, 0, 1).tolist())
        return found

    assert samples([0, 1, 0, 1]) == samples([1, 1, 0, 0])
    assert samples([0, 1])[0] != samples([0, 1])[1]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((2, 0, 0, 0, 0), "half must be in 0..1, got 2"),
        ((0, 6, 0, 0, 0), "place must be in 0..5, got 6"),
        ((0, 0, 8, 0, 0), "pair must be in 0..7, got 8"),
        ((0, 0, 0, 4, 0), "col must be in 0..3, got 4"),
        ((0, 0, 0, 0, 256), r"lines must be in 0..2\*\*8 - 1, got 256"),
    ],
)
def test_samples_outside_the_pair_array_are_refused(place, message):
    with pytest.raises(ValueError, match=message):
        PairCrossbar(TINY_PAIRS).sample(*place)


# ---- several macros -----------------------------------------------------------------------------
MACROS = replace(TINY, machine="pairs", macros=2)


def test_cells_are_written_to_every_macro():
    array = PairCrossbar(MACROS)
    array.program(3, 1, 2, 0x137)
    assert [array.readback(3, 1, 2, macro) for macro in range(2)] == [0x137, 0x137]
    array.sample(0, 0, 3, 2, 0xF0)
    array.sample(2, 0, 3, 2, 0xF0)
    assert (array.held[0, 0] == array.held[2, 0]).all()


def test_every_macro_has_stuck_cells_and_deviations_of_its_own():
    settings = CrossbarSettings(variation=0.2, stuck_on=0.2, stuck_off=0.2)
    array = PairCrossbar(MACROS, settings)
    for row in range(MACROS.grid_rows):
        array.program(0, row, 0, (1 << MACROS.ou_cells) - 1)
    cells = [[array.readback(0, row, 0, macro) for row in range(MACROS.grid_rows)] for macro in range(2)]
    assert cells[0] != cells[1]
    for half in range(4):
        array.sample(half, 0, 0, 0, 0xFF)
    assert (array.held[0, 0] == array.held[1, 0]).all(), "halves of one macro sample the same cells"
    assert (array.held[0, 0] != array.held[2, 0]).any()


def test_the_first_macro_of_several_is_the_device_of_one():
    settings = CrossbarSettings(stuck_on=0.5)
    one, several = PairCrossbar(replace(MACROS, macros=1), settings), PairCrossbar(MACROS, settings)
    assert one.readback(0, 0, 0) == several.readback(0, 0, 0)


@pytest.mark.parametrize("macro", [-1, 2])
def test_a_macro_that_is_not_there_is_refused(macro):
    with pytest.raises(ValueError, match=rf"^macro must be in 0\.\.1, got {macro}$"):
        PairCrossbar(MACROS).readback(0, 0, 0, macro)
