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

Every finished part (accuracy of a network, a ladder) is kept (quant.reproduce.study) and used again as long as data,
networks, options and code are the same.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from golden_model.command import Json, command, progress_bar, results_console, table_of
from golden_model.config import PAPER
from golden_model.cost import machines
from golden_model.cost.components import load_table, table_names
from golden_model.cost.tables import chip_table, group_table, source_lines, trace_lines, work_table
from golden_model.files import read_json
from golden_model.graph.network import Graph
from golden_model.image import archive as graph_file
from quant import stages
from quant.reference import accuracy, exact_logits
from quant.reproduce import study as shared
from quant.reproduce.ladder import ladder, lossy_accuracy
from quant.reproduce.ladder import names as machine_names
from quant.reproduce.study import drawing, percent
from quant.search import registers as redy_registers

TRAINED = stages.PACKAGE / "trained"
#: What BWQ's paper reports, over its own baseline (system.md §12); keys as in the rows of a ladder.
REPORTED = {"machine": "BWQ's paper, over its own baseline", "speed": 6.08, "energy_saving": 17.47}
POST_TRAINING = "8 bits after training"
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
    machine = machines.layer_wise if network.layer_wise else machines.block_widths
    return machine(network.graph, own_input_bits=True).total("ou_activations")


def by_recipe(trained: Iterable[Trained]) -> dict[str, list[Trained]]:
    groups: dict[str, list[Trained]] = defaultdict(list)
    for one in trained:
        groups[one.recipe].append(one)
    return dict(groups)


# ---- printing -----------------------------------------------------------------------------------
def compression_table(groups: dict[str, list[Trained]], measured: dict[str, float]) -> Table:
    """Accuracy of every seed, and bits, of every recipe. measured : accuracy by network, "float" of the float one."""
    records = []
    for recipe, seeds in groups.items():
        widths = [one.report["widths"] for one in seeds]
        kinds = widths[0]["compression"]
        records.append(
            {
                "recipe": recipe,
                "seeds": ", ".join(str(one.settings["seed"]) for one in seeds),
                "top": " / ".join(percent(measured[one.name]) for one in seeds),
                "bits": np.mean([w["mean_bits"] for w in widths]),
                **{kind: np.mean([w["compression"][kind] for w in widths]) for kind in kinds},
                "activations": np.mean([ou_activations(one) for one in seeds]) / 1e6,
            }
        )
    columns = [
        ("recipe", "{recipe}"),
        ("seeds", "{seeds}"),
        ("top-1, %", "{top}"),
        ("bits a weight", "{bits:.3f}"),
        ("32 / bits", "{magnitude:.1f}x"),
        ("with signs", "{with_sign:.1f}x"),
        ("and widths", "{with_sign_and_table:.1f}x"),
        ("OU activations", "{activations:.2f} M"),
    ]
    return table_of(f"trained networks; float {percent(measured['float'])} %", columns, records, right=True)


def picture(result: dict[str, Any], path: Path) -> None:
    """Speed and energy over the baseline, one panel for each network."""
    ladders = {name: by_table[TABLES[0]] for name, by_table in result["ladders"].items()}
    with drawing(path, "", len(ladders), 1, (11, 3.6)) as axes:
        for axis, (name, rows) in zip(axes[:, 0], ladders.items(), strict=True):
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


# ---- what is measured ---------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Subject:
    """A network with a ladder. layer_network : trained with one width per layer, if there is one to compare with."""

    name: str
    graph: Graph
    layer_network: Graph | None = None
    redy: redy_registers.Registers | None = None

    def key(self) -> dict[str, Any]:
        """Everything that decides its events, JSON-able."""
        lossy = None
        if self.redy is not None:
            layers = {name: asdict(one) for name, one in self.redy.layers.items()}
            lossy = {"group_segments": self.redy.group_segments, "layers": layers}
        rival = None if self.layer_network is None else _mark(self.layer_network)
        return {"graph": _mark(self.graph), "layer_network": rival, "redy": lossy}


def _mark(graph: Graph) -> str:
    return hashlib.sha256(graph_file.to_bytes(graph)).hexdigest()


