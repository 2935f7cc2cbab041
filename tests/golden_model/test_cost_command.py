"""`python -m golden_model.cost`: what it prints, writes and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from golden_model.config import TINY
from golden_model.cost import __main__ as cost_command
from golden_model.graph.settings import on_machine, with_settings
from golden_model.image import archive as graph_file
from golden_model.image import image
from tests.golden_model.random_graphs import encoder
from tests.golden_model.test_graph import everything, pixels
from tests.strategies import make_images, make_network


def run(*arguments):
    return CliRunner().invoke(cost_command.app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A graph's file and pictures for it."""
    folder = tmp_path_factory.mktemp("cost")
    made = everything()
    graph_file.save(made, folder / "net.graph")
    np.savez(folder / "pictures.npz", test_images=pixels(0, made, 5))
    return folder


def test_a_graph_without_pictures_shows_what_geometry_tells(files):
    result = run(files / "net.graph")
    assert result.exit_code == 0, result.output
    assert "ISAAC-like, 4 planes" in result.output
    assert "SRE-like" not in result.output
    assert "as it is set" not in result.output


def test_pictures_add_the_machines_that_need_activations(files, tmp_path):
    target = tmp_path / "out.json"
    result = run(
        files / "net.graph", "--images", files / "pictures.npz", "--count", 3, "--pairs", 200, "--json", target
    )
    assert result.exit_code == 0, result.output
    assert "SRE-like" in result.output
    assert "balanced" in result.output
    data = json.loads(target.read_text())
    assert (data["images"], data["table"], data["network"]) == (3, "isaac-32nm", "everything")
    assert data["machines"][-1]["machine"] == "as it is set"
    assert data["machines"][0]["speed"] == 1


def test_a_network_of_the_pair_machine_costs_what_it_costs_on_the_other_one(files, tmp_path):
    made = graph_file.load(files / "net.graph")
    pairs = with_settings(made, hardware=replace(made.hardware, machine="pairs"))
    graph_file.save(pairs, tmp_path / "pairs.graph")
    graph_file.save(on_machine(made, made.hardware), tmp_path / "planes.graph")
    found = []
    for name in ("planes", "pairs"):
        result = run(tmp_path / f"{name}.graph", "--json", tmp_path / f"{name}.json")
        assert result.exit_code == 0, result.output
        found.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert found[0]["machines"] == found[1]["machines"]


def test_the_pair_machine_has_a_ladder_of_its_own(files, tmp_path):
    target = tmp_path / "out.json"
    options = ["--images", files / "pictures.npz", "--pair-machine", "--count", 2, "--calibration", 1, "--json", target]
    result = run(files / "net.graph", *options)
    assert result.exit_code == 0, result.output
    assert "energy saving under every component table" in result.output
    data = json.loads(target.read_text())
    assert data["images"] == 2
    names = [machine["machine"] for machine in data["machines"]]
    assert {"ours: + early stop", "SRE-like, pairs: + early stop"} <= set(names)
    saving = dict(zip(names, data["energy_savings"]["isaac-32nm"], strict=True))
    assert all(machine["energy_saving"] == saving[machine["machine"]] for machine in data["machines"])
    assert set(data["energy_savings"]) == {"isaac-32nm", "mixed-45nm", "trq-adc"}


def test_a_deployment_image_brings_its_pictures(tmp_path):
    made = make_network(0, TINY)
    image.write(tmp_path / "image", made, make_images(0, made, 2), np.array([0, 1]))
    result = run(tmp_path / "image", "--table", "mixed-45nm")
    assert result.exit_code == 0, result.output
    assert "as it is set" in result.output


def test_the_trace_holds_every_product_and_source(files):
    result = run(files / "net.graph", "--trace", "BWQ")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert any("adc_operation" in x and " pJ = " in x and "[ad_operations]" in x for x in lines)
    assert any("um2" in x and "activation_buffer" in x for x in lines)
    assert sum(x.startswith("# ") for x in lines) == 2
    assert any(x.startswith("adc: 0.0096 / 8; Shafiee") for x in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.graph"], "nothing.graph"),
        (["GRAPH", "--table", "nowhere"], "energy table nowhere: no such file"),
        (["GRAPH", "--images", "GRAPH"], "it has no array called test_images or images"),
        (["GRAPH", "--images", "nothing.npz"], "--images nothing.npz: not an .npz file of arrays"),
        (["GRAPH", "--images", "FLOAT"], "must be uint8 (B, C, H, W), got float64 (2, 2, 6, 6)"),
        (["GRAPH", "--images", "SMALL"], "images must have shape (B, 2, 6, 6), got (2, 2, 5, 5)"),
        (["GRAPH", "--trace", "abacus"], "--trace abacus: there are ISAAC-like"),
        (["GRAPH", "--json", "GRAPH/x.json"], "cannot be written"),
        (["GRAPH", "--pair-machine"], "--pair-machine: more than 4 pictures are needed, got 0"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(files, arguments, message):
    np.savez(files / "float.npz", images=np.zeros((2, 2, 6, 6)))
    np.savez(files / "small.npz", images=np.zeros((2, 2, 5, 5), dtype=np.uint8))
    places = {"FLOAT": files / "float.npz", "SMALL": files / "small.npz"}
    result = run(
        *(a.replace("GRAPH", str(files / "net.graph")) if "GRAPH" in a else places.get(a, a) for a in arguments)
    )
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_the_module_is_a_command(files):
    done = subprocess.run(
        [sys.executable, "-m", "golden_model.cost", str(files / "net.graph")],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "width per layer" in done.stdout


def test_work_of_the_host_is_counted_apart(files, tmp_path):
    network = encoder(replace(TINY, weight_bits=8, input_bits=8, crossbar_pairs=256, max_k=512, max_n=512))
    graph_file.save(network, tmp_path / "host.graph")
    result = run(tmp_path / "host.graph", "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    assert "work of the host, one image; not in the energy" in result.output
    host = json.loads((tmp_path / "out.json").read_text())["host"]
    assert [(row["node"], row["bytes_in"]) for row in host][1:3] == [("norm3", 18), ("attention5", 54)]
    assert "work of the host" not in run(files / "net.graph").output
