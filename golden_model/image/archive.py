"""An integer graph as one small file: `save`, `load`, and `python -m golden_model.image.archive FILE`.

The file is a compressed archive that NumPy can open too (.npz): `manifest.json` says everything but arrays, and
every array is one `.npy` member of the narrowest integer type that holds it. The same graph and tools make the same
bytes. The manifest holds sizes and sha256 of all arrays and its own sha256; the hardware configuration and its hash;
and every field of every node (graph_nodes.py), layer (program.py) and register set, named as there. A field that
such a class gets later is written and read without a change here; a file that lacks it gets its default.

`load` trusts nothing: types, shapes, finite numbers, the rules of `graph.check_graph`, and that the integers (biases,
multipliers, shifts, borders, zero points) follow from the real numbers beside them (`graph.build`). Only a graph
whose integers never did (`graph.from_network` keeps those of its chain) is stored with `derived` false, and is
checked as it is.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import sys
import types
import typing
import zipfile
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from golden_model.config import HardwareConfig
from golden_model.crossbar.layer import Layer
from golden_model.graph.network import Graph, build, check_graph
from golden_model.graph.nodes import Add, AveragePool, Border, Concat, Crossbar, Image, MaxPool, Node, Reshape
from golden_model.image.image import manifest_hash
from golden_model.trq import lossless

SCHEMA = "ohmloom-graph"
VERSION = 1
MANIFEST = "manifest.json"

#: Name of every node kind in a file.
KINDS: dict[str, type[Node]] = {
    "image": Image,
    "crossbar": Crossbar,
    "max_pool": MaxPool,
    "average_pool": AveragePool,
    "concat": Concat,
    "add": Add,
    "border": Border,
    "reshape": Reshape,
}
#: Fields of earlier versions that files may still have if they say nothing (null).
RETIRED: dict[type, frozenset[str]] = {Layer: frozenset({"class_registers"})}
_NAMES = {kind: name for name, kind in KINDS.items()}
_INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64)
_MANIFEST_BYTES = 64 << 20
#: Bits of the width table per block (system.md §5).
_TABLE_BITS = 4
_PARTS = {"schema", "version", "tool_versions", "name", "classes", "info", "hardware", "hardware_hash", "derived",
          "nodes", "arrays", "manifest_sha256"}  # fmt: skip


class GraphFileError(ValueError):
    """A graph file cannot be used; the message is one sentence."""


# ---- objects <-> plain values and arrays --------------------------------------------------------
def _encode(value: Any, where: str, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON-able data; arrays go to `arrays` under `where` and leave {"array": where}."""
    if is_dataclass(value):
        return {f.name: _encode(getattr(value, f.name), f"{where}.{f.name}", arrays) for f in fields(value)}
    if isinstance(value, np.ndarray):
        arrays[where] = _narrow(value, where)
        return {"array": where}
    if isinstance(value, (list, tuple)):
        return [_encode(x, f"{where}.{index}", arrays) for index, x in enumerate(value)]
    if isinstance(value, dict):
        return {str(key): _encode(x, f"{where}.{key}", arrays) for key, x in value.items()}
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (np.bool_, int, np.integer)):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (float, np.floating)):
        if not isfinite(value):
            raise ValueError(f"{where} must be finite, got {value}")
        return float(value)
    raise TypeError(f"{where} cannot be stored, its type is {type(value).__name__}")


def _narrow(array: np.ndarray, where: str) -> np.ndarray:
    """The array in the narrowest integer type that holds it, or as float64."""
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError(f"{where} must be finite, it holds NaN or infinity")
        return np.ascontiguousarray(array, dtype="<f8")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{where} must hold integers or real numbers, its dtype is {array.dtype}")
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for kind in _INTEGERS:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.ascontiguousarray(array, dtype=np.dtype(kind).newbyteorder("<"))
    raise ValueError(f"{where} must fit 64 bits, got {low}..{high}")


