from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_model.config import ISAAC, PAPER, HardwareConfig
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.crossbar.mapping import block_widths
from golden_model.crossbar.post_processing import finish
from golden_model.engines import finish_compiled as graph_compiled
from golden_model.engines import run_network
from golden_model.engines.run_network import GraphRunner
from golden_model.events import Events
from golden_model.graph import network as graph
from golden_model.graph.nodes import Add, AveragePool, Border, Concat, Crossbar, Image, MaxPool, Reshape
from golden_model.graph.numbers import Encoding, Rescale, Window, fixed_point
from golden_model.graph.settings import with_settings
from golden_model.trq import AdcRegisters
from tests.golden_model.random_graphs import random_network
from tests.strategies import make_layer

SMALL = HardwareConfig(rows=12, cols=8, ou_rows=5, ou_cols=3, adc_bits=3, weight_bits=4)
TWIN = AdcRegisters(mode="twin", n_r2=3, n_r1=1)


def image(shape=(2, 6, 6), **encoding) -> Image:
    return Image(name="image", shape=shape, encoding=Encoding(**{"high": 1.0, **encoding}))


def convolution(rng, name, inputs, shape, outputs, *, kernel=3, pad=1, stride=1, groups=1, high=9.0, low=0.0, **values):
    """A crossbar node on a map of `shape`; `values` go to its layers."""
    channels, height, width = shape
    layers = tuple(
        make_layer(
            rng, values.get("hardware", SMALL), name=f"{name}.{g}", channels=channels // groups, height=height,
            width=width, kernel_height=kernel, kernel_width=kernel, stride=stride, pad=pad, outputs=outputs // groups,
            **{key: v for key, v in values.items() if key != "hardware"},
        )
        for g in range(groups)
    )  # fmt: skip
    return Crossbar(
        name=name, inputs=inputs, shape=(outputs, layers[0].out_height, layers[0].out_width),
        encoding=Encoding(low=low, high=high), layers=layers, step=np.full(outputs, 0.02),
        bias=rng.normal(0, 0.5, outputs),
    )  # fmt: skip


def head(rng, name, source, shape, outputs=4, hardware=SMALL):
    channels, height, width = shape
    layer = make_layer(
        rng, hardware, name=name, kind="linear", channels=channels, height=height, width=width, outputs=outputs,
        last=True,
    )  # fmt: skip
    return Crossbar(
        name=name, inputs=(source,), shape=(outputs, 1, 1), encoding=Encoding(high=1.0), layers=(layer,),
        step=np.full(outputs, 0.03), bias=rng.normal(0, 0.5, outputs),
    )  # fmt: skip


def everything(seed: int = 0, hardware: HardwareConfig = SMALL, **values) -> graph.Graph:
    """A graph with one node of every kind, a signed residual and a grouped convolution."""
    rng = np.random.default_rng(seed)
    values = {"hardware": hardware, **values}
    nodes = [
        image(zeros=(120.3, 99.7)),
        convolution(rng, "stem", ("image",), (2, 6, 6), 4, **values),
        convolution(rng, "signed", ("stem",), (4, 6, 6), 4, kernel=1, pad=0, low=-3.0, high=5.0, **values),
        convolution(rng, "sum", ("stem", "signed"), (4, 6, 6), 4, low=-2.0, high=9.0, **values),
        convolution(rng, "groups", ("sum",), (4, 6, 6), 4, groups=2, **values),
        Add(name="relu", inputs=("sum",), shape=(4, 6, 6), encoding=Encoding(high=6.0)),
        Border(name="shortcut", inputs=("relu",), shape=(6, 3, 3), encoding=Encoding(high=1.0), stride=(2, 2),
               channels=(1, 1)),
        MaxPool(name="max", inputs=("groups",), shape=(4, 3, 3), encoding=Encoding(high=1.0),
                window=Window(kernel=(3, 3), stride=(2, 2), ceil_mode=True)),
        Concat(name="cat", inputs=("shortcut", "max"), shape=(10, 3, 3), encoding=Encoding(high=8.0)),
        AveragePool(name="mean", inputs=("cat",), shape=(10, 1, 1), encoding=Encoding(high=4.0),
                    window=Window(kernel=(3, 3), stride=(3, 3))),
        Reshape(name="flat", inputs=("mean",), shape=(5, 2, 1), encoding=Encoding(high=1.0)),
        head(rng, "head", "flat", (5, 2, 1), hardware=hardware),
    ]  # fmt: skip
    return graph.build("everything", hardware, nodes)


