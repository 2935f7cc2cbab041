"""What every study of quant.reproduce shares: options, network and data, parts that are kept, tables and pictures.

A study measures one network as a paper does. Its result is one JSON-able dictionary, from which its tables and its
picture are made. Everything that takes long is a part (`Study.kept`), a file in the working directory: the same command
again goes on where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

import numpy as np
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn

from golden_model.command import results_console
from golden_model.config import ISAAC, PAPER, HardwareConfig
from golden_model.engines.run_network import Progress
from golden_model.files import file_hash, write_atomically, write_json
from golden_model.graph.network import Graph
from golden_model.image import archive as graph_file
from quant import stages
from quant.capture.capture import from_torch
from quant.data import sets as datasets
from quant.networks import zoo as networks
from quant.networks.pixels import Normalisation, float_logits
from quant.networks.source import dataset_of_graph, load_ready
from quant.reference import accuracy, exact_logits

#: Machines by the rows that are on at once.
MACHINES: dict[int, HardwareConfig] = {9: PAPER, 128: ISAAC}

Tell = Callable[[str, int, int], None]
Result = TypeVar("Result")

# ---- options ------------------------------------------------------------------------------------
Network = Annotated[str | None, typer.Option(help=f"One of {', '.join(networks.READY)}.")]
Weights = Annotated[Path | None, typer.Option(help="Of --network: state dict, .npz or .safetensors.")]
GraphFile = Annotated[
    Path | None,
    typer.Option("--graph", help="An integer network (golden_model.image.archive) instead of --network and --weights."),
]
Data = Annotated[Path, typer.Option("--data", help="CIFAR-10 batches, idx files, pictures or an .npz file.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Default all cores.")]
Work = Annotated[
    Path | None, typer.Option(help="Results, and finished parts to go on from. Default build/STUDY/NETWORK.")
]


def picked(option: str, text: str, allowed: Iterable[Any]) -> list[Any]:
    """What a text names between commas, in the order of `allowed`; ValueError for anything else."""
    kinds, parts = {str(x): x for x in allowed}, [part.strip() for part in text.split(",")]
    for part in parts:
        if part not in kinds:
            raise ValueError(f"{option} must be among {', '.join(kinds)}, got {part!r}")
    return [x for name, x in kinds.items() if name in parts]


def numbers(option: str, text: str, kind: type, low: float, high: float) -> list[Any]:
    """Different numbers low..high between commas, in their order; ValueError for anything else."""
    made = dict[Any, None]()
    for part in text.split(","):
        try:
            value = kind(part)
        except ValueError:
            raise ValueError(f"{option} must be numbers between commas, got {part.strip()!r}") from None
        if not low <= value <= high:
            raise ValueError(f"{option} must be in {low:g}..{high:g}, got {part.strip()}")
        made[value] = None
    return list(made)


# ---- what is measured ---------------------------------------------------------------------------
@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """A network and its data; subclasses add what they measure.

    source : fingerprint of the file of weights, or of the graph. model, normalisation : the float network, or None.
    integers : the network of a graph file, or None. images : test images to measure, None for all. check_images :
    training images to check choices on. work : folder of results. tell : told of progress as (what, done, all).
    log : told of finished steps.
    """

    #: Module whose source code decides what is measured, and the folder of its results in build/.
    MODULE: ClassVar[str] = __name__
    FOLDER: ClassVar[str] = ""

    name: str
    dataset: datasets.ImageSet
    source: str
    model: nn.Module | None = None
    normalisation: Normalisation | None = None
    integers: Graph | None = None
    images: int | None = None
    check_images: int = 1
    work: Path = Path("build")
    threads: int | None = None
    tell: Tell = lambda what, done, total: None
    log: Callable[[str], None] = lambda text: None

    @classmethod
    def open(
        cls,
        data: Path,
        network: str | None,
        weights: Path | None,
        graph: Path | None = None,
        *,
        work: Path | None = None,
        **more: Any,
    ) -> Self:
        """The study of a ready-made network with its weights, or of a graph; ValueError where they do not fit."""
        if (graph is None) == (weights is None) or (graph is None) == (network is None):
            raise ValueError("give either --graph FILE, or --network NAME and --weights FILE")
        if graph is not None:
            loaded = graph_file.load(graph)
            dataset = dataset_of_graph(loaded, data)
            more |= {"name": loaded.name, "integers": loaded, "source": file_hash(graph)}
        else:
            assert network is not None
            assert weights is not None
            known, model, dataset = load_ready(network, weights, data)
            more |= {"name": network, "model": model, "normalisation": known.normalisation}
            more["source"] = file_hash(weights)
        return cls(dataset=dataset, work=work or Path("build") / cls.FOLDER / more["name"], **more)

    @cached_property
    def parts(self) -> datasets.Parts:
        """Images that calibrate, check and measure, none of them twice."""
        return datasets.apart(self.dataset, self.check_images)

    @cached_property
    def x(self) -> np.ndarray:
        """Test images, uint8 (B, C, H, W)."""
        return np.array(self.parts.test_images[: self.images])

    @property
    def y(self) -> np.ndarray:
        """Their labels, int64 (B,)."""
        return self.parts.test_labels[: self.images]

    def graph(self, hardware: HardwareConfig) -> Graph:
        """The integer network of the float network on a machine, all conversion lossless; or that of the graph file."""
        if self.integers is not None:
            return self.integers
        assert self.model is not None
        assert self.normalisation is not None
        return from_torch(
            self.model, self.dataset.shape, hardware, self.parts.calibration, normalisation=self.normalisation,
            name=self.name,
        )  # fmt: skip

    # ---- parts ----------------------------------------------------------------------------------
    def decides(self) -> dict[str, Any]:
        """Options that decide every part, JSON-able."""
        return {}

    @cached_property
    def _mark(self) -> str:
        sources = stages.sources_of(self.MODULE)
        about = {"network": self.name, **self.decides()}
        return stages.fingerprint(self.MODULE, about, sources, source=self.source, data=self.dataset.sha256)

    def kept(self, name: str, make: Callable[[], Result], **key: Any) -> Result:
        """`make()`, or what an earlier run made of the same study and key; JSON-able. name : of its file."""
        mark = stages.fingerprint(name, key, [], study=self._mark)
        return stages.Cache(self.work / "parts").get(name, mark, make)

    def told(self, what: str) -> Progress:
        """Progress of one thing that is measured."""
        return lambda done, total: self.tell(what, done, total)

    def float_accuracy(self) -> float | None:
        """Of the float network on the test images; None if there is none."""
        model, normalisation = self.model, self.normalisation
        if model is None or normalisation is None:
            return None

        def made() -> float:
            return accuracy(float_logits(model, self.x, normalisation, self.told("float network")), self.y)

        return self.kept(f"float-{len(self.x)}", made, images=len(self.x))

    def exact(self, name: str, graph: Graph) -> np.ndarray:
        """Logits int64 (B, N) of the test images, all conversion lossless. name : tells the study's graphs apart."""

        def made() -> list[list[int]]:
            return exact_logits(graph, self.x, progress=self.told("integer network")).tolist()

        return np.array(self.kept(f"exact-{name}-{len(self.x)}", made, images=len(self.x)), dtype=np.int64)


# ---- what people see ----------------------------------------------------------------------------
def percent(share: float | None, digits: int = 2) -> str:
    """A share as a number of percent, without the sign; "-" for none."""
    return "-" if share is None else f"{100 * share:.{digits}f}"


def show(tables: Iterable[Table], width: int = 150) -> Console:
    """Print tables on standard output; the console for what follows."""
    printed = results_console(width)
    for table in tables:
        printed.print(table)
        printed.print()
    return printed


@contextmanager
def drawing(path: Path, title: str, rows: int, columns: int, size: tuple[float, float]) -> Iterator[np.ndarray]:
    """Axes (rows, columns) of a picture, which is then written as PNG. size : of one of the axes, in inches."""
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="tight")
    yield figure.subplots(rows, columns, squeeze=False)
    figure.suptitle(title)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def save(
    study: Study, result: dict[str, Any], json_file: Path | None, picture: Callable[[dict[str, Any], Path], None]
) -> None:
    """Write the result and its picture into the working directory, the result also to `json_file`, and say so."""
    write_json(study.work / "result.json", result)
    picture(result, study.work / "result.png")
    if json_file is not None:
        write_json(json_file, result)
    results_console().out(f"results: {study.work / 'result.json'}   picture: {study.work / 'result.png'}")
