"""Lossless A/D searches on a network, beside the entropy floor (*ours*; system.md §13).

    python -m quant.reproduce.search --network resnet20 --weights FILE --data DIR
    python -m quant.reproduce.search --graph FILE --data DIR

Uniform conversion, twin range, bounded search and optimal trees, all of which give the count itself, for operation
units of 9 rows and for 128 rows, on machines with and without zero-slice skipping. Trees are made from training
images, everything is measured on other ones. Operations follow exactly from joint counts
(golden_model.searches.joint); clocks are counted on a few of the test images (golden_model.searches.lanes), where the
golden model runs one search and must give the uniform converter's logits and the very same events: exit status 1 if
not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import typer
from rich.progress import Progress as Bar
from rich.table import Table

from golden_model.command import console, reports_errors, results_console
from golden_model.config import ISAAC, PAPER, HardwareConfig
from golden_model.cost import components, gathered
from golden_model.cost.energy import EnergyReport, energy
from golden_model.cost.work import Machine
from golden_model.engines.run_network import GraphRunner
from golden_model.events import Events
from golden_model.files import write_atomically, write_json
from golden_model.graph.network import Graph
from golden_model.graph.settings import lossless_uniform, with_settings
from golden_model.image import archive as graph_file
from golden_model.registers import COUNTER_NAMES
from golden_model.searches import choose as searches
from golden_model.searches import lanes
from golden_model.searches.joint import JointCounts, graph_joint_counts
from golden_model.trq import AdcRegisters, ColumnBoundBits
from quant.capture.capture import from_torch
from quant.data import sets as datasets
from quant.networks import zoo as networks
from quant.networks.weights import load_weights

MACHINES: dict[int, HardwareConfig] = {9: PAPER, 128: ISAAC}
SKIPPING = {False: "every slice", True: "zero slices skipped"}
#: Operations may be at most this much above the entropy of what the controller knows.
TARGET = 1.15

Registers = dict[str, AdcRegisters]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Search:
    """A row of the tables. known : what its controller knows of a conversion, as `searches.entropy_floor` takes it.

    make : registers by layer from training counts, the machine and whether zero slices are skipped.
    """

    words: str
    known: ColumnBoundBits | None
    make: Callable[[Mapping[str, JointCounts], HardwareConfig, bool], Registers]


def _trees(known: ColumnBoundBits | None, shared: bool = False) -> Any:
    return lambda counts, hardware, skip: searches.trees(
        counts, hardware, column_bound_bits=known, shared=shared, skip_zero_slices=skip
    )


def _bounded(known: ColumnBoundBits) -> Any:
    return lambda counts, hardware, skip: searches.bounded(counts, hardware, known)


def _twin(known: ColumnBoundBits | None, shared: bool) -> Any:
    return lambda counts, hardware, skip: searches.twin(
        counts, hardware, column_bound_bits=known, shared=shared, skip_zero_slices=skip
    )


SEARCHES: dict[str, Search] = {
    "uniform": Search("uniform", None, lambda counts, hardware, skip: searches.uniform(counts, hardware)),
    "twin shared": Search("twin range, best lossless, one for all layers", None, _twin(None, True)),
    "twin": Search("twin range, best lossless, per layer", None, _twin(None, False)),
    "tree shared": Search("optimal tree, one for all layers", None, _trees(None, True)),
    "tree": Search("optimal tree, per layer", None, _trees(None)),
    "twin k": Search("twin range, bounded by k, per layer", 0, _twin(0, False)),
    "bounded k": Search("bounded by k", 0, _bounded(0)),
    "trees k": Search("k, optimal tree per bound", 0, _trees(0)),
    "low first": Search(
        "k, low counts first", 0, lambda counts, hardware, skip: searches.low_first(counts, hardware)
    ),
    "bounded 1": Search("bounded by k and empty columns (1 bit)", 1, _bounded(1)),
    "trees 1": Search("k and empty columns, optimal tree per bound", 1, _trees(1)),
    "bounded full": Search("bounded by min(k, u)", "full", _bounded("full")),
    "trees full shared": Search("min(k, u), one set of trees for all layers", "full", _trees("full", True)),
    "trees full": Search("min(k, u), optimal tree per bound", "full", _trees("full")),
}  # fmt: skip
#: Searches of the machine that gathers active word lines; all but the first know how many rows are on.
GATHERED: dict[str, tuple[str, Callable[[Mapping[str, JointCounts], HardwareConfig], Registers]]] = {
    "uniform": ("uniform", searches.uniform),
    "bounded": ("bounded by the rows on", searches.bounded),
    "low first": ("low counts first", searches.low_first),
    "trees": (
        "rows on, optimal tree per bound",
        lambda counts, hardware: searches.trees(counts, hardware, column_bound_bits=0),
    ),
}
#: What the energy of a search is made of (`golden_model.cost.work.QUANTITIES`).
PRICED = ("ad_operations", "column_bound_bits_read", "held_bound_bits", "population_counts", "tree_bits_read")
#: The search that the golden model runs as a check.
CHECKED = "trees full"
FLOORS: dict[str, Any] = {"nothing": None, "k": 0, "k and empty columns": 1, "min(k, u)": "full", "k and u": "both"}


# ---- measurements -------------------------------------------------------------------------------
def _energy(graph: Graph, registers: Registers, spent: lanes.GraphSpent, held: bool) -> EnergyReport:
    """Energy of an image in what differs between searches: converters (group "ADC") and knowledge ("Metadata")."""
    table = components.load_table()
    parts = tuple(c for c in table.components if c.quantity in PRICED)
    events = np.zeros((len(graph.crossbars), len(COUNTER_NAMES)))
    for name in ("operations", "ou_activations", "input_bits_streamed"):
        events[:, COUNTER_NAMES.index("ad_operations" if name == "operations" else name)] = getattr(spent, name)
    # Means of a few images: rounded, because counters are integers.
    counted = Events(np.rint(events).astype(np.int64))
    extra = searches.metadata_events(with_settings(graph, registers=registers), counted, held=held)
    return energy(Machine(graph, events, extra=extra), replace(table, components=parts))


def _traced(name: str | None) -> list[str]:
    """Keys of the searches whose words contain `name`; ValueError if there is none."""
    found = [] if name is None else [key for key, one in SEARCHES.items() if name.lower() in one.words.lower()]
    if name is not None and not found:
        raise ValueError(f"--trace {name}: there are {'; '.join(one.words for one in SEARCHES.values())}")
    return found


def measure_gathered(
    graph: Graph, training: np.ndarray, test: np.ndarray, threads: int | None = None
) -> dict[str, Any]:
    """Operations of gathered OUs (golden_model.cost.gathered) beside the entropy of a count below the rows on."""
    trained = gathered.seen(graph, training, threads=threads)
    seen = gathered.seen(graph, test, threads=threads)
    images, conversions = len(test), sum(part.conversions() for part in seen.values())
    floor = float(searches.entropy_floor(seen, 0).sum())
    found: dict[str, Any] = {}
    for key, (_, make) in GATHERED.items():
        spent = int(searches.expected_operations(seen, make(trained, graph.hardware), graph.hardware).sum())
        found[key] = {
            "operations_per_image": spent / images,
            "operations_per_conversion": spent / conversions,
            "over_floor": spent / floor if floor else None,
        }
    return {
        "conversions_per_image": conversions / images,
        "floor_per_conversion": floor / conversions,
        "searches": found,
    }


def measure(graph: Graph, training: np.ndarray, test: np.ndarray, clock_images: int, **how: Any) -> dict[str, Any]:
    """Everything about one machine, JSON-able. training, test : uint8 (B, C, H, W).

    how : threads, tell and trace as for `reproduce`.
    """
    threads, tell, traced = how.get("threads"), how.get("tell") or (lambda what: None), _traced(how.get("trace"))
    hardware, count = graph.hardware, len(test)
    tell("counts of training images")
    trained = graph_joint_counts(graph, training, threads=threads)
    tell("counts of test images")
    seen = graph_joint_counts(graph, test, threads=threads)
    conversions = {skip: sum(c.conversions(skip) for c in seen.values()) / count for skip in SKIPPING}
    names = list(seen)

    floors: dict[str, Any] = {}
    for words, known in FLOORS.items():
        floors[words] = {}
        for skip, where in SKIPPING.items():
            bits = searches.entropy_floor(seen, known, skip_zero_slices=skip)
            best = searches.best_operations(seen, known, skip_zero_slices=skip)
            floors[words][where] = {
                "operations_per_image": bits.sum() / count,
                "operations_per_conversion": bits.sum() / count / conversions[skip],
                "best_trees_per_conversion": best.sum() / count / conversions[skip],
                "layers": dict(zip(names, (bits / count).tolist(), strict=True)),
            }

    settings = {(key, skip): one.make(trained, hardware, skip) for key, one in SEARCHES.items() for skip in SKIPPING}
    clocks: dict[tuple[str, bool | None], lanes.GraphSpent] = {}
    for skip, where in SKIPPING.items():
        tell(f"clocks, {where}")
        # Most settings do not depend on skipping: those are measured both ways at once.
        same = {k: settings[k, skip] for k in SEARCHES if settings[k, False] == settings[k, True] and not skip}
        other = {k: settings[k, skip] for k in SEARCHES if settings[k, False] != settings[k, True]}
        for chosen, ways in ((same, tuple(SKIPPING)), (other, (skip,))):
            if chosen:
                clocks |= lanes.graph_spent(
                    graph, test[:clock_images], chosen, skip_zero_slices=ways, threads=threads
                )  # fmt: skip

    found: dict[str, Any] = {}
    traces: dict[str, list[str]] = {}
    for key, one in SEARCHES.items():
        found[key] = {}
        for skip, where in SKIPPING.items():
            registers, spent = settings[key, skip], clocks[key, skip]
            operations = searches.expected_operations(seen, registers, hardware, skip_zero_slices=skip)
            floor = floors[_floor_of(one.known)][where]["operations_per_image"]
            stored = searches.stored_bits(with_settings(graph, registers=registers))
            read, held = (_energy(graph, registers, spent, way) for way in (False, True))
            if key in traced:
                traces[f"{one.words}, {where}, u read each time"] = read.trace()
                traces[f"{one.words}, {where}, u held"] = held.trace()
            found[key][where] = {
                "operations_per_image": operations.sum() / count,
                "operations_per_conversion": operations.sum() / count / conversions[skip],
                "over_floor": operations.sum() / count / floor if floor else None,
                "layers": dict(zip(names, (operations / count).tolist(), strict=True)),
                "clocks_lock_step": float(spent.lock_step.sum()),
                "clocks_decoupled": float(spent.decoupled.sum()),
                "column_bound_bits": int(stored["column_bounds"].sum()),
                "tree_bits": int(stored["trees"].sum()),
                "cells": int(stored["cells"].sum()),
                "held_register_bits": int(searches.held_register_bits(with_settings(graph, registers=registers)).sum()),
                "converter_uj": read.by_group["ADC"] / 1e6,
                "metadata_uj": read.by_group["Metadata"] / 1e6,
                "metadata_held_uj": held.by_group["Metadata"] / 1e6,
            }
    tell("gathered word lines")
    rows_on = measure_gathered(graph, training, test, threads)
    tell("check in the golden model")
    return {
        "rows": hardware.ou_rows,
        "adc_bits": hardware.adc_bits,
        "conversions_per_image": {where: conversions[skip] for skip, where in SKIPPING.items()},
        "searches": found,
        "floors": floors,
        "gathered": rows_on,
        "check": check(graph, settings[CHECKED, True], test[:clock_images], clocks[CHECKED, True], threads),
        **({"trace": traces} if traces else {}),
    }


def _floor_of(known: ColumnBoundBits | None) -> str:
    return next(words for words, value in FLOORS.items() if value == known)


def check(
    graph: Graph, registers: Registers, images: np.ndarray, spent: lanes.GraphSpent, threads: int | None
) -> dict[str, Any]:
    """The golden model on a search, beside the uniform converter and the clocks that were counted apart."""
    expected, _ = GraphRunner(graph, threads=threads).run(images)
    searching = with_settings(graph, registers=registers, skip_zero_slices=True)
    logits, events = GraphRunner(searching, threads=threads).run(images)
    total = events.counts.sum(axis=0)
    pairs = {"ad_operations": spent.operations, "cycles": spent.lock_step, "ou_activations": spent.ou_activations}
    return {
        "search": CHECKED,
        "images": len(images),
        "logits_equal": bool((logits == expected).all()),
        "events_equal": all(
            np.array_equal(np.rint(values * len(images)), total[:, COUNTER_NAMES.index(name)])
            for name, values in pairs.items()
        ),
    }


# ---- what people see ----------------------------------------------------------------------------
def tables(result: dict[str, Any]) -> list[Table]:
    """Per machine: operations beside the floor, and clocks, metadata and energy."""
    made = []
    for rows, part in result["machines"].items():
        where = f"{result['network']}, {rows} rows, {result['images']} test images"
        n = part["conversions_per_image"]
        a = Table(
            "search", *(h for words in SKIPPING.values() for h in (words, "x floor")), "million an image, skipped",
            title=f"A/D operations per conversion, all lossless: {where}",
        )  # fmt: skip
        for key, one in SEARCHES.items():
            cells = []
            for words in SKIPPING.values():
                mine = part["searches"][key][words]
                over = mine["over_floor"]
                cells += [f"{mine['operations_per_conversion']:.3f}", "-" if over is None else f"{over:.3f}"]
            a.add_row(one.words, *cells, f"{part['searches'][key][SKIPPING[True]]['operations_per_image'] / 1e6:.1f}")
        a.add_section()
        for words, floor in part["floors"].items():
            cells = []
            for skipping in SKIPPING.values():
                cells += [f"{floor[skipping]['operations_per_conversion']:.3f}", ""]
            millions = floor[SKIPPING[True]]["operations_per_image"] / 1e6
            a.add_row(f"entropy floor, {words} known", *cells, f"{millions:.1f}")
        a.caption = (
            "Conversions an image: " + ", ".join(f"{n[w] / 1e6:.1f} million ({w})" for w in SKIPPING.values()) + ". "
            "x floor: over the entropy of what this search's controller knows of a conversion and its layer."
        )
        b = Table(
            "search", "clocks", "decoupled", "clocks, skipped", "decoupled, skipped", "u, of cells", "trees, kbit",
            "A/D, uJ", "metadata, uJ", "u held, uJ", "A/D + least, uJ",
            title=f"Clocks (million an image), metadata, energy: {where}",
        )  # fmt: skip
        for key, one in SEARCHES.items():
            both = [part["searches"][key][words] for words in SKIPPING.values()]
            last = both[-1]
            energies = [last[w] for w in ("converter_uj", "metadata_uj", "metadata_held_uj")]
            b.add_row(
                one.words,
                *(f"{x[w] / 1e6:.2f}" for x in both for w in ("clocks_lock_step", "clocks_decoupled")),
                f"{100 * last['column_bound_bits'] / max(1, last['cells']):.0f} %",
                f"{last['tree_bits'] / 1e3:.1f}",
                *(f"{x:.4g}" for x in (*energies, energies[0] + min(energies[1:]))),
            )
        b.caption = (
            f"Clocks and energy on {result['clock_images']} image(s); skipped: zero slices, also for the energy; table "
            f"{components.DEFAULT_TABLE}. Lock step: an OU lasts as long as its slowest lane. Decoupled: lanes wait "
            "for each other at the end of a segment only (ideal queues). Metadata: population counts, nodes of trees, "
            "column bounds read at every OU activation; u held: once per window, then from registers."
        )
        made += [a, b, _gathered_table(part["gathered"], where)]
    return made


def _gathered_table(part: dict[str, Any], where: str) -> Table:
    made = Table(
        "search", "per conversion", "x floor", "million an image",
        title=f"A/D operations with gathered word lines, all lossless: {where}",
    )  # fmt: skip
    for key, one in part["searches"].items():
        made.add_row(
            GATHERED[key][0],
            f"{one['operations_per_conversion']:.3f}",
            "-" if one["over_floor"] is None else f"{one['over_floor']:.3f}",
            f"{one['operations_per_image'] / 1e6:.1f}",
        )
    n, floor = part["conversions_per_image"], part["floor_per_conversion"]
    made.add_section()
    made.add_row("entropy floor, rows on known", f"{floor:.3f}", "", f"{floor * n / 1e6:.1f}")
    made.caption = f"Conversions an image: {n / 1e6:.1f} million. Slices of zeros form no OU."
    return made


def picture(result: dict[str, Any], path: Path) -> None:
    """Operations of every search beside its entropy floor, one row per machine, one column per way of skipping."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    machines = result["machines"]
    figure, axes = pyplot.subplots(len(machines), 2, figsize=(15, 4.8 * len(machines)), squeeze=False)
    for row, (rows, part) in zip(axes, machines.items(), strict=True):
        for axis, where in zip(row, SKIPPING.values(), strict=True):
            keys = list(SEARCHES)
            spent = [part["searches"][key][where]["operations_per_conversion"] for key in keys]
            floor = [part["floors"][_floor_of(SEARCHES[k].known)][where]["operations_per_conversion"] for k in keys]
            axis.barh(range(len(keys)), spent, color="C0", label="operations")
            axis.barh(range(len(keys)), floor, color="C1", height=0.35, label="entropy of what is known")
            axis.set_yticks(range(len(keys)), [SEARCHES[key].words for key in keys], fontsize=7)
            axis.invert_yaxis()
            for y, value in enumerate(spent):
                axis.text(value, y, f" {value:.2f}", va="center", fontsize=7)
            axis.set(xlabel="A/D operations per conversion", title=f"{rows} rows, {where}")
            axis.legend(fontsize=8)
    figure.suptitle(f"{result['network']}: lossless A/D, {result['images']} test images")
    figure.tight_layout()
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight"))
    pyplot.close(figure)


