"""The pair machine on a network, switch by switch: `python -m golden_model.pairs NETWORK --images FILE`.

NETWORK is a deployment image (a directory) or the file of a graph (golden_model.image.archive). Every figure is the
mean of one picture, clocks are those of one macro. Trees, twin ranges and the bits that early stop checks are chosen on
the first pictures, which are not measured. Exit status: 0 printed, 2 bad usage or bad input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from golden_model.command import Json, command, progress_bar, results_console, table_of
from golden_model.engines.pair_runner import PairRunner
from golden_model.engines.pair_stop_bits import choose_bits
from golden_model.engines.pair_switches import Measured, Switches, measure
from golden_model.engines.run_network import Progress
from golden_model.files import write_json
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from golden_model.image.inputs import load_images, load_network
from golden_model.pairs.early_stop import Condition, EarlyStop, Stopping
from golden_model.pairs.gather import MODES
from golden_model.pairs.search import bounded, counts_search, outward, uniform
from golden_model.registers import COUNTER_NAMES
from golden_model.searches import choose
from golden_model.searches.differences import calibrated_twin, optimal
from golden_model.trq import AdcRegisters

#: Mean squared error, in counts squared, that the lossy twin ranges may have.
LOSSY_ERRORS = (0.01, 0.1)
#: Ladder of what surrounds the conversions, each with what is above it.
PLUMBING: dict[str, dict[str, Any]] = {
    "windows in full, a value a clock": {
        "keeps": "nothing", "words": False, "layer_masks": False, "double_buffered": False,
    },
    "+ window register": {"keeps": "window"},
    "+ words of 32 bits": {"words": True},
    "+ masks per layer": {"layer_masks": True},
    "+ double-buffered windows": {"double_buffered": True},
    "+ line buffers": {"keeps": "lines"},
}  # fmt: skip


def search_switches(graph: Graph, counts: Mapping[str, np.ndarray]) -> dict[str, Switches]:
    """Searches of pairs on two halves, and of both counts on one, with as many converters.

    counts : of other pictures, by crossbar node, for trees and twin ranges.
    """
    hardware = graph.hardware
    bits = hardware.adc_bits

    def chosen(**options: Any) -> dict[str, Any]:
        return {name: optimal(found, hardware, **options) for name, found in counts.items()}

    deep = hardware.ideal_bits + 1
    pairs: dict[str, Any] = {
        "outward": outward(hardware),
        **{f"outward to {reach}, then halving": outward(hardware, reach) for reach in (1, 2)},
        "bounded": bounded(hardware),
        "optimal tree per k": chosen(),
        f"optimal tree per k, at most {deep} deep": chosen(max_depth=deep),
        "optimal tree for all k": chosen(shared=True),
        "uniform": uniform(hardware),
        "signed twin, lossless": {name: calibrated_twin(found, hardware) for name, found in counts.items()},
        "signed twin, lossless, both detections": {
            name: calibrated_twin(found, hardware, early_detection=False) for name, found in counts.items()
        },
    }
    for error in LOSSY_ERRORS:
        pairs[f"signed twin, error <= {error}"] = {
            name: calibrated_twin(found, hardware, error) for name, found in counts.items()
        }
    both = {
        "two conversions, low counts first": choose.low_first({"": None}, hardware)[""],
        "two conversions, bounded": AdcRegisters(mode="bounded", n_r2=bits),
        "two conversions, uniform": AdcRegisters(mode="uniform", n_r2=bits),
    }
    made = {name: Switches(search=search) for name, search in pairs.items()}
    for name, registers in both.items():
        made[name] = Switches(search=counts_search(name, registers, hardware), split="one")
    return made


def split_switches(graph: Graph) -> dict[str, Switches]:
    """How groups are shared out to halves."""
    plain = Switches(search=outward(graph.hardware))
    return {
        "one half (half the converters)": replace(plain, split="one"),
        "full packs in turn": replace(plain, split="packs"),
        "even packs in turn": replace(plain, split="packs", even_packs=True),
        "groups of every pack": replace(plain, split="groups"),
        "block columns": plain,
    }


def stop_switches(graph: Graph, chosen: Stopping) -> dict[str, Switches]:
    """Without and with early stop. chosen : with the bits that were chosen on other pictures."""
    plain = Switches(search=outward(graph.hardware))
    conditions: tuple[Condition, ...] = ("limit", "zero", "final")
    stops = [EarlyStop(bounds=b, condition=c) for b in ("stored", "segments") for c in conditions]
    alone = {node.name: EarlyStop() for node in graph.crossbars if len(node.inputs) == 1}
    return {
        "no early stop": plain,
        "stored bounds, limit, checks that pay": replace(plain, stop=chosen),
        "stored bounds, limit, no layer with a residual": replace(plain, stop=alone),
        **{f"{stop.bounds} bounds, {stop.condition}": replace(plain, stop=stop) for stop in stops},
    }


def plumbing_switches(graph: Graph) -> dict[str, Switches]:
    """The ladder of `PLUMBING`."""
    made, last = {}, Switches(search=outward(graph.hardware))
    for name, changes in PLUMBING.items():
        made[name] = last = replace(last, **changes)
    return made


# ---- results ------------------------------------------------------------------------------------
def as_dict(found: Measured) -> dict[str, Any]:
    """A configuration's figures, JSON-able, with those of every layer."""
    pairs = found.column_pairs
    return {
        "ou_activations": found.total("ou_activations"),
        "column_pairs": pairs,
        "ad_operations": found.total("ad_operations"),
        "operations_per_pair": found.total("ad_operations") / pairs if pairs else 0.0,
        "entropy_per_pair": found.entropy / pairs if pairs else 0.0,
        "clocks": {mode: found.network_clocks(mode) for mode in MODES},
        "busy": {mode: found.busy(mode) for mode in MODES},
        "converters": found.converters,
        "crossbar_pairs": int(found.pairs.sum()),
        "extra": {name: float(values.sum()) for name, values in found.extra.items()},
        "stored_bits": {name: float(values.sum()) for name, values in found.stored_bits.items()},
        "layers": {
            name: {
                **dict(zip(COUNTER_NAMES, found.events[i].tolist(), strict=True)),
                "clocks": {mode: float(values[i]) for mode, values in found.clocks.items()},
                "extra": {extra: float(values[i]) for extra, values in found.extra.items()},
            }
            for i, name in enumerate(found.stages)
        },
    }


