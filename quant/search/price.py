"""The highest price, shared by all layers between accuracy and cost, at which a network passes an end-to-end check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

Settings = TypeVar("Settings")

#: From the most accurate settings to the cheapest.
PRICES: tuple[float, ...] = tuple(float(p) for p in np.geomspace(1e-5, 10, 73))


@dataclass(frozen=True)
class Found(Generic[Settings]):
    """Settings of the highest price that passes, what `check` said, and how many checks it took; None if none does."""

    settings: Settings | None
    price: float | None
    checked: Any
    checks: int


def highest(
    choose: Callable[[float], Settings], check: Callable[[Settings], Any], prices: Sequence[float] = PRICES
) -> Found[Settings]:
    """Bisection over ascending prices; a check that passes is assumed to pass at all lower ones.

    choose : settings at a price. check : anything that is true if they pass.
    """
    found: Found[Settings] = Found(None, None, None, 0)
    low, high, checks = 0, len(prices), 0  # passes below low, fails from high on
    while low < high:
        middle = (low + high) // 2
        settings = choose(prices[middle])
        checked, checks = check(settings), checks + 1
        if checked:
            found, low = Found(settings, prices[middle], checked, 0), middle + 1
        else:
            high = middle
    return Found(found.settings, found.price, found.checked, checks)
