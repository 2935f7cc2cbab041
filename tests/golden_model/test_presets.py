"""The command that lists the presets."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from golden_model import presets
from golden_model.config import PRESETS, HardwareConfig


def test_every_preset_is_listed_and_written_whole(tmp_path):
    target = tmp_path / "presets.json"
    done = CliRunner().invoke(presets.app, ["--json", str(target)])
    assert done.exit_code == 0
    written = json.loads(target.read_text())
    assert {name: HardwareConfig.from_dict(one) for name, one in written.items()} == PRESETS
    lines = done.output.splitlines()
    for name, one in PRESETS.items():
        (line,) = [line for line in lines if f" {name} " in line]
        assert f"{one.rows} x {one.cols}" in line
        assert f"│ {one.machine}" in line
