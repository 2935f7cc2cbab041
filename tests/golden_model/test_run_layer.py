"""Single layers against plain loops, networks against their layers, and layers that are no layers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_model import layer as crossbar
from golden_model import timing
from golden_model.config import PAPER, TINY
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.crossbar.post_processing import finish
from golden_model.crossbar.windows import windows
from golden_model.engines import run_network
from golden_model.engines.run_layer import run_layer
from golden_model.engines.run_network import GraphRunner
from golden_model.events import Events
from golden_model.graph.check import accumulator_bits_needed, check_layer
from golden_model.graph.network import check_graph
from golden_model.image.program import plan
from golden_model.trq import AdcRegisters
from tests.strategies import make_images, make_layer, make_network

WIDE = replace(TINY, max_k=256, max_n=64, activation_bytes=4096, channel_entries=64, crossbar_pairs=256)


def convolution(layer: Layer, image):
    """A plain loop over positions: (N, H', W') before requantisation."""
    border = layer.pad
    padded = np.zeros((layer.channels, layer.height + 2 * border, layer.width + 2 * border), dtype=np.int64)
    for channel in range(layer.channels):
        padded[channel] = 0 if layer.pad_values is None else layer.pad_values[channel]
        padded[channel, border : border + layer.height, border : border + layer.width] = image[channel]
    kernel = layer.weights.T.reshape(layer.outputs, layer.channels, layer.kernel_height, layer.kernel_width)
    out = np.zeros((layer.outputs, layer.conv_height, layer.conv_width), dtype=np.int64)
    for y in range(layer.conv_height):
        for x in range(layer.conv_width):
            top, left = y * layer.stride, x * layer.stride
            patch = padded[:, top : top + layer.kernel_height, left : left + layer.kernel_width]
            out[:, y, x] = (kernel * patch).sum(axis=(1, 2, 3))
    return out


def finished(layer: Layer, sums):
    """Requantisation and pooling of a convolution's result, in plain Python integers."""
    out = np.zeros((layer.outputs, layer.out_height, layer.out_width), dtype=np.int64)
    for n in range(layer.outputs):
        for y in range(layer.out_height):
            for x in range(layer.out_width):
                best = 0
                for sub in np.ndindex(layer.pool, layer.pool):
                    acc = int(sums[n, y * layer.pool + sub[0], x * layer.pool + sub[1]]) + int(layer.bias[n])
                    value = (acc * int(layer.multipliers[n]) + ((1 << layer.shift) >> 1)) >> layer.shift
                    best = max(best, min(max(value, 0), 2**layer.output_bits - 1))
                out[n, y, x] = best
    return out


