"""The window register: rows of the present window while the next one is collected."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from golden_model.config import TINY
from rtl.pack_layouts import HALVES
from rtl.window_register import WindowRegister
from sim.bench import simulate
from tests.bench import fetch, put, send
from tests.rtl.pair_bench import random_hardware

pytestmark = pytest.mark.rtl


def _beats(rng: random.Random, hardware, segments: int) -> list[dict]:
    beats = []
    for _ in range(segments):
        mask = rng.getrandbits(hardware.input_bits)
        slices = [rng.getrandbits(hardware.ou_rows) * (mask >> i & 1) for i in range(hardware.input_bits)]
        beats.append({"slices": slices, "mask": mask})
    return beats


@pytest.mark.parametrize("stall", [0.0, 0.6])
@pytest.mark.parametrize("seed", range(6))
def test_rows_of_a_window_are_read_while_the_next_one_is_collected(seed, stall):
    rng = random.Random(seed)
    hardware = (random_hardware(rng), TINY, replace(TINY, rows=3 * TINY.ou_rows))[seed % 3]
    sizes = [rng.randint(1, hardware.max_segments) for _ in range(2)]
    layers = [[_beats(rng, hardware, segments) for _ in range(3)] for segments in sizes]
    empty = {"slices": [0] * hardware.input_bits, "mask": 0}
    size = hardware.grid_rows
    dut = WindowRegister(hardware)

    async def source(ctx) -> None:
        for layer in layers:
            put(ctx, dut.settings, dict.fromkeys(dut.settings.shape().members, 0) | {"segments": len(layer[0])})
            await send(ctx, dut.segments, [beat for window in layer for beat in window], stall=stall, seed=seed)

    async def reader(ctx) -> None:
        for window in (window for layer in layers for window in layer):
            while not ctx.get(dut.filled):
                await ctx.tick()
            streamed = 0
            for beat in window:
                streamed |= beat["mask"]
            assert ctx.get(dut.bits) == streamed
            ctx.set(dut.swap, 1)
            rows = [(window[i : i + size] + [empty] * size)[:size] for i in range(0, len(window), size)]
            for _ in range(2 * len(rows)):
                asked = [rng.randrange(len(rows)) for _ in range(HALVES)]
                put(ctx, dut.addresses, asked)
                await ctx.tick()
                ctx.set(dut.swap, 0)
                assert [fetch(ctx, dut.rows)[h] for h in range(HALVES)] == [rows[pack] for pack in asked]

    simulate(dut, source, reader, limit=5000)


def test_segments_wait_while_a_complete_window_has_not_become_the_present_one():
    dut = WindowRegister(replace(TINY, input_bits=2))

    async def bench(ctx) -> None:
        put(ctx, dut.settings, dict.fromkeys(dut.settings.shape().members, 0) | {"segments": 1})
        ctx.set(dut.segments.valid, 1)
        assert ctx.get(dut.segments.ready)
        await ctx.tick()
        for _ in range(3):
            assert not ctx.get(dut.segments.ready)
            await ctx.tick()
        ctx.set(dut.swap, 1)
        await ctx.tick()
        assert ctx.get(dut.segments.ready)

    simulate(dut, bench)
