"""What test benches are made of: range-checked values, and stream ends with random stalls.

`ctx.set` silently truncates an integer that is too large and rejects NumPy scalars: `put` checks the range and calls
`int`.

Example::

    async def producer(ctx):
        await send(ctx, dut.samples, values, stall=0.3, seed=1)

    async def consumer(ctx):
        assert await receive(ctx, dut.codes, len(values), stall=0.3, seed=2) == expected

    simulate(dut, producer, consumer, limit=10_000)
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

from amaranth.hdl import Shape, ShapeCastable, Value
from amaranth.lib import data

from sim.bench import Testbench, WatchdogError


class StreamRuleError(AssertionError):
    """A stream withdrew `valid`, or changed its payload, before the beat was accepted."""


# ---- values -------------------------------------------------------------------------------------
def checked(shape: Any, value: Any, where: str = "value") -> Any:
    """`value` as the simulator wants it for `shape`, every integer range-checked.

    Structures take a mapping (all fields named), arrays a sequence of the exact length, everything
    else an integer (NumPy scalars and booleans included) or an enumeration member.
    Raises ValueError naming the place, the range and the value; TypeError for a wrong kind.
    """
    layout = _layout(shape)
    if isinstance(layout, data.ArrayLayout):
        if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
            raise TypeError(f"{where} must be a sequence of {layout.length}, got {value!r}")
        if len(value) != layout.length:
            raise ValueError(f"{where} must have {layout.length} elements, got {len(value)}")
        return [checked(layout.elem_shape, v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(layout, data.StructLayout):
        if isinstance(value, data.Const):
            value = plain(value)
        if not isinstance(value, Mapping):
            raise TypeError(f"{where} must be a mapping of {list(layout.members)}, got {value!r}")
        if set(value) != set(layout.members):
            raise ValueError(f"{where} must have fields {list(layout.members)}, got {list(value)}")
        return {name: checked(member, value[name], f"{where}.{name}") for name, member in layout.members.items()}
    number = int(getattr(value, "value", value)) if not hasattr(value, "__index__") else int(value)
    cast = Shape.cast(shape if layout is None else layout)
    low, high = (-(1 << cast.width >> 1), (1 << cast.width >> 1) - 1) if cast.signed else (0, (1 << cast.width) - 1)
    if not low <= number <= high:
        raise ValueError(f"{where} must be in {low}..{high}, got {number}")
    return number if not isinstance(shape, ShapeCastable) or layout is not None else value


def plain(value: Any) -> Any:
    """A simulator value as plain Python: structures as dict, arrays as list, the rest as int (or enumeration)."""
    if isinstance(value, data.Const):
        layout = value.shape()
        if isinstance(layout, data.ArrayLayout):
            return [plain(value[i]) for i in range(layout.length)]
        if isinstance(layout, data.StructLayout):
            return {name: plain(value[name]) for name in layout.members}
        return value.as_bits()
    return value


def put(ctx: Any, signal: Any, value: Any) -> None:
    """`ctx.set` with the value range-checked against the signal's shape (see `checked`)."""
    shape = signal.shape() if hasattr(signal, "shape") else Value.cast(signal).shape()
    ctx.set(signal, checked(shape, value, where=getattr(signal, "name", None) or "value"))


def fetch(ctx: Any, signal: Any) -> Any:
    """`ctx.get` as plain Python (see `plain`)."""
    return plain(ctx.get(signal))


def _layout(shape: Any) -> Any:
    """The layout behind a shape, or None for integers and enumerations."""
    if isinstance(shape, data.Layout):
        return shape
    try:
        return data.Layout.cast(shape)
    except TypeError:
        return None


# ---- streams ------------------------------------------------------------------------------------
async def send(ctx: Any, stream: Any, items: Iterable[Any], *, stall: float = 0.0, seed: int = 0) -> None:
    """Offer `items` in order on a stream that the device consumes.

    Before each beat `valid` stays low for a geometric number of clocks with parameter `stall`
    (0 = one beat per clock). `valid` and payload then hold until the beat is accepted.
    """
    rng = random.Random(seed)
    for item in items:
        while rng.random() < stall:
            await ctx.tick()
        put(ctx, stream.payload, item)
        ctx.set(stream.valid, 1)
        await ctx.tick().until(stream.ready)
        ctx.set(stream.valid, 0)


async def receive(ctx: Any, stream: Any, count: int, *, stall: float = 0.0, seed: int = 0) -> list[Any]:
    """Take `count` beats from a stream that the device produces, `ready` low at random; payloads as plain Python."""
    rng = random.Random(seed)
    received = []
    while len(received) < count:
        if rng.random() < stall:
            await ctx.tick()
            continue
        ctx.set(stream.ready, 1)
        _, _, valid, payload = await ctx.tick().sample(stream.valid, stream.payload)
        ctx.set(stream.ready, 0)
        if valid:
            received.append(plain(payload))
    return received


def collector(strobe: Any, *values: Any, into: list[Any]) -> Testbench:
    """Background test bench: append the values (one plain value, or a tuple) of every clock with `strobe` high."""

    async def bench(ctx: Any) -> None:
        async for _, _, fired, *sampled in ctx.tick().sample(strobe, *values):
            if fired:
                into.append(plain(sampled[0]) if len(sampled) == 1 else tuple(plain(v) for v in sampled))

    return bench


def stream_rule(stream: Any, name: str = "stream") -> Testbench:
    """Background test bench: raise `StreamRuleError` unless valid and payload hold until the beat is accepted."""

    async def bench(ctx: Any) -> None:
        pending = None
        async for _, reset, valid, ready, payload in ctx.tick().sample(
            stream.valid, stream.ready, Value.cast(stream.payload)
        ):
            if reset:
                pending = None
                continue
            if pending is not None and not valid:
                raise StreamRuleError(f"{name} withdrew valid before the beat was accepted")
            if pending is not None and payload != pending:
                raise StreamRuleError(f"{name} changed its payload before the beat was accepted")
            pending = payload if valid and not ready else None

    return bench


async def clocks_until(ctx: Any, condition: Any, *, limit: int = 100_000) -> int:
    """Clocks until `condition` is sampled high, this clock included; `WatchdogError` after `limit`."""
    for count in range(1, limit + 1):
        _, _, met = await ctx.tick().sample(condition)
        if met:
            return count
    raise WatchdogError(f"the awaited condition did not come within {limit} clocks")
