"""Event counters of windows, from what an engine has to count itself (system.md §10)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from golden_model import timing
from golden_model.crossbar.prepared import Prepared
from golden_model.events import Events


class Tally(NamedTuple):
    """What windows did, integers of one shape, an entry per window or per sum over some windows.

    streamed : bit positions streamed, over all segments. streamed_planes, activated : OU activations of slices that
    are streamed, and of those that are switched on. conversions, in_r1, operations : A/D conversions, those that ended
    in R1, comparator decisions. clocks : sum over segments of C_r, at least W but in the last segment (timing.py).
    """

    streamed: Any
    streamed_planes: Any
    activated: Any
    conversions: Any
    in_r1: Any
    operations: Any
    clocks: Any


def events_of(prepared: Prepared, windows: int, tally: Tally) -> dict[str, Any]:
    """Event counters by name; arrays or tensors like those of `tally`, each entry the sum over so many windows."""
    hardware, stored = prepared.hardware, int(prepared.widths.sum())
    dense = windows * hardware.input_bits
    return {
        "ou_activations": tally.activated,
        "skipped_planes": dense * (hardware.weight_bits * prepared.widths.size - stored),
        "skipped_bits": dense * stored - tally.streamed_planes,
        "skipped_zero_slices": tally.streamed_planes - tally.activated,
        "conversions_r1": tally.in_r1,
        "conversions_r2": tally.conversions - tally.in_r1,
        "ad_operations": tally.operations,
        "input_bits_streamed": tally.streamed,
        "cycles": tally.clocks + windows * timing.fixed_cycles(hardware, prepared.k, prepared.outputs),
    }


def counters_of(prepared: Prepared, windows: int, tally: Tally) -> np.ndarray:
    """`events_of` as counters: int64 (..., COUNTER_NAMES)."""
    return Events.of(**events_of(prepared, windows, tally)).counts
