from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.config import TINY
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph, build
from golden_model.graph.nodes import Add, Concat, Crossbar, Image
from golden_model.graph.numbers import Encoding, Lookup
from golden_model.image import placing
from golden_model.image import program as program_module
from golden_model.image.archive import load
from golden_model.image.interpreter import Interpreter
from golden_model.image.lowering import HostStep, lower
from golden_model.image.program import fitting, needs, plan
from golden_model.registers import StepKind, pack_descriptor
from golden_model.trq import AdcRegisters
from tests.golden_model.random_graphs import (
    HOST_KINDS,
    KINDS,
    NINE,
    SMALL,
    SMALL_PAIRS,
    SMALL_TABLES,
    SMALL_TABLES_MACROS,
    WITH_FUNCTIONS,
    encoder,
    random_images,
    random_network,
    random_networks,
)
from tests.golden_model.test_graph import convolution, everything, head
from tests.strategies import make_network

ROOT = Path(__file__).resolve().parents[2]
TRAINED = sorted((ROOT / "quant/trained").glob("*/network.graph"))


def per_node(network: Graph, program, counts):
    """Events (B, steps) summed over the groups of every crossbar node, (B, nodes, counters)."""
    nodes = [step.node if step.layer is not None else None for step in program.steps]
    return np.stack(
        [counts[:, [name == node.name for name in nodes]].sum(axis=1) for node in network.crossbars], axis=1
    )


def narrow_head(rng, source, shape):
    """A last layer on SMALL."""
    return replace(head(rng, "head", source, shape, hardware=SMALL), encoding=Encoding(high=1.0, bits=4))


def check(network: Graph, images, engine="direct") -> None:
    """Runner and interpreter give the same tensors, logits, events and clocks."""
    program = plan(network)
    runner = GraphRunner(network, engine=engine)
    logits, events = runner.run(images)
    trace = Interpreter.of(program, engine=engine).trace(images)
    tensors = runner.outputs(images)
    for step, made in zip(program.steps, trace.outputs, strict=True):
        if step.fields["last"] or ".copy" in step.name:
            continue
        whole = tensors[step.node]
        if step.layer is not None:
            node = network.node(step.node)
            assert isinstance(node, Crossbar)
            first = sum(x.outputs for x in node.layers[: [x is step.layer for x in node.layers].index(True)])
            whole = whole[:, first : first + step.layer.outputs]
        assert np.array_equal(made, whole), step.name
    assert np.array_equal(trace.logits, logits)
    assert np.array_equal(per_node(network, program, trace.events.counts), events.counts)
    clocks = trace.events.cycles.sum(axis=1)
    assert np.array_equal(program.cycles(events), clocks)


# ---- equal to the runner ------------------------------------------------------------------------
@settings(max_examples=60)
@given(random_networks(SMALL), st.integers(0, 99))
def test_interpreter_and_runner_agree_on_any_network(network, seed):
    check(network, random_images(seed, network, 3))


@settings(max_examples=30)
@given(random_networks(NINE), st.integers(0, 99))
def test_interpreter_and_runner_agree_on_nine_rows(network, seed):
    check(network, random_images(seed, network, 3))


@pytest.mark.parametrize("hardware", [SMALL_TABLES, SMALL_TABLES_MACROS], ids=["planes", "macros"])
def test_interpreter_and_runner_agree_on_any_network_with_tables(hardware):
    """Of seeds, so that functions with pooling, residuals and groups occur, which hypothesis finds seldom."""
    for seed in range(40):
        network = random_network(seed, hardware, WITH_FUNCTIONS)
        check(network, random_images(seed, network, 3))


