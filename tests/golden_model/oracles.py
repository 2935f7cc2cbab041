"""Step-by-step scalar versions of the golden model, written from system.md alone."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from golden_model import timing
from golden_model.config import HardwareConfig
from golden_model.cost.baselines import baseline_planes, uniform_events
from golden_model.crossbar.lanes import spend
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.crossbar.prepared import prepare_layer
from golden_model.crossbar.windows import windows
from golden_model.events import Events
from golden_model.graph.network import Graph
from golden_model.trq import AdcRegisters


def search(answer, adc_bits: int, registers: AdcRegisters, early: bool = False):
    """§4.3 with a comparator `answer(t)`: (range flag, code, value, operations)."""
    operations = 0

    def compare(t: int) -> bool:
        nonlocal operations
        assert 1 <= t <= 2**adc_bits - 1
        operations += 1
        return answer(t)

    s2 = adc_bits - registers.n_r2
    s1 = s2 - registers.m
    half1, half2 = (1 << s1) // 2, (1 << s2) // 2
    lo, hi = registers.bias * 2**registers.n_r1, (registers.bias + 1) * 2**registers.n_r1
    in_r1 = False
    if registers.mode == "twin":
        above = compare(hi * 2**s1 - half1)
        if registers.bias == 0:
            in_r1 = not above
        elif not (early and above):
            in_r1 = compare(lo * 2**s1 - half1) and not above
    code = 0
    if in_r1:
        for step in range(registers.n_r1 - 1, -1, -1):
            if compare((lo + code + 2**step) * 2**s1 - half1):
                code += 2**step
        return 0, code, lo + code, operations
    for step in range(registers.n_r2 - 1, -1, -1):
        if compare((code + 2**step) * 2**s2 - half2):
            code += 2**step
    return 1, code, code * 2**registers.m, operations


def bounded_search(answer, adc_bits: int, registers: AdcRegisters, bound: int):
    """§13 with a comparator `answer(t)` and a bound of the count: (range flag, value, operations)."""
    tree = None
    if registers.mode == "twin" and bound >= 1 << registers.n_r1:
        flag, _, value, operations = search(answer, adc_bits, registers)
        return flag, value, operations
    if registers.mode == "tree" and (bound or registers.column_bound_bits is None):
        fitting = [t for t in registers.trees if len(t) >= bound and registers.column_bound_bits is not None]
        tree = fitting[0] if fitting else registers.trees[-1]
    low, high, node, operations = 0, len(tree) if tree is not None else bound, 0, 0
    while low < high:
        t = tree[node] if tree is not None else (low + high + 1) >> 1
        operations += 1
        if answer(t):
            node += t - low
            low = t
        else:
            node += 1
            high = t - 1
    return int(registers.mode != "twin"), low, operations


def column_bound(ones: int, ou_rows: int, bits, block: list[list[int]]) -> int:
    """u of a column of an OU whose cells, signed weight bits by row and column, are `block`."""
    if bits == "ou":
        return max(sum(row[c] == sign for row in block) for sign in (1, -1) for c in range(len(block[0])))
    return {0: ou_rows, 1: ou_rows if ones else 0, "full": ones}[bits]


def convert(v, adc_bits: int, registers: AdcRegisters, early: bool = False):
    """§4.2: the comparator answers v >= t - 1/2, exactly."""
    return search(lambda t: Fraction(v) >= t - Fraction(1, 2), adc_bits, registers, early)


def dynamic_group(q: list[int], redy: DynamicPrecision) -> tuple[int, int, list[int]]:
    """§6 for one group of valid rows: (hi, lo, q' << lo)."""
    if max(q) == 0:
        return -1, 0, [0] * len(q)
    n, hi = len(q), max(q).bit_length() - 1
    spread = n * sum(x * x for x in q) - sum(q) ** 2
    lo = 0
    for low in range(1, min(redy.l_max, hi) + 1):
        if (n * n) << (2 * low + 12) <= redy.tau_sq * spread:
            lo = low
    half = (1 << lo) >> 1
    return hi, lo, [min((x + half) >> lo, 2 ** (hi - lo + 1) - 1) << lo for x in q]


def window(
    q: list[int],
    weights: list[list[int]],
    hardware: HardwareConfig,
    registers,
    widths,
    redy: DynamicPrecision | None,
    skip_zero_slices: bool,
    min_count: list[int],
    bits: int,
) -> tuple[list[int], dict[str, int]]:
    """One window through one layer, OU by OU: (sums, counters)."""
    k, n = len(q), len(weights[0])
    segments, block_cols = -(-k // hardware.ou_rows), -(-n // hardware.ou_cols)
    low, high = [0] * segments, [bits - 1] * segments
    if redy is not None:
        q = list(q)
        rows = hardware.ou_rows * hardware.segments_per_group
        for start in range(0, k, rows):
            hi, lo, q[start : start + rows] = dynamic_group(q[start : start + rows], redy)
            for segment in range(start // hardware.ou_rows, min(segments, (start + rows) // hardware.ou_rows)):
                low[segment], high[segment] = lo, hi
    sums = [0] * n
    names = "ou_activations skipped_planes skipped_bits skipped_zero_slices conversions_r1 conversions_r2 ad_operations"
    count = dict.fromkeys([*names.split(), "input_bits_streamed"], 0)
    cycles = k + timing.c_group(hardware) * -(-segments // hardware.segments_per_group) + block_cols
    for r in range(segments):
        row_range = range(r * hardware.ou_rows, min(k, (r + 1) * hardware.ou_rows))
        streamed = high[r] - low[r] + 1
        count["input_bits_streamed"] += streamed
        zero = [all(not q[x] >> i & 1 for x in row_range) for i in range(low[r], high[r] + 1)]
        for w in range(block_cols):
            p = int(widths[r][w])
            count["skipped_planes"] += (hardware.weight_bits - p) * hardware.input_bits
            count["skipped_bits"] += p * (hardware.input_bits - streamed)
            count["skipped_zero_slices"] += p * sum(zero) if skip_zero_slices else 0
        busy = 0
        for i in range(low[r], high[r] + 1):
            if skip_zero_slices and zero[i - low[r]]:
                continue
            for w in range(block_cols):
                for b in range(int(widths[r][w])):
                    count["ou_activations"] += 1
                    slowest = 0
                    mine = range(w * hardware.ou_cols, min(n, (w + 1) * hardware.ou_cols))
                    block = [
                        [(1 if weights[x][c] > 0 else -1) * (abs(weights[x][c]) >> b & 1) for c in mine]
                        for x in row_range
                    ]
                    for column in mine:
                        for sign in (1, -1):
                            cells = [max(0, sign * weights[x][column]) >> b & 1 for x in row_range]
                            inputs = [q[x] >> i & 1 for x in row_range]
                            c = sum(x * y for x, y in zip(inputs, cells, strict=True))
                            if registers.searches:
                                bits_of_u = registers.column_bound_bits or 0
                                u = column_bound(sum(cells), hardware.ou_rows, bits_of_u, block)
                                bound = min(sum(inputs), u)
                                flag, value, operations = bounded_search(
                                    lambda t, c=c: c >= t, hardware.adc_bits, registers, bound
                                )
                            else:
                                flag, _, value, operations = search(
                                    lambda t, c=c: c >= min_count[t - 1], hardware.adc_bits, registers
                                )
                            sums[column] += sign * (value << (i + b))
                            count["conversions_r2" if flag else "conversions_r1"] += 1
                            count["ad_operations"] += operations
                            slowest = max(slowest, operations)
                    busy += max(1, hardware.sample_interval, slowest)
        cycles += busy if r == segments - 1 else max(busy, block_cols)
    return sums, count | {"cycles": cycles + n + timing.c_window(hardware)}


def baseline_events(network: Graph, planes: int | None = None) -> Events:
    """Events of one image on the ISAAC-like machine, leading shape (stages,); planes : of every block, default 7."""
    return uniform_events(network, baseline_planes(network.hardware) if planes is None else planes)


def decoupled_cycles(layer: Layer, hardware: HardwareConfig, activations: np.ndarray) -> np.ndarray:
    """Clocks of a layer with decoupled lanes, with c_layer: int64 (B,) for its input, uint8 (B, C, H, W)."""
    rows = windows(layer, activations).reshape(-1, layer.k)
    spent = spend(prepare_layer(layer, hardware), rows).decoupled
    clocks = timing.window_cycles(hardware, layer.k, layer.outputs, spent)
    return clocks.reshape(len(activations), -1).sum(axis=1) + timing.c_layer(hardware)
