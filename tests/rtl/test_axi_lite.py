"""The AXI4-Lite slave between a bus with random delays and a bank with random delays."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from amaranth.hdl import Module, ResetInserter, Signal

from rtl.axi_lite import OKAY, SLVERR, AxiLite
from sim.bench import simulate
from tests.bench import plain, put, stream_rule

pytestmark = pytest.mark.rtl


def _bank(dut, served, seed, stall):
    """Answers request i: a read of address a gives a + 1; addresses with bit 4 set are errors."""

    async def bench(ctx):
        rng = random.Random(seed)
        while True:
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(dut.requests.ready, 1)
            (payload,) = await ctx.tick().sample(dut.requests.payload).until(dut.requests.valid)
            ctx.set(dut.requests.ready, 0)
            request = plain(payload)
            served.append(request)
            while rng.random() < stall:
                await ctx.tick()
            put(
                ctx,
                dut.responses.payload,
                {"data": request["address"] + 1, "error": request["address"] >> 4 & 1},
            )
            ctx.set(dut.responses.valid, 1)
            await ctx.tick().until(dut.responses.ready)
            ctx.set(dut.responses.valid, 0)

    return bench


async def _channel(ctx, rng, stall, valid, ready, values):
    """Offer a beat on one bus channel after a random delay."""
    while rng.random() < stall:
        await ctx.tick()
    for signal, value in values:
        ctx.set(signal, value)
    ctx.set(valid, 1)
    await ctx.tick().until(ready)
    ctx.set(valid, 0)


@pytest.mark.parametrize("stall", [0.0, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_reads_and_writes_at_once_are_all_answered_in_order(seed, stall):
    dut = AxiLite()
    count = 25
    rng = random.Random(seed)
    writes = [(4 * rng.randrange(64), rng.randrange(1 << 32), rng.randrange(16)) for _ in range(count)]
    reads = [4 * rng.randrange(64) for _ in range(count)]
    served: list[dict] = []

    async def write_addresses(ctx):
        delay = random.Random(seed + 1)
        for address, _, _ in writes:
            await _channel(ctx, delay, stall, dut.awvalid, dut.awready, [(dut.awaddr, address)])

    async def write_data(ctx):
        delay = random.Random(seed + 2)
        for _, data, strobes in writes:
            values = [(dut.wdata, data), (dut.wstrb, strobes)]
            await _channel(ctx, delay, stall, dut.wvalid, dut.wready, values)

    async def write_responses(ctx):
        delay = random.Random(seed + 3)
        for address, _, _ in writes:
            while delay.random() < stall:
                await ctx.tick()
            ctx.set(dut.bready, 1)
            (response,) = await ctx.tick().sample(dut.bresp).until(dut.bvalid)
            ctx.set(dut.bready, 0)
            assert response == (SLVERR if address >> 4 & 1 else OKAY)

    async def read_addresses(ctx):
        delay = random.Random(seed + 4)
        for address in reads:
            await _channel(ctx, delay, stall, dut.arvalid, dut.arready, [(dut.araddr, address)])

    async def read_data(ctx):
        delay = random.Random(seed + 5)
        for address in reads:
            while delay.random() < stall:
                await ctx.tick()
            ctx.set(dut.rready, 1)
            data, response = await ctx.tick().sample(dut.rdata, dut.rresp).until(dut.rvalid)
            ctx.set(dut.rready, 0)
            assert (data, response) == (address + 1, SLVERR if address >> 4 & 1 else OKAY)

    simulate(
        dut,
        write_addresses,
        write_data,
        write_responses,
        read_addresses,
        read_data,
        background=[
            _bank(dut, served, seed, stall),
            stream_rule(dut.requests, "requests"),
        ],
        limit=5000,
    )
    assert [r["address"] for r in served if not r["write"]] == reads
    got = [(r["address"], r["data"], r["strobe"]) for r in served if r["write"]]
    assert got == writes


def test_neither_direction_starves_the_other():
    dut = AxiLite()
    served: list[dict] = []

    async def bus(ctx):
        for signal in (dut.awvalid, dut.wvalid, dut.arvalid, dut.bready, dut.rready):
            ctx.set(signal, 1)
        await ctx.tick().repeat(60)

    simulate(dut, bus, background=[_bank(dut, served, 0, 0.0)], limit=100)
    order = [request["write"] for request in served]
    assert len(order) > 10
    assert all(a != b for a, b in pairwise(order))


def test_nothing_is_accepted_in_reset_and_an_early_request_is_answered_after_it():
    dut = AxiLite()
    reset = Signal()
    top = Module()
    top.submodules.dut = ResetInserter(reset)(dut)
    served: list[dict] = []

    async def bus(ctx):
        ctx.set(reset, 1)
        ctx.set(dut.araddr, 8)
        ctx.set(dut.arvalid, 1)
        ctx.set(dut.rready, 1)
        for _ in range(3):
            assert not ctx.get(dut.arready)
            await ctx.tick()
        ctx.set(reset, 0)
        assert not ctx.get(dut.arready)
        await ctx.tick().until(dut.arready)
        ctx.set(dut.arvalid, 0)
        (data,) = await ctx.tick().sample(dut.rdata).until(dut.rvalid)
        assert data == 9

    simulate(top, bus, background=[_bank(dut, served, 0, 0.0)], limit=100)
    assert len(served) == 1


@pytest.mark.parametrize(
    ("valids", "readies"),
    [(("awvalid", "wvalid"), ("awready", "wready")), (("arvalid",), ("arready",))],
    ids=["write", "read"],
)
def test_ready_does_not_follow_valid_within_a_clock(valids, readies):
    dut = AxiLite()

    async def bench(ctx):
        def ready():
            return [ctx.get(getattr(dut, name)) for name in readies]

        ctx.set(dut.requests.ready, 1)
        await ctx.tick().repeat(2)
        for name in valids:
            ctx.set(getattr(dut, name), 1)
        assert ready() == [0] * len(readies)
        await ctx.tick()
        assert ready() == [1] * len(readies)
        for name in valids:
            ctx.set(getattr(dut, name), 0)
        assert ready() == [1] * len(readies)

    simulate(dut, bench, limit=100)
