"""Runs windows on the macro in Amaranth's simulator, with an ideal crossbar behind its port."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.registers import descriptor_fields
from golden_model.trq import AdcRegisters, levels
from rtl.macro import Macro
from sim.bench import simulate
from tests.bench import clocks_until, collector, fetch, put, stream_rule
from tests.rtl import oracle


@dataclass
class Case:
    """One layer and the windows to run on it.

    activations : (P, K) as streamed. masks : (P, segments) bit positions to stream.
    undecided : share of comparisons without an answer; needs `comparator_valid`.
    """

    hardware: HardwareConfig
    registers: AdcRegisters
    weights: np.ndarray
    activations: np.ndarray
    masks: np.ndarray
    widths: np.ndarray
    min_count: np.ndarray | None = None
    skip_zero_slices: bool = False
    crossbar_base: int = 0
    width_base: int = 0
    sample_stall: float = 0.0
    segment_stall: float = 0.0
    undecided: float = 0.0
    seed: int = 0

    @property
    def levels(self) -> list[int]:
        return [int(x) for x in levels(self.hardware.adc_bits, self.hardware.ou_rows, self.min_count)]

    def settings(self) -> dict[str, int]:
        """Descriptor fields that the macro reads; the others hold ones, to show that they do not matter."""
        hardware, registers = self.hardware, self.registers
        k, n = self.weights.shape
        segments, block_cols = self.widths.shape
        values = {f.name: (1 << f.bits) - 1 for f in descriptor_fields(hardware)}
        return values | {
            "outputs": n,
            "segments": segments,
            "last_rows": k - (segments - 1) * hardware.ou_rows,
            "block_cols": block_cols,
            "last_cols": n - (block_cols - 1) * hardware.ou_cols,
            "crossbar_base": self.crossbar_base,
            "width_base": self.width_base,
            "skip_zero_slices": int(self.skip_zero_slices),
            "adc_mode": int(registers.mode == "twin"),
            "n_r1": registers.n_r1,
            "n_r2": registers.n_r2,
            "m": registers.m,
            "adc_bias": registers.bias,
        }

    def expected(self) -> list[oracle.Window]:
        return [
            oracle.window(
                self.hardware,
                self.registers,
                self.weights,
                self.widths,
                row,
                [int(x) for x in masks],
                levels=self.levels,
                skip_zero_slices=self.skip_zero_slices,
                crossbar_base=self.crossbar_base,
            )
            for row, masks in zip(self.activations, self.masks, strict=True)
        ]

    def cells(self) -> dict[tuple[int, int, int], list[int]]:
        """Cells of every used OU: a word of ou_rows bits per lane."""
        hardware = self.hardware
        placement = mapping.place_layer(self.widths, hardware, crossbar_base=self.crossbar_base)
        assert self.crossbar_base + placement.pairs <= hardware.crossbar_pairs, "the case does not fit the crossbars"
        stored = mapping.empty_cells(hardware, hardware.crossbar_pairs)
        mapping.program_layer(stored, placement, self.weights, hardware)
        weight = 1 << np.arange(hardware.ou_rows, dtype=object)
        return {
            (pair, row, col): [int(x) for x in (stored[pair, row, col].astype(object) * weight).sum(axis=-1)]
            for pair, row, col in zip(placement.pair, placement.ou_row, placement.ou_col, strict=True)
        }


@dataclass
class Run:
    """What the macro did, per window."""

    clocks: list[int] = field(default_factory=list)
    sums: list[list[int]] = field(default_factory=list)
    records: list[list[dict]] = field(default_factory=list)
    counters: list[dict[str, int]] = field(default_factory=list)
    overflow: int = 0
    configuration_error: int = 0


def ideal_crossbar(
    port,
    hardware: HardwareConfig,
    cells: dict,
    level_of_count,
    *,
    stall: float = 0.0,
    undecided: float = 0.0,
    seed: int = 0,
):
    """Background bench: samples on each transfer, answers thresholds in the same clock.

    cells : (pair, OU row, OU column) -> word of ou_rows bits per lane. `port.sample.ready` is low for a
    random `stall` of the clocks. undecided : probability that a comparator has no answer, and gives a random one.
    """

    async def bench(ctx) -> None:
        rng = random.Random(seed)
        held = [0] * hardware.lanes
        ctx.set(port.sample.ready, 1)
        tick = ctx.tick().sample(port.sample.valid, port.sample.ready, port.sample.payload)
        async for _, _, valid, ready, payload in tick:
            if valid and ready:
                words = cells[payload.pair, payload.ou_row, payload.ou_col]
                held = [level_of_count[(word & payload.slice).bit_count()] for word in words]
            thresholds = ctx.get(port.thresholds)
            late = [undecided > 0 and rng.random() < undecided for _ in range(hardware.lanes)]
            answers = sum(
                (rng.getrandbits(1) if late[i] else held[i] >= thresholds[i]) << i for i in range(hardware.lanes)
            )
            if hardware.comparator_valid:
                ctx.set(port.decided, sum((not one) << i for i, one in enumerate(late)))
            ctx.set(port.comparators, answers)
            ctx.set(port.sample.ready, int(rng.random() >= stall))

    return bench


def slices_of(hardware: HardwareConfig, activations: np.ndarray, segment: int) -> list[int]:
    """Input slices of one segment: bit r of slice i is bit i of row r."""
    rows = activations[segment * hardware.ou_rows : (segment + 1) * hardware.ou_rows]
    return [sum((int(q) >> i & 1) << r for r, q in enumerate(rows)) for i in range(hardware.input_bits)]


def run(case: Case, *, limit: int = 200_000, dut: Macro | None = None) -> Run:
    """Load the width table, run all windows of a case one after the other."""
    hardware = case.hardware
    dut = dut or Macro(hardware)
    result = Run()
    traced: list[dict] = []
    rng = random.Random(case.seed)
    segments = len(case.widths)

    async def control(ctx) -> None:
        put(ctx, dut.settings, case.settings())
        ctx.set(dut.counters_clear, 1)
        for i, width in enumerate(case.widths.ravel()):
            put(ctx, dut.width_write, {"enable": 1, "address": case.width_base + i, "data": int(width)})
            await ctx.tick()
        ctx.set(dut.counters_clear, 0)
        ctx.set(dut.width_write.enable, 0)
        await ctx.tick().repeat(2)
        before = dict.fromkeys(fetch(ctx, dut.counters), 0)
        result.configuration_error = ctx.get(dut.configuration_error)
        if result.configuration_error:
            return
        for _ in case.activations:
            traced.clear()
            ctx.set(dut.window_start, 1)
            await ctx.tick()
            ctx.set(dut.window_start, 0)
            # window_start was in the clock before the one that is counted first
            result.clocks.append(await clocks_until(ctx, dut.window_done, limit=limit))
            after = fetch(ctx, dut.counters)
            sums: list[int] = []
            for output in range(case.weights.shape[1]):
                put(ctx, dut.sums_address, output // hardware.ou_cols)
                put(ctx, dut.sums_column, output % hardware.ou_cols)
                await ctx.tick()
                sums.append(fetch(ctx, dut.sum))
            result.sums.append(sums)
            result.counters.append({name: after[name] - before[name] for name in after})
            result.records.append([dict(record) for record in traced])
            before = after
        result.overflow = ctx.get(dut.overflow)

    async def segment_source(ctx) -> None:
        for activations, masks in zip(case.activations, case.masks, strict=True):
            for segment in range(segments):
                while rng.random() < case.segment_stall:
                    await ctx.tick()
                beat = {"slices": slices_of(hardware, activations, segment), "mask": int(masks[segment])}
                put(ctx, dut.segments.payload, beat)
                ctx.set(dut.segments.valid, 1)
                await ctx.tick().until(dut.segments.ready)
                ctx.set(dut.segments.valid, 0)

    async def trace(ctx) -> None:
        bench = collector(dut.trace.valid, dut.trace, into=traced)
        await bench(ctx)

    crossbar = ideal_crossbar(
        dut.crossbar,
        hardware,
        case.cells(),
        case.levels,
        stall=case.sample_stall,
        undecided=case.undecided,
        seed=case.seed,
    )
    background = [crossbar, segment_source, trace, stream_rule(dut.crossbar.sample, "sample")]
    simulate(dut, control, background=background, limit=limit)
    return result


def meaningful(record: dict) -> dict:
    """A trace record without what means nothing: codes and flags of lanes that did not start."""
    record = {name: value for name, value in record.items() if name != "valid"}
    started = record["started"]
    record["range_flags"] &= started
    record["codes"] = [code if started >> lane & 1 else 0 for lane, code in enumerate(record["codes"])]
    return record


def first_difference(actual: list[dict], expected: list[dict]) -> str | None:
    """The first OU (and lane) of a window in which two traces differ, in words, or None."""
    for index, (a, e) in enumerate(zip(actual, expected, strict=False)):
        if a == e:
            continue
        lanes = [lane for lane in range(len(e["codes"])) if _lane(a, lane) != _lane(e, lane)]
        where = f"lane {lanes[0]}: " if lanes else ""
        return f"OU {index}: {where}got {a}, expected {e}"
    if len(actual) != len(expected):
        return f"got {len(actual)} OU activations, expected {len(expected)}"
    return None


def _lane(record: dict, lane: int) -> tuple[int, int, int]:
    return record["started"] >> lane & 1, record["range_flags"] >> lane & 1, record["codes"][lane]


def check(case: Case, *, timing: bool = True) -> Run:
    """Run a case; sums, trace, event counters and clocks of every window must equal the oracle's."""
    actual = run(case)
    for index, window in enumerate(case.expected()):
        difference = first_difference([meaningful(r) for r in actual.records[index]], window.records)
        assert difference is None, f"window {index}, {difference}"
        assert actual.sums[index] == [int(x) for x in window.sums], f"window {index}"
        counters = dict(actual.counters[index])
        if case.undecided:  # what was asked again counts again
            assert counters["ad_operations"] >= window.counters["ad_operations"]
            counters["ad_operations"] = window.counters["ad_operations"]
        assert counters == window.counters, f"window {index}"
        if timing:
            assert actual.clocks[index] == window.clocks + Macro.window_overhead, f"window {index}"
    return actual


