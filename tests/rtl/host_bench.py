"""The host's side of the tile alone: bus, register bank, cell programming, and an array that takes its time."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import TINY, HardwareConfig
from rtl import layouts
from rtl import tile_layouts as tile
from rtl.axi_lite import AxiLite
from rtl.cell_programmer import CellProgrammer
from rtl.loader import Loader
from rtl.register_bank import RegisterBank
from rtl.tile import bus_members, connect_bus, connect_checksum, connect_loader, load_members
from sim.backends.pysim import PysimBus
from sim.bench import simulate
from sim.host.driver import Driver
from tests.bench import plain


class HostSide(wiring.Component):
    """`bank` between a bus and a memory of activations; results and state of a run are inputs.

    running : STATUS.busy. ends : strobes of IRQ_STATUS. event : what every event counter reads. limit : of the
    programmer. The ports of the array are the programmer's.
    """

    def __init__(self, config: HardwareConfig, *, limit: int = 1000):
        self.config, self.limit = config, limit
        self.bank = RegisterBank(config)
        super().__init__(
            {
                **bus_members(),
                **load_members(),
                "running": In(1),
                "ends": In(tile.ends()),
                "interrupt": Out(1),
                "event": In(48),
                "program_failed": In(1),
                "program": Out(stream.Signature(layouts.cell_write(config))),
                "readback_request": Out(stream.Signature(layouts.ou_address(config))),
                "readback": In(stream.Signature(unsigned(config.ou_cells))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bank = self.bank
        m.submodules.bank = bank
        m.submodules.bus = bus = AxiLite()
        m.submodules.programmer = programmer = CellProgrammer(self.config, limit=self.limit)
        m.submodules.loader = load = Loader(self.config)
        connect_loader(m, self, load, bank, programmer, self.running)
        connect_checksum(m, bank)
        shape, depth = unsigned(tile.WORD), layouts.activation_words(self.config)
        m.submodules.activations = activations = memory.Memory(shape=shape, depth=depth, init=[])
        write, read = activations.write_port(granularity=8), activations.read_port()
        connect_bus(m, self, bus)
        wiring.connect(m, bus.requests, bank.requests)
        wiring.connect(m, bank.responses, bus.responses)
        wiring.connect(m, programmer.program, wiring.flipped(self.program))
        wiring.connect(m, programmer.readback_request, wiring.flipped(self.readback_request))
        wiring.connect(m, wiring.flipped(self.readback), programmer.readback)
        m.d.comb += [
            bank.status.busy.eq(self.running),
            bank.ends.eq(self.ends),
            self.interrupt.eq(bank.interrupt),
            bank.status.cells_error.eq(programmer.failed),
            bank.checksum.eq(programmer.checksum),
            bank.failures.eq(programmer.failures),
            bank.first_failed.eq(programmer.first_failed),
            programmer.restart.eq(bank.control.restart_checksum),
            programmer.program_failed.eq(self.program_failed),
            bank.cells_full.eq(programmer.full),
            bank.events.data.eq(self.event),
            programmer.select.eq(bank.cell_select),
            programmer.check.eq(bank.control.check_cells),
            programmer.pairs.eq(bank.cell_pairs),
            write.en.eq(bank.activations.write),
            write.addr.eq(bank.activations.word),
            write.data.eq(bank.activations.data),
            read.en.eq(bank.activations.read),
            read.addr.eq(bank.activations.word),
            bank.activations.answer.eq(read.data),
        ]
        return m


def array(device: HostSide, cells: dict[tuple[int, int, int], int], *, delay: int = 0, seen: list | None = None):
    """Background test benches: an array that programs an OU in `delay` clocks and reads one back in the next.

    `cells` by (pair, OU row, OU column) is what it holds; `seen` gets every OU programmed.
    """

    def place(record: dict[str, int]) -> tuple[int, int, int]:
        return record["pair"], record["ou_row"], record["ou_col"]

    async def program(ctx: Any) -> None:
        port = device.program
        while True:
            if delay:
                await ctx.tick().until(port.valid)
                await ctx.tick().repeat(delay)
            ctx.set(port.ready, 1)
            (payload,) = await ctx.tick().sample(port.payload).until(port.valid)
            ctx.set(port.ready, 0)
            write = plain(payload)
            cells[place(write)] = write["cells"]
            if seen is not None:
                seen.append((place(write), write["cells"]))

    async def read(ctx: Any) -> None:
        request, answer = device.readback_request, device.readback
        while True:
            ctx.set(request.ready, 1)
            (payload,) = await ctx.tick().sample(request.payload).until(request.valid)
            ctx.set(request.ready, 0)
            ctx.set(answer.payload, cells.get(place(plain(payload)), 0))
            ctx.set(answer.valid, 1)
            await ctx.tick().until(answer.ready)
            ctx.set(answer.valid, 0)

    return [program, read]


def on_host_side(job, hardware=TINY, *, delay=0, programmed=None, monitors=(), patience=1000, limit=60_000):
    """Run `job(bus, driver, ctx, device)`; an OU takes the array `delay` clocks, and the programmer gives it up after
    `patience`; `monitors` get the device."""
    device = HostSide(hardware, limit=patience)

    async def bench(ctx):
        bus = PysimBus(ctx, device)
        await job(bus, Driver(bus, hardware), ctx, device)

    background = [*array(device, {}, delay=delay, seen=programmed), *(monitor(device) for monitor in monitors)]
    simulate(device, bench, background=background, limit=limit)
