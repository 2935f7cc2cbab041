"""What layers and nodes do for one image, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from golden_model.config import TINY
from golden_model.cost import work
from golden_model.cost.work import Machine
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.run_network import GraphRunner
from golden_model.graph import network as graph
from golden_model.graph.nodes import AveragePool, Concat
from golden_model.graph.numbers import Encoding, Lookup, Window
from golden_model.graph.settings import with_settings
from tests.golden_model.oracles import baseline_events
from tests.golden_model.test_graph import SMALL, everything, pixels
from tests.strategies import make_network


def by_name(made, **options):
    return {w.name: w for w in work.works(Machine(made, baseline_events(made), **options))}


def test_crossbar_nodes_come_first_in_the_order_of_their_events():
    made = everything()
    names = [w.name for w in work.works(Machine(made, baseline_events(made)))]
    assert names == ["stem", "signed", "sum", "groups", "head", "relu", "shortcut", "max", "cat", "mean"]
    assert names[:5] == [node.name for node in made.crossbars]


def test_a_residual_is_read_once_per_output_value():
    """`sum` takes `stem` and adds `signed`: K x windows read, one residual read and one result written a value."""
    made = everything()
    node = made.node("sum")
    assert node.inputs == ("stem", "signed")
    k, values = node.layers[0].k, 4 * 36
    assert by_name(made)["sum"].buffer_bits == 36 * k * 8 + values * 8 + values * 8
    assert [stage.residual_bits for stage in work.stages(made)] == [0, 0, 8, 0, 0]


def test_a_grouped_convolution_adds_up_its_groups():
    made = everything()
    done = by_name(made)
    groups = made.node("groups").layers
    assert len(groups) == 2
    k = groups[0].k
    assert done["groups"].buffer_bits == 2 * 36 * k * 8 + 4 * 36 * 8
    assert done["groups"].outputs == 36 * 4
    blocks = sum(layer.segments(SMALL) * layer.block_cols(SMALL) for layer in groups)
    assert done["groups"].width_table_bits == 36 * blocks * 4


def test_nodes_between_crossbars_pay_for_what_they_move():
    made = everything()
    done = by_name(made)
    # an addition of one input: 4 x 6 x 6 read, as much written and rescaled
    assert (done["relu"].buffer_bits, done["relu"].outputs) == (2 * 144 * 8, 144)
    # every second pixel of 4 channels read, 6 channels written
    assert (done["shortcut"].buffer_bits, done["shortcut"].outputs) == ((4 * 9 + 6 * 9) * 8, 0)
    # 3 x 3 windows at 3 x 3 places of 4 channels, no rescaling
    assert (done["max"].pooled, done["max"].outputs) == (4 * 9 * 9, 0)
    assert done["max"].buffer_bits == (4 * 9 * 9 + 4 * 9) * 8
    # both inputs of the concatenation change their scale
    assert (done["cat"].buffer_bits, done["cat"].outputs) == (2 * 90 * 8, 90)
    # one window of 3 x 3 per channel
    assert (done["mean"].pooled, done["mean"].outputs, done["mean"].buffer_bits) == (90, 10, (90 + 10) * 8)


def test_an_input_that_has_the_scale_of_a_concatenation_is_not_moved():
    made = everything()
    cat, border = made.node("cat"), made.node("shortcut")
    nodes = [
        Concat(name="cat", inputs=cat.inputs, shape=cat.shape, encoding=border.encoding) if node.name == "cat" else node
        for node in made.nodes
    ]
    again = by_name(graph.build("again", SMALL, nodes))
    assert again["cat"].outputs == 4 * 9  # of the pooled input only
    assert again["cat"].buffer_bits == 2 * 36 * 8


def test_sums_that_make_the_logits_are_as_wide_as_an_accumulator():
    made = everything()
    last = [node for node in made.nodes if node.name not in ("flat", "head", "mean")]
    mean = AveragePool(
        name="mean", inputs=("cat",), shape=(10, 1, 1), encoding=made.node("cat").encoding,
        window=Window(kernel=(3, 3), stride=(3, 3)), sums=True,
    )  # fmt: skip
    done = by_name(graph.build("sums", SMALL, [*last, mean]))
    assert done["mean"].buffer_bits == 90 * 8 + 10 * SMALL.accumulator_bits
    assert done["mean"].outputs == 0


def test_population_counts_are_charged_per_row():
    made = everything()
    extra = {"population_counts": np.arange(5.0)}
    done = work.works(Machine(made, baseline_events(made), extra=extra))
    counted = [work.QUANTITIES["population_counts"].count(w, SMALL) for w in done]
    assert counted == [0, 5, 10, 15, 20, 0, 0, 0, 0, 0]


def test_gathered_rows_are_charged_the_bits_of_a_prefix_count():
    made = everything()
    done = work.works(Machine(made, baseline_events(made), extra={"gathered_rows": np.arange(5.0)}))
    counted = [work.QUANTITIES["gathered_rows"].count(w, SMALL) for w in done]
    assert counted[:6] == [i * SMALL.ideal_bits for i in range(5)] + [0]


def test_every_quantity_is_finite_and_none_is_forgotten():
    lookup = Lookup.of(Encoding(low=-3.0, high=3.0), np.tanh)
    made = everything()
    nodes = [replace(node, lookup=lookup) if node.name == "stem" else node for node in made.nodes]
    made = graph.build("everything", made.hardware, nodes)
    extra = {name: np.ones(5) for name in work.EXTRA_NAMES}
    events = GraphRunner(made).run(pixels(1, made, 2))[1]
    streams = work.Reads(np.ones(5), np.ones(5), window_streams=True)
    done = [
        *work.works(Machine(made, events, extra=extra)),
        *work.works(Machine(made, events, extra=extra, reads=streams)),  # no input register
    ]
    totals = {name: sum(q.count(w, SMALL) for w in done) for name, q in work.QUANTITIES.items()}
    assert all(value > 0 for value in totals.values()), totals


def test_only_layers_with_dynamic_precision_feed_the_unit():
    made = make_network(0, TINY)
    found = work.dynamic_precision_events(made)
    windows = made.layers[1].windows
    rows = TINY.ou_rows * TINY.segments_per_group
    assert -(-12 // rows) > 1
    assert found["leading_one_inputs"].tolist() == [0, windows * 12, 12]
    # The last layer finds leading ones only.
    assert found["dynamic_precision_inputs"].tolist() == [0, windows * 12, 0]
    assert found["dynamic_precision_groups"].tolist() == [0, windows * -(-12 // rows), 0]
    assert not any(events.any() for events in work.dynamic_precision_events(everything()).values())


@pytest.mark.parametrize("redy", [DynamicPrecision(l_max=7), DynamicPrecision(tau_sq=900)])
def test_a_unit_that_drops_no_low_bits_only_needs_the_largest_input(redy):
    made = make_network(0, TINY)
    found = work.dynamic_precision_events(with_settings(made, dynamic={node.name: redy for node in made.crossbars}))
    assert found["leading_one_inputs"].tolist() == [layer.windows * layer.k for layer in made.layers]
    assert not found["dynamic_precision_inputs"].any()
    assert not found["dynamic_precision_groups"].any()


def test_events_of_another_network_are_refused():
    made = everything()
    with pytest.raises(ValueError, match=r"events must have shape \(5, 13\) or \(images, 5, 13\), got \(3, 9\)"):
        work.per_image(np.zeros((3, 9)), made)
