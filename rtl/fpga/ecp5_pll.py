"""The clock of an ECP5."""

from amaranth.hdl import Instance, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

#: Limits of the oscillator inside and a frequency in their middle, and the limit of the clock, in kHz.
_SLOWEST, _FASTEST, _WANTED, _FASTEST_CLOCK = 400_000, 800_000, 600_000, 400_000


class Ecp5Pll(wiring.Component):
    """Makes one clock from another, with the part's phase-locked loop (EHXPLLL).

    Parameters
    ----------
    source, target : frequencies in kHz. ValueError if the dividers do not reach `target` exactly.

    Members
    -------
    source_clock, clock : the two clocks. locked : the clock is stable; not synchronous.
    """

    source_clock: In(1)
    clock: Out(1)
    locked: Out(1)

    def __init__(self, source: int, target: int):
        self.source, self.target = source, target
        #: Dividers of source and feedback, and from the oscillator to the clock.
        self.divider, self.multiplier, self.output_divider = self._dividers(source, target)
        super().__init__()

    @staticmethod
    def _dividers(source: int, target: int) -> tuple[int, int, int]:
        if 0 < target <= _FASTEST_CLOCK:
            output = max(1, round(_WANTED / target))
            for divider in range(1, 9):  # behind it at least 3.125 MHz, as the phase detector needs
                multiplier, rest = divmod(target * divider, source)
                if not rest and multiplier <= 80 and output <= 128 and _SLOWEST <= target * output <= _FASTEST:
                    return divider, multiplier, output
        raise ValueError(
            f"a clock of {target / 1000:g} MHz cannot be made from {source / 1000:g} MHz: "
            f"it must be a multiple of {source / 1000:g}/n MHz for an n of 1 to 8, and 5 to 400 MHz"
        )

    def elaborate(self, platform):
        m = Module()
        outputs = {f"p_OUTDIVIDER_MUX{letter}": f"DIV{letter}" for letter in "ABCD"}
        idle = {f"i_{name}": 0 for name in ("RST", "STDBY", "PHASESEL0", "PHASESEL1", "PHASEDIR", "PHASESTEP")}
        m.submodules.pll = Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKI=str(self.source / 1000),
            a_FREQUENCY_PIN_CLKOP=str(self.target / 1000),
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_FEEDBK_PATH="CLKOP",
            p_CLKI_DIV=self.divider,
            p_CLKFB_DIV=self.multiplier,
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=self.output_divider,
            p_CLKOP_CPHASE=self.output_divider - 1,
            p_CLKOP_FPHASE=0,
            **outputs,
            **idle,
            i_PHASELOADREG=0,
            i_PLLWAKESYNC=0,
            i_ENCLKOP=0,
            i_CLKI=self.source_clock,
            i_CLKFB=self.clock,
            o_CLKOP=self.clock,
            o_LOCK=self.locked,
        )
        return m
