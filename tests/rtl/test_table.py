"""Tables with parity: alone, and in a tile whose memories lose a bit."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from golden_model.config import TINY
from golden_model.registers import DESCRIPTOR_STRIDE, StepKind
from rtl import layouts
from rtl.table import Table
from sim.bench import simulate
from sim.host.driver import DeviceError
from tests.bench import put
from tests.rtl.hand_made import Program, write_memory
from tests.rtl.test_tile import BOTH, _check_run, _memory, _residual_program
from tests.rtl.tile_tools import run_system

pytestmark = pytest.mark.rtl


def test_every_entry_is_read_as_written_and_every_single_wrong_bit_is_told():
    depth, bits = 8, 4
    dut = Table(layouts.width_write(replace(TINY, width_entries=depth)), depth)
    rng = random.Random(1)
    values = [rng.randrange(1 << bits) for _ in range(depth)]

    async def read(ctx, address):
        ctx.set(dut.read.enable, 1)
        ctx.set(dut.read.address, address)
        await ctx.tick()
        ctx.set(dut.read.enable, 0)
        return ctx.get(dut.read.data), ctx.get(dut.wrong)

    async def bench(ctx):
        assert await read(ctx, 3) == (0, 0)  # nothing was written yet
        for address, value in enumerate(values):
            put(ctx, dut.write, {"enable": 1, "address": address, "data": value})
            await ctx.tick()
        ctx.set(dut.write.enable, 0)
        for address, value in enumerate(values):
            assert await read(ctx, address) == (value, 0)
            stored = ctx.get(dut.memory.data[address])
            for bit in range(bits + 1):
                ctx.set(dut.memory.data[address], stored ^ 1 << bit)
                assert (await read(ctx, address))[1]
            ctx.set(dut.memory.data[address], stored)

    simulate(dut, bench, limit=1000)


def test_an_entry_stays_until_the_next_read():
    dut = Table(layouts.width_write(TINY), TINY.width_entries)

    async def bench(ctx):
        for address in range(2):
            put(ctx, dut.write, {"enable": 1, "address": address, "data": address + 1})
            await ctx.tick()
        ctx.set(dut.write.enable, 0)
        for address in range(2):
            ctx.set(dut.read.enable, 1)
            ctx.set(dut.read.address, address)
            await ctx.tick()
            ctx.set(dut.read.enable, 0)
            ctx.set(dut.read.address, 1 - address)
            await ctx.tick().repeat(2)
            assert ctx.get(dut.read.data) == address + 1

    simulate(dut, bench, limit=100)


@pytest.fixture
def tables(monkeypatch):
    """All tables of the design that is simulated, by the number of their entries."""
    made = {}

    class Kept(Table):
        def __init__(self, write, depth):
            super().__init__(write, depth)
            made.setdefault(depth, []).append(self)

    for module in ("descriptor_reader", "address_generator", "pack_builder", "window_generator", "post_processing"):
        monkeypatch.setattr(f"rtl.{module}.Table", Kept)
    return made


@BOTH
def test_a_lost_bit_in_any_table_ends_the_run_and_the_table_written_again_runs(hardware, tables):
    """Tables are told apart by their depths."""
    hardware = replace(hardware, max_layers=8, width_entries=48, channel_entries=24, pad_entries=12)
    program = _residual_program(hardware)
    memory = _memory(hardware)

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        await write_memory(driver, memory)
        for depth in (8 * DESCRIPTOR_STRIDE, 48, 24):
            assert tables[depth]
            for one in tables[depth]:
                right = ctx.get(one.memory.data[0])
                ctx.set(one.memory.data[0], right ^ 1)
                with pytest.raises(DeviceError, match="TABLE"):
                    await driver.start(len(program.steps), expected_cycles=10_000)
                ctx.set(one.memory.data[0], right)
                ctx.set(one.memory.data[depth - 1], 1)  # an entry that is not used
        await _check_run(program, driver, memory)

    run_system(hardware, job)


def test_a_border_value_that_lost_a_bit_ends_the_run_where_borders_are_read(tables):
    hardware = replace(TINY, pad_entries=6)
    program = Program(hardware)
    program.element(
        StepKind.SUM, channels=2, first_channel=1, height=3, width=3, outputs=4, target=130, pad_top=1, pad_left=2,
        out_height=5, out_width=6, pads=[1, 2, 3, 4], multiplier=3, shift=1,
    )  # fmt: skip
    memory = _memory(hardware)

    async def job(bus, driver, device, ctx):
        await program.load(driver)
        await write_memory(driver, memory)
        (pads,) = tables[6]
        for address in range(4):
            right = ctx.get(pads.memory.data[address])
            ctx.set(pads.memory.data[address], right ^ 2)
            with pytest.raises(DeviceError, match="TABLE"):
                await driver.start(1, expected_cycles=10_000)
            ctx.set(pads.memory.data[address], right)
        ctx.set(pads.memory.data[4], 1)
        await _check_run(program, driver, memory)

    run_system(hardware, job)
