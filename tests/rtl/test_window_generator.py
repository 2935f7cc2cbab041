"""The window walk against the scalar model of a step."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import PRESETS, TINY
from golden_model.registers import StepKind, descriptor_fields
from rtl.window_generator import WindowGenerator
from sim.bench import simulate
from tests.bench import fetch, put
from tests.rtl import step_model
from tests.rtl.tile_tools import strobe, write_table

pytestmark = pytest.mark.rtl

PADS = [3, 9, 15, 0, 7, 1, 12, 5]
PAIRS = PRESETS["tiny-pairs"]
MACROS = replace(PAIRS, macros=4)


def _slots(fields, memory, hardware):
    """What a macro's `bytes` must show in every clock of every window: values, none in a residual's clock, ends."""
    element = step_model.is_element(fields)
    together = 1 if element else hardware.values_together
    result = []
    for channels in step_model.windows(fields, memory, PADS):
        slots, line = [], 0
        for values in channels:
            for at in range(0, len(values), fields["kernel_width"]):
                row = values[at : at + fields["kernel_width"]]
                while row:
                    size = min(len(row), together, hardware.ou_rows - line % hardware.ou_rows)
                    slots.append((row[:size], 0))
                    row, line = row[size:], line + size
            if element and fields["residual"]:
                slots.append(([], 0))
            slots[-1] = (slots[-1][0], 1)
        result.append([(values, end, int(i == len(slots) - 1)) for i, (values, end) in enumerate(slots)])
    return result


def _run(fields, memory, *, hardware=TINY, gaps=False, broken=0):
    """(values, channel_last, last) of every clock of every window, and every round's place.

    gaps : random clocks between rounds, else a round is started in the clock of the last one's end. broken : rounds
    after which the layer was broken off before.
    """
    dut = WindowGenerator(hardware)
    size = hardware.activation_bytes
    rng = random.Random(1)
    windows, places = [], []
    end = fields["source"] + fields["channels"] * fields["in_plane"]

    async def answers(ctx):
        read = dut.read
        async for _, _, enable, address, request in ctx.tick().sample(read.enable, read.address, dut.residual_request):
            assert not (enable and request), "the residual's clock is free"
            places = [(address + i) % (1 << len(dut.read.address)) for i in range(hardware.fetch_bytes)]
            inside = [fields["source"] <= place < end for place in places]
            assert not enable or any(inside)
            # What was not asked for must not matter.
            for value, place, is_map in zip(dut.read.data, places, inside, strict=True):
                ctx.set(value, memory[place] if enable and is_map else rng.randrange(256))

    async def bench(ctx):
        put(ctx, dut.settings, {field.name: fields.get(field.name, 0) for field in descriptor_fields(hardware)})
        ctx.set(dut.row_step, fields["stride_y"] * fields["width"] % size)
        ctx.set(dut.pad_rows, fields["pad_top"] * fields["width"] % size)
        await write_table(ctx, dut.pad_write, PADS)
        await strobe(ctx, dut.layer_start)
        for _ in range(broken):
            await strobe(ctx, dut.start)
            while not any(byte["last"] for byte in fetch(ctx, dut.bytes)):
                await ctx.tick()
        if broken:
            await strobe(ctx, dut.layer_start)
        rounds = step_model.rounds(fields, hardware.macros)
        windows.extend([] for _ in step_model.origins(fields))
        ctx.set(dut.start, 1)
        for index, together in enumerate(rounds):
            await ctx.tick()
            ctx.set(dut.start, 0)
            places.append(fetch(ctx, dut.place))
            await ctx.tick().repeat(WindowGenerator.latency - 1)
            got = windows[together[0]]
            while not (got and got[-1][2]):
                if got:
                    requested = fetch(ctx, dut.residual_request)
                    await ctx.tick()
                    given = fetch(ctx, dut.bytes)
                    assert bool(given[0]["used"]) + requested == 1, "a byte a clock, or the residual's clock"
                else:
                    given = fetch(ctx, dut.bytes)
                for macro, byte in enumerate(given):
                    used = byte["used"].bit_count()
                    assert byte["used"] == (1 << used) - 1, "the first ones"
                    if macro < len(together):
                        seen = (list(byte["values"])[:used], byte["channel_last"], byte["last"])
                        windows[together[macro]].append(seen)
                    else:
                        silent = used == byte["channel_last"] == byte["last"] == 0
                        assert silent, "a macro without a window"
            if gaps:
                for _ in range(rng.randrange(1, 4)):
                    await ctx.tick()
                    assert not any(byte["channel_last"] or byte["used"] for byte in fetch(ctx, dut.bytes))
            ctx.set(dut.start, index + 1 < len(rounds))

    simulate(dut, bench, processes=[answers], limit=60_000)
    return windows, places


def _check(fields, memory, hardware=TINY, **options):
    windows, places = _run(fields, memory, hardware=hardware, **options)
    assert windows == _slots(fields, memory, hardware)
    inside = fields["pool"] ** 2
    active = [(1 << len(together)) - 1 for together in step_model.rounds(fields, hardware.macros)]
    assert [p["active"] for p in places] == active
    assert [p["pool_first"] for p in places] == [int(i % inside == 0) for i in range(len(places))]
    assert [p["pool_last"] for p in places] == [int(i % inside == inside - 1) for i in range(len(places))]
    assert [p["last"] for p in places] == [0] * (len(places) - 1) + [1]


def _memory(seed=0, top=15):
    rng = random.Random(seed)
    return [rng.randrange(top + 1) for _ in range(TINY.activation_bytes)]


@st.composite
def _steps(draw):
    kind = draw(st.sampled_from(StepKind))
    element = kind != StepKind.CROSSBAR
    size, columns = st.integers(1, 3), st.integers(1, 6)
    channels, height, width = draw(size), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    outputs = draw(st.integers(1, 5))
    padded = draw(st.booleans())
    base = draw(st.integers(0, len(PADS) - max(outputs, channels)))
    return step_model.step(
        TINY,
        step=kind,
        channels=channels,
        height=height,
        width=width,
        outputs=outputs,
        source=draw(st.integers(0, TINY.activation_bytes - channels * height * width)),
        kernel_height=draw(size),
        kernel_width=draw(size),
        stride_y=draw(st.integers(1, 4)),
        stride_x=draw(st.integers(1, 5)),
        pad_top=draw(st.integers(0, 4)),
        pad_left=draw(st.integers(0, 4)),
        out_height=draw(size),
        out_width=draw(columns),
        pool=1 if element else draw(size),
        pad_enable=int(padded),
        pad_base=base,
        pad_value=draw(st.integers(0, 15)),
        first_channel=draw(st.integers(0, 6)) if element else 0,
        residual=int(element and draw(st.booleans())),
        residual_column=draw(st.integers(0, 5)),
        last=int(draw(st.integers(0, 4)) == 0),
    )


@pytest.mark.parametrize("hardware", [TINY, PAIRS, MACROS], ids=["planes", "pairs", "macros"])
def test_any_step_is_walked_as_the_model_says(hardware):
    @given(fields=_steps(), gaps=st.booleans(), seed=st.integers(0, 100))
    @settings(max_examples=60)
    def inner(fields, gaps, seed):
        _check(fields, _memory(seed), hardware, gaps=gaps)

    inner()


@pytest.mark.parametrize("macros", [1, 4])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 9])
def test_neighbours_end_with_their_segment(rows, macros):
    hardware = replace(PAIRS, rows=rows, ou_rows=rows, adc_bits=4, macros=macros)
    fields = step_model.step(
        hardware, channels=2, height=3, width=11, kernel_height=2, kernel_width=7, pad_left=3, out_height=2, out_width=9
    )
    _check(fields, _memory(), hardware)


@pytest.mark.parametrize("broken", [1, 2, 4, 8])
def test_a_layer_begins_anew_wherever_the_one_before_was_broken_off(broken):
    fields = step_model.step(TINY, height=5, width=4, kernel_height=2, pool=2, out_height=2, out_width=2, pad_top=1)
    _check(fields, _memory(), broken=broken)


def test_saturated_activations_and_borders_come_through():
    fields = step_model.step(
        TINY, channels=2, height=4, width=3, kernel_height=3, kernel_width=3, pad_top=1, pad_left=1, out_height=4,
        out_width=3, pad_value=15,
    )  # fmt: skip
    _check(fields, [15] * TINY.activation_bytes)


@pytest.mark.parametrize("kind", [StepKind.CROSSBAR, StepKind.SUM])
def test_largest_strides_and_borders_never_come_back_into_the_map(kind):
    # Column 258 * 255 - 250 is 4 modulo 2**16; modulo smaller powers there are others.
    fields = step_model.step(TINY, step=kind, width=16, stride_x=255, pad_left=250, out_width=260, pad_value=4)
    _check(fields, [15] * TINY.activation_bytes)
    fields = step_model.step(TINY, step=kind, height=16, stride_y=255, pad_top=250, out_height=260, pad_value=4)
    _check(fields, [15] * TINY.activation_bytes)


def test_input_channel_far_behind_the_last_output_channel_is_never_read():
    fields = step_model.step(TINY, step=StepKind.MAXIMUM, outputs=3, channels=4, first_channel=65535, pad_value=2)
    _check(fields, _memory())


def test_negative_channel_is_no_large_one():
    fields = step_model.step(TINY, step=StepKind.SUM, outputs=3, channels=65535, first_channel=65534, pad_value=2)
    _check(fields | {"channels": 65535}, _memory())


def test_map_may_fill_the_whole_memory():
    hardware = replace(TINY, activation_bytes=200)
    fields = step_model.step(
        hardware, step=StepKind.MAXIMUM, channels=2, outputs=2, height=10, width=10, kernel_height=2, kernel_width=2,
        stride_y=9, stride_x=9, pad_top=1, pad_left=1, out_height=2, out_width=2,
    )  # fmt: skip
    _check(fields, _memory()[:200], hardware=hardware)
