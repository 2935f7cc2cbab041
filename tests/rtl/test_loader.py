"""The load stream: packets of sections with random stalls, in front of the bank and of an array that takes its time."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from golden_model.config import TINY
from golden_model.registers import REGION, REGISTER
from rtl.loader import Loader
from sim.backends.pysim import PysimBus
from sim.bench import simulate
from sim.host.bus import BusError
from sim.host.driver import DeviceError, Driver
from sim.host.sections import Section, stream_of
from tests.bench import collector, receive, send, stream_rule
from tests.rtl.host_bench import HostSide, on_host_side

pytestmark = pytest.mark.rtl

ACTIVATIONS, CELL_DATA = REGION["ACTIVATIONS"].address(0), REGISTER["CELL_DATA"].offset
#: The place from which on cells are programmed.
FIRST_PAIR = (REGISTER["CELL_PAIR"].offset, [0])


def _words(*sections):
    """(address, words) as words of a packet."""
    return stream_of([Section(address, words) for address, words in sections]).tolist()


def _beats(words, last=True):
    return [{"data": word, "last": int(last and i == len(words) - 1)} for i, word in enumerate(words)]


async def _error(driver):
    """LOAD_STATUS.error, which is cleared."""
    error = (await driver.read_register("LOAD_STATUS"))["error"]
    await driver.write_register("LOAD_STATUS", error=1)
    assert await driver.read_register("LOAD_STATUS") == {"error": 0, "busy": 0}
    return error


# ---- the block alone ----------------------------------------------------------------------------
@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_sections_become_writes_in_order(stall, seed):
    dut = Loader(TINY)
    rng = random.Random(seed)
    packets, expected = [], []
    for _ in range(4):
        sections = []
        for _ in range(rng.randint(1, 4)):
            address = rng.choice([0x0C, 0x24, 0x1000000, 0x7000040])
            words = [rng.randrange(1 << 32) for _ in range(rng.randint(1, 5))]
            sections.append((address, words))
            step = 0 if address < 0x1000000 else 4
            expected += [{"address": address + step * i, "data": word} for i, word in enumerate(words)]
        packets += _beats(_words(*sections))
    got = []

    async def source(ctx):
        await send(ctx, dut.words, packets, stall=stall, seed=seed)

    async def bank(ctx):
        got.extend(await receive(ctx, dut.writes, len(expected), stall=stall, seed=seed + 1))

    simulate(dut, source, bank, background=[stream_rule(dut.writes, "writes")], limit=5000)
    assert got == expected


@pytest.mark.parametrize(("address", "waits"), [(CELL_DATA, 0), (REGISTER["CONTROL"].offset, 1), (ACTIVATIONS, 0)])
def test_only_sections_of_other_registers_wait_for_the_array(address, waits):
    dut = Loader(TINY)

    async def bench(ctx):
        ctx.set(dut.cells_busy, 1)
        ctx.set(dut.words.valid, 1)
        ctx.set(dut.words.payload.data, address)
        await ctx.tick()
        ctx.set(dut.words.payload.data, 1)
        for _ in range(3 if waits else 1):
            assert ctx.get(dut.words.ready) == 1 - waits
            await ctx.tick()

    simulate(dut, bench, limit=10)


def test_a_section_without_words_is_passed_over():
    dut = Loader(TINY)
    got = []

    async def source(ctx):
        await send(ctx, dut.words, _beats([0x5000000, 0, 0x7000000, 1, 9, 0x5000000, 0]))
        assert not ctx.get(dut.status.busy)
        assert not ctx.get(dut.status.error)

    async def bank(ctx):
        got.extend(await receive(ctx, dut.writes, 1))

    simulate(dut, source, bank, limit=100)
    assert got == [{"address": 0x7000000, "data": 9}]


# ---- in front of the bank -----------------------------------------------------------------------
def test_a_memory_is_filled_at_a_word_a_clock():
    words = list(range(100, 120))

    async def job(bus, driver, ctx, device):
        before = bus.clocks
        await bus.stream(_words((ACTIVATIONS, words)))
        assert bus.clocks - before == len(words) + 2
        assert await bus.read_many([ACTIVATIONS + 4 * i for i in range(20)]) == words
        assert not await _error(driver)

    on_host_side(job)


@pytest.mark.parametrize("seed", range(3))
def test_the_bus_is_answered_while_a_packet_goes_on_and_nothing_is_lost(seed):
    rng = random.Random(seed)
    words = [rng.randrange(1 << 32) for _ in range(30)]
    device = HostSide(TINY)
    packets = [(REGION["BIAS"].address(0), words[:6]), (ACTIVATIONS + 8, words)]
    biases, ended = [], []

    async def sender(ctx):
        for words_ in map(_words, packets):
            for i, word in enumerate(words_):
                while rng.random() < 0.4:
                    await ctx.tick()
                ctx.set(device.s_axis_tdata, word)
                ctx.set(device.s_axis_tlast, i == len(words_) - 1)
                ctx.set(device.s_axis_tvalid, 1)
                await ctx.tick().until(device.s_axis_tready)
                ctx.set(device.s_axis_tvalid, 0)
        ended.append(True)

    async def host(ctx):
        bus, turn = PysimBus(ctx, device), 0
        while not ended:
            turn += 1
            await bus.write(REGISTER["LAYER_COUNT"].offset, turn)
            assert await bus.read(REGISTER["LAYER_COUNT"].offset) == turn
        assert turn > 3
        assert await bus.read_many([ACTIVATIONS + 8 + 4 * i for i in range(30)]) == words
        assert not await _error(Driver(bus, TINY))

    port = device.bank.bias_write
    simulate(device, sender, host, background=[collector(port.enable, port.data, into=biases)], limit=5000)
    assert [bias & 0xFFFFFFFF for bias in biases] == words[:6]


#: What is wrong with the middle one of three sections, and how many of its words are written before.
WRONG = {
    "beyond the memory": ([0x7000000 + 4 * (TINY.activation_bytes // 4 - 1), 3, 7, 8, 9], 1),
    "unaligned": ([0x7000002, 1, 7], 0),
    "no memory": ([0xA000000, 2, 7, 8], 0),
    "read only": ([REGISTER["STATUS"].offset, 1, 0], 0),
    "too wide": ([REGION["PADS"].address(0), 3, 1, 1 << TINY.input_bits, 2], 0),
    "beyond the bus": ([0x17000000, 1, 7], 0),
    "cells without a pair": ([CELL_DATA, 2, 7, 8], 0),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_a_word_that_is_refused_drops_the_rest_of_its_packet_and_no_other(name, stall):
    wrong, written = WRONG[name]
    rng = random.Random(len(name))

    async def job(bus, driver, ctx, device):
        async def stream(words):
            for beat in _beats(words):
                while rng.random() < stall:
                    await ctx.tick()
                ctx.set(device.s_axis_tdata, beat["data"])
                ctx.set(device.s_axis_tlast, beat["last"])
                ctx.set(device.s_axis_tvalid, 1)
                await ctx.tick().until(device.s_axis_tready)
                ctx.set(device.s_axis_tvalid, 0)

        last = ACTIVATIONS + 4 * (TINY.activation_bytes // 4 - 1)
        for address in (ACTIVATIONS, ACTIVATIONS + 4, last):
            await bus.write(address, 0)
        # The packet after the wrong one follows at once.
        await stream([*_words((ACTIVATIONS, [1])), *wrong, *_words((ACTIVATIONS + 4, [2]))])
        await stream(_words((ACTIVATIONS + 8, [3])))
        assert await bus.read_many([ACTIVATIONS, ACTIVATIONS + 4, ACTIVATIONS + 8]) == [1, 0, 3]
        assert await bus.read(last) == (7 if written else 0)
        assert await _error(driver)

    on_host_side(job)


@pytest.mark.parametrize("wrong", [[0x7000000, 1, 1 << 31], [0x2000000, 1, 99]], ids=["legal", "refused"])
def test_a_refused_last_word_is_told_and_drops_nothing_of_the_next_packet(wrong):
    async def job(bus, driver, ctx, device):
        await bus.write(ACTIVATIONS + 4, 0)
        ctx.set(device.s_axis_tvalid, 1)
        for beat in [*_beats(wrong), *_beats(_words((ACTIVATIONS + 4, [5])))]:
            ctx.set(device.s_axis_tdata, beat["data"])
            ctx.set(device.s_axis_tlast, beat["last"])
            await ctx.tick().until(device.s_axis_tready)
        ctx.set(device.s_axis_tvalid, 0)
        assert await bus.read(ACTIVATIONS + 4) == 5
        assert await _error(driver) == (wrong[0] == 0x2000000)

    on_host_side(job)


@pytest.mark.parametrize("words", [[0x7000000], [0x7000000, 3], [0x7000000, 3, 5, 6], [CELL_DATA, 2, 1]])
def test_a_packet_that_ends_inside_a_section_is_told_and_the_next_one_is_whole(words):
    async def job(bus, driver, ctx, device):
        await driver.write_register("CELL_PAIR", pair=0)
        await bus.stream(words)
        assert await _error(driver)
        await bus.stream(_words((ACTIVATIONS + 8, [3])))
        assert await bus.read(ACTIVATIONS + 8) == 3
        assert not await _error(driver)

    on_host_side(job)


def test_tables_and_cells_are_refused_while_a_network_runs():
    programmed = []

    async def job(bus, driver, ctx, device):
        await bus.write(ACTIVATIONS, 9)
        await driver.write_register("CELL_PAIR", pair=0)
        ctx.set(device.running, 1)
        for section in ((ACTIVATIONS, [1, 2]), (CELL_DATA, [1, 2])):
            await bus.stream(_words(section))
            assert await _error(driver)
        ctx.set(device.running, 0)
        assert await bus.read(ACTIVATIONS) == 9
        with pytest.raises(DeviceError, match="refused a word of the load stream and dropped the rest"):
            await driver.stream([Section(0xA000000, [1])])

    on_host_side(job, programmed=programmed)
    assert not programmed


def test_a_sender_that_gives_up_inside_a_packet_is_cleared_by_the_host():
    async def job(bus, driver, ctx, device):
        await driver.write_register("CELL_PAIR", pair=0)
        ctx.set(device.s_axis_tvalid, 1)
        for word in (CELL_DATA, 5, 1):
            ctx.set(device.s_axis_tdata, word)
            await ctx.tick().until(device.s_axis_tready)
        ctx.set(device.s_axis_tvalid, 0)
        with pytest.raises(BusError):
            await driver.write_register("CONTROL", start=1)  # cells are still to come
        assert (await driver.read_register("LOAD_STATUS"))["busy"]
        await driver.write_register("LOAD_STATUS", busy=1)
        assert await driver.read_register("LOAD_STATUS") == {"error": 0, "busy": 0}
        await driver.write_register("CONTROL", start=1)
        await bus.stream(_words((ACTIVATIONS, [4])))
        assert await bus.read(ACTIVATIONS) == 4
        assert not await _error(driver)

    on_host_side(job)


# ---- cells --------------------------------------------------------------------------------------
#: Two words of cells an OU.
TWO_WORDS = replace(TINY, ou_rows=5, rows=10, crossbar_pairs=3, ou_cols=4)


@pytest.mark.parametrize("delay", [0, 1, 40])
def test_cells_and_what_follows_them_wait_for_the_array(delay):
    programmed, starts = [], []
    cells = list(range(1, 2 * TWO_WORDS.ous_per_crossbar + 1))
    packet = _words(FIRST_PAIR, (CELL_DATA, cells), (REGISTER["CONTROL"].offset, [1]))

    async def job(bus, driver, ctx, device):
        await bus.stream(packet)
        assert not await _error(driver)
        assert len(programmed) == TWO_WORDS.ous_per_crossbar, "the start came behind the last OU"

    def monitor(device):
        return collector(device.bank.control.start, device.bank.status.cells_busy, into=starts)

    on_host_side(job, TWO_WORDS, delay=delay, programmed=programmed, monitors=[monitor])
    assert [unit for _, unit in programmed] == [a | b << 32 for a, b in zip(cells[::2], cells[1::2], strict=True)]
    assert starts == [0]


def test_while_cells_are_streamed_the_bus_may_not_touch_them():
    programmed = []

    async def job(bus, driver, ctx, device):
        ctx.set(device.s_axis_tvalid, 1)
        for word in _words(FIRST_PAIR, (CELL_DATA, [1, 2, 3]))[:-2]:
            ctx.set(device.s_axis_tdata, word)
            await ctx.tick().until(device.s_axis_tready)
        ctx.set(device.s_axis_tvalid, 0)
        for name, word in (("CELL_DATA", 9), ("CELL_PAIR", 1), ("CELL_PAIRS", 1), ("CONTROL", 4), ("CONTROL", 1)):
            with pytest.raises(BusError, match="SLVERR"):
                await bus.write(REGISTER[name].offset, word)
        await bus.stream([2, 3])
        assert not await _error(driver)

    on_host_side(job, programmed=programmed)
    assert [unit for _, unit in programmed] == [1, 2, 3]


def test_an_array_that_is_given_up_ends_the_packet_with_an_error():
    async def job(bus, driver, ctx, device):
        await bus.stream(_words(FIRST_PAIR, (CELL_DATA, [1, 2, 3]), (ACTIVATIONS, [4])))
        assert (await driver.read_register("STATUS"))["cells_error"]
        assert await _error(driver)
        await bus.stream(_words((ACTIVATIONS, [5])))
        assert await bus.read(ACTIVATIONS) == 5

    on_host_side(job, delay=5000, patience=300)
