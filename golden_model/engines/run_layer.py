"""One layer on the engine that suits it."""

from __future__ import annotations

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.crossbar import reference
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.post_processing import Finish, finish_layer
from golden_model.crossbar.prepared import Prepared, prepare_layer
from golden_model.crossbar.windows import windows
from golden_model.engines.choice import EngineName, compiled_engine, compiled_tables, engine_of, load_torch, on_torch
from golden_model.events import Events


def run_layer(
    layer: Layer,
    hardware: HardwareConfig,
    activations: np.ndarray,
    *,
    prepared: Prepared | None = None,
    engine: EngineName = "auto",
    finish: Finish | None = None,
) -> tuple[np.ndarray, Events]:
    """Run one layer.

    activations : uint8 (B, C, H, W) below 2**input_bits. prepared : from `prepare_layer`, to save time.
    engine : one of `layer.matmul`; "auto" takes a GPU or the compiled engine where they exist and pay.
    finish : other post-processing than `finish_layer`, called image by image.

    Returns (output, events): output as `finish_layer` or stacked from `finish`; events (B,), `cycles` with c_layer.
    """
    if prepared is None:
        prepared = prepare_layer(layer, hardware)
    try:
        chosen = engine_of(prepared, len(activations) * layer.windows, engine)
    except ValueError as error:
        raise ValueError(f"layer {layer.name}: {error}") from None
    if on_torch(chosen):
        torch_engine = load_torch(chosen)
        made, counters = torch_engine.run_layer(layer, prepared, activations, chosen, keep_sums=finish is not None)
        if finish is not None:
            made = np.stack([finish(index, sums) for index, sums in enumerate(made)])
        return made, Events(counters)
    constant = Events.of(cycles=np.full(len(activations), timing.c_layer(hardware)))
    if chosen == "compiled":
        tables = compiled_tables(prepared)
        made, counters = compiled_engine(hardware).run_layer(layer, prepared, tables, activations, finish)
        return made, Events(counters) + constant
    rows = windows(layer, activations).reshape(-1, layer.k)
    sums, events = reference.run(prepared, rows, engine=chosen)
    per_image = Events(events.counts.reshape(len(activations), layer.windows, -1)).sum(axis=1)
    sums = sums.reshape(len(activations), layer.windows, layer.outputs)
    if finish is None:
        return finish_layer(layer, sums), per_image + constant
    return np.stack([finish(index, one) for index, one in enumerate(sums)]), per_image + constant