@dataclass(frozen=True, eq=False, kw_only=True)
class Study(shared.Study):
    """Ladders of networks; `images` are those of accuracies.

    counted_images : test images whose events are counted. count_images : training images that choose searches. pairs :
    budget of `machines.compare`.
    """

    MODULE: ClassVar[str] = "quant.reproduce.bwq"
    FOLDER: ClassVar[str] = "bwq"

    counted_images: int
    count_images: int
    pairs: int | None

    @property
    def counted(self) -> np.ndarray:
        """Images whose events are counted, uint8 (B, C, H, W)."""
        return np.array(self.parts.test_images[: self.counted_images])

    @property
    def training(self) -> np.ndarray:
        """Images that choose searches."""
        return self.parts.calibration[: self.count_images]

    def accuracy(self, name: str, graph: Graph) -> float:
        """Of the integers; all conversion is lossless."""

        def made() -> float:
            return accuracy(exact_logits(graph, self.x, progress=self.told(f"accuracy of {name}")), self.y)

        return self.kept(f"accuracy of {name}", made, images=len(self.x), graph=_mark(graph))

    def lossy_accuracy(self, one: Subject) -> dict[str, Any]:
        """With ReDy's registers, and how those were chosen."""
        assert one.redy is not None
        redy = one.redy

        def made() -> float:
            return lossy_accuracy(one.graph, redy, self.x, self.y, self.threads, self.tell)

        found = self.kept(f"lossy accuracy of {one.name}", made, images=len(self.x), **one.key())
        return {"accuracy": found, **redy.about}

    def ladder(self, one: Subject) -> dict[str, list[dict[str, Any]]]:
        """Component table -> rows of all machines, as `Row.as_dict` and with their "trace"."""

        def made() -> dict[str, list[dict[str, Any]]]:
            found = ladder(
                one.graph, self.training, self.counted, layer_network=one.layer_network, redy=one.redy,
                threads=self.threads, tell=lambda what, done, total: self.tell(f"{one.name}: {what}", done, total),
            )  # fmt: skip
            return {
                name: [
                    {**row.as_dict(), "trace": trace_lines(row)}
                    for row in machines.compare(found, load_table(name), budget=self.pairs)
                ]
                for name in TABLES
            }

        counts = {"images": len(self.counted), "count_images": len(self.training), "pairs": self.pairs}
        return self.kept(f"ladder of {one.name}", made, **counts, **one.key())


# ---- command line -------------------------------------------------------------------------------
@command
def app(
    network: shared.Network,
    weights: shared.Weights,
    data: shared.Data,
    trained: Annotated[Path, typer.Option(help="Folder of folders that quant.train wrote.")] = TRAINED,
    ladders: Annotated[
        str | None,
        typer.Option(help="Trained networks to run, between commas; default the first of each recipe; 'none'."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Test images whose events are counted.")] = 32,
    count_images: Annotated[int, typer.Option(min=1, help="Training images that choose trees and twin ranges.")] = 32,
    accuracy_images: Annotated[int | None, typer.Option(min=1, help="Default all test images.")] = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Budget of crossbar pairs: slow layers are copied until it is used up.")
    ] = None,
    threads: shared.Threads = None,
    trace: Annotated[
        str | None, typer.Option(help="Print the products behind every machine whose name contains this text.")
    ] = None,
    work: shared.Work = None,
    json_file: Json = None,
) -> None:
    """Compression, accuracy, speed and energy of block-wise trained networks, beside the paper's figures."""
    with progress_bar() as tell:
        study = Study.open(
            data, network, weights, work=work, images=accuracy_images, counted_images=images,
            count_images=count_images, pairs=pairs, threads=threads, tell=tell,
        )  # fmt: skip
        kept = load_trained(trained, study.name)
        chosen = _chosen(kept, ladders)
        subjects = [Subject(POST_TRAINING, study.graph(PAPER))]
        subjects += [Subject(one.name, one.graph, _layer_network(kept, one), one.redy) for one in chosen]
        if trace is not None:
            _check_trace(trace, subjects)
        found = measure(study, subjects, kept)
    result = {**found, "ladders": _without_traces(found["ladders"])}
    show(results_console(180), result, by_recipe(kept))
    if trace is not None:
        show_trace(found["ladders"], trace)
    shared.save(study, result, json_file, picture)


def measure(study: Study, subjects: Sequence[Subject], kept: Sequence[Trained]) -> dict[str, Any]:
    """Accuracy of all networks and the ladders of `subjects`, the first of which was quantised after training."""
    graphs = {subjects[0].name: subjects[0].graph, **{one.name: one.graph for one in kept}}
    return {
        "network": study.name,
        "data": study.dataset.source,
        "images": len(study.counted),
        "count_images": len(study.training),
        "accuracy_images": len(study.x),
        "pairs": study.pairs,
        "paper": REPORTED,
        "accuracy": {
            "float": study.float_accuracy(),
            **{name: study.accuracy(name, graph) for name, graph in graphs.items()},
        },
        "trained": {
            one.name: {
                "recipe": one.recipe,
                "command": one.report.get("command"),
                "widths": one.report["widths"],
                "ou_activations": ou_activations(one),
            }
            for one in kept
        },
        "lossy_redy": {one.name: study.lossy_accuracy(one) for one in subjects if one.redy is not None},
        "ladders": {one.name: study.ladder(one) for one in subjects},
    }


def show(printed: Console, result: dict[str, Any], groups: dict[str, list[Trained]]) -> None:
    """All tables of a result; groups : trained networks by recipe."""
    measured = result["accuracy"]
    if groups:
        printed.print(compression_table(groups, measured))
    for name, by_table in result["ladders"].items():
        printed.rule(f"{name}: {percent(measured[name])} %")
        if name in result["lossy_redy"]:
            lossy = result["lossy_redy"][name]["accuracy"]
            printed.print(
                f"with lossy ReDy: {percent(lossy)} % ({100 * (lossy - measured[name]):+.2f}) on"
                f" {result['accuracy_images']} test images"
            )
        for table, rows in by_table.items():
            printed.print(work_table([REPORTED, *rows], f"one image, {load_table(table).title}"))
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
