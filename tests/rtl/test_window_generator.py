"""The window generator against the golden model's windows."""

from __future__ import annotations

import numpy as np
import pytest

from golden_model.config import TINY
from golden_model.crossbar.windows import windows
from rtl.window_generator import WindowGenerator
from sim.bench import fetch, put, simulate
from tests.rtl.tile_tools import flat, settings_of, strobe, write_table
from tests.strategies import make_layer

pytestmark = pytest.mark.rtl

SHAPES = {
    "one window": {"channels": 2, "height": 3, "width": 2, "kernel_height": 3, "kernel_width": 2},
    "kernel 1 x 1": {"channels": 3, "height": 3, "width": 4, "kernel_height": 1, "kernel_width": 1},
    "border": {"channels": 2, "height": 4, "width": 3, "kernel_height": 3, "kernel_width": 3, "pad": 1},
    "pooling": {"channels": 1, "height": 6, "width": 7, "kernel_height": 3, "kernel_width": 3, "pool": 2},
    "stride and border": {
        "channels": 2,
        "height": 6,
        "width": 5,
        "kernel_height": 2,
        "kernel_width": 3,
        "stride": 3,
        "pad": 2,
    },
    "stride, border and pooling": {
        "channels": 1,
        "height": 9,
        "width": 8,
        "kernel_height": 3,
        "kernel_width": 2,
        "stride": 2,
        "pad": 1,
        "pool": 2,
    },
    "border wider than the kernel": {
        "channels": 1,
        "height": 1,
        "width": 2,
        "kernel_height": 2,
        "kernel_width": 2,
        "pad": 3,
    },
}


def _run(layer, activations):
    """Bytes and places of every window, and the clocks from start to the first byte."""
    dut = WindowGenerator(TINY)
    memory = flat(activations)
    found, places, latencies = [], [], []
    size = TINY.activation_bytes

    async def buffer(ctx):
        async for _, _, read in ctx.tick().sample(dut.read):
            if read.enable:
                assert read.address < len(memory)
                ctx.set(dut.read_data, memory[read.address])

    async def bench(ctx):
        put(ctx, dut.settings, settings_of(layer, TINY))
        ctx.set(dut.row_step, layer.stride * layer.width % size)
        ctx.set(dut.pad_rows, layer.pad * layer.width % size)
        # Without pad values the table must not matter.
        await write_table(ctx, dut.pad_write, [9] * layer.channels if layer.pad_values is None else layer.pad_values)
        await strobe(ctx, dut.layer_start)
        for _ in range(layer.windows):
            await strobe(ctx, dut.start)
            got, clocks = [], 1
            while True:
                byte = fetch(ctx, dut.bytes)
                if byte["valid"]:
                    if not got:
                        latencies.append(clocks)
                    got.append(byte["value"])
                    if byte["last"]:
                        break
                else:
                    assert not got, "a byte a clock"
                await ctx.tick()
                clocks += 1
            found.append(got)
            places.append(fetch(ctx, dut.place))

    simulate(dut, bench, processes=[buffer], limit=20_000)
    return found, places, latencies


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padded", [False, True])
def test_windows_equal_golden_windows(shape, padded):
    rng = np.random.default_rng(3)
    channels = SHAPES[shape]["channels"]
    layer = make_layer(
        rng, TINY, **SHAPES[shape], outputs=1, pad_values=rng.integers(0, 16, channels) if padded else None
    )
    activations = rng.integers(0, 16, (1, layer.channels, layer.height, layer.width))
    found, places, latencies = _run(layer, activations)
    assert found == windows(layer, activations)[0].tolist()
    assert set(latencies) == {WindowGenerator.latency}
    inside = layer.pool * layer.pool
    assert [p["pool_first"] for p in places] == [int(i % inside == 0) for i in range(layer.windows)]
    assert [p["pool_last"] for p in places] == [int(i % inside == inside - 1) for i in range(layer.windows)]
    assert [p["last"] for p in places] == [0] * (layer.windows - 1) + [1]


def test_saturated_activations_and_borders_come_through():
    layer = make_layer(np.random.default_rng(1), TINY, **SHAPES["border"], outputs=1, pad_values=np.array([15, 15]))
    activations = np.full((1, 2, 4, 3), 15)
    found, _, _ = _run(layer, activations)
    assert found == windows(layer, activations)[0].tolist()
