"""A trained network becomes integers, 8-bit after training: `python -m quant.capture MODEL --data DIR --work DIR`."""

from __future__ import annotations

from typing import Annotated

import typer

from golden_model.command import console, reports_errors
from golden_model.files import write_json
from quant import compile as compiling
from quant import options

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@reports_errors
def main(
    model: options.ModelArgument,
    work: options.Work = options.DEFAULT_WORK,
    weights: options.Weights = None,
    data: options.Data = None,
    hardware: options.Hardware = "auto",
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")] = 2,
    json_file: options.Json = None,
) -> None:
    """Write WORK/network.graph: the network quantised after training, on a machine that holds it."""
    source = compiling.Source.of(model, weights=weights, data=data, mean=mean, std=std, size=size, threads=threads)
    network = source.capture(work, options.machine(hardware), log=console.print)
    if json_file is not None:
        write_json(json_file, {"network": network.name, "hardware": network.hardware.as_dict(), **network.info})


if __name__ == "__main__":
    app()
