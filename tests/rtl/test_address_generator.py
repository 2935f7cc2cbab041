"""Precision-aware address generator against the golden placement (system.md §5)."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from golden_model.config import TINY, HardwareConfig
from golden_model.crossbar.mapping import place_layer
from golden_model.image.check import check_placement
from golden_model.registers import ErrorCode, descriptor_fields
from rtl.address_generator import AddressGenerator
from sim.bench import simulate
from tests.bench import fetch, put
from tests.rtl.tile_tools import strobe

pytestmark = pytest.mark.rtl


def _hardware(rng: random.Random) -> HardwareConfig:
    """Any grid, also one with fewer OU columns than a block has planes."""
    ou_rows, ou_cols = rng.randint(1, 4), rng.randint(1, 4)
    return replace(
        TINY,
        ou_rows=ou_rows,
        ou_cols=ou_cols,
        rows=ou_rows * rng.randint(1, 4) + rng.randint(0, ou_rows - 1),
        cols=ou_cols * rng.choice([1, 2, 3, 5, 9]),
        weight_bits=rng.randint(1, 8),
        max_k=ou_rows * 6,
        max_n=ou_cols * rng.randint(1, 6),
        crossbar_pairs=300,
        width_entries=64,
    )


def _layer(dut: AddressGenerator, widths: np.ndarray, crossbar_base: int, width_base: int) -> dict[str, int]:
    values = {f.name: (1 << f.bits) - 1 for f in descriptor_fields(dut.config)}
    segments, block_cols = widths.shape
    return values | {
        "segments": segments,
        "block_cols": block_cols,
        "crossbar_base": crossbar_base,
        "width_base": width_base,
    }


async def _load(ctx, dut: AddressGenerator, widths: np.ndarray, crossbar_base: int, width_base: int) -> None:
    put(ctx, dut.settings, _layer(dut, widths, crossbar_base, width_base))
    for i, width in enumerate(widths.ravel()):
        put(ctx, dut.width_write, {"enable": 1, "address": width_base + i, "data": int(width)})
        await ctx.tick()
    ctx.set(dut.width_write.enable, 0)


def _walk(hardware: HardwareConfig, widths: np.ndarray, *, base: int, width_base: int, passes: list[int], rng) -> list:
    """OUs as the generator shows them: per segment `passes[segment]` times the whole list, then a switch."""
    dut = AddressGenerator(hardware)
    seen = []

    async def bench(ctx):
        await _load(ctx, dut, widths, base, width_base)
        for _ in range(2):  # a second window must see the same
            seen.clear()
            await ctx.tick().repeat(2)  # the first width is in its register
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            ctx.set(dut.lists.from_next, 1)
            for segment in range(len(widths)):
                while not ctx.get(dut.lists.next_ready):
                    await ctx.tick()
                for _ in range(rng.choice([0, 0, 3])):
                    await ctx.tick()
                planes = int(widths[segment].sum())
                assert ctx.get(dut.lists.next_ready)
                assert ctx.get(dut.lists.next_planes) == planes
                assert ctx.get(dut.lists.next_empty) == (planes == 0)
                at_once = planes > 0 and passes[segment] > 0 and rng.random() < 0.5
                left = planes * passes[segment]
                if at_once:  # the first OU is taken in the clock of the switch
                    seen.append((segment, *_shown(ctx, dut)))
                    left -= 1
                ctx.set(dut.lists.switch, 1)
                ctx.set(dut.lists.step, int(at_once))
                await ctx.tick()
                ctx.set(dut.lists.switch, 0)
                ctx.set(dut.lists.from_next, 0)
                while left:
                    take = rng.random() < 0.7
                    ctx.set(dut.lists.step, int(take))
                    if take:
                        seen.append((segment, *_shown(ctx, dut)))
                        left -= 1
                    await ctx.tick()
                ctx.set(dut.lists.step, 0)
                ctx.set(dut.lists.from_next, 1)
            assert not ctx.get(dut.lists.next_ready), "there is no segment behind the last one"

    simulate(dut, bench, limit=20_000)
    return seen


def _shown(ctx, dut: AddressGenerator) -> tuple:
    ou = fetch(ctx, dut.lists.ou)
    place = (ou["block_col"], ou["plane"], ou["pair"], ou["ou_row"], ou["ou_col"])
    return (*place, ctx.get(dut.lists.ou_last))


@pytest.mark.parametrize("seed", range(20))
def test_walk_visits_every_plane_where_the_placement_put_it(seed):
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    hardware = _hardware(rng)
    shape = (rng.randint(1, 6), rng.randint(1, hardware.max_block_cols))
    widths = numbers.integers(0, hardware.weight_bits + 1, shape)
    widths[numbers.random(shape) < rng.choice([0, 0.4, 0.8])] = 0
    if seed == 0:
        widths[:] = hardware.weight_bits
    base, width_base = rng.randint(0, 9), rng.randint(0, 64 - widths.size)
    passes = [rng.randint(0, 3) for _ in range(shape[0])]
    placed = place_layer(widths, hardware, crossbar_base=base)
    expected = []
    for segment in range(shape[0]):
        ous = range(placed.first[segment], placed.first[segment + 1])
        for _ in range(passes[segment]):
            for i in ous:
                fields = (placed.block_col, placed.plane, placed.pair, placed.ou_row, placed.ou_col)
                expected.append((segment, *(int(f[i]) for f in fields), int(i == ous[-1])))
    actual = _walk(hardware, widths, base=base, width_base=width_base, passes=passes, rng=rng)
    assert actual == expected


@pytest.mark.parametrize("block_cols", [1, 2, 4])
def test_one_block_column_is_expanded_per_clock(block_cols):
    dut = AddressGenerator(TINY)
    widths = np.tile([[3, 0, 1, 2]], (4, 1))[:, :block_cols]

    async def bench(ctx):
        await _load(ctx, dut, widths, 0, 0)
        await ctx.tick().repeat(2)  # the first width is in its register
        ctx.set(dut.start, 1)
        ctx.set(dut.lists.from_next, 1)
        for clock in range(block_cols + 1):
            assert not ctx.get(dut.lists.next_ready), f"clock {clock} after start"
            await ctx.tick()
            ctx.set(dut.start, 0)
        for _ in range(3):
            assert ctx.get(dut.lists.next_ready)
            ctx.set(dut.lists.switch, 1)
            await ctx.tick()  # expands the first block column of the segment behind
            ctx.set(dut.lists.switch, 0)
            for clock in range(1, block_cols):
                assert not ctx.get(dut.lists.next_ready), f"clock {clock} after the switch"
                await ctx.tick()

    simulate(dut, bench, limit=200)


async def _segments_offered(ctx, dut: AddressGenerator, segments: int) -> int:
    """Switch through the segments of a window, as fast as they become ready; how many did."""
    await ctx.tick().repeat(2)
    await strobe(ctx, dut.start)
    ctx.set(dut.lists.from_next, 1)
    for segment in range(segments):
        for _ in range(dut.config.max_block_cols + 2):
            if ctx.get(dut.lists.next_ready):
                break
            await ctx.tick()
        else:
            return segment
        await strobe(ctx, dut.lists.switch)
    return segments


def _fields(widths: np.ndarray, base: int) -> dict[str, int]:
    segments, block_cols = widths.shape
    return {"step": 0, "segments": segments, "block_cols": block_cols, "crossbar_base": base, "width_base": 0}


@pytest.mark.parametrize("seed", range(30))
def test_a_segment_beyond_the_last_pair_never_becomes_ready(seed):
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    hardware = _hardware(rng)
    widths = numbers.integers(0, hardware.weight_bits + 1, (rng.randint(1, 6), rng.randint(1, hardware.max_block_cols)))
    placed = place_layer(widths, hardware)
    # As many pairs as the layer needs, one fewer, or any number; the layer lies behind `base` others.
    base = rng.randint(0, 3)
    pairs = max(1, base + placed.pairs - rng.choice([0, 0, 1, 1, rng.randint(0, placed.pairs)]))
    hardware = replace(hardware, crossbar_pairs=pairs)
    base = min(base, pairs)
    inside = np.cumsum(
        [bool((placed.pair[a:b] + base >= pairs).any()) for a, b in pairwise(placed.first)]
    )  # segments before the first one beyond have 0
    expected = int((inside == 0).sum())
    golden = check_placement(hardware, _fields(widths, base), widths.ravel())
    assert (golden == ErrorCode.NONE) == (expected == len(widths))
    dut = AddressGenerator(hardware)
    seen = []

    async def bench(ctx):
        await _load(ctx, dut, widths, base, 0)
        for _ in range(2):  # a new start forgets what was found
            seen.append((await _segments_offered(ctx, dut, len(widths)), ctx.get(dut.out_of_range)))

    simulate(dut, bench, limit=5000)
    assert seen == [(expected, int(expected < len(widths)))] * 2


@pytest.mark.parametrize(("planes", "fits"), [((3, 3, 2), True), ((3, 3, 3), False), ((3, 3, 2, 0), True)])
def test_the_last_pair_may_be_filled_to_its_last_ou(planes, fits):
    # TINY's crossbar has 2 x 4 OUs; the layer is one segment in the last pair.
    widths = np.array([planes])
    base = TINY.crossbar_pairs - 1
    dut = AddressGenerator(TINY)

    async def bench(ctx):
        await _load(ctx, dut, widths, base, 0)
        assert await _segments_offered(ctx, dut, 1) == int(fits)
        assert ctx.get(dut.out_of_range) == int(not fits)

    simulate(dut, bench, limit=200)
    assert (check_placement(TINY, _fields(widths, base), widths.ravel()) == ErrorCode.NONE) == fits


def test_a_layer_without_planes_may_lie_behind_the_last_pair():
    widths = np.zeros((3, 2), dtype=np.int64)
    dut = AddressGenerator(TINY)

    async def bench(ctx):
        await _load(ctx, dut, widths, TINY.crossbar_pairs, 0)
        assert await _segments_offered(ctx, dut, 3) == 3
        assert not ctx.get(dut.out_of_range)

    simulate(dut, bench, limit=200)
    assert check_placement(TINY, _fields(widths, TINY.crossbar_pairs), widths.ravel()) == ErrorCode.NONE


def test_a_width_above_weight_bits_is_refused_by_the_golden_check():
    widths = np.array([[TINY.weight_bits + 1]])
    assert check_placement(TINY, _fields(widths, 0), widths.ravel()) == ErrorCode.LAYER_GEOMETRY
