"""The whole machine behind a serial line."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from rtl import axi_lite
from rtl.fpga.serial_link import SerialLink
from rtl.system import System
from rtl.tile import BUS_PREFIX


class SerialSystem(wiring.Component):
    """What runs on an FPGA: a tile with the emulated crossbar, driven by the frames of `rtl.fpga.serial_layouts`.

    Timing and reset are those of `rtl.system.System` with `registered`.

    Parameters
    ----------
    config : sizes of the hardware. divisor : clocks a bit of the serial line.

    Members
    -------
    receive : serial line from the host. transmit : to it. busy : a request is being worked on.
    """

    receive: In(1, init=1)
    transmit: Out(1, init=1)
    busy: Out(1)

    def __init__(self, config: HardwareConfig, divisor: int):
        self.config = config
        self.divisor = divisor
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.system = system = System(self.config, registered=True)
        m.submodules.link = link = SerialLink(self.divisor)
        for name, member in axi_lite.SIGNALS.items():
            slave, master = getattr(system, BUS_PREFIX + name), getattr(link, name)
            m.d.comb += slave.eq(master) if member.flow == In else master.eq(slave)
        m.d.comb += [link.receive.eq(self.receive), self.transmit.eq(link.transmit), self.busy.eq(link.busy)]
        return m