class _Reader:
    """Plain values back to objects, guided by the type hints of the dataclasses. arrays : by name; taken once each."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays

    def read(self, hint: Any, value: Any, where: str) -> Any:
        """`value` as an object of type `hint`; ValueError naming `where` if it is none."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            if value is None and type(None) in arguments:
                return None
            return self.read(next(a for a in arguments if a is not type(None)), value, where)
        if origin is typing.Literal:
            if not any(value == a and type(value) is type(a) for a in arguments):
                raise ValueError(f"{where} must be {' or '.join(map(repr, arguments))}, got {value!r}")
            return value
        if origin is tuple:
            return self._tuple(arguments, value, where)
        if origin is dict and isinstance(value, dict):
            return {key: self.read(arguments[1], x, f"{where}.{key}") for key, x in value.items()}
        if hint is np.ndarray:
            return self._array(value, where)
        if is_dataclass(hint):
            return self.object(hint, value, where)
        right = isinstance(value, (int, float) if hint is float else hint) if isinstance(hint, type) else False
        if not right or (isinstance(value, bool) and hint is not bool):
            raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}")
        return float(value) if hint is float else value

    def object(self, kind: Any, value: Any, where: str) -> Any:
        """A dataclass from the dict of its fields."""
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be an object, got {value!r}")
        hints, known = _hints(kind), {f.name: f for f in fields(kind)}
        retired = {name for name in RETIRED.get(kind, ()) if name in value and value[name] is None}
        value = {name: x for name, x in value.items() if name not in retired}
        if unknown := sorted(set(value) - set(known)):
            raise ValueError(f"{where} has the unknown field {unknown[0]!r}")
        needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
        if missing := [n for n in needed if n not in value]:
            raise ValueError(f"{where}.{missing[0]} is missing")
        made = {name: self.read(hints[name], x, f"{where}.{name}") for name, x in value.items()}
        try:
            return kind(**made)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def _tuple(self, arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list, got {value!r}")
        hints = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(hints) != len(value):
            raise ValueError(f"{where} must have {len(hints)} entries, got {len(value)}")
        return tuple(self.read(h, x, f"{where}.{index}") for index, (h, x) in enumerate(zip(hints, value, strict=True)))

    def _array(self, value: Any, where: str) -> np.ndarray:
        name = value.get("array") if isinstance(value, dict) and len(value) == 1 else None
        if name != where or name not in self.arrays:
            raise ValueError(f"the array {where} is missing")
        array = self.arrays.pop(where)
        if array.dtype.kind == "f":
            if not np.isfinite(array).all():
                raise ValueError(f"{where} must be finite, it holds NaN or infinity")
            return array.astype(np.float64)
        if array.dtype.kind not in "iu":
            raise ValueError(f"{where} must hold integers or real numbers, its dtype is {array.dtype}")
        return array.astype(np.int64)


_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(kind: Any) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind)
    return _HINTS[kind]


