"""The ping-pong activation buffers."""

from __future__ import annotations

import random

import pytest
from rtl.activation_buffer import ActivationBuffer

from golden_model.config import TINY
from sim.bench import put, simulate

pytestmark = pytest.mark.rtl

IDLE = {"read": 0, "write": 0, "buffer": 0, "word": 0, "data": 0}


async def _bus_write(ctx, dut, buffer, word, data, strobes=15):
    put(ctx, dut.bus, IDLE | {"write": strobes, "buffer": buffer, "word": word, "data": data})
    await ctx.tick()
    put(ctx, dut.bus, IDLE)


async def _bus_read(ctx, dut, buffer, word):
    put(ctx, dut.bus, IDLE | {"read": 1, "buffer": buffer, "word": word})
    await ctx.tick()
    put(ctx, dut.bus, IDLE)
    return ctx.get(dut.bus_data)


async def _read(ctx, dut, address):
    put(ctx, dut.read, {"enable": 1, "address": address})
    await ctx.tick()
    put(ctx, dut.read, {"enable": 0, "address": 0})
    return ctx.get(dut.read_data)


async def _store(ctx, dut, address, value):
    put(ctx, dut.store, {"enable": 1, "address": address, "data": value})
    await ctx.tick()
    put(ctx, dut.store, {"enable": 0, "address": 0, "data": 0})


def test_words_of_the_bus_are_four_bytes_of_the_layer_least_significant_first():
    dut = ActivationBuffer(TINY)

    async def bench(ctx):
        for buffer in range(2):
            await _bus_write(ctx, dut, buffer, 5, 0x04030201 + 0x10101010 * buffer)
        for parity in range(2):
            ctx.set(dut.layer_parity, parity)
            assert [await _read(ctx, dut, 20 + i) for i in range(4)] == [1 + i + 16 * parity for i in range(4)]

    simulate(dut, bench, limit=200)


def test_stores_go_to_the_other_buffer():
    dut = ActivationBuffer(TINY)

    async def bench(ctx):
        for word in range(2):
            for buffer in range(2):
                await _bus_write(ctx, dut, buffer, word, 0)
        for parity in range(2):
            ctx.set(dut.layer_parity, parity)
            await _store(ctx, dut, 3, 0xA0 + parity)
            assert await _read(ctx, dut, 3) == (0 if parity == 0 else 0xA0)
        assert await _bus_read(ctx, dut, 1, 0) == 0xA0000000
        assert await _bus_read(ctx, dut, 0, 0) == 0xA1000000

    simulate(dut, bench, limit=200)


def test_byte_strobes_write_single_activations():
    dut = ActivationBuffer(TINY)

    async def bench(ctx):
        await _bus_write(ctx, dut, 1, 9, 0xFFFFFFFF)
        await _bus_write(ctx, dut, 1, 9, 0x11223344, strobes=0b0101)
        assert await _bus_read(ctx, dut, 1, 9) == 0xFF22FF44

    simulate(dut, bench, limit=100)


def test_random_reads_and_stores_in_the_same_clock_equal_a_model():
    dut = ActivationBuffer(TINY)
    rng = random.Random(5)
    size = TINY.activation_bytes

    async def bench(ctx):
        model = [[rng.randrange(256) for _ in range(size)] for _ in range(2)]
        for buffer in range(2):
            for word in range(size // 4):
                data = int.from_bytes(bytes(model[buffer][4 * word : 4 * word + 4]), "little")
                await _bus_write(ctx, dut, buffer, word, data)
        for _ in range(400):
            parity, at, to, value = rng.randrange(2), rng.randrange(size), rng.randrange(size), rng.randrange(256)
            ctx.set(dut.layer_parity, parity)
            put(ctx, dut.store, {"enable": 1, "address": to, "data": value})
            assert await _read(ctx, dut, at) == model[parity][at]
            put(ctx, dut.store, {"enable": 0, "address": 0, "data": 0})
            model[1 - parity][to] = value

    simulate(dut, bench, limit=3000)
