"""The tile's trace port as arrays: one record per OU whose A/D codes are complete.

The port's fields come from the component's own signature, so that nothing is repeated here. A record
travels from a simulator as one unsigned integer (or as 32-bit words, least significant first) with
the ports of the trace concatenated in the order of the signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Cat, Const, Shape, Value
from amaranth.lib import data


@dataclass(frozen=True)
class Port:
    """One Verilog port of the trace: its flattened name and width in bits."""

    name: str
    width: int

    @property
    def words(self) -> int:
        return -(-self.width // 32)


@dataclass(frozen=True)
class TraceField:
    """A field: `count` elements (None for a plain number) of `width` bits from bit `offset` of port `port`."""

    name: str
    port: int
    offset: int
    width: int
    count: int | None


@dataclass(frozen=True)
class TraceLayout:
    """Where the fields of a trace record are; `valid` is the field that strobes."""

    ports: tuple[Port, ...]
    fields: tuple[TraceField, ...]

    @classmethod
    def of(cls, component: Any, member: str = "trace") -> TraceLayout | None:
        """Layout of the component's member `member`; None if it has none. A structure or an interface."""
        if member not in component.signature.members:
            return None
        ports: list[Port] = []
        fields: list[TraceField] = []
        flow = component.signature.members[member]
        if flow.is_port:
            layout = data.Layout.cast(flow.shape)
            ports.append(Port(member, Shape.cast(layout).width))
            for name, where in layout:
                fields.append(_field(str(name), 0, where.offset, where.shape))
        else:
            for path, inner, _ in flow.signature.flatten(getattr(component, member)):
                ports.append(Port("__".join((member, *map(str, path))), Shape.cast(inner.shape).width))
                fields.append(_field("_".join(map(str, path)), len(ports) - 1, 0, inner.shape))
        return cls(tuple(ports), tuple(fields))

    @property
    def words(self) -> int:
        """32-bit words of a record; every port starts at a new word."""
        return sum(port.words for port in self.ports)

    def value(self, component: Any, member: str = "trace") -> Value:
        """The record as one value, ports padded to whole words (to be sampled in Amaranth's simulator)."""
        parts: list[Any] = []
        flow = component.signature.members[member]
        interface = getattr(component, member)
        signals = [interface] if flow.is_port else [v for _, _, v in flow.signature.flatten(interface)]
        for port, signal in zip(self.ports, signals, strict=True):
            parts += [Value.cast(signal), Const(0, -port.width % 32)]
        return Cat(*parts)

    def strobe(self, component: Any, member: str = "trace") -> Value:
        """The valid bit as a value."""
        valid = self["valid"]
        return self.value(component, member)[self._offset(valid)]

    def __getitem__(self, name: str) -> TraceField:
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"the trace has no field {name}; it has {', '.join(f.name for f in self.fields)}")

    def number(self, record: int, name: str) -> int:
        """A plain field of a record that is an unsigned integer, see `to_words`."""
        field = self[name]
        return record >> self._offset(field) & ((1 << field.width) - 1)

    def _offset(self, field: TraceField) -> int:
        return 32 * sum(port.words for port in self.ports[: field.port]) + field.offset

    def decode(self, words: np.ndarray) -> dict[str, np.ndarray]:
        """uint32 words (records, `words`) -> arrays (records,) or (records, count), by field name.

        int64, but uint8 where a number is a single bit.
        """
        words = np.ascontiguousarray(words, dtype="<u4").reshape(-1, self.words)
        bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
        decoded = {}
        for field in self.fields:
            count = 1 if field.count is None else field.count
            first = self._offset(field)
            values = bits[:, first : first + count * field.width].reshape(-1, count, field.width)
            if field.width == 1:
                values = values[..., 0]
            else:
                values = values.astype(np.int64) @ (1 << np.arange(field.width, dtype=np.int64))
            decoded[field.name] = values[:, 0] if field.count is None else values
        return decoded

    def to_words(self, records: Sequence[int]) -> np.ndarray:
        """Records as unsigned integers -> uint32 words (records, `words`)."""
        raw = b"".join(int(record).to_bytes(4 * self.words, "little") for record in records)
        return np.frombuffer(raw, dtype="<u4").reshape(-1, self.words)


class Recorder:
    """Keeps the trace records that a bench takes; benches of whole runs do so while `enabled`."""

    def __init__(self, layout: TraceLayout):
        self.layout = layout
        self.enabled = False
        self._taken: list[int] = []
        self._step: int | None = None

    def clear(self, step: int | None = None) -> None:
        """Forget all records; from now on take those of a step, or all."""
        self._taken.clear()
        self._step = step

    def take(self, record: int) -> None:
        """A record as an unsigned integer, see `TraceLayout.to_words`."""
        if self._step is None or self.layout.number(record, "layer") == self._step:
            self._taken.append(record)

    def records(self) -> dict[str, np.ndarray]:
        return self.layout.decode(self.layout.to_words(self._taken))


def _field(name: str, port: int, offset: int, shape: Any) -> TraceField:
    layout = None
    with suppress(TypeError):
        layout = data.Layout.cast(shape)
    if isinstance(layout, data.ArrayLayout):
        return TraceField(name, port, offset, Shape.cast(layout.elem_shape).width, layout.length)
    width = Shape.cast(shape).width
    if name in _PER_LANE:
        return TraceField(name, port, offset, 1, width)
    return TraceField(name, port, offset, width, None)


#: One bit per lane, whether the port declares them as an array or as a plain number.
_PER_LANE = ("started", "range_flags")


def unpack(layout: data.StructLayout, word: int) -> dict[str, int]:
    """Fields of a packed structure port, each as an unsigned integer."""
    fields = {}
    for name, where in layout:
        width = Shape.cast(where.shape).width
        fields[str(name)] = (word >> where.offset) & ((1 << width) - 1)
    return fields
