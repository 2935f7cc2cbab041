"""The program of a network: its steps (lowering.py), where everything lies (placing.py), the tile's memory contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from golden_model import timing
from golden_model.config import _LIMITS, PAPER, HardwareConfig
from golden_model.crossbar import mapping
from golden_model.events import Events
from golden_model.graph.network import Graph
from golden_model.graph.nodes import Shape
from golden_model.graph.settings import with_settings
from golden_model.image.lowering import HostStep, Step, in_order, lower
from golden_model.image.placing import Buffer, Layout, place, problems_of
from golden_model.pairs.early_stop import StopWords
from golden_model.registers import DESCRIPTOR_STRIDE, OFFSET_BITS, pack_descriptor
from golden_model.trq import levels

#: Capacities of `HardwareConfig` that a network needs.
CAPACITIES = (
    "activation_bytes",
    "crossbar_pairs",
    "max_k",
    "max_n",
    "max_layers",
    "width_entries",
    "channel_entries",
    "pad_entries",
    "activation_tables",
    "accumulator_bits",
)


@dataclass(frozen=True, eq=False)
class Tables:
    """Contents of the tile's memories.

    program : (steps, DESCRIPTOR_STRIDE) uint32 descriptor words. widths : (entries,) uint8.
    bias, multipliers : (channels,) int64. pads : (entries,) uint8. levels : (steps, ou_rows + 1) uint8,
    sampled level of every count. cells : bool (pairs, grid_rows, grid_cols, lanes, ou_rows).
    cell_words : (OUs, cell_words) uint32 in programming order. checksum : CRC-32 of the cell words. lookups : uint8
    (tables, 2**input_bits), activation of every code; table 1 comes first. stop_bounds, stop_starts : (channels,)
    int64, words of early stop; empty where the machine has none.
    """

    program: np.ndarray
    widths: np.ndarray
    bias: np.ndarray
    multipliers: np.ndarray
    pads: np.ndarray
    levels: np.ndarray
    cells: np.ndarray
    cell_words: np.ndarray
    checksum: int
    lookups: np.ndarray
    stop_bounds: np.ndarray
    stop_starts: np.ndarray


@dataclass(frozen=True, eq=False)
class Part:
    """A run of the tile, steps first..end - 1, and what the host computes before it."""

    host_steps: tuple[HostStep, ...]
    first: int
    end: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A placed program; make one with `plan`.

    steps : of the tile, a descriptor each. host_steps : of the host, between them. placement : where the planes of
    every crossbar step lie, in order. buffers : the memory map.
    image_base, image_shape : where the host writes the image, C, H, W order. logits : how many there are.
    """

    hardware: HardwareConfig
    steps: tuple[Step, ...]
    host_steps: tuple[HostStep, ...]
    tables: Tables
    placement: mapping.Placement
    buffers: tuple[Buffer, ...]
    image_base: int
    image_shape: Shape
    logits: int

    @property
    def order(self) -> tuple[Step | HostStep, ...]:
        """All steps, in order; what `buffers` count by."""
        return in_order(self.steps, self.host_steps)

    def parts(self, steps: int | None = None) -> tuple[Part, ...]:
        """The runs that the first `steps` steps take, all by default; one if the host has nothing to compute."""
        count = len(self.steps) if steps is None else steps
        cuts = sorted({0} | {step.before for step in self.host_steps if step.before < count})
        return tuple(
            Part(tuple(step for step in self.host_steps if step.before == first), first, end)
            for first, end in pairwise([*cuts, count])
        )

    def step_events(self, events: Events) -> Events:
        """Events (B, crossbar layers) -> (B, steps): element steps have cycles only."""
        counts = events.counts
        made = np.zeros((*counts.shape[:-2], len(self.steps), counts.shape[-1]), dtype=np.int64)
        made[..., [step.layer is not None for step in self.steps], :] = counts
        return Events(made) + Events.of(cycles=np.array([step.cycles or 0 for step in self.steps]))

    def cycles(self, events: Events) -> np.ndarray:
        """Clocks from start to done, all parts, (B,) int64, from events of the crossbar nodes or layers, (B, nodes)."""
        elements = sum(step.cycles or 0 for step in self.steps)
        return timing.network_cycles(self.hardware, events.cycles) + elements