@given(st.data(), st.integers(0, 2**32 - 1))
def test_a_lossless_layer_is_a_plain_convolution(data, seed):
    rng = np.random.default_rng(seed)
    pad = data.draw(st.integers(0, 2))
    kernel = [data.draw(st.integers(1, 3)) for _ in range(2)]
    size = [data.draw(st.integers(max(1, k - 2 * pad), 7)) for k in kernel]
    stride, channels = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    conv = [(s + 2 * pad - k) // stride + 1 for s, k in zip(size, kernel, strict=True)]
    layer = make_layer(
        rng,
        WIDE,
        channels=channels,
        height=size[0],
        width=size[1],
        kernel_height=kernel[0],
        kernel_width=kernel[1],
        stride=stride,
        pad=pad,
        pool=data.draw(st.integers(1, min(conv))),
        outputs=data.draw(st.integers(1, 5)),
        shift=data.draw(st.integers(0, 10)),
        pad_values=rng.integers(0, 16, channels) if data.draw(st.booleans()) else None,
        output_bits=data.draw(st.integers(1, 4)),
        dynamic=DynamicPrecision() if data.draw(st.booleans()) else None,
    )
    images = rng.integers(0, 16, (2, channels, *size)).astype(np.uint8)
    check_layer(layer, WIDE)
    output, events = run_layer(layer, WIDE, images)
    assert output.dtype == np.uint8
    for got, image in zip(output, images, strict=True):
        assert (got == finished(layer, convolution(layer, image))).all()
    assert events.dense.tolist() == [layer.windows * layer.segments(WIDE) * layer.block_cols(WIDE) * 3 * 4] * 2


def test_the_last_layer_gives_signed_sums_plus_bias():
    rng = np.random.default_rng(1)
    layer = make_layer(rng, TINY, kind="linear", channels=3, height=2, width=2, outputs=5, last=True)
    images = rng.integers(0, 16, (8, 3, 2, 2)).astype(np.uint8)
    logits, _ = run_layer(layer, TINY, images)
    assert (logits == images.reshape(8, -1).astype(int) @ layer.weights + layer.bias).all()
    assert logits.min() < 0


def test_windows_come_in_pooled_raster_order():
    layer = make_layer(
        np.random.default_rng(0),
        TINY,
        channels=1,
        height=4,
        width=5,
        kernel_height=1,
        kernel_width=1,
        pool=2,
        outputs=1,
    )
    rows = windows(layer, np.arange(20, dtype=np.uint8).reshape(1, 1, 4, 5))
    assert rows[0, :, 0].tolist() == [0, 1, 5, 6, 2, 3, 7, 8, 10, 11, 15, 16, 12, 13, 17, 18]


def test_the_channel_is_outermost_in_a_window():
    layer = make_layer(
        np.random.default_rng(0), TINY, channels=2, height=2, width=2, kernel_height=2, kernel_width=2, outputs=1
    )
    rows = windows(layer, np.arange(8, dtype=np.uint8).reshape(1, 2, 2, 2))
    assert rows[0, 0].tolist() == list(range(8))


def test_requantisation_clamps_at_both_ends():
    layer = make_layer(
        np.random.default_rng(0),
        PAPER,
        channels=1,
        height=1,
        width=1,
        kernel_height=1,
        kernel_width=1,
        outputs=4,
        bias=np.array([0, 1, 0, 2**31 - 1]),
        multipliers=np.array([65535, 32768, 0, 65535]),
        shift=16,
        output_bits=6,
    )
    assert finish(layer, np.array([[-5, 0, 9, 0]])).ravel().tolist() == [0, 1, 0, 63]


@pytest.mark.parametrize("engine", ["direct", "compiled"])
def test_post_processing_adds_a_residual_before_it_rounds(engine):
    rng = np.random.default_rng(4)
    layer = make_layer(rng, PAPER, channels=3, height=5, width=5, kernel_height=2, kernel_width=2, outputs=6, shift=9)
    images, residuals = (rng.integers(0, 256, (3, *shape)).astype(np.uint8) for shape in ((3, 5, 5), (6, 4, 4)))
    given = {"engine": engine, "residuals": residuals, "residual_multiplier": 70000}
    output, _ = run_layer(layer, PAPER, images, **given)
    for got, image, residual in zip(output, images, residuals, strict=True):
        exact = (convolution(layer, image) + layer.bias[:, None, None]) * layer.multipliers[:, None, None]
        assert (got == np.clip((exact + residual.astype(int) * 70000 + 256) >> 9, 0, 255)).all()


def test_a_network_is_its_layers_one_after_the_other():
    net = make_network(2, TINY)
    images = make_images(3, net, 5)
    runner = GraphRunner(net)
    outputs = runner.outputs(images)
    logits, events = runner.run(images)
    assert (outputs["linear"] == logits).all()
    x = images
    for index, layer in enumerate(net.layers):
        x, counted = run_layer(layer, TINY, x.reshape(5, layer.channels, layer.height, layer.width), engine="direct")
        assert (outputs[layer.name] == x).all()
        assert events[:, index] == counted


def test_a_layers_events_are_those_of_its_windows_plus_its_own_clocks(monkeypatch):
    monkeypatch.setattr(timing, "c_layer", lambda hardware: 1000)
    net = make_network(2, TINY)
    images = make_images(3, net, 2)
    first = net.layers[0]
    _, events = run_layer(first, TINY, images)
    for image, counted in zip(images, events, strict=True):
        rows = windows(first, image[None])[0]
        _, expected = crossbar.matmul(
            rows,
            first.weights,
            TINY,
            first.registers,
            skip_zero_slices=True,
            min_count=first.min_count,
        )
        assert counted == expected + Events.of(cycles=1000)


def test_cutting_the_batch_changes_nothing(monkeypatch):
    net = make_network(2, TINY)
    runner, images = GraphRunner(net), make_images(3, net, 7)
    expected = runner.run(images)
    monkeypatch.setattr(run_network, "_CHUNK_BYTES", 10000)
    steps = []
    logits, events = runner.run(images, progress=lambda done, total: steps.append((done, total)))
    assert (logits == expected[0]).all()
    assert events == expected[1]
    assert len(steps) > 3
    assert steps == sorted(steps)
    assert steps[-1] == (7, 7)


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (np.zeros((1, 6, 6), np.uint8), ValueError, r"shape \(B, 1, 6, 6\), got \(1, 6, 6\)"),
        (np.zeros((1, 2, 6, 6), np.uint8), ValueError, r"got \(1, 2, 6, 6\)"),
        (np.zeros((1, 1, 6, 6)), TypeError, "must be uint8, got dtype float64"),
        (np.zeros((1, 1, 6, 6), np.int8), TypeError, "must be uint8, got dtype int8"),
        (np.full((1, 1, 6, 6), 16, np.uint8), ValueError, r"images must be in 0\.\.15, got 16"),
    ],
)
def test_wrong_images_are_refused(images, error, words):
    with pytest.raises(error, match=words):
        GraphRunner(make_network(2, TINY)).run(images)


