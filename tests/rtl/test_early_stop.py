"""Early stop of a column against the golden model, and against its definition at the ends of its range."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import PAPER, TINY, HardwareConfig
from golden_model.pairs.early_stop import STOP, StopWords, find_stops
from golden_model.pairs.early_stop import EarlyStop as GoldenStop
from rtl import layouts
from rtl.early_stop import EarlyStop
from rtl.partial_sums import PartialSums
from rtl.stop_table import StopTable
from sim.bench import simulate
from tests.bench import clocks_until, collector, put
from tests.golden_model.test_pairs import ALONE, cases

pytestmark = pytest.mark.rtl


@given(cases(ALONE), st.integers(1, 127))
@settings(max_examples=50, deadline=None)
def test_stored_words_stop_what_the_limit_stops(case, chosen):
    packing, layer, windows = case
    after = tuple(bit for bit in reversed(range(1, layer.input_bits)) if chosen >> (bit - 1) & 1)
    words = StopWords.of(replace(layer, stop_bits=sum(1 << bit for bit in after) or None))
    if words is None:
        return
    found = words.find(packing.prepared, windows)
    wanted = find_stops(layer, packing.prepared, windows, GoldenStop(after=after))
    for name in ("last_bit", "sums", "checks", "checked"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)


# ---- the column ---------------------------------------------------------------------------------
Check = tuple[int, int, int]  # block column, sum, bits left


def decide(
    config: HardwareConfig, words: list[tuple[int, int]], checks: list[Check], bank: int = 0
) -> list[tuple[int, int]]:
    """(stopped, pending) of a window of `bank` after every check, and after the next window of it has begun.

    words : (bound, start) by block column. A window of the other bank begins between the checks, and has none.
    """
    dut, found = EarlyStop(config), []

    def state(ctx) -> tuple[int, int]:
        assert (ctx.get(dut.stopped[1 - bank]), ctx.get(dut.pending[1 - bank])) == (0, 0)
        return ctx.get(dut.stopped[bank]), ctx.get(dut.pending[bank])

    async def begin(ctx, bank: int) -> None:
        put(ctx, dut.bank, bank)
        ctx.set(dut.begin, 1)
        await ctx.tick()
        ctx.set(dut.begin, 0)

    async def bench(ctx):
        for column, (bound, start) in enumerate(words):
            put(
                ctx, dut.write, {"enable": 1, "address": column, "column": 0, "words": {"bound": bound, "start": start}}
            )
            await ctx.tick()
        ctx.set(dut.write.enable, 0)
        put(ctx, dut.asked_bank, bank)
        for column, partial, left in checks:
            await begin(ctx, 1 - bank)
            put(ctx, dut.asked_col, column)
            ctx.set(dut.asked, 1)
            await ctx.tick()
            ctx.set(dut.asked, 0)
            assert state(ctx)[1] == 1 << column
            put(ctx, dut.checked, {"valid": 1, "sum": partial, "bank": bank, "block_col": column, "bits_left": left})
            await ctx.tick()
            ctx.set(dut.checked.valid, 0)
            assert state(ctx)[1] == 1 << column
            await ctx.tick().repeat(EarlyStop.latency - 1)
            found.append(state(ctx))
        await begin(ctx, bank)
        found.append(state(ctx))

    simulate(dut, bench, limit=len(words) + 6 * len(checks) + 10)
    return found


@pytest.mark.parametrize("config", [PAPER, TINY])
def test_an_output_stops_exactly_when_its_largest_sum_is_negative(config):
    most, bound = 1 << (config.accumulator_bits - 1), (1 << layouts.stop_bound(config).width) - 1
    for start in (-(1 << 31), -1, 0, (1 << 31) - 1):
        for left in (0, 1, config.input_bits - 1):
            needed = -start - (bound << left)
            sums = [partial for partial in (-most, needed - 1, needed, most - 1) if -most <= partial < most]
            for partial in sums:
                (stopped, _), _ = decide(config, [(bound, start)], [(0, partial, left)])
                assert stopped == (partial < needed), (start, left, partial)


@pytest.mark.parametrize("bank", [0, 1])
def test_what_has_stopped_stays_stopped_until_the_next_window_of_its_bank(bank):
    words, checks = [(0, 0), (2, 1), (3, -1)], [(2, 3, 1), (1, -9, 1), (2, -9, 1), (1, 100, 0)]
    assert decide(TINY, words, checks, bank) == [(0, 0), (0b010, 0), (0b110, 0), (0b110, 0), (0, 0)]


def test_a_check_is_known_after_its_way_through_sums_and_column():
    assert 1 + EarlyStop.latency == STOP  # PartialSums says which sum is to be checked a clock after the lane
    assert PartialSums.latency >= 2


# ---- the table ----------------------------------------------------------------------------------
@pytest.mark.parametrize("base", [0, 3])
@pytest.mark.parametrize("outputs", [1, 2, 7])
def test_every_output_has_its_words_in_its_column(outputs, base):
    config = replace(TINY, machine="pairs", early_stop=1)
    dut, written = StopTable(config), []
    words = [(5 * n + 1, 100 - 70 * n) for n in range(base + outputs + 1)]

    async def bench(ctx):
        for entry, (bound, start) in enumerate(words):
            put(ctx, dut.bound_write, {"enable": 1, "address": entry, "data": bound})
            put(ctx, dut.start_write, {"enable": 1, "address": entry, "data": start})
            await ctx.tick()
        ctx.set(dut.bound_write.enable, 0)
        ctx.set(dut.start_write.enable, 0)
        for bits in (2, 0):
            fields = {"outputs": outputs, "channel_base": base, "stop_bits": bits}
            for name, value in fields.items():
                ctx.set(dut.settings[name], value)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            assert await clocks_until(ctx, dut.ready, limit=50) == (outputs + 2 if bits else 1)

    one = dut.write
    watch = collector(one.enable, one.address, one.column, one.words.bound, one.words.start, into=written)
    simulate(dut, bench, background=[watch], limit=200)
    expected = [(n // config.ou_cols, n % config.ou_cols, *words[base + n]) for n in range(outputs)]
    assert written == expected


@pytest.mark.parametrize("table", [0, 1])
def test_a_word_that_lost_a_bit_is_told(table):
    dut = StopTable(replace(TINY, machine="pairs", early_stop=1))
    told = []

    async def bench(ctx):
        for write in (dut.bound_write, dut.start_write):
            for entry in range(3):
                put(ctx, write, {"enable": 1, "address": entry, "data": 5})
                await ctx.tick()
            ctx.set(write.enable, 0)
        memory = dut.tables[table].memory
        ctx.set(memory.data[1], ctx.get(memory.data[1]) ^ 4)
        ctx.set(dut.settings.outputs, 3)
        ctx.set(dut.settings.stop_bits, 2)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        await clocks_until(ctx, dut.ready, limit=50)

    simulate(dut, bench, background=[collector(dut.table_error, dut.write.column, into=told)], limit=200)
    assert told == [1]
