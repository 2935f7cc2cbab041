"""Look at a report as people do: `python -m sim.reporting.browser REPORT.html FOLDER`.

FOLDER gets a picture of the whole page at three widths in light and in dark colours (390-light.png, ...) and print.pdf;
--top FILE also writes what a wide screen shows first, as docs/images/report.png.
Says what is wrong with the page in plain sentences: messages in the console, requests, things wider than the page.

Needs playwright (`pip install '.[browser]'`) and a Chromium or Chrome on the PATH.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golden_model.command import command
from golden_model.files import printable, write_bytes

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page  # pyright: ignore[reportMissingImports]

#: A telephone, a tablet, a desktop; CSS pixels.
WIDTHS = 390, 820, 1440
#: What A4 leaves between margins of 12 mm, in CSS pixels.
PRINT_WIDTH = 703
#: Height of the picture of the first screen.
TOP_HEIGHT = 1060
BROWSERS = "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"

#: Elements that reach beyond the page although nothing around them scrolls, deepest first; "TAG.CLASS in #SECTION".
_TOO_WIDE = """() => {
  const room = document.documentElement.clientWidth;
  const scrolls = e => e && (["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  return [...document.body.querySelectorAll("*")].reverse()
    .filter(e => !e.closest("svg > *") && e.getBoundingClientRect().right > room + 1 && !scrolls(e.parentElement))
    .slice(0, 5).map(e => `${e.tagName.toLowerCase()}.${e.getAttribute("class") ?? ""} ` +
      `(${Math.round(e.getBoundingClientRect().right)} of ${room} px) in #${e.closest("section")?.id ?? ""}`);
}"""


class NoBrowserError(ValueError):
    """There is nothing here to open a page with; the sentence says what is missing."""


@dataclass
class Findings:
    """What is wrong, a sentence each; pages : of the print."""

    wrong: list[str] = field(default_factory=list)
    pages: int = 0


@contextmanager
def opened() -> Iterator[Browser]:
    """A headless browser; `NoBrowserError` where there is none."""
    try:
        from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise NoBrowserError("playwright is not installed: pip install '.[browser]'") from None
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise NoBrowserError(f"no browser on the PATH, one of {', '.join(BROWSERS)} is needed")
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=found)
        try:
            yield browser
        finally:
            browser.close()


def examine(browser: Browser, report: Path, folder: Path | None = None) -> Findings:
    """Open a report at every width, in light and dark, and print it; pictures and print.pdf go to `folder`."""
    found = Findings()
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            with _page(browser, report, width, found) as page:
                page.emulate_media(color_scheme=scheme)
                found.wrong += [f"at {width} px, wider than the page: {one}" for one in page.evaluate(_TOO_WIDE)]
                if folder is not None:
                    write_bytes(folder / f"{width}-{scheme}.png", page.screenshot(full_page=True))
    with _page(browser, report, PRINT_WIDTH, found) as page:
        page.emulate_media(media="print", color_scheme="light")
        found.wrong += [f"in print, cut off: {one}" for one in page.evaluate(_TOO_WIDE)]
        printed = page.pdf(format="A4", prefer_css_page_size=True, print_background=True)
        found.pages = len(re.findall(rb"/Type\s*/Page\b", printed))
        if folder is not None:
            write_bytes(folder / "print.pdf", printed)
    return found


def top(browser: Browser, report: Path, target: Path) -> None:
    """What a screen of the last of `WIDTHS` shows first, as a picture."""
    with _page(browser, report, WIDTHS[-1], Findings()) as page:
        page.set_viewport_size({"width": WIDTHS[-1], "height": TOP_HEIGHT})
        write_bytes(target, page.screenshot())


@contextmanager
def _page(browser: Browser, report: Path, width: int, found: Findings) -> Iterator[Page]:
    address = report.resolve().as_uri()
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.on("console", lambda message: found.wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: found.wrong.append(f"error: {error}"))
    page.on("request", lambda one: _requested(one.url, address, found))
    try:
        page.goto(address)
        yield page
    finally:
        page.close()


def _requested(url: str, address: str, found: Findings) -> None:
    if url != address and not url.startswith("data:"):
        found.wrong.append(f"request: {url}")


@command
def app(
    report: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="HTML file.")],
    folder: Annotated[Path, typer.Argument(help="Where pictures and print.pdf go.")],
    first: Annotated[Path | None, typer.Option("--top", help="PNG file of what a wide screen shows first.")] = None,
) -> None:
    """Pictures of a report at three widths, light and dark, and its print; exit status 1 if something is wrong."""
    with opened() as browser:
        found = examine(browser, report, folder)
        if first is not None:
            top(browser, report, first)
    print(printable(f"{folder}: {len(WIDTHS)} widths in light and dark, print.pdf of {found.pages} pages"))
    for one in found.wrong:
        print(printable(one))
    if found.wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
