"""The host driver against a device made of a dictionary: every refusal and every device error has its sentence."""

import zlib
from dataclasses import replace

import numpy as np
import pytest

from golden_model.image.program import plan
from golden_model.registers import IDENTITY, REGION, REGION_SHIFT, REGISTER, ErrorCode, reference_entry
from sim.host.bus import Bus, BusError, BusTimeout, Response, run_now
from sim.host.driver import ChecksumError, DeviceError, Driver, poke_words
from tests.golden_model.random_graphs import SMALL, SMALL_PAIRS, SMALL_TABLES, random_network

#: Regions whose words TABLE_CHECKSUM covers.
TABLES = {*range(REGION["PROGRAM"].index, REGION["ACTIVATIONS"].index), REGION["LOOKUPS"].index}


class FakeDevice(Bus):
    """Registers and memories in a dictionary; `status` is what STATUS reads once a run was started."""

    def __init__(self, *, status=None, identity=IDENTITY, hash_word=SMALL.hash_word, flip=0, changed=0):
        self.memory = {REGISTER["IDENTITY"].offset: identity, REGISTER["HARDWARE_HASH"].offset: hash_word}
        self.status = status or {"done": 1}
        self.flip, self.changed = flip, changed
        self.tables = []
        self.cells = []
        self.count = 0

    @property
    def clocks(self):
        return self.count

    async def wait(self, clocks):
        self.count += clocks

    async def write(self, address, word):
        self.count += 1
        assert 0 <= word < 1 << 32
        self.memory[address] = word
        if address >> REGION_SHIFT in TABLES:
            self.tables.append((address, word))
            crc = zlib.crc32(np.array(self.tables, dtype="<u4").tobytes()) ^ self.changed
            self.memory[REGISTER["TABLE_CHECKSUM"].offset] = crc
        if address == REGISTER["CELL_DATA"].offset:
            self.cells.append(word)
        if address == REGISTER["CONTROL"].offset:
            control = REGISTER["CONTROL"].unpack(word)
            if control["start"]:
                self.memory[REGISTER["STATUS"].offset] = REGISTER["STATUS"].pack(**self.status)
            if control["check_cells"]:
                crc = zlib.crc32(np.array(self.cells, dtype="<u4").tobytes()) ^ self.flip
                self.memory[REGISTER["CELL_CHECKSUM"].offset] = crc
                self.memory.setdefault(REGISTER["STATUS"].offset, 0)

    async def read(self, address):
        self.count += 1
        return self.memory.get(address, 0)


def test_a_device_that_is_something_else_is_refused():
    with pytest.raises(DeviceError, match="the device identifies as 0x12345678, not as 0x4F484D04"):
        run_now(Driver(FakeDevice(identity=0x12345678), SMALL).identify())


def test_a_device_of_another_hardware_configuration_is_refused():
    other = replace(SMALL, crossbar_pairs=9)
    message = f"made from hardware configuration 0x{other.hash_word:08X}, the network needs 0x{SMALL.hash_word:08X}"
    with pytest.raises(DeviceError, match=message):
        run_now(Driver(FakeDevice(hash_word=other.hash_word), SMALL).identify())


def test_loading_writes_every_table_to_its_region():
    tables = plan(random_network(3)).tables
    device = FakeDevice()
    run_now(Driver(device, SMALL).load(tables))
    bias = [device.memory[REGION["BIAS"].address(i)] for i in range(len(tables.bias))]
    assert np.array(bias, dtype=np.uint32).view(np.int32).tolist() == tables.bias.tolist()
    for name, expected in (
        ("WIDTHS", tables.widths),
        ("MULTIPLIERS", tables.multipliers),
        ("PADS", tables.pads),
    ):
        found = [device.memory[REGION[name].address(i)] for i in range(len(expected))]
        assert found == expected.tolist(), name
    for step, levels in enumerate(tables.levels):
        first = reference_entry(SMALL, step)
        found = [device.memory[REGION["REFERENCE"].address(first + count)] for count in range(len(levels))]
        assert found == levels.tolist()
    program = [device.memory.get(REGION["PROGRAM"].address(i), 0) for i in range(tables.program.size)]
    assert program == tables.program.ravel().tolist()
    assert device.cells == tables.cell_words.ravel().tolist()
    assert device.memory[REGISTER["CELL_PAIRS"].offset] == len(tables.cells)


