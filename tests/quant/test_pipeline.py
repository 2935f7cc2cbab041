"""What the commands of quant share."""

from __future__ import annotations

import sys

import pytest

from quant import stages


def test_a_command_is_kept_without_the_folders_of_this_machine(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--data", "/some/where/cifar10.npz", "--block", "9x8", "--work", "a/b"])
    kept = stages.command_line("quant.train_network")
    assert kept == "python -m quant.train_network --data cifar10.npz --block 9x8 --work a/b"


def _fails():
    raise KeyboardInterrupt


def test_a_finished_part_is_not_made_again(tmp_path):
    first = stages.Cache(tmp_path / "parts").get("8 bits, no/slash", "key", lambda: {"speed": 0.1 + 0.2, "ous": (1, 2)})
    again = stages.Cache(tmp_path / "parts").get("8 bits, no/slash", "key", _fails)
    assert first == again == {"speed": 0.1 + 0.2, "ous": [1, 2]}
    assert [file.suffix for file in (tmp_path / "parts").iterdir()] == [".json"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"fingerprint": "key"}'])
def test_a_part_of_something_else_or_a_broken_one_is_made_again(tmp_path, damage):
    cache = stages.Cache(tmp_path)
    assert cache.get("part", "key", lambda: 1) == 1
    assert cache.get("part", "other key", lambda: 2) == 2
    cache.path("part").write_text(damage)
    assert cache.get("part", "key", lambda: 3) == 3


def test_an_interrupted_part_leaves_the_old_one_and_no_half_file(tmp_path):
    cache = stages.Cache(tmp_path)
    cache.get("part", "key", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        cache.get("part", "new key", _fails)
    assert cache.get("part", "key", _fails) == 1
    assert len(list(tmp_path.iterdir())) == 1
