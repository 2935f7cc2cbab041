"""A behavioural crossbar behind the packed signals of the analog port of its machine, in any simulator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from golden_model.config import bits_for
from rtl import layouts
from rtl.interfaces import port_shape
from sim.array.crossbars import Crossbar, PairCrossbar
from sim.host.records import unpack


class PackedPort:
    """Takes and gives the port's payloads as unsigned integers, fields as in the layouts of `rtl`.

    shape : of the port. A part is given by its index in `shape.parts`.
    """

    def __init__(self, crossbar: Crossbar | PairCrossbar):
        hardware = crossbar.hardware
        self.crossbar = crossbar
        self.shape = port_shape(hardware)
        self.write_layout = layouts.cell_write(hardware)
        self.address_layout = layouts.readback_address(hardware)

    def sample(self, part: int, payload: int, step: int) -> None:
        """Hold the bit lines that a sample request names, with the reference of a step."""
        asked, crossbar = unpack(self.shape.sample, payload), self.crossbar
        if isinstance(crossbar, PairCrossbar):
            crossbar.sample(part, asked["place"], asked["pair"], asked["ou_col"], asked["lines"])
        else:
            crossbar.sample(asked["pair"], asked["ou_row"], asked["ou_col"], asked["slice"], step)

    def program(self, payload: int) -> None:
        """Write the cells of one OU."""
        place = unpack(self.write_layout, payload)
        self.crossbar.program(place["pair"], place["ou_row"], place["ou_col"], place["cells"])

    def takes(self, payload: int) -> bool:
        """Whether all cells of one OU can take these values."""
        place = unpack(self.write_layout, payload)
        return self.crossbar.takes(place["pair"], place["ou_row"], place["ou_col"], place["cells"])

    def readback(self, payload: int) -> int:
        """The cells of one OU."""
        place = unpack(self.address_layout, payload)
        return self.crossbar.readback(place["pair"], place["ou_row"], place["ou_col"], place.get("macro", 0))

    def comparators(self, part: int, step: int, thresholds: int, places: int = 0) -> int:
        """Comparator bits of a part, converter 0 least significant, for its packed thresholds and places."""
        # A macro of one step has a one-bit index all the same.
        step = min(step, self.crossbar.steps - 1)
        codes = self._split(thresholds, self.crossbar.hardware.converter_bits)
        answers = self.crossbar.answers(part, self._split(places, bits_for(self.shape.places - 1)), codes, step)
        return int.from_bytes(np.packbits(answers, bitorder="little").tobytes(), "little")

    def _split(self, word: int, bits: int) -> Sequence[int]:
        mask = (1 << bits) - 1
        return [(word >> (bits * i)) & mask for i in range(self.shape.converters)]
