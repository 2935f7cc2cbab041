"""Choose converters and dynamic precision of a trained network: `python -m quant.calibrate` (system.md §6, §7).

Reads WORK/network.graph and writes

    calibrated.graph   the same integers with the chosen registers
    calibration.json   per layer: registers, counts, operations; accuracy and events step by step

Converters (TRQ, Algorithm 1 corrected; quant/search/adc.py): lossless ones with the fewest A/D operations, or with
--tolerance a descending search over lossy ones. Dynamic precision (ReDy; quant/search/redy.py): the cheapest registers
whose logits and accuracy hold. Everything is chosen on training images that training did not see: the first of them
are counted, others check accuracy. The test part is only reported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer

from golden_model.command import command, console, progress_bar
from golden_model.cost import machines
from golden_model.cost.components import load_table
from golden_model.cost.energy import energy
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.engines.run_network import GraphRunner
from golden_model.files import file_hash, read_json, write_atomically, write_json
from golden_model.graph.network import Graph
from golden_model.graph.settings import on_machine, with_settings
from golden_model.image import archive
from golden_model.registers import COUNTER_NAMES
from golden_model.searches.histograms import LayerCounts, graph_counts
from golden_model.trq import lossless
from quant import options, stages
from quant.data import sets
from quant.networks.source import check_fits, dataset_of_graph
from quant.reference import accuracy, exact_logits
from quant.search import adc, redy
from quant.search.stop import with_early_stop
from quant.settings import check, setting
from quant.train import read_recipe

#: Held-out images whose counts and windows registers are chosen from.
COUNTED_IMAGES = 32
#: Images that a layer's influence on the logits is measured on.
_SENSITIVITY_IMAGES = 48
#: Classes up to which it is kept which were taken for which.
MOST_CLASSES = 100

#: Event counters that are kept for every step and layer.
_SHOWN = ("ou_activations", "ad_operations", "input_bits_streamed")

#: Told about every step.
Log = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that decides a calibration, besides network and data.

    l_max : 0 for lossless skipping alone. Ranges are those of the fields; ValueError names one that is left.
    """

    tolerance: float | None = setting(
        None, "Accuracy (a share) that converters may cost; without it they are lossless.", 0, 1
    )
    grid: str = setting(
        "aligned",
        "Lossy converters: aligned (lambda a power of two) or continuous.",
        among=("aligned", "continuous"),
    )
    redy: bool = setting(True, "Choose dynamic precision.")
    redy_tolerance: float = setting(0.001, "Accuracy (a share) that dynamic precision may cost.", 0, 1)
    logit_error: float = setting(
        0.002, "Largest error of the logits by dynamic precision, squared, over their mean square.", 0, 1
    )
    l_max: int = setting(4, "Most low bits that dynamic precision may drop, 0..7.", 0, 7)
    skip_zero_slices: bool = setting(True, "Deploy with zero-slice skipping.")
    checked_images: int = setting(1000, "Held-out images that choices are checked on.", 1, 1_000_000)
    adc_images: int = setting(256, "Of these, how many lossy converters are checked on.", 1, 1_000_000)
    event_images: int = setting(100, "Test images that events are counted on.", 1, 1_000_000)

    def __post_init__(self) -> None:
        check(self)


# ---- choices ------------------------------------------------------------------------------------
def outward_converters(graph: Graph, counted: np.ndarray) -> dict[str, adc.Chosen]:
    """The converters of `graph`, a pair machine with outward search, and what they take on uint8 images (B, C, H, W).

    There is nothing to choose: of the machine's searches without loss it takes the fewest decisions
    (docs/pair-machine.md).
    """
    events = GraphRunner(graph).run(counted)[1].sum(axis=0)
    return {
        node.name: adc.Chosen(
            family="outward",
            setting=adc.AdcSetting(registers=node.registers),
            operations=spent.ad_operations / max(1, spent.conversions),
            error=0.0,
            output_error=0.0,
            conversions=spent.conversions,
        )
        for node, spent in zip(graph.crossbars, events, strict=True)
    }


