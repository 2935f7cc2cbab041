"""Every record that blocks of the RTL exchange, as data layouts sized by one `HardwareConfig`.

Layouts are functions of the configuration, never stored; field names are part of the contract between
blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amaranth.hdl import Shape, Value, signed, unsigned
from amaranth.lib import data

from golden_model.config import HardwareConfig, bits_for
from golden_model.registers import (
    COUNTER_BITS,
    COUNTERS_PER_LAYER,
    DESCRIPTOR_STRIDE,
    WIDTH_BITS,
    StepKind,
    counters_of,
    descriptor_fields,
    region_entries,
)

#: A shape or a layout for every configuration.
Sized = Callable[[HardwareConfig], Any]


def layer_settings(config: HardwareConfig) -> data.StructLayout:
    """All fields of the descriptor of a step, in the order of `descriptor_fields` (system.md §5a)."""
    return data.StructLayout({field.name: unsigned(field.bits) for field in descriptor_fields(config)})


def is_element(settings: data.View) -> Value:
    """1 if `settings` describe an element step, a step without crossbars."""
    return settings.step != StepKind.CROSSBAR


def looks_up(config: HardwareConfig) -> bool:
    """Whether the hardware has tables of activation functions."""
    return config.looks_up


def early_stop(config: HardwareConfig) -> bool:
    """Whether lanes stop converting outputs that are certainly 0."""
    return bool(config.early_stop)


# ---- indices and addresses ----------------------------------------------------------------------
def _index_of(count: Callable[[HardwareConfig], int]) -> Sized:
    """Index of one of `count(config)` things."""
    return lambda config: unsigned(bits_for(count(config) - 1))


def activation_words(config: HardwareConfig) -> int:
    """32-bit words of the activation memory."""
    return region_entries(config)["ACTIVATIONS"]


#: A step.
layer_index = _index_of(lambda config: config.max_layers)
#: A window inside its step, for traces.
window_index = _index_of(lambda config: 1 << 32)
#: A segment of a window.
segment_index = _index_of(lambda config: config.max_segments)
#: A bit of an activation.
input_bit = _index_of(lambda config: config.input_bits)
#: A block column; also the address of a word of partial sums.
block_column = _index_of(lambda config: config.max_block_cols)
#: A column of an OU.
column = _index_of(lambda config: config.ou_cols)
#: A bit plane of a block.
plane = _index_of(lambda config: config.weight_bits)
#: A crossbar pair.
pair_index = _index_of(lambda config: config.crossbar_pairs)
#: A logit, or an output channel of a crossbar step.
logit_index = _index_of(lambda config: config.max_n)
#: An entry of the width table.
width_address = _index_of(lambda config: config.width_entries)
#: An entry of the bias and multiplier tables.
channel_entry = _index_of(lambda config: config.channel_entries)
#: An entry of the pad table.
pad_entry = _index_of(lambda config: config.pad_entries)
#: An entry of the tables of activation functions: (table - 1) * 2**input_bits + code.
lookup_entry = _index_of(lambda config: region_entries(config)["LOOKUPS"])
#: A byte of the activation memory.
activation_address = _index_of(lambda config: config.activation_bytes)
#: A word of four bytes of the activation memory.
activation_word = _index_of(activation_words)
#: A word of program memory: step * DESCRIPTOR_STRIDE + word.
program_address = _index_of(lambda config: config.max_layers * DESCRIPTOR_STRIDE)
#: A counter of the event memory: step * COUNTERS_PER_LAYER + counter.
event_address = _index_of(lambda config: config.max_layers * COUNTERS_PER_LAYER)


# ---- numbers ------------------------------------------------------------------------------------
def block_count(config: HardwareConfig) -> Shape:
    """Number W of block columns of a step, as in its descriptor."""
    return layer_settings(config)["block_cols"].shape


def plane_count(config: HardwareConfig) -> Shape:
    """Bit planes of all blocks of a segment."""
    return unsigned(bits_for(config.max_block_cols * config.weight_bits))


def bit_position(config: HardwareConfig) -> Shape:
    """Significance i + b of input bit i and weight plane b together."""
    return unsigned(bits_for(config.input_bits + config.weight_bits - 2))


def lanes(config: HardwareConfig) -> Shape:
    """A bit per A/D lane; lane = polarity * ou_cols + column."""
    return unsigned(config.lanes)


def code(config: HardwareConfig) -> Shape:
    """A code, a value or a threshold of a conversion, 0..2**R - 1 with R = adc_bits."""
    return unsigned(config.adc_bits)


def code_shift(config: HardwareConfig) -> Shape:
    """Register m: codes of R2 are shifted left by it, 0..R - 1."""
    return unsigned(bits_for(config.adc_bits - 1))


def accumulator(config: HardwareConfig) -> Shape:
    """A partial sum, in units of Delta_R1."""
    return signed(config.accumulator_bits)


def cells(config: HardwareConfig) -> Shape:
    """The cells of one OU of a pair; bit index = lane * ou_rows + row."""
    return unsigned(config.ou_cells)


# ---- records ------------------------------------------------------------------------------------
def ou_address(config: HardwareConfig) -> data.StructLayout:
    """Place of an OU: crossbar pair, OU row and OU column inside the crossbar."""
    return data.StructLayout(
        {
            "pair": pair_index(config),
            "ou_row": unsigned(bits_for(config.grid_rows - 1)),
            "ou_col": unsigned(bits_for(config.grid_cols - 1)),
        }
    )


def readback_address(config: HardwareConfig) -> data.StructLayout:
    """Place of an OU that is read back; where there are several macros, in which of them."""
    macro = {"macro": unsigned(bits_for(config.macros - 1))} if config.macros > 1 else {}
    return data.StructLayout({**ou_address(config).members, **macro})


def sample(config: HardwareConfig) -> data.StructLayout:
    """A sample request: which OU, and the input slice on its word lines (bit r drives row r)."""
    return data.StructLayout({**ou_address(config).members, "slice": unsigned(config.ou_rows)})


def cell_write(config: HardwareConfig) -> data.StructLayout:
    """Cells of one OU of a pair to be programmed."""
    return data.StructLayout({**ou_address(config).members, "cells": cells(config)})


def reference_write(config: HardwareConfig) -> data.StructLayout:
    """One entry of the emulated reference: count c of layer `layer` reads as `level` (system.md §4.4)."""
    return data.StructLayout(
        {
            "enable": unsigned(1),
            "layer": layer_index(config),
            "count": unsigned(bits_for(config.ou_rows)),
            "level": code(config),
        }
    )


def thresholds(config: HardwareConfig) -> data.ArrayLayout:
    """One DAC code per lane, 1..2**adc_bits - 1 while the lane converts."""
    return data.ArrayLayout(code(config), config.lanes)


def segment(config: HardwareConfig) -> data.StructLayout:
    """Input of one segment of a window.

    slices[i] : bit i of the (already rounded and shifted back, system.md §6) activation of every row;
        rows >= K are 0.
    mask : bit i set = position i is streamed, before zero slices are skipped.
    """
    return data.StructLayout(
        {
            "slices": data.ArrayLayout(unsigned(config.ou_rows), config.input_bits),
            "mask": unsigned(config.input_bits),
        }
    )


def counters(config: HardwareConfig) -> data.StructLayout:
    """Event counters of the machine but `cycles` (system.md §10)."""
    return data.StructLayout({name: unsigned(COUNTER_BITS) for name in counters_of(config) if name != "cycles"})


def scheduled_ou(config: HardwareConfig) -> data.StructLayout:
    """Everything that identifies one OU activation of a window, in system.md §5's order of activations."""
    return data.StructLayout(
        {
            "segment": segment_index(config),
            "input_bit": input_bit(config),
            "block_col": block_column(config),
            "plane": plane(config),
            **ou_address(config).members,
            "started": lanes(config),
        }
    )


