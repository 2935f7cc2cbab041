"""Sample places of a half: handed out in turn, given back in order."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from golden_model.config import TINY
from rtl.sample_places import SamplePlaces
from sim.bench import simulate

pytestmark = pytest.mark.rtl


@pytest.mark.parametrize("interval", [1, 2, 5])
def test_places_are_handed_out_in_turn_and_given_back_in_order(interval):
    rng = random.Random(interval)
    dut = SamplePlaces(replace(TINY, sample_interval=interval))
    sampled = completed = 0
    rested = 0  # the first clock in which a sample may be taken again

    async def bench(ctx) -> None:
        nonlocal sampled, completed, rested
        for clock in range(300):
            pending = rng.random() < 0.6
            ctx.set(dut.pending, pending)
            complete = sampled > completed and not pending
            free = clock >= rested and sampled - completed - complete < 2
            assert (ctx.get(dut.complete), ctx.get(dut.free)) == (complete, free)
            assert (ctx.get(dut.oldest), ctx.get(dut.place)) == (completed % 2, sampled % 2)
            assert ctx.get(dut.over) == (clock >= rested and sampled == completed + complete)
            sample = free and rng.random() < 0.7
            ctx.set(dut.sampled, sample)
            await ctx.tick()
            sampled, completed = sampled + sample, completed + complete
            rested = clock + interval if sample else rested

    simulate(dut, bench, limit=400)
    assert completed > 30
