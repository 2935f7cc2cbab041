"""A small AXI4-Lite device with a trace port: lets the simulators and the driver be tested without a tile."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from golden_model.registers import ADDRESS_BITS
from rtl import axi_lite
from rtl.fpga.serial_link import SerialLink
from rtl.tile import BUS_PREFIX

WORDS = 8
#: Address whose word counts clocks since the last write to it.
COUNTER = 0x40


class StandIn(wiring.Component):
    """Eight words at 0x00..0x1C, a clock counter at 0x40, SLVERR elsewhere; accepts address and data apart.

    `irq`: the counter is at least 0x100.

    `trace`: a record per write, 70 bits wide so that it crosses words.
    """

    def __init__(self):
        super().__init__(
            {
                "s_axil_awaddr": In(ADDRESS_BITS),
                "s_axil_awvalid": In(1),
                "s_axil_awready": Out(1),
                "s_axil_wdata": In(32),
                "s_axil_wstrb": In(4),
                "s_axil_wvalid": In(1),
                "s_axil_wready": Out(1),
                "s_axil_bresp": Out(2),
                "s_axil_bvalid": Out(1),
                "s_axil_bready": In(1),
                "s_axil_araddr": In(ADDRESS_BITS),
                "s_axil_arvalid": In(1),
                "s_axil_arready": Out(1),
                "s_axil_rdata": Out(32),
                "s_axil_rresp": Out(2),
                "s_axil_rvalid": Out(1),
                "s_axil_rready": In(1),
                "irq": Out(1),
                "trace": Out(
                    data.StructLayout({"valid": 1, "layer": 5, "started": 4, "codes": data.ArrayLayout(15, 4)})
                ),
            }
        )

    def elaborate(self, platform):
        m = Module()
        words = Array(Signal(32, name=f"word_{i}") for i in range(WORDS))
        counter = Signal(32)
        address, have_address, value, have_value = Signal(ADDRESS_BITS), Signal(), Signal(32), Signal()
        m.d.comb += [self.s_axil_awready.eq(~have_address), self.s_axil_wready.eq(~have_value)]
        m.d.sync += counter.eq(counter + 1)
        m.d.comb += self.irq.eq(counter >= 0x100)
        with m.If(self.s_axil_awvalid & self.s_axil_awready):
            m.d.sync += [address.eq(self.s_axil_awaddr), have_address.eq(1)]
        with m.If(self.s_axil_wvalid & self.s_axil_wready):
            m.d.sync += [value.eq(self.s_axil_wdata), have_value.eq(1)]
        with m.If(have_address & have_value & ~self.s_axil_bvalid):
            m.d.sync += [self.s_axil_bvalid.eq(1), self.s_axil_bresp.eq(0)]
            with m.If(address < 4 * WORDS):
                m.d.sync += words[address[2:5]].eq(value)
                m.d.comb += [self.trace.valid.eq(1), self.trace.layer.eq(address[2:]), self.trace.started.eq(value)]
                for i in range(4):
                    m.d.comb += self.trace.codes[i].eq(value + i)
            with m.Elif(address == COUNTER):
                m.d.sync += counter.eq(value)
            with m.Else():
                m.d.sync += self.s_axil_bresp.eq(2)
        with m.If(self.s_axil_bvalid & self.s_axil_bready):
            m.d.sync += [self.s_axil_bvalid.eq(0), have_address.eq(0), have_value.eq(0)]
        m.d.comb += self.s_axil_arready.eq(~self.s_axil_rvalid)
        with m.If(self.s_axil_arvalid & self.s_axil_arready):
            m.d.sync += [self.s_axil_rvalid.eq(1), self.s_axil_rresp.eq(0), self.s_axil_rdata.eq(0)]
            with m.If(self.s_axil_araddr < 4 * WORDS):
                m.d.sync += self.s_axil_rdata.eq(words[self.s_axil_araddr[2:5]])
            with m.Elif(self.s_axil_araddr == COUNTER):
                m.d.sync += self.s_axil_rdata.eq(counter)
            with m.Else():
                m.d.sync += self.s_axil_rresp.eq(2)
        with m.If(self.s_axil_rvalid & self.s_axil_rready):
            m.d.sync += self.s_axil_rvalid.eq(0)
        return m


def behind_a_link(divisor: int) -> tuple[Module, SerialLink, StandIn]:
    """A stand-in at the end of a serial line: (what is simulated, the link, the device)."""
    m = Module()
    m.submodules.link = link = SerialLink(divisor)
    m.submodules.device = device = StandIn()
    for name, member in axi_lite.SIGNALS.items():
        if hasattr(device, BUS_PREFIX + name):
            slave, master = getattr(device, BUS_PREFIX + name), getattr(link, name)
            m.d.comb += slave.eq(master) if member.flow == In else master.eq(slave)
    return m, link, device
