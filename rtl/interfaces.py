"""Ports of the analog macro: what the digital part asks of a bank of crossbar pairs (system.md §10).

Directions are seen from the digital part (the macro or the tile); a crossbar model takes the flipped
signature.
"""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from rtl import layouts


def _conversion_members(config: HardwareConfig) -> dict:
    return {
        "sample": Out(stream.Signature(layouts.sample(config))),
        "thresholds": Out(layouts.thresholds(config)),
        "comparators": In(layouts.lanes(config)),
        "layer": Out(layouts.layer_index(config)),
    }


class ConversionPort(wiring.Signature):
    """Sampling and A/D conversion; the part of the crossbar's port that the macro drives.

    Members
    -------
    sample : stream of `layouts.sample`. A transfer means "hold now": the conversion that follows runs on
        this sample. In the clock after a transfer the comparators already see the new sample. Valid may
        depend combinationally on `comparators`; ready must not depend on valid. The payload is on the
        port before the transfer whenever it is known, so that the array settles while the previous OU
        converts.
    thresholds : registered DAC code per lane. Lanes that do not convert hold any value.
    comparators : bit per lane, 1 = v >= threshold - 1/2 LSB (system.md §4.2). A combinational answer to
        the thresholds of the same clock, captured at the clock's end.
    layer : index of the running layer; selects the reference voltage.
    """

    def __init__(self, config: HardwareConfig):
        super().__init__(_conversion_members(config))


class CrossbarPort(wiring.Signature):
    """The whole port of an analog macro: everything of `ConversionPort` and cell programming.

    Members beside those of `ConversionPort`
    ----------------------------------------
    program : stream of `layouts.cell_write`, writes the cells of one OU of a pair.
    readback_request : stream of `layouts.ou_address`, asks for the cells of one OU.
    readback : stream of `layouts.cells`, one per request, in order.
    reference_write : emulated reference levels; only digital stand-ins use it, no handshake.
    """

    def __init__(self, config: HardwareConfig):
        super().__init__(
            {
                **_conversion_members(config),
                "program": Out(stream.Signature(layouts.cell_write(config))),
                "readback_request": Out(stream.Signature(layouts.ou_address(config))),
                "readback": In(stream.Signature(layouts.cells(config))),
                "reference_write": Out(layouts.reference_write(config)),
            }
        )


def forward_conversion(m: Module, inner, outer) -> None:
    """Connect the macro's `ConversionPort` (`inner`) to the enclosing block's port of the same direction.

    `outer` is the enclosing block's own `ConversionPort` or `CrossbarPort`, seen from inside it.
    """
    m.d.comb += [
        outer.sample.valid.eq(inner.sample.valid),
        outer.sample.payload.eq(inner.sample.payload),
        inner.sample.ready.eq(outer.sample.ready),
        outer.thresholds.eq(inner.thresholds),
        inner.comparators.eq(outer.comparators),
        outer.layer.eq(inner.layer),
    ]
