"""What is installed: ranges of pyproject.toml, pins of constraints.txt."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
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
