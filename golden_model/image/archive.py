"""Networks and arrays in one small file: graph files (`save`, `load`), and the archive of a deployment image.

The file is a compressed archive that NumPy can open too (.npz): `manifest.json` says everything but arrays, and
every array is one `.npy` member of the narrowest integer type that holds it. The same contents and tools make the
same bytes. The manifest holds sizes and sha256 of all arrays and its own sha256; the hardware configuration and its
hash; and every field of every node (graph/nodes.py), layer (crossbar/layer.py) and register set, named as there. A
field that such a class gets later is written and read without a change here; a file that lacks it gets its default.

Reading trusts nothing. Members are neither encrypted nor compressed in an unusual way; the sizes that the directory,
the manifest, the header of an array and the geometry of its layer state agree before it is unpacked; values have their
types, names can be printed. Then the rules of `check_graph` hold, and the integers (biases, multipliers, shifts,
borders, zero points, min_count) follow from the real numbers beside them (`build`); a graph whose integers do not is
not written either.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import types
import typing
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.files import InputError, write_bytes
from golden_model.graph.check import check_sizes
from golden_model.graph.host import AddConstant, Attention, LayerNorm
from golden_model.graph.network import Graph, build, check_graph
from golden_model.graph.nodes import Add, AveragePool, Border, Concat, Crossbar, Image, MaxPool, Node, Reshape
from golden_model.trq import min_count

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
    "layer_norm": LayerNorm,
    "attention": Attention,
    "add_constant": AddConstant,
}
#: And the name of a kind.
KIND_NAMES = {kind: name for name, kind in KINDS.items()}
_INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64)
#: Parts of a manifest that describe a network.
NETWORK_PARTS = ("name", "classes", "info", "hardware", "hardware_hash", "derived", "nodes")
_CONTAINER_PARTS = ("schema", "version", "tool_versions", "arrays", "manifest_sha256")
#: Fields that once were; files that hold null there can still be read.
_RETIRED = ("class_registers",)
_MANIFEST_BYTES = 64 << 20
#: More than any network of this project needs; what unpacks to more is refused unseen.
_ARRAY_BYTES = 1 << 30
_HEADER_BYTES = 4096
_MEMBERS = 1 << 16
_DEPTH = 64  # of nested lists and objects
_NAME_LENGTH = 1000


# ---- objects <-> plain values and arrays --------------------------------------------------------
def _encode(value: Any, where: str, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON-able data; arrays go to `arrays` under `where` and leave {"array": where}."""
    if is_dataclass(value):
        held = {f.name: getattr(value, f.name) for f in fields(value) if not _left_out(value, f)}
        return {name: _encode(x, f"{where}.{name}", arrays) for name, x in held.items()}
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


def _left_out(value: Any, one: Field) -> bool:
    """Whether a field is not written: one that is "optional", where it is None, as in files from before it."""
    return bool(one.metadata.get("optional")) and getattr(value, one.name) is None


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
    """Plain values back to objects, guided by the type hints of the dataclasses.

    arrays : by name; taken once each. convert : False leaves arrays as they are (stand-ins that hold no values).
    """

    def __init__(self, arrays: dict[str, np.ndarray], *, convert: bool = True) -> None:
        self.arrays = arrays
        self.convert = convert

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
        value = {k: x for k, x in value.items() if k in known or k not in _RETIRED or x is not None}
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
        if array.dtype.kind == "f" and self.convert:
            if not np.isfinite(array).all():
                raise ValueError(f"{where} must be finite, it holds NaN or infinity")
            return array.astype(np.float64)
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{where} must hold integers or real numbers, its dtype is {array.dtype}")
        return array.astype(np.int64) if self.convert else array


_hints = cache(typing.get_type_hints)


