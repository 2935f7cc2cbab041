"""Search of dynamic activation precision for integer graphs (ReDy; system.md §6).

One pass of calibration images through the lossless network samples windows of every layer. All candidates (l_max,
tau_sq) of a layer are then scored from these: streamed bits, switched-on slices, energy, and squared error of the
layer's sums over their mean square. Layers share one price of energy (*ours*), and the highest price is taken whose
settings pass an end-to-end check on training images: squared error of the logits, and accuracy. (A network knows its
training images by heart, so accuracy alone would let nearly everything pass.)

    samples = collect(graph, images)
    scores = score_layers(graph, samples)
    settings = choose(scores, price=0.01)
    other = apply(graph, settings)

Skipping empty high bits is exact and needs no search: every candidate does it. Dropping low bits rounds half up, which
moves sums by a constant on average; `Chosen.shift` is that constant, and `apply` takes it off the layer's bias if told
to (*ours*; no hardware). Only the kind of search that says so (`KINDS`) does, in its check and in what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.cost.components import ComponentTable, load_table
from golden_model.cost.work import QUANTITIES, Work
from golden_model.crossbar import redy
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.crossbar.prepared import PATTERN_ROWS
from golden_model.crossbar.windows import windows
from golden_model.engines.run_network import GraphRunner, Progress
from golden_model.graph.network import Graph, build
from golden_model.graph.nodes import Crossbar
from golden_model.graph.settings import lossless_registers, with_settings
from quant.reference import exact_logits
from quant.search import check
from quant.search.price import highest

#: tau_sq is unsigned Q4.12, so that tau <= 4: a step of at most 4 standard deviations.
TAU_ONE, TAU_SQ_TOP = 1 << 12, 65535
#: Candidates: every l_max with every tau, 4 ... 1/8 in steps of sqrt(2).
L_MAX = range(1, 7)
TAU_SQ = tuple(min(TAU_SQ_TOP, round(16 * TAU_ONE * 2.0**-k)) for k in range(11))
#: Windows sampled per image and layer.
WINDOWS = 64

LOSSLESS = DynamicPrecision()


def candidates() -> tuple[DynamicPrecision, ...]:
    """Lossless skipping alone, then all settings that can drop low bits."""
    return LOSSLESS, *(DynamicPrecision(l_max=top, tau_sq=t) for top in L_MAX for t in TAU_SQ)


@dataclass(frozen=True)
class Kind:
    """What a search is free to choose.

    words : for tables. allowed : settings that it may take besides lossless skipping. corrected : biases take up the
    mean error of rounding, in its check and wherever its settings are measured.
    """

    words: str
    allowed: Callable[[DynamicPrecision], bool] = lambda setting: True
    corrected: bool = False


LOSSY = "lossy"
#: The method, then searches with a part of it, to see which register earns what (*ours*).
KINDS: dict[str, Kind] = {
    LOSSY: Kind("both registers searched"),
    "statistic": Kind(
        "the group's statistic alone decides (l_max 6, tau searched)", lambda setting: setting.l_max == max(L_MAX)
    ),
    "fixed": Kind("l_max alone decides (tau 4, l_max searched)", lambda setting: setting.tau_sq == TAU_SQ_TOP),
    "corrected": Kind("both, biases take up the mean error of rounding", corrected=True),
}


def allowed(kind: Kind, scores: Mapping[str, Scores]) -> dict[str, Scores]:
    """The scores that a search of this kind chooses from."""
    made = restrict(scores, kind.allowed)
    return {name: replace(s, output_error=s.corrected_error) for name, s in made.items()} if kind.corrected else made


# ---- machines -----------------------------------------------------------------------------------
def with_planes(graph: Graph, planes: int) -> Graph:
    """The same network on a machine that stores `planes` planes of every block (*more than needed is legal*).

    ValueError if a block needs more.
    """
    nodes = []
    for node in graph.nodes:
        if isinstance(node, Crossbar):
            layers = []
            for layer in node.layers:
                if int(layer.block_widths.max(initial=0)) > planes:
                    raise ValueError(
                        f"layer {layer.name}: its weights need {int(layer.block_widths.max())} planes, not {planes}"
                    )
                layers.append(replace(layer, block_widths=np.full_like(layer.block_widths, planes)))
            node = replace(node, layers=tuple(layers))
        nodes.append(node)
    return build(graph.name, graph.hardware, nodes, classes=graph.classes, info=graph.info)


def group_rows(hardware: HardwareConfig) -> int:
    """Rows that share one precision."""
    return hardware.ou_rows * hardware.segments_per_group


def arithmetic_twin(hardware: HardwareConfig) -> HardwareConfig:
    """A machine of few rows with the same dynamic-precision groups, so the same logits with lossless converters.

    The golden model is much faster on it. The machine itself if it has few rows, or if no such machine exists; never a
    pair machine.
    """
    hardware = hardware.of_planes
    rows = group_rows(hardware)
    divisors = [r for r in range(4, PATTERN_ROWS + 1) if rows % r == 0]
    if hardware.ou_rows <= PATTERN_ROWS or not divisors:
        return hardware
    best = min(divisors, key=lambda r: abs(r - 9))
    twin = replace(hardware, ou_rows=best, group_segments=rows // best)
    return replace(twin, adc_bits=twin.ideal_bits)


def slice_energy(layer: Layer, hardware: HardwareConfig, table: ComponentTable) -> tuple[np.ndarray, float]:
    """What bits cost in picojoules: per switched-on slice of every segment (segments,), and per streamed bit.

    Uniform conversion with n_r2 decisions where the layer's converter is uniform, else with R_ideal.
    """
    uniform = layer.registers.mode == "uniform"
    decisions = layer.registers.n_r2 if uniform else hardware.ideal_bits
    planes = layer.block_widths.sum(axis=1)
    conversions = 2 * (layer.block_widths @ layer.block_columns(hardware))

    def spent(**events: float) -> float:
        work = Work(layer.name, events)
        return sum(c.energy_pj * QUANTITIES[c.quantity].count(work, hardware) for c in table.components)

    per_activation = spent(ou_activations=1.0, cycles=float(max(1, hardware.sample_interval, decisions)))
    per_conversion = spent(conversions_r2=1.0, ad_operations=float(decisions))
    return planes * per_activation + conversions * per_conversion, spent(input_bits_streamed=1.0)


# ---- samples ------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Sample:
    """Windows of a crossbar node: rows[g], uint8 (P, K), of the layer of each group g."""

    rows: tuple[np.ndarray, ...]


def collect(
    graph: Graph, images: np.ndarray, *, windows_per_image: int = WINDOWS, progress: Progress | None = None
) -> dict[str, Sample]:
    """Sampled windows of every crossbar node for uint8 images (B, C, H, W), without dynamic precision; seeded."""
    plain = with_settings(graph, dynamic={node.name: None for node in graph.crossbars})
    found: dict[str, dict[str, list[np.ndarray]]] = {node.name: {} for node in graph.crossbars}
    order = {id(layer): index for node in plain.crossbars for index, layer in enumerate(node.layers)}
    seed = np.random.default_rng(0)

    def observe(name: str, layer: Layer, part: np.ndarray) -> None:
        kept = found[name].setdefault(str(order[id(layer)]), [])
        for image in windows(layer, part):
            chosen = seed.permutation(len(image))[:windows_per_image]
            kept.append(image[np.sort(chosen)])

    # One thread: batches come in order, so the sample does not depend on the machine.
    GraphRunner(plain, threads=1).run(images, observe=observe, progress=progress)
    return {
        name: Sample(tuple(np.concatenate(one[str(index)]) for index in range(len(one)))) for name, one in found.items()
    }


# ---- scores -------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of all distinct candidates of one crossbar node; arrays (candidates,).

    settings : the first is lossless. streamed : mean bits per window and segment. energy : picojoules per image that
    bits cost. static : the same with all bits streamed. output_error : squared error of the sums over their mean
    square. corrected_error : the same with the mean error per output taken off. shift : that mean error in counts,
    (candidates, N).
    """

    settings: tuple[DynamicPrecision, ...]
    streamed: np.ndarray
    energy: np.ndarray
    static: float
    output_error: np.ndarray
    corrected_error: np.ndarray
    shift: np.ndarray

    def take(self, candidate: int) -> Chosen:
        """One candidate, with what it was scored."""
        return Chosen(
            setting=self.settings[candidate],
            streamed=float(self.streamed[candidate]),
            energy=float(self.energy[candidate]),
            static=self.static,
            output_error=float(self.output_error[candidate]),
            shift=tuple(map(float, self.shift[candidate])),
        )


