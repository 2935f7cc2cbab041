"""The pair macro on the arrays that whole machines use: the behavioural one and the digital stand-in."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from amaranth.hdl import Module

from golden_model.config import TINY, HardwareConfig
from golden_model.pairs.gather import matmul
from rtl.emulated_pair_crossbar import EmulatedPairCrossbar
from rtl.interfaces import forward
from rtl.pair_macros import PairMacros
from sim.array.crossbars import CrossbarSettings, PairCrossbar
from sim.backends.pysim import crossbar_processes
from tests.bench import send
from tests.rtl.pair_bench import Case, Rig, check, random_hardware, random_layer, run

pytestmark = pytest.mark.rtl

#: TINY as a pair machine, with enough crossbars for its largest layer.
ROOMY = replace(TINY, crossbar_pairs=64, machine="pairs")

#: Cells of every OU column in use, as `Case.cells`.
Cells = dict[tuple[int, int], list[tuple[int, int]]]


def _ous(hardware: HardwareConfig, cells: Cells) -> list[dict[str, int]]:
    """Writes that program every OU in use."""
    mask, writes = (1 << hardware.ou_rows) - 1, []
    for (pair, col), columns in cells.items():
        for row in range(hardware.grid_rows):
            word = 0
            for j, arrays in enumerate(columns):
                for polarity, stored in enumerate(arrays):
                    lane = polarity * hardware.ou_cols + j
                    word |= (stored >> row * hardware.ou_rows & mask) << lane * hardware.ou_rows
            writes.append({"pair": pair, "ou_row": row, "ou_col": col, "cells": word})
    return writes


def behavioural(settings: CrossbarSettings | None = None):
    def rig(macro: PairMacros, cells: Cells) -> Rig:
        crossbar = PairCrossbar(macro.config, settings)
        for write in _ous(macro.config, cells):
            crossbar.program(*(write[name] for name in ("pair", "ou_row", "ou_col", "cells")))
        return Rig(macro, crossbar_processes(macro.crossbar, crossbar))

    return rig


def emulated(macro: PairMacros, cells: Cells) -> Rig:
    m = Module()
    m.submodules.macro = macro
    m.submodules.array = array = EmulatedPairCrossbar(macro.config)
    forward(m, macro.crossbar, array.port)

    async def program(ctx) -> None:
        await send(ctx, array.port.program, _ous(macro.config, cells))

    return Rig(m, prepare=program)


def _case(seed: int, hardware: HardwareConfig) -> Case:
    packing, _, windows = random_layer(seed, hardware)
    room = hardware.crossbar_pairs - packing.pairs
    return Case(packing, windows, crossbar_base=random.Random(seed).randint(0, room), seed=seed)


RIGS = {"behavioural": behavioural(), "emulated": emulated}


@pytest.mark.parametrize("rig", RIGS.values(), ids=RIGS)
@pytest.mark.parametrize("seed", range(4))
def test_the_macro_on_an_ideal_array_equals_the_golden_model_clock_by_clock(seed, rig):
    check(_case(seed, ROOMY), rig=rig)


@pytest.mark.parametrize("rig", RIGS.values(), ids=RIGS)
@pytest.mark.parametrize("seed", range(200, 204))
def test_the_macro_of_random_hardware_on_an_ideal_array_equals_the_golden_model(seed, rig):
    check(_case(seed, replace(random_hardware(random.Random(seed)), machine="pairs")), rig=rig)


def test_a_bad_device_changes_the_sums_alike_every_time():
    case = _case(3, ROOMY)
    exact = matmul(case.packing, case.windows, case.search)[0][0].tolist()
    device = CrossbarSettings(variation=0.2, stuck_on=0.05, stuck_off=0.05, read_noise=0.3, seed=4)
    first, again, other = (
        run(case, rig=behavioural(settings))[0].sums for settings in (device, device, replace(device, seed=5))
    )
    assert first == again
    assert exact != first != other
