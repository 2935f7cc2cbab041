"""What the tests of the tile's blocks share: descriptors, simple runs, a loaded system."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from golden_model.config import HardwareConfig
from golden_model.registers import descriptor_fields
from rtl.system import System
from sim.backends.pysim import PysimBus
from sim.bench import Testbench, simulate
from sim.host.driver import Driver
from tests.bench import fetch, put


def plain_settings(hardware: HardwareConfig, **values: int) -> dict[str, int]:
    """A descriptor of zeros but for `values`, for blocks that look at a few fields only."""
    return {field.name: 0 for field in descriptor_fields(hardware)} | values


async def write_table(ctx: Any, port: Any, values: Any, first: int = 0) -> None:
    """Write entries through a {enable, address, data} port."""
    for index, value in enumerate(values):
        put(ctx, port, {"enable": 1, "address": first + index, "data": int(value)})
        await ctx.tick()
    ctx.set(port.enable, 0)


async def strobe(ctx: Any, signal: Any) -> None:
    """One clock of 1."""
    ctx.set(signal, 1)
    await ctx.tick()
    ctx.set(signal, 0)


def bytes_of(values: Sequence[int], together: int, *, channel_last: int = 0, last: int = 0) -> dict[str, Any]:
    """A clock of a `window_bytes` port with these activations; those that are not used hold ones."""
    unused = [1] * (together - len(values))
    used = (1 << len(values)) - 1
    return {"used": used, "values": [*map(int, values), *unused], "channel_last": channel_last, "last": last}


async def send_window(ctx: Any, port: Any, values: Sequence[int], cuts: Sequence[int] = ()) -> None:
    """Give a window's bytes to a `window_bytes` port. cuts : how many at a time, in order; then one a clock."""
    together, sizes, at = len(port.used), iter(cuts), 0
    while at < len(values):
        part = values[at : at + next(sizes, 1)]
        at += len(part)
        end = int(at == len(values))
        put(ctx, port, bytes_of(part, together, channel_last=end, last=end))
        await ctx.tick()
    put(ctx, port, bytes_of([], together))


async def expect_within(ctx: Any, signal: Any, limit: int) -> int:
    """Clocks from now until `signal` is 1, 0 if it is 1 already."""
    for clocks in range(limit + 1):
        if fetch(ctx, signal):
            return clocks
        await ctx.tick()
    raise AssertionError(f"{signal.name} did not come within {limit} clocks")


def run_system(
    hardware: HardwareConfig,
    job: Callable[[PysimBus, Driver, Any, Any], Coroutine],
    *,
    background: Callable[[Any], list[Testbench]] = lambda device: [],
    limit: int = 120_000,
    make: Callable[[HardwareConfig], Any] = System,
) -> None:
    """Run `job(bus, driver, device, ctx)` on a system, or on what `make` makes, beside `background(device)`."""
    device = make(hardware)

    async def bench(ctx: Any) -> None:
        bus = PysimBus(ctx, device)
        await job(bus, Driver(bus, hardware), device, ctx)

    simulate(device, bench, background=background(device), limit=limit)
