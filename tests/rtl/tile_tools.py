"""What the tests of the tile's blocks share: descriptors, simple runs, a loaded system."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import Layer
from golden_model.engines.chain import check_network
from golden_model.graph.layers import Network
from golden_model.image import image
from golden_model.registers import descriptor_fields
from rtl.system import System
from sim.backends.pysim import PysimBus
from sim.bench import fetch, put, simulate
from sim.host.driver import Driver


def settings_of(layer: Layer, hardware: HardwareConfig, **changes: int) -> dict[str, int]:
    """Descriptor fields of a layer that is alone on the machine."""
    last = layer if layer.last else None
    placed = mapping.place(
        [layer.block_widths], [layer.outputs], [0 if layer.pad_values is None else layer.channels], hardware
    )
    values = image.descriptor(last or layer, placed.layers[0], hardware)
    return {name: int(value) for name, value in (values | changes).items()}


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


async def send_window(ctx: Any, port: Any, values: Any) -> None:
    """Give a window's bytes to a `window_byte` port, one a clock."""
    for index, value in enumerate(values):
        put(ctx, port, {"valid": 1, "value": int(value), "last": int(index == len(values) - 1)})
        await ctx.tick()
    put(ctx, port, {"valid": 0, "value": 0, "last": 0})


async def expect_within(ctx: Any, signal: Any, limit: int) -> int:
    """Clocks from now until `signal` is 1, 0 if it is 1 already."""
    for clocks in range(limit + 1):
        if fetch(ctx, signal):
            return clocks
        await ctx.tick()
    raise AssertionError(f"{signal.name} did not come within {limit} clocks")


def run_system(
    net: Network,
    job: Callable[[PysimBus, Driver, System, Any], Coroutine],
    *,
    load: bool = True,
    limit: int = 120_000,
) -> None:
    """Run `job(bus, driver, device, ctx)` on a system with the network's tables loaded."""
    hardware = net.hardware
    device = System(hardware)

    async def bench(ctx: Any) -> None:
        bus = PysimBus(ctx, device)
        driver = Driver(bus, hardware)
        if load:
            await driver.load(image.build_tables(net, check_network(net)))
        await job(bus, driver, device, ctx)

    simulate(device, bench, limit=limit)


def flat(image_of: np.ndarray) -> list[int]:
    """Activations as they lie in a buffer."""
    return [int(value) for value in np.ravel(image_of)]
