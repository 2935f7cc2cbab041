"""What block-wise widths earn, step by step: `python -m quant.reproduce.bwq` (BWQ; system.md §5, §8, §11, §13).

    python -m quant.reproduce.bwq --network resnet20 --weights FILE --data FILE

Two tables of networks trained by quant.train (those kept in quant/trained, or --trained DIR): compression
and accuracy of each with all seeds, and how many operation-unit activations blocks save against one width per layer.
Then, for one network of each recipe and for the float network quantised after training, a ladder of machines: the
ISAAC-like baseline, rivals, and the steps from block widths alone to everything, each with events counted by the
golden model, clocks and energy (golden_model.cost.machines). All A/D conversion is lossless, so a network's accuracy is
that of its integers; it is measured here on the test images. Networks with registers of lossy ReDy beside them
(redy.json, quant.search.registers) get steps with those on top, and their accuracy with them is measured too.

Search trees and twin-range registers are chosen on training images; events are counted on test images.

Every finished part (accuracy of a network, a ladder) is kept in the working directory and used again as long as data,
networks, options and code are the same, so an interrupted command goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table
from torch import nn

from golden_model.command import console, reports_errors, results_console
from golden_model.config import PAPER
from golden_model.cost import machines
from golden_model.cost.__main__ import source_lines, trace_lines
from golden_model.cost.baselines import layer_wise_events
from golden_model.cost.components import load_table, table_names
from golden_model.engines.run_network import Progress
from golden_model.files import file_hash, read_json, write_atomically, write_json
from golden_model.graph.network import Graph
from golden_model.image import archive as graph_file
from quant import stages
from quant.capture.capture import from_torch
from quant.networks import zoo as networks
from quant.networks.pixels import float_logits
from quant.networks.source import load_ready
from quant.reference import accuracy, exact_logits
from quant.reproduce.ladder import Tell, ladder, lossy_accuracy
from quant.reproduce.ladder import names as machine_names
from quant.search import registers as redy_registers

TRAINED = stages.PACKAGE / "trained"
#: What BWQ's paper reports, over its own baseline (system.md §12); keys as in the rows of a ladder.
REPORTED = {"machine": "BWQ's paper, over its own baseline", "speed": 6.08, "energy_saving": 17.47}
POST_TRAINING = "8 bits after training"
#: Modules of this package that decide what is measured.
#: Network -> component table -> rows of its machines.
Ladders = dict[str, dict[str, list[dict[str, Any]]]]
TABLES = tuple(name for name in table_names() if name != "trq-adc")


# ---- trained networks ---------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Trained:
    """A network that quant.train made: its report, its integer graph, and lossy ReDy if it was chosen."""

    name: str
    report: dict[str, Any]
    graph: Graph
    redy: redy_registers.Registers | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return self.report["options"]["settings"]

    @property
    def recipe(self) -> str:
        """What was trained, without the seed."""
        s, block = self.settings, self.report["options"]["block"]
        widths = {"ou": "operation units", "layer": "layers"}.get(block, block)
        if not s["quantise_epochs"]:
            penalty = "widths not trained further"
        else:
            steered = f"factor {s['alpha']:g}" if s["method"] == "bitplane" else f"target {s['target_bits']:g}"
            penalty = f"penalty by {s['weighting']}, {steered}"
        return f"{s['method']}, widths of {widths}, {s['activation_bits']}-bit activations, {penalty}"

    @property
    def layer_wise(self) -> bool:
        return self.report["options"]["block"] == "layer"


def load_trained(folder: Path, network: str) -> list[Trained]:
    """All trained networks in the folders of `folder` whose float network is `network`, by name.

    ValueError names a file that is missing or broken.
    """
    found = []
    for report in sorted(folder.glob("*/train.json")):
        content = read_json(report, "")
        if "options" not in content or "widths" not in content:
            raise ValueError(f"{report} is not a report of quant.train")
        if content["options"]["settings"]["model"] == network:
            file, registers = report.parent / "network.graph", report.parent / redy_registers.FILE_NAME
            graph = graph_file.load(file)
            redy = redy_registers.load(registers, file, graph) if registers.exists() else None
            found.append(Trained(report.parent.name, content, graph, redy))
    return found


def ou_activations(network: Trained) -> float:
    """OU activations of one image without any skipping of inputs, at the network's own activation widths.

    With one width per layer every block of the layer is as wide as its widest.
    """
    if network.layer_wise:
        return float(layer_wise_events(network.graph, own_input_bits=True).ou_activations.sum())
    return machines.block_widths(network.graph, own_input_bits=True).total("ou_activations")


def by_recipe(trained: Iterable[Trained]) -> dict[str, list[Trained]]:
    groups: dict[str, list[Trained]] = defaultdict(list)
    for one in trained:
        groups[one.recipe].append(one)
    return dict(groups)


# ---- printing -----------------------------------------------------------------------------------
def _percent(values: Sequence[float]) -> str:
    return " / ".join(f"{100 * v:.2f}" for v in values)


def compression_table(groups: dict[str, list[Trained]], measured: dict[str, float], float_accuracy: float) -> Table:
    """Accuracy of every seed, and bits, of every recipe."""
    table = Table("recipe", title=f"trained networks; float {100 * float_accuracy:.2f} %")
    for name in ("seeds", "top-1, %", "bits a weight", "32 / bits", "with signs", "and widths", "OU activations"):
        table.add_column(name, justify="right")
    for recipe, seeds in groups.items():
        widths = [one.report["widths"] for one in seeds]

        def mean(key: str, widths: list[dict[str, Any]] = widths) -> str:
            return f"{np.mean([w['compression'][key] for w in widths]):.1f}x"

        table.add_row(
            recipe,
            ", ".join(str(one.settings["seed"]) for one in seeds),
            _percent([measured[one.name] for one in seeds]),
            f"{np.mean([w['mean_bits'] for w in widths]):.3f}",
            mean("magnitude"),
            mean("with_sign"),
            mean("with_sign_and_table"),
            f"{np.mean([ou_activations(one) for one in seeds]) / 1e6:.2f} M",
        )
    return table


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of machines: names to the left, figures to the right."""
    table = Table("machine", title=title)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _per_conversion(row: dict[str, Any]) -> str:
    return f"{row['ad_operations'] / row['conversions']:.2f}" if row["conversions"] else "-"


