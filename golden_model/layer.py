"""One layer as the crossbars compute it: exact sums and event counters (system.md §3-§6, §10, §14)."""

from __future__ import annotations

from typing import Any

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar import reference
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.crossbar.prepared import Prepared, check_activations, prepare
from golden_model.engines import pair_layer
from golden_model.engines.choice import EngineName, compiled_engine, compiled_tables, engine_of, load_torch, on_torch
from golden_model.events import Events
from golden_model.trq import AdcRegisters


def run(prepared: Prepared, activations: Any, *, engine: EngineName = "auto") -> tuple[np.ndarray, Events]:
    """Run windows through a prepared layer, in plain NumPy or on a GPU; not for the pair machine.

    activations : (P, K) unsigned integers below 2**activation_bits. engine : any of `matmul` but "compiled".

    Returns (sums, events): sums (P, N) int64 in units of Delta_R1; events with leading shape (P,).
    """
    if prepared.hardware.pairs:
        raise ValueError("the pair machine converts a window while it loads the next: no window has clocks of its own")
    if on_torch(engine):
        windows = check_activations(prepared, activations)
        sums, counters = load_torch(engine).run_matrix(prepared, windows, engine)
        return sums, Events(counters)
    return reference.run(prepared, activations, engine=engine)


def matmul(
    activations: Any,
    weights: Any,
    hardware: HardwareConfig,
    registers: AdcRegisters,
    *,
    block_widths: Any = None,
    redy: DynamicPrecision | None = None,
    skip_zero_slices: bool = False,
    min_count: Any = None,
    activation_bits: int | None = None,
    early_detection: bool = False,
    engine: EngineName = "auto",
    per_window: bool = False,
) -> tuple[np.ndarray, Events]:
    """Matrix product as the crossbars compute it (system.md §3-§6, §10, §14).

    Parameters
    ----------
    activations : (P, K) unsigned integers below 2**activation_bits; one row is one window.
    weights : (K, N) signed integers, |w| < 2**weight_bits.
    registers : A/D registers of the layer.
    block_widths : (segments, block_cols) bit planes; None derives them from the weights. A width below a
        block's magnitude is an error, a larger one stores planes of zeros.
    redy : dynamic-precision registers, None streams all activation_bits.
    skip_zero_slices : input slices of zeros cost no OU activation (*ours*).
    min_count : smallest count per threshold (`trq.min_count`), None for lambda = 1.
    activation_bits : width of the activations, default hardware.input_bits.
    early_detection : as for `trq.convert` (*ours*, off by default).
    engine : "auto", "direct", "patterns", "compiled" (few_rows.py, many_rows.py), or "torch" (torch_engine.py):
        a GPU, also named "torch:cuda"; "torch:cpu" runs the same code on the processor. Results are identical. The
        pair machine has "auto", "direct" and "compiled".
    per_window : events keep a leading shape (P,) instead of being summed; not on the pair machine.

    Returns (sums, events): sums (P, N) int64 in units of Delta_R1; events of all windows, `cycles` is the
    sum of the windows without c_layer, on the pair machine that of the beats of one step (timing.py). With
    a lossless setting and without lossy dynamic precision sums equal activations @ weights.

    Raises ValueError or TypeError naming the argument, what is allowed and what was given.
    """
    prepared = prepare(
        weights,
        hardware,
        registers,
        block_widths=block_widths,
        redy=redy,
        skip_zero_slices=skip_zero_slices,
        min_count=min_count,
        activation_bits=activation_bits,
        early_detection=early_detection,
    )
    if hardware.pairs and early_detection:
        raise ValueError("early_detection: the pair machine always makes both decisions of a detection")
    chosen = engine_of(prepared, len(activations), engine, compiled=not per_window)
    if hardware.pairs and not per_window:
        windows = check_activations(prepared, activations)
        sums, counters = pair_layer.run_matrix(prepared, windows, plain=chosen != "compiled")
        return sums, Events(counters)
    if chosen == "compiled":
        if per_window:
            raise ValueError("engine 'compiled' does not keep the events of single windows (per_window)")
        windows = check_activations(prepared, activations)
        sums, counters = compiled_engine(hardware).run_matrix(prepared, compiled_tables(prepared), windows)
        return sums, Events(counters)
    sums, events = run(prepared, activations, engine=chosen)
    return sums, events if per_window else events.sum()
