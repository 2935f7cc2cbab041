"""The ports between the pair macro, or its tile, and the analog macro."""

from __future__ import annotations

from typing import Any

from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from rtl import layouts
from rtl import pack_layouts as packs


class HalfConversionPort(wiring.Signature):
    """Sampling and conversion of one half, two samples a column; directions as seen from the macro.

    Members
    -------
    sample : stream of `pack_layouts.pair_sample`. A transfer means "hold now": every column takes the sample into the
        place that it names, and keeps that of its other place. In the clock after a transfer the comparators already
        see it. A place is taken again in the clock of the last decision about its sample at the earliest. Valid may
        depend combinationally on `comparators`; ready must not depend on valid.
    thresholds : signed code t per column, registered. Columns that do not convert hold any value.
    places : bit per column, the place whose sample is compared, registered. Columns that do not convert hold any value.
    comparators : bit per column, 1 = c+ - c- >= t - 1/2 of the sample in the column's place. A combinational answer to
        thresholds and places of the same clock, captured at the clock's end.
    """

    def __init__(self, config: HardwareConfig):
        super().__init__(
            {
                "sample": Out(stream.Signature(packs.pair_sample(config))),
                "thresholds": Out(packs.pair_values(config)),
                "places": Out(packs.columns(config)),
                "comparators": In(packs.columns(config)),
            }
        )


def _conversion_members(config: HardwareConfig) -> dict:
    halves = {f"half{i}": Out(HalfConversionPort(config)) for i in range(packs.HALVES)}
    return {**halves, "layer": Out(layouts.layer_index(config))}


def halves_of(port: Any) -> list[Any]:
    """The `HalfConversionPort` of each half. (Amaranth cannot flip an interface with an array of interfaces in it.)"""
    return [getattr(port, f"half{i}") for i in range(packs.HALVES)]


class PairConversionPort(wiring.Signature):
    """Sampling and conversion of both halves, which never sample from the same crossbar pair.

    Members
    -------
    half0, half1 : `HalfConversionPort` of each half.
    layer : index of the running layer; selects the reference voltage.
    """

    def __init__(self, config: HardwareConfig):
        super().__init__(_conversion_members(config))


class PairCrossbarPort(wiring.Signature):
    """The whole port of an analog macro of pairs: everything of `PairConversionPort` and cell programming.

    Members beside those of `PairConversionPort`
    --------------------------------------------
    program : stream of `layouts.cell_write`, writes the cells of one OU of a pair.
    readback_request : stream of `layouts.ou_address`, asks for the cells of one OU.
    readback : stream of `layouts.cells`, one per request, in order.
    """

    def __init__(self, config: HardwareConfig):
        super().__init__(
            {
                **_conversion_members(config),
                "program": Out(stream.Signature(layouts.cell_write(config))),
                "readback_request": Out(stream.Signature(layouts.ou_address(config))),
                "readback": In(stream.Signature(layouts.cells(config))),
            }
        )