def _encode_nodes(nodes: Sequence[Node]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Records of all nodes, and the arrays that they refer to."""
    arrays: dict[str, np.ndarray] = {}
    records = []
    for index, node in enumerate(nodes):
        kind = KIND_NAMES.get(type(node))
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


def _derived(graph: Graph) -> Graph:
    """The same graph with its integers derived again; ValueError if one of them changes."""
    derived = build(graph.name, graph.hardware, graph.nodes, classes=graph.classes, info=graph.info)
    if different := _difference(graph.nodes, derived.nodes):
        raise ValueError(f"{different} does not follow from the real numbers")
    return derived


def network_parts(graph: Graph) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A network as `NETWORK_PARTS` of a manifest, and arrays.

    Raises ValueError or TypeError for a network that is not legal, whose integers do not follow from its real numbers,
    or that holds what cannot be stored.
    """
    check_graph(graph)
    _check_sizes(graph.nodes, graph.hardware)
    records, arrays = _encode_nodes(graph.nodes)
    try:
        info = json.loads(json.dumps(graph.info, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"graph {graph.name}: its info must be plain finite JSON data ({error})") from None
    parts = {
        "name": graph.name,
        "classes": list(graph.classes),
        "info": info,
        "hardware": graph.hardware.as_dict(),
        "hardware_hash": graph.hardware.hash,
        "derived": True,
        "nodes": records,
    }
    _check_plain(parts, f"graph {graph.name}")
    _check_lambda(graph)
    _derived(graph)
    return parts, arrays


def pack(schema: str, version: int, parts: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """An archive's content: a manifest of these parts, and arrays; the same for the same contents and tools."""
    content = {f"{name}.npy": _npy(_narrow(array, name)) for name, array in arrays.items()}
    manifest: dict[str, Any] = {
        "schema": schema,
        "version": version,
        "tool_versions": {"python": platform.python_version(), "numpy": np.__version__},
        **parts,
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


def manifest_hash(manifest: dict[str, Any]) -> str:
    """sha256 of a manifest without its own `manifest_sha256`."""
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def to_bytes(graph: Graph) -> bytes:
    """The content of a graph file; the same for the same graph and tool versions. Errors as for `save`."""
    return pack(SCHEMA, VERSION, *network_parts(graph))


def save(graph: Graph, path: str | Path) -> None:
    """Write a graph to one file, which appears whole or not at all; an old file is replaced at the end.

    Raises ValueError or TypeError for a graph that is not legal or holds NaN, InputError if the file cannot be
    written.
    """
    write_bytes(Path(path), to_bytes(graph))


# ---- read ---------------------------------------------------------------------------------------
def one_sentence(error: BaseException) -> str:
    """What an error says, on one line that a terminal can show."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text[:500])


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("an object has a key twice")
    return made


def _check_plain(value: Any, where: str, depth: int = 0) -> None:
    """ValueError unless JSON data is what any reader can hold, and text is what a terminal can show."""
    if depth > _DEPTH:
        raise ValueError(f"{where} is nested more than {_DEPTH} levels deep")
    if isinstance(value, dict):
        for key, x in value.items():
            _check_text(key, where, "")
            _check_plain(x, where if depth else f"{where}: {key}", depth + 1)
    elif isinstance(value, list):
        for x in value:
            _check_plain(x, where, depth + 1)
    elif isinstance(value, str):
        _check_text(value, where, "\n\t")
    elif isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{where} must hold finite numbers, got {value}")
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{where} must hold integers of at most 64 bits")


def _check_text(text: str, where: str, allowed: str) -> None:
    if not all(c.isprintable() or c in allowed for c in text):
        raise ValueError(f"{where} must hold text without control characters, got {text[:100]!a}")


class Archive:
    """A file of `pack` whose structure has been checked; arrays are unpacked one by one.

    Attributes: `manifest` (dict). Raises ValueError with one sentence for anything that is not as `pack` writes it.

    data : the file. parts : that the manifest must hold besides those of every archive. optional : that it may hold.
    """

    def __init__(
        self, data: bytes, schema: str, version: int, parts: Sequence[str], *, optional: Sequence[str] = ()
    ) -> None:
        if not data.startswith(b"PK\x03\x04"):
            raise ValueError(f"not {_WHAT.get(schema, 'an archive')}")
        with _damage():
            self._zip = zipfile.ZipFile(io.BytesIO(data))
            entries = self._zip.infolist()
        self._entries = {entry.filename: entry for entry in entries}
        if MANIFEST not in self._entries:
            raise ValueError(f"not {_WHAT.get(schema, 'an archive')}, {MANIFEST} is missing")
        if len(self._entries) != len(entries):
            raise ValueError("it holds a member twice")
        if len(entries) > _MEMBERS:
            raise ValueError(f"it must hold at most {_MEMBERS} members, got {len(entries)}")
        for entry in entries:
            if entry.flag_bits & 1:
                raise ValueError(f"{_shown(entry.filename)} is encrypted")
            if (method := entry.compress_type) not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{_shown(entry.filename)} is compressed with method {method}, not 0 or 8 (deflate)")
        self.manifest = self._read_manifest(schema, version, parts, optional)
        self._headers = self._read_headers()

    def _read_manifest(
        self, schema: str, version: int, parts: Sequence[str], optional: Sequence[str]
    ) -> dict[str, Any]:
        if self._entries[MANIFEST].file_size > _MANIFEST_BYTES:
            raise ValueError(f"{MANIFEST} must be at most {_MANIFEST_BYTES} bytes")
        data = self._unpack(MANIFEST)
        try:
            manifest = json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{MANIFEST} is not valid JSON ({one_sentence(error)})") from None
        if not isinstance(manifest, dict) or manifest.get("schema") != schema:
            found = manifest.get("schema") if isinstance(manifest, dict) else None
            raise ValueError(f"schema must be {schema!r}, got {_shown(found)!r}")
        found = manifest.get("version")
        if schema in _AGAIN and type(found) is int and 1 <= found < version:
            raise ValueError(older_version(schema, found, version))
        if found != version or type(found) is not int:
            raise ValueError(f"version must be {version}, got {_shown(found)!r}")
        _check_plain(manifest, MANIFEST)
        if manifest.get("manifest_sha256") != manifest_hash(manifest):
            raise ValueError(f"its own sha256 does not match, {MANIFEST} was changed after it was written")
        held = set(manifest) - set(optional)
        if different := sorted(held ^ {*_CONTAINER_PARTS, *parts}):
            raise ValueError(f"parts of {MANIFEST} differ, {', '.join(different)}")
        listed = manifest["arrays"]
        right = isinstance(listed, dict) and all(
            isinstance(x, dict)
            and set(x) == {"bytes", "sha256"}
            and type(x["bytes"]) is int
            and isinstance(x["sha256"], str)
            for x in listed.values()
        )
        if not right:
            raise ValueError("`arrays` must list bytes and sha256 of every array")
        return manifest

    def _read_headers(self) -> dict[str, tuple[int, np.dtype, tuple[int, ...], str]]:
        """(bytes of the header, dtype, shape, order) of every array, checked against all other statements of size."""
        listed: dict[str, dict[str, Any]] = self.manifest["arrays"]
        headers = {}
        for name, entry in self._entries.items():
            if name == MANIFEST:
                continue
            if name not in listed:
                raise ValueError(f"{_shown(name)} does not belong to the file")
            stated = listed[name]["bytes"]
            if entry.file_size != stated:
                raise ValueError(f"{name} has {entry.file_size} bytes instead of {stated}")
        if missing := [name for name in listed if name not in self._entries]:
            raise ValueError(f"{missing[0]} is missing")
        if (whole := sum(x["bytes"] for x in listed.values())) > _ARRAY_BYTES:
            raise ValueError(f"its arrays must take at most {_ARRAY_BYTES} bytes, got {whole}")
        for name in listed:
            headers[name] = self._header(name)
        return headers

    def _header(self, name: str) -> tuple[int, np.dtype, tuple[int, ...], str]:
        begin = io.BytesIO(self._unpack(name, _HEADER_BYTES))
        try:
            if np.lib.format.read_magic(begin) != (1, 0):
                raise ValueError("another version of the format")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(begin)
        except Exception as error:
            raise ValueError(f"{name} is no array ({one_sentence(error)})") from None
        if dtype.kind not in "iufb":
            raise ValueError(f"{name} must hold numbers, its dtype is {dtype}")
        size, header = self._entries[name].file_size, begin.tell()
        needed = dtype.itemsize
        for length in shape:
            needed *= int(length)
        if any(length < 0 for length in shape) or header + needed != size:
            raise ValueError(f"{name} has {size} bytes, its header states {header + needed}")
        return header, dtype, shape, "F" if fortran else "C"

    def _unpack(self, name: str, most: int | None = None) -> bytes:
        """A member, or its first `most` bytes; never more than its stated size is unpacked."""
        entry = self._entries[name]
        size = entry.file_size if most is None else min(most, entry.file_size)
        with _damage(), self._zip.open(entry) as file:
            parts = []
            while size and (part := file.read(min(size, 1 << 20))):
                parts.append(part)
                size -= len(part)
            if most is None and file.read(1):
                raise ValueError(f"{name} is longer than it states")
        if size:
            raise ValueError(f"{name} is truncated")
        return b"".join(parts)

    def stand_ins(self) -> dict[str, np.ndarray]:
        """Arrays of the right types and shapes by name, without values and without taking memory."""
        return {
            name.removesuffix(".npy"): np.broadcast_to(np.zeros((), dtype), shape)
            for name, (_, dtype, shape, _) in self._headers.items()
        }

    def arrays(self, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray]:
        """The arrays whose name is wanted, unpacked and checked against their sha256."""
        made = {}
        for member, (header, dtype, shape, order) in self._headers.items():
            name = member.removesuffix(".npy")
            if not wanted(name):
                continue
            data = self._unpack(member)
            if _sha256(data) != self.manifest["arrays"][member]["sha256"]:
                raise ValueError(f"{member} was changed, its sha256 does not match")
            made[name] = np.frombuffer(data, dtype, offset=header).reshape(shape, order=order)  # type: ignore[call-overload]
        return made


#: What a file of a schema is called, and how those are made again that older versions have written.
_WHAT = {SCHEMA: "a graph file", "ohmloom-image": "the archive of a deployment image"}
_AGAIN = {"ohmloom-image": "export it again (`python -m quant.export`)"}


def older_version(schema: str, found: int, version: int) -> str:
    """What to say of a file of an older version."""
    return f"its format is version {found}, this one reads {version}: {_AGAIN[schema]}"


@contextmanager
def _damage() -> Iterator[None]:
    """Any error of a damaged archive as ValueError."""
    try:
        yield
    except Exception as error:
        if type(error) is ValueError:
            raise
        raise ValueError(f"truncated or damaged ({one_sentence(error)})") from None


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Any error of what lies at a path as InputError with one sentence that names it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {one_sentence(error)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # the schema is checked before use, so this is a corner that it missed
        text = f"{type(error).__name__}: {one_sentence(error)}"
        raise InputError(f"{path}: its contents do not fit together ({text})") from None


def _shown(value: Any) -> Any:
    """A value of unknown origin for a message."""
    return value if value is None or isinstance(value, (bool, int, float)) else one_sentence(ValueError(value))[:100]


def _check_lambda(graph: Graph) -> None:
    """The record of lambda must give the counts that converters answer to."""
    for layer in graph.layers:
        try:
            follows = np.array_equal(min_count(graph.hardware.adc_bits, layer.counts_per_lsb), layer.min_count)
        except ValueError as error:
            raise ValueError(f"layer {layer.name}: {error}") from None
        if not follows:
            raise ValueError(
                f"layer {layer.name}: min_count does not follow from counts_per_lsb = {layer.counts_per_lsb}"
            )


def _check_sizes(nodes: Sequence[Node], hardware: HardwareConfig) -> None:
    """Sizes in range, and arrays of the shapes that they give; before any array is unpacked or any node is derived."""
    for node in nodes:
        where = f"node {node.name}"
        if not node.name or len(node.name) > _NAME_LENGTH or not node.name.isprintable():
            raise ValueError(f"{where[:100]}: a name must have 1..{_NAME_LENGTH} printable characters")
        size = 1
        for length in node.shape:
            size *= length
        if min(node.shape) < 1 or size >= 1 << 31:
            raise ValueError(f"{where}: its shape must be positive and hold less than 2**31 values, got {node.shape}")
        if isinstance(node, Border):
            if min(*node.stride, 1 + min(node.border), 1 + min(node.channels)) < 1:
                raise ValueError(f"{where}: strides must be at least 1, borders and channels at least 0")
            if node.values.shape != (node.shape[0],):
                raise ValueError(f"{where}: values must have shape {node.shape[:1]}, got {node.values.shape}")
        if isinstance(node, Crossbar):
            if not node.layers:
                raise ValueError(f"{where}: it has no layer")
            for layer in node.layers:
                check_sizes(layer, hardware)
            outputs = sum(layer.outputs for layer in node.layers)
            for name in ("step", "bias"):
                shape = np.shape(getattr(node, name))
                if shape != (outputs,):
                    raise ValueError(f"{where}: {name} must be {outputs} real numbers, got shape {shape}")


def read_network(archive: Archive, others: Sequence[str] = ()) -> Graph:
    """The network of an archive; ValueError, one sentence, for contents that do not fit together.

    others : first parts of the names of arrays that are not the network's.
    """
    manifest = archive.manifest
    mine = lambda name: not name.startswith(tuple(f"{other}." for other in others))  # noqa: E731
    if not isinstance(manifest["hardware"], dict):
        raise ValueError("hardware must be an object")
    hardware = HardwareConfig.from_dict(manifest["hardware"])
    if manifest["hardware_hash"] != hardware.hash:
        raise ValueError("hardware_hash does not match the hardware configuration")
    shapes = {name: array for name, array in archive.stand_ins().items() if mine(name)}
    _check_sizes(list(_nodes(manifest["nodes"], _Reader(shapes, convert=False))), hardware)
    if shapes:
        raise ValueError(f"{sorted(shapes)[0]} belongs to no node")
    reader = _Reader(archive.arrays(mine))
    nodes = tuple(_nodes(manifest["nodes"], reader))
    if not isinstance(manifest["info"], dict):
        raise ValueError("info must be an object")
    graph = Graph(
        name=reader.read(str, manifest["name"], "name"),
        hardware=hardware,
        nodes=nodes,
        classes=reader.read(tuple[str, ...], manifest["classes"], "classes"),
        info=manifest["info"],
    )
    for name in (graph.name, *graph.classes):
        if len(name) > _NAME_LENGTH or not name.isprintable():
            raise ValueError(f"names must have at most {_NAME_LENGTH} printable characters, got {name[:100]!a}")
    check_graph(graph)
    _check_lambda(graph)
    if manifest["derived"] is not True:
        raise ValueError(f"derived must be True, got {_shown(manifest['derived'])!r}")
    return _derived(graph)


def _nodes(records: Any, reader: _Reader) -> Iterator[Node]:
    """Nodes from their records."""
    if not isinstance(records, list):
        raise ValueError("nodes must be a list")
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"node {index} must be an object")
        where = f"node {index} {record.get('name')}"
        kind = record.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(f"{where}: this version does not know the kind {kind!r}")
        yield reader.object(KINDS[kind], {key: x for key, x in record.items() if key != "kind"}, where)


def read_file(path: Path) -> bytes:
    """A whole file; ValueError, one sentence, if it cannot be read or is none."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError("not a file")
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None


def load(path: str | Path) -> Graph:
    """Read and check a file of `save`.

    Raises InputError with one sentence for a file that is missing, truncated, changed, of another version, with
    unknown nodes or fields, with NaN or wrong shapes, or whose integers do not follow from its real numbers.
    """
    path = Path(path)
    with refusing(path):
        return read_network(Archive(read_file(path), SCHEMA, VERSION, NETWORK_PARTS))
