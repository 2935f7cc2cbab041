"""Where a report comes from: program, command, training, hardware preset. What is not known is left out."""

from __future__ import annotations

import subprocess
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from golden_model import __version__
from golden_model.config import PRESETS, HardwareConfig

_ROOT = Path(__file__).resolve().parents[2]
#: Fields in which a machine may differ from a preset and is still told by its name.
_MOST_DIFFERENCES = 4


def of_program(command: str) -> dict[str, str]:
    """{"command", "date", "version", and where known "commit"} of this program, now."""
    found = {"command": command, "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "version": __version__}
    commit = _git("rev-parse", "HEAD") if (_ROOT / ".git").exists() else None
    if commit:
        found["commit"] = commit + (" and changes that are not committed" if _git("status", "--porcelain") else "")
    return found


def _git(*arguments: str) -> str | None:
    """What git prints of the repository that this file is in; None where it cannot."""
    try:
        return subprocess.run(
            ["git", "-C", _ROOT, *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def of_training(record: dict[str, Any]) -> dict[str, Any]:
    """Command, seed, data and accuracies of a train.json, as far as it has them.

    Raises ValueError for accuracies that are no object.
    """
    options = record.get("options")
    options = options if isinstance(options, dict) else {}
    settings = options.get("settings")
    seed = (settings if isinstance(settings, dict) else options).get("seed")
    data = record.get("data")
    found = {
        "training command": record.get("command"),
        "seed": seed,
        "data": data.get("source", data.get("name")) if isinstance(data, dict) else data,
        "accuracy": record.get("accuracy", {}),
        "test_images": record.get("test_images"),
    }
    if not isinstance(found["accuracy"], dict):
        raise ValueError(f"--training: accuracy must be an object, got {found['accuracy']!r}")
    return {name: value for name, value in found.items() if value is not None}


def preset(hardware: HardwareConfig) -> str:
    """Which preset a machine is, or what differs from the nearest, in words."""
    names = [one.name for one in fields(hardware)]
    differing = {
        preset: [name for name in names if getattr(hardware, name) != getattr(one, name)]
        for preset, one in PRESETS.items()
    }
    nearest = min(differing, key=lambda name: len(differing[name]))
    keys = differing[nearest]
    if not keys:
        return nearest
    if len(keys) > _MOST_DIFFERENCES:
        return f"none; {len(keys)} settings differ from {nearest}, the nearest"
    return f"{nearest} but for " + ", ".join(f"{key.replace('_', ' ')} {getattr(hardware, key)}" for key in keys)
