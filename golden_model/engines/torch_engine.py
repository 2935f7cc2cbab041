"""The engine for GPUs: whole layers and graphs on a torch device, bit for bit and event for event the reference.

Up to PATTERN_ROWS rows every input slice is one of 2**ou_rows patterns. A table per input segment holds what
each pattern adds to every output, another one what it costs (A/D operations, R1 conversions, clocks); a window is
one weighted sum of table rows (`embedding_bag`). OUs of more rows, and layers whose tables would be too large or used
too little, count with one {0, 1} matrix product per segment and weight plane, look values and costs up in a table of
all counts, and add the values with their weights. The tables of patterns come from that same way, so any f(c) works.

Floating point only ever holds integers that it represents exactly: counts of at most 128 in half precision, weighted
sums below 2**24 in float32 (checked; else float64). So results depend neither on the order of additions nor on
torch's settings for reduced precision (TF32, bfloat16), which the factors of every matrix product here survive.

    device = find_device("torch")  # or "torch:cpu", which is for checks: slow, and the very same code
    tables = tables_of(prepared, device)
    sums, counters = run_images(layer, tables, images)  # tensors on the device
    output = finish(layer, sums)

Nothing is copied to the host inside a layer; `run_on_device` keeps a graph's activations on the device. Memory on the
device: about 1 GB of work space (a quarter of what is free, if that is less), a layer's cells (2 bytes per stored
cell and polarity) and its pattern tables (4 bytes * 2**ou_rows per segment and output, at most 1 GB a layer).

No figure has been measured on a GPU yet: all tests run this code on torch's CPU device. What would measure it:

    python -m golden_model.bench --engine torch
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.crossbar.counters import Tally, events_of
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.crossbar.prepared import PATTERN_ROWS, Prepared
from golden_model.few_ones import nearest_level
from golden_model.graph import nodes as graph_nodes
from golden_model.registers import COUNTER_NAMES
from golden_model.rounding import round_half_up_shift

_WORK_BYTES = {"cuda": 1 << 30, "cpu": 64 << 20}
_TABLE_BYTES = {"cuda": 1 << 30, "cpu": 256 << 20}
_EXACT = 1 << 24  # float32 holds every integer up to here
_COST_BITS = 20  # a cost is A/D operations << 20 | R1 conversions
_COST = (1 << _COST_BITS) - 1

_INDEX = {name: i for i, name in enumerate(COUNTER_NAMES)}


# ---- devices ------------------------------------------------------------------------------------
def gpu_present() -> bool:
    """Whether torch sees a GPU."""
    return torch.cuda.is_available()


def device_name(device: torch.device) -> str:
    """For people: what the device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor, through torch"


