"""Host driver of the tile: loads an image, runs it, reads results, over any AXI4-Lite bus.

Every address, register and field comes from `golden_model.registers`; nothing here repeats one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.events import Events
from golden_model.image.lowering import Step
from golden_model.image.program import Program, Tables
from golden_model.registers import (
    ADDRESS_BITS,
    ARRAY_LIMIT,
    COUNTER_BITS,
    COUNTER_NAMES,
    COUNTERS_PER_LAYER,
    IDENTITY,
    REGION,
    REGISTER,
    ErrorCode,
    counters_of,
)
from sim.host.bus import Bus, BusError, BusTimeout
from sim.host.sections import Section, cells_checksum, cells_of, picture_of, stream_of, tables_checksum, tables_of

#: What a run may take beyond the expected clocks before the watchdog ends it.
_MARGIN = 2.0
_SLACK = 10_000
#: Clocks between two calls of a run's progress.
_PART = 2_000_000

#: Called with the clocks that a run has taken so far.
Progress = Callable[[int], None]


class DeviceError(RuntimeError):
    """The device is not the expected one, or reports an error; the message is one sentence."""


class ChecksumError(DeviceError):
    """The cells read back are not those that were programmed (`expected`, `found`).

    failures : operation units of which the array said that a cell did not take its value; `first` is the first of them.
    """

    def __init__(self, expected: int, found: int, failures: int = 0, first: dict[str, int] | None = None):
        self.expected, self.found, self.failures, self.first = expected, found, failures, first
        told = "the array reported no cell that did not take its value"
        if failures and first:
            place = f"OU row {first['ou_row']}, OU column {first['ou_col']} of crossbar pair {first['pair']}"
            told = f"cells of {failures} operation units did not take their values, the first in {place}"
        super().__init__(
            f"the cells read back have CRC-32 0x{found:08X}, those programmed have 0x{expected:08X}: "
            f"the crossbars do not hold what was written; {told}"
        )


@dataclass(frozen=True)
class Run:
    """Results of one input: logits (N,) or None if not all steps were run; events of the steps run; cycles."""

    logits: np.ndarray | None
    events: Events
    cycles: int


class Driver:
    """Drives one tile.

    Parameters
    ----------
    bus : where the tile answers. hardware : the configuration it must have been made from. streams : load by the
        load stream; False: word by word over the bus; None: by the stream if the device has one.
    """

    def __init__(self, bus: Bus, hardware: HardwareConfig, *, streams: bool | None = None):
        self.bus = bus
        self.hardware = hardware
        self.streams = bus.streams if streams is None else streams

    # ---- registers ------------------------------------------------------------------------
    async def read_register(self, name: str) -> dict[str, int]:
        """Fields of a register."""
        register = REGISTER[name]
        return register.unpack(await self.bus.read(register.offset))

    async def write_register(self, name: str, **fields: int) -> None:
        """Write a register; fields not given are 0."""
        register = REGISTER[name]
        await self.bus.write(register.offset, register.pack(**fields))

    async def identify(self) -> None:
        """Raise DeviceError unless this is our device, made from `hardware`."""
        identity = await self.bus.read(REGISTER["IDENTITY"].offset)
        if identity != IDENTITY:
            raise DeviceError(f"the device identifies as 0x{identity:08X}, not as 0x{IDENTITY:08X}")
        found = (await self.read_register("HARDWARE_HASH"))["hash"]
        if found != self.hardware.hash_word:
            raise DeviceError(
                f"the device was made from hardware configuration 0x{found:08X}, "
                f"the network needs 0x{self.hardware.hash_word:08X}"
            )

    # ---- loading --------------------------------------------------------------------------
    async def load(self, tables: Tables) -> None:
        """Write all tables and cells of a program. What arrived in the tables, and the cells read back, are compared by
        checksum (DeviceError; ChecksumError of cells)."""
        sections = list(tables_of(tables, self.hardware))
        await self.write_register("CONTROL", restart_checksum=1)
        await self.write_sections(sections)
        expected, found = tables_checksum(sections), (await self.read_register("TABLE_CHECKSUM"))["crc"]
        if found != expected:
            raise DeviceError(
                f"the tables that arrived have CRC-32 0x{found:08X}, those sent have 0x{expected:08X}: "
                "the way to the device changes words"
            )
        await self.program_cells(tables.cell_words)

    async def write_sections(self, sections: Iterable[Section]) -> None:
        """Write sections without cells; as a packet where there is a load stream (DeviceError if it was refused)."""
        if self.streams:
            return await self.stream(sections)
        for section in sections:
            await self.bus.write_many(section.addresses(), section.words.tolist())

    async def stream(self, sections: Iterable[Section]) -> None:
        """Send sections as a packet of the load stream; DeviceError if a word of it was refused."""
        await self.write_register("LOAD_STATUS", error=1)
        await self.bus.stream(stream_of(sections))
        if (await self.read_register("LOAD_STATUS"))["error"]:
            await self._wait_for_cells()  # says if it was the array
            raise DeviceError("the device refused a word of the load stream and dropped the rest of its packet")

    async def write_region(self, name: str, words: Sequence[int] | np.ndarray, *, first: int = 0) -> None:
        """Write entries `first`, `first` + 1, ... of a memory."""
        region = REGION[name]
        addresses = [region.address(first + i) for i in range(len(words))]
        await self.bus.write_many(addresses, [int(word) for word in words])

    async def program_cells(self, cell_words: np.ndarray) -> None:
        """Program the crossbar pairs from 0 and compare the checksum read back (ChecksumError).

        cell_words : uint32 (OUs, cell_words) in programming order, whole crossbar pairs.
        """
        words = np.ascontiguousarray(cell_words, dtype="<u4").ravel()
        per_pair = self.hardware.ous_per_crossbar * self.hardware.cell_words
        pairs, rest = divmod(len(words), per_pair)
        if rest:
            raise ValueError(f"the cells of a crossbar pair are {per_pair} words, got {len(words)} words")
        if not pairs:
            return
        if self.streams:
            await self.stream(cells_of(words))
            await self._wait_for_cells()
        else:
            await self.write_register("CELL_PAIR", pair=0)
            await self._write_cells(words.tolist())
        wanted = cells_checksum(words, self.hardware)
        found = await self.cell_checksum(pairs)
        if found != wanted:
            failures = (await self.read_register("CELL_FAILURES"))["units"]
            raise ChecksumError(wanted, found, failures, await self.read_register("CELL_FAILED"))

    async def _write_cells(self, words: list[int]) -> None:
        """Write words of cells; those refused because the array still programs the OU before are repeated."""
        first = 0
        while first < len(words):
            try:
                await self.bus.write_many([REGISTER["CELL_DATA"].offset] * (len(words) - first), words[first:])
                first = len(words)
            except BusError as error:
                if not error.done:
                    raise  # refused by an array that was ready
                first += error.done
            await self._wait_for_cells()

    async def _wait_for_cells(self, clocks: int = 0) -> None:
        """Wait until no cells are programmed or checked; DeviceError if the array was given up.

        clocks : what it takes with an array that never lets the device wait.
        """
        status = REGISTER["STATUS"]
        limit = ARRAY_LIMIT + clocks + _SLACK
        word = await self.bus.poll(status.offset, status.pack(cells_busy=1), 0, limit)
        if status.unpack(word)["cells_error"]:
            raise DeviceError("the array did not program or read back an operation unit in time: it was given up")

    async def cell_checksum(self, pairs: int) -> int:
        """CRC-32 of the cells of crossbar pairs 0..pairs - 1 as the hardware reads them."""
        await self.write_register("CELL_PAIRS", pairs=pairs)
        await self.write_register("CONTROL", check_cells=1)
        words = pairs * self.hardware.ous_per_crossbar * self.hardware.cell_words
        await self._wait_for_cells(64 * words)
        return (await self.read_register("CELL_CHECKSUM"))["crc"]

    # ---- running --------------------------------------------------------------------------
    async def write_input(self, image: np.ndarray, base: int) -> None:
        """Write the input activations (C, H, W), unsigned, from byte `base` of the activation memory on."""
        await self.write_sections([picture_of(image, base, self.hardware)])

    async def write_bytes(self, base: int, values: np.ndarray) -> None:
        """Write bytes `values` from byte `base` of the activation memory on; those beside them stay."""
        first, before = divmod(base, 4)
        whole = np.zeros(-(-(before + len(values)) // 4) * 4, dtype=np.uint8)
        for at in {0, len(whole) - 4} if before or len(values) % 4 else ():
            whole[at : at + 4] = await self.read_bytes(4 * first + at, 4)
        whole[before : before + len(values)] = values
        words = whole.view("<u4").astype(np.uint32)
        await self.write_sections([Section(REGION["ACTIVATIONS"].address(first), words)])

    async def start(
        self, steps: int, *, first: int = 0, expected_cycles: int, progress: Progress | None = None
    ) -> None:
        """Run steps `first`..`steps` - 1 of the program and wait for the end, for its interrupt if the device has one.

        expected_cycles : what the golden model predicts, in clocks; the watchdog barks well after it.
        progress : called now and then with the clocks that have passed.
        Raises DeviceError with the device's error code, BusTimeout when the run does not end.
        """
        await self.write_register("FIRST_LAYER", layer=first)
        await self.write_register("LAYER_COUNT", layers=steps)
        if self.bus.interrupts:
            await self.write_register("IRQ_STATUS", done=1, error=1)
            await self.write_register("IRQ_ENABLE", done=1, error=1)
        await self.write_register("CONTROL", start=1)
        status = REGISTER["STATUS"]
        limit = int(_MARGIN * expected_cycles) + _SLACK
        interval = max(16, min(expected_cycles // 200, 4096))
        try:
            word = await self._ended(limit, interval, progress)
        except BusTimeout:
            found = await self.read_register("STATUS")
            raise BusTimeout(
                f"the network did not end within {limit} clocks ({expected_cycles} expected); "
                f"it hangs in step {found['layer']}"
            ) from None
        found = status.unpack(word)
        if found["error"]:
            code = found["error"]
            name = ErrorCode(code).name if code in iter(ErrorCode) else str(code)
            raise DeviceError(f"the device stopped in step {found['layer']} with error {name}")
        if not found["done"]:
            raise DeviceError("the device is idle but does not report done")
        if found["overflow"]:
            raise DeviceError(
                f"a partial sum did not fit {self.hardware.accumulator_bits} bits (STATUS.overflow is set)"
            )

    async def _ended(self, limit: int, interval: int, progress: Progress | None) -> int:
        """STATUS once the run has ended; BusTimeout after `limit` clocks."""
        status, began = REGISTER["STATUS"], self.bus.clocks
        part = limit if progress is None else _PART
        while True:
            left = limit - (self.bus.clocks - began)
            clocks = min(part, max(left, 0))
            try:
                if self.bus.interrupts:
                    await self.bus.interrupt(clocks)
                    return await self.bus.read(status.offset)
                return await self.bus.poll(status.offset, status.pack(busy=1), 0, clocks, interval)
            except BusTimeout:
                if left <= part or progress is None:
                    raise
                progress(self.bus.clocks - began)

    async def run(
        self,
        program: Program,
        image: np.ndarray,
        *,
        steps: int | None = None,
        expected_cycles: int,
        progress: Progress | None = None,
    ) -> Run:
        """Run one input through the first `steps` steps of the loaded program, all by default, and do the host's own
        work between them. cycles of the result : of all runs that this takes."""
        count, cycles = len(program.steps) if steps is None else steps, 0
        await self.write_input(image, program.image_base)
        for part in program.parts(count):
            for step in part.host_steps:
                given = await self.read_bytes(step.read_base, step.read_bytes)
                await self.write_bytes(step.write_base, step.compute(given[None])[0])

            def passed(clocks: int, before: int = cycles) -> None:
                if progress:
                    progress(before + clocks)

            await self.start(part.end, first=part.first, expected_cycles=expected_cycles, progress=progress and passed)
            cycles += await self.cycles()
        logits = await self.logits(program.logits) if count == len(program.steps) else None
        return Run(logits, await self.events(count), cycles)

    # ---- results --------------------------------------------------------------------------
    async def logits(self, outputs: int) -> np.ndarray:
        """(outputs,) int64, the signed results of the last step."""
        words = await self.bus.read_many([REGION["LOGITS"].address(i) for i in range(outputs)])
        return np.array(words, dtype=np.uint32).view(np.int32).astype(np.int64)

    async def events(self, steps: int) -> Events:
        """Event counters of steps 0..steps - 1; leading shape (steps,)."""
        held = len(counters_of(self.hardware))
        entries = [
            2 * (step * COUNTERS_PER_LAYER + counter) + half
            for step in range(steps)
            for counter in range(held)
            for half in range(2)
        ]
        words = await self.bus.read_many([REGION["EVENTS"].address(entry) for entry in entries])
        halves = np.array(words, dtype=np.int64).reshape(steps, held, 2)
        counts = np.zeros((steps, len(COUNTER_NAMES)), dtype=np.int64)
        counts[:, :held] = halves[..., 0] | (halves[..., 1] & ((1 << (COUNTER_BITS - 32)) - 1)) << 32
        return Events(counts)

    async def cycles(self) -> int:
        """Clocks from start to done of the last run."""
        low = (await self.read_register("CYCLES_LOW"))["cycles"]
        return low | (await self.read_register("CYCLES_HIGH"))["cycles"] << 32

    async def activations(self, step: Step) -> np.ndarray:
        """What a step wrote (uint8, `step.shape`), or its logits (int64, one dimension) if it is the last.

        Run up to this step and no further: a later step may overwrite it.
        """
        size = int(np.prod(step.shape))
        if step.fields["last"]:
            return await self.logits(size)
        return (await self.read_bytes(step.fields["target"], size)).reshape(step.shape)

    async def read_bytes(self, base: int, size: int) -> np.ndarray:
        """Bytes base..base + size - 1 of the activation memory, uint8 (size,)."""
        first, before = divmod(base, 4)
        words = await self.bus.read_many(
            [REGION["ACTIVATIONS"].address(first + i) for i in range(-(-(before + size) // 4))]
        )
        return np.array(words, dtype="<u4").view(np.uint8)[before : before + size].copy()

    async def abort(self) -> None:
        """Stop the running network."""
        await self.write_register("CONTROL", abort=1)


def poke_words(pokes: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """(address, word) pairs as two lists, range-checked."""
    last = (1 << ADDRESS_BITS) - 4
    for address, word in pokes:
        if not 0 <= address <= last or address % 4:
            raise ValueError(f"a bus address must be a multiple of 4 in 0..0x{last:X}, got 0x{address:X}")
        if not 0 <= word < 1 << 32:
            raise ValueError(f"a bus word must be in 0..0xFFFFFFFF, got {word}")
    return [a for a, _ in pokes], [w for _, w in pokes]
