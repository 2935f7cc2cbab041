"""Window reuse against a walk over sets of coordinates, and what machines gain and pay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_model import timing
from golden_model.config import PAPER, TINY
from golden_model.cost import components, machines, work
from golden_model.cost.baselines import uniform_events
from golden_model.cost.chip import ChipShape
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.crossbar.windows import windows
from golden_model.graph.settings import with_settings
from golden_model.pairs.plumbing import values_read
from golden_model.registers import COUNTER_NAMES
from tests.golden_model.test_graph import everything, pixels
from tests.strategies import make_layer, make_network

CYCLES = COUNTER_NAMES.index("cycles")


@st.composite
def shapes(draw: st.DrawFn, pad: int | None = None) -> Layer:
    """A convolution of any kernel, stride, border and pooling that has a window."""
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride, pool = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    border = draw(st.integers(0, 2)) if pad is None else pad
    least = [max(1, size + stride * (pool - 1) - 2 * border) for size in kernel]
    height, width = (draw(st.integers(size, size + 9)) for size in least)
    return make_layer(
        np.random.default_rng(0), PAPER, channels=draw(st.integers(1, 3)), height=height, width=width,
        kernel_height=kernel[0], kernel_width=kernel[1], stride=stride, pad=border, pool=pool, outputs=1,
    )  # fmt: skip


def walk(layer: Layer) -> list[set[tuple[int, int, int]]]:
    """Coordinates (channel, row, column) of the values of every window, those of the border too."""
    found = []
    for pooled_y in range(layer.conv_height // layer.pool):
        for pooled_x in range(layer.conv_width // layer.pool):
            for y in range(layer.pool):
                for x in range(layer.pool):
                    top = (pooled_y * layer.pool + y) * layer.stride - layer.pad
                    left = (pooled_x * layer.pool + x) * layer.stride - layer.pad
                    found.append({
                        (c, top + i, left + j)
                        for c in range(layer.channels)
                        for i in range(layer.kernel_height)
                        for j in range(layer.kernel_width)
                    })  # fmt: skip
    return found


# ---- counts -------------------------------------------------------------------------------------
@given(shapes())
def test_a_window_reads_what_the_one_before_does_not_have(layer):
    windows = walk(layer)
    before = [set(), *windows]
    expected = [len(now - old) for now, old in zip(windows, before, strict=False)]
    assert values_read(layer, "window").tolist() == expected


@given(shapes(pad=0))
def test_the_walk_is_that_of_the_windows_that_are_computed(layer):
    shape = (1, layer.channels, layer.height, layer.width)
    rows = windows(layer, np.arange(np.prod(shape)).reshape(shape))[0]
    before = [np.zeros(0, dtype=np.int64), *rows]
    expected = [len(np.setdiff1d(now, old)) for now, old in zip(rows, before, strict=False)]
    assert values_read(layer, "window").tolist() == expected


def test_a_3_by_3_convolution_reads_one_column_a_step():
    layer = make_layer(
        np.random.default_rng(0),
        PAPER,
        channels=2,
        height=3,
        width=4,
        kernel_height=3,
        kernel_width=3,
        pad=1,
        outputs=1,
    )
    assert values_read(layer, "window").tolist() == [18, 6, 6, 6] * 3


def test_a_window_that_covers_the_map_is_read_once():
    layer = make_network(0, TINY).layers[-1]
    assert values_read(layer, "window").tolist() == [layer.k]


# ---- machines -----------------------------------------------------------------------------------
def plain_network(seed: int = 0):
    """Without dynamic precision."""
    made = make_network(seed, TINY)
    return with_settings(made, dynamic=dict.fromkeys(node.name for node in made.crossbars))


def read(layer: Layer) -> int:
    return int(values_read(layer, "window").sum())


def test_loading_takes_a_clock_for_every_value_that_is_read():
    """Against the formula of a window, one window after the other."""
    made = plain_network()
    found = machines.with_window_reuse(machines.baseline(made))
    planes = TINY.weight_bits
    for layer, cycles in zip(made.layers, found.events[:, CYCLES], strict=True):
        segments, blocks = layer.segments(TINY), layer.block_cols(TINY)
        busy = np.full(segments, planes * blocks * TINY.input_bits * max(TINY.ideal_bits, TINY.sample_interval))
        window = int(timing.window_cycles(TINY, layer.k, layer.outputs, busy))
        expected = sum(window - layer.k + int(values) for values in values_read(layer, "window"))
        assert cycles == timing.c_layer(TINY) + expected
    full = uniform_events(made, planes).counts
    assert (found.events[0, CYCLES], found.events[1, CYCLES]) < (full[0, CYCLES], full[1, CYCLES])
    assert np.array_equal(np.delete(found.events, CYCLES, 1), np.delete(full, CYCLES, 1))


def test_dynamic_precision_still_takes_every_value_one_a_clock():
    made = plain_network()
    before = machines.baseline(with_settings(made, dynamic={made.crossbars[0].name: DynamicPrecision()}))
    after = machines.with_window_reuse(before)
    saved = before.events[:, CYCLES] - after.events[:, CYCLES]
    second = made.layers[1]
    assert saved.tolist() == [0, second.windows * second.k - read(second), 0]
    one, other = (w.buffer_bits for w in work.works(after)[:2]), (w.buffer_bits for w in work.works(before)[:2])
    assert all(a < b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("table", components.table_names())
def test_the_buffer_saves_what_the_window_register_keeps(table):
    made = with_settings(everything(), activation_bits={"stem": 3})
    before = machines.sparse(made, pixels(0, made, 1))
    after = machines.with_window_reuse(before)
    one, other = (machines.compare([machine], table)[0].energy for machine in (before, after))
    price = {name: one.table.component(name).energy_pj for name in ("activation_buffer", "bus", "window_register")}
    each = price["activation_buffer"] + price["bus"] - price["window_register"]
    kept = [
        sum((layer.windows * layer.k - read(layer)) * layer.input_bits for layer in node.layers)
        for node in made.crossbars
    ]
    assert {layer.input_bits for layer in made.layers} == {3, 8}
    assert len(made.node("groups").layers) == 2
    saved = (one.by_layer - other.by_layer)[: len(kept)]
    assert saved == pytest.approx(np.array(kept) * each)
    assert after.extra["window_register_bits"].tolist() == kept
    assert np.array_equal(after.extra["index_bits_read"], before.extra["index_bits_read"])


def test_conversions_on_a_chip_take_what_they_took():
    made = plain_network()
    before = machines.baseline(made)
    row, more = machines.compare([before, machines.with_window_reuse(before)], budget=60)
    for one, other, layer in zip(row.chip.stages, more.chip.stages, made.layers, strict=True):
        assert other.conversion_clocks == one.conversion_clocks > 0
        assert (one.fixed_clocks - other.fixed_clocks) * layer.windows == pytest.approx(
            layer.windows * layer.k - read(layer)
        )
    assert more.speed > 1


def test_the_window_register_takes_area_once_for_every_copy():
    made = plain_network()
    before = machines.baseline(made)
    row, more = machines.compare([before, machines.with_window_reuse(before)], shape=ChipShape(pairs_per_macro=1))
    balanced = more.chip.balanced(60)
    assert max(stage.macros for stage in balanced.stages) > 1
    assert max(stage.copies for stage in balanced.stages) > 1
    table = components.load_table("isaac-32nm")
    column = [area.name for area in table.areas].index("window_register")
    expected = [
        stage.copies * layer.k * TINY.input_bits for stage, layer in zip(balanced.stages, made.layers, strict=True)
    ]
    assert balanced.area(table).counts[:-1, column].tolist() == expected
    assert row.chip.area(table).counts[:, column].sum() == 0


def test_the_machine_without_stays_what_it_was():
    made = plain_network()
    before = machines.baseline(made)
    kept = before.events.copy()
    after = machines.with_window_reuse(before)
    assert after.name == f"{before.name}, window reuse"
    assert np.array_equal(before.events, kept)
    assert not before.window_reuse
    assert "window_register_bits" not in before.extra


def test_window_reuse_twice_is_refused():
    once = machines.with_window_reuse(machines.baseline(plain_network()))
    with pytest.raises(ValueError, match="planes, window reuse: it has window reuse already"):
        machines.with_window_reuse(once)
