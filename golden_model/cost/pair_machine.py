"""The pair machine in the cost ladder: what `golden_model.pairs` measures, as machines (*ours*; docs/cost.md).

Every step of the ladder and every rival is one `Switches` of one pass of `golden_model.engines.pair_switches`, so all
of them are charged by the same events: latches, prefix counts, masks or indices, subtractions, checks of early stop.
All have as many converters as the baseline. Conversion is lossless everywhere.

    machines.compare(ladder(graph, calibration, images), "isaac-32nm")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from golden_model.cost import baselines, machines
from golden_model.cost.work import Machine, Reads, dynamic_precision_events, stages
from golden_model.engines.pair_stop_bits import Tally, as_in_the_tile, cheapest, tally_layers
from golden_model.engines.pair_switches import Measured, Switches, measure
from golden_model.engines.run_network import Progress
from golden_model.graph.network import Graph
from golden_model.graph.nodes import Crossbar
from golden_model.pairs.early_stop import EarlyStop, Stopping, stop_of
from golden_model.pairs.packs import By
from golden_model.pairs.search import counts_search, outward
from golden_model.registers import COUNTER_NAMES
from golden_model.searches import choose as searches
from golden_model.searches.differences import optimal

#: The machine of the ladder before this one, and its rival: gathered word lines, two conversions of a column.
TODAY, SPARSE = "gathered, low counts first", "SRE-like, low counts first"
#: What surrounds the conversions of a machine that has none of the steps of `ladder`.
_PLAIN: dict[str, Any] = {"words": False, "layer_masks": False, "double_buffered": False}


@dataclass(frozen=True)
class Step:
    """A configuration of the ladder.

    window_streams : input bits are streamed from the window register, there is no input register beside it.
    """

    name: str
    switches: Switches
    note: str
    window_streams: bool = True


def steps(
    graph: Graph, trees: Mapping[str, Any], stops: Mapping[By, Stopping], tile: Mapping[By, Stopping]
) -> list[Step]:
    """Ours, each on top of the one before unless indented, then the SRE-like machine with the same.

    trees : the optimal trees of every layer, by name of the crossbar node. stops : early stop after the bits that pay,
    of both ways to pack. tile : the same as the tile has it.
    """
    hardware = graph.hardware
    low_first = counts_search("low counts first", searches.low_first([""], hardware)[""], hardware)
    best = outward(hardware)

    def around(switches: Switches, prefix: str) -> list[Step]:
        """The plumbing, then early stop, of a machine without any."""
        words = replace(switches, words=True)
        masks = replace(words, layer_masks=True)
        side = replace(masks, double_buffered=True)
        limits = replace(side, stop=EarlyStop())
        paying = replace(side, stop=stops[switches.by])
        alone = {node.name: EarlyStop() for node in graph.crossbars if len(node.inputs) == 1}
        held = "masks" if switches.by == "blocks" else "indices"
        return [
            Step(f"{prefix}+ window register streams", switches, "the window register is the input register"),
            Step(f"{prefix}+ words of 32 bits", words, "activations are read a word at a time"),
            Step(f"{prefix}+ {held} per layer", masks, f"{held} are read once per layer and held"),
            Step(f"{prefix}+ double-buffered windows", side, "windows load, convert and drain side by side"),
            Step(f"{prefix}  lanes 2, no early stop", replace(side, clocks="lanes 2"), "two places in every lane"),
            Step(
                f"{prefix}  early stop, requantised", replace(side, stop=EarlyStop(condition="zero")),
                "outputs that are certainly 0 convert no more: bounds are requantised",
            ),
            Step(
                f"{prefix}  early stop, final", replace(side, stop=EarlyStop(condition="final")),
                "outputs that can no longer change convert no more: both bounds are requantised",
            ),
            Step(f"{prefix}+ early stop", limits, "bounds are compared with limits; outputs with a residual of 0 only"),
            Step(f"{prefix}  no residuals", replace(side, stop=alone), "not in layers with a residual"),
            Step(f"{prefix}+ checks that pay", paying, "only after bits that were chosen on other pictures"),
            Step(f"{prefix}  halves", replace(paying, clocks="halves"), "each half has its own pace"),
            Step(f"{prefix}  lanes 2", replace(paying, clocks="lanes 2"), "two places in every lane"),
            Step(
                f"{prefix}  lanes 2, as in the tile", replace(side, clocks="lanes 2", stop=tile[switches.by]),
                "checks in every column, not in layers with a residual",
            ),
        ]  # fmt: skip

    aligned = Switches(search=low_first, split="one", **_PLAIN)
    pairs = Switches(search=best, **_PLAIN)
    sparse = replace(pairs, by="rows")
    stopping = Switches(search=best, stop=stops["blocks"])
    ours = "ours: "
    rival = "SRE-like, pairs: "
    return [
        Step(f"{ours}aligned packs", aligned, "a latch serves all groups of a pack", window_streams=False),
        Step(f"{ours}+ pairs, outward", pairs, "one conversion for a column pair", window_streams=False),
        Step(
            f"{ours}  pairs, optimal trees", replace(pairs, search=trees), "in place of outward search",
            window_streams=False,
        ),
        *around(pairs, ours),
        Step(f"{ours}  optimal trees", replace(stopping, search=trees), "in place of outward search"),
        Step(f"{ours}  line buffers", replace(stopping, keeps="lines"), "every activation is read once per layer"),
        Step(f"{rival}outward, window reuse", sparse, "one conversion for a column pair", window_streams=False),
        *around(sparse, rival),
    ]  # fmt: skip


def machine(graph: Graph, measured: Measured, name: str, note: str = "", *, window_streams: bool = True) -> Machine:
    """A machine of the cost model from what `golden_model.engines.pair_switches` found.

    Raises ValueError if it has more or fewer converters than the baseline.
    """
    hardware, switches = graph.hardware, measured.switches
    if measured.converters != hardware.lanes:
        raise ValueError(f"{name}: it has {measured.converters} converters, other machines have {hardware.lanes}")
    none, found, stored = np.zeros(len(measured.stages)), measured.event, measured.stored
    by_rows = switches.by == "rows"
    extra = {
        "gathered_rows": found("prefix_rows"),
        "window_register_bits": found("window_bits_written") + found("window_bits_moved"),
        "mask_bits": found("mask_bits_read") + found("mask_bits_written"),
        "index_bits_read": found("mask_bits_written") if by_rows else none,
        **{one: found(one) for one in ("subtractions", "latched_bits", "tree_bits_read", "line_bits")},
        **{one: found(one) for one in ("stop_word_bits", "stop_additions", "stop_requantisations")},
        **dynamic_precision_events(graph),
    }
    units = {
        "window_register_bits": stored("windows"),
        "output_register_bits": stored("sums"),
        "mask_bits": stored("masks"),
        "stop_word_bits": stored("bounds") + stored("residuals"),
        "line_bits": stored("lines"),
        **_gathering_units(graph, stored("latches"), halves=1 if switches.split == "one" else 2, by_rows=by_rows),
    }
    if window_streams:
        units["input_register_bits"] = none
    if found("subtractions").any():
        units["subtractors"] = none + measured.converters
    units["stop_adders"] = np.array([_stop_adders(graph, node, switches) for node in graph.crossbars], dtype=np.float64)
    return Machine(
        graph,
        measured.events,
        name,
        note,
        width_table=not by_rows,
        extra={one: values for one, values in extra.items() if values.any()},
        metadata_bits=stored("trees") + (stored("masks") if by_rows else 0),
        placements=machines.placements(graph, measured),
        window_reuse=switches.keeps != "nothing",
        reads=Reads(found("activation_bits_read"), found("width_entries_read"), window_streams),
        own_units={one: values for one, values in units.items() if values.any() or one == "input_register_bits"},
        overlapped=switches.double_buffered,
    )


def _stop_adders(graph: Graph, node: Crossbar, switches: Switches) -> int:
    """Adders for early stop of a macro of a stage."""
    stop = stop_of(switches.stop, node.name)
    if stop is None or not any(stop.bits(layer) for layer in node.layers):
        return 0
    units = graph.hardware.ou_cols if stop.at == "column" else 1
    return stop.adders * units * (1 if switches.split == "one" else 2)


def _gathering_units(graph: Graph, latches: np.ndarray, *, halves: int, by_rows: bool) -> dict[str, np.ndarray]:
    """Latches, prefix networks and multiplexers of a macro that gathers, (stages,) each.

    A word line of a pack stands for the same row in every column group or, by rows, for any: then rows are moved
    together in ceil(log2 K) ranks of two legs a row, for each half. Every half picks its bits from all of a window.
    """
    hardware, rows = graph.hardware, stages(graph)
    k = np.array([max(layer.k for layer in stage.layers) for stage in rows], dtype=np.int64)
    bits = np.array([max(layer.k * layer.input_bits for layer in stage.layers) for stage in rows], dtype=np.int64)
    ranks = np.array([int(one - 1).bit_length() for one in k])
    return {
        "latch_bits": latches,
        "prefix_lines": np.full(len(rows), halves * hardware.grid_rows * hardware.ou_rows),
        "multiplexer_legs": (bits + 2 * halves * k * ranks) if by_rows else halves * bits,
    }


def baseline_of_pairs(graph: Graph, planes: int | None = None) -> Machine:
    """The baseline with conversion of pairs: R_ideal + 1 decisions of a pair, two OUs of a segment at a time."""
    count = baselines.baseline_planes(graph.hardware) if planes is None else planes
    events = baselines.uniform_events(graph, count, of_pairs=True)
    conversions = events.counts[:, COUNTER_NAMES.index("conversions_r2")].astype(np.float64)
    return Machine(
        graph,
        events,
        "ISAAC-like with conversion of pairs",
        "as the baseline, but the difference of both bit lines is converted once",
        widths=count,
        width_table=False,
        extra={"subtractions": conversions},
        own_units={"subtractors": np.full(len(conversions), graph.hardware.lanes)},
        own_input_bits=False,
    )


def _today(graph: Graph, images: np.ndarray, progress: Progress | None) -> list[Machine]:
    """The gathered machine of ours and the SRE-like one, with window reuse and the area of what gathers."""
    low_first = searches.low_first([node.name for node in graph.crossbars], graph.hardware)
    made = []
    ways: tuple[tuple[str, By], ...] = (("ours: " + TODAY, "segments"), (SPARSE, "rows"))
    for name, by in ways:
        (found,) = machines.gathered(graph, images, {name: low_first}, by=by, progress=progress)
        lines = graph.hardware.grid_rows * graph.hardware.ou_rows
        latches = np.full(len(found.events), 2 * lines)
        units = _gathering_units(graph, latches, halves=1, by_rows=True)  # ours, too: its packs are not aligned
        streamed = found.events[:, COUNTER_NAMES.index("input_bits_streamed")] * graph.hardware.ou_rows
        extra = {**found.extra, "latched_bits": streamed}
        made.append(machines.with_window_reuse(replace(found, own_units=units, extra=extra)))
    return made


def ladder(
    graph: Graph,
    calibration: np.ndarray,
    images: np.ndarray,
    *,
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Machine]:
    """The baseline first, then what the pair machine is built on, its steps, and its rivals.

    graph : with lossless converters; its dynamic precision applies. calibration, images : uint8 (B, C, H, W); the
    former choose optimal trees and the bits that early stop checks, the mean of the latter is measured.
    """

    def told(what: str) -> Progress:
        return lambda done, total: tell(what, done, total)

    whole = Switches(search=outward(graph.hardware))
    seen = measure(graph, calibration, {"seen": whole}, progress=told("trees"))["seen"]
    trees = {name: optimal(counts, graph.hardware) for name, counts in zip(seen.stages, seen.counts, strict=True)}
    ours, rival = _today(graph, images, told("gathered machines"))
    kinds: tuple[By, ...] = ("blocks", "rows")
    tallies: dict[By, dict[str, Tally]] = {by: tally_layers(graph, calibration, by=by) for by in kinds}
    stops: dict[By, Stopping] = {by: cheapest(one, EarlyStop()) for by, one in tallies.items()}
    tile: dict[By, Stopping] = {by: as_in_the_tile(graph, one) for by, one in tallies.items()}
    wanted = steps(graph, trees, stops, tile)
    found = measure(graph, images, {step.name: step.switches for step in wanted}, progress=told("pair machine"))
    made = [
        machine(graph, found[step.name], step.name, step.note, window_streams=step.window_streams) for step in wanted
    ]
    mine = [one for one in made if one.name.startswith("ours")]
    theirs = [one for one in made if not one.name.startswith("ours")]
    return [machines.baseline(graph), ours, *mine, baseline_of_pairs(graph), rival, *theirs]
