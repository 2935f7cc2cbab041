"""What a step of a program must do, byte by byte: a slow scalar reference written from system.md §5a.

Independent of golden_model's planner and interpreter and of the RTL. A step is the dictionary of its descriptor fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from golden_model.config import HardwareConfig
from golden_model.registers import StepKind, descriptor_fields
from golden_model.rounding import round_half_up_shift


def step(hardware: HardwareConfig, **values: int) -> dict[str, int]:
    """All descriptor fields of a step: neutral values, sizes that follow from others, then `values`."""
    fields = dict.fromkeys((field.name for field in descriptor_fields(hardware)), 0)
    fields |= {"stride_y": 1, "stride_x": 1, "pool": 1, "channels": 1, "height": 1, "width": 1, "outputs": 1}
    fields |= {"stream_bits": hardware.input_bits, "out_bits": hardware.input_bits, "kernel_height": 1}
    fields |= {"kernel_width": 1, "out_height": 1, "out_width": 1, "multiplier": 1, "residual_channels": 1}
    fields |= values
    fields |= {
        "in_plane": fields["height"] * fields["width"],
        "out_plane": fields["out_height"] * fields["out_width"],
    }
    if fields["step"] == StepKind.CROSSBAR:
        k = fields["channels"] * fields["kernel_height"] * fields["kernel_width"]
        segments, block_cols = -(-k // hardware.ou_rows), -(-fields["outputs"] // hardware.ou_cols)
        fields |= {
            "segments": segments,
            "last_rows": k - (segments - 1) * hardware.ou_rows,
            "block_cols": block_cols,
            "last_cols": fields["outputs"] - (block_cols - 1) * hardware.ou_cols,
            "n_r2": hardware.converter_bits,
        }
    assert not (fields["residual"] and fields["pool"] != 1)
    return fields | values


def is_element(fields: dict[str, int]) -> bool:
    return fields["step"] != StepKind.CROSSBAR


def origins(fields: dict[str, int]) -> Iterator[tuple[int, int, int, int]]:
    """Per window: output position (oy, ox) and place inside the pooling window (py, px)."""
    for oy in range(fields["out_height"]):
        for ox in range(fields["out_width"]):
            for py in range(fields["pool"]):
                for px in range(fields["pool"]):
                    yield oy, ox, py, px


def rounds(fields: dict[str, int], macros: int) -> list[list[int]]:
    """Windows, by their place in `origins`, that the macros have at the same time."""
    inside = fields["pool"] ** 2
    near = fields["pool"] * fields["stride_x"] <= 4 and not (fields["residual"] and fields["residual_column"] > 4)
    together = macros if near and not fields["last"] else 1
    found = []
    for oy in range(fields["out_height"]):
        for ox in range(0, fields["out_width"], together):
            outputs = range(ox, min(ox + together, fields["out_width"]))
            found += [[(oy * fields["out_width"] + o) * inside + i for o in outputs] for i in range(inside)]
    return found


def kernel(fields: dict[str, int], memory: Sequence[int], pads: Sequence[int], n: int, y0: int, x0: int) -> list[int]:
    """Values of channel n of the window whose first row and column are y0, x0."""
    border = pads[fields["pad_base"] + n] if fields["pad_enable"] else fields["pad_value"]
    c = n - fields["first_channel"]
    values = []
    for y in range(y0, y0 + fields["kernel_height"]):
        for x in range(x0, x0 + fields["kernel_width"]):
            inside = 0 <= c < fields["channels"] and 0 <= y < fields["height"] and 0 <= x < fields["width"]
            at = fields["source"] + c * fields["in_plane"] + y * fields["width"] + x
            values.append(int(memory[at]) if inside else int(border))
    return values


def windows(fields: dict[str, int], memory: Sequence[int], pads: Sequence[int]) -> list[list[list[int]]]:
    """Per window, per channel that is walked, the values of its kernel."""
    channels = fields["outputs"] if is_element(fields) else fields["channels"]
    result = []
    for oy, ox, py, px in origins(fields):
        y0 = (oy * fields["pool"] + py) * fields["stride_y"] - fields["pad_top"]
        x0 = (ox * fields["pool"] + px) * fields["stride_x"] - fields["pad_left"]
        result.append([kernel(fields, memory, pads, n, y0, x0) for n in range(channels)])
    return result


def residual_address(fields: dict[str, int], n: int, oy: int, ox: int) -> int | None:
    """Where the residual of output channel n lies; None if it has none."""
    m = n - fields["residual_first"]
    if not fields["residual"] or not 0 <= m < fields["residual_channels"]:
        return None
    position = oy * fields["residual_row"] + ox * fields["residual_column"]
    return fields["residual_base"] + m * fields["residual_plane"] + position


def residual(fields: dict[str, int], memory: Sequence[int], n: int, oy: int, ox: int) -> int:
    address = residual_address(fields, n, oy, ox)
    if address is not None:
        return int(memory[address])
    return fields["residual_value"] if fields["residual"] else 0


def offset(fields: dict[str, int]) -> int:
    """The signed 48-bit offset."""
    value = fields["offset_high"] << 32 | fields["offset_low"]
    return value - (value >> 47 << 48)


def with_offset(value: int) -> dict[str, int]:
    """Descriptor fields of an offset."""
    return {"offset_low": value & 0xFFFFFFFF, "offset_high": value >> 32 & 0xFFFF}


def activation(
    fields: dict[str, int], value: int, multiplier: int, r: int, tables: Sequence[Sequence[int]] = ()
) -> int:
    """The output byte of a value (acc, or acc + bias); tables : of activation functions."""
    total = value * multiplier + r * fields["residual_multiplier"] + offset(fields)
    clamped = min(max(round_half_up_shift(total, fields["shift"]), 0), (1 << fields["out_bits"]) - 1)
    levels = [level for level in range(1 << fields["out_bits"]) if level.bit_count() <= (fields.get("out_ones") or 8)]
    code = min(levels, key=lambda level: (abs(level - clamped), -level))
    return int(tables[fields["lookup"] - 1][code]) if fields.get("lookup") else code


def logit(value: int) -> tuple[int, bool]:
    """A logit as stored, and whether it did not fit."""
    stored = min(max(value, -(1 << 31)), (1 << 31) - 1)
    return stored, stored != value


def reduce(fields: dict[str, int], values: Sequence[int]) -> int:
    return max(values) if fields["step"] == StepKind.MAXIMUM else sum(values)


def low_offset(fields: dict[str, int]) -> int:
    """The offset of an element step's logits."""
    value = fields["offset_low"]
    return value - (value >> 31 << 32)
