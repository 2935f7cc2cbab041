"""Behavioural analog crossbars behind the macro's comparator port (system.md §1, §4.2, §10).

A model holds the cells of every crossbar pair, samples the bit lines of one OU for one input slice and
answers the comparators: 1 where v >= t - 1/2 LSB. All imperfections are off in `CrossbarSettings()`,
the ideal array, whose answers are exactly those of `count >= min_count[t - 1]`.

The sampled quantity is the *analog count* of a bit line: the sum over its word lines of
input bit x cell conductance / nominal on-conductance. In LSB, v = analog count / λ, with λ (counts per
LSB) the step's reference. Comparisons are made in counts, `analog count >= λ (t - 1/2)`, as the
exporter computes `min_count`, so that no division can move a tie.

The device models (conductance spread, on/off ratio, stuck cells, read noise) and their default forms are
*ours*: textbook behavioural models, not taken from the three papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from golden_model import trq
from golden_model.config import HardwareConfig
from golden_model.image.program import Program


@dataclass(frozen=True, kw_only=True)
class CrossbarSettings:
    """Imperfections of a device; the defaults are the ideal array.

    variation : relative standard deviation of a cell's conductance, drawn once per cell (device to device);
        on and off state scale together.
    distribution : "lognormal" (mean 1, always positive) or "normal" (mean 1, cut off at 0).
    on_off_ratio : on-conductance / off-conductance; 0 means infinite (an off cell conducts nothing).
    stuck_on, stuck_off : probability that a cell always conducts / never does, whatever is programmed.
    read_noise : standard deviation of additive Gaussian noise on each sample, in counts (units of one
        nominal on-cell), drawn anew for every lane at every sample and constant while it is held.
    seed : fixes the device (variation, stuck cells) and the noise sequence.
    """

    variation: float = 0.0
    distribution: Literal["lognormal", "normal"] = "lognormal"
    on_off_ratio: float = 0.0
    stuck_on: float = 0.0
    stuck_off: float = 0.0
    read_noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("variation", "on_off_ratio", "stuck_on", "stuck_off", "read_noise"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"CrossbarSettings.{name} must be a number, got {value!r}")
            if not 0 <= value < float("inf"):
                raise ValueError(f"CrossbarSettings.{name} must be a finite number of at least 0, got {value}")
        if self.distribution not in ("lognormal", "normal"):
            raise ValueError(
                f"CrossbarSettings.distribution must be 'lognormal' or 'normal', got {self.distribution!r}"
            )
        if 0 < self.on_off_ratio < 1:
            raise ValueError(
                f"CrossbarSettings.on_off_ratio must be 0 (infinite) or at least 1, got {self.on_off_ratio}"
            )
        if self.stuck_on + self.stuck_off > 1:
            raise ValueError(
                "CrossbarSettings.stuck_on + stuck_off must be at most 1, "
                f"got {self.stuck_on} + {self.stuck_off} = {self.stuck_on + self.stuck_off}"
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"CrossbarSettings.seed must be an integer, got {self.seed!r}")
        if self.seed < 0:
            raise ValueError(f"CrossbarSettings.seed must be at least 0, got {self.seed}")

    @property
    def ideal(self) -> bool:
        """True if nothing differs from the ideal array."""
        defaults = {f.name: f.default for f in fields(self)}
        return all(
            getattr(self, name) == defaults[name]
            for name in ("variation", "on_off_ratio", "stuck_on", "stuck_off", "read_noise")
        )


class Crossbar:
    """Crossbar pairs of one macro with sample-and-hold and comparators.

    Parameters
    ----------
    hardware : sizes. settings : imperfections.
    counts_per_lsb : λ of every step of the program (system.md §4.4), for comparisons of a non-ideal array.
    min_count : per step, (2**adc_bits - 1,) integers; min_count[t - 1] is the smallest count that answers 1
        to threshold t. The ideal array compares with it alone. Default for both: the count grid (λ = 1).

    Attributes: `limits` (steps, 2**adc_bits), threshold t of a step in counts (-inf for t = 0); `held`
    (lanes,), the present sample in counts.

    Cells hold 0 until programmed. Everything is reproducible: the device depends on `settings.seed` and
    on the cell's place only, the noise on the seed and on the order of samples.
    """

    def __init__(
        self,
        hardware: HardwareConfig,
        settings: CrossbarSettings | None = None,
        *,
        counts_per_lsb: Sequence[float] | None = None,
        min_count: Sequence[np.ndarray] | None = None,
    ):
        self.hardware = hardware
        self.settings = settings or CrossbarSettings()
        levels = np.arange(1, 1 << hardware.adc_bits)
        if min_count is None:
            scales = [1.0] * hardware.max_layers if counts_per_lsb is None else counts_per_lsb
            min_count = [np.ceil(scale * (levels - 0.5)).astype(np.int64) for scale in scales]
        if counts_per_lsb is None:
            counts_per_lsb = [1.0] * len(min_count)
        if len(counts_per_lsb) != len(min_count):
            raise ValueError(f"{len(counts_per_lsb)} values of counts_per_lsb for {len(min_count)} of min_count")
        for step, table in enumerate(min_count):
            if np.shape(table) != levels.shape:
                raise ValueError(f"min_count[{step}] must have shape {levels.shape}, got {np.shape(table)}")
        self._counts_per_lsb = [float(scale) for scale in counts_per_lsb]
        # Threshold t in counts, at index t; threshold 0 is below everything.
        exact = [np.asarray(table, dtype=np.float64) for table in min_count]
        analog = [scale * (levels - 0.5) for scale in self._counts_per_lsb]
        chosen = exact if self.settings.ideal else analog
        self.limits = np.array([np.concatenate([[-np.inf], limits]) for limits in chosen])
        shape = (hardware.crossbar_pairs, hardware.grid_rows, hardware.grid_cols)
        self._words: dict[tuple[int, int, int], int] = {}
        self._conductance: dict[tuple[int, int, int], np.ndarray] = {}
        self._device: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._shape = shape
        self._noise = np.random.default_rng([self.settings.seed, 1])
        self.held = np.zeros(hardware.lanes)

    @property
    def steps(self) -> int:
        """Steps with a reference of their own."""
        return len(self.limits)

    # ---- cells ----------------------------------------------------------------------------
    def program(self, pair: int, row: int, col: int, cells: int) -> None:
        """Write the cells of one OU of a pair; cell bit index = lane * ou_rows + row."""
        where = self._where(pair, row, col)
        if not 0 <= cells < 1 << self.hardware.ou_cells:
            raise ValueError(f"cells must be in 0..2**{self.hardware.ou_cells} - 1, got {cells}")
        spread, stuck = self._cells_of(pair)
        bits = self._bits(cells, self.hardware.ou_cells)
        place = row * self.hardware.grid_cols + col
        bits = np.where(stuck[place] == 0, bits > 0, stuck[place] > 0)
        off = 0.0 if not self.settings.on_off_ratio else 1.0 / self.settings.on_off_ratio
        conductance = np.where(bits, 1.0, off) * spread[place]
        self._conductance[where] = conductance.reshape(self.hardware.lanes, self.hardware.ou_rows)
        self._words[where] = int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")

    def load(self, cells: np.ndarray) -> None:
        """Program whole crossbar pairs from 0: bool (pairs, grid_rows, grid_cols, lanes, ou_rows)."""
        for pair, row, col in np.ndindex(*cells.shape[:3]):
            raw = np.packbits(np.asarray(cells[pair, row, col], dtype=bool).ravel(), bitorder="little")
            self.program(pair, row, col, int.from_bytes(raw.tobytes(), "little"))

    def readback(self, pair: int, row: int, col: int) -> int:
        """The cells as a digital read finds them: what was programmed, but stuck cells show their state."""
        where = self._where(pair, row, col)
        if where not in self._words:
            self.program(pair, row, col, 0)
        return self._words[where]

    # ---- conversion -----------------------------------------------------------------------
    def sample(self, pair: int, row: int, col: int, slice_bits: int, step: int = 0) -> np.ndarray:
        """Hold the bit lines of one OU for one input slice (bit r drives row r).

        Returns the held voltages (lanes,) in LSB of the step's reference.
        """
        where = self._where(pair, row, col)
        if not 0 <= slice_bits < 1 << self.hardware.ou_rows:
            raise ValueError(f"slice must be in 0..2**{self.hardware.ou_rows} - 1, got {slice_bits}")
        conductance = self._conductance.get(where)
        if conductance is None:
            self.program(pair, row, col, 0)
            conductance = self._conductance[where]
        held = conductance @ self._bits(slice_bits, self.hardware.ou_rows)
        if self.settings.read_noise:
            held = held + self._noise.normal(0.0, self.settings.read_noise, held.shape)
        self.held = held
        return held / self._counts_per_lsb[step]

    def compare(self, thresholds: Sequence[int] | np.ndarray, step: int = 0) -> np.ndarray:
        """Comparator bits (lanes,) for integer DAC codes: 1 where v >= t - 1/2 LSB, t in 0..2**adc_bits - 1."""
        return (self.held >= self.limits[step][np.asarray(thresholds)]).astype(np.uint8)

    # ---- inside ---------------------------------------------------------------------------
    def _where(self, pair: int, row: int, col: int) -> tuple[int, int, int]:
        for name, value, size in zip(("pair", "row", "col"), (pair, row, col), self._shape, strict=True):
            if not 0 <= value < size:
                raise ValueError(f"{name} must be in 0..{size - 1}, got {value}")
        return int(pair), int(row), int(col)

    @staticmethod
    def _bits(word: int, count: int) -> np.ndarray:
        raw = np.frombuffer(int(word).to_bytes(-(-count // 8), "little"), dtype=np.uint8)
        return np.unpackbits(raw, count=count, bitorder="little").astype(np.float64)

    def _cells_of(self, pair: int) -> tuple[np.ndarray, np.ndarray]:
        """Spread factors and stuck states (-1 off, 0 healthy, 1 on) of a pair, (OUs, ou_cells) each."""
        if pair not in self._device:
            settings, shape = self.settings, (self.hardware.ous_per_crossbar, self.hardware.ou_cells)
            spread, stuck = np.ones(shape), np.zeros(shape, dtype=np.int8)
            rng = np.random.default_rng([settings.seed, 0, pair])
            if settings.variation:
                normal = rng.standard_normal(shape)
                if settings.distribution == "normal":
                    spread = np.maximum(0.0, 1.0 + settings.variation * normal)
                else:
                    sigma = np.sqrt(np.log1p(settings.variation**2))
                    spread = np.exp(sigma * normal - sigma**2 / 2)
            if settings.stuck_on or settings.stuck_off:
                draw = rng.random(shape)
                stuck[draw < settings.stuck_on] = 1
                stuck[draw >= 1 - settings.stuck_off] = -1
            self._device[pair] = spread, stuck
        return self._device[pair]


def make_crossbar(program: Program, settings: CrossbarSettings) -> Crossbar:
    """The behavioural array of one device with the references of a program's steps; those that use no crossbar have
    the count grid."""
    grid = trq.min_count(program.hardware.adc_bits)
    layers = [step.layer for step in program.steps]
    return Crossbar(
        program.hardware,
        settings,
        counts_per_lsb=[1.0 if layer is None else layer.counts_per_lsb for layer in layers],
        min_count=[grid if layer is None else layer.min_count for layer in layers],
    )
