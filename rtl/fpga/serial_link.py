"""A bus master at the end of a serial line."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl import axi_lite
from rtl.fpga.frame_receiver import FrameReceiver
from rtl.fpga.frame_transmitter import FrameTransmitter
from rtl.fpga.serial_master import SerialMaster
from rtl.fpga.uart_receiver import UartReceiver
from rtl.fpga.uart_transmitter import UartTransmitter


class SerialLink(wiring.Component):
    """Does what the frames of `rtl.fpga.serial_layouts` ask for on an AXI4-Lite bus, and answers them.

    Latency, throughput: those of the line, and of `SerialMaster` between the last byte of a request and the first of
    its answer. Reset: waits for a request.

    Parameters
    ----------
    divisor : clocks a bit of the serial line.

    Members
    -------
    The signals of `rtl.axi_lite.SIGNALS`, from the other side, and:
    receive : serial line from the host. transmit : to it. busy : a request is being worked on.
    """

    def __init__(self, divisor: int):
        self.divisor = divisor
        bus = {name: member.flip() for name, member in axi_lite.SIGNALS.items()}
        super().__init__({**bus, "receive": In(1, init=1), "transmit": Out(1, init=1), "busy": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.requests = requests = FrameReceiver()
        m.submodules.master = master = SerialMaster()
        m.submodules.answers = answers = FrameTransmitter()
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        for name, member in axi_lite.SIGNALS.items():
            outside, inside = getattr(self, name), getattr(master, name)
            m.d.comb += outside.eq(inside) if member.flow == In else inside.eq(outside)
        wiring.connect(m, receiver.bytes, requests.bytes)
        wiring.connect(m, requests.words, master.words)
        wiring.connect(m, master.answer, answers.words)
        wiring.connect(m, answers.bytes, transmitter.bytes)
        m.d.comb += [
            receiver.line.eq(self.receive),
            master.end.eq(requests.end),
            master.intact.eq(requests.intact),
            requests.discard.eq(master.busy),
            self.transmit.eq(transmitter.line),
            self.busy.eq(master.busy),
        ]
        return m
