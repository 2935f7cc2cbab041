"""Bytes onto a serial line."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.fpga.uart_receiver import checked_divisor


class UartTransmitter(wiring.Component):
    """A start bit of 0, eight data bits, lowest first, and a stop bit of 1, each `divisor` clocks long.

    Latency: the start bit begins in the clock after a byte is taken. Throughput: a byte in
    10 · divisor + 1 clocks. Reset: the line is idle, which is 1.

    Parameters
    ----------
    divisor : clocks a bit.

    Members
    -------
    bytes : what to send. line : the serial line.
    """

    bytes: In(stream.Signature(8))
    line: Out(1, init=1)

    def __init__(self, divisor: int):
        self.divisor = checked_divisor(divisor)
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        clocks, left, bits = Signal(range(self.divisor)), Signal(range(11)), Signal(9)
        m.d.comb += self.bytes.ready.eq(left == 0)
        with m.If(left == 0), m.If(self.bytes.valid):
            m.d.sync += [self.line.eq(0), bits.eq(Cat(self.bytes.payload, Const(1, 1))), left.eq(10), clocks.eq(0)]
        with m.Elif(clocks != self.divisor - 1):
            m.d.sync += clocks.eq(clocks + 1)
        with m.Else():
            m.d.sync += [self.line.eq(bits[0]), bits.eq(Cat(bits[1:], Const(1, 1))), left.eq(left - 1), clocks.eq(0)]
        return m
