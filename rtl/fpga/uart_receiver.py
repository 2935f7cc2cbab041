"""Bytes from a serial line."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

#: Clocks a bit, so that a bit is sampled near enough to its middle.
FEWEST_CLOCKS = 4


def checked_divisor(divisor: int) -> int:
    """Clocks a bit; ValueError if they are too few."""
    if divisor < FEWEST_CLOCKS:
        raise ValueError(f"divisor: {divisor} clocks a bit; at least {FEWEST_CLOCKS} are needed")
    return divisor


class UartReceiver(wiring.Component):
    """The opposite of `UartTransmitter`: every bit is sampled in its middle, a byte without a stop bit is dropped.

    Latency: a byte is offered at the middle of its stop bit. The stream cannot stall: a byte that is
    not taken in its only clock is lost. Reset: waits for a start bit.

    Parameters
    ----------
    divisor : clocks a bit.

    Members
    -------
    line : the serial line. bytes : what arrived.
    """

    line: In(1, init=1)
    bytes: Out(stream.Signature(8, always_ready=True))

    def __init__(self, divisor: int):
        self.divisor = checked_divisor(divisor)
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        line, clocks, left, bits = Signal(init=1), Signal(range(self.divisor)), Signal(range(11)), Signal(9)
        m.submodules.line = FFSynchronizer(self.line, line, init=1)
        m.d.comb += self.bytes.payload.eq(bits[1:])
        m.d.sync += self.bytes.valid.eq(0)
        with m.If(left == 0), m.If(~line):
            m.d.sync += [left.eq(10), clocks.eq(self.divisor // 2)]
        with m.Elif(clocks != self.divisor - 1):
            m.d.sync += clocks.eq(clocks + 1)
        with m.Else():
            m.d.sync += [clocks.eq(0), left.eq(left - 1), bits.eq(Cat(bits[1:], line))]
            with m.If((left == 10) & line):
                m.d.sync += left.eq(0)
            with m.If(left == 1):
                m.d.sync += [bits.eq(bits), self.bytes.valid.eq(line)]
        return m
