"""Searches of signed differences: what they find, what they take, and which is the cheapest."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_model.config import PAPER, HardwareConfig
from golden_model.pairs.search import (
    Search,
    bounded,
    counts_search,
    differences,
    outward,
    search_of,
    signed_twin,
    tree_search,
    uniform,
)
from golden_model.searches.differences import calibrated_twin, optimal, score
from golden_model.trees import bounded_tree, entropy
from golden_model.trq import AdcRegisters, lossless
from tests.rtl import search_oracle as oracle
from tests.rtl.search_oracle import SearchRegisters, every_search
from tests.strategies import hardware_configs


def machines() -> st.SearchStrategy[HardwareConfig]:
    return hardware_configs().map(lambda hw: replace(hw, adc_bits=max(hw.adc_bits, hw.ideal_bits)))


def histogram(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Column pairs by [k, c+, c-], with c+ + c- <= k."""
    k, positive, negative = np.indices((rows + 1,) * 3)
    return rng.integers(0, 50, k.shape) ** 2 * (positive + negative <= k) * (k > 0)


def table(search: Search, k: int) -> dict[int, tuple[int, int]]:
    """d -> (value, operations) below k."""
    rows = search.ou_rows
    return {d: (int(search.value[k, rows + d]), int(search.operations[k, rows + d])) for d in range(-k, k + 1)}


def outward_by_asking(k: int, d: int) -> tuple[int, int]:
    """The definition, question by question."""
    asked = 1
    if d >= 1:
        found = 1
        while found < k:
            asked += 1
            if d < found + 1:
                break
            found += 1
        return found, asked
    found = 0
    while found > -k:
        asked += 1
        if d >= found:
            break
        found -= 1
    return found, asked


@given(machines())
def test_outward_search_asks_from_0_outward_and_never_the_impossible(hardware):
    search = outward(hardware)
    for k in range(1, hardware.ou_rows + 1):
        assert table(search, k) == {d: outward_by_asking(k, d) for d in range(-k, k + 1)}


def test_outward_search_of_9_rows_takes_at_most_10_decisions():
    taken = outward(PAPER).operations[9]
    assert taken.tolist() == [10, 10, 9, 8, 7, 6, 5, 4, 3, 2, 2, 3, 4, 5, 6, 7, 8, 9, 9]


@given(machines(), st.integers(0, 3))
def test_searches_of_ours_are_lossless(hardware, reach):
    for search in (outward(hardware), outward(hardware, reach), bounded(hardware), uniform(hardware)):
        assert search.lossless
        assert all(table(search, k)[d][0] == d for k in range(1, hardware.ou_rows + 1) for d in range(-k, k + 1))


def test_halving_beyond_a_reach_shortens_the_longest_search():
    longest = [int(outward(PAPER, reach).operations.max()) for reach in (1, 2, 3)]
    assert longest == sorted(longest)
    assert longest[0] < outward(PAPER).operations.max()


def test_bounded_search_halves_what_is_left():
    assert [operations for _, operations in table(bounded(PAPER), 1).values()] == [1, 2, 2]
    assert max(operations for _, operations in table(bounded(PAPER), 9).values()) == 5


@pytest.mark.parametrize("n_r1", range(5))
@pytest.mark.parametrize("m", range(5))
def test_signed_twin_range_is_fine_around_0_and_coarse_outside(n_r1, m):
    begin, end = -(2**n_r1) // 2, 2**n_r1 - 2**n_r1 // 2
    if n_r1 == 0:
        begin, end = 0, 1
    for d, (value, operations) in table(signed_twin(PAPER, n_r1, m), 9).items():
        if begin <= d < end:
            assert (value, operations) == (d, 2 + n_r1)
        else:
            assert value % 2**m == 0
            assert abs(value - d) <= 2**m / 2 or value == 16 - 2**m
            assert operations == 2 + 5 - m
    assert signed_twin(PAPER, n_r1, 0).lossless


def test_early_detection_saves_the_second_decision_above_the_window():
    plain, early = (table(signed_twin(PAPER, 2, early_detection=flag), 9) for flag in (False, True))
    assert {d for d in plain if early[d] != plain[d]} == set(range(2, 10))
    assert all(early[d] == (plain[d][0], plain[d][1] - 1) for d in range(2, 10))


def test_signed_twin_range_must_fit():
    with pytest.raises(ValueError, match=r"signed_twin: n_r1 must be in 0\.\.4, got 5"):
        signed_twin(PAPER, 5)


@given(machines(), st.integers(0, 99))
def test_two_conversions_take_what_both_counts_take(hardware, seed):
    search = counts_search("both", AdcRegisters(mode="bounded", n_r2=hardware.adc_bits), hardware)
    counts = histogram(np.random.default_rng(seed), hardware.ou_rows)
    expected = 0
    for k, positive, negative in np.argwhere(counts):
        times = int(counts[k, positive, negative])
        depth = search.operations[k, hardware.ou_rows :]
        expected += times * int(depth[positive] + depth[negative])
    assert search.total_operations(counts) == expected
    assert search.lossless


