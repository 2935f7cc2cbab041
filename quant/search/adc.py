"""Search of A/D settings for integer graphs, at scale (TRQ Algorithm 1, corrected; system.md §7).

One pass over the calibration images gives the counts of every layer (golden_model.searches.histograms). All candidates
are then scored from them at once: A/D operations per conversion, squared error of single conversions, and squared
error of the layer's sums. Nothing is simulated again until whole settings are checked end to end.

    counts = graph_counts(graph, images)
    scores = score_layers(counts, graph.hardware, limit=4)
    settings = choose(scores, price=1e-3)
    other = apply(graph, settings)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.graph.network import Graph
from golden_model.graph.settings import with_settings
from golden_model.searches.histograms import LayerCounts
from golden_model.trq import AdcRegisters, convert, convert_counts, lossless, min_count
from quant.search import check
from quant.search.price import Found, highest

Family = Literal["ideal", "normal", "general", "free", "uniform", "outward"]
#: system.md §7, and "free" (*ours*): bias 0, n_r1, n_r2, m and lambda searched.
TWIN: tuple[Family, ...] = ("ideal", "normal", "general", "free")
FAMILIES: tuple[Family, ...] = (*TWIN, "uniform")
Grid = Literal["aligned", "continuous"]
#: Algorithm 1: V_ref is searched over [alpha, beta] times the largest count, in C candidates.
SEARCH_ALPHA, SEARCH_BETA, SEARCH_CANDIDATES = 0.1, 1.2, 50
SEARCH_M = range(8)


@dataclass(frozen=True, kw_only=True)
class AdcSetting:
    """A/D registers of a layer and its grid: counts_per_lsb = lambda (system.md §4.4)."""

    registers: AdcRegisters
    counts_per_lsb: float = 1.0

    def counts_per_unit(self, adc_bits: int) -> float:
        """Counts per Delta_R1, the unit of a partial sum: lambda * 2**s1, s1 = R - n_r2 - m."""
        return self.counts_per_lsb * 2.0 ** (adc_bits - self.registers.n_r2 - self.registers.m)

    def lossless(self, hardware: HardwareConfig) -> bool:
        return lossless(self.registers, hardware, min_count(hardware.adc_bits, self.counts_per_lsb))


# ---- candidates ---------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Shapes:
    """Register settings, whatever lambda is.

    family : per setting. registers : per setting. searched : bool, whether lambda is searched; otherwise Delta_R1 is
    one count. value, operations : uint8 (settings, 2**R), conversion of every level.
    """

    family: tuple[Family, ...]
    registers: tuple[AdcRegisters, ...]
    searched: np.ndarray
    value: np.ndarray
    operations: np.ndarray


@lru_cache(maxsize=64)
def shapes(adc_bits: int, limit: int, families: tuple[Family, ...], largest_count: int) -> Shapes:
    """All register settings with n_r1, n_r2 <= limit of some families."""
    found: list[tuple[Family, AdcRegisters, bool]] = []

    def add(family: Family, searched: bool, **fields: Any) -> None:
        mode = "uniform" if family == "uniform" else "twin"
        found.append((family, AdcRegisters(mode=mode, **fields), searched))

    for n_r2 in range(1, min(limit, adc_bits) + 1):
        if "uniform" in families:
            add("uniform", True, n_r2=n_r2)
        for m in SEARCH_M[: adc_bits - n_r2 + 1]:
            for n_r1 in range(min(limit, n_r2 + m - 1) + 1):
                if "ideal" in families:
                    add("ideal", False, n_r2=n_r2, n_r1=n_r1, m=m)
                if "normal" in families:
                    for bias in range(1, (1 << (n_r2 + m - n_r1)) - 1):
                        if bias << n_r1 > largest_count:
                            break
                        add("normal", False, n_r2=n_r2, n_r1=n_r1, m=m, bias=bias)
                if "general" in families and n_r1 == n_r2:
                    add("general", True, n_r2=n_r2, n_r1=n_r1, m=m)
                elif "free" in families:
                    add("free", True, n_r2=n_r2, n_r1=n_r1, m=m)
    levels = np.arange(1 << adc_bits)
    tables = [convert(levels, adc_bits, registers) for _, registers, _ in found]
    return Shapes(
        family=tuple(family for family, _, _ in found),
        registers=tuple(registers for _, registers, _ in found),
        searched=np.array([searched for _, _, searched in found], dtype=bool),
        value=np.array([t.value for t in tables], dtype=np.uint8).reshape(-1, len(levels)),
        operations=np.array([t.operations for t in tables], dtype=np.uint8).reshape(-1, len(levels)),
    )


def scales(hardware: HardwareConfig, largest_count: int, grid: Grid) -> np.ndarray:
    """Candidates of lambda, counts per LSB: powers of two, and with "continuous" 50 full-scale ranges between 0.1 and
    1.2 times the largest count. Each has at most 24 significant bits, so that lambda * (t - 1/2) is exact in float64.
    """
    aligned = 2.0 ** np.arange(-hardware.adc_bits, hardware.ou_rows.bit_length() + 1)
    if grid == "aligned":
        return aligned
    full = max(1, largest_count) * np.linspace(SEARCH_ALPHA, SEARCH_BETA, SEARCH_CANDIDATES)
    return np.concatenate([aligned, (full / 2**hardware.adc_bits).astype(np.float32).astype(np.float64)])


def level_tables(adc_bits: int, counts: int, lambdas: np.ndarray) -> np.ndarray:
    """Level of every count 0..counts - 1 for many lambdas at once: intp (lambdas, counts); as `trq.levels`."""
    thresholds = np.ceil(lambdas[:, None] * (np.arange(1, 1 << adc_bits) - 0.5))  # smallest count for each code
    capped = np.minimum(thresholds, counts).astype(np.intp)
    passed = np.zeros((len(lambdas), counts + 1), dtype=np.intp)
    np.add.at(passed, (np.arange(len(lambdas))[:, None], capped), 1)
    return np.cumsum(passed, axis=1)[:, :counts]


# ---- scores -------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of all candidates of one layer; arrays (candidates,).

    shape : which of `shapes`. scale : lambda. operations : mean per conversion. error : mean squared error of a
    conversion, counts**2. output_error : squared error of the sums over their
    mean square. conversions : of the layer, over the calibration images.
    """

    shapes: Shapes
    hardware: HardwareConfig
    shape: np.ndarray
    scale: np.ndarray
    operations: np.ndarray
    error: np.ndarray
    output_error: np.ndarray
    conversions: int

    def setting(self, candidate: int) -> AdcSetting:
        return AdcSetting(
            registers=self.shapes.registers[self.shape[candidate]], counts_per_lsb=float(self.scale[candidate])
        )

    def family(self, candidate: int) -> Family:
        return self.shapes.family[self.shape[candidate]]

    def best(self, weight: float, price: float) -> Chosen:
        """The candidate with the least weight * output_error + price * operations."""
        return self.take(int(np.argmin(weight * self.output_error + price * self.operations)))

    def take(self, candidate: int) -> Chosen:
        """One candidate, with what it was scored."""
        return Chosen(
            self.family(candidate),
            self.setting(candidate),
            float(self.operations[candidate]),
            float(self.error[candidate]),
            float(self.output_error[candidate]),
            self.conversions,
        )


