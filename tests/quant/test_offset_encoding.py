"""Weights on one array: sums, operations and errors against NumPy and against the counts; the command."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from golden_model.crossbar.layer import DynamicPrecision
from golden_model.crossbar.post_processing import finish
from golden_model.crossbar.windows import windows
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from golden_model.searches.histograms import graph_counts, offset_of
from golden_model.trq import AdcRegisters, convert_counts
from quant.networks.zoo import LeNet5
from quant.reproduce import offset as offset_encoding
from quant.reproduce.offset import OffsetRunner
from quant.search import adc as adc_search
from tests.golden_model.test_graph import SMALL, everything, pixels

SPARE = replace(SMALL, weight_bits=5)


def spare(seed: int = 0) -> Graph:
    """A graph of every kind of node, with lossless converters and an unused weight plane."""
    return with_settings(everything(seed), hardware=SPARE)


@pytest.mark.parametrize("seed", range(3))
def test_lossless_converters_give_the_logits_of_the_pair(seed):
    made = spare(seed)
    images = pixels(seed, made, 19)  # more than a batch
    logits, _ = OffsetRunner(made).run(images)
    assert (logits == GraphRunner(made).run(images)[0]).all()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.floats(0.4, 2))
def test_operations_and_error_are_those_that_the_counts_predict(seed, limit, scale):
    made = spare(seed)
    images = pixels(seed, made, 3)
    counts = graph_counts(made, images, offset=True, gram_windows=10**6)
    scores = adc_search.score_layer(counts["stem"], SPARE, limit)
    pick = int(np.random.default_rng(seed).integers(len(scores.shape)))
    chosen = scores.take(pick)
    changed = adc_search.apply(made, {"stem": chosen})
    _, spent = OffsetRunner(changed).run(images)
    assert spent["stem"].conversions == counts["stem"].conversions
    assert spent["stem"].operations == pytest.approx(chosen.operations * counts["stem"].conversions)


def test_lossy_sums_are_those_of_the_stored_weights():
    coarse = AdcRegisters(mode="twin", n_r2=2, n_r1=1)
    made = with_settings(spare(), registers={"stem": coarse}, counts_per_lsb={"stem": 0.8})
    layer = made.node("stem").layers[0]
    images = pixels(1, made, 2)
    value = convert_counts(3, SPARE.ou_rows, layer.registers, layer.min_count).value
    stored = layer.weights + offset_of(layer, SPARE)
    unit = 0.8 * 2.0 ** (3 - 2)
    expected = []
    for q in windows(layer, images).astype(np.int64):
        sums = np.zeros((len(q), layer.outputs), dtype=np.int64)
        for first in range(0, layer.k, SPARE.ou_rows):
            rows = slice(first, min(first + SPARE.ou_rows, layer.k))
            for i in range(8):
                for b in range(5):
                    count = ((q[:, rows] >> i) & 1) @ ((stored[rows] >> b) & 1)
                    sums += value[count] << (i + b)
        share = np.floor(offset_of(layer, SPARE) * q.sum(axis=1) / unit + 0.5).astype(np.int64)
        expected.append(finish(layer, sums - share[:, None]))
    runner = OffsetRunner(made)
    output, _ = runner._crossbar(made.node("stem"), [images])
    assert (output == np.stack(expected)).all()


def test_a_layer_without_a_spare_plane_is_refused_by_name():
    with pytest.raises(ValueError, match=r"layer stem.0: offset encoding needs magnitudes below 8"):
        OffsetRunner(everything())


def test_dynamic_precision_is_refused():
    made = with_settings(spare(), dynamic={"sum": DynamicPrecision()})
    with pytest.raises(ValueError, match="dynamic precision and zero-slice skipping must be off"):
        OffsetRunner(made)


# ---- the command --------------------------------------------------------------------------------
def call(tmp_path, *more):
    torch.manual_seed(0)
    torch.save(LeNet5().state_dict(), tmp_path / "lenet.pt")
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "digits.npz", images=rng.integers(0, 256, (80, 28, 28)).astype(np.uint8),
        labels=rng.integers(0, 10, 80),
    )  # fmt: skip
    arguments = ["--network", "lenet5", "--weights", tmp_path / "lenet.pt", "--data", tmp_path / "digits.npz", *more]
    return CliRunner().invoke(offset_encoding.app, [str(a) for a in arguments])


@pytest.mark.slow
def test_the_command_compares_both_converters(tmp_path):
    done = call(
        tmp_path, "--images", 4, "--bounds", "8,3", "--check-images", 4, "--logit-error", 0.05,
        "--json", tmp_path / "found.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["settings"]) == ["uniform 8", "twin 8", "uniform 3", "twin 3", "uniform fewest", "twin fewest"]
    assert found["settings"]["uniform 8"]["logit_error"] < 1e-4  # units of sums that are no whole counts round
    assert found["settings"]["uniform 3"]["operations"] == 3
    assert found["settings"]["uniform fewest"]["logit_error"] > 0
    assert found["settings"]["twin fewest"]["operations"] < 8
    assert "twin, fewest that pass" in done.stdout


def test_bad_bounds_are_refused(tmp_path):
    done = call(tmp_path, "--bounds", "9")
    assert done.exit_code == 2
    assert "--bounds must be in 1..8, got 9" in done.stderr
