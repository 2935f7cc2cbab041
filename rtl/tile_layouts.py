"""Records that the tile's own blocks exchange, beside those of `rtl.layouts`, sized by one `HardwareConfig`."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Shape, Value, signed, unsigned
from amaranth.lib import data

from golden_model.config import REACH, HardwareConfig
from golden_model.registers import ADDRESS_BITS, REGISTER
from rtl import layouts

#: Bits of an activation in memory: one byte each, whatever `input_bits` is (system.md §5a).
BYTE = 8
#: Bits of a bias, of a logit and of a bus word.
WORD = 32
#: Bits of a requantisation multiplier (system.md §3).
MULTIPLIER_BITS = 16


# ---- data path ----------------------------------------------------------------------------------
def of_macros(shape: Any) -> Any:
    """One `shape`, or what it is for a configuration, per macro."""

    def layout(config: HardwareConfig) -> data.ArrayLayout:
        return data.ArrayLayout(shape(config) if callable(shape) else shape, config.macros)

    return layout


def activation_write(config: HardwareConfig) -> data.StructLayout:
    """Write port of the activation memory: neighbours from `address` on, those whose bit of `enable` is set."""
    return data.StructLayout(
        {
            "enable": unsigned(config.macros),
            "address": layouts.activation_address(config),
            "data": data.ArrayLayout(unsigned(BYTE), config.macros),
        }
    )


#: Write port of the results of the last step.
logit_write = layouts.table_write(layouts.logit_index, signed(WORD))
#: Write port of program memory.
program_write = layouts.table_write(layouts.program_address, unsigned(WORD))
#: Write port of the bias of every channel.
bias_write = layouts.table_write(layouts.channel_entry, signed(WORD))
#: Write port of the requantisation multiplier of every channel.
multiplier_write = layouts.table_write(layouts.channel_entry, unsigned(MULTIPLIER_BITS))
#: Write port of the pad byte of every channel.
pad_write = layouts.table_write(layouts.pad_entry, unsigned(BYTE))


def activation(config: HardwareConfig) -> Shape:
    """An activation, or the code that stands for one in a table."""
    return unsigned(config.input_bits)


def lookup_write(config: HardwareConfig) -> data.StructLayout:
    """Write port of the tables of activation functions."""
    return layouts.table_write(layouts.lookup_entry, activation(config))(config)


def element_bits(config: HardwareConfig) -> int:
    """Bits of the reduced value of an element step: the sum of 65535 activations, the largest kernel."""
    return config.input_bits + 16


def raw_value(config: HardwareConfig) -> Shape:
    """What is requantised: a partial sum, or the reduced value of an element step."""
    return signed(max(config.accumulator_bits, element_bits(config) + 1))


def window_bytes(config: HardwareConfig) -> data.StructLayout:
    """The next activations of a window: channel outermost, then kernel row, kernel column.

    There is no ready: the consumer takes them in their clock. used : which of `values` there are, the first ones or
    none; they lie in one row of a kernel and in one segment, and in an element step there is one. `channel_last` ends
    a channel: with the last byte of its kernel, or without a byte, in the clock in which its residual is on the way.
    `last` ends the window, with `channel_last` of the last channel.
    """
    return data.StructLayout(
        {
            "used": unsigned(config.values_together),
            "values": data.ArrayLayout(unsigned(config.input_bits), config.values_together),
            "channel_last": unsigned(1),
            "last": unsigned(1),
        }
    )


def reduced_channel(config: HardwareConfig) -> data.StructLayout:
    """One output channel of an element step: its kernel's maximum or sum, its residual; `last` of the window."""
    return data.StructLayout(
        {
            "valid": unsigned(1),
            "value": unsigned(element_bits(config)),
            "residual": unsigned(BYTE),
            "last": unsigned(1),
        }
    )


def window_place(config: HardwareConfig) -> data.StructLayout:
    """Where the windows of a round lie in their step; stable from the round's start until the next one's.

    pool_first, pool_last : first and last window of a pooling window. last : last round of the step. active : which
    macros have a window, the first ones.
    """
    return data.StructLayout(
        {"pool_first": unsigned(1), "pool_last": unsigned(1), "last": unsigned(1), "active": unsigned(config.macros)}
    )


