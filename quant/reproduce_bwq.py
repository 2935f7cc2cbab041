"""What block-wise widths earn, step by step: `python -m quant.reproduce_bwq` (BWQ; system.md §5, §8, §11, §13).

    python -m quant.reproduce_bwq --network resnet20 --weights FILE --data FILE

Two tables of networks trained by quant.train_network (those kept in quant/trained, or --trained DIR): compression
and accuracy of each with all seeds, and how many operation-unit activations blocks save against one width per layer.
Then, for one network of each recipe and for the float network quantised after training, a ladder of machines: the
ISAAC-like baseline, rivals, and the steps from block widths alone to everything, each with events counted by the
golden model, clocks and energy (golden_model.machines). All A/D conversion is lossless, so a network's accuracy is
that of its integers; it is measured here on the test images. Networks with registers of lossy ReDy beside them
(redy.json, quant.redy_registers) get steps with those on top, and their accuracy with them is measured too.

Search trees and twin-range registers are chosen on training images; events are counted on test images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from golden_model import graph_file, machines
from golden_model.baselines import layer_wise_events
from golden_model.components import load_table, table_names
from golden_model.config import PAPER
from golden_model.cost_command import print_rows, print_trace
from golden_model.graph import Graph
from golden_model.machines import Machine, Row
from quant import networks, pipeline, redy_registers
from quant.bwq_ladder import ladder, lossy_accuracy
from quant.evaluate import float_logits, load_ready
from quant.import_network import from_torch
from quant.integer import accuracy
from quant.reference import exact_logits

TRAINED = pipeline.PACKAGE / "trained"
#: What the papers report, over their own baselines (system.md §12).
PAPER_SPEED, PAPER_SAVING = 6.08, 17.47
POST_TRAINING = "8 bits after training"
TABLES = tuple(name for name in table_names() if name != "trq-adc")


# ---- trained networks ---------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Trained:
    """A network that quant.train_network made: its report, its integer graph, and lossy ReDy if it was chosen."""

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
        s = self.settings
        block = {"ou": "operation units", "layer": "layers"}.get(self.report["options"]["block"], "")
        return (
            f"{s['method']}, widths of {block or self.report['options']['block']}, {s['activation_bits']}-bit"
            f" activations, penalty by {s['weighting']}, target {s['target_bits']:g}"
        )

    @property
    def layer_wise(self) -> bool:
        return self.report["options"]["block"] == "layer"


def load_trained(folder: Path, network: str) -> list[Trained]:
    """All trained networks in the folders of `folder` whose float network is `network`, by name.

    ValueError names a file that is missing or broken.
    """
    found = []
    for report in sorted(folder.glob("*/train.json")):
        content = pipeline.read_json(report, "")
        if "options" not in content or "widths" not in content:
            raise ValueError(f"{report} is not a report of quant.train_network")
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


def picture(ladders: dict[str, list[Row]], path: Path) -> None:
    """Speed and energy over the baseline, one panel for each network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6 * len(ladders)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(ladders), 1, squeeze=False)[:, 0]
    for axis, (name, rows) in zip(axes, ladders.items(), strict=True):
        place = np.arange(len(rows))
        axis.barh(place - 0.2, [row.speed for row in rows], 0.4, label="speed")
        axis.barh(place + 0.2, [row.saving for row in rows], 0.4, label="energy")
        axis.set_yticks(place, [row.machine.name for row in rows])
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.axvline(PAPER_SPEED, color="C0", linestyle=":", label="BWQ's paper, speed")
        axis.axvline(PAPER_SAVING, color="C1", linestyle=":", label="BWQ's paper, energy")
        axis.set_title(name)
        axis.set_xlabel("times the baseline")
        axis.legend(loc="lower right")
    pipeline.write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))


