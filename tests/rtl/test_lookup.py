"""Tables of activation functions against lists."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import TINY
from rtl.lookup import Lookup
from sim.bench import simulate
from tests.bench import put
from tests.rtl.tile_tools import plain_settings, write_table

pytestmark = pytest.mark.rtl


@given(
    bits=st.integers(1, 8),
    tables=st.integers(1, 5),
    macros=st.sampled_from([1, 2, 4, 8]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25)
def test_codes_become_the_entries_of_the_steps_table_a_clock_later(bits, tables, macros, seed):
    hardware = replace(
        TINY, input_bits=bits, machine="pairs", macros=macros, activation_tables=tables, activation_bytes=64
    )
    dut, rng = Lookup(hardware), random.Random(seed)
    held = [[rng.randrange(1 << bits) for _ in range(1 << bits)] for _ in range(tables)]
    wrong = []

    async def bench(ctx):
        await write_table(ctx, dut.write, [entry for table in held for entry in table])
        for _ in range(40):
            table = rng.randint(0, tables)
            put(ctx, dut.settings, plain_settings(hardware, lookup=table))
            codes = [rng.choice([0, (1 << bits) - 1, rng.randrange(1 << bits)]) for _ in range(macros)]
            put(ctx, dut.codes, codes)
            ctx.set(dut.enable, 1)
            await ctx.tick()
            put(ctx, dut.codes, [rng.randrange(1 << bits) for _ in range(macros)])
            ctx.set(dut.enable, 0)
            expected = [held[table - 1][code] if table else code for code in codes]
            for _ in range(rng.randint(0, 2)):  # what was made stays until there are other codes
                await ctx.tick()
            found = [ctx.get(dut.made[i]) for i in range(macros)]
            if found != expected:
                wrong.append((table, codes, found, expected))

    simulate(dut, bench, limit=5000)
    assert wrong == []


def test_an_entry_that_lost_a_bit_is_told_with_what_was_made_of_it():
    hardware = replace(TINY, machine="pairs", macros=2, activation_tables=1, activation_bytes=64)
    dut = Lookup(hardware)

    async def bench(ctx):
        await write_table(ctx, dut.write, [3] * hardware.table_entries)
        ctx.set(dut.enable, 1)
        put(ctx, dut.codes, [5, 6])
        for table, lost, told in ((1, False, False), (1, True, True), (0, True, False)):
            memory = dut.tables[1].memory.data
            ctx.set(memory[6], ctx.get(memory[6]) ^ lost)
            put(ctx, dut.settings, plain_settings(hardware, lookup=table))
            await ctx.tick()
            assert ctx.get(dut.table_error) == told
            ctx.set(memory[6], ctx.get(memory[6]) ^ lost)

    simulate(dut, bench, limit=5000)