def choose_converters(
    graph: Graph,
    counts: Mapping[str, LayerCounts],
    wanted: Options,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    log: Log = lambda text: None,
) -> dict[str, adc.Chosen]:
    """One A/D setting per crossbar node of `graph`, whose converters are lossless.

    counts : of its layers. images, labels : to measure accuracy on. Lossy search: starts from the best lossless
    settings, then the limit on n_r1 and n_r2 descends from R - 1; at each, the cheapest settings whose accuracy holds
    are found, and kept if they save operations. Ends when none hold (*the printed algorithm keeps the failing one*).
    """
    hardware = graph.hardware
    how: dict[str, Any] = {"skip_zero_slices": wanted.skip_zero_slices}
    scores = adc.score_layers(counts, hardware, hardware.adc_bits, grid="aligned", **how)
    start = adc.cheapest_lossless(scores)
    if wanted.tolerance is None:
        return start
    floor = accuracy(exact_logits(graph, images), labels) - wanted.tolerance

    def holds(settings: dict[str, adc.Chosen]) -> bool:
        return measure(adc.apply(graph, settings), images, labels) >= floor

    def told(step: adc.Step) -> None:
        found = "no setting holds" if step.accepted is None else f"{adc.mean_operations(step.accepted):.3f} operations"
        log(f"n_r1, n_r2 <= {step.limit}: {found}, {step.checks} checks")

    chosen, _ = adc.descend(
        lambda limit: adc.score_layers(counts, hardware, limit, grid=cast(adc.Grid, wanted.grid), **how),
        range(hardware.adc_bits - 1, 0, -1),
        holds,
        start,
        done=told,
    )
    return chosen


def choose_precision(
    graph: Graph,
    counted: np.ndarray,
    wanted: Options,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    log: Log = lambda text: None,
) -> dict[str, DynamicPrecision]:
    """Dynamic-precision registers per crossbar node of `graph`, whose converters are lossless.

    counted : uint8 images (B, C, H, W) whose windows are sampled. images, labels : to check logits and accuracy on.
    """
    lossless = {node.name: DynamicPrecision() for node in graph.crossbars}
    if wanted.l_max == 0:
        return lossless
    samples = redy.collect(graph, counted)
    scores = redy.restrict(
        redy.score_layers(graph, samples, skip_zero_slices=wanted.skip_zero_slices),
        lambda setting: setting.l_max <= wanted.l_max,
    )
    check = redy.Check.of(graph, images, labels)
    sensitivity = check.sensitivities(redy.lossless(scores), scores, _SENSITIVITY_IMAGES)
    found, _, made = redy.search(check.measure, scores, sensitivity, wanted.logit_error, wanted.redy_tolerance)
    if made is None:
        log("dynamic precision: no low bits can be dropped")
    else:
        log(f"dynamic precision: error of the logits {made['logit_error']:.2g}, {100 * made['lost']:.2f} % lost")
    return {name: one.setting for name, one in found.items()}


