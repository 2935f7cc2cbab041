"""Ports that blocks share: those of the analog macro (system.md §10), of memories and of the OU lists.

Directions are seen from the block that drives the requests; the other end takes the flipped signature. Of the analog
macro's ports that is the digital part, the macro or the tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from golden_model.registers import COUNTER_BITS
from rtl import layouts
from rtl import pack_layouts as packs
from rtl import tile_layouts as tile
from rtl.pair_interfaces import PairConversionPort, half_names


def _conversion_members(config: HardwareConfig) -> dict:
    return {
        "sample": Out(stream.Signature(layouts.sample(config))),
        "thresholds": Out(layouts.thresholds(config)),
        "compare": Out(layouts.lanes(config)),
        "comparators": In(layouts.lanes(config)),
        **({"decided": In(layouts.lanes(config))} if config.comparator_valid else {}),
        "layer": Out(layouts.layer_index(config)),
    }


class ConversionPort(wiring.Signature):
    """Sampling and A/D conversion; the part of the crossbar's port that the macro drives.

    Members
    -------
    sample : stream of `layouts.sample`. A transfer means "hold now": the conversion that follows runs on
        this sample. In the clock after a transfer the comparators already see the new sample. Valid may
        depend combinationally on `comparators` and `decided`; ready must not depend on valid. The payload is on the
        port before the transfer whenever it is known, so that the array settles while the previous OU
        converts.
    thresholds : registered DAC code per lane. Lanes that do not convert hold any value.
    compare : strobe per lane, from registers: its answer of this clock counts. Other lanes need not compare.
    comparators : bit per lane, 1 = v >= threshold - 1/2 LSB (system.md §4.2). A combinational answer to
        the thresholds of the same clock, captured at the clock's end.
    decided : bit per lane, its answer is one. Where it is 0 with `compare`, the lane stands still and asks the same in
        the next clock, and the sample stays. May come as late in the clock as `comparators`. Only with
        `comparator_valid` of the configuration.
    layer : index of the running layer; selects the reference voltage.
    """

    def __init__(self, config: HardwareConfig):
        super().__init__(_conversion_members(config))


class CrossbarPort(wiring.Signature):
    """The whole port of an analog macro: everything of `ConversionPort` and cell programming.

    Members beside those of `ConversionPort`
    ----------------------------------------
    program : stream of `layouts.cell_write`, writes the cells of one OU of a pair.
    program_failed : with a transfer of `program`, a cell did not take its value; an array that does not verify says 0.
    readback_request : stream of `layouts.readback_address`, asks for the cells of one OU.
    readback : stream of `layouts.cells`, one per request, in order.
    reference_write : emulated reference levels; only digital stand-ins use it, no handshake.
    """

    def __init__(self, config: HardwareConfig):
        super().__init__(
            {
                **_conversion_members(config),
                "program": Out(stream.Signature(layouts.cell_write(config))),
                "program_failed": In(1),
                "readback_request": Out(stream.Signature(layouts.readback_address(config))),
                "readback": In(stream.Signature(layouts.cells(config))),
                "reference_write": Out(layouts.reference_write(config)),
            }
        )


@dataclass(frozen=True)
class PortShape:
    """What the analog port of a machine consists of.

    parts : members that sample and convert on their own, each with `sample`, `thresholds` and `comparators`; "" is the
        port itself. places : samples that a converter holds; of more than one, `places` tells which it compares.
    converters : of each part. sample : payload of a sample request.
    """

    parts: tuple[str, ...]
    places: int
    converters: int
    sample: data.StructLayout


def port_shape(hardware: HardwareConfig) -> PortShape:
    """That of the machine's macros: `ConversionPort`, or `PairConversionPort` for the pair machine."""
    if hardware.pairs:
        return PortShape(
            tuple(half_names(hardware)), hardware.sample_places, hardware.ou_cols, packs.pair_sample(hardware)
        )
    return PortShape(("",), 1, hardware.lanes, layouts.sample(hardware))


