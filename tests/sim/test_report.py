"""The report: its numbers against independent counts, its figures, its page, its errors."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from golden_model.cost.energy import energy
from golden_model.cost.work import Machine
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from golden_model.image import image as deployment
from golden_model.image import program
from golden_model.pairs.search import search_of
from golden_model.trq import AdcRegisters
from sim import report
from sim.reporting import collect, figures, view
from tests.golden_model.random_graphs import encoder, random_images
from tests.golden_model.test_graph import SMALL, everything, pixels

TWIN = AdcRegisters(mode="twin", n_r2=3, n_r1=0)
LOSSY = DynamicPrecision(l_max=2, tau_sq=3000)
UNIFORM = AdcRegisters(mode="uniform", n_r2=3)
INFO = {
    "accuracy": {"redy": 0.955, "quantised": 0.96, "float": 0.97},
    "test_images": 200,
    "seed": 7,
    "command": "python -m quant.compile <net>",
    "calibration": {"stem": {"error": 0.25, "bits": 3}, "head": {"error": 0.5, "bits": 2}},
}


def make_network(registers=TWIN, dynamic=LOSSY, skip=True, info=INFO) -> Graph:
    network = everything(3)
    network = with_settings(network, hardware=program.fitting(network, SMALL))
    names = [node.name for node in network.crossbars]
    network = with_settings(
        network,
        registers=dict.fromkeys(names, registers),
        dynamic=dict.fromkeys(names, dynamic),
        skip_zero_slices=skip,
    )
    return replace(network, name="tiny <net>", classes=("a", "b", "c", "<d>"), info=info)


def make_image(network: Graph, directory: Path, count: int = 3) -> deployment.Image:
    """Pictures of fewer and fewer bits; the first has no label."""
    pictures = pixels(5, network, count) >> np.arange(count, dtype=np.uint8)[:, None, None, None]
    return deployment.write(directory, network, pictures, np.arange(count) % 4 - 1)


@pytest.fixture(scope="module")
def image_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("report") / "image"


@pytest.fixture(scope="module")
def image(image_dir):
    return make_image(make_network(), image_dir)


@pytest.fixture(scope="module")
def data(image):
    return collect.collect(image)


@pytest.fixture(scope="module")
def html(image, data):
    return view.render(data, image.vectors.images)


def make_run(image, **changes):
    """What `python -m sim.run --json` writes, for the first two pictures."""
    rows = [{"index": i, "label": i - 1, "predicted": 2, "golden_predicted": 2} for i in range(2)]
    return {
        "schema": "ohmloom-run",
        "version": 2,
        "image_sha256": image.manifest["manifest_sha256"],
        "backend": "compiled",
        "crossbar": {"kind": "emulated"},
        "judged": True,
        "agrees": True,
        "first_difference": None,
        "images": rows,
        "clocks": [1234, 1235],
        "notes": ["the crossbar is emulated"],
        "simulated": 2,
        "equal": 2,
        "clocks_per_second": 1e6,
        "seconds": 2.0,
        "build_seconds": 3.0,
    } | changes


# ---- numbers ------------------------------------------------------------------------------------
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("dynamic", [None, DynamicPrecision(), DynamicPrecision(l_max=3, tau_sq=5000)])
@pytest.mark.parametrize("registers", [TWIN, UNIFORM])
def test_histogram_holds_every_conversion_of_the_golden_model(skip, dynamic, registers):
    network = make_network(registers, dynamic, skip)
    pictures = pixels(8, network, 2)
    pictures[0, :, :3] = 0
    events = GraphRunner(network).run(pictures)[1].sum(axis=0)
    measured = collect.measure(network, pictures)
    for node, counted in zip(network.crossbars, events, strict=True):
        histogram = measured[node.name].histogram
        table = collect.conversion_of(node.layers[0], network.hardware, histogram)
        assert histogram.sum() == counted.conversions
        assert histogram @ np.asarray(table["operations"]) == counted.ad_operations
        assert histogram[np.asarray(table["range_flag"]) == 0].sum() == counted.conversions_r1
        assert measured[node.name].streamed == counted.input_bits_streamed


def test_lossless_and_lossy_bits_add_up_with_the_streamed_ones(data):
    for layer in data["layers"]:
        bits = [layer["dynamic"][key] for key in ("streamed_bits", "lossless_bits", "lossy_bits")]
        assert sum(bits) == pytest.approx(data["hardware"]["input_bits"])


def test_savings_are_switched_on_one_after_another(image, data):
    assert [machine["name"] for machine in data["machines"]] == [
        "ISAAC-like baseline",
        "stored planes only: a width per block",
        "+ twin-range converter",
        "+ dynamic precision, lossless part",
        "+ dynamic precision, lossy part",
        "+ skipping of zero slices",
    ]
    activations = [machine["ou_activations"] for machine in data["machines"]]
    assert activations[1] == activations[2] > activations[3]
    assert activations[5] < activations[4]


def test_a_plain_network_has_no_savings_beyond_its_widths(tmp_path):
    image = make_image(make_network(UNIFORM, None, False), tmp_path / "image")
    machines = collect.collect(image)["machines"]
    assert [m["name"] for m in machines] == [
        "ISAAC-like baseline",
        "stored planes only: a width per block",
        "this image",
    ]
    for key in ("ou_activations", "ad_operations", "cycles"):
        assert machines[1][key] == machines[2][key]


def test_totals_are_the_recorded_events(image, data):
    ours, events = data["machines"][-1], image.vectors.events
    assert ours["ad_operations"] == pytest.approx(events.ad_operations.sum(axis=1).mean())
    assert ours["conversions"] == pytest.approx(events.conversions.sum(axis=1).mean())
    assert ours["cycles"] == pytest.approx(image.vectors.cycles.mean())


def test_rows_add_up_to_the_totals(data):
    for prefix, machine in (("baseline_", data["machines"][0]), ("", data["machines"][-1])):
        for key in ("ad_operations", "cycles", "energy_pj"):
            assert sum(row[prefix + key] for row in data["rows"]) == pytest.approx(machine[key])


def test_energy_is_that_of_the_cost_model(image, data):
    events = GraphRunner(image.network).run(image.vectors.images)[1]
    extra = data["energy"]["trace"]
    assert sum(row["picojoules"] for row in extra) == pytest.approx(data["machines"][-1]["energy_pj"])
    plain = energy(Machine(image.network, events)).total_pj
    dynamic = sum(row["picojoules"] for row in extra if row["component"] in ("leading_one", "dynamic_precision"))
    decided = sum(row["picojoules"] for row in extra if row["component"] == "dynamic_precision_decision")
    assert data["machines"][-1]["energy_pj"] == pytest.approx(plain + dynamic + decided)


def test_groups_are_one_row_with_all_their_steps(image, data):
    row = next(row for row in data["rows"] if row["node"] == "groups")
    steps = [i for i, step in enumerate(image.program.steps) if step.node == "groups"]
    assert row["steps"] == steps
    assert len(steps) == 2
    assert row["n"] == 4
    assert row["ad_operations"] == pytest.approx(image.vectors.events.ad_operations[:, steps].sum(axis=1).mean())
    assert row["pairs"] == sum(placed.pairs for placed in image.program.placement.layers[3:5])


def test_steps_without_crossbars_take_time_and_nothing_else(data):
    row = next(row for row in data["rows"] if row["node"] == "max")
    assert row["kind"] == "maximum pooling"
    assert row["cycles"] == row["baseline_cycles"] > 0
    assert row["ad_operations"] == row["pairs"] == 0


def test_cells_of_an_ou_are_used_as_far_as_its_block_has_weights(image, data):
    layer = image.network.node("stem").layers[0]
    row = next(row for row in data["rows"] if row["node"] == "stem")
    used = 0
    for (segment, column), planes in np.ndenumerate(layer.block_widths):
        block = layer.weights[5 * segment : 5 * segment + 5, 3 * column : 3 * column + 3]
        used += 2 * block.size * int(planes)
    assert row["weight_cells"] == used
    assert row["ous"] == layer.block_widths.sum()


def test_memory_map_never_holds_two_buffers_at_one_place(data):
    buffers = data["memory"]["buffers"]
    assert data["memory"]["used"] <= data["memory"]["bytes"]
    assert buffers[0]["tensors"] == ["image"]
    for i, a in enumerate(buffers):
        for b in buffers[:i]:
            together = a["first"] <= b["last"] and b["first"] <= a["last"]
            overlap = a["base"] < b["base"] + b["size"] and b["base"] < a["base"] + a["size"]
            assert not (together and overlap)


def test_a_step_of_an_unknown_node_is_refused(image):
    wrong = replace(image.program, steps=(replace(image.program.steps[0], node="nobody"),))
    with pytest.raises(ValueError, match="computes node nobody, which tiny <net> does not have"):
        collect.step_rows(image.network, wrong)


def test_accuracy_ladder_is_in_order_with_its_pictures(data):
    assert [row["stage"] for row in data["accuracy"]] == ["float", "integers", "with dynamic precision (ReDy)"]
    assert {row["images"] for row in data["accuracy"]} == {200}


@pytest.mark.parametrize("accuracy", [[1], {"float": 97}, {"float": "good"}, {"float": True}])
def test_accuracy_that_is_no_share_is_refused(accuracy):
    with pytest.raises(ValueError, match="accuracy must map stages to numbers in"):
        collect.accuracy_rows({"accuracy": accuracy})


def test_everything_can_be_written_as_json(data):
    assert json.loads(json.dumps(data, allow_nan=False))["name"] == "tiny <net>"


# ---- a hardware run -----------------------------------------------------------------------------
def test_a_run_that_agrees_shows_simulator_and_clocks(image):
    data = collect.collect(image, make_run(image))
    html = view.render(data, image.vectors.images)
    assert data["pictures"]["simulated"] == 2
    assert "equal the golden model’s" in html
    assert "1,234, 1,235" in html
    assert "compiled" in html
    assert "2 of 2 pictures" in html
    assert "the crossbar is emulated" in html


def test_a_run_that_differs_says_where(image):
    run = make_run(image, agrees=False, first_difference="step 3, window 2: 5 instead of 4")
    html = view.render(collect.collect(image, run), image.vectors.images)
    assert "DIFFERENT" in html
    assert "step 3, window 2: 5 instead of 4" in html


def test_an_imperfect_crossbar_is_no_failure(image):
    run = make_run(image, agrees=False, judged=False, crossbar={"kind": "noise", "read_noise": 0.2})
    html = view.render(collect.collect(image, run), image.vectors.images)
    assert "0 of 2 classes changed" in html
    assert "noise (read noise 0.2)" in html


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_sha256": "other"}, "belongs to another image"),
        ({"schema": "x"}, "schema and version must be"),
        ({"images": [{}]}, "images must be a list of objects"),
        ({"crossbar": "ideal"}, "crossbar must be an object"),
    ],
)
def test_a_run_of_another_image_or_form_is_refused(image, changes, message):
    with pytest.raises(ValueError, match=message):
        collect.collect(image, make_run(image, **changes))


# ---- figures ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999.4, "999"), (999.6, "1 k"), (1234, "1.23 k"), (999999, "1 M"), (2.5e9, "2.5 G"), (0.25, "0.25")],
)
def test_short_numbers_keep_three_digits(value, text):
    assert figures.short(value) == text


def pixels_of(address: str) -> np.ndarray:
    return np.rint(imread(io.BytesIO(base64.b64decode(address.split(",")[1]))) * 255).astype(np.uint8)


def test_png_holds_the_pixels():
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert np.array_equal(pixels_of(figures.png(colours))[..., :3], colours)


def test_png_holds_a_palette_and_is_transparent_beyond_it():
    found = pixels_of(figures.png(np.array([[0, 1, 2]], dtype=np.uint8), ["#102030", "#405060"]))
    assert found[0, :2, :3].tolist() == [[16, 32, 48], [64, 80, 96]]
    assert found[0, :, 3].tolist() == [255, 255, 0]


def test_every_group_has_a_colour_of_its_own():
    assert len({figures.colour(i) for i in range(40)}) == 40


def squares(figure: str) -> np.ndarray:
    return pixels_of(re.search(r'href="([^"]+)"', figure).group(1))


def test_width_maps_have_one_orientation_segments_to_the_right():
    for shape in ((3, 9), (9, 3)):
        figure, each = figures.width_map([np.arange(27).reshape(shape) % 9], 8)
        assert squares(figure).shape[:2] == shape[::-1]
        assert each == 1


def test_large_width_maps_share_squares():
    figure, each = figures.width_map([np.full((1500, 20), 3)], 8)
    assert each == 3
    assert squares(figure).shape[:2] == (7, 500)
    assert np.unique(squares(figure).reshape(-1, 4), axis=0).shape[0] == 1


def test_many_groups_do_not_make_a_tower():
    figure, _ = figures.width_map([np.full((1, 1), 2)] * 400, 8)
    height, width = squares(figure).shape[:2]
    assert height < 40
    assert width < 60


def lanes(nodes):
    nodes = [{"name": n, "inputs": i, "kind": "x", "first": n, "second": ""} for n, i in nodes]
    drawn = figures.graph(nodes, {"x": "#000000"})
    return [float(re.search(r'cx="([\d.]+)"', figure).group(1)) // figures._LANE for figure in drawn]


def test_a_chain_is_drawn_in_one_lane():
    assert lanes([("a", []), ("b", ["a"]), ("c", ["b"])]) == [0, 0, 0]


def test_a_shortcut_keeps_its_lane_until_it_is_added():
    assert lanes([("a", []), ("b", ["a"]), ("c", ["b"]), ("sum", ["c", "a"]), ("d", ["sum"])]) == [0, 1, 1, 1, 1]


# ---- the page -----------------------------------------------------------------------------------
class Page(HTMLParser):
    """Collects links and checks that tags close in order."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text):
        super().__init__()
        self.links, self.open, self.ids = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values[k] for k in ("src", "href", "xlink:href") if k in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_is_self_contained_and_well_formed(html):
    page = Page(html)
    assert page.links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert not re.search(r"url\((?!#)", html)
    assert "<script" not in html


