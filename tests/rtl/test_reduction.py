"""Maximum and sum over the kernels of element steps."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import TINY
from golden_model.registers import StepKind
from rtl.reduction import Reduction
from sim.bench import simulate
from tests.bench import collector, put
from tests.rtl import step_model
from tests.rtl.tile_tools import bytes_of

pytestmark = pytest.mark.rtl

WIDE = replace(TINY, input_bits=8)
IDLE = bytes_of([], 1)


def _run(kind, kernels, residuals=None, stall=0.0):
    """(value, residual or None, last) per channel; checks the latency. kernels : values per channel of one window."""
    dut = Reduction(WIDE)
    rng = random.Random(2)
    reduced, ends = [], []

    async def idle(ctx):
        while rng.random() < stall:
            put(ctx, dut.bytes, IDLE)
            await ctx.tick()

    async def bench(ctx):
        put(ctx, dut.settings, step_model.step(WIDE, step=kind))
        for index, values in enumerate(kernels):
            last = int(index == len(kernels) - 1)
            for at, value in enumerate(values):
                await idle(ctx)
                end = int(residuals is None and at == len(values) - 1)
                put(ctx, dut.bytes, bytes_of([value], 1, channel_last=end, last=end & last))
                ctx.set(dut.residual, rng.randrange(256))
                await ctx.tick()
            if residuals is not None:
                await idle(ctx)
                put(ctx, dut.bytes, bytes_of([], 1, channel_last=1, last=last))
                ctx.set(dut.residual, residuals[index])
                await ctx.tick()
        put(ctx, dut.bytes, IDLE)
        await ctx.tick().repeat(3)

    async def latency(ctx):
        before = 0
        async for _, _, end, valid in ctx.tick().sample(dut.bytes.channel_last, dut.reduced.valid):
            ends.append(valid == before)
            before = end

    out = dut.reduced
    simulate(
        dut,
        bench,
        background=[collector(out.valid, out.value, out.residual, out.last, into=reduced), latency],
        limit=200_000,
    )
    assert Reduction.latency == 1
    assert all(ends)
    return [(value, None if residuals is None else r, last) for value, r, last in reduced]


def _expected(kind, kernels, residuals=None):
    fields = {"step": kind}
    last = len(kernels) - 1
    return [
        (step_model.reduce(fields, values), None if residuals is None else residuals[i], int(i == last))
        for i, values in enumerate(kernels)
    ]


@given(
    kind=st.sampled_from([StepKind.MAXIMUM, StepKind.SUM]),
    kernels=st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=9), min_size=1, max_size=6),
    residuals=st.none() | st.lists(st.integers(0, 255), min_size=6, max_size=6),
    stall=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=50)
def test_channels_of_any_kernel_are_reduced_with_their_residuals(kind, kernels, residuals, stall):
    assert _run(kind, kernels, residuals, stall) == _expected(kind, kernels, residuals)


def test_sum_of_the_largest_kernel_of_largest_activations_does_not_wrap():
    (first, _, _), (second, _, _) = _run(StepKind.SUM, [[255] * 65535, [1]])
    assert (first, second) == (255 * 65535, 1)
