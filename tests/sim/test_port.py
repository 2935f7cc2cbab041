"""Packed payloads of the analog ports: what reaches the array, and what comes back."""

from dataclasses import replace

import pytest

from golden_model.config import TINY
from rtl import layouts, pack_layouts
from rtl.interfaces import CrossbarPort, port_shape
from rtl.pair_interfaces import PairCrossbarPort
from sim.array.crossbars import Crossbar, PairCrossbar
from sim.array.port import PackedPort

PAIRS = replace(TINY, machine="pairs")


def packed(layout, values):
    return layout.const(values).as_bits()


def test_a_sample_of_one_ou_is_held_and_compared():
    crossbar = Crossbar(TINY)
    port = PackedPort(crossbar)
    place = {"pair": 5, "ou_row": 1, "ou_col": 2}
    port.program(packed(layouts.cell_write(TINY), place | {"cells": 0x0137}))  # 3, 2, 1, 0 cells by lane
    assert port.readback(packed(layouts.ou_address(TINY), place)) == 0x0137
    port.sample(0, packed(layouts.sample(TINY), place | {"slice": 0b0111}), 0)
    assert port.comparators(0, 0, packed(layouts.thresholds(TINY), [3, 3, 1, 1])) == 0b0101
    assert port.comparators(0, 0, packed(layouts.thresholds(TINY), [4, 2, 2, 0])) == 0b1010


def test_a_sample_of_pairs_is_held_in_its_place_and_compared_with_signed_thresholds():
    port = PackedPort(PairCrossbar(PAIRS))
    for row in range(2):  # positive 3 and 1 cells of 2 columns, negative 1 and 3
        place = {"pair": 5, "ou_row": row, "ou_col": 3}
        port.program(packed(layouts.cell_write(PAIRS), place | {"cells": 0x7117}))
    sample = pack_layouts.pair_sample(PAIRS)
    for part, place, lines in ((0, 0, [7, 7]), (0, 1, [4, 0]), (1, 1, [1, 1])):
        port.sample(part, packed(sample, {"pair": 5, "ou_col": 3, "lines": lines, "place": place}), 0)
    thresholds, places = pack_layouts.pair_thresholds(PAIRS), pack_layouts.pair_places(PAIRS)
    for part, held, differences in (
        (0, [0, 0], [4, -4]),
        (0, [1, 1], [1, -1]),
        (0, [0, 1], [4, -1]),
        (1, [1, 1], [0, 0]),
    ):
        assert port.comparators(part, 0, packed(thresholds, differences), packed(places, held)) == 0b11
        above = [difference + 1 for difference in differences]
        assert port.comparators(part, 0, packed(thresholds, above), packed(places, held)) == 0b00


@pytest.mark.parametrize(("hardware", "signature"), [(TINY, CrossbarPort), (PAIRS, PairCrossbarPort)])
def test_the_shape_of_a_port_is_that_of_the_hardware(hardware, signature):
    shape, members = port_shape(hardware), signature(hardware).members
    for name in shape.parts:
        part = members[name].signature.members if name else members
        assert part["sample"].signature.members["payload"].shape == shape.sample
        assert part["comparators"].shape.width == shape.converters
        assert ("places" in part) == (shape.places > 1)
