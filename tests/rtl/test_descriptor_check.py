"""Reading and checking descriptors: the hardware and `golden_model.image.check` accept the same set."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from golden_model.config import PRESETS, TINY, HardwareConfig
from golden_model.image.check import check_descriptor
from golden_model.registers import (
    DESCRIPTOR_STRIDE,
    MAX_ELEMENT_KERNEL,
    ErrorCode,
    StepKind,
    counters_of,
    descriptor_fields,
    pack_descriptor,
)
from golden_model.timing import c_layer
from rtl.descriptor_check import DescriptorCheck
from rtl.descriptor_reader import DescriptorReader
from sim.bench import simulate
from tests.bench import fetch, put
from tests.rtl.tile_tools import plain_settings, strobe, write_table

pytestmark = pytest.mark.rtl

#: No limit is a power of two, and no two are equal.
ODD = replace(
    TINY,
    ou_rows=5,
    rows=11,
    ou_cols=3,
    cols=13,
    input_bits=7,
    adc_bits=4,
    crossbar_pairs=11,
    max_k=77,
    max_n=53,
    activation_bytes=70_001,
    width_entries=203,
    channel_entries=101,
    pad_entries=37,
)
#: All addresses that a descriptor can name are there.
FULL = replace(ODD, activation_bytes=1 << 24)
TABLES = replace(TINY, activation_tables=5)
STOP = replace(PRESETS["tiny-pairs"], early_stop=1)
MACHINES = {"tiny": TINY, "odd": ODD, "full": FULL, "pairs": PRESETS["tiny-pairs"], "tables": TABLES, "stop": STOP}


def _crossbar(hardware: HardwareConfig, **sizes: int) -> dict[str, int]:
    """A convolution with a residual: 2 x 5 x 4 -> N x 3 x 2, kernel 3 x 2."""
    c, h, w, kh, kw, oh, ow = (
        sizes.get(name, default)
        for name, default in zip(
            ("channels", "height", "width", "kernel_height", "kernel_width", "out_height", "out_width"),
            (2, 5, 4, 3, 2, 3, 2),
            strict=True,
        )
    )
    n = sizes.get("outputs", 5)
    k = c * kh * kw
    segments, block_cols = -(-k // hardware.ou_rows), -(-n // hardware.ou_cols)
    values = {
        "channels": c,
        "height": h,
        "width": w,
        "in_plane": h * w,
        "kernel_height": kh,
        "kernel_width": kw,
        "stride_y": 2,
        "stride_x": 1,
        "pad_top": 1,
        "pad_left": 0,
        "pool": 1,
        "out_height": oh,
        "out_width": ow,
        "out_plane": oh * ow,
        "outputs": n,
        "target": 64,
        "stream_bits": hardware.input_bits,
        "out_bits": 1,
        "pad_enable": 1,
        "pad_base": 1,
        "segments": segments,
        "block_cols": block_cols,
        "last_rows": k - (segments - 1) * hardware.ou_rows,
        "last_cols": n - (block_cols - 1) * hardware.ou_cols,
        "width_base": 3,
        "channel_base": 2,
        "crossbar_base": 1,
        "residual": 1,
        "residual_base": 100,
        "residual_channels": 3,
        "residual_plane": oh * ow,
        "residual_row": ow,
        "residual_column": 1,
        "n_r2": hardware.converter_bits,
    }
    return plain_settings(hardware, **values)


def _logits(hardware: HardwareConfig) -> dict[str, int]:
    """The last step of a classifier: a matrix product of one window."""
    values = _crossbar(hardware, height=3, kernel_height=3, width=2, out_height=1, out_width=1)
    return values | {"last": 1, "residual": 0, "pad_enable": 0, "target": 0}


def _element(hardware: HardwareConfig, kind: StepKind) -> dict[str, int]:
    """A pooling of 2 x 5 x 4 -> 3 x 3 x 2 with a border of its own for every channel and a residual."""
    values = _crossbar(hardware, outputs=3)
    unused = ("segments", "block_cols", "last_rows", "last_cols", "width_base", "channel_base", "crossbar_base", "n_r2")
    return values | dict.fromkeys(unused, 0) | {"step": int(kind), "first_channel": 1, "multiplier": 9}


def _legal(hardware: HardwareConfig) -> dict[str, dict[str, int]]:
    return {
        "crossbar": _crossbar(hardware),
        "logits": _logits(hardware),
        "maximum": _element(hardware, StepKind.MAXIMUM),
        "sum": _element(hardware, StepKind.SUM),
        "logits of a sum": _element(hardware, StepKind.SUM) | {"last": 1, "residual": 0, "outputs": 1, "pad_enable": 0},
    }


def _answers(hardware: HardwareConfig, descriptors: list[dict[str, int]]) -> list[tuple[ErrorCode, int, int]]:
    """(error, row_step, pad_rows) of every descriptor, from one simulation; the latency is asserted."""
    dut = DescriptorCheck(hardware)
    results = []

    async def bench(ctx):
        for values in descriptors:
            put(ctx, dut.settings, values)
            await strobe(ctx, dut.start)
            clocks = DescriptorCheck.latency(hardware) - 1
            await ctx.tick().repeat(clocks - 1)
            assert not ctx.get(dut.done)
            await ctx.tick()
            assert ctx.get(dut.done)
            error = ErrorCode(ctx.get(dut.error))
            await ctx.tick()
            assert not ctx.get(dut.done)
            results.append((error, ctx.get(dut.row_step), ctx.get(dut.pad_rows)))

    simulate(dut, bench, limit=400 * (1 + len(descriptors)))
    return results


def _golden(hardware: HardwareConfig, values: dict[str, int]) -> ErrorCode:
    """The golden answer without the A/D registers, which another block checks."""
    answer = check_descriptor(hardware, values)
    return ErrorCode.NONE if answer == ErrorCode.ADC_CONFIGURATION else answer


def _compare(hardware: HardwareConfig, descriptors: list[dict[str, int]]) -> list[ErrorCode]:
    """Hardware and golden model answer alike; what they answer."""
    distinct = {tuple(values.items()): values for values in descriptors}
    answers = dict(zip(distinct, _answers(hardware, list(distinct.values())), strict=True))
    found = [answers[tuple(values.items())][0] for values in descriptors]
    expected = [_golden(hardware, values) for values in descriptors]
    for values, a, b in zip(descriptors, found, expected, strict=True):
        assert a == b, f"the hardware says {a.name}, the golden model {b.name}: {values}"
    return found


@pytest.mark.parametrize("name", MACHINES)
def test_legal_steps_of_every_kind_are_accepted(name):
    hardware = MACHINES[name]
    assert set(_compare(hardware, list(_legal(hardware).values()))) == {ErrorCode.NONE}


@pytest.mark.parametrize("name", PRESETS)
def test_clocks_of_a_check_are_those_of_the_golden_formula(name):
    hardware = PRESETS[name]
    checked = DescriptorReader.latency(hardware) + DescriptorCheck.latency(hardware) + 1
    assert c_layer(hardware) == max(checked, hardware.ou_rows + 3) + 1 + len(counters_of(hardware))


@pytest.mark.parametrize("name", MACHINES)
def test_row_products_are_taken_modulo_the_address_range(name):
    hardware = MACHINES[name]
    size = 1 << (hardware.activation_bytes - 1).bit_length()
    steps = [
        _crossbar(hardware) | {"stride_y": stride, "pad_top": pad, "width": width}
        for stride, pad, width in ((2, 1, 4), (255, 0, 65535), (3, 255, 65535), (255, 255, 257))
    ]
    expected = [(s["stride_y"] * s["width"] % size, s["pad_top"] * s["width"] % size) for s in steps]
    assert [(row, pad) for _, row, pad in _answers(hardware, steps)] == expected


# ---- every rule, at its limit and one beyond ------------------------------------------------------
def _boundaries(hardware: HardwareConfig) -> dict[str, tuple[dict[str, int], dict[str, int]]]:
    """Per rule, a descriptor that just fits and one that just does not."""
    legal = _legal(hardware)
    crossbar, logits, maximum = legal["crossbar"], legal["logits"], legal["maximum"]
    memory, n, pads = hardware.activation_bytes, crossbar["outputs"], hardware.pad_entries
    blocks = crossbar["segments"] * crossbar["block_cols"]
    pairs: dict[str, tuple[dict[str, int], dict[str, int]]] = {}

    def pair(rule: str, base: dict[str, int], good: dict[str, int], bad: dict[str, int]) -> None:
        pairs[rule] = (base | good, base | bad)

    for kind, base in legal.items():
        for name in ("stride_y", "stride_x", "pool"):
            pair(f"{kind}: {name} >= 1", base, {name: 1}, {name: 0})
        for name in ("stream_bits", "out_bits"):
            pair(f"{kind}: {name} >= 1", base, {name: 1}, {name: 0})
            pair(f"{kind}: {name} <= input_bits", base, {name: hardware.input_bits}, {name: hardware.input_bits + 1})
        if hardware.pairs:
            pair(f"{kind}: out_ones", base, {"out_ones": hardware.input_bits}, {"out_ones": hardware.input_bits + 1})
        if hardware.looks_up:
            most = hardware.activation_tables
            pair(f"{kind}: table", base, {"lookup": most}, {"lookup": most + 1})
            pair(f"{kind}: any table", base, {"lookup": 0}, {"lookup": 255})
        if hardware.early_stop:
            most = (1 << 8) - 1
            free = {} if base["last"] or base["residual"] else {"stop_bits": most}
            pair(f"{kind}: stop_bits", base, free, {"stop_bits": most, "last": 1} if free else {"stop_bits": 1})
        pair(f"{kind}: H * W = in_plane", base, {}, {"in_plane": base["in_plane"] - 1})
        last_source = memory - 2 * base["in_plane"]
        pair(f"{kind}: end of the source", base, {"source": last_source}, {"source": last_source + 1})
        pair(f"{kind}: oh * ow = out_plane", base, {}, {"out_plane": base["out_plane"] + 1})
        top = 1 << hardware.input_bits
        pair(f"{kind}: pad_value < 2**input_bits", base | {"pad_enable": 0}, {"pad_value": top - 1}, {"pad_value": top})
        pair(f"{kind}: pad_value is not used", base | {"pad_enable": 1, "pad_base": 0}, {"pad_value": 255}, {"pool": 0})
        one = base["last"] or base["residual"]
        pair(f"{kind}: pool", base, {"pool": 1}, {"pool": 2}) if one or base["step"] else None
    for kind in ("crossbar", "maximum"):
        base = legal[kind]
        last_target = memory - base["outputs"] * base["out_plane"]
        pair(f"{kind}: end of the target", base, {"target": last_target}, {"target": last_target + 1})
        border = base["channels"] if kind == "crossbar" else base["outputs"]
        pair(f"{kind}: end of the pads", base, {"pad_base": pads - border}, {"pad_base": pads - border + 1})
        pair(f"{kind}: pads not used", base, {"pad_base": 1 << 20, "pad_enable": 0}, {"pad_base": 1 << 20})
        pair(f"{kind}: last has no residual", base, {"last": 0}, {"last": 1, "out_height": 1, "out_plane": 2})
        extent = base["residual_channels"] * base["residual_plane"]
        pair(f"{kind}: residual_channels >= 1", base, {"residual_channels": 1}, {"residual_channels": 0})
        last_base = memory - extent
        pair(f"{kind}: end of the residual", base, {"residual_base": last_base}, {"residual_base": last_base + 1})
        plane = {"residual_row": 5, "residual_column": 7, "residual_base": 0}
        pair(f"{kind}: reach of the residual", base, plane | {"residual_plane": 18}, plane | {"residual_plane": 17})
        pair(f"{kind}: rows of the residual", base, {}, {"residual_row": (1 << 24) - 1})
        one_row = base | {"out_height": 1, "out_plane": 2}
        pair(f"{kind}: a row without a second", one_row, {"residual_row": (1 << 24) - 1}, {"residual_column": 6})
        wide = {"residual_plane": 1 << 22, "residual_channels": 65535}
        pair(f"{kind}: residual not used", base, wide | {"residual": 0}, wide)
    both = {"residual_row": 0, "residual_plane": 1}
    pair("residual of one byte", crossbar, both | {"residual_column": 0}, both | {"residual_column": 1})
    pair("pooling without residual", crossbar, {"pool": 2, "residual": 0}, {"pool": 2})

    ends = {
        "width_base": hardware.width_entries - blocks,
        "channel_base": hardware.channel_entries - n,
        "crossbar_base": hardware.crossbar_pairs,
    }
    for name, end in ends.items():
        pair(f"end of {name}", crossbar, {name: end}, {name: end + 1})
        pair(f"{name} is not used", maximum, {name: end + 1}, {"channels": 0})
    pair("first channel", crossbar, {"first_channel": 0}, {"first_channel": 1})
    pair("first channel of an element step", maximum, {"first_channel": 65535}, {"step": 0})
    for name in ("segments", "block_cols", "last_rows", "last_cols"):
        for change in (-1, 1):
            pair(f"{name} {change:+}", crossbar, {}, {name: crossbar[name] + change})
        pair(f"{name} = 0", crossbar, {}, {name: 0})
    more = {"segments": crossbar["segments"] - 1, "last_rows": crossbar["last_rows"] + hardware.ou_rows}
    pair("last_rows <= ou_rows", crossbar, {}, more)
    more = {"block_cols": crossbar["block_cols"] - 1, "last_cols": crossbar["last_cols"] + hardware.ou_cols}
    pair("last_cols <= ou_cols", crossbar, {}, more)
    pair("one window of logits", logits, {}, {"out_height": 2, "out_plane": 2})

    # sizes at the limits of the machine, residual and border aside
    alone = {"residual": 0, "pad_enable": 0, "target": 0, "width_base": 0, "channel_base": 0}

    def matrix(k: int, outputs: int) -> dict[str, int]:
        one = {"height": 1, "width": 1, "kernel_height": 1, "kernel_width": 1, "out_height": 1, "out_width": 1}
        return _crossbar(hardware, channels=k, outputs=outputs, **one) | alone

    pair("max_k", matrix(hardware.max_k, 1), {}, matrix(hardware.max_k + 1, 1))
    roomy = min(hardware.max_n, hardware.channel_entries)
    pair("max_n", matrix(1, roomy), {}, matrix(1, roomy + 1))
    room = maximum | alone
    area = {"kernel_height": 257, "kernel_width": 255}
    pair("largest kernel of an element step", room, area, area | {"kernel_width": 256})
    assert MAX_ELEMENT_KERNEL == 257 * 255
    tall = {"kernel_height": MAX_ELEMENT_KERNEL, "kernel_width": 1}
    pair("tallest kernel of an element step", room, tall, tall | {"kernel_width": 2})
    flat = {"channels": 1, "height": 1, "out_height": 1, "out_width": 1, "out_plane": 1, "source": 0}
    widest = min(memory, 65535)
    line = flat | {"width": widest, "in_plane": widest}
    pair("width of an element step", room, line, line | {"width": min(widest + 1, 65535), "in_plane": widest + 1})
    many = flat | {"width": 1, "in_plane": 1, "channels": widest, "outputs": widest}
    pair("channels of an element step", room, many, many | {"source": memory - widest + 1})
    few = flat | {"width": 1, "in_plane": 1, "last": 1, "outputs": hardware.max_n}
    pair("logits of an element step", room, few, few | {"outputs": hardware.max_n + 1})
    plane = few | {"outputs": 1, "out_width": hardware.max_n, "out_plane": hardware.max_n}
    beyond = {"out_width": hardware.max_n + 1, "out_plane": hardware.max_n + 1}
    pair("plane of logits of an element step", room, plane, plane | beyond)
    return pairs


@pytest.mark.parametrize("name", MACHINES)
def test_every_rule_accepts_what_just_fits_and_refuses_one_more(name):
    hardware = MACHINES[name]
    limits = {field.name: 1 << field.bits for field in descriptor_fields(hardware)}
    # An address beyond the largest memory cannot be named.
    cases = [
        (rule, values, expected)
        for rule, (good, bad) in _boundaries(hardware).items()
        for values, expected in ((good, ErrorCode.NONE), (bad, ErrorCode.LAYER_GEOMETRY))
        if all(value < limits[field] for field, value in values.items())
    ]
    answers = _compare(hardware, [values for _, values, _ in cases])
    wrong = [(rule, a, e) for (rule, _, e), a in zip(cases, answers, strict=True) if a != e]
    assert not wrong
    assert len(cases) > 180


@pytest.mark.parametrize("kind", ["crossbar", "maximum"])
def test_every_field_at_zero_and_all_ones_is_answered_alike(kind):
    values = _legal(TINY)[kind]
    steps = [values | {f.name: value} for f in descriptor_fields(TINY) for value in (0, (1 << f.bits) - 1)]
    assert set(_compare(TINY, steps)) == {ErrorCode.NONE, ErrorCode.LAYER_GEOMETRY, ErrorCode.UNSUPPORTED}


def test_a_step_of_kind_three_is_unsupported_whatever_else_it_is():
    steps = [values | {"step": 3} for values in _legal(TINY).values()]
    steps.append(plain_settings(TINY, step=3))
    assert set(_compare(TINY, steps)) == {ErrorCode.UNSUPPORTED}


def _mutated(hardware: HardwareConfig, rng: random.Random) -> dict[str, int]:
    """A legal step with sizes of its own, of which up to three fields were changed."""
    names = ("channels", "height", "width", "kernel_height", "kernel_width", "out_height", "out_width", "outputs")
    kind = rng.choice(list(StepKind))
    values = _crossbar(hardware, **{name: rng.randint(1, 3) for name in names}) | {"step": int(kind)}
    values |= {flag: rng.randint(0, 1) for flag in ("residual", "pad_enable")}
    for field in rng.sample(descriptor_fields(hardware), rng.randint(0, 3)):
        top = (1 << field.bits) - 1
        near = values[field.name] + rng.randint(-2, 2)
        values[field.name] = min(top, max(0, rng.choice([near, rng.randint(0, top), *_edges(hardware, top)])))
    return values


def _edges(hardware: HardwareConfig, top: int) -> list[int]:
    limits = [getattr(hardware, n) for n in ("activation_bytes", "max_k", "max_n", "width_entries", "pad_entries")]
    return sorted({min(top, max(0, limit + d)) for limit in limits for d in (-7, -1, 0, 1)} | {0, 1, top})


@pytest.mark.parametrize("name", ["tiny", "odd", "pairs"])
@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(seed=st.integers(0, 1 << 32))
def test_changed_descriptors_are_answered_as_in_the_golden_model(name, seed):
    rng = random.Random(seed)
    answers = _compare(MACHINES[name], [_mutated(MACHINES[name], rng) for _ in range(40)])
    assert {ErrorCode.NONE, ErrorCode.LAYER_GEOMETRY} <= set(answers), "most changes are harmless or all are fatal"


def test_reader_unpacks_every_field_of_the_right_layer():
    dut = DescriptorReader(TINY)
    rng = np.random.default_rng(7)
    fields = descriptor_fields(TINY)
    layers = [{f.name: int(rng.integers(0, 1 << f.bits)) for f in fields} for _ in range(TINY.max_layers - 1)]
    layers.append({f.name: (1 << f.bits) - 1 for f in fields})

    async def bench(ctx):
        for index, values in enumerate(layers):
            await write_table(ctx, dut.program_write, pack_descriptor(TINY, values), index * DESCRIPTOR_STRIDE)
        for index in (2, 0, 3, 1):
            ctx.set(dut.layer, index)
            await strobe(ctx, dut.start)
            clocks = 1
            while not ctx.get(dut.done):
                await ctx.tick()
                clocks += 1
                assert clocks < 100
            assert clocks == DescriptorReader.latency(TINY)
            assert fetch(ctx, dut.settings) == layers[index]

    simulate(dut, bench, limit=1000)
