"""What all blocks have in common: sizes, and ports stated as annotations."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import ShapeCastable
from amaranth.lib import stream, wiring

from golden_model.config import HardwareConfig


def _sized(shape: Any, config: HardwareConfig) -> Any:
    """`shape` itself, or what it is for `config` if it is a function or a signature of the configuration."""
    return shape(config) if callable(shape) and not isinstance(shape, ShapeCastable) else shape


@dataclass(frozen=True)
class In:
    """A port that the block reads: a shape, a signature, or a function of the configuration that gives one."""

    shape: Any

    def member(self, config: HardwareConfig) -> wiring.Member:
        """The port in a block of this configuration."""
        return wiring.In(_sized(self.shape, config))


@dataclass(frozen=True)
class Out:
    """A port that the block drives; otherwise like `In`."""

    shape: Any

    def member(self, config: HardwareConfig) -> wiring.Member:
        """The port in a block of this configuration."""
        return wiring.Out(_sized(self.shape, config))


def Stream(shape: Any) -> Any:
    """A stream of payloads of `shape`, for `In` and `Out`."""
    return lambda config: stream.Signature(_sized(shape, config))


class Block(wiring.Component):
    """A component sized by one `HardwareConfig`. Subclasses state their ports as annotations:

        segments: In(Stream(layouts.segment))
        window_start: In(1)

    Parameters
    ----------
    config : sizes of the hardware; all blocks of a design take the same.
    more_ports : ports whose names the subclass computes.
    """

    def __init__(self, config: HardwareConfig, **more_ports: wiring.Member):
        self.config = config
        ports = inspect.get_annotations(type(self), eval_str=True)
        super().__init__(more_ports | {name: port.member(config) for name, port in ports.items()})
