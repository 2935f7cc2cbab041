"""One layer as the crossbars compute it: exact sums and event counters (system.md §3-§6, §10).

Every operation unit (OU) converts, for each streamed input bit i and stored weight plane b, the count
of rows where input bit and cell are both 1; the value is accumulated as +-(value << (i + b)).

Two engines in plain NumPy give identical results: `direct` converts every slice that occurs; `patterns`
converts all 2**ou_rows slices of a segment once and looks the results up, which is faster as soon as
slices repeat (small OUs, many windows). `engine` picks one. The compiled engine of compiled.py, again
identical, takes over where numba is installed and there is enough to do; that of torch_engine.py, identical
again, where there is a GPU and a great deal to do.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar import redy as dynamic_precision
from golden_model.events import Events
from golden_model.graph.layers import DynamicPrecision
from golden_model.trq import (
    AdcRegisters,
    ColumnBoundBits,
    check_search,
    column_bounds,
    convert_counts,
    search_operations,
)

EngineName = Literal["auto", "direct", "patterns", "compiled", "torch", "torch:cuda", "torch:cpu"]

_CHUNK_BYTES = 48 << 20
#: `patterns` holds tables of 2**ou_rows entries; above this many rows only `direct` is used.
PATTERN_ROWS = 12


@dataclass(frozen=True, eq=False)
class _Plane:
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
    def of(cls, bit: int, cells: np.ndarray, columns: slice | np.ndarray, starts: np.ndarray) -> _Plane:
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
class _Converter:
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
    def of(cls, hardware: HardwareConfig, registers: AdcRegisters, min_count: Any, early: bool) -> _Converter:
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

    def spent(self, counts: np.ndarray, active_rows: np.ndarray, plane: _Plane) -> np.ndarray:
        """A/D operations of conversions of a plane, uint8 (2 * columns, X).

        counts : uint8 (2 * columns, X). active_rows : k, uint8 (X,).
        """
        bits = self.registers.column_bound_bits
        if self.searches is None or bits is None:
            return _translate(counts, self.operations)
        size = len(self.searches)
        bound = np.minimum(active_rows, plane.bounds(size - 1, bits)[:, None])
        if self.searches.size <= 256:
            return _translate(bound * np.uint8(size) + counts, self.searches.tobytes().ljust(256, b"\0"))
        return self.searches.ravel().take(bound.astype(np.uint16) * np.uint16(size) + counts)


def _translate(counts: np.ndarray, table: bytes) -> np.ndarray:
    return np.frombuffer(counts.tobytes().translate(table), dtype=np.uint8).reshape(counts.shape)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A layer ready to run: planes, widths and conversion tables. Make it with `prepare`.

    k, outputs : K, N. widths : (segments, block_cols). bits : width of the activations. converter : of all conversions.
    """

    hardware: HardwareConfig
    k: int
    outputs: int
    widths: np.ndarray
    bits: int
    redy: DynamicPrecision | None
    skip_zero_slices: bool
    converter: _Converter
    segments: tuple[tuple[_Plane, ...], ...]
    tables: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def lanes_per_slice(self) -> np.ndarray:
        """(segments,) conversions that one input slice starts."""
        return np.array([sum(len(p.cells) for p in planes) for planes in self.segments], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _SliceResult:
    """What X input slices of one segment and input bit give, before the shift by i.

    sums : (X, N) int32, signed sum of value << b. operations, in_r1, clocks : (X,) int32.
    """

    sums: np.ndarray
    operations: np.ndarray
    in_r1: np.ndarray
    clocks: np.ndarray


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
                _Plane.of(
                    bit,
                    cells,
                    slice(0, n) if len(columns) == n else columns,
                    np.arange(len(blocks)) * hardware.ou_cols,
                )
            )
        segments.append(tuple(planes))
    return Prepared(
        hardware=hardware,
        k=k,
        outputs=n,
        widths=widths,
        bits=int(bits),
        redy=redy,
        skip_zero_slices=bool(skip_zero_slices),
        converter=_Converter.of(hardware, registers, min_count, early_detection),
        segments=tuple(segments),
    )


