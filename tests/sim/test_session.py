"""Judging a run without a simulator: which difference is named first, and results that travel as JSON."""

import numpy as np
import pytest
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden_model.registers import StepKind
from sim.host import session
from sim.host.records import TraceLayout
from tests.end_to_end.networks import loaded
from tests.golden_model.random_graphs import random_images, random_network


@pytest.fixture(scope="module")
def written():
    network = random_network(4, kinds=("convolution", "max"), most=3)
    image = loaded(network, random_images(4, network, 1))
    assert len(image.program.steps) > 1
    return image


def crossbar_step(written):
    return next(i for i, step in enumerate(written.program.steps) if step.kind == StepKind.CROSSBAR)


def step_records(written):
    return list(session.step_trace(written, crossbar_step(written), written.vectors.images[0]))


def golden_records(written):
    """What the hardware's trace of the first crossbar step must hold, by field."""
    records = [record for _, record in step_records(written)]
    names = ("segment", "input_bit", "block_col", "plane", "pair", "ou_row", "ou_col")
    fields = {name: np.array([getattr(r, name) for r in records], dtype=np.int64) for name in names}
    for name in ("started", "range_flags", "codes"):
        fields[name] = np.array([getattr(r, name) for r in records], dtype=np.int64)
    return {"valid": np.ones(len(records), dtype=np.int64), **fields}


def first(written, records):
    return session.first_record(written, crossbar_step(written), written.vectors.images[0], records)


def result(written):
    vectors = written.vectors
    return session.ImageResult(
        0, vectors.logits[0].tolist(), vectors.events.counts[0].tolist(), int(vectors.cycles[0]), 0.1
    )


def test_equal_traces_have_no_first_difference(written):
    assert first(written, golden_records(written)) is None


def test_the_lowest_of_several_wrong_lanes_is_named(written):
    records = golden_records(written)
    at = int(np.flatnonzero(records["started"].all(axis=1))[20])
    lanes = np.array([1, 3])
    records["codes"][at, lanes] ^= 1
    sentence, where = first(written, records)
    assert where["lane"] == lanes[0]
    assert f"lane {lanes[0]} " in sentence


def test_the_first_of_several_wrong_activations_is_named(written):
    records, places = golden_records(written), step_records(written)
    wrong = len(places) // 2
    for at in (wrong + 30, wrong, wrong + 1):
        records["plane"][at] += 1
    _, where = first(written, records)
    window, record = places[wrong]
    assert (where["window"], where["ou"], where["field"]) == (window, record.index, "plane")


def test_lanes_that_never_start_may_hold_anything(written):
    records = golden_records(written)
    idle = records["started"] == 0
    assert idle.any()
    records["codes"][idle] = 7
    records["range_flags"][idle] = 1
    assert first(written, records) is None


def test_missing_and_surplus_activations_are_named(written):
    records = golden_records(written)
    short = {name: array[:-1] for name, array in records.items()}
    assert "the hardware did not activate it" in first(written, short)[0]
    long = {name: np.concatenate([array, array[-2:]]) for name, array in records.items()}
    assert "activated 2 OUs too many" in first(written, long)[0]


def test_logits_are_judged_before_events_and_events_before_cycles(written):
    good = result(written)
    assert session.compare(written, good) is None
    good.cycles += 1
    assert "clocks instead of" in session.compare(written, good)
    good.events[1][6] += 1
    assert f"event counter ad_operations of step {written.program.steps[1].name} is" in session.compare(written, good)
    good.logits[0] -= 1
    assert session.compare(written, good).startswith("logit 0 is")


def test_jobs_and_outcomes_survive_json(written):
    job = session.Job((0, 2), ((0x300000, 5),), judge=False, lenient=True)
    assert session.Job.from_json(job.as_json()) == job
    outcome = session.Outcome([result(written)], "vector 0: x", {"step": "fc", "lane": 3}, 5, 0.5, notes=["n"])
    assert session.Outcome.from_json(outcome.as_json()) == outcome


def test_a_trace_made_of_several_ports_decodes_port_by_port():
    signature = wiring.Signature({"valid": Out(1), "codes": Out(data.ArrayLayout(7, 5)), "plane": Out(32)})

    class Device(wiring.Component):
        trace: Out(signature)
        idle: In(1)

    device = Device()
    layout = TraceLayout.of(device)
    assert [port.name for port in layout.ports] == ["trace__valid", "trace__codes", "trace__plane"]
    assert layout.words == 1 + 2 + 1
    assert len(layout.value(device)) == 32 * layout.words
    codes = [1, 2, 64, 127, 5]
    packed = sum(code << (7 * i) for i, code in enumerate(codes))
    number = 1 | packed << 32 | 0xDEADBEEF << 96
    decoded = layout.decode(layout.to_words([number]))
    assert decoded["valid"].tolist() == [1]
    assert decoded["codes"].tolist() == [codes]
    assert decoded["plane"].tolist() == [0xDEADBEEF]
