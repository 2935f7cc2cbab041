"""Dynamic activation precision on trained networks: `python -m quant.reproduce_redy` (ReDy; system.md §6, §11, §12).

    python -m quant.reproduce_redy --network resnet20 --weights FILE --data FILE
    python -m quant.reproduce_redy --graph FILE --data FILE

On each machine and for each group size, the same network three times: `static` streams all bits, `lossless` skips
empty high bits of every group, `lossy` also drops low bits, with registers searched per layer (redy_search.py). Events
are counted by the golden model, energy follows from the component table (golden_model.cost). Four machines: dense is
ISAAC-like (7 planes of every block, uniform lossless conversion, nothing skipped), stored has the network's own block
widths; both also with zero-slice skipping.

The search sees training images only, other ones than those of calibration. Choices and every measurement are kept in
the working directory; the same command again goes on where it was interrupted. Exit status 1 if the lossless part
changes any logit.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress as Bar

from golden_model import graph_file, timing
from golden_model.baselines import baseline_planes
from golden_model.components import ComponentTable, load_table
from golden_model.config import ISAAC, PAPER, HardwareConfig
from golden_model.cost import energy
from golden_model.graph import Graph, GraphRunner, with_settings
from golden_model.graph_nodes import Add, AveragePool, Concat
from golden_model.work import dynamic_precision_events, stages
from quant import datasets, networks, pipeline, redy_registers, redy_search
from quant.evaluate import float_logits
from quant.import_network import from_torch
from quant.integer import accuracy
from quant.redy_report import DENSE, RIVALS, VARIANTS, picture, print_registers, tables
from quant.redy_search import TAU_SQ_TOP, Check, Chosen, Settings, on_machine
from quant.reference import centred, exact_logits, logit_error

MACHINES: dict[str, HardwareConfig] = {"paper": PAPER, "isaac": ISAAC}
STATIC_BITS = (7, 6, 5, 4)
#: Rows of the component table that are the unit: leading ones, and what decides how many low bits to drop.
UNIT = ("leading_one", "dynamic_precision", "dynamic_precision_decision")

#: The rival whose biases take up the mean error of rounding.
CORRECTED = "corrected"
assert CORRECTED in RIVALS
#: Source files that decide what is found and measured.
SOURCES = [
    *(pipeline.PACKAGE / f"{name}.py" for name in ("import_network", "redy_search", "reference", "reproduce_redy")),
    *pipeline.golden_sources(),
    pipeline.PACKAGE.parent / "golden_model" / "cost.py",
]

Tell = Callable[[str, int, int], None]
Save = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides the choices, besides network, weights and data.

    budgets : largest squared errors of the logits over their mean square; the first is the chosen one. tolerance :
    accuracy (a share) that may be lost on the check's images.
    """

    budgets: tuple[float, ...] = (0.002, 0.005)
    tolerance: float = 0.01
    check_images: int = 256
    sensitivity_images: int = 64
    rivals: bool = True


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

    graph : with or without dynamic precision; events are those of the golden model.
    """
    machine = variant(graph, name)
    _, events = GraphRunner(machine, threads=threads).run(images)
    unit_events = dynamic_precision_events(machine)
    report = energy(events, machine, table, width_table=not VARIANTS[name][0], extra=unit_events)
    by_layer = report.by_layer
    total = events.sum(axis=0)
    hardware = machine.hardware
    layers = {}
    for index, stage in enumerate(stages(machine)):
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
    }


# ---- choices ------------------------------------------------------------------------------------
def choose(
    check: Check,
    scores: Mapping[str, redy_search.Scores],
    options: Options,
    sensitivity: Mapping[str, float],
    state: dict[str, Any],
    save: Save,
    tell: Tell,
    *,
    rivals: bool,
) -> None:
    """Settings for every budget and rival into `state`, which an interrupted run left or an empty one."""
    searches = {f"lossy {budget:g}": ("both", budget) for budget in options.budgets}
    if rivals:
        searches |= {f"{kind} {options.budgets[0]:g}": (kind, options.budgets[0]) for kind in RIVALS}
    found = state.setdefault("settings", {})
    found["lossless"] = {name: s.as_dict() for name, s in redy_search.lossless(scores).items()}
    for name, (kind, budget) in searches.items():
        if name in found:
            continue
        known = state.setdefault("checks", {}).setdefault(kind, {})

        def saved(name: str = name, known: dict[str, Any] = known) -> None:
            tell(f"checks of {name}", len(known), 0)
            save()

        allowed = scores
        if kind == "statistic":
            allowed = redy_search.restrict(scores, lambda s: s.l_max == max(redy_search.L_MAX))
        elif kind == "fixed":
            allowed = redy_search.restrict(scores, lambda s: s.tau_sq == TAU_SQ_TOP)
        one = replace(check, correct=kind == CORRECTED)
        if kind == CORRECTED:
            allowed = {n: replace(s, output_error=s.corrected_error) for n, s in scores.items()}
        settings, price, measured = redy_search.search(
            one, allowed, sensitivity, budget, options.tolerance, known=known, save=saved
        )
        found[name] = {n: s.as_dict() for n, s in settings.items()}
        state.setdefault("prices", {})[name] = {"price": price, "check": measured, "budget": budget}
        save()


def settings_of(state: Mapping[str, Any], name: str) -> Settings:
    return {layer: Chosen.from_dict(values) for layer, values in state["settings"][name].items()}


def applied(graph: Graph, state: Mapping[str, Any], name: str) -> Graph:
    """The graph with the settings of this name; only the rival "corrected" changes biases, as its check did."""
    return redy_search.apply(graph, settings_of(state, name), correct=name.split()[0] == CORRECTED)


# ---- everything ---------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Images:
    """Test images with labels; on how many of them events are counted, and lossless skipping is compared."""

    x: np.ndarray
    y: np.ndarray
    counted: int
    compared: int


def _state(path: Path, mark: str) -> dict[str, Any]:
    return pipeline.finished(path, mark) or {"fingerprint": mark}


def _exact(graph: Graph, test: Images, work: Path, mark: str, tell: Tell) -> np.ndarray:
    """Logits without dynamic precision, int64 (B, N); kept in the working directory."""
    path = work / f"exact-{len(test.x)}.npz"
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["mark"]) == mark and len(kept["logits"]) == len(test.x):
                return kept["logits"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # not there, or not ours
    logits = exact_logits(graph, test.x, progress=lambda done, all_: tell("integer network", done, all_))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, mark=mark, logits=logits)

    pipeline.write_atomically(path, write)
    return logits


def static_bits(graph: Graph, test: Images, table: ComponentTable, threads: int | None) -> dict[str, Any]:
    """Every activation with fewer bits, ranges unchanged: the simplest rival (the image keeps its 8)."""
    made = {}
    names = [n.name for n in graph.nodes if isinstance(n, Add | Concat | AveragePool)]
    names += [n.name for n in graph.crossbars if not n.last]
    own = {n.name: n.encoding.bits for n in graph.nodes}
    for bits in STATIC_BITS:
        narrow = with_settings(graph, activation_bits={name: min(bits, own[name]) for name in names})
        made[str(bits)] = {
            "accuracy": accuracy(exact_logits(narrow, test.x), test.y),
            DENSE: count(narrow, test.x[: test.counted], DENSE, table, threads),
        }
    return made


def measure_group(
    graph: Graph,
    state: Mapping[str, Any],
    measured: dict[str, Any],
    test: Images,
    exact: np.ndarray,
    options: Options,
    table: ComponentTable,
    threads: int | None,
    save: Save,
    tell: Tell,
    log: Callable[[str], None],
    where: str,
) -> None:
    """Accuracy of every setting of one machine and group size, and events of the chosen one on every variant."""
    chosen = f"lossy {options.budgets[0]:g}"
    twin = on_machine(graph, redy_search.arithmetic_twin(graph.hardware))
    scale = float(graph.output.logit_scale)
    for name in state["settings"]:
        one = measured.setdefault(name, {})
        if "accuracy" not in one:
            changed = applied(twin, state, name)

            def told(done: int, total: int, name: str = name) -> None:
                tell(f"{where}: {name}", done, total)

            # Lossless skipping is the same computation, so a part of the images shows what is to be shown.
            some = slice(0, test.compared if name == "lossless" else None)
            logits, _ = GraphRunner(changed, threads=threads).run(test.x[some], progress=told)
            wanted = centred(exact[some], scale)
            found = centred(logits, float(changed.output.logit_scale))
            one["images"] = len(logits)
            one["accuracy"] = accuracy(logits, test.y[some])
            one["static_accuracy"] = accuracy(exact[some], test.y[some])
            one["agreement"] = float((logits.argmax(axis=1) == exact[some].argmax(axis=1)).mean())
            one["logit_error"] = logit_error(found, wanted)
            one["equal"] = bool((logits == exact[some]).all())
            log(f"{where}, {name}: {100 * one['accuracy']:.2f} %, logit error {one['logit_error']:.2g}")
            save()
        for machine in VARIANTS if name in ("lossless", chosen) else (DENSE,):
            if machine not in one:
                tell(f"{where}: events of {name}, {machine}", 0, 0)
                one[machine] = count(applied(graph, state, name), test.x[: test.counted], machine, table, threads)
                save()


def reproduce(
    graph: Graph,
    dataset: datasets.ImageSet,
    *,
    network: str,
    source: str,
    images: int | None,
    event_images: int,
    lossless_images: int = 1000,
    machines: Mapping[str, Sequence[int]],
    options: Options,
    table: ComponentTable,
    work: Path,
    float_accuracy: float | None = None,
    threads: int | None = None,
    tell: Tell = lambda what, done, total: None,
    log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Everything that the command prints, JSON-able; resumes from and saves into `work`.

    graph : an integer network; its converters become lossless. source : fingerprint of its weights.
    machines : name of `MACHINES` -> segments per group, the first is the main one.
    """
    parts = datasets.apart(dataset, options.check_images)
    x, y = np.array(parts.test_images[:images]), parts.test_labels[:images]
    test = Images(x, y, min(event_images, len(x)), min(lossless_images, len(x)))
    inputs = {"weights": source, "data": dataset.sha256}
    plain = on_machine(graph, PAPER)
    exact = _exact(
        plain,
        test,
        work,
        pipeline.fingerprint("redy exact", {"network": network, "check": options.check_images}, SOURCES, **inputs),
        tell,
    )
    check_x, check_y = np.array(parts.check_images), parts.check_labels
    result: dict[str, Any] = {
        "network": network,
        "data": dataset.source,
        "images": len(test.x),
        "event_images": test.counted,
        "lossless_images": test.compared,
        "calibration_images": len(parts.calibration),
        "check_images": len(check_x),
        "options": {**asdict(options), "budgets": list(options.budgets)},
        "table": table.name,
        "float_accuracy": float_accuracy,
        "static_accuracy": accuracy(exact, test.y),
        "machines": {},
    }
    prices = pipeline.fingerprint("table", asdict(table), [])
    about = {
        "network": network,
        "tolerance": options.tolerance,
        "check": len(check_x),
        "sensitivity": options.sensitivity_images,
        "table": prices,
    }
    shared_path = work / "sensitivity.json"
    shared = _state(shared_path, pipeline.fingerprint("redy sensitivity", about, SOURCES, **inputs))
    samples: dict[str, redy_search.Sample] = {}
    for name, groups in machines.items():
        base = on_machine(graph, MACHINES[name])
        part: dict[str, Any] = {"hardware": base.hardware.as_dict(), "groups": {}}
        static_path = work / f"static-{name}-{len(test.x)}.json"
        static = _state(
            static_path,
            pipeline.fingerprint(
                "redy static",
                {**about, "machine": name, "events": test.counted},
                SOURCES,
                **inputs,
            ),
        )
        for machine in VARIANTS:
            if machine not in static:
                tell(f"{name}: events, static, {machine}", 0, 0)
                static[machine] = count(base, test.x[: test.counted], machine, table, threads)
                pipeline.write_json(static_path, static)
        if "bits" not in static and options.rivals and name == "paper":
            tell("paper: static bits", 0, 0)
            static["bits"] = static_bits(base, test, table, threads)
            pipeline.write_json(static_path, static)
        part["static"] = {machine: static[machine] for machine in VARIANTS}
        part["static_bits"] = static.get("bits")
        for group in groups:
            where = f"{name}, groups of {group * base.hardware.ou_rows} rows"
            hardware = replace(base.hardware, group_segments=group)
            here = on_machine(base, hardware)
            path = work / f"search-{name}-{group}.json"
            mark = pipeline.fingerprint("redy search", {**about, "machine": name, "group": group}, SOURCES, **inputs)
            state = _state(path, mark)
            wanted = {f"lossy {b:g}" for b in options.budgets}
            rivals = options.rivals and group == groups[0] and name == "paper"
            if rivals:
                wanted |= {f"{kind} {options.budgets[0]:g}" for kind in RIVALS}
            if not wanted <= set(state.get("settings", {})):
                if not samples:
                    samples = redy_search.collect(
                        plain, parts.calibration, progress=lambda done, all_: tell("windows", done, all_)
                    )
                dense = variant(here, DENSE)
                scores = redy_search.score_layers(
                    dense, samples, table=table, progress=lambda done, all_, w=where: tell(f"{w}: scores", done, all_)
                )
                check = Check.of(here, check_x, check_y, threads)
                if "sensitivity" not in shared:
                    shared["sensitivity"] = redy_search.sensitivities(
                        check, scores, min(options.sensitivity_images, len(check_x)),
                        lambda done, all_: tell("sensitivity of layers", done, all_),
                    )  # fmt: skip
                    pipeline.write_json(shared_path, shared)
                choose(
                    check, scores, options, shared["sensitivity"], state,
                    lambda path=path, state=state: pipeline.write_json(path, state), tell, rivals=rivals,
                )  # fmt: skip
            state = {**state, "settings": {k: v for k, v in state["settings"].items() if k in wanted | {"lossless"}}}
            measured_path = work / f"measured-{name}-{group}-{len(test.x)}.json"
            measured = _state(
                measured_path,
                pipeline.fingerprint(
                    "redy measured", {"events": test.counted, "compared": test.compared}, SOURCES, mark=mark
                ),
            )
            settings = measured.setdefault("settings", {})
            measure_group(
                here, state, settings, test, exact, options, table, threads,
                lambda path=measured_path, value=measured: pipeline.write_json(path, value), tell, log, where,
            )  # fmt: skip
            main = f"lossy {options.budgets[0]:g}"
            graph_file.save(applied(here, state, main), work / f"graph-{name}-{group}.npz")
            part["groups"][str(group)] = {
                "rows": group * base.hardware.ou_rows,
                "chosen": main,
                "measured": {k: settings[k] for k in state["settings"]},
                "settings": state["settings"],
                "prices": state.get("prices", {}),
            }
        result["machines"][name] = part
    result["sensitivity"] = shared.get("sensitivity")
    result["lossless_equal"] = all(
        group["measured"]["lossless"]["equal"]
        for part in result["machines"].values()
        for group in part["groups"].values()
    )
    return result