def work_table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """Work, clocks and energy of one image on every machine, below what BWQ's paper reports over its own baseline."""
    reported = [REPORTED["machine"], *"----", f"{REPORTED['speed']}x", "-", f"{REPORTED['energy_saving']}x"]
    columns = ("OU activations", "A/D operations", "per conversion", "clocks", "speed", "energy, nJ", "saving")
    measured = (
        [
            row["machine"], f"{row['ou_activations']:,.0f}", f"{row['ad_operations']:,.0f}", _per_conversion(row),
            f"{row['clocks']:,.0f}", f"{row['speed']:.2f}x", f"{row['picojoules'] / 1000:,.1f}",
            f"{row['energy_saving']:.2f}x",
        ]
        for row in rows
    )  # fmt: skip
    return _table(title, columns, [reported, *measured])


def group_table(rows: Sequence[dict[str, Any]]) -> Table:
    groups = list(rows[0]["picojoules_by_group"])
    measured = ([r["machine"], *(f"{r['picojoules_by_group'][g] / 1000:,.1f}" for g in groups)] for r in rows)
    return _table("energy by group, nJ", groups, measured)


def chip_table(rows: Sequence[dict[str, Any]], pairs: int | None) -> Table:
    """Every machine with one copy of each layer; with a budget also with copies of slow layers, where they fit."""
    title = "on a chip, every layer on its own macros"
    title += "" if pairs is None else f"; balanced: slow layers copied, up to {pairs} crossbar pairs"
    columns = ("pairs", "mm2", "OUs used", "cells used", "tiles", "latency", "interval", "busy")
    shown = []
    for row in rows:
        for name, chip in ((row["machine"], row["chip"]), ("  balanced", row.get("pipeline"))):
            if chip is not None:
                area = "-" if chip["mm2"] is None else f"{chip['mm2']:.3f}"
                shares = (f"{chip[key]:.0%}" for key in ("ou_utilisation", "cell_utilisation"))
                clocks = (f"{chip[key]:,.0f}" for key in ("latency_clocks", "interval_clocks"))
                shown.append(
                    [name, str(chip["pairs"]), area, *shares, str(chip["tiles"]), *clocks, f"{chip['busy']:.0%}"]
                )
    return _table(title, columns, shown)


