"""A tile with the emulated crossbar: the whole machine in digital hardware."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring

from golden_model.config import HardwareConfig
from rtl import tile_layouts as tile
from rtl.block import Block, Out
from rtl.emulated_crossbar import EmulatedCrossbar
from rtl.tile import BUS_PREFIX, Tile, bus_members, connect_bus


class System(Block):
    """What compiled simulation and FPGA run: nothing outside but the bus.

    Timing and reset are those of `rtl.tile.Tile` and `rtl.emulated_crossbar.EmulatedCrossbar`.

    Members
    -------
    s_axil_* : AXI4-Lite slave. trace : one record per OU activation.
    """

    trace: Out(tile.tile_trace)

    def __init__(self, config: HardwareConfig):
        super().__init__(config, **bus_members())

    def elaborate(self, platform):
        m = Module()
        m.submodules.tile = core = Tile(self.config)
        m.submodules.crossbar = crossbar = EmulatedCrossbar(self.config)
        connect_bus(m, self, core, BUS_PREFIX)
        wiring.connect(m, core.crossbar, crossbar.port)
        m.d.comb += self.trace.eq(core.trace)
        return m
