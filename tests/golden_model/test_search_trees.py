"""Search trees: storage, optimality against brute force, bounds by the entropy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_model.searches.trees import operations, optimal_tree, tree_of_depths
from golden_model.trees import bounded_tree, check_tree, depths, entropy, low_first_tree
from tests.strategies import search_trees

weights = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 10**6)), min_size=1, max_size=11)


def walk(tree, count):
    """Comparisons of a walk over the stored thresholds alone (module docstring)."""
    low, high, node, compared = 0, len(tree), 0, 0
    while low < high:
        threshold = tree[node]
        compared += 1
        if count >= threshold:
            node, low = node + threshold - low, threshold
        else:
            node, high = node + 1, threshold - 1
    assert low == count
    return compared


def all_trees(low, high):
    """Depths of every search tree over low..high."""
    if low == high:
        yield [0]
    for threshold in range(low + 1, high + 1):
        for left in all_trees(low, threshold - 1):
            for right in all_trees(threshold, high):
                yield [d + 1 for d in (*left, *right)]


def least(values):
    """Fewest comparisons, by plain dynamic programming."""
    cost = {}
    for size in range(len(values)):
        for first in range(len(values) - size):
            end = first + size
            parts = [cost[first, k] + cost[k + 1, end] for k in range(first, end)]
            cost[first, end] = min(parts) + sum(values[first : end + 1]) if parts else 0
    return cost[0, len(values) - 1]


@given(st.integers(0, 30).flatmap(search_trees))
def test_a_walk_over_stored_thresholds_finds_every_count(tree):
    check_tree(tree)
    assert [walk(tree, count) for count in range(len(tree) + 1)] == depths(tree).tolist()


@given(st.integers(0, 30).flatmap(search_trees))
def test_depths_say_which_tree_it_is(tree):
    assert tree_of_depths(depths(tree).tolist()) == tree


def test_bounded_search_is_that_of_the_specification():
    assert depths(bounded_tree(2)).tolist() == [1, 2, 2]
    assert depths(bounded_tree(4)).tolist() == [2, 2, 2, 3, 3]
    assert depths(bounded_tree(9)).tolist() == [3, 3, 3, 4, 4, 3, 3, 3, 4, 4]
    for bound in range(129):
        found = depths(bounded_tree(bound))
        assert set(found) <= {int(np.floor(np.log2(bound + 1))), int(np.ceil(np.log2(bound + 1)))}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=7))
def test_no_tree_at_all_is_better_than_the_optimal_one(values):
    best = min(sum(w * d for w, d in zip(values, one, strict=True)) for one in all_trees(0, len(values) - 1))
    assert operations(optimal_tree(values), values) == best


@given(weights)
def test_optimal_trees_equal_dynamic_programming(values):
    tree = optimal_tree(values)
    check_tree(tree)
    assert operations(tree, values) == least(values)


def test_large_trees_are_optimal_too():
    rng = np.random.default_rng(1)
    for size in (40, 129):
        values = (rng.random(size) ** 8 * 10**9).astype(np.int64)
        assert operations(optimal_tree(values), values) == least(values.tolist())


@given(weights)
def test_entropy_bounds_the_optimal_tree(values):
    total, spent = sum(values), operations(optimal_tree(values), values)
    assert entropy(np.array(values)) <= spent * (1 + 1e-12)
    if total and len(values) > 1:
        assert spent <= entropy(np.array(values)) + 2 * total


def test_entropy_of_rows_is_conditional():
    assert entropy([[1, 1], [4, 0]]) == 2
    assert entropy([[8, 8]]) == 16
    assert entropy([[0, 0]]) == 0
    assert entropy([3, 1]) == pytest.approx(3 * np.log2(4 / 3) + 2)


@given(st.integers(1, 255))
def test_low_counts_first_has_the_fewest_levels_and_its_longest_paths_at_the_top(bound):
    tree = low_first_tree(bound)
    check_tree(tree)
    found = depths(tree).tolist()
    assert found == sorted(found)
    assert found[-1] == bound.bit_length()
    assert found[0] >= found[-1] - 1
    assert sum(found) == depths(bounded_tree(bound)).sum()


def test_low_counts_first_of_nine_rows():
    assert low_first_tree(9) == (4, 2, 1, 3, 6, 5, 8, 7, 9)
    assert depths(low_first_tree(9)).tolist() == [3] * 6 + [4] * 4
    assert low_first_tree(0) == ()
    with pytest.raises(ValueError, match="bound must be at least 0, got -1"):
        low_first_tree(-1)


def test_counts_that_never_occur_stay_near_the_top():
    tree = optimal_tree([1000, 0, 0, 0, 0, 0, 0, 0])
    assert depths(tree)[0] == 1
    assert sorted(depths(tree)[1:]) == [3, 4, 4, 4, 4, 4, 4]


@given(st.lists(st.integers(0, 9), min_size=2, max_size=6), st.integers(0, 2))
def test_limited_trees_are_the_best_of_their_depth(values, more):
    limit = (len(values) - 1).bit_length() + more
    tree = optimal_tree(values, max_depth=limit)
    check_tree(tree)
    found = [one for one in all_trees(0, len(values) - 1) if max(one) <= limit]
    assert max(depths(tree)) <= limit
    assert operations(tree, values) == min(sum(w * d for w, d in zip(values, one, strict=True)) for one in found)


def test_a_deeper_limit_never_costs_operations():
    values = [900, 60, 20, 10, 5, 3, 1, 1, 1, 1]
    spent = [operations(optimal_tree(values, max_depth=d), values) for d in range(4, 10)]
    assert all(a >= b for a, b in pairwise(spent))
    assert spent[0] > spent[-1] == operations(optimal_tree(values), values)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ((1, 3), "must hold every threshold 1..2 once"),
        ((1, 1), "must hold every threshold 1..2 once"),
        ((2, 3, 1), "threshold 3 cannot split the counts 0..1"),
        ([1], "must be a tuple of integers"),
        ((True,), "must be a tuple of integers"),
    ],
)
def test_what_is_no_tree_is_refused(tree, message):
    with pytest.raises((ValueError, TypeError), match=message):
        check_tree(tree)


def test_bad_weights_are_refused():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        optimal_tree([1, -1])
    with pytest.raises(TypeError, match="row of integers, got dtype float64"):
        optimal_tree([0.5, 0.5])
    with pytest.raises(ValueError, match="max_depth 1 is too small for 3 counts"):
        optimal_tree([1, 1, 1], max_depth=1)
    with pytest.raises(ValueError, match="no search tree has the depths"):
        tree_of_depths([1, 2])
