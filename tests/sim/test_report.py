"""The report: its figures against independent counts, its page, its errors."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from golden_model import trq
from golden_model.config import TINY
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.engines.chain import Runner
from golden_model.graph.layers import Network
from golden_model.image import image as deployment
from golden_model.trq import AdcRegisters
from sim import report
from sim.reporting import figures, measure

TWIN = AdcRegisters(mode="twin", n_r2=3, n_r1=0)
UNIFORM = AdcRegisters(mode="uniform", n_r2=3)


def make_layer(rng, name, *, channels, size, kernel, outputs, last=False, pool=1, **changes) -> Layer:
    k = channels * kernel * kernel
    weights = rng.integers(-7, 8, (k, outputs)) >> rng.integers(0, 4, (k, outputs))
    weights[: TINY.ou_rows, : TINY.ou_cols] = 0  # a pruned block
    values = {
        "name": name,
        "kind": "linear" if kernel == size and pool == 1 else "conv",
        "channels": channels,
        "height": size,
        "width": size,
        "kernel_height": kernel,
        "kernel_width": kernel,
        "stride": 1,
        "pad": 0,
        "pool": pool,
        "outputs": outputs,
        "weights": weights,
        "bias": rng.integers(-5, 6, outputs),
        "multipliers": np.full(outputs, 400),
        "shift": 12,
        "block_widths": mapping.block_widths(weights, TINY),
        "registers": TWIN,
        "min_count": trq.min_count(TINY.adc_bits),
        "dynamic": DynamicPrecision(l_max=2, tau_sq=3000),
        "skip_zero_slices": True,
        "input_bits": TINY.input_bits,
        "output_bits": TINY.input_bits,
        "last": last,
    }
    return Layer(**(values | changes))


def make_network(**changes) -> Network:
    rng = np.random.default_rng(5)
    layers = (
        make_layer(rng, "conv", channels=2, size=6, kernel=3, outputs=3, pool=2, **changes),
        make_layer(rng, "fc", channels=3, size=2, kernel=2, outputs=4, last=True, **changes),
    )
    info = {
        "accuracy": {"redy": 0.955, "bwq": 0.96, "float": 0.97, "eight_bit": 0.97, "trq": 0.96},
        "test_images": 200,
        "families": {"conv": "ideal"},
        "histograms": {"conv": [1, 2, 3]},
        "note": "<script>alert(1)</script>",
    }
    return Network(name="tiny <net>", hardware=TINY, layers=layers, classes=("a", "b", "c", "<d>"), info=info)


@pytest.fixture(scope="module")
def image_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report") / "image"
    rng = np.random.default_rng(6)
    pictures = rng.integers(0, 16, (4, 2, 6, 6)).astype(np.uint8) >> rng.integers(0, 4, (4, 1, 6, 6)).astype(np.uint8)
    deployment.write(directory, make_network(), pictures, rng.integers(0, 4, 4))
    return directory


@pytest.fixture(scope="module")
def image(image_dir):
    return deployment.read(image_dir)


@pytest.fixture(scope="module")
def data(image):
    return report.collect(image)


def invoke(*arguments):
    return CliRunner().invoke(report.app, [str(a) for a in arguments])


# ---- measuring ----------------------------------------------------------------------------------
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("dynamic", [None, DynamicPrecision(), DynamicPrecision(l_max=3, tau_sq=5000)])
@pytest.mark.parametrize("registers", [TWIN, UNIFORM])
def test_histogram_holds_every_conversion_of_the_golden_model(skip, dynamic, registers):
    network = make_network(skip_zero_slices=skip, dynamic=dynamic, registers=registers)
    pictures = np.random.default_rng(8).integers(0, 16, (2, 2, 6, 6)).astype(np.uint8)
    pictures[0, :, :3] = 0
    events = Runner(network).run(pictures)[1].sum(axis=0)
    for layer, measured, counted in zip(network.layers, measure.measure(network, pictures), events, strict=True):
        table = measure.operations_of(layer, TINY)
        assert measured.histogram.sum() == counted.conversions
        assert measured.histogram @ np.asarray(table.operations) == counted.ad_operations
        assert measured.histogram[np.asarray(table.range_flag) == 0].sum() == counted.conversions_r1


def test_lossless_and_lossy_bits_add_up_with_the_streamed_ones():
    network = make_network()
    pictures = np.random.default_rng(9).integers(0, 8, (2, 2, 6, 6)).astype(np.uint8)
    events = Runner(network).run(pictures)[1].sum(axis=0)
    for layer, measured, counted in zip(network.layers, measure.measure(network, pictures), events, strict=True):
        per_segment = counted.input_bits_streamed / (2 * layer.windows * layer.segments(TINY))
        assert measured.streamed_bits == pytest.approx(per_segment)
        total = measured.streamed_bits + measured.lossless_bits + measured.lossy_bits
        assert total == pytest.approx(TINY.input_bits)


def test_steps_end_with_the_recorded_events_and_never_activate_more(image):
    steps = measure.steps(image.network, image.vectors.images, image.vectors.events)
    assert [s.name for s in steps] == [
        "ISAAC-like baseline",
        "block bit widths (BWQ)",
        "+ twin-range conversion (TRQ)",
        "+ skipping of zero slices",
        "+ dynamic precision, lossless part (ReDy)",
        "+ dynamic precision, lossy part",
    ]
    assert np.array_equal(steps[-1].events, image.vectors.events.counts.mean(axis=0))
    activations = [s.events[:, 0].sum() for s in steps[:-1]]  # lossy rounding may change later layers
    assert activations == sorted(activations, reverse=True)


def test_a_plain_network_has_no_steps_beyond_its_widths():
    network = make_network(dynamic=None, skip_zero_slices=False, registers=UNIFORM)
    pictures = np.random.default_rng(8).integers(0, 16, (1, 2, 6, 6)).astype(np.uint8)
    events = Runner(network).run(pictures)[1]
    steps = measure.steps(network, pictures, events)
    assert [s.name for s in steps] == ["ISAAC-like baseline", "block bit widths (BWQ)", "this image"]
    assert np.array_equal(steps[1].events, steps[2].events)


# ---- figures ------------------------------------------------------------------------------------
def test_figures_are_the_same_every_time_and_carry_no_background():
    widths = np.arange(9).reshape(3, 3)
    first, second = figures.width_map(widths, 8), figures.width_map(widths, 8)
    assert first == second
    assert "currentColor" in first
    assert "#ffffff" not in first


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999.4, "999"), (999.6, "1 k"), (1234, "1.23 k"), (999999, "1 M"), (2.5e9, "2.5 G"), (0.25, "0.25")],
)
def test_short_numbers_keep_three_digits(value, text):
    assert figures.short(value) == text


def test_png_holds_the_pixels():
    import base64
    import io

    from matplotlib.image import imread

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    raw = base64.b64decode(figures.png(pixels).split(",")[1])
    assert np.array_equal(np.rint(imread(io.BytesIO(raw)) * 255).astype(np.uint8)[..., :3], pixels)


# ---- the page -----------------------------------------------------------------------------------
class Page(HTMLParser):
    """Collects links and checks that tags close in order."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "use", "image", "path", "rect"})

    def __init__(self, text):
        super().__init__()
        self.links, self.open, self.ids, self.text = [], [], [], []
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

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_self_contained_and_well_formed(image, data):
    html = report.render(data, image.vectors.images)
    page = Page(html)
    assert page.links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert not re.search(r"url\((?!#)", html)
    assert "<script" not in html


