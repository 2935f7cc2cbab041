"""Twin-range conversion on its own workloads: `python -m quant.reproduce.trq` (TRQ Fig. 6; system.md §7, §12).

    python -m quant.reproduce.trq --network resnet20 --weights FILE --data DIR

Float network, lossless integers ("8/f"), and converters of at most n search steps, n = 8 ... 3 (4 ... 2 with operation
units of 9 rows):

* uniform, full scale: n bits over 2**R counts, and with 128 rows also over 128 counts, the most that can occur;
* uniform, calibrated: n bits, its range searched per layer as twin range's is;
* uniform, bits per layer: n or fewer bits per layer, chosen as twin range is, the fairest rival (*ours*);
* twin, most accurate, and twin, fewest operations that pass the check.

The check sees training images only, other ones than those that the histograms are from: squared error of the logits
over their mean square (both without their mean over the classes) and accuracy. Trained networks know their training
images by heart, so accuracy alone would let nearly everything pass. Choices and every measured setting are kept in the
working directory; the same command again goes on where it was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import typer
from rich.progress import Progress as Bar
from rich.table import Table

from golden_model.command import console, reports_errors, results_console
from golden_model.config import ISAAC, PAPER, HardwareConfig
from golden_model.engines.run_network import GraphRunner
from golden_model.files import file_hash, write_atomically, write_json
from golden_model.graph.network import Graph
from golden_model.searches.histograms import graph_counts
from golden_model.trq import AdcRegisters
from quant import stages
from quant.capture.capture import from_torch
from quant.data import sets as datasets
from quant.networks import zoo as networks
from quant.networks.pixels import Normalisation, float_logits
from quant.networks.source import load_ready
from quant.reference import accuracy, centred, exact_logits, logit_error
from quant.search import adc as adc_search
from quant.search.adc import AdcSetting, Chosen, Step

MACHINES: dict[int, HardwareConfig] = {128: ISAAC, 9: PAPER}
BOUNDS: dict[int, tuple[int, ...]] = {128: (8, 7, 6, 5, 4, 3), 9: (4, 3, 2)}
FULL, WHOLE_COLUMN = "uniform full", "uniform column"
CALIBRATED, MIXED, ACCURATE, FEWEST = "uniform", "uniform mixed", "twin accurate", "twin fewest"
KINDS = {
    FULL: "uniform, 2^R counts",
    WHOLE_COLUMN: "uniform, 0 to 128 counts",
    CALIBRATED: "uniform, calibrated",
    MIXED: "uniform, bits per layer",
    ACCURATE: "twin, most accurate",
    FEWEST: "twin, fewest operations",
}
#: system.md §12: what the paper reports.
PAPER_SHARE = (42.0, 62.0)
PAPER_RESNET20 = "91.09 % top-1 at n <= 4, where a uniform converter needs at least 7 bits"

#: Mean operations per conversion of table (d).
BUDGETS: dict[int, tuple[float, ...]] = {128: (2, 2.5, 3, 3.5, 4, 5, 6), 9: (1, 1.25, 1.5, 2, 2.5, 3)}
ENCODINGS = {"pair": "pair of arrays, sign chooses", "offset": "one array, weight + 128"}

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides the choices, besides network, weights and data.

    logit_error : largest squared error of the logits over their mean square. tolerance : accuracy (a share) that may
    be lost. check_images : to measure both on.
    """

    logit_error: float = 0.002
    tolerance: float = 0.01
    check_images: int = 512
    sensitivity_images: int = 128


