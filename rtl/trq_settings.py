"""Decodes and checks the registers of the twin-range converters, once for all lanes."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, signed, unsigned

from rtl import layouts
from rtl.block import Block, In, Out


class TrqSettings(Block):
    """Registers -> thresholds and steps of the search, and the legality check (system.md §4.1-§4.3).

    With R = config.adc_bits, s2 = R - n_r2, s1 = s2 - m, h(s) = (1 << s) >> 1 and lo = bias << n_r1,
    hi = lo + (1 << n_r1): detection at (hi << s1) - h(s1) and (lo << s1) - h(s1), R1 search from the middle of
    lo..hi on Delta_R1 = 1 << s1, R2 search from the middle of the range on Delta_R2 = 1 << s2.

    Latency: 1 clock from `registers` to `search` and `illegal`. No handshake; all outputs are levels.
    Reset: outputs are those of no legal setting until one clock after reset.

    Members
    -------
    registers : `layouts.adc_registers`.
    check : strobe; latches `error` if the registers of the clock before were illegal. clear : strobe,
        clears the latch.
    search : `layouts.search` for the lanes. Means nothing while `illegal` is 1.
    illegal : the registers of the clock before break a rule of system.md §4.1.
    error : `illegal`, or an illegal setting was there at a `check` since the last `clear`.
    """

    registers: In(layouts.adc_registers)
    check: In(1)
    clear: In(1)
    search: Out(layouts.search)
    illegal: Out(1)
    error: Out(1)

    def elaborate(self, platform) -> Module:
        m = Module()
        bits = self.config.adc_bits
        registers = self.registers
        grid_bits = Signal(len(registers.m) + 1)  # n_r2 + m
        m.d.comb += grid_bits.eq(registers.n_r2 + registers.m)

        # Legality. Differences are signed, so an illegal field cannot wrap into a legal one.
        window_bits = Signal(signed(len(grid_bits) + 1))  # log2 of the number of window positions
        largest_bias = Signal(unsigned(bits + 1))
        legal = Signal()
        m.d.comb += [
            window_bits.eq(grid_bits - registers.n_r1),
            largest_bias.eq(Mux(window_bits <= bits, (1 << window_bits[: len(registers.m)]) - 2, 0)),
        ]
        with m.If(registers.mode):
            m.d.comb += legal.eq((window_bits >= 1) & (registers.bias <= largest_bias))
        with m.Else():
            m.d.comb += legal.eq((registers.n_r1 == 0) & (registers.bias == 0))

        grid_legal = (registers.n_r2 >= 1) & (grid_bits <= bits)
        latched = Signal()
        m.d.sync += self.illegal.eq(~(legal & grid_legal))
        m.d.comb += self.error.eq(self.illegal | latched)
        with m.If(self.clear):
            m.d.sync += latched.eq(0)
        with m.If(self.check & self.illegal):
            m.d.sync += latched.eq(1)

        # Search constants; only those of a legal setting matter.
        s2 = Signal(range(bits + 1))
        s1 = Signal(range(bits + 1))
        m.d.comb += [s2.eq(bits - registers.n_r2), s1.eq(bits - grid_bits)]
        unit1, unit2 = Signal(bits + 1), Signal(bits + 1)
        window_low, low, length = Signal(bits), Signal(bits), Signal(bits + 1)
        half = Const(1 << (bits - 1), bits)
        m.d.comb += [
            unit1.eq(1 << s1),
            unit2.eq(1 << s2),
            window_low.eq(registers.bias << registers.n_r1),
            low.eq((window_low << s1) - (unit1 >> 1)),
            length.eq(unit1 << registers.n_r1),
        ]
        search = self.search
        r2_first = Signal(bits)
        m.d.comb += r2_first.eq(half - (unit2 >> 1))
        m.d.sync += [
            search.twin.eq(registers.mode),
            search.two_detections.eq(registers.bias != 0),
            search.r1_is_point.eq(registers.n_r1 == 0),
            search.first.eq(Mux(registers.mode, low + length, r2_first)),
            search.low.eq(low),
            search.r1_first.eq(low + (length >> 1)),
            search.r2_first.eq(r2_first),
            search.r1_steps.eq(length - unit1),
            search.r2_steps.eq((1 << bits) - unit2),
            search.window_low.eq(window_low),
            search.m.eq(registers.m),
        ]
        return m
