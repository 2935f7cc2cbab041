"""Settings that are options of a command, too: default, range and help of each stand once, in a frozen dataclass.

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        batch: int = setting(128, "Images per step.", 1, 100_000)

`check` refuses what is out of range; `quant.options.takes` makes the options of a command.
"""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any


def setting(
    default: Any, words: str, low: float | None = None, high: float | None = None, *, among: tuple[Any, ...] = ()
) -> Any:
    """A field of a dataclass. words : for --help, "" for what is no option. low, high : smallest and largest value,
    where None passes. among : all values there are."""
    return field(default=default, metadata={"help": words, "low": low, "high": high, "among": among})


def check(settings: Any, **limits: tuple[float, float]) -> None:
    """ValueError naming the first field out of its range. limits : ranges (low, high) that depend on something else."""
    for one in fields(settings):
        value, option = getattr(settings, one.name), "--" + one.name.replace("_", "-")
        low, high = limits.get(one.name, (one.metadata["low"], one.metadata["high"]))
        if value is None:
            continue
        if low is not None and not low <= value <= high:
            raise ValueError(f"{option} must be in {low:g}..{high:g}, got {value}")
        if (among := one.metadata["among"]) and value not in among:
            raise ValueError(f"{option} must be one of {', '.join(map(str, among))}, got {value!r}")
