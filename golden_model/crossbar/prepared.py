"""A layer unpacked into cells and conversion tables, once for many windows (system.md §3-§6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar import redy as dynamic_precision
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.trq import (
    AdcRegisters,
    ColumnBoundBits,
    check_search,
    column_bounds,
    convert_counts,
    search_operations,
)

#: Up to so many rows, engines hold tables of all 2**ou_rows input slices.
PATTERN_ROWS = 12


@dataclass(frozen=True, eq=False)
class Plane:
    """One weight plane of one segment, only the columns whose block stores it.

    cells : float32 (2 * columns, ou_rows), positive polarity first. columns : indices into 0..N-1.
    starts : where each block column begins in `columns`. ones : uint8 (2 * columns,), cells that are 1. most : the
    same shape, the largest of `ones` in the column's OU, both polarities.
    """

    bit: int
    cells: np.ndarray
    ones: np.ndarray
    most: np.ndarray
    columns: slice | np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, bit: int, cells: np.ndarray, columns: slice | np.ndarray, starts: np.ndarray) -> Plane:
        """From the cells, 0 or 1, of at least one column."""
        ones = cells.sum(axis=1).astype(np.uint8)
        both = np.maximum(*ones.reshape(2, -1))
        sizes = np.diff([*starts, len(both)])
        most = np.tile(np.repeat(np.maximum.reduceat(both, starts), sizes), 2)
        return cls(bit=bit, cells=cells.astype(np.float32), ones=ones, most=most, columns=columns, starts=starts)

    def bounds(self, ou_rows: int, bits: ColumnBoundBits) -> np.ndarray:
        """u of every column, uint8 (2 * columns,) (system.md §13.1)."""
        return column_bounds(self.ones, self.most, ou_rows, bits)


@dataclass(frozen=True, eq=False)
class Converter:
    """Conversion of every count as byte tables for `bytes.translate`, four times faster than `take`.

    registers : what it was made from. searches : for searches of ours (system.md §13) uint8
    (ou_rows + 1, ou_rows + 1), A/D operations by [bound B, count]; `operations` then holds those without a bound.
    """

    registers: AdcRegisters
    value: bytes
    operations: bytes
    in_r1: bytes
    identity: bool
    constant_operations: int | None
    any_r1: bool
    searches: np.ndarray | None = None

    @classmethod
    def of(cls, hardware: HardwareConfig, registers: AdcRegisters, min_count: Any, early: bool) -> Converter:
        table = convert_counts(hardware.adc_bits, hardware.ou_rows, registers, min_count, early_detection=early)
        check_search(registers, hardware, min_count)
        searches = None
        if registers.searches:
            searches = search_operations(hardware.adc_bits, hardware.ou_rows, registers).astype(np.uint8)

        def pad(x: np.ndarray) -> bytes:
            return x.astype(np.uint8).tobytes().ljust(256, b"\0")

        operations = np.unique(table.operations)
        return cls(
            registers=registers,
            value=pad(table.value),
            operations=pad(table.operations),
            in_r1=pad(1 - table.range_flag),
            identity=bool((table.value == np.arange(hardware.ou_rows + 1)).all()),
            constant_operations=int(operations[0]) if len(operations) == 1 and not registers.bounded else None,
            any_r1=bool((table.range_flag == 0).any()),
            searches=searches,
        )

    def spent(self, counts: np.ndarray, active_rows: np.ndarray, plane: Plane) -> np.ndarray:
        """A/D operations of conversions of a plane, uint8 (2 * columns, X).

        counts : uint8 (2 * columns, X). active_rows : k, uint8 (X,).
        """
        bits = self.registers.column_bound_bits
        if self.searches is None or bits is None:
            return translate(counts, self.operations)
        size = len(self.searches)
        bound = np.minimum(active_rows, plane.bounds(size - 1, bits)[:, None])
        if self.searches.size <= 256:
            return translate(bound * np.uint8(size) + counts, self.searches.tobytes().ljust(256, b"\0"))
        return self.searches.ravel().take(bound.astype(np.uint16) * np.uint16(size) + counts)


def translate(counts: np.ndarray, table: bytes) -> np.ndarray:
    return np.frombuffer(counts.tobytes().translate(table), dtype=np.uint8).reshape(counts.shape)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A layer ready to run: planes, widths and conversion tables. Make it with `prepare`.

    weights : (K, N). k, outputs : K, N. widths : (segments, block_cols). bits : width of the activations.
    registers : A/D registers. converter : of all conversions; on the pair machine, where golden_model/pairs/search.py
    converts, of none.
    """

    hardware: HardwareConfig
    weights: np.ndarray
    k: int
    outputs: int
    widths: np.ndarray
    bits: int
    redy: DynamicPrecision | None
    skip_zero_slices: bool
    registers: AdcRegisters
    converter: Converter
    segments: tuple[tuple[Plane, ...], ...]
    tables: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def lanes_per_slice(self) -> np.ndarray:
        """(segments,) conversions that one input slice starts."""
        return np.array([sum(len(p.cells) for p in planes) for planes in self.segments], dtype=np.int64)


