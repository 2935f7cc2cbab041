"""The ladder of machines of quant.reproduce.bwq: baseline, rivals, and ours step by step (system.md §5, §8, §11, §13).

All A/D conversion is lossless, so every machine gives the logits of the network that it runs; those on which ReDy drops
low bits say so. Searches are chosen on training images, events are counted on test images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.cost import machines
from golden_model.cost.machines import Machine
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.run_network import GraphRunner, Progress
from golden_model.graph.network import Graph
from golden_model.graph.settings import on_machine, with_settings
from golden_model.searches import choose as searches
from golden_model.searches.joint import JointCounts, gathered_counts, graph_joint_counts
from golden_model.searches.lanes import graph_decoupled_cycles
from golden_model.trq import AdcRegisters, ColumnBoundBits
from quant.reference import accuracy
from quant.search import registers as redy_registers

OURS, LOSSY, SPARSE = "ours: ", "ours: lossy ReDy, ", "SRE-like"
#: What gathered machines are called: ours and the rival, each without and with lossy ReDy.
GATHERED, LOSSY_GATHERED = (f"{OURS}gathered", SPARSE), (f"{LOSSY}gathered", f"{SPARSE}, lossy ReDy")
#: What `machines.gathered` and `machines.with_window_reuse` add to a name.
DECOUPLED, REUSE = ", lanes decoupled", ", window reuse"

Tell = Callable[[str, int, int], None]
Choose = Callable[[dict[str, JointCounts], HardwareConfig], dict[str, AdcRegisters]]


# ---- searches of ours ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Step:
    """A lossless search for every layer, on a machine that skips zero slices.

    choose : counts of training images, hardware -> registers by layer. held : column bounds are read once per window
    (`searches.metadata_events`). decoupled : the machine is shown with decoupled lanes, too. lossy : with lossy ReDy,
    too.
    """

    name: str
    choose: Choose
    note: str
    held: bool = False
    decoupled: bool = False
    lossy: bool = False


def _bounded(bits: ColumnBoundBits) -> Choose:
    return lambda counts, hardware: searches.bounded(counts, hardware, bits)


def _trees(bits: ColumnBoundBits) -> Choose:
    return lambda counts, hardware: searches.trees(counts, hardware, column_bound_bits=bits, skip_zero_slices=True)


_BELOW = "binary search up to the number of active rows"
#: The searches of system.md §13 that the ladder shows.
STEPS = (
    Step("bounded by rows", _bounded(0), f"{_BELOW}; nothing is stored", lossy=True),
    Step("and by OUs", _bounded("ou"), f"{_BELOW} and most cells of a column", held=True, decoupled=True),
    Step(
        "and by empty columns", _bounded(1), f"{_BELOW}; empty columns are 0", held=True, decoupled=True, lossy=True
    ),
    Step(
        "low counts first, by rows", searches.low_first,
        "no path is longer, low counts have the short ones; nothing is stored",
    ),
    Step("trees, by rows", _trees(0), "optimal trees for each number of active rows"),
    Step(
        "trees, by rows and columns", _trees("full"), "optimal trees for each bound, every column's",
        held=True, decoupled=True,
    ),
)  # fmt: skip
#: The best search of gathered machines: it alone is shown with decoupled lanes, with window reuse, and on the rival.
BEST = "low counts first"
#: Searches of gathered machines, by name.
GATHERED_SEARCHES: dict[str, Choose] = {
    "uniform": searches.uniform,
    "bounded": searches.bounded,
    "trees": lambda counts, hardware: searches.trees(counts, hardware, column_bound_bits=0),
    BEST: searches.low_first,
}


# ---- the ladder ---------------------------------------------------------------------------------
def ladder(
    graph: Graph,
    calibration: np.ndarray,
    images: np.ndarray,
    *,
    layer_network: Graph | None = None,
    redy: redy_registers.Registers | None = None,
    threads: int | None = None,
    tell: Tell = lambda what, done, total: None,
) -> list[Machine]:
    """Machines on one network, the baseline first, each step with everything before it unless said otherwise.

    graph : with lossless uniform converters. calibration : training images that choose registers and trees.
    images : uint8 (B, C, H, W) whose mean events are given. layer_network : trained with one width per layer.
    redy : lossy dynamic precision for steps on top of the best lossless ones.
    """

    def told(what: str) -> Callable[[int, int], None]:
        return lambda done, total: tell(what, done, total)

    def run(name: str, network: Graph, note: str, held: bool = False) -> Machine:
        events = GraphRunner(network, threads=threads).run(images, progress=told(name))[1]
        return machines.counted(name, network, events, held=held, note=note)

    made = machines.geometry_machines(
        graph, images, layer_network=layer_network, threads=threads, progress=told("rivals")
    )
    made += [machines.with_window_reuse(one) for one in made if one.name == SPARSE]
    tell("counts", 0, 1)
    counts = graph_joint_counts(graph, calibration, threads=threads)
    twin = with_settings(graph, registers=searches.twin(counts, graph.hardware))
    made.append(run("BWQ + TRQ", twin, "twin range, lossless, best registers per layer"))
    always = {node.name: DynamicPrecision(l_max=0, tau_sq=0) for node in graph.crossbars}
    made.append(
        run("BWQ + TRQ + ReDy", with_settings(twin, dynamic=always), "empty high bits of a group are not streamed")
    )
    skipping = searches.twin(counts, graph.hardware, skip_zero_slices=True)
    zeros = with_settings(graph, registers=skipping, skip_zero_slices=True)
    made.append(run("BWQ + TRQ + zero slices", zeros, "OU activations whose input slice is all zero are skipped"))
    chosen = [(step, step.choose(counts, graph.hardware)) for step in STEPS]
    for step, registers in chosen:
        network = with_settings(graph, registers=registers, skip_zero_slices=True)
        made.append(run(OURS + step.name, network, step.note, held=step.held))
        if step.decoupled:
            tell("decoupled lanes", 0, 1)
            made.append(_decoupled(made[-1], network, images, threads))
    made += gathered(graph, calibration, images, threads=threads, progress=told("gathering"))
    if redy is not None:
        dropping = redy.apply(graph)
        for step, registers in chosen:
            if step.lossy:
                network = with_settings(dropping, registers=registers, skip_zero_slices=True)
                note = f"{step.note}; low bits are rounded away"
                made.append(run(LOSSY + step.name, network, note, held=step.held))
        made += gathered(
            dropping, calibration, images, called=LOSSY_GATHERED, threads=threads,
            progress=told("gathering, lossy ReDy"),
        )  # fmt: skip
    return made


def names(graph: Graph, *, lossy: bool) -> list[str]:
    """What the machines of `ladder` are called, known without counting; lossy : whether there are ReDy registers."""
    found = [one.name for one in machines.geometry_machines(graph)] + [SPARSE, SPARSE + REUSE]
    found += ["BWQ + TRQ", "BWQ + TRQ + ReDy", "BWQ + TRQ + zero slices"]
    for step in STEPS:
        found += [OURS + step.name, OURS + step.name + DECOUPLED][: 1 + step.decoupled]
    found += [LOSSY + step.name for step in STEPS if step.lossy and lossy]
    for ours, rival in (GATHERED, LOSSY_GATHERED)[: 1 + lossy]:
        found += [f"{ours}, {name}" for name in GATHERED_SEARCHES if name != BEST]
        found += [f"{who}, {BEST}{more}{reuse}" for who in (ours, rival) for more in ("", DECOUPLED)
                  for reuse in ("", REUSE)]  # fmt: skip
    return found


def gathered(
    graph: Graph,
    calibration: np.ndarray,
    images: np.ndarray,
    *,
    called: tuple[str, str] = GATHERED,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Machine]:
    """Active word lines gathered below block widths (`machines.gathered`); SRE-like with our search.

    The best search also with window reuse (`machines.with_window_reuse`), for both.

    graph : with lossless converters; its dynamic precision applies. called : what names of ours and of the rival start
    with. The rival is the SRE-like machine with the registers of our best search.
    """
    seen = gathered_counts(graph, calibration, threads=threads)
    best, theirs = (f"{who}, {BEST}" for who in called)
    settings = {f"{called[0]}, {name}": choose(seen, graph.hardware) for name, choose in GATHERED_SEARCHES.items()}
    notes = dict.fromkeys(settings, "only word lines with a 1 are switched on, groups follow from block widths")
    made = machines.gathered(graph, images, settings, decoupled=[best], notes=notes, threads=threads, progress=progress)
    found = machines.gathered(
        graph, images, {theirs: settings[best]}, by="rows", decoupled=[theirs], threads=threads, progress=progress
    )
    again = [machines.with_window_reuse(one) for one in made if one.name in (best, best + DECOUPLED)]
    return [*made, *again, *found, *map(machines.with_window_reuse, found)]


def _decoupled(machine: Machine, graph: Graph, images: np.ndarray, threads: int | None) -> Machine:
    """The same machine if lanes waited for each other only at the end of a segment (golden_model.searches.lanes)."""
    free = machine.with_cycles(graph_decoupled_cycles(graph, images, threads=threads))
    return replace(free, name=machine.name + DECOUPLED, note=f"{machine.note}; lanes meet at a segment's end")


def lossy_accuracy(
    graph: Graph,
    redy: redy_registers.Registers,
    images: np.ndarray,
    labels: np.ndarray,
    threads: int | None = None,
    tell: Tell = lambda what, done, total: None,
) -> float:
    """Share of images that are right with lossy dynamic precision and lossless converters, in the golden model."""
    changed = redy.apply(on_machine(graph, graph.hardware))
    runner = GraphRunner(changed, threads=threads)
    logits = runner.run(images, progress=lambda done, total: tell("accuracy with lossy ReDy", done, total))[0]
    return accuracy(logits, labels)
