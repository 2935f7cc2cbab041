"""The pair machine in the cost ladder: what it pays for, beside rivals that pay for the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from golden_model import timing
from golden_model.config import PAPER
from golden_model.cost import chip, pair_machine
from golden_model.cost.components import load_table, table_names
from golden_model.cost.energy import energy
from golden_model.cost.work import Machine, stages, works
from golden_model.engines.pair_switches import Measured, Switches, measure
from golden_model.pairs.early_stop import EarlyStop
from golden_model.pairs.search import outward
from golden_model.registers import COUNTER_NAMES
from tests.golden_model.oracles import baseline_events
from tests.golden_model.test_graph import everything, pixels
from tests.golden_model.test_pairs_network import lossless
from tests.strategies import graph_of, make_layer

GRAPH = lossless(everything())


def measured(**switches) -> Measured:
    one = Switches(search=outward(GRAPH.hardware), **switches)
    return measure(GRAPH, pixels(0, GRAPH, 2), {"": one})[""]


def made(window_streams=True, **switches) -> Machine:
    return pair_machine.machine(GRAPH, measured(**switches), "it", window_streams=window_streams)


def paid(machine: Machine, component: str, table=None) -> float:
    """Picojoules of a row of the table."""
    report = energy(machine, table)
    return float(report.products[:, [row.name for row in report.rows].index(component)].sum())


def units(machine: Machine, row: str) -> float:
    """Units of a row of areas."""
    report = chip.chip(machine).area()
    return float(report.counts[:, [one.name for one in report.rows].index(row)].sum())


@pytest.fixture(scope="module")
def ladder() -> list[Machine]:
    pictures = pixels(1, GRAPH, 3)
    return pair_machine.ladder(GRAPH, pictures[:1], pictures[1:])


@pytest.mark.parametrize("table", table_names())
def test_everything_that_is_counted_is_paid_in_every_table(table):
    found = measured(stop=EarlyStop(condition="final"), keeps="lines")
    machine = pair_machine.machine(GRAPH, found, "it")
    rows = load_table(table)
    for component, events in {
        "subtraction": ("subtractions",),
        "latch": ("latched_bits",),
        "masks": ("mask_bits_read", "mask_bits_written"),
        "stop_words": ("stop_word_bits",),
        "stop_addition": ("stop_additions",),
        "stop_requantisation": ("stop_requantisations",),
        "line_buffer": ("line_bits",),
        "window_register": ("window_bits_written", "window_bits_moved"),
    }.items():
        count = sum(found.extra[event].sum() for event in events)
        assert count > 0, component
        assert paid(machine, component, table) == pytest.approx(count * rows.component(component).energy_pj)
    prefix = found.extra["prefix_rows"].sum() * GRAPH.hardware.ideal_bits
    assert paid(machine, "gather", table) == pytest.approx(prefix * rows.component("gather").energy_pj)


def test_the_buffer_is_read_as_measured_and_residuals_and_results_as_ever():
    found = measured()
    mine, plain = (works(one) for one in (pair_machine.machine(GRAPH, found, "it"), Machine(GRAPH, found.events)))
    for i, stage in enumerate(stages(GRAPH)):
        in_full = sum(layer.windows * layer.k * layer.input_bits for layer in stage.layers)
        assert mine[i].buffer_bits == plain[i].buffer_bits - in_full + found.extra["activation_bits_read"][i]
        assert mine[i].width_table_bits == 4 * found.extra["width_entries_read"][i]


def test_bits_come_from_the_window_register_or_from_an_input_register():
    for streams in (True, False):
        machine = made(window_streams=streams)
        assert (paid(machine, "window_register_read") > 0) == streams
        assert (paid(machine, "input_register") > 0) != streams
        assert (units(machine, "input_register") > 0) != streams


def test_a_machine_with_other_converters_is_refused():
    with pytest.raises(ValueError, match="it: it has 3 converters, other machines have 6"):
        made(split="one")


def test_only_conversion_of_pairs_needs_subtractions(ladder):
    for machine in ladder:
        name = machine.name
        two = name.startswith("ISAAC-like, ") or "low counts first" in name or name == "ours: aligned packs"
        assert (paid(machine, "subtraction") > 0) != two, name
        assert (units(machine, "subtraction") > 0) != two, name


def test_only_optimal_trees_are_stored_and_read(ladder):
    for machine in ladder:
        stored = "optimal trees" in machine.name
        assert ("tree_bits_read" in machine.extra) == stored, machine.name


def test_single_rows_pay_for_indices_in_place_of_widths_and_masks():
    ours, theirs = made(), made(by="rows")
    for component in ("width_table", "row_index"):
        assert (paid(ours, component) > 0) == (component == "width_table")
        assert (paid(theirs, component) > 0) == (component == "row_index")
    assert units(theirs, "masks") == units(theirs, "metadata") > units(ours, "masks") > 0
    assert units(theirs, "width_table") == 0


def test_all_rivals_have_latches_prefix_networks_and_as_many_converters(ladder):
    for machine in ladder:
        gathers = not machine.name.startswith("ISAAC-like")
        for row in ("latch", "prefix_network", "multiplexer"):
            assert (units(machine, row) > 0) == gathers, machine.name
        assert (paid(machine, "latch") > 0) == (paid(machine, "gather") > 0) == gathers


def test_the_rival_has_every_step_around_the_conversions_that_ours_has(ladder):
    names = [machine.name for machine in ladder]
    assert len(set(names)) == len(names)
    for step in ("+ window register streams", "+ words of 32 bits", "+ double-buffered windows", "+ early stop",
                 "  lanes 2, no early stop", "  early stop, requantised", "  early stop, final", "  no residuals",
                 "+ checks that pay", "  halves", "  lanes 2"):  # fmt: skip
        assert {f"ours: {step}", f"SRE-like, pairs: {step}"} <= set(names)


def test_early_stop_and_lanes_change_what_they_should(ladder):
    of = {machine.name: machine for machine in ladder}
    before, after = of["ours: + double-buffered windows"], of["ours: + early stop"]
    assert after.total("ad_operations") < before.total("ad_operations")
    assert units(after, "stop_adder") > units(before, "stop_adder") == 0
    assert units(after, "stop_words") > units(before, "stop_words") == 0
    lanes, chosen = of["ours:   lanes 2"], of["ours: + checks that pay"]
    assert lanes.clocks < chosen.clocks
    assert energy(lanes).total_pj == energy(chosen).total_pj


def test_only_bounds_without_a_limit_are_requantised(ladder):
    of = {machine.name: machine for machine in ladder}
    for prefix in ("ours: ", "SRE-like, pairs: "):
        limits, requantised = of[f"{prefix}+ early stop"], of[f"{prefix}  early stop, requantised"]
        assert paid(requantised, "stop_requantisation") > paid(limits, "stop_requantisation") == 0
        assert units(requantised, "stop_adder") == 2 * units(limits, "stop_adder")


def test_layers_with_a_residual_can_be_left_out(ladder):
    alone = next(machine for machine in ladder if machine.name == "ours:   no residuals")
    for node, additions in zip(GRAPH.crossbars, alone.extra["stop_additions"], strict=True):
        assert (additions > 0) == (len(node.inputs) == 1 and not node.layers[0].last), node.name


def test_the_baseline_of_pairs_done_by_hand():
    """K = 45: 5 segments; 12 outputs: 2 block columns; 7 planes, 8 input bits: 112 OUs a segment, two at a time."""
    layer = make_layer(
        np.random.default_rng(0), PAPER, channels=5, height=4, width=4, kernel_height=3, kernel_width=3, outputs=12,
        weights=np.full((45, 12), 127),
    )  # fmt: skip
    graph = graph_of([layer], PAPER)
    machine = pair_machine.baseline_of_pairs(graph)
    events = dict(zip(COUNTER_NAMES, machine.events[0], strict=True))
    pairs = 4 * 8 * 7 * 5 * 12
    assert (events["conversions_r2"], events["ad_operations"]) == (pairs, 5 * pairs)
    assert events["ou_activations"] == baseline_events(graph).ou_activations[0]
    window = timing.window_cycles(PAPER, 45, 12, np.full(5, 112 // 2 * 5))
    assert events["cycles"] == timing.c_layer(PAPER) + 4 * window
    assert machine.extra["subtractions"].tolist() == [pairs]


def test_macros_share_all_clocks_of_a_machine_with_windows_side_by_side():
    machine = made()
    small = chip.ChipShape(pairs_per_macro=1)
    stage = max(chip.chip(machine, small).stages, key=lambda one: one.macros)
    alone = chip.chip(machine).stages[[one.name for one in chip.chip(machine).stages].index(stage.name)]
    assert stage.macros > 1
    assert stage.clocks - stage.c_layer_clocks == pytest.approx(
        (alone.clocks - alone.c_layer_clocks) * stage.placement.share(1) / alone.placement.share(4)
    )
    assert chip.chip(replace(machine, overlapped=False), small).stages[0].fixed_clocks > 0


def test_units_must_be_one_number_per_layer():
    with pytest.raises(ValueError, match="own_units: mask_bits must be 5 numbers, one per layer"):
        chip.chip(replace(made(), own_units={"mask_bits": np.zeros(2)}))
