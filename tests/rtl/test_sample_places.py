"""Sample places of a half: handed out in turn, when they are free and the interval has passed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from golden_model.config import TINY
from rtl.sample_places import SamplePlaces
from sim.bench import simulate
from tests.bench import fetch

pytestmark = pytest.mark.rtl


@pytest.mark.parametrize("interval", [1, 2, 5])
@pytest.mark.parametrize("places", [2, 5, 8])
def test_places_are_handed_out_in_turn(interval, places):
    rng = random.Random(interval)
    dut = SamplePlaces(replace(TINY, machine="pairs", sample_interval=interval, sample_places=places))
    sampled = rested = 0  # rested : the first clock in which a sample may be taken again

    async def bench(ctx) -> None:
        nonlocal sampled, rested
        for clock in range(300):
            occupied = rng.random() < 0.4
            ctx.set(dut.occupied, occupied)
            free = clock >= rested and not occupied
            assert ctx.get(dut.free) == free
            assert fetch(ctx, dut.turn) == {"place": sampled % places, "lap": sampled // places % 2}
            sample = free and rng.random() < 0.7
            ctx.set(dut.sampled, sample)
            await ctx.tick()
            sampled += sample
            rested = clock + interval if sample else rested

    simulate(dut, bench, limit=400)
    assert sampled > 30
