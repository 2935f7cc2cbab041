"""Energy from counted events: hand-worked figures, table errors, and the baseline against a slow count."""

from __future__ import annotations

import ast
import operator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import timing
from golden_model.config import PAPER, TINY, HardwareConfig
from golden_model.cost import baselines, components, machines, work
from golden_model.cost.chip import chip
from golden_model.cost.energy import energy
from golden_model.cost.work import Machine
from golden_model.crossbar.layer import Layer
from golden_model.graph.network import Graph, build
from golden_model.graph.nodes import Add
from golden_model.graph.numbers import Encoding, Lookup
from golden_model.registers import COUNTER_NAMES
from golden_model.trq import AdcRegisters
from tests.golden_model.oracles import baseline_events
from tests.strategies import graph_of


def make_layer(hardware: HardwareConfig, *, outputs=3, channels=2, size=4, kernel=3, pool=1, widths=None):
    k = channels * kernel * kernel
    shape = (-(-k // hardware.ou_rows), -(-outputs // hardware.ou_cols))
    return Layer(
        name="conv",
        kind="conv",
        channels=channels,
        height=size,
        width=size,
        kernel_height=kernel,
        kernel_width=kernel,
        stride=1,
        pad=0,
        pool=pool,
        outputs=outputs,
        weights=np.zeros((k, outputs), dtype=np.int64),
        bias=np.zeros(outputs, dtype=np.int64),
        multipliers=np.ones(outputs, dtype=np.int64),
        shift=0,
        block_widths=np.zeros(shape, dtype=np.int64) if widths is None else np.asarray(widths),
        registers=AdcRegisters(mode="uniform", n_r2=hardware.adc_bits),
        min_count=np.arange(1, 2**hardware.adc_bits),
        input_bits=hardware.input_bits,
        output_bits=hardware.input_bits,
    )


def make_network(hardware: HardwareConfig, *layers: Layer) -> Graph:
    return graph_of(layers, hardware)


def named(events) -> dict[str, int]:
    return events.as_dict()


def value_of(expression: str) -> float:
    """An arithmetic expression of numbers, sums, products and quotients; anything else is an error."""
    operations = {ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Add: operator.add}

    def walk(node):
        if isinstance(node, ast.BinOp):
            return operations[type(node.op)](walk(node.left), walk(node.right))
        assert isinstance(node, ast.Constant)
        return node.value

    return walk(ast.parse(expression, mode="eval").body)


#: Rows of energies that only machines have that gather word lines or convert pairs.
PAIR_MACHINE = (
    "subtraction", "window_register_read", "latch", "masks", "stop_words", "stop_addition", "stop_requantisation",
    "line_buffer",
)  # fmt: skip


# ---- tables -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", components.table_names())
def test_every_energy_equals_its_derivation(name):
    for row in components.load_table(name).components:
        assert row.energy_pj == pytest.approx(value_of(row.derivation) * 1e12, rel=2e-3), row.name


@pytest.mark.parametrize("name", components.table_names())
def test_every_area_equals_its_derivation(name):
    table = components.load_table(name)
    assert table.areas
    for row in table.areas:
        assert row.area_um2 == pytest.approx(value_of(row.derivation) * 1e6, rel=2e-3), row.name


@pytest.mark.parametrize("name", components.table_names())
def test_every_row_names_a_source(name):
    table = components.load_table(name)
    assert all(len(row.source) > 20 for row in (*table.components, *table.areas))


@pytest.mark.parametrize("name", components.table_names())
def test_every_table_charges_every_extra_event(name):
    assert set(work.EXTRA_NAMES) <= {row.quantity for row in components.load_table(name).components}


def test_areas_of_the_isaac_table_add_up_to_the_published_tile():
    """Inventory of an ISAAC-CE tile: 12 IMAs of 8 arrays, 8 converters and 4 shift-and-add units; 0.372 mm2."""
    area = {row.name: row.area_um2 for row in components.load_table("isaac-32nm").areas}
    ima = (
        8 * area["adc"]
        + 8 * 128 * (area["sample_and_hold"] + area["word_line_driver"])
        + 8 * 128 * 128 * area["crossbar"]
        + 4 * area["shift_and_add"]
        + 2048 * 8 * area["input_register"]
        + 256 * 8 * area["output_register"]
    )
    tile = 64 * 1024 * 8 * area["activation_buffer"] + area["bus"] + area["router"] + area["post_processing"]
    assert (12 * ima + tile) * 1e-6 == pytest.approx(0.372, abs=0.001)


def test_power_of_the_isaac_table_adds_up_to_the_published_ima():
    """All arrays busy: 24.1 mW less the input register's 1.24 mW are those of converters, arrays and adders."""
    energy = {row.name: row.energy_pj * 1e-12 for row in components.load_table("isaac-32nm").components}
    samples, cells, cycle = 8 * 1.28e9, 8 * 128 * 128, 100e-9
    power = (
        samples * 8 * energy["adc_operation"]
        + 8 * 128 / cycle * energy["sample_and_hold"]
        + cells / cycle * (energy["crossbar"] + energy["word_line_driver"])
        + 4 * 1.28e9 * energy["shift_and_add"]
        + samples * energy["output_register"]
        + 8 * 128 / cycle * energy["input_register"]
    )
    assert power == pytest.approx(24.1e-3, rel=0.01)


def test_trq_table_differs_from_isaac_only_in_the_converter():
    isaac, trq = components.load_table("isaac-32nm"), components.load_table("trq-adc")
    changed = {a.name for a, b in zip(isaac.components, trq.components, strict=True) if a != b}
    assert changed == {"adc_operation"}
    assert trq.component("adc_operation").energy_pj == 0.4545


ROW = """
[[component]]
name = "a"
group = "g"
quantity = "outputs"
energy_pj = 1.5
derivation = "1.5e-12"
source = "s"
why = "w"
"""

AREA = """
[[area]]
name = "x"
group = "g"
quantity = "macros"
area_um2 = 2.0
derivation = "2e-6"
source = "s"
why = "w"
"""


def test_a_table_may_be_a_file_of_the_user(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(ROW)
    table = components.load_table(path)
    assert (table.name, table.components[0].energy_pj) == ("mine", 1.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROW.replace("1.5\n", "-1\n"), "row a: energy_pj must be a number of at least 0, got -1"),
        (ROW.replace("1.5\n", "nan\n"), "row a: energy_pj must be a number of at least 0, got nan"),
        (ROW.replace('"outputs"', '"photons"'), "row a: quantity must be one of ad_operations.*got 'photons'"),
        (ROW.replace('source = "s"\n', ""), r"row a: missing fields \['source'\], unknown fields \[\]"),
        (ROW.replace('"s"', '" "'), "row a: source must be a text, got ' '"),
        ("title = 'x'", r"no \[\[component\]\] rows"),
        ("base = 'nothing'", "base must be another of"),
        ("][", "not TOML"),
        (ROW + ROW, "row a: there are two rows of this name"),
        (ROW.replace("[[component]]", "[component]"), r"component must be \[\[component\]\] rows"),
        (ROW + "[other]\n", r"unknown entries \['other'\]"),
        (ROW + AREA.replace("2.0\n", "-2\n"), "area row x: area_um2 must be a number of at least 0, got -2"),
        (ROW + AREA.replace('"macros"', '"outputs"'), "area row x: quantity must be one of adc_lanes.*got 'outputs'"),
        (ROW + AREA.replace('why = "w"\n', ""), r"area row x: missing fields \['why'\], unknown fields \[\]"),
    ],
)
def test_a_bad_table_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"energy table .*bad.toml.*{message}"):
        components.load_table(path)