def _over_entropy(one: Mapping[str, Any]) -> str:
    floor = one["entropy_per_pair"]
    return f"{one['operations_per_pair'] / floor:.3f}" if floor else "-"


def figures_table(title: str, found: Mapping[str, Measured], agree: Mapping[str, str]) -> Table:
    """One row for every configuration. agree : a last column, by configuration, may be empty."""
    rows = [as_dict(one) | {"name": name, "agree": agree.get(name)} for name, one in found.items()]
    columns: list[tuple[str, str | Callable[[Any], str]]] = [
        (title, "{name}"),
        ("OUs", "{ou_activations:,.0f}"),
        ("column pairs", "{column_pairs:,.0f}"),
        ("decisions", "{ad_operations:,.0f}"),
        ("per pair", "{operations_per_pair:.3f}"),
        ("x entropy", _over_entropy),
        *((f"clocks, {mode}", f"{{clocks[{mode}]:,.0f}}") for mode in MODES),
        ("converters", "{converters}"),
        ("crossbar pairs", "{crossbar_pairs}"),
    ]
    if agree:
        columns.append(("agree", "{agree}"))
    return table_of(f"one picture, mean of {next(iter(found.values())).images}", columns, rows, right=True)


def few_ones_rows(graph: Graph, images: np.ndarray) -> tuple[dict[str, Measured], dict[str, str]]:
    """Activations on levels with at most 1, 2, 3 ones, without training for it, and how many classes stay the same."""
    plain = Switches(search=outward(graph.hardware))
    unsigned = [node for node in graph.crossbars if not node.last and not node.encoding.low]
    found: dict[str, Measured] = {}
    agree: dict[str, str] = {}
    classes = PairRunner(graph).run(images).argmax(axis=1)
    for most in (8, 3, 2, 1):
        name = "as it is" if most == 8 else f"at most {most} {'one' if most == 1 else 'ones'}"
        ones = {node.name: min(most, node.encoding.ones or most) for node in unsigned}
        changed = with_settings(graph, activation_ones=ones)
        found[name] = measure(changed, images, {name: plain})[name]
        agree[name] = f"{(PairRunner(changed).run(images).argmax(axis=1) == classes).mean():.0%}"
    return found, agree


def measure_all(graph: Graph, pictures: np.ndarray, calibration: int, tell: Progress) -> dict[str, dict[str, Measured]]:
    """All tables but that of few ones, by title; the first `calibration` pictures choose, the others are measured."""
    first, others = pictures[:calibration], pictures[calibration:]
    seen = measure(graph, first, {"seen": Switches(search=outward(graph.hardware), split="one")})["seen"]
    tables = {
        "search": search_switches(graph, dict(zip(seen.stages, seen.counts, strict=True))),
        "halves": split_switches(graph),
        "early stop": stop_switches(graph, choose_bits(graph, first)),
        "around the conversions": plumbing_switches(graph),
    }
    every = {(title, name): switches for title, table in tables.items() for name, switches in table.items()}
    measured = measure(graph, others, every, progress=tell)
    return {title: {name: measured[title, name] for name in table} for title, table in tables.items()}


@command
def app(
    network: Annotated[Path, typer.Argument(help="Deployment image (a directory) or file of a graph.")],
    images: Annotated[Path, typer.Option(help="Pictures as .npz, uint8 (B, C, H, W).")],
    count: Annotated[int, typer.Option(min=1, help="Pictures to average over.")] = 16,
    calibration: Annotated[
        int, typer.Option(min=1, help="Pictures in front of those, to choose trees and checks with.")
    ] = 4,
    json_file: Json = None,
) -> None:
    """Operation units, decisions and clocks of one network on the pair machine, switch by switch."""
    console = results_console(220)
    graph, _ = load_network(network)
    pictures = load_images(images, calibration + count)
    if len(pictures) <= calibration:
        raise ValueError(f"--images {images}: more than {calibration} pictures are needed, got {len(pictures)}")
    with progress_bar() as tell:
        found = measure_all(graph, pictures, calibration, partial(tell, "pictures"))
    found["few ones"], agree = few_ones_rows(graph, pictures[calibration:])
    if json_file is not None:
        tables = {title: {name: as_dict(one) for name, one in rows.items()} for title, rows in found.items()}
        about = {"network": graph.name, "images": len(pictures) - calibration, "agree": agree}
        write_json(json_file, about | tables)
    for title, rows in found.items():
        console.print(figures_table(title, rows, agree if title == "few ones" else {}))


if __name__ == "__main__":
    app()
