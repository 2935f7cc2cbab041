"""Options that several commands have: one spelling, one meaning."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Optional

import typer

from golden_model.config import PRESETS, HardwareConfig
from quant import stages
from quant.networks import zoo

DEFAULT_WORK = Path("build/lenet5")
DEFAULT_HARDWARE = "paper"

Model = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it at run time
    typer.Option(help=f"{', '.join(zoo.READY)}, or FILE.py:NAME for your own network; default lenet5."),
]
Weights = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Trained float weights: a state dict, .npz or .safetensors."),
]
Data = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="idx files, CIFAR-10 batches, a folder of pictures or an .npz file."),
]
Work = Annotated[Path, typer.Option(help="Working directory of the pipeline.")]
Hardware = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help=f"{', '.join(PRESETS)}, or a .json file with what differs from one; default {DEFAULT_HARDWARE}."),
]
Force = Annotated[bool, typer.Option(help="Make everything again, even if it is up to date.")]
Json = Annotated[Optional[Path], typer.Option("--json", help="Also write the results here.")]  # noqa: UP045


def read_hardware(text: str) -> HardwareConfig:
    """The hardware that `--hardware` names: a preset, or a JSON file with fields of `HardwareConfig`.

    The file may leave fields out: they are those of the preset that its entry "preset" names, or of "paper".
    ValueError, one sentence, for anything else.
    """
    if text in PRESETS:
        return PRESETS[text]
    path = Path(text)
    if path.suffix != ".json":
        raise ValueError(f"--hardware must be one of {', '.join(PRESETS)} or a .json file, got {text!r}")
    values = stages.read_json(path, "it must hold a hardware configuration")
    preset = values.pop("preset", DEFAULT_HARDWARE)
    if preset not in PRESETS:
        raise ValueError(f"{path}: preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    unknown = sorted(set(values) - {field.name for field in fields(HardwareConfig)})
    if unknown:
        raise ValueError(f"{path}: a hardware configuration has no field {unknown[0]!r}")
    try:
        return replace(PRESETS[preset], **values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