# ---- command line -------------------------------------------------------------------------------
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _machines(text: str) -> list[int]:
    parts = [p.strip() for p in text.split(",")]
    for part in parts:
        if part not in map(str, MACHINES):
            raise ValueError(f"--rows must be among {', '.join(map(str, MACHINES))}, got {part!r}")
    return [rows for rows in MACHINES if str(rows) in parts]


def on_machine(graph: Graph, rows: int) -> Graph:
    """The same network on a machine of 9 or 128 rows, with lossless uniform converters and without skipping."""
    like = MACHINES[rows]
    size = {name: getattr(like, name) for name in ("rows", "cols", "ou_rows", "ou_cols", "adc_bits")}
    hardware = replace(graph.hardware, **size)
    registers = dict.fromkeys((node.name for node in graph.crossbars), lossless_uniform(hardware))
    return with_settings(graph, hardware=hardware, registers=registers, skip_zero_slices=False)


def reproduce(
    graphs: Callable[[int], Graph],
    name: str,
    dataset: datasets.ImageSet,
    *,
    machines: Sequence[int],
    calibration: int,
    images: int,
    clock_images: int,
    threads: int | None = None,
    trace: str | None = None,
    tell: Tell = lambda what: None,
) -> dict[str, Any]:
    """Everything that the command prints, JSON-able.

    graphs : the network for so many rows. trace : also every product behind the energy of the searches whose words
    contain this text.
    """
    _traced(trace)
    first = calibration if dataset.one_part else 0  # never measure on what trees were made from
    training, test = np.array(dataset.train_images[:calibration]), np.array(dataset.test_images[first : first + images])
    if not len(test):
        raise ValueError(f"{dataset.source}: no image is left to measure beside {calibration} for the trees")
    result: dict[str, Any] = {
        "network": name,
        "data": dataset.source,
        "calibration_images": len(training),
        "images": len(test),
        "clock_images": min(clock_images, len(test)),
        "target": TARGET,
        "machines": {},
    }
    for rows in machines:
        result["machines"][str(rows)] = measure(
            graphs(rows), training, test, clock_images, threads=threads, trace=trace,
            tell=lambda what, rows=rows: tell(f"{rows} rows: {what}"),
        )  # fmt: skip
    return result