@given(machines(), st.integers(0, 99))
def test_optimal_trees_are_the_cheapest_and_not_below_the_entropy(hardware, seed):
    counts = histogram(np.random.default_rng(seed), hardware.ou_rows)
    best = optimal(counts, hardware)
    others = [outward(hardware), bounded(hardware), optimal(counts, hardware, shared=True)]
    taken = best.total_operations(counts)
    assert best.lossless
    assert all(search.lossless and taken <= search.total_operations(counts) for search in others)
    assert entropy(differences(counts)) <= taken + 1e-6


@given(st.integers(0, 99), st.integers(1, 9))
def test_a_limit_of_depth_holds_where_it_can(seed, limit):
    counts = histogram(np.random.default_rng(seed), 9)
    limited = optimal(counts, PAPER, max_depth=limit)
    for k in range(1, 10):
        assert max(operations for _, operations in table(limited, k).values()) <= max(limit, (2 * k).bit_length())
    assert limited.total_operations(counts) >= optimal(counts, PAPER).total_operations(counts)


def test_stored_trees_cost_a_signed_code_for_every_threshold():
    counts = histogram(np.random.default_rng(0), 9)
    assert optimal(counts, PAPER).stored_bits == 5 * sum(2 * k for k in range(1, 10))
    assert optimal(counts, PAPER, shared=True).stored_bits == 5 * 18
    assert outward(PAPER).stored_bits == 0


def test_a_lossier_twin_range_takes_no_more_operations():
    counts = differences_around_0()
    found = [score(calibrated_twin(counts, PAPER, error), counts) for error in (0.0, 0.05, 0.5, 5.0)]
    assert found[0].error == 0
    assert all(b.operations <= a.operations for a, b in pairwise(found))
    assert found[-1].operations < found[0].operations
    assert all(one.error <= error for one, error in zip(found, (0.0, 0.05, 0.5, 5.0), strict=True))


def differences_around_0() -> np.ndarray:
    counts = np.zeros((10, 10, 10), dtype=np.int64)
    for positive in range(6):
        for negative in range(4):
            counts[9, positive, negative] = 1000 >> (positive + negative)
    return counts


def test_score_is_operations_and_squared_error_of_a_pair():
    counts = np.zeros((10, 10, 10), dtype=np.int64)
    counts[9, 7, 0], counts[9, 0, 0] = 1, 3
    assert score(signed_twin(PAPER, 1, 1), counts) == ((6 + 3 * 3) / 4, 1 / 4)


def test_trees_must_be_one_for_every_k():
    with pytest.raises(ValueError, match=r"there must be a tree of 2 k thresholds for every k in 1\.\.9"):
        tree_search("x", [bounded_tree(2)], PAPER)


# ---- registers of the pair machine --------------------------------------------------------------
def pair_machine(adc_bits: int, ou_rows: int) -> HardwareConfig:
    return replace(PAPER, machine="pairs", adc_bits=adc_bits, ou_rows=ou_rows)


def on_pairs(adc_bits: int) -> list[SearchRegisters]:
    """All legal registers of the pair machine."""
    return [registers for registers in every_search(adc_bits, True) if registers.signed]


def as_adc_registers(registers: SearchRegisters) -> AdcRegisters:
    return replace(registers.grid, mode=registers.mode.name.lower())


@pytest.mark.parametrize("adc_bits", [2, 3, 4])
def test_every_legal_setting_converts_as_question_by_question(adc_bits):
    hardware = pair_machine(adc_bits, (1 << adc_bits) - 1)
    for registers in on_pairs(adc_bits):
        found = search_of(as_adc_registers(registers), hardware)
        for k in range(1, hardware.ou_rows + 1):
            wanted = {d: oracle.search(registers, adc_bits, k, d) for d in range(-k, k + 1)}
            assert table(found, k) == {d: (value, spent) for d, (value, _, spent) in wanted.items()}, registers


@pytest.mark.parametrize("adc_bits", [2, 3, 4])
def test_lossless_registers_are_those_whose_search_is(adc_bits):
    for ou_rows in range(1, 1 << adc_bits):
        hardware = pair_machine(adc_bits, ou_rows)
        for registers in map(as_adc_registers, on_pairs(adc_bits)):
            assert lossless(registers, hardware) == search_of(registers, hardware).lossless, (ou_rows, registers)


def test_registers_that_the_pair_machine_does_not_have_are_refused():
    with pytest.raises(ValueError, match=r"AdcRegisters\.bias must be in 0\.\.0, got 1"):
        search_of(AdcRegisters(mode="twin", n_r2=5, bias=1), pair_machine(4, 9))
    with pytest.raises(TypeError, match=r"AdcRegisters\.n_r2 must be an integer, got 5\.0"):
        search_of(AdcRegisters(mode="outward", n_r2=5.0), pair_machine(4, 9))
    with pytest.raises(ValueError, match="only the pair machine searches differences"):
        search_of(AdcRegisters(mode="uniform", n_r2=4), PAPER)
