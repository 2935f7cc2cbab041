"""Layers on the pair machine: exact sums, events and clocks of images (docs/pair-machine.md).

The plain way is the definition, golden_model/pairs/gather.py and golden_model/pairs/machine.py. The compiled one does
the same in one loop.
"""

from __future__ import annotations

import numpy as np

from golden_model import timing
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import Prepared
from golden_model.crossbar.windows import windows
from golden_model.events import Events
from golden_model.pairs import gather
from golden_model.pairs.early_stop import StopWords
from golden_model.pairs.machine import ready_clocks, step_clocks
from golden_model.pairs.packs import Packing, pack
from golden_model.pairs.search import search_of

_CHUNK_BYTES = 64 << 20


def packing_of(prepared: Prepared) -> Packing:
    """The packs of a layer, made on first use and kept with it."""
    if "packing" not in prepared.tables:
        prepared.tables["packing"] = pack(prepared)
    return prepared.tables["packing"]


def layer_tables(prepared: Prepared) -> Packing:
    """What the compiled loops need of a layer, for `choice.compiled_tables`."""
    from golden_model.pairs.gather_compiled import flatten

    packing = packing_of(prepared)
    flatten(packing)
    return packing


def run_layer(
    layer: Layer,
    prepared: Prepared,
    activations: np.ndarray,
    *,
    plain: bool = False,
    rounds: np.ndarray | None = None,
    stop_words: StopWords | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Images through one layer.

    activations : uint8 (B, C, H, W). plain : NumPy alone. rounds : windows that run at the same time, as from
    `timing.rounds`; by default what the layer's shape asks for. stop_words : of early stop; by default those
    of the layer.

    Returns (sums, counters): sums int64 (B, windows, N) in hardware order; counters int64 (B, COUNTER_NAMES), `cycles`
    those of a step without c_layer.
    """
    rows = windows(layer, activations).reshape(-1, layer.k)
    kernel = layer.channels, layer.kernel_height, layer.kernel_width
    words = StopWords.of(layer) if stop_words is None else stop_words
    if rounds is None:
        abreast = timing.abreast(prepared.hardware, layer.pool * layer.stride, last=layer.last)
        rounds = timing.rounds(layer.out_height, layer.out_width, layer.pool, abreast)
    sums, counters = _run(prepared, rows, len(activations), kernel, rounds, plain, words)
    return sums.reshape(len(activations), layer.windows, layer.outputs), counters


def run_matrix(prepared: Prepared, activations: np.ndarray, *, plain: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Windows (P, K) of one step with K channels and a row of P outputs: sums int64 (P, N), and its counters,
    (COUNTER_NAMES,), as those of `run_layer`."""
    rounds = timing.rounds(1, len(activations), 1, timing.abreast(prepared.hardware, 1))
    sums, counters = _run(prepared, activations, 1, (prepared.k, 1, 1), rounds, plain, None)
    return sums, counters[0]


def _run(
    prepared: Prepared,
    rows: np.ndarray,
    images: int,
    kernel: tuple[int, int, int],
    rounds: np.ndarray,
    plain: bool,
    words: StopWords | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Windows (images * windows, K): sums (images * windows, N), counters (images, COUNTER_NAMES).

    kernel : channels, rows, columns. words : of early stop.
    """
    hardware, packing = prepared.hardware, packing_of(prepared)
    beats = timing.beats(hardware, kernel, prepared.outputs, ready_clocks(packing, words is not None))
    windows = len(rows) // images
    size = max(1, _CHUNK_BYTES // (9 * len(prepared.widths) * (prepared.bits + hardware.ou_rows) * windows)) * windows
    parts = [
        _images(packing, rows[begin : begin + size], rounds, beats, plain, words) for begin in range(0, len(rows), size)
    ]
    sums, counted, cycles = (np.concatenate(part) for part in zip(*parts, strict=True))
    of_images = counted.reshape(images, -1, len(gather.COUNTED)).sum(axis=1)
    return sums, Events.of(**dict(zip(gather.COUNTED, of_images.T, strict=True)), cycles=cycles).counts


def _images(
    packing: Packing, rows: np.ndarray, rounds: np.ndarray, beats: timing.Beats, plain: bool, words: StopWords | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums (P, N) and counters (P, COUNTED) of windows (P, K), and clocks of the images that they make up."""
    search = search_of(packing.prepared.registers, packing.hardware)
    stops = None if words is None else words.find(packing.prepared, rows)
    if plain:
        sums, spent = gather.matmul(packing, rows, search, stops)
        counters = spent.counters(packing.hardware.ou_rows, None if stops is None else stops.checks)
        clocks = step_clocks(packing, rows, search, rounds, beats, stops, plain=True).step
        return sums[0], np.stack([*counters.values()], axis=-1), clocks
    from golden_model.pairs import machine_compiled

    ran = machine_compiled.run(packing, *packing.streams(rows), search, rounds, beats, stops)
    return ran.sums, ran.counted, ran.clocks
