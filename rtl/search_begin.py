"""What a conversion begins with, in every mode of search."""

from __future__ import annotations

from collections.abc import Collection

from amaranth.hdl import Const, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from rtl import pair_layouts as layouts
from rtl.pair_layouts import SearchMode, chosen_modes


class SearchBegin(wiring.Component):
    """First threshold of the lanes that convert an OU, and what is left to be searched; the same for all of them.

    Latency: combinational.

    Parameters
    ----------
    config : sizes. pairs : see `pair_layouts`. modes : the modes that there are; OUTWARD needs pairs.

    Members
    -------
    constants : from `SearchSettings`. ones : k of the OU, 1..2**adc_bits - 1.
    begin : to the lanes.
    """

    def __init__(self, config: HardwareConfig, pairs: bool = True, modes: Collection[SearchMode] = tuple(SearchMode)):
        self.config, self.pairs, self.modes = config, pairs, chosen_modes(pairs, modes)
        super().__init__(
            {
                "constants": In(layouts.search_constants(config, pairs)),
                "ones": In(layouts.ones_in_ou(config)),
                "begin": Out(layouts.search_begin(config, pairs)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        constants, begin, ones = self.constants, self.begin, self.ones
        is_signed = constants.signed if self.pairs else Const(0)
        first = {
            SearchMode.UNIFORM: (constants.first, constants.r2_left),
            SearchMode.TWIN: (constants.first, constants.r2_left),
            SearchMode.BOUNDED: (Mux(is_signed, 0, (ones + 1) >> 1), Mux(is_signed, ones << 1, ones)),
            SearchMode.OUTWARD: (1, ones),
        }
        with m.Switch(constants.mode):
            for mode in self.modes:
                threshold, left = first[mode]
                with m.Case(mode):
                    m.d.comb += [begin.threshold.eq(threshold), begin.left.eq(left)]
        return m
