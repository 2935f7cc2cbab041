"""Reading and checking layer descriptors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from golden_model.config import PRESETS, TINY
from golden_model.registers import DESCRIPTOR_STRIDE, ErrorCode, descriptor_fields, pack_descriptor
from rtl.descriptor_check import DescriptorCheck
from rtl.descriptor_reader import DescriptorReader
from sim.bench import fetch, put, simulate
from tests.rtl.tile_tools import settings_of, strobe, write_table
from tests.strategies import make_layer, make_network

pytestmark = pytest.mark.rtl


def _check(settings, hardware=TINY):
    """(error, row_step, pad_rows), and the latency is asserted."""
    dut = DescriptorCheck(hardware)
    result = []

    async def bench(ctx):
        put(ctx, dut.settings, settings)
        await strobe(ctx, dut.start)
        clocks = 1
        while not ctx.get(dut.done):
            await ctx.tick()
            clocks += 1
        assert clocks == DescriptorCheck.latency(hardware)
        result.append(ErrorCode(ctx.get(dut.error)))
        await ctx.tick()
        assert not ctx.get(dut.done)
        result.extend([ctx.get(dut.row_step), ctx.get(dut.pad_rows)])

    simulate(dut, bench, limit=2000)
    return result


CONV = {
    "channels": 2,
    "height": 5,
    "width": 4,
    "kernel_height": 3,
    "kernel_width": 2,
    "stride": 2,
    "pad": 1,
    "outputs": 5,
    "pad_values": np.array([1, 2]),
}


def _conv(hardware=TINY, **changes):
    return make_layer(np.random.default_rng(0), hardware, **CONV | changes)


def test_legal_layer_gives_the_two_products():
    error, row_step, pad_rows = _check(settings_of(_conv(), TINY))
    assert (error, row_step, pad_rows) == (ErrorCode.NONE, 8, 4)


@pytest.mark.parametrize("index", range(3))
def test_every_layer_of_a_network_is_legal(index):
    assert _check(settings_of(make_network(1, TINY).layers[index], TINY))[0] == ErrorCode.NONE


@pytest.mark.parametrize("name", PRESETS)
def test_largest_layers_of_every_preset_are_legal(name):
    hardware = PRESETS[name]
    k, n = hardware.max_k, hardware.max_n
    only = make_layer(
        np.random.default_rng(0),
        hardware,
        kind="linear",
        channels=k,
        height=1,
        width=1,
        outputs=n,
        weights=np.zeros((k, n), dtype=np.int64),
        last=True,
    )
    limits = {"width_entries": only.segments(hardware) * only.block_cols(hardware), "channel_entries": n}
    roomy = replace(hardware, **{key: max(value, getattr(hardware, key)) for key, value in limits.items()})
    assert _check(settings_of(only, roomy), roomy)[0] == ErrorCode.NONE


#: Changes of a legal convolution of TINY that make it illegal.
GEOMETRY = [
    {name: 0}
    for name in (
        "channels",
        "height",
        "width",
        "in_plane",
        "kernel_height",
        "kernel_width",
        "stride",
        "pool",
        "out_height",
        "out_width",
        "out_plane",
        "outputs",
        "segments",
        "last_rows",
        "block_cols",
        "last_cols",
        "stream_bits",
        "out_bits",
    )
] + [
    {"in_plane": 21},
    {"in_plane": 19},
    {"channels": 3},
    {"kernel_width": 3},
    {"kernel_height": 1},
    {"segments": 4},
    {"segments": 2},
    {"last_rows": 3},
    {"last_rows": 5},
    {"out_plane": 10},
    {"out_plane": 8},
    {"out_height": 2},
    {"outputs": 6},
    {"block_cols": 2},
    {"block_cols": 4},
    {"last_cols": 2},
    {"last_cols": 3},
    {"stream_bits": 5},
    {"out_bits": 5},
    {"crossbar_base": TINY.crossbar_pairs + 1},
    {"width_base": TINY.width_entries - 8},
    {"channel_base": TINY.channel_entries - 4},
    {"pad_base": TINY.pad_entries - 1},
    {"last": 1},
    {"height": 65 + 5, "in_plane": 70 * 4},
    {"width": 1 << 16},
    {"channels": 1 << 16},
    {"height": (1 << 16) + 5},
    {"outputs": (1 << 16) + 5},
]


@pytest.mark.parametrize("changes", GEOMETRY, ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()))
def test_size_that_does_not_fit_or_contradicts_another_is_refused(changes):
    assert _check(settings_of(_conv(), TINY) | changes)[0] == ErrorCode.LAYER_GEOMETRY


@pytest.mark.parametrize(
    "changes",
    [
        {"width_base": TINY.width_entries - 9},
        {"channel_base": TINY.channel_entries - 5},
        {"pad_base": TINY.pad_entries - 2},
        {"pad_base": 9999, "pad_enable": 0},
        {"crossbar_base": TINY.crossbar_pairs},
    ],
    ids=str,
)
def test_base_that_just_fits_is_legal(changes):
    assert _check(settings_of(_conv(), TINY) | changes)[0] == ErrorCode.NONE


@pytest.mark.parametrize("field", ["residual", "average"])
def test_reserved_features_are_unsupported(field):
    assert _check(settings_of(_conv(), TINY) | {field: 1})[0] == ErrorCode.UNSUPPORTED


def test_reader_unpacks_every_field_of_the_right_layer():
    dut = DescriptorReader(TINY)
    rng = np.random.default_rng(7)
    fields = descriptor_fields(TINY)
    layers = [{f.name: int(rng.integers(0, 1 << f.bits)) for f in fields} for _ in range(TINY.max_layers - 1)]
    layers.append({f.name: (1 << f.bits) - 1 for f in fields})

    async def bench(ctx):
        for index, values in enumerate(layers):
            await write_table(ctx, dut.program_write, pack_descriptor(TINY, values), index * DESCRIPTOR_STRIDE)
        for index in (2, 0, 3, 1):
            ctx.set(dut.layer, index)
            await strobe(ctx, dut.start)
            clocks = 1
            while not ctx.get(dut.done):
                await ctx.tick()
                clocks += 1
                assert clocks < 100
            assert clocks == DescriptorReader.latency(TINY)
            assert fetch(ctx, dut.settings) == layers[index]

    simulate(dut, bench, limit=1000)