# ---- command line -------------------------------------------------------------------------------
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@pipeline.reports_errors
def main(
    network: Annotated[str, typer.Option(help=f"One of {', '.join(networks.READY)}.")],
    weights: Annotated[Path, typer.Option(help="Of the float network: state dict, .npz or .safetensors.")],
    data_path: Annotated[Path, typer.Option("--data", help="CIFAR-10 batches, idx files, pictures or an .npz file.")],
    trained: Annotated[Path, typer.Option(help="Folder of folders that quant.train_network wrote.")] = TRAINED,
    ladders: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it at run time
        typer.Option(help="Trained networks to run, between commas; default the first of each recipe; 'none'."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Test images whose events are counted.")] = 32,
    count_images: Annotated[int, typer.Option(min=1, help="Training images that choose trees and twin ranges.")] = 32,
    accuracy_images: Annotated[Optional[int], typer.Option(min=1, help="Default all test images.")] = None,  # noqa: UP045
    threads: Annotated[Optional[int], typer.Option(min=1, help="Default all cores.")] = None,  # noqa: UP045
    trace: Annotated[Optional[str], typer.Option(help="Print the products behind machines of this name.")] = None,  # noqa: UP045
    work: Annotated[Optional[Path], typer.Option(help="Default build/bwq/NETWORK.")] = None,  # noqa: UP045
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Also write the results here.")] = None,  # noqa: UP045
) -> None:
    """Compression, accuracy, speed and energy of block-wise trained networks, beside the paper's figures."""
    known, model, dataset = load_ready(network, weights, data_path)
    kept = load_trained(trained, network)
    chosen = _chosen(kept, ladders)
    work = work or Path("build/bwq") / network
    printed = Console(highlight=False)
    printed = printed if printed.is_terminal else Console(highlight=False, width=150)
    test, labels = np.array(dataset.test_images[:accuracy_images]), dataset.test_labels[:accuracy_images]
    with Bar(console=pipeline.console, disable=not pipeline.console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        def share(graph: Graph, name: str) -> float:
            exact = exact_logits(graph, test, progress=lambda done, total: tell(f"accuracy of {name}", done, total))
            return accuracy(exact, labels)

        float_accuracy = accuracy(
            float_logits(model, test, known.normalisation, lambda d, t: tell("float network", d, t)), labels
        )
        post = from_torch(
            model, dataset.shape, PAPER, dataset.calibration(), normalisation=known.normalisation, name=network
        )
        graphs = {POST_TRAINING: post, **{one.name: one.graph for one in chosen}}
        measured = {POST_TRAINING: share(post, POST_TRAINING)} | {one.name: share(one.graph, one.name) for one in kept}
        redy = {one.name: one.redy for one in chosen if one.redy is not None}
        lossy = {name: lossy_accuracy(graphs[name], found, test, labels, threads, tell) for name, found in redy.items()}
        found: dict[str, list[Machine]] = {}
        for name, graph in graphs.items():
            found[name] = ladder(
                graph, dataset.calibration()[:count_images], np.array(dataset.test_images[:images]),
                layer_network=_layer_network(kept, name), redy=redy.get(name), threads=threads,
                tell=lambda what, done, total, name=name: tell(f"{name}: {what}", done, total),
            )  # fmt: skip
    groups = by_recipe(kept)
    if groups:
        printed.print(compression_table(groups, measured, float_accuracy))
    result: dict[str, Any] = {
        "network": network,
        "data": dataset.source,
        "images": images,
        "count_images": min(count_images, len(dataset.calibration())),
        "accuracy_images": len(test),
        "accuracy": {"float": float_accuracy, **measured},
        "trained": {
            one.name: {
                "recipe": one.recipe,
                "command": one.report.get("command"),
                "widths": one.report["widths"],
                "ou_activations": ou_activations(one),
            }
            for one in kept
        },
        "lossy_redy": {name: {"accuracy": lossy[name], **one.about} for name, one in redy.items()},
        "ladders": {},
    }
    first: dict[str, list[Row]] = {}
    for name, steps in found.items():
        printed.rule(f"{name}: {100 * measured[name]:.2f} %")
        if name in lossy:
            printed.print(
                f"with lossy ReDy: {100 * lossy[name]:.2f} % ({100 * (lossy[name] - measured[name]):+.2f}) on"
                f" {len(test)} test images"
            )
        result["ladders"][name] = {}
        for table_name in TABLES:
            rows = machines.compare(steps, load_table(table_name))
            first.setdefault(name, rows)
            print_rows(printed, rows)
            if trace is not None:
                print_trace(rows, trace)
            result["ladders"][name][table_name] = [row.as_dict() for row in rows]
    printed.print(f"BWQ's paper: {PAPER_SPEED}x speed, {PAPER_SAVING}x energy over ReRAM machines, on average.")
    pipeline.write_json(work / "result.json", result)
    picture(first, work / "result.png")
    printed.print(f"results: {work / 'result.json'}   picture: {work / 'result.png'}")
    if json_file is not None:
        pipeline.write_json(json_file, result)


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


def _layer_network(kept: Sequence[Trained], name: str) -> Graph | None:
    """The network trained with one width per layer that has the activation widths of `name`."""
    bits = next((one.settings["activation_bits"] for one in kept if one.name == name), 8)
    rivals = [one.graph for one in kept if one.layer_wise and one.settings["activation_bits"] == bits]
    return rivals[0] if rivals and name != POST_TRAINING else None


if __name__ == "__main__":
    app()