@dataclass(frozen=True, eq=False)
class Check:
    """End-to-end comparison with the lossless network on images (B, C, H, W)."""

    graph: Graph
    images: np.ndarray
    labels: np.ndarray
    exact: np.ndarray
    threads: int | None = None

    @classmethod
    def of(cls, graph: Graph, images: np.ndarray, labels: np.ndarray, threads: int | None) -> Check:
        return cls(graph, images, labels, exact_logits(graph, images), threads)

    def run(self, graph: Graph, images: np.ndarray) -> np.ndarray:
        """Logits of images on a graph that has lossy converters."""
        return GraphRunner(graph, threads=self.threads).run(images)[0]

    def measure(self, settings: Mapping[str, Chosen], images: int | None = None) -> dict[str, float]:
        """Logit error, accuracy and the lossless network's accuracy."""
        changed = adc_search.apply(self.graph, settings)
        logits = self.run(changed, self.images[:images])
        exact, labels = self.exact[:images], self.labels[:images]
        wanted = centred(exact, float(self.graph.output.logit_scale))  # type: ignore[attr-defined]
        found = centred(logits, float(changed.output.logit_scale))  # type: ignore[attr-defined]
        return {
            "logit_error": logit_error(found, wanted),
            "accuracy": accuracy(logits, labels),
            "exact_accuracy": accuracy(exact, labels),
        }


def full_scale(n: int, counts_per_lsb: float, like: Mapping[str, Chosen]) -> dict[str, Chosen]:
    """n bits over counts_per_lsb * 2**R counts for every layer. like : any settings, for the conversions."""
    registers = AdcRegisters(mode="uniform", n_r2=n)
    return {
        name: Chosen(
            "uniform",
            AdcSetting(registers=registers, counts_per_lsb=counts_per_lsb),
            operations=float(n),
            error=float("nan"),
            output_error=float("nan"),
            conversions=old.conversions,
        )
        for name, old in like.items()
    }


# ---- choices ------------------------------------------------------------------------------------
def sensitivities(check: Check, scores: Mapping[str, adc_search.Scores], images: int, tell: Tell) -> dict[str, float]:
    """How much of a layer's relative error arrives in the logits (*ours*): each layer disturbed alone, once."""
    found: dict[str, float] = {}
    lossless = adc_search.most_accurate(scores)
    for index, (name, one) in enumerate(scores.items()):
        tell("sensitivity of layers", index, len(scores))
        near = int(np.argmin(np.abs(np.log10(np.maximum(one.output_error, 1e-12)) + 2)))  # an error near 1 %
        setting = Chosen(one.family(near), one.setting(near), 0, 0, float(one.output_error[near]), one.conversions)
        made = check.measure({**lossless, name: setting}, images)
        found[name] = max(made["logit_error"], 1e-9) / max(setting.output_error, 1e-9)
    return found


