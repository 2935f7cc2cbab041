"""Any network on the compiled hardware: logits, every event counter and clocks are the golden model's."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import build
from golden_model.graph.nodes import Add, AveragePool, Border, Concat, Image, MaxPool, Reshape
from golden_model.graph.numbers import Encoding, Window
from golden_model.graph.settings import with_settings
from golden_model.registers import COUNTER_NAMES, REGION, StepKind
from sim.array.crossbars import CrossbarSettings
from sim.host.session import Job
from tests.end_to_end.networks import NINE, SLOW, SMALL, WIDE, assert_equal, loaded, run
from tests.golden_model.random_graphs import (
    HOST_KINDS,
    KINDS,
    NINE_PAIRS,
    SMALL_MACROS,
    SMALL_PAIRS,
    SMALL_STOP,
    SMALL_STOP_MACROS,
    SMALL_TABLES,
    SMALL_TABLES_MACROS,
    WITH_FUNCTIONS,
    Maker,
    encoder,
    random_images,
    random_network,
    random_networks,
)
from tests.golden_model.test_program import pooled_functions

pytestmark = [pytest.mark.rtl, pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")]

MACHINES = pytest.mark.parametrize("hardware", [SMALL, SMALL_PAIRS, SMALL_MACROS], ids=["planes", "pairs", "macros"])


def check(network, seed, count=2):
    image = loaded(network, random_images(seed, network, count))
    assert_equal(image, run(image))
    return image


STOPPING = [SMALL_STOP, SMALL_STOP_MACROS]


@pytest.mark.parametrize("hardware", STOPPING, ids=["one", "macros"])
def test_networks_of_which_outputs_stop_early_equal_golden(hardware):
    checked, stopped = 0, 0

    @settings(max_examples=15)
    @given(random_networks(hardware, ("convolution", "linear", "max", "concat")), st.integers(0, 99))
    def inner(network, seed):
        nonlocal checked, stopped
        image = check(network, seed)
        plain = with_settings(network, stop_bits=dict.fromkeys(node.name for node in network.crossbars))
        checked += image.vectors.events.counts[..., COUNTER_NAMES.index("stop_checks")].sum()
        converted = COUNTER_NAMES.index("conversions_r2")
        full = GraphRunner(plain).run(image.vectors.images)[1]
        stopped += full.counts[..., converted].sum() - image.vectors.events.counts[..., converted].sum()

    inner()
    assert checked > 0
    assert stopped > 0


@pytest.mark.parametrize("hardware", [SMALL, SMALL_PAIRS, SMALL_STOP_MACROS], ids=["planes", "pairs", "macros"])
def test_an_array_that_takes_its_time_changes_scores_and_events_of_no_network(hardware):
    slower = []

    @settings(max_examples=12)
    @given(random_networks(hardware), st.integers(0, 99), st.sampled_from([0.1, 0.5, 0.9]))
    def inner(network, seed, busy):
        image = loaded(network, random_images(seed, network, 2))
        outcome = run(image, Job((0, 1), waits=True), CrossbarSettings(), busy=busy)
        assert outcome.difference is None, outcome.difference
        slower.append(sum(one.cycles for one in outcome.results) > image.vectors.cycles.sum())

    inner()
    assert any(slower)


@pytest.mark.parametrize("hardware", [SMALL, SMALL_PAIRS, SMALL_STOP_MACROS], ids=["planes", "pairs", "macros"])
def test_a_host_that_holds_up_bus_and_load_stream_changes_nothing_of_any_network(hardware):
    @settings(max_examples=12)
    @given(random_networks(hardware), st.integers(0, 99), st.sampled_from([0.1, 0.5, 0.9]))
    def inner(network, seed, pauses):
        image = loaded(network, random_images(seed, network, 2))
        assert_equal(image, run(image, pauses=pauses))

    inner()


@MACHINES
def test_any_network_equals_golden(hardware):
    @settings(max_examples=15)
    @given(random_networks(hardware), st.integers(0, 99))
    def inner(network, seed):
        check(network, seed)

    inner()


@MACHINES
def test_an_encoder_whose_host_works_between_runs_equals_golden(hardware):
    image = loaded(encoder(hardware), random_images(2, encoder(hardware), 4))
    assert len(image.program.parts()) == 5
    assert_equal(image, run(image))
    image.program.host_steps[1].node.gain[:] += 1
    assert run(image).difference is not None, "the host computed with its own numbers"


@MACHINES
def test_networks_with_work_of_the_host_equal_golden(hardware):
    works = 0
    for seed in range(20):
        image = check(random_network(seed, hardware, (*HOST_KINDS, *HOST_KINDS, *KINDS), 8), seed)
        works += len(image.program.host_steps)
    assert works > 6


def test_a_first_difference_behind_work_of_the_host_is_named():
    """A multiplier of the last step but one is wrong; the steps before it agree."""
    image = loaded(encoder(), random_images(3, encoder(), 1))
    step = image.program.steps[4]
    entry = step.fields["channel_base"]
    wrong = REGION["MULTIPLIERS"].address(entry), int(image.program.tables.multipliers[entry]) // 2
    outcome = run(image, Job((0,), pokes=(wrong,)))
    assert outcome.where["step"] == step.name
    assert "every A/D conversion agrees" in outcome.difference


@pytest.mark.parametrize("hardware", [SMALL_TABLES, SMALL_TABLES_MACROS], ids=["planes", "macros"])
def test_networks_with_activation_functions_equal_golden(hardware):
    """Of seeds, because hypothesis seldom draws a function with pooling or a residual; here they must occur."""
    found = set()
    for seed in range(40):
        network = random_network(seed, hardware, WITH_FUNCTIONS)
        for step in check(network, seed).program.steps:
            if step.table:
                kinds = {
                    "pool": step.fields["pool"] > 1,
                    "residual": step.residual is not None,
                    "element": not step.layer,
                }
                found |= {name for name, there in kinds.items() if there}
    assert found == {"pool", "residual", "element"}


@pytest.mark.parametrize("hardware", [SMALL_TABLES, SMALL_TABLES_MACROS], ids=["planes", "macros"])
def test_pooling_of_functions_that_fall_equals_golden(hardware):
    check(pooled_functions(hardware), 1, 4)


@pytest.mark.slow
@MACHINES
def test_many_networks_equal_golden(hardware):
    @settings(max_examples=300)
    @given(random_networks(hardware, most=8), st.integers(0, 99))
    def inner(network, seed):
        check(network, seed)

    inner()


@pytest.mark.slow
@pytest.mark.parametrize(
    "hardware",
    [
        *(NINE, SLOW, WIDE, NINE_PAIRS, replace(SLOW, machine="pairs")),
        *(replace(SMALL_PAIRS, macros=count) for count in (2, 8, 16)),
        *(replace(SMALL_TABLES_MACROS, macros=count) for count in (1, 2, 8)),
        *STOPPING,
        replace(NINE_PAIRS, early_stop=1),
        replace(WIDE, activation_tables=40),
    ],
    ids=[
        *("nine", "slow", "wide", "nine pairs", "slow pairs", "two macros", "eight macros", "sixteen macros"),
        *("tables of one macro", "of two", "of eight", "early stop", "on two macros", "of nine", "wide tables"),
    ],
)
def test_networks_on_other_machines_equal_golden(hardware):
    @settings(max_examples=40)
    @given(random_networks(hardware), st.integers(0, 99))
    def inner(network, seed):
        check(network, seed)

    inner()


@MACHINES
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_one_kind_of_node_equals_golden(hardware, kind):
    check(random_network(len(kind), hardware, (kind,), 3), 0)


# ---- every kind of node with every option -------------------------------------------------------
def crossbar(stride, pad, pool, groups):
    def add(maker, source):
        return maker.crossbar(
            source, 2, groups=groups, stride=stride, pad=pad, pool=pool, kernel_height=2, kernel_width=3
        )

    return add


def pooling(node, kernel, stride, pad, ceil_mode, **values):
    def add(maker, source):
        window = Window(kernel=kernel, stride=stride, pad=pad, ceil_mode=ceil_mode)
        return maker.add(node(**maker.base("pool", source), window=window, **values))

    return add


def border(stride, edges, channels):
    def add(maker, source):
        return maker.add(Border(**maker.base("border", source), stride=stride, border=edges, channels=channels))

    return add


def residual(shortcut, kernel, groups):
    def add(maker, source):
        other = source
        if shortcut:
            other = maker.add(Border(**maker.base("border", source), stride=(2, 2), channels=(1, 3)))
        return maker.crossbar(
            source,
            other.shape[0],
            groups=groups,
            residual=other,
            stride=2 if shortcut else 1,
            kernel_height=kernel,
            kernel_width=kernel,
            pad=kernel // 2,
        )

    return add


def addition(inputs, low):
    def add(maker, source):
        parts = [source]
        if inputs == 2:
            parts.append(maker.crossbar(source, source.shape[0], kernel_height=1, kernel_width=1))
        return maker.add(Add(**maker.base("add", *parts, encoding=Encoding(high=1.5, low=low, bits=3))))

    return add


def concatenation(same):
    def add(maker, source):
        parts = [maker.crossbar(source, 1, kernel_height=1, kernel_width=1) for _ in range(2)]
        first = parts[0].encoding
        encoding = first if same else Encoding(high=first.high * 1.5, bits=4)
        return maker.add(Concat(**maker.base("concat", *parts, source, encoding=encoding)))

    return add


def reshape(maker, source):
    c, h, w = source.shape
    return maker.add(Reshape(**{**maker.base("reshape", source), "shape": (h, w, c)}))


OPTIONS = {
    **{
        f"crossbar stride {s} pad {p} pool {q} groups {g}": crossbar(s, p, q, g)
        for s, p, q, g in product((1, 2), (0, 1), (1, 2), (1, 2))
    },
    **{
        f"{name} {kernel} stride {stride} pad {pad} ceil {ceil}": pooling(node, kernel, stride, pad, ceil)
        for name, node in (("max", MaxPool), ("mean", AveragePool))
        for kernel, stride, pad in (
            ((2, 2), (2, 2), (0, 0)),
            ((3, 3), (2, 2), (1, 1)),
            ((3, 2), (1, 2), (1, 0)),
            ((6, 6), (6, 6), (0, 0)),
        )
        for ceil in (False, True)
    },
    **{
        f"border {edges} stride {stride} channels {channels}": border(stride, edges, channels)
        for edges, stride, channels in (
            ((0, 0, 0, 0), (2, 1), (0, 0)),
            ((0, 0, 0, 0), (2, 2), (1, 2)),
            ((1, 0, 2, 1), (1, 1), (0, 0)),
            ((0, 2, 0, 1), (1, 2), (2, 1)),
        )
    },
    **{
        f"residual {'shortcut' if shortcut else 'plain'} kernel {kernel} groups {groups}": residual(
            shortcut, kernel, groups
        )
        for shortcut, kernel, groups in product((False, True), (1, 3), (1, 2))
    },
    **{f"add {inputs} low {low}": addition(inputs, low) for inputs, low in product((1, 2), (0.0, -0.7))},
    **{f"concat same {same}": concatenation(same) for same in (False, True)},
    "reshape": reshape,
}


@MACHINES
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("low", [0.0, -0.4], ids=["unsigned", "signed"])
def test_every_node_with_every_option_equals_golden(hardware, option, low):
    maker = Maker.seeded(len(option), hardware)
    maker.nodes.append(Image(name="image", shape=(2, 6, 6), encoding=Encoding(high=1.0, low=low, bits=4)))
    made = OPTIONS[option](maker, maker.nodes[0])
    assert made is not None
    end = maker.nodes[-1]
    if np.prod(end.shape) > 100:
        end = maker.add(MaxPool(**maker.base("max", end), window=Window(kernel=(2, 2), stride=(2, 2))))
    maker.crossbar(end, 3, kind="linear", kernel_height=end.shape[1], kernel_width=end.shape[2], last=True)
    check(build("options", hardware, maker.nodes), 0)


@pytest.mark.parametrize("end", ["sums of a mean", "a map"])
def test_logits_of_an_element_step_equal_golden(end):
    maker = Maker.seeded(1, SMALL)
    maker.nodes.append(Image(name="image", shape=(2, 6, 6), encoding=Encoding(high=1.0, bits=4)))
    made = maker.crossbar(maker.nodes[0], 4, kernel_height=3, kernel_width=3)
    if end == "sums of a mean":
        maker.add(AveragePool(**maker.base("mean", made), window=Window(kernel=(4, 4), stride=(4, 4)), sums=True))
    image = check(build("logits", SMALL, maker.nodes), 0)
    assert image.program.steps[-1].kind == StepKind.SUM


def test_runs_in_a_row_do_not_disturb_each_other():
    network = random_network(1)
    image = loaded(network, random_images(1, network, 3)[[0, 1, 2, 0]])
    indices = (0, 1, 2, 3, 2, 0)
    outcome = run(image, Job(indices))
    assert_equal(image, outcome, indices)
    assert (np.array(outcome.results[0].logits) == outcome.results[3].logits).all()
