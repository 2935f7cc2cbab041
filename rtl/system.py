"""A tile with the emulated crossbar: the whole machine in digital hardware."""

from __future__ import annotations

from amaranth.hdl import EnableInserter, Module
from amaranth.lib import wiring

from golden_model.config import HardwareConfig
from rtl.block import Block, Out
from rtl.emulated_crossbar import EmulatedCrossbar
from rtl.emulated_pair_crossbar import EmulatedPairCrossbar
from rtl.tile import BUS_PREFIX, Tile, bus_members, connect_bus, connect_load, load_members, trace_members

#: What the tile drives of the handshakes outside.
HANDSHAKES = ("s_axil_awready", "s_axil_wready", "s_axil_bvalid", "s_axil_arready", "s_axil_rvalid", "s_axis_tready")


class System(Block):
    """What compiled simulation and FPGA run: nothing outside but the bus.

    Timing and reset are those of `rtl.tile.Tile` and `rtl.emulated_crossbar.EmulatedCrossbar`.

    Parameters beside those of every block
    --------------------------------------
    registered : for FPGAs: where the array of planes takes another clock for a sample, the tile stands still for it,
        its bus too. So results, events and CYCLES are those of an array that is always ready. The array of pairs needs
        no such clock: a sample has one to be acquired.

    Members
    -------
    s_axil_*, s_axis_*, irq : see `rtl.tile.Tile`. trace : one record per OU activation, not of the pair machine.
    """

    irq: Out(1)

    def __init__(self, config: HardwareConfig, *, registered: bool = False):
        self.registered = registered and not config.pairs
        super().__init__(config, **bus_members(), **load_members(), **trace_members(config))

    def elaborate(self, platform):
        m = Module()
        core = Tile(self.config)
        connect_bus(m, self, core, BUS_PREFIX)
        connect_load(m, self, core)
        m.d.comb += self.irq.eq(core.irq)
        if self.registered:
            m.submodules.crossbar = crossbar = EmulatedCrossbar(self.config, registered=True)
            m.submodules.tile = EnableInserter(~crossbar.settling)(core)
            with m.If(crossbar.settling):  # no transfer
                m.d.comb += [getattr(self, name).eq(0) for name in HANDSHAKES]
        else:
            array = EmulatedPairCrossbar if self.config.pairs else EmulatedCrossbar
            m.submodules.crossbar = crossbar = array(self.config)
            m.submodules.tile = core
        wiring.connect(m, core.crossbar, crossbar.port)
        for name in trace_members(self.config):
            m.d.comb += getattr(self, name).eq(getattr(core, name))
        return m
