"""What the pair machine spends on a network, switch by switch (*ours*; docs/pair-machine.md).

    found = measure(graph, images, {"outward": Switches(search=outward(graph.hardware))})
    found["outward"].events          # mean of one image, (stages, counters) float64, as of every machine

One pass over the images serves all configurations; what they share is computed once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from golden_model import trq
from golden_model.config import HardwareConfig
from golden_model.crossbar.prepared import streams
from golden_model.engines.pair_runner import PairRunner, Step
from golden_model.engines.run_network import Progress
from golden_model.graph.network import Graph
from golden_model.pairs import plumbing
from golden_model.pairs.early_stop import EarlyStop, Stopping, Stops, stop_of
from golden_model.pairs.gather import MODES, Spent, spend
from golden_model.pairs.packs import By, Packing, Split, pack_layer
from golden_model.pairs.plumbing import Keeps
from golden_model.pairs.search import Search, differences
from golden_model.registers import COUNTER_NAMES
from golden_model.trees import entropy

#: Events beside the counters; what each is: docs/pair-machine.md.
EXTRA_NAMES = (
    "subtractions",
    "prefix_counts",
    "prefix_rows",
    "latched_bits",
    "mask_bits_read",
    "mask_bits_written",
    "width_entries_read",
    "tree_bits_read",
    "stopped_conversions",
    "stop_checks",
    "bound_words_read",
    "limit_words_read",
    "stop_additions",
    "stop_requantisations",
    "stop_word_bits",
    "activation_words_read",
    "activation_bits_read",
    "window_bits_written",
    "window_bits_moved",
    "line_bits",
)
#: What is stored beside cells and the tables that every machine has.
STORED_NAMES = ("masks", "bounds", "trees", "windows", "lines", "latches", "sums", "residuals")

Name = TypeVar("Name", bound=Hashable)

_IMAGES = 4  # images that are computed at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Switches:
    """One configuration of the pair machine.

    search : of all layers, or by name of the crossbar node. by, split, even_packs : as for `pack_layer`; "rows" is
    SRE-like, which reads its index in no time. stop : early stop, of all layers or by name of the crossbar node.
    clocks : how time is kept, one of `gather.MODES`.
    keeps : what is kept of earlier windows: "nothing", "window" (the window register) or "lines" (line buffers, too).
    words : activations are read a word of 32 bits at a time, otherwise one by one.
    layer_masks : the width table is read once per layer into masks, otherwise once per window.
    double_buffered : windows load, convert and drain side by side.
    """

    search: Search | Mapping[str, Search]
    by: By = "blocks"
    split: Split = "columns"
    even_packs: bool = False
    stop: Stopping = None
    clocks: str = "lock step"
    keeps: Keeps = "window"
    words: bool = True
    layer_masks: bool = True
    double_buffered: bool = True

    def __post_init__(self) -> None:
        if self.clocks not in MODES:
            raise ValueError(f"Switches.clocks must be one of {', '.join(MODES)}, got {self.clocks!r}")

    def of(self, node: str) -> Search:
        """The search of a crossbar node; ValueError if there is none."""
        if isinstance(self.search, Search):
            return self.search
        if node not in self.search:
            raise ValueError(f"Switches.search: no search is given for layer {node}")
        return self.search[node]

    def converters(self, hardware: HardwareConfig) -> int:
        """Converters of a macro."""
        searches = [self.search] if isinstance(self.search, Search) else list(self.search.values())
        most = max(search.conversions for search in searches)
        return most * hardware.ou_cols * (1 if self.split == "one" else 2)


@dataclass(frozen=True, eq=False)
class Measured:
    """A graph on one configuration; everything is the mean of one image and has a row for every crossbar node.

    events : float64 (stages, counters), clocks as `switches` say. clocks : by `gather.MODES`, (stages,) each.
    extra : by `EXTRA_NAMES`, (stages,), those that occur. stored_bits : by `STORED_NAMES`, likewise. pair_segments :
    OU places that are taken in every crossbar pair, int64 (pairs,), by stage. weight_cells : (stages,). counts : column
    pairs, of all images, by [k, c+, c-], (ou_rows + 1,) * 3, by stage. images : how many. converters : of a macro.
    """

    switches: Switches
    stages: tuple[str, ...]
    events: np.ndarray
    clocks: dict[str, np.ndarray]
    extra: dict[str, np.ndarray]
    stored_bits: dict[str, np.ndarray]
    pair_segments: tuple[np.ndarray, ...]
    weight_cells: np.ndarray
    counts: tuple[np.ndarray, ...]
    images: int
    converters: int

    def total(self, counter: str) -> float:
        """A counter summed over the network."""
        return float(self.events[:, COUNTER_NAMES.index(counter)].sum())

    def event(self, name: str) -> np.ndarray:
        """An event of `EXTRA_NAMES`, (stages,)."""
        return self.extra.get(name, np.zeros(len(self.stages)))

    def stored(self, name: str) -> np.ndarray:
        """Bits of one of `STORED_NAMES`, (stages,)."""
        return self.stored_bits.get(name, np.zeros(len(self.stages)))

    @property
    def pairs(self) -> np.ndarray:
        """Crossbar pairs of every stage, int64."""
        return np.array([len(one) for one in self.pair_segments], dtype=np.int64)

    @property
    def column_pairs(self) -> float:
        """Column pairs that are converted."""
        return sum(int(counts.sum()) for counts in self.counts) / self.images

    @property
    def entropy(self) -> float:
        """Bits of what is found in all column pairs, k known: no search takes fewer operations."""
        return sum(entropy(differences(counts)) for counts in self.counts) / self.images

    def network_clocks(self, mode: str | None = None) -> float:
        """Clocks of an image on one macro, from start to done."""
        return float(self.clocks[mode or self.switches.clocks].sum())

    def busy(self, mode: str | None = None) -> float:
        """Share of the macro's converters and clocks in which a decision is made, 0..1."""
        return self.total("ad_operations") / (self.converters * self.network_clocks(mode))


