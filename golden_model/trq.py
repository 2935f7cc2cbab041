"""A/D conversion: registers, thresholds, code and value (TRQ; system.md §4), and lossless searches (*ours*; §13)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Any, Literal

import numpy as np

from golden_model.config import HardwareConfig, bits_for
from golden_model.trees import Tree, bounded_tree, check_tree, depths, low_first_tree

#: Metadata that bounds the counts of an OU: bits per column, 0, 1 or as many as the number needs ("full"), or one
#: number for all columns and both polarities ("ou").
ColumnBoundBits = Literal[0, 1, "full", "ou"]
#: Modes of a machine's RTL (`HardwareConfig.machine`); those of "planes" without `column_bound_bits`.
RTL_MODES = {"planes": ("uniform", "twin"), "pairs": ("uniform", "twin", "bounded", "outward")}


@dataclass(frozen=True, kw_only=True)
class AdcRegisters:
    """Run-time registers of the SAR controller, per layer (system.md §4.1, §13).

    On the pair machine (docs/pair-machine.md) they search the difference of a column pair: R is then R + 1, for the
    sign, the R1 window lies around 0 and has no bias, and k bounds the searches of ours, -k..k.

    mode : "twin" or "uniform"; uniform needs n_r1 = bias = 0. *Ours*, lossless: "bounded", binary search of 0..B;
        "outward", from 0 one by one, on the pair machine only; "tree", a walk of one of `trees`, without RTL. All need
        n_r2 = R, m = n_r1 = bias = 0 and lambda = 1.
    n_r2 : search steps over the whole range.
    n_r1 : search steps inside the R1 window.
    m : an R2 step is 2**m R1 steps.
    bias : position of the R1 window, in window lengths.
    column_bound_bits : None if no bound is known (uniform, twin, and a layer with one tree). Otherwise every
        conversion has a bound B = min(k, u) of its count: k is the number of word lines that carry a 1, u what is
        stored about the column's cells that are 1: nothing (0: u = ou_rows), whether there is any (1: u = 0 or
        ou_rows), or how many ("full"); or about its whole OU: how many the fullest column has, of either polarity
        ("ou"). A conversion with B = 0 takes no operation. "bounded", and "tree" with several trees, take None as 0.
        "twin" with a bound needs n_r2 = R and m = bias = 0.
    trees : for mode "tree", by rising length; the last has ou_rows thresholds (searches/trees.py). A conversion walks
        the first one that has at least B thresholds, and the last one if no bound is known.
    """

    mode: Literal["twin", "uniform", "bounded", "outward", "tree"]
    n_r2: int
    n_r1: int = 0
    m: int = 0
    bias: int = 0
    column_bound_bits: ColumnBoundBits | None = None
    trees: tuple[Tree, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.trees, (tuple, list)) or not all(isinstance(t, (tuple, list)) for t in self.trees):
            raise TypeError(f"AdcRegisters.trees must hold trees, tuples of thresholds, got {self.trees!r}")
        object.__setattr__(self, "trees", tuple(map(tuple, self.trees)))  # JSON has lists
        if self.column_bound_bits is None and (self.mode in ("bounded", "outward") or len(self.trees) > 1):
            object.__setattr__(self, "column_bound_bits", 0)

    @property
    def bounded(self) -> bool:
        """Whether conversions have a bound (a population count per slice, perhaps metadata per column)."""
        return self.column_bound_bits is not None

    @property
    def searches(self) -> bool:
        """Whether this is one of *our* lossless searches (system.md §13)."""
        return self.mode not in ("uniform", "twin") or self.bounded

    def in_hardware(self, hardware: HardwareConfig) -> bool:
        """Whether a machine's RTL has this conversion."""
        return self.mode in RTL_MODES[hardware.machine] and (hardware.pairs or not self.bounded)

    @property
    def reads_trees(self) -> bool:
        """Whether thresholds come from stored trees; low counts first follows from the bound, as binary search does."""
        return any(tree != low_first_tree(len(tree)) for tree in self.trees)

    def in_descriptor(self, hardware: HardwareConfig) -> dict[str, int]:
        """Fields of a descriptor that hold them (`registers.descriptor_fields`); a mode without RTL is written as 0."""
        modes = RTL_MODES[hardware.machine]
        mode = modes.index(self.mode) if self.mode in modes else 0
        return {"adc_mode": mode, "n_r1": self.n_r1, "n_r2": self.n_r2, "m": self.m, "adc_bias": self.bias}

    @classmethod
    def of_descriptor(cls, fields: Mapping[str, int]) -> AdcRegisters:
        """What the fields of a descriptor hold, legal or not."""
        return cls(
            mode=RTL_MODES["pairs"][fields["adc_mode"]],
            n_r2=fields["n_r2"],
            n_r1=fields["n_r1"],
            m=fields["m"],
            bias=fields["adc_bias"],
        )

    def check_on(self, hardware: HardwareConfig) -> None:
        """Raise ValueError naming field, limit and value unless legal on a machine.

        What also depends on lambda is checked by `check_search`.
        """
        self.check(hardware.converter_bits, pairs=hardware.pairs)

    def check(self, adc_bits: int, *, pairs: bool = False) -> None:
        """As `check_on`. adc_bits : R, with pairs that of the difference, sign included."""
        modes = RTL_MODES["pairs"] if pairs else ("uniform", "twin", "bounded", "tree")
        if self.mode not in modes:
            raise ValueError(f"AdcRegisters.mode must be one of {', '.join(modes)}, got {self.mode!r}")
        for name in ("n_r2", "n_r1", "m", "bias"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"AdcRegisters.{name} must be an integer, got {value!r}")
        bits = self.column_bound_bits
        if bits not in (None, 0, 1, "full", "ou") or isinstance(bits, (bool, float)):
            raise ValueError(f"AdcRegisters.column_bound_bits must be None, 0, 1, 'full' or 'ou', got {bits!r}")
        if self.mode == "uniform" and self.bounded:
            raise ValueError("AdcRegisters.column_bound_bits must be None in mode 'uniform': use mode 'bounded'")
        if (self.mode == "tree") != bool(self.trees):
            raise ValueError(f"AdcRegisters.trees: mode 'tree' and no other needs trees, got {len(self.trees)} trees")
        for index, tree in enumerate(self.trees):
            check_tree(tree, f"AdcRegisters.trees[{index}]")
        sizes = [len(tree) for tree in self.trees]
        if sizes != sorted(set(sizes)) or (sizes and not 1 <= sizes[-1] < 1 << adc_bits):
            raise ValueError(
                f"AdcRegisters.trees must be of rising length, the last of 1..{(1 << adc_bits) - 1} thresholds, "
                f"got {sizes}"
            )
        self._range("n_r2", adc_bits if self.searches else 1, adc_bits)
        self._range("m", 0, adc_bits - self.n_r2)
        if pairs and bits != (None if self.mode in ("uniform", "twin") else 0):
            raise ValueError(f"AdcRegisters.column_bound_bits: the pair machine has no bounds but k, got {bits!r}")
        if self.mode == "twin" and (self.bounded or pairs):
            self._range("bias", 0, 0)
        if self.mode != "twin":
            self._range("n_r1", 0, 0)
            self._range("bias", 0, 0)
        else:
            self._range("n_r1", 0, self.n_r2 + self.m - 1)
            self._range("bias", 0, (1 << (self.n_r2 + self.m - self.n_r1)) - 2)

    def _range(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise ValueError(f"AdcRegisters.{name} must be in {low}..{high}, got {value}")


@dataclass(frozen=True, eq=False)
class ConversionResult:
    """What a conversion gives; int64 arrays shaped like the input (system.md §4.3).

    range_flag : 0 = R1, 1 = R2 (uniform counts as R2).
    code : search result, 0..2**n_r1 - 1 in R1, 0..2**n_r2 - 1 in R2.
    value : decoded result in units of Delta_R1, 0..2**R - 1.
    operations : comparator decisions.
    """

    range_flag: np.ndarray
    code: np.ndarray
    value: np.ndarray
    operations: np.ndarray


def _half(s: int) -> int:
    """h(s), half a step in LSB, rounded down."""
    return (1 << s) >> 1


def _steps(adc_bits: int, registers: AdcRegisters) -> tuple[int, int]:
    """(s1, s2): log2 of the R1 and R2 steps in LSB (system.md §4.2)."""
    s2 = adc_bits - registers.n_r2
    return s2 - registers.m, s2


def _window(registers: AdcRegisters) -> tuple[int, int]:
    """(lo, hi): the R1 window in units of Delta_R1, half open."""
    return registers.bias << registers.n_r1, (registers.bias + 1) << registers.n_r1


def detection_thresholds(adc_bits: int, registers: AdcRegisters) -> tuple[int, ...]:
    """DAC codes of the detection, in the order they are compared: none (uniform), (hi,) or (hi, lo)."""
    registers.check(adc_bits)
    if registers.mode != "twin":
        return ()
    s1, _ = _steps(adc_bits, registers)
    lo, hi = _window(registers)
    t_hi, t_lo = (hi << s1) - _half(s1), (lo << s1) - _half(s1)
    return (t_hi,) if registers.bias == 0 else (t_hi, t_lo)


def _search(v: np.ndarray, steps: int, shift: int, origin: int) -> np.ndarray:
    """Binary search of `steps` decisions v >= ((origin + trial) << shift) - h(shift); returns the code."""
    code = np.zeros_like(v)
    for bit in reversed(range(steps)):
        trial = code | (1 << bit)
        code = np.where(v >= ((origin + trial) << shift) - _half(shift), trial, code)
    return code


@lru_cache(maxsize=4096)
def _table(adc_bits: int, registers: AdcRegisters, early_detection: bool) -> np.ndarray:
    """Conversion of every v in 0..2**R - 1: int64 (4, 2**R) = range flag, code, value, operations."""
    v = np.arange(1 << adc_bits, dtype=np.int64)
    s1, s2 = _steps(adc_bits, registers)
    r2_code = _search(v, registers.n_r2, s2, 0)
    if registers.mode in ("bounded", "tree"):
        return _bounded_table(adc_bits, registers)[:, -1]
    if registers.mode == "uniform":
        result = np.array([np.ones_like(v), r2_code, r2_code << registers.m, np.full_like(v, registers.n_r2)])
    else:
        lo, _ = _window(registers)
        answers = [v >= t for t in detection_thresholds(adc_bits, registers)]
        in_r1 = ~answers[0] if registers.bias == 0 else ~answers[0] & answers[1]
        detection = np.full_like(v, len(answers))
        if early_detection and len(answers) == 2:
            detection[answers[0]] = 1  # already known to be above the window
        r1_code = _search(v, registers.n_r1, s1, lo)
        result = np.array(
            [
                np.where(in_r1, 0, 1),
                np.where(in_r1, r1_code, r2_code),
                np.where(in_r1, lo + r1_code, r2_code << registers.m),
                detection + np.where(in_r1, registers.n_r1, registers.n_r2),
            ]
        )
    result.setflags(write=False)
    return result


@lru_cache(maxsize=64)
def _bounded_table(adc_bits: int, registers: AdcRegisters) -> np.ndarray:
    """As `_table` for one of our searches and every bound: int64 (4, 2**R, 2**R), [., B, v]."""
    size = 1 << adc_bits
    v = np.arange(size, dtype=np.int64)
    result = np.empty((4, size, size), dtype=np.int64)
    lengths = [len(tree) for tree in registers.trees]
    window = 0
    if registers.mode == "twin":
        window = 1 << registers.n_r1
        result[:] = _table(adc_bits, replace(registers, column_bound_bits=None), False)[:, None]
    for bound in range(size):
        if registers.mode == "twin" and bound >= window:
            break
        if registers.mode == "tree" and (bound or not registers.bounded):
            known = registers.bounded and bound <= lengths[-1]
            tree = registers.trees[next(i for i, n in enumerate(lengths) if n >= bound) if known else -1]
        else:
            tree = bounded_tree(bound)
        value = np.minimum(v, len(tree))
        result[0, bound], result[1, bound], result[2, bound] = registers.mode != "twin", value, value
        result[3, bound] = depths(tree)[value]
    result.setflags(write=False)
    return result


def convert(
    v: Any, adc_bits: int, registers: AdcRegisters, *, early_detection: bool = False, bound: Any = None
) -> ConversionResult:
    """Convert sampled bit-line values (system.md §4.3, §13.1; TRQ Eq. 7-11).

    Parameters
    ----------
    v : bit-line voltage in LSB of the full grid, integer or real, any shape. The comparator answers
        v >= t - 1/2, so a real v converts as floor(v + 1/2); values below 0 give 0, values above the
        top code give the top code.
    adc_bits : R, 1..8.
    registers : a legal setting for R.
    early_detection : stop the two-compare detection after the first when it already decides. *Ours*;
        off when reproducing the paper.
    bound : B, integers 0..2**R - 1 that broadcast with v, for registers with `column_bound_bits`; None means
        2**R - 1. The result stays in 0..B ("tree": in the counts of the walked tree), whatever v is; equality with
        uniform conversion is for v <= B only. "twin" with B below the window's end needs no detection and searches
        0..B (range R1); otherwise it does not use B.

    Returns a `ConversionResult` with arrays shaped like v.

    Raises
    ------
    ValueError for illegal registers or NaN, TypeError for v that is neither integer nor real.

    Deviation: the paper prints Delta_R1 = V_ref / 2**(N_R1 + M); only N_R2 + M agrees with its Eq. 8
    and 11 (system.md §4.2).
    """
    if isinstance(adc_bits, bool) or not isinstance(adc_bits, (int, np.integer)):
        raise TypeError(f"convert: adc_bits must be an integer, got {adc_bits!r}")
    if not 1 <= adc_bits <= 8:
        raise ValueError(f"convert: adc_bits must be in 1..8, got {adc_bits}")
    registers.check(int(adc_bits))  # before the cache, where n_r2 = 4.0 would be found as 4
    top = (1 << int(adc_bits)) - 1
    index = _to_index(v, top)
    if bound is None:
        if registers.mode == "twin":
            registers = replace(registers, column_bound_bits=None)
        table = _table(int(adc_bits), registers, bool(early_detection))
        flag, code, value, operations = (row[index] for row in table)
    else:
        if not registers.bounded:
            raise ValueError(f"convert: registers of mode {registers.mode!r} without column_bound_bits use no bound")
        bound = np.asarray(bound)
        if bound.dtype.kind not in "iu" or (bound.size and not 0 <= bound.min() <= bound.max() <= top):
            raise ValueError(f"convert: bound must hold integers in 0..{top}, got {bound}")
        flag, code, value, operations = _bounded_table(int(adc_bits), registers)[:, bound, index]
    return ConversionResult(flag, code, value, operations)


def _to_index(v: Any, top: int) -> np.ndarray:
    """floor(v + 1/2) clamped to 0..top, without the rounding error of v + 1/2."""
    v = np.asarray(v)
    if v.dtype.kind in "iub":
        return np.clip(v, 0, top).astype(np.intp) if v.dtype.kind != "b" else v.astype(np.intp)
    if v.dtype.kind != "f":
        raise TypeError(f"convert: v must be integer or real, got dtype {v.dtype}")
    if np.isnan(v).any():
        raise ValueError("convert: v must not be NaN")
    v = np.clip(v, 0, top)
    whole = np.floor(v)
    return whole.astype(np.intp) + (v - whole >= 0.5)


def min_count(adc_bits: int, counts_per_lsb: float = 1.0) -> np.ndarray:
    """Smallest count that answers 1 to threshold t: ceil(lambda * (t - 1/2)), t = 1..2**R - 1 (system.md §4.4).

    counts_per_lsb : lambda, above 0 and at most 2**32, counts per LSB of the full grid. Computed exactly from the given
    float.

    Returns int64 of shape (2**R - 1,), entry t - 1; non-decreasing, at least 1.
    """
    if not 0 < counts_per_lsb <= 1 << 32:
        raise ValueError(f"min_count: counts_per_lsb must be above 0 and at most 2**32, got {counts_per_lsb}")
    scale = Fraction(counts_per_lsb)
    return np.array([ceil(scale * (2 * t - 1) / 2) for t in range(1, 1 << adc_bits)], dtype=np.int64)


def check_min_count(adc_bits: int, values: Any) -> np.ndarray:
    """`values` as int64, or ValueError unless it is a legal min_count table for R = adc_bits."""
    values = np.asarray(values)
    if values.dtype.kind not in "iu" or values.shape != ((1 << adc_bits) - 1,):
        raise ValueError(
            f"min_count must hold {(1 << adc_bits) - 1} integers, got shape {values.shape}, dtype {values.dtype}"
        )
    values = values.astype(np.int64)
    if values[0] < 1 or (np.diff(values) < 0).any():
        raise ValueError("min_count must start at 1 or more and never fall")
    return values


def levels(adc_bits: int, ou_rows: int, min_count_table: Any = None) -> np.ndarray:
    """Level that a count samples to: how many thresholds t have min_count[t - 1] <= c, for c = 0..ou_rows.

    A comparator's answer to t is level[c] >= t, so converting the level converts the count.
    min_count_table None means lambda = 1 (level = min(count, 2**R - 1)). Returns int64 (ou_rows + 1,).
    """
    table = min_count(adc_bits) if min_count_table is None else check_min_count(adc_bits, min_count_table)
    return np.searchsorted(table, np.arange(ou_rows + 1), side="right").astype(np.int64)


def convert_counts(
    adc_bits: int,
    ou_rows: int,
    registers: AdcRegisters,
    min_count_table: Any = None,
    *,
    early_detection: bool = False,
) -> ConversionResult:
    """Conversion of every count 0..ou_rows, as tables of shape (ou_rows + 1,)."""
    return convert(levels(adc_bits, ou_rows, min_count_table), adc_bits, registers, early_detection=early_detection)


def column_bounds(ones: Any, most: Any, ou_rows: int, bits: ColumnBoundBits) -> np.ndarray:
    """u of columns, as the metadata of `bits` tells it (system.md §13.1); shaped like `ones`.

    ones : integers, cells of each column that are 1. most : the largest of them in the column's OU, both polarities;
    broadcasts with `ones`.
    """
    ones = np.asarray(ones)
    if bits == 0:
        return np.full_like(ones, ou_rows)
    if bits == "ou":
        return np.broadcast_to(most, ones.shape).astype(ones.dtype)
    return np.where(ones > 0, ou_rows, 0).astype(ones.dtype) if bits == 1 else ones


def column_bound_size(bits: ColumnBoundBits | None, hardware: HardwareConfig) -> int:
    """Stored bits per OU: those of all columns of both polarities, or one number ("ou")."""
    if bits == "ou":
        return bits_for(hardware.ou_rows)
    return hardware.lanes * (bits_for(hardware.ou_rows) if bits == "full" else int(bits or 0))


def search_operations(adc_bits: int, ou_rows: int, registers: AdcRegisters) -> np.ndarray:
    """A/D operations of one of our searches: int64 (ou_rows + 1, ou_rows + 1), [bound B, count]; counts above B are 0.

    Without a bound all rows are equal, and counts above B are those of the row.
    """
    registers.check(adc_bits)
    table = _bounded_table(adc_bits, registers)[3, : ou_rows + 1, : ou_rows + 1].copy()
    return np.tril(table) if registers.bounded else table


def check_search(registers: AdcRegisters, hardware: HardwareConfig, min_count: Any = None) -> None:
    """ValueError unless a search of ours fits the machine: R >= R_ideal, lambda = 1, trees over 0..ou_rows. Of the pair
    machine all have lambda = 1."""
    if not registers.searches and not hardware.pairs:
        return
    if hardware.adc_bits < hardware.ideal_bits:
        raise ValueError(
            f"a lossless search of {hardware.ou_rows} rows needs adc_bits of at least {hardware.ideal_bits}, "
            f"got {hardware.adc_bits}"
        )
    if (levels(hardware.adc_bits, hardware.ou_rows, min_count) != np.arange(hardware.ou_rows + 1)).any():
        what = "the pair machine" if hardware.pairs else "a lossless search"
        raise ValueError(f"{what} needs lambda = 1 (one count per LSB), got another min_count")
    if registers.trees and len(registers.trees[-1]) != hardware.ou_rows:
        raise ValueError(
            f"AdcRegisters.trees: the last tree must have {hardware.ou_rows} thresholds, one per row of an OU, "
            f"got {len(registers.trees[-1])}"
        )


def tree_bits(registers: AdcRegisters, hardware: HardwareConfig) -> int:
    """Stored bits of a layer's trees: adc_bits per threshold and, if there are several, where each bound's starts."""
    if not registers.reads_trees:
        return 0
    nodes = sum(map(len, registers.trees))
    index = (hardware.ou_rows + 1) * bits_for(max(1, nodes - 1)) if len(registers.trees) > 1 else 0
    return nodes * hardware.adc_bits + index


def lossless(registers: AdcRegisters, hardware: HardwareConfig, min_count: Any = None) -> bool:
    """Whether every count 0..ou_rows, or every difference of two, converts to itself (system.md §4.3); min_count None
    means lambda = 1."""
    if hardware.pairs:
        # The window holds -end..end - 1; end itself is a coarse value if 2**m divides it.
        end = 1 << registers.n_r1 >> 1 if registers.mode == "twin" else 0
        whole = registers.m == 0 or hardware.ou_rows < end or (hardware.ou_rows == end and registers.n_r1 > registers.m)
        return whole and registers.n_r2 + registers.m == hardware.converter_bits
    value = convert_counts(hardware.adc_bits, hardware.ou_rows, registers, min_count).value
    return bool((value == np.arange(hardware.ou_rows + 1)).all())
