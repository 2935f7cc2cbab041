"""What mkdocs does beside: pages of the API, pages of source files that other pages point at, links between them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).parents[2]
#: Packages whose modules have a page made from their docstrings; the hardware has sheets of its blocks instead.
PACKAGES = ("golden_model", "quant", "sim")
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def page_of(path: str) -> str:
    """Place in the site of a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}" if path.endswith(".md") else f"source/{path}.md"


def origin_of(page: str) -> str:
    """The file of the repository that a page shows."""
    return page.removeprefix("source/") if page.startswith("source/") else f"docs/{page}"


def outside(origin: str, text: str) -> set[str]:
    """Files outside docs that a file's Markdown points at."""
    targets = (posixpath.normpath(posixpath.join(posixpath.dirname(origin), t)) for _, t, _ in LINK.findall(text))
    return {t for t in targets if not t.startswith(("docs/", "..")) and (ROOT / t).is_file()}


def modules() -> list[str]:
    """Dotted names of all modules that have a docstring."""
    paths = sorted(p for name in PACKAGES for p in (ROOT / name).rglob("*.py") if p.name != "__main__.py")
    names = (p.relative_to(ROOT).with_suffix("") for p in paths if p.read_text("utf-8").startswith('"""'))
    return [".".join(n.parts).removesuffix(".__init__") for n in names]


def on_config(config):
    """Names in the navigation what FOLDER/* stands for, and pages of docs that it leaves out."""

    def expand(entries: list) -> list:
        return [{name: listed(value)} for entry in entries for name, value in entry.items()]

    def listed(value: str | list) -> str | list:
        if isinstance(value, list):
            return expand(value)
        if value == "api/*":
            tree: dict[str, list] = {name: [] for name in PACKAGES}
            for name in modules():
                tree[name.split(".")[0]].append({name.partition(".")[2] or name: f"api/{name}.md"})
            return [{name: pages} for name, pages in tree.items()]
        if value.endswith("/*"):
            pages = sorted((ROOT / "docs" / value).parent.glob("*.md"), key=lambda p: (p.name != "README.md", p.name))
            return [{"Overview" if p.name == "README.md" else p.stem: value[:-1] + p.name} for p in pages]
        return value

    config.nav = expand(config.nav)
    named = re.findall(r"[\w./-]+\.md", str(config.nav))
    others = sorted(p.name for p in (ROOT / "docs").glob("*.md") if p.name not in named)
    if others:
        config.nav.append({"More": [{name.removesuffix(".md"): name} for name in others]})
    return config


def on_files(files, config):
    """Adds pages of the API and of source files."""
    for name in modules():
        text = f"# `{name}`\n\n::: {name}\n"
        files.append(File.generated(config, f"api/{name}.md", content=text))
    waiting = [(origin_of(f.src_uri), f.content_string) for f in files.documentation_pages()]
    while waiting:
        origin, text = waiting.pop()
        for path in sorted(outside(origin, text)):
            if files.get_file_from_path(page_of(path)):
                continue
            text, level = (ROOT / path).read_text("utf-8"), InclusionLevel.INCLUDED
            if path.endswith(".md"):
                waiting.append((path, text))
            else:
                text, level = f"# `{path}`\n\n~~~~{Path(path).suffix[1:]}\n{text}\n~~~~\n", InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, page_of(path), content=text, inclusion=level))
    return files


def on_page_markdown(markdown, page, config, files):
    """Points links between files of the repository at their pages."""
    here = page.file.src_uri
    origin = origin_of(here)

    def moved(link: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link[2]))
        if "://" in link[2] or not (ROOT / target).is_file():
            return link[0]
        return link[1] + posixpath.relpath(page_of(target), posixpath.dirname(here) or ".") + link[3]

    return markdown if here.startswith("api/") else LINK.sub(moved, markdown)
