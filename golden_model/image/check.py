"""Which descriptors the hardware accepts (system.md §5a): the rules of `rtl.descriptor_check`, said once more.

Every address that an accepted step forms lies inside the activation memory and the tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.image.places import place_layer
from golden_model.registers import MAX_ELEMENT_KERNEL, ErrorCode, StepKind
from golden_model.trq import AdcRegisters

#: Fields that are at least 1 in every step.
_SIZES = (
    *("channels", "height", "width", "in_plane", "kernel_height", "kernel_width", "stride_y", "stride_x"),
    *("out_height", "out_width", "out_plane", "outputs", "pool"),
)


def check_descriptor(config: HardwareConfig, fields: dict[str, int]) -> ErrorCode:
    """What the hardware answers to a descriptor before its step runs.

    fields : a value for every field of `descriptor_fields`, within its width. Fields that a step does not use do not
        count: those of the residual without `residual`, `pad_base` without `pad_enable`, `pad_value` with it, `target`
        with `last`, those of the crossbars, of their tables and of the A/D converter in an element step.

    Returns the first of: UNSUPPORTED for a kind of step that does not exist; LAYER_GEOMETRY for a size, an address or
    a width outside the hardware, or sizes that contradict each other; ADC_CONFIGURATION for converter registers
    that break a rule of system.md §4.1; NONE.
    """
    if fields["step"] not in list(StepKind):
        return ErrorCode.UNSUPPORTED
    crossbar = fields["step"] == StepKind.CROSSBAR
    rules = _common(config, fields) + (_crossbar(config, fields) if crossbar else _element(fields))
    if fields["residual"]:
        rules += _residual(config, fields)
    if not all(rules):
        return ErrorCode.LAYER_GEOMETRY
    if crossbar and not _adc_is_legal(config, fields):
        return ErrorCode.ADC_CONFIGURATION
    return ErrorCode.NONE


def check_placement(config: HardwareConfig, fields: dict[str, int], widths: Sequence[int] | np.ndarray) -> ErrorCode:
    """What the hardware answers while an accepted step runs: LAYER_GEOMETRY if a plane lies beyond the last pair.

    widths : the width table, bit planes per block, from entry 0 of the tile. An entry above `weight_bits` is
        LAYER_GEOMETRY here; in the hardware there is none, because the bus refuses to write it.

    Element steps use no crossbar: NONE.
    """
    if fields["step"] != StepKind.CROSSBAR:
        return ErrorCode.NONE
    shape = fields["segments"], fields["block_cols"]
    first = fields["width_base"]
    blocks = np.asarray(widths, dtype=np.int64)[first : first + shape[0] * shape[1]].reshape(shape)
    if blocks.max() > config.weight_bits:
        return ErrorCode.LAYER_GEOMETRY
    placed = place_layer(blocks, config, crossbar_base=fields["crossbar_base"])
    beyond = placed.crossbar_base + placed.pairs > config.crossbar_pairs
    return ErrorCode.LAYER_GEOMETRY if beyond else ErrorCode.NONE


def _common(config: HardwareConfig, f: dict[str, int]) -> list[bool]:
    """Rules of every step."""
    written = f["outputs"] * f["out_plane"]
    border = f["channels"] if f["step"] == StepKind.CROSSBAR else f["outputs"]
    return [
        *(f[name] >= 1 for name in _SIZES),
        1 <= f["stream_bits"] <= config.input_bits,
        1 <= f["out_bits"] <= config.input_bits,
        f.get("out_ones", 0) <= config.input_bits,
        f.get("lookup", 0) <= config.activation_tables,
        not f.get("stop_bits", 0) or not (f["last"] or f["residual"]),
        f["height"] * f["width"] == f["in_plane"],
        f["source"] + f["channels"] * f["in_plane"] <= config.activation_bytes,
        f["out_height"] * f["out_width"] == f["out_plane"],
        written <= config.max_n if f["last"] else f["target"] + written <= config.activation_bytes,
        not f["last"] or (not f["residual"] and f["pool"] == 1),
        f["pad_base"] + border <= config.pad_entries if f["pad_enable"] else f["pad_value"] < 1 << config.input_bits,
    ]


def _crossbar(config: HardwareConfig, f: dict[str, int]) -> list[bool]:
    """Rules of a crossbar step: a matrix of K x N on OUs of ou_rows x ou_cols."""
    k = f["channels"] * f["kernel_height"] * f["kernel_width"]
    return [
        f["outputs"] <= config.max_n,
        k <= config.max_k,
        f["segments"] >= 1,
        f["block_cols"] >= 1,
        1 <= f["last_rows"] <= config.ou_rows,
        1 <= f["last_cols"] <= config.ou_cols,
        k == (f["segments"] - 1) * config.ou_rows + f["last_rows"],
        f["outputs"] == (f["block_cols"] - 1) * config.ou_cols + f["last_cols"],
        f["width_base"] + f["segments"] * f["block_cols"] <= config.width_entries,
        f["channel_base"] + f["outputs"] <= config.channel_entries,
        f["crossbar_base"] <= config.crossbar_pairs,  # a step without planes may lie behind the last pair
        f["first_channel"] == 0,
        not f["last"] or f["out_plane"] == 1,
    ]


def _element(f: dict[str, int]) -> list[bool]:
    """Rules of a step without crossbars."""
    return [f["pool"] == 1, f["kernel_height"] * f["kernel_width"] <= MAX_ELEMENT_KERNEL]


def _residual(config: HardwareConfig, f: dict[str, int]) -> list[bool]:
    """Rules of the second input: its planes lie in the memory, its last position inside a plane."""
    reach = (f["out_height"] - 1) * f["residual_row"] + (f["out_width"] - 1) * f["residual_column"]
    return [
        f["pool"] == 1,
        f["residual_channels"] >= 1,
        f["residual_base"] + f["residual_channels"] * f["residual_plane"] <= config.activation_bytes,
        reach < f["residual_plane"],
    ]


def _adc_is_legal(config: HardwareConfig, f: dict[str, int]) -> bool:
    try:
        AdcRegisters.of_descriptor(f).check_on(config)
    except ValueError:
        return False
    return True
