"""OU former against a list of 1s cut into pieces."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from amaranth.hdl import Module, Signal, unsigned
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import PAPER, TINY, HardwareConfig
from rtl.ou_former import OuFormer
from rtl.prefix_network import prefixes
from sim.bench import simulate
from tests.bench import put, receive, send, stream_rule

pytestmark = pytest.mark.rtl


def _slice(config: HardwareConfig, rng: random.Random, density: float) -> dict:
    lines = [sum((rng.random() < density) << row for row in range(config.ou_rows)) for _ in range(config.grid_rows)]
    return {"lines": lines, "segments": rng.getrandbits(config.grid_rows), "tag": rng.randrange(4)}


def _expected(config: HardwareConfig, given: dict) -> list[dict]:
    """OUs of a slice: its 1s in order, ou_rows at a time."""
    places = [
        (segment, row)
        for segment in range(config.grid_rows)
        for row in range(config.ou_rows)
        if given["segments"] >> segment & given["lines"][segment] >> row & 1
    ]
    ous = []
    for begin in range(0, len(places), config.ou_rows):
        part = places[begin : begin + config.ou_rows]
        lines = [sum(1 << row for s, row in part if s == segment) for segment in range(config.grid_rows)]
        last = int(begin + config.ou_rows >= len(places))
        ous.append({"lines": lines, "ones": len(part), "last": last, "tag": given["tag"]})
    return ous


def _check(config: HardwareConfig, slices: list[dict], stall: float = 0.0, seed: int = 0) -> None:
    dut = OuFormer(config)
    expected = [ou for given in slices for ou in _expected(config, given)]
    received = []

    async def producer(ctx):
        await send(ctx, dut.slices, slices, stall=stall, seed=seed)

    async def consumer(ctx):
        received.extend(await receive(ctx, dut.ous, len(expected), stall=stall, seed=seed + 1))
        await ctx.tick().repeat(4)
        assert not ctx.get(dut.ous.valid)

    limit = 20 * (len(slices) + len(expected)) + 50
    simulate(dut, producer, consumer, background=[stream_rule(dut.ous, "ous")], limit=limit)
    assert received == expected


@pytest.mark.parametrize("density", [0.0, 0.05, 0.3, 0.7, 1.0])
def test_the_1s_of_a_slice_are_cut_into_ous_in_order(density):
    rng = random.Random(density)
    _check(PAPER, [_slice(PAPER, rng, density) for _ in range(30)])


def test_full_slice_makes_an_ou_of_every_segment():
    full = {"lines": [0x1FF] * 14, "segments": 0x3FFF, "tag": 0}
    assert [ou["lines"].index(0x1FF) for ou in _expected(PAPER, full)] == list(range(14))
    _check(PAPER, [full, full])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.0, 0.5]), st.data())
def test_any_size_of_pack_and_ou_with_random_stalls(rows, segments, density, stall, data):
    config = replace(TINY, ou_rows=rows, rows=rows * segments)
    rng = random.Random(data.draw(st.integers(0, 1000)))
    _check(config, [_slice(config, rng, density) for _ in range(6)], stall, rng.randrange(100))


def test_slice_takes_as_many_clocks_as_it_has_ous_and_an_empty_one_takes_one():
    rng = random.Random(5)
    slices = [_slice(PAPER, rng, rng.choice([0.0, 0.1, 0.5])) for _ in range(20)]
    dut = OuFormer(PAPER)
    clocks = sum(max(1, len(_expected(PAPER, given))) for given in slices)
    begun, seen = [], []

    async def producer(ctx):
        ctx.set(dut.ous.ready, 1)
        await send(ctx, dut.slices, slices)
        await ctx.tick().repeat(20)

    async def clock(ctx):
        count = 0
        async for _, _, valid, ready, ou in ctx.tick().sample(dut.slices.valid, dut.slices.ready, dut.ous.valid):
            begun.extend([count] * (valid & ready))
            seen.extend([count] * ou)
            count += 1

    simulate(dut, producer, background=[clock], limit=1000)
    # The last slice has an OU in its last clock, or none.
    assert _expected(PAPER, slices[-1])
    assert seen[-1] - begun[0] - OuFormer.latency + 1 == clocks


def test_reset_forgets_everything():
    dut = OuFormer(TINY)

    async def bench(ctx):
        for _ in range(5):
            await ctx.tick()
            assert not ctx.get(dut.ous.valid)
            assert ctx.get(dut.slices.ready)

    simulate(dut, bench, limit=20)


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("cut", [1, 2, 4])
def test_prefix_network_is_every_prefix_also_when_cut(count, cut):
    m = Module()
    values = [Signal(unsigned(8), name=f"v{i}") for i in range(count)]
    first = prefixes(m, values, unsigned(8), lambda a, b: a + b, end=cut)
    found = prefixes(m, first, unsigned(8), lambda a, b: a + b, begin=cut)

    async def bench(ctx):
        for i, value in enumerate(values):
            put(ctx, value, 3 * i + 1)
        assert [ctx.get(total) for total in found] == [sum(3 * j + 1 for j in range(i + 1)) for i in range(count)]

    simulate(m, bench)
