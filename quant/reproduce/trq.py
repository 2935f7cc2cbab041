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
images by heart, so accuracy alone would let nearly everything pass. Every check and every measured setting is a part
that is kept (quant.reproduce.study).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import typer
from rich.table import Table

from golden_model.command import Json, command, console, progress_bar, table_of
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph
from golden_model.searches.histograms import LayerCounts, graph_counts
from golden_model.trq import AdcRegisters
from quant import stages
from quant.reference import accuracy
from quant.reproduce import study as shared
from quant.reproduce.study import MACHINES, drawing, percent
from quant.search import adc as adc_search
from quant.search.adc import AdcSetting, Check, Chosen, Step
from quant.search.check import compare_logits

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
#: Converters and the families of registers that they choose from.
FAMILIES: dict[str, Sequence[adc_search.Family]] = {"uniform": ("uniform",), "twin": adc_search.TWIN}
#: system.md §12: what the paper reports.
PAPER_SHARE = (42.0, 62.0)
PAPER_RESNET20 = "91.09 % top-1 at n <= 4, where a uniform converter needs at least 7 bits"

#: Mean operations per conversion of table (d).
BUDGETS: dict[int, tuple[float, ...]] = {128: (2, 2.5, 3, 3.5, 4, 5, 6), 9: (1, 1.25, 1.5, 2, 2.5, 3)}
ENCODINGS = {"pair": "pair of arrays, sign chooses", "offset": "one array, weight + 128"}


def full_scale(n: int, counts_per_lsb: float, like: Mapping[str, Chosen]) -> dict[str, dict[str, Any]]:
    """n bits over counts_per_lsb * 2**R counts for every layer, as `Chosen.as_dict`; errors are not estimated.

    like : any settings, for the conversions.
    """
    setting = AdcSetting(registers=AdcRegisters(mode="uniform", n_r2=n), counts_per_lsb=counts_per_lsb)
    unknown = {"error": None, "output_error": None}
    return {
        name: Chosen("uniform", setting, float(n), 0.0, 0.0, old.conversions).as_dict() | unknown
        for name, old in like.items()
    }


def as_dicts(settings: Mapping[str, Chosen]) -> dict[str, dict[str, Any]]:
    return {name: one.as_dict() for name, one in settings.items()}


def mark(settings: Mapping[str, Any]) -> str:
    """Short name of settings, as `as_dicts`: equal ones are checked and measured once."""
    return stages.fingerprint("settings", dict(settings), ())[:16]


def density(counts: Mapping[str, LayerCounts]) -> dict[str, float]:
    """Mean count and share of counts that are 0, over all conversions."""
    histogram = np.sum([one.counts.sum(axis=(0, 1)) for one in counts.values()], axis=0)
    mean = histogram @ np.arange(len(histogram)) / histogram.sum()
    return {"mean_count": float(mean), "zero_counts": float(histogram[0] / histogram.sum())}


# ---- choices and measurements -------------------------------------------------------------------
@dataclass(frozen=True, eq=False, kw_only=True)
class Study(shared.Study):
    """Converters on a network. Choices see training images only.

    logit_error : largest squared error of the logits over their mean square that the check allows. tolerance :
    accuracy (a share) that may be lost.
    """

    MODULE: ClassVar[str] = "quant.reproduce.trq"
    FOLDER: ClassVar[str] = "trq"

    logit_error: float
    tolerance: float

    @property
    def options(self) -> dict[str, Any]:
        """What decides the choices, besides network, weights and data."""
        return {name: getattr(self, name) for name in ("logit_error", "tolerance", "check_images")}


