"""The host between converters and array: it measures columns, or converters run without an array."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Value

from golden_model.config import TINY
from golden_model.registers import PortMode
from rtl.interfaces import parts_of
from rtl.lane_test import LaneTest
from rtl.tile import Tile
from sim.array.crossbars import Crossbar, CrossbarSettings, PairCrossbar
from sim.backends.pysim import PysimBus, crossbar_processes
from sim.bench import simulate
from sim.host.bus import BusError
from sim.host.driver import Driver
from sim.host.probe import ArrayProbe
from tests.rtl.hand_made import read_memory, write_memory
from tests.rtl.test_tile import _memory, _residual_program
from tests.rtl.tile_tools import strobe

pytestmark = pytest.mark.rtl

PLANES = replace(TINY, crossbar_pairs=32)
PAIRS = replace(PLANES, machine="pairs", crossbar_pairs=64)
MACROS = replace(PAIRS, macros=2, comparator_valid=1)
MACHINES = pytest.mark.parametrize("hardware", [PLANES, PAIRS, MACROS], ids=["planes", "pairs", "macros"])


def _array(hardware, **settings):
    return (PairCrossbar if hardware.pairs else Crossbar)(hardware, CrossbarSettings(**settings))


def _on_tile(hardware, array, job, *, limit=150_000):
    """Run job(driver, tile, ctx) on a tile whose array is `array`."""
    dut = Tile(hardware)

    async def bench(ctx):
        await job(Driver(PysimBus(ctx, dut), hardware), dut, ctx)

    simulate(dut, bench, processes=crossbar_processes(dut.crossbar, array), limit=limit)


# ---- the block alone ----------------------------------------------------------------------------
@MACHINES
def test_comparators_are_those_of_the_array_unless_they_are_tied_off(hardware):
    dut = LaneTest(hardware)
    inner, outer = parts_of(dut.macro, hardware), parts_of(dut.array, hardware)
    width = len(outer[0].comparators)
    rng = random.Random(2)

    async def bench(ctx):
        for mode, answer in ((PortMode.NORMAL, 0), (PortMode.TIED_OFF, 0), (PortMode.TIED_OFF, 1)):
            given = [rng.randrange(1, (1 << width) - 1) for _ in outer]
            for part, word in zip(outer, given, strict=True):
                ctx.set(part.comparators, word)
            ctx.set(dut.control.mode, mode)
            ctx.set(dut.control.answer, answer)
            await ctx.tick()
            expected = [((1 << width) - 1) * answer] * len(outer) if mode else given
            assert [ctx.get(part.comparators) for part in inner] == expected

    simulate(dut, bench, limit=20)


@MACHINES
def test_a_sample_of_the_host_waits_for_its_own_half_with_the_lines_that_were_written(hardware):
    dut = LaneTest(hardware)
    outer = parts_of(dut.array, hardware)
    lines = 0b101

    async def bench(ctx):
        ctx.set(dut.control.mode, PortMode.DRIVEN)
        ctx.set(dut.lines.lines, lines)
        await strobe(ctx, dut.lines.enable)
        ctx.set(dut.lines.lines, 0xFFFF_FFFF)
        await ctx.tick().repeat(3)
        await strobe(ctx, dut.request.enable)
        for part in outer[1:]:
            ctx.set(part.sample.ready, 1)
        await ctx.tick().repeat(3)
        assert [ctx.get(part.sample.valid) for part in outer] == [1] + [0] * (len(outer) - 1)
        payload = outer[0].sample.payload
        assert ctx.get(Value.cast(payload.lines if hardware.pairs else payload.slice)) == lines
        assert ctx.get(dut.busy)
        ctx.set(outer[0].sample.ready, 1)
        await ctx.tick()
        assert not ctx.get(dut.busy)

    simulate(dut, bench, limit=30)


# ---- in a tile ----------------------------------------------------------------------------------
@MACHINES
def test_the_host_measures_any_column_by_the_comparators(hardware):
    """Held values by sweeping the code, on an array of cells that differ."""
    rng = np.random.default_rng(3)
    array = _array(hardware, variation=0.3, seed=5)
    shape = (4, hardware.grid_rows, hardware.grid_cols, hardware.lanes, hardware.ou_rows)
    array.load(rng.random(shape) < 0.5)
    places = rng.integers(0, hardware.sample_places if hardware.pairs else 1, 4)

    async def job(driver, tile, ctx):
        async with ArrayProbe(driver) as probe:
            for pair, place in enumerate(places.tolist()):
                part = pair % probe.parts
                row = 0 if hardware.pairs else pair % hardware.grid_rows
                lines = int(rng.integers(1, 1 << probe.word_lines))
                measured = await probe.measure(pair, pair % hardware.grid_cols, lines, row=row, part=part, place=place)
                held = array.held[part, place]
                limits = array.limits[0]
                codes = range(-(1 << hardware.adc_bits) * hardware.pairs, 1 << hardware.adc_bits)
                expected = [max((t for t in codes if value >= limits[t]), default=codes[0] - 1) for value in held]
                assert measured == expected
        assert (await driver.read_register("TEST_CONTROL"))["mode"] == PortMode.NORMAL

    _on_tile(hardware, array, job)


class Silent(Exception):
    """The array was asked."""


@MACHINES
@pytest.mark.parametrize("answer", [0, 1])
def test_tied_off_converters_run_a_network_without_the_array(hardware, answer):
    """The results are those with an array whose comparators all give that answer, and the array is asked nothing."""
    program = _residual_program(hardware)
    memory = _memory(hardware)
    results = []
    for tied in (False, True):
        array = _array(hardware)
        array.limits[:] = -np.inf if answer else np.inf
        if tied:
            array.limits[:] = -array.limits

            def sample(*_):
                raise Silent

            array.sample = sample

        async def job(driver, tile, ctx, tied=tied):
            await program.load(driver)
            await driver.write_register("TEST_CONTROL", mode=PortMode.TIED_OFF * tied, answer=answer * tied)
            await driver.write_register("LAYER_COUNT", layers=4)
            await write_memory(driver, memory)
            await driver.write_register("CONTROL", start=1)
            for _ in range(8000):
                status = await driver.read_register("STATUS")
                if not status["busy"]:
                    break
            assert status["done"]
            results.append((await read_memory(driver), await driver.cycles()))

        _on_tile(hardware, array, job)
    assert results[0] == results[1]


@MACHINES
def test_what_the_test_cannot_do_is_refused(hardware):
    rng = random.Random(1)

    async def job(driver, tile, ctx):
        async def refused(name, **fields):
            with pytest.raises(BusError):
                await driver.write_register(name, **fields)

        await refused("TEST_SAMPLE", pair=0)
        await refused("TEST_CONTROL", mode=3)
        await refused("TEST_CONTROL", half=2 * hardware.macros if hardware.pairs else 1)
        await refused("TEST_CONTROL", place=hardware.sample_places if hardware.pairs else 1)
        await refused("TEST_CONTROL", word=1)
        await refused("TEST_CODE", code=1 << hardware.converter_bits)
        await driver.write_register("TEST_CONTROL", mode=PortMode.DRIVEN)
        await refused("TEST_SAMPLE", pair=hardware.crossbar_pairs)
        await refused("TEST_SAMPLE", ou_col=hardware.grid_cols)
        await refused("TEST_SAMPLE", ou_row=1 if hardware.pairs else hardware.grid_rows)
        await driver.write_register("LAYER_COUNT", layers=1)
        await refused("CONTROL", start=1)
        await driver.write_register("TEST_SAMPLE", pair=rng.randrange(hardware.crossbar_pairs))
        assert not (await driver.read_register("STATUS"))["test_busy"]
        await driver.write_register("TEST_CONTROL", mode=PortMode.NORMAL)
        await driver.write_register("CONTROL", start=1)

    _on_tile(hardware, _array(hardware), job)