class _Totals:
    """Sums over images of one configuration. counts : of all that form the same OUs."""

    def __init__(self, stages: int, counts: np.ndarray) -> None:
        self.events = np.zeros((stages, len(COUNTER_NAMES)))
        self.clocks = np.zeros((len(MODES), stages))
        self.extra = {name: np.zeros(stages) for name in EXTRA_NAMES}
        self.counts = counts


@dataclass(frozen=True)
class _Pass:
    """What configurations that form the same OUs share."""

    by: By
    split: Split
    even_packs: bool
    stops: tuple[EarlyStop | None, ...]

    @classmethod
    def of(cls, switches: Switches, graph: Graph) -> _Pass:
        stops = tuple(stop_of(switches.stop, node.name) for node in graph.crossbars)
        return cls(switches.by, switches.split, switches.even_packs, stops)


def measure(
    graph: Graph,
    images: np.ndarray,
    configurations: Mapping[Name, Switches],
    *,
    threads: int | None = 1,
    progress: Progress | None = None,
) -> dict[Name, Measured]:
    """What an image of uint8 (B, C, H, W) costs on average in several configurations.

    The graph itself runs with the converters that it has, which must be lossless; its dynamic precision applies.

    configurations : by any name. threads : batches of images side by side; None takes all cores.

    Raises ValueError for no image, converters of the graph that are not lossless, a search of another machine, or early
    stop with a lossy search or a split that it does not allow.
    """
    if not len(images):
        raise ValueError("measure: at least one image is needed")
    for layer in graph.layers:
        if not trq.lossless(layer.registers, graph.hardware, layer.min_count):
            raise ValueError(f"layer {layer.name}: its converters must be lossless, got {layer.registers}")
    hardware = graph.hardware
    place = {node.name: i for i, node in enumerate(graph.crossbars)}
    sharing: dict[_Pass, list[Name]] = {}
    for name, switches in configurations.items():
        sharing.setdefault(_Pass.of(switches, graph), []).append(name)
    packings = {
        (one, node.name, index): pack_layer(layer, hardware, one.split, even=one.even_packs, by=one.by)
        for one in sharing
        for node in graph.crossbars
        for index, layer in enumerate(node.layers)
    }
    counts = {one: np.zeros((len(place), *(hardware.ou_rows + 1,) * 3), dtype=np.int64) for one in sharing}
    totals = {name: _Totals(len(place), counts[_Pass.of(one, graph)]) for name, one in configurations.items()}
    runner = PairRunner(graph)
    lock = threading.Lock()

    def add_batch(begin: int) -> None:
        for step in runner.steps(images[begin : begin + _IMAGES]):
            row = place[step.node]
            for one, names in sharing.items():
                stops = step.stops(one.stops[place[step.node]])
                searches = list({id(s): s for s in (configurations[name].of(step.node) for name in names)}.values())
                spent = spend(packings[one, step.node, step.index], step.windows, searches, stops)
                with lock:
                    counts[one][row] += spent.counts
                    for name in names:
                        used = searches.index(configurations[name].of(step.node))
                        _add(totals[name], row, configurations[name], step, spent, used, stops)

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for batch, _ in enumerate(pool.map(add_batch, range(0, len(images), _IMAGES)), 1):
            if progress is not None:
                progress(min(batch * _IMAGES, len(images)), len(images))
    found = {}
    for name, switches in configurations.items():
        own = {(node, index): p for (one, node, index), p in packings.items() if one == _Pass.of(switches, graph)}
        found[name] = _measured(graph, switches, own, totals[name], len(images))
    return found


