"""What `python -m quant.reproduce.redy` searches, counts and measures (ReDy; system.md §6, §11).

    study = Study.open(data, "resnet20", weights, options=options, table=table)
    result = measure(study, {"paper": (14, 1)})

The search sees training images only, other ones than those of calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from golden_model import timing
from golden_model.config import ISAAC, PAPER, HardwareConfig
from golden_model.cost.baselines import baseline_planes
from golden_model.cost.components import ComponentTable
from golden_model.cost.energy import energy
from golden_model.cost.work import Machine, dynamic_precision_events
from golden_model.cost.work import stages as network_stages
from golden_model.engines.run_network import GraphRunner
from golden_model.graph.network import Graph
from golden_model.graph.nodes import Add, AveragePool, Concat
from golden_model.graph.settings import on_machine, with_settings
from quant import stages
from quant.reference import accuracy, exact_logits
from quant.reproduce import study as shared
from quant.search import redy as redy_search
from quant.search.check import compare_logits
from quant.search.redy import KINDS, LOSSY, Check, Chosen, Settings

MACHINES: dict[str, HardwareConfig] = {"paper": PAPER, "isaac": ISAAC}
STATIC_BITS = (7, 6, 5, 4)
#: (all blocks with 7 planes, zero-slice skipping)
VARIANTS: dict[str, tuple[bool, bool]] = {
    "dense": (True, False),
    "dense, slices of zeros skipped": (True, True),
    "stored planes": (False, False),
    "stored planes, slices of zeros skipped": (False, True),
}
DENSE = "dense"
#: Rows of the component table that are the unit: leading ones, and what decides how many low bits to drop.
UNIT = ("leading_one", "dynamic_precision", "dynamic_precision_decision")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides the choices, besides network, weights and data.

    budgets : largest squared errors of the logits over their mean square; the first is the chosen one. tolerance :
    accuracy (a share) that may be lost on the check's images. rivals : also search with parts of the method.
    sensitivity_images : at most as many of the check's disturb each layer alone.
    """

    budgets: tuple[float, ...] = (0.002, 0.005)
    tolerance: float = 0.01
    check_images: int = 256
    sensitivity_images: int = 64
    rivals: bool = True


@dataclass(frozen=True)
class Plan:
    """One row of activations with dynamic precision: a kind of search with its budget, or lossless skipping."""

    kind: str = "lossless"
    budget: float | None = None

    @property
    def name(self) -> str:
        return self.kind if self.budget is None else f"{self.kind} {self.budget:g}"

    @property
    def corrected(self) -> bool:
        return self.budget is not None and KINDS[self.kind].corrected


def plans(options: Options, *, rivals: bool) -> list[Plan]:
    """What is measured at one machine and group size: lossless, every budget, and the rivals at the first of them."""
    kinds = [kind for kind in KINDS if kind != LOSSY] if rivals else []
    return [
        Plan(),
        *(Plan(LOSSY, budget) for budget in options.budgets),
        *(Plan(kind, options.budgets[0]) for kind in kinds),
    ]


@dataclass(frozen=True, eq=False, kw_only=True)
class Study(shared.Study):
    """Dynamic precision on a network.

    table : energies. event_images, lossless_images : on how many test images events are counted, and lossless skipping
    is compared.
    """

    MODULE: ClassVar[str] = "quant.reproduce.redy_measure"
    FOLDER: ClassVar[str] = "redy"

    options: Options
    table: ComponentTable
    event_images: int = 100
    lossless_images: int = 1000

    def decides(self) -> dict[str, Any]:
        options = {name: getattr(self.options, name) for name in ("tolerance", "check_images", "sensitivity_images")}
        return {**options, "table": stages.fingerprint("table", asdict(self.table), [])}

    @property
    def counted(self) -> np.ndarray:
        """Images whose events are counted."""
        return self.x[: self.event_images]

    @cached_property
    def plain(self) -> Graph:
        return on_machine(self.graph(PAPER), PAPER)

    @cached_property
    def static(self) -> np.ndarray:
        """Logits without dynamic precision, int64 (B, N)."""
        return self.exact("plain", self.plain)

    def events(self, name: str, graph: Callable[[], Graph], variant: str, **key: Any) -> dict[str, Any]:
        """`count` on one of `VARIANTS`. name, key : tell the study's graphs apart."""
        images = self.counted
        return self.kept(
            f"events-{name}-{variant}-{len(images)}",
            lambda: count(graph(), images, variant, self.table, self.threads),
            **key, variant=variant, images=len(images),
        )  # fmt: skip

    @cached_property
    def samples(self) -> dict[str, redy_search.Sample]:
        """Windows of every layer."""
        return redy_search.collect(self.plain, self.parts.calibration, progress=self.told("windows"))