@app.command()
@reports_errors
def main(
    data_path: Annotated[Path, typer.Option("--data", help="CIFAR-10 batches, idx files, pictures or an .npz file.")],
    network: Annotated[Optional[str], typer.Option(help=f"One of {', '.join(networks.READY)}.")] = None,  # noqa: UP045
    weights: Annotated[Optional[Path], typer.Option(help="Of --network: state dict, .npz or .safetensors.")] = None,  # noqa: UP045
    graph: Annotated[Optional[Path], typer.Option(help="A graph file instead of --network and --weights.")] = None,  # noqa: UP045
    rows: Annotated[str, typer.Option(help="Machines: operation units of 9 rows, 128 rows at once.")] = "9,128",
    calibration: Annotated[int, typer.Option(min=1, help="Training images that trees are made from.")] = 8,
    images: Annotated[int, typer.Option(min=1, help="Test images that operations are measured on.")] = 8,
    clock_images: Annotated[int, typer.Option(min=1, help="Of these, images for clocks, energy and the check.")] = 1,
    threads: Annotated[Optional[int], typer.Option(min=1, help="Default all cores.")] = None,  # noqa: UP045
    trace: Annotated[Optional[str], typer.Option(help="Also print events x row for searches of this text.")] = None,  # noqa: UP045
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Also write the results here.")] = None,  # noqa: UP045
    picture_file: Annotated[Optional[Path], typer.Option("--picture", help="Also draw the operations (.png).")] = None,  # noqa: UP045
) -> None:
    """Operations, clocks and metadata of lossless A/D searches, beside uniform, twin range and the entropy floor."""
    machines = _machines(rows)
    _traced(trace)
    if (graph is None) == (network is None):
        raise ValueError("give either --network with --weights, or --graph")
    if network is not None and weights is None:
        raise ValueError("--weights is needed with --network")
    if graph is not None:
        loaded = graph_file.load(graph)
        name, shape = loaded.name, loaded.image.shape
        dataset = datasets.load(data_path, size=shape[1], channels=shape[0])
        graphs: Callable[[int], Graph] = lambda rows: on_machine(loaded, rows)  # noqa: E731
    else:
        assert network is not None
        assert weights is not None
        known = networks.ready(network)
        name, shape = network, known.shape
        dataset = datasets.load(data_path, size=shape[1], channels=shape[0])
        model = known.make(known.classes)
        load_weights(model, weights)
        graphs = lambda rows: from_torch(  # noqa: E731
            model, shape, MACHINES[rows], dataset.calibration(), normalisation=known.normalisation, name=name
        )
    if dataset.shape != shape:
        raise ValueError(f"{data_path}: images are {dataset.shape}, {name} takes {shape}")
    with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)
        result = reproduce(
            graphs,
            name,
            dataset,
            machines=machines,
            calibration=calibration,
            images=images,
            clock_images=clock_images,
            threads=threads,
            trace=trace,
            tell=lambda what: bar.update(task, description=what),
        )
    printed = results_console(180)
    for table in tables(result):
        printed.print(table)
        printed.print()
    for rows_text, part in result["machines"].items():
        for words, lines in part.get("trace", {}).items():
            printed.out(f"# {rows_text} rows: {words}", *lines, sep="\n", highlight=False)
    if json_file is not None:
        write_json(json_file, result)
    if picture_file is not None:
        picture(result, picture_file)
    for rows_text, part in result["machines"].items():
        made = part["check"]
        words = "equal" if made["logits_equal"] and made["events_equal"] else "NOT EQUAL"
        printed.print(
            f"{rows_text} rows: golden model, {made['search']}, {made['images']} images: logits and events {words}"
        )
    if not all(p["check"]["logits_equal"] and p["check"]["events_equal"] for p in result["machines"].values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
