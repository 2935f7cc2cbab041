"""Machines side by side: ratios, their parts, and what is passed on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from golden_model import timing
from golden_model.config import PAPER
from golden_model.cost import baselines, machines
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.settings import with_settings
from golden_model.registers import COUNTER_NAMES
from golden_model.searches import choose as searches
from golden_model.trq import AdcRegisters
from tests.golden_model.oracles import baseline_events
from tests.golden_model.test_graph import TWIN, everything, pixels


def test_the_first_machine_is_the_reference():
    made = everything()
    rows = machines.compare(machines.geometry_machines(made, pixels(0, made, 2)))
    assert (rows[0].speed, rows[0].saving, rows[0].fewer_ous) == (1, 1, 1)
    base = rows[0]
    for row in rows[1:]:
        assert row.speed == pytest.approx(base.machine.clocks / row.machine.clocks)
        assert row.saving == pytest.approx(base.energy.total_pj / row.energy.total_pj)


def test_all_machines_that_need_only_geometry_and_activations_are_listed():
    made = everything()  # weight_bits = 4, so there is one baseline
    names = [m.name for m in machines.geometry_machines(made, pixels(0, made, 1))]
    assert names == [
        "ISAAC-like, 4 planes", "idealised, 12 rows at once", "SRE-like", "width per layer", "width per block (BWQ)",
    ]  # fmt: skip
    assert "SRE-like" not in [m.name for m in machines.geometry_machines(made)]


def test_the_baseline_has_seven_planes_and_then_eight():
    made = with_settings(everything(), hardware=PAPER)
    first, second = machines.geometry_machines(made)[:2]
    assert (first.name, second.name) == ("ISAAC-like, 7 planes", "ISAAC-like, 8 planes")
    assert second.total("ou_activations") == pytest.approx(8 / 7 * first.total("ou_activations"))
    assert np.array_equal(first.events, baseline_events(made).counts)


def test_narrow_activations_get_a_row_of_their_own():
    made = with_settings(everything(), activation_bits={"stem": 3})
    found = machines.geometry_machines(made)
    assert [m.name for m in found[-2:]] == ["width per block (BWQ)", "+ activation widths"]
    assert found[-1].total("ou_activations") < found[-2].total("ou_activations")


def test_a_machine_that_streams_all_input_bits_stores_them_all_whatever_the_network_has():
    made = everything()
    names = ("stem", "signed", "sum", "groups", "relu", "cat", "mean")
    narrow = with_settings(made, activation_bits=dict.fromkeys(names, 3))
    wide, few = (machines.compare(machines.geometry_machines(one)) for one in (made, narrow))
    for a, b in zip(wide, few, strict=False):
        assert a.machine.name == b.machine.name
        assert np.array_equal(a.energy.counts, b.energy.counts), a.machine.name
        reused = machines.compare([machines.with_window_reuse(row.machine) for row in (a, b)])
        assert np.array_equal(reused[0].energy.counts, reused[1].energy.counts), a.machine.name
    own = few[-1]
    assert own.machine.name == "+ activation widths"
    buffer = [c.name for c in own.energy.table.components].index("activation_buffer")
    assert (own.energy.counts[1:, buffer] <= few[-2].energy.counts[1:, buffer]).all()
    assert own.energy.counts[:, buffer].sum() < 0.6 * few[-2].energy.counts[:, buffer].sum()


def test_only_block_widths_need_a_width_table():
    made = everything()
    rows = machines.compare(machines.geometry_machines(made, pixels(0, made, 1)))
    component = [c.name for c in rows[0].energy.table.components].index("width_table")
    paid = {row.machine.name: row.energy.counts[:, component].sum() > 0 for row in rows}
    assert [name for name, pays in paid.items() if pays] == ["width per block (BWQ)"]


def test_only_the_sparse_machine_pays_for_indices():
    made = everything()
    rows = machines.compare(machines.geometry_machines(made, pixels(0, made, 1)))
    component = [c.name for c in rows[0].energy.table.components].index("row_index")
    area = [a.name for a in rows[0].area.table.areas].index("metadata")
    for row in rows:
        sparse = row.machine.name == "SRE-like"
        assert (row.energy.counts[:, component].sum() > 0) == sparse
        assert (row.area.counts[:, area].sum() > 0) == sparse


def test_machines_do_not_change_the_network():
    made = everything()
    before = GraphRunner(made).run(pixels(0, made, 1))[1]
    machines.compare(machines.geometry_machines(made, pixels(0, made, 1)), budget=500)
    assert GraphRunner(made).run(pixels(0, made, 1))[1] == before


def test_a_counted_machine_holds_the_events_of_its_own_settings():
    made = with_settings(everything(registers=TWIN), skip_zero_slices=True)
    images = pixels(3, made, 3)
    events = GraphRunner(made).run(images)[1]
    for source in (images, events, events.counts):
        machine = machines.counted("ours", made, source)
        assert np.allclose(machine.events, events.counts.mean(axis=0))
        assert machine.extra == {}
        assert machine.clocks == events.counts.mean(axis=0)[:, COUNTER_NAMES.index("cycles")].sum()


def test_a_counted_machine_pays_for_its_dynamic_precision_unit():
    made = with_settings(everything(), dynamic={"stem": DynamicPrecision(l_max=1, tau_sq=1)})
    machine = machines.counted("redy", made, pixels(0, made, 1))
    assert machine.extra["dynamic_precision_inputs"].tolist() == [36 * 18, 0, 0, 0, 0]
    row = machines.compare([machine])[0]
    without = machines.compare([replace(machine, extra={})])[0]
    names = ("leading_one", "dynamic_precision", "dynamic_precision_decision")
    largest, unit, decision = (
        next(c.energy_pj for c in row.energy.table.components if c.name == name) for name in names
    )
    groups = timing.groups(made.hardware, 18)
    spent = 36 * (18 * (largest + unit) + groups * decision)
    assert row.energy.total_pj - without.energy.total_pj == pytest.approx(spent)


def test_lossless_dynamic_precision_pays_for_the_leading_one_only():
    made = with_settings(everything(), dynamic={"stem": DynamicPrecision(l_max=3)})
    machine = machines.counted("redy", made, pixels(0, made, 1))
    row = machines.compare([machine])[0]
    without = machines.compare([replace(machine, extra={})])[0]
    largest = row.energy.table.component("leading_one").energy_pj
    assert row.energy.total_pj - without.energy.total_pj == pytest.approx(36 * 18 * largest)


def test_held_column_bounds_pay_for_their_registers():
    registers = AdcRegisters(mode="bounded", n_r2=3, column_bound_bits=1)
    made = with_settings(everything(), registers={node.name: registers for node in everything().crossbars})
    events = GraphRunner(made).run(pixels(0, made, 2))[1]
    free, held = machines.compare([machines.counted("bounded", made, events, held=x) for x in (False, True)])
    read, written = free.machine.extra["column_bound_bits_read"], held.machine.extra["column_bound_bits_read"]
    assert (written < read).any()
    assert np.array_equal(held.machine.extra["held_bound_bits"], read + written)
    lanes_ = made.hardware.lanes
    most = [max(layer.block_widths.sum(axis=1).max() for layer in node.layers) for node in made.crossbars]
    bits = 2 * lanes_ * np.array(most)
    assert np.array_equal(searches.held_register_bits(made), bits)
    assert free.area is not None
    assert held.area is not None
    um2 = held.area.table.area("held_bounds").area_um2
    assert held.area.total_mm2 - free.area.total_mm2 == pytest.approx(bits.sum() * um2 * 1e-6)


def test_a_counted_machine_pays_for_what_its_searches_know():
    registers = AdcRegisters(mode="bounded", n_r2=3, column_bound_bits=1)
    made = with_settings(everything(), registers={node.name: registers for node in everything().crossbars})
    events = GraphRunner(made).run(pixels(0, made, 2))[1]
    machine = machines.counted("bounded", made, events)
    expected = searches.metadata_events(made, events)
    assert set(machine.extra) == {"column_bound_bits_read", "population_counts"}
    for name, values in machine.extra.items():
        assert np.allclose(values, expected[name].mean(axis=0))
    assert np.array_equal(machine.metadata_bits, searches.stored_bits(made)["column_bounds"])
    assert (
        machines.counted("given", made, events, extra={"population_counts": np.ones(5)})
        .extra["population_counts"]
        .tolist()
        == [1] * 5
    )


def test_extra_events_and_metadata_reach_energy_and_area():
    made = everything()
    images = pixels(0, made, 1)
    plain = machines.counted("plain", made, images)
    bounded = machines.counted(
        "bounded", made, images, extra={"column_bound_bits_read": np.full(5, 1000.0)}, metadata_bits=np.full(5, 64.0)
    )
    one, other = machines.compare([plain, bounded])
    read = one.energy.table.component("column_bounds").energy_pj
    assert other.energy.total_pj - one.energy.total_pj == pytest.approx(5000 * read)
    stored = one.area.table.area("metadata").area_um2
    assert (other.area.total_mm2 - one.area.total_mm2) * 1e6 == pytest.approx(320 * stored, rel=1e-6)


def test_rows_are_json_and_say_everything():
    made = everything()
    rows = machines.compare(machines.geometry_machines(made, pixels(0, made, 1)), "mixed-45nm", budget=100)
    data = json.loads(json.dumps([row.as_dict(layers=True) for row in rows]))
    for row, shown in zip(rows, data, strict=True):
        assert [x["layer"] for x in shown["layers"]] == [node.name for node in made.crossbars]
        assert sum(x["ad_operations"] for x in shown["layers"]) == pytest.approx(shown["ad_operations"])
        assert sum(shown["picojoules_by_group"].values()) == pytest.approx(row.energy.total_pj)
        assert shown["pipeline"]["interval_clocks"] <= shown["chip"]["interval_clocks"]
        assert shown["pipeline"]["mm2"] >= shown["chip"]["mm2"]


def test_a_machine_that_does_not_fit_the_budget_has_no_pipeline():
    made = everything()
    row = machines.compare([machines.baseline(made)], budget=1)[0]
    assert row.pipeline is None
    assert "pipeline" not in row.as_dict()


def test_layer_wise_widths_may_come_from_a_network_of_its_own():
    made = everything()
    other = with_settings(made, activation_bits={"stem": 8})
    found = machines.geometry_machines(made, layer_network=other)
    assert [m.network is other for m in found if m.name == "width per layer"] == [True]


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="compare: there is no machine"):
        machines.compare([])


def test_the_idealised_machine_does_far_fewer_activations():
    made = with_settings(everything(), hardware=PAPER)
    base, ideal = machines.baseline(made), machines.idealised(made)
    assert ideal.network.hardware == baselines.idealised(PAPER)
    assert ideal.total("ou_activations") < base.total("ou_activations") / 2
    assert ideal.total("ad_operations") == 8 * ideal.conversions