def pixels(seed, graph_, count):
    return np.random.default_rng(seed).integers(0, 256, (count, *graph_.image.shape)).astype(np.uint8)


# ---- arithmetic ---------------------------------------------------------------------------------
def scalar_finish(node: Crossbar, sums, residual):
    """system.md §3 in Python integers: (N, places)."""
    layer = node.layers[0]
    out = np.zeros((layer.outputs, len(sums)), dtype=np.int64)
    for place, n in product(range(len(sums)), range(layer.outputs)):
        total = (int(sums[place, n]) + int(layer.bias[n])) * int(layer.multipliers[n])
        total += 0 if residual is None else int(residual[n, place]) * node.residual_multiplier
        y = (total + ((1 << layer.shift) >> 1)) >> layer.shift
        y = min(max(y, 0), (1 << layer.output_bits) - 1)
        levels = [v for v in range(1 << layer.output_bits) if v.bit_count() <= (layer.output_ones or 8)]
        out[n, place] = min(levels, key=lambda level, y=y: (abs(level - y), -level))
    return out


@given(
    st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.integers(1, 8), st.integers(0, 40), st.integers(0, 8)
)
def test_residuals_are_added_before_the_only_rounding(seed, with_residual, saturated, bits, shift, ones):
    rng = np.random.default_rng(seed)
    node = convolution(rng, "layer", ("image",), (2, 6, 5), 3)
    high = (1 << 31) - 1 if saturated else 5000
    layer = replace(
        node.layers[0],
        bias=rng.integers(-high, high + 1, 3),
        multipliers=np.full(3, 65535) if saturated else rng.integers(0, 65536, 3),
        shift=shift,
        output_bits=bits,
        output_ones=ones,
    )
    node = replace(
        node, layers=(layer,), residual_multiplier=(1 << 32) - 1 if saturated else int(rng.integers(1 << 32))
    )
    sums = rng.choice([-high, high], (30, 8)) if saturated else rng.integers(-high, high + 1, (30, 8))
    residual = np.full((3, 6, 5), 255) if saturated else rng.integers(0, 256, (3, 6, 5))
    residual = residual.astype(np.uint8) if with_residual else None
    expected = scalar_finish(node, sums, None if residual is None else residual.reshape(3, 30))
    assert (finish(layer, sums, residual, node.residual_multiplier).reshape(3, 30) == expected).all()
    for kind in (np.int32, np.int64):
        got = graph_compiled.finish(layer, sums.astype(kind), residual, node.residual_multiplier)
        assert (got.reshape(3, 30) == expected).all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 3))
def test_compiled_pooling_equals_the_plain_form(seed, pool):
    rng = np.random.default_rng(seed)
    node = convolution(rng, "layer", ("image",), (2, 7, 6), 3, pool=pool)
    layer = replace(node.layers[0], bias=rng.integers(-500, 500, 3), multipliers=rng.integers(0, 65536, 3), shift=15)
    sums = rng.integers(-3000, 3000, (layer.windows, 4))
    assert (graph_compiled.finish(layer, sums, None, 0) == finish(layer, sums)).all()


