"""Requantisation, pooling and storing against golden_model.network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Signal
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import TINY, HardwareConfig
from golden_model.crossbar.post_processing import finish_layer
from rtl.post_processing import PostProcessing
from sim.bench import collector, fetch, put, simulate
from tests.rtl.tile_tools import settings_of, strobe, write_table
from tests.strategies import make_layer

pytestmark = pytest.mark.rtl

WIDE = replace(TINY, input_bits=8)


def _run(layer, sums, hardware: HardwareConfig = WIDE, base: int = 0):
    """Stored bytes {address: value}, logits {index: value}, clocks of every window, the overflow flag."""
    dut = PostProcessing(hardware)
    stores, logits, clocks, overflow = [], [], [], []
    cols, window_index = hardware.ou_cols, Signal(range(len(sums)))

    async def macro(ctx):
        words = np.zeros((hardware.max_block_cols, cols), dtype=np.int64)
        async for address, window in ctx.changed(dut.sums_address, window_index):
            words.ravel()[: layer.outputs] = sums[window]
            ctx.set(dut.sums_data, [int(value) for value in words[address]])

    async def bench(ctx):
        put(ctx, dut.settings, settings_of(layer, hardware, channel_base=base))
        await write_table(ctx, dut.bias_write, layer.bias, base)
        await write_table(ctx, dut.multiplier_write, layer.multipliers, base)
        await strobe(ctx, dut.clear)
        await strobe(ctx, dut.layer_start)
        inside = layer.pool * layer.pool
        for window in range(len(sums)):
            ctx.set(window_index, window)
            put(
                ctx,
                dut.place,
                {
                    "pool_first": int(window % inside == 0),
                    "pool_last": int(window % inside == inside - 1),
                    "last": int(window == len(sums) - 1),
                },
            )
            await strobe(ctx, dut.start)
            count = 1
            while not ctx.get(dut.done):
                await ctx.tick()
                count += 1
                assert count < 100
            clocks.append(count)
            await ctx.tick()
        overflow.append(ctx.get(dut.overflow))

    simulate(
        dut,
        bench,
        processes=[macro],
        background=[
            collector(dut.store.enable, dut.store.address, dut.store.data, into=stores),
            collector(dut.logits.enable, dut.logits.address, dut.logits.data, into=logits),
        ],
        limit=20_000,
    )
    return stores, logits, clocks, overflow[0]


def _check(layer, sums, hardware=WIDE, base=0):
    stores, logits, clocks, overflow = _run(layer, sums, hardware, base)
    expected = finish_layer(layer, np.asarray(sums)[None])[0]
    assert stores == [] if layer.last else logits == []
    if layer.last:
        assert logits == list(enumerate(expected.tolist()))
    else:
        assert dict(stores) == dict(enumerate(expected.ravel().tolist()))
        assert len(stores) == expected.size
    assert set(clocks) == {layer.outputs - 1 + PostProcessing.latency}
    assert overflow == 0


def _layer(rng, pool=1, outputs=5, **values):
    size = 2 * pool
    return make_layer(
        rng,
        WIDE,
        channels=1,
        height=size,
        width=size,
        kernel_height=1,
        kernel_width=1,
        pool=pool,
        outputs=outputs,
        **values,
    )


@given(
    seed=st.integers(0, 1000),
    shift=st.integers(0, 63),
    bits=st.integers(1, 8),
    pool=st.integers(1, 3),
    outputs=st.integers(1, 8),
    size=st.integers(1, 31),
)
@settings(max_examples=15)
def test_random_sums_equal_golden(seed, shift, bits, pool, outputs, size):
    rng = np.random.default_rng(seed)
    top = 1 << size
    layer = _layer(
        rng,
        pool=pool,
        outputs=outputs,
        shift=shift,
        output_bits=bits,
        bias=rng.integers(-top, top, outputs),
        multipliers=rng.integers(0, 65536, outputs),
    )
    sums = rng.integers(-top, top, (layer.windows, outputs))
    _check(layer, sums, base=int(rng.integers(0, 24)))


@pytest.mark.parametrize("shift", [0, 1, 2, 7])
def test_halves_round_up_for_both_signs(shift):
    sums = np.arange(-20, 20).reshape(-1, 4)[:4] + 10
    layer = _layer(
        np.random.default_rng(0),
        outputs=4,
        shift=shift,
        bias=np.array([0, 8, 40, 100]),
        multipliers=np.array([1, 1, 3, 5]),
    )
    _check(layer, sums)


@pytest.mark.parametrize("value", [(1 << 31) - 1, -(1 << 31)])
@pytest.mark.parametrize("shift", [0, 31, 48, 63])
def test_saturated_sums_bias_and_multiplier_equal_golden(value, shift):
    layer = _layer(
        np.random.default_rng(0),
        outputs=3,
        shift=shift,
        bias=np.full(3, value),
        multipliers=np.full(3, 65535),
    )
    _check(layer, np.full((layer.windows, 3), value))


def _last(outputs, bias):
    return make_layer(
        np.random.default_rng(0),
        WIDE,
        kind="linear",
        channels=2,
        height=1,
        width=1,
        outputs=outputs,
        bias=np.asarray(bias),
        last=True,
    )


def test_last_layer_stores_signed_logits():
    _check(_last(4, [5, -5, 1 << 30, -(1 << 30)]), [[-7, 7, (1 << 30) - 1, -(1 << 30)]])


@pytest.mark.parametrize(("value", "stored"), [((1 << 31) - 1, (1 << 31) - 1), (-(1 << 31), -(1 << 31))])
def test_logit_beyond_32_bits_saturates_and_sets_overflow(value, stored):
    _, logits, _, overflow = _run(_last(2, [value, 0]), [[value, 1]])
    assert logits == [(0, stored), (1, 1)]
    assert overflow == 1


def test_clear_forgets_an_overflow():
    dut = PostProcessing(WIDE)

    async def bench(ctx):
        layer = _last(1, [(1 << 31) - 1])
        put(ctx, dut.settings, settings_of(layer, WIDE))
        ctx.set(dut.sums_data, [1, 0])
        await write_table(ctx, dut.bias_write, layer.bias)
        await strobe(ctx, dut.start)
        await ctx.tick().repeat(8)
        assert fetch(ctx, dut.overflow) == 1
        await strobe(ctx, dut.clear)
        assert fetch(ctx, dut.overflow) == 0

    simulate(dut, bench, limit=100)