def picture(ladders: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Speed and energy over the baseline, one panel for each network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6 * len(ladders)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(ladders), 1, squeeze=False)[:, 0]
    for axis, (name, rows) in zip(axes, ladders.items(), strict=True):
        place = np.arange(len(rows))
        axis.barh(place - 0.2, [row["speed"] for row in rows], 0.4, label="speed")
        axis.barh(place + 0.2, [row["energy_saving"] for row in rows], 0.4, label="energy")
        axis.set_yticks(place, [row["machine"] for row in rows])
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.axvline(REPORTED["speed"], color="C0", linestyle=":", label="BWQ's paper, speed")
        axis.axvline(REPORTED["energy_saving"], color="C1", linestyle=":", label="BWQ's paper, energy")
        axis.set_title(name)
        axis.set_xlabel("times the baseline")
        axis.legend(loc="lower right")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))


# ---- what is measured ---------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Subject:
    """A network with a ladder. layer_network : trained with one width per layer, if there is one to compare with."""

    name: str
    graph: Graph
    layer_network: Graph | None = None
    redy: redy_registers.Registers | None = None


@dataclass(frozen=True, eq=False)
class Measuring:
    """What is measured on, and how; every finished part is kept in `parts` and not measured again.

    test, labels : for accuracy. images : uint8 (B, C, H, W) whose events are counted. calibration : that choose
    searches. data : fingerprint of all of them. pairs : budget of `machines.compare`.
    """

    test: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    calibration: np.ndarray
    data: str
    pairs: int | None
    threads: int | None
    parts: stages.Cache
    tell: Tell

    def _part(self, name: str, make: Callable[[], Any], options: dict[str, Any], **inputs: str) -> Any:
        key = stages.fingerprint(name, options, stages.sources_of("quant.reproduce.bwq"), data=self.data, **inputs)
        return self.parts.get(name, key, make)

    def _told(self, what: str) -> Progress:
        return lambda done, total: self.tell(what, done, total)

    def float_accuracy(self, network: str, model: nn.Module, weights: str) -> float:
        """network : name of a ready-made one. weights : fingerprint of those of `model`."""

        def make() -> float:
            normalisation = networks.ready(network).normalisation
            return accuracy(float_logits(model, self.test, normalisation, self._told("float network")), self.labels)

        return self._part("float accuracy", make, {"images": len(self.test), "network": network}, weights=weights)

    def accuracy(self, name: str, graph: Graph) -> float:
        """Of the integers; all conversion is lossless."""

        def make() -> float:
            return accuracy(exact_logits(graph, self.test, progress=self._told(f"accuracy of {name}")), self.labels)

        return self._part(f"accuracy of {name}", make, {"images": len(self.test)}, graph=_mark(graph))

    def lossy_accuracy(self, one: Subject) -> float:
        """With ReDy's registers."""
        assert one.redy is not None
        redy = one.redy

        def make() -> float:
            return lossy_accuracy(one.graph, redy, self.test, self.labels, self.threads, self.tell)

        options = {"images": len(self.test), "redy": _options(redy)}
        return self._part(f"lossy accuracy of {one.name}", make, options, graph=_mark(one.graph))

    def ladder(self, one: Subject) -> dict[str, list[dict[str, Any]]]:
        """Component table -> rows of all machines, as `Row.as_dict` and with their "trace"."""

        def make() -> dict[str, list[dict[str, Any]]]:
            made = ladder(
                one.graph, self.calibration, self.images, layer_network=one.layer_network, redy=one.redy,
                threads=self.threads, tell=lambda what, done, total: self.tell(f"{one.name}: {what}", done, total),
            )  # fmt: skip
            return {
                name: [
                    {**row.as_dict(), "trace": trace_lines(row)}
                    for row in machines.compare(made, load_table(name), budget=self.pairs)
                ]
                for name in TABLES
            }

        options = {
            "images": len(self.images), "count_images": len(self.calibration), "pairs": self.pairs,
            "redy": None if one.redy is None else _options(one.redy), "tables": TABLES,
        }  # fmt: skip
        layers = "" if one.layer_network is None else _mark(one.layer_network)
        return self._part(f"ladder of {one.name}", make, options, graph=_mark(one.graph), layer_network=layers)