@st.composite
def windows(draw):
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(2))
    return Window(
        kernel=kernel,
        stride=tuple(draw(st.integers(1, 4)) for _ in range(2)),
        pad=tuple(draw(st.integers(0, k // 2)) for k in kernel),
        ceil_mode=draw(st.booleans()),
    )


@given(windows(), st.integers(4, 8), st.integers(4, 8), st.integers(0, 2**32 - 1))
def test_pooling_windows_are_those_of_torch(window, height, width, seed):
    torch = pytest.importorskip("torch")
    q = np.random.default_rng(seed).integers(0, 256, (2, 3, height, width)).astype(np.uint8)
    expected = torch.nn.functional.max_pool2d(
        torch.from_numpy(q).float(), window.kernel, window.stride, window.pad, ceil_mode=window.ceil_mode
    ).numpy()
    node = MaxPool(name="max", inputs=("x",), shape=(0, 0, 0), encoding=Encoding(high=1.0), window=window)
    assert node.expected_shape([(3, height, width)]) == expected.shape[1:]
    assert (node.compute(q) == expected).all()


def real(encoding: Encoding, q):
    return encoding.scale * (q.astype(np.float64) - encoding.zero)


ENCODINGS = [Encoding(high=3.0), Encoding(low=-1.0, high=2.0), Encoding(low=-5.0, high=1.0, bits=6), Encoding(high=0.7)]


@pytest.mark.parametrize(("first", "second", "target"), list(product(ENCODINGS, repeat=3)))
def test_a_sum_of_activations_is_within_half_a_step(first, second, target):
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, e.top + 1, 400).astype(np.uint8) for e in (first, second))
    exact = np.clip(
        real(first, a) + real(second, b), target.scale * -target.zero, target.scale * (target.top - target.zero)
    )
    rescale = Rescale.between([first, second], target)
    got = real(target, rescale(a, b))
    rounding = 0.5 + (first.top + second.top + 1) * 0.5 / 2**rescale.shift  # of the sum, of both multipliers
    assert np.abs(got - exact).max() <= rounding * target.scale
    assert rounding < 0.75


@pytest.mark.parametrize(("source", "target"), list(product(ENCODINGS, repeat=2)))
def test_an_average_is_within_half_a_step_and_counts_the_border_as_zeros(source, target):
    window = Window(kernel=(3, 2), stride=(2, 2), pad=(1, 1))
    shape = (1, 3, 4)
    node = AveragePool(name="mean", inputs=("x",), shape=shape, encoding=target, window=window)
    node = node.derived([source], SMALL)
    q = np.random.default_rng(2).integers(0, source.top + 1, (5, 1, 5, 6)).astype(np.uint8)
    x = np.pad(real(source, q), ((0, 0), (0, 0), (1, 1), (1, 1)))
    exact = np.array(
        [
            [[[x[i, 0, 2 * r : 2 * r + 3, 2 * c : 2 * c + 2].mean() for c in range(4)] for r in range(3)]]
            for i in range(5)
        ]
    )
    exact = np.clip(exact, target.scale * -target.zero, target.scale * (target.top - target.zero))
    assert np.abs(real(target, node.compute(q)) - exact).max() <= 0.52 * target.scale


def test_the_average_that_makes_the_logits_is_not_rounded():
    source = Encoding(low=-1.0, high=1.0)
    node = AveragePool(
        name="mean", inputs=("x",), shape=(2, 1, 1), encoding=source, window=Window(kernel=(3, 3), stride=(3, 3)),
        sums=True,
    )  # fmt: skip
    node = node.derived([source], SMALL)
    q = np.random.default_rng(3).integers(0, 256, (4, 2, 3, 3)).astype(np.uint8)
    exact = real(source, q).mean(axis=(2, 3))
    assert node.logits(node.compute(q)) * node.logit_scale == pytest.approx(exact)


def test_a_border_holds_the_integers_that_stand_for_zero():
    node = Border(
        name="pad", inputs=("x",), shape=(4, 5, 4), encoding=Encoding(high=1.0), stride=(2, 2), border=(2, 0, 1, 0),
        channels=(1, 1),
    )  # fmt: skip
    node = node.derived([Encoding(low=-1.0, high=3.0)], SMALL)
    q = np.arange(2 * 5 * 6, dtype=np.uint8).reshape(1, 2, 5, 6)
    got = node.compute(q)
    expected = np.full((4, 5, 4), 64)
    expected[1:3, 2:, 1:] = q[0, :, ::2, ::2]
    assert (got[0] == expected).all()


# ---- zero points --------------------------------------------------------------------------------
def float_convolution(x, node: Crossbar):
    """Real convolution (C, H, W) -> (N, H', W') with a border of real zeros."""
    first = node.layers[0]
    p = first.pad
    x = np.pad(x, ((0, 0), (p, p), (p, p)))
    size = first.kernel_height
    out = np.zeros(node.shape)
    weights = (first.weights * node.step).T.reshape(-1, first.channels, size, size)
    for y, c in np.ndindex(*node.shape[1:]):
        patch = x[:, y * first.stride : y * first.stride + size, c * first.stride : c * first.stride + size]
        out[:, y, c] = (weights * patch).sum(axis=(1, 2, 3)) + node.bias
    return out


def test_zero_points_are_folded_into_biases_and_borders():
    rng = np.random.default_rng(4)
    signed = convolution(rng, "signed", ("image",), (2, 6, 6), 4, low=-6.0, high=6.0)
    total = convolution(rng, "sum", ("signed", "signed"), (4, 6, 6), 4, low=-40.0, high=60.0)
    made = graph.build("signed", SMALL, [image(), signed, total, head(rng, "head", "sum", (4, 6, 6))])
    images = pixels(4, made, 3)
    outputs = GraphRunner(made).outputs(images)
    signed, total = made.nodes[1], made.nodes[2]
    assert signed.encoding.zero == 128
    for index, pixel in enumerate(images):
        exact = float_convolution(pixel / 255, signed)
        stored = real(signed.encoding, outputs["signed"][index])
        assert np.abs(stored - np.clip(exact, stored.min(), stored.max())).max() <= 0.55 * signed.encoding.scale
        exact = float_convolution(stored, total) + stored
        got = real(total.encoding, outputs["sum"][index])
        low, high = (total.encoding.scale * (q - total.encoding.zero) for q in (0, 255))
        assert np.abs(got - np.clip(exact, low, high)).max() <= 0.55 * total.encoding.scale
        assert (exact < 0).mean() > 0.2  # the zero point is of use here


def test_an_image_with_a_mean_has_that_mean_as_its_border():
    rng = np.random.default_rng(5)
    stem = convolution(rng, "stem", ("image",), (2, 6, 6), 4)
    made = graph.build("mean", SMALL, [image(zeros=(120.3, 99.5)), stem, head(rng, "head", "stem", (4, 6, 6))])
    assert made.layers[0].pad_values.tolist() == [120, 100]
    grey = np.broadcast_to(np.array([120, 100], dtype=np.uint8)[:, None, None], (1, 2, 6, 6))
    outputs = GraphRunner(made).outputs(grey)["stem"][0]
    assert (outputs == outputs[:, :1, :1]).all()  # no edge to be seen


# ---- engines and memory -------------------------------------------------------------------------
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"registers": TWIN},
        {"registers": AdcRegisters(mode="twin", n_r2=2, n_r1=1, m=1, bias=1), "skip_zero_slices": True},
        {"dynamic": DynamicPrecision(l_max=3, tau_sq=300)},
    ],
)
def test_engines_agree_on_logits_and_events(values):
    made = everything(**values)
    images = pixels(6, made, 5)
    logits, events = GraphRunner(made, engine="direct").run(images)
    assert events.shape == (5, len(made.crossbars))
    for engine, threads in (("patterns", 1), ("compiled", 1), ("compiled", 2)):
        got, counted = GraphRunner(made, engine=engine, threads=threads).run(images)
        assert (got == logits).all()
        assert counted == events


