"""A chip around one network: crossbar pairs, utilisation, tiles, area, and balanced pipelines (system.md §1, §11).

A layer owns whole macros of `pairs_per_macro` crossbar pairs; its macros work side by side, each on the OUs that it
holds, one OU at a time. Tiles are `macros_per_tile` macros around one activation buffer. Layers form a pipeline over
images: while one layer works on an image the next one works on the image before. `copies` of a layer share its windows.

Clocks of a stage with m macros and r copies, from the counted clocks of the layer on a single macro:

    c_layer + ceil(windows / r) * fixed + ceil(conversion clocks * s / r)

`fixed` is what a window costs outside conversions (loading, draining, latencies; system.md §5), s the largest share of
the layer's OUs in one macro. Taken for granted: OUs of a layer are equally busy, adding the partial sums of several
macros and moving activations between tiles hide behind conversions; where windows load, convert and drain side by
side, all clocks count as conversions. With window reuse, `fixed` is the mean of all
windows; copies of a layer walk runs of neighbouring windows, and that each reads its first one in full is left out.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.cost.baselines import layer_widths
from golden_model.cost.components import AREA_QUANTITIES, ComponentTable, Report, load_table
from golden_model.cost.work import Machine, Stage, StagePlacement, stages
from golden_model.crossbar.mapping import place_layer
from golden_model.graph.nodes import Add
from golden_model.pairs.plumbing import fixed_cycles
from golden_model.registers import COUNTER_NAMES, WIDTH_BITS

#: Units that the macros of a copy of a layer share.
OF_COPIES = ("mask_bits", "line_bits")


@dataclass(frozen=True, kw_only=True)
class ChipShape:
    """How crossbars are gathered.

    pairs_per_macro : crossbar pairs that share the converters of a macro; 4 are the 8 arrays of an ISAAC IMA.
    macros_per_tile : macros around one activation buffer; 12 as in ISAAC-CE.
    buffer_bytes : activation buffer of a tile.
    """

    pairs_per_macro: int = 4
    macros_per_tile: int = 12
    buffer_bytes: int = 65536

    def __post_init__(self) -> None:
        for name in ("pairs_per_macro", "macros_per_tile", "buffer_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"ChipShape.{name} must be an integer of at least 1, got {value!r}")


# ---- placement ----------------------------------------------------------------------------------
def place_stage(stage: Stage, hardware: HardwareConfig, widths: Sequence[np.ndarray]) -> StagePlacement:
    """Lay out one layer (system.md §5); widths : (segments, block columns) planes of each of its groups.

    Every group starts a fresh pair. The capacity of one tile is not a limit here.
    """
    pair_ous: list[np.ndarray] = []
    weight_cells = blocks = 0
    for layer, planes in zip(stage.layers, widths, strict=True):
        placed = place_layer(planes, hardware)
        pair_ous.append(np.bincount(placed.pair, minlength=placed.pairs))
        weight_cells += 2 * int(layer.segment_rows(hardware) @ planes @ layer.block_columns(hardware))
        blocks += planes.size
    return StagePlacement(hardware, np.concatenate(pair_ous).astype(np.int64), weight_cells, blocks)


# ---- stages of a pipeline -----------------------------------------------------------------------
@dataclass(frozen=True)
class ChipStage:
    """One layer on the chip.

    macros : of one copy. copies : of the layer. windows : per image. fixed_clocks : per window, c_layer_clocks : per
    image, conversion_clocks : per image on the busiest macro of a single copy. register_bits : of one macro, its
    windows (input) and partial sums (output). metadata_bits, held_bound_bits : of one copy. lookup_bits : of the
    activation table of one macro, 0 for none. own_units : units of `AREA_QUANTITIES` of one macro, or of one copy
    (`OF_COPIES`), instead of those that follow from the rest.
    """

    name: str
    placement: StagePlacement
    macros: int
    copies: int
    windows: int
    fixed_clocks: float
    c_layer_clocks: float
    conversion_clocks: float
    input_register_bits: int
    output_register_bits: int
    metadata_bits: float
    held_bound_bits: float = 0.0
    lookup_bits: int = 0
    own_units: Mapping[str, float] = field(default_factory=dict)

    @property
    def clocks(self) -> float:
        """Clocks from the first window of an image to its last."""
        return self.c_layer_clocks + (
            -(-self.windows // self.copies) * self.fixed_clocks + self.conversion_clocks / self.copies
        )

    @property
    def pairs(self) -> int:
        """Crossbar pairs of all copies."""
        return self.copies * self.placement.pairs


@dataclass(frozen=True)
class Chip:
    """A network on a chip: every layer on its own macros.

    tile_lookup_bits : of an activation table in every tile, for additions that have one.
    """

    hardware: HardwareConfig
    shape: ChipShape
    width_table: bool
    stages: tuple[ChipStage, ...]
    window_reuse: bool = False
    tile_lookup_bits: int = 0

    @property
    def pairs(self) -> int:
        """Crossbar pairs that hold planes."""
        return sum(stage.pairs for stage in self.stages)

    @property
    def macros(self) -> int:
        return sum(stage.copies * stage.macros for stage in self.stages)

    @property
    def tiles(self) -> int:
        return -(-self.macros // self.shape.macros_per_tile)

    @property
    def latency_clocks(self) -> float:
        """Clocks of one image through all layers, one after the other."""
        return sum(stage.clocks for stage in self.stages)

    @property
    def interval_clocks(self) -> float:
        """Clocks between two images: those of the slowest layer."""
        return max(stage.clocks for stage in self.stages)

    @property
    def utilisation(self) -> float:
        """Mean share of time that the macros are busy when images follow one another, 0..1."""
        busy = sum(stage.copies * stage.macros * stage.clocks for stage in self.stages)
        return busy / (self.macros * self.interval_clocks)

    @property
    def ou_utilisation(self) -> float:
        """Occupied OUs of all OUs of the pairs in use, 0..1."""
        places = sum(stage.copies * stage.placement.places for stage in self.stages)
        return sum(stage.copies * stage.placement.ous for stage in self.stages) / places if places else 0.0

    @property
    def cell_utilisation(self) -> float:
        """Cells of weights of all cells of occupied OUs, 0..1."""
        cells = sum(stage.copies * stage.placement.ou_cells for stage in self.stages)
        weights = sum(stage.copies * stage.placement.weight_cells for stage in self.stages)
        return weights / cells if cells else 0.0

    def area(self, table: ComponentTable | str | Path | None = None) -> AreaReport:
        """Area of the chip; ValueError for a table without area rows."""
        rows = load_table(table)
        if not rows.areas:
            raise ValueError(f"energy table {rows.name}: it has no [[area]] rows")
        units = [self._units(stage) for stage in self.stages] + [self._tile_units()]
        counts = np.array([[unit.get(row.quantity, 0.0) for row in rows.areas] for unit in units])
        return AreaReport(rows, (*(stage.name for stage in self.stages), "tiles"), counts)

    def _units(self, stage: ChipStage) -> dict[str, float]:
        hardware, macros = self.hardware, stage.copies * stage.macros
        arrays = 2 * macros * self.shape.pairs_per_macro
        return {
            "adc_lanes": macros * hardware.lanes,
            "bit_lines": arrays * hardware.cols,
            "word_lines": arrays * hardware.rows,
            "cells": arrays * hardware.rows * hardware.cols,
            "input_register_bits": macros * stage.input_register_bits,
            "window_register_bits": stage.copies * stage.input_register_bits if self.window_reuse else 0,
            "output_register_bits": macros * stage.output_register_bits,
            "width_table_bits": stage.copies * stage.placement.blocks * WIDTH_BITS if self.width_table else 0,
            "lookup_bits": macros * stage.lookup_bits,
            "metadata_bits": stage.copies * stage.metadata_bits,
            "held_bound_bits": stage.copies * stage.held_bound_bits,
            "macros": macros,
            **{
                name: (stage.copies if name in OF_COPIES else macros) * units for name, units in stage.own_units.items()
            },
        }

    def _tile_units(self) -> dict[str, float]:
        return {
            "tiles": self.tiles,
            "buffer_bits": self.tiles * self.shape.buffer_bytes * 8,
            "lookup_bits": self.tiles * self.tile_lookup_bits,
        }

    def balanced(self, budget: int) -> Chip:
        """The chip with layers copied until no copy of the slowest one fits into `budget` crossbar pairs.

        At every step the slowest layer gets one copy more. Macros count with all their pairs, used or not. A layer
        has at most as many copies as windows. Raises ValueError if not even one copy of each layer fits.
        """
        size = self.shape.pairs_per_macro
        used = self.macros * size
        if budget < used:
            raise ValueError(f"the network needs macros of {used} crossbar pairs, the budget has {budget}")
        found = list(self.stages)
        heap = [(-stage.clocks, index) for index, stage in enumerate(found)]
        heapq.heapify(heap)
        while True:
            index = heap[0][1]
            stage = found[index]
            used += stage.macros * size
            if stage.copies >= stage.windows or used > budget:
                return replace(self, stages=tuple(found))
            found[index] = replace(stage, copies=stage.copies + 1)
            heapq.heapreplace(heap, (-found[index].clocks, index))


def chip(machine: Machine, shape: ChipShape | None = None) -> Chip:
    """Put a machine's network on a chip, one copy of every layer. ValueError for figures that are not one per layer."""
    shape = ChipShape() if shape is None else shape
    network = machine.network
    hardware, rows, placements = network.hardware, stages(network), machine.placements
    if placements is None:
        planes = iter(layer_widths(network, machine.widths))
        placements = [place_stage(stage, hardware, [next(planes) for _ in stage.layers]) for stage in rows]
    elif len(placements) != len(rows):
        raise ValueError(f"placements must be given for all {len(rows)} layers, got {len(placements)}")
    cycles = machine.events[:, COUNTER_NAMES.index("cycles")]
    stored = _per_layer("metadata_bits", machine.metadata_bits, len(rows))
    held = _per_layer("held_bound_bits", machine.held_bound_bits, len(rows))
    own = {name: _per_layer(f"own_units: {name}", units, len(rows)) for name, units in machine.own_units.items()}
    table = hardware.table_entries * hardware.input_bits
    made = []
    for i, (stage, placement) in enumerate(zip(rows, placements, strict=True)):
        window = 0
        if not machine.overlapped:
            window = sum(fixed_cycles(layer, hardware, machine.keeps) for layer in stage.layers)
        windows = max(layer.windows for layer in stage.layers)
        layer_clocks = len(stage.layers) * timing.c_layer(hardware)
        conversion = max(0.0, float(cycles[i]) - layer_clocks - window)
        made.append(
            ChipStage(
                name=stage.name,
                placement=placement,
                macros=max(1, -(-placement.pairs // shape.pairs_per_macro)),
                copies=1,
                windows=windows,
                fixed_clocks=window / windows,
                c_layer_clocks=float(layer_clocks),
                conversion_clocks=conversion * (placement.share(shape.pairs_per_macro) or 1.0),
                input_register_bits=max(layer.k for layer in stage.layers) * hardware.input_bits,
                output_register_bits=max(layer.block_cols(hardware) for layer in stage.layers)
                * hardware.ou_cols
                * hardware.accumulator_bits,
                metadata_bits=float(stored[i]),
                held_bound_bits=float(held[i]),
                lookup_bits=table if stage.looks_up else 0,
                own_units={name: float(units[i]) for name, units in own.items()},
            )
        )
    adds = any(isinstance(node, Add) and node.lookup is not None for node in network.nodes)
    return Chip(hardware, shape, machine.width_table, tuple(made), machine.window_reuse, table if adds else 0)


def _per_layer(name: str, bits: np.ndarray | None, layers: int) -> np.ndarray:
    given = np.zeros(layers) if bits is None else np.asarray(bits, dtype=np.float64)
    if given.shape != (layers,):
        raise ValueError(f"{name} must be {layers} numbers, one per layer, got shape {given.shape}")
    return given


# ---- area ---------------------------------------------------------------------------------------
class AreaReport(Report):
    """Area in square micrometres: `counts[part, row]` units times `table.areas[row].area_um2`; the last part: tiles."""

    ROWS, PART, COUNT, EACH, PRODUCT, UNIT = "areas", "part", "units", "area_um2", "square_micrometres", "um2"
    FORMULAS = AREA_QUANTITIES

    @property
    def mm2_by_group(self) -> dict[str, float]:
        """Square millimetres of each component group, in table order."""
        return {group: value * 1e-6 for group, value in self.by_group.items()}

    @property
    def total_mm2(self) -> float:
        return self.total * 1e-6