def conversion_port(config: HardwareConfig) -> wiring.Signature:
    """The port of the machine's macros that samples and converts."""
    return (PairConversionPort if config.pairs else ConversionPort)(config)


def parts_of(port: Any, config: HardwareConfig) -> list[Any]:
    """What samples and converts on its own: the halves of the pair machine, or the port."""
    return [getattr(port, name) if name else port for name in port_shape(config).parts]


class OuLists(wiring.Signature):
    """The OUs of the current and of the next segment; directions are those of the address generator.

    Members
    -------
    next_ready : the next segment's list is complete. next_empty : it has no plane. next_planes : the sum
        of its p. The latter two hold while `next_ready`.
    switch : strobe, allowed with `next_ready`: the next segment becomes the current one.
    from_next : 0: `ou` points into the current segment; 1: `ou` is the first OU of the next one.
    ou : the OU pointed at. ou_last : it is the last one of its segment's list.
    step : strobe, the pointer moves on from `ou`; after the last one back to the first. With `from_next`
        only together with `switch`.
    """

    def __init__(self, config: HardwareConfig):
        super().__init__(
            {
                "next_ready": Out(1),
                "next_empty": Out(1),
                "next_planes": Out(layouts.plane_count(config)),
                "switch": In(1),
                "from_next": In(1),
                "ou": Out(layouts.listed_ou(config)),
                "ou_last": Out(1),
                "step": In(1),
            }
        )


class ReadPort(wiring.Signature):
    """A read of a memory: the entry at `address` follows on `data` in the clock after `enable`; no handshake."""

    def __init__(self, address: Any, data: Any):
        super().__init__({"enable": Out(1), "address": Out(address), "data": In(data)})


def activation_read(config: HardwareConfig) -> ReadPort:
    """Reads the activations at `address` and behind it, `fetch_bytes` of them; they hold until the next read."""
    return ReadPort(layouts.activation_address(config), data.ArrayLayout(tile.BYTE, config.fetch_bytes))


def logit_read(config: HardwareConfig) -> ReadPort:
    """Reads one logit."""
    return ReadPort(layouts.logit_index(config), tile.WORD)


def event_read(config: HardwareConfig) -> ReadPort:
    """Reads one event counter of one step."""
    return ReadPort(layouts.event_address(config), COUNTER_BITS)


class ActivationBus(wiring.Signature):
    """The host's access to the activation memory, one word of four activations; only while idle.

    Members
    -------
    read : strobe. write : byte strobes. word : which word. data : what to write.
    answer : the word that was read, in the next clock.
    """

    def __init__(self, config: HardwareConfig):
        super().__init__(
            {
                "read": Out(1),
                "write": Out(4),
                "word": Out(layouts.activation_word(config)),
                "data": Out(tile.WORD),
                "answer": In(tile.WORD),
            }
        )


def connect_write(m: Module, table: memory.Memory, write: Any) -> None:
    """Give `table` a write port, driven by a record of `layouts.table_write`."""
    port = table.write_port()
    m.d.comb += [port.en.eq(write.enable), port.addr.eq(write.address), port.data.eq(write.data)]


def connect_read(m: Module, table: memory.Memory, read: Any) -> None:
    """Give `table` a read port, driven by a `ReadPort` and answering on it."""
    port = table.read_port()
    m.d.comb += [port.en.eq(read.enable), port.addr.eq(read.address), read.data.eq(port.data)]


def forward(m: Module, inner: Any, outer: Any) -> None:
    """Connect a port of an inner block, all of its members, to those of the enclosing block's own port of the same
    direction, seen from inside it, which may have more."""
    for path, member, value in inner.signature.flatten(inner):
        outside = outer
        for name in path:
            outside = getattr(outside, name)
        m.d.comb += outside.eq(value) if member.flow == Out else value.eq(outside)