def test_layers_prepared_one_after_the_other_give_the_same(monkeypatch):
    made = everything()
    images = pixels(7, made, 40)
    logits, events = GraphRunner(made, engine="compiled").run(images)
    monkeypatch.setattr(run_network, "_PREPARED_BYTES", 0)
    monkeypatch.setattr(run_network, "_WAVE_BYTES", 20000)
    runner = GraphRunner(made, engine="compiled", threads=2)
    told = []
    got, counted = runner.run(images, progress=lambda done, total: told.append((done, total)))
    assert (got == logits).all()
    assert counted == events
    assert not runner._prepared  # nothing is kept
    assert told == sorted(told)
    assert told[-1] == (40, 40)


def test_activations_are_dropped_after_their_last_use(monkeypatch):
    made = everything()
    alive = []
    step = GraphRunner._step

    def watched(self, node, batch, *arguments, **options):
        result = step(self, node, batch, *arguments, **options)
        alive.append((node.name, set(batch)))
        return result

    monkeypatch.setattr(GraphRunner, "_step", watched)
    GraphRunner(made).run(pixels(8, made, 2))
    held = dict(alive)
    assert held["stem"] == {"stem"}
    assert held["sum"] == {"sum"}
    assert held["groups"] == {"sum", "groups"}
    assert held["head"] == {"head"}


