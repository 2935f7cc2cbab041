"""The report in a real browser: it fits, asks for nothing, and prints in full."""

from __future__ import annotations

import pytest
from matplotlib.image import imread

from sim.reporting import browser, collect, compare, view
from tests.sim.test_report import UNIFORM, make_image, make_network

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium():
    try:
        with browser.opened() as found:
            yield found
    except browser.NoBrowserError as error:
        pytest.skip(f"the report was not opened: {error}")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    image = make_image(make_network(), folder / "image")
    page = folder / "report.html"
    page.write_text(view.render(collect.collect(image), image.vectors.images), "utf-8")
    return page


def test_nothing_is_wrong_at_any_width_in_light_dark_or_print(chromium, page, tmp_path):
    found = browser.examine(chromium, page, tmp_path)
    assert found.wrong == []
    assert 0 < found.pages <= 15
    assert len(list(tmp_path.glob("*.png"))) == 2 * len(browser.WIDTHS)


def test_a_comparison_fits_too(chromium, tmp_path):
    sides = [
        collect.collect(make_image(network, tmp_path / f"image-{i}"))
        for i, network in enumerate((make_network(), make_network(UNIFORM, None, False)))
    ]
    page = tmp_path / "compare.html"
    page.write_text(view.render_comparison(compare.compare(*sides)), "utf-8")
    assert browser.examine(chromium, page).wrong == []


def test_the_first_screen_is_one_picture(chromium, page, tmp_path):
    browser.top(chromium, page, tmp_path / "top.png")
    assert imread(tmp_path / "top.png").shape[:2] == (browser.TOP_HEIGHT, browser.WIDTHS[-1])


def changed(page, old: str, new: str):
    text = page.read_text("utf-8")
    assert old in text
    broken = page.with_name("broken.html")
    broken.write_text(text.replace(old, new, 1), "utf-8")
    return broken


@pytest.mark.parametrize(
    ("added", "sentence"),
    [
        ('<p style="width:3000px">wide</p>', "390 px, wider than the page: p"),
        ('<script>console.error("lost")</script>', "console: lost"),
        ('<img src="http://127.0.0.1:9/a.png">', "request: http://127.0.0.1:9/a.png"),
    ],
)
def test_what_is_wrong_with_a_page_is_said(chromium, page, added, sentence):
    found = browser.examine(chromium, changed(page, "<main>", "<main>" + added))
    assert any(sentence in one for one in found.wrong)


def test_a_table_that_print_would_cut_is_found(chromium, page):
    wide = '<div class="scroll"><table><tr><td style="min-width:900px">x</td></tr></table></div>'
    found = browser.examine(chromium, changed(page, "<main>", "<main>" + wide))
    assert [one for one in found.wrong if one.startswith("in print, cut off: table")]
    assert not [one for one in found.wrong if one.startswith("at ")]