def search(
    check: Check,
    calibration: np.ndarray,
    bounds: Sequence[int],
    options: Options,
    state: dict[str, Any],
    save: Callable[[], None],
    tell: Tell,
    log: Callable[[str], None],
) -> dict[str, dict[str, Chosen]]:
    """Settings of every kind and bound, by "kind n". state : what an earlier run saved; extended and saved."""
    graph, hardware = check.graph, check.graph.hardware
    choices: dict[str, Any] = state.setdefault("choices", {})
    steps: dict[str, Any] = state.setdefault("steps", {})

    def read() -> dict[str, dict[str, Chosen]]:
        return {n: {k: Chosen.from_dict(v) for k, v in one.items()} for n, one in choices.items()}

    if state.get("finished"):
        return read()
    start = time.perf_counter()
    counts = graph_counts(
        graph, calibration, threads=check.threads, progress=lambda done, all_: tell("histograms", done, all_)
    )
    state["histogram_seconds"] = time.perf_counter() - start
    adc_search.score_layers(counts, hardware, hardware.adc_bits)  # register tables exist from here on
    start = time.perf_counter()
    timed = adc_search.score_layers(counts, hardware, hardware.adc_bits)
    state["scoring"] = {
        "seconds": time.perf_counter() - start,
        "candidates": sum(len(s.shape) for s in timed.values()),
        "layers": len(timed),
    }
    del timed
    log(
        f"histograms of {len(calibration)} images: {state['histogram_seconds']:.1f} s; then"
        f" {state['scoring']['candidates']:,} candidates of {len(counts)} layers scored in"
        f" {state['scoring']['seconds']:.2f} s"
    )
    scored: dict[tuple[str, int], Mapping[str, adc_search.Scores]] = {}

    def scores_of(kind: str, limit: int) -> Mapping[str, adc_search.Scores]:
        if (kind, limit) not in scored:
            families = ("uniform",) if kind == "uniform" else adc_search.TWIN
            scored.clear()  # one at a time: a quarter of a million candidates take a moment of memory
            scored[kind, limit] = adc_search.score_layers(counts, hardware, limit, families=families)
        return scored[kind, limit]

    if "sensitivity" not in state:
        whole = adc_search.score_layers(counts, hardware, hardware.adc_bits, families=("general", "uniform"))
        state["sensitivity"] = sensitivities(check, whole, options.sensitivity_images, tell)
        save()
    sensitivity: dict[str, float] = state["sensitivity"]
    best = adc_search.most_accurate(scores_of("twin", hardware.adc_bits))
    log(
        f"twin range, least error, all bits: {adc_search.mean_operations(best):.3f} operations per conversion, exact"
        f" for {'all' if all(s.setting.lossless(hardware) for s in best.values()) else 'the occurring'} counts"
    )
    holds = remembered(check, options, state, save, tell)
    for kind, name in (("uniform", MIXED), ("twin", FEWEST)):

        def done(step: Step, kind: str = kind, name: str = name) -> None:
            steps[f"{name} {step.limit}"] = {"price": step.price, "checks": step.checks}
            if step.accepted is None:
                log(f"{KINDS[name]}, n <= {step.limit}: nothing passes the check, restored")
            else:
                choices[f"{name} {step.limit}"] = {k: v.as_dict() for k, v in step.accepted.items()}
                log(
                    f"{KINDS[name]}, n <= {step.limit}: {adc_search.mean_operations(step.accepted):.3f} operations per"
                    f" conversion, {step.checks} checks"
                )
            save()

        known = {}
        for limit in bounds:
            if (record := steps.get(f"{name} {limit}")) is not None:
                saved = choices.get(f"{name} {limit}")
                accepted = None if saved is None else {k: Chosen.from_dict(v) for k, v in saved.items()}
                known[limit] = Step(limit, accepted, record["price"], record["checks"])
        accepted, _ = adc_search.descend(
            lambda limit, kind=kind: scores_of(kind, limit), bounds, holds, best,
            sensitivity=sensitivity, done=done, known=known,
        )  # fmt: skip
        choices[f"{name} best"] = {k: v.as_dict() for k, v in accepted.items()}
    for n in bounds:
        ranges = {FULL: 1.0}
        if hardware.ou_rows.bit_count() == 1:
            ranges[WHOLE_COLUMN] = hardware.ou_rows / 2**hardware.adc_bits
        for kind, scale in ranges.items():
            fixed = full_scale(n, scale, best)
            choices[f"{kind} {n}"] = {k: {**v.as_dict(), "error": None, "output_error": None} for k, v in fixed.items()}
        chosen = adc_search.most_accurate(scores_of("uniform", n), n_r2=n)
        choices[f"{CALIBRATED} {n}"] = {k: v.as_dict() for k, v in chosen.items()}
    for n in bounds:
        chosen = adc_search.most_accurate(scores_of("twin", n))
        choices[f"{ACCURATE} {n}"] = {k: v.as_dict() for k, v in chosen.items()}
    state["finished"] = True
    save()
    return read()


def remembered(
    check: Check, options: Options, state: dict[str, Any], save: Callable[[], None], tell: Tell
) -> Callable[[dict[str, Chosen]], bool]:
    """The check of whole settings, that knows what it has seen."""
    checked: dict[str, bool] = state.setdefault("checked", {})

    def holds(settings: dict[str, Chosen]) -> bool:
        key = stages.fingerprint("check", {k: v.as_dict() for k, v in settings.items()}, ())
        if key not in checked:
            tell("checks", len(checked), 0)
            made = check.measure(settings)
            floor = made["exact_accuracy"] - options.tolerance
            checked[key] = made["logit_error"] <= options.logit_error and made["accuracy"] >= floor
            save()
        return checked[key]

    return holds


