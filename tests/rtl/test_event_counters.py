"""Event counters (system.md §10)."""

from __future__ import annotations

import random

import pytest

from golden_model.config import PAPER, TINY
from rtl.event_counters import EventCounters
from sim.bench import simulate
from tests.bench import fetch, put

pytestmark = pytest.mark.rtl


@pytest.mark.parametrize("config", [TINY, PAPER], ids=["tiny", "paper"])
def test_events_of_every_clock_are_counted_three_clocks_later(config):
    dut = EventCounters(config)
    rng = random.Random(1)
    block_cols = config.max_block_cols
    lanes = (1 << config.lanes) - 1
    total = dict.fromkeys(fetch_names(dut), 0)

    async def bench(ctx):
        put(ctx, dut.block_cols, block_cols)
        completed = 0
        for _ in range(300):
            planes = rng.choice([0, block_cols * config.weight_bits, rng.randint(0, block_cols * config.weight_bits)])
            streamed = rng.randint(0, config.input_bits)
            zeros = rng.randint(0, streamed)
            segment, activation = rng.randint(0, 1), rng.randint(0, 1)
            operations, started, flags = (rng.choice([0, lanes, rng.randint(0, lanes)]) for _ in range(3))
            put(ctx, dut.segment, {"valid": segment, "planes": planes, "streamed": streamed, "zero_slices": zeros})
            put(ctx, dut.activation, activation)
            put(ctx, dut.operations, operations)
            put(ctx, dut.started, started)
            put(ctx, dut.range_flags, flags)
            if completed:  # lanes and flags belong to the strobe of the clock before
                total["conversions_r1"] += (started & ~flags).bit_count()
                total["conversions_r2"] += (started & flags).bit_count()
            completed = rng.randint(0, 1)
            put(ctx, dut.completed, completed)
            total["ou_activations"] += activation
            total["ad_operations"] += operations.bit_count()
            if segment:
                total["skipped_planes"] += (block_cols * config.weight_bits - planes) * config.input_bits
                total["skipped_bits"] += planes * (config.input_bits - streamed)
                total["skipped_zero_slices"] += planes * zeros
                total["input_bits_streamed"] += streamed
            await ctx.tick()
        for name in ("activation", "operations"):
            put(ctx, getattr(dut, name), 0)
        ctx.set(dut.segment.valid, 0)
        if completed:
            total["conversions_r1"] += (ctx.get(dut.started) & ~ctx.get(dut.range_flags)).bit_count()
            total["conversions_r2"] += (ctx.get(dut.started) & ctx.get(dut.range_flags)).bit_count()
        ctx.set(dut.completed, 0)
        await ctx.tick().repeat(EventCounters.latency - 1)
        assert fetch(ctx, dut.counters) == total

    simulate(dut, bench, limit=1000)


def fetch_names(dut: EventCounters) -> list[str]:
    return list(dut.counters.shape().members)


def test_clear_zeroes_every_counter():
    dut = EventCounters(TINY)

    async def bench(ctx):
        put(ctx, dut.segment, {"valid": 1, "planes": 2, "streamed": 3, "zero_slices": 1})
        put(ctx, dut.block_cols, 4)
        for name in ("activation", "completed"):
            ctx.set(getattr(dut, name), 1)
        put(ctx, dut.operations, 0xF)
        put(ctx, dut.started, 0xF)
        put(ctx, dut.range_flags, 0x3)
        await ctx.tick().repeat(4)
        assert 0 not in fetch(ctx, dut.counters).values()
        for name in ("activation", "completed"):
            ctx.set(getattr(dut, name), 0)
        put(ctx, dut.operations, 0)
        ctx.set(dut.segment.valid, 0)
        await ctx.tick()
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        await ctx.tick().repeat(3)
        assert set(fetch(ctx, dut.counters).values()) == {0}, "nothing that was on its way is counted afterwards"

    simulate(dut, bench, limit=100)
