"""One layer on the engine that suits it."""

from __future__ import annotations

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.crossbar import post_processing, reference
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.post_processing import Finish
from golden_model.crossbar.prepared import Prepared, prepare_layer
from golden_model.crossbar.windows import windows
from golden_model.engines import pair_layer
from golden_model.engines.choice import EngineName, compiled_engine, compiled_tables, engine_of, load_torch, on_torch
from golden_model.events import Events
from golden_model.pairs.early_stop import StopWords
from golden_model.registers import COUNTER_NAMES


def run_layer(
    layer: Layer,
    hardware: HardwareConfig,
    activations: np.ndarray,
    *,
    prepared: Prepared | None = None,
    engine: EngineName = "auto",
    residuals: np.ndarray | None = None,
    residual_multiplier: int = 0,
    finish: Finish | None = None,
    rounds: np.ndarray | None = None,
    stop_words: StopWords | None = None,
) -> tuple[np.ndarray, Events]:
    """Run one layer.

    activations : uint8 (B, C, H, W) below 2**input_bits. prepared : from `prepare_layer`, to save time.
    engine : one of `layer.matmul`; "auto" takes a GPU or the compiled engine where they exist and pay.
    residuals : uint8 (B, N, H', W') that post-processing adds, times residual_multiplier.
    finish : other post-processing than `post_processing.finish`, called image by image.
    rounds, stop_words : of the pair machine, as for `pair_layer.run_layer`.

    Returns (output, events): output of all images' post-processing; events (B,), `cycles` with c_layer.
    """
    if not len(activations):
        shape = (0, layer.outputs) if layer.last else (0, layer.outputs, layer.out_height, layer.out_width)
        empty = np.zeros(shape, dtype=np.int64 if layer.last else np.uint8)
        return empty, Events(np.zeros((0, len(COUNTER_NAMES)), dtype=np.int64))
    if prepared is None:
        prepared = prepare_layer(layer, hardware)
    try:
        chosen = engine_of(prepared, len(activations) * layer.windows, engine)
    except ValueError as error:
        raise ValueError(f"layer {layer.name}: {error}") from None
    if on_torch(chosen):
        done_there = finish is None and residuals is None
        sums, counters = load_torch(chosen).run_layer(layer, prepared, activations, chosen, keep_sums=not done_there)
        if done_there:
            return sums, Events(counters)
    elif hardware.pairs:
        sums, counters = pair_layer.run_layer(
            layer, prepared, activations, plain=chosen != "compiled", rounds=rounds, stop_words=stop_words
        )
    elif chosen == "compiled":
        sums, counters = compiled_engine(hardware).run_layer(layer, prepared, compiled_tables(prepared), activations)
    else:
        rows = windows(layer, activations).reshape(-1, layer.k)
        sums, events = reference.run(prepared, rows, engine=chosen)
        sums = sums.reshape(len(activations), layer.windows, layer.outputs)
        counters = events.counts.reshape(len(activations), layer.windows, -1).sum(axis=1)
    if not on_torch(chosen):
        counters[:, COUNTER_NAMES.index("cycles")] += timing.c_layer(hardware)
    plain = post_processing.finish
    if chosen == "compiled" and not layer.last:
        from golden_model.engines.finish_compiled import finish as plain

    def finished(image: int, one: np.ndarray) -> np.ndarray:
        return plain(layer, one, None if residuals is None else residuals[image], residual_multiplier)

    return np.stack([(finish or finished)(image, one) for image, one in enumerate(sums)]), Events(counters)
