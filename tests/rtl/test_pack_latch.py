"""Pack latch: the right bit of the right segments, while the pack before is still in use."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import PAPER, TINY, HardwareConfig
from rtl.pack_latch import PackLatch
from sim.bench import fetch, put, receive, send, simulate, stream_rule

pytestmark = [pytest.mark.rtl, pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")]


def _pack(config: HardwareConfig, rng: random.Random, segments: int, density: float) -> tuple[list, int]:
    """Slices of every segment, [segment][bit], and the bit to latch."""
    words = [
        [sum((rng.random() < density) << r for r in range(config.ou_rows)) for _ in range(config.input_bits)]
        for _ in range(segments)
    ]
    return words, rng.randrange(config.input_bits)


def _beats(config: HardwareConfig, words: list, bit: int, each: int) -> list[dict]:
    padded = words + [[0] * config.input_bits] * (-len(words) % each)
    groups = [padded[i : i + each] for i in range(0, len(padded), each)]
    return [{"segments": g, "input_bit": bit, "last": int(i + 1 == len(groups))} for i, g in enumerate(groups)]


def _expected(config: HardwareConfig, words: list, bit: int) -> dict:
    lines = [word[bit] for word in words] + [0] * (config.grid_rows - len(words))
    return {"lines": lines, "empty": int(not any(lines))}


def _check(config: HardwareConfig, packs: list, each: int = 1, stall: float = 0.0, seed: int = 0) -> None:
    dut = PackLatch(config, each)
    beats = [beat for words, bit in packs for beat in _beats(config, words, bit, each)]
    received = []

    async def producer(ctx):
        await send(ctx, dut.segments, beats, stall=stall, seed=seed)

    async def consumer(ctx):
        received.extend(await receive(ctx, dut.packs, len(packs), stall=stall, seed=seed + 1))

    simulate(dut, producer, consumer, background=[stream_rule(dut.packs, "packs")], limit=20 * len(beats) + 100)
    assert received == [_expected(config, words, bit) for words, bit in packs]


@pytest.mark.parametrize("each", [1, 4, 14])
def test_packs_of_any_length_are_latched_one_bit_at_a_time(each):
    rng = random.Random(each)
    _check(PAPER, [_pack(PAPER, rng, rng.randint(1, 14), rng.choice([0.0, 0.02, 0.5, 1.0])) for _ in range(20)], each)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 1000), st.sampled_from([0.0, 0.6]))
def test_any_size_with_random_stalls(rows, segments, seed, stall):
    config = replace(TINY, ou_rows=rows, rows=rows * segments)
    rng = random.Random(seed)
    packs = [_pack(config, rng, rng.randint(1, segments), 0.4) for _ in range(8)]
    _check(config, packs, rng.randint(1, segments), stall, seed)


def test_next_pack_is_collected_while_the_present_one_is_held():
    rng = random.Random(0)
    first, second = (_pack(PAPER, rng, 14, 0.5) for _ in range(2))
    dut = PackLatch(PAPER)

    async def bench(ctx):
        await send(ctx, dut.segments, _beats(PAPER, *first, 1))
        await ctx.tick().until(dut.packs.valid)
        await send(ctx, dut.segments, _beats(PAPER, *second, 1))
        assert fetch(ctx, dut.packs.payload) == _expected(PAPER, *first)
        ctx.set(dut.packs.ready, 1)
        await ctx.tick()
        assert ctx.get(dut.packs.valid)
        assert fetch(ctx, dut.packs.payload) == _expected(PAPER, *second)

    simulate(dut, bench, limit=100)


def test_latency_is_the_stated_one():
    dut = PackLatch(TINY)

    async def bench(ctx):
        put(ctx, dut.segments.payload, {"segments": [[1, 2, 3, 4]], "input_bit": 2, "last": 1})
        ctx.set(dut.segments.valid, 1)
        await ctx.tick()
        ctx.set(dut.segments.valid, 0)
        for _ in range(PackLatch.latency - 1):
            assert not ctx.get(dut.packs.valid)
            await ctx.tick()
        assert ctx.get(dut.packs.valid)
        assert fetch(ctx, dut.packs.payload) == {"lines": [3, 0], "empty": 0}

    simulate(dut, bench, limit=20)


@pytest.mark.parametrize("each", [0, 15])
def test_beat_that_no_pack_has_is_refused(each):
    with pytest.raises(ValueError) as error:
        PackLatch(PAPER, each)
    assert str(error.value) == f"PackLatch.segments_per_clock must be in 1..14, the segments of a pack, got {each}"
