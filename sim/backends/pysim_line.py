"""A serial line of a component in Amaranth's simulator."""

from __future__ import annotations

from typing import Any

from sim.bench import PERIOD
from sim.host.serial_bus import Line


class PysimLine(Line):
    """The pins `receive` and `transmit` of `device`, bit by bit, `divisor` clocks each.

    The time is that of the simulated clock. A test bench gives its context with `attach`; `listen` is another one, for
    the background.
    """

    clock_rate = 1 / PERIOD

    def __init__(self, device: Any, divisor: int):
        self._device, self._divisor = device, divisor
        self._arrived = bytearray()
        self._count = 0

    def attach(self, ctx: Any) -> None:
        """From now on the line belongs to the test bench with this context."""
        self._ctx = ctx

    @property
    def seconds(self) -> float:
        return self._count * PERIOD

    async def _pass(self, clocks: int) -> None:
        self._count += clocks
        await self._ctx.tick().repeat(clocks)

    async def wait(self, seconds: float) -> None:
        if clocks := round(seconds / PERIOD):
            await self._pass(clocks)

    async def send(self, content: bytes) -> None:
        for byte in content:
            for bit in (0, *(byte >> i & 1 for i in range(8)), 1):
                self._ctx.set(self._device.receive, bit)
                await self._pass(self._divisor)

    async def receive(self, seconds: float) -> bytes:
        end = self.seconds + seconds
        while not self._arrived and self.seconds < end:
            await self._pass(self._divisor)
        found = bytes(self._arrived)
        self._arrived.clear()
        return found

    async def listen(self, ctx: Any) -> None:
        """Hears what the device sends."""
        while True:
            await ctx.negedge(self._device.transmit)
            await ctx.tick().repeat(self._divisor // 2)
            byte = 0
            for i in range(9):
                await ctx.tick().repeat(self._divisor)
                byte |= ctx.get(self._device.transmit) << i
            if byte >> 8:  # the stop bit
                self._arrived.append(byte & 0xFF)
