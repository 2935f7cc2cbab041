"""Conversion of column pairs: searches of the signed difference d = c+ - c-, and of both counts (*ours*).

The two bit lines of a column are subtracted in front of the converter, whose comparator answers d >= t - 1/2 for a
signed threshold t. Sign-magnitude cells exclude each other, so c+ + c- <= k, the rows of the operation unit that are
on, and -k <= d <= k. A `Search` is two tables over what it finds: the value that it gives, and the comparator decisions
(A/D operations) that it takes. k is at least 1: no OU is formed without a 1. `search_of` gives that of a layer's
registers; the others compare what could be built.

For comparison, `counts_search` converts both bit lines on their own, as a machine without the subtraction does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from golden_model import trq
from golden_model.config import HardwareConfig
from golden_model.rounding import round_half_up_shift
from golden_model.trees import Tree, depths, tree_of_rule
from golden_model.trq import AdcRegisters


@dataclass(frozen=True, eq=False)
class Search:
    """What a conversion gives and takes.

    value, operations : int64 (ou_rows + 1, 2 * ou_rows + 1), entry [k, ou_rows + d]; with signed = False of one bit
    line, entry [k, ou_rows + c], and a column pair takes two conversions. Entries with |d| > k do not occur.
    stored_bits : of trees, for a layer. bits_read : bits of trees read for every operation.
    """

    name: str
    signed: bool
    value: np.ndarray
    operations: np.ndarray
    stored_bits: int = 0
    bits_read: int = 0

    @property
    def ou_rows(self) -> int:
        return len(self.value) - 1

    @property
    def _occurs(self) -> np.ndarray:
        """Which entries of the tables occur."""
        k, found = np.indices(self.value.shape)
        found = found - self.ou_rows
        return np.logical_and(abs(found) <= k, k > 0) & np.logical_or(self.signed, found >= 0)

    @property
    def lossless(self) -> bool:
        """Whether everything that occurs converts to itself."""
        found = np.arange(self.value.shape[1]) - self.ou_rows
        return bool((self.value == found)[self._occurs].all())

    @property
    def largest(self) -> int:
        """Largest magnitude of a value that occurs."""
        return int(abs(self.value[self._occurs]).max())

    @property
    def conversions(self) -> int:
        """Conversions, and converters, of a column pair."""
        return 1 if self.signed else 2

    def pair(self, k: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value of column pairs, shaped like k, and operations of each of their conversions, (conversions, ...).

        k, positive, negative : integers that broadcast: rows that are on and both counts.
        """
        rows = self.ou_rows
        if self.signed:
            d = rows + positive - negative
            return self.value[k, d], self.operations[k, d][None]
        found = np.stack([rows + positive, rows + negative])
        value = self.value[k, found]
        return value[0] - value[1], self.operations[k, found]

    def total_operations(self, counts: np.ndarray) -> int:
        """Operations of column pairs that occur `counts` often, int64 (ou_rows + 1,) * 3, entry [k, c+, c-]."""
        spent = self.pair(*pair_counts(counts))[1].sum(axis=0)
        return int((spent * counts).sum())


