"""Two reports side by side: differences, refusals, the command."""

from __future__ import annotations

import copy
import json

import pytest
from typer.testing import CliRunner

from sim import report
from sim.reporting import collect, compare, view
from tests.sim.test_report import UNIFORM, Page, data, image, image_dir, make_image, make_network

__all__ = ["data", "image", "image_dir"]  # fixtures


@pytest.fixture(scope="module")
def plain_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("plain") / "image"


@pytest.fixture(scope="module")
def plain(plain_dir):
    return collect.collect(make_image(make_network(UNIFORM, None, False), plain_dir))


@pytest.fixture(scope="module")
def found(data, plain):
    return compare.compare(plain, data)


def test_change_is_that_of_the_second_against_the_first(data, plain, found):
    energy = found["totals"][0]
    a, b = plain["machines"][-1]["energy_pj"], data["machines"][-1]["energy_pj"]
    assert (energy["a"], energy["b"]) == (pytest.approx(a / 1000), pytest.approx(b / 1000))
    assert energy["change"] == pytest.approx(b / a - 1)
    assert energy["change"] < 0


def test_layers_add_up_to_the_totals(found):
    totals = {row["name"]: row for row in found["totals"]}
    for key, name in (("cycles", "clocks"), ("ad_operations", "A/D operations")):
        for side in "ab":
            assert sum(row[key][side] for row in found["layers"]) == pytest.approx(totals[name][side])


def test_layers_that_are_set_alike_share_a_row(found):
    assert found["hardware"] == []
    (row,) = found["settings"]
    assert len(row["layers"]) == 5
    assert row["a"].startswith("uniform conversion")
    assert row["b"].startswith("twin conversion")
    assert "zero slices skipped" in row["b"]


def test_a_report_beside_itself_differs_in_nothing(data):
    same = compare.compare(data, data)
    assert same["hardware"] == same["settings"] == []
    assert all(row["change"] in (0, None) for row in same["totals"])
    assert "set in the same way" in view.render_comparison(same)


def test_hardware_that_differs_is_named(data):
    other = copy.deepcopy(data)
    other["hardware"]["adc_bits"] += 1
    (row,) = compare.compare(data, other)["hardware"]
    assert (row["name"], row["b"] - row["a"]) == ("adc_bits", 1)


def test_accuracy_that_only_one_knows_has_no_points(data):
    other = copy.deepcopy(data)
    other["accuracy"] = other["accuracy"][:1]
    other["accuracy"][0]["accuracy"] = 0.99
    rows = compare.compare(data, other)["accuracy"]
    assert rows[0]["points"] == pytest.approx(2)
    assert [row["points"] for row in rows[1:]] == [None, None]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("nodes", 1, "shape", 0), 99, "two different networks, tiny <net> and tiny <net>: stem is not the same"),
        (("pictures_sha256",), "0", "must have the same test pictures that figures are averaged over"),
        (("clock_mhz",), 50.0, "must have the same clock, make both with the same options, 100 and 50"),
        (("energy", "rows", 0, "energy_pj"), 7.0, "must have the same energy table, got isaac-32nm and isaac-32nm"),
    ],
)
def test_unlike_things_are_refused_in_one_sentence(data, path, value, message):
    other = copy.deepcopy(data)
    place = other
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        compare.compare(data, other)


def test_page_is_self_contained_and_escaped(found):
    text = view.render_comparison(found)
    page = Page(text)
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert "tiny &lt;net&gt;" in text


# ---- the command --------------------------------------------------------------------------------
def invoke(*arguments):
    return CliRunner().invoke(report.app, [str(a) for a in arguments])


def test_command_takes_an_image_and_a_json_file(image, image_dir, plain, plain_dir, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(plain))
    result = invoke(tmp_path / "a.json", image_dir, "--output", tmp_path / "c.html", "--json", tmp_path / "c.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "c.json").read_text())["totals"][0]["change"] < 0
    assert "side by side" in (tmp_path / "c.html").read_text()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ('{"schema": "ohmloom-run"}', [], "schema and version must be 'ohmloom-report' and 1"),
        ("no", [], "a.json is not readable JSON"),
        ("{}", ["--trace"], "--run, --training and --trace go with one image"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(image, image_dir, tmp_path, content, options, message):
    (tmp_path / "a.json").write_text(content)
    result = invoke(tmp_path / "a.json", image_dir, "--output", tmp_path / "c.html", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "c.html").exists()
