"""Functional coverage: what programs ask of the hardware."""

from __future__ import annotations

from golden_model.registers import StepKind
from sim.backends import functional
from tests.end_to_end.networks import loaded
from tests.golden_model.random_graphs import SMALL, SMALL_PAIRS, random_images, random_network


def _image(seed, hardware):
    network = random_network(seed, hardware)
    return loaded(network, random_images(seed, network, 1))


def test_steps_are_counted_by_what_they_ask_for_and_by_machine(tmp_path):
    programs = [_image(3, SMALL).program, _image(3, SMALL_PAIRS).program]
    for program in [*programs, programs[0]]:
        functional.note(program, tmp_path)
    found = functional.summary(tmp_path)
    for program, times in zip(programs, (2, 1), strict=True):
        machine = functional.machine_of(program)
        for kind in StepKind:
            steps = sum(step.kind == kind for step in program.steps)
            assert found[f"step: {kind.name.lower()}"].get(machine, 0) == times * steps
        crossbars = found["step: crossbar"][machine]
        assert sum(found[f"converter: {mode}"].get(machine, 0) for mode in functional.MODES) == crossbars
        assert found["logits"][machine] >= times


def test_runs_in_which_array_or_host_paused_have_their_own_columns(tmp_path):
    program = _image(3, SMALL).program
    for waits, pauses in ((True, False), (False, True)):
        functional.note(program, tmp_path, waits=waits, pauses=pauses)
    machine = functional.machine_of(program)
    assert set(functional.summary(tmp_path)["logits"]) == {f"{machine}, array busy", f"{machine}, bus paused"}


def test_what_nothing_asked_for_is_in_the_table_too(tmp_path):
    assert functional.summary(tmp_path) == {name: {} for name in functional.USES}
