"""Which engine runs: the only place that knows when the compiled engines or a GPU pay."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any, Literal

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import Layer
from golden_model.crossbar.prepared import PATTERN_ROWS, Prepared
from golden_model.optional import numba_installed, torch_installed

EngineName = Literal["auto", "direct", "patterns", "compiled", "torch", "torch:cuda", "torch:cpu"]

# ---- the compiled engines (few_rows.py, many_rows.py), which need numba -------------------------

NOT_COMPILED = "engine 'compiled' needs numba, sums that fit 32 bits, and at most one cost per range"

_CONVERSIONS_PAY = 200_000_000  # conversions; below, starting the compiled engine would take longer

#: Input slices times outputs; below, starting the compiled engine would take longer than the plain one.
_SLICES_PAY = 20_000_000


def compiling_pays(prepared: Prepared, windows: int) -> bool:
    """Whether a layer has enough conversions to be worth the start-up time of the compiled engine."""
    if prepared.hardware.pairs:  # plain NumPy goes from operation unit to operation unit
        return True
    per_window = int(prepared.lanes_per_slice.sum()) * prepared.bits
    return "compiled" in prepared.tables or windows * per_window > _CONVERSIONS_PAY


def compiled_engine(hardware: HardwareConfig) -> ModuleType:
    """The module `few_rows` up to PATTERN_ROWS rows, `many_rows` above; `pair_layer` for the pair machine."""
    if hardware.pairs:
        from golden_model.engines import pair_layer

        return pair_layer
    if hardware.ou_rows <= PATTERN_ROWS:
        from golden_model.engines import few_rows

        return few_rows
    from golden_model.engines import many_rows

    return many_rows


def compiled_tables(prepared: Prepared) -> Any:
    """`Tables` of the compiled engine for a layer, made on first use and kept with it; None where it has none."""
    if "compiled" not in prepared.tables:
        made = compiled_engine(prepared.hardware).layer_tables(prepared) if numba_installed() else None
        prepared.tables["compiled"] = made
    return prepared.tables["compiled"]


# ---- the engine for GPUs (torch_engine.py), which needs torch -----------------------------------

#: Conversions that take the compiled engine about ten seconds on one core, by OU rows up to PATTERN_ROWS or above.
#: Below, `auto` leaves a GPU alone: loading torch and waking the device take seconds.
_GPU_PAYS = (2_500_000_000_000, 200_000_000_000)


def on_torch(engine: str) -> bool:
    """Whether an engine's name means torch_engine.py."""
    return engine.partition(":")[0] == "torch"


def load_torch(engine: str) -> Any:
    """The module `torch_engine`; ValueError if torch is not installed."""
    try:
        from golden_model.engines import torch_engine
    except ImportError as error:
        raise ValueError(f"engine {engine!r} needs torch, which is not installed") from error
    return torch_engine


@cache
def gpu_present() -> bool:
    """Whether there is a GPU that torch sees; looks for a driver first, because torch takes a moment to load."""
    if not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))) or not torch_installed():
        return False
    return load_torch("torch").gpu_present()


def gpu_pays(conversions: int, hardware: HardwareConfig) -> bool:
    """Whether `auto` takes the GPU: there is one, and the work is worth waking it up (`_GPU_PAYS`)."""
    return not hardware.pairs and conversions > _GPU_PAYS[hardware.ou_rows > PATTERN_ROWS] and gpu_present()


# ---- the choice ---------------------------------------------------------------------------------
def _check_machine(hardware: HardwareConfig, engine: EngineName) -> None:
    """ValueError for an engine that cannot run a machine."""
    if hardware.pairs and engine not in ("auto", "direct", "compiled"):
        raise ValueError(f"engine must be 'auto', 'direct' or 'compiled' on the pair machine, got {engine!r}")


def engine_of(prepared: Prepared, windows: int, engine: EngineName, *, compiled: bool = True) -> EngineName:
    """The engine of one layer: "auto" becomes "torch" or "compiled" where that pays and can be done.

    compiled : whether the compiled engine may be chosen. ValueError if it is asked for and cannot run the layer.
    """
    _check_machine(prepared.hardware, engine)
    if engine == "auto":
        if gpu_pays(int(prepared.lanes_per_slice.sum()) * prepared.bits * windows, prepared.hardware):
            return "torch"
        chosen = compiled and compiling_pays(prepared, windows) and compiled_tables(prepared) is not None
        return "compiled" if chosen else engine
    if engine == "compiled" and compiled_tables(prepared) is None:
        raise ValueError(NOT_COMPILED)
    return engine


def engine_of_network(layers: Sequence[Layer], hardware: HardwareConfig, images: int, engine: EngineName) -> EngineName:
    """The engine of a whole run: "auto" becomes "torch" or "compiled" where that pays."""
    _check_machine(hardware, engine)
    if engine != "auto":
        return engine
    conversions = sum(
        layer.windows * layer.input_bits * 2 * hardware.ou_cols * int(np.sum(layer.block_widths)) for layer in layers
    )
    if gpu_pays(images * conversions, hardware):
        return "torch"
    if not numba_installed():
        return engine
    slices = sum(layer.windows * layer.input_bits * layer.segments(hardware) * layer.outputs for layer in layers)
    return "compiled" if hardware.pairs or images * slices > _SLICES_PAY else engine
