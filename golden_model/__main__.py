"""All commands under one name: `ohmloom COMMAND`, or `python -m golden_model COMMAND`.

Each is the command that `python -m` runs, options and help included; its module is loaded when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from golden_model import __version__
from golden_model.command import ends, fail
from golden_model.optional import EXTRAS, how_to_install

#: name, module whose `app` it is, what it does
COMMANDS = (
    ("compile", "quant.compile", "all from a PyTorch network to hardware and report"),
    ("capture", "quant.capture.__main__", "a trained network as integers, 8-bit after training"),
    ("train", "quant.train", "block-wise or layer-wise widths by training"),
    ("calibrate", "quant.calibrate", "choose converters and dynamic precision per layer"),
    ("evaluate", "quant.evaluate", "accuracy and events of a trained network"),
    ("export", "quant.export", "write the deployment image with test vectors"),
    ("simulate", "sim.run", "run an image on the hardware and compare"),
    ("report", "sim.report", "write the HTML report of an image"),
    ("verilog", "rtl.generate", "write Verilog, register map or sheets of blocks"),
    ("synth", "rtl.synthesis", "cells, area, flip-flops and delay of blocks"),
    ("fpga", "rtl.fpga.__main__", "the bit stream of a board"),
    ("replay", "golden_model.run", "run an image in the golden model, or describe it"),
    ("presets", "golden_model.presets", "the configurations that --hardware knows by name"),
    ("describe", "golden_model.image.describe", "check the file of a network and say what it holds"),
    ("loading", "sim.host.loading", "clocks of loading; what a host in C loads"),
    ("cost", "golden_model.cost.__main__", "energy, clocks and area beside other machines"),
    ("pairs", "golden_model.pairs.__main__", "a network on the pair machine, switch by switch"),
    ("pair-clocks", "golden_model.pairs.clocks.__main__", "exact clocks of a network on the pair macro"),
    ("pair-macros", "golden_model.pairs.macros.__main__", "clocks of a network on several macros side by side"),
    ("bench", "golden_model.bench", "how fast the golden model is"),
    ("reproduce-trq", "quant.reproduce.trq", "twin-range against uniform converters"),
    ("reproduce-bwq", "quant.reproduce.bwq", "block-wise widths step by step"),
    ("reproduce-redy", "quant.reproduce.redy", "dynamic activation precision against static bits"),
    ("reproduce-search", "quant.reproduce.search", "lossless searches beside the entropy floor"),
    ("reproduce-offset", "quant.reproduce.offset", "weights on one array instead of a pair"),
)


def load(module: str) -> typer.Typer:
    """The command of a module; one sentence and exit status 2 where it needs a package that only an extra brings."""
    try:
        return importlib.import_module(module).app
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        fail(how_to_install(package))


class _Commands(TyperGroup):
    """Lists all commands, loads one. Ends in the ways of every command, `--help` included."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=what, callback=None) for name, _, what in COMMANDS}

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with ends():
            return super().make_context(*args, **kwargs)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        module = next(module for known, module, _ in COMMANDS if known == name)
        return name, typer.main.get_command(load(module)), rest


app = typer.Typer(
    cls=_Commands, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ohmloom {__version__}", flush=True)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """From a PyTorch model to bit-exact, synthesizable hardware. `ohmloom COMMAND --help` tells more."""


if __name__ == "__main__":
    app(prog_name="ohmloom")