def test_no_images_give_no_logits():
    made = everything()
    logits, events = GraphRunner(made).run(np.zeros((0, 2, 6, 6), dtype=np.uint8))
    assert logits.shape == (0, 4)
    assert events.shape == (0, len(made.crossbars))


def test_every_crossbar_layer_is_observed_with_its_input():
    made = everything()
    images = pixels(9, made, 3)
    seen = {}
    GraphRunner(made, engine="direct").run(
        images, observe=lambda name, layer, q: seen.setdefault((name, layer.name), q.copy())
    )
    outputs = GraphRunner(made).outputs(images)
    assert len(seen) == len(made.layers)
    assert (seen["stem", "stem.0"] == images).all()
    assert (seen["groups", "groups.1"] == outputs["sum"][:, 2:]).all()


def test_events_of_groups_are_summed():
    rng = np.random.default_rng(10)
    grouped = convolution(rng, "groups", ("image",), (4, 6, 6), 4, groups=2)
    made = graph.build("g", SMALL, [image((4, 6, 6)), grouped, head(rng, "head", "groups", (4, 6, 6))])
    images = pixels(10, made, 2)
    _, events = GraphRunner(made).run(images)
    parts = []
    for index, layer in enumerate(made.crossbars[0].layers):
        alone = replace(made.crossbars[0], layers=(layer,), step=np.full(2, 0.02), bias=np.zeros(2), shape=(2, 6, 6))
        one = graph.build("one", SMALL, [image((2, 6, 6)), alone, head(rng, "head", "groups", (2, 6, 6))])
        parts.append(GraphRunner(one).run(images[:, 2 * index : 2 * index + 2])[1][:, 0])
    assert events[:, 0] == parts[0] + parts[1]
    assert isinstance(events, Events)


# ---- settings -----------------------------------------------------------------------------------
def test_coarse_converters_keep_the_scale_of_the_network():
    made = everything()
    coarse = AdcRegisters(mode="uniform", n_r2=2)  # steps of two counts
    names = [node.name for node in made.crossbars]
    other = with_settings(made, registers=dict.fromkeys(names, coarse))
    for before, after in zip(made.layers, other.layers, strict=True):
        assert after.registers == coarse
        assert np.abs(after.bias - before.bias / 2).max() <= 2
        if not before.last:
            assert after.multipliers / 2.0**after.shift == pytest.approx(
                before.multipliers / 2.0**before.shift * 2, rel=1e-3
            )
    assert (other.output.logit_scale, made.output.logit_scale) == (
        pytest.approx(2 * made.output.logit_scale),
        made.output.logit_scale,
    )


