"""Clocks of a network on 1, 2, 4, ... macros side by side: `python -m golden_model.pairs.macros NETWORK --images FILE`.

NETWORK is a deployment image (a directory) or the file of a graph; `--hardware` names the machine of one macro. Clocks
are those of the whole run of a picture, three times:

* rounds: what the hardware does (timing.py): every macro has the window of another output, and begins with the others.
* no waiting: at best, if macros did not wait for each other; loading and draining still take turns.
* one window: at best, if the macros shared out each window's block columns, or its packs, evenly: what one macro takes
  beyond loading and draining is shared out.

Beside them: the first way if loading and draining took no clocks. Exit status: 0 printed, 2 bad usage or bad input.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from golden_model import timing
from golden_model.command import Json, Preset, command, results_console, table_of
from golden_model.config import HardwareConfig, read_hardware
from golden_model.engines.pair_runner import PairRunner, Step
from golden_model.files import write_json
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from golden_model.image.inputs import load_images, load_network
from golden_model.image.lowering import lower
from golden_model.pairs.machine import build_clocks, step_clocks
from golden_model.pairs.packs import pack
from golden_model.pairs.search import search_of

COUNTS = (1, 2, 4, 8, 16)


@dataclass
class MacroClocks:
    """Clocks of a picture on some macros; see the head of this file. converting : of `rounds`, without the rest."""

    rounds: float = 0
    no_waiting: float = 0
    one_window: float = 0
    converting: float = 0


def macro_clocks(graph: Graph, images: np.ndarray) -> dict[int, MacroClocks]:
    """By number of macros, of a graph of one macro; means of uint8 images (B, C, H, W)."""
    machines = {count: replace(graph.hardware, macros=count) for count in COUNTS}
    found = {count: MacroClocks(*_elements(graph, count)) for count in COUNTS}
    for step in PairRunner(graph).steps(images):
        _add_step(found, machines, step)
    return found


def _elements(graph: Graph, count: int) -> tuple[float, float, float]:
    """Clocks of the steps without crossbars, three times as in `MacroClocks`."""
    several = with_settings(graph, hardware=replace(graph.hardware, macros=count))
    together, alone = (sum(step.cycles or 0 for step in lower(one).steps) for one in (several, graph))
    return together, together, alone


def _add_step(found: dict[int, MacroClocks], machines: dict[int, HardwareConfig], step: Step) -> None:
    """A crossbar step."""
    layer, packing = step.layer, pack(step.prepared)
    search = search_of(step.prepared.registers, packing.hardware)
    kernel = layer.channels, layer.kernel_height, layer.kernel_width
    beats = timing.beats(packing.hardware, kernel, layer.outputs, build_clocks(packing))

    def clocks(rounds: np.ndarray, beats: timing.Beats) -> float:
        return float(step_clocks(packing, step.windows, search, rounds, beats).step.mean())

    def around(rounds: np.ndarray) -> float:
        """Tables, loading, draining: the clocks of beats that convert nothing."""
        first = max(beats.load, beats.ready)
        return first + (len(rounds) - 1) * max(beats.load, beats.drain) + beats.drain

    alone = timing.rounds(layer.out_height, layer.out_width, layer.pool, 1)
    one, converting, constant = clocks(alone, beats), clocks(alone, timing.NOTHING), timing.c_layer(packing.hardware)
    for count, machine in machines.items():
        abreast = timing.abreast(machine, layer.pool * layer.stride, last=layer.last)
        rounds = timing.rounds(layer.out_height, layer.out_width, layer.pool, abreast)
        total = found[count]
        total.rounds += constant + clocks(rounds, beats)
        total.no_waiting += constant + max(around(rounds), converting / abreast + around(rounds[:1]))
        total.one_window += constant + max(around(alone), one / count)
        total.converting += clocks(rounds, timing.NOTHING)


def print_table(found: dict[int, MacroClocks], title: str) -> None:
    """A row per number of macros."""
    one = found[1]
    columns = [("macros", lambda row: str(row[0]))]
    for name in ("rounds", "no_waiting", "one_window"):
        columns += [
            (name.replace("_", " "), lambda row, name=name: f"{getattr(row[1], name):,.0f}"),
            ("×", lambda row, name=name: f"{getattr(one, name) / getattr(row[1], name):.2f}"),
        ]
    columns.append(("converting", lambda row: f"{row[1].converting / row[1].rounds:.1%}"))
    results_console().print(table_of(title, columns, found.items()))


@command
def app(
    network: Annotated[Path, typer.Argument(help="Deployment image (a directory) or file of a graph.")],
    images: Annotated[Path, typer.Option(help="Pictures as .npz, uint8 (B, C, H, W).")],
    count: Annotated[int, typer.Option(min=1, help="Pictures to average over.")] = 4,
    hardware: Preset = "cifar-pairs",
    json_file: Json = None,
) -> None:
    """Clocks of one network on several macros side by side."""
    machine = read_hardware(hardware)
    if not machine.pairs or machine.macros > 1:
        raise ValueError(f"--hardware {hardware}: must be a pair machine of one macro")
    graph = with_settings(load_network(network)[0], hardware=machine)
    found = macro_clocks(graph, load_images(images, count))
    if json_file is not None:
        write_json(json_file, {str(macros): vars(one) for macros, one in found.items()})
    print_table(found, graph.name)


if __name__ == "__main__":
    app()
