import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from golden_model import run
from golden_model.graph.nodes import Crossbar
from golden_model.image import image
from tests.golden_model.random_graphs import SMALL, SMALL_PAIRS, random_images
from tests.golden_model.test_image import forge, sample


@pytest.fixture
def directory(tmp_path):
    net = sample()
    assert isinstance(net.output, Crossbar)  # the counters of an element step are known beforehand
    image.write(tmp_path / "image", net, random_images(5, net, 3), [0, 2, -1])
    return tmp_path / "image"


def call(*arguments):
    return CliRunner().invoke(run.app, [str(a) for a in arguments])


def test_a_replay_that_agrees_ends_with_status_0(directory, tmp_path):
    result = call(directory, "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    assert "logits, events and cycles equal those stored" in result.output
    found = json.loads((tmp_path / "out.json").read_text())
    stored = image.read(directory).vectors
    assert found["agrees"] is True
    assert (found["images"], found["labelled"]) == (3, 2)
    assert found["correct"] == sum(stored.logits.argmax(axis=1)[:2] == stored.labels[:2])
    assert found["logits"] == stored.logits.tolist()
    assert found["cycles"] == stored.cycles.tolist()
    name = image.read(directory).program.steps[1].name
    assert found["events"][name] == stored.events[:, 1].sum().as_dict(derived=True)


def test_an_image_of_the_pair_machine_is_described_and_replayed(tmp_path):
    net = sample(hardware=SMALL_PAIRS)
    image.write(tmp_path / "image", net, random_images(5, net, 3))
    described = call(tmp_path / "image", "--describe")
    assert described.exit_code == 0, described.output
    assert "4 x 2 OUs, 3-bit ADCs and a sign, column pairs" in " ".join(described.output.split())
    result = call(tmp_path / "image", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    events = json.loads((tmp_path / "out.json").read_text())["events"].values()
    assert sum(one["prefix_counts"] for one in events) > 0


def test_fewer_images_can_be_replayed(directory, tmp_path):
    assert call(directory, "--images", 2, "--json", tmp_path / "out.json").exit_code == 0
    assert json.loads((tmp_path / "out.json").read_text())["images"] == 2


@pytest.mark.parametrize(
    ("array", "index", "words"),
    [
        ("vectors.logits", (1, 2), "image 1: logit 2 is "),
        ("vectors.events", (2, -1, 6), "image 2: event counter ad_operations of step "),
    ],
)
def test_a_replay_that_differs_names_the_first_difference_and_ends_with_status_1(directory, array, index, words):
    def change(manifest, arrays):
        arrays[array] = arrays[array].astype(np.int64)
        arrays[array][index] += 1

    forge(directory, change)
    result = call(directory)
    assert result.exit_code == 1
    assert words in result.output


def test_describe_shows_steps_and_memory(directory, tmp_path):
    result = call(directory, "--describe", "--json", tmp_path / "out.json")
    assert result.exit_code == 0
    program = image.read(directory).program
    assert f"tiny: {len(program.steps)} steps, 3 test vectors" in result.output
    for words in ("crossbar", "sum", "logits", "the image is written"):
        assert words in result.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["hardware"] == SMALL.as_dict()
    assert [step["name"] for step in found["steps"]] == [step.name for step in program.steps]
    assert [step["source"] for step in found["steps"]] == [step.fields["source"] for step in program.steps]
    assert found["memory"][0]["base"] == program.image_base


def test_the_mean_width_leaves_padding_out(directory):
    held = image.read(directory)
    for step, found in zip(held.program.steps, run.describe(held)["steps"], strict=True):
        layer = step.layer
        if layer is not None:
            bits = sum(
                int(layer.block_widths[x // SMALL.ou_rows, y // SMALL.ou_cols])
                for x in range(layer.k)
                for y in range(layer.outputs)
            )
            assert found["mean_width_bits"] == pytest.approx(bits / layer.weights.size)


@pytest.mark.parametrize(
    "arguments", [["none"], ["image", "--images", "4"], ["image", "--images", "0"], ["image", "--nonsense"], []]
)
def test_bad_calls_end_with_status_2_and_no_traceback(directory, arguments):
    call_line = [sys.executable, "-m", "golden_model.run", *arguments]
    root = str(image.Path(image.__file__).parents[1])
    done = subprocess.run(
        call_line, cwd=directory.parent, capture_output=True, text=True, env={"PYTHONPATH": root}, timeout=60
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


def test_a_bad_image_gives_one_sentence(directory):
    (directory / "cells.hex").unlink()
    result = call(directory)
    assert result.exit_code == 2
    assert result.stderr == f"error: {directory}: cells.hex is missing\n"


def test_results_that_cannot_be_written_end_with_status_2(directory, tmp_path):
    (tmp_path / "file").write_text("")
    result = call(directory, "--json", tmp_path / "file" / "out.json")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
