"""Statistics, rounding and bit slices of the dynamic-precision unit against golden_model.crossbar.redy."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import PAPER, TINY, HardwareConfig
from golden_model.crossbar import redy
from golden_model.crossbar.layer import DynamicPrecision as Registers
from rtl.dynamic_precision import DynamicPrecision
from rtl.group_precision import GroupPrecision
from sim.bench import simulate
from tests.bench import fetch, plain, put, stream_rule
from tests.rtl.tile_tools import expect_within, plain_settings, send_window

pytestmark = pytest.mark.rtl

#: The paper's OUs on a window buffer that is small enough to simulate quickly.
NINE = replace(PAPER, rows=27, max_k=64)


def _settings(hardware: HardwareConfig, registers: Registers | None, stream_bits: int):
    if registers is None:
        return plain_settings(hardware, stream_bits=stream_bits)
    return plain_settings(hardware, dynamic=1, stream_bits=stream_bits, l_max=registers.l_max, tau_sq=registers.tau_sq)


def _expected(hardware: HardwareConfig, window, registers: Registers | None, stream_bits: int):
    """Per segment {slices, mask}."""
    k, rows = len(window), hardware.ou_rows
    segments = -(-k // rows)
    if registers is None:
        streamed = np.asarray(window) & ((1 << stream_bits) - 1)
        masks = [(1 << stream_bits) - 1] * segments
    else:
        chosen = redy.precision(np.asarray(window)[None], hardware, registers)
        streamed = chosen.streamed[0]
        masks = []
        for segment in range(segments):
            group = segment // hardware.segments_per_group
            hi, lo = int(chosen.hi[0, group]), int(chosen.lo[0, group])
            masks.append((2 << hi) - (1 << lo) if hi >= 0 else 0)
    padded = np.zeros(segments * rows, dtype=np.int64)
    padded[:k] = streamed
    result = []
    for segment, mask in enumerate(masks):
        part = padded[segment * rows : (segment + 1) * rows]
        slices = [int(sum(int(q >> i & 1) << r for r, q in enumerate(part))) for i in range(hardware.input_bits)]
        result.append({"slices": slices, "mask": mask})
    return result


def _cuts(hardware: HardwareConfig, k: int, rng: random.Random) -> list[int]:
    """How many activations come at a time: any number up to `values_together`, none from two segments."""
    cuts, line = [], 0
    while line < k:
        room = min(hardware.values_together, hardware.ou_rows - line % hardware.ou_rows)
        cuts.append(rng.randint(1, room))
        line += cuts[-1]
    return cuts


def _run(hardware, windows, registers, stream_bits=None, stalls=()):
    """Segments of every window; checks latency and one beat a clock when not stalled."""
    stream_bits = stream_bits or hardware.input_bits
    dut = DynamicPrecision(hardware)
    results = []

    async def bench(ctx):
        put(ctx, dut.settings, _settings(hardware, registers, stream_bits))
        stall = iter(stalls)
        for window in windows:
            cuts = _cuts(hardware, len(window), random.Random(len(window)))
            await send_window(ctx, dut.bytes, window, cuts)
            # The byte of the clock before this one was the last.
            assert 1 + await expect_within(ctx, dut.segments.valid, 20) == DynamicPrecision.latency
            beats = []
            for _ in range(-(-len(window) // hardware.ou_rows)):
                for _ in range(next(stall, 0)):
                    await ctx.tick()
                assert ctx.get(dut.segments.valid), "a beat a clock"
                beats.append(plain(ctx.get(dut.segments.payload)))
                ctx.set(dut.segments.ready, 1)
                await ctx.tick()
                ctx.set(dut.segments.ready, 0)
            await ctx.tick()
            assert not ctx.get(dut.segments.valid), "no beat too many"
            results.append(beats)

    simulate(dut, bench, background=[stream_rule(dut.segments, "segments")], limit=20_000)
    return results


def _check(hardware, windows, registers, stream_bits=None, stalls=()):
    bits = stream_bits or hardware.input_bits
    assert _run(hardware, windows, registers, stream_bits, stalls) == [
        _expected(hardware, window, registers, bits) for window in windows
    ]


@st.composite
def _cases(draw):
    hardware = replace(
        TINY,
        machine=draw(st.sampled_from(["planes", "pairs"])),
        ou_rows=draw(st.integers(1, 5)),
        input_bits=draw(st.integers(1, 8)),
        group_segments=draw(st.one_of(st.none(), st.integers(1, 3))),
    )
    bits = hardware.input_bits
    registers = draw(
        st.one_of(
            st.none(),
            st.builds(Registers, l_max=st.integers(0, 7), tau_sq=st.sampled_from([0, 1, 40, 400, 4096, 65535])),
        )
    )
    top = draw(st.integers(0, bits).map(lambda b: (1 << b) - 1))
    window = st.lists(st.integers(0, top), min_size=1, max_size=hardware.max_k)
    stalls = draw(st.lists(st.integers(0, 2), max_size=20))
    return hardware, draw(st.lists(window, min_size=1, max_size=3)), registers, stalls


@given(_cases())
@settings(max_examples=40)
def test_random_windows_equal_golden(case):
    hardware, windows, registers, stalls = case
    _check(hardware, windows, registers, stalls=stalls)


@pytest.mark.parametrize("tau_sq", [0, 30, 300, 3000, 30000, 65535])
@pytest.mark.parametrize("l_max", [1, 4, 7])
def test_lossy_choice_at_nine_rows_equals_golden(l_max, tau_sq):
    rng = np.random.default_rng(tau_sq + l_max)
    windows = [rng.integers(0, 1 << rng.integers(1, 9), 64) for _ in range(4)]
    windows.append(np.minimum(255, rng.exponential(40, 60).astype(int)))
    _check(NINE, windows, Registers(l_max=l_max, tau_sq=tau_sq))


def test_group_of_zeros_streams_no_bits():
    hardware = replace(TINY, group_segments=1)
    window = [0] * 4 + [5] * 4 + [0] * 4
    masks = [beat["mask"] for beat in _run(hardware, [window], Registers(l_max=3, tau_sq=4096))[0]]
    assert masks == [0, 0b0111, 0]


@pytest.mark.parametrize("registers", [None, Registers(l_max=7, tau_sq=65535), Registers(l_max=7, tau_sq=0)])
def test_saturated_window_keeps_every_bit(registers):
    _check(NINE, [[255] * 64, [255] * 63 + [0], [0] * 63 + [255]], registers)


def test_rounding_beyond_the_top_saturates():
    # Half zeros, half maxima: a spread that drops many bits, and maxima that round up.
    window = [0, 15] * 8
    beats = _run(TINY, [window], Registers(l_max=2, tau_sq=65535))[0]
    assert beats == _expected(TINY, window, Registers(l_max=2, tau_sq=65535), 4)
    assert beats[0]["mask"] == 0b1100


def test_static_layer_streams_its_low_bits():
    rng = np.random.default_rng(2)
    for bits in range(1, 5):
        _check(TINY, [rng.integers(0, 1 << bits, 24)], None, stream_bits=bits)


def test_precision_comes_its_latency_after_the_last_byte():
    dut = GroupPrecision(TINY)

    async def bench(ctx):
        put(ctx, dut.settings, _settings(TINY, Registers(), 4))
        await send_window(ctx, dut.bytes, [1, 2, 3])
        assert 1 + await expect_within(ctx, dut.precisions.valid, 10) == GroupPrecision.latency
        assert fetch(ctx, dut.precisions.value) == {"mask": 0b0011, "half": 0}

    simulate(dut, bench, limit=50)


@pytest.mark.parametrize("group_segments", [1, 2, 3])
def test_a_window_one_row_short_of_a_group_leaves_nothing_to_the_next(group_segments):
    hardware = replace(TINY, group_segments=group_segments)
    rows = hardware.segments_per_group * hardware.ou_rows
    _check(hardware, [[3] * (rows - 1), [1] * (rows - 1) + [8], [2] * rows, [1]], Registers(l_max=3, tau_sq=400))
