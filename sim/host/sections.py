"""What loads a tile as series of writes: by the driver, by a host in C, or by a stream.

A section is an address, a number of words, and the words. They go to the address and those behind it, of a memory, or
all to the address, of a register. A file for a host in C is a head and the sections of an image behind each other,
little-endian words; a picture is a file of sections alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np

from golden_model.config import HardwareConfig
from golden_model.image.program import Program, Tables
from golden_model.registers import (
    DESCRIPTOR_STRIDE,
    IDENTITY,
    REGION,
    REGION_SHIFT,
    REGISTER,
    descriptor_words,
    reference_entry,
)


@dataclass(frozen=True, eq=False)
class Section:
    """`words` (uint32) go to byte address `address` and, of a memory, to those behind it."""

    address: int
    words: np.ndarray

    @property
    def is_register(self) -> bool:
        return self.address >> REGION_SHIFT == 0

    def addresses(self) -> list[int]:
        """Where every word goes."""
        step = 0 if self.is_register else 4
        return [self.address + step * i for i in range(len(self.words))]


def _section(name: str, words: np.ndarray, first: int = 0) -> Section:
    address = REGISTER[name].offset if name in REGISTER else REGION[name].address(first)
    return Section(address, np.asarray(words, dtype=np.int64).astype(np.uint32))


def tables_of(tables: Tables, hardware: HardwareConfig) -> Iterator[Section]:
    """All tables of a program, and its descriptors."""
    yield _section("WIDTHS", tables.widths)
    yield _section("BIAS", tables.bias)
    yield _section("MULTIPLIERS", tables.multipliers)
    yield _section("PADS", tables.pads)
    if len(tables.lookups):
        yield _section("LOOKUPS", tables.lookups.ravel())
    if hardware.early_stop:
        yield _section("STOP_BOUNDS", tables.stop_bounds)
        yield _section("STOP_STARTS", tables.stop_starts)
    if not hardware.pairs:
        for step, levels in enumerate(tables.levels):
            yield _section("REFERENCE", levels, reference_entry(hardware, step))
    used = descriptor_words(hardware)
    for step, words in enumerate(tables.program):
        yield _section("PROGRAM", words[:used], step * DESCRIPTOR_STRIDE)


def cells_of(words: np.ndarray) -> Iterator[Section]:
    """Cells from crossbar pair 0 on; `words` in programming order."""
    yield _section("CELL_PAIR", np.zeros(1))
    yield _section("CELL_DATA", words.ravel())


def cells_checksum(words: np.ndarray, hardware: HardwareConfig) -> int:
    """What CELL_CHECKSUM reads of these cells: all macros hold the same, and are read one after the other."""
    data, checksum = np.ascontiguousarray(words, dtype="<u4").tobytes(), 0
    for _ in range(hardware.macros):
        checksum = zlib.crc32(data, checksum)
    return checksum


def tables_checksum(sections: Iterable[Section]) -> int:
    """What TABLE_CHECKSUM reads after these sections of tables."""
    checksum = 0
    for section in sections:
        pairs = np.column_stack([np.array(section.addresses(), dtype=np.uint32), section.words])
        checksum = zlib.crc32(pairs.astype("<u4").tobytes(), checksum)
    return checksum


def picture_of(image: np.ndarray, base: int, hardware: HardwareConfig) -> Section:
    """Input activations (C, H, W), unsigned, from byte `base` of the activation memory on; the bytes of a word before
    and behind them become 0."""
    flat = np.ascontiguousarray(image, dtype=np.uint8).ravel()
    first, before = divmod(base, 4)
    if base + flat.size > hardware.activation_bytes:
        raise ValueError(f"an input of {flat.size} bytes at byte {base} does not fit {hardware.activation_bytes} bytes")
    padded = np.zeros(-(-(before + flat.size) // 4) * 4, dtype=np.uint8)
    padded[before : before + flat.size] = flat
    return _section("ACTIVATIONS", padded.view("<u4"), first)


def stream_of(sections: Iterable[Section]) -> np.ndarray:
    """Sections behind each other, (words,) uint32; those without words are left out."""
    parts = [
        part
        for section in sections
        if len(section.words)
        for part in (np.array([section.address, len(section.words)], dtype=np.uint32), section.words)
    ]
    return np.concatenate([np.zeros(0, dtype=np.uint32), *parts])


@dataclass(frozen=True)
class Head:
    """First words of an image's file, in this order.

    steps, outputs : of the program. table_checksum : what TABLE_CHECKSUM must read. cell_pairs, cell_checksum : what
    check_cells is given, and what it must find.
    words : of the sections that follow.
    """

    identity: int
    hardware_hash: int
    steps: int
    outputs: int
    table_checksum: int
    cell_pairs: int
    cell_checksum: int
    words: int


def image_file(program: Program) -> bytes:
    """An image's file; ValueError for a program with work of the host, which the files do not hold."""
    if program.host_steps:
        raise ValueError(
            f"step {program.host_steps[0].name} is work of the host, of which the files of an image hold nothing"
        )
    tables, hardware = program.tables, program.hardware
    sections = list(tables_of(tables, hardware))
    words = stream_of([*sections, *cells_of(tables.cell_words)])
    head = Head(
        identity=IDENTITY,
        hardware_hash=hardware.hash_word,
        steps=len(program.steps),
        outputs=program.logits,
        table_checksum=tables_checksum(sections),
        cell_pairs=len(tables.cells),
        cell_checksum=cells_checksum(tables.cell_words, hardware),
        words=len(words),
    )
    values = np.array([getattr(head, field.name) for field in fields(head)], dtype=np.uint32)
    return np.concatenate([values, words]).astype("<u4").tobytes()