# ---- command line -------------------------------------------------------------------------------
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _names(option: str, text: str, allowed: Sequence[str]) -> list[str]:
    parts = [p.strip() for p in text.split(",")]
    for part in parts:
        if part not in allowed:
            raise ValueError(f"{option} must be among {', '.join(allowed)}, got {part!r}")
    return [x for x in allowed if x in parts]


def _numbers(option: str, text: str, kind: type, low: float, high: float) -> list[Any]:
    made = []
    for part in text.split(","):
        try:
            value = kind(part)
        except ValueError:
            raise ValueError(f"{option} must be numbers between commas, got {part.strip()!r}") from None
        if not low <= value <= high:
            raise ValueError(f"{option} must be in {low:g}..{high:g}, got {part.strip()}")
        if value not in made:
            made.append(value)
    return made


@app.command()
@pipeline.reports_errors
def main(
    data_path: Annotated[Path, typer.Option("--data", help="CIFAR-10 batches, idx files, pictures or an .npz file.")],
    network: Annotated[Optional[str], typer.Option(help=f"One of {', '.join(networks.READY)}.")] = None,  # noqa: UP045
    weights: Annotated[Optional[Path], typer.Option(help="State dict, .npz or .safetensors.")] = None,  # noqa: UP045
    graph: Annotated[Optional[Path], typer.Option(help="An integer network instead (golden_model.graph_file).")] = None,  # noqa: UP045
    images: Annotated[Optional[int], typer.Option(min=1, help="Test images; default all.")] = None,  # noqa: UP045
    event_images: Annotated[int, typer.Option(min=1, help="Test images that events are counted on.")] = 100,
    lossless_images: Annotated[
        int, typer.Option(min=1, help="Test images on which lossless skipping must change no logit.")
    ] = 1000,
    machines: Annotated[str, typer.Option(help="paper: operation units of 9 rows; isaac: 128 rows.")] = "paper,isaac",
    groups: Annotated[str, typer.Option(help="Segments per group on paper: 14 is a crossbar's word lines.")] = "14,4,1",
    budgets: Annotated[str, typer.Option(help="Errors of the logits that the check allows, the chosen one first.")] = (
        "0.002,0.005"
    ),
    tolerance: Annotated[float, typer.Option(help="Loss of accuracy (a share) that the check allows.")] = 0.01,
    check_images: Annotated[int, typer.Option(min=1, help="Training images for the check.")] = 256,
    rivals: Annotated[bool, typer.Option(help="Also search with parts of the method, and fewer static bits.")] = True,
    table: Annotated[str, typer.Option(help="Component table of the energy: a name or a file.")] = "isaac-32nm",
    threads: Annotated[Optional[int], typer.Option(min=1, help="Default all cores.")] = None,  # noqa: UP045
    work: Annotated[Optional[Path], typer.Option(help="Default build/redy/NETWORK.")] = None,  # noqa: UP045
    json_file: Annotated[Optional[Path], typer.Option("--json", help="Also write the results here.")] = None,  # noqa: UP045
    registers: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Only search registers of --graph for the machine that skips zeros, and write them here."),
    ] = None,
    confirm_images: Annotated[
        int, typer.Option(min=1, help="Training images that confirm --registers, other ones than those of the check.")
    ] = 2048,
) -> None:
    """Streamed bits, energy and accuracy of dynamic activation precision, beside the paper's figure."""
    if not 0 <= tolerance <= 1:
        raise ValueError(f"--tolerance must be in 0..1, got {tolerance}")
    if (graph is None) == (weights is None):
        raise ValueError("give either --graph FILE, or --network NAME and --weights FILE")
    if graph is None and network is None:
        raise ValueError("--network is needed with --weights")
    if registers is not None and (graph is None or "paper" not in machines):
        raise ValueError("--registers needs --graph, and paper among --machines")
    asked = {m: (1,) if m == "isaac" else () for m in _names("--machines", machines, list(MACHINES))}
    if "paper" in asked:
        asked["paper"] = tuple(_numbers("--groups", groups, int, 1, 65536))
    options = Options(
        budgets=tuple(_numbers("--budgets", budgets, float, 0, 1)), tolerance=tolerance, check_images=check_images,
        sensitivity_images=min(64, check_images), rivals=rivals,
    )  # fmt: skip
    components = load_table(table)
    known = None if graph is not None else networks.ready(str(network))
    loaded = None if graph is None else graph_file.load(graph)
    shape = known.shape if known else loaded.image.shape  # type: ignore[union-attr]
    dataset = datasets.load(data_path, size=shape[1], channels=shape[0])
    name = network or loaded.name  # type: ignore[union-attr]
    if dataset.shape != tuple(shape):
        raise ValueError(f"{data_path}: images are {dataset.shape}, {name} takes {tuple(shape)}")
    if registers is not None:
        assert graph is not None
        assert loaded is not None
        _registers(
            registers, graph, loaded, dataset, groups=asked["paper"], budget=options.budgets[0], tolerance=tolerance,
            check_images=check_images, confirm_images=confirm_images, table=components, threads=threads,
        )  # fmt: skip
        return
    work = work or Path("build/redy") / name
    printed = Console(highlight=False)
    printed = printed if printed.is_terminal else Console(highlight=False, width=150)
    with Bar(console=pipeline.console, disable=not pipeline.console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        top = None
        if loaded is None:
            assert known is not None
            assert weights is not None
            model = known.make(known.classes)
            networks.load_weights(model, weights)
            loaded = from_torch(
                model, dataset.shape, PAPER, dataset.calibration(), normalisation=known.normalisation, name=name
            )
            parts = datasets.apart(dataset, check_images)
            test, labels = np.array(parts.test_images[:images]), parts.test_labels[:images]
            mark = pipeline.fingerprint(
                "redy float",
                {"network": name, "check": check_images},
                [],
                weights=pipeline.file_hash(weights),
                data=dataset.sha256,
            )
            kept = _state(work / f"float-{len(test)}.json", mark)
            if "accuracy" not in kept:
                logits = float_logits(model, test, known.normalisation, lambda d, a: tell("float network", d, a))
                kept["accuracy"] = accuracy(logits, labels)
                pipeline.write_json(work / f"float-{len(test)}.json", kept)
            top = kept["accuracy"]
        result = reproduce(
            loaded, dataset, network=name, source=pipeline.file_hash(graph or weights),  # type: ignore[arg-type]
            images=images, event_images=event_images,
            lossless_images=lossless_images, machines=asked, options=options, table=components, work=work,
            float_accuracy=top, threads=threads, tell=tell, log=pipeline.console.print,
        )  # fmt: skip
    for one in tables(result):
        printed.print(one)
        printed.print()
    pipeline.write_json(work / "result.json", result)
    picture(result, work / "result.png")
    printed.print(f"results: {work / 'result.json'}   picture: {work / 'result.png'}")
    if json_file is not None:
        pipeline.write_json(json_file, result)
    if not result["lossless_equal"]:
        print("error: lossless skipping changed a logit", file=sys.stderr)
        raise typer.Exit(1)


def _registers(path: Path, graph_path: Path, graph: Graph, dataset: datasets.ImageSet, **how: Any) -> None:
    """`--registers`: choose, write, and say what was found."""
    with Bar(console=pipeline.console, disable=not pipeline.console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)
        found = redy_registers.choose(
            graph, dataset, **how,
            tell=lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None),
        )  # fmt: skip
    found = replace(found, about={"command": pipeline.command_line("quant.reproduce_redy"), **found.about})
    redy_registers.write(path, found, graph_path)
    print_registers(found)
    pipeline.console.print(f"registers: {path}")


if __name__ == "__main__":
    app()
