"""Which search of signed differences is the cheapest for the counts of a layer (golden_model/pairs; *ours*).

counts is always int64 (ou_rows + 1, ou_rows + 1, ou_rows + 1), column pairs by [k, c+, c-], as
`golden_model.engines.pair_switches` gives them for every stage; choose on images that nothing is measured on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.pairs.search import Search, differences, pair_counts, signed_twin, tree_search
from golden_model.searches.trees import optimal_tree


class Score(NamedTuple):
    """operations : A/D operations of a column pair. error : mean squared error of its value, in counts squared."""

    operations: float
    error: float


def score(search: Search, counts: np.ndarray) -> Score:
    """What a search takes and loses on these column pairs; zeros if there are none."""
    pairs = max(1, int(counts.sum()))
    k, positive, negative = pair_counts(counts)
    lost = search.pair(k, positive, negative)[0] - (positive - negative)
    return Score(search.total_operations(counts) / pairs, float((lost * lost * counts).sum() / pairs))


def optimal(
    counts: np.ndarray, hardware: HardwareConfig, *, shared: bool = False, max_depth: int | None = None
) -> Search:
    """The trees with the fewest operations on these column pairs: one for every k, or one for all.

    max_depth : most decisions of any difference; where 2 k + 1 codes need more, as many as they need. A limit trades
    operations for clocks where lanes wait for each other.
    """
    found, rows = differences(counts), hardware.ou_rows
    limit = "" if max_depth is None else f", at most {max_depth} deep"
    if shared:
        return tree_search(
            f"optimal tree for all k{limit}", [optimal_tree(found.sum(axis=0), max_depth=max_depth)], hardware,
            stored=True, shared=True,
        )  # fmt: skip
    trees = [
        optimal_tree(
            found[k, rows - k : rows + k + 1], max_depth=max_depth and max(max_depth, (2 * k).bit_length())
        )
        for k in range(1, rows + 1)
    ]  # fmt: skip
    return tree_search(f"optimal tree per k{limit}", trees, hardware, stored=True)


def calibrated_twin(
    counts: np.ndarray, hardware: HardwareConfig, most_error: float = 0.0, *, early_detection: bool = True
) -> Search:
    """The signed twin range of the fewest operations whose mean squared error is at most `most_error` counts squared.

    0 takes lossless settings only. Of settings with as many operations the one with the smaller error is taken.
    """
    steps = range(1 if most_error == 0 else hardware.ideal_bits)
    settings = [
        signed_twin(hardware, n_r1, m, early_detection=early_detection)
        for n_r1 in range(hardware.ideal_bits + 1)
        for m in steps
    ]
    scored = [(score(one, counts), place) for place, one in enumerate(settings)]
    return settings[min(found for found in scored if found[0].error <= most_error)[1]]
