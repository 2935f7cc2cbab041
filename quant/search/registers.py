"""Registers of dynamic activation precision of a trained network, as a file beside its graph (ReDy; system.md §6).

    python -m quant.reproduce.redy --graph DIR/network.graph --data FILE --registers DIR/redy.json

`choose` searches them for the machine that skips slices of zeros (redy.py), on training images, and confirms
the accuracy on training images that the search did not see; `write` and `load` keep them, bound to the graph file by
its sha256. Layers without low bits to drop have no registers: on that machine their unit would earn nothing, so it
stays off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from golden_model.cost import machines
from golden_model.cost.components import ComponentTable
from golden_model.cost.energy import energy
from golden_model.cost.work import QUANTITIES, Work, dynamic_precision_events
from golden_model.cost.work import stages as network_stages
from golden_model.crossbar import redy
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.files import file_hash, read_json, write_json
from golden_model.graph.network import Graph
from golden_model.graph.settings import on_machine, with_settings
from golden_model.trq import AdcRegisters
from quant.data import sets as datasets
from quant.search import redy as redy_search
from quant.search.redy import LOSSLESS, Check, Scores

SCHEMA, VERSION = "ohmloom-redy", 1
#: Name of the file beside network.graph.
FILE_NAME = "redy.json"
#: Images whose events are counted to compare group sizes.
_COUNTED = 8

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Registers:
    """Dynamic precision of a graph.

    layers : name of a crossbar node -> registers; others have no unit. group_segments : segments per group.
    about : how they were chosen and what they do, JSON-able.
    """

    group_segments: int
    layers: Mapping[str, DynamicPrecision]
    about: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, graph: Graph) -> Graph:
        """The graph with these registers and the group size; converters stay as they are."""
        hardware = graph.hardware
        if hardware.segments_per_group != self.group_segments:
            hardware = replace(hardware, group_segments=self.group_segments)
        return with_settings(
            graph,
            hardware=hardware,
            dynamic={node.name: self.layers.get(node.name) for node in graph.crossbars},
            registers={node.name: node.layers[0].registers for node in graph.crossbars},
            counts_per_lsb={node.name: node.layers[0].counts_per_lsb for node in graph.crossbars},
        )


# ---- the file -----------------------------------------------------------------------------------
def write(path: Path, registers: Registers, graph_path: Path) -> None:
    """`registers` of the graph in `graph_path` as a JSON file."""
    content = {
        "schema": SCHEMA,
        "version": VERSION,
        "graph_sha256": file_hash(graph_path),
        "group_segments": registers.group_segments,
        "layers": {name: asdict(one) for name, one in registers.layers.items()},
        "about": dict(registers.about),
    }
    write_json(path, content)


def load(path: Path, graph_path: Path, graph: Graph) -> Registers:
    """Registers of the graph that was loaded from `graph_path`.

    ValueError with one sentence for a file that is missing or broken, of another graph, or with unknown layers or
    registers that the hardware does not have.
    """
    content = read_json(path, "`python -m quant.reproduce.redy --registers FILE` writes it")
    if content.get("schema") != SCHEMA or content.get("version") != VERSION:
        raise ValueError(
            f"{path}: schema and version must be {SCHEMA!r}, {VERSION}, got {content.get('schema')!r}, "
            f"{content.get('version')!r}"
        )
    if content.get("graph_sha256") != file_hash(graph_path):
        raise ValueError(f"{path} was chosen for another network than {graph_path}, their sha256 differ")
    listed, names = content.get("layers"), {node.name for node in graph.crossbars}
    if not isinstance(listed, dict) or not isinstance(content.get("about"), dict):
        raise ValueError(f"{path}: layers and about must be JSON objects")
    layers = {}
    for name, values in listed.items():
        if name not in names:
            raise ValueError(f"{path}: the network has no crossbar layer {name!r}")
        if not isinstance(values, dict) or set(values) != {"l_max", "tau_sq"}:
            raise ValueError(f"{path}: layer {name} must have l_max and tau_sq, got {values!r}")
        layers[name] = DynamicPrecision(**values)
        try:
            redy.check(layers[name])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: layer {name}: {error}") from None
    group = content.get("group_segments")
    if isinstance(group, bool) or not isinstance(group, int) or not 1 <= group <= 65536:
        raise ValueError(f"{path}: group_segments must be an integer in 1..65536, got {group!r}")
    return Registers(group, layers, content["about"])


# ---- the choice ---------------------------------------------------------------------------------
def with_unit(graph: Graph, scores: Mapping[str, Scores], table: ComponentTable) -> dict[str, Scores]:
    """The same scores with the energy of the unit, for candidates that need it: all but the first, lossless one."""
    on = with_settings(graph, dynamic={n.name: DynamicPrecision(l_max=1, tau_sq=1) for n in graph.crossbars})
    events = dynamic_precision_events(on)
    made = {}
    for index, stage in enumerate(network_stages(on)):
        work = Work(stage.name, {}, {name: float(values[index]) for name, values in events.items()})
        spent = sum(c.energy_pj * QUANTITIES[c.quantity].count(work, on.hardware) for c in table.components)
        one = scores[stage.name]
        made[stage.name] = replace(one, energy=one.energy + spent * np.array([s != LOSSLESS for s in one.settings]))
    return made


def skipping(graph: Graph) -> Graph:
    """The best machine without ReDy that stores nothing: slices of zeros skipped, search bounded by active rows."""
    bounded = AdcRegisters(mode="bounded", n_r2=graph.hardware.adc_bits, column_bound_bits=0)
    return with_settings(graph, registers={n.name: bounded for n in graph.crossbars}, skip_zero_slices=True)


def picojoules(graph: Graph, images: np.ndarray, table: ComponentTable, threads: int | None) -> float:
    """Energy of one image on `skipping`."""
    one = machines.counted("", skipping(graph), images, threads=threads)
    return energy(one, table).total_pj


def choose(
    graph: Graph,
    dataset: datasets.ImageSet,
    *,
    groups: Sequence[int],
    budget: float,
    tolerance: float,
    check_images: int,
    confirm_images: int,
    table: ComponentTable,
    threads: int | None = None,
    tell: Tell = lambda what, done, total: None,
) -> Registers:
    """Registers for the group size that needs the least energy; all other converters are taken as lossless.

    budget : largest squared error of the logits over their mean square. tolerance : accuracy (a share) that may be
    lost, on the images that the search sees and on those that confirm it. check_images, confirm_images : training
    images of either kind, in the ratio of the two if there are fewer.

    ValueError if no low bits can be dropped, or if the images that confirm say otherwise.
    """
    parts = datasets.apart(dataset, check_images + confirm_images)
    count = max(1, len(parts.check_images) * check_images // (check_images + confirm_images))
    seen_x, seen_y = np.array(parts.check_images[:count]), parts.check_labels[:count]
    new_x, new_y = np.array(parts.check_images[count:]), parts.check_labels[count:]
    if not len(new_x):
        raise ValueError(f"{dataset.source}: too few images to check and to confirm a choice")
    plain = on_machine(graph, graph.hardware)
    samples = redy_search.collect(plain, parts.calibration, progress=lambda done, all_: tell("windows", done, all_))
    without = picojoules(plain, seen_x[:_COUNTED], table, threads)
    found: list[tuple[float, Registers]] = []
    compared: dict[str, Any] = {}
    for group in groups:
        here = Registers(group, {}).apply(plain)
        words = f"groups of {group * graph.hardware.ou_rows} rows"
        scores = redy_search.score_layers(
            here, samples, table=table, skip_zero_slices=True,
            progress=lambda done, all_, w=words: tell(f"{w}: scores", done, all_),
        )  # fmt: skip
        scores = with_unit(here, scores, table)
        check = Check.of(here, seen_x, seen_y, threads)
        sensitivity = check.sensitivities(
            redy_search.lossless(scores), scores, min(48, count),
            lambda done, all_, w=words: tell(f"{w}: sensitivity of layers", done, all_),
        )  # fmt: skip
        tell(f"{words}: checks", 0, 0)
        settings, price, made = redy_search.search(check.measure, scores, sensitivity, budget, tolerance)
        layers = {name: one.setting for name, one in settings.items() if one.setting != LOSSLESS}
        registers = Registers(group, layers)
        spent = picojoules(registers.apply(plain), seen_x[:_COUNTED], table, threads)
        compared[str(group)] = {
            "rows": group * graph.hardware.ou_rows, "picojoules": spent, "saved": 1 - spent / without,
            "price": price, "check": made,
        }  # fmt: skip
        if layers:
            found.append((spent, registers))
    if not found:
        raise ValueError(
            f"no low bits can be dropped with a logit error up to {budget:g} and {100 * tolerance:g} points of accuracy"
        )
    best = min(found, key=lambda one: one[0])[1]
    tell("confirming", 0, 0)
    fresh = Check.of(best.apply(plain), new_x, new_y, threads)
    confirmed = fresh.compare(best.apply(fresh.graph))
    lost = confirmed["exact_accuracy"] - confirmed["accuracy"]
    if lost > tolerance:
        raise ValueError(
            f"{100 * lost:.2f} points of accuracy are lost on {len(new_x)} training images that the choice did not see,"
            f" more than {100 * tolerance:g}: give a smaller logit error"
        )
    about = {
        "network": graph.name,
        "data": {"name": Path(dataset.source).name, "sha256": dataset.sha256},
        "table": table.name,
        "budget": budget,
        "tolerance": tolerance,
        "calibration_images": len(parts.calibration),
        "check_images": len(seen_x),
        "without_picojoules": without,
        "counted_images": min(_COUNTED, len(seen_x)),
        "groups": compared,
        "confirmed": {"images": len(new_x), **confirmed},
    }
    return replace(best, about=about)
