"""Joint counts against counting one conversion after another, in every engine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.crossbar.prepared import prepare_layer
from golden_model.crossbar.redy import precision
from golden_model.crossbar.windows import windows
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.settings import with_settings
from golden_model.searches import counting
from golden_model.searches import joint as histograms_joint
from golden_model.searches.histograms import layer_counts
from golden_model.searches.joint import JointCounts, graph_joint_counts, joint_counts
from tests.strategies import dynamic_precisions, make_images, make_layer, make_network

MANY = HardwareConfig(rows=70, cols=8, ou_rows=70, ou_cols=3, adc_bits=7, weight_bits=4)
BOUND_OF = st.sampled_from(["column", "ou"])
FEW = HardwareConfig(rows=12, cols=8, ou_rows=5, ou_cols=3, adc_bits=3, weight_bits=4)


def one_by_one(made, hardware, rows, u_of):
    """int64 (ou_rows + 1, ou_rows + 1, ou_rows + 1), [k, u, count]."""
    counts = np.zeros((hardware.ou_rows + 1,) * 3, dtype=np.int64)
    q, lo, hi = rows.astype(int), np.zeros((len(rows), 99), int), np.full((len(rows), 99), made.input_bits - 1)
    if made.dynamic is not None:
        choice = precision(rows, hardware, made.dynamic)
        group = np.arange(99) // hardware.segments_per_group
        group = np.minimum(group, choice.lo.shape[1] - 1)
        q, lo, hi = choice.streamed, choice.lo[:, group], choice.hi[:, group]
    for p in range(len(rows)):
        for segment, first in enumerate(range(0, made.k, hardware.ou_rows)):
            inside = slice(first, min(first + hardware.ou_rows, made.k))
            for n in range(made.outputs):
                w = made.weights[inside, n].astype(int)
                for b in range(made.block_widths[segment, n // hardware.ou_cols]):
                    for sign in (1, -1):
                        cells = (np.maximum(sign * w, 0) >> b) & 1
                        u = cells.sum()
                        if u_of == "ou":
                            block = n // hardware.ou_cols * hardware.ou_cols
                            unit = made.weights[inside, block : block + hardware.ou_cols].astype(int)
                            u = max(((np.maximum(x, 0) >> b) & 1).sum(axis=0).max() for x in (unit, -unit))
                        for i in range(lo[p, segment], hi[p, segment] + 1):
                            inputs = (q[p, inside] >> i) & 1
                            counts[inputs.sum(), u, inputs @ cells] += 1
    return counts


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([FEW, MANY]), st.integers(0, 999), st.none() | dynamic_precisions(), st.booleans(), BOUND_OF)
def test_every_conversion_is_counted_where_it_belongs(hardware, seed, dynamic, compiled, u_of):
    rng = np.random.default_rng(seed)
    made = make_layer(
        rng, hardware, channels=9, height=3, width=3, kernel_height=2, kernel_width=2, outputs=4, dynamic=dynamic,
        skip_zero_slices=bool(seed % 2),
    )  # fmt: skip
    images = (rng.integers(0, 256, (1, 9, 3, 3)) * (rng.random((1, 9, 3, 3)) < 0.4)).astype(np.uint8)
    rows = windows(made, images).reshape(-1, made.k)
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(counting, "numba_installed", lambda: False)
        found = joint_counts(prepare_layer(made, hardware), rows, u_of)
    expected = one_by_one(made, hardware, rows, u_of)
    assert found.u_of == u_of
    size = found.counts.shape[1]
    np.testing.assert_array_equal(found.counts, expected[:, :size, :size])
    assert expected.sum() == found.conversions()
    assert found.conversions(True) == expected[1:].sum()


def test_views_of_the_counts():
    counts = np.zeros((4, 3, 3), dtype=np.int64)
    counts[0, 2, 0], counts[3, 0, 0], counts[1, 2, 1], counts[3, 1, 1], counts[3, 2, 2] = 5, 7, 11, 13, 17
    made = JointCounts(counts)
    no_bound = np.zeros((4, 4), dtype=int)
    no_bound[3] = [12, 24, 17, 0]
    np.testing.assert_array_equal(made.by_bound(None), no_bound)
    by_rows = np.zeros((4, 4), dtype=int)
    by_rows[0, 0], by_rows[3, :3], by_rows[1, 1] = 5, (7, 13, 17), 11
    np.testing.assert_array_equal(made.by_bound(0), by_rows)
    by_one = by_rows.copy()
    by_one[3, 0], by_one[0, 0] = 0, 12
    np.testing.assert_array_equal(made.by_bound(1), by_one)
    full = np.zeros((4, 4), dtype=int)
    full[0, 0], full[1, 1], full[2, 2] = 12, 24, 17
    np.testing.assert_array_equal(made.by_bound("full"), full)
    assert made.by_bound("full", True)[0, 0] == 7
    assert (made + JointCounts(counts[:, :2, :2])).counts[3].tolist() == [[14, 0, 0], [0, 26, 0], [0, 0, 17]]


def test_bounds_that_do_not_fit_the_counts_are_refused():
    counts = np.zeros((4, 3, 3), dtype=np.int64)
    counts[3, 2, 1] = 5
    column, unit = JointCounts(counts), JointCounts(counts, u_of="ou")
    assert unit.by_bound("ou")[2, 1] == unit.by_bound(0)[3, 1] == unit.by_bound(None)[3, 1] == 5
    assert (unit + unit).by_bound("ou")[2, 1] == 10
    for bits in (1, "full"):
        with pytest.raises(ValueError, match=f"{bits!r} needs joint counts with u_of='column', these have"):
            unit.by_bound(bits)
    with pytest.raises(ValueError, match="column_bound_bits 'ou' needs joint counts with u_of='ou', these have"):
        column.by_bound("ou")
    with pytest.raises(ValueError, match="different u_of cannot be added: column, ou"):
        column + unit
    made = make_layer(np.random.default_rng(0), FEW, kind="linear", channels=1, height=2, width=2, outputs=2)
    with pytest.raises(ValueError, match="u_of must be 'column' or 'ou', got 'row'"):
        joint_counts(prepare_layer(made, FEW), np.zeros((1, 4), dtype=np.uint8), "row")


def test_counts_agree_with_the_histograms_of_counts():
    rng = np.random.default_rng(4)
    made = make_layer(rng, FEW, channels=3, height=6, width=6, kernel_height=3, kernel_width=3, outputs=7, pad=1)
    images = rng.integers(0, 256, (2, 3, 6, 6)).astype(np.uint8)
    rows = windows(made, images).reshape(-1, made.k)
    found = joint_counts(prepare_layer(made, FEW), rows)
    other = layer_counts(made, FEW, images, gram_windows=1)
    assert (found.by_bound(None)[-1] == other.counts.sum(axis=(0, 1))).all()
    assert (found.by_bound(None, True)[-1] == other.used(True).sum(axis=(0, 1))).all()


def test_cutting_windows_into_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(5)
    made = make_layer(rng, FEW, channels=3, height=6, width=6, kernel_height=3, kernel_width=3, outputs=4)
    rows = rng.integers(0, 256, (50, made.k))
    whole = joint_counts(prepare_layer(made, FEW), rows).counts
    monkeypatch.setattr(histograms_joint, "_CHUNK_BYTES", 4000)
    assert (joint_counts(prepare_layer(made, FEW), rows).counts == whole).all()


def test_counts_of_a_graph_are_all_conversions_of_its_events():
    made = make_network(2, FEW)
    dynamic = {node.name: DynamicPrecision() if i else None for i, node in enumerate(made.crossbars)}
    graph = with_settings(made, dynamic=dynamic)
    images = make_images(3, made, 5)
    found = graph_joint_counts(graph, images)
    _, events = GraphRunner(graph).run(images)
    assert list(found) == [node.name for node in graph.crossbars]
    for index, node in enumerate(graph.crossbars):
        skip = node.layers[0].skip_zero_slices
        assert found[node.name].conversions(skip) == events[:, index].sum().conversions
