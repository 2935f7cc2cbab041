"""Options that several commands have: one spelling, one meaning."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import numpy as np
import typer

from golden_model.command import Json
from golden_model.config import PAPER, PRESETS, HardwareConfig, read_hardware
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from golden_model.image import program
from quant.networks import zoo
from quant.networks.source import Inputs

__all__ = ["Json"]  # of all packages

DEFAULT_WORK = Path("build/lenet5")


def option(settings: type, name: str) -> Any:
    """The option of a field of a dataclass (`quant.settings`)."""
    return typer.Option(help=next(one.metadata["help"] for one in fields(settings) if one.name == name))


MODEL = f"{', '.join(zoo.READY)}, or FILE.py:NAME, FILE.onnx or FILE.pt2 for your own network."
ModelNeeded = Annotated[str, typer.Option("--model", help=MODEL)]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)]
Data = Annotated[Path | None, option(Inputs, "data")]
Work = Annotated[Path, typer.Option(help="Working directory of the pipeline.")]
HARDWARE = (
    f"auto, auto-pairs: just large enough, of planes or pairs; {', '.join(PRESETS)};"
    " or a .json file with what differs from a preset."
)
Hardware = Annotated[str | None, typer.Option(help=HARDWARE)]
HardwareNeeded = Annotated[str, typer.Option(help=HARDWARE)]
Recipe = Annotated[Path | None, typer.Option(help="TOML file with options of training; those given here override it.")]
THREADS = "Threads of PyTorch; other numbers add in another order."
Threads = Annotated[int, typer.Option(min=1, help=THREADS)]
Force = Annotated[bool, typer.Option(help="Make everything again, even if it is up to date.")]


# ---- --hardware ---------------------------------------------------------------------------------
class Automatic(StrEnum):
    """Machines that are made just large enough for a network."""

    AUTO = "auto"  # the main data path of the network's machine; planes, if it has none yet
    PAIRS = "auto-pairs"


#: What `--hardware` says.
Machine = HardwareConfig | Automatic


def machine(text: str) -> Machine:
    """The hardware that `--hardware` names."""
    return Automatic(text) if text in set(Automatic) else read_hardware(text)


def preset(hardware: Machine) -> HardwareConfig:
    """Hardware of a network that is still to be made: where a machine that is made starts from."""
    if isinstance(hardware, HardwareConfig):
        return hardware
    return PRESETS["paper-pairs"] if hardware is Automatic.PAIRS else PAPER


def fitted(network: Graph, hardware: Machine) -> Graph:
    """The network on `hardware`; one that is made has OUs and converters of `paper`, or of `paper-pairs`.

    Converters keep their registers if OUs and A/D converters are the same, and are lossless ones otherwise.
    Raises ValueError that names every limit which is too small, and how to get a machine that fits.
    """
    if hardware is Automatic.AUTO and network.hardware.pairs:
        hardware = Automatic.PAIRS
    wanted = hardware if isinstance(hardware, HardwareConfig) else program.fitting(network, preset(hardware))
    fits = f"(--hardware {Automatic.PAIRS if wanted.pairs else Automatic.AUTO} makes a machine that fits)"
    for layer in network.layers:
        if (bits := int(np.abs(layer.weights).max(initial=0)).bit_length()) > wanted.weight_bits:
            raise ValueError(
                f"layer {layer.name}: its weights have {bits} bits and a sign, the hardware has weight_bits ="
                f" {wanted.weight_bits} {fits}"
            )
    if wanted != network.hardware:
        kept: dict[str, Any] = {}
        if all(getattr(wanted, name) == getattr(network.hardware, name) for name in ("machine", "ou_rows", "adc_bits")):
            kept["registers"] = {node.name: node.registers for node in network.crossbars}
            kept["counts_per_lsb"] = {node.name: node.counts_per_lsb for node in network.crossbars}
        network = with_settings(network, hardware=wanted, **kept)
    try:
        program.plan(network)
    except ValueError as error:
        raise ValueError(f"{error} {fits}") from None
    return network


# ---- options from a dataclass -------------------------------------------------------------------
def takes(name: str, settings: type, *, optional: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command an option for each field with a help text of a dataclass (`quant.settings`).

    The command gets the dataclass as its parameter `name`. optional : the options have no defaults, and the command
    gets a dict of those that were given.
    """
    hints = get_type_hints(settings)
    shown = [one for one in fields(settings) if one.metadata["help"]]

    def parameter(one: Any) -> inspect.Parameter:
        hint, default = (hints[one.name] | None, None) if optional else (hints[one.name], one.default)
        annotation = Annotated[hint, option(settings, one.name)]
        return inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def wrapped(**values: Any) -> Any:
            given = {one.name: values.pop(one.name) for one in shown}
            found = {key: value for key, value in given.items() if value is not None}
            return command(**values, **{name: found if optional else settings(**given)})

        signature = inspect.signature(command, eval_str=True)
        own = [p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values() if p.name != name]
        parameters = [*own, *map(parameter, shown)]
        wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapped

    return decorate