def trace(config: HardwareConfig) -> data.StructLayout:
    """One record per OU activation, strobed by `valid` when all its codes are complete.

    started : bit per lane, 1 = the lane converted (its column is < N).
    range_flags : bit per lane, 0 = R1, 1 = R2. codes : code of every lane. Both mean nothing where
        `started` is 0.
    """
    return data.StructLayout(
        {
            "valid": unsigned(1),
            **scheduled_ou(config).members,
            "range_flags": lanes(config),
            "codes": data.ArrayLayout(code(config), config.lanes),
        }
    )


def table_write(
    address: Callable[[HardwareConfig], Shape], entry: Shape
) -> Callable[[HardwareConfig], data.StructLayout]:
    """Write port of a table: with `enable`, entry `address` becomes `data`; no handshake."""
    return lambda config: data.StructLayout({"enable": unsigned(1), "address": address(config), "data": entry})


#: What the sum of an output that may stop early counts from, -(limit + P+ + 1).
STOP_START = signed(32)


def stop_bound(config: HardwareConfig) -> Shape:
    """P+: sum of the positive weights of an output."""
    return unsigned(bits_for(config.max_k * ((1 << config.weight_bits) - 1)))


def bound_write(config: HardwareConfig) -> data.StructLayout:
    """Write port of the table of P+."""
    return table_write(channel_entry, stop_bound(config))(config)


