"""What a macro must do with one window, step by step: a slow scalar reference written from system.md.

Independent of golden_model's vectorised code and of the RTL; tests compare both with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.trq import AdcRegisters


def convert(level: int, adc_bits: int, registers: AdcRegisters) -> tuple[int, int, int, int]:
    """(range flag, code, value, operations) of one sample, by doing every comparison (system.md §4.3)."""
    s2 = adc_bits - registers.n_r2
    s1 = s2 - registers.m
    operations = 0

    def compare(steps: int, shift: int) -> bool:
        nonlocal operations
        operations += 1
        threshold = steps * 2**shift - 2**shift // 2
        assert 1 <= threshold < 2**adc_bits, f"{registers}: threshold {threshold} outside the range"
        return level >= threshold

    def search(origin: int, steps: int, shift: int) -> int:
        code = 0
        for bit in range(steps - 1, -1, -1):
            if compare(origin + code + 2**bit, shift):
                code += 2**bit
        return code

    if registers.mode == "twin":
        low = registers.bias * 2**registers.n_r1
        above = compare(low + 2**registers.n_r1, s1)
        below = registers.bias != 0 and not compare(low, s1)
        if not above and not below:
            code = search(low, registers.n_r1, s1)
            return 0, code, low + code, operations
    code = search(0, registers.n_r2, s2)
    return 1, code, code * 2**registers.m, operations


@dataclass
class Window:
    """One window as the macro must compute it.

    records : one dictionary per OU activation, as the macro's trace. sums : (N,). counters : all but cycles.
    clocks : from window_start to window_done without the macro's constant.
    """

    records: list[dict] = field(default_factory=list)
    sums: np.ndarray | None = None
    counters: dict[str, int] = field(default_factory=dict)
    clocks: int = 0


def window(
    hardware: HardwareConfig,
    registers: AdcRegisters,
    weights: np.ndarray,
    widths: np.ndarray,
    activations: np.ndarray,
    masks: list[int],
    *,
    levels: list[int],
    skip_zero_slices: bool = False,
    crossbar_base: int = 0,
) -> Window:
    """weights (K, N), widths (segments, block columns), activations (K,) as streamed, one mask per segment;
    levels[c] is what count c samples to."""
    k_total, n_total = weights.shape
    result = Window(sums=np.zeros(n_total, dtype=object))
    count = dict.fromkeys(
        (
            "ou_activations",
            "skipped_planes",
            "skipped_bits",
            "skipped_zero_slices",
            "conversions_r1",
            "conversions_r2",
            "ad_operations",
            "input_bits_streamed",
        ),
        0,
    )
    segments, block_cols = widths.shape
    result.clocks = block_cols
    linear_row = crossbar_base * hardware.grid_rows
    for segment in range(segments):
        rows = [k for k in range(segment * hardware.ou_rows, (segment + 1) * hardware.ou_rows) if k < k_total]
        places = {}
        for block_col in range(block_cols):
            for plane in range(widths[segment, block_col]):
                row, ou_col = divmod(len(places), hardware.grid_cols)
                pair, ou_row = divmod(linear_row + row, hardware.grid_rows)
                places[block_col, plane] = (pair, ou_row, ou_col)
        linear_row += -(-len(places) // hardware.grid_cols)
        segment_clocks = 0
        for i in range(hardware.input_bits):
            streamed = masks[segment] >> i & 1
            zero = not any(int(activations[k]) >> i & 1 for k in rows)
            count["input_bits_streamed"] += streamed
            for block_col in range(block_cols):
                p = int(widths[segment, block_col])
                count["skipped_planes"] += hardware.weight_bits - p
                if not streamed:
                    count["skipped_bits"] += p
                elif zero and skip_zero_slices:
                    count["skipped_zero_slices"] += p
                else:
                    for plane in range(p):
                        segment_clocks += _activate(
                            hardware, registers, weights, activations, levels, rows, segment, i, block_col, plane,
                            places[block_col, plane], result, count,
                        )  # fmt: skip
        result.clocks += max(segment_clocks, block_cols) if segment < segments - 1 else segment_clocks
    result.counters = count
    return result


def _activate(
    hardware, registers, weights, activations, levels, rows, segment, i, block_col, plane, place, result, count
) -> int:
    """One OU activation; returns its clocks."""
    lanes = hardware.lanes
    record = {
        "segment": segment,
        "input_bit": i,
        "block_col": block_col,
        "plane": plane,
        "pair": place[0],
        "ou_row": place[1],
        "ou_col": place[2],
        "started": 0,
        "range_flags": 0,
        "codes": [0] * lanes,
    }
    longest = max(1, hardware.sample_interval)
    count["ou_activations"] += 1
    for polarity, sign in ((0, 1), (1, -1)):
        for column in range(hardware.ou_cols):
            n = block_col * hardware.ou_cols + column
            if n >= weights.shape[1]:
                continue
            magnitudes = [max(0, sign * int(weights[k, n])) for k in rows]
            bits = zip(rows, magnitudes, strict=True)
            ones = sum((int(activations[k]) >> i & 1) & (w >> plane & 1) for k, w in bits)
            flag, code, value, operations = convert(levels[ones], hardware.adc_bits, registers)
            lane = polarity * hardware.ou_cols + column
            record["started"] |= 1 << lane
            record["range_flags"] |= flag << lane
            record["codes"][lane] = code
            count["conversions_r2" if flag else "conversions_r1"] += 1
            count["ad_operations"] += operations
            result.sums[n] += sign * (value << (i + plane))
            longest = max(longest, operations)
    result.records.append(record)
    return longest
