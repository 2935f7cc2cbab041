"""A tile with the emulated crossbar: the whole machine in digital hardware."""

from __future__ import annotations

from amaranth.hdl import Cat, EnableInserter, Module, Signal
from amaranth.lib import wiring

from golden_model.config import HardwareConfig
from rtl.block import Block, Out
from rtl.emulated_crossbar import EmulatedCrossbar
from rtl.emulated_pair_crossbar import EmulatedPairCrossbar
from rtl.pack_layouts import pair_trace
from rtl.pair_interfaces import halves_of
from rtl.pair_macros import PairMacros
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
    s_axil_*, s_axis_*, irq : see `rtl.tile.Tile`. trace : one record per OU activation; of the pair machine, whose tile
        has no such port, what its halves sample and convert in a clock.
    """

    irq: Out(1)

    def __init__(self, config: HardwareConfig, *, registered: bool = False):
        self.registered = registered and not config.pairs
        trace = {"trace": wiring.Out(pair_trace(config))} if config.pairs else trace_members(config)
        super().__init__(config, **bus_members(), **load_members(), **trace)

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
        if isinstance(core.macro, PairMacros):
            self._watch(m, core, core.macro)
        else:
            m.d.comb += self.trace.eq(core.trace)
        return m

    def _watch(self, m: Module, core: Tile, macros: PairMacros) -> None:
        """The trace of the pair machine, from what the tile samples and from inside of its lanes."""
        trace = self.trace
        converters = [converter for macro in macros.macros for converter in macro.converters]
        lanes = [lane for converter in converters for lane in converter.lanes]
        samples = [half.sample for half in halves_of(core.crossbar, self.config)]
        m.d.comb += [
            trace.layer.eq(core.crossbar.layer),
            trace.lines.eq(Cat(sample.payload.lines for sample in samples)),
            trace.valid.eq(trace.sampled.as_value().any() | trace.converted.as_value().any()),
        ]
        for half, sample in enumerate(samples):
            m.d.comb += trace.sampled[half].eq(sample.valid & sample.ready)
            m.d.comb += (trace[name][half].eq(sample.payload[name]) for name in ("pair", "ou_col", "place"))
        for i, lane in enumerate(lanes):
            place = Signal.like(lane.place)
            converted = lane.converted.valid
            if self.config.early_stop:  # a check takes its turn as a sample does
                converted &= ~lane.converted.check
            m.d.sync += place.eq(lane.place)  # compared in the clock before, looked at in this one
            m.d.comb += [
                trace.converted[i].eq(converted),
                trace.value[i].eq(lane.converted.value),
                trace.converted_place[i].eq(place),
            ]
