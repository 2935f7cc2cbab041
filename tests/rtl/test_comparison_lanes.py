"""The lanes that are measured beside ours convert, too: what is compared does the same work."""

from __future__ import annotations

import pytest

from golden_model.config import PAPER
from golden_model.trq import AdcRegisters, convert
from rtl.pair_layouts import SearchMode
from sim.bench import simulate
from tests.bench import fetch, put
from tests.rtl import comparison_lanes as lanes
from tests.rtl import search_oracle
from tests.rtl.search_oracle import SearchRegisters

pytestmark = pytest.mark.rtl
R = PAPER.adc_bits


def _convert(lane, samples, inputs: dict[str, int]) -> list[tuple[int, int]]:
    """(value, operations) of every sample."""
    found = []

    async def bench(ctx):
        for name, value in inputs.items():
            put(ctx, getattr(lane, name), value)
        for sample in samples:
            ctx.set(lane.start, 1)
            await ctx.tick()
            ctx.set(lane.start, 0)
            operations, value = 0, None
            while ctx.get(lane.busy):
                put(ctx, lane.comparator, sample >= fetch(ctx, lane.threshold))
                operations += 1
                value = fetch(ctx, lane.value)
                await ctx.tick()
            assert value is not None
            found.append((fetch(ctx, lane.value), operations))

    simulate(lane, bench, limit=20 * len(samples) + 50)
    return found


@pytest.mark.parametrize("make", [lanes.ClassicSar, lanes.classic_held])
def test_classic_lane_converts_every_level(make):
    assert _convert(make(PAPER), range(16), {}) == [(level, R) for level in range(16)]


@pytest.mark.parametrize("n_r2", [1, 2, 3, 4])
@pytest.mark.parametrize("make", [lanes.PlainSar, lanes.plain_held])
def test_plain_lane_converts_with_any_number_of_steps(make, n_r2):
    unit = 1 << (R - n_r2)
    found = _convert(make(PAPER), range(16), {"first": 8 - unit // 2, "unit": unit})
    golden = convert(range(16), R, AdcRegisters(mode="uniform", n_r2=n_r2))
    assert found == [(int(value) * unit, n_r2) for value in golden.value]


@pytest.mark.parametrize("ones", [1, 2, 9, 15])
@pytest.mark.parametrize("make", [lanes.OwnOutward, lanes.outward_held])
def test_lane_of_its_own_searches_outward(make, ones):
    registers = SearchRegisters(SearchMode.OUTWARD, True, AdcRegisters(mode="uniform", n_r2=R + 1))
    samples = range(-ones, ones + 1)
    found = _convert(make(PAPER), samples, {"highest": ones, "lowest": 1 - ones})
    expected = [search_oracle.search(registers, R, ones, sample) for sample in samples]
    assert found == [(value, operations) for value, _, operations in expected]


@pytest.mark.parametrize(
    ("n_r1", "n_r2", "m", "bias"), [(1, 4, 0, 0), (0, 3, 1, 5), (2, 2, 2, 1), (1, 2, 0, 0), (2, 3, 0, 0)]
)
@pytest.mark.parametrize("make", [lanes.OwnTwin, lanes.twin_held])
def test_lane_of_its_own_searches_twin_ranges(make, n_r1, n_r2, m, bias):
    s2, s1 = R - n_r2, R - n_r2 - m
    low, length = bias << n_r1 << s1, 1 << n_r1 << s1
    fine, coarse = (1 << s1) >> 1, (1 << s2) >> 1
    inputs = {
        "twin": 1,
        "two": bias != 0,
        "point": n_r1 == 0,
        "first": low + length - fine,
        "low": max(low - fine, 0),
        "r1_first": low + length // 2 - fine,
        "r2_first": 8 - coarse,
        "r1_steps": length - (1 << s1),
        "r2_steps": 16 - (1 << s2),
    }
    golden = convert(range(16), R, AdcRegisters(mode="twin", n_r1=n_r1, n_r2=n_r2, m=m, bias=bias))
    expected = [(int(v) << s1, int(n)) for v, n in zip(golden.value, golden.operations, strict=True)]
    assert _convert(make(PAPER), range(16), inputs) == expected