def curves(
    graph: Graph, calibration: np.ndarray, budgets: Sequence[float], threads: int | None, tell: Tell
) -> dict[str, Any]:
    """Error of the layers' sums for budgets of operations, of both ways to store signed weights; table (d)."""
    made: dict[str, Any] = {}
    for encoding in ENCODINGS:
        tell(f"errors, {encoding}", 0, 0)
        counts = graph_counts(graph, calibration, offset=encoding == "offset", threads=threads)
        totals = np.sum([one.counts.sum(axis=(0, 1)) for one in counts.values()], axis=0)
        made[encoding] = {
            "mean_count": float(totals @ np.arange(len(totals)) / totals.sum()),
            "zero_counts": float(totals[0] / totals.sum()),
        }
        for kind, families in (("uniform", ("uniform",)), ("twin", adc_search.TWIN)):
            scores = adc_search.score_layers(counts, graph.hardware, graph.hardware.adc_bits, families=families)
            made[encoding][kind] = adc_search.error_for(scores, budgets)
    return made


# ---- measurements -------------------------------------------------------------------------------
def measure(
    graph: Graph, settings: Mapping[str, Chosen], images: np.ndarray, labels: np.ndarray, exact: np.ndarray, **how: Any
) -> dict[str, Any]:
    """Accuracy and A/D operations of a setting on test images, JSON-able."""
    changed = adc_search.apply(graph, settings)
    start = time.perf_counter()
    threads, progress = how.get("threads"), how.get("progress")
    logits, events = GraphRunner(changed, threads=threads).run(images, progress=progress)
    seconds = time.perf_counter() - start
    wanted = centred(exact, float(graph.output.logit_scale))  # type: ignore[attr-defined]
    found = centred(logits, float(changed.output.logit_scale))  # type: ignore[attr-defined]
    total = events.sum()
    layers = {}
    for index, node in enumerate(graph.crossbars):
        one = events[:, index].sum()
        layers[node.name] = float(one.ad_operations) / max(float(one.conversions), 1.0)
    return {
        "accuracy": accuracy(logits, labels),
        "agreement": float((logits.argmax(axis=1) == exact.argmax(axis=1)).mean()),
        "logit_error": logit_error(found, wanted),
        "operations": float(total.ad_operations) / float(total.conversions),
        "operations_per_image": float(total.ad_operations) / len(images),
        "conversions_per_image": float(total.conversions) / len(images),
        "layers": layers,
        "seconds": seconds,
    }


