"""How fast the exact golden model is: `python -m golden_model.bench` (make bench).

Three tables: A/D conversions per second of one layer per engine, with the ratio to the plain NumPy model of
the same run; seconds for 10,000 images through layers of ResNet-20's shapes, with 1 and 2 threads and the
memory used; growth with images, layer size and number of converter settings. Weights and activations are
random but shaped like a trained network's (bell-shaped weights, half of the activations 0).

Where torch sees a GPU, two more tables, labelled with its name, hold the same for torch_engine.py, copies to the GPU
and back included; `--engine torch` measures nothing else, and `--device cpu` with it tries the tables without a GPU.

With --history FILE every run is appended as one JSON line and compared with the one before it, engine by
engine, by its ratio to plain NumPy, which a busy machine changes less than seconds.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from golden_model import trq
from golden_model.command import Json, command, results_console, table_of
from golden_model.config import PAPER, HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import prepare_layer
from golden_model.engines.choice import EngineName, gpu_present, load_torch
from golden_model.engines.run_layer import run_layer
from golden_model.files import write_json
from golden_model.trq import AdcRegisters

#: (input channels, edge of the map, output channels, stride) of ResNet-20's convolutions for CIFAR-10.
RESNET20 = (
    (3, 32, 16, 1),
    *[(16, 32, 16, 1)] * 6,
    (16, 32, 32, 2),
    *[(32, 16, 32, 1)] * 5,
    (32, 16, 64, 2),
    *[(64, 8, 64, 1)] * 5,
)
#: The layer that `kernel_table` times.
KERNEL = (64, 16, 64, 1)
#: A run this much slower than the one before it, against plain NumPy, is reported.
SLOWER = 0.7

REGIMES = {
    "9 rows": replace(PAPER, max_k=4096, max_n=4096, crossbar_pairs=4096),
    "128 rows": replace(PAPER, ou_rows=128, adc_bits=8, max_k=4096, max_n=4096, crossbar_pairs=4096),
}
SETTINGS = {
    "9 rows": {
        "uniform, lossless": AdcRegisters(mode="uniform", n_r2=4),
        "twin range, lossless": AdcRegisters(mode="twin", n_r2=4, n_r1=1),
        "twin range, coarse": AdcRegisters(mode="twin", n_r2=3, n_r1=1, m=1),
    },
    "128 rows": {
        "uniform, lossless": AdcRegisters(mode="uniform", n_r2=8),
        "twin range, coarse": AdcRegisters(mode="twin", n_r2=4, n_r1=3, m=2),
    },
}


def make_layer(
    hardware: HardwareConfig, shape: tuple[int, int, int, int], registers: AdcRegisters, seed: int = 0
) -> Layer:
    """A 3 x 3 convolution with random sign + 7-bit weights; shape as in RESNET20."""
    channels, edge, outputs, stride = shape
    rng = np.random.default_rng(seed)
    weights = np.clip(np.rint(rng.normal(0, 30, (9 * channels, outputs))), -127, 127).astype(np.int64)
    return Layer(
        name=f"{channels}x{edge}x{edge} to {outputs}",
        kind="conv",
        channels=channels,
        height=edge,
        width=edge,
        kernel_height=3,
        kernel_width=3,
        stride=stride,
        pad=1,
        pool=1,
        outputs=outputs,
        weights=weights,
        bias=np.zeros(outputs, dtype=np.int64),
        multipliers=np.full(outputs, 40000),
        shift=26,
        block_widths=mapping.block_widths(weights, hardware),
        registers=registers,
        min_count=trq.min_count(hardware.adc_bits, 1.0),
    )


def make_images(layer: Layer, count: int, seed: int = 1) -> np.ndarray:
    """Activations like those behind a ReLU: half are 0, the others a half bell with standard deviation 50."""
    values = np.random.default_rng(seed).normal(0, 50, (count, layer.channels, layer.height, layer.width))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def seconds(work: Callable[[], object], least: float = 0.5) -> float:
    """Best time of one call, over repetitions that take at least `least` seconds."""
    best, spent = float("inf"), 0.0
    while spent < least:
        start = time.perf_counter()
        work()
        took = time.perf_counter() - start
        best, spent = min(best, took), spent + took
    return best


def conversions_per_second(layer: Layer, hardware: HardwareConfig, engine: EngineName, images: np.ndarray) -> float:
    prepared = prepare_layer(layer, hardware)
    counted: list[int] = []

    def work() -> None:
        _, events = run_layer(layer, hardware, images, prepared=prepared, engine=engine)
        counted.append(int(events.sum().conversions))

    work()  # compiles, makes tables
    return counted[0] / seconds(work)


def kernel_table(engine: EngineName = "compiled", images: int = 8) -> list[dict[str, Any]]:
    """Conversions per second of one layer, 64 channels to 64, on one thread or on a GPU."""
    rows = []
    for regime, hardware in REGIMES.items():
        for name, registers in SETTINGS[regime].items():
            layer = make_layer(hardware, KERNEL, registers)
            x = make_images(layer, images)
            plain = conversions_per_second(layer, hardware, "direct", x[:1])
            fast = conversions_per_second(layer, hardware, engine, x)
            short = engine.partition(":")[0]
            rows.append({"regime": regime, "setting": name, short: fast, "plain": plain, "ratio": fast / plain})
    return rows


def network_table(
    images: int, threads: list[int], engine: EngineName = "compiled", together: int = 16
) -> list[dict[str, Any]]:
    """Seconds for 10,000 images through layers of ResNet-20's shapes: windows, packing, conversion, requantisation.

    together : images that a thread, or a GPU, takes at a time.
    """
    rows = []
    for regime, hardware in REGIMES.items():
        registers = list(SETTINGS[regime].values())[-1]
        layers = [make_layer(hardware, shape, registers, seed) for seed, shape in enumerate(RESNET20)]
        prepared = [prepare_layer(layer, hardware) for layer in layers]
        inputs = [make_images(layer, images) for layer in layers]

        def run(start: int, work: Any = (hardware, layers, prepared, inputs)) -> int:
            done = 0
            hardware, *parts = work
            for layer, ready, x in zip(*parts, strict=True):
                part = x[start : start + together]
                _, events = run_layer(layer, hardware, part, prepared=ready, engine=engine)
                done += int(events.sum().conversions)
            return done

        run(0)
        for count in threads:
            with ThreadPoolExecutor(count) as pool:
                start = time.perf_counter()
                conversions = sum(pool.map(run, range(0, images, together)))
                took = time.perf_counter() - start
            rows.append(
                {
                    "regime": regime,
                    "threads": count,
                    "images": images,
                    "seconds_per_10000": took * 10_000 / images,
                    "conversions_per_image": conversions // images,
                    "conversions_per_second": conversions / took,
                    "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                }
            )
    return rows


def torch_tables(engine: EngineName, images: int) -> dict[str, Any]:
    """The first two tables for torch_engine.py, with the name of the device and the memory taken there."""
    torch_engine = load_torch(engine)
    device = torch_engine.find_device(engine)
    gpu = device.type == "cuda"
    kernels = kernel_table(engine, 512 if gpu else 8)
    networks = network_table(max(images, 1024) if gpu else images, [1], engine, 512 if gpu else 16)
    memory = torch_engine.peak_memory(device)
    return {
        "device": torch_engine.device_name(device),
        "device_memory_mb": None if memory is None else memory >> 20,
        "kernels": kernels,
        "networks": networks,
    }


def growth_table() -> list[dict[str, Any]]:
    """How time grows: twice the images, twice the channels on both sides, ten settings instead of one."""
    rows = []
    for regime, hardware in REGIMES.items():
        registers = list(SETTINGS[regime].values())[-1]

        def run(channels: int, images: int, settings: int, hardware: Any = hardware, registers: Any = registers):
            layer = make_layer(hardware, (channels, 16, channels, 1), registers)
            x = make_images(layer, images)

            def work() -> None:
                for index in range(settings):
                    bias = index % 2 if registers.mode == "twin" else 0
                    changed = replace(layer, registers=replace(registers, bias=bias))
                    run_layer(changed, hardware, x, engine="compiled")

            work()
            return seconds(work, 0.3)

        base = run(32, 32, 1)
        for what, took in (
            ("images x 2", run(32, 64, 1)),
            ("channels x 2, in and out", run(64, 32, 1)),
            ("settings x 10", run(32, 32, 10)),
        ):
            rows.append({"regime": regime, "what": what, "time": took / base})
    return rows


def compare(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Sentences about layers whose ratio to plain NumPy fell below SLOWER of the run before."""
    old = {(row["regime"], row["setting"]): row["ratio"] for row in before["kernels"]}
    slower = []
    for row in now["kernels"]:
        known = old.get((row["regime"], row["setting"]))
        if known and row["ratio"] < SLOWER * known:
            slower.append(
                f"{row['regime']}, {row['setting']}: {row['ratio']:.0f} x plain NumPy, {known:.0f} x the time before"
            )
    return slower