def test_activation_functions_are_loaded_one_behind_the_other():
    networks = (random_network(seed, SMALL_TABLES) for seed in range(40))
    tables = next(x for x in (plan(network).tables for network in networks) if len(x.lookups) > 1)
    device = FakeDevice(hash_word=SMALL_TABLES.hash_word)
    run_now(Driver(device, SMALL_TABLES).load(tables))
    found = [device.memory[REGION["LOOKUPS"].address(i)] for i in range(tables.lookups.size)]
    assert found == tables.lookups.ravel().tolist()


def test_no_levels_are_loaded_into_a_pair_machine():
    device = FakeDevice(hash_word=SMALL_PAIRS.hash_word)
    run_now(Driver(device, SMALL_PAIRS).load(plan(random_network(3, SMALL_PAIRS)).tables))
    assert device.cells
    assert not any(address >> REGION_SHIFT == REGION["REFERENCE"].index for address in device.memory)


def test_cells_that_read_back_differently_are_reported():
    tables = plan(random_network(3)).tables
    with pytest.raises(ChecksumError, match=r"the cells read back have CRC-32 0x\w{8}, those programmed have 0x\w{8}"):
        run_now(Driver(FakeDevice(flip=1 << 17), SMALL).load(tables))


def test_tables_that_arrive_differently_are_reported():
    tables = plan(random_network(3)).tables
    with pytest.raises(DeviceError, match=r"the tables that arrived have CRC-32 0x\w{8}, those sent have 0x\w{8}"):
        run_now(Driver(FakeDevice(changed=1 << 3), SMALL).load(tables))


class BusyArray(FakeDevice):
    """Refuses every word of cells at an index of `refused` once, those of `never` always."""

    def __init__(self, refused=(), never=()):
        super().__init__()
        self.refused, self.never = set(refused), set(never)

    async def write(self, address, word):
        index = len(self.cells)
        if address == REGISTER["CELL_DATA"].offset and index in self.refused | self.never:
            self.refused.discard(index)
            raise BusError("write", address, Response.SLVERR)
        await super().write(address, word)


def _cells(pairs=2):
    rng = np.random.default_rng(5)
    return rng.integers(0, 1 << 32, (pairs * SMALL.ous_per_crossbar, SMALL.cell_words), dtype=np.uint32)


def test_cells_that_a_busy_array_refuses_are_written_again():
    words = _cells()
    device = BusyArray(refused={1, 2, 7, words.size - 1})
    run_now(Driver(device, SMALL).program_cells(words))
    assert device.cells == words.ravel().tolist()


@pytest.mark.parametrize("index", [0, 3])
def test_cells_that_are_refused_again_end_the_programming(index):
    with pytest.raises(BusError, match="SLVERR"):
        run_now(Driver(BusyArray(never={index}), SMALL).program_cells(_cells()))


@pytest.mark.parametrize("code", [code for code in ErrorCode if code])
def test_every_device_error_is_named_with_its_step(code):
    driver = Driver(FakeDevice(status={"error": int(code), "layer": 2}), SMALL)
    with pytest.raises(DeviceError, match=f"the device stopped in step 2 with error {code.name}"):
        run_now(driver.start(1, expected_cycles=10))


def test_overflow_is_reported():
    driver = Driver(FakeDevice(status={"done": 1, "overflow": 1}), SMALL)
    with pytest.raises(DeviceError, match="a partial sum did not fit 32 bits"):
        run_now(driver.start(1, expected_cycles=10))


class Telling(FakeDevice):
    """Has an interrupt output, which rises after `delay` clocks if IRQ_ENABLE asks for it."""

    interrupts = True

    def __init__(self, delay):
        super().__init__()
        self.delay = delay

    async def interrupt(self, limit):
        enabled = self.memory[REGISTER["IRQ_ENABLE"].offset] & self.memory[REGISTER["IRQ_STATUS"].offset] == 3
        passed = min(limit, self.delay)
        self.count, self.delay = self.count + passed, self.delay - passed
        if self.delay or not enabled:
            raise BusTimeout("none")


def test_a_run_is_waited_for_by_its_interrupt_where_there_is_one():
    told, device = [], Telling(5_000_000)
    run_now(Driver(device, SMALL).start(1, expected_cycles=5_000_000, progress=told.append))
    assert 5_000_000 <= device.count < 5_000_100
    assert len(told) == 2
    with pytest.raises(BusTimeout, match="did not end within 10020 clocks"):
        run_now(Driver(Telling(20_000), SMALL).start(1, expected_cycles=10))


