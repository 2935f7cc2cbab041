"""Event memory and logit memory: small stores for the host."""

from __future__ import annotations

import random

import pytest

from golden_model.config import PRESETS, TINY
from golden_model.registers import COUNTER_BITS, COUNTERS_PER_LAYER, counters_of
from rtl.event_memory import EventMemory
from rtl.logit_memory import LogitMemory
from sim.bench import simulate
from tests.bench import put
from tests.rtl.tile_tools import strobe, write_table

pytestmark = pytest.mark.rtl


@pytest.mark.parametrize("hardware", [TINY, PRESETS["tiny-pairs"]], ids=["planes", "pairs"])
def test_counters_of_every_layer_are_stored_in_the_order_of_the_table(hardware):
    dut, names, latency = EventMemory(hardware), counters_of(hardware), EventMemory.latency(hardware)
    rng = random.Random(3)
    top = (1 << COUNTER_BITS) - 1
    layers = [{name: rng.randint(0, top) for name in names} for _ in range(TINY.max_layers - 1)]
    layers.append(dict.fromkeys(names, top))

    async def bench(ctx):
        for index, values in enumerate(layers):
            put(ctx, dut.counters, {name: value for name, value in values.items() if name != "cycles"})
            ctx.set(dut.layer, index)
            await strobe(ctx, dut.store)
            for clock in range(1, latency + 1):
                # `cycles` is taken in the clock of `done`.
                ctx.set(dut.cycles, values["cycles"] if clock == latency else 0)
                assert ctx.get(dut.done) == (clock == latency)
                await ctx.tick()
            assert not ctx.get(dut.done)
        for index, values in enumerate(layers):
            for counter, name in enumerate(names):
                ctx.set(dut.read.address, index * COUNTERS_PER_LAYER + counter)
                await strobe(ctx, dut.read.enable)
                assert ctx.get(dut.read.data) == values[name]

    simulate(dut, bench, limit=1000)


def test_logits_keep_their_sign():
    dut = LogitMemory(TINY)
    values = [-1, 5, -(1 << 31), (1 << 31) - 1, 0, -7, 1, 2]

    async def bench(ctx):
        await write_table(ctx, dut.write, values)
        for index, value in enumerate(values):
            ctx.set(dut.read.address, index)
            await strobe(ctx, dut.read.enable)
            assert ctx.get(dut.read.data) == value % (1 << 32)

    simulate(dut, bench, limit=100)
