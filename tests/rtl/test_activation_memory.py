"""The activation memory: bytes of the steps, words of the bus."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from golden_model.config import PRESETS, TINY
from rtl.activation_memory import ActivationMemory
from sim.bench import simulate
from tests.bench import put
from tests.rtl.tile_tools import strobe

pytestmark = pytest.mark.rtl
PAIRS = PRESETS["tiny-pairs"]
MACROS = replace(PAIRS, macros=4)
ALL = pytest.mark.parametrize("hardware", [TINY, PAIRS, MACROS], ids=["planes", "pairs", "macros"])
SEVERAL = pytest.mark.parametrize("hardware", [PAIRS, MACROS], ids=["pairs", "macros"])


async def _bus_write(ctx, dut, word, data, strobes=15):
    put(ctx, dut.bus.word, word)
    put(ctx, dut.bus.data, data)
    put(ctx, dut.bus.write, strobes)
    await ctx.tick()
    put(ctx, dut.bus.write, 0)


async def _bus_read(ctx, dut, word):
    put(ctx, dut.bus.word, word)
    await strobe(ctx, dut.bus.read)
    return ctx.get(dut.bus.answer)


async def _read(ctx, dut, address, client="window_read"):
    port = getattr(dut, client)
    put(ctx, port.address, address)
    await strobe(ctx, port.enable)
    return ctx.get(port.data[0])


@ALL
def test_words_of_the_bus_are_four_bytes_of_a_step_least_significant_first(hardware):
    dut = ActivationMemory(hardware)

    async def bench(ctx):
        await _bus_write(ctx, dut, 5, 0x04030201)
        for client in ("window_read", "residual_read"):
            assert [await _read(ctx, dut, 20 + i, client) for i in range(4)] == [1, 2, 3, 4]

    simulate(dut, bench, limit=200)


@ALL
def test_byte_strobes_write_single_activations(hardware):
    dut = ActivationMemory(hardware)

    async def bench(ctx):
        await _bus_write(ctx, dut, 63, 0xFFFFFFFF)
        await _bus_write(ctx, dut, 63, 0x11223344, strobes=0b0101)
        assert await _bus_read(ctx, dut, 63) == 0xFF22FF44

    simulate(dut, bench, limit=100)


@ALL
def test_byte_holds_until_the_next_read(hardware):
    dut = ActivationMemory(hardware)

    async def bench(ctx):
        await _bus_write(ctx, dut, 0, 0x04030201)
        assert await _read(ctx, dut, 2) == 3
        put(ctx, dut.window_read.address, 1)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.window_read.data[0]) == 3

    simulate(dut, bench, limit=100)


@ALL
def test_random_reads_and_stores_in_the_same_clock_equal_a_model_and_a_collision_reads_the_old_byte(hardware):
    dut = ActivationMemory(hardware)
    rng = random.Random(5)
    size = hardware.activation_bytes
    collisions = []

    async def bench(ctx):
        model = [rng.randrange(256) for _ in range(size)]
        for word in range(size // 4):
            await _bus_write(ctx, dut, word, int.from_bytes(bytes(model[4 * word : 4 * word + 4]), "little"))
        for _ in range(600):
            at, values = rng.randrange(size), [rng.randrange(256) for _ in range(hardware.macros)]
            to = at if rng.random() < 0.2 else rng.randrange(size)
            which = rng.randrange(1, 1 << min(hardware.macros, size - to))
            collisions.append(at == to and which & 1)
            put(ctx, dut.store, {"enable": which, "address": to, "data": values})
            assert await _read(ctx, dut, at, rng.choice(["window_read", "residual_read"])) == model[at]
            put(ctx, dut.store, {"enable": 0, "address": 0, "data": [0] * hardware.macros})
            for i, value in enumerate(values):
                if which >> i & 1:
                    model[to + i] = value
        for word in range(size // 4):
            data = await _bus_read(ctx, dut, word)
            assert list(data.to_bytes(4, "little")) == model[4 * word : 4 * word + 4]

    simulate(dut, bench, limit=3000)
    assert any(collisions)


@SEVERAL
def test_neighbours_of_any_addresses_are_read_by_both_in_the_same_clock(hardware):
    dut = ActivationMemory(hardware)
    rng = random.Random(7)
    size, together = hardware.activation_bytes, hardware.fetch_bytes

    async def bench(ctx):
        model = [rng.randrange(256) for _ in range(size)]
        for word in range(size // 4):
            await _bus_write(ctx, dut, word, int.from_bytes(bytes(model[4 * word : 4 * word + 4]), "little"))
        for at in [*range(size - together + 1), *(rng.randrange(size - together) for _ in range(200))]:
            other = rng.randrange(size - together + 1)
            put(ctx, dut.window_read.address, at)
            put(ctx, dut.residual_read.address, other)
            ctx.set(dut.residual_read.enable, 1)
            await strobe(ctx, dut.window_read.enable)
            assert list(ctx.get(dut.window_read.data)) == model[at : at + together]
            assert list(ctx.get(dut.residual_read.data)) == model[other : other + together]

    simulate(dut, bench, limit=3000)


@SEVERAL
def test_what_lies_in_the_memory_is_read_right_from_in_front_of_its_first_byte(hardware):
    dut = ActivationMemory(hardware)

    async def bench(ctx):
        await _bus_write(ctx, dut, 0, 0x44332211)
        put(ctx, dut.window_read.address, (1 << len(dut.window_read.address)) - 2)  # two bytes before
        await strobe(ctx, dut.window_read.enable)
        assert list(ctx.get(dut.window_read.data))[2:4] == [0x11, 0x22]

    simulate(dut, bench, limit=100)