def _add(
    totals: _Totals, row: int, switches: Switches, step: Step, spent: Spent, setting: int, stops: Stops | None
) -> None:
    """Add what the images of a step spent under one setting of `spent`."""
    layer, hardware, search = step.layer, step.prepared.hardware, switches.of(step.node)
    images = len(step.windows) // layer.windows
    converted = int(spent.pairs_converted.sum())
    operations = int(spent.operations[setting].sum())
    load = plumbing.load_clocks(layer, switches.keeps, words=switches.words)
    clocks = np.stack(
        [
            plumbing.layer_clocks(
                layer,
                hardware,
                load,
                busy.reshape(images, layer.windows),
                width_table=switches.by != "rows",
                layer_masks=switches.layer_masks,
                double_buffered=switches.double_buffered,
            ).sum()
            for busy in spent.clocks[setting]
        ]
    )
    latched = int(spent.latched_lines.sum())
    streamed = latched // hardware.ou_rows
    if switches.by != "blocks":  # slices are latched once for all groups, which pick their rows from there
        streamed = int(streams(step.prepared, step.windows)[1].sum())
        latched += streamed * hardware.ou_rows
    counters = {
        "ou_activations": int(spent.ou_activations.sum()),
        "conversions_r2": converted * search.conversions,
        "ad_operations": operations,
        "input_bits_streamed": streamed,
        "cycles": clocks[MODES.index(switches.clocks)],
    }
    totals.events[row] += [counters.get(name, 0) for name in COUNTER_NAMES]
    totals.clocks[:, row] += clocks
    extra = {
        "subtractions": converted if search.signed else 0,
        "prefix_counts": int(spent.prefix_counts.sum()),
        "prefix_rows": int(spent.prefix_rows.sum()),
        "latched_bits": latched,
        "mask_bits_read": int(spent.mask_bits.sum()),
        "tree_bits_read": operations * search.bits_read,
        "stopped_conversions": int(spent.stopped.sum()) * search.conversions,
    }
    stop = stop_of(switches.stop, step.node)
    if stop is not None and stops is not None:
        extra |= stop.events(layer, hardware, stops, step.residual_bits)
    for name, value in extra.items():
        totals.extra[name][row] += value
    for name, value in plumbing.window_events(layer, switches.keeps, words=switches.words).items():
        totals.extra[name][row] += value * images


def _measured(
    graph: Graph, switches: Switches, packings: Mapping[tuple[str, int], Packing], totals: _Totals, images: int
) -> Measured:
    """Means of one image, and what follows from the geometry."""
    hardware = graph.hardware
    extra = {name: values / images for name, values in totals.extra.items()}
    stored = {name: np.zeros(len(graph.crossbars)) for name in STORED_NAMES}
    segments, cells = [], np.zeros(len(graph.crossbars))
    copies = 2 if switches.double_buffered else 1
    width = {node.name: node.encoding.bits for node in graph.nodes}
    for row, node in enumerate(graph.crossbars):
        taken = []
        for index, layer in enumerate(node.layers):
            packing = packings[node.name, index]
            times = 1 if switches.layer_masks else layer.windows
            if switches.by != "rows":
                extra["width_entries_read"][row] += times * layer.segments(hardware) * layer.block_cols(hardware)
            extra["mask_bits_written"][row] += times * packing.mask_bits
            taken.append(packing.pair_segments)
            cells[row] += packing.weight_cells
            stored["masks"][row] += packing.mask_bits
            stop = stop_of(switches.stop, node.name)
            bounds = 0 if stop is None else stop.stored_bits(layer, hardware)
            stored["bounds"][row] += bounds
            held = layer.outputs * width[node.inputs[1]] if bounds and len(node.inputs) > 1 else 0
            most = max((pack.segments for pack in packing.packs), default=0) * hardware.ou_rows
            slices = layer.segments(hardware) * hardware.ou_rows if switches.by != "blocks" else 0
            for name, bits in (
                ("windows", copies * layer.k * layer.input_bits),
                ("lines", plumbing.line_bits(layer) if switches.keeps == "lines" else 0),
                ("latches", 2 * packing.halves * most + slices),
                ("sums", copies * layer.outputs * hardware.accumulator_bits),
                ("residuals", copies * held),
            ):
                stored[name][row] = max(stored[name][row], bits)  # groups run one after the other
        stored["trees"][row] = switches.of(node.name).stored_bits
        segments.append(np.concatenate(taken))
    return Measured(
        switches=switches,
        stages=tuple(node.name for node in graph.crossbars),
        events=totals.events / images,
        clocks={mode: totals.clocks[i] / images for i, mode in enumerate(MODES)},
        extra={name: values for name, values in extra.items() if values.any()},
        stored_bits={name: values for name, values in stored.items() if values.any()},
        pair_segments=tuple(segments),
        weight_cells=cells,
        counts=tuple(totals.counts),
        images=images,
        converters=switches.converters(hardware),
    )
