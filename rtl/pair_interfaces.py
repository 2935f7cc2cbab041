"""The port between the pair macro and its analog macro."""

from __future__ import annotations

from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from rtl import layouts
from rtl import pack_layouts as packs


class HalfConversionPort(wiring.Signature):
    """Sampling and conversion of one half; directions as seen from the macro.

    Members
    -------
    sample : stream of `pack_layouts.pair_sample`. A transfer means "hold now": the conversion that follows runs on this
        sample. In the clock after a transfer the comparators already see it. Valid may depend combinationally on
        `comparators`; ready must not depend on valid.
    thresholds : signed code t per column, registered. Columns that do not convert hold any value.
    comparators : bit per column, 1 = c+ - c- >= t - 1/2. A combinational answer to the thresholds of the same clock,
        captured at the clock's end.
    """

    def __init__(self, config: HardwareConfig):
        super().__init__(
            {
                "sample": Out(stream.Signature(packs.pair_sample(config))),
                "thresholds": Out(packs.pair_values(config)),
                "comparators": In(packs.columns(config)),
            }
        )


class PairConversionPort(wiring.Signature):
    """`HalfConversionPort` of both halves, which never sample from the same crossbar pair, and the running layer."""

    def __init__(self, config: HardwareConfig):
        super().__init__(
            {"halves": Out(HalfConversionPort(config)).array(packs.HALVES), "layer": Out(layouts.layer_index(config))}
        )
