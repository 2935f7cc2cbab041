import json

import numpy as np
import pytest

from golden_model.events import Events
from golden_model.registers import COUNTER_NAMES


def test_counters_are_reached_by_attribute_and_by_name():
    events = Events.of(ad_operations=[1, 2], cycles=[3, 4])
    assert events.ad_operations.tolist() == [1, 2]
    assert events["cycles"].tolist() == [3, 4]
    assert events["ou_activations"].tolist() == [0, 0]


def test_a_single_set_of_counters_reads_as_plain_integers():
    assert type(Events.of(cycles=7).cycles) is int


def test_dense_adds_everything_that_was_skipped():
    events = Events.of(ou_activations=1, skipped_planes=10, skipped_bits=100, skipped_zero_slices=1000)
    assert events.dense == 1111


def test_conversions_add_both_ranges():
    assert Events.of(conversions_r1=3, conversions_r2=4).conversions == 7


def test_sums_run_over_the_leading_shape_only():
    events = Events(np.arange(2 * 3 * len(COUNTER_NAMES)).reshape(2, 3, -1))
    assert events.sum(axis=1).counts.tolist() == events.counts.sum(axis=1).tolist()
    assert events.sum(axis=-1) == events.sum(axis=1)
    assert events.sum().counts.tolist() == events.counts.sum(axis=(0, 1)).tolist()


def test_events_add_and_index():
    events = Events.of(cycles=[1, 2])
    assert (events + events).cycles.tolist() == [2, 4]
    assert sum(list(events)).cycles == 3
    assert events[1].cycles == 2


def test_as_dict_is_json_able_and_holds_every_counter():
    result = Events.of(cycles=[1, 2]).as_dict(derived=True)
    assert json.loads(json.dumps(result)) == result
    assert set(result) == {*COUNTER_NAMES, "dense", "conversions"}


def test_unknown_counters_are_named():
    with pytest.raises(ValueError, match="no counter named clocks"):
        Events.of(clocks=1)
    with pytest.raises(AttributeError, match="no counter 'clocks'"):
        _ = Events().clocks
    with pytest.raises(KeyError, match="no counter named 'clocks'"):
        Events()["clocks"]


def test_wrong_shapes_and_types_are_refused():
    with pytest.raises(ValueError, match="last axis must hold 13 counters"):
        Events(np.zeros((2, 8), dtype=int))
    with pytest.raises(TypeError, match="must be integers, got dtype float64"):
        Events(np.zeros(9))
