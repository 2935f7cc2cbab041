"""Test bench parts that run inside cocotb on exported Verilog: bus, behavioural crossbars, trace monitor.

Everything is read and driven between rising edges (at the falling edge, then when combinational logic
has settled), so that the order of events at an edge does not matter on any simulator.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, ReadOnly, RisingEdge, SimTimeoutError, with_timeout
from cocotb.utils import get_sim_time
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiStreamBus, AxiStreamSource

from golden_model.registers import ARRAY_LIMIT
from sim.array.crossbars import Crossbar, PairCrossbar
from sim.array.port import PackedPort
from sim.backends.compiled import verilator_port
from sim.host.bus import Bus, BusError, BusTimeout
from sim.host.records import Recorder, TraceLayout

#: Simulated clock period in nanoseconds.
PERIOD = 10
#: Clocks within which the device must answer an access.
ANSWER_LIMIT = 10_000


def number(handle: Any) -> int:
    """A signal as an unsigned integer; unknown bits are an error."""
    return int(handle.value)


async def start(dut: Any, *, reset_clocks: int = 4) -> None:
    """Start the clock and reset the design."""
    cocotb.start_soon(Clock(dut.clk, PERIOD, "ns").start())
    dut.rst.value = 1
    await ClockCycles(dut.clk, reset_clocks)
    await FallingEdge(dut.clk)
    dut.rst.value = 0


class TraceMonitor(Recorder):
    """Samples the trace port of a design."""

    def __init__(self, dut: Any, layout: TraceLayout):
        super().__init__(layout)
        self._handles = [getattr(dut, verilator_port(port.name)) for port in layout.ports]

    @classmethod
    def of(cls, dut: Any, component: Any) -> TraceMonitor | None:
        """For the design that was exported from `component`; None if it has no trace port."""
        layout = TraceLayout.of(component)
        return None if layout is None else cls(dut, layout)

    def sample(self) -> None:
        """Take the record of this clock, if there is one."""
        valid = self.layout["valid"]
        if not number(self._handles[valid.port]) >> valid.offset & 1:
            return
        record, shift = 0, 0
        for port, handle in zip(self.layout.ports, self._handles, strict=True):
            record |= number(handle) << shift
            shift += 32 * port.words
        self.take(record)


class _Part:
    """Signals of one part of the analog port (see `rtl.interfaces.PortShape`)."""

    def __init__(self, dut: Any, name: str, places: bool):
        prefix = f"crossbar__{name}__" if name else "crossbar__"
        self.valid, self.payload = getattr(dut, f"{prefix}sample__valid"), getattr(dut, f"{prefix}sample__payload")
        self.comparators = getattr(dut, f"{prefix}comparators")
        inputs = ("thresholds", "places") if places else ("thresholds",)
        self._inputs = [dut.crossbar__layer, *(getattr(dut, prefix + name) for name in inputs)]
        self.answered: list[int] | None = None  # what the comparators answered last
        getattr(dut, f"{prefix}sample__ready").value = 1
        self.comparators.value = 0
        if hasattr(dut, f"{prefix}decided"):
            getattr(dut, f"{prefix}decided").value = (1 << len(self.comparators)) - 1

    def inputs(self) -> list[int]:
        """What the comparators answer: step, thresholds and, if there are several, places."""
        return [number(handle) for handle in self._inputs]


class Analog:
    """Lets a crossbar answer the analog port of an exported macro or tile of its machine, clock by clock.

    The array accepts a sample of every part in every clock, programs in one clock and answers a readback in the next.
    Start it with `cocotb.start_soon(analog.run())`.
    """

    def __init__(self, dut: Any, crossbar: Crossbar | PairCrossbar, monitor: TraceMonitor | None = None):
        self._dut, self._array, self._monitor = dut, PackedPort(crossbar), monitor
        shape = self._array.shape
        self._parts = [_Part(dut, name, shape.places > 1) for name in shape.parts]
        self._programs = hasattr(dut, "crossbar__program__valid")
        if self._programs:
            dut.crossbar__program__ready.value = 1
            dut.crossbar__readback_request__ready.value = 1
            dut.crossbar__readback__valid.value = 0

    async def run(self) -> None:
        dut, array, pending = self._dut, self._array, None
        while True:
            await FallingEdge(dut.clk)
            for index, part in enumerate(self._parts):
                inputs = part.inputs()
                if inputs != part.answered:
                    part.comparators.value = array.comparators(index, *inputs)
                    part.answered = inputs
            if self._programs:
                if pending is not None:
                    dut.crossbar__readback__payload.value = pending
                dut.crossbar__readback__valid.value = int(pending is not None)
                dut.crossbar__readback_request__ready.value = int(pending is None)
                written = number(dut.crossbar__program__payload) if number(dut.crossbar__program__valid) else None
                dut.crossbar__program_failed.value = int(written is not None and not array.takes(written))
            await ReadOnly()
            for index, part in enumerate(self._parts):
                if number(part.valid):
                    array.sample(index, number(part.payload), number(dut.crossbar__layer))
                    part.answered = None  # to another sample
            if self._monitor is not None and self._monitor.enabled:
                self._monitor.sample()  # everything has settled
            if not self._programs:
                continue
            if written is not None:
                array.program(written)
            if pending is not None:
                if number(dut.crossbar__readback__ready):
                    pending = None
            elif number(dut.crossbar__readback_request__valid):
                pending = array.readback(number(dut.crossbar__readback_request__payload))


class CocotbBus(Bus):
    """The tile's bus through cocotbext-axi's AXI4-Lite master, which this project did not write.

    source : its sender for the load stream; None if the design has none.
    """

    def __init__(self, dut: Any, monitor: TraceMonitor | None = None):
        super().__init__(monitor)
        self._dut = dut
        self._master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        for interface in (self._master.write_if, self._master.read_if):
            interface.log.setLevel(logging.WARNING)
        self.source = None
        if hasattr(dut, "s_axis_tvalid"):
            self.source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), dut.clk, dut.rst, byte_lanes=4)
            self.source.log.setLevel(logging.WARNING)

    @property
    def clocks(self) -> int:
        return int(get_sim_time("ns")) // PERIOD

    @property
    def interrupts(self) -> bool:
        return hasattr(self._dut, "irq")

    async def interrupt(self, limit: int) -> None:
        if not self.interrupts:
            return await super().interrupt(limit)
        if not number(self._dut.irq):
            try:
                await with_timeout(RisingEdge(self._dut.irq), limit * PERIOD, "ns")
            except SimTimeoutError:
                raise BusTimeout(f"there was no interrupt within {limit} clocks") from None

    @property
    def streams(self) -> bool:
        return self.source is not None

    async def stream(self, words: Sequence[int] | np.ndarray) -> None:
        if self.source is None:
            return await super().stream(words)
        await self.source.send(np.asarray(words, dtype="<u4").tobytes())
        try:
            await with_timeout(self.source.wait(), (2 * ARRAY_LIMIT + len(words)) * PERIOD, "ns")
        except SimTimeoutError:
            raise BusTimeout("the device did not take a packet") from None

    async def wait(self, clocks: int) -> None:
        if clocks:
            await ClockCycles(self._dut.clk, clocks)

    async def write(self, address: int, word: int) -> None:
        answered = await self._within(self._master.write(address, word.to_bytes(4, "little")), "write", address)
        if answered.resp:
            raise BusError("write", address, int(answered.resp))

    async def read(self, address: int) -> int:
        answered = await self._within(self._master.read(address, 4), "read", address)
        if answered.resp:
            raise BusError("read", address, int(answered.resp))
        return int.from_bytes(answered.data, "little")

    async def _within(self, access: Any, kind: str, address: int) -> Any:
        try:
            return await with_timeout(access, ANSWER_LIMIT * PERIOD, "ns")
        except SimTimeoutError:
            raise BusTimeout(f"the device did not answer a {kind} at address 0x{address:07X}") from None
