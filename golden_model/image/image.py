"""The deployment image: one directory with everything that hardware and simulation need (system.md §9).

A reader refuses an image that is incomplete, changed, of another version or for other hardware, each
with one sentence and before anything is used. Writing is atomic: the directory appears whole or not at
all, and an old image stays until the new one is complete.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.crossbar import mapping
from golden_model.crossbar.layer import DynamicPrecision, Layer
from golden_model.engines.chain import Runner, check_network
from golden_model.engines.run_network import Progress
from golden_model.events import Events
from golden_model.graph.check import refuse_unsupported
from golden_model.graph.layers import Network
from golden_model.registers import COUNTER_NAMES, DESCRIPTOR_STRIDE, pack_descriptor
from golden_model.trq import AdcRegisters, levels

SCHEMA = "ohmloom-image"
VERSION = 1
MANIFEST = "manifest.json"
HEX_FILES = ("cells.hex", "widths.hex", "bias.hex", "multipliers.hex", "pads.hex", "reference.hex", "program.hex")
FILES = ("tables.npz", "cells.npz", "vectors.npz", *HEX_FILES)

_SCALARS = (
    "name",
    "kind",
    "channels",
    "height",
    "width",
    "kernel_height",
    "kernel_width",
    "stride",
    "pad",
    "pool",
    "outputs",
    "shift",
    "counts_per_lsb",
    "skip_zero_slices",
    "input_bits",
    "output_bits",
    "last",
)
_ARRAYS = ("weights", "bias", "multipliers", "block_widths", "min_count")
_KEYS = {"block_widths": "widths", "pad_values": "pads"}  # attribute of Layer -> name in tables.npz


class ImageError(ValueError):
    """A deployment image cannot be used; the message is one sentence."""


@dataclass(frozen=True, eq=False)
class Tables:
    """Contents of the tile's memories.

    program : (layers, DESCRIPTOR_STRIDE) uint32 descriptor words. widths : (entries,) uint8.
    bias, multipliers : (channels,) int64. pads : (entries,) uint8. levels : (layers, ou_rows + 1) uint8,
    sampled level of every count. cells : bool (pairs, grid_rows, grid_cols, lanes, ou_rows).
    cell_words : (OUs, cell_words) uint32 in programming order. checksum : CRC-32 of the cell words.
    """

    program: np.ndarray
    widths: np.ndarray
    bias: np.ndarray
    multipliers: np.ndarray
    pads: np.ndarray
    levels: np.ndarray
    cells: np.ndarray
    cell_words: np.ndarray
    checksum: int


@dataclass(frozen=True, eq=False)
class Vectors:
    """Test vectors and what the golden model expects of them.

    images : uint8 (B, C, H, W). labels : (B,) int64, -1 if unknown. logits : (B, N) int64.
    events : leading shape (B, layers). cycles : (B,) int64, clocks from start to done.
    """

    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    events: Events
    cycles: np.ndarray


@dataclass(frozen=True, eq=False)
class Image:
    """A deployment image that has been read and checked."""

    network: Network
    placement: mapping.Placement
    tables: Tables
    vectors: Vectors
    manifest: dict[str, Any]


# ---- tables -------------------------------------------------------------------------------------
#: Fields of `AdcRegisters` that the RTL has; the others must hold their defaults.
RTL_REGISTERS = ("mode", "n_r2", "n_r1", "m", "bias")


def check_rtl_registers(layer: Layer) -> None:
    """ValueError unless the RTL has the layer's conversion; searches of ours (system.md §13) it has not yet."""
    if layer.registers.searches:
        bound = "" if layer.registers.column_bound_bits is None else " with a bound"
        raise ValueError(
            f"layer {layer.name}: the RTL has no conversion of mode {layer.registers.mode!r}{bound}, "
            "only 'uniform' and 'twin' without one"
        )


