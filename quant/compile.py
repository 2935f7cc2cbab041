"""From a PyTorch network to simulated hardware: `python -m quant.compile MODEL --data DIR --work DIR`.

    capture    the network becomes integers (8-bit after training, or --train for block-wise widths): network.graph
    calibrate  converters and dynamic precision: calibrated.graph, calibration.json
    export     program, tables, cells, test vectors: image/
    simulate   pictures through the generated hardware, equal to the golden model or not: run.json
    verilog    the hardware for synthesis: verilog/
    report     one HTML page: report.html

Every stage is a command of its own too, and is skipped when what it would make is there already. From Python:

    from quant.compile import compile_network
    from quant.data import sets
    from my_project import MyNet                            # any torch.nn.Module

    result = compile_network(MyNet(), sets.load("pictures/"), "build/mine", images=2)
    assert result["equal"]
    print(result["clocks"], result["accuracy"])
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from golden_model.config import PAPER, HardwareConfig
from golden_model.graph.network import Graph, with_settings
from golden_model.image import archive, program
from quant import calibrate as calibration
from quant import evaluate, stages
from quant import train as training
from quant.capture.capture import from_torch
from quant.data import sets
from quant.export import export
from quant.reference import accuracy, exact_logits
from quant.training.layers import Normalisation

#: Told what is going on: a sentence.
Log = Callable[[str], None]


def model_hash(model: nn.Module) -> str:
    """sha256 of a network's structure and of all its weights."""
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + str(tensor.dtype).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def fitted(network: Graph, hardware: HardwareConfig | None) -> Graph:
    """The network on `hardware`, or on a machine that is just large enough where it is None.

    Raises ValueError that names every limit which is too small at once, and how to get a machine that fits.
    """
    machine = program.fitting(network, PAPER) if hardware is None else hardware
    network = network if machine == network.hardware else with_settings(network, hardware=machine)
    try:
        program.plan(network)
    except ValueError as error:
        raise ValueError(f"{error}; --hardware auto makes a machine that fits") from None
    return network


def capture(
    model: nn.Module,
    dataset: sets.ImageSet,
    work: Path,
    *,
    name: str,
    normalisation: Normalisation | None = None,
    hardware: HardwareConfig | None = None,
    log: Log = print,
) -> Graph:
    """WORK/network.graph: the network quantised to 8 bits after training, on a machine that holds it.

    Raises UnsupportedOperator or ValueError in one sentence where that cannot be done.
    """
    normalisation = Normalisation.none(dataset.shape[0]) if normalisation is None else normalisation
    target, record = work / "network.graph", work / "capture.json"
    choice = "auto" if hardware is None else hardware.hash
    mark = stages.fingerprint(
        "capture",
        {"name": name, "normalisation": asdict(normalisation), "hardware": choice, "classes": list(dataset.names)},
        stages.sources_of("quant.capture.capture"),
        model=model_hash(model),
        data=dataset.sha256,
    )
    kept = stages.finished(record, mark)
    if kept is not None and target.is_file() and stages.file_hash(target) == kept["sha256"]:
        log(f"{target} is up to date")
        return archive.load(target)
    log("capture: the network becomes integers")
    network = from_torch(
        model,
        dataset.shape,
        PAPER if hardware is None else hardware,
        dataset.calibration(),
        normalisation=normalisation,
        name=name,
        classes=dataset.names,
    )
    sets.check_labels(dataset, int(np.prod(network.output.shape)))
    network = fitted(network, hardware)
    test, labels = dataset.test_images, dataset.test_labels
    shares = {
        "float": accuracy(evaluate.float_logits(model, test, normalisation), labels),
        "quantised": accuracy(exact_logits(network, test), labels),
    }
    network = replace(
        network, info={**network.info, "accuracy": shares, "test_images": len(test), "data": dataset.source}
    )
    work.mkdir(parents=True, exist_ok=True)
    archive.save(network, target)
    stages.write_json(record, {"fingerprint": mark, "sha256": stages.file_hash(target), **network.info})
    log(f"accuracy on {len(test)} test images: float {100 * shares['float']:.2f} %, "
        f"integers {100 * shares['quantised']:.2f} %")  # fmt: skip
    return network


def _run(module: str, *arguments: Any) -> int:
    """A command of another package, which this one must not import; its exit status (0 or 1).

    Raises ValueError with the command's own sentence where it cannot do its work.
    """
    done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], stderr=None, check=False)
    if done.returncode not in (0, 1):
        raise ValueError(f"python -m {module} {' '.join(map(str, arguments))} ended with status {done.returncode}")
    return done.returncode


def compile_network(
    model: nn.Module,
    dataset: sets.ImageSet,
    work: str | Path,
    *,
    name: str | None = None,
    normalisation: Normalisation | None = None,
    hardware: HardwareConfig | None = None,
    recipe: training.Recipe | None = None,
    options: calibration.Options | None = None,
    images: int = 1,
    vectors: int = 16,
    log: Log = print,
) -> dict[str, Any]:
    """All stages; finished ones are skipped.

    Parameters
    ----------
    model : trained network, or one that `recipe` trains.
    dataset : calibration, accuracy, and the pictures that are simulated.
    work : directory of everything that is made.
    normalisation : what the network expects of pixel / 255; None for nothing.
    hardware : None for a machine that is just large enough.
    recipe : block-wise training; None quantises to 8 bits after training.
    images : test pictures through the simulated hardware. vectors : test pictures in the image, at least `images`.

    Returns what the command writes with --json: `simulated`, `equal`, `clocks` (a list), `accuracy`, and the paths.
    """
    work = Path(work)
    name = type(model).__name__ if name is None else name
    if recipe is None:
        network = capture(model, dataset, work, name=name, normalisation=normalisation, hardware=hardware, log=log)
    else:
        network = training.train(model, dataset, work, name=name, normalisation=normalisation, recipe=recipe, log=log)
        network = fitted(network, hardware)
    network = calibration.run(network, dataset, work, options or calibration.Options(), log=log)
    count = min(max(images, vectors), len(dataset.test_images))
    image = work / "image"
    log("export: program, tables, cells and test vectors")
    if not export(network, image, dataset.test_images[:count], dataset.test_labels[:count]):
        log(f"{image} is up to date")
    config = work / "hardware.json"
    stages.write_json(config, network.hardware.as_dict())
    run, report = work / "run.json", work / "report.html"
    log("simulate: pictures through the generated hardware")
    status = _run("sim.run", image, "--backend", "compiled", "--images", min(images, count), "--json", run)
    _run("rtl.generate", "--hardware", config, "--output", work / "verilog")
    _run("sim.report", image, "--run", run, "--output", report, "--json", work / "report.json")
    simulated = stages.read_json(run, "")
    return {
        "network": name,
        "simulated": simulated["simulated"],
        "equal": bool(simulated["equal"]) and status == 0,
        "clocks": simulated["clocks"],
        "accuracy": network.info.get("accuracy", {}),
        "hardware": network.hardware.as_dict(),
        "image": str(image),
        "report": str(report),
        "verilog": str(work / "verilog"),
    }