def _convert_slices(prepared: Prepared, segment: int, slices: np.ndarray) -> _SliceResult:
    """All conversions that input slices of one segment start.

    slices : float32 (ou_rows, X) of 0 and 1. Plain NumPy, the oracle of every faster way.
    """
    hardware, adc, x = prepared.hardware, prepared.converter, slices.shape[1]
    sums = np.zeros((prepared.outputs, x), dtype=np.int32)
    operations, in_r1, clocks = (np.zeros(x, dtype=np.int32) for _ in range(3))
    shortest = max(1, hardware.sample_interval)
    active_rows = slices.sum(axis=0).astype(np.uint8)
    for plane in prepared.segments[segment]:
        columns = len(plane.cells) // 2
        counts = (plane.cells @ slices).astype(np.uint8)  # (2 * columns, X)
        values = counts if adc.identity else _translate(counts, adc.value)
        difference = np.subtract(values[:columns], values[columns:], dtype=np.int16)
        sums[plane.columns] += difference.astype(np.int32) << plane.bit
        if adc.constant_operations is None:
            spent = adc.spent(counts, active_rows, plane)
            operations += spent.sum(axis=0, dtype=np.int32)
            slowest = np.maximum.reduceat(np.maximum(spent[:columns], spent[columns:]), plane.starts, axis=0)
            clocks += np.maximum(slowest, shortest).sum(axis=0, dtype=np.int32)
        else:
            operations += 2 * columns * adc.constant_operations
            clocks += len(plane.starts) * max(shortest, adc.constant_operations)
        if adc.any_r1:
            in_r1 += _translate(counts, adc.in_r1).sum(axis=0, dtype=np.int32)
    return _SliceResult(np.ascontiguousarray(sums.T), operations, in_r1, clocks)


@dataclass(frozen=True, eq=False)
class _Totals:
    """Per window: sums (P, N) int64; operations, in_r1 (P,) and segment clocks C_r (P, segments), int64."""

    sums: np.ndarray
    operations: np.ndarray
    in_r1: np.ndarray
    clocks: np.ndarray


def _zero_totals(prepared: Prepared, windows: int) -> _Totals:
    return _Totals(
        np.zeros((windows, prepared.outputs), dtype=np.int64),
        np.zeros(windows, dtype=np.int64),
        np.zeros(windows, dtype=np.int64),
        np.zeros((windows, len(prepared.segments)), dtype=np.int64),
    )