def test_page_is_the_same_every_time(image, data, html):
    assert view.render(data, image.vectors.images) == html


def test_page_escapes_texts_of_the_image(html):
    assert "tiny &lt;net&gt;" in html
    assert "&lt;d&gt;" in html
    assert "python -m quant.compile &lt;net&gt;" in html


def section(html: str, anchor: str) -> str:
    part = html[html.index(f'<section id="{anchor}">') :]
    return part[: part.index("</section>")]


@pytest.mark.parametrize(
    "anchor",
    [
        "origin", "rtl", "pictures", "network", "crossbars", "widths", "histograms", "dynamic", "energy", "ladder",
        "work", "accuracy", "rivals", "memory", "hardware", "glossary",
    ],
)  # fmt: skip
def test_every_section_is_there_and_says_how_to_read_it(html, anchor):
    assert "How to read this." in section(html, anchor)


def test_every_node_is_drawn_with_its_shape_and_steps(image, html):
    drawn = section(html, "network")
    for node in image.network.nodes:
        assert f">{node.name} → {' × '.join(map(str, node.shape))}</text>" in drawn
    assert "depthwise" not in drawn
    first = next(i for i, step in enumerate(image.program.steps) if step.node == "groups")
    assert ">groups → 4 × 6 × 6<" in drawn
    assert f"grouped convolution, 8 bits, steps {first}–{first + 1}, " in drawn


