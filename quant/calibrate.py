"""Calibrate A/D converters and dynamic precision: `python -m quant.calibrate` (system.md §6, §7).

Twin-range calibration (TRQ, Algorithm 1 corrected): one pass over the calibration images records the
histogram of counts per layer and class (input bit, weight plane); every candidate setting is scored
from it by A/D operations and squared error; n_r2 descends while end-to-end accuracy in the golden model
holds, and the last accepted setting is restored on a failure (the printed algorithm keeps the failing
one). Dynamic precision: the largest tau per layer that accuracy tolerates.

Accuracy is measured on the images held out from training, never on the test part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import numpy as np
import typer
from rich.progress import Progress

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.crossbar.prepared import prepare_layer
from golden_model.crossbar.windows import windows
from golden_model.engines.chain import Runner
from golden_model.engines.run_layer import run_layer
from golden_model.events import Events
from golden_model.graph.layers import Network
from golden_model.trq import AdcRegisters, convert_counts, lossless, min_count
from quant import checkpoint
from quant import stages as pipeline
from quant.data import digits as data
from quant.integer import AdcSetting, exact_layer, lossless_uniform, to_layers, with_settings
from quant.training.layers import QuantNetwork

Family = Literal["ideal", "normal", "general", "uniform"]
FAMILIES: tuple[Family, ...] = ("ideal", "normal", "general", "uniform")
Grid = Literal["aligned", "continuous"]
#: Algorithm 1: V_ref is searched over [alpha, beta] times the largest count, in C candidates.
SEARCH_ALPHA, SEARCH_BETA, SEARCH_CANDIDATES = 0.1, 1.2, 50
SEARCH_M = range(8)
#: tau candidates of dynamic precision, largest first; tau_sq is unsigned Q4.12.
TAU_CANDIDATES = (3.9, 2.8, 2.0, 1.4, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05)
TAU_ONE = 1 << 12
#: Above this many rows input slices are converted one by one instead of by pattern.
_PATTERN_ROWS = 12
_CHUNK = 1 << 14


# ---- histograms -------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Histogram:
    """How often each count occurs in a layer, over all conversions of a machine without dynamic precision.

    counts : int64 (input_bits, weight_bits, ou_rows + 1), per class (input bit i, weight plane b).
    zero_slices : int64 (input_bits, weight_bits), those of `counts[..., 0]` that belong to all-zero
        input slices and do not happen with zero-slice skipping.
    """

    counts: np.ndarray
    zero_slices: np.ndarray

    def used(self, skip_zero_slices: bool) -> np.ndarray:
        """`counts`, without conversions of all-zero slices if they are skipped."""
        if not skip_zero_slices:
            return self.counts
        counts = self.counts.copy()
        counts[..., 0] -= self.zero_slices
        return counts


def layer_histogram(layer: Layer, hardware: HardwareConfig, activations: np.ndarray) -> Histogram:
    """Histogram of a layer's counts for its input activations, uint8 (B, C, H, W)."""
    rows = windows(layer, activations).reshape(-1, layer.k)
    segments = layer.segments(hardware)
    padded = np.zeros((len(rows), segments * hardware.ou_rows), dtype=np.uint8)
    padded[:, : layer.k] = rows
    stored = mapping.planes(layer.weights, hardware)  # (segments, weight_bits, 2, ou_rows, N)
    column_widths = np.repeat(layer.block_widths, hardware.ou_cols, axis=1)[:, : layer.outputs]
    counts = np.zeros((hardware.input_bits, hardware.weight_bits, hardware.ou_rows + 1), dtype=np.int64)
    zero_slices = np.zeros((hardware.input_bits, hardware.weight_bits), dtype=np.int64)
    for segment in range(segments):
        values = padded[:, segment * hardware.ou_rows : (segment + 1) * hardware.ou_rows]
        cells = [stored[segment, b][:, :, column_widths[segment] > b] for b in range(hardware.weight_bits)]
        cells = [c.transpose(0, 2, 1).reshape(-1, hardware.ou_rows).astype(np.float32) for c in cells]
        if not any(len(c) for c in cells):
            continue
        for i in range(layer.input_bits):
            empty = int((((values >> i) & 1).max(axis=1) == 0).sum())
            for slices, weights in _slices((values >> i) & 1):
                for b, plane in enumerate(cells):
                    if len(plane):
                        found = (plane @ slices).astype(np.int64)
                        weight = np.broadcast_to(weights, found.shape).ravel()
                        made = np.bincount(found.ravel(), weights=weight, minlength=hardware.ou_rows + 1)
                        counts[i, b] += made.astype(np.int64)
            for b, plane in enumerate(cells):
                zero_slices[i, b] += empty * len(plane)
    return Histogram(counts, zero_slices)


