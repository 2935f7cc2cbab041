"""The top of the bit stream for ULX3S boards."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, Elaboratable, Module
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer

from golden_model.config import HardwareConfig
from rtl.fpga.ecp5_pll import Ecp5Pll
from rtl.fpga.serial_system import SerialSystem
from rtl.fpga.uart_receiver import FEWEST_CLOCKS

#: The board's oscillator in kHz.
OSCILLATOR = 25_000


class Ulx3s(Elaboratable):
    """A `SerialSystem` at the board's USB serial port; the first LED is on while a request is worked on.

    Parameters
    ----------
    config : sizes of the hardware. clock : of the system, in kHz. baud : bits a second of the serial line.
    """

    def __init__(self, config: HardwareConfig, clock: int, baud: int):
        self.pll = Ecp5Pll(OSCILLATOR, clock)
        divisor = round(1000 * clock / baud)
        if divisor < FEWEST_CLOCKS or abs(1000 * clock / divisor / baud - 1) > 0.02:
            raise ValueError(
                f"{baud} bits a second cannot be made from {clock / 1000:g} MHz: "
                f"a bit must be a whole number of clocks within 2 %, at least {FEWEST_CLOCKS}"
            )
        self.system = SerialSystem(config, divisor)

    def elaborate(self, platform):
        m = Module()
        m.submodules.pll = pll = self.pll
        m.submodules.oscillator = oscillator = io.Buffer("i", platform.request("clk25", 0, dir="-"))
        m.domains.sync = domain = ClockDomain("sync")
        m.submodules.reset = ResetSynchronizer(~pll.locked, domain="sync")
        m.d.comb += [pll.source_clock.eq(oscillator.i), domain.clk.eq(pll.clock)]

        m.submodules.system = system = self.system
        uart, led = platform.request("uart", 0, dir="-"), platform.request("led", 0, dir="-")
        m.submodules.receive = receive = io.Buffer("i", uart.rx)
        m.submodules.transmit = transmit = io.Buffer("o", uart.tx)
        m.submodules.led = busy = io.Buffer("o", led)
        m.d.comb += [system.receive.eq(receive.i), transmit.o.eq(system.transmit), busy.o.eq(system.busy)]
        # The board switches itself off, or resets, when the pin of its radio module is low.
        m.submodules.awake = awake = io.Buffer("o", platform.request("esp32", 0, dir="-").gpio0)
        m.d.comb += awake.o.eq(1)
        return m