def names_of(bounds: Sequence[int], choices: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    """Settings to measure, smallest bounds first within a kind's order."""
    return [f"{kind} {n}" for n in bounds for kind in kinds if f"{kind} {n}" in choices]


# ---- what people see ----------------------------------------------------------------------------
def _share(value: float, whole: float) -> str:
    return f"{100 * value / whole:.1f} %"


def tables(result: dict[str, Any]) -> list[Table]:
    """Tables (a), (b), (c) of every machine."""
    made = []
    for rows, part in result["machines"].items():
        bits, bounds = part["adc_bits"], part["bounds"]
        found = part["settings"]
        where = f"{result['network']}, {rows} rows, {result['images']} test images"
        a = Table("converter", *(f"n <= {n}" for n in bounds), title=f"(a) top-1 in %: {where}")
        b = Table(
            "converter", *(f"n <= {n}" for n in bounds),
            title=f"(b) remaining A/D operations, share of {bits} per conversion: {where}",
        )  # fmt: skip
        for kind, words in KINDS.items():
            one = [found.get(f"{kind} {n}") for n in bounds]
            if any(one):
                a.add_row(words, *("-" if x is None else f"{100 * x['accuracy']:.2f}" for x in one))
                b.add_row(words, *("-" if x is None else _share(x["operations"], bits) for x in one))
        a.caption = (
            f"float {100 * result['float_accuracy']:.2f}, 8/f (lossless) {100 * part['exact_accuracy']:.2f}."
            + (f" The paper: {PAPER_RESNET20}." if result["network"] == "resnet20" and rows == "128" else "")
            + (
                f" The data set has one part: {result['calibration_images']} of its images calibrated,"
                f" {result['check_images']} others checked, and others again are measured."
                if result["parts_of_one_set"]
                else ""
            )
        )
        b.caption = (
            f"The paper: {PAPER_SHARE[0]:.0f} to {PAPER_SHARE[1]:.0f} % of 8 with twin range."
            if bits == 8
            else "The paper has no figure for these rows."
        )
        made += [a, b]
        shown = [n for n in bounds if f"{FEWEST} {n}" in found]
        if shown:
            made.append(_layer_table(part, f"{FEWEST} {shown[-1]}", where))
        made.append(_error_table(part, where))
    return made


def _layer_table(part: dict[str, Any], name: str, where: str) -> Table:
    bits = part["adc_bits"]
    measured, chosen = part["settings"][name], part["choices"][name]
    c = Table(
        "layer", "family", "n_r2", "n_r1", "m", "bias", "counts/LSB", "operations", f"of {bits}", "error of sums",
        title=f"(c) every layer, {KINDS[FEWEST]}, n <= {name.rsplit(' ', 1)[1]}: {where}",
    )  # fmt: skip
    for layer, s in chosen.items():
        spent = measured["layers"][layer]
        c.add_row(
            layer, s["family"], *(str(s[k]) for k in ("n_r2", "n_r1", "m", "bias")), f"{s['counts_per_lsb']:.4g}",
            f"{spent:.2f}", _share(spent, bits), f"{s['output_error']:.1e}",
        )  # fmt: skip
    return c


def _decibel(error: float | None) -> str:
    return "-" if error is None else "exact" if error < 1e-12 else f"{-10 * np.log10(error):.1f}"


def _error_table(part: dict[str, Any], where: str) -> Table:
    d = Table(
        "weights stored as", "mean count", "zero", "converter", *(f"{b:g}" for b in part["budgets"]),
        title=f"(d) signal to error of the layers' sums in dB, for mean operations per conversion: {where}",
        caption="From the counts of the calibration images, any number of bits up to R; nothing simulated.",
    )  # fmt: skip
    for encoding, words in ENCODINGS.items():
        one = part["curves"][encoding]
        for kind in ("uniform", "twin"):
            share = f"{100 * one['zero_counts']:.0f} %"
            d.add_row(words, f"{one['mean_count']:.2f}", share, kind, *map(_decibel, one[kind]))
    return d


def picture(result: dict[str, Any], path: Path) -> None:
    """Pictures (a), (b), (c), one row per machine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    machines = result["machines"]
    figure, axes = pyplot.subplots(len(machines), 3, figsize=(16, 4.6 * len(machines)), squeeze=False)
    for row, (rows, part) in zip(axes, machines.items(), strict=True):
        bits, bounds, found = part["adc_bits"], part["bounds"], part["settings"]
        a, b, c = row
        for index, (kind, words) in enumerate(KINDS.items()):
            points = [(n, found[f"{kind} {n}"]) for n in bounds if f"{kind} {n}" in found]
            if points:
                style = "-" if kind.startswith("twin") else "--"
                look = {"marker": "o", "color": f"C{index}", "label": words}
                tops = [100 * x["accuracy"] for _, x in points]
                a.plot([n for n, _ in points], tops, style, **look)
                b.plot([100 * x["operations"] / bits for _, x in points], tops, style, **look)
        a.axhline(100 * part["exact_accuracy"], color="0.6", linewidth=1)
        a.set(xlabel="bound n on search steps", ylabel="top-1, %", title=f"(a) {result['network']}, {rows} rows")
        a.set_xticks(bounds)
        a.invert_xaxis()
        a.legend(fontsize=8)
        if bits == 8:
            b.axvspan(*PAPER_SHARE, color="0.9", label="the paper's range")
        low = 100 * part["exact_accuracy"] - 3
        b.set_ylim(low, low + 3.5)
        b.set(xlabel=f"remaining A/D operations, % of {bits}", ylabel="top-1, %", title="(b) operations (zoomed)")
        b.legend(fontsize=8)
        shown = [n for n in bounds if f"{FEWEST} {n}" in found]
        if shown:
            layers = found[f"{FEWEST} {shown[-1]}"]["layers"]
            c.bar(range(len(layers)), list(layers.values()))
            c.set_xticks(range(len(layers)), list(layers), rotation=90, fontsize=6)
            c.set(ylabel="A/D operations per conversion", title=f"(c) {KINDS[FEWEST]}, n <= {shown[-1]}")
            c.axhline(bits, color="0.6", linewidth=1)
    figure.suptitle(
        f"{result['network']}: {result['images']} test images, {result['calibration_images']} calibration images"
    )
    figure.tight_layout()
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
    pyplot.close(figure)


# ---- command line -------------------------------------------------------------------------------
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _list(option: str, text: str, allowed: Sequence[Any]) -> list[Any]:
    kinds = {str(x): x for x in allowed}
    parts = [p.strip() for p in text.split(",")]
    for part in parts:
        if part not in kinds:
            raise ValueError(f"{option} must be among {', '.join(kinds)}, got {part!r}")
    return [x for x in allowed if str(x) in parts]


def _load_state(path: Path, mark: str) -> dict[str, Any]:
    return stages.finished(path, mark) or {"fingerprint": mark}


@app.command()
@reports_errors
def main(
    network: Annotated[str, typer.Option(help=f"One of {', '.join(networks.READY)}.")],
    weights: Annotated[Path, typer.Option(help="State dict, .npz or .safetensors.")],
    data_path: Annotated[Path, typer.Option("--data", help="CIFAR-10 batches, idx files, pictures or an .npz file.")],
    images: Annotated[Optional[int], typer.Option(min=1, help="Test images; default all.")] = None,  # noqa: UP045
    rows: Annotated[str, typer.Option(help="Machines: 128 rows at once, operation units of 9 rows.")] = "128,9",
    bounds: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it at run time
        typer.Option(help="Bounds n to measure: 8,7,6,5,4,3 and 4,3,2 with 9 rows. All are searched."),
    ] = None,
    converters: Annotated[str, typer.Option(help=f"What to measure: {', '.join(KINDS)}.")] = ",".join(KINDS),
    logit_error: Annotated[float, typer.Option(help="Error of the logits that the check allows.")] = 0.002,
    tolerance: Annotated[float, typer.Option(help="Loss of accuracy (a share) that the check allows.")] = 0.01,
    check_images: Annotated[int, typer.Option(min=1, help="Training images for the check.")] = 512,
    threads: Annotated[Optional[int], typer.Option(min=1, help="Default all cores.")] = None,  # noqa: UP045
    work: Annotated[Optional[Path], typer.Option(help="Default build/trq/NETWORK.")] = None,  # noqa: UP045
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Also write the results here.")] = None,  # noqa: UP045
) -> None:
    """Accuracy and A/D operations of twin-range and uniform converters, beside the paper's figures."""
    machines = _list("--rows", rows, list(MACHINES))
    kinds = _list("--converters", converters, list(KINDS))
    every_bound = sorted({n for r in machines for n in BOUNDS[r]}, reverse=True)
    wanted = every_bound if bounds is None else _list("--bounds", bounds, every_bound)
    known, model, dataset = load_ready(network, weights, data_path)
    options = Options(
        logit_error=logit_error, tolerance=tolerance, check_images=check_images,
        sensitivity_images=min(128, check_images),
    )  # fmt: skip
    work = work or Path("build/trq") / network
    printed = results_console(140)
    log = console.print
    with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        result = reproduce(
            model, network, dataset, known.normalisation, weights_hash=file_hash(weights), images=images,
            machines=machines, bounds=wanted, kinds=kinds, options=options, work=work, threads=threads, tell=tell,
            log=log,
        )  # fmt: skip
    for table in tables(result):
        printed.print(table)
        printed.print()
    write_json(work / "result.json", result)
    picture(result, work / "result.png")
    printed.print(f"results: {work / 'result.json'}   picture: {work / 'result.png'}")
    if json_file is not None:
        write_json(json_file, result)


def reproduce(
    model: Any,
    name: str,
    dataset: datasets.ImageSet,
    normalisation: Normalisation,
    *,
    weights_hash: str,
    images: int | None,
    machines: Sequence[int],
    bounds: Sequence[int],
    kinds: Sequence[str],
    options: Options,
    work: Path,
    threads: int | None = None,
    tell: Tell = lambda what, done, total: None,
    log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Everything that the command prints, JSON-able; resumes from and saves into `work`."""
    parts = datasets.apart(dataset, options.check_images)
    test, labels = np.array(parts.test_images[:images]), parts.test_labels[:images]
    result: dict[str, Any] = {
        "network": name,
        "data": dataset.source,
        "images": len(test),
        "calibration_images": len(dataset.calibration()),
        "check_images": len(parts.check_images),
        "parts_of_one_set": dataset.one_part,
        "options": {"logit_error": options.logit_error, "tolerance": options.tolerance,
                    "check_images": options.check_images},
        "float_accuracy": accuracy(
            float_logits(model, test, normalisation, lambda done, all_: tell("float network", done, all_)), labels
        ),
        "machines": {},
    }  # fmt: skip
    for rows in machines:
        hardware = MACHINES[rows]
        graph = from_torch(
            model, dataset.shape, hardware, dataset.calibration(), normalisation=normalisation, name=name
        )
        inputs = {"weights": weights_hash, "data": dataset.sha256}
        about = {"network": name, "rows": rows, "options": vars(options), "bounds": BOUNDS[rows]}
        if dataset.one_part:
            about["check_images"] = len(parts.check_images)
        mark = stages.fingerprint("trq search", about, [], **inputs)
        path = work / f"search-{rows}.json"
        state = _load_state(path, mark)
        check = Check.of(graph, parts.check_images, parts.check_labels, threads)
        choices = search(
            check, dataset.calibration(), BOUNDS[rows], options, state,
            lambda path=path, state=state: write_json(path, state), tell, log,
        )  # fmt: skip
        mine = [n for n in BOUNDS[rows] if n in bounds]
        if "curves" not in state:
            state["curves"] = curves(graph, dataset.calibration(), BUDGETS[rows], threads, tell)
            write_json(path, state)
        exact = exact_logits(graph, test, progress=lambda done, all_: tell("integer network", done, all_))
        measured_path = work / f"measured-{rows}-{len(test)}.json"
        choice_mark = stages.fingerprint("trq measured", {"choices": state["choices"], "images": len(test)}, [])
        measured = _load_state(measured_path, choice_mark)
        settings: dict[str, Any] = measured.setdefault("settings", {})
        wanted = names_of(mine, choices, kinds)
        for index, setting in enumerate(wanted):
            same = [other for other in settings if state["choices"].get(other) == state["choices"][setting]]
            if setting not in settings and same:  # a lower bound often changes nothing
                settings[setting] = settings[same[0]]
            elif setting not in settings:
                one = measure(
                    graph, choices[setting], test, labels, exact, threads=threads,
                    progress=lambda done, all_, s=setting, rows=rows: tell(f"{rows} rows, {s}", done, all_),
                )  # fmt: skip
                settings[setting] = one
                write_json(measured_path, measured)
                log(
                    f"{rows} rows, {setting} ({index + 1} of {len(wanted)}): {100 * one['accuracy']:.2f} %,"
                    f" {one['operations']:.3f} operations per conversion, {one['seconds']:.0f} s"
                )
        result["machines"][str(rows)] = {
            "adc_bits": hardware.adc_bits,
            "bounds": mine,
            "exact_accuracy": accuracy(exact, labels),
            "settings": {n: settings[n] for n in names_of(mine, choices, kinds)},
            "choices": {n: state["choices"][n] for n in names_of(mine, choices, kinds)},
            "steps": state["steps"],
            "sensitivity": state["sensitivity"],
            "histogram_seconds": state["histogram_seconds"],
            "scoring": state["scoring"],
            "budgets": BUDGETS[rows],
            "curves": state["curves"],
        }
    return result


if __name__ == "__main__":
    app()