def test_an_unknown_table_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="energy table nowhere: no such file, and not one of isaac-32nm, mixed-45nm, trq-adc"
    ):
        components.load_table("nowhere")


# ---- energy -------------------------------------------------------------------------------------
def test_energy_is_events_times_rows():
    network = make_network(TINY, make_layer(TINY))
    events = np.zeros((1, len(COUNTER_NAMES)), dtype=np.int64)
    for name, value in [
        ("ou_activations", 10),
        ("conversions_r1", 3),
        ("conversions_r2", 4),
        ("ad_operations", 20),
        ("input_bits_streamed", 5),
        ("cycles", 999),
    ]:
        events[0, COUNTER_NAMES.index(name)] = value
    report = energy(Machine(network, events))
    counts = dict(zip((c.name for c in report.table.components), report.counts[0].tolist(), strict=True))
    windows, k, outputs = 4, 18, 3
    assert counts == {
        "adc_operation": 20,
        "sample_and_hold": 7,
        "crossbar": 10 * 2 * 4 * 2,
        "word_line_driver": 10 * 2 * 4 * 2,
        "shift_and_add": 7,
        "output_register": 7,
        "input_register": 5 * 4,
        "activation_buffer": windows * k * 4 + windows * outputs * 4,
        "bus": windows * k * 4 + windows * outputs * 4,
        "width_table": windows * 5 * 2 * 4,
        "window_register": 0,
        "post_processing": windows * outputs,
        "activation_table": 0,
        "pooling": 0,
        "ou_control": 10,
        "column_bounds": 0,
        "held_bounds": 0,
        "population_count": 0,
        "search_tree": 0,
        "row_index": 0,
        "gather": 0,
        "leading_one": 0,
        "dynamic_precision": 0,
        "dynamic_precision_decision": 0,
        **dict.fromkeys(PAIR_MACHINE, 0),
    }
    total = sum(c.energy_pj * counts[c.name] for c in report.table.components)
    assert report.total_pj == pytest.approx(total)
    assert sum(report.by_group.values()) == pytest.approx(total)
    assert report.by_layer.sum() == pytest.approx(total)


