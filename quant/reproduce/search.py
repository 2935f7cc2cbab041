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

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from golden_model.command import Json, command, progress_bar, table_of
from golden_model.config import HardwareConfig
from golden_model.cost import components
from golden_model.cost.energy import EnergyReport, energy
from golden_model.cost.work import Machine
from golden_model.engines.run_network import GraphRunner
from golden_model.events import Events
from golden_model.files import write_json
from golden_model.graph.network import Graph
from golden_model.graph.settings import lossless_registers, with_settings
from golden_model.registers import COUNTER_NAMES
from golden_model.searches import choose as searches
from golden_model.searches import lanes
from golden_model.searches.joint import JointCounts, gathered_counts, graph_joint_counts
from golden_model.trq import AdcRegisters, ColumnBoundBits
from quant.reproduce import study as shared
from quant.reproduce.study import MACHINES, Study, drawing

SKIPPING = {False: "every slice", True: "zero slices skipped"}
#: Operations may be at most this much above the entropy of what the controller knows.
TARGET = 1.15

Registers = dict[str, AdcRegisters]


@dataclass(frozen=True)
class Search:
    """A row of the tables. known : what its controller knows of a conversion, as `searches.entropy_floor` takes it.

    make : registers by layer from training counts, the machine and whether zero slices are skipped.
    """

    words: str
    known: ColumnBoundBits | None
    make: Callable[[Mapping[str, JointCounts], HardwareConfig, bool], Registers]


def _made(make: Callable[..., Registers], **options: Any) -> Callable[..., Registers]:
    """Registers of a search that depends on whether zero slices are skipped."""
    return lambda counts, hardware, skip: make(counts, hardware, skip_zero_slices=skip, **options)


def _either(make: Callable[..., Registers], *options: Any) -> Callable[..., Registers]:
    """Registers of a search that does not."""
    return lambda counts, hardware, skip: make(counts, hardware, *options)


_twin, _trees = partial(_made, searches.twin), partial(_made, searches.trees)
SEARCHES: dict[str, Search] = {
    "uniform": Search("uniform", None, _either(searches.uniform)),
    "twin shared": Search("twin range, best lossless, one for all layers", None, _twin(shared=True)),
    "twin": Search("twin range, best lossless, per layer", None, _twin()),
    "tree shared": Search("optimal tree, one for all layers", None, _trees(shared=True)),
    "tree": Search("optimal tree, per layer", None, _trees()),
    "twin k": Search("twin range, bounded by k, per layer", 0, _twin(column_bound_bits=0)),
    "bounded k": Search("bounded by k", 0, _either(searches.bounded, 0)),
    "trees k": Search("k, optimal tree per bound", 0, _trees(column_bound_bits=0)),
    "low first": Search("k, low counts first", 0, _either(searches.low_first)),
    "bounded 1": Search("bounded by k and empty columns (1 bit)", 1, _either(searches.bounded, 1)),
    "trees 1": Search("k and empty columns, optimal tree per bound", 1, _trees(column_bound_bits=1)),
    "bounded full": Search("bounded by min(k, u)", "full", _either(searches.bounded, "full")),
    "trees full shared": Search(
        "min(k, u), one set of trees for all layers", "full", _trees(column_bound_bits="full", shared=True)
    ),
    "trees full": Search("min(k, u), optimal tree per bound", "full", _trees(column_bound_bits="full")),
}
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
    """Operations of gathered OUs (golden_model.pairs) beside the entropy of a count below the rows on."""
    trained = gathered_counts(graph, training, threads=threads)
    seen = gathered_counts(graph, test, threads=threads)
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


