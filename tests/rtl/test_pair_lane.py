"""A lane with two sample places against a queue of two: values, decisions and clocks."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import PAPER
from golden_model.trq import AdcRegisters
from rtl import pair_layouts as layouts
from rtl.pair_lane import PairLane
from rtl.pair_layouts import SearchMode
from rtl.search_begin import SearchBegin
from rtl.search_settings import SearchSettings
from sim.bench import simulate
from tests.bench import fetch, put
from tests.rtl import search_oracle as oracle
from tests.rtl.search_oracle import SearchRegisters

pytestmark = pytest.mark.rtl

BITS = PAPER.adc_bits + 1
REGISTERS = [
    SearchRegisters(SearchMode.OUTWARD, True, AdcRegisters(mode="uniform", n_r2=BITS)),
    SearchRegisters(SearchMode.BOUNDED, False, AdcRegisters(mode="uniform", n_r2=BITS - 1)),
]


class LaneWithSettings(wiring.Component):
    """A lane, its settings and what its conversions begin with."""

    def __init__(self):
        config = PAPER
        self.lane, self.begin = PairLane(config), SearchBegin(config)
        self.settings = SearchSettings(config)
        super().__init__(
            {
                "registers": In(layouts.search_registers(config, True)),
                "ones": In(layouts.ones_in_ou(config)),
                "ones_waiting": In(layouts.ones_in_ou(config)),
                **{name: In(1) for name in ("sample", "place_next", "oldest", "complete", "comparator")},
                **{name: Out(1) for name in ("place", "busy", "pending")},
                **{name: Out(layouts.search_threshold(config, True)) for name in ("threshold", "value")},
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.lane = lane = self.lane
        m.submodules.settings = self.settings
        m.submodules.begin, m.submodules.begin_waiting = self.begin, SearchBegin(PAPER)
        m.d.comb += [
            self.settings.registers.eq(self.registers),
            lane.constants.eq(self.settings.constants),
            lane.begin.eq(self.begin.begin),
            lane.begin_waiting.eq(m.submodules.begin_waiting.begin),
        ]
        for begin, ones in ((m.submodules.begin, self.ones), (m.submodules.begin_waiting, self.ones_waiting)):
            m.d.comb += [begin.constants.eq(self.settings.constants), begin.ones.eq(ones)]
        for name in ("sample", "place_next", "oldest", "complete", "comparator"):
            m.d.comb += getattr(lane, name).eq(getattr(self, name))
        for name in ("place", "busy", "pending", "threshold", "value"):
            m.d.comb += getattr(self, name).eq(getattr(lane, name))
        return m


@dataclass
class Sample:
    """Of an activation. taken : the lane takes part. left : decisions to come."""

    place: int
    taken: bool
    ones: int
    level: int
    left: int


def _sample(rng: random.Random, registers: SearchRegisters, place: int) -> Sample:
    ones = rng.randint(1, PAPER.ou_rows)
    level = rng.choice(oracle.samples(PAPER.adc_bits, registers, ones))
    taken = rng.random() < 0.7
    operations = oracle.search(registers, PAPER.adc_bits, ones, level)[2]
    return Sample(place, taken, ones, level, operations if taken else 0)


@pytest.mark.parametrize("registers", REGISTERS, ids=lambda registers: registers.mode.name)
@pytest.mark.parametrize("seed", range(3))
def test_samples_are_converted_in_order_without_a_gap_and_values_wait_for_their_activation(registers, seed):
    """Other lanes are slow at random, so that values wait; the lane takes no part in some activations."""
    rng = random.Random(seed)
    dut = LaneWithSettings()
    held = [0, 0]
    under_way: deque[Sample] = deque()
    count = waited = 0

    async def bench(ctx) -> None:
        nonlocal count, waited
        put(ctx, dut.registers, registers.fields(True))
        await ctx.tick().repeat(2)
        oldest = 0
        for _ in range(1500):
            converting = next((sample for sample in under_way if sample.left), None)
            assert ctx.get(dut.busy) == (converting is not None)
            if converting is not None:
                assert ctx.get(dut.place) == converting.place
                put(ctx, dut.comparator, held[converting.place] >= fetch(ctx, dut.threshold))
                converting.left -= 1
            assert ctx.get(dut.pending) == bool(under_way and under_way[0].left)
            complete = bool(under_way) and not under_way[0].left and rng.random() < 0.5
            if complete and under_way[0].taken:
                assert fetch(ctx, dut.value) == under_way[0].level
                waited += len(under_way) == 2 and under_way[1].taken and not under_way[1].left
            new = _sample(rng, registers, count % 2) if len(under_way) - complete < 2 and rng.random() < 0.9 else None
            put(ctx, dut.complete, complete)
            put(ctx, dut.oldest, oldest)
            put(ctx, dut.place_next, count % 2)
            put(ctx, dut.sample, new is not None and new.taken)
            put(ctx, dut.ones, new.ones if new is not None else 1)
            await ctx.tick()
            if complete:
                under_way.popleft()
                oldest ^= 1
                put(ctx, dut.oldest, oldest)
            if new is not None:
                under_way.append(new)
                held[new.place] = new.level
                count += 1
                put(ctx, dut.ones_waiting, new.ones)

    simulate(dut, bench, limit=2000)
    assert count > 100
    assert waited > 5
