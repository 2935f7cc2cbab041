import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from golden_model import run
from golden_model.config import TINY
from golden_model.image import image
from tests.golden_model.test_image import edit_npz
from tests.strategies import make_images, make_network


@pytest.fixture
def directory(tmp_path):
    net = make_network(4, TINY)
    image.write(tmp_path / "image", net, make_images(5, net, 3), [0, 2, -1])
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
    assert found["events"]["conv2"] == stored.events[:, 1].sum().as_dict(derived=True)


def test_fewer_images_can_be_replayed(directory, tmp_path):
    assert call(directory, "--images", 2, "--json", tmp_path / "out.json").exit_code == 0
    assert json.loads((tmp_path / "out.json").read_text())["images"] == 2


@pytest.mark.parametrize(
    ("array", "index", "words"),
    [
        ("logits", (1, 2), "image 1, logit 2: got "),
        ("events", (2, 1, 6), "image 2, layer conv2, ad_operations: got "),
        ("cycles", (0,), "image 0, cycles: got "),
    ],
)
def test_a_replay_that_differs_names_the_first_difference_and_ends_with_status_1(directory, array, index, words):
    def change(arrays):
        arrays[array][index] += 1

    edit_npz(directory, "vectors.npz", change)
    result = call(directory)
    assert result.exit_code == 1
    assert words in result.output


def test_describe_shows_what_the_image_holds(directory, tmp_path):
    result = call(directory, "--describe", "--json", tmp_path / "out.json")
    assert result.exit_code == 0
    for words in ("tiny: 3 layers, 3 test vectors", "conv1", "twin n_r2=2 n_r1=1 m=1 b=1", "l_max=2 tau_sq=400"):
        assert words in result.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["hardware"] == TINY.as_dict()
    assert [layer["name"] for layer in found["layers"]] == ["conv1", "conv2", "linear"]


def test_the_mean_width_leaves_padding_out(directory):
    held = image.read(directory)
    for layer, found in zip(held.network.layers, run.describe(held)["layers"], strict=True):
        bits = sum(
            int(layer.block_widths[x // TINY.ou_rows, y // TINY.ou_cols])
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
    result = call(directory, "--json", tmp_path / "none" / "out.json")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