def test_page_escapes_names_from_the_image(image, data):
    html = report.render(data, image.vectors.images)
    assert "tiny &lt;net&gt;" in html
    assert "&lt;d&gt;" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


@pytest.mark.parametrize(
    "anchor", ["rtl", "digits", "accuracy", "widths", "histograms", "dynamic", "cost", "energy", "hardware"]
)
def test_every_section_is_there_and_says_how_to_read_it(image, data, anchor):
    html = report.render(data, image.vectors.images)
    section = html[html.index(f'<section id="{anchor}">') :]
    assert "How to read this." in section[: section.index("</section>")]


def test_page_shows_every_source_of_the_energy_table(image, data):
    html = report.render(data, image.vectors.images)
    for row in data["energy"]["rows"]:
        assert str(row["source"]) in html


def test_report_of_a_plain_network_without_accuracy_leaves_sections_out(tmp_path):
    network = replace(make_network(dynamic=None, registers=UNIFORM), info={})
    pictures = np.zeros((1, 2, 6, 6), dtype=np.uint8)
    written = deployment.write(tmp_path / "plain", network, pictures)
    html = report.render(report.collect(written), pictures)
    assert "carries no accuracy figures" in html
    assert 'id="dynamic"' not in html


# ---- the figures in it --------------------------------------------------------------------------
def test_totals_are_the_recorded_events(image, data):
    ours = data["steps"][-1]["totals"]
    events = image.vectors.events
    assert ours["ad_operations"] == pytest.approx(events.ad_operations.sum(axis=1).mean())
    assert ours["conversions"] == pytest.approx(events.conversions.sum(axis=1).mean())
    assert ours["cycles"] == pytest.approx(image.vectors.cycles.mean())