# ---- machines -----------------------------------------------------------------------------------
def variant(graph: Graph, name: str) -> Graph:
    """The same network on one of `VARIANTS`."""
    dense, skipping = VARIANTS[name]
    changed = graph
    if dense:
        needed = max(int(layer.block_widths.max(initial=0)) for layer in graph.layers)
        changed = redy_search.with_planes(graph, max(baseline_planes(graph.hardware), needed))
    return with_settings(changed, skip_zero_slices=skipping)


def count(graph: Graph, images: np.ndarray, name: str, table: ComponentTable, threads: int | None) -> dict[str, Any]:
    """Events and energy per image on one variant of the graph's machine, JSON-able.

    graph : with or without dynamic precision; events are those of the golden model. `products` has every number of
    events that a row of the table was multiplied with, layer by layer (`redy_report.energy_report`).
    """
    machine = variant(graph, name)
    _, events = GraphRunner(machine, threads=threads).run(images)
    unit_events = dynamic_precision_events(machine)
    report = energy(Machine(machine, events, width_table=not VARIANTS[name][0], extra=unit_events), table)
    by_layer = report.by_layer
    total = events.sum(axis=0)
    hardware = machine.hardware
    layers = {}
    for index, stage in enumerate(network_stages(machine)):
        slices = sum(layer.windows * layer.segments(hardware) for layer in stage.layers)
        layers[stage.name] = {
            "streamed": float(total.input_bits_streamed[index]) / len(images) / slices,
            "segments": slices,
            "ou_activations": float(total.ou_activations[index]) / len(images),
            "ad_operations": float(total.ad_operations[index]) / len(images),
            "cycles": float(total.cycles[index]) / len(images),
            "energy_pj": float(by_layer[index]),
        }
    whole = sum(one["segments"] for one in layers.values())
    unit = {c.name: float(p) for c, p in zip(report.table.components, report.picojoules.sum(axis=0), strict=True)}
    return {
        "images": len(images),
        "streamed": sum(one["streamed"] * one["segments"] for one in layers.values()) / whole,
        "ou_activations": sum(one["ou_activations"] for one in layers.values()),
        "conversions": float(total.sum().conversions) / len(images),
        "ad_operations": sum(one["ad_operations"] for one in layers.values()),
        "cycles": sum(one["cycles"] for one in layers.values()) + timing.c_start(hardware),
        "energy_pj": float(by_layer.sum()),
        "unit_pj": sum(unit.get(row, 0.0) for row in UNIT),
        "by_group": report.by_group,
        "layers": layers,
        "products": dict(zip(report.parts, report.counts.tolist(), strict=True)),
    }


def static_bits(study: Study, graph: Graph) -> dict[str, Any]:
    """Every activation with fewer bits, ranges unchanged: the simplest rival (the image keeps its 8)."""
    made = {}
    names = [n.name for n in graph.nodes if isinstance(n, Add | Concat | AveragePool)]
    names += [n.name for n in graph.crossbars if not n.last]
    own = {n.name: n.encoding.bits for n in graph.nodes}
    for bits in STATIC_BITS:
        narrow = with_settings(graph, activation_bits={name: min(bits, own[name]) for name in names})
        made[str(bits)] = {
            "accuracy": accuracy(exact_logits(narrow, study.x), study.y),
            DENSE: count(narrow, study.counted, DENSE, study.table, study.threads),
        }
    return made


# ---- one machine and group size -----------------------------------------------------------------
def applied(graph: Graph, plan: Plan, settings: Mapping[str, Any]) -> Graph:
    """The graph with the settings of a plan, as `Chosen.as_dict` by layer; biases only change if its kind says so."""
    chosen = {layer: Chosen.from_dict(values) for layer, values in settings.items()}
    return redy_search.apply(graph, chosen, correct=plan.corrected)


