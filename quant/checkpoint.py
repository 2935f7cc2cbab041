"""Checkpoints: one torch.save file, read with weights_only=True.

Format (a dictionary), version 1:

    schema       "ohmloom-checkpoint"
    version      1
    fingerprint  of everything that decided the content (quant.stages.fingerprint)
    model        name of the float network, shape (C, H, W), classes
    data         source (directory, or quant.data.DIGITS), sha256
    settings     quant.training.loop.Settings as a dictionary
    float        state_dict of the float network, or None
    normalisation  mean and std that the float network expects
    network      QuantNetwork.describe(), or None; state: its state_dict, or None
    results      accuracies, widths, history (JSON-able)
    progress     only in unfinished checkpoints: phase, epochs done, optimiser, random generator
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch

from quant.stages import write_atomically
from quant.training.layers import QuantNetwork

SCHEMA, VERSION = "ohmloom-checkpoint", 1
KEYS = (
    "schema",
    "version",
    "fingerprint",
    "model",
    "data",
    "settings",
    "float",
    "normalisation",
    "network",
    "state",
    "results",
)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; one sentence with the file's name."""


def save(path: Path, **content: Any) -> None:
    """Write a checkpoint atomically; every key of the format but schema and version must be given."""
    content = {"schema": SCHEMA, "version": VERSION, **content}
    missing = sorted(set(KEYS) - set(content))
    if missing:
        raise ValueError(f"checkpoint: missing {', '.join(missing)}")
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def load(path: Path) -> dict[str, Any]:
    """Read and check a checkpoint; CheckpointError for anything that `save` would not write."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: run python -m quant.train first")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, BadZipFile) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise CheckpointError(f"{path} is not a checkpoint of this project")
    if content.get("version") != VERSION:
        raise CheckpointError(f"{path} has checkpoint version {content.get('version')!r}, this program reads {VERSION}")
    missing = sorted(set(KEYS) - set(content))
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    for part in ("float", "state"):
        for name, tensor in (content[part] or {}).items():
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"{path}: {name} holds NaN or infinity")
    return content


def network_of(content: dict[str, Any], path: Path) -> QuantNetwork:
    """The quantised network of a checkpoint."""
    if content["network"] is None:
        raise CheckpointError(f"{path} holds no quantised network: its training is unfinished")
    try:
        return QuantNetwork.rebuild(content["network"], content["state"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
