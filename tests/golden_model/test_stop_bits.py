"""Which input bits early stop checks: the tables of a layer against what its windows spend."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from golden_model.engines.pair_runner import PairRunner
from golden_model.engines.pair_stop_bits import PRICE, choose_bits, conversions, tally
from golden_model.engines.pair_switches import Switches, measure
from golden_model.engines.run_network import GraphRunner
from golden_model.pairs import gather
from golden_model.pairs.early_stop import EarlyStop, find_stops
from golden_model.pairs.search import outward
from tests.golden_model.test_graph import everything, pixels
from tests.golden_model.test_pairs import ALONE, cases
from tests.golden_model.test_pairs_network import lossless

GRAPH = lossless(everything())


@given(cases() | cases(by="rows"))
@settings(max_examples=60, deadline=None)
def test_all_column_pairs_are_found_in_the_table_of_conversions(case):
    packing, _, windows = case
    spent = gather.spend(packing, windows, [outward(packing.hardware)])
    np.testing.assert_array_equal(conversions(packing, windows).sum(axis=(0, 2)), spent.pairs_converted)


@given(cases(ALONE) | cases(ALONE, by="rows"), st.sets(st.integers(1, 7)), st.sampled_from([0.0, 0.3, 2.0]))
@settings(max_examples=80, deadline=None)
def test_the_cost_of_bits_is_what_they_spend(case, bits, price):
    packing, layer, windows = case
    assume(layer.dynamic is None)  # every window streams every bit
    after = tuple(bit for bit in sorted(bits, reverse=True) if bit < layer.input_bits)
    found = tally(packing, windows, find_stops(layer, packing.prepared, windows, EarlyStop()))
    stops = find_stops(layer, packing.prepared, windows, EarlyStop(after=after))
    with_checks, without = (gather.spend(packing, windows, (), one).pairs_converted.sum() for one in (stops, None))
    paid = price * (stops.checks.sum() + (stops.sums.size if after else 0))
    assert found.cost(after, price) - found.cost((), price) == pytest.approx(with_checks - without + paid)


@given(cases(ALONE), st.sampled_from([0.0, 0.3, 2.0]))
@settings(max_examples=40, deadline=None)
def test_no_bits_cost_less_than_the_best(case, price):
    packing, layer, windows = case
    found = tally(packing, windows, find_stops(layer, packing.prepared, windows, EarlyStop()))
    bits = range(layer.input_bits - 1, 0, -1)
    costs = [found.cost(after, price) for count in range(len(bits) + 1) for after in combinations(bits, count)]
    assert found.cost(found.best(price), price) == min(costs)


def test_bits_are_chosen_for_every_layer_and_lose_nothing():
    images = pixels(0, GRAPH, 3)
    chosen = choose_bits(GRAPH, images)
    assert chosen
    assert all(stop.after for stop in chosen.values())
    np.testing.assert_array_equal(PairRunner(GRAPH, stop=chosen).run(images), GraphRunner(GRAPH).run(images)[0])


def test_chosen_bits_cost_no_more_than_checks_after_every_bit():
    images = pixels(0, GRAPH, 3)
    plain = {"every": EarlyStop(), "chosen": choose_bits(GRAPH, images)}
    search = outward(GRAPH.hardware)
    found = measure(GRAPH, images, {name: Switches(search=search, stop=stop) for name, stop in plain.items()})
    cost = {
        name: one.column_pairs + PRICE * sum(one.extra[event].sum() for event in ("stop_checks", "limit_words_read"))
        for name, one in found.items()
    }
    assert cost["chosen"] < cost["every"]
    assert found["chosen"].network_clocks() <= found["every"].network_clocks()


def test_layers_where_no_check_pays_have_none():
    assert choose_bits(GRAPH, pixels(0, GRAPH, 2), price=1e9) == {}


def test_pictures_are_taken_batch_by_batch():
    images = pixels(0, GRAPH, 5)
    told = []
    chosen = choose_bits(GRAPH, images, progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 5), (5, 5)]
    assert set(chosen) <= {node.name for node in GRAPH.crossbars}