def prepare(
    weights: Any,
    hardware: HardwareConfig,
    registers: AdcRegisters,
    *,
    block_widths: Any = None,
    redy: DynamicPrecision | None = None,
    skip_zero_slices: bool = False,
    min_count: Any = None,
    activation_bits: int | None = None,
    early_detection: bool = False,
) -> Prepared:
    """Check and unpack a layer once; parameters as for `matmul`."""
    weights = np.asarray(weights)
    widths = mapping.check_widths(block_widths, weights, hardware)
    bits = hardware.input_bits if activation_bits is None else activation_bits
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)):
        raise TypeError(f"activation_bits must be an integer, got {bits!r}")
    if not 1 <= bits <= hardware.input_bits:
        raise ValueError(f"activation_bits must be in 1..{hardware.input_bits}, got {bits}")
    if redy is not None:
        dynamic_precision.check(redy)
    if not isinstance(registers, AdcRegisters):
        raise TypeError(f"registers must be AdcRegisters, got {registers!r}")
    k, n = weights.shape
    stored = mapping.planes(weights, hardware)
    segments = []
    for segment, row in enumerate(widths):
        planes = []
        for bit in range(int(row.max(initial=0))):
            blocks = np.flatnonzero(row > bit)
            columns = (blocks[:, None] * hardware.ou_cols + np.arange(hardware.ou_cols)).ravel()
            columns = columns[columns < n]
            cells = stored[segment, bit][:, :, columns].transpose(0, 2, 1).reshape(-1, hardware.ou_rows)
            planes.append(
                Plane.of(
                    bit,
                    cells,
                    slice(0, n) if len(columns) == n else columns,
                    np.arange(len(blocks)) * hardware.ou_cols,
                )
            )
        segments.append(tuple(planes))
    return Prepared(
        hardware=hardware,
        weights=weights,
        k=k,
        outputs=n,
        widths=widths,
        bits=int(bits),
        redy=redy,
        skip_zero_slices=bool(skip_zero_slices),
        registers=registers,
        converter=Converter.of(hardware, _of_counts(registers, hardware), min_count, early_detection),
        segments=tuple(segments),
    )


def _of_counts(registers: AdcRegisters, hardware: HardwareConfig) -> AdcRegisters:
    """Registers of the conversion of counts. The pair machine has none: golden_model/pairs/search.py converts, and
    nothing uses the plain ones in their place."""
    if not hardware.pairs:
        return registers
    registers.check_on(hardware)
    return AdcRegisters(mode="uniform", n_r2=hardware.adc_bits)


def prepare_layer(layer: Layer, hardware: HardwareConfig) -> Prepared:
    """Unpack a layer's weights and tables once, for many calls of `run_layer`."""
    return prepare(
        layer.weights,
        hardware,
        layer.registers,
        block_widths=layer.block_widths,
        redy=layer.dynamic,
        skip_zero_slices=layer.skip_zero_slices,
        min_count=layer.min_count,
        activation_bits=layer.input_bits,
    )


def check_activations(prepared: Prepared, activations: Any) -> np.ndarray:
    """`activations` as an array (P, K) of unsigned integers below 2**activation_bits, or one clear error."""
    activations = np.asarray(activations)
    if activations.ndim != 2 or activations.shape[1] != prepared.k:
        raise ValueError(f"activations must have shape (P, {prepared.k}), got {activations.shape}")
    if activations.dtype.kind not in "iu":
        raise TypeError(f"activations must be unsigned integers, got dtype {activations.dtype}")
    if activations.size and not (activations.min() >= 0 and activations.max() < 1 << prepared.bits):
        raise ValueError(
            f"activations must be in 0..{(1 << prepared.bits) - 1}, "
            f"got {int(activations.min())}..{int(activations.max())}"
        )
    return activations


def streams(prepared: Prepared, activations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What windows (P, K) stream, before zero-slice skipping.

    Returns (q'', mask): q'' uint8 (P, segments, ou_rows); mask bool (P, segments, bits), the bit positions that are
    streamed.
    """
    hardware, windows = prepared.hardware, len(activations)
    segments = len(prepared.widths)
    bit = np.arange(prepared.bits)
    if prepared.redy is None:
        q = activations
        mask = np.ones((windows, segments, prepared.bits), dtype=bool)
    else:
        choice = dynamic_precision.precision(activations, hardware, prepared.redy)
        q = choice.streamed
        group = np.arange(segments) // hardware.segments_per_group
        mask = (bit >= choice.lo[:, group, None]) & (bit <= choice.hi[:, group, None])
    padded = np.zeros((windows, segments * hardware.ou_rows), dtype=np.uint8)
    padded[:, : prepared.k] = q
    return padded.reshape(windows, segments, hardware.ou_rows), mask


def switched_on(prepared: Prepared, streamed: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`mask` of `streams` without the slices that zero-slice skipping leaves out."""
    if not prepared.skip_zero_slices:
        return mask
    used = np.bitwise_or.reduce(streamed, axis=2)
    return mask & ((used[:, :, None] >> np.arange(prepared.bits)) & 1).astype(bool)
