"""What all blocks have in common."""

from __future__ import annotations

from amaranth.lib import wiring

from golden_model.config import HardwareConfig


class Block(wiring.Component):
    """A component sized by one `HardwareConfig`. Subclasses define `ports` and `elaborate`.

    Parameters
    ----------
    config : sizes of the hardware; all blocks of a design take the same.
    """

    def __init__(self, config: HardwareConfig):
        self.config = config
        super().__init__(self.ports(config))

    @staticmethod
    def ports(config: HardwareConfig) -> dict:
        """Name -> `In(shape)` or `Out(shape)` of every port, seen from the block."""
        raise NotImplementedError
