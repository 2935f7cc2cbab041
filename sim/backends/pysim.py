"""Amaranth's own simulator as a backend: the bus, and behavioural crossbars behind the analog port."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
from amaranth.hdl import Signal, Value

from golden_model.registers import ARRAY_LIMIT
from sim.array.crossbars import Crossbar, PairCrossbar
from sim.array.port import PackedPort
from sim.host.bus import Bus, BusError, BusTimeout, Response
from sim.host.records import Recorder

#: Clocks within which the device must answer an access.
ANSWER_LIMIT = 10_000
#: Clocks within which it must take a word of the load stream, which waits for the array.
STREAM_LIMIT = 2 * ARRAY_LIMIT


class PysimBus(Bus):
    """AXI4-Lite master on a component with flat `s_axil_*` ports, inside a test bench with context `ctx`."""

    def __init__(self, ctx: Any, device: Any, recorder: Recorder | None = None):
        super().__init__(recorder)
        self._ctx, self._device = ctx, device
        self._count = 0

    @property
    def clocks(self) -> int:
        return self._count

    @property
    def interrupts(self) -> bool:
        return hasattr(self._device, "irq")

    async def interrupt(self, limit: int) -> None:
        if not self.interrupts:
            return await super().interrupt(limit)
        for _ in range(limit):
            if self._ctx.get(self._device.irq):
                return
            await self._tick()
        raise BusTimeout(f"there was no interrupt within {limit} clocks")

    @property
    def streams(self) -> bool:
        return hasattr(self._device, "s_axis_tvalid")

    async def stream(self, words: Sequence[int] | np.ndarray) -> None:
        if not self.streams:
            return await super().stream(words)
        ctx, port = self._ctx, self._device
        ctx.set(port.s_axis_tvalid, 1)
        for index, word in enumerate(words, 1):
            ctx.set(port.s_axis_tdata, int(word))
            ctx.set(port.s_axis_tlast, index == len(words))
            for _ in range(STREAM_LIMIT):
                (ready,) = await self._tick(port.s_axis_tready)
                if ready:
                    break
            else:
                raise BusTimeout(f"the device did not take word {index} of a packet")
        ctx.set(port.s_axis_tvalid, 0)

    async def _tick(self, *samples: Any) -> list[Any]:
        self._count += 1
        _, _, *values = await self._ctx.tick().sample(*samples)
        return values

    async def wait(self, clocks: int) -> None:
        self._count += clocks
        if clocks:
            await self._ctx.tick().repeat(clocks)

    async def write(self, address: int, word: int) -> None:
        ctx, port = self._ctx, self._device
        ctx.set(port.s_axil_awaddr, address)
        ctx.set(port.s_axil_awvalid, 1)
        ctx.set(port.s_axil_wdata, word)
        ctx.set(port.s_axil_wstrb, 15)
        ctx.set(port.s_axil_wvalid, 1)
        ctx.set(port.s_axil_bready, 1)
        pending = [port.s_axil_awvalid, port.s_axil_wvalid]
        for _ in range(ANSWER_LIMIT):
            address_ready, data_ready, answered, response = await self._tick(
                port.s_axil_awready, port.s_axil_wready, port.s_axil_bvalid, port.s_axil_bresp
            )
            for valid, ready in ((port.s_axil_awvalid, address_ready), (port.s_axil_wvalid, data_ready)):
                if ready and any(valid is p for p in pending):
                    ctx.set(valid, 0)
                    pending = [p for p in pending if p is not valid]
            if answered:
                ctx.set(port.s_axil_bready, 0)
                if response != Response.OKAY:
                    raise BusError("write", address, response)
                return
        raise BusTimeout(f"the device did not answer a write at address 0x{address:07X}")

    async def read(self, address: int) -> int:
        ctx, port = self._ctx, self._device
        ctx.set(port.s_axil_araddr, address)
        ctx.set(port.s_axil_arvalid, 1)
        ctx.set(port.s_axil_rready, 1)
        for _ in range(ANSWER_LIMIT):
            ready, answered, response, word = await self._tick(
                port.s_axil_arready, port.s_axil_rvalid, port.s_axil_rresp, port.s_axil_rdata
            )
            if ready:
                ctx.set(port.s_axil_arvalid, 0)
            if answered:
                ctx.set(port.s_axil_rready, 0)
                if response != Response.OKAY:
                    raise BusError("read", address, response)
                return word
        raise BusTimeout(f"the device did not answer a read at address 0x{address:07X}")


def monitor(device: Any, recorder: Recorder) -> Callable[[Any], Coroutine]:
    """Background test bench: `recorder` takes the records of a device's trace port."""
    layout = recorder.layout

    async def bench(ctx: Any) -> None:
        async for _, _, valid, record in ctx.tick().sample(layout.strobe(device), layout.value(device)):
            if valid and recorder.enabled:
                recorder.take(record)

    return bench


def crossbar_processes(port: Any, crossbar: Crossbar | PairCrossbar) -> list[Callable[[Any], Coroutine]]:
    """Simulator processes that let `crossbar` answer the crossbar port of a macro or tile of its machine.

    The array accepts a sample of every part in every clock, programs in one clock and answers a readback in the next.
    """
    array = PackedPort(crossbar)
    processes: list[Callable[[Any], Coroutine]] = []
    for number, name in enumerate(array.shape.parts):
        processes += _part_processes(getattr(port, name) if name else port, array, number, port.layer)
    if not hasattr(port, "program"):
        return processes

    async def programmer(ctx: Any) -> None:
        ctx.set(port.program.ready, 1)
        async for _, _, valid, word in ctx.tick().sample(port.program.valid, Value.cast(port.program.payload)):
            if valid:
                array.program(word)

    async def verifier(ctx: Any) -> None:
        async for valid, word in ctx.changed(port.program.valid, Value.cast(port.program.payload)):
            ctx.set(port.program_failed, valid and not array.takes(word))

    async def reader(ctx: Any) -> None:
        request, response = port.readback_request, port.readback
        ctx.set(request.ready, 1)
        pending = False
        payload = Value.cast(request.payload)
        async for _, _, valid, word, ready in ctx.tick().sample(request.valid, payload, response.ready):
            if pending:
                if ready:
                    pending = False
                    ctx.set(response.valid, 0)
                    ctx.set(request.ready, 1)
            elif valid:
                ctx.set(response.payload, array.readback(word))
                ctx.set(response.valid, 1)
                ctx.set(request.ready, 0)
                pending = True

    return [*processes, programmer, verifier, reader]


def _part_processes(part: Any, array: PackedPort, number: int, layer: Any) -> list[Callable[[Any], Coroutine]]:
    """Sampling and conversion of one part of the port."""
    held = Signal(32)  # counts samples: makes the comparators answer anew when the held value changes
    inputs = [Value.cast(layer), Value.cast(part.thresholds)]
    if array.shape.places > 1:
        inputs.append(Value.cast(part.places))

    async def sampler(ctx: Any) -> None:
        ctx.set(part.sample.ready, 1)
        if hasattr(part, "decided"):
            ctx.set(part.decided, ~0)
        samples, payload = 0, Value.cast(part.sample.payload)
        async for _, _, valid, word, step in ctx.tick().sample(part.sample.valid, payload, layer):
            if valid:
                array.sample(number, word, step)
                samples += 1
                ctx.set(held, samples & 0xFFFFFFFF)

    async def comparators(ctx: Any) -> None:
        async for _, *values in ctx.changed(held, *inputs):
            ctx.set(part.comparators, array.comparators(number, *values))

    return [sampler, comparators]
