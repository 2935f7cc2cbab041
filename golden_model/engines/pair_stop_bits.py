"""After which input bits early stop is worth its checks, by layer, chosen on pictures of its own (*ours*).

An output that would stop after bit s if every bit had a check stops after the highest checked bit that is at most s. So
for any set of bits, what is converted and checked follows from two tables of a layer, `Tally`, and all sets can be
compared: 2**(bits - 1) of them. (With dynamic precision, which leaves bits and their checks out, that is an estimate.)
Nothing is lost whatever set is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from golden_model.engines.pair_runner import PairRunner
from golden_model.engines.run_network import Progress
from golden_model.graph.network import Graph
from golden_model.pairs.early_stop import EarlyStop, Stops
from golden_model.pairs.packs import By, Packing, pack_layer

#: Price of a check, and of the word that a sum starts from, in conversions of a column pair: about 0.3 in `isaac-32nm`,
#: 0.15 in `trq-adc`, 0.8 in `mixed-45nm` (golden_model/cost/data).
PRICE = 0.3

#: The same in the tile, where the next sample of a block column waits for its check.
PRICE_IN_TILE = 0.8

_IMAGES = 4  # images that are computed at a time


@dataclass(frozen=True, eq=False)
class Tally:
    """Outputs of a layer that are checked, by the bit after which they stop with a check after every bit, 0 for never.

    outputs : int64 (bits,). pairs : int64 (bits, bits), column pairs that they convert, [that bit, input bit], if they
    do not stop. all_outputs : those that are never checked, too.
    """

    outputs: np.ndarray
    pairs: np.ndarray
    all_outputs: int

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.outputs + other.outputs, self.pairs + other.pairs, self.all_outputs + other.all_outputs)

    def cost(self, after: tuple[int, ...], price: float = PRICE) -> float:
        """Column pairs converted with checks after these bits, falling, and what the checks cost in such pairs."""
        paid = price * self.all_outputs if after else 0.0
        for stops, pairs in enumerate(self.pairs):
            done = next((i for i, bit in enumerate(after) if bit <= stops), None)
            checks = len(after) if done is None else done + 1
            paid += price * checks * self.outputs[stops] + pairs[0 if done is None else after[done] :].sum()
        return float(paid)

    def best(self, price: float = PRICE) -> tuple[int, ...]:
        """The bits with the lowest cost, falling; the fewest of them if several sets have it."""
        bits = range(len(self.outputs) - 1, 0, -1)
        sets = [after for count in range(len(bits) + 1) for after in combinations(bits, count)]
        return min(sets, key=lambda after: self.cost(after, price))


def tally(packing: Packing, activations: np.ndarray, stops: Stops) -> Tally:
    """Tables of windows (P, K). stops : of these windows, with a check after every bit."""
    bits = packing.prepared.bits
    outputs, pairs = np.zeros(bits, dtype=np.int64), np.zeros((bits, bits), dtype=np.int64)
    converted = conversions(packing, activations)
    for bit in range(bits):
        chosen = stops.checked & (stops.last_bit == bit)
        outputs[bit] = chosen.sum()
        pairs[bit] = converted[:, chosen].sum(axis=1)
    return Tally(outputs, pairs, stops.checked.size)


def conversions(packing: Packing, activations: np.ndarray) -> np.ndarray:
    """Column pairs that windows (P, K) convert if nothing stops, for every input bit and output: int64 (bits, P, N)."""
    x, streamed = packing.streams(activations)
    ou_rows = packing.hardware.ou_rows
    found = np.zeros((packing.prepared.bits, len(x), packing.prepared.outputs), dtype=np.int64)
    for pack in packing.packs:
        inside = slice(pack.first, pack.first + pack.segments)
        masks = np.array([mask.segments for mask in pack.masks], dtype=np.float32).reshape(-1, pack.segments)
        columns = np.zeros((len(pack.masks), packing.prepared.outputs), dtype=np.float32)
        for i, mask in enumerate(pack.masks):
            for group in mask.groups:
                columns[i, group.columns] += 1
        for bit in range(packing.prepared.bits):
            ones = ((x[:, inside] >> bit) & 1).sum(axis=2, dtype=np.float32)  # 0 in segments that are not streamed
            units = np.ceil(ones @ masks.T / ou_rows)
            units[~streamed[:, inside, bit].any(axis=1)] = 0
            found[bit] += (units @ columns).astype(np.int64)
    return found


def cheapest(tallies: Mapping[str, Tally], stop: EarlyStop, price: float = PRICE) -> dict[str, EarlyStop]:
    """Early stop of the nodes of `tallies` with the bits that cost least; without nodes where none pays."""
    best = {node: one.best(price) for node, one in tallies.items()}
    return {node: replace(stop, after=bits) for node, bits in best.items() if bits}


def as_in_the_tile(graph: Graph, tallies: Mapping[str, Tally]) -> dict[str, EarlyStop]:
    """The same for a machine that has a unit in every column, and none for layers with a residual."""
    chosen = cheapest(tallies, EarlyStop(at="column"), PRICE_IN_TILE)
    return {node.name: chosen[node.name] for node in graph.crossbars if node.name in chosen and len(node.inputs) == 1}


def stop_bits(graph: Graph, images: np.ndarray) -> dict[str, int | None]:
    """`stop_bits` of every crossbar node in the tile, chosen on images; None where no check pays."""
    chosen = as_in_the_tile(graph, tally_layers(graph, images))
    return {
        node.name: sum(1 << bit for bit in chosen[node.name].bits(node.layers[0])) if node.name in chosen else None
        for node in graph.crossbars
    }


def choose_bits(
    graph: Graph,
    images: np.ndarray,
    stop: EarlyStop | None = None,
    *,
    by: By = "blocks",
    price: float = PRICE,
    progress: Progress | None = None,
) -> dict[str, EarlyStop]:
    """Early stop by name of the crossbar node, with the bits that cost least on images; without nodes where none pays.

    stop : which condition and bounds; its own bits are not looked at. images, by : as for `tally_layers`.
    """
    stop = EarlyStop() if stop is None else stop
    return cheapest(tally_layers(graph, images, stop, by=by, progress=progress), stop, price)


def tally_layers(
    graph: Graph,
    images: np.ndarray,
    stop: EarlyStop | None = None,
    *,
    by: By = "blocks",
    progress: Progress | None = None,
) -> dict[str, Tally]:
    """Tables by name of the crossbar node, of all but a last layer.

    stop : which condition and bounds; its own bits are not looked at. images : uint8 (B, C, H, W). by : as for
    `pack_layer`.
    """
    stop = EarlyStop() if stop is None else replace(stop, after=None)
    tallies: dict[str, Tally] = {}
    runner = PairRunner(graph)
    for begin in range(0, len(images), _IMAGES):
        for step in runner.steps(images[begin : begin + _IMAGES]):
            stops = step.stops(stop)
            if stops is None:
                continue
            one = tally(pack_layer(step.layer, graph.hardware, by=by), step.windows, stops)
            tallies[step.node] = tallies[step.node] + one if step.node in tallies else one
        if progress is not None:
            progress(min(begin + _IMAGES, len(images)), len(images))
    return tallies