def needs(network: Graph) -> dict[str, int]:
    """What a network needs of every capacity in `CAPACITIES`, by field of `HardwareConfig`."""
    return {name: need.needed for name, need in place(lower(network)).needs.items()}


def fitting(network: Graph, base: HardwareConfig = PAPER) -> HardwareConfig:
    """A configuration that a network fits: capacities of `base` or the next power of two, all else as in `base`.

    If OUs, converters or bits of `base` are not those of the network, it is taken to `base` first (`with_settings`).

    Raises ValueError if no configuration can hold the network.
    """
    room = {name: _LIMITS[name][1] for name in CAPACITIES}
    machine = replace(base, **room)
    if machine != replace(network.hardware, **room):
        network = with_settings(network, hardware=machine)
    grown = {}
    for name, needed in needs(network).items():
        has = getattr(base, name)
        if needed > room[name]:
            raise ValueError(f"network {network.name}: it needs {name} = {needed}, hardware has at most {room[name]}")
        if needed > has:
            power = needed if name == "accumulator_bits" else 1 << (needed - 1).bit_length()
            grown[name] = min(power, room[name])
    return replace(base, **grown)


def plan(network: Graph) -> Program:
    """Place a network on its hardware.

    Raises ValueError with one sentence that names everything that does not fit: what is needed, what there is, and
    the step that needs most.
    """
    layout, hardware = place(lower(network)), network.hardware
    if problems := problems_of(layout, hardware):
        raise ValueError(f"network {network.name}: " + "; ".join(problems))
    steps = tuple(replace(step, fields=_halved(step.fields)) for step in layout.steps)
    return Program(
        hardware=hardware,
        steps=steps,
        host_steps=layout.host_steps,
        tables=_tables(layout, steps, hardware),
        placement=layout.placement,
        buffers=layout.buffers,
        image_base=layout.image_base,
        image_shape=network.image.shape,
        logits=int(np.prod(network.output.shape)),
    )


def _halved(values: Mapping[str, int]) -> dict[str, int]:
    """Descriptor fields with the signed offset in two halves."""
    offset = values["offset"] & ((1 << OFFSET_BITS) - 1)
    rest = {name: value for name, value in values.items() if name != "offset"}
    return rest | {"offset_low": offset & 0xFFFFFFFF, "offset_high": offset >> 32}


def _tables(layout: Layout, steps: Sequence[Step], hardware: HardwareConfig) -> Tables:
    """Memory contents of the tile."""
    program = np.zeros((len(steps), DESCRIPTOR_STRIDE), dtype=np.uint32)
    reference = np.zeros((len(steps), hardware.ou_rows + 1), dtype=np.uint8)
    cells = mapping.empty_cells(hardware, layout.placement.pairs)
    placed = iter(layout.placement.layers)
    for index, step in enumerate(steps):
        words = pack_descriptor(hardware, step.fields)
        program[index, : len(words)] = words
        if step.layer is not None:
            reference[index] = levels(hardware.adc_bits, hardware.ou_rows, step.layer.min_count)
            mapping.program_layer(cells, next(placed), step.layer.weights, hardware)
    layers = [step.layer for step in steps if step.layer is not None]
    lookups = np.zeros((len(layout.lookups), hardware.table_entries), dtype=np.uint8)
    for row, table in zip(lookups, layout.lookups, strict=True):
        row[: len(table)] = table
    none, stops = np.zeros(0, dtype=np.int64), []
    if hardware.early_stop:
        stops = [StopWords.of(layer) or StopWords.nothing(layer.outputs) for layer in layers]
    return Tables(
        program=program,
        widths=np.concatenate([np.ravel(layer.block_widths) for layer in layers]).astype(np.uint8),
        bias=np.concatenate([layer.bias for layer in layers]).astype(np.int64),
        multipliers=np.concatenate([layer.multipliers for layer in layers]).astype(np.int64),
        pads=np.array(layout.pads, dtype=np.uint8),
        levels=reference,
        cells=cells,
        cell_words=mapping.cell_words(cells, hardware),
        checksum=mapping.checksum(cells, hardware),
        lookups=lookups,
        stop_bounds=np.concatenate([words.bounds for words in stops] or [none]),
        stop_starts=np.concatenate([words.starts for words in stops] or [none]),
    )
