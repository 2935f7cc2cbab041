from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import layer as crossbar
from golden_model.config import PAPER, TINY
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines import choice
from golden_model.engines.run_layer import run_layer
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import build
from golden_model.graph.nodes import AveragePool, Crossbar, MaxPool
from golden_model.graph.numbers import Encoding, Window
from golden_model.trq import AdcRegisters
from tests.golden_model.test_graph import SMALL, convolution, everything, head, image, pixels
from tests.strategies import adc_registers, dynamic_precisions, hardware_configs, make_images, make_layer, make_network

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from golden_model.engines import torch_engine  # noqa: E402 - needs torch

CPU = torch.device("cpu")
TWIN = AdcRegisters(mode="twin", n_r2=5, n_r1=3, m=2)
#: A smooth mix of everything, for one OU size after the other.
MIXED = {"registers": TWIN, "dynamic": DynamicPrecision(l_max=2, tau_sq=300), "skip_zero_slices": True}


def prepare(layer, hardware, registers=None, **values):
    """A layer as `prepare_layer` makes it, or with other registers."""
    return crossbar.prepare(
        layer.weights,
        hardware,
        layer.registers if registers is None else registers,
        block_widths=layer.block_widths,
        redy=layer.dynamic,
        skip_zero_slices=layer.skip_zero_slices,
        min_count=layer.min_count,
        activation_bits=layer.input_bits,
        **values,
    )


def assert_equal(layer, hardware, images, registers=None, *, patterns=(False, True), **values):
    """Torch and plain NumPy agree on the output and on every event, on both ways that the engine has."""
    prepared = prepare(layer, hardware, registers, **values)
    expected, events = run_layer(layer, hardware, images, prepared=prepared, engine="direct")
    for by_patterns in patterns:
        prepared.tables.clear()
        tables = torch_engine.tables_of(prepared, CPU)
        tables.patterns["made"] = torch_engine._make_patterns(tables) if by_patterns else None
        assert (tables.patterns["made"] is not None) == by_patterns
        output, counters = torch_engine.run_layer(layer, prepared, images, "torch:cpu")
        np.testing.assert_array_equal(output, expected)
        np.testing.assert_array_equal(counters, events.counts)
        assert output.dtype == expected.dtype


@st.composite
def cases(draw, **fixed):
    hardware = draw(hardware_configs(max_k=512, **fixed))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pad, pool = draw(st.integers(0, 1)), draw(st.integers(1, 2))
    shape = {"channels": draw(st.integers(1, 4)), "height": draw(st.integers(4, 6)), "width": draw(st.integers(4, 6))}
    bits = draw(st.integers(1, hardware.input_bits))
    layer = make_layer(
        rng,
        hardware,
        **shape,
        kernel_height=draw(st.integers(1, 3)),
        kernel_width=draw(st.integers(1, 3)),
        stride=draw(st.integers(1, 2)) if pool == 1 else 1,
        pad=pad,
        pool=pool,
        outputs=draw(st.integers(1, 9)),
        pad_values=rng.integers(0, 1 << bits, shape["channels"]) if draw(st.booleans()) else None,
        registers=draw(adc_registers(hardware.adc_bits)),
        counts_per_lsb=draw(st.sampled_from([0.7, 1.0, 2.5])),
        dynamic=draw(st.none() | dynamic_precisions()),
        skip_zero_slices=draw(st.booleans()),
        input_bits=bits,
    )
    images = rng.integers(0, 1 << bits, (2, *shape.values())) * (
        rng.random((2, *shape.values())) < draw(st.floats(0, 1))
    )
    return layer, hardware, images.astype(np.uint8)


