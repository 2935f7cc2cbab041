"""What all blocks have in common: sizes, and ports stated as annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from amaranth.hdl import ShapeCastable, Value
from amaranth.lib import stream, wiring

from golden_model.config import HardwareConfig

#: A port for every configuration.
Port = Callable[[HardwareConfig], wiring.Member]


def _sized(shape: Any, config: HardwareConfig) -> Any:
    """`shape` itself, or what it is for `config` if it is a function or a signature of the configuration."""
    return shape(config) if callable(shape) and not isinstance(shape, ShapeCastable) else shape


def In(shape: Any) -> Port:
    """A port that the block reads: a shape, a signature, or a function of the configuration that gives one."""
    return lambda config: wiring.In(_sized(shape, config))


def Out(shape: Any) -> Port:
    """A port that the block drives; `shape` as for `In`."""
    return lambda config: wiring.Out(_sized(shape, config))


def Stream(shape: Any) -> Callable[[HardwareConfig], stream.Signature]:
    """A stream for `In` and `Out`; `shape` of its payload as for `In`."""
    return lambda config: stream.Signature(_sized(shape, config))


def Where(has: Callable[[HardwareConfig], bool], port: Port) -> Callable[[HardwareConfig], wiring.Member | None]:
    """`port` for configurations that have what it is for, none for others."""
    return lambda config: port(config) if has(config) else None


def where(condition: Value, value: Value) -> Value:
    """The bits of `value` where a condition of one bit holds, else 0. Values whose conditions exclude each other are
    joined by `|`: smaller than a choice by multiplexers."""
    return condition.replicate(len(value)) & value.as_unsigned()


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
        made = {name: port(config) for name, port in ports.items()}
        super().__init__(more_ports | {name: port for name, port in made.items() if port is not None})
