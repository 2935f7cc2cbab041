"""Early stop against the golden model, and against its definition at the ends of its range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from golden_model.config import PAPER, TINY, HardwareConfig
from golden_model.pairs.early_stop import EarlyStop as GoldenStop
from golden_model.pairs.early_stop import find_stops, starts
from rtl.early_stop import EarlyStop, magnitude_sum
from sim.bench import simulate
from tests.bench import collector, put
from tests.golden_model.test_pairs import ALONE, cases, streamed

pytestmark = pytest.mark.rtl


def decide(config: HardwareConfig, checks: list[dict[str, int]], gaps: int = 0) -> list[tuple[int, int]]:
    """(output, final) of every check, `gaps` clocks without a check after each of them."""
    dut = EarlyStop(config)
    decisions: list[tuple[int, int]] = []

    async def bench(ctx):
        for one in checks:
            ctx.set(dut.check, 1)
            put(ctx, dut.given, one)
            await ctx.tick()
            ctx.set(dut.check, 0)
            for _ in range(gaps):
                await ctx.tick()
        await ctx.tick().repeat(dut.latency)

    watch = collector(dut.decision, dut.output, dut.final, into=decisions)
    simulate(dut, bench, background=[watch], limit=(gaps + 1) * len(checks) + 10)
    return decisions


@given(cases(ALONE))
@settings(max_examples=25, deadline=None)
def test_outputs_stop_after_the_bits_of_the_golden_model(case):
    packing, layer, windows = case
    x = streamed(packing, layer, windows)
    positive = np.maximum(layer.weights, 0).sum(axis=0)
    stops = find_stops(layer, packing.prepared, windows, GoldenStop())
    checks, expected = [], []
    for window, last_bit in zip(x, stops.last_bit, strict=True):
        for bit in reversed(range(1, layer.input_bits)):
            partial = starts(layer) + (window >> bit << bit) @ layer.weights
            for n in np.flatnonzero(last_bit <= bit):
                sums = {"partial": int(partial[n]), "positive": int(positive[n])}
                checks.append({"output": int(n), "bits_left": bit} | sums)
                expected.append((int(n), int(last_bit[n] == bit)))
    assert decide(PAPER, checks) == expected


@pytest.mark.parametrize("config", [PAPER, TINY])
@pytest.mark.parametrize("gaps", [0, 2])
def test_an_output_is_final_exactly_when_its_largest_sum_is_negative(config, gaps):
    most, largest = 1 << (config.accumulator_bits - 1), (1 << magnitude_sum(config).width) - 1
    checks = [
        {"output": i % config.max_n, "partial": partial, "positive": positive, "bits_left": left}
        for i, (positive, left) in enumerate((p, j) for p in (0, 1, largest) for j in range(config.input_bits + 1))
        for partial in (-most, -(positive << left) - 1, -(positive << left), most - 1)
        if partial >= -most
    ]
    expected = [(c["output"], int(c["partial"] + (c["positive"] << c["bits_left"]) < 0)) for c in checks]
    assert decide(config, checks, gaps) == expected
    assert {final for _, final in expected} == {0, 1}


def test_a_decision_comes_after_the_latency():
    dut = EarlyStop(TINY)
    seen = []

    async def bench(ctx):
        ctx.set(dut.check, 1)
        for _ in range(3):
            seen.append(ctx.get(dut.decision))
            await ctx.tick()
            ctx.set(dut.check, 0)

    simulate(dut, bench, limit=10)
    assert seen.index(1) == dut.latency
    assert seen == [0, 1, 0]
