"""Programs written by hand: descriptors and tables without a planner, what they must do, and how to run them.

What a program does comes from the scalar references of `step_model` and `oracle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping, redy
from golden_model.crossbar.layer import DynamicPrecision
from golden_model.graph.settings import lossless_registers
from golden_model.pairs.gather import matmul
from golden_model.pairs.machine import build_clocks, step_clocks
from golden_model.pairs.packs import Packing, pack_layer
from golden_model.pairs.search import Search
from golden_model.registers import (
    COUNTER_NAMES,
    DESCRIPTOR_STRIDE,
    REGION,
    StepKind,
    pack_descriptor,
    reference_entry,
)
from golden_model.trq import AdcRegisters, levels
from rtl.pair_layouts import SearchMode
from rtl.tile import Tile
from sim.host.driver import Driver
from tests.rtl import oracle, step_model
from tests.rtl.search_oracle import SearchRegisters, search
from tests.strategies import make_layer


@dataclass
class Step:
    """One step: its descriptor fields; of a crossbar step also what the tables hold for it."""

    fields: dict[str, int]
    weights: np.ndarray | None = None
    widths: np.ndarray | None = None
    bias: Sequence[int] = ()
    multipliers: Sequence[int] = ()
    registers: AdcRegisters | None = None
    dynamic: DynamicPrecision | None = None
    packing: Packing | None = None


@dataclass
class Outcome:
    """After a run of some steps. events : per step, all counters."""

    memory: list[int]
    logits: dict[int, int] = field(default_factory=dict)
    events: list[dict[str, int]] = field(default_factory=list)
    overflow: bool = False

    @property
    def cycles(self) -> int:
        return sum(events["cycles"] for events in self.events)


class Program:
    """Steps in order; tables are filled as they come."""

    def __init__(self, hardware: HardwareConfig):
        self.hardware = hardware
        self.steps: list[Step] = []
        self.pads: list[int] = []
        self.tables: list[list[int]] = []  # of activation functions; step field `lookup` counts from 1
        self.cells = mapping.empty_cells(hardware, hardware.crossbar_pairs)
        self._pairs = self._widths = self._channels = 0

    def _pad_table(self, pads: Sequence[int] | None) -> dict[str, int]:
        if pads is None:
            return {}
        base = len(self.pads)
        self.pads += pads
        return {"pad_enable": 1, "pad_base": base}

    def element(self, kind: StepKind, *, pads: Sequence[int] | None = None, **fields: int) -> None:
        """Add an element step."""
        self.steps.append(Step(step_model.step(self.hardware, step=kind, **self._pad_table(pads), **fields)))

    def crossbar(
        self,
        weights: np.ndarray,
        bias: Any,
        multipliers: Any,
        *,
        registers: AdcRegisters | None = None,
        dynamic: DynamicPrecision | None = None,
        pads: Sequence[int] | None = None,
        **fields: int,
    ) -> None:
        """Add a crossbar step with weights (K, N); lossless conversion unless `registers` are given."""
        hardware = self.hardware
        registers = registers or lossless_registers(hardware)
        widths = mapping.block_widths(weights, hardware)
        values = {
            "outputs": weights.shape[1],
            "crossbar_base": self._pairs,
            "width_base": self._widths,
            "channel_base": self._channels,
            **registers.in_descriptor(hardware),
        }
        if dynamic is not None:
            values |= {"dynamic": 1, "l_max": dynamic.l_max, "tau_sq": dynamic.tau_sq}
        described = step_model.step(hardware, **values, **self._pad_table(pads), **fields)
        made = Step(
            described, weights, widths, [int(b) for b in bias], [int(m) for m in multipliers], registers, dynamic
        )
        self.steps.append(made)
        if hardware.pairs:
            made.packing = self._pack(made)
            self._pairs += made.packing.pairs
        else:
            placed = mapping.place_layer(widths, hardware, crossbar_base=self._pairs)
            mapping.program_layer(self.cells, placed, weights, hardware)
            self._pairs += placed.pairs
        self._widths += widths.size
        self._channels += weights.shape[1]

    def _pack(self, made: Step) -> Packing:
        """The packs of a step on the pair machine; their cells are programmed from the next pair on."""
        hardware, (k, outputs) = self.hardware, made.weights.shape
        layer = make_layer(
            np.random.default_rng(0), hardware, kind="linear", channels=k, height=1, width=1, outputs=outputs,
            weights=made.weights, block_widths=made.widths, registers=made.registers, dynamic=made.dynamic,
            input_bits=made.fields["stream_bits"],
        )  # fmt: skip
        packing = pack_layer(layer, hardware)
        for pack in packing.packs:
            for group in (group for mask in pack.masks for group in mask.groups):
                for polarity, cells in enumerate((group.positive, group.negative)):
                    first = polarity * hardware.ou_cols
                    place = self._pairs + group.pair, slice(pack.segments), group.ou_col
                    self.cells[place][:, first : first + len(cells)] = cells.reshape(
                        len(cells), pack.segments, hardware.ou_rows
                    ).swapaxes(0, 1)
        return packing

    # ---- on the hardware ----------------------------------------------------------------------
    async def load(self, driver: Driver) -> None:
        """Write all tables and cells."""
        hardware = self.hardware
        table = [int(level) for level in levels(hardware.adc_bits, hardware.ou_rows)]
        for index, made in enumerate(self.steps):
            words = pack_descriptor(hardware, {name: int(value) for name, value in made.fields.items()})
            await driver.write_region("PROGRAM", words, first=index * DESCRIPTOR_STRIDE)
            if not hardware.pairs:
                await driver.write_region("REFERENCE", table, first=reference_entry(hardware, index))
            if made.weights is not None and made.widths is not None:
                await driver.write_region("WIDTHS", made.widths.ravel(), first=made.fields["width_base"])
                await driver.write_region(
                    "BIAS", [b & 0xFFFFFFFF for b in made.bias], first=made.fields["channel_base"]
                )
                await driver.write_region("MULTIPLIERS", made.multipliers, first=made.fields["channel_base"])
        await driver.write_region("PADS", self.pads)
        for index, entries in enumerate(self.tables):
            await driver.write_region("LOOKUPS", entries, first=index * hardware.table_entries)
        await driver.program_cells(mapping.cell_words(self.cells[: self._pairs], hardware))

    # ---- as it must be ------------------------------------------------------------------------
    def run(self, memory: Sequence[int], steps: int | None = None) -> Outcome:
        """What `steps` steps (all if None) make of `memory`."""
        outcome = Outcome(list(memory))
        for made in self.steps[:steps]:
            self._step(made, outcome)
        return outcome

    def _step(self, made: Step, outcome: Outcome) -> None:
        fields, before = made.fields, list(outcome.memory)
        outputs = fields["outputs"]
        element = step_model.is_element(fields)
        events = dict.fromkeys(COUNTER_NAMES, 0)
        events["cycles"] = timing.c_layer(self.hardware)
        walked = step_model.windows(fields, before, self.pads)
        conversions, converted = [], []
        for (oy, ox, py, px), channels in zip(step_model.origins(fields), walked, strict=True):
            if element:
                area = fields["kernel_height"] * fields["kernel_width"]
                events["cycles"] += outputs * (area + fields["residual"]) + timing.c_element(self.hardware)
                values = [step_model.reduce(fields, channel) for channel in channels]
                low, multipliers = step_model.low_offset(fields), [fields["multiplier"]] * outputs
            else:
                converted.append([value for channel in channels for value in channel])
                window = self._convert(made, converted[-1])
                for name, count in window.counters.items():
                    events[name] += count
                conversions.append(window.clocks)
                values = [int(total) + b for total, b in zip(window.sums, made.bias, strict=True)]
                low, multipliers = 0, made.multipliers
            position = oy * fields["out_width"] + ox
            for n in range(outputs):
                at = n * fields["out_plane"] + position
                if fields["last"]:
                    outcome.logits[at], lost = step_model.logit(values[n] + low)
                    outcome.overflow |= lost
                    continue
                r = step_model.residual(fields, before, n, oy, ox)
                y = step_model.activation(fields, values[n], multipliers[n], r, self.tables)
                at += fields["target"]
                outcome.memory[at] = y if (py, px) == (0, 0) else max(outcome.memory[at], y)
        if conversions:
            events["cycles"] += self._clocks(made, conversions, converted)
        outcome.events.append(events)

    def _clocks(self, made: Step, conversions: list[int], windows: list[list[int]]) -> int:
        """Clocks of the windows of a crossbar step, by those of their conversions, or by their values."""
        hardware, (k, outputs) = self.hardware, made.weights.shape
        if made.packing is None:
            return sum(conversions) + len(conversions) * (k + outputs + timing.c_window(hardware))
        kernel = made.fields["channels"], made.fields["kernel_height"], made.fields["kernel_width"]
        load = timing.fetches(hardware, *kernel) + made.fields["segments"] + Tile.load_clocks(hardware)
        drain = outputs + Tile.drain_clocks(hardware)
        beats = timing.Beats(load, Tile.convert_clocks(hardware), drain, build_clocks(made.packing))
        rounds, search = np.arange(len(windows))[:, None], _search(hardware, made.registers)
        rows = np.array(windows, dtype=np.uint8)
        return int(step_clocks(made.packing, rows, search, rounds, beats, plain=True).step[0])

    def _convert(self, made: Step, values: list[int]) -> oracle.Window:
        """Partial sums, events and clocks of one window."""
        hardware, fields = self.hardware, made.fields
        if made.packing is not None:
            return self._convert_pairs(made, np.array([values], dtype=np.uint8))
        segments = fields["segments"]
        masks = [(1 << fields["stream_bits"]) - 1] * segments
        streamed = np.asarray(values)
        if made.dynamic is not None:
            chosen = redy.precision(streamed[None], hardware, made.dynamic)
            streamed = chosen.streamed[0]
            groups = [segment // hardware.segments_per_group for segment in range(segments)]
            bounds = [(int(chosen.hi[0, g]), int(chosen.lo[0, g])) for g in groups]
            masks = [(2 << hi) - (1 << lo) if hi >= 0 else 0 for hi, lo in bounds]
        return oracle.window(
            hardware,
            made.registers,
            made.weights,
            made.widths,
            streamed,
            masks,
            levels=[int(level) for level in levels(hardware.adc_bits, hardware.ou_rows)],
            skip_zero_slices=bool(fields["skip_zero_slices"]),
            crossbar_base=fields["crossbar_base"],
        )

    def _convert_pairs(self, made: Step, window: np.ndarray) -> oracle.Window:
        """The same on the pair machine; window (1, K)."""
        search = _search(self.hardware, made.registers)
        sums, spent = matmul(made.packing, window, search)
        counted = {name: int(count[0]) for name, count in spent.counters(self.hardware.ou_rows).items()}
        return oracle.Window(sums=sums[0, 0], counters=counted, clocks=0)  # of a step, not of a window


def _search(hardware: HardwareConfig, registers: AdcRegisters) -> Search:
    """What lanes with these registers find, comparison by comparison (`search_oracle`)."""
    rows, asked = hardware.ou_rows, SearchRegisters(SearchMode[registers.mode.upper()], True, registers)
    value, operations = np.zeros((2, rows + 1, 2 * rows + 1), dtype=np.int64)
    for k in range(1, rows + 1):
        for d in range(-k, k + 1):
            value[k, rows + d], _, operations[k, rows + d] = search(asked, hardware.adc_bits, k, d)
    return Search(registers.mode, True, value, operations)


async def write_memory(driver: Driver, memory: Sequence[int]) -> None:
    """Write the whole activation memory (a multiple of 4 bytes)."""
    words = np.asarray(memory, dtype=np.uint8).view("<u4")
    await driver.write_region("ACTIVATIONS", words)


async def read_memory(driver: Driver) -> list[int]:
    """The whole activation memory."""
    count = driver.hardware.activation_bytes // 4
    words = await driver.bus.read_many([REGION["ACTIVATIONS"].address(i) for i in range(count)])
    return np.array(words, dtype="<u4").view(np.uint8).tolist()
