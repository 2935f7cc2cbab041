"""The residual view against the scalar model of a step."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import PRESETS, TINY
from rtl.residual_view import ResidualView
from sim.bench import simulate
from tests.bench import put
from tests.rtl import step_model
from tests.rtl.tile_tools import strobe

pytestmark = pytest.mark.rtl

MACHINES = [TINY, PRESETS["tiny-pairs"], replace(PRESETS["tiny-pairs"], macros=4)]


def _run(fields, memory, hardware, stall=0.0):
    """Values asked for by round, channel and window, and addresses read."""
    dut = ResidualView(hardware)
    rng = random.Random(4)
    values, addresses = [], []

    async def answers(ctx):
        async for _, _, enable, address in ctx.tick().sample(dut.read.enable, dut.read.address):
            if enable:
                addresses.append(address)
            for i, value in enumerate(dut.read.data):
                ctx.set(value, memory[address + i] if enable else rng.randrange(256))

    async def bench(ctx):
        put(ctx, dut.settings, fields)
        await strobe(ctx, dut.layer_start)
        for windows in step_model.rounds(fields, hardware.macros):
            await strobe(ctx, dut.start)
            for _ in range(fields["outputs"]):
                while rng.random() < stall:
                    await ctx.tick()
                await strobe(ctx, dut.next)
                values.append(list(ctx.get(dut.values))[: len(windows)])

    simulate(dut, bench, processes=[answers], limit=20_000)
    return values, addresses


def _check(fields, memory, hardware=TINY, stall=0.0):
    values, addresses = _run(fields, [*memory, *[0] * 64], hardware, stall)
    origins = [(oy, ox) for oy, ox, _, _ in step_model.origins(fields)]
    rounds = [[origins[window] for window in windows] for windows in step_model.rounds(fields, hardware.macros)]
    wanted = [(n, places) for places in rounds for n in range(fields["outputs"])]
    assert values == [[step_model.residual(fields, memory, n, *at) for at in places] for n, places in wanted]
    found = [step_model.residual_address(fields, n, *places[0]) for n, places in wanted]
    assert addresses == [at for at in found if at is not None], "nothing else is read"


@given(
    seed=st.integers(0, 1000),
    outputs=st.integers(1, 6),
    first=st.integers(0, 7),
    channels=st.integers(1, 4),
    out_height=st.integers(1, 3),
    out_width=st.integers(1, 6),
    row=st.integers(0, 8),
    column=st.integers(0, 5),
    spare=st.integers(0, 6),
    enabled=st.booleans(),
    stall=st.sampled_from([0.0, 0.4]),
    hardware=st.sampled_from(MACHINES),
)
@settings(max_examples=50)
def test_any_view_is_read_as_the_model_says(
    seed, outputs, first, channels, out_height, out_width, row, column, spare, enabled, stall, hardware
):
    rng = random.Random(seed)
    plane = (out_height - 1) * row + (out_width - 1) * column + 1 + spare
    fields = step_model.step(
        hardware, outputs=outputs, out_height=out_height, out_width=out_width, residual=int(enabled),
        residual_base=rng.randint(0, TINY.activation_bytes - channels * plane), residual_plane=plane,
        residual_row=row, residual_column=column, residual_channels=channels, residual_first=first,
        residual_value=rng.randrange(256),
    )  # fmt: skip
    _check(fields, [rng.randrange(256) for _ in range(TINY.activation_bytes)], hardware, stall)


@pytest.mark.parametrize("hardware", MACHINES, ids=["planes", "pairs", "macros"])
def test_positions_of_a_row_follow_each_other_over_all_rounds(hardware):
    fields = step_model.step(
        hardware, outputs=2, out_height=2, out_width=11, residual=1, residual_base=5, residual_plane=60,
        residual_row=31, residual_column=2, residual_channels=2,
    )  # fmt: skip
    assert len(step_model.rounds(fields, 4)) == 6, "three rounds a row"
    _check(fields, random.Random(1).choices(range(256), k=TINY.activation_bytes), hardware)


def test_negative_channel_is_no_large_one():
    fields = step_model.step(
        TINY, outputs=3, residual=1, residual_channels=65535, residual_first=65534, residual_plane=1, residual_value=200
    )
    _check(fields, [255] * TINY.activation_bytes)