def _slices(bits: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Input slices (P, ou_rows) of 0 and 1 as (float32 (ou_rows, X), how often each occurs (X,))."""
    rows = bits.shape[1]
    if rows <= _PATTERN_ROWS:
        often = np.bincount(bits.astype(np.int64) @ (1 << np.arange(rows)), minlength=1 << rows)
        present = np.flatnonzero(often)
        yield ((present >> np.arange(rows)[:, None]) & 1).astype(np.float32), often[present].astype(np.float64)
        return
    for start in range(0, len(bits), _CHUNK):
        part = np.ascontiguousarray(bits[start : start + _CHUNK].T, dtype=np.float32)
        yield part, np.ones(part.shape[1])


def histograms(layers: Sequence[Layer], hardware: HardwareConfig, images: np.ndarray) -> list[Histogram]:
    """Histograms of all layers in one pass of uint8 images (B, C, H, W) with exact sums."""
    result, x = [], images
    for layer in layers:
        x = x.reshape(len(x), layer.channels, layer.height, layer.width)
        result.append(layer_histogram(layer, hardware, x))
        x = exact_layer(replace(layer, dynamic=None), hardware, x)
    return result


# ---- candidates -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scored:
    """A candidate setting with its family, mean A/D operations and mean squared error in counts**2."""

    family: Family
    setting: AdcSetting
    operations: float
    error: float


def score(
    setting: AdcSetting, counts: np.ndarray, hardware: HardwareConfig, weighted: bool = False
) -> tuple[float, float]:
    """(mean A/D operations per conversion, mean squared error in counts**2) of a setting.

    counts : (input_bits, weight_bits, ou_rows + 1). weighted : errors weigh 4**(i + b), as they do in
    the sum; operations never do. No conversions: (0, 0).
    """
    table = convert_counts(
        hardware.adc_bits, hardware.ou_rows, setting.registers, min_count(hardware.adc_bits, setting.counts_per_lsb)
    )
    total = counts.sum()
    if total == 0:
        return 0.0, 0.0
    operations = float((counts.sum(axis=(0, 1)) * table.operations).sum() / total)
    found = table.value * setting.counts_per_unit(hardware.adc_bits)
    squares = (found - np.arange(hardware.ou_rows + 1)) ** 2
    if not weighted:
        return operations, float((counts.sum(axis=(0, 1)) * squares).sum() / total)
    i, b = np.indices(counts.shape[:2])
    weight = 4.0 ** (i + b)
    return operations, float((weight * (counts @ squares)).sum() / (weight * counts.sum(axis=2)).sum())


def candidates(
    hardware: HardwareConfig, limit: int, largest_count: int, grid: Grid, families: Sequence[Family] = FAMILIES
) -> Iterator[tuple[Family, AdcSetting]]:
    """Settings with n_r1, n_r2 <= `limit` (system.md §7).

    ideal: bias 0, Delta_R1 = 1 count. normal: the same grid, bias searched. general: n_r1 = n_r2, m and
    lambda searched. uniform: n_r2 and lambda searched. `grid` "aligned" keeps lambda a power of two;
    "continuous" lets V_ref run over [0.1, 1.2] times the largest count.
    """
    r = hardware.adc_bits
    scales = _scales(hardware, largest_count, grid)
    for n_r2 in range(1, min(limit, r) + 1):
        if "uniform" in families:
            for scale in scales:
                registers = AdcRegisters(mode="uniform", n_r2=n_r2)
                yield "uniform", AdcSetting(registers=registers, counts_per_lsb=scale)
        for m in SEARCH_M[: r - n_r2 + 1]:
            own_scale = 2.0 ** -(r - n_r2 - m)  # Delta_R1 = 1 count
            for n_r1 in range(min(limit, n_r2 + m - 1) + 1):
                top = (1 << (n_r2 + m - n_r1)) - 2
                if "ideal" in families:
                    registers = AdcRegisters(mode="twin", n_r2=n_r2, n_r1=n_r1, m=m)
                    yield "ideal", AdcSetting(registers=registers, counts_per_lsb=own_scale)
                if "normal" in families:
                    for bias in range(1, top + 1):
                        if bias << n_r1 > hardware.ou_rows:
                            break  # the window lies above every count
                        registers = AdcRegisters(mode="twin", n_r2=n_r2, n_r1=n_r1, m=m, bias=bias)
                        yield "normal", AdcSetting(registers=registers, counts_per_lsb=own_scale)
            if "general" in families and n_r2 < n_r2 + m:
                for scale in scales:
                    registers = AdcRegisters(mode="twin", n_r2=n_r2, n_r1=n_r2, m=m)
                    yield "general", AdcSetting(registers=registers, counts_per_lsb=scale)


def _scales(hardware: HardwareConfig, largest_count: int, grid: Grid) -> list[float]:
    """lambda candidates: counts per LSB of the full grid."""
    if grid == "aligned":
        return [2.0**k for k in range(-hardware.adc_bits, hardware.ou_rows.bit_length() + 1)]
    full = max(1, largest_count) * np.linspace(SEARCH_ALPHA, SEARCH_BETA, SEARCH_CANDIDATES)
    return [float(f) / 2**hardware.adc_bits for f in full]


def best_lossless(counts: np.ndarray, hardware: HardwareConfig) -> Scored:
    """The lossless setting with the fewest mean A/D operations; ties prefer uniform, then small registers."""
    found: list[tuple[tuple, Scored]] = []
    for family, setting in candidates(hardware, hardware.adc_bits, hardware.ou_rows, "aligned"):
        if setting.lossless(hardware):
            operations, error = score(setting, counts, hardware)
            r = setting.registers
            key = (operations, r.mode == "twin", r.n_r2, r.n_r1, r.bias, r.m)
            found.append((key, Scored(family, setting, operations, error)))
    if not found:
        raise ValueError(
            f"no lossless setting exists: {hardware.ou_rows} rows need adc_bits = {hardware.ideal_bits},"
            f" got {hardware.adc_bits}"
        )
    return min(found, key=lambda item: item[0])[1]


def best_lossy(
    counts: np.ndarray,
    hardware: HardwareConfig,
    limit: int,
    *,
    bound: float,
    grid: Grid,
    families: Sequence[Family] = FAMILIES,
    weighted: bool = False,
) -> Scored | None:
    """The best setting with n_r2 <= limit by (operations, then error), error within the bound, or None.

    bound : largest mean squared error over the mean squared count, a noise-to-signal ratio.
    """
    totals = counts.sum(axis=(0, 1))
    occurring = np.flatnonzero(totals)
    largest = int(occurring[-1]) if len(occurring) else 0
    best: Scored | None = None
    signal = _signal(counts, weighted)
    for family, setting in candidates(hardware, limit, largest, grid, families):
        operations, error = score(setting, counts, hardware, weighted)
        if error > bound * signal:
            continue
        if best is None or (operations, error) < (best.operations, best.error):
            best = Scored(family, setting, operations, error)
    return best


def _signal(counts: np.ndarray, weighted: bool) -> float:
    """Mean squared count, weighted as the error is."""
    squares = np.arange(counts.shape[-1]) ** 2.0
    i, b = np.indices(counts.shape[:2])
    weight = 4.0 ** (i + b) if weighted else np.ones(counts.shape[:2])
    total = (weight * counts.sum(axis=2)).sum()
    return float((weight * (counts @ squares)).sum() / total) if total else 0.0


# ---- end-to-end accuracy ----------------------------------------------------------------------------
def measure(layers: Sequence[Layer], hardware: HardwareConfig, images: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of integer layers: by exact sums where every converter is lossless, else in the golden model."""
    return float(right_images(layers, hardware, images, labels).mean())


def right_images(
    layers: Sequence[Layer], hardware: HardwareConfig, activations: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Which inputs of `layers[0]` are classified right, bool (B,)."""
    return logits_of(layers, hardware, activations).argmax(axis=1) == labels


def logits_of(layers: Sequence[Layer], hardware: HardwareConfig, activations: np.ndarray) -> np.ndarray:
    """Logits (B, N) of the inputs of `layers[0]`, uint8 (B, C, H, W); lossy converters included."""
    for layer in layers:
        activations = _run(layer, hardware, activations)
    return activations


def _run(layer: Layer, hardware: HardwareConfig, activations: np.ndarray, chunk: int = 100) -> np.ndarray:
    """One layer's output: by exact sums if its converter is lossless, else in the golden model."""
    exact = lossless(layer.registers, hardware, layer.min_count)
    prepared = None if exact else prepare_layer(layer, hardware)
    parts = []
    for start in range(0, len(activations), chunk):
        x = activations[start : start + chunk]
        x = x.reshape(len(x), layer.channels, layer.height, layer.width)
        if exact:
            parts.append(exact_layer(layer, hardware, x))
        else:
            parts.append(run_layer(layer, hardware, x, prepared=prepared)[0])
    return np.concatenate(parts)


def events_of(layers: Sequence[Layer], hardware: HardwareConfig, images: np.ndarray) -> tuple[Events, np.ndarray]:
    """(events per layer summed over images, cycles per image) in the golden model."""
    runner = Runner(Network(name="calibration", hardware=hardware, layers=tuple(layers)))
    _, events = runner.run(images)
    return events.sum(axis=0), runner.cycles(events)


# ---- twin-range calibration -------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class TrqOptions:
    """Settings of `calibrate_adc`.

    lossless : only settings that convert every count exactly. tolerance : accuracy (a share) that lossy
    settings may cost end to end. bound : largest error per layer (see `best_lossy`). grid : "aligned" or
    "continuous". weighted : weigh errors by 4**(i + b). images : validation images.
    """

    lossless: bool = True
    tolerance: float = 0.01
    bound: float = 0.05
    grid: Grid = "aligned"
    weighted: bool = False
    images: int = 256


#: Told about every step: (text).
Log = Callable[[str], None]


def calibrate_adc(
    network: QuantNetwork,
    found: Sequence[Histogram],
    options: TrqOptions,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    skip_zero_slices: bool = False,
    log: Log = lambda text: None,
) -> list[Scored]:
    """One A/D setting per layer (Algorithm 1, corrected).

    found : histograms of `network`'s layers. images, labels : to measure accuracy on.

    Starts from the best lossless settings. Then the limit on n_r2 descends from R - 1: all layers at
    once, and if accuracy drops beyond the tolerance, that step is undone and tried layer by layer
    (*ours*), each kept only if accuracy holds. Ends when a limit changes no layer.
    """
    hardware = network.hardware
    counts = [h.used(skip_zero_slices) for h in found]
    accepted = [best_lossless(c, hardware) for c in counts]
    if options.lossless:
        return accepted
    base = measure(to_layers(network), hardware, images, labels)
    floor = base - options.tolerance

    def holds(settings: Sequence[Scored]) -> bool:
        return measure(to_layers(network, [s.setting for s in settings]), hardware, images, labels) >= floor

    for limit in range(hardware.adc_bits - 1, 0, -1):
        proposed = []
        for present, c in zip(accepted, counts, strict=True):
            better = best_lossy(c, hardware, limit, bound=options.bound, grid=options.grid, weighted=options.weighted)
            proposed.append(better if better is not None and better.operations < present.operations else present)
        changed = [index for index, (old, new) in enumerate(zip(accepted, proposed, strict=True)) if old is not new]
        if not changed:
            log(f"n_r2 <= {limit}: no layer has a better setting within the error bound")
            break
        if holds(proposed):
            accepted = proposed
            log(f"n_r2 <= {limit}: accepted for {len(changed)} layers")
            continue
        kept = 0
        for index in changed:
            trial = [*accepted[:index], proposed[index], *accepted[index + 1 :]]
            if holds(trial):
                accepted, kept = trial, kept + 1
        log(f"n_r2 <= {limit}: accuracy drops; restored, then accepted for {kept} of {len(changed)} layers")
        if not kept:
            break
    return accepted


# ---- dynamic precision ------------------------------------------------------------------------------
def calibrate_dynamic(
    layers: Sequence[Layer],
    hardware: HardwareConfig,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    tolerance: float,
    l_max: int,
    log: Log = lambda text: None,
) -> list[DynamicPrecision]:
    """Dynamic-precision registers per layer (system.md §6).

    From first to last layer, each takes the largest tau (by bisection of TAU_CANDIDATES) at which no more
    than the share `tolerance` of the images, common to all layers, is lost: right without lossy dropping,
    wrong with it. Images that turn right by chance do not pay for lost ones: choosing among many
    candidates by net accuracy favours lucky ones, and the drop comes back on other images.
    l_max = 0 leaves the lossless part only.
    """
    settings = [DynamicPrecision() for _ in layers]
    if l_max == 0:
        return settings
    high_only = with_settings(layers, settings)
    right = right_images(high_only, hardware, images, labels)
    x = images  # input of the present layer, layers before it settled
    for index, layer in enumerate(high_only):
        low, high = 0, len(TAU_CANDIDATES)  # the first candidate that holds, if losses grow with tau
        while low < high:
            middle = (low + high) // 2
            trial = replace(layer, dynamic=_with_tau(TAU_CANDIDATES[middle], l_max))
            kept = right_images((trial, *high_only[index + 1 :]), hardware, x, labels)
            if (right & ~kept).mean() <= tolerance:
                high = middle
            else:
                low = middle + 1
        if low < len(TAU_CANDIDATES):
            settings[index] = _with_tau(TAU_CANDIDATES[low], l_max)
        log(f"{layer.name}: tau_sq {settings[index].tau_sq}, l_max {settings[index].l_max}")
        x = _run(replace(layer, dynamic=settings[index]), hardware, x)
    return settings


def _with_tau(tau: float, l_max: int) -> DynamicPrecision:
    return DynamicPrecision(l_max=l_max, tau_sq=min(65535, int(tau**2 * TAU_ONE + 0.5)))


# ---- command line -----------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that decides the result of `calibrate`, besides the checkpoint and the data."""

    adc: TrqOptions = TrqOptions()
    redy: bool = True
    redy_tolerance: float = 0.001
    l_max: int = 4
    redy_images: int = 5000
    skip_zero_slices: bool = True
    event_images: int = 100


def calibrate(
    network: QuantNetwork, dataset: data.Dataset, options: Options, log: Log = lambda text: None
) -> dict[str, Any]:
    """Calibrate converters and dynamic precision; returns the content of calibration.json, JSON-able.

    Raises ValueError with one sentence when data and network do not fit.
    """
    hardware = network.hardware
    plain = to_layers(network)
    first = plain[0]
    if dataset.shape != (first.channels, first.height, first.width):
        raise ValueError(
            f"the network takes images of {first.channels} x {first.height} x {first.width},"
            f" the data set has {' x '.join(map(str, dataset.shape))}"
        )
    if dataset.classes > plain[-1].outputs:
        raise ValueError(f"the data set has {dataset.classes} classes, the network only {plain[-1].outputs} outputs")
    log("histograms of counts")
    found = histograms(plain, hardware, dataset.calibration())
    images, labels = dataset.validation(max(options.adc.images, options.redy_images))
    few = slice(0, options.adc.images)
    chosen = calibrate_adc(
        network, found, options.adc, images[few], labels[few], skip_zero_slices=options.skip_zero_slices, log=log
    )
    settings = [s.setting for s in chosen]
    twin = to_layers(network, settings)
    # The claim about operations per conversion is for a machine that skips nothing, so it has its own settings.
    unskipped = [best_lossless(h.counts, hardware) for h in found] if options.adc.lossless else chosen
    exact = all(s.lossless(hardware) for s in settings)
    some = slice(0, options.redy_images if exact else options.adc.images)
    dynamic: list[DynamicPrecision] | None = None
    if options.redy:
        dynamic = calibrate_dynamic(
            twin, hardware, images[some], labels[some], tolerance=options.redy_tolerance, l_max=options.l_max, log=log
        )
    final = to_layers(network, settings, dynamic, skip_zero_slices=options.skip_zero_slices)

    log("accuracy on the test images")
    test, classes = dataset.test_images, dataset.test_labels
    ladder = {"trq": measure(twin, hardware, test, classes)}
    if dynamic is not None:
        ladder["redy"] = measure(final, hardware, test, classes)
    log("events in the golden model")
    sample = test[: options.event_images]
    return {
        "hardware_hash": hardware.hash,
        "lossless": exact,
        "accuracy": ladder,
        "layers": [
            _layer_record(*parts, options.skip_zero_slices)
            for parts in zip(final, chosen, found, dynamic or [None] * len(final), [hardware] * len(final), strict=True)
        ],
        "skip_zero_slices": options.skip_zero_slices,
        "events": _events_record(
            plain, to_layers(network, [s.setting for s in unskipped]), twin, final, hardware, dynamic, sample
        ),
        "registers_without_skipping": [asdict(s.setting.registers) for s in unskipped],
    }


def _layer_record(
    layer: Layer,
    chosen: Scored,
    found: Histogram,
    dynamic: DynamicPrecision | None,
    hardware: HardwareConfig,
    skip_zero_slices: bool,
) -> dict[str, Any]:
    operations, error = score(chosen.setting, found.counts, hardware)
    skipping, _ = score(chosen.setting, found.used(True), hardware)
    return {
        "name": layer.name,
        "family": chosen.family,
        "registers": asdict(chosen.setting.registers),
        "counts_per_lsb": chosen.setting.counts_per_lsb,
        "lossless": chosen.setting.lossless(hardware),
        "operations_per_conversion": operations,
        "operations_per_conversion_skipping_zero_slices": skipping,
        "mean_squared_error": error,
        "dynamic": None if dynamic is None else asdict(dynamic),
        "histogram": found.counts.sum(axis=(0, 1)).tolist(),
        "histogram_classes": found.counts.tolist(),
        "zero_slice_conversions": found.zero_slices.tolist(),
    }


def _events_record(
    plain: Sequence[Layer],
    unskipped: Sequence[Layer],
    twin: Sequence[Layer],
    final: Sequence[Layer],
    hardware: HardwareConfig,
    dynamic: Sequence[DynamicPrecision] | None,
    images: np.ndarray,
) -> dict[str, Any]:
    """Mean event counts per image of the golden model, step by step, with what each step is.

    `uniform`: stored planes only, uniform converter. `trq`: converter calibrated for a machine that skips
    nothing. `redy_lossless`: deployed converter, empty high bits dropped. `redy`: plus lossy dropping.
    `all`: plus zero-slice skipping if chosen, the deployed setting.
    """
    steps: dict[str, Sequence[Layer]] = {"uniform": plain, "trq": unskipped}
    if dynamic is not None:
        high = [DynamicPrecision() for _ in dynamic]
        steps["redy_lossless"] = with_settings(twin, high)
        steps["redy"] = with_settings(twin, dynamic)
    steps["all"] = final
    record: dict[str, Any] = {"images": len(images), "per_image": {}}
    for name, layers in steps.items():
        events, cycles = events_of(layers, hardware, images)
        total = events.sum()
        conversions = int(total.conversions)
        record["per_image"][name] = {
            **{key: value / len(images) for key, value in total.as_dict(derived=True).items() if key != "cycles"},
            "clocks": float(cycles.mean()),
            "operations_per_conversion": total.ad_operations / conversions if conversions else 0.0,
            "layers": {
                layer.name: {
                    "ou_activations": int(events.ou_activations[index]) / len(images),
                    "conversions": int(events.conversions[index]) / len(images),
                    "ad_operations": int(events.ad_operations[index]) / len(images),
                }
                for index, layer in enumerate(layers)
            },
        }
    ideal = lossless_uniform(hardware).registers.n_r2
    magnitude = min(7, hardware.weight_bits)
    dense = sum(layer.windows * layer.segments(hardware) * layer.outputs for layer in plain)
    conversions = dense * 2 * magnitude * hardware.input_bits
    record["isaac_like"] = {
        "operations_per_conversion": ideal,
        "conversions": conversions,
        "ad_operations": conversions * ideal,
        "what": f"{magnitude} magnitude planes everywhere, both polarities, {hardware.input_bits}-bit activations,"
        f" no skipping, uniform {ideal}-bit converter",
    }
    record["share_of_baseline_operations_per_conversion"] = (
        record["per_image"]["trq"]["operations_per_conversion"] / ideal
    )
    record["share_of_baseline_operations"] = record["per_image"]["all"]["ad_operations"] / (conversions * ideal)
    return record


def settings_of(calibration: dict[str, Any]) -> tuple[list[AdcSetting], list[DynamicPrecision | None]]:
    """A/D settings and dynamic precision per layer from the content of calibration.json."""
    try:
        adc = [
            AdcSetting(registers=AdcRegisters(**layer["registers"]), counts_per_lsb=float(layer["counts_per_lsb"]))
            for layer in calibration["layers"]
        ]
        dynamic = [
            None if layer["dynamic"] is None else DynamicPrecision(**layer["dynamic"])
            for layer in calibration["layers"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"calibration: {error} is missing or not usable") from error
    return adc, dynamic


def dataset_of(content: dict[str, Any], data_dir: Path | None) -> data.Dataset:
    """The data set that a checkpoint was trained on, or another one of the user's choice."""
    source = content["data"]["source"]
    if data_dir is None and source != data.DIGITS:
        data_dir = Path(source)
    return data.load(data_dir)


app = typer.Typer(add_completion=False)


def print_calibration(result: dict[str, Any]) -> None:
    for layer in result["layers"]:
        r, d = layer["registers"], layer["dynamic"]
        pipeline.console.print(
            f"{layer['name']:8s} {layer['family']:8s} n_r1 {r['n_r1']} n_r2 {r['n_r2']} m {r['m']} bias {r['bias']}"
            f"  lambda {layer['counts_per_lsb']:g}  {layer['operations_per_conversion']:.3f} operations/conversion"
            + ("" if layer["lossless"] else f"  error {layer['mean_squared_error']:.3g}")
            + ("" if d is None else f"  tau_sq {d['tau_sq']} l_max {d['l_max']}")
        )
    names = {"trq": "with TRQ", "redy": "with ReDy"}
    shown = "  ".join(f"{names[key]} {100 * value:.2f} %" for key, value in result["accuracy"].items())
    pipeline.console.print(f"accuracy: {shown}; converters {'lossless' if result['lossless'] else 'lossy'}")
    events = result["events"]
    pipeline.console.print(
        f"A/D operations per conversion, nothing skipped: {events['per_image']['trq']['operations_per_conversion']:.3f}"
        f" ({100 * events['share_of_baseline_operations_per_conversion']:.1f} % of the ISAAC-like baseline's"
        f" {events['isaac_like']['operations_per_conversion']})"
    )
    everything = events["per_image"]["all"]
    pipeline.console.print(
        f"per image, everything on: {everything['ad_operations']:.0f} A/D operations"
        f" ({100 * events['share_of_baseline_operations']:.2f} % of the baseline's),"
        f" {everything['ou_activations']:.0f} OU activations, {everything['clocks']:.0f} clocks"
    )


@app.command()
@pipeline.reports_errors
def main(
    work: Annotated[Path, typer.Option(help="Working directory of the pipeline.")] = Path("build/lenet5"),
    data_dir: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time
        typer.Option("--data", help="Directory with the four idx files; default: the data of training."),
    ] = None,
    lossless: Annotated[bool, typer.Option(help="Only settings that convert every count exactly.")] = False,
    tolerance: Annotated[float, typer.Option(help="Accuracy (a share) that lossy converters may cost.")] = 0.01,
    mse_bound: Annotated[float, typer.Option(help="Largest squared error of a layer over its squared counts.")] = 0.05,
    grid: Annotated[str, typer.Option(help="aligned (lambda a power of two) or continuous.")] = "aligned",
    weighted: Annotated[bool, typer.Option(help="Weigh errors by 4**(i + b).")] = False,
    adc_images: Annotated[int, typer.Option(help="Held-out images that accuracy of converters is checked on.")] = 256,
    redy: Annotated[bool, typer.Option(help="Calibrate dynamic precision.")] = True,
    redy_tolerance: Annotated[float, typer.Option(help="Share of images that dynamic precision may lose.")] = 0.001,
    l_max: Annotated[int, typer.Option(help="Most low bits that dynamic precision may drop, 0..7.")] = 4,
    skip_zero_slices: Annotated[bool, typer.Option(help="Deploy with zero-slice skipping.")] = True,
    event_images: Annotated[int, typer.Option(help="Test images that events are counted on.")] = 100,
    force: Annotated[bool, typer.Option(help="Calibrate even if the output is up to date.")] = False,
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Also write the results here.")] = None,  # noqa: UP045
) -> None:
    """Calibrate the converters and dynamic precision of WORK/train.pt into WORK/calibration.json."""
    _check_range("tolerance", tolerance, 0, 1)
    _check_range("redy-tolerance", redy_tolerance, 0, 1)
    _check_range("mse-bound", mse_bound, 0, 1)
    _check_range("l-max", l_max, 0, 7)
    _check_range("adc-images", adc_images, 1, 1_000_000)
    _check_range("event-images", event_images, 1, 1_000_000)
    if grid not in ("aligned", "continuous"):
        raise ValueError(f"grid must be aligned or continuous, got {grid!r}")
    source = work / "train.pt"
    content = checkpoint.load(source)
    network = checkpoint.network_of(content, source)
    dataset = dataset_of(content, data_dir)
    options = Options(
        adc=TrqOptions(
            lossless=lossless,
            tolerance=tolerance,
            bound=mse_bound,
            grid=grid,  # type: ignore[arg-type]
            weighted=weighted,
            images=adc_images,
        ),
        redy=redy,
        redy_tolerance=redy_tolerance,
        l_max=l_max,
        skip_zero_slices=skip_zero_slices,
        event_images=event_images,
    )
    mark = pipeline.fingerprint(
        "calibrate",
        asdict(options),
        pipeline.sources_of("quant.calibrate"),
        train=content["fingerprint"],
        data=dataset.sha256,
    )
    target = work / "calibration.json"
    result = None if force else pipeline.finished(target, mark)
    if result is not None:
        pipeline.console.print(f"{target} is up to date")
    else:
        with Progress(console=pipeline.console, disable=not pipeline.console.is_terminal, transient=True) as progress:
            task = progress.add_task("calibrating", total=None)

            def log(text: str) -> None:
                progress.update(task, description=text)
                progress.console.print(text)

            result = {"fingerprint": mark, "options": asdict(options), **calibrate(network, dataset, options, log)}
        pipeline.write_json(target, result)
    if json_file is not None:
        pipeline.write_json(json_file, result)
    print_calibration(result)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be in {low:g}..{high:g}, got {value}")


if __name__ == "__main__":
    app()
