import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_model.config import PAPER, TINY
from golden_model.crossbar import mapping
from tests.strategies import hardware_configs, make_weights


def scalar_widths(weights, hardware):
    k, n = weights.shape
    return [
        [
            max(
                abs(int(weights[x, y])).bit_length()
                for x in range(r, min(k, r + hardware.ou_rows))
                for y in range(c, min(n, c + hardware.ou_cols))
            )
            for c in range(0, n, hardware.ou_cols)
        ]
        for r in range(0, k, hardware.ou_rows)
    ]


def scalar_placement(widths, hardware, base):
    """The address generator with running counters."""
    result, pair, row = [], base, 0
    for segment, line in enumerate(widths):
        col, any_plane = 0, False
        for block, p in enumerate(line):
            for plane in range(p):
                if col == hardware.grid_cols:
                    col, row = 0, row + 1
                if row == hardware.grid_rows:
                    row, pair = 0, pair + 1
                result.append((segment, block, plane, pair, row, col))
                col, any_plane = col + 1, True
        if any_plane:
            row += 1
    return result


@given(hardware_configs(), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_widths_and_placement_equal_the_scalar_versions(hardware, k, n, seed):
    weights = make_weights(np.random.default_rng(seed), k, n, hardware)
    widths = mapping.block_widths(weights, hardware)
    assert widths.tolist() == scalar_widths(weights, hardware)
    placed = mapping.place_layer(widths, hardware, crossbar_base=3)
    fields = (placed.segment, placed.block_col, placed.plane, placed.pair, placed.ou_row, placed.ou_col)
    got = list(zip(*(f.tolist() for f in fields), strict=True))
    expected = scalar_placement(widths.tolist(), hardware, 3)
    assert got == expected
    assert placed.pairs == (expected[-1][3] - 2 if expected else 0)
    assert placed.first.tolist() == [0, *np.cumsum(widths.sum(axis=1)).tolist()]


@given(hardware_configs(), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_every_weight_bit_lies_in_its_cell_and_nothing_else(hardware, k, n, seed):
    weights = make_weights(np.random.default_rng(seed), k, n, hardware)
    placed = mapping.place_layer(mapping.block_widths(weights, hardware), hardware)
    cells = mapping.empty_cells(hardware, placed.pairs)
    mapping.program_layer(cells, placed, weights, hardware)
    found = np.zeros_like(weights)
    for ou in range(placed.ous):
        tile = cells[placed.pair[ou], placed.ou_row[ou], placed.ou_col[ou]]
        for lane, row in np.argwhere(tile):
            x = placed.segment[ou] * hardware.ou_rows + row
            y = placed.block_col[ou] * hardware.ou_cols + lane % hardware.ou_cols
            found[x, y] += (1 << placed.plane[ou]) * (1 if lane < hardware.ou_cols else -1)
    assert (found == weights).all()
    assert cells.sum() == sum(int(w).bit_count() for w in np.abs(weights).ravel())


def test_a_segment_without_planes_takes_no_ou_row():
    placed = mapping.place_layer(np.array([[1], [0], [1]]), TINY)
    assert list(zip(placed.pair.tolist(), placed.ou_row.tolist(), strict=True)) == [(0, 0), (0, 1)]


def test_cell_words_are_the_ous_integer_least_significant_word_first():
    cells = np.random.default_rng(0).integers(0, 2, (2, *mapping.empty_cells(PAPER, 1).shape[1:])).astype(bool)
    words = mapping.cell_words(cells, PAPER)
    assert words.shape == (2 * PAPER.ous_per_crossbar, PAPER.cell_words)
    for pair, row, col in ((0, 0, 0), (0, 0, 1), (1, 13, 15)):
        integer = sum(
            1 << (lane * PAPER.ou_rows + line)
            for lane in range(PAPER.lanes)
            for line in range(PAPER.ou_rows)
            if cells[pair, row, col, lane, line]
        )
        entry = words[(pair * PAPER.grid_rows + row) * PAPER.grid_cols + col]
        assert [int(w) for w in entry] == [integer >> 32 * i & 0xFFFFFFFF for i in range(PAPER.cell_words)]


def test_checksum_is_the_crc_of_the_words_in_programming_order():
    cells = mapping.empty_cells(TINY, 2)
    cells[1, 0, 1, 2, 3] = True
    words = [0] * TINY.ous_per_crossbar * 2
    words[TINY.ous_per_crossbar + 1] = 1 << (2 * TINY.ou_rows + 3)
    assert mapping.checksum(cells, TINY) == zlib.crc32(b"".join(w.to_bytes(4, "little") for w in words))


def test_weights_beyond_the_hardware_are_refused():
    with pytest.raises(ValueError, match=r"-7\.\.7 for weight_bits = 3, got a magnitude of 8"):
        mapping.block_widths(np.array([[8]]), TINY)


@pytest.mark.parametrize("weights", [np.zeros((0, 1), int), np.zeros(3, int)])
def test_empty_or_flat_weights_are_refused(weights):
    with pytest.raises(ValueError, match="non-empty K x N array"):
        mapping.block_widths(weights, TINY)


def test_a_width_below_its_blocks_magnitude_is_refused():
    with pytest.raises(ValueError, match=r"block_widths\[1, 0\] must be at least 2, .* got 1"):
        mapping.check_widths(np.array([[3], [1]]), np.array([[1]] * 4 + [[-2]]), TINY)


def test_widths_of_a_wrong_shape_or_range_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 1\), got shape \(1, 1\)"):
        mapping.check_widths(np.array([[3]]), np.ones((5, 1), int), TINY)
    with pytest.raises(ValueError, match=r"in 0\.\.3, got 4\.\.4"):
        mapping.check_widths(np.array([[4]]), np.ones((1, 1), int), TINY)