@settings(max_examples=50, deadline=None)
@given(cases(), st.booleans())
def test_torch_and_plain_engine_agree_on_outputs_and_every_event(case, early_detection):
    assert_equal(*case, early_detection=early_detection)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_they_agree_when_searches_depend_on_word_lines_and_column_bounds(data):
    layer, hardware, images = data.draw(cases(adc_bits=4))
    layer = replace(layer, min_count=np.arange(1, 16))  # lambda = 1, which these searches need

    def draw():
        bits = data.draw(st.sampled_from([0, 1, "full", "ou"]))
        if data.draw(st.booleans()):
            return AdcRegisters(mode="bounded", n_r2=4, column_bound_bits=bits)
        return AdcRegisters(mode="twin", n_r2=4, n_r1=data.draw(st.integers(0, 3)), column_bound_bits=bits)

    assert_equal(layer, hardware, images, draw())


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 12, 13, 16, 31, 40, 64, 127, 128])
def test_every_size_of_operation_unit_is_exact(rows):
    hardware = replace(PAPER, rows=128, ou_rows=rows, adc_bits=8)
    rng = np.random.default_rng(rows)
    layer = make_layer(
        rng, hardware, channels=17, height=4, width=4, kernel_height=3, kernel_width=3, pad=1, pool=2,
        outputs=13, **MIXED
    )  # fmt: skip
    images = rng.integers(0, 256, (2, 17, 4, 4)).astype(np.uint8)
    assert_equal(layer, hardware, images, patterns=(False, True) if rows <= 9 else (False,))
    bounded = AdcRegisters(mode="bounded", n_r2=8, column_bound_bits="full")
    assert_equal(layer, hardware, images, bounded, patterns=(False,))


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("rows", [9, 128])
def test_saturated_data_is_exact(rows, value, sign):
    hardware = replace(PAPER, ou_rows=rows, adc_bits=8)
    layer = make_layer(
        np.random.default_rng(0), hardware, channels=40, height=4, width=4, kernel_height=3, kernel_width=3, pad=1,
        outputs=20, weights=np.full((9 * 40, 20), sign * 255), pad_values=np.full(40, value),
        multipliers=np.full(20, 65535), shift=40,
    )  # fmt: skip
    images = np.full((1, 40, 4, 4), value, dtype=np.uint8)
    assert_equal(layer, hardware, images, patterns=(False, True) if rows == 9 else (False,))


def test_costs_of_very_many_lanes_do_not_run_into_each_other():
    outputs = 2100
    layer = make_layer(
        np.random.default_rng(0), PAPER, kind="linear", channels=1, height=1, width=9, outputs=outputs,
        weights=np.full((9, outputs), 255), registers=AdcRegisters(mode="twin", n_r2=4, n_r1=1),
    )  # fmt: skip
    images = np.array([0, 1, 2, 3, 128, 255], dtype=np.uint8).repeat(9).reshape(6, 1, 1, 9)
    assert_equal(layer, PAPER, images, patterns=(False,))


def test_sums_beyond_what_float32_holds_use_doubles():
    hardware = replace(PAPER, adc_bits=8)
    layer = make_layer(
        np.random.default_rng(0), hardware, channels=40, height=3, width=3, kernel_height=3, kernel_width=3, outputs=5,
        weights=np.random.default_rng(1).choice([-255, 254, 255], (360, 5)),
        # Every count is read as the top code, 255.
        registers=AdcRegisters(mode="uniform", n_r2=8), min_count=np.ones(255, dtype=np.int64),
    )  # fmt: skip
    images = np.random.default_rng(2).integers(250, 256, (3, 40, 3, 3)).astype(np.uint8)
    assert_equal(layer, hardware, images)
    prepared = prepare(layer, hardware)
    tables = torch_engine.tables_of(prepared, CPU)
    patterns = torch_engine._make_patterns(tables)
    assert patterns.rows.dtype == torch.float64
    assert patterns.costs.dtype == torch.float32


def test_tables_are_used_where_they_pay_and_fit(monkeypatch):
    layer = make_layer(
        np.random.default_rng(0), PAPER, channels=2, height=8, width=8, kernel_height=3, kernel_width=3, outputs=5
    )

    def made(windows):
        return torch_engine._patterns_of(torch_engine.tables_of(prepare(layer, PAPER), CPU), windows) is not None

    assert made(64)  # 8 slices each, 2**9 patterns
    assert not made(63)
    monkeypatch.setitem(torch_engine._TABLE_BYTES, "cpu", 2 * 512 * (4 * 5 + 12) - 1)
    assert not made(64)


