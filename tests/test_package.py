"""What is installed: ranges of pyproject.toml, pins of constraints.txt, the wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import golden_model

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("golden_model", "rtl", "quant", "sim")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
#: Of every package that pyproject.toml names, what is asked for, wherever it is named.
NAMED = [
    Requirement(text)
    for group in (
        PROJECT["build-system"]["requires"],
        PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"].values(),
    )
    for text in group
    if not text.startswith("ohmloom[")
]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {canonicalize_name(one.name): one for one in map(Requirement, (x for x in lines if not x.startswith("#")))}


def pinned(name: str) -> Version:
    (pin,) = pins()[canonicalize_name(name)].specifier
    assert pin.operator == "=="
    return Version(pin.version)


@pytest.mark.parametrize("named", NAMED, ids=str)
def test_what_is_named_is_pinned_inside_its_range(named):
    assert pinned(named.name) in named.specifier
    assert {one.operator for one in named.specifier} == {">=", "<"}


def test_a_package_that_two_extras_name_has_one_range():
    ranges = {}
    for named in NAMED:
        ranges.setdefault(named.name, set()).add(str(named.specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


def test_what_is_needed_by_what_is_named_is_pinned_too():
    """Of what is installed here; extras that are not, such as onnx, are skipped."""
    missing, known, new = set(), set(), {(one.name, extra) for one in NAMED for extra in (*one.extras, "")}
    while new:
        known |= new
        name, extra = new.pop()
        if canonicalize_name(name) not in pins():
            missing.add(name)
        try:
            needs = [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        needs = [one for one in needs if one.marker is None or one.marker.evaluate({"extra": extra})]
        new |= {(one.name, extra) for one in needs for extra in (*one.extras, "")} - known
    assert missing == set()
    assert len(known) > len(NAMED)


def test_every_dependency_has_its_reason_beside_it():
    for line in (ROOT / "pyproject.toml").read_text("utf-8").splitlines():
        if re.match(r'  "(?!ohmloom)[\w.\-\[\]]+[>=]', line) and '"pytest>' not in line:
            assert re.search(r'",\s+# \w+', line), line


def test_extras_that_are_named_anywhere_exist():
    known = set(PROJECT["project"]["optional-dependencies"])
    named = set()
    for path in [
        ROOT / "README.md",
        ROOT / "Makefile",
        *(ROOT / "docs").glob("*.md"),
        *(path for one in PACKAGES for path in (ROOT / one).rglob("*.py")),
    ]:
        for group in re.findall(r"(?:ohmloom|'\.)\[([a-z][a-z, ]*)\]", path.read_text("utf-8")):
            named |= {one.strip() for one in group.split(",")}
    assert "quant" in named
    assert named <= known


def test_the_citation_and_the_changelog_have_the_version():
    assert f"\nversion: {golden_model.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\n## [{golden_model.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


# ---- the wheel ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, of a copy of the sources: a build leaves files beside them."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(made)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, timeout=300)
    return next(made.glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_packages_and_no_test(wheel):
    files = {str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == {name for name in files if "__pycache__" not in name}


def test_the_wheel_has_the_version_and_is_small(wheel):
    assert wheel.name == f"ohmloom-{golden_model.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 4_000_000


def test_an_installed_wheel_checks_a_network_and_writes_verilog_far_from_the_sources(wheel, tmp_path):
    place, work = tmp_path / "place", tmp_path / "work"
    zipfile.ZipFile(wheel).extractall(place)
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(place), "HOME": str(work)}
    for words in (
        ("-c", f"import golden_model, sim; assert golden_model.__file__.startswith({str(place)!r}), sim.__file__"),
        ("-m", "golden_model", "describe", str(place / "quant/trained/lenet5-s0/network.graph")),
        ("-m", "golden_model", "verilog", "--hardware", "tiny", "--block", "search_lane", "--output", "out", "--lint"),
    ):
        done = subprocess.run(
            [sys.executable, *words], cwd=work, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    assert (work / "out/search_lane.v").is_file()