def score_layer(
    counts: LayerCounts,
    hardware: HardwareConfig,
    limit: int,
    *,
    families: Sequence[Family] = FAMILIES,
    grid: Grid = "continuous",
    skip_zero_slices: bool = False,
) -> Scores:
    """Scores of every candidate with n_r1, n_r2 <= limit, without simulating anything.

    skip_zero_slices : operations are those of a machine that skips input slices of zeros.
    """
    histogram = counts.used(skip_zero_slices).sum(axis=(0, 1))
    largest = int(np.flatnonzero(histogram)[-1]) if histogram.any() else 0
    size = largest + 1
    made = shapes(hardware.adc_bits, limit, tuple(families), largest)
    s1 = np.array([hardware.adc_bits - r.n_r2 - r.m for r in made.registers])
    lambdas = scales(hardware, largest, grid)
    own = 2.0 ** -s1.astype(float)
    searched = np.flatnonzero(made.searched)
    fixed = np.flatnonzero(~made.searched)
    # The paper's fixed grids first, so that they win ties.
    shape = np.concatenate([fixed, np.repeat(searched, len(lambdas))])
    scale = np.concatenate([own[fixed], np.tile(lambdas, len(searched))])
    distinct, where = np.unique(scale, return_inverse=True)
    level = level_tables(hardware.adc_bits, size, distinct)[where]
    unit = (scale * 2.0 ** s1[shape])[:, None]
    difference = made.value[shape[:, None], level] * unit - np.arange(size)
    operations = made.operations[shape[:, None], level].astype(np.float64) @ histogram[:size]
    gram = counts.gram[:size, :size]
    produced = np.einsum("xc,xc->x", difference @ gram, difference)
    output = max(counts.power, 1e-300)
    total = max(int(histogram.sum()), 1)
    return Scores(
        shapes=made,
        hardware=hardware,
        shape=shape,
        scale=scale,
        operations=operations / total,
        error=difference**2 @ histogram[:size].astype(np.float64) / total,
        output_error=np.maximum(produced, 0.0) / output,
        conversions=total,
    )