def measure(graph: Graph, images: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of `logits_of`."""
    return accuracy(logits_of(graph, images), labels)


def logits_of(graph: Graph, images: np.ndarray) -> np.ndarray:
    """Of plain integers where every converter is lossless and all bits are streamed, else of the golden model."""
    try:
        return exact_logits(graph, images)
    except ValueError:
        if graph.hardware.pairs and all(lossless(layer.registers, graph.hardware) for layer in graph.layers):
            # The other machine gives the same, and faster.
            graph = with_settings(graph, hardware=redy.arithmetic_twin(graph.hardware))
        return GraphRunner(graph).run(images)[0]


def confusion(logits: np.ndarray, labels: np.ndarray) -> list[list[int]] | None:
    """Pictures by [true class][class chosen]; None for so many classes that nobody would read it."""
    classes, known = logits.shape[1], (labels >= 0) & (labels < logits.shape[1])
    if classes > MOST_CLASSES:
        return None
    pairs = np.asarray(labels, dtype=np.int64)[known] * classes + logits.argmax(axis=1)[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).tolist()


def held_out(dataset: sets.ImageSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(images to count, images and labels to check with): training images that training does not see.

    They are apart unless there are too few.
    """
    images, labels = dataset.validation()
    count = min(COUNTED_IMAGES, max(1, len(images) // 2))
    if len(images) < 2:
        return images, images, labels
    return np.array(images[:count]), np.array(images[count:]), labels[count:]


# ---- calibration --------------------------------------------------------------------------------
def calibrate(
    graph: Graph, dataset: sets.ImageSet, wanted: Options, log: Log = lambda text: None
) -> tuple[Graph, dict[str, Any]]:
    """(the network with its registers, the content of calibration.json without fingerprint).

    graph : with lossless converters, as training writes it.
    Raises ValueError with one sentence when data and network do not fit, or for a tolerance on a pair machine.
    """
    check_fits(graph, dataset)
    pairs = graph.hardware.pairs
    if pairs and wanted.tolerance is not None:
        raise ValueError("tolerance: converters of the pair machine are lossless, there is nothing to choose")
    plain = on_machine(graph, graph.hardware)
    counted, images, labels = held_out(dataset)
    images, labels = images[: wanted.checked_images], labels[: wanted.checked_images]
    log(f"counts of {len(counted)} images, checks on {len(images)}")
    counts = {} if pairs else graph_counts(plain, counted)
    few = slice(0, wanted.adc_images)
    if pairs:
        chosen = outward_converters(plain, counted)
    else:
        chosen = choose_converters(plain, counts, wanted, images[few], labels[few], log=log)
    twin = adc.apply(plain, chosen)
    exact = all(one.setting.lossless(graph.hardware) for one in chosen.values())
    unskipped = chosen  # a machine that skips nothing has other counts, so other lossless settings
    if exact and not pairs:
        scores = adc.score_layers(counts, graph.hardware, graph.hardware.adc_bits, grid="aligned")
        unskipped = adc.cheapest_lossless(scores)
    dynamic: dict[str, DynamicPrecision] | None = None
    if wanted.redy:
        dynamic = choose_precision(plain, counted, wanted, images, labels, log=log)
        if not exact:
            dynamic = _holding(twin, dynamic, wanted, images[few], labels[few], log)
    final = with_settings(twin, dynamic=dynamic, skip_zero_slices=wanted.skip_zero_slices)
    final = with_early_stop(final, dataset)

    log("accuracy on the test images")
    test, classes = dataset.test_images, dataset.test_labels
    logits = logits_of(plain, test)
    ladder = {"integer": accuracy(logits, classes)}
    if not exact:
        logits = logits_of(twin, test)
    ladder["trq"] = accuracy(logits, classes)
    if dynamic is not None:
        logits = logits_of(final, test)
        ladder["redy"] = accuracy(logits, classes)
    log("events in the golden model")
    steps = {"uniform": plain, "trq": adc.apply(plain, unskipped)}
    if dynamic is not None:
        steps["redy_lossless"] = with_settings(twin, dynamic={name: DynamicPrecision() for name in dynamic})
        steps["redy"] = with_settings(twin, dynamic=dynamic)
    steps["all"] = final
    return final, {
        "hardware_hash": graph.hardware.hash,
        "lossless": exact,
        "accuracy": ladder,
        "confusion": confusion(logits, classes),
        "test_images": len(test),
        "counted_images": len(counted),
        "checked_images": len(images),
        "skip_zero_slices": wanted.skip_zero_slices,
        "layers": [_layer_record(final, name, chosen[name], counts.get(name)) for name in chosen],
        "registers_without_skipping": {name: one.as_dict() for name, one in unskipped.items()},
        "events": _events_record(plain, steps, test[: wanted.event_images]),
    }


def _holding(
    twin: Graph,
    dynamic: dict[str, DynamicPrecision],
    wanted: Options,
    images: np.ndarray,
    labels: np.ndarray,
    log: Log,
) -> dict[str, DynamicPrecision]:
    """`dynamic` if accuracy holds with the lossy converters of `twin`, too, else lossless skipping alone.

    It was chosen with lossless converters, whose logits can be compared exactly.
    """
    floor = measure(twin, images, labels) - wanted.redy_tolerance
    if measure(with_settings(twin, dynamic=dynamic), images, labels) >= floor:
        return dynamic
    log("dynamic precision: low bits stay, accuracy does not hold with these converters")
    return {name: DynamicPrecision() for name in dynamic}


def _layer_record(graph: Graph, name: str, chosen: adc.Chosen, counts: LayerCounts | None) -> dict[str, Any]:
    """A layer's converters and dynamic precision. counts : None on the pair machine, which converts differences."""
    layer, hardware = next(node for node in graph.crossbars if node.name == name).layers[0], graph.hardware
    setting = chosen.setting
    assert isinstance(setting, adc.AdcSetting)
    operations, error = chosen.operations, chosen.error
    counted: dict[str, Any] = {}
    if counts is not None:
        operations, error = adc.score_setting(setting, counts.counts, hardware)
        skipping, _ = adc.score_setting(setting, counts.used(True), hardware)
        counted = {
            "operations_per_conversion_skipping_zero_slices": skipping,
            "histogram": counts.counts.sum(axis=(0, 1)).tolist(),
            "histogram_classes": counts.counts.tolist(),
            "zero_slice_conversions": counts.zero_slices.tolist(),
        }
    return {
        "name": name,
        "family": chosen.family,
        "registers": asdict(setting.registers),
        "counts_per_lsb": setting.counts_per_lsb,
        "lossless": setting.lossless(hardware),
        "operations_per_conversion": operations,
        "mean_squared_error": error,
        "dynamic": None if layer.dynamic is None else asdict(layer.dynamic),
        "stop_bits": layer.stop_bits,
        **counted,
    }


def _events_record(plain: Graph, steps: Mapping[str, Graph], images: np.ndarray) -> dict[str, Any]:
    """Mean work, energy and clocks of one image, step by step.

    `baseline`: ISAAC-like, nothing skipped. `uniform`: stored planes only. `trq`: converters calibrated for a machine
    that skips nothing. `redy_lossless`: deployed converters, empty high bits dropped. `redy`: plus low bits.
    `all`: plus zero-slice skipping if chosen, the deployed setting. Steps on a pair machine have no energy here.
    """
    table = load_table()
    listed = [("baseline", machines.baseline(plain))]
    listed += [(name, machines.counted(name, graph, images, threads=None)) for name, graph in steps.items()]
    record: dict[str, Any] = {"images": len(images), "component_table": table.name, "per_image": {}}
    for name, machine in listed:
        counted = plain.hardware.pairs and name != "baseline"
        index = {counter: COUNTER_NAMES.index(counter) for counter in _SHOWN}
        conversions = machine.conversions
        record["per_image"][name] = {
            **{counter: machine.total(counter) for counter in index},
            "conversions": conversions,
            "operations_per_conversion": machine.total("ad_operations") / conversions if conversions else 0.0,
            "clocks": machine.clocks,
            "picojoules": None if counted else energy(machine, table).total_pj,
            "layers": {
                node.name: {counter: float(machine.events[row, place]) for counter, place in index.items()}
                for row, node in enumerate(plain.crossbars)
            },
        }
    base, found = record["per_image"]["baseline"], record["per_image"]
    record["share_of_baseline_operations_per_conversion"] = (
        found["trq"]["operations_per_conversion"] / base["operations_per_conversion"]
    )
    record["share_of_baseline_operations"] = found["all"]["ad_operations"] / base["ad_operations"]
    return record


# ---- command line -------------------------------------------------------------------------------
def print_calibration(result: Mapping[str, Any]) -> None:
    """Registers of every layer, accuracy and work, in a few lines."""
    show = console.print
    width = max(len(layer["name"]) for layer in result["layers"])
    for layer in result["layers"]:
        r, d = layer["registers"], layer["dynamic"]
        show(
            f"{layer['name']:{width}s} {layer['family']:8s} n_r1 {r['n_r1']} n_r2 {r['n_r2']} m {r['m']}"
            f" bias {r['bias']}  lambda {layer['counts_per_lsb']:g}"
            f"  {layer['operations_per_conversion']:.3f} operations/conversion"
            + ("" if layer["lossless"] else f"  error {layer['mean_squared_error']:.3g}")
            + ("" if d is None else f"  tau_sq {d['tau_sq']} l_max {d['l_max']}")
        )
    words = {"float": "float", "eight_bit": "8 bits", "integer": "BWQ", "trq": "with TRQ", "redy": "with ReDy"}
    shown = "  ".join(f"{words[key]} {100 * value:.2f} %" for key, value in result["accuracy"].items())
    show(f"accuracy: {shown}; converters {'lossless' if result['lossless'] else 'lossy'}")
    show("per image       A/D operations  per conversion  OU activations     clocks  energy, nJ")
    names = {"baseline": "baseline", "uniform": "block widths", "trq": "converters", "redy_lossless": "+ high bits",
             "redy": "+ low bits", "all": "everything"}  # fmt: skip
    for key, step in result["events"]["per_image"].items():
        joules = "-" if step["picojoules"] is None else f"{step['picojoules'] / 1000:,.1f}"
        show(
            f"{names[key]:14s} {step['ad_operations']:15,.0f} {step['operations_per_conversion']:15.3f}"
            f" {step['ou_activations']:15,.0f} {step['clocks']:10,.0f} {joules:>11s}"
        )


def calibrated(
    work: Path,
    dataset: sets.ImageSet,
    wanted: Options,
    *,
    hardware: str | None = None,
    force: bool = False,
    log: Log = lambda text: None,
) -> Graph:
    """WORK/calibrated.graph and WORK/calibration.json, made from WORK/network.graph or found up to date.

    hardware : another machine than the network is on, as the option says it; None keeps the network's.
    """
    source, record, target = stages.network_file(work), work / "calibration.json", work / "calibrated.graph"
    mark = stages.fingerprint(
        "calibrate",
        {**asdict(wanted), "hardware": hardware},
        stages.sources_of("quant.calibrate"),
        network=file_hash(source),
        data=dataset.sha256,
    )
    if not force and stages.finished(record, mark) is not None:
        log(f"{target} is up to date")
        return archive.load(target)
    network = archive.load(source)
    accuracies = _of_training(work, "accuracy")
    if hardware is not None:
        network = options.fitted(network, options.machine(hardware))
    made, found = calibrate(network, dataset, wanted, log)
    found["accuracy"] = {**network.info.get("accuracy", {}), **accuracies, **found["accuracy"]}
    more = ("accuracy", "confusion", "test_images", "events", "lossless")
    info = {**made.info, **{key: found[key] for key in more}, "data": dataset.source}
    made = replace(made, info=json.loads(json.dumps(info)))
    write_atomically(target, lambda temporary: archive.save(made, temporary))
    stages.keep_record(record, mark, [target], {"options": asdict(wanted), **found})
    return made


def _of_training(work: Path, part: str) -> dict[str, Any]:
    """A part of WORK/train.json, {} where nothing was trained."""
    path = work / "train.json"
    found = read_json(path, "").get(part, {}) if path.is_file() else {}
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {part} must be an object, got {found!r}")
    return found


def dataset_of(work: Path, graph: Graph, data: Path | None) -> sets.ImageSet:
    """The data set that the network in `work` was trained on, or another one of the user's choice.

    For a network that was not trained here --data must be given.
    """
    if data is not None:
        return dataset_of_graph(graph, data)
    if not ((work / "train.json").is_file() and (work / "recipe.toml").is_file()):
        raise ValueError(f"--data is needed: {work} does not say what its network was trained on")
    found = dataset_of_graph(graph, read_recipe(work / "recipe.toml").get("data"))
    if found.sha256 != _of_training(work, "data").get("sha256"):
        raise ValueError(f"{found.source} has changed since the training in {work}: train again, or give --data")
    return found


@command
@options.takes("wanted", Options)
def app(
    wanted: Options,
    work: options.Work = options.DEFAULT_WORK,
    data: options.Data = None,
    hardware: options.Hardware = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Converters are exact (the default).")] = False,
    force: options.Force = False,
    json_file: options.Json = None,
) -> None:
    """Choose the registers of WORK/network.graph and write WORK/calibrated.graph and WORK/calibration.json."""
    if lossless and wanted.tolerance is not None:
        raise ValueError("--lossless and --tolerance exclude each other")
    dataset = dataset_of(work, archive.load(stages.network_file(work)), data)
    with progress_bar() as tell:

        def log(text: str) -> None:
            tell(text, 0, 0)
            console.print(text)

        calibrated(work, dataset, wanted, hardware=hardware, force=force, log=log)
    result = read_json(work / "calibration.json", "")
    if json_file is not None:
        write_json(json_file, result)
    print_calibration(result)


if __name__ == "__main__":
    app()
