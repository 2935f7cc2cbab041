"""Cell programming and check against a crossbar that stalls."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace

import pytest

from golden_model.config import TINY
from rtl.cell_programmer import CellProgrammer
from sim.bench import simulate
from tests.bench import put, receive, send, stream_rule
from tests.rtl.tile_tools import expect_within, strobe

pytestmark = pytest.mark.rtl

#: Three words an OU; grid and OU sizes that are no powers of two.
ODD = replace(TINY, ou_rows=7, rows=21, ou_cols=5, cols=10, crossbar_pairs=3)
MACROS = replace(TINY, machine="pairs", macros=4, crossbar_pairs=3)


def _places(hardware, first):
    return [
        (pair, row, col)
        for pair in range(first, hardware.crossbar_pairs)
        for row in range(hardware.grid_rows)
        for col in range(hardware.grid_cols)
    ]


@pytest.mark.parametrize("hardware", [TINY, ODD], ids=["tiny", "odd"])
@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("first", [0, 2])
def test_words_become_units_in_programming_order(hardware, stall, first):
    dut = CellProgrammer(hardware)
    rng = random.Random(1)
    places = _places(hardware, first)
    words = [[rng.randrange(1 << 32) for _ in range(hardware.cell_words)] for _ in places]
    got = []

    async def host(ctx):
        put(ctx, dut.select, {"enable": 1, "pair": first})
        await ctx.tick()
        put(ctx, dut.select, {"enable": 0, "pair": 0})
        await send(ctx, dut.cells, [word for unit in words for word in unit], stall=stall, seed=2)

    async def crossbar(ctx):
        got.extend(await receive(ctx, dut.program, len(places), stall=stall, seed=3))
        assert ctx.get(dut.full)
        assert not ctx.get(dut.cells.ready)

    simulate(dut, host, crossbar, background=[stream_rule(dut.program, "program")], limit=20_000)
    assert [(g["pair"], g["ou_row"], g["ou_col"]) for g in got] == places
    mask = (1 << hardware.ou_cells) - 1
    assert [g["cells"] for g in got] == [sum(w << 32 * i for i, w in enumerate(unit)) & mask for unit in words]


def test_units_that_the_array_could_not_program_are_counted_and_the_first_one_is_named():
    dut = CellProgrammer(ODD)
    places = _places(ODD, 1)
    wrong = {3, 4, 9}

    async def host(ctx):
        put(ctx, dut.select, {"enable": 1, "pair": 1})
        await ctx.tick()
        put(ctx, dut.select, {"enable": 0, "pair": 0})
        await send(ctx, dut.cells, [0] * ODD.cell_words * len(places))
        await ctx.tick().repeat(5)
        assert ctx.get(dut.failures.units) == len(wrong)
        first = dut.first_failed
        assert (ctx.get(first.pair), ctx.get(first.ou_row), ctx.get(first.ou_col)) == places[3]
        await strobe(ctx, dut.restart)
        assert ctx.get(dut.failures.units) == 0

    async def crossbar(ctx):
        for unit in range(len(places)):
            ctx.set(dut.program_failed, 1)  # while the array still works it says nothing
            await ctx.tick().until(dut.program.valid)
            ctx.set(dut.program_failed, unit in wrong)
            ctx.set(dut.program.ready, 1)
            await ctx.tick()
            ctx.set(dut.program.ready, 0)
        for signal in (dut.program_failed, dut.program.ready):  # nor while it is asked nothing
            ctx.set(signal, 1)

    simulate(dut, host, background=[crossbar], limit=20_000)


@pytest.mark.parametrize("hardware", [TINY, ODD, MACROS], ids=["tiny", "odd", "macros"])
@pytest.mark.parametrize("pairs", [0, 1, 3])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_check_reads_the_asked_pairs_of_every_macro_in_order_and_gives_zlibs_crc(hardware, pairs, stall):
    dut = CellProgrammer(hardware)
    rng = random.Random(4)
    places = [(macro, *place) for macro in range(hardware.macros) for place in _places(hardware, 0)]
    cells = {place: rng.randrange(1 << hardware.ou_cells) for place in places}
    wanted = [place for place in places if place[1] < pairs]
    asked = []

    async def host(ctx):
        ctx.set(dut.pairs, pairs)
        for _ in range(2):  # the second check starts afresh
            await strobe(ctx, dut.check)
            assert ctx.get(dut.busy)
            await ctx.tick().until(~dut.busy)
            data = b"".join(cells[p].to_bytes(4 * hardware.cell_words, "little") for p in wanted)
            assert ctx.get(dut.checksum) == zlib.crc32(data)

    async def crossbar(ctx):
        for turn in range(2 * len(wanted)):
            (request,) = await receive(ctx, dut.readback_request, 1, stall=stall, seed=turn)
            place = (request.get("macro", 0), request["pair"], request["ou_row"], request["ou_col"])
            asked.append(place)
            await send(ctx, dut.readback, [cells[place]], stall=stall, seed=turn)

    rule = stream_rule(dut.readback_request, "readback_request")
    simulate(dut, host, crossbar, background=[rule], limit=20_000)
    assert asked == wanted * 2


@pytest.mark.parametrize("hardware", [TINY, ODD], ids=["tiny", "odd"])
def test_a_check_takes_a_clock_a_word_and_two_an_ou(hardware):
    dut = CellProgrammer(hardware)

    async def host(ctx):
        ctx.set(dut.readback_request.ready, 1)
        ctx.set(dut.readback.valid, 1)
        ctx.set(dut.pairs, 2)
        await strobe(ctx, dut.check)
        clocks = await expect_within(ctx, ~dut.busy, 1000)
        assert clocks == 2 * hardware.ous_per_crossbar * (hardware.cell_words + 2) + 1

    simulate(dut, host, limit=2000)


def test_an_ou_that_waits_is_busy_and_takes_no_word():
    dut = CellProgrammer(TINY)

    async def host(ctx):
        assert ctx.get(dut.full), "after reset there is no place to program"
        assert not ctx.get(dut.busy)
        put(ctx, dut.select, {"enable": 1, "pair": 0})
        await ctx.tick()
        put(ctx, dut.select, {"enable": 0, "pair": 0})
        assert not ctx.get(dut.full)
        await send(ctx, dut.cells, [0x1234])
        for _ in range(10):
            assert ctx.get(dut.busy)
            assert not ctx.get(dut.cells.ready)
            await ctx.tick()
        assert await receive(ctx, dut.program, 1) == [{"pair": 0, "ou_row": 0, "ou_col": 0, "cells": 0x1234}]
        assert not ctx.get(dut.busy)
        assert ctx.get(dut.cells.ready)

    simulate(dut, host, limit=100)


# ---- an array that does not answer ----------------------------------------------------------------
LIMIT = 20


async def _select(ctx, dut, pair):
    put(ctx, dut.select, {"enable": 1, "pair": pair})
    await ctx.tick()
    put(ctx, dut.select, {"enable": 0, "pair": 0})


def test_an_ou_that_is_not_taken_is_withdrawn_after_the_limit_and_programming_begins_anew():
    dut = CellProgrammer(TINY, limit=LIMIT)

    async def host(ctx):
        await _select(ctx, dut, 0)
        await send(ctx, dut.cells, [0x1234])
        for clocks in range(1, LIMIT + 1):
            assert (ctx.get(dut.program.valid), ctx.get(dut.busy), ctx.get(dut.failed)) == (1, 1, 0)
            assert ctx.get(dut.gives_up) == (clocks == LIMIT)
            await ctx.tick()
        assert (ctx.get(dut.program.valid), ctx.get(dut.busy), ctx.get(dut.failed)) == (0, 0, 1)
        assert ctx.get(dut.full)
        assert not ctx.get(dut.cells.ready)
        await _select(ctx, dut, 1)
        assert not ctx.get(dut.failed)
        await send(ctx, dut.cells, [0x4321])
        await ctx.tick().repeat(LIMIT - 1)
        assert await receive(ctx, dut.program, 1) == [{"pair": 1, "ou_row": 0, "ou_col": 0, "cells": 0x4321}]
        assert (ctx.get(dut.busy), ctx.get(dut.failed)) == (0, 0)

    simulate(dut, host, limit=200)


@pytest.mark.parametrize("taken", [0, 1], ids=["request", "answer"])
def test_a_check_ends_when_the_array_does_not_answer_and_a_late_answer_is_dropped(taken):
    dut = CellProgrammer(TINY, limit=LIMIT)
    words = list(range(1, TINY.ous_per_crossbar + 1))

    async def host(ctx):
        ctx.set(dut.pairs, 1)
        await strobe(ctx, dut.check)
        if taken:
            await receive(ctx, dut.readback_request, 1)
        await ctx.tick().repeat(LIMIT - 1)
        assert ctx.get(dut.busy)
        await ctx.tick()
        assert (ctx.get(dut.busy), ctx.get(dut.failed), ctx.get(dut.readback_request.valid)) == (0, 1, 0)
        if taken:
            await send(ctx, dut.readback, [99])
        await strobe(ctx, dut.check)
        assert not ctx.get(dut.failed)
        for word in words:
            await receive(ctx, dut.readback_request, 1)
            await send(ctx, dut.readback, [word])
        await ctx.tick().until(~dut.busy)
        assert ctx.get(dut.checksum) == zlib.crc32(b"".join(word.to_bytes(4, "little") for word in words))

    simulate(dut, host, limit=1000)


@pytest.mark.parametrize("hardware", [TINY, MACROS], ids=["tiny", "macros"])
def test_an_array_that_takes_nearly_the_limit_for_everything_is_waited_for(hardware):
    dut = CellProgrammer(hardware, limit=LIMIT)

    async def host(ctx):
        await _select(ctx, dut, 0)
        for word in (5, 6, 7):
            await send(ctx, dut.cells, [word])
            await ctx.tick().repeat(LIMIT - 1)
            assert (await receive(ctx, dut.program, 1))[0]["cells"] == word
        ctx.set(dut.pairs, 1)
        await strobe(ctx, dut.check)
        for _ in range(hardware.macros * hardware.ous_per_crossbar):
            while not ctx.get(dut.readback_request.valid):
                await ctx.tick()
            await ctx.tick().repeat(LIMIT - 1)
            await receive(ctx, dut.readback_request, 1)
            await ctx.tick().repeat(LIMIT - 1)
            await send(ctx, dut.readback, [1])
        await ctx.tick().until(~dut.busy)
        assert not ctx.get(dut.failed)

    simulate(dut, host, limit=5000)
