"""Accesses of the host over the real bus."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Cat

from golden_model.config import PRESETS, TINY
from golden_model.registers import (
    ADDRESS_BITS,
    DESCRIPTOR_STRIDE,
    IDENTITY,
    REGION,
    REGISTER,
    reference_entry,
    region_entries,
)
from sim.host.bus import BusError
from sim.host.driver import DeviceError
from sim.host.sections import Section, tables_checksum
from tests.bench import collector, put
from tests.rtl.host_bench import on_host_side

pytestmark = pytest.mark.rtl

#: Three activation functions of 16 entries.
FUNCTIONS = replace(TINY, activation_tables=3)
#: Two bus words for the cells of an OU, of which the second is not full.
TWO_WORDS = replace(TINY, ou_rows=5, rows=10, crossbar_pairs=3, ou_cols=4)


async def _refused(access):
    with pytest.raises(BusError, match="SLVERR"):
        await access


def test_identity_and_hardware_hash_read_as_they_should():
    async def job(bus, driver, ctx, device):
        assert await bus.read(REGISTER["IDENTITY"].offset) == IDENTITY
        assert await bus.read(REGISTER["HARDWARE_HASH"].offset) == TINY.hash_word
        await driver.identify()

    on_host_side(job)


def test_read_only_and_write_only_registers_refuse_the_other_access():
    async def job(bus, driver, ctx, device):
        for register in REGISTER.values():
            if register.access == "r":
                await _refused(bus.write(register.offset, 0))
                await bus.read(register.offset)
            elif register.access == "w":
                await _refused(bus.read(register.offset))
            else:
                assert await bus.read(register.offset) == 0

    on_host_side(job)


@pytest.mark.parametrize("hardware", [TINY, FUNCTIONS], ids=["tiny", "functions"])
def test_memories_refuse_the_wrong_direction_and_entries_beyond_their_end(hardware):
    async def job(bus, driver, ctx, device):
        for name, entries in region_entries(hardware).items():
            region = REGION[name]
            for entry in (entries, entries + 1, (1 << 22) - 1):
                await _refused(bus.read(region.address(entry)))
                await _refused(bus.write(region.address(entry), 0))
            if not entries:  # activation functions that the tile does not have
                continue
            if "r" not in region.access:
                await _refused(bus.read(region.address(0)))
            if "w" not in region.access:
                await _refused(bus.write(region.address(0), 0))
            else:
                last = entries - 1 if name != "REFERENCE" else reference_entry(TINY, TINY.max_layers - 1, TINY.ou_rows)
                await bus.write(region.address(last), 0)

    on_host_side(job, hardware)


def test_addresses_without_a_register_or_memory_are_refused():
    async def job(bus, driver, ctx, device):
        beyond = max(r.offset for r in REGISTER.values()) + 4
        for address in (beyond, 0x0FFFFFC, 0xB000000, 0xF000000, (1 << ADDRESS_BITS) - 4):
            await _refused(bus.read(address))
            await _refused(bus.write(address, 1))

    on_host_side(job)


def test_unaligned_addresses_are_refused_and_change_nothing():
    async def job(bus, driver, ctx, device):
        await bus.write(REGISTER["LAYER_COUNT"].offset, 3)
        for offset in (1, 2, 3):
            await _refused(bus.write(REGISTER["LAYER_COUNT"].offset + offset, 1))
            await _refused(bus.read(REGISTER["LAYER_COUNT"].offset + offset))
            await _refused(bus.write(REGION["ACTIVATIONS"].address(0) + offset, 1))
        assert await bus.read(REGISTER["LAYER_COUNT"].offset) == 3

    on_host_side(job)


def test_unaligned_writes_reach_no_table_no_command_and_no_cell():
    effects, programmed = [], []

    async def job(bus, driver, ctx, device):
        await driver.write_register("CELL_PAIR", pair=0)
        places = [REGISTER[r].offset for r in ("CONTROL", "CELL_PAIR", "CELL_DATA", "CELL_PAIRS", "LAYER_COUNT")]
        there = region_entries(TINY)
        places += [region.address(0) for region in REGION.values() if "w" in region.access and there[region.name]]
        effects.clear()
        for address in places:
            for offset in (1, 2, 3):
                await _refused(bus.write(address + offset, 1))
        assert not effects
        for address in places:
            await bus.write(address, 1)
        assert len(effects) == len(places) - 2, "all but CELL_PAIRS and LAYER_COUNT, which have no strobe"

    def monitor(device):
        bank = device.bank
        tables = (bank.program_write, bank.width_write, bank.bias_write, bank.multiplier_write, bank.pad_write)
        strobes = [port.enable for port in (*tables, bank.reference_write, bank.cell_select)]
        strobes += [bank.activations.write.any(), bank.cells.valid, bank.control.as_value().any()]
        return collector(Cat(*strobes).any(), Cat(*strobes), into=effects)

    on_host_side(job, programmed=programmed, monitors=[monitor])
    assert len(programmed) == 1


async def _strobed_write(ctx, device, address, data, strobes):
    """Response code of a write with byte strobes."""
    ctx.set(device.s_axil_awaddr, address)
    ctx.set(device.s_axil_awvalid, 1)
    ctx.set(device.s_axil_wdata, data)
    ctx.set(device.s_axil_wstrb, strobes)
    ctx.set(device.s_axil_wvalid, 1)
    ctx.set(device.s_axil_bready, 1)
    await ctx.tick().until(device.s_axil_awready)
    ctx.set(device.s_axil_awvalid, 0)
    ctx.set(device.s_axil_wvalid, 0)
    (response,) = await ctx.tick().sample(device.s_axil_bresp).until(device.s_axil_bvalid)
    ctx.set(device.s_axil_bready, 0)
    return response


def test_byte_strobes_work_on_activations_and_are_refused_elsewhere():
    async def job(bus, driver, ctx, device):
        word = REGION["ACTIVATIONS"].address(3)
        await bus.write(word, 0x44332211)
        assert await _strobed_write(ctx, device, word, 0xAABBCCDD, 0b0110) == 0
        assert await bus.read(word) == 0x44BBCC11
        await bus.write(REGISTER["LAYER_COUNT"].offset, 2)
        assert await _strobed_write(ctx, device, REGISTER["LAYER_COUNT"].offset, 1, 0b0001) == 2
        assert await bus.read(REGISTER["LAYER_COUNT"].offset) == 2
        assert await _strobed_write(ctx, device, REGION["BIAS"].address(0), 1, 0b0111) == 2

    on_host_side(job)


def test_activation_memory_reads_back_what_was_written():
    rng = random.Random(1)

    async def job(bus, driver, ctx, device):
        words = [rng.randrange(1 << 32) for _ in range(region_entries(TINY)["ACTIVATIONS"])]
        addresses = [REGION["ACTIVATIONS"].address(i) for i in range(len(words))]
        await bus.write_many(addresses, words)
        assert await bus.read_many(addresses) == words

    on_host_side(job)


def test_events_exist_for_the_counters_of_the_table_only():
    async def job(bus, driver, ctx, device):
        await bus.read(REGION["EVENTS"].address(2 * 8 + 1))
        await _refused(bus.read(REGION["EVENTS"].address(2 * 9)))
        await _refused(bus.read(REGION["EVENTS"].address(2 * 15 + 1)))
        await bus.read(REGION["EVENTS"].address(2 * 16))

    on_host_side(job)


def test_widths_beyond_the_hardware_are_refused():
    async def job(bus, driver, ctx, device):
        await bus.write(REGION["WIDTHS"].address(0), TINY.weight_bits)
        await _refused(bus.write(REGION["WIDTHS"].address(0), TINY.weight_bits + 1))

    on_host_side(job)


def test_the_pair_machine_has_no_reference_memory():
    async def job(bus, driver, ctx, device):
        await _refused(bus.write(REGION["REFERENCE"].address(0), 0))

    on_host_side(job, PRESETS["tiny-pairs"])


def test_reference_entries_are_split_into_step_and_count():
    seen = []

    async def job(bus, driver, ctx, device):
        for step in range(TINY.max_layers):
            for count in range(TINY.ou_rows + 1):
                await bus.write(REGION["REFERENCE"].address(reference_entry(TINY, step, count)), (step + count) % 8)
            await _refused(bus.write(REGION["REFERENCE"].address(reference_entry(TINY, step, TINY.ou_rows + 1)), 0))

    def monitor(device):
        write = device.bank.reference_write
        return collector(write.enable, write.layer, write.count, write.level, into=seen)

    on_host_side(job, monitors=[monitor])
    assert seen == [(s, c, (s + c) % 8) for s in range(TINY.max_layers) for c in range(TINY.ou_rows + 1)]


#: Accesses whose data has one bit more than the register or the entry.
OVERSIZE = {
    "LAYER_COUNT": (REGISTER["LAYER_COUNT"].offset, 1 << 16),
    "FIRST_LAYER": (REGISTER["FIRST_LAYER"].offset, 1 << 16),
    "CONTROL": (REGISTER["CONTROL"].offset, 1 << 4),
    "CELL_PAIR": (REGISTER["CELL_PAIR"].offset, 1 << 16),
    "CELL_PAIRS": (REGISTER["CELL_PAIRS"].offset, 1 << 16),
    "WIDTHS": (REGION["WIDTHS"].address(0), 1 << 4),
    "MULTIPLIERS": (REGION["MULTIPLIERS"].address(0), 1 << 16),
    "PADS": (REGION["PADS"].address(0), 1 << TINY.input_bits),
    "REFERENCE": (REGION["REFERENCE"].address(0), 1 << TINY.adc_bits),
}


@pytest.mark.parametrize("name", OVERSIZE)
def test_data_beyond_the_field_is_refused_and_changes_nothing(name):
    address, beyond = OVERSIZE[name]
    effects = []

    async def job(bus, driver, ctx, device):
        await bus.write(REGISTER["LAYER_COUNT"].offset, 3)
        await bus.write(REGISTER["CELL_PAIRS"].offset, 2)
        for word in (beyond, beyond | 1, 1 << 31, 0xFFFFFFFF):
            await _refused(bus.write(address, word))
        assert await bus.read(REGISTER["LAYER_COUNT"].offset) == 3
        assert await bus.read(REGISTER["CELL_PAIRS"].offset) == 2
        if name != "CONTROL":
            await bus.write(address, 1)

    def monitor(device):
        bank = device.bank
        ports = (bank.width_write, bank.multiplier_write, bank.pad_write, bank.reference_write, bank.cell_select)
        strobes = Cat(*(port.enable for port in ports), bank.control.as_value())
        return collector(strobes.any(), strobes, into=effects)

    on_host_side(job, monitors=[monitor])
    silent = ("CONTROL", "LAYER_COUNT", "FIRST_LAYER", "CELL_PAIRS")
    assert len(effects) == (name not in silent), "only the legal write had an effect"


def test_entries_of_activation_functions_are_written_up_to_the_widest():
    seen = []

    async def job(bus, driver, ctx, device):
        for entry, value in ((0, 0), (17, 15), (47, 9)):
            await bus.write(REGION["LOOKUPS"].address(entry), value)
            await _refused(bus.write(REGION["LOOKUPS"].address(entry), 16))
        await _refused(bus.write(REGION["LOOKUPS"].address(48), 1))
        ctx.set(device.running, 1)
        await _refused(bus.write(REGION["LOOKUPS"].address(3), 1))

    def monitor(device):
        write = device.bank.lookup_write
        return collector(write.enable, write.address, write.data, into=seen)

    on_host_side(job, FUNCTIONS, monitors=[monitor])
    assert seen == [(0, 0), (17, 15), (47, 9)]


def test_the_widest_entries_are_written():
    async def job(bus, driver, ctx, device):
        for name, word in (("LAYER_COUNT", 65535), ("FIRST_LAYER", 65535), ("CELL_PAIRS", TINY.crossbar_pairs)):
            await bus.write(REGISTER[name].offset, word)
            assert await bus.read(REGISTER[name].offset) == word
        for name, word in (
            ("MULTIPLIERS", 65535),
            ("PADS", (1 << TINY.input_bits) - 1),
            ("BIAS", 0xFFFFFFFF),
            ("PROGRAM", 0xFFFFFFFF),
        ):
            await bus.write(REGION[name].address(0), word)

    on_host_side(job)


def test_refused_reads_give_zero():
    async def job(bus, driver, ctx, device):
        await bus.write(REGION["ACTIVATIONS"].address(0), 0xFFFFFFFF)
        await bus.write(REGISTER["LAYER_COUNT"].offset, 0xFFFF)
        for address in (REGISTER["LAYER_COUNT"].offset + 2, REGISTER["CELL_DATA"].offset, REGION["WIDTHS"].address(0)):
            assert await bus.read(REGION["ACTIVATIONS"].address(0)) == 0xFFFFFFFF
            await _refused(bus.read(address))
            assert ctx.get(device.s_axil_rdata) == 0
        ctx.set(device.running, 1)
        await bus.read(REGISTER["LAYER_COUNT"].offset)
        await _refused(bus.read(REGION["ACTIVATIONS"].address(0)))
        assert ctx.get(device.s_axil_rdata) == 0

    on_host_side(job)


def test_start_while_busy_has_no_effect_and_abort_has():
    starts, aborts = [], []

    async def job(bus, driver, ctx, device):
        ctx.set(device.running, 1)
        await driver.write_register("CONTROL", start=1)
        assert not starts
        await driver.write_register("CONTROL", abort=1)
        ctx.set(device.running, 0)
        await driver.write_register("CONTROL", start=1)
        await _refused(bus.write(REGISTER["CONTROL"].offset + 1, 1))

    monitors = [
        lambda device: collector(device.bank.control.start, device.running, into=starts),
        lambda device: collector(device.bank.control.abort, device.running, into=aborts),
    ]
    on_host_side(job, monitors=monitors)
    assert (starts, aborts) == ([0], [1])


# ---- checksum of the tables -----------------------------------------------------------------------
@pytest.mark.parametrize("streams", [False, True], ids=["bus", "stream"])
def test_the_checksum_of_tables_is_that_of_what_reached_them(streams):
    rng = random.Random(5)
    names = ("PROGRAM", "WIDTHS", "BIAS", "MULTIPLIERS", "PADS", "REFERENCE", "LOOKUPS")
    sections = [Section(REGION[name].address(1), np.array([rng.randrange(4) for _ in range(3)])) for name in names]

    async def job(bus, driver, ctx, device):
        driver.streams = streams
        await driver.write_sections(sections[:2])
        await driver.write_register("CONTROL", restart_checksum=1)
        assert await driver.read_register("TABLE_CHECKSUM") == {"crc": 0}
        await driver.write_sections(sections)
        found = (await driver.read_register("TABLE_CHECKSUM"))["crc"]
        pairs = [(a, int(word)) for s in sections for a, word in zip(s.addresses(), s.words, strict=True)]
        assert found == zlib.crc32(b"".join(a.to_bytes(4, "little") + w.to_bytes(4, "little") for a, w in pairs))
        assert found == tables_checksum(sections)
        # Neither what is refused nor activations and registers count.
        await _refused(bus.write(REGION["PADS"].address(0), 1 << TINY.input_bits))
        await _refused(bus.write(REGION["BIAS"].address(0) + 2, 1))
        await bus.write(REGION["ACTIVATIONS"].address(0), 1)
        await bus.write(REGISTER["LAYER_COUNT"].offset, 1)
        assert (await driver.read_register("TABLE_CHECKSUM"))["crc"] == found

    on_host_side(job, FUNCTIONS)


# ---- interrupt ------------------------------------------------------------------------------------
def test_an_end_raises_the_interrupt_if_it_is_enabled_until_the_host_clears_it():
    async def job(bus, driver, ctx, device):
        async def end(**ends):
            put(ctx, device.ends, {"done": 0, "error": 0} | ends)
            await ctx.tick()
            put(ctx, device.ends, {"done": 0, "error": 0})

        for name, other in (("done", "error"), ("error", "done")):
            await end(**{name: 1})
            assert not ctx.get(device.interrupt), "nothing is enabled"
            assert await driver.read_register("IRQ_STATUS") == {name: 1, other: 0}
            await driver.write_register("IRQ_ENABLE", **{other: 1})
            assert not ctx.get(device.interrupt)
            await driver.write_register("IRQ_ENABLE", **{name: 1})
            assert ctx.get(device.interrupt)
            assert await driver.read_register("IRQ_ENABLE") == {name: 1, other: 0}
            await driver.write_register("IRQ_STATUS", **{other: 1})
            await _refused(bus.write(REGISTER["IRQ_STATUS"].offset, 4))
            assert ctx.get(device.interrupt)
            await driver.write_register("IRQ_STATUS", **{name: 1})
            assert not ctx.get(device.interrupt)
            assert await driver.read_register("IRQ_STATUS") == {name: 0, other: 0}
            await driver.write_register("IRQ_ENABLE")

    on_host_side(job)


def test_an_end_in_the_clock_of_the_clearing_is_kept():
    async def job(bus, driver, ctx, device):
        put(ctx, device.ends, {"done": 1, "error": 0})
        await driver.write_register("IRQ_ENABLE", done=1)
        await driver.write_register("IRQ_STATUS", done=1)
        put(ctx, device.ends, {"done": 0, "error": 0})
        assert ctx.get(device.interrupt)

    on_host_side(job)


# ---- cells --------------------------------------------------------------------------------------
def _words(hardware, pairs, seed=0):
    rng = np.random.default_rng(seed)
    top = 1 << (hardware.ou_cells - 32 * (hardware.cell_words - 1))
    words = rng.integers(0, 1 << 32, (pairs * hardware.ous_per_crossbar, hardware.cell_words), dtype=np.uint64)
    words[:, -1] %= top
    return words.astype(np.uint32)


@pytest.mark.parametrize("hardware", [TINY, TWO_WORDS], ids=["one word", "two words"])
def test_checksum_read_back_is_that_of_the_words_written(hardware):
    words = _words(hardware, hardware.crossbar_pairs)

    async def job(bus, driver, ctx, device):
        await driver.program_cells(words)
        for pairs in (1, 2):
            part = words[: pairs * hardware.ous_per_crossbar]
            assert await driver.cell_checksum(pairs) == zlib.crc32(part.astype("<u4").tobytes())
        assert await driver.cell_checksum(0) == 0

    on_host_side(job, hardware)


def test_one_wrong_cell_changes_the_checksum():
    words = _words(TINY, 2)

    async def job(bus, driver, ctx, device):
        await driver.program_cells(words)
        good = await driver.cell_checksum(2)
        await driver.write_register("CELL_PAIR", pair=1)
        await bus.write(REGISTER["CELL_DATA"].offset, int(words[TINY.ous_per_crossbar, 0]) ^ 0x10)
        assert await driver.cell_checksum(2) != good
        await driver.write_register("CELL_PAIR", pair=1)
        await bus.write(REGISTER["CELL_DATA"].offset, int(words[TINY.ous_per_crossbar, 0]))
        assert await driver.cell_checksum(2) == good

    on_host_side(job)


def test_cell_addresses_beyond_the_last_pair_are_refused():
    async def job(bus, driver, ctx, device):
        last = TINY.crossbar_pairs - 1
        await _refused(driver.write_register("CELL_PAIR", pair=last + 1))
        await _refused(driver.write_register("CELL_PAIRS", pairs=last + 2))
        await driver.write_register("CELL_PAIRS", pairs=last + 1)
        await driver.write_register("CELL_PAIR", pair=last)
        for _ in range(TINY.ous_per_crossbar):
            await bus.write(REGISTER["CELL_DATA"].offset, 0)
        await _refused(bus.write(REGISTER["CELL_DATA"].offset, 0))

    on_host_side(job)


def test_during_the_cell_check_cells_and_start_are_refused():
    async def job(bus, driver, ctx, device):
        await driver.write_register("CELL_PAIRS", pairs=TINY.crossbar_pairs)
        await _refused(driver.write_register("CONTROL", check_cells=1, start=1))
        await driver.write_register("CONTROL", check_cells=1)
        assert (await driver.read_register("STATUS"))["cells_busy"] == 1
        await _refused(driver.write_register("CONTROL", start=1))
        await _refused(driver.write_register("CONTROL", check_cells=1))
        for name in ("CELL_PAIR", "CELL_DATA", "CELL_PAIRS"):
            await _refused(bus.write(REGISTER[name].offset, 0))
        assert (await driver.read_register("STATUS"))["cells_busy"] == 1
        assert (await driver.read_register("STATUS"))["busy"] == 0

    on_host_side(job)


def test_program_memory_has_room_for_every_descriptor():
    assert region_entries(TINY)["PROGRAM"] == TINY.max_layers * DESCRIPTOR_STRIDE


# ---- an array that takes its time -----------------------------------------------------------------
@pytest.mark.parametrize("hardware", [TINY, TWO_WORDS], ids=["one word", "two words"])
@pytest.mark.parametrize("delay", [1, 5, 70])
@pytest.mark.parametrize("streams", [False, True], ids=["bus", "stream"])
def test_a_slow_array_gets_every_ou_once_and_in_its_place(hardware, delay, streams):
    words = _words(hardware, 2)
    programmed = []

    async def job(bus, driver, ctx, device):
        driver.streams = streams
        await driver.program_cells(words)

    on_host_side(job, hardware, delay=delay, programmed=programmed)
    grid = [(p, r, c) for p in range(2) for r in range(hardware.grid_rows) for c in range(hardware.grid_cols)]
    units = [sum(int(word) << 32 * i for i, word in enumerate(unit)) for unit in words]
    assert programmed == list(zip(grid, units, strict=True))


def test_while_an_ou_waits_the_bus_answers_and_refuses_what_would_lose_it():
    programmed = []

    async def job(bus, driver, ctx, device):
        await driver.write_register("CELL_PAIR", pair=1)
        await bus.write(REGISTER["CELL_DATA"].offset, 0x1234)
        assert (await driver.read_register("STATUS"))["cells_busy"] == 1
        await _refused(driver.write_register("CELL_PAIR", pair=3))
        await _refused(bus.write(REGISTER["CELL_DATA"].offset, 0x4321))
        await _refused(driver.write_register("CELL_PAIRS", pairs=1))
        await _refused(driver.write_register("CONTROL", start=1))
        await _refused(driver.write_register("CONTROL", check_cells=1))
        await driver.write_register("CONTROL", abort=1)
        await bus.write(REGION["ACTIVATIONS"].address(1), 7)
        assert await bus.read(REGION["ACTIVATIONS"].address(1)) == 7
        assert (await driver.read_register("STATUS"))["cells_busy"] == 1
        assert not programmed
        await bus.poll(REGISTER["STATUS"].offset, REGISTER["STATUS"].pack(cells_busy=1), 0, 1000)
        await bus.write(REGISTER["CELL_DATA"].offset, 0x4321)
        await bus.poll(REGISTER["STATUS"].offset, REGISTER["STATUS"].pack(cells_busy=1), 0, 1000)
        await driver.write_register("CONTROL", start=1)

    on_host_side(job, delay=200, programmed=programmed)
    assert programmed == [((1, 0, 0), 0x1234), ((1, 0, 1), 0x4321)]


@pytest.mark.parametrize("streams", [False, True], ids=["bus", "stream"])
def test_an_array_that_takes_no_ou_is_given_up_and_programmed_again_without_a_reset(streams):
    programmed = []

    async def job(bus, driver, ctx, device):
        driver.streams = streams
        with pytest.raises(DeviceError, match="the array did not program or read back an operation unit in time"):
            await driver.program_cells(_words(TINY, 1))
        await _refused(bus.write(REGISTER["CELL_DATA"].offset, 1))
        status = await driver.read_register("STATUS")
        assert (status["cells_busy"], status["cells_error"]) == (0, 1)
        await driver.write_register("CONTROL", start=1)  # not refused: nothing hangs
        await bus.wait(1000)  # until the array is there
        await driver.write_register("CELL_PAIR", pair=1)
        assert not (await driver.read_register("STATUS"))["cells_error"]
        await bus.write(REGISTER["CELL_DATA"].offset, 0x1234)
        assert (await driver.read_register("STATUS"))["cells_busy"] == 0

    on_host_side(job, delay=800, programmed=programmed, patience=500)
    assert programmed == [((1, 0, 0), 0x1234)]


def test_cell_data_needs_a_pair_after_reset_and_after_a_check():
    programmed = []

    async def job(bus, driver, ctx, device):
        await _refused(bus.write(REGISTER["CELL_DATA"].offset, 1))
        await driver.write_register("CELL_PAIR", pair=0)
        await bus.write(REGISTER["CELL_DATA"].offset, 2)
        await driver.cell_checksum(1)
        await _refused(bus.write(REGISTER["CELL_DATA"].offset, 3))

    on_host_side(job, programmed=programmed)
    assert programmed == [((0, 0, 0), 2)]


def test_lines_of_the_test_are_told_with_every_write():
    told = []

    async def job(bus, driver, ctx, device):
        for lines in (1, 5):
            await driver.write_register("TEST_LINES", lines=lines)

    def monitor(device):
        return collector(device.bank.test_lines.enable, device.bank.test_lines.lines, into=told)

    on_host_side(job, monitors=[monitor])
    assert told == [1, 5]