def score_layers(
    counts: Mapping[str, LayerCounts], hardware: HardwareConfig, limit: int, **how: Any
) -> dict[str, Scores]:
    """`score_layer` for every layer."""
    return {name: score_layer(one, hardware, limit, **how) for name, one in counts.items()}


def score_setting(setting: AdcSetting, counts: np.ndarray, hardware: HardwareConfig) -> tuple[float, float]:
    """(mean A/D operations, mean squared error in counts**2) of one setting over a histogram.

    counts : (input_bits, weight_bits, ou_rows + 1). No conversions: (0, 0).
    """
    often = counts.sum(axis=(0, 1))
    total = int(often.sum())
    if total == 0:
        return 0.0, 0.0
    lowest = min_count(hardware.adc_bits, setting.counts_per_lsb)
    table = convert_counts(hardware.adc_bits, hardware.ou_rows, setting.registers, lowest)
    error = table.value * setting.counts_per_unit(hardware.adc_bits) - np.arange(hardware.ou_rows + 1)
    return float((often * table.operations).sum() / total), float((often * error**2).sum() / total)


# ---- choices ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Chosen:
    """The candidate that a layer takes; fields as in `Scores`."""

    family: Family
    setting: AdcSetting
    operations: float
    error: float
    output_error: float
    conversions: int

    def as_dict(self) -> dict[str, Any]:
        registers = {name: getattr(self.setting.registers, name) for name in _REGISTERS}
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {"family": self.family, **registers, "counts_per_lsb": self.setting.counts_per_lsb, **numbers}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Chosen:
        registers = AdcRegisters(**{name: values[name] for name in _REGISTERS})
        setting = AdcSetting(registers=registers, counts_per_lsb=values["counts_per_lsb"])
        numbers: dict[str, Any] = {name: float("nan") if values[name] is None else values[name] for name in _NUMBERS}
        return cls(values["family"], setting, **numbers)


_REGISTERS = ("mode", "n_r2", "n_r1", "m", "bias")
_NUMBERS = ("operations", "error", "output_error", "conversions")


def most_accurate(scores: Mapping[str, Scores], *, n_r2: int | None = None) -> dict[str, Chosen]:
    """Per layer the least error of the sums, then the fewest operations. n_r2 : only candidates with this n_r2."""
    made = {}
    for name, one in scores.items():
        allowed = np.ones(len(one.shape), dtype=bool)
        if n_r2 is not None:
            allowed = np.array([r.n_r2 == n_r2 for r in one.shapes.registers])[one.shape]
        error = np.where(allowed, one.output_error, np.inf)
        made[name] = one.take(int(np.lexsort((one.operations, error))[0]))
    return made


def cheapest_lossless(scores: Mapping[str, Scores]) -> dict[str, Chosen]:
    """Per layer the fewest operations of all settings that convert every count exactly; ties prefer uniform converters,
    then small registers.

    scores : with the limit adc_bits. ValueError if the hardware has no lossless setting.
    """
    made = {}
    for name, one in scores.items():
        registers = [one.shapes.registers[index] for index in one.shape]

        def key(c: int, one: Scores = one, registers: list[AdcRegisters] = registers) -> tuple:
            r = registers[c]
            return one.operations[c], r.mode == "twin", r.n_r2, r.n_r1, r.bias, r.m

        exact = np.flatnonzero(one.error == 0)  # of the counts that occur; others are checked one by one
        order = sorted(exact.tolist(), key=key)
        found = next((c for c in order if one.setting(c).lossless(one.hardware)), None)
        if found is None:
            raise ValueError(
                f"no lossless setting exists: {one.hardware.ou_rows} rows need adc_bits = {one.hardware.ideal_bits},"
                f" got {one.hardware.adc_bits}"
            )
        made[name] = one.take(found)
    return made


