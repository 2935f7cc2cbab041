"""A tile with the emulated crossbar: the whole machine in digital hardware."""

from __future__ import annotations

from amaranth.hdl import EnableInserter, Module
from amaranth.lib import wiring

from golden_model.config import HardwareConfig
from rtl.block import Block
from rtl.emulated_crossbar import EmulatedCrossbar
from rtl.emulated_pair_crossbar import EmulatedPairCrossbar
from rtl.tile import BUS_PREFIX, Tile, bus_members, connect_bus, trace_members

#: What the slave drives of the bus's handshakes.
HANDSHAKES = ("awready", "wready", "bvalid", "arready", "rvalid")


class System(Block):
    """What compiled simulation and FPGA run: nothing outside but the bus.

    Timing and reset are those of `rtl.tile.Tile` and `rtl.emulated_crossbar.EmulatedCrossbar`.

    Parameters beside those of every block
    --------------------------------------
    registered : for FPGAs: where the array takes another clock for a sample (pairs: two), the tile stands still for as
        long, its bus too. So results, events and CYCLES are those of an array that is always ready.

    Members
    -------
    s_axil_* : AXI4-Lite slave. trace : one record per OU activation, not of the pair machine.
    """

    def __init__(self, config: HardwareConfig, *, registered: bool = False):
        self.registered = registered
        super().__init__(config, **bus_members(), **trace_members(config))

    def elaborate(self, platform):
        m = Module()
        core = Tile(self.config)
        array = EmulatedPairCrossbar if self.config.pairs else EmulatedCrossbar
        m.submodules.crossbar = crossbar = array(self.config, registered=self.registered)
        m.submodules.tile = EnableInserter(~crossbar.settling)(core) if self.registered else core
        connect_bus(m, self, core, BUS_PREFIX)
        if self.registered:
            with m.If(crossbar.settling):  # no transfer
                m.d.comb += [getattr(self, BUS_PREFIX + name).eq(0) for name in HANDSHAKES]
        wiring.connect(m, core.crossbar, crossbar.port)
        for name in trace_members(self.config):
            m.d.comb += getattr(self, name).eq(getattr(core, name))
        return m