def abreast(settings: Any, config: HardwareConfig) -> Value:
    """Whether a step's rounds have a window for every macro: `golden_model.timing.abreast`."""
    if config.macros == 1:
        return Const(0)
    near = [(settings.pool == pool) & (settings.stride_x <= REACH // pool) for pool in range(1, REACH + 1)]
    residual_near = ~settings.residual | (settings.residual_column <= REACH)
    return Cat(near).any() & residual_near & ~settings.last


def distances(config: HardwareConfig) -> int:
    """Distances, from 0 on, at which the windows of a round may follow each other."""
    return REACH + 1 if config.macros > 1 else 1


def group_precision(config: HardwareConfig) -> data.StructLayout:
    """Dynamic precision of one group (system.md §6).

    mask : bit i set = position i is streamed (lo..hi). half : half of 2**lo, what rounding adds (0 if lo = 0).
    """
    return data.StructLayout({"mask": unsigned(config.input_bits), "half": unsigned(config.input_bits)})


def group_answer(config: HardwareConfig) -> data.StructLayout:
    """The precision of one group, when it is decided; no ready."""
    return data.StructLayout({"valid": unsigned(1), "value": group_precision(config)})


def beat() -> data.StructLayout:
    """What the pair machine does side by side, each with another window.

    loads, converts, drains : load, form and sample, post-process. begun : what it drains has begun to be. done : a
    window is done whose drain has not begun.
    """
    return data.StructLayout({name: unsigned(1) for name in ("loads", "converts", "drains", "begun", "done")})


def pair_select(config: HardwareConfig) -> data.StructLayout:
    """With `enable`, cell programming goes on at the start of crossbar pair `pair`."""
    return data.StructLayout({"enable": unsigned(1), "pair": layouts.pair_index(config)})


# ---- bus ----------------------------------------------------------------------------------------
def bus_request() -> data.StructLayout:
    """One access of the host: a write of `data` under byte strobes, or a read; byte address."""
    return data.StructLayout(
        {
            "write": unsigned(1),
            "address": unsigned(ADDRESS_BITS),
            "data": unsigned(WORD),
            "strobe": unsigned(WORD // 8),
        }
    )


def bus_response() -> data.StructLayout:
    """Answer to one access; `error` = SLVERR, and nothing was done."""
    return data.StructLayout({"data": unsigned(WORD), "error": unsigned(1)})


def load_word() -> data.StructLayout:
    """A word of the load stream; `last` ends a packet."""
    return data.StructLayout({"data": unsigned(WORD), "last": unsigned(1)})


def load_write() -> data.StructLayout:
    """A write of the load stream; byte address."""
    return data.StructLayout({"address": unsigned(ADDRESS_BITS), "data": unsigned(WORD)})


def checked_write() -> data.StructLayout:
    """A word that reaches a table, in the two words that its checksum covers."""
    return data.StructLayout({"enable": unsigned(1), "address": unsigned(WORD), "data": unsigned(WORD)})


def control() -> data.StructLayout:
    """Command strobes, the fields of register CONTROL."""
    return register_fields("CONTROL")


def status() -> data.StructLayout:
    """State of the tile, the fields of register STATUS."""
    return register_fields("STATUS")


def ends() -> data.StructLayout:
    """What raises an interrupt, the fields of register IRQ_STATUS."""
    return register_fields("IRQ_STATUS")


def test_request() -> data.StructLayout:
    """With `enable`, a write of register TEST_SAMPLE."""
    return data.StructLayout({"enable": unsigned(1), **register_fields("TEST_SAMPLE").members})


def test_lines() -> data.StructLayout:
    """With `enable`, a write of register TEST_LINES."""
    return data.StructLayout({"enable": unsigned(1), **register_fields("TEST_LINES").members})


def register_fields(name: str) -> data.StructLayout:
    """The fields of a register of `golden_model.registers` as a layout."""
    return data.StructLayout({field.name: unsigned(field.bits) for field in REGISTER[name].fields})


# ---- trace --------------------------------------------------------------------------------------
def tile_trace(config: HardwareConfig) -> data.StructLayout:
    """The macro's trace record and where in the network it belongs."""
    members = dict(layouts.trace(config).members)
    return data.StructLayout({**members, "layer": layouts.layer_index(config), "window": layouts.window_index(config)})