def test_lambda_scales_the_unit_and_the_thresholds():
    made = everything()
    other = with_settings(made, counts_per_lsb={"stem": 1.5})
    before, after = made.layers[0], other.layers[0]
    assert after.counts_per_lsb == 1.5
    assert after.min_count[1] == 3  # ceil(1.5 * 1.5)
    assert np.abs(after.bias - before.bias / 1.5).max() <= 1


def test_settings_go_to_the_layers_that_are_named():
    made = everything()
    dynamic = DynamicPrecision(l_max=2, tau_sq=7)
    other = with_settings(made, registers={"groups": TWIN}, dynamic={"sum": dynamic}, skip_zero_slices=True)
    for node in other.crossbars:
        for layer in node.layers:
            assert (layer.registers == TWIN) == (node.name == "groups")
            assert layer.dynamic == (dynamic if node.name == "sum" else None)
            assert layer.skip_zero_slices
    back = with_settings(other, dynamic={"sum": None})
    assert all(layer.dynamic is None for layer in back.layers)


def test_narrower_activations_keep_the_real_network():
    made = everything()
    narrow = with_settings(made, activation_bits={"stem": 6, "sum": 5})
    assert {layer.name: layer.input_bits for layer in narrow.layers}["groups.0"] == 5
    images = pixels(11, made, 8)
    wide_real = GraphRunner(made).run(images)[0] * made.output.logit_scale
    narrow_real = GraphRunner(narrow).run(images)[0] * narrow.output.logit_scale
    assert np.corrcoef(wide_real.ravel(), narrow_real.ravel())[0, 1] > 0.95
    same = with_settings(narrow, activation_bits={"stem": 8, "sum": 8})
    assert (GraphRunner(same).run(images)[0] == GraphRunner(made).run(images)[0]).all()


def test_other_hardware_gives_the_same_logits_with_lossless_converters():
    made = everything()
    images = pixels(12, made, 3)
    logits = GraphRunner(made).run(images)[0]
    for hardware in (replace(PAPER, weight_bits=4), replace(ISAAC, weight_bits=4)):
        moved = with_settings(made, hardware=hardware)
        assert moved.hardware == hardware
        assert moved.layers[0].registers == AdcRegisters(mode="uniform", n_r2=hardware.adc_bits)
        assert (moved.layers[0].block_widths == block_widths(moved.layers[0].weights, hardware)).all()
        assert (GraphRunner(moved).run(images)[0] == logits).all()


# ---- refusals -----------------------------------------------------------------------------------
def build(*nodes):
    return graph.build("bad", SMALL, nodes)


def test_wrong_graphs_are_refused_by_name():
    rng = np.random.default_rng(13)
    stem = convolution(rng, "stem", ("image",), (2, 6, 6), 4)
    top = head(rng, "head", "stem", (4, 6, 6))
    cases = [
        ((stem, top), "graph bad: its first node must be the image"),
        ((image(),), "graph bad: it has no crossbar layer"),
        ((image(), stem, replace(top, inputs=("stem", "x"))), "node head: every input must be an earlier node"),
        ((image(), stem, replace(stem), top), "graph bad: node names must differ, stem occurs twice"),
        ((image(), stem, replace(stem, name="lost"), top), "node lost: nothing uses its output"),
        ((image((2, 7, 6)), stem, top), "node stem: it takes (2, 6, 6), node image makes (2, 7, 6)"),
        ((image(), stem, replace(top, inputs=("stem", "stem"))), "node head: only the output can be a last layer"),
        ((image(), replace(stem, inputs=("image", "image")), top), "node stem: a residual must have the layer's own"),
        ((image(), stem, replace(top, shape=(3, 1, 1))), "node head: its output has shape (4, 1, 1), it states"),
        ((image(), replace(stem, step=np.zeros(4)), top), "layer stem: requantisation factors must be finite"),
        ((image(), replace(stem, bias=np.full(4, 1e12)), top), "layer stem: its bias does not fit 32 bits"),
        (
            (image(zeros=(1.5, 2.5)),
             Reshape(name="r", inputs=("image",), shape=(72, 1, 1), encoding=Encoding(high=1.0)),
             convolution(rng, "c", ("r",), (72, 1, 1), 4, kernel=1, pad=0)),
            "node r: an image with a mean per channel can only be the input of convolutions and linear layers",
        ),
    ]  # fmt: skip
    for nodes, message in cases:
        with pytest.raises(ValueError) as error:
            build(*nodes)
        assert str(error.value).startswith(message)