#: Write port of the table of what sums count from.
start_write = table_write(channel_entry, STOP_START)

#: Write port of the width table.
width_write = table_write(width_address, unsigned(WIDTH_BITS))


def partial_sums(config: HardwareConfig) -> data.ArrayLayout:
    """A word of partial sums: one signed accumulator per column of a block column, in units of Delta_R1."""
    return data.ArrayLayout(accumulator(config), config.ou_cols)


def adc_registers(config: HardwareConfig) -> data.StructLayout:
    """The registers of the SAR controllers, widths as in the layer descriptor (system.md §4.1)."""
    widths = {field.name: field.bits for field in descriptor_fields(config)}
    names = {"mode": "adc_mode", "n_r1": "n_r1", "n_r2": "n_r2", "m": "m", "bias": "adc_bias"}
    return data.StructLayout({name: unsigned(widths[field]) for name, field in names.items()})


def search(config: HardwareConfig) -> data.StructLayout:
    """What a SAR lane needs to know about the registers, decoded once for all lanes (system.md §4.3).

    twin : detection before the search. two_detections : bias != 0. r1_is_point : n_r1 = 0.
    first : threshold of the first decision, whatever it is. low : threshold of the second detection.
    r1_first, r2_first : threshold of the first search decision in R1 and R2.
    r1_steps, r2_steps : weights of all search decisions in LSB, down to Delta_R1 and Delta_R2; 0 if R1 is a point.
    window_low : lo = bias << n_r1, in Delta_R1. m : R2 codes are shifted left by m.
    """
    word = code(config)
    return data.StructLayout(
        {
            "twin": unsigned(1),
            "two_detections": unsigned(1),
            "r1_is_point": unsigned(1),
            "first": word,
            "low": word,
            "r1_first": word,
            "r2_first": word,
            "r1_steps": word,
            "r2_steps": word,
            "window_low": word,
            "m": code_shift(config),
        }
    )


def listed_ou(config: HardwareConfig) -> data.StructLayout:
    """An OU that the address generator points at: its block column and plane, and where its cells are."""
    return data.StructLayout(
        {
            "block_col": block_column(config),
            "plane": plane(config),
            **ou_address(config).members,
        }
    )


def segment_events(config: HardwareConfig) -> data.StructLayout:
    """What the counters need to know of a segment when it begins (system.md §10).

    valid : strobe. planes : bit planes of all blocks of the segment. streamed : bit positions streamed,
    zero slices included. zero_slices : streamed positions left out because their slice is all zero.
    """
    return data.StructLayout(
        {
            "valid": unsigned(1),
            "planes": plane_count(config),
            "streamed": unsigned(bits_for(config.input_bits)),
            "zero_slices": unsigned(bits_for(config.input_bits)),
        }
    )