def test_trace_lists_every_product_that_is_not_0_and_adds_up():
    network = make_network(PAPER, make_layer(PAPER))
    report = energy(Machine(network, baseline_events(network)))
    rows = report.trace_rows()
    assert len(rows) == len(report.table.components)
    assert sum(r["events"] * r["energy_pj"] for r in rows) == pytest.approx(report.total_pj)
    assert all(r["source"] and r["formula"] for r in rows)
    assert len(report.trace()) == sum(r["events"] > 0 for r in rows) + 1


def test_a_machine_without_width_table_does_not_pay_for_it():
    network = make_network(PAPER, make_layer(PAPER))
    events = baseline_events(network)
    paid, free = energy(Machine(network, events)), energy(Machine(network, events, width_table=False))
    row = [c.name for c in paid.table.components].index("width_table")
    assert paid.counts[0, row] > 0
    assert free.counts[0, row] == 0
    assert np.array_equal(np.delete(paid.counts, row, 1), np.delete(free.counts, row, 1))


def with_tables(network: Graph, *names: str) -> Graph:
    """The network with a table behind the nodes of these names, and an addition of its output to itself behind it."""
    lookup = Lookup.of(Encoding(low=-100.0, high=100.0, bits=network.hardware.input_bits), np.tanh)
    last = network.nodes[-1]
    add = Add(name="add", inputs=(last.name, last.name), shape=last.shape, encoding=Encoding(high=255.0))
    nodes = [replace(n, lookup=lookup) if n.name in names else n for n in (*network.nodes, add)]
    return build("tables", network.hardware, nodes)


def test_every_value_before_pooling_reads_one_entry_of_its_activation_table():
    network = make_network(PAPER, make_layer(PAPER, size=6, pool=2))  # 16 windows of 3 outputs; 2 x 2 x 3 are added
    bits = {}
    for names in ((), ("conv",), ("conv", "add")):
        made = with_tables(network, *names)
        for machine in (Machine(made, baseline_events(made)), machines.baseline(made)):
            report = energy(machine)
            row = [c.name for c in report.table.components].index("activation_table")
            bits.setdefault(names, []).append(report.counts[:, row].tolist())
    assert bits[()] == [[0.0, 0.0]] * 2
    assert bits["conv",] == [[16 * 3 * 8, 0.0]] * 2
    assert bits["conv", "add"] == [[16 * 3 * 8, 2 * 2 * 3 * 8]] * 2