def test_page_shows_the_source_of_every_row_that_costs_something_and_no_row_of_zeros(data, html):
    shown = section(html, "energy")
    for row in data["energy"]["rows"]:
        counted = row["ours_pj"] or row["baseline_pj"]
        assert (f'<td class="text">{row["name"].replace("_", " ")}</td>' in shown) == bool(counted)
        assert not counted or row["source"] in shown
    assert "rows that neither machine has events of" in shown


def test_page_says_that_dense_and_baseline_differ_in_planes(image, data):
    data = data | {"planes": {"dense": 8, "baseline": 7}}
    shown = section(view.render(data, image.vectors.images), "ladder")
    assert "Dense is every block at 8 planes" in shown
    assert "The baseline stores 7 of these planes" in shown


def test_milliseconds_follow_from_the_stated_clock(image, data):
    slow = collect.collect(image, clock_mhz=1.0)
    clocks = data["machines"][-1]["cycles"]
    html = view.render(slow, image.vectors.images)
    row = html[html.index('<td class="text">this image</td>') :]
    _, milliseconds, pictures = (float(text.replace(",", "")) for text in re.findall("<td>(.*?)</td>", row)[:3])
    assert milliseconds == pytest.approx(clocks / 1000, rel=0.01)
    assert pictures == pytest.approx(1e6 / clocks, rel=0.01)
    assert "at 1 MHz. That clock is an assumption" in html


