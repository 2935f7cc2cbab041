"""One A/D setting per bit class: rules, graphs, engines, files, and the hardware that has no such thing."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model import layer, network
from golden_model.config import TINY, HardwareConfig
from golden_model.crossbar.bit_classes import ClassRegisters, lossless, range_bits, settings_of
from golden_model.graph import network as graph
from golden_model.graph.network import GraphRunner
from golden_model.image import archive as graph_file
from golden_model.image import image
from golden_model.trq import AdcRegisters
from tests.golden_model.test_graph import SMALL, everything, pixels
from tests.golden_model.test_graph_file import same
from tests.strategies import make_images, make_network

FINE, WINDOW = AdcRegisters(mode="uniform", n_r2=3), AdcRegisters(mode="twin", n_r2=3, n_r1=1)
COARSE = AdcRegisters(mode="twin", n_r2=2, n_r1=1, m=1)
WIDE = HardwareConfig(rows=80, cols=8, ou_rows=70, ou_cols=3, adc_bits=7, weight_bits=4)


def random_classes(seed: int, hardware: HardwareConfig = SMALL) -> ClassRegisters:
    """Settings of one unit, twin and uniform, drawn class by class."""
    rng = np.random.default_rng(seed)
    total = int(rng.integers(1, hardware.adc_bits + 1))

    def draw(i: int, b: int) -> AdcRegisters:
        n_r2 = int(rng.integers(1, total + 1))
        if rng.random() < 0.4:
            return AdcRegisters(mode="uniform", n_r2=n_r2, m=total - n_r2)
        n_r1 = int(rng.integers(0, total))
        bias = int(rng.integers(0, (1 << (total - n_r1)) - 1))
        return AdcRegisters(mode="twin", n_r2=n_r2, n_r1=n_r1, m=total - n_r2, bias=bias)

    return ClassRegisters.of(draw, hardware)


def alike(one: AdcRegisters, hardware: HardwareConfig = SMALL) -> ClassRegisters:
    return ClassRegisters.of(lambda i, b: one, hardware)


# ---- rules --------------------------------------------------------------------------------------
def test_a_setting_is_found_by_input_bit_and_weight_plane():
    classes = ClassRegisters.of(lambda i, b: FINE if i + b > 4 else COARSE, SMALL)
    assert classes[2, 3] == FINE
    assert classes[3, 1] == COARSE
    assert len(classes) == 32
    assert settings_of(classes) == (COARSE, FINE)
    assert settings_of(FINE) == (FINE,)
    assert range_bits(classes) == 3
    with pytest.raises(KeyError):
        classes[8, 0]


@pytest.mark.parametrize(
    ("table", "kind", "message"),
    [
        ((), ValueError, "ClassRegisters.table must have a row per input bit"),
        (((FINE,), (FINE, FINE)), ValueError, "ClassRegisters.table must have a row per input bit"),
        (((FINE, 3),), TypeError, r"ClassRegisters.table\[0\]\[1\] must be AdcRegisters, got 3"),
        (((FINE, replace(FINE, n_r2=2)),), ValueError, r"all classes of a layer must share n_r2 \+ m, got \[2, 3\]"),
    ],
)
def test_tables_that_make_no_sense_are_refused(table, kind, message):
    with pytest.raises(kind, match=message):
        ClassRegisters(table)


def test_an_illegal_class_is_named():
    classes = ClassRegisters.of(lambda i, b: replace(WINDOW, bias=9) if (i, b) == (2, 1) else FINE, SMALL)
    with pytest.raises(ValueError, match=r"class \(input bit 2, weight plane 1\): AdcRegisters.bias must be in 0..2"):
        classes.check(3)


def test_classes_are_lossless_only_if_all_are():
    hardware = replace(SMALL, adc_bits=3)
    assert lossless(ClassRegisters.of(lambda i, b: WINDOW if b else FINE, hardware), hardware)
    assert not lossless(ClassRegisters.of(lambda i, b: COARSE if i == 7 else FINE, hardware), hardware)


def test_graphs_refuse_classes_that_do_not_fit_the_machine_or_the_unit():
    made = everything()
    with pytest.raises(ValueError, match=r"layer sum.0: ClassRegisters must have input_bits x weight_bits = 8 x 4"):
        graph.with_settings(made, registers={"sum": alike(FINE, replace(SMALL, weight_bits=5))})
    node = made.node("sum")
    changed = replace(node.layers[0], class_registers=alike(replace(FINE, n_r2=2)))
    nodes = [replace(n, layers=(changed,)) if n is node else n for n in made.nodes]
    with pytest.raises(ValueError, match=r"must have the n_r2 \+ m = 3 of the layer's registers, got 2"):
        graph.build("bad", SMALL, nodes)


# ---- graphs -------------------------------------------------------------------------------------
def test_equal_classes_are_one_setting():
    made = everything()
    names = [node.name for node in made.crossbars]
    images = pixels(1, made, 3)
    for one in (WINDOW, COARSE):
        logits, events = GraphRunner(graph.with_settings(made, registers=dict.fromkeys(names, one))).run(images)
        classes = graph.with_settings(made, registers=dict.fromkeys(names, alike(one)))
        got, counted = GraphRunner(classes).run(images)
        assert (got == logits).all()
        assert counted == events


def test_lossless_classes_keep_the_network_and_save_operations():
    made = everything()
    names = [node.name for node in made.crossbars]
    images = pixels(2, made, 3)
    logits, events = GraphRunner(made).run(images)
    classes = ClassRegisters.of(lambda i, b: WINDOW if i > 3 else FINE, SMALL)
    changed = graph.with_settings(made, registers=dict.fromkeys(names, classes))
    got, counted = GraphRunner(changed).run(images)
    assert (got == logits).all()
    assert 0 < counted.sum().conversions_r1 < counted.sum().conversions
    assert counted.sum().ad_operations != events.sum().ad_operations


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([SMALL, WIDE]), st.booleans())
def test_engines_agree_on_classes(seed, hardware, skip):
    made = everything(seed, hardware)
    names = [node.name for node in made.crossbars]
    made = graph.with_settings(
        made,
        registers={name: random_classes(seed + n, hardware) for n, name in enumerate(names)},
        counts_per_lsb=dict.fromkeys(names, 0.75),
        skip_zero_slices=skip,
    )
    images = pixels(seed, made, 2)
    logits, events = GraphRunner(made, engine="direct").run(images)
    got, counted = GraphRunner(made, engine="compiled", threads=1).run(images)
    assert (got == logits).all()
    assert counted == events


def test_a_layer_of_a_graph_computes_what_matmul_does_with_a_mapping():
    made = graph.with_settings(everything(), registers={"sum": random_classes(7)})
    one = made.node("sum").layers[0]
    q = np.random.default_rng(3).integers(0, 256, (20, one.k)).astype(np.uint8)
    expected, events = layer.matmul(q, one.weights, SMALL, dict(one.class_registers.items()), engine="direct")
    got, counted = layer.run(network.prepare_layer(one, SMALL), q)
    assert (got == expected).all()
    assert counted.sum() == events


def test_new_registers_replace_classes():
    made = graph.with_settings(everything(), registers={"sum": random_classes(7), "stem": random_classes(8)})
    other = graph.with_settings(made, registers={"sum": FINE})
    assert other.node("sum").layers[0].class_registers is None
    assert other.node("sum").layers[0].registers == FINE
    assert other.node("stem").layers[0].class_registers == random_classes(8)
    moved = graph.with_settings(made, hardware=replace(SMALL, weight_bits=5))
    assert all(x.class_registers is None for x in moved.layers)


def test_classes_survive_a_file(tmp_path):
    made = graph.with_settings(everything(), registers={"groups": random_classes(9)}, counts_per_lsb={"groups": 0.3})
    graph_file.save(made, tmp_path / "graph.npz")
    assert same(graph_file.load(tmp_path / "graph.npz"), made)
    described = {n["name"]: n for n in graph_file.describe(made)["nodes"]}
    assert len(described["groups"]["registers"]) == len(random_classes(9).settings)


# ---- hardware -----------------------------------------------------------------------------------
def test_networks_for_the_hardware_refuse_classes_by_name(tmp_path):
    chain = make_network(0, TINY)
    second = chain.layers[1]
    total = range_bits(second.registers)
    classes = ClassRegisters.of(lambda i, b: AdcRegisters(mode="uniform", n_r2=total), TINY)
    changed = replace(chain, layers=(chain.layers[0], replace(second, class_registers=classes), chain.layers[2]))
    with pytest.raises(ValueError, match="layer conv2: the hardware has one A/D setting per layer"):
        image.write(tmp_path / "image", changed, make_images(0, chain, 1))
    assert not list(tmp_path.iterdir())