def descriptor(layer: Layer, placed: mapping.LayerPlacement, hardware: HardwareConfig) -> dict[str, int]:
    """Field values of a layer's hardware descriptor (system.md §5a; `registers.descriptor_fields`).

    Raises ValueError for registers that the RTL does not have.
    """
    check_rtl_registers(layer)
    segments, block_cols = layer.segments(hardware), layer.block_cols(hardware)
    dynamic = layer.dynamic or DynamicPrecision()
    return {
        "channels": layer.channels,
        "height": layer.height,
        "width": layer.width,
        "in_plane": layer.height * layer.width,
        "kernel_height": layer.kernel_height,
        "kernel_width": layer.kernel_width,
        "stride": layer.stride,
        "pad": layer.pad,
        "pool": layer.pool,
        "out_height": layer.out_height,
        "out_width": layer.out_width,
        "out_plane": layer.out_height * layer.out_width,
        "outputs": layer.outputs,
        "segments": segments,
        "last_rows": layer.k - (segments - 1) * hardware.ou_rows,
        "block_cols": block_cols,
        "last_cols": layer.outputs - (block_cols - 1) * hardware.ou_cols,
        "crossbar_base": placed.crossbar_base,
        "width_base": placed.width_base,
        "channel_base": placed.channel_base,
        "pad_base": placed.pad_base,
        "pad_enable": int(layer.pad_values is not None),
        "last": int(layer.last),
        "skip_zero_slices": int(layer.skip_zero_slices),
        "dynamic": int(layer.dynamic is not None),
        "stream_bits": layer.input_bits,
        "l_max": dynamic.l_max,
        "tau_sq": dynamic.tau_sq,
        "out_bits": layer.output_bits,
        "shift": layer.shift,
        "adc_mode": int(layer.registers.mode == "twin"),
        "n_r1": layer.registers.n_r1,
        "n_r2": layer.registers.n_r2,
        "m": layer.registers.m,
        "adc_bias": layer.registers.bias,
        "residual": 0,
        "residual_multiplier": 0,
        "average": 0,
        "pool_multiplier": 0,
        "pool_shift": 0,
    }


def build_tables(network: Network, placement: mapping.Placement) -> Tables:
    """Memory contents of the tile for a placed network."""
    hardware, layers = network.hardware, network.layers
    program = np.zeros((len(layers), DESCRIPTOR_STRIDE), dtype=np.uint32)
    cells = mapping.empty_cells(hardware, placement.pairs)
    for index, (layer, placed) in enumerate(zip(layers, placement.layers, strict=True)):
        words = pack_descriptor(hardware, descriptor(layer, placed, hardware))
        program[index, : len(words)] = words
        mapping.program_layer(cells, placed, layer.weights, hardware)
    pads = [np.zeros(0) if layer.pad_values is None else layer.pad_values for layer in layers]
    return Tables(
        program=program,
        widths=np.concatenate([np.ravel(layer.block_widths) for layer in layers]).astype(np.uint8),
        bias=np.concatenate([layer.bias for layer in layers]).astype(np.int64),
        multipliers=np.concatenate([layer.multipliers for layer in layers]).astype(np.int64),
        pads=np.concatenate(pads).astype(np.uint8),
        levels=np.array(
            [levels(hardware.adc_bits, hardware.ou_rows, layer.min_count) for layer in layers], dtype=np.uint8
        ),
        cells=cells,
        cell_words=mapping.cell_words(cells, hardware),
        checksum=mapping.checksum(cells, hardware),
    )


