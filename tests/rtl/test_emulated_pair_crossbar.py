"""The emulated crossbar of pairs: cells, and comparators of both halves."""

from __future__ import annotations

import random

import pytest

from golden_model.config import TINY
from rtl.emulated_pair_crossbar import EmulatedPairCrossbar
from rtl.pair_interfaces import halves_of
from sim.bench import simulate
from tests.bench import put, receive, send
from tests.rtl.pair_bench import random_hardware

pytestmark = pytest.mark.rtl


def _programmed(rng: random.Random, hardware) -> dict[tuple[int, int, int], int]:
    """Random cells of every OU of a few pairs, by (pair, OU row, OU column)."""
    pairs = rng.sample(range(hardware.crossbar_pairs), 3)
    return {
        (pair, row, col): rng.getrandbits(hardware.ou_cells)
        for pair in pairs
        for row in range(hardware.grid_rows)
        for col in range(hardware.grid_cols)
    }


def _difference(hardware, cells: dict, pair: int, col: int, lines: list[int], column: int) -> int:
    """c+ - c- of a column, row by row."""
    found = 0
    for row, on in enumerate(lines):
        for sign, polarity in ((1, 0), (-1, 1)):
            word = cells[pair, row, col] >> (polarity * hardware.ou_cols + column) * hardware.ou_rows
            found += sign * (word & on & ((1 << hardware.ou_rows) - 1)).bit_count()
    return found


async def _program(ctx, dut, cells: dict) -> None:
    fields = ("pair", "ou_row", "ou_col")
    writes = [dict(zip(fields, place, strict=True)) | {"cells": word} for place, word in cells.items()]
    await send(ctx, dut.port.program, writes)


@pytest.mark.parametrize("seed", range(4))
def test_comparators_of_both_halves_answer_the_difference_of_the_counts_in_the_place_of_each_column(seed):
    rng = random.Random(seed)
    hardware = TINY if seed % 2 else random_hardware(rng)
    cells = _programmed(rng, hardware)
    columns = range(hardware.ou_cols)
    dut = EmulatedPairCrossbar(hardware)
    halves = halves_of(dut.port, hardware)

    async def bench(ctx) -> None:
        await _program(ctx, dut, cells)
        held = [[[0 for _ in columns] for _ in range(hardware.sample_places)] for _ in halves]
        for clock in range(60):
            for half, places in zip(halves, held, strict=True):
                pair, _, col = rng.choice(list(cells))
                lines = [rng.getrandbits(hardware.ou_rows) for _ in range(hardware.grid_rows)]
                place = clock if clock < len(places) else rng.randrange(len(places))
                put(ctx, half.sample.payload, {"pair": pair, "ou_col": col, "lines": lines, "place": place})
                ctx.set(half.sample.valid, 1)
                places[place] = [_difference(hardware, cells, pair, col, lines, j) for j in columns]
            await ctx.tick()
            for half in halves:
                ctx.set(half.sample.valid, 0)
            await ctx.tick()
            for half, places in zip(halves, held, strict=True):
                for offset in (0, 1):
                    low, high = -(1 << hardware.adc_bits), (1 << hardware.adc_bits) - 1
                    compared = [rng.randrange(min(clock + 1, len(places))) for _ in columns]
                    ctx.set(half.places, compared)
                    differences = [places[place][j] for j, place in enumerate(compared)]
                    thresholds = [min(max(d + offset, low), high) for d in differences]
                    put(ctx, half.thresholds, thresholds)
                    answers = [int(d >= t) for d, t in zip(differences, thresholds, strict=True)]
                    assert [ctx.get(half.comparators) >> j & 1 for j in columns] == answers

    simulate(dut, bench, limit=5000)


def test_cells_are_read_back():
    rng = random.Random(0)
    cells = _programmed(rng, TINY)
    dut = EmulatedPairCrossbar(TINY)
    requests = rng.sample(list(cells), 20)
    fields = ("pair", "ou_row", "ou_col")

    async def ask(ctx) -> None:
        await _program(ctx, dut, cells)
        await send(ctx, dut.port.readback_request, [dict(zip(fields, place, strict=True)) for place in requests])

    async def read(ctx) -> None:
        words = await receive(ctx, dut.port.readback, len(requests), stall=0.4, seed=1)
        assert words == [cells[place] for place in requests]

    simulate(dut, ask, read, limit=5000)
