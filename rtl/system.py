"""A tile with the emulated crossbar: the whole machine in digital hardware."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring

from golden_model.config import HardwareConfig
from rtl.block import Block, Out
from rtl.emulated_crossbar import EmulatedCrossbar
from rtl.emulated_pair_crossbar import EmulatedPairCrossbar
from rtl.tile import BUS_PREFIX, Tile, bus_members, connect_bus, connect_load, load_members, trace_members


class System(Block):
    """What compiled simulation and FPGA run: nothing outside but the bus.

    Timing and reset are those of `rtl.tile.Tile` and `rtl.emulated_crossbar.EmulatedCrossbar`.

    Members
    -------
    s_axil_*, s_axis_*, irq : see `rtl.tile.Tile`. trace : one record per OU activation, not of the pair machine.
    """

    irq: Out(1)

    def __init__(self, config: HardwareConfig):
        super().__init__(config, **bus_members(), **load_members(), **trace_members(config))

    def elaborate(self, platform):
        m = Module()
        m.submodules.tile = core = Tile(self.config)
        array = EmulatedPairCrossbar if self.config.pairs else EmulatedCrossbar
        m.submodules.crossbar = crossbar = array(self.config)
        connect_bus(m, self, core, BUS_PREFIX)
        connect_load(m, self, core)
        m.d.comb += self.irq.eq(core.irq)
        wiring.connect(m, core.crossbar, crossbar.port)
        for name in trace_members(self.config):
            m.d.comb += getattr(self, name).eq(getattr(core, name))
        return m