def _hex_lines(values: Any, bits: int) -> bytes:
    digits = -(-bits // 4)
    return "".join(f"{int(v) & ((1 << bits) - 1):0{digits}x}\n" for v in values).encode()


def hex_files(tables: Tables, hardware: HardwareConfig) -> dict[str, bytes]:
    """The tables as $readmemh text, one entry a line: file name -> content.

    cells.hex has one line per OU of a pair, the OU's integer (bit = lane * ou_rows + row).
    """
    data = np.ascontiguousarray(tables.cell_words, dtype="<u4").tobytes()
    size = 4 * hardware.cell_words
    digits = -(-hardware.ou_cells // 4)
    cells = "".join(
        f"{int.from_bytes(data[at : at + size], 'little'):0{digits}x}\n" for at in range(0, len(data), size)
    )
    return {
        "cells.hex": cells.encode(),
        "widths.hex": _hex_lines(tables.widths, 4),
        "bias.hex": _hex_lines(tables.bias, 32),
        "multipliers.hex": _hex_lines(tables.multipliers, 16),
        "pads.hex": _hex_lines(tables.pads, 8),
        "reference.hex": _hex_lines(tables.levels.ravel(), 8),
        "program.hex": _hex_lines(tables.program.ravel(), 32),
    }


# ---- write --------------------------------------------------------------------------------------
def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _layer_record(layer: Layer, placed: mapping.LayerPlacement) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return value.item() if isinstance(value, np.generic) else value

    return {name: plain(getattr(layer, name)) for name in _SCALARS} | {
        "registers": {name: getattr(layer.registers, name) for name in RTL_REGISTERS},
        "dynamic": None if layer.dynamic is None else asdict(layer.dynamic),
        "scales": {key: float(value) for key, value in layer.scales.items()},
        "placement": {
            name: int(getattr(placed, name))
            for name in ("crossbar_base", "pairs", "width_base", "channel_base", "pad_base")
        },
        "shapes": {
            "weights": list(np.shape(layer.weights)),
            "block_widths": list(np.shape(layer.block_widths)),
            "pads": None if layer.pad_values is None else len(layer.pad_values),
            "output": [layer.outputs, layer.out_height, layer.out_width],
        },
    }


def manifest_hash(manifest: dict[str, Any]) -> str:
    """sha256 of a manifest without its own `manifest_sha256`."""
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(
    directory: str | Path,
    network: Network,
    images: Any,
    labels: Any = None,
    *,
    progress: Progress | None = None,
) -> Image:
    """Write a deployment image: placement, tables and expected vectors through the golden model.

    Parameters
    ----------
    directory : created, or replaced if it is an image already (the old one stays until the new one is
        complete).
    images : uint8 (B, C, H, W) test vectors, B may be 0. labels : (B,) integers, None if unknown.
    progress : called with (done, all) while the golden model runs.

    Returns the image as read back. Raises ValueError or TypeError for a network that the hardware cannot
    run or for bad vectors, ImageError if the directory holds something else; nothing is left behind.
    """
    directory = Path(directory)
    for layer in network.layers:
        check_rtl_registers(layer)
    runner = Runner(network)
    images = runner.check_images(images)
    labels = np.full(len(images), -1) if labels is None else np.asarray(labels)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be {len(images)} integers, one per image, got shape {labels.shape}, dtype {labels.dtype}"
        )
    outputs = network.layers[-1].outputs
    if len(labels) and (labels.min() < -1 or labels.max() >= outputs):
        raise ValueError(f"labels must be in -1..{outputs - 1}, got {int(labels.min())}..{int(labels.max())}")
    _check_replaceable(directory)
    tables = build_tables(network, runner.placement)
    logits, events = runner.run(images, progress=progress)

    arrays: dict[str, np.ndarray] = {}
    for index, layer in enumerate(network.layers):
        for name in _ARRAYS:
            arrays[f"layer{index}.{_KEYS.get(name, name)}"] = np.asarray(getattr(layer, name)).astype(np.int64)
        if layer.pad_values is not None:
            arrays[f"layer{index}.pads"] = np.asarray(layer.pad_values).astype(np.int64)
    content: dict[str, bytes] = {
        "tables.npz": _npz(arrays),
        "cells.npz": _npz({"cells": np.packbits(tables.cells), "shape": np.array(tables.cells.shape)}),
        "vectors.npz": _npz(
            {
                "images": images,
                "labels": labels.astype(np.int64),
                "logits": logits,
                "events": events.counts,
                "cycles": runner.cycles(events),
            }
        ),
        **hex_files(tables, network.hardware),
    }
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "version": VERSION,
        "tool_versions": {"python": platform.python_version(), "numpy": np.__version__},
        "name": network.name,
        "classes": list(network.classes),
        "info": network.info,
        "hardware": network.hardware.as_dict(),
        "hardware_hash": network.hardware.hash,
        "counters": list(COUNTER_NAMES),
        "cell_pairs": runner.placement.pairs,
        "cell_checksum": tables.checksum,
        "layers": [
            _layer_record(layer, placed) for layer, placed in zip(network.layers, runner.placement.layers, strict=True)
        ],
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in content.items()
        },
    }
    manifest["manifest_sha256"] = manifest_hash(manifest)
    content[MANIFEST] = (json.dumps(manifest, indent=1) + "\n").encode()
    _replace_directory(directory, content)
    return read(directory, network.hardware)