def test_a_layer_with_a_table_has_one_in_every_macro_and_an_addition_in_every_tile():
    network = make_network(PAPER, make_layer(PAPER, outputs=64, channels=64, size=6, pool=2))
    plain, layer, both = (
        chip(machines.baseline(with_tables(network, *names))) for names in ((), ("conv",), ("conv", "add"))
    )
    areas = [one.area().mm2_by_group["Post-processing"] * 1e6 for one in (plain, layer, both)]
    assert plain.macros > 1
    table = 256 * 8 * 0.1282
    assert areas[1] - areas[0] == pytest.approx(plain.macros * table)
    assert areas[2] - areas[1] == pytest.approx(plain.tiles * table)


def test_extra_events_are_charged_by_the_row_of_their_quantity():
    network = make_network(TINY, make_layer(TINY))
    events = baseline_events(network)
    plain = energy(Machine(network, events))
    extra = {name: np.array([float(i + 1)]) for i, name in enumerate(work.EXTRA_NAMES)}
    more = energy(Machine(network, events, extra=extra))
    rows = {row.quantity: row.energy_pj for row in more.table.components}
    size = {"population_counts": TINY.ou_rows, "gathered_rows": TINY.ideal_bits}
    expected = sum(float(v[0]) * size.get(name, 1) * rows[name] for name, v in extra.items())
    assert more.total_pj - plain.total_pj == pytest.approx(expected)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"photons": [1.0]}, "no event is called 'photons', there are column_bound_bits_read"),
        ({"tree_bits_read": [1.0, 2.0]}, r"tree_bits_read must be 1 numbers of at least 0, one per layer, got \(2,\)"),
        ({"tree_bits_read": [-1.0]}, "tree_bits_read must be 1 numbers of at least 0"),
    ],
)
def test_bad_extra_events_are_refused(extra, message):
    network = make_network(PAPER, make_layer(PAPER))
    with pytest.raises(ValueError, match=message):
        energy(Machine(network, baseline_events(network), extra=extra))


def test_extra_events_without_a_row_are_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(ROW)
    network = make_network(PAPER, make_layer(PAPER))
    events = baseline_events(network)
    with pytest.raises(ValueError, match="mine: it has no row for the quantity tree_bits_read"):
        energy(Machine(network, events, extra={"tree_bits_read": np.ones(1)}), path)
    assert energy(Machine(network, events, extra={"tree_bits_read": np.zeros(1)}), path).total_pj > 0


def test_energy_of_several_images_is_the_mean_of_one():
    network = make_network(PAPER, make_layer(PAPER))
    one = baseline_events(network)
    several = np.stack([one.counts, 3 * one.counts])
    assert np.allclose(work.per_image(several, network), 2 * one.counts)


@pytest.mark.parametrize("shape", [(2, 9), (9,), (0, 1, 9), (1, 8)])
def test_events_of_another_shape_are_refused(shape):
    network = make_network(PAPER, make_layer(PAPER))
    with pytest.raises(ValueError, match="events must have shape"):
        energy(Machine(network, np.zeros(shape)))


def test_negative_events_are_refused():
    network = make_network(PAPER, make_layer(PAPER))
    with pytest.raises(ValueError, match="at least 0"):
        energy(Machine(network, -baseline_events(network).counts))