def _encode_nodes(nodes: Sequence[Node]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Records of all nodes, and the arrays that they refer to."""
    arrays: dict[str, np.ndarray] = {}
    records = []
    for index, node in enumerate(nodes):
        kind = _NAMES.get(type(node))
        if kind is None:
            raise TypeError(f"node {node.name}: a {type(node).__name__} cannot be stored")
        records.append({"kind": kind, **_encode(node, f"node {index} {node.name}", arrays)})
    return records, arrays


def _difference(stored: Sequence[Node], derived: Sequence[Node]) -> str | None:
    """Name of the first field that differs between two lists of the same nodes, or None."""
    (before, old), (after, new) = _encode_nodes(stored), _encode_nodes(derived)

    def first(a: Any, b: Any, where: str) -> str | None:
        if isinstance(a, dict) and isinstance(b, dict) and set(a) == set(b):
            return next(filter(None, (first(a[key], b[key], f"{where}.{key}") for key in a)), None)
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            return next(filter(None, (first(x, y, f"{where}.{i}") for i, (x, y) in enumerate(zip(a, b)))), None)  # noqa: B905
        return None if a == b else where

    for index, (node, a, b) in enumerate(zip(stored, before, after, strict=True)):
        if different := first(a, b, f"node {index} {node.name}"):
            return different
    return next((name for name, array in old.items() if not np.array_equal(array, new[name])), None)


# ---- write --------------------------------------------------------------------------------------
def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _built(graph: Graph) -> Graph:
    return build(graph.name, graph.hardware, graph.nodes, classes=graph.classes, info=graph.info)


def _is_derived(graph: Graph) -> bool:
    """Whether deriving the integers again changes nothing."""
    try:
        return _difference(graph.nodes, _built(graph).nodes) is None
    except ValueError:
        return False


def to_bytes(graph: Graph) -> bytes:
    """The file's content; the same for the same graph and tool versions. Errors as for `save`."""
    check_graph(graph)
    _check_real_numbers(graph.nodes)
    records, arrays = _encode_nodes(graph.nodes)
    content = {f"{name}.npy": _npy(array) for name, array in arrays.items()}
    try:
        info = json.loads(json.dumps(graph.info, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"graph {graph.name}: its info must be plain finite JSON data ({error})") from None
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "version": VERSION,
        "tool_versions": {"python": platform.python_version(), "numpy": np.__version__},
        "name": graph.name,
        "classes": list(graph.classes),
        "info": info,
        "hardware": graph.hardware.as_dict(),
        "hardware_hash": graph.hardware.hash,
        "derived": _is_derived(graph),
        "nodes": records,
        "arrays": {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in content.items()},
    }
    manifest["manifest_sha256"] = manifest_hash(manifest)
    content = {MANIFEST: (json.dumps(manifest, indent=1) + "\n").encode(), **content}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # the same bytes at any time
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = 3
            archive.writestr(member, data, compresslevel=9)
    return buffer.getvalue()


def save(graph: Graph, path: str | Path) -> None:
    """Write a graph to one file, which appears whole or not at all; an old file is replaced at the end.

    Raises ValueError or TypeError for a graph that is not legal or holds NaN, GraphFileError if the file cannot be
    written.
    """
    path = Path(path)
    data = to_bytes(graph)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        try:
            with open(partial, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise GraphFileError(f"{path}: cannot be written ({error.strerror})") from None


# ---- read ---------------------------------------------------------------------------------------
def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _members(path: Path) -> dict[str, bytes]:
    """All members of the archive, each checked against its own checksum."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise GraphFileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise GraphFileError(f"{path}: cannot be read ({error.strerror})") from None
    if not data.startswith(b"PK\x03\x04"):
        raise GraphFileError(f"{path}: not a graph file")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if MANIFEST not in archive.namelist():
                raise GraphFileError(f"{path}: not a graph file, {MANIFEST} is missing")
            if len({entry.filename for entry in entries}) != len(entries):
                raise GraphFileError(f"{path}: it holds a member twice")
            if archive.getinfo(MANIFEST).file_size > _MANIFEST_BYTES:
                raise GraphFileError(f"{path}: {MANIFEST} must be at most {_MANIFEST_BYTES} bytes")
            members = {MANIFEST: archive.read(MANIFEST)}
            listed = _manifest(path, members[MANIFEST])["arrays"]
            for entry in entries:
                if entry.filename == MANIFEST:
                    continue
                if entry.filename not in listed:
                    raise GraphFileError(f"{path}: {entry.filename} does not belong to the graph")
                if entry.file_size != listed[entry.filename]["bytes"]:
                    raise GraphFileError(
                        f"{path}: {entry.filename} has {entry.file_size} bytes instead of "
                        f"{listed[entry.filename]['bytes']}"
                    )
                members[entry.filename] = archive.read(entry)
                if _sha256(members[entry.filename]) != listed[entry.filename]["sha256"]:
                    raise GraphFileError(f"{path}: {entry.filename} was changed, its sha256 does not match")
            if missing := [name for name in listed if name not in members]:
                raise GraphFileError(f"{path}: {missing[0]} is missing")
            return members
    except GraphFileError:
        raise
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise GraphFileError(f"{path}: truncated or damaged ({error})") from None
    except Exception as error:  # zlib.error, struct.error, ... of a damaged archive
        raise GraphFileError(f"{path}: damaged ({error})") from None


def _manifest(path: Path, data: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise GraphFileError(f"{path}: {MANIFEST} is not valid JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise GraphFileError(f"{path}: schema must be {SCHEMA!r}, got {found!r}")
    if manifest.get("version") != VERSION:
        raise GraphFileError(f"{path}: version must be {VERSION}, got {manifest.get('version')!r}")
    if manifest.get("manifest_sha256") != manifest_hash(manifest):
        raise GraphFileError(f"{path}: its own sha256 does not match, {MANIFEST} was changed after it was written")
    if different := sorted(set(manifest) ^ _PARTS):
        raise GraphFileError(f"{path}: parts of {MANIFEST} differ, {', '.join(different)}")
    listed = manifest["arrays"]
    right = isinstance(listed, dict) and all(
        isinstance(x, dict) and isinstance(x.get("bytes"), int) and isinstance(x.get("sha256"), str)
        for x in listed.values()
    )
    if not right:
        raise GraphFileError(f"{path}: `arrays` must list bytes and sha256 of every array")
    return manifest


def _check_real_numbers(nodes: Sequence[Node]) -> None:
    """What `build` does not say: step and bias are one finite number per output."""
    for node in nodes:
        if isinstance(node, Crossbar):
            outputs = sum(layer.outputs for layer in node.layers)
            for name in ("step", "bias"):
                values = np.asarray(getattr(node, name))
                if values.shape != (outputs,) or values.dtype.kind not in "fiu":
                    raise ValueError(
                        f"node {node.name}: {name} must be {outputs} real numbers, got shape {values.shape}, "
                        f"dtype {values.dtype}"
                    )
                if not np.isfinite(values).all():
                    raise ValueError(f"node {node.name}: {name} must be finite, it holds NaN or infinity")


def _graph(manifest: dict[str, Any], arrays: dict[str, np.ndarray]) -> Graph:
    """The graph of a manifest; ValueError, TypeError, KeyError for contents that do not fit together."""
    hardware = HardwareConfig.from_dict(manifest["hardware"])
    if manifest["hardware_hash"] != hardware.hash:
        raise ValueError("hardware_hash does not match the hardware configuration")
    reader = _Reader(arrays)
    nodes: list[Node] = []
    for index, record in enumerate(manifest["nodes"]):
        where = f"node {index} {record.get('name')}"
        kind = record.pop("kind", None)
        if kind not in KINDS:
            raise ValueError(f"{where}: this version does not know the kind {kind!r}")
        nodes.append(reader.object(KINDS[kind], record, where))
    if arrays:
        raise ValueError(f"{sorted(arrays)[0]} belongs to no node")
    _check_real_numbers(nodes)
    graph = Graph(
        name=reader.read(str, manifest["name"], "name"),
        hardware=hardware,
        nodes=tuple(nodes),
        classes=reader.read(tuple[str, ...], manifest["classes"], "classes"),
        info=dict(manifest["info"]),
    )
    check_graph(graph)
    if reader.read(bool, manifest["derived"], "derived"):
        derived = _built(graph)
        if different := _difference(graph.nodes, derived.nodes):
            raise ValueError(f"{different} does not follow from the real numbers")
        return derived
    return graph


def load(path: str | Path) -> Graph:
    """Read and check a file of `save`.

    Raises GraphFileError with one sentence for a file that is missing, truncated, changed, of another version, with
    unknown nodes or fields, with NaN or wrong shapes, or whose integers do not follow from its real numbers.
    """
    path = Path(path)
    members = _members(path)
    manifest = _manifest(path, members.pop(MANIFEST))
    try:
        arrays = {
            name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
            for name, data in members.items()
        }
        return _graph(manifest, arrays)
    except (ValueError, TypeError) as error:
        raise GraphFileError(f"{path}: {error}") from None
    except (KeyError, AttributeError, IndexError, OverflowError) as error:
        raise GraphFileError(f"{path}: its contents do not fit together ({error})") from None


# ---- what people see ----------------------------------------------------------------------------
def _widths(layer: Layer, hardware: HardwareConfig) -> tuple[np.ndarray, np.ndarray]:
    """(width, weights) of every block, flat; padding of edge blocks left out."""
    rows = np.minimum(hardware.ou_rows, layer.k - np.arange(layer.segments(hardware)) * hardware.ou_rows)
    cols = np.minimum(hardware.ou_cols, layer.outputs - np.arange(layer.block_cols(hardware)) * hardware.ou_cols)
    return layer.block_widths.ravel(), np.outer(rows, cols).ravel()


def _summary(layers: Sequence[Layer], hardware: HardwareConfig) -> dict[str, Any]:
    parts = [_widths(layer, hardware) for layer in layers]
    width, weights = (np.concatenate(x) for x in zip(*parts, strict=True))
    histogram = np.bincount(width, minlength=hardware.weight_bits + 1)
    whole = int(weights.sum())
    magnitude = int(width @ weights)
    with_sign = magnitude + int(weights[width > 0].sum())
    bits = {
        "magnitude": magnitude,
        "with_sign": with_sign,
        "with_sign_and_table": with_sign + _TABLE_BITS * len(width),
    }
    return {
        "weights": whole,
        "bits_per_weight": magnitude / whole,
        # 32 * weights / bits; the sign is one bit for every weight of a block that is not empty
        "compression": {name: 32 * whole / value if value else None for name, value in bits.items()},
        "zero_weights": float(np.mean(np.concatenate([x.weights.ravel() for x in layers]) == 0)),
        "blocks": len(width),
        "block_widths": {str(bits): int(count) for bits, count in enumerate(histogram)},
    }


def describe(graph: Graph) -> dict[str, Any]:
    """What a graph holds, JSON-able: layers, histogram of block widths, magnitude bits per weight, scales."""
    nodes = []
    for node in graph.nodes:
        one: dict[str, Any] = {
            "name": node.name,
            "kind": _NAMES[type(node)],
            "inputs": list(node.inputs),
            "shape": list(node.shape),
            "bits": node.encoding.bits,
            "scale": node.encoding.scale,
            "zero": list(node.encoding.zeros) or node.encoding.zero,
        }
        if isinstance(node, Crossbar):
            first = node.layers[0]
            one |= {
                "layer": first.kind,
                "kernel": [first.kernel_height, first.kernel_width],
                "stride": first.stride,
                "pad": first.pad,
                "pool": first.pool,
                "groups": len(node.layers),
                "windows": first.windows,
                "input_bits": first.input_bits,
                **_summary(node.layers, graph.hardware),
                "weight_step": {"least": float(node.step.min()), "most": float(node.step.max())},
                "registers": _encode(first.registers, "registers", {}),
                "counts_per_lsb": first.counts_per_lsb,
                "lossless": lossless(first.registers, graph.hardware, first.min_count),
                "dynamic": _encode(first.dynamic, "dynamic", {}),
                "skip_zero_slices": first.skip_zero_slices,
            }
        nodes.append(one)
    return {
        "name": graph.name,
        "classes": list(graph.classes),
        "info": graph.info,
        "hardware": graph.hardware.as_dict(),
        "hardware_hash": graph.hardware.hash,
        "integers_follow_from_real_numbers": _is_derived(graph),
        **_summary(graph.layers, graph.hardware),
        "nodes": nodes,
    }


console = Console(width=None if sys.stdout.isatty() else 150)


def _adc(node: dict[str, Any]) -> str:
    registers = node["registers"].items()
    shown = {name: len(value) if isinstance(value, list) else value for name, value in registers if value}
    words = [shown.pop("mode")] + [f"{name}={value}" for name, value in shown.items()]
    if node["counts_per_lsb"] != 1:
        words.append(f"lambda={node['counts_per_lsb']:g}")
    if node["dynamic"] is not None:
        words.append(" ".join(f"{name}={value}" for name, value in node["dynamic"].items()))
    return " ".join(words + ["lossless"] * node["lossless"] + ["skips zero slices"] * node["skip_zero_slices"])


def _print_description(what: dict[str, Any]) -> None:
    hardware = what["hardware"]
    crossbars = [node for node in what["nodes"] if node["kind"] == "crossbar"]
    console.print(
        f"[bold]{what['name']}[/bold]: {len(what['nodes'])} nodes, {len(crossbars)} of them on crossbars; "
        f"{what['weights']:,} weights, {100 * what['zero_weights']:.1f} % of them 0; {len(what['classes'])} class names"
    )
    console.print(
        f"hardware {what['hardware_hash'][:8]}: {hardware['ou_rows']} x {hardware['ou_cols']} OUs, "
        f"{hardware['adc_bits']}-bit ADCs, {hardware['input_bits']} input bits, {hardware['weight_bits']} weight planes"
    )
    console.print(
        f"{what['bits_per_weight']:.3f} magnitude bits per weight; blocks by width: "
        + ", ".join(f"{count} of {bits} bits" for bits, count in what["block_widths"].items() if count)
    )
    console.print(
        "compression against 32-bit weights: "
        + ", ".join(f"{value:.1f}x {name.replace('_', ' ')}" for name, value in what["compression"].items() if value)
    )
    if not what["integers_follow_from_real_numbers"]:
        console.print("integers are as they were given, they do not follow from real numbers")
    table = Table("node", "kind", "from", "output", "bits", "step, zero", "kernel", "weights", "bits/weight", "A/D")
    for node in what["nodes"]:
        words = [node["name"], node["kind"], ", ".join(node["inputs"]), "x".join(map(str, node["shape"]))]
        zero = node["zero"]
        zero = ", ".join(f"{z:.4g}" for z in zero) if isinstance(zero, list) else str(zero)
        words += [str(node["bits"]), f"{node['scale']:.4g}, {zero}"]
        if node["kind"] == "crossbar":
            words[1] = node["layer"] + (f", {node['groups']} groups" if node["groups"] > 1 else "")
            kernel = "x".join(map(str, node["kernel"])) + (f"/{node['stride']}" if node["stride"] > 1 else "")
            words += [kernel, f"{node['weights']:,}", f"{node['bits_per_weight']:.3f}", _adc(node)]
        table.add_row(*words)
    console.print(table)
    for key, value in what["info"].items():
        console.print(f"{key}: {value}", highlight=False, markup=False)


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    file: Annotated[Path, typer.Argument(help="graph file")],
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the description to this file")] = None,
) -> None:
    """Check a graph file and say what it holds: layers, block widths, bits per weight, scales, converters.

    Exit status: 0 it can be used, 2 the file or the call is bad.
    """
    try:
        what = describe(load(file))
        if json_file is not None:
            partial = json_file.with_name(f".{json_file.name}.partial")
            partial.write_text(json.dumps(what, indent=1) + "\n")
            os.replace(partial, json_file)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except OSError as error:
        print(f"error: {json_file}: cannot be written ({error.strerror})", file=sys.stderr)
        raise typer.Exit(2) from None
    _print_description(what)


if __name__ == "__main__":
    app()
