"""What the commands of quant share."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from golden_model.files import file_hash, read_json, write_atomically, write_json
from golden_model.image.image import read
from quant import calibrate, export, stages
from quant.capture import __main__ as capture
from quant.data import sets


def test_a_command_is_kept_without_the_folders_of_this_machine(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--data", "/some/where/cifar10.npz", "--block", "9x8", "--work", "a/b"])
    kept = stages.command_line("quant.train")
    assert kept == "python -m quant.train --data cifar10.npz --block 9x8 --work a/b"


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


def test_fingerprint_depends_on_options_inputs_and_sources(tmp_path: Path):
    source = tmp_path / "a.py"
    source.write_text("x = 1")
    marks = [stages.fingerprint("s", {"a": 1}, [source], data="d")]
    marks.append(stages.fingerprint("s", {"a": 2}, [source], data="d"))
    marks.append(stages.fingerprint("s", {"a": 1}, [source], data="e"))
    marks.append(stages.fingerprint("t", {"a": 1}, [source], data="d"))
    source.write_text("x = 2")
    marks.append(stages.fingerprint("s", {"a": 1}, [source], data="d"))
    assert len(set(marks)) == 5
    source.write_text("x = 1")
    assert stages.fingerprint("s", {"a": 1}, [source], data="d") == marks[0]


def test_files_of_packages_are_sources_and_nothing_that_is_compiled():
    names = {path.relative_to(stages.ROOT).as_posix() for path in stages.files_of("golden_model", "sim")}
    assert {"golden_model/config.py", "sim/backends/harness.cpp", "golden_model/cost/data/isaac-32nm.toml"} <= names
    assert not [name for name in names if name.endswith((".pyc", ".nbi", ".nbc"))]


def test_sources_end_at_our_packages_where_others_lie_beside_them(tmp_path: Path, monkeypatch):
    for name, text in {
        "quant/a.py": "import other\nfrom golden_model import b",
        "golden_model/b.py": "",
        "other/__init__.py": "import quant.c",
        "quant/c.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    assert stages.sources_of("quant.a") == [tmp_path / "golden_model/b.py", tmp_path / "quant/a.py"]


def test_failed_write_leaves_the_old_file(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(file, write)
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_link_is_written_through(tmp_path: Path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_json(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert read_json(tmp_path / "real.json", "") == {"a": 1}


def test_a_pipe_is_written_through(tmp_path: Path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_json(pipe, [1])
    reader.join(10)
    assert read == ["[\n  1\n]\n"]
    assert pipe.is_fifo()


def test_what_a_killed_command_left_is_removed_but_not_what_another_writes(tmp_path: Path):
    left, busy = tmp_path / ".a.json.4194305.partial", tmp_path / f".a.json.{os.getppid()}.partial"
    for file in (left, busy):
        file.write_text("half")
    write_json(tmp_path / "a.json", 1)
    assert (left.exists(), busy.exists()) == (False, True)


def test_a_stage_is_finished_only_if_its_files_are_as_they_were_written(tmp_path: Path):
    (tmp_path / "made").write_text("content")
    files = {"made": file_hash(tmp_path / "made")}
    write_json(tmp_path / "a.json", {"fingerprint": "key", "files": files})
    assert stages.finished(tmp_path / "a.json", "key")
    assert stages.finished(tmp_path / "a.json", "other") is None
    (tmp_path / "made").write_text("Content")
    assert stages.finished(tmp_path / "a.json", "key") is None
    (tmp_path / "made").unlink()
    assert stages.finished(tmp_path / "a.json", "key") is None


def test_pictures_are_scaled_in_every_command_as_they_were_captured(tmp_path: Path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 48), ("test", 6)):
        for index in range(count):
            file = tmp_path / "pictures" / part / "abc"[index % 3] / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (14, 12, 3)).astype(np.uint8)).save(file)
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    last = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *last)"
    )
    plain, data = sets.load(tmp_path / "pictures"), ("--data", str(tmp_path / "pictures"))
    for number, asked in enumerate(({}, {"size": 12}, {"size": 8, "channels": 3})):
        work = ("--work", str(tmp_path / f"work{number}"))
        given = [word for name, value in asked.items() for word in (f"--{name}", str(value))]
        for app, more in (
            (capture.app, (f"{tmp_path / 'net.py'}:make", *data, *work, "--threads", "1", *given)),
            (calibrate.app, (*data, *work, "--event-images", "1")),
            (export.app, (*data, *work, "--images", "6")),
        ):
            done = CliRunner().invoke(app, list(more))
            assert done.exit_code == 0, done.output
        wanted = sets.load(tmp_path / "pictures", **asked) if asked else plain
        assert (read(tmp_path / f"work{number}" / "image").vectors.images == wanted.test_images).all()
