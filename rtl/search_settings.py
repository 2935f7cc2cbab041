"""Decodes and checks the registers of the A/D lanes' search, once for all lanes."""

from __future__ import annotations

from collections.abc import Collection

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden_model.config import HardwareConfig
from rtl import pair_layouts as layouts
from rtl.pair_layouts import SearchMode, chosen_modes


class SearchSettings(wiring.Component):
    """Registers -> thresholds and steps of the search, and the legality check (system.md §4.1-§4.3, §13.1).

    A grid of F bits, F = R + 1 for signed registers, else F = R: with s2 = F - n_r2, s1 = s2 - m, h(s) = (1 << s) >> 1,
    R1 window lo..hi, hi = lo + (1 << n_r1): detection at (hi << s1) - h(s1) and (lo << s1) - h(s1), R1 search from the
    middle of lo..hi on Delta_R1 = 1 << s1, R2 search from the middle of the range on Delta_R2 = 1 << s2.
    lo = bias << n_r1; signed, lo = -h(n_r1): TRQ's window for normal-like samples, around 0.

    Legal: a mode of `modes`; UNIFORM and TWIN as in system.md §4.1 with F for R; signed, bias = 0. BOUNDED and OUTWARD
    with n_r2 = F and m = n_r1 = bias = 0; OUTWARD only signed.

    Latency: 1 clock from `registers` to `constants` and `illegal`. No handshake; all outputs are levels.
    Reset: outputs are those of no legal setting until one clock after reset.

    Parameters
    ----------
    config : sizes; R = config.adc_bits. pairs : see `pair_layouts`. modes : the modes that there are.

    Members
    -------
    registers : `pair_layouts.search_registers`.
    check : strobe; latches `error` if the registers of the clock before were illegal. clear : strobe, clears the latch.
    constants : for the lanes. Means nothing while `illegal` is 1.
    illegal : the registers of the clock before break a rule.
    error : `illegal`, or an illegal setting was there at a `check` since the last `clear`.
    """

    def __init__(self, config: HardwareConfig, pairs: bool = True, modes: Collection[SearchMode] = tuple(SearchMode)):
        self.config, self.pairs, self.modes = config, pairs, chosen_modes(pairs, modes)
        super().__init__(
            {
                "registers": In(layouts.search_registers(config, pairs)),
                "check": In(1),
                "clear": In(1),
                "constants": Out(layouts.search_constants(config, pairs)),
                "illegal": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        registers = self.registers
        most_bits = self.config.adc_bits + self.pairs
        is_signed = registers.signed if self.pairs else Const(0)
        full = Signal(range(most_bits + 1))
        grid_bits = Signal(len(registers.m) + 1)  # n_r2 + m
        m.d.comb += [full.eq(self.config.adc_bits + is_signed), grid_bits.eq(registers.n_r2 + registers.m)]
        self._check(m, full, grid_bits, is_signed)

        # Search constants; only those of a legal setting matter.
        s1, s2 = Signal.like(full, name="s1"), Signal.like(full, name="s2")
        unit1, unit2, length = (Signal(most_bits + 1, name=n) for n in ("unit1", "unit2", "length"))
        window, low, middle, r2_first = (
            Signal(signed(most_bits + 2), name=n) for n in ("window", "low", "middle", "r2_first")
        )
        m.d.comb += [
            s2.eq(full - registers.n_r2),
            s1.eq(full - grid_bits),
            unit1.eq(1 << s1),
            unit2.eq(1 << s2),
            length.eq(unit1 << registers.n_r1),
            low.eq(window - (unit1 >> 1)),
            middle.eq(Mux(is_signed, 0, (1 << full) >> 1)),
            r2_first.eq(middle - (unit2 >> 1)),
        ]
        with m.If(~is_signed):
            m.d.comb += window.eq(((registers.bias << registers.n_r1) << s1)[:most_bits])
        with m.Elif(registers.n_r1 != 0):
            m.d.comb += window.eq(-(length >> 1))
        constants, halves = self.constants, registers.mode != SearchMode.OUTWARD
        m.d.sync += [
            constants.mode.eq(registers.mode),
            constants.signed.eq(is_signed),
            constants.two_detections.eq(is_signed | (registers.bias != 0)),
            constants.r1_is_point.eq(registers.n_r1 == 0),
            constants.first.eq(Mux(registers.mode == SearchMode.TWIN, low + length, r2_first)),
            constants.low.eq(low),
            constants.r1_first.eq(low + (length >> 1)),
            constants.r2_first.eq(r2_first),
            constants.r1_left.eq(length - 1),
            constants.r2_left.eq((1 << full) - 1),
            constants.r1_end.eq(Cat(halves, unit1 - 1)),
            constants.r2_end.eq(Cat(halves, unit2 - 1)),
            constants.scale.eq(s1),
        ]
        return m

    def _check(self, m: Module, full: Signal, grid_bits: Signal, is_signed) -> None:
        """Differences are signed, so an illegal field cannot wrap into a legal one."""
        registers = self.registers
        most_bits = self.config.adc_bits + self.pairs
        window_bits = Signal(signed(len(grid_bits) + 1))  # log2 of the number of window positions
        largest_bias = Signal(most_bits + 1)
        bias_legal, legal, latched = Signal(), Signal(), Signal()
        grid_legal = (registers.n_r2 >= 1) & (grid_bits <= full)
        plain = (registers.n_r1 == 0) & (registers.bias == 0)
        m.d.comb += [
            window_bits.eq(grid_bits - registers.n_r1),
            largest_bias.eq(Mux(window_bits <= most_bits, (1 << window_bits[: len(registers.m)]) - 2, 0)),
            bias_legal.eq(Mux(is_signed, registers.bias == 0, registers.bias <= largest_bias)),
        ]
        with m.Switch(registers.mode):
            for mode in self.modes:
                with m.Case(mode):
                    if mode == SearchMode.TWIN:
                        m.d.comb += legal.eq(grid_legal & (window_bits >= 1) & bias_legal)
                    elif mode == SearchMode.UNIFORM:
                        m.d.comb += legal.eq(grid_legal & plain)
                    else:
                        whole = plain & (registers.n_r2 == full) & (registers.m == 0)
                        m.d.comb += legal.eq(whole & (is_signed if mode == SearchMode.OUTWARD else 1))
        m.d.sync += self.illegal.eq(~legal)
        m.d.comb += self.error.eq(self.illegal | latched)
        with m.If(self.clear):
            m.d.sync += latched.eq(0)
        with m.If(self.check & self.illegal):
            m.d.sync += latched.eq(1)