def _kernels(rows: list[dict[str, Any]], engine: str, where: str) -> Table:
    columns = [
        ("operation unit", "{regime}"),
        ("setting", "{setting}"),
        (engine, lambda row: f"{row[engine] / 1e9:.3g} G"),
        ("plain NumPy", lambda row: f"{row['plain'] / 1e9:.3g} G"),
        ("ratio", "{ratio:.0f}"),
    ]
    return table_of(f"A/D conversions per second, one layer, {where}", columns, rows, right=True)


def _networks(rows: list[dict[str, Any]], where: str) -> Table:
    columns = [
        ("operation unit", "{regime}"),
        ("threads", "{threads}"),
        ("seconds", "{seconds_per_10000:.1f}"),
        ("conversions an image", lambda row: f"{row['conversions_per_image'] / 1e6:.1f} M"),
        ("conversions/s", lambda row: f"{row['conversions_per_second'] / 1e9:.3g} G"),
        ("peak memory", "{peak_memory_mb} MB"),
    ]
    return table_of(f"10,000 images through layers of ResNet-20's shapes{where}", columns, rows, right=True)


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables that there are."""
    if result["kernels"]:
        console.print(_kernels(result["kernels"], "compiled", "one thread"))
        console.print(_networks(result["networks"], ""))
        columns = [("operation unit", "{regime}"), ("change", "{what}"), ("time", "x {time:.2f}")]
        title = "Growth of the time (tables made anew each time)"
        console.print(table_of(title, columns, result["growth"], right=True))
    if found := result.get("torch"):
        console.print(_kernels(found["kernels"], "torch", found["device"]))
        console.print(_networks(found["networks"], f", {found['device']}"))
        if found["device_memory_mb"] is not None:
            console.print(f"{found['device']}: at most {found['device_memory_mb']} MB of its memory taken")


def _torch_engine(engine: str, device: str | None) -> EngineName | None:
    """Which engine of torch_engine.py to measure, None for none; ValueError for options that do not fit."""
    if engine not in ("auto", "compiled", "torch"):
        raise ValueError(f"--engine must be auto, compiled or torch, got {engine!r}")
    if device is not None and (engine != "torch" or device not in ("cuda", "cpu")):
        raise ValueError(f"--device is cuda or cpu, and goes with --engine torch; got {device!r} and --engine {engine}")
    if engine == "torch":
        chosen: EngineName = "torch:cpu" if device == "cpu" else "torch"
        load_torch(chosen).find_device(chosen)
        return chosen
    return "torch" if engine == "auto" and gpu_present() else None


@command
def app(
    images: Annotated[int, typer.Option(min=16, help="Images of the network table; scaled to 10,000.")] = 192,
    history: Annotated[Path | None, typer.Option(help="Append this run here and compare with the last.")] = None,
    json_file: Json = None,
    engine: Annotated[
        str, typer.Option(help="auto (compiled, and torch where there is a GPU), compiled, torch.")
    ] = "auto",
    device: Annotated[str | None, typer.Option(help="Of --engine torch: cuda (default) or cpu.")] = None,
) -> None:
    """Measure the golden model. Exit status 1 if it became much slower than the last run in --history."""
    torch_name = _torch_engine(engine, device)
    compiled = engine != "torch"
    threads = sorted({1, min(2, os.cpu_count() or 1)})
    result: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"numpy": np.__version__, "python": platform.python_version()},
        "kernels": kernel_table() if compiled else [],
        "networks": network_table(images, threads) if compiled else [],
        "growth": growth_table() if compiled else [],
    }
    if torch_name is not None:
        result["torch"] = torch_tables(torch_name, images)
    console = results_console()
    show(result, console)
    if json_file is not None:
        write_json(json_file, result)
    slower: list[str] = []
    if history is not None:
        history.parent.mkdir(parents=True, exist_ok=True)
        lines = history.read_text().splitlines() if history.exists() else []
        if lines:
            slower = compare(json.loads(lines[-1]), result)
        with history.open("a") as file:
            file.write(json.dumps(result) + "\n")
    for sentence in slower:
        console.print(f"slower: {sentence}")
    if slower:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
