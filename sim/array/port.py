"""A behavioural crossbar behind the packed signals of the analog port (rtl.interfaces), in any simulator."""

from __future__ import annotations

import numpy as np

from rtl import layouts
from sim.array.crossbars import Crossbar
from sim.host.records import unpack


class PackedPort:
    """Takes and gives the port's payloads as unsigned integers, fields as in `rtl.layouts`."""

    def __init__(self, crossbar: Crossbar):
        hardware = crossbar.hardware
        self.crossbar = crossbar
        self.sample_layout = layouts.sample(hardware)
        self.write_layout = layouts.cell_write(hardware)
        self.address_layout = layouts.ou_address(hardware)

    def sample(self, payload: int, step: int) -> None:
        """Hold the bit lines of one OU, with the reference of a step."""
        place = unpack(self.sample_layout, payload)
        self.crossbar.sample(place["pair"], place["ou_row"], place["ou_col"], place["slice"], step)

    def program(self, payload: int) -> None:
        """Write the cells of one OU."""
        place = unpack(self.write_layout, payload)
        self.crossbar.program(place["pair"], place["ou_row"], place["ou_col"], place["cells"])

    def readback(self, payload: int) -> int:
        """The cells of one OU."""
        place = unpack(self.address_layout, payload)
        return self.crossbar.readback(place["pair"], place["ou_row"], place["ou_col"])

    def comparators(self, thresholds: int, step: int) -> int:
        """Comparator bits, lane 0 least significant, for the packed thresholds of all lanes."""
        bits = self.crossbar.hardware.adc_bits
        mask = (1 << bits) - 1
        codes = [(thresholds >> (bits * lane)) & mask for lane in range(self.crossbar.hardware.lanes)]
        # A macro of one step has a one-bit index all the same.
        answers = self.crossbar.compare(codes, min(step, self.crossbar.steps - 1))
        return int.from_bytes(np.packbits(answers, bitorder="little").tobytes(), "little")
