"""One sheet per block as Markdown, from its docstring and its ports (docs/blocks)."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from amaranth.hdl import Shape
from amaranth.lib import data
from amaranth.lib.wiring import In

from golden_model.config import PRESETS
from golden_model.files import write_text
from golden_model.pages import rows_of
from rtl import layouts

#: A module's port: name in the Verilog, "in" or "out", bits, and its shape.
Port = tuple[str, str, int, Any]


def ports(component: Any) -> list[Port]:
    """Ports of the Verilog module of a component, in their order, without `clk` and `rst`."""
    found = []
    for path, member, _ in component.signature.flatten(component):
        shape = member.shape
        direction = "in" if member.flow == In else "out"
        found.append(("__".join(map(str, path)), direction, Shape.cast(shape).width, shape))
    return found


def fields(shape: Any, prefix: str = "", low: int = 0) -> Iterator[tuple[str, int, int, bool]]:
    """The parts of a packed port: (name, lowest bit, bits, signed). Nothing for a plain number."""
    if not isinstance(shape, data.Layout):
        return
    if isinstance(shape, data.ArrayLayout):
        parts = [(f"{prefix}[{i}]", part) for i, part in enumerate(field for _, field in shape)]
    else:
        parts = [(f"{prefix}.{name}" if prefix else str(name), part) for name, part in shape]
    for name, part in parts:
        begin = low + part.offset
        inner = list(fields(part.shape, name, begin))
        if inner:
            yield from inner
        else:
            cast = Shape.cast(part.shape)
            yield name, begin, cast.width, cast.signed


def _of_arrays(parts: list[tuple[str, int, int, bool]]) -> list[tuple[str, int, int, str]]:
    """The same with the elements of an array on one line: (name, lowest bit, bits of all, bits of one)."""
    found: list[tuple[str, int, int, str]] = []
    for name, low, width, signed in parts:
        one = f"{width} signed" if signed else str(width)
        general = re.sub(r"\[\d+\]", "[]", name)
        if found and general == found[-1][0] and one == found[-1][3] and low == found[-1][1] + found[-1][2]:
            found[-1] = (general, found[-1][1], found[-1][2] + width, one)
        else:
            found.append((general, low, width, one))
    return found


def _bits(low: int, width: int) -> str:
    return f"{low + width - 1}:{low}" if width > 1 else str(low)


def _prose(text: str) -> list[str]:
    """A docstring as Markdown: its sections become headings, their entries lists."""
    lines, made, in_section = inspect.cleandoc(text).splitlines(), [], False
    for index, line in enumerate(lines):
        following = lines[index + 1] if index + 1 < len(lines) else ""
        if following and set(following) == {"-"}:
            made.append(f"**{line}**")
            in_section = True
        elif line and set(line) == {"-"}:
            made.append("")
        elif in_section and re.match(r"\S.*? : ", line):
            made.append("- " + line.replace(" : ", ": "))
        elif in_section and line.startswith("    "):
            made.append("  " + line.strip().replace(" : ", ": "))
        else:
            if line and in_section:
                in_section = made[-1:] != [""]
            made.append(line)
    return made


# ---- what is known of a block -------------------------------------------------------------------
#: Sizes that changes are compared with (rtl/synthesis.py), the smaller machine first.
BASELINES = Path(__file__).with_name("baseline")
#: Pages that `make formal`, `make mutate` and `make coverage` write.
DOCS = Path(__file__).parents[1] / "docs"
SIZES = ("tiny", "tiny-pairs", "sky130-paper", "sky130-paper-pairs")


def known() -> dict[str, list[tuple[str, str]]]:
    """(kind, sentence) of everything that is kept about blocks, by block: sizes, proofs, mutants, coverage."""
    found: dict[str, list[tuple[str, str]]] = {}
    for of_block in (_sizes(), _proofs(), _mutants(), _covered()):
        for block, lines in of_block.items():
            found.setdefault(block, []).extend(lines)
    return found


def _sizes() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for name in SIZES:
        report = json.loads((BASELINES / f"{name}.json").read_text("utf-8"))
        for one in report["blocks"]:
            flip_flops = f"{one['flip_flops']:,} flip-flops"
            if report["liberty"] is None:
                line = f"size of `{name}`", f"{one['area']:,.0f} NAND2 gates, {flip_flops}, {one['depth']} gates deep"
            else:
                library, preset = name.split("-", 1)
                delay = f", {one['delay']:.2f} ns between registers" if one["delay"] else ""
                delay += f", {one['period']:.2f} ns with them" if one.get("period") else ""
                line = f"size of `{preset}` in {library}", f"{one['area']:,.0f} µm², {flip_flops}{delay}"
            found.setdefault(one["block"], []).append(line)
    return found


def _proofs() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows_of(DOCS / "formal.md", "proofs"):
        if row["method"].startswith("refuted"):
            continue
        for block in row["block"].replace(" of pairs", "").split(", "):
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", block).lower()
            methods = found.setdefault(name, {}).setdefault(row["property"], [])
            if row["method"] not in methods:
                methods.append(row["method"])
    return {
        block: [("proved", "; ".join(f"{what} ({', '.join(methods)})" for what, methods in proofs.items()))]
        for block, proofs in found.items()
    }


def _mutants() -> dict[str, list[tuple[str, str]]]:
    found = {}
    for row in rows_of(DOCS / "mutants.md", "mutants"):
        tried, equivalent, survivors = (int(row[name] or 0) for name in ("mutants", "equivalent", "survivors"))
        killed = tried - equivalent - survivors
        same = f", {equivalent} proved to make no difference" if equivalent else ""
        found[row["block"]] = [("mutants", f"{tried} tried: {killed} killed{same}, {survivors} survive")]
    return found


def _covered() -> dict[str, list[tuple[str, str]]]:
    return {
        row["block"]: [("exercised by networks", ", ".join(f"{row[kind]} {kind}" for kind in list(row)[1:]))]
        for row in rows_of(DOCS / "coverage.md", "blocks")
    }


def sheet(name: str, component: Any, hardware: str, lines: Collection[tuple[str, str]]) -> str:
    """The sheet of a block.

    hardware : name of the configuration that its widths are of. lines : what is `known` of it.
    """
    made = [f"# {name}", "", *_prose(type(component).__doc__ or ""), ""]
    if lines:
        made += ["**What is known of it**", "", "| | |", "|---|---|"]
        made += [*(f"| {kind} | {sentence.replace('|', chr(92) + '|')} |" for kind, sentence in lines), ""]
    module = type(component).__module__
    made += [f"Source: `{module.replace('.', '/')}.py`. Ports of the Verilog module for `{hardware}`, beside `clk` and"]
    made += ["`rst` (synchronous, active high):", "", "| port | direction | bits |", "|---|---|---|"]
    all_ports = ports(component)
    made += [f"| `{port}` | {direction} | {width} |" for port, direction, width, _ in all_ports]
    tables: dict[tuple[str, ...], list[str]] = {}
    for port, _, _, shape in all_ports:
        if port == "settings":
            made += ["", "Bits of `settings`: [the descriptor of a step](settings.md)."]
        elif rows := _bit_table(shape):
            tables.setdefault(tuple(rows), []).append(f"`{port}`")
    for rows, names in tables.items():
        made += ["", f"Bits of {', '.join(names)}:", *rows]
    return "\n".join(made).rstrip() + "\n"


def _bit_table(shape: Any) -> list[str]:
    """The bits of a packed port; nothing of a plain number."""
    parts = _of_arrays(list(fields(shape)))
    if not parts:
        return []
    rows = [f"| {_bits(low, width)} | `{part}` | {one} |" for part, low, width, one in parts]
    return ["", "| bits | part | bits of one |", "|---|---|---|", *rows]


def sheets(components: Mapping[str, Any], of_pairs: Collection[str]) -> dict[str, str]:
    """Files of docs/blocks: a sheet per block, the descriptor, and an index.

    components : how each is made for a configuration. of_pairs : those that only the pair machine has.
    """
    facts = known()
    made, rows = {"settings.md": _settings()}, []
    for name, make in components.items():
        hardware = "paper-pairs" if name in of_pairs else "paper"
        component = make(PRESETS[hardware])
        made[f"{name}.md"] = sheet(name, component, hardware, facts.get(name, ()))
        first = inspect.cleandoc(type(component).__doc__ or "").splitlines()[0]
        rows.append(f"| [{name}]({name}.md) | {first} |")
    head = [
        "# Blocks",
        "",
        "Made by `make sheets` from the code and from what was found of it: sizes (`make synth`; `tiny` in generic",
        "gates, `paper` in sky130's standard cells), [proofs](../formal.md), [mutants](../mutants.md),",
        "[coverage](../coverage.md).",
        "How blocks work together: [rtl/README.md](../../rtl/README.md).",
        "",
    ]
    made["README.md"] = "\n".join([*head, "| block | does |", "|---|---|", *rows]) + "\n"
    return made


def _settings() -> str:
    """The descriptor of a step, as it stands on the ports called `settings`."""
    made = [
        "# settings",
        "",
        "The descriptor of a step as blocks have it; [REGISTERS.md](../../rtl/REGISTERS.md) says what",
    ]
    made.append("each field means. Words of program memory have the same fields in the same order.")
    for hardware in ("paper", "paper-pairs"):
        made += ["", f"## `{hardware}`", *_bit_table(layouts.layer_settings(PRESETS[hardware]))]
    return "\n".join(made) + "\n"


def write(folder: Path, components: Mapping[str, Any], of_pairs: Collection[str]) -> None:
    """Write all sheets."""
    for name, text in sheets(components, of_pairs).items():
        write_text(folder / name, text)


def stale(folder: Path, components: Mapping[str, Any], of_pairs: Collection[str]) -> list[str]:
    """Sheets that are missing, differ from the code, or are of no block."""
    wanted = sheets(components, of_pairs)
    found = {path.name: path.read_text() for path in folder.glob("*.md")}
    return sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
