"""A lane with several sample places against a queue: values, decisions and clocks."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, replace

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
    SearchRegisters(SearchMode.BOUNDED, True, AdcRegisters(mode="uniform", n_r2=BITS)),
]


class LaneWithSettings(wiring.Component):
    """A lane, its settings, and the turns of its half."""

    def __init__(self, config):
        self.lane, self.begin, self.settings = PairLane(config), SearchBegin(config), SearchSettings(config)
        members = self.lane.signature.members
        inputs = ("inside", "turn", "contexts", "comparator", "oldest")
        outputs = ("threshold", "place", "busy", "occupied", "unfinished", "converted")
        super().__init__(
            {
                "registers": In(layouts.search_registers(config, True)),
                **{name: In(members[name].shape) for name in inputs},
                **{name: Out(members[name].shape) for name in outputs},
            }
        )
        self.inputs, self.outputs = inputs, outputs

    def elaborate(self, platform):
        m = Module()
        m.submodules.lane, m.submodules.settings, m.submodules.begin = self.lane, self.settings, self.begin
        m.d.comb += [
            self.settings.registers.eq(self.registers),
            self.lane.constants.eq(self.settings.constants),
            self.begin.constants.eq(self.settings.constants),
            self.begin.constants.signed.eq(1),
            self.lane.first.eq(self.begin.begin.threshold),
            *(getattr(self.lane, name).eq(getattr(self, name)) for name in self.inputs),
            *(getattr(self, name).eq(getattr(self.lane, name)) for name in self.outputs),
        ]
        return m


@dataclass
class Sample:
    """Of an activation. taken : the lane has begun with it. left : answers to come. answer : clock of the next one.
    bank : of its window."""

    place: int
    bank: int
    takes_part: bool
    level: int
    left: int
    taken: bool = False
    answer: int = 0


@pytest.mark.parametrize("registers", REGISTERS, ids=lambda registers: registers.mode.name)
@pytest.mark.parametrize("places", [2, 3, 6])
@pytest.mark.parametrize("seed", range(2))
def test_two_samples_are_converted_side_by_side_in_the_order_of_sampling(registers, places, seed):
    """Samples come at random, also faster than the lane is, of one window and of the next; it takes no part in some."""
    rng = random.Random(seed)
    config = replace(PAPER, machine="pairs", sample_places=places)
    dut = LaneWithSettings(config)
    held = [0] * places
    under_way: deque[Sample] = deque()
    count = side_by_side = overtaken = bank = oldest = ends = 0
    inside = seed == 1

    async def bench(ctx) -> None:
        nonlocal count, side_by_side, overtaken, bank, oldest, ends
        put(ctx, dut.registers, registers.fields(True))
        ctx.set(dut.inside, inside)
        await ctx.tick().repeat(2)
        asked = None  # the sample that was compared in the clock before
        for clock in range(1500):
            # A sample whose answer is looked at in this clock frees its slot, if the answer is the last one.
            looked = next((s for s in under_way if s.taken and s.left and s.answer == clock), None)
            converting = [s for s in under_way if s.taken and s.left]
            side_by_side += len(converting) == 2
            assert looked is asked
            compared = next((s for s in converting if s.answer == clock + 1), None)
            assert ctx.get(dut.busy) == (compared is not None)
            if compared is not None:
                assert ctx.get(dut.place) == compared.place
                put(ctx, dut.comparator, held[compared.place] >= fetch(ctx, dut.threshold))
            else:
                put(ctx, dut.comparator, rng.getrandbits(1))
            converted = fetch(ctx, dut.converted)
            assert converted["valid"] == (looked is not None and looked.left == 1)
            if converted["valid"]:
                found = tuple(converted[name] for name in ("value", "shift", "bank"))
                assert found == (looked.level, looked.place, looked.bank)
                overtaken += under_way[0] is not looked
            assert ctx.get(dut.unfinished) == any(s.bank == oldest for s in under_way)
            assert ctx.get(dut.occupied) == any(s.place == count % places for s in under_way)

            # The next sample in order begins in a free slot, or is passed over.
            waiting = next((s for s in under_way if not s.taken), None)
            free = looked is None or looked.left == 1
            if waiting is not None and (free or not waiting.takes_part):
                waiting.taken, waiting.answer = True, clock + 2
            if looked is not None:
                looked.left, looked.answer = looked.left - 1, clock + 2
            asked = compared
            while under_way and under_way[0].taken and not under_way[0].left:
                under_way.popleft()
            remaining = [s for s in under_way if not s.taken or s.left]
            under_way.clear()
            under_way.extend(remaining)

            sample = not ctx.get(dut.occupied) and rng.random() < 0.9
            if bank != oldest and not any(s.bank == oldest for s in under_way):
                oldest, ends = bank, ends + 1
            elif bank == oldest and rng.random() < 0.1:
                bank = 1 - bank
            ctx.set(dut.oldest, oldest)
            await ctx.tick()
            if sample:
                place, ones = count % places, rng.randint(1, PAPER.ou_rows)
                level = rng.choice(oracle.samples(PAPER.adc_bits, registers, ones))
                whole = rng.random() < 0.6
                operations = oracle.search(registers, PAPER.adc_bits, ones, level)[2]
                takes_part = whole or inside
                under_way.append(Sample(place, bank, takes_part, level, operations if takes_part else 0))
                held[place] = level
                left = ones << (registers.mode == SearchMode.BOUNDED)
                context = {"left": left, "whole": whole, "bank": bank, "block_col": 0, "shift": place}
                put(ctx, dut.contexts[place], context)
                count += 1
                put(ctx, dut.turn, {"place": count % places, "lap": count // places % 2})

    simulate(dut, bench, limit=2000)
    assert count > 100
    assert side_by_side > 100
    assert ends > 10
    assert places == 2 or overtaken > 5


def test_a_place_is_occupied_while_its_sample_of_a_whole_lap_before_waits():
    """Every place is handed out and the lane has taken none of their samples."""
    dut = LaneWithSettings(replace(PAPER, machine="pairs", sample_places=3))

    async def bench(ctx):
        for turn, occupied in (({"place": 0, "lap": 0}, 0), ({"place": 2, "lap": 0}, 0), ({"place": 0, "lap": 1}, 1)):
            put(ctx, dut.turn, turn)
            assert ctx.get(dut.occupied) == occupied

    simulate(dut, bench, limit=10)