def measure(
    study: Study, graph: Graph, training: np.ndarray, test: np.ndarray, clock_images: int, trace: str | None = None
) -> dict[str, Any]:
    """Everything about one machine, JSON-able.

    training, test : uint8 (B, C, H, W). clock_images : of the test images, for clocks and the check. trace : also every
    product behind the energy of the searches whose words contain this text.
    """
    threads, traced = study.threads, _traced(trace)

    def tell(what: str) -> None:
        study.tell(f"{graph.hardware.ou_rows} rows: {what}", 0, 0)

    hardware, count = graph.hardware, len(test)
    tell("counts of training images")
    trained = graph_joint_counts(graph, training, threads=threads)
    tell("counts of test images")
    seen = graph_joint_counts(graph, test, threads=threads)
    conversions = {skip: sum(c.conversions(skip) for c in seen.values()) / count for skip in SKIPPING}

    def shares(operations: np.ndarray, skip: bool) -> dict[str, Any]:
        """Of operations (layers,) of all test images."""
        spent = operations.sum() / count
        return {
            "operations_per_image": spent,
            "operations_per_conversion": spent / conversions[skip],
            "layers": dict(zip(seen, (operations / count).tolist(), strict=True)),
        }

    floors: dict[str, Any] = {words: {} for words in FLOORS}
    for words, known in FLOORS.items():
        for skip, where in SKIPPING.items():
            bits = searches.entropy_floor(seen, known, skip_zero_slices=skip)
            best = searches.best_operations(seen, known, skip_zero_slices=skip)
            trees = best.sum() / count / conversions[skip]
            floors[words][where] = {**shares(bits, skip), "best_trees_per_conversion": trees}

    settings = {(key, skip): one.make(trained, hardware, skip) for key, one in SEARCHES.items() for skip in SKIPPING}
    clocks: dict[tuple[str, bool | None], lanes.GraphSpent] = {}
    for skip, where in SKIPPING.items():
        tell(f"clocks, {where}")
        # Most settings do not depend on skipping: those are measured both ways at once.
        same = {k: settings[k, skip] for k in SEARCHES if settings[k, False] == settings[k, True] and not skip}
        other = {k: settings[k, skip] for k in SEARCHES if settings[k, False] != settings[k, True]}
        for chosen, ways in ((same, tuple(SKIPPING)), (other, (skip,))):
            if chosen:
                some = test[:clock_images]
                clocks |= lanes.graph_spent(graph, some, chosen, skip_zero_slices=ways, threads=threads)

    found: dict[str, Any] = {key: {} for key in SEARCHES}
    traces: dict[str, list[str]] = {}
    for key, one in SEARCHES.items():
        for skip, where in SKIPPING.items():
            registers, spent = settings[key, skip], clocks[key, skip]
            spends = shares(searches.expected_operations(seen, registers, hardware, skip_zero_slices=skip), skip)
            floor = floors[_floor_of(one.known)][where]["operations_per_image"]
            changed = with_settings(graph, registers=registers)
            stored = searches.stored_bits(changed)
            read, held = (_energy(graph, registers, spent, way) for way in (False, True))
            if key in traced:
                traces[f"{one.words}, {where}, u read each time"] = read.trace()
                traces[f"{one.words}, {where}, u held"] = held.trace()
            found[key][where] = {
                **spends,
                "over_floor": spends["operations_per_image"] / floor if floor else None,
                "clocks_lock_step": float(spent.lock_step.sum()),
                "clocks_decoupled": float(spent.decoupled.sum()),
                "column_bound_bits": int(stored["column_bounds"].sum()),
                "tree_bits": int(stored["trees"].sum()),
                "cells": int(stored["cells"].sum()),
                "held_register_bits": int(searches.held_register_bits(changed).sum()),
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
    """Per machine: operations beside the floor; clocks, metadata and energy; gathered word lines."""
    made = []
    for rows, part in result["machines"].items():
        where = f"{result['network']}, {rows} rows, {result['images']} test images"
        made += [
            _operations_table(part, where),
            _clocks_table(part, where, result["clock_images"]),
            _gathered_table(part["gathered"], where),
        ]
    return made


def _floor(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _operations_table(part: dict[str, Any], where: str) -> Table:
    """Records are (words, what was found by way of skipping)."""
    columns: list[Any] = [("search", lambda record: record[0])]
    for way in SKIPPING.values():
        columns += [
            (way, lambda record, way=way: f"{record[1][way]['operations_per_conversion']:.3f}"),
            ("x floor", lambda record, way=way: _floor(record[1][way]["over_floor"]) if len(record) == 2 else ""),
        ]
    skipped = SKIPPING[True]
    columns.append(
        ("million an image, skipped", lambda record: f"{record[1][skipped]['operations_per_image'] / 1e6:.1f}")
    )
    conversions = ", ".join(f"{n / 1e6:.1f} million ({way})" for way, n in part["conversions_per_image"].items())
    return table_of(
        f"A/D operations per conversion, all lossless: {where}",
        columns,
        [(one.words, part["searches"][key]) for key, one in SEARCHES.items()],
        [(f"entropy floor, {words} known", floor, "floor") for words, floor in part["floors"].items()],
        caption=f"Conversions an image: {conversions}. "
        "x floor: over the entropy of what this search's controller knows of a conversion and its layer.",
    )


def _clocks_table(part: dict[str, Any], where: str, images: int) -> Table:
    records = []
    for key, one in SEARCHES.items():
        every, last = (part["searches"][key][way] for way in SKIPPING.values())
        least = last["converter_uj"] + min(last["metadata_uj"], last["metadata_held_uj"])
        records.append({"words": one.words, "every": every, "least": least, **last})

    def millions(record: Mapping[str, Any], name: str) -> str:
        return f"{record[name] / 1e6:.2f}"

    return table_of(
        f"Clocks (million an image), metadata, energy: {where}",
        [
            ("search", "{words}"),
            ("clocks", lambda r: millions(r["every"], "clocks_lock_step")),
            ("decoupled", lambda r: millions(r["every"], "clocks_decoupled")),
            ("clocks, skipped", lambda r: millions(r, "clocks_lock_step")),
            ("decoupled, skipped", lambda r: millions(r, "clocks_decoupled")),
            ("u, of cells", lambda r: f"{100 * r['column_bound_bits'] / max(1, r['cells']):.0f} %"),
            ("trees, kbit", lambda r: f"{r['tree_bits'] / 1e3:.1f}"),
            ("A/D, uJ", "{converter_uj:.4g}"),
            ("metadata, uJ", "{metadata_uj:.4g}"),
            ("u held, uJ", "{metadata_held_uj:.4g}"),
            ("A/D + least, uJ", "{least:.4g}"),
        ],
        records,
        caption=f"Clocks and energy on {images} image(s); skipped: zero slices, also for the energy; table "
        f"{components.DEFAULT_TABLE}. Lock step: an OU lasts as long as its slowest lane. Decoupled: lanes wait "
        "for each other at the end of a segment only (ideal queues). Metadata: population counts, nodes of trees, "
        "column bounds read at every OU activation; u held: once per window, then from registers.",
    )


def _gathered_table(part: dict[str, Any], where: str) -> Table:
    n, floor = part["conversions_per_image"], part["floor_per_conversion"]
    limit = {"operations_per_conversion": floor, "operations_per_image": floor * n}
    return table_of(
        f"A/D operations with gathered word lines, all lossless: {where}",
        [
            ("search", "{words}"),
            ("per conversion", "{operations_per_conversion:.3f}"),
            ("x floor", lambda record: _floor(record["over_floor"]) if "over_floor" in record else ""),
            ("million an image", lambda record: f"{record['operations_per_image'] / 1e6:.1f}"),
        ],
        [{"words": GATHERED[key][0], **one} for key, one in part["searches"].items()],
        [{"words": "entropy floor, rows on known", **limit}],
        caption=f"Conversions an image: {n / 1e6:.1f} million. Slices of zeros form no OU.",
    )


def picture(result: dict[str, Any], path: Path) -> None:
    """Operations of every search beside its entropy floor, one row per machine, one column per way of skipping."""
    machines, keys = result["machines"], list(SEARCHES)
    title = f"{result['network']}: lossless A/D, {result['images']} test images"
    with drawing(path, title, len(machines), 2, (7.5, 4.8)) as axes:
        for row, (rows, part) in zip(axes, machines.items(), strict=True):
            for axis, where in zip(row, SKIPPING.values(), strict=True):
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


def report_check(machines: Mapping[str, Any]) -> bool:
    """Whether the golden model agrees on every machine; one line each."""
    agreed = True
    for rows, part in machines.items():
        made = part["check"]
        equal = made["logits_equal"] and made["events_equal"]
        words = "equal" if equal else "NOT EQUAL"
        print(f"{rows} rows: golden model, {made['search']}, {made['images']} images: logits and events {words}")
        agreed &= equal
    return agreed


# ---- command line -------------------------------------------------------------------------------
def on_machine(graph: Graph, rows: int) -> Graph:
    """The same network on a machine of 9 or 128 rows, with lossless uniform converters and without skipping."""
    like = MACHINES[rows]
    size = {name: getattr(like, name) for name in ("rows", "cols", "ou_rows", "ou_cols", "adc_bits")}
    hardware = replace(graph.hardware, **size)
    registers = dict.fromkeys((node.name for node in graph.crossbars), lossless_registers(hardware))
    return with_settings(graph, hardware=hardware, registers=registers, skip_zero_slices=False)


def reproduce(
    study: Study, machines: Iterable[int], calibration: int, images: int, clock_images: int, trace: str | None = None
) -> dict[str, Any]:
    """Everything that the command prints, JSON-able; arguments are the options."""
    dataset = study.dataset
    first = calibration if dataset.one_part else 0  # never measure on what trees were made from
    training, test = np.array(dataset.train_images[:calibration]), np.array(dataset.test_images[first : first + images])
    if not len(test):
        raise ValueError(f"{dataset.source}: no image is left to measure beside {calibration} for the trees")
    return {
        "network": study.name,
        "data": dataset.source,
        "calibration_images": len(training),
        "images": len(test),
        "clock_images": min(clock_images, len(test)),
        "target": TARGET,
        "machines": {
            str(rows): measure(
                study, on_machine(study.graph(MACHINES[rows]), rows), training, test, clock_images, trace
            )
            for rows in machines
        },
    }


@command
def app(
    data: shared.Data,
    network: shared.Network = None,
    weights: shared.Weights = None,
    graph: shared.GraphFile = None,
    rows: Annotated[str, typer.Option(help="Machines: operation units of 9 rows, 128 rows at once.")] = "9,128",
    calibration: Annotated[int, typer.Option(min=1, help="Training images that trees are made from.")] = 8,
    images: Annotated[int, typer.Option(min=1, help="Test images that operations are measured on.")] = 8,
    clock_images: Annotated[int, typer.Option(min=1, help="Of these, images for clocks, energy and the check.")] = 1,
    threads: shared.Threads = None,
    trace: Annotated[str | None, typer.Option(help="Also print events x row for searches of this text.")] = None,
    json_file: Json = None,
    picture_file: Annotated[Path | None, typer.Option("--picture", help="Also draw the operations (.png).")] = None,
) -> None:
    """Operations, clocks and metadata of lossless A/D searches, beside uniform, twin range and the entropy floor."""
    machines = shared.picked("--rows", rows, MACHINES)
    _traced(trace)
    with progress_bar() as tell:
        study = Study.open(data, network, weights, graph, threads=threads, tell=tell)
        result = reproduce(study, machines, calibration, images, clock_images, trace)
    shared.show(tables(result), 180)
    for number, part in result["machines"].items():
        for words, lines in part.get("trace", {}).items():
            print(f"# {number} rows: {words}", *lines, sep="\n")
    if json_file is not None:
        write_json(json_file, result)
    if picture_file is not None:
        picture(result, picture_file)
    if not report_check(result["machines"]):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
