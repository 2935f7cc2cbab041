"""A trained network becomes integers, 8-bit after training: `python -m quant.capture MODEL --data DIR --work DIR`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from golden_model.command import command, console
from golden_model.config import HardwareConfig
from golden_model.files import write_atomically, write_json
from golden_model.graph.network import Graph
from golden_model.image import archive
from quant import options, stages
from quant.capture.capture import from_torch
from quant.capture.trace import network_hash
from quant.data.image_set import label_words
from quant.networks.pixels import float_logits
from quant.networks.source import Inputs, Source, check_outputs
from quant.reference import accuracy, exact_logits


def captured(source: Source, work: Path, hardware: options.Machine, *, log: Callable[[str], None]) -> Graph:
    """WORK/network.graph: the network as 8-bit integers after training, on a machine that holds it.

    Raises UnsupportedOperator or ValueError in one sentence where that cannot be done; every limit that is too
    small is named.
    """
    target, record, dataset = work / "network.graph", work / "capture.json", source.dataset
    mark = stages.fingerprint(
        "capture",
        {
            "name": source.name,
            "normalisation": asdict(source.normalisation),
            "hardware": hardware.hash if isinstance(hardware, HardwareConfig) else hardware,
            "classes": list(dataset.names),
        },
        stages.sources_of("quant.capture.capture"),
        model=network_hash(source.model),
        files=stages.source_hash(source.files),
        data=dataset.sha256,
    )
    if stages.finished(record, mark) is not None:
        log(f"{target} is up to date")
        return archive.load(target)
    log(f"capture: {source.name} becomes integers")
    if dataset.names:
        log(f"labels: {label_words(dataset.names)}")
    check_outputs(source.model, dataset, source.normalisation)
    network = from_torch(
        source.model,
        dataset.shape,
        options.preset(hardware),
        dataset.calibration(),
        normalisation=source.normalisation,
        name=source.name,
        classes=dataset.names,
    )
    network = options.fitted(network, hardware)
    test, labels = dataset.test_images, dataset.test_labels
    shares = {
        "float": accuracy(float_logits(source.model, test, source.normalisation), labels),
        "integer": accuracy(exact_logits(network, test), labels),
    }
    info = {"accuracy": shares, "test_images": len(test), "data": dataset.source, "pictures": dataset.pictures}
    network = replace(network, info={**network.info, **info})
    write_atomically(target, lambda temporary: archive.save(network, temporary))
    stages.keep_record(record, mark, [target], info)
    log(
        f"accuracy on {len(test)} test images: float {100 * shares['float']:.2f} %, "
        f"integers {100 * shares['integer']:.2f} %"
    )
    return network


@command
@options.takes("inputs", Inputs)
def app(
    model: options.ModelArgument,
    inputs: Inputs,
    work: options.Work = options.DEFAULT_WORK,
    hardware: options.HardwareNeeded = "auto",
    threads: options.Threads = 2,
    json_file: options.Json = None,
) -> None:
    """Write WORK/network.graph: the network quantised after training, on a machine that holds it."""
    torch.set_num_threads(threads)
    network = captured(Source.open(model, inputs), work, options.machine(hardware), log=console.print)
    if json_file is not None:
        write_json(json_file, {"network": network.name, "hardware": network.hardware.as_dict(), **network.info})


if __name__ == "__main__":
    app()
