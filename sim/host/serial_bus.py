"""The tile's bus at the other end of a serial line: a board, or a simulation of one.

Frames, and what their words mean, are those of `rtl.fpga.serial_layouts`.
"""

from __future__ import annotations

import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rtl.fpga import serial_layouts as serial
from sim.host.bus import Bus, BusError, BusTimeout, Response

#: How often a request is sent before the device counts as silent.
TRIES = 4


def encode(words: Sequence[int]) -> bytes:
    """A frame of words."""
    content = np.asarray(words, dtype="<u4").tobytes()
    content += zlib.crc32(content).to_bytes(4, "little")
    for byte, stands_for in ((serial.ESCAPE, serial.ESCAPED_ESCAPE), (serial.END, serial.ESCAPED_END)):
        content = content.replace(bytes([byte]), bytes([serial.ESCAPE, stands_for]))
    return bytes([serial.END, *content, serial.END])


def decode(content: bytes) -> list[int] | None:
    """Words of what stood between two END bytes; None if it is empty or damaged."""
    for stands_for, byte in ((serial.ESCAPED_END, serial.END), (serial.ESCAPED_ESCAPE, serial.ESCAPE)):
        content = content.replace(bytes([serial.ESCAPE, stands_for]), bytes([byte]))
    if len(content) < 8 or len(content) % 4 or zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "little"):
        return None
    return np.frombuffer(content[:-4], dtype="<u4").tolist()


class Line(ABC):
    """A serial line as the host sees it. clock_rate : clocks of the device a second, as far as known."""

    clock_rate: float

    @property
    @abstractmethod
    def seconds(self) -> float:
        """Time of the device since some moment."""

    @abstractmethod
    async def wait(self, seconds: float) -> None:
        """Let time pass."""

    @abstractmethod
    async def send(self, content: bytes) -> None:
        """Send bytes."""

    @abstractmethod
    async def receive(self, seconds: float) -> bytes:
        """What arrives, as soon as anything does; nothing if nothing has within `seconds`."""


class PortLine(Line):
    """A serial port of this computer; needs pyserial.

    port : such as /dev/ttyUSB0. Raises ValueError if it cannot be opened.
    """

    def __init__(self, port: str, clock_rate: float, baud: int = serial.BAUD):
        try:
            import serial as pyserial
        except ImportError:
            raise ValueError(
                "a serial port needs pyserial, which is not installed: pip install 'ohmloom[fpga]'"
            ) from None
        try:
            self._port = pyserial.serial_for_url(port, baudrate=baud)
        except (pyserial.SerialException, ValueError) as error:
            raise ValueError(f"{port}: cannot be opened as a serial port ({error})") from None
        self.clock_rate = clock_rate

    @property
    def seconds(self) -> float:
        return time.perf_counter()

    async def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    async def send(self, content: bytes) -> None:
        self._port.write(content)

    async def receive(self, seconds: float) -> bytes:
        self._port.timeout = seconds
        first = self._port.read(1)
        return first + self._port.read(self._port.in_waiting) if first else first

    def close(self) -> None:
        self._port.close()


class SerialBus(Bus):
    """The bus of a device behind a serial line; accesses at neighbouring addresses, or at the same one, share a frame.

    line : where it answers. patience : seconds that an answer may take, and that a poll may take beside its clocks.
    """

    def __init__(self, line: Line, patience: float = 0.5):
        super().__init__()
        self._line, self._patience = line, patience
        self._number = 0
        self._arrived = b""

    @property
    def clocks(self) -> int:
        """Clocks by the time that has passed."""
        return round(self._line.seconds * self._line.clock_rate)

    async def wait(self, clocks: int) -> None:
        await self._line.wait(clocks / self._line.clock_rate)

    async def write(self, address: int, word: int) -> None:
        await self.write_many([address], [word])

    async def read(self, address: int) -> int:
        return (await self.read_many([address]))[0]

    async def write_many(self, addresses: Sequence[int], words: Sequence[int]) -> None:
        for first, addressed, fixed in _bursts(addresses):
            await self._request("write", first, addressed, fixed, words[first : first + len(addressed)])

    async def read_many(self, addresses: Sequence[int]) -> list[int]:
        found: list[int] = []
        for first, addressed, fixed in _bursts(addresses):
            found += await self._request("read", first, addressed, fixed)
        return found

    async def poll(self, address: int, mask: int, value: int, limit: int, interval: int = 64) -> int:
        """As for every bus, with some patience: an answer is longer under way than many a limit."""
        return await super().poll(address, mask, value, limit + round(self._patience * self._line.clock_rate), interval)

    async def _request(
        self, kind: str, first: int, addresses: Sequence[int], fixed: bool, words: Sequence[int] = ()
    ) -> list[int]:
        """Words read by a request; a BusError counts `first` accesses before it."""
        self._number = (self._number + 1) % 256
        fields = {"number": self._number, "count": len(addresses), "write": kind == "write", "fixed": fixed}
        frame = encode([_packed(serial.request_header(), fields), int(addresses[0]), *map(int, words)])
        for _ in range(TRIES):
            await self._line.send(frame)
            answer = await self._answer()
            if answer is not None:
                break
        else:
            raise BusTimeout(f"the device did not answer a {kind} at address 0x{int(addresses[0]):07X}")
        header, found = answer
        if header.status == serial.Status.MALFORMED:
            raise BusError(kind, int(addresses[0]), int(header.status.value), first)
        if header.status != serial.Status.OKAY:
            done = header.count
            raise BusError(kind, int(addresses[done]), Response(int(header.status.value)), first + done)
        return found

    async def _answer(self) -> tuple[Any, list[int]] | None:
        """Header and words of the answer to the present request; None if there is none in time."""
        end = self._line.seconds + self._patience
        while (left := end - self._line.seconds) > 0:
            self._arrived += await self._line.receive(left)
            *frames, self._arrived = self._arrived.split(bytes([serial.END]))
            for words in map(decode, frames):
                if words is not None:
                    header = serial.answer_header().from_bits(words[0])
                    if header.number == self._number:
                        return header, words[1:]
        return None


def _packed(layout: Any, fields: dict[str, int]) -> int:
    return layout.const(fields).as_bits()


def _bursts(addresses: Sequence[int]) -> Iterator[tuple[int, Sequence[int], bool]]:
    """Pieces of a list of addresses that a request can have: where each begins, its addresses, whether all are one."""
    first = 0
    while first < len(addresses):
        end = first + 1
        step = addresses[end] - addresses[first] if end < len(addresses) else 4
        if step in (0, 4):
            while (
                end < len(addresses) and end - first < serial.MAX_WORDS and addresses[end] - addresses[end - 1] == step
            ):
                end += 1
        yield first, addresses[first:end], step == 0
        first = end