def test_cutting_images_and_windows_into_parts_changes_nothing():
    hardware, rng = replace(PAPER, adc_bits=8), np.random.default_rng(8)
    layer = make_layer(
        rng, hardware, channels=3, height=6, width=6, kernel_height=3, kernel_width=3, pad=1, pool=2, outputs=5, **MIXED
    )
    images = rng.integers(0, 256, (3, 3, 6, 6)).astype(np.uint8)
    expected, events = run_layer(layer, hardware, images, engine="direct")
    for work in (1, 10_000, 100_000):
        for make in (torch_engine._make_patterns, lambda tables: None):
            prepared = prepare(layer, hardware)
            tables = replace(torch_engine.tables_of(prepared, CPU), work=work)
            prepared.tables["torch", "cpu"] = tables
            tables.patterns["made"] = make(tables)
            output, counters = torch_engine.run_layer(layer, prepared, images, "torch:cpu")
            np.testing.assert_array_equal(output, expected)
            np.testing.assert_array_equal(counters, events.counts)


@pytest.mark.parametrize("count", [0, 3])
def test_other_post_processing_gets_the_sums(count):
    rng = np.random.default_rng(5)
    layer = make_layer(rng, PAPER, channels=2, height=5, width=5, kernel_height=2, kernel_width=2, outputs=3)
    images = rng.integers(0, 256, (count, 2, 5, 5)).astype(np.uint8)

    def finish(index, sums):
        return index + sums.max(axis=0)

    if count == 0:
        output, events = run_layer(layer, PAPER, images, engine="torch:cpu")
        assert output.shape == (0, 3, 4, 4)
        assert events.shape == (0,)
        return
    got, _ = run_layer(layer, PAPER, images, engine="torch:cpu", finish=finish)
    expected, _ = run_layer(layer, PAPER, images, engine="direct", finish=finish)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("per_window", [False, True])
@pytest.mark.parametrize("windows", [0, 3, 200])
def test_a_matrix_product_gives_the_same_sums_and_events(windows, per_window):
    rng = np.random.default_rng(3)
    activations, weights = rng.integers(0, 256, (windows, 40)), rng.integers(-127, 128, (40, 11))
    registers = AdcRegisters(mode="twin", n_r2=3, n_r1=2, m=1)
    given = {"redy": DynamicPrecision(l_max=2, tau_sq=300), "per_window": per_window}
    got = crossbar.matmul(activations, weights, PAPER, registers, engine="torch:cpu", **given)
    expected = crossbar.matmul(activations, weights, PAPER, registers, engine="direct", **given)
    np.testing.assert_array_equal(got[0], expected[0])
    assert got[0].dtype == np.int64
    assert got[1] == expected[1]


def test_a_whole_network_gives_the_same_logits_and_events():
    made = make_network(4, TINY)
    images = make_images(5, made, 20)
    expected = GraphRunner(made, engine="direct").run(images)
    got = GraphRunner(made, engine="torch:cpu").run(images)
    np.testing.assert_array_equal(got[0], expected[0])
    assert got[1] == expected[1]


@pytest.mark.parametrize("values", [{}, MIXED | {"registers": AdcRegisters(mode="twin", n_r2=3, n_r1=1)}])
def test_every_node_of_a_graph_gives_the_same_on_the_device(values):
    made = everything(3, **values)
    images = pixels(4, made, 5)
    expected = GraphRunner(made, engine="direct").outputs(images)
    got = GraphRunner(made, engine="torch:cpu").outputs(images)
    assert list(got) == list(expected)
    for name, output in expected.items():
        np.testing.assert_array_equal(got[name], output, err_msg=name)
        assert got[name].dtype == output.dtype