def _mark(graph: Graph) -> str:
    return hashlib.sha256(graph_file.to_bytes(graph)).hexdigest()


def _options(redy: redy_registers.Registers) -> dict[str, Any]:
    layers = {name: asdict(one) for name, one in redy.layers.items()}
    return {"group_segments": redy.group_segments, "layers": layers}


# ---- command line -------------------------------------------------------------------------------
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@reports_errors
def main(
    network: Annotated[str, typer.Option(help=f"One of {', '.join(networks.READY)}.")],
    weights: Annotated[Path, typer.Option(help="Of the float network: state dict, .npz or .safetensors.")],
    data_path: Annotated[Path, typer.Option("--data", help="CIFAR-10 batches, idx files, pictures or an .npz file.")],
    trained: Annotated[Path, typer.Option(help="Folder of folders that quant.train wrote.")] = TRAINED,
    ladders: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it at run time
        typer.Option(help="Trained networks to run, between commas; default the first of each recipe; 'none'."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Test images whose events are counted.")] = 32,
    count_images: Annotated[int, typer.Option(min=1, help="Training images that choose trees and twin ranges.")] = 32,
    accuracy_images: Annotated[Optional[int], typer.Option(min=1, help="Default all test images.")] = None,  # noqa: UP045
    pairs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Budget of crossbar pairs: slow layers are copied until it is used up."),
    ] = None,
    threads: Annotated[Optional[int], typer.Option(min=1, help="Default all cores.")] = None,  # noqa: UP045
    trace: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Print the products behind every machine whose name contains this text."),
    ] = None,
    work: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Results, and finished parts to go on from. Default build/bwq/NETWORK."),
    ] = None,
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Also write the results here.")] = None,  # noqa: UP045
) -> None:
    """Compression, accuracy, speed and energy of block-wise trained networks, beside the paper's figures."""
    known, model, dataset = load_ready(network, weights, data_path)
    kept = load_trained(trained, network)
    chosen = _chosen(kept, ladders)
    post = from_torch(
        model, dataset.shape, PAPER, dataset.calibration(), normalisation=known.normalisation, name=network
    )
    subjects = [Subject(POST_TRAINING, post)]
    subjects += [Subject(one.name, one.graph, _layer_network(kept, one), one.redy) for one in chosen]
    if trace is not None:
        _check_trace(trace, subjects)
    work = work or Path("build/bwq") / network
    with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)
        measuring = Measuring(
            test=np.array(dataset.test_images[:accuracy_images]), labels=dataset.test_labels[:accuracy_images],
            images=np.array(dataset.test_images[:images]), calibration=dataset.calibration()[:count_images],
            data=dataset.sha256, pairs=pairs, threads=threads, parts=stages.Cache(work / "parts"),
            tell=lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None),
        )  # fmt: skip
        float_accuracy = measuring.float_accuracy(network, model, file_hash(weights))
        found = measure(measuring, subjects, kept)
    result = {
        "network": network,
        "data": dataset.source,
        **found,
        "accuracy": {"float": float_accuracy, **found["accuracy"]},
        "ladders": _without_traces(found["ladders"]),
    }
    write_json(work / "result.json", result)
    if json_file is not None:
        write_json(json_file, result)
    picture({name: by_table[TABLES[0]] for name, by_table in found["ladders"].items()}, work / "result.png")
    show(results_console(180), result, by_recipe(kept))
    if trace is not None:
        show_trace(found["ladders"], trace)
    print(f"results: {work / 'result.json'}   picture: {work / 'result.png'}")