def peak_memory(device: torch.device) -> int | None:
    """Most bytes that tensors have taken on a GPU so far; None for the processor."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def find_device(engine: str) -> torch.device:
    """The device that "torch", "torch:cuda" or "torch:cpu" names; ValueError if there is none."""
    name = engine.partition(":")[2] or "cuda"
    if engine.partition(":")[0] != "torch" or name not in ("cuda", "cpu"):
        raise ValueError(f"engine must be 'torch', 'torch:cuda' or 'torch:cpu', got {engine!r}")
    if name == "cuda" and not gpu_present():
        raise ValueError(
            f"engine {engine!r} needs a GPU that torch {torch.__version__} can use, and it sees none; "
            "'torch:cpu' (--device cpu) runs the same code on the processor"
        )
    return torch.device(name)


def upload(values: Any, device: torch.device) -> Tensor:
    """A NumPy array on the device."""
    return torch.tensor(values, device=device)


def download(values: Tensor) -> np.ndarray:
    """A tensor as a NumPy array on the host; waits for the device."""
    return values.cpu().numpy()


# ---- tables -------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Lookup:
    """Conversion of every count.

    value : float32 (256,). cost : int32 (256,), or None if all conversions cost `operations` and end in R2. bounded :
    `cost` is indexed by bound * (ou_rows + 1) + count instead of the count (system.md §13).
    """

    value: Tensor
    cost: Tensor | None
    bounded: bool
    operations: int


@dataclass(frozen=True, eq=False)
class _Plane:
    """One weight plane of one segment, only the blocks that store it.

    cells : (padded rows, 2 * padded columns) of 0 and 1, positive polarity first. Columns fill whole blocks: those
    beyond N repeat the last real one, so that an OU's slowest lane stays right, and are left out of all sums.
    columns : int64 (real columns,), where they lie in 0..N-1. blocks : block columns. bounds : int32
    (2 * padded columns,), what is stored about the columns' ones (`Plane.bounds` of crossbar/prepared.py), or None.
    """

    bit: int
    cells: Tensor
    columns: Tensor
    blocks: int
    bounds: Tensor | None


@dataclass(frozen=True, eq=False)
class _Patterns:
    """Tables over all input slices of all segments.

    rows : (segments * 2**ou_rows, N) float. costs : (the same rows, 3) float: A/D operations, R1
    conversions, clocks. index : int32 (segments, 1), where the table of a segment begins.
    pack : float32 (ou_rows * 256, bits), what an activation in row r adds to the patterns of all bits.
    """

    rows: Tensor
    costs: Tensor
    index: Tensor
    pack: Tensor


@dataclass(frozen=True, eq=False)
class Tables:
    """A prepared layer on a device; make it with `tables_of`.

    planes, lanes : int64 (segments,), OU activations and conversions per switched-on slice. bits : int32 (bits,),
    0, 1, ... place : float32 (bits,), 2**bits. work : bytes of work space. patterns : once made.
    """

    prepared: Prepared
    device: torch.device
    segments: tuple[tuple[_Plane, ...], ...]
    lookup: _Lookup
    planes: Tensor
    lanes: Tensor
    bits: Tensor
    place: Tensor
    work: int
    patterns: dict[str, _Patterns | None] = field(default_factory=dict, repr=False)

    @property
    def hardware(self) -> HardwareConfig:
        return self.prepared.hardware


def tables_of(prepared: Prepared, device: torch.device) -> Tables:
    """The layer's tables on the device, made on first use and kept with the layer."""
    key = ("torch", str(device))
    if key not in prepared.tables:
        prepared.tables[key] = _make_tables(prepared, device)
    return prepared.tables[key]


def _make_tables(prepared: Prepared, device: torch.device) -> Tables:
    hardware, cols = prepared.hardware, prepared.hardware.ou_cols
    lookup = _lookup(prepared, device)
    counts = _bit_type(device)
    segments = []
    for stored in prepared.segments:
        planes = []
        for plane in stored:
            columns = np.arange(prepared.outputs)[plane.columns]
            blocks = len(plane.starts)
            real = np.minimum(np.arange(blocks * cols), len(columns) - 1)
            cells = plane.cells.reshape(2, len(columns), -1)[:, real].reshape(2 * len(real), -1)
            padded = np.zeros((_padded_rows(hardware), len(cells)), dtype=np.float32)
            padded[: cells.shape[1]] = cells.T
            bounds = None
            if lookup.bounded:
                both = np.concatenate([real, real + len(columns)])
                known = plane.bounds(hardware.ou_rows, prepared.converter.registers.column_bound_bits or 0)[both]
                bounds = upload(known.astype(np.int32), device)
            planes.append(_Plane(plane.bit, upload(padded, device).to(counts), upload(columns, device), blocks, bounds))
        segments.append(tuple(planes))
    bits = torch.arange(prepared.bits, dtype=torch.int32, device=device)
    free = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else 1 << 40
    return Tables(
        prepared=prepared,
        device=device,
        segments=tuple(segments),
        lookup=lookup,
        planes=upload(prepared.widths.sum(axis=1).astype(np.int64), device),
        lanes=upload(prepared.lanes_per_slice, device),
        bits=bits,
        place=(1 << bits).to(torch.float32),
        work=min(_WORK_BYTES[device.type], free),
    )


def _bit_type(device: torch.device) -> torch.dtype:
    """Type of cells and slices in matrix products; the processor has no fast half precision."""
    return torch.float32 if device.type == "cpu" else torch.float16