def test_provenance_shows_what_is_known_and_nothing_else(html):
    shown = section(html, "origin")
    assert shown.index(">command<") < shown.index(">seed<") < shown.index(">calibration<")
    assert ">commit<" not in shown
    assert "<th>error</th>" in shown  # records as a table


def test_a_network_without_accuracy_or_dynamic_precision_leaves_them_out(tmp_path):
    image = make_image(make_network(UNIFORM, None, False, info={}), tmp_path / "image")
    html = view.render(collect.collect(image), image.vectors.images)
    assert "carries no accuracy figures" in html
    assert 'id="dynamic"' not in html


def test_print_shows_tables_in_full(html):
    printed = html[html.index("@media print") : html.index("</style>")]
    assert ".scroll { overflow:visible; }" in printed
    assert "break-inside:auto" in printed


# ---- the command --------------------------------------------------------------------------------
def invoke(*arguments):
    return CliRunner().invoke(report.app, [str(a) for a in arguments])


def test_command_writes_page_and_json(image, image_dir, tmp_path):
    result = invoke(image_dir, "--output", tmp_path / "out" / "r.html", "--json", tmp_path / "r.json", "--images", 2)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert json.loads((tmp_path / "r.json").read_text())["images"] == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["r.html"]


def test_command_prints_every_product_on_request(image, image_dir, tmp_path):
    result = invoke(image_dir, "--output", tmp_path / "r.html", "--trace")
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if " pJ " in line]
    assert "[ad_operations; Shafiee" in lines[0]


