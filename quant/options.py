"""Options that several commands have: one spelling, one meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from golden_model.config import PRESETS, HardwareConfig, read_hardware
from quant.networks import zoo

DEFAULT_WORK = Path("build/lenet5")
DEFAULT_HARDWARE = "paper"

Model = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it at run time
    typer.Option(help=f"{', '.join(zoo.READY)}, or FILE.py:NAME for your own network; default lenet5."),
]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help=f"{', '.join(zoo.READY)}, or FILE.py:NAME for your own network.")
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
    typer.Option(
        help=f"{', '.join(PRESETS)}, or a .json file with what differs from one; where a command finishes a network, "
        "also auto: just large enough."
    ),
]
Mean = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Mean of pixel / 255 that the network expects, one or one per channel: 0.5,0.5,0.5."),
]
Std = Annotated[Optional[str], typer.Option(help="Standard deviation of pixel / 255 that it expects.")]  # noqa: UP045
Size = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=1, help="Pictures only: scale and crop to size x size."),
]
Force = Annotated[bool, typer.Option(help="Make everything again, even if it is up to date.")]
Json = Annotated[Optional[Path], typer.Option("--json", help="Also write the results here.")]  # noqa: UP045


def machine(text: str | None) -> HardwareConfig | None:
    """The hardware that `--hardware` names; None for "auto", which is made to fit the network."""
    return None if text in (None, "auto") else read_hardware(text)


def numbers(option: str, text: str | None, channels: int) -> tuple[float, ...] | None:
    """Numbers between commas, one for all channels or one each; None for no text."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} must be numbers between commas, got {text!r}") from None
    values = values * channels if len(values) == 1 else values
    if len(values) != channels:
        raise ValueError(f"{option} must be 1 or {channels} numbers, got {len(values)}")
    return values