@dataclass(frozen=True, eq=False)
class Machine:
    """One of `MACHINES` in a study. Everything JSON-able is kept."""

    study: Study
    rows: int

    def kept(self, name: str, make: Callable[[], Any], **key: Any) -> Any:
        return self.study.kept(f"{self.rows}-{name}", make, rows=self.rows, **key)

    @cached_property
    def graph(self) -> Graph:
        return self.study.graph(MACHINES[self.rows])

    @cached_property
    def counts(self) -> dict[str, LayerCounts]:
        """Of the calibration images."""
        images, threads = self.study.parts.calibration, self.study.threads
        return graph_counts(self.graph, images, threads=threads, progress=self.study.told("histograms"))

    @cached_property
    def check(self) -> Check:
        parts = self.study.parts
        return Check.of(self.graph, parts.check_images, parts.check_labels, self.study.threads)

    @cached_property
    def exact(self) -> np.ndarray:
        return self.study.exact(str(self.rows), self.graph)

    def scores(self, kind: str, limit: int | None = None) -> dict[str, adc_search.Scores]:
        """Of one of `FAMILIES` with at most `limit` search steps, R by default."""
        hardware = self.graph.hardware
        return adc_search.score_layers(self.counts, hardware, limit or hardware.adc_bits, families=FAMILIES[kind])

    def scoring(self) -> dict[str, Any]:
        """How long histograms and scores take."""

        def timed() -> dict[str, Any]:
            hardware, start = self.graph.hardware, time.perf_counter()
            counts = self.counts
            spent = time.perf_counter() - start
            adc_search.score_layers(counts, hardware, hardware.adc_bits)  # register tables exist from here on
            start = time.perf_counter()
            made = adc_search.score_layers(counts, hardware, hardware.adc_bits)
            seconds, candidates = time.perf_counter() - start, sum(len(s.shape) for s in made.values())
            self.study.log(
                f"histograms of {len(self.study.parts.calibration)} images: {spent:.1f} s; then {candidates:,}"
                f" candidates of {len(made)} layers scored in {seconds:.2f} s"
            )
            scoring = {"seconds": seconds, "candidates": candidates, "layers": len(made)}
            return {"histogram_seconds": spent, "scoring": scoring}

        return self.kept("scoring", timed)

    def sensitivity(self) -> dict[str, float]:
        """Of every layer, see `Check.sensitivities`."""
        images = min(128, self.study.check_images)

        def made() -> dict[str, float]:
            hardware = self.graph.hardware
            families: Sequence[adc_search.Family] = ("general", "uniform")
            whole = adc_search.score_layers(self.counts, hardware, hardware.adc_bits, families=families)
            told = self.study.told("sensitivity of layers")
            return self.check.sensitivities(adc_search.most_accurate(whole), whole, images, told)

        return self.kept("sensitivity", made, images=images)

    def holds(self, settings: dict[str, Chosen]) -> bool:
        """Whether settings pass the check."""
        study, values = self.study, as_dicts(settings)
        study.tell("checks", 0, 0)
        made = self.kept(f"check-{mark(values)}", lambda: self.check.measure(settings), settings=values)
        right = made["accuracy"] >= made["exact_accuracy"] - study.tolerance
        return right and made["logit_error"] <= study.logit_error

    def choices(self) -> dict[str, dict[str, Any]]:
        """{"choices": settings by "kind bound", as `as_dicts`; "steps": price and checks of every bound searched}."""
        return self.kept("choices", self._choose, bounds=BOUNDS[self.rows], options=self.study.options)

    def _choose(self) -> dict[str, dict[str, Any]]:
        hardware, bounds, log = self.graph.hardware, BOUNDS[self.rows], self.study.log
        choices: dict[str, Any] = {}
        steps: dict[str, Any] = {}
        best = adc_search.most_accurate(self.scores("twin"))
        exact = "all" if all(one.setting.lossless(hardware) for one in best.values()) else "the occurring"
        log(
            f"twin range, least error, all bits: {adc_search.mean_operations(best):.3f} operations per conversion,"
            f" exact for {exact} counts"
        )
        for kind, name in (("uniform", MIXED), ("twin", FEWEST)):

            def done(step: Step, name: str = name) -> None:
                steps[f"{name} {step.limit}"] = {"price": step.price, "checks": step.checks}
                found = "nothing passes the check, restored"
                if step.accepted is not None:
                    choices[f"{name} {step.limit}"] = as_dicts(step.accepted)
                    spent = adc_search.mean_operations(step.accepted)
                    found = f"{spent:.3f} operations per conversion, {step.checks} checks"
                log(f"{KINDS[name]}, n <= {step.limit}: {found}")

            adc_search.descend(
                lambda limit, kind=kind: self.scores(kind, limit), bounds, self.holds, best,
                sensitivity=self.sensitivity(), done=done,
            )  # fmt: skip
        ranges = {FULL: 1.0}
        if hardware.ou_rows.bit_count() == 1:
            ranges[WHOLE_COLUMN] = hardware.ou_rows / 2**hardware.adc_bits
        for n in bounds:
            choices |= {f"{kind} {n}": full_scale(n, scale, best) for kind, scale in ranges.items()}
            choices[f"{CALIBRATED} {n}"] = as_dicts(adc_search.most_accurate(self.scores("uniform", n), n_r2=n))
            choices[f"{ACCURATE} {n}"] = as_dicts(adc_search.most_accurate(self.scores("twin", n)))
        return {"choices": choices, "steps": steps}

    def curves(self) -> dict[str, Any]:
        """Error of the layers' sums for budgets of operations, of both ways to store signed weights; table (d)."""
        return self.kept("curves", self._curves, budgets=BUDGETS[self.rows])

    def _curves(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for encoding in ENCODINGS:
            self.study.tell(f"errors, {encoding}", 0, 0)
            images, hardware = self.study.parts.calibration, self.graph.hardware
            counts = graph_counts(self.graph, images, offset=encoding == "offset", threads=self.study.threads)
            made[encoding] = density(counts)
            for kind, families in FAMILIES.items():
                scores = adc_search.score_layers(counts, hardware, hardware.adc_bits, families=families)
                made[encoding][kind] = adc_search.error_for(scores, BUDGETS[self.rows])
        return made

    def measured(self, words: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """`measure` of settings on the test images; equal settings (a lower bound often changes nothing) once."""
        study, count = self.study, len(self.study.x)

        def made() -> dict[str, Any]:
            chosen = {layer: Chosen.from_dict(one) for layer, one in settings.items()}
            one = measure(self, chosen, f"{self.rows} rows, {words}")
            study.log(
                f"{self.rows} rows, {words}: {percent(one['accuracy'])} %, {one['operations']:.3f} operations per"
                f" conversion, {one['seconds']:.0f} s"
            )
            return one

        return self.kept(f"measured-{count}-{mark(settings)}", made, images=count, settings=dict(settings))

    def result(self, bounds: Sequence[int], kinds: Sequence[str]) -> dict[str, Any]:
        """Everything about the machine; bounds, kinds : what to measure."""
        found = {**self.scoring(), "sensitivity": self.sensitivity(), **self.choices()}
        mine = [n for n in BOUNDS[self.rows] if n in bounds]
        names = [f"{kind} {n}" for n in mine for kind in kinds if f"{kind} {n}" in found["choices"]]
        choices = {name: found["choices"][name] for name in names}
        return {
            "adc_bits": self.graph.hardware.adc_bits,
            "bounds": mine,
            "exact_accuracy": accuracy(self.exact, self.study.y),
            "settings": {
                name: self.measured(f"{name} ({index} of {len(names)})", choices[name])
                for index, name in enumerate(names, 1)
            },
            **found,
            "choices": choices,
            "budgets": BUDGETS[self.rows],
            "curves": self.curves(),
        }


def measure(machine: Machine, settings: Mapping[str, Chosen], what: str) -> dict[str, Any]:
    """Accuracy and A/D operations of settings on the test images, JSON-able."""
    study = machine.study
    changed = adc_search.apply(machine.graph, settings)
    start = time.perf_counter()
    logits, events = GraphRunner(changed, threads=study.threads).run(study.x, progress=study.told(what))
    seconds = time.perf_counter() - start
    compared = compare_logits(changed, logits, machine.graph, machine.exact, study.y)
    total, layers = events.sum(), events.sum(axis=0)
    spent = zip(machine.graph.crossbars, layers.ad_operations, layers.conversions, strict=True)
    return {
        **{name: compared[name] for name in ("accuracy", "agreement", "logit_error")},
        "operations": float(total.ad_operations) / float(total.conversions),
        "operations_per_image": float(total.ad_operations) / len(study.x),
        "conversions_per_image": float(total.conversions) / len(study.x),
        "layers": {node.name: float(operations) / max(float(n), 1.0) for node, operations, n in spent},
        "seconds": seconds,
    }


# ---- what people see ----------------------------------------------------------------------------
def _share(value: float, whole: float, digits: int = 1) -> str:
    return f"{100 * value / whole:.{digits}f} %"


def tables(result: dict[str, Any]) -> list[Table]:
    """Tables (a) to (d) of every machine."""
    made = []
    for rows, part in result["machines"].items():
        where = f"{result['network']}, {rows} rows, {result['images']} test images"
        made += _converter_tables(result, rows, where)
        shown = [n for n in part["bounds"] if f"{FEWEST} {n}" in part["settings"]]
        if shown:
            made.append(_layer_table(part, f"{FEWEST} {shown[-1]}", where))
        made.append(_error_table(part, where))
    return made


def _converter_tables(result: dict[str, Any], rows: str, where: str) -> list[Table]:
    """(a) and (b): a row per converter, a column per bound."""
    part = result["machines"][rows]
    bits, found = part["adc_bits"], part["settings"]
    records = [
        {"words": words, **{n: found.get(f"{kind} {n}") for n in part["bounds"]}} for kind, words in KINDS.items()
    ]
    records = [record for record in records if any(record[n] for n in part["bounds"])]

    def table(title: str, caption: str, cell: Callable[[dict[str, Any]], str]) -> Table:
        columns: list[Any] = [("converter", "{words}")]
        for n in part["bounds"]:
            columns.append((f"n <= {n}", lambda record, n=n: "-" if record[n] is None else cell(record[n])))
        return table_of(f"{title}: {where}", columns, records, caption=caption)

    reported = f" The paper: {PAPER_RESNET20}." if result["network"] == "resnet20" and rows == "128" else ""
    if result["parts_of_one_set"]:
        reported += (
            f" The data set has one part: {result['calibration_images']} of its images calibrated,"
            f" {result['check_images']} others checked, and others again are measured."
        )
    accuracies = f"float {percent(result['float_accuracy'])}, 8/f (lossless) {percent(part['exact_accuracy'])}."
    shares = "The paper has no figure for these rows."
    if bits == 8:
        shares = f"The paper: {PAPER_SHARE[0]:.0f} to {PAPER_SHARE[1]:.0f} % of 8 with twin range."
    return [
        table("(a) top-1 in %", accuracies + reported, lambda one: percent(one["accuracy"])),
        table(
            f"(b) remaining A/D operations, share of {bits} per conversion", shares,
            lambda one: _share(one["operations"], bits),
        ),
    ]  # fmt: skip


def _layer_table(part: dict[str, Any], name: str, where: str) -> Table:
    bits, measured = part["adc_bits"], part["settings"][name]
    records = [{"layer": n, "spent": measured["layers"][n], **s} for n, s in part["choices"][name].items()]
    columns = [
        ("layer", "{layer}"),
        *((key, f"{{{key}}}") for key in ("family", "n_r2", "n_r1", "m", "bias")),
        ("counts/LSB", "{counts_per_lsb:.4g}"),
        ("operations", "{spent:.2f}"),
        (f"of {bits}", lambda record: _share(record["spent"], bits)),
        ("error of sums", "{output_error:.1e}"),
    ]
    limit = name.rsplit(" ", 1)[1]
    return table_of(f"(c) every layer, {KINDS[FEWEST]}, n <= {limit}: {where}", columns, records)


def _decibel(error: float | None) -> str:
    return "-" if error is None else "exact" if error < 1e-12 else f"{-10 * np.log10(error):.1f}"


def _error_table(part: dict[str, Any], where: str) -> Table:
    records = [
        {**part["curves"][encoding], "words": words, "kind": kind, "errors": part["curves"][encoding][kind]}
        for encoding, words in ENCODINGS.items()
        for kind in FAMILIES
    ]
    columns = [
        ("weights stored as", "{words}"), ("mean count", "{mean_count:.2f}"),
        ("zero", lambda record: _share(record["zero_counts"], 1, 0)),
        ("converter", "{kind}"),
        *((f"{b:g}", lambda record, i=i: _decibel(record["errors"][i])) for i, b in enumerate(part["budgets"])),
    ]  # fmt: skip
    return table_of(
        f"(d) signal to error of the layers' sums in dB, for mean operations per conversion: {where}", columns, records,
        caption="From the counts of the calibration images, any number of bits up to R; nothing simulated.",
    )  # fmt: skip


def picture(result: dict[str, Any], path: Path) -> None:
    """Pictures (a), (b), (c), one row per machine."""
    machines = result["machines"]
    title = f"{result['network']}: {result['images']} test images, {result['calibration_images']} calibration images"
    with drawing(path, title, len(machines), 3, (5.3, 4.6)) as axes:
        for (a, b, c), (rows, part) in zip(axes, machines.items(), strict=True):
            bits, bounds, found = part["adc_bits"], part["bounds"], part["settings"]
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


# ---- command line -------------------------------------------------------------------------------
@command
def app(
    network: shared.Network,
    weights: shared.Weights,
    data: shared.Data,
    images: Annotated[int | None, typer.Option(min=1, help="Test images; default all.")] = None,
    rows: Annotated[str, typer.Option(help="Machines: 128 rows at once, operation units of 9 rows.")] = "128,9",
    bounds: Annotated[
        str | None, typer.Option(help="Bounds n to measure: 8,7,6,5,4,3 and 4,3,2 with 9 rows. All are searched.")
    ] = None,
    converters: Annotated[str, typer.Option(help=f"What to measure: {', '.join(KINDS)}.")] = ",".join(KINDS),
    logit_error: Annotated[float, typer.Option(help="Error of the logits that the check allows.")] = 0.002,
    tolerance: Annotated[float, typer.Option(help="Loss of accuracy (a share) that the check allows.")] = 0.01,
    check_images: Annotated[int, typer.Option(min=1, help="Training images for the check.")] = 512,
    threads: shared.Threads = None,
    work: shared.Work = None,
    json_file: Json = None,
) -> None:
    """Accuracy and A/D operations of twin-range and uniform converters, beside the paper's figures."""
    machines = shared.picked("--rows", rows, BOUNDS)
    kinds = shared.picked("--converters", converters, KINDS)
    every_bound = sorted({n for r in machines for n in BOUNDS[r]}, reverse=True)
    wanted = every_bound if bounds is None else shared.picked("--bounds", bounds, every_bound)
    with progress_bar() as tell:
        study = Study.open(
            data, network, weights, work=work, logit_error=logit_error, tolerance=tolerance, images=images,
            check_images=check_images, threads=threads, tell=tell, log=console.print,
        )  # fmt: skip
        result = {
            "network": study.name,
            "data": study.dataset.source,
            "images": len(study.x),
            "calibration_images": len(study.parts.calibration),
            "check_images": len(study.parts.check_images),
            "parts_of_one_set": study.dataset.one_part,
            "options": study.options,
            "float_accuracy": study.float_accuracy(),
            "machines": {str(r): Machine(study, r).result(wanted, kinds) for r in machines},
        }
    shared.show(tables(result), 140)
    shared.save(study, result, json_file, picture)


if __name__ == "__main__":
    app()