@pytest.mark.parametrize("images", [0, 5])
@pytest.mark.parametrize("keep", [True, False])
def test_a_graph_gives_the_same_logits_and_events(monkeypatch, keep, images):
    if not keep:
        monkeypatch.setattr("golden_model.engines.run_network._PREPARED_BYTES", 0)
    monkeypatch.setattr("golden_model.engines.run_network._IMAGES_ON_DEVICE", 2)
    made = everything(6)
    x = pixels(7, made, images)
    seen: dict[str, list] = {"direct": [], "torch:cpu": []}
    results = {}
    for engine, found in seen.items():
        runner = GraphRunner(made, engine=engine)
        results[engine] = runner.run(x, observe=lambda name, layer, q, found=found: found.append((layer.name, q)))
    np.testing.assert_array_equal(results["torch:cpu"][0], results["direct"][0])
    assert results["torch:cpu"][1] == results["direct"][1]
    for layer in made.layers:
        parts = [np.concatenate([q for name, q in found if name == layer.name] or [x[:0]]) for found in seen.values()]
        np.testing.assert_array_equal(*parts)


def test_every_group_of_a_convolution_gets_its_part_of_the_residual():
    rng = np.random.default_rng(9)
    nodes = [
        image(),
        convolution(rng, "stem", ("image",), (2, 6, 6), 4),
        convolution(rng, "groups", ("stem", "stem"), (4, 6, 6), 4, groups=2),
        head(rng, "head", "groups", (4, 6, 6)),
    ]
    made = build("groups", SMALL, nodes)
    images = pixels(1, made, 3)
    expected = GraphRunner(made, engine="direct").outputs(images)
    got = GraphRunner(made, engine="torch:cpu").outputs(images)
    assert expected["groups"].any()
    for name, output in expected.items():
        np.testing.assert_array_equal(got[name], output, err_msg=name)


@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [((3, 2), (2, 1), (1, 0)), ((2, 3), (3, 2), (0, 1))])
def test_pooling_over_any_border_is_the_same(kernel, stride, pad, ceil_mode, sums):
    window = Window(kernel=kernel, stride=stride, pad=pad, ceil_mode=ceil_mode)
    shape = (2, window.out(7, 0), window.out(6, 1))
    given = {"name": "pool", "inputs": ("x",), "shape": shape, "window": window}
    signed = Encoding(low=-1.0, high=2.0)  # real zeros are stored as 85
    mean = AveragePool(**given, encoding=Encoding(low=-0.5, high=1.5), sums=sums).derived([signed], TINY)
    q = np.random.default_rng(0).integers(0, 256, (3, 2, 7, 6)).astype(np.uint8)
    for node in (mean, MaxPool(**given, encoding=signed)):
        got = torch_engine.download(torch_engine.compute(node, torch_engine.upload(q, CPU)))
        np.testing.assert_array_equal(got, node.compute(q))
        assert got.dtype == node.compute(q).dtype


# ---- devices ------------------------------------------------------------------------------------
@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch_engine, "gpu_present", lambda: False)


@pytest.mark.parametrize("engine", ["torch", "torch:cuda"])
def test_asking_for_a_gpu_that_is_not_there_is_refused_in_words(no_gpu, engine):
    layer = make_layer(
        np.random.default_rng(0), PAPER, channels=1, height=3, width=3, kernel_height=2, kernel_width=2, outputs=1
    )
    images = np.zeros((1, 1, 3, 3), dtype=np.uint8)
    message = f"engine '{engine}' needs a GPU that torch .* can use, and it sees none; 'torch:cpu' .* runs the same"
    with pytest.raises(ValueError, match=message):
        run_layer(layer, PAPER, images, engine=engine)
    with pytest.raises(ValueError, match=message):
        crossbar.matmul([[1]], [[1]], PAPER, layer.registers, engine=engine)
    with pytest.raises(ValueError, match=message):
        GraphRunner(everything(), engine=engine).run(pixels(0, everything(), 1))


def test_a_device_of_another_name_is_refused():
    with pytest.raises(ValueError, match="engine must be 'torch', 'torch:cuda' or 'torch:cpu', got 'torch:tpu'"):
        torch_engine.find_device("torch:tpu")


