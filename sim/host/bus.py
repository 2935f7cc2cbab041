"""An AXI4-Lite bus as the host driver sees it, independent of what simulates the device.

Every method is a coroutine, because two of the simulators (Amaranth's and cocotb) suspend the caller
while the clock runs. A bus that never suspends (the compiled simulation) is driven by `run_now`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np

from sim.host.records import Recorder

Result = TypeVar("Result")


class Response(IntEnum):
    """AXI4-Lite response codes."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


class BusError(RuntimeError):
    """The device answered an access with an error response (`address`, `response`); `done` of many came before it."""

    def __init__(self, kind: str, address: int, response: int, done: int = 0):
        self.address, self.response, self.done = address, response, done
        name = Response(response).name if response in iter(Response) else str(response)
        super().__init__(f"the device answered a {kind} at address 0x{address:07X} with {name}")


class BusTimeout(RuntimeError):
    """The device did not answer, or a polled value did not come, within the limit of clocks."""


class Bus(ABC):
    """Word accesses at byte addresses; words are 32 bits, unsigned.

    recorder : of the device's trace port, or None if it has none.
    pauses : share of clocks in which the host holds each channel back, to test the device.

    Raises `BusError` on an error response and `BusTimeout` when the device does not answer.
    """

    pauses: float = 0.0

    def __init__(self, recorder: Recorder | None = None):
        self.recorder = recorder

    @abstractmethod
    async def write(self, address: int, word: int) -> None:
        """Write one word."""

    @abstractmethod
    async def read(self, address: int) -> int:
        """Read one word."""

    @property
    def traces(self) -> bool:
        """Whether the device has a trace port."""
        return self.recorder is not None

    @property
    def interrupts(self) -> bool:
        """Whether the device has an interrupt output."""
        return False

    async def interrupt(self, limit: int) -> None:
        """Wait until the interrupt output is 1; `BusTimeout` after `limit` clocks, ValueError if there is none."""
        raise ValueError("this device has no interrupt output")

    @property
    def streams(self) -> bool:
        """Whether the device has a load stream."""
        return False

    async def stream(self, words: Sequence[int] | np.ndarray) -> None:
        """Send words as a packet of the load stream; `BusTimeout` if one is not taken, ValueError if there is none."""
        raise ValueError("this device has no load stream")

    @property
    @abstractmethod
    def clocks(self) -> int:
        """Clocks simulated so far."""

    @abstractmethod
    async def wait(self, clocks: int) -> None:
        """Let `clocks` clocks pass."""

    async def write_many(self, addresses: Sequence[int], words: Sequence[int]) -> None:
        """Write words in order; the first error ends it, `BusError.done` counts the words before it."""
        for done, (address, word) in enumerate(zip(addresses, words, strict=True)):
            try:
                await self.write(int(address), int(word))
            except BusError as error:
                error.done = done
                raise

    async def read_many(self, addresses: Sequence[int]) -> list[int]:
        """Read words in order."""
        return [await self.read(int(address)) for address in addresses]

    def trace(self, enable: bool, *, step: int | None = None) -> None:
        """Start (with an empty list), or stop recording the device's trace port; step : records of this one only.

        ValueError if it has none.
        """
        if self.recorder is None:
            raise ValueError("this device has no trace port")
        self.recorder.enabled = enable
        if enable:
            self.recorder.clear(step)

    def records(self) -> dict[str, np.ndarray]:
        """What was recorded since `trace(True)`, by field (see `sim.host.records`); ValueError without a trace port."""
        if self.recorder is None:
            raise ValueError("this device has no trace port")
        return self.recorder.records()

    async def poll(self, address: int, mask: int, value: int, limit: int, interval: int = 64) -> int:
        """Read every `interval` clocks until (word & mask) == value; the word. `BusTimeout` after `limit` clocks."""
        end = self.clocks + limit
        while True:
            word = await self.read(address)
            if word & mask == value:
                return word
            if self.clocks >= end:
                raise BusTimeout(
                    f"address 0x{address:07X} still reads 0x{word:08X} after {limit} clocks "
                    f"(waiting for 0x{value:X} under mask 0x{mask:X})"
                )
            await self.wait(interval)


def run_now(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("the coroutine waits for a simulator that needs an event loop")
