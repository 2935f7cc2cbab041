"""Weights on one array instead of a pair, end to end: `python -m quant.reproduce.offset` (an experiment; *ours*).

    python -m quant.reproduce.offset --network resnet20 --weights FILE --data DIR

Our machine stores signed weights on a pair of arrays (system.md §3). Other machines store weight + 2**p on a single one
and subtract 2**p times the sum of the inputs digitally; counts are denser there, errors of two arrays do not cancel.
The paper on twin-range conversion does not say which one it has. This module runs a graph in that way: it is the
golden model of neither our RTL nor any other, but every count, conversion and operation is simulated.

For n search steps: the uniform converter whose range is calibrated per layer, and twin range of least error; then both
at the fewest operations that pass the check of quant.reproduce.trq.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from golden_model.command import Json, command, console, table_of
from golden_model.config import ISAAC
from golden_model.crossbar import post_processing
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import prepare_layer
from golden_model.crossbar.windows import windows
from golden_model.engines.choice import compiled_tables
from golden_model.engines.run_layer import run_layer
from golden_model.files import write_json
from golden_model.graph.network import Graph
from golden_model.graph.nodes import Crossbar
from golden_model.searches.histograms import graph_counts, offset_layer, offset_of
from golden_model.trq import convert_counts
from quant.reference import accuracy, exact_logits
from quant.reproduce import study as shared
from quant.reproduce.study import Study, percent
from quant.reproduce.trq import FAMILIES, as_dicts, density
from quant.search import adc as adc_search
from quant.search.adc import Chosen
from quant.search.check import compare_logits

_BATCH = 16
_COMPILING_PAYS = 200_000_000  # conversions of a run


# ---- running ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Spent:
    """A/D operations and conversions of the one array, over all images."""

    operations: int = 0
    conversions: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.operations + other.operations, self.conversions + other.conversions)


class OffsetRunner:
    """Runs a graph with its weights, plus 2**p, on one array per layer.

    A sum is that of the array minus 2**p * (sum of the inputs), rounded to the unit of sums; post-processing is the
    graph's own. The second array of a pair stays empty and is not counted. No dynamic precision, no zero skipping.
    """

    def __init__(self, graph: Graph) -> None:
        if any(layer.dynamic is not None or layer.skip_zero_slices for layer in graph.layers):
            raise ValueError("offset encoding: dynamic precision and zero-slice skipping must be off")
        self.graph = graph
        self._layers: dict[str, list[tuple[Layer, int, Any]]] = {}
        for node in graph.crossbars:
            self._layers[node.name] = []
            for layer in node.layers:
                stored, offset = offset_layer(layer, graph.hardware), offset_of(layer, graph.hardware)
                self._layers[node.name].append((stored, offset, prepare_layer(stored, graph.hardware)))

    def run(self, images: np.ndarray) -> tuple[np.ndarray, dict[str, Spent]]:
        """Logits int64 (B, N) of uint8 images (B, C, H, W), and what every crossbar node spent."""
        parts, spent = [], {node.name: Spent() for node in self.graph.crossbars}
        stored = [one for layers in self._layers.values() for one in layers]
        conversions = sum(layer.windows * int(p.lanes_per_slice.sum()) * p.bits for layer, _, p in stored)
        if len(images) * conversions > _COMPILING_PAYS:
            for _, _, prepared in stored:
                compiled_tables(prepared)  # `run_layer` takes the compiled engine where it finds its tables
        for start in range(0, len(images), _BATCH):
            values = {self.graph.image.name: images[start : start + _BATCH]}
            for node in self.graph.nodes[1:]:
                inputs = [values[name] for name in node.inputs]
                if isinstance(node, Crossbar):
                    values[node.name], mine = self._crossbar(node, inputs)
                    spent[node.name] += mine
                else:
                    values[node.name] = node.compute(*inputs)
            parts.append(self.graph.output.logits(values[self.graph.output.name]))
        return np.concatenate(parts), spent

    def _crossbar(self, node: Crossbar, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, Spent]:
        hardware = self.graph.hardware
        unit = node.counts_per_unit(hardware)
        x = inputs[0].reshape(len(inputs[0]), len(node.layers), -1)
        made, total, first = [], Spent(), 0
        for group, (layer, offset, prepared) in enumerate(self._layers[node.name]):
            part = np.ascontiguousarray(x[:, group]).reshape(len(x), layer.channels, layer.height, layer.width)
            inside = slice(first, first + layer.outputs)
            first += layer.outputs
            shares = np.floor(offset * windows(layer, part).sum(axis=2, dtype=np.int64) / unit + 0.5).astype(np.int64)

            def finish(
                image: int,
                sums: np.ndarray,
                layer: Layer = layer,
                inside: slice = inside,
                shares: np.ndarray = shares,
            ) -> np.ndarray:
                residual = inputs[1][image, inside] if len(inputs) > 1 else None
                sums = sums.astype(np.int64) - shares[image][:, None]
                return post_processing.finish(layer, sums, residual, node.residual_multiplier)

            output, events = run_layer(layer, hardware, part, prepared=prepared, finish=finish)
            made.append(output)
            counted = events.sum()
            conversions = int(counted.conversions) // 2  # the other half belongs to the empty array
            empty = convert_counts(hardware.adc_bits, hardware.ou_rows, layer.registers, layer.min_count).operations[0]
            total += Spent(int(counted.ad_operations) - conversions * int(empty), conversions)
        return made[0] if len(made) == 1 else np.concatenate(made, axis=1), total


@dataclass(frozen=True, eq=False)
class OffsetCheck(adc_search.Check):
    """The check of quant.reproduce.trq with weights on one array."""

    def run(self, graph: Graph, images: np.ndarray) -> np.ndarray:
        return OffsetRunner(graph).run(images)[0]


# ---- comparison ---------------------------------------------------------------------------------
def compare(study: Study, bounds: Sequence[int], allowed: float) -> dict[str, Any]:
    """Accuracy and operations of every converter, JSON-able. allowed : error of the logits that the check allows."""
    graph, parts = study.graph(ISAAC), study.parts
    hardware, exact = graph.hardware, exact_logits(graph, study.x)
    counts = graph_counts(graph, parts.calibration, offset=True)
    result: dict[str, Any] = {
        "network": graph.name,
        "hardware": hardware.as_dict(),
        "images": len(study.x),
        "check_images": len(parts.check_images),
        "logit_error": allowed,
        "exact_accuracy": accuracy(exact, study.y),
        **density(counts),
        "settings": {},
        "data": study.dataset.source,
    }

    def measured(name: str, settings: Mapping[str, Chosen]) -> None:
        changed = adc_search.apply(graph, settings)
        logits, spent = OffsetRunner(changed).run(study.x)
        compared = compare_logits(changed, logits, graph, exact, study.y)
        total = sum(spent.values(), Spent())
        one = {
            **{key: compared[key] for key in ("accuracy", "logit_error")},
            "operations": total.operations / total.conversions,
            "choices": as_dicts(settings),
        }
        result["settings"][name] = one
        study.log(f"{name}: {percent(one['accuracy'])} % at {one['operations']:.3f} operations per conversion")

    def scores(families: Sequence[adc_search.Family], limit: int = hardware.adc_bits) -> dict[str, adc_search.Scores]:
        return adc_search.score_layers(counts, hardware, limit, families=families)

    for n in bounds:
        for kind, families in FAMILIES.items():
            made = adc_search.most_accurate(scores(families, n), n_r2=n if kind == "uniform" else None)
            measured(f"{kind} {n}", made)
    check = OffsetCheck.of(graph, parts.check_images, parts.check_labels)
    study.log("how much of each layer's error arrives in the logits")
    whole = scores(("general", "uniform"))
    weights = check.sensitivities(adc_search.most_accurate(whole), whole, min(32, study.check_images))
    for kind, families in FAMILIES.items():
        found = adc_search.cheapest(
            scores(families), lambda s: check.measure(s)["logit_error"] <= allowed, sensitivity=weights
        ).settings
        if found is None:
            study.log(f"{kind}: nothing passes the check")
        else:
            measured(f"{kind} fewest", found)
    return result


WORDS = {"uniform": "uniform, calibrated", "twin": "twin, most accurate"}
FEWEST = {"uniform fewest": "uniform, bits per layer, fewest that pass", "twin fewest": "twin, fewest that pass"}


def table(result: dict[str, Any]) -> Table:
    """One line per converter."""
    rows = [
        {"words": FEWEST[name], "n": result["hardware"]["adc_bits"], **one}
        if name in FEWEST
        else {"words": WORDS[name.split()[0]], "n": name.split()[1], **one}
        for name, one in result["settings"].items()
    ]

    def decibel(row: Mapping[str, Any]) -> str:
        return "none" if row["logit_error"] == 0 else f"{10 * np.log10(row['logit_error']):.1f}"

    return table_of(
        f"one array, weight + 2^p: {result['network']}, {result['hardware']['ou_rows']} rows, "
        f"{result['images']} test images",
        [
            ("converter", "{words}"),
            ("n <=", "{n}"),
            ("top-1 in %", lambda row: percent(row["accuracy"])),
            ("operations", "{operations:.3f}"),
            ("error of logits in dB", decibel),
        ],
        rows,
        caption=f"lossless {percent(result['exact_accuracy'])} %; mean count {result['mean_count']:.2f}, "
        f"{percent(result['zero_counts'], 0)} % of the counts are 0; check: {result['check_images']} images, error of "
        f"the logits at most {result['logit_error']:g}",
    )


# ---- command line -------------------------------------------------------------------------------
@command
def app(
    network: shared.Network,
    weights: shared.Weights,
    data: shared.Data,
    images: Annotated[int, typer.Option(min=1, help="Test images.")] = 300,
    bounds: Annotated[str, typer.Option(help="Bounds n on search steps, 1..8.")] = "7,6,5,4",
    check_images: Annotated[int, typer.Option(min=1, help="Images for the check.")] = 64,
    logit_error: Annotated[float, typer.Option(help="Error of the logits that the check allows.")] = 0.002,
    json_file: Json = None,
) -> None:
    """Uniform and twin-range converters where weights lie on one array instead of a pair, 128 rows."""
    limits = shared.numbers("--bounds", bounds, int, 1, ISAAC.adc_bits)
    study = Study.open(data, network, weights, images=images, check_images=check_images, log=console.print)
    result = compare(study, limits, logit_error)
    shared.show([table(result)], 120)
    if json_file is not None:
        write_json(json_file, result)


if __name__ == "__main__":
    app()
