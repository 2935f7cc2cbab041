"""Few-ones rounding against a search of all levels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from golden_model.config import TINY
from rtl.few_ones import FewOnes
from sim.bench import simulate
from tests.bench import put

pytestmark = pytest.mark.rtl


def _nearest(value: int, limit: int, ones: int) -> int:
    """Nearest value up to the limit with at most so many 1s; the larger one of two."""
    levels = [level for level in range(limit + 1) if level.bit_count() <= ones]
    return min(levels, key=lambda level: (abs(level - value), -level))


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_every_value_of_every_encoding_becomes_the_nearest_level(bits):
    dut = FewOnes(replace(TINY, input_bits=bits))
    wrong = []

    async def bench(ctx):
        for width in range(1, bits + 1):
            put(ctx, dut.limit, limit := (1 << width) - 1)
            for ones in range(1, bits + 1):
                put(ctx, dut.ones, ones)
                for value in range(limit + 1):
                    put(ctx, dut.value, value)
                    if ctx.get(dut.level) != _nearest(value, limit, ones):
                        wrong.append((width, ones, value, ctx.get(dut.level)))

    simulate(dut, bench)
    assert wrong == []


def test_tie_becomes_the_larger_level():
    assert _nearest(0b10100, 31, 1) == 16
    assert _nearest(0b11000, 31, 1) == 16  # 32 would be as near, but is no level of 5 bits
    assert _nearest(0b01100, 31, 1) == 16
    assert _nearest(0b11, 15, 1) == 4


def test_value_above_the_last_level_becomes_the_last_level():
    assert _nearest(255, 255, 2) == 192