class _Group:
    """One machine and group size; `measure` gives all its figures.

    first : machine and group size on which the sensitivities of the layers are measured. rivals : also parts of the
    method.
    """

    def __init__(self, study: Study, machine: str, group: int, first: tuple[str, int], rivals: bool) -> None:
        hardware = MACHINES[machine]
        self.study, self.first = study, first
        self.graph = on_machine(study.plain, replace(hardware, group_segments=group))
        self.rows = group * hardware.ou_rows
        self.where = words(machine, group)
        self.file = f"{machine}-{group}"
        self.key = {"machine": machine, "group": group, "first": list(first)}
        self.plans = plans(study.options, rivals=rivals)

    @cached_property
    def scores(self) -> dict[str, redy_search.Scores]:
        return redy_search.score_layers(
            variant(self.graph, DENSE), self.study.samples, table=self.study.table,
            progress=self.study.told(f"{self.where}: scores"),
        )  # fmt: skip

    @cached_property
    def check(self) -> Check:
        parts = self.study.parts
        return Check.of(self.graph, np.array(parts.check_images), parts.check_labels, self.study.threads)

    def sensitivity(self) -> dict[str, float]:
        """Of every layer; measured once, on the first machine and group size."""
        study = self.study
        if self.first != (self.key["machine"], self.key["group"]):
            return _Group(study, *self.first, self.first, False).sensitivity()
        images = min(study.options.sensitivity_images, len(study.parts.check_images))

        def made() -> dict[str, float]:
            lossless, told = redy_search.lossless(self.scores), study.told("sensitivity of layers")
            return self.check.sensitivities(lossless, self.scores, images, told)

        return study.kept(f"sensitivity-{self.file}", made, **self.key)

    def search(self, plan: Plan) -> dict[str, Any]:
        """Settings of every layer, and for a search its price and check; JSON-able."""
        if plan.budget is None:
            return {"settings": {n: s.as_dict() for n, s in redy_search.lossless(self.scores).items()}}
        study, kind = self.study, KINDS[plan.kind]
        check, scores = replace(self.check, correct=kind.corrected), redy_search.allowed(kind, self.scores)

        def measure(settings: Settings) -> Mapping[str, float]:
            study.tell(f"{self.where}: checks of {plan.name}", 0, 0)
            key = {"settings": {n: s.as_dict() for n, s in settings.items()}, "corrected": kind.corrected}
            name = stages.fingerprint("check", key, [])[:16]
            return study.kept(f"check-{self.file}-{name}", lambda: check.measure(settings), **key, **self.key)

        settings, price, made = redy_search.search(
            measure, scores, self.sensitivity(), plan.budget, study.options.tolerance
        )
        return {
            "settings": {name: one.as_dict() for name, one in settings.items()},
            "price": {"price": price, "check": made, "budget": plan.budget},
        }

    def accuracy(self, plan: Plan, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Against the network without dynamic precision, on the arithmetic twin of the machine."""
        study = self.study
        twin = on_machine(self.graph, redy_search.arithmetic_twin(self.graph.hardware))
        changed = applied(twin, plan, settings)
        # Lossless skipping is the same computation, so a part of the images shows what is to be shown.
        some = slice(0, study.lossless_images if plan.budget is None else None)
        told = study.told(f"{self.where}: {plan.name}")
        logits, _ = GraphRunner(changed, threads=study.threads).run(study.x[some], progress=told)
        exact = study.static[some]
        compared = compare_logits(changed, logits, study.plain, exact, study.y[some])
        made = {
            "images": len(logits),
            "accuracy": compared["accuracy"],
            "static_accuracy": compared["exact_accuracy"],
            **{name: compared[name] for name in ("agreement", "logit_error")},
            "equal": bool((logits == exact).all()),
        }
        study.log(f"{self.where}, {plan.name}: {100 * made['accuracy']:.2f} %, logit error {made['logit_error']:.2g}")
        return made

    def measure(self) -> dict[str, Any]:
        """Accuracy of every plan; events on the dense machine, of lossless and of the chosen one on every variant."""
        study = self.study
        measured, settings, prices = {}, {}, {}
        for plan in self.plans:
            key = {**self.key, "kind": plan.kind, "budget": plan.budget}
            name = f"{self.file}-{plan.name}"
            found = study.kept(f"search-{name}", lambda plan=plan: self.search(plan), **key)
            settings[plan.name] = chosen = found["settings"]
            prices |= {plan.name: found["price"]} if "price" in found else {}
            compared = min(study.lossless_images, len(study.x)) if plan.budget is None else len(study.x)
            one = study.kept(
                f"accuracy-{name}-{compared}",
                lambda plan=plan, chosen=chosen: self.accuracy(plan, chosen),
                **key, images=compared,
            )  # fmt: skip
            measured[plan.name] = {"kind": plan.kind, "budget": plan.budget, "corrected": plan.corrected, **one}
            for machine in counted_on(plan, study.options):
                study.tell(f"{self.where}: events of {plan.name}, {machine}", 0, 0)
                measured[plan.name][machine] = study.events(
                    name, lambda plan=plan, chosen=chosen: applied(self.graph, plan, chosen), machine, **key
                )
        return {
            "rows": self.rows,
            "chosen": Plan(LOSSY, study.options.budgets[0]).name,
            "measured": measured,
            "settings": settings,
            "prices": prices,
        }


def words(machine: str, group: int) -> str:
    return f"{machine}, groups of {group * MACHINES[machine].ou_rows} rows"


def counted_on(plan: Plan, options: Options) -> list[str]:
    """Variants on which the events of a plan are counted."""
    return list(VARIANTS) if plan in (Plan(), Plan(LOSSY, options.budgets[0])) else [DENSE]


def _rivals(options: Options, machine: str, groups: Sequence[int], group: int) -> bool:
    return options.rivals and machine == "paper" and group == groups[0]


def titles(options: Options, machines: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Names of everything whose events will be counted, as in `redy_report.counted`."""
    for machine, groups in machines.items():
        yield from (f"{machine}, static, {name}" for name in VARIANTS)
        if options.rivals and machine == "paper":
            yield from (f"{machine}, static {bits} bits, {DENSE}" for bits in STATIC_BITS)
        for group in groups:
            for plan in plans(options, rivals=_rivals(options, machine, groups, group)):
                yield from (f"{words(machine, group)}, {plan.name}, {name}" for name in counted_on(plan, options))


def chosen_graph(study: Study, result: Mapping[str, Any], machine: str, group: str) -> Graph:
    """The network with the registers that a result chose for one of its machines and group sizes."""
    one = result["machines"][machine]["groups"][group]
    here = on_machine(study.plain, replace(MACHINES[machine], group_segments=int(group)))
    return applied(here, Plan(LOSSY, study.options.budgets[0]), one["settings"][one["chosen"]])


# ---- everything ---------------------------------------------------------------------------------
def machine_part(study: Study, machine: str, groups: Sequence[int], first: tuple[str, int]) -> dict[str, Any]:
    """One of `MACHINES`: static activations, fewer static bits, and every group size; JSON-able."""
    base = on_machine(study.plain, MACHINES[machine])
    static = {}
    for name in VARIANTS:
        study.tell(f"{machine}: events, static, {name}", 0, 0)
        static[name] = study.events(f"{machine}-static", lambda: base, name, machine=machine)
    bits = None
    if study.options.rivals and machine == "paper":
        study.tell("paper: static bits", 0, 0)
        bits = study.kept(
            f"static-bits-{machine}-{len(study.x)}",
            lambda: static_bits(study, base),
            images=len(study.x), events=len(study.counted),
        )  # fmt: skip
    made = {
        str(group): _Group(study, machine, group, first, _rivals(study.options, machine, groups, group)).measure()
        for group in groups
    }
    return {"hardware": base.hardware.as_dict(), "groups": made, "static": static, "static_bits": bits}


def measure(study: Study, machines: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Everything that the command prints, JSON-able.

    machines : name of `MACHINES` -> segments per group, the first is the main one.
    """
    main = next(iter(machines))
    first = (main, machines[main][0])
    parts = {name: machine_part(study, name, groups, first) for name, groups in machines.items()}
    return {
        "network": study.name,
        "data": study.dataset.source,
        "images": len(study.x),
        "event_images": len(study.counted),
        "lossless_images": min(study.lossless_images, len(study.x)),
        "calibration_images": len(study.parts.calibration),
        "check_images": len(study.parts.check_images),
        "options": {**asdict(study.options), "budgets": list(study.options.budgets)},
        "table": study.table.name,
        "float_accuracy": study.float_accuracy(),
        "static_accuracy": accuracy(study.static, study.y),
        "machines": parts,
        "sensitivity": _Group(study, *first, first, False).sensitivity(),
        "lossless_equal": all(
            group["measured"]["lossless"]["equal"] for part in parts.values() for group in part["groups"].values()
        ),
    }
