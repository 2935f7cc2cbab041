"""Choosing and pricing searches (searches.py): predicted operations are those of runs, trees are the best, metadata."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import ISAAC, PAPER, TINY
from golden_model.engines.run_network import GraphRunner
from golden_model.events import Events
from golden_model.graph.settings import with_settings
from golden_model.registers import COUNTER_NAMES
from golden_model.searches import choose as searches
from golden_model.searches import lanes
from golden_model.searches.joint import JointCounts, graph_joint_counts
from golden_model.trees import depths
from golden_model.trq import AdcRegisters, lossless, tree_bits
from tests.strategies import legal_registers, make_images, make_network

KNOWN = (None, 0, 1, "full")
KINDS = {
    "uniform": lambda counts, **how: searches.uniform(counts, TINY),
    "bounded": lambda counts, **how: searches.bounded(counts, TINY, "full"),
    "twin": lambda counts, **how: searches.twin(counts, TINY, **how),
    "twin bounded": lambda counts, **how: searches.twin(counts, TINY, column_bound_bits=1, **how),
    "tree": lambda counts, **how: searches.trees(counts, TINY, **how),
    "trees k": lambda counts, **how: searches.trees(counts, TINY, column_bound_bits=0, **how),
    "trees full": lambda counts, **how: searches.trees(counts, TINY, column_bound_bits="full", tops=(2,), **how),
    "bounded ou": lambda counts, **how: searches.bounded(counts, TINY, "ou"),
    "twin ou": lambda counts, **how: searches.twin(counts, TINY, column_bound_bits="ou", **how),
    "trees ou": lambda counts, **how: searches.trees(counts, TINY, column_bound_bits="ou", **how),
    "shared": lambda counts, **how: searches.trees(counts, TINY, column_bound_bits="full", shared=True, **how),
    "shallow": lambda counts, **how: searches.trees(counts, TINY, max_depth=3, **how),
}


def lossless_graph(seed: int):
    """A small graph with uniform converters and images."""
    graph = make_network(seed, TINY)
    uniform = AdcRegisters(mode="uniform", n_r2=TINY.adc_bits)
    return with_settings(graph, registers={n.name: uniform for n in graph.crossbars}), make_images(seed, graph, 3)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_operations_from_counts_are_those_of_a_run(kind, skip):
    graph, images = lossless_graph(7)
    counts = graph_joint_counts(graph, images, u_of="ou" if kind.endswith(" ou") else "column")
    how = {} if kind in ("uniform", "bounded", "bounded ou") else {"skip_zero_slices": skip}
    registers = KINDS[kind](counts, **how)
    other = with_settings(graph, registers=registers, skip_zero_slices=skip)
    logits, events = GraphRunner(other, engine="direct").run(images)
    expected, _ = GraphRunner(graph, engine="direct").run(images)
    np.testing.assert_array_equal(logits, expected)
    spent = searches.expected_operations(counts, registers, TINY, skip_zero_slices=skip)
    assert spent.tolist() == events.counts.sum(axis=0)[:, COUNTER_NAMES.index("ad_operations")].tolist()


def test_one_number_per_unit_knows_more_than_the_rows_and_less_than_every_column():
    graph, images = lossless_graph(11)
    column, unit = graph_joint_counts(graph, images), graph_joint_counts(graph, images, u_of="ou")
    spent = searches.best_operations
    assert spent(column, "full").sum() < spent(unit, "ou").sum() < spent(column, 0).sum()
    for measure in (searches.best_operations, searches.entropy_floor):
        assert (measure(unit, 0) == measure(column, 0)).all()
        assert (measure(unit, None) == measure(column, None)).all()
        assert (measure(unit, "both") <= measure(unit, "ou")).all()
    assert (searches.entropy_floor(unit, "ou") <= spent(unit, "ou")).all()
    registers = searches.trees(unit, TINY, column_bound_bits="ou")
    with pytest.raises(ValueError, match="needs joint counts with u_of='ou'"):
        searches.expected_operations(column, registers, TINY)
    with pytest.raises(ValueError, match="needs joint counts with u_of='ou'"):
        searches.trees(column, TINY, column_bound_bits="ou")
    with pytest.raises(ValueError, match="needs joint counts with u_of='column'"):
        searches.entropy_floor(unit, "full")


@st.composite
def counts_of_layers(draw, rows=9):
    """Joint counts of two layers, counts never above min(k, u)."""
    found = {}
    for name in ("a", "b"):
        rng = np.random.default_rng(draw(st.integers(0, 9999)))
        counts = rng.integers(0, 1000, (rows + 1, rows + 1, rows + 1)) * (rng.random((rows + 1,) * 3) < 0.4)
        k, u, c = np.indices(counts.shape)
        found[name] = JointCounts(np.where(c <= np.minimum(k, u), counts, 0))
    return found


@settings(max_examples=25)
@given(counts_of_layers(), st.sampled_from(KNOWN), st.booleans())
def test_trees_reach_the_best_and_stay_between_entropy_and_two_more(counts, known, skip):
    made = searches.trees(counts, PAPER, column_bound_bits=known, skip_zero_slices=skip)
    spent = searches.expected_operations(counts, made, PAPER, skip_zero_slices=skip)
    best = searches.best_operations(counts, known, skip_zero_slices=skip)
    floor = searches.entropy_floor(counts, known, skip_zero_slices=skip)
    conversions = np.array([c.conversions(skip) for c in counts.values()])
    assert (floor <= best * (1 + 1e-12)).all()
    assert (best <= spent).all()
    assert (spent <= floor + 2 * conversions).all()
    for other in (searches.bounded(counts, PAPER, known or 0), searches.twin(counts, PAPER, column_bound_bits=known)):
        if known is not None or next(iter(other.values())).mode == "twin":
            rival = searches.expected_operations(counts, other, PAPER, skip_zero_slices=skip)
            assert (spent <= rival).all()


@settings(max_examples=25)
@given(counts_of_layers(), st.booleans())
def test_more_knowledge_never_costs_operations_or_entropy(counts, skip):
    for measure in (searches.best_operations, searches.entropy_floor):
        found = [measure(counts, known, skip_zero_slices=skip) for known in (None, 0, 1, "full", "both")]
        assert all((after <= before * (1 + 1e-12)).all() for before, after in pairwise(found))


@given(counts_of_layers())
@settings(max_examples=15)
def test_every_choice_is_lossless_and_legal(counts):
    for registers in (
        *searches.twin(counts, PAPER).values(),
        *searches.twin(counts, PAPER, column_bound_bits="full", shared=True).values(),
        *searches.trees(counts, PAPER).values(),
        *searches.trees(counts, PAPER, column_bound_bits=1, tops=(1, 4)).values(),
        *searches.bounded(counts, PAPER).values(),
    ):
        registers.check(PAPER.adc_bits)
        assert lossless(registers, PAPER)


def test_all_lossless_twin_settings_are_candidates():
    for rows, bits in ((4, 3), (9, 4), (16, 5)):
        hardware = replace(PAPER, ou_rows=rows, adc_bits=bits)
        exact = {r for r in legal_registers(bits) if r.mode == "twin" and lossless(r, hardware)}
        useful = {r for r in exact if r.bias << r.n_r1 <= rows}
        assert set(searches.lossless_twin(bits, rows)) == {r for r in useful if r.n_r2 == bits}
        # Settings with coarse R2 are exact only if every count lies in R1 or on its grid: they cost no less.
        assert all(r.n_r2 == bits or r.n_r1 + 1 >= bits for r in useful)


def test_shared_trees_are_one_set_from_all_layers():
    rng = np.random.default_rng(1)
    one = JointCounts(np.zeros((10, 2, 2), dtype=np.int64))
    one.counts[:, 1, 0] = 1
    other = JointCounts(np.zeros((10, 10, 10), dtype=np.int64))
    other.counts[9, 9, :] = rng.integers(0, 9, 10)
    made = searches.trees({"a": one, "b": other}, PAPER, shared=True)
    assert made["a"] == made["b"]
    apart = searches.trees({"a": one, "b": other}, PAPER)
    assert apart["a"] != apart["b"]


def test_depth_limits_are_kept_and_tops_group_bounds():
    counts = JointCounts(np.zeros((10, 10, 10), dtype=np.int64))
    counts.counts[9, 9] = [10**6, 10**5, 10**4, 10**3, 100, 10, 5, 3, 2, 1]
    free, shallow = (searches.trees({"a": counts}, PAPER, max_depth=d)["a"].trees[0] for d in (None, 4))
    assert max(depths(free)) == 9
    assert max(depths(shallow)) == 4
    grouped = searches.trees({"a": counts}, PAPER, column_bound_bits=0, tops=(1, 3))["a"]
    assert [len(t) for t in grouped.trees] == [1, 3, 9]
    every = searches.trees({"a": counts}, PAPER, column_bound_bits=0)["a"]
    assert [len(t) for t in every.trees] == list(range(1, 10))
    with pytest.raises(ValueError, match=r"tops must be in 1\.\.9, got 0\.\.9"):
        searches.trees({"a": counts}, PAPER, column_bound_bits=0, tops=(0,))
    assert searches.default_tops(128)[-1] == 128
    assert len(searches.default_tops(128)) < 30


# ---- metadata -----------------------------------------------------------------------------------
def searching():
    """Three layers: bounded with full bounds, trees with one bit, uniform; their events per image."""
    graph, images = lossless_graph(9)
    names = [n.name for n in graph.crossbars]
    kinds = (
        AdcRegisters(mode="bounded", n_r2=3, column_bound_bits="full"),
        AdcRegisters(mode="tree", n_r2=3, trees=((1,), (1, 2, 3, 4)), column_bound_bits=1),
        AdcRegisters(mode="uniform", n_r2=3),
    )
    made = with_settings(graph, registers=dict(zip(names, kinds, strict=True)))
    _, events = GraphRunner(made, engine="direct").run(images)
    return made, images, events


def test_metadata_is_priced_by_what_reads_it():
    graph, _, events = searching()
    found = searches.metadata_events(graph, events)
    lanes_ = TINY.lanes
    assert (found["column_bound_bits_read"] == events.ou_activations * np.array([3, 1, 0]) * lanes_).all()
    assert (found["population_counts"] == events.input_bits_streamed * np.array([1, 1, 0])).all()
    assert (found["tree_bits_read"] == events.ad_operations * np.array([0, 3, 0])).all()
    held = searches.metadata_events(graph, events, held=True)
    planes = [int(n.layers[0].block_widths.sum()) * n.layers[0].windows for n in graph.crossbars]
    assert (held["column_bound_bits_read"] == np.array(planes) * np.array([3, 1, 0]) * lanes_).all()
    assert not found["held_bound_bits"].any()
    # Every bit that comes from memory is written once, and read again at every OU activation.
    assert (held["held_bound_bits"] == held["column_bound_bits_read"] + found["column_bound_bits_read"]).all()
    assert (held["tree_bits_read"] == found["tree_bits_read"]).all()
    for one in graph.crossbars:
        unit = with_settings(graph, registers={one.name: AdcRegisters(mode="bounded", n_r2=3, column_bound_bits="ou")})
        at = graph.crossbars.index(one)
        read = searches.metadata_events(unit, events)["column_bound_bits_read"]
        assert (read[..., at] == events.ou_activations[..., at] * 3).all()
        stored = searches.stored_bits(unit)
        assert stored["column_bounds"][at] == 3 * sum(int(x.block_widths.sum()) for x in one.layers)
        once = searches.metadata_events(unit, events, held=True)["column_bound_bits_read"]
        assert (once[..., at] == stored["column_bounds"][at] * one.layers[0].windows).all()
    with pytest.raises(ValueError, match="one per crossbar node"):
        searches.metadata_events(graph, Events(shape=(2,)))


def test_stored_bits_are_counted():
    graph, _, _ = searching()
    found = searches.stored_bits(graph)
    ous = np.array([int(n.layers[0].block_widths.sum()) for n in graph.crossbars])
    assert (found["column_bounds"] == ous * 4 * np.array([3, 1, 0])).all()
    assert (found["cells"] == ous * 16).all()
    assert found["trees"].tolist() == [0, 5 * 3 + 5 * 3, 0]  # five thresholds; five bounds of an index below 5
    for bits, few, many in ((None, 0, 0), (0, 0, 0), (1, 16, 16), ("full", 64, 128), ("ou", 4, 8)):  # system.md §13.1
        assert searches.column_bound_size(bits, PAPER) == few
        assert searches.column_bound_size(bits, ISAAC) == many


def test_low_counts_first_reads_and_stores_no_trees():
    made, images = lossless_graph(0)
    fixed = searches.low_first({node.name: None for node in made.crossbars}, TINY)
    assert all(lossless(one, TINY) and not one.reads_trees for one in fixed.values())
    graph = with_settings(made, registers=fixed)
    events = GraphRunner(graph).run(images)[1]
    assert not searches.metadata_events(graph, events)["tree_bits_read"].any()
    assert not searches.stored_bits(graph)["trees"].any()
    other = AdcRegisters(mode="tree", n_r2=3, trees=((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)))
    assert other.reads_trees
    assert tree_bits(other, TINY) > 0
    assert not AdcRegisters(mode="bounded", n_r2=3).reads_trees


def test_several_settings_in_one_pass_are_those_of_their_runs():
    graph, images = lossless_graph(4)
    counts = graph_joint_counts(graph, images)
    kinds = {"tree": searches.trees(counts, TINY), "bounded": searches.bounded(counts, TINY, 1)}
    found = lanes.graph_spent(graph, images, kinds, skip_zero_slices=(False, True))
    for (name, skip), spent in found.items():
        other = with_settings(graph, registers=kinds[name], skip_zero_slices=skip)
        _, events = GraphRunner(other, engine="direct").run(images)
        for field, counter in (
            ("operations", "ad_operations"),
            ("lock_step", "cycles"),
            ("ou_activations", "ou_activations"),
            ("input_bits_streamed", "input_bits_streamed"),
        ):
            np.testing.assert_array_equal(getattr(spent, field) * len(images), events[counter].sum(axis=0))
        np.testing.assert_array_equal(spent.decoupled, lanes.graph_decoupled_cycles(other, images))