NAN = np.full((6, 3), np.nan)
BAD_LAYERS = [
    ({"kind": "pool"}, ValueError, "layer conv1: kind must be 'conv' or 'linear', got 'pool'"),
    ({"kind": "linear"}, ValueError, "a linear layer has kernel = height x width"),
    ({"stride": 0}, ValueError, r"stride must be in 1\.\.255, got 0"),
    ({"pad": 1.0}, TypeError, "pad must be an integer, got 1.0"),
    ({"kernel_height": 9}, ValueError, r"kernel_height must be at most height \+ 2 pad = 8, got 9"),
    ({"pool": 7}, ValueError, "pool must be at most the 6 x 7 map it pools, got 7"),
    ({"weights": NAN}, ValueError, "weights holds NaN"),
    ({"weights": np.zeros((6, 3))}, TypeError, "weights must be integers, got dtype float64"),
    ({"weights": np.zeros((8, 3), int)}, ValueError, r"weights must have shape \(6, 3\), got \(8, 3\)"),
    ({"weights": np.full((6, 3), -8)}, ValueError, r"weights must be in -7\.\.7, got -8\.\.-8"),
    ({"bias": np.full(3, 2**31)}, ValueError, "bias must be in"),
    ({"bias": np.zeros(2, int)}, ValueError, r"bias must have shape \(3,\), got \(2,\)"),
    ({"multipliers": np.full(3, 65536)}, ValueError, r"multipliers must be in 0\.\.65535"),
    ({"multipliers": np.full(3, -1)}, ValueError, r"multipliers must be in 0\.\.65535"),
    ({"shift": 64}, ValueError, r"shift must be in 0\.\.63, got 64"),
    ({"pad_values": np.array([16])}, ValueError, r"pad_values must be in 0\.\.15"),
    ({"pad_values": np.array([1, 2])}, ValueError, r"pad_values must have shape \(1,\)"),
    ({"block_widths": np.zeros((2, 2), int)}, ValueError, r"layer conv1: block_widths\[0, 0\] must be at least"),
    ({"registers": AdcRegisters(mode="uniform", n_r2=9)}, ValueError, r"layer conv1: AdcRegisters\.n_r2 must be"),
    ({"min_count": np.array([3, 2, 1, 4, 5, 6, 7])}, ValueError, "layer conv1: min_count must start"),
    ({"dynamic": DynamicPrecision(l_max=8)}, ValueError, r"layer conv1: DynamicPrecision\.l_max"),
    ({"input_bits": 5}, ValueError, r"input_bits must be in 1\.\.4, got 5"),
]


@pytest.mark.parametrize(("change", "error", "words"), BAD_LAYERS)
def test_layers_that_cannot_be_run_are_refused(change, error, words):
    with pytest.raises(error, match=words):
        check_layer(replace(make_network(0, TINY).layers[0], **change), TINY)


def test_the_last_layer_must_have_one_window():
    shape = {"channels": 1, "height": 3, "width": 3, "kernel_height": 2, "kernel_width": 2}
    layer = make_layer(np.random.default_rng(0), TINY, outputs=1, last=True, **shape)
    with pytest.raises(ValueError, match="the last layer must have one window and no pooling, got 4 windows"):
        check_layer(layer, TINY)


def test_a_layer_takes_activations_as_wide_as_they_are_made():
    net = make_network(0, TINY)
    second = net.crossbars[1]
    narrow = replace(second, layers=(replace(second.layers[0], input_bits=3),))
    with pytest.raises(ValueError, match="node conv2: input_bits must be 4, the width of node conv1, got 3"):
        check_graph(replace(net, nodes=tuple(narrow if node is second else node for node in net.nodes)))


def test_every_output_needs_a_class_name():
    with pytest.raises(ValueError, match="graph tiny: 2 class names for 3 outputs"):
        check_graph(replace(make_network(0, TINY), classes=("a", "b")))


def test_the_accumulator_holds_the_code_range_not_the_count():
    rng = np.random.default_rng(0)
    layer = make_layer(rng, PAPER, kind="linear", channels=512, height=1, width=1, outputs=1, last=True)
    largest = 57 * 15 * 255 * 255 + abs(int(layer.bias[0]))
    assert accumulator_bits_needed(layer, PAPER) == largest.bit_length() + 1 == 27
    check_layer(layer, replace(PAPER, accumulator_bits=27))
    with pytest.raises(ValueError, match="partial sums need 27 bits, the hardware has accumulator_bits = 26"):
        check_layer(layer, replace(PAPER, accumulator_bits=26))


@pytest.mark.parametrize("hardware", [TINY, PAPER])
def test_the_shared_test_network_fits_for_any_seed(hardware):
    for seed in range(30):
        plan(make_network(seed, hardware))
