"""The ports between the pair macros, or their tile, and the analog macros."""

from __future__ import annotations

from typing import Any

from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from rtl import layouts
from rtl import pack_layouts as packs


class HalfConversionPort(wiring.Signature):
    """Sampling and conversion of one half of a macro, several samples a column; directions as seen from the macro.

    Members
    -------
    sample : stream of `pack_layouts.pair_sample`. With a transfer every column begins to take the sample into the place
        that it names, and has the next clock to acquire it: it is compared from the second clock after the transfer
        on. Other places keep what they hold. A place is handed out again when all columns have converted its sample.
        Ready must not depend on valid.
    thresholds : signed code t per column. Columns that do not compare hold any value.
    places : the place of each column whose sample is compared. Columns that do not compare hold any value.
    compare : strobe per column, its answer of this clock counts. Other columns need not compare.
    comparators : bit per column, 1 = c+ - c- >= t - 1/2 of the sample in the column's place: the answer to thresholds
        and places of the same clock, captured at its end by a flip-flop per column before anything depends on it.
    decided : bit per column, its answer is one. Where it is 0 with `compare`, the lane asks the same once more in the
        next turn of that sample. Captured as `comparators`. Only with `comparator_valid` of the configuration.

    All outputs come straight from registers or, in the payload of `sample`, from a memory that is read.
    """

    def __init__(self, config: HardwareConfig):
        super().__init__(
            {
                "sample": Out(stream.Signature(packs.pair_sample(config))),
                "thresholds": Out(packs.pair_thresholds(config)),
                "places": Out(packs.pair_places(config)),
                "compare": Out(packs.columns(config)),
                "comparators": In(packs.columns(config)),
                **({"decided": In(packs.columns(config))} if config.comparator_valid else {}),
            }
        )


def _conversion_members(config: HardwareConfig) -> dict:
    halves = {name: Out(HalfConversionPort(config)) for name in half_names(config)}
    return {**halves, "layer": Out(layouts.layer_index(config))}


def half_names(config: HardwareConfig) -> list[str]:
    """Members of the ports below, one for each half of every macro; 2i and 2i + 1 are those of macro i.

    (Amaranth cannot flip an interface with an array of interfaces in it.)
    """
    return [f"half{i}" for i in range(packs.all_halves(config))]


def halves_of(port: Any, config: HardwareConfig) -> list[Any]:
    """The `HalfConversionPort` of each half of a port below."""
    return [getattr(port, name) for name in half_names(config)]


class PairConversionPort(wiring.Signature):
    """Sampling and conversion of all macros. The halves of one never sample from the same crossbar pair.

    Members
    -------
    half0, half1, ... : `HalfConversionPort` of each half, see `half_names`.
    layer : index of the running layer; selects the reference voltage.
    """

    def __init__(self, config: HardwareConfig):
        super().__init__(_conversion_members(config))


class PairCrossbarPort(wiring.Signature):
    """The whole port of the analog macros of pairs: everything of `PairConversionPort` and cell programming.

    Members beside those of `PairConversionPort`
    --------------------------------------------
    program : stream of `layouts.cell_write`, writes the cells of one OU of a pair, the same ones in every macro.
    program_failed : with a transfer of `program`, a cell of any macro did not take its value; an array that does not
        verify says 0.
    readback_request : stream of `layouts.readback_address`, asks for the cells of one OU of a macro.
    readback : stream of `layouts.cells`, one per request, in order.
    """

    def __init__(self, config: HardwareConfig):
        super().__init__(
            {
                **_conversion_members(config),
                "program": Out(stream.Signature(layouts.cell_write(config))),
                "program_failed": In(1),
                "readback_request": Out(stream.Signature(layouts.readback_address(config))),
                "readback": In(stream.Signature(layouts.cells(config))),
            }
        )
