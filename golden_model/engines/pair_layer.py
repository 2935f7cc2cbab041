"""Layers on the pair machine: exact sums, events and clocks of images (docs/pair-machine.md).

The plain way is the definition, golden_model/pairs/gather.py and golden_model/pairs/machine.py. The compiled one counts
the same events in compiled loops, and takes its sums from a matrix product where the search is lossless.
"""

from __future__ import annotations

import numpy as np

from golden_model import timing
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import Prepared
from golden_model.crossbar.windows import windows
from golden_model.events import Events
from golden_model.pairs import gather
from golden_model.pairs.machine import build_clocks, window_clocks
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
    layer: Layer, prepared: Prepared, activations: np.ndarray, *, plain: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Images through one layer.

    activations : uint8 (B, C, H, W). plain : NumPy alone.

    Returns (sums, counters): sums int64 (B, windows, N) in hardware order; counters int64 (B, COUNTER_NAMES), `cycles`
    those of a step without c_layer.
    """
    rows = windows(layer, activations).reshape(-1, layer.k)
    kernel = layer.channels, layer.kernel_height, layer.kernel_width
    sums, counters = _run(prepared, rows, len(activations), kernel, plain)
    return sums.reshape(len(activations), layer.windows, layer.outputs), counters


def run_matrix(prepared: Prepared, activations: np.ndarray, *, plain: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Windows (P, K) of one step with K channels: sums int64 (P, N), and its counters, (COUNTER_NAMES,), as those of
    `run_layer`."""
    sums, counters = _run(prepared, activations, 1, (prepared.k, 1, 1), plain)
    return sums, counters[0]


def _run(
    prepared: Prepared, rows: np.ndarray, images: int, kernel: tuple[int, int, int], plain: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Windows (images * windows, K): sums (images * windows, N), counters (images, COUNTER_NAMES).

    kernel : channels, rows, columns.
    """
    hardware, packing = prepared.hardware, packing_of(prepared)
    clocks = np.zeros(len(rows), dtype=np.int64)
    sums = np.zeros((len(rows), prepared.outputs), dtype=np.int64)
    spent = gather.Spent.zeros(len(rows), 1, hardware.ou_rows)
    size = max(1, _CHUNK_BYTES // (9 * len(prepared.widths) * (prepared.bits + hardware.ou_rows)))
    for begin in range(0, len(rows), size):
        part = slice(begin, begin + size)
        sums[part], one, clocks[part] = _windows(prepared, packing, rows[part], plain)
        spent.put(part, one)
    counted = {
        name: values.reshape(images, -1).sum(axis=1) for name, values in spent.counters(hardware.ou_rows).items()
    }
    cycles = timing.pair_beats(hardware, kernel, prepared.outputs, build_clocks(packing), clocks.reshape(images, -1))
    return sums, Events.of(**counted, cycles=cycles).counts


def _windows(
    prepared: Prepared, packing: Packing, rows: np.ndarray, plain: bool
) -> tuple[np.ndarray, gather.Spent, np.ndarray]:
    """Sums (P, N), what is spent, and conversion clocks (P,) of windows (P, K)."""
    search = search_of(prepared.registers, prepared.hardware)
    clocks = window_clocks(packing, rows, search, plain=plain).window
    if plain:
        sums, spent = gather.matmul(packing, rows, search)
        return sums[0], spent, clocks
    spent = gather.spend(packing, rows, [search])
    if search.lossless:
        return _product(prepared, packing, rows), spent, clocks
    from golden_model.pairs.sums_compiled import converted

    return converted(packing, rows, search), spent, clocks


def _product(prepared: Prepared, packing: Packing, rows: np.ndarray) -> np.ndarray:
    """What windows (P, K) stream @ weights, int64 (P, N); exact, because the sums fit the mantissa."""
    streamed = packing.streams(rows)[0].reshape(len(rows), -1)[:, : prepared.k]
    top = prepared.k << (prepared.bits + prepared.hardware.weight_bits)
    kind = np.float32 if top < 1 << 24 else np.float64
    return (streamed.astype(kind) @ prepared.weights.astype(kind)).astype(np.int64)