def test_wrong_settings_are_refused_by_name():
    made = everything()
    cases = [
        ({"registers": {"nowhere": TWIN}}, "registers: the graph has no crossbar layer 'nowhere'"),
        ({"activation_bits": {"max": 4}}, "activation_bits: the graph has no node 'max' that requantises"),
        ({"activation_bits": {"stem": 9}}, "activation_bits of stem must be in 1..8, got 9"),
        (
            {"registers": {"stem": AdcRegisters(mode="uniform", n_r2=7)}},
            "layer stem: AdcRegisters.n_r2 must be in 1..3",
        ),
        ({"hardware": replace(SMALL, adc_bits=2)}, "5 rows need adc_bits = 3 to be lossless, got 2"),
    ]
    for values, message in cases:
        with pytest.raises(ValueError) as error:
            with_settings(made, **values)
        assert str(error.value).startswith(message)


def test_wrong_images_are_refused():
    runner = GraphRunner(everything())
    with pytest.raises(ValueError, match=r"images must have shape \(B, 2, 6, 6\), got \(1, 6, 6\)"):
        runner.run(np.zeros((1, 6, 6), dtype=np.uint8))
    with pytest.raises(TypeError, match="images must be uint8, got dtype int64"):
        runner.run(np.zeros((1, 2, 6, 6), dtype=np.int64))


@pytest.mark.parametrize(
    "values", [{"high": 0.0}, {"high": 1.0, "low": 0.5}, {"high": float("inf")}, {"high": 1.0, "bits": 9}]
)
def test_wrong_encodings_are_refused(values):
    with pytest.raises(ValueError, match="activation"):
        Encoding(**values)


def test_a_factor_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit its multiplier"):
        fixed_point([70000.0])
    with pytest.raises(ValueError, match="finite and positive"):
        fixed_point([float("nan")])


@given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=5), st.floats(0, 50))
def test_multipliers_are_as_fine_as_they_can_be(factors, residual):
    multipliers, shift, residual_multiplier = fixed_point(factors, residual=residual)
    assert 1 <= multipliers.min() <= multipliers.max() <= 65535
    assert np.abs(multipliers / 2.0**shift - factors).max() <= max(0.5, 1 - min(factors) * 2.0**shift) / 2.0**shift
    assert abs(residual_multiplier / 2.0**shift - residual) <= 0.5 / 2.0**shift
    twice = max(factors) * 2.0 ** (shift + 1)
    assert twice > 65535 or residual * 2.0 ** (shift + 1) > (1 << 32) - 1 or shift == 62 or multipliers.max() >= 32768


def test_a_machine_with_too_few_converter_bits_takes_registers_that_are_given():
    network = random_network(3)
    coarse = replace(network.hardware, adc_bits=network.hardware.ideal_bits - 1)
    with pytest.raises(ValueError, match="to be lossless"):
        with_settings(network, hardware=coarse)
    registers = AdcRegisters(mode="uniform", n_r2=coarse.adc_bits)
    changed = with_settings(network, hardware=coarse, registers={node.name: registers for node in network.crossbars})
    assert {layer.registers for layer in changed.layers} == {registers}