@pytest.mark.slow
@settings(max_examples=2000, derandomize=False)
@given(st.one_of(random_networks(SMALL), random_networks(NINE)), st.integers(0, 99))
def test_interpreter_and_runner_agree_on_thousands_of_networks(network, seed):
    check(network, random_images(seed, network, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_node_has_a_program(kind):
    made = 0
    for seed in range(6):
        network = random_network(seed, SMALL, (kind,), 3)
        made += kind in {"convolution", "linear"} or len(network.nodes) > 2
        check(network, random_images(seed, network, 2))
    assert made >= 2


def test_random_networks_have_everything_in_them():
    """The generator is worth its name: every node kind, option and kind of output occurs."""
    found = set()
    for seed in range(200):
        network = random_network(seed, SMALL)
        program = plan(network)
        found.add(f"output {type(network.output).__name__}")
        found |= {type(node).__name__ for node in network.nodes}
        for step in program.steps:
            values = step.fields
            found |= {f"{step.kind.name} {name}" for name, value in values.items() if value}
            found |= {"in place"} if values["residual"] and values["residual_base"] == values["target"] else set()
            found |= {"pool"} if values["pool"] > 1 else set()
            found |= {"copy"} if ".copy" in step.name else set()
            found |= {"group"} if step.layer is not None and step.name != step.node else set()
    kinds = {"Image", "Crossbar", "MaxPool", "AveragePool", "Concat", "Add", "Border", "Reshape"}
    options = {
        f"{kind} {name}"
        for kind, names in {
            "CROSSBAR": "residual residual_first residual_value last dynamic skip_zero_slices pad_enable pad_value "
            "pad_top adc_mode m tau_sq channel_base crossbar_base width_base",
            "MAXIMUM": "pad_top pad_left source target",
            "SUM": "residual residual_first last pad_enable pad_value first_channel offset_high pad_left shift",
        }.items()
        for name in names.split()
    }
    outputs = {f"output {kind}" for kind in kinds - {"Image"}}
    assert kinds | options | outputs | {"in place", "pool", "copy", "group"} <= found


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.parent.name)
def test_every_kept_network_runs_as_a_program(path):
    network = load(path)
    network = replace(network, hardware=fitting(network, network.hardware))
    program = plan(network)
    images = random_images(0, network, 1)
    runner = GraphRunner(network)
    logits, events = runner.run(images)
    got, counted = Interpreter(program.tables, network.hardware).run(images)
    assert np.array_equal(got, logits)
    assert counted == program.step_events(events)
    assert program.cycles(events) == counted.cycles.sum(axis=1)


@pytest.mark.parametrize("engine", ["patterns", "compiled"])
def test_engines_of_the_interpreter_agree(engine):
    network = random_network(3, NINE)
    images, program = random_images(3, network, 4), plan(network)
    logits, events = Interpreter(program.tables, NINE, engine="direct").run(images)
    got, counted = Interpreter(program.tables, NINE, engine=engine).run(images)
    assert np.array_equal(got, logits)
    assert counted == events


def test_no_images_give_no_logits():
    network = random_network(3, SMALL)
    program = plan(network)
    logits, events = Interpreter(program.tables, SMALL).run(random_images(0, network, 0))
    assert logits.shape == (0, program.logits)
    assert events.shape == (0, len(program.steps))


def test_fewer_steps_leave_what_the_last_of_them_wrote():
    network = random_network(3, SMALL)
    program, images = plan(network), random_images(0, network, 2)
    whole = Interpreter(program.tables, SMALL).trace(images)
    part = Interpreter(program.tables, SMALL, steps=1).trace(images)
    assert np.array_equal(part.outputs[0], whole.outputs[0])
    values = program.steps[0].fields
    size = int(np.prod(program.steps[0].shape))
    kept = part.memory[:, values["target"] : values["target"] + size]
    assert np.array_equal(kept, whole.outputs[0].reshape(2, -1))
    assert part.logits.shape == (2, 0)


def program_with(change):
    """Tables of a small program with one descriptor changed."""
    program, index = next(
        (program, index)
        for program in (plan(random_network(seed, SMALL)) for seed in range(20))
        for index, step in enumerate(program.steps)
        if step.layer is not None and step.layer.block_widths.any()
    )
    words = pack_descriptor(SMALL, {**program.steps[index].fields, **change})
    program.tables.program[index, : len(words)] = words
    return program.tables


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step": 3}, "step .: the hardware refuses its descriptor with UNSUPPORTED"),
        ({"stride_x": 0}, "step .: the hardware refuses its descriptor with LAYER_GEOMETRY"),
        ({"source": SMALL.activation_bytes}, "step .: the hardware refuses its descriptor with LAYER_GEOMETRY"),
        ({"n_r2": 0}, "step .: the hardware refuses its descriptor with ADC_CONFIGURATION"),
        ({"crossbar_base": SMALL.crossbar_pairs}, "step .: the hardware refuses its placement with LAYER_GEOMETRY"),
        ({"crossbar_base": SMALL.crossbar_pairs // 2}, "step .: its planes reach beyond the last crossbar pair"),
        ({"width_base": SMALL.width_entries // 2}, "step .: the width table has no "),
        ({"channel_base": SMALL.channel_entries // 2}, "step .: the bias table has no "),
    ],
)
def test_descriptors_that_the_hardware_refuses_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Interpreter(program_with(change), SMALL)


# ---- work of the host ---------------------------------------------------------------------------
HOSTS = pytest.mark.parametrize("hardware", [SMALL, SMALL_PAIRS], ids=["planes", "pairs"])


@HOSTS
def test_networks_with_work_of_the_host_are_computed_by_their_programs(hardware):
    parts = set()
    for seed in range(12):
        network = random_network(seed, hardware, (*HOST_KINDS, *KINDS), 8)
        check(network, random_images(seed, network, 3))
        parts.add(len(plan(network).parts()))
    assert {1, 2} <= parts


@HOSTS
def test_an_encoder_is_computed_in_the_runs_between_its_work_of_the_host(hardware):
    network = encoder(hardware)
    check(network, random_images(0, network, 4))
    program = plan(network)
    assert [(part.first, part.end, [step.name for step in part.host_steps]) for part in program.parts()] == [
        (0, 1, []),
        (1, 2, ["constant2", "norm3"]),
        (2, 3, ["attention5"]),
        (3, 5, ["norm7"]),
        (5, 6, ["norm10"]),
    ]
    assert [step.write_base % 4 for step in program.host_steps] == [0, 0, 0, 0, 2], "a part of a concatenation"


def test_the_first_steps_of_a_program_take_the_runs_that_lead_to_them():
    parts = plan(encoder()).parts
    assert [(part.first, part.end) for part in parts(4)] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert [(part.first, part.end) for part in parts(1)] == [(0, 1)]
    assert parts(1)[0].host_steps == ()


def test_a_program_without_work_of_the_host_is_one_run():
    program = plan(random_network(3, SMALL))
    assert [(part.host_steps, part.first, part.end) for part in program.parts()] == [((), 0, len(program.steps))]


def test_the_memory_before_a_step_holds_what_the_host_has_written():
    program = plan(encoder())
    images = random_images(0, encoder(), 2)
    interpreter = Interpreter.of(program)
    for index, work in ((1, program.host_steps[1]), (5, program.host_steps[4])):
        memory = interpreter.memory_before(images, index)
        given = memory[:, work.read_base : work.read_base + work.read_bytes]
        held = memory[:, work.write_base : work.write_base + work.write_bytes]
        assert np.array_equal(held, work.compute(given))
        assert held.any()
    assert interpreter.memory_before(images, 0).sum() == images.sum()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"before": 6}, "step norm10 of the host: it must stand before one of the 6 steps of the tile, got 6"),
        ({"before": -1}, "step norm10 of the host: it must stand before one of the 6 steps of the tile, got -1"),
        (
            {"read_base": SMALL.activation_bytes - 17},
            "step norm10 of the host: it reads 18 bytes at 16367, the memory ends at activation_bytes = 16384",
        ),
        ({"write_base": -1}, "step norm10 of the host: it writes 18 bytes at -1, the memory ends"),
    ],
)
def test_work_of_the_host_outside_program_or_memory_is_refused(change, words):
    program = plan(encoder())
    steps = (*program.host_steps[:-1], replace(program.host_steps[-1], **change))
    with pytest.raises(ValueError, match=words):
        Interpreter.of(replace(program, host_steps=steps))


# ---- placing ------------------------------------------------------------------------------------
@HOSTS
def test_what_the_host_reads_and_writes_is_kept_for_it(hardware):
    program = plan(encoder(hardware))
    for index, step in enumerate(program.order):
        if isinstance(step, HostStep):
            for base, size in ((step.read_base, step.read_bytes), (step.write_base, step.write_bytes)):
                held = [b for b in program.buffers if b.base <= base and base + size <= b.base + b.size]
                assert any(b.first <= index <= b.last for b in held), step.name


@settings(max_examples=60)
@given(random_networks(SMALL, (*KINDS, *HOST_KINDS)))
def test_buffers_that_are_needed_at_the_same_time_do_not_overlap(network):
    program = plan(network)
    for index, one in enumerate(program.buffers):
        assert one.base % 4 == 0
        for other in program.buffers[index + 1 :]:
            together = one.first <= other.last and other.first <= one.last
            assert not together or one.base + one.size <= other.base or other.base + other.size <= one.base


def test_a_residual_that_is_overwritten_saves_memory(monkeypatch):
    network = load(ROOT / "quant/trained/resnet20-a8-s0/network.graph")
    assert needs(network)["activation_bytes"] == 32768
    assert needs(network)["max_layers"] == 21  # 20 crossbar layers and the mean; shortcuts are views
    monkeypatch.setattr(placing, "_overwrites", lambda lowering, step: False)
    assert needs(network)["activation_bytes"] == 49152


def test_all_limits_are_named_at_once():
    network = load(ROOT / "quant/trained/resnet20-a8-s0/network.graph")
    with pytest.raises(ValueError) as caught:
        plan(network)
    words = str(caught.value)
    assert words.startswith("network resnet20: it needs activation_bytes = 32768, most of all for step layer1.0.conv1,")
    for name, needed in needs(network).items():
        assert (f"{name} = {needed}" in words) == (needed > getattr(network.hardware, name))
    assert "max_layers = 21, the hardware has 8" in words


@settings(max_examples=20)
@given(random_networks(SMALL))
def test_a_fitting_configuration_fits_and_is_tight(network):
    tiny = replace(TINY, activation_bytes=1, crossbar_pairs=1, max_k=1, max_n=1, max_layers=1, width_entries=1)
    hardware = fitting(network, tiny)
    plan(replace(network, hardware=hardware))
    for name, needed in needs(network).items():
        assert needed <= getattr(hardware, name) < max(2 * needed, getattr(tiny, name) + 1)
        if needed > 8:
            with pytest.raises(ValueError, match=f"it needs {name} = {needed}"):
                plan(replace(network, hardware=replace(hardware, **{name: needed - 1})))


def test_activations_wider_than_the_hardware_are_refused():
    image = Image(name="image", shape=(1, 2, 2), encoding=Encoding(high=1.0, bits=8))
    add = Add(name="add", inputs=("image",), shape=(1, 2, 2), encoding=Encoding(high=1.0, bits=4))
    rng = np.random.default_rng(0)
    network = build("wide", SMALL, [image, add, narrow_head(rng, "add", (1, 2, 2))])
    with pytest.raises(ValueError, match=r"^network wide: step add: stream_bits must be at most 4, got 8$"):
        plan(network)


def test_an_addition_of_three_is_refused_by_name():
    image = Image(name="image", shape=(1, 2, 2), encoding=Encoding(high=1.0, bits=4))
    add = Add(name="add", inputs=("image",) * 3, shape=(1, 2, 2), encoding=Encoding(high=1.0, bits=4))
    head = narrow_head(np.random.default_rng(0), "add", (1, 2, 2))
    with pytest.raises(ValueError, match=r"^node add: an addition has at most two inputs, got 3$"):
        build("n", SMALL, [image, add, head])


def test_searches_of_ours_are_refused_by_name():
    bounded = AdcRegisters(mode="bounded", n_r2=3)
    network = everything(0, replace(SMALL, adc_bits=3, input_bits=8, accumulator_bits=40), registers=bounded)
    with pytest.raises(ValueError, match="step stem: the hardware has no conversion of mode 'bounded' with a bound"):
        plan(network)
    assert len(lower(network).steps) > 5  # it has steps and clocks all the same


def test_equal_border_vectors_are_stored_once():
    rng = np.random.default_rng(0)
    image = Image(name="image", shape=(2, 4, 4), encoding=Encoding(high=1.0, bits=4, zeros=(3.0, 7.0)))
    first, second = (
        convolution(rng, name, ("image",), (2, 4, 4), 2, hardware=SMALL, input_bits=4) for name in ("first", "second")
    )
    both = Concat(name="both", inputs=("first", "second"), shape=(4, 4, 4), encoding=Encoding(high=9.0, bits=4))
    first, second = (replace(node, encoding=Encoding(high=9.0, bits=4)) for node in (first, second))
    made = build("n", SMALL, [image, first, second, both, narrow_head(rng, "both", (4, 4, 4))])
    program = plan(made)
    assert program.tables.pads.tolist() == [3, 7]
    assert [step.fields["pad_enable"] for step in program.steps] == [1, 1, 0]
    assert [step.name for step in program.steps] == ["first", "second", "head"]  # the concatenation needs no step


def two_functions(hardware=SMALL_TABLES):
    """A network of three layers, whose first and last look up the same function."""
    rng = np.random.default_rng(0)
    code = Encoding(low=-1.0, high=1.0, bits=4)
    falling, rising = (Lookup.of(code, function) for function in (np.negative, np.tanh))
    nodes = [Image(name="image", shape=(2, 4, 4), encoding=Encoding(high=1.0, bits=4))]
    for name, lookup in (("first", falling), ("second", rising), ("third", falling)):
        node = convolution(rng, name, (nodes[-1].name,), (2, 4, 4), 2, hardware=SMALL, input_bits=4)
        nodes.append(replace(node, lookup=lookup, encoding=Encoding(low=-1.0, high=1.0, bits=4)))
    return build("n", hardware, [*nodes, narrow_head(rng, "third", (2, 4, 4))])


def pooled_functions(hardware=SMALL_TABLES):
    """A network of two layers with pooling, whose functions fall, and fall and rise."""
    rng, values = np.random.default_rng(3), {"pool": 2, "hardware": hardware, "input_bits": 4}
    code = Encoding(low=-1.5, high=1.5, bits=4)
    first = convolution(rng, "first", ("image",), (2, 8, 8), 3, **values)
    second = convolution(rng, "second", ("first",), (3, 4, 4), 4, **values)
    last = head(rng, "head", "second", (4, 2, 2), hardware=hardware)
    return build(
        "pooled",
        hardware,
        [
            Image(name="image", shape=(2, 8, 8), encoding=Encoding(high=1.0, bits=4)),
            replace(first, lookup=Lookup.of(code, np.negative), encoding=code),
            replace(second, lookup=Lookup.of(code, lambda x: np.abs(x) - 0.5), encoding=code),
            replace(last, encoding=Encoding(high=1.0, bits=4)),
        ],
    )


@pytest.mark.parametrize("hardware", [SMALL_TABLES, SMALL_TABLES_MACROS], ids=["planes", "macros"])
def test_an_interpreter_that_pools_before_it_looks_up_is_found(hardware, monkeypatch):
    network, right = pooled_functions(hardware), Interpreter._activated
    check(network, random_images(1, network, 4))

    def wrong(self, total, residual, values):
        return right(self, total.max(axis=-1, keepdims=True) if total.ndim == 5 else total, residual, values)

    monkeypatch.setattr(Interpreter, "_activated", wrong)
    assert differs(network)


def test_equal_tables_are_stored_once():
    network = two_functions()
    program = plan(network)
    assert [step.fields["lookup"] for step in program.steps] == [1, 2, 1, 0]
    for table, layer in zip(program.tables.lookups, network.layers[:2], strict=True):
        assert table.tolist() == layer.table.tolist()


def test_functions_on_a_machine_without_tables_are_refused_by_name():
    refused = r"^network n: it needs activation_tables = 2, most of all for step second, the hardware has 0$"
    with pytest.raises(ValueError, match=refused):
        plan(two_functions(SMALL))
    assert fitting(two_functions(SMALL), SMALL).activation_tables == 2


def test_a_table_that_is_not_there_is_refused():
    program = plan(two_functions())
    with pytest.raises(ValueError, match=r"^step 1: there is no table 2 of an activation function$"):
        Interpreter(replace(program.tables, lookups=program.tables.lookups[:1]), SMALL_TABLES)


# ---- a planner with a fault ---------------------------------------------------------------------
def differs(network: Graph) -> bool:
    """Whether runner and interpreter differ on some image, or a layer gets activations that it cannot read."""
    images = random_images(1, network, 4)
    program = plan(network)
    logits = GraphRunner(network, engine="direct").run(images)[0]
    try:
        got = Interpreter(program.tables, network.hardware, engine="direct").run(images)[0]
    except ValueError:
        return True
    return not np.array_equal(got, logits)


def mutated(monkeypatch, change):
    """A planner whose steps go through `change` (name -> value of fields, or None)."""
    lowered = program_module.lower

    def faulty(network):
        made = lowered(network)
        steps = tuple(replace(x, fields={**x.fields, **(change(x) or {})}) for x in made.steps)
        return replace(made, steps=steps)

    monkeypatch.setattr(program_module, "lower", faulty)


def shifted(name, by=1):
    return lambda step: {name: step.fields[name] + by} if step.fields[name] else None


FAULTS = {
    "residual channel": lambda x: {"residual_first": x.fields["residual_first"] + 1} if x.residual else None,
    "residual row": shifted("residual_row", -1),
    "residual value": lambda x: {"residual_value": x.fields["residual_value"] ^ 7} if x.residual else None,
    "residual multiplier": lambda x: {"residual_multiplier": x.fields["residual_multiplier"] // 2},
    "border of pooling": lambda x: {"pad_value": 15} if x.kind == StepKind.MAXIMUM else None,
    "border of a sum": lambda x: {"pad_value": 15 - x.fields["pad_value"]} if x.kind == StepKind.SUM else None,
    "zero point": lambda x: {"offset": x.fields["offset"] + 1} if x.fields["offset"] else None,
    "first channel": lambda x: {"first_channel": x.fields["first_channel"] + 1} if x.kind == StepKind.SUM else None,
    "stride": lambda x: {"stride_y": 3 - x.fields["stride_y"]} if x.fields["stride_y"] < 3 else None,
    "pad": lambda x: {"pad_left": x.fields["pad_left"] + 1},
    "shift": shifted("shift"),
}


@pytest.mark.parametrize("change", FAULTS.values(), ids=FAULTS)
def test_a_planner_with_a_wrong_field_is_found(change, monkeypatch):
    networks = [random_network(seed, SMALL) for seed in range(40)]
    assert not any(differs(network) for network in networks[:5])
    mutated(monkeypatch, change)
    assert sum(map(differs, networks)) >= 1


@pytest.mark.parametrize("wrong", [lambda table: 3 - table if table else 0, lambda table: 0], ids=["neighbour", "none"])
def test_a_planner_that_names_another_table_is_found(wrong, monkeypatch):
    placed, network = program_module.place, two_functions()

    def faulty(lowering):
        layout = placed(lowering)
        steps = tuple(replace(x, fields={**x.fields, "lookup": wrong(x.fields["lookup"])}) for x in layout.steps)
        return replace(layout, steps=steps)

    assert not differs(network)
    monkeypatch.setattr(program_module, "place", faulty)
    assert differs(network)


def test_every_layer_starts_a_fresh_pair_and_its_own_part_of_the_tables():
    made = make_network(1, TINY)
    program = plan(made)
    steps = [step.fields for step in program.steps if step.layer is not None]
    pairs = widths = channels = 0
    for layer, placed, fields in zip(made.layers, program.placement.layers, steps, strict=True):
        assert placed.crossbar_base == pairs
        assert [fields[f"{name}_base"] for name in ("crossbar", "width", "channel")] == [pairs, widths, channels]
        assert placed.pairs == len(set(placed.pair.tolist())) > 0
        pairs, widths, channels = pairs + placed.pairs, widths + layer.block_widths.size, channels + layer.outputs
    assert program.placement.pairs == pairs


def test_a_planner_whose_buffers_overlap_is_found(monkeypatch):
    networks = [random_network(seed, SMALL) for seed in range(20)]
    monkeypatch.setattr(placing, "_first_fit", lambda lives, order: (dict.fromkeys(lives, 0), 1))
    assert sum(map(differs, networks)) >= 5


def test_a_planner_that_overwrites_a_residual_too_early_is_found(monkeypatch):
    networks = [random_network(seed, SMALL, ("residual",), 5) for seed in range(20)]
    monkeypatch.setattr(placing._Life, "last", property(lambda self: 0, lambda self, value: None), raising=False)
    assert sum(map(differs, networks)) >= 1