def test_auto_takes_a_gpu_where_there_is_one_and_enough_to_do(monkeypatch):
    names = []
    monkeypatch.setattr(torch_engine, "find_device", lambda name: names.append(name) or CPU)
    made = everything(2)
    images = pixels(0, made, 2)
    layer = made.layers[0]
    given = np.ones((1, 9), dtype=int), np.ones((9, 1), dtype=int), PAPER, AdcRegisters(mode="uniform", n_r2=4)

    def run():
        names.clear()
        GraphRunner(made).run(images)
        graphs = len(names)
        run_layer(layer, made.hardware, images)
        layers = len(names)
        crossbar.matmul(*given)
        return graphs > 0, layers > graphs, len(names) > layers

    expected, events = GraphRunner(made, engine="direct").run(images)
    monkeypatch.setattr(choice, "gpu_present", lambda: True)
    assert run() == (False, False, False)  # too little to do
    monkeypatch.setattr(choice, "_GPU_PAYS", (0, 0))
    assert run() == (True, True, True)
    got, counted = GraphRunner(made).run(images)
    np.testing.assert_array_equal(got, expected)
    assert counted == events
    monkeypatch.setattr(choice, "gpu_present", lambda: False)
    assert run() == (False, False, False)


class OneDevice(TorchDispatchMode):
    """Every operation finds all its tensors on one device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = {x.device for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        assert len(found) <= 1, f"{func} got tensors on {found}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rows", [9, 128])
def test_everything_stays_on_the_device_and_nothing_waits_for_it(monkeypatch, rows):
    """On torch's device without content, where looking at a value is an error."""
    hardware = replace(PAPER, rows=128, ou_rows=rows, adc_bits=8)
    layer = make_layer(
        np.random.default_rng(0), hardware, channels=17, height=6, width=6, kernel_height=3, kernel_width=3, pad=1,
        pool=2, outputs=13, pad_values=np.arange(17), **MIXED
    )  # fmt: skip
    bounded = AdcRegisters(mode="bounded", n_r2=8, column_bound_bits="full")
    meta, graph = torch.device("meta"), everything(0)
    monkeypatch.setattr(torch_engine, "_exact_kinds", lambda largest: [torch.float32, torch.float64])
    monkeypatch.setitem(torch_engine._WORK_BYTES, "meta", 1 << 24)
    monkeypatch.setitem(torch_engine._TABLE_BYTES, "meta", 1 << 30)

    def blank(*shape):
        return torch.empty(shape, dtype=torch.uint8, device=meta)

    for registers in (None, bounded):
        tables = torch_engine.tables_of(prepare(layer, hardware, registers), meta)
        with OneDevice():
            sums, counters = torch_engine.run_images(layer, tables, blank(9, 17, 6, 6))
            output = torch_engine.finish(layer, sums)
        assert ("made" in tables.patterns) == (rows == 9)
        assert sums.device == counters.device == output.device == meta
        assert output.shape == (9, 13, 3, 3)
    made = {graph.image.name: blank(2, *graph.image.shape)}
    for node in graph.nodes[1:]:
        inputs = [made[name] for name in node.inputs]
        if isinstance(node, Crossbar):
            prepared = [prepare(one, graph.hardware) for one in node.layers]
            for one in prepared:
                torch_engine.tables_of(one, meta)
            with OneDevice():
                outputs = [
                    torch_engine.run_on_device(layer, one, x, [*inputs, None][1], node.residual_multiplier)[0]
                    for layer, one, x in zip(node.layers, prepared, inputs[0].chunk(len(prepared), dim=1), strict=True)
                ]
                made[node.name] = torch.cat(outputs, dim=1)
        else:
            made[node.name] = torch_engine.compute(node, *inputs)
        assert made[node.name].device == meta


def test_the_check_of_devices_finds_a_stray_tensor():
    with OneDevice(), pytest.raises(AssertionError, match="got tensors on"):
        torch.zeros(2, 3, device="meta") @ torch.zeros(3, 2)
