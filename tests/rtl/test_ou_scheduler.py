"""OU scheduler with its address generator and lanes that take a random time (system.md §5)."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from golden_model.config import TINY
from golden_model.crossbar.mapping import place_layer
from golden_model.registers import descriptor_fields
from rtl.address_generator import AddressGenerator
from rtl.ou_scheduler import OuScheduler
from sim.bench import simulate
from tests.bench import collector, fetch, put, stream_rule

pytestmark = pytest.mark.rtl


class _Bench:
    """Scheduler and address generator, everything else played by the test."""

    def __init__(self, hardware):
        self.addresses, self.scheduler = AddressGenerator(hardware), OuScheduler(hardware)
        self.module = m = Module()
        m.submodules.addresses, m.submodules.scheduler = self.addresses, self.scheduler
        wiring.connect(m, self.addresses.lists, self.scheduler.lists)
        m.d.comb += [self.addresses.start.eq(self.start), self.addresses.settings.eq(self.scheduler.settings)]

    @property
    def start(self):
        return self.scheduler.start


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_slot_ends_with_its_slowest_lane_and_not_before_the_interval(seed, interval):
    rng = random.Random(seed)
    hardware = replace(TINY, sample_interval=interval)
    widths = np.array([[2, 0, 3], [0, 0, 0], [1, 3, 0]])
    slices = [[rng.randint(1, 15) for _ in range(4)] for _ in range(3)]
    masks = [0b1010, 0b1111, 0b0111]
    placed = place_layer(widths, hardware)
    bench_parts = _Bench(hardware)
    scheduler = bench_parts.scheduler
    transfers, activations, slots = [], [], []
    settings = {f.name: 0 for f in descriptor_fields(hardware)}
    settings |= {"segments": 3, "block_cols": 3, "last_cols": 1, "last_rows": 4}

    async def control(ctx):
        put(ctx, scheduler.settings, settings)
        ctx.set(scheduler.sample.ready, 1)
        for i, width in enumerate(widths.ravel()):
            put(ctx, bench_parts.addresses.width_write, {"enable": 1, "address": i, "data": int(width)})
            await ctx.tick()
        ctx.set(bench_parts.addresses.width_write.enable, 0)
        ctx.set(scheduler.start, 1)
        await ctx.tick()
        ctx.set(scheduler.start, 0)
        await ctx.tick().until(scheduler.done)
        await ctx.tick()

    async def source(ctx):
        for segment in range(3):
            put(ctx, scheduler.segments.payload, {"slices": slices[segment], "mask": masks[segment]})
            ctx.set(scheduler.segments.valid, 1)
            await ctx.tick().until(scheduler.segments.ready)
        ctx.set(scheduler.segments.valid, 0)

    async def lanes(ctx):
        left = [0] * hardware.lanes
        clock = 0
        async for _, _, started in ctx.tick().sample(scheduler.lane_start):
            clock += 1
            left = [max(0, n - 1) for n in left]
            if started:
                assert not any(left), "a sample was taken while a lane was converting"
                left = [rng.randint(1, 5) if started >> i & 1 else 0 for i in range(hardware.lanes)]
                slots.append(max(interval, *left))
                transfers.append((clock, started))
            ctx.set(scheduler.lane_busy, sum((n > 0) << i for i, n in enumerate(left)))
            ctx.set(scheduler.lane_last, sum((n == 1) << i for i, n in enumerate(left)))

    async def samples(ctx):
        await collector(scheduler.activation, scheduler.sample.payload, into=activations)(ctx)

    simulate(
        bench_parts.module,
        control,
        background=[source, lanes, samples, stream_rule(scheduler.sample)],
        limit=2000,
    )
    expected, expected_started = [], []
    for segment in range(3):
        for i in range(4):
            for ou in range(placed.first[segment], placed.first[segment + 1]):
                if masks[segment] >> i & 1:
                    place = {name: int(getattr(placed, name)[ou]) for name in ("pair", "ou_row", "ou_col")}
                    expected.append({**place, "slice": slices[segment][i]})
                    expected_started.append(0b0101 if placed.block_col[ou] == 2 else 0b1111)
    assert activations == expected
    assert [started for _, started in transfers] == expected_started
    # Within a segment the next transfer comes in the last clock of the slot.
    clocks = [clock for clock, _ in transfers]
    first_of_last_segment = 2 * int(placed.first[1])
    for j in range(1, len(clocks)):
        if j != first_of_last_segment:
            assert clocks[j] - clocks[j - 1] == slots[j - 1]


def test_segment_figures_come_with_the_switch():
    bench_parts = _Bench(TINY)
    scheduler = bench_parts.scheduler
    seen = []
    settings = {f.name: 0 for f in descriptor_fields(TINY)}
    settings |= {"segments": 1, "block_cols": 2, "last_cols": 2, "skip_zero_slices": 1}

    async def control(ctx):
        put(ctx, scheduler.settings, settings)
        for i, width in enumerate((3, 1)):
            put(ctx, bench_parts.addresses.width_write, {"enable": 1, "address": i, "data": width})
            await ctx.tick()
        put(ctx, scheduler.segments.payload, {"slices": [5, 0, 0, 0], "mask": 0b0111})
        ctx.set(scheduler.start, 1)
        await ctx.tick()
        ctx.set(scheduler.start, 0)
        await ctx.tick().repeat(5)
        assert fetch(ctx, scheduler.segment_events)["valid"] == 0, "the input has not come"
        ctx.set(scheduler.segments.valid, 1)
        await ctx.delay(0)
        seen.append(fetch(ctx, scheduler.segment_events))
        await ctx.tick()

    simulate(bench_parts.module, control, limit=100)
    assert seen == [{"valid": 1, "planes": 4, "streamed": 3, "zero_slices": 2}]