def _group_limits(rows: np.ndarray, hardware: HardwareConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per window and group: n (G,), hi (P, G), and n sum q**2 - (sum q)**2 (P, G), int64 (system.md §6)."""
    starts = np.arange(0, rows.shape[1], group_rows(hardware))
    n = np.diff(np.append(starts, rows.shape[1]))
    q = rows.astype(np.int64)
    total = np.add.reduceat(q, starts, axis=1)
    squares = np.add.reduceat(q * q, starts, axis=1)
    return n, redy.bit_length(np.maximum.reduceat(q, starts, axis=1)) - 1, n * squares - total * total


def _rounding_errors(rows: np.ndarray, hi: np.ndarray, n: np.ndarray, top: int) -> np.ndarray:
    """q'' - q for every number of dropped bits 0..top, int8 (top + 1, P, K); 0 where the group has fewer bits."""
    q = rows.astype(np.int16)
    hi_rows = np.repeat(hi, n, axis=1).astype(np.int16)
    errors = np.zeros((top + 1, *rows.shape), dtype=np.int8)
    for low in range(1, top + 1):
        largest = (np.int16(1) << np.maximum(hi_rows - low + 1, 0)) - 1
        kept = np.minimum((q + (1 << low >> 1)) >> low, largest) << low
        errors[low] = np.where(hi_rows >= low, kept - q, 0)
    return errors


def score_node(
    node: Crossbar,
    sample: Sample,
    hardware: HardwareConfig,
    table: ComponentTable,
    *,
    settings: Sequence[DynamicPrecision] | None = None,
    skip_zero_slices: bool = False,
) -> Scores:
    """Scores of every candidate of one node on the sampled windows, without running the network.

    skip_zero_slices : energy is that of a machine that skips input slices of zeros.
    """
    wanted = tuple(candidates() if settings is None else settings)
    top = max(s.l_max for s in wanted)
    prepared = []
    for layer, rows in zip(node.layers, sample.rows, strict=True):
        n, hi, spread = _group_limits(rows, hardware)
        errors = _rounding_errors(rows, hi, n, top)
        weights = layer.weights.astype(np.float32)
        power = (rows.astype(np.float32) @ weights).astype(np.float64)
        prepared.append((layer, rows, n, hi, spread, errors, weights, float((power**2).sum())))
    whole = max(sum(p[-1] for p in prepared), 1e-300)
    seen: set[bytes] = set()
    made: list[tuple[DynamicPrecision, float, float, float, float, np.ndarray]] = []
    for setting in wanted:
        redy.check(setting)
        lows = [_lows(setting, *p[2:5]) for p in prepared]
        key = b"".join(low.tobytes() for low in lows)
        if key in seen:
            continue
        seen.add(key)
        energy = streamed = segments = squares = without = 0.0
        shifts = []
        for (layer, rows, n, hi, _, errors, weights, _), low in zip(prepared, lows, strict=True):
            low_rows = np.repeat(low, n, axis=1)
            error = np.zeros(rows.shape, dtype=np.int8)
            for value in np.unique(low):
                if value:
                    np.copyto(error, errors[value], where=low_rows == value)
            sums = (error.astype(np.float32) @ weights).astype(np.float64)
            shift = sums.mean(axis=0)
            shifts.append(shift)
            squares += float((sums**2).sum())
            without += float(((sums - shift) ** 2).sum())
            per_slice, per_bit = slice_energy(layer, hardware, table)
            bits = np.where(hi < 0, 0, hi - low + 1)[:, np.arange(len(per_slice)) // hardware.segments_per_group]
            slices = bits
            if skip_zero_slices:
                slices = _used_slices(rows.view(np.int8) + error, len(per_slice), hardware.ou_rows)
            energy += layer.windows * float(slices.mean(axis=0) @ per_slice + bits.mean(axis=0).sum() * per_bit)
            streamed += layer.windows * float(bits.mean(axis=0).sum())
            segments += layer.windows * bits.shape[1]
        made.append((setting, streamed / segments, energy, squares / whole, without / whole, np.concatenate(shifts)))
    parts = list(zip(*made, strict=True))
    static = sum(
        layer.windows * layer.input_bits * float(per_slice.sum() + len(per_slice) * per_bit)
        for layer, (per_slice, per_bit) in ((p[0], slice_energy(p[0], hardware, table)) for p in prepared)
    )
    streamed_bits, energies, errors_found, without_shift = (np.array(part) for part in parts[1:5])
    return Scores(
        settings=tuple(parts[0]),
        streamed=streamed_bits,
        energy=energies,
        static=static,
        output_error=errors_found,
        corrected_error=without_shift,
        shift=np.stack(parts[5]),
    )


def _lows(setting: DynamicPrecision, n: np.ndarray, hi: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Dropped bits of every window and group, int64 (P, G), as `golden_model.crossbar.redy.precision`."""
    low = np.zeros_like(hi)
    for value in range(1, setting.l_max + 1):
        low += (n * n << (2 * value + 12)) <= setting.tau_sq * spread
    return np.minimum(low, np.maximum(hi, 0))


def _used_slices(streamed: np.ndarray, segments: int, rows: int) -> np.ndarray:
    """Slices that are not all zero, of q'' (P, K) as bytes: int64 (P, segments)."""
    padded = np.zeros((len(streamed), segments * rows), dtype=np.uint8)
    padded[:, : streamed.shape[1]] = streamed.view(np.uint8)
    used = np.bitwise_or.reduce(padded.reshape(len(streamed), segments, rows), axis=2)
    return np.bitwise_count(used).astype(np.int64)


def score_layers(
    graph: Graph,
    samples: Mapping[str, Sample],
    *,
    table: ComponentTable | None = None,
    skip_zero_slices: bool = False,
    progress: Progress | None = None,
) -> dict[str, Scores]:
    """`score_node` for every crossbar node, on the graph's machine."""
    energy = load_table() if table is None else table
    made = {}
    for index, node in enumerate(graph.crossbars):
        made[node.name] = score_node(
            node, samples[node.name], graph.hardware, energy, skip_zero_slices=skip_zero_slices
        )
        if progress is not None:
            progress(index + 1, len(graph.crossbars))
    return made


# ---- choices ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Chosen:
    """What a layer takes; fields as in `Scores`, estimated on the samples."""

    setting: DynamicPrecision
    streamed: float
    energy: float
    static: float
    output_error: float
    shift: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        fields = asdict(self)
        return {**fields.pop("setting"), **fields, "shift": list(self.shift)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Chosen:
        setting = DynamicPrecision(l_max=values["l_max"], tau_sq=values["tau_sq"])
        numbers = {name: values[name] for name in ("streamed", "energy", "static", "output_error")}
        return cls(setting, **numbers, shift=tuple(values["shift"]))


Settings = dict[str, Chosen]


def lossless(scores: Mapping[str, Scores]) -> Settings:
    """Every layer skips empty high bits and drops nothing."""
    return {name: one.take(0) for name, one in scores.items()}


def choose(scores: Mapping[str, Scores], price: float, sensitivity: Mapping[str, float] | None = None) -> Settings:
    """Settings that share one price between accuracy and energy (*ours*).

    Minimises sum over layers of sensitivity * output_error + price * energy / energy of the static machine: for errors
    that add up, no other choice has both less energy and less error.
    """
    static = max(sum(one.static for one in scores.values()), 1e-300)
    made = {}
    for name, one in scores.items():
        weight = 1.0 if sensitivity is None else sensitivity[name]
        made[name] = one.take(int(np.argmin(weight * one.output_error + price * one.energy / static)))
    return made


def restrict(scores: Mapping[str, Scores], allowed: Callable[[DynamicPrecision], bool]) -> dict[str, Scores]:
    """Only lossless skipping and the settings that are allowed."""
    made = {}
    for name, one in scores.items():
        kept = np.flatnonzero([s == LOSSLESS or allowed(s) for s in one.settings])
        made[name] = replace(
            one,
            settings=tuple(one.settings[i] for i in kept),
            **{k: getattr(one, k)[kept] for k in ("streamed", "energy", "output_error", "corrected_error", "shift")},
        )
    return made


def apply(graph: Graph, settings: Mapping[str, Chosen], *, correct: bool = False) -> Graph:
    """The graph with these dynamic-precision registers.

    correct : biases take up the mean error of rounding half up.
    """
    changed = with_settings(graph, dynamic={name: s.setting for name, s in settings.items()})
    if not correct:
        return changed
    nodes = []
    for node in changed.nodes:
        if isinstance(node, Crossbar) and node.name in settings:
            step = node.step * changed.node(node.inputs[0]).encoding.scale  # real value of one count
            node = replace(node, bias=node.bias - np.array(settings[node.name].shift) * step)
        nodes.append(node)
    return build(changed.name, changed.hardware, nodes, classes=changed.classes, info=changed.info)


# ---- end-to-end check ---------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Check(check.Check):
    """Comparison with the network without dynamic precision, on its `arithmetic_twin`; converters must be lossless.

    correct : biases take up the mean error of rounding half up.
    """

    correct: bool = False

    @classmethod
    def of(cls, graph: Graph, images: np.ndarray, labels: np.ndarray, threads: int | None = None) -> Check:
        """ValueError if a converter is lossy."""
        hardware = arithmetic_twin(graph.hardware)
        plain = with_settings(graph, hardware=hardware, dynamic={node.name: None for node in graph.crossbars})
        exact = exact_logits(plain, images)
        uniform = {node.name: lossless_registers(hardware) for node in plain.crossbars}
        return cls(with_settings(plain, registers=uniform), images, labels, exact, threads)

    def changed(self, settings: Mapping[str, Chosen]) -> Graph:
        return apply(self.graph, settings, correct=self.correct)


def search(
    measure: Callable[[Settings], Mapping[str, float]],
    scores: Mapping[str, Scores],
    sensitivity: Mapping[str, float],
    budget: float,
    tolerance: float,
) -> tuple[Settings, float | None, Mapping[str, float] | None]:
    """(settings, price, its measurement) of the highest price that passes the check, by bisection.

    measure : `Check.measure`. budget : largest error of the logits. tolerance : accuracy (a share) that may be lost.

    If nothing passes, settings are the lossless ones, price and measurement None.
    """

    def passes(settings: Settings) -> Mapping[str, float] | None:
        made = measure(settings)
        right = made["accuracy"] >= made["exact_accuracy"] - tolerance
        return made if made["logit_error"] <= budget and right else None

    found = highest(lambda price: choose(scores, price, sensitivity), passes)
    return lossless(scores) if found.settings is None else found.settings, found.price, found.checked