# ---- baseline -----------------------------------------------------------------------------------
def slow_baseline(layer: Layer, hardware: HardwareConfig, planes) -> dict[str, int]:
    """Walks windows, segments, input bits, block columns, planes, polarities and columns one by one."""
    counts = dict.fromkeys(COUNTER_NAMES, 0)
    for _ in range(layer.windows):
        for segment in range(layer.segments(hardware)):
            for _ in range(hardware.input_bits):
                counts["input_bits_streamed"] += 1
                for block in range(layer.block_cols(hardware)):
                    for plane in range(hardware.weight_bits):
                        if plane >= planes[segment][block]:
                            counts["skipped_planes"] += 1
                            continue
                        counts["ou_activations"] += 1
                        for column in range(hardware.ou_cols):
                            if block * hardware.ou_cols + column < layer.outputs:
                                counts["conversions_r2"] += 2
                                counts["ad_operations"] += 2 * hardware.ideal_bits
    return counts


@settings(max_examples=25, deadline=None)
@given(
    outputs=st.integers(1, 7),
    channels=st.integers(1, 3),
    kernel=st.integers(1, 3),
    pool=st.integers(1, 2),
    data=st.data(),
)
def test_uniform_events_equal_a_walk_over_every_conversion(outputs, channels, kernel, pool, data):
    k = channels * kernel * kernel
    shape = (-(-k // TINY.ou_rows), -(-outputs // TINY.ou_cols))
    widths = np.array(
        data.draw(
            st.lists(st.integers(0, TINY.weight_bits), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
        )
    ).reshape(shape)
    layer = make_layer(TINY, outputs=outputs, channels=channels, kernel=kernel, pool=pool, widths=widths)
    network = make_network(TINY, layer)
    for events, planes in [
        (baselines.uniform_events(network), widths),
        (baseline_events(network), np.full(shape, TINY.weight_bits)),
    ]:
        got, expected = named(events[0]), slow_baseline(layer, TINY, planes)
        assert {n: v for n, v in got.items() if n != "cycles"} == {n: v for n, v in expected.items() if n != "cycles"}


def test_baseline_has_seven_planes_and_eight_on_request():
    network = make_network(PAPER, make_layer(PAPER))
    seven, eight = named(baseline_events(network)[0]), named(baseline_events(network, 8)[0])
    windows, segments, block_columns = 4, 2, 1
    assert seven["ou_activations"] == windows * segments * block_columns * 7 * 8
    assert eight["ou_activations"] == windows * segments * block_columns * 8 * 8
    assert seven["ad_operations"] == windows * segments * 3 * 2 * 7 * 8 * 4
    assert seven["skipped_planes"] + seven["ou_activations"] == eight["ou_activations"]


def test_baseline_does_not_depend_on_weights_registers_or_widths():
    dense = make_network(PAPER, make_layer(PAPER, widths=np.full((2, 1), 8)))
    empty = make_network(PAPER, make_layer(PAPER, widths=np.zeros((2, 1), dtype=np.int64)))
    assert baseline_events(dense) == baseline_events(empty)


def test_widths_outside_the_hardware_are_refused():
    network = make_network(TINY, make_layer(TINY))
    with pytest.raises(ValueError, match=r"layer conv: block widths must be \(5, 2\) integers in 0..3"):
        baseline_events(network, 4)


def test_baseline_cycles_are_the_lock_step_formula():
    """Two segments of one block: 7 planes x 8 bits x 4 operations each, W hidden behind them."""
    layer = make_layer(PAPER)
    windows, k, columns, outputs = 4, 18, 1, 3
    segment = 7 * 8 * 4
    fixed = k + timing.c_group(PAPER) * 1 + columns + outputs + timing.c_window(PAPER)
    expected = timing.c_layer(PAPER) + windows * (fixed + 2 * segment)
    assert named(baseline_events(make_network(PAPER, layer))[0])["cycles"] == expected


def test_a_slow_array_sets_the_pace_of_the_baseline():
    slow = replace(PAPER, sample_interval=9)
    fast_cycles = named(baseline_events(make_network(PAPER, make_layer(PAPER)))[0])["cycles"]
    slow_cycles = named(baseline_events(make_network(slow, make_layer(slow)))[0])["cycles"]
    assert slow_cycles - fast_cycles == 4 * 2 * 7 * 8 * (9 - 4)