def _padded_rows(hardware: HardwareConfig) -> int:
    """Rows of a matrix product: GPUs want multiples of 8."""
    return -(-hardware.ou_rows // 8) * 8


def _lookup(prepared: Prepared, device: torch.device) -> _Lookup:
    adc = prepared.converter
    value, operations, in_r1 = (
        np.frombuffer(getattr(adc, name), dtype=np.uint8).astype(np.int32) for name in ("value", "operations", "in_r1")
    )
    bounded = adc.registers.bounded
    if bounded:
        size = prepared.hardware.ou_rows + 1
        in_r1 = in_r1[:size]
        operations = np.broadcast_to(operations[:size], (size, size)) if adc.searches is None else adc.searches
    cost = operations.astype(np.int32) << _COST_BITS | in_r1
    return _Lookup(
        value=upload(value.astype(np.float32), device),
        cost=upload(cost.ravel(), device) if adc.any_r1 or adc.constant_operations is None else None,
        bounded=bounded,
        operations=adc.constant_operations or 0,
    )


# ---- conversions --------------------------------------------------------------------------------
def _convert(tables: Tables, segment: int, slices: Tensor) -> tuple[Tensor, ...]:
    """All conversions that input slices of one segment start.

    slices : (bits, P, padded rows) of 0 and 1, of the lowest input bits.

    Returns (sums, operations, in_r1, clocks): sums (P, N) int64, value << (i + b) with its sign; the others (bits, P)
    int64.
    """
    hardware = tables.hardware
    inputs, windows = slices.shape[:2]
    flat = slices.flatten(0, 1)
    place = tables.place[:inputs]
    active_rows = slices.sum(dim=2).to(torch.int32)[:, :, None]
    sums = torch.zeros((windows, tables.prepared.outputs), dtype=torch.int64, device=tables.device)
    operations, in_r1, clocks = torch.zeros((3, inputs, windows), dtype=torch.int64, device=tables.device)
    shortest, lookup = max(1, hardware.sample_interval), tables.lookup
    for plane in tables.segments[segment]:
        columns, lanes = len(plane.columns), plane.cells.shape[1]
        counts = (flat @ plane.cells).to(torch.int32).view(inputs, windows, lanes)
        value = lookup.value.index_select(0, counts.view(-1)).view(inputs, windows, 2, lanes // 2)[..., :columns]
        difference = value[:, :, 0] - value[:, :, 1]
        weighted = torch.tensordot(place, difference, dims=1)  # below 2**16
        weighted = weighted.to(torch.int64) << plane.bit
        if columns == sums.shape[1]:
            sums += weighted
        else:
            sums.index_add_(1, plane.columns, weighted)
        if lookup.cost is None:
            operations += 2 * columns * lookup.operations
            clocks += plane.blocks * max(shortest, lookup.operations)
            continue
        index = counts
        if plane.bounds is not None:
            index = torch.minimum(active_rows, plane.bounds) * (hardware.ou_rows + 1) + counts
        cost = lookup.cost.index_select(0, index.view(-1)).view(inputs, windows, 2, lanes // 2)
        spent = cost[..., :columns].sum(dim=(2, 3))  # int64
        operations += spent >> _COST_BITS
        in_r1 += spent & _COST
        slowest = cost.view(inputs, windows, 2, plane.blocks, hardware.ou_cols).amax(dim=(2, 4)) >> _COST_BITS
        clocks += slowest.clamp_(min=shortest).sum(dim=2)
    return sums, operations, in_r1, clocks


def _slices(tables: Tables, rows: Tensor) -> Tensor:
    """uint8 (P, ou_rows) -> (bits, P, padded rows) of 0 and 1, ready for `_convert`."""
    shape = (len(tables.bits), len(rows), _padded_rows(tables.hardware))
    made = torch.zeros(shape, dtype=_bit_type(tables.device), device=tables.device)
    made[:, :, : rows.shape[1]] = (rows >> tables.bits[:, None, None].to(torch.uint8)) & 1
    return made


def _direct(tables: Tables, q: Tensor, active: Tensor | None) -> tuple[Tensor, ...]:
    """(sums (P, N), operations (P,), in_r1 (P,), clocks (P, segments)), int64, of windows q (P, segments, ou_rows).

    active : bool (bits, P, segments), or None where every slice is switched on.
    """
    windows, segments = q.shape[:2]
    sums = torch.zeros((windows, tables.prepared.outputs), dtype=torch.int64, device=tables.device)
    spent = torch.zeros((2, windows), dtype=torch.int64, device=tables.device)
    clocks = torch.zeros((windows, segments), dtype=torch.int64, device=tables.device)
    for segment, planes in enumerate(tables.segments):
        if not planes:
            continue
        added, *costs = _convert(tables, segment, _slices(tables, q[:, segment]))
        sums += added  # a slice that is not switched on holds zeros and adds 0
        cost = torch.stack(costs)
        if active is not None:
            cost *= active[:, :, segment]
        total = cost.sum(dim=1)
        spent += total[:2]
        clocks[:, segment] = total[2]
    return sums, spent[0], spent[1], clocks


def _bags(table: Tensor, index: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sums of table rows: index int32 (B, n), weights (B, n) like the table -> (B, columns of the table)."""
    bags, size = index.shape
    offsets = torch.arange(bags, dtype=torch.int32, device=index.device) * size
    return functional.embedding_bag(
        index.reshape(-1),
        table,
        offsets,
        mode="sum",
        per_sample_weights=None if weights is None else weights.reshape(-1).to(table.dtype),
    )


def _by_patterns(tables: Tables, patterns: _Patterns, q: Tensor, active: Tensor | None) -> tuple[Tensor, ...]:
    """As `_direct`, from tables."""
    windows, segments, rows = q.shape
    bits = len(tables.bits)
    row = 256 * torch.arange(rows, dtype=torch.int32, device=tables.device)
    packed = _bags(patterns.pack, (q.to(torch.int32) + row).view(windows * segments, rows))
    index = packed.to(torch.int32).view(windows, segments, bits) + patterns.index
    place = tables.place.to(patterns.rows.dtype).expand(windows, segments, bits)
    sums = _bags(patterns.rows, index.flatten(1), place.flatten(1))
    on = None if active is None else active.permute(1, 2, 0).reshape(windows * segments, bits)
    cost = _bags(patterns.costs, index.view(windows * segments, bits), on).to(torch.int64).view(windows, segments, 3)
    spent = cost[:, :, :2].sum(dim=1)
    return sums.to(torch.int64), spent[:, 0], spent[:, 1], cost[:, :, 2]


def _make_patterns(tables: Tables) -> _Patterns | None:
    """Tables over all slices; None if they would be larger than _TABLE_BYTES."""
    prepared, device = tables.prepared, tables.device
    rows, bits, segments = tables.hardware.ou_rows, prepared.bits, len(tables.segments)
    size = (segments, 1 << rows)
    if 4 * int(np.prod(size)) * (prepared.outputs + 3) > _TABLE_BYTES[device.type]:
        return None
    pattern = torch.arange(1 << rows, dtype=torch.int32, device=device)
    places = torch.arange(_padded_rows(tables.hardware), dtype=torch.int32, device=device)
    slices = ((pattern[:, None] >> places) & 1)[None]
    slices = slices.to(_bit_type(device))
    sums = torch.zeros((*size, prepared.outputs), dtype=torch.float32, device=device)
    costs = torch.zeros((*size, 3), dtype=torch.float64, device=device)
    step = max(1, tables.work // _convert_bytes(tables, 1))
    for segment in range(segments):
        for start in range(0, 1 << rows, step):
            part = slice(start, start + step)
            added, *spent = _convert(tables, segment, slices[:, part])
            sums[segment, part] = added
            costs[segment, part] = torch.stack([x[0] for x in spent], dim=1)
    # Exact: below 2**24 whatever the windows are, else with doubles.
    largest = sums.abs().amax(dim=1).double().sum(dim=0).max() * ((1 << bits) - 1)
    dearest = costs.max() * bits
    kinds = _exact_kinds(torch.stack([largest, dearest]))
    byte = np.arange(256)[:, None] >> np.arange(bits) & 1
    pack = byte[None] << np.arange(rows)[:, None, None]
    return _Patterns(
        rows=sums.view(-1, prepared.outputs).to(kinds[0]),
        costs=costs.view(-1, 3).to(kinds[1]),
        index=upload((np.arange(segments)[:, None] << rows).astype(np.int32), device),
        pack=upload(pack.reshape(-1, bits).astype(np.float32), device),
    )


def _exact_kinds(largest: Tensor) -> list[torch.dtype]:
    """The cheapest type that holds all integers up to each number exactly; waits for the device, once per layer."""
    return [torch.float64 if x >= _EXACT else torch.float32 for x in largest.tolist()]


def _patterns_of(tables: Tables, windows: int) -> _Patterns | None:
    """The layer's pattern tables where they exist, or fit and pay for `windows` windows."""
    rows = tables.hardware.ou_rows
    if "made" not in tables.patterns:
        if rows > PATTERN_ROWS or windows * tables.prepared.bits < 1 << rows:
            return None
        tables.patterns["made"] = _make_patterns(tables)
    return tables.patterns["made"]


def _convert_bytes(tables: Tables, bits: int) -> int:
    """Work space that `_convert` takes per window of so many slices."""
    widest = max((plane.cells.shape[1] for planes in tables.segments for plane in planes), default=1)
    return bits * (32 * widest + 8 * _padded_rows(tables.hardware)) + 24 * tables.prepared.outputs


def _window_bytes(tables: Tables, patterns: _Patterns | None) -> int:
    """Work space per window."""
    segments, bits = len(tables.segments), tables.prepared.bits
    needed = segments * tables.hardware.ou_rows * (6 if tables.prepared.redy is None else 40) + 32 * segments * bits
    if patterns is None:
        return needed + _convert_bytes(tables, bits)
    return needed + 16 * tables.prepared.outputs


# ---- windows ------------------------------------------------------------------------------------
def _choose_precision(q: Tensor, k: int, rows: int, redy: DynamicPrecision) -> tuple[Tensor, Tensor, Tensor]:
    """(q'', lo, hi) of windows, groups of `rows` rows (system.md §6).

    q : uint8 (P, at least k). Returns q'' uint8 (P, columns of q), lo and hi int64 (P, groups).
    """
    windows = len(q)
    groups = -(-k // rows)
    grouped = torch.zeros((windows, groups * rows), dtype=torch.int32, device=q.device)
    grouped[:, :k] = q[:, :k]
    grouped = grouped.view(windows, groups, rows)
    n = torch.full((groups,), rows, dtype=torch.int64, device=q.device)
    n[-1] = k - (groups - 1) * rows
    largest = grouped.amax(dim=2).to(torch.int64)
    total = grouped.sum(dim=2)  # int64
    squares = (grouped * grouped).sum(dim=2)
    spread = redy.tau_sq * (n * squares - total * total)
    hi, lo = torch.full_like(largest, -1), torch.zeros_like(largest)
    for i in range(8):
        hi += largest >= 1 << i
    for low in range(1, redy.l_max + 1):
        allowed = ((n * n << (2 * low + 12)) <= spread) & (low <= hi)
        lo = torch.where(allowed, low, lo)
    shift = lo.to(torch.int32)[:, :, None]
    top = (1 << (hi - lo + 1).clamp(min=0).to(torch.int32))[:, :, None] - 1
    rounded = torch.minimum((grouped + ((1 << shift) >> 1)) >> shift, top) << shift
    streamed = torch.zeros_like(q)
    streamed[:, :k] = rounded.flatten(1)[:, :k]
    return streamed, lo, hi


def _run_part(tables: Tables, q: Tensor, patterns: _Patterns | None) -> tuple[Tensor, Tensor]:
    """(sums (P, N), counters (P, COUNTER_NAMES)), int64, of windows q: uint8 (P, segments * ou_rows)."""
    prepared, hardware = tables.prepared, tables.hardware
    windows, (segments, block_cols), bits = len(q), prepared.widths.shape, prepared.bits
    active: Tensor | None = None
    streamed = torch.full((1, segments), bits, dtype=torch.int64, device=tables.device)
    if prepared.redy is not None:
        rows = hardware.ou_rows * hardware.segments_per_group
        q, lo, hi = _choose_precision(q, prepared.k, rows, prepared.redy)
        group = torch.arange(segments, device=tables.device) // hardware.segments_per_group
        lo, hi = lo[:, group], hi[:, group]
        streamed = hi - lo + 1  # hi = -1 and lo = 0 in a group of zeros
        bit = tables.bits[:, None, None]
        active = (bit >= lo) & (bit <= hi)
    rows_of = q.view(windows, segments, hardware.ou_rows)
    if prepared.skip_zero_slices:
        # Bits outside lo..hi of q'' are 0 and so never among them.
        active = torch.stack([((rows_of >> i) & 1).amax(dim=2) for i in range(bits)]).to(torch.bool)
    if patterns is not None:
        sums, operations, in_r1, clocks = _by_patterns(tables, patterns, rows_of, active)
    else:
        sums, operations, in_r1, clocks = _direct(tables, rows_of, active)
    slices = streamed if active is None else active.sum(dim=0)  # (P, segments), switched on
    clocks[:, :-1] = clocks[:, :-1].clamp(min=block_cols)
    tally = Tally(
        streamed=streamed.sum(dim=1),
        streamed_planes=(streamed * tables.planes).sum(dim=1),
        activated=(slices * tables.planes).sum(dim=1),
        conversions=(slices * tables.lanes).sum(dim=1),
        in_r1=in_r1,
        operations=operations,
        clocks=clocks.sum(dim=1),
    )
    counters = torch.zeros((windows, len(COUNTER_NAMES)), dtype=torch.int64, device=tables.device)
    for name, value in events_of(prepared, 1, tally).items():
        counters[:, _INDEX[name]] = value
    return sums, counters


def _run(tables: Tables, q: Tensor) -> tuple[Tensor, Tensor]:
    """As `_run_part`, within the work space."""
    patterns = _patterns_of(tables, len(q))
    step = max(1, tables.work // _window_bytes(tables, patterns))
    if len(q) <= step:
        return _run_part(tables, q, patterns)
    parts = [_run_part(tables, q[start : start + step], patterns) for start in range(0, len(q), step)]
    sums, counters = zip(*parts, strict=True)
    return torch.cat(sums), torch.cat(counters)


def run_matrix(prepared: Prepared, activations: np.ndarray, engine: str) -> tuple[np.ndarray, np.ndarray]:
    """Windows as rows of a matrix, from the host and back.

    activations : integers (P, K) below 2**bits. Returns sums int64 (P, N) in units of Delta_R1 and counters int64
    (P, COUNTER_NAMES), `cycles` without c_layer.
    """
    tables = tables_of(prepared, find_device(engine))
    segments, rows = len(tables.segments), tables.hardware.ou_rows
    padded = np.zeros((len(activations), segments * rows), dtype=np.uint8)
    padded[:, : prepared.k] = activations
    sums, counters = _run(tables, upload(padded, tables.device))
    return download(sums), download(counters)


# ---- layers -------------------------------------------------------------------------------------
def _windows(layer: Layer, x: Tensor, padded_k: int) -> Tensor:
    """Windows in hardware order (system.md §5a): uint8 (B, C, H, W) -> (B * windows, padded_k), zeros from K on."""
    images, border = len(x), layer.pad
    if border:
        room = (images, layer.channels, layer.height + 2 * border, layer.width + 2 * border)
        padded = torch.zeros(room, dtype=torch.uint8, device=x.device)
        if layer.pad_values is not None:
            padded += upload(np.asarray(layer.pad_values).astype(np.uint8), x.device)[:, None, None]
        padded[:, :, border : border + layer.height, border : border + layer.width] = x
        x = padded
    height, width, pool = layer.out_height, layer.out_width, layer.pool
    views = x.unfold(2, layer.kernel_height, layer.stride).unfold(3, layer.kernel_width, layer.stride)
    views = views[:, :, : height * pool, : width * pool].unflatten(2, (height, pool)).unflatten(4, (width, pool))
    # (B, C, out_height, pool, out_width, pool, kernel_height, kernel_width) -> windows, then C and the kernel
    views = views.permute(0, 2, 4, 3, 5, 1, 6, 7)
    made = torch.zeros((images * layer.windows, padded_k), dtype=torch.uint8, device=x.device)
    inside = made[:, : layer.k].unflatten(0, views.shape[:5]).unflatten(5, views.shape[5:])
    inside.copy_(views)
    return made


def run_images(layer: Layer, tables: Tables, x: Tensor) -> tuple[Tensor, Tensor]:
    """Images through one layer.

    x : uint8 (B, C, H, W) on the device. Returns sums int64 (B, windows, N) and counters int64 (B, COUNTER_NAMES),
    `cycles` with c_layer; both on the device.
    """
    padded_k = len(tables.segments) * tables.hardware.ou_rows
    step = max(1, tables.work // (4 * layer.windows * (padded_k + 24 * layer.outputs)))
    sums, counters = [], []
    for start in range(0, max(1, len(x)), step):
        part = x[start : start + step]
        added, counted = _run(tables, _windows(layer, part, padded_k))
        sums.append(added.view(len(part), layer.windows, layer.outputs))
        counters.append(counted.unflatten(0, (len(part), layer.windows)).sum(dim=1))
    total = torch.cat(counters)
    total[:, _INDEX["cycles"]] += timing.c_layer(tables.hardware)
    return torch.cat(sums), total


def finish(layer: Layer, sums: Tensor, residual: Tensor | None = None, residual_multiplier: int = 0) -> Tensor:
    """Post-processing (system.md §3): sums int64 (B, windows, N) -> uint8 (B, N, H', W'), or logits (B, N) at the end.

    residual : uint8 (B, N, H', W') or None.
    """
    images = len(sums)
    sums = sums + upload(np.asarray(layer.bias, dtype=np.int64), sums.device)
    if layer.last:
        return sums[:, 0]
    sums *= upload(np.asarray(layer.multipliers, dtype=np.int64), sums.device)
    if residual is not None:
        sums += residual.flatten(2).transpose(1, 2).to(torch.int64) * residual_multiplier
    y = round_half_up_shift(sums, layer.shift).clamp_(0, (1 << layer.output_bits) - 1).to(torch.uint8)
    y = nearest_level(y, layer.output_bits, layer.output_ones)
    if layer.table is not None:
        y = upload(layer.table.astype(np.uint8), y.device)[y.to(torch.int64)]
    y = y.view(images, layer.out_height * layer.out_width, layer.pool**2, layer.outputs).amax(dim=2)
    return y.transpose(1, 2).reshape(images, layer.outputs, layer.out_height, layer.out_width)


def run_layer(
    layer: Layer, prepared: Prepared, activations: np.ndarray, engine: str, *, keep_sums: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Images through one layer and back: uint8 (B, C, H, W) -> (output, counters (B, COUNTER_NAMES)).

    The output is that of `finish`, or with keep_sums the sums int64 (B, windows, N).
    """
    tables = tables_of(prepared, find_device(engine))
    outputs, counters = [], []
    # Parts whose sums fit the work space; one upload and one download each.
    step = max(1, tables.work // (32 * layer.windows * layer.outputs))
    for start in range(0, max(1, len(activations)), step):
        sums, counted = run_images(layer, tables, upload(activations[start : start + step], tables.device))
        outputs.append(download(sums if keep_sums else finish(layer, sums)))
        counters.append(download(counted))
    return np.concatenate(outputs), np.concatenate(counters)


# ---- graphs -------------------------------------------------------------------------------------
def run_on_device(
    layer: Layer, prepared: Prepared, x: Tensor, residual: Tensor | None = None, residual_multiplier: int = 0
) -> tuple[Tensor, Tensor]:
    """A layer on the device: uint8 (B, C, H, W) -> (output of `finish`, counters (B, COUNTER_NAMES))."""
    tables = tables_of(prepared, x.device)
    outputs, counters = [], []
    step = max(1, tables.work // (32 * layer.windows * layer.outputs))
    for start in range(0, max(1, len(x)), step):
        part = slice(start, start + step)
        sums, counted = run_images(layer, tables, x[part])
        outputs.append(finish(layer, sums, None if residual is None else residual[part], residual_multiplier))
        counters.append(counted)
    return torch.cat(outputs), torch.cat(counters)


def compute(node: graph_nodes.Node, *activations: Tensor) -> Tensor:
    """What `node.compute` does, on the device."""
    with activations[0].device:
        return node.compute(*activations)
