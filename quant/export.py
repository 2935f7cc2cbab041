"""Write the deployment image of a network: `python -m quant.export` (system.md §9).

WORK/calibrated.graph, or WORK/network.graph where nothing was calibrated, becomes WORK/image: the program of the
network, its tables and cells, and test images with the logits, events and clocks that the golden model expects.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from golden_model.command import command, console, progress_bar
from golden_model.files import InputError, write_json
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from golden_model.image import archive, image
from quant import options, stages
from quant.networks.source import dataset_of_graph
from quant.search.stop import with_early_stop


def export(
    network: Graph,
    out: Path,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    progress: Any = None,
    force: bool = False,
) -> bool:
    """Write the image unless `out` holds the very same network and vectors already.

    images : uint8 (B, C, H, W) test vectors. labels : (B,) integers. progress : called with (done, all) while the
    golden model runs.

    Returns whether it was written. Raises ValueError for a network that the hardware cannot hold.
    """
    if not force and _holds(out, network, images, labels):
        return False
    image.write(out, network, images, labels, progress=progress)
    return True


def _holds(out: Path, network: Graph, images: np.ndarray, labels: np.ndarray) -> bool:
    """Whether `out` is a whole image of this network with these vectors; decided by its contents."""
    try:
        found = image.read(out)
    except InputError:
        return False
    same = archive.to_bytes(found.network) == archive.to_bytes(network)
    return same and np.array_equal(found.vectors.images, images) and np.array_equal(found.vectors.labels, labels)


@command
def app(
    work: options.Work = options.DEFAULT_WORK,
    out: Annotated[Path | None, typer.Option(help="Deployment image; default WORK/image.")] = None,
    data: options.Data = None,
    count: Annotated[int, typer.Option("--images", min=0, help="Test images kept in the image.")] = 16,
    hardware: options.Hardware = None,
    skip_zero_slices: Annotated[
        bool | None, typer.Option(help="Input slices of zeros cost nothing; default: as the network says.")
    ] = None,
    force: options.Force = False,
    json_file: options.Json = None,
) -> None:
    """Write the network of WORK as a deployment image."""
    out = work / "image" if out is None else out
    network = archive.load(stages.network_file(work, "calibrated.graph", "network.graph"))
    if hardware is not None:
        network = options.fitted(network, options.machine(hardware))
    if skip_zero_slices is not None:
        network = with_settings(network, skip_zero_slices=skip_zero_slices)
    dataset = dataset_of_graph(network, data)
    if not any(layer.stop_bits for layer in network.layers):  # not calibrated for this machine
        network = with_early_stop(network, dataset)
    if count > len(dataset.test_images):
        raise ValueError(f"--images must be at most {len(dataset.test_images)}, the test images there are, got {count}")
    vectors = dataset.test_images[:count], dataset.test_labels[:count]
    with progress_bar() as tell:
        told = partial(tell, "expected results of the test vectors")
        written = export(network, out, *vectors, progress=told, force=force)
    if json_file is not None:
        write_json(json_file, {"image": str(out), "written": written, "vectors": count, **network.info})
    console.print(f"{out}: {count} test vectors" if written else f"{out} is up to date")


if __name__ == "__main__":
    app()
