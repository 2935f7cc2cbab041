"""Behavioural analog crossbars behind the comparator port of either machine (system.md §1, §4.2, §10).

A model holds the cells of every crossbar pair, samples bit lines and answers the comparators: 1 where
v >= t - 1/2 LSB. All imperfections are off in `CrossbarSettings()`, the ideal array.

The sampled quantity is the *analog count* of a bit line: the sum over its word lines of
input bit x cell conductance / nominal on-conductance. `Crossbar` holds those of one OU. In LSB,
v = analog count / λ, with λ (counts per LSB) the step's reference. Comparisons are made in counts,
`analog count >= λ (t - 1/2)`, as the exporter computes `min_count`, so that no division can move a tie;
the answers of the ideal array are exactly those of `count >= min_count[t - 1]`. `PairCrossbar` is the
array of the pair machine (docs/pair-machine.md): it drives any word lines of a column and holds the
difference of the analog counts of the positive and the negative bit line; λ = 1.

The device models (conductance spread, drift, on/off ratio, stuck cells, read noise) and their default forms are
*ours*: textbook behavioural models, not taken from the three papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from golden_model import trq
from golden_model.config import HardwareConfig
from golden_model.image.program import Program
from rtl.pack_layouts import HALVES, all_halves


@dataclass(frozen=True, kw_only=True)
class CrossbarSettings:
    """Imperfections of a device; the defaults are the ideal array.

    variation : relative standard deviation of a cell's conductance, drawn once per cell (device to device);
        on and off state scale together.
    distribution : "lognormal" (mean 1, always positive) or "normal" (mean 1, cut off at 0).
    age : time since the cells were verified, in units of the time t0 from programming to verification; at least 0.
    drift, drift_spread : mean and standard deviation of the drift exponent ν of a cell, drawn once per cell, normal:
        g = g0·(1 + age)^-ν, the power law (t / t0)^-ν at t = t0·(1 + age), for on and off state alike. All reads are
        of one age. A negative ν is a cell whose conductance grows. References do not follow; a mean of 0 is an
        array whose references follow the mean cell.
    on_off_ratio : on-conductance / off-conductance; 0 means infinite (an off cell conducts nothing).
    stuck_on, stuck_off : probability that a cell always conducts / never does, whatever is programmed.
    read_noise : standard deviation of additive Gaussian noise on a sampled bit line, in counts (units of one
        nominal on-cell), drawn anew for every converter at every sample and constant while it is held. A
        difference has the noise of both its bit lines, which is drawn once, with √2 times the deviation.
    seed : fixes the device (variation, drift, stuck cells) and the noise sequence.
    """

    variation: float = 0.0
    distribution: Literal["lognormal", "normal"] = "lognormal"
    age: float = 0.0
    drift: float = 0.0
    drift_spread: float = 0.0
    on_off_ratio: float = 0.0
    stuck_on: float = 0.0
    stuck_off: float = 0.0
    read_noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.type == "float"):
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
        static = self.variation or self.on_off_ratio or self.stuck_on or self.stuck_off or self.read_noise
        return not static and not self.drifts

    @property
    def drifts(self) -> bool:
        """True if conductances have changed since they were verified."""
        return bool(self.age and (self.drift or self.drift_spread))


@dataclass
class _Pair:
    """A crossbar pair of a device, arrays (grid_rows, grid_cols, lanes, ou_rows).

    spread : factor on a cell's conductance, drift included. stuck : -1 off, 0 healthy, 1 on. on : state.
    conductance : of the state.
    """

    spread: np.ndarray
    stuck: np.ndarray
    on: np.ndarray
    conductance: np.ndarray


class Array:
    """Crossbar pairs of a machine with sample-and-hold and comparators: what both machines have in common.

    Several macros are programmed alike; each has cells of its own, with their own deviations.

    Attributes
    ----------
    hardware : sizes. settings : imperfections.
    held : (parts, places, converters), the present samples in counts. A part is what samples together, a place one of
        the samples that each of its converters holds.
    limits : (steps, codes), what a sample must reach in counts by step and threshold; a negative threshold is an index
        from the end, so that codes are those of two's complement.

    Cells hold 0 until programmed. Everything is reproducible: the device depends on `settings.seed` and
    on the cell's place only, not on the machine, the noise on the seed and on the order of a part's samples.
    """

    def __init__(
        self, hardware: HardwareConfig, settings: CrossbarSettings, held: tuple[int, int, int], limits: np.ndarray
    ):
        self.hardware = hardware
        self.settings = settings
        self.held = np.zeros(held)
        self.limits = limits
        self._pairs: dict[tuple[int, int], _Pair] = {}
        self._noise = [np.random.default_rng([settings.seed, 1, part]) for part in range(held[0])]

    @property
    def steps(self) -> int:
        """Steps with a reference of their own."""
        return len(self.limits)

    # ---- cells ----------------------------------------------------------------------------
    def program(self, pair: int, row: int, col: int, cells: int) -> None:
        """Write the cells of one OU of a pair; cell bit index = lane * ou_rows + row."""
        self._check_place(pair, row, col)
        count = self.hardware.ou_cells
        if not 0 <= cells < 1 << count:
            raise ValueError(f"cells must be in 0..2**{count} - 1, got {cells}")
        bits = _bits(cells, count).reshape(self.hardware.lanes, self.hardware.ou_rows)
        for macro in range(self.hardware.macros):
            self._write(self._pair(pair, macro), (row, col), bits)

    def takes(self, pair: int, row: int, col: int, cells: int) -> bool:
        """Whether all macros can hold these cells of one OU of a pair: what programming with verification says."""
        self._check_place(pair, row, col)
        bits = _bits(cells, self.hardware.ou_cells).reshape(self.hardware.lanes, self.hardware.ou_rows)
        stuck = [self._pair(pair, macro).stuck[row, col] for macro in range(self.hardware.macros)]
        return all(np.all((one == 0) | ((one > 0) == bits)) for one in stuck)

    def load(self, cells: np.ndarray) -> None:
        """Program whole crossbar pairs from 0: bool (pairs, grid_rows, grid_cols, lanes, ou_rows)."""
        for pair, bits in enumerate(np.asarray(cells, dtype=bool)):
            self._check("pair", pair, self.hardware.crossbar_pairs)
            for macro in range(self.hardware.macros):
                self._write(self._pair(pair, macro), ..., bits)

    def readback(self, pair: int, row: int, col: int, macro: int = 0) -> int:
        """The cells as a digital read finds them: what was programmed, but stuck cells show their state."""
        self._check_place(pair, row, col)
        self._check("macro", macro, self.hardware.macros)
        raw = np.packbits(self._pair(pair, macro).on[row, col].ravel(), bitorder="little")
        return int.from_bytes(raw.tobytes(), "little")

    # ---- conversion -----------------------------------------------------------------------
    def answers(
        self, part: int, places: Sequence[int] | np.ndarray, thresholds: Sequence[int] | np.ndarray, step: int
    ) -> np.ndarray:
        """Comparator bits of a part, uint8 (converters,), for a place and a threshold of every converter."""
        held = self.held[part, np.asarray(places), np.arange(self.held.shape[-1])]
        return (held >= self.limits[step][np.asarray(thresholds)]).astype(np.uint8)

    def _counts(self, macro: int, pair: int, rows: slice, col: int, lines: int) -> np.ndarray:
        """Analog counts of all bit lines of an OU column (lanes,); bit i of `lines` drives word line i of OU `rows`."""
        conductance = self._pair(pair, macro).conductance[rows, col]
        driven = _bits(lines, len(conductance) * self.hardware.ou_rows).reshape(len(conductance), -1)
        return np.einsum("rlo,ro->l", conductance, driven)

    def _hold(self, part: int, place: int, sampled: np.ndarray, noise: float) -> np.ndarray:
        """Hold a sample with noise of a standard deviation in counts; returns it."""
        if noise:
            sampled = sampled + self._noise[part].normal(0.0, noise, sampled.shape)
        self.held[part, place] = sampled
        return sampled

    # ---- inside ---------------------------------------------------------------------------
    @staticmethod
    def _check(name: str, value: int, size: int) -> None:
        if not 0 <= value < size:
            raise ValueError(f"{name} must be in 0..{size - 1}, got {value}")

    def _check_place(self, pair: int, row: int, col: int) -> None:
        self._check("pair", pair, self.hardware.crossbar_pairs)
        self._check("row", row, self.hardware.grid_rows)
        self._check("col", col, self.hardware.grid_cols)

    def _write(self, pair: _Pair, where: Any, bits: np.ndarray | bool) -> None:
        """Set cells of a pair, of one OU (row, column) or of all."""
        stuck, ratio = pair.stuck[where], self.settings.on_off_ratio
        on = np.where(stuck == 0, bits, stuck > 0)
        pair.on[where] = on
        pair.conductance[where] = np.where(on, 1.0, 1.0 / ratio if ratio else 0.0) * pair.spread[where]

    def _pair(self, pair: int, macro: int) -> _Pair:
        """A pair of a macro of the device, made when it is first needed."""
        if (macro, pair) not in self._pairs:
            settings, hardware = self.settings, self.hardware
            shape = (hardware.grid_rows, hardware.grid_cols, hardware.lanes, hardware.ou_rows)
            spread, stuck = np.ones(shape), np.zeros(shape, dtype=np.int8)
            place = [pair, macro] if macro else [pair]
            rng = np.random.default_rng([settings.seed, 0, *place])
            if settings.variation:
                normal = rng.standard_normal(shape)
                if settings.distribution == "normal":
                    spread = np.maximum(0.0, 1.0 + settings.variation * normal)
                else:
                    sigma = np.sqrt(np.log1p(settings.variation**2))
                    spread = np.exp(sigma * normal - sigma**2 / 2)
            if settings.drifts:  # numbers of its own, so that a device is the same one at every age
                normal = np.random.default_rng([settings.seed, 2, *place]).standard_normal(shape)
                spread = spread * (1.0 + settings.age) ** -(settings.drift + settings.drift_spread * normal)
            if settings.stuck_on or settings.stuck_off:
                draw = rng.random(shape)
                stuck[draw < settings.stuck_on] = 1
                stuck[draw >= 1 - settings.stuck_off] = -1
            made = _Pair(spread, stuck, np.zeros(shape, dtype=bool), np.zeros(shape))
            self._write(made, ..., False)
            self._pairs[macro, pair] = made
        return self._pairs[macro, pair]


class Crossbar(Array):
    """The array of the machine that converts every bit line; one part, one place, `lanes` converters.

    Parameters
    ----------
    hardware : sizes. settings : imperfections, none by default.
    counts_per_lsb : λ of every step of the program (system.md §4.4), for comparisons of a non-ideal array.
    min_count : per step, (2**adc_bits - 1,) integers; min_count[t - 1] is the smallest count that answers 1
        to threshold t. The ideal array compares with it alone. Default for both: the count grid (λ = 1).

    `limits` (steps, 2**adc_bits) is -inf for threshold 0.
    """

    def __init__(
        self,
        hardware: HardwareConfig,
        settings: CrossbarSettings | None = None,
        *,
        counts_per_lsb: Sequence[float] | None = None,
        min_count: Sequence[np.ndarray] | None = None,
    ):
        settings = settings or CrossbarSettings()
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
        limits = np.array([np.concatenate([[-np.inf], table]) for table in (exact if settings.ideal else analog)])
        super().__init__(hardware, settings, (1, 1, hardware.lanes), limits)

    def sample(self, pair: int, row: int, col: int, slice_bits: int, step: int = 0) -> np.ndarray:
        """Hold the bit lines of one OU for one input slice (bit r drives row r).

        Returns the held voltages (lanes,) in LSB of the step's reference.
        """
        self._check_place(pair, row, col)
        if not 0 <= slice_bits < 1 << self.hardware.ou_rows:
            raise ValueError(f"slice must be in 0..2**{self.hardware.ou_rows} - 1, got {slice_bits}")
        counts = self._counts(0, pair, slice(row, row + 1), col, slice_bits)
        return self._hold(0, 0, counts, self.settings.read_noise) / self._counts_per_lsb[step]

    def compare(self, thresholds: Sequence[int] | np.ndarray, step: int = 0) -> np.ndarray:
        """Comparator bits (lanes,) for integer DAC codes: 1 where v >= t - 1/2 LSB, t in 0..2**adc_bits - 1."""
        return self.answers(0, [0], thresholds, step)


class PairCrossbar(Array):
    """The arrays of the pair machine: all halves sample on their own, into any of the `sample_places` of a column.

    Word lines of a whole pack may be on, the sample of a column is the difference d = c+ - c- of its analog counts.

    Parameters
    ----------
    hardware : sizes. settings : imperfections, none by default.

    `limits` is (1, 2**converter_bits): t - 1/2 for all steps.
    """

    def __init__(self, hardware: HardwareConfig, settings: CrossbarSettings | None = None):
        codes, most = np.arange(1 << hardware.converter_bits), 1 << hardware.adc_bits
        thresholds = (codes + most) % (2 * most) - most
        held = (all_halves(hardware), hardware.sample_places, hardware.ou_cols)
        super().__init__(hardware, settings or CrossbarSettings(), held, thresholds[None] - 0.5)

    def sample(self, half: int, place: int, pair: int, col: int, lines: int) -> np.ndarray:
        """Hold the differences of an OU column of a pair in a place; bit i of `lines` drives word line i of the pair.

        half : 2i and 2i + 1 are those of macro i.

        Returns them, float64 (ou_cols,), in counts.
        """
        hardware = self.hardware
        self._check("half", half, len(self.held))
        self._check("place", place, self.hardware.sample_places)
        self._check_place(pair, 0, col)
        word_lines = hardware.grid_rows * hardware.ou_rows
        if not 0 <= lines < 1 << word_lines:
            raise ValueError(f"lines must be in 0..2**{word_lines} - 1, got {lines}")
        positive, negative = self._counts(half // HALVES, pair, slice(None), col, lines).reshape(2, -1)
        return self._hold(half, place, positive - negative, np.sqrt(2.0) * self.settings.read_noise)

    def compare(
        self, half: int, places: Sequence[int] | np.ndarray, thresholds: Sequence[int] | np.ndarray
    ) -> np.ndarray:
        """Comparator bits (ou_cols,) of a half: 1 where d >= t - 1/2 for the sample in the column's place.

        places : one a column. thresholds : t a column, -2**adc_bits..2**adc_bits - 1.
        """
        return self.answers(half, places, thresholds, 0)


def make_crossbar(program: Program, settings: CrossbarSettings) -> Crossbar | PairCrossbar:
    """The behavioural array of one device for a program's machine, with the references of its steps; those that use no
    crossbar have the count grid."""
    if program.hardware.pairs:
        return PairCrossbar(program.hardware, settings)
    grid = trq.min_count(program.hardware.adc_bits)
    layers = [step.layer for step in program.steps]
    return Crossbar(
        program.hardware,
        settings,
        counts_per_lsb=[1.0 if layer is None else layer.counts_per_lsb for layer in layers],
        min_count=[grid if layer is None else layer.min_count for layer in layers],
    )


def _bits(word: int, count: int) -> np.ndarray:
    """Bits of an unsigned integer, least significant first, uint8 (count,)."""
    raw = np.frombuffer(int(word).to_bytes(-(-count // 8), "little"), dtype=np.uint8)
    return np.unpackbits(raw, count=count, bitorder="little")
