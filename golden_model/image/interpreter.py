"""The very words of a program, run over a flat byte memory as the hardware runs them (system.md §5a).

Nothing of the network is used: descriptors are unpacked, weights come from cells, width table and placement, converters
from the reference table; between runs of steps the host computes on the memory. A difference from the runner of the
network is a fault of the planner, one from the RTL a fault of the hardware.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.crossbar.prepared import Prepared, prepare_layer
from golden_model.engines.choice import EngineName
from golden_model.engines.run_layer import run_layer
from golden_model.events import Events
from golden_model.few_ones import nearest_level
from golden_model.image.check import check_descriptor, check_placement
from golden_model.image.lowering import HostStep
from golden_model.image.places import place_layer
from golden_model.image.program import Program, Tables
from golden_model.pairs.early_stop import StopWords, chosen_bits
from golden_model.registers import COUNTER_NAMES, OFFSET_BITS, StepKind, unpack_descriptor
from golden_model.rounding import round_half_up_shift
from golden_model.trq import AdcRegisters

#: Bytes of windows that one call of the crossbar engine gets.
_CHUNK_BYTES = 64 << 20
_LOGIT_TOP = (1 << 31) - 1


@dataclass(frozen=True, eq=False)
class Trace:
    """Everything a run leaves: logits and events as `Interpreter.run`, what every step wrote, and the memory.

    outputs : per step uint8 (B, N, H, W), or logits int64 (B, N). memory : uint8 (B, activation_bytes).
    """

    logits: np.ndarray
    events: Events
    outputs: list[np.ndarray]
    memory: np.ndarray


class Interpreter:
    """A program that is ready to run.

    Parameters
    ----------
    tables : the tile's memories. host_steps : what the host computes between steps. image_base : where the image lies;
    None: where the first step reads.
    steps : how many steps to run, from 0 on, as register LAYER_COUNT; None runs all.
    engine : as for `run_layer`.

    Raises ValueError, one sentence naming the step, for descriptors that the hardware refuses (check.py), for tables
    that are shorter than the steps need and for work of the host outside program or memory.
    """

    def __init__(
        self,
        tables: Tables,
        hardware: HardwareConfig,
        *,
        host_steps: Sequence[HostStep] = (),
        image_base: int | None = None,
        steps: int | None = None,
        engine: EngineName = "auto",
    ) -> None:
        count = len(tables.program) if steps is None else steps
        if not 1 <= count <= min(len(tables.program), hardware.max_layers):
            raise ValueError(f"steps must be in 1..{min(len(tables.program), hardware.max_layers)}, got {count}")
        self.tables = tables
        self.hardware = hardware
        self.engine: EngineName = engine
        self.fields = [unpack_descriptor(hardware, words) for words in tables.program[:count].tolist()]
        self.image_base = self.fields[0]["source"] if image_base is None else image_base
        for index, values in enumerate(self.fields):
            if code := check_descriptor(hardware, values):
                raise ValueError(f"step {index}: the hardware refuses its descriptor with {code.name}")
            if values.get("lookup", 0) > len(tables.lookups):
                raise ValueError(f"step {index}: there is no table {values['lookup']} of an activation function")
        self.host_steps = tuple(host_steps)
        for step in host_steps:
            _check_host_step(step, len(tables.program), hardware)
        self._layers = {
            index: _layer(index, values, tables, hardware)
            for index, values in enumerate(self.fields)
            if values["step"] == StepKind.CROSSBAR
        }
        self._prepared: dict[int, Prepared] = {}

    @classmethod
    def of(cls, program: Program, *, steps: int | None = None, engine: EngineName = "auto") -> Interpreter:
        """The interpreter of a whole program, or of its first `steps` steps."""
        return cls(
            program.tables,
            program.hardware,
            host_steps=program.host_steps,
            image_base=program.image_base,
            steps=steps,
            engine=engine,
        )

    def run(self, images: Any) -> tuple[np.ndarray, Events]:
        """Classify images.

        images : uint8 (B, ...), each as many bytes as the image takes.

        Returns (logits, events): logits int64 (B, N) of the last step, (B, 0) if it makes none; events (B, steps).
        """
        trace = self.trace(images)
        return trace.logits, trace.events

    def outputs(self, images: Any) -> list[np.ndarray]:
        """What every step wrote: uint8 (B, N, H, W), or logits int64 (B, N)."""
        return self.trace(images).outputs

    def trace(self, images: Any) -> Trace:
        """Run images and keep everything; as `run`."""
        memory = self._written(images)
        counts = np.zeros((len(memory), len(self.fields), len(COUNTER_NAMES)), dtype=np.int64)
        outputs = []
        for index in range(len(self.fields)):
            made, counts[:, index] = self._step(index, memory)
            outputs.append(made)
        last = outputs[-1] if self.fields[-1]["last"] else np.zeros((len(memory), 0), dtype=np.int64)
        return Trace(last, Events(counts), outputs, memory)

    def memory_before(self, images: Any, step: int) -> np.ndarray:
        """The memory as a step finds it, uint8 (B, activation_bytes)."""
        memory = self._written(images)
        for index in range(step):
            self._step(index, memory)
        self._host(step, memory)
        return memory

    # ---- one step -------------------------------------------------------------------------------
    def _written(self, images: Any) -> np.ndarray:
        """A memory that holds nothing but the images, uint8 (B, activation_bytes)."""
        images = np.asarray(images)
        if images.dtype != np.uint8:
            raise TypeError(f"images must be uint8, got dtype {images.dtype}")
        flat = images.reshape(len(images), -1) if images.size else np.zeros((len(images), 0), dtype=np.uint8)
        if self.image_base + flat.shape[1] > self.hardware.activation_bytes:
            raise ValueError(
                f"images of {flat.shape[1]} bytes at {self.image_base} must end within activation_bytes = "
                f"{self.hardware.activation_bytes}"
            )
        memory = np.zeros((len(images), self.hardware.activation_bytes), dtype=np.uint8)
        memory[:, self.image_base : self.image_base + flat.shape[1]] = flat
        return memory

    def _step(self, index: int, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a step makes of the memory, which it and the host before it change, and its counters (B, counters)."""
        self._host(index, memory)
        values = self.fields[index]
        run = self._crossbar if values["step"] == StepKind.CROSSBAR else self._element
        made, counts = run(index, values, memory)
        if not values["last"]:
            target, size = values["target"], int(np.prod(made.shape[1:]))
            memory[:, target : target + size] = made.reshape(len(made), size)
        return made, counts

    def _host(self, index: int, memory: np.ndarray) -> None:
        """The host's work in front of a step."""
        for step in self.host_steps:
            if step.before == index:
                given = memory[:, step.read_base : step.read_base + step.read_bytes]
                memory[:, step.write_base : step.write_base + step.write_bytes] = step.compute(given)

    def _element(self, index: int, values: dict[str, int], memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What an element step writes, and its counters (B, counters)."""
        outputs, channels, first = values["outputs"], values["channels"], values["first_channel"]
        border = self._border(values, outputs)
        inside = np.arange(outputs) - first
        has = (inside >= 0) & (inside < channels)
        maps = np.broadcast_to(border[None, :, None, None], (len(memory), outputs, values["height"], values["width"]))
        maps = maps.copy()
        maps[:, has] = self._map(values, memory)[:, inside[has]]
        total: np.ndarray | None = None
        for part in _walk(maps, border, values, values["out_height"], values["out_width"]):
            part = part.astype(np.int64)
            if total is None:
                total = part
            else:
                total = np.maximum(total, part) if values["step"] == StepKind.MAXIMUM else total + part
        assert total is not None
        area = values["kernel_height"] * values["kernel_width"]
        window = timing.element_cycles(self.hardware, area, outputs, residual=bool(values["residual"]))
        cycles = timing.c_layer(self.hardware) + len(timing.step_rounds(self.hardware, values)) * window
        counts = Events.of(cycles=np.full(len(memory), cycles)).counts
        if values["last"]:
            low = values["offset_low"]
            logits = total + (low - (1 << 32) if low >> 31 else low)
            return _saturated(logits.reshape(len(memory), outputs * values["out_plane"])), counts
        residual = self._residual(values, memory)
        return self._activated(total * values["multiplier"], residual, values), counts

    def _crossbar(self, index: int, values: dict[str, int], memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a crossbar step writes, and its counters (B, counters)."""
        layer, channels, pool = self._layers[index], values["channels"], values["pool"]
        rows, columns = values["out_height"], values["out_width"]
        batch, taps = len(memory), int(np.prod(_kernel(values)))
        border = self._border(values, channels)
        parts = list(_walk(self._map(values, memory), border, values, rows * pool, columns * pool))
        windows = np.stack(parts, axis=2).reshape(batch, channels * taps, rows, pool, columns, pool)
        windows = windows.transpose(0, 1, 2, 4, 3, 5).reshape(batch, channels, *_kernel(values), layer.windows)
        windows = np.ascontiguousarray(windows.transpose(0, 1, 4, 2, 3)).reshape(
            batch, channels, layer.height, layer.width
        )
        if index not in self._prepared:
            self._prepared[index] = prepare_layer(layer, self.hardware)
        sums = np.zeros((batch, layer.windows, layer.outputs), dtype=np.int64)
        counts = np.zeros((batch, len(COUNTER_NAMES)), dtype=np.int64)
        size = max(1, _CHUNK_BYTES // (layer.windows * (layer.k + 32 * layer.outputs)))
        for start in range(0, batch, size):
            part = slice(start, start + size)
            sums[part], events = run_layer(
                layer,
                self.hardware,
                windows[part],
                prepared=self._prepared[index],
                engine=self.engine,
                finish=lambda image, one: one[:, : layer.outputs].astype(np.int64),
                rounds=timing.step_rounds(self.hardware, values),
                stop_words=self._stop_words(values),
            )
            counts[part] = events.counts
        first = values["channel_base"]
        bias, multipliers = (x[first : first + layer.outputs] for x in (self.tables.bias, self.tables.multipliers))
        sums += bias
        if values["last"]:
            return _saturated(sums[:, 0]), counts
        total = (sums * multipliers).transpose(0, 2, 1).reshape(batch, layer.outputs, rows, columns, pool * pool)
        residual = self._residual(values, memory)
        if residual is not None:
            residual = residual[..., None]
        return np.ascontiguousarray(self._activated(total, residual, values).max(axis=-1)), counts

    def _stop_words(self, values: dict[str, int]) -> StopWords | None:
        """Words of early stop of a crossbar step, None if it has none."""
        if not (bits := values.get("stop_bits", 0)):
            return None
        channels = slice(values["channel_base"], values["channel_base"] + values["outputs"])
        after = chosen_bits(bits, values["stream_bits"])
        return StopWords(after, self.tables.stop_starts[channels], self.tables.stop_bounds[channels])

    def _activated(self, total: np.ndarray, residual: np.ndarray | None, values: dict[str, int]) -> np.ndarray:
        """Activations of sums, uint8: requantised, and looked up if the step has a table."""
        made, table = _requantised(total, residual, values), values.get("lookup", 0)
        return self.tables.lookups[table - 1][made] if table else made

    # ---- what a step reads ----------------------------------------------------------------------
    def _map(self, values: dict[str, int], memory: np.ndarray) -> np.ndarray:
        """The input, (B, C, H, W)."""
        shape = (values["channels"], values["height"], values["width"])
        begin, size = values["source"], int(np.prod(shape))
        return memory[:, begin : begin + size].reshape(len(memory), *shape)

    def _border(self, values: dict[str, int], channels: int) -> np.ndarray:
        """Border value of every channel, uint8 (channels,)."""
        if not values["pad_enable"]:
            return np.full(channels, values["pad_value"], dtype=np.uint8)
        border = self.tables.pads[values["pad_base"] : values["pad_base"] + channels]
        if len(border) < channels:
            raise ValueError("a step reads border values beyond the end of the pad table")
        return border

    def _residual(self, values: dict[str, int], memory: np.ndarray) -> np.ndarray | None:
        """r of every output, (B, N, H, W); None without residual."""
        if not values["residual"]:
            return None
        outputs, rows, columns = values["outputs"], values["out_height"], values["out_width"]
        made = np.full((len(memory), outputs, rows, columns), values["residual_value"], dtype=np.uint8)
        channel = np.arange(outputs) - values["residual_first"]
        has = (channel >= 0) & (channel < values["residual_channels"])
        addresses = (
            values["residual_base"]
            + channel[has][:, None, None] * values["residual_plane"]
            + np.arange(rows)[:, None] * values["residual_row"]
            + np.arange(columns) * values["residual_column"]
        )
        made[:, has] = memory[:, addresses]
        return made


def _walk(maps: np.ndarray, border: np.ndarray, values: dict[str, int], rows: int, columns: int):
    """The maps (B, C, H, W) under each kernel position, raster order: (B, C, rows, columns), border outside."""
    height, width = maps.shape[2:]
    for ky in range(values["kernel_height"]):
        y = np.arange(rows) * values["stride_y"] - values["pad_top"] + ky
        inside_y = (y >= 0) & (y < height)
        for kx in range(values["kernel_width"]):
            x = np.arange(columns) * values["stride_x"] - values["pad_left"] + kx
            inside = inside_y[:, None] & ((x >= 0) & (x < width))
            part = maps[:, :, np.clip(y, 0, height - 1)[:, None], np.clip(x, 0, width - 1)]
            yield np.where(inside, part, border[:, None, None])


def _requantised(total: np.ndarray, residual: np.ndarray | None, values: dict[str, int]) -> np.ndarray:
    """clamp(round_half_up_shift(total + r * M_r + offset, S), 0, 2**a - 1), uint8 (system.md §3), or the nearest level
    with few ones."""
    offset = values["offset_low"] | values["offset_high"] << 32
    if offset >> (OFFSET_BITS - 1):
        offset -= 1 << OFFSET_BITS
    total = total + offset
    if residual is not None:
        total = total + residual.astype(np.int64) * values["residual_multiplier"]
    made = np.clip(round_half_up_shift(total, values["shift"]), 0, (1 << values["out_bits"]) - 1).astype(np.uint8)
    return nearest_level(made, values["out_bits"], values.get("out_ones", 0))


def _saturated(logits: np.ndarray) -> np.ndarray:
    """Logits as the hardware stores them, in 32 signed bits."""
    return np.clip(logits, -_LOGIT_TOP - 1, _LOGIT_TOP)


def _check_host_step(step: HostStep, steps: int, hardware: HardwareConfig) -> None:
    """Raise ValueError unless a step of the host stands in the program and its bytes lie in the memory."""
    where, room = f"step {step.name} of the host", hardware.activation_bytes
    if not 0 <= step.before < steps:
        raise ValueError(f"{where}: it must stand before one of the {steps} steps of the tile, got {step.before}")
    for what, base, size in (
        ("reads", step.read_base, step.read_bytes),
        ("writes", step.write_base, step.write_bytes),
    ):
        if not 0 <= base <= room - size:
            raise ValueError(f"{where}: it {what} {size} bytes at {base}, the memory ends at activation_bytes = {room}")


def _kernel(values: dict[str, int]) -> tuple[int, int]:
    """Rows and columns of a step's kernel."""
    return values["kernel_height"], values["kernel_width"]


def _layer(index: int, values: dict[str, int], tables: Tables, hardware: HardwareConfig) -> Layer:
    """A crossbar step as a layer on its windows, which lie below each other in its map.

    Its weights come from the cells that the width table and the placement point at.
    """
    segments, block_cols, outputs = values["segments"], values["block_cols"], values["outputs"]
    kernel_height, kernel_width = _kernel(values)
    k = values["channels"] * kernel_height * kernel_width
    widths = tables.widths[values["width_base"] : values["width_base"] + segments * block_cols]
    if len(widths) != segments * block_cols:
        raise ValueError(f"step {index}: the width table has no {segments} x {block_cols} entries for it")
    if code := check_placement(hardware, values, tables.widths):
        raise ValueError(f"step {index}: the hardware refuses its placement with {code.name}")
    widths = widths.reshape(segments, block_cols).astype(np.int64)
    placed = place_layer(widths, hardware, crossbar_base=values["crossbar_base"])
    if values["crossbar_base"] + placed.pairs > len(tables.cells):
        raise ValueError(f"step {index}: its planes reach beyond the last crossbar pair")
    if values["channel_base"] + outputs > len(tables.bias):
        raise ValueError(f"step {index}: the bias table has no {outputs} entries for it")
    cells = tables.cells[placed.pair, placed.ou_row, placed.ou_col].astype(np.int64)  # (planes, lanes, ou_rows)
    if (cells[:, : hardware.ou_cols] & cells[:, hardware.ou_cols :]).any():
        raise ValueError(f"step {index}: a weight is stored with both signs")
    signed = (cells[:, : hardware.ou_cols] - cells[:, hardware.ou_cols :]) << placed.plane[:, None, None]
    blocks = np.zeros((segments, block_cols, hardware.ou_cols, hardware.ou_rows), dtype=np.int64)
    np.add.at(blocks, (placed.segment, placed.block_col), signed)
    weights = blocks.transpose(0, 3, 1, 2).reshape(segments * hardware.ou_rows, -1)[:k, :outputs]
    return Layer(
        name=f"step {index}",
        kind="conv",
        channels=values["channels"],
        height=values["out_height"] * values["out_width"] * values["pool"] ** 2 * kernel_height,
        width=kernel_width,
        kernel_height=kernel_height,
        kernel_width=kernel_width,
        stride=kernel_height,
        pad=0,
        pool=1,
        outputs=outputs,
        weights=weights,
        bias=np.zeros(outputs, dtype=np.int64),
        multipliers=np.ones(outputs, dtype=np.int64),
        shift=0,
        block_widths=widths,
        registers=AdcRegisters.of_descriptor(values),
        min_count=_min_count(tables.levels[index], hardware),
        dynamic=DynamicPrecision(l_max=values["l_max"], tau_sq=values["tau_sq"]) if values["dynamic"] else None,
        skip_zero_slices=bool(values["skip_zero_slices"]),
        input_bits=values["stream_bits"],
        output_bits=values["out_bits"],
    )


def _min_count(levels: np.ndarray, hardware: HardwareConfig) -> np.ndarray:
    """Smallest count whose level reaches each threshold 1..2**R - 1; ou_rows + 1 where none does."""
    return np.searchsorted(levels, np.arange(1, 1 << hardware.adc_bits), side="left").astype(np.int64)