def test_a_run_that_hangs_meets_the_watchdog():
    driver = Driver(FakeDevice(status={"busy": 1, "layer": 1}), SMALL)
    with pytest.raises(BusTimeout, match=r"did not end within 10020 clocks .10 expected.; it hangs in step 1"):
        run_now(driver.start(1, expected_cycles=10))


def test_counters_and_logits_keep_their_upper_bits_and_sign():
    device = FakeDevice()
    driver = Driver(device, SMALL)
    device.memory[REGION["LOGITS"].address(1)] = 0xFFFFFFFE
    assert run_now(driver.logits(2)).tolist() == [0, -2]
    device.memory[REGION["EVENTS"].address(2 * (16 + 6))] = 5
    device.memory[REGION["EVENTS"].address(2 * (16 + 6) + 1)] = 0x8001
    assert run_now(driver.events(2)).ad_operations.tolist() == [0, 0x8001_0000_0005]
    device.memory[REGISTER["CYCLES_HIGH"].offset] = 2
    assert run_now(driver.cycles()) == 2 << 32


@pytest.mark.parametrize("base", [0, 5, 8])
def test_the_input_lies_at_its_base(base):
    device = FakeDevice()
    run_now(Driver(device, SMALL).write_input(np.arange(1, 7, dtype=np.uint8).reshape(1, 2, 3), base))
    words = [device.memory.get(REGION["ACTIVATIONS"].address(i), 0) for i in range(5)]
    assert np.array(words, dtype="<u4").view(np.uint8)[base:].tolist() == [1, 2, 3, 4, 5, 6] + [0] * (14 - base)


@pytest.mark.parametrize("target", [4, 6])
def test_activations_come_from_where_the_step_writes(target):
    device = FakeDevice()
    step = replace(plan(random_network(3)).steps[0], shape=(1, 2, 3))
    step.fields.update(last=0, target=target)
    for i in range(4):
        device.memory[REGION["ACTIVATIONS"].address(i)] = 0x03020100 + 0x04040404 * i
    assert run_now(Driver(device, SMALL).activations(step)).ravel().tolist() == list(range(target, target + 6))


def test_the_last_step_wrote_logits():
    device = FakeDevice()
    step = replace(plan(random_network(3)).steps[-1], shape=(2, 1, 1))
    step.fields.update(last=1)
    device.memory[REGION["LOGITS"].address(0)] = 0xFFFFFFFD
    assert run_now(Driver(device, SMALL).activations(step)).tolist() == [-3, 0]


def test_an_input_that_does_not_fit_is_refused():
    size = SMALL.activation_bytes
    with pytest.raises(ValueError, match=f"an input of {size} bytes at byte 1 does not fit {size} bytes"):
        run_now(Driver(FakeDevice(), SMALL).write_input(np.zeros(size), 1))


class Running(FakeDevice):
    """Busy for `cycles` clocks after its start."""

    def __init__(self, cycles):
        super().__init__()
        self.cycles = cycles

    async def read(self, address):
        if address == REGISTER["STATUS"].offset:
            busy = self.count < self.cycles
            return REGISTER["STATUS"].pack(busy=busy, done=not busy)
        return await super().read(address)


def test_a_long_run_tells_how_far_it_is():
    told = []
    run_now(Driver(Running(7_000_000), SMALL).start(1, expected_cycles=7_000_000, progress=told.append))
    assert len(told) == 3
    assert all(2_000_000 * (i + 1) <= clocks < 2_100_000 * (i + 1) for i, clocks in enumerate(told))


@pytest.mark.parametrize(
    ("poke", "message"), [((2, 0), "multiple of 4"), ((1 << 28, 0), "multiple of 4"), ((0, -1), "a bus word must be")]
)
def test_illegal_pokes_are_refused(poke, message):
    with pytest.raises(ValueError, match=message):
        poke_words([poke])


@pytest.mark.parametrize("base", range(8, 13))
@pytest.mark.parametrize("size", range(1, 10))
def test_bytes_are_written_and_read_at_any_place_and_those_beside_them_stay(base, size):
    device = FakeDevice()
    for word in range(8):
        device.memory[REGION["ACTIVATIONS"].address(word)] = 0xFFFFFFFF
    values = np.arange(1, size + 1, dtype=np.uint8)
    run_now(Driver(device, SMALL, streams=False).write_bytes(base, values))
    held = run_now(Driver(device, SMALL).read_bytes(0, 32))
    assert held.tolist() == [*[255] * base, *values.tolist(), *[255] * (32 - base - size)]
    assert run_now(Driver(device, SMALL).read_bytes(base, size)).tolist() == values.tolist()