def test_accuracy_ladder_is_in_order_with_its_pictures(data):
    assert [row["stage"] for row in data["accuracy"]] == ["float", "8-bit", "BWQ", "with TRQ", "with ReDy"]
    assert [row["accuracy"] for row in data["accuracy"]] == [0.97, 0.97, 0.96, 0.96, 0.955]
    assert {row["images"] for row in data["accuracy"]} == {200}


def test_ladder_shows_the_change_of_every_step(image, data):
    html = report.render(data, image.vectors.images)
    ladder = html[html.index('<section id="accuracy">') : html.index('<section id="widths">')]
    assert re.findall(r"<td>([+-][\d.]+)</td>", ladder) == ["+0.00", "-1.00", "+0.00", "-0.50"]


def test_storage_counts_real_weights_only(image, data):
    for layer, row in zip(image.network.layers, data["layers"], strict=True):
        assert row["weights"] == layer.weights.size
        widths = np.repeat(np.repeat(layer.block_widths, TINY.ou_rows, axis=0), TINY.ou_cols, axis=1)
        assert row["plane_bits"] == widths[: layer.k, : layer.outputs].sum()
        assert row["ous"] == layer.block_widths.sum()


def test_energy_rows_add_up_to_the_total(data):
    assert sum(r["picojoules"] for r in data["energy"]["rows"]) == pytest.approx(
        data["steps"][-1]["totals"]["energy_pj"]
    )
    assert sum(r["events"] * r["energy_pj"] for r in data["energy"]["trace"]) == pytest.approx(
        data["steps"][-1]["totals"]["energy_pj"]
    )


# ---- a run of the hardware ----------------------------------------------------------------------
def make_run(image, **changes):
    """What `python -m sim.run --json` writes, for two pictures that agree."""
    vectors = image.vectors
    rows = [
        {
            "index": i,
            "label": int(vectors.labels[i]),
            "predicted": int(vectors.logits[i].argmax()),
            "golden_predicted": int(vectors.logits[i].argmax()),
            "cycles": int(vectors.cycles[i]),
            "agrees": True,
        }
        for i in range(2)
    ]
    run = {
        "schema": "ohmloom-run",
        "version": 1,
        "image_sha256": image.manifest["manifest_sha256"],
        "backend": "compiled",
        "crossbar": {"kind": "emulated"},
        "judged": True,
        "agrees": True,
        "first_difference": None,
        "images": rows,
        "cycles_per_image": 1234.0,
        "clocks_per_second": 1e6,
        "seconds": 0.5,
        "build_seconds": 9.0,
    }
    return run | changes


def test_report_reads_what_the_simulation_writes(image):
    """The form above is that of sim.run itself."""
    from sim import run as sim_run
    from sim.backends.choice import Report
    from sim.host.session import ImageResult, Outcome

    vectors = image.vectors
    results = [
        ImageResult(i, vectors.logits[i].tolist(), vectors.events.counts[i].tolist(), int(vectors.cycles[i]), 0.1)
        for i in range(2)
    ]
    outcome = Outcome(results=results, clocks=1000, seconds=0.5)
    report_of_run = Report(outcome=outcome, build_seconds=9.0)
    run = sim_run.summarise(
        image, report_of_run, directory=None, backend="compiled", crossbar={"kind": "emulated"}, judge=True
    )
    assert set(make_run(image)) <= set(run)
    assert "equal the golden model" in report.render(report.collect(image, run), vectors.images)


