"""From a PyTorch network to simulated hardware: `python -m quant.compile MODEL --data DIR --work DIR`.

    capture    the network becomes integers, 8-bit after training, or --train for block-wise widths: network.graph
    calibrate  converters and dynamic precision: calibrated.graph
    export     program, tables, cells, test vectors: image/
    simulate   pictures through the generated hardware, equal to the golden model or not: run.json
    verilog    tile, system (tile and emulated crossbar) and macro, for synthesis: verilog/
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

import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from golden_model.command import command, console
from golden_model.config import HardwareConfig
from golden_model.files import file_hash, read_json, write_json
from golden_model.graph.network import Graph
from golden_model.image import program
from quant import calibrate, options, stages, train
from quant.capture.__main__ import captured
from quant.capture.capture import from_torch
from quant.capture.trace import copied
from quant.data import sets
from quant.export import export
from quant.networks.pixels import Normalisation
from quant.networks.source import Inputs, Source, float_network, name_of

#: Test images in a deployment image, beside those that are simulated.
VECTORS = 16
#: Told what is going on: a sentence.
Log = Callable[[str], None]


def blocks(hardware: HardwareConfig) -> tuple[str, ...]:
    """Whose Verilog is written: the tile, the tile with an emulated crossbar, the macro; they hold all other blocks."""
    return "tile", "system", "pair_macros" if hardware.pairs else "macro"


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
    image, verilog, written = work / "image", work / "verilog", blocks(network.hardware)
    log("export: program, tables, cells and test vectors")
    vectors = dataset.test_images[:count], dataset.test_labels[:count]
    if not export(network, image, *vectors):
        log(f"{image} is up to date")
    config, run, report = work / "hardware.json", work / "run.json", work / "report.html"
    simulated, record = min(images, count), work / "finish.json"
    mark = stages.fingerprint(
        "finish",
        {"images": simulated},
        stages.files_of("golden_model", "rtl", "sim"),
        image=file_hash(image / "image.archive"),
    )
    if stages.finished(record, mark) is None:
        write_json(config, network.hardware.as_dict())
        log(f"simulate: {simulated} pictures through the generated hardware")
        status = _run("sim.run", image, "--backend", "compiled", "--images", simulated, "--json", run)
        named = [word for block in written for word in ("--block", block)]
        _run("rtl.generate", "--hardware", config, "--output", verilog, *named)
        made = ["--command", shlex.join(["python", *sys.orig_argv[1:]])]
        made += ["--training", work / "train.json"] if (work / "train.json").is_file() else []
        _run("sim.report", image, "--run", run, "--output", report, "--json", work / "report.json", *made)
        if status == 0:
            stages.keep_record(record, mark, [run, report, *(verilog / f"{block}.v" for block in written)], {})
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
    hardware: HardwareConfig | str = options.Automatic.AUTO,
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
    hardware : a machine, or what `--hardware` says.
    images : test pictures through the simulated hardware.

    Returns what the command writes with --json: `simulated` pictures, how many are `equal`, `clocks` of each,
    `accuracy` step by step, and where image, Verilog and report are.
    """
    plain = Normalisation.none(dataset.shape[0]) if normalisation is None else normalisation
    source = Source(name=name or type(model).__name__, model=copied(model), dataset=dataset, normalisation=plain)
    work = Path(work)
    machine = options.machine(hardware) if isinstance(hardware, str) else hardware
    captured(source, work, machine, log=log)
    log("calibrate: converters and dynamic precision")
    network = calibrate.calibrated(work, dataset, calibration or calibrate.Options(), log=log)
    return finish(network, dataset, work, images, log=log)


def _train(given: dict[str, Any], hardware: options.Machine, work: Path, *, log: Log) -> sets.ImageSet:
    """WORK/network.graph by training with the options `given`; returns the data.

    What the network needs of a machine that is given, whatever its block widths become, is checked before anything is
    trained; it has fewer planes, so fewer crossbars, afterwards. One that is made is made to fit afterwards.
    """
    asked, dataset = train.complete(given)
    if isinstance(hardware, HardwareConfig):
        weights = None if asked["weights"] is None else Path(asked["weights"])
        model, normalisation = float_network(asked["model"], dataset, weights)
        name = name_of(asked["model"])
        network = from_torch(
            model, dataset.shape, hardware, dataset.calibration(), normalisation=normalisation, name=name
        )
        pairs = max(hardware.crossbar_pairs, program.needs(network)["crossbar_pairs"])
        options.fitted(network, replace(hardware, crossbar_pairs=pairs))
    log(f"train: {asked['model']} with block-wise widths")
    train.print_results(train.train(asked, dataset, work))
    return dataset


@command
@options.takes("inputs", Inputs)
def app(
    model: options.ModelArgument,
    inputs: Inputs,
    work: options.Work = options.DEFAULT_WORK,
    hardware: options.HardwareNeeded = "auto",
    with_training: Annotated[
        bool, typer.Option("--train", help="Train block-wise widths (BWQ-A) in place of 8 bits after training.")
    ] = False,
    recipe: options.Recipe = None,
    tolerance: Annotated[float | None, options.option(calibrate.Options, "tolerance")] = None,
    images: Annotated[int, typer.Option(min=0, help="Test pictures through the simulated hardware.")] = 1,
    threads: options.Threads = 2,
    json_file: options.Json = None,
) -> None:
    """From a PyTorch network to an image, a simulation of the generated hardware, Verilog and a report.

    Exit status: 0 hardware and golden model agree, 1 they differ, 2 a bad call or a network that cannot be run.
    """
    log, machine, calibration = console.print, options.machine(hardware), calibrate.Options(tolerance=tolerance)
    if with_training:
        if unused := [f"--{name}" for name in ("mean", "std") if getattr(inputs, name) is not None]:
            raise ValueError(f"{', '.join(unused)} cannot be used with --train")
        given = {} if recipe is None else train.read_recipe(recipe)
        given |= {"model": model, "threads": threads}
        given |= {key: str(path) for key in ("weights", "data") if (path := getattr(inputs, key)) is not None}
        given |= {key: value for key in ("size", "channels") if (value := getattr(inputs, key)) is not None}
        if isinstance(machine, HardwareConfig):
            given["hardware"] = hardware
        dataset = _train(given, machine, work, log=log)
    else:
        if recipe is not None:
            raise ValueError("--recipe goes with --train")
        torch.set_num_threads(threads)
        source = Source.open(model, inputs)
        dataset = source.dataset
        captured(source, work, machine, log=log)
    log("calibrate: converters and dynamic precision")
    network = calibrate.calibrated(work, dataset, calibration, hardware=hardware, log=log)
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
