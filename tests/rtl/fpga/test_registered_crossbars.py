"""The emulated crossbar with a register: when it settles, and that it takes nothing meanwhile."""

from __future__ import annotations

import random

import pytest

from golden_model.config import TINY
from rtl.emulated_crossbar import EmulatedCrossbar
from sim.bench import simulate
from tests.bench import put, send

pytestmark = pytest.mark.rtl

#: Rows of an OU of which lane 0, or column 0 of its positive array, holds ones.
CELLS = [0b1111, 0b0111, 0b0001, 0b0000]


async def _program(ctx, port):
    """CELLS in lane 0 of OU columns 0 to 3 of OU row 0; the other OU rows are empty."""
    writes = [
        {"pair": 0, "ou_row": row, "ou_col": col, "cells": cells if row == 0 else 0}
        for col, cells in enumerate(CELLS)
        for row in range(TINY.grid_rows)
    ]
    await send(ctx, port.program, writes)


async def _clocks_of_settling(ctx, dut):
    """Clocks in which `settling` is 1, from now on."""
    clocks = 0
    while ctx.get(dut.settling):
        clocks += 1
        await ctx.tick()
    return clocks


async def _levels_are_counts(ctx, port):
    for count in range(TINY.ou_rows + 1):
        put(ctx, port.reference_write, {"enable": 1, "layer": 0, "count": count, "level": count})
        await ctx.tick()
    ctx.set(port.reference_write.enable, 0)
    await ctx.tick().repeat(EmulatedCrossbar.settle_clocks(TINY))


def test_a_sample_sees_cells_that_were_programmed_while_it_was_on_offer():
    dut = EmulatedCrossbar(TINY, registered=True)

    async def bench(ctx):
        port = dut.port
        await _program(ctx, port)
        await _levels_are_counts(ctx, port)
        put(ctx, port.sample.payload, {"pair": 0, "ou_row": 0, "ou_col": 0, "slice": 0b1111})
        await ctx.tick().repeat(2)
        await send(ctx, port.program, [{"pair": 0, "ou_row": 0, "ou_col": 0, "cells": 0b0001}])
        ctx.set(port.sample.valid, 1)
        await ctx.tick()
        ctx.set(port.sample.valid, 0)
        await _clocks_of_settling(ctx, dut)
        put(ctx, port.thresholds, [2] * TINY.lanes)
        assert ctx.get(port.comparators) & 1 == 0

    simulate(dut, bench, limit=200)


def test_levels_follow_a_sample_after_one_clock_of_settling_if_it_was_not_on_offer_before():
    dut, rng = EmulatedCrossbar(TINY, registered=True), random.Random(1)

    async def bench(ctx):
        port = dut.port
        await _program(ctx, port)
        await _levels_are_counts(ctx, port)
        for _ in range(30):
            col, lines = rng.randrange(len(CELLS)), rng.getrandbits(4)
            put(ctx, port.sample.payload, {"pair": 0, "ou_row": 0, "ou_col": col, "slice": lines})
            for _ in range(before := rng.randrange(3)):
                await ctx.tick()
            ctx.set(port.sample.valid, 1)
            await ctx.tick()
            # What is offered now is not taken, or is the next sample, one clock early.
            put(ctx, port.sample.payload, {"pair": 0, "ou_row": 0, "ou_col": (col + 1) % 4, "slice": 15})
            ctx.set(port.sample.valid, not before)
            assert await _clocks_of_settling(ctx, dut) == (not before)
            ctx.set(port.sample.valid, 0)
            for threshold in range(1, 5):
                put(ctx, port.thresholds, [threshold] * TINY.lanes)
                assert ctx.get(port.comparators) & 1 == ((CELLS[col] & lines).bit_count() >= threshold)
                await ctx.tick()  # what is on offer meanwhile is not taken
            for _ in range(rng.randrange(3)):
                await ctx.tick()

    simulate(dut, bench, limit=2000)


def test_cells_are_read_back_only_where_the_other_side_sees_it():
    dut = EmulatedCrossbar(TINY, registered=True)

    async def bench(ctx):
        port, sample = dut.port, dut.port.sample
        await _program(ctx, port)
        ctx.set(sample.valid, 1)
        await ctx.tick()
        ctx.set(sample.valid, 0)
        put(ctx, port.readback_request.payload, {"pair": 0, "ou_row": 0, "ou_col": 1})
        ctx.set(port.readback_request.valid, 1)
        while ctx.get(dut.settling):
            assert not ctx.get(port.readback_request.ready)
            await ctx.tick()
        assert ctx.get(port.readback_request.ready)
        await ctx.tick()
        ctx.set(port.readback_request.valid, 0)
        assert ctx.get(port.readback.valid)
        assert ctx.get(port.readback.payload) == CELLS[1]
        # A sample at the same time as the answer: the answer waits while the array settles.
        ctx.set(sample.valid, 1)
        await ctx.tick()
        ctx.set(sample.valid, 0)
        ctx.set(port.readback.ready, 1)
        while ctx.get(dut.settling):
            assert ctx.get(port.readback.valid)
            await ctx.tick()
        assert ctx.get(port.readback.valid)
        await ctx.tick()
        assert not ctx.get(port.readback.valid)

    simulate(dut, bench, limit=200)