# ---- random cases -------------------------------------------------------------------------------
def random_registers(rng: random.Random, adc_bits: int) -> AdcRegisters:
    """Any legal setting."""
    n_r2 = rng.randint(1, adc_bits)
    m = rng.randint(0, adc_bits - n_r2)
    if rng.random() < 0.2:
        return AdcRegisters(mode="uniform", n_r2=n_r2, m=m)
    n_r1 = rng.randint(0, n_r2 + m - 1)
    bias = rng.randint(0, (1 << (n_r2 + m - n_r1)) - 2) if rng.random() < 0.6 else 0
    return AdcRegisters(mode="twin", n_r2=n_r2, n_r1=n_r1, m=m, bias=bias)


def random_weights(rng: np.random.Generator, hardware: HardwareConfig, k: int, n: int, widths: np.ndarray):
    """Signed weights that fit the given block widths."""
    per_weight = np.repeat(np.repeat(widths, hardware.ou_rows, axis=0)[:k], hardware.ou_cols, axis=1)[:, :n]
    magnitude = rng.integers(0, 1 << per_weight)
    return np.where(rng.random((k, n)) < 0.5, -magnitude, magnitude)


def random_case(seed: int, hardware: HardwareConfig, *, windows: int = 2, segments: int = 3, columns: int = 3) -> Case:
    """A random layer: mixed block widths with empty ones, any legal registers, random bits to stream."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    segments = rng.randint(1, min(segments, hardware.max_segments))
    block_cols = rng.randint(1, min(columns, hardware.max_block_cols))
    k = min(hardware.max_k, segments * hardware.ou_rows - rng.randint(0, hardware.ou_rows - 1))
    n = min(hardware.max_n, block_cols * hardware.ou_cols - rng.randint(0, hardware.ou_cols - 1))
    widths = numbers.integers(0, hardware.weight_bits + 1, (segments, block_cols))
    widths[numbers.random(widths.shape) < rng.choice([0.0, 0.3, 0.8])] = 0
    density = rng.choice([0.1, 0.5, 0.9])
    bits = numbers.random((windows, k, hardware.input_bits)) < density
    activations = (bits << np.arange(hardware.input_bits)).sum(axis=2)
    masks = np.zeros((windows, segments), dtype=np.int64)
    for where in np.ndindex(*masks.shape):
        low = rng.randint(0, hardware.input_bits - 1)
        high = rng.randint(low, hardware.input_bits - 1)
        masks[where] = 0 if rng.random() < 0.15 else ((1 << (high + 1)) - 1) >> low << low
    pairs = mapping.place_layer(widths, hardware).pairs
    return Case(
        hardware=hardware,
        registers=random_registers(rng, hardware.adc_bits),
        weights=random_weights(numbers, hardware, k, n, widths),
        activations=activations,
        masks=masks,
        widths=widths,
        skip_zero_slices=rng.random() < 0.5,
        crossbar_base=rng.randint(0, max(0, hardware.crossbar_pairs - pairs)),
        width_base=rng.randint(0, hardware.width_entries - widths.size),
        seed=seed,
    )


def full_masks(hardware: HardwareConfig, windows: int, segments: int, bits: int | None = None) -> np.ndarray:
    """Masks that stream the low `bits` positions of every segment."""
    return np.full((windows, segments), (1 << (bits or hardware.input_bits)) - 1)