def measure(measuring: Measuring, subjects: Sequence[Subject], kept: Sequence[Trained]) -> dict[str, Any]:
    """Accuracy of all networks and the ladders of `subjects`, the first of which was quantised after training."""
    graphs = {subjects[0].name: subjects[0].graph, **{one.name: one.graph for one in kept}}
    lossy = {}
    for one in subjects:
        if one.redy is not None:
            lossy[one.name] = {"accuracy": measuring.lossy_accuracy(one), **one.redy.about}
    return {
        "images": len(measuring.images),
        "count_images": len(measuring.calibration),
        "accuracy_images": len(measuring.test),
        "pairs": measuring.pairs,
        "paper": REPORTED,
        "accuracy": {name: measuring.accuracy(name, graph) for name, graph in graphs.items()},
        "trained": {
            one.name: {
                "recipe": one.recipe,
                "command": one.report.get("command"),
                "widths": one.report["widths"],
                "ou_activations": ou_activations(one),
            }
            for one in kept
        },
        "lossy_redy": lossy,
        "ladders": {one.name: measuring.ladder(one) for one in subjects},
    }


def show(printed: Console, result: dict[str, Any], groups: dict[str, list[Trained]]) -> None:
    """All tables of a result; groups : trained networks by recipe."""
    measured = result["accuracy"]
    if groups:
        printed.print(compression_table(groups, measured, measured["float"]))
    for name, by_table in result["ladders"].items():
        printed.rule(f"{name}: {100 * measured[name]:.2f} %")
        if name in result["lossy_redy"]:
            lossy = result["lossy_redy"][name]["accuracy"]
            printed.print(
                f"with lossy ReDy: {100 * lossy:.2f} % ({100 * (lossy - measured[name]):+.2f}) on"
                f" {result['accuracy_images']} test images"
            )
        for table, rows in by_table.items():
            printed.print(work_table(rows, f"one image, {load_table(table).title}"))
            printed.print(group_table(rows))
            printed.print(chip_table(rows, result["pairs"]))
    printed.print(
        "Clocks: one decision of every converter takes one. Ratios are to the first machine, the paper's to its"
    )
    printed.print("own baseline: existing ReRAM machines, on average.")


def show_trace(ladders: Ladders, name: str) -> None:
    """The products behind every machine whose name contains `name`, in all ladders and component tables."""
    for subject, by_table in ladders.items():
        for table, rows in by_table.items():
            chosen = [row for row in rows if _matches(row["machine"], name)]
            if chosen:
                print(f"# {subject}, {table}")
            for row in chosen:
                print("\n".join(row["trace"]))
    for table in TABLES:
        print("\n".join(source_lines(load_table(table))))


def _matches(machine: str, name: str) -> bool:
    return name.lower() in machine.lower()


def _check_trace(name: str, subjects: Iterable[Subject]) -> None:
    """ValueError unless a machine of some ladder will be called so."""
    known = dict.fromkeys(
        machine for one in subjects for machine in machine_names(one.graph, lossy=one.redy is not None)
    )
    if not any(_matches(machine, name) for machine in known):
        raise ValueError(f"--trace {name}: no machine is called so, there are {'; '.join(known)}")


def _without_traces(ladders: Ladders) -> Ladders:
    return {
        name: {table: [{k: v for k, v in row.items() if k != "trace"} for row in rows] for table, rows in one.items()}
        for name, one in ladders.items()
    }


def _chosen(kept: Sequence[Trained], names: str | None) -> list[Trained]:
    if names == "none":
        return []
    if names is None:
        return [seeds[0] for seeds in by_recipe(k for k in kept if not k.layer_wise).values()]
    known = {one.name: one for one in kept}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise ValueError(f"--ladders: there is no trained network {name!r}; there are {', '.join(known) or 'none'}")
    return [known[name] for name in wanted]


def _layer_network(kept: Sequence[Trained], one: Trained) -> Graph | None:
    """The network trained with one width per layer that has the activation widths of `one`."""
    bits = one.settings["activation_bits"]
    return next((k.graph for k in kept if k.layer_wise and k.settings["activation_bits"] == bits), None)


if __name__ == "__main__":
    app()