def _direct(prepared: Prepared, streamed: np.ndarray, active: np.ndarray) -> _Totals:
    """Convert every slice that is switched on, one by one.

    streamed : (P, segments, ou_rows) integers q''. active : bool (P, segments, bits), slices that are
    switched on.
    """
    hardware = prepared.hardware
    totals = _zero_totals(prepared, len(streamed))
    widest = max((len(p.cells) for planes in prepared.segments for p in planes), default=1)
    step = max(1, _CHUNK_BYTES // (8 * widest + 8 * prepared.outputs + 8 * hardware.ou_rows))
    for segment, planes in enumerate(prepared.segments):
        if not planes:
            continue
        for i in range(prepared.bits):
            chosen = np.flatnonzero(active[:, segment, i])
            for start in range(0, len(chosen), step):
                part = chosen[start : start + step]
                slices = np.ascontiguousarray(((streamed[part, segment] >> i) & 1).T, dtype=np.float32)
                result = _convert_slices(prepared, segment, slices)
                totals.sums[part] += result.sums.astype(np.int64) << i
                totals.operations[part] += result.operations
                totals.in_r1[part] += result.in_r1
                totals.clocks[part, segment] += result.clocks
    return totals


def slice_table(prepared: Prepared, segment: int) -> _SliceResult:
    """Results of all 2**ou_rows slices of a segment, made on first use."""
    key = ("slices", segment)
    if key not in prepared.tables:
        rows = prepared.hardware.ou_rows
        patterns = np.arange(1 << rows)
        slices = ((patterns >> np.arange(rows)[:, None]) & 1).astype(np.float32)
        prepared.tables[key] = _convert_slices(prepared, segment, slices)
    return prepared.tables[key]


def _patterns(prepared: Prepared, streamed: np.ndarray, active: np.ndarray) -> _Totals:
    """Look every slice up in a table over all slices of its segment; as `_direct` otherwise."""
    rows = prepared.hardware.ou_rows
    totals = _zero_totals(prepared, len(streamed))
    place = (1 << np.arange(rows)).astype(np.float32)
    for segment, planes in enumerate(prepared.segments):
        if not planes:
            continue
        window_rows, table = streamed[:, segment], slice_table(prepared, segment)
        for i in range(prepared.bits):
            on = active[:, segment, i]
            if not on.any():
                continue
            pattern = (((window_rows >> i) & 1).astype(np.float32) @ place).astype(np.intp)
            totals.sums[...] += table.sums.take(pattern, axis=0).astype(np.int64) << i  # a slice of zeros adds 0
            totals.operations[...] += np.where(on, table.operations[pattern], 0)
            totals.in_r1[...] += np.where(on, table.in_r1[pattern], 0)
            totals.clocks[:, segment] += np.where(on, table.clocks[pattern], 0)
    return totals


def engine(prepared: Prepared, streamed: np.ndarray, active: np.ndarray, name: EngineName = "auto") -> _Totals:
    """Run the conversions of a chunk of windows; the seam behind which engines can be exchanged."""
    if name not in ("auto", "direct", "patterns"):
        raise ValueError(f"engine must be 'auto', 'direct', 'patterns', 'compiled' or 'torch', got {name!r}")
    rows = prepared.hardware.ou_rows
    if name == "auto":
        repeats = len(streamed) * prepared.bits >= 1 << rows or bool(prepared.tables)
        name = "patterns" if rows <= PATTERN_ROWS and repeats else "direct"
    if name == "patterns":
        if rows > PATTERN_ROWS:
            raise ValueError(f"engine 'patterns' takes at most {PATTERN_ROWS} OU rows, got {rows}")
        return _patterns(prepared, streamed, active)
    return _direct(prepared, streamed, active)


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


def run(prepared: Prepared, activations: Any, *, engine_name: EngineName = "auto") -> tuple[np.ndarray, Events]:
    """Run windows through a prepared layer.

    activations : (P, K) unsigned integers below 2**activation_bits.

    Returns (sums, events): sums (P, N) int64 in units of Delta_R1; events with leading shape (P,).
    """
    activations = check_activations(prepared, activations)
    if on_torch(engine_name):
        sums, counters = load_torch(engine_name).run_matrix(prepared, activations, engine_name)
        return sums, Events(counters)
    windows = len(activations)
    sums = np.zeros((windows, prepared.outputs), dtype=np.int64)
    counters = np.zeros((windows, Events().counts.size), dtype=np.int64)
    bytes_per_window = 8 * (4 * prepared.k + 3 * prepared.outputs + 4 * len(prepared.segments) * prepared.bits)
    step = max(1, _CHUNK_BYTES // bytes_per_window)
    for start in range(0, windows, step):
        part = slice(start, min(start + step, windows))
        sums[part], events = _run_chunk(prepared, activations[part], engine_name)
        counters[part] = events.counts
    return sums, Events(counters)


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


def _run_chunk(prepared: Prepared, activations: np.ndarray, engine_name: EngineName) -> tuple[np.ndarray, Events]:
    hardware, windows = prepared.hardware, len(activations)
    segments, block_cols = prepared.widths.shape
    streamed, mask = streams(prepared, activations)
    streamed_bits = mask.sum(axis=2)
    active = switched_on(prepared, streamed, mask)
    totals = engine(prepared, streamed, active, engine_name)

    planes = prepared.widths.sum(axis=1)  # (segments,)
    slices = active.sum(axis=2)  # (P, segments) switched-on slices
    conversions = slices @ prepared.lanes_per_slice
    block_planes = hardware.weight_bits * segments * block_cols
    events = Events.of(
        ou_activations=slices @ planes,
        skipped_planes=np.full(windows, (block_planes - int(planes.sum())) * hardware.input_bits),
        skipped_bits=(hardware.input_bits - streamed_bits) @ planes,
        skipped_zero_slices=(streamed_bits - slices) @ planes,
        conversions_r1=totals.in_r1,
        conversions_r2=conversions - totals.in_r1,
        ad_operations=totals.operations,
        input_bits_streamed=streamed_bits.sum(axis=1),
        cycles=timing.window_cycles(hardware, prepared.k, prepared.outputs, totals.clocks),
    )
    return totals.sums, events


def matmul(
    activations: Any,
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
    engine: EngineName = "auto",
    per_window: bool = False,
) -> tuple[np.ndarray, Events]:
    """Matrix product as the crossbars compute it (system.md §3-§6, §10, §14).

    Parameters
    ----------
    activations : (P, K) unsigned integers below 2**activation_bits; one row is one window.
    weights : (K, N) signed integers, |w| < 2**weight_bits.
    registers : A/D registers of the layer.
    block_widths : (segments, block_cols) bit planes; None derives them from the weights. A width below a
        block's magnitude is an error, a larger one stores planes of zeros.
    redy : dynamic-precision registers, None streams all activation_bits.
    skip_zero_slices : input slices of zeros cost no OU activation (*ours*).
    min_count : smallest count per threshold (`trq.min_count`), None for lambda = 1.
    activation_bits : width of the activations, default hardware.input_bits.
    early_detection : as for `trq.convert` (*ours*, off by default).
    engine : "auto", "direct", "patterns", "compiled" (compiled.py), or "torch" (torch_engine.py): a GPU, also named
        "torch:cuda"; "torch:cpu" runs the same code on the processor. Results are identical.
    per_window : events keep a leading shape (P,) instead of being summed.

    Returns (sums, events): sums (P, N) int64 in units of Delta_R1; events of all windows, `cycles` is the
    sum of the windows without c_layer. With a lossless setting and without lossy dynamic precision sums
    equal activations @ weights.

    Raises ValueError or TypeError naming the argument, what is allowed and what was given.
    """
    prepared = prepare(
        weights,
        hardware,
        registers,
        block_widths=block_widths,
        redy=redy,
        skip_zero_slices=skip_zero_slices,
        min_count=min_count,
        activation_bits=activation_bits,
        early_detection=early_detection,
    )
    if engine == "auto" and gpu_pays(int(prepared.lanes_per_slice.sum()) * prepared.bits * len(activations), hardware):
        engine = "torch"
    if engine == "compiled" or (engine == "auto" and not per_window and compiling_pays(prepared, len(activations))):
        if per_window:
            raise ValueError("engine 'compiled' does not keep the events of single windows (per_window)")
        activations = check_activations(prepared, activations)
        tables = compiled_tables(prepared)
        if tables is not None:
            return _run_matrix(prepared, tables, activations)
        if engine == "compiled":
            raise ValueError(NOT_COMPILED)
    sums, events = run(prepared, activations, engine_name=engine)
    return sums, events if per_window else events.sum()


# ---- the compiled engine (compiled.py), which needs numba ---------------------------------------
NOT_COMPILED = "engine 'compiled' needs numba, sums that fit 32 bits, and at most one cost per range"
_COMPILING_PAYS = 200_000_000  # conversions; below, starting the compiled engine would take longer


def _run_matrix(prepared: Prepared, tables: Any, activations: np.ndarray) -> tuple[np.ndarray, Events]:
    if prepared.hardware.ou_rows <= PATTERN_ROWS:
        from golden_model.engines import compiled

        return compiled.run_matrix(prepared, tables, activations)
    from golden_model.engines import columns

    sums, counters = columns.run_windows(prepared, tables, np.ascontiguousarray(activations, dtype=np.uint8))
    return np.ascontiguousarray(sums.T, dtype=np.int64), Events(counters).sum()


def compiling_pays(prepared: Prepared, windows: int) -> bool:
    """Whether a layer has enough conversions to be worth the start-up time of the compiled engine."""
    per_window = int(prepared.lanes_per_slice.sum()) * prepared.bits
    return "compiled" in prepared.tables or windows * per_window > _COMPILING_PAYS


def numba_installed() -> bool:
    """Whether there are compiled loops; does not import numba, which takes a moment to load."""
    return importlib.util.find_spec("numba") is not None


def compiled_tables(prepared: Prepared) -> Any:
    """Tables of the compiled engine for a layer, made on first use and kept with it; None where it has none.

    `compiled.Tables` up to PATTERN_ROWS rows, `columns.Tables` above.
    """
    if "compiled" not in prepared.tables:
        tables: Any = None
        if numba_installed():
            if prepared.hardware.ou_rows <= PATTERN_ROWS:
                from golden_model.engines import compiled

                tables = compiled.make_tables(prepared)
            else:
                from golden_model.engines import columns

                tables = columns.make_tables(prepared)
                if tables is not None:
                    tables = columns.compile_programs(tables)
        prepared.tables["compiled"] = tables
    return prepared.tables["compiled"]


# ---- the engine for GPUs (torch_engine.py), which needs torch -----------------------------------
#: Conversions that take the compiled engine about ten seconds on one core, by OU rows up to PATTERN_ROWS or above.
#: Below, `auto` leaves a GPU alone: loading torch and waking the device take seconds.
_GPU_PAYS = (2_500_000_000_000, 200_000_000_000)


def on_torch(engine: str) -> bool:
    """Whether an engine's name means torch_engine.py."""
    return engine.partition(":")[0] == "torch"


def load_torch(engine: str) -> Any:
    """The module `torch_engine`; ValueError if torch is not installed."""
    try:
        from golden_model.engines import torch_engine
    except ImportError as error:
        raise ValueError(f"engine {engine!r} needs torch, which is not installed") from error
    return torch_engine


@cache
def gpu_present() -> bool:
    """Whether there is a GPU that torch sees; looks for a driver first, because torch takes a moment to load."""
    if not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))) or importlib.util.find_spec("torch") is None:
        return False
    return load_torch("torch").gpu_present()


def gpu_pays(conversions: int, hardware: HardwareConfig) -> bool:
    """Whether `auto` takes the GPU: there is one, and the work is worth waking it up (`_GPU_PAYS`)."""
    return conversions > _GPU_PAYS[hardware.ou_rows > PATTERN_ROWS] and gpu_present()