def _check_replaceable(directory: Path) -> None:
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ImageError(f"{directory}: it exists and is not a directory")
    if directory.is_dir() and any(directory.iterdir()) and not (directory / MANIFEST).is_file():
        raise ImageError(f"{directory}: it is not empty and not a deployment image, so it is not replaced")


def _replace_directory(directory: Path, content: dict[str, bytes]) -> None:
    """Write all files to a temporary sibling, then rename it into place."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}.partial-", dir=directory.parent))
    old: Path | None = None
    try:
        for name, data in content.items():
            with open(made / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        made.chmod(0o755)
        if directory.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{directory.name}.old-", dir=directory.parent))
            directory.rename(old)  # onto an empty directory
        made.rename(directory)
    except BaseException:
        if old is not None and not directory.exists():
            old.rename(directory)
        shutil.rmtree(made, ignore_errors=True)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


# ---- read ---------------------------------------------------------------------------------------
def _read_manifest(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise ImageError(f"{directory}: there is no such directory")
    path = directory / MANIFEST
    if not path.is_file():
        raise ImageError(f"{directory}: not a deployment image, {MANIFEST} is missing")
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, UnicodeDecodeError) as error:
        raise ImageError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise ImageError(f"{path}: schema must be {SCHEMA!r}, got {found!r}")
    if manifest.get("version") != VERSION:
        raise ImageError(f"{path}: version must be {VERSION}, got {manifest.get('version')!r}")
    if manifest.get("manifest_sha256") != manifest_hash(manifest):
        raise ImageError(f"{path}: its own checksum does not match, it was changed after it was written")
    return manifest


def _read_files(directory: Path, manifest: dict[str, Any]) -> dict[str, bytes]:
    listed = manifest.get("files")
    if not isinstance(listed, dict) or set(listed) != set(FILES):
        raise ImageError(f"{directory / MANIFEST}: `files` must list {', '.join(sorted(FILES))}")
    extra = sorted(path.name for path in directory.iterdir() if path.name not in listed and path.name != MANIFEST)
    if extra:
        raise ImageError(f"{directory}: {extra[0]} does not belong to the image")
    content = {}
    for name, entry in listed.items():
        path = directory / name
        if not path.is_file():
            raise ImageError(f"{directory}: {name} is missing")
        size = path.stat().st_size
        if size != entry["bytes"]:
            how = "truncated" if size < entry["bytes"] else "oversized"
            raise ImageError(f"{directory}: {name} is {how}, {size} bytes instead of {entry['bytes']}")
        content[name] = path.read_bytes()
        if hashlib.sha256(content[name]).hexdigest() != entry["sha256"]:
            raise ImageError(f"{directory}: {name} was changed, its sha256 does not match the manifest")
    return content


def _load_npz(directory: Path, name: str, data: bytes) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise ImageError(f"{directory}: {name} cannot be read ({error})") from None


def _check_hardware(directory: Path, manifest: dict[str, Any], expected: HardwareConfig | None) -> HardwareConfig:
    if not isinstance(manifest.get("hardware"), dict):
        raise ImageError(f"{directory}: hardware is missing")
    try:
        hardware = HardwareConfig.from_dict(manifest["hardware"])
    except (TypeError, ValueError) as error:
        raise ImageError(f"{directory}: {error}") from None
    if manifest.get("hardware_hash") != hardware.hash:
        raise ImageError(f"{directory}: hardware_hash does not match the hardware configuration in the manifest")
    if expected is not None and expected != hardware:
        theirs, ours = hardware.as_dict(), expected.as_dict()
        different = ", ".join(
            f"{key} = {theirs[key]} instead of {ours[key]}" for key in ours if theirs[key] != ours[key]
        )
        raise ImageError(f"{directory}: the image is for other hardware, {different}")
    return hardware


def _read_layer(record: dict[str, Any], index: int, arrays: dict[str, np.ndarray]) -> Layer:
    where = f"layer {record.get('name', index)}"
    refuse_unsupported(where, record)
    known = {*_SCALARS, "registers", "dynamic", "scales", "placement", "shapes"}
    if set(record) != known:
        raise ValueError(f"{where}: fields differ, {', '.join(sorted(set(record) ^ known))}")
    tables = {}
    for name in (*_ARRAYS, "pad_values"):
        key = f"layer{index}.{_KEYS.get(name, name)}"
        tables[name] = arrays.pop(key, None)
        if tables[name] is None and name != "pad_values":
            raise ValueError(f"tables.npz: {key} is missing")
    dynamic = record["dynamic"]
    return Layer(
        **{name: record[name] for name in _SCALARS},
        **tables,
        registers=AdcRegisters(**record["registers"]),
        dynamic=None if dynamic is None else DynamicPrecision(**dynamic),
        scales=record["scales"],
    )


def _read_network(manifest: dict[str, Any], hardware: HardwareConfig, arrays: dict[str, np.ndarray]) -> Network:
    layers = tuple(_read_layer(record, index, arrays) for index, record in enumerate(manifest["layers"]))
    if arrays:
        raise ValueError(f"tables.npz: {sorted(arrays)[0]} belongs to no layer")
    return Network(
        name=manifest["name"],
        hardware=hardware,
        layers=layers,
        classes=tuple(manifest["classes"]),
        info=manifest["info"],
    )


def _read_vectors(arrays: dict[str, np.ndarray], runner_shape: Sequence[int], network: Network) -> Vectors:
    layers = network.layers
    batch = len(arrays["images"])
    shapes = {
        "images": (batch, *runner_shape),
        "labels": (batch,),
        "logits": (batch, layers[-1].outputs),
        "events": (batch, len(layers), len(COUNTER_NAMES)),
        "cycles": (batch,),
    }
    if set(arrays) != set(shapes):
        raise ValueError(f"vectors.npz: arrays differ, {', '.join(sorted(set(arrays) ^ set(shapes)))}")
    for name, shape in shapes.items():
        kind = np.uint8 if name == "images" else np.int64
        if arrays[name].shape != shape or arrays[name].dtype != kind:
            raise ValueError(
                f"vectors.npz: {name} must be {np.dtype(kind)} of shape {shape}, "
                f"got {arrays[name].dtype} of shape {arrays[name].shape}"
            )
    return Vectors(arrays["images"], arrays["labels"], arrays["logits"], Events(arrays["events"]), arrays["cycles"])


def read(directory: str | Path, hardware: HardwareConfig | None = None) -> Image:
    """Read and check a deployment image.

    hardware : the configuration it must be for; None accepts any.

    Raises ImageError with one sentence for a missing, extra, truncated, oversized or changed file, a wrong
    schema or version, another hardware configuration, or contents that do not fit together.
    """
    directory = Path(directory)
    manifest = _read_manifest(directory)
    found = _check_hardware(directory, manifest, hardware)
    content = _read_files(directory, manifest)
    arrays = {name: _load_npz(directory, name, content[name]) for name in FILES if name.endswith(".npz")}
    try:
        network = _read_network(manifest, found, arrays["tables.npz"])
        placement = check_network(network)
        first = network.layers[0]
        vectors = _read_vectors(arrays["vectors.npz"], (first.channels, first.height, first.width), network)
        tables = build_tables(network, placement)
        for layer, placed, record in zip(network.layers, placement.layers, manifest["layers"], strict=True):
            if record["placement"] != _layer_record(layer, placed)["placement"]:
                raise ValueError(f"layer {layer.name}: its placement does not follow from its block widths")
        stored = arrays["cells.npz"]
        if tuple(stored["shape"]) != tables.cells.shape or (stored["cells"] != np.packbits(tables.cells)).any():
            raise ValueError("cells.npz does not hold the weights of tables.npz")
        for name, text in hex_files(tables, found).items():
            if content[name] != text:
                raise ValueError(f"{name} does not follow from tables.npz")
        if (manifest["cell_checksum"], manifest["cell_pairs"]) != (tables.checksum, placement.pairs):
            raise ValueError("cell_checksum or cell_pairs does not match the cells")
    except (ValueError, TypeError) as error:
        raise ImageError(f"{directory}: {error}") from None
    except KeyError as error:
        raise ImageError(f"{directory}: {error.args[0]} is missing") from None
    return Image(network, placement, tables, vectors, manifest)
