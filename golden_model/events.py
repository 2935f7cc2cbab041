"""Event counters: what a run did, in the order of `registers.COUNTER_NAMES` (system.md §10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from golden_model.registers import COUNTER_NAMES

#: Sums that are not counters of the hardware but follow from them.
DERIVED_NAMES = ("dense", "conversions")

_INDEX = {name: i for i, name in enumerate(COUNTER_NAMES)}


class Events:
    """Event counters with an optional leading shape, e.g. (images, layers).

    `events.ad_operations` and `events["ad_operations"]` are int64 arrays of the leading shape (a plain
    int when there is none). Derived: `dense` (OU activations of a machine that skips nothing) and
    `conversions` (of both ranges).

    Parameters
    ----------
    counts : int64 array, shape (..., len(COUNTER_NAMES)); None makes zeros of shape `shape`.
    """

    __slots__ = ("counts",)
    counts: np.ndarray

    def __init__(self, counts: Any = None, *, shape: tuple[int, ...] = ()) -> None:
        if counts is None:
            counts = np.zeros((*shape, len(COUNTER_NAMES)), dtype=np.int64)
        counts = np.asarray(counts)
        if counts.dtype.kind not in "iu":
            raise TypeError(f"Events: counts must be integers, got dtype {counts.dtype}")
        if counts.ndim < 1 or counts.shape[-1] != len(COUNTER_NAMES):
            raise ValueError(f"Events: the last axis must hold {len(COUNTER_NAMES)} counters, got shape {counts.shape}")
        self.counts = counts.astype(np.int64)

    @classmethod
    def of(cls, **values: Any) -> Events:
        """Events from named arrays of one shape; counters not named are 0."""
        unknown = sorted(set(values) - set(_INDEX))
        if unknown:
            raise ValueError(f"Events: no counter named {', '.join(unknown)}; there are {', '.join(COUNTER_NAMES)}")
        shape = np.broadcast_shapes(*(np.shape(v) for v in values.values()))
        events = cls(shape=shape)
        for name, value in values.items():
            events.counts[..., _INDEX[name]] = value
        return events

    @property
    def shape(self) -> tuple[int, ...]:
        """Leading shape, () for one set of counters."""
        return self.counts.shape[:-1]

    @property
    def dense(self) -> Any:
        """OU activations without any skipping: activations plus everything skipped (system.md §10)."""
        return self.ou_activations + self.skipped_planes + self.skipped_bits + self.skipped_zero_slices

    @property
    def conversions(self) -> Any:
        """A/D conversions of both ranges."""
        return self.conversions_r1 + self.conversions_r2

    def __getattr__(self, name: str) -> Any:
        if name not in _INDEX:
            raise AttributeError(
                f"Events has no counter {name!r}; there are {', '.join(COUNTER_NAMES + DERIVED_NAMES)}"
            )
        value = self.counts[..., _INDEX[name]]
        return int(value) if value.ndim == 0 else value

    def __getitem__(self, key: Any) -> Any:
        """A counter by name, or a part of the leading shape by index."""
        if isinstance(key, str):
            if key not in _INDEX and key not in DERIVED_NAMES:
                raise KeyError(f"no counter named {key!r}; there are {', '.join(COUNTER_NAMES + DERIVED_NAMES)}")
            return getattr(self, key)
        keys = key if isinstance(key, tuple) else (key,)
        return Events(self.counts[(*keys, Ellipsis, slice(None))])

    def __len__(self) -> int:
        return len(self.counts) if self.shape else 0

    def __iter__(self) -> Iterator[Events]:
        if not self.shape:
            raise TypeError("Events without a leading shape cannot be iterated over; use as_dict()")
        return (Events(part) for part in self.counts)

    def __add__(self, other: Events) -> Events:
        if not isinstance(other, Events):
            return NotImplemented
        return Events(self.counts + other.counts)

    def __radd__(self, other: Any) -> Events:
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Events):
            return NotImplemented
        return self.shape == other.shape and bool((self.counts == other.counts).all())

    __hash__ = None  # type: ignore[assignment]

    def sum(self, axis: int | tuple[int, ...] | None = None) -> Events:
        """Sum over axes of the leading shape; None sums over all of them."""
        if axis is None:
            axis = tuple(range(len(self.shape)))
        axes = tuple(a % len(self.shape) for a in ((axis,) if isinstance(axis, int) else axis))
        return Events(self.counts.sum(axis=axes))

    def as_dict(self, *, derived: bool = False) -> dict[str, Any]:
        """Counter name -> int or nested lists of int (JSON-able); `derived` adds dense and conversions."""
        names = COUNTER_NAMES + DERIVED_NAMES if derived else COUNTER_NAMES
        return {name: np.asarray(self[name]).tolist() for name in names}

    def __repr__(self) -> str:
        return f"Events({', '.join(f'{name}={value}' for name, value in self.as_dict().items())})"
