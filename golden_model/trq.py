"""Twin-range A/D conversion: registers, thresholds, code and value (TRQ; system.md §4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class AdcRegisters:
    """Run-time registers of the SAR controller, per layer (system.md §4.1).

    mode : "twin" or "uniform"; uniform needs n_r1 = bias = 0.
    n_r2 : search steps over the whole range.
    n_r1 : search steps inside the R1 window.
    m : an R2 step is 2**m R1 steps.
    bias : position of the R1 window, in window lengths.
    """

    mode: Literal["twin", "uniform"]
    n_r2: int
    n_r1: int = 0
    m: int = 0
    bias: int = 0

    def check(self, adc_bits: int) -> None:
        """Raise ValueError naming field, limit and value unless legal for a resolution of `adc_bits`."""
        if self.mode not in ("twin", "uniform"):
            raise ValueError(f"AdcRegisters.mode must be 'twin' or 'uniform', got {self.mode!r}")
        for name in ("n_r2", "n_r1", "m", "bias"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"AdcRegisters.{name} must be an integer, got {value!r}")
        self._range("n_r2", 1, adc_bits)
        self._range("m", 0, adc_bits - self.n_r2)
        if self.mode == "uniform":
            self._range("n_r1", 0, 0)
            self._range("bias", 0, 0)
        else:
            self._range("n_r1", 0, self.n_r2 + self.m - 1)
            self._range("bias", 0, (1 << (self.n_r2 + self.m - self.n_r1)) - 2)

    def _range(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise ValueError(f"AdcRegisters.{name} must be in {low}..{high}, got {value}")
