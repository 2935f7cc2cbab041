"""The emulated crossbar against counting by hand."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from golden_model import trq
from golden_model.config import PAPER, TINY
from rtl.emulated_crossbar import EmulatedCrossbar
from sim.bench import simulate
from tests.bench import put

pytestmark = pytest.mark.rtl

NINE = replace(PAPER, crossbar_pairs=2, rows=18, cols=24, max_layers=3)
WHOLE_COLUMN = replace(TINY, rows=128, ou_rows=128, adc_bits=8, crossbar_pairs=1, max_layers=2)
HARDWARE = {"tiny": TINY, "nine": NINE, "whole column": WHOLE_COLUMN}


def _min_counts(hardware, layer):
    scale = (1.0, 0.7, 1.9, 1.3)[layer % 4]
    return trq.min_count(hardware.adc_bits, scale).tolist()


def _level(hardware, layer, count):
    return sum(least <= count for least in _min_counts(hardware, layer))


async def _write_references(ctx, port, hardware):
    for layer in range(hardware.max_layers):
        for count in range(hardware.ou_rows + 1):
            level = _level(hardware, layer, count)
            put(ctx, port.reference_write, {"enable": 1, "layer": layer, "count": count, "level": level})
            await ctx.tick()
    ctx.set(port.reference_write.enable, 0)


def _random_places(rng, hardware, count):
    return [
        (
            rng.randrange(hardware.crossbar_pairs),
            rng.randrange(hardware.grid_rows),
            rng.randrange(hardware.grid_cols),
        )
        for _ in range(count)
    ]


async def _program(ctx, port, place, cells):
    pair, row, col = place
    put(ctx, port.program.payload, {"pair": pair, "ou_row": row, "ou_col": col, "cells": cells})
    ctx.set(port.program.valid, 1)
    await ctx.tick().until(port.program.ready)
    ctx.set(port.program.valid, 0)


@pytest.mark.parametrize("name", HARDWARE)
def test_comparators_answer_as_counts_against_min_counts(name):
    hardware = HARDWARE[name]
    dut = EmulatedCrossbar(hardware)
    rng = random.Random(2)
    rows, top = hardware.ou_rows, (1 << hardware.adc_bits) - 1

    async def bench(ctx):
        port = dut.port
        await _write_references(ctx, port, hardware)
        model = {}
        places = _random_places(rng, hardware, 6)
        for index, place in enumerate(places):
            model[place] = rng.getrandbits(hardware.ou_cells) if index else (1 << hardware.ou_cells) - 1
            await _program(ctx, port, place, model[place])
        for layer in [*range(hardware.max_layers), 0]:
            ctx.set(port.layer, layer)
            await ctx.tick().repeat(EmulatedCrossbar.settle_clocks(hardware))
            least = _min_counts(hardware, layer)
            for index in range(12):
                place = rng.choice(places) if index else places[0]
                bits = rng.getrandbits(rows) if index % 4 else (1 << rows) - 1
                pair, row, col = place
                put(ctx, port.sample.payload, {"pair": pair, "ou_row": row, "ou_col": col, "slice": bits})
                ctx.set(port.sample.valid, 1)
                await ctx.tick().until(port.sample.ready)
                ctx.set(port.sample.valid, 0)
                # The payload may change after the transfer; the value is held.
                put(ctx, port.sample.payload, {"pair": 0, "ou_row": 0, "ou_col": 0, "slice": 0})
                counts = [
                    (model[place] >> lane * rows & (1 << rows) - 1 & bits).bit_count() for lane in range(hardware.lanes)
                ]
                for _ in range(4):
                    codes = [rng.randint(1, top) for _ in counts]
                    put(ctx, port.thresholds, codes)
                    answers = ctx.get(port.comparators)
                    assert [answers >> i & 1 for i in range(len(counts))] == [
                        int(c >= least[t - 1]) for c, t in zip(counts, codes, strict=True)
                    ]
                    await ctx.tick()

    simulate(dut, bench, limit=20_000)


def test_a_reference_written_for_the_running_layer_takes_effect():
    dut = EmulatedCrossbar(TINY)

    async def bench(ctx):
        port = dut.port
        await _program(ctx, port, (0, 0, 0), (1 << TINY.ou_cells) - 1)
        for level in (1, 5, 3):
            value = {"enable": 1, "layer": 0, "count": TINY.ou_rows, "level": level}
            put(ctx, port.reference_write, value)
            await ctx.tick()
            ctx.set(port.reference_write.enable, 0)
            await ctx.tick().repeat(EmulatedCrossbar.settle_clocks(TINY))
            put(ctx, port.sample.payload, {"pair": 0, "ou_row": 0, "ou_col": 0, "slice": 0b1111})
            ctx.set(port.sample.valid, 1)
            await ctx.tick()
            ctx.set(port.sample.valid, 0)
            for threshold in range(1, 8):
                put(ctx, port.thresholds, [threshold] * TINY.lanes)
                assert ctx.get(port.comparators) == (0b1111 if level >= threshold else 0)

    simulate(dut, bench, limit=200)


@pytest.mark.parametrize("stall", [0, 2])
def test_cells_read_back_as_programmed(stall):
    dut = EmulatedCrossbar(NINE)
    rng = random.Random(7)

    async def bench(ctx):
        port = dut.port
        model = {}
        for place in _random_places(rng, NINE, 20):
            model[place] = rng.getrandbits(NINE.ou_cells)
            await _program(ctx, port, place, model[place])
        for (pair, row, col), cells in model.items():
            put(ctx, port.readback_request.payload, {"pair": pair, "ou_row": row, "ou_col": col})
            ctx.set(port.readback_request.valid, 1)
            await ctx.tick().until(port.readback_request.ready)
            ctx.set(port.readback_request.valid, 0)
            for _ in range(stall):
                assert ctx.get(port.readback.valid)
                await ctx.tick()
            ctx.set(port.readback.ready, 1)
            (payload,) = await ctx.tick().sample(port.readback.payload).until(port.readback.valid)
            ctx.set(port.readback.ready, 0)
            assert payload == cells

    simulate(dut, bench, limit=2000)


def test_a_request_for_cells_waits_for_a_sample_that_comes_with_it():
    dut = EmulatedCrossbar(TINY)

    async def bench(ctx):
        port = dut.port
        await _write_references(ctx, port, TINY)
        await _program(ctx, port, (0, 0, 0), (1 << TINY.ou_cells) - 1)
        await _program(ctx, port, (0, 0, 1), 0)
        await ctx.tick().repeat(EmulatedCrossbar.settle_clocks(TINY))
        put(ctx, port.sample.payload, {"pair": 0, "ou_row": 0, "ou_col": 0, "slice": (1 << TINY.ou_rows) - 1})
        put(ctx, port.readback_request.payload, {"pair": 0, "ou_row": 0, "ou_col": 1})
        put(ctx, port.thresholds, [1] * TINY.lanes)
        ctx.set(port.sample.valid, 1)
        ctx.set(port.readback_request.valid, 1)
        assert not ctx.get(port.readback_request.ready)
        await ctx.tick()
        ctx.set(port.sample.valid, 0)
        assert ctx.get(port.comparators) == (1 << TINY.lanes) - 1, "the sample reads its own cells"
        await ctx.tick().until(port.readback_request.ready)
        ctx.set(port.readback_request.valid, 0)
        assert ctx.get(port.readback.valid)
        assert ctx.get(port.readback.payload) == 0

    simulate(dut, bench, limit=200)