def pair_counts(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """k, c+ and c- of every entry of a histogram of column pairs, shaped like it."""
    each = np.arange(len(counts))
    k, positive, negative = np.meshgrid(each, each, each, indexing="ij")
    return k, positive, negative


# ---- trees --------------------------------------------------------------------------------------
def tree_search(
    name: str, trees: Sequence[Tree], hardware: HardwareConfig, *, stored: bool = False, shared: bool = False
) -> Search:
    """A search of d that walks trees[k - 1] of the codes -k..k; shared : one tree of the codes -ou_rows..ou_rows.

    A tree (golden_model/trees.py) of -k..k has 2 k thresholds; its threshold t asks d >= t - k. stored : its thresholds
    are stored and read, a signed code each, rather than following from a rule.
    """
    rows = hardware.ou_rows
    if len(trees) != (1 if shared else rows) or any(
        len(tree) != 2 * (rows if shared else k) for k, tree in enumerate(trees, 1)
    ):
        raise ValueError(f"{name}: there must be a tree of 2 k thresholds for every k in 1..{rows}, or one for all")
    code = np.arange(-rows, rows + 1)
    value, operations = np.zeros((2, rows + 1, 2 * rows + 1), dtype=np.int64)
    for k in range(1, rows + 1):
        reach = rows if shared else k
        found = np.clip(code, -reach, reach)
        value[k], operations[k] = found, depths(tuple(trees[0 if shared else k - 1]))[found + reach]
    bits = (hardware.ideal_bits + 1) if stored else 0
    return Search(name, True, value, operations, bits * sum(map(len, trees)), bits)


def _ruled(name: str, hardware: HardwareConfig, rule: Callable[[int, int], int]) -> Search:
    """The search whose threshold among the codes low..high, low < high, is rule(low, high)."""
    trees = [
        tree_of_rule(2 * k, lambda low, high, k=k: rule(low - k, high - k) + k) for k in range(1, hardware.ou_rows + 1)
    ]
    return tree_search(name, trees, hardware)


def outward(hardware: HardwareConfig, reach: int | None = None) -> Search:
    """From 0 outward; nothing is stored, k bounds it.

    First d >= 1; on yes d >= 2, d >= 3, ... until no, or k is reached; on no d >= 0, d >= -1, ... until yes, or -k is
    reached. reach : codes further from 0 than that are searched by halving what is left; None goes outward to the end.
    """

    def rule(low: int, high: int) -> int:
        if reach is not None and (low > reach or high < -reach):
            return (low + high + 1) >> 1
        return low + 1 if low >= 1 else high if high <= 0 else 1

    return _ruled("outward" if reach is None else f"outward to {reach}, then halving", hardware, rule)


def bounded(hardware: HardwareConfig) -> Search:
    """Binary search of -k..k: t = (low + high + 1) >> 1, rounded down."""
    return _ruled("bounded", hardware, lambda low, high: (low + high + 1) >> 1)


# ---- converters that do not know k --------------------------------------------------------------
def uniform(hardware: HardwareConfig) -> Search:
    """Plain successive approximation of the sign and R_ideal bits: R_ideal + 1 decisions always."""
    bits = hardware.ideal_bits + 1
    return _grid("uniform", hardware, bits, AdcRegisters(mode="uniform", n_r2=bits))


def signed_twin(hardware: HardwareConfig, n_r1: int, m: int = 0, *, early_detection: bool = False) -> Search:
    """Twin range with a window around 0 (TRQ's normal-like family, carried over to signed codes; system.md §4.3).

    The window holds the 2**n_r1 codes -2**(n_r1 - 1) .. 2**(n_r1 - 1) - 1, or only 0 for n_r1 = 0. Detection takes two
    decisions, d >= the window's end and d >= its begin; inside follow n_r1 decisions. Outside the whole range
    -2**R_ideal .. 2**R_ideal - 1 is searched in steps of 2**m, R_ideal + 1 - m decisions: the value is
    round_half_up_shift(d, m) << m. m = 0 is lossless. early_detection : above the window the first decision is enough.

    Raises ValueError for n_r1 outside 0..R_ideal, or m outside 0..R_ideal.
    """
    bits = hardware.ideal_bits
    for name, given in (("n_r1", n_r1), ("m", m)):
        if not 0 <= given <= bits:
            raise ValueError(f"signed_twin: {name} must be in 0..{bits}, got {given}")
    name = f"signed twin, n_r1 {n_r1}, m {m}" + (", early detection" if early_detection else "")
    registers = AdcRegisters(mode="twin", n_r2=bits + 1 - m, n_r1=n_r1, m=m)
    return _grid(name, hardware, bits + 1, registers, early_detection)


def _grid(name: str, hardware: HardwareConfig, bits: int, registers: AdcRegisters, early: bool = False) -> Search:
    """A search on a grid of so many bits, the sign among them; it does not depend on k.

    Delta_R1 is 2**s1 counts, s1 = bits - n_r2 - m; values are in units of it. early : early detection.
    """
    rows, m = hardware.ou_rows, registers.m
    difference = np.arange(-rows, rows + 1)
    fine = bits - registers.n_r2 - m
    code, coarse = (round_half_up_shift(difference, shift) for shift in (fine, fine + m))
    value = np.minimum(coarse, (1 << registers.n_r2 >> 1) - 1) << m
    operations = np.full_like(code, registers.n_r2)
    if registers.mode == "twin":
        begin = -(1 << registers.n_r1 >> 1)
        end = begin + (1 << registers.n_r1)
        inside = (begin <= code) & (code < end)
        value = np.where(inside, code, value)
        operations = np.where(inside, registers.n_r1, operations) + np.where(early & (code >= end), 1, 2)
    return Search(name, True, np.tile(value, (rows + 1, 1)), np.tile(operations, (rows + 1, 1)))


# ---- what the pair machine has ------------------------------------------------------------------
def search_of(registers: AdcRegisters, hardware: HardwareConfig) -> Search:
    """What registers of the pair machine give, in units of Delta_R1 (system.md §4.2), and what they take.

    "outward" and "bounded" as above; "uniform" and "twin" on the grid of `converter_bits`, twin with a window around 0
    and two detections. Raises ValueError for registers that are not legal there.
    """
    if not hardware.pairs:
        raise ValueError("search_of: only the pair machine searches differences")
    registers.check_on(hardware)  # before the cache, where n_r2 = 5.0 would be found as 5
    return _search_of(registers, hardware)


@lru_cache(maxsize=256)
def _search_of(registers: AdcRegisters, hardware: HardwareConfig) -> Search:
    if registers.mode in ("outward", "bounded"):
        return (outward if registers.mode == "outward" else bounded)(hardware)
    return _grid(registers.mode, hardware, hardware.converter_bits, registers)


# ---- two conversions ----------------------------------------------------------------------------
def counts_search(name: str, registers: AdcRegisters, hardware: HardwareConfig) -> Search:
    """Both bit lines of a column converted on their own with these registers, k known to searches of ours.

    Raises ValueError for registers that bound columns: their cells are not those of an OU here.
    """
    if registers.column_bound_bits not in (None, 0):
        raise ValueError(f"{name}: column_bound_bits must be None or 0, got {registers.column_bound_bits!r}")
    trq.check_search(registers, hardware)
    rows = hardware.ou_rows
    k, count = np.indices((rows + 1, rows + 1))
    found = trq.convert(count, hardware.adc_bits, registers, bound=k if registers.bounded else None)
    value, operations = np.zeros((2, rows + 1, 2 * rows + 1), dtype=np.int64)
    value[:, rows:], operations[:, rows:] = found.value, found.operations
    bits_read = hardware.adc_bits if registers.reads_trees else 0
    return Search(name, False, value, operations, trq.tree_bits(registers, hardware), bits_read)


# ---- histograms ---------------------------------------------------------------------------------
def differences(counts: np.ndarray) -> np.ndarray:
    """Histogram (ou_rows + 1, 2 * ou_rows + 1) by [k, ou_rows + d] of one by [k, c+, c-]."""
    rows = len(counts) - 1
    found = np.zeros((rows + 1, 2 * rows + 1), dtype=np.int64)
    k, positive, negative = pair_counts(counts)
    np.add.at(found, (k, rows + positive - negative), counts)
    return found


def bit_lines(counts: np.ndarray) -> np.ndarray:
    """Histogram (ou_rows + 1, ou_rows + 1) of single bit lines by [k, count] of one of column pairs by [k, c+, c-]."""
    return counts.sum(axis=1) + counts.sum(axis=2)
