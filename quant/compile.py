"""From a PyTorch network to simulated hardware: `python -m quant.compile MODEL --data DIR --work DIR`.

    capture    the network becomes integers, 8-bit after training, or --train for block-wise widths: network.graph
    calibrate  converters and dynamic precision: calibrated.graph
    export     program, tables, cells, test vectors: image/
    simulate   pictures through the generated hardware, equal to the golden model or not: run.json
    verilog    the hardware for synthesis: verilog/
    report     one HTML page: report.html

Every stage is a command of its own too (quant.capture or quant.train, quant.calibrate, quant.export, sim.run,
rtl.generate, sim.report) and is skipped when what it would make is there already. From Python:

    from quant.compile import compile_network
    from quant.data import sets
    from my_project import MyNet                            # any torch.nn.Module

    result = compile_network(MyNet(), sets.load("pictures/"), "build/mine", images=2)
    assert result["equal"] == result["simulated"]
    print(result["clocks"], result["accuracy"])
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import torch
import typer
from torch import nn

from golden_model.command import console, reports_errors
from golden_model.config import PAPER, HardwareConfig
from golden_model.files import file_hash, read_json, write_atomically, write_json
from golden_model.graph.network import Graph
from golden_model.image import archive, program
from quant import calibrate, options, stages, train
from quant.capture.capture import from_torch
from quant.data import sets
from quant.evaluate import float_logits
from quant.export import export
from quant.networks import zoo
from quant.networks.weights import load_weights
from quant.reference import accuracy, exact_logits
from quant.training.layers import Normalisation

#: Test images in a deployment image, beside those that are simulated.
VECTORS = 16

#: Told what is going on: a sentence.
Log = Callable[[str], None]


# ---- what is compiled ---------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A float network with its data. normalisation : what it expects of pixel / 255."""

    name: str
    model: nn.Module
    dataset: sets.ImageSet
    normalisation: Normalisation

    @classmethod
    def of(
        cls,
        model: str,
        *,
        weights: Path | None = None,
        data: Path | None = None,
        mean: str | None = None,
        std: str | None = None,
        size: int | None = None,
        threads: int = 2,
    ) -> Source:
        """What the options of a command name; ValueError in one sentence where it cannot be had."""
        torch.set_num_threads(threads)
        known = None if ":" in model else zoo.ready(model)
        sized = known is not None and known.sized is not None
        if known is None or sized:
            dataset = sets.load(data, size=size)
        else:
            dataset = sets.load(data, size=size or known.shape[1], channels=known.shape[0])
        network, normalisation = train.float_network(model, dataset, trained=weights is not None)
        if weights is not None:
            load_weights(network, weights)
        elif known is not None:
            raise ValueError(f"--weights is needed: {model} has no weights of its own; --train trains it from scratch")
        plain = normalisation or Normalisation.none(dataset.shape[0])
        return cls(
            name=model.rpartition(":")[2],
            model=network,
            dataset=dataset,
            normalisation=Normalisation(
                mean=options.numbers("--mean", mean, dataset.shape[0]) or plain.mean,
                std=options.numbers("--std", std, dataset.shape[0]) or plain.std,
            ),
        )

    def hash(self) -> str:
        """sha256 of the network's structure and of all its weights."""
        digest = hashlib.sha256(repr(self.model).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def capture(self, work: Path, hardware: HardwareConfig | None, *, log: Log) -> Graph:
        """WORK/network.graph: the network as 8-bit integers after training, on a machine that holds it.

        hardware : None for one that is just large enough.
        Raises UnsupportedOperator or ValueError in one sentence where that cannot be done; every limit that is too
        small is named.
        """
        target, record, dataset = work / "network.graph", work / "capture.json", self.dataset
        mark = stages.fingerprint(
            "capture",
            {
                "name": self.name,
                "normalisation": asdict(self.normalisation),
                "hardware": "auto" if hardware is None else hardware.hash,
                "classes": list(dataset.names),
            },
            stages.sources_of("quant.capture.capture"),
            model=self.hash(),
            data=dataset.sha256,
        )
        if stages.finished(record, mark) is not None:
            log(f"{target} is up to date")
            return archive.load(target)
        log(f"capture: {self.name} becomes integers")
        network = from_torch(
            self.model,
            dataset.shape,
            PAPER if hardware is None else hardware,
            dataset.calibration(),
            normalisation=self.normalisation,
            name=self.name,
            classes=dataset.names,
        )
        sets.check_labels(dataset, int(np.prod(network.output.shape)))
        network = calibrate.fitted(network, hardware)
        test, labels = dataset.test_images, dataset.test_labels
        shares = {
            "float": accuracy(float_logits(self.model, test, self.normalisation), labels),
            "integer": accuracy(exact_logits(network, test), labels),
        }
        info = {"accuracy": shares, "test_images": len(test), "data": dataset.source}
        network = replace(network, info={**network.info, **info})
        write_atomically(target, lambda temporary: archive.save(network, temporary))
        write_json(record, {"fingerprint": mark, "files": {target.name: file_hash(target)}, **info})
        log(
            f"accuracy on {len(test)} test images: float {100 * shares['float']:.2f} %, "
            f"integers {100 * shares['integer']:.2f} %"
        )
        return network


# ---- stages -------------------------------------------------------------------------------------
def _run(module: str, *arguments: Any) -> int:
    """A command of a package that this one must not import; its exit status, 0 or 1."""
    words = [str(argument) for argument in arguments]
    status = subprocess.run([sys.executable, "-m", module, *words], check=False).returncode
    if status == 130:
        raise KeyboardInterrupt
    if status not in (0, 1):
        raise ValueError(f"`python -m {module} {' '.join(words)}` ended with status {status}, see above")
    return status


def finish(network: Graph, dataset: sets.ImageSet, work: Path, images: int, *, log: Log) -> dict[str, Any]:
    """Image, simulation, Verilog and report of a calibrated network; see `compile_network` for the result."""
    count = min(max(images, VECTORS), len(dataset.test_images))
    image, verilog = work / "image", work / "verilog"
    log("export: program, tables, cells and test vectors")
    vectors = dataset.test_images[:count], dataset.test_labels[:count]
    if not export(network, image, *vectors):
        log(f"{image} is up to date")
    config, run, report = work / "hardware.json", work / "run.json", work / "report.html"
    simulated, record = min(images, count), work / "finish.json"
    mark = stages.fingerprint(
        "finish",
        {"images": simulated},
        [path for package in ("golden_model", "rtl", "sim") for path in (stages.ROOT / package).rglob("*.*py*")],
        image=file_hash(image / "image.archive"),
    )
    if stages.finished(record, mark) is None:
        write_json(config, network.hardware.as_dict())
        log(f"simulate: {simulated} pictures through the generated hardware")
        status = _run("sim.run", image, "--backend", "compiled", "--images", simulated, "--json", run)
        _run("rtl.generate", "--hardware", config, "--output", verilog)
        _run("sim.report", image, "--run", run, "--output", report, "--json", work / "report.json")
        if status == 0:
            made = (run, report, verilog / "tile.v")
            files = {path.relative_to(work).as_posix(): file_hash(path) for path in made}
            write_json(record, {"fingerprint": mark, "files": files})
    else:
        log(f"{run}, {verilog} and {report} are up to date")
    found = read_json(run, "")
    return {
        "network": network.name,
        "simulated": found["simulated"],
        "equal": found["equal"],
        "clocks": found["clocks"],
        "accuracy": network.info.get("accuracy", {}),
        "hardware": network.hardware.as_dict(),
        "image": str(image),
        "verilog": str(verilog),
        "report": str(report),
    }


def compile_network(
    model: nn.Module,
    dataset: sets.ImageSet,
    work: str | Path,
    *,
    name: str | None = None,
    normalisation: Normalisation | None = None,
    hardware: HardwareConfig | None = None,
    calibration: calibrate.Options | None = None,
    images: int = 1,
    log: Log = print,
) -> dict[str, Any]:
    """All stages for a trained network, 8-bit after training; finished ones are skipped.

    Parameters
    ----------
    model : trained float network.
    dataset : for calibration, accuracy, and the pictures that are simulated.
    work : directory of everything that is made.
    normalisation : what the network expects of pixel / 255; None for pixel / 255 itself.
    hardware : None for a machine that is just large enough.
    images : test pictures through the simulated hardware.

    Returns what the command writes with --json: `simulated` pictures, how many are `equal`, `clocks` of each,
    `accuracy` step by step, and where image, Verilog and report are.
    """
    plain = Normalisation.none(dataset.shape[0]) if normalisation is None else normalisation
    source = Source(name=name or type(model).__name__, model=model, dataset=dataset, normalisation=plain)
    work = Path(work)
    source.capture(work, hardware, log=log)
    log("calibrate: converters and dynamic precision")
    network = calibrate.calibrated(work, dataset, calibration or calibrate.Options(), log=log)
    return finish(network, dataset, work, images, log=log)


def _train(given: dict[str, Any], hardware: HardwareConfig | None, work: Path, *, log: Log) -> sets.ImageSet:
    """WORK/network.graph by training with the options `given`; returns the data.

    hardware : None for a machine that is made to fit afterwards. What the network needs of a given one, whatever its
    block widths become, is checked before anything is trained.
    """
    dataset = train.dataset_of(given)
    asked = train.complete(given, dataset)
    torch.set_num_threads(asked["threads"])
    if hardware is not None:
        model, normalisation = train.float_network(asked["model"], dataset, trained=asked.get("weights") is not None)
        network = from_torch(model, dataset.shape, hardware, dataset.calibration(), normalisation=normalisation)
        short = {name: value for name, value in program.needs(network).items() if value > getattr(hardware, name)}
        short.pop("crossbar_pairs", None)  # fewer planes after training
        if short:
            words = "; ".join(
                f"{name} = {value}, the hardware has {getattr(hardware, name)}" for name, value in short.items()
            )
            raise ValueError(f"{network.name} needs {words} (--hardware auto makes a machine that fits)")
    log(f"train: {asked['model']} with block-wise widths")
    train.print_results(train.train(asked, dataset, work))
    return dataset


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@reports_errors
def main(
    model: options.ModelArgument,
    work: options.Work = options.DEFAULT_WORK,
    weights: options.Weights = None,
    data: options.Data = None,
    hardware: options.Hardware = "auto",
    with_training: Annotated[
        bool, typer.Option("--train", help="Train block-wise widths (BWQ-A) in place of 8 bits after training.")
    ] = False,
    recipe: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time
        typer.Option(help="TOML file with options of quant.train; goes with --train."),
    ] = None,
    tolerance: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Accuracy (a share) that converters may cost; without it they are lossless."),
    ] = None,
    images: Annotated[int, typer.Option(min=0, help="Test pictures through the simulated hardware.")] = 1,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch; training depends on them.")] = 2,
    json_file: options.Json = None,
) -> None:
    """From a PyTorch network to an image, a simulation of the generated hardware, Verilog and a report.

    Exit status: 0 hardware and golden model agree, 1 they differ, 2 a bad call or a network that cannot be run.
    """
    log = console.print
    machine = options.machine(hardware)
    if with_training:
        given = {} if recipe is None else train.read_recipe(recipe)
        given |= {"model": model, "threads": threads}
        given |= {key: str(path) for key, path in (("weights", weights), ("data", data)) if path is not None}
        if machine is not None:
            given["hardware"] = str(hardware)
        dataset = _train(given, machine, work, log=log)
    else:
        if recipe is not None:
            raise ValueError("--recipe goes with --train")
        source = Source.of(model, weights=weights, data=data, mean=mean, std=std, size=size, threads=threads)
        dataset = source.dataset
        source.capture(work, machine, log=log)
    log("calibrate: converters and dynamic precision")
    network = calibrate.calibrated(work, dataset, calibrate.Options(tolerance=tolerance), hardware=hardware, log=log)
    result = finish(network, dataset, work, images, log=log)
    if json_file is not None:
        write_json(json_file, result)
    same = result["equal"] == result["simulated"]
    words = "equal to" if same else "NOT EQUAL to"
    log(f"{result['simulated']} pictures: hardware {words} the golden model in scores, events and clocks")
    log(f"image {result['image']}   Verilog {result['verilog']}   report {result['report']}")
    if not same:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