@pytest.mark.parametrize(("agrees", "judged", "status"), [(True, True, 0), (False, True, 1), (False, False, 0)])
def test_status_tells_whether_the_hardware_agreed(image, image_dir, tmp_path, agrees, judged, status):
    (tmp_path / "run.json").write_text(json.dumps(make_run(image, agrees=agrees, judged=judged)))
    result = invoke(image_dir, "--run", tmp_path / "run.json", "--output", tmp_path / "r.html")
    assert result.exit_code == status
    assert (tmp_path / "r.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no such directory"),
        (["IMAGE", "--table", "nowhere"], "energy table nowhere: no such file"),
        (["IMAGE", "--run", "nowhere.json"], "nowhere.json is missing: python -m sim.run"),
        (["IMAGE", "--clock-mhz", "0"], "--clock-mhz must be a number above 0"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(image, image_dir, tmp_path, arguments, message):
    arguments = [image_dir if a == "IMAGE" else a for a in arguments]
    result = invoke(*arguments, "--output", tmp_path / "r.html")
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_image_without_vectors_is_refused(tmp_path):
    make_image(make_network(), tmp_path / "empty", count=0)
    result = invoke(tmp_path / "empty")
    assert result.exit_code == 2
    assert "holds no test vectors" in result.stderr


# ---- the pair machine ---------------------------------------------------------------------------
@pytest.fixture(scope="module")
def on_pairs(tmp_path_factory) -> deployment.Image:
    network = with_settings(everything(3), hardware=replace(program.fitting(everything(3), SMALL), machine="pairs"))
    network = replace(with_settings(network, hardware=program.fitting(network, network.hardware)), info=INFO)
    return make_image(network, tmp_path_factory.mktemp("report") / "pairs")


def test_differences_of_the_pair_machine_are_all_its_conversions(on_pairs):
    network, images = on_pairs.network, on_pairs.vectors.images[:2]
    measured, counted = collect.measure(network, images), on_pairs.vectors.events[:2].sum(axis=0)
    for step, events in zip(on_pairs.program.steps, counted, strict=True):
        if step.layer is not None and step.name == step.node:
            differences = measured[step.node].histogram
            spent = search_of(step.layer.registers, network.hardware).operations
            assert differences.sum() == events.conversions_r2
            assert (differences * spent).sum() == events.ad_operations


def test_a_report_of_the_pair_machine_speaks_of_differences_and_has_the_clocks_of_the_hardware(on_pairs):
    found = collect.collect(on_pairs)
    ours = found["machines"][-1]
    assert ours["cycles"] == pytest.approx(on_pairs.vectors.cycles.mean())
    assert ours["ad_operations"] == pytest.approx(on_pairs.vectors.events.ad_operations.sum(axis=1).mean())
    shown = view.render(found, on_pairs.vectors.images)
    assert "Differences of column pairs" in shown
    assert "two conversion ranges" not in shown


# ---- work of the host ---------------------------------------------------------------------------
def test_work_of_the_host_has_a_table_of_its_own_and_places_in_the_memory_map(tmp_path):
    made = deployment.write(tmp_path / "image", encoder(), random_images(0, encoder(), 2))
    found = collect.collect(made)
    assert [row["node"] for row in found["host"]] == ["constant2", "norm3", "attention5", "norm7", "norm10"]
    order = found["memory"]["order"]
    assert [(place["node"], place["step"]) for place in order[:4]] == [
        ("crossbar1", 0), ("constant2", None), ("norm3", None), ("crossbar4", 1),
    ]  # fmt: skip
    page = view.render(found, made.vectors.images)
    assert "<h3>Work of the host</h3>" in page
    assert "host: norm7" in page


def test_a_network_without_work_of_the_host_does_not_speak_of_it(data, html):
    assert data["host"] == []
    assert "Work of the host" not in html
