import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_model.graph.network import Graph, GraphRunner
from golden_model.graph.nodes import Crossbar
from golden_model.image.interpreter import Interpreter
from golden_model.image.program import lower, plan
from tests.golden_model.random_graphs import SMALL, random_images, random_networks


def per_node(network: Graph, program, counts):
    """Events (B, steps) summed over the groups of every crossbar node, (B, nodes, counters)."""
    nodes = [step.node if step.layer is not None else None for step in program.steps]
    return np.stack(
        [counts[:, [name == node.name for name in nodes]].sum(axis=1) for node in network.crossbars], axis=1
    )


def check(network: Graph, images) -> None:
    """Runner and interpreter give the same tensors, logits, events and clocks."""
    program = plan(network)
    runner = GraphRunner(network, engine="direct")
    logits, events = runner.run(images)
    trace = Interpreter(program.tables, network.hardware, engine="direct").trace(images)
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
    assert np.array_equal(lower(network).cycles(events), clocks)


@settings(max_examples=100)
@given(random_networks(SMALL), st.integers(0, 99))
def test_interpreter_and_runner_agree_on_any_network(network, seed):
    check(network, random_images(seed, network, 3))
