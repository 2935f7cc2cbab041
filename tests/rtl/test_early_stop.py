"""Early stop against the definition, with a requantiser played by the bench; and that it cannot change a result."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import PAPER, HardwareConfig
from golden_model.rounding import round_half_up_shift
from rtl.early_stop import EarlyStop
from sim.bench import simulate
from tests.bench import collector, fetch, put, send, stream_rule

pytestmark = pytest.mark.rtl


def _requantise(total: int, bias: int, multiplier: int, shift: int) -> int:
    return min(max(int(round_half_up_shift((total + bias) * multiplier, shift)), 0), 255)


def _saturated(total: int, config: HardwareConfig) -> int:
    most = (1 << (config.accumulator_bits - 1)) - 1
    return min(max(total, -most - 1), most)


def _bounds(config: HardwareConfig, check: dict) -> tuple[int, int]:
    reach = (1 << check["bits_left"]) - 1
    low, high = check["partial"] - reach * check["negative"], check["partial"] + reach * check["positive"]
    return _saturated(low, config), _saturated(high, config)


def _decide(config: HardwareConfig, checks: list[dict], exact: bool, requantise, stall: float = 0.0, delay: int = 0):
    """[(output, final)] of the hardware; the requantiser answers `delay` clocks after it was asked."""
    dut = EarlyStop(config)
    decisions, asked = [], []

    async def producer(ctx):
        ctx.set(dut.exact, exact)
        await send(ctx, dut.checks, checks, stall=stall, seed=1)
        while len(decisions) < len(checks):
            await ctx.tick()

    async def requantiser(ctx):
        rng = random.Random(2)
        queue: deque = deque([None] * delay)
        while True:
            ctx.set(dut.bounds.ready, rng.random() >= stall)
            taken = ctx.get(dut.bounds.valid) and ctx.get(dut.bounds.ready)
            queue.append(fetch(ctx, dut.bounds.payload) if taken else None)
            answer = queue.popleft()
            ctx.set(dut.value_valid, answer is not None)
            if answer is not None:
                asked.append(answer)
                put(ctx, dut.value_bound, answer)
                put(ctx, dut.value, requantise(answer))
            await ctx.tick()

    simulate(
        dut,
        producer,
        background=[
            requantiser,
            stream_rule(dut.bounds, "bounds"),
            collector(dut.decision, dut.output, dut.final, into=decisions),
        ],
        limit=40 * len(checks) + 100,
    )
    return decisions, asked


def _checks(config: HardwareConfig, rng: random.Random, count: int) -> list[dict]:
    largest = config.max_k * ((1 << config.weight_bits) - 1)
    return [
        {
            "output": rng.randrange(config.max_n),
            "partial": rng.randint(-60000, 60000),
            "positive": rng.choice([0, rng.randint(0, 300), rng.randint(0, largest)]),
            "negative": rng.choice([0, rng.randint(0, 300), rng.randint(0, largest)]),
            "bits_left": rng.randint(0, config.input_bits),
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("stall", "delay"), [(0.0, 0), (0.5, 3)])
def test_output_is_final_exactly_when_its_bounds_requantise_to_the_same(exact, stall, delay):
    rng = random.Random(7)
    checks = _checks(PAPER, rng, 80)
    bias, multiplier, shift = -2000, 300, 16

    def requantise(bound):
        return _requantise(bound["sum"], bias, multiplier, shift)

    decisions, asked = _decide(PAPER, checks, exact, requantise, stall, delay)
    expected = []
    for check in checks:
        low, high = (_requantise(total, bias, multiplier, shift) for total in _bounds(PAPER, check))
        expected.append((check["output"], int(low == high if exact else high == 0)))
    assert decisions == expected
    assert 10 < sum(final for _, final in decisions) < 70
    assert len(asked) == len(checks) * (2 if exact else 1)


def test_bounds_beyond_the_accumulator_saturate():
    check = {"output": 3, "positive": 130000, "negative": 130000, "bits_left": 8}
    checks = [check | {"partial": (1 << 31) - 1}, check | {"partial": -(1 << 31)}]
    _, asked = _decide(PAPER, checks, True, lambda bound: 0)
    reach = 255 * 130000
    assert [bound["sum"] for bound in asked] == [
        (1 << 31) - 1 - reach,
        (1 << 31) - 1,
        -(1 << 31),
        -(1 << 31) + reach,
    ]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(-255, 255)), min_size=1, max_size=12),
    st.integers(0, 8),
    st.integers(-30000, 30000),
    st.integers(0, 1000),
    st.integers(0, 18),
)
def test_final_output_has_the_value_of_its_partial_sum_and_of_its_whole_sum(terms, left, bias, multiplier, shift):
    """The definition itself: what the unit finds final is what post-processing of the partial sum gives."""
    partial = sum((x >> left << left) * w for x, w in terms)
    whole = sum(x * w for x, w in terms)
    check = {
        "partial": partial,
        "positive": sum(max(w, 0) for _, w in terms),
        "negative": sum(max(-w, 0) for _, w in terms),
        "bits_left": left,
    }
    low, high = (_requantise(total, bias, multiplier, shift) for total in _bounds(PAPER, check))
    if low == high or high == 0:
        assert _requantise(partial, bias, multiplier, shift) == _requantise(whole, bias, multiplier, shift) == high