def choose(
    scores: Mapping[str, Scores],
    price: float,
    sensitivity: Mapping[str, float] | None = None,
) -> dict[str, Chosen]:
    """Settings that share one price between accuracy and operations (*ours*).

    Minimises sum over layers of sensitivity * output_error + price * (operations of all conversions of the network, in
    mean operations per conversion): for errors that add up, no other choice has both fewer operations and less error.
    """
    conversions = sum(one.conversions for one in scores.values())
    made = {}
    for name, one in scores.items():
        made[name] = one.best(1.0 if sensitivity is None else sensitivity[name], price * one.conversions / conversions)
    return made


def mean_operations(settings: Mapping[str, Chosen]) -> float:
    """A/D operations per conversion, mean over all conversions of the network (calibration images)."""
    conversions = sum(s.conversions for s in settings.values())
    return sum(s.operations * s.conversions for s in settings.values()) / max(conversions, 1)


def apply(graph: Graph, settings: Mapping[str, Chosen]) -> Graph:
    """The graph with these converters."""
    return with_settings(
        graph,
        registers={name: s.setting.registers for name, s in settings.items()},
        counts_per_lsb={name: s.setting.counts_per_lsb for name, s in settings.items()},
    )


def error_for(scores: Mapping[str, Scores], budgets: Sequence[float]) -> list[float | None]:
    """Least error of the sums for a budget of mean operations per conversion; None where nothing is that cheap.

    The error is the layers' mean. Settings are those of `choose` at 200 prices, so a budget may not be spent to the
    last operation.
    """
    points = []
    for price in np.geomspace(1e-8, 1e3, 200):
        made = choose(scores, float(price))
        points.append((mean_operations(made), sum(c.output_error for c in made.values()) / len(made)))
    return [min((error for spent, error in points if spent <= budget), default=None) for budget in budgets]


# ---- search -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Step:
    """One bound of the descending search. accepted : settings that hold at it, or None."""

    limit: int
    accepted: dict[str, Chosen] | None
    price: float | None
    checks: int


@dataclass(frozen=True, eq=False)
class Check(check.Check):
    """Comparison with the network that has lossless converters."""

    def changed(self, settings: Mapping[str, Chosen]) -> Graph:
        return apply(self.graph, settings)


def cheapest(
    scores: Mapping[str, Scores],
    holds: Callable[[dict[str, Chosen]], bool],
    *,
    sensitivity: Mapping[str, float] | None = None,
) -> Found[dict[str, Chosen]]:
    """Settings with the highest price at which `holds`, an end-to-end check of settings."""
    return highest(lambda price: choose(scores, price, sensitivity), holds)


def descend(
    scores_of: Callable[[int], Mapping[str, Scores]],
    limits: Sequence[int],
    holds: Callable[[dict[str, Chosen]], bool],
    start: dict[str, Chosen],
    *,
    sensitivity: Mapping[str, float] | None = None,
    done: Callable[[Step], None] = lambda step: None,
) -> tuple[dict[str, Chosen], list[Step]]:
    """Descending search: (settings, steps).

    limits : bounds on n_r1, n_r2, falling. start : settings that hold. done : told about every step.

    A step whose settings spend more than those accepted before, or that has none that hold, leaves the accepted
    settings as they are; after one that has none, the search ends. (The printed algorithm keeps the failing one.)
    """
    accepted, steps = start, []
    for limit in limits:
        found = cheapest(scores_of(limit), holds, sensitivity=sensitivity)
        step = Step(limit, found.settings, found.price, found.checks)
        done(step)
        steps.append(step)
        if step.accepted is None:
            break
        if mean_operations(step.accepted) <= mean_operations(accepted):
            accepted = step.accepted
    return accepted, steps