def write_run(tmp_path, run):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run))
    return path


def test_an_agreeing_run_is_shown_with_its_clocks(image_dir, image, tmp_path):
    result = invoke(image_dir, "--run", write_run(tmp_path, make_run(image)), "--output", tmp_path / "r.html")
    assert result.exit_code == 0, result.output
    html = (tmp_path / "r.html").read_text()
    assert "2 pictures through the complete network in hardware" in html
    assert "1,234" in html
    assert "simulated hardware (2 of 4)" in html


def test_a_differing_run_is_shown_and_gives_status_1(image_dir, image, tmp_path):
    run = make_run(image, agrees=False, first_difference="vector 0: logit 1 is 5 instead of 4. First difference in <x>")
    result = invoke(image_dir, "--run", write_run(tmp_path, run), "--output", tmp_path / "r.html")
    assert result.exit_code == 1
    html = (tmp_path / "r.html").read_text()
    assert "Hardware and golden model differ." in html
    assert "First difference in &lt;x&gt;" in html


def test_an_imperfect_crossbar_may_differ(image_dir, image, tmp_path):
    run = make_run(image, agrees=False, judged=False, crossbar={"kind": "noise", "read_noise": 0.2, "variation": 0.0})
    run["images"][0]["predicted"] = (run["images"][0]["predicted"] + 1) % 4
    result = invoke(image_dir, "--run", write_run(tmp_path, run), "--output", tmp_path / "r.html")
    assert result.exit_code == 0
    html = (tmp_path / "r.html").read_text()
    assert "1 of 2 classes changed" in html
    assert "noise (read noise 0.2)" in html


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_sha256": "0" * 64}, "it belongs to another image"),
        ({"version": 2}, "schema and version must be 'ohmloom-run' and 1, got 'ohmloom-run' and 2"),
        ({"schema": "other"}, "schema and version must be"),
        ({"images": [{"index": 0}]}, "images must be a list of objects with golden_predicted, index"),
        ({"crossbar": "ideal"}, "crossbar must be an object, got 'ideal'"),
    ],
)
def test_a_run_that_does_not_belong_is_refused(image_dir, image, tmp_path, change, message):
    result = invoke(image_dir, "--run", write_run(tmp_path, make_run(image, **change)), "--output", tmp_path / "r.html")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(("text", "message"), [("][", "not JSON"), ("[]", "must hold a JSON object")])
def test_a_broken_run_file_is_refused(image_dir, tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    result = invoke(image_dir, "--run", tmp_path / "run.json", "--output", tmp_path / "r.html")
    assert result.exit_code == 2
    assert message in result.stderr


# ---- command line -------------------------------------------------------------------------------
def test_command_writes_page_and_json(image_dir, tmp_path):
    result = invoke(image_dir, "--output", tmp_path / "out" / "r.html", "--json", tmp_path / "r.json", "--images", 2)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert json.loads((tmp_path / "r.json").read_text())["images"] == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["r.html"]


def test_command_prints_every_product_on_request(image_dir, tmp_path, data):
    result = invoke(image_dir, "--output", tmp_path / "r.html", "--trace")
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if " pJ " in line]
    assert len(lines) == len(data["energy"]["trace"])
    assert "[ad_operations; Shafiee" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no such directory"),
        (["IMAGE", "--table", "nowhere"], "energy table nowhere: no such file"),
        (["IMAGE", "--run", "nowhere.json"], "run file nowhere.json: No such file or directory"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(image_dir, tmp_path, arguments, message):
    arguments = [image_dir if a == "IMAGE" else a for a in arguments]
    result = invoke(*arguments, "--output", tmp_path / "r.html")
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_image_without_vectors_is_refused(tmp_path):
    deployment.write(tmp_path / "empty", make_network(), np.zeros((0, 2, 6, 6), dtype=np.uint8))
    result = invoke(tmp_path / "empty")
    assert result.exit_code == 2
    assert "holds no test vectors" in result.stderr
