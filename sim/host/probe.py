"""Measuring the array from the bus: any column of any operation unit, code by code (rtl/lane_test.py)."""

from __future__ import annotations

from golden_model.registers import PortMode
from rtl.interfaces import port_shape
from sim.host.driver import DeviceError, Driver

_WORD = 32
#: Times that STATUS is read before a sample is given up.
_PATIENCE = 1000


class ArrayProbe:
    """Samples and comparisons by the host, while no network runs. Use as `async with`: at the end the converters have
    the array again.

    Attributes
    ----------
    parts : what samples on its own: halves of all macros of the pair machine, else 1. converters : of each.
    word_lines : that a sample may switch on: of an OU column of the pair machine, else of an OU.
    codes : DAC codes, lowest first; what is compared is the sample >= code - 1/2.
    """

    def __init__(self, driver: Driver):
        hardware = driver.hardware
        self._driver = driver
        shape = port_shape(hardware)
        self.parts, self.converters = len(shape.parts), shape.converters
        self.word_lines = hardware.ou_rows * (hardware.grid_rows if hardware.pairs else 1)
        self.codes = range(-(1 << hardware.adc_bits) if hardware.pairs else 0, 1 << hardware.adc_bits)
        self._where: dict[str, int] = {}

    async def __aenter__(self) -> ArrayProbe:
        await self._control()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._driver.write_register("TEST_CONTROL", mode=PortMode.NORMAL)

    async def _control(self, **where: int) -> None:
        self._where = where
        await self._driver.write_register("TEST_CONTROL", mode=PortMode.DRIVEN, **where)

    async def sample(self, pair: int, ou_col: int, lines: int, *, row: int = 0, part: int = 0, place: int = 0) -> None:
        """Take a sample; bit i of `lines` drives word line i. What is out of range the device refuses (BusError).

        Raises DeviceError if the array does not take it.
        """
        driver = self._driver
        if not 0 <= lines < 1 << self.word_lines:
            raise ValueError(f"lines must be in 0..2**{self.word_lines} - 1, got {lines}")
        await self._control(half=part, place=place)
        for shift in range(0, self.word_lines, _WORD):
            await driver.write_register("TEST_LINES", lines=lines >> shift & 0xFFFFFFFF)
        await driver.write_register("TEST_SAMPLE", pair=pair, ou_row=row, ou_col=ou_col)
        for _ in range(_PATIENCE):
            if not (await driver.read_register("STATUS"))["test_busy"]:
                return
        raise DeviceError(f"the array takes no sample of crossbar pair {pair}")

    async def compare(self, code: int) -> list[int]:
        """What every comparator of the part answers to a code: 1 where the sample is at least code - 1/2."""
        if code not in self.codes:
            raise ValueError(f"code must be in {self.codes[0]}..{self.codes[-1]}, got {code}")
        driver, found = self._driver, 0
        await driver.write_register("TEST_CODE", code=code & ((1 << driver.hardware.converter_bits) - 1))
        for word in range(-(-self.converters // _WORD)):
            await self._control(**{**self._where, "word": word})
            found |= (await driver.read_register("TEST_ANSWERS"))["answers"] << (word * _WORD)
        return [found >> column & 1 for column in range(self.converters)]

    async def measure(
        self, pair: int, ou_col: int, lines: int, *, row: int = 0, part: int = 0, place: int = 0
    ) -> list[int]:
        """Of every converter, the highest code that its sample reaches, or one less than the lowest code.

        Arguments as for `sample`.
        """
        await self.sample(pair, ou_col, lines, row=row, part=part, place=place)
        found = [self.codes[0] - 1] * self.converters
        for code in self.codes:
            answers = await self.compare(code)
            found = [code if yes else before for yes, before in zip(answers, found, strict=True)]
        return found
